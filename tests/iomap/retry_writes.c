/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * retry_writes.c - WB09: what becomes of data whose write has failed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1 << 20)
#define SECOND 1000000000ULL

static _Atomic uint64_t clock_ns;

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	return atomic_load(&clock_ns);
}

/* Whether the inode keeps what could not be written, and whether there are threads. */
static struct ts *store(bool retry, bool threads, uint32_t blkbits)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = MIB;
	opts.flags = threads ? 0 : IOMAP_ENGINE_NO_THREADS;
	opts.flush_interval_ms = threads ? 10 : 1000;
	opts.dirty_expire_ms = 3600 * 1000;
	if (!threads) {
		atomic_store(&clock_ns, 1000 * SECOND);
		opts.now_ns = now_ns;
	}
	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = 2 * MIB, .blkbits = blkbits, .opts = &opts });
	if (retry)
		ts->args.flags = IOMAP_INODE_RETRY_WRITES;
	ts_begin(ts);
	ts_map(ts, 0, 2 * MIB, IOMAP_MAPPED, 0, 64 * KIB);
	return ts;
}

static void fail_writes(struct ts *ts, uint64_t addr, uint64_t len, unsigned times)
{
	td_fail(ts->dev, TD_WRITE, addr, len, -EIO, times);
}

static void fail_nothing(struct ts *ts)
{
	t_lock(&ts->dev->gate);
	memset(ts->dev->fault, 0, sizeof(ts->dev->fault));
	t_unlock(&ts->dev->gate);
}

static uint64_t dirty_bytes(struct ts *ts)
{
	return t_stats(ts->engine).dirty_bytes;
}

static void tick(struct ts *ts, uint64_t ns)
{
	atomic_fetch_add(&clock_ns, ns);
	while (iomap_engine_poll(ts->engine, 100, true) > 0)
		;
}

/* ---- by default ---- */

Test(retry_writes, wb09_without_the_flag_a_failed_write_leaves_the_folio_clean)
{
	struct ts *ts = store(false, false, 12);

	ts_dev_fill(ts, 64 * KIB, 2 * MIB, 0, 1);
	ts_write(ts, 0, 16 * KIB, 2);
	fail_writes(ts, 64 * KIB, 16 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	for (int64_t pos = 0; pos < 16 * KIB; pos += 4 * KIB)
		cr_assert_not(ts_dirty(ts, pos));
	cr_assert_eq(dirty_bytes(ts), 0U);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 2), "the new bytes, while they are cached");
	cr_assert_eq(ts_fsync(ts), 0, "it has been told");
	td_reset(ts->dev);
	tick(ts, 7200 * SECOND);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U, "and nothing is tried again");
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1), "then the device's");
	ts_close(ts);
}

/* ---- by choice ---- */

Test(retry_writes, wb09_unknown_flags_are_refused)
{
	struct ts *ts = store(true, false, 12);
	struct iomap_inode_args args = ts->args;
	struct iomap_inode inode;

	args.flags |= 1ULL << 40;
	cr_assert_eq(iomap_inode_init(ts->engine, &inode, &args), -EINVAL);
	ts_close(ts);
}

Test(retry_writes, wb09_data_that_failed_stays_dirty_and_fsync_tries_at_once)
{
	struct ts *ts = store(true, false, 12);
	struct iomap_file *second;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &second), 0);
	ts_dev_fill(ts, 64 * KIB, 2 * MIB, 0, 1);
	ts_write(ts, 0, 16 * KIB, 2);
	fail_writes(ts, 64 * KIB, 16 * KIB, 2);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(ts_fsync(ts), -EIO);
		cr_assert_eq(dirty_bytes(ts), (uint64_t)(16 * KIB));
		cr_assert_not(ts_under_writeback(ts, 0));
		cr_assert(ts_dirty(ts, 0));
		ts_drop(ts);
		cr_assert(ts_reads(ts, 0, 16 * KIB, 2), "it cannot be evicted");
	}
	/* the device is well again: all is written, and an opener hears once of what was */
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(dirty_bytes(ts), 0U);
	cr_assert(ts_dev_has(ts, 64 * KIB, 16 * KIB, 0, 2));
	cr_assert_eq(iomap_file_fsync(second, 0), -EIO);
	cr_assert_eq(iomap_file_fsync(second, 0), 0);
	cr_assert_eq(iomap_file_close(second), 0);
	ts_close(ts);
}

