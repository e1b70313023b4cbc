/* SPDX-License-Identifier: MIT */
/*
 * extents.c - the extent list of an object: a sorted array.
 *
 * Neighbours that could be one extent are one.  Everything here runs under store->lock and
 * only works on memory; what runs in a completion (xs_extents_convert()) allocates nothing,
 * since the room it may need has been reserved before the I/O was submitted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

uint32_t xs_extent_find(const struct xs_object *object, uint64_t block)
{
	uint32_t low = 0, high = object->extents_nr;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (xs_extent_end(&object->extents[mid]) > block)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static int array_room(struct xs_extent **array, uint64_t needed, uint32_t *max)
{
	uint64_t more = needed + needed / 2;
	struct xs_extent *larger;

	if (needed <= *max)
		return 0;
	if (more > UINT32_MAX)
		return -ENOMEM;
	larger = realloc(*array, (size_t)more * sizeof(*larger));
	if (!larger)
		return -ENOMEM;
	*array = larger;
	*max = (uint32_t)more;
	return 0;
}

uint64_t xs_extents_goal(const struct xs_object *object, uint64_t block)
{
	uint32_t at = xs_extent_find(object, block);
	const struct xs_extent *before = at ? &object->extents[at - 1] : NULL;

	return before && xs_extent_end(before) == block ? before->disk + before->nr : 0;
}

int xs_extents_room(struct xs_object *object, uint32_t nr)
{
	uint64_t more = (uint64_t)object->reserved_nr + nr;
	int error = array_room(&object->extents, object->extents_nr + more, &object->extents_max);

	if (!error && object->copies_nr)
		error = array_room(&object->copies, object->copies_nr + more, &object->copies_max);
	return error;
}

void xs_extents_reserve(struct xs_object *object, int32_t nr)
{
	object->reserved_nr += (uint32_t)nr;
}

/* What an extent adds to store->weight; see there. */
static uint64_t weight(const struct xs_extent *extent)
{
	return extent->unwritten ? extent->nr : 1;
}

/* Make room for an extent at @at: a copy of what is there stays behind. */
static void open_gap(struct xs_object *object, uint32_t at)
{
	struct xs_extent *extents = object->extents;

	memmove(extents + at + 1, extents + at, (object->extents_nr - at) * sizeof(*extents));
	object->extents_nr++;
}

static void close_gap(struct xs_object *object, uint32_t at)
{
	struct xs_extent *extents = object->extents;

	object->extents_nr--;
	memmove(extents + at, extents + at + 1, (object->extents_nr - at) * sizeof(*extents));
}

/* Make extents @at and @at + 1 one, if they can be. */
static void try_merge(struct xs_object *object, uint32_t at)
{
	struct xs_extent *left, *right;

	if (at + 1 >= object->extents_nr)
		return;
	left = &object->extents[at];
	right = left + 1;
	if (xs_extent_end(left) != right->file || left->disk + left->nr != right->disk ||
	    left->unwritten != right->unwritten || left->nr > UINT32_MAX - right->nr)
		return;
	object->store->weight -= left->unwritten ? 0 : 1;
	left->nr += right->nr;
	close_gap(object, at + 1);
}

/*
 * What happens in [@from, @to) changes the items of that range, of an extent that reaches
 * into it, of one before that it may be merged with, and of one that begins at @to.
 */
static void range_changed(struct xs_object *object, uint64_t from, uint64_t to)
{
	uint32_t at = xs_extent_find(object, from);
	const struct xs_extent *extents = object->extents;

	if (at < object->extents_nr && extents[at].file < from)
		from = extents[at].file;
	else if (at && xs_extent_end(&extents[at - 1]) == from)
		from = extents[at - 1].file;
	xs_changed(object, XS_AT_EXTENT + from, XS_AT_EXTENT + to);
}

void xs_extent_insert(struct xs_object *object, struct xs_extent extent)
{
	uint32_t at = xs_extent_find(object, extent.file);

	range_changed(object, extent.file, xs_extent_end(&extent));
	open_gap(object, at);
	object->extents[at] = extent;
	object->store->weight += weight(&extent);
	try_merge(object, at);
	if (at)
		try_merge(object, at - 1);
}

/* Make a boundary inside extent @at. */
static void split(struct xs_object *object, uint32_t at, uint64_t block)
{
	struct xs_extent *left;
	uint32_t nr;

	open_gap(object, at);
	left = &object->extents[at];
	nr = (uint32_t)(block - left->file);
	left[1] = (struct xs_extent){ block, left->disk + nr, left->nr - nr, left->unwritten };
	left->nr = nr;
	object->store->weight += left->unwritten ? 0 : 1;
}

/* All of [@from, @to) that is an extent is as @unwritten says. */
static void turn(struct xs_object *object, uint64_t from, uint64_t to, uint32_t unwritten)
{
	uint32_t at = xs_extent_find(object, from);
	bool changed = false;

	while (at < object->extents_nr && object->extents[at].file < to) {
		struct xs_extent *extent = &object->extents[at];

		if (extent->unwritten != unwritten) {
			if (!changed)
				range_changed(object, from, to);
			changed = true;
			if (extent->file < from) {
				split(object, at++, from);
				continue;
			}
			if (xs_extent_end(extent) > to)
				split(object, at, to);
			extent = &object->extents[at];
			object->store->weight -= weight(extent);
			extent->unwritten = unwritten;
			object->store->weight += weight(extent);
		}
		at++;
	}
	if (!changed)
		return;
	/* from behind, so that the places before stay what they are */
	for (uint32_t n = at; n > 0 && xs_extent_end(&object->extents[n - 1]) >= from; n--)
		try_merge(object, n - 1);
}

