/* SPDX-License-Identifier: MIT */
/*
 * direct_cache.c - the cache around a direct I/O.
 *
 * A read has what is dirty in its range written out first.  A write as well, and then drops the
 * range, before the data goes to the device and once more behind it.
 *
 * Why the cache is dropped twice.  Before the write, so that nothing dirty is written over it
 * later and a reader of the cache finds new bytes as soon as the device has them.  But while
 * the write goes on a reader may bring the range in again: with the device's old bytes, with
 * zeros, because it was unwritten or beyond i_size:
 *
 *	direct write			buffered read
 *	drop the range
 *					folio into the index, mapping sampled, old bytes read
 *	data on the device
 *	end_io: converted, i_size moved
 *	drop the range			copies old bytes, which is right: the write still runs
 *	return				reads the device again, by the new mapping and i_size
 *
 * The second drop waits for a folio that is being read, and one that it does not find was put
 * into the index after it: that read asks for mapping and i_size later still (truncate.c of
 * the cache has the argument).  So both have to be as they will be before it.
 *
 * Locks: none of its own; it waits for folio locks.
 */
#include "cache/cache.h"
#include "iomap/dio.h"

static bool dio_has_tag(struct iomap_address_space *mapping, const uint64_t *pages, int64_t start,
			int64_t end, enum iomap__tag tag)
{
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT;
	uint64_t last = ((uint64_t)end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
	struct iomap_folio *folio;

	if (!iomap__load_acquire(pages) ||
	    !iomap__filemap_get_tagged(mapping, &index, last, tag, &folio, 1))
		return false;
	iomap_folio_put(folio);
	return true;
}

static bool dio_is_dirty(struct iomap_address_space *mapping, int64_t start, int64_t end)
{
	/* in this order: DIRTY goes when WRITEBACK is there */
	return dio_has_tag(mapping, &mapping->nr_dirty_pages, start, end, IOMAP__TAG_DIRTY) ||
	       dio_has_tag(mapping, &mapping->nr_writeback_pages, start, end,
			   IOMAP__TAG_WRITEBACK);
}

int iomap__dio_write_out(struct iomap_inode *inode, int64_t start, int64_t end)
{
	struct iomap_address_space *mapping = &inode->i_data;
	uint32_t deferred = 0;
	int err;

	if (!dio_is_dirty(mapping, start, end))
		return 0;
	err = iomap__sync_write_once(mapping, start, end, &deferred);
	if (err)
		return err;
	return deferred ? -ENOTBLK : 0;
}

/* The same without a wait: -EAGAIN when there is something to be waited for. */
static int dio_settle_nowait(struct iomap__dio *dio, int64_t start, int64_t end)
{
	struct iomap_inode *inode = dio->iter.inode;
	uint64_t first = (uint64_t)start >> IOMAP_PAGE_SHIFT;
	uint64_t last = ((uint64_t)end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;

	if (dio_is_dirty(&inode->i_data, start, end))
		return -EAGAIN;
	if (!dio->write)
		return 0;
	iomap_invalidate_inode_pages(inode, start, end);
	return iomap__index_next(&inode->i_data, first, last) < last ? -EAGAIN : 0;
}

int iomap__dio_settle_cache(struct iomap__dio *dio, int64_t start, int64_t end)
{
	struct iomap_inode *inode = dio->iter.inode;
	int err;

	if (dio->iter.flags & IOMAP_NOWAIT)
		return dio_settle_nowait(dio, start, end);
	err = iomap__dio_write_out(inode, start, end);
	if (!err && dio->write && iomap__filemap_invalidate_range(&inode->i_data, start, end))
		err = -ENOTBLK;
	/* the cache cannot do it untorn, and may let go another time */
	return err == -ENOTBLK && dio->iter.flags & IOMAP_ATOMIC ? -EAGAIN : err;
}

void iomap__dio_drop_cache(struct iomap__dio *dio, int64_t start, int64_t end)
{
	struct iomap_inode *inode = dio->iter.inode;

	if (!iomap__filemap_invalidate_range(&inode->i_data, start, end))
		return;
	/* somebody writes through the cache beside us: one of the two is lost */
	iomap__log(&inode->i_engine->env, IOMAP_LOG_ERROR,
		   "inode %llu: cached data of bytes [%lld, %lld) got dirty during a direct write",
		   (unsigned long long)inode->i_ino, (long long)start, (long long)end);
	iomap_mapping_set_error(&inode->i_data, -EIO);
}
