/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd04_refused.c - requests that the kernel does not take: what becomes of them is what would
 * become of them if the device had said so.
 *
 * The calls that submit are the test's own, before the C library's and liburing's.  The threads
 * backend hands requests to nobody who could refuse them, so there the tests skip.
 */
#include <libaio.h>
#include <liburing.h>
#include <sched.h>
#include <sys/syscall.h>

#include "blktest.h"

/* The next `times` calls that would submit something fail with `error`. */
static atomic_int refuse_times, refuse_error;
static atomic_uint refused;

static bool refuse(void)
{
	int left = atomic_load(&refuse_times);

	while (left > 0)
		if (atomic_compare_exchange_weak(&refuse_times, &left, left - 1)) {
			atomic_fetch_add(&refused, 1);
			return true;
		}
	return false;
}

int io_submit(io_context_t context, long nr, struct iocb **list)
{
	long sent;

	if (refuse())
		return atomic_load(&refuse_error);
	sent = syscall(SYS_io_submit, context, nr, list);
	return sent < 0 ? -errno : (int)sent;
}

int io_uring_enter(unsigned fd, unsigned submit, unsigned wait, unsigned flags, sigset_t *sig)
{
	long sent;

	if (submit && refuse())
		return atomic_load(&refuse_error);
	/* what the kernel does when it takes fewer: it does not wait then */
	if (submit > 1 && refuse()) {
		submit--;
		wait = 0;
		flags &= ~IORING_ENTER_GETEVENTS;
	}
	sent = syscall(SYS_io_uring_enter, fd, submit, wait, flags, sig, 8);
	return sent < 0 ? -errno : (int)sent;
}

/* ---- */

struct rig {
	struct bt bt;
	struct iomap_bdev *bdev;
	char *path;
	void *buf;
	atomic_uint told; /* to queue_faults */
	struct iomap_queue_faults faults;
};

static int64_t told(void *ctx, struct iomap_bdev *bdev, uint32_t op, uint64_t addr, uint64_t len,
		    int64_t res)
{
	struct rig *rig = ctx;

	(void)bdev;
	(void)op;
	(void)addr;
	(void)len;
	if (res < 0)
		atomic_fetch_add(&rig->told, 1);
	return res;
}

static void rig_start(struct rig *rig, uint32_t queues, uint32_t depth)
{
	memset(rig, 0, sizeof(*rig));
	rig->path = t_temp(64 * BT_PAGE);
	bt_start(&rig->bt, queues, depth);
	if (!strcmp(rig->bt.engine.blk->backend->name, "threads")) {
		bt_stop(&rig->bt);
		t_temp_free(rig->path);
		cr_skip_test("nobody refuses what goes to the threads backend");
	}
	rig->faults = (struct iomap_queue_faults){
		.size = sizeof(rig->faults),
		.ctx = rig,
		.complete = told,
	};
	rig->bt.engine.opts.queue_faults = &rig->faults;
	rig->bdev = bt_open(&rig->bt, rig->path, 0);
	rig->buf = bt_buffer(BT_PAGE);
	atomic_store(&refused, 0);
}

static void rig_stop(struct rig *rig)
{
	cr_assert_eq(atomic_load(&refuse_times), 0);
	cr_assert_eq(bt_stats(rig->bdev).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_close(rig->bdev), 0);
	bt_stop(&rig->bt);
	free(rig->buf);
	t_temp_free(rig->path);
}

static void refuse_next(int times, int error)
{
	atomic_store(&refuse_error, error);
	atomic_store(&refuse_times, times);
}

/* A read that is refused, waited for or not, and its status. */
static int read_refused(struct rig *rig, uint32_t flags, bool wait, int error)
{
	struct bt_latch latch = { .blk = rig->bt.engine.blk, .left = 1 };

	/* one who sleeps sends as he does, and once more */
	refuse_next(wait && !strcmp(rig->bt.engine.blk->backend->name, "io_uring") ? 2 : 1, error);
	if (wait)
		return bt_io(rig->bdev, IOMAP_REQ_OP_READ | flags, 0, rig->buf, BT_PAGE);
	bt_submit(bt_bio(rig->bdev, IOMAP_REQ_OP_READ | flags, 0, rig->buf, BT_PAGE), &latch);
	bt_latch_wait(&latch);
	return atomic_load(&latch.first_error);
}

Test(bd04_refused, bd04_an_error_of_submission_is_that_of_the_request)
{
	struct rig rig;

	rig_start(&rig, 1, 0);
	for (int wait = 0; wait < 2; wait++) {
		cr_assert_eq(read_refused(&rig, 0, wait, -EPERM), -EPERM);
		cr_assert_eq(atomic_load(&rig.told), 1U + (unsigned)wait, "queue_faults sees it");
		cr_assert_eq(read_refused(&rig, 0, wait, -EINTR), 0, "asked for again");
	}
	cr_assert_eq(bt_read(rig.bdev, 0, rig.buf, BT_PAGE), 0, "and nothing is left behind");
	rig_stop(&rig);
}

Test(bd04_refused, bd04_without_memory_in_the_kernel_it_is_asked_for_again)
{
	struct rig rig;

	rig_start(&rig, 1, 0);
	refuse_next(500, -EAGAIN);
	cr_assert_eq(bt_read(rig.bdev, 0, rig.buf, BT_PAGE), 0);
	cr_assert_eq(atomic_load(&refuse_times), 0);
	cr_assert_gt(atomic_load(&rig.told), 5U);
	rig_stop(&rig);
}

