/* SPDX-License-Identifier: MIT */
/*
 * iomap/direct.h - I/O between caller memory and the device, past the cache.
 *
 * Threads: any.  Calls run on the caller's thread and block; each waits for its own I/O, but
 * for the devices where ki_complete is set (uio.h).
 * Lifetime: the memory and the iocb are the caller's again when the call has returned, or,
 * where it returned -IOMAP_EIOCBQUEUED, when ki_complete is called.
 *
 * Alignment: the position, the length of each segment of memory and its address have to suit
 * the device (iomap_bdev_limits(): logical_block_size for the first two, dma_alignment for
 * the address).  A mapping may name another device than the inode's; it is asked when the
 * mapping comes.
 *
 * Coherence with the cache: what a buffered write has returned for is seen by every direct
 * read that begins later, and the other way round.  A buffered read that runs at the same
 * time as a direct write sees old or new bytes, or zeros where the file was short of them.
 */
#ifndef IOMAP_DIRECT_H
#define IOMAP_DIRECT_H

#include <iomap/mapping.h>
#include <iomap/types.h>
#include <iomap/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* iomap_dio_rw() flags */
#define IOMAP_DIO_FORCE_WAIT 0x1U /* wait, though ki_complete is set */
#define IOMAP_DIO_OVERWRITE_ONLY 0x2U /* of writes only one that allocates and zeroes nothing */
#define IOMAP_DIO_PARTIAL 0x4U /* bad memory makes it short; -EFAULT if it is at the beginning */
#define IOMAP_DIO_BOUNCE 0x8U /* (ours) what does not suit the device goes through a buffer */

/* `flags` of iomap_dio_ops.end_io: of the mappings that were written to, some were ... */
#define IOMAP_DIO_UNWRITTEN (1U << 30) /* unwritten: convert them */
#define IOMAP_DIO_COW (1U << 31)       /* shared: the new blocks take over now */

/*
 * Hooks of direct I/O (kernel: struct iomap_dio_ops), all optional.
 *
 * end_io: called once for each call that got as far as iomap_begin, when all of its bios
 *   have ended, on the caller's thread, without a lock of the library; may block.  @size:
 *   bytes from iocb->ki_pos on that were transferred; @error: 0, or the first error, and
 *   then some of these were not; -ENOTBLK with @size 0 when nothing was, since the caller has
 *   to go through the cache (dirty data held back, delayed allocation).  Its error becomes the result unless @error is set.  A
 *   write that extends the file moves i_size here and not later: after end_io the cache is
 *   invalidated for the last time, and what a buffered read brings in by an old i_size is
 *   zero beyond it.
 * submit_io: in place of iomap_submit_bio(); it sees that the bio is submitted or ended.
 *   @file_offset: of the bio's first byte.  The thread's plug is open.  It may put its own
 *   bi_end_io in place, which then calls iomap_dio_bio_end_io(); bi_private stays.
 * bio_set: where bios come from; NULL: the engine's own.
 */
struct iomap_dio_ops {
	int (*end_io)(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags);
	void (*submit_io)(const struct iomap_iter *iter, struct iomap_bio *bio,
			  int64_t file_offset);
	struct iomap_bio_set *bio_set;
	void (*reserved[4])(void);
};

