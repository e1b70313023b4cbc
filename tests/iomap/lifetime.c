/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL TIMEOUT 300 */
/*
 * lifetime.c - LK04: what is in use is not destroyed, and what was destroyed is not used.
 *
 * One test for each kind of object and each way of being in use: it says -EBUSY and works as
 * before, or waits.  The internal headers are here for one purpose: to see that a thread has
 * gone to sleep in the library, so that "it waits" can be told from "it has not begun".
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "block/internal.h"
#include "cache/internal.h"
#include "iomap/ops.h"

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

/* Until so many threads sleep in the library. */
static void wait_asleep(struct iomap_engine *engine, unsigned nr)
{
	while (atomic_load(&engine->blk->nr_waiters) < nr)
		sched_yield();
}

struct destroyer {
	struct t_task task;
	struct iomap_inode *inode;
	unsigned flags;
};

static long destroy_task(void *arg)
{
	struct destroyer *d = arg;

	return iomap_inode_destroy(d->inode, d->flags);
}

static void start_destroy(struct destroyer *d, struct ts *ts, unsigned flags)
{
	d->inode = &ts->inode;
	d->flags = flags;
	t_start(&d->task, destroy_task, d);
}

static void close_file(struct ts *ts)
{
	cr_assert_eq(iomap_file_close(ts->file), 0);
	ts->file = NULL;
}

static void open_file(struct ts *ts)
{
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &ts->file), 0);
}

/* After -EBUSY: the inode reads, writes and syncs as before. */
static void still_works(struct ts *ts, int64_t pos, size_t len, unsigned seed)
{
	open_file(ts);
	cr_assert(ts_reads(ts, pos, len, seed));
	ts_write(ts, pos + (int64_t)len, 4 * KIB, seed);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, pos, len + 4 * KIB, seed));
	cr_assert_eq(iomap_sync_engine(ts->engine), 0);
	close_file(ts);
}

/* ---- inodes ---- */

Test(lifetime, lk04_an_inode_with_an_open_file_is_busy_whatever_is_asked_for)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	ts_write(ts, 0, 8 * KIB, 1);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), -EBUSY);
	cr_assert(ts_dirty(ts, 0), "nothing was written nor dropped");
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	close_file(ts);
	still_works(ts, 0, 8 * KIB, 1);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), 0);
	ts_free(ts);
}

Test(lifetime, lk04_a_dirty_inode_is_busy_or_written_as_asked)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	uint64_t addr;

	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	still_works(ts, 0, 8 * KIB, 1);
	open_file(ts);
	ts_write(ts, 0, 8 * KIB, 2);
	close_file(ts);
	addr = ts_lookup(ts, 0).addr;
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert(ts_dev_has(ts, addr, 8 * KIB, 0, 2));
	ts_free(ts);
}

Test(lifetime, lk04_dirty_data_is_dropped_when_asked)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	ts_free(ts);
}

Test(lifetime, lk04_a_destroy_that_could_not_write_says_so_and_changes_nothing)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), -EIO);
	/* clean by now, and only in the cache: whoever wants it kept writes it again */
	open_file(ts);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 1));
	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	cr_assert_eq(iomap_sync_engine(ts->engine), -EIO, "it has a cursor of its own");
	still_works(ts, 0, 8 * KIB, 1);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
	ts_free(ts);
}

Test(lifetime, lk04_unknown_flags_change_nothing)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0x8000), -EINVAL);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT | IOMAP_DESTROY_DISCARD),
		     -EINVAL);
	open_file(ts);
	ts_close(ts);
}

/* Writeback of the first 8 KiB is in the device, and nobody has the inode open. */
static struct ts *store_under_writeback(bool threads)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .threads = threads });

	ts_write(ts, 0, 8 * KIB, 1);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	close_file(ts);
	return ts;
}

