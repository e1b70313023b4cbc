/* SPDX-License-Identifier: MIT */
/*
 * clone.c - let two objects share blocks, and have blocks of one's own again.
 *
 * A clone is extents that name blocks which others name as well.  It is made in one hold of
 * store->lock, and so is in one commit or in none: what the range had is given back, the
 * written extents of the source come in its place, each of their blocks counts one owner
 * more, and the object reaches at least to the end of the range.  Space that was never written
 * is left out, and is a hole: it reads the same.
 *
 * Before, the source is written out, so that its extents have all of its data; and the range
 * of the other, so that nothing is lost when there turns out to be no room.  From then to the
 * end nobody writes either, directly or by the cache, since the i_rwsem of both are held.  Both
 * may be read all the while, and readers fill the cache by the extents that they see: so what
 * is cached of the range is dropped when it has its new ones.  That waits for readers who are
 * still under way to the blocks that were there before; until then these are held, and are nobody's.
 *
 * To unshare is to write what is there: the library reads shared blocks into the cache and makes
 * them dirty, and the rest is as with any write to them (copies.c).
 *
 * Locks: two i_rwsem have no order, so the second is only tried for.
 */
#include <errno.h>
#include <stdlib.h>

#include "store.h"

struct clone {
	struct xs_object *from, *to;
	int64_t pos, to_pos, len; /* bytes */
	uint64_t block, to_block, nr;
	struct xs_extent *extents; /* what @to gets */
	uint32_t extents_nr;
};

/* ---- locks ---- */

static void lock_both(struct iomap_inode *first, struct iomap_inode *second)
{
	struct iomap_inode *other;

	iomap_inode_lock(first);
	while (first != second && !iomap_inode_trylock(second)) {
		/* wait for the one that is taken, holding none */
		iomap_inode_unlock(first);
		other = first;
		first = second;
		second = other;
		iomap_inode_lock(first);
	}
}

static void unlock_both(struct iomap_inode *first, struct iomap_inode *second)
{
	iomap_inode_unlock(first);
	if (first != second)
		iomap_inode_unlock(second);
}

/* ---- what is asked for ---- */

/* Locks held. */
static int check_range(struct clone *clone)
{
	const int64_t rest = XS_BLOCK_BYTES - 1;
	int64_t size = iomap_i_size_read(&clone->from->inode);
	int64_t to_size = iomap_i_size_read(&clone->to->inode);

	if (clone->pos > size || clone->len > size - clone->pos)
		return -EINVAL;
	if (!clone->len)
		clone->len = size - clone->pos;
	if (clone->to_pos > (int64_t)XS_FILE_BYTES_MAX ||
	    clone->len > (int64_t)XS_FILE_BYTES_MAX - clone->to_pos)
		return -EFBIG;
	/* a part of a block can be shared only where nothing of either is behind it */
	if ((clone->pos | clone->to_pos) & rest ||
	    (clone->len & rest &&
	     (clone->pos + clone->len != size || clone->to_pos + clone->len < to_size)))
		return -EINVAL;
	clone->block = (uint64_t)clone->pos >> XS_BLOCK_SHIFT;
	clone->to_block = (uint64_t)clone->to_pos >> XS_BLOCK_SHIFT;
	clone->nr = xs_blocks_up((uint64_t)clone->len);
	if (clone->from == clone->to && clone->block < clone->to_block + clone->nr &&
	    clone->to_block < clone->block + clone->nr)
		return -EINVAL;
	return 0;
}

/* Both ranges are on the device as they are. */
static int write_out(const struct clone *clone)
{
	int64_t bytes = (int64_t)(clone->nr << XS_BLOCK_SHIFT);
	int error;

	error = iomap_filemap_write_and_wait_range(&clone->from->inode.i_data, clone->pos,
						   clone->pos + bytes - 1);
	if (!error)
		error = iomap_filemap_write_and_wait_range(&clone->to->inode.i_data, clone->to_pos,
							   clone->to_pos + bytes - 1);
	return error;
}

/* ---- sharing: under store->lock ---- */

/* The written extents of the source, as they are to be in the other. */
static int collect(struct clone *clone)
{
	const struct xs_object *from = clone->from;
	uint64_t end = clone->block + clone->nr;
	uint32_t first = xs_extent_find(from, clone->block), at = first;

	while (at < from->extents_nr && from->extents[at].file < end)
		at++;
	clone->extents_nr = 0;
	clone->extents = calloc((size_t)(at - first) + 1, sizeof(*clone->extents));
	if (!clone->extents)
		return -ENOMEM;
	for (; first < at; first++) {
		const struct xs_extent *extent = &from->extents[first];
		uint64_t start = extent->file > clone->block ? extent->file : clone->block;
		uint64_t stop = xs_extent_end(extent) < end ? xs_extent_end(extent) : end;

		if (extent->unwritten)
			continue;
		clone->extents[clone->extents_nr++] = (struct xs_extent){
			.file = clone->to_block + (start - clone->block),
			.disk = extent->disk + (start - extent->file),
			.nr = (uint32_t)(stop - start),
		};
	}
	return 0;
}

