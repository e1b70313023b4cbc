/* SPDX-License-Identifier: MIT */
/*
 * inodes.c - the engine's list of inodes, and the address space as an object.
 *
 * Destroying takes two steps.  Freezing (IOMAP__I_DYING) lets no new pin come and waits for
 * those there are; the inode then either leaves the list of inodes, or thaws and is what it
 * was.  It stays on the list meanwhile: a walk that comes to it waits for the answer, or
 * iomap_sync_engine() would pass by an inode that turns out to live on, with dirty data:
 *
 *	iomap_inode_destroy()		iomap_sync_engine()
 *	freeze
 *					the next inode is dying: wait
 *	a folio is referenced: thaw
 *					pin it and write its data
 *
 * A walk holds no pin while it waits, so it keeps nobody from being destroyed.  It remembers
 * the inode that comes next, not the one it has; an inode that goes moves every walk that was
 * about to come to it on to the one behind.
 */
#include "cache/internal.h"

void iomap__mapping_init(struct iomap_address_space *mapping, struct iomap_inode *inode,
			 const struct iomap_address_space_operations *a_ops)
{
	memset(mapping, 0, sizeof(*mapping));
	mapping->host = inode;
	mapping->a_ops = a_ops;
	if (inode->i_blkbits > IOMAP_PAGE_SHIFT)
		mapping->min_order = inode->i_blkbits - IOMAP_PAGE_SHIFT;
	mapping->max_order = mapping->min_order;
	iomap__rwsem_init(&mapping->invalidate_lock, IOMAP__RANK_INVALIDATE, inode->i_class);
}

int iomap_mapping_set_folio_order_range(struct iomap_address_space *mapping, unsigned min_order,
					unsigned max_order)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	unsigned blkbits = mapping->host->i_blkbits;
	bool fits;

	if (iomap__engine_forked(mapping->host->i_engine))
		return -ECHILD;
	if (min_order > max_order || min_order + IOMAP_PAGE_SHIFT < blkbits)
		return -EINVAL;
	/* look-ups, readahead and writes count on what they have found */
	if (iomap__load_acquire(&mapping->nrpages))
		return -EBUSY;
	/* or the cache would shrink meanwhile */
	iomap__mutex_lock(&cache->inodes_lock);
	fits = max_order <= atomic_load(&cache->max_order) &&
	       iomap__order_fits(cache, min_order, cache->target_pages);
	if (fits) {
		mapping->min_order = (uint8_t)min_order;
		mapping->max_order = (uint8_t)max_order;
	}
	iomap__mutex_unlock(&cache->inodes_lock);
	return fits ? 0 : -EINVAL;
}

int iomap_mapping_set_large_folios(struct iomap_address_space *mapping)
{
	unsigned order;

	if (iomap__engine_forked(mapping->host->i_engine))
		return -ECHILD;
	order = atomic_load(&iomap__cache_of(mapping)->max_order);
	return iomap_mapping_set_folio_order_range(mapping, mapping->min_order, order);
}

int iomap_mapping_set_stable_writes(struct iomap_address_space *mapping)
{
	if (iomap__engine_forked(mapping->host->i_engine))
		return -ECHILD;
	if (iomap__load_acquire(&mapping->nrpages))
		return -EBUSY;
	iomap__store(&mapping->stable_writes, 1);
	return 0;
}

/* inodes_lock held: it comes or goes.  Metadata has a share of the cache, where there is some. */
static void count_metadata(struct iomap__cache *cache, const struct iomap_inode *inode, int one)
{
	bool had = cache->nr_metadata;

	if (!inode->i_class)
		return;
	cache->nr_metadata += (uint64_t)(int64_t)one;
	if (had != (cache->nr_metadata != 0))
		iomap__cache_set_limits(cache, cache->target_pages);
}

int iomap__inode_register(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;
	bool fits;

	iomap__mutex_lock(&cache->inodes_lock);
	fits = iomap__order_fits(cache, inode->i_data.min_order, cache->target_pages);
	if (fits) {
		iomap__list_add_tail(&inode->i_engine_list, &cache->inodes);
		inode->i_data.number = ++cache->last_mapping;
		count_metadata(cache, inode, 1);
	}
	iomap__mutex_unlock(&cache->inodes_lock);
	return fits ? 0 : -EINVAL;
}

