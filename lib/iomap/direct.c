/* SPDX-License-Identifier: MIT */
/*
 * direct.c - I/O between caller memory and devices, past the cache.
 *
 * Life of a direct I/O, all of it on the caller's thread but for the ends of bios; with
 * ki_complete from "waited" on in a worker, see direct_end.c:
 *
 *	checked		arguments, alignment
 *	cache settled	dirty data of the range written out; for a write, the range is dropped
 *	iterated	bios for what is mapped, under one plug; holes and inline data at once
 *	waited		for all bios, by in_flight
 *	end_io		the application converts, and moves i_size
 *	cache dropped	again, for a write
 *	synced		where the iocb asks for it
 *
 * Blocks that are new or unwritten hold rubbish on the device.  What the write leaves of the
 * first and the last one it zeroes there, by bios of their own; in between it writes all.
 * When it stops early inside such a block, that block does not count as written.
 *
 * direct_cache.c says why the cache is dropped twice, direct_end.c what an error does to the
 * result, direct_bounce.c what becomes of memory that does not suit the device.
 *
 * With ki_complete the call waits all the same, and returns the result, where all bios have
 * ended before it could return; where it needs the caller's lock to the end; where it bounces;
 * and where nobody could end it for want of a thread.
 *
 * Locks: none of its own; the caller holds i_rwsem.
 *
 * NOWAIT: -EAGAIN for what would have to be written out or dropped first, and the extent map is
 * told.  A call without ki_complete waits for its own I/O all the same.
 *
 * Left out: overwrite-only, atomic writes.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/dio.h"

#define DIO_IOCB_FLAGS                                                                             \
	(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT |              \
	 IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE | IOMAP_IOCB_CHECKED)

#define DIO_FLAGS (IOMAP_DIO_FORCE_WAIT | IOMAP_DIO_BOUNCE)

/* What is written to the rest of blocks, again and again: at most a block less a sector. */
static const _Alignas(IOMAP_PAGE_SIZE) char dio_zeros[IOMAP_PAGE_SIZE];

/* ---- checks ---- */

static int dio_check_alignment(const struct iomap_bdev *bdev, int64_t pos,
			       const struct iomap_iov_iter *iter)
{
	struct iomap_iov_iter at = *iter;
	struct iomap_bdev_limits limits;
	uint64_t block_mask, memory_mask;

	iomap_bdev_limits(bdev, &limits);
	block_mask = limits.logical_block_size - 1U;
	memory_mask = limits.dma_alignment - 1U;
	if (((uint64_t)pos | at.count) & block_mask)
		return -EINVAL;
	while (at.count) {
		size_t part = at.count;
		char *memory = iomap__iov_iter_segment(&at, &part);

		if ((uintptr_t)memory & memory_mask || part & block_mask)
			return -EINVAL;
		iomap_iov_iter_advance(&at, part);
	}
	return 0;
}

int iomap__dio_check_alignment(const struct iomap_inode *inode, int64_t pos,
			       const struct iomap_iov_iter *iter)
{
	return inode->i_bdev ? dio_check_alignment(inode->i_bdev, pos, iter) : 0;
}

/* ---- bios ---- */

static struct iomap_bio *dio_bio(struct iomap__dio *dio, const struct iomap *iomap, int64_t pos,
				 unsigned nr_vecs)
{
	uint32_t op = dio->write ? IOMAP_REQ_OP_WRITE : IOMAP_REQ_OP_READ;
	struct iomap_bio *bio = iomap_bio_alloc(iomap->bdev, nr_vecs, op | IOMAP_REQ_SYNC,
						dio->dops ? dio->dops->bio_set : NULL);

	if (!bio)
		return NULL;
	bio->bi_iter.bi_sector = iomap__mapping_addr(iomap, pos) >> IOMAP_SECTOR_SHIFT;
	bio->bi_private = dio;
	bio->bi_end_io = iomap_dio_bio_end_io;
	return bio;
}

static void dio_submit(struct iomap__dio *dio, struct iomap_bio *bio, int64_t pos)
{
	iomap__fetch_add(&dio->in_flight, 1);
	if (dio->dops && dio->dops->submit_io)
		dio->dops->submit_io(&dio->iter, bio, pos);
	else
		iomap_submit_bio(bio);
}

