/* SPDX-License-Identifier: MIT */
/*
 * gone.c - BD06: what the cache, fsync and direct I/O say when the device has vanished, and
 * that they use what it has grown by.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

static struct ts *new_store(void)
{
	return ts_open(&(struct ts_config){ .alloc = TS_NEW });
}

Test(gone, bd06_what_is_cached_can_be_read_and_nothing_else)
{
	struct ts *ts = new_store();
	char buf[4096];

	ts_write(ts, 0, 64 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	iomap_bdev_set_gone(ts->dev->bdev);
	td_reset(ts->dev);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1), "from memory");
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 60 * KIB), -ENODEV);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 60 * KIB), -ENODEV, "each time");
	/* a write of part of a block has to read the rest */
	cr_assert_eq(iomap_write(ts->file, buf, 100, 56 * KIB), -ENODEV);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U, "the device is not asked any more");
	cr_assert_eq(ts_fsync(ts), -ENODEV, "nothing to write, but the flush");
	ts_close(ts);
}

/* The error that openers are told of writing is EIO, as for each device error but ENOSPC. */
Test(gone, bd06_fsync_tells_once_that_data_is_lost_and_then_that_nothing_can_be_made_durable)
{
	struct ts *ts = new_store();
	struct iomap_file *other;

	ts_write(ts, 0, 64 * KIB, 1);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &other), 0);
	iomap_bdev_set_gone(ts->dev->bdev);
	cr_assert_eq(ts_fsync(ts), -EIO, "the data");
	cr_assert_eq(ts_fsync(ts), -ENODEV, "the flush");
	cr_assert_eq(iomap_file_fsync(other, 0), -EIO, "each opener, once");
	cr_assert_eq(iomap_file_fsync(other, 0), -ENODEV);
	cr_assert_eq(iomap_sync_engine(ts->engine), -EIO);
	cr_assert_eq(iomap_sync_engine(ts->engine), -ENODEV);
	cr_assert_eq(td_count(ts->dev, TD_WRITE | TD_FLUSH), 0U);
	cr_assert_eq(iomap_file_close(other), 0);
	ts_close(ts);
}

Test(gone, bd06_direct_io_says_enodev)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct iomap_file *direct;
	void *buf = aligned_alloc(4096, 8192);

	cr_assert(ts && buf);
	ts_prepare(ts, &(struct ts_config){ .i_size = 64 * KIB });
	ts->hook.open = ts_allow_direct;
	ts_begin(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	memset(buf, 1, 8192);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &direct), 0);
	cr_assert_eq(iomap_write(direct, buf, 8192, 0), 8192);
	iomap_bdev_set_gone(ts->dev->bdev);
	cr_assert_eq(iomap_write(direct, buf, 8192, 0), -ENODEV);
	cr_assert_eq(iomap_read(direct, buf, 8192, 0), -ENODEV);
	cr_assert_eq(iomap_file_fsync(direct, 0), -ENODEV);
	cr_assert_eq(iomap_file_close(direct), 0);
	free(buf);
	ts_close(ts);
}

Test(gone, bd06_extents_behind_the_old_end_of_a_device_that_has_grown)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB });
	uint64_t end = iomap_bdev_bytes(ts->dev->bdev);
	char buf[64 * KIB];

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, end);
	cr_assert_eq(iomap_read(ts->file, buf, 4096, 0), -EIO);
	t_lock(&ts->dev->gate);
	ts->dev->mem = realloc(ts->dev->mem, end + MIB);
	t_must(ts->dev->mem != NULL);
	memset(ts->dev->mem + end, 0, MIB);
	ts->dev->bytes = end + MIB;
	t_unlock(&ts->dev->gate);
	cr_assert_eq(iomap_bdev_set_bytes(ts->dev->bdev, end + MIB), 0);
	ts_write(ts, 0, 64 * KIB, 3);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, end, 64 * KIB, 0, 3));
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 3));
	ts_close(ts);
}
