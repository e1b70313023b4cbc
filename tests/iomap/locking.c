/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * locking.c - LK: which lock is held when, and in which order.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "testpiece.h"
#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(void)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .with_write_ops = true });

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	return ts;
}

/* ---- LK01 ---- */

static long try_shared(void *arg)
{
	struct ts *ts = arg;

	if (!iomap_inode_trylock_shared(&ts->inode))
		return false;
	iomap_inode_unlock_shared(&ts->inode);
	return true;
}

static bool can_share(struct ts *ts)
{
	struct t_task task;

	t_start(&task, try_shared, ts);
	return t_join(&task);
}

static bool shared_at_begin;
static int look_at_lock(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos;
	(void)length;
	(void)flags;
	(void)iomap;
	(void)srcmap;
	shared_at_begin = can_share(ts);
	return 0;
}

Test(locking, lk01_write_takes_i_rwsem_exclusively_and_read_does_not)
{
	struct ts *ts = mapped_store();

	ts->hook.begin = look_at_lock;
	ts_write(ts, 100, 100, 2);
	cr_assert_not(shared_at_begin);
	cr_assert(can_share(ts), "and gives it back");
	ts_drop(ts);
	cr_assert(ts_reads(ts, 32 * KIB, 4 * KIB, 1));
	cr_assert(shared_at_begin);
	ts_close(ts);
}

Test(locking, lk01_i_rwsem_is_shared_or_exclusive)
{
	struct ts *ts = mapped_store();

	iomap_inode_lock_shared(&ts->inode);
	cr_assert(can_share(ts), "readers share");
	cr_assert_not(iomap_inode_trylock(&ts->inode));
	iomap_inode_unlock_shared(&ts->inode);
	iomap_inode_lock(&ts->inode);
	cr_assert_not(can_share(ts));
	iomap_inode_unlock(&ts->inode);
	cr_assert(can_share(ts));
	ts_close(ts);
}

struct holder {
	struct ts *ts;
	struct t_gate gate;
	bool locked, leave;
};

static long hold_both(void *arg)
{
	struct holder *h = arg;

	iomap_inode_lock(&h->ts->inode);
	iomap_filemap_invalidate_lock(&h->ts->inode.i_data);
	t_lock(&h->gate);
	h->locked = true;
	t_wake(&h->gate);
	while (!h->leave)
		t_wait(&h->gate);
	t_unlock(&h->gate);
	iomap_filemap_invalidate_unlock(&h->ts->inode.i_data);
	iomap_inode_unlock(&h->ts->inode);
	return 0;
}

Test(locking, lk01_hits_take_neither_lock)
{
	struct ts *ts = mapped_store();
	struct holder h = { .ts = ts };
	struct t_task task;

	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	t_gate_init(&h.gate);
	t_start(&task, hold_both, &h);
	t_lock(&h.gate);
	while (!h.locked)
		t_wait(&h.gate);
	t_unlock(&h.gate);
	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	t_lock(&h.gate);
	h.leave = true;
	t_wake(&h.gate);
	t_unlock(&h.gate);
	t_join(&task);
	t_gate_exit(&h.gate);
	ts_close(ts);
}

struct waiter {
	struct ts *ts;
	struct t_gate gate;
	unsigned order, writer_at, reader_at;
	bool started;
};

static long wait_to_write(void *arg)
{
	struct waiter *w = arg;

	t_lock(&w->gate);
	w->started = true;
	t_wake(&w->gate);
	t_unlock(&w->gate);
	iomap_inode_lock(&w->ts->inode);
	w->writer_at = ++w->order;
	iomap_inode_unlock(&w->ts->inode);
	return 0;
}

Test(locking, lk01_writers_exclude_each_other)
{
	struct ts *ts = mapped_store();
	struct waiter w = { .ts = ts };
	struct t_task task;

	t_gate_init(&w.gate);
	iomap_inode_lock(&ts->inode);
	t_start(&task, wait_to_write, &w);
	t_lock(&w.gate);
	while (!w.started)
		t_wait(&w.gate);
	t_unlock(&w.gate);
	w.reader_at = ++w.order; /* a race, and a report of TSan, if both were inside */
	iomap_inode_unlock(&ts->inode);
	t_join(&task);
	cr_assert_eq(w.reader_at, 1U);
	cr_assert_eq(w.writer_at, 2U);
	t_gate_exit(&w.gate);
	ts_close(ts);
}

/* ---- LK02 ---- */

