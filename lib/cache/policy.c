/* SPDX-License-Identifier: MIT */
/*
 * policy.c - which folio goes next.
 *
 * The idea is that of S3-FIFO: most of what comes in is never asked for again, so what is new has
 * to earn its place before it may cost something that has.
 *
 *	small	a queue, first in first out, of a tenth of the cache: what is new.  At its end
 *		a folio that was used again (ACCESSED) becomes main; any other is evicted, and its
 *		name is remembered for a while (ghost.c)
 *	main	everything else: what has come out of the queue so, and what came in again while
 *		its name was remembered.  A clock over the descriptors: the hand makes the rank of a
 *		folio that was used since it last came by one higher, up to RANK_MAX, that of
 *		another one lower, and evicts it at 0
 *
 * While small holds more than its tenth the next one is looked for there, else in main.  A hit
 * does nothing but set ACCESSED when that is not set: what a count of hits would tell is told by
 * how many rounds of the hand have found the mark.  All of it goes by pages, so a large folio
 * counts for what it holds.
 *
 * What ACCESSED must not say: that a folio was used once, in pieces.  The first use of what was
 * read takes FRESH away and leaves no mark; nor does a use that goes on inside a folio where the
 * opener's last one ended (iomap__filemap_used()).  A folio that a write has made is ONCE: the mark
 * it gets goes when it has been written out for the first time; one that comes to the queue's end
 * before that loses its mark and goes through the queue again, PASSES times at most.  So does what
 * was read ahead and not yet asked for (RA_UNUSED).  What is dirty at the queue's end waits
 * outside of it (WAITS) and comes in again when it has been written; reclaim writes nothing.
 *
 * The queue is a ring of page numbers.  A folio that goes by another way leaves its place behind:
 * a place is a folio's if that has SMALL and, in STAMP, the place's low bits.  Nothing is locked
 * to change from small to main; whoever does it exchanges the flags that say so for others, and
 * the one who has done so takes the pages off the count.  A place that is mistaken for another
 * one 65536 places away costs a folio its turn, nothing else.  A folio that has SMALL and no
 * place, which should not be, is found by the hand when all else has failed.
 *
 * Lock order: queue_lock comes after tree_lock; under it nothing is locked.
 */
#include <sys/mman.h>

#include "cache/internal.h"

/* Places that one thread takes at a time: from the queue, from the hand. */
#define POLICY_STEP 32
#define SMALL_SHARE 10
#define RANK_ONE 0x2000U
#define RANK_MAX (3 * RANK_ONE)
/* Of the hand, in one search: a mark and all ranks go, and one more. */
#define ROUNDS 6
/* How often what cannot be judged yet goes through the queue again; counted in the rank. */
#define PASSES 3
#define STAMP_SHIFT 16
#define STAMP_MASK (0xffffU << STAMP_SHIFT)
#define QUEUE_FLAGS (IOMAP__FOLIO_SMALL | IOMAP__FOLIO_RANK | STAMP_MASK)

struct place {
	uint64_t at;
	uint32_t page;
};

int iomap__policy_create(struct iomap__cache *cache, uint64_t max_pages)
{
	struct iomap__policy *policy = &cache->policy;

	iomap__mutex_init(&policy->queue_lock, IOMAP__RANK_EVICT);
	policy->places = atomic_load(&cache->nr_pages);
	policy->max_places = max_pages;
	policy->ring = iomap__arena_reserve(cache, max_pages * sizeof(*policy->ring),
					    PROT_READ | PROT_WRITE);
	if (!policy->ring)
		return -ENOMEM;
	return iomap__ghost_create(cache, max_pages);
}

void iomap__policy_destroy(struct iomap__cache *cache)
{
	struct iomap__policy *policy = &cache->policy;

	iomap__ghost_destroy(cache);
	iomap__arena_unreserve(policy->ring, policy->max_places * sizeof(*policy->ring));
	policy->ring = NULL;
}

/* ---- the queue ---- */

static uint32_t stamp(uint64_t at)
{
	return (uint32_t)at << STAMP_SHIFT;
}

