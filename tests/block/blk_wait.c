/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_wait.c - whoever waits can complete the I/O it waits for (contract 7).
 *
 * A test that fails here hangs, and ends by its time limit.
 */
#include <liburing.h>
#include <sched.h>
#include <sys/syscall.h>

#include "block/uring.h"
#include "slowfile.h"

/* This thread may not submit to rings. */
static _Thread_local bool denied;
/* Calls that only sleep in one. */
static atomic_uint sleeps;

int io_uring_enter(unsigned fd, unsigned submit, unsigned wait, unsigned flags, sigset_t *sig)
{
	long sent = -1;

	if (wait && !submit)
		atomic_fetch_add(&sleeps, 1);
	if (denied && submit)
		errno = EPERM;
	else
		sent = syscall(SYS_io_uring_enter, fd, submit, wait, flags, sig, 8);
	return sent < 0 ? -errno : (int)sent;
}

/* ---- the threads of the tests ---- */

struct thread {
	struct bt *bt;
	unsigned queue;
	struct slow *start; /* read that it starts */
	struct slow *wait;  /* read that it waits for */
	uint32_t *word;	    /* or word that it waits for */
	atomic_bool started, compute, finish;
};

static long thread_main(void *arg)
{
	struct thread *t = arg;
	uint32_t before = iomap__thread_self()->id;

	live_in_queue(t->queue);
	if (t->start)
		slow_start(t->start);
	atomic_store(&t->started, true);
	if (t->wait)
		bt_latch_wait(&t->wait->latch);
	while (t->word && !iomap__load_acquire(t->word))
		iomap__io_wait(t->bt->engine.blk, t->word, 0);
	/* "computes": neither a system call nor the library */
	if (atomic_load(&t->compute))
		while (!atomic_load(&t->finish))
			iomap__cpu_relax();
	live_in_queue(before);
	return 0;
}

static void start(struct t_task *task, struct thread *t)
{
	t_start(task, thread_main, t);
	while (!atomic_load(&t->started))
		sched_yield();
}

/* ---- */

Test(blk_wait, two_waiters_return_though_the_submitter_went_off_to_compute)
{
	struct t_task task[3];
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);

	struct thread submitter = { .bt = &bt, .start = &slow, .compute = true };
	struct thread waiter[2] = { { .bt = &bt, .wait = &slow }, { .bt = &bt, .wait = &slow } };

	start(&task[0], &submitter);
	start(&task[1], &waiter[0]);
	start(&task[2], &waiter[1]);
	until_asleep(bt.engine.blk, 1, 1);
	slow_finish(&slow);
	t_join(&task[1]);
	t_join(&task[2]);
	atomic_store(&submitter.finish, true);
	t_join(&task[0]);
	slow_close(&slow);
	bt_stop(&bt);
}

Test(blk_wait, a_submitter_that_does_not_wait_wakes_a_sleeper_to_reap)
{
	struct t_task task[2];
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);

	struct thread waiter = { .bt = &bt, .wait = &slow };
	struct thread submitter = { .bt = &bt, .start = &slow, .compute = true };

	start(&task[0], &waiter);
	until_asleep(bt.engine.blk, 1, 0);
	start(&task[1], &submitter);
	until_asleep(bt.engine.blk, 0, 1);
	slow_finish(&slow);
	t_join(&task[0]);
	atomic_store(&submitter.finish, true);
	t_join(&task[1]);
	slow_close(&slow);
	bt_stop(&bt);
}

Test(blk_wait, a_reaper_that_leaves_hands_over)
{
	struct slow first, second;
	struct t_task task[2];
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &first);
	slow_open(&bt.engine, &second);

	struct thread reaper = { .bt = &bt, .wait = &first, .compute = true };
	struct thread other = { .bt = &bt, .wait = &second };

	slow_start(&first);
	slow_start(&second);
	start(&task[0], &reaper);
	until_asleep(bt.engine.blk, 0, 1);
	start(&task[1], &other);
	until_asleep(bt.engine.blk, 1, 1);
	slow_finish(&first);
	until_asleep(bt.engine.blk, 0, 1); /* the other one, now in the ring */
	slow_finish(&second);
	t_join(&task[1]);
	atomic_store(&reaper.finish, true);
	t_join(&task[0]);
	slow_close(&first);
	slow_close(&second);
	bt_stop(&bt);
}

