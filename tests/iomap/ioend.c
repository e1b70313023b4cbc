/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * ioend.c - IE: contiguous pieces of writeback.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(uint64_t cache_bytes, const struct iomap_bdev_limits *limits)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_hard_pct = 80;
	opts.dirty_background_pct = 80;
	ts = ts_open(&(struct ts_config){ .i_size = 4 << 20, .opts = &opts, .limits = limits });
	ts_map(ts, 0, 4 << 20, IOMAP_MAPPED, 0, 64 * KIB);
	return ts;
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

/* ---- IE01 ---- */

Test(ioend, ie01_contiguous_blocks_of_many_folios_form_one_ioend)
{
	struct ts *ts = mapped_store(4 << 20, NULL);
	struct iomap_engine_stats before = t_stats(ts->engine), after;

	ts_write(ts, 100, 64 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	after = t_stats(ts->engine);
	cr_assert_eq(after.ioends_nr - before.ioends_nr, 1U);
	cr_assert_eq(after.ioend_bytes - before.ioend_bytes, (uint64_t)(68 * KIB));
	cr_assert_eq(after.ioend_blocks_nr - before.ioend_blocks_nr, 17U);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 1U);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_size, (size_t)(68 * KIB));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(68 * KIB));
	cr_assert(ts_dev_has(ts, 64 * KIB + 100, 64 * KIB, 100, 2));
	ts_close(ts);
}

Test(ioend, ie01_extents_that_follow_on_the_device_are_one_too)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	for (uint64_t i = 0; i < 8; i++)
		ts_map(ts, (int64_t)(i * 4 * KIB), 4 * KIB, IOMAP_MAPPED, 0, (64 + 4 * i) * KIB);
	ts_write(ts, 0, 32 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 1U);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_size, (size_t)(32 * KIB));
	ts_close(ts);
}

Test(ioend, ie01_a_step_on_the_device_or_in_the_file_starts_another)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	ts_map(ts, 8 * KIB, 8 * KIB, IOMAP_MAPPED, 0, 1 << 20);
	ts_write(ts, 0, 16 * KIB, 2);	    /* a step on the device at 8 KiB */
	ts_write(ts, 32 * KIB, 8 * KIB, 2); /* a step in the file */
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 3U);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_sector, 64U * 2);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 1).io_sector, 1024U * 2);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 2).io_offset, 32 * KIB);
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(ts_nth(ts, TS_SUBMIT, i).io_size, (size_t)(8 * KIB));
	ts_close(ts);
}

Test(ioend, ie01_a_change_of_type_starts_another)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	ts_map(ts, 8 * KIB, 8 * KIB, IOMAP_UNWRITTEN, 0, 72 * KIB);
	ts_map(ts, 24 * KIB, 8 * KIB, IOMAP_MAPPED, IOMAP_F_SHARED, 88 * KIB);
	ts_write(ts, 0, 40 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 5U);
	for (size_t i = 0; i < 5; i++) {
		static const unsigned want[] = { 0, IOMAP_IOEND_UNWRITTEN, 0, IOMAP_IOEND_SHARED,
						 0 };
		struct ts_event e = ts_nth(ts, TS_SUBMIT, i);

		cr_assert_eq(e.io_offset, (int64_t)(i * 8 * KIB));
		cr_assert_eq(e.io_size, (size_t)(8 * KIB));
		cr_assert_eq(e.io_flags & (IOMAP_IOEND_UNWRITTEN | IOMAP_IOEND_SHARED), want[i]);
	}
	ts_close(ts);
}

Test(ioend, ie01_a_boundary_starts_another)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	ts_map(ts, 8 * KIB, 8 * KIB, IOMAP_MAPPED, IOMAP_F_BOUNDARY, 72 * KIB);
	ts_write(ts, 0, 32 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 2U);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 0).io_size, (size_t)(8 * KIB));
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 1).io_offset, 8 * KIB);
	cr_assert_eq(ts_nth(ts, TS_SUBMIT, 1).io_size, (size_t)(24 * KIB));
	cr_assert(ts_nth(ts, TS_SUBMIT, 1).io_flags & IOMAP_IOEND_BOUNDARY);
	cr_assert_not(ts_nth(ts, TS_SUBMIT, 0).io_flags & IOMAP_IOEND_BOUNDARY);
	ts_close(ts);
}

