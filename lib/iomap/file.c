/* SPDX-License-Identifier: MIT */
/*
 * file.c - openers, and the convenience layer that takes the locks a filesystem would.
 *
 * A file is allocated by open and freed by close; it holds its inode (i_files_nr), so that
 * destroying the inode gives -EBUSY, and the inode its engine.
 *
 * Reads take no lock of the inode.  Writes hold i_rwsem exclusively from choosing the
 * position (IOMAP_O_APPEND) to the last byte copied, and drop it before they sync, so that
 * others can write while one waits for the device.  An inode's own read_iter or write_iter
 * replaces all of that, locks and sync as well.
 *
 * Locks: i_rwsem; file->lock guards the error cursor.
 * Left out: direct I/O; see IOMAP_O_DIRECT.
 */
#include <limits.h>

#include "cache/cache.h"
#include "iomap/ops.h"

#define FILE_FLAGS (IOMAP_O_DIRECT | IOMAP_O_APPEND | IOMAP_O_DSYNC | IOMAP_O_SYNC)

static struct iomap_file *file_alloc(struct iomap_inode *inode, unsigned flags)
{
	struct iomap_file *file = iomap__zalloc(&inode->i_engine->env, sizeof(*file));

	if (!file)
		return NULL;
	file->inode = inode;
	file->flags = flags;
	iomap__mutex_init(&file->lock, IOMAP__RANK_ENGINE);
	file->ra.prev_index = UINT64_MAX;
	/* an error that no opener has been told of goes to this one */
	file->wb_err = iomap__errseq_sample(&inode->i_data.wb_err);
	return file;
}

int iomap_file_open(struct iomap_inode *inode, unsigned flags, struct iomap_file **out)
{
	struct iomap_file *file;
	int err = 0;

	*out = NULL;
	if (flags & ~FILE_FLAGS)
		return -EINVAL;
	file = file_alloc(inode, flags);
	if (!file)
		return -ENOMEM;
	iomap__fetch_add(&inode->i_files_nr, 1);
	if (inode->i_op && inode->i_op->open) {
		iomap__witness_assert_callback("open");
		err = inode->i_op->open(inode, file);
	}
	if (!err && flags & IOMAP_O_DIRECT && !(file->mode & IOMAP_FMODE_CAN_ODIRECT))
		err = -EINVAL;
	if (err) {
		iomap_file_close(file);
		return err;
	}
	*out = file;
	return 0;
}

int iomap_file_close(struct iomap_file *file)
{
	struct iomap_inode *inode;

	if (!file)
		return 0;
	inode = file->inode;
	iomap__free(&inode->i_engine->env, file, sizeof(*file));
	/* release: pairs with iomap_inode_destroy(); the last touch of the inode */
	iomap__fetch_sub(&inode->i_files_nr, 1);
	return 0;
}

struct iomap_inode *iomap_file_inode(const struct iomap_file *file)
{
	return file->inode;
}

unsigned iomap_file_flags(const struct iomap_file *file)
{
	return file->flags;
}

unsigned iomap_file_mode(const struct iomap_file *file)
{
	return file->mode;
}

void iomap_file_set_mode(struct iomap_file *file, unsigned mode)
{
	file->mode |= mode;
}

int iomap_file_check_and_advance_wb_err(struct iomap_file *file)
{
	int err;

	iomap__mutex_lock(&file->lock);
	err = iomap__errseq_check_and_advance(&file->inode->i_data.wb_err, &file->wb_err);
	iomap__mutex_unlock(&file->lock);
	return err;
}

void iomap_kiocb_init(struct iomap_kiocb *iocb, struct iomap_file *file, int64_t pos)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->ki_filp = file;
	iocb->ki_pos = pos;
	if (file->flags & IOMAP_O_APPEND)
		iocb->ki_flags |= IOMAP_IOCB_APPEND;
	if (file->flags & (IOMAP_O_DSYNC | IOMAP_O_SYNC))
		iocb->ki_flags |= IOMAP_IOCB_DSYNC;
	if (file->flags & IOMAP_O_SYNC)
		iocb->ki_flags |= IOMAP_IOCB_SYNC;
}

