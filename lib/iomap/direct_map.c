/* SPDX-License-Identifier: MIT */
/*
 * direct_map.c - direct I/O: from mappings to bios.
 *
 * What is mapped becomes bios, under one plug; holes and inline data are done at once.
 *
 * Blocks that are new or unwritten hold rubbish on the device.  What the write leaves of the
 * first and the last one it zeroes there, by bios of their own; in between it writes all.
 * When it stops early inside such a block, that block does not count as written.  An extent
 * map that says IOMAP_F_ZEROES_UNWRITTEN sees to this itself in unwritten space, so that two
 * writes in one block do not zero each other.
 *
 * Overwrite-only: the first mapping has to cover all, and nothing may have to be zeroed, copied
 * or allocated, since the caller's lock keeps nobody off.  Looked at before the first bio.
 *
 * Written through: where the device has FUA, or nothing that could be lost, and a mapping is
 * written in place and is known to the durable metadata, bios carry FUA.  When all of a call
 * went so there is nothing left to sync.
 *
 * Untorn: by the device, in one bio that carries ATOMIC and is never split; or by new blocks,
 * which the extent map switches to when all are written: then a mapping in place is broken.
 *
 * Locks: none of its own; the caller holds i_rwsem.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/dio.h"

/* What is written to the rest of blocks, again and again: at most a block less a sector. */
static const _Alignas(IOMAP_PAGE_SIZE) char dio_zeros[IOMAP_PAGE_SIZE];

