/* SPDX-License-Identifier: MIT */
/*
 * prealloc.c - space for what will be written later.
 *
 * All holes of a range are filled, or none: what is needed is counted first, then taken, and
 * becomes part of the object in one go under store->lock.  What is reserved of them is
 * no longer: it has its place then.  Each hole gets the first run of
 * free blocks that holds all of it, or else the longest, and so on for the rest: as few
 * extents as free space allows.  They are unwritten, and reads, writes, writeback, power cuts
 * and truncation treat them like those that a write has taken.
 */
#include <errno.h>
#include <stdlib.h>

#include "store.h"

/* What has been taken and is not yet the object's. */
struct grab {
	struct xs_extent *v;
	size_t nr, max;
};

/* The first hole in [*@from, @to): it begins at *@from then.  Return: where it ends, or 0. */
static uint64_t next_hole(const struct xs_object *object, uint64_t *from, uint64_t to)
{
	uint32_t at = xs_extent_find(object, *from);

	for (; at < object->extents_nr && object->extents[at].file <= *from; at++)
		*from = xs_extent_end(&object->extents[at]);
	if (*from >= to)
		return 0;
	return at < object->extents_nr && object->extents[at].file < to ? object->extents[at].file :
									  to;
}

/* What the holes need besides what is reserved of them. */
static uint64_t holes_blocks(const struct xs_object *object, uint64_t from, uint64_t to)
{
	uint64_t nr = 0, end;

	for (; (end = next_hole(object, &from, to)); from = end)
		nr += end - from - xs_reserved_nr(object, from, end);
	return nr;
}

static int grab_add(struct grab *grab, struct xs_extent extent)
{
	if (grab->nr == grab->max) {
		size_t max = grab->max ? 2 * grab->max : 16;
		struct xs_extent *v = realloc(grab->v, max * sizeof(*v));

		if (!v)
			return -ENOMEM;
		grab->v = v;
		grab->max = max;
	}
	grab->v[grab->nr++] = extent;
	return 0;
}

/* Behind an unwritten extent the hole becomes part of that, if the place is free. */
static uint64_t goal_of(const struct xs_object *object, uint64_t block)
{
	uint32_t at = xs_extent_find(object, block);

	return at && object->extents[at - 1].unwritten ? xs_extents_goal(object, block) : 0;
}

/* There are enough free blocks. */
static int grab_hole(struct xs_object *object, struct grab *grab, uint64_t from, uint64_t to)
{
	struct xs_space *space = &object->store->space;
	uint64_t goal = goal_of(object, from), start, got;

	for (; from < to; from += got) {
		got = to - from < UINT32_MAX ? to - from : UINT32_MAX;
		got = xs_space_take(space, goal, got, &start);
		if (grab_add(grab, (struct xs_extent){ from, start, (uint32_t)got, 1 })) {
			xs_space_release(space, start, got);
			return -ENOMEM;
		}
		goal = 0;
	}
	return 0;
}

/* lock held. */
static int fill_locked(struct xs_object *object, uint64_t from, uint64_t to, struct grab *grab)
{
	struct xs_store *store = object->store;
	uint64_t nr = holes_blocks(object, from, to), first = from, end;
	int error = 0;

	if (xs_space_spare(store, nr) < nr)
		return -ENOSPC;
	for (; !error && (end = next_hole(object, &from, to)); from = end)
		error = grab_hole(object, grab, from, end);
	if (!error && grab->nr > UINT32_MAX)
		error = -ENOMEM;
	if (!error)
		error = xs_extents_room(object, (uint32_t)grab->nr);
	if (!error)
		xs_unreserve(object, first, to);
	for (size_t i = 0; i < grab->nr; i++) {
		if (error)
			xs_space_release(&store->space, grab->v[i].disk, grab->v[i].nr);
		else
			xs_extent_insert(object, grab->v[i]);
	}
	return error;
}

static int fill(struct xs_object *object, uint64_t from, uint64_t to, bool *waiting)
{
	struct xs_store *store = object->store;
	struct grab grab = { 0 };
	int error;

	pthread_mutex_lock(&store->lock);
	error = fill_locked(object, from, to, &grab);
	*waiting = xs_space_waiting(store);
	pthread_mutex_unlock(&store->lock);
	free(grab.v);
	return error;
}

int xs_allocate(struct xs_object *object, int64_t pos, int64_t len)
{
	uint64_t from = (uint64_t)pos >> XS_BLOCK_SHIFT;
	uint64_t to = xs_blocks_up((uint64_t)pos + (uint64_t)len);
	bool waiting;
	int error;

	error = fill(object, from, to, &waiting);
	if (error == -ENOSPC && waiting) {
		/* What was removed is free once a commit says so. */
		error = xs_commit(object->store);
		if (!error)
			error = fill(object, from, to, &waiting);
	}
	return error;
}

int xs_preallocate(struct xs_object *object, int64_t pos, int64_t len, bool keep_size)
{
	struct iomap_inode *inode = &object->inode;
	int error;

	if (pos < 0 || len <= 0)
		return -EINVAL;
	if (pos > (int64_t)XS_FILE_BYTES_MAX || len > (int64_t)XS_FILE_BYTES_MAX - pos)
		return -EFBIG;
	if (object->store->readonly)
		return -EROFS;
	/* truncation would give back what is being taken, and the size is moved alone */
	iomap_inode_lock(inode);
	iomap_filemap_invalidate_lock(inode->i_mapping);
	error = xs_allocate(object, pos, len);
	if (!error && !keep_size)
		error = xs_size_at_least(inode, pos + len);
	iomap_filemap_invalidate_unlock(inode->i_mapping);
	iomap_inode_unlock(inode);
	return error;
}
