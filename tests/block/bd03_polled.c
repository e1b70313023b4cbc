/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd03_polled.c - POLLED bios: a ring that is its thread's alone, who may use it, how its
 * thread waits, and what becomes of it when the thread, the device or the engine goes.
 *
 * A slow device is a file whose descriptor has been replaced by a pipe: a read of it ends when
 * the test writes to the pipe.  So nothing here depends on time: what must not have ended
 * cannot have, and a test that fails by waiting ends by its time limit.
 */
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "block/uring.h"
#include "blktest.h"

#define POLLED_READ (IOMAP_REQ_OP_READ | IOMAP_REQ_POLLED)
#define POLLED_WRITE (IOMAP_REQ_OP_WRITE | IOMAP_REQ_POLLED)

struct fix {
	struct bt bt;
	struct iomap__blk *blk;
	struct iomap_bdev *bdev;
	char *path;
	uint8_t *buf;
};

#define FIX_BYTES (64U * BT_PAGE)

/* Rings are charged to a small limit on locked memory, and for a while after they were closed. */
static void need_uring(void)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	struct rlimit memlock;
	long fd;

	cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &memlock), 0);
	if (geteuid() != 0 && memlock.rlim_cur < (1U << 20))
		cr_skip_test("too little locked memory to be sure of two rings");
	fd = syscall(SYS_io_uring_setup, 4, &params);
	if (fd < 0)
		cr_skip_test("io_uring does not work here, or is too old for rings of one thread");
	close((int)fd);
	setenv("IOMAP_BACKEND", "io_uring", 1);
}

static void fix_start_on(struct fix *fix, uint32_t queues, uint32_t depth)
{
	memset(fix, 0, sizeof(*fix));
	bt_start(&fix->bt, queues, depth);
	fix->blk = fix->bt.engine.blk;
	fix->path = t_temp(FIX_BYTES);
	fix->bdev = bt_open(&fix->bt, fix->path, 0);
	fix->buf = bt_buffer(FIX_BYTES);
	t_fill(fix->buf, FIX_BYTES, 0, 7);
	cr_assert_eq(bt_write(fix->bdev, 0, fix->buf, FIX_BYTES), 0);
	memset(fix->buf, 0, FIX_BYTES);
}

static void fix_start(struct fix *fix, uint32_t queues, uint32_t depth)
{
	need_uring();
	fix_start_on(fix, queues, depth);
}

static void fix_stop(struct fix *fix)
{
	cr_assert_eq(iomap_bdev_close(fix->bdev), 0);
	bt_stop(&fix->bt);
	t_temp_free(fix->path);
	free(fix->buf);
}

static unsigned owns(struct fix *fix)
{
	return atomic_load(&fix->blk->privates_nr);
}

/* Page @nr is read into its place. */
static void submit_page(struct fix *fix, uint32_t opf, unsigned nr, struct bt_latch *latch)
{
	bt_submit(bt_bio(fix->bdev, opf, nr * BT_PAGE, fix->buf + nr * BT_PAGE, BT_PAGE), latch);
}

static bool page_is_right(struct fix *fix, unsigned nr)
{
	return t_mismatch(fix->buf + nr * BT_PAGE, BT_PAGE, nr * BT_PAGE, 7) < 0;
}

static void all_right(struct fix *fix, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++)
		t_must(page_is_right(fix, i));
}

static int read_polled(struct fix *fix, unsigned nr)
{
	int status = bt_io(fix->bdev, POLLED_READ, nr * BT_PAGE, fix->buf + nr * BT_PAGE, BT_PAGE);

	t_must(status || page_is_right(fix, nr));
	return status;
}

static uint32_t own_inflight(struct fix *fix)
{
	struct iomap__queue *own = iomap__private_mine(fix->blk);

	return own ? atomic_load(&own->inflight) : 0;
}

/* ---- slow devices ---- */

struct slow {
	struct iomap_bdev *bdev;
	char *path;
	int write_end;
	void *buf;
	struct bt_latch latch;
};

static void slow_open(struct fix *fix, struct slow *slow)
{
	int ends[2];

	slow->path = t_temp(BT_PAGE);
	slow->bdev = bt_open(&fix->bt, slow->path, 0);
	slow->bdev->direct = false;
	t_must(pipe(ends) == 0);
	t_must(dup2(ends[0], slow->bdev->fd) == slow->bdev->fd);
	slow->bdev->registered = false; /* rings know the file that was opened */
	close(ends[0]);
	slow->write_end = ends[1];
	slow->buf = bt_buffer(BT_PAGE);
	slow->latch = (struct bt_latch){ .blk = fix->blk, .left = 1 };
}

