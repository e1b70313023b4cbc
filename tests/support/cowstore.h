/* SPDX-License-Identifier: MIT */
/*
 * cowstore.h - a file of a few blocks, written in place or, untorn, to new blocks.
 *
 * The whole store is a map of blocks, one sector long, in two copies that take turns: of those
 * whose sum is right the one with the higher number counts.  A write with IOMAP_ATOMIC gets
 * blocks that no map names, in mappings of one or two blocks, and its end_io writes the next map
 * behind a flush.  Any other write goes where the blocks are.
 *
 * One write at a time.  The device must be able to tear between sectors and nowhere else.
 */
#ifndef COWSTORE_H
#define COWSTORE_H

#include "testutil.h"

#define CS_BLOCK 4096U
#define CS_BLOCKS 8U	/* of the file */
#define CS_PLACES 24U	/* on the device, behind the maps */
#define CS_BYTES ((1 + CS_PLACES) * CS_BLOCK) /* of the device */

/* A sector of the device. */
struct cs_map {
	uint64_t seq;
	uint8_t place[CS_BLOCKS]; /* of each block of the file */
	uint64_t sum;
};

struct cs {
	struct iomap_inode inode;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_file *file;
	struct cs_map map, next; /* durable; with what is being written */
	unsigned turn;		 /* where new blocks are looked for */
	int commit_error;	 /* what the next commits fail with, if not 0 */
};

/* All blocks of the file are mapped, and hold what the device does.  The engine goes with it. */
void cs_open(struct cs *cs, struct iomap_engine *engine, struct iomap_bdev *bdev);
void cs_close(struct cs *cs);
/* Write; with IOMAP_IOCB_ATOMIC in @flags untorn.  What iomap_write_iter() returns. */
ssize_t cs_write(struct cs *cs, uint32_t flags, void *buf, size_t len, int64_t pos);
/* The file in an image of the device; false: it has no good map. */
bool cs_look(const unsigned char *image, unsigned char *file);

#endif
