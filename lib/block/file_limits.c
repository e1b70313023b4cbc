/* SPDX-License-Identifier: MIT */
/*
 * file_limits.c - what a regular file or a block device can do.
 *
 * Three sources: statx() for the alignment of direct I/O and for atomic writes; ioctls and
 * /sys/dev/block for block devices, also for the one under a file system; and trying, where
 * nobody says (RWF_NOWAIT, holes, and alignment on kernels before 6.1).  What cannot be found
 * out is taken to be the worse: a write cache, no FUA, no discard.
 *
 * Left out: the alignment of discards of a partition that begins inside a granule; the device
 * leaves out what it cannot discard.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "block/internal.h"

#define LIM_MAX_TRANSFER (UINT64_C(1) << 30) /* the kernel moves less than 2 GiB at once */
#define LIM_PROBE_BYTES 4096U
#define LIM_FAR_BYTES (INT64_C(1) << 40) /* nobody writes so far behind the end of a file */

/* The C library's struct statx may be older than the kernel. */
#define LIM_STATX_DIOALIGN 0x00002000U	   /* Linux 6.1 */
#define LIM_STATX_WRITE_ATOMIC 0x00010000U /* Linux 6.11 */
struct lim_statx {
	uint32_t stx_mask;
	uint8_t other[0x94];
	uint32_t stx_dio_mem_align;
	uint32_t stx_dio_offset_align;
	uint64_t stx_subvol;
	uint32_t stx_atomic_write_unit_min;
	uint32_t stx_atomic_write_unit_max;
	uint32_t stx_atomic_write_segments_max;
	uint32_t spare[19];
};
_Static_assert(offsetof(struct lim_statx, stx_dio_mem_align) == 0x98 &&
		       offsetof(struct lim_statx, stx_atomic_write_unit_min) == 0xa8 &&
		       sizeof(struct lim_statx) == 256,
	       "the kernel's layout");

/* ---- direct I/O ---- */

/* The smallest transfer that is not refused; an empty file refuses nothing. */
static uint32_t lim_probe_align(int fd)
{
	_Alignas(LIM_PROBE_BYTES) unsigned char buffer[LIM_PROBE_BYTES];
	uint32_t align;

	for (align = IOMAP_SECTOR_SIZE; align < LIM_PROBE_BYTES; align *= 2)
		if (pread(fd, buffer, align, 0) > 0)
			return align;
	return LIM_PROBE_BYTES;
}

static uint32_t lim_valid_block(uint32_t bytes)
{
	return iomap__is_pow2(bytes) && bytes >= IOMAP_SECTOR_SIZE ? bytes : IOMAP_SECTOR_SIZE;
}

/* What is allowed never needs to be split: both limits are powers of two. */
static void lim_atomic(const struct lim_statx *stx, struct iomap_bdev_limits *limits)
{
	uint32_t min = stx->stx_atomic_write_unit_min, max = stx->stx_atomic_write_unit_max;
	uint32_t segments = iomap__max(stx->stx_atomic_write_segments_max, 1U);

	if (!(stx->stx_mask & LIM_STATX_WRITE_ATOMIC) || !iomap__is_pow2(min) ||
	    !iomap__is_pow2(max))
		return;
	min = iomap__max(min, limits->logical_block_size);
	max = (uint32_t)iomap__min(max, limits->max_transfer_bytes);
	if (max < min)
		return;
	limits->atomic_write_min_bytes = min;
	limits->atomic_write_max_bytes = max;
	limits->atomic_write_segments_nr = iomap__min(segments, limits->max_segments_nr);
}

/* 0, or -EOPNOTSUPP when the file cannot do direct I/O after all. */
static int lim_direct(int fd, struct iomap_bdev_limits *limits)
{
	struct lim_statx stx;
	uint32_t memory, offset;

	memset(&stx, 0, sizeof(stx));
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH,
		    LIM_STATX_DIOALIGN | LIM_STATX_WRITE_ATOMIC, &stx) == 0 &&
	    stx.stx_mask & LIM_STATX_DIOALIGN) {
		memory = stx.stx_dio_mem_align;
		offset = stx.stx_dio_offset_align;
	} else {
		memory = offset = lim_probe_align(fd);
	}
	if (!memory || !offset)
		return -EOPNOTSUPP;
	limits->logical_block_size = lim_valid_block(offset);
	limits->dma_alignment = iomap__is_pow2(memory) ? memory : limits->logical_block_size;
	lim_atomic(&stx, limits);
	return 0;
}

/* Whether I/O that would block may be refused instead. */
static bool lim_takes_nowait(int fd)
{
	_Alignas(LIM_PROBE_BYTES) unsigned char buffer[LIM_PROBE_BYTES];
	struct iovec iov = { .iov_base = buffer, .iov_len = sizeof(buffer) };

	/* Checked before the position, so an empty file answers as well. */
	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

/* ---- the queue of a block device, in sysfs ---- */

/* Read attribute @name of the queue of @dev; of a partition that of its disk. */
static bool lim_sysfs(dev_t dev, const char *name, char *text, size_t size)
{
	char path[128];
	unsigned i;

	for (i = 0; i < 2; i++) {
		ssize_t len;
		int fd;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev),
			 minor(dev), i ? "../" : "", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		len = read(fd, text, size - 1);
		close(fd);
		if (len <= 0)
			return false;
		text[len] = '\0';
		return true;
	}
	return false;
}

