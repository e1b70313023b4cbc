/* SPDX-License-Identifier: MIT */
/*
 * truncate.c - moving the end of a file.
 *
 * Shrinking: the rest of the last block becomes zero in the cache, and dirty, so that the
 * device gets the zeros before anybody can grow the file over old bytes; then i_size moves;
 * then the cache beyond it goes; then the application gives its blocks back.
 *
 * Why i_size before the cache.  Readers take no lock:
 *
 *	truncation			reader
 *	i_size = new			the folio's version, then i_size: up to it
 *	folio beyond it is dropped,	copies, and compares the version
 *	   or zeroed in part
 *
 * A reader that copies zeros of a folio that was just cleared has read the moved version, and with
 * it sees the new i_size.  The other way round it would return these zeros as the file's.
 * And a read into the cache asks for i_size when its folio is in the index: one that the walk
 * over the index does not find reads nothing beyond the new end (cache/truncate.c).
 *
 * Why the cache before the blocks.  The walk waits for reads and for writeback that are under
 * way; when it is over nobody uses the blocks beyond the end.
 *
 * Growing: what lies between must be zero first.  The application zeroes the rest of the block
 * that holds the old end; behind it there are holes.  Without a `setsize` blocks stay where
 * they are, so all that is mapped is zeroed.
 *
 * Locks: i_rwsem and invalidate_lock, exclusively; iomap_truncate() takes them, the caller
 * holds them for the other calls.
 */
#include "cache/cache.h"
#include "iomap/ops.h"

int iomap_truncate_page(struct iomap_inode *inode, int64_t pos, bool *did_zero,
			const struct iomap_ops *ops, const struct iomap_write_ops *write_ops,
			void *private_data)
{
	uint64_t block = iomap_i_blocksize(inode), end;

	if (pos < 0)
		return -EINVAL;
	end = iomap__min(iomap__round_up((uint64_t)pos, block), (uint64_t)INT64_MAX);
	return iomap__zero_range(inode, pos, (int64_t)end, IOMAP__ZERO_KEEP_SIZE, did_zero, ops,
				 write_ops, private_data);
}

void iomap_truncate_pagecache_range(struct iomap_inode *inode, int64_t lstart, int64_t lend)
{
	iomap__filemap_truncate_range(&inode->i_data, iomap__max(lstart, 0),
				      lend == INT64_MAX ? lend : lend + 1);
}

void iomap_truncate_pagecache(struct iomap_inode *inode, int64_t size)
{
	iomap_truncate_pagecache_range(inode, size, INT64_MAX);
}

void iomap_truncate_setsize(struct iomap_inode *inode, int64_t size)
{
	size = iomap__max(size, 0);
	iomap_i_size_write(inode, size);
	iomap_truncate_pagecache(inode, size);
}

/* No block changes hands. */
static int truncate_default(struct iomap_inode *inode, int64_t old_size, int64_t size)
{
	const struct iomap_inode_ops *op = inode->i_op;

	if (!op || !op->write || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	if (size < old_size)
		return iomap_truncate_page(inode, size, NULL, op->write, op->write_ops, NULL);
	return iomap__zero_range(inode, old_size, size, IOMAP__ZERO_MOVE, NULL, op->write,
				 op->write_ops, NULL);
}

int iomap__truncate_locked(struct iomap_inode *inode, int64_t size)
{
	int64_t old_size = iomap_i_size_read(inode);
	int err;

	if (size == old_size)
		return 0;
	if (inode->i_op && inode->i_op->setsize) {
		iomap__witness_assert_callback("setsize");
		err = inode->i_op->setsize(inode, old_size, size);
	} else {
		err = truncate_default(inode, old_size, size);
	}
	if (!err && iomap_i_size_read(inode) != size)
		iomap_truncate_setsize(inode, size);
	return err;
}

int iomap_truncate(struct iomap_file *file, int64_t size)
{
	struct iomap_inode *inode = file->inode;
	int err;

	iomap__file_check(file);
	if (size < 0)
		return -EINVAL;
	if (size > inode->i_maxbytes)
		return -EFBIG;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	iomap_inode_lock(inode);
	/* asynchronous ones hold no lock: their blocks must not be given away */
	iomap_inode_dio_wait(inode);
	iomap_filemap_invalidate_lock(&inode->i_data);
	err = iomap__truncate_locked(inode, size);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	iomap_inode_unlock(inode);
	return err;
}
