/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * en03.c - EN03: counters of engine, device and inode, latencies, and the dump of what is in flight.
 *
 * The clock is the test's, and so is the device: it holds what the test says.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include <iomap/faulty.h>

#include "teststore.h"

#define KIB 1024
#define PAGE (4 * KIB)
#define SIZE (64 * KIB)
#define MS 1000000ULL
#define MEASURED 8 /* of so many bios of a thread one is measured */

static _Atomic uint64_t clock_ns = 1000000000;
static atomic_uint clock_asked;

static uint64_t now_ns(void *ctx)
{
	(void)ctx;
	atomic_fetch_add(&clock_asked, 1);
	return atomic_load(&clock_ns);
}

static void pass(uint64_t ns)
{
	atomic_fetch_add(&clock_ns, ns);
}

/* 64 KiB of the pattern 1. */
static struct ts *store(uint32_t flags)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct iomap_engine_opts opts;

	t_must(ts != NULL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = flags;
	opts.now_ns = now_ns;
	ts_prepare(ts, &(struct ts_config){ .i_size = SIZE, .opts = &opts });
	ts->hook.open = ts_allow_direct;
	ts_begin(ts);
	ts_map(ts, 0, SIZE, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, SIZE, 0, 1);
	return ts;
}

static uint64_t histogram(struct ts *ts, enum iomap_histogram which, uint64_t *buckets)
{
	uint64_t sum = 0;

	cr_assert_eq(iomap_engine_histogram(ts->engine, which, buckets, IOMAP_HIST_BUCKETS_NR), 0);
	for (unsigned i = 0; i < IOMAP_HIST_BUCKETS_NR; i++)
		sum += buckets[i];
	return sum;
}

static uint64_t count(struct ts *ts, enum iomap_histogram which)
{
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR];

	return histogram(ts, which, buckets);
}

/* ---- counters of the engine ---- */

Test(en03, en03_ranges_and_bios_give_the_merge_ratio)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	struct iomap_engine_stats before = t_stats(ts->engine), after;

	for (int64_t pos = 0; pos < SIZE; pos += PAGE)
		ts_write(ts, pos, PAGE, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	after = t_stats(ts->engine);
	cr_assert_eq(after.ranges_nr - before.ranges_nr, SIZE / PAGE);
	cr_assert_eq(after.range_bios_nr - before.range_bios_nr, 1);
	cr_assert_eq(after.ioend_bios_nr - before.ioend_bios_nr, 1);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 1);
	cr_assert_eq(iomap_engine_drop_cache(ts->engine), SIZE);
	/* what lies in two places takes two */
	ts_map(ts, 32 * KIB, 32 * KIB, IOMAP_MAPPED, 0, 512 * KIB);
	ts_dev_fill(ts, 512 * KIB, 32 * KIB, 32 * KIB, 2);
	before = t_stats(ts->engine);
	cr_assert(ts_reads(ts, 0, SIZE, 2));
	after = t_stats(ts->engine);
	cr_assert_eq(after.ranges_nr - before.ranges_nr, SIZE / PAGE);
	cr_assert_eq(after.range_bios_nr - before.range_bios_nr, 2);
	cr_assert_eq(after.ioend_bios_nr, before.ioend_bios_nr, "these were reads");
	ts_close(ts);
}

Test(en03, en03_readahead_is_used_or_wasted)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	struct iomap_engine_stats stats;

	cr_assert(ts_reads(ts, 0, PAGE, 1));
	stats = t_stats(ts->engine);
	cr_assert_gt(stats.readahead_bytes, 2 * PAGE);
	cr_assert_eq(stats.readahead_wasted_bytes, 0);
	cr_assert(ts_reads(ts, PAGE, PAGE, 1));
	(void)iomap_engine_drop_cache(ts->engine);
	stats = t_stats(ts->engine);
	cr_assert_eq(stats.readahead_used_bytes, PAGE);
	cr_assert_eq(stats.cached_bytes, 0);
	cr_assert_gt(stats.readahead_wasted_bytes, 0);
	cr_assert_eq(stats.readahead_wasted_bytes % PAGE, 0);
	cr_assert_eq(stats.readahead_used_bytes + stats.readahead_wasted_bytes,
		     stats.readahead_bytes);
	ts_close(ts);
}

