/* SPDX-License-Identifier: MIT */
/*
 * arena.c - folio memory: one contiguous range, and a descriptor for each base page of it.
 *
 * The range is the hard bound of the cache: there is no other source of folios.  Free memory
 * is kept by a buddy allocator, whose lists run through the descriptors.  A descriptor's
 * place gives its memory's place and back, by arithmetic.  Descriptors are type-stable: they
 * are never given back while the engine lives, so a stale pointer to one is never wild, and
 * readers detect reuse by the version in the lock word, which only ever grows.
 *
 * States of a descriptor (buddy_state): PAGE_FREE the first page of a free block of `order`;
 * PAGE_USED the first page of a folio; PAGE_HELD of a free block that is kept for a hold, and so
 * on no list; PAGE_TAIL inside a block, free or in use.  A block is
 * made and taken apart without a look at its tails: their descriptors are not touched at all,
 * so that a folio of 2 MiB costs one cache line and not 512.  All under arena_lock, but that
 * the holder of a folio may read its own pages' states.
 *
 * The memory may be pinned by the rings (iomap__blk_set_memory()), which would go on with the
 * old pages if others came in their place: so from creation to the end nothing of it is
 * unmapped, punched out or given back.
 *
 * The child of a fork() has none of the memory, and finds the descriptors zeroed (MADV_WIPEONFORK):
 * free, of no file.  So a read that would hit in the parent misses there, see engine.c.
 *
 * In debug builds the memory of a folio that goes is filled with a pattern, which is looked
 * for when the memory is given out again, so that writes behind the last reference are found
 * and reads show.  A copying reader that still looks at it is harmed no more than by the next
 * owner: the version has moved when the folio left the index, and a release fence stands
 * between that and the pattern, so who has copied a byte of it throws the copy away
 * (hit.h).  Memory that was never given out is zero, and stays untouched.
 */
#include <sys/mman.h>

#include "cache/internal.h"

enum { PAGE_TAIL, PAGE_FREE, PAGE_USED, PAGE_HELD };

static inline uint32_t page_number(const struct iomap__cache *cache, const struct iomap_folio *f)
{
	return (uint32_t)(f - cache->folios);
}

void *iomap_folio_address(const struct iomap_folio *folio)
{
	return iomap__folio_mem(folio->cache, folio);
}

/* First page of the block, free or in use, that holds page @nr. */
static uint32_t block_of(const struct iomap__cache *cache, uint32_t nr)
{
	/* a block lies at a multiple of its size, and has no other first page inside */
	for (unsigned order = 0; cache->folios[nr].buddy_state == PAGE_TAIL; order++)
		nr &= ~(1U << order);
	return nr;
}

struct iomap_folio *iomap__folio_of(struct iomap__cache *cache, const void *addr)
{
	uintptr_t off = (uintptr_t)addr - (uintptr_t)cache->data;

	if (off >= cache->data_bytes)
		return NULL;
	return &cache->folios[block_of(cache, (uint32_t)(off >> IOMAP_PAGE_SHIFT))];
}

static void list_add(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	struct iomap_folio *f = &cache->folios[nr];

	f->buddy_state = PAGE_FREE;
	atomic_store_explicit(&f->order, (uint8_t)order, memory_order_relaxed);
	f->free_prev = IOMAP__NO_PAGE;
	f->free_next = cache->free_head[order];
	if (f->free_next != IOMAP__NO_PAGE)
		cache->folios[f->free_next].free_prev = nr;
	cache->free_head[order] = nr;
}

static void list_del(struct iomap__cache *cache, uint32_t nr)
{
	struct iomap_folio *f = &cache->folios[nr];

	if (f->free_prev == IOMAP__NO_PAGE)
		cache->free_head[f->order] = f->free_next;
	else
		cache->folios[f->free_prev].free_next = f->free_next;
	if (f->free_next != IOMAP__NO_PAGE)
		cache->folios[f->free_next].free_prev = f->free_prev;
	f->buddy_state = PAGE_TAIL;
}

static void *reserve(struct iomap__cache *cache, size_t bytes)
{
	struct iomap__env *env = &cache->engine->env;
	void *p = MAP_FAILED;

	if (!iomap__fails(env, IOMAP_FAIL_ARENA_MAP))
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED)
		return p;
	iomap__log(env, IOMAP_LOG_ERROR, "engine: no address space for %zu bytes of cache", bytes);
	return NULL;
}

