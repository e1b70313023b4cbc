/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd06_gone.c - devices that grow, that shrink, and that vanish.
 */
#include <errno.h>
#include <iomap/faulty.h>
#include <iomap/writelog.h>
#include <sys/syscall.h>

#include "blktest.h"
#include "testdev.h"

#define MIB (1024U * 1024U)

/* ---- growing ---- */

Test(bd06_gone, bd06_a_file_grows)
{
	char *path = t_temp(MIB);
	unsigned char *out = bt_buffer(4096), *in = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	t_fill(out, 4096, MIB, 1);
	cr_assert_eq(truncate(path, 2 * MIB + 100), 0);
	cr_assert_eq(bt_write(bdev, MIB, out, 4096), -EIO, "nobody has asked yet");
	cr_assert_eq(iomap_bdev_revalidate(bdev), 0);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB, "whole blocks");
	cr_assert_eq(bt_write(bdev, MIB, out, 4096), 0);
	cr_assert_eq(bt_read(bdev, MIB, in, 4096), 0);
	cr_assert_eq(memcmp(in, out, 4096), 0);
	cr_assert_eq(bt_write(bdev, 2 * MIB, out, 512), -EIO);
	cr_assert_eq(iomap_bdev_revalidate(bdev), 0, "as it was");
	cr_assert_eq(iomap_bdev_set_bytes(bdev, 4 * MIB), -EINVAL, "a file is asked");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(out);
	free(in);
	t_temp_free(path);
}

