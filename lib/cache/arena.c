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
 * on no list; PAGE_OFF of a block that is not the cache's any more; PAGE_TAIL inside a block.  A
 * block is made and taken apart without a look at its tails: their descriptors are not touched at all,
 * so that a folio of 2 MiB costs one cache line and not 512.  All under arena_lock, but that
 * the holder of a folio may read its own pages' states.
 *
 * Size.  Address space is reserved for the largest size that there can be, so that both arrays
 * stay where they are; what the cache has never been as large as may not be touched.  Folios come
 * from below nr_pages.  When that falls, what is free above it goes off, and what is in use there
 * goes off as it is freed, so that pages in use, free ones and those that are off always add up to
 * end_pages, and folio memory never exceeds end_pages - nr_off.  resize.c empties what is left,
 * and gives memory back: of pages that are off, and that the rings do not have pinned
 * (iomap__blk_let_go()), since these would go on with the old pages if others came in their place.
 * A page is never unmapped or protected: a copying reader may still look at it.  What it reads
 * there, old bytes or the zeros of a page that was given back, it throws away, since the version of
 * the folio moved when it left the index, before its memory was free.  For the same reason no
 * grace period is needed, and none could be had: copying readers are in no epoch (hit.h).  All
 * others who look at the memory have the folio's lock or a reference.  Descriptors are not given
 * back at all.
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

enum { PAGE_TAIL, PAGE_FREE, PAGE_USED, PAGE_HELD, PAGE_OFF };

/* Pages that are looked at in one hold of the lock; a multiple of every block. */
#define STRIDE 4096ULL

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

/* Under arena_lock. */
static void add_free(struct iomap__cache *cache, int64_t pages)
{
	uint64_t free = atomic_load_explicit(&cache->nr_free, memory_order_relaxed);

	atomic_store_explicit(&cache->nr_free, free + (uint64_t)pages, memory_order_relaxed);
}

/* Onto the free lists, as part of the largest block that is free. */
static void merge(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	while (order < IOMAP__MAX_ORDER) {
		uint32_t buddy = nr ^ (1U << order);

		if (buddy + (1ULL << order) > atomic_load(&cache->nr_pages) ||
		    cache->folios[buddy].buddy_state != PAGE_FREE ||
		    cache->folios[buddy].order != order)
			break;
		list_del(cache, buddy);
		nr &= ~(1U << order);
		order++;
	}
	list_add(cache, nr, order);
}

/* Address space that costs nothing: not touched, and not counted as memory that may be needed. */
void *iomap__arena_reserve(struct iomap__cache *cache, size_t bytes, int prot)
{
	struct iomap__env *env = &cache->engine->env;
	void *p = MAP_FAILED;

	if (!iomap__fails(env, IOMAP_FAIL_ARENA_MAP))
		p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED)
		return p;
	iomap__log(env, IOMAP_LOG_ERROR, "engine: no address space for %zu bytes of cache", bytes);
	return NULL;
}

void iomap__arena_unreserve(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, bytes);
}

/* Pages [from, to) and their descriptors may be touched. */
static int open_pages(struct iomap__cache *cache, uint64_t from, uint64_t to)
{
	size_t first = iomap__round_down(from * sizeof(struct iomap_folio), IOMAP_PAGE_SIZE);
	size_t end = iomap__round_up(to * sizeof(struct iomap_folio), IOMAP_PAGE_SIZE);

	if (mprotect(cache->data + (from << IOMAP_PAGE_SHIFT), (to - from) << IOMAP_PAGE_SHIFT,
		     PROT_READ | PROT_WRITE) != 0 ||
	    mprotect((char *)cache->folios + first, end - first, PROT_READ | PROT_WRITE) != 0)
		return -ENOMEM;
	return 0;
}