int iomap__dio_suits(const struct iomap_bdev *bdev, int64_t pos, const struct iomap_iov_iter *iter)
{
	struct iomap_iov_iter at = *iter;
	const struct iomap_bdev_limits *limits = iomap__bdev_limits(bdev);
	uint64_t block_mask, memory_mask;

	block_mask = limits->logical_block_size - 1U;
	memory_mask = limits->dma_alignment - 1U;
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

/* ---- bios ---- */

static struct iomap_bio *dio_bio(struct iomap__dio *dio, const struct iomap *iomap, int64_t pos,
				 unsigned nr_vecs)
{
	uint32_t opf = dio->opf | (dio->through ? IOMAP_REQ_FUA : 0);
	struct iomap_bio *bio = iomap_bio_alloc(iomap->bdev, nr_vecs, opf,
						dio->dops ? dio->dops->bio_set : NULL);

	if (!bio)
		return NULL;
	bio->bi_iter.bi_sector = iomap__mapping_addr(iomap, pos) >> IOMAP_SECTOR_SHIFT;
	bio->bi_private = dio;
	bio->bi_end_io = iomap_dio_bio_end_io;
	return bio;
}

/* There is no memory for a bio. */
static int dio_exhausted(const struct iomap__dio *dio)
{
	return dio->opf & IOMAP_REQ_NOWAIT ? -EAGAIN : -ENOMEM;
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
		return dio_exhausted(dio);
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
		err = iomap__dio_suits(iomap->bdev, iter->pos, &dio->mem);
	if (!err)
		err = iomap__check_device(iter->inode, iomap, iter->pos, len);
	if (err)
		return err;
	/* better now than when a part has been written */
	if (dio->opf & IOMAP_REQ_NOWAIT &&
	    !(iomap__bdev_limits(iomap->bdev)->flags & IOMAP_BDEV_HAS_NOWAIT))
		return -EAGAIN;
	dio->aligned_to = iomap->bdev;
	if (dio->write)
		iomap__sync_note_device(iter->inode, iomap->bdev);
	return 0;
}

/*
 * A bio that was filled with @done of the @len bytes that there are left in the mapping.  False:
 * it should have been all, in one.
 */
static bool dio_mark_single(const struct iomap__dio *dio, struct iomap_bio *bio, size_t done,
			    uint64_t len)
{
	bool single = done == len && dio->iter.pos == dio->iocb->ki_pos && len >= dio->iter.len;

	if (dio->polled && single && !dio->padded)
		bio->bi_opf |= IOMAP_REQ_POLLED;
	return single || !(bio->bi_opf & IOMAP_REQ_ATOMIC);
}

/*
 * Transfer @len bytes of the mapping, which was checked, from iter.pos on; a read may go on to
 * the end of EOF's sector.  The iterator moves with what was submitted.
 */
static int dio_transfer(struct iomap__dio *dio, const struct iomap *iomap, uint64_t len)
{
	struct iomap_iter *iter = &dio->iter;
	const struct iomap_bdev_limits *limits = iomap__bdev_limits(iomap->bdev);
	uint64_t max_bytes = limits->max_transfer_bytes & ~(uint64_t)(limits->logical_block_size - 1);
	unsigned max_vecs;
	int err;

	max_vecs = iomap__min(limits->max_segments_nr, IOMAP_BIO_MAX_VECS);
	if (dio->opf & IOMAP_REQ_ATOMIC)
		max_vecs = iomap__min(max_vecs, limits->atomic_write_segments_nr);
	while (len) {
		unsigned nr_vecs = (unsigned)iomap__min(dio->mem.nr_segs, max_vecs);
		struct iomap_bio *bio = dio_bio(dio, iomap, iter->pos, nr_vecs);
		int64_t pos = iter->pos;
		size_t done;

		if (!bio)
			return dio_exhausted(dio);
		done = dio_fill(dio, bio, iomap__min(len, max_bytes), nr_vecs);
		if (!dio_mark_single(dio, bio, done, len)) {
			iomap_bio_put(bio);
			return -EINVAL;
		}
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
		len = iomap__round_up(len, iomap__bdev_limits(src->bdev)->logical_block_size);
		len = iomap__min(len, dio->mem.count);
	}
	err = dio_check_mapping(dio, src, len);
	return err ? err : dio_transfer(dio, src, len);
}

/* What the write leaves of its blocks has to be zeroed here. */
static bool dio_is_fresh(const struct iomap *iomap)
{
	if (iomap->type == IOMAP_UNWRITTEN && iomap->flags & IOMAP_F_ZEROES_UNWRITTEN)
		return false;
	return iomap->type == IOMAP_UNWRITTEN || iomap->flags & IOMAP_F_NEW;
}

/* Of an overwrite-only call, before anything of it is submitted. */
static int dio_check_overwrite(const struct iomap__dio *dio)
{
	const struct iomap_iter *iter = &dio->iter;
	const struct iomap *iomap = &iter->iomap;
	uint64_t mask = iomap_i_blocksize(iter->inode) - 1;

	if (!dio->overwrite)
		return 0;
	if (iomap_length(iter) != iter->len || iomap_iter_srcmap(iter) != iomap ||
	    (iomap->type != IOMAP_MAPPED && iomap->type != IOMAP_UNWRITTEN) ||
	    iomap->flags & IOMAP_F_NEW)
		return -EAGAIN;
	return dio_is_fresh(iomap) && ((uint64_t)iter->pos | iter->len) & mask ? -EAGAIN : 0;
}

/* The device can write the whole call untorn, in one bio. */
static bool dio_suits_untorn(const struct iomap__dio *dio)
{
	const struct iomap_iter *iter = &dio->iter;
	uint64_t len = iter->len, pos = (uint64_t)iter->pos;
	const struct iomap_bdev_limits *limits;

	if (!iter->iomap.bdev || iter->pos != dio->iocb->ki_pos || iomap_length(iter) != len)
		return false;
	limits = iomap__bdev_limits(iter->iomap.bdev);
	return iomap__is_pow2(len) && len >= iomap_i_blocksize(iter->inode) &&
	       len >= limits->atomic_write_min_bytes && len <= limits->atomic_write_max_bytes &&
	       !((pos | iomap__mapping_addr(&iter->iomap, iter->pos)) & (len - 1));
}

static int dio_check_atomic(struct iomap__dio *dio)
{
	const struct iomap_iter *iter = &dio->iter;
	const struct iomap *iomap = &iter->iomap;

	if (!(iter->flags & IOMAP_ATOMIC))
		return 0;
	if (iomap->flags & IOMAP_F_ATOMIC_BIO) {
		dio->opf |= IOMAP_REQ_ATOMIC;
		return dio_suits_untorn(dio) ? 0 : -EINVAL;
	}
	if (iomap->type == IOMAP_MAPPED && !(iomap->flags & (IOMAP_F_NEW | IOMAP_F_SHARED)))
		return iomap__broken_mapping(iter->inode, iomap, iter->pos,
					     "an atomic write in place");
	return 0;
}

/* Whether bios of this mapping are durable by themselves when they have ended. */
static void dio_check_through(struct iomap__dio *dio)
{
	const struct iomap *iomap = &dio->iter.iomap;
	const struct iomap_bdev_limits *limits;

	if (!dio->through)
		return;
	dio->through = iomap->type == IOMAP_MAPPED && iomap->bdev &&
		       iomap_iter_srcmap(&dio->iter) == iomap &&
		       !(iomap->flags & (IOMAP_F_NEW | IOMAP_F_SHARED | IOMAP_F_DIRTY));
	if (!dio->through)
		return;
	limits = iomap__bdev_limits(iomap->bdev);
	/* else the kernel would flush behind each bio; one flush can be shared */
	dio->through = limits->flags & IOMAP_BDEV_HAS_FUA ||
		       !(limits->flags & IOMAP_BDEV_HAS_WRITE_CACHE);
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
	int err = dio_check_overwrite(dio);

	if (!err)
		err = dio_check_atomic(dio);
	if (err)
		return err;
	dio_check_through(dio);
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

int iomap__dio_iterate(struct iomap__dio *dio, const struct iomap_ops *ops)
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
	if (dio->waits && !plug.nested)
		iomap__plug_finish_expecting(&plug);
	else
		iomap_finish_plug(&plug);
	/* by the cache it would be torn */
	if (ret == -ENOTBLK && iter->flags & IOMAP_ATOMIC)
		return -EINVAL;
	return !ret && iter->len ? -EIO : ret;
}