Test(lifetime, lk04_writeback_in_flight_is_waited_for)
{
	static const unsigned flags[] = { 0, IOMAP_DESTROY_WAIT, IOMAP_DESTROY_DISCARD };

	for (size_t i = 0; i < 3; i++) {
		struct ts *ts = store_under_writeback(false);
		uint64_t addr = ts_lookup(ts, 0).addr;
		struct destroyer d;

		start_destroy(&d, ts, flags[i]);
		wait_asleep(ts->engine, 1);
		cr_assert_not(d.task.done);
		cr_assert_eq(iomap_bdev_close(ts->dev->bdev), -EBUSY);
		cr_assert_eq(iomap_engine_destroy(ts->engine), -EBUSY);
		td_open_gates(ts->dev);
		cr_assert_eq(t_join(&d.task), 0);
		cr_assert(ts_dev_has(ts, addr, 8 * KIB, 0, 1));
		ts_free(ts);
	}
}

/* The first page lies elsewhere than the others, so a window is two I/Os. */
static struct ts *store_under_readahead(void)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB });

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_map(ts, 4 * KIB, 60 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 0, 4 * KIB, 0, 1);
	ts_dev_fill(ts, 64 * KIB, 60 * KIB, 4 * KIB, 1);
	return ts;
}

static long read_first_page(void *arg)
{
	return ts_reads(arg, 0, 4 * KIB, 1);
}

Test(lifetime, lk04_readahead_in_flight_is_waited_for)
{
	static const unsigned flags[] = { 0, IOMAP_DESTROY_WAIT, IOMAP_DESTROY_DISCARD };

	for (size_t i = 0; i < 3; i++) {
		struct ts *ts = store_under_readahead();
		struct t_task reader;
		struct destroyer d;

		td_hold(ts->dev, TD_READ);
		t_start(&reader, read_first_page, ts);
		td_wait_held(ts->dev, 2);
		cr_assert_eq(td_release(ts->dev, 1), 1U);
		cr_assert(t_join(&reader));
		/* the reads that its opener has begun do not keep the file */
		close_file(ts);
		start_destroy(&d, ts, flags[i]);
		wait_asleep(ts->engine, 1);
		cr_assert_not(d.task.done);
		td_open_gates(ts->dev);
		cr_assert_eq(t_join(&d.task), 0);
		ts_free(ts);
	}
}

Test(lifetime, lk04_a_referenced_folio_keeps_its_inode)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_folio *folio;
	char buf[4 * KIB];

	ts_write(ts, 0, 8 * KIB, 1);
	folio = ts_folio(ts, 0);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), -EBUSY);
	cr_assert(ts_dirty(ts, 0) && ts_dirty(ts, 4 * KIB), "nothing was dropped");
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), -EBUSY);
	iomap_folio_read(folio, 0, buf, sizeof(buf));
	cr_assert_eq(t_mismatch(buf, sizeof(buf), 0, 1), -1);
	/* the folio cannot be dropped, so it is not read again */
	open_file(ts);
	ts_write(ts, 0, 12 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_reads(ts, 0, 12 * KIB, 2));
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	iomap_folio_put(folio);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), 0);
	ts_free(ts);
}

static ssize_t hold_all(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			uint64_t pos, unsigned len, uint64_t end_pos)
{
	if (!atomic_load((atomic_bool *)ts->hook.arg))
		return IOMAP_WB_DEFER;
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

Test(lifetime, lk04_data_that_is_held_back_is_busy_or_waited_for)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .threads = true });
	atomic_bool resumed = false;
	struct destroyer d;
	uint64_t addr;

	ts->hook.range = hold_all;
	ts->hook.arg = &resumed;
	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	start_destroy(&d, ts, IOMAP_DESTROY_WAIT);
	ts_wait_calls(ts, TS_RANGE, 1);
	wait_asleep(ts->engine, 1);
	cr_assert_not(d.task.done);
	addr = ts_lookup(ts, 0).addr;
	atomic_store(&resumed, true);
	iomap_writeback_resume(&ts->inode);
	cr_assert_eq(t_join(&d.task), 0);
	cr_assert(ts_dev_has(ts, addr, 8 * KIB, 0, 1));
	ts_free(ts);
}

Test(lifetime, lk04_data_that_is_held_back_without_threads_cannot_be_waited_for)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	atomic_bool resumed = false;

	ts->hook.range = hold_all;
	ts->hook.arg = &resumed;
	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), -EAGAIN);
	atomic_store(&resumed, true);
	still_works(ts, 0, 8 * KIB, 1);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), 0);
	ts_free(ts);
}