/* ---- latencies ---- */

struct own_bio {
	struct iomap_bio bio;
	struct iomap_bio_vec vec;
	char data[PAGE];
};

static void own_end(struct iomap_bio *bio)
{
	(void)bio;
}

static void own_submit(struct own_bio *own, struct iomap_bdev *bdev, uint32_t opf)
{
	memset(&own->bio, 0, sizeof(own->bio));
	own->vec = (struct iomap_bio_vec){ own->data, PAGE };
	own->bio.bi_bdev = bdev;
	own->bio.bi_opf = opf;
	own->bio.bi_io_vec = &own->vec;
	own->bio.bi_vcnt = own->bio.bi_max_vecs = 1;
	own->bio.bi_iter.bi_size = PAGE;
	own->bio.bi_end_io = own_end;
	iomap_submit_bio(&own->bio);
}

static void device_latencies(uint32_t opf, unsigned hold, enum iomap_histogram which)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR], of_bdev[4];
	struct own_bio *own = calloc(2 * MEASURED, sizeof(*own));
	uint64_t before = count(ts, which);

	t_must(own != NULL);
	td_hold(ts->dev, hold);
	for (unsigned i = 0; i < 2 * MEASURED; i++)
		own_submit(&own[i], ts->dev->bdev, opf);
	pass(3 * MS);
	td_open_gates(ts->dev);
	cr_assert_eq(histogram(ts, which, buckets), before + 2);
	cr_assert_eq(buckets[21], 2); /* 2^21 ns are 2.1 ms */
	cr_assert_eq(iomap_bdev_histogram(ts->dev->bdev, which, of_bdev, 4), 0);
	cr_assert_eq(of_bdev[3], 2);
	free(own);
	ts_close(ts);
}

Test(en03, en03_latencies_of_device_reads)
{
	device_latencies(IOMAP_REQ_OP_READ, TD_READ, IOMAP_HIST_DEVICE_READ);
}

Test(en03, en03_latencies_of_device_writes)
{
	device_latencies(IOMAP_REQ_OP_WRITE, TD_WRITE, IOMAP_HIST_DEVICE_WRITE);
}

static long fsync_it(void *arg)
{
	return ts_fsync(arg);
}

/* All of them, and those of a device that is closed stay in the engine's. */
Test(en03, en03_latencies_of_flushes_and_fsync)
{
	struct ts *ts = store(0);
	struct td *other = td_new(ts->engine, 1 << 20, NULL);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR];
	struct iomap_bdev *faulty;
	struct t_task task;

	ts_write(ts, 0, PAGE, 2);
	td_hold(ts->dev, TD_FLUSH);
	t_start(&task, fsync_it, ts);
	td_wait_held(ts->dev, 1);
	pass(100 * MS);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(histogram(ts, IOMAP_HIST_FLUSH, buckets), 1);
	cr_assert_eq(buckets[26], 1);
	cr_assert_eq(histogram(ts, IOMAP_HIST_FSYNC, buckets), 1);
	cr_assert_eq(buckets[26], 1);

	/* a bio that is passed on is measured where it is served */
	cr_assert_eq(iomap_faulty_create(other->bdev, NULL, &faulty), 0);
	cr_assert_eq(iomap_bdev_flush(faulty), 0);
	cr_assert_eq(iomap_bdev_histogram(faulty, IOMAP_HIST_FLUSH, buckets, 1), 0);
	cr_assert_eq(buckets[0], 0);
	cr_assert_eq(iomap_bdev_histogram(other->bdev, IOMAP_HIST_FLUSH, buckets, 1), 0);
	cr_assert_eq(buckets[0], 1);
	cr_assert_eq(iomap_bdev_close(faulty), 0);
	td_free(other);
	cr_assert_eq(count(ts, IOMAP_HIST_FLUSH), 2);
	ts_close(ts);
}

