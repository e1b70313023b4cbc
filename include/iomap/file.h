/* SPDX-License-Identifier: MIT */
/*
 * iomap/file.h - openers, and the convenience layer that takes the inode's locks.
 *
 * A file may be used by any number of threads.  It holds its inode.  All calls but the
 * accessors may block.  Errors are negative errno; a call that has read or written something
 * returns that count, short, and the error shows when the rest is asked for.
 *
 * Durability: a process that dies loses what it had not synced.  There is no kernel cache
 * behind this one; iomap-durability(7) says what survives what.
 */
#ifndef IOMAP_FILE_H
#define IOMAP_FILE_H

#include <iomap/inode.h>

#ifdef __cplusplus
extern "C" {
#endif

/* iomap_file_open() flags. */
#define IOMAP_O_DIRECT 0x1U /* direct I/O; needs IOMAP_FMODE_CAN_ODIRECT */
#define IOMAP_O_APPEND 0x2U /* writes go to the end */
#define IOMAP_O_DSYNC 0x4U  /* writes are durable before they return */
#define IOMAP_O_SYNC 0x8U   /* with all metadata */

/* iomap_file_mode() */
#define IOMAP_FMODE_CAN_ODIRECT 0x1U /* set by the inode's `open` */
#define IOMAP_FMODE_CAN_ATOMIC_WRITE 0x2U /* likewise: the extent map knows IOMAP_ATOMIC */

/**
 * iomap_file_open - open an inode
 * @flags: IOMAP_O_xxx
 *
 * Calls the inode's `open`.  May block there.
 *
 * Return: 0; -EINVAL (unknown flags, or IOMAP_O_DIRECT without
 * IOMAP_FMODE_CAN_ODIRECT after `open`); -ENOMEM; what `open` returned.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_file_open(struct iomap_inode *inode, unsigned flags,
					       struct iomap_file **out);
/**
 * iomap_file_close - close a file
 *
 * Writes nothing.  No call on the file may be running; reads ahead that it has started go on.
 * Waits for a ki_complete of the file that is running, unless it is the one that calls; that
 * may submit another iocb meanwhile.  So a ki_complete may close its own file; it may close
 * another one only if no ki_complete of that one waits for it, in a close or otherwise: two that
 * close each other's files wait for ever.  NULL is ignored.
 * Return: 0; -EBUSY while an asynchronous iocb of the file is under way, and it is still open;
 * -EINVAL for a file that is closed already (debug builds abort).
 */
IOMAP_API int iomap_file_close(struct iomap_file *file);

/** iomap_file_inode - the inode that was opened; any context */
IOMAP_API struct iomap_inode *iomap_file_inode(const struct iomap_file *file);
/** iomap_file_flags - IOMAP_O_xxx as given to open; any context */
IOMAP_API unsigned iomap_file_flags(const struct iomap_file *file);
/** iomap_file_mode - IOMAP_FMODE_xxx; any context */
IOMAP_API unsigned iomap_file_mode(const struct iomap_file *file);
/** iomap_file_set_mode - for the inode's `open`: set IOMAP_FMODE_xxx bits */
IOMAP_API void iomap_file_set_mode(struct iomap_file *file, unsigned mode);

/**
 * iomap_file_check_and_advance_wb_err - errors since this file last asked
 *
 * Any thread.  Return: 0 or the error; once for each file.
 */
IOMAP_API int iomap_file_check_and_advance_wb_err(struct iomap_file *file);

/**
 * iomap_read - read @len bytes at @pos into @buf
 *
 * As i_fop->read_iter, or iomap_file_read_iter(), or, on a file with IOMAP_O_DIRECT,
 * iomap_dio_rw() under a shared i_rwsem, and through the cache where that gives -ENOTBLK.
 * @len is cut to SSIZE_MAX.
 *
 * Return: bytes, 0 at and beyond i_size; else -errno: -EINVAL for a negative @pos, and for a
 * direct read that is not aligned or has no extent map.
 */
IOMAP_API ssize_t iomap_read(struct iomap_file *file, void *buf, size_t len, int64_t pos);
/** iomap_readv - the same into at most IOV_MAX segments, else -EINVAL */
IOMAP_API ssize_t iomap_readv(struct iomap_file *file, const struct iovec *iov, int iovcnt,
			      int64_t pos);

/* One read of a batch. */
struct iomap_read_range {
	struct iomap_file *file;
	void *buf;
	size_t len; /* bytes */
	int64_t pos;
	ssize_t ret; /* set: what iomap_read() of it returns */
};

/**
 * iomap_read_batch - read many ranges in one call
 * @ranges: of any files, in any order; they may overlap
 * @nr: how many
 * @flags: 0
 *
 * As iomap_read() of each, but faster where they lie scattered over a large cache: a group of
 * ranges is looked up and asked from memory before it is copied.  Of ranges that are not cached
 * up to 32 are read from the device at a time.  One that fails does not keep the others from
 * being read.
 *
 * Return: 0, or the first negative `ret`; -EINVAL for unknown flags, and nothing was read.
 */
IOMAP_API int iomap_read_batch(struct iomap_read_range *ranges, unsigned nr, unsigned flags);

/* iomap_prefetch.flags */
#define IOMAP_PREFETCH_ALL 0x1U /* caller / library: one `done` for all ranges */

/*
 * Ranges to be brought into the cache.  Zero it, set size.  It, and the ranges, are the
 * library's until the last `done` is called; without a `done`, until iomap_prefetch() returns.
 *
 * done: optional.  Called for each range once all of it that could be read has been; or, with
 *   IOMAP_PREFETCH_ALL, once for all with @range NULL.  @error: 0, or the first error of a read.
 *   Context: as ki_complete of an iocb; perhaps before iomap_prefetch() has returned.  The file
 *   is in use until it returns (iomap_file_close()), and may be closed in it.
 */
struct iomap_prefetch {
	size_t size; /* sizeof(struct iomap_prefetch) */
	struct iomap_read_range *ranges; /* file, pos and len; the rest is not looked at */
	unsigned nr;
	unsigned flags; /* IOMAP_PREFETCH_xxx */
	void (*done)(struct iomap_prefetch *prefetch, struct iomap_read_range *range, int error);
	void *IOMAP_PRIVATE_MEMBER; /* the caller's */
	uint64_t reserved[4];
};

/**
 * iomap_prefetch - start reading many ranges into the cache
 *
 * Starts all reads together and does not wait for them.  What lies beyond i_size is left out.
 * Where there is no memory to be had without a wait a range is brought in to a part only, and
 * folios that have been brought in may be dropped again before they are read: neither is an
 * error.  May block in the application's extent map.  No folio lock held.
 *
 * Return: 0, and `done` will be called; else -errno, and it will not: -EINVAL (size, unknown
 * flags, no ranges, a negative position, files of several engines), -EOPNOTSUPP (an inode
 * without readahead), -ENOMEM, -EAGAIN (no worker could be started), -ESHUTDOWN.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_prefetch(struct iomap_prefetch *prefetch);

/* iomap_fadvise(); the numbers of posix_fadvise(2) */
#define IOMAP_ADV_NORMAL 0     /* find out */
#define IOMAP_ADV_RANDOM 1     /* read what is asked for, and no more */
#define IOMAP_ADV_SEQUENTIAL 2 /* read ahead from the first read on, as far as options allow */
#define IOMAP_ADV_WILLNEED 3   /* start to read the range */
#define IOMAP_ADV_DONTNEED 4   /* drop what is clean of the range */

/**
 * iomap_fadvise - say how a file will be read
 * @off: byte
 * @len: bytes; 0: up to the end of the file
 * @advice: IOMAP_ADV_xxx
 *
 * NORMAL, RANDOM and SEQUENTIAL are for all reads of this opener from now on, wherever they are
 * (range ignored, as in the kernel); other openers of the inode have their own.
 *
 * WILLNEED starts reads of what is not cached, as iomap_prefetch() without `done`, of a quarter of
 * the cache at most, and waits for none; it may block in the extent map.  DONTNEED drops
 * folios that lie in the range as a whole and are clean, unlocked and not referenced; it writes
 * nothing and does not block.  What is dirty stays: sync before, to drop it.
 *
 * An inode's own i_fop->fadvise replaces all of this.  No folio lock held.  Any thread.
 * Kernel counterpart: vfs_fadvise.
 *
 * Return: 0; -EINVAL (a negative @off or @len, another @advice); -EOPNOTSUPP (WILLNEED, of an
 * inode without readahead); -ESHUTDOWN; -ECHILD.
 */
IOMAP_API int iomap_fadvise(struct iomap_file *file, int64_t off, int64_t len, int advice);

/**
 * iomap_write - write @len bytes at @pos
 *
 * Takes i_rwsem exclusively; zeroes a gap between i_size and @pos, for which it takes
 * invalidate_lock exclusively, too; with IOMAP_O_DSYNC or
 * IOMAP_O_SYNC durable before return.  With IOMAP_O_APPEND @pos is ignored.  Blocks.
 * All this unless i_fop->write_iter does it in its own way.
 *
 * With IOMAP_O_DIRECT by iomap_dio_rw(), under a shared i_rwsem when it is whole blocks below
 * i_size.  Where that gives -ENOTBLK, or ends early, the rest goes through the cache, is
 * written out and dropped from it.
 *
 * Return: bytes written, fewer when an error follows them or i_maxbytes cuts the range; else
 * -errno: -EINVAL (negative @pos, nothing to write with), -EFBIG at or beyond i_maxbytes,
 * -EAGAIN (too much dirty data, all held back with IOMAP_WB_DEFER, and the engine has no threads:
 * call again after the resume), that of the callbacks, or of the sync.
 */
IOMAP_API ssize_t iomap_write(struct iomap_file *file, const void *buf, size_t len, int64_t pos);
/** iomap_writev - the same from at most IOV_MAX segments, else -EINVAL */
IOMAP_API ssize_t iomap_writev(struct iomap_file *file, const struct iovec *iov, int iovcnt,
			       int64_t pos);

/**
 * iomap_read_iter - iomap_read() by iocb
 * @iocb: ki_filp, ki_pos, ki_flags (IOMAP_IOCB_xxx; iomap_kiocb_init() takes over those of the
 *	file), ki_complete, ki_deadline
 * @to: where the bytes go, IOMAP_ITER_DEST
 *
 * ki_pos moves by what was read.  With IOMAP_IOCB_DIRECT as on a file with IOMAP_O_DIRECT.
 *
 * With ki_complete it does not wait for a device or a lock: what is cached is copied, and if that
 * is all, the result is returned.  Else the call starts to read what is not, which may block in
 * the extent map, and returns -IOMAP_EIOCBQUEUED; the rest is copied in a worker, or in
 * iomap_engine_poll(), where ki_complete is called.  Until then iocb, file and memory are in use;
 * iterator and vector are the caller's again, but how far the iterator has moved is not said.
 * ki_deadline ends only what then waits in a worker.  A direct read may end where direct I/O goes
 * no further (iomap_dio_rw()): a short count below i_size.
 *
 * With IOMAP_IOCB_NOWAIT it never waits nor starts a read, with ki_complete neither.
 * With IOMAP_IOCB_DONTCACHE see flags.h.
 *
 * No folio lock, i_rwsem or invalidate_lock held.  Kernel counterpart: call_read_iter.
 *
 * Return: bytes, 0 at and beyond i_size; -IOMAP_EIOCBQUEUED; else -errno: -EINVAL (negative
 * ki_pos, unknown flags, an iterator for writing, as iomap_read()), -EAGAIN (NOWAIT), -ENOMEM,
 * -ETIMEDOUT, -ESHUTDOWN, that of the device.
 */
IOMAP_API ssize_t iomap_read_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *to);

