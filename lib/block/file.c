/* SPDX-License-Identifier: MIT */
/*
 * file.c - devices that are regular files or block devices.
 *
 * Opening: O_DIRECT unless it is refused and IOMAP_BDEV_BUFFERED is given; the exclusive
 * lock (O_EXCL on a block device, flock() on a file: both go when the process ends, however
 * it does); the alignment that direct I/O needs, from statx()
 * where the kernel knows, else by trying; the size, cut to whole blocks.
 *
 * A file that refuses RWF_NOWAIT would have each of its requests handed to a kernel worker
 * by io_uring; its I/O is done by the submitting thread (inline.c).
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "block/internal.h"

#define FILE_MAX_TRANSFER (UINT64_C(1) << 30) /* the kernel moves less than 2 GiB at once */
#define FILE_PROBE_BYTES 4096U
#define FILE_FLAGS (IOMAP_BDEV_READONLY | IOMAP_BDEV_BUFFERED | IOMAP_BDEV_SHARED)

/* Linux 6.1; the C library's struct statx may be older than the kernel. */
#define FILE_STATX_DIOALIGN 0x00002000U
#define FILE_STATX_MASK_OFFSET 0
#define FILE_STATX_MEM_ALIGN_OFFSET 0x98
#define FILE_STATX_OFFSET_ALIGN_OFFSET 0x9c
#define FILE_STATX_BYTES 256

static const struct iomap__bdev_kind file_queued_kind;
static const struct iomap__bdev_kind file_inline_kind;

static int file_refuse(struct iomap_engine *engine, const char *path, const char *why, int error)
{
	iomap__log(&engine->env, IOMAP_LOG_ERROR, "%.*s: %s: %s", (int)IOMAP__PATH_MAX_LOG, path,
		   why, strerror(-error));
	return error;
}

/* ---- opening ---- */

static int file_open_fd(struct iomap_engine *engine, const char *path, uint32_t flags, bool block,
			bool *direct)
{
	int mode = (flags & IOMAP_BDEV_READONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	int fd;

	if (block && !(flags & IOMAP_BDEV_SHARED))
		mode |= O_EXCL;
	*direct = true;
	fd = open(path, mode | O_DIRECT);
	if (fd < 0 && errno == EINVAL) {
		if (!(flags & IOMAP_BDEV_BUFFERED))
			return file_refuse(engine, path, "O_DIRECT is refused", -EINVAL);
		*direct = false;
		fd = open(path, mode);
	}
	if (fd < 0)
		return file_refuse(engine, path, "open", -errno);
	return fd;
}

static int file_lock(struct iomap_engine *engine, const char *path, int fd)
{
	int error;

	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	error = errno == EWOULDBLOCK ? -EBUSY : -errno;
	return file_refuse(engine, path, "lock", error);
}

/* ---- what direct I/O needs ---- */

/* Alignment of memory and addresses by statx(); false when the kernel does not know. */
static bool file_statx_align(int fd, uint32_t *memory, uint32_t *offset)
{
	union {
		unsigned char bytes[FILE_STATX_BYTES];
		uint64_t align;
	} stx;
	uint32_t mask;

	memset(&stx, 0, sizeof(stx));
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, FILE_STATX_DIOALIGN, &stx) != 0)
		return false;
	memcpy(&mask, stx.bytes + FILE_STATX_MASK_OFFSET, sizeof(mask));
	memcpy(memory, stx.bytes + FILE_STATX_MEM_ALIGN_OFFSET, sizeof(*memory));
	memcpy(offset, stx.bytes + FILE_STATX_OFFSET_ALIGN_OFFSET, sizeof(*offset));
	return mask & FILE_STATX_DIOALIGN;
}

/* The smallest transfer that is not refused; an empty file refuses nothing. */
static uint32_t file_probe_align(int fd)
{
	_Alignas(FILE_PROBE_BYTES) unsigned char buffer[FILE_PROBE_BYTES];
	uint32_t align;

	for (align = IOMAP_SECTOR_SIZE; align < FILE_PROBE_BYTES; align *= 2)
		if (pread(fd, buffer, align, 0) > 0)
			return align;
	return FILE_PROBE_BYTES;
}

static uint32_t file_valid_block(uint32_t bytes)
{
	return iomap__is_pow2(bytes) && bytes >= IOMAP_SECTOR_SIZE ? bytes : IOMAP_SECTOR_SIZE;
}

/* 0, or -EOPNOTSUPP when the file cannot do direct I/O after all. */
static int file_direct_limits(int fd, struct iomap_bdev_limits *limits)
{
	uint32_t memory, offset;

	if (!file_statx_align(fd, &memory, &offset)) {
		offset = file_probe_align(fd);
		memory = offset;
	}
	if (!memory || !offset)
		return -EOPNOTSUPP;
	limits->logical_block_size = file_valid_block(offset);
	limits->dma_alignment = iomap__is_pow2(memory) ? memory : limits->logical_block_size;
	return 0;
}

static int file_block_limits(int fd, struct iomap_bdev_limits *limits, uint64_t *bytes)
{
	unsigned physical = 0;
	int logical = 0;

	if (ioctl(fd, BLKGETSIZE64, bytes) != 0 || ioctl(fd, BLKSSZGET, &logical) != 0)
		return -errno;
	limits->logical_block_size =
		iomap__max(limits->logical_block_size, file_valid_block((uint32_t)logical));
	if (ioctl(fd, BLKPBSZGET, &physical) == 0 && iomap__is_pow2(physical))
		limits->physical_block_size = physical;
	return 0;
}

