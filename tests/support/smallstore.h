/* SPDX-License-Identifier: MIT */
/*
 * smallstore.h - files whose every block has its place from the beginning, for scripts in which
 * anything may fail.
 *
 * A block is a hole, unwritten or written; a write turns a hole into unwritten space, and what
 * ends a write of it makes it written, if it was.  So what the device held before is never
 * right to read.  Nothing here allocates after ss_init(), and nothing fails by itself.
 *
 * The device stands on another one and passes everything on; it notes what came by, and the
 * callbacks note in tf->where what the library is at.
 */
#ifndef SMALLSTORE_H
#define SMALLSTORE_H

#include "testfail.h"

/* tf->where */
#define SS_IN_WRITEPAGES 0x1U
#define SS_IN_READAHEAD 0x2U
#define SS_IN_READ_FOLIO 0x4U
#define SS_PART 0x8U /* direct I/O, a part already; tf_call() clears it */

/* The write of an ioend carries this flag. */
#define SS_WRITE_OUT IOMAP_REQ_META

#define SS_OPS 4096

struct ss_dev {
	struct iomap_bdev *lower, *bdev;
	struct tf *tf;
	/* IOMAP_REQ_xxx of each bio that counts, in order; with one thread */
	uint32_t op[SS_OPS];
	uint64_t ops_nr;
};

/*
 * Stack the device on `lower`; it takes at most `max_segments_nr` pieces of memory at once
 * (0: as many as `lower`).  0 or the library's error.
 */
int ss_dev_open(struct ss_dev *dev, struct iomap_engine *engine, struct iomap_bdev *lower,
		struct tf *tf, uint32_t max_segments_nr);
/* Read or write past everything; neither counts nor fails. */
void ss_dev_io(struct ss_dev *dev, uint32_t op, uint64_t addr, void *memory, size_t bytes);

enum ss_block { SS_HOLE, SS_UNWRITTEN, SS_WRITTEN };

struct ss {
	struct iomap_inode inode;
	struct ss_dev *dev;
	struct tf *tf;
	uint64_t base; /* address of block 0 */
	unsigned blkbits;
	pthread_mutex_t lock; /* protects what follows */
	uint64_t seq;	      /* validity of mappings */
	uint64_t blocks_nr;
	uint8_t *block; /* enum ss_block */
};

int ss_init(struct ss *ss, struct iomap_engine *engine, struct ss_dev *dev, uint64_t base,
	    uint64_t bytes, unsigned blkbits);
/* After the inode is gone. */
void ss_exit(struct ss *ss);
enum ss_block ss_block_at(struct ss *ss, int64_t pos);

extern const struct iomap_ops ss_ops;
extern const struct iomap_dio_ops ss_dio_ops;

#endif
