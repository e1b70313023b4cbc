/* SPDX-License-Identifier: MIT */
/*
 * inplace.c - writing into folio memory itself: iomap_folio_begin_write() and its end.
 *
 * It is one step of a buffered write (buffered_write.c) that is stopped in its middle:
 *
 *	begin	iomap_begin, throttle, get_folio, iomap_valid, fill; CHANGING is set
 *	the caller stores
 *	end	CHANGING is cleared, the version has moved; uptodate, dirty, i_size; put_folio;
 *		iomap_end
 *
 * so hooks, order and locks are those of a write.  In between the folio is locked by nobody in
 * particular, for the lock checker: its holder may begin another write of the inode behind
 * it, and with it come callbacks that assume that nothing is locked.
 *
 * What the write was to cover as a whole was neither read nor zeroed.  So when it ends early,
 * a block that was to be covered and is not counts for nothing; one that was to be covered in
 * part was filled around the write, and is zeroed where the write has left a gap, unless it has
 * old bytes there.
 */
#include "iomap/ops.h"

#define INPLACE_IOCB_FLAGS                                                           \
	(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT | \
	 IOMAP_IOCB_NOWAIT | IOMAP_IOCB_NOTHROTTLE | IOMAP_IOCB_WRITE)

/* Where the write begins; 0 or -errno. */
static int inplace_start(struct iomap_folio_writer *writer, struct iomap_kiocb *iocb, size_t len,
			 const struct iomap_ops *ops)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	struct iomap_iter *iter = &writer->iter;

	iomap__file_check(iocb->ki_filp);
	if (iocb->ki_flags & ~INPLACE_IOCB_FLAGS || iocb->ki_pos < 0 || !len || !ops ||
	    !ops->iomap_begin || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = iomap_i_size_read(inode);
	if (iocb->ki_pos >= inode->i_maxbytes)
		return -EFBIG;
	iter->inode = inode;
	iter->flags = IOMAP_WRITE | (iocb->ki_flags & IOMAP_IOCB_NOWAIT ? IOMAP_NOWAIT : 0);
	iter->pos = iocb->ki_pos;
	iter->len = iomap__min(len, (uint64_t)(inode->i_maxbytes - iocb->ki_pos));
	return 0;
}

int iomap_folio_begin_write(struct iomap_kiocb *iocb, size_t len, const struct iomap_ops *ops,
			    const struct iomap_write_ops *write_ops, void *private_data,
			    struct iomap_folio_writer *writer)
{
	struct iomap__write wr = { .iter = &writer->iter, .ops = write_ops };
	bool before;
	int ret;

	memset(writer, 0, sizeof(*writer));
	ret = inplace_start(writer, iocb, len, ops);
	if (ret)
		return ret;
	writer->iter.private = private_data;
	while ((ret = iomap_iter(&writer->iter, ops)) > 0) {
		before = iomap__throttle_not(iocb->ki_flags & IOMAP_IOCB_NOTHROTTLE);
		ret = iomap__write_balance(&writer->iter);
		iomap__throttle_again(before);
		if (!ret)
			ret = iomap__write_begin(&wr, iomap_length(&writer->iter));
		if (!ret && wr.folio)
			break;
		/* 0: the mapping was found stale, and is sampled again */
		writer->iter.status = ret;
	}
	if (!wr.folio)
		return ret;
	iomap__folio_handoff(wr.folio);
	iomap__folio_begin_change(wr.folio);
	writer->addr = (char *)iomap_folio_address(wr.folio) + wr.off;
	writer->len = wr.bytes;
	writer->folio = wr.folio;
	writer->iocb = iocb;
	writer->ops = ops;
	writer->write_ops = write_ops;
	return 0;
}

/* How many of @written bytes, fewer than there was room for, can stand. */
static size_t inplace_short(const struct iomap__write *wr, size_t written)
{
	struct iomap_folio *folio = wr->folio;
	size_t block = iomap__min(iomap_i_blocksize(wr->iter->inode), iomap__folio_bytes(folio));
	size_t end = wr->off + written, room = wr->off + wr->bytes;
	size_t first = iomap__round_down(end, block);

	if (first == end || iomap_is_partially_uptodate(folio, first, block))
		return written;
	if (wr->off <= first && first + block <= room)
		return first - wr->off;
	if (iomap_iter_srcmap(wr->iter)->type != IOMAP_INLINE)
		/* announced: end_change has not been called yet */
		iomap__zero_folio_mem((char *)iomap_folio_address(folio) + end,
				      iomap__min(room, first + block) - end);
	return written;
}

ssize_t iomap_folio_end_write(struct iomap_folio_writer *writer, size_t written)
{
	struct iomap_iter *iter = &writer->iter;
	struct iomap__write wr = {
		.iter = iter,
		.ops = writer->write_ops,
		.folio = writer->folio,
		.pos = iter->pos,
		.off = (size_t)(iter->pos - iomap_folio_pos(writer->folio)),
		.bytes = writer->len,
	};
	size_t done;
	int err;

	iomap__assert_msg(writer->folio && written <= writer->len,
			  "iomap_folio_end_write: more than there was room for, or a second time");
	done = iomap__min(written, wr.bytes);
	if (done && done < wr.bytes)
		done = inplace_short(&wr, done);
	iomap__folio_end_change(wr.folio);
	if (done) {
		wr.bytes = done;
		done = iomap__write_end(&wr, done);
		iomap__write_extend(iter, wr.pos + (int64_t)done);
	}
	iomap__write_put(&wr, done);
	writer->folio = NULL;
	writer->addr = NULL;
	(void)iomap_iter_advance(iter, done);
	/* the mapping ends here, though there may be more of it that was asked for */
	iter->status = done ? -ECANCELED : 0;
	err = iomap_iter(iter, writer->ops);
	if (!done)
		return iomap__min(err, 0);
	writer->iocb->ki_pos = iter->pos;
	return (ssize_t)done;
}