static bool holds_place(uint32_t flags, uint64_t at)
{
	return flags & IOMAP__FOLIO_SMALL && (flags & STAMP_MASK) == stamp(at);
}

/*
 * The folio of a place leaves the queue, with @more of its flags cleared and @set set.  False: it
 * was not in that place any more.
 */
static bool leave(struct iomap__cache *cache, struct iomap_folio *folio, uint64_t at, uint32_t more,
		  uint32_t set)
{
	/* acquire: the order is that of the folio whose flags these are */
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	uint64_t pages;

	do {
		if (!holds_place(flags, at))
			return false;
		pages = 1ULL << atomic_load_explicit(&folio->order, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&folio->flags, &flags,
							(flags & ~(QUEUE_FLAGS | more)) | set,
							memory_order_acq_rel,
							memory_order_acquire));
	atomic_fetch_sub(&cache->policy.nr_small, pages);
	return true;
}

/* Under queue_lock. */
static uint32_t *page_at(struct iomap__policy *policy, uint64_t at)
{
	return &policy->ring[(at - policy->base) % policy->places];
}

/* Under queue_lock: there is one place less; its folio, if it still has one, is main. */
static void drop_first(struct iomap__cache *cache)
{
	struct iomap__policy *policy = &cache->policy;
	uint64_t at = policy->head++;

	(void)leave(cache, &cache->folios[*page_at(policy, at)], at, 0, 0);
}

/* Under queue_lock: a place at the end.  A full ring loses its first, most often of no folio. */
static uint64_t new_place(struct iomap__cache *cache, const struct iomap_folio *folio)
{
	struct iomap__policy *policy = &cache->policy;

	while (policy->tail - policy->head >= policy->places)
		drop_first(cache);
	*page_at(policy, policy->tail) = (uint32_t)(folio - cache->folios);
	return policy->tail++;
}

/* The folio is in nobody's queue, and stays what it is. */
static void enter(struct iomap__cache *cache, struct iomap_folio *folio)
{
	struct iomap__policy *policy = &cache->policy;
	uint64_t at;

	atomic_fetch_add(&policy->nr_small, 1ULL << folio->order);
	iomap__mutex_lock(&policy->queue_lock);
	at = new_place(cache, folio);
	/* release: pairs with leave(); the order comes first */
	atomic_fetch_or_explicit(&folio->flags, IOMAP__FOLIO_SMALL | stamp(at),
				 memory_order_release);
	iomap__mutex_unlock(&policy->queue_lock);
}

/* From its place to the end, with @more of its flags cleared. */
static void go_again(struct iomap__cache *cache, struct iomap_folio *folio, uint64_t at,
		     uint32_t more)
{
	struct iomap__policy *policy = &cache->policy;
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed), next;
	uint64_t to;

	iomap__mutex_lock(&policy->queue_lock);
	to = new_place(cache, folio);
	do {
		next = (flags & ~(STAMP_MASK | more)) | stamp(to);
		next += (flags & IOMAP__FOLIO_RANK) == RANK_MAX ? 0 : RANK_ONE;
	} while (holds_place(flags, at) &&
		 !atomic_compare_exchange_weak_explicit(&folio->flags, &flags, next,
							memory_order_release,
							memory_order_relaxed));
	iomap__mutex_unlock(&policy->queue_lock);
}

/*
 * The ring has as many places as the cache has pages.  Only what is in use moves: the part up to
 * the old end of the ring, when that is no longer the end, or the part lies beyond the new one.
 */
void iomap__policy_resized(struct iomap__cache *cache)
{
	struct iomap__policy *policy = &cache->policy;
	uint64_t places = atomic_load(&cache->nr_pages), first, live, part, to;

	iomap__mutex_lock(&policy->queue_lock);
	while (policy->tail - policy->head > places)
		drop_first(cache);
	live = policy->tail - policy->head;
	first = (policy->head - policy->base) % policy->places;
	part = iomap__min(live, policy->places - first);
	to = first;
	if (part < live || first + part > places) {
		/* there is room: the other part begins at 0, and both fit */
		to = places - part;
		memmove(&policy->ring[to], &policy->ring[first], part * sizeof(*policy->ring));
	}
	/* may wrap: it is subtracted from what is larger by `to` at least */
	policy->base = policy->head - to;
	policy->places = places;
	iomap__mutex_unlock(&policy->queue_lock);
	iomap__ghost_resized(cache);
}

