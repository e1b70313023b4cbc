/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd01_devices.c - opening a device finds out what it can do, and is exclusive.
 *
 * What the library says is held against what the test reads from the kernel itself.
 */
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "blktest.h"

#define MIB (1024U * 1024U)

static struct iomap_bdev_limits limits_of(struct iomap_bdev *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits;
}

/* An attribute of a queue, or of what lies beside it; false where there is none. */
static bool attribute(dev_t dev, const char *name, char *text, size_t size)
{
	char path[160];
	FILE *file;
	bool there;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/%s", major(dev), minor(dev), name);
	file = fopen(path, "re");
	if (!file) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/%s", major(dev),
			 minor(dev), name);
		file = fopen(path, "re");
	}
	if (!file)
		return false;
	there = fgets(text, (int)size, file) != NULL;
	fclose(file);
	return there;
}

static uint64_t number(dev_t dev, const char *name)
{
	char text[64];

	cr_assert(attribute(dev, name, text, sizeof(text)), "no %s", name);
	return strtoull(text, NULL, 10);
}

/* What sysfs says, or must be taken for granted where it says nothing. */
static uint32_t cache_flags(dev_t dev)
{
	char text[64];
	uint32_t flags = 0;

	if (!attribute(dev, "write_cache", text, sizeof(text)) ||
	    strcmp(text, "write through\n") != 0)
		flags |= IOMAP_BDEV_HAS_WRITE_CACHE;
	if (attribute(dev, "fua", text, sizeof(text)) && text[0] == '1')
		flags |= IOMAP_BDEV_HAS_FUA;
	return flags;
}

#define CACHE_FLAGS (IOMAP_BDEV_HAS_WRITE_CACHE | IOMAP_BDEV_HAS_FUA)

Test(bd01_devices, bd01_a_file_says_what_it_can)
{
	char *path = t_temp(2 * MIB);
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	struct stat st;
	struct bt bt;
	int fd;

	cr_assert_eq(stat(path, &st), 0);
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	limits = limits_of(bdev);
	cr_assert_eq(limits.flags & CACHE_FLAGS, cache_flags(st.st_dev));
	cr_assert(iomap__is_pow2(limits.logical_block_size));
	cr_assert(iomap__is_pow2(limits.dma_alignment));
	cr_assert_geq(limits.physical_block_size, limits.logical_block_size);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	cr_assert_eq(iomap_bdev_close(bdev), 0);

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0) {
		cr_assert(limits.flags & IOMAP_BDEV_HAS_ZEROING_DISCARD);
		cr_assert_gt(limits.max_discard_bytes, 0U);
		cr_assert_gt(limits.max_write_zeroes_bytes, 0U);
		cr_assert_eq(limits.discard_granularity, (uint32_t)st.st_blksize);
	} else {
		cr_assert_eq(limits.max_discard_bytes, 0U);
	}
	close(fd);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd01_devices, bd01_trying_for_holes_leaves_the_file_as_it_was)
{
	char *path = t_temp(0);
	unsigned char *out = bt_buffer(65536), *in = bt_buffer(65536);
	struct iomap_bdev *bdev;
	struct stat before, after;
	struct bt bt;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	t_fill(out, 65536, 0, 5);
	cr_assert_eq(pwrite(fd, out, 65536, 0), 65536);
	/* blocks that are reserved behind the end stay as well */
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 65536, MIB) != 0)
		cr_log_info("no reservation here");
	cr_assert_eq(fsync(fd), 0);
	cr_assert_eq(fstat(fd, &before), 0);
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(fstat(fd, &after), 0);
	cr_assert_eq(after.st_size, before.st_size);
	cr_assert_eq(after.st_blocks, before.st_blocks);
	cr_assert_eq(pread(fd, in, 65536, 0), 65536);
	cr_assert_eq(memcmp(in, out, 65536), 0);
	close(fd);
	bt_stop(&bt);
	free(out);
	free(in);
	t_temp_free(path);
}

