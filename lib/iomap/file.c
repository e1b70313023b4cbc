/* SPDX-License-Identifier: MIT */
/*
 * file.c - openers, and the convenience layer that takes the locks a filesystem would.
 *
 * A file is taken from the engine's pool by open and given back by close; it holds its inode
 * (i_files_nr), so that destroying the inode gives -EBUSY, and the inode its engine.  One that
 * has been closed is found out by its magic number for as long as the engine lives, unless
 * another one has been opened in its place.
 *
 * Reads take no lock of the inode.  Writes hold i_rwsem exclusively from choosing the
 * position (IOMAP_O_APPEND) to the last byte copied, and drop it before they sync, so that
 * others can write while one waits for the device; while they zero a gap, invalidate_lock as well.  An inode's own read_iter or write_iter
 * replaces all of that, locks and sync as well.
 *
 * Direct reads hold i_rwsem shared, so that no truncation gives their blocks away.  Direct
 * writes hold it shared when they are whole blocks below i_size: they move no end, zero
 * nothing around them, and so need not know of each other.  All others hold it exclusively;
 * so does what is left to the cache when direct I/O will not do.
 *
 * An asynchronous iocb keeps its file open: closing gives -EBUSY until its ki_complete is about
 * to be called, and waits while it runs; -EBUSY once more when that has submitted another one.
 * So whoever learns there that the I/O is over can close the file, in ki_complete itself or
 * elsewhere, and no callback comes after it.  Two that each close the other's file would wait
 * for each other; the header forbids it.
 *
 * Locks: i_rwsem; file->lock guards the error cursor and what readahead knows of the opener.
 */
#include <limits.h>

#include "block/block.h"
#include "cache/cache.h"
#include "iomap/async.h"
#include "iomap/dio.h"
#include "iomap/ops.h"
#include "iomap/workers.h"

#define FILE_FLAGS (IOMAP_O_DIRECT | IOMAP_O_APPEND | IOMAP_O_DSYNC | IOMAP_O_SYNC)

static struct iomap_file *file_alloc(struct iomap_inode *inode, unsigned flags)
{
	struct iomap_file *file = iomap__pool_get(&inode->i_engine->fs->files);

	if (!file)
		return NULL;
	memset(file, 0, sizeof(*file));
	file->inode = inode;
	file->magic = IOMAP__FILE_MAGIC;
	file->flags = flags;
	iomap__mutex_init(&file->lock, IOMAP__RANK_ENGINE);
	iomap__file_init_hits(file);
	/* an error that no opener has been told of goes to this one */
	file->wb_err = iomap__errseq_sample(&inode->i_data.wb_err);
	return file;
}

