/* SPDX-License-Identifier: MIT */
/*
 * blktest.h - the block layer alone: an engine without a cache, and bios in one line.
 */
#ifndef BLKTEST_H
#define BLKTEST_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/internal.h"
#include "testutil.h"

#define BT_PAGE 4096U

struct bt {
	struct iomap_engine engine;
	struct t_log log;
};

/* With $IOMAP_BACKEND. */
static inline struct iomap_engine *bt_start(struct bt *bt, uint32_t queues, uint32_t depth)
{
	int error;

	memset(bt, 0, sizeof(*bt));
	t_log_init(&bt->log);
	bt->engine.state = IOMAP__ENGINE_OPEN;
	bt->engine.opts.nr_queues = queues;
	bt->engine.opts.queue_depth = depth;
	bt->engine.opts.log = t_log_line;
	bt->engine.opts.log_ctx = &bt->log;
	bt->engine.opts.log_per_second = 1000;
	iomap__env_init(&bt->engine.env, &bt->engine.opts);
	error = iomap__blk_create(&bt->engine);
	cr_assert_eq(error, 0, "block layer: %s", strerror(-error));
	return &bt->engine;
}

static inline void bt_stop(struct bt *bt)
{
	cr_assert(!iomap__blk_busy(&bt->engine));
	iomap__blk_destroy(&bt->engine);
}

static inline struct iomap_bdev *bt_open(struct bt *bt, const char *path, uint32_t flags)
{
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = flags };
	struct iomap_bdev *bdev = NULL;
	int error = iomap_bdev_open(&bt->engine, path, &opts, &bdev);

	cr_assert_eq(error, 0, "%s: %s", path, strerror(-error));
	return bdev;
}

static inline void *bt_buffer(size_t bytes)
{
	void *buf = aligned_alloc(BT_PAGE, iomap__round_up(bytes, BT_PAGE));

	t_must(buf);
	memset(buf, 0, bytes);
	return buf;
}

static inline struct iomap_bio *bt_bio(struct iomap_bdev *bdev, uint32_t opf, uint64_t pos,
				       void *buf, size_t bytes)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);

	t_must(bio);
	bio->bi_iter.bi_sector = pos >> IOMAP_SECTOR_SHIFT;
	if (bytes)
		t_must(iomap_bio_add(bio, buf, bytes));
	return bio;
}

/* One bio, and its bi_status. */
static inline int bt_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t pos, void *buf,
			size_t bytes)
{
	struct iomap_bio *bio = bt_bio(bdev, opf, pos, buf, bytes);
	int status = iomap_submit_bio_wait(bio);

	iomap_bio_put(bio);
	return status;
}

static inline int bt_read(struct iomap_bdev *bdev, uint64_t pos, void *buf, size_t bytes)
{
	return bt_io(bdev, IOMAP_REQ_OP_READ, pos, buf, bytes);
}

static inline int bt_write(struct iomap_bdev *bdev, uint64_t pos, void *buf, size_t bytes)
{
	return bt_io(bdev, IOMAP_REQ_OP_WRITE, pos, buf, bytes);
}

static inline struct iomap_bdev_stats bt_stats(struct iomap_bdev *bdev)
{
	struct iomap_bdev_stats stats;

	t_must(iomap_bdev_stats(bdev, &stats, sizeof(stats)) == 0);
	return stats;
}

static inline uint64_t bt_flushes(struct bt *bt)
{
	struct iomap_engine_stats stats;

	iomap__blk_stats(&bt->engine, &stats);
	return stats.flushes_nr;
}

/* A countdown that a bi_end_io moves and a thread waits for. */
struct bt_latch {
	struct iomap__blk *blk;
	uint32_t left;
	_Atomic int first_error;
};

static inline void bt_latch_end(struct iomap_bio *bio)
{
	struct bt_latch *latch = bio->bi_private;
	struct iomap__blk *blk = latch->blk;
	int none = 0;

	if (bio->bi_status)
		atomic_compare_exchange_strong(&latch->first_error, &none, bio->bi_status);
	iomap_bio_put(bio);
	if (iomap__fetch_sub(&latch->left, 1) == 1)
		iomap__io_wake(blk, &latch->left);
}

static inline void bt_latch_wait(struct bt_latch *latch)
{
	uint32_t left;

	while ((left = iomap__load_acquire(&latch->left)))
		iomap__io_wait(latch->blk, &latch->left, left);
}

static inline void bt_submit(struct iomap_bio *bio, struct bt_latch *latch)
{
	bio->bi_private = latch;
	bio->bi_end_io = bt_latch_end;
	iomap_submit_bio(bio);
}

/* A file in memory whose file system refuses RWF_NOWAIT; NULL where there is none. */
static inline char *bt_tmpfs_file(uint64_t bytes)
{
	char path[] = "/dev/shm/iomap-test-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		return NULL;
	t_must(ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
	return strdup(path);
}

/* A loop device over @path, or skip.  Closing the descriptor takes it down again. */
static inline int bt_loop_device(const char *path, char *name, size_t size)
{
	struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file, fd, nr;

	if (control < 0)
		cr_skip_test("no loop devices");
	file = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_geq(file, 0);
	for (int tries = 0; tries < 20; tries++) {
		nr = ioctl(control, LOOP_CTL_GET_FREE);
		if (nr < 0)
			break;
		snprintf(name, size, "/dev/loop%d", nr);
		fd = open(name, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			break;
		if (ioctl(fd, LOOP_SET_FD, file) == 0) {
			cr_assert_eq(ioctl(fd, LOOP_SET_STATUS64, &info), 0);
			close(file);
			close(control);
			return fd;
		}
		close(fd); /* somebody else was faster */
	}
	cr_skip_test("no loop device to be had");
	return -1;
}

#endif
