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
#include "iomap/ops.h"

#define ITER_OP_FLAGS                                                                              \
	(IOMAP_WRITE | IOMAP_ZERO | IOMAP_REPORT | IOMAP_FAULT | IOMAP_DIRECT | IOMAP_NOWAIT |     \
	 IOMAP_OVERWRITE_ONLY | IOMAP_UNSHARE | IOMAP_DAX | IOMAP_ATOMIC | IOMAP_DONTCACHE)

#define ITER_MAPPING_FLAGS                                                                         \
	(IOMAP_F_NEW | IOMAP_F_DIRTY | IOMAP_F_SHARED | IOMAP_F_MERGED | IOMAP_F_XATTR |           \
	 IOMAP_F_BOUNDARY | IOMAP_F_ANON_WRITE | IOMAP_F_ATOMIC_BIO | IOMAP_F_ZEROES_UNWRITTEN |   \
	 IOMAP_F_PRIVATE | IOMAP_F_SIZE_CHANGED | IOMAP_F_STALE)

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

/* A srcmap is there when it has a type, or a length: then it says "a hole is below". */
static bool iter_has_srcmap(const struct iomap_iter *iter)
{
	return iter->srcmap.type != IOMAP_HOLE || iter->srcmap.length;
}

static int iter_check(const struct iomap_iter *iter)
{
	const char *fault = iter_fault(&iter->iomap, iter->pos);

	/* unsharing asks about holes too, and leaves them alone */
	if (!fault && iter->iomap.type == IOMAP_HOLE &&
	    (iter->flags & (IOMAP_WRITE | IOMAP_UNSHARE)) == IOMAP_WRITE)
		fault = "a hole to write into";
	if (fault)
		return iomap__broken_mapping(iter->inode, &iter->iomap, iter->pos, fault);
	if (!iter_has_srcmap(iter))
		return 0;
	fault = iter_fault(&iter->srcmap, iter->pos);
	return fault ? iomap__broken_mapping(iter->inode, &iter->srcmap, iter->pos, fault) : 0;
}

/* Bytes of the mapping from @pos on, of at most @len. */
static uint64_t iter_length(const struct iomap_iter *iter, int64_t pos, uint64_t len)
{
	uint64_t end = iomap__mapping_end(&iter->iomap);

	if (iter_has_srcmap(iter))
		end = iomap__min(end, iomap__mapping_end(&iter->srcmap));
	return iomap__min(len, end - (uint64_t)pos);
}

uint64_t iomap_length(const struct iomap_iter *iter)
{
	if (!iter->iomap.length)
		return 0;
	return iter_length(iter, iter->pos, iter->len);
}

const struct iomap *iomap_iter_srcmap(const struct iomap_iter *iter)
{
	return iter_has_srcmap(iter) ? &iter->srcmap : &iter->iomap;
}

int iomap_iter_advance(struct iomap_iter *iter, uint64_t count)
{
	if (count > iomap_length(iter))
		return -EIO;
	/* the end of the range may be 2^63, where nothing is left to be done */
	iter->pos = (int64_t)((uint64_t)iter->pos + count);
	iter->len -= count;
	return 0;
}

static void iter_reset(struct iomap_iter *iter)
{
	memset(&iter->iomap, 0, sizeof(iter->iomap));
	memset(&iter->srcmap, 0, sizeof(iter->srcmap));
	iter->iomap.addr = IOMAP_NULL_ADDR;
	iter->srcmap.addr = IOMAP_NULL_ADDR;
	iter->iter_start_pos = iter->pos;
	iter->status = 0;
}

/*
 * LK03: nothing is held but in reads, faults and writeback, whose folios are locked.  A
 * callback of those may have come here for an inode of a higher class.
 */
static void iter_assert_unlocked(const struct iomap_iter *iter, const char *what)
{
	if (iter->flags && !(iter->flags & IOMAP_FAULT))
		iomap__witness_assert_class(what, iter->inode->i_class);
	(void)what;
}

static int iter_end(struct iomap_iter *iter, const struct iomap_ops *ops, int64_t length,
		    ssize_t written)
{
	if (!ops->iomap_end)
		return 0;
	iter_assert_unlocked(iter, "iomap_end");
	return ops->iomap_end(iter->inode, iter->iter_start_pos, length, written, iter->flags,
			      &iter->iomap);
}

/*
 * End the mapping the body has worked on.  1 to go on, 0 when the range is done or the body
 * came no further, or the error.
 */
static int iter_finish(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	uint64_t done = (uint64_t)iter->pos - (uint64_t)iter->iter_start_pos;
	uint64_t length = iter_length(iter, iter->iter_start_pos, iter->len + done);
	int err = iter_end(iter, ops, (int64_t)length, (ssize_t)done);
	int status = iter->status;
	bool stale = iter->iomap.flags & IOMAP_F_STALE;

	iter_reset(iter);
	if (status < 0)
		return status;
	if (err < 0 && !done)
		return err;
	return iter->len && (done || stale);
}

static int iter_begin(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	uint64_t length;
	int err;

	iter_reset(iter);
	iter_assert_unlocked(iter, "iomap_begin");
	err = ops->iomap_begin(iter->inode, iter->pos, (int64_t)iter->len, iter->flags,
			       &iter->iomap, &iter->srcmap);
	if (err >= 0) {
		/* the library's own to set */
		iter->iomap.flags &= (uint16_t)~IOMAP_F_SIZE_CHANGED;
		err = iter_check(iter);
		if (!err)
			return 1;
		/* of a mapping that does not cover the range nothing can be cut out */
		length = iomap__min(iter->iomap.length, iter->len);
		(void)iter_end(iter, ops, (int64_t)length, 0);
	}
	iter_reset(iter);
	return err;
}

int iomap_iter(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	int ret;

	if (iter->iomap.length) {
		ret = iter_finish(iter, ops);
		if (ret <= 0)
			return ret;
	} else if (!ops || !ops->iomap_begin || iter->flags & ~ITER_OP_FLAGS || iter->pos < 0 ||
		   iter->len > ITER_POS_LIMIT - (uint64_t)iter->pos) {
		return -EINVAL;
	} else if (iter->inode && iomap__engine_closed(iter->inode->i_engine)) {
		return -ESHUTDOWN;
	}
	if (!iter->len)
		return 0;
	return iter_begin(iter, ops);
}
