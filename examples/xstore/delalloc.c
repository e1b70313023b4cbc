/* SPDX-License-Identifier: MIT */
/*
 * delalloc.c - blocks that a write has been promised, and which are chosen at writeback.
 *
 * A reservation is a block of an object that has no place yet.  Its life:
 *
 *	reserved	by iomap_begin of a write into a hole, before the cache holds the data
 *	taken		by writeback: a place for it and for all of the run that it is in, as
 *			an unwritten extent, so that what was written in small pieces lies
 *			together; or
 *	given back	by iomap_end, where the write came up short; by truncation and punch,
 *			when the cache has dropped the data; by writeback that fails; with the
 *			inode, whose data nobody is going to write
 *
 * So whatever is dirty in the cache has a place or a reservation, and what is reserved is
 * dirty, but between iomap_begin and iomap_end of one write.  No commit knows of it: after a
 * power cut there is a hole.
 *
 * Space.  store->delalloc_nr blocks of those that are free are promised, and count in
 * store->weight as they will when they are unwritten extents of one block each; both are in
 * xs_space_spare().  So taking them makes nothing worse, and finds room: a write that has no
 * room is told so by iomap_begin, never at writeback.
 *
 * The set is one of bits, in pieces of PIECE_BLOCKS, in order: nothing here depends on how many
 * runs there are, and a run that adjoins another is one with it.  No run goes over the end of
 * a piece; two that adjoin there become one extent when there is room behind the first.
 *
 * The set says nothing of what lies below a reserved block: a hole today.  It may stand over
 * an extent that must not be written in place as well.  Then readers go by the extent and
 * writers by the reservation, and the completion puts what was taken in the extent's place.
 *
 * Locks: store->lock for all of it.  What gives back cannot fail and allocates nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "store.h"

#define PIECE_SHIFT 13
#define PIECE_BLOCKS (UINT64_C(1) << PIECE_SHIFT)

struct xs_reserved {
	uint64_t number; /* of its first block, in pieces */
	uint64_t nr;	 /* bits that are set; 0 only if it is the only piece */
	uint64_t bits[PIECE_BLOCKS / 64];
};