int iomap_file_open(struct iomap_inode *inode, unsigned flags, struct iomap_file **out)
{
	struct iomap_file *file;
	int err = 0;

	*out = NULL;
	iomap__inode_check(inode);
	if (!inode->i_engine || flags & ~FILE_FLAGS)
		return -EINVAL;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
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

/* ---- asynchronous iocbs ---- */

/*
 * file->uses: iocbs whose ki_complete is still to be called, and ki_completes that are running.
 * In one word, so that who closes sees both at one time: a ki_complete may submit again, and
 * then end, between two looks.
 */
#define FILE_CALLBACK 0x1U
#define FILE_CALLBACKS 0xfffU
#define FILE_ASYNC 0x1000U
#define FILE_ASYNC_MAX 0xfff00000U

void iomap__kiocb_begin(struct iomap_kiocb *iocb)
{
	uint32_t before = iomap__fetch_add(&iocb->ki_filp->uses, FILE_ASYNC);

	(void)before;
	iomap__assert_msg(before < FILE_ASYNC_MAX, "too many asynchronous iocbs of one file");
}

void iomap__kiocb_cancel(struct iomap_kiocb *iocb)
{
	iomap__fetch_sub(&iocb->ki_filp->uses, FILE_ASYNC);
}

void iomap__kiocb_complete(struct iomap_kiocb *iocb, long ret)
{
	struct iomap__work_frame *frame = iomap__thread_self()->work;
	struct iomap_file *file = iocb->ki_filp;
	struct iomap__blk *blk = file->inode->i_engine->blk;
	const uint32_t *word = &file->uses;

	iomap__fetch_sub(&file->uses, FILE_ASYNC - FILE_CALLBACK);
	frame->file = file;
	iocb->ki_complete(iocb, ret);
	if (!frame->file)
		return; /* it has closed it */
	frame->file = NULL;
	/* release: pairs with file_unused(); from here on the address is only a key */
	iomap__fetch_sub(&file->uses, FILE_CALLBACK);
	iomap__io_wake(blk, word);
}

/* Until no ki_complete but the one that has called us is running.  False: an iocb is under way. */
static bool file_unused(struct iomap_file *file)
{
	struct iomap__work_frame *frame;
	uint32_t own = 0, uses;

	for (frame = iomap__thread_self()->work; frame; frame = frame->outer)
		if (frame->file == file)
			own = FILE_CALLBACK;
	while ((uses = iomap__load_acquire(&file->uses)) > own) {
		if (uses & ~FILE_CALLBACKS)
			return false;
		iomap__io_wait(file->inode->i_engine->blk, &file->uses, uses);
	}
	for (frame = iomap__thread_self()->work; frame; frame = frame->outer)
		if (frame->file == file)
			frame->file = NULL;
	return true;
}

int iomap_file_close(struct iomap_file *file)
{
	struct iomap_inode *inode;

	if (!file)
		return 0;
	if (iomap__file_is_open(file) && iomap__engine_forked(file->inode->i_engine))
		return -ECHILD;
	/* not of one that is closed; and it is open until its last callback has returned */
	if (iomap__load(&file->magic) == IOMAP__FILE_MAGIC && !file_unused(file))
		return -EBUSY;
	/* exchanged: of two that close it at once, one is told */
	if (__atomic_exchange_n(&file->magic, 0, __ATOMIC_RELAXED) != IOMAP__FILE_MAGIC) {
		iomap__assert_msg(false, "file %p is closed twice, or was never opened",
				  (void *)file);
		return -EINVAL;
	}
	inode = file->inode;
	iomap__readahead_forget(file);
	iomap__pool_put(&inode->i_engine->fs->files, file);
	/* release: pairs with iomap_inode_destroy(); the last touch of the inode */
	iomap__fetch_sub(&inode->i_files_nr, 1);
	return 0;
}

struct iomap_inode *iomap_file_inode(const struct iomap_file *file)
{
	iomap__file_check(file);
	return file->inode;
}

unsigned iomap_file_flags(const struct iomap_file *file)
{
	iomap__file_check(file);
	return file->flags;
}

unsigned iomap_file_mode(const struct iomap_file *file)
{
	iomap__file_check(file);
	return file->mode;
}

void iomap_file_set_mode(struct iomap_file *file, unsigned mode)
{
	iomap__file_check(file);
	file->mode |= mode;
}

int iomap_file_check_and_advance_wb_err(struct iomap_file *file)
{
	int err;

	iomap__file_check(file);
	if (iomap__engine_forked(file->inode->i_engine))
		return -ECHILD;
	iomap__mutex_lock(&file->lock);
	err = iomap__errseq_check_and_advance(&file->inode->i_data.wb_err, &file->wb_err);
	iomap__mutex_unlock(&file->lock);
	return err;
}

/* By the file's flags: what its iocbs start with.  Each call makes one, so it is looked up. */
#define FILE_IOCB(flags)                                                        \
	[flags] = ((flags) & IOMAP_O_APPEND ? IOMAP_IOCB_APPEND : 0) |          \
		  ((flags) & (IOMAP_O_DSYNC | IOMAP_O_SYNC) ? IOMAP_IOCB_DSYNC : 0) | \
		  ((flags) & IOMAP_O_SYNC ? IOMAP_IOCB_SYNC : 0) |              \
		  ((flags) & IOMAP_O_DIRECT ? IOMAP_IOCB_DIRECT : 0)
static const uint8_t file_iocb_flags[FILE_FLAGS + 1] = {
	FILE_IOCB(0),  FILE_IOCB(1),  FILE_IOCB(2),  FILE_IOCB(3),  FILE_IOCB(4),  FILE_IOCB(5),
	FILE_IOCB(6),  FILE_IOCB(7),  FILE_IOCB(8),  FILE_IOCB(9),  FILE_IOCB(10), FILE_IOCB(11),
	FILE_IOCB(12), FILE_IOCB(13), FILE_IOCB(14), FILE_IOCB(15),
};
_Static_assert(FILE_FLAGS == 15, "a place for each combination");

void iomap_kiocb_init(struct iomap_kiocb *iocb, struct iomap_file *file, int64_t pos)
{
	iomap__file_check(file);
	memset(iocb, 0, sizeof(*iocb));
	iocb->ki_filp = file;
	iocb->ki_pos = pos;
	iocb->ki_flags = file_iocb_flags[file->flags];
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

/* ---- reading ---- */

/* Flags of an iocb that the convenience layer takes. */
#define FILE_IOCB_FLAGS                                                                            \
	(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT |              \
	 IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE | IOMAP_IOCB_CHECKED | IOMAP_IOCB_HIPRI |        \
	 IOMAP_IOCB_ATOMIC | IOMAP_IOCB_WRITE)

/* Through the cache; from @first on something has been read already. */
static ssize_t file_read_buffered(struct iomap_kiocb *iocb, struct iomap_iov_iter *to, int64_t first)
{
	ssize_t ret;

	if (iocb->ki_complete && !(iocb->ki_flags & IOMAP_IOCB_NOWAIT)) {
		/* what copies to memory that may be bad makes a call of its own for each piece */
		if (iocb->ki_flags & IOMAP_IOCB_CHECKED)
			return iomap__async_read_later(iocb, to, first);
		return iomap__async_read(iocb, to, first);
	}
	ret = iomap_file_read_iter(iocb, to);
	return iocb->ki_pos > first ? (ssize_t)(iocb->ki_pos - first) : ret;
}

static ssize_t file_read_direct(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_inode_ops *op = inode->i_op;
	int64_t first = iocb->ki_pos;
	const struct iomap_ops *ops;
	ssize_t done;

	ops = !op ? NULL : op->direct ? op->direct : op->read ? op->read : op->write;
	if (!ops)
		return -EINVAL;
	/* before the lock, which in the child of a fork() nobody may ever give back */
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	if (!iomap_inode_trylock_shared(inode)) {
		if (iocb->ki_flags & IOMAP_IOCB_NOWAIT)
			return -EAGAIN;
		if (iocb->ki_complete)
			return iomap__async_read_later(iocb, to, first);
		iomap_inode_lock_shared(inode);
	}
	done = iomap_dio_rw(iocb, to, ops, op->dio_ops, 0, NULL, 0);
	iomap_inode_unlock_shared(inode);
	if (done < 0 && done != -ENOTBLK)
		return done;
	/* what direct I/O will not do may also come after a part that it did */
	if (done >= 0 && (!iomap_iov_iter_count(to) || iocb->ki_pos >= iomap_i_size_read(inode)))
		return done;
	return file_read_buffered(iocb, to, first);
}

ssize_t iomap_read_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	const struct iomap_file_operations *fop;
	bool direct;

	iomap__file_check(iocb->ki_filp);
	direct = iocb->ki_flags & IOMAP_IOCB_DIRECT;
	if (iocb->ki_pos < 0 || to->data_source != IOMAP_ITER_DEST ||
	    iocb->ki_flags & (~FILE_IOCB_FLAGS | IOMAP_IOCB_ATOMIC | IOMAP_IOCB_WRITE))
		return -EINVAL;
	/*
	 * No byte lies beyond the largest position; but what is read past the cache is whole
	 * sectors, and the last one ends behind it.
	 */
	iomap_iov_iter_truncate(to, (uint64_t)INT64_MAX - (uint64_t)iocb->ki_pos + direct);
	if (!iomap_iov_iter_count(to))
		return 0;
	fop = iocb->ki_filp->inode->i_fop;
	if (fop && fop->read_iter)
		return fop->read_iter(iocb, to);
	return direct ? file_read_direct(iocb, to) : file_read_buffered(iocb, to, iocb->ki_pos);
}

static ssize_t file_read(struct iomap_file *file, struct iomap_iov_iter *to, int64_t pos)
{
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, file, pos);
	return iomap_read_iter(&iocb, to);
}

