/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * ioend_batch.c - IE03 to IE05: ioends whose completion an application takes into its own hands.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define IOENDS 256
#define SYNC_PAGE (IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER)

/* ---- a batch: what has ended waits in a list for a work function ---- */

static struct batch {
	struct t_gate gate; /* protects all below */
	struct ts *ts;
	struct iomap_list_head ended;
	struct iomap_work work;
	unsigned runs, finished;
	unsigned hooks;	   /* calls of the bi_end_io */
	bool in_end_io;	   /* finished right there */
	bool hold, held;   /* the work waits, has begun */
	int error;	   /* of what is done in the work */
	int statuses[IOENDS]; /* bi_status that the hook saw */
	/* as finished: what was done at once */
	struct {
		int64_t offset;
		size_t size;
		int status;
	} done[IOENDS];
	void (*step)(struct iomap_ioend *ioend);
	struct iomap_work *more;    /* queued by the hook, too */
	struct iomap_folio *unlock; /* by the hook, first */
} batch;

static void list_init(struct iomap_list_head *head)
{
	head->next = head->prev = head;
}

static bool list_is_empty(const struct iomap_list_head *head)
{
	return head->next == head;
}

static void list_add(struct iomap_list_head *item, struct iomap_list_head *head)
{
	item->prev = head->prev;
	item->next = head;
	head->prev->next = item;
	head->prev = item;
}

static struct iomap_ioend *list_take(struct iomap_list_head *head)
{
	struct iomap_list_head *item = head->next;

	item->prev->next = item->next;
	item->next->prev = item->prev;
	return (struct iomap_ioend *)(void *)((char *)item - offsetof(struct iomap_ioend, io_list));
}

static void list_move_all(struct iomap_list_head *from, struct iomap_list_head *to)
{
	list_init(to);
	while (!list_is_empty(from))
		list_add(&list_take(from)->io_list, to);
}

static void batch_finish(struct iomap_ioend *ioend)
{
	t_lock(&batch.gate);
	t_must(batch.finished < IOENDS);
	batch.done[batch.finished].offset = ioend->io_offset;
	batch.done[batch.finished].size = ioend->io_size;
	batch.done[batch.finished].status = ioend->io_bio.bi_status;
	batch.finished++;
	t_unlock(&batch.gate);
	if (batch.step)
		batch.step(ioend);
	if (!ioend->io_bio.bi_status && !batch.error)
		ts_convert(batch.ts, ioend->io_offset, ioend->io_offset + (int64_t)ioend->io_size);
	iomap_finish_ioends(ioend, batch.error);
}

static void batch_work(struct iomap_work *work)
{
	struct iomap_list_head ioends;

	t_must(work == &batch.work);
	t_lock(&batch.gate);
	batch.runs++;
	batch.held = true;
	t_wake(&batch.gate);
	while (batch.hold)
		t_wait(&batch.gate);
	list_move_all(&batch.ended, &ioends);
	t_unlock(&batch.gate);
	iomap_sort_ioends(&ioends);
	while (!list_is_empty(&ioends)) {
		struct iomap_ioend *ioend = list_take(&ioends);

		iomap_ioend_try_merge(ioend, &ioends);
		batch_finish(ioend);
	}
}

static void batch_end_io(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);

	t_lock(&batch.gate);
	t_must(batch.hooks < IOENDS);
	batch.statuses[batch.hooks++] = bio->bi_status;
	if (!batch.in_end_io)
		list_add(&ioend->io_list, &batch.ended);
	t_wake(&batch.gate);
	t_unlock(&batch.gate);
	if (batch.in_end_io) {
		batch_finish(ioend);
		return;
	}
	if (batch.unlock)
		iomap_folio_unlock(batch.unlock);
	iomap_queue_work(batch.ts->engine, &batch.work);
	if (batch.more)
		iomap_queue_work(batch.ts->engine, batch.more);
}

static int batch_submit(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	(void)ts;
	ioend->io_bio.bi_end_io = batch_end_io;
	return iomap_ioend_writeback_submit(wpc, error);
}

