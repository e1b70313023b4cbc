/* SPDX-License-Identifier: MIT */
/*
 * writeback.c - seq-write and rand-write-back: buffered writes, and the fsync behind them.
 *
 * A file of 1 GiB that is there already, so that nobody allocates.  A round writes for its time
 * and then syncs; the sync is measured with it, so all of it has reached the device.
 *
 * seq-write goes through the file by 128 KiB; the cache is a quarter of it, and the flusher writes
 * meanwhile.  Its peers: the same on XFS, and bare rings with eight direct writes of 1 MiB in
 * flight, and a flush at the end, the limit.  Counted in MiB.
 *
 * rand-write-back writes pages at random, as many in each round; the cache has room for the
 * file, and what is dirty stays below the limits until the sync, which writes it in the file's
 * order.  Its peer: the same on XFS.  Counted in pages.  How many blocks one ioend came to is
 * printed behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"
#include "cached.h"

#define SEQ_BYTES ((size_t)128 << 10)
#define MIB ((size_t)1 << 20)
#define PAGE 4096U
#define DEPTH 8U
#define CACHE_EXTRA (128ULL << 20)

static const struct bdev_param disk_param = {
	.backend = "io_uring", .medium = BDEV_DISK, .sequential = true, .write = true,
	.depth = DEPTH, .bytes = 1 << 20,
};

struct wb {
	struct iomap_engine *engine;
	struct cached cached;
	int fd; /* of XFS; -1: ours */
	uint64_t file_bytes, pos, seed;
	uint64_t pages_nr; /* of a random round */
	char *buffer;
	bool says_ioends;
};

static void wb_say_ioends(const struct wb *wb)
{
	struct iomap_engine_stats stats;

	if (iomap_engine_stats(wb->engine, &stats, sizeof(stats)) || !stats.ioends_nr)
		return;
	printf("  iomap: %.2f blocks per ioend, %.1f bios per MiB\n",
	       (double)stats.ioend_blocks_nr / (double)stats.ioends_nr,
	       (double)(stats.ioend_bios_nr << 20) / (double)stats.ioend_bytes);
}

static void wb_teardown(struct bench_ctx *ctx, void *state)
{
	struct wb *wb = state;
	int error = 0;

	(void)ctx;
	if (wb->says_ioends && wb->engine)
		wb_say_ioends(wb);
	cached_close(&wb->cached);
	if (wb->engine)
		error = iomap_engine_destroy(wb->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	if (wb->fd >= 0)
		close(wb->fd);
	bench_memory_free(wb->buffer, SEQ_BYTES);
	free(wb);
}

static struct wb *wb_new(struct bench_ctx *ctx)
{
	static const uint64_t pages[] = { 64, 4096, 16384 };
	struct wb *wb = calloc(1, sizeof(*wb));

	if (!wb)
		return NULL;
	wb->fd = -1;
	wb->seed = 1;
	wb->pages_nr = pages[ctx->mode];
	wb->file_bytes = bdev_file_bytes(ctx, &disk_param);
	wb->buffer = bench_memory(SEQ_BYTES);
	return wb;
}

/* @side->arg: of random writes. */
static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct iomap_engine_opts opts;
	struct wb *wb = wb_new(ctx);
	char path[64];
	int fd, rc;

	if (!wb)
		return bench_error("no memory");
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = side->arg ? CACHE_EXTRA + wb->file_bytes / 4 * 5 : wb->file_bytes / 4;
	wb->says_ioends = side->arg;
	fd = bdev_file(ctx, &disk_param);
	rc = fd < 0 ? BENCH_SKIPPED : bench_engine_create(&opts, &wb->engine);
	if (rc < 0)
		rc = bench_error("engine: %s", strerror(-rc));
	if (!rc) {
		bench_fd_path(fd, path, sizeof(path));
		rc = cached_open_file(&wb->cached, wb->engine, path, wb->file_bytes, !side->arg);
	}
	/* folio memory costs page faults at its first use, and registering */
	if (!rc && cached_warm(&wb->cached))
		rc = bench_error("a read failed");
	if (rc)
		wb_teardown(ctx, wb);
	else
		*state = wb;
	return rc;
}

static int xfs_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct wb *wb = wb_new(ctx);

	(void)side;
	if (!wb)
		return bench_error("no memory");
	wb->fd = bench_xfs_file(ctx, wb->file_bytes);
	if (wb->fd < 0) {
		wb_teardown(ctx, wb);
		return BENCH_SKIPPED;
	}
	*state = wb;
	return 0;
}

static int wb_write(struct wb *wb, size_t bytes, uint64_t pos)
{
	ssize_t n = wb->fd < 0 ? iomap_write(wb->cached.file, wb->buffer, bytes, (int64_t)pos)
			       : pwrite(wb->fd, wb->buffer, bytes, (off_t)pos);

	return n == (ssize_t)bytes ? 0 : bench_error("a write gave %zd", n);
}

static int wb_sync(struct wb *wb)
{
	int error = wb->fd < 0 ? iomap_file_fsync(wb->cached.file, 0) : fsync(wb->fd) ? -errno : 0;

	return error ? bench_error("fsync: %s", strerror(-error)) : 0;
}

/* ---- in order ---- */