/* Zero [from, to) on the device: the rest of a block, whose end may be 2^63. */
static int dio_pad(struct iomap__dio *dio, const struct iomap *iomap, int64_t from, int64_t to)
{
	size_t left = (size_t)to - (size_t)from;
	unsigned nr_vecs = (unsigned)((left + sizeof(dio_zeros) - 1) / sizeof(dio_zeros));
	struct iomap_bio *bio = dio_bio(dio, iomap, from, nr_vecs);

	if (!bio)
		return -ENOMEM;
	while (left) {
		size_t part = iomap__min(left, sizeof(dio_zeros));

		/* it has room for so many vectors; a write only reads the zeros */
		if (!iomap_bio_add(bio, (void *)(uintptr_t)dio_zeros, part)) {
			iomap_bio_put(bio);
			return -EIO;
		}
		left -= part;
	}
	dio->padded = true;
	dio_submit(dio, bio, from);
	return 0;
}

/* Put memory into the bio, as much as it and the device take.  Bytes. */
static size_t dio_fill(struct iomap__dio *dio, struct iomap_bio *bio, uint64_t bytes,
		       unsigned max_vecs)
{
	size_t done = 0;

	while (done < bytes && bio->bi_vcnt < max_vecs) {
		size_t part = bytes - done;
		char *memory = iomap__iov_iter_segment(&dio->mem, &part);

		if (!iomap_bio_add(bio, memory, part))
			break;
		iomap_iov_iter_advance(&dio->mem, part);
		done += part;
	}
	return done;
}

/* Whether @len bytes from iter.pos on can be transferred; the device is told to fsync. */
static int dio_check_mapping(struct iomap__dio *dio, const struct iomap *iomap, uint64_t len)
{
	struct iomap_iter *iter = &dio->iter;
	int err = 0;

	/* first: a call that does not suit the device is no fault of the mapping's */
	if (iomap->bdev && iomap->bdev != dio->aligned_to)
		err = dio_check_alignment(iomap->bdev, iter->pos, &dio->mem);
	if (!err)
		err = iomap__check_device(iter->inode, iomap, iter->pos, len);
	if (err)
		return err;
	dio->aligned_to = iomap->bdev;
	if (dio->write)
		iomap__sync_note_device(iter->inode, iomap->bdev);
	return 0;
}

/*
 * Transfer @len bytes of the mapping, which was checked, from iter.pos on; a read may go on to
 * the end of EOF's sector.  The iterator moves with what was submitted.
 */
static int dio_transfer(struct iomap__dio *dio, const struct iomap *iomap, uint64_t len)
{
	struct iomap_iter *iter = &dio->iter;
	struct iomap_bdev_limits limits;
	unsigned max_vecs;
	int err;

	iomap_bdev_limits(iomap->bdev, &limits);
	limits.max_transfer_bytes &= ~(uint64_t)(limits.logical_block_size - 1);
	max_vecs = iomap__min(limits.max_segments_nr, IOMAP_BIO_MAX_VECS);
	while (len) {
		unsigned nr_vecs = (unsigned)iomap__min(dio->mem.nr_segs, max_vecs);
		struct iomap_bio *bio = dio_bio(dio, iomap, iter->pos, nr_vecs);
		int64_t pos = iter->pos;
		size_t done;

		if (!bio)
			return -ENOMEM;
		done = dio_fill(dio, bio, iomap__min(len, limits.max_transfer_bytes), nr_vecs);
		dio_submit(dio, bio, pos);
		len -= done;
		err = iomap_iter_advance(iter, iomap__min(done, iomap_length(iter)));
		if (!err)
			err = iomap__load(&dio->error);
		if (err)
			return err;
	}
	return 0;
}

/* ---- mappings ---- */

static int dio_inline(struct iomap__dio *dio, const struct iomap *iomap)
{
	struct iomap_iter *iter = &dio->iter;
	char *data = iomap->inline_data;
	size_t off = (size_t)(iter->pos - iomap->offset), len = (size_t)iomap_length(iter);
	int64_t gap = iomap__max(dio->i_size, iomap->offset);

	if (!dio->write) {
		iomap_copy_to_iter(data + off, len, &dio->mem);
	} else {
		if (gap < iter->pos)
			memset(data + (gap - iomap->offset), 0, (size_t)(iter->pos - gap));
		iomap_copy_from_iter(data + off, len, &dio->mem);
	}
	return iomap_iter_advance(iter, len);
}