static void wrong_inode_locks(void *arg)
{
	struct ts *ts = mapped_store();

	(void)arg;
	/* the right way first, so that there is a chain to show */
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_inode_lock(&ts->inode);
}

static void wrong_folio_order(void *arg)
{
	struct ts *ts = mapped_store();
	struct iomap_folio *first, *second;

	(void)arg;
	t_must(ts_reads(ts, 0, 8 * KIB, 1));
	first = ts_folio(ts, 0);
	second = ts_folio(ts, 4 * KIB);
	iomap_folio_lock(second);
	iomap_folio_lock(first);
}

static void wrong_folio_then_inode(void *arg)
{
	struct ts *ts = mapped_store();
	struct iomap_folio *folio;

	(void)arg;
	t_must(ts_reads(ts, 0, 8 * KIB, 1));
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	iomap_inode_lock_shared(&ts->inode);
}

static void wrong_twice(void *arg)
{
	struct ts *ts = mapped_store();

	(void)arg;
	iomap_inode_lock(&ts->inode);
	iomap_inode_lock(&ts->inode);
}

static void wrong_class(void *arg)
{
	struct ts *data = mapped_store();
	struct ts *meta = ts_open(&(struct ts_config){
		.i_size = 64 * KIB, .engine = data->engine, .dev = data->dev, .lock_class = 1 });

	(void)arg;
	iomap_inode_lock(&meta->inode);
	iomap_inode_lock(&data->inode);
}

static void wrong_not_held(void *arg)
{
	struct ts *ts = mapped_store();

	(void)arg;
	iomap_inode_unlock(&ts->inode);
}

static void right_order(void *arg)
{
	struct ts *data = mapped_store();
	struct ts *meta = ts_open(&(struct ts_config){
		.i_size = 64 * KIB, .engine = data->engine, .dev = data->dev, .lock_class = 1 });
	struct iomap_folio *first, *second;

	(void)arg;
	t_must(ts_reads(data, 0, 8 * KIB, 1));
	first = ts_folio(data, 0);
	second = ts_folio(data, 4 * KIB);
	iomap_inode_lock(&data->inode);
	iomap_filemap_invalidate_lock(&data->inode.i_data);
	iomap_folio_lock(first);
	iomap_folio_lock(second);
	iomap_inode_lock(&meta->inode);
	iomap_inode_unlock(&meta->inode);
	iomap_folio_unlock(first);
	iomap_folio_unlock(second);
	iomap_filemap_invalidate_unlock(&data->inode.i_data);
	iomap_inode_unlock(&data->inode);
	iomap_folio_put(first);
	iomap_folio_put(second);
}

static void expect_abort(void (*fn)(void *arg), const char *name)
{
	char err[4096];
	int sig = t_death(fn, NULL, err, sizeof(err));

	cr_assert_eq(sig, SIGABRT, "%s: signal %d\n%s", name, sig, err);
	cr_assert_neq(err[0], '\0', "%s: it says nothing", name);
}

Test(locking, lk02_both_chains_are_printed)
{
	char err[4096];

	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(wrong_inode_locks, NULL, err, sizeof(err)), SIGABRT);
	cr_assert(strstr(err, "chain held now"), "%s", err);
	cr_assert(strstr(err, "taken in the right order before"), "%s", err);
}

Test(locking, lk02_a_wrong_lock_order_aborts_in_debug_builds)
{
	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(right_order, NULL, NULL, 0), 0);
	expect_abort(wrong_inode_locks, "invalidate_lock, i_rwsem");
	expect_abort(wrong_folio_order, "folios by falling index");
	expect_abort(wrong_folio_then_inode, "folio, i_rwsem");
	expect_abort(wrong_twice, "i_rwsem twice");
	expect_abort(wrong_class, "metadata, data");
	expect_abort(wrong_not_held, "release of what is not held");
}

/* ---- LK03 ---- */

static bool folio_is_free(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio =
		iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
	bool was_free;

	if (!folio)
		return true;
	was_free = iomap_folio_trylock(folio);
	if (was_free)
		iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	return was_free;
}

static unsigned looked;
static int all_free_at_begin(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			     struct iomap *iomap, struct iomap *srcmap)
{
	(void)iomap;
	(void)srcmap;
	if (!(flags & (IOMAP_WRITE | IOMAP_ZERO)))
		return 0;
	for (int64_t at = 0; at < pos + length + 8 * KIB; at += 4 * KIB)
		t_must(folio_is_free(ts, at));
	looked++;
	return 0;
}