/**
 * iomap_write_iter - iomap_write() by iocb
 * @iocb: as for iomap_read_iter(); with IOMAP_IOCB_APPEND ki_pos is set
 * @from: the bytes, IOMAP_ITER_SOURCE
 *
 * ki_pos moves by what was written.  Takes i_rwsem as iomap_write() does.
 *
 * With ki_complete it writes what it can without a wait, and if that is all, and nothing is to be
 * synced, returns the result.  Else a worker, or iomap_engine_poll(), takes i_rwsem, writes the
 * rest and syncs.  So two such writes, and the two parts of one, may be done in any order; an
 * append is always one piece, and for that the call may wait when it has begun.  A direct write
 * of whole blocks below i_size is iomap_dio_rw()'s, whose text applies, short counts as well; others
 * wait in the worker.
 *
 * With IOMAP_IOCB_NOWAIT, with ki_complete or without, it never waits: not for i_rwsem, a folio,
 * memory, the rest of a block, a gap behind i_size or throttling, nor for a sync, so with DSYNC
 * it is -EAGAIN through the cache.  A direct write waits for its own I/O all the same if it has
 * no ki_complete.
 *
 * No folio lock, i_rwsem or invalidate_lock held.  Kernel counterpart: call_write_iter.
 *
 * Return: bytes, fewer when an error or a wait follows them; -IOMAP_EIOCBQUEUED; else -errno as
 * iomap_write(), or -EAGAIN (NOWAIT).
 */
