/* SPDX-License-Identifier: MIT */
/*
 * dio.h - what the files of direct I/O share.
 *
 * direct.c starts an I/O, direct_end.c ends it, direct_cache.c keeps it coherent with the
 * cache, direct_bounce.c is for memory that does not suit the device.
 */
#ifndef IOMAP__DIO_H
#define IOMAP__DIO_H

#include "block/block.h"
#include "iomap/ops.h"
#include "iomap/workers.h"

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
	bool timed_out; /* its caller has gone, with -ETIMEDOUT; set before that */
	bool padded;	/* zeros were sent to the rest of a block */
	bool open_tail; /* the block at iter.pos is written in part, the rest is rubbish */
	/* completions; ordered by in_flight */
	uint32_t in_flight; /* bios, and the submitter; IOMAP__DIO_QUEUED */
	int32_t error;	    /* the first one */
	const struct iomap_bdev *error_bdev;
	uint64_t error_addr;
};

/*
 * In in_flight: nobody waits, whoever takes the last one away queues the end.  The submitter
 * has one of them until it waits or lets go of the I/O, so that bios which end before that
 * wake nobody.
 */
#define IOMAP__DIO_QUEUED 0x80000000U

/* One whose submitter does not wait; from the engine's pool. */
struct iomap__dio_async {
	struct iomap__dio dio; /* first: pays nothing for the rest when it is on a stack */
	struct iomap_work work;
	int64_t end;
	int err;     /* what ended the iteration */
	ssize_t ret; /* once it has been completed */
	struct iomap__slow slow;
	/* timed out: what the caller had, which may be gone */
	struct iomap_kiocb iocb;
	struct iomap_dio_ops dops;
};

/* ---- starting (direct.c) ---- */

/* iomap_dio_rw(), its arguments checked; waits. */
ssize_t iomap__dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
		      const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
		      void *private_data);

/* ---- the cache (direct_cache.c) ---- */

/*
 * Before the I/O: write out [start, end), and for a write drop it.  0, -ENOTBLK, or an error; with
 * IOMAP_NOWAIT -EAGAIN where that would wait.
 */
int iomap__dio_settle_cache(struct iomap__dio *dio, int64_t start, int64_t end);
/* A write has come to the device, and its mappings and i_size are as they will be. */
void iomap__dio_drop_cache(struct iomap__dio *dio, int64_t start, int64_t end);

/* ---- ending (direct_end.c) ---- */

/* Until all bios have ended; gives up the submitter's one of in_flight. */
void iomap__dio_wait(struct iomap__dio *dio);
/*
 * The same with a deadline (0: none).  False: it has passed, and @async, which ends with @end,
 * is not the caller's any more; it ends as if its submitter had never waited, without a
 * ki_complete.
 */
bool iomap__dio_wait_until(struct iomap__dio_async *async, int64_t end, uint64_t deadline_ns);
/*
 * Bytes from ki_pos on that count: of a write as far as it was submitted, of a read cut to
 * i_size.
 */
int64_t iomap__dio_size(const struct iomap__dio *dio);
/*
 * Let go of an I/O that has been submitted: @async and the iocb may be gone when this returns
 * true.  False: there is nothing left to wait for, or nobody to end it; iomap__dio_wait(), and
 * it is the caller's to complete.
 */
bool iomap__dio_queue(struct iomap__dio_async *async);
/* The caller waits after all. */
void iomap__dio_take_back(struct iomap__dio *dio);
/* All bios have ended; @err is what ended the iteration.  Bytes, or the error. */
ssize_t iomap__dio_complete(struct iomap__dio *dio, int64_t end, int err);

/* ---- by a buffer (direct_bounce.c) ---- */

ssize_t iomap__dio_rw_bounce(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
			     const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
			     void *private_data);

#endif
