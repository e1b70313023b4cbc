/* SPDX-License-Identifier: MIT */
/*
 * buffered_write.c - writing through the cache, one folio after the other.
 *
 *	iomap_begin			no lock of ours
 *	  throttle			no lock of ours: may write back and wait
 *	  get_folio			locked from here on
 *	  iomap_valid			or the mapping is sampled again
 *	  fill				what the write leaves of its first and last block
 *	  copy				moves the folio's version, for copying readers
 *	  uptodate, dirty, i_size	or, for inline data, into inline_data
 *	  put_folio			unlocks
 *	iomap_end
 *
 * i_size moves with the folio locked, after its bytes are there: a reader that sees the new
 * size sees the bytes, and writeback, which cuts at i_size, never finds a dirty folio that
 * a write has put beyond it.  It only ever grows here, by compare-and-swap, so that two
 * writers under a shared i_rwsem cannot take each other's end away.
 *
 * A block that is not uptodate is filled before the copy: its old bytes are read, or zeroed
 * where there are none.  Blocks that the write covers are not, so they become uptodate only
 * after the copy, and a copy that comes up short counts for nothing.
 */
#include "block/block.h"
#include "iomap/iter.h"
#include "iomap/ops.h"

/* iocb flags that a write takes, and those that change nothing in how it is done. */
#define WR_IOCB_PLAIN                                                                              \
	(IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT | IOMAP_IOCB_HIPRI |               \
	 IOMAP_IOCB_WRITE)
#define WR_IOCB_FLAGS                                                                              \
	(WR_IOCB_PLAIN | IOMAP_IOCB_APPEND | IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE |      \
	 IOMAP_IOCB_CHECKED | IOMAP_IOCB_NOTHROTTLE)

/* ---- errors as pointers: the last page of the address space ---- */

#define ERR_MAX 4095

void *iomap_err_ptr(long error)
{
	return (void *)error;
}

long iomap_ptr_err(const void *ptr)
{
	return (long)ptr;
}

bool iomap_is_err(const void *ptr)
{
	return (uintptr_t)ptr >= (uintptr_t)-ERR_MAX;
}

/* ---- the folio ---- */