IOMAP_API ssize_t iomap_write_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *from);

/**
 * iomap_truncate - set the size of the file
 * @size: bytes
 *
 * Takes i_rwsem and invalidate_lock exclusively and calls the inode's `setsize`.  Without one
 * no blocks change hands: shrinking zeroes the rest of the last block and drops the cache,
 * growing zeroes mapped space up to @size, through the cache.  Blocks.  Not durable before
 * the next fsync.  What lies between an old end and a larger @size reads as zeros.
 *
 * Return: 0; -EINVAL (negative @size; no `setsize` and no `write`); -EFBIG beyond i_maxbytes;
 * that of the callbacks.  After an error the size may have moved a part of the way up.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_truncate(struct iomap_file *file, int64_t size);

/**
 * iomap_fallocate - reserve, give back, zero or unshare the space of a range
 * @mode: 0, IOMAP_FALLOC_FL_ZERO_RANGE or _UNSHARE_RANGE, each also with _KEEP_SIZE; or
 *	_PUNCH_HOLE with _KEEP_SIZE
 * @off: byte
 * @len: bytes
 *
 * As i_fop->fallocate; or the inode operation of that name, under i_rwsem, held exclusively, when
 * no direct I/O is under way; then, unless the size is kept, the file becomes at least @off + @len
 * bytes long, as by iomap_truncate().  On a file with IOMAP_O_DSYNC or IOMAP_O_SYNC durable
 * before return, else by the next fsync.  Blocks.  Kernel counterpart: vfs_fallocate.
 *
 * Return: 0; -EINVAL (a negative @off, a @len that is not positive), -EFBIG beyond i_maxbytes,
 * -EOPNOTSUPP (another mode, or nobody to do it), -ESHUTDOWN, -ECHILD; that of the callbacks, or of
 * the sync.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_fallocate(struct iomap_file *file, int mode, int64_t off,
					       int64_t len);

/** iomap_file_fsync - i_fop->fsync, or iomap_fsync() of everything */
IOMAP_API IOMAP_MUST_CHECK int iomap_file_fsync(struct iomap_file *file, int datasync);

