/* SPDX-License-Identifier: MIT */
/*
 * dio.h - what the files of direct I/O share.
 *
 * direct.c starts an I/O, direct_map.c makes bios of its mappings, direct_end.c ends it,
 * direct_cache.c keeps it coherent with the cache, direct_bounce.c is for memory that does not
 * suit the device.
 */
#ifndef IOMAP__DIO_H
#define IOMAP__DIO_H

#include "block/block.h"
#include "iomap/ops.h"
#include "iomap/workers.h"

/* What a call was given. */
struct iomap__dio_call {
	struct iomap_kiocb *iocb;
	struct iomap_iov_iter *iter;
	const struct iomap_ops *ops;
	const struct iomap_dio_ops *dops; /* may be NULL */
	unsigned flags;			  /* IOMAP_DIO_xxx */
	void *private_data;
	size_t done_before;
	/* NULL: a write syncs as the iocb asks.  Else the caller does, unless this becomes true. */
	bool *durable;
};

/* One direct I/O; direct.c tells its life. */
struct iomap__dio {
	struct iomap_iter iter;
	struct iomap_kiocb *iocb;
	struct iomap_iov_iter mem;	  /* stands at iter.pos */
	const struct iomap_dio_ops *dops; /* may be NULL */
	struct iomap__blk *blk;
	const struct iomap_bdev *aligned_to; /* the device that was last asked */
	int64_t i_size;			     /* at the start */
	size_t done_before;
	unsigned flags; /* IOMAP_DIO_xxx for end_io */
	uint32_t opf;	/* of its bios */
	bool write;
	bool overwrite; /* IOMAP_DIO_OVERWRITE_ONLY */
	bool partial;	/* IOMAP_DIO_PARTIAL */
	bool must_wait; /* though there is a ki_complete */
	bool waits;	/* behind the iteration comes iomap__dio_wait() and nothing else */
	bool polled;	/* IOMAP_IOCB_HIPRI, of an I/O that nobody waits for */
	bool through;	/* all that was sent is durable when it has ended, and needs no sync */
	bool no_sync;	/* the caller syncs */
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

/* One that outlives the call which began it, or may; from the engine's pool. */
struct iomap_dio {
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

/* iomap_dio_rw(). */
ssize_t iomap__dio_rw(const struct iomap__dio_call *call);
/* The same, its arguments checked; waits. */
ssize_t iomap__dio_rw_wait(const struct iomap__dio_call *call);

/* ---- mappings and bios (direct_map.c) ---- */

/* Whether memory and position suit a device.  0 or -EINVAL. */
int iomap__dio_suits(const struct iomap_bdev *bdev, int64_t pos, const struct iomap_iov_iter *iter);
/* Submit all of the range.  What ended the iteration: 0 when all is done. */
int iomap__dio_iterate(struct iomap__dio *dio, const struct iomap_ops *ops);

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
bool iomap__dio_wait_until(struct iomap_dio *async, int64_t end, uint64_t deadline_ns);
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
bool iomap__dio_queue(struct iomap_dio *async);
/* The caller waits after all. */
void iomap__dio_take_back(struct iomap__dio *dio);
/*
 * All bios have ended; @err is what ended the iteration.  Bytes with those done before, or the
 * error.
 */
ssize_t iomap__dio_finish(struct iomap__dio *dio, int64_t end, int err);

/* ---- by a buffer (direct_bounce.c) ---- */

ssize_t iomap__dio_rw_bounce(const struct iomap__dio_call *call);

#endif
