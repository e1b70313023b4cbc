/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * truncate.c - TR: moving the end of a file.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *store(const struct ts_config *cfg, bool own_setsize)
{
	struct ts *ts = malloc(sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, cfg);
	ts->hook.open = ts_allow_direct;
	if (own_setsize)
		ts->i_op.setsize = ts_setsize;
	ts_begin(ts);
	ts_poison(ts);
	return ts;
}

/* 64 KiB of pattern 1 at 64 KiB of a device that is full of rubbish. */
static struct ts *mapped(uint32_t blkbits, bool own_setsize)
{
	struct ts *ts = store(&(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits },
			      own_setsize);

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	return ts;
}

static int truncate_page(struct ts *ts, int64_t pos, bool *did_zero)
{
	int err;

	iomap_inode_lock(&ts->inode);
	err = iomap_truncate_page(&ts->inode, pos, did_zero, &ts->ops, ts->i_op.write_ops, ts);
	iomap_inode_unlock(&ts->inode);
	return err;
}

static void truncate_setsize(struct ts *ts, int64_t size)
{
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_truncate_setsize(&ts->inode, size);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
}

/* ---- TR01 ---- */

Test(truncate, tr01_the_rest_of_the_block_becomes_zero)
{
	static const struct {
		uint32_t blkbits;
		size_t end;
	} t[] = { { 12, 4096 }, { 10, 2048 }, { 9, 1536 } };

	for (size_t i = 0; i < 3; i++) {
		struct ts *ts = mapped(t[i].blkbits, false);
		bool did_zero = false;

		cr_assert_eq(truncate_page(ts, 1100, &did_zero), 0);
		cr_assert(did_zero);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).flags, (unsigned)IOMAP_ZERO);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).pos, 1100);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).length, t[i].end - 1100);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
		cr_assert(ts_dirty(ts, 0));
		cr_assert(ts_reads(ts, 0, 1100, 1));
		cr_assert(ts_reads_all(ts, 1100, t[i].end - 1100, 0));
		cr_assert(ts_reads(ts, (int64_t)t[i].end, 8 * KIB, 1));
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert(ts_dev_has(ts, 64 * KIB, 1100, 0, 1));
		cr_assert(ts_dev_all(ts, 64 * KIB + 1100, t[i].end - 1100, 0));
		cr_assert(ts_dev_has(ts, 64 * KIB + t[i].end, 8 * KIB, (int64_t)t[i].end, 1));
		ts_close(ts);
	}
}

Test(truncate, tr01_where_there_is_nothing_to_zero_nothing_is_done)
{
	struct ts *ts = mapped(12, false);
	bool did_zero = false;

	cr_assert_eq(truncate_page(ts, 8 * KIB, &did_zero), 0);
	cr_assert_eq(truncate_page(ts, 0, &did_zero), 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	ts_punch(ts, 8 * KIB, 4 * KIB);
	cr_assert_eq(truncate_page(ts, 9 * KIB, &did_zero), 0);
	ts_map(ts, 8 * KIB, 4 * KIB, IOMAP_UNWRITTEN, 0, 256 * KIB);
	cr_assert_eq(truncate_page(ts, 9 * KIB, NULL), 0);
	cr_assert_eq(truncate_page(ts, 9 * KIB, &did_zero), 0);
	cr_assert_not(did_zero);
	cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data, 2));
	cr_assert_eq(truncate_page(ts, -1, &did_zero), -EINVAL);
	ts_close(ts);
}