/* ---- callbacks that are running ---- */

struct stop {
	struct t_gate gate;
	bool entered, go;
};

static void stop_init(struct stop *stop)
{
	memset(stop, 0, sizeof(*stop));
	t_gate_init(&stop->gate);
}

static void stop_here(struct stop *stop)
{
	t_lock(&stop->gate);
	stop->entered = true;
	t_wake(&stop->gate);
	while (!stop->go)
		t_wait(&stop->gate);
	t_unlock(&stop->gate);
}

static void stop_wait(struct stop *stop)
{
	t_lock(&stop->gate);
	while (!stop->entered)
		t_wait(&stop->gate);
	t_unlock(&stop->gate);
}

static void stop_go(struct stop *stop)
{
	t_lock(&stop->gate);
	stop->go = true;
	t_wake(&stop->gate);
	t_unlock(&stop->gate);
}

static int stop_in_commit(struct ts *ts, int datasync)
{
	(void)datasync;
	stop_here(ts->hook.arg);
	return 0;
}

static long sync_engine_task(void *arg)
{
	return iomap_sync_engine(arg);
}

Test(lifetime, lk04_a_running_callback_is_waited_for_and_none_comes_after)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct t_task sync;
	struct destroyer d;
	struct stop stop;

	stop_init(&stop);
	ts->hook.commit = stop_in_commit;
	ts->hook.arg = &stop;
	ts_write(ts, 0, 8 * KIB, 1);
	close_file(ts);
	t_start(&sync, sync_engine_task, ts->engine);
	stop_wait(&stop);
	start_destroy(&d, ts, 0);
	wait_asleep(ts->engine, 1);
	cr_assert_not(d.task.done);
	stop_go(&stop);
	cr_assert_eq(t_join(&d.task), 0);
	cr_assert_eq(t_join(&sync), 0);
	ts_reset(ts);
	cr_assert_eq(iomap_sync_engine(ts->engine), 0);
	for (int cb = 0; cb < TS_CB_NR; cb++)
		cr_assert_eq(ts_calls(ts, cb), 0U);
	t_gate_exit(&stop.gate);
	ts_free(ts);
}

/*
 * The destroy has looked at the inode and is about to find out that it has to stay; nobody
 * may take it for gone meanwhile.
 */
Test(lifetime, lk04_sync_engine_does_not_pass_by_an_inode_whose_destroy_fails)
{
	struct ts *ts = store_under_writeback(false);
	struct iomap_folio *folio;
	struct t_task sync;
	struct destroyer d;
	uint64_t addr;

	open_file(ts);
	ts_write(ts, 16 * KIB, 4 * KIB, 1);
	addr = ts_lookup(ts, 16 * KIB).addr;
	folio = ts_folio(ts, 16 * KIB);
	close_file(ts);
	/* sleeps on the writeback; then it will find the reference */
	start_destroy(&d, ts, IOMAP_DESTROY_DISCARD);
	wait_asleep(ts->engine, 1);
	td_hold(ts->dev, TD_WRITE | TD_FLUSH);
	t_start(&sync, sync_engine_task, ts->engine);
	/* it waits for the answer; else it would come to the device by itself */
	while (atomic_load(&ts->engine->blk->nr_waiters) < 2 && !td_count(ts->dev, TD_FLUSH))
		sched_yield();
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&d.task), -EBUSY);
	cr_assert_eq(t_join(&sync), 0);
	cr_assert_not(ts_dirty(ts, 16 * KIB));
	cr_assert(ts_dev_has(ts, addr, 4 * KIB, 16 * KIB, 1));
	iomap_folio_put(folio);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), 0);
	ts_free(ts);
}

