/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL TIMEOUT 300 */
/*
 * throttle.c - EN04, CA08: writers are held to what can be written; write-out always finds the
 * memory that it needs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cache/internal.h"
#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define PAGE (4 * KIB)
#define SECOND UINT64_C(1000000000)

static uint64_t clock_now(void *ctx)
{
	return atomic_load((_Atomic uint64_t *)ctx);
}

static _Atomic uint64_t now;

/* A clock that stands still: no measure of the device is ever taken. */
static struct iomap_engine_opts still(uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 4;
	opts.dirty_background_pct = 10;
	opts.dirty_hard_pct = 60;
	opts.now_ns = clock_now;
	opts.now_ctx = (void *)&now;
	atomic_store(&now, 1000 * SECOND);
	return opts;
}

static struct ts *store(struct iomap_engine_opts *opts)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = opts });

	ts_map(ts, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	return ts;
}

static uint64_t paused(struct ts *ts)
{
	return t_stats(ts->engine).throttle_pause_ns;
}

static uint64_t level(struct ts *ts)
{
	struct iomap_engine_stats stats = t_stats(ts->engine);

	return stats.dirty_bytes + stats.writeback_bytes;
}

/* ---- in proportion ---- */

/*
 * What @len bytes at @pos owe, which are not cached; the next page, which is written too, lets what
 * was dirtied last owe.
 */
static uint64_t owes(struct ts *ts, int64_t pos, size_t len)
{
	uint64_t before = paused(ts);

	ts_write(ts, pos, len, 2);
	ts_write(ts, pos + (int64_t)len, PAGE, 2);
	return paused(ts) - before;
}

Test(throttle, en04_the_pause_grows_from_the_background_limit_to_the_hard_one)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	struct ts *ts = store(&opts);
	uint64_t last = 0, low = 4 * MIB / 10, hard = 4 * MIB / 10 * 6;
	int64_t pos = 0;

	td_hold(ts->dev, TD_WRITE);
	ts_write(ts, 0, low - 16 * PAGE, 1);
	pos = 2 * MIB;
	cr_assert_eq(owes(ts, pos, 8 * PAGE), 0U, "below the limit nobody notices");
	pos += 9 * PAGE;
	while (level(ts) < low + 4 * PAGE) {
		(void)owes(ts, pos, PAGE);
		pos += 2 * PAGE;
	}
	while (level(ts) < hard - 40 * PAGE) {
		uint64_t ns = owes(ts, pos, 16 * PAGE);

		cr_assert_gt(ns, last);
		last = ns;
		pos += 17 * PAGE;
	}
	/* a page takes 4 us at first; half way up that is what it owes */
	cr_assert_gt(last, 16 * 4000U);
	td_open_gates(ts->dev);
	ts_close(ts);
}

/* Twice as many pages owe twice as much, whoever else has dirtied the rest. */
struct writer {
	struct ts *ts;
	int64_t pos;
	size_t len;
	uint64_t owed;
};

static long write_and_tell(void *arg)
{
	struct writer *w = arg;

	w->owed = owes(w->ts, w->pos, w->len);
	return 0;
}

Test(throttle, en04_each_owes_for_what_it_dirties_itself)
{
	struct iomap_engine_opts opts = still(16 * MIB);
	struct ts *ts = store(&opts);
	struct writer few = { ts, 6 * MIB, PAGE, 0 }, many = { ts, 7 * MIB, 64 * PAGE, 0 };
	struct t_task task;

	td_hold(ts->dev, TD_WRITE);
	/* half way from 10 to 60 % */
	ts_write(ts, 0, 16 * MIB / 100 * 35, 1);
	t_start(&task, write_and_tell, &many);
	t_join(&task);
	t_start(&task, write_and_tell, &few);
	t_join(&task);
	cr_assert_gt(few.owed, 0U);
	cr_assert(many.owed > 50 * few.owed && many.owed < 70 * few.owed, "%llu and %llu",
		  (unsigned long long)few.owed, (unsigned long long)many.owed);
	td_open_gates(ts->dev);
	ts_close(ts);
}

