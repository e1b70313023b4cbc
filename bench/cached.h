/* SPDX-License-Identifier: MIT */
/*
 * cached.h - a file of the library that is wholly cached: the smallest extent map over a device
 * in memory, so that no disk has a say.
 */
#ifndef IOMAP_BENCH_CACHED_H
#define IOMAP_BENCH_CACHED_H

#include <iomap/iomap.h>

#include "bench.h"

struct cached {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	bool inode_up;
	uint64_t bytes;
};

/* The extent map: byte n of the file is byte n of the device. */
extern const struct iomap_ops cached_ops;

/*
 * An engine whose cache holds @bytes with room to spare, in which what is dirty stays so, and
 * whose flusher never comes.  0 or bench_error().
 */
int cached_engine(uint64_t bytes, struct iomap_engine **engine);
/*
 * Set up and read in, in folios as large as the engine allows or in pages.  0, or bench_error()
 * and cached_close() is due.
 */
int cached_open(struct cached *c, struct iomap_engine *engine, uint64_t bytes, bool large);
/* The same of a file on a disk, of which nothing is read as yet. */
int cached_open_file(struct cached *c, struct iomap_engine *engine, const char *path,
		     uint64_t bytes, bool large);
/* Read it all again: memory that has been left alone is slow at first. */
int cached_warm(struct cached *c);
void cached_close(struct cached *c);

#endif