Test(bd01_devices, bd01_read_only_means_no_discard)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_READONLY);
	cr_assert_eq(limits_of(bdev).max_discard_bytes, 0U);
	cr_assert_eq(limits_of(bdev).max_write_zeroes_bytes, 0U);
	cr_assert_eq(iomap_bdev_discard(bdev, 0, 4096), -EROFS);
	cr_assert_eq(iomap_bdev_write_zeroes(bdev, 0, 4096, 0), -EROFS);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd01_devices, bd01_a_file_without_direct_io_has_a_cache_in_front)
{
	char *path = bt_tmpfs_file(MIB);
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	struct bt bt;

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	limits = limits_of(bdev);
	cr_assert_eq(limits.flags & CACHE_FLAGS, IOMAP_BDEV_HAS_WRITE_CACHE);
	cr_assert_eq(!(limits.flags & IOMAP_BDEV_HAS_NOWAIT),
		     strcmp(iomap_bdev_io_path(bdev), "inline") == 0);
	cr_assert_eq(limits.atomic_write_max_bytes, 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd01_devices, bd01_memory_says_what_it_can)
{
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	limits = limits_of(bdev);
	cr_assert_eq(limits.flags, IOMAP_BDEV_HAS_FUA | IOMAP_BDEV_HAS_NOWAIT |
					   IOMAP_BDEV_HAS_ZEROING_DISCARD);
	cr_assert_gt(limits.max_discard_bytes, 0U);
	cr_assert_gt(limits.max_write_zeroes_bytes, 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

/* ---- block devices ---- */

static void device_is_as_sysfs_says(struct bt *bt, const char *name)
{
	struct iomap_bdev *bdev = bt_open(bt, name, 0);
	struct iomap_bdev_limits limits = limits_of(bdev);
	uint64_t zeroes, bytes = 0;
	unsigned physical = 0;
	struct stat st;
	int logical = 0, fd = open(name, O_RDONLY | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq(ioctl(fd, BLKGETSIZE64, &bytes), 0);
	cr_assert_eq(ioctl(fd, BLKSSZGET, &logical), 0);
	cr_assert_eq(ioctl(fd, BLKPBSZGET, &physical), 0);
	close(fd);
	cr_assert_eq(iomap_bdev_bytes(bdev), bytes);
	cr_assert_eq(limits.logical_block_size, (uint32_t)logical);
	cr_assert_eq(limits.physical_block_size, iomap__max(physical, (uint32_t)logical));
	cr_assert_eq(limits.flags & CACHE_FLAGS, cache_flags(st.st_rdev));
	cr_assert_eq(limits.max_discard_bytes,
		     iomap__round_down(number(st.st_rdev, "discard_max_bytes"), (uint64_t)logical));
	if (limits.max_discard_bytes)
		cr_assert_eq(limits.discard_granularity,
			     iomap__max(number(st.st_rdev, "discard_granularity"),
					(uint64_t)logical));
	zeroes = number(st.st_rdev, "write_zeroes_max_bytes");
	if (zeroes)
		cr_assert_eq(limits.max_write_zeroes_bytes,
			     iomap__round_down(zeroes, (uint64_t)logical));
	else
		cr_assert_gt(limits.max_write_zeroes_bytes, 0U, "the kernel does it");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
}

/* Change an attribute of the queue of @name (/dev/...); false where that is not allowed. */
static bool set_attribute(const char *name, const char *attr, const char *value)
{
	char path[160];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/%s", name + strlen("/dev/"), attr);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	done = write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	close(fd);
	return done;
}

Test(bd01_devices, bd01_a_block_device_says_what_it_can)
{
	char *path = t_temp(4 * MIB), name[64], discard[32];
	struct stat st;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name));

	bt_start(&bt, 1, 0);
	device_is_as_sysfs_says(&bt, name);
	/* and not because it always says the same */
	if (set_attribute(name, "write_cache", "write through"))
		device_is_as_sysfs_says(&bt, name);
	if (set_attribute(name, "write_cache", "write back"))
		device_is_as_sysfs_says(&bt, name);
	/* This outlives the use of the loop device, and from 0 there is no way back. */
	cr_assert_eq(fstat(fd, &st), 0);
	snprintf(discard, sizeof(discard), "%llu",
		 (unsigned long long)iomap__round_down(number(st.st_rdev, "discard_max_hw_bytes"),
						       65536U));
	if (set_attribute(name, "discard_max_bytes", "65536"))
		device_is_as_sysfs_says(&bt, name);
	(void)set_attribute(name, "discard_max_bytes", discard);
	if (ioctl(fd, LOOP_SET_BLOCK_SIZE, 4096) == 0)
		device_is_as_sysfs_says(&bt, name);
	close(fd);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd01_devices, bd01_a_partition_has_the_queue_of_its_disk)
{
	char *path = t_temp(4 * MIB), name[64], partition[80];
	struct blkpg_partition where = { .start = MIB, .length = 2 * MIB, .pno = 1 };
	struct blkpg_ioctl_arg arg = { .op = BLKPG_ADD_PARTITION, .data = &where,
				       .datalen = sizeof(where) };
	struct loop_info64 info;
	struct iomap_bdev *bdev;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name));

	cr_assert_eq(ioctl(fd, LOOP_GET_STATUS64, &info), 0);
	info.lo_flags |= LO_FLAGS_PARTSCAN;
	snprintf(partition, sizeof(partition), "%sp1", name);
	if (ioctl(fd, LOOP_SET_STATUS64, &info) != 0 || ioctl(fd, BLKPG, &arg) != 0 ||
	    access(partition, F_OK) != 0) {
		close(fd);
		t_temp_free(path);
		cr_skip_test("no partitions of loop devices");
	}
	bt_start(&bt, 1, 0);
	device_is_as_sysfs_says(&bt, partition);
	bdev = bt_open(&bt, partition, 0);
	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	cr_assert_gt(limits_of(bdev).max_discard_bytes, 0U, "of a loop device");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	arg.op = BLKPG_DEL_PARTITION;
	cr_assert_eq(ioctl(fd, BLKPG, &arg), 0);
	close(fd);
	t_temp_free(path);
}