int iomap__arena_create(struct iomap__cache *cache, uint64_t bytes)
{
	uint64_t nr = bytes >> IOMAP_PAGE_SHIFT;

	if (!nr || nr >= IOMAP__NO_PAGE)
		return -EINVAL;
	cache->nr_pages = nr;
	cache->data_bytes = nr << IOMAP_PAGE_SHIFT;
	cache->folios_bytes = nr * sizeof(struct iomap_folio);
	iomap__mutex_init(&cache->arena_lock, IOMAP__RANK_ARENA);
	cache->data = reserve(cache, cache->data_bytes);
	if (cache->data)
		cache->folios = reserve(cache, cache->folios_bytes);
	if (!cache->folios) {
		iomap__arena_destroy(cache);
		return -ENOMEM;
	}
	/* neither copied nor seen by a child; where the kernel refuses, it costs the fork time */
	(void)madvise(cache->data, cache->data_bytes, MADV_DONTFORK);
	(void)madvise(cache->folios, cache->folios_bytes, MADV_WIPEONFORK);
	/* fewer TLB misses on hits; a kernel without huge pages says no, which is no harm */
	(void)madvise(cache->data, cache->data_bytes, MADV_HUGEPAGE);

	for (unsigned order = 0; order <= IOMAP__MAX_ORDER; order++)
		cache->free_head[order] = IOMAP__NO_PAGE;
	for (uint64_t page = 0; page < nr;) {
		unsigned order = IOMAP__MAX_ORDER;

		while (page & ((1ULL << order) - 1) || page + (1ULL << order) > nr)
			order--;
		list_add(cache, (uint32_t)page, order);
		page += 1ULL << order;
	}
	for (uint64_t page = 0; page < nr; page++)
		cache->folios[page].cache = cache;
	atomic_store(&cache->nr_free, nr);
	return 0;
}

void iomap__arena_destroy(struct iomap__cache *cache)
{
	if (cache->data)
		munmap(cache->data, cache->data_bytes);
	if (cache->folios)
		munmap(cache->folios, cache->folios_bytes);
	cache->data = NULL;
	cache->folios = NULL;
}

/* ---- debug builds ---- */

static void poison(struct iomap_folio *folio)
{
	if (!IOMAP_DEBUG)
		return;
	/* pairs with the acquire fence of copying readers */
	IOMAP__FENCE(memory_order_release);
	iomap__fill_folio_mem(iomap_folio_address(folio), IOMAP__POISON,
			      iomap__folio_bytes(folio));
}

/* The pattern, or the zeros of a page that nobody has had. */
static bool page_is_untouched(const void *page)
{
	const uint64_t *word = page;
	uint64_t pattern = (word[0] & 0xff ? IOMAP__POISON : 0) * UINT64_C(0x0101010101010101);

	for (size_t i = 0; i < IOMAP_PAGE_SIZE / sizeof(*word); i++)
		if (word[i] != pattern)
			return false;
	return true;
}

static void check_poison(struct iomap_folio *folio)
{
	const char *mem = iomap_folio_address(folio);

	if (!IOMAP_DEBUG)
		return;
	for (size_t at = 0; at < iomap__folio_bytes(folio); at += IOMAP_PAGE_SIZE)
		iomap__assert_msg(page_is_untouched(mem + at),
				  "memory of folio %p was written to after it was freed, from %zu on",
				  (void *)folio, at);
}

/* ---- allocation ---- */

static void prepare(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	struct iomap_folio *f = &cache->folios[nr];

	f->buddy_state = PAGE_USED;
	atomic_store_explicit(&f->order, (uint8_t)order, memory_order_relaxed);
	f->ifs = NULL;
	f->read_valid = 0;
	f->read_error = 0;
	/* pairs with the acquire of whoever sees the folio's mapping set, later */
	atomic_store_explicit(&f->flags, 0, memory_order_relaxed);
	atomic_store_explicit(&f->refs, 1, memory_order_relaxed);
}

/* Under arena_lock: so many pages are in use from now on. */
static void count_used(struct iomap__cache *cache, unsigned order)
{
	uint64_t free, used;

	free = atomic_load_explicit(&cache->nr_free, memory_order_relaxed) - (1ULL << order);
	atomic_store_explicit(&cache->nr_free, free, memory_order_relaxed);
	used = cache->nr_pages - free;
	iomap__assert(used <= cache->nr_pages);
	if (used > cache->peak_used)
		cache->peak_used = used;
}

struct iomap_folio *iomap__arena_alloc(struct iomap__cache *cache, unsigned order)
{
	unsigned have = order;
	uint32_t nr;

	iomap__mutex_lock(&cache->arena_lock);
	while (have <= IOMAP__MAX_ORDER && cache->free_head[have] == IOMAP__NO_PAGE)
		have++;
	if (have > IOMAP__MAX_ORDER) {
		iomap__mutex_unlock(&cache->arena_lock);
		return NULL;
	}
	nr = cache->free_head[have];
	list_del(cache, nr);
	while (have > order) {
		have--;
		list_add(cache, nr + (1U << have), have);
	}
	prepare(cache, nr, order);
	count_used(cache, order);
	iomap__mutex_unlock(&cache->arena_lock);
	check_poison(&cache->folios[nr]);
	return &cache->folios[nr];
}

/* Of the holds that a block touches; it lies in that one, or around it. */
static struct iomap__hold *hold_at(const struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	struct iomap__hold *hold = cache->holds;

	while (hold) {
		unsigned larger = iomap__max(order, hold->order);

		if (nr >> larger == hold->first >> larger)
			break;
		hold = hold->next;
	}
	return hold;
}

