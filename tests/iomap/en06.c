/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * en06.c - EN06: an event loop drives completions, work, and without threads the ageing of
 * dirty data: iomap_engine_fd(), iomap_engine_poll(), iomap_engine_poll_timeout().
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "testpiece.h"
#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define FILE_BYTES (4U << 20)
#define BLOCK 4096
#define DEPTH 32U

/* ---- the descriptor ---- */

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int nr;

	do
		nr = poll(&p, 1, 0);
	while (nr < 0 && errno == EINTR);
	t_must(nr >= 0);
	return nr > 0;
}

/* Sleep in the descriptor; never a limit but that of a hang. */
static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int nr;

	do
		nr = poll(&p, 1, T_HANG_S * 1000);
	while (nr < 0 && errno == EINTR);
	t_must(nr == 1);
}

/* What was left for a look is looked at; then there is nothing, and the loop may sleep. */
static void settle(struct iomap_engine *engine, int fd)
{
	for (unsigned i = 0; readable(fd); i++) {
		t_must(iomap_engine_poll(engine, 64, true) >= 0);
		cr_assert_lt(i, 1000U, "readable for ever");
	}
	cr_assert_eq(iomap_engine_poll(engine, 64, true), 0);
	cr_assert(!readable(fd));
}

static struct iomap_engine *engine_new(uint32_t flags, struct t_log *log)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.flags = flags;
	return t_engine(&opts, log);
}

Test(en06, en06_the_descriptor_is_one_and_quiet_when_nothing_waits)
{
	struct iomap_engine *engine;
	struct t_log log;
	int fd;

	engine = engine_new(IOMAP_ENGINE_NO_THREADS, &log);
	fd = iomap_engine_fd(engine);
	cr_assert_geq(fd, 0);
	cr_assert_eq(iomap_engine_fd(engine), fd);
	cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	settle(engine, fd);
	cr_assert_eq(iomap_engine_poll_timeout(engine), -1);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	cr_assert_eq(fcntl(fd, F_GETFD), -1, "closed with the engine");
	cr_assert_eq(iomap_engine_fd(NULL), -EINVAL);
}

static bool no_eventfd(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	unsigned *at = ctx;

	(void)n;
	return kind == IOMAP_FAIL_EVENTFD && *at && --*at == 0;
}

Test(en06, en06_without_descriptors_the_call_fails_and_works_later)
{
	int before = open("/dev/null", O_RDONLY);
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct t_log log;
	int fd;

	/* epoll, notify, work */
	for (unsigned nth = 1; nth <= 3; nth++) {
		unsigned at = 0;

		iomap_engine_opts_init(&opts);
		opts.flags = IOMAP_ENGINE_NO_THREADS;
		opts.fail_nth = no_eventfd;
		opts.fail_ctx = &at;
		engine = t_engine(&opts, &log);
		at = nth;
		cr_assert_eq(iomap_engine_fd(engine), -EMFILE);
		fd = iomap_engine_fd(engine);
		cr_assert_geq(fd, 0);
		settle(engine, fd);
		cr_assert_eq(iomap_engine_destroy(engine), 0);
	}
	close(before);
	cr_assert_eq(open("/dev/null", O_RDONLY), before, "no descriptor was left open");
}

/* ---- work ---- */

struct job {
	struct iomap_work work; /* first */
	unsigned ran;
};

static void job_run(struct iomap_work *work)
{
	((struct job *)(void *)work)->ran++;
}