static int dio_read_mapping(struct iomap__dio *dio)
{
	struct iomap_iter *iter = &dio->iter;
	const struct iomap *src = iomap_iter_srcmap(iter);
	uint64_t len = iomap_length(iter);
	struct iomap_bdev_limits limits;
	int err;

	if (src->type == IOMAP_INLINE)
		return dio_inline(dio, src);
	if (src->type == IOMAP_DELALLOC)
		return -ENOTBLK; /* its data is in the cache and nowhere else */
	if (src->type != IOMAP_MAPPED || src->flags & IOMAP_F_NEW) {
		iomap_iov_iter_zero(len, &dio->mem);
		return iomap_iter_advance(iter, len);
	}
	if (src->bdev && (uint64_t)iter->pos + len >= (uint64_t)dio->i_size) {
		/* the mapping may end with the file: the device wants a whole sector */
		iomap_bdev_limits(src->bdev, &limits);
		len = iomap__round_up(len, limits.logical_block_size);
		len = iomap__min(len, dio->mem.count);
	}
	err = dio_check_mapping(dio, src, len);
	return err ? err : dio_transfer(dio, src, len);
}

static bool dio_is_fresh(const struct iomap *iomap)
{
	return iomap->type == IOMAP_UNWRITTEN || iomap->flags & IOMAP_F_NEW;
}

/* Write @len bytes to the mapping, and zeros to what the call leaves of fresh blocks. */
static int dio_write_blocks(struct iomap__dio *dio, uint64_t len)
{
	struct iomap_iter *iter = &dio->iter;
	const struct iomap *iomap = &iter->iomap;
	uint64_t block = iomap_i_blocksize(iter->inode);
	int64_t head = iter->pos & (int64_t)(block - 1), end = iter->pos + (int64_t)len;
	bool fresh = dio_is_fresh(iomap), last = len == iter->len;
	int err = dio_check_mapping(dio, iomap, len);

	/* of a block that an earlier mapping of this call has begun, that one saw to it */
	if (!err && fresh && head && iter->pos == dio->iocb->ki_pos)
		err = dio_pad(dio, iomap, iter->pos - head, iter->pos);
	if (!err)
		err = dio_transfer(dio, iomap, len);
	dio->open_tail = fresh && (uint64_t)iter->pos & (block - 1);
	if (err || !last || !((uint64_t)end & (block - 1)) || !(fresh || end > dio->i_size))
		return err;
	err = dio_pad(dio, iomap, end, (int64_t)iomap__round_up((uint64_t)end, block));
	dio->open_tail = dio->open_tail && err;
	return err;
}

static int dio_write_mapping(struct iomap__dio *dio)
{
	struct iomap_iter *iter = &dio->iter;
	const struct iomap *iomap = &iter->iomap, *src = iomap_iter_srcmap(iter);
	uint64_t mask = iomap_i_blocksize(iter->inode) - 1, len = iomap_length(iter);

	if (iomap->type == IOMAP_INLINE)
		return dio_inline(dio, iomap);
	if (iomap->type == IOMAP_DELALLOC)
		return -ENOTBLK;
	if (iomap->flags & IOMAP_F_ANON_WRITE)
		return iomap__broken_mapping(iter->inode, iomap, iter->pos,
					     "direct I/O to an address that comes later");
	if (src != iomap && src->type != IOMAP_HOLE) {
		/* the rest of a block would have to be copied: the cache can do that */
		len = iomap__round_down((uint64_t)iter->pos + len, mask + 1) - (uint64_t)iter->pos;
		if ((uint64_t)iter->pos & mask || !len)
			return -ENOTBLK;
	}
	if (iomap->type == IOMAP_UNWRITTEN)
		dio->flags |= IOMAP_DIO_UNWRITTEN;
	if (iomap->flags & IOMAP_F_SHARED)
		dio->flags |= IOMAP_DIO_COW;
	return dio_write_blocks(dio, len);
}

/* Submits.  Returns what ended the iteration: 0 when all is done. */
static int dio_iterate(struct iomap__dio *dio, const struct iomap_ops *ops)
{
	struct iomap_iter *iter = &dio->iter;
	struct iomap_plug plug;
	int ret;

	iomap_start_plug(&plug);
	while ((ret = iomap_iter(iter, ops)) > 0) {
		iter->status = dio->write ? dio_write_mapping(dio) : dio_read_mapping(dio);
		if (!dio->write && iter->pos >= dio->i_size)
			iter->len = 0;
	}
	iomap_finish_plug(&plug);
	return !ret && iter->len ? -EIO : ret;
}