Test(truncate, tr01_dirty_data_over_unwritten_space_is_zeroed)
{
	struct ts *ts = store(&(struct ts_config){ .i_size = 64 * KIB, .alloc = TS_UNWRITTEN },
			      false);
	bool did_zero = false;

	ts_write(ts, 0, 8 * KIB, 1);
	cr_assert_eq(truncate_page(ts, 1000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads_all(ts, 1000, 3096, 0));
	cr_assert(ts_reads(ts, 4 * KIB, 4 * KIB, 1));
	ts_close(ts);
}

Test(truncate, tr01_inline_data_is_zeroed_in_place)
{
	static char data[4096];
	struct ts *ts = store(&(struct ts_config){ .i_size = 3000 }, false);
	bool did_zero = false;

	t_fill(data, sizeof(data), 0, 1);
	ts_map_inline(ts, data, sizeof(data));
	cr_assert_eq(truncate_page(ts, 1000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert_lt(t_mismatch(data, 1000, 0, 1), 0);
	cr_assert(t_all(data + 1000, sizeof(data) - 1000, 0));
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	ts_close(ts);
}

Test(truncate, tr01_errors_come_back)
{
	struct ts *ts = mapped(12, false);

	ts_fail(ts, TS_BEGIN, 1, -ENOLCK, 1);
	cr_assert_eq(truncate_page(ts, 1000, NULL), -ENOLCK);
	td_fail(ts->dev, TD_READ, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(truncate_page(ts, 1000, NULL), -EIO);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_close(ts);
}

/* ---- TR02 ---- */

Test(truncate, tr02_all_beyond_the_end_is_dropped_dirty_or_not)
{
	struct ts *ts = mapped(12, false);

	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	ts_write(ts, 16 * KIB, 32 * KIB, 2);
	truncate_setsize(ts, 20 * KIB);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 20 * KIB);
	for (uint64_t index = 5; index < 16; index++)
		cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data, index));
	cr_assert(ts_dirty(ts, 16 * KIB));
	cr_assert(ts_uptodate(ts, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 4U * KIB);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	/* nothing of the dropped bytes comes back */
	ts_punch(ts, 20 * KIB, 64 * KIB);
	truncate_setsize(ts, 64 * KIB);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	cr_assert(ts_reads(ts, 16 * KIB, 4 * KIB, 2));
	cr_assert(ts_reads_all(ts, 20 * KIB, 44 * KIB, 0));
	ts_close(ts);
}

Test(truncate, tr02_the_rest_of_the_last_folio_is_zero_and_its_blocks_clean)
{
	struct ts *ts = mapped(10, false);

	ts_write(ts, 0, 8 * KIB, 2);
	truncate_setsize(ts, 1500);
	cr_assert(ts_reads(ts, 0, 1500, 2));
	iomap_i_size_write(&ts->inode, 8 * KIB);
	cr_assert(ts_reads_all(ts, 1500, 4 * KIB - 1500, 0)); /* cached */
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 2U * KIB); /* the block of the end and before */
	cr_assert(ts_dev_all(ts, 64 * KIB + 1500, 2048 - 1500, 0));
	cr_assert(ts_dev_has(ts, 66 * KIB, 2 * KIB, 2 * KIB, 1));
	ts_close(ts);
}

Test(truncate, tr02_a_range_is_dropped_with_zeros_at_both_ends)
{
	struct ts *ts = mapped(10, false);

	ts_write(ts, 0, 32 * KIB, 2);
	iomap_truncate_pagecache_range(&ts->inode, 1500, 18 * KIB - 1);
	cr_assert(ts_reads(ts, 0, 1500, 2));
	cr_assert(ts_reads_all(ts, 1500, 4 * KIB - 1500, 0));
	for (uint64_t index = 1; index < 4; index++)
		cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data, index));
	cr_assert(ts_reads_all(ts, 16 * KIB, 2 * KIB, 0));
	cr_assert(ts_reads(ts, 18 * KIB, 14 * KIB, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (2U + 14U) * KIB);
	iomap_truncate_pagecache_range(&ts->inode, 8 * KIB, 8 * KIB - 1); /* nothing */
	ts_close(ts);
}

static unsigned invalidated;

static void size_has_moved(struct iomap_folio *folio, size_t off, size_t len)
{
	invalidated++;
	t_must(iomap_i_size_read(iomap_folio_inode(folio)) == 6000);
	t_must(iomap_folio_test_locked(folio));
	iomap_invalidate_folio(folio, off, len);
}

Test(truncate, tr02_the_size_moves_before_the_cache_goes)
{
	struct ts *ts = mapped(12, false);

	invalidated = 0;
	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	ts->a_ops.invalidate_folio = size_has_moved;
	truncate_setsize(ts, 6000);
	cr_assert_geq(invalidated, 7U); /* one in part */
	ts->a_ops.invalidate_folio = NULL;
	ts_close(ts);
}

/* As ts_setsize(), when no I/O may be left that uses the blocks. */
static int quiet_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	struct ts *ts = ts_of(inode);

	(void)old_size;
	iomap_truncate_setsize(inode, new_size);
	for (size_t i = 0; i < td_count(ts->dev, TD_ALL); i++)
		t_must(td_nth(ts->dev, TD_ALL, i).completed);
	ts_punch(ts, new_size, 1ULL << 40);
	return 0;
}

static long truncate_job(void *arg)
{
	struct ts *ts = arg;

	return iomap_truncate(ts->file, 4 * KIB);
}