Test(en06, en06_it_is_readable_while_work_waits)
{
	struct iomap_engine *engine;
	struct job job[3];
	struct t_log log;
	int fd;

	engine = engine_new(IOMAP_ENGINE_NO_THREADS, &log);
	memset(job, 0, sizeof(job));
	iomap_init_work(&job[0].work, job_run);
	cr_assert(iomap_queue_work(engine, &job[0].work));
	cr_assert_eq(iomap_engine_poll_timeout(engine), 0);
	fd = iomap_engine_fd(engine);
	cr_assert_geq(fd, 0);
	/* also for what was queued before there was one */
	cr_assert_eq(iomap_engine_poll(engine, 0, false), 0);
	cr_assert(readable(fd));
	cr_assert_eq(iomap_engine_poll(engine, 1, true), 1);
	settle(engine, fd);

	for (unsigned i = 1; i < 3; i++) {
		iomap_init_work(&job[i].work, job_run);
		cr_assert(iomap_queue_work(engine, &job[i].work));
		cr_assert(readable(fd));
	}
	/* who may not run it leaves it readable, and so does who has not run all */
	cr_assert_eq(iomap_engine_poll(engine, 9, false), 0);
	cr_assert(readable(fd));
	cr_assert_eq(iomap_engine_poll(engine, 1, true), 1);
	cr_assert(readable(fd));
	cr_assert_eq(iomap_engine_poll(engine, 9, true), 1);
	cr_assert(!readable(fd));
	cr_assert_eq(job[1].ran + job[2].ran, 2U);

	/* taken by a flush: nothing is left to do */
	cr_assert(iomap_queue_work(engine, &job[0].work));
	iomap_flush_work(engine, &job[0].work);
	cr_assert(!readable(fd));
	cr_assert_eq(iomap_engine_poll_timeout(engine), -1);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

/* ---- direct I/O on each backend ---- */

struct fixture {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct t_log log;
	char *path;
	int fd;
	atomic_uint completed;
};

struct req {
	struct iomap_kiocb iocb; /* first */
	struct fixture *f;
	char *buf;
	int64_t pos;
	bool busy; /* the loop's */
	unsigned calls;
};

static struct tp whole = { .length = FILE_BYTES };

static void fill_file(const char *path)
{
	char *data = malloc(FILE_BYTES);

	t_must(data != NULL);
	t_fill(data, FILE_BYTES, 0, 3);
	t_temp_put(path, data, FILE_BYTES);
	free(data);
}

static struct fixture *setup(uint32_t flags, const char *backend)
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
	opts.flush_interval_ms = 3600 * 1000;
	opts.queue_depth = 16; /* less than is in flight: the backlog is part of it */
	opts.flags = flags;
	opts.backend = backend;
	f->engine = t_engine(&opts, &f->log);
	f->path = t_temp(FILE_BYTES);
	fill_file(f->path);
	cr_assert_eq(iomap_bdev_open(f->engine, f->path, &bdev_opts, &f->bdev), 0);
	args.bdev = f->bdev;
	args.i_size = FILE_BYTES;
	cr_assert_eq(iomap_inode_init(f->engine, &f->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&f->inode, 0, &f->file), 0);
	f->fd = iomap_engine_fd(f->engine);
	cr_assert_geq(f->fd, 0);
	return f;
}

static void teardown(struct fixture *f)
{
	cr_assert_eq(iomap_file_close(f->file), 0);
	cr_assert_eq(iomap_inode_destroy(&f->inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(f->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(f->engine), 0);
	t_temp_free(f->path);
	free(f);
}

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct req *req = (struct req *)(void *)iocb;

	t_must(ret == BLOCK);
	t_must(t_mismatch(req->buf, BLOCK, req->pos, 3) < 0);
	t_must(req->calls++ == 0);
	req->busy = false;
	atomic_fetch_add(&req->f->completed, 1);
}

/* Bytes, where it had ended by then. */
static ssize_t read_at(struct fixture *f, struct req *req, void *buf, int64_t pos)
{
	struct iomap_kiocb sync, *iocb = req ? &req->iocb : &sync;
	struct iomap_iov_iter iter;
	ssize_t ret;

	iomap_kiocb_init(iocb, f->file, pos);
	if (req)
		iocb->ki_complete = on_complete;
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, buf, BLOCK);
	iomap_inode_lock_shared(&f->inode);
	ret = iomap_dio_rw(iocb, &iter, &tp_ops, NULL, 0, NULL, 0);
	iomap_inode_unlock_shared(&f->inode);
	return ret;
}

