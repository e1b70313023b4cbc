/* SPDX-License-Identifier: MIT */
/*
 * buffered_read.c - filling folios: one by iomap_read_folio(), a window by iomap_readahead().
 *
 * Life of a read of one folio, which is locked from before the first step to the last:
 *
 *	start	    read_bytes = 1, i_size remembered, block state made if there are several
 *	ranges	    blocks that are uptodate are left out; holes, unwritten space and what lies
 *		    beyond EOF is zeroed, inline data copied; what is mapped is given to
 *		    read_folio_range with its bytes added to read_bytes
 *	end	    the 1 is taken away again
 *	completion  iomap_finish_folio_read() takes a range's bytes away, from any thread
 *
 * Whoever brings read_bytes to 0 ends the read: everything beyond the remembered i_size is
 * zeroed, since the device may hold anything there, the folio becomes uptodate if all of its
 * blocks are, and is unlocked.  The 1 keeps that from happening while ranges are still being
 * started, however early their completions come.
 *
 * Block reads have an application's end_read look at what came from the device, before its bytes
 * are taken away: what it finds wrong is a range that failed.
 *
 * A block's uptodate bit is set when the first range in it is taken in hand and cleared by
 * any range in it that fails: mappings may end inside a block, and the lock hides the bits
 * until all is done.  A folio of one block is uptodate if read_error stayed 0.
 *
 * The folio is not uptodate while it is filled, so its bytes are stored without moving its
 * version: copying readers look at UPTODATE first.
 */
#include "block/block.h"
#include "iomap/ops.h"

/* One call of iomap_read_folio() or iomap_readahead(). */
struct rd {
	struct iomap_iter iter;
	struct iomap_read_folio_ctx *ctx;
	struct iomap_folio *folio; /* being filled; NULL between two folios of a window */
	size_t done;		   /* of the folio: bytes taken in hand */
	int64_t i_size;		   /* at the start */
	bool handed;		   /* the folio's lock may be a completion's by now */
	bool submit;		   /* read_folio_range was called */
};