static struct ts *batch_store_of(unsigned flags, unsigned nr_workers, uint32_t blkbits)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 8 << 20;
	opts.flags = flags;
	opts.nr_workers = nr_workers;
	opts.dirty_hard_pct = 80;
	opts.dirty_background_pct = 80;
	opts.flush_interval_ms = 3600 * 1000;
	memset(&batch, 0, sizeof(batch));
	t_gate_init(&batch.gate);
	list_init(&batch.ended);
	iomap_init_work(&batch.work, batch_work);
	batch.ts = ts_open(&(struct ts_config){
		.i_size = 4 << 20, .blkbits = blkbits, .opts = &opts });
	batch.ts->hook.submit = batch_submit;
	ts_map(batch.ts, 0, 4 << 20, IOMAP_UNWRITTEN, 0, 64 * KIB);
	return batch.ts;
}

static struct ts *batch_store(unsigned flags, unsigned nr_workers)
{
	return batch_store_of(flags, nr_workers, 0);
}

static void batch_close(void)
{
	iomap_flush_work(batch.ts->engine, &batch.work);
	t_must(list_is_empty(&batch.ended));
	ts_close(batch.ts);
	t_gate_exit(&batch.gate);
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

/* ---- IE03 ---- */

Test(ioend_batch, ie03_an_own_end_io_leaves_the_end_to_a_worker)
{
	struct ts *ts = batch_store(0, 2);
	struct t_task task;

	batch.hold = true;
	ts_write(ts, 0, 64 * KIB, 2);
	t_start(&task, fsync_task, ts);
	t_lock(&batch.gate);
	while (!batch.held)
		t_wait(&batch.gate);
	t_unlock(&batch.gate);
	/* the device has done its part, the application has not */
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(64 * KIB));
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB)
		cr_assert(ts_under_writeback(ts, pos));
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U);
	t_lock(&batch.gate);
	batch.hold = false;
	t_wake(&batch.gate);
	t_unlock(&batch.gate);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_not(ts_under_writeback(ts, 0));
	cr_assert_eq(batch.finished, 1U);
	cr_assert_eq(ts_lookup(ts, 0).type, IOMAP_MAPPED);
	cr_assert(ts_dev_has(ts, 64 * KIB, 64 * KIB, 0, 2));
	batch_close();
}

Test(ioend_batch, ie03_without_threads_who_waits_for_writeback_ends_it)
{
	for (unsigned async = 0; async < 2; async++) {
		struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

		if (async)
			td_async(ts->dev);
		for (unsigned round = 1; round <= 20; round++) {
			ts_write(ts, (int64_t)round * 8 * KIB, 64 * KIB, round);
			cr_assert_eq(ts_fsync(ts), 0);
			cr_assert_geq(batch.finished, round);
			cr_assert(ts_dev_has(ts, (64 + 8 * round) * KIB, 64 * KIB,
					     (int64_t)round * 8 * KIB, round));
		}
		batch_close();
	}
}

Test(ioend_batch, ie03_without_threads_poll_ends_it_too)
{
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

	ts_write(ts, 0, 64 * KIB, 2);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	cr_assert(ts_under_writeback(ts, 0));
	cr_assert_eq(batch.runs, 0U);
	cr_assert_geq(iomap_engine_poll(ts->engine, 16, true), 1);
	cr_assert_eq(batch.runs, 1U);
	cr_assert_not(ts_under_writeback(ts, 0));
	batch_close();
}

static void fsync_work(struct iomap_work *work)
{
	(void)work;
	t_must(ts_fsync(batch.ts) == 0);
}

Test(ioend_batch, ie03_the_only_worker_may_wait_for_it)
{
	for (unsigned async = 0; async < 2; async++) {
		struct ts *ts = batch_store(0, 1);
		struct iomap_work work;

		if (async)
			td_async(ts->dev);
		ts_write(ts, 0, 64 * KIB, 2);
		iomap_init_work(&work, fsync_work);
		iomap_queue_work(ts->engine, &work);
		iomap_flush_work(ts->engine, &work);
		cr_assert_eq(batch.finished, 1U);
		cr_assert_not(ts_under_writeback(ts, 0));
		batch_close();
	}
}

static void lock_work(struct iomap_work *work)
{
	(void)work;
	t_lock(&batch.gate);
	batch.held = true;
	t_wake(&batch.gate);
	t_unlock(&batch.gate);
	iomap_inode_lock(&batch.ts->inode);
	iomap_inode_unlock(&batch.ts->inode);
}

