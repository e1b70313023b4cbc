/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * direct_async_files.c - DI02, DF06 on real files and each backend, where somebody has to reap what
 * nobody waits for; and on a device with faults.
 *
 * The file's own map: byte n of the inode is byte n of the file.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "testpiece.h"

#define KIB 1024
#define FILE_BYTES (4U << 20)

struct fixture {
	struct iomap_engine *engine;
	struct iomap_bdev *lower, *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct t_log log;
	char *path;
};

/* One call; ki_complete posts `done`. */
struct req {
	struct iomap_kiocb iocb; /* first */
	struct fixture *f;
	char *buf;
	size_t len;
	sem_t done;
	long ret;
	atomic_uint calls;
	struct req *wait_for; /* ki_complete waits until that one is done */
	sem_t begun;
};

static _Thread_local unsigned in_complete, in_call;

static struct tp whole = { .length = FILE_BYTES };

enum { ON_FILE, ON_FAULTY, ON_FAULTY_FILE };

/* With blocks of its own: holes are read before one can look. */
static void fill_file(const char *path)
{
	char *data = malloc(FILE_BYTES);

	t_must(data != NULL);
	memset(data, 0x77, FILE_BYTES);
	t_temp_put(path, data, FILE_BYTES);
	free(data);
}

static struct fixture *setup(unsigned on, uint32_t nr_workers, uint32_t flags, const char *backend)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &tp_aops,
					 .i_private = &whole };
	struct fixture *f = calloc(1, sizeof(*f));
	struct iomap_engine_opts opts;

	t_must(f != NULL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	opts.nr_workers = nr_workers;
	/* the flusher looks at the queues as well, when it looks */
	opts.flush_interval_ms = 3600 * 1000;
	opts.flags = flags;
	opts.backend = backend;
	f->engine = t_engine(&opts, &f->log);
	if (on == ON_FAULTY) {
		cr_assert_eq(iomap_bdev_open_memory(f->engine, FILE_BYTES, &f->lower), 0);
	} else {
		f->path = t_temp(FILE_BYTES);
		fill_file(f->path);
		cr_assert_eq(iomap_bdev_open(f->engine, f->path, &bdev_opts, &f->lower), 0);
	}
	if (on == ON_FILE) {
		f->bdev = f->lower;
		f->lower = NULL;
	} else {
		cr_assert_eq(iomap_faulty_create(f->lower, NULL, &f->bdev), 0);
	}
	args.bdev = f->bdev;
	args.i_size = FILE_BYTES;
	cr_assert_eq(iomap_inode_init(f->engine, &f->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&f->inode, 0, &f->file), 0);
	return f;
}

static void teardown(struct fixture *f)
{
	cr_assert_eq(iomap_file_close(f->file), 0);
	cr_assert_eq(iomap_inode_destroy(&f->inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(f->bdev), 0);
	if (f->lower)
		cr_assert_eq(iomap_bdev_close(f->lower), 0);
	cr_assert_eq(iomap_engine_destroy(f->engine), 0);
	if (f->path)
		t_temp_free(f->path);
	free(f);
}

static void sem_wait_long(sem_t *sem)
{
	struct timespec until;

	t_must(clock_gettime(CLOCK_REALTIME, &until) == 0);
	until.tv_sec += T_HANG_S;
	while (sem_timedwait(sem, &until) != 0)
		t_must(errno == EINTR);
}

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct req *req = (struct req *)(void *)iocb;

	t_must(!in_complete && !in_call);
	in_complete++;
	t_must(atomic_fetch_add(&req->calls, 1) == 0);
	req->ret = ret;
	if (req->wait_for) {
		sem_post(&req->begun);
		sem_wait_long(&req->wait_for->done);
		sem_post(&req->wait_for->done);
	}
	in_complete--;
	sem_post(&req->done);
}

static void req_init(struct req *req, struct fixture *f, size_t len)
{
	memset(req, 0, sizeof(*req));
	req->f = f;
	req->len = len;
	t_must(posix_memalign((void **)&req->buf, 4096, len) == 0);
	t_must(sem_init(&req->done, 0, 0) == 0 && sem_init(&req->begun, 0, 0) == 0);
}

