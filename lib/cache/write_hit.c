/* SPDX-License-Identifier: MIT */
/*
 * write_hit.c - the folio of an overwrite: found and locked by one look-up and one
 * compare-and-swap, unlocked by another.
 *
 * The word that a copying reader takes for the version is the writer's lock as well, so both
 * are moved together:
 *
 *	free, version v  --lock-->  LOCKED | CHANGING, version v  --unlock-->  free, version v + 1
 *
 * which is iomap_folio_lock() with iomap__folio_begin_change(), and their two ends, in half the
 * number of atomic operations.  What filemap.c says of readers holds: CHANGING is in the word
 * before the first byte changes (the fence behind the lock), and the version has moved when the
 * word is free again (release).
 *
 * No reference is taken.  What is found in the index is a pointer to a descriptor, which is
 * memory of its kind for ever (arena.c); it may have become another folio's, or nobody's,
 * before its lock was ours.  From then on it stays what it is: eviction and truncation hold the
 * lock while they take a folio out of the index, and a new owner takes it before it gives the
 * folio an address space.  So its address space and page number, read under the lock, tell
 * whether it is the one that was looked for; and the index's own reference keeps it there for as
 * long as we hold the lock.  A lock that was taken of somebody else's folio is given back at
 * once, with one version more, which costs a reader of it a second look.
 *
 * Whatever is in the way (locked, waited for, not uptodate, not there) is left to the ordinary
 * way, iomap__filemap_grab(), which waits, and keeps the lock order; what is done here never
 * waits for a lock, so it cannot deadlock.
 *
 * Writers of one folio come one after the other, for as long as their copies take.  A folio of
 * 64 KiB and less, which is what streams make by default, is copied in a few microseconds.
 */
#include "cache/internal.h"

bool iomap__write_hit_lock(struct iomap_address_space *mapping, int64_t pos,
			   struct iomap__write_hit *hit)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	struct iomap__thread *self;
	struct iomap_folio *folio;
	uint64_t word, off;
	uint32_t flags;

	if (iomap__unlikely(iomap__dirty_over(cache, cache->background_pages)))
		iomap__balance_dirty(mapping);
	self = iomap__epoch_enter();
	folio = iomap__index_lookup(mapping, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
	iomap__epoch_exit(self);
	if (!folio)
		return false;
	word = atomic_load_explicit(&folio->lock, memory_order_relaxed);
	/* acquire: pairs with the release of whoever has unlocked it */
	if (word & IOMAP__FOLIO_BUSY ||
	    !atomic_compare_exchange_strong_explicit(
		    &folio->lock, &word, word | IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_CHANGING,
		    memory_order_acquire, memory_order_relaxed))
		return false;
	/* CHANGING before the stores that follow; pairs with the fence of copying readers */
	IOMAP__FENCE(memory_order_release);
	iomap__folio_note_lock(folio, true);
	hit->folio = folio;
	off = (uint64_t)pos - (iomap_folio_index(folio) << IOMAP_PAGE_SHIFT);
	flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	if (iomap__unlikely(iomap_folio_mapping(folio) != mapping ||
			    off >= iomap__folio_bytes(folio) ||
			    !(flags & IOMAP__FOLIO_UPTODATE))) {
		iomap__write_hit_unlock(hit);
		return false;
	}
	if (iomap__unlikely((flags & (IOMAP__FOLIO_ACCESSED | IOMAP__FOLIO_COUNTED)) !=
			    IOMAP__FOLIO_ACCESSED)) {
		if (!(flags & IOMAP__FOLIO_ACCESSED))
			iomap__folio_set(folio, IOMAP__FOLIO_ACCESSED);
		if (flags & IOMAP__FOLIO_COUNTED)
			iomap__folio_counted_hit(mapping);
	}
	iomap__stat_add(&cache->stats, self, IOMAP__STAT_HITS, 1);
	hit->dirty = flags & IOMAP__FOLIO_DIRTY;
	hit->off = (size_t)off;
	hit->mem = iomap__folio_mem(cache, folio) + off;
	hit->bytes = iomap__folio_bytes(folio) - (size_t)off;
	return true;
}

void iomap__write_hit_unlock(struct iomap__write_hit *hit)
{
	struct iomap_folio *folio = hit->folio;
	uint64_t word = atomic_load_explicit(&folio->lock, memory_order_relaxed);

	iomap__assert(word & IOMAP__FOLIO_LOCKED && word & IOMAP__FOLIO_CHANGING);
	iomap__folio_note_unlock(folio);
	/*
	 * CHANGING once more carries one into the version (iomap__folio_end_change()).  Behind
	 * this the folio may be another's.  A waiter has to be woken, by the ordinary way.
	 */
	if (iomap__likely(!(word & IOMAP__FOLIO_WAITERS)) &&
	    atomic_compare_exchange_strong_explicit(
		    &folio->lock, &word, word + IOMAP__FOLIO_CHANGING - IOMAP__FOLIO_LOCKED,
		    memory_order_release, memory_order_relaxed))
		return;
	iomap__folio_end_change(folio);
	iomap_folio_unlock(folio);
}
