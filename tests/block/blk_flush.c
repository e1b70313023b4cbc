/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_flush.c - when a flush is sent to the device, and when it may be left out.
 */
#include <errno.h>

#include "blktest.h"

static struct iomap_bdev *open_file(struct bt *bt, char **path)
{
	bt_start(bt, 1, 0);
	*path = t_temp(1024 * 1024);
	return bt_open(bt, *path, 0);
}

static void close_file(struct bt *bt, struct iomap_bdev *bdev, char *path)
{
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(bt);
	t_temp_free(path);
}

Test(blk_flush, the_first_flush_is_never_left_out)
{
	struct iomap_bdev *bdev;
	struct bt bt;
	char *path;

	bdev = open_file(&bt, &path);
	/* Somebody may have written before the device was opened. */
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(bt_flushes(&bt), 1U);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(bt_flushes(&bt), 1U, "nothing was written since");
	close_file(&bt, bdev, path);
}

Test(blk_flush, each_write_needs_one_flush_and_reads_none)
{
	void *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;
	char *path;

	bdev = open_file(&bt, &path);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	for (uint64_t i = 1; i <= 3; i++) {
		cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
		cr_assert_eq(bt_write(bdev, 4096, buf, 4096), 0);
		cr_assert_eq(iomap_bdev_flush(bdev), 0);
		cr_assert_eq(bt_flushes(&bt), 1 + i);
		cr_assert_eq(bt_read(bdev, 0, buf, 4096), 0);
		cr_assert_eq(iomap_bdev_flush(bdev), 0);
		cr_assert_eq(bt_flushes(&bt), 1 + i, "a read changes nothing");
	}
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA, 0, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(bt_flushes(&bt), 4U, "a FUA write is durable");
	free(buf);
	close_file(&bt, bdev, path);
}

Test(blk_flush, a_preflush_covers_what_was_written_before_it_only)
{
	void *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;
	char *path;

	bdev = open_file(&bt, &path);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 0, buf,
			   4096), 0);
	cr_assert_eq(bt_flushes(&bt), 1U);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(bt_flushes(&bt), 1U, "both are durable");
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 0, buf, 4096), 0);
	cr_assert_eq(bt_flushes(&bt), 2U);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(bt_flushes(&bt), 3U, "its own data came after its flush");
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(bt_flushes(&bt), 4U, "a flush that is asked for as a bio is done");
	free(buf);
	close_file(&bt, bdev, path);
}

/* ---- a device whose flushes the test controls ---- */

struct control {
	int flush_error;
	unsigned flushes;
	struct iomap_bdev *write_during_flush; /* a write ends between start and end of it */
	void *buf;
};

static void control_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct control *c = iomap_bdev_private(bdev);

	bio->bi_status = 0;
	if (iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH) {
		c->flushes++;
		if (c->write_during_flush)
			t_must(bt_write(c->write_during_flush, 0, c->buf, 512) == 0);
		bio->bi_status = c->flush_error;
	}
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops control_ops = { .submit_bio = control_submit };

Test(blk_flush, a_failed_flush_makes_nothing_durable)
{
	struct control c = { .flush_error = -EIO, .buf = bt_buffer(512) };
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &control_ops, 4096, NULL, &c, &bdev), 0);
	cr_assert_eq(bt_write(bdev, 0, c.buf, 512), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), -EIO);
	cr_assert_eq(iomap_bdev_flush(bdev), -EIO);
	cr_assert_eq(c.flushes, 2U);
	c.flush_error = 0;
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(c.flushes, 3U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(c.buf);
}

Test(blk_flush, a_write_that_ends_during_a_flush_is_not_covered_by_it)
{
	struct control c = { .buf = bt_buffer(512) };
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &control_ops, 4096, NULL, &c, &bdev), 0);
	c.write_during_flush = bdev;
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	c.write_during_flush = NULL;
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(c.flushes, 2U, "the second one was needed");
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(c.flushes, 2U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(c.buf);
}

