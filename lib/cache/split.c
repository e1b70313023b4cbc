/* SPDX-License-Identifier: MIT */
/*
 * split.c - a large folio of which a part was cut off gives the memory of that part back.
 *
 * Truncation and punching zero their part of a folio in place, and its blocks become clean.
 * When that is done, and nobody but the index and the caller has a reference, the folio is
 * taken apart: into the largest pieces that lie wholly inside the cut, which are freed, or
 * wholly outside, which stay in the cache, each a folio of its own with its share of the
 * blocks' state.  The piece at the start goes on in the old descriptor, the others in those of
 * their first pages, which were tails.  Without memory for index nodes or block state the folio
 * stays as it is, zeros and all.
 *
 * The caller holds the lock, so nobody reads into the folio, writes it or dirties it.  Those
 * who may be at it:
 *
 *	look-ups	the count goes from 2 to 0 by compare-and-swap under tree_lock, or the
 *			folio stays whole; who gets no reference looks again, until the slots
 *			say what there is now
 *	copying readers	the order changes, and what is cut off leaves the index, with CHANGING
 *			set: they find the version moved
 *	eviction	takes the lock of what it evicts: those of the new folios are held until
 *			all of them stand in the index
 *	walks		tags move from the folio to the pieces that are dirty, under tree_lock
 *
 * Locks: the folio's (the caller's), those of its pieces, tree_lock, arena_lock.
 */
#include "cache/internal.h"

/* Two edges of the cut, each with a piece of every order on both sides; and the middle. */
_Static_assert(IOMAP__PIECES_MAX >= 2 * IOMAP__MAX_ORDER + 2, "pieces of a folio");

/* The pieces of [page, page + 2^order), cut at [cut, cut_end). */
static void cut_up(struct iomap__split *split, uint32_t page, unsigned order, uint32_t cut,
		   uint32_t cut_end)
{
	uint32_t end = page + (1U << order);
	bool inside = page >= cut && end <= cut_end, outside = end <= cut || page >= cut_end;

	if (!inside && !outside) {
		cut_up(split, page, order - 1, cut, cut_end);
		cut_up(split, page + (1U << (order - 1)), order - 1, cut, cut_end);
		return;
	}
	split->piece[split->nr++] = (struct iomap__piece){
		.page = page, .order = (uint8_t)order, .keep = outside
	};
}

/* The state that each piece will have, made from the folio's.  False: no memory. */
static bool get_states(struct iomap__split *split)
{
	const struct iomap__block_state_ops *ops = split->folio->cache->block_state;

	for (unsigned i = 0; i < split->nr; i++) {
		struct iomap__piece *piece = &split->piece[i];

		if (piece->keep &&
		    ops->part(split->folio, (size_t)piece->page << IOMAP_PAGE_SHIFT,
			      IOMAP_PAGE_SIZE << piece->order, &piece->state))
			return false;
	}
	return true;
}

static void put_states(struct iomap__split *split)
{
	for (unsigned i = 0; i < split->nr; i++)
		split->folio->cache->block_state->free(split->folio, split->piece[i].state.blocks);
}

static struct iomap_folio *folio_of(const struct iomap__split *split, unsigned i)
{
	return split->folio + split->piece[i].page;
}

/* Whoever tries to evict what has been a folio there once lets go at once. */
static void lock_pieces(struct iomap__split *split)
{
	for (unsigned i = 1; i < split->nr; i++)
		if (split->piece[i].keep)
			iomap_folio_lock(folio_of(split, i));
}

static void unlock_pieces(struct iomap__split *split)
{
	for (unsigned i = 1; i < split->nr; i++)
		if (split->piece[i].keep)
			iomap_folio_unlock(folio_of(split, i));
}

/* What a piece is from now on; the slots of the index come later. */
static void make_piece(struct iomap__split *split, unsigned i, uint32_t flags, uint64_t index)
{
	const struct iomap__piece *piece = &split->piece[i];
	struct iomap_folio *folio = folio_of(split, i);

	if (piece->keep && piece->state.uptodate)
		flags |= IOMAP__FOLIO_UPTODATE;
	if (piece->keep && piece->state.dirty)
		flags |= IOMAP__FOLIO_DIRTY;
	/* what goes has been counted */
	if (!piece->keep)
		flags &= ~IOMAP__FOLIO_RA_UNUSED;
	folio->ifs = piece->keep ? piece->state.blocks : NULL;
	folio->read_valid = 0;
	folio->read_error = 0;
	iomap__folio_set_place(folio, index + piece->page, piece->order);
	atomic_store_explicit(&folio->flags, flags, memory_order_relaxed);
}

