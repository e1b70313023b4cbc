/* SPDX-License-Identifier: MIT */
/*
 * inodes.c - the engine's list of inodes, and the address space as an object.
 *
 * i_pins_nr counts uses by threads that found the inode on a list: the flusher and
 * iomap_sync_engine().  Unregistering takes it off both lists, so that no new pin comes, and
 * waits for those there are.
 *
 * A walk remembers the inode that comes next, not the one it has; an inode that goes moves
 * every walk that was about to come to it on to the one behind.
 */
#include "cache/internal.h"

void iomap__mapping_init(struct iomap_address_space *mapping, struct iomap_inode *inode,
			 const struct iomap_address_space_operations *a_ops)
{
	memset(mapping, 0, sizeof(*mapping));
	mapping->host = inode;
	mapping->a_ops = a_ops;
	iomap__rwsem_init(&mapping->invalidate_lock, IOMAP__RANK_INVALIDATE, inode->i_class);
}

void iomap__inode_register(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;

	iomap__list_init(&inode->i_dirty_list);
	iomap__mutex_lock(&cache->inodes_lock);
	iomap__list_add_tail(&inode->i_engine_list, &cache->inodes);
	iomap__mutex_unlock(&cache->inodes_lock);
	/* it has been here before, and could not be destroyed after all */
	if (iomap__load_acquire(&inode->i_data.nr_dirty_pages))
		iomap__inode_put_dirty(inode);
}

void iomap__inode_unregister(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;
	uint32_t pins;

	iomap__fetch_or(&inode->i_state, IOMAP__I_DYING);
	iomap__mutex_lock(&cache->inodes_lock);
	for (struct iomap__inode_walk *walk = cache->walks; walk; walk = walk->others)
		if (walk->next == &inode->i_engine_list)
			walk->next = inode->i_engine_list.next;
	iomap__list_del(&inode->i_engine_list);
	iomap__mutex_unlock(&cache->inodes_lock);
	iomap__mutex_lock(&cache->dirty_lock);
	iomap__list_del(&inode->i_dirty_list);
	iomap__fetch_and(&inode->i_state, ~IOMAP__I_DIRTY_LISTED);
	iomap__mutex_unlock(&cache->dirty_lock);
	while ((pins = iomap__load_acquire(&inode->i_pins_nr)))
		iomap__io_wait(inode->i_engine->blk, &inode->i_pins_nr, pins);
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

struct iomap_inode *iomap__inode_walk_next(struct iomap__inode_walk *walk)
{
	struct iomap_engine *engine = walk->engine;
	struct iomap__cache *cache = engine->cache;
	struct iomap_inode *prev = walk->inode;

	iomap__mutex_lock(&cache->inodes_lock);
	if (!walk->started) {
		walk->started = true;
		walk->next = cache->inodes.next;
		walk->others = cache->walks;
		cache->walks = walk;
	}
	walk->inode = NULL;
	if (walk->next == &cache->inodes) {
		walk_end(cache, walk);
	} else {
		walk->inode = iomap__container_of(walk->next, struct iomap_inode, i_engine_list);
		iomap__fetch_add(&walk->inode->i_pins_nr, 1);
		walk->next = walk->next->next;
	}
	iomap__mutex_unlock(&cache->inodes_lock);
	if (prev)
		iomap__inode_unpin(prev);
	return walk->inode;
}
