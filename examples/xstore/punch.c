/* SPDX-License-Identifier: MIT */
/*
 * punch.c - fallocate: space for later, holes, and zeros that nobody writes.
 *
 * A range becomes a hole in this order:
 *
 *	its ends	parts of blocks are zeroed in the cache, and written out like data
 *	room		for what follows, which then cannot fail
 *	cache		of the whole blocks is dropped, what was being written is waited for
 *	extents		and reservations go; the blocks are held, and are nobody's
 *	cache		is dropped once more
 *	blocks		are given back, to be free with the next commit
 *
 * Why the cache goes twice.  Before, so that nothing is written to these blocks any more.
 * Readers take no lock, though, and one may bring old bytes in again before the extents have
 * gone.  The second drop waits for it, and who comes later finds a hole: only then does
 * nobody read the blocks, and they may come to be somebody else's.
 *
 * As for a truncation, power that goes before a commit brings the old bytes back.  A range of
 * zeros is a hole that is filled with unwritten space: the old blocks may be free only by a commit
 * in between, and may be shared.
 *
 * i_rwsem is held exclusively and no direct I/O goes on.  invalidate_lock is taken here.
 */
#include <errno.h>

#include "store.h"

/* In bytes; and the whole blocks in it. */
struct range {
	struct xs_object *object;
	uint64_t pos, end;
	uint64_t from, to; /* from >= to: none */
};

/* What an object may come to have more, by losing pieces from its middle and of its copies. */
#define PUNCH_EXTENTS 2U

static int zero_bytes(struct range *range, uint64_t pos, uint64_t end)
{
	struct iomap_inode *inode = &range->object->inode;
	uint64_t i_size = (uint64_t)iomap_i_size_read(inode);

	if (end > i_size)
		end = i_size;
	if (pos >= end)
		return 0;
	return iomap_zero_range(inode, (int64_t)pos, (int64_t)(end - pos), NULL, &xs_ops,
				&xs_write_ops, NULL);
}

static int zero_ends(struct range *range)
{
	int error;

	if (range->from >= range->to)
		return zero_bytes(range, range->pos, range->end);
	error = zero_bytes(range, range->pos, range->from << XS_BLOCK_SHIFT);
	return error ? error : zero_bytes(range, range->to << XS_BLOCK_SHIFT, range->end);
}

/* lock held. */
static int room_locked(struct range *range)
{
	struct xs_object *object = range->object;
	struct xs_store *store = object->store;
	int error;

	if (!xs_space_bears(store, PUNCH_EXTENTS))
		return xs_space_waiting(store) ? -EAGAIN : -ENOSPC;
	error = xs_extents_room(object, PUNCH_EXTENTS);
	if (!error)
		error = xs_extents_hold_begin(object, range->from, range->to);
	if (error)
		return error;
	xs_extents_reserve(object, PUNCH_EXTENTS);
	/* nobody else gets that room meanwhile */
	store->weight += PUNCH_EXTENTS;
	return 0;
}

/* For what cannot fail later. */
static int make_room(struct range *range)
{
	struct xs_store *store = range->object->store;
	int error;

	for (bool again = false;; again = true) {
		pthread_mutex_lock(&store->lock);
		error = room_locked(range);
		pthread_mutex_unlock(&store->lock);
		if (error != -EAGAIN)
			return error;
		if (again)
			return -ENOSPC;
		/* What was removed is free once a commit says so. */
		error = xs_commit(store);
		if (error)
			return error;
	}
}

static void drop_cache(struct range *range)
{
	iomap_truncate_pagecache_range(&range->object->inode,
				       (int64_t)(range->from << XS_BLOCK_SHIFT),
				       (int64_t)(range->to << XS_BLOCK_SHIFT) - 1);
}

/* There is room. */
static void clear_blocks(struct range *range)
{
	struct xs_object *object = range->object;
	struct xs_store *store = object->store;
	uint64_t end = range->to << XS_BLOCK_SHIFT;
	uint64_t i_size = (uint64_t)iomap_i_size_read(&object->inode);

	drop_cache(range);
	pthread_mutex_lock(&store->lock);
	xs_extents_reserve(object, -(int32_t)PUNCH_EXTENTS);
	store->weight -= PUNCH_EXTENTS;
	xs_unreserve(object, range->from, range->to);
	xs_extents_hold(object, range->from, range->to);
	/* what was dirty there is written by nobody, and zeros are what it was written as */
	xs_size_reached(object, range->from, range->to, end < i_size ? end : i_size);
	pthread_mutex_unlock(&store->lock);
	drop_cache(range);
	pthread_mutex_lock(&store->lock);
	xs_extents_hold_end(object);
	pthread_mutex_unlock(&store->lock);
}

static int punch(struct range *range)
{
	int error = zero_ends(range);

	if (error || range->from >= range->to)
		return error;
	error = make_room(range);
	if (!error)
		clear_blocks(range);
	return error;
}

static int zero(struct range *range)
{
	int error = punch(range);

	if (error)
		return error;
	return xs_allocate(range->object, (int64_t)range->pos, (int64_t)(range->end - range->pos));
}

int xs_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = iomap_file_inode(file);
	struct range range = {
		.object = xs_object_of(inode),
		.pos = (uint64_t)off,
		.end = (uint64_t)off + (uint64_t)len,
	};
	int error;

	if (range.object->store->readonly)
		return -EROFS;
	range.from = xs_blocks_up(range.pos);
	range.to = range.end >> XS_BLOCK_SHIFT;
	iomap_filemap_invalidate_lock(inode->i_mapping);
	switch (mode & ~IOMAP_FALLOC_FL_KEEP_SIZE) {
	case 0:
		error = xs_allocate(range.object, off, len);
		break;
	case IOMAP_FALLOC_FL_PUNCH_HOLE:
		error = punch(&range);
		break;
	case IOMAP_FALLOC_FL_ZERO_RANGE:
		error = zero(&range);
		break;
	default:
		error = -EOPNOTSUPP;
	}
	iomap_filemap_invalidate_unlock(inode->i_mapping);
	return error;
}