/* ---- what the others tell ---- */

void iomap__policy_added(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	if (!iomap__ghost_take(mapping, iomap_folio_index(folio), folio->order))
		enter(folio->cache, folio);
}

void iomap__policy_moved(const struct iomap_folio *from, struct iomap_folio *to)
{
	if (iomap__folio_test(from, IOMAP__FOLIO_SMALL))
		enter(to->cache, to);
}

uint32_t iomap__policy_flags_moved(uint32_t flags)
{
	return flags & ~(flags & IOMAP__FOLIO_SMALL ? QUEUE_FLAGS : 0U);
}

void iomap__policy_gone(struct iomap_folio *folio)
{
	uint32_t old;

	if (!(atomic_load_explicit(&folio->flags, memory_order_relaxed) & IOMAP__FOLIO_SMALL))
		return;
	old = atomic_fetch_and_explicit(&folio->flags, ~QUEUE_FLAGS, memory_order_relaxed);
	if (old & IOMAP__FOLIO_SMALL)
		atomic_fetch_sub(&folio->cache->policy.nr_small, 1ULL << folio->order);
}

void iomap__policy_written(struct iomap_folio *folio)
{
	enter(folio->cache, folio);
}

/* ---- evicting ---- */

/* In the index, clean, and nobody is at it; may be wrong the next moment. */
static bool idle(const struct iomap_folio *folio, uint32_t flags)
{
	return atomic_load_explicit(&folio->mapping, memory_order_relaxed) &&
	       !(flags & (IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_WRITEBACK)) &&
	       atomic_load_explicit(&folio->refs, memory_order_relaxed) == 1 &&
	       !iomap_folio_test_locked(folio);
}

/* Of a folio that cannot be judged, or is locked: once more through the queue, or main at last. */
static void put_off(struct iomap__cache *cache, struct iomap_folio *folio, uint64_t at,
		    uint32_t flags)
{
	if ((flags & IOMAP__FOLIO_RANK) / RANK_ONE < PASSES)
		go_again(cache, folio, at, 0);
	else
		(void)leave(cache, folio, at, 0, 0);
}

/* A folio at the end of the queue; pages freed. */
static uint64_t judge(struct iomap__cache *cache, const struct place *place)
{
	struct iomap_folio *folio = &cache->folios[place->page];
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	uint64_t pages = 1ULL << folio->order;

	if (!holds_place(flags, place->at))
		return 0;
	if (flags & IOMAP__FOLIO_ACCESSED && flags & IOMAP__FOLIO_ONCE &&
	    (flags & IOMAP__FOLIO_RANK) / RANK_ONE < PASSES) {
		go_again(cache, folio, place->at, IOMAP__FOLIO_ACCESSED);
	} else if (flags & IOMAP__FOLIO_ACCESSED) {
		(void)leave(cache, folio, place->at, IOMAP__FOLIO_ACCESSED, 0);
	} else if (flags & (IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_WRITEBACK)) {
		(void)leave(cache, folio, place->at, 0, IOMAP__FOLIO_WAITS);
	} else if (flags & IOMAP__FOLIO_RA_UNUSED &&
		   (flags & IOMAP__FOLIO_RANK) / RANK_ONE < PASSES) {
		go_again(cache, folio, place->at, 0);
	} else if (iomap_folio_test_locked(folio)) {
		put_off(cache, folio, place->at, flags);
	} else if (!idle(folio, flags)) {
		(void)leave(cache, folio, place->at, 0, 0);
	} else if (iomap__folio_evict_new(folio)) {
		return pages;
	} else {
		put_off(cache, folio, place->at, flags);
	}
	return 0;
}

