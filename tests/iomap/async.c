/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * async.c - EN07: buffered reads, writes and fsyncs by iocb whose caller does not wait.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "holder.h"
#include "teststore.h"

#define KIB 1024
#define PAGE 4096
#define FILE_BYTES (512 * KIB)

/* One call. */
struct req {
	struct iomap_kiocb iocb; /* first */
	struct ts *ts;
	char *buf;
	size_t len;
	int64_t at;
	ssize_t submitted; /* what the call returned */
	/* under ts->gate */
	unsigned calls;
	long ret;
	pthread_t thread;
	bool close; /* the file, in ki_complete */
};

static _Thread_local unsigned in_complete, in_call;

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct req *req = (struct req *)(void *)iocb;
	struct ts *ts = req->ts;

	t_must(!in_complete && !in_call);
	in_complete++;
	if (req->close)
		t_must(iomap_file_close(iocb->ki_filp) == 0);
	t_lock(&ts->gate);
	req->calls++;
	req->ret = ret;
	req->thread = pthread_self();
	t_wake(&ts->gate);
	t_unlock(&ts->gate);
	in_complete--;
}

static void req_init(struct req *req, struct ts *ts, int64_t pos, size_t len)
{
	memset(req, 0, sizeof(*req));
	req->ts = ts;
	req->at = pos;
	req->len = len;
	t_must(posix_memalign((void **)&req->buf, PAGE, len + 1) == 0);
	memset(req->buf, 0x5a, len);
	iomap_kiocb_init(&req->iocb, ts->file, pos);
	req->iocb.ki_complete = on_complete;
}

/* By a vector of more segments than a request has room for, which is gone when the call returns. */
static ssize_t submit(struct req *req, unsigned direction)
{
	struct iovec iov[8];
	size_t piece = req->len / 8;
	struct iomap_iov_iter iter;

	for (unsigned i = 0; i < 8; i++)
		iov[i] = (struct iovec){ req->buf + i * piece,
					 i < 7 ? piece : req->len - 7 * piece };
	iomap_iov_iter_init(&iter, direction, iov, 8, req->len);
	in_call++;
	req->submitted = direction == IOMAP_ITER_DEST ? iomap_read_iter(&req->iocb, &iter)
						      : iomap_write_iter(&req->iocb, &iter);
	in_call--;
	memset(iov, 0xff, sizeof(iov));
	return req->submitted;
}

static ssize_t submit_read(struct req *req)
{
	return submit(req, IOMAP_ITER_DEST);
}

static ssize_t submit_write(struct req *req, unsigned seed)
{
	t_fill(req->buf, req->len, req->at, seed);
	return submit(req, IOMAP_ITER_SOURCE);
}

static int submit_fsync(struct req *req)
{
	in_call++;
	req->submitted = iomap_fsync_iocb(&req->iocb, 0, INT64_MAX, 0);
	in_call--;
	return (int)req->submitted;
}

static unsigned req_calls(struct req *req)
{
	unsigned calls;

	t_lock(&req->ts->gate);
	calls = req->calls;
	t_unlock(&req->ts->gate);
	return calls;
}

static bool has_threads(struct ts *ts)
{
	return ts->cfg.threads;
}

static long req_wait(struct req *req)
{
	t_lock(&req->ts->gate);
	while (!req->calls) {
		if (has_threads(req->ts)) {
			t_wait(&req->ts->gate);
			continue;
		}
		t_unlock(&req->ts->gate);
		iomap_engine_poll(req->ts->engine, 1, true);
		t_lock(&req->ts->gate);
	}
	t_unlock(&req->ts->gate);
	return req->ret;
}

/* Nothing comes behind what has come. */
static void settle(struct ts *ts)
{
	while (!has_threads(ts) && iomap_engine_poll(ts->engine, 100, true) > 0)
		;
}

static bool req_has(struct req *req, size_t n, unsigned seed)
{
	return t_mismatch(req->buf, n, req->at, seed) == -1;
}

static struct ts *mapped_store(bool threads)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES, .threads = threads });

	ts_map(ts, 0, 2 * FILE_BYTES, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, FILE_BYTES, 0, 1);
	return ts;
}

/* ---- without ki_complete ---- */

