/* SPDX-License-Identifier: MIT */
/*
 * copies.c - writing to blocks that are shared: never in place.
 *
 * A write into a shared block takes new space first, a copy: an extent in object->copies, a
 * sorted array beside the object's extents.  The library fills in from the shared block what
 * the write leaves of a block, and writeback writes to the copy.  Its completion makes the
 * copy the object's extent in place of what is there, whose blocks lose an owner with the
 * next commit.
 *
 *	taken	   by iomap_begin; the extents, and so reads and commits, know nothing of it
 *	installed  when the device has the data; it is in `copies` no more
 *	cut	   when what it was for is truncated or replaced, and with the last opener: the
 *		   write may have failed, or been shorter than was announced; free at once, as
 *		   nothing durable has named it
 *
 * So a power cut shows the blocks as they were before, or all that was written by the commit.
 * That holds also for who has become the only owner of a block since the last commit: until
 * that is durable the block is shared, see share.h.
 *
 * A copy stays what it is while its blocks are written again, and is used though the block
 * below may not be shared any more.
 *
 * Completions allocate nothing.  What they need was found when the copy was taken: a run in
 * `freed` for each of its blocks, as what it replaces may lie anywhere; and room in both
 * arrays, by whoever submits the ioend.
 */
#include <errno.h>
#include <string.h>

#include "store.h"