struct iomap_folio *iomap_get_folio(struct iomap_iter *iter, int64_t pos, size_t len)
{
	uint64_t end = ((uint64_t)pos + len + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
	struct iomap_folio *folio;
	int err;

	err = iomap__filemap_grab(&iter->inode->i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT, end,
				  iter->flags, &folio);
	return err ? iomap_err_ptr(err) : folio;
}

void iomap__write_put(struct iomap__write *wr, size_t copied)
{
	struct iomap_folio *folio = wr->folio;

	wr->folio = NULL;
	if (wr->ops && wr->ops->put_folio) {
		wr->ops->put_folio(wr->iter->inode, wr->pos, (unsigned)copied, folio);
		return;
	}
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
}

/* Bytes from wr->pos to where the largest folio there can be would end. */
static uint64_t wr_folio_room(const struct iomap__write *wr)
{
	size_t bytes = IOMAP_PAGE_SIZE << wr->iter->inode->i_data.max_order;

	return bytes - ((uint64_t)wr->pos & (bytes - 1));
}

static int wr_get(struct iomap__write *wr, uint64_t len)
{
	struct iomap_iter *iter = wr->iter;
	struct iomap_folio *folio;
	int64_t first;

	wr->folio = NULL;
	wr->pos = iter->pos;
	len = iomap__min(len, wr_folio_room(wr));
	if (wr->ops && wr->ops->get_folio)
		folio = wr->ops->get_folio(iter, wr->pos, (unsigned)len);
	else
		folio = iomap_get_folio(iter, wr->pos, len);
	if (!folio)
		return -ENOMEM;
	if (iomap_is_err(folio))
		return (int)iomap_ptr_err(folio);
	wr->folio = folio;
	first = iomap_folio_pos(folio);
	if (iomap_folio_mapping(folio) != &iter->inode->i_data || first > wr->pos ||
	    (uint64_t)(wr->pos - first) >= iomap__folio_bytes(folio)) {
		iomap__broken_mapping(iter->inode, &iter->iomap, wr->pos,
				      "get_folio returned another folio");
		iomap__write_put(wr, 0);
		return -EIO;
	}
	wr->off = (size_t)(wr->pos - first);
	wr->bytes = (size_t)iomap__min(len, iomap__folio_bytes(folio) - wr->off);
	return 0;
}

/* ---- what the write does not cover ---- */

int iomap_bio_read_folio_range_sync(const struct iomap_iter *iter, struct iomap_folio *folio,
				    int64_t pos, size_t len)
{
	const struct iomap *src = iomap_iter_srcmap(iter);
	size_t off = (size_t)(pos - iomap_folio_pos(folio));
	struct iomap_bio *bio;
	uint64_t addr;
	int err;

	err = iomap__check_device(iter->inode, src, pos, len);
	if (err)
		return err;
	bio = iomap_bio_alloc(src->bdev, 1, IOMAP_REQ_OP_READ | IOMAP_REQ_SYNC, NULL);
	if (!bio)
		return -ENOMEM;
	addr = iomap__mapping_addr(src, pos);
	bio->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	/* an empty bio has room for one vector */
	err = iomap_bio_add_folio(bio, folio, len, off) ? iomap_submit_bio_wait(bio) : -EIO;
	iomap_bio_put(bio);
	if (err)
		iomap__log_io_error(iter->inode, "read before write", pos, len, src->bdev, addr,
				    err);
	return err;
}

static void wr_zero(struct iomap__write *wr, size_t off, size_t len)
{
	/* the block is not uptodate: no reader looks, the version need not move */
	iomap__zero_folio_mem((char *)iomap_folio_address(wr->folio) + off, len);
}

static void wr_mark_uptodate(struct iomap_folio *folio, size_t off, size_t len)
{
	if (iomap_folio_test_uptodate(folio))
		return;
	iomap__ifs_set_uptodate(folio, off, len);
	if (!folio->ifs || iomap__ifs_all_uptodate(folio))
		iomap_folio_mark_uptodate(folio);
}

/* Read the block at @off of the folio, of which @valid bytes lie below i_size. */
static int wr_fill_read(struct iomap__write *wr, size_t off, size_t block, size_t valid)
{
	const struct iomap_iter *iter = wr->iter;
	const struct iomap *src = iomap_iter_srcmap(iter);
	int64_t pos = iomap_folio_pos(wr->folio) + (int64_t)off;
	size_t len = block;
	struct iomap_engine *engine = iter->inode->i_engine;
	uint64_t began_ns;
	int err;

	if (iter->flags & IOMAP_NOWAIT)
		return -EAGAIN;
	began_ns = iomap__now_ns(&engine->env);
	if (wr->ops && wr->ops->read_folio_range) {
		err = wr->ops->read_folio_range(iter, wr->folio, pos, len);
	} else {
		struct iomap_bdev_limits limits = { .logical_block_size = IOMAP_SECTOR_SIZE };

		/* the device need not go on behind the sector in which the file ends */
		if (src->bdev)
			iomap_bdev_limits(src->bdev, &limits);
		len = iomap__min(len, iomap__round_up(valid, limits.logical_block_size));
		err = iomap_bio_read_folio_range_sync(iter, wr->folio, pos, len);
	}
	iomap__cache_took(engine, IOMAP_HIST_WRITE, began_ns);
	if (err)
		return err;
	if (valid < block)
		wr_zero(wr, off + valid, block - valid);
	wr_mark_uptodate(wr->folio, off, block);
	return 0;
}

/* Inline data is the source of the block at @off; around it and past EOF there is nothing. */
static void wr_fill_inline(struct iomap__write *wr, size_t off, size_t block, size_t valid)
{
	const struct iomap *src = iomap_iter_srcmap(wr->iter);
	uint64_t start = (uint64_t)iomap_folio_pos(wr->folio) + off;
	uint64_t from = iomap__max((uint64_t)src->offset, start);
	uint64_t to = iomap__min(iomap__mapping_end(src), start + valid);

	wr_zero(wr, off, block);
	if (from < to)
		iomap__copy_to_folio((char *)iomap_folio_address(wr->folio) + off + (from - start),
				     (const char *)src->inline_data +
					     (from - (uint64_t)src->offset),
				     (size_t)(to - from));
}

/* The block at @off of the folio is not uptodate and not wholly written. */
static int wr_fill_block(struct iomap__write *wr, size_t off, size_t block)
{
	struct iomap_inode *inode = wr->iter->inode;
	const struct iomap *src = iomap_iter_srcmap(wr->iter);
	int64_t pos = iomap_folio_pos(wr->folio) + (int64_t)off;
	int64_t size = iomap_i_size_read(inode);
	size_t valid = size > pos ? (size_t)iomap__min((uint64_t)(size - pos), block) : 0;
	size_t end = wr->off + wr->bytes;

	if (src->type == IOMAP_INLINE) {
		wr_fill_inline(wr, off, block, valid);
		return 0;
	}
	if (valid && src->type == IOMAP_MAPPED && !(src->flags & IOMAP_F_NEW))
		return wr_fill_read(wr, off, block, valid);
	/* only around the write: it comes next */
	if (off < wr->off)
		wr_zero(wr, off, wr->off - off);
	if (off + block > end)
		wr_zero(wr, end, off + block - end);
	return 0;
}

/*
 * The part of the folio that the write makes its own: its bytes, and, when inline data moves
 * out to blocks, all of that, since the application is about to forget where it was.
 */
static void wr_own_range(const struct iomap__write *wr, size_t *off, size_t *end)
{
	const struct iomap *src = iomap_iter_srcmap(wr->iter);
	int64_t first = iomap_folio_pos(wr->folio);
	uint64_t limit = (uint64_t)first + iomap__folio_bytes(wr->folio);

	*off = wr->off;
	*end = wr->off + wr->bytes;
	if (src->type != IOMAP_INLINE || wr->iter->iomap.type == IOMAP_INLINE)
		return;
	/* it lies within one page, the one that is written to */
	*off = iomap__min(*off, (size_t)(iomap__max(src->offset, first) - first));
	*end = iomap__max(*end, (size_t)(iomap__min(iomap__mapping_end(src), limit) -
					 (uint64_t)first));
}

static int wr_fill(struct iomap__write *wr)
{
	struct iomap_inode *inode = wr->iter->inode;
	size_t block = iomap__min(iomap_i_blocksize(inode), iomap__folio_bytes(wr->folio));
	/* unsharing keeps the bytes that it makes dirty */
	const bool overwrites = !(wr->iter->flags & IOMAP_UNSHARE);
	size_t off, end;
	int err;

	err = iomap__ifs_alloc(inode, wr->folio);
	if (err || iomap_folio_test_uptodate(wr->folio))
		return err;
	wr_own_range(wr, &off, &end);
	for (off = iomap__round_down(off, block); off < end; off += block) {
		if (overwrites && wr->off <= off && off + block <= wr->off + wr->bytes)
			continue;
		if (iomap_is_partially_uptodate(wr->folio, off, block))
			continue;
		err = wr_fill_block(wr, off, block);
		if (err)
			return err;
	}
	return 0;
}

/*
 * Until the folio may be changed.  It stays locked, which the end of writeback does not need;
 * unlocked, it might be under writeback again.
 */
static int wr_wait_stable(struct iomap__write *wr)
{
	struct iomap_inode *inode = wr->iter->inode;
	uint32_t flags = atomic_load_explicit(&wr->folio->flags, memory_order_acquire);
	uint64_t began_ns;

	if (!iomap__folio_is_stable(&inode->i_data, flags))
		return 0;
	if (wr->iter->flags & IOMAP_NOWAIT)
		return -EAGAIN;
	began_ns = iomap__now_ns(&inode->i_engine->env);
	iomap_folio_wait_writeback(wr->folio);
	iomap__cache_took(inode->i_engine, IOMAP_HIST_WRITE, began_ns);
	return 0;
}

int iomap__write_begin(struct iomap__write *wr, uint64_t len)
{
	struct iomap_iter *iter = wr->iter;
	int err;

	err = wr_get(wr, len);
	if (err)
		return err;
	err = wr_wait_stable(wr);
	if (err) {
		iomap__write_put(wr, 0);
		return err;
	}
	/*
	 * Only now: while the folio was not locked, writeback may have changed the mapping and
	 * the folio may have been evicted, so that filling it by the old mapping would read
	 * old bytes.
	 */
	if (wr->ops && wr->ops->iomap_valid && !wr->ops->iomap_valid(iter->inode, &iter->iomap)) {
		iter->iomap.flags |= IOMAP_F_STALE;
		iomap__write_put(wr, 0);
		return 0;
	}
	err = wr_fill(wr);
	if (err)
		iomap__write_put(wr, 0);
	return err;
}

/* ---- after the copy ---- */

size_t iomap__write_end(struct iomap__write *wr, size_t copied)
{
	struct iomap_inode *inode = wr->iter->inode;
	const struct iomap *iomap = &wr->iter->iomap;
	struct iomap_folio *folio = wr->folio;
	size_t block = iomap__min(iomap_i_blocksize(inode), iomap__folio_bytes(folio));
	size_t off, end;

	if (copied < wr->bytes && !iomap_is_partially_uptodate(folio, wr->off, wr->bytes))
		return 0;
	wr_own_range(wr, &off, &end);
	wr_mark_uptodate(folio, iomap__round_down(off, block),
			 iomap__round_up(end, block) - iomap__round_down(off, block));
	if (!copied)
		return 0;
	if (iomap->type == IOMAP_INLINE) {
		iomap_folio_read(folio, wr->off,
				 (char *)iomap->inline_data + (wr->pos - iomap->offset), copied);
		return copied;
	}
	iomap__ifs_set_dirty(folio, off, end - off);
	iomap__filemap_dirty_folio(&inode->i_data, folio);
	return copied;
}

void iomap__write_extend(struct iomap_iter *iter, int64_t end)
{
	struct iomap_inode *inode = iter->inode;
	int64_t size = iomap__load(&inode->i_size);

	while (size < end)
		/* release: pairs with iomap_i_size_read() */
		if (__atomic_compare_exchange_n(&inode->i_size, &size, end, false, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED)) {
			iter->iomap.flags |= IOMAP_F_SIZE_CHANGED;
			return;
		}
}

/* ---- overwriting what is cached ---- */

/* Who gets or puts folios himself wants the ordinary way. */
static inline bool wr_finds_folios(const struct iomap_write_ops *ops)
{
	return !ops || (!ops->get_folio && !ops->put_folio);
}

/* So does inline data. */
static inline bool wr_may_hit(const struct iomap_iter *iter, const struct iomap_write_ops *ops)
{
	return wr_finds_folios(ops) && iter->iomap.type != IOMAP_INLINE &&
	       iter->srcmap.type != IOMAP_INLINE;
}

/* Of a folio of several blocks it has to be known which of them are dirty. */
static inline bool wr_hit_has_state(const struct iomap_inode *inode,
				    const struct iomap__write_hit *hit)
{
	return hit->flags & IOMAP__FOLIO_DIRTY || hit->folio->ifs ||
	       iomap__folio_blocks(inode, hit->folio) <= 1;
}

/* False: the mapping is stale. */
static inline bool wr_hit_is_valid(struct iomap_iter *iter, const struct iomap_write_ops *ops)
{
	if (iomap__likely(!ops) || !ops->iomap_valid ||
	    ops->iomap_valid(iter->inode, &iter->iomap))
		return true;
	iter->iomap.flags |= IOMAP_F_STALE;
	return false;
}

static inline void wr_hit_copy(struct iomap__write_hit *hit, size_t n, struct iomap_iov_iter *from)
{
	if (from->iov) {
		iomap__copy_iter_to_folio(hit->mem, n, from);
		return;
	}
	iomap__copy_to_folio(hit->mem, from->ubuf + from->iov_offset, n);
	from->iov_offset += n;
	from->count -= n;
}

/* The bytes are there, and uptodate: dirty, and below i_size. */
static inline void wr_hit_end(struct iomap_iter *iter, struct iomap__write_hit *hit, size_t n)
{
	struct iomap_inode *inode = iter->inode;

	if (hit->folio->ifs)
		iomap__ifs_set_dirty(hit->folio, hit->off, n);
	if (!(hit->flags & IOMAP__FOLIO_DIRTY))
		iomap__filemap_dirty_folio(&inode->i_data, hit->folio);
	iomap__iter_advance(iter, n);
	if (iter->pos > iomap__load(&inode->i_size))
		iomap__write_extend(iter, iter->pos);
}

int iomap__write_balance(const struct iomap_iter *iter)
{
	if (iter->flags & IOMAP_NOWAIT)
		return iomap__balance_dirty_nowait(&iter->inode->i_data);
	return iomap__balance_dirty(&iter->inode->i_data);
}

/* A clean folio becomes dirty, which others throttle behind it, but NOWAIT before it, or never. */
static inline bool wr_hit_is_allowed(struct iomap_iter *iter, const struct iomap__write_hit *hit)
{
	if (hit->flags & IOMAP__FOLIO_DIRTY ||
	    iomap__likely(!(iter->flags & IOMAP_NOWAIT) &&
			  !iomap__writes_fail(iter->inode->i_engine)))
		return true;
	/* or the ordinary way, which asks before it locks */
	return iter->flags & IOMAP_NOWAIT && !iomap__write_balance(iter);
}

/* The folio of the iterator's position, locked, if that takes no more than a moment. */
static bool wr_hit_lock(const struct iomap_iter *iter, const struct iomap_file *file,
			struct iomap__write_hit *hit)
{
	uintptr_t entry = iomap__write_hit_find(file, iter->pos);
	unsigned spins = IOMAP__WRITE_HIT_SPINS;

