/* SPDX-License-Identifier: MIT */
/*
 * zero.c - zeros behind the end of the file, before it grows over them.
 *
 * They must read as zeros from the moment i_size covers them.  Holes and unwritten space do so
 * by themselves; what is mapped or reserved is zeroed in the cache, by the way of a write.  Two
 * places need care:
 *
 * The block that holds the end.  Its bytes beyond i_size are zeroed in the cache and the
 * block is dirty; i_size stays.  Writeback writes blocks whole, with zeros beyond i_size, so
 * the zeros reach the device whether it comes before or after the write that moves i_size.
 *
 * Blocks beyond it.  Writeback takes nothing there for data: it makes such blocks clean
 * without writing them, and when i_size moved later the device's old bytes would show.  So
 * each whole block that has been zeroed becomes part of the file at once: i_size moves with
 * the folio locked, after its bytes.  A reader in between sees a file that ends in zeros; if
 * the write then fails, the file stays so much longer, as after a short write.
 *
 * A last, partial block beyond the end needs no such move when a buffered write follows: that
 * starts in it and fills it with zeros if it is gone from the cache by then.  When a direct
 * write follows, or none, i_size moves into that block too.
 *
 * i_rwsem is held exclusively, so nobody else moves i_size; readers and writeback go on.
 */
#include "iomap/ops.h"

struct zero {
	struct iomap__write wr;
	enum iomap__zero_size how;
	bool did_zero;
};

/* What lies before @end is zero: make it part of the file. */
static void zero_extend(struct zero *zero, uint64_t end)
{
	struct iomap_inode *inode = zero->wr.iter->inode;
	uint64_t block = iomap_i_blocksize(inode);
	uint64_t size = (uint64_t)iomap_i_size_read(inode);

	if (zero->how == IOMAP__ZERO_KEEP_SIZE)
		return;
	if (zero->how == IOMAP__ZERO_MOVE_BLOCKS)
		end = iomap__round_down(end, block);
	if (end > iomap__round_up(size, block))
		iomap__write_extend(zero->wr.iter, (int64_t)end);
}

/* Unwritten space reads as zeros but where the cache holds something: step up to there. */
static int zero_skip_uncached(struct iomap_iter *iter)
{
	uint64_t len = iomap_length(iter), pos = (uint64_t)iter->pos, found = pos + len;
	uint64_t index = pos >> IOMAP_PAGE_SHIFT;
	uint64_t end = (pos + len + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
	struct iomap_folio *folio;

	if (iomap__filemap_get_tagged(&iter->inode->i_data, &index, end, IOMAP__TAGS, &folio, 1)) {
		found = iomap__max(pos, (uint64_t)iomap_folio_pos(folio));
		iomap_folio_put(folio);
	}
	return iomap_iter_advance(iter, iomap__min(found - pos, len));
}

static int zero_folio(struct zero *zero)
{
	struct iomap__write *wr = &zero->wr;
	struct iomap_iter *iter = wr->iter;
	size_t done;
	int err;

	iomap__balance_dirty(&iter->inode->i_data);
	err = iomap__write_begin(wr, iomap_length(iter));
	if (err || !wr->folio)
		return err;
	iomap__folio_fill_zero(wr->folio, wr->off, wr->bytes);
	done = iomap__write_end(wr, wr->bytes);
	zero_extend(zero, (uint64_t)wr->pos + done);
	zero->did_zero |= done > 0;
	iomap__write_put(wr, done);
	return iomap_iter_advance(iter, done);
}

static int zero_mapping(struct zero *zero)
{
	struct iomap_iter *iter = zero->wr.iter;
	const struct iomap *src = iomap_iter_srcmap(iter);
	int err = 0;

	if (src->type == IOMAP_HOLE)
		return iomap_iter_advance(iter, iomap_length(iter));
	while (!err && iomap_length(iter)) {
		if (src->type == IOMAP_UNWRITTEN) {
			err = zero_skip_uncached(iter);
			if (err || !iomap_length(iter))
				break;
		}
		err = zero_folio(zero);
		if (iter->iomap.flags & IOMAP_F_STALE)
			break;
	}
	return err;
}

int iomap__zero_range(struct iomap_inode *inode, int64_t from, int64_t to,
		      enum iomap__zero_size how, bool *did_zero, const struct iomap_ops *ops,
		      const struct iomap_write_ops *write_ops, void *private_data)
{
	struct iomap_iter iter = {
		.inode = inode,
		.pos = from,
		.len = to > from ? (uint64_t)(to - from) : 0,
		.flags = IOMAP_ZERO,
		.private = private_data,
	};
	struct zero zero = { .wr = { .iter = &iter, .ops = write_ops }, .how = how };
	int ret;

	while ((ret = iomap_iter(&iter, ops)) > 0)
		iter.status = zero_mapping(&zero);
	if (!ret && iter.len)
		ret = -EIO;
	if (did_zero && zero.did_zero)
		*did_zero = true;
	return ret;
}