/* The walk waits, and the inode goes: it must not be waited for for ever, nor touched. */
Test(lifetime, lk04_sync_engine_goes_on_when_the_inode_it_waits_for_goes)
{
	struct ts *ts = store_under_writeback(false);
	struct ts *other = ts_open(&(struct ts_config){
		.alloc = TS_NEW, .engine = ts->engine, .dev = ts->dev });
	struct t_task sync;
	struct destroyer d;
	uint64_t addr;

	other->next_addr = 8 * MIB;
	ts_write(other, 0, 4 * KIB, 3);
	addr = ts_lookup(other, 0).addr;
	start_destroy(&d, ts, 0);
	wait_asleep(ts->engine, 1);
	t_start(&sync, sync_engine_task, ts->engine);
	wait_asleep(ts->engine, 2);
	cr_assert_not(sync.done);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&d.task), 0);
	cr_assert_eq(t_join(&sync), 0);
	cr_assert(ts_dev_has(other, addr, 4 * KIB, 0, 3));
	ts_close(other);
	ts_free(ts);
}

/* ---- all at once ---- */

#define CROWD 3

struct crowd {
	struct ts *host;
	atomic_bool stop;
	uint64_t seed;
	unsigned nr;
};

/* Make an inode, write, perhaps sync, and destroy it in one of the three ways. */
static long live_and_die(void *arg)
{
	struct crowd *crowd = arg;
	struct t_rand r = { crowd->seed + crowd->nr };
	char buf[4 * KIB];

	for (unsigned i = 0; i < (T_SANITIZED ? 60 : 400); i++) {
		struct ts *ts = ts_open(&(struct ts_config){
			.alloc = TS_NEW, .engine = crowd->host->engine, .dev = crowd->host->dev });
		size_t pages = 1 + t_below(&r, 8);
		unsigned how = (unsigned)t_below(&r, 3), seed = (unsigned)t_below(&r, 1000);
		uint64_t addr;

		ts->next_addr = (4 + crowd->nr * 2) * MIB;
		for (size_t page = 0; page < pages; page++) {
			t_fill(buf, sizeof(buf), (int64_t)(page * sizeof(buf)), seed);
			t_must(iomap_write(ts->file, buf, sizeof(buf),
					   (int64_t)(page * sizeof(buf))) == sizeof(buf));
		}
		if (t_below(&r, 2))
			t_must(ts_fsync(ts) == 0);
		addr = ts_lookup(ts, 0).addr;
		t_must(iomap_file_close(ts->file) == 0);
		if (how == 0) {
			int err = iomap_inode_destroy(&ts->inode, 0);

			t_must(err == 0 || err == -EBUSY);
			if (err)
				t_must(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT) == 0);
		} else {
			t_must(iomap_inode_destroy(&ts->inode, how == 1 ? IOMAP_DESTROY_WAIT :
								  IOMAP_DESTROY_DISCARD) == 0);
		}
		if (how < 2)
			t_must(ts_dev_has(ts, addr, sizeof(buf), 0, seed));
		ts_free(ts);
	}
	return 0;
}

static long sync_all_the_time(void *arg)
{
	struct crowd *crowd = arg;

	while (!atomic_load(&crowd->stop))
		t_must(iomap_sync_engine(crowd->host->engine) == 0);
	return 0;
}

Test(lifetime, lk04_inodes_go_while_flusher_fsync_and_sync_engine_are_at_work, .timeout = 250)
{
	struct iomap_engine_opts opts;
	struct crowd crowd[CROWD + 1];
	struct t_task task[CROWD + 1];
	uint64_t seed = t_seed();
	struct ts *host;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	opts.dirty_background_pct = 2; /* a few pages: the flusher is at it all the time */
	host = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	td_async(host->dev);
	for (unsigned i = 0; i <= CROWD; i++) {
		crowd[i] = (struct crowd){ .host = host, .seed = seed, .nr = i };
		t_start(&task[i], i < CROWD ? live_and_die : sync_all_the_time, &crowd[i]);
	}
	for (unsigned i = 0; i < CROWD; i++)
		t_join(&task[i]);
	atomic_store(&crowd[CROWD].stop, true);
	t_join(&task[CROWD]);
	cr_assert_eq(t_stats(host->engine).cached_bytes, 0U);
	cr_assert_eq(t_stats(host->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(host->engine).writeback_bytes, 0U);
	ts_close(host);
}

/* ---- devices ---- */

Test(lifetime, lk04_a_device_that_an_inode_names_is_busy)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(iomap_bdev_close(ts->dev->bdev), -EBUSY);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_close(ts);
}