Test(retry_writes, wb09_only_the_blocks_that_failed_are_written_again)
{
	struct ts *ts = store(true, false, 10);

	cr_assert(ts_reads_all(ts, 0, 16 * KIB, 0));
	ts_write(ts, KIB, KIB, 2);
	ts_write(ts, 3 * KIB, KIB, 2); /* another ioend, of the same folio */
	ts_write(ts, 8 * KIB, KIB, 2);
	fail_writes(ts, 67 * KIB, KIB, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert(ts_dirty(ts, 0));
	cr_assert_not(ts_dirty(ts, 8 * KIB));
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 1U);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)KIB);
	cr_assert(td_touched(ts->dev, TD_WRITE, 67 * KIB, KIB));
	ts_close(ts);
}

Test(retry_writes, wb09_it_is_tried_again_later_and_later)
{
	struct ts *ts = store(true, false, 12);
	uint64_t waited[10];

	ts_write(ts, 0, 16 * KIB, 2);
	fail_writes(ts, 64 * KIB, 16 * KIB, 1000);
	cr_assert_eq(ts_fsync(ts), -EIO);
	for (unsigned i = 0; i < 10; i++) {
		size_t tries = td_count(ts->dev, TD_WRITE);

		cr_assert_geq(iomap_engine_poll_timeout(ts->engine), 0);
		for (waited[i] = 0; td_count(ts->dev, TD_WRITE) == tries; waited[i]++) {
			cr_assert_lt(waited[i], 1000);
			tick(ts, SECOND / 10);
		}
		cr_assert_eq(td_count(ts->dev, TD_WRITE), tries + 1);
		cr_assert(ts_dirty(ts, 0));
	}
	/* tenths of a second: a flush interval, then twice as much, up to 64 times, and a quarter */
	for (unsigned i = 0, least = 10; i < 10; i++, least = least < 640 ? 2 * least : 640) {
		cr_assert_geq(waited[i], least - 1, "%u: %lu", i, (unsigned long)waited[i]);
		cr_assert_leq(waited[i], least + least / 4 + 2, "%u: %lu", i,
			      (unsigned long)waited[i]);
	}
	/* other data of the inode does not wait for it */
	ts_write(ts, 64 * KIB, 4 * KIB, 2);
	tick(ts, 0);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	cr_assert(ts_dev_has(ts, 128 * KIB, 4 * KIB, 64 * KIB, 2));
	cr_assert_not(ts_dirty(ts, 64 * KIB));
	cr_assert(ts_dirty(ts, 0));
	/* the device is well again, and nobody has to come by but poll */
	fail_nothing(ts);
	for (unsigned i = 0; i < 900; i++)
		tick(ts, SECOND / 10);
	cr_assert_eq(dirty_bytes(ts), 0U);
	cr_assert(ts_dev_has(ts, 64 * KIB, 16 * KIB, 0, 2));
	cr_assert_eq(ts_fsync(ts), -EIO, "of what happened since the last");
	cr_assert_eq(ts_fsync(ts), 0);
	/* a later failure begins anew */
	tick(ts, 1000 * SECOND);
	ts_write(ts, 0, 4 * KIB, 3);
	fail_writes(ts, 64 * KIB, 4 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	for (unsigned i = 0; i < 14; i++)
		tick(ts, SECOND / 10);
	cr_assert_eq(dirty_bytes(ts), 0U);
	ts_close(ts);
}

Test(retry_writes, wb09_the_flusher_tries_again_by_itself)
{
	struct ts *ts = store(true, true, 12);

	ts_write(ts, 0, 16 * KIB, 2);
	fail_writes(ts, 64 * KIB, 16 * KIB, 3);
	cr_assert_eq(ts_fsync(ts), -EIO);
	td_wait_completed(ts->dev, TD_WRITE, 4);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB, 16 * KIB, 0, 2));
	ts_close(ts);
}