void xs_extents_convert(struct xs_object *object, uint64_t from, uint64_t to)
{
	turn(object, from, to, 0);
}

/* ---- giving back ---- */

/* Blocks of a cut on their way to `freed`, or to be held: those that adjoin become one run. */
struct heap {
	struct xs_space *space;
	struct xs_runs *held; /* NULL: `freed` */
	struct xs_run run;
};

static void put_run(struct heap *heap)
{
	if (heap->held)
		heap->held->v[heap->held->nr++] = heap->run;
	else
		xs_space_free(heap->space, heap->run.start, heap->run.nr);
}

static void put(struct heap *heap, uint64_t start, uint64_t nr)
{
	if (heap->run.nr && heap->run.start + heap->run.nr == start) {
		heap->run.nr += nr;
		return;
	}
	if (heap->run.nr)
		put_run(heap);
	heap->run = (struct xs_run){ start, nr };
}

/*
 * Of [@from, @to) all, or what is written.  There is room in `freed`, or in @held if that is not
 * NULL, and for one more extent if one goes on behind @to.
 */
static void cut(struct xs_object *object, uint64_t from, uint64_t to, bool written_only,
		struct xs_runs *held)
{
	struct xs_store *store = object->store;
	uint32_t first = xs_extent_find(object, from), at = xs_extent_find(object, to), kept;
	struct heap heap = { &store->space, held, { 0 } };

	if (first == object->extents_nr || object->extents[first].file >= to)
		return;
	range_changed(object, from, to);
	if (at < object->extents_nr && object->extents[at].file < to)
		split(object, at, to);
	for (at = kept = first; at < object->extents_nr && object->extents[at].file < to; at++) {
		struct xs_extent extent = object->extents[at];
		uint32_t keep = extent.file < from ? (uint32_t)(from - extent.file) : 0;

		if (written_only && extent.unwritten)
			keep = extent.nr;
		store->weight -= weight(&extent);
		if (keep < extent.nr)
			put(&heap, extent.disk + keep, extent.nr - keep);
		if (!keep)
			continue;
		extent.nr = keep;
		store->weight += weight(&extent);
		object->extents[kept++] = extent;
	}
	memmove(object->extents + kept, object->extents + at,
		(object->extents_nr - at) * sizeof(*object->extents));
	object->extents_nr -= at - kept;
	if (heap.run.nr)
		put_run(&heap);
}

int xs_extents_cut_begin(struct xs_object *object, uint64_t from, uint64_t to)
{
	struct xs_runs *freed = &object->store->space.freed;
	uint64_t next = 0;
	size_t nr = 0;

	for (uint32_t at = xs_extent_find(object, from);
	     at < object->extents_nr && object->extents[at].file < to; at++) {
		const struct xs_extent *extent = &object->extents[at];

		nr += extent->disk != next;
		next = extent->disk + extent->nr;
	}
	/* one that is installed meanwhile parts what it replaces a piece of */
	nr += 2 * (size_t)xs_copies_blocks(object, from, to);
	if (xs_runs_room(freed, nr))
		return -ENOMEM;
	freed->reserved += nr;
	object->cut_reserved = nr;
	object->cutting = true;
	return 0;
}

void xs_extents_drop(struct xs_object *object, uint64_t from, uint64_t to)
{
	cut(object, from, to, false, NULL);
}

void xs_extents_cut(struct xs_object *object, uint64_t from, uint64_t to)
{
	xs_copies_cut(object, from, to);
	xs_extents_drop(object, from, to);
}

void xs_extents_cut_end(struct xs_object *object)
{
	object->store->space.freed.reserved -= object->cut_reserved;
	object->cutting = false;
}

int xs_extents_hold_begin(struct xs_object *object, uint64_t from, uint64_t to)
{
	int error = xs_extents_cut_begin(object, from, to);

	if (error)
		return error;
	object->holding = true;
	error = xs_runs_room(&object->held, object->cut_reserved);
	if (error)
		xs_extents_hold_end(object);
	return error;
}

void xs_extents_hold(struct xs_object *object, uint64_t from, uint64_t to)
{
	xs_copies_cut(object, from, to);
	cut(object, from, to, false, &object->held);
}

void xs_extents_hold_end(struct xs_object *object)
{
	struct xs_runs *held = &object->held;

	for (size_t i = 0; i < held->nr; i++)
		xs_space_free(&object->store->space, held->v[i].start, held->v[i].nr);
	free(held->v);
	*held = (struct xs_runs){ 0 };
	object->holding = false;
	xs_extents_cut_end(object);
}

int xs_extents_cut_written(struct xs_object *object, uint64_t block)
{
	uint32_t first = xs_extent_find(object, block), at = first;

	while (at < object->extents_nr && object->extents[at].unwritten)
		at++;
	if (at == object->extents_nr)
		return 0;
	if (xs_runs_room(&object->store->space.freed, object->extents_nr - first))
		return -ENOMEM;
	cut(object, block, XS_FILE_BLOCKS_MAX, true, NULL);
	return 0;
}
