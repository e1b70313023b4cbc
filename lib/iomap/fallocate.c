/* SPDX-License-Identifier: MIT */
/*
 * fallocate.c - the space of a range: checks and locks around what the application does.
 *
 * Only the application knows its space.  What this adds is what each would have to do alike: it
 * is alone with the inode but for readers and writeback, the file grows where the mode says so,
 * and an opener that wants it durable gets it so.
 *
 * Behind a hole that was punched, or a range that was zeroed, what is clean of it is dropped once
 * more.  Readers take no lock: one that had sampled the old map, while the application dropped the
 * cache before it changed the map, as a kernel filesystem may under its locks, has brought old bytes
 * in.  What has sampled it later reads the new map (cache/truncate.c has the argument).
 *
 * Locks: i_rwsem, exclusively; invalidate_lock by the application, and for the growth and the drop.
 * The sync takes neither.
 */
#include "cache/cache.h"
#include "iomap/ops.h"

#define FALLOC_PUNCH (IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE)

static int falloc_check(const struct iomap_inode *inode, int mode, int64_t off, int64_t len)
{
	if (off < 0 || len <= 0)
		return -EINVAL;
	switch (mode) {
	case FALLOC_PUNCH:
	case 0:
	case IOMAP_FALLOC_FL_KEEP_SIZE:
	case IOMAP_FALLOC_FL_ZERO_RANGE:
	case IOMAP_FALLOC_FL_ZERO_RANGE | IOMAP_FALLOC_FL_KEEP_SIZE:
	case IOMAP_FALLOC_FL_UNSHARE_RANGE:
	case IOMAP_FALLOC_FL_UNSHARE_RANGE | IOMAP_FALLOC_FL_KEEP_SIZE:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (off > inode->i_maxbytes || len > inode->i_maxbytes - off)
		return -EFBIG;
	return iomap__engine_refusal(inode->i_engine);
}

static int falloc_locked(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = file->inode;
	int err;

	iomap__witness_assert_callback("fallocate");
	err = inode->i_op->fallocate(file, mode, off, len);
	if (err)
		return err;
	iomap_filemap_invalidate_lock(&inode->i_data);
	if (mode & (IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_ZERO_RANGE))
		(void)iomap__filemap_invalidate_range(&inode->i_data, off, off + len);
	if (!(mode & IOMAP_FALLOC_FL_KEEP_SIZE) && off + len > iomap_i_size_read(inode))
		err = iomap__truncate_locked(inode, off + len);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	return err;
}

/* For those who have opened the file for that. */
static int falloc_sync(struct iomap_file *file, int64_t off, int64_t len)
{
	if (!(file->flags & (IOMAP_O_DSYNC | IOMAP_O_SYNC)))
		return 0;
	return iomap_fsync(file, off, off + len - 1, !(file->flags & IOMAP_O_SYNC));
}

int iomap_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = file->inode;
	int err;

	iomap__file_check(file);
	err = falloc_check(inode, mode, off, len);
	if (err)
		return err;
	if (inode->i_fop && inode->i_fop->fallocate)
		return (int)inode->i_fop->fallocate(file, mode, off, len);
	if (!inode->i_op || !inode->i_op->fallocate)
		return -EOPNOTSUPP;
	iomap_inode_lock(inode);
	/* asynchronous ones hold no lock: their blocks must not be given away */
	iomap_inode_dio_wait(inode);
	err = falloc_locked(file, mode, off, len);
	iomap_inode_unlock(inode);
	return err ? err : falloc_sync(file, off, len);
}
