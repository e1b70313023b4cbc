/* SPDX-License-Identifier: MIT */
/*
 * file.c - what the library asks of an object: where its bytes lie, and what has been written.
 *
 * A write into a hole takes space at once, as an unwritten extent, which reads as zeros.  The
 * completion of writeback makes it a written one (xs_write_end()): so no commit ever names a
 * block as data that the device has not been given, and since a commit flushes before its
 * super block, none that could still be lost.  A power cut in between leaves zeros.
 *
 * The conversion comes before the folios leave writeback.  Until then they cannot leave the
 * cache, so nobody reads the extent's zeros in place of the data; and a writer that took its
 * mapping before the conversion finds the cookie changed when it has locked a folio, and
 * asks again.
 *
 * object->size, which a commit writes, follows completions, and truncations at once: what
 * lies below it and has not been written then is zeros.  It does not pass a tail block that
 * is written but not clean: bytes behind the old size in it, zeroed in the cache when the
 * object grew over them, would be seen as they were before a truncation.  As a rule the
 * completion of the tail block lets the size go on (xs_size_reached()).  But the block may have
 * been written before i_size had grown, with its zeros, and then no completion comes: so a
 * sync, and whoever needs the size as it will be, writes out the tail and goes by that
 * (xs_settle_size()).
 *
 * What several objects share is not overwritten: copies.c.
 */
#include <errno.h>

#include "store.h"

/* Most that one write takes at once. */
#define TAKE_BLOCKS_MAX (UINT64_C(1) << 18)

static struct xs_object *object_of(const struct iomap_inode *inode)
{
	return inode->i_private;
}

/* ---- the extent map ---- */

/* lock held.  What is at @pos, and the number of the extent there or behind. */
static uint32_t map_at(struct xs_object *object, int64_t pos, struct iomap *iomap)
{
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT;
	uint32_t at = xs_extent_find(object, block);
	const struct xs_extent *extent = at < object->extents_nr ? &object->extents[at] : NULL;

	iomap->validity_cookie = object->cookie;
	iomap->flags = 0;
	if (extent && extent->file <= block) {
		iomap->type = extent->unwritten ? IOMAP_UNWRITTEN : IOMAP_MAPPED;
		iomap->offset = (int64_t)(extent->file << XS_BLOCK_SHIFT);
		iomap->length = (uint64_t)extent->nr << XS_BLOCK_SHIFT;
		iomap->addr = extent->disk << XS_BLOCK_SHIFT;
		iomap->bdev = object->store->bdev;
		return at;
	}
	iomap->type = IOMAP_HOLE;
	iomap->addr = IOMAP_NULL_ADDR;
	iomap->offset = (int64_t)(block << XS_BLOCK_SHIFT);
	iomap->length = extent ? (extent->file - block) << XS_BLOCK_SHIFT :
				 (uint64_t)(INT64_MAX - iomap->offset);
	return at;
}

/* lock held.  Put an unwritten extent into the hole at @pos, in front of extent @at. */
static int fill_hole(struct xs_object *object, uint32_t at, int64_t pos, int64_t length)
{
	struct xs_store *store = object->store;
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT;
	uint64_t want = xs_blocks_up((uint64_t)pos + (uint64_t)length) - block;
	const struct xs_extent *before;
	uint64_t goal = 0, start, got;

	if (xs_extents_room(object, 1))
		return -ENOMEM;
	if (at < object->extents_nr && want > object->extents[at].file - block)
		want = object->extents[at].file - block;
	if (want > TAKE_BLOCKS_MAX)
		want = TAKE_BLOCKS_MAX;
	before = at ? &object->extents[at - 1] : NULL;
	if (before && xs_extent_end(before) == block)
		goal = before->disk + before->nr;
	got = xs_space_take(&store->space, goal, xs_space_spare(store, want), &start);
	if (!got)
		return -ENOSPC;
	xs_extent_insert(object, (struct xs_extent){ block, start, (uint32_t)got, 1 });
	return 0;
}

static int begin_locked(struct xs_object *object, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	uint32_t at = map_at(object, pos, iomap);
	int error;

	if (iomap->type == IOMAP_MAPPED && flags & (IOMAP_WRITE | IOMAP_ZERO))
		return xs_copies_begin(object, pos, length, flags & IOMAP_DIRECT, iomap, srcmap);
	if (iomap->type != IOMAP_HOLE || !(flags & IOMAP_WRITE) || flags & IOMAP_ZERO)
		return 0;
	error = fill_hole(object, at, pos, length);
	if (!error)
		map_at(object, pos, iomap);
	return error;
}