/* What a page owes follows what the device does: 1000 pages a second and not 262144. */
Test(throttle, en04_the_pause_follows_the_speed_of_the_device)
{
	struct iomap_engine_opts opts = still(16 * MIB);
	struct ts *ts = store(&opts);
	struct iomap__cache *cache = ts->engine->cache;
	uint64_t fast, slow;

	td_hold(ts->dev, TD_WRITE);
	ts_write(ts, 0, 16 * MIB / 100 * 20, 1);
	fast = owes(ts, 5 * MIB, 4 * PAGE);
	for (int i = 0; i < 40; i++) {
		atomic_fetch_add(&cache->nr_written, 100);
		atomic_fetch_add(&now, SECOND / 10);
		(void)owes(ts, 6 * MIB + i * 2 * PAGE, PAGE);
	}
	slow = owes(ts, 5 * MIB + 8 * PAGE, 4 * PAGE);
	cr_assert(atomic_load(&cache->rate) > 900 && atomic_load(&cache->rate) < 1100);
	cr_assert_gt(slow, 200 * fast);
	td_open_gates(ts->dev);
	ts_close(ts);
}

/* ---- at the limit ---- */

static ssize_t defer(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		     uint64_t pos, unsigned len, uint64_t end_pos)
{
	if (atomic_load((atomic_bool *)ts->hook.arg))
		return IOMAP_WB_DEFER;
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

static long write_two_mib(void *arg)
{
	struct ts *ts = arg;

	for (int64_t pos = 0; pos < 2 * MIB; pos += 16 * KIB)
		ts_write(ts, pos, 16 * KIB, 3);
	return 0;
}

/* A byte to an inode of its own, by who is let through. */
static void write_log(struct ts *ts)
{
	struct iomap_kiocb log = { .ki_flags = IOMAP_IOCB_NOTHROTTLE };
	struct iomap_iov_iter from;
	struct ts *other;
	char byte = 0;

	other = ts_open(&(struct ts_config){ .i_size = PAGE, .engine = ts->engine, .dev = ts->dev });
	log.ki_filp = other->file;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, &byte, 1);
	iomap_inode_lock(&other->inode);
	cr_assert_eq(iomap_file_buffered_write(&log, &from, &other->ops, NULL, NULL), 1);
	iomap_inode_unlock(&other->inode);
	ts_close(other);
}

Test(throttle, en04_nobody_is_let_through_while_nothing_can_be_written)
{
	atomic_bool holds = true;
	struct iomap_engine_opts opts = still(MIB);
	uint64_t reached;
	struct t_task task;
	struct ts *ts;

	ts = store(&opts);
	ts->hook.arg = &holds;
	ts->hook.range = defer;
	t_start(&task, write_two_mib, ts);
	/* not the level: what is just being deferred counts twice there */
	while (t_stats(ts->engine).dirty_bytes <= ts->engine->cache->hard_pages * PAGE)
		sched_yield();
	reached = t_stats(ts->engine).dirty_bytes;
	/* more rounds than anybody would be patient for; each begins a write-out, and two with a flusher */
	ts_wait_calls(ts, TS_WRITEPAGES, ts_calls(ts, TS_WRITEPAGES) + 400);
	cr_assert(!atomic_load(&task.done));
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, reached, "it was not let through");
	/* the log is */
	write_log(ts);
	atomic_store(&holds, false);
	iomap_writeback_resume(&ts->inode);
	t_join(&task);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, 2 * MIB, 0, 3));
	ts_close(ts);
}

