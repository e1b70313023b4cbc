/* SPDX-License-Identifier: MIT */
/*
 * bd05.h - for the tests of the stacked devices: an engine, bios in one line, and bios whose
 * end is seen.
 */
#ifndef BD05_H
#define BD05_H

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "testutil.h"

#define SECTOR 512U
#define PAGE 4096U
#define MIB (1024U * 1024U)

static inline struct iomap_engine *b_engine(void)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.max_callers = 8;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	return t_engine(&opts, NULL);
}

/* Memory that can run out. */
struct b_memory_limit {
	uint64_t left; /* allocations that succeed from now on */
};

static inline void *b_limited_alloc(void *ctx, size_t align, size_t size)
{
	struct b_memory_limit *limit = ctx;
	void *ptr = NULL;

	if (!limit->left)
		return NULL;
	limit->left--;
	if (align < sizeof(void *))
		align = sizeof(void *);
	return posix_memalign(&ptr, align, size) ? NULL : ptr;
}

static inline void b_limited_free(void *ctx, void *ptr, size_t size)
{
	(void)ctx;
	(void)size;
	free(ptr);
}

static inline struct iomap_engine *b_limited_engine(struct b_memory_limit *limit)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.max_callers = 8;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.alloc = (struct iomap_alloc_hooks){ b_limited_alloc, b_limited_free, limit };
	return t_engine(&opts, NULL);
}

static inline void b_close(struct iomap_bdev *bdev)
{
	cr_assert_eq(iomap_bdev_close(bdev), 0);
}

static inline struct iomap_bdev *b_memory(struct iomap_engine *engine, uint64_t bytes)
{
	struct iomap_bdev *bdev = NULL;

	t_must(iomap_bdev_open_memory(engine, bytes, &bdev) == 0);
	return bdev;
}

static inline struct iomap_bdev *b_faulty(struct iomap_bdev *lower, uint64_t seed)
{
	struct iomap_faulty_opts opts = { .size = sizeof(opts), .seed = seed };
	struct iomap_bdev *bdev = NULL;

	t_must(iomap_faulty_create(lower, &opts, &bdev) == 0);
	return bdev;
}

/* Add a rule; its number. */
static inline uint32_t b_rule(struct iomap_bdev *faulty, struct iomap_fault fault)
{
	uint32_t id = 0;

	fault.size = sizeof(fault);
	t_must(iomap_faulty_add(faulty, &fault, &id) == 0);
	return id;
}

static inline uint64_t b_fired(struct iomap_bdev *faulty, uint32_t id)
{
	uint64_t matched = 0, fired = 0;

	t_must(iomap_faulty_count(faulty, id, &matched, &fired) == 0);
	t_must(fired <= matched);
	return fired;
}

static inline uint64_t b_matched(struct iomap_bdev *faulty, uint32_t id)
{
	uint64_t matched = 0;

	t_must(iomap_faulty_count(faulty, id, &matched, NULL) == 0);
	return matched;
}

static inline struct iomap_bdev_stats b_stats(struct iomap_bdev *bdev)
{
	struct iomap_bdev_stats stats;

	t_must(iomap_bdev_stats(bdev, &stats, sizeof(stats)) == 0);
	return stats;
}

static inline struct iomap_bio *b_bio(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr,
				      void *buf, size_t bytes)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);

	t_must(bio);
	bio->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	if (bytes)
		t_must(iomap_bio_add(bio, buf, bytes));
	return bio;
}

static inline int b_write(struct iomap_bdev *bdev, uint64_t addr, void *buf, size_t bytes)
{
	return t_io(bdev, IOMAP_REQ_OP_WRITE, addr, buf, bytes);
}

static inline int b_read(struct iomap_bdev *bdev, uint64_t addr, void *buf, size_t bytes)
{
	return t_io(bdev, IOMAP_REQ_OP_READ, addr, buf, bytes);
}

static inline int b_flush(struct iomap_bdev *bdev)
{
	return t_io(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);
}

/* Write @sectors sectors full of @value. */
static inline int b_put(struct iomap_bdev *bdev, uint32_t flags, uint64_t sector, unsigned sectors,
			int value)
{
	unsigned char *buf = malloc(sectors * SECTOR);
	int status;

	t_must(buf);
	memset(buf, value, sectors * SECTOR);
	status = t_io(bdev, IOMAP_REQ_OP_WRITE | flags, sector * SECTOR, buf, sectors * SECTOR);
	free(buf);
	return status;
}

/* The value that a sector is full of, or -1. */
static inline int b_value(const void *image, uint64_t sector)
{
	const unsigned char *at = (const unsigned char *)image + sector * SECTOR;

	return t_all(at, SECTOR, at[0]) ? at[0] : -1;
}

/* The same, read from a device. */
static inline int b_get(struct iomap_bdev *bdev, uint64_t sector)
{
	unsigned char buf[SECTOR];

	t_must(b_read(bdev, sector * SECTOR, buf, SECTOR) == 0);
	return b_value(buf, 0);
}

/* ---- bios whose end is seen ---- */

/* An I/O of its own memory that runs by itself. */
struct b_async {
	struct iomap_bio *bio;
	unsigned char *buf;
	atomic_bool done;
	int status;
	uint64_t tick; /* of its end */
};

static inline void b_async_end(struct iomap_bio *bio)
{
	struct b_async *io = bio->bi_private;

	io->status = bio->bi_status;
	io->tick = t_tick();
	atomic_store(&io->done, true);
}

/* Start an I/O of @sectors sectors; a write puts @value there. */
static inline void b_start(struct b_async *io, struct iomap_bdev *bdev, uint32_t opf,
			   uint64_t sector, unsigned sectors, int value)
{
	memset(io, 0, sizeof(*io));
	io->buf = malloc(sectors * SECTOR + 1);
	t_must(io->buf);
	memset(io->buf, value, sectors * SECTOR);
	io->bio = b_bio(bdev, opf, sector * SECTOR, io->buf, sectors * SECTOR);
	io->bio->bi_private = io;
	io->bio->bi_end_io = b_async_end;
	iomap_submit_bio(io->bio);
}

/* It has ended; its status. */
static inline int b_finish(struct b_async *io)
{
	t_must(atomic_load(&io->done));
	iomap_bio_put(io->bio);
	free(io->buf);
	return io->status;
}

#endif