/* As a truncation beside an asynchronous write: the lock is that of who waits for writeback. */
Test(ioend_batch, ie03_all_workers_may_wait_for_a_lock_of_who_waits_for_it)
{
	for (unsigned round = 0; round < 4; round++) {
		unsigned workers = 1 + round / 2;
		struct ts *ts = batch_store(0, workers);
		struct iomap_work work[2];

		if (round % 2)
			td_async(ts->dev);
		ts_write(ts, 0, 64 * KIB, 2);
		iomap_inode_lock(&ts->inode);
		for (unsigned i = 0; i < workers; i++) {
			iomap_init_work(&work[i], lock_work);
			iomap_queue_work(ts->engine, &work[i]);
			t_lock(&batch.gate);
			while (!batch.held)
				t_wait(&batch.gate);
			batch.held = false;
			t_unlock(&batch.gate);
		}
		cr_assert_eq(iomap_filemap_write_and_wait_range(&ts->inode.i_data, 0, INT64_MAX),
			     0);
		cr_assert_eq(batch.finished, 1U);
		cr_assert_not(ts_under_writeback(ts, 0));
		iomap_inode_unlock(&ts->inode);
		for (unsigned i = 0; i < workers; i++)
			iomap_flush_work(ts->engine, &work[i]);
		batch_close();
	}
}

static long sync_first_page(void *arg)
{
	struct ts *ts = arg;

	return iomap_sync_range(ts->file, 0, 4 * KIB, SYNC_PAGE);
}

/* The first ioend is held in mid-run, its list is empty by then. */
static void hold_first(struct iomap_ioend *ioend)
{
	if (ioend->io_offset)
		return;
	t_lock(&batch.gate);
	batch.hold = batch.held = true;
	t_wake(&batch.gate);
	while (batch.hold)
		t_wait(&batch.gate);
	t_unlock(&batch.gate);
}

static void let_first_go(struct iomap_work *work)
{
	(void)work;
	t_lock(&batch.gate);
	batch.hold = false;
	t_wake(&batch.gate);
	t_unlock(&batch.gate);
}

/* The work runs in one that waits, and is queued again for another one, who cannot run it yet. */
Test(ioend_batch, ie03_a_work_that_runs_is_run_again_for_the_next_who_waits)
{
	for (unsigned round = 0; round < 20; round++) {
		struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);
		struct iomap_work more;
		struct t_task task;

		iomap_init_work(&more, let_first_go);
		batch.step = hold_first;
		ts_write(ts, 0, 4 * KIB, 2);
		t_start(&task, sync_first_page, ts);
		t_lock(&batch.gate);
		while (!batch.finished || !batch.hold)
			t_wait(&batch.gate);
		t_unlock(&batch.gate);
		ts_write(ts, 64 * KIB, 4 * KIB, 2);
		/* run by our wait, which so comes before the end of the other run */
		batch.more = &more;
		cr_assert_eq(iomap_sync_range(ts->file, 64 * KIB, 68 * KIB, SYNC_PAGE), 0);
		cr_assert_not(ts_under_writeback(ts, 64 * KIB));
		cr_assert_eq(t_join(&task), 0);
		cr_assert_eq(batch.finished, 2U);
		batch_close();
	}
}

static unsigned reads_ended;
static void read_ended(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb;
	t_must(ret == 512);
	reads_ended++;
}

/* What else is queued while an ioend ends is not for who waits for writeback. */
Test(ioend_batch, ie03_a_read_that_the_end_of_an_ioend_lets_go_on_is_not_taken_for_its_end)
{
	struct ts *ts = batch_store_of(IOMAP_ENGINE_NO_THREADS, 0, 9);
	struct iomap_folio *folio;
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	char buf[512];

	/* a block of the first page is there, and the next is read while the page is locked */
	ts_write(ts, 0, 512, 2);
	ts_write(ts, 64 * KIB, 4 * KIB, 2);
	folio = iomap_filemap_get_folio(&ts->inode.i_data, 0);
	cr_assert_not_null(folio);
	iomap_folio_lock(folio);
	iomap_kiocb_init(&iocb, ts->file, 512);
	iocb.ki_complete = read_ended;
	reads_ended = 0;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, sizeof(buf));
	cr_assert_eq(iomap_read_iter(&iocb, &to), -IOMAP_EIOCBQUEUED);
	batch.unlock = folio;
	cr_assert_eq(iomap_sync_range(ts->file, 64 * KIB, 68 * KIB, SYNC_PAGE), 0);
	cr_assert_eq(batch.finished, 1U);
	cr_assert_not(ts_under_writeback(ts, 64 * KIB));
	cr_assert_eq(reads_ended, 0U);
	while (!reads_ended)
		iomap_engine_poll(ts->engine, 1, true);
	batch.unlock = NULL;
	iomap_folio_put(folio);
	batch_close();
}

