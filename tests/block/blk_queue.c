/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_queue.c - many threads on few queues, full queues, plugs.
 */
#include <sched.h>

#include "block/uring.h"
#include "blktest.h"

#define BLOCKS_EACH 64
#define ROUNDS (T_TSAN ? 100 : 400)

struct worker {
	struct iomap_bdev *bdev;
	unsigned id;
};

/* Each thread has its blocks to itself, and finds in them what it wrote last. */
static long work(void *arg)
{
	struct worker *w = arg;
	struct t_rand r = { .state = w->id + 1 };
	unsigned char *buf = bt_buffer(BT_PAGE);
	unsigned char last[BLOCKS_EACH] = { 0 };

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t block = t_below(&r, BLOCKS_EACH);
		uint64_t pos = (w->id * BLOCKS_EACH + block) * BT_PAGE;

		t_must(bt_read(w->bdev, pos, buf, BT_PAGE) == 0);
		t_must(t_all(buf, BT_PAGE, last[block]));
		last[block] = (unsigned char)(i * 7 + w->id + 1);
		memset(buf, last[block], BT_PAGE);
		t_must(bt_write(w->bdev, pos, buf, BT_PAGE) == 0);
		if (i % 50 == 0)
			t_must(iomap_bdev_flush(w->bdev) == 0);
	}
	free(buf);
	return 0;
}

