/* SPDX-License-Identifier: MIT */
/* ctest-options: CONCURRENT *waits_for_writeback* */
/*
 * eviction.c - CA02, CA06: what stays in the cache beside scans and streams, and what happens when
 * nothing can go.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define PAGE 4096
#define CACHE (4 * MIB)
#define FILE_BYTES (24 * MIB)
/* The hot set, at the start of the file; what is scanned begins behind it. */
#define HOT (1 * MIB)
#define SCAN (4 * CACHE)

static struct ts *store(unsigned engine_flags, uint64_t max_folio_bytes)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = CACHE;
	opts.flags = engine_flags;
	opts.max_folio_bytes = max_folio_bytes;
	ts = ts_open(&(struct ts_config){
		.i_size = FILE_BYTES, .dev_bytes = FILE_BYTES, .opts = &opts });
	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	return ts;
}

/* Every page of the hot set once, in an order of no stream; hits of them, by the engine's count. */
static uint64_t use_hot(struct ts *ts)
{
	uint64_t before = t_stats(ts->engine).hits_nr;
	static char buf[PAGE];

	for (unsigned i = 0; i < HOT / PAGE; i++) {
		int64_t pos = (int64_t)((i * 101 + 7) % (HOT / PAGE)) * PAGE;

		cr_assert_eq(iomap_read(ts->file, buf, PAGE, pos), PAGE);
	}
	return t_stats(ts->engine).hits_nr - before;
}

static void scan_by(struct ts *ts, size_t piece)
{
	static char buf[MIB];

	for (int64_t pos = FILE_BYTES - SCAN; pos < FILE_BYTES; pos += (int64_t)piece)
		cr_assert_eq(iomap_read(ts->file, buf, piece, pos), (ssize_t)piece);
}

static void expect_hot(struct ts *ts)
{
	uint64_t hits = use_hot(ts);

	cr_expect_geq(hits, (uint64_t)HOT / PAGE * 95 / 100, "%" PRIu64 " hits of %d", hits,
		      HOT / PAGE);
}

static void make_hot(struct ts *ts)
{
	for (int i = 0; i < 3; i++)
		use_hot(ts);
}

/* The folio at @pos, which has to be cached; only to be looked at. */
static struct iomap_folio *folio_at(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);

	iomap_folio_put(folio);
	return folio;
}

/* ---- CA02 ---- */

Test(eviction, ca02_a_scan_of_four_caches_leaves_the_hot_set)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS, 0);

	make_hot(ts);
	scan_by(ts, 128 * KIB);
	expect_hot(ts);
	cr_assert_geq(t_stats(ts->engine).evictions_nr, (uint64_t)(SCAN - CACHE) / PAGE);
	ts_close(ts);
}

/* In large folios, so that each is used 16 times by one stream. */
Test(eviction, ca02_a_stream_in_pieces_is_one_use)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS, 64 * KIB);

	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 0, 4), 0);
	make_hot(ts);
	scan_by(ts, PAGE);
	expect_hot(ts);
	cr_assert_gt(iomap_folio_size(folio_at(ts, FILE_BYTES - MIB)), (size_t)PAGE);
	ts_close(ts);
}

Test(eviction, ca02_what_is_written_once_in_pieces_is_one_use)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS, 64 * KIB);

	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 0, 4), 0);
	make_hot(ts);
	for (int64_t pos = FILE_BYTES - SCAN; pos < FILE_BYTES; pos += KIB)
		ts_write(ts, pos, KIB, 2);
	expect_hot(ts);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, FILE_BYTES - SCAN, SCAN, FILE_BYTES - SCAN, 2));
	ts_close(ts);
}

Test(eviction, ca02_a_scan_beside_the_flusher)
{
	struct ts *ts = store(0, 0);

	td_async(ts->dev);
	make_hot(ts);
	scan_by(ts, 128 * KIB);
	expect_hot(ts);
	ts_close(ts);
}

/* What comes in again soon after it was evicted is not new. */
Test(eviction, ca02_what_was_evicted_too_early_is_known_again)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS, 0);
	int64_t early = FILE_BYTES - SCAN + 40 * PAGE;
	static char buf[PAGE];

	make_hot(ts);
	/* all of the cache is in use, and what has been scanned first has gone again */
	for (int64_t pos = FILE_BYTES - SCAN; pos < FILE_BYTES - SCAN + CACHE + MIB; pos += PAGE)
		cr_assert_eq(iomap_read(ts->file, buf, PAGE, pos), PAGE);
	cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)early / PAGE));
	cr_assert_eq(iomap_read(ts->file, buf, PAGE, early), PAGE);
	for (int64_t pos = FILE_BYTES - SCAN + CACHE + MIB; pos < FILE_BYTES; pos += PAGE)
		cr_assert_eq(iomap_read(ts->file, buf, PAGE, pos), PAGE);
	cr_assert_eq(iomap_folio_pos(folio_at(ts, early)), early);
	ts_close(ts);
}

Test(eviction, ca02_a_poll_makes_room_ahead)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * CACHE;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){
		.i_size = FILE_BYTES, .dev_bytes = FILE_BYTES, .opts = &opts });
	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	make_hot(ts);
	scan_by(ts, 128 * KIB);
	cr_assert_gt(t_stats(ts->engine).cached_bytes, 4ULL * CACHE / 100 * 99);
	(void)iomap_engine_poll(ts->engine, UINT32_MAX, true);
	cr_assert_leq(t_stats(ts->engine).cached_bytes, 4ULL * CACHE / 128 * 126);
	cr_assert_geq(t_stats(ts->engine).cached_bytes, 4ULL * CACHE / 128 * 125);
	expect_hot(ts);
	ts_close(ts);
}