/* ---- writing; i_rwsem is held exclusively where nothing else is said ---- */

/* Where the write goes, and how much of it. */
static int file_write_place(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;

	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = iomap_i_size_read(inode);
	if (iocb->ki_pos >= inode->i_maxbytes)
		return -EFBIG;
	if (iocb->ki_flags & IOMAP_IOCB_ATOMIC &&
	    from->count > (uint64_t)(inode->i_maxbytes - iocb->ki_pos))
		return -EFBIG;
	iomap_iov_iter_truncate(from, (uint64_t)(inode->i_maxbytes - iocb->ki_pos));
	return 0;
}

/* Zeros from i_size to where the write starts. */
static int file_write_gap(struct iomap_kiocb *iocb, enum iomap__zero_size how)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_inode_ops *op = inode->i_op;
	int64_t size = iomap_i_size_read(inode);
	int err;

	if (iocb->ki_pos <= size)
		return 0;
	/* as in every zeroing: an iomap_end that gives reservations back counts on it */
	iomap_filemap_invalidate_lock(&inode->i_data);
	err = iomap__zero_range(inode, size, iocb->ki_pos, how, NULL, op->write, op->write_ops,
				NULL);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	return err;
}

static ssize_t file_write_buffered(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	const struct iomap_inode_ops *op = iocb->ki_filp->inode->i_op;
	int err;

	err = file_write_place(iocb, from);
	if (!err)
		err = file_write_gap(iocb, IOMAP__ZERO_MOVE_BLOCKS);
	if (err)
		return err;
	return iomap_file_buffered_write(iocb, from, op->write, op->write_ops, NULL);
}

