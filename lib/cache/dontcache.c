/* SPDX-License-Identifier: MIT */
/*
 * dontcache.c - folios that a call with DONTCACHE has brought into the cache, and that go again.
 *
 * Such a folio is marked when it is put into the index (IOMAP__FOLIO_DONTCACHE).  Any use by a
 * call without DONTCACHE takes the mark off, and then it stays, as does what was cached before;
 * two such calls that use it at once do not keep it for each other.  One that has been read goes
 * when the read has copied from it; one that has been written when its writeback has ended, in
 * the completion.
 *
 *	made, marked -> read -> dropped by the reader
 *	made, marked -> dirty -> written out, by the writer -> dropped by the completion
 *	made, marked -> used by another call: an ordinary folio
 *
 * Dropping is eviction, which needs the folio unlocked and nobody's but the index's.  Who goes
 * over dirty or written folios holds references for a moment, so it tries once more when it
 * gives them back:
 *
 *	completion				walker
 *	WRITEBACK cleared
 *	drop: fails if the reference is there
 *						reference put
 *						drop, if not under writeback
 *
 * Whichever comes second finds it free.  One that both try at once, or somebody else uses just
 * then, stays with its mark; nobody has used it (ACCESSED), so reclaim takes it before others.
 *
 * A writer sends what it has written each time it comes over a boundary of BEHIND_BYTES, and at
 * its end, so that a long call has little in the cache at any time.  It waits for nothing there;
 * what throttles it is what throttles all writers.
 *
 * Locks: none of its own; eviction only tries the folio's.
 */
#include "cache/internal.h"

/* Power of two: I/O of this size is as good as a longer one. */
#define BEHIND_BYTES ((uint64_t)256 << 10)

void iomap__folio_drop_behind(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	/* a quick look: it may be another's by now, and is looked at again under its lock */
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed);

	if (flags & IOMAP__FOLIO_DONTCACHE &&
	    !(flags & (IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_WRITEBACK)))
		(void)iomap__folio_evict_from(mapping, folio, IOMAP__FOLIO_DONTCACHE);
}

void iomap__folio_put_behind(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	bool marked = iomap__folio_test(folio, IOMAP__FOLIO_DONTCACHE);

	iomap_folio_put(folio);
	if (iomap__unlikely(marked))
		iomap__folio_drop_behind(mapping, folio);
}

void iomap__filemap_drop_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
				bool whole)
{
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT, last = iomap__end_index(end);
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAGS, folios,
					       IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			uint64_t folio_end = (uint64_t)iomap_folio_pos(folios[i]) +
					     iomap__folio_bytes(folios[i]);

			if (whole && folio_end > (uint64_t)end)
				iomap_folio_put(folios[i]);
			else
				iomap__folio_put_behind(mapping, folios[i]);
		}
	iomap__index_reap(iomap__cache_of(mapping), false);
}

static void write_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
			 unsigned how)
{
	/* its error is in wb_err, for fsync */
	if (how & IOMAP_NOWAIT)
		iomap__flusher_resume(mapping->host);
	else
		(void)iomap__filemap_write_range(mapping, start, end, IOMAP_WB_SYNC_NONE, NULL);
}

void iomap__filemap_wrote_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
				 unsigned how)
{
	uint64_t last = iomap__round_down((uint64_t)end, BEHIND_BYTES);

	if ((uint64_t)start < last)
		write_behind(mapping, (int64_t)iomap__round_down((uint64_t)start, BEHIND_BYTES),
			     (int64_t)last, how);
}

void iomap__filemap_end_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
			       unsigned how)
{
	start = iomap__max(start, (int64_t)iomap__round_down((uint64_t)end, BEHIND_BYTES));
	if (start < end)
		write_behind(mapping, start, end, how);
	/* what did not get as far as to be dirty, and the folio that the call failed in */
	iomap__filemap_drop_behind(mapping, start, iomap__min(end, INT64_MAX - 1) + 1, false);
}