static int xs_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		    struct iomap *iomap, struct iomap *srcmap)
{
	struct xs_object *object = object_of(inode);
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

static const struct iomap_ops xs_ops = {
	.iomap_begin = xs_begin,
};

static bool xs_valid(struct iomap_inode *inode, const struct iomap *iomap)
{
	/* Acquire: pairs with the release of xs_changed(). */
	return iomap->validity_cookie ==
	       __atomic_load_n(&object_of(inode)->cookie, __ATOMIC_ACQUIRE);
}

static const struct iomap_write_ops xs_write_ops = {
	.iomap_valid = xs_valid,
};

/* ---- into the cache ---- */

static int xs_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &xs_ops);
}

static void xs_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &xs_ops);
}

/* ---- out of it ---- */

/* lock held.  Whether the block that holds the end has bytes behind it that were data. */
static bool tail_is_written(const struct xs_object *object)
{
	uint64_t block = object->size >> XS_BLOCK_SHIFT;
	uint32_t at = xs_extent_find(object, block);

	return object->size % XS_BLOCK_BYTES && at < object->extents_nr &&
	       object->extents[at].file <= block && !object->extents[at].unwritten;
}

static bool holds_tail(const struct xs_object *object, uint64_t from, uint64_t to)
{
	uint64_t tail = object->size >> XS_BLOCK_SHIFT;

	return from <= tail && tail < to;
}

void xs_size_reached(struct xs_object *object, uint64_t from, uint64_t to, uint64_t end)
{
	if (end < object->pending_size)
		end = object->pending_size;
	if (end <= object->size)
		return;
	if (tail_is_written(object) && !object->tail_lost && !holds_tail(object, from, to)) {
		object->pending_size = end;
		return;
	}
	object->pending_size = 0;
	object->tail_lost = false;
	object->size = end;
	xs_changed(object, XS_AT_OBJECT, XS_AT_OBJECT);
}

/*
 * lock held.  Blocks [@from, @to) are clean without having been written.  Whoever syncs is
 * told so; the size must not wait for them, nor what is written later be lost with it.
 */
static void blocks_lost(struct xs_object *object, uint64_t from, uint64_t to)
{
	if (!holds_tail(object, from, to))
		return;
	object->tail_lost = true;
	xs_size_reached(object, from, to, 0);
}

static void range_lost(struct xs_object *object, uint64_t pos, uint64_t end)
{
	pthread_mutex_lock(&object->store->lock);
	blocks_lost(object, pos >> XS_BLOCK_SHIFT, xs_blocks_up(end));
	pthread_mutex_unlock(&object->store->lock);
}

/* An ioend has been written, or has failed.  Any thread; `lock` is held for moments only. */
static void xs_write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct xs_object *object = object_of(ioend->io_inode);
	uint64_t from = (uint64_t)ioend->io_offset >> XS_BLOCK_SHIFT;
	uint64_t end = (uint64_t)ioend->io_offset + ioend->io_size;
	uint64_t i_size = (uint64_t)iomap_i_size_read(ioend->io_inode);

	pthread_mutex_lock(&object->store->lock);
	xs_extents_reserve(object, -2);
	if (bio->bi_status) {
		blocks_lost(object, from, xs_blocks_up(end));
	} else {
		xs_size_reached(object, from, xs_blocks_up(end), end < i_size ? end : i_size);
		if (ioend->io_flags & IOMAP_IOEND_SHARED)
			xs_copies_install(object, from, xs_blocks_up(end));
		else
			xs_extents_convert(object, from, xs_blocks_up(end));
	}
	pthread_mutex_unlock(&object->store->lock);

	bio->bi_end_io = (iomap_bio_end_io_fn *)ioend->io_private;
	bio->bi_end_io(bio);
}

/*
 * What one call of xs_writepages() has.  Room for what a completion does is found before there
 * is an ioend: later there is nobody to tell, and until then data can be left dirty.
 */
struct writeback {
	struct iomap_writepage_ctx wpc;
	bool spare; /* room that no ioend has yet */
};