static long read_it(void *arg)
{
	struct ts *ts = arg;
	char buf[PAGE];

	return iomap_read(ts->file, buf, PAGE, 0) == PAGE && t_mismatch(buf, PAGE, 0, 1) == -1;
}

Test(en03, en03_latencies_of_misses)
{
	struct ts *ts = store(0);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR], before = count(ts, IOMAP_HIST_READ);
	struct t_task task;

	td_hold(ts->dev, TD_READ);
	t_start(&task, read_it, ts);
	td_wait_held(ts->dev, 1);
	pass(5 * MS);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 1);
	cr_assert_eq(histogram(ts, IOMAP_HIST_READ, buckets), before + 1);
	cr_assert_eq(buckets[22], 1);
	ts_close(ts);
}

/* What a write leaves of a block is read, and that is waited for. */
static long write_part(void *arg)
{
	struct ts *ts = arg;

	return iomap_write(ts->file, "x", 1, PAGE + 100);
}

Test(en03, en03_latencies_of_writes_that_wait)
{
	struct ts *ts = store(0);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR];
	struct t_task task;

	ts_write(ts, 0, PAGE, 2);
	cr_assert_eq(count(ts, IOMAP_HIST_WRITE), 0);
	td_hold(ts->dev, TD_READ);
	t_start(&task, write_part, ts);
	td_wait_held(ts->dev, 1);
	pass(9 * MS);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 1);
	cr_assert_eq(histogram(ts, IOMAP_HIST_WRITE, buckets), 1);
	cr_assert_eq(buckets[23], 1);
	ts_close(ts);
}

Test(en03, en03_hits_do_not_look_at_the_clock)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	unsigned asked;
	char buf[PAGE];

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	ts_write(ts, 0, SIZE, 1);
	asked = atomic_load(&clock_asked);
	for (int64_t pos = 0; pos < SIZE; pos += PAGE) {
		cr_assert_eq(iomap_read(ts->file, buf, PAGE, pos), PAGE);
		cr_assert_eq(iomap_write(ts->file, buf, PAGE, pos), PAGE);
	}
	cr_assert_eq(atomic_load(&clock_asked), asked);
	ts_close(ts);
}

Test(en03, en03_histograms_fit_what_is_asked_for)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR + 2];

	cr_assert_eq(iomap_bdev_flush(ts->dev->bdev), 0);
	cr_assert_eq(iomap_engine_histogram(ts->engine, IOMAP_HIST_FLUSH, buckets, 1), 0);
	cr_assert_eq(buckets[0], 1);
	memset(buckets, 0xff, sizeof(buckets));
	cr_assert_eq(iomap_engine_histogram(ts->engine, IOMAP_HIST_FLUSH, buckets,
					    IOMAP_HIST_BUCKETS_NR + 2), 0);
	cr_assert_eq(buckets[0], 1); /* the clock stands still */
	cr_assert_eq(buckets[IOMAP_HIST_BUCKETS_NR - 1], 0);
	cr_assert_eq(buckets[IOMAP_HIST_BUCKETS_NR + 1], 0);
	cr_assert_eq(iomap_engine_histogram(ts->engine, IOMAP_HISTOGRAMS_NR, buckets, 1), -EINVAL);
	cr_assert_eq(iomap_engine_histogram(ts->engine, IOMAP_HIST_READ, NULL, 1), -EINVAL);
	cr_assert_eq(iomap_engine_histogram(ts->engine, IOMAP_HIST_READ, buckets, 0), -EINVAL);
	cr_assert_eq(iomap_bdev_histogram(ts->dev->bdev, IOMAP_HIST_READ, buckets, 1), -EINVAL);
	cr_assert_eq(iomap_bdev_histogram(ts->dev->bdev, IOMAP_HISTOGRAMS_NR, buckets, 1), -EINVAL);
	ts_close(ts);
}