/* Ioends of 4 KiB each at every 8 KiB, on the device one after the other. */
static void write_apart(struct ts *ts, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		ts_write(ts, (int64_t)i * 8 * KIB, 4 * KIB, 2);
}

Test(ioend_batch, ie03_many_ioends_are_finished_as_one)
{
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

	/* a boundary every 64 KiB starts another ioend, and a map that changes ends none */
	ts->map_max_bytes = 64 * KIB;
	for (int64_t pos = 0; pos < 1 << 20; pos += 64 * KIB)
		ts_map(ts, pos, 64 * KIB, IOMAP_UNWRITTEN, 0,
		       (uint64_t)(64 * KIB + pos + (pos >= 512 * KIB ? 1 << 20 : 0)));
	td_hold(ts->dev, TD_WRITE);
	/* back to front, piece by piece: each is an ioend of its own */
	for (int64_t pos = (1 << 20) - 64 * KIB; pos >= 0; pos -= 64 * KIB) {
		ts_write(ts, pos, 64 * KIB, 3);
		cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	}
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 16U);
	td_open_gates(ts->dev);
	cr_assert_eq(batch.hooks, 16U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(batch.runs, 1U);
	/* one for each half, which are apart on the device, in the order of the file */
	cr_assert_eq(batch.finished, 2U);
	cr_assert_eq(batch.done[0].offset, 0);
	cr_assert_eq(batch.done[0].size, (size_t)(512 * KIB));
	cr_assert_eq(batch.done[1].offset, 512 * KIB);
	cr_assert_eq(batch.done[1].size, (size_t)(512 * KIB));
	for (int64_t pos = 0; pos < 1 << 20; pos += 4 * KIB) {
		cr_assert_not(ts_under_writeback(ts, pos));
		cr_assert_not(ts_dirty(ts, pos));
	}
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 1 << 20, 3));
	batch_close();
}

Test(ioend_batch, ie03_an_error_of_the_completion_is_recorded)
{
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);
	struct iomap_file *second;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &second), 0);
	batch.error = -ENOSPC;
	write_apart(ts, 4);
	cr_assert_eq(ts_fsync(ts), -ENOSPC);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(iomap_file_fsync(second, 0), -ENOSPC);
	cr_assert_not(ts_under_writeback(ts, 0));
	cr_assert_not(ts_dirty(ts, 0));
	cr_assert_eq(iomap_file_close(second), 0);
	batch_close();
}

Test(ioend_batch, ie03_the_hook_sees_the_error_and_one_call_for_many_bios)
{
	struct iomap_bdev_limits limits = { .logical_block_size = 512,
					    .physical_block_size = 512,
					    .dma_alignment = 512,
					    .max_segments_nr = 4,
					    .max_transfer_bytes = 16 * KIB };
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);
	struct td *dev = td_new(ts->engine, 16 << 20, &limits);
	struct td *first = ts->dev;

	ts->dev = dev;
	ts_write(ts, 0, 128 * KIB, 2);
	td_fail(dev, TD_WRITE, 100 * KIB, 512, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_geq(td_count(dev, TD_WRITE), 8U);
	cr_assert_eq(batch.hooks, ts_calls(ts, TS_SUBMIT));
	cr_assert_eq(batch.statuses[0], -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	iomap_flush_work(ts->engine, &batch.work);
	ts->dev = first;
	cr_assert_eq(iomap_file_close(ts->file), 0);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), 0);
	td_free(dev);
	ts_free(ts);
	t_gate_exit(&batch.gate);
}

static int refuse(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	return batch_submit(ts, wpc, error ? error : -ENXIO);
}

Test(ioend_batch, ie03_an_ioend_that_is_not_submitted_comes_to_the_hook_too)
{
	for (unsigned inside = 0; inside < 2; inside++) {
		struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

		batch.in_end_io = inside;
		ts->hook.submit = refuse;
		ts_write(ts, 0, 64 * KIB, 2);
		cr_assert_eq(ts_fsync(ts), -EIO);
		cr_assert_eq(batch.hooks, 1U);
		cr_assert_eq(batch.statuses[0], -ENXIO);
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		cr_assert_not(ts_under_writeback(ts, 0));
		cr_assert_eq(batch.done[0].status, -ENXIO);
		ts->hook.submit = batch_submit;
		cr_assert_eq(ts_fsync(ts), 0);
		batch_close();
	}
}

