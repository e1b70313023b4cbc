/* SPDX-License-Identifier: MIT */
/*
 * direct.c - I/O between caller memory and devices, past the cache.
 *
 * Life of a direct I/O, all of it on the caller's thread but for the ends of bios; with
 * ki_complete from "waited" on in a worker, see direct_end.c:
 *
 *	checked		arguments, alignment
 *	cache settled	dirty data of the range written out; for a write, the range is dropped
 *	iterated	bios for what is mapped; holes and inline data at once: direct_map.c
 *	waited		for all bios, by in_flight
 *	end_io		the application converts, and moves i_size
 *	cache dropped	again, for a write
 *	synced		where the iocb asks for it, and it was not written through
 *
 * direct_cache.c says why the cache is dropped twice, direct_end.c what an error does to the
 * result, direct_bounce.c what becomes of memory that does not suit the device.
 *
 * One call, iomap_dio_rw(), or two: iomap_dio_start() comes back when all is submitted, and
 * iomap_dio_complete() does the rest.  In between the I/O is the caller's, who holds i_rwsem as
 * it would during the one call.
 *
 * With ki_complete the call waits all the same, and returns the result, where all bios have
 * ended before it could return; where it needs the caller's lock to the end; where it bounces;
 * and where nobody could end it for want of a thread.
 *
 * Partial: memory is looked at first, as for IOMAP_IOCB_CHECKED, and the call is cut to what is
 * good, in whole blocks; so what is left is as well aligned as the call was.
 *
 * Locks: none of its own; the caller holds i_rwsem.
 *
 * NOWAIT: -EAGAIN for what would have to be written out or dropped first, for want of memory, and
 * where a device would have to be waited for before it takes a bio; the extent map is told.  A
 * call without ki_complete waits for its own I/O all the same.
 *
 * HIPRI: the submitter comes back for the I/O, so its bio is POLLED: for a single one whose end
 * nobody waits for, since only then the submitter polls.
 */
#include <limits.h>

#include "block/block.h"
#include "cache/cache.h"
#include "iomap/dio.h"

#define DIO_IOCB_FLAGS                                                                             \
	(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT |              \
	 IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE | IOMAP_IOCB_CHECKED | IOMAP_IOCB_HIPRI |        \
	 IOMAP_IOCB_ATOMIC | IOMAP_IOCB_WRITE)

#define DIO_FLAGS                                                                                  \
	(IOMAP_DIO_FORCE_WAIT | IOMAP_DIO_OVERWRITE_ONLY | IOMAP_DIO_PARTIAL | IOMAP_DIO_BOUNCE)

/* ---- checks ---- */

int iomap__dio_check_alignment(const struct iomap_inode *inode, int64_t pos,
			       const struct iomap_iov_iter *iter)
{
	return inode->i_bdev ? iomap__dio_suits(inode->i_bdev, pos, iter) : 0;
}

static int dio_check_call(const struct iomap__dio_call *call)
{
	const struct iomap_kiocb *iocb = call->iocb;
	bool write = call->iter->data_source == IOMAP_ITER_SOURCE;

	if (iocb->ki_flags & ~DIO_IOCB_FLAGS || iocb->ki_pos < 0 || call->flags & ~DIO_FLAGS ||
	    !call->ops || !call->ops->iomap_begin || call->done_before > SSIZE_MAX ||
	    call->iter->count > SSIZE_MAX - call->done_before)
		return -EINVAL;
	/* a buffer has no bad pages */
	if (call->flags & IOMAP_DIO_PARTIAL && call->flags & IOMAP_DIO_BOUNCE)
		return -EINVAL;
	if (iocb->ki_flags & IOMAP_IOCB_WRITE && !write)
		return -EINVAL;
	if (iocb->ki_flags & IOMAP_IOCB_ATOMIC) {
		/* all or nothing, so nothing in part */
		if (!write || call->flags & IOMAP_DIO_PARTIAL)
			return -EINVAL;
		if (!(iocb->ki_filp->mode & IOMAP_FMODE_CAN_ATOMIC_WRITE))
			return -EOPNOTSUPP;
	}
	return 0;
}

/*
 * Memory of the call that may be bad: @len bytes are wanted.  How many there are, fewer only
 * for a partial one; or an error.
 */
