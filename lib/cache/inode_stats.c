/* SPDX-License-Identifier: MIT */
/*
 * inode_stats.c - counters of one inode, for those who ask.
 *
 * Few do, and there may be a hundred thousand inodes: the counters are made by the first
 * iomap_inode_stats() and freed with the inode.  What is slow anyway looks whether they are there.
 * A hit does not: its folio has IOMAP__FOLIO_COUNTED, one more among the flags that send a hit
 * out of the straight way.  No folio stays without:
 *
 *	iomap_inode_stats()		who puts a folio into the index
 *	inode_stats = the counters	insert, under tree_lock
 *	walk, under tree_lock: mark	inode_stats is set: mark
 *
 * Of the two holds of tree_lock one comes first: then either the walk finds the folio, or who
 * has inserted it sees the counters.
 *
 * Locks: tree_lock as above.  Two that ask first at once: one set of counters wins.
 */
#include "cache/internal.h"

static void stats_mark_folios(struct iomap_address_space *mapping)
{
	struct iomap_folio *folios[IOMAP__BATCH];
	uint64_t index = 0;
	unsigned nr;

	while ((nr = iomap__filemap_get_tagged(mapping, &index, UINT64_MAX >> IOMAP_PAGE_SHIFT,
					       IOMAP__TAGS, folios, IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			iomap__folio_set(folios[i], IOMAP__FOLIO_COUNTED);
			iomap_folio_put(folios[i]);
		}
}

static struct iomap__stats *stats_of(struct iomap_inode *inode)
{
	struct iomap_address_space *mapping = &inode->i_data;
	struct iomap__env *env = &inode->i_engine->env;
	/* acquire: pairs with the release below */
	void *there = iomap__load_acquire(&mapping->inode_stats);
	struct iomap__stats *stats;

	if (there)
		return there;
	stats = iomap__alloc_aligned(env, IOMAP__CACHE_LINE, sizeof(*stats));
	if (!stats)
		return NULL;
	memset(stats, 0, sizeof(*stats));
	if (!__atomic_compare_exchange_n(&mapping->inode_stats, &there, (void *)stats, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		iomap__free(env, stats, sizeof(*stats));
		return there;
	}
	stats_mark_folios(mapping);
	return stats;
}

int iomap_inode_stats(struct iomap_inode *inode, struct iomap_inode_stats *out, size_t size)
{
	const struct iomap_address_space *mapping = &inode->i_data;
	const struct iomap__stats *stats;
	struct iomap_inode_stats now;

	iomap__inode_check(inode);
	if (!out || !size)
		return -EINVAL;
	if (iomap__engine_forked(inode->i_engine))
		return -ECHILD;
	stats = stats_of(inode);
	if (!stats)
		return -ENOMEM;
	now = (struct iomap_inode_stats){
		.cached_bytes = iomap__load(&mapping->nrpages) << IOMAP_PAGE_SHIFT,
		.dirty_bytes = iomap__load(&mapping->nr_dirty_pages) << IOMAP_PAGE_SHIFT,
		.writeback_bytes = iomap__load(&mapping->nr_writeback_pages) << IOMAP_PAGE_SHIFT,
		.hits_nr = iomap__stat_sum(stats, IOMAP__ISTAT_HITS),
		.misses_nr = iomap__stat_sum(stats, IOMAP__ISTAT_MISSES),
		.readahead_bytes = iomap__stat_sum(stats, IOMAP__ISTAT_RA_BYTES),
		.readahead_used_bytes = iomap__stat_sum(stats, IOMAP__ISTAT_RA_USED),
		.readahead_wasted_bytes = iomap__stat_sum(stats, IOMAP__ISTAT_RA_WASTED),
		.evictions_nr = iomap__stat_sum(stats, IOMAP__ISTAT_EVICTIONS),
		.ioends_nr = iomap__stat_sum(stats, IOMAP__ISTAT_IOENDS),
		.ioend_bytes = iomap__stat_sum(stats, IOMAP__ISTAT_IOEND_BYTES),
	};
	if (size > sizeof(now))
		memset((char *)out + sizeof(now), 0, size - sizeof(now));
	memcpy(out, &now, iomap__min(size, sizeof(now)));
	return 0;
}

void iomap__folio_counted_hit(struct iomap_address_space *mapping)
{
	iomap__mapping_count(mapping, IOMAP__ISTAT_HITS, 1);
}

void iomap__inode_stats_free(struct iomap_inode *inode)
{
	iomap__free(&inode->i_engine->env, inode->i_data.inode_stats, sizeof(struct iomap__stats));
	inode->i_data.inode_stats = NULL;
}