/* Room in memory, and for the metadata.  What is replaced may leave two parts of an extent. */
static int find_room(const struct clone *clone)
{
	struct xs_object *to = clone->to;

	if (clone->extents_nr > UINT32_MAX - 2 || xs_extents_room(to, clone->extents_nr + 2))
		return -ENOMEM;
	return xs_space_bears(to->store, (uint64_t)clone->extents_nr + 1) ? 0 : -ENOSPC;
}

static int add_owners(const struct clone *clone)
{
	struct xs_shares *shares = &clone->to->store->space.shares;
	const struct xs_extent *extents = clone->extents;
	int error = 0;

	for (uint32_t i = 0; !error && i < clone->extents_nr; i++) {
		error = xs_shares_add(shares, extents[i].disk, extents[i].nr);
		while (error && i-- > 0)
			xs_shares_drop(shares, extents[i].disk, extents[i].nr);
	}
	return error;
}

/* Success: the blocks that were there are held, up to the end of reach(). */
static int share(struct clone *clone, bool *waiting)
{
	struct xs_store *store = clone->to->store;
	uint64_t end = clone->to_block + clone->nr;
	int error;

	pthread_mutex_lock(&store->lock);
	error = collect(clone);
	if (!error)
		error = find_room(clone);
	if (!error)
		error = xs_extents_hold_begin(clone->to, clone->to_block, end);
	if (!error) {
		error = add_owners(clone);
		if (error)
			xs_extents_hold_end(clone->to);
	}
	if (!error) {
		xs_unreserve(clone->to, clone->to_block, end);
		xs_extents_hold(clone->to, clone->to_block, end);
		for (uint32_t i = 0; i < clone->extents_nr; i++)
			xs_extent_insert(clone->to, clone->extents[i]);
		/* whatever i_size is: what a commit says may not be as far */
		xs_size_reached(clone->to, clone->to_block, end,
				(uint64_t)(clone->to_pos + clone->len));
	}
	*waiting = xs_space_waiting(store);
	pthread_mutex_unlock(&store->lock);
	free(clone->extents);
	return error;
}

/* ---- all of it ---- */

/* What is cloned is there: nobody sees anything else, and the object reaches to its end. */
static int reach(const struct clone *clone)
{
	struct iomap_inode *inode = &clone->to->inode;
	int64_t blocks_end = clone->to_pos + (int64_t)(clone->nr << XS_BLOCK_SHIFT);
	int64_t end = clone->to_pos + clone->len;

	iomap_truncate_pagecache_range(inode, clone->to_pos, blocks_end - 1);
	pthread_mutex_lock(&clone->to->store->lock);
	xs_extents_hold_end(clone->to);
	pthread_mutex_unlock(&clone->to->store->lock);
	if (end > iomap_i_size_read(inode))
		iomap_truncate_setsize(inode, end);
	return xs_settle_size(clone->to, 0);
}

/* Locks held. */
static int clone_range(struct clone *clone)
{
	struct iomap_inode *inode = &clone->to->inode;
	int64_t size = iomap_i_size_read(inode);
	bool waiting;
	int error = 0;

	/* the rest of the block that holds the end becomes zeros, as when a write leaves a gap */
	if (clone->to_pos > size)
		error = xs_setsize(inode, size, clone->to_pos);
	if (!error)
		error = write_out(clone);
	if (error)
		return error;
	error = share(clone, &waiting);
	if (error == -ENOSPC && waiting) {
		/* What was removed is free once a commit says so. */
		error = xs_commit(clone->to->store);
		if (!error)
			error = share(clone, &waiting);
	}
	return error ? error : reach(clone);
}

int xs_clone(struct xs_object *from, int64_t pos, struct xs_object *to, int64_t to_pos, int64_t len)
{
	struct clone clone = { .from = from, .to = to, .pos = pos, .to_pos = to_pos, .len = len };
	int error;

	if (pos < 0 || to_pos < 0 || len < 0)
		return -EINVAL;
	if (from->store != to->store)
		return -EXDEV;
	if (to->store->readonly)
		return -EROFS;
	lock_both(&from->inode, &to->inode);
	iomap_inode_dio_wait(&from->inode);
	iomap_inode_dio_wait(&to->inode);
	iomap_filemap_invalidate_lock(to->inode.i_mapping);
	error = check_range(&clone);
	if (!error && clone.len)
		error = clone_range(&clone);
	iomap_filemap_invalidate_unlock(to->inode.i_mapping);
	unlock_both(&from->inode, &to->inode);
	return error;
}

int xs_unshare(struct xs_object *object, int64_t pos, int64_t len)
{
	struct iomap_inode *inode = &object->inode;
	int error;

	if (object->store->readonly)
		return -EROFS;
	iomap_inode_lock(inode);
	/* what is in flight in place is not to be followed by older bytes */
	iomap_inode_dio_wait(inode);
	iomap_filemap_invalidate_lock(inode->i_mapping);
	error = iomap_file_unshare(inode, pos, len, &xs_ops, &xs_write_ops);
	iomap_filemap_invalidate_unlock(inode->i_mapping);
	iomap_inode_unlock(inode);
	return error;
}