static int seq_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct bench_round round;
	struct wb *wb = state;
	uint64_t mib = 0;
	int rc = 0;

	bench_round_begin(&round, ctx->round_s);
	do {
		for (size_t done = 0; !rc && done < MIB; done += SEQ_BYTES, wb->pos += SEQ_BYTES)
			rc = wb_write(wb, SEQ_BYTES, wb->pos);
		wb->pos %= wb->file_bytes;
		mib++;
	} while (!rc && !bench_round_over(&round));
	if (!rc)
		rc = wb_sync(wb);
	bench_round_end(&round, mib, values);
	return rc;
}

struct raw {
	struct io_uring ring;
	struct bdev_io io;
	bool up;
};

static void raw_teardown(struct bench_ctx *ctx, void *state)
{
	struct raw *raw = state;

	(void)ctx;
	if (raw->up)
		io_uring_queue_exit(&raw->ring);
	bdev_io_exit(&raw->io);
	free(raw);
}

static int raw_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	int rc;

	(void)side;
	if (!raw)
		return bench_error("no memory");
	rc = bdev_io_init(ctx, &raw->io);
	if (!rc) {
		rc = io_uring_queue_init(2 * DEPTH, &raw->ring, 0);
		raw->up = !rc;
		if (rc)
			rc = bench_skip(ctx, "io_uring_setup: %s", strerror(-rc));
	}
	if (rc)
		raw_teardown(ctx, raw);
	else
		*state = raw;
	return rc;
}

static void raw_start(struct raw *raw, unsigned slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);

	io_uring_prep_write(sqe, raw->io.fd, bdev_buffer(&raw->io, slot), (unsigned)MIB,
			    bdev_next(&raw->io));
	io_uring_sqe_set_data64(sqe, slot);
}

static int raw_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct raw *raw = state;
	struct bench_round round;
	unsigned in_flight = 0;
	uint64_t mib = 0;

	bench_round_begin(&round, ctx->round_s);
	for (; in_flight < DEPTH; in_flight++)
		raw_start(raw, in_flight);
	while (in_flight) {
		struct io_uring_cqe *cqe;
		int n = io_uring_submit_and_wait(&raw->ring, 1);

		if (n < 0 && n != -EINTR)
			return bench_error("bare ring: %s", strerror(-n));
		while (io_uring_peek_cqe(&raw->ring, &cqe) == 0) {
			unsigned slot = (unsigned)io_uring_cqe_get_data64(cqe);

			if (cqe->res != (int)MIB)
				return bench_error("bare ring: result %d", cqe->res);
			io_uring_cqe_seen(&raw->ring, cqe);
			mib++;
			in_flight--;
			if (bench_round_over(&round))
				continue;
			raw_start(raw, slot);
			in_flight++;
		}
	}
	if (fdatasync(raw->io.fd))
		return bench_error("fdatasync: %s", strerror(errno));
	bench_round_end(&round, mib, values);
	return 0;
}

static const struct bench_side seq_sides[] = {
	{ "ours", false, NULL, ours_setup, seq_round, wb_teardown },
	{ "ring", true, NULL, raw_setup, raw_round, raw_teardown },
	{ "xfs", false, NULL, xfs_setup, seq_round, wb_teardown },
	{ 0 },
};

static const struct bench_metric seq_metrics[] = {
	{ "speed", "MiB/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/MiB", true, BENCH_COST, 1 },
	{ 0 },
};

static bool seq_get(unsigned index, struct bench_case *out)
{
	static const struct bench_target targets[] = {
		{ BENCH_BEST, 0, 0.95, BENCH_SPEED },
		{ "xfs", 0, 1.0, BENCH_SPEED },
	};

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "seq-write");
	out->sides = seq_sides;
	out->param = &disk_param;
	memcpy(out->targets, targets, sizeof(targets));
	return true;
}

const struct bench_scenario bench_seq_write = {
	.id = "seq-write",
	.what = "a file written through the cache and synced, against XFS and direct writes of 1 MiB",
	.metrics = seq_metrics,
	.slow = true,
	.get = seq_get,
};

/* ---- at random ---- */

static int rand_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct bench_round round;
	struct wb *wb = state;
	int rc = 0;

	bench_round_begin(&round, ctx->round_s);
	for (uint64_t i = 0; i < wb->pages_nr && !rc; i++)
		rc = wb_write(wb, PAGE, bench_random(&wb->seed) % (wb->file_bytes / PAGE) * PAGE);
	if (!rc)
		rc = wb_sync(wb);
	bench_round_end(&round, wb->pages_nr, values);
	return rc;
}

static const char at_random;

static const struct bench_side rand_sides[] = {
	{ "ours", false, &at_random, ours_setup, rand_round, wb_teardown },
	{ "xfs", false, &at_random, xfs_setup, rand_round, wb_teardown },
	{ 0 },
};

static const struct bench_metric rand_metrics[] = {
	{ "speed", "writes/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/write", true, BENCH_COST, 2 },
	{ 0 },
};

static bool rand_get(unsigned index, struct bench_case *out)
{
	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "rand-write-back");
	out->sides = rand_sides;
	out->param = &disk_param;
	out->targets[0] = (struct bench_target){ "xfs", 0, 1.2, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_rand_write_back = {
	.id = "rand-write-back",
	.what = "pages written at random through the cache, and synced, against XFS",
	.metrics = rand_metrics,
	.slow = true,
	.get = rand_get,
};
