/* SPDX-License-Identifier: MIT */
/*
 * size.c - how far an object reaches: what a commit says of it, truncation, fsync.
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
 * A reserved block is nothing on the device, as is a hole: a size may pass either, but only
 * because something behind it was written, or cut or zeroed on purpose.
 */
#include <errno.h>

#include "store.h"

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

void xs_blocks_lost(struct xs_object *object, uint64_t from, uint64_t to)
{
	if (!holds_tail(object, from, to))
		return;
	object->tail_lost = true;
	xs_size_reached(object, from, to, 0);
}

/* ---- waiting for the tail ---- */

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
 * The size waits for its tail block no longer: that is written out here, with what lies
 * behind it below @to.  What the size waits for came into the cache after the zeros behind
 * the end; only a cut makes other bytes of them.
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

static int cut_begin(struct xs_object *object, uint64_t size)
{
	int error;

	pthread_mutex_lock(&object->store->lock);
	error = xs_extents_cut_begin(object, xs_blocks_up(size), XS_FILE_BLOCKS_MAX);
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

static int cut_give_up(struct xs_object *object, int error)
{
	pthread_mutex_lock(&object->store->lock);
	xs_extents_cut_end(object);
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

/* lock held.  Nothing is left in the cache behind @size, nor on its way from there. */
static void cut(struct xs_object *object, uint64_t size)
{
	xs_unreserve(object, xs_blocks_up(size), XS_FILE_BLOCKS_MAX);
	xs_extents_cut(object, xs_blocks_up(size), XS_FILE_BLOCKS_MAX);
	xs_extents_cut_end(object);
	object->cuts_nr++;
	if (object->pending_size > size)
		object->pending_size = size;
	if (object->size > size) {
		object->size = size;
		xs_changed(object, XS_AT_OBJECT, XS_AT_OBJECT);
	}
	/* the new end may lie in a hole, of which no completion will tell */
	xs_size_reached(object, 0, 0, size);
}

/* What is cut is given back without a way to fail: later there is only half of it to undo. */
static int shrink(struct xs_object *object, int64_t new_size)
{
	uint64_t size = (uint64_t)new_size;
	/* the size must not pass the new end later, while old bytes are behind it on the device */
	int error = xs_settle_size(object, size);

	if (!error)
		error = cut_begin(object, size);
	if (error)
		return error;
	error = iomap_truncate_page(&object->inode, new_size, NULL, &xs_ops, &xs_write_ops, NULL);
	if (error)
		return cut_give_up(object, error);
	iomap_truncate_setsize(&object->inode, new_size);
	pthread_mutex_lock(&object->store->lock);
	cut(object, size);
	pthread_mutex_unlock(&object->store->lock);
	/* and so must it not when what was under way has brought old bytes there meanwhile */
	return xs_settle_size(object, size);
}

int xs_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	struct xs_object *object = xs_object_of(inode);

	if (object->store->readonly)
		return -EROFS;
	return new_size < old_size ? shrink(object, new_size) : grow(object, old_size, new_size);
}

int xs_size_at_least(struct iomap_inode *inode, int64_t end)
{
	int64_t size = iomap_i_size_read(inode);

	return end > size ? grow(xs_object_of(inode), size, end) : 0;
}

/* An object without a name has no metadata to commit: it is gone after a power cut. */
int xs_commit_metadata(struct iomap_inode *inode, int datasync)
{
	struct xs_object *object = xs_object_of(inode);
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
int xs_fsync(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct xs_object *object = xs_object_of(iomap_file_inode(file));
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