/* ---- the call ---- */

static int dio_check_call(const struct iomap_kiocb *iocb, const struct iomap_ops *ops,
			  unsigned dio_flags, size_t done_before)
{
	if (iocb->ki_flags & ~DIO_IOCB_FLAGS || iocb->ki_pos < 0 || dio_flags & ~DIO_FLAGS ||
	    done_before || !ops || !ops->iomap_begin)
		return -EINVAL;
	return 0;
}

/* Where the call ends; for a read with the block that holds EOF.  0: nothing to be done. */
static int64_t dio_prepare(struct iomap__dio *dio)
{
	struct iomap_inode *inode = dio->iter.inode;
	struct iomap_kiocb *iocb = dio->iocb;
	uint64_t len, left;
	int err;

	if (!dio->mem.count)
		return 0;
	dio->i_size = iomap_i_size_read(inode);
	if (dio->write) {
		if (iocb->ki_flags & IOMAP_IOCB_APPEND)
			iocb->ki_pos = dio->i_size;
		if (iocb->ki_pos >= inode->i_maxbytes)
			return -EFBIG;
		left = (uint64_t)(inode->i_maxbytes - iocb->ki_pos);
		iomap_iov_iter_truncate(&dio->mem, left);
	} else {
		if (iocb->ki_pos >= dio->i_size)
			return 0;
		left = iomap__round_up((uint64_t)dio->i_size, iomap_i_blocksize(inode)) -
		       (uint64_t)iocb->ki_pos;
	}
	err = iomap__dio_check_alignment(inode, iocb->ki_pos, &dio->mem);
	if (err)
		return err;
	len = iomap__min(dio->mem.count, left);
	if (iocb->ki_flags & IOMAP_IOCB_CHECKED) {
		err = iomap__checked_look(&dio->mem, len);
		if (err)
			return err;
	}
	dio->iter.pos = iocb->ki_pos;
	dio->iter.len = len;
	return (int64_t)iomap__min((uint64_t)iocb->ki_pos + len, (uint64_t)INT64_MAX);
}

static void dio_init(struct iomap__dio *dio, struct iomap_kiocb *iocb,
		     const struct iomap_iov_iter *iter, const struct iomap_dio_ops *dops,
		     void *private_data, uint32_t in_flight)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	bool write = iter->data_source == IOMAP_ITER_SOURCE;

	*dio = (struct iomap__dio){
		.iter = { .inode = inode,
			  .flags = IOMAP_DIRECT | (write ? IOMAP_WRITE : 0U) |
				   (iocb->ki_flags & IOMAP_IOCB_NOWAIT ? IOMAP_NOWAIT : 0U),
			  .private = private_data },
		.iocb = iocb,
		.mem = *iter,
		.dops = dops,
		.blk = inode->i_engine->blk,
		.aligned_to = inode->i_bdev,
		.write = write,
		.in_flight = in_flight,
	};
}

/* All bios of one whose submitter waits have ended; @err is what ended the iteration. */
static ssize_t dio_ended(struct iomap__dio *dio, struct iomap_iov_iter *iter, int64_t end, int err)
{
	ssize_t ret;

	ret = iomap__dio_complete(dio, end, err);
	if (ret <= 0)
		return ret;
	iomap_iov_iter_advance(iter, (size_t)ret);
	return dio->write ? iomap_write_sync(dio->iocb, ret) : ret;
}

ssize_t iomap__dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
		      const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
		      void *private_data)
{
	struct iomap__dio dio;
	int64_t end;
	int err;

	dio_init(&dio, iocb, iter, dops, private_data, 1);
	end = dio_prepare(&dio);
	if (end <= 0)
		return end;
	err = iomap__dio_settle_cache(&dio, iocb->ki_pos, end);
	if (err)
		return err;
	err = dio_iterate(&dio, ops);
	iomap__dio_wait(&dio);
	return dio_ended(&dio, iter, end, err);
}

/* ---- the call that does not wait ---- */

