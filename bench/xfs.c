/* SPDX-License-Identifier: MIT */
/*
 * xfs.c - the kernel's side of the comparisons: XFS on a loop device with direct I/O.
 *
 * Nothing of it outlives the process, however that ends.  The image has no name; the loop device
 * clears itself when its last user goes; the file system is mounted in a mount name space of the
 * process, over its own directory, and taken out of it again at once: what keeps it alive is a
 * descriptor of its root.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <spawn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define IMAGE_EXTRA (1ULL << 30) /* log and metadata; XFS wants 300 MiB by itself */
#define TRIES 16

extern char **environ;

static int run_mkfs(struct bench_ctx *ctx, const char *device)
{
	char *argv[] = { (char *)(uintptr_t)"mkfs.xfs", (char *)(uintptr_t)"-q",
			 (char *)(uintptr_t)"-f", (char *)(uintptr_t)device, NULL };
	int status, error;
	pid_t child;

	error = posix_spawnp(&child, argv[0], NULL, NULL, argv, environ);
	if (error)
		return bench_skip(ctx, "mkfs.xfs: %s", strerror(error));
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return bench_skip(ctx, "mkfs.xfs: %s", strerror(errno));
	return status ? bench_skip(ctx, "mkfs.xfs failed") : 0;
}

/* A loop device over @image.  Return: its descriptor, or -1 after bench_skip(). */
static int loop_open(struct bench_ctx *ctx, int image, char *path, size_t bytes)
{
	struct loop_config config = {
		.fd = (unsigned)image,
		.block_size = 4096,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number, fd;

	/* somebody else may be faster with the number that we were given */
	for (int i = 0; control >= 0 && i < TRIES; i++) {
		number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			break;
		snprintf(path, bytes, "/dev/loop%d", number);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
			close(control);
			return fd;
		}
		if (fd >= 0)
			close(fd);
	}
	bench_skip(ctx, "no loop device: %s", strerror(errno));
	if (control >= 0)
		close(control);
	return -1;
}

/* Return: a descriptor of the root, or -1. */
static int mount_apart(struct bench_ctx *ctx, const char *device)
{
	int root = -1;

	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		bench_skip(ctx, "no mount name space: %s", strerror(errno));
		return -1;
	}
	if (mount(device, ctx->dir, "xfs", MS_NOATIME, NULL) != 0) {
		bench_skip(ctx, "mount of XFS: %s", strerror(errno));
		return -1;
	}
	root = open(ctx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		bench_skip(ctx, "the root of XFS: %s", strerror(errno));
	if (umount2(ctx->dir, MNT_DETACH) != 0) {
		bench_skip(ctx, "umount of XFS: %s", strerror(errno));
		return -1;
	}
	return root;
}

static int xfs_root(struct bench_ctx *ctx, uint64_t bytes)
{
	char device[32], path[4096];
	int image, loop, root = -1;

	if (geteuid() != 0) {
		bench_skip(ctx, "needs root");
		return -1;
	}
	snprintf(path, sizeof(path), "%s/iomap-bench.XXXXXX", ctx->dir);
	image = mkostemp(path, O_CLOEXEC);
	if (image < 0) {
		bench_skip(ctx, "no file in %s: %s", ctx->dir, strerror(errno));
		return -1;
	}
	unlink(path);
	if (ftruncate(image, (off_t)(IMAGE_EXTRA + bytes)) != 0) {
		bench_skip(ctx, "an image of XFS: %s", strerror(errno));
		close(image);
		return -1;
	}
	loop = loop_open(ctx, image, device, sizeof(device));
	close(image);
	if (loop < 0)
		return -1;
	if (run_mkfs(ctx, device) == 0)
		root = mount_apart(ctx, device);
	close(loop);
	return root;
}

int bench_xfs_root(struct bench_ctx *ctx)
{
	static int root = -2; /* not tried */
	static char why[BENCH_WHY_BYTES];

	if (root == -2) {
		root = xfs_root(ctx, 2 * bench_set_bytes(ctx, true));
		memcpy(why, ctx->why, sizeof(why));
	}
	if (root < 0) {
		bench_skip(ctx, "%s", why);
		return -1;
	}
	return root;
}

int bench_xfs_file(struct bench_ctx *ctx, uint64_t bytes)
{
	int root = bench_xfs_root(ctx);
	char path[64];

	if (root < 0)
		return -1;
	bench_fd_path(root, path, sizeof(path));
	return bench_file(ctx, path, bytes);
}
