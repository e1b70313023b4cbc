/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * en08.c - EN08: a device that hangs: deadlines, log lines with age, and an end of the engine
 * that does not wait for ever.
 *
 * The device holds what the test says, and the clock is the test's.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MS 1000000ULL
#define DEADLINE_MS 5

static _Atomic uint64_t clock_ns = 1000000000;

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	return atomic_load(&clock_ns);
}

static void pass(uint64_t ms)
{
	atomic_fetch_add(&clock_ns, ms * MS);
}

/* A store with a direct opener, and an end_io that is counted. */
struct hs {
	struct ts ts; /* first: ts_of() */
	struct iomap_file *file;
	struct iomap_dio_ops dops;
	struct t_gate gate; /* protects what follows */
	unsigned ended, completed;
	ssize_t size;
	int error;
	long ret;
	bool no_threads_left;
};

static int end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct hs *hs = (struct hs *)(void *)ts_of(iomap_file_inode(iocb->ki_filp));

	(void)flags;
	t_lock(&hs->gate);
	hs->ended++;
	hs->size = size;
	hs->error = error;
	t_wake(&hs->gate);
	t_unlock(&hs->gate);
	return 0;
}

static bool fail_threads(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	struct hs *hs = ctx;

	(void)n;
	return kind == IOMAP_FAIL_THREAD_CREATE && __atomic_load_n(&hs->no_threads_left,
								     __ATOMIC_RELAXED);
}

/* 64 KiB of the pattern 1, mapped at 64 KiB. */
static struct hs *hs_open(uint32_t flags, uint32_t deadline_ms)
{
	struct hs *hs = calloc(1, sizeof(*hs));
	struct iomap_engine_opts opts;

	t_must(hs != NULL);
	t_gate_init(&hs->gate);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = flags;
	opts.now_ns = now_ns;
	opts.io_deadline_ms = deadline_ms;
	opts.flush_interval_ms = 1;
	opts.log_per_second = 1000;
	opts.fail_nth = fail_threads;
	opts.fail_ctx = hs;
	ts_prepare(&hs->ts, &(struct ts_config){ .i_size = 64 * KIB, .opts = &opts });
	hs->ts.hook.open = ts_allow_direct;
	hs->dops.end_io = end_io;
	hs->ts.i_op.dio_ops = &hs->dops;
	ts_begin(&hs->ts);
	ts_map(&hs->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&hs->ts, 64 * KIB, 64 * KIB, 0, 1);
	cr_assert_eq(iomap_file_open(&hs->ts.inode, IOMAP_O_DIRECT, &hs->file), 0);
	return hs;
}

/* The library lets go of the file when it has ended what was left to it. */
static void file_close(struct iomap_engine *engine, struct iomap_file *file)
{
	int rc;

	while ((rc = iomap_file_close(file)) == -EBUSY) {
		t_must(iomap_engine_poll(engine, 8, true) >= 0);
		sched_yield();
	}
	cr_assert_eq(rc, 0);
}

static void hs_close(struct hs *hs)
{
	if (hs->file)
		file_close(hs->ts.engine, hs->file);
	t_gate_exit(&hs->gate);
	ts_close(&hs->ts); /* frees it */
}

static void *buffer(size_t len)
{
	void *buf;

	t_must(posix_memalign(&buf, 4096, len) == 0);
	memset(buf, 0x5a, len);
	return buf;
}

static atomic_bool back;

/* Lets deadlines pass when the device holds something, until the call has come back. */
static long pass_deadlines(void *arg)
{
	struct hs *hs = arg;

	td_wait_held(hs->ts.dev, 1);
	while (!atomic_load(&back)) {
		pass(DEADLINE_MS);
		sched_yield();
	}
	return 0;
}

static void late_begin(struct hs *hs, struct t_task *task)
{
	atomic_store(&back, false);
	t_start(task, pass_deadlines, hs);
}

static void late_end(struct t_task *task)
{
	atomic_store(&back, true);
	t_join(task);
}