/**
 * iomap_dio_rw - read or write past the cache
 * @iocb: file and position; ki_pos moves by what was done, before ki_complete
 * @iter: the memory; its direction is the call's; advanced by what was done, or queued
 * @ops: the extent map, called with IOMAP_DIRECT, for a write with IOMAP_WRITE
 * @dops: hooks, NULL for none
 * @dio_flags: IOMAP_DIO_xxx
 * @private_data: iter->private of the callbacks
 * @done_before: bytes that were done for this iocb before; counted in by a result that is not 0
 *
 * i_rwsem held at least shared; by a write that extends the file, or is not aligned to
 * blocks, exclusively, since it zeroes the rest of its blocks.
 *
 * A read first writes out what is dirty in its range.  Holes and unwritten space become
 * zeros, inline data is copied.  It ends at i_size; bytes of the memory behind the count
 * that is returned are undefined.
 *
 * A write first writes out and invalidates the cache of its range, and invalidates it again
 * at the end.  Of a block that is new (IOMAP_F_NEW), unwritten, or holds the new end of the
 * file, what the write leaves is zeroed on the device.  It does not move i_size (see
 * end_io), nor zero a gap before its position.  With IOMAP_IOCB_DSYNC or _SYNC it is durable
 * on return, by iomap_write_sync(), which calls commit_metadata under the caller's i_rwsem.
 *   That is left out when its bios carried IOMAP_REQ_FUA, as they do where all of these are so:
 * the device has IOMAP_BDEV_HAS_FUA, or no write cache; the mapping is IOMAP_MAPPED, without a
 * srcmap, and none of IOMAP_F_NEW, _SHARED, _DIRTY; the write ends below i_size; and with
 * IOMAP_IOCB_SYNC the inode has no commit_metadata, nor an fsync of its own.  So an extent map sets
 * IOMAP_F_DIRTY while what finds the data is not durable.
 *
 * IOMAP_DIO_OVERWRITE_ONLY: for a caller whose shared lock lets others write in the same blocks.
 * iomap_begin gets IOMAP_OVERWRITE_ONLY.  -EAGAIN, and nothing has been submitted, when the write
 * ends behind i_size, or its first mapping is not all of it, neither IOMAP_MAPPED nor _UNWRITTEN,
 * IOMAP_F_NEW, has a srcmap, or is unwritten and the write not of whole blocks.  The last not
 * with IOMAP_F_ZEROES_UNWRITTEN: then what a direct write leaves of its unwritten blocks is the
 * extent map's to zero, before they are converted, with this flag and without.  Of reads nothing.
 *
 * IOMAP_DIO_PARTIAL: the memory is looked at as for IOMAP_IOCB_CHECKED (uio.h), and the call ends
 * before the first bad page, with whole blocks (a read: sectors of the inode's device), and then
 * does not return -IOMAP_EIOCBQUEUED but with IOMAP_IOCB_NOWAIT.  Make the memory good, and
 * call again for the rest with @done_before = what was returned, which counts all there was
 * before.  Not together with IOMAP_DIO_BOUNCE or IOMAP_IOCB_ATOMIC.
 *
 * IOMAP_IOCB_NOWAIT: -EAGAIN for a cache that would have to be written out or dropped, for want
 * of memory, and where the device is without IOMAP_BDEV_HAS_NOWAIT; bios carry IOMAP_REQ_NOWAIT,
 * and -EAGAIN of one is the call's, of a write perhaps after a part of it.
 *
 * IOMAP_IOCB_HIPRI, with ki_complete and an I/O that is a single bio: the bio is
 * IOMAP_REQ_POLLED, so the submitting thread calls iomap_engine_poll() until the iocb has
 * completed, and nobody else may need its end meanwhile: not iomap_inode_dio_wait() in a thread for
 * which this one waits.  Else, and where a thread cannot have a queue of its own, without effect.
 *
 * IOMAP_IOCB_ATOMIC, of writes to files whose `open` has set IOMAP_FMODE_CAN_ATOMIC_WRITE:
 * after a power cut all of the write is there or nothing.  iomap_begin gets IOMAP_ATOMIC and
 * decides how.
 *   By the device, IOMAP_F_ATOMIC_BIO: in a single bio, IOMAP_REQ_ATOMIC, never split.  -EINVAL
 * unless the mapping covers all of the write, its length is a power of two, at least a block and
 * within the device's atomic_write_min_bytes and _max_bytes, position and address are
 * multiples of it, and the memory is of no more pieces than atomic_write_segments_nr.
 *   By the extent map: no such limits.  It answers new blocks (IOMAP_UNWRITTEN, IOMAP_F_NEW or
 * IOMAP_F_SHARED; anything else is a broken mapping, -EIO), in as many mappings as it likes,
 * and end_io has all of them take over in one commit of its metadata.  end_io gets an error
 * unless all of the range was written: then nothing may take over.
 *   It is never short and never -ENOTBLK: -EAGAIN when the cache could not be settled, -EINVAL
 * where the cache would have to do a part, -EFBIG beyond i_maxbytes, -EOPNOTSUPP for other files.
 *
 * With IOMAP_DIO_BOUNCE what does not suit the inode's device is no error: a read is made
 * longer at both ends (and end_io is told of that), and memory that is not aligned is copied,
 * by a buffer that is allocated for the call; a write that begins or ends inside a sector
 * gives -ENOTBLK.  Not together with IOMAP_IOCB_APPEND.
 *
 * With ki_complete the call submits the I/O and returns -IOMAP_EIOCBQUEUED.  @iter and its
 * vector are the caller's then, and @ops is not called any more; the memory itself, the iocb,
 * @dops and the file stay as they are until ki_complete: the file cannot be closed before.
 * What blocks in the call is all that comes before the devices: iomap_begin, and writing out
 * and invalidating the cache.  end_io, the second invalidation and the sync of IOMAP_IOCB_DSYNC
 * come before ki_complete, in a worker.  While a plug of the caller's is open the I/O may wait
 * in it.  i_rwsem may be released when the call has returned: who gives blocks away calls
 * iomap_inode_dio_wait() under it.
 *   The call waits, returns the result, and ki_complete is never called: when all of the I/O
 * has ended before it would return (holes, inline data, devices in memory), or it comes to
 * nothing but an error; with IOMAP_DIO_FORCE_WAIT; when IOMAP_DIO_BOUNCE has something to
 * bounce; with IOMAP_IOCB_APPEND, and when the rest of a block was zeroed, since these need
 * i_rwsem to the end; and when no worker could be started.  A write that extends the file is
 * not waited for: use IOMAP_DIO_FORCE_WAIT if your end_io, or the next writer, cannot do with
 * a shared lock, or with none.
 *
 * Return: bytes, fewer when an error of the callbacks follows them, or what -ENOTBLK would be
 * returned for (the rest is for the buffered call); 0 for a read at or beyond i_size;
 * -IOMAP_EIOCBQUEUED: ki_complete will be called; -ENOTBLK: use the buffered call instead,
 * nothing was done (dirty data is held back with IOMAP_WB_DEFER or comes back, release_folio
 * keeps a folio, the mapping is IOMAP_DELALLOC, a part of a block has its old data elsewhere,
 * or a callback said so);
 * -EINVAL (alignment, flags, negative position, IOMAP_IOCB_WRITE with memory to read into),
 * before anything was submitted; -EAGAIN, -EFAULT and -EOPNOTSUPP as above;
 * -EFBIG at or beyond i_maxbytes; -EIO for a broken mapping; -ENOMEM; the first error of
 * the device, of writing out, of the callbacks or of the sync.  Kernel counterpart:
 * iomap_dio_rw.
 */
