/* SPDX-License-Identifier: MIT */
/*
 * zero.c - zeros where there is something else: in a range, and behind the end of the file before
 * it grows over them.
 *
 * What is mapped is zeroed in the cache, by the way of a write.  Holes, unwritten space and space
 * that is only reserved read as zeros already, but for what the cache holds and the device does
 * not have yet: blocks that are dirty, or being written.
 *
 * Why these are looked for before the mapping is sampled.  Writeback may end at any moment, and
 * the folio be evicted behind it:
 *
 *	zeroing				writeback
 *	mapping: unwritten
 *					data on the device, extent converted, folio clean
 *					the folio is evicted
 *	nothing is cached: skipped
 *
 * and the data would be there again.  Nobody dirties anything meanwhile (i_rwsem), so what was
 * neither dirty nor under writeback before the mapping was sampled is what the mapping says.
 * What was is busy: it is found in the cache and its dirty blocks are zeroed there; when the folio
 * is gone, or a block of it is clean and not zero, the mapping is sampled again.  A clean block
 * that is still there then is what the mapping says, too.
 *
 * Zeros beyond i_size have to read as such from the moment i_size covers them.  Two places need
 * care:
 *
 * The block that holds the end.  Its bytes beyond i_size are zeroed in the cache and the
 * block is dirty; i_size stays.  Writeback writes blocks whole, with zeros beyond i_size, so
 * the zeros reach the device whether it comes before or after the write that moves i_size.
 *
 * Blocks beyond it.  Writeback takes nothing there for data: it makes such blocks clean
 * without writing them, and when i_size moved later the device's old bytes would show.  So
 * where the file is about to grow each whole block that has been zeroed becomes part of it at
 * once: i_size moves with the folio locked, after its bytes.  A reader in between sees a file that
 * ends in zeros; if the write then fails, the file stays so much longer, as after a short write.
 *
 * A last, partial block beyond the end needs no such move when a buffered write follows: that
 * starts in it and fills it with zeros if it is gone from the cache by then.  When a direct
 * write follows, or none, i_size moves into that block too.
 *
 * i_rwsem is held exclusively, so nobody else moves i_size; readers and writeback go on.
 */
#include "iomap/ops.h"

/* Busy folios that are known at a time, of each kind. */
#define ZERO_BUSY 16U

/* Bytes [pos, end) of the file. */
struct zero_span {
	uint64_t pos, end;
};

/* What was dirty, or under writeback, of [pos, known) before the mapping was sampled. */
struct zero_busy {
	struct zero_span span[ZERO_BUSY];
	unsigned nr;
	uint64_t known;
};