Test(bd04_refused, bd04_bd03_nowait_does_not_ask_again)
{
	struct rig rig;

	rig_start(&rig, 1, 0);
	rig.bdev->limits.flags |= IOMAP_BDEV_HAS_NOWAIT;
	/* of libaio, for a file that cannot; of either, without memory */
	if (!strcmp(rig.bt.engine.blk->backend->name, "libaio"))
		cr_assert_eq(read_refused(&rig, IOMAP_REQ_NOWAIT, false, -EOPNOTSUPP), -EAGAIN);
	atomic_store(&rig.told, 0);
	refuse_next(500, -EAGAIN);
	cr_assert_eq(bt_io(rig.bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_NOWAIT, 0, rig.buf, BT_PAGE),
		     -EAGAIN);
	cr_assert_eq(atomic_load(&rig.told), 1U);
	atomic_store(&refuse_times, 0);
	rig_stop(&rig);
}

Test(bd04_refused, bd04_bd06_a_device_that_is_found_gone_there_is_gone)
{
	struct rig rig;

	rig_start(&rig, 1, 0);
	if (!strcmp(rig.bt.engine.blk->backend->name, "io_uring")) {
		/* it says that of the ring */
		cr_assert_eq(read_refused(&rig, 0, true, -ENXIO), -EIO);
		cr_assert(!iomap__bdev_is_gone(rig.bdev));
	} else {
		cr_assert_eq(read_refused(&rig, 0, true, -ENODEV), -ENODEV);
		cr_assert(iomap__bdev_is_gone(rig.bdev));
	}
	rig_stop(&rig);
}

/* Of many that wait for places, each one is told; those that come after it work. */
Test(bd04_refused, bd04_a_full_queue_that_is_refused_goes_on)
{
	struct bt_latch latch = { .left = 60 };
	struct rig rig;

	rig_start(&rig, 1, 4);
	latch.blk = rig.bt.engine.blk;
	for (unsigned i = 0; i < 60; i++) {
		if (i % 7 == 3)
			refuse_next(1, i % 2 ? -EIO : -EINTR);
		bt_submit(bt_bio(rig.bdev, IOMAP_REQ_OP_READ, 0, rig.buf, BT_PAGE), &latch);
	}
	bt_latch_wait(&latch);
	cr_assert_eq(atomic_load(&latch.first_error), -EIO);
	atomic_store(&refuse_times, 0);
	cr_assert_eq(bt_read(rig.bdev, 0, rig.buf, BT_PAGE), 0);
	rig_stop(&rig);
}

/* ---- all of it at once ---- */

#define STORM_THREADS 4
#define STORM_ROUNDS (T_TSAN ? 150 : 600)

struct storm {
	struct rig *rig;
	uint64_t seed;
};

static void storm_burst(struct storm *storm, struct t_rand *r, unsigned char *mem)
{
	unsigned nr = 1 + (unsigned)t_below(r, 6);
	struct bt_latch latch = { .blk = storm->rig->bt.engine.blk, .left = nr };

	for (unsigned i = 0; i < nr; i++)
		bt_submit(bt_bio(storm->rig->bdev, IOMAP_REQ_OP_READ, t_below(r, 64) * BT_PAGE,
				 mem + i * BT_PAGE, BT_PAGE), &latch);
	bt_latch_wait(&latch);
	t_must(atomic_load(&latch.first_error) == 0);
}

/* Some of what is submitted is refused for a while; all of it is done in the end. */
static long storm_main(void *arg)
{
	struct storm *storm = arg;
	struct t_rand r = { .state = storm->seed };
	unsigned char *mem = bt_buffer(6 * BT_PAGE);

	for (unsigned i = 0; i < STORM_ROUNDS; i++) {
		switch (t_below(&r, 4)) {
		case 0:
			t_must(bt_read(storm->rig->bdev, 0, mem, BT_PAGE) == 0);
			break;
		case 1:
			storm_burst(storm, &r, mem);
			break;
		case 2:
			t_must(bt_write(storm->rig->bdev, t_below(&r, 64) * BT_PAGE, mem,
					BT_PAGE) == 0);
			break;
		default:
			refuse_next(1 + (int)t_below(&r, 60), t_below(&r, 2) ? -EAGAIN : -EINTR);
			break;
		}
	}
	free(mem);
	return 0;
}

static void run_storm(uint32_t queues, uint32_t depth)
{
	struct storm storm[STORM_THREADS];
	struct t_task task[STORM_THREADS];
	uint64_t seed = t_seed();
	struct rig rig;

	rig_start(&rig, queues, depth);
	for (unsigned i = 0; i < STORM_THREADS; i++) {
		storm[i] = (struct storm){ &rig, seed + i };
		t_start(&task[i], storm_main, &storm[i]);
	}
	for (unsigned i = 0; i < STORM_THREADS; i++)
		t_join(&task[i]);
	cr_assert_gt(atomic_load(&refused), 100U);
	atomic_store(&refuse_times, 0);
	rig_stop(&rig);
}

Test(bd04_refused, bd04_a_storm_on_one_queue)
{
	run_storm(1, 4);
}

Test(bd04_refused, bd04_a_storm_on_three_queues)
{
	run_storm(3, 2);
}