Test(async, en07_without_ki_complete_the_calls_wait_and_move_the_position)
{
	struct ts *ts = mapped_store(false);
	struct req req;

	req_init(&req, ts, 100, 10000);
	req.iocb.ki_complete = NULL;
	cr_assert_eq(submit_read(&req), 10000);
	cr_assert_eq(req.iocb.ki_pos, 10100);
	cr_assert(req_has(&req, 10000, 1));
	req.at = 10100;
	cr_assert_eq(submit_write(&req, 2), 10000);
	cr_assert_eq(req.iocb.ki_pos, 20100);
	cr_assert(ts_reads(ts, 10100, 10000, 2));
	cr_assert_eq(submit_fsync(&req), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB + 10100, 10000, 10100, 2));
	/* the end of the file; an append, wherever ki_pos stands */
	req.iocb.ki_pos = FILE_BYTES;
	cr_assert_eq(submit_read(&req), 0);
	req.iocb.ki_pos = -5;
	cr_assert_eq(submit_read(&req), -EINVAL);
	req.iocb.ki_flags |= IOMAP_IOCB_APPEND;
	req.at = FILE_BYTES;
	cr_assert_eq(submit_write(&req, 3), 10000);
	cr_assert_eq(req.iocb.ki_pos, FILE_BYTES + 10000);
	cr_assert(ts_reads(ts, FILE_BYTES, 10000, 3));
	/* what no flag is */
	req.iocb.ki_flags |= 1U << 30;
	cr_assert_eq(submit_read(&req), -EINVAL);
	cr_assert_eq(submit_write(&req, 3), -EINVAL);
	free(req.buf);
	ts_close(ts);
}

static ssize_t own_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter)
{
	(void)iocb;
	return (ssize_t)iomap_iov_iter_count(iter) + 1;
}

static int own_fsync(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	(void)file, (void)start, (void)end, (void)datasync;
	return -ENOTTY;
}

Test(async, en07_the_file_operations_win)
{
	static const struct iomap_file_operations fop = { .read_iter = own_iter,
							  .write_iter = own_iter,
							  .fsync = own_fsync };
	struct ts *ts = calloc(1, sizeof(*ts));
	struct req req;

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = FILE_BYTES });
	ts->args.i_fop = &fop;
	ts_begin(ts);
	req_init(&req, ts, 0, 100);
	cr_assert_eq(submit_read(&req), 101);
	cr_assert_eq(submit_write(&req, 1), 101);
	cr_assert_eq(submit_fsync(&req), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(req_wait(&req), -ENOTTY);
	free(req.buf);
	ts_close(ts);
}

/* ---- reads ---- */

Test(async, en07_a_read_of_what_is_cached_returns_at_once)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
		req_init(&req, ts, 10, 32 * KIB);
		cr_assert_eq(submit_read(&req), 32 * KIB);
		cr_assert_eq(req.iocb.ki_pos, 32 * KIB + 10);
		cr_assert(req_has(&req, 32 * KIB, 1));
		settle(ts);
		free(req.buf);
		ts_close(ts);
		cr_assert_eq(req.calls, 0U);
	}
}

Test(async, en07_a_read_that_misses_is_queued_and_completes_once_elsewhere)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		cr_assert(ts_reads(ts, 0, PAGE, 1));
		ts_drop(ts);
		td_hold(ts->dev, TD_READ);
		req_init(&req, ts, 200 * KIB + 10, 64 * KIB);
		cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
		td_wait_held(ts->dev, 1);
		cr_assert_eq(req_calls(&req), 0U);
		/* its file stays */
		cr_assert_eq(iomap_file_close(ts->file), -EBUSY);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), 64 * KIB);
		cr_assert_eq(req.iocb.ki_pos, 264 * KIB + 10);
		cr_assert(req_has(&req, 64 * KIB, 1));
		cr_assert_eq(!pthread_equal(req.thread, pthread_self()), threads);
		settle(ts);
		ts_close(ts);
		cr_assert_eq(req.calls, 1U);
		free(req.buf);
	}
}

#define MANY 200U

Test(async, en07_many_reads_hold_no_thread_each)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		static struct req req[MANY];

		/* more than are let in at a time; each call returns though the device gives nothing */
		td_hold(ts->dev, TD_READ);
		for (unsigned i = 0; i < MANY; i++) {
			req_init(&req[i], ts, (int64_t)(i * 37 % MANY) * 2500, 2500);
			cr_assert_eq(submit_read(&req[i]), -IOMAP_EIOCBQUEUED);
		}
		for (unsigned i = 0; i < MANY; i++)
			cr_assert_eq(req_calls(&req[i]), 0U);
		td_open_gates(ts->dev);
		for (unsigned i = 0; i < MANY; i++) {
			cr_assert_eq(req_wait(&req[i]), 2500, "request %u: %ld", i, req[i].ret);
			cr_assert(req_has(&req[i], 2500, 1));
		}
		settle(ts);
		ts_close(ts);
		for (unsigned i = 0; i < MANY; i++) {
			cr_assert_eq(req[i].calls, 1U);
			free(req[i].buf);
		}
	}
}