/* ---- CA06 ---- */

#define SMALL_CACHE (1 * MIB)
#define PAGES (SMALL_CACHE / PAGE)
#define DIRTY_PAGES 120U /* below where writers have to wait */

static struct ts *small_store(unsigned flags)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = SMALL_CACHE;
	opts.max_callers = 4;
	opts.flags = flags;
	opts.dirty_background_pct = opts.dirty_hard_pct = 80;
	ts = ts_open(&(struct ts_config){
		.i_size = FILE_BYTES, .dev_bytes = FILE_BYTES, .opts = &opts });
	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	return ts;
}

static struct iomap_pin pins[PAGES];

/* Pin pages from @pos on until no folio is to be had; how many it were. */
static unsigned pin_all(struct ts *ts, int64_t pos)
{
	unsigned nr = 0;
	int err = 0;

	while (nr < PAGES && !err) {
		err = iomap_folio_pin(ts->file, pos + (int64_t)nr * PAGE, 0, &pins[nr]);
		nr += !err;
	}
	cr_assert(!err || err == -ENOMEM, "%d", err);
	return nr;
}

static void unpin_all(unsigned nr)
{
	while (nr--)
		iomap_folio_unpin(&pins[nr]);
}

static ssize_t write_nowait(struct ts *ts, int64_t pos)
{
	static char buf[PAGE];
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, PAGE);
	iomap_inode_lock(&ts->inode);
	ret = iomap_file_buffered_write(&iocb, &from, &ts->ops, NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	return ret;
}

static void expect_no_memory(struct ts *ts, int64_t pos)
{
	static char buf[PAGE];

	cr_expect_eq(iomap_read(ts->file, buf, PAGE, pos), -ENOMEM);
	cr_expect_eq(write_nowait(ts, pos), -EAGAIN);
	cr_expect_leq(t_stats(ts->engine).peak_cached_bytes, (uint64_t)SMALL_CACHE);
}

static void all_pinned(unsigned flags)
{
	struct ts *ts = small_store(flags);

	cr_assert_eq(pin_all(ts, 0), PAGES);
	expect_no_memory(ts, 8 * MIB);
	for (unsigned i = 0; i < PAGES; i++)
		cr_assert_eq(t_mismatch(pins[i].addr, PAGE, (int64_t)i * PAGE, 1), -1);
	/* one that is let go is enough */
	iomap_folio_unpin(&pins[PAGES - 1]);
	cr_assert(ts_reads(ts, 8 * MIB, PAGE, 1));
	unpin_all(PAGES - 1);
	cr_assert(ts_reads(ts, 8 * MIB, 2 * MIB, 1));
	ts_write(ts, 0, 2 * MIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

Test(eviction, ca06_all_folios_are_pinned)
{
	all_pinned(IOMAP_ENGINE_NO_THREADS);
}

Test(eviction, ca06_all_folios_are_pinned_beside_the_flusher)
{
	all_pinned(0);
}

/* DIRTY_PAGES dirty ones, the others pinned; the device takes writes and ends none. */
static void all_dirty(unsigned flags)
{
	struct ts *ts = small_store(flags);
	unsigned pinned;

	td_hold(ts->dev, TD_WRITE);
	ts_write(ts, 0, DIRTY_PAGES * PAGE, 2);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, DIRTY_PAGES * PAGE);
	pinned = pin_all(ts, 4 * MIB);
	cr_assert_eq(pinned, PAGES - DIRTY_PAGES);
	/* whoever needed one has had them written; they are under writeback for ever now */
	cr_assert_gt(t_stats(ts->engine).writeback_bytes, 0U);
	expect_no_memory(ts, 8 * MIB);
	td_open_gates(ts->dev);
	cr_assert(ts_reads(ts, 8 * MIB, PAGE, 1));
	unpin_all(pinned);
	cr_assert(ts_reads(ts, 0, DIRTY_PAGES * PAGE, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, DIRTY_PAGES * PAGE, 0, 2));
	ts_close(ts);
}

Test(eviction, ca06_all_folios_are_dirty_and_the_device_hangs)
{
	all_dirty(IOMAP_ENGINE_NO_THREADS);
}

Test(eviction, ca06_all_folios_are_dirty_beside_the_flusher)
{
	all_dirty(0);
}

/* Nothing but the folios of one reader: it goes on when the other one lets go. */
struct waiter {
	struct ts *ts;
	char buf[PAGE];
};

static long read_one(void *arg)
{
	struct waiter *w = arg;

	return iomap_read(w->ts->file, w->buf, PAGE, 8 * MIB);
}

Test(eviction, ca06_who_waits_for_writeback_gets_what_it_frees)
{
	struct waiter w = { .ts = small_store(0) };
	struct t_task task;
	unsigned pinned;

	td_hold(w.ts->dev, TD_WRITE);
	ts_write(w.ts, 0, DIRTY_PAGES * PAGE, 2);
	pinned = pin_all(w.ts, 4 * MIB);
	t_start(&task, read_one, &w);
	td_open_gates(w.ts->dev);
	cr_assert_eq(t_join(&task), PAGE);
	cr_assert_eq(t_mismatch(w.buf, PAGE, 8 * MIB, 1), -1);
	unpin_all(pinned);
	ts_close(w.ts);
}
