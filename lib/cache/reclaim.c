/* SPDX-License-Identifier: MIT */
/*
 * reclaim.c - making room, and eviction.
 *
 * Which folio goes is policy.c's business.  A folio is evicted that is clean, unlocked and
 * referenced by nothing but the index.  Dirty folios are the flusher's; reclaim never writes one,
 * it asks for write-out and waits for it to progress.
 *
 * Room is made ahead of need by the flusher, in caches that are large enough, or by
 * iomap_engine_poll() without threads; what they have not made is made by who needs it.
 *
 * A folio of several pages is to be had where neighbours have been freed, which often happens,
 * since what came in together goes together.  Where that is not enough a smaller one is taken; only
 * the smallest that an inode can have, which may be a block of several pages, is worth more:
 * compact.c.
 *
 * A folio leaves the index only with its lock held, its version moved, and its reference
 * count taken from the index's 1 to 0 by compare-and-swap under tree_lock, so that a look-up
 * either got its reference before, and the eviction fails, or gets none.
 */
#include "cache/internal.h"

/* Pages that are freed when one is needed: of a small cache, fewer. */
#define RECLAIM_TARGET 16
#define RECLAIM_SHARE 256
/* Ahead of need: pages of the smallest cache that does so, most pages kept, pages at a time. */
#define AHEAD_MIN 4096
#define AHEAD_MAX 2048
#define AHEAD_STEP 64
/* Rounds without any progress before an allocation fails. */
#define RECLAIM_TRIES 100
/* The same for one of several pages whose caller does not wait: each round frees a good many. */
#define RECLAIM_TRIES_BLOCK 4

/* Out of the index, with its lock and tree_lock held. */
static void detach(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	/* or a reader that goes by without a reference: only one of us counts it */
	if (iomap__unlikely(iomap__folio_test(folio, IOMAP__FOLIO_RA_UNUSED)) &&
	    atomic_fetch_and_explicit(&folio->flags, ~IOMAP__FOLIO_RA_UNUSED,
				      memory_order_relaxed) & IOMAP__FOLIO_RA_UNUSED)
		iomap__readahead_wasted(mapping, 1ULL << folio->order);
	iomap__folio_begin_change(folio);
	iomap__index_erase(mapping, folio);
	/* pairs with the acquire of readers: they see this or the version that end_change sets */
	atomic_store_explicit(&folio->mapping, NULL, memory_order_release);
	iomap__folio_end_change(folio);
}

/*
 * @only: an address space the folio must belong to, or NULL for any; @flags it must have; @new:
 * its name is remembered.
 */
static bool evict(struct iomap_address_space *only, struct iomap_folio *folio, uint32_t flags,
		  bool new)
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
		if (new)
			iomap__ghost_add(mapping, iomap_folio_index(folio), folio->order);
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
	return evict(NULL, folio, 0, false);
}

bool iomap__folio_evict_new(struct iomap_folio *folio)
{
	return evict(NULL, folio, 0, true);
}

bool iomap__folio_evict_from(struct iomap_address_space *mapping, struct iomap_folio *folio,
			     uint32_t flags)
{
	return evict(mapping, folio, flags, false);
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

uint64_t iomap__reclaim(struct iomap__cache *cache, uint64_t want)
{
	uint64_t freed = iomap__policy_evict(cache, want);

	iomap__index_reap(cache, false);
	return freed;
}

/* ---- ahead of need ---- */

/*
 * A small cache has no room to keep free: a few pages more or less are misses there.  A larger one
 * keeps a 128th, 8 MiB at most, and is brought up to twice that when it has less.
 */
static uint64_t low_pages(const struct iomap__cache *cache)
{
	uint64_t pages = atomic_load_explicit(&cache->nr_pages, memory_order_relaxed);

	return pages < AHEAD_MIN ? 0 : iomap__min(pages / 128, AHEAD_MAX);
}

static bool is_low(const struct iomap__cache *cache)
{
	return atomic_load_explicit(&cache->nr_free, memory_order_relaxed) < low_pages(cache);
}

void iomap__reclaim_ahead(struct iomap__cache *cache, uint64_t most)
{
	uint64_t high = 2 * low_pages(cache), freed = 1;

	if (!is_low(cache))
		return;
	while (freed && most && atomic_load(&cache->nr_free) < high &&
	       !iomap__engine_closed(cache->engine)) {
		freed = iomap__reclaim(cache, iomap__min(most, AHEAD_STEP));
		most -= iomap__min(most, freed);
	}
}

/* ---- on demand ---- */

/* Nothing clean can be had: have dirty folios written, and wait until one is. */
static void wait_for_clean(struct iomap__cache *cache, unsigned class)
{
	uint32_t seq = iomap__load_acquire(&cache->wb_seq);

	if (atomic_load(&cache->nr_dirty)) {
		/* metadata for the flusher, or for who is waited for as it is */
		if (cache->flusher_runs && !iomap__thread_self()->writing) {
			atomic_store(&cache->clean_wanted, atomic_load(&cache->nr_pages) / 16 + 1);
			iomap__flusher_kick(cache->engine);
		} else {
			iomap__flush_some(cache, class, atomic_load(&cache->nr_pages) / 4);
		}
	}
	/* what is neither dirty nor under writeback is locked or pinned by a running call */
	(void)iomap__wb_wait(cache, class, seq);
}

static struct iomap_folio *alloc_unreserved(struct iomap_address_space *mapping, unsigned order)
{
	if (iomap__folio_reserved(mapping, order))
		return NULL;
	return iomap__arena_alloc(iomap__cache_of(mapping), order);
}

/* Make room and try again; *@freed becomes false when nothing could be freed. */
static struct iomap_folio *alloc_by_force(struct iomap_address_space *mapping, unsigned order,
					  bool must, bool *freed)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	struct iomap_folio *folio;
	uint64_t want = iomap__min(atomic_load(&cache->nr_pages) / RECLAIM_SHARE + 1,
				   RECLAIM_TARGET);

	*freed = iomap__reclaim(cache, iomap__max(want, 1ULL << order));
	folio = alloc_unreserved(mapping, order);
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
	folio = alloc_unreserved(mapping, order);
	while (!folio && tries--) {
		folio = alloc_by_force(mapping, order, must, &freed);
		if (!folio && !freed) {
			if (!may_wait)
				break;
			wait_for_clean(cache, mapping->host->i_class);
		}
	}
	if (cache->flusher_runs && is_low(cache))
		iomap__flusher_kick(cache->engine);
	return folio;
}