Test(async, en07_a_read_goes_to_the_end_of_the_file_and_reads_nothing_twice)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		td_async(ts->dev);
		req_init(&req, ts, 100, FILE_BYTES);
		if (submit_read(&req) == -IOMAP_EIOCBQUEUED)
			req.submitted = req_wait(&req);
		cr_assert_eq(req.submitted, FILE_BYTES - 100);
		cr_assert(req_has(&req, FILE_BYTES - 100, 1));
		cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)FILE_BYTES);
		settle(ts);
		free(req.buf);
		ts_close(ts);
	}
}

Test(async, en07_an_error_comes_once_and_behind_what_was_read)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		ts->a_ops.readahead = NULL;
		td_fail(ts->dev, TD_READ, 64 * KIB + 2 * PAGE, PAGE, -EIO, 100);
		td_hold(ts->dev, TD_READ);
		req_init(&req, ts, 0, 4 * PAGE);
		cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), 2 * PAGE);
		free(req.buf);
		td_hold(ts->dev, TD_READ);
		req_init(&req, ts, 2 * PAGE, PAGE);
		cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), -EIO);
		settle(ts);
		cr_assert_eq(req.calls, 1U);
		free(req.buf);
		ts_close(ts);
	}
}

Test(async, en07_a_read_waits_for_a_lock_without_a_thread)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct iomap_folio *folio;
		struct holder holder;
		struct req req;

		/* a part of it is uptodate: the read needs the lock */
		ts_write(ts, 100, 10, 9);
		ts_drop(ts);
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
		ts->a_ops.readahead = NULL;
		td_fail(ts->dev, TD_READ, 64 * KIB, PAGE, -EIO, 1);
		req_init(&req, ts, 0, 10);
		cr_assert_eq(iomap_read(ts->file, req.buf, 10, 0), -EIO);
		folio = ts_folio(ts, 0);
		hold(ts, folio, &holder);
		cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(req_calls(&req), 0U);
		let_go(&holder);
		cr_assert_eq(req_wait(&req), 10);
		cr_assert(req_has(&req, 10, 1));
		iomap_folio_put(folio);
		settle(ts);
		free(req.buf);
		ts_close(ts);
	}
}

static long truncate_task(void *arg)
{
	struct ts *ts = arg;

	return iomap_truncate(ts->file, PAGE);
}

Test(async, en07_a_truncation_under_a_read)
{
	struct ts *ts = mapped_store(true);
	struct t_task task;
	struct req req;

	td_hold(ts->dev, TD_READ);
	req_init(&req, ts, 0, 64 * KIB);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	td_wait_held(ts->dev, 1);
	t_start(&task, truncate_task, ts);
	while (iomap_i_size_read(&ts->inode) != PAGE)
		sched_yield();
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&req), PAGE);
	cr_assert(req_has(&req, PAGE, 1));
	cr_assert_eq(t_join(&task), 0);
	free(req.buf);
	ts_close(ts);
}

#define CACHE_PAGES 1024

Test(async, en07_a_read_for_which_there_is_no_memory_waits_in_a_worker)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = (CACHE_PAGES + 8) * PAGE,
						     .cache_bytes = CACHE_PAGES * PAGE,
						     .threads = true });
	static struct iomap_pin pin[CACHE_PAGES];
	struct req req;

	for (unsigned i = 0; i < CACHE_PAGES; i++)
		cr_assert_eq(iomap_folio_pin(ts->file, (int64_t)i * PAGE, 0, &pin[i]), 0);
	req_init(&req, ts, (int64_t)CACHE_PAGES * PAGE, PAGE);
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	for (unsigned i = 0; i < CACHE_PAGES; i++)
		iomap_folio_unpin(&pin[i]);
	/* or it had given up before: then it says so, once */
	req_wait(&req);
	cr_assert(req.ret == PAGE || req.ret == -ENOMEM, "%ld", req.ret);
	free(req.buf);
	ts_close(ts);
}

Test(async, ki02_an_asynchronous_read_leaves_nothing_either)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		td_async(ts->dev);
		req_init(&req, ts, 0, FILE_BYTES);
		req.iocb.ki_flags |= IOMAP_IOCB_DONTCACHE;
		if (submit_read(&req) == -IOMAP_EIOCBQUEUED)
			req.submitted = req_wait(&req);
		cr_assert_eq(req.submitted, FILE_BYTES);
		cr_assert(req_has(&req, FILE_BYTES, 1));
		settle(ts);
		for (int64_t at = 0; at < FILE_BYTES; at += PAGE)
			cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data,
							       (uint64_t)at / PAGE));
		free(req.buf);
		ts_close(ts);
	}
}

