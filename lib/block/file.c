/* SPDX-License-Identifier: MIT */
/*
 * file.c - devices that are regular files or block devices.
 *
 * Opening: O_DIRECT unless it is refused and IOMAP_BDEV_BUFFERED is given; the exclusive
 * lock (O_EXCL on a block device, flock() on a file: both go when the process ends, however
 * it does); its limits and its size (file_limits.c).
 *
 * A file that refuses RWF_NOWAIT would have each of its requests handed to a kernel worker
 * by io_uring; its I/O is done by the submitting thread (inline.c).
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/internal.h"

#define FILE_FLAGS (IOMAP_BDEV_READONLY | IOMAP_BDEV_BUFFERED | IOMAP_BDEV_SHARED)

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

/* ---- the device ---- */

static int file_fill(struct iomap_bdev *bdev, const struct stat *st)
{
	int error = iomap__file_limits(bdev, st);

	if (!error && !(bdev->limits.flags & IOMAP_BDEV_HAS_NOWAIT))
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

static int file_revalidate(struct iomap_bdev *bdev, uint64_t *bytes)
{
	struct stat st;

	if (!bdev->block) {
		if (fstat(bdev->fd, &st) != 0)
			return -errno;
		*bytes = (uint64_t)st.st_size;
		return 0;
	}
	if (ioctl(bdev->fd, BLKGETSIZE64, bytes) != 0)
		return -errno;
	/* what a disk that has been pulled out has left */
	return *bytes ? 0 : -ENODEV;
}

static const struct iomap__bdev_kind file_queued_kind = {
	.queued = true,
	.release = file_release,
	.revalidate = file_revalidate,
};

static const struct iomap__bdev_kind file_inline_kind = {
	.io_path = "inline",
	.submit = iomap__inline_submit,
	.release = file_release,
	.revalidate = file_revalidate,
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
	iomap__iopoll_probe(bdev);
	iomap__bdev_publish(bdev);
	*out = bdev;
	return 0;
}
