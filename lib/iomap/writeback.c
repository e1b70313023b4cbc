/* SPDX-License-Identifier: MIT */
/*
 * writeback.c - from dirty folios to runs that writeback_range maps and queues.
 *
 * Life of a folio here, which is locked up to the last but one step:
 *
 *	dirty -> (beyond EOF: clean, not written)
 *	  flag taken, tag kept		iomap__folio_clear_dirty_for_io()
 *	  tail beyond EOF zeroed
 *	  under writeback		write_bytes = 1
 *	  each dirty run		writeback_range adds the run's bytes to write_bytes,
 *					by iomap_add_to_ioend() or iomap_start_folio_write()
 *	  tags taken off		iomap__folio_writeback_queued()
 *	  unlocked			writers may dirty it again
 *	  the 1 is taken away
 *	completions			iomap_finish_folio_write() takes the bytes away
 *
 * Whoever brings write_bytes to 0 ends writeback: a completion, or this thread when nothing
 * was queued or all of it has ended already.
 *
 * A run that fails: the folio is clean as a whole, and nothing more of it is asked for, since
 * the application gives back the reservations up to its end.  What was queued before goes
 * out.  On an inode that retries the folio stays dirty from there on, as when the run is deferred,
 * and is not asked for in the background before its time has come (cache/retry.c); a completion that
 * failed makes its part dirty again.  So the dirty bits of a run are taken off before it is handed
 * on, not when the folio is done.  A run that is deferred: everything from it on is dirty again, and the folio keeps
 * its DIRTY and TOWRITE tags all the while, so that a sync beside this one finds it too.
 *
 * Nothing is held back while this thread sleeps: before it waits for a folio's lock or for
 * writeback, what was built so far is submitted.  Somebody else may be waiting for that, and
 * hold what this thread waits for.
 */
#include <inttypes.h>

#include "iomap/ops.h"

#define WB_BATCH 16U

/* The application's two callbacks have been checked. */
static int wb_submit(struct iomap_writepage_ctx *wpc)
{
	return wpc->wb_ctx ? wpc->ops->writeback_submit(wpc, 0) : 0;
}

/* ---- bytes in flight ---- */

void iomap_start_folio_write(struct iomap_inode *inode, struct iomap_folio *folio, size_t len)
{
	(void)inode;
	iomap__assert_msg(iomap_folio_test_writeback(folio),
			  "iomap_start_folio_write: the folio is not under writeback");
	atomic_fetch_add_explicit(&folio->write_bytes, (uint32_t)len, memory_order_relaxed);
}

void iomap_finish_folio_write(struct iomap_inode *inode, struct iomap_folio *folio, size_t len)
{
	uint32_t old;

	(void)inode;
	iomap__assert_msg(iomap_folio_test_writeback(folio) &&
				  len <= atomic_load(&folio->write_bytes),
			  "iomap_finish_folio_write: a range that is not being written");
	/* the end of writeback comes after what was done for every range */
	old = atomic_fetch_sub_explicit(&folio->write_bytes, (uint32_t)len, memory_order_acq_rel);
	iomap__assert_msg(old >= len, "iomap_finish_folio_write: more bytes than were started");
	if (old == len)
		iomap__folio_end_writeback(folio);
}

void iomap__folio_write_failed(struct iomap_folio *folio, size_t off, size_t len)
{
	/* twice: whoever makes block state beside us sees the folio's flag, or we the state */
	iomap__ifs_failed(folio, off, len);
	iomap__folio_failed(folio);
	iomap__ifs_failed(folio, off, len);
}

void iomap_fail_folio_write(struct iomap_inode *inode, struct iomap_folio *folio, size_t off,
			    size_t len, int error)
{
	iomap_mapping_set_error(&inode->i_data, error);
	if (iomap__inode_retries(inode)) {
		iomap__mapping_failed(&inode->i_data, error);
		iomap__folio_write_failed(folio, off, len);
	}
	iomap_finish_folio_write(inode, folio, len);
}

/* ---- runs ---- */