static void req_exit(struct req *req)
{
	sem_destroy(&req->done);
	sem_destroy(&req->begun);
	free(req->buf);
}

static ssize_t submit(struct req *req, unsigned direction, int64_t pos)
{
	struct iomap_iov_iter iter;
	ssize_t ret;

	atomic_store(&req->calls, 0);
	iomap_kiocb_init(&req->iocb, req->f->file, pos);
	req->iocb.ki_complete = on_complete;
	iomap_iov_iter_ubuf(&iter, direction, req->buf, req->len);
	in_call++;
	iomap_inode_lock_shared(&req->f->inode);
	ret = iomap_dio_rw(&req->iocb, &iter, &tp_ops, NULL, 0, NULL, 0);
	iomap_inode_unlock_shared(&req->f->inode);
	in_call--;
	return ret;
}

/* The result, by whichever way it comes; never through the library. */
static ssize_t result(struct req *req, ssize_t submitted)
{
	if (submitted != -IOMAP_EIOCBQUEUED) {
		t_must(atomic_load(&req->calls) == 0);
		return submitted;
	}
	sem_wait_long(&req->done);
	t_must(atomic_load(&req->calls) == 1);
	return req->ret;
}

static ssize_t run(struct req *req, unsigned direction, int64_t pos)
{
	return result(req, submit(req, direction, pos));
}

/* ---- nobody comes back into the library ---- */

static void wait_on_a_semaphore(const char *backend, uint32_t nr_workers)
{
	struct fixture *f = setup(ON_FILE, nr_workers, 0, backend);
	struct req req;

	req_init(&req, f, 16 * KIB);
	for (unsigned i = 0; i < 100; i++) {
		int64_t pos = (int64_t)(i % 64) * 16 * KIB;

		t_fill(req.buf, req.len, pos, i);
		cr_assert_eq(run(&req, IOMAP_ITER_SOURCE, pos), 16 * KIB);
		memset(req.buf, 0, req.len);
		cr_assert_eq(run(&req, IOMAP_ITER_DEST, pos), 16 * KIB);
		cr_assert_lt(t_mismatch(req.buf, req.len, pos, i), 0);
	}
	req_exit(&req);
	teardown(f);
}

Test(direct_async_files, di02_it_completes_while_the_application_waits_elsewhere)
{
	wait_on_a_semaphore(NULL, 0);
}

Test(direct_async_files, di02_the_same_with_a_single_worker)
{
	wait_on_a_semaphore(NULL, 1);
}

Test(direct_async_files, di02_the_same_by_the_thread_pool)
{
	wait_on_a_semaphore("threads", 0);
}

Test(direct_async_files, di02_the_same_by_libaio)
{
	wait_on_a_semaphore("libaio", 0);
}

/* ki_complete of the first one waits for the second one, which has yet to be reaped. */
static void wait_inside(const char *backend)
{
	struct fixture *f = setup(ON_FILE, 2, 0, backend);
	struct req first, second;
	unsigned queued = 0;

	for (unsigned i = 0; i < 50; i++) {
		ssize_t ret;

		req_init(&first, f, 4 * KIB);
		req_init(&second, f, 4 * KIB);
		first.wait_for = &second;
		ret = submit(&first, IOMAP_ITER_DEST, 0);
		if (ret == -IOMAP_EIOCBQUEUED) {
			queued++;
			sem_wait_long(&first.begun);
			if (submit(&second, IOMAP_ITER_DEST, 4 * KIB) != -IOMAP_EIOCBQUEUED)
				sem_post(&second.done);
			sem_wait_long(&first.done);
			sem_wait_long(&second.done);
		} else {
			cr_assert_eq(ret, 4 * KIB, "%zd", ret);
		}
		/* both callbacks have returned */
		cr_assert_eq(iomap_file_close(f->file), 0);
		cr_assert_eq(iomap_file_open(&f->inode, 0, &f->file), 0);
		req_exit(&first);
		req_exit(&second);
	}
	printf("%llu were queued\n", (unsigned long long)queued);
	teardown(f);
}

