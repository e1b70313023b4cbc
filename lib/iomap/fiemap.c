/* SPDX-License-Identifier: MIT */
/*
 * fiemap.c - extents in the kernel's format, and the place of a single block.
 *
 * An extent is reported when the next one is known, or that there is none: the last of the inode
 * says so.  Whether one follows that lies behind the range is asked for at the end, up to the
 * first.
 */
#include <linux/fiemap.h>

#include "iomap/ops.h"

struct report {
	struct iomap_fiemap_extent_info *fi;
	struct iomap last; /* not yet reported; IOMAP_HOLE: none */
	bool full;
};

/* Extent maps end with a whole block: where positions end by themselves, so do reports. */
static uint64_t report_end(const struct iomap_inode *inode)
{
	uint64_t max = (uint64_t)inode->i_maxbytes;

	return max == INT64_MAX ? iomap__round_down(max, iomap_i_blocksize(inode)) : max;
}

static uint32_t report_flags(const struct iomap *iomap)
{
	uint32_t flags = 0;

	if (iomap->flags & IOMAP_F_MERGED)
		flags |= FIEMAP_EXTENT_MERGED;
	if (iomap->flags & IOMAP_F_SHARED)
		flags |= FIEMAP_EXTENT_SHARED;
	switch (iomap->type) {
	case IOMAP_DELALLOC:
		return flags | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNKNOWN;
	case IOMAP_UNWRITTEN:
		return flags | FIEMAP_EXTENT_UNWRITTEN;
	case IOMAP_INLINE:
		return flags | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED;
	default:
		return flags;
	}
}

/* Report what is waiting.  @flags: besides its own. */
static void report_last(struct report *report, uint32_t flags)
{
	struct iomap_fiemap_extent_info *fi = report->fi;
	const struct iomap *iomap = &report->last;

	if (iomap->type == IOMAP_HOLE || report->full)
		return;
	if (fi->fi_extents_max) {
		struct fiemap_extent *extent = &fi->fi_extents_start[fi->fi_extents_mapped];

		memset(extent, 0, sizeof(*extent));
		extent->fe_logical = (uint64_t)iomap->offset;
		extent->fe_physical = iomap->addr == IOMAP_NULL_ADDR ? 0 : iomap->addr;
		extent->fe_length = iomap->length;
		extent->fe_flags = report_flags(iomap) | flags;
	}
	fi->fi_extents_mapped++;
	report->full = fi->fi_extents_max && fi->fi_extents_mapped == fi->fi_extents_max;
	report->last.type = IOMAP_HOLE;
}

/* The next mapping of the range; there is always room for it, or the walk has ended. */
static int report_mapping(struct iomap_iter *iter, struct report *report)
{
	if (iter->iomap.type != IOMAP_HOLE) {
		report_last(report, 0);
		if (report->full)
			return -ECANCELED;
		report->last = iter->iomap;
	}
	return iomap_iter_advance(iter, iomap_length(iter));
}

/* Whether there is an extent at or behind @pos: 1, 0 or -errno. */
static int report_more(struct iomap_inode *inode, uint64_t pos, const struct iomap_ops *ops)
{
	struct iomap_iter iter = { .inode = inode, .pos = (int64_t)pos, .flags = IOMAP_REPORT };
	bool more = false;
	int ret;

	if (pos >= report_end(inode))
		return 0;
	iter.len = report_end(inode) - pos;
	while ((ret = iomap_iter(&iter, ops)) > 0) {
		more = iter.iomap.type != IOMAP_HOLE;
		iter.status = more ? -ECANCELED : iomap_iter_advance(&iter, iomap_length(&iter));
	}
	return more ? 1 : ret;
}

static int report_range(struct iomap_inode *inode, struct report *report, uint64_t start,
			uint64_t len, const struct iomap_ops *ops)
{
	struct iomap_iter iter = {
		.inode = inode, .pos = (int64_t)start, .len = len, .flags = IOMAP_REPORT
	};
	int ret;

	while ((ret = iomap_iter(&iter, ops)) > 0)
		iter.status = report_mapping(&iter, report);
	if (report->full)
		return 0;
	if (ret || iter.len)
		return ret ? ret : -EIO;
	if (report->last.type == IOMAP_HOLE)
		return 0;
	ret = report_more(inode,
			  iomap__max(start + len, iomap__mapping_end(&report->last)), ops);
	if (ret < 0)
		return ret;
	report_last(report, ret ? 0 : FIEMAP_EXTENT_LAST);
	return 0;
}

int iomap_fiemap(struct iomap_inode *inode, struct iomap_fiemap_extent_info *fi, uint64_t start,
		 uint64_t len, const struct iomap_ops *ops)
{
	struct report report = { .fi = fi, .last.type = IOMAP_HOLE };
	uint64_t max;
	int err;

	iomap__inode_check(inode);
	max = report_end(inode);
	fi->fi_extents_mapped = 0;
	if (fi->fi_flags & ~FIEMAP_FLAG_SYNC) {
		fi->fi_flags &= ~FIEMAP_FLAG_SYNC;
		return -EBADR;
	}
	if (!len || (fi->fi_extents_max && !fi->fi_extents_start))
		return -EINVAL;
	if (start >= max)
		return -EFBIG;
	len = iomap__min(len, max - start);
	if (fi->fi_flags & FIEMAP_FLAG_SYNC) {
		err = iomap_filemap_write_and_wait_range(&inode->i_data, (int64_t)start,
							 (int64_t)(start + len - 1));
		if (err)
			return err;
	}
	return report_range(inode, &report, start, len, ops);
}

int iomap_file_fiemap(struct iomap_file *file, struct fiemap *fiemap)
{
	struct iomap_inode *inode = file->inode;
	struct iomap_fiemap_extent_info fi = {
		.fi_flags = fiemap->fm_flags,
		.fi_extents_max = fiemap->fm_extent_count,
		.fi_extents_start = fiemap->fm_extents,
	};
	const struct iomap_ops *ops;
	int ret;

	iomap__file_check(file);
	ops = iomap__report_ops(inode);
	if (!ops)
		return -EINVAL;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	iomap_inode_lock_shared(inode);
	ret = iomap_fiemap(inode, &fi, fiemap->fm_start, fiemap->fm_length, ops);
	iomap_inode_unlock_shared(inode);
	fiemap->fm_flags = fi.fi_flags;
	fiemap->fm_mapped_extents = fi.fi_extents_mapped;
	return ret;
}

/* ---- a single block ---- */

uint64_t iomap_bmap(struct iomap_address_space *mapping, uint64_t block, const struct iomap_ops *ops)
{
	struct iomap_inode *inode = mapping->host;
	struct iomap_iter iter = {
		.inode = inode, .len = iomap_i_blocksize(inode), .flags = IOMAP_REPORT
	};
	uint64_t found = 0;

	if (block >= (uint64_t)inode->i_maxbytes >> inode->i_blkbits ||
	    iomap_filemap_write_and_wait_range(mapping, 0, INT64_MAX))
		return 0;
	iter.pos = (int64_t)(block << inode->i_blkbits);
	while (iomap_iter(&iter, ops) > 0) {
		uint64_t off = (uint64_t)iter.pos - (uint64_t)iter.iomap.offset;

		if (iter.iomap.type == IOMAP_MAPPED)
			found = (iter.iomap.addr + off) >> inode->i_blkbits;
		iter.status = -ECANCELED;
	}
	return found;
}