static void slow_start(struct slow *slow, uint32_t opf)
{
	bt_submit(bt_bio(slow->bdev, opf, 0, slow->buf, BT_PAGE), &slow->latch);
}

static void slow_finish(struct slow *slow)
{
	char page[BT_PAGE];

	memset(page, 0x5a, sizeof(page));
	t_must(write(slow->write_end, page, sizeof(page)) == (ssize_t)sizeof(page));
}

static void slow_close(struct slow *slow)
{
	cr_assert_eq(slow->latch.left, 0U);
	cr_assert_eq(atomic_load(&slow->latch.first_error), 0);
	cr_assert(t_all(slow->buf, BT_PAGE, 0x5a));
	cr_assert_eq(iomap_bdev_close(slow->bdev), 0);
	close(slow->write_end);
	free(slow->buf);
	t_temp_free(slow->path);
}

/* Until @nr threads sleep in the parking lot, in rings. */
static void until_asleep(struct fix *fix, unsigned nr)
{
	struct iomap__blk *blk = fix->blk;
	struct iomap_list_head *item;
	unsigned seen;

	do {
		sched_yield();
		seen = 0;
		iomap__mutex_lock(&blk->park_lock);
		for (item = blk->sleepers.next; item != &blk->sleepers; item = item->next)
			seen += iomap__container_of(item, struct iomap__waiter, sleepers)->state ==
				IOMAP__WAITER_RING;
		iomap__mutex_unlock(&blk->park_lock);
	} while (seen != nr);
}

/* Several are slept for at a time, but not one for another: here the others never end. */
Test(bd03, bd03_a_wait_for_one_does_not_depend_on_the_others)
{
	struct slow slow[12];
	struct fix fix;

	fix_start(&fix, 1, 16);
	for (unsigned i = 0; i < 12; i++) {
		slow_open(&fix, &slow[i]);
		slow_start(&slow[i], POLLED_READ);
	}
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(read_polled(&fix, i), 0);
	cr_assert_eq(own_inflight(&fix), 12U);
	for (unsigned i = 0; i < 12; i++) {
		slow_finish(&slow[i]);
		bt_latch_wait(&slow[i].latch);
		slow_close(&slow[i]);
	}
	fix_stop(&fix);
}

/* ---- whose they are ---- */

static long read_some(void *arg)
{
	struct fix *fix = arg;

	for (unsigned i = 32; i < 40; i++)
		t_must(read_polled(fix, i) == 0);
	return owns(fix);
}

Test(bd03, bd03_a_polled_bio_gives_its_thread_a_ring_of_its_own)
{
	struct t_task task;
	struct fix fix;

	fix_start(&fix, 2, 8);
	cr_assert_eq(owns(&fix), 0U);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(read_polled(&fix, i), 0);
	cr_assert_eq(owns(&fix), 1U);
	cr_assert(iomap__uring(iomap__private_mine(fix.blk))->ring.flags &
		  IORING_SETUP_DEFER_TASKRUN);
	t_start(&task, read_some, &fix);
	cr_assert_eq(t_join(&task), 2);
	cr_assert_eq(owns(&fix), 1U, "a thread that has ended has none");
	/* and the next one may have its place */
	t_start(&task, read_some, &fix);
	cr_assert_eq(t_join(&task), 2);
	cr_assert_eq(fix.bt.log.nr, 0U, "%s", fix.bt.log.line[0].text);
	fix_stop(&fix);
}

Test(bd03, bd03_writes_flushes_and_preflush_by_a_ring_of_the_thread)
{
	uint8_t *page = bt_buffer(BT_PAGE);
	struct fix fix;

	fix_start(&fix, 1, 8);
	t_fill(page, BT_PAGE, 0, 3);
	cr_assert_eq(bt_io(fix.bdev, POLLED_WRITE, 0, page, BT_PAGE), 0);
	cr_assert_eq(bt_io(fix.bdev, POLLED_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, BT_PAGE,
			   page, BT_PAGE),
		     0);
	cr_assert_eq(bt_io(fix.bdev, IOMAP_REQ_OP_FLUSH | IOMAP_REQ_POLLED, 0, NULL, 0), 0);
	cr_assert_eq(owns(&fix), 1U);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(bt_read(fix.bdev, i * BT_PAGE, fix.buf, BT_PAGE), 0);
		cr_assert(t_mismatch(fix.buf, BT_PAGE, 0, 3) < 0);
	}
	cr_assert_eq(bt_io(fix.bdev, POLLED_READ, FIX_BYTES, page, BT_PAGE), -EIO);
	fix_stop(&fix);
	free(page);
}