static ssize_t dio_check_memory(struct iomap__dio *dio, uint64_t len)
{
	const struct iomap_inode *inode = dio->iter.inode;
	uint64_t unit = iomap_i_blocksize(inode), good;
	ssize_t ret;

	if (!dio->partial)
		return dio->iocb->ki_flags & IOMAP_IOCB_CHECKED &&
				       (ret = iomap__checked_look(&dio->mem, len))
			       ? ret
			       : (ssize_t)len;
	ret = iomap__checked_good(&dio->mem, len);
	if (ret < 0 || (uint64_t)ret == len)
		return ret;
	if (!dio->write && inode->i_bdev)
		unit = iomap__bdev_limits(inode->i_bdev)->logical_block_size;
	good = iomap__round_down((uint64_t)dio->iocb->ki_pos + (uint64_t)ret, unit);
	if (good <= (uint64_t)dio->iocb->ki_pos)
		return -EFAULT;
	/* what is left needs the caller, who finds out by the count */
	dio->must_wait = dio->must_wait || !(dio->iocb->ki_flags & IOMAP_IOCB_NOWAIT);
	return (ssize_t)(good - (uint64_t)dio->iocb->ki_pos);
}

/* Where a write goes; bytes that there is room for, or an error. */
static int64_t dio_place_write(struct iomap__dio *dio)
{
	struct iomap_inode *inode = dio->iter.inode;
	struct iomap_kiocb *iocb = dio->iocb;
	uint64_t left;

	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = dio->i_size;
	if (iocb->ki_pos >= inode->i_maxbytes)
		return -EFBIG;
	left = (uint64_t)(inode->i_maxbytes - iocb->ki_pos);
	if (dio->mem.count > left && dio->iter.flags & IOMAP_ATOMIC)
		return -EFBIG;
	iomap_iov_iter_truncate(&dio->mem, left);
	if (dio->mem.count > (uint64_t)iomap__max(dio->i_size - iocb->ki_pos, 0)) {
		if (dio->overwrite)
			return -EAGAIN;
		dio->through = false; /* the size has to become durable as well */
	}
	return (int64_t)left;
}

/* Where the call ends; for a read with the block that holds EOF.  0: nothing to be done. */
static int64_t dio_prepare(struct iomap__dio *dio)
{
	struct iomap_inode *inode = dio->iter.inode;
	struct iomap_kiocb *iocb = dio->iocb;
	int64_t left;
	ssize_t len;
	int err;

	if (!dio->mem.count)
		return 0;
	dio->i_size = iomap_i_size_read(inode);
	if (dio->write) {
		left = dio_place_write(dio);
		if (left < 0)
			return left;
	} else {
		if (iocb->ki_pos >= dio->i_size)
			return 0;
		left = (int64_t)(iomap__round_up((uint64_t)dio->i_size, iomap_i_blocksize(inode)) -
				 (uint64_t)iocb->ki_pos);
	}
	err = iomap__dio_check_alignment(inode, iocb->ki_pos, &dio->mem);
	if (err)
		return err;
	len = (ssize_t)iomap__min(dio->mem.count, (uint64_t)left);
	if (dio->partial || iocb->ki_flags & IOMAP_IOCB_CHECKED) {
		len = dio_check_memory(dio, (uint64_t)len);
		if (len < 0)
			return len;
		if (dio->partial)
			iomap_iov_iter_truncate(&dio->mem, (size_t)len);
	}
	dio->iter.pos = iocb->ki_pos;
	dio->iter.len = (uint64_t)len;
	return (int64_t)iomap__min((uint64_t)iocb->ki_pos + (uint64_t)len, (uint64_t)INT64_MAX);
}

/* ---- beginning ---- */

/* Whether a sync after a write would do nothing but make its data durable. */
static bool dio_sync_is_data(const struct iomap_inode *inode, uint32_t ki_flags)
{
	if (!(ki_flags & (IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC)))
		return false;
	/* all of the metadata: nobody has told us that there is none */
	return !(ki_flags & IOMAP_IOCB_SYNC) ||
	       (!(inode->i_op && inode->i_op->commit_metadata) &&
		!(inode->i_fop && inode->i_fop->fsync));
}

static unsigned dio_iter_flags(const struct iomap__dio_call *call, bool write)
{
	uint32_t ki_flags = call->iocb->ki_flags;
	unsigned flags = IOMAP_DIRECT;

	if (ki_flags & IOMAP_IOCB_NOWAIT)
		flags |= IOMAP_NOWAIT;
	if (write)
		flags |= IOMAP_WRITE | (ki_flags & IOMAP_IOCB_ATOMIC ? IOMAP_ATOMIC : 0U) |
			 (call->flags & IOMAP_DIO_OVERWRITE_ONLY ? IOMAP_OVERWRITE_ONLY : 0U);
	return flags;
}

