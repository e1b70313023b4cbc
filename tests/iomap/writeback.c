/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * writeback.c - WB: from dirty folios to the device.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(uint32_t blkbits)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 256 * KIB, .blkbits = blkbits });

	ts_map(ts, 0, 256 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 256 * KIB, 0, 1);
	return ts;
}

static int writepages(struct ts *ts, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = &ts->inode, .wbc = wbc, .ops = &ts->wb_ops };

	return iomap_writepages(&wpc);
}

static struct iomap_writeback_control all(void)
{
	return (struct iomap_writeback_control){ .nr_to_write = INT64_MAX,
						 .range_end = INT64_MAX,
						 .sync_mode = IOMAP_WB_SYNC_ALL };
}

static unsigned dirty_folios(struct ts *ts, int64_t end)
{
	unsigned nr = 0;

	for (int64_t pos = 0; pos < end; pos += 4 * KIB)
		nr += ts_dirty(ts, pos);
	return nr;
}

/* ---- WB01 ---- */

Test(writeback, wb01_folios_of_the_range_are_written)
{
	struct ts *ts = mapped_store(12);
	struct iomap_writeback_control wbc = all();

	ts_write(ts, 0, 64 * KIB, 2);
	wbc.range_start = 9 * KIB;
	wbc.range_end = 20 * KIB; /* inclusive */
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(16 * KIB));
	cr_assert(ts_dev_has(ts, 72 * KIB, 16 * KIB, 8 * KIB, 2));
	cr_assert_eq(dirty_folios(ts, 64 * KIB), 12U);
	wbc = all();
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(dirty_folios(ts, 64 * KIB), 0U);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(64 * KIB));
	ts_close(ts);
}

Test(writeback, wb01_nr_to_write_bounds_what_is_written_but_not_with_sync_all)
{
	struct ts *ts = mapped_store(12);
	struct iomap_writeback_control wbc = all();

	ts_write(ts, 0, 64 * KIB, 2);
	wbc.sync_mode = IOMAP_WB_SYNC_NONE;
	wbc.nr_to_write = 3;
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_leq(wbc.nr_to_write, 0);
	cr_assert_eq(dirty_folios(ts, 64 * KIB), 13U);
	wbc = all();
	wbc.nr_to_write = 3;
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(dirty_folios(ts, 64 * KIB), 0U);
	ts_close(ts);
}

Test(writeback, wb01_sync_none_does_not_wait_for_writeback_that_runs)
{
	struct ts *ts = mapped_store(12);
	struct iomap_writeback_control wbc = all();

	wbc.sync_mode = IOMAP_WB_SYNC_NONE;
	ts_write(ts, 0, 8 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(writepages(ts, &wbc), 0);
	td_wait_held(ts->dev, 1);
	ts_write(ts, 0, 4 * KIB, 3); /* dirty and under writeback */
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 1U);
	cr_assert(ts_dirty(ts, 0));
	td_open_gates(ts->dev);
	wbc = all();
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 3));
	cr_assert(ts_dev_has(ts, 68 * KIB, 4 * KIB, 4 * KIB, 2));
	ts_close(ts);
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

Test(writeback, wb01_sync_all_writes_what_was_dirtied_under_writeback)
{
	struct ts *ts = mapped_store(12);
	struct t_task task;

	ts_write(ts, 0, 4 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	ts_write(ts, 0, 4 * KIB, 3);
	t_start(&task, fsync_task, ts);
	cr_assert_eq(td_release(ts->dev, 1), 1U);
	td_wait_held(ts->dev, 1); /* the second round */
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 2U);
	cr_assert_gt(td_nth(ts->dev, TD_WRITE, 1).submitted,
		     td_nth(ts->dev, TD_WRITE, 0).completed);
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 3));
	ts_close(ts);
}