/* ---- writes ---- */

Test(async, en07_a_write_that_need_not_wait_returns_at_once)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		req_init(&req, ts, 0, 8 * PAGE);
		cr_assert_eq(submit_write(&req, 2), 8 * PAGE);
		cr_assert_eq(req.iocb.ki_pos, 8 * PAGE);
		cr_assert(ts_reads(ts, 0, 8 * PAGE, 2));
		settle(ts);
		cr_assert_eq(req_calls(&req), 0U);
		free(req.buf);
		ts_close(ts);
	}
}

Test(async, en07_a_write_waits_for_i_rwsem_in_a_worker)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct holder holder;
		struct req req;

		hold(ts, NULL, &holder);
		req_init(&req, ts, 10, 8 * PAGE);
		cr_assert_eq(submit_write(&req, 2), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(iomap_file_close(ts->file), -EBUSY);
		let_go(&holder);
		cr_assert_eq(req_wait(&req), 8 * PAGE);
		cr_assert_eq(req.iocb.ki_pos, 8 * PAGE + 10);
		cr_assert(ts_reads(ts, 10, 8 * PAGE, 2));
		settle(ts);
		cr_assert_eq(req.calls, 1U);
		free(req.buf);
		ts_close(ts);
	}
}

Test(async, en07_a_write_reads_the_rest_of_its_blocks_in_a_worker)
{
	struct ts *ts = mapped_store(true);
	struct req req;

	/* the first and the last; what lies between is whole */
	td_hold(ts->dev, TD_READ);
	req_init(&req, ts, 10, 8 * PAGE);
	cr_assert_eq(submit_write(&req, 2), -IOMAP_EIOCBQUEUED);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(req_calls(&req), 0U);
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&req), 8 * PAGE);
	free(req.buf);
	/* only the last: the two parts are one count */
	ts_fsync(ts);
	ts_drop(ts);
	td_hold(ts->dev, TD_READ);
	req_init(&req, ts, 0, 8 * PAGE + 10);
	cr_assert_eq(submit_write(&req, 3), -IOMAP_EIOCBQUEUED);
	td_wait_held(ts->dev, 1);
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&req), 8 * PAGE + 10);
	cr_assert_eq(req.iocb.ki_pos, 8 * PAGE + 10);
	cr_assert(ts_reads(ts, 0, 8 * PAGE + 10, 3));
	free(req.buf);
	ts_close(ts);
}

Test(async, en07_a_write_is_throttled_in_a_worker)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = CACHE_PAGES * PAGE,
						     .cache_bytes = CACHE_PAGES * PAGE,
						     .threads = true });
	unsigned pages = CACHE_PAGES / 2;
	struct req req;

	/* the hard limit is 40 % */
	ts_map(ts, 0, CACHE_PAGES * PAGE, IOMAP_MAPPED, 0, 64 * KIB);
	td_hold(ts->dev, TD_WRITE);
	req_init(&req, ts, 0, (size_t)pages * PAGE);
	cr_assert_eq(submit_write(&req, 2), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(req_calls(&req), 0U);
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&req), (long)pages * PAGE);
	cr_assert(ts_reads(ts, 0, (size_t)pages * PAGE, 2));
	free(req.buf);
	ts_close(ts);
}