/* Who waits may be the only one who could let it go. */
Test(throttle, en04_without_threads_a_writer_over_held_back_data_is_told)
{
	static char buf[16 * KIB];
	atomic_bool holds = true;
	struct iomap_engine_opts opts = still(MIB);
	int64_t pos = 0;
	ssize_t ret;
	struct ts *ts;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = store(&opts);
	ts->hook.arg = &holds;
	ts->hook.range = defer;
	t_fill(buf, sizeof(buf), 0, 3);
	while ((ret = iomap_write(ts->file, buf, sizeof(buf), pos)) > 0)
		pos += ret;
	cr_assert_eq(ret, -EAGAIN);
	cr_assert_gt(t_stats(ts->engine).dirty_bytes, ts->engine->cache->hard_pages * PAGE);
	cr_assert_lt(pos, MIB);
	/* what is dirty already may be changed, and the log goes on */
	cr_assert_eq(iomap_write(ts->file, buf, 1, 0), 1);
	write_log(ts);
	cr_assert_eq(iomap_write(ts->file, buf, 1, pos), -EAGAIN);
	/* nor is it, while something is under way */
	atomic_store(&holds, false);
	iomap_writeback_resume(&ts->inode);
	while (pos < 2 * MIB) {
		cr_assert_eq(iomap_write(ts->file, buf, sizeof(buf), pos), sizeof(buf));
		pos += (int64_t)sizeof(buf);
	}
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

static long write_until_refused(void *arg)
{
	static char buf[16 * KIB];
	struct ts *ts = arg;
	int64_t pos = 0;

	while (iomap_write(ts->file, buf, sizeof(buf), pos) == sizeof(buf))
		pos += sizeof(buf);
	return pos;
}

Test(throttle, en04_a_closed_engine_lets_writers_end)
{
	atomic_bool holds = true;
	struct iomap_engine_opts opts = still(MIB);
	struct ts *ts = store(&opts);
	struct t_task task;

	ts->hook.arg = &holds;
	ts->hook.range = defer;
	t_start(&task, write_until_refused, ts);
	while (level(ts) <= ts->engine->cache->hard_pages * PAGE)
		sched_yield();
	ts_wait_calls(ts, TS_WRITEPAGES, ts_calls(ts, TS_WRITEPAGES) + 10);
	cr_assert(!atomic_load(&task.done));
	cr_assert(iomap_engine_shutdown(ts->engine, 0) <= 0);
	cr_assert_lt(t_join(&task), MIB);
	atomic_store(&holds, false);
	ts_close(ts);
}

/* ---- by age ---- */

/* Turns by amount do not hide what is old behind what is young. */
Test(throttle, en04_the_oldest_is_written_first_whoever_had_a_turn)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	struct ts *a, *b;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_expire_ms = 30000;
	a = store(&opts);
	b = ts_open(&(struct ts_config){ .i_size = MIB, .engine = a->engine, .dev = a->dev });
	ts_map(b, 0, MIB, IOMAP_MAPPED, 0, 8 * MIB);
	ts_write(a, 0, 4 * MIB / 10 + PAGE, 2);
	atomic_fetch_add(&now, 10 * SECOND);
	ts_write(b, 0, PAGE, 2);
	/* over the limit: down to the half of it, from what is the first */
	cr_assert_gt(iomap_engine_poll(a->engine, 1, true), 0);
	cr_assert_gt(a->inode.i_data.nr_dirty_pages, 0U);
	cr_assert_eq(b->inode.i_data.nr_dirty_pages, 1U);
	atomic_fetch_add(&now, 21 * SECOND);
	cr_assert_eq(iomap_engine_poll_timeout(a->engine), 0);
	cr_assert_gt(iomap_engine_poll(a->engine, 1, true), 0);
	cr_assert_eq(a->inode.i_data.nr_dirty_pages, 0U, "it is 31 seconds old");
	cr_assert_eq(b->inode.i_data.nr_dirty_pages, 1U, "it is 21 seconds old");
	cr_assert_eq(iomap_engine_poll_timeout(a->engine), 9 * (int64_t)SECOND);
	ts_close(b);
	ts_close(a);
}