/* Longer than the last bucket counts in it. */
Test(en03, en03_what_takes_hours_counts_in_the_last_bucket)
{
	struct ts *ts = store(0);
	uint64_t buckets[IOMAP_HIST_BUCKETS_NR];
	struct t_task task;

	ts_write(ts, 0, PAGE, 2);
	td_hold(ts->dev, TD_FLUSH);
	t_start(&task, fsync_it, ts);
	td_wait_held(ts->dev, 1);
	pass(7200 * 1000 * MS);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(histogram(ts, IOMAP_HIST_FSYNC, buckets), 1);
	cr_assert_eq(buckets[IOMAP_HIST_BUCKETS_NR - 1], 1);
	ts_close(ts);
}

/* ---- a real file ---- */

Test(en03, en03_a_file_on_a_queue_is_measured)
{
	char *path = t_temp(1 << 20);
	uint64_t nr[2] = { 0, 0 }, of_bdev[1];
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct t_log log;
	void *buf;

	t_must(posix_memalign(&buf, 4096, PAGE) == 0);
	memset(buf, 1, PAGE);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_log_init(&log);
	engine = t_engine(&opts, &log);
	cr_assert_eq(iomap_bdev_open(engine, path, NULL, &bdev), 0);
	for (unsigned i = 0; i < 4 * MEASURED; i++)
		cr_assert_eq(t_io(bdev, i % 2 ? IOMAP_REQ_OP_READ : IOMAP_REQ_OP_WRITE, i * PAGE,
				  buf, PAGE), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(iomap_engine_histogram(engine, IOMAP_HIST_DEVICE_READ, &nr[0], 1), 0);
	cr_assert_eq(iomap_engine_histogram(engine, IOMAP_HIST_DEVICE_WRITE, &nr[1], 1), 0);
	cr_assert_eq(nr[0] + nr[1], 4);
	cr_assert_eq(iomap_bdev_histogram(bdev, IOMAP_HIST_FLUSH, of_bdev, 1), 0);
	cr_assert_eq(of_bdev[0], 1);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_histogram(engine, IOMAP_HIST_FLUSH, of_bdev, 1), 0);
	cr_assert_eq(of_bdev[0], 1);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(buf);
	t_temp_free(path);
}

/* ---- inodes ---- */

static struct iomap_inode_stats inode_stats(struct ts *ts)
{
	struct iomap_inode_stats stats;

	cr_assert_eq(iomap_inode_stats(&ts->inode, &stats, sizeof(stats)), 0);
	return stats;
}

static void read_pages(struct ts *ts)
{
	char buf[PAGE];

	for (int64_t pos = 0; pos < SIZE; pos += PAGE)
		t_must(iomap_read(ts->file, buf, PAGE, pos) == PAGE);
}