/* The first piece whose number is not below @number. */
static uint32_t find(const struct xs_reserves *reserves, uint64_t number)
{
	uint32_t low = 0, high = reserves->nr;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (reserves->v[mid]->number >= number)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/* The bits of [@from, @to) that the piece has, which does not lie before @from; false: none. */
static bool part_of(const struct xs_reserved *piece, uint64_t from, uint64_t to, uint64_t *bit,
		    uint64_t *nr)
{
	uint64_t start = piece->number << PIECE_SHIFT;

	if (start >= to)
		return false;
	*bit = from > start ? from - start : 0;
	*nr = (to - start < PIECE_BLOCKS ? to - start : PIECE_BLOCKS) - *bit;
	return true;
}

/* ---- looking ---- */

static uint64_t next_reserved(const struct xs_reserves *reserves, uint64_t block, uint64_t end)
{
	for (uint32_t i = find(reserves, block >> PIECE_SHIFT); i < reserves->nr; i++) {
		const struct xs_reserved *piece = reserves->v[i];
		uint64_t first = piece->number << PIECE_SHIFT, at;

		if (first >= end)
			break;
		at = xs_bits_next(piece->bits, block > first ? block - first : 0, PIECE_BLOCKS,
				  true);
		if (at < PIECE_BLOCKS)
			return first + at < end ? first + at : end;
	}
	return end;
}

uint64_t xs_reserved_next(const struct xs_object *object, uint64_t block, uint64_t end)
{
	return object->reserves.blocks_nr ? next_reserved(&object->reserves, block, end) : end;
}

/* The run that @block is in, of the piece that it is in.  False: it is not reserved. */
static bool run_around(const struct xs_reserves *reserves, uint64_t block, uint64_t *from,
		       uint64_t *to)
{
	uint32_t at = find(reserves, block >> PIECE_SHIFT);
	const struct xs_reserved *piece;
	uint64_t first, bit;

	if (!reserves->blocks_nr || at == reserves->nr ||
	    reserves->v[at]->number != block >> PIECE_SHIFT)
		return false;
	piece = reserves->v[at];
	first = piece->number << PIECE_SHIFT;
	bit = block - first;
	*to = first + xs_bits_next(piece->bits, bit, PIECE_BLOCKS, false);
	*from = first + xs_bits_run_start(piece->bits, bit);
	return *to > block;
}

uint64_t xs_reserved_run(const struct xs_object *object, uint64_t block)
{
	uint64_t from, to;

	return run_around(&object->reserves, block, &from, &to) ? to - block : 0;
}

uint64_t xs_reserved_nr(const struct xs_object *object, uint64_t from, uint64_t to)
{
	const struct xs_reserves *reserves = &object->reserves;
	uint64_t nr = 0;

	for (uint32_t i = find(reserves, from >> PIECE_SHIFT); i < reserves->nr; i++) {
		uint64_t bit, bits_nr;

		if (!part_of(reserves->v[i], from, to, &bit, &bits_nr))
			break;
		nr += xs_bits_count(reserves->v[i]->bits, bit, bits_nr);
	}
	return nr;
}

/* ---- adding ---- */

static int room_for_piece(struct xs_reserves *reserves)
{
	uint32_t max = reserves->max ? 2 * reserves->max : 4;
	struct xs_reserved **v;

	if (reserves->nr < reserves->max)
		return 0;
	v = realloc(reserves->v, max * sizeof(struct xs_reserved *));
	if (!v)
		return -ENOMEM;
	reserves->v = v;
	reserves->max = max;
	return 0;
}

/* The piece of that number; NULL: no memory. */
static struct xs_reserved *get_piece(struct xs_reserves *reserves, uint64_t number)
{
	uint32_t at = find(reserves, number);
	struct xs_reserved *piece;

	if (at < reserves->nr && reserves->v[at]->number == number)
		return reserves->v[at];
	if (reserves->nr == 1 && !reserves->v[0]->nr) {
		/* the one that stays for the next write */
		reserves->v[0]->number = number;
		return reserves->v[0];
	}
	if (room_for_piece(reserves))
		return NULL;
	piece = calloc(1, sizeof(*piece));
	if (!piece)
		return NULL;
	piece->number = number;
	memmove(reserves->v + at + 1, reserves->v + at,
		(reserves->nr - at) * sizeof(struct xs_reserved *));
	reserves->v[at] = piece;
	reserves->nr++;
	return piece;
}

int xs_reserve(struct xs_object *object, uint64_t block, uint64_t *nr)
{
	struct xs_reserves *reserves = &object->reserves;
	struct xs_store *store = object->store;
	uint64_t bit = block & (PIECE_BLOCKS - 1);
	uint64_t take = *nr < PIECE_BLOCKS - bit ? *nr : PIECE_BLOCKS - bit;
	struct xs_reserved *piece;

	take = xs_space_spare(store, take);
	if (!take)
		return -ENOSPC;
	piece = get_piece(reserves, block >> PIECE_SHIFT);
	if (!piece)
		return -ENOMEM;
	xs_bits_set(piece->bits, bit, take, true);
	piece->nr += take;
	reserves->blocks_nr += take;
	store->delalloc_nr += take;
	store->weight += take;
	*nr = take;
	return 0;
}

/* ---- giving back, and taking ---- */

/* The empty pieces go, but for the last. */
static void drop_empty(struct xs_reserves *reserves, uint32_t from)
{
	uint32_t to = from;

	for (; from < reserves->nr; from++) {
		struct xs_reserved *piece = reserves->v[from];

		if (piece->nr || (from + 1 == reserves->nr && !to))
			reserves->v[to++] = piece;
		else
			free(piece);
	}
	reserves->nr = to;
}

uint64_t xs_unreserve(struct xs_object *object, uint64_t from, uint64_t to)
{
	struct xs_reserves *reserves = &object->reserves;
	uint32_t first = find(reserves, from >> PIECE_SHIFT);
	uint64_t gone = 0;
	bool empty = false;

	if (!reserves->blocks_nr)
		return 0;
	for (uint32_t i = first; i < reserves->nr; i++) {
		struct xs_reserved *piece = reserves->v[i];
		uint64_t bit, bits_nr, nr;

		if (!part_of(piece, from, to, &bit, &bits_nr))
			break;
		nr = xs_bits_count(piece->bits, bit, bits_nr);
		xs_bits_set(piece->bits, bit, bits_nr, false);
		piece->nr -= nr;
		gone += nr;
		empty |= !piece->nr;
	}
	if (empty)
		drop_empty(reserves, first);
	reserves->blocks_nr -= gone;
	object->store->delalloc_nr -= gone;
	object->store->weight -= gone;
	if (gone)
		xs_mappings_changed(object);
	return gone;
}

/*
 * While something is being cut off, what gives it back has room for the runs that there were:
 * an extent that comes in between makes up to two more of them.
 */
static int room_to_cut(struct xs_object *object)
{
	struct xs_runs *freed = &object->store->space.freed;

	if (!object->cutting)
		return 0;
	if (xs_runs_room(freed, 2) ||
	    (object->holding && xs_runs_room(&object->held, object->cut_reserved + 2)))
		return -ENOMEM;
	freed->reserved += 2;
	object->cut_reserved += 2;
	return 0;
}

int xs_reserved_take(struct xs_object *object, uint64_t block)
{
	struct xs_space *space = &object->store->space;
	uint64_t from, to, start, got;

	if (!run_around(&object->reserves, block, &from, &to))
		return -EIO;
	if (xs_extents_room(object, 1) || room_to_cut(object))
		return -ENOMEM;
	got = xs_space_take(space, xs_extents_goal(object, from), to - from, &start);
	if (from + got <= block) {
		/* in pieces then, but this block is wanted now */
		if (got)
			xs_space_release(space, start, got);
		from = block;
		got = xs_space_take(space, 0, to - from, &start);
	}
	if (!got)
		return -ENOSPC;
	xs_unreserve(object, from, from + got);
	xs_extent_insert(object, (struct xs_extent){ from, start, (uint32_t)got, 1 });
	return 0;
}

void xs_reserves_exit(struct xs_object *object)
{
	struct xs_reserves *reserves = &object->reserves;

	xs_unreserve(object, 0, XS_FILE_BLOCKS_MAX);
	for (uint32_t i = 0; i < reserves->nr; i++)
		free(reserves->v[i]);
	free(reserves->v);
	*reserves = (struct xs_reserves){ 0 };
}