static long read_job(void *arg)
{
	struct ts *ts = arg;
	char *buf = malloc(16 * KIB);
	long n = iomap_read(ts->file, buf, 16 * KIB, 0);

	t_must(n == 4 * KIB || n == 16 * KIB);
	t_must(t_mismatch(buf, (size_t)n, 0, 1) < 0);
	free(buf);
	return n;
}

/* Cut the file to a block while `ops` of the device are held; they use blocks beyond it. */
static void cut_beside(unsigned ops)
{
	struct ts *ts = mapped(12, false);
	struct iomap_writeback_control wbc = { .range_end = INT64_MAX, .nr_to_write = 100 };
	struct t_task cut, reader;

	ts->i_op.setsize = quiet_setsize;
	td_hold(ts->dev, ops);
	if (ops == TD_WRITE) {
		ts_write(ts, 32 * KIB, 8 * KIB, 2);
		cr_assert_eq(ts->a_ops.writepages(&ts->inode.i_data, &wbc), 0);
	} else {
		t_start(&reader, read_job, ts);
	}
	td_wait_held(ts->dev, 1);
	t_start(&cut, truncate_job, ts);
	/* it has moved i_size and then waits; the rest is for one that does not */
	for (int i = 0; i < 10000000 && iomap_i_size_read(&ts->inode) != 4 * KIB; i++)
		sched_yield();
	for (int i = 0; i < 20000 && ts_lookup(ts, 32 * KIB).type == IOMAP_MAPPED; i++)
		sched_yield();
	cr_assert_eq(ts_lookup(ts, 32 * KIB).type, IOMAP_MAPPED);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&cut), 0);
	if (ops == TD_READ)
		(void)t_join(&reader);
	cr_assert_eq(ts_lookup(ts, 4 * KIB).type, IOMAP_HOLE);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_close(ts);
}

Test(truncate, tr02_writeback_that_runs_is_waited_for)
{
	cut_beside(TD_WRITE);
}

Test(truncate, tr02_reads_that_run_are_waited_for)
{
	cut_beside(TD_READ);
}

/* ---- iomap_truncate() ---- */

Test(truncate, tr02_a_file_that_shrinks_and_grows_reads_zeros)
{
	for (int own = 0; own < 2; own++)
		for (int64_t end = 12 * KIB; end <= 16 * KIB; end += 700) {
			struct ts *ts = mapped(own ? 10 : 12, own);

			ts_write(ts, 8 * KIB, 40 * KIB, 2);
			cr_assert_eq(iomap_truncate(ts->file, end), 0);
			cr_assert_eq(iomap_i_size_read(&ts->inode), end);
			cr_assert_eq(iomap_truncate(ts->file, 50000), 0);
			cr_assert_eq(iomap_i_size_read(&ts->inode), 50000);
			for (int pass = 0; pass < 2; pass++) {
				cr_assert(ts_reads(ts, 0, 8 * KIB, 1));
				cr_assert(ts_reads(ts, 8 * KIB, (size_t)end - 8 * KIB, 2));
				cr_assert(ts_reads_all(ts, end, (size_t)(50000 - end), 0));
				/* and from the device */
				cr_assert_eq(ts_fsync(ts), 0);
				ts_drop(ts);
			}
			ts_close(ts);
		}
}

Test(truncate, tr02_growing_survives_that_writeback_comes_in_between)
{
	struct ts *ts = mapped(12, false);

	iomap_i_size_write(&ts->inode, 1000);
	cr_assert_eq(iomap_truncate(ts->file, 30000), 0);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 30000);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads_all(ts, 1000, 29000, 0));
	ts_close(ts);
}

static int locked_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	t_must(!iomap_inode_trylock_shared(inode));
	t_must(!iomap_down_read_trylock(&inode->i_data.invalidate_lock));
	t_must(old_size == 64 * KIB);
	t_must(iomap_i_size_read(inode) == old_size);
	return new_size == 1000 ? -EDQUOT : 0;
}

Test(truncate, tr02_setsize_has_the_locks_and_may_refuse)
{
	struct ts *ts = mapped(12, false);

	ts->i_op.setsize = locked_setsize;
	ts_write(ts, 0, 8 * KIB, 2);
	cr_assert_eq(iomap_truncate(ts->file, 1000), -EDQUOT);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 2));
	cr_assert_eq(iomap_truncate(ts->file, 2000), 0); /* it has left the size to the library */
	cr_assert_eq(iomap_i_size_read(&ts->inode), 2000);
	cr_assert_null(iomap_filemap_get_folio(&ts->inode.i_data, 1));
	ts_close(ts);
}