/* The application's end_io, and then the end of the file. */
static int file_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_dio_ops *dops = inode->i_op->dio_ops;
	int err = 0;

	if (dops && dops->end_io)
		err = dops->end_io(iocb, size, error, flags);
	if (err < 0 || error)
		return err;
	/* under a shared i_rwsem it ends below i_size */
	if (iocb->ki_pos + size > iomap_i_size_read(inode))
		iomap_i_size_write(inode, iocb->ki_pos + size);
	return 0;
}

/*
 * i_rwsem is held at least shared.  Does not sync: that is done without the lock, unless it is
 * *@durable already.
 */
static ssize_t file_dio_write(struct iomap_kiocb *iocb, struct iomap_iov_iter *from, bool *durable)
{
	const struct iomap_inode_ops *op = iocb->ki_filp->inode->i_op;
	struct iomap_dio_ops dops = { .end_io = NULL };
	const struct iomap__dio_call call = {
		.iocb = iocb,
		.iter = from,
		.ops = op->direct ? op->direct : op->write,
		.dops = &dops,
		.durable = durable,
	};

	if (op->dio_ops)
		dops = *op->dio_ops;
	dops.end_io = file_dio_end_io;
	return iomap__dio_rw(&call);
}

/* The rest of a direct write goes through the cache, and does not stay there. */
static ssize_t file_write_rest(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	const struct iomap_inode_ops *op = iocb->ki_filp->inode->i_op;
	struct iomap_inode *inode = iocb->ki_filp->inode;
	int64_t pos = iocb->ki_pos;
	ssize_t ret;
	int err;

	ret = iomap_file_buffered_write(iocb, from, op->write, op->write_ops, NULL);
	if (ret <= 0)
		return ret;
	err = iomap__dio_write_out(inode, pos, pos + ret);
	/* what is held back is as good in the cache, and direct reads find it there */
	if (err && err != -ENOTBLK) {
		iocb->ki_pos = pos;
		return err;
	}
	iomap_invalidate_inode_pages(inode, pos, pos + ret);
	return ret;
}

static ssize_t file_write_direct_exclusive(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	bool by_itself = false;
	ssize_t done, rest;
	int err;

	err = file_write_place(iocb, from);
	/* before the gap, which would stay */
	if (!err)
		err = iomap__dio_check_alignment(inode, iocb->ki_pos, from);
	if (!err)
		err = file_write_gap(iocb, IOMAP__ZERO_MOVE);
	if (err)
		return err;
	/* it grows the file, or another part was written before: there is something to sync */
	done = file_dio_write(iocb, from, &by_itself);
	if (done < 0 ? done != -ENOTBLK : !iomap_iov_iter_count(from))
		return done;
	done = iomap__max(done, 0);
	rest = file_write_rest(iocb, from);
	return done && rest < 0 ? done : done + rest;
}