struct zero {
	struct iomap__write wr;
	enum iomap__zero_size how;
	bool did_zero;
	struct zero_busy dirty, writeback;
	struct zero_span settled; /* clean blocks for which the mapping has been sampled again */
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

/* The folio is locked, and made ready for all of wr: zero @len bytes at its start. */
static void zero_bytes(struct zero *zero, size_t len)
{
	struct iomap__write *wr = &zero->wr;
	size_t done;

	wr->bytes = len;
	iomap__folio_fill_zero(wr->folio, wr->off, len);
	done = iomap__write_end(wr, len);
	zero_extend(zero, (uint64_t)wr->pos + done);
	zero->did_zero |= done > 0;
	iomap__write_put(wr, done);
}

/* ---- what is mapped ---- */

static int zero_folio(struct zero *zero)
{
	struct iomap__write *wr = &zero->wr;
	struct iomap_iter *iter = wr->iter;
	int err;

	err = iomap__balance_dirty(&iter->inode->i_data);
	if (err)
		return err;
	err = iomap__write_begin(wr, iomap_length(iter));
	if (err || !wr->folio)
		return err;
	zero_bytes(zero, wr->bytes);
	return iomap_iter_advance(iter, wr->bytes);
}

/* ---- what reads as zeros but for busy blocks ---- */

static void zero_find_tagged(struct zero_busy *busy, struct iomap_address_space *mapping,
			     const uint64_t *pages, enum iomap__tag tag, uint64_t pos, uint64_t end)
{
	uint64_t index = pos >> IOMAP_PAGE_SHIFT;
	uint64_t last = (end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
	struct iomap_folio *folios[ZERO_BUSY];

	busy->nr = 0;
	busy->known = end;
	if (!iomap__load_acquire(pages))
		return;
	busy->nr = iomap__filemap_get_tagged(mapping, &index, last, tag, folios, ZERO_BUSY);
	for (unsigned i = 0; i < busy->nr; i++) {
		busy->span[i].pos = (uint64_t)iomap_folio_pos(folios[i]);
		busy->span[i].end = busy->span[i].pos + iomap__folio_bytes(folios[i]);
		iomap_folio_put(folios[i]);
	}
	if (index < last)
		busy->known = iomap__min(end, index << IOMAP_PAGE_SHIFT);
}

/* Before the mapping is sampled. */
static void zero_find_busy(struct zero *zero)
{
	const struct iomap_iter *iter = zero->wr.iter;
	struct iomap_address_space *mapping = &iter->inode->i_data;
	uint64_t pos = (uint64_t)iter->pos, end = pos + iter->len;

	/* in this order: DIRTY goes when WRITEBACK is there */
	zero_find_tagged(&zero->dirty, mapping, &mapping->nr_dirty_pages, IOMAP__TAG_DIRTY, pos,
			 end);
	zero_find_tagged(&zero->writeback, mapping, &mapping->nr_writeback_pages,
			 IOMAP__TAG_WRITEBACK, pos, end);
}

/* The first of the spans that goes on behind @pos, or what there is. */
static struct zero_span zero_next_busy(const struct zero_busy *busy, uint64_t pos,
				       struct zero_span next)
{
	for (unsigned i = 0; i < busy->nr; i++)
		if (busy->span[i].end > pos && busy->span[i].pos < next.pos)
			next = busy->span[i];
	return next;
}

enum zero_state {
	ZERO_DONE,  /* not cached, or zeros */
	ZERO_DIRTY, /* to be zeroed in the cache */
	ZERO_CLEAN, /* data: being written, or it has been since the mapping was sampled */
};

static bool zero_is_zero(const char *mem, size_t len)
{
	return !mem[0] && !memcmp(mem, mem + 1, len - 1);
}

/* The part of one block of the locked folio. */
static enum zero_state zero_block_state(struct iomap_folio *folio, size_t off, size_t len)
{
	bool dirty = folio->ifs ? iomap__ifs_is_dirty(folio->ifs, off, len) :
				  iomap_folio_test_dirty(folio);

	if (!iomap_is_partially_uptodate(folio, off, len))
		return ZERO_DONE;
	if (dirty)
		return ZERO_DIRTY;
	if (zero_is_zero((const char *)iomap_folio_address(folio) + off, len))
		return ZERO_DONE;
	return ZERO_CLEAN;
}

/* The state of the first block of wr, and how many bytes have it. */
static enum zero_state zero_run(const struct iomap__write *wr, size_t *len)
{
	size_t block = iomap__min(iomap_i_blocksize(wr->iter->inode),
				  iomap__folio_bytes(wr->folio));
	size_t off = wr->off, end = wr->off + wr->bytes;
	enum zero_state state = ZERO_DONE, first = ZERO_DONE;

	while (off < end && state == first) {
		size_t next = iomap__min(end, iomap__round_down(off, block) + block);

		state = zero_block_state(wr->folio, off, next - off);
		if (off == wr->off)
			first = state;
		if (state == first)
			off = next;
	}
	*len = off - wr->off;
	return first;
}

/*
 * @len bytes at the iterator's position are clean and not zero: wait until they are written, and
 * ask for the mapping again.  Returns how many of them have been through that, and stay.
 */
static size_t zero_settle(struct zero *zero, size_t len)
{
	uint64_t pos = (uint64_t)zero->wr.iter->pos;

	if (zero->settled.pos <= pos && pos < zero->settled.end)
		return (size_t)iomap__min(len, zero->settled.end - pos);
	/* the lock keeps the next writeback off */
	iomap_folio_wait_writeback(zero->wr.folio);
	zero->settled = (struct zero_span){ .pos = pos, .end = pos + len };
	zero->wr.iter->iomap.flags |= IOMAP_F_STALE;
	return 0;
}

/* Go over a run of blocks of the folio at the iterator's position, which was busy. */
static int zero_busy_run(struct zero *zero, uint64_t limit)
{
	struct iomap__write *wr = &zero->wr;
	struct iomap_iter *iter = wr->iter;
	enum zero_state state;
	size_t len = 0;
	int err;

	err = iomap__balance_dirty(&iter->inode->i_data);
	if (err)
		return err;
	err = iomap__write_begin(wr, limit - (uint64_t)iter->pos);
	if (err || !wr->folio)
		return err;
	state = zero_run(wr, &len);
	if (state == ZERO_DIRTY) {
		zero_bytes(zero, len);
	} else {
		if (state == ZERO_CLEAN)
			len = zero_settle(zero, len);
		iomap__write_put(wr, 0);
	}
	return iomap_iter_advance(iter, len);
}

/* Go over what is left of a folio that was busy, up to @limit. */
static int zero_busy_folio(struct zero *zero, uint64_t limit)
{
	struct iomap_iter *iter = zero->wr.iter;
	struct iomap_folio *folio;
	int err = 0;

	folio = iomap__filemap_get(&iter->inode->i_data, (uint64_t)iter->pos >> IOMAP_PAGE_SHIFT);
	if (!folio) {
		/* it has been written, and evicted */
		iter->iomap.flags |= IOMAP_F_STALE;
		return 0;
	}
	/* with our reference it is not evicted any more */
	limit = iomap__min(limit, (uint64_t)iomap_folio_pos(folio) + iomap__folio_bytes(folio));
	while (!err && (uint64_t)iter->pos < limit && !(iter->iomap.flags & IOMAP_F_STALE))
		err = zero_busy_run(zero, limit);
	iomap_folio_put(folio);
	return err;
}

static int zero_unmapped(struct zero *zero)
{
	struct iomap_iter *iter = zero->wr.iter;
	uint64_t known = iomap__min(zero->dirty.known, zero->writeback.known);
	int err = 0;

	while (!err && iomap_length(iter) && !(iter->iomap.flags & IOMAP_F_STALE)) {
		uint64_t pos = (uint64_t)iter->pos;
		uint64_t end = iomap__min(pos + iomap_length(iter), known);
		struct zero_span busy = { .pos = end, .end = end };

		busy = zero_next_busy(&zero->dirty, pos, busy);
		busy = zero_next_busy(&zero->writeback, pos, busy);
		if (pos >= known)
			iter->iomap.flags |= IOMAP_F_STALE;
		else if (busy.pos > pos)
			err = iomap_iter_advance(iter, iomap__min(busy.pos, end) - pos);
		else
			err = zero_busy_folio(zero, iomap__min(busy.end, end));
	}
	return err;
}

/* ---- the calls ---- */

static int zero_mapping(struct zero *zero)
{
	struct iomap_iter *iter = zero->wr.iter;
	int err = 0;

	if (iter->iomap.type != IOMAP_INLINE && iomap_iter_srcmap(iter)->type != IOMAP_MAPPED &&
	    iomap_iter_srcmap(iter)->type != IOMAP_INLINE)
		return zero_unmapped(zero);
	while (!err && iomap_length(iter) && !(iter->iomap.flags & IOMAP_F_STALE))
		err = zero_folio(zero);
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
	struct zero zero = {
		.wr = { .iter = &iter, .ops = write_ops },
		.how = how,
	};
	int ret;

	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	do {
		zero_find_busy(&zero);
		ret = iomap_iter(&iter, ops);
		if (ret > 0)
			iter.status = zero_mapping(&zero);
	} while (ret > 0);
	if (!ret && iter.len)
		ret = -EIO;
	if (did_zero && zero.did_zero)
		*did_zero = true;
	return ret;
}

int iomap_zero_range(struct iomap_inode *inode, int64_t pos, int64_t len, bool *did_zero,
		     const struct iomap_ops *ops, const struct iomap_write_ops *write_ops,
		     void *private_data)
{
	iomap__inode_check(inode);
	if (pos < 0 || len < 0 || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	if (len > INT64_MAX - pos)
		return -EOVERFLOW;
	return iomap__zero_range(inode, pos, pos + len, IOMAP__ZERO_KEEP_SIZE, did_zero, ops,
				 write_ops, private_data);
}