Test(bd06_gone, bd06_a_block_device_grows)
{
	char *path = t_temp(MIB), name[64];
	unsigned char *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name));

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, name, 0);
	cr_assert_eq(iomap_bdev_bytes(bdev), MIB);
	cr_assert_eq(truncate(path, 3 * MIB), 0);
	cr_assert_eq(ioctl(fd, LOOP_SET_CAPACITY), 0);
	cr_assert_eq(bt_write(bdev, 2 * MIB, buf, 4096), -EIO);
	cr_assert_eq(iomap_bdev_revalidate(bdev), 0);
	cr_assert_eq(iomap_bdev_bytes(bdev), 3U * MIB);
	cr_assert_eq(bt_write(bdev, 2 * MIB, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	close(fd);
	free(buf);
	t_temp_free(path);
}

static uint64_t asked_bytes;
static int asked_error;

static int tell_bytes(struct iomap_bdev *bdev, uint64_t *bytes)
{
	(void)bdev;
	*bytes = asked_bytes;
	return asked_error;
}

static void end_at_once(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	iomap_bio_endio(bio);
}

Test(bd06_gone, bd06_a_device_of_the_application_grows)
{
	const struct iomap_bdev_ops ops = { .submit_bio = end_at_once, .revalidate = tell_bytes };
	unsigned char buf[512] = { 0 };
	struct iomap_bdev *bdev;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	/* one that says so */
	td = td_new(&bt.engine, MIB, NULL);
	cr_assert_eq(iomap_bdev_set_bytes(td->bdev, MIB + 100), -EINVAL);
	cr_assert_eq(iomap_bdev_set_bytes(td->bdev, MIB / 2), -ERANGE);
	cr_assert_eq(bt_io(td->bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(iomap_bdev_revalidate(td->bdev), 0);
	cr_assert_eq(iomap_bdev_bytes(td->bdev), MIB);
	td->mem = realloc(td->mem, 2 * MIB);
	td->bytes = 2 * MIB;
	cr_assert_eq(bt_write(td->bdev, MIB, buf, 512), -EIO);
	cr_assert_eq(iomap_bdev_set_bytes(td->bdev, 2 * MIB), 0);
	cr_assert_eq(bt_write(td->bdev, MIB, buf, 512), 0);
	td_free(td);
	/* and one that is asked */
	cr_assert_eq(iomap_bdev_create(&bt.engine, &ops, MIB, NULL, NULL, &bdev), 0);
	cr_assert_eq(iomap_bdev_set_bytes(bdev, 2 * MIB), -EINVAL);
	asked_bytes = 2 * MIB + 511;
	cr_assert_eq(iomap_bdev_revalidate(bdev), 0);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	asked_error = -ETIMEDOUT;
	asked_bytes = 0;
	cr_assert_eq(iomap_bdev_revalidate(bdev), -ETIMEDOUT);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	asked_error = -ENODEV;
	cr_assert_eq(iomap_bdev_revalidate(bdev), -ENODEV);
	asked_error = 0;
	cr_assert_eq(bt_read(bdev, 0, buf, 512), -ENODEV, "it was for good");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

Test(bd06_gone, bd06_stacked_devices_when_the_lower_one_grows)
{
	struct iomap_fault fault = { .size = sizeof(fault), .kind = IOMAP_FAULT_FAIL,
				     .ops = IOMAP_FAULT_ON_FLUSH, .error = -EILSEQ };
	struct iomap_bdev *faulty, *log;
	unsigned char *image = bt_buffer(MIB);
	struct iomap_replay *replay;
	struct iomap_replay_info info;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, NULL);
	cr_assert_eq(iomap_writelog_create(td->bdev, NULL, &log), 0);
	cr_assert_eq(iomap_faulty_create(td->bdev, NULL, &faulty), 0);
	cr_assert_eq(iomap_faulty_add(faulty, &fault, NULL), 0);
	td->mem = realloc(td->mem, 2 * MIB);
	td->bytes = 2 * MIB;
	cr_assert_eq(iomap_bdev_set_bytes(td->bdev, 2 * MIB), 0);
	cr_assert_eq(iomap_bdev_revalidate(faulty), 0);
	cr_assert_eq(iomap_bdev_bytes(faulty), 2U * MIB);
	cr_assert_eq(bt_io(faulty, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), -EILSEQ, "still all of it");
	cr_assert_eq(iomap_bdev_revalidate(log), 0);
	cr_assert_eq(iomap_bdev_bytes(log), MIB, "as it began");
	cr_assert_eq(iomap_writelog_restart(log), 0);
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	cr_assert_eq(iomap_replay_info(replay, &info, sizeof(info)), 0);
	cr_assert_eq(info.bytes, MIB);
	iomap_replay_close(replay);
	/* and vanishes */
	iomap_bdev_set_gone(td->bdev);
	cr_assert_eq(bt_read(faulty, 0, image, 512), -ENODEV);
	cr_assert_eq(bt_write(log, 0, image, 512), -ENODEV);
	cr_assert_eq(iomap_bdev_revalidate(faulty), -ENODEV);
	cr_assert_eq(iomap_bdev_close(faulty), 0);
	cr_assert_eq(iomap_bdev_close(log), 0);
	td_free(td);
	bt_stop(&bt);
	free(image);
}

Test(bd06_gone, bd06_a_device_that_has_shrunk_keeps_its_size_and_says_so)
{
	char *path = t_temp(2 * MIB);
	unsigned char *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(truncate(path, MIB), 0);
	cr_assert_eq(bt_read(bdev, MIB, buf, 4096), -EIO, "from below");
	cr_assert_eq(iomap_bdev_revalidate(bdev), -ERANGE);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, "has shrunk"), 1U);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	cr_assert_eq(bt_read(bdev, 0, buf, 4096), 0, "it is not gone");
	cr_assert_eq(truncate(path, 2 * MIB), 0);
	cr_assert_eq(iomap_bdev_revalidate(bdev), 0);
	cr_assert_eq(bt_read(bdev, MIB, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- vanishing ---- */

static int range_io(struct iomap_bdev *bdev, uint32_t op)
{
	struct iomap_bio *bio = bt_bio(bdev, op, 0, NULL, 0);
	int status;

	bio->bi_iter.bi_size = 4096;
	status = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return status;
}

static void all_is_gone(struct bt *bt, struct iomap_bdev *bdev)
{
	unsigned char *buf = bt_buffer(4096);
	uint64_t bytes = iomap_bdev_bytes(bdev);
	struct bt_latch latch = { .blk = bt->engine.blk, .left = 1 };
	struct iomap_plug plug;

	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	iomap_start_plug(&plug);
	if (bdev->kind->queued)
		bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096), &latch);
	iomap_bdev_set_gone(bdev);
	iomap_finish_plug(&plug);
	if (bdev->kind->queued) {
		bt_latch_wait(&latch);
		cr_assert_eq(latch.first_error, -ENODEV, "it had not been started");
	}
	cr_assert_eq(bt_read(bdev, 0, buf, 4096), -ENODEV);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), -ENODEV);
	cr_assert_eq(bt_write(bdev, 0, NULL, 0), -ENODEV);
	cr_assert_eq(bt_read(bdev, bytes, buf, 4096), -ENODEV, "rather than that it is outside");
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), -ENODEV);
	cr_assert_eq(iomap_bdev_flush(bdev), -ENODEV, "though there is nothing to flush");
	cr_assert_eq(range_io(bdev, IOMAP_REQ_OP_DISCARD), -ENODEV);
	cr_assert_eq(iomap_bdev_write_zeroes(bdev, 0, 4096, 0), -ENODEV);
	cr_assert_eq(iomap_bdev_revalidate(bdev), -ENODEV);
	iomap_bdev_set_gone(bdev);
	cr_assert_eq(t_log_count(&bt->log, IOMAP_LOG_ERROR, "is gone"), 1U);
	cr_assert_eq(bt_stats(bdev).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(bt);
	free(buf);
}