static void dio_init(struct iomap__dio *dio, const struct iomap__dio_call *call,
		     uint32_t in_flight)
{
	struct iomap_kiocb *iocb = call->iocb;
	struct iomap_inode *inode = iocb->ki_filp->inode;
	bool write = call->iter->data_source == IOMAP_ITER_SOURCE;

	*dio = (struct iomap__dio){
		.iter = { .inode = inode,
			  .flags = dio_iter_flags(call, write),
			  .private = call->private_data },
		.iocb = iocb,
		.mem = *call->iter,
		.dops = call->dops,
		.blk = inode->i_engine->blk,
		.aligned_to = inode->i_bdev,
		.done_before = call->done_before,
		.opf = (write ? IOMAP_REQ_OP_WRITE : IOMAP_REQ_OP_READ) | IOMAP_REQ_SYNC |
		       (iocb->ki_flags & IOMAP_IOCB_NOWAIT ? IOMAP_REQ_NOWAIT : 0U),
		.write = write,
		.overwrite = write && call->flags & IOMAP_DIO_OVERWRITE_ONLY,
		.partial = call->flags & IOMAP_DIO_PARTIAL,
		.must_wait = !iocb->ki_complete || call->flags & IOMAP_DIO_FORCE_WAIT,
		.through = write && dio_sync_is_data(inode, iocb->ki_flags),
		.no_sync = call->durable,
		.in_flight = in_flight,
	};
}

/* All bios of one whose submitter waits have ended; @err is what ended the iteration. */
static ssize_t dio_ended(struct iomap__dio *dio, const struct iomap__dio_call *call, int64_t end,
			 int err)
{
	ssize_t ret = iomap__dio_finish(dio, end, err);

	if (ret <= 0)
		return ret;
	iomap_iov_iter_advance(call->iter, (size_t)ret - call->done_before);
	if (call->durable)
		*call->durable = dio->through;
	return ret;
}

ssize_t iomap__dio_rw_wait(const struct iomap__dio_call *call)
{
	struct iomap__dio dio;
	int64_t end;
	int err;

	dio_init(&dio, call, 1);
	dio.waits = true;
	end = dio_prepare(&dio);
	if (end <= 0)
		return end;
	err = iomap__dio_settle_cache(&dio, call->iocb->ki_pos, end);
	if (err)
		return err;
	err = iomap__dio_iterate(&dio, call->ops);
	iomap__dio_wait(&dio);
	return dio_ended(&dio, call, end, err);
}

/* ---- the call that does not wait, or not for ever ---- */

/* All bios have been submitted; @err is what ended the iteration. */
static bool dio_may_queue(const struct iomap__dio *dio, int err)
{
	/*
	 * These need i_rwsem exclusively to their end: the next append asks for i_size, and
	 * who writes the other part of a block must find it zeroed before.
	 */
	if (dio->must_wait || dio->padded ||
	    (dio->write && dio->iocb->ki_flags & IOMAP_IOCB_APPEND))
		return false;
	/* an error of the call, not of the I/O; above all -ENOTBLK */
	if (err && !iomap__dio_size(dio))
		return false;
	return iomap__load_acquire(&dio->in_flight) != (IOMAP__DIO_QUEUED | 1);
}

static uint64_t dio_deadline(const struct iomap__dio *dio)
{
	return iomap__deadline(dio->iter.inode->i_engine, dio->iocb->ki_deadline);
}

/* iomap__dio_settle_cache() with the deadline of the call. */
static int dio_settle_until(struct iomap__dio *dio, int64_t end)
{
	struct iomap__thread *self = iomap__thread_self();
	uint64_t outer = self->deadline_ns;
	int err;

	self->deadline_ns = dio_deadline(dio);
	err = iomap__dio_settle_cache(dio, dio->iocb->ki_pos, end);
	self->deadline_ns = outer;
	return err;
}

/*
 * 1: all is submitted, and the caller's to complete; 0: there is nothing to be done;
 * -IOMAP_EIOCBQUEUED: it is not the caller's any more, nor is the iocb; or an error.
 */
static int dio_begin(struct iomap_dio *async, const struct iomap__dio_call *call, bool poll)
{
	struct iomap__dio *dio = &async->dio;
	struct iomap_iov_iter before = *call->iter;
	int err;

	async->end = dio_prepare(dio);
	if (async->end <= 0)
		return (int)async->end;
	err = dio_settle_until(dio, async->end);
	if (err)
		return err;
	dio->polled = poll && !dio->must_wait && call->iocb->ki_flags & IOMAP_IOCB_HIPRI;
	async->err = iomap__dio_iterate(dio, call->ops);
	if (!dio_may_queue(dio, async->err)) {
		iomap__dio_take_back(dio);
		return 1;
	}
	/* before: ki_complete may free it together with the iocb */
	iomap_iov_iter_advance(call->iter, (size_t)iomap__dio_size(dio));
	if (iomap__dio_queue(async))
		return -IOMAP_EIOCBQUEUED;
	*call->iter = before;
	return 1;
}