Test(en03, en03_inodes_have_counters_from_when_they_are_asked_for)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS), *other;
	struct iomap_engine_stats before, after;
	struct iomap_inode_stats stats;
	struct iomap_pin pin;

	other = ts_open(&(struct ts_config){ .i_size = SIZE, .engine = ts->engine });
	ts_map(other, 0, SIZE, IOMAP_MAPPED, 0, 0);
	cr_assert(ts_reads(ts, 0, SIZE, 1));
	read_pages(ts);
	stats = inode_stats(ts);
	cr_assert_eq(stats.cached_bytes, SIZE);
	cr_assert_eq(stats.hits_nr, 0);
	/* folios that were there, and of another inode */
	before = t_stats(ts->engine);
	read_pages(ts);
	read_pages(other);
	ts_write(ts, 0, 3 * PAGE, 1);
	after = t_stats(ts->engine);
	stats = inode_stats(ts);
	cr_assert_eq(stats.hits_nr, SIZE / PAGE + 3);
	cr_assert_eq(stats.misses_nr, 0);
	cr_assert_eq(stats.dirty_bytes, 3 * PAGE);
	cr_assert_gt(after.hits_nr + after.misses_nr - before.hits_nr - before.misses_nr,
		     SIZE / PAGE + 3);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, 0, &pin), 0);
	iomap_folio_unpin(&pin);
	cr_assert_eq(inode_stats(ts).hits_nr, SIZE / PAGE + 4);
	cr_assert_eq(t_stats(ts->engine).hits_nr, after.hits_nr + 1);
	cr_assert_eq(ts_fsync(ts), 0);
	stats = inode_stats(ts);
	cr_assert_eq(stats.ioends_nr, 1);
	cr_assert_eq(stats.ioend_bytes, 3 * PAGE);
	cr_assert_eq(stats.dirty_bytes + stats.writeback_bytes, 0);
	cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, 0, INT64_MAX), SIZE);
	stats = inode_stats(ts);
	cr_assert_eq(stats.evictions_nr, SIZE / PAGE);
	cr_assert_eq(stats.cached_bytes, 0);
	/* folios that came later */
	read_pages(ts);
	read_pages(ts);
	stats = inode_stats(ts);
	cr_assert_gt(stats.misses_nr, 0);
	cr_assert_gt(stats.readahead_bytes, 0);
	cr_assert_eq(stats.readahead_used_bytes, stats.readahead_bytes);
	cr_assert_geq(stats.hits_nr, 2 * SIZE / PAGE + 4);
	cr_assert_eq(iomap_inode_stats(&ts->inode, NULL, 8), -EINVAL);
	cr_assert_eq(iomap_inode_stats(&ts->inode, &stats, 0), -EINVAL);
	ts_close(other);
	ts_close(ts);
}

/* Whichever way a hit comes. */
Test(en03, en03_pins_and_batches_count_as_hits_of_the_inode)
{
	struct ts *ts = store(IOMAP_ENGINE_NO_THREADS);
	char buf[2][PAGE];
	struct iomap_read_range ranges[2] = {
		{ .file = ts->file, .buf = buf[0], .len = PAGE, .pos = 0 },
		{ .file = ts->file, .buf = buf[1], .len = PAGE, .pos = PAGE },
	};
	struct iomap_pin pin;

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	read_pages(ts);
	(void)inode_stats(ts);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, 0, &pin), 0);
	iomap_folio_unpin(&pin);
	cr_assert_eq(inode_stats(ts).hits_nr, 1);
	cr_assert_eq(iomap_read_batch(ranges, 2, 0), 0);
	cr_assert_eq(inode_stats(ts).hits_nr, 3);
	cr_assert_eq(iomap_read(ts->file, buf, 2 * PAGE, 0), 2 * PAGE);
	cr_assert_eq(inode_stats(ts).hits_nr, 5);
	ts_close(ts);
}

#define THREADS 4
#define ROUNDS 100

static long read_rounds(void *arg)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		read_pages(arg);
	return 0;
}

Test(en03, en03_counters_of_many_threads_are_exact)
{
	struct ts *ts = store(0);
	struct t_task tasks[THREADS];
	uint64_t before;

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	(void)inode_stats(ts);
	before = t_stats(ts->engine).hits_nr;
	for (unsigned i = 0; i < THREADS; i++)
		t_start(&tasks[i], read_rounds, ts);
	for (unsigned i = 0; i < THREADS; i++)
		t_join(&tasks[i]);
	cr_assert_eq(inode_stats(ts).hits_nr, THREADS * ROUNDS * SIZE / PAGE);
	cr_assert_eq(t_stats(ts->engine).hits_nr - before, THREADS * ROUNDS * SIZE / PAGE);
	ts_close(ts);
}

/* ---- dump ---- */