/* ---- a call that a worker makes ---- */

struct late_sync {
	struct iomap_kiocb iocb; /* first */
	struct hs *hs;
	_Atomic long ret; /* 1: not yet */
};

static void sync_complete(struct iomap_kiocb *iocb, long ret)
{
	atomic_store(&((struct late_sync *)(void *)iocb)->ret, ret);
}

/* The deadline of one that stands behind others is that of its submission. */
Test(en08, en08_an_fsync_that_waits_for_its_turn_is_late_then)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, DEADLINE_MS);
	struct late_sync sync;

	ts_write(&hs->ts, 0, 4 * KIB, 2);
	iomap_kiocb_init(&sync.iocb, hs->ts.file, 0);
	sync.iocb.ki_complete = sync_complete;
	atomic_store(&sync.ret, 1);
	td_hold(hs->ts.dev, TD_WRITE);
	cr_assert_eq(iomap_fsync_iocb(&sync.iocb, 0, INT64_MAX, 0), -IOMAP_EIOCBQUEUED);
	/* its work has not begun: nobody polls */
	pass(DEADLINE_MS);
	while (atomic_load(&sync.ret) == 1)
		cr_assert_geq(iomap_engine_poll(hs->ts.engine, 1, true), 0);
	cr_assert_eq(atomic_load(&sync.ret), -ETIMEDOUT);
	td_open_gates(hs->ts.dev);
	cr_assert_eq(ts_fsync(&hs->ts), 0);
	hs_close(hs);
}

/* ---- direct I/O ---- */

Test(en08, en08_a_direct_read_ends_at_its_deadline_and_its_memory_stays_in_use)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(8 * KIB);
	struct t_task task;

	td_hold(hs->ts.dev, TD_READ);
	late_begin(hs, &task);
	cr_assert_eq(iomap_read(hs->file, buf, 8 * KIB, 4 * KIB), -ETIMEDOUT);
	late_end(&task);
	/* it goes on: nobody was told that it is over, and nothing goes away under it */
	cr_assert_eq(hs->ended, 0U);
	cr_assert(t_all(buf, 8 * KIB, 0x5a));
	cr_assert_eq(iomap_file_close(hs->file), -EBUSY);
	cr_assert_eq(iomap_bdev_close(hs->ts.dev->bdev), -EBUSY);
	td_open_gates(hs->ts.dev);
	iomap_inode_dio_wait(&hs->ts.inode);
	cr_assert_eq(hs->ended, 1U);
	cr_assert_eq(hs->error, -ETIMEDOUT);
	cr_assert_eq(hs->size, 0);
	/* the device has read into it until just now */
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 4 * KIB, 1), 0);
	free(buf);
	hs_close(hs);
}

Test(en08, en08_a_direct_write_that_timed_out_counts_as_failed)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(8 * KIB);
	struct t_task task;

	ts_map(&hs->ts, 64 * KIB, 64 * KIB, IOMAP_UNWRITTEN, 0, 128 * KIB);
	td_hold(hs->ts.dev, TD_WRITE);
	late_begin(hs, &task);
	/* it would have moved i_size, under i_rwsem */
	cr_assert_eq(iomap_write(hs->file, buf, 8 * KIB, 64 * KIB), -ETIMEDOUT);
	late_end(&task);
	cr_assert_eq(iomap_i_size_read(&hs->ts.inode), 64 * KIB);
	/* the lock is free: others go on */
	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 1));
	td_open_gates(hs->ts.dev);
	iomap_inode_dio_wait(&hs->ts.inode);
	cr_assert_eq(hs->ended, 1U);
	cr_assert_eq(hs->error, -ETIMEDOUT);
	cr_assert_eq(hs->size, 0);
	cr_assert_eq(iomap_i_size_read(&hs->ts.inode), 64 * KIB);
	/* and once more, with a device that works */
	cr_assert_eq(iomap_write(hs->file, buf, 8 * KIB, 64 * KIB), 8 * KIB);
	cr_assert_eq(iomap_i_size_read(&hs->ts.inode), 72 * KIB);
	free(buf);
	hs_close(hs);
}