Test(ioend, ie01_more_than_a_bio_can_hold_is_chained_and_ends_as_one)
{
	struct ts *ts = mapped_store(8 << 20, NULL);
	size_t held, len = 3 << 20;

	/* every other folio first, so that neighbours in the file are not in memory */
	for (int64_t pos = 0; pos < (int64_t)len; pos += 8 * KIB)
		ts_write(ts, pos, 4 * KIB, 2);
	for (int64_t pos = 4 * KIB; pos < (int64_t)len; pos += 8 * KIB)
		ts_write(ts, pos, 4 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), len);
	held = td_count(ts->dev, TD_WRITE);
	cr_assert_geq(held, len / 4096 / IOMAP_BIO_MAX_VECS);
	if (ts_calls(ts, TS_SUBMIT) == 1) {
		/* all but the last bio: nothing has ended yet */
		td_release(ts->dev, held - 1);
		for (int64_t pos = 0; pos < (int64_t)len; pos += 64 * KIB)
			cr_assert(ts_under_writeback(ts, pos));
	}
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	for (int64_t pos = 0; pos < (int64_t)len; pos += 4 * KIB)
		cr_assert_not(ts_under_writeback(ts, pos));
	cr_assert(ts_dev_has(ts, 64 * KIB, len, 0, 2));
	ts_close(ts);
}

Test(ioend, ie01_past_the_devices_limits_all_arrives)
{
	struct iomap_bdev_limits limits = { .logical_block_size = 512,
					    .physical_block_size = 512,
					    .dma_alignment = 512,
					    .max_segments_nr = 4,
					    .max_transfer_bytes = 16 * KIB };
	struct ts *ts = mapped_store(4 << 20, &limits);

	ts_write(ts, 0, 256 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(256 * KIB));
	for (size_t i = 0; i < td_count(ts->dev, TD_WRITE); i++) {
		struct td_io io = td_nth(ts->dev, TD_WRITE, i);

		cr_assert_leq(io.bytes, (uint64_t)(16 * KIB));
		cr_assert_leq(io.vcnt, 4U);
	}
	cr_assert(ts_dev_has(ts, 64 * KIB, 256 * KIB, 0, 2));
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 256 * KIB, 2));
	ts_close(ts);
}

/* ---- IE02 ---- */

Test(ioend, ie02_completion_ends_writeback_of_all_folios)
{
	struct ts *ts = mapped_store(4 << 20, NULL);
	struct t_task task;

	td_hold(ts->dev, TD_WRITE);
	ts_write(ts, 0, 64 * KIB, 2);
	t_start(&task, fsync_task, ts);
	td_wait_held(ts->dev, 1);
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB)
		cr_assert(ts_under_writeback(ts, pos));
	td_open_gates(ts->dev); /* in this thread, which does not wait for it */
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB) {
		cr_assert_not(ts_under_writeback(ts, pos));
		cr_assert_not(ts_dirty(ts, pos));
	}
	cr_assert_eq(t_join(&task), 0);
	ts_close(ts);
}

Test(ioend, ie02_an_error_ends_writeback_too_and_is_recorded)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	ts_write(ts, 0, 64 * KIB, 2);
	td_fail(ts->dev, TD_WRITE, 80 * KIB, 512, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB) {
		cr_assert_not(ts_under_writeback(ts, pos));
		cr_assert_not(ts_dirty(ts, pos));
		cr_assert(ts_uptodate(ts, pos));
	}
	cr_assert(ts_reads(ts, 0, 64 * KIB, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

Test(ioend, ie02_the_devices_thread_may_complete)
{
	struct ts *ts = mapped_store(4 << 20, NULL);

	td_async(ts->dev);
	for (unsigned round = 0; round < 50; round++) {
		ts_write(ts, (round * 12345) % (1 << 20), 100 * KIB, round);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert(ts_dev_has(ts, 64 * KIB + (round * 12345) % (1 << 20), 100 * KIB,
				     (round * 12345) % (1 << 20), round));
	}
	ts_close(ts);
}
