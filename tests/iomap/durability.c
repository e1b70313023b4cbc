/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * durability.c - FY: fsync and its relatives.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *new_store(void)
{
	return ts_open(&(struct ts_config){ .alloc = TS_NEW });
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

/* ---- FY01 ---- */

Test(durability, fy01_data_then_commit_then_flush)
{
	struct ts *ts = new_store();
	struct td_io flush;
	uint64_t commit;

	ts_write(ts, 0, 64 * KIB, 1);
	td_async(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	commit = ts_nth(ts, TS_COMMIT, 0).tick;
	flush = td_nth(ts->dev, TD_FLUSH, 0);
	for (size_t i = 0; i < td_count(ts->dev, TD_WRITE); i++)
		cr_assert_lt(td_nth(ts->dev, TD_WRITE, i).completed, commit);
	cr_assert_lt(commit, flush.submitted);
	cr_assert_neq(flush.completed, 0U);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(64 * KIB));
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(t_stats(ts->engine).fsyncs_nr, 1U);
	ts_close(ts);
}

Test(durability, fy01_fsync_returns_after_the_flush_has_ended)
{
	struct ts *ts = new_store();
	struct t_task task;

	ts_write(ts, 0, 4 * KIB, 1);
	td_hold(ts->dev, TD_WRITE | TD_FLUSH);
	t_start(&task, fsync_task, ts);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U, "the data is still on its way");
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	cr_assert_eq(td_release(ts->dev, 1), 1U);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	cr_assert_not(atomic_load(&task.done));
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	ts_close(ts);
}

Test(durability, fy01_writeback_that_runs_already_is_waited_for)
{
	struct ts *ts = new_store();
	struct t_task task;

	ts_write(ts, 0, 4 * KIB, 1);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert_not(ts_dirty(ts, 0));
	t_start(&task, fsync_task, ts);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	cr_assert_gt(ts_nth(ts, TS_COMMIT, 0).tick, td_nth(ts->dev, TD_WRITE, 0).completed);
	ts_close(ts);
}

Test(durability, fy01_an_error_of_writeback_that_ran_already_is_reported)
{
	struct ts *ts = new_store();
	struct t_task task;

	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	t_start(&task, fsync_task, ts);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

Test(durability, fy01_only_the_range_is_written)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 64 * KIB, 1);
	/* the end is inclusive: one byte of the page at 20 KiB is enough */
	cr_assert_eq(iomap_fsync(ts->file, 8 * KIB + 5, 20 * KIB, 1), 0);
	cr_assert(ts_dirty(ts, 4 * KIB));
	for (int64_t pos = 8 * KIB; pos <= 20 * KIB; pos += 4 * KIB)
		cr_assert_not(ts_dirty(ts, pos));
	cr_assert(ts_dirty(ts, 24 * KIB));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(16 * KIB));
	cr_assert_eq(ts_nth(ts, TS_COMMIT, 0).written, 1, "datasync is passed on");
	cr_assert_eq(iomap_fsync(ts->file, 0, INT64_MAX, 0), 0);
	cr_assert_eq(ts_nth(ts, TS_COMMIT, 1).written, 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(64 * KIB));
	cr_assert_eq(iomap_fsync(ts->file, -1, INT64_MAX, 0), -EINVAL);
	cr_assert_eq(iomap_fsync(ts->file, 10, 9, 0), -EINVAL);
	ts_close(ts);
}

Test(durability, fy01_nothing_is_assumed_about_a_device_that_was_just_opened)
{
	struct ts *ts = new_store();

	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	ts_close(ts);
}

Test(durability, fy01_a_flush_is_left_out_only_when_one_began_after_the_last_write)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U, "nothing was written since");
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 2U);
	cr_assert_eq(iomap_bdev_flush(ts->dev->bdev), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 2U);
	ts_close(ts);
}

Test(durability, fy01_a_flush_that_began_before_the_write_ended_does_not_count)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct ts *other = ts_open(
		&(struct ts_config){ .alloc = TS_NEW, .engine = ts->engine, .dev = ts->dev });
	struct t_task first;

	other->next_addr = 8 << 20;
	ts_write(ts, 0, 4 * KIB, 1);
	ts_write(other, 0, 4 * KIB, 2);
	td_hold(ts->dev, TD_FLUSH);
	t_start(&first, fsync_task, ts);
	td_wait_held(ts->dev, 1); /* the flush is on its way */
	cr_assert_eq(iomap_sync_range(other->file, 0, INT64_MAX,
				      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER),
		     0); /* and now another write ends */
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&first), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_eq(ts_fsync(other), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 2U);
	ts_close(other);
	ts_close(ts);
}

