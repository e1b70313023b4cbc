/* SPDX-License-Identifier: MIT */
/*
 * iter.c - the spine of every operation: sample a mapping, let the body work on it, end it.
 *
 * States of an iterator: without a mapping (iomap.length 0), and with one.  iomap_iter() takes
 * it from the first to the second by iomap_begin, and back by iomap_end; so each successful
 * iomap_begin is paired with one iomap_end, whatever the body did.  A broken mapping is ended
 * at once, so that an application which has reserved something for it can give it back.
 *
 * Mappings come from the application and are not trusted: one that does not tell where the
 * byte lies that was asked for would be an endless loop or a write to the wrong place.
 */
#include <inttypes.h>

#include "block/block.h"
#include "iomap/iter.h"

#define ITER_OP_FLAGS                                                                              \
	(IOMAP_WRITE | IOMAP_ZERO | IOMAP_REPORT | IOMAP_FAULT | IOMAP_DIRECT | IOMAP_NOWAIT |     \
	 IOMAP_OVERWRITE_ONLY | IOMAP_UNSHARE | IOMAP_DAX | IOMAP_ATOMIC | IOMAP_DONTCACHE)

#define ITER_MAPPING_FLAGS (IOMAP__ITER_PLAIN_FLAGS | IOMAP_F_SIZE_CHANGED | IOMAP_F_STALE)

/* First byte that no file has. */
#define ITER_POS_LIMIT ((uint64_t)INT64_MAX + 1)

int iomap__broken_mapping(const struct iomap_inode *inode, const struct iomap *iomap, int64_t pos,
			  const char *fault)
{
	char type[32], flags[160];

	iomap_format_flags(IOMAP_FAMILY_TYPE, iomap->type, type, sizeof(type));
	iomap_format_flags(IOMAP_FAMILY_MAPPING, iomap->flags, flags, sizeof(flags));
	iomap__log(&inode->i_engine->env, IOMAP_LOG_ERROR,
		   "inode %" PRIu64 ": broken mapping at offset %" PRId64
		   ": %s (offset %" PRId64 ", length %" PRIu64 ", addr %#" PRIx64
		   ", type %s, flags %s)",
		   inode->i_ino, pos, fault, iomap->offset, iomap->length, iomap->addr, type, flags);
	return -EIO;
}

void iomap__log_io_error(const struct iomap_inode *inode, const char *what, int64_t pos,
			 uint64_t len, const struct iomap_bdev *bdev, uint64_t addr, int error)
{
	iomap__log(&inode->i_engine->env, IOMAP_LOG_ERROR,
		   "inode %" PRIu64 ": %s of bytes [%" PRId64 ", %" PRIu64
		   ") at byte %" PRIu64 " of device %s failed: %s",
		   inode->i_ino, what, pos, (uint64_t)pos + len, addr, iomap_bdev_name(bdev),
		   strerrordesc_np(-error));
}

int iomap__check_device(const struct iomap_inode *inode, const struct iomap *iomap, int64_t pos,
			size_t len)
{
	struct iomap_bdev_limits limits;

	if (!iomap->bdev)
		return iomap__broken_mapping(inode, iomap, pos, "no device");
	if (iomap__bdev_engine(iomap->bdev) != inode->i_engine)
		return iomap__broken_mapping(inode, iomap, pos, "device of another engine");
	iomap_bdev_limits(iomap->bdev, &limits);
	if (len & (limits.logical_block_size - 1))
		return iomap__broken_mapping(inode, iomap, pos, "ends inside a sector");
	if (iomap->flags & IOMAP_F_ANON_WRITE)
		return 0;
	if (iomap->addr == IOMAP_NULL_ADDR)
		return iomap__broken_mapping(inode, iomap, pos, "no address");
	if (iomap__mapping_addr(iomap, pos) & (limits.logical_block_size - 1))
		return iomap__broken_mapping(inode, iomap, pos, "unaligned address");
	return 0;
}

/* What is wrong with a mapping by itself, or NULL. */
static const char *iter_fault(const struct iomap *iomap, int64_t pos)
{
	if (!iomap->length)
		return "length 0";
	if (iomap->offset < 0)
		return "negative offset";
	if (iomap->length > ITER_POS_LIMIT - (uint64_t)iomap->offset)
		return "ends beyond the largest file";
	if (iomap->offset > pos || iomap__mapping_end(iomap) <= (uint64_t)pos)
		return "does not cover the offset";
	if (iomap->type > IOMAP_INLINE)
		return "unknown type";
	if (iomap->flags & ~ITER_MAPPING_FLAGS)
		return "unknown flags";
	if (iomap->type != IOMAP_INLINE)
		return NULL;
	if (!iomap->inline_data)
		return "inline without data";
	if (((uint64_t)iomap->offset & (IOMAP_PAGE_SIZE - 1)) + iomap->length > IOMAP_PAGE_SIZE)
		return "inline data crosses a page";
	return NULL;
}