/**
 * iomap_fsync - make a range durable
 * @start: first byte
 * @end: last byte, inclusive as in the kernel; INT64_MAX for all
 * @datasync: leave out metadata that is not needed to read the data
 *
 * Writes dirty data of the range, waits for it and for writeback already running, calls
 * commit_metadata, flushes the devices, in which it shares flushes with other callers
 * (iomap_bdev_flush()).  Takes no inode lock.  Blocks.  Data of the range
 * that the application holds back with IOMAP_WB_DEFER is waited for: until
 * iomap_writeback_resume(), and asked for again each flush_interval_ms.
 *
 * When data could not be written nothing is committed nor flushed: the next fsync does both.
 *
 * Return: 0, or the first error that this file has not seen yet: writing, commit, flush;
 * -EINVAL for a negative @start or @end before it; -EAGAIN when data is held back and the
 * engine has no threads (IOMAP_ENGINE_NO_THREADS): call again after the resume.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_fsync(struct iomap_file *file, int64_t start, int64_t end,
					   int datasync);

/**
 * iomap_fsync_iocb - iomap_fsync() by iocb, or i_fop->fsync
 * @iocb: ki_filp, ki_complete, ki_deadline; IOMAP_IOCB_NOWAIT of ki_flags
 *
 * With ki_complete it starts to write out and returns; a worker, or iomap_engine_poll(), waits,
 * commits metadata and flushes.  No more than one less than nr_workers do so at a time, together
 * with the reads and writes that wait in one; io_deadline_ms is from here on.  With
 * IOMAP_IOCB_NOWAIT the worker starts the write-out, too, which may wait in the extent map.
 *
 * Return: as iomap_fsync(); -IOMAP_EIOCBQUEUED; -ENOMEM; -EAGAIN with NOWAIT and no ki_complete.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_fsync_iocb(struct iomap_kiocb *iocb, int64_t start,
						int64_t end, int datasync);

/**
 * iomap_write_sync - make the @ret bytes that end at iocb->ki_pos durable, if the iocb asks
 *
 * Call it without i_rwsem, after iomap_file_buffered_write(); iomap_dio_rw() calls it itself.
 * Kernel: generic_write_sync.
 *
 * Return: @ret, or -errno of the sync; @ret <= 0 is returned as it is.
 */
IOMAP_API ssize_t iomap_write_sync(struct iomap_kiocb *iocb, ssize_t ret);

/* iomap_sync_range() flags */
#define IOMAP_SYNC_WAIT_BEFORE 0x1U /* wait for writeback already running */
#define IOMAP_SYNC_WRITE 0x2U	    /* start write-out */
#define IOMAP_SYNC_WAIT_AFTER 0x4U  /* wait for it */

/**
 * iomap_sync_range - write out without making durable (as sync_file_range(2))
 * @end: byte after the range, INT64_MAX for all
 *
 * No metadata commit, no flush: no durability.  Data that the application holds back with
 * IOMAP_WB_DEFER stays dirty.
 *
 * Return: 0, -EINVAL, or an error of writing that this file has not seen yet, which fsync
 * will report too.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_sync_range(struct iomap_file *file, int64_t start,
						int64_t end, unsigned flags);

/**
 * iomap_sync_engine - make everything durable: all inodes, one flush for each device
 *
 * Starts write-out of all inodes, waits for each and commits its metadata, then flushes.
 * An error does not keep the others from becoming durable.  Errors of writing are those
 * since the last call, of inodes that are gone too; openers get them from fsync all the
 * same.  Waits for data that is held back as iomap_fsync() does.  No folio lock, i_rwsem or
 * invalidate_lock held.  Blocks.
 *
 * Return: 0 or the first error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_sync_engine(struct iomap_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