Test(writeback, wb01_a_missing_op_is_refused)
{
	struct ts *ts = mapped_store(12);
	struct iomap_writeback_control wbc = all();
	struct iomap_writeback_ops ops = ts->wb_ops;
	struct iomap_writepage_ctx wpc = { .inode = &ts->inode, .wbc = &wbc };

	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(iomap_writepages(&wpc), -EINVAL);
	wpc.ops = &ops;
	ops.writeback_range = NULL;
	cr_assert_eq(iomap_writepages(&wpc), -EINVAL);
	ops = ts->wb_ops;
	ops.writeback_submit = NULL;
	cr_assert_eq(iomap_writepages(&wpc), -EINVAL);
	cr_assert(ts_dirty(ts, 0));
	cr_assert_eq(ts_calls(ts, TS_RANGE), 0U);
	ts_close(ts);
}

/* ---- WB02 ---- */

static ssize_t look_at_folio(struct ts *ts, struct iomap_writepage_ctx *wpc,
			     struct iomap_folio *folio, uint64_t pos, unsigned len,
			     uint64_t end_pos)
{
	t_must(iomap_folio_test_locked(folio));
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

Test(writeback, wb02_a_folio_is_locked_until_scheduled_then_under_writeback)
{
	struct ts *ts = mapped_store(12);
	struct iomap_writeback_control wbc = all();

	ts->hook.range = look_at_folio;
	ts_write(ts, 0, 16 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(writepages(ts, &wbc), 0);
	for (int64_t pos = 0; pos < 16 * KIB; pos += 4 * KIB) {
		struct iomap_folio *folio = ts_folio(ts, pos);

		cr_assert(iomap_folio_test_writeback(folio));
		cr_assert_not(iomap_folio_test_locked(folio));
		cr_assert_not(iomap_folio_test_dirty(folio));
		iomap_folio_put(folio);
	}
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, (uint64_t)(16 * KIB));
	cr_assert(ts_reads(ts, 0, 16 * KIB, 2), "it can be read meanwhile");
	td_open_gates(ts->dev);
	for (int64_t pos = 0; pos < 16 * KIB; pos += 4 * KIB) {
		struct iomap_folio *folio = ts_folio(ts, pos);

		iomap_folio_wait_writeback(folio);
		cr_assert_not(iomap_folio_test_writeback(folio));
		iomap_folio_put(folio);
	}
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
	ts_close(ts);
}

struct holder {
	struct ts *ts;
	struct t_gate gate;
	bool locked, leave;
};

static long hold_both(void *arg)
{
	struct holder *h = arg;

	iomap_inode_lock(&h->ts->inode);
	iomap_filemap_invalidate_lock(&h->ts->inode.i_data);
	t_lock(&h->gate);
	h->locked = true;
	t_wake(&h->gate);
	while (!h->leave)
		t_wait(&h->gate);
	t_unlock(&h->gate);
	iomap_filemap_invalidate_unlock(&h->ts->inode.i_data);
	iomap_inode_unlock(&h->ts->inode);
	return 0;
}

Test(writeback, wb02_writepages_takes_neither_i_rwsem_nor_invalidate_lock)
{
	struct ts *ts = mapped_store(10);
	struct iomap_writeback_control wbc = all();
	struct holder h = { .ts = ts };
	struct t_task task;

	ts_write(ts, 500, 30000, 2);
	t_gate_init(&h.gate);
	t_start(&task, hold_both, &h);
	t_lock(&h.gate);
	while (!h.locked)
		t_wait(&h.gate);
	t_unlock(&h.gate);

	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(ts_fsync(ts), 0, "nor does fsync");
	cr_assert(ts_dev_has(ts, 64 * KIB + 500, 30000, 500, 2));

	t_lock(&h.gate);
	h.leave = true;
	t_wake(&h.gate);
	t_unlock(&h.gate);
	t_join(&task);
	t_gate_exit(&h.gate);
	ts_close(ts);
}

/* ---- WB03 ---- */

Test(writeback, wb03_each_contiguous_dirty_run_is_asked_for)
{
	struct ts *ts = mapped_store(10);

	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, 3 * KIB, 2); /* two blocks here, one in the next folio */
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 3U);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).pos, 0);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).length, (uint64_t)KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).end_pos, (uint64_t)(4 * KIB));
	cr_assert_eq(ts_nth(ts, TS_RANGE, 1).pos, 2 * KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 1).length, (uint64_t)(2 * KIB));
	cr_assert_eq(ts_nth(ts, TS_RANGE, 2).pos, 4 * KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 2).length, (uint64_t)KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 2).end_pos, (uint64_t)(8 * KIB));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(4 * KIB));
	ts_close(ts);
}

