/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * direct_async.c - DI02, DF01: direct I/O whose submitter does not wait.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* A store whose inode has a direct opener, and whose end_io converts what was unwritten. */
struct as {
	struct ts ts; /* first: ts_of() */
	struct iomap_file *file;
	struct iomap_dio_ops dops;
	struct t_gate gate; /* protects what follows */
	unsigned ended;
	int64_t pos;
	ssize_t size;
	int error;
	uint64_t end_tick;
	pthread_t end_thread;
	int end_ret; /* what end_io returns */
};

/* One asynchronous call. */
struct req {
	struct iomap_kiocb iocb; /* first */
	struct as *as;
	char *buf;
	size_t len;
	ssize_t submitted; /* what the call returned */
	/* under as->gate */
	unsigned calls;
	long ret;
	int64_t pos;
	uint64_t tick;
	pthread_t thread;
	bool shut; /* ki_complete stays inside */
	void (*hook)(struct req *req);
	struct req *other;
};

/* What this thread is in: ki_complete runs in neither. */
static _Thread_local unsigned in_complete, in_call;

static struct as *as_of(struct iomap_inode *inode)
{
	return (struct as *)(void *)ts_of(inode);
}

static int end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct as *as = as_of(iomap_file_inode(iocb->ki_filp));
	int ret;

	(void)flags;
	if (!error)
		ts_convert(&as->ts, iocb->ki_pos, iocb->ki_pos + size);
	t_lock(&as->gate);
	as->ended++;
	as->pos = iocb->ki_pos;
	as->size = size;
	as->error = error;
	as->end_tick = t_tick();
	as->end_thread = pthread_self();
	if (!error && iocb->ki_pos + size > iomap_i_size_read(&as->ts.inode))
		iomap_i_size_write(&as->ts.inode, iocb->ki_pos + size);
	ret = as->end_ret;
	t_unlock(&as->gate);
	return ret;
}

static struct as *as_open(const struct ts_config *cfg)
{
	struct as *as = calloc(1, sizeof(*as));

	t_must(as != NULL);
	t_gate_init(&as->gate);
	ts_prepare(&as->ts, cfg);
	as->ts.hook.open = ts_allow_direct;
	as->dops.end_io = end_io;
	as->ts.i_op.dio_ops = &as->dops;
	ts_begin(&as->ts);
	cr_assert_eq(iomap_file_open(&as->ts.inode, IOMAP_O_DIRECT, &as->file), 0);
	return as;
}

static void as_close(struct as *as)
{
	if (as->file)
		cr_assert_eq(iomap_file_close(as->file), 0);
	t_gate_exit(&as->gate);
	ts_close(&as->ts); /* frees it */
}

/* 64 KiB of the pattern 1, mapped at 64 KiB. */
static struct as *mapped_in(bool threads, const struct iomap_engine_opts *opts)
{
	struct as *as = as_open(
		&(struct ts_config){ .i_size = 64 * KIB, .threads = threads, .opts = opts });

	ts_map(&as->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&as->ts, 64 * KIB, 64 * KIB, 0, 1);
	return as;
}

static struct as *mapped(void)
{
	return mapped_in(true, NULL);
}

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct req *req = (struct req *)(void *)iocb;
	struct t_gate *gate = &req->as->gate;
	void (*hook)(struct req * req);

	t_must(!in_complete && !in_call);
	in_complete++;
	t_lock(gate);
	req->calls++;
	req->ret = ret;
	req->pos = iocb->ki_pos;
	req->tick = t_tick();
	req->thread = pthread_self();
	t_wake(gate);
	while (req->shut)
		t_wait(gate);
	hook = req->hook;
	t_unlock(gate);
	/* without one the test may have gone on, and req with it */
	if (hook)
		hook(req);
	in_complete--;
}

static void req_init(struct req *req, struct as *as, size_t len, int64_t pos)
{
	memset(req, 0, sizeof(*req));
	req->as = as;
	req->len = len;
	t_must(posix_memalign((void **)&req->buf, 4096, len) == 0);
	memset(req->buf, 0x5a, len);
	iomap_kiocb_init(&req->iocb, as->file, pos);
	req->iocb.ki_complete = on_complete;
}

static void req_free(struct req *req)
{
	free(req->buf);
}

static ssize_t submit_flags(struct req *req, unsigned direction, unsigned dio_flags)
{
	struct as *as = req->as;
	size_t half = req->len % 8192 ? req->len : req->len / 2;
	struct iovec iov[2] = { { req->buf, half }, { req->buf + half, req->len - half } };
	struct iomap_iov_iter iter;
	ssize_t ret;

	if (direction == IOMAP_ITER_SOURCE)
		t_fill(req->buf, req->len, req->iocb.ki_pos, 2);
	iomap_iov_iter_init(&iter, direction, iov, 2, req->len);
	in_call++;
	iomap_inode_lock_shared(&as->ts.inode);
	ret = iomap_dio_rw(&req->iocb, &iter, &as->ts.ops, &as->dops, dio_flags, NULL, 0);
	iomap_inode_unlock_shared(&as->ts.inode);
	in_call--;
	/* the vector was only for the call */
	memset(iov, 0xff, sizeof(iov));
	if (ret >= 0)
		t_must(iter.count == req->len - (size_t)ret);
	else if (ret != -IOMAP_EIOCBQUEUED)
		t_must(iter.count == req->len);
	req->submitted = ret;
	return ret;
}