Test(direct_async_files, di02_one_worker_reaps_while_the_other_is_held_up)
{
	wait_inside(NULL);
}

Test(direct_async_files, di02_the_same_held_up_by_the_thread_pool)
{
	wait_inside("threads");
}

/* ---- many in flight ---- */

#define SUBMITTERS 4
#define DEPTH 16
#define ROUNDS 60
#define REGION (FILE_BYTES / SUBMITTERS / DEPTH)

struct submitter {
	struct fixture *f;
	unsigned nr;
	uint64_t queued;
};

/* Each request has a region of its own: written, read back, compared, and so on. */
static long submit_many(void *arg)
{
	struct submitter *s = arg;
	struct req *req = calloc(DEPTH, sizeof(*req));
	ssize_t ret[DEPTH];
	char *sync_buf;

	t_must(req != NULL && posix_memalign((void **)&sync_buf, 4096, 4 * KIB) == 0);
	for (unsigned i = 0; i < DEPTH; i++)
		req_init(&req[i], s->f, 16 * KIB);
	for (unsigned round = 0; round < ROUNDS; round++) {
		bool write = !(round & 1);
		struct iomap_plug plug;

		if (round & 2)
			iomap_start_plug(&plug);
		for (unsigned i = 0; i < DEPTH; i++) {
			int64_t pos = (int64_t)(s->nr * DEPTH + i) * REGION;

			pos += (int64_t)(round / 2 % 4) * 16 * KIB;
			if (write)
				t_fill(req[i].buf, req[i].len, pos, round / 2);
			else
				memset(req[i].buf, 0, req[i].len);
			ret[i] = submit(&req[i], write, pos);
			s->queued += ret[i] == -IOMAP_EIOCBQUEUED;
		}
		if (round & 2)
			iomap_finish_plug(&plug);
		if (round % 5 == 0) {
			/* waits itself, and reaps; no ki_complete runs inside */
			struct iomap_iov_iter iter;
			struct iomap_kiocb iocb;

			in_call++;
			iomap_kiocb_init(&iocb, s->f->file, 0);
			iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, sync_buf, 4 * KIB);
			t_must(iomap_dio_rw(&iocb, &iter, &tp_ops, NULL, 0, NULL, 0) == 4 * KIB);
			in_call--;
		}
		for (unsigned i = 0; i < DEPTH; i++) {
			int64_t pos = (int64_t)(s->nr * DEPTH + i) * REGION;

			pos += (int64_t)(round / 2 % 4) * 16 * KIB;
			t_must(result(&req[i], ret[i]) == 16 * KIB);
			if (!write)
				t_must(t_mismatch(req[i].buf, req[i].len, pos, round / 2) < 0);
		}
	}
	while (iomap_engine_poll(s->f->engine, 16, true) > 0)
		;
	for (unsigned i = 0; i < DEPTH; i++)
		req_exit(&req[i]);
	free(req);
	free(sync_buf);
	return 0;
}

static void many(const char *backend, uint32_t nr_workers)
{
	struct fixture *f = setup(ON_FILE, nr_workers, 0, backend);
	struct submitter s[SUBMITTERS];
	struct t_task task[SUBMITTERS];
	uint64_t queued = 0;

	for (unsigned i = 0; i < SUBMITTERS; i++) {
		s[i] = (struct submitter){ .f = f, .nr = i };
		t_start(&task[i], submit_many, &s[i]);
	}
	for (unsigned i = 0; i < SUBMITTERS; i++) {
		t_join(&task[i]);
		queued += s[i].queued;
	}
	printf("%llu were queued\n", (unsigned long long)queued);
	teardown(f);
}

Test(direct_async_files, di02_many_from_many_threads, .timeout = 300)
{
	many(NULL, 0);
}

Test(direct_async_files, di02_many_by_a_single_worker, .timeout = 300)
{
	many(NULL, 1);
}

