/* SPDX-License-Identifier: MIT */
/*
 * fallocate.c - LK01: the space of a range, by the convenience layer.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/falloc.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define KEEP IOMAP_FALLOC_FL_KEEP_SIZE
#define PUNCH (IOMAP_FALLOC_FL_PUNCH_HOLE | KEEP)
#define ZERO IOMAP_FALLOC_FL_ZERO_RANGE
#define UNSHARE IOMAP_FALLOC_FL_UNSHARE_RANGE

_Static_assert(IOMAP_FALLOC_FL_KEEP_SIZE == FALLOC_FL_KEEP_SIZE &&
		       IOMAP_FALLOC_FL_PUNCH_HOLE == FALLOC_FL_PUNCH_HOLE &&
		       IOMAP_FALLOC_FL_ZERO_RANGE == FALLOC_FL_ZERO_RANGE &&
		       IOMAP_FALLOC_FL_UNSHARE_RANGE == FALLOC_FL_UNSHARE_RANGE,
	       "the numbers are the system's");

static int (*callback)(struct iomap_file *file, int mode, int64_t off, int64_t len);
static atomic_uint callbacks;

/* What every callback may count on. */
static int checked(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = iomap_file_inode(file);

	callbacks++;
	t_must(!iomap_inode_trylock_shared(inode));
	t_must(iomap_down_read_trylock(&inode->i_data.invalidate_lock));
	iomap_up_read(&inode->i_data.invalidate_lock);
	return callback(file, mode, off, len);
}

/* 64 KiB of pattern 1. */
static struct ts *store(uint32_t blkbits)
{
	struct ts *ts = malloc(sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits,
					    .i_maxbytes = 1 << 20, .alloc = TS_UNWRITTEN,
					    .with_write_ops = true });
	ts->hook.open = ts_allow_direct;
	ts->i_op.fallocate = checked;
	callback = ts_fallocate;
	callbacks = 0;
	ts_begin(ts);
	ts_poison(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	return ts;
}

static void settle(struct ts *ts)
{
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
}

Test(fallocate, lk01_holes_are_punched_under_the_locks)
{
	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++)
		for (int cached = 0; cached < 3; cached++) {
			struct ts *ts = store(blkbits);
			unsigned seed = cached == 2 ? 2 : 1;

			if (cached == 1)
				cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
			if (cached == 2)
				ts_write(ts, 0, 64 * KIB, 2);
			cr_assert_eq(iomap_fallocate(ts->file, PUNCH, 5000, 30000), 0);
			cr_assert_eq(callbacks, 1U);
			cr_assert_eq(ts_lookup(ts, 16 * KIB).type, IOMAP_HOLE);
			cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
			for (int pass = 0; pass < 2; pass++) {
				cr_assert(ts_reads(ts, 0, 5000, seed));
				cr_assert(ts_reads_all(ts, 5000, 30000, 0));
				cr_assert(ts_reads(ts, 35000, 64 * KIB - 35000, seed));
				settle(ts);
			}
			ts_close(ts);
		}
}

Test(fallocate, lk01_ranges_are_zeroed_under_the_locks)
{
	struct ts *ts = store(10);

	ts_write(ts, 20 * KIB, 8 * KIB, 2);
	cr_assert_eq(iomap_fallocate(ts->file, ZERO | KEEP, 5000, 100000), 0);
	cr_assert_eq(ts_lookup(ts, 16 * KIB).type, IOMAP_UNWRITTEN);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
	cr_assert(ts_reads(ts, 0, 5000, 1));
	cr_assert(ts_reads_all(ts, 5000, 64 * KIB - 5000, 0));
	settle(ts);
	cr_assert(ts_reads_all(ts, 5000, 64 * KIB - 5000, 0));
	cr_assert_eq(iomap_fallocate(ts->file, ZERO, 5000, 100000), 0);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 105000);
	settle(ts);
	cr_assert(ts_reads(ts, 0, 5000, 1));
	cr_assert(ts_reads_all(ts, 5000, 100000, 0));
	ts_close(ts);
}