static ssize_t submit(struct req *req, unsigned direction)
{
	return submit_flags(req, direction, 0);
}

static ssize_t submit_read(struct req *req)
{
	return submit(req, IOMAP_ITER_DEST);
}

static ssize_t submit_write(struct req *req)
{
	return submit(req, IOMAP_ITER_SOURCE);
}

static void req_wait(struct req *req)
{
	t_lock(&req->as->gate);
	while (!req->calls)
		t_wait(&req->as->gate);
	t_unlock(&req->as->gate);
}

static unsigned req_calls(struct req *req)
{
	unsigned calls;

	t_lock(&req->as->gate);
	calls = req->calls;
	t_unlock(&req->as->gate);
	return calls;
}

static void req_open(struct req *req)
{
	t_lock(&req->as->gate);
	req->shut = false;
	t_wake(&req->as->gate);
	t_unlock(&req->as->gate);
}

/* ---- queued ---- */

Test(direct_async, di02_a_read_is_queued_and_completes_once_in_a_worker)
{
	struct as *as = mapped();
	struct req req;

	req_init(&req, as, 16 * KIB, 8 * KIB);
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(req_calls(&req), 0U);
	cr_assert_eq(as->ended, 0U);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 16 * KIB);
	cr_assert_eq(req.pos, 24 * KIB);
	cr_assert_lt(t_mismatch(req.buf, 16 * KIB, 8 * KIB, 1), 0);
	cr_assert(!pthread_equal(req.thread, pthread_self()));
	cr_assert_eq(as->ended, 1U);
	cr_assert_eq(as->pos, 8 * KIB);
	cr_assert_eq(as->size, 16 * KIB);
	/* the close waits for the callback; none comes after it */
	cr_assert_eq(iomap_file_close(as->file), 0);
	as->file = NULL;
	cr_assert_eq(req_calls(&req), 1U);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_a_write_is_queued_and_its_cache_dropped_behind_end_io)
{
	struct as *as = mapped();
	struct req req;

	req_init(&req, as, 8 * KIB, 4 * KIB);
	ts_map(&as->ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
	td_hold(as->ts.dev, TD_WRITE);
	cr_assert_eq(submit_write(&req), -IOMAP_EIOCBQUEUED);
	/* a reader brings the zeros of unwritten space in */
	cr_assert(ts_reads_all(&as->ts, 0, 64 * KIB, 0));
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 8 * KIB);
	cr_assert_lt(as->end_tick, req.tick);
	cr_assert(ts_reads(&as->ts, 4 * KIB, 8 * KIB, 2));
	cr_assert(ts_reads_all(&as->ts, 0, 4 * KIB, 0));
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_the_iterator_is_advanced_by_what_was_queued)
{
	struct as *as = mapped();
	struct iomap_iov_iter iter;
	struct req req;

	req_init(&req, as, 16 * KIB, 56 * KIB);
	td_hold(as->ts.dev, TD_READ);
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, req.buf, req.len);
	iomap_inode_lock_shared(&as->ts.inode);
	cr_assert_eq(iomap_dio_rw(&req.iocb, &iter, &as->ts.ops, &as->dops, 0, NULL, 0),
		     -IOMAP_EIOCBQUEUED);
	iomap_inode_unlock_shared(&as->ts.inode);
	cr_assert_eq(iter.count, 8U * KIB);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	/* up to EOF */
	cr_assert_eq(req.ret, 8 * KIB);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_completions_come_as_the_device_ends_them)
{
	struct iomap_engine_opts opts;
	struct as *as;
	struct req req[8];

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.nr_workers = 1;
	as = mapped_in(true, &opts);
	td_hold(as->ts.dev, TD_READ);
	for (unsigned i = 0; i < 8; i++) {
		req_init(&req[i], as, 4 * KIB, (int64_t)i * 8 * KIB);
		cr_assert_eq(submit_read(&req[i]), -IOMAP_EIOCBQUEUED);
	}
	td_open_gates(as->ts.dev);
	for (unsigned i = 0; i < 8; i++) {
		req_wait(&req[i]);
		cr_assert_eq(req[i].ret, 4 * KIB);
		cr_assert_lt(t_mismatch(req[i].buf, 4 * KIB, (int64_t)i * 8 * KIB, 1), 0);
		if (i)
			cr_assert_lt(req[i - 1].tick, req[i].tick);
		req_free(&req[i]);
	}
	as_close(as);
}

Test(direct_async, di02_many_bios_are_one_completion)
{
	struct as *as = mapped();
	struct req req;

	as->ts.map_max_bytes = 4 * KIB;
	req_init(&req, as, 64 * KIB, 0);
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_wait_held(as->ts.dev, 16);
	cr_assert_eq(td_release(as->ts.dev, 15), 15U);
	cr_assert_eq(as->ended, 0U);
	cr_assert_eq(req_calls(&req), 0U);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 64 * KIB);
	cr_assert_lt(t_mismatch(req.buf, 64 * KIB, 0, 1), 0);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_a_dsync_write_is_durable_before_it_completes)
{
	struct as *as = mapped();
	struct req req;

	/* with metadata to commit: else FUA would do */
	ts_map(&as->ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_DIRTY, 64 * KIB);
	req_init(&req, as, 8 * KIB, 4 * KIB);
	req.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
	td_hold(as->ts.dev, TD_WRITE | TD_FLUSH);
	cr_assert_eq(submit_write(&req), -IOMAP_EIOCBQUEUED);
	td_hold(as->ts.dev, TD_FLUSH);
	cr_assert_eq(td_release(as->ts.dev, 1), 1U);
	td_wait_held(as->ts.dev, 1);
	cr_assert_eq(ts_calls(&as->ts, TS_COMMIT), 1U);
	cr_assert_eq(req_calls(&req), 0U);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 8 * KIB);
	cr_assert_eq(td_count(as->ts.dev, TD_FLUSH), 1U);
	req_free(&req);
	as_close(as);
}