static ssize_t direct_read(struct hs *hs, struct iomap_kiocb *iocb, void *buf, size_t len)
{
	struct iomap_iov_iter iter;
	ssize_t ret;

	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, buf, len);
	iomap_inode_lock_shared(&hs->ts.inode);
	ret = iomap_dio_rw(iocb, &iter, &hs->ts.ops, &hs->dops, 0, NULL, 0);
	iomap_inode_unlock_shared(&hs->ts.inode);
	return ret;
}

Test(en08, en08_an_iocb_has_a_deadline_of_its_own)
{
	struct hs *hs = hs_open(0, 0);
	char *buf = buffer(8 * KIB);
	struct iomap_kiocb iocb;
	struct t_task task;

	iomap_kiocb_init(&iocb, hs->file, 0);
	iocb.ki_deadline = now_ns(NULL) + DEADLINE_MS * MS;
	/* in time */
	cr_assert_eq(direct_read(hs, &iocb, buf, 8 * KIB), 8 * KIB);
	cr_assert_eq(iocb.ki_pos, 8 * KIB);
	cr_assert_eq(hs->error, 0);
	td_hold(hs->ts.dev, TD_READ);
	late_begin(hs, &task);
	cr_assert_eq(direct_read(hs, &iocb, buf, 8 * KIB), -ETIMEDOUT);
	late_end(&task);
	cr_assert_eq(iocb.ki_pos, 8 * KIB);
	/* the caller's is the caller's again: end_io sees a copy */
	memset(&iocb, 0xff, sizeof(iocb));
	td_open_gates(hs->ts.dev);
	iomap_inode_dio_wait(&hs->ts.inode);
	cr_assert_eq(hs->ended, 2U);
	free(buf);
	hs_close(hs);
}

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct hs *hs = iocb->IOMAP_PRIVATE_MEMBER;

	t_lock(&hs->gate);
	hs->completed++;
	hs->ret = ret;
	t_wake(&hs->gate);
	t_unlock(&hs->gate);
}

static unsigned completed(struct hs *hs)
{
	unsigned nr;

	t_lock(&hs->gate);
	nr = hs->completed;
	t_unlock(&hs->gate);
	return nr;
}

static void async_init(struct iomap_kiocb *iocb, struct hs *hs)
{
	iomap_kiocb_init(iocb, hs->file, 0);
	iocb->ki_complete = on_complete;
	iocb->IOMAP_PRIVATE_MEMBER = hs;
}

Test(en08, en08_an_asynchronous_iocb_completes_at_its_real_completion)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(8 * KIB);
	struct iomap_kiocb iocb;

	async_init(&iocb, hs);
	iocb.ki_deadline = now_ns(NULL) + DEADLINE_MS * MS;
	td_hold(hs->ts.dev, TD_READ);
	cr_assert_eq(direct_read(hs, &iocb, buf, 8 * KIB), -IOMAP_EIOCBQUEUED);
	pass(1000 * DEADLINE_MS);
	cr_assert_eq(completed(hs), 0U);
	td_open_gates(hs->ts.dev);
	t_lock(&hs->gate);
	while (!hs->completed)
		t_wait(&hs->gate);
	t_unlock(&hs->gate);
	cr_assert_eq(hs->ret, 8 * KIB);
	cr_assert_eq(hs->error, 0);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 0, 1), 0);
	file_close(hs->ts.engine, hs->file);
	hs->file = NULL;
	cr_assert_eq(hs->completed, 1U);
	free(buf);
	hs_close(hs);
}

static long release_late(void *arg)
{
	struct hs *hs = arg;

	td_wait_held(hs->ts.dev, 1);
	/* it has tried to give up */
	while (!t_log_count(&hs->ts.log, IOMAP_LOG_ERROR, "no worker thread")) {
		pass(DEADLINE_MS);
		sched_yield();
	}
	td_open_gates(hs->ts.dev);
	return 0;
}

