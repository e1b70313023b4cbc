/* SPDX-License-Identifier: MIT */
/*
 * order.c - no page is on the device before the record of its last change.
 *
 * The cache writes a dirty page when it is old, when there are too many, or when a checkpoint
 * asks; whoever it is comes here.  A page says in its header up to where the log has to be durable.
 * Two ways to see to it, of which wp_open() is given one:
 *
 *	wp_order_defer	writeback_range answers IOMAP_WB_DEFER: the page stays dirty.  A work
 *			flushes the log, and then lets it go by iomap_writeback_resume().
 *	wp_order_submit	writeback_range notes the LSN with the ioend, and writeback_submit flushes
 *			the log before it sends that.
 *
 * What neither does is to wait in writeback_range: pages that were taken before are in an ioend
 * that is not sent yet, and others may wait for just these.
 *
 *	committer		cache				worker
 *	record to the log
 *	page to the cache
 *				writeback_range: not yet
 *				  queues the work; DEFER
 *								flush of the log
 *								resume
 *				writeback_range: goes
 *	wp_wait(): durable already
 *
 * A committer that is throttled, as there are too many dirty pages, waits for exactly this, so
 * the log is not flushed by committers alone.
 *
 * A page that is under way must not change: the device may fetch its bytes late, and they would be
 * those of a record that is not durable, or half of them.  So the inode has stable writes
 * (iomap_mapping_set_stable_writes()): whoever would change it waits.
 *
 * A page that could not be written is clean all the same, and may leave the cache; who reads it
 * then gets one of before, which is whole, and must not build upon it.  So the store has failed
 * before the page can go, and whoever has read a page asks (wp_page_read()).
 */
#include <errno.h>

#include "internal.h"

static uint64_t page_lsn(const struct iomap_folio *folio, uint64_t pos)
{
	uint64_t lsn;

	iomap_folio_read(folio, pos - (uint64_t)iomap_folio_pos(folio) +
			 offsetof(struct wp_page, lsn), &lsn, sizeof(lsn));
	return lsn;
}

/* Take the page at @pos: from here on it is not dirty. */
static ssize_t take_page(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			 uint64_t end_pos)
{
	struct wp_store *store = wpc->inode->i_private;
	ssize_t ret;

	wp_region_map(&store->pages, &wpc->iomap);
	ret = iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, WP_PAGE_BYTES);
	if (ret > 0)
		atomic_store(&store->dirtied[pos / WP_PAGE_BYTES], 0);
	if (ret < 0)
		wp_log_fail(&store->log, (int)ret);
	return ret;
}

/* First the error, then the end of writeback: until then the cache keeps the page. */
static void pages_end_io(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct wp_store *store = ioend->io_inode->i_private;

	if (bio->bi_status)
		wp_log_fail(&store->log, bio->bi_status);
	iomap_finish_ioends(ioend, 0);
}

static int submit_pages(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	ioend->io_bio.bi_end_io = pages_end_io;
	return iomap_ioend_writeback_submit(wpc, error);
}

/* ---- hold the page back ---- */

void wp_flush_log_work(struct iomap_work *work)
{
	struct wp_store *store =
		(struct wp_store *)((char *)work - offsetof(struct wp_store, flush_log));

	/* An error is the store's from now on, and the answer to who asks again. */
	(void)wp_log_flush(&store->log, UINT64_MAX);
	iomap_writeback_resume(&store->pages.inode);
}

static ssize_t defer_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			   unsigned len, uint64_t end_pos)
{
	struct wp_store *store = wpc->inode->i_private;
	int error = atomic_load(&store->log.error);

	(void)len; /* a page is a block, and a folio has one */
	if (page_lsn(folio, pos) <= atomic_load(&store->log.flushed))
		return take_page(wpc, folio, pos, end_pos);
	if (error)
		return error;
	iomap_queue_work(store->engine, &store->flush_log);
	return IOMAP_WB_DEFER;
}

const struct iomap_writeback_ops wp_order_defer = {
	.writeback_range = defer_range,
	.writeback_submit = submit_pages,
};

/* ---- flush the log first ---- */

static ssize_t note_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			  unsigned len, uint64_t end_pos)
{
	uintptr_t lsn = page_lsn(folio, pos);
	struct iomap_ioend *ioend;
	ssize_t ret;

	(void)len;
	ret = take_page(wpc, folio, pos, end_pos);
	if (ret <= 0)
		return ret;
	ioend = wpc->wb_ctx;
	if ((uintptr_t)ioend->io_private < lsn)
		ioend->io_private = (void *)lsn;
	return ret;
}

static int flush_then_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct wp_store *store = wpc->inode->i_private;
	struct iomap_ioend *ioend = wpc->wb_ctx;

	if (!error)
		error = wp_log_flush(&store->log, (uintptr_t)ioend->io_private);
	return submit_pages(wpc, error);
}

const struct iomap_writeback_ops wp_order_submit = {
	.writeback_range = note_range,
	.writeback_submit = flush_then_submit,
};

/* ---- how a page gets into the cache ---- */

static struct iomap_folio *get_folio(struct iomap_iter *iter, int64_t pos, unsigned len)
{
	struct wp_store *store = iter->inode->i_private;
	struct iomap_folio *folio = iomap_get_folio(iter, pos, len);
	_Atomic uint32_t *dirtied = &store->dirtied[(uint64_t)pos / WP_PAGE_BYTES];

	if (iomap_is_err(folio))
		return folio;
	/* under the lock, or write-out of the bytes before these would clear it */
	if (!atomic_load(dirtied))
		atomic_store(dirtied, store->generation);
	return folio;
}

const struct iomap_write_ops wp_page_write_ops = {
	.get_folio = get_folio,
};