Test(bd06_gone, bd06_a_file_that_is_gone_is_enodev_everywhere)
{
	char *path = t_temp(MIB);
	struct bt bt;

	bt_start(&bt, 1, 0);
	all_is_gone(&bt, bt_open(&bt, path, 0));
	t_temp_free(path);
}

Test(bd06_gone, bd06_memory_that_is_gone_is_enodev_everywhere)
{
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	all_is_gone(&bt, bdev);
}

Test(bd06_gone, bd06_what_waits_in_a_queue_is_not_started)
{
	enum { BIOS = 200 };
	char *path = t_temp(MIB);
	unsigned char *buf = bt_buffer(4096);
	struct bt_latch latch;
	struct iomap_bdev *bdev;
	struct iomap_bdev_stats stats;
	struct bt bt;

	bt_start(&bt, 1, 1);
	bdev = bt_open(&bt, path, 0);
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = BIOS };
	for (int i = 0; i < BIOS; i++) {
		/* the one place in the queue is taken from the first on; this thread reaps */
		if (i == BIOS / 2)
			iomap_bdev_set_gone(bdev);
		bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096), &latch);
	}
	bt_latch_wait(&latch);
	stats = bt_stats(bdev);
	cr_assert_eq(latch.first_error, -ENODEV);
	cr_assert_eq(stats.reads_nr, stats.read_bytes / 4096 + stats.errors_nr);
	cr_assert_leq(stats.read_bytes, BIOS / 2 * 4096U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);

	/* All at once: while the first is with the kernel the others wait in the backlog. */
	bdev = bt_open(&bt, path, 0);
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 20 };
	struct iomap__bio_list list = { 0 };

	for (int i = 0; i < 20; i++) {
		struct iomap_bio *bio = bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096);

		bio->bi_private = &latch;
		bio->bi_end_io = bt_latch_end;
		iomap__bio_list_add(&list, bio);
	}
	bt.engine.blk->queues[0].active = 1; /* as if somebody had the place */
	iomap__queue_submit(&bt.engine.blk->queues[0], &list, true);
	iomap_bdev_set_gone(bdev);
	bt.engine.blk->queues[0].active = 0;
	list = (struct iomap__bio_list){ 0 };
	iomap__bio_list_add(&list, bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096));
	list.first->bi_private = &latch;
	list.first->bi_end_io = bt_latch_end;
	latch.left++;
	iomap__queue_submit(&bt.engine.blk->queues[0], &list, true);
	bt_latch_wait(&latch);
	cr_assert_eq(latch.first_error, -ENODEV);
	cr_assert_eq(bt.engine.blk->queues[0].active, 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* The file system in memory is read and written by this thread: it can be told what to get. */
Test(bd06_gone, bd06_enxio_from_the_kernel_sticks)
{
	char *path = bt_tmpfs_file(MIB);
	unsigned char *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	if (strcmp(iomap_bdev_io_path(bdev), "inline") != 0)
		cr_skip_test("/dev/shm takes RWF_NOWAIT");
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	t_deny(SYS_preadv2, ENXIO);
	cr_assert_eq(bt_read(bdev, 0, buf, 4096), -ENODEV);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), -ENODEV, "though it would work");
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, "is gone"), 1U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- while many threads use it ---- */

