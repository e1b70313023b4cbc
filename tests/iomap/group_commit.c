/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/* ctest-options: STATIC_INTERNAL */
/*
 * group_commit.c - FY04: who syncs at the same time shares flushes, but only later ones.
 *
 * The device holds flushes, so that others come while one is under way; how many wait for it and
 * for the next one is read from the device's record of them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "block/internal.h"
#include "teststore.h"

#define KIB 1024
#define CALLERS 8

/* Several files of one device. */
struct group {
	struct ts *ts[CALLERS];
	struct td *dev;
	struct t_task task[CALLERS];
};

static void group_begin(struct group *g)
{
	struct iomap_engine_opts opts;

	memset(g, 0, sizeof(*g));
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.max_callers = 2 * CALLERS;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	g->ts[0] = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	g->dev = g->ts[0]->dev;
	for (unsigned i = 1; i < CALLERS; i++)
		g->ts[i] = ts_open(&(struct ts_config){
			.alloc = TS_NEW, .engine = g->ts[0]->engine, .dev = g->dev });
	for (unsigned i = 0; i < CALLERS; i++)
		g->ts[i]->next_addr = (uint64_t)(i + 1) << 20;
}

static void group_end(struct group *g)
{
	for (unsigned i = CALLERS; i-- > 0;)
		ts_close(g->ts[i]);
}

static unsigned waiting(struct td *dev, bool next)
{
	struct iomap__flush *flush = &dev->bdev->flush;
	struct iomap__flush_wait *one;
	unsigned nr = 0;

	iomap__word_lock(&flush->lock, IOMAP__RANK_BDEV);
	for (one = next ? flush->next : flush->now; one; one = one->next)
		nr++;
	iomap__word_unlock(&flush->lock);
	return nr;
}

static void wait_for_waiting(struct td *dev, bool next, unsigned nr)
{
	while (waiting(dev, next) != nr)
		sched_yield();
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

static long write_and_fsync_task(void *arg)
{
	struct ts *ts = arg;

	ts_write(ts, 0, 4 * KIB, 2);
	return ts_fsync(ts);
}

/* One flush is held; all others have written since it started, and wait for the next one. */
static void group_gather(struct group *g)
{
	ts_write(g->ts[0], 0, 4 * KIB, 1);
	td_hold(g->dev, TD_FLUSH);
	t_start(&g->task[0], fsync_task, g->ts[0]);
	td_wait_held(g->dev, 1);
	for (unsigned i = 1; i < CALLERS; i++)
		t_start(&g->task[i], write_and_fsync_task, g->ts[i]);
	wait_for_waiting(g->dev, true, CALLERS - 1);
}

Test(group_commit, fy04_who_comes_during_a_flush_shares_the_next_one)
{
	struct group g;

	group_begin(&g);
	group_gather(&g);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 1U);
	cr_assert_eq(td_release(g.dev, 1), 1U);
	cr_assert_eq(t_join(&g.task[0]), 0);
	/* the one that was under way is not theirs */
	td_wait_held(g.dev, 1);
	wait_for_waiting(g.dev, false, CALLERS - 1);
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_not(atomic_load(&g.task[i].done));
	for (size_t i = 0; i < td_count(g.dev, TD_WRITE); i++)
		cr_assert_lt(td_nth(g.dev, TD_WRITE, i).completed,
			     td_nth(g.dev, TD_FLUSH, 1).submitted);
	for (unsigned i = 0; i < CALLERS; i++)
		cr_assert_lt(ts_nth(g.ts[i], TS_COMMIT, 0).tick,
			     td_nth(g.dev, TD_FLUSH, 1).submitted);
	td_open_gates(g.dev);
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_eq(t_join(&g.task[i]), 0);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 2U, "one flush for %d callers", CALLERS - 1);
	cr_assert_eq(t_stats(g.ts[0]->engine).fsyncs_nr, (uint64_t)CALLERS);
	group_end(&g);
}

Test(group_commit, fy04_an_error_reaches_all_who_shared_the_flush)
{
	struct group g;

	group_begin(&g);
	group_gather(&g);
	cr_assert_eq(td_release(g.dev, 1), 1U);
	td_wait_held(g.dev, 1);
	wait_for_waiting(g.dev, false, CALLERS - 1);
	td_fail(g.dev, TD_FLUSH, 0, g.dev->bytes, -EIO, 1);
	td_open_gates(g.dev);
	cr_assert_eq(t_join(&g.task[0]), 0, "its flush was another one");
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_eq(t_join(&g.task[i]), -EIO);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 2U);
	/* it has made nothing durable: the first who asks again has one flush for all */
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_eq(ts_fsync(g.ts[i]), 0);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 3U);
	group_end(&g);
}

