/* SPDX-License-Identifier: MIT */
/*
 * unshare.c - giving a file its own copy of blocks that it shares with another.
 *
 * A shared block is read into the cache, if it is not there, and made dirty; the extent map finds
 * a new place for it when it is written back, as for any write to it.  Nothing is written where it
 * was, so the other owner keeps his bytes whatever happens.
 *
 * Which blocks: those with a place of their own to read from (a srcmap) and those that the mapping
 * calls shared; of these what is on the device.  Holes, unwritten space and reservations without
 * a srcmap have nothing to be copied, and inline data is nobody else's.
 *
 * The blocks that lie behind the one with the end of the file hold nothing, and stay shared.
 *
 * i_rwsem and invalidate_lock are held exclusively, so neither i_size nor the bytes change.
 */
#include "iomap/iter.h"

static bool unshare_wanted(const struct iomap_iter *iter)
{
	const struct iomap *src = iomap__iter_srcmap(iter);

	if (iter->iomap.type == IOMAP_INLINE || src->type != IOMAP_MAPPED ||
	    src->flags & IOMAP_F_NEW)
		return false;
	return src == &iter->srcmap || src->flags & IOMAP_F_SHARED;
}

static int unshare_folio(struct iomap__write *wr)
{
	struct iomap_iter *iter = wr->iter;
	size_t done;
	int err;

	err = iomap__balance_dirty(&iter->inode->i_data);
	if (err)
		return err;
	err = iomap__write_begin(wr, iomap_length(iter));
	if (err || !wr->folio)
		return err;
	/* the bytes are those that were there */
	done = iomap__write_end(wr, wr->bytes);
	iomap__write_put(wr, done);
	return iomap_iter_advance(iter, done);
}

static int unshare_mapping(struct iomap__write *wr)
{
	struct iomap_iter *iter = wr->iter;
	int err = 0;

	if (!unshare_wanted(iter))
		return iomap_iter_advance(iter, iomap_length(iter));
	while (!err && iomap_length(iter) && !(iter->iomap.flags & IOMAP_F_STALE))
		err = unshare_folio(wr);
	return err;
}

int iomap_file_unshare(struct iomap_inode *inode, int64_t pos, int64_t len,
		       const struct iomap_ops *ops, const struct iomap_write_ops *write_ops)
{
	struct iomap_iter iter = {
		.inode = inode,
		.pos = pos,
		.flags = IOMAP_WRITE | IOMAP_UNSHARE,
	};
	struct iomap__write wr = { .iter = &iter, .ops = write_ops };
	int64_t size;
	int ret;

	iomap__inode_check(inode);
	if (pos < 0 || len < 0 || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	size = iomap_i_size_read(inode);
	if (pos < size)
		iter.len = (uint64_t)iomap__min(len, size - pos);
	while ((ret = iomap_iter(&iter, ops)) > 0)
		iter.status = unshare_mapping(&wr);
	return !ret && iter.len ? -EIO : ret;
}