/* Whether I/O that would block may be refused instead. */
static bool file_takes_nowait(int fd)
{
	_Alignas(FILE_PROBE_BYTES) unsigned char buffer[FILE_PROBE_BYTES];
	struct iovec iov = { .iov_base = buffer, .iov_len = sizeof(buffer) };

	/* Checked before the position, so an empty file answers as well. */
	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
}

/* ---- the device ---- */

static int file_fill(struct iomap_bdev *bdev, const struct stat *st)
{
	struct iomap_bdev_limits *limits = &bdev->limits;
	int error = 0;

	*limits = (struct iomap_bdev_limits){
		.logical_block_size = IOMAP_SECTOR_SIZE,
		.physical_block_size = IOMAP_SECTOR_SIZE,
		.dma_alignment = 1,
		.max_segments_nr = IOMAP_BIO_MAX_VECS,
		.max_transfer_bytes = FILE_MAX_TRANSFER,
	};
	if (bdev->direct)
		error = file_direct_limits(bdev->fd, limits);
	if (error)
		return error;
	if (S_ISBLK(st->st_mode))
		error = file_block_limits(bdev->fd, limits, &bdev->bytes);
	else
		bdev->bytes = (uint64_t)st->st_size;
	limits->physical_block_size =
		iomap__max(limits->physical_block_size, limits->logical_block_size);
	bdev->bytes = iomap__round_down(bdev->bytes, limits->logical_block_size);
	if (!file_takes_nowait(bdev->fd))
		bdev->kind = &file_inline_kind;
	return error;
}

/* O_DIRECT was taken at open, but statx says that it does not work. */
static int file_go_buffered(struct iomap_bdev *bdev, const struct stat *st, uint32_t flags)
{
	int mode;

	if (!(flags & IOMAP_BDEV_BUFFERED))
		return file_refuse(bdev->engine, bdev->name, "O_DIRECT is refused", -EINVAL);
	mode = fcntl(bdev->fd, F_GETFL);
	if (mode < 0 || fcntl(bdev->fd, F_SETFL, mode & ~O_DIRECT) != 0)
		return -errno;
	bdev->direct = false;
	return file_fill(bdev, st);
}

static void file_release(struct iomap_bdev *bdev)
{
	/*
	 * Closing is not enough: a child between fork() and exec(), or a request that io_uring
	 * has reported but not yet put away, may hold the open file, and with it the lock.
	 */
	flock(bdev->fd, LOCK_UN);
	close(bdev->fd);
}

static const struct iomap__bdev_kind file_queued_kind = {
	.queued = true,
	.release = file_release,
};

static const struct iomap__bdev_kind file_inline_kind = {
	.io_path = "inline",
	.submit = iomap__inline_submit,
	.release = file_release,
};

static int file_check_opts(struct iomap_engine *engine, const char *path,
			   const struct iomap_bdev_opts *opts, uint32_t *flags)
{
	*flags = 0;
	if (!opts)
		return 0;
	if (opts->size < offsetof(struct iomap_bdev_opts, reserved32) || opts->flags & ~FILE_FLAGS)
		return file_refuse(engine, path, "options of iomap_bdev_open", -EINVAL);
	*flags = opts->flags;
	return 0;
}

static int file_open(struct iomap_bdev *bdev, const char *path, uint32_t flags)
{
	struct iomap_engine *engine = bdev->engine;
	struct stat st;
	int error;

	if (stat(path, &st) != 0)
		return file_refuse(engine, path, "stat", -errno);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return file_refuse(engine, path, "neither a file nor a block device", -EINVAL);
	bdev->fd = file_open_fd(engine, path, flags, S_ISBLK(st.st_mode), &bdev->direct);
	if (bdev->fd < 0)
		return bdev->fd;
	/* The path may mean something else by now. */
	if (fstat(bdev->fd, &st) != 0)
		error = -errno;
	else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		error = -EINVAL;
	else
		error = 0;
	if (!error && S_ISREG(st.st_mode) && !(flags & IOMAP_BDEV_SHARED))
		error = file_lock(engine, path, bdev->fd);
	if (!error)
		error = file_fill(bdev, &st);
	if (error == -EOPNOTSUPP)
		error = file_go_buffered(bdev, &st, flags);
	if (error)
		close(bdev->fd);
	return error;
}

int iomap_bdev_open(struct iomap_engine *engine, const char *path,
		    const struct iomap_bdev_opts *opts, struct iomap_bdev **out)
{
	struct iomap_bdev *bdev;
	uint32_t flags;
	int error;

	if (!engine || !path || !out)
		return -EINVAL;
	error = file_check_opts(engine, path, opts, &flags);
	if (error)
		return error;
	error = iomap__bdev_new(engine, &file_queued_kind, path, &bdev);
	if (error)
		return error;
	bdev->readonly = flags & IOMAP_BDEV_READONLY;
	error = file_open(bdev, path, flags);
	if (error) {
		iomap__bdev_free(bdev);
		return error;
	}
	iomap__bdev_publish(bdev);
	*out = bdev;
	return 0;
}