/* ---- not queued: then ki_complete never runs ---- */

/* The call returns `want`, and nothing comes after it. */
static void never(struct as *as, struct req *req, ssize_t got, ssize_t want)
{
	cr_assert_eq(got, want, "%zd", got);
	cr_assert_eq(req->iocb.ki_pos - (want > 0 ? want : 0), req->pos);
	cr_assert_eq(iomap_file_close(as->file), 0);
	cr_assert_eq(req->calls, 0U);
	cr_assert_eq(iomap_file_open(&as->ts.inode, IOMAP_O_DIRECT, &as->file), 0);
	req_free(req);
}

static void never_at(struct as *as, unsigned direction, size_t len, int64_t pos, ssize_t want)
{
	struct req req;

	req_init(&req, as, len, pos);
	req.pos = pos;
	never(as, &req, submit(&req, direction), want);
}

Test(direct_async, di02_what_has_ended_before_the_return_is_returned)
{
	struct as *as = mapped();

	/* the device ends bios within submit_bio */
	never_at(as, IOMAP_ITER_DEST, 16 * KIB, 8 * KIB, 16 * KIB);
	never_at(as, IOMAP_ITER_SOURCE, 16 * KIB, 8 * KIB, 16 * KIB);
	cr_assert_eq(as->ended, 2U);
	as_close(as);
}

Test(direct_async, di02_holes_inline_data_and_eof_are_returned)
{
	struct as *as = mapped();
	char inline_data[4 * KIB];

	td_hold(as->ts.dev, TD_ALL);
	ts_punch(&as->ts, 16 * KIB, 16 * KIB);
	ts_map(&as->ts, 32 * KIB, 16 * KIB, IOMAP_UNWRITTEN, 0, 1 << 20);
	never_at(as, IOMAP_ITER_DEST, 32 * KIB, 16 * KIB, 32 * KIB);
	never_at(as, IOMAP_ITER_DEST, 4 * KIB, 64 * KIB, 0);
	iomap_i_size_write(&as->ts.inode, sizeof(inline_data));
	t_fill(inline_data, sizeof(inline_data), 0, 3);
	ts_map_inline(&as->ts, inline_data, sizeof(inline_data));
	never_at(as, IOMAP_ITER_DEST, 4 * KIB, 0, 4 * KIB);
	td_open_gates(as->ts.dev);
	as_close(as);
}

