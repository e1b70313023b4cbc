/* SPDX-License-Identifier: MIT */
/*
 * truncate.c - taking folios of a range out of the cache.
 *
 * Three degrees: truncation takes all of them, dirty or not; invalidation takes clean ones
 * and waits for what is going on with them, and forgets blocks of those that are dirty
 * elsewhere; iomap_invalidate_inode_pages() takes those that
 * nobody uses and waits for nothing.
 *
 * Nobody is kept from bringing new folios in behind the walk.  What these hold is as the
 * caller left the inode before it began: a read puts its folio into the index first and asks
 * for i_size and mappings then, and the walk looks for folios under tree_lock.  So either
 * the walk finds the folio and waits for its lock, or the read sees what was stored before
 * the walk: the caller moves i_size and changes mappings first.
 */
#include "cache/internal.h"

static void remove_locked(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	iomap__aops_invalidate(mapping, folio, 0, iomap__folio_bytes(folio));
	iomap__folio_cancel_dirty(folio);
	iomap__filemap_remove(mapping, folio);
}

/* What of a folio lies in [start, end), as bytes of the folio. */
static void folio_part(const struct iomap_folio *folio, uint64_t start, uint64_t end, size_t *off,
		       size_t *len)
{
	uint64_t first = (uint64_t)iomap_folio_pos(folio);
	uint64_t last = first + iomap__folio_bytes(folio);

	*off = (size_t)(iomap__max(start, first) - first);
	*len = (size_t)(iomap__min(end, last) - first) - *off;
}

/*
 * The part of a folio that lies in [start, end) becomes zero, and its blocks clean; its memory
 * is given back when nobody else uses the folio.  One that lies in the range as a whole goes.
 */
static void truncate_folio(struct iomap_address_space *mapping, struct iomap_folio *folio,
			   uint64_t start, uint64_t end)
{
	iomap_folio_lock(folio);
	if (iomap_folio_mapping(folio) == mapping) {
		size_t off, len;

		folio_part(folio, start, end, &off, &len);
		/* locked, so no new writeback starts behind this */
		iomap_folio_wait_writeback(folio);
		if (len == iomap__folio_bytes(folio)) {
			remove_locked(mapping, folio);
		} else {
			iomap__folio_fill_zero(folio, off, len);
			iomap__aops_invalidate(mapping, folio, off, len);
			if (folio->order)
				iomap__folio_split(mapping, folio, off, len);
		}
	}
	iomap_folio_unlock(folio);
}

void iomap__filemap_truncate_range(struct iomap_address_space *mapping, int64_t start, int64_t end)
{
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT, last = iomap__end_index(end);
	/* the last folio there can be ends behind the last position */
	uint64_t limit = end == INT64_MAX ? last << IOMAP_PAGE_SHIFT : (uint64_t)end;
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;

	if (start >= end || iomap__engine_forked(mapping->host->i_engine))
		return;
	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			truncate_folio(mapping, folios[i], (uint64_t)start, limit);
			iomap_folio_put(folios[i]);
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
}

