/* SPDX-License-Identifier: MIT */
/*
 * resize.c - EN02: the size of the cache changes while it is in use.
 *
 * Growing adds pages behind those there are, of address space that was reserved at creation.
 *
 * Shrinking:
 *
 *	limits	 of dirty data and of folios become those of the new size, so that writers are
 *		 held to them before memory goes
 *	arena	 what is free above the new end is off at once; nothing is given out there any
 *		 more (arena.c)
 *	empty	 what is in use there is moved to where it may stay, its contents and its place
 *		 in the index, or evicted; where there is no room, or it is under writeback, it is
 *		 written and waited for
 *	trim	 pages that are off go back to the kernel, as far as no ring has them pinned
 *
 * What is locked or referenced all the time cannot be moved.  After a while without any progress
 * the call gives up on it, and on nothing else: all other pages are off, and these go off as they
 * are let go, which is seen to by the flusher.  So the size that holds is the new one and what is
 * left above it, and it never grows by itself.
 *
 * Hits notice nothing: both arrays stay where they are, a folio that moves is one that was evicted
 * and is another one now, and nobody is stopped.
 *
 * One at a time: `resizing` is a role, taken by exchange, so nobody holds a lock while waiting.
 * Limits change under inodes_lock, so that an inode that needs a larger cache either is seen or
 * sees them.  They also change with the first inode of metadata and the last one.
 * Left out: memory that is added beyond the size at creation is not registered with rings, since
 * their tables were made for that size; descriptors keep their memory.
 */
#include <sys/mman.h>

#include "cache/internal.h"

/* Pages that are free while folios are being moved. */
#define RESIZE_FREE 32
/* Pages that are written at a time when some cannot be moved. */
#define RESIZE_WRITE 1024
/* Rounds of 10 ms without any progress before it gives up. */
#define RESIZE_TRIES 100
/* Of these, at most one is the largest folio. */
#define RESIZE_FOLIO_SHARE 16
/* Of metadata: this share of the cache is not for dirty data; this one is kept free, in pages at
 * least and at most. */
#define RESIZE_META_SHARE 16
#define RESIZE_RESERVE_SHARE 32
#define RESIZE_RESERVE_MIN 4
#define RESIZE_RESERVE_MAX 256
/* Callers may exceed a limit by what they dirty at once; it allows for no more than this share. */
#define RESIZE_SLACK_SHARE 8

static uint8_t order_of_size(const struct iomap__cache *cache, uint64_t pages)
{
	uint64_t bytes = iomap__min(cache->engine->folio_bytes_max,
				    (pages << IOMAP_PAGE_SHIFT) / RESIZE_FOLIO_SHARE);
	uint8_t order = 0;

	while (order < IOMAP__MAX_ORDER && IOMAP_PAGE_SIZE << (order + 1) <= bytes)
		order++;
	return order;
}

/* CA08: where data has to stop, so that all that is dirty stays below four fifths. */
static uint64_t data_pages(const struct iomap__cache *cache, uint64_t pages, uint8_t order)
{
	uint64_t slack = (uint64_t)cache->engine->opts.max_callers << order;
	uint64_t most = pages / 5 * 4 - iomap__min(slack, pages / RESIZE_SLACK_SHARE);

	return cache->nr_metadata ? most - pages / RESIZE_META_SHARE : most;
}

void iomap__cache_set_limits(struct iomap__cache *cache, uint64_t pages)
{
	const struct iomap_engine_opts *opts = &cache->engine->opts;
	uint8_t order = order_of_size(cache, pages);
	uint64_t hard = iomap__min(pages * opts->dirty_hard_pct / 100,
				   data_pages(cache, pages, order));
	uint64_t reserve = iomap__max(RESIZE_RESERVE_MIN, iomap__min(pages / RESIZE_RESERVE_SHARE,
								     RESIZE_RESERVE_MAX));

	cache->target_pages = pages;
	atomic_store(&cache->max_order, order);
	atomic_store(&cache->background_pages,
		     iomap__min(pages * opts->dirty_background_pct / 100, hard));
	atomic_store(&cache->hard_pages, hard);
	atomic_store(&cache->most_pages, pages / 5 * 4);
	atomic_store(&cache->reserve_pages, cache->nr_metadata ? reserve : 0);
}

bool iomap__inode_fits(const struct iomap_inode *inode, uint64_t pages)
{
	const struct iomap__cache *cache = inode->i_engine->cache;
	uint64_t folio = 1ULL << (iomap__max(inode->i_blkbits, IOMAP_PAGE_SHIFT) - IOMAP_PAGE_SHIFT);

	return inode->i_data.min_order <= order_of_size(cache, pages) &&
	       folio * IOMAP__CALLER_BLOCKS * cache->engine->opts.max_callers <= pages;
}

/* -EINVAL: some inode needs a larger cache. */
static int change_limits(struct iomap__cache *cache, uint64_t pages)
{
	int err = 0;

	iomap__mutex_lock(&cache->inodes_lock);
	for (struct iomap_list_head *item = cache->inodes.next; item != &cache->inodes && !err;
	     item = item->next)
		if (!iomap__inode_fits(
			    iomap__container_of(item, struct iomap_inode, i_engine_list), pages))
			err = -EINVAL;
	if (!err)
		iomap__cache_set_limits(cache, pages);
	iomap__mutex_unlock(&cache->inodes_lock);
	return err;
}