static struct iomap_ioend *kept;
static void keep(struct iomap_ioend *ioend)
{
	kept = ioend;
}

static void finish_twice(void *arg)
{
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

	(void)arg;
	batch.step = keep;
	ts_write(ts, 0, 4 * KIB, 2);
	(void)ts_fsync(ts);
	iomap_finish_ioends(kept, 0);
}

Test(ioend_batch, ie03_finishing_an_ioend_twice_aborts_in_debug_builds)
{
	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(finish_twice, NULL, NULL, 0), SIGABRT);
}

/* ---- made up ones: sorting and merging look at nothing but the ioend ---- */

static struct iomap_ioend fake[IOENDS];

static void fake_list(struct iomap_list_head *head, unsigned first, unsigned nr)
{
	list_init(head);
	for (unsigned i = first; i < first + nr; i++)
		list_add(&fake[i].io_list, head);
}

/* ---- IE04 ---- */

Test(ioend_batch, ie04_ioends_sort_by_offset_and_keep_their_order)
{
	struct t_rand r = { .state = t_seed() };

	for (unsigned round = 0; round < 200; round++) {
		unsigned nr = (unsigned)t_below(&r, IOENDS + 1), seen = 0;
		uint64_t range = 1 + t_below(&r, 1000);
		struct iomap_list_head head;
		struct iomap_ioend *before = NULL;

		for (unsigned i = 0; i < nr; i++)
			fake[i].io_offset = (int64_t)t_below(&r, range) * 4096;
		fake_list(&head, 0, nr);
		iomap_sort_ioends(&head);
		for (struct iomap_list_head *item = head.next, *last = &head; item != &head;
		     last = item, item = item->next, seen++) {
			struct iomap_ioend *ioend = (void *)((char *)item -
							     offsetof(struct iomap_ioend, io_list));

			cr_assert_eq(item->prev, last);
			cr_assert(!before || before->io_offset < ioend->io_offset ||
				  (before->io_offset == ioend->io_offset && before < ioend));
			before = ioend;
		}
		cr_assert_eq(seen, nr);
		cr_assert_eq(head.prev, nr ? &before->io_list : &head);
	}
}

/* ---- IE05 ---- */

static struct iomap_inode two_inodes[2];
static char two_bdevs[2];

/* Four of 8 KiB in a row, on the device as well. */
static void four_in_a_row(struct iomap_list_head *more)
{
	for (unsigned i = 0; i < 4; i++)
		fake[i] = (struct iomap_ioend){
			.io_inode = &two_inodes[0],
			.io_offset = (int64_t)i * 8 * KIB,
			.io_size = 8 * KIB,
			.io_sector = 1000 + i * 16,
			.io_bio.bi_bdev = (struct iomap_bdev *)(void *)&two_bdevs[0],
		};
	fake_list(more, 1, 3);
}

static unsigned merged_nr(const struct iomap_ioend *ioend)
{
	unsigned nr = 0;

	for (const struct iomap_list_head *item = ioend->io_list.next; item != &ioend->io_list;
	     item = item->next)
		nr++;
	return nr;
}

Test(ioend_batch, ie05_what_touches_and_is_alike_is_merged)
{
	struct iomap_list_head more;

	four_in_a_row(&more);
	iomap_ioend_try_merge(&fake[0], &more);
	cr_assert(list_is_empty(&more));
	cr_assert_eq(merged_nr(&fake[0]), 3U);
	cr_assert_eq(fake[0].io_size, (size_t)(32 * KIB));
	cr_assert_eq(fake[0].io_list.next, &fake[1].io_list);
	cr_assert_eq(fake[0].io_list.prev, &fake[3].io_list);
	/* nothing there, nothing merged */
	iomap_ioend_try_merge(&fake[1], &more);
	cr_assert_eq(merged_nr(&fake[1]), 0U);
}