static ssize_t one_block_at_a_time(struct ts *ts, struct iomap_writepage_ctx *wpc,
				   struct iomap_folio *folio, uint64_t pos, unsigned len,
				   uint64_t end_pos)
{
	return ts_range(ts, wpc, folio, pos, len < KIB ? len : KIB, end_pos);
}

Test(writeback, wb03_what_was_not_handled_is_asked_for_again)
{
	struct ts *ts = mapped_store(10);

	ts->hook.range = one_block_at_a_time;
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 4U);
	for (size_t i = 0; i < 4; i++) {
		cr_assert_eq(ts_nth(ts, TS_RANGE, i).pos, (int64_t)(i * KIB));
		cr_assert_eq(ts_nth(ts, TS_RANGE, i).length, (4 - i) * KIB);
	}
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 2));
	ts_close(ts);
}

Test(writeback, wb03_a_mapping_shorter_than_the_run_takes_part_of_it)
{
	struct ts *ts = mapped_store(10);

	ts_map(ts, 2 * KIB, 2 * KIB, IOMAP_MAPPED, 0, 512 * KIB);
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 2U);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).ret, 2 * KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 1).pos, 2 * KIB);
	cr_assert(ts_dev_has(ts, 64 * KIB, 2 * KIB, 0, 2));
	cr_assert(ts_dev_has(ts, 512 * KIB, 2 * KIB, 2 * KIB, 2));
	ts_close(ts);
}

Test(writeback, wb03_a_hole_writes_nothing_and_cleans)
{
	struct ts *ts = mapped_store(10);

	ts_write(ts, 0, 4 * KIB, 2);
	ts_punch(ts, KIB, KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(3 * KIB));
	cr_assert_not(td_touched(ts->dev, TD_WRITE, 65 * KIB, KIB));
	cr_assert_not(ts_dirty(ts, 0));
	ts_reset(ts);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 0U);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
	ts_close(ts);
}

/* Defers what lies in [defer_from, defer_to). */
static uint64_t defer_from, defer_to;
static ssize_t defer_some(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	if (pos >= defer_from && pos < defer_to)
		return IOMAP_WB_DEFER;
	if (pos < defer_from && pos + len > defer_from)
		len = (unsigned)(defer_from - pos);
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

Test(writeback, wb03_deferred_runs_stay_dirty_until_the_resume)
{
	struct ts *ts = mapped_store(10);
	struct iomap_writeback_control wbc = all();

	ts->hook.range = defer_some;
	defer_from = 5 * KIB;
	defer_to = 8 * KIB;
	ts_write(ts, 0, 12 * KIB, 2);
	cr_assert_eq(writepages(ts, &wbc), 0);
	cr_assert_eq(wbc.nr_deferred, 1U);
	cr_assert_eq(t_stats(ts->engine).deferred_nr, 1U);
	cr_assert_not(ts_dirty(ts, 0));
	cr_assert(ts_dirty(ts, 4 * KIB));
	cr_assert_not(ts_dirty(ts, 8 * KIB));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(9 * KIB));
	cr_assert(ts_dev_has(ts, 64 * KIB, 5 * KIB, 0, 2));
	cr_assert(ts_dev_has(ts, 69 * KIB, 3 * KIB, 5 * KIB, 1));
	cr_assert(ts_dev_has(ts, 72 * KIB, 4 * KIB, 8 * KIB, 2));
	/* fsync never returns 0 over them; here nothing can resume while it waits */
	cr_assert_eq(ts_fsync(ts), -EAGAIN);
	cr_assert_eq(ts_fsync(ts), -EAGAIN);

	defer_to = 0;
	iomap_writeback_resume(&ts->inode);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(12 * KIB), "and each block once");
	cr_assert(ts_dev_has(ts, 64 * KIB, 12 * KIB, 0, 2));
	ts_close(ts);
}

