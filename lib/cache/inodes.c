/* SPDX-License-Identifier: MIT */
/*
 * inodes.c - the engine's list of inodes, and the address space as an object.
 *
 * i_pins_nr counts uses by threads that found the inode on a list: the flusher and
 * iomap_sync_engine().  Unregistering takes it off both lists, so that no new pin comes, and
 * waits for those there are.
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
}

void iomap__inode_unregister(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;
	uint32_t pins;

	iomap__fetch_or(&inode->i_state, IOMAP__I_DYING);
	iomap__mutex_lock(&cache->inodes_lock);
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

struct iomap_inode *iomap__inode_next(struct iomap_engine *engine, struct iomap_inode *prev)
{
	struct iomap__cache *cache = engine->cache;
	struct iomap_list_head *at = &cache->inodes;
	struct iomap_inode *inode = NULL;

	iomap__mutex_lock(&cache->inodes_lock);
	if (prev) {
		at = &prev->i_engine_list;
		/* taken off while we had it pinned: the walk cannot go on from here */
		if (iomap__list_empty(at))
			at = cache->inodes.prev;
	}
	if (at->next != &cache->inodes) {
		inode = iomap__container_of(at->next, struct iomap_inode, i_engine_list);
		iomap__fetch_add(&inode->i_pins_nr, 1);
	}
	iomap__mutex_unlock(&cache->inodes_lock);
	if (prev && iomap__fetch_sub(&prev->i_pins_nr, 1) == 1)
		iomap__io_wake(engine->blk, &prev->i_pins_nr);
	return inode;
}
