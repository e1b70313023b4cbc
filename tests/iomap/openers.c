/* SPDX-License-Identifier: MIT */
/*
 * openers.c - FI: files, their modes and their error cursors.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static int allow_direct(struct ts *ts, struct iomap_file *file)
{
	(void)ts;
	iomap_file_set_mode(file, iomap_file_mode(file) | IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

Test(openers, fi01_opening_calls_open_whose_error_refuses)
{
	struct ts *ts = ts_open(&(struct ts_config){ 0 });
	struct iomap_file *file = NULL;

	cr_assert_eq(ts_calls(ts, TS_OPEN), 1U); /* ts_open()'s own */
	ts_fail(ts, TS_OPEN, 1, -EACCES, 1);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &file), -EACCES);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_APPEND, &file), 0);
	cr_assert_eq(ts_last(ts, TS_OPEN).flags, (unsigned)IOMAP_O_APPEND);
	cr_assert_eq(iomap_file_flags(file), (unsigned)IOMAP_O_APPEND);
	cr_assert_eq(iomap_file_inode(file), &ts->inode);
	cr_assert_eq(iomap_file_close(file), 0);
	ts_close(ts);
}

Test(openers, fi01_unknown_flags_are_refused)
{
	struct ts *ts = ts_open(&(struct ts_config){ 0 });
	struct iomap_file *file = NULL;

	cr_assert_eq(iomap_file_open(&ts->inode, 0x8000, &file), -EINVAL);
	ts_close(ts);
}

Test(openers, fi01_direct_needs_the_mode_that_open_sets)
{
	struct ts *ts = ts_open(&(struct ts_config){ 0 });
	struct iomap_file *file = NULL;

	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), -EINVAL);
	ts->hook.open = allow_direct;
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	cr_assert(iomap_file_mode(file) & IOMAP_FMODE_CAN_ODIRECT);
	cr_assert_not(iomap_file_mode(ts->file) & IOMAP_FMODE_CAN_ODIRECT);
	cr_assert_eq(iomap_file_close(file), 0);
	ts_close(ts);
}

Test(openers, fi01_append_writes_at_the_end_whatever_the_position)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_file *file = NULL;
	char buf[3000];

	ts_write(ts, 0, 5000, 1);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_APPEND, &file), 0);
	t_fill(buf, sizeof(buf), 5000, 1);
	cr_assert_eq(iomap_write(file, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
	cr_assert_eq(iomap_i_size_read(&ts->inode), 8000);
	cr_assert(ts_reads(ts, 0, 8000, 1));
	cr_assert_eq(iomap_file_close(file), 0);
	ts_close(ts);
}

Test(openers, fi01_dsync_and_sync_writes_are_durable_when_they_return)
{
	static const struct {
		unsigned flags;
		int datasync;
	} mode[] = { { IOMAP_O_DSYNC, 1 }, { IOMAP_O_SYNC, 0 } };

	for (size_t i = 0; i < 2; i++) {
		struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
		struct iomap_file *file = NULL;
		char buf[4 * KIB];

		cr_assert_eq(iomap_file_open(&ts->inode, mode[i].flags, &file), 0);
		t_fill(buf, sizeof(buf), 0, 1);
		cr_assert_eq(iomap_write(file, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
		cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
		cr_assert_eq(!!ts_nth(ts, TS_COMMIT, 0).written, mode[i].datasync);
		cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
		cr_assert_gt(td_nth(ts->dev, TD_FLUSH, 0).submitted,
			     td_nth(ts->dev, TD_WRITE, 0).completed);
		cr_assert(ts_dev_has(ts, ts_lookup(ts, 0).addr, sizeof(buf), 0, 1));
		cr_assert_eq(iomap_file_close(file), 0);
		ts_close(ts);
	}
}

Test(openers, fi01_a_file_holds_its_inode)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });

	cr_assert_eq(iomap_inode_destroy(&ts->inode, 0), -EBUSY);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), -EBUSY);
	cr_assert(ts_reads_all(ts, 0, 4 * KIB, 0));
	ts_close(ts);
}

Test(openers, fi01_each_opener_has_its_own_error_cursor)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_file *second = NULL, *late = NULL;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &second), 0);
	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(iomap_file_check_and_advance_wb_err(ts->file), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &late), 0); /* somebody has seen it by now */
	cr_assert_eq(iomap_file_check_and_advance_wb_err(late), 0);
	cr_assert_eq(iomap_file_check_and_advance_wb_err(second), -EIO);
	cr_assert_eq(iomap_file_check_and_advance_wb_err(second), 0);
	cr_assert_eq(iomap_file_close(second), 0);
	cr_assert_eq(iomap_file_close(late), 0);
	ts_close(ts);
}

Test(openers, fi01_an_error_nobody_saw_goes_to_the_next_opener)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_writeback_control wbc = { .range_end = INT64_MAX,
					       .sync_mode = IOMAP_WB_SYNC_ALL };
	struct iomap_file *late = NULL;

	ts_write(ts, 0, 4 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, ts->dev->bytes, -EIO, 1);
	(void)ts->a_ops.writepages(&ts->inode.i_data, &wbc); /* as the flusher does */
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &late), 0);
	cr_assert_eq(iomap_file_fsync(late, 0), -EIO);
	cr_assert_eq(iomap_file_fsync(late, 0), 0);
	cr_assert_eq(iomap_file_close(late), 0);
	ts_close(ts);
}