static int reserve_conversion(struct writeback *writeback, struct xs_object *object)
{
	int error = 0;

	if (writeback->spare)
		return 0;
	pthread_mutex_lock(&object->store->lock);
	error = xs_extents_room(object, 2);
	if (!error)
		xs_extents_reserve(object, 2);
	pthread_mutex_unlock(&object->store->lock);
	writeback->spare = !error;
	return error;
}

static void drop_spare(struct writeback *writeback)
{
	struct xs_object *object = object_of(writeback->wpc.inode);

	if (!writeback->spare)
		return;
	pthread_mutex_lock(&object->store->lock);
	xs_extents_reserve(object, -2);
	pthread_mutex_unlock(&object->store->lock);
}

/* The ioend being built ends with us, if it is a new one: it takes the room. */
static void take_ioend(struct writeback *writeback)
{
	struct iomap_ioend *ioend = writeback->wpc.wb_ctx;

	if (!ioend || ioend->io_private)
		return;
	ioend->io_private = (void *)ioend->io_bio.bi_end_io;
	ioend->io_bio.bi_end_io = xs_write_end;
	writeback->spare = false;
}

static ssize_t xs_writeback_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				  uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct writeback *writeback = (struct writeback *)wpc;
	struct xs_object *object = object_of(wpc->inode);
	ssize_t done = -EIO;

	/* without memory: it stays dirty, and is tried again */
	if (reserve_conversion(writeback, object))
		return IOMAP_WB_DEFER;
	pthread_mutex_lock(&object->store->lock);
	map_at(object, (int64_t)pos, &wpc->iomap);
	if (wpc->iomap.type == IOMAP_MAPPED)
		xs_copies_map(object, (int64_t)pos, &wpc->iomap);
	pthread_mutex_unlock(&object->store->lock);
	/* Dirty data has space: the write took it, and what gives it back drops the cache first. */
	if (wpc->iomap.type != IOMAP_HOLE)
		done = iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
	take_ioend(writeback);
	if (done < 0)
		range_lost(object, pos, (uint64_t)iomap_folio_pos(folio) + iomap_folio_size(folio));
	return done;
}

static const struct iomap_writeback_ops xs_writeback_ops = {
	.writeback_range = xs_writeback_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int xs_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct writeback writeback = {
		.wpc = {
			.inode = mapping->host,
			.wbc = wbc,
			.ops = &xs_writeback_ops,
		},
	};
	int error = iomap_writepages(&writeback.wpc);

	drop_spare(&writeback);
	return error;
}

const struct iomap_address_space_operations xs_a_ops = {
	.read_folio = xs_read_folio,
	.writepages = xs_writepages,
	.readahead = xs_readahead,
};

/* ---- size and sync ---- */

/* lock held, and given up meanwhile.  The tail block, and all behind it that starts before @to. */
static int write_tail(struct xs_object *object, uint64_t to)
{
	uint64_t tail = object->size & ~(uint64_t)(XS_BLOCK_BYTES - 1);
	uint64_t end = xs_blocks_up(to) << XS_BLOCK_SHIFT;
	int error;

	if (end <= tail)
		end = tail + XS_BLOCK_BYTES;
	pthread_mutex_unlock(&object->store->lock);
	error = iomap_filemap_write_and_wait_range(&object->inode.i_data, (int64_t)tail,
						   (int64_t)end - 1);
	pthread_mutex_lock(&object->store->lock);
	return error;
}

/*
 * What the size waits for came into the cache after the zeros behind the end; only a cut makes
 * other bytes of them.
 */