static ssize_t defer(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		     uint64_t pos, unsigned len, uint64_t end_pos)
{
	if (atomic_load((atomic_bool *)ts->hook.arg))
		return IOMAP_WB_DEFER;
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

/* Writes wait for what is held back, and what the application may need to let it go does not. */
Test(async, en07_writes_that_wait_hold_up_no_sync)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = CACHE_PAGES * PAGE,
						     .cache_bytes = CACHE_PAGES * PAGE,
						     .threads = true });
	struct ts *log = ts_open(&(struct ts_config){ .i_size = PAGE, .engine = ts->engine,
						      .dev = ts->dev, .threads = true });
	struct req write[4], sync;
	atomic_bool holds = true;

	ts_map(ts, 0, CACHE_PAGES * PAGE, IOMAP_MAPPED, 0, 64 * KIB);
	ts_map(log, 0, PAGE, IOMAP_MAPPED, 0, 0);
	ts->hook.arg = &holds;
	ts->hook.range = defer;
	for (unsigned i = 0; i < 4; i++) {
		req_init(&write[i], ts, (int64_t)i * PAGE * (CACHE_PAGES / 4),
			 (size_t)PAGE * (CACHE_PAGES / 4));
		submit_write(&write[i], 2);
	}
	cr_assert_eq(write[3].submitted, -IOMAP_EIOCBQUEUED);
	req_init(&sync, log, 0, 1);
	cr_assert_eq(submit_fsync(&sync), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(req_wait(&sync), 0);
	cr_assert_eq(req_calls(&write[3]), 0U);
	atomic_store(&holds, false);
	iomap_writeback_resume(&ts->inode);
	for (unsigned i = 0; i < 4; i++) {
		if (write[i].submitted == -IOMAP_EIOCBQUEUED)
			write[i].submitted = req_wait(&write[i]);
		cr_assert_eq(write[i].submitted, PAGE * (CACHE_PAGES / 4));
		free(write[i].buf);
	}
	cr_assert(ts_reads(ts, 0, CACHE_PAGES * PAGE, 2));
	free(sync.buf);
	ts_close(log);
	ts_close(ts);
}

Test(async, en07_a_durable_write_completes_when_it_is_durable)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		td_hold(ts->dev, TD_WRITE);
		req_init(&req, ts, 0, 4 * PAGE);
		req.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
		cr_assert_eq(submit_write(&req, 2), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(req_calls(&req), 0U);
		cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), 4 * PAGE);
		cr_assert(ts_dev_has(ts, 64 * KIB, 4 * PAGE, 0, 2));
		cr_assert_geq(td_count(ts->dev, TD_FLUSH), 1U);
		free(req.buf);
		/* an error of the sync is the result */
		td_fail(ts->dev, TD_WRITE, 64 * KIB, PAGE, -EIO, 1);
		req_init(&req, ts, 0, PAGE);
		req.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
		cr_assert_eq(submit_write(&req, 3), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(req_wait(&req), -EIO);
		settle(ts);
		free(req.buf);
		ts_close(ts);
	}
}

#define RECORD 5000U
#define RECORDS 60U

Test(async, bw06_en07_asynchronous_appends_do_not_overlap)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = ts_open(&(struct ts_config){ .threads = threads });
		static struct req req[RECORDS];
		bool seen[RECORDS] = { false };
		struct holder holder;

		ts_map(ts, 0, 1024 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
		for (unsigned i = 0; i < RECORDS; i++) {
			if (i == RECORDS / 3)
				hold(ts, NULL, &holder);
			if (i == RECORDS * 2 / 3)
				let_go(&holder);
			req_init(&req[i], ts, 12345, RECORD);
			req[i].iocb.ki_flags |= IOMAP_IOCB_APPEND;
			memset(req[i].buf, (int)i + 1, RECORD);
			submit(&req[i], IOMAP_ITER_SOURCE);
		}
		for (unsigned i = 0; i < RECORDS; i++) {
			ssize_t ret = req[i].submitted;

			if (ret == -IOMAP_EIOCBQUEUED)
				ret = req_wait(&req[i]);
			cr_assert_eq(ret, RECORD);
		}
		settle(ts);
		cr_assert_eq(iomap_i_size_read(&ts->inode), (int64_t)(RECORDS * RECORD));
		for (unsigned i = 0; i < RECORDS; i++) {
			int64_t at = req[i].iocb.ki_pos - RECORD;

			cr_assert_eq(at % RECORD, 0);
			cr_assert_not(seen[at / RECORD]);
			seen[at / RECORD] = true;
			cr_assert(ts_reads_all(ts, at, RECORD, (int)i + 1));
			free(req[i].buf);
		}
		ts_close(ts);
	}
}