/* Whole blocks below i_size, of which it need not be the only writer. */
static bool file_write_may_share(const struct iomap_kiocb *iocb, const struct iomap_iov_iter *from)
{
	const struct iomap_inode *inode = iocb->ki_filp->inode;
	uint64_t mask = iomap_i_blocksize(inode) - 1;
	int64_t size = iomap_i_size_read(inode);

	return !(iocb->ki_flags & IOMAP_IOCB_APPEND) &&
	       !(((uint64_t)iocb->ki_pos | from->count) & mask) && iocb->ki_pos <= size &&
	       from->count <= (uint64_t)(size - iocb->ki_pos);
}

/* Takes the lock.  -ENOTBLK, also after a part: the rest needs the exclusive one. */
static ssize_t file_write_direct_shared(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
					bool *durable)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	ssize_t ret = -ENOTBLK;

	if (!file_write_may_share(iocb, from))
		return ret;
	iomap_inode_lock_shared(inode);
	/* again: truncations are kept off from here on */
	if (file_write_may_share(iocb, from))
		ret = file_dio_write(iocb, from, durable);
	iomap_inode_unlock_shared(inode);
	return ret;
}

static ssize_t file_write_direct(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
				 bool *durable)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	ssize_t done = file_write_direct_shared(iocb, from, durable), rest;

	if (done < 0 ? done != -ENOTBLK : !iomap_iov_iter_count(from))
		return done;
	*durable = false;
	done = iomap__max(done, 0);
	iomap_inode_lock(inode);
	/* it may zero around what it writes, and asynchronous ones hold no lock */
	iomap_inode_dio_wait(inode);
	rest = file_write_direct_exclusive(iocb, from);
	iomap_inode_unlock(inode);
	return done && rest < 0 ? done : done + rest;
}

ssize_t iomap__file_write(struct iomap_kiocb *iocb, struct iomap_iov_iter *from, bool *durable)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	ssize_t ret;

	*durable = false;
	if (iocb->ki_flags & IOMAP_IOCB_DIRECT)
		return file_write_direct(iocb, from, durable);
	iomap_inode_lock(inode);
	ret = file_write_buffered(iocb, from);
	iomap_inode_unlock(inode);
	return ret;
}

/* ---- writing without a wait; these take the lock if it is free ---- */

/* Through the cache: as much as can be, or -EAGAIN.  @finish: all of an append, or nothing. */
static ssize_t file_try_buffered(struct iomap_kiocb *iocb, struct iomap_iov_iter *from, bool finish)
{
	const bool nowait = iocb->ki_flags & IOMAP_IOCB_NOWAIT;
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_inode_ops *op = inode->i_op;
	ssize_t ret, rest;

	if (!iomap_inode_trylock(inode))
		return -EAGAIN;
	ret = file_write_place(iocb, from);
	/* zeroing a gap may have to read the rest of a block */
	if (!ret && iocb->ki_pos > iomap_i_size_read(inode))
		ret = -EAGAIN;
	if (!ret) {
		iocb->ki_flags |= IOMAP_IOCB_NOWAIT;
		ret = iomap_file_buffered_write(iocb, from, op->write, op->write_ops, NULL);
		if (!nowait)
			iocb->ki_flags &= ~IOMAP_IOCB_NOWAIT;
	}
	if (ret > 0 && finish && iocb->ki_flags & IOMAP_IOCB_APPEND && from->count) {
		/* another one may append as soon as the lock is free */
		iocb->ki_flags &= ~IOMAP_IOCB_APPEND;
		rest = iomap_file_buffered_write(iocb, from, op->write, op->write_ops, NULL);
		iocb->ki_flags |= IOMAP_IOCB_APPEND;
		ret += iomap__max(rest, 0);
		iomap_iov_iter_truncate(from, 0);
	}
	iomap_inode_unlock(inode);
	return ret;
}