/* The first copy that ends behind @block; copies_nr when there is none. */
static uint32_t find(const struct xs_object *object, uint64_t block)
{
	uint32_t low = 0, high = object->copies_nr;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (xs_extent_end(&object->copies[mid]) > block)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static void open_gap(struct xs_object *object, uint32_t at)
{
	struct xs_extent *copies = object->copies;

	memmove(copies + at + 1, copies + at, (object->copies_nr - at) * sizeof(*copies));
	object->copies_nr++;
}

static void close_gap(struct xs_object *object, uint32_t at)
{
	struct xs_extent *copies = object->copies;

	object->copies_nr--;
	memmove(copies + at, copies + at + 1, (object->copies_nr - at) * sizeof(*copies));
}

/* ---- taking ---- */

/* Behind the copy before, if there is one, or what is before in the object. */
static uint64_t goal_of(const struct xs_object *object, uint32_t at, uint64_t block)
{
	const struct xs_extent *before = at ? &object->copies[at - 1] : NULL;
	uint32_t extent = xs_extent_find(object, block);

	if (before && xs_extent_end(before) == block)
		return before->disk + before->nr;
	before = extent ? &object->extents[extent - 1] : NULL;
	return before && xs_extent_end(before) == block ? before->disk + before->nr : 0;
}

/* Space for up to @want blocks at @block, in front of copy @at. */
static int take(struct xs_object *object, uint32_t at, uint64_t block, uint64_t want)
{
	struct xs_store *store = object->store;
	struct xs_runs *freed = &store->space.freed;
	struct xs_extent *before;
	uint64_t start, got;
	int error;

	/* counted as if it were there: room for it, and what may become of it in flight */
	object->copies_nr++;
	error = xs_extents_room(object, 1);
	object->copies_nr--;
	if (error || xs_runs_room(freed, want))
		return -ENOMEM;
	got = xs_space_take(&store->space, goal_of(object, at, block),
			    xs_space_spare_copies(store, want), &start);
	if (!got)
		return -ENOSPC;
	freed->reserved += got;
	store->weight += XS_COPY_WEIGHT * got;
	before = at ? &object->copies[at - 1] : NULL;
	if (before && xs_extent_end(before) == block && before->disk + before->nr == start &&
	    got <= UINT32_MAX - before->nr) {
		before->nr += (uint32_t)got;
		return 0;
	}
	open_gap(object, at);
	object->copies[at] = (struct xs_extent){ block, start, (uint32_t)got, 1 };
	return 0;
}

/* ---- mappings ---- */

/* Of the mapping, the part of @nr blocks from @block on, which is inside. */
static void narrow(struct iomap *iomap, uint64_t block, uint64_t nr)
{
	int64_t offset = (int64_t)(block << XS_BLOCK_SHIFT);

	iomap->addr += (uint64_t)(offset - iomap->offset);
	iomap->offset = offset;
	iomap->length = nr << XS_BLOCK_SHIFT;
}

/* How much of the mapping there is from @block on. */
static uint64_t blocks_left(const struct iomap *iomap, uint64_t block)
{
	return (((uint64_t)iomap->offset + iomap->length) >> XS_BLOCK_SHIFT) - block;
}

/* The mapping is that of copy @at from @block on, as far as both go. */
static void map_copy(const struct xs_object *object, uint32_t at, uint64_t block,
		     struct iomap *iomap)
{
	const struct xs_extent *copy = &object->copies[at];
	uint64_t nr = xs_extent_end(copy) - block, left = blocks_left(iomap, block);

	narrow(iomap, block, nr < left ? nr : left);
	iomap->addr = (copy->disk + (block - copy->file)) << XS_BLOCK_SHIFT;
	iomap->flags |= IOMAP_F_SHARED;
}

/*
 * What of the mapping lies from @block on and before copy @at is alike: shared, or not.
 * Return: so many blocks.
 */
static uint64_t alike(const struct xs_object *object, uint32_t at, uint64_t block,
		      const struct iomap *iomap, bool *shared)
{
	uint64_t disk = (iomap->addr >> XS_BLOCK_SHIFT) + block -
			((uint64_t)iomap->offset >> XS_BLOCK_SHIFT);
	uint64_t nr = blocks_left(iomap, block);

	if (at < object->copies_nr && object->copies[at].file - block < nr)
		nr = object->copies[at].file - block;
	return xs_shares_run(&object->store->space.shares, disk, nr, shared);
}

static bool is_there(const struct xs_object *object, uint32_t at, uint64_t block)
{
	return at < object->copies_nr && object->copies[at].file <= block;
}

/* Most stores share nothing, and most objects have no copies. */
static bool nothing_to_do(const struct xs_object *object)
{
	return !object->copies_nr && !object->store->space.shares.shared_nr;
}

int xs_copies_begin(struct xs_object *object, int64_t pos, int64_t length, bool direct,
		    struct iomap *iomap, struct iomap *srcmap)
{
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT, nr, want;
	uint32_t at = find(object, block);
	bool shared;
	int error;

	if (nothing_to_do(object))
		return 0;
	if (!is_there(object, at, block)) {
		nr = alike(object, at, block, iomap, &shared);
		if (!shared) {
			narrow(iomap, block, nr);
			return 0;
		}
		want = xs_blocks_up((uint64_t)pos + (uint64_t)length) - block;
		error = direct ? -ENOTBLK : take(object, at, block, want < nr ? want : nr);
		if (error)
			return error;
		/* it may have become part of the one before */
		at = find(object, block);
	} else if (direct) {
		return -ENOTBLK;
	}
	*srcmap = *iomap;
	map_copy(object, at, block, iomap);
	narrow(srcmap, block, iomap->length >> XS_BLOCK_SHIFT);
	return 0;
}

void xs_copies_map(struct xs_object *object, int64_t pos, struct iomap *iomap)
{
	uint64_t block = (uint64_t)pos >> XS_BLOCK_SHIFT, nr;
	uint32_t at = find(object, block);
	bool shared;

	if (nothing_to_do(object))
		return;
	if (is_there(object, at, block)) {
		map_copy(object, at, block, iomap);
		return;
	}
	nr = alike(object, at, block, iomap, &shared);
	narrow(iomap, block, nr);
	if (shared)
		iomap->type = IOMAP_HOLE;
}

uint64_t xs_copies_blocks(const struct xs_object *object, uint64_t from, uint64_t to)
{
	uint64_t nr = 0;

	for (uint32_t at = find(object, from);
	     at < object->copies_nr && object->copies[at].file < to; at++) {
		const struct xs_extent *copy = &object->copies[at];
		uint64_t start = copy->file > from ? copy->file : from;
		uint64_t end = xs_extent_end(copy) < to ? xs_extent_end(copy) : to;

		nr += end - start;
	}
	return nr;
}

/* ---- the end of a copy ---- */

/* Take [@from, @to) out of the list; @release: and give it back. */
static void forget(struct xs_object *object, uint64_t from, uint64_t to, bool release)
{
	struct xs_store *store = object->store;
	uint32_t at = find(object, from);

	while (at < object->copies_nr && object->copies[at].file < to) {
		struct xs_extent *copy = &object->copies[at];
		uint64_t start = copy->file > from ? copy->file : from;
		uint64_t end = xs_extent_end(copy) < to ? xs_extent_end(copy) : to;
		uint64_t disk = copy->disk + (start - copy->file);

		store->space.freed.reserved -= end - start;
		store->weight -= XS_COPY_WEIGHT * (end - start);
		if (release)
			xs_space_release(&store->space, disk, end - start);
		if (end < xs_extent_end(copy) && start > copy->file) {
			open_gap(object, at);
			copy[1] = copy[0];
			copy->nr = (uint32_t)(start - copy->file);
			at++;
			copy++;
		}
		if (end < xs_extent_end(copy)) {
			copy->nr -= (uint32_t)(end - copy->file);
			copy->disk += end - copy->file;
			copy->file = end;
			at++;
		} else if (start > copy->file) {
			copy->nr = (uint32_t)(start - copy->file);
			at++;
		} else {
			close_gap(object, at);
		}
	}
}

void xs_copies_cut(struct xs_object *object, uint64_t from, uint64_t to)
{
	forget(object, from, to, true);
}

void xs_copies_install(struct xs_object *object, uint64_t from, uint64_t to)
{
	const struct xs_extent *copy = &object->copies[find(object, from)];
	uint64_t disk = copy->disk + (from - copy->file);

	forget(object, from, to, false);
	xs_extents_drop(object, from, to);
	xs_extent_insert(object, (struct xs_extent){ from, disk, (uint32_t)(to - from), 0 });
}
