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
 * What is locked or referenced all the time cannot be moved.  After a second without any progress
 * the call gives up on it, and on nothing else: all other pages are off.  What is left stays cached
 * when it is let go, out of the way of eviction, which looks below nr_pages; so the flusher, or who
 * polls, looks after it now and then, and moves or evicts it as the call has done (left_over).  So
 * the size that holds is the new one and what is left above it, and it never grows by itself.
 *
 * Hits notice nothing: both arrays stay where they are, a folio that moves is one that was evicted
 * and is another one now, and nobody is stopped.
 *
 * One at a time: the size is in the hands of who has a role, so nobody holds a lock while waiting:
 *
 *	ROLE_FREE -> ROLE_RESIZE	a call; another one gives -EBUSY
 *	ROLE_FREE -> ROLE_TRIM		who gives back or sends away what is left, which waits for
 *					nothing; a call waits for it, another trim goes away
 *
 * Limits change under inodes_lock, so that an inode that needs a larger cache either is seen or
 * sees them.  They also change with the first inode of metadata and the last one.
 * Left out: memory that is added beyond the size at creation is not registered with rings, since
 * their tables were made for that size; descriptors keep their memory.
 */
#include <limits.h>
#include <sys/mman.h>
#include <time.h>

#include "cache/internal.h"

/* Pages that are free while folios are being moved. */
#define RESIZE_FREE 32
/* Pages that are written at a time when some cannot be moved. */
#define RESIZE_WRITE 1024
/* Nanoseconds without any progress before it gives up; least from one round to the next. */
#define RESIZE_GIVE_UP_NS 1000000000U
#define RESIZE_ROUND_NS 1000000U
/* Least from one look at what is left to the next. */
#define RESIZE_LEFT_NS 100000000U
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

enum { ROLE_FREE, ROLE_RESIZE, ROLE_TRIM };

/* ROLE_FREE: it is the caller's now; else the role that somebody has. */
static uint32_t take_role(struct iomap__cache *cache, uint32_t role)
{
	uint32_t has = ROLE_FREE;

	(void)__atomic_compare_exchange_n(&cache->size_role, &has, role, false, __ATOMIC_SEQ_CST,
					  __ATOMIC_SEQ_CST);
	return has;
}

/* Nobody waits for the end of a resizing. */
static void give_role(struct iomap__cache *cache, uint32_t role)
{
	__atomic_store_n(&cache->size_role, ROLE_FREE, __ATOMIC_SEQ_CST);
	if (role == ROLE_TRIM)
		iomap__futex_wake(&cache->size_role, INT_MAX);
}

/* The real one: what the application's clock says is no measure of patience. */
static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

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

bool iomap__order_fits(const struct iomap__cache *cache, unsigned order, uint64_t pages)
{
	return order <= order_of_size(cache, pages) &&
	       (IOMAP__CALLER_BLOCKS << order) * (uint64_t)cache->engine->opts.max_callers <= pages;
}

/* -EINVAL: some inode needs a larger cache. */
static int change_limits(struct iomap__cache *cache, uint64_t pages)
{
	int err = 0;

	iomap__mutex_lock(&cache->inodes_lock);
	for (struct iomap_list_head *item = cache->inodes.next; item != &cache->inodes && !err;
	     item = item->next) {
		const struct iomap_inode *inode =
			iomap__container_of(item, struct iomap_inode, i_engine_list);

		if (!iomap__order_fits(cache, inode->i_data.min_order, pages))
			err = -EINVAL;
	}
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
	/* in use: room for it would be made in vain */
	if (atomic_load_explicit(&folio->refs, memory_order_relaxed) != 1)
		return;
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

/* Writeback of others ends all the time, so wb_seq alone would have us look without a pause. */
static void wait_round(struct iomap__cache *cache, uint32_t seq, uint64_t least_ns)
{
	uint64_t began = clock_ns();

	do {
		(void)iomap__wb_wait(cache, 0, seq);
		seq = iomap__load_acquire(&cache->wb_seq);
	} while (clock_ns() - began < least_ns);
}

/* 0; -EBUSY: what is left is in use. */
static int empty_all(struct iomap__cache *cache)
{
	uint64_t left = iomap__arena_left(cache), before, began, progress = clock_ns();

	while (left) {
		uint32_t seq = iomap__load_acquire(&cache->wb_seq);

		before = left;
		began = clock_ns();
		empty(cache);
		left = iomap__arena_left(cache);
		if (left < before) {
			progress = clock_ns();
			continue;
		}
		if (began - progress >= RESIZE_GIVE_UP_NS)
			break;
		if (atomic_load(&cache->nr_dirty))
			iomap__flush_some(cache, 0, RESIZE_WRITE);
		/* a pause as long as the look, which goes over all that lies there */
		wait_round(cache, seq, iomap__max(clock_ns() - began, RESIZE_ROUND_NS));
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

/* What a shrink has left, as far as nobody is at it any more. */
static void send_left(struct iomap__cache *cache)
{
	uint64_t now = clock_ns();

	if (!atomic_load(&cache->left_over))
		return;
	/* it goes over all that lies there, and there are many kicks */
	if (now >= cache->left_retry_ns) {
		empty(cache);
		cache->left_retry_ns = now + RESIZE_LEFT_NS;
	}
	atomic_store(&cache->left_over, iomap__arena_left(cache) != 0);
}

bool iomap__cache_wants_trim(const struct iomap__cache *cache)
{
	/* relaxed: what comes at the same time is seen the next time, or by who is notified */
	return atomic_load_explicit(&cache->trim_wanted, memory_order_relaxed) ||
	       atomic_load_explicit(&cache->left_over, memory_order_relaxed);
}

void iomap__cache_trim(struct iomap__cache *cache)
{
	if (iomap__likely(!iomap__cache_wants_trim(cache)) ||
	    iomap__engine_closed(cache->engine) || take_role(cache, ROLE_TRIM) != ROLE_FREE)
		return;
	send_left(cache);
	if (atomic_load(&cache->trim_wanted))
		trim(cache);
	give_role(cache, ROLE_TRIM);
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
	atomic_store(&cache->left_over, err != 0);
	/* a loop that sleeps has to come and look */
	if (err && !cache->flusher_runs)
		iomap__loop_notify(iomap__cache_blk(cache));
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
	uint32_t role;
	int err;

	if (!engine)
		return -EINVAL;
	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	cache = engine->cache;
	if (pages > cache->max_pages ||
	    pages < (uint64_t)engine->opts.max_callers * IOMAP__CALLER_FOLIOS)
		return -EINVAL;
	while ((role = take_role(cache, ROLE_RESIZE)) == ROLE_TRIM)
		iomap__futex_wait(&cache->size_role, ROLE_TRIM);
	if (role != ROLE_FREE)
		return -EBUSY;
	err = resize(cache, pages);
	give_role(cache, ROLE_RESIZE);
	return err;
}