/* Which of the faults it is, if any. */
static int iter_check(const struct iomap_iter *iter)
{
	const char *fault = iter_fault(&iter->iomap, iter->pos);

	/* unsharing asks about holes too, and leaves them alone */
	if (!fault && iter->iomap.type == IOMAP_HOLE &&
	    (iter->flags & (IOMAP_WRITE | IOMAP_UNSHARE)) == IOMAP_WRITE)
		fault = "a hole to write into";
	if (fault)
		return iomap__broken_mapping(iter->inode, &iter->iomap, iter->pos, fault);
	if (!iomap__iter_has_srcmap(iter))
		return 0;
	fault = iter_fault(&iter->srcmap, iter->pos);
	return fault ? iomap__broken_mapping(iter->inode, &iter->srcmap, iter->pos, fault) : 0;
}

uint64_t iomap_length(const struct iomap_iter *iter)
{
	return iter->iomap.length ? iomap__iter_length(iter) : 0;
}

const struct iomap *iomap_iter_srcmap(const struct iomap_iter *iter)
{
	return iomap__iter_srcmap(iter);
}

int iomap_iter_advance(struct iomap_iter *iter, uint64_t count)
{
	if (count > iomap_length(iter))
		return -EIO;
	iomap__iter_advance(iter, count);
	return 0;
}

#if IOMAP_DEBUG
/*
 * LK03: nothing is held but in reads, faults and writeback, whose folios are locked.  A
 * callback of those may have come here for an inode of a higher class.
 */
void iomap__iter_assert_unlocked(const struct iomap_iter *iter, const char *what)
{
	if (iter->flags && !(iter->flags & IOMAP_FAULT))
		iomap__witness_assert_class(what, iter->inode->i_class);
}
#endif

static int iter_end(struct iomap_iter *iter, const struct iomap_ops *ops, int64_t length,
		    ssize_t written)
{
	if (!ops->iomap_end)
		return 0;
	iomap__iter_assert_unlocked(iter, "iomap_end");
	return ops->iomap_end(iter->inode, iter->iter_start_pos, length, written, iter->flags,
			      &iter->iomap);
}

/* A mapping that cannot be used; it is ended at once. */
static int iter_refuse(struct iomap_iter *iter, const struct iomap_ops *ops, int err)
{
	/* of a mapping that does not cover the range nothing can be cut out */
	uint64_t length = iomap__min(iter->iomap.length, iter->len);

	(void)iter_end(iter, ops, (int64_t)length, 0);
	iomap__iter_clear(iter);
	return err;
}

int iomap__iter_look(struct iomap_iter *iter, const struct iomap_ops *ops, int answer)
{
	int err;

	if (answer < 0) {
		iomap__iter_clear(iter);
		return answer;
	}
	/* the library's own to set */
	iter->iomap.flags &= (uint16_t)~IOMAP_F_SIZE_CHANGED;
	err = iter_check(iter);
	return err ? iter_refuse(iter, ops, err) : 1;
}

/*
 * End the mapping the body has worked on.  1 to go on, 0 when the range is done or the body
 * came no further, or the error.
 */
static int iter_finish(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	uint64_t done = (uint64_t)iter->pos - (uint64_t)iter->iter_start_pos;
	uint64_t length = iomap__iter_length_at(iter, iter->iter_start_pos, iter->len + done);
	int err = iter_end(iter, ops, (int64_t)length, (ssize_t)done);
	bool stale = iter->iomap.flags & IOMAP_F_STALE;

	iomap__iter_clear(iter);
	if (iter->status < 0)
		return iter->status;
	if (err < 0 && !done)
		return err;
	return iter->len && (done || stale);
}

static int iter_sample(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	int answer = iomap__iter_ask(iter, ops);

	if (iomap__likely(answer >= 0) && iomap__iter_is_plain(iter, iter->pos, 1))
		return 1;
	return iomap__iter_look(iter, ops, answer);
}

int iomap__iter_next(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	int ret = iter_finish(iter, ops);

	return ret > 0 ? iter_sample(iter, ops) : ret;
}

int iomap_iter(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	if (iter->iomap.length)
		return iomap__iter_next(iter, ops);
	if (!ops || !ops->iomap_begin || iter->flags & ~ITER_OP_FLAGS || iter->pos < 0)
		return -EINVAL;
	if (iter->len > ITER_POS_LIMIT - (uint64_t)iter->pos)
		return -EOVERFLOW;
	if (iter->inode && iomap__engine_closed(iter->inode->i_engine))
		return iomap__engine_refusal(iter->inode->i_engine);
	if (!iter->len)
		return 0;
	iomap__iter_clear(iter);
	return iter_sample(iter, ops);
}
