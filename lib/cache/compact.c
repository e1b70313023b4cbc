/* SPDX-License-Identifier: MIT */
/*
 * compact.c - room for a folio of several pages where what is free is scattered.
 *
 * An inode whose blocks are larger than a page cannot do with smaller folios, so its allocation
 * must not fail because others have filled the cache with pages, a few of which cannot go just
 * now in each block of the arena.  Here one block is emptied:
 *
 *	look	   at the blocks in turn, for one in which nothing is locked, referenced or
 *		   under writeback
 *	hold	   what is free of it, and what gets free there from now on, is kept from others
 *		   (arena.c)
 *	empty it   what is clean and was not used lately is evicted; what is dirty or in use is
 *		   moved: its contents and its place in the index go to a folio elsewhere
 *	end	   if all of it has come free it is the folio; or else all goes back, and the next
 *		   block is tried
 *
 * Nothing is written and nothing is waited for, so a caller may be anywhere where it may
 * evict.  What can stand in the way for ever are references alone, one in each block, and then
 * the memory is in use indeed.  A folio that is moved keeps its tags, its dirty state and the
 * state of its blocks; it is another descriptor, which nobody minds who has neither a reference
 * nor the lock.  Copying readers find the version moved and look again.
 *
 * Moving against a look-up: the count goes from the index's 1 to 0 under tree_lock, as in
 * eviction (reclaim.c), so that who looks it up either has a reference before, and the move does
 * not happen, or gets none and looks again.
 */
#include "cache/internal.h"

/* Whether nobody is at the folio: so it can be evicted or moved.  May be wrong the next moment. */
static bool idle(const struct iomap_folio *folio)
{
	return !iomap_folio_test_locked(folio) &&
	       !(atomic_load_explicit(&folio->flags, memory_order_relaxed) &
		 IOMAP__FOLIO_WRITEBACK) &&
	       atomic_load_explicit(&folio->refs, memory_order_relaxed) == 1;
}

static bool in_index(const struct iomap_folio *folio)
{
	return atomic_load_explicit(&folio->mapping, memory_order_relaxed);
}

static uint32_t pages_of(const struct iomap_folio *folio)
{
	return 1U << atomic_load_explicit(&folio->order, memory_order_relaxed);
}

/* A folio that is larger than the block, and holds all of it; or NULL. */
struct iomap_folio *iomap__folio_covering(struct iomap__cache *cache, uint32_t first,
					  unsigned order)
{
	for (; order < IOMAP__MAX_ORDER; order++) {
		struct iomap_folio *folio = &cache->folios[first & ~((2U << order) - 1)];

		if (in_index(folio) && folio->order > order)
			return folio;
	}
	return NULL;
}

static bool worth_a_try(struct iomap__cache *cache, uint32_t first, unsigned order)
{
	struct iomap_folio *large = iomap__folio_covering(cache, first, order);

	if (large)
		return idle(large) && !iomap__folio_test(large, IOMAP__FOLIO_DIRTY);
	for (uint32_t i = 0; i < 1U << order;) {
		const struct iomap_folio *folio = &cache->folios[first + i];

		if (!in_index(folio)) {
			i++;
			continue;
		}
		if (!idle(folio))
			return false;
		i += pages_of(folio);
	}
	return true;
}

/* Both locked.  False: somebody has got a reference. */
static bool take_place(struct iomap_address_space *mapping, struct iomap_folio *from,
		       struct iomap_folio *to)
{
	uint32_t one = 1, flags;

	iomap__tree_lock(mapping);
	/* acquire: what the last user of the folio did comes before the copy of its state */
	if (!atomic_compare_exchange_strong_explicit(&from->refs, &one, 0, memory_order_acq_rel,
						     memory_order_relaxed)) {
		iomap__tree_unlock(mapping);
		return false;
	}
	iomap__folio_begin_change(from);
	to->ifs = from->ifs;
	from->ifs = NULL;
	/* a reader that is still at the old one does not count it again */
	flags = atomic_fetch_and_explicit(&from->flags, ~IOMAP__FOLIO_RA_UNUSED,
					  memory_order_relaxed);
	atomic_store_explicit(&to->flags, iomap__policy_flags_moved(flags), memory_order_relaxed);
	iomap__index_replace(mapping, from, to);
	/* pairs with the acquire of readers, as where a folio is evicted */
	atomic_store_explicit(&from->mapping, NULL, memory_order_release);
	iomap__folio_end_change(from);
	iomap__tree_unlock(mapping);
	return true;
}

/* The locked folio goes elsewhere; @to is new. */
static bool move_to(struct iomap_folio *from, struct iomap_folio *to)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(from);
	bool moved;

	if (!mapping || from->order != to->order ||
	    iomap__folio_test(from, IOMAP__FOLIO_WRITEBACK))
		return false;
	/* whoever tries to evict what @to was lets go at once, as in iomap__filemap_add() */
	iomap_folio_lock(to);
	iomap__folio_set_place(to, iomap_folio_index(from), to->order);
	iomap__copy_to_folio(iomap_folio_address(to), iomap_folio_address(from),
			     iomap__folio_bytes(from));
	moved = take_place(mapping, from, to);
	if (moved)
		iomap__policy_moved(from, to);
	iomap_folio_unlock(to);
	return moved;
}

static bool move(struct iomap_folio *folio)
{
	struct iomap_folio *to = iomap__arena_alloc(folio->cache, folio->order);
	bool moved = false;

	if (!to)
		return false;
	if (iomap_folio_trylock(folio)) {
		moved = move_to(folio, to);
		iomap_folio_unlock(folio);
	}
	/* the reference of the one is the index's now, that of the other has gone */
	if (moved)
		iomap__arena_free(folio);
	else
		iomap_folio_put(to);
	return moved;
}

bool iomap__folio_send_away(struct iomap_folio *folio)
{
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed);

	if (!(flags & (IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_ACCESSED)) && iomap__folio_evict(folio))
		return true;
	return move(folio) || iomap__folio_evict(folio);
}

static void empty_block(struct iomap__cache *cache, uint32_t first, unsigned order)
{
	struct iomap_folio *large = iomap__folio_covering(cache, first, order);

	if (large) {
		(void)iomap__folio_evict(large);
		return;
	}
	for (uint32_t i = 0; i < 1U << order;) {
		struct iomap_folio *folio = &cache->folios[first + i];
		uint32_t pages = 1;

		if (in_index(folio)) {
			pages = pages_of(folio);
			if (!iomap__folio_send_away(folio))
				return;
		}
		i += pages;
	}
}

struct iomap_folio *iomap__compact(struct iomap__cache *cache, unsigned order)
{
	uint64_t blocks = atomic_load(&cache->nr_pages) >> order;
	struct iomap_folio *folio = NULL;

	for (uint64_t seen = 0; !folio && seen < blocks; seen++) {
		uint64_t at = atomic_fetch_add_explicit(&cache->compact_hand, 1,
							memory_order_relaxed) % blocks;
		uint32_t first = (uint32_t)(at << order);
		struct iomap__hold hold;

		if (!worth_a_try(cache, first, order) ||
		    !iomap__arena_hold(cache, &hold, first, order))
			continue;
		empty_block(cache, first, order);
		folio = iomap__arena_hold_end(cache, &hold);
	}
	iomap__index_reap(cache, false);
	return folio;
}