static ssize_t defer_then_resume(struct ts *ts, struct iomap_writepage_ctx *wpc,
				 struct iomap_folio *folio, uint64_t pos, unsigned len,
				 uint64_t end_pos)
{
	_Atomic bool *may_go = ts->hook.arg;

	return atomic_load(may_go) ? ts_range(ts, wpc, folio, pos, len, end_pos) : IOMAP_WB_DEFER;
}

Test(writeback, wb03_fsync_waits_for_the_resume)
{
	struct iomap_engine_opts opts;
	_Atomic bool may_go = false;
	struct t_task task;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flush_interval_ms = 3600 * 1000;
	ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	ts->hook.arg = &may_go;
	ts->hook.range = defer_then_resume;
	ts_write(ts, 0, 8 * KIB, 1);
	t_start(&task, fsync_task, ts);
	ts_wait_calls(ts, TS_RANGE, 1);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U);
	atomic_store(&may_go, true);
	iomap_writeback_resume(&ts->inode);
	cr_assert_eq(t_join(&task), 0);
	cr_assert(ts_dev_has(ts, ts_lookup(ts, 0).addr, 8 * KIB, 0, 1));
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	ts_close(ts);
}

/* ---- WB04 ---- */

static unsigned answer_type;
static ssize_t answer(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		      uint64_t pos, unsigned len, uint64_t end_pos)
{
	static char data[4096];

	wpc->iomap = (struct iomap){ .type = (uint16_t)answer_type,
				     .addr = IOMAP_NULL_ADDR,
				     .length = 4 * KIB,
				     .inline_data = data,
				     .bdev = ts->dev->bdev };
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

Test(writeback, wb04_inline_and_delalloc_are_errors)
{
	static const unsigned types[] = { IOMAP_INLINE, IOMAP_DELALLOC };

	for (size_t i = 0; i < 2; i++) {
		struct ts *ts = mapped_store(12);

		ts_write(ts, 0, 4 * KIB, 2);
		answer_type = types[i];
		ts->hook.range = answer;
		cr_assert_eq(ts_fsync(ts), -EIO);
		cr_assert_eq(ts_nth(ts, TS_RANGE, 0).ret, -EIO);
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		cr_assert_not(ts_dirty(ts, 0));
		cr_assert_not(ts_under_writeback(ts, 0));
		ts_close(ts);
	}
}

/* ---- WB05 ---- */

/* Dirty blocks 0 and 2 of a folio, of which the second cannot be scheduled. */
static struct ts *half_failing(int error, struct iomap_file **second)
{
	struct ts *ts = mapped_store(10);

	cr_assert_eq(iomap_file_open(&ts->inode, 0, second), 0);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, KIB, 2);
	ts_fail(ts, TS_RANGE, 2, error, 1);
	return ts;
}

Test(writeback, wb05_a_folio_that_cannot_be_scheduled_is_clean_and_uptodate)
{
	struct iomap_file *second;
	struct ts *ts = half_failing(-ENXIO, &second);
	struct iomap_folio *folio;

	(void)ts_fsync(ts);
	folio = ts_folio(ts, 0);
	iomap_folio_wait_writeback(folio);
	cr_assert_not(iomap_folio_test_dirty(folio));
	cr_assert(iomap_folio_test_uptodate(folio));
	cr_assert(iomap_folio_trylock(folio));
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
	cr_assert(ts_reads(ts, 0, KIB, 2), "reads give the new bytes");
	cr_assert(ts_reads(ts, 2 * KIB, KIB, 2));
	ts_reset(ts);
	(void)ts_fsync(ts);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 0U, "nothing of it is dirty");
	cr_assert_eq(iomap_file_close(second), 0);
	ts_close(ts);
}

Test(writeback, wb05_the_error_comes_once_to_each_opener_enospc_as_such)
{
	static const struct {
		int given, reported;
	} error[] = { { -ENOSPC, -ENOSPC }, { -ENXIO, -EIO }, { -ENOMEM, -EIO } };

	for (size_t i = 0; i < 3; i++) {
		struct iomap_file *second;
		struct ts *ts = half_failing(error[i].given, &second);
		int rc = ts_fsync(ts);

		cr_assert_eq(rc, error[i].reported, "%d became %d", error[i].given, rc);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(iomap_file_fsync(second, 0), error[i].reported);
		cr_assert_eq(iomap_file_fsync(second, 0), 0);
		cr_assert_eq(iomap_file_close(second), 0);
		ts_close(ts);
	}
}