/* Writes until it is told that it cannot; bytes. */
static int64_t fill(struct ts *ts, ssize_t *error)
{
	static char buf[4 * KIB];
	int64_t pos = 0;

	for (; pos < 2 * MIB; pos += (int64_t)sizeof(buf)) {
		*error = iomap_write(ts->file, buf, sizeof(buf), pos);
		if (*error != (ssize_t)sizeof(buf))
			break;
	}
	return pos;
}

Test(retry_writes, wb09_at_the_hard_limit_writers_get_the_error)
{
	for (unsigned threads = 0; threads < 2; threads++) {
		struct ts *ts = store(true, threads, 12), *other;
		ssize_t error = 0;
		char byte = 1;

		other = ts_open(&(struct ts_config){ .i_size = KIB * 64, .engine = ts->engine,
						     .dev = ts->dev });
		ts_map(other, 0, 64 * KIB, IOMAP_MAPPED, 0, 8 * MIB);
		fail_writes(ts, 64 * KIB, 2 * MIB, 1000000);
		cr_assert_lt(fill(ts, &error), MIB);
		cr_assert_eq(error, -EIO);
		cr_assert_gt(dirty_bytes(ts), 0U);
		/* also who overwrites what is cached and clean, and who writes another inode */
		cr_assert_eq(iomap_write(other->file, &byte, 1, 0), -EIO);
		/* room is made by throwing it away ... */
		cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
		iomap_inode_lock(&ts->inode);
		cr_assert_eq(iomap_inode_discard_dirty(&ts->inode), 0);
		iomap_inode_unlock(&ts->inode);
		cr_assert_eq(dirty_bytes(ts), 0U);
		cr_assert_eq(iomap_write(other->file, &byte, 1, 0), 1);
		/* ... or by a device that works */
		cr_assert_lt(fill(ts, &error), MIB);
		cr_assert_eq(error, -EIO);
		fail_nothing(ts);
		(void)ts_fsync(ts);
		cr_assert_eq(fill(ts, &error), 2 * MIB);
		(void)ts_fsync(ts);
		cr_assert_eq(ts_fsync(ts), 0);
		ts_close(other);
		ts_close(ts);
	}
}

Test(retry_writes, wb09_destroy_is_busy_until_it_is_written_or_thrown_away)
{
	for (unsigned discard = 0; discard < 2; discard++) {
		struct ts *ts = store(true, false, 12);

		ts_dev_fill(ts, 64 * KIB, 2 * MIB, 0, 1);
		ts_write(ts, 0, 16 * KIB, 2);
		fail_writes(ts, 64 * KIB, 16 * KIB, 2);
		cr_assert_eq(ts_fsync(ts), -EIO);
		cr_assert_eq(iomap_file_close(ts->file), 0);
		cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
		cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), -EIO);
		cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
		if (discard) {
			cr_assert_eq(iomap_inode_discard_dirty(&ts->inode), 0);
			cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), 0);
		} else {
			cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
		}
		cr_assert(ts_dev_has(ts, 64 * KIB, 16 * KIB, 0, discard ? 1 : 2));
		ts_free(ts);
	}
}