/* Nobody could end it later, so the caller waits. */
Test(en08, en08_without_a_thread_for_the_rest_the_call_waits)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(8 * KIB);
	struct t_task task;

	__atomic_store_n(&hs->no_threads_left, true, __ATOMIC_RELAXED);
	td_hold(hs->ts.dev, TD_READ);
	t_start(&task, release_late, hs);
	cr_assert_eq(iomap_read(hs->file, buf, 8 * KIB, 0), 8 * KIB);
	t_join(&task);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 0, 1), 0);
	cr_assert_eq(hs->ended, 1U);
	cr_assert_eq(hs->error, 0);
	free(buf);
	hs_close(hs);
}

#define RACES (T_SANITIZED ? 300 : 1000)

static atomic_uint returned;

static long release_thread(void *arg)
{
	struct hs *hs = arg;

	for (unsigned i = 0; i < RACES; i++) {
		td_wait_held(hs->ts.dev, 1);
		/* one of the two is first */
		if (i & 1)
			pass(DEADLINE_MS);
		for (unsigned n = i % 8; n; n--)
			sched_yield();
		/* at least one of them is late */
		while (i == 1 && atomic_load(&returned) < 2)
			sched_yield();
		t_must(td_release(hs->ts.dev, 1) == 1);
	}
	return 0;
}

Test(en08, en08_a_completion_at_the_deadline_is_one_or_the_other, .timeout = 300)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	unsigned late = 0;
	struct t_task task;
	char *buf = buffer(4 * KIB);

	td_hold(hs->ts.dev, TD_READ);
	t_start(&task, release_thread, hs);
	for (unsigned i = 0; i < RACES; i++) {
		struct iomap_kiocb iocb;
		ssize_t ret;

		iomap_kiocb_init(&iocb, hs->file, 4 * KIB * (i % 16));
		iocb.ki_deadline = now_ns(NULL) + 1;
		ret = direct_read(hs, &iocb, buf, 4 * KIB);
		atomic_fetch_add(&returned, 1);
		cr_assert(ret == 4 * KIB || ret == -ETIMEDOUT, "%zd", ret);
		late += ret < 0;
		iomap_inode_dio_wait(&hs->ts.inode);
		cr_assert_lt(t_mismatch(buf, 4 * KIB, 4 * KIB * (i % 16), 1), 0);
		t_lock(&hs->gate);
		cr_assert_eq(hs->ended, i + 1);
		cr_assert_eq(hs->error, ret < 0 ? -ETIMEDOUT : 0);
		t_unlock(&hs->gate);
		memset(buf, 0, 4 * KIB);
	}
	t_join(&task);
	/* the clock has passed it before the device was let go, every other time */
	cr_assert_gt(late, 0U);
	cr_assert_lt(late, RACES);
	free(buf);
	hs_close(hs);
}

/* ---- buffered reads and fsync ---- */

Test(en08, en08_a_buffered_read_ends_at_its_deadline)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(8 * KIB);
	struct t_task task;

	td_hold(hs->ts.dev, TD_READ);
	late_begin(hs, &task);
	cr_assert_eq(iomap_read(hs->ts.file, buf, 4 * KIB, 0), -ETIMEDOUT);
	late_end(&task);
	/* who comes later waits for the same read, and gives up as well */
	late_begin(hs, &task);
	cr_assert_eq(iomap_read(hs->ts.file, buf, 4 * KIB, 0), -ETIMEDOUT);
	late_end(&task);
	cr_assert_eq(td_count(hs->ts.dev, TD_READ), 1U);
	cr_assert(t_all(buf, 8 * KIB, 0x5a));
	td_open_gates(hs->ts.dev);
	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 1));
	free(buf);
	hs_close(hs);
}