Test(writeback, wb05_range_is_not_called_again_for_that_folio)
{
	struct ts *ts = mapped_store(10);

	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, KIB, 2);
	ts_write(ts, 4 * KIB, KIB, 2); /* another folio */
	ts_fail(ts, TS_RANGE, 1, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	for (size_t i = 1; i < ts_calls(ts, TS_RANGE); i++)
		cr_assert_geq(ts_nth(ts, TS_RANGE, i).pos, 4 * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_last(ts, TS_RANGE).pos, 4 * KIB, "the other one is written");
	cr_assert(ts_dev_has(ts, 68 * KIB, KIB, 4 * KIB, 2));
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 1));
	ts_close(ts);
}

/* The first run goes out before the second one fails. */
static ssize_t submit_first(struct ts *ts, struct iomap_writepage_ctx *wpc,
			    struct iomap_folio *folio, uint64_t pos, unsigned len, uint64_t end_pos)
{
	ssize_t n;

	if (pos)
		return -EIO;
	n = ts_range(ts, wpc, folio, pos, len, end_pos);
	if (n > 0) {
		int rc = wpc->ops->writeback_submit(wpc, 0);

		wpc->wb_ctx = NULL;
		if (rc)
			return rc;
	}
	return n;
}

Test(writeback, wb05_runs_already_submitted_finish)
{
	struct ts *ts = mapped_store(10);
	struct t_task task;

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, KIB, 2);
	ts->hook.range = submit_first;
	td_hold(ts->dev, TD_WRITE);
	t_start(&task, fsync_task, ts);
	td_wait_held(ts->dev, 1);
	ts_wait_calls(ts, TS_WRITEPAGES, 1);
	cr_assert(ts_under_writeback(ts, 0));
	cr_assert_not(ts_dirty(ts, 0));
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), -EIO);
	cr_assert_not(ts_under_writeback(ts, 0));
	cr_assert(ts_dev_has(ts, 64 * KIB, KIB, 0, 2));
	cr_assert(ts_dev_has(ts, 65 * KIB, 3 * KIB, KIB, 1));
	ts_close(ts);
}

/* ---- WB06 ---- */

static int refuse_to_submit(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	(void)ts;
	return iomap_ioend_writeback_submit(wpc, error ? error : -EIO);
}

Test(writeback, wb06_submit_with_an_error_ends_the_ioend_unsubmitted)
{
	struct ts *ts = mapped_store(12);
	struct iomap_file *second;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &second), 0);
	ts->hook.submit = refuse_to_submit;
	ts_write(ts, 0, 64 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB) {
		cr_assert_not(ts_under_writeback(ts, pos));
		cr_assert_not(ts_dirty(ts, pos));
	}
	ts->hook.submit = NULL;
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(iomap_file_fsync(second, 0), -EIO);
	cr_assert_eq(iomap_file_close(second), 0);
	ts_close(ts);
}

static int mark_bio(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	(void)ts;
	t_must(iomap_ioend_from_bio(&ioend->io_bio) == ioend);
	t_must(ioend->io_inode == &ts->inode);
	ioend->io_bio.bi_opf |= IOMAP_REQ_META;
	return iomap_ioend_writeback_submit(wpc, error);
}

Test(writeback, wb06_a_wrapper_sees_and_changes_the_bio_before_it_goes)
{
	struct ts *ts = mapped_store(12);

	ts->hook.submit = mark_bio;
	ts_write(ts, 8 * KIB, 8 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 1U);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_offset, 8 * KIB);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_size, (size_t)(8 * KIB));
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_sector, 72U * 2);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).written, 0, "no error");
	cr_assert(td_nth(ts->dev, TD_WRITE, 0).opf & IOMAP_REQ_META);
	cr_assert(ts_dev_has(ts, 72 * KIB, 8 * KIB, 8 * KIB, 2));
	ts_close(ts);
}

/* ---- WB07 ---- */