static int wb_broken(struct iomap_writepage_ctx *wpc, int64_t pos, const char *fault)
{
	iomap__log(&wpc->inode->i_engine->env, IOMAP_LOG_ERROR,
		   "inode %" PRIu64 ": writeback at offset %" PRId64 ": %s", wpc->inode->i_ino, pos,
		   fault);
	return -EIO;
}

/*
 * Hand [pos, pos + len) to the application, piece by piece.  0, -errno, or IOMAP_WB_DEFER
 * with *@pos where what is deferred starts.
 */
static ssize_t wb_run(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t *pos,
		      size_t len, uint64_t end_pos)
{
	while (len) {
		ssize_t n = wpc->ops->writeback_range(wpc, folio, *pos, (unsigned)len, end_pos);

		if (n == IOMAP_WB_DEFER)
			return n;
		if (n < -4095 || n == 0 || n > (ssize_t)len)
			return wb_broken(wpc, (int64_t)*pos,
					 "writeback_range returned what cannot be");
		if (n < 0)
			return n;
		if (wpc->iomap.type == IOMAP_INLINE || wpc->iomap.type == IOMAP_DELALLOC)
			return wb_broken(wpc, (int64_t)*pos,
					 "inline or delayed space cannot be written to");
		*pos += (uint64_t)n;
		len -= (size_t)n;
		/* what a mapping leaves of the block that holds EOF is no data */
		if (*pos >= end_pos)
			return 0;
	}
	return 0;
}

/*
 * Find the dirty runs below end_pos and hand them on; *@pos as wb_run(), *@run_end is where that
 * run ends.
 */
