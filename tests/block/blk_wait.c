/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_wait.c - whoever waits can complete the I/O it waits for (contract 7).
 *
 * A slow device is a file whose descriptor has been replaced by a pipe: a read of it ends
 * when the test writes to the pipe.  "Asleep" is read from the parking lot, so no test
 * depends on time.  A test that fails here hangs, and ends by its time limit.
 */
#include <libaio.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "blktest.h"

/*
 * The I/O threads' preadv2() refuses a pipe, which has no positions; io_uring does not.
 * This one comes before the C library's, and reads without one.
 */
ssize_t preadv2(int fd, const struct iovec *iov, int nr, off_t pos, int flags)
{
	struct stat st;
	ssize_t got = -1, n;

	(void)flags;
	if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
		return readv(fd, iov, nr);
	for (int i = 0; i < nr; i++) {
		n = pread(fd, iov[i].iov_base, iov[i].iov_len, pos);
		if (n < 0)
			return got < 0 ? -1 : got;
		got = (got < 0 ? 0 : got) + n;
		pos += n;
		if ((size_t)n < iov[i].iov_len)
			break;
	}
	return got;
}

/*
 * libaio would read from a pipe inside io_submit(), however long that takes.  So the request
 * becomes a poll of it, and the read is done when that ends.
 */
static bool is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

int io_submit(io_context_t context, long nr, struct iocb **list)
{
	long sent;

	for (long i = 0; i < nr; i++) {
		struct iocb poll = { .data = list[i]->data };

		if (list[i]->aio_lio_opcode != IO_CMD_PREAD || !is_pipe(list[i]->aio_fildes))
			continue;
		poll.aio_lio_opcode = IO_CMD_POLL;
		poll.aio_fildes = list[i]->aio_fildes;
		poll.u.poll.events = POLLIN;
		io_set_eventfd(&poll, (int)list[i]->u.c.resfd);
		*list[i] = poll;
	}
	sent = syscall(SYS_io_submit, context, nr, list);
	return sent < 0 ? -errno : (int)sent;
}

int io_getevents(io_context_t context, long least, long nr, struct io_event *events,
		 struct timespec *timeout)
{
	long got = syscall(SYS_io_getevents, context, least, nr, events, timeout);

	for (long i = 0; i < got; i++) {
		struct iomap_bio *bio = events[i].data;

		if (!bio) /* a kick */
			continue;
		(void)atomic_load_explicit(&iomap__req(bio)->handoff, memory_order_acquire);
		if (is_pipe(bio->bi_bdev->fd))
			events[i].res = (unsigned long)read(bio->bi_bdev->fd,
							    bio->bi_io_vec->bv_base,
							    bio->bi_io_vec->bv_len);
	}
	return got < 0 ? -errno : (int)got;
}

struct slow {
	struct iomap_bdev *bdev;
	char *path;
	int write_end;
	void *buf;
	struct bt_latch latch;
};

static void slow_open(struct bt *bt, struct slow *slow)
{
	int ends[2];

	slow->path = t_temp(BT_PAGE);
	slow->bdev = bt_open(bt, slow->path, 0);
	slow->bdev->direct = false;
	t_must(pipe(ends) == 0);
	t_must(dup2(ends[0], slow->bdev->fd) == slow->bdev->fd);
	slow->bdev->registered = false; /* rings know the file that was opened */
	close(ends[0]);
	slow->write_end = ends[1];
	slow->buf = bt_buffer(BT_PAGE);
	slow->latch = (struct bt_latch){ .blk = bt->engine.blk, .left = 1 };
}

/* Start the read, without waiting for it. */
static void slow_start(struct slow *slow)
{
	bt_submit(bt_bio(slow->bdev, IOMAP_REQ_OP_READ, 0, slow->buf, BT_PAGE), &slow->latch);
}

/* Let the read end.  A pipe holds a page. */
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

/* Which queue the calling thread submits to. */
static void live_in_queue(unsigned queue)
{
	iomap__thread_self()->id = queue;
}

static unsigned asleep(struct bt *bt, uint32_t state)
{
	struct iomap__blk *blk = bt->engine.blk;
	struct iomap_list_head *item;
	unsigned nr = 0;

	iomap__mutex_lock(&blk->park_lock);
	for (item = blk->sleepers.next; item != &blk->sleepers; item = item->next)
		nr += iomap__container_of(item, struct iomap__waiter, sleepers)->state == state;
	iomap__mutex_unlock(&blk->park_lock);
	return nr;
}

static void until_asleep(struct bt *bt, unsigned on_futex, unsigned in_ring)
{
	while (asleep(bt, IOMAP__WAITER_FUTEX) != on_futex ||
	       asleep(bt, IOMAP__WAITER_RING) != in_ring)
		sched_yield();
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
	slow_open(&bt, &slow);

	struct thread submitter = { .bt = &bt, .start = &slow, .compute = true };
	struct thread waiter[2] = { { .bt = &bt, .wait = &slow }, { .bt = &bt, .wait = &slow } };

	start(&task[0], &submitter);
	start(&task[1], &waiter[0]);
	start(&task[2], &waiter[1]);
	until_asleep(&bt, 1, 1);
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
	slow_open(&bt, &slow);

	struct thread waiter = { .bt = &bt, .wait = &slow };
	struct thread submitter = { .bt = &bt, .start = &slow, .compute = true };

	start(&task[0], &waiter);
	until_asleep(&bt, 1, 0);
	start(&task[1], &submitter);
	until_asleep(&bt, 0, 1);
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
	slow_open(&bt, &first);
	slow_open(&bt, &second);

	struct thread reaper = { .bt = &bt, .wait = &first, .compute = true };
	struct thread other = { .bt = &bt, .wait = &second };

	slow_start(&first);
	slow_start(&second);
	start(&task[0], &reaper);
	until_asleep(&bt, 0, 1);
	start(&task[1], &other);
	until_asleep(&bt, 1, 1);
	slow_finish(&first);
	until_asleep(&bt, 0, 1); /* the other one, now in the ring */
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
	slow_open(&bt, &slow);

	struct thread waiter = { .bt = &bt, .word = &word };

	slow_start(&slow);
	start(&task, &waiter);
	until_asleep(&bt, 0, 1);
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
	until_asleep(&bt, WAITERS, 0);
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
	slow_open(&bt, &mine);
	slow_open(&bt, &theirs);

	/* sleeps in queue 0, where a read never ends, for a read that queue 1 gets later */
	struct thread waiter = { .bt = &bt, .queue = 0, .start = &mine, .wait = &theirs };
	struct thread submitter = { .bt = &bt, .queue = 1, .start = &theirs, .compute = true };

	start(&task[0], &waiter);
	until_asleep(&bt, 0, 1);
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
	slow_open(&bt, &slow);

	struct thread stranger = { .bt = &bt, .queue = 0, .word = &word };
	struct thread owner = { .bt = &bt, .queue = 1, .wait = &slow };

	live_in_queue(1);
	slow_start(&slow);
	live_in_queue(0);
	start(&task[0], &stranger);
	until_asleep(&bt, 0, 1);
	cr_assert(reaper_of(&bt, 1));
	start(&task[1], &owner);
	until_asleep(&bt, 0, 2);
	/* the stranger sleeps where it no longer reaps, and still hears its word */
	iomap__store_release(&word, 1);
	iomap__io_wake(bt.engine.blk, &word);
	t_join(&task[0]);
	until_asleep(&bt, 0, 1);
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
	slow_open(&bt, &slow);

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
	slow_open(&bt, &slow);
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