/* More than there are rings for: the others go by shared queues. */
Test(bd03, bd03_there_are_so_many_rings_of_one_thread_and_no_more)
{
	static struct iomap__thread other[IOMAP__PRIVATES_MAX];
	struct t_task task;
	struct fix fix;

	fix_start(&fix, 2, 8);
	/* as if so many threads had one */
	for (unsigned i = 0; i < IOMAP__PRIVATES_MAX; i++)
		atomic_store(&fix.blk->private_owner[i], &other[i]);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(read_polled(&fix, i), 0);
	cr_assert_eq(owns(&fix), 0U);
	/* one gives its own up */
	atomic_store(&fix.blk->private_owner[5], NULL);
	cr_assert_eq(read_polled(&fix, 9), 0);
	cr_assert_eq(owns(&fix), 1U);
	t_start(&task, read_some, &fix);
	cr_assert_eq(t_join(&task), 1);
	for (unsigned i = 0; i < IOMAP__PRIVATES_MAX; i++)
		if (i != 5)
			atomic_store(&fix.blk->private_owner[i], NULL);
	cr_assert_eq(fix.bt.log.nr, 0U);
	fix_stop(&fix);
}

struct relay {
	struct fix *fix;
	struct bt_latch latch;
	uint32_t opf;
	atomic_uint left; /* bios still to be submitted */
	atomic_bool owns; /* some thread has got a ring */
};

static bool relay_take(struct relay *relay)
{
	unsigned left = atomic_load(&relay->left);

	while (left && !atomic_compare_exchange_weak(&relay->left, &left, left - 1))
		;
	return left;
}

/* Each end submits the next page. */
static void relay_end(struct iomap_bio *bio)
{
	struct relay *relay = bio->bi_private;

	if (owns(relay->fix))
		atomic_store(&relay->owns, true);
	if (bio->bi_status || !relay_take(relay)) {
		bio->bi_private = &relay->latch;
		bt_latch_end(bio);
		return;
	}
	bio->bi_opf = relay->opf;
	iomap_submit_bio(bio);
}

static void relay_start(struct relay *relay, struct fix *fix, uint32_t first, uint32_t opf,
			unsigned bios, unsigned each)
{
	memset(relay, 0, sizeof(*relay));
	relay->fix = fix;
	relay->latch = (struct bt_latch){ .blk = fix->blk, .left = bios };
	relay->opf = opf;
	atomic_store(&relay->left, bios * each);
	for (unsigned i = 0; i < bios; i++) {
		struct iomap_bio *bio = bt_bio(fix->bdev, first, i * BT_PAGE,
					       fix->buf + i * BT_PAGE, BT_PAGE);

		bio->bi_private = relay;
		bio->bi_end_io = relay_end;
		iomap_submit_bio(bio);
	}
}

Test(bd03, bd03_an_end_that_may_run_anywhere_gives_no_thread_a_ring)
{
	struct relay relay;
	struct fix fix;

	fix_start(&fix, 1, 8);
	relay_start(&relay, &fix, IOMAP_REQ_OP_READ, POLLED_READ, 4, 8);
	bt_latch_wait(&relay.latch);
	cr_assert_eq(atomic_load(&relay.latch.first_error), 0);
	cr_assert_not(atomic_load(&relay.owns));
	/* nor does it use the one that the thread happens to have */
	cr_assert_eq(read_polled(&fix, 9), 0);
	relay_start(&relay, &fix, IOMAP_REQ_OP_READ, POLLED_READ, 1, 1);
	while (atomic_load(&relay.left))
		iomap__io_poll(fix.blk);
	cr_assert_eq(own_inflight(&fix), 0U);
	bt_latch_wait(&relay.latch);
	fix_stop(&fix);
}

Test(bd03, bd03_an_end_of_the_ring_goes_on_in_the_ring)
{
	struct relay relay;
	struct fix fix;

	fix_start(&fix, 1, 8);
	relay_start(&relay, &fix, POLLED_READ, POLLED_READ, 4, 32);
	cr_assert_eq(own_inflight(&fix), 4U);
	cr_assert_eq(atomic_load(&fix.blk->queues[0].inflight), 0U);
	bt_latch_wait(&relay.latch);
	cr_assert_eq(atomic_load(&relay.latch.first_error), 0);
	all_right(&fix, 0, 4);
	fix_stop(&fix);
}

