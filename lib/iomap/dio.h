/* SPDX-License-Identifier: MIT */
/*
 * dio.h - what the files of direct I/O share.
 *
 * direct.c starts an I/O, direct_end.c ends it, direct_cache.c keeps it coherent with the
 * cache, direct_bounce.c is for memory that does not suit the device.
 */
#ifndef IOMAP__DIO_H
#define IOMAP__DIO_H

#include "iomap/ops.h"

/* One direct I/O; direct.c tells its life. */
struct iomap__dio {
	struct iomap_iter iter;
	struct iomap_kiocb *iocb;
	struct iomap_iov_iter mem;	  /* stands at iter.pos */
	const struct iomap_dio_ops *dops; /* may be NULL */
	struct iomap__blk *blk;
	const struct iomap_bdev *aligned_to; /* the device that was last asked */
	int64_t i_size;			     /* at the start */
	unsigned flags;			     /* IOMAP_DIO_xxx for end_io */
	bool write;
	bool open_tail; /* the block at iter.pos is written in part, the rest is rubbish */
	/* completions; ordered by in_flight */
	uint32_t in_flight; /* bios */
	int32_t error;	    /* the first one */
	const struct iomap_bdev *error_bdev;
	uint64_t error_addr;
};

/* ---- starting (direct.c) ---- */

/* iomap_dio_rw(), its arguments checked. */
ssize_t iomap__dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
		      const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
		      void *private_data);

/* ---- the cache (direct_cache.c) ---- */

/* Before the I/O: write out [start, end), and for a write drop it.  0, -ENOTBLK, or an error. */
int iomap__dio_settle_cache(struct iomap__dio *dio, int64_t start, int64_t end);
/* A write has come to the device, and its mappings and i_size are as they will be. */
void iomap__dio_drop_cache(struct iomap__dio *dio, int64_t start, int64_t end);

/* ---- ending (direct_end.c) ---- */

/* Until all bios have ended. */
void iomap__dio_wait(struct iomap__dio *dio);
/* All bios have ended; @err is what ended the iteration.  Bytes, or the error. */
ssize_t iomap__dio_complete(struct iomap__dio *dio, int64_t end, int err);

/* ---- by a buffer (direct_bounce.c) ---- */

ssize_t iomap__dio_rw_bounce(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
			     const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
			     void *private_data);

#endif