static void note_end(struct iomap_bio *bio)
{
	atomic_store((atomic_bool *)bio->bi_private, true);
}

Test(lifetime, lk04_a_device_with_io_in_flight_is_busy)
{
	static const struct {
		unsigned td, op;
	} kind[] = { { TD_READ, IOMAP_REQ_OP_READ },
		     { TD_WRITE, IOMAP_REQ_OP_WRITE },
		     { TD_FLUSH, IOMAP_REQ_OP_FLUSH } };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct t_log log;
	char *mem = aligned_alloc(4 * KIB, 4 * KIB);

	t_must(mem != NULL);
	memset(mem, 1, 4 * KIB);
	t_log_init(&log);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	engine = t_engine(&opts, &log);
	for (size_t i = 0; i < 3; i++) {
		struct td *td = td_new(engine, 1 * MIB, NULL);
		atomic_bool ended = false;
		struct iomap_bio *bio;

		td_hold(td, TD_ALL);
		bio = iomap_bio_alloc(td->bdev, 1, kind[i].op, NULL);
		t_must(bio != NULL);
		bio->bi_end_io = note_end;
		bio->bi_private = &ended;
		if (kind[i].td != TD_FLUSH)
			t_must(iomap_bio_add(bio, mem, 4 * KIB));
		iomap_submit_bio(bio);
		cr_assert_eq(iomap_bdev_close(td->bdev), -EBUSY);
		cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
		cr_assert_not(atomic_load(&ended));
		td_open_gates(td);
		cr_assert(atomic_load(&ended));
		cr_assert_eq(bio->bi_status, 0);
		iomap_bio_put(bio);
		cr_assert_eq(iomap_bdev_flush(td->bdev), 0);
		td_free(td);
	}
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(mem);
}