Test(async, bw06_en07_an_append_is_finished_in_one_piece)
{
	const size_t len = 500 * PAGE;
	struct ts *ts = ts_open(&(struct ts_config){ .cache_bytes = CACHE_PAGES * PAGE });
	struct req req;

	/* more than may be dirty at a time: it has begun, and nobody may come between */
	ts_map(ts, 0, CACHE_PAGES * PAGE, IOMAP_MAPPED, 0, 64 * KIB);
	req_init(&req, ts, 0, len);
	req.iocb.ki_flags |= IOMAP_IOCB_APPEND;
	cr_assert_eq(submit_write(&req, 2), (ssize_t)len);
	cr_assert(ts_reads(ts, 0, len, 2));
	/* any other one goes on in a worker */
	req.iocb.ki_flags &= ~IOMAP_IOCB_APPEND;
	req.iocb.ki_pos = 0;
	cr_assert_eq(submit_write(&req, 3), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(req_wait(&req), (long)len);
	cr_assert(ts_reads(ts, 0, len, 3));
	free(req.buf);
	ts_close(ts);
}

/* ---- fsync ---- */

static bool commit_elsewhere;
static pthread_t submitter;

static int commit(struct ts *ts, int datasync)
{
	(void)ts, (void)datasync;
	commit_elsewhere = !pthread_equal(pthread_self(), submitter);
	return 0;
}

Test(async, en07_fsync_starts_the_write_out_and_completes_when_all_is_durable)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req req;

		submitter = pthread_self();
		ts->hook.commit = commit;
		ts_write(ts, 0, 8 * PAGE, 2);
		td_hold(ts->dev, TD_WRITE);
		req_init(&req, ts, 0, 1);
		cr_assert_eq(submit_fsync(&req), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 8U * PAGE);
		cr_assert_eq(req_calls(&req), 0U);
		cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), 0);
		cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
		cr_assert_eq(commit_elsewhere, threads);
		cr_assert(ts_dev_has(ts, 64 * KIB, 8 * PAGE, 0, 2));
		cr_assert_geq(td_count(ts->dev, TD_FLUSH), 1U);
		settle(ts);
		cr_assert_eq(req.calls, 1U);
		free(req.buf);
		ts_close(ts);
	}
}

Test(async, en07_fsync_tells_an_error_once)
{
	struct ts *ts = mapped_store(true);
	struct req req;

	ts_write(ts, 0, PAGE, 2);
	td_fail(ts->dev, TD_WRITE, 64 * KIB, PAGE, -EIO, 1);
	for (int i = 0; i < 2; i++) {
		req_init(&req, ts, 0, 1);
		cr_assert_eq(submit_fsync(&req), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(req_wait(&req), i ? 0 : -EIO);
		free(req.buf);
	}
	req_init(&req, ts, 0, 1);
	cr_assert_eq(iomap_fsync_iocb(&req.iocb, 5, 4, 0), -EINVAL);
	free(req.buf);
	ts_close(ts);
}

/* ---- direct ---- */

/* What has been read for a request may be forgotten before it gets to it: then it is read again. */
Test(async, en07_a_read_whose_blocks_a_direct_write_has_forgotten)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct iomap_iov_iter from;
	struct req read, write;

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = PAGE, .blkbits = 9 });
	ts->hook.open = ts_allow_direct;
	ts->a_ops.readahead = NULL;
	ts_begin(ts);
	ts_map(ts, 0, PAGE, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, PAGE, 0, 1);
	td_hold(ts->dev, TD_READ | TD_WRITE);
	req_init(&write, ts, 2048, 512);
	t_fill(write.buf, 512, 2048, 3);
	write.iocb.ki_flags |= IOMAP_IOCB_DIRECT;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, write.buf, 512);
	cr_assert_eq(iomap_write_iter(&write.iocb, &from), -IOMAP_EIOCBQUEUED);
	/* dirty elsewhere: the folio stays when the write drops its range */
	ts_write(ts, 0, 512, 2);
	req_init(&read, ts, 2048, 512);
	cr_assert_eq(submit_read(&read), -IOMAP_EIOCBQUEUED);
	td_wait_held(ts->dev, 2);
	/* the write's end is queued before the rest of the read */
	cr_assert_eq(td_release(ts->dev, 1), 1U);
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&read), 512);
	cr_assert_eq(req_wait(&write), 512);
	cr_assert(req_has(&read, 512, 3));
	cr_assert(ts_reads(ts, 0, 512, 2));
	free(read.buf);
	free(write.buf);
	ts_close(ts);
}

static struct ts *direct_store(bool threads)
{
	struct ts *ts = calloc(1, sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = FILE_BYTES, .threads = threads });
	ts->hook.open = ts_allow_direct;
	ts_begin(ts);
	ts_map(ts, 0, 2 * FILE_BYTES, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, FILE_BYTES, 0, 1);
	return ts;
}