/* Start one; true if it will complete later. */
static bool start(struct req *req, struct t_rand *r)
{
	ssize_t ret;

	req->pos = (int64_t)t_below(r, FILE_BYTES / BLOCK) * BLOCK;
	req->calls = 0;
	req->busy = true;
	ret = read_at(req->f, req, req->buf, req->pos);
	if (ret == -IOMAP_EIOCBQUEUED)
		return true;
	t_must(ret == BLOCK && req->calls == 0);
	t_must(t_mismatch(req->buf, BLOCK, req->pos, 3) < 0);
	req->busy = false;
	return false;
}

static void reqs_init(struct req *req, struct fixture *f)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		memset(&req[i], 0, sizeof(req[i]));
		req[i].f = f;
		t_must(posix_memalign((void **)&req[i].buf, 4096, BLOCK) == 0);
	}
}

static void reqs_exit(struct req *req)
{
	for (unsigned i = 0; i < DEPTH; i++)
		free(req[i].buf);
}

/* The loop: what is idle is started, what is readable polled, until @nr were queued and done. */
static void run_loop(struct fixture *f, unsigned nr, uint64_t seed)
{
	unsigned queued = 0, total = 0, empty = 0;
	struct t_rand r = { seed };
	struct req req[DEPTH];

	reqs_init(req, f);
	while (total < nr || atomic_load(&f->completed) < queued) {
		int did;

		for (unsigned i = 0; i < DEPTH && total < nr; i++)
			if (!req[i].busy) {
				queued += start(&req[i], &r);
				total++;
			}
		if (atomic_load(&f->completed) == queued)
			continue;
		wait_readable(f->fd);
		did = iomap_engine_poll(f->engine, 8, true);
		t_must(did >= 0);
		empty += did == 0;
	}
	/* a look for nothing comes from a completion that a submission has collected */
	cr_assert_leq(empty, nr + 1, "%u of the polls found nothing", empty);
	reqs_exit(req);
}

static void single_thread(const char *backend)
{
	struct fixture *f = setup(IOMAP_ENGINE_NO_THREADS, backend);

	run_loop(f, T_SANITIZED ? 500 : 2000, t_seed());
	settle(f->engine, f->fd);
	cr_assert_eq(iomap_engine_poll_timeout(f->engine), -1);
	teardown(f);
}

Test(en06, en06_one_thread_drives_many_reads, .timeout = 300)
{
	single_thread(NULL);
}

Test(en06, en06_one_thread_drives_many_reads_of_the_threads_backend, .timeout = 300)
{
	single_thread("threads");
}

/* Where there is one. */
static void need_backend(const char *name)
{
	struct iomap_feature features[32];
	int nr = iomap_features(NULL, features, sizeof(features[0]), 32);

	for (int i = 0; i < nr; i++)
		if (!strcmp(features[i].name, name) && features[i].available)
			return;
	cr_skip_test("no such backend here");
}

Test(en06, en06_one_thread_drives_many_reads_of_libaio, .timeout = 300)
{
	need_backend("libaio");
	single_thread("libaio");
}

Test(en06, en06_one_thread_drives_many_reads_of_io_uring, .timeout = 300)
{
	need_backend("io_uring");
	single_thread("io_uring");
}

/* In an epoll of the application, beside another descriptor. */
Test(en06, en06_in_an_epoll_of_the_application)
{
	struct fixture *f = setup(IOMAP_ENGINE_NO_THREADS, NULL);
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = 1 };
	int epoll = epoll_create1(EPOLL_CLOEXEC), pipes[2], nr;
	struct t_rand r = { 5 };
	struct req req[DEPTH];
	unsigned queued = 0;

	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, f->fd, &event), 0);
	event.data.u32 = 2;
	cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event), 0);
	reqs_init(req, f);
	for (unsigned i = 0; i < DEPTH; i++)
		queued += start(&req[i], &r);
	while (atomic_load(&f->completed) < queued) {
		do
			nr = epoll_wait(epoll, &event, 1, T_HANG_S * 1000);
		while (nr < 0 && errno == EINTR);
		cr_assert_eq(nr, 1);
		cr_assert_eq(event.data.u32, 1U);
		cr_assert_geq(iomap_engine_poll(f->engine, 4, true), 0);
	}
	settle(f->engine, f->fd);
	cr_assert_eq(write(pipes[1], "x", 1), 1);
	cr_assert_eq(epoll_wait(epoll, &event, 1, 0), 1);
	cr_assert_eq(event.data.u32, 2U);
	close(pipes[0]), close(pipes[1]), close(epoll);
	reqs_exit(req);
	teardown(f);
}