Test(direct_async, di02_errors_of_the_call_are_returned)
{
	struct as *as = mapped();
	struct req req;

	td_hold(as->ts.dev, TD_ALL);
	never_at(as, IOMAP_ITER_DEST, 4 * KIB, 100, -EINVAL);
	never_at(as, IOMAP_ITER_SOURCE, 4 * KIB + 1, 0, -EINVAL);
	never_at(as, IOMAP_ITER_SOURCE, 4 * KIB, -4096, -EINVAL);
	ts_fail(&as->ts, TS_BEGIN, 1, -EDQUOT, 1);
	never_at(as, IOMAP_ITER_SOURCE, 4 * KIB, 0, -EDQUOT);
	ts_map(&as->ts, 0, 4 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	never_at(as, IOMAP_ITER_DEST, 4 * KIB, 0, -ENOTBLK);
	never_at(as, IOMAP_ITER_SOURCE, 4 * KIB, 0, -ENOTBLK);
	ts_map(&as->ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	req_init(&req, as, 4 * KIB, 0);
	req.iocb.ki_flags |= 0x8000;
	never(as, &req, submit_read(&req), -EINVAL);
	as->ts.inode.i_maxbytes = 64 * KIB;
	never_at(as, IOMAP_ITER_SOURCE, 4 * KIB, 64 * KIB, -EFBIG);
	td_open_gates(as->ts.dev);
	cr_assert_eq(td_count(as->ts.dev, TD_ALL), 0U);
	as_close(as);
}

/* Lets go what is held, some time after the submitter could have returned. */
static long release_later(void *arg)
{
	struct as *as = arg;

	td_wait_held(as->ts.dev, 1);
	for (unsigned i = 0; i < 1000; i++)
		sched_yield();
	td_open_gates(as->ts.dev);
	return 0;
}

static ssize_t submit_held(struct req *req, unsigned direction, unsigned dio_flags)
{
	struct t_task task;
	ssize_t ret;

	td_hold(req->as->ts.dev, TD_ALL);
	t_start(&task, release_later, req->as);
	ret = submit_flags(req, direction, dio_flags);
	t_join(&task);
	return ret;
}

static void waits_at(struct as *as, unsigned direction, size_t len, int64_t pos, ssize_t want)
{
	struct req req;

	req_init(&req, as, len, pos);
	req.pos = pos;
	never(as, &req, submit_held(&req, direction, 0), want);
}

Test(direct_async, df01_force_wait_waits)
{
	struct as *as = mapped();
	struct req req;

	for (unsigned i = 0; i < 2; i++) {
		unsigned direction = i % 2 ? IOMAP_ITER_SOURCE : IOMAP_ITER_DEST;

		req_init(&req, as, 16 * KIB, 8 * KIB);
		req.pos = 8 * KIB;
		never(as, &req, submit_held(&req, direction, IOMAP_DIO_FORCE_WAIT), 16 * KIB);
	}
	cr_assert(ts_reads(&as->ts, 8 * KIB, 16 * KIB, 2));
	td_fail(as->ts.dev, TD_READ, 64 * KIB, 64 * KIB, -EREMOTEIO, 1);
	req_init(&req, as, 4 * KIB, 0);
	never(as, &req, submit_held(&req, IOMAP_ITER_DEST, IOMAP_DIO_FORCE_WAIT), -EREMOTEIO);
	as_close(as);
}

Test(direct_async, di02_what_needs_the_exclusive_lock_to_its_end_waits)
{
	static const struct iomap_bdev_limits limits = { .logical_block_size = 512,
							 .physical_block_size = 4096,
							 .dma_alignment = 512,
							 .max_segments_nr = 128,
							 .max_transfer_bytes = 1 << 20 };
	struct as *as = as_open(
		&(struct ts_config){ .i_size = 64 * KIB, .threads = true, .limits = &limits });
	struct req req;

	ts_map(&as->ts, 0, 128 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
	/* zeroes the rest of its blocks */
	waits_at(as, IOMAP_ITER_SOURCE, 512, 1024, 512);
	waits_at(as, IOMAP_ITER_SOURCE, 8 * KIB - 512, 16 * KIB + 512, 8 * KIB - 512);
	cr_assert(ts_reads_all(&as->ts, 0, 1024, 0));
	cr_assert(ts_reads_all(&as->ts, 16 * KIB, 512, 0));
	/* asks for i_size, as the next one will */
	req_init(&req, as, 4 * KIB, 0);
	req.iocb.ki_flags |= IOMAP_IOCB_APPEND;
	req.pos = 64 * KIB;
	never(as, &req, submit_held(&req, IOMAP_ITER_SOURCE, 0), 4 * KIB);
	cr_assert_eq(iomap_i_size_read(&as->ts.inode), 68 * KIB);
	as_close(as);
}

Test(direct_async, di02_what_has_come_to_nothing_is_no_completion)
{
	static const struct iomap_bdev_limits limits = { .logical_block_size = 512,
							 .physical_block_size = 512,
							 .dma_alignment = 512,
							 .max_segments_nr = 128,
							 .max_transfer_bytes = 1 << 20 };
	struct as *as = as_open(
		&(struct ts_config){ .i_size = 64 * KIB, .threads = true, .limits = &limits });

	/* a part of a fresh block is on its way when it turns out that the cache has to do it */
	ts_map(&as->ts, 0, 512, IOMAP_UNWRITTEN, 0, 64 * KIB);
	ts_map(&as->ts, 512, 4 * KIB - 512, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	waits_at(as, IOMAP_ITER_SOURCE, 4 * KIB, 0, -ENOTBLK);
	cr_assert_eq(td_count(as->ts.dev, TD_WRITE), 1U);
	as_close(as);
}

Test(direct_async, di02_what_is_bounced_waits)
{
	static const struct iomap_bdev_limits limits = { .logical_block_size = 4096,
							 .physical_block_size = 4096,
							 .dma_alignment = 512,
							 .max_segments_nr = 128,
							 .max_transfer_bytes = 1 << 20 };
	struct as *as = as_open(
		&(struct ts_config){ .i_size = 64 * KIB, .threads = true, .limits = &limits });
	struct req req;

	ts_map(&as->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&as->ts, 64 * KIB, 64 * KIB, 0, 1);
	req_init(&req, as, 5000, 3000);
	req.pos = 3000;
	cr_assert_eq(submit_held(&req, IOMAP_ITER_DEST, IOMAP_DIO_BOUNCE), 5000);
	cr_assert_lt(t_mismatch(req.buf, 5000, 3000, 1), 0);
	never(as, &req, 5000, 5000);
	as_close(as);
}

Test(direct_async, di02_a_fallback_to_the_cache_takes_the_same_iocb)
{
	struct as *as = mapped();
	struct iomap_iov_iter iter;
	struct req req;

	ts_map(&as->ts, 0, 4 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	req_init(&req, as, 4 * KIB, 0);
	cr_assert_eq(submit_read(&req), -ENOTBLK);
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, req.buf, req.len);
	never(as, &req, iomap_file_read_iter(&req.iocb, &iter), 4 * KIB);
	req_init(&req, as, 4 * KIB, 8 * KIB);
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_SOURCE, req.buf, req.len);
	req.pos = 8 * KIB;
	iomap_inode_lock(&as->ts.inode);
	req.ret = iomap_file_buffered_write(&req.iocb, &iter, &as->ts.ops, NULL, NULL);
	iomap_inode_unlock(&as->ts.inode);
	never(as, &req, req.ret, 4 * KIB);
	as_close(as);
}

/* ---- errors of what was queued ---- */

Test(direct_async, di02_an_error_of_the_device_comes_by_ki_complete)
{
	struct as *as = mapped();
	struct req req;

	for (unsigned direction = 0; direction < 2; direction++) {
		as->ended = 0;
		req_init(&req, as, 16 * KIB, 8 * KIB);
		td_hold(as->ts.dev, TD_ALL);
		td_fail(as->ts.dev, direction ? TD_WRITE : TD_READ, 72 * KIB, 16 * KIB, -EREMOTEIO,
			1);
		cr_assert_eq(submit(&req, direction), -IOMAP_EIOCBQUEUED);
		td_open_gates(as->ts.dev);
		req_wait(&req);
		cr_assert_eq(req.ret, -EREMOTEIO);
		cr_assert_eq(req.pos, 8 * KIB);
		cr_assert_eq(as->ended, 1U);
		cr_assert_eq(as->error, -EREMOTEIO);
		req_free(&req);
	}
	as_close(as);
}

/* ---- bios of the application's set ---- */

/* In front of each bio. */
struct front {
	struct as *as;
	uint64_t mark;
};

static struct {
	struct iomap_bio_set set;
	atomic_uint submitted, ended;
} own;

static struct front *front_of(struct iomap_bio *bio)
{
	return (struct front *)(void *)bio - 1;
}

static void own_end_io(struct iomap_bio *bio)
{
	struct front *front = front_of(bio);

	t_must(front->as && front->mark == (bio->bi_iter.bi_sector ^ (uintptr_t)bio));
	atomic_fetch_add(&own.ended, 1);
	iomap_dio_bio_end_io(bio);
}

static void own_submit_io(const struct iomap_iter *iter, struct iomap_bio *bio, int64_t pos)
{
	struct front *front = front_of(bio);

	(void)pos;
	t_must(bio->bi_pool == &own.set && !front->as && !front->mark);
	*front = (struct front){ as_of(iter->inode), bio->bi_iter.bi_sector ^ (uintptr_t)bio };
	atomic_fetch_add(&own.submitted, 1);
	bio->bi_end_io = own_end_io;
	iomap_submit_bio(bio);
}

Test(direct_async, do01_do03_do04_queued_bios_of_an_own_set_go_through_hooks)
{
	struct as *as = mapped();
	struct req req[2];

	cr_assert_eq(iomap_bio_set_init(&own.set, as->ts.engine, sizeof(struct front), 2), 0);
	as->dops.bio_set = &own.set;
	as->dops.submit_io = own_submit_io;
	as->ts.map_max_bytes = 4 * KIB; /* a bio each */
	for (unsigned round = 0; round < 3; round++) {
		td_hold(as->ts.dev, TD_ALL);
		req_init(&req[0], as, 16 * KIB, 0);
		req_init(&req[1], as, 16 * KIB, 32 * KIB);
		if (round == 2)
			td_fail(as->ts.dev, TD_WRITE, 64 * KIB, 4 * KIB, -EREMOTEIO, 1);
		cr_assert_eq(submit_write(&req[0]), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(submit_read(&req[1]), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(atomic_load(&own.submitted), 8 * (round + 1));
		cr_assert_eq(atomic_load(&own.ended), 8 * round);
		td_open_gates(as->ts.dev);
		req_wait(&req[0]);
		req_wait(&req[1]);
		cr_assert_eq(req[0].ret, round == 2 ? -EREMOTEIO : 16 * KIB);
		cr_assert_eq(req[1].ret, 16 * KIB);
		cr_assert_eq(atomic_load(&own.ended), 8 * (round + 1));
		req_free(&req[0]);
		req_free(&req[1]);
	}
	iomap_bio_set_exit(&own.set); /* checks that all of them have come back */
	as_close(as);
}

Test(direct_async, di02_do02_an_error_of_end_io_becomes_the_result)
{
	struct as *as = mapped();
	struct req req;

	as->end_ret = -ENOSPC;
	req_init(&req, as, 16 * KIB, 8 * KIB);
	td_hold(as->ts.dev, TD_WRITE);
	cr_assert_eq(submit_write(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, -ENOSPC);
	cr_assert_eq(req.pos, 8 * KIB);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_an_error_behind_what_was_queued_makes_it_short)
{
	struct as *as = mapped();
	struct req req;

	as->ts.map_max_bytes = 8 * KIB;
	ts_fail(&as->ts, TS_BEGIN, 2, -EIO, 1);
	req_init(&req, as, 16 * KIB, 8 * KIB);
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 8 * KIB);
	cr_assert_eq(req.pos, 16 * KIB);
	req_free(&req);
	as_close(as);
}

static atomic_uint failing;

static bool fail_kind(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind != IOMAP_FAIL_IO && kind == atomic_load(&failing);
}

static struct as *failing_store(void)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.fail_nth = fail_kind;
	atomic_store(&failing, IOMAP_FAIL_IO);
	return mapped_in(true, &opts);
}

Test(direct_async, di02_without_a_worker_to_be_had_it_waits)
{
	struct as *as = failing_store();
	struct req req;

	td_async(as->ts.dev);
	atomic_store(&failing, IOMAP_FAIL_THREAD_CREATE);
	for (unsigned i = 0; i < 20; i++)
		never_at(as, i % 2, 16 * KIB, 8 * KIB, 16 * KIB);
	atomic_store(&failing, IOMAP_FAIL_IO);
	td_hold(as->ts.dev, TD_READ);
	req_init(&req, as, 4 * KIB, 0);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	req_free(&req);
	as_close(as);
}

static atomic_uint works_run;

static void count_run(struct iomap_work *work)
{
	(void)work;
	atomic_fetch_add(&works_run, 1);
}

Test(direct_async, di02_the_watcher_works_where_no_second_worker_can_be_had)
{
	struct as *as = failing_store();
	struct iomap_engine *engine = as->ts.engine;
	struct iomap_work work;
	struct req req;

	td_hold(as->ts.dev, TD_READ);
	req_init(&req, as, 4 * KIB, 0);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	/* the one there is has nothing else to do, and watches */
	atomic_store(&failing, IOMAP_FAIL_THREAD_CREATE);
	iomap_init_work(&work, count_run);
	for (unsigned i = 1; i <= 100; i++) {
		cr_assert(iomap_queue_work(engine, &work));
		iomap_flush_work(engine, &work);
		cr_assert_eq(atomic_load(&works_run), i);
	}
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 4 * KIB);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_without_memory_it_fails_before_anything_is_done)
{
	struct as *as = failing_store();
	struct req req;

	req_init(&req, as, 4 * KIB, 0);
	atomic_store(&failing, IOMAP_FAIL_POOL);
	cr_assert_eq(submit_write(&req), -ENOMEM);
	atomic_store(&failing, IOMAP_FAIL_IO);
	never(as, &req, -ENOMEM, -ENOMEM);
	cr_assert_eq(td_count(as->ts.dev, TD_ALL), 0U);
	cr_assert_eq(ts_calls(&as->ts, TS_BEGIN), 0U);
	as_close(as);
}

/* ---- races ---- */

Test(direct_async, di02_exactly_once_however_close_the_end_is_to_the_return)
{
	struct as *as = mapped();
	unsigned queued = 0;

	/* a thread of the device ends bios as fast as it can */
	td_async(as->ts.dev);
	for (unsigned i = 0; i < 2000; i++) {
		struct req req;
		ssize_t ret;

		req_init(&req, as, 4 * KIB, (int64_t)(i % 16) * 4 * KIB);
		ret = submit(&req, i % 3 ? IOMAP_ITER_DEST : IOMAP_ITER_SOURCE);
		if (ret == -IOMAP_EIOCBQUEUED) {
			queued++;
			req_wait(&req);
			ret = req.ret;
		}
		cr_assert_eq(ret, 4 * KIB);
		/* until its callback has returned */
		cr_assert_eq(iomap_file_close(as->file), 0);
		cr_assert_eq(iomap_file_open(&as->ts.inode, IOMAP_O_DIRECT, &as->file), 0);
		cr_assert_eq(req.calls, req.submitted == -IOMAP_EIOCBQUEUED ? 1U : 0U);
		req_free(&req);
	}
	cr_assert_eq(as->ended, 2000U);
	printf("%u of 2000 were queued\n", queued);
	as_close(as);
}

/* What ki_complete may do: free all of it, iocb, memory and what the iterator was in. */
struct heap_req {
	struct req req; /* first */
	struct iomap_iov_iter iter;
	struct iovec iov;
};

static atomic_uint heap_done;

static void free_req(struct req *req)
{
	struct heap_req *heap = (struct heap_req *)(void *)req;

	free(req->buf);
	free(heap);
	atomic_fetch_add(&heap_done, 1);
}

Test(direct_async, di02_ki_complete_may_free_iocb_and_iterator)
{
	struct as *as = mapped();
	unsigned nr = 0;

	td_async(as->ts.dev);
	for (unsigned i = 0; i < 2000; i++) {
		struct heap_req *heap = malloc(sizeof(*heap));
		ssize_t ret;

		req_init(&heap->req, as, 4 * KIB, (int64_t)(i % 16) * 4 * KIB);
		heap->req.hook = free_req;
		heap->iov = (struct iovec){ heap->req.buf, 4 * KIB };
		iomap_iov_iter_init(&heap->iter, IOMAP_ITER_DEST, &heap->iov, 1, 4 * KIB);
		iomap_inode_lock_shared(&as->ts.inode);
		ret = iomap_dio_rw(&heap->req.iocb, &heap->iter, &as->ts.ops, &as->dops, 0, NULL,
				   0);
		iomap_inode_unlock_shared(&as->ts.inode);
		if (ret == -IOMAP_EIOCBQUEUED) {
			nr++;
			continue;
		}
		cr_assert_eq(ret, 4 * KIB);
		free(heap->req.buf);
		free(heap);
	}
	while (iomap_file_close(as->file) == -EBUSY)
		sched_yield();
	as->file = NULL;
	cr_assert_eq(atomic_load(&heap_done), nr);
	as_close(as);
}

/* ---- ki_complete ---- */

static void submit_other(struct req *req)
{
	ssize_t ret;

	/* one that has ended before the return has no ki_complete to go on from */
	for (req = req->other; req; req = req->other) {
		ret = submit_read(req);
		if (ret == -IOMAP_EIOCBQUEUED)
			return;
		t_must(ret == 4 * KIB);
		t_lock(&req->as->gate);
		req->calls++;
		t_wake(&req->as->gate);
		t_unlock(&req->as->gate);
	}
}

Test(direct_async, di02_ki_complete_submits_the_next_one)
{
	struct as *as = mapped();
	struct req req[16];

	for (unsigned i = 0; i < 16; i++) {
		req_init(&req[i], as, 4 * KIB, (int64_t)i * 4 * KIB);
		req[i].hook = submit_other;
		req[i].other = i < 15 ? &req[i + 1] : NULL;
	}
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req[0]), -IOMAP_EIOCBQUEUED);
	for (unsigned i = 0; i < 16; i++) {
		td_wait_held(as->ts.dev, 1);
		cr_assert_eq(td_release(as->ts.dev, 1), 1U);
		req_wait(&req[i]);
		cr_assert_lt(t_mismatch(req[i].buf, 4 * KIB, (int64_t)i * 4 * KIB, 1), 0);
	}
	td_open_gates(as->ts.dev);
	as_close(as);
	for (unsigned i = 0; i < 16; i++)
		req_free(&req[i]);
}

static void close_file(struct req *req)
{
	struct as *as = req->as;

	t_must(iomap_file_close(as->file) == 0);
	t_lock(&as->gate);
	as->file = NULL;
	t_wake(&as->gate);
	t_unlock(&as->gate);
}

Test(direct_async, di02_ki_complete_closes_the_file)
{
	struct as *as = mapped();
	struct req req;

	req_init(&req, as, 4 * KIB, 0);
	req.hook = close_file;
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	t_lock(&as->gate);
	while (as->file)
		t_wait(&as->gate);
	t_unlock(&as->gate);
	req_free(&req);
	as_close(as);
}

/* ---- destroying what is in use ---- */

Test(direct_async, di02_nothing_is_closed_or_destroyed_under_it)
{
	struct as *as = mapped();
	struct req req;

	req_init(&req, as, 4 * KIB, 0);
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(iomap_file_close(as->file), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&as->ts.inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&as->ts.inode, IOMAP_DESTROY_WAIT), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&as->ts.inode, IOMAP_DESTROY_DISCARD), -EBUSY);
	cr_assert_eq(iomap_bdev_close(as->ts.dev->bdev), -EBUSY);
	cr_assert_eq(iomap_engine_destroy(as->ts.engine), -EBUSY);
	cr_assert_eq(req_calls(&req), 0U);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	cr_assert_eq(req.ret, 4 * KIB);
	as_close(as);
	cr_assert_eq(req.calls, 1U);
	req_free(&req);
}

