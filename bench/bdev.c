/* SPDX-License-Identifier: MIT */
/*
 * bdev.c - bdev-rand and bdev-seq: bios through the block layer against bare loops.
 *
 * Each backend is held against the best bare loop of its own kind, on a file of the directory's
 * file system; inline I/O against preadv2 on tmpfs; devices in memory against memcpy.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"

#define POOL_THREADS_MAX 16U
#define SHORT_ROUND_BYTES (8U << 20)
#define TMPFS_DIR "/dev/shm"

static const struct bench_metric metrics[] = {
	{ "iops", "transfers/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/transfer", true, BENCH_COST, 2 },
	{ 0 },
};

/* ---- the file ---- */

unsigned bdev_nr_threads(const struct bdev_param *p)
{
	return p->depth < POOL_THREADS_MAX ? p->depth : POOL_THREADS_MAX;
}

uint64_t bdev_file_bytes(const struct bench_ctx *ctx, const struct bdev_param *p)
{
	/* caches of the processor must not hold the device that is memory */
	static const uint64_t disk[] = { 16ULL << 20, 256ULL << 20, 1ULL << 30 };
	static const uint64_t memory[] = { 16ULL << 20, 128ULL << 20, 256ULL << 20 };

	return p->medium == BDEV_DISK ? disk[ctx->mode] : memory[ctx->mode];
}

int bdev_file(struct bench_ctx *ctx, const struct bdev_param *p)
{
	static int files[2] = { -1, -1 };
	int *fd = &files[p->medium];

	if (*fd < 0)
		*fd = bench_file(ctx, p->medium == BDEV_TMPFS ? TMPFS_DIR : ctx->dir,
				 bdev_file_bytes(ctx, p));
	return *fd;
}

int bdev_io_init(struct bench_ctx *ctx, struct bdev_io *io)
{
	char path[64];
	int fd;

	io->p = ctx->param;
	io->file_bytes = bdev_file_bytes(ctx, io->p);
	io->seed = 1;
	io->fd = -1;
	if (io->p->medium != BDEV_MEMORY) {
		fd = bdev_file(ctx, io->p);
		if (fd < 0)
			return BENCH_SKIPPED;
		bench_fd_path(fd, path, sizeof(path));
		io->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (io->fd < 0)
			return bench_skip(ctx, "opening a file for direct I/O: %s",
					  strerror(errno));
	}
	io->buffers = bench_memory(io->p->depth * io->p->bytes);
	return 0;
}

void bdev_io_exit(struct bdev_io *io)
{
	if (io->buffers)
		bench_memory_free(io->buffers, io->p->depth * io->p->bytes);
	if (io->fd >= 0)
		close(io->fd);
}

/* ---- sides ---- */

#define SIDE(name, limit, kind, arg) \
	{ name, limit, arg, kind##_setup, kind##_round, kind##_teardown }
#define OURS SIDE("ours", false, bdev_ours, NULL)

static const struct bench_side uring_sides[] = {
	OURS,
	SIDE("ours-shared", false, bdev_ours, &bdev_ours_shared),
	SIDE("ring", true, bdev_ring, &bdev_ring_plain),
	SIDE("ring-batch", true, bdev_ring, &bdev_ring_batch),
	SIDE("ring-tuned", true, bdev_ring, &bdev_ring_tuned),
	{ 0 },
};
static const struct bench_side aio_sides[] = {
	OURS,
	SIDE("aio", true, bdev_aio, NULL),
	SIDE("aio-batch", true, bdev_aio, metrics),
	{ 0 },
};
static const struct bench_side threads_sides[] = {
	OURS,
	SIDE("pool", true, bdev_pool, NULL),
	SIDE("no-hand-over", false, bdev_direct, NULL),
	{ 0 },
};
static const struct bench_side inline_sides[] = {
	OURS,
	SIDE("preadv2", true, bdev_preadv2, NULL),
	{ 0 },
};
static const struct bench_side memory_sides[] = {
	OURS,
	SIDE("memcpy", true, bdev_memcpy, NULL),
	{ 0 },
};

static const struct bench_target targets[] = {
	{ BENCH_BEST, 0, 0.97, BENCH_SPEED },
	{ BENCH_BEST, 1, 1.08, BENCH_COST },
};

/* ---- cases: kind of path, then size, operation, depth ---- */

static const struct {
	const char *name, *backend;
	enum bdev_medium medium;
	const struct bench_side *sides;
	unsigned nr_depths; /* in depths[]; inline I/O knows no depth */
} paths[] = {
	{ "io_uring", "io_uring", BDEV_DISK, uring_sides, 4 },
	{ "libaio", "libaio", BDEV_DISK, aio_sides, 4 },
	{ "threads", "threads", BDEV_DISK, threads_sides, 4 },
	{ "inline", "threads", BDEV_TMPFS, inline_sides, 1 },
	{ "memory", "threads", BDEV_MEMORY, memory_sides, 1 },
};
static const unsigned depths[] = { 1, 8, 32, 128 };

static bool get_case(unsigned index, struct bench_case *out, const char *scenario,
		     const size_t *sizes, unsigned nr_sizes)
{
	static struct bdev_param param;
	unsigned i;

	for (i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		unsigned nr = nr_sizes * 2 * paths[i].nr_depths;

		if (index < nr)
			break;
		index -= nr;
	}
	if (i == sizeof(paths) / sizeof(paths[0]))
		return false;
	param = (struct bdev_param){
		.backend = paths[i].backend,
		.medium = paths[i].medium,
		.depth = depths[index % paths[i].nr_depths],
		.write = index / paths[i].nr_depths % 2,
		.bytes = sizes[index / paths[i].nr_depths / 2],
		.sequential = nr_sizes > 1,
	};
	snprintf(out->id, sizeof(out->id), "%s/%s/%s-%zuk/qd%u", scenario, paths[i].name,
		 param.write ? "write" : "read", param.bytes >> 10, param.depth);
	out->sides = paths[i].sides;
	/* the usual rounds are over before that much has gone to and fro */
	out->slow = param.depth * param.bytes > SHORT_ROUND_BYTES;
	out->param = &param;
	memcpy(out->targets, targets, sizeof(targets));
	return true;
}

static bool rand_get(unsigned index, struct bench_case *out)
{
	static const size_t sizes[] = { 4096 };

	return get_case(index, out, "bdev-rand", sizes, 1);
}

static bool seq_get(unsigned index, struct bench_case *out)
{
	static const size_t sizes[] = { 128 << 10, 1 << 20 };

	return get_case(index, out, "bdev-seq", sizes, 2);
}

const struct bench_scenario bench_bdev_rand = {
	.id = "bdev-rand",
	.what = "random 4 KiB bios, each backend, depth 1 to 128, against its best bare loop",
	.metrics = metrics,
	.get = rand_get,
};
const struct bench_scenario bench_bdev_seq = {
	.id = "bdev-seq",
	.what = "sequential bios of 128 KiB and 1 MiB, likewise",
	.metrics = metrics,
	.get = seq_get,
};