Test(durability, fy01_a_failed_flush_is_reported_and_tried_again)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_FLUSH, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 2U, "the failed one does not count");
	ts_close(ts);
}

Test(durability, fy01_a_write_error_is_reported_once_to_each_opener)
{
	struct ts *ts = new_store();
	struct iomap_file *second = NULL;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &second), 0);
	ts_write(ts, 0, 8 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U, "metadata of data that is not there");
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	cr_assert_eq(iomap_file_fsync(second, 0), -EIO);
	cr_assert_eq(iomap_file_fsync(second, 0), 0);
	cr_assert_eq(iomap_file_close(second), 0);
	ts_close(ts);
}

Test(durability, fy01_after_an_error_the_promise_covers_what_is_written_since)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, ts_lookup(ts, 0).addr, 4 * KIB, 0, 2));
	ts_close(ts);
}

/* ---- FY02 ---- */

Test(durability, fy02_an_error_of_the_commit_is_the_result)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 4 * KIB, 1);
	ts_fail(ts, TS_COMMIT, 1, -EDQUOT, 1);
	cr_assert_eq(ts_fsync(ts), -EDQUOT);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 2U);
	cr_assert_geq(td_count(ts->dev, TD_FLUSH), 1U);
	ts_close(ts);
}

static int commit_and_flush(struct ts *ts, int datasync)
{
	(void)datasync;
	return *(int *)ts->hook.arg;
}

Test(durability, fy02_a_commit_that_has_flushed_is_not_followed_by_a_flush)
{
	struct ts *ts = new_store();
	int answer = IOMAP_COMMIT_FLUSHED;

	ts->hook.commit = commit_and_flush;
	ts->hook.arg = &answer;
	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	/* all devices, also those of inodes that are gone */
	cr_assert_eq(iomap_sync_engine(ts->engine), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	answer = 5;
	cr_assert_eq(ts_fsync(ts), -EIO, "that is neither an answer nor an error");
	ts_close(ts);
}

Test(durability, fy02_the_commit_is_optional)
{
	struct ts *ts = new_store();

	ts->i_op.commit_metadata = NULL;
	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	ts_close(ts);
}

static int write_the_log(struct ts *ts, int datasync)
{
	struct ts *meta = ts->hook.arg;

	(void)datasync;
	/* no lock of the inode is held */
	t_must(iomap_inode_trylock(&ts->inode));
	iomap_inode_unlock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	/* and inodes of a higher class can be written and read */
	ts_write(meta, iomap_i_size_read(&meta->inode), 100, 3);
	t_must(ts_reads(meta, 0, 100, 3));
	return iomap_sync_range(meta->file, 0, INT64_MAX, IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER);
}

Test(durability, fy02_the_commit_may_write_inodes_of_a_higher_class)
{
	struct ts *ts = new_store();
	struct ts *meta = ts_open(&(struct ts_config){
		.alloc = TS_NEW, .engine = ts->engine, .dev = ts->dev, .lock_class = 1 });

	meta->next_addr = 8 << 20;
	ts->hook.arg = meta;
	ts->hook.commit = write_the_log;
	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_gt(td_nth(ts->dev, TD_FLUSH, 0).submitted,
		     td_nth(ts->dev, TD_WRITE, 1).completed);
	cr_assert(ts_dev_has(meta, 8 << 20, 100, 0, 3));
	ts_close(meta);
	ts_close(ts);
}

/* ---- FY03 ---- */

Test(durability, fy03_sync_range_starts_and_waits_as_its_flags_say)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 64 * KIB, 1);
	cr_assert_eq(iomap_sync_range(ts->file, 0, 16 * KIB, 0), 0);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 16 * KIB, 32 * KIB, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1); /* it came back before the write had ended */
	cr_assert(ts_under_writeback(ts, 16 * KIB));
	cr_assert(ts_dirty(ts, 12 * KIB));
	cr_assert(ts_dirty(ts, 32 * KIB));
	td_open_gates(ts->dev);
	cr_assert_eq(iomap_sync_range(ts->file, 16 * KIB, 32 * KIB, IOMAP_SYNC_WAIT_BEFORE), 0);
	cr_assert_not(ts_under_writeback(ts, 16 * KIB));
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX,
				      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER),
		     0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(64 * KIB));
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 0U);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, 0x100), -EINVAL);
	cr_assert_eq(iomap_sync_range(ts->file, -1, 10, IOMAP_SYNC_WRITE), -EINVAL);
	ts_close(ts);
}