Test(en08, en08_what_was_cached_is_a_short_count)
{
	struct hs *hs = hs_open(0, DEADLINE_MS);
	char *buf = buffer(64 * KIB);
	struct t_task task;
	int64_t miss = 4 * KIB;

	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 1));
	/* behind what was read ahead */
	ts_drop(&hs->ts);
	hs->ts.a_ops.readahead = NULL;
	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 1));
	while (miss < 64 * KIB && iomap_filemap_get_folio(&hs->ts.inode.i_data,
							    (uint64_t)miss >> IOMAP_PAGE_SHIFT))
		cr_skip_test("all of it is cached");
	td_hold(hs->ts.dev, TD_READ);
	late_begin(hs, &task);
	cr_assert_eq(iomap_read(hs->ts.file, buf, 64 * KIB, 0), miss);
	late_end(&task);
	cr_assert_lt(t_mismatch(buf, (size_t)miss, 0, 1), 0);
	td_open_gates(hs->ts.dev);
	free(buf);
	hs_close(hs);
}

static void fsync_of_held(unsigned ops)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, DEADLINE_MS);
	struct t_task task;

	ts_write(&hs->ts, 0, 16 * KIB, 2);
	td_hold(hs->ts.dev, ops);
	late_begin(hs, &task);
	cr_assert_eq(ts_fsync(&hs->ts), -ETIMEDOUT);
	late_end(&task);
	cr_assert_eq(iomap_bdev_close(hs->ts.dev->bdev), -EBUSY);
	/* again, while it hangs; what is under way is not written once more */
	late_begin(hs, &task);
	cr_assert_eq(ts_fsync(&hs->ts), -ETIMEDOUT);
	late_end(&task);
	td_open_gates(hs->ts.dev);
	cr_assert_eq(ts_fsync(&hs->ts), 0);
	cr_assert_eq(td_bytes(hs->ts.dev, TD_WRITE), 16U * KIB);
	cr_assert(ts_dev_has(&hs->ts, 64 * KIB, 16 * KIB, 0, 2));
	cr_assert_geq(td_count(hs->ts.dev, TD_FLUSH), 1U);
	hs_close(hs);
}

Test(en08, en08_an_fsync_ends_at_its_deadline_while_data_is_written)
{
	fsync_of_held(TD_WRITE);
}

Test(en08, en08_an_fsync_ends_at_its_deadline_while_the_device_flushes)
{
	fsync_of_held(TD_FLUSH);
}

Test(en08, en08_a_write_of_what_is_being_written_is_waited_for_by_the_deadline)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, DEADLINE_MS);
	struct t_task task;

	ts_write(&hs->ts, 0, 4 * KIB, 2);
	td_hold(hs->ts.dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(hs->ts.file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	/* dirty again, under writeback: it has to be written behind that */
	ts_write(&hs->ts, 0, 4 * KIB, 3);
	late_begin(hs, &task);
	cr_assert_eq(ts_fsync(&hs->ts), -ETIMEDOUT);
	late_end(&task);
	cr_assert(ts_dirty(&hs->ts, 0));
	td_open_gates(hs->ts.dev);
	cr_assert_eq(ts_fsync(&hs->ts), 0);
	cr_assert(ts_dev_has(&hs->ts, 64 * KIB, 4 * KIB, 0, 3));
	hs_close(hs);
}

/* ---- log lines ---- */

static unsigned lines(struct hs *hs, const char *text)
{
	return t_log_count(&hs->ts.log, IOMAP_LOG_WARN, text);
}

static void poll_at(struct hs *hs, uint64_t ms)
{
	pass(ms);
	t_must(iomap_engine_poll(hs->ts.engine, 8, true) >= 0);
}

Test(en08, en08_slow_io_that_nobody_waits_for_is_logged_with_its_age)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, 0);
	char *buf = buffer(8 * KIB);
	struct iomap_kiocb iocb;

	async_init(&iocb, hs);
	td_hold(hs->ts.dev, TD_READ);
	cr_assert_eq(direct_read(hs, &iocb, buf, 8 * KIB), -IOMAP_EIOCBQUEUED);
	/* a loop wakes for it */
	cr_assert_eq(iomap_engine_poll_timeout(hs->ts.engine), 5000 * (int64_t)MS);
	poll_at(hs, 0);
	poll_at(hs, 9000);
	cr_assert_eq(lines(hs, "slow I/O"), 0U);
	poll_at(hs, 5000);
	cr_assert_eq(lines(hs, "slow I/O"), 1U);
	cr_assert_eq(lines(hs, "inode 987654321, direct read, 8192 bytes at 0: not done after "
			       "14000 ms"), 1U);
	/* again when it is twice as old, and not before */
	poll_at(hs, 6000);
	poll_at(hs, 7000);
	cr_assert_eq(lines(hs, "slow I/O"), 1U);
	poll_at(hs, 6000);
	cr_assert_eq(lines(hs, "slow I/O"), 2U);
	td_open_gates(hs->ts.dev);
	poll_at(hs, 60000);
	poll_at(hs, 60000);
	cr_assert_eq(lines(hs, "slow I/O"), 2U);
	cr_assert_eq(completed(hs), 1U);
	cr_assert_eq(iomap_engine_poll_timeout(hs->ts.engine), -1);
	free(buf);
	hs_close(hs);
}