/* Lets the callback go on, some time after the close could have returned. */
static long open_later(void *arg)
{
	for (unsigned i = 0; i < 1000; i++)
		sched_yield();
	req_open(arg);
	return 0;
}

static void clear_tick(struct req *req)
{
	t_lock(&req->as->gate);
	req->tick = 0;
	t_unlock(&req->as->gate);
}

Test(direct_async, di02_a_close_waits_for_ki_complete)
{
	struct as *as = mapped();
	struct t_task task;
	struct req req;

	req_init(&req, as, 4 * KIB, 0);
	req.shut = true;
	req.hook = clear_tick;
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	req_wait(&req);
	t_start(&task, open_later, &req);
	cr_assert_eq(iomap_file_close(as->file), 0);
	/* it was the last that ki_complete did */
	t_lock(&as->gate);
	cr_assert_eq(req.tick, 0U);
	t_unlock(&as->gate);
	t_join(&task);
	as->file = NULL;
	as_close(as);
	req_free(&req);
}

static long destroy_thread(void *arg)
{
	return iomap_inode_destroy(arg, IOMAP_DESTROY_WAIT);
}

/* Whether a close of the file is about to be called; under the gate. */
static bool closing;

/* Some time after the close could have seen that no iocb is under way. */
static void submit_again(struct req *req)
{
	t_lock(&req->as->gate);
	while (!closing)
		t_wait(&req->as->gate);
	t_unlock(&req->as->gate);
	for (unsigned i = 0; i < 1000; i++)
		sched_yield();
	t_must(submit_read(req->other) == -IOMAP_EIOCBQUEUED);
}

