/* SPDX-License-Identifier: MIT */
/*
 * rawfile.h - one file or block device, read and written through the cache.
 *
 * The smallest use of libiomap there is: the bytes of the inode lie on the device where
 * they lie in the inode.  Begin to read in rawfile.c, at rawfile_open().
 */
#ifndef RAWFILE_H
#define RAWFILE_H

#include <iomap/iomap.h>

struct rawfile {
	struct iomap_inode inode; /* what the library knows of us */
	struct iomap_file *file;  /* for iomap_read(), iomap_write(), iomap_file_fsync() */
	struct iomap_bdev *bdev;
	int64_t bytes; /* of the device, and so of the inode */
};

/*
 * Open @path, which exists and keeps its size; @bdev_flags are IOMAP_BDEV_xxx.
 * Return: 0 or -errno.
 */
int rawfile_open(struct iomap_engine *engine, const char *path, uint32_t bdev_flags,
		 struct rawfile **out);

/*
 * Write what is dirty and close.  Not durable before rawfile->file has been synced.
 * Return: 0 or the first error; *@rawfile is gone in either case.
 */
int rawfile_close(struct rawfile *rawfile);

#endif