Test(group_commit, fy04_who_has_written_before_a_flush_started_shares_it)
{
	struct group g;

	group_begin(&g);
	for (unsigned i = 0; i < CALLERS; i++) {
		ts_write(g.ts[i], 0, 4 * KIB, 1);
		cr_assert_eq(iomap_sync_range(g.ts[i]->file, 0, INT64_MAX,
					      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER), 0);
	}
	td_hold(g.dev, TD_FLUSH);
	for (unsigned i = 0; i < CALLERS; i++)
		t_start(&g.task[i], fsync_task, g.ts[i]);
	wait_for_waiting(g.dev, false, CALLERS);
	td_open_gates(g.dev);
	for (unsigned i = 0; i < CALLERS; i++)
		cr_assert_eq(t_join(&g.task[i]), 0);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 1U);
	group_end(&g);
}

/* Threads that sync one file, and the engine, are no different. */
static long sync_engine_task(void *arg)
{
	return iomap_sync_engine(arg);
}

Test(group_commit, fy04_syncs_of_one_file_and_of_the_engine_share_as_well)
{
	struct group g;

	group_begin(&g);
	ts_write(g.ts[0], 0, 4 * KIB, 1);
	td_hold(g.dev, TD_FLUSH);
	t_start(&g.task[0], fsync_task, g.ts[0]);
	td_wait_held(g.dev, 1);
	ts_write(g.ts[0], 4 * KIB, 4 * KIB, 1);
	for (unsigned i = 1; i < CALLERS; i++)
		t_start(&g.task[i], i % 2 ? fsync_task : sync_engine_task,
			i % 2 ? (void *)g.ts[0] : (void *)g.ts[0]->engine);
	wait_for_waiting(g.dev, true, CALLERS - 1);
	td_open_gates(g.dev);
	for (unsigned i = 0; i < CALLERS; i++)
		cr_assert_eq(t_join(&g.task[i]), 0);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 2U);
	group_end(&g);
}

/* ---- deadlines ---- */

struct by {
	struct iomap_bdev *bdev;
	uint64_t deadline_ns;
};

static long flush_by_task(void *arg)
{
	const struct by *by = arg;

	return iomap__bdev_flush_by(by->bdev, by->deadline_ns);
}

Test(group_commit, fy04_who_does_not_wait_any_longer_takes_nobody_along)
{
	struct group g;
	struct by past;

	group_begin(&g);
	past = (struct by){ g.dev->bdev, 1 }; /* 1970 */
	ts_write(g.ts[0], 0, 4 * KIB, 1);
	td_hold(g.dev, TD_FLUSH);
	t_start(&g.task[0], flush_by_task, &past);
	td_wait_held(g.dev, 1);
	cr_assert_eq(t_join(&g.task[0]), -ETIMEDOUT, "the one that has started it");
	t_start(&g.task[1], write_and_fsync_task, g.ts[1]);
	wait_for_waiting(g.dev, true, 1);
	t_start(&g.task[2], flush_by_task, &past);
	cr_assert_eq(t_join(&g.task[2]), -ETIMEDOUT, "one that waits for the next one");
	cr_assert_eq(waiting(g.dev, true), 1U);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 1U, "it goes on by itself");
	td_open_gates(g.dev);
	cr_assert_eq(t_join(&g.task[1]), 0);
	cr_assert_eq(td_count(g.dev, TD_FLUSH), 2U);
	group_end(&g);
}

/* ---- all at once, many times ---- */

#define ROUNDS (T_SANITIZED ? 30 : 200)

/* Each round's data is on the device when its fsync has returned. */
static long rounds_task(void *arg)
{
	struct ts *ts = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		int64_t pos = (int64_t)(i % 64) * 4 * KIB;

		ts_write(ts, pos, 4 * KIB, i);
		if (ts_fsync(ts))
			return -1;
		t_must(ts_dev_has(ts, ts_lookup(ts, pos).addr +
					      (uint64_t)(pos - ts_lookup(ts, pos).offset),
				  4 * KIB, pos, i));
	}
	return 0;
}

Test(group_commit, fy04_threads_that_sync_all_the_time_flush_less_often_than_they_sync)
{
	struct group g;

	group_begin(&g);
	td_async(g.dev);
	/* all are there before the device goes on: so at least one is shared, on any machine */
	td_hold(g.dev, TD_FLUSH);
	for (unsigned i = 0; i < CALLERS; i++)
		t_start(&g.task[i], rounds_task, g.ts[i]);
	td_wait_held(g.dev, 1);
	while (waiting(g.dev, true) + waiting(g.dev, false) != CALLERS)
		sched_yield();
	td_open_gates(g.dev);
	for (unsigned i = 0; i < CALLERS; i++)
		cr_assert_eq(t_join(&g.task[i]), 0);
	cr_assert_lt(td_count(g.dev, TD_FLUSH), (size_t)CALLERS * ROUNDS);
	cr_assert_eq(waiting(g.dev, true) + waiting(g.dev, false), 0U);
	group_end(&g);
}