void iomap__filemap_discard_dirty(struct iomap_address_space *mapping)
{
	struct iomap_folio *folios[IOMAP__BATCH];
	uint64_t index = 0;
	unsigned nr;

	/* those under writeback too: they may turn out to be dirty */
	(void)iomap__filemap_wait_range(mapping, 0, INT64_MAX);
	while ((nr = iomap__filemap_get_tagged(mapping, &index, UINT64_MAX >> IOMAP_PAGE_SHIFT,
					       IOMAP__TAG_DIRTY, folios, IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			iomap_folio_lock(folios[i]);
			iomap_folio_wait_writeback(folios[i]);
			if (iomap_folio_mapping(folios[i]) == mapping &&
			    iomap_folio_test_dirty(folios[i]))
				remove_locked(mapping, folios[i]);
			iomap_folio_unlock(folios[i]);
			iomap_folio_put(folios[i]);
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
}

/* False: some of the range is dirty, or the folio's owner will not let it go. */
static bool invalidate_folio(struct iomap_address_space *mapping, struct iomap_folio *folio,
			     uint64_t start, uint64_t end)
{
	bool gone = true;

	iomap_folio_lock(folio);
	if (iomap_folio_mapping(folio) == mapping) {
		iomap_folio_wait_writeback(folio);
		if (iomap_folio_test_dirty(folio)) {
			size_t off, len;

			folio_part(folio, start, end, &off, &len);
			gone = iomap__cache_of(mapping)->block_state->forget(folio, off, len);
		} else {
			gone = iomap__aops_release(mapping, folio);
			if (gone)
				iomap__filemap_remove(mapping, folio);
		}
	}
	iomap_folio_unlock(folio);
	return gone;
}

int iomap__filemap_invalidate_range(struct iomap_address_space *mapping, int64_t start,
				    int64_t end)
{
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT, last = iomap__end_index(end);
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;
	int err = 0;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			if (!invalidate_folio(mapping, folios[i], (uint64_t)start, (uint64_t)end))
				err = -EBUSY;
			iomap_folio_put(folios[i]);
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
	return err;
}

/* Clean folios that nobody uses, of pages [first, last); with @whole only those that lie in it. */
static uint64_t drop_pages(struct iomap_address_space *mapping, uint64_t first, uint64_t last,
			   bool whole)
{
	struct iomap_folio *folios[IOMAP__BATCH];
	uint64_t index = first, dropped = 0;
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			size_t bytes = iomap__folio_bytes(folios[i]);
			uint64_t at = iomap_folio_index(folios[i]);

			/* our reference would keep it; without one it is the eviction's to check */
			iomap_folio_put(folios[i]);
			if (whole && (at < first || at + (bytes >> IOMAP_PAGE_SHIFT) > last))
				continue;
			if (iomap__folio_evict_from(mapping, folios[i], 0))
				dropped += bytes;
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
	return dropped;
}

uint64_t iomap_invalidate_inode_pages(struct iomap_inode *inode, int64_t start, int64_t end)
{
	iomap__inode_check(inode);
	if (start < 0 || end <= start || iomap__engine_forked(inode->i_engine))
		return 0;
	return drop_pages(&inode->i_data, (uint64_t)start >> IOMAP_PAGE_SHIFT,
			  iomap__end_index(end), false);
}

void iomap__filemap_drop_whole(struct iomap_address_space *mapping, int64_t start, int64_t end)
{
	(void)drop_pages(mapping, iomap__end_index(start), (uint64_t)end >> IOMAP_PAGE_SHIFT, true);
}

uint64_t iomap_engine_drop_cache(struct iomap_engine *engine)
{
	struct iomap__inode_walk walk = { .engine = engine, .passes_frozen = true };
	struct iomap_inode *inode;
	uint64_t dropped = 0;

	if (iomap__engine_forked(engine))
		return 0;
	while ((inode = iomap__inode_walk_next(&walk)))
		dropped += iomap_invalidate_inode_pages(inode, 0, INT64_MAX);
	/* nodes as well: nobody may come by for long to reap what is left of them */
	iomap__index_reap(engine->cache, true);
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
	if (!any_referenced(mapping) && !iomap__load_acquire(&mapping->nr_removed))
		return false;
	/*
	 * Perhaps by a look-up in another address space, which found the folio when it was
	 * cached there: it gives its reference back before its read section ends.
	 */
	iomap__epoch_synchronize();
	return any_referenced(mapping) || iomap__load_acquire(&mapping->nr_removed);
}

void iomap__filemap_quiesce(struct iomap_address_space *mapping)
{
	/* strays, as above, of folios that the end of the inode has removed */
	while (iomap__load_acquire(&mapping->nr_removed))
		iomap__epoch_synchronize();
}
