/* SPDX-License-Identifier: MIT */
/*
 * cold.c - more data than cache: the scenarios rand-read-cold and mixed.
 *
 * Two threads, operations of 4 KiB, one after the other.  rand-read-cold: reads at random places
 * of data of eight times the cache.  mixed: 70 % reads and 30 % writes by Zipf's law (1.0) of data
 * of four times the cache.
 *
 * Peers: `ring`, bare io_uring with O_DIRECT on the same file, a ring and one read in flight for
 * each thread, the limit of what the device gives; `xfs`, pread and pwrite in the kernel's cache
 * of a file on XFS, and `mmap`, loads from a mapping of it.  The kernel has as much memory for the
 * cache as we have, and 16 MiB for the rest: its side is a child in a control group (bounded.c).
 *
 * Threads live for one round.  Nothing is shared between them but what a side only reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bounded.h"
#include "cached.h"
#include "policy.h"

#define THREADS 2U
#define BLOCK 4096U
#define KERNEL_EXTRA (16ULL << 20)
#define REQUESTS (1U << 20)
#define WRITES_OF_10 3U

struct cold_param {
	bool mixed;
	unsigned share; /* the cache is that part of the data */
};

struct cold;

struct worker {
	struct cold *cold;
	struct bench_round *round;
	pthread_t thread;
	uint64_t seed, ops;
	uint32_t at; /* in the trace */
	char *buffer;
	struct io_uring ring;
	bool failed;
};

struct cold {
	const struct cold_param *p;
	uint64_t bytes;
	struct worker worker[THREADS];
	/* what a side has of: */
	struct iomap_engine *engine;
	struct cached cached;
	int fd;
	unsigned nr_rings;
	const char *map;
	struct bounded *bounded;
	bool (*op)(struct worker *w, uint64_t at, bool write);
};

/* ---- what is done ---- */

static uint64_t data_bytes(const struct bench_ctx *ctx)
{
	static const uint64_t bytes[] = { 32ULL << 20, 256ULL << 20, 1ULL << 30 };

	return bytes[ctx->mode];
}

/* One file for ours and the ring: neither leaves anything of it in the kernel's cache. */
static int disk_file(struct bench_ctx *ctx)
{
	static int fd = -1;

	if (fd < 0)
		fd = bench_file(ctx, ctx->dir, data_bytes(ctx));
	return fd;
}

static struct policy_trace the_trace; /* of mixed */

static int make_trace(const struct cold *cold)
{
	const struct policy_spec spec = { POLICY_ZIPF, 1.0, (uint32_t)(cold->bytes / BLOCK),
					  REQUESTS, 1 };

	if (!cold->p->mixed || the_trace.request)
		return 0;
	return policy_trace_make(&spec, &the_trace) ? bench_error("no memory for a trace") : 0;
}

static uint64_t next_place(struct worker *w)
{
	const struct cold *cold = w->cold;

	if (!cold->p->mixed)
		return bench_random(&w->seed) % (cold->bytes / BLOCK) * BLOCK;
	w->at = (w->at + 1) % REQUESTS;
	return (uint64_t)the_trace.request[w->at] * BLOCK;
}

static bool ours_op(struct worker *w, uint64_t at, bool write)
{
	struct iomap_file *file = w->cold->cached.file;
	ssize_t n = write ? iomap_write(file, w->buffer, BLOCK, (int64_t)at) :
			    iomap_read(file, w->buffer, BLOCK, (int64_t)at);

	return n == (ssize_t)BLOCK;
}

static bool ring_op(struct worker *w, uint64_t at, bool write)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);
	struct io_uring_cqe *cqe;
	bool ok;

	(void)write;
	io_uring_prep_read(sqe, w->cold->fd, w->buffer, BLOCK, at);
	ok = io_uring_submit_and_wait(&w->ring, 1) == 1 &&
	     io_uring_wait_cqe(&w->ring, &cqe) == 0;
	ok = ok && cqe->res == (int)BLOCK;
	if (ok)
		io_uring_cqe_seen(&w->ring, cqe);
	return ok;
}

