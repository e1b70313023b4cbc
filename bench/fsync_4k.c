/* SPDX-License-Identifier: MIT */
/*
 * fsync_4k.c - fsync-4k: one thread appends 4 KiB and syncs, again and again.
 *
 * raw: what the library adds to a write and a flush.  Ours is a file that lies on the device as
 * it is, as in examples/rawfile, so there is no metadata; the peer does the same by a direct write
 * and fdatasync.  Both go on behind the last record, and begin anew at the end of the file.
 *
 * store: with metadata.  The example store against XFS; group.c has both.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"
#include "cached.h"
#include "group.h"

#define RECORD_BYTES 4096U

static const struct bdev_param record_param = {
	.backend = "io_uring", .medium = BDEV_DISK, .sequential = true, .write = true,
	.depth = 1, .bytes = RECORD_BYTES,
};

struct appends {
	struct iomap_engine *engine; /* ours */
	struct cached cached;
	struct bdev_io io; /* the buffer; of the peer, all of it */
};

static void appends_teardown(struct bench_ctx *ctx, void *state)
{
	struct appends *a = state;
	int error = 0;

	(void)ctx;
	cached_close(&a->cached);
	if (a->engine)
		error = iomap_engine_destroy(a->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	bdev_io_exit(&a->io);
	free(a);
}

static int raw_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct appends *a = calloc(1, sizeof(*a));
	int rc;

	(void)side;
	if (!a)
		return bench_error("no memory");
	rc = bdev_io_init(ctx, &a->io);
	if (rc)
		appends_teardown(ctx, a);
	else
		*state = a;
	return rc;
}

static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct iomap_engine_opts opts;
	struct appends *a;
	char path[64];
	int rc = raw_setup(ctx, side, state);

	if (rc)
		return rc;
	a = *state;
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 64 << 20;
	rc = bench_engine_create(&opts, &a->engine);
	if (rc)
		rc = bench_error("engine: %s", strerror(-rc));
	if (!rc) {
		bench_fd_path(bdev_file(ctx, &record_param), path, sizeof(path));
		rc = cached_open_file(&a->cached, a->engine, path, a->io.file_bytes, false);
	}
	if (rc)
		appends_teardown(ctx, a);
	return rc;
}

/* One record, durable: 0 or -errno. */
static int append(struct appends *a)
{
	uint64_t pos = bdev_next(&a->io);
	ssize_t n;

	if (!a->engine) {
		n = pwrite(a->io.fd, a->io.buffers, RECORD_BYTES, (off_t)pos);
		return n == RECORD_BYTES && !fdatasync(a->io.fd) ? 0 : -errno;
	}
	n = iomap_write(a->cached.file, a->io.buffers, RECORD_BYTES, (int64_t)pos);
	return n == RECORD_BYTES ? iomap_file_fsync(a->cached.file, 0) : n < 0 ? (int)n : -EIO;
}

static int appends_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct bench_round round;
	uint64_t ops = 0;
	int error;

	bench_round_begin(&round, ctx->round_s);
	do {
		error = append(state);
		ops++;
	} while (!error && !bench_round_over(&round));
	bench_round_end(&round, ops, values);
	return error ? bench_error("append and sync: %s", strerror(-error)) : 0;
}

static const struct bench_side raw_sides[] = {
	{ "ours", false, NULL, ours_setup, appends_round, appends_teardown },
	{ "raw", true, NULL, raw_setup, appends_round, appends_teardown },
	{ 0 },
};

static const struct bench_metric metrics[] = {
	{ "speed", "fsync/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/fsync", true, BENCH_COST, 1 },
	{ 0 },
};

static bool fsync_get(unsigned index, struct bench_case *out)
{
#ifdef BENCH_XSTORE
	static const unsigned one = 1;

	if (index == 1) {
		snprintf(out->id, sizeof(out->id), "fsync-4k/store");
		out->sides = bench_group_sides;
		out->param = &one;
		out->targets[0] = (struct bench_target){ "xfs", 0, 1.0, BENCH_SPEED };
		return true;
	}
#endif
	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "fsync-4k/raw");
	out->sides = raw_sides;
	out->param = &record_param;
	/* at most 1.1 times as long */
	out->targets[0] = (struct bench_target){ "raw", 0, 1 / 1.1, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_fsync_4k = {
	.id = "fsync-4k",
	.what = "one thread appends 4 KiB and syncs: against a write and a flush; the store against XFS",
	.metrics = metrics,
	.slow = true,
	.get = fsync_get,
};