/* A reaper that is held up inside a completion, as long as the test says. */
struct held_up {
	struct fixture *f;
	struct t_gate gate;
	bool inside, shut; /* under the gate */
	atomic_uint ended;
};

static void end_held_up(struct iomap_bio *bio)
{
	struct held_up *h = bio->bi_private;

	t_lock(&h->gate);
	h->inside = true;
	t_wake(&h->gate);
	while (h->shut)
		t_wait(&h->gate);
	t_unlock(&h->gate);
	atomic_fetch_add(&h->ended, 1);
	iomap_bio_put(bio);
}

static void read_bio(struct held_up *h, void *buf)
{
	struct iomap_bio *bio = iomap_bio_alloc(h->f->bdev, 1, IOMAP_REQ_OP_READ, NULL);

	t_must(bio && iomap_bio_add(bio, buf, BLOCK));
	bio->bi_private = h;
	bio->bi_end_io = end_held_up;
	iomap_submit_bio(bio);
}

static long reap_thread(void *arg)
{
	struct held_up *h = arg;

	while (!atomic_load(&h->ended)) {
		wait_readable(h->f->fd);
		t_must(iomap_engine_poll(h->f->engine, 1, false) >= 0);
	}
	return 0;
}

/*
 * The loop has looked for a completion whose queue another thread reaps, and in vain; that one
 * gives the queue up without having seen it.
 */
static void given_up(const char *backend)
{
	struct fixture *f = setup(IOMAP_ENGINE_NO_THREADS, backend);
	struct held_up h = { .f = f, .shut = true };
	struct t_task task;
	char *buf;

	if (!strcmp(iomap_bdev_io_path(f->bdev), "inline"))
		cr_skip_test("the file's I/O is done by who submits it");
	t_must(posix_memalign((void **)&buf, 4096, 2 * BLOCK) == 0);
	t_gate_init(&h.gate);
	settle(f->engine, f->fd);
	read_bio(&h, buf);
	t_start(&task, reap_thread, &h);
	t_lock(&h.gate);
	while (!h.inside)
		t_wait(&h.gate);
	t_unlock(&h.gate);
	read_bio(&h, buf + BLOCK);
	wait_readable(f->fd);
	cr_assert_eq(iomap_engine_poll(f->engine, 1, false), 0);
	cr_assert_eq(atomic_load(&h.ended), 0U);
	t_lock(&h.gate);
	h.shut = false;
	t_wake(&h.gate);
	t_unlock(&h.gate);
	t_join(&task);
	while (atomic_load(&h.ended) < 2) {
		wait_readable(f->fd);
		t_must(iomap_engine_poll(f->engine, 1, false) >= 0);
	}
	settle(f->engine, f->fd);
	t_gate_exit(&h.gate);
	free(buf);
	teardown(f);
}

Test(en06, en06_what_a_reaper_leaves_behind_is_told_to_the_loop_io_uring)
{
	need_backend("io_uring");
	given_up("io_uring");
}

Test(en06, en06_what_a_reaper_leaves_behind_is_told_to_the_loop_libaio)
{
	need_backend("libaio");
	given_up("libaio");
}

struct blocker {
	struct fixture *f;
	uint64_t seed;
	atomic_bool *stop;
};