Test(fallocate, lk01_space_is_reserved_and_the_file_grows)
{
	for (int own = 0; own < 2; own++) {
		struct ts *ts = store(10);

		if (own)
			ts->i_op.setsize = ts_setsize;
		cr_assert_eq(iomap_truncate(ts->file, 50000), 0);
		/* rubbish behind the end, where no setsize has taken it away */
		if (!own)
			ts_map(ts, 49 * KIB, KIB, IOMAP_MAPPED, 0, 113 * KIB);
		cr_assert_eq(iomap_fallocate(ts->file, KEEP, 30000, 100000), 0);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 50000);
		cr_assert_eq(ts_lookup(ts, 100 * KIB).type, IOMAP_UNWRITTEN);
		cr_assert_eq(iomap_fallocate(ts->file, 0, 30000, 10000), 0);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 50000);
		cr_assert_eq(iomap_fallocate(ts->file, 0, 60000, 70000), 0);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 130000);
		for (int pass = 0; pass < 2; pass++) {
			cr_assert(ts_reads(ts, 0, 49 * KIB - 400, 1));
			cr_assert(ts_reads_all(ts, 50000, 80000, 0));
			settle(ts);
		}
		ts_close(ts);
	}
}

Test(fallocate, lk01_unsharing_leaves_the_bytes)
{
	struct ts *ts = store(12);

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_SHARED, 64 * KIB);
	cr_assert_eq(iomap_fallocate(ts->file, UNSHARE | KEEP, 8 * KIB, 16 * KIB), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 16U * KIB);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	cr_assert_eq(iomap_fallocate(ts->file, UNSHARE, 8 * KIB, 64 * KIB), 0);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 72 * KIB);
	cr_assert(ts_reads_all(ts, 64 * KIB, 8 * KIB, 0));
	ts_close(ts);
}

Test(fallocate, lk01_other_modes_and_ranges_are_refused)
{
	static const int bad[] = {
		IOMAP_FALLOC_FL_PUNCH_HOLE, PUNCH | ZERO, PUNCH | UNSHARE, ZERO | UNSHARE,
		FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, 0x04, 0x100, 1 << 20,
	};
	struct ts *ts = store(12);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(iomap_fallocate(ts->file, bad[i], 0, 4096), -EOPNOTSUPP, "%#x", bad[i]);
	cr_assert_eq(iomap_fallocate(ts->file, 0, -1, 10), -EINVAL);
	cr_assert_eq(iomap_fallocate(ts->file, 0, 0, 0), -EINVAL);
	cr_assert_eq(iomap_fallocate(ts->file, 0, 0, -1), -EINVAL);
	cr_assert_eq(iomap_fallocate(ts->file, 0, 1 << 20, 1), -EFBIG);
	cr_assert_eq(iomap_fallocate(ts->file, 0, 1, 1 << 20), -EFBIG);
	cr_assert_eq(iomap_fallocate(ts->file, 0, INT64_MAX, INT64_MAX), -EFBIG);
	cr_assert_eq(callbacks, 0U);
	cr_assert_eq(iomap_fallocate(ts->file, KEEP, 0, 1 << 20), 0);
	cr_assert_eq(callbacks, 1U);
	ts->i_op.fallocate = NULL;
	cr_assert_eq(iomap_fallocate(ts->file, 0, 0, 4096), -EOPNOTSUPP);
	ts_close(ts);
}

static int refuse(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	(void)file, (void)mode, (void)off, (void)len;
	return -ENOSPC;
}