Test(durability, fy03_sync_range_leaves_the_error_for_fsync)
{
	struct ts *ts = new_store();

	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX,
				      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER),
		     -EIO);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

Test(durability, fy03_sync_engine_writes_all_and_flushes_each_device_once)
{
	struct ts *a = new_store();
	struct ts *b =
		ts_open(&(struct ts_config){ .alloc = TS_NEW, .engine = a->engine, .dev = a->dev });
	struct ts *c = ts_open(&(struct ts_config){ .alloc = TS_NEW, .engine = a->engine });

	b->next_addr = 8 << 20;
	ts_write(a, 0, 8 * KIB, 1);
	ts_write(b, 0, 8 * KIB, 2);
	ts_write(c, 0, 8 * KIB, 3);
	cr_assert_eq(iomap_sync_engine(a->engine), 0);
	cr_assert_eq(t_stats(a->engine).dirty_bytes, 0U);
	cr_assert_eq(ts_calls(a, TS_COMMIT), 1U);
	cr_assert_eq(ts_calls(b, TS_COMMIT), 1U);
	cr_assert_eq(ts_calls(c, TS_COMMIT), 1U);
	cr_assert_eq(td_count(a->dev, TD_FLUSH), 1U);
	cr_assert_eq(td_count(c->dev, TD_FLUSH), 1U);
	cr_assert_gt(td_nth(a->dev, TD_FLUSH, 0).submitted, ts_nth(a, TS_COMMIT, 0).tick);
	cr_assert_gt(td_nth(a->dev, TD_FLUSH, 0).submitted, ts_nth(b, TS_COMMIT, 0).tick);
	cr_assert(ts_dev_has(a, 1 << 20, 8 * KIB, 0, 1));
	cr_assert(ts_dev_has(b, 8 << 20, 8 * KIB, 0, 2));
	cr_assert(ts_dev_has(c, 1 << 20, 8 * KIB, 0, 3));
	ts_close(c);
	ts_close(b);
	ts_close(a);
}

Test(durability, fy03_sync_engine_goes_on_after_an_error_and_leaves_it_for_fsync)
{
	struct ts *a = new_store();
	struct ts *b = ts_open(&(struct ts_config){ .alloc = TS_NEW, .engine = a->engine });

	ts_write(a, 0, 8 * KIB, 1);
	ts_write(b, 0, 8 * KIB, 2);
	td_fail(a->dev, TD_WRITE, 0, a->dev->bytes, -EIO, 1);
	cr_assert_eq(iomap_sync_engine(a->engine), -EIO);
	cr_assert(ts_dev_has(b, 1 << 20, 8 * KIB, 0, 2));
	cr_assert_eq(td_count(b->dev, TD_FLUSH), 1U);
	cr_assert_eq(iomap_sync_engine(a->engine), 0);
	cr_assert_eq(ts_fsync(a), -EIO);
	cr_assert_eq(ts_fsync(b), 0);
	ts_close(b);
	ts_close(a);
}

/* ---- for extent maps ---- */

Test(durability, fy02_an_extent_map_has_a_range_written_out_first)
{
	struct ts *ts = new_store();
	struct iomap_address_space *mapping = &ts->inode.i_data;

	ts_write(ts, 0, 64 * KIB, 1);
	/* the end is inclusive */
	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, 8 * KIB, 12 * KIB), 0);
	cr_assert(ts_dirty(ts, 4 * KIB));
	cr_assert_not(ts_dirty(ts, 8 * KIB));
	cr_assert_not(ts_dirty(ts, 12 * KIB));
	cr_assert(ts_dirty(ts, 16 * KIB));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(8 * KIB));
	cr_assert_neq(td_nth(ts->dev, TD_WRITE, 0).completed, 0U, "it waits");
	cr_assert_eq(ts_calls(ts, TS_COMMIT) + td_count(ts->dev, TD_FLUSH), 0U);

	/* the error is told here and, the first time and the second, is left for fsync */
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 2);
	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, 16 * KIB, 20 * KIB - 1), -EIO);
	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, 20 * KIB, 24 * KIB - 1), -EIO);
	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, 16 * KIB, INT64_MAX), 0);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);

	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, -1, INT64_MAX), -EINVAL);
	cr_assert_eq(iomap_filemap_write_and_wait_range(mapping, 10, 9), -EINVAL);
	ts_close(ts);
}
