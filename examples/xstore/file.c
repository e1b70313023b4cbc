/* SPDX-License-Identifier: MIT */
/*
 * file.c - what the library asks of an object: where its bytes lie.
 *
 * A write into a hole reserves blocks (delalloc.c), or, past the cache, takes them at once as an
 * unwritten extent, which reads as zeros.  What becomes of them is told in writeback.c and
 * size.c.
 *
 * What several objects share is not overwritten: copies.c.
 *
 * There is no room when the reservation finds none, never later.  Space that was given back is
 * waiting for a commit then: that is made, and the write tries again.
 */
#include <errno.h>

#include "store.h"

/* Most that one direct write takes at once. */
#define TAKE_BLOCKS_MAX (UINT64_C(1) << 18)

/* ---- the extent map ---- */

void xs_map_at(struct xs_object *object, int64_t pos, struct iomap *iomap)
{
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT, run, end;
	uint32_t at = xs_extent_find(object, block);
	const struct xs_extent *extent = at < object->extents_nr ? &object->extents[at] : NULL;

	iomap->validity_cookie = object->cookie;
	/* who writes in place asks whether that is durable with the data */
	iomap->flags = object->store->changes != object->store->committed || object->pending_size ?
			       IOMAP_F_DIRTY :
			       0;
	if (extent && extent->file <= block) {
		iomap->type = extent->unwritten ? IOMAP_UNWRITTEN : IOMAP_MAPPED;
		iomap->offset = (int64_t)(extent->file << XS_BLOCK_SHIFT);
		iomap->length = (uint64_t)extent->nr << XS_BLOCK_SHIFT;
		iomap->addr = extent->disk << XS_BLOCK_SHIFT;
		iomap->bdev = object->store->bdev;
		return;
	}
	iomap->addr = IOMAP_NULL_ADDR;
	iomap->offset = (int64_t)(block << XS_BLOCK_SHIFT);
	run = xs_reserved_run(object, block);
	if (run) {
		iomap->type = IOMAP_DELALLOC;
		iomap->length = run << XS_BLOCK_SHIFT;
		return;
	}
	/* the last hole ends where positions do */
	end = extent ? extent->file : UINT64_C(1) << (63 - XS_BLOCK_SHIFT);
	end = xs_reserved_next(object, block, end);
	iomap->type = IOMAP_HOLE;
	iomap->length = (end - block) << XS_BLOCK_SHIFT;
}

/* lock held.  The blocks that a write of @length bytes at @pos wants of the hole there. */
static uint64_t wanted(const struct iomap *hole, int64_t pos, int64_t length)
{
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT;
	uint64_t want = xs_blocks_up((uint64_t)pos + (uint64_t)length) - block;
	uint64_t there = hole->length >> XS_BLOCK_SHIFT;

	return want < there ? want : there;
}

/* lock held.  Put an unwritten extent of up to @want blocks into the hole at @pos. */
static int fill_hole(struct xs_object *object, int64_t pos, uint64_t want)
{
	struct xs_store *store = object->store;
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT;
	uint64_t start, got;

	if (xs_extents_room(object, 1))
		return -ENOMEM;
	if (want > TAKE_BLOCKS_MAX)
		want = TAKE_BLOCKS_MAX;
	got = xs_space_take(&store->space, xs_extents_goal(object, block),
			    xs_space_spare(store, want), &start);
	if (!got)
		return -ENOSPC;
	xs_extent_insert(object, (struct xs_extent){ block, start, (uint32_t)got, 1 });
	return 0;
}

/* lock held.  The hole at @pos becomes a reservation, which is told as new. */
static int reserve_hole(struct xs_object *object, int64_t pos, uint64_t want, struct iomap *iomap)
{
	int error = xs_reserve(object, (uint64_t)pos >> XS_BLOCK_SHIFT, &want);

	if (error)
		return error;
	iomap->type = IOMAP_DELALLOC;
	iomap->flags |= IOMAP_F_NEW;
	iomap->length = want << XS_BLOCK_SHIFT;
	return 0;
}

static int begin_locked(struct xs_object *object, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	uint64_t want;
	int error;

	xs_map_at(object, pos, iomap);
	if (iomap->type == IOMAP_MAPPED && flags & (IOMAP_WRITE | IOMAP_ZERO))
		return xs_copies_begin(object, pos, length, flags & IOMAP_DIRECT, iomap, srcmap);
	/* to zero or unshare a hole is nothing to do */
	if (iomap->type != IOMAP_HOLE || !(flags & IOMAP_WRITE) ||
	    flags & (IOMAP_ZERO | IOMAP_UNSHARE))
		return 0;
	want = wanted(iomap, pos, length);
	if (!(flags & IOMAP_DIRECT))
		return reserve_hole(object, pos, want, iomap);
	error = fill_hole(object, pos, want);
	if (!error)
		xs_map_at(object, pos, iomap);
	return error;
}