/* Waits for reads of its own, and reaps what the loop waits for. */
static long block_thread(void *arg)
{
	struct blocker *b = arg;
	struct t_rand r = { b->seed };
	long nr = 0;
	char *buf;

	t_must(posix_memalign((void **)&buf, 4096, BLOCK) == 0);
	while (!atomic_load(b->stop) || !nr) {
		int64_t pos = (int64_t)t_below(&r, FILE_BYTES / BLOCK) * BLOCK;

		t_must(read_at(b->f, NULL, buf, pos) == BLOCK);
		t_must(t_mismatch(buf, BLOCK, pos, 3) < 0);
		nr++;
	}
	free(buf);
	return nr;
}

static void with_blockers(uint32_t flags, const char *backend)
{
	struct fixture *f = setup(flags, backend);
	uint64_t seed = t_seed();
	struct blocker b[3];
	atomic_bool stop = false;
	struct t_task task[3];

	for (unsigned i = 0; i < 3; i++) {
		b[i] = (struct blocker){ f, seed + i + 1, &stop };
		t_start(&task[i], block_thread, &b[i]);
	}
	run_loop(f, T_SANITIZED ? 500 : 3000, seed);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_gt(t_join(&task[i]), 0);
	settle(f->engine, f->fd);
	teardown(f);
}

Test(en06, en06_others_block_while_the_loop_runs, .timeout = 300)
{
	with_blockers(IOMAP_ENGINE_NO_THREADS, NULL);
}

Test(en06, en06_others_block_while_the_loop_runs_on_threads, .timeout = 300)
{
	with_blockers(IOMAP_ENGINE_NO_THREADS, "threads");
}

Test(en06, en06_others_block_while_the_loop_runs_on_libaio, .timeout = 300)
{
	need_backend("libaio");
	with_blockers(IOMAP_ENGINE_NO_THREADS, "libaio");
}

/* With workers the loop need not do anything, and may; they share what there is. */
struct helper {
	struct fixture *f;
	unsigned queued;
};

static long submit_thread(void *arg)
{
	struct helper *h = arg;
	struct t_rand r = { 9 };
	struct req req[DEPTH];

	reqs_init(req, h->f);
	for (unsigned i = 0; i < DEPTH; i++)
		h->queued += start(&req[i], &r);
	while (atomic_load(&h->f->completed) < h->queued) {
		struct pollfd p = { .fd = h->f->fd, .events = POLLIN };

		/* a worker may have come first, so not for ever */
		t_must(poll(&p, 1, 1) >= 0 || errno == EINTR);
		t_must(iomap_engine_poll(h->f->engine, 4, true) >= 0);
	}
	reqs_exit(req);
	return 0;
}

Test(en06, en06_beside_workers, .timeout = 300)
{
	struct fixture *f = setup(0, NULL);
	struct helper h = { .f = f };
	atomic_bool stop = false;
	struct blocker b = { f, 4, &stop };
	struct t_task task[2];

	t_start(&task[0], block_thread, &b);
	t_start(&task[1], submit_thread, &h);
	t_join(&task[1]);
	atomic_store(&stop, true);
	t_join(&task[0]);
	teardown(f);
}

/* ---- ageing, by a clock of the test's ---- */

static _Atomic uint64_t clock_ns = 1000000000;

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	return atomic_load(&clock_ns);
}

#define MS 1000000

static struct ts *aged(uint64_t cache_bytes, uint32_t background_pct)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.now_ns = now_ns;
	opts.dirty_expire_ms = 300;
	opts.flush_interval_ms = 50;
	opts.dirty_background_pct = background_pct;
	opts.dirty_hard_pct = 80;
	return ts_open(&(struct ts_config){ .opts = &opts, .dev_bytes = 64 * MIB });
}

Test(en06, en06_dirty_data_ages_inside_poll)
{
	struct ts *ts = aged(4 * MIB, 80);
	int fd = iomap_engine_fd(ts->engine);

	cr_assert_geq(fd, 0);
	settle(ts->engine, fd);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), -1);
	ts_write(ts, 0, 64 * KIB, 1);
	/* the loop may be asleep for as long as it likes: it is told */
	cr_assert(readable(fd));
	settle(ts->engine, fd);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 300LL * MS);
	atomic_fetch_add(&clock_ns, 299ULL * MS);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 0);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), MS);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	atomic_fetch_add(&clock_ns, 1ULL * MS);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
	/* not where callbacks may not block, nor without a budget */
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, false), 0);
	cr_assert_eq(iomap_engine_poll(ts->engine, 0, true), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 64U * KIB);
	cr_assert(!ts_dirty(ts, 0));
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 0);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), -1);
	settle(ts->engine, fd);
	ts_close(ts);
}