struct text {
	char *all;
	size_t used;
	unsigned lines;
};

static void add_line(void *ctx, const char *line)
{
	struct text *text = ctx;
	size_t len = strlen(line);

	t_must(!strchr(line, '\n'));
	text->all = realloc(text->all, text->used + len + 2);
	t_must(text->all != NULL);
	text->used += (size_t)sprintf(text->all + text->used, "%s\n", line);
	text->lines++;
}

static struct text dump(struct ts *ts)
{
	struct text text = { .all = NULL };

	t_must(iomap_engine_dump(ts->engine, add_line, &text) == 0);
	t_must(text.lines > 0);
	return text;
}

#define assert_says(text, what) \
	cr_assert(strstr((text).all, (what)), "no \"%s\" in\n%s", (what), (text).all)
#define assert_silent(text, what) \
	cr_assert(!strstr((text).all, (what)), "\"%s\" in\n%s", (what), (text).all)

Test(en03, en03_a_dump_of_an_engine_at_rest_says_little)
{
	struct ts *ts = store(0);
	struct text text;

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	text = dump(ts);
	assert_says(text, "65536 of 4194304 bytes used, 0 dirty");
	assert_says(text, "device custom: 0 bios in flight");
	assert_silent(text, "in flight: ");
	assert_silent(text, "inode ");
	cr_assert_eq(iomap_engine_dump(ts->engine, NULL, NULL), -EINVAL);
	free(text.all);
	ts_close(ts);
}

Test(en03, en03_a_dump_shows_a_read_with_its_age)
{
	struct ts *ts = store(0);
	struct text text;
	struct t_task task;

	td_hold(ts->dev, TD_READ);
	t_start(&task, read_it, ts);
	td_wait_held(ts->dev, 1);
	do {
		text = dump(ts);
	} while (!strstr(text.all, "in flight: ") && (free(text.all), sched_yield(), true));
	free(text.all);
	pass(7 * MS + 89000);
	text = dump(ts);
	assert_says(text, "in flight: inode 987654321, read (or a lock), 4096 bytes at 0: 7.089 ms");
	assert_says(text, "inode 987654321: folio of 4096 bytes at 0: locked pinned");
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 1);
	free(text.all);
	text = dump(ts);
	assert_silent(text, "in flight: ");
	free(text.all);
	ts_close(ts);
}

static ssize_t defer(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		     uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)ts, (void)wpc, (void)folio, (void)pos, (void)len, (void)end_pos;
	return IOMAP_WB_DEFER;
}

Test(en03, en03_a_dump_shows_what_is_pinned_written_and_held_back)
{
	struct ts *ts = store(0);
	struct iomap_folio *pinned;
	struct text text;

	cr_assert(ts_reads(ts, 0, SIZE, 1));
	pinned = ts_folio(ts, 2 * PAGE);
	ts_write(ts, 4 * PAGE, 2 * PAGE, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 4 * PAGE, 5 * PAGE, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	ts->hook.range = defer;
	cr_assert_eq(iomap_sync_range(ts->file, 5 * PAGE, 6 * PAGE, IOMAP_SYNC_WRITE), 0);
	pass(1500 * MS);
	text = dump(ts);
	assert_says(text, "in flight: inode 987654321, writeback, 4096 bytes at 16384: 1500.000 ms");
	assert_says(text, "device custom: 1 bios in flight");
	assert_says(text, "1 pages dirty, 1 under writeback, 0 direct I/Os, data deferred");
	assert_says(text, "folio of 4096 bytes at 8192: pinned uptodate");
	assert_says(text, "folio of 4096 bytes at 20480: held back dirty uptodate");
	assert_silent(text, "at 12288");
	free(text.all);
	iomap_folio_put(pinned);
	td_open_gates(ts->dev);
	ts->hook.range = NULL;
	iomap_writeback_resume(&ts->inode);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

static atomic_uint completed;

static void complete(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb;
	t_must(ret == PAGE);
	atomic_fetch_add(&completed, 1);
}

Test(en03, en03_a_dump_shows_asynchronous_direct_io)
{
	struct ts *ts = store(0);
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	struct iomap_file *file;
	struct text text;
	void *buf;

	t_must(posix_memalign(&buf, 4096, PAGE) == 0);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	td_hold(ts->dev, TD_READ);
	iomap_kiocb_init(&iocb, file, PAGE);
	iocb.ki_complete = complete;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, PAGE);
	cr_assert_eq(iomap_dio_rw(&iocb, &to, &ts->ops, NULL, 0, NULL, 0), -IOMAP_EIOCBQUEUED);
	pass(2 * MS);
	text = dump(ts);
	assert_says(text, "direct read, 4096 bytes at");
	assert_says(text, ": 2.000 ms");
	assert_says(text, "1 direct I/Os");
	free(text.all);
	td_open_gates(ts->dev);
	while (!atomic_load(&completed))
		sched_yield();
	while (iomap_file_close(file) == -EBUSY)
		sched_yield();
	free(buf);
	ts_close(ts);
}

/* A destroy that waits for a device which hangs must not keep a dump, which is wanted just then. */
static long destroy(void *arg)
{
	struct ts *ts = arg;

	return iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD);
}