static int all_free_at_end(struct ts *ts, int64_t pos, int64_t length, ssize_t written,
			   unsigned flags, struct iomap *iomap)
{
	(void)written;
	return all_free_at_begin(ts, pos, length, flags, iomap, NULL);
}

Test(locking, lk03_no_folio_is_locked_in_begin_and_end_of_writes_and_zeroing)
{
	struct ts *ts = ts_open(
		&(struct ts_config){ .alloc = TS_NEW, .blkbits = 9, .with_write_ops = true });

	ts->map_max_bytes = 6 * KIB; /* mappings end in the middle of folios */
	ts->hook.begin = all_free_at_begin;
	ts->hook.end = all_free_at_end;
	looked = 0;
	ts_write(ts, 0, 30 * KIB, 1);
	ts_write(ts, 1000, 20 * KIB, 2);
	ts_write(ts, 60 * KIB, 100, 2); /* with a gap to zero */
	ts_fail(ts, TS_VALID, 1, 1, 2);
	ts_write(ts, 3000, 5000, 3);
	cr_assert_geq(looked, 20U);
	ts_close(ts);
}

static unsigned locked_at_begin;
static int locked_while_reading(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
				struct iomap *iomap, struct iomap *srcmap)
{
	(void)length;
	(void)flags;
	(void)iomap;
	(void)srcmap;
	locked_at_begin += !folio_is_free(ts, pos);
	return 0;
}

Test(locking, lk03_reads_and_writeback_call_with_their_folios_locked)
{
	struct ts *ts = mapped_store();
	uint64_t begins;

	ts->hook.begin = locked_while_reading;
	locked_at_begin = 0;
	ts->map_max_bytes = 4 * KIB;
	ts->a_ops.readahead = NULL;
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	begins = ts_calls(ts, TS_BEGIN);
	cr_assert_eq(begins, 4U);
	cr_assert_eq(locked_at_begin, 4U);
	ts_close(ts);
}

static int nothing_held(struct ts *ts, int datasync)
{
	(void)datasync;
	t_must(can_share(ts));
	t_must(iomap_inode_trylock(&ts->inode));
	iomap_inode_unlock(&ts->inode);
	for (int64_t at = 0; at < 64 * KIB; at += 4 * KIB)
		t_must(folio_is_free(ts, at));
	return 0;
}

Test(locking, lk03_the_commit_is_called_with_nothing_held)
{
	struct ts *ts = mapped_store();
	struct iomap_file *synced = NULL;
	char buf[100] = "x";

	ts->hook.commit = nothing_held;
	ts_write(ts, 1000, 30 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DSYNC, &synced), 0);
	cr_assert_eq(iomap_write(synced, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 2U);
	cr_assert_eq(iomap_file_close(synced), 0);
	ts_close(ts);
}

/* ---- a lock that the waiter's own thread gives back ---- */

#define FILE_BYTES (64U * KIB)

/*
 * The read waits for the lock of a folio that readahead has handed to a completion, reaps that
 * itself, finds that it has failed, and reads the folio once more, which hands the lock over.
 */
Test(locking, lk02_a_waiter_completes_the_failed_read_that_it_waits_for)
{
	struct iomap_fault fault = { .size = sizeof(fault),
				     .kind = IOMAP_FAULT_CORRUPT,
				     .ops = IOMAP_FAULT_ON_READ,
				     .nth = 1,
				     .error = -EIO };
	struct tp whole = { .length = FILE_BYTES };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_private = &whole, .i_size = FILE_BYTES
	};
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_inode inode;
	struct iomap_bdev *lower;
	struct iomap_file *file;
	struct t_log log;
	char *path = t_temp(FILE_BYTES), byte = 1;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	engine = t_engine(&opts, &log);
	cr_assert_eq(iomap_bdev_open(engine, path, &bdev_opts, &lower), 0);
	cr_assert_eq(iomap_faulty_create(lower, NULL, &args.bdev), 0);
	cr_assert_eq(iomap_faulty_add(args.bdev, &fault, NULL), 0);
	cr_assert_eq(iomap_inode_init(engine, &inode, &args), 0);
	cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);
	cr_assert_eq(iomap_read(file, &byte, 1, 0), 1);
	cr_assert_eq(byte, 0);
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_ERROR, "read of bytes"), 1U);
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(args.bdev), 0);
	cr_assert_eq(iomap_bdev_close(lower), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	t_temp_free(path);
}