Test(en08, en08_writeback_that_hangs_is_logged)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, 0);

	ts_write(&hs->ts, 0, 16 * KIB, 2);
	td_hold(hs->ts.dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(hs->ts.file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	poll_at(hs, 0);
	poll_at(hs, 10000);
	cr_assert_eq(lines(hs, "writeback, 16384 bytes at 0: not done after 10000 ms"), 1U);
	td_open_gates(hs->ts.dev);
	hs_close(hs);
}

struct waiter {
	struct hs *hs;
	int what;
};

static long wait_thread(void *arg)
{
	struct waiter *w = arg;
	char *buf = buffer(4 * KIB);
	long ret = 0;

	if (w->what == 0)
		ret = iomap_read(w->hs->file, buf, 4 * KIB, 0) == 4 * KIB;
	else if (w->what == 1)
		ret = iomap_read(w->hs->ts.file, buf, 4 * KIB, 0) == 4 * KIB;
	else
		ret = iomap_bdev_flush(w->hs->ts.dev->bdev) == 0;
	free(buf);
	return ret;
}

static void waiter_is_logged(int what, uint32_t flags, const char *text)
{
	struct hs *hs = hs_open(flags, 0);
	struct waiter w = { hs, what };
	struct t_task task;

	if (what == 2) {
		ts_write(&hs->ts, 0, 4 * KIB, 2);
		cr_assert_eq(iomap_sync_range(hs->ts.file, 0, INT64_MAX,
					      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER), 0);
	}
	td_hold(hs->ts.dev, TD_READ | TD_FLUSH);
	t_start(&task, wait_thread, &w);
	td_wait_held(hs->ts.dev, 1);
	/* it comes to its wait in a moment; and somebody looks, the flusher or we */
	while (!lines(hs, text)) {
		pass(5000);
		if (flags)
			t_must(iomap_engine_poll(hs->ts.engine, 8, true) >= 0);
		sched_yield();
	}
	td_open_gates(hs->ts.dev);
	cr_assert_eq(t_join(&task), 1);
	hs_close(hs);
}

Test(en08, en08_a_thread_that_waits_for_slow_direct_io_is_logged)
{
	waiter_is_logged(0, 0, "direct read, 4096 bytes at 0");
	waiter_is_logged(0, IOMAP_ENGINE_NO_THREADS, "direct read, 4096 bytes at 0");
}

Test(en08, en08_a_thread_that_waits_for_a_slow_read_is_logged)
{
	waiter_is_logged(1, 0, "inode 987654321, read");
}

Test(en08, en08_a_thread_that_waits_for_a_slow_flush_is_logged)
{
	waiter_is_logged(2, 0, "custom, flush");
}

/* ---- the end of the engine ---- */

Test(en08, en08_a_closed_engine_refuses_what_begins_and_lets_what_is_cached_be_read)
{
	struct hs *hs = hs_open(0, 0);
	struct iomap_engine *engine = hs->ts.engine;
	struct iomap_inode_args args = hs->ts.args;
	char *buf = buffer(8 * KIB);
	struct iomap_file *file;
	struct iomap_inode inode;
	struct iomap_bdev *bdev;
	struct iomap_kiocb iocb;

	ts_write(&hs->ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(&hs->ts), 0);
	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 2));
	td_reset(hs->ts.dev);
	cr_assert_eq(iomap_engine_shutdown(engine, UINT64_MAX), 0);
	cr_assert_eq(iomap_engine_shutdown(engine, 0), 0);

	cr_assert(ts_reads(&hs->ts, 0, 4 * KIB, 2));
	cr_assert_eq(iomap_read(hs->ts.file, buf, 4 * KIB, 60 * KIB), -ESHUTDOWN);
	cr_assert_eq(iomap_write(hs->ts.file, buf, 4 * KIB, 0), -ESHUTDOWN);
	cr_assert_eq(iomap_read(hs->file, buf, 4 * KIB, 0), -ESHUTDOWN);
	cr_assert_eq(iomap_write(hs->file, buf, 4 * KIB, 0), -ESHUTDOWN);
	async_init(&iocb, hs);
	cr_assert_eq(direct_read(hs, &iocb, buf, 4 * KIB), -ESHUTDOWN);
	cr_assert_eq(ts_fsync(&hs->ts), -ESHUTDOWN);
	cr_assert_eq(iomap_sync_range(hs->ts.file, 0, INT64_MAX, IOMAP_SYNC_WRITE), -ESHUTDOWN);
	cr_assert_eq(iomap_sync_engine(engine), -ESHUTDOWN);
	cr_assert_eq(iomap_truncate(hs->ts.file, 0), -ESHUTDOWN);
	cr_assert_eq(iomap_file_open(&hs->ts.inode, 0, &file), -ESHUTDOWN);
	cr_assert_eq(iomap_inode_init(engine, &inode, &args), -ESHUTDOWN);
	cr_assert_eq(iomap_bdev_open_memory(engine, 1 << 20, &bdev), -ESHUTDOWN);
	cr_assert_eq(td_count(hs->ts.dev, TD_ALL), 0U);
	cr_assert_eq(completed(hs), 0U);
	free(buf);
	hs_close(hs);
}