Test(blk_wait, a_waiter_asleep_in_the_ring_is_woken_by_its_word)
{
	struct t_task task;
	uint32_t word = 0;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);

	struct thread waiter = { .bt = &bt, .word = &word };

	slow_start(&slow);
	start(&task, &waiter);
	until_asleep(bt.engine.blk, 0, 1);
	iomap__store_release(&word, 1);
	iomap__io_wake(bt.engine.blk, &word);
	t_join(&task); /* and the read is still running */
	cr_assert_eq(iomap__load(&slow.latch.left), 1U);
	slow_finish(&slow);
	bt_latch_wait(&slow.latch);
	slow_close(&slow);
	bt_stop(&bt);
}

Test(blk_wait, many_waiters_of_one_word_are_all_woken)
{
	enum { WAITERS = 40 };
	static struct thread waiter[WAITERS];
	static struct t_task task[WAITERS];
	uint32_t word = 0, other = 0;
	struct bt bt;

	bt_start(&bt, 1, 0);
	for (int i = 0; i < WAITERS; i++) {
		waiter[i].bt = &bt;
		waiter[i].word = &word;
		start(&task[i], &waiter[i]);
	}
	until_asleep(bt.engine.blk, WAITERS, 0);
	iomap__io_wake(bt.engine.blk, &other);
	iomap__store_release(&word, 1);
	iomap__io_wake(bt.engine.blk, &word);
	for (int i = 0; i < WAITERS; i++)
		t_join(&task[i]);
	bt_stop(&bt);
}

Test(blk_wait, a_waiter_in_one_queue_takes_up_another)
{
	struct slow mine, theirs;
	struct t_task task[2];
	struct bt bt;

	bt_start(&bt, 2, 0);
	slow_open(&bt.engine, &mine);
	slow_open(&bt.engine, &theirs);

	/* sleeps in queue 0, where a read never ends, for a read that queue 1 gets later */
	struct thread waiter = { .bt = &bt, .queue = 0, .start = &mine, .wait = &theirs };
	struct thread submitter = { .bt = &bt, .queue = 1, .start = &theirs, .compute = true };

	start(&task[0], &waiter);
	until_asleep(bt.engine.blk, 0, 1);
	start(&task[1], &submitter);
	slow_finish(&theirs);
	t_join(&task[0]);
	cr_assert_eq(iomap__load(&mine.latch.left), 1U);
	atomic_store(&submitter.finish, true);
	t_join(&task[1]);
	slow_finish(&mine);
	bt_latch_wait(&mine.latch);
	slow_close(&mine);
	slow_close(&theirs);
	bt_stop(&bt);
}

static struct iomap__waiter *reaper_of(struct bt *bt, unsigned queue)
{
	return atomic_load(&bt->engine.blk->queues[queue].reaper);
}

Test(blk_wait, a_thread_takes_its_queue_back_from_a_sleeping_stranger)
{
	struct t_task task[2];
	uint32_t word = 0;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 2, 0);
	slow_open(&bt.engine, &slow);

	struct thread stranger = { .bt = &bt, .queue = 0, .word = &word };
	struct thread owner = { .bt = &bt, .queue = 1, .wait = &slow };

	live_in_queue(1);
	slow_start(&slow);
	live_in_queue(0);
	start(&task[0], &stranger);
	until_asleep(bt.engine.blk, 0, 1);
	cr_assert(reaper_of(&bt, 1));
	start(&task[1], &owner);
	until_asleep(bt.engine.blk, 0, 2);
	/* the stranger sleeps where it no longer reaps, and still hears its word */
	iomap__store_release(&word, 1);
	iomap__io_wake(bt.engine.blk, &word);
	t_join(&task[0]);
	until_asleep(bt.engine.blk, 0, 1);
	slow_finish(&slow);
	t_join(&task[1]);
	cr_assert(!reaper_of(&bt, 1));
	slow_close(&slow);
	bt_stop(&bt);
}

Test(blk_wait, requests_of_a_thread_that_ends_go_on)
{
	struct t_task task;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);

	struct thread submitter = { .bt = &bt, .start = &slow };

	start(&task, &submitter);
	t_join(&task);
	slow_finish(&slow);
	bt_latch_wait(&slow.latch);
	slow_close(&slow);
	bt_stop(&bt);
}

Test(blk_wait, a_deadline_ends_a_wait_asleep_or_in_the_ring)
{
	uint32_t word = 0;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 2, 0);
	slow_open(&bt.engine, &slow);
	while (iomap__io_wait_timeout(bt.engine.blk, &word, 0, 1000000))
		; /* spurious returns are allowed */
	slow_start(&slow);
	while (iomap__io_wait_timeout(bt.engine.blk, &word, 0, 1000000))
		;
	iomap__store(&word, 1);
	cr_assert(iomap__io_wait_timeout(bt.engine.blk, &word, 0, 1000000));
	slow_finish(&slow);
	bt_latch_wait(&slow.latch);
	slow_close(&slow);
	bt_stop(&bt);
}