Test(direct_async_files, di02_many_by_libaio, .timeout = 300)
{
	many("libaio", 2);
}

Test(direct_async_files, di02_many_by_the_thread_pool, .timeout = 300)
{
	many("threads", 3);
}

/* ---- without threads ---- */

Test(direct_async_files, di02_without_threads_poll_reaps_and_completes)
{
	struct fixture *f = setup(ON_FILE, 0, IOMAP_ENGINE_NO_THREADS, NULL);
	struct req req[DEPTH];
	ssize_t ret[DEPTH];
	unsigned left = 0;

	for (unsigned i = 0; i < DEPTH; i++) {
		req_init(&req[i], f, 4 * KIB);
		t_fill(req[i].buf, 4 * KIB, i * 4 * KIB, 1);
		ret[i] = submit(&req[i], IOMAP_ITER_SOURCE, i * 4 * KIB);
		left += ret[i] == -IOMAP_EIOCBQUEUED;
	}
	while (left) {
		unsigned done = 0;

		t_must(iomap_engine_poll(f->engine, 3, true) >= 0);
		for (unsigned i = 0; i < DEPTH; i++)
			done += atomic_load(&req[i].calls);
		t_must(done <= left);
		if (done == left)
			break;
		sched_yield();
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		cr_assert_eq(result(&req[i], ret[i]), 4 * KIB);
		req_exit(&req[i]);
	}
	teardown(f);
}

/* ---- faults ---- */

static uint32_t add_fault(struct fixture *f, uint32_t kind, uint64_t nth, int error, uint32_t flags)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = kind,
		.nth = nth,
		.limit = nth ? 1 : 0,
		.error = error,
		.flags = flags,
	};
	uint32_t id;

	t_must(iomap_faulty_add(f->bdev, &fault, &id) == 0);
	return id;
}

