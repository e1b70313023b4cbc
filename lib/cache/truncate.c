/* SPDX-License-Identifier: MIT */
/*
 * truncate.c - taking folios of a range out of the cache.
 */
#include "cache/internal.h"

static uint64_t end_index(int64_t end)
{
	return ((uint64_t)end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
}

static void remove_folio(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	iomap_folio_lock(folio);
	if (iomap_folio_mapping(folio) == mapping) {
		/* locked, so no new writeback starts behind this */
		iomap_folio_wait_writeback(folio);
		iomap__aops_invalidate(mapping, folio, 0, iomap__folio_bytes(folio));
		iomap__folio_cancel_dirty(folio);
		iomap__filemap_remove(mapping, folio);
	}
	iomap_folio_unlock(folio);
}

void iomap__filemap_remove_range(struct iomap_address_space *mapping, int64_t start, int64_t end)
{
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT, last = end_index(end);
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			remove_folio(mapping, folios[i]);
			iomap_folio_put(folios[i]);
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
}

uint64_t iomap_invalidate_inode_pages(struct iomap_inode *inode, int64_t start, int64_t end)
{
	struct iomap_address_space *mapping = &inode->i_data;
	uint64_t index, last, dropped = 0;
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;

	if (start < 0 || end <= start)
		return 0;
	index = (uint64_t)start >> IOMAP_PAGE_SHIFT;
	last = end_index(end);
	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			size_t bytes = iomap__folio_bytes(folios[i]);

			/* our reference would keep it; without one it is the eviction's to check */
			iomap_folio_put(folios[i]);
			if (iomap__folio_evict_from(mapping, folios[i]))
				dropped += bytes;
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
	return dropped;
}

static bool any_referenced(struct iomap_address_space *mapping)
{
	uint64_t index = 0;
	struct iomap_folio *folios[IOMAP__BATCH];
	bool referenced = false;
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, UINT64_MAX >> IOMAP_PAGE_SHIFT,
					       IOMAP__TAGS, folios, IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			uint32_t refs = atomic_load_explicit(&folios[i]->refs,
							     memory_order_relaxed);
			/* the index's, ours, and writeback's */
			uint32_t own = 2 + iomap_folio_test_writeback(folios[i]);

			referenced |= refs > own;
			iomap_folio_put(folios[i]);
		}
	return referenced;
}

bool iomap__filemap_referenced(struct iomap_address_space *mapping)
{
	if (!any_referenced(mapping))
		return false;
	/*
	 * Perhaps by a look-up in another address space, which found the folio when it was
	 * cached there: it gives its reference back before its read section ends.
	 */
	iomap__epoch_synchronize();
	return any_referenced(mapping);
}