	if (!entry)
		return false;
	while (!iomap__write_hit_lock(file, entry, iter->pos, IOMAP__FOLIO_UPTODATE,
				      IOMAP__FOLIO_UPTODATE, hit))
		if (!iomap__write_hit_pause(iomap__entry_folio(entry), &spins))
			return false;
	return true;
}

/*
 * Write into one folio as far as it and the mapping go, if it is cached and uptodate and can be
 * locked without sleeping.  False: it cannot, or the mapping was found stale.
 */
static bool wr_hit(struct iomap_iter *iter, const struct iomap_file *file,
		   struct iomap_iov_iter *from, const struct iomap_write_ops *ops)
{
	struct iomap_inode *inode = iter->inode;
	struct iomap__write_hit hit;
	bool done = false;
	size_t n;

	if (!wr_hit_lock(iter, file, &hit))
		return false;
	if (wr_hit_has_state(inode, &hit) && !iomap__folio_is_stable(&inode->i_data, hit.flags) &&
	    wr_hit_is_allowed(iter, &hit) && wr_hit_is_valid(iter, ops)) {
		n = (size_t)iomap__min(iomap__iter_length(iter), hit.bytes);
		wr_hit_copy(&hit, n, from);
		wr_hit_end(iter, &hit, n);
		iomap__write_hit_count(file, &hit, iter->flags);
		done = true;
	}
	iomap__write_hit_unlock(&hit);
	if (done && !(hit.flags & IOMAP__FOLIO_DIRTY))
		(void)iomap__write_balance(iter);
	return done;
}

/*
 * What an overwrite finds that has nothing to do but to copy.  Whether the folio may be changed
 * while it is being written is asked elsewhere, so that this costs an overwrite nothing.
 */
#define WR_OVERWRITE_FLAGS (IOMAP__FOLIO_UPTODATE | IOMAP__FOLIO_ACCESSED | IOMAP__FOLIO_DIRTY)
#define WR_OVERWRITE_MASK (WR_OVERWRITE_FLAGS | IOMAP__FOLIO_COUNTED | IOMAP__FOLIO_WRITEBACK)

/*
 * Whether @n bytes can be a mere overwrite: of one buffer, below i_size.  i_size does not
 * shrink under i_rwsem, and is below i_maxbytes.
 */
static inline bool wr_may_overwrite(const struct iomap_kiocb *iocb,
				    const struct iomap_iov_iter *from, const struct iomap_ops *ops,
				    const struct iomap_write_ops *write_ops)
{
	const struct iomap_inode *inode = iocb->ki_filp->inode;
	uint64_t size = (uint64_t)iomap__load(&inode->i_size), n = from->count;

	/* a negative position is beyond every size, and so is the last one of no bytes */
	return iomap__likely(!(iocb->ki_flags & ~WR_IOCB_PLAIN)) &&
	       iomap__likely(n - 1 < size) && iomap__likely((uint64_t)iocb->ki_pos <= size - n) &&
	       iomap__likely(!from->iov) && iomap__likely(wr_finds_folios(write_ops)) &&
	       iomap__likely(from->data_source == IOMAP_ITER_SOURCE) &&
	       iomap__likely(inode->i_data.a_ops->writepages != NULL) &&
	       iomap__likely(ops != NULL) && iomap__likely(ops->iomap_begin != NULL) &&
	       !iomap__engine_closed(inode->i_engine);
}

/*
 * All of a write of which wr_may_overwrite() is true, when that is a copy into what is dirty
 * already of one folio, that of @entry, and the mapping covers it: what most small writes are.
 * Nothing becomes dirty by it, so it is not throttled.  False: it is more than that, and nothing
 * has been done; the mapping may have been found stale.
 */
static inline bool wr_overwrite(struct iomap_iter *iter, const struct iomap_file *file,
				uintptr_t entry, const char *buf, int64_t pos, size_t n,
				const struct iomap_write_ops *ops)
{
	struct iomap__write_hit hit;

	if (iomap__unlikely(!iomap__write_hit_lock(file, entry, pos, WR_OVERWRITE_MASK,
						   WR_OVERWRITE_FLAGS, &hit)))
		return false;
	if (iomap__unlikely(n > hit.bytes) ||
	    iomap__unlikely(hit.folio->ifs &&
			    !iomap__ifs_is_dirty(hit.folio->ifs, hit.off, n)) ||
	    iomap__unlikely(!wr_hit_is_valid(iter, ops))) {
		iomap__write_hit_unlock(&hit);
		return false;
	}
	iomap__copy_to_folio(hit.mem, buf, n);
	iomap__write_hit_unlock(&hit);
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, 1);
	return true;
}