Test(retry_writes, wb09_discarding_takes_dirty_folios_and_leaves_clean_ones)
{
	struct ts *ts = store(true, false, 10);

	ts_dev_fill(ts, 64 * KIB, 2 * MIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	ts_write(ts, 5 * KIB, KIB, 2);
	td_reset(ts->dev);
	cr_assert_eq(iomap_inode_discard_dirty(&ts->inode), 0);
	cr_assert_eq(dirty_bytes(ts), 0U);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	cr_assert_gt(td_count(ts->dev, TD_READ), 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	ts_close(ts);
}

Test(retry_writes, wb09_what_cannot_be_mapped_stays_dirty_too)
{
	struct ts *ts = store(true, false, 10);

	cr_assert(ts_reads_all(ts, 0, 16 * KIB, 0));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 2 * KIB, 2 * KIB, 2);
	ts_fail(ts, TS_RANGE, 2, -ENOSPC, 1);
	cr_assert_eq(ts_fsync(ts), -ENOSPC);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)KIB, "what came before it went out");
	cr_assert(ts_dirty(ts, 0));
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(2 * KIB));
	cr_assert(ts_dev_has(ts, 66 * KIB, 2 * KIB, 2 * KIB, 2));
	cr_assert_eq(dirty_bytes(ts), 0U);
	ts_close(ts);
}

/* Writeback without ioends. */
static ssize_t fail_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)wpc;
	(void)end_pos;
	iomap_start_folio_write(&ts->inode, folio, len);
	iomap_fail_folio_write(&ts->inode, folio, (size_t)(pos - (uint64_t)iomap_folio_pos(folio)),
			       len, -ENODEV);
	return len;
}

Test(retry_writes, wb09_a_range_without_an_ioend_may_fail_as_well)
{
	for (unsigned retry = 0; retry < 2; retry++) {
		struct ts *ts = store(retry, false, 10);

		ts_write(ts, 0, 4 * KIB, 2);
		ts->hook.range = fail_range;
		cr_assert_eq(ts_fsync(ts), -EIO);
		cr_assert_eq(dirty_bytes(ts), retry ? (uint64_t)(4 * KIB) : 0U);
		ts->hook.range = NULL;
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), retry ? (uint64_t)(4 * KIB) : 0U);
		ts_close(ts);
	}
}

/* ---- beside everything else ---- */

static _Atomic bool stop;

static long keep_writing(void *arg)
{
	struct ts *ts = arg;
	struct t_rand r = { .state = t_tick() };
	char buf[4 * KIB];

	while (!atomic_load(&stop)) {
		int64_t pos = (int64_t)t_below(&r, 128 * KIB);
		size_t len = 1 + t_below(&r, sizeof(buf));
		ssize_t n;

		t_fill(buf, len, pos, 5);
		n = iomap_write(ts->file, buf, len, pos);
		t_must(n > 0 || n == -EIO);
	}
	return 0;
}

static long keep_reading(void *arg)
{
	struct ts *ts = arg;
	struct t_rand r = { .state = t_tick() };

	while (!atomic_load(&stop)) {
		ts_drop(ts);
		t_must(ts_reads(ts, (int64_t)t_below(&r, 128 * KIB), 1 + t_below(&r, 4 * KIB), 5));
	}
	return 0;
}

Test(retry_writes, wb09_nothing_is_lost_beside_writers_readers_and_evictions)
{
	struct ts *ts = store(true, true, 9);
	struct t_task task[3];
	struct t_rand r = { .state = t_seed() };

	/* half of it is never written before the end, so it shows when it is dropped */
	ts_dev_fill(ts, 64 * KIB, 2 * MIB, 0, 1);
	fail_writes(ts, 64 * KIB, 64 * KIB, 1000000);
	ts_write(ts, 0, 132 * KIB, 5);
	atomic_store(&stop, false);
	td_async(ts->dev);
	for (unsigned i = 0; i < 3; i++)
		t_start(&task[i], i ? keep_writing : keep_reading, ts);
	for (unsigned i = 0; i < 300; i++) {
		fail_nothing(ts);
		fail_writes(ts, 64 * KIB, 64 * KIB, 1000000);
		fail_writes(ts, 128 * KIB + 512 * t_below(&r, 128), 512, 1);
		(void)ts_fsync(ts);
	}
	fail_nothing(ts);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	for (unsigned i = 0; i < 20 && ts_fsync(ts); i++)
		;
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(dirty_bytes(ts), 0U);
	cr_assert(ts_dev_has(ts, 64 * KIB, 132 * KIB, 0, 5));
	ts_close(ts);
}