static void rd_set_error(struct iomap_folio *folio, int error)
{
	int16_t none = 0;

	/* first error wins; several completions may come at once */
	__atomic_compare_exchange_n(&folio->read_error, &none, (int16_t)error, false,
				    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void rd_zero(struct iomap_folio *folio, size_t off, size_t len)
{
	iomap__zero_folio_mem((char *)iomap_folio_address(folio) + off, len);
}

/* ---- the end of a read ---- */

/* Nothing is in flight any more: the folio is this thread's alone. */
static void rd_complete(struct iomap_folio *folio)
{
	size_t bytes = iomap__folio_bytes(folio);
	bool uptodate = folio->ifs ? iomap__ifs_all_uptodate(folio)
				   : !__atomic_load_n(&folio->read_error, __ATOMIC_RELAXED);

	if (folio->read_valid < bytes)
		rd_zero(folio, folio->read_valid, bytes - folio->read_valid);
	if (uptodate)
		iomap_folio_mark_uptodate(folio);
	iomap_folio_unlock(folio);
}

/* Take @n bytes away from those in flight. */
static void rd_put_bytes(struct iomap_folio *folio, uint32_t n)
{
	/*
	 * Release: what was done to the folio for these bytes comes before the end of the
	 * read; acquire, for whoever ends it.
	 */
	uint32_t old = atomic_fetch_sub_explicit(&folio->read_bytes, n, memory_order_acq_rel);

	iomap__assert_msg(old >= n, "iomap_finish_folio_read: more bytes than were accepted");
	if (old == n)
		rd_complete(folio);
}

void iomap_finish_folio_read(struct iomap_folio *folio, size_t off, size_t len, int error)
{
	iomap__assert_msg(iomap_folio_test_locked(folio) &&
				  off + len <= iomap__folio_bytes(folio) &&
				  len <= atomic_load(&folio->read_bytes),
			  "iomap_finish_folio_read: a range that is not being read");
	if (iomap__unlikely(error)) {
		rd_set_error(folio, error);
		iomap__ifs_clear_uptodate(folio, off, len);
	}
	rd_put_bytes(folio, (uint32_t)len);
}

/* ---- one folio ---- */

static int rd_start(struct rd *rd, struct iomap_folio *folio)
{
	int64_t pos = iomap_folio_pos(folio);
	uint64_t valid = rd->i_size > pos ? (uint64_t)(rd->i_size - pos) : 0;

	rd->folio = folio;
	rd->done = 0;
	rd->handed = false;
	rd->ctx->cur_folio = folio;
	/* atomic: iomap__folio_read_error() looks without the lock */
	__atomic_store_n(&folio->read_error, 0, __ATOMIC_RELAXED);
	folio->read_valid = (uint32_t)iomap__min(valid, iomap__folio_bytes(folio));
	atomic_store_explicit(&folio->read_bytes, 1, memory_order_relaxed);
	return iomap__ifs_alloc(rd->iter.inode, folio);
}

/* No more ranges of this folio; what was not taken in hand lies beyond EOF or has failed. */
static void rd_end(struct rd *rd, int error)
{
	struct iomap_folio *folio = rd->folio;
	size_t left = iomap__folio_bytes(folio) - rd->done;

	if (error) {
		rd_set_error(folio, error);
		/* the block in the middle of which the read stopped */
		if (rd->done & (iomap_i_blocksize(rd->iter.inode) - 1))
			iomap__ifs_clear_uptodate(folio, rd->done, 1);
	} else if (left) {
		rd_zero(folio, rd->done, left);
		iomap__ifs_set_uptodate(folio, rd->done, left);
	}
	rd->folio = NULL;
	rd_put_bytes(folio, 1);
}

/* ---- ranges ---- */

/*
 * Where the range that starts at @off ends: with the mapping (@n bytes), the folio, the next
 * uptodate block, or the block that holds EOF.
 */
static size_t rd_range_end(const struct rd *rd, const struct iomap *src, size_t off, uint64_t n)
{
	struct iomap_inode *inode = rd->iter.inode;
	size_t bytes = iomap__folio_bytes(rd->folio), block = iomap_i_blocksize(inode);
	size_t end = (size_t)iomap__min(n, bytes - off) + off;
	size_t valid = rd->folio->read_valid;
	unsigned next;

	next = iomap__ifs_find_uptodate(inode, rd->folio, (unsigned)(off >> inode->i_blkbits) + 1,
					true);
	end = iomap__min(end, (size_t)next << inode->i_blkbits);
	if (end < valid)
		return end;
	/* blocks wholly beyond EOF are zeroed at the end */
	end = iomap__min(end, iomap__round_up(valid, block));
	if (end & (block - 1) && src->type == IOMAP_MAPPED && src->bdev) {
		/* the mapping ends with the file: the device wants a whole sector */
		struct iomap_bdev_limits limits;

		iomap_bdev_limits(src->bdev, &limits);
		end = iomap__min(iomap__round_up(end, limits.logical_block_size), bytes);
	}
	return end;
}

/* Copy inline data to [off, end) of the folio; beyond EOF it is zero. */
static void rd_inline(struct rd *rd, const struct iomap *src, size_t off, size_t end)
{
	const char *data = (const char *)src->inline_data + (rd->iter.pos - src->offset);
	size_t valid = iomap__max(iomap__min(end, rd->folio->read_valid), off);

	iomap__copy_to_folio((char *)iomap_folio_address(rd->folio) + off, data, valid - off);
	rd_zero(rd->folio, valid, end - valid);
}

static int rd_mapped(struct rd *rd, size_t off, size_t len)
{
	struct iomap_folio *folio = rd->folio;
	int err;

	if (!rd->handed) {
		iomap__folio_handoff(folio);
		rd->handed = true;
	}
	atomic_fetch_add_explicit(&folio->read_bytes, (uint32_t)len, memory_order_relaxed);
	rd->submit = true;
	err = rd->ctx->ops->read_folio_range(&rd->iter, rd->ctx, len);
	if (err) {
		iomap__ifs_clear_uptodate(folio, off, len);
		/* the 1 of the whole read is still there */
		atomic_fetch_sub_explicit(&folio->read_bytes, (uint32_t)len, memory_order_acq_rel);
	}
	return err;
}

/* Take one range in hand, or step over blocks that need nothing. */
static int rd_step(struct rd *rd)
{
	struct iomap_iter *iter = &rd->iter;
	const struct iomap *src = iomap_iter_srcmap(iter);
	size_t off = (size_t)(iter->pos - iomap_folio_pos(rd->folio)), end;
	unsigned blkbits = iter->inode->i_blkbits;
	uint64_t n = iomap_length(iter);
	int err = 0;

	if (off == rd->done && !(off & (iomap_i_blocksize(iter->inode) - 1))) {
		unsigned next = iomap__ifs_find_uptodate(iter->inode, rd->folio,
							 (unsigned)(off >> blkbits), false);

		rd->done = (size_t)next << blkbits;
	}
	if (off < rd->done)
		return iomap_iter_advance(iter, iomap__min(n, rd->done - off));

	end = rd_range_end(rd, src, off, n);
	iomap__ifs_set_uptodate(rd->folio, off, end - off);
	if (src->type == IOMAP_INLINE)
		rd_inline(rd, src, off, end);
	else if (src->type != IOMAP_MAPPED || src->flags & IOMAP_F_NEW)
		rd_zero(rd->folio, off, end - off);
	else
		err = rd_mapped(rd, off, end - off);
	if (err)
		return err;
	rd->done = end;
	return iomap_iter_advance(iter, iomap__min(n, end - off));
}

/* The folio at iter.pos is in hand, also when this is the next one of a window. */
static int rd_find_folio(struct rd *rd)
{
	struct iomap_folio *folio = rd->folio;

	if (folio && rd->iter.pos - iomap_folio_pos(folio) < (int64_t)iomap__folio_bytes(folio))
		return 0;
	if (folio)
		rd_end(rd, 0);
	folio = rd->ctx->rac ? iomap_readahead_folio(rd->ctx->rac) : NULL;
	return folio ? rd_start(rd, folio) : -EIO;
}

/* Work on the current mapping.  Beyond EOF nobody need be asked where the bytes are. */
static int rd_mapping(struct rd *rd)
{
	struct iomap_iter *iter = &rd->iter;
	int err = 0;

	while (!err && iomap_length(iter) && iter->pos < rd->i_size) {
		err = rd_find_folio(rd);
		if (!err)
			err = rd_step(rd);
	}
	if (!err && iter->pos >= rd->i_size) {
		err = iomap_iter_advance(iter, iomap_length(iter));
		iter->len = 0;
	}
	return err;
}

/* Read [pos, pos + len), whose folios are locked. */
static int rd_range(struct rd *rd, const struct iomap_ops *ops, int64_t pos, size_t len)
{
	struct iomap_iter *iter = &rd->iter;
	int ret;

	iter->pos = pos;
	iter->len = pos < rd->i_size ? len : 0;
	while ((ret = iomap_iter(iter, ops)) > 0)
		iter->status = rd_mapping(rd);
	return ret;
}

static bool rd_usable(const struct iomap_ops *ops, const struct iomap_read_folio_ctx *ctx)
{
	return ops && ops->iomap_begin && ctx->ops && ctx->ops->read_folio_range;
}

static void rd_submit(struct rd *rd)
{
	if (rd->submit && rd->ctx->ops->submit_read)
		rd->ctx->ops->submit_read(rd->ctx);
}

int iomap_read_folio(const struct iomap_ops *ops, struct iomap_read_folio_ctx *ctx)
{
	struct rd rd = { .ctx = ctx };
	struct iomap_folio *folio;
	int ret;

	if (!ctx || !ctx->cur_folio)
		return -EINVAL;
	folio = ctx->cur_folio;
	if (!rd_usable(ops, ctx)) {
		iomap_folio_unlock(folio);
		return -EINVAL;
	}
	if (iomap_folio_test_uptodate(folio)) {
		iomap_folio_unlock(folio);
		return 0;
	}
	rd.iter.inode = iomap_folio_inode(folio);
	rd.i_size = iomap_i_size_read(rd.iter.inode);
	ret = rd_start(&rd, folio);
	if (!ret)
		ret = rd_range(&rd, ops, iomap_folio_pos(folio), iomap__folio_bytes(folio));
	rd_end(&rd, ret);
	rd_submit(&rd);
	return ret;
}

int iomap_readahead(const struct iomap_ops *ops, struct iomap_read_folio_ctx *ctx)
{
	struct rd rd = { .ctx = ctx };
	struct iomap_readahead_control *rac;
	int ret;

	if (!ctx || !ctx->rac || !rd_usable(ops, ctx))
		return -EINVAL;
	rac = ctx->rac;
	rd.iter.inode = rac->mapping->host;
	rd.i_size = iomap_i_size_read(rd.iter.inode);
	ret = rd_range(&rd, ops, iomap_readahead_pos(rac), iomap_readahead_length(rac));
	if (rd.folio)
		rd_end(&rd, ret);
	/* folios that nobody took after an error are the caller's again; past EOF they are zero */
	while (!ret && (rd.folio = iomap_readahead_folio(rac)))
		rd_end(&rd, rd_start(&rd, rd.folio));
	rd_submit(&rd);
	return 0;
}

/* ---- block reads ---- */

/* Folios that the read may still want: how many vectors a bio should have room for. */
static unsigned rd_bio_vecs(const struct iomap_read_folio_ctx *ctx)
{
	size_t pages = 1;

	if (ctx->rac)
		pages += iomap_readahead_length(ctx->rac) >> IOMAP_PAGE_SHIFT;
	return (unsigned)iomap__min(pages, IOMAP_BIO_MAX_VECS);
}

struct rd_bio_end {
	const struct iomap_bio *bio;
	const struct iomap_read_ops *ops;
	bool logged;
};

/*
 * The application looks at what has been read, block by block: what it finds wrong with one is
 * no reason to do without its neighbours.
 */
static void rd_verify(const struct iomap_read_ops *ops, struct iomap_folio *folio, size_t off,
		      size_t len, int status)
{
	size_t block = iomap_i_blocksize(iomap_folio_inode(folio)), end = off + len, next;
	int error;

	for (; off < end; off = next) {
		next = iomap__min(iomap__round_down(off, block) + block, end);
		error = ops->end_read(folio, off, next - off, status);
		if (error > 0 || error < -4095)
			error = -EIO;
		iomap_finish_folio_read(folio, off, next - off, error);
	}
}

static void rd_bio_folio(void *arg, struct iomap_folio *folio, size_t off, size_t len)
{
	struct rd_bio_end *end = arg;
	const struct iomap_bio *bio = end->bio;

	if (bio->bi_status && !end->logged) {
		/* one line for the bio: its first range tells where the rest is */
		end->logged = true;
		iomap__log_io_error(iomap_folio_inode(folio), "read",
				    iomap_folio_pos(folio) + (int64_t)off, bio->bi_iter.bi_size,
				    bio->bi_bdev, bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT,
				    bio->bi_status);
	}
	if (end->ops->end_read)
		rd_verify(end->ops, folio, off, len, bio->bi_status);
	else
		iomap_finish_folio_read(folio, off, len, bio->bi_status);
}

static void rd_bio_end_io(struct iomap_bio *bio)
{
	struct rd_bio_end end = { .bio = bio, .ops = bio->bi_private };
	struct iomap_engine *engine = iomap__bdev_engine(bio->bi_bdev);

	iomap__bio_for_each_folio(bio, engine->cache, rd_bio_folio, &end);
	iomap_bio_put(bio);
}

/* The bio being built goes on at @pos, on @sector, and has room. */
static bool rd_bio_add(struct iomap_bio *bio, const struct iomap *iomap, int64_t pos,
		       uint64_t sector, struct iomap_folio *folio, size_t off, size_t len)
{
	if (iomap->flags & IOMAP_F_BOUNDARY && pos == iomap->offset)
		return false;
	return bio && bio->bi_bdev == iomap->bdev && iomap_bio_end_sector(bio) == sector &&
	       iomap_bio_add_folio(bio, folio, len, off);
}

int iomap_bio_read_folio_range(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
			       size_t len)
{
	const struct iomap *src = iomap_iter_srcmap(iter);
	struct iomap_folio *folio = ctx->cur_folio;
	size_t off = (size_t)(iter->pos - iomap_folio_pos(folio));
	uint64_t sector = iomap__mapping_addr(src, iter->pos) >> IOMAP_SECTOR_SHIFT;
	uint32_t opf = IOMAP_REQ_OP_READ | (ctx->rac ? IOMAP_REQ_RAHEAD : IOMAP_REQ_SYNC);
	struct iomap_bio *bio = ctx->read_ctx;
	int err;

	err = iomap__check_device(iter->inode, src, iter->pos, len);
	if (err)
		return err;
	iomap__cache_count2(iter->inode->i_engine, IOMAP__STAT_RANGES, 1);
	if (rd_bio_add(bio, src, iter->pos, sector, folio, off, len))
		return 0;
	iomap_bio_submit_read(ctx);
	bio = iomap_bio_alloc(src->bdev, rd_bio_vecs(ctx), opf, ctx->ops->bio_set);
	if (!bio)
		return -ENOMEM;
	bio->bi_iter.bi_sector = sector;
	bio->bi_end_io = rd_bio_end_io;
	bio->bi_private = (void *)(uintptr_t)ctx->ops;
	if (!iomap_bio_add_folio(bio, folio, len, off)) {
		iomap_bio_put(bio);
		return -EIO;
	}
	iomap__cache_count2(iter->inode->i_engine, IOMAP__STAT_RANGE_BIOS, 1);
	ctx->read_ctx = bio;
	return 0;
}

void iomap_bio_submit_read(struct iomap_read_folio_ctx *ctx)
{
	struct iomap_bio *bio = ctx->read_ctx;

	if (!bio)
		return;
	ctx->read_ctx = NULL;
	iomap_submit_bio(bio);
}

const struct iomap_read_ops iomap_bio_read_ops = {
	.read_folio_range = iomap_bio_read_folio_range,
	.submit_read = iomap_bio_submit_read,
};

int iomap_bio_read_folio(struct iomap_folio *folio, const struct iomap_ops *ops)
{
	struct iomap_read_folio_ctx ctx = { .ops = &iomap_bio_read_ops, .cur_folio = folio };

	return iomap_read_folio(ops, &ctx);
}

void iomap_bio_readahead(struct iomap_readahead_control *rac, const struct iomap_ops *ops)
{
	struct iomap_read_folio_ctx ctx = { .ops = &iomap_bio_read_ops, .rac = rac };

	/* what could not be read is read, and reported, when somebody asks for it */
	iomap_readahead(ops, &ctx);
}