Test(bd03, bd03_a_bio_through_another_device_goes_by_the_shared_queue)
{
	const struct iomap_fault tear = { .size = sizeof(tear), .kind = IOMAP_FAULT_TEAR };
	struct iomap_bdev *faulty, *writelog;
	struct fix fix;

	fix_start(&fix, 1, 8);
	cr_assert_eq(iomap_faulty_create(fix.bdev, NULL, &faulty), 0);
	cr_assert_eq(iomap_writelog_create(fix.bdev, NULL, &writelog), 0);
	cr_assert_eq(bt_io(faulty, POLLED_READ, 0, fix.buf, BT_PAGE), 0);
	cr_assert_eq(iomap_faulty_add(faulty, &tear, NULL), 0);
	(void)bt_io(faulty, POLLED_WRITE, 0, fix.buf, 4 * BT_PAGE);
	cr_assert_eq(bt_io(writelog, POLLED_READ, 0, fix.buf, BT_PAGE), 0);
	cr_assert_eq(bt_io(writelog, POLLED_WRITE, 0, fix.buf, BT_PAGE), 0);
	cr_assert_eq(owns(&fix), 0U);
	cr_assert_eq(iomap_bdev_close(writelog), 0);
	cr_assert_eq(iomap_bdev_close(faulty), 0);
	fix_stop(&fix);
}

Test(bd03, bd03_the_parts_of_a_bio_go_by_the_shared_queue)
{
	struct fix fix;

	fix_start(&fix, 1, 8);
	fix.bdev->limits.max_transfer_bytes = fix.bdev->plain_bytes_max = 2 * BT_PAGE;
	cr_assert_eq(bt_io(fix.bdev, POLLED_READ, 0, fix.buf, 8 * BT_PAGE), 0);
	cr_assert_eq(bt_io(fix.bdev, POLLED_WRITE | IOMAP_REQ_PREFLUSH, 0, fix.buf, 8 * BT_PAGE), 0);
	cr_assert_eq(owns(&fix), 0U);
	all_right(&fix, 0, 8);
	fix_stop(&fix);
}

Test(bd03, bd03_polled_bios_on_every_backend)
{
	static const char *const backend[] = { "io_uring", "libaio", "threads" };

	need_uring();
	for (unsigned b = 0; b < iomap__array_len(backend); b++) {
		struct relay relay;
		struct fix fix;

		setenv("IOMAP_BACKEND", backend[b], 1);
		fix_start_on(&fix, 2, 4);
		relay_start(&relay, &fix, POLLED_READ, POLLED_READ, 32, 4);
		cr_assert_eq(read_polled(&fix, 40), 0);
		bt_latch_wait(&relay.latch);
		cr_assert_eq(atomic_load(&relay.latch.first_error), 0);
		all_right(&fix, 0, 32);
		cr_assert_eq(owns(&fix), b == 0 ? 1U : 0U);
		fix_stop(&fix);
	}
}

/* ---- waiting ---- */

Test(bd03, bd03_more_polled_bios_than_the_ring_is_deep)
{
	struct bt_latch latch;
	struct fix fix;

	fix_start(&fix, 1, 4);
	latch = (struct bt_latch){ .blk = fix.blk, .left = 32 };
	for (unsigned i = 0; i < 32; i++)
		submit_page(&fix, POLLED_READ, i, &latch);
	cr_assert_eq(read_polled(&fix, 40), 0);
	cr_assert_eq(bt_io(fix.bdev, POLLED_READ | IOMAP_REQ_NOWAIT, 0, fix.buf, BT_PAGE),
		     own_inflight(&fix) >= 4 ? -EAGAIN : 0);
	bt_latch_wait(&latch);
	cr_assert_eq(atomic_load(&latch.first_error), 0);
	all_right(&fix, 0, 32);
	fix_stop(&fix);
}

/* Completions of both kinds of queue end the wait; which come first is the disk's affair. */
static void mixed(struct fix *fix, unsigned rounds)
{
	for (unsigned r = 0; r < rounds; r++) {
		struct bt_latch latch = { .blk = fix->blk, .left = 32 };

		memset(fix->buf, 0, 32 * BT_PAGE);
		for (unsigned i = 0; i < 32; i++)
			submit_page(fix, (i + r) & 1 ? POLLED_READ : IOMAP_REQ_OP_READ, i, &latch);
		if (r & 2)
			t_must(read_polled(fix, 40) == 0);
		bt_latch_wait(&latch);
		t_must(atomic_load(&latch.first_error) == 0);
		all_right(fix, 0, 32);
	}
}

Test(bd03, bd03_a_wait_for_both_kinds_of_queue)
{
	struct fix fix;

	fix_start(&fix, 2, 16);
	mixed(&fix, 50);
	cr_assert_eq(owns(&fix), 1U);
	fix_stop(&fix);
}

static long wait_for_slow(void *arg)
{
	struct slow *slow = arg;

	slow_start(&slow[0], POLLED_READ);
	slow_start(&slow[1], IOMAP_REQ_OP_READ);
	bt_latch_wait(&slow[0].latch);
	bt_latch_wait(&slow[1].latch);
	return 0;
}

