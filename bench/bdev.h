/* SPDX-License-Identifier: MIT */
/*
 * bdev.h - what the sides of bdev-rand and bdev-seq share.
 *
 * Each side keeps `depth` transfers in flight for a round, from its own buffers to the same file,
 * in one thread but where threads are what is measured.  Metrics: transfers per second, and CPU
 * time of the process for each.
 */
#ifndef IOMAP_BENCH_BDEV_H
#define IOMAP_BENCH_BDEV_H

#include "bench.h"

/* Copies between two looks at the clock, which costs a good part of one. */
#define BDEV_COPIES_A_LOOK 64U

enum bdev_medium { BDEV_DISK, BDEV_TMPFS, BDEV_MEMORY };

struct bdev_param {
	const char *backend; /* of the engine */
	enum bdev_medium medium;
	bool write, sequential;
	unsigned depth;
	size_t bytes; /* of a transfer */
};

/* One side's place in the file. */
struct bdev_io {
	const struct bdev_param *p;
	uint64_t file_bytes, next, seed;
	int fd;	       /* O_DIRECT; -1: none */
	char *buffers; /* depth * bytes */
};

/* Where the next transfer goes. */
static inline uint64_t bdev_next(struct bdev_io *io)
{
	uint64_t at = io->next, places = io->file_bytes / io->p->bytes;

	if (!io->p->sequential)
		return bench_random(&io->seed) % places * io->p->bytes;
	io->next = at + io->p->bytes < places * io->p->bytes ? at + io->p->bytes : 0;
	return at;
}

static inline char *bdev_buffer(const struct bdev_io *io, unsigned slot)
{
	return io->buffers + slot * io->p->bytes;
}

/* Threads of the backend "threads", and of its peers. */
unsigned bdev_nr_threads(const struct bdev_param *p);
uint64_t bdev_file_bytes(const struct bench_ctx *ctx, const struct bdev_param *p);
/* The file that all sides use: a descriptor that stays open, or -1 after bench_skip(). */
int bdev_file(struct bench_ctx *ctx, const struct bdev_param *p);
/* Open it for direct I/O, and get buffers.  0 or BENCH_SKIPPED. */
int bdev_io_init(struct bench_ctx *ctx, struct bdev_io *io);
void bdev_io_exit(struct bdev_io *io);

/* ---- sides; their `round` and `teardown` go with `setup` ---- */

#define BDEV_SIDE(kind)                                                                      \
	int kind##_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state); \
	int kind##_round(struct bench_ctx *ctx, void *state, double *values);                \
	void kind##_teardown(struct bench_ctx *ctx, void *state)

BDEV_SIDE(bdev_ours);	 /* arg: &bdev_ours_shared, or NULL */
BDEV_SIDE(bdev_ring);	 /* arg: struct bdev_ring_kind */
BDEV_SIDE(bdev_aio);	 /* io_submit, io_getevents */
BDEV_SIDE(bdev_direct);	 /* threads that each do one transfer after another */
BDEV_SIDE(bdev_pool);	 /* threads that one thread hands transfers to */
BDEV_SIDE(bdev_preadv2); /* one thread, one transfer after another */
BDEV_SIDE(bdev_memcpy);
BDEV_SIDE(bdev_fio); /* fio.c */

extern const char bdev_ours_shared;
struct bdev_ring_kind {
	bool defer;	 /* SINGLE_ISSUER | DEFER_TASKRUN */
	bool registered; /* file and buffers */
	bool batch;	 /* wait for several completions */
};
extern const struct bdev_ring_kind bdev_ring_plain, bdev_ring_tuned, bdev_ring_batch;

#endif