/* ---- a thread that may not submit, and one that does so as it sleeps ---- */

static long read_slowly(void *arg)
{
	struct slow *slow = arg;

	return bt_read(slow->bdev, 0, slow->buf, BT_PAGE);
}

/*
 * The requests of the one stay in the ring until the other, who may be sending them, is back.
 * Meanwhile neither that thread nor anybody else who submits is kept.
 */
Test(blk_wait, bd04_what_cannot_be_sent_does_not_wait_for_a_sleeper_with_the_lock_held)
{
	char *path = t_temp(BT_PAGE), *buf = bt_buffer(3 * BT_PAGE);
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	struct t_task task;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);
	bdev = bt_open(&bt, path, 0);
	t_start(&task, read_slowly, &slow);
	until_asleep(bt.engine.blk, 0, 1);
	denied = true;
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, BT_PAGE), &latch);
	denied = false;
	/* the lock is free, and what others submit takes along what was left */
	cr_assert_eq(bt_read(bdev, 0, buf + BT_PAGE, BT_PAGE), 0);
	bt_latch_wait(&latch);
	slow_finish(&slow);
	cr_assert_eq(t_join(&task), 0);
	slow.latch.left = 0;
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	slow_close(&slow);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

Test(blk_wait, bd04_what_was_left_to_a_sleeper_is_sent_or_taken_back_by_it)
{
	char *path = t_temp(BT_PAGE), *buf = bt_buffer(3 * BT_PAGE);
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	struct t_task task;
	struct slow slow;
	struct bt bt;

	bt_start(&bt, 1, 0);
	slow_open(&bt.engine, &slow);
	bdev = bt_open(&bt, path, 0);
	t_start(&task, read_slowly, &slow);
	until_asleep(bt.engine.blk, 0, 1);
	denied = true;
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 2 };
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, BT_PAGE), &latch);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf + BT_PAGE, BT_PAGE), &latch);
	slow_finish(&slow);
	cr_assert_eq(t_join(&task), 0);
	bt_latch_wait(&latch);
	/* who is denied waits as well as anybody, and nobody sleeps there now: taken back */
	if (strcmp(bt.engine.blk->backend->name, "io_uring") == 0)
		cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), -EPERM);
	denied = false;
	cr_assert_eq(atomic_load(&latch.first_error), 0);
	cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), 0);
	slow.latch.left = 0;
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	slow_close(&slow);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

static atomic_bool sleeper_is_up;

/* As one whose requests others have sent: it holds some, and there is nothing to send. */
static long sleep_in_the_ring(void *arg)
{
	struct bt *bt = arg;
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *queue = &bt->engine.blk->queues[0], *before;
	struct iomap__waiter waiter = { .home = queue, .asleep_roles = 1, .eventfd = -1 };

	before = iomap__hold_begin(self, queue);
	self->held = 1;
	bt->engine.blk->backend->sleep(bt->engine.blk, &waiter);
	iomap__hold_end(self, before);
	atomic_store(&sleeper_is_up, true);
	return 0;
}

Test(blk_wait, bd04_nothing_is_left_to_a_sleeper_who_has_sent_nothing)
{
	char *path = t_temp(BT_PAGE);
	void *buf = bt_buffer(BT_PAGE);
	struct iomap_bdev *bdev;
	struct t_task task;
	struct bt bt;

	bt_start(&bt, 1, 0);
	if (strcmp(bt.engine.blk->backend->name, "io_uring") != 0) {
		bt_stop(&bt);
		free(buf);
		t_temp_free(path);
		cr_skip_test("not io_uring");
	}
	bdev = bt_open(&bt, path, 0);
	atomic_store(&sleeps, 0);
	t_start(&task, sleep_in_the_ring, &bt);
	while (!atomic_load(&sleeps))
		sched_yield();
	denied = true;
	cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), -EPERM);
	denied = false;
	while (!atomic_load(&sleeper_is_up)) {
		bt.engine.blk->backend->kick(&bt.engine.blk->queues[0]);
		sched_yield();
	}
	t_join(&task);
	cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* Who kicks is still at it; others take back what is theirs. */