static int xs_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		    struct iomap *iomap, struct iomap *srcmap)
{
	struct xs_object *object = xs_object_of(inode);
	struct xs_store *store = object->store;
	bool waiting;
	int error;

	if (flags & IOMAP_WRITE && store->readonly)
		return -EROFS;
	pthread_mutex_lock(&store->lock);
	error = begin_locked(object, pos, length, flags, iomap, srcmap);
	waiting = xs_space_waiting(store);
	pthread_mutex_unlock(&store->lock);
	if (error != -ENOSPC || !waiting)
		return error;
	if (flags & IOMAP_NOWAIT)
		return -EAGAIN;

	/* What was removed is free once a commit says so. */
	error = xs_commit(store);
	if (error)
		return error;
	pthread_mutex_lock(&store->lock);
	error = begin_locked(object, pos, length, flags, iomap, srcmap);
	pthread_mutex_unlock(&store->lock);
	return error;
}

/* Nothing in the cache needs a reservation in [@offset, @offset + @length). */
static void xs_not_needed(struct iomap_inode *inode, int64_t offset, int64_t length,
			  struct iomap *iomap)
{
	struct xs_object *object = xs_object_of(inode);
	uint64_t from = (uint64_t)offset >> XS_BLOCK_SHIFT;

	(void)iomap;
	pthread_mutex_lock(&object->store->lock);
	xs_unreserve(object, from, xs_blocks_up((uint64_t)offset + (uint64_t)length));
	pthread_mutex_unlock(&object->store->lock);
}

/* What was reserved for this write, and is not used by it, is given back. */
static int xs_end(struct iomap_inode *inode, int64_t pos, int64_t length, ssize_t written,
		  unsigned flags, struct iomap *iomap)
{
	const int64_t mask = XS_BLOCK_BYTES - 1;
	int64_t start = written > 0 ? (pos + written + mask) & ~mask : pos & ~mask;
	int64_t end = (pos + length + mask) & ~mask;

	if (iomap->type != IOMAP_DELALLOC || !(iomap->flags & IOMAP_F_NEW) || start >= end)
		return 0;
	return iomap_write_delalloc_release(inode, start, end, flags, iomap, xs_not_needed);
}

const struct iomap_ops xs_ops = {
	.iomap_begin = xs_begin,
	.iomap_end = xs_end,
};

/* For what reserves nothing. */
static const struct iomap_ops xs_place_ops = {
	.iomap_begin = xs_begin,
};

static bool xs_valid(struct iomap_inode *inode, const struct iomap *iomap)
{
	/* Acquire: pairs with the release of xs_mappings_changed(). */
	return iomap->validity_cookie ==
	       __atomic_load_n(&xs_object_of(inode)->cookie, __ATOMIC_ACQUIRE);
}

const struct iomap_write_ops xs_write_ops = {
	.iomap_valid = xs_valid,
};

/* ---- into the cache ---- */

static int xs_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &xs_place_ops);
}

static void xs_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &xs_place_ops);
}

/* ---- out of it ---- */

const struct iomap_address_space_operations xs_a_ops = {
	.read_folio = xs_read_folio,
	.writepages = xs_writepages,
	.readahead = xs_readahead,
};

/*
 * Up to where the object is on the device with a direct write that ends at @end: as in
 * writeback all of the last block, whose rest is zeros or had been written out before.  A
 * size within a block that nobody is going to write would keep all that lies behind waiting.
 */
static uint64_t dio_reach(const struct iomap_inode *inode, int64_t end)
{
	uint64_t block_end = xs_blocks_up((uint64_t)end) << XS_BLOCK_SHIFT;
	uint64_t i_size = (uint64_t)iomap_i_size_read(inode);

	/* i_size moves behind us */
	if (i_size <= (uint64_t)end)
		return (uint64_t)end;
	return i_size < block_end ? i_size : block_end;
}

/*
 * Of what is read or written past the cache.  The device has the data, and nothing durable
 * names it yet as written, nor a size that covers it.  Whoever writes alone may have moved
 * the end; blocks below it that were written before are as they were.
 *
 * A tail block that this write does not hold may be dirty in the cache: then the size waits
 * for it, as it does for writeback.  If it holds the tail it has written that out first.
 */
static int xs_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct iomap_inode *inode = iomap_file_inode(iocb->ki_filp);
	struct xs_object *object = xs_object_of(inode);
	uint64_t from = (uint64_t)iocb->ki_pos >> XS_BLOCK_SHIFT;
	int64_t end = iocb->ki_pos + size;
	bool unwritten = flags & IOMAP_DIO_UNWRITTEN;

	/* a read ends at i_size and finds nothing to convert */
	if (error || size <= 0 || (!unwritten && end <= iomap_i_size_read(inode)))
		return 0;
	pthread_mutex_lock(&object->store->lock);
	error = unwritten ? xs_extents_room(object, 2) : 0;
	if (!error) {
		xs_size_reached(object, from, xs_blocks_up((uint64_t)end), dio_reach(inode, end));
		xs_extents_convert(object, from, xs_blocks_up((uint64_t)end));
	}
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

static const struct iomap_dio_ops xs_dio_ops = {
	.end_io = xs_dio_end_io,
};

static int xs_file_open(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

const struct iomap_file_operations xs_file_ops = {
	.fsync = xs_fsync,
};

const struct iomap_inode_ops xs_inode_ops = {
	.write = &xs_ops,
	.write_ops = &xs_write_ops,
	.direct = &xs_place_ops,
	.dio_ops = &xs_dio_ops,
	.open = xs_file_open,
	.commit_metadata = xs_commit_metadata,
	.setsize = xs_setsize,
	.fallocate = xs_fallocate,
};