/* Asleep for good, it is woken by either: by its ring as well as by the shared one. */
static void woken_by(unsigned first)
{
	struct slow slow[2];
	struct t_task task;
	struct fix fix;

	fix_start(&fix, 1, 8);
	slow_open(&fix, &slow[0]);
	slow_open(&fix, &slow[1]);
	t_start(&task, wait_for_slow, slow);
	until_asleep(&fix, 1);
	slow_finish(&slow[first]);
	/* collected by nobody but the sleeper */
	while (iomap__load_acquire(&slow[first].latch.left))
		sched_yield();
	slow_finish(&slow[!first]);
	t_join(&task);
	slow_close(&slow[0]);
	slow_close(&slow[1]);
	fix_stop(&fix);
}

Test(bd03, bd03_a_sleeper_is_woken_by_its_own_ring)
{
	woken_by(0);
}

Test(bd03, bd03_a_sleeper_with_polled_bios_is_woken_by_a_shared_ring)
{
	woken_by(1);
}

struct word_wait {
	struct slow *slow;
	uint32_t word;
};

static long wait_for_word(void *arg)
{
	struct word_wait *wait = arg;

	slow_start(wait->slow, POLLED_READ);
	while (!iomap__load_acquire(&wait->word))
		iomap__io_wait(wait->slow->latch.blk, &wait->word, 0);
	t_must(iomap__load(&wait->slow->latch.left) == 1);
	return 0;
}

Test(bd03, bd03_a_sleeper_with_polled_bios_is_woken_by_its_word)
{
	struct word_wait wait = { .word = 0 };
	struct slow slow;
	struct t_task task;
	struct fix fix;

	fix_start(&fix, 1, 8);
	slow_open(&fix, &slow);
	wait.slow = &slow;
	t_start(&task, wait_for_word, &wait);
	until_asleep(&fix, 1);
	iomap__store_release(&wait.word, 1);
	iomap__io_wake(fix.blk, &wait.word);
	/* the thread ends, and does so with its read */
	slow_finish(&slow);
	t_join(&task);
	slow_close(&slow);
	fix_stop(&fix);
}

Test(bd03, bd03_a_wait_with_a_deadline_collects_polled_bios)
{
	struct slow slow;
	struct fix fix;

	fix_start(&fix, 1, 8);
	slow_open(&fix, &slow);
	slow_start(&slow, POLLED_READ);
	cr_assert_not(iomap__io_wait_timeout(fix.blk, &slow.latch.left, 1, 1000000));
	slow_finish(&slow);
	while (iomap__load_acquire(&slow.latch.left))
		iomap__io_wait_timeout(fix.blk, &slow.latch.left, 1, 60000000000U);
	slow_close(&slow);
	fix_stop(&fix);
}

static bool no_eventfds(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind == IOMAP_FAIL_EVENTFD;
}

Test(bd03, bd03_a_wait_without_a_descriptor_to_be_told_by)
{
	struct fix fix;

	fix_start(&fix, 1, 16);
	fix.bt.engine.env.fail_nth = no_eventfds;
	mixed(&fix, 8);
	fix_stop(&fix);
}

Test(bd02, bd02_a_ring_that_may_tell_no_descriptor)
{
	struct fix fix;

	fix_start(&fix, 1, 16);
	t_deny(SYS_io_uring_register, EPERM);
	mixed(&fix, 8);
	cr_assert_eq(owns(&fix), 1U);
	fix_stop(&fix);
}

static long foreign_polls(void *arg)
{
	struct fix *fix = arg;

	for (unsigned i = 0; i < 1000; i++)
		t_must(iomap__io_poll(fix->blk) == 0);
	t_must(!iomap__io_polled(fix->blk));
	return 0;
}

Test(bd03, bd03_only_its_thread_collects_a_polled_bio)
{
	struct t_task task;
	struct slow slow;
	struct fix fix;

	fix_start(&fix, 2, 8);
	slow_open(&fix, &slow);
	slow_start(&slow, POLLED_READ);
	slow_finish(&slow);
	t_start(&task, foreign_polls, &fix);
	t_join(&task);
	cr_assert_eq(slow.latch.left, 1U);
	cr_assert(iomap__io_polled(fix.blk));
	cr_assert_eq(iomap_bdev_close(slow.bdev), -EBUSY);
	while (iomap__load(&slow.latch.left))
		iomap__io_poll(fix.blk);
	cr_assert_not(iomap__io_polled(fix.blk));
	slow_close(&slow);
	fix_stop(&fix);
}

/* ---- one system call for each turn ---- */

static void once_more_end(struct iomap_bio *bio)
{
	struct slow *slow = bio->bi_private;

	t_must(!bio->bi_status);
	bio->bi_private = &slow->latch;
	bio->bi_end_io = bt_latch_end;
	iomap_submit_bio(bio);
}