/* ---- emptying ---- */

/* The folio of which the new end is in the middle, or NULL. */
static struct iomap_folio *across(struct iomap__cache *cache, uint64_t end)
{
	struct iomap_folio *folio = iomap__folio_covering(cache, (uint32_t)(end - 1), 0);

	if (!folio || (uint64_t)(folio - cache->folios) + (1ULL << folio->order) <= end)
		return NULL;
	return folio;
}

static void send_away(struct iomap__cache *cache, struct iomap_folio *folio)
{
	/* what is used often moves, and what is not goes in its place */
	if (atomic_load(&cache->nr_free) < RESIZE_FREE)
		iomap__reclaim(cache, RESIZE_FREE);
	(void)iomap__folio_send_away(folio);
}

static void empty(struct iomap__cache *cache)
{
	uint64_t page = atomic_load(&cache->nr_pages);
	struct iomap_folio *folio = across(cache, page);

	if (folio)
		send_away(cache, folio);
	while (page < cache->end_pages) {
		folio = &cache->folios[page];
		/* one that is not in the index is free, or somebody's */
		if (!atomic_load_explicit(&folio->mapping, memory_order_relaxed)) {
			page++;
			continue;
		}
		page += 1ULL << atomic_load_explicit(&folio->order, memory_order_relaxed);
		send_away(cache, folio);
	}
	iomap__index_reap(cache, false);
}

/* 0; -EBUSY: what is left is in use. */
static int empty_all(struct iomap__cache *cache)
{
	uint64_t left = iomap__arena_left(cache), before;
	int tries = RESIZE_TRIES;

	while (left && tries) {
		uint32_t seq = iomap__load_acquire(&cache->wb_seq);

		before = left;
		empty(cache);
		left = iomap__arena_left(cache);
		if (left < before)
			tries = RESIZE_TRIES;
		else
			tries--;
		if (!left || left < before)
			continue;
		if (atomic_load(&cache->nr_dirty))
			iomap__flush_some(cache, 0, RESIZE_WRITE);
		(void)iomap__wb_wait(cache, seq);
	}
	return left ? -EBUSY : 0;
}

/* ---- giving memory back ---- */

static void give_back(struct iomap__cache *cache, uint64_t first, uint64_t end)
{
	char *at = cache->data + (first << IOMAP_PAGE_SHIFT);
	uint64_t left = (end - first) << IOMAP_PAGE_SHIFT;

	while (left) {
		uint64_t bytes = left;

		/* a kernel that says no leaves the pages where they are */
		if (iomap__blk_let_go(cache->engine, at, &bytes))
			(void)madvise(at, bytes, MADV_DONTNEED);
		at += bytes;
		left -= bytes;
	}
}

static void trim(struct iomap__cache *cache)
{
	uint64_t first = atomic_load(&cache->nr_pages), from = first, to = first, end;

	atomic_store(&cache->trim_wanted, false);
	/* neighbours together, or no slot of the rings would be whole */
	while (iomap__arena_off(cache, &first, &end)) {
		if (first != to) {
			give_back(cache, from, to);
			from = first;
		}
		to = end;
		first = end;
	}
	give_back(cache, from, to);
}

void iomap__cache_trim(struct iomap__cache *cache)
{
	if (iomap__likely(!atomic_load_explicit(&cache->trim_wanted, memory_order_relaxed)) ||
	    atomic_exchange(&cache->resizing, true))
		return;
	trim(cache);
	atomic_store(&cache->resizing, false);
}

/* ---- the call ---- */

static int shrink(struct iomap__cache *cache, uint64_t pages)
{
	int err = change_limits(cache, pages);

	if (err)
		return err;
	iomap__arena_shrink(cache, pages);
	err = empty_all(cache);
	trim(cache);
	return err;
}

static int grow(struct iomap__cache *cache, uint64_t pages)
{
	int err = iomap__arena_grow(cache, pages);

	/* what has been had of it stays */
	(void)change_limits(cache, atomic_load(&cache->nr_pages));
	return err;
}

static int resize(struct iomap__cache *cache, uint64_t pages)
{
	int err;

	/* equal: what an earlier call has left may be free by now */
	if (pages <= atomic_load(&cache->nr_pages))
		err = shrink(cache, pages);
	else
		err = grow(cache, pages);
	iomap__policy_resized(cache);
	return err;
}

int iomap_engine_set_cache_bytes(struct iomap_engine *engine, uint64_t bytes)
{
	struct iomap__cache *cache;
	uint64_t pages = bytes >> IOMAP_PAGE_SHIFT;
	int err;

	if (!engine)
		return -EINVAL;
	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	cache = engine->cache;
	if (pages > cache->max_pages ||
	    pages < (uint64_t)engine->opts.max_callers * IOMAP__CALLER_FOLIOS)
		return -EINVAL;
	if (atomic_exchange(&cache->resizing, true))
		return -EBUSY;
	err = resize(cache, pages);
	atomic_store(&cache->resizing, false);
	return err;
}