static bool xfs_op(struct worker *w, uint64_t at, bool write)
{
	ssize_t n = write ? pwrite(w->cold->fd, w->buffer, BLOCK, (off_t)at) :
			    pread(w->cold->fd, w->buffer, BLOCK, (off_t)at);

	return n == (ssize_t)BLOCK;
}

static bool mmap_op(struct worker *w, uint64_t at, bool write)
{
	(void)write;
	memcpy(w->buffer, w->cold->map + at, BLOCK);
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->ops = 0;
	while (!w->failed && !bench_round_over(w->round)) {
		bool write = w->cold->p->mixed && bench_random(&w->seed) % 10 < WRITES_OF_10;

		w->failed = !w->cold->op(w, next_place(w), write);
		w->ops++;
	}
	return NULL;
}

static int cold_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct cold *cold = state;
	struct bench_round round;
	uint64_t ops = 0;
	bool failed = false;
	unsigned nr;

	bench_round_begin(&round, ctx->round_s);
	for (nr = 0; nr < THREADS; nr++) {
		cold->worker[nr].round = &round;
		if (pthread_create(&cold->worker[nr].thread, NULL, worker_main, &cold->worker[nr]))
			break;
	}
	for (unsigned i = 0; i < nr; i++) {
		pthread_join(cold->worker[i].thread, NULL);
		ops += cold->worker[i].ops;
		failed |= cold->worker[i].failed;
	}
	bench_round_end(&round, ops, values);
	return failed || nr < THREADS ? bench_error("an operation failed") : 0;
}

static int child_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct cold *cold = state;

	(void)ctx;
	return bounded_round(cold->bounded, values);
}

/* ---- sides ---- */

static void cold_teardown(struct bench_ctx *ctx, void *state)
{
	struct cold *cold = state;

	(void)ctx;
	if (cold->bounded)
		bounded_stop(cold->bounded);
	if (cold->engine) {
		cached_close(&cold->cached);
		if (iomap_engine_destroy(cold->engine) != 0)
			bench_error("the engine does not end");
	}
	for (unsigned i = 0; i < cold->nr_rings; i++)
		io_uring_queue_exit(&cold->worker[i].ring);
	if (cold->map)
		munmap((void *)(uintptr_t)cold->map, cold->bytes);
	if (cold->fd >= 0)
		close(cold->fd);
	for (unsigned i = 0; i < THREADS; i++)
		bench_memory_free(cold->worker[i].buffer, BLOCK);
	free(cold);
}

static struct cold *cold_new(struct bench_ctx *ctx)
{
	struct cold *cold = calloc(1, sizeof(*cold));

	cold->p = ctx->param;
	cold->bytes = data_bytes(ctx);
	cold->fd = -1;
	for (unsigned i = 0; i < THREADS; i++) {
		cold->worker[i].cold = cold;
		cold->worker[i].seed = i + 1;
		cold->worker[i].at = REQUESTS / THREADS * i;
		cold->worker[i].buffer = bench_memory(BLOCK);
	}
	return cold;
}

static int cold_ready(struct bench_ctx *ctx, struct cold *cold, int rc, void **state)
{
	if (!rc)
		rc = make_trace(cold);
	if (rc)
		cold_teardown(ctx, cold);
	else
		*state = cold;
	return rc;
}

static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct cold *cold = cold_new(ctx);
	struct iomap_engine_opts opts;
	int fd = disk_file(ctx), rc = 0;
	char path[64];

	(void)side;
	if (fd < 0)
		return cold_ready(ctx, cold, BENCH_SKIPPED, state);
	cold->op = ours_op;
	bench_fd_path(fd, path, sizeof(path));
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cold->bytes / cold->p->share;
	rc = bench_engine_create(&opts, &cold->engine);
	if (rc)
		rc = bench_error("engine: %s", strerror(-rc));
	else
		rc = cached_open_file(&cold->cached, cold->engine, path, cold->bytes, false);
	return cold_ready(ctx, cold, rc, state);
}