/*
 * Both reads end in the call that sends them, since the pipes are full.  The one that is
 * submitted by an end then waits for the next wait, or the end of the plug.
 */
Test(bd03, bd03_an_end_under_a_plug_waits_for_the_next_wait)
{
	struct iomap_bio *again, *waited;
	struct iomap_plug plug;
	struct slow slow[2];
	struct fix fix;

	fix_start(&fix, 1, 16);
	slow_open(&fix, &slow[0]);
	slow_open(&fix, &slow[1]);
	slow_finish(&slow[0]);
	slow_finish(&slow[1]);
	again = bt_bio(slow[0].bdev, POLLED_READ, 0, slow[0].buf, BT_PAGE);
	again->bi_private = &slow[0];
	again->bi_end_io = once_more_end;
	waited = bt_bio(slow[1].bdev, POLLED_READ, 0, slow[1].buf, BT_PAGE);
	iomap_start_plug(&plug);
	iomap_submit_bio(again);
	cr_assert_eq(plug.count, 1U);
	cr_assert_eq(iomap_submit_bio_wait(waited), 0);
	cr_assert_eq(own_inflight(&fix), 0U);
	cr_assert_eq(plug.count, 1U);
	slow_finish(&slow[0]);
	iomap_finish_plug(&plug);
	cr_assert_eq(own_inflight(&fix), 1U);
	bt_latch_wait(&slow[0].latch);
	slow[1].latch.left = 0;
	iomap_bio_put(waited);
	slow_close(&slow[0]);
	slow_close(&slow[1]);
	fix_stop(&fix);
}

/* ---- threads that end ---- */

struct leaver {
	struct fix *fix;
	struct relay relay;
	struct slow *slow;
	unsigned nr;
	uint32_t inflight;
	atomic_bool leaves;
};

static long submit_and_end(void *arg)
{
	struct leaver *leaver = arg;

	relay_start(&leaver->relay, leaver->fix, POLLED_READ, POLLED_READ, leaver->nr, 4);
	leaver->inflight = own_inflight(leaver->fix);
	atomic_store(&leaver->leaves, true);
	return 0;
}

/* Its ring ends with it; what the ends submit goes on in a shared one. */
Test(bd04, bd04_a_thread_that_ends_with_polled_bios_in_flight_loses_none)
{
	struct fix fix;

	fix_start(&fix, 1, 16);
	for (unsigned r = 0; r < 20; r++) {
		struct leaver leaver = { .fix = &fix, .nr = 16 };
		struct t_task task;

		memset(fix.buf, 0, FIX_BYTES);
		t_start(&task, submit_and_end, &leaver);
		t_join(&task);
		cr_assert_eq(leaver.inflight, 16U, "nobody has collected any");
		cr_assert_eq(owns(&fix), 0U);
		bt_latch_wait(&leaver.relay.latch);
		cr_assert_eq(atomic_load(&leaver.relay.latch.first_error), 0);
		all_right(&fix, 0, 16);
	}
	fix_stop(&fix);
}

static long start_slow_and_end(void *arg)
{
	struct leaver *leaver = arg;

	slow_start(leaver->slow, POLLED_READ);
	leaver->inflight = own_inflight(leaver->fix);
	atomic_store(&leaver->leaves, true);
	return 0;
}

/* On a pipe: the read cannot have ended before the thread does. */
Test(bd04, bd04_a_thread_does_not_end_before_its_polled_bios)
{
	struct leaver leaver = { .nr = 1 };
	struct t_task task;
	struct slow slow;
	struct fix fix;

	fix_start(&fix, 1, 8);
	slow_open(&fix, &slow);
	leaver.fix = &fix;
	leaver.slow = &slow;
	t_start(&task, start_slow_and_end, &leaver);
	while (!atomic_load(&leaver.leaves))
		sched_yield();
	cr_assert_eq(leaver.inflight, 1U);
	cr_assert_eq(owns(&fix), 1U);
	cr_assert_eq(bt_stats(slow.bdev).inflight_nr, 1U);
	slow_finish(&slow);
	t_join(&task);
	cr_assert_eq(owns(&fix), 0U);
	slow_close(&slow);
	fix_stop(&fix);
}