/* False: its deadline has passed, and it is nobody's but the device's. */
static bool dio_wait_in_time(struct iomap_dio *async)
{
	return iomap__dio_wait_until(async, async->end, dio_deadline(&async->dio));
}

/* By a struct that can be left behind: without a wait, or with a wait that may end early. */
static ssize_t dio_rw_async(const struct iomap__dio_call *call)
{
	struct iomap__pool *pool = &call->iocb->ki_filp->inode->i_engine->fs->dios;
	struct iomap_dio *async = iomap__pool_get(pool);
	ssize_t ret;

	if (!async)
		return call->iocb->ki_flags & IOMAP_IOCB_NOWAIT ? -EAGAIN : -ENOMEM;
	dio_init(&async->dio, call, IOMAP__DIO_QUEUED | 1);
	ret = dio_begin(async, call, true);
	if (ret == -IOMAP_EIOCBQUEUED)
		return ret;
	if (ret == 1) {
		if (!dio_wait_in_time(async))
			return -ETIMEDOUT;
		ret = dio_ended(&async->dio, call, async->end, async->err);
	}
	iomap__pool_put(pool, async);
	return ret;
}

/* ---- the calls ---- */

static int dio_check_open(const struct iomap__dio_call *call)
{
	struct iomap_engine *engine = call->iocb->ki_filp->inode->i_engine;
	int err = dio_check_call(call);

	if (!err && iomap__engine_closed(engine))
		err = iomap__engine_refusal(engine);
	return err;
}

/* A position that append chooses is not known yet. */
static bool dio_needs_bounce(const struct iomap__dio_call *call)
{
	const struct iomap_kiocb *iocb = call->iocb;

	return call->flags & IOMAP_DIO_BOUNCE && call->iter->count &&
	       !(iocb->ki_flags & IOMAP_IOCB_APPEND) &&
	       call->iter->count <= (uint64_t)(INT64_MAX - iocb->ki_pos) &&
	       iomap__dio_check_alignment(iocb->ki_filp->inode, iocb->ki_pos, call->iter);
}

ssize_t iomap__dio_rw(const struct iomap__dio_call *call)
{
	struct iomap_kiocb *iocb = call->iocb;
	int err = dio_check_open(call);

	if (err)
		return err;
	if (dio_needs_bounce(call))
		return iomap__dio_rw_bounce(call);
	if ((iocb->ki_complete && !(call->flags & IOMAP_DIO_FORCE_WAIT)) || iocb->ki_deadline ||
	    iocb->ki_filp->inode->i_engine->opts.io_deadline_ms)
		return dio_rw_async(call);
	return iomap__dio_rw_wait(call);
}

ssize_t iomap_dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
		     const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
		     unsigned dio_flags, void *private_data, size_t done_before)
{
	const struct iomap__dio_call call = { iocb,	 iter,	       ops,	    dops,
					      dio_flags, private_data, done_before, NULL };

	return iomap__dio_rw(&call);
}

struct iomap_dio *iomap_dio_start(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
				  const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
				  unsigned dio_flags, void *private_data, size_t done_before)
{
	const struct iomap__dio_call call = { iocb,	 iter,	       ops,	    dops,
					      dio_flags, private_data, done_before, NULL };
	struct iomap_dio *dio;
	struct iomap__pool *pool;
	int ret = dio_check_open(&call);

	if (ret)
		return iomap_err_ptr(ret);
	if (dio_flags & IOMAP_DIO_BOUNCE)
		return iomap_err_ptr(-EINVAL);
	pool = &iocb->ki_filp->inode->i_engine->fs->dios;
	dio = iomap__pool_get(pool);
	if (!dio)
		return iomap_err_ptr(iocb->ki_flags & IOMAP_IOCB_NOWAIT ? -EAGAIN : -ENOMEM);
	dio_init(&dio->dio, &call, IOMAP__DIO_QUEUED | 1);
	/* not polled: who completes it may be another thread, which cannot */
	ret = dio_begin(dio, &call, false);
	if (ret == 1) {
		iomap_iov_iter_advance(iter, (size_t)iomap__dio_size(&dio->dio));
		return dio;
	}
	if (ret != -IOMAP_EIOCBQUEUED)
		iomap__pool_put(pool, dio);
	return ret ? iomap_err_ptr(ret) : NULL;
}

ssize_t iomap_dio_complete(struct iomap_dio *dio)
{
	struct iomap__pool *pool = &dio->dio.iter.inode->i_engine->fs->dios;
	ssize_t ret;

	if (!dio_wait_in_time(dio))
		return -ETIMEDOUT;
	ret = iomap__dio_finish(&dio->dio, dio->end, dio->err);
	iomap__pool_put(pool, dio);
	return ret;
}