/* Pages [from, to), on no list and in nobody's hands, are free. */
static void put_pages(struct iomap__cache *cache, uint64_t from, uint64_t to)
{
	while (from < to) {
		unsigned order = IOMAP__MAX_ORDER;

		while (from & ((1ULL << order) - 1) || from + (1ULL << order) > to)
			order--;
		merge(cache, (uint32_t)from, order);
		from += 1ULL << order;
	}
}

int iomap__arena_create(struct iomap__cache *cache, uint64_t bytes, uint64_t max_bytes)
{
	uint64_t nr = bytes >> IOMAP_PAGE_SHIFT, max = max_bytes >> IOMAP_PAGE_SHIFT;

	if (!nr || nr > max || max >= IOMAP__NO_PAGE)
		return -EINVAL;
	cache->max_pages = max;
	cache->data_bytes = max << IOMAP_PAGE_SHIFT;
	cache->folios_bytes = iomap__round_up(max * sizeof(struct iomap_folio), IOMAP_PAGE_SIZE);
	iomap__mutex_init(&cache->arena_lock, IOMAP__RANK_ARENA);
	cache->data = iomap__arena_reserve(cache, cache->data_bytes, PROT_NONE);
	if (cache->data)
		cache->folios = iomap__arena_reserve(cache, cache->folios_bytes, PROT_NONE);
	if (!cache->folios || open_pages(cache, 0, nr) != 0) {
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
	cache->end_pages = nr;
	atomic_store(&cache->nr_pages, nr);
	put_pages(cache, 0, nr);
	atomic_store(&cache->nr_free, nr);
	return 0;
}

void iomap__arena_destroy(struct iomap__cache *cache)
{
	iomap__arena_unreserve(cache->data, cache->data_bytes);
	iomap__arena_unreserve(cache->folios, cache->folios_bytes);
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

/* The pattern, or the zeros of a page that nobody has had.  Unused without debug checks. */
__attribute__((unused)) static bool page_is_untouched(const void *page)
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

/*
 * Descriptors know their cache from the first time on that they are a folio's, so that those that
 * never are need not exist.  Once: who looks at a stale one may read it at any time.
 */
static void set_cache(struct iomap__cache *cache, struct iomap_folio *folio)
{
	if (!folio->cache)
		folio->cache = cache;
}

static void prepare(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	struct iomap_folio *f = &cache->folios[nr];

	/*
	 * Pairs with the acquire fence of copying readers: who meets a place or bytes that this
	 * thread stores from here on sees that the version moved when the folio here before went.
	 */
	IOMAP__FENCE(memory_order_release);
	f->buddy_state = PAGE_USED;
	set_cache(cache, f);
	atomic_store_explicit(&f->order, (uint8_t)order, memory_order_relaxed);
	f->ifs = NULL;
	f->read_valid = 0;
	f->read_error = 0;
	/* pairs with the acquire of whoever sees the folio's mapping set, later */
	atomic_store_explicit(&f->flags, 0, memory_order_relaxed);
	atomic_store_explicit(&f->refs, 1, memory_order_relaxed);
}

/* Under arena_lock: the block at @nr is in use from now on. */
static void count_used(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	add_free(cache, -(1LL << order));
	cache->nr_used += 1ULL << order;
	iomap__assert(nr + (1ULL << order) <= atomic_load(&cache->nr_pages));
	/* the size in force: each page above nr_pages that is not in use is off */
	iomap__assert(cache->nr_used <= cache->end_pages - cache->nr_off);
	iomap__assert(cache->nr_used + atomic_load(&cache->nr_free) + cache->nr_off ==
		      cache->end_pages);
	if (cache->nr_used > cache->peak_used)
		cache->peak_used = cache->nr_used;
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
	count_used(cache, nr, order);
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

/* A free block above nr_pages. */
static void put_off(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	cache->folios[nr].buddy_state = PAGE_OFF;
	atomic_store_explicit(&cache->folios[nr].order, (uint8_t)order, memory_order_relaxed);
	add_free(cache, -(1LL << order));
	cache->nr_off += 1ULL << order;
	/* who resizes gives it back itself, or sees this afterwards */
	if (!atomic_load(&cache->trim_wanted))
		atomic_store(&cache->trim_wanted, true);
}

/* The lock is free again; a loop that sleeps has to come and give back what went off first. */
static void tell_trim(struct iomap__cache *cache, bool was_wanted)
{
	if (iomap__unlikely(!was_wanted && atomic_load_explicit(&cache->trim_wanted,
								memory_order_relaxed)) &&
	    !cache->flusher_runs)
		iomap__loop_notify(iomap__cache_blk(cache));
}

/*
 * A block has come free: for who holds it, or for all; above nr_pages it goes off.  Its first page
 * is a tail by now.
 */
static void put_block(struct iomap__cache *cache, uint32_t nr, unsigned order)
{
	uint64_t nr_pages = atomic_load_explicit(&cache->nr_pages, memory_order_relaxed);
	struct iomap__hold *hold = hold_at(cache, nr, order);
	bool inside = nr + (1ULL << order) <= nr_pages;

	if (nr >= nr_pages) {
		put_off(cache, nr, order);
	} else if (inside && !hold) {
		merge(cache, nr, order);
	} else if (inside && order <= hold->order) {
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
	bool trim_wanted;

	iomap__assert(!atomic_load(&folio->refs) && !atomic_load(&folio->mapping));
	iomap__assert(!folio->ifs);
	iomap__policy_gone(folio);
	poison(folio);
	iomap__mutex_lock(&cache->arena_lock);
	iomap__assert(folio->buddy_state == PAGE_USED);
	add_free(cache, 1LL << order);
	cache->nr_used -= 1ULL << order;
	folio->buddy_state = PAGE_TAIL;
	trim_wanted = atomic_load_explicit(&cache->trim_wanted, memory_order_relaxed);
	put_block(cache, nr, order);
	iomap__mutex_unlock(&cache->arena_lock);
	tell_trim(cache, trim_wanted);
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
	can = first + (1ULL << order) <= atomic_load(&cache->nr_pages) &&
	      !hold_at(cache, first, order) &&
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
	bool all, trim_wanted;

	iomap__mutex_lock(&cache->arena_lock);
	trim_wanted = atomic_load_explicit(&cache->trim_wanted, memory_order_relaxed);
	hold_del(cache, hold);
	all = hold->have == nr && hold->first + nr <= atomic_load(&cache->nr_pages);
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
		count_used(cache, hold->first, hold->order);
	}
	iomap__mutex_unlock(&cache->arena_lock);
	tell_trim(cache, trim_wanted);
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
		set_cache(cache, folio);
		atomic_store_explicit(&folio->order, split->piece[i].order, memory_order_relaxed);
	}
	iomap__mutex_unlock(&cache->arena_lock);
}

/* ---- the size ---- */

/* Under arena_lock: the block that @page lies in, and where it ends. */
static struct iomap_folio *block_at(struct iomap__cache *cache, uint64_t page, uint64_t *end)
{
	struct iomap_folio *block = &cache->folios[block_of(cache, (uint32_t)page)];

	*end = page_number(cache, block) + (1ULL << block->order);
	return block;
}

/* Under arena_lock: what is free of [from, to), which lies above nr_pages now, goes off. */
static void take_off(struct iomap__cache *cache, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct iomap_folio *block = block_at(cache, from, &from);

		if (block->buddy_state != PAGE_FREE)
			continue;
		list_del(cache, page_number(cache, block));
		put_block(cache, page_number(cache, block), block->order);
	}
}

void iomap__arena_shrink(struct iomap__cache *cache, uint64_t nr_pages)
{
	uint64_t end = atomic_load(&cache->nr_pages), from;

	/* from the top, a stretch at a time: others want the lock too */
	while (end > nr_pages) {
		from = iomap__max(nr_pages, iomap__round_down(end - 1, STRIDE));
		iomap__mutex_lock(&cache->arena_lock);
		atomic_store(&cache->nr_pages, from);
		take_off(cache, from, end);
		iomap__mutex_unlock(&cache->arena_lock);
		end = from;
	}
}

/* Under arena_lock: what is off of [from, to), which lies below nr_pages now, is free. */
static void take_back(struct iomap__cache *cache, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct iomap_folio *block = block_at(cache, from, &from);
		unsigned order = block->order;

		if (block->buddy_state != PAGE_OFF)
			continue;
		block->buddy_state = PAGE_TAIL;
		cache->nr_off -= 1ULL << order;
		add_free(cache, 1LL << order);
		/* of one that is only partly below, the rest goes off again */
		put_block(cache, page_number(cache, block), order);
	}
}