/* A request of a file in memory is a kernel worker's of the thread that submitted it. */
Test(bd04, bd04_a_thread_that_ends_with_polled_bios_of_a_file_in_memory)
{
	char *memory = bt_tmpfs_file(FIX_BYTES);
	struct iomap_bdev *bdev, *file;
	struct fix fix;

	if (!memory)
		cr_skip_test("no file in memory");
	fix_start(&fix, 1, 16);
	file = fix.bdev;
	bdev = bt_open(&fix.bt, memory, IOMAP_BDEV_BUFFERED);
	bdev->kind = file->kind;
	cr_assert_eq(bt_read(file, 0, fix.buf, FIX_BYTES), 0);
	cr_assert_eq(bt_write(bdev, 0, fix.buf, FIX_BYTES), 0);
	fix.bdev = bdev;
	for (unsigned r = 0; r < 20; r++) {
		struct leaver leaver = { .fix = &fix, .nr = 16 };
		struct t_task task;

		memset(fix.buf, 0, FIX_BYTES);
		t_start(&task, submit_and_end, &leaver);
		t_join(&task);
		cr_assert_eq(leaver.inflight, 16U);
		bt_latch_wait(&leaver.relay.latch);
		cr_assert_eq(atomic_load(&leaver.relay.latch.first_error), 0);
		all_right(&fix, 0, 16);
	}
	cr_assert_eq(iomap_bdev_close(file), 0);
	fix_stop(&fix);
	unlink(memory);
	free(memory);
}

static long child_thread(void *arg)
{
	(void)arg;
	return !iomap__thread_self()->on_exit;
}

/* Neither the thread that forked nor one with the record of another has a ring to give back. */
Test(bd04, bd04_a_thread_that_ends_in_the_child_of_a_fork)
{
	struct t_task task;
	int status = -1;
	struct fix fix;
	pid_t child;

	fix_start(&fix, 1, 8);
	cr_assert_eq(read_polled(&fix, 0), 0);
	child = fork();
	t_must(child >= 0);
	if (!child) {
		t_must(!iomap__thread_self()->on_exit);
		t_start(&task, child_thread, NULL);
		_exit(t_join(&task) == 1 ? 0 : 1);
	}
	t_must(waitpid(child, &status, 0) == child);
	cr_assert_eq(status, 0);
	cr_assert_eq(read_polled(&fix, 1), 0);
	fix_stop(&fix);
}

/* ---- engines that end ---- */

struct guest {
	struct fix fix[2];
	struct t_gate gate;
	unsigned phase;
};

static void phase_wait(struct guest *guest, unsigned phase)
{
	t_lock(&guest->gate);
	while (guest->phase < phase)
		t_wait(&guest->gate);
	t_unlock(&guest->gate);
}

static void phase_set(struct guest *guest, unsigned phase)
{
	t_lock(&guest->gate);
	guest->phase = phase;
	t_wake(&guest->gate);
	t_unlock(&guest->gate);
}

static long guest_of_two(void *arg)
{
	struct guest *guest = arg;

	t_must(read_polled(&guest->fix[0], 0) == 0);
	t_must(read_polled(&guest->fix[1], 0) == 0);
	phase_set(guest, 1);
	phase_wait(guest, 2);
	t_must(read_polled(&guest->fix[1], 1) == 0);
	return 0;
}

Test(bd04, bd04_an_engine_ends_before_a_thread_that_has_a_ring_of_it)
{
	struct guest guest = { .phase = 0 };
	struct t_task task;

	t_gate_init(&guest.gate);
	fix_start(&guest.fix[0], 1, 8);
	fix_start(&guest.fix[1], 1, 8);
	t_start(&task, guest_of_two, &guest);
	phase_wait(&guest, 1);
	fix_stop(&guest.fix[0]);
	phase_set(&guest, 2);
	t_join(&task);
	cr_assert_eq(owns(&guest.fix[1]), 0U);
	fix_stop(&guest.fix[1]);
	t_gate_exit(&guest.gate);
}

static long read_and_end(void *arg)
{
	struct guest *guest = arg;

	t_must(read_polled(&guest->fix[0], 0) == 0);
	phase_set(guest, 1);
	return 0;
}

/* While the thread gives its ring back: whoever comes second finds it gone. */
Test(bd04, bd04_an_engine_ends_while_a_thread_does)
{
	for (unsigned r = 0; r < 100; r++) {
		struct guest guest = { .phase = 0 };
		struct t_task task;

		t_gate_init(&guest.gate);
		fix_start(&guest.fix[0], 1, 4);
		t_start(&task, read_and_end, &guest);
		phase_wait(&guest, 1);
		fix_stop(&guest.fix[0]);
		t_join(&task);
		t_gate_exit(&guest.gate);
	}
}

/* ---- where it cannot be had ---- */

static void refused(struct fix *fix, const char *why)
{
	struct relay relay;

	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(read_polled(fix, i), 0);
	relay_start(&relay, fix, POLLED_READ, POLLED_READ, 16, 4);
	bt_latch_wait(&relay.latch);
	cr_assert_eq(atomic_load(&relay.latch.first_error), 0);
	all_right(fix, 0, 16);
	cr_assert_eq(owns(fix), 0U);
	cr_assert_eq(fix->bt.log.nr, 1U, "one line");
	cr_assert_eq(t_log_count(&fix->bt.log, IOMAP_LOG_INFO, "shared queues"), 1U);
	cr_assert_eq(t_log_count(&fix->bt.log, IOMAP_LOG_INFO, why), 1U, "%s",
		     fix->bt.log.line[0].text);
}