Test(fallocate, lk01_the_callbacks_error_comes_back)
{
	struct ts *ts = store(12);

	callback = refuse;
	cr_assert_eq(iomap_fallocate(ts->file, 0, 0, 128 * KIB), -ENOSPC);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
	callback = ts_fallocate;
	ts_fail(ts, TS_BEGIN, 1, -EDQUOT, 1);
	cr_assert_eq(iomap_fallocate(ts->file, PUNCH, 100, 128 * KIB), -EDQUOT);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_close(ts);
}

static long own_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	t_must(iomap_inode_trylock_shared(iomap_file_inode(file)));
	iomap_inode_unlock_shared(iomap_file_inode(file));
	t_must(mode == PUNCH && off == 10 && len == 20);
	return -EXDEV;
}

Test(fallocate, lk01_a_file_operation_comes_before_it)
{
	static const struct iomap_file_operations fop = { .fallocate = own_fallocate };
	struct ts *ts = store(12);

	ts->inode.i_fop = &fop;
	cr_assert_eq(iomap_fallocate(ts->file, PUNCH, 10, 20), -EXDEV);
	cr_assert_eq(callbacks, 0U);
	ts->inode.i_fop = NULL;
	ts_close(ts);
}

Test(fallocate, lk01_an_opener_that_wants_it_durable_gets_it_so)
{
	static const struct {
		unsigned flags;
		uint64_t commits;
		ssize_t datasync;
	} t[] = { { 0, 0, 0 }, { IOMAP_O_DSYNC, 1, 1 }, { IOMAP_O_SYNC, 1, 0 },
		  { IOMAP_O_SYNC | IOMAP_O_DSYNC, 1, 0 } };

	for (size_t i = 0; i < 4; i++) {
		struct ts *ts = store(12);
		struct iomap_file *file;

		cr_assert_eq(iomap_file_open(&ts->inode, t[i].flags, &file), 0);
		cr_assert_eq(iomap_fallocate(file, PUNCH, 1000, 20000), 0);
		cr_assert_eq(ts_calls(ts, TS_COMMIT), t[i].commits);
		if (t[i].commits) {
			cr_assert_eq(ts_nth(ts, TS_COMMIT, 0).written, t[i].datasync);
			cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 8U * KIB, "both ends");
			cr_assert_geq(td_count(ts->dev, TD_FLUSH), 1U);
			ts_fail(ts, TS_COMMIT, 1, -ENOSPC, 1);
			cr_assert_eq(iomap_fallocate(file, KEEP, 0, 1000), -ENOSPC);
		}
		cr_assert_eq(iomap_file_close(file), 0);
		ts_close(ts);
	}
}

/* As a kernel filesystem may under its locks: the cache first, and then the map. */
static long read_all(void *arg)
{
	struct ts *ts = arg;
	static char buf[64 * KIB];

	return iomap_read(ts->file, buf, sizeof(buf), 0) == sizeof(buf);
}

static int cache_first(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct ts *ts = ts_of(iomap_file_inode(file));
	struct t_task reader;

	(void)mode;
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_truncate_pagecache_range(&ts->inode, off, off + len - 1);
	t_start(&reader, read_all, ts);
	t_must(t_join(&reader) == 1);
	ts_punch(ts, off, (uint64_t)len);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	return 0;
}

Test(fallocate, lk01_what_a_reader_brings_in_between_is_dropped)
{
	struct ts *ts = store(12);

	callback = cache_first;
	cr_assert_eq(iomap_fallocate(ts->file, PUNCH, 8 * KIB, 16 * KIB), 0);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 1));
	cr_assert(ts_reads_all(ts, 8 * KIB, 16 * KIB, 0));
	cr_assert(ts_reads(ts, 24 * KIB, 40 * KIB, 1));
	ts_close(ts);
}

/* ---- direct I/O in flight ---- */

static atomic_bool completed;

static void complete(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb;
	t_must(ret == 4 * KIB);
	atomic_store(&completed, true);
}

static struct ts *waiting;