Test(blk_wait, bd04_a_wake_up_is_not_taken_back_with_requests)
{
	char *path = t_temp(BT_PAGE);
	void *buf = bt_buffer(BT_PAGE);
	struct iomap_bdev *bdev;
	struct io_uring *ring;
	struct bt bt;
	unsigned had;

	bt_start(&bt, 1, 0);
	if (strcmp(bt.engine.blk->backend->name, "io_uring") != 0) {
		bt_stop(&bt);
		free(buf);
		t_temp_free(path);
		cr_skip_test("not io_uring");
	}
	bdev = bt_open(&bt, path, 0);
	ring = &iomap__uring(&bt.engine.blk->queues[0])->ring;
	had = *ring->cq.ktail;
	denied = true;
	bt.engine.blk->backend->kick(&bt.engine.blk->queues[0]);
	cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), -EPERM);
	denied = false;
	cr_assert_eq(bt_read(bdev, 0, buf, BT_PAGE), 0);
	cr_assert_eq(*ring->cq.ktail - had, 2U, "the read, and the kick");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- all of it at once ---- */

#define STORM_THREADS 6
#define STORM_ROUNDS (T_TSAN ? 150 : 1000)

struct storm {
	struct bt *bt;
	struct iomap_bdev *bdev;
	uint32_t turn; /* counts the reads that have ended; everybody waits for it */
	uint32_t locked;
};

static struct storm storm;

static void storm_end(struct iomap_bio *bio)
{
	struct iomap__blk *blk = bio->bi_bdev->engine->blk;

	t_must(!bio->bi_status);
	iomap_bio_put(bio);
	iomap__fetch_add(&storm.turn, 1);
	iomap__io_wake(blk, &storm.turn);
}

/*
 * Threads start reads that end a turn each, and wait for turns that others' reads end, with
 * a lock built upon the same waiting; some go away without waiting for what they started.
 */
static long storm_main(void *arg)
{
	unsigned id = (unsigned)(uintptr_t)arg;
	struct iomap__blk *blk = storm.bt->engine.blk;
	struct t_rand r = { .state = id + 77 };
	unsigned char *buf = bt_buffer((STORM_ROUNDS + 1) * BT_PAGE);
	unsigned char *own = buf + STORM_ROUNDS * BT_PAGE;

	for (unsigned i = 0; i < STORM_ROUNDS; i++) {
		uint32_t seen = iomap__load_acquire(&storm.turn), free_word = 0;
		struct iomap_bio *bio = bt_bio(storm.bdev, IOMAP_REQ_OP_READ,
					       t_below(&r, 64) * BT_PAGE, buf + i * BT_PAGE,
					       BT_PAGE);

		bio->bi_end_io = storm_end;
		iomap_submit_bio(bio);
		if (t_below(&r, 4) == 0)
			continue;
		/* at least our own read ends a turn after `seen` was read */
		while (iomap__load_acquire(&storm.turn) == seen)
			iomap__io_wait(blk, &storm.turn, seen);
		while (!__atomic_compare_exchange_n(&storm.locked, &free_word, 1, false,
						    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			iomap__io_wait(blk, &storm.locked, 1);
			free_word = 0;
		}
		if (t_below(&r, 8) == 0)
			t_must(bt_read(storm.bdev, 0, own, BT_PAGE) == 0);
		iomap__store_release(&storm.locked, 0);
		iomap__io_wake(blk, &storm.locked);
	}
	/* `buf` is the device's until all reads have ended */
	while (iomap__load_acquire(&storm.turn) < STORM_THREADS * STORM_ROUNDS) {
		uint32_t seen = iomap__load_acquire(&storm.turn);

		if (seen < STORM_THREADS * STORM_ROUNDS)
			iomap__io_wait(blk, &storm.turn, seen);
	}
	free(buf);
	return 0;
}

static void run_storm(uint32_t queues, uint32_t depth)
{
	char *path = t_temp(64 * BT_PAGE);
	struct t_task task[STORM_THREADS];
	struct bt bt;

	bt_start(&bt, queues, depth);
	memset(&storm, 0, sizeof(storm));
	storm.bt = &bt;
	storm.bdev = bt_open(&bt, path, 0);
	for (uintptr_t i = 0; i < STORM_THREADS; i++)
		t_start(&task[i], storm_main, (void *)i);
	for (int i = 0; i < STORM_THREADS; i++)
		t_join(&task[i]);
	cr_assert_eq(iomap_bdev_close(storm.bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(blk_wait, a_storm_of_waiters_on_one_queue)
{
	run_storm(1, 8);
}

Test(blk_wait, a_storm_of_waiters_on_three_queues)
{
	run_storm(3, 2);
}