static void shutdown_of_held(uint32_t flags)
{
	struct hs *hs = hs_open(flags, 0);
	struct iomap_engine *engine = hs->ts.engine;
	char *buf = buffer(8 * KIB);
	struct iomap_kiocb iocb;

	async_init(&iocb, hs);
	td_hold(hs->ts.dev, TD_READ);
	cr_assert_eq(direct_read(hs, &iocb, buf, 8 * KIB), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(iomap_engine_shutdown(engine, 0), -ETIMEDOUT);
	cr_assert_eq(iomap_engine_shutdown(engine, now_ns(NULL)), -ETIMEDOUT);
	/* all that hangs is as it was */
	cr_assert_eq(completed(hs), 0U);
	cr_assert(t_all(buf, 8 * KIB, 0x5a));
	cr_assert_eq(iomap_file_close(hs->file), -EBUSY);
	cr_assert_eq(iomap_read(hs->file, buf, 4 * KIB, 0), -ESHUTDOWN);
	td_open_gates(hs->ts.dev);
	cr_assert_eq(iomap_engine_shutdown(engine, UINT64_MAX), 0);
	/* it has run, wherever work runs, before that returned */
	cr_assert_eq(completed(hs), 1U);
	cr_assert_eq(hs->ret, 8 * KIB);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 0, 1), 0);
	cr_assert_eq(iomap_file_close(hs->file), 0);
	hs->file = NULL;
	free(buf);
	hs_close(hs);
}