/* ---- exclusive ---- */

/* Another process has @path open for as long as it lives; then what this one gets. */
static void second_process(const char *path)
{
	struct iomap_bdev *bdev;
	struct bt bt;
	int to[2], from[2];
	char byte = 0;
	pid_t child;

	t_must(pipe(to) == 0 && pipe(from) == 0);
	child = fork();
	t_must(child >= 0);
	if (!child) {
		struct bt its;

		/* when the test fails this process has to end as well */
		close(to[1]);
		bt_start(&its, 1, 0);
		bdev = bt_open(&its, path, 0);
		t_must(write(from[1], "o", 1) == 1 && read(to[0], &byte, 1) == 1);
		t_must(iomap_bdev_close(bdev) == 0);
		bt_stop(&its);
		_exit(0);
	}
	t_must(read(from[0], &byte, 1) == 1);
	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, path, NULL, &bdev), -EBUSY, "%s", path);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, path), 1U);
	t_must(write(to[1], "x", 1) == 1);
	t_must(waitpid(child, NULL, 0) == child);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	close(to[0]);
	close(to[1]);
	close(from[0]);
	close(from[1]);
}

Test(bd01_devices, bd01_a_file_is_not_opened_by_a_second_process)
{
	char *path = t_temp(MIB);

	second_process(path);
	t_temp_free(path);
}

Test(bd01_devices, bd01_a_device_is_not_opened_by_a_second_process)
{
	char *path = t_temp(MIB), name[64];
	int fd = bt_loop_device(path, name, sizeof(name));

	second_process(name);
	close(fd);
	t_temp_free(path);
}

Test(bd01_devices, bd01_a_device_is_opened_once_unless_shared)
{
	struct iomap_bdev_opts shared = { .size = sizeof(shared), .flags = IOMAP_BDEV_SHARED };
	char *path = t_temp(MIB), name[64];
	struct iomap_bdev *first, *second;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name)), other;

	bt_start(&bt, 1, 0);
	first = bt_open(&bt, name, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, name, NULL, &second), -EBUSY);
	other = open(name, O_RDWR | O_EXCL | O_CLOEXEC);
	cr_assert(other < 0 && errno == EBUSY, "nor by who knows nothing of us");
	cr_assert_eq(iomap_bdev_open(&bt.engine, name, &shared, &second), 0);
	cr_assert_eq(iomap_bdev_close(second), 0);
	cr_assert_eq(iomap_bdev_close(first), 0);
	first = bt_open(&bt, name, 0);
	cr_assert_eq(iomap_bdev_close(first), 0);
	bt_stop(&bt);
	close(fd);
	t_temp_free(path);
}

/* ---- devices of the application ---- */

static void end_at_once(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops end_ops = { .submit_bio = end_at_once };

static int create_with(struct bt *bt, struct iomap_bdev_limits limits)
{
	struct iomap_bdev *bdev;
	int error = iomap_bdev_create(&bt->engine, &end_ops, MIB, &limits, NULL, &bdev);

	if (!error) {
		cr_assert_eq(memcmp(&limits, &(struct iomap_bdev_limits[]){ limits_of(bdev) }[0],
				    sizeof(limits)), 0);
		cr_assert_eq(iomap_bdev_close(bdev), 0);
	}
	return error;
}

Test(bd01_devices, bd01_limits_that_contradict_each_other_are_refused)
{
	const struct iomap_bdev_limits good = {
		.logical_block_size = 4096,
		.physical_block_size = 4096,
		.dma_alignment = 512,
		.max_segments_nr = 16,
		.max_transfer_bytes = MIB,
		.flags = IOMAP_BDEV_HAS_WRITE_CACHE | IOMAP_BDEV_HAS_NOWAIT,
		.discard_granularity = 65536,
		.atomic_write_min_bytes = 4096,
		.atomic_write_max_bytes = 65536,
		.atomic_write_segments_nr = 1,
		.max_discard_bytes = UINT64_MAX,
		.max_write_zeroes_bytes = MIB,
	};
	struct iomap_bdev_limits bad[9];
	struct bt bt;

	for (int i = 0; i < 9; i++)
		bad[i] = good;
	bad[0].flags = 0x80000000U;
	bad[1].discard_granularity = 512;
	bad[2].discard_granularity = 65536 + 4096;
	bad[3].atomic_write_min_bytes = 512;
	bad[4].atomic_write_max_bytes = 2 * MIB;
	bad[5].atomic_write_max_bytes = 12288;
	bad[6].atomic_write_segments_nr = 17;
	bad[7].max_discard_bytes = 2048;
	bad[8].atomic_write_max_bytes = 0;
	bt_start(&bt, 1, 0);
	cr_assert_eq(create_with(&bt, good), 0);
	for (int i = 0; i < 9; i++)
		cr_assert_eq(create_with(&bt, bad[i]), -EINVAL, "%d", i);
	bt_stop(&bt);
}