Test(en03, en03_a_dump_does_not_wait_for_what_hangs)
{
	struct ts *ts = store(0), *other = ts_open(&(struct ts_config){
		.i_size = SIZE, .engine = ts->engine });
	struct t_task task;
	struct text text;
	bool there;

	ts_write(ts, 0, PAGE, 3);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, PAGE, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(iomap_file_close(ts->file), 0);
	t_start(&task, destroy, ts);
	do {
		text = dump(other);
		there = strstr(text.all, "1 inodes are being destroyed");
		free(text.all);
	} while (!there);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	ts_close(other);
	ts_free(ts);
}

/* ---- beside others ---- */

static atomic_bool stop;
static atomic_uint rounds;

static long use(void *arg)
{
	struct ts *ts = arg;

	while (!atomic_load(&stop)) {
		ts_write(ts, 0, SIZE, 1);
		t_must(ts_fsync(ts) == 0);
		(void)iomap_invalidate_inode_pages(&ts->inode, 0, SIZE / 2);
		t_must(ts_reads(ts, 0, SIZE, 1));
		atomic_fetch_add(&rounds, 1);
	}
	return 0;
}

static long come_and_go(void *arg)
{
	struct ts *ts = arg;
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &ts->a_ops, .i_size = PAGE };
	struct iomap_inode inode;

	while (!atomic_load(&stop)) {
		struct iomap_bdev *bdev;

		t_must(iomap_bdev_open_memory(ts->engine, PAGE, &bdev) == 0);
		args.bdev = bdev;
		t_must(iomap_inode_init(ts->engine, &inode, &args) == 0);
		t_must(iomap_inode_destroy(&inode, 0) == 0);
		t_must(iomap_bdev_close(bdev) == 0);
		atomic_fetch_add(&rounds, 1);
	}
	return 0;
}

Test(en03, en03_dumps_and_counters_beside_everything_else)
{
	struct ts *ts = store(0);
	struct iomap_engine_stats stats;
	struct t_task tasks[2];
	struct text text;

	td_async(ts->dev);
	t_start(&tasks[0], use, ts);
	t_start(&tasks[1], come_and_go, ts);
	while (atomic_load(&rounds) < 200) {
		text = dump(ts);
		free(text.all);
		pass(MS);
		(void)count(ts, IOMAP_HIST_DEVICE_WRITE);
		(void)inode_stats(ts);
		t_must(iomap_engine_stats(ts->engine, &stats, sizeof(stats)) == 0);
	}
	atomic_store(&stop, true);
	t_join(&tasks[0]);
	t_join(&tasks[1]);
	ts_close(ts);
}