Test(lifetime, lk04_a_device_below_another_one_is_busy)
{
	struct iomap_bdev *memory = NULL, *faulty = NULL, *log = NULL;
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	engine = t_engine(&opts, NULL);
	cr_assert_eq(iomap_bdev_open_memory(engine, 1 * MIB, &memory), 0);
	cr_assert_eq(iomap_faulty_create(memory, NULL, &faulty), 0);
	cr_assert_eq(iomap_writelog_create(faulty, NULL, &log), 0);
	cr_assert_eq(iomap_bdev_close(memory), -EBUSY);
	cr_assert_eq(iomap_bdev_close(faulty), -EBUSY);
	cr_assert_eq(iomap_bdev_flush(log), 0);
	cr_assert_eq(iomap_bdev_close(log), 0);
	cr_assert_eq(iomap_bdev_close(memory), -EBUSY);
	cr_assert_eq(iomap_bdev_close(faulty), 0);
	cr_assert_eq(iomap_bdev_close(memory), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

/* ---- engines ---- */

static const struct iomap_address_space_operations no_aops = { .read_folio = NULL };

Test(lifetime, lk04_an_engine_is_busy_as_long_as_anything_of_it_is_left)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &no_aops };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	engine = t_engine(&opts, NULL);
	cr_assert_eq(iomap_bdev_open_memory(engine, 1 * MIB, &bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
	cr_assert_eq(iomap_inode_init(engine, &inode, &args), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
	cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

/* ---- what was destroyed, in debug builds ---- */

Test(lifetime, lk04_freed_memory_is_poisoned)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_folio *folio;
	const char *mem, *inode = (const char *)&ts->inode;

	if (!t_debug())
		cr_skip_test("done in debug builds");
	ts_write(ts, 0, 4 * KIB, 1);
	folio = ts_folio(ts, 0);
	mem = iomap_folio_address(folio);
	iomap_folio_put(folio);
	close_file(ts);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert(t_all(mem, 4 * KIB, IOMAP__POISON));
	cr_assert_null(ts->inode.i_engine);
	cr_assert(t_all(inode + sizeof(void *), sizeof(struct iomap_inode) - sizeof(void *),
			IOMAP__POISON));
	ts_free(ts);
}

/* All that a death needs; nothing is cleaned up. */
struct victim {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
};

static int zeros(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	iomap_folio_zero(folio, 0, iomap_folio_size(folio));
	iomap_folio_mark_uptodate(folio);
	iomap_folio_unlock(folio);
	return 0;
}

static const struct iomap_address_space_operations zero_aops = { .read_folio = zeros };

static struct victim *victim(void)
{
	static struct victim v;
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &zero_aops,
					 .i_size = 64 * KIB };
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_must(iomap_engine_create(&opts, &v.engine) == 0);
	t_must(iomap_bdev_open_memory(v.engine, 1 * MIB, &v.bdev) == 0);
	t_must(iomap_inode_init(v.engine, &v.inode, &args) == 0);
	t_must(iomap_file_open(&v.inode, 0, &v.file) == 0);
	return &v;
}

static void orderly(void *arg)
{
	struct victim *v = victim();
	char byte;

	(void)arg;
	t_must(iomap_read(v->file, &byte, 1, 0) == 1);
	t_must(iomap_file_close(v->file) == 0);
	t_must(iomap_inode_destroy(&v->inode, 0) == 0);
	t_must(iomap_bdev_close(v->bdev) == 0);
	t_must(iomap_engine_destroy(v->engine) == 0);
}

static struct iomap_file *closed_file(void)
{
	struct victim *v = victim();

	t_must(iomap_file_close(v->file) == 0);
	return v->file;
}

static void close_twice(void *arg)
{
	(void)arg;
	(void)iomap_file_close(closed_file());
}

static void read_closed(void *arg)
{
	char byte;

	(void)arg;
	(void)iomap_read(closed_file(), &byte, 1, 0);
}

static void write_closed(void *arg)
{
	(void)arg;
	(void)iomap_write(closed_file(), "", 1, 0);
}

static void fsync_closed(void *arg)
{
	(void)arg;
	t_must(iomap_file_fsync(closed_file(), 0) != 1);
}

static void sync_range_closed(void *arg)
{
	(void)arg;
	t_must(iomap_sync_range(closed_file(), 0, 1, 0) != 1);
}

static void truncate_closed(void *arg)
{
	(void)arg;
	t_must(iomap_truncate(closed_file(), 0) != 1);
}

static void kiocb_closed(void *arg)
{
	struct iomap_kiocb iocb;

	(void)arg;
	iomap_kiocb_init(&iocb, closed_file(), 0);
}

static void look_at_closed(void *arg)
{
	(void)arg;
	(void)iomap_file_inode(closed_file());
}

static void destroy_inode_twice(void *arg)
{
	struct victim *v = victim();

	(void)arg;
	t_must(iomap_file_close(v->file) == 0);
	t_must(iomap_inode_destroy(&v->inode, 0) == 0);
	t_must(iomap_inode_destroy(&v->inode, 0) != 1);
}

static void open_destroyed(void *arg)
{
	struct victim *v = victim();

	(void)arg;
	t_must(iomap_file_close(v->file) == 0);
	t_must(iomap_inode_destroy(&v->inode, 0) == 0);
	t_must(iomap_file_open(&v->inode, 0, &v->file) != 1);
}

static struct iomap_bdev *closed_bdev(void)
{
	struct victim *v = victim();

	t_must(iomap_bdev_close(v->bdev) == 0);
	return v->bdev;
}

static void close_bdev_twice(void *arg)
{
	(void)arg;
	t_must(iomap_bdev_close(closed_bdev()) != 1);
}

static void flush_closed_bdev(void *arg)
{
	(void)arg;
	t_must(iomap_bdev_flush(closed_bdev()) != 1);
}

static void bio_of_closed_bdev(void *arg)
{
	(void)arg;
	t_must(iomap_bio_alloc(closed_bdev(), 1, 0, NULL) != (void *)1);
}

static void submit_to_closed_bdev(void *arg)
{
	struct victim *v = victim();
	struct iomap_bio *bio = iomap_bio_alloc(v->bdev, 0, IOMAP_REQ_OP_FLUSH, NULL);

	(void)arg;
	t_must(bio && iomap_bdev_close(v->bdev) == 0);
	t_must(iomap_submit_bio_wait(bio) != 1);
}

static void destroy_engine_twice(void *arg)
{
	struct victim *v = victim();

	(void)arg;
	t_must(iomap_file_close(v->file) == 0);
	t_must(iomap_inode_destroy(&v->inode, 0) == 0);
	t_must(iomap_bdev_close(v->bdev) == 0);
	t_must(iomap_engine_destroy(v->engine) == 0);
	t_must(iomap_engine_destroy(v->engine) != 1);
}

/* Memory of the cache is written to when nobody has it, and given out again. */
static void write_to_freed_folio(void *arg)
{
	struct victim *v = victim();
	struct iomap_folio *folio;
	char *mem, byte;

	(void)arg;
	t_must(iomap_read(v->file, &byte, 1, 0) == 1);
	folio = iomap_filemap_get_folio(&v->inode.i_data, 0);
	mem = iomap_folio_address(folio);
	iomap_folio_put(folio);
	t_must(iomap_invalidate_inode_pages(&v->inode, 0, INT64_MAX) == 4 * KIB);
	mem[1000] = 0;
	for (int64_t pos = 0; pos < 64 * KIB; pos += 4 * KIB)
		t_must(iomap_read(v->file, &byte, 1, pos) == 1);
}

static void put_folio_twice(void *arg)
{
	struct victim *v = victim();
	struct iomap_folio *folio;
	char byte;

	(void)arg;
	t_must(iomap_read(v->file, &byte, 1, 0) == 1);
	folio = iomap_filemap_get_folio(&v->inode.i_data, 0);
	iomap_folio_put(folio);
	t_must(iomap_invalidate_inode_pages(&v->inode, 0, INT64_MAX) == 4 * KIB);
	iomap_folio_put(folio);
}

Test(lifetime, lk04_use_after_the_end_is_logged_and_aborts_in_debug_builds)
{
	static const struct {
		void (*fn)(void *arg);
		const char *says;
	} death[] = {
		{ close_twice, "closed twice" },
		{ read_closed, "used after it was closed" },
		{ write_closed, "used after it was closed" },
		{ fsync_closed, "used after it was closed" },
		{ sync_range_closed, "used after it was closed" },
		{ truncate_closed, "used after it was closed" },
		{ kiocb_closed, "used after it was closed" },
		{ look_at_closed, "used after it was closed" },
		{ destroy_inode_twice, "destroyed twice" },
		{ open_destroyed, "used after it was destroyed" },
		{ close_bdev_twice, "closed twice" },
		{ flush_closed_bdev, "used after it was closed" },
		{ bio_of_closed_bdev, "used after it was closed" },
		{ submit_to_closed_bdev, "used after it was closed" },
		{ destroy_engine_twice, "destroyed twice" },
		{ write_to_freed_folio, "written to after it was freed" },
		{ put_folio_twice, "without a reference" },
	};
	char err[4096];

	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(orderly, NULL, err, sizeof(err)), 0, "%s", err);
	for (size_t i = 0; i < iomap__array_len(death); i++) {
		int sig = t_death(death[i].fn, NULL, err, sizeof(err));

		cr_assert_eq(sig, SIGABRT, "%zu: signal %d\n%s", i, sig, err);
		cr_assert(strstr(err, death[i].says), "%zu: %s", i, err);
	}
}

/* ---- bio sets ---- */

Test(lifetime, do03_an_engine_with_a_bio_set_is_busy)
{
	struct iomap_bio_set set, second;
	struct iomap_engine *engine;

	cr_assert_eq(iomap_engine_create(NULL, &engine), 0);
	cr_assert_eq(iomap_bio_set_init(&set, engine, 64, 4), 0);
	cr_assert_eq(iomap_bio_set_init(&second, engine, 0, 0), 0);
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
	iomap_bio_set_exit(&set);
	iomap_bio_set_exit(&set); /* once is enough */
	cr_assert_eq(iomap_engine_destroy(engine), -EBUSY, "there is another one");
	iomap_bio_set_exit(&second);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}
