/* SPDX-License-Identifier: MIT */
/*
 * seek.c - the next data, the next hole.
 *
 * What is mapped is data, and a hole is none.  Of unwritten space the cache decides, block by
 * block: what is cached and uptodate is data.
 *
 * The order.  Writeback may convert a block that was found unwritten, and the folio go, before the
 * cache is looked at; then neither would know of the data.  So the cache is looked at first, and the
 * mapping sampled again behind that: a block that was not cached then, and is still unwritten, had
 * no data; one that was cached had.  Hence two calls for an unwritten mapping and one for each
 * other.
 *
 * Locks: none but that of a folio of which some blocks are uptodate, for a look at them.
 */
#include <unistd.h>

#include "iomap/ops.h"

/* Of [pos, end) the cache has the whole, or nothing. */
struct seek_run {
	uint64_t pos, end;
	bool data;
};

struct seek {
	struct iomap_iter iter;
	bool data; /* is looked for */
	int64_t found; /* NOT_FOUND: not yet */
	struct seek_run cached;
};

#define NOT_FOUND INT64_MIN
/* Ends the iteration: there is something at iter.pos.  Nobody gets to see it. */
#define SEEK_FOUND (-ECANCELED)

static bool seek_block_is_uptodate(struct iomap_folio *folio, size_t off, size_t block)
{
	const struct iomap_address_space *mapping = iomap_folio_mapping(folio);

	if (mapping->a_ops->is_partially_uptodate)
		return mapping->a_ops->is_partially_uptodate(folio, off, block);
	return iomap_is_partially_uptodate(folio, off, block);
}

/*
 * What the folio has at @pos, and up to where the same, into @run.  False: it is not this
 * inode's any more.
 */
static bool seek_folio(struct iomap_folio *folio, const struct iomap_inode *inode, uint64_t pos,
		       struct seek_run *run)
{
	uint64_t start = (uint64_t)iomap_folio_pos(folio);
	size_t block = iomap_i_blocksize(inode), off = pos - start, size = iomap_folio_size(folio);
	bool ours;

	*run = (struct seek_run){ .pos = pos, .end = start + size, .data = true };
	if (iomap_folio_test_uptodate(folio))
		return iomap_folio_mapping(folio) == &inode->i_data && pos >= start && off < size;
	iomap_folio_lock(folio);
	start = (uint64_t)iomap_folio_pos(folio);
	size = iomap_folio_size(folio);
	ours = iomap_folio_mapping(folio) == &inode->i_data && pos >= start && pos < start + size;
	if (ours) {
		off = iomap__round_down(pos - start, block);
		run->data = seek_block_is_uptodate(folio, off, block);
		do
			off += block;
		while (off < size && seek_block_is_uptodate(folio, off, block) == run->data);
		run->end = start + iomap__min(off, size);
	}
	iomap_folio_unlock(folio);
	return ours;
}

/* What the cache has at @pos, and up to where, before @end, the same. */
static struct seek_run seek_cached(struct iomap_inode *inode, uint64_t pos, uint64_t end)
{
	uint64_t last = (end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
	struct seek_run run = { .pos = pos, .end = pos };

	while (run.end < end) {
		uint64_t index = run.end >> IOMAP_PAGE_SHIFT;
		struct iomap_folio *folio = iomap__filemap_get(&inode->i_data, index);
		struct seek_run piece = { .pos = run.end };

		if (folio) {
			bool ours = seek_folio(folio, inode, run.end, &piece);

			iomap_folio_put(folio);
			if (!ours)
				continue;
		} else {
			piece.end = iomap__index_next(&inode->i_data, index, last)
				    << IOMAP_PAGE_SHIFT;
			/* somebody has put it there since */
			if (piece.end <= run.end)
				continue;
		}
		if (run.end == pos)
			run.data = piece.data;
		if (piece.data != run.data)
			break;
		run.end = piece.end;
	}
	run.end = iomap__min(run.end, end);
	return run;
}

static int seek_mapping(struct seek *seek)
{
	struct iomap_iter *iter = &seek->iter;
	uint64_t pos = (uint64_t)iter->pos, length = iomap_length(iter);
	bool data = iter->iomap.type != IOMAP_HOLE;

	if (iter->iomap.type == IOMAP_UNWRITTEN) {
		const struct seek_run *cached = &seek->cached;

		if (pos < cached->pos || pos >= cached->end) {
			seek->cached = seek_cached(iter->inode, pos, pos + length);
			iter->iomap.flags |= IOMAP_F_STALE;
			return 0;
		}
		data = cached->data;
		length = iomap__min(length, cached->end - pos);
	}
	if (data == seek->data) {
		seek->found = iter->pos;
		return SEEK_FOUND;
	}
	return iomap_iter_advance(iter, length);
}

/* The position; NOT_FOUND when there is none before i_size; or -errno. */
static int64_t seek(struct iomap_inode *inode, int64_t pos, const struct iomap_ops *ops, bool data,
		    int64_t *size)
{
	struct seek seek = {
		.iter = { .inode = inode, .pos = pos, .flags = IOMAP_REPORT },
		.data = data,
		.found = NOT_FOUND,
	};
	int ret;

	iomap__inode_check(inode);
	*size = iomap_i_size_read(inode);
	if (pos < 0 || pos >= *size)
		return -ENXIO;
	seek.iter.len = (uint64_t)(*size - pos);
	while ((ret = iomap_iter(&seek.iter, ops)) > 0)
		seek.iter.status = seek_mapping(&seek);
	if (seek.found >= 0 || (!ret && !seek.iter.len))
		return seek.found;
	return ret ? ret : -EIO;
}

int64_t iomap_seek_data(struct iomap_inode *inode, int64_t pos, const struct iomap_ops *ops)
{
	int64_t size, found = seek(inode, pos, ops, true, &size);

	return found == NOT_FOUND ? -ENXIO : found;
}

int64_t iomap_seek_hole(struct iomap_inode *inode, int64_t pos, const struct iomap_ops *ops)
{
	int64_t size, found = seek(inode, pos, ops, false, &size);

	return found == NOT_FOUND ? size : found;
}

/* ---- by the inode's own extent map ---- */

const struct iomap_ops *iomap__report_ops(const struct iomap_inode *inode)
{
	const struct iomap_inode_ops *op = inode->i_op;

	if (!op)
		return NULL;
	return op->report ? op->report :
	       op->read	  ? op->read :
	       op->direct ? op->direct :
			    op->write;
}

int64_t iomap_file_seek(struct iomap_file *file, int64_t pos, int whence)
{
	struct iomap_inode *inode = file->inode;
	const struct iomap_ops *ops;
	int64_t ret;

	iomap__file_check(file);
	ops = iomap__report_ops(inode);
	if (!ops || (whence != SEEK_DATA && whence != SEEK_HOLE))
		return -EINVAL;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	iomap_inode_lock_shared(inode);
	ret = whence == SEEK_DATA ? iomap_seek_data(inode, pos, ops) :
				    iomap_seek_hole(inode, pos, ops);
	iomap_inode_unlock_shared(inode);
	return ret;
}
