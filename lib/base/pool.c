/* SPDX-License-Identifier: MIT */
/*
 * pool.c - free lists of equal objects, cut from slabs.
 *
 * States of an object: free (linked through its first word) -> in use -> free.  Slabs are
 * given back when the pool ends, never before, so a pool keeps what its busiest moment
 * needed.  In debug builds the rest of a free object is filled with a pattern, which is
 * checked when the object goes out again: a write after put is found.  Under AddressSanitizer
 * a read is found too, but for the first POOL_HEAD_BYTES: there stands what tells objects that
 * are alive from those that are not (struct iomap_file, struct iomap_bdev).
 *
 * Lock: the pool's own (IOMAP__RANK_POOL), a leaf; slabs are allocated without it.
 */
#include "base/base.h"

#if IOMAP__ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(addr, bytes) ((void)(addr), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(addr, bytes) ((void)(addr), (void)(bytes))
#endif

#define POOL_SLAB_BYTES 16384U
#define POOL_SLAB_OBJECTS_MIN 4U
#define POOL_SLAB_OBJECTS_MAX 64U
#define POOL_HEAD_BYTES 16U

struct pool_slab {
	_Alignas(IOMAP__CACHE_LINE) struct pool_slab *next;
	size_t bytes;
};

struct pool_free {
	struct pool_free *next;
};

static void pool_poison(struct iomap__pool *pool, struct pool_free *object)
{
	if (IOMAP_DEBUG)
		memset(object + 1, IOMAP__POISON, pool->object_bytes - sizeof(*object));
	ASAN_POISON_MEMORY_REGION((char *)object + POOL_HEAD_BYTES,
				  pool->object_bytes - POOL_HEAD_BYTES);
}

static void pool_check_poison(struct iomap__pool *pool, struct pool_free *object)
{
	const unsigned char *byte = (const unsigned char *)(object + 1);
	size_t i;

	ASAN_UNPOISON_MEMORY_REGION(object, pool->object_bytes);
	if (!IOMAP_DEBUG)
		return;
	for (i = 0; i < pool->object_bytes - sizeof(*object); i++)
		iomap__assert_msg(byte[i] == IOMAP__POISON,
				  "object %p was written to after it was freed, at byte %zu",
				  (void *)object, i + sizeof(*object));
}

/* lock held, or nobody else knows the pool */
static void pool_push(struct iomap__pool *pool, struct pool_free *object)
{
	object->next = pool->free;
	pool->free = object;
	pool->nr_free++;
}

static int pool_grow(struct iomap__pool *pool, uint32_t nr)
{
	size_t bytes = sizeof(struct pool_slab) + pool->object_bytes * nr;
	struct pool_slab *slab;
	struct pool_free *object;
	uint32_t i;

	slab = iomap__alloc_aligned(pool->env, IOMAP__CACHE_LINE, bytes);
	if (!slab)
		return -ENOMEM;
	slab->bytes = bytes;
	for (i = 0; i < nr; i++) {
		object = (void *)((char *)(slab + 1) + i * pool->object_bytes);
		pool_poison(pool, object);
	}
	iomap__mutex_lock(&pool->lock);
	slab->next = pool->slabs;
	pool->slabs = slab;
	pool->nr_total += nr;
	while (i-- > 0) {
		object = (void *)((char *)(slab + 1) + i * pool->object_bytes);
		pool_push(pool, object);
	}
	iomap__mutex_unlock(&pool->lock);
	return 0;
}

int iomap__pool_init(struct iomap__pool *pool, struct iomap__env *env, size_t object_bytes,
		     unsigned nr_reserved)
{
	memset(pool, 0, sizeof(*pool));
	pool->env = env;
	pool->object_bytes = iomap__round_up(iomap__max(object_bytes, sizeof(struct pool_free)),
					     IOMAP__CACHE_LINE);
	pool->slab_objects = (uint32_t)iomap__min(
		iomap__max(POOL_SLAB_BYTES / pool->object_bytes, POOL_SLAB_OBJECTS_MIN),
		POOL_SLAB_OBJECTS_MAX);
	iomap__mutex_init(&pool->lock, IOMAP__RANK_POOL);
	return nr_reserved ? pool_grow(pool, nr_reserved) : 0;
}

void iomap__pool_exit(struct iomap__pool *pool)
{
	struct pool_slab *slab;

	iomap__assert_msg(pool->nr_free == pool->nr_total, "%llu objects are still in use",
			  (unsigned long long)(pool->nr_total - pool->nr_free));
	while ((slab = pool->slabs)) {
		pool->slabs = slab->next;
		ASAN_UNPOISON_MEMORY_REGION(slab, slab->bytes);
		iomap__free(pool->env, slab, slab->bytes);
	}
	pool->free = NULL;
	pool->nr_free = pool->nr_total = 0;
}

void *iomap__pool_get(struct iomap__pool *pool)
{
	return iomap__pool_get_but(pool, 0);
}

void *iomap__pool_get_but(struct iomap__pool *pool, uint64_t keep)
{
	struct pool_free *object;

	iomap__count(allocs_nr);
	if (iomap__fails(pool->env, IOMAP_FAIL_POOL))
		return NULL;
	for (;;) {
		iomap__mutex_lock(&pool->lock);
		object = pool->nr_free > keep ? pool->free : NULL;
		if (object) {
			pool->free = object->next;
			pool->nr_free--;
		}
		iomap__mutex_unlock(&pool->lock);
		if (object)
			break;
		/* Another thread may empty the new slab first: then there is one more. */
		if (pool_grow(pool, pool->slab_objects) != 0)
			return NULL;
	}
	pool_check_poison(pool, object);
	return object;
}

void iomap__pool_put(struct iomap__pool *pool, void *object)
{
	pool_poison(pool, object);
	iomap__mutex_lock(&pool->lock);
	pool_push(pool, object);
	iomap__mutex_unlock(&pool->lock);
}