/* Nothing that was under way uses the blocks any more. */
static int quiet(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	for (size_t i = 0; i < td_count(waiting->dev, TD_ALL); i++)
		t_must(td_nth(waiting->dev, TD_ALL, i).completed);
	return ts_fallocate(file, mode, off, len);
}

static long punch_all(void *arg)
{
	struct ts *ts = arg;

	return iomap_fallocate(ts->file, PUNCH, 0, 64 * KIB);
}

Test(fallocate, lk01_direct_io_in_flight_is_waited_for)
{
	struct ts *ts = store(12);
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	struct iomap_file *direct;
	struct t_task task;
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, 4 * KIB) == 0);
	waiting = ts;
	callback = quiet;
	atomic_store(&completed, false);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &direct), 0);
	td_hold(ts->dev, TD_READ);
	iomap_kiocb_init(&iocb, direct, 8 * KIB);
	iocb.ki_complete = complete;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, 4 * KIB);
	cr_assert_eq(iomap_read_iter(&iocb, &to), -IOMAP_EIOCBQUEUED);
	td_wait_held(ts->dev, 1);
	t_start(&task, punch_all, ts);
	/* it waits; the rest is for one that does not */
	for (int i = 0; i < 20000 && !callbacks; i++)
		sched_yield();
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	while (!atomic_load(&completed))
		(void)iomap_engine_poll(ts->engine, 16, true);
	cr_assert_lt(t_mismatch(buf, 4 * KIB, 8 * KIB, 1), 0);
	cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
	cr_assert_eq(iomap_file_close(direct), 0);
	free(buf);
	ts_close(ts);
}

/* ---- a filesystem that drops the cache first ---- */

static long read_again(void *arg)
{
	return ts_reads(arg, 0, 64 * KIB, 1);
}

/* As XFS: the cache goes, the blocks go, the rest of the blocks at both ends is zeroed. */
static int drops_first(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = iomap_file_inode(file);
	struct ts *ts = ts_of(inode);
	int64_t mask = ((int64_t)1 << ts->args.blkbits) - 1;
	int64_t first = (off + mask) & ~mask, last = (off + len) & ~mask;
	struct t_task task;
	int err;

	(void)mode;
	iomap_filemap_invalidate_lock(&inode->i_data);
	iomap_truncate_pagecache_range(inode, off, off + len - 1);
	/* readers take no lock: one comes just now */
	t_start(&task, read_again, ts);
	t_must(t_join(&task));
	ts_punch(ts, first, (uint64_t)(last - first));
	err = iomap_zero_range(inode, off, len, NULL, &ts->ops, ts->i_op.write_ops, ts);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	return err;
}

static void punch_beside_a_reader(uint32_t blkbits, bool large, int64_t off, int64_t len)
{
	struct ts *ts = malloc(sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits,
					    .i_maxbytes = 1 << 20, .with_write_ops = true });
	ts->hook.open = ts_allow_direct;
	ts->i_op.fallocate = drops_first;
	ts_begin(ts);
	if (large)
		cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	ts_poison(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	cr_assert_eq(iomap_fallocate(ts->file, PUNCH, off, len), 0);
	cr_assert(ts_reads(ts, 0, (size_t)off, 1));
	cr_assert(ts_reads_all(ts, off, (size_t)len, 0), "old bytes behind a punch");
	cr_assert(ts_reads(ts, off + len, (size_t)(64 * KIB - off - len), 1));
	ts_close(ts);
}

Test(fallocate, lk01_tr03_no_old_bytes_in_whole_pages_behind_a_punch)
{
	punch_beside_a_reader(12, false, 4096, 32768);
	punch_beside_a_reader(12, false, 5000, 30000);
}

/* Here the ends, which are dirty by now, lie in one folio with what was brought in again. */
Test(fallocate, lk01_tr03_no_old_bytes_beside_the_ends_of_a_punch)
{
	punch_beside_a_reader(9, false, 4196, 3500);
	punch_beside_a_reader(12, true, 5000, 30000);
}