/* Onto the free lists, as part of the largest block that is free. */
static void merge(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	while (order < IOMAP__MAX_ORDER) {
		uint32_t buddy = nr ^ (1U << order);

		if (buddy + (1ULL << order) > cache->nr_pages ||
		    cache->folios[buddy].buddy_state != PAGE_FREE ||
		    cache->folios[buddy].order != order)
			break;
		list_del(cache, buddy);
		nr &= ~(1U << order);
		order++;
	}
	list_add(cache, nr, order);
}

/* A block has come free: for who holds it, or for all.  Its first page is a tail by now. */
static void put_block(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	struct iomap__hold *hold = hold_at(cache, nr, order);

	if (!hold) {
		merge(cache, nr, order);
	} else if (order <= hold->order) {
		cache->folios[nr].buddy_state = PAGE_HELD;
		atomic_store_explicit(&cache->folios[nr].order, (uint8_t)order,
				      memory_order_relaxed);
		hold->have += 1U << order;
	} else {
		order--;
		put_block(cache, nr, order);
		put_block(cache, nr + (1U << order), order);
	}
}

void iomap__arena_free(struct iomap_folio *folio)
{
	struct iomap__cache *cache = folio->cache;
	uint32_t nr = page_number(cache, folio);
	unsigned order = folio->order;

	iomap__assert(!atomic_load(&folio->refs) && !atomic_load(&folio->mapping));
	iomap__assert(!folio->ifs);
	poison(folio);
	iomap__mutex_lock(&cache->arena_lock);
	iomap__assert(folio->buddy_state == PAGE_USED);
	atomic_store_explicit(&cache->nr_free,
			      atomic_load_explicit(&cache->nr_free, memory_order_relaxed) +
				      (1ULL << order),
			      memory_order_relaxed);
	folio->buddy_state = PAGE_TAIL;
	put_block(cache, nr, order);
	iomap__mutex_unlock(&cache->arena_lock);
}

/* ---- emptying a block ---- */

bool iomap__arena_hold(struct iomap__cache *cache, struct iomap__hold *hold, uint32_t first,
		       unsigned order)
{
	const struct iomap_folio *block;
	bool can;

	*hold = (struct iomap__hold){ .first = first, .order = order };
	iomap__mutex_lock(&cache->arena_lock);
	block = &cache->folios[block_of(cache, first)];
	can = !hold_at(cache, first, order) &&
	      (block->buddy_state != PAGE_FREE || block->order < order);
	for (uint32_t i = 0; can && i < 1U << order;) {
		struct iomap_folio *f = &cache->folios[first + i];

		if (f->buddy_state == PAGE_FREE) {
			list_del(cache, first + i);
			f->buddy_state = PAGE_HELD;
			hold->have += 1U << f->order;
		}
		/* the inside of a folio that is larger than the block */
		i += f->buddy_state == PAGE_TAIL ? 1 : 1U << f->order;
	}
	if (can) {
		hold->next = cache->holds;
		cache->holds = hold;
	}
	iomap__mutex_unlock(&cache->arena_lock);
	return can;
}

/* Off the list of holds. */
static void hold_del(struct iomap__cache *cache, struct iomap__hold *hold)
{
	struct iomap__hold **link = &cache->holds;

	while (*link != hold)
		link = &(*link)->next;
	*link = hold->next;
}

struct iomap_folio *iomap__arena_hold_end(struct iomap__cache *cache, struct iomap__hold *hold)
{
	uint32_t nr = 1U << hold->order;
	struct iomap_folio *folio = NULL;
	bool all;

	iomap__mutex_lock(&cache->arena_lock);
	hold_del(cache, hold);
	all = hold->have == nr;
	for (uint32_t i = 0; i < nr;) {
		struct iomap_folio *f = &cache->folios[hold->first + i];
		unsigned order = f->order;

		i += f->buddy_state == PAGE_TAIL ? 1 : 1U << order;
		if (f->buddy_state != PAGE_HELD)
			continue;
		f->buddy_state = PAGE_TAIL;
		if (!all)
			put_block(cache, page_number(cache, f), order);
	}
	if (all) {
		folio = &cache->folios[hold->first];
		prepare(cache, hold->first, hold->order);
		count_used(cache, hold->order);
	}
	iomap__mutex_unlock(&cache->arena_lock);
	if (folio)
		check_poison(folio);
	return folio;
}

/* ---- taking folios apart ---- */

void iomap__arena_split(struct iomap__split *split)
{
	struct iomap__cache *cache = split->folio->cache;

	iomap__mutex_lock(&cache->arena_lock);
	for (unsigned i = 0; i < split->nr; i++) {
		struct iomap_folio *folio = split->folio + split->piece[i].page;

		folio->buddy_state = PAGE_USED;
		atomic_store_explicit(&folio->order, split->piece[i].order, memory_order_relaxed);
	}
	iomap__mutex_unlock(&cache->arena_lock);
}