Test(truncate, tr02_sizes_that_cannot_be_are_refused)
{
	struct ts *ts = store(&(struct ts_config){ .i_size = 4 * KIB, .i_maxbytes = 1 << 20 },
			      false);

	cr_assert_eq(iomap_truncate(ts->file, -1), -EINVAL);
	cr_assert_eq(iomap_truncate(ts->file, (1 << 20) + 1), -EFBIG);
	cr_assert_eq(iomap_truncate(ts->file, 1 << 20), 0);
	ts->i_op.write = NULL;
	cr_assert_eq(iomap_truncate(ts->file, 4 * KIB), -EINVAL);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 1 << 20);
	ts_close(ts);
}

/* ---- races ---- */

struct race {
	struct ts *ts;
	struct iomap_file *direct;
	atomic_bool stop;
	struct t_task task[6];
	uint64_t seed;
};

#define RACE_BYTES (48 * KIB)

/* A byte is what was written there, or a zero. */
static void check_bytes(const unsigned char *buf, ssize_t n, int64_t pos)
{
	t_must(n >= 0);
	for (ssize_t i = 0; i < n; i++)
		t_must(!buf[i] || t_mismatch(buf + i, 1, pos + i, 1) < 0);
}

static long race_reader(struct race *race, struct iomap_file *file)
{
	struct t_rand r = { race->seed + 1 };
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, RACE_BYTES) == 0);
	while (!atomic_load(&race->stop)) {
		int64_t pos = (int64_t)t_below(&r, RACE_BYTES / 512) * 512;
		size_t len = (size_t)(1 + t_below(&r, 16)) * 512;

		check_bytes(buf, iomap_read(file, buf, len, pos), pos);
	}
	free(buf);
	return 0;
}

static long race_buffered(void *arg)
{
	return race_reader(arg, ((struct race *)arg)->ts->file);
}

static long race_direct(void *arg)
{
	return race_reader(arg, ((struct race *)arg)->direct);
}

static long race_write(struct race *race, struct iomap_file *file, unsigned unit)
{
	struct t_rand r = { race->seed + unit };
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, RACE_BYTES) == 0);
	while (!atomic_load(&race->stop)) {
		int64_t pos = (int64_t)t_below(&r, RACE_BYTES / unit / 2) * unit;
		size_t len = (size_t)(1 + t_below(&r, 16)) * unit;

		t_fill(buf, len, pos, 1);
		t_must(iomap_write(file, buf, len, pos) == (ssize_t)len);
	}
	free(buf);
	return 0;
}

static long race_writer(void *arg)
{
	return race_write(arg, ((struct race *)arg)->ts->file, 300);
}

static long race_direct_writer(void *arg)
{
	return race_write(arg, ((struct race *)arg)->direct, 512);
}

static long race_sync(void *arg)
{
	struct race *race = arg;

	while (!atomic_load(&race->stop)) {
		t_must(ts_fsync(race->ts) == 0);
		ts_drop(race->ts);
	}
	return 0;
}

static long race_truncate(void *arg)
{
	struct race *race = arg;
	struct t_rand r = { race->seed };

	for (int i = 0; i < (T_SANITIZED ? 300 : 1500); i++)
		t_must(iomap_truncate(race->ts->file, (int64_t)t_below(&r, RACE_BYTES)) == 0);
	atomic_store(&race->stop, true);
	return 0;
}

static void truncate_race(bool own_setsize, bool async)
{
	static const struct iomap_dio_ops dops = { .end_io = ts_dio_end_io };
	struct ts *ts = store(&(struct ts_config){ .dev_bytes = 256 << 20,
						   .blkbits = 10,
						   .alloc = TS_UNWRITTEN,
						   .threads = true },
			      own_setsize);
	struct race race = { .ts = ts, .seed = t_seed() };
	long (*fn[])(void *) = { race_buffered, race_direct,   race_writer,
				 race_sync,	race_truncate, race_direct_writer };

	ts->i_op.dio_ops = &dops;
	if (!own_setsize)
		ts_map(ts, 0, 1 << 20, IOMAP_UNWRITTEN, 0, 64 * KIB);
	if (async)
		td_async(ts->dev);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &race.direct), 0);
	for (size_t i = 0; i < 6; i++)
		t_start(&race.task[i], fn[i], &race);
	for (size_t i = 0; i < 6; i++)
		cr_assert_eq(t_join(&race.task[i]), 0);
	cr_assert_eq(iomap_file_close(race.direct), 0);
	ts_close(ts);
}

Test(truncate, tr02_no_old_byte_shows_beside_reads_writes_and_syncs)
{
	truncate_race(true, true);
	truncate_race(false, false);
}