int xs_settle_size(struct xs_object *object, uint64_t to)
{
	uint64_t size, cuts_nr;
	int error = 0;

	pthread_mutex_lock(&object->store->lock);
	while (!error && object->pending_size > object->size) {
		size = object->size;
		cuts_nr = object->cuts_nr;
		error = write_tail(object, to);
		if (!error && object->size == size && object->cuts_nr == cuts_nr)
			xs_size_reached(object, 0, UINT64_MAX, 0);
	}
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

void xs_size_settled(struct xs_object *object)
{
	xs_size_reached(object, 0, UINT64_MAX, 0);
}

static int grow(struct xs_object *object, int64_t old_size, int64_t new_size)
{
	int error =
		iomap_truncate_page(&object->inode, old_size, NULL, &xs_ops, &xs_write_ops, NULL);

	if (error)
		return error;
	iomap_truncate_setsize(&object->inode, new_size);
	pthread_mutex_lock(&object->store->lock);
	xs_size_reached(object, 0, 0, (uint64_t)new_size);
	pthread_mutex_unlock(&object->store->lock);
	return 0;
}

/* What is cut is given back without a way to fail: later there is only half of it to undo. */
static int cut_room(struct xs_object *object, uint64_t size, size_t *reserved)
{
	int error;

	pthread_mutex_lock(&object->store->lock);
	error = xs_extents_cut_room(object, xs_blocks_up(size), reserved);
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

static int shrink(struct xs_object *object, int64_t new_size)
{
	uint64_t size = (uint64_t)new_size;
	size_t reserved;
	/* the size must not pass the new end later, while old bytes are behind it on the device */
	int error = xs_settle_size(object, size);

	if (!error)
		error = cut_room(object, size, &reserved);
	if (error)
		return error;
	error = iomap_truncate_page(&object->inode, new_size, NULL, &xs_ops, &xs_write_ops, NULL);
	if (error) {
		pthread_mutex_lock(&object->store->lock);
		object->store->space.freed.reserved -= reserved;
		pthread_mutex_unlock(&object->store->lock);
		return error;
	}
	iomap_truncate_setsize(&object->inode, new_size);
	pthread_mutex_lock(&object->store->lock);
	xs_extents_cut(object, xs_blocks_up(size), reserved);
	object->cuts_nr++;
	if (object->pending_size > size)
		object->pending_size = size;
	if (object->size > size) {
		object->size = size;
		xs_changed(object, XS_AT_OBJECT, XS_AT_OBJECT);
	}
	/* the new end may lie in a hole, of which no completion will tell */
	xs_size_reached(object, 0, 0, size);
	pthread_mutex_unlock(&object->store->lock);
	/* and so must it not when what was under way has brought old bytes there meanwhile */
	return xs_settle_size(object, size);
}

static int xs_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	struct xs_object *object = object_of(inode);

	if (object->store->readonly)
		return -EROFS;
	return new_size < old_size ? shrink(object, new_size) : grow(object, old_size, new_size);
}

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
	struct xs_object *object = object_of(inode);
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

/* An object without a name has no metadata to commit: it is gone after a power cut. */
static int xs_commit_metadata(struct iomap_inode *inode, int datasync)
{
	struct xs_object *object = object_of(inode);
	bool nameless;
	int error;

	(void)datasync;
	pthread_mutex_lock(&object->store->lock);
	nameless = !object->name;
	pthread_mutex_unlock(&object->store->lock);
	if (nameless)
		return 0;
	error = xs_settle_size(object, 0);
	if (!error)
		error = xs_commit(object->store);
	/* the super block goes out behind a flush, and is through when its write is */
	return error ? error : IOMAP_COMMIT_FLUSHED;
}

/* Where the block lies whose writing the size waits for; -1: for none. */
static int64_t awaited_tail(struct xs_object *object)
{
	int64_t tail = -1;

	pthread_mutex_lock(&object->store->lock);
	if (object->pending_size)
		tail = (int64_t)(object->size & ~(uint64_t)(XS_BLOCK_BYTES - 1));
	pthread_mutex_unlock(&object->store->lock);
	return tail;
}

/*
 * A range is durable only with a size that covers it, and that may wait for a tail block
 * before the range.  So what is asked for goes first, then the tail, if it is waited for;
 * and then the commit finds the size.
 */
static int xs_fsync(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct xs_object *object = object_of(iomap_file_inode(file));
	int64_t tail;
	int error;

	if (start > 0) {
		error = iomap_sync_range(file, start, end == INT64_MAX ? end : end + 1, all);
		tail = awaited_tail(object);
		if (!error && tail >= 0)
			error = iomap_sync_range(file, tail, tail + XS_BLOCK_BYTES, all);
		/* what is still dirty is tried again, and the error told, below */
		if (error)
			start = 0;
	}
	return iomap_fsync(file, start, end, datasync);
}

const struct iomap_file_operations xs_file_ops = {
	.fsync = xs_fsync,
};

const struct iomap_inode_ops xs_inode_ops = {
	.write = &xs_ops,
	.write_ops = &xs_write_ops,
	.direct = &xs_ops,
	.dio_ops = &xs_dio_ops,
	.open = xs_file_open,
	.commit_metadata = xs_commit_metadata,
	.setsize = xs_setsize,
};