struct user {
	struct iomap_bdev *bdev;
	_Atomic unsigned *rounds;
	atomic_bool *gone;
	unsigned id;
};

/* Until the device is gone; from then on there is nothing else any more. */
static long use(void *arg)
{
	struct user *user = arg;
	unsigned char *buf = bt_buffer(8 * 4096);
	bool was_gone, seen = false;
	int status;

	for (unsigned after = 0; after < 20; after += seen) {
		was_gone = atomic_load(user->gone);
		status = bt_io(user->bdev, user->id & 1 ? IOMAP_REQ_OP_READ : IOMAP_REQ_OP_WRITE,
			       user->id * 8 * 4096, buf, 8 * 4096);
		t_must(status == -ENODEV || (status == 0 && !seen && !was_gone));
		seen |= status == -ENODEV;
		if (after == 10)
			t_must(iomap_bdev_flush(user->bdev) == -ENODEV);
		atomic_fetch_add(user->rounds, 1);
	}
	free(buf);
	return 0;
}

static void gone_in_use(struct iomap_bdev *bdev)
{
	_Atomic unsigned rounds = 0;
	atomic_bool gone = false;
	struct t_task task[6];
	struct user user[6];

	for (unsigned i = 0; i < 6; i++) {
		user[i] = (struct user){ bdev, &rounds, &gone, i };
		t_start(&task[i], use, &user[i]);
	}
	while (atomic_load(&rounds) < 300)
		sched_yield();
	iomap_bdev_set_gone(bdev);
	atomic_store(&gone, true);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(bt_stats(bdev).inflight_nr, 0U);
}

Test(bd06_gone, bd06_gone_while_threads_use_a_file)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 2);
	bdev = bt_open(&bt, path, 0);
	gone_in_use(bdev);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd06_gone, bd06_gone_while_threads_use_a_device_with_a_thread_of_its_own)
{
	const struct iomap_bdev_limits limits = {
		.logical_block_size = 512,
		.physical_block_size = 512,
		.dma_alignment = 1,
		.max_segments_nr = 1,
		.max_transfer_bytes = 4096,
	};
	struct td *td;
	struct bt bt;

	bt_start(&bt, 2, 0);
	td = td_new(&bt.engine, MIB, &limits); /* so that each bio is eight */
	td_async(td);
	gone_in_use(td->bdev);
	td_free(td);
	bt_stop(&bt);
}

struct grower {
	struct iomap_bdev *bdev;
	const char *path;
};

static long grow(void *arg)
{
	struct grower *grower = arg;
	uint64_t last = 0, now;

	for (unsigned i = 2; i < 60; i++) {
		t_must(truncate(grower->path, (off_t)i * 65536) == 0 || errno == EINTR);
		t_must(iomap_bdev_revalidate(grower->bdev) == 0);
		now = iomap_bdev_bytes(grower->bdev);
		t_must(now >= (uint64_t)i * 65536 && now >= last);
		last = now;
	}
	return 0;
}

static long ask(void *arg)
{
	struct grower *grower = arg;
	unsigned char *buf = bt_buffer(4096);
	uint64_t bytes;

	for (unsigned i = 0; i < 200; i++) {
		t_must(iomap_bdev_revalidate(grower->bdev) == 0);
		bytes = iomap_bdev_bytes(grower->bdev);
		t_must(bt_read(grower->bdev, bytes - 4096, buf, 4096) == 0);
	}
	free(buf);
	return 0;
}

Test(bd06_gone, bd06_growing_while_threads_use_it)
{
	char *path = t_temp(65536);
	struct grower grower = { .path = path };
	struct t_task task[4];
	struct bt bt;

	bt_start(&bt, 2, 0);
	grower.bdev = bt_open(&bt, path, 0);
	for (unsigned i = 0; i < 4; i++)
		t_start(&task[i], i ? ask : grow, &grower);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(iomap_bdev_bytes(grower.bdev), 59U * 65536);
	cr_assert_eq(iomap_bdev_close(grower.bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}