static long close_once(void *arg)
{
	struct as *as = arg;

	t_lock(&as->gate);
	closing = true;
	t_wake(&as->gate);
	t_unlock(&as->gate);
	return iomap_file_close(as->file);
}

Test(direct_async, di02_a_close_that_waits_sees_what_ki_complete_submits)
{
	struct as *as = mapped();
	struct req a, b;
	struct t_task task;

	req_init(&a, as, 4 * KIB, 0);
	req_init(&b, as, 4 * KIB, 4 * KIB);
	a.hook = submit_again;
	a.other = &b;
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&a), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(td_release(as->ts.dev, 1), 1U);
	req_wait(&a);
	t_start(&task, close_once, as);
	cr_assert_eq(t_join(&task), -EBUSY);
	cr_assert_eq(req_calls(&b), 0U);
	td_open_gates(as->ts.dev);
	req_wait(&b);
	cr_assert_eq(b.ret, 4 * KIB);
	as_close(as);
	req_free(&a);
	req_free(&b);
}

Test(direct_async, di02_an_inode_waits_for_io_of_the_applications_own)
{
	struct as *as = mapped();
	struct iomap_inode *inode, *other = calloc(1, sizeof(*other));
	struct t_task task;

	cr_assert_eq(iomap_inode_init(as->ts.engine, other, &as->ts.args), 0);
	inode = other;
	iomap_inode_dio_begin(inode);
	cr_assert_eq(iomap_inode_destroy(inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(inode, IOMAP_DESTROY_DISCARD), -EBUSY);
	t_start(&task, destroy_thread, inode);
	for (unsigned i = 0; i < 100; i++)
		sched_yield();
	iomap_inode_dio_end(inode);
	cr_assert_eq(t_join(&task), 0);
	free(other);
	as_close(as);
}

/* ---- truncation ---- */

struct truncator {
	struct as *as;
	uint64_t tick;
};

static long truncate_thread(void *arg)
{
	struct truncator *t = arg;
	int err;

	in_call++;
	err = iomap_truncate(t->as->ts.file, 4 * KIB);
	in_call--;
	t->tick = t_tick();
	return err;
}

Test(direct_async, di02_a_truncation_waits_for_what_is_in_flight)
{
	struct as *as = mapped();
	struct truncator truncator = { .as = as };
	struct t_task task;
	struct req req;

	req_init(&req, as, 16 * KIB, 8 * KIB);
	td_hold(as->ts.dev, TD_WRITE);
	cr_assert_eq(submit_write(&req), -IOMAP_EIOCBQUEUED);
	t_start(&task, truncate_thread, &truncator);
	/* it is in there */
	while (iomap_inode_trylock_shared(&as->ts.inode)) {
		cr_assert(!atomic_load(&task.done));
		iomap_inode_unlock_shared(&as->ts.inode);
		sched_yield();
	}
	for (unsigned i = 0; i < 1000; i++)
		sched_yield();
	td_open_gates(as->ts.dev);
	cr_assert_eq(t_join(&task), 0);
	req_wait(&req);
	cr_assert_lt(as->end_tick, truncator.tick);
	/* to the old size: truncation came after it */
	cr_assert_eq(req.ret, 16 * KIB);
	cr_assert_eq(iomap_i_size_read(&as->ts.inode), 4 * KIB);
	req_free(&req);
	as_close(as);
}

/* The only worker waits in ki_complete for the end of another I/O, which needs a worker. */
static void truncate_inside(struct req *req)
{
	t_must(iomap_truncate(req->as->ts.file, 4 * KIB) == 0);
}

Test(direct_async, di02_the_only_worker_may_truncate)
{
	struct iomap_engine_opts opts;
	struct as *as;
	struct req a, b;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.nr_workers = 1;
	as = mapped_in(true, &opts);
	req_init(&a, as, 4 * KIB, 0);
	req_init(&b, as, 4 * KIB, 8 * KIB);
	a.shut = true;
	a.hook = truncate_inside;
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&a), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(submit_read(&b), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(td_release(as->ts.dev, 1), 1U);
	req_wait(&a);
	td_open_gates(as->ts.dev);
	/* the end of b is queued, and the worker busy */
	cr_assert_eq(req_calls(&b), 0U);
	req_open(&a);
	req_wait(&b);
	cr_assert_eq(b.ret, 4 * KIB);
	as_close(as);
	req_free(&a);
	req_free(&b);
}

/* ---- without threads ---- */

Test(direct_async, di02_without_threads_poll_completes_it)
{
	struct as *as = mapped_in(false, NULL);
	struct iomap_engine *engine = as->ts.engine;
	struct req req;

	req_init(&req, as, 4 * KIB, 0);
	td_hold(as->ts.dev, TD_READ);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(iomap_engine_poll(engine, 10, true), 0);
	td_open_gates(as->ts.dev);
	/* neither in the device's context, nor in a call, nor where it may not block */
	in_call++;
	cr_assert(ts_reads(&as->ts, 8 * KIB, 4 * KIB, 1));
	cr_assert_eq(iomap_engine_poll(engine, 10, false), 0);
	in_call--;
	cr_assert_eq(req.calls, 0U);
	cr_assert_eq(as->ended, 0U);
	cr_assert_eq(iomap_file_close(as->file), -EBUSY);
	cr_assert_eq(iomap_engine_poll(engine, 10, true), 1);
	cr_assert_eq(req.calls, 1U);
	cr_assert_eq(req.ret, 4 * KIB);
	cr_assert(pthread_equal(req.thread, pthread_self()));
	cr_assert_lt(t_mismatch(req.buf, 4 * KIB, 0, 1), 0);
	req_free(&req);
	as_close(as);
}

Test(direct_async, di02_without_threads_a_truncation_completes_it_but_for_ki_complete)
{
	struct as *as = mapped_in(false, NULL);
	struct req req;

	req_init(&req, as, 4 * KIB, 8 * KIB);
	td_hold(as->ts.dev, TD_WRITE);
	cr_assert_eq(submit_write(&req), -IOMAP_EIOCBQUEUED);
	td_open_gates(as->ts.dev);
	cr_assert_eq(as->ended, 0U);
	in_call++;
	cr_assert_eq(iomap_truncate(as->ts.file, 4 * KIB), 0);
	in_call--;
	cr_assert_eq(as->ended, 1U);
	cr_assert_eq(req.calls, 0U);
	cr_assert_eq(iomap_engine_poll(as->ts.engine, 10, true), 1);
	cr_assert_eq(req.calls, 1U);
	cr_assert_eq(req.ret, 4 * KIB);
	req_free(&req);
	as_close(as);
}

static void poll_inside(struct req *req)
{
	t_must(iomap_engine_poll(req->as->ts.engine, 10, true) == 0);
}

Test(direct_async, di02_ki_complete_never_runs_inside_another)
{
	struct as *as = mapped_in(false, NULL);
	struct req req[4];

	td_hold(as->ts.dev, TD_READ);
	for (unsigned i = 0; i < 4; i++) {
		req_init(&req[i], as, 4 * KIB, (int64_t)i * 4 * KIB);
		req[i].hook = poll_inside;
		cr_assert_eq(submit_read(&req[i]), -IOMAP_EIOCBQUEUED);
	}
	td_open_gates(as->ts.dev);
	cr_assert_eq(iomap_engine_poll(as->ts.engine, 3, true), 3);
	cr_assert_eq(req[2].calls, 1U);
	cr_assert_eq(req[3].calls, 0U);
	cr_assert_eq(iomap_engine_poll(as->ts.engine, 3, true), 1);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(req[i].calls, 1U);
		req_free(&req[i]);
	}
	as_close(as);
}
