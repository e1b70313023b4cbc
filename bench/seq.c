/* SPDX-License-Identifier: MIT */
/*
 * seq.c - seq-read-cold: a file read from its beginning to its end, none of it cached.
 *
 * Ours reads 128 KiB at a time through the cache, which is a quarter of the file, with a readahead
 * of 8 MiB; at the end of the file, and of a round, the cache is dropped.  Its peers: pread of
 * 128 KiB on XFS, whose pages are dropped likewise, and bare rings with eight direct reads of
 * 1 MiB in flight, the limit.  ours-default is ours with the readahead that an engine has unless
 * told.
 *
 * All is counted in MiB.  The disk may itself be somebody's cache; the file of each side was
 * written just before.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"
#include "cached.h"

#define READ_BYTES ((size_t)128 << 10)
#define READS_A_MIB ((1U << 20) / READ_BYTES)
#define READAHEAD (8U << 20)

static const struct bdev_param seq_param = {
	.backend = "io_uring", .medium = BDEV_DISK, .sequential = true, .depth = 8, .bytes = 1 << 20,
};

struct seq {
	struct iomap_engine *engine;
	struct cached cached;
	int fd; /* of XFS; -1: ours */
	uint64_t file_bytes, pos;
	char *buffer;
};

static void seq_teardown(struct bench_ctx *ctx, void *state)
{
	struct seq *s = state;
	int error = 0;

	(void)ctx;
	cached_close(&s->cached);
	if (s->engine)
		error = iomap_engine_destroy(s->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	if (s->fd >= 0)
		close(s->fd);
	bench_memory_free(s->buffer, READ_BYTES);
	free(s);
}

static struct seq *seq_new(struct bench_ctx *ctx)
{
	struct seq *s = calloc(1, sizeof(*s));

	s->fd = -1;
	s->file_bytes = bdev_file_bytes(ctx, &seq_param);
	s->buffer = bench_memory(READ_BYTES);
	return s;
}

/* @side->arg: the default readahead. */
static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct iomap_engine_opts opts;
	struct seq *s = seq_new(ctx);
	char path[64];
	int fd, rc;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = s->file_bytes / 4;
	opts.readahead_bytes = side->arg ? 0 : READAHEAD;
	fd = bdev_file(ctx, &seq_param);
	rc = fd < 0 ? BENCH_SKIPPED : bench_engine_create(&opts, &s->engine);
	if (rc < 0)
		rc = bench_error("engine: %s", strerror(-rc));
	if (!rc) {
		bench_fd_path(fd, path, sizeof(path));
		rc = cached_open_file(&s->cached, s->engine, path, s->file_bytes, true);
	}
	/* folio memory costs page faults at its first use, and registering */
	if (!rc && cached_warm(&s->cached))
		rc = bench_error("a read failed");
	if (rc)
		seq_teardown(ctx, s);
	else
		*state = s;
	return rc;
}

static int xfs_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct seq *s = seq_new(ctx);

	(void)side;
	s->fd = bench_xfs_file(ctx, s->file_bytes);
	if (s->fd < 0) {
		seq_teardown(ctx, s);
		return BENCH_SKIPPED;
	}
	*state = s;
	return 0;
}

/* To the beginning, with nothing cached. */
static void rewind_cold(struct seq *s)
{
	s->pos = 0;
	if (s->fd < 0)
		iomap_engine_drop_cache(s->engine);
	else
		posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int seq_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct bench_round round;
	struct seq *s = state;
	uint64_t mib = 0;
	ssize_t n;

	rewind_cold(s);
	bench_round_begin(&round, ctx->round_s);
	do {
		for (unsigned i = 0; i < READS_A_MIB; i++, s->pos += READ_BYTES) {
			n = s->fd < 0 ? iomap_read(s->cached.file, s->buffer, READ_BYTES,
						   (int64_t)s->pos)
				      : pread(s->fd, s->buffer, READ_BYTES, (off_t)s->pos);
			if (n != (ssize_t)READ_BYTES)
				return bench_error("a read gave %zd", n);
		}
		mib++;
		if (s->pos == s->file_bytes)
			rewind_cold(s);
	} while (!bench_round_over(&round));
	bench_round_end(&round, mib, values);
	return 0;
}

static const char default_readahead;

static const struct bench_side sides[] = {
	{ "ours", false, NULL, ours_setup, seq_round, seq_teardown },
	{ "ours-default", false, &default_readahead, ours_setup, seq_round, seq_teardown },
	{ "ring", true, &bdev_ring_plain, bdev_ring_setup, bdev_ring_round, bdev_ring_teardown },
	{ "ring-tuned", true, &bdev_ring_tuned, bdev_ring_setup, bdev_ring_round,
	  bdev_ring_teardown },
	{ "xfs", false, NULL, xfs_setup, seq_round, seq_teardown },
	{ 0 },
};

static const struct bench_metric metrics[] = {
	{ "speed", "MiB/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/MiB", true, BENCH_COST, 1 },
	{ 0 },
};

static bool seq_get(unsigned index, struct bench_case *out)
{
	static const struct bench_target targets[] = {
		{ BENCH_BEST, 0, 0.97, BENCH_SPEED },
		{ "xfs", 0, 1.0, BENCH_SPEED },
	};

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "seq-read-cold");
	out->sides = sides;
	out->param = &seq_param;
	memcpy(out->targets, targets, sizeof(targets));
	return true;
}

const struct bench_scenario bench_seq_read_cold = {
	.id = "seq-read-cold",
	.what = "a file read once through the cache, against XFS and direct reads of 1 MiB",
	.metrics = metrics,
	.slow = true,
	.get = seq_get,
};
