/* SPDX-License-Identifier: MIT */
/*
 * dump.c - what the cache is doing, for iomap_engine_dump().
 *
 * A walk over all inodes and all of their folios, with a reference to each in turn: so a dump may
 * keep a folio from being evicted for a moment, and shows up as a pin in another one.  It takes
 * tree_lock for a batch of folios at a time, waits for no folio's lock, and passes by inodes that
 * are being destroyed, which may take as long as a device does.
 */
#include "cache/internal.h"

#define DUMP_FOLIOS_MAX 64U /* lines for one inode */

struct dump {
	struct iomap__lines *lines;
	const struct iomap_inode *inode;
	unsigned nr; /* folios of the inode that there is something to say of */
};

/* Somebody has a reference besides the index, writeback and us. */
static bool dump_is_pinned(const struct iomap_folio *folio, uint32_t flags)
{
	uint32_t own = 2 + !!(flags & IOMAP__FOLIO_WRITEBACK);

	return atomic_load_explicit(&folio->refs, memory_order_relaxed) > own;
}

static void dump_folio(struct dump *dump, const struct iomap_folio *folio)
{
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	bool locked = iomap_folio_test_locked(folio), pinned = dump_is_pinned(folio, flags);

	if (!locked && !pinned && !(flags & IOMAP__FOLIO_HELD_BACK))
		return;
	if (dump->nr++ >= DUMP_FOLIOS_MAX)
		return;
	iomap__lines_add(dump->lines, "inode %llu: folio of %zu bytes at %lld:%s%s%s%s%s%s",
			 (unsigned long long)dump->inode->i_ino, iomap__folio_bytes(folio),
			 (long long)iomap_folio_pos(folio), locked ? " locked" : "",
			 pinned ? " pinned" : "",
			 flags & IOMAP__FOLIO_HELD_BACK ? " held back" : "",
			 flags & IOMAP__FOLIO_DIRTY ? " dirty" : "",
			 flags & IOMAP__FOLIO_WRITEBACK ? " writeback" : "",
			 flags & IOMAP__FOLIO_UPTODATE ? " uptodate" : "");
}

static void dump_folios(struct dump *dump, struct iomap_address_space *mapping)
{
	struct iomap_folio *folios[IOMAP__BATCH];
	uint64_t index = 0;
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, UINT64_MAX >> IOMAP_PAGE_SHIFT,
					       IOMAP__TAGS, folios, IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			dump_folio(dump, folios[i]);
			iomap_folio_put(folios[i]);
		}
	if (dump->nr > DUMP_FOLIOS_MAX)
		iomap__lines_add(dump->lines, "inode %llu: and %u folios more",
				 (unsigned long long)dump->inode->i_ino,
				 dump->nr - DUMP_FOLIOS_MAX);
}

/* An inode at rest is not worth a line. */
static void dump_inode(struct iomap_inode *inode, struct iomap__lines *lines)
{
	struct dump dump = { .lines = lines, .inode = inode };
	struct iomap_address_space *mapping = &inode->i_data;
	uint64_t dirty = iomap__load(&mapping->nr_dirty_pages);
	uint64_t writeback = iomap__load(&mapping->nr_writeback_pages);
	uint32_t dio = iomap__load(&inode->i_dio_count);
	bool deferred = iomap__load(&inode->i_state) & IOMAP__I_DEFERRED;

	if (dirty || writeback || dio || deferred)
		iomap__lines_add(lines,
				 "inode %llu: %llu pages dirty, %llu under writeback, %u direct I/Os%s",
				 (unsigned long long)inode->i_ino, (unsigned long long)dirty,
				 (unsigned long long)writeback, dio,
				 deferred ? ", data deferred" : "");
	dump_folios(&dump, mapping);
}

void iomap__cache_dump(struct iomap_engine *engine, struct iomap__lines *lines)
{
	struct iomap__inode_walk walk = { .engine = engine, .passes_frozen = true };
	struct iomap_engine_stats stats = { 0 };
	struct iomap_inode *inode;

	iomap__cache_stats(engine, &stats);
	iomap__lines_add(lines,
			 "cache: %llu of %llu bytes used, %llu dirty, %llu under writeback; %llu "
			 "hits, %llu misses, %llu evictions",
			 (unsigned long long)stats.cached_bytes,
			 (unsigned long long)stats.cache_bytes,
			 (unsigned long long)stats.dirty_bytes,
			 (unsigned long long)stats.writeback_bytes,
			 (unsigned long long)stats.hits_nr, (unsigned long long)stats.misses_nr,
			 (unsigned long long)stats.evictions_nr);
	while ((inode = iomap__inode_walk_next(&walk)))
		dump_inode(inode, lines);
	if (walk.frozen_nr)
		iomap__lines_add(lines, "%u inodes are being destroyed", walk.frozen_nr);
}