/* Pages that have never been the cache's. */
static int add_pages(struct iomap__cache *cache, uint64_t nr_pages)
{
	uint64_t from = cache->end_pages;

	if (iomap__fails(&cache->engine->env, IOMAP_FAIL_ARENA_MAP) ||
	    open_pages(cache, from, nr_pages) != 0) {
		iomap__log(&cache->engine->env, IOMAP_LOG_ERROR,
			   "engine: no memory to let the cache grow");
		return -ENOMEM;
	}
	iomap__mutex_lock(&cache->arena_lock);
	cache->end_pages = nr_pages;
	atomic_store(&cache->nr_pages, nr_pages);
	put_pages(cache, from, nr_pages);
	add_free(cache, (int64_t)(nr_pages - from));
	iomap__mutex_unlock(&cache->arena_lock);
	return 0;
}

int iomap__arena_grow(struct iomap__cache *cache, uint64_t nr_pages)
{
	uint64_t from = atomic_load(&cache->nr_pages), known, to;

	known = iomap__min(nr_pages, cache->end_pages);
	while (from < known) {
		to = iomap__min(iomap__round_down(from + STRIDE, STRIDE), known);
		iomap__mutex_lock(&cache->arena_lock);
		atomic_store(&cache->nr_pages, to);
		take_back(cache, from, to);
		iomap__mutex_unlock(&cache->arena_lock);
		from = to;
	}
	return nr_pages > cache->end_pages ? add_pages(cache, nr_pages) : 0;
}