/* Writeback without ioends: the runs are left for the test to finish. */
static struct {
	struct iomap_folio *folio;
	unsigned len;
} started[16];
static unsigned nr_started;

static ssize_t start_only(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)pos;
	(void)end_pos;
	(void)wpc;
	t_must(nr_started < 16);
	iomap_start_folio_write(&ts->inode, folio, len);
	started[nr_started].folio = folio;
	started[nr_started++].len = len;
	return len;
}

static struct ts *two_runs_started(void)
{
	struct ts *ts = mapped_store(10);
	struct iomap_writeback_control wbc = all();

	t_must(ts_reads(ts, 0, 4 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, 2 * KIB, 2);
	nr_started = 0;
	ts->hook.range = start_only;
	t_must(writepages(ts, &wbc) == 0);
	t_must(nr_started == 2);
	t_must(ts_calls(ts, TS_SUBMIT) == 0);
	return ts;
}

Test(writeback, wb07_a_folio_leaves_writeback_when_its_last_range_ends)
{
	struct ts *ts = two_runs_started();

	cr_assert(ts_under_writeback(ts, 0));
	iomap_finish_folio_write(&ts->inode, started[1].folio, started[1].len);
	cr_assert(ts_under_writeback(ts, 0));
	iomap_finish_folio_write(&ts->inode, started[0].folio, started[0].len);
	cr_assert_not(ts_under_writeback(ts, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

Test(writeback, wb07_a_failed_range_is_finished_too_and_its_error_is_kept)
{
	struct ts *ts = two_runs_started();

	iomap_mapping_set_error(&ts->inode.i_data, -EIO);
	iomap_finish_folio_write(&ts->inode, started[0].folio, started[0].len);
	iomap_finish_folio_write(&ts->inode, started[1].folio, started[1].len);
	cr_assert_not(ts_under_writeback(ts, 0));
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

static void finish_too_often(void *arg)
{
	struct ts *ts = two_runs_started();
	struct iomap_folio *folio = ts_folio(ts, 0);

	(void)arg;
	iomap_finish_folio_write(&ts->inode, folio, started[0].len);
	iomap_finish_folio_write(&ts->inode, folio, started[1].len);
	iomap_finish_folio_write(&ts->inode, folio, started[1].len);
}

Test(writeback, wb07_finishing_a_range_twice_aborts_in_debug_builds)
{
	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(finish_too_often, NULL, NULL, 0), SIGABRT);
}

/* ---- WB08 ---- */

Test(writeback, wb08_a_folio_beyond_the_end_is_not_written)
{
	struct ts *ts = mapped_store(12);

	ts_write(ts, 0, 16 * KIB, 2);
	iomap_inode_lock(&ts->inode);
	iomap_i_size_write(&ts->inode, 8 * KIB);
	iomap_inode_unlock(&ts->inode);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(8 * KIB));
	for (size_t i = 0; i < ts_calls(ts, TS_RANGE); i++)
		cr_assert_lt(ts_nth(ts, TS_RANGE, i).pos, 8 * KIB);
	cr_assert(ts_dev_has(ts, 72 * KIB, 8 * KIB, 8 * KIB, 1));
	ts_close(ts);
}

Test(writeback, wb08_the_tail_of_the_last_folio_is_zeroed_before_it_is_written)
{
	for (uint32_t bits = 9; bits <= 12; bits += 3) {
		struct ts *ts = mapped_store(bits);
		size_t end = bits == 9 ? 1024 : 4096; /* of the block that holds the end */

		ts_write(ts, 0, 4 * KIB, 2);
		iomap_inode_lock(&ts->inode);
		iomap_i_size_write(&ts->inode, 1000);
		iomap_inode_unlock(&ts->inode);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert(ts_dev_has(ts, 64 * KIB, 1000, 0, 2));
		cr_assert(t_all(ts->dev->mem + 64 * KIB + 1000, end - 1000, 0));
		for (size_t i = 0; i < ts_calls(ts, TS_RANGE); i++)
			cr_assert_leq(ts_nth(ts, TS_RANGE, i).end_pos, (uint64_t)end);
		ts_close(ts);
	}
}