/* Nor does one that was resumed, however young. */
Test(throttle, en04_one_that_was_resumed_does_not_hide_the_oldest)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	struct ts *a, *b;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_expire_ms = 30000;
	a = store(&opts);
	b = ts_open(&(struct ts_config){ .i_size = MIB, .engine = a->engine, .dev = a->dev });
	ts_map(b, 0, MIB, IOMAP_MAPPED, 0, 8 * MIB);
	ts_write(a, 0, PAGE, 2);
	atomic_fetch_add(&now, 10 * SECOND);
	ts_write(b, 0, 2 * PAGE, 2);
	iomap_writeback_resume(&b->inode);
	cr_assert_gt(iomap__flush_some(a->engine->cache, 0, 1), 0U);
	cr_assert_eq(b->inode.i_data.nr_dirty_pages, 1U);
	atomic_fetch_add(&now, 21 * SECOND);
	cr_assert_gt(iomap_engine_poll(a->engine, 1, true), 0);
	cr_assert_eq(a->inode.i_data.nr_dirty_pages, 0U);
	cr_assert_eq(b->inode.i_data.nr_dirty_pages, 1U);
	ts_close(b);
	ts_close(a);
}

/* Nor is it hidden itself by an older one that comes back to the list. */
Test(throttle, en04_one_that_was_resumed_is_not_hidden)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	struct ts *a, *b;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_expire_ms = 30000;
	a = store(&opts);
	b = ts_open(&(struct ts_config){ .i_size = MIB, .engine = a->engine, .dev = a->dev });
	ts_map(b, 0, MIB, IOMAP_MAPPED, 0, 8 * MIB);
	ts_write(a, 0, PAGE, 2);
	atomic_fetch_add(&now, 10 * SECOND);
	ts_write(b, 0, PAGE, 2);
	iomap_writeback_resume(&b->inode);
	/* as an inode whose end is given up */
	iomap__inode_leave_dirty(&a->inode);
	iomap__inode_rejoin_dirty(&a->inode);
	cr_assert_eq(iomap_engine_poll_timeout(a->engine), 0);
	cr_assert_gt(iomap_engine_poll(a->engine, 1, true), 0);
	cr_assert_eq(a->inode.i_data.nr_dirty_pages, 1U, "it is 10 seconds old");
	cr_assert_eq(b->inode.i_data.nr_dirty_pages, 0U);
	ts_close(b);
	ts_close(a);
}

/* A clock that goes back makes what was asked, and stays dirty, no older. */
static ssize_t defer_and_turn_back(struct ts *ts, struct iomap_writepage_ctx *wpc,
				   struct iomap_folio *folio, uint64_t pos, unsigned len,
				   uint64_t end_pos)
{
	(void)wpc, (void)folio, (void)pos, (void)len, (void)end_pos;
	if (!atomic_exchange((atomic_bool *)ts->hook.arg, true))
		atomic_fetch_sub(&now, 60 * SECOND);
	return IOMAP_WB_DEFER;
}

Test(throttle, en04_a_clock_that_goes_back_keeps_nobody_busy, .timeout = 60)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	atomic_bool turned = false;
	struct ts *ts;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_expire_ms = 30000;
	ts = store(&opts);
	ts->hook.arg = &turned;
	ts->hook.range = defer_and_turn_back;
	ts_write(ts, 0, PAGE, 2);
	atomic_fetch_add(&now, 31 * SECOND);
	iomap_engine_poll(ts->engine, 1, true);
	cr_assert(atomic_load(&turned));
	cr_assert_eq(ts_calls(ts, TS_WRITEPAGES), 1U);
	ts_close(ts);
}

/* ---- memory for write-out ---- */

/* Memory through the hooks, until there is none. */
static atomic_bool none_left;

static void *hook_alloc(void *ctx, size_t align, size_t size)
{
	(void)ctx;
	return atomic_load(&none_left) ? NULL : aligned_alloc(align, (size + align - 1) / align * align);
}

static void hook_free(void *ctx, void *ptr, size_t size)
{
	(void)ctx, (void)size;
	free(ptr);
}

/* The extent map: to write a page it reads two of metadata, and changes one of them. */
struct map {
	struct ts *metadata;
	struct t_rand rand;
	_Atomic uint64_t uses, most;
	pthread_mutex_t lock;
};

