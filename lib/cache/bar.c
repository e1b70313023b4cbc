/* SPDX-License-Identifier: MIT */
/*
 * bar.c - keeping folios out of pages that are not cached.
 *
 * Who decides by what is cached, and acts by that, holds the folio's lock meanwhile.  Where there
 * is no folio a bar stands in for the lock: until it is lifted nobody puts a folio there, so
 * nobody begins to write there.
 *
 *	bar set				insert finds it: the folio is not put into the index
 *	look: is something cached?	readahead, and who must not wait, goes without
 *	act				others sleep on i_bar_seq
 *	bar lifted, i_bar_seq moves	and look again
 *
 * The bar is set before the look, and inserts look at it under tree_lock, so a folio is found or
 * kept out.
 *
 * Locks: invalidate_lock, exclusively, makes it the only one of an address space; tree_lock
 * guards i_bar and what it points to.  Who sleeps may hold folio locks, so the one who has
 * set it waits for none before it is lifted.
 */
#include "cache/internal.h"

bool iomap__filemap_bar(struct iomap_address_space *mapping, struct iomap__bar *bar)
{
	uint64_t next;

	iomap__tree_lock(mapping);
	iomap__assert(!mapping->host->i_bar);
	mapping->host->i_bar = bar;
	iomap__tree_unlock(mapping);
	next = iomap__index_next(mapping, bar->index, bar->end);
	/* or inside of one that begins before */
	if (next == bar->index ||
	    iomap__index_gap(mapping, bar->index, bar->end) != bar->index) {
		iomap__filemap_unbar(mapping);
		return false;
	}
	iomap__tree_lock(mapping);
	bar->end = next;
	iomap__tree_unlock(mapping);
	return true;
}

void iomap__filemap_unbar(struct iomap_address_space *mapping)
{
	iomap__tree_lock(mapping);
	mapping->host->i_bar = NULL;
	iomap__fetch_add(&mapping->host->i_bar_seq, 1);
	iomap__tree_unlock(mapping);
	iomap__io_wake(iomap__cache_blk(iomap__cache_of(mapping)), &mapping->host->i_bar_seq);
}

void iomap__filemap_wait_bar(struct iomap_address_space *mapping, uint64_t index)
{
	bool barred;

	do {
		uint32_t seq;

		iomap__tree_lock(mapping);
		seq = iomap__load(&mapping->host->i_bar_seq);
		barred = iomap__is_barred(mapping, index, index + 1);
		iomap__tree_unlock(mapping);
		if (barred)
			iomap__io_wait(iomap__cache_blk(iomap__cache_of(mapping)),
				       &mapping->host->i_bar_seq, seq);
	} while (barred);
}