static int ring_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct cold *cold = cold_new(ctx);
	int fd = disk_file(ctx), rc = fd < 0 ? BENCH_SKIPPED : 0;
	char path[64];

	(void)side;
	cold->op = ring_op;
	if (!rc) {
		bench_fd_path(fd, path, sizeof(path));
		cold->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (cold->fd < 0)
			rc = bench_skip(ctx, "O_DIRECT: %s", strerror(errno));
	}
	while (!rc && cold->nr_rings < THREADS) {
		rc = io_uring_queue_init(2, &cold->worker[cold->nr_rings].ring, 0);
		if (rc)
			rc = bench_skip(ctx, "io_uring_setup: %s", strerror(-rc));
		else
			cold->nr_rings++;
	}
	return cold_ready(ctx, cold, rc, state);
}

/* XFS by system calls, or mapped: in a child with bounded memory. */
static int kernel_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct cold *cold = cold_new(ctx);
	bool map = side->arg;
	int rc = 0;

	cold->op = map ? mmap_op : xfs_op;
	cold->fd = bench_xfs_file(ctx, cold->bytes);
	if (cold->fd < 0)
		rc = BENCH_SKIPPED;
	if (!rc && map) {
		void *at = mmap(NULL, cold->bytes, PROT_READ, MAP_SHARED, cold->fd, 0);

		if (at == MAP_FAILED)
			rc = bench_skip(ctx, "mmap: %s", strerror(errno));
		else
			cold->map = at;
	}
	if (!rc && cold->map)
		madvise((void *)(uintptr_t)cold->map, cold->bytes, MADV_RANDOM);
	if (!rc)
		rc = make_trace(cold);
	if (!rc)
		rc = bounded_start(ctx, cold->bytes / cold->p->share + KERNEL_EXTRA, cold_round,
				   cold, &cold->bounded);
	return cold_ready(ctx, cold, rc, state);
}

/* ---- the scenarios ---- */

static const struct bench_side cold_sides[] = {
	{ "ours", false, NULL, ours_setup, cold_round, cold_teardown },
	{ "ring", false, NULL, ring_setup, cold_round, cold_teardown },
	{ "xfs", false, NULL, kernel_setup, child_round, cold_teardown },
	{ "mmap", false, "mmap", kernel_setup, child_round, cold_teardown },
	{ 0 },
};
static const struct bench_side mixed_sides[] = {
	{ "ours", false, NULL, ours_setup, cold_round, cold_teardown },
	{ "xfs", false, NULL, kernel_setup, child_round, cold_teardown },
	{ 0 },
};

static const struct bench_metric metrics[] = {
	{ "iops", "operations/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/operation", true, BENCH_COST, 2 },
	{ 0 },
};

static bool cold_get(unsigned index, struct bench_case *out)
{
	static const struct cold_param param = { false, 8 };

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "rand-read-cold");
	out->sides = cold_sides;
	out->param = &param;
	out->targets[0] = (struct bench_target){ "ring", 0, 0.97, BENCH_SPEED };
	out->targets[1] = (struct bench_target){ "xfs", 0, 1, BENCH_SPEED };
	out->targets[2] = (struct bench_target){ "mmap", 0, 1, BENCH_SPEED };
	return true;
}

static bool mixed_get(unsigned index, struct bench_case *out)
{
	static const struct cold_param param = { true, 4 };

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "mixed");
	out->sides = mixed_sides;
	out->param = &param;
	out->targets[0] = (struct bench_target){ "xfs", 0, 1.3, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_rand_read_cold = {
	.id = "rand-read-cold",
	.what = "random reads of 8 times the cache, 2 threads, against bare rings, pread and mmap",
	.metrics = metrics,
	.slow = true,
	.get = cold_get,
};
const struct bench_scenario bench_mixed = {
	.id = "mixed",
	.what = "70 % reads, 30 % writes by Zipf's law, 4 times the cache, 2 threads, against XFS",
	.metrics = metrics,
	.slow = true,
	.get = mixed_get,
};