Test(en06, en06_one_poll_writes_a_bounded_piece)
{
	struct ts *ts = aged(64 * MIB, 80);

	ts_write(ts, 0, 20 * MIB, 1);
	atomic_fetch_add(&clock_ns, 300ULL * MS);
	for (unsigned i = 1; i <= 3; i++) {
		cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
		cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE),
			     (uint64_t)(i < 3 ? i * 8 * MIB : 20 * MIB));
	}
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 0);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), -1);
	ts_close(ts);
}

Test(en06, en06_too_much_dirty_data_is_told_and_written)
{
	struct ts *ts = aged(16 * MIB, 25);
	int fd = iomap_engine_fd(ts->engine);

	ts_write(ts, 0, 64 * KIB, 1);
	settle(ts->engine, fd);
	ts_write(ts, 64 * KIB, 6 * MIB, 1);
	cr_assert(readable(fd));
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
	/* down to half of the limit */
	cr_assert_leq(t_stats(ts->engine).dirty_bytes, 2U * MIB + 16 * KIB);
	settle(ts->engine, fd);
	cr_assert_gt(iomap_engine_poll_timeout(ts->engine), 0);
	ts_close(ts);
}

static ssize_t defer(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		     uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)ts, (void)wpc, (void)folio, (void)pos, (void)len, (void)end_pos;
	return IOMAP_WB_DEFER;
}

Test(en06, en06_held_back_data_keeps_no_loop_busy)
{
	struct ts *ts = aged(16 * MIB, 25);
	int fd = iomap_engine_fd(ts->engine);

	ts->hook.range = defer;
	ts_write(ts, 0, 6 * MIB, 1);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 0);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 50LL * MS);
	settle(ts->engine, fd);
	/* it may go: the loop is told, and writes it */
	ts->hook.range = NULL;
	iomap_writeback_resume(&ts->inode);
	cr_assert(readable(fd));
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
	cr_assert_gt(td_bytes(ts->dev, TD_WRITE), 0U);
	ts_close(ts);
}

/* An older inode of which a piece was written is not hidden behind a younger one. */
Test(en06, en06_the_rest_of_an_old_file_comes_before_a_young_one)
{
	struct ts *ts = aged(64 * MIB, 80), *young;

	ts_write(ts, 0, 10 * MIB, 1);
	atomic_fetch_add(&clock_ns, 200ULL * MS);
	young = ts_open(&(struct ts_config){ .engine = ts->engine, .dev_bytes = 16 * MIB });
	ts_write(young, 0, 64 * KIB, 2);
	atomic_fetch_add(&clock_ns, 100ULL * MS);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 8U * MIB);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 0);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 1);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 10U * MIB);
	cr_assert_eq(td_count(young->dev, TD_WRITE), 0U);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 200LL * MS);
	ts_close(young);
	ts_close(ts);
}

static long dirty_thread(void *arg)
{
	ts_write(arg, 0, 4 * KIB, 7);
	return 0;
}

/* The loop sleeps in the descriptor without a limit; another thread dirties something. */
Test(en06, en06_a_sleeping_loop_is_told_of_the_first_dirty_data)
{
	struct ts *ts = aged(4 * MIB, 80);
	int fd = iomap_engine_fd(ts->engine);
	struct t_task task;

	settle(ts->engine, fd);
	t_start(&task, dirty_thread, ts);
	wait_readable(fd);
	t_join(&task);
	cr_assert_eq(iomap_engine_poll(ts->engine, 8, true), 0);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), 300LL * MS);
	ts_close(ts);
}