/* @flags: the folio's. */
static void make_pieces(struct iomap__split *split, uint32_t flags)
{
	struct iomap_folio *folio = split->folio;
	uint64_t index = iomap_folio_index(folio);

	flags &= IOMAP__FOLIO_ACCESSED | IOMAP__FOLIO_FRESH | IOMAP__FOLIO_RA_UNUSED |
		 IOMAP__FOLIO_COUNTED | IOMAP__FOLIO_DONTCACHE;

	folio->cache->block_state->free(folio, folio->ifs);
	iomap__policy_gone(folio);
	iomap__arena_split(split);
	for (unsigned i = 0; i < split->nr; i++)
		make_piece(split, i, flags, index);
}

/* Pages of the pieces that are dirty, or (all) of those that stay. */
static uint64_t count_pages(const struct iomap__split *split, bool dirty)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < split->nr; i++)
		if (split->piece[i].keep && (!dirty || split->piece[i].state.dirty))
			pages += 1ULL << split->piece[i].order;
	return pages;
}

/* References: the index's to each piece that stays, and the caller's to the first. */
static void set_refs(struct iomap__split *split)
{
	for (unsigned i = 0; i < split->nr; i++)
		atomic_store_explicit(&folio_of(split, i)->refs,
				      (i == 0) + (uint32_t)split->piece[i].keep,
				      memory_order_release);
}

/* Under tree_lock, the folio frozen.  False: no memory. */
static bool split_frozen(struct iomap__split *split)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(split->folio);
	uint64_t old_pages = 1ULL << split->folio->order, dirty = count_pages(split, true);
	uint32_t flags;

	if (!iomap__index_split_begin(mapping, split))
		return false;
	/* or a reader that goes by without a reference: only one of us counts the folio */
	iomap__folio_not_failed(split->folio);
	flags = atomic_fetch_and_explicit(&split->folio->flags, ~IOMAP__FOLIO_RA_UNUSED,
					  memory_order_relaxed);
	if (flags & IOMAP__FOLIO_RA_UNUSED)
		iomap__readahead_wasted(mapping, old_pages - count_pages(split, false));
	iomap__folio_begin_change(split->folio);
	make_pieces(split, flags);
	iomap__index_split(mapping, split);
	iomap__store(&mapping->nrpages, mapping->nrpages - old_pages + count_pages(split, false));
	if (split->dirty_tag) {
		/* seq_cst as in dirty.c */
		__atomic_fetch_sub(&mapping->nr_dirty_pages, old_pages - dirty, __ATOMIC_SEQ_CST);
		atomic_fetch_sub(&split->folio->cache->nr_dirty, old_pages - dirty);
	}
	if (!split->piece[0].keep)
		/* pairs with the acquire of readers, as where a folio is evicted */
		atomic_store_explicit(&split->folio->mapping, NULL, memory_order_release);
	iomap__folio_end_change(split->folio);
	return true;
}

static bool split_locked(struct iomap_address_space *mapping, struct iomap__split *split)
{
	uint32_t two = 2;
	bool done;

	iomap__tree_lock(mapping);
	/* acquire: what the last user of the folio did comes before its parts' reuse */
	done = atomic_compare_exchange_strong_explicit(&split->folio->refs, &two, 0,
						       memory_order_acq_rel, memory_order_relaxed);
	if (done) {
		done = split_frozen(split);
		if (done)
			set_refs(split);
		else
			atomic_store_explicit(&split->folio->refs, 2, memory_order_release);
	}
	iomap__tree_unlock(mapping);
	return done;
}

void iomap__folio_split(struct iomap_address_space *mapping, struct iomap_folio *folio, size_t off,
			size_t len)
{
	size_t unit = IOMAP_PAGE_SIZE << mapping->min_order;
	uint32_t cut = (uint32_t)(iomap__round_up(off, unit) >> IOMAP_PAGE_SHIFT);
	uint32_t cut_end = (uint32_t)(iomap__round_down(off + len, unit) >> IOMAP_PAGE_SHIFT);
	struct iomap__split split = { .folio = folio };
	bool done = false;

	if (cut >= cut_end || atomic_load_explicit(&folio->refs, memory_order_relaxed) != 2)
		return;
	cut_up(&split, 0, folio->order, cut, cut_end);
	if (get_states(&split)) {
		lock_pieces(&split);
		done = split_locked(mapping, &split);
		unlock_pieces(&split);
	}
	if (!done) {
		put_states(&split);
		return;
	}
	iomap__wb_progress(folio->cache);
	/* the first goes with the caller's reference */
	for (unsigned i = 1; i < split.nr; i++)
		if (!split.piece[i].keep)
			iomap__arena_free(folio_of(&split, i));
}