/* Both have been submitted; the watcher turns to the first, and the second needs another one. */
Test(direct_async_files, di02_a_worker_that_turns_to_ki_complete_is_relieved)
{
	struct fixture *f = setup(ON_FAULTY_FILE, 2, 0, NULL);
	uint32_t id = add_fault(f, IOMAP_FAULT_DELAY, 0, 0, 0);
	struct req first, second;

	req_init(&first, f, 4 * KIB);
	req_init(&second, f, 4 * KIB);
	first.wait_for = &second;
	cr_assert_eq(submit(&first, IOMAP_ITER_DEST, 0), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(submit(&second, IOMAP_ITER_DEST, 4 * KIB), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(iomap_faulty_release(f->bdev, id, 1, IOMAP_RELEASE_FIFO), 1);
	sem_wait_long(&first.begun);
	cr_assert_eq(iomap_faulty_release(f->bdev, id, 1, IOMAP_RELEASE_FIFO), 1);
	sem_wait_long(&first.done);
	cr_assert_eq(result(&second, -IOMAP_EIOCBQUEUED), 4 * KIB);
	cr_assert_eq(iomap_faulty_remove(f->bdev, id), 0);
	req_exit(&first);
	req_exit(&second);
	teardown(f);
}

Test(direct_async_files, di02_what_is_delayed_completes_in_the_order_of_its_release)
{
	struct fixture *f = setup(ON_FAULTY, 1, 0, NULL);
	uint32_t id = add_fault(f, IOMAP_FAULT_DELAY, 0, 0, 0);
	struct req req[8];

	for (unsigned i = 0; i < 8; i++) {
		req_init(&req[i], f, 4 * KIB);
		cr_assert_eq(submit(&req[i], i & 1, i * 4 * KIB), -IOMAP_EIOCBQUEUED);
	}
	cr_assert_eq(iomap_faulty_wait_held(f->bdev, 8), 0);
	for (unsigned i = 8; i-- > 0;) {
		cr_assert_eq(atomic_load(&req[i].calls), 0U);
		cr_assert_eq(iomap_faulty_release(f->bdev, id, 1, IOMAP_RELEASE_LIFO), 1);
		cr_assert_eq(result(&req[i], -IOMAP_EIOCBQUEUED), 4 * KIB);
	}
	cr_assert_eq(iomap_faulty_remove(f->bdev, id), 0);
	for (unsigned i = 0; i < 8; i++)
		req_exit(&req[i]);
	teardown(f);
}

Test(direct_async_files, di02_each_of_several_ios_fails_in_turn)
{
	struct fixture *f = setup(ON_FAULTY, 0, 0, NULL);
	struct req req[6];
	ssize_t ret[6];

	for (unsigned nth = 1; nth <= 6; nth++) {
		uint32_t delay = add_fault(f, IOMAP_FAULT_DELAY, 0, 0, 0);
		uint32_t id = add_fault(f, IOMAP_FAULT_FAIL, nth, -EREMOTEIO, 0);

		for (unsigned i = 0; i < 6; i++) {
			req_init(&req[i], f, 4 * KIB);
			ret[i] = submit(&req[i], i & 1, i * 4 * KIB);
		}
		cr_assert_geq(iomap_faulty_release(f->bdev, delay, 6, IOMAP_RELEASE_FIFO), 5);
		for (unsigned i = 0; i < 6; i++) {
			cr_assert_eq(result(&req[i], ret[i]), i + 1 == nth ? -EREMOTEIO : 4 * KIB);
			req_exit(&req[i]);
		}
		cr_assert_eq(iomap_faulty_remove(f->bdev, id), 0);
		cr_assert_eq(iomap_faulty_remove(f->bdev, delay), 0);
	}
	teardown(f);
}

Test(direct_async_files, di02_a_device_that_is_gone_is_an_error_of_each)
{
	struct fixture *f = setup(ON_FAULTY, 0, 0, NULL);
	uint32_t id = add_fault(f, IOMAP_FAULT_DELAY, 0, 0, 0);
	struct req req[4];

	for (unsigned i = 0; i < 4; i++) {
		req_init(&req[i], f, 4 * KIB);
		cr_assert_eq(submit(&req[i], IOMAP_ITER_DEST, i * 4 * KIB), -IOMAP_EIOCBQUEUED);
	}
	cr_assert_eq(iomap_faulty_set_gone(f->bdev, true), 0);
	iomap_faulty_release(f->bdev, id, 4, IOMAP_RELEASE_FIFO);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(result(&req[i], -IOMAP_EIOCBQUEUED), -ENODEV);
		cr_assert_eq(run(&req[i], IOMAP_ITER_DEST, 0), -ENODEV);
		req_exit(&req[i]);
	}
	teardown(f);
}

/* ---- once, whatever happens ---- */

#define BATCH 8U

/* Release what is held, some at a time, in either order, until nothing is. */
static void release_all(struct fixture *f, uint32_t id, struct t_rand *r)
{
	while (iomap_faulty_held_nr(f->bdev) > 0)
		(void)iomap_faulty_release(f->bdev, id, 1 + t_below(r, 3),
					   t_below(r, 2) ? IOMAP_RELEASE_FIFO : IOMAP_RELEASE_LIFO);
}

Test(direct_async_files, di02_exactly_once_under_faults)
{
	struct fixture *f = setup(ON_FAULTY, 2, 0, NULL);
	struct t_rand r = { t_seed() };
	unsigned queued = 0, completed = 0, failed = 0;
	struct req req[BATCH];
	ssize_t ret[BATCH];

	for (unsigned round = 0; round < 60; round++) {
		uint32_t delay = add_fault(f, IOMAP_FAULT_DELAY, 0, 0,
					   t_below(&r, 2) ? IOMAP_FAULT_HOLD_END : 0);
		uint32_t fail = add_fault(f, IOMAP_FAULT_FAIL, 1 + t_below(&r, BATCH), -EREMOTEIO, 0);

		if (round == 59)
			cr_assert_eq(iomap_faulty_set_gone(f->bdev, true), 0);
		for (unsigned i = 0; i < BATCH; i++) {
			req_init(&req[i], f, 4 * KIB << t_below(&r, 3));
			ret[i] = submit(&req[i], (unsigned)t_below(&r, 2), (int64_t)i * 64 * KIB);
			queued += ret[i] == -IOMAP_EIOCBQUEUED;
		}
		release_all(f, delay, &r);
		for (unsigned i = 0; i < BATCH; i++) {
			ssize_t n = result(&req[i], ret[i]);

			failed += n < 0;
			cr_assert(n == (ssize_t)req[i].len || n == -EREMOTEIO ||
				  (round == 59 && n == -ENODEV));
		}
		/* nothing comes after it */
		iomap_inode_dio_wait(&f->inode);
		for (unsigned i = 0; i < BATCH; i++) {
			completed += atomic_load(&req[i].calls);
			req_exit(&req[i]);
		}
		cr_assert_eq(iomap_faulty_remove(f->bdev, fail), 0);
		cr_assert_eq(iomap_faulty_remove(f->bdev, delay), 0);
	}
	cr_assert_eq(completed, queued);
	cr_assert_gt(queued, 300U);
	cr_assert_gt(failed, 20U);
	teardown(f);
}

/* Six that the device holds. */
static uint32_t hang(struct fixture *f, struct req *req)
{
	uint32_t id = add_fault(f, IOMAP_FAULT_DELAY, 0, 0, 0);

	for (unsigned i = 0; i < 6; i++) {
		req_init(&req[i], f, 4 * KIB);
		cr_assert_eq(submit(&req[i], i & 1, i * 4 * KIB), -IOMAP_EIOCBQUEUED);
	}
	cr_assert_eq(iomap_faulty_wait_held(f->bdev, 6), 0);
	return id;
}

static void all_once(struct fixture *f, struct req *req, uint32_t id)
{
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(atomic_load(&req[i].calls), 0U);
	cr_assert_eq(iomap_faulty_release(f->bdev, id, 6, IOMAP_RELEASE_LIFO), 6);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(result(&req[i], -IOMAP_EIOCBQUEUED), 4 * KIB);
	cr_assert_eq(iomap_engine_shutdown(f->engine, UINT64_MAX), 0);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_eq(atomic_load(&req[i].calls), 1U);
		req_exit(&req[i]);
	}
	cr_assert_eq(iomap_faulty_remove(f->bdev, id), 0);
}