Test(en08, en08_shutdown_gives_up_and_may_be_called_again)
{
	shutdown_of_held(0);
}

Test(en08, en08_shutdown_without_threads_runs_what_completes)
{
	shutdown_of_held(IOMAP_ENGINE_NO_THREADS);
}

static long shutdown_thread(void *arg)
{
	struct hs *hs = arg;

	return iomap_engine_shutdown(hs->ts.engine, UINT64_MAX);
}

Test(en08, en08_shutdown_waits_for_writeback)
{
	struct hs *hs = hs_open(0, 0);
	struct t_task task;

	ts_write(&hs->ts, 0, 16 * KIB, 2);
	td_hold(hs->ts.dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(hs->ts.file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	cr_assert_eq(iomap_engine_shutdown(hs->ts.engine, 0), -ETIMEDOUT);
	t_start(&task, shutdown_thread, hs);
	td_open_gates(hs->ts.dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert(!ts_under_writeback(&hs->ts, 0));
	hs_close(hs);
}

struct inside {
	struct iomap_work work; /* first */
	struct hs *hs;
	int ret;
};

static void shut_inside(struct iomap_work *work)
{
	struct inside *inside = (struct inside *)(void *)work;

	inside->ret = iomap_engine_shutdown(inside->hs->ts.engine, UINT64_MAX);
}

Test(en08, en08_shutdown_in_a_work_function_would_wait_for_itself)
{
	struct hs *hs = hs_open(0, 0);
	struct inside inside = { .hs = hs };

	iomap_init_work(&inside.work, shut_inside);
	cr_assert(iomap_queue_work(hs->ts.engine, &inside.work));
	iomap_flush_work(hs->ts.engine, &inside.work);
	cr_assert_eq(inside.ret, -EBUSY);
	cr_assert_eq(iomap_engine_shutdown(hs->ts.engine, UINT64_MAX), 0);
	cr_assert_eq(iomap_engine_shutdown(NULL, 0), -EINVAL);
	hs_close(hs);
}

Test(en08, en08_dirty_data_stays_in_a_closed_engine_until_it_is_asked_for)
{
	struct hs *hs = hs_open(IOMAP_ENGINE_NO_THREADS, 0);

	ts_write(&hs->ts, 0, 16 * KIB, 2);
	cr_assert_eq(iomap_engine_shutdown(hs->ts.engine, UINT64_MAX), 0);
	/* old enough */
	poll_at(hs, 60000);
	cr_assert_eq(iomap_engine_poll_timeout(hs->ts.engine), -1);
	cr_assert_eq(td_count(hs->ts.dev, TD_WRITE), 0U);
	cr_assert(ts_dirty(&hs->ts, 0));
	hs_close(hs);
}

static struct hs *begun;

static int begin_stays(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)iomap, (void)srcmap;
	(void)ts;
	/* the engine is closed under the operation */
	t_must(iomap_engine_shutdown(begun->ts.engine, 0) == 0);
	return 0;
}

Test(en08, en08_what_had_begun_ends_with_its_iomap_end)
{
	struct hs *hs = hs_open(0, 0);
	char *buf = buffer(8 * KIB);
	uint64_t ends;

	begun = hs;
	hs->ts.map_max_bytes = 4 * KIB; /* two mappings */
	ts_reset(&hs->ts);
	hs->ts.hook.begin = begin_stays;
	ends = ts_calls(&hs->ts, TS_END);
	cr_assert_eq(iomap_write(hs->ts.file, buf, 8 * KIB, 0), 8 * KIB);
	cr_assert_eq(ts_calls(&hs->ts, TS_BEGIN), 2U);
	cr_assert_eq(ts_calls(&hs->ts, TS_END), ends + 2);
	cr_assert_eq(iomap_write(hs->ts.file, buf, 8 * KIB, 0), -ESHUTDOWN);
	cr_assert_eq(ts_calls(&hs->ts, TS_BEGIN), 2U);
	free(buf);
	hs_close(hs);
}
