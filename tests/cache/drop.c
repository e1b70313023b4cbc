/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * drop.c - EN02: the cache is dropped, of the engine, of an inode, of a range.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cache/internal.h"
#include "teststore.h"

#define KIB 1024
#define PAGE (4 * KIB)
#define SIZE (64 * KIB)

/* A file of the pattern `seed` on the device, on the engine of @first if there is one. */
static struct ts *store(struct ts *first, unsigned seed, bool threads)
{
	struct ts *ts = ts_open(&(struct ts_config){
		.i_size = SIZE, .engine = first ? first->engine : NULL, .threads = threads });

	ts_map(ts, 0, SIZE, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, SIZE, 0, seed);
	return ts;
}

static uint64_t cached(struct ts *ts)
{
	return t_stats(ts->engine).cached_bytes;
}

Test(drop, en02_all_inodes_of_the_engine_at_once)
{
	struct ts *a = store(NULL, 1, false), *b = store(a, 2, false);

	cr_assert(ts_reads(a, 0, SIZE, 1) && ts_reads(b, 0, SIZE, 2));
	cr_assert_eq(cached(a), 2 * SIZE);
	cr_assert_eq(iomap_engine_drop_cache(a->engine), 2 * SIZE);
	cr_assert_eq(cached(a), 0);
	cr_assert_eq(iomap_engine_drop_cache(a->engine), 0);
	td_reset(a->dev);
	td_reset(b->dev);
	cr_assert(ts_reads(a, 0, SIZE, 1) && ts_reads(b, 0, SIZE, 2));
	cr_assert_eq(td_bytes(a->dev, TD_READ), SIZE);
	cr_assert_eq(td_bytes(b->dev, TD_READ), SIZE);
	ts_close(b);
	ts_close(a);
}

/* Whole folios that touch the range; the index holds what is left. */
Test(drop, en02_a_range_of_an_inode)
{
	struct ts *ts = store(NULL, 1, false);

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, 2 * PAGE, 4 * PAGE), 2 * PAGE);
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, 5 * PAGE + 1, 6 * PAGE + 1),
		     2 * PAGE);
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, 8 * PAGE, 8 * PAGE), 0);
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, -1, PAGE), 0);
	cr_assert_eq(cached(ts), SIZE - 4 * PAGE);
	for (int64_t pos = 0; pos < SIZE; pos += PAGE) {
		bool gone = pos / PAGE == 2 || pos / PAGE == 3 || pos / PAGE == 5 || pos / PAGE == 6;
		struct iomap_folio *folio =
			iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)(pos / PAGE));

		cr_assert_eq(!folio, gone, "page %lld", (long long)(pos / PAGE));
		if (folio)
			iomap_folio_put(folio);
	}
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, 0, INT64_MAX), SIZE - 4 * PAGE);
	cr_assert_eq(cached(ts), 0);
	ts_close(ts);
}

Test(drop, en02_what_is_dirty_written_locked_or_referenced_stays)
{
	struct ts *ts = store(NULL, 1, true);
	struct iomap_folio *referenced, *locked;

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	ts_write(ts, 0, PAGE, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, PAGE, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	ts_write(ts, PAGE, PAGE, 2);
	referenced = ts_folio(ts, 2 * PAGE);
	locked = ts_folio(ts, 3 * PAGE);
	iomap_folio_lock(locked);
	iomap_folio_put(locked);
	cr_assert_eq(iomap_engine_drop_cache(ts->engine), SIZE - 4 * PAGE);
	cr_assert_eq(cached(ts), 4 * PAGE);
	iomap_folio_unlock(locked);
	iomap_folio_put(referenced);
	cr_assert_eq(iomap_engine_drop_cache(ts->engine), 2 * PAGE);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(iomap_engine_drop_cache(ts->engine), 2 * PAGE);
	cr_assert(ts_reads(ts, 0, 2 * PAGE, 2));
	cr_assert(ts_reads(ts, 2 * PAGE, SIZE - 2 * PAGE, 1));
	ts_close(ts);
}

/* What the index needed goes with it, however little: nobody may come by for long. */
Test(drop, en02_index_nodes_go_too)
{
	struct ts *ts = store(NULL, 1, false);
	struct iomap__cache *cache = ts->engine->cache;

	cr_assert(ts_reads(ts, 0, PAGE, 1));
	cr_assert(cache->nodes.nr_free < cache->nodes.nr_total);
	cr_assert(iomap_engine_drop_cache(ts->engine) > 0);
	cr_assert_eq(cache->nodes.nr_free + cache->nr_free_nodes, cache->nodes.nr_total);
	ts_close(ts);
}

/* ---- beside others ---- */

static long destroy(void *arg)
{
	struct ts *ts = arg;

	return iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD);
}

/* One that waits for a device which does not answer keeps nobody from dropping the others. */
Test(drop, en02_an_inode_that_is_being_destroyed_is_passed_by)
{
	struct ts *a = store(NULL, 1, true), *b = store(a, 2, true);
	struct t_task task;

	cr_assert(ts_reads(a, 0, SIZE, 1) && ts_reads(b, 0, SIZE, 2));
	ts_write(a, 0, PAGE, 3);
	td_hold(a->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(a->file, 0, PAGE, IOMAP_SYNC_WRITE), 0);
	td_wait_held(a->dev, 1);
	cr_assert_eq(iomap_file_close(a->file), 0);
	t_start(&task, destroy, a);
	while (!(iomap__load_acquire(&a->inode.i_state) & IOMAP__I_DYING))
		sched_yield();
	cr_assert_eq(iomap_engine_drop_cache(a->engine), SIZE);
	cr_assert_eq(cached(b), SIZE); /* those of a */
	td_open_gates(a->dev);
	cr_assert_eq(t_join(&task), 0);
	ts_close(b);
	ts_free(a);
}

static atomic_bool stop;
static atomic_uint rounds;

static long read_on(void *arg)
{
	struct ts *ts = arg;

	while (!atomic_load(&stop)) {
		t_must(ts_reads(ts, 0, SIZE, 1));
		atomic_fetch_add(&rounds, 1);
	}
	return 0;
}

Test(drop, en02_readers_do_not_notice)
{
	struct ts *ts = store(NULL, 1, true);
	uint64_t dropped = 0;
	struct t_task tasks[2];

	t_start(&tasks[0], read_on, ts);
	t_start(&tasks[1], read_on, ts);
	while (atomic_load(&rounds) < 200 || dropped < 20 * SIZE) {
		dropped += iomap_engine_drop_cache(ts->engine);
		sched_yield();
	}
	atomic_store(&stop, true);
	t_join(&tasks[0]);
	t_join(&tasks[1]);
	ts_close(ts);
}
