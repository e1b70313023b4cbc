/* SPDX-License-Identifier: MIT */
/*
 * ghost.c - names of folios that were evicted soon after they had come, for as long as it takes to
 * evict nine tenths of a cache of them.
 *
 * One table of as many words as the cache has pages, so it never grows; nothing is ever
 * allocated here.  A name is the number of the address space, the folio's first page and its
 * order; a word holds 20 bits of its hash and the time, and is one of the 8 words of a line that
 * other bits choose.  Time is counted in pages evicted, in steps, of which 2048 are as long as a
 * name is remembered.  Who finds no room takes the place of the oldest.
 *
 * All of it is a guess that costs nothing but hits when it is wrong, so words are read and
 * written without a lock, relaxed: two names that come at once may leave one.  A folio is looked
 * for by its name of each order that there are names of: what was evicted as a large folio is
 * known again when a page of it is read, and a large folio by its first page.
 */
#include <sys/mman.h>

#include "cache/internal.h"

#define WAYS 8U
#define TIME_BITS 12
#define TIME_MASK ((1U << TIME_BITS) - 1)
#define STEPS 2048U /* less than half of what the bits can tell apart */

int iomap__ghost_create(struct iomap__cache *cache, uint64_t max_pages)
{
	struct iomap__ghosts *ghosts = &cache->ghosts;

	ghosts->max_lines = iomap__max(max_pages / WAYS, 1);
	ghosts->words = iomap__arena_reserve(cache,
					     ghosts->max_lines * WAYS * sizeof(*ghosts->words),
					     PROT_READ | PROT_WRITE);
	iomap__ghost_resized(cache);
	return ghosts->words ? 0 : -ENOMEM;
}

void iomap__ghost_resized(struct iomap__cache *cache)
{
	/* names that are on other lines now are as good as forgotten */
	atomic_store(&cache->ghosts.lines, iomap__max(atomic_load(&cache->nr_pages) / WAYS, 1));
}

void iomap__ghost_destroy(struct iomap__cache *cache)
{
	struct iomap__ghosts *ghosts = &cache->ghosts;

	iomap__arena_unreserve(ghosts->words, ghosts->max_lines * WAYS * sizeof(*ghosts->words));
	ghosts->words = NULL;
}

static uint64_t hash(const struct iomap_address_space *mapping, uint64_t index, unsigned order)
{
	uint64_t x = mapping->number * UINT64_C(0x9e3779b97f4a7c15) + (index << 4 | order);

	x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
	x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
	return x ^ (x >> 32);
}

static _Atomic uint32_t *line_of(const struct iomap__ghosts *ghosts, uint64_t name)
{
	uint64_t lines = atomic_load_explicit(&ghosts->lines, memory_order_relaxed);

	return &ghosts->words[((name >> 32) * lines >> 32) * WAYS];
}

/* Never 0, which is a word without a name. */
static uint32_t tag_of(uint64_t name)
{
	return (uint32_t)name << TIME_BITS ? (uint32_t)name << TIME_BITS : 1U << TIME_BITS;
}

/* Pages that are evicted while a name is remembered. */
static uint64_t remembered(const struct iomap__cache *cache)
{
	uint64_t pages = atomic_load_explicit(&cache->nr_pages, memory_order_relaxed);

	return pages - pages / 10;
}

/* Pages to a step. */
static uint64_t step_pages(const struct iomap__cache *cache)
{
	return remembered(cache) / STEPS + 1;
}

static uint32_t age(uint32_t word, uint32_t now)
{
	return (now - word) & TIME_MASK;
}

void iomap__ghost_add(struct iomap_address_space *mapping, uint64_t index, unsigned order)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	struct iomap__ghosts *ghosts = &cache->ghosts;
	uint64_t pages = atomic_fetch_add_explicit(&ghosts->pages, 1ULL << order,
						   memory_order_relaxed);
	uint32_t now = (uint32_t)(pages / step_pages(cache)), oldest = 0;
	uint64_t name = hash(mapping, index, order);
	_Atomic uint32_t *line = line_of(ghosts, name);
	unsigned to = 0;

	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t word = atomic_load_explicit(&line[i], memory_order_relaxed);

		if (!word || (word & ~TIME_MASK) == tag_of(name)) {
			to = i;
			break;
		}
		if (age(word, now) >= oldest) {
			oldest = age(word, now);
			to = i;
		}
	}
	atomic_store_explicit(&line[to], tag_of(name) | (now & TIME_MASK), memory_order_relaxed);
	if (!(atomic_load_explicit(&ghosts->orders, memory_order_relaxed) & 1U << order))
		atomic_fetch_or_explicit(&ghosts->orders, 1U << order, memory_order_relaxed);
}

/* A name is there, and not too old; it is taken off. */
static bool take_name(struct iomap__cache *cache, uint64_t name)
{
	struct iomap__ghosts *ghosts = &cache->ghosts;
	uint64_t pages = atomic_load_explicit(&ghosts->pages, memory_order_relaxed);
	uint32_t now = (uint32_t)(pages / step_pages(cache));
	uint32_t most = (uint32_t)(remembered(cache) / step_pages(cache));
	_Atomic uint32_t *line = line_of(ghosts, name);

	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t word = atomic_load_explicit(&line[i], memory_order_relaxed);

		if (!word || (word & ~TIME_MASK) != tag_of(name))
			continue;
		atomic_store_explicit(&line[i], 0, memory_order_relaxed);
		return age(word, now) <= most;
	}
	return false;
}

bool iomap__ghost_take(struct iomap_address_space *mapping, uint64_t index, unsigned order)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	uint32_t orders = atomic_load_explicit(&cache->ghosts.orders, memory_order_relaxed);
	bool known = false;

	for (unsigned o = 0; orders >> o; o++)
		if (orders >> o & 1)
			known |= take_name(cache, hash(mapping, o > order ? index >> o << o : index,
						       o));
	return known;
}
