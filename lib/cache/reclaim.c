/* SPDX-License-Identifier: MIT */
/*
 * reclaim.c - making room: a clock over the descriptors.
 *
 * The hand goes over the arena's descriptors in order.  A folio that was used since the hand
 * last came by loses its ACCESSED bit and stays; one that is clean, unlocked and referenced
 * by nothing but the index is evicted.  Dirty folios are the flusher's; reclaim never writes
 * one, it asks for write-out and waits for it to progress.
 *
 * A folio of several pages is to be had where the hand has freed neighbours, which it often
 * does, going by place.  Where that is not enough a smaller one is taken; only the smallest that
 * an inode can have, which may be a block of several pages, is worth more: compact.c.
 *
 * A folio leaves the index only with its lock held, its version moved, and its reference
 * count taken from the index's 1 to 0 by compare-and-swap under tree_lock, so that a look-up
 * either got its reference before, and the eviction fails, or gets none.
 */
#include "cache/internal.h"

/* Descriptors that one thread takes from the hand at a time. */
#define CLOCK_STEP 32
/* Folios that are freed when one is needed. */
#define RECLAIM_TARGET 16
/* Rounds without any progress before an allocation fails. */
#define RECLAIM_TRIES 100
/* The same for one of several pages whose caller does not wait: each round frees a good many. */
#define RECLAIM_TRIES_BLOCK 4

/* Out of the index, with its lock and tree_lock held. */
static void detach(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	if (iomap__unlikely(iomap__folio_test(folio, IOMAP__FOLIO_RA_UNUSED)))
		iomap__readahead_wasted(mapping, 1ULL << folio->order);
	iomap__folio_begin_change(folio);
	iomap__index_erase(mapping, folio);
	/* pairs with the acquire of readers: they see this or the version that end_change sets */
	atomic_store_explicit(&folio->mapping, NULL, memory_order_release);
	iomap__folio_end_change(folio);
}

/* @only: an address space the folio must belong to, or NULL for any; @flags it must have. */
static bool evict(struct iomap_address_space *only, struct iomap_folio *folio, uint32_t flags)
{
	struct iomap_address_space *mapping;
	uint32_t one = 1;
	bool frozen = false;

	if (!iomap_folio_trylock(folio))
		return false;
	/* Locked and in the index: the address space cannot go away, it would need the lock. */
	mapping = iomap_folio_mapping(folio);
	if (!mapping || (only && mapping != only) ||
	    (atomic_load_explicit(&folio->flags, memory_order_relaxed) & flags) != flags ||
	    iomap__folio_test(folio, IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_WRITEBACK) ||
	    atomic_load_explicit(&folio->refs, memory_order_relaxed) != 1 ||
	    !iomap__aops_release(mapping, folio)) {
		iomap_folio_unlock(folio);
		return false;
	}
	iomap__tree_lock(mapping);
	/* acquire: what the last user of the folio did comes before its reuse */
	if (atomic_compare_exchange_strong_explicit(&folio->refs, &one, 0, memory_order_acq_rel,
						    memory_order_relaxed)) {
		detach(mapping, folio);
		iomap__mapping_count(mapping, IOMAP__ISTAT_EVICTIONS, 1);
		frozen = true;
	}
	iomap__tree_unlock(mapping);
	iomap_folio_unlock(folio);
	if (!frozen)
		return false;
	iomap__cache_count(folio->cache->engine, IOMAP__STAT_EVICTIONS, 1);
	iomap__arena_free(folio);
	return true;
}

bool iomap__folio_evict(struct iomap_folio *folio)
{
	return evict(NULL, folio, 0);
}

bool iomap__folio_evict_from(struct iomap_address_space *mapping, struct iomap_folio *folio,
			     uint32_t flags)
{
	return evict(mapping, folio, flags);
}

void iomap__filemap_remove(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	iomap__tree_lock(mapping);
	detach(mapping, folio);
	iomap__tree_unlock(mapping);
	/* it has no blocks of a file any more, so the place of their state is free */
	iomap__assert(!folio->ifs);
	folio->removed_from = mapping;
	iomap__fetch_add(&mapping->nr_removed, 1);
	iomap_folio_put(folio); /* the index's; the caller has one of its own */
}

/* True when the folio looks worth a try; takes its second chance away. */
static bool evictable(struct iomap_folio *folio)
{
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed);

	if (!atomic_load_explicit(&folio->mapping, memory_order_relaxed) ||
	    flags & (IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_WRITEBACK) ||
	    atomic_load_explicit(&folio->refs, memory_order_relaxed) != 1 ||
	    iomap_folio_test_locked(folio))
		return false;
	if (flags & IOMAP__FOLIO_ACCESSED) {
		atomic_fetch_and_explicit(&folio->flags, ~IOMAP__FOLIO_ACCESSED,
					  memory_order_relaxed);
		return false;
	}
	return true;
}

/* At most two rounds of the clock; pages freed. */
uint64_t iomap__reclaim(struct iomap__cache *cache, uint64_t want)
{
	uint64_t freed = 0, seen = 0, nr_pages = atomic_load(&cache->nr_pages);

	while (freed < want && seen < 2 * nr_pages + CLOCK_STEP) {
		uint64_t at = atomic_fetch_add_explicit(&cache->clock_hand, CLOCK_STEP,
							memory_order_relaxed);

		for (unsigned i = 0; i < CLOCK_STEP; i++, seen++) {
			struct iomap_folio *folio = &cache->folios[(at + i) % nr_pages];
			uint64_t pages = 1ULL << folio->order;

			if (evictable(folio) && iomap__folio_evict(folio))
				freed += pages;
		}
	}
	iomap__index_reap(cache, false);
	return freed;
}

/* Nothing clean can be had: have dirty folios written, and wait until one is. */
static void wait_for_clean(struct iomap__cache *cache, unsigned class)
{
	uint32_t seq = iomap__load_acquire(&cache->wb_seq);

	if (atomic_load(&cache->nr_dirty)) {
		if (cache->flusher_runs)
			iomap__flusher_kick(cache->engine);
		else
			iomap__flush_some(cache, class, atomic_load(&cache->nr_pages) / 4);
	}
	/* what is neither dirty nor under writeback is locked or pinned by a running call */
	(void)iomap__wb_wait(cache, seq);
}

/* Make room and try again; *@freed becomes false when nothing could be freed. */
static struct iomap_folio *alloc_by_force(struct iomap__cache *cache, unsigned order, bool must,
					  bool *freed)
{
	struct iomap_folio *folio;

	*freed = iomap__reclaim(cache, iomap__max(RECLAIM_TARGET, 1ULL << order));
	folio = iomap__arena_alloc(cache, order);
	if (!folio && must && order)
		folio = iomap__compact(cache, order);
	return folio;
}

struct iomap_folio *iomap__folio_alloc(struct iomap_address_space *mapping, unsigned order,
				       bool may_wait)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	/* a larger folio is nice to have: a smaller one will do */
	bool must = order <= mapping->min_order, freed;
	struct iomap_folio *folio;
	int tries = RECLAIM_TRIES;

	if (!must)
		tries = 1;
	else if (order && !may_wait)
		tries = RECLAIM_TRIES_BLOCK;
	if (iomap__fails(&cache->engine->env, IOMAP_FAIL_FOLIO))
		return NULL;
	folio = iomap__arena_alloc(cache, order);
	while (!folio && tries--) {
		folio = alloc_by_force(cache, order, must, &freed);
		if (!folio && !freed) {
			if (!may_wait)
				break;
			wait_for_clean(cache, mapping->host->i_class);
		}
	}
	return folio;
}