static unsigned take_places(struct iomap__cache *cache, struct place *place, unsigned nr)
{
	struct iomap__policy *policy = &cache->policy;
	unsigned i;

	iomap__mutex_lock(&policy->queue_lock);
	for (i = 0; i < nr && policy->head < policy->tail; i++) {
		place[i].at = policy->head++;
		place[i].page = *page_at(policy, place[i].at);
	}
	iomap__mutex_unlock(&policy->queue_lock);
	return i;
}

static bool small_is_full(struct iomap__cache *cache)
{
	return atomic_load_explicit(&cache->policy.nr_small, memory_order_relaxed) >
	       atomic_load_explicit(&cache->nr_pages, memory_order_relaxed) / SMALL_SHARE;
}

/* Out of the queue, down to its share unless @below; all of it is looked at once at most. */
static uint64_t from_small(struct iomap__cache *cache, uint64_t want, bool below)
{
	uint64_t freed = 0, left = atomic_load(&cache->nr_pages);
	struct place place[POLICY_STEP];

	while (freed < want && left && (below || small_is_full(cache))) {
		unsigned ask = (unsigned)iomap__min(iomap__min(want - freed, left), POLICY_STEP);
		unsigned nr = take_places(cache, place, ask);

		if (!nr)
			break;
		for (unsigned i = 0; i < nr; i++)
			freed += judge(cache, &place[i]);
		left -= nr;
	}
	return freed;
}

enum passed { PASSED_BY, PASSED_AGED, PASSED_EVICTED };

/* The hand comes to a folio; @any: of the queue as well. */
static enum passed pass(struct iomap_folio *folio, bool any)
{
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed);
	uint32_t rank = flags & IOMAP__FOLIO_RANK, next = flags & ~IOMAP__FOLIO_ACCESSED;

	if ((flags & IOMAP__FOLIO_SMALL && !any) || !idle(folio, flags))
		return PASSED_BY;
	if (!any && (flags & IOMAP__FOLIO_ACCESSED || rank)) {
		if (!(flags & IOMAP__FOLIO_ACCESSED))
			next -= RANK_ONE;
		else if (rank < RANK_MAX)
			next += RANK_ONE;
		/* or somebody has used it just now, or it is another one's: its turn will come */
		(void)atomic_compare_exchange_strong_explicit(&folio->flags, &flags, next,
							      memory_order_relaxed,
							      memory_order_relaxed);
		return PASSED_AGED;
	}
	return iomap__folio_evict(folio) ? PASSED_EVICTED : PASSED_BY;
}

/*
 * By the hand: until a whole round has found nothing that could be evicted now or later; and
 * no longer than it takes for the highest rank to go, whatever readers mark meanwhile.
 */
static uint64_t from_main(struct iomap__cache *cache, uint64_t want, bool any)
{
	uint64_t freed = 0, idle_steps = 0, steps = 0;
	uint64_t nr_pages = atomic_load(&cache->nr_pages);

	while (freed < want && idle_steps < nr_pages + POLICY_STEP && steps < ROUNDS * nr_pages) {
		uint64_t at = atomic_fetch_add_explicit(&cache->policy.hand, POLICY_STEP,
							memory_order_relaxed);

		idle_steps += POLICY_STEP;
		steps += POLICY_STEP;
		for (unsigned i = 0; i < POLICY_STEP && freed < want; i++) {
			struct iomap_folio *folio = &cache->folios[(at + i) % nr_pages];
			uint64_t pages = 1ULL << folio->order;
			enum passed passed = pass(folio, any);

			if (passed == PASSED_EVICTED)
				freed += pages;
			if (passed != PASSED_BY)
				idle_steps = 0;
		}
	}
	return freed;
}

uint64_t iomap__policy_evict(struct iomap__cache *cache, uint64_t want)
{
	uint64_t freed = 0, more = 1;

	while (freed < want && more) {
		more = from_small(cache, want - freed, false);
		/* it is not over its share, or there is nothing in it that could go */
		if (!more)
			more = from_main(cache, want - freed, false);
		freed += more;
	}
	if (!freed)
		freed = from_small(cache, want, true);
	if (!freed)
		freed = from_main(cache, want, true);
	return freed;
}