uint64_t iomap__arena_left(struct iomap__cache *cache)
{
	uint64_t left;

	iomap__mutex_lock(&cache->arena_lock);
	left = cache->end_pages - atomic_load(&cache->nr_pages) - cache->nr_off;
	iomap__mutex_unlock(&cache->arena_lock);
	return left;
}

uint64_t iomap__arena_pages(struct iomap__cache *cache)
{
	uint64_t pages;

	iomap__mutex_lock(&cache->arena_lock);
	pages = cache->end_pages - cache->nr_off;
	iomap__mutex_unlock(&cache->arena_lock);
	return pages;
}

/* Under arena_lock: the first run of pages in [at, stop) that are off; its end may be beyond. */
static bool off_run(struct iomap__cache *cache, uint64_t at, uint64_t stop, uint64_t *first,
		    uint64_t *end)
{
	bool found = false;

	for (uint64_t next; at < stop; at = next) {
		if (block_at(cache, at, &next)->buddy_state == PAGE_OFF) {
			if (!found)
				*first = at;
			found = true;
			*end = next;
		} else if (found) {
			break;
		}
	}
	return found;
}

bool iomap__arena_off(struct iomap__cache *cache, uint64_t *first, uint64_t *end)
{
	bool found = false;

	for (uint64_t at = *first; !found && at < cache->end_pages;) {
		uint64_t stop = iomap__min(iomap__round_down(at + STRIDE, STRIDE),
					   cache->end_pages);

		iomap__mutex_lock(&cache->arena_lock);
		found = off_run(cache, at, stop, first, end);
		iomap__mutex_unlock(&cache->arena_lock);
		at = stop;
	}
	return found;
}