/* A vector as an iterator of at most SSIZE_MAX bytes. */
static int file_iter_init(struct iomap_iov_iter *iter, unsigned direction, const struct iovec *iov,
			  int iovcnt)
{
	if (iovcnt < 0 || iovcnt > IOV_MAX)
		return -EINVAL;
	iomap_iov_iter_init(iter, direction, iov, (size_t)iovcnt, SSIZE_MAX);
	return 0;
}

static ssize_t file_read(struct iomap_file *file, struct iomap_iov_iter *to, int64_t pos)
{
	const struct iomap_file_operations *fop = file->inode->i_fop;
	struct iomap_kiocb iocb;

	if (pos < 0)
		return -EINVAL;
	/* no byte lies beyond the largest position */
	iomap_iov_iter_truncate(to, (uint64_t)(INT64_MAX - pos));
	if (!iomap_iov_iter_count(to))
		return 0;
	iomap_kiocb_init(&iocb, file, pos);
	if (fop && fop->read_iter)
		return fop->read_iter(&iocb, to);
	if (file->flags & IOMAP_O_DIRECT)
		return -EOPNOTSUPP;
	return iomap_file_read_iter(&iocb, to);
}

/* i_rwsem is held exclusively. */
static ssize_t file_write_locked(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_inode_ops *op = inode->i_op;
	int64_t size = iomap_i_size_read(inode);
	int err;

	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = size;
	if (iocb->ki_pos >= inode->i_maxbytes)
		return -EFBIG;
	iomap_iov_iter_truncate(from, (uint64_t)(inode->i_maxbytes - iocb->ki_pos));
	if (iocb->ki_pos > size) {
		err = iomap__zero_eof_gap(inode, size, iocb->ki_pos, op->write, op->write_ops,
					  NULL);
		if (err)
			return err;
	}
	return iomap_file_buffered_write(iocb, from, op->write, op->write_ops, NULL);
}

static ssize_t file_write_default(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	ssize_t ret;

	if (iocb->ki_filp->flags & IOMAP_O_DIRECT)
		return -EOPNOTSUPP;
	if (!inode->i_op || !inode->i_op->write || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	iomap_inode_lock(inode);
	ret = file_write_locked(iocb, from);
	iomap_inode_unlock(inode);
	/* without the lock: the next writer need not wait for the device */
	return iomap_write_sync(iocb, ret);
}

static ssize_t file_write(struct iomap_file *file, struct iomap_iov_iter *from, int64_t pos)
{
	const struct iomap_file_operations *fop = file->inode->i_fop;
	struct iomap_kiocb iocb;

	if (file->flags & IOMAP_O_APPEND)
		pos = 0; /* chosen under i_rwsem */
	if (pos < 0)
		return -EINVAL;
	if (!iomap_iov_iter_count(from))
		return 0;
	iomap_kiocb_init(&iocb, file, pos);
	if (fop && fop->write_iter)
		return fop->write_iter(&iocb, from);
	return file_write_default(&iocb, from);
}

ssize_t iomap_read(struct iomap_file *file, void *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter to;

	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, iomap__min(len, (size_t)SSIZE_MAX));
	return file_read(file, &to, pos);
}

ssize_t iomap_readv(struct iomap_file *file, const struct iovec *iov, int iovcnt, int64_t pos)
{
	struct iomap_iov_iter to;
	int err = file_iter_init(&to, IOMAP_ITER_DEST, iov, iovcnt);

	return err ? err : file_read(file, &to, pos);
}

ssize_t iomap_write(struct iomap_file *file, const void *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter from;

	/* a source is only read; the iterator has one pointer for both directions */
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf,
			    iomap__min(len, (size_t)SSIZE_MAX));
	return file_write(file, &from, pos);
}

ssize_t iomap_writev(struct iomap_file *file, const struct iovec *iov, int iovcnt, int64_t pos)
{
	struct iomap_iov_iter from;
	int err = file_iter_init(&from, IOMAP_ITER_SOURCE, iov, iovcnt);

	return err ? err : file_write(file, &from, pos);
}