Test(direct_async_files, di02_exactly_once_over_a_shutdown)
{
	struct fixture *f = setup(ON_FAULTY, 2, 0, NULL);
	struct req req[6], late;
	uint32_t id = hang(f, req);

	cr_assert_eq(iomap_engine_shutdown(f->engine, 0), -ETIMEDOUT);
	req_init(&late, f, 4 * KIB);
	cr_assert_eq(run(&late, IOMAP_ITER_DEST, 0), -ESHUTDOWN);
	all_once(f, req, id);
	cr_assert_eq(atomic_load(&late.calls), 0U);
	req_exit(&late);
	teardown(f);
}

Test(direct_async_files, di02_exactly_once_with_a_device_that_hangs)
{
	struct fixture *f = setup(ON_FAULTY, 2, 0, NULL);
	struct iomap_iov_iter iter;
	struct req req[6], waits;
	uint32_t id = hang(f, req);

	/* one that waits gives up, and its ki_complete is never called */
	req_init(&waits, f, 4 * KIB);
	iomap_kiocb_init(&waits.iocb, f->file, 0);
	waits.iocb.ki_complete = on_complete;
	waits.iocb.ki_deadline = 1;
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, waits.buf, waits.len);
	cr_assert_eq(iomap_dio_rw(&waits.iocb, &iter, &tp_ops, NULL, IOMAP_DIO_FORCE_WAIT, NULL, 0),
		     -ETIMEDOUT);
	cr_assert_eq(iomap_faulty_wait_held(f->bdev, 7), 0);
	cr_assert_eq(iomap_faulty_release(f->bdev, id, 1, IOMAP_RELEASE_LIFO), 1);
	all_once(f, req, id);
	cr_assert_eq(atomic_load(&waits.calls), 0U);
	req_exit(&waits);
	teardown(f);
}

/* ---- HIPRI: the thread comes back for it ---- */

