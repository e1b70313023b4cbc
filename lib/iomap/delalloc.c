/* SPDX-License-Identifier: MIT */
/*
 * delalloc.c - giving back what a write has reserved and not used.
 *
 * A write reserves its whole range and may end before it.  From iomap_end the application asks
 * for the parts of a fresh reservation that hold nothing: blocks that are neither dirty nor being
 * written.  Each is handed to `punch`, which takes the reservation off the extent map.
 *
 * Others may be writing there: under a shared i_rwsem, by the reservation that they have found.
 * They lock a folio, ask iomap_valid, copy, and leave the block dirty.  So between the look at a
 * block and the end of `punch` nobody may get past the lock:
 *
 *	release				other writer
 *					iomap_begin: reserved
 *	folio locked, block clean
 *	punch: the map changes		waits for the lock
 *	unlock				lock, iomap_valid says no: iomap_begin again
 *
 * or it was first, and the block is dirty and stays reserved.  Where there is no folio to be
 * locked a bar keeps others from making one (cache/bar.c).
 *
 * Under writeback nobody knows which blocks are being written, only that they are uptodate; so
 * those stay reserved, and the rest of such a folio goes.
 *
 * Locks: invalidate_lock exclusively, which keeps write faults away; then the folio's.
 */
#include "block/block.h"
#include "iomap/ops.h"

struct release {
	struct iomap_inode *inode;
	struct iomap *iomap;
	iomap_punch_fn *punch;
};

static void release_area(const struct release *release, uint64_t start, uint64_t end)
{
	if (start < end)
		release->punch(release->inode, (int64_t)start, (int64_t)(end - start),
			       release->iomap);
}

/* The block at @off of the locked folio holds what is not on the device yet. */
static bool release_is_used(struct iomap_folio *folio, size_t off, size_t len)
{
	bool dirty = folio->ifs ? iomap__ifs_is_dirty(folio->ifs, off, len) :
				  iomap_folio_test_dirty(folio);

	return dirty || (iomap_folio_test_writeback(folio) &&
			 iomap_is_partially_uptodate(folio, off, len));
}

/* The part of a locked folio that lies in [start, end), whole blocks. */
static void release_blocks(const struct release *release, struct iomap_folio *folio,
			   uint64_t start, uint64_t end)
{
	uint64_t first = (uint64_t)iomap_folio_pos(folio), clean = start;
	size_t block = iomap_i_blocksize(release->inode);

	for (uint64_t pos = start; pos < end; pos += block)
		if (release_is_used(folio, (size_t)(pos - first), block)) {
			release_area(release, clean, pos);
			clean = pos + block;
		}
	release_area(release, clean, end);
}

/* Returns where to go on: behind the folio, or at @start when it is gone. */
static uint64_t release_folio(const struct release *release, struct iomap_folio *folio,
			      uint64_t start, uint64_t end)
{
	iomap_folio_lock(folio);
	if (iomap_folio_mapping(folio) == &release->inode->i_data) {
		end = iomap__min(end, (uint64_t)iomap_folio_pos(folio) +
					      iomap__folio_bytes(folio));
		release_blocks(release, folio, start, end);
	} else {
		end = start;
	}
	iomap_folio_unlock(folio);
	return end;
}

/* Go on from @start where nothing is cached.  Returns how far that was; @start: something is. */
static uint64_t release_gap(const struct release *release, uint64_t start, uint64_t end)
{
	struct iomap_address_space *mapping = &release->inode->i_data;
	struct iomap__bar bar = {
		.index = start >> IOMAP_PAGE_SHIFT,
		.end = (end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT,
	};

	if (!iomap__filemap_bar(mapping, &bar))
		return start;
	end = iomap__min(end, bar.end << IOMAP_PAGE_SHIFT);
	release_area(release, start, end);
	iomap__filemap_unbar(mapping);
	return end;
}

static void release_range(const struct release *release, uint64_t start, uint64_t end)
{
	while (start < end) {
		struct iomap_folio *folio = iomap__filemap_get(&release->inode->i_data,
							       start >> IOMAP_PAGE_SHIFT);

		if (folio) {
			start = release_folio(release, folio, start, end);
			iomap_folio_put(folio);
		} else {
			start = release_gap(release, start, end);
		}
	}
}

int iomap_write_delalloc_release(struct iomap_inode *inode, int64_t start, int64_t end,
				 unsigned flags, struct iomap *iomap, iomap_punch_fn *punch)
{
	struct release release = { .inode = inode, .iomap = iomap, .punch = punch };
	struct iomap_address_space *mapping = &inode->i_data;
	const bool held = flags & (IOMAP_ZERO | IOMAP_UNSHARE);
	uint64_t block = iomap_i_blocksize(inode), first, last;

	iomap__inode_check(inode);
	if (!punch || start < 0)
		return -EINVAL;
	if (iomap__engine_forked(inode->i_engine))
		return -ECHILD;
	if (start >= end || flags & IOMAP_FAULT || iomap->type != IOMAP_DELALLOC ||
	    !(iomap->flags & IOMAP_F_NEW))
		return 0;
	/* whole blocks, but none of a neighbour's */
	first = iomap__max(iomap__round_down((uint64_t)start, block), (uint64_t)iomap->offset);
	last = iomap__min(iomap__round_up((uint64_t)end, block), iomap__mapping_end(iomap));
	if (first >= last)
		return 0;
	if (held)
		iomap__assert_msg(iomap__witness_holds(&mapping->invalidate_lock),
				  "iomap_write_delalloc_release: without invalidate_lock");
	else
		iomap_filemap_invalidate_lock(mapping);
	release_range(&release, first, last);
	if (!held)
		iomap_filemap_invalidate_unlock(mapping);
	return 0;
}