/* ---- the call ---- */

/* Write into one folio, whatever it takes.  0, also when the mapping was found stale. */
static int wr_folio(struct iomap_iter *iter, struct iomap_iov_iter *from,
		    const struct iomap_write_ops *ops)
{
	struct iomap__write wr = { .iter = iter, .ops = ops };
	size_t copied, done;
	int err;

	err = iomap__write_balance(iter);
	if (err)
		return err;
	err = iomap__write_begin(&wr, iomap__min(iomap__iter_length(iter), from->count));
	if (err || !wr.folio)
		return err;
	copied = iomap__folio_copy_from_iter(wr.folio, wr.off, wr.bytes, from);
	done = iomap__write_end(&wr, copied);
	if (done)
		iomap__write_extend(iter, (int64_t)((uint64_t)wr.pos + done));
	iomap__write_put(&wr, done);
	if (iomap__unlikely(done < copied))
		iomap_iov_iter_revert(from, copied - done);
	iomap__iter_advance(iter, done);
	return done ? 0 : -EFAULT;
}

/*
 * Write from memory that may be bad, as far as it is good: before any folio is taken a copy of
 * some of it is made, and that is written.
 */
static int wr_checked(struct iomap_iter *iter, struct iomap_iov_iter *from,
		      const struct iomap_write_ops *ops)
{
	size_t n = (size_t)iomap__min(iomap__iter_length(iter), from->count);
	struct iomap_iov_iter memory = *from, by;
	struct iomap__checked checked;
	const int64_t pos = iter->pos;
	ssize_t got;
	int err = 0;

	iomap__checked_begin(&checked, &iter->inode->i_engine->env, n);
	n = iomap__min(n, iomap__checked_step(&checked, pos));
	got = iomap__checked_copy_in(checked.memory, n, &memory);
	if (got <= 0)
		err = got ? (int)got : -EFAULT;
	iomap_iov_iter_ubuf(&by, IOMAP_ITER_SOURCE, checked.memory, (size_t)iomap__max(got, 0));
	while (!err && by.count && !(iter->iomap.flags & IOMAP_F_STALE))
		err = wr_folio(iter, &by, ops);
	iomap_iov_iter_advance(from, (size_t)(iter->pos - pos));
	iomap__checked_end(&checked);
	return err;
}