static void other_offset(struct iomap_ioend *ioend)
{
	ioend->io_offset += 4 * KIB;
}
static void other_sector(struct iomap_ioend *ioend)
{
	ioend->io_sector += 8;
}
static void other_bdev(struct iomap_ioend *ioend)
{
	ioend->io_bio.bi_bdev = (struct iomap_bdev *)(void *)&two_bdevs[1];
}
static void other_inode(struct iomap_ioend *ioend)
{
	ioend->io_inode = &two_inodes[1];
}
static void unwritten(struct iomap_ioend *ioend)
{
	ioend->io_flags |= IOMAP_IOEND_UNWRITTEN;
}
static void shared(struct iomap_ioend *ioend)
{
	ioend->io_flags |= IOMAP_IOEND_SHARED;
}
static void boundary(struct iomap_ioend *ioend)
{
	ioend->io_flags |= IOMAP_IOEND_BOUNDARY;
}
static void failed(struct iomap_ioend *ioend)
{
	ioend->io_error = ioend->io_bio.bi_status = -EIO;
}

Test(ioend_batch, ie05_merging_stops_at_the_first_that_is_not)
{
	static void (*const differs[])(struct iomap_ioend *) = {
		other_offset, other_sector, other_bdev, other_inode,
		unwritten,    shared,	    boundary,	failed,
	};
	struct iomap_list_head more;

	for (size_t i = 0; i < sizeof(differs) / sizeof(differs[0]); i++) {
		four_in_a_row(&more);
		differs[i](&fake[2]);
		iomap_ioend_try_merge(&fake[0], &more);
		cr_assert_eq(merged_nr(&fake[0]), 1U, "difference %zu", i);
		cr_assert_eq(fake[0].io_size, (size_t)(16 * KIB));
		cr_assert_eq(more.next, &fake[2].io_list);
		cr_assert_eq(more.prev, &fake[3].io_list);
	}
}

Test(ioend_batch, ie05_alike_in_type_and_in_failure_is_alike)
{
	static void (*const both[])(struct iomap_ioend *) = { unwritten, shared, failed };
	struct iomap_list_head more;

	for (size_t i = 0; i < sizeof(both) / sizeof(both[0]); i++) {
		four_in_a_row(&more);
		for (unsigned n = 0; n < 4; n++)
			both[i](&fake[n]);
		boundary(&fake[0]);
		iomap_ioend_try_merge(&fake[0], &more);
		cr_assert_eq(merged_nr(&fake[0]), 3U);
	}
}

/* What failed and what did not lie side by side: three are finished, with an error for one. */
Test(ioend_batch, ie05_an_error_of_one_does_not_spread)
{
	struct ts *ts = batch_store(IOMAP_ENGINE_NO_THREADS, 0);

	td_hold(ts->dev, TD_WRITE);
	for (int64_t pos = 0; pos < 48 * KIB; pos += 16 * KIB) {
		ts_write(ts, pos, 16 * KIB, 3);
		cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	}
	td_fail(ts->dev, TD_WRITE, (64 + 16) * KIB, 512, -EIO, 1);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(batch.hooks, 3U);
	cr_assert_eq(batch.finished, 3U);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(batch.done[i].offset, (int64_t)i * 16 * KIB);
		cr_assert_eq(batch.done[i].status, i == 1 ? -EIO : 0);
	}
	for (int64_t pos = 0; pos < 48 * KIB; pos += 4 * KIB)
		cr_assert_not(ts_under_writeback(ts, pos));
	cr_assert_eq(ts_fsync(ts), 0);
	batch_close();
}

/* ---- many at a time ---- */

static long write_some(void *arg)
{
	struct ts *ts = batch.ts;
	unsigned seed = (unsigned)(uintptr_t)arg;
	struct t_rand r = { .state = seed };

	for (unsigned i = 0; i < 40; i++) {
		int64_t pos = (int64_t)t_below(&r, 64) * 4 * KIB + (int64_t)seed * (1 << 20);

		ts_write(ts, pos, 4 * KIB + t_below(&r, 32 * KIB), seed);
		t_must(!iomap_sync_range(ts->file, pos, pos + 64 * KIB, IOMAP_SYNC_WRITE));
	}
	return ts_fsync(ts);
}

Test(ioend_batch, ie03_batches_end_beside_writers_and_fsyncs)
{
	for (unsigned threads = 0; threads < 2; threads++) {
		struct ts *ts = batch_store(threads ? 0 : IOMAP_ENGINE_NO_THREADS, threads ? 2 : 0);
		struct t_task task[3];

		td_async(ts->dev);
		for (unsigned i = 0; i < 3; i++)
			t_start(&task[i], write_some, (void *)(uintptr_t)i);
		for (unsigned i = 0; i < 3; i++)
			cr_assert_eq(t_join(&task[i]), 0);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
		cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
		batch_close();
	}
}