Test(async, en07_direct_calls_go_past_the_cache)
{
	for (int held = 0; held < 2; held++) {
		struct ts *ts = direct_store(true);
		struct holder holder;
		struct req req;

		/* with the lock held by somebody a worker makes the call */
		if (held)
			hold(ts, NULL, &holder);
		td_hold(ts->dev, TD_READ | TD_WRITE);
		req_init(&req, ts, 0, 64 * KIB);
		req.iocb.ki_flags |= IOMAP_IOCB_DIRECT;
		cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
		if (held)
			let_go(&holder);
		td_wait_held(ts->dev, 1);
		td_open_gates(ts->dev);
		cr_assert_eq(req_wait(&req), 64 * KIB);
		cr_assert(req_has(&req, 64 * KIB, 1));
		free(req.buf);
		/* inside the file, and behind its end */
		for (int64_t at = 0; at <= FILE_BYTES; at += FILE_BYTES) {
			td_hold(ts->dev, TD_READ | TD_WRITE);
			if (held)
				hold(ts, NULL, &holder);
			req_init(&req, ts, at, 64 * KIB);
			req.iocb.ki_flags |= IOMAP_IOCB_DIRECT | IOMAP_IOCB_DSYNC;
			cr_assert_eq(submit_write(&req, 2), -IOMAP_EIOCBQUEUED);
			if (held)
				let_go(&holder);
			td_wait_held(ts->dev, 1);
			td_open_gates(ts->dev);
			cr_assert_eq(req_wait(&req), 64 * KIB);
			cr_assert(ts_dev_has(ts, (uint64_t)(64 * KIB + at), 64 * KIB, at, 2));
			free(req.buf);
		}
		cr_assert_eq(iomap_i_size_read(&ts->inode), FILE_BYTES + 64 * KIB);
		ts_close(ts);
	}
}

Test(async, en07_a_direct_write_behind_dirty_data_that_is_held_back)
{
	struct ts *ts = direct_store(true);
	struct req req;

	/* what is not aligned is an error of the call */
	req_init(&req, ts, 100, 64 * KIB);
	req.iocb.ki_flags |= IOMAP_IOCB_DIRECT;
	cr_assert_eq(submit_read(&req), -EINVAL);
	free(req.buf);
	/* what is in the cache is read from there once it is written */
	ts_write(ts, 0, 10, 5);
	req_init(&req, ts, 0, 64 * KIB);
	req.iocb.ki_flags |= IOMAP_IOCB_DIRECT;
	if (submit_read(&req) == -IOMAP_EIOCBQUEUED)
		req.submitted = req_wait(&req);
	cr_assert_eq(req.submitted, 64 * KIB);
	cr_assert_eq(t_mismatch(req.buf, 10, 0, 5), -1);
	free(req.buf);
	ts_close(ts);
}

/* ---- ends ---- */

Test(async, en07_ki_complete_may_close_the_file)
{
	struct ts *ts = mapped_store(true);
	struct iomap_file *file;
	struct req req;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &file), 0);
	td_hold(ts->dev, TD_READ);
	req_init(&req, ts, 0, PAGE);
	iomap_kiocb_init(&req.iocb, file, 0);
	req.iocb.ki_complete = on_complete;
	req.close = true;
	cr_assert_eq(submit_read(&req), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	td_open_gates(ts->dev);
	cr_assert_eq(req_wait(&req), PAGE);
	free(req.buf);
	ts_close(ts);
}

Test(async, en07_shutdown_waits_for_what_is_under_way)
{
	for (int threads = 0; threads < 2; threads++) {
		struct ts *ts = mapped_store(threads);
		struct req read, write, late;
		struct holder holder;

		td_hold(ts->dev, TD_READ);
		req_init(&read, ts, 0, PAGE);
		cr_assert_eq(submit_read(&read), -IOMAP_EIOCBQUEUED);
		hold(ts, NULL, &holder);
		req_init(&write, ts, 64 * KIB, PAGE);
		if (threads)
			cr_assert_eq(submit_write(&write, 2), -IOMAP_EIOCBQUEUED);
		cr_assert_eq(iomap_engine_shutdown(ts->engine, 1), -ETIMEDOUT);
		req_init(&late, ts, 128 * KIB, PAGE);
		cr_assert_eq(submit_read(&late), -ESHUTDOWN);
		cr_assert_eq(submit_write(&late, 2), -ESHUTDOWN);
		cr_assert_eq(submit_fsync(&late), -ESHUTDOWN);
		let_go(&holder);
		td_open_gates(ts->dev);
		cr_assert_eq(iomap_engine_shutdown(ts->engine, UINT64_MAX), 0);
		cr_assert_eq(req_calls(&read), 1U);
		cr_assert_eq(read.ret, PAGE);
		if (threads) {
			cr_assert_eq(req_calls(&write), 1U);
			cr_assert(write.ret == PAGE || write.ret == -ESHUTDOWN);
		}
		cr_assert_eq(req_calls(&late), 0U);
		free(read.buf);
		free(write.buf);
		free(late.buf);
		ts_close(ts);
	}
}