static void polled(uint32_t flags, const char *backend)
{
	struct fixture *f = setup(ON_FILE, 1, flags, backend);
	struct iomap_iov_iter iter;
	struct req req;

	req_init(&req, f, 4 * KIB);
	for (unsigned i = 0; i < 40; i++) {
		int64_t pos = (int64_t)(i / 2 % 8) * 4 * KIB;
		ssize_t ret;

		if (!(i & 1))
			t_fill(req.buf, req.len, pos, i / 2);
		else
			memset(req.buf, 0, req.len);
		atomic_store(&req.calls, 0);
		iomap_kiocb_init(&req.iocb, f->file, pos);
		req.iocb.ki_complete = on_complete;
		req.iocb.ki_flags |= IOMAP_IOCB_HIPRI;
		iomap_iov_iter_ubuf(&iter, i & 1 ? IOMAP_ITER_DEST : IOMAP_ITER_SOURCE, req.buf,
				    req.len);
		ret = iomap_dio_rw(&req.iocb, &iter, &tp_ops, NULL, 0, NULL, 0);
		while (ret == -IOMAP_EIOCBQUEUED && !atomic_load(&req.calls))
			t_must(iomap_engine_poll(f->engine, 4, true) >= 0);
		cr_assert_eq(result(&req, ret), 4 * KIB);
		if (i & 1)
			cr_assert_lt(t_mismatch(req.buf, req.len, pos, i / 2), 0);
	}
	req_exit(&req);
	teardown(f);
}

Test(direct_async_files, df06_a_polled_iocb_completes_as_its_thread_polls)
{
	polled(0, NULL);
	polled(IOMAP_ENGINE_NO_THREADS, NULL);
}

Test(direct_async_files, df06_where_a_backend_cannot_poll_it_completes_as_without)
{
	polled(0, "libaio");
	polled(IOMAP_ENGINE_NO_THREADS, "threads");
}

/* ---- steady state ---- */

Test(direct_async_files, di02_nothing_is_allocated_for_each_iocb)
{
	struct fixture *f = setup(ON_FILE, 1, 0, NULL);
	struct iomap_debug_counters before, after;
	struct req req;

	if (!t_debug())
		cr_skip_test("counts in debug builds only");
	req_init(&req, f, 16 * KIB);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(run(&req, i & 1, 0), 16 * KIB);
	before = t_counters();
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(run(&req, i & 1, 0), 16 * KIB);
	after = t_counters();
	/* of each a bio and the I/O itself, out of pools */
	cr_assert_leq(after.allocs_nr - before.allocs_nr, 200U);
	req_exit(&req);
	teardown(f);
}

/* ---- begun here, completed elsewhere ---- */

static long complete_it(void *arg)
{
	return iomap_dio_complete(arg);
}

/* An append is not queued: whoever completes it waits for it, and only its own thread could poll. */
Test(direct_async_files, di03_df06_what_was_to_be_polled_is_completed_by_another_thread)
{
	struct fixture *f = setup(ON_FILE, 1, 0, NULL);
	struct iomap_iov_iter iter;
	struct iomap_dio *dio;
	struct t_task task;
	struct req req;

	req_init(&req, f, 4 * KIB);
	for (unsigned i = 0; i < 4; i++) {
		iomap_i_size_write(&f->inode, 64 * KIB);
		iomap_kiocb_init(&req.iocb, f->file, 0);
		req.iocb.ki_complete = on_complete;
		req.iocb.ki_flags |= IOMAP_IOCB_HIPRI | IOMAP_IOCB_APPEND;
		iomap_iov_iter_ubuf(&iter, IOMAP_ITER_SOURCE, req.buf, req.len);
		dio = iomap_dio_start(&req.iocb, &iter, &tp_ops, NULL, 0, NULL, 0);
		cr_assert(dio && !iomap_is_err(dio), "%ld", iomap_ptr_err(dio));
		t_start(&task, complete_it, dio);
		cr_assert_eq(t_join(&task), 4 * KIB);
	}
	req_exit(&req);
	teardown(f);
}