static ssize_t wb_runs(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t *pos,
		       uint64_t *run_end, uint64_t end_pos)
{
	struct iomap_inode *inode = wpc->inode;
	uint64_t first = (uint64_t)iomap_folio_pos(folio);
	uint64_t last = iomap__round_up(end_pos, iomap_i_blocksize(inode));
	unsigned block = 0, end;
	unsigned limit = (unsigned)((last - first) >> inode->i_blkbits);

	for (; block < limit; block = end) {
		ssize_t ret;

		block = iomap__ifs_find_dirty(inode, folio, block, true);
		if (block >= limit)
			break;
		end = iomap__min(iomap__ifs_find_dirty(inode, folio, block, false), limit);
		*pos = first + ((uint64_t)block << inode->i_blkbits);
		*run_end = first + ((uint64_t)end << inode->i_blkbits);
		/* first: what is sent may fail at once, and be dirty again */
		iomap__ifs_clear_dirty(folio, (size_t)(*pos - first), (size_t)(*run_end - *pos));
		ret = wb_run(wpc, folio, pos, (size_t)(end - block) << inode->i_blkbits, end_pos);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- a folio ---- */

static int64_t wb_pages(const struct iomap_folio *folio)
{
	return (int64_t)(iomap__folio_bytes(folio) >> IOMAP_PAGE_SHIFT);
}

/*
 * From @pos on what was dirty is so again, up to the end of the folio, and what was not must not
 * become it: it may not even be uptodate.  Behind the run that ends at @run_end nothing has been
 * looked at yet.  A folio without state is all dirty; without memory for some it is so again, the
 * part that went out too.
 */
static void wb_keep(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
		    uint64_t run_end)
{
	struct iomap_inode *inode = wpc->inode;
	size_t off = (size_t)(pos - (uint64_t)iomap_folio_pos(folio));

	if (folio->ifs)
		iomap__ifs_set_dirty(folio, off, (size_t)(run_end - pos));
	else if (!iomap__ifs_alloc(inode, folio))
		iomap__ifs_set_dirty(folio, off, iomap__folio_bytes(folio) - off);
	iomap__filemap_dirty_folio(&inode->i_data, folio);
}

/* It was kept because it is held back; @whole: nothing of the folio went out. */
static void wb_deferred(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, bool whole)
{
	struct iomap_inode *inode = wpc->inode;

	wpc->wbc->nr_deferred++;
	iomap__cache_count2(inode->i_engine, IOMAP__STAT_DEFERRED, 1);
	iomap__fetch_or(&inode->i_state, IOMAP__I_DEFERRED);
	if (whole) {
		/* no progress: who writes until there is less must not go on for it */
		iomap__folio_held_back(folio);
		wpc->wbc->nr_to_write += wb_pages(folio);
	}
}

/* A run could not be scheduled.  Before writeback ends: who has waited for that finds the error. */
static void wb_failed(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int error)
{
	struct iomap_address_space *mapping = &wpc->inode->i_data;

	iomap_mapping_set_error(mapping, error);
	if (!iomap__inode_retries(wpc->inode)) {
		iomap__ifs_clear_dirty(folio, 0, iomap__folio_bytes(folio));
		iomap__folio_writeback_queued(folio);
		return;
	}
	iomap__mapping_failed(mapping, error);
	iomap__folio_held_back(folio);
}

/* The block that holds EOF, or the page, is zeroed to its end. */
static uint64_t wb_tail_unit(const struct iomap_inode *inode)
{
	return iomap__max(iomap_i_blocksize(inode), IOMAP_PAGE_SIZE);
}

/* Write the locked, dirty folio, which lies below EOF; unlocks it. */
static int wb_write(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int64_t i_size)
{
	struct iomap_inode *inode = wpc->inode;
	uint64_t pos = (uint64_t)iomap_folio_pos(folio);
	size_t bytes = iomap__folio_bytes(folio), off;
	uint64_t folio_end = pos + bytes, end_pos = iomap__min(folio_end, (uint64_t)i_size);
	uint64_t first, tail, run_end = pos;
	uint32_t resume_seq = iomap__load_acquire(&inode->i_resume_seq);
	bool deferred;
	ssize_t ret;

	iomap__folio_clear_dirty_for_io(folio);
	/* blocks wholly beyond EOF are not written: what a large folio has of them may stay */
	tail = iomap__min(iomap__round_up(end_pos, wb_tail_unit(inode)), pos + bytes);
	if (end_pos < tail)
		iomap__folio_fill_zero(folio, (size_t)(end_pos - pos), (size_t)(tail - end_pos));
	iomap__folio_start_writeback(folio);
	/* before any range is started, so nobody else counts yet */
	atomic_store_explicit(&folio->write_bytes, 1, memory_order_relaxed);
	first = pos + ((uint64_t)iomap__ifs_find_dirty(inode, folio, 0, true)
		       << inode->i_blkbits);
	ret = wb_runs(wpc, folio, &pos, &run_end, end_pos);
	deferred = ret == IOMAP_WB_DEFER;
	if (deferred || (ret && iomap__inode_retries(inode)))
		wb_keep(wpc, folio, pos, run_end);
	if (deferred) {
		wb_deferred(wpc, folio, pos == first);
		ret = 0;
	} else if (ret) {
		wb_failed(wpc, folio, (int)ret);
	} else {
		/* what lies beyond EOF */
		off = (size_t)(iomap__min(iomap__round_up(end_pos, iomap_i_blocksize(inode)),
					  folio_end) - (folio_end - bytes));
		iomap__ifs_clear_dirty(folio, off, bytes - off);
		iomap__folio_writeback_queued(folio);
	}
	iomap_folio_unlock(folio);
	iomap_finish_folio_write(inode, folio, 1);
	/* while it was decided to hold it back the folio was neither dirty nor to be had */
	if (iomap__unlikely(deferred) && iomap__load_acquire(&inode->i_resume_seq) != resume_seq)
		iomap__flusher_resume(inode);
	return (int)ret;
}

static void wb_first_error(int *error, int err)
{
	if (!*error)
		*error = err;
}

/*
 * False: somebody has the lock, and SYNC_NONE leaves the folio to the next round.  Whoever
 * writes for others, the flusher above all, must not hang on one folio that a slow read
 * fills; and a caller that needs memory may hold the very lock.
 */
static bool wb_lock(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int *error)
{
	if (iomap_folio_trylock(folio))
		return true;
	if (wpc->wbc->sync_mode == IOMAP_WB_SYNC_NONE)
		return false;
	wb_first_error(error, wb_submit(wpc));
	if (iomap__folio_lock_until(folio, iomap__thread_self()->deadline_ns))
		return true;
	wb_first_error(error, -ETIMEDOUT);
	return false;
}

/* With the folio locked: whether it is still there, dirty, and may be written now. */
static bool wb_wanted(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int *error)
{
	if (iomap_folio_mapping(folio) != &wpc->inode->i_data || !iomap_folio_test_dirty(folio))
		return false;
	/* it has failed, and its time has not come: meanwhile the others are written */
	if (wpc->wbc->sync_mode == IOMAP_WB_SYNC_NONE &&
	    iomap__unlikely(iomap__folio_test(folio, IOMAP__FOLIO_HELD_BACK)) &&
	    iomap__inode_retries(wpc->inode) && iomap__mapping_waits(&wpc->inode->i_data))
		return false;
	if (!iomap_folio_test_writeback(folio))
		return true;
	if (wpc->wbc->sync_mode == IOMAP_WB_SYNC_NONE)
		return false;
	wb_first_error(error, wb_submit(wpc));
	if (iomap__folio_wait_writeback_until(folio, iomap__thread_self()->deadline_ns))
		return true;
	wb_first_error(error, -ETIMEDOUT);
	return false;
}

static void wb_folio(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int *error)
{
	int64_t i_size;

	if (!wb_lock(wpc, folio, error))
		return;
	if (!wb_wanted(wpc, folio, error)) {
		iomap_folio_unlock(folio);
		return;
	}
	wpc->wbc->nr_to_write -= wb_pages(folio);
	i_size = iomap_i_size_read(wpc->inode);
	if (iomap_folio_pos(folio) >= i_size) {
		/* truncated meanwhile, or zeros that no write has come to use */
		iomap__ifs_clear_dirty(folio, 0, iomap__folio_bytes(folio));
		iomap__folio_cancel_dirty(folio);
		iomap_folio_unlock(folio);
		return;
	}
	wb_first_error(error, wb_write(wpc, folio, i_size));
}

/* ---- the call ---- */

static bool wb_usable(const struct iomap_writepage_ctx *wpc)
{
	return wpc && wpc->inode && wpc->wbc && wpc->ops && wpc->ops->writeback_range &&
	       wpc->ops->writeback_submit;
}

static bool wb_enough(const struct iomap_writeback_control *wbc)
{
	return wbc->sync_mode == IOMAP_WB_SYNC_NONE && wbc->nr_to_write <= 0;
}

int iomap_writepages(struct iomap_writepage_ctx *wpc)
{
	struct iomap_folio *folios[WB_BATCH];
	struct iomap_address_space *mapping;
	enum iomap__tag tag = IOMAP__TAG_DIRTY;
	uint64_t index, end;
	int error = 0, err;
	unsigned nr, i;

	if (!wb_usable(wpc) || wpc->wbc->range_start < 0)
		return -EINVAL;
	mapping = &wpc->inode->i_data;
	if (iomap__engine_forked(wpc->inode->i_engine))
		return -ECHILD;
	index = (uint64_t)wpc->wbc->range_start >> IOMAP_PAGE_SHIFT;
	end = wpc->wbc->range_end < wpc->wbc->range_start
		      ? index
		      : ((uint64_t)wpc->wbc->range_end >> IOMAP_PAGE_SHIFT) + 1;
	if (wpc->wbc->sync_mode == IOMAP_WB_SYNC_ALL) {
		/* what is dirtied from now on need not be written: this ends */
		tag = IOMAP__TAG_TOWRITE;
		iomap__filemap_tag_towrite(mapping, index, end);
	}
	while (index < end && !wb_enough(wpc->wbc)) {
		nr = iomap__filemap_get_tagged(mapping, &index, end, tag, folios, WB_BATCH);
		if (!nr)
			break;
		for (i = 0; i < nr; i++) {
			if (!wb_enough(wpc->wbc))
				wb_folio(wpc, folios[i], &error);
			iomap__folio_put_behind(mapping, folios[i]);
		}
	}
	err = wb_submit(wpc);
	return error ? error : err;
}