/* Past the cache, if it may share the lock; else -EAGAIN.  It syncs by itself. */
static ssize_t file_try_direct(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	const struct iomap_inode_ops *op = inode->i_op;
	ssize_t ret = -EAGAIN;

	if (!file_write_may_share(iocb, from) || !iomap_inode_trylock_shared(inode))
		return ret;
	/* again: truncations are kept off from here on; so i_size is none of its end_io's business */
	if (file_write_may_share(iocb, from))
		ret = iomap_dio_rw(iocb, from, op->direct ? op->direct : op->write, op->dio_ops, 0,
				   NULL, 0);
	iomap_inode_unlock_shared(inode);
	return ret == -ENOTBLK ? -EAGAIN : ret;
}

/* What cannot be done at once, the sync above all, is for a worker. */
static ssize_t file_write_async(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	const bool direct = iocb->ki_flags & IOMAP_IOCB_DIRECT;
	const uint32_t sync = iocb->ki_flags & (IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC);
	ssize_t ret;

	ret = direct ? file_try_direct(iocb, from) : file_try_buffered(iocb, from, true);
	if (ret < 0 && ret != -EAGAIN)
		return ret;
	if (ret >= 0 && !from->count && (!sync || direct))
		return ret;
	return iomap__async_write_later(iocb, from, iomap__max(ret, 0));
}

/* Nothing that would wait, for a sync neither. */
static ssize_t file_write_nowait(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	if (iocb->ki_flags & IOMAP_IOCB_DIRECT)
		return file_try_direct(iocb, from);
	if (iocb->ki_flags & (IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC))
		return -EAGAIN;
	return file_try_buffered(iocb, from, false);
}

/* ---- the calls ---- */

static ssize_t file_write_default(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	struct iomap_inode *inode = iocb->ki_filp->inode;
	bool durable;
	ssize_t ret;

	if (!inode->i_op || !inode->i_op->write || !inode->i_data.a_ops->writepages)
		return -EINVAL;
	/* before the lock, as when reading */
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	if (iocb->ki_flags & IOMAP_IOCB_NOWAIT)
		return file_write_nowait(iocb, from);
	if (iocb->ki_complete)
		return file_write_async(iocb, from);
	ret = iomap__file_write(iocb, from, &durable);
	/* without the lock: the next writer need not wait for the device */
	return durable ? ret : iomap_write_sync(iocb, ret);
}

ssize_t iomap_write_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *from)
{
	const struct iomap_file_operations *fop;

	iomap__file_check(iocb->ki_filp);
	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = 0; /* chosen under i_rwsem */
	if (iocb->ki_pos < 0 || from->data_source != IOMAP_ITER_SOURCE ||
	    iocb->ki_flags & ~FILE_IOCB_FLAGS)
		return -EINVAL;
	/* the cache promises nothing of the kind */
	if (iocb->ki_flags & IOMAP_IOCB_ATOMIC && !(iocb->ki_flags & IOMAP_IOCB_DIRECT))
		return -EOPNOTSUPP;
	if (!iomap_iov_iter_count(from))
		return 0;
	fop = iocb->ki_filp->inode->i_fop;
	if (fop && fop->write_iter)
		return fop->write_iter(iocb, from);
	return file_write_default(iocb, from);
}

static ssize_t file_write(struct iomap_file *file, struct iomap_iov_iter *from, int64_t pos)
{
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, file, pos);
	return iomap_write_iter(&iocb, from);
}

/* What is not one plain hit.  Out of line: iomap_read() saves no registers for it. */
static __attribute__((noinline)) ssize_t file_read_buf(struct iomap_file *file, void *buf,
						       size_t len, int64_t pos)
{
	struct iomap_iov_iter to;

	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, iomap__min(len, (size_t)SSIZE_MAX));
	return file_read(file, &to, pos);
}

ssize_t iomap_read(struct iomap_file *file, void *buf, size_t len, int64_t pos)
{
	size_t n;

	iomap__file_check(file);
	n = iomap__hit_read(file, buf, len, pos);
	return iomap__likely(n) ? (ssize_t)n : file_read_buf(file, buf, len, pos);
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
