/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * pressure.c - EN, CA: more data than cache: eviction, dirty accounting, the flusher.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

static struct ts *mapped_store(struct iomap_engine_opts *opts)
{
	struct ts *ts;

	if (!opts->cache_bytes)
		opts->cache_bytes = MIB;
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = opts });
	ts_map(ts, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 8 * MIB, 0, 1);
	return ts;
}

static struct iomap_engine_opts quiet(void)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	return opts;
}

/* ---- eviction ---- */

Test(pressure, en01_reading_more_than_the_cache_evicts_and_stays_below_the_bound)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);
	struct iomap_engine_stats stats;

	for (int round = 0; round < 2; round++)
		for (int64_t pos = 0; pos < 8 * MIB; pos += 60 * KIB) {
			size_t len = pos + 60 * KIB > 8 * MIB ? (size_t)(8 * MIB - pos) : 60 * KIB;

			cr_assert(ts_reads(ts, pos, len, 1));
			cr_assert_leq(t_stats(ts->engine).cached_bytes, (uint64_t)MIB);
		}
	stats = t_stats(ts->engine);
	cr_assert_leq(stats.peak_cached_bytes, (uint64_t)MIB);
	cr_assert_geq(stats.evictions_nr, 2U * (8 * MIB - MIB) / 4096, "%" PRIu64 " evictions",
		      stats.evictions_nr);
	ts_close(ts);
}

Test(pressure, en01_a_referenced_folio_is_not_evicted)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);
	struct iomap_folio *folio;
	char buf[4096];

	cr_assert(ts_reads(ts, 40 * KIB, 4 * KIB, 1));
	folio = ts_folio(ts, 40 * KIB);
	for (int64_t pos = 1 * MIB; pos < 8 * MIB; pos += 64 * KIB)
		cr_assert(ts_reads(ts, pos, 64 * KIB, 1));
	cr_assert_eq(iomap_folio_mapping(folio), &ts->inode.i_data);
	cr_assert_eq(iomap_folio_pos(folio), 40 * KIB);
	iomap_folio_lock(folio);
	iomap_folio_read(folio, 0, buf, sizeof(buf));
	iomap_folio_unlock(folio);
	cr_assert_eq(t_mismatch(buf, sizeof(buf), 40 * KIB, 1), -1);
	iomap_folio_put(folio);
	ts_close(ts);
}

Test(pressure, en01_dirty_data_is_written_not_dropped_when_room_is_needed)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);

	ts_write(ts, 0, 200 * KIB, 2);
	for (int64_t pos = 1 * MIB; pos < 8 * MIB; pos += 64 * KIB)
		cr_assert(ts_reads(ts, pos, 64 * KIB, 1));
	cr_assert(ts_reads(ts, 0, 200 * KIB, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, 200 * KIB, 0, 2));
	ts_close(ts);
}

Test(pressure, en01_writing_more_than_the_cache_without_a_flusher)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);
	struct iomap_engine_stats stats;

	for (int64_t pos = 0; pos < 8 * MIB; pos += 64 * KIB)
		ts_write(ts, pos, 64 * KIB, 3);
	stats = t_stats(ts->engine);
	cr_assert_leq(stats.peak_cached_bytes, (uint64_t)MIB);
	cr_assert_leq(stats.dirty_bytes, (uint64_t)MIB * 4 / 5);
	cr_assert_gt(stats.throttled_nr, 0U, "writers wrote out themselves");
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, 8 * MIB, 0, 3));
	cr_assert(ts_reads(ts, 7 * MIB, MIB, 3));
	ts_close(ts);
}

/* ---- accounting ---- */

Test(pressure, en04_dirty_bytes_are_counted)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);

	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	ts_write(ts, 100, 10, 2);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 4U * KIB);
	ts_write(ts, 200, 10, 2); /* the same folio */
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 4U * KIB);
	ts_write(ts, 64 * KIB, 64 * KIB, 2);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 68U * KIB);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, 4 * KIB, IOMAP_SYNC_WRITE), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 64U * KIB);
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 4U * KIB);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).writeback_bytes, 0U);
	ts_close(ts);
}

Test(pressure, en04_dirty_data_that_is_thrown_away_counts_no_more)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);
	struct ts *other = ts_open(
		&(struct ts_config){ .alloc = TS_NEW, .engine = ts->engine, .dev = ts->dev });

	ts_write(other, 0, 64 * KIB, 2);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 64U * KIB);
	ts_close(other); /* discards */
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	ts_close(ts);
}