Test(blk_flush, several_devices_by_their_numbers)
{
	enum { DEVICES = 66 };
	static struct control c[DEVICES];
	struct iomap_bdev *bdev[DEVICES];
	struct bt bt;

	bt_start(&bt, 1, 0);
	for (int i = 0; i < DEVICES; i++) {
		cr_assert_eq(iomap_bdev_create(&bt.engine, &control_ops, 4096, NULL, &c[i],
					       &bdev[i]), 0);
		cr_assert_eq(iomap__bdev_id(bdev[i]), (unsigned)(i < 63 ? i : 63));
		cr_assert_eq(iomap__bdev_engine(bdev[i]), &bt.engine);
	}
	c[5].flush_error = -ENOSPC;
	cr_assert_eq(iomap__bdevs_flush(&bt.engine, UINT64_C(1) << 2 | UINT64_C(1) << 5, 0), -ENOSPC);
	for (int i = 0; i < DEVICES; i++)
		cr_assert_eq(c[i].flushes, i == 2 || i == 5 ? 1U : 0U, "device %d", i);
	cr_assert_eq(iomap__bdevs_flush(&bt.engine, UINT64_C(1) << 63, 0), 0);
	for (int i = 63; i < DEVICES; i++)
		cr_assert_eq(c[i].flushes, 1U, "device %d", i);

	iomap__bdev_get(bdev[7]);
	cr_assert_eq(iomap_bdev_close(bdev[7]), -EBUSY);
	iomap__bdev_put(bdev[7]);
	cr_assert_eq(iomap_bdev_close(bdev[7]), 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &control_ops, 4096, NULL, &c[7], &bdev[7]), 0);
	cr_assert_eq(iomap__bdev_id(bdev[7]), 7U, "a number is used again");
	for (int i = 0; i < DEVICES; i++)
		cr_assert_eq(iomap_bdev_close(bdev[i]), 0);
	cr_assert_eq(iomap_bdev_close(NULL), 0);
	bt_stop(&bt);
}

/* ---- with a deadline ---- */

#define FAR UINT64_MAX

static int flush_by(struct iomap_bdev *bdev)
{
	return iomap__bdevs_flush(iomap__bdev_engine(bdev), UINT64_C(1) << iomap__bdev_id(bdev),
				  FAR);
}

/* Loses writes, and passes flushes on as they are. */
static void lose_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	if (iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH) {
		bio->bi_bdev = iomap_bdev_private(bdev);
		iomap_submit_bio(bio);
		return;
	}
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops lose_ops = { .submit_bio = lose_submit };

Test(blk_flush, a_flush_by_a_deadline_is_that_of_the_device_it_was_asked_of)
{
	void *buf = bt_buffer(4096);
	struct iomap_bdev *lower, *outer;
	struct bt bt;
	char *path;

	lower = open_file(&bt, &path);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &lose_ops, 8192, NULL, lower, &outer), 0);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(bt_write(outer, 0, buf, 4096), 0);
	cr_assert_eq(flush_by(outer), 0);
	cr_assert_eq(bt_flushes(&bt), 1U);
	cr_assert_eq(flush_by(outer), 0);
	cr_assert_eq(bt_flushes(&bt), 1U, "nothing was written since");
	/* which has seen fewer writes than the one above it */
	cr_assert_eq(bt_write(lower, 0, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_flush(lower), 0);
	cr_assert_eq(bt_flushes(&bt), 2U, "that write was not durable");
	cr_assert_eq(iomap_bdev_close(outer), 0);
	free(buf);
	close_file(&bt, lower, path);
}

Test(blk_flush, bd06_a_flush_by_a_deadline_of_a_device_that_is_gone)
{
	struct iomap_bdev *bdev;
	struct bt bt;
	char *path;

	bdev = open_file(&bt, &path);
	cr_assert_eq(flush_by(bdev), 0);
	iomap_bdev_set_gone(bdev);
	cr_assert_eq(iomap_bdev_flush(bdev), -ENODEV);
	cr_assert_eq(flush_by(bdev), -ENODEV, "also where there is nothing left to flush");
	close_file(&bt, bdev, path);
}

/* ---- many callers ---- */

#define CALLERS 6
#define CALLS 40000

static void *write_and_flush(void *arg)
{
	struct iomap_bdev *bdev = arg;
	unsigned char *buf = bt_buffer(BT_PAGE);

	for (int i = 0; i < CALLS; i++) {
		t_must(bt_write(bdev, 0, buf, 512) == 0);
		t_must(iomap_bdev_flush(bdev) == 0);
	}
	free(buf);
	return NULL;
}

/* One who was to start a flush may be taken along by another and told of the end meanwhile. */
Test(blk_flush, each_of_many_callers_is_told)
{
	pthread_t thread[CALLERS];
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, BT_PAGE, &bdev), 0);
	for (int i = 0; i < CALLERS; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, write_and_flush, bdev), 0);
	for (int i = 0; i < CALLERS; i++)
		cr_assert_eq(pthread_join(thread[i], NULL), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}