static void denied(int error, const char *why)
{
	struct fix fix;

	fix_start(&fix, 2, 8);
	t_deny(SYS_io_uring_setup, error);
	refused(&fix, why);
	fix_stop(&fix);
}

Test(bd02, bd02_a_kernel_that_has_no_rings_of_one_thread)
{
	denied(EINVAL, "Invalid argument");
}

Test(bd02, bd02_a_ring_of_one_thread_denied_by_seccomp)
{
	denied(EPERM, "Operation not permitted");
}

Test(bd02, bd02_no_descriptor_for_a_ring_of_one_thread)
{
	denied(EMFILE, "Too many open files");
}

static enum iomap_fail_kind fail_kind;

static bool fail_all(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind == fail_kind;
}

Test(bd02, bd02_no_memory_for_a_ring_of_one_thread)
{
	static const enum iomap_fail_kind kinds[] = { IOMAP_FAIL_RING_SETUP, IOMAP_FAIL_ALLOC };

	for (unsigned i = 0; i < iomap__array_len(kinds); i++) {
		struct fix fix;

		fix_start(&fix, 1, 8);
		fail_kind = kinds[i];
		fix.bt.engine.env.fail_nth = fail_all;
		refused(&fix, "Cannot allocate memory");
		fix_stop(&fix);
	}
}

/* ---- all at once ---- */

enum { HAMMER_OWNERS = 3, HAMMER_SHARERS = 2, HAMMER_ROUNDS = 30 };

struct hammer {
	struct fix fix;
	atomic_uint owners, ended;
	atomic_bool stop;
};

/* With a page range of its own; now and then a thread ends with all of it in flight. */
static long hammer_owner(void *arg)
{
	struct hammer *hammer = arg;
	struct fix mine = hammer->fix;
	unsigned id = atomic_fetch_add(&hammer->owners, 1);
	struct relay relay;

	mine.buf = bt_buffer(FIX_BYTES);
	for (unsigned r = 0; r < HAMMER_ROUNDS; r++) {
		relay_start(&relay, &mine, POLLED_READ, POLLED_READ, 8, 4);
		t_must(read_polled(&mine, 16 + id) == 0);
		if (r % 3 == 0)
			while (own_inflight(&mine))
				iomap__io_poll(mine.blk);
		bt_latch_wait(&relay.latch);
		t_must(atomic_load(&relay.latch.first_error) == 0);
		all_right(&mine, 0, 8);
		mixed(&mine, 2);
	}
	free(mine.buf);
	atomic_fetch_add(&hammer->ended, 1);
	return 0;
}

static long hammer_sharer(void *arg)
{
	struct hammer *hammer = arg;
	struct fix mine = hammer->fix;
	struct relay relay;

	mine.buf = bt_buffer(FIX_BYTES);
	while (!atomic_load(&hammer->stop)) {
		relay_start(&relay, &mine, IOMAP_REQ_OP_READ, IOMAP_REQ_OP_READ, 8, 2);
		t_must(bt_read(mine.bdev, 0, mine.buf + 16 * BT_PAGE, BT_PAGE) == 0);
		iomap__io_poll(mine.blk);
		bt_latch_wait(&relay.latch);
		t_must(atomic_load(&relay.latch.first_error) == 0);
		t_must(iomap_bdev_close(mine.bdev) == -EBUSY || atomic_load(&hammer->stop));
	}
	free(mine.buf);
	return 0;
}

Test(bd03, bd03_polled_and_shared_queues_at_once)
{
	struct t_task owner[HAMMER_OWNERS], sharer[HAMMER_SHARERS];
	struct hammer hammer = { .stop = false };
	struct iomap_bdev *held;

	fix_start(&hammer.fix, 2, 8);
	held = hammer.fix.bdev;
	iomap__bdev_get(held);
	for (unsigned i = 0; i < HAMMER_OWNERS; i++)
		t_start(&owner[i], hammer_owner, &hammer);
	for (unsigned i = 0; i < HAMMER_SHARERS; i++)
		t_start(&sharer[i], hammer_sharer, &hammer);
	for (unsigned i = 0; i < HAMMER_OWNERS; i++)
		t_join(&owner[i]);
	atomic_store(&hammer.stop, true);
	for (unsigned i = 0; i < HAMMER_SHARERS; i++)
		t_join(&sharer[i]);
	cr_assert_eq(owns(&hammer.fix), 0U);
	iomap__bdev_put(held);
	fix_stop(&hammer.fix);
}