Test(pressure, en04_destroy_with_dirty_data_refuses_or_writes_it)
{
	struct iomap_engine_opts opts = quiet();
	struct ts *ts = mapped_store(&opts);

	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(iomap_file_close(ts->file), 0);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert(ts_dev_has(ts, 0, 4 * KIB, 0, 2));
	/* a new one in its place, for ts_close() */
	cr_assert_eq(iomap_inode_init(ts->engine, &ts->inode, &ts->args), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &ts->file), 0);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 2));
	ts_close(ts);
}

/* ---- the flusher ---- */

Test(pressure, en04_the_flusher_writes_from_the_background_limit_on)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.dirty_background_pct = 10;
	opts.dirty_hard_pct = 80;
	opts.dirty_expire_ms = 3600 * 1000;   /* not by age */
	opts.flush_interval_ms = 3600 * 1000; /* nor because it looks now and then */
	ts = mapped_store(&opts);
	ts_write(ts, 0, MIB, 2);
	/* nobody calls fsync; each completed write is progress */
	for (size_t nr = 1; t_stats(ts->engine).dirty_bytes > 4 * MIB / 10; nr++)
		td_wait_completed(ts->dev, TD_WRITE, nr);
	/* what is clean and under writeback may not have come to the device yet */
	while (t_stats(ts->engine).writeback_bytes)
		sched_yield();
	cr_assert_geq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(MIB - 4 * MIB / 10 - 4096));
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	cr_assert(ts_reads(ts, 0, MIB, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, MIB, 0, 2));
	ts_close(ts);
}

static uint64_t clock_now(void *ctx)
{
	return atomic_load((_Atomic uint64_t *)ctx);
}

Test(pressure, en04_the_flusher_writes_what_is_old)
{
	_Atomic uint64_t now = 1000000000000ULL;
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.dirty_expire_ms = 30000;
	opts.flush_interval_ms = 1;
	opts.now_ns = clock_now;
	opts.now_ctx = (void *)&now;
	ts = mapped_store(&opts);
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U, "it is young, and stays so by this clock");
	atomic_fetch_add(&now, 31ULL * 1000000000);
	td_wait_completed(ts->dev, TD_WRITE, 1);
	cr_assert(ts_dev_has(ts, 0, 4 * KIB, 0, 2));
	ts_close(ts);
}

Test(pressure, en04_an_error_of_the_flusher_is_told_by_fsync)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.dirty_expire_ms = 1;
	opts.flush_interval_ms = 1;
	ts = mapped_store(&opts);
	td_fail(ts->dev, TD_WRITE, 0, 8 * MIB, -EIO, 1);
	ts_write(ts, 0, 4 * KIB, 2);
	td_wait_completed(ts->dev, TD_WRITE, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

/* ---- threads that fight for room ---- */

struct fighter {
	struct ts *ts;
	unsigned seed;
	int64_t base;
};

static long fight(void *arg)
{
	struct fighter *f = arg;
	int64_t span = 2 * MIB;

	/* each has a quarter of the file, twice the cache, for itself */
	for (unsigned round = 0; round < (T_SANITIZED ? 2 : 6); round++) {
		for (int64_t pos = 0; pos < span; pos += 32 * KIB)
			ts_write(f->ts, f->base + pos, 32 * KIB, f->seed + round);
		for (int64_t pos = 0; pos < span; pos += 32 * KIB)
			t_must(ts_reads(f->ts, f->base + pos, 32 * KIB, f->seed + round));
	}
	return 0;
}

Test(pressure, en01_en04_threads_that_write_and_read_more_than_fits, .timeout = 300)
{
	struct iomap_engine_opts opts;
	struct fighter f[4];
	struct t_task task[4];
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	ts = mapped_store(&opts);
	td_async(ts->dev);
	for (unsigned i = 0; i < 4; i++) {
		f[i] = (struct fighter){ ts, 100 * (i + 1), i * 2LL * MIB };
		t_start(&task[i], fight, &f[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		t_join(&task[i]);
	cr_assert_eq(ts_fsync(ts), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert(ts_dev_has(ts, (uint64_t)f[i].base, 2 * MIB, f[i].base,
				     f[i].seed + (T_SANITIZED ? 1 : 5)));
	cr_assert_leq(t_stats(ts->engine).peak_cached_bytes, (uint64_t)MIB);
	ts_close(ts);
}