/* Write as much as the current mapping takes. */
static int wr_mapping(struct iomap_iter *iter, const struct iomap_kiocb *iocb,
		      struct iomap_iov_iter *from, const struct iomap_write_ops *ops)
{
	const bool checked = iocb->ki_flags & IOMAP_IOCB_CHECKED;
	const bool may_hit = !checked && wr_may_hit(iter, ops);
	int err;

	while (iter->len && !(iter->iomap.flags & IOMAP_F_STALE) && iomap__iter_length(iter)) {
		const int64_t pos = iter->pos;

		if (!may_hit || !wr_hit(iter, iocb->ki_filp, from, ops)) {
			if (iter->iomap.flags & IOMAP_F_STALE)
				break;
			err = checked ? wr_checked(iter, from, ops) : wr_folio(iter, from, ops);
			if (err)
				return err;
		}
		if (iomap__unlikely(iter->flags & IOMAP_DONTCACHE))
			iomap__filemap_wrote_behind(&iter->inode->i_data, pos, iter->pos,
						    iter->flags);
	}
	return 0;
}

/* Go on over the mappings; the first one has been sampled. */
static int wr_mappings(struct iomap_iter *iter, const struct iomap_kiocb *iocb,
		       struct iomap_iov_iter *from, const struct iomap_ops *ops,
		       const struct iomap_write_ops *write_ops)
{
	int ret;

	do {
		iter->status = wr_mapping(iter, iocb, from, write_ops);
		ret = iomap__iter_over(iter, ops) ? 0 : iomap__iter_next(iter, ops);
	} while (ret > 0);
	return ret;
}

