/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * split.c - CA07: a folio is taken apart beside those who are at it, below the public API: cut
 * with nothing zeroed before, so that nothing but the cut itself tells a reader.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <string.h>

#include "cache/internal.h"
#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define CUTS (T_SANITIZED ? 100U : 300U)

/* The nth object from a pool, counted down, is not to be had; 0: all are. */
static _Atomic unsigned fail_at;

static bool fail_pools(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind == IOMAP_FAIL_POOL && atomic_load(&fail_at) &&
	       atomic_fetch_sub(&fail_at, 1) == 1;
}

static struct ts *large_store(void)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 32 * MIB;
	opts.max_folio_bytes = 2 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.fail_nth = fail_pools;
	ts = ts_open(&(struct ts_config){ .i_size = 2 * MIB, .opts = &opts });
	ts_map(ts, 0, 2 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 2 * MIB, 0, 1);
	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	return ts;
}

/* Cut [off, off + len) of the folio at 0; true if it was taken apart. */
static bool cut(struct ts *ts, size_t off, size_t len)
{
	struct iomap_folio *folio = iomap_filemap_get_folio(&ts->inode.i_data, 0);
	unsigned order;
	bool done;

	if (!folio)
		return false;
	iomap_folio_lock(folio);
	order = folio->order;
	if (iomap_folio_mapping(folio) == &ts->inode.i_data && order == 9 &&
	    iomap_folio_test_uptodate(folio))
		iomap__folio_split(&ts->inode.i_data, folio, off, len);
	done = folio->order != order;
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	return done;
}

/* One round: the reader reads all of the file, and meanwhile it is cut. */
struct reader {
	struct ts *ts;
	atomic_uint go, done;
};

static long read_all(void *arg)
{
	struct reader *me = arg;
	char *buf = malloc(2 * MIB), *want = malloc(2 * MIB);

	t_must(buf && want);
	t_fill(want, 2 * MIB, 0, 1);
	for (unsigned round = 1; round <= CUTS; round++) {
		while (atomic_load(&me->go) < round)
			sched_yield();
		t_must(iomap_read(me->ts->file, buf, 2 * MIB, 0) == 2 * MIB);
		t_must(!memcmp(buf, want, 2 * MIB));
		atomic_store(&me->done, round);
	}
	free(buf);
	free(want);
	return 0;
}

Test(split, ca07_a_copying_reader_notices_that_its_folio_was_taken_apart, .timeout = 120)
{
	struct reader reader = { .ts = large_store() };
	struct t_rand rand = { t_seed() };
	unsigned cuts = 0;
	struct t_task task;

	t_start(&task, read_all, &reader);
	for (unsigned round = 1; round <= CUTS; round++) {
		size_t off = (size_t)t_below(&rand, 511) * 4096;
		size_t len = 4096 + (size_t)t_below(&rand, 511 - off / 4096) * 4096;

		ts_drop(reader.ts);
		cr_assert(ts_reads(reader.ts, 0, 2 * MIB, 1));
		atomic_store(&reader.go, round);
		for (uint64_t i = t_below(&rand, 20000); i; i--)
			atomic_load(&reader.done);
		cuts += cut(reader.ts, off, len);
		while (atomic_load(&reader.done) < round)
			sched_yield();
	}
	t_join(&task);
	cr_assert_geq(cuts, CUTS / 2U);
	ts_close(reader.ts);
}

/* Without memory for the state of blocks or for a node it stays whole. */
Test(split, ca07_without_memory_a_folio_stays_whole)
{
	struct ts *ts = large_store();
	unsigned nth;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	ts_write(ts, MIB, 1, 2); /* dirty, so there is state */
	for (nth = 1; nth < 100; nth++) {
		fail_at = nth;
		if (cut(ts, 4 * KIB, 4 * KIB))
			break;
		cr_assert_eq(t_stats(ts->engine).cached_bytes, 2U * MIB);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 2U * MIB);
		cr_assert(ts_reads(ts, 0, MIB, 1));
	}
	fail_at = 0;
	cr_assert_gt(nth, 5U, "state of several pieces, and a node");
	cr_assert_lt(nth, 100U);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, (uint64_t)(2 * MIB - 4 * KIB));
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, (uint64_t)MIB);
	cr_assert(ts_reads(ts, 0, MIB, 1));
	cr_assert(ts_reads(ts, MIB, 1, 2));
	ts_close(ts);
}

/* What its pieces are told from goes on with them. */
Test(split, ca07_en03_pieces_are_counted_and_dropped_as_the_folio_was)
{
	struct ts *ts = large_store();
	struct iomap_folio *folio;
	struct iomap_inode_stats stats;
	uint64_t before;
	char byte;

	cr_assert_eq(iomap_inode_stats(&ts->inode, &stats, sizeof(stats)), 0);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert(cut(ts, 64 * KIB, MIB));
	/* the first piece, and one in a descriptor that was a tail */
	for (int64_t pos = 0; pos < 2 * MIB; pos += MIB + 512 * KIB) {
		cr_assert_eq(iomap_read(ts->file, &byte, 1, pos), 1);
		cr_assert_eq(iomap_inode_stats(&ts->inode, &stats, sizeof(stats)), 0);
		before = stats.hits_nr;
		for (int i = 0; i < 10; i++)
			cr_assert_eq(iomap_read(ts->file, &byte, 1, pos), 1);
		cr_assert_eq(iomap_inode_stats(&ts->inode, &stats, sizeof(stats)), 0);
		cr_assert_eq(stats.hits_nr - before, 10U);
	}
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = ts_folio(ts, 0);
	atomic_fetch_and(&folio->flags, ~IOMAP__FOLIO_ACCESSED);
	iomap__folio_set(folio, IOMAP__FOLIO_DONTCACHE);
	iomap_folio_put(folio);
	cr_assert(cut(ts, 64 * KIB, MIB));
	iomap__filemap_drop_behind(&ts->inode.i_data, 0, 2 * MIB, true);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	ts_close(ts);
}