uint64_t iomap__file_queue_number(dev_t dev, const char *name)
{
	char text[32];

	return lim_sysfs(dev, name, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
}

static void lim_cache(dev_t dev, struct iomap_bdev_limits *limits)
{
	char text[32];

	if (!lim_sysfs(dev, "write_cache", text, sizeof(text)) ||
	    strncmp(text, "write through", 13) != 0)
		limits->flags |= IOMAP_BDEV_HAS_WRITE_CACHE;
	if (iomap__file_queue_number(dev, "fua"))
		limits->flags |= IOMAP_BDEV_HAS_FUA;
}

static int lim_block(struct iomap_bdev *bdev, const struct stat *st)
{
	struct iomap_bdev_limits *limits = &bdev->limits;
	unsigned physical = 0;
	uint64_t zeroes;
	int logical = 0;

	if (ioctl(bdev->fd, BLKGETSIZE64, &bdev->bytes) != 0 ||
	    ioctl(bdev->fd, BLKSSZGET, &logical) != 0)
		return -errno;
	limits->logical_block_size =
		iomap__max(limits->logical_block_size, lim_valid_block((uint32_t)logical));
	if (ioctl(bdev->fd, BLKPBSZGET, &physical) == 0 && iomap__is_pow2(physical))
		limits->physical_block_size = physical;
	if (bdev->readonly)
		return 0;
	limits->max_discard_bytes = iomap__file_queue_number(st->st_rdev, "discard_max_bytes");
	if (limits->max_discard_bytes)
		limits->discard_granularity =
			(uint32_t)iomap__file_queue_number(st->st_rdev, "discard_granularity");
	/* A device that has no command for it has zeros written to it by the kernel. */
	zeroes = iomap__file_queue_number(st->st_rdev, "write_zeroes_max_bytes");
	limits->max_write_zeroes_bytes = zeroes ? zeroes : LIM_MAX_TRANSFER;
	return 0;
}

/* ---- regular files ---- */

/* A hole can be made: tried where there is nothing, nor will be by the time it is done. */
static bool lim_takes_holes(int fd, int64_t size)
{
	if (size > INT64_MAX - 2 * LIM_FAR_BYTES)
		return false;
	size = (int64_t)iomap__round_up((uint64_t)size, LIM_PROBE_BYTES);
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, size + LIM_FAR_BYTES,
			 LIM_PROBE_BYTES) == 0 ||
	       errno == EFBIG;
}

static void lim_regular(struct iomap_bdev *bdev, const struct stat *st)
{
	struct iomap_bdev_limits *limits = &bdev->limits;

	bdev->bytes = (uint64_t)st->st_size;
	if (bdev->readonly || !lim_takes_holes(bdev->fd, st->st_size))
		return;
	limits->flags |= IOMAP_BDEV_HAS_ZEROING_DISCARD;
	limits->max_discard_bytes = LIM_MAX_TRANSFER;
	limits->max_write_zeroes_bytes = LIM_MAX_TRANSFER;
	limits->discard_granularity = (uint32_t)st->st_blksize;
}

int iomap__file_limits(struct iomap_bdev *bdev, const struct stat *st)
{
	struct iomap_bdev_limits *limits = &bdev->limits;
	bool block = S_ISBLK(st->st_mode);
	int error = 0;

	*limits = (struct iomap_bdev_limits){
		.logical_block_size = IOMAP_SECTOR_SIZE,
		.physical_block_size = IOMAP_SECTOR_SIZE,
		.dma_alignment = 1,
		.max_segments_nr = IOMAP_BIO_MAX_VECS,
		.max_transfer_bytes = LIM_MAX_TRANSFER,
	};
	bdev->block = block;
	if (bdev->direct)
		error = lim_direct(bdev->fd, limits);
	if (!error && block)
		error = lim_block(bdev, st);
	else if (!error)
		lim_regular(bdev, st);
	if (error)
		return error;
	if (bdev->direct)
		lim_cache(block ? st->st_rdev : st->st_dev, limits);
	else
		limits->flags |= IOMAP_BDEV_HAS_WRITE_CACHE;
	if (lim_takes_nowait(bdev->fd))
		limits->flags |= IOMAP_BDEV_HAS_NOWAIT;
	limits->physical_block_size =
		iomap__max(limits->physical_block_size, limits->logical_block_size);
	if (!iomap__is_pow2(limits->discard_granularity) ||
	    limits->discard_granularity < limits->logical_block_size)
		limits->discard_granularity = limits->logical_block_size;
	limits->max_discard_bytes =
		iomap__round_down(limits->max_discard_bytes, limits->logical_block_size);
	limits->max_write_zeroes_bytes =
		iomap__round_down(limits->max_write_zeroes_bytes, limits->logical_block_size);
	bdev->bytes = iomap__round_down(bdev->bytes, limits->logical_block_size);
	return 0;
}