/* All bios have been submitted; @err is what ended the iteration. */
static bool dio_may_queue(const struct iomap__dio *dio, int err)
{
	/*
	 * These need i_rwsem exclusively to their end: the next append asks for i_size, and
	 * who writes the other part of a block must find it zeroed before.
	 */
	if (dio->padded || (dio->write && dio->iocb->ki_flags & IOMAP_IOCB_APPEND))
		return false;
	/* an error of the call, not of the I/O; above all -ENOTBLK */
	if (err && !iomap__dio_size(dio))
		return false;
	return iomap__load_acquire(&dio->in_flight) != (IOMAP__DIO_QUEUED | 1);
}

/* The end of one whose submitter waits, but perhaps not for ever; *@gone: it is not ours then. */
static ssize_t dio_finish_until(struct iomap__dio_async *async, struct iomap_iov_iter *iter,
				int64_t end, int err, bool *gone)
{
	struct iomap__dio *dio = &async->dio;
	uint64_t deadline_ns = iomap__deadline(dio->iter.inode->i_engine, dio->iocb->ki_deadline);

	*gone = !iomap__dio_wait_until(async, end, deadline_ns);
	return *gone ? -ETIMEDOUT : dio_ended(dio, iter, end, err);
}

/* iomap__dio_settle_cache() with the deadline of the call. */
static int dio_settle_until(struct iomap__dio *dio, int64_t end)
{
	struct iomap__thread *self = iomap__thread_self();
	uint64_t outer = self->deadline_ns;
	int err;

	self->deadline_ns = iomap__deadline(dio->iter.inode->i_engine, dio->iocb->ki_deadline);
	err = iomap__dio_settle_cache(dio, dio->iocb->ki_pos, end);
	self->deadline_ns = outer;
	return err;
}

/* @queue: if there is something to wait for, do not. */
static ssize_t dio_start(struct iomap__dio_async *async, struct iomap_iov_iter *iter,
			 const struct iomap_ops *ops, bool queue, bool *gone)
{
	struct iomap__dio *dio = &async->dio;
	struct iomap_iov_iter before = *iter;
	int64_t end;
	int err;

	end = dio_prepare(dio);
	if (end <= 0)
		return end;
	err = dio_settle_until(dio, end);
	if (err)
		return err;
	err = dio_iterate(dio, ops);
	if (!queue || !dio_may_queue(dio, err)) {
		iomap__dio_take_back(dio);
		return dio_finish_until(async, iter, end, err, gone);
	}
	async->end = end;
	async->err = err;
	/* before: ki_complete may free it together with the iocb */
	iomap_iov_iter_advance(iter, (size_t)iomap__dio_size(dio));
	*gone = iomap__dio_queue(async);
	if (*gone)
		return -IOMAP_EIOCBQUEUED;
	*iter = before;
	return dio_finish_until(async, iter, end, err, gone);
}

/* By a struct that can be left behind: without a wait, or with a wait that may end early. */
static ssize_t dio_rw_async(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
			    const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
			    void *private_data, bool queue)
{
	struct iomap__pool *pool = &iocb->ki_filp->inode->i_engine->fs->dios;
	struct iomap__dio_async *async = iomap__pool_get(pool);
	bool gone = false;
	ssize_t ret;

	if (!async)
		return -ENOMEM;
	dio_init(&async->dio, iocb, iter, dops, private_data, IOMAP__DIO_QUEUED | 1);
	ret = dio_start(async, iter, ops, queue, &gone);
	if (!gone)
		iomap__pool_put(pool, async);
	return ret;
}

ssize_t iomap_dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
		     const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
		     unsigned dio_flags, void *private_data, size_t done_before)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	int err = dio_check_call(iocb, ops, dio_flags, done_before);

	if (err)
		return err;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	/* a position that append chooses is not known yet */
	if (dio_flags & IOMAP_DIO_BOUNCE && iter->count && !(iocb->ki_flags & IOMAP_IOCB_APPEND) &&
	    iter->count <= (uint64_t)(INT64_MAX - iocb->ki_pos) &&
	    iomap__dio_check_alignment(inode, iocb->ki_pos, iter))
		return iomap__dio_rw_bounce(iocb, iter, ops, dops, private_data);
	if (iocb->ki_complete && !(dio_flags & IOMAP_DIO_FORCE_WAIT))
		return dio_rw_async(iocb, iter, ops, dops, private_data, true);
	if (iocb->ki_deadline || inode->i_engine->opts.io_deadline_ms)
		return dio_rw_async(iocb, iter, ops, dops, private_data, false);
	return iomap__dio_rw(iocb, iter, ops, dops, private_data);
}