void iomap__inode_freeze(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;
	uint32_t pins;

	iomap__mutex_lock(&cache->inodes_lock);
	iomap__fetch_or(&inode->i_state, IOMAP__I_DYING);
	iomap__mutex_unlock(&cache->inodes_lock);
	iomap__inode_leave_dirty(inode);
	while ((pins = iomap__load_acquire(&inode->i_pins_nr)))
		iomap__io_wait(inode->i_engine->blk, &inode->i_pins_nr, pins);
}

/* Walks look again. */
static void walks_wake(struct iomap__cache *cache)
{
	iomap__fetch_add(&cache->frozen_seq, 1);
	iomap__io_wake(iomap__cache_blk(cache), &cache->frozen_seq);
}

void iomap__inode_thaw(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;

	/* first, so that a walk which goes on finds the inode as the flusher does */
	iomap__mutex_lock(&cache->inodes_lock);
	iomap__fetch_and(&inode->i_state, ~IOMAP__I_DYING);
	iomap__mutex_unlock(&cache->inodes_lock);
	iomap__inode_rejoin_dirty(inode);
	walks_wake(cache);
}

void iomap__inode_unregister(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;

	iomap__mutex_lock(&cache->inodes_lock);
	for (struct iomap__inode_walk *walk = cache->walks; walk; walk = walk->others)
		if (walk->next == &inode->i_engine_list)
			walk->next = inode->i_engine_list.next;
	iomap__list_del(&inode->i_engine_list);
	count_metadata(cache, inode, -1);
	iomap__mutex_unlock(&cache->inodes_lock);
	walks_wake(cache);
}

bool iomap__cache_has_inodes(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;
	bool any;

	iomap__mutex_lock(&cache->inodes_lock);
	any = !iomap__list_empty(&cache->inodes);
	iomap__mutex_unlock(&cache->inodes_lock);
	return any;
}

void iomap__inode_unpin(struct iomap_inode *inode)
{
	struct iomap__blk *blk = inode->i_engine->blk;

	/* the last pin lets the inode go: only its address is used after this, as a key */
	if (iomap__fetch_sub(&inode->i_pins_nr, 1) == 1)
		iomap__io_wake(blk, &inode->i_pins_nr);
}

static void walk_end(struct iomap__cache *cache, struct iomap__inode_walk *walk)
{
	struct iomap__inode_walk **at = &cache->walks;

	while (*at != walk)
		at = &(*at)->others;
	*at = walk->others;
}

/* The one that comes next. */
static struct iomap_inode *walk_inode(const struct iomap__inode_walk *walk)
{
	return iomap__container_of(walk->next, struct iomap_inode, i_engine_list);
}

/*
 * inodes_lock held: go to the next inode, pinned, or to the end.  False: it is frozen, and
 * *seq is what to wait on.
 */
static bool walk_step(struct iomap__cache *cache, struct iomap__inode_walk *walk, uint32_t *seq)
{
	struct iomap_inode *inode;

	if (!walk->started) {
		walk->started = true;
		walk->next = cache->inodes.next;
		walk->others = cache->walks;
		cache->walks = walk;
	}
	while (walk->passes_frozen && walk->next != &cache->inodes &&
	       iomap__load(&walk_inode(walk)->i_state) & IOMAP__I_DYING) {
		walk->next = walk->next->next;
		walk->frozen_nr++;
	}
	if (walk->next == &cache->inodes) {
		walk_end(cache, walk);
		return true;
	}
	inode = walk_inode(walk);
	/* before the state: what moves it on comes after what changes that */
	*seq = iomap__load_acquire(&cache->frozen_seq);
	if (iomap__load(&inode->i_state) & IOMAP__I_DYING)
		return false;
	iomap__inode_pin(inode);
	walk->next = walk->next->next;
	walk->inode = inode;
	return true;
}

struct iomap_inode *iomap__inode_walk_next(struct iomap__inode_walk *walk)
{
	struct iomap_engine *engine = walk->engine;
	struct iomap__cache *cache = engine->cache;
	uint32_t seq = 0;
	bool there;

	if (walk->inode)
		iomap__inode_unpin(walk->inode);
	walk->inode = NULL;
	for (;;) {
		iomap__mutex_lock(&cache->inodes_lock);
		there = walk_step(cache, walk, &seq);
		iomap__mutex_unlock(&cache->inodes_lock);
		if (there)
			return walk->inode;
		iomap__io_wait(engine->blk, &cache->frozen_seq, seq);
	}
}