#define MAP_BYTES (2 * MIB)

static ssize_t range_by_map(struct ts *ts, struct iomap_writepage_ctx *wpc,
			    struct iomap_folio *folio, uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct map *map = ts->hook.arg;
	int64_t at, other;
	uint64_t most;

	pthread_mutex_lock(&map->lock);
	at = (int64_t)t_below(&map->rand, MAP_BYTES / PAGE) * PAGE;
	other = (int64_t)t_below(&map->rand, MAP_BYTES / PAGE) * PAGE;
	pthread_mutex_unlock(&map->lock);
	t_must(ts_reads(map->metadata, at, PAGE, 7));
	t_must(ts_reads(map->metadata, other, PAGE, 7));
	ts_write(map->metadata, at, PAGE, 7);
	atomic_fetch_add(&map->uses, 1);
	most = level(ts);
	if (most > atomic_load(&map->most))
		atomic_store(&map->most, most);
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

static long write_pages(void *arg)
{
	struct writer *w = arg;
	struct t_rand r = { (uint64_t)w->pos + 1 };

	/* scattered, so that each is a run of its own */
	for (unsigned i = 0; i < (T_SANITIZED ? 150 : 600); i++)
		ts_write(w->ts, w->pos + (int64_t)t_below(&r, w->len / PAGE) * PAGE, PAGE, 4);
	return 0;
}

struct drain {
	struct ts *ts, *metadata;
	struct map map;
};

/* The smallest cache there can be; nothing is written before data has to wait. */
static void drain_begin(struct drain *d, bool threads)
{
	struct iomap_engine_opts opts;

	memset(d, 0, sizeof(*d));
	iomap_engine_opts_init(&opts);
	opts.max_callers = 4;
	opts.cache_bytes = 4 * 8 * PAGE;
	opts.dirty_hard_pct = opts.dirty_background_pct = 80;
	opts.flags = threads ? 0 : IOMAP_ENGINE_NO_THREADS;
	opts.alloc.alloc = hook_alloc;
	opts.alloc.free = hook_free;
	d->ts = store(&opts);
	d->metadata = ts_open(&(struct ts_config){
		.i_size = MAP_BYTES, .lock_class = 1, .engine = d->ts->engine, .dev = d->ts->dev });
	ts_map(d->metadata, 0, MAP_BYTES, IOMAP_MAPPED, 0, 8 * MIB);
	ts_dev_fill(d->metadata, 8 * MIB, MAP_BYTES, 0, 7);
	pthread_mutex_init(&d->map.lock, NULL);
	d->map.rand.state = 1;
	d->map.metadata = d->metadata;
	d->ts->hook.arg = &d->map;
	d->ts->hook.range = range_by_map;
	td_async(d->ts->dev);
}

/* All of it, metadata last. */
static void drain_out(struct drain *d)
{
	cr_assert_eq(ts_fsync(d->ts), 0);
	cr_assert_eq(ts_fsync(d->metadata), 0);
	cr_assert_eq(level(d->ts), 0U);
}

static void drain_end(struct drain *d)
{
	cr_assert_gt(atomic_load(&d->map.uses), 100U);
	cr_assert(ts_dev_has(d->metadata, 8 * MIB, MAP_BYTES, 0, 7));
	ts_close(d->metadata);
	ts_close(d->ts);
}

static void drains(bool threads, unsigned writers)
{
	struct writer w[4];
	struct t_task task[4];
	struct drain d;

	drain_begin(&d, threads);
	for (unsigned i = 0; i < writers; i++) {
		w[i] = (struct writer){ .ts = d.ts, .pos = i * 2LL * MIB, .len = 2 * MIB };
		t_start(&task[i], write_pages, &w[i]);
	}
	for (unsigned i = 0; i < writers; i++)
		t_join(&task[i]);
	drain_out(&d);
	/* one that is just being written, by each of them and the flusher, counts twice */
	cr_assert_leq(atomic_load(&d.map.most), (32U / 5 * 4 + writers + 1) * PAGE);
	for (unsigned i = 0; i < writers; i++) {
		struct t_rand r = { (uint64_t)w[i].pos + 1 };

		for (unsigned k = 0; k < (T_SANITIZED ? 150 : 600); k++) {
			uint64_t at = (uint64_t)w[i].pos + t_below(&r, w[i].len / PAGE) * PAGE;

			cr_assert(ts_dev_has(d.ts, at, PAGE, (int64_t)at, 4));
		}
	}
	drain_end(&d);
}

Test(throttle, ca08_a_cache_full_of_dirty_data_whose_map_is_cached_too_drains)
{
	drains(true, 1);
	drains(false, 1);
	drains(true, 4);
	drains(false, 4);
}

/* The same when the hooks have no memory any more, from when it is full until it is empty. */
static void drains_without_memory(bool threads)
{
	uint64_t hard;
	struct drain d;

	drain_begin(&d, threads);
	hard = d.ts->engine->cache->hard_pages;
	for (int64_t round = 0; round < (T_SANITIZED ? 10 : 40); round++) {
		for (uint64_t i = 0; i < hard; i++)
			ts_write(d.ts, (round * 7 + (int64_t)i * 61) % 2000 * PAGE, PAGE, 4);
		cr_assert_gt(level(d.ts), (hard / 2) * PAGE);
		atomic_store(&none_left, true);
		drain_out(&d);
		atomic_store(&none_left, false);
	}
	drain_end(&d);
}

Test(throttle, ca08_it_drains_without_any_memory_from_outside)
{
	drains_without_memory(true);
	drains_without_memory(false);
}

/* Data that is pinned does not take what write-out needs. */
Test(throttle, ca08_data_leaves_a_reserve_for_metadata)
{
	struct iomap_engine_opts opts = still(4 * 8 * PAGE);
	struct iomap_pin pin[32];
	struct ts *ts, *metadata;
	unsigned nr = 0;
	int err;

	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = store(&opts);
	metadata = ts_open(&(struct ts_config){
		.i_size = MIB, .lock_class = 1, .engine = ts->engine, .dev = ts->dev });
	ts_map(metadata, 0, MIB, IOMAP_MAPPED, 0, 8 * MIB);
	ts_dev_fill(metadata, 8 * MIB, MIB, 0, 7);
	ts->i_op.open = NULL;
	while (nr < 32 && !(err = iomap_folio_pin(ts->file, nr * PAGE, 0, &pin[nr])))
		nr++;
	cr_assert_eq(err, -ENOMEM);
	cr_assert_eq(nr, 28U);
	for (int64_t pos = 0; pos < MIB; pos += PAGE)
		cr_assert(ts_reads(metadata, pos, PAGE, 7));
	while (nr)
		iomap_folio_unpin(&pin[--nr]);
	/* without metadata there is no need for one */
	ts_close(metadata);
	while (nr < 32 && !(err = iomap_folio_pin(ts->file, nr * PAGE, 0, &pin[nr])))
		nr++;
	cr_assert_eq(nr, 32U);
	while (nr)
		iomap_folio_unpin(&pin[--nr]);
	ts_close(ts);
}

/* What is asked for cannot be had: the limit of data is lower. */
Test(throttle, ca08_limits_stay_below_four_fifths)
{
	struct iomap_engine_opts opts = still(4 * MIB);
	const struct iomap__cache *cache;
	struct ts *ts, *metadata;
	uint64_t hard;

	opts.dirty_hard_pct = 80;
	ts = store(&opts);
	cache = ts->engine->cache;
	hard = cache->hard_pages;
	cr_assert_leq(hard + (4 << cache->max_order), MIB / KIB / 5 * 4U);
	metadata = ts_open(&(struct ts_config){
		.i_size = MIB, .lock_class = 1, .engine = ts->engine, .dev = ts->dev });
	cr_assert_eq(cache->hard_pages, hard - 1024 / 16);
	ts_close(metadata);
	cr_assert_eq(cache->hard_pages, hard);
	ts_close(ts);
}