static bool deny_workers(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	/* the first one is the flusher */
	return kind == IOMAP_FAIL_THREAD_CREATE && n > 1;
}

Test(async, en07_where_no_worker_can_be_had_the_calls_wait)
{
	struct iomap_engine_opts opts;
	struct ts *ts;
	struct req req;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4U << 20;
	opts.fail_nth = deny_workers;
	ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES, .opts = &opts, .threads = true });
	ts_map(ts, 0, 2 * FILE_BYTES, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, FILE_BYTES, 0, 1);
	td_async(ts->dev);
	req_init(&req, ts, 10, 5 * PAGE);
	cr_assert_eq(submit_read(&req), 5 * PAGE);
	cr_assert(req_has(&req, 5 * PAGE, 1));
	ts_drop(ts);
	req.iocb.ki_pos = 10;
	req.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
	cr_assert_eq(submit_write(&req, 2), 5 * PAGE);
	cr_assert(ts_dev_has(ts, 64 * KIB + 10, 5 * PAGE, 10, 2));
	cr_assert_eq(submit_fsync(&req), 0);
	cr_assert_eq(req_calls(&req), 0U);
	free(req.buf);
	ts_close(ts);
}

/* ---- all at once ---- */

#define HAMMER_THREADS 4
#define HAMMER_SLOTS 8
#define HAMMER_ROUNDS (T_SANITIZED ? 60U : 200U)

struct hammer {
	struct ts *ts;
	unsigned nr;
	uint64_t seed;
};

/* Each thread has a part of the file, 64 KiB long, of which it knows what is in each page. */
static long hammer_task(void *arg)
{
	struct hammer *hammer = arg;
	struct t_rand r = { hammer->seed + hammer->nr };
	int64_t base = (int64_t)hammer->nr * 64 * KIB;
	unsigned seed[HAMMER_SLOTS];
	struct req req[HAMMER_SLOTS];

	for (unsigned i = 0; i < HAMMER_SLOTS; i++)
		seed[i] = 1;
	for (unsigned round = 0; round < HAMMER_ROUNDS; round++) {
		unsigned what[HAMMER_SLOTS];

		for (unsigned i = 0; i < HAMMER_SLOTS; i++) {
			int64_t at = base + (int64_t)i * 8 * KIB + (int64_t)t_below(&r, 3000);

			what[i] = (unsigned)t_below(&r, 4);
			req_init(&req[i], hammer->ts, at, 5000);
			if (t_below(&r, 4) == 0)
				req[i].iocb.ki_flags |= IOMAP_IOCB_DONTCACHE;
			if (what[i] == 0) {
				req[i].at = base + (int64_t)i * 8 * KIB;
				req[i].iocb.ki_pos = req[i].at;
				free(req[i].buf);
				req[i].buf = malloc(8 * KIB + 1);
				req[i].len = 8 * KIB;
				seed[i] = 2 + round;
				if (t_below(&r, 8) == 0)
					req[i].iocb.ki_flags |= IOMAP_IOCB_DSYNC;
				submit_write(&req[i], seed[i]);
			} else if (what[i] == 1 && t_below(&r, 8) == 0) {
				what[i] = 3;
				submit_fsync(&req[i]);
			} else {
				what[i] = 2;
				submit_read(&req[i]);
			}
		}
		for (unsigned i = 0; i < HAMMER_SLOTS; i++) {
			long ret = req[i].submitted;

			if (ret == -IOMAP_EIOCBQUEUED)
				ret = req_wait(&req[i]);
			t_must(ret == (what[i] == 3 ? 0 : (long)req[i].len));
			if (what[i] == 2)
				t_must(req_has(&req[i], req[i].len, seed[i]));
			free(req[i].buf);
		}
		if (t_below(&r, 4) == 0)
			ts_drop(hammer->ts);
	}
	return 0;
}

Test(async, en07_calls_of_all_kinds_from_many_threads)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES, .threads = true,
						     .cache_bytes = 1024 * KIB });
	struct hammer hammer[HAMMER_THREADS];
	struct t_task task[HAMMER_THREADS];
	uint64_t seed = t_seed();

	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, FILE_BYTES, 0, 1);
	td_async(ts->dev);
	for (unsigned i = 0; i < HAMMER_THREADS; i++) {
		hammer[i] = (struct hammer){ ts, i, seed };
		t_start(&task[i], hammer_task, &hammer[i]);
	}
	for (unsigned i = 0; i < HAMMER_THREADS; i++)
		t_join(&task[i]);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}