static void many_threads(uint32_t queues, uint32_t depth, unsigned threads)
{
	char *path = t_temp((uint64_t)threads * BLOCKS_EACH * BT_PAGE);
	struct t_task task[16];
	struct worker w[16];
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, queues, depth);
	bdev = bt_open(&bt, path, 0);
	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct worker){ bdev, i };
		t_start(&task[i], work, &w[i]);
	}
	for (unsigned i = 0; i < threads; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(bt_stats(bdev).writes_nr, (uint64_t)threads * ROUNDS);
	cr_assert_eq(bt_stats(bdev).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(blk_queue, many_threads_on_one_queue)
{
	many_threads(1, 0, 8);
}

Test(blk_queue, many_threads_on_one_place_in_one_queue)
{
	many_threads(1, 1, 6);
}

Test(blk_queue, many_threads_on_several_queues)
{
	many_threads(3, 4, 8);
}

/* ---- asynchronous ---- */

struct async {
	struct iomap_bdev *bdev;
	struct bt *bt;
	unsigned id;
	bool plug;
};

/* Many bios at once, from a thread that then waits for all; they overtake its queue. */
static long submit_many(void *arg)
{
	enum { BIOS = 200 };
	struct async *a = arg;
	unsigned char *mem = bt_buffer(BIOS * BT_PAGE);
	struct iomap_plug plug;

	for (int round = 0; round < 3; round++) {
		struct bt_latch latch = { .blk = a->bt->engine.blk, .left = BIOS };
		uint32_t op = round == 1 ? IOMAP_REQ_OP_READ : IOMAP_REQ_OP_WRITE;

		if (op == IOMAP_REQ_OP_WRITE)
			t_fill(mem, BIOS * BT_PAGE, 0, a->id);
		else
			memset(mem, 0, BIOS * BT_PAGE);
		if (a->plug)
			iomap_start_plug(&plug);
		for (unsigned i = 0; i < BIOS; i++)
			bt_submit(bt_bio(a->bdev, op, (a->id * BIOS + i) * (uint64_t)BT_PAGE,
					 mem + i * BT_PAGE, BT_PAGE), &latch);
		/* still plugged: waiting sends what is held back */
		bt_latch_wait(&latch);
		if (a->plug)
			iomap_finish_plug(&plug);
		t_must(atomic_load(&latch.first_error) == 0);
		t_must(t_mismatch(mem, BIOS * BT_PAGE, 0, a->id) == -1);
	}
	free(mem);
	return 0;
}

static void many_at_once(uint32_t queues, uint32_t depth, bool plug)
{
	char *path = t_temp(4 * 200 * BT_PAGE);
	struct t_task task[4];
	struct async a[4];
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, queues, depth);
	bdev = bt_open(&bt, path, 0);
	for (unsigned i = 0; i < 4; i++) {
		a[i] = (struct async){ bdev, &bt, i, plug };
		t_start(&task[i], submit_many, &a[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(blk_queue, more_bios_than_a_queue_holds)
{
	many_at_once(1, 2, false);
}

Test(blk_queue, more_bios_than_two_queues_hold_with_plugs)
{
	many_at_once(2, 8, true);
}

Test(blk_queue, a_plug_sends_its_bios_in_one_system_call)
{
	struct iomap_debug_counters before, after;
	unsigned char *mem = bt_buffer(16 * BT_PAGE);
	char *path = t_temp(16 * BT_PAGE);
	struct iomap_plug plug, inner;
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	struct bt bt;

	if (!t_debug())
		cr_skip_test("counted in debug builds");
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 16 };
	before = t_counters();
	iomap_start_plug(&plug);
	iomap_start_plug(&inner);
	for (unsigned i = 0; i < 16; i++)
		bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, i * BT_PAGE, mem + i * BT_PAGE, BT_PAGE),
			  &latch);
	iomap_finish_plug(&inner);
	after = t_counters();
	cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 0U, "nothing has been sent");
	cr_assert_eq(bt_stats(bdev).inflight_nr, 16U, "but all is counted");
	iomap_finish_plug(&plug);
	after = t_counters();
	cr_assert_leq(after.syscalls_nr - before.syscalls_nr, 1U);
	bt_latch_wait(&latch);
	cr_assert_eq(atomic_load(&latch.first_error), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(mem);
	t_temp_free(path);
}

/* The thread that holds back a bio sleeps on an rwsem; its holder waits for the bio. */
static struct iomap_rwsem rwsem;
static struct bt_latch rwsem_latch;
static atomic_bool rwsem_held;

static long hold_rwsem(void *arg)
{
	(void)arg;
	iomap_down_write(&rwsem);
	atomic_store(&rwsem_held, true);
	bt_latch_wait(&rwsem_latch);
	iomap_up_write(&rwsem);
	return 0;
}

Test(blk_queue, a_thread_that_sleeps_on_an_rwsem_sends_its_plug_first)
{
	char *path = t_temp(BT_PAGE);
	void *buf = bt_buffer(BT_PAGE);
	struct iomap_bdev *bdev;
	struct iomap_plug plug;
	struct t_task task;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	iomap__rwsem_init(&rwsem, IOMAP__RANK_INODE, 0);
	rwsem_latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	t_start(&task, hold_rwsem, NULL);
	while (!atomic_load(&rwsem_held))
		sched_yield();
	iomap_start_plug(&plug);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, BT_PAGE), &rwsem_latch);
	iomap_down_write(&rwsem);
	iomap_up_write(&rwsem);
	iomap_finish_plug(&plug);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

Test(blk_queue, polling_completes_what_nobody_waits_for)
{
	char *path = t_temp(BT_PAGE);
	void *buf = bt_buffer(BT_PAGE);
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	struct bt bt;

	bt_start(&bt, 2, 0);
	bdev = bt_open(&bt, path, 0);
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, BT_PAGE), &latch);
	while (iomap__load_acquire(&latch.left))
		iomap__io_poll(bt.engine.blk);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- what a thread holds back ---- */

/* The device may take its time, and the one who is kicked may wait for something else. */
Test(blk_queue, bd04_a_kick_does_not_wait_for_what_a_full_queue_holds_back)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *queue, *before;
	char *path = t_temp(1024 * 1024);
	void *buf = bt_buffer(BT_PAGE);
	struct bt_latch latch = { .left = 1 };
	struct iomap_bdev *bdev;
	struct bt bt;
	unsigned had;

	bt_start(&bt, 1, 1);
	if (strcmp(bt.engine.blk->backend->name, "io_uring") != 0) {
		bt_stop(&bt);
		free(buf);
		t_temp_free(path);
		cr_skip_test("not io_uring");
	}
	latch.blk = bt.engine.blk;
	bdev = bt_open(&bt, path, 0);
	queue = &bt.engine.blk->queues[0];
	before = iomap__hold_begin(self, queue);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, BT_PAGE), &latch);
	cr_assert_eq(self->held, 1U);
	had = *iomap__uring(queue)->ring.cq.ktail;
	bt.engine.blk->backend->kick(queue);
	iomap__hold_end(self, before);
	bt_latch_wait(&latch);
	cr_assert_eq(*iomap__uring(queue)->ring.cq.ktail - had, 2U, "the read, and the kick");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}