/* End with what has been done of a write that may have more mappings to go. */
static ssize_t wr_go_on(struct iomap_iter *iter, struct iomap_kiocb *iocb,
			struct iomap_iov_iter *from, const struct iomap_ops *ops,
			const struct iomap_write_ops *write_ops)
{
	bool before = iomap__throttle_not(iocb->ki_flags & IOMAP_IOCB_NOTHROTTLE);
	int ret = wr_mappings(iter, iocb, from, ops, write_ops);
	ssize_t done = (ssize_t)((uint64_t)iter->pos - (uint64_t)iocb->ki_pos);

	iomap__throttle_again(before);
	if (iomap__unlikely(iter->flags & IOMAP_DONTCACHE))
		iomap__filemap_end_behind(&iter->inode->i_data, iocb->ki_pos, iter->pos,
					  iter->flags);
	iocb->ki_pos = iter->pos;
	return done ? done : ret;
}

/* A call that can write nothing: 0, or what is wrong with it. */
static ssize_t wr_refuse(struct iomap_kiocb *iocb, const struct iomap_iov_iter *from,
			 const struct iomap_ops *ops)
{
	const struct iomap_inode *inode = iocb->ki_filp->inode;

	if (iocb->ki_flags & ~WR_IOCB_FLAGS || iocb->ki_pos < 0 ||
	    from->data_source != IOMAP_ITER_SOURCE || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	if (!from->count)
		return 0;
	if (iocb->ki_pos >= inode->i_maxbytes)
		return -EFBIG;
	if (!ops || !ops->iomap_begin)
		return -EINVAL;
	return iomap__engine_refusal(inode->i_engine);
}

/* Operation flags of the call. */
static unsigned wr_flags(const struct iomap_kiocb *iocb)
{
	return IOMAP_WRITE | (iocb->ki_flags & IOMAP_IOCB_NOWAIT ? IOMAP_NOWAIT : 0) |
	       (iocb->ki_flags & IOMAP_IOCB_DONTCACHE ? IOMAP_DONTCACHE : 0);
}

/* A write that is not a mere overwrite. */
static ssize_t __attribute__((noinline))
wr_general(struct iomap_kiocb *iocb, struct iomap_iov_iter *from, const struct iomap_ops *ops,
	   const struct iomap_write_ops *write_ops, void *private_data)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	struct iomap_iter iter;
	ssize_t ret;

	if (iocb->ki_flags & IOMAP_IOCB_APPEND && !(iocb->ki_flags & ~WR_IOCB_FLAGS))
		iocb->ki_pos = iomap_i_size_read(inode);
	ret = wr_refuse(iocb, from, ops);
	if (ret || !from->count)
		return ret;
	iomap__iter_init(&iter, inode, iocb->ki_pos,
			 iomap__min(from->count, (uint64_t)(inode->i_maxbytes - iocb->ki_pos)),
			 wr_flags(iocb), private_data);
	ret = iomap__iter_look(&iter, ops, iomap__iter_ask(&iter, ops));
	return ret > 0 ? wr_go_on(&iter, iocb, from, ops, write_ops) : ret;
}