IOMAP_API ssize_t iomap_dio_rw(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter,
			       const struct iomap_ops *ops, const struct iomap_dio_ops *dops,
			       unsigned dio_flags, void *private_data, size_t done_before);

/* One direct I/O that has been started; from a pool of the engine. */
struct iomap_dio;

/**
 * iomap_dio_start - begin what iomap_dio_rw() does, and come back before it has ended
 *
 * Arguments, locks and flags as those of iomap_dio_rw(), but for IOMAP_DIO_BOUNCE (-EINVAL).
 * Blocks in all that comes before the devices, and does not wait for these.  Kernel counterpart:
 * __iomap_dio_rw, which waits for them.
 *
 * Return: an I/O, which goes to iomap_dio_complete() and nowhere else, from any thread, with
 * i_rwsem held until then; @iter is advanced by what was submitted; the memory, the iocb and
 * @dops stay until then.  NULL: there is nothing to be done (no bytes, or a read at or beyond
 * i_size).  Or an error (iomap_is_err()): those of iomap_dio_rw() from before its bios; above
 * all -IOMAP_EIOCBQUEUED, and ki_complete will be called.
 */
IOMAP_API IOMAP_MUST_CHECK struct iomap_dio *
iomap_dio_start(struct iomap_kiocb *iocb, struct iomap_iov_iter *iter, const struct iomap_ops *ops,
		const struct iomap_dio_ops *dops, unsigned dio_flags, void *private_data,
		size_t done_before);

/**
 * iomap_dio_complete - wait for what was started, and end it
 *
 * Blocks.  Calls end_io, drops the cache a second time, moves ki_pos, and syncs where the iocb
 * asks for it.  Frees @dio.  Kernel counterpart: iomap_dio_complete.
 *
 * Return: as iomap_dio_rw() by then: bytes, with done_before; or an error.
 */
IOMAP_API ssize_t iomap_dio_complete(struct iomap_dio *dio);

/** iomap_dio_bio_end_io - end a bio of direct I/O from an own bi_end_io; any context */
IOMAP_API void iomap_dio_bio_end_io(struct iomap_bio *bio);

#ifdef __cplusplus
}
#endif
#endif