/* A mere overwrite that has turned out to be more than that. */
static ssize_t __attribute__((noinline))
wr_after_all(struct iomap_iter *iter, struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
	     const struct iomap_ops *ops, const struct iomap_write_ops *write_ops)
{
	int ret = iomap__iter_look(iter, ops, 0);

	return ret > 0 ? wr_go_on(iter, iocb, from, ops, write_ops) : ret;
}

ssize_t iomap_file_buffered_write(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
				  const struct iomap_ops *ops,
				  const struct iomap_write_ops *write_ops, void *private_data)
{
	struct iomap_iter iter;
	uintptr_t entry;
	int64_t pos;
	int answer;
	size_t n;

	iomap__file_check(iocb->ki_filp);
	if (iomap__unlikely(!wr_may_overwrite(iocb, from, ops, write_ops)))
		return wr_general(iocb, from, ops, write_ops, private_data);
	/* before the mapping is asked for, which takes as long as the folio is on its way */
	entry = iomap__write_hit_find(iocb->ki_filp, iocb->ki_pos);
	if (iomap__unlikely(!entry))
		return wr_general(iocb, from, ops, write_ops, private_data);
	iomap__iter_init(&iter, iocb->ki_filp->inode, iocb->ki_pos, from->count, IOMAP_WRITE,
			 private_data);
	answer = iomap__iter_ask(&iter, ops);
	if (iomap__unlikely(answer < 0))
		return answer;
	/* read again, here and behind the copy: what is kept across a call has to be saved */
	pos = iocb->ki_pos;
	n = from->count;
	if (iomap__unlikely(!iomap__iter_is_plain(&iter, pos, n)) ||
	    iomap__unlikely(!wr_overwrite(&iter, iocb->ki_filp, entry,
					  from->ubuf + from->iov_offset, pos, n, write_ops)))
		return wr_after_all(&iter, iocb, from, ops, write_ops);
	n = from->count;
	from->iov_offset += n;
	from->count = 0;
	if (iomap__unlikely(ops->iomap_end != NULL)) {
		iomap__iter_advance(&iter, n);
		return wr_go_on(&iter, iocb, from, ops, write_ops);
	}
	iocb->ki_pos += (int64_t)n;
	return (ssize_t)n;
}
