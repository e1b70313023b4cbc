/* SPDX-License-Identifier: MIT */
/*
 * iomap/bdev.h - block devices: files, block devices, memory, and the application's own.
 *
 * Threads: any.  Opening and closing block.
 * Lifetime: a bdev belongs to one engine and must be closed before it.
 */
#ifndef IOMAP_BDEV_H
#define IOMAP_BDEV_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* iomap_bdev_opts.flags */
#define IOMAP_BDEV_READONLY 0x1U /* writes give -EROFS */
#define IOMAP_BDEV_BUFFERED 0x2U /* through the kernel's cache where O_DIRECT is refused */
#define IOMAP_BDEV_SHARED 0x4U	 /* do not take the exclusive lock */

struct iomap_bdev_opts {
	size_t size;	/* sizeof(struct iomap_bdev_opts) */
	uint32_t flags; /* IOMAP_BDEV_xxx */
	uint32_t reserved32;
	uint64_t reserved[4];
};

/* iomap_bdev_limits.flags */
#define IOMAP_BDEV_HAS_WRITE_CACHE 0x1U /* a completed write may be lost with the power until a
					 * flush; set as well where it is not known */
#define IOMAP_BDEV_HAS_FUA 0x2U /* IOMAP_REQ_FUA costs no flush of everything */
#define IOMAP_BDEV_HAS_NOWAIT 0x4U /* takes IOMAP_REQ_NOWAIT */
#define IOMAP_BDEV_HAS_ZEROING_DISCARD 0x8U /* what has been discarded reads as zeros */

/*
 * What the device can do; bytes.  Zero in what follows max_transfer_bytes: it cannot.
 *
 * Of a block device the kernel is asked (statx, ioctl, /sys/dev/block).  Of a regular file
 * alignment and atomic writes are those of the file, discarding makes holes, and write cache
 * and FUA are those of the block device that the file system says it is on; where there is
 * no single one, or with IOMAP_BDEV_BUFFERED, there is a write cache and no FUA.
 */
struct iomap_bdev_limits {
	uint32_t logical_block_size;  /* unit of addresses and lengths, power of two >= 512 */
	uint32_t physical_block_size; /* >= logical */
	uint32_t dma_alignment;	      /* alignment of memory, power of two */
	uint32_t max_segments_nr;     /* memory segments in one transfer */
	uint64_t max_transfer_bytes;  /* longest single transfer */
	uint32_t flags;		      /* IOMAP_BDEV_HAS_xxx */
	uint32_t discard_granularity; /* smaller or misaligned discards may do nothing */
	/* IOMAP_REQ_ATOMIC: powers of two, the address a multiple of the length */
	uint32_t atomic_write_min_bytes;
	uint32_t atomic_write_max_bytes;
	uint32_t atomic_write_segments_nr; /* memory segments in one */
	uint32_t reserved32;
	uint64_t max_discard_bytes;	 /* longest single discard */
	uint64_t max_write_zeroes_bytes; /* longest single IOMAP_REQ_OP_WRITE_ZEROES */
	uint64_t reserved[3];
};

/**
 * iomap_bdev_open - open a file or block device for direct I/O
 * @engine: its engine
 * @path: a regular file or a block device
 * @opts: NULL for none
 * @out: receives the bdev
 *
 * Takes an exclusive lock on the file (O_EXCL on a device) unless IOMAP_BDEV_SHARED.
 * Data goes by O_DIRECT; where that is refused the call fails, unless
 * IOMAP_BDEV_BUFFERED asks for the kernel's cache.  Where the file refuses not to block
 * (RWF_NOWAIT), I/O is done inline by the submitting thread.
 *
 * Return: 0; -EINVAL (bad options, O_DIRECT refused, not a file or block device; a log
 * line says which); -EBUSY when locked by somebody else; or open's error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_open(struct iomap_engine *engine, const char *path,
					       const struct iomap_bdev_opts *opts,
					       struct iomap_bdev **out);

/**
 * iomap_bdev_open_memory - a device in memory, zeroed
 * @bytes: its size, a multiple of 512, at least one sector
 *
 * Its contents go with it.  Every I/O completes inside its submission.
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_open_memory(struct iomap_engine *engine, uint64_t bytes,
						      struct iomap_bdev **out);

/*
 * A device of the application's own, or one stacked on another.
 *
 * submit_bio: required.  Takes the bio and calls iomap_bio_endio() for it exactly once,
 *   now or later, from any thread.  A stacked device changes bio->bi_bdev and submits it
 *   on, or submits bios of its own.  Called on the submitting thread with folio locks
 *   possibly held; may block, must not call buffered operations.  The thread may hold a
 *   plug, or be in a bi_end_io with others to run after it: so do not block on what another
 *   thread holds while it waits for I/O.
 * revalidate: optional.  Puts the size of the device, in bytes, to *@bytes, for
 *   iomap_bdev_revalidate().  May block.  0 or -errno; -ENODEV: the device is gone.
 * release: optional.  The bdev is being closed, no I/O is in flight.  A device with threads
 *   of its own waits here for those that may still be inside a call to the library.
 */
struct iomap_bdev_ops {
	void (*submit_bio)(struct iomap_bdev *bdev, struct iomap_bio *bio);
	void (*release)(struct iomap_bdev *bdev);
	int (*revalidate)(struct iomap_bdev *bdev, uint64_t *bytes);
	void (*reserved[3])(void);
};

/**
 * iomap_bdev_create - make a device out of callbacks
 * @ops: kept, not copied
 * @bytes: size of the device
 * @limits: NULL for 512-byte sectors and no other limits
 * @context: for iomap_bdev_private()
 *
 * The library checks that bios lie inside the device and are aligned, and accounts for
 * them, before it calls submit_bio.
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_create(struct iomap_engine *engine,
						 const struct iomap_bdev_ops *ops, uint64_t bytes,
						 const struct iomap_bdev_limits *limits,
						 void *context, struct iomap_bdev **out);

/**
 * iomap_bdev_close - release the device
 *
 * NULL is ignored.  Waits for a bi_end_io or submit_bio that is still running although its
 * I/O is over, so it must not be called by one.
 *
 * Return: 0; -EBUSY while I/O is in flight, or an inode names it as its i_bdev, or another
 * device is stacked on it (nothing is changed); -EINVAL for one that is closed already (debug
 * builds abort).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_close(struct iomap_bdev *bdev);

/** iomap_bdev_private - the @context given to iomap_bdev_create(), else NULL */
IOMAP_API void *iomap_bdev_private(const struct iomap_bdev *bdev);
/** iomap_bdev_bytes - size of the device */
IOMAP_API uint64_t iomap_bdev_bytes(const struct iomap_bdev *bdev);
/** iomap_bdev_limits - what the device can do */
IOMAP_API void iomap_bdev_limits(const struct iomap_bdev *bdev, struct iomap_bdev_limits *out);
/** iomap_bdev_name - path, "memory" or "custom", for logs; lives as long as the bdev */
IOMAP_API const char *iomap_bdev_name(const struct iomap_bdev *bdev);
/** iomap_bdev_io_path - "io_uring", "threads", "inline", "memory" or "custom" */
IOMAP_API const char *iomap_bdev_io_path(const struct iomap_bdev *bdev);

/**
 * iomap_bdev_flush - make completed writes durable
 *
 * Blocks.  Left out when a flush that started after the last completed write has itself
 * completed.  Callers share flushes: one that is under way, if no write has completed since it
 * started, or else the next one.  Kernel counterpart: blkdev_issue_flush.
 *
 * Return: 0 or the device's error, which all who have shared the flush get.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_flush(struct iomap_bdev *bdev);

/**
 * iomap_bdev_revalidate - ask for the size of a device that may have grown
 *
 * A file, block device, or device with the operation `revalidate` is asked; of others the size
 * stays as it is.  Then iomap_bdev_bytes() is the new size, cut to whole blocks.  Blocks.
 *
 * A device that has shrunk keeps its size: data in use may lie behind its end, where I/O fails
 * from below (-EIO).  Close and open it to use it as a smaller one.
 *
 * Return: 0; -ERANGE when it has shrunk (with a log line); -ENODEV when it is gone; or the
 * error of asking.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_revalidate(struct iomap_bdev *bdev);
/**
 * iomap_bdev_set_bytes - a device of the application has grown
 * @bytes: its size from now on
 *
 * Any context.  Kernel: set_capacity.
 *
 * Return: 0; -ERANGE when that is less than before; -EINVAL when it is no multiple of the
 * logical block size, or for a device that is not of iomap_bdev_create(), or that can be
 * asked (`revalidate`).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_set_bytes(struct iomap_bdev *bdev, uint64_t bytes);
/**
 * iomap_bdev_set_gone - the device has vanished, for good
 *
 * Whatever is submitted from now on ends with -ENODEV, and so does what has been submitted and
 * not started: what is plugged, waits in a queue, or waits for another part of the same bio.
 * What the kernel or the application's device has got ends as it ends there.  Files and block
 * devices for which the kernel says ENODEV or ENXIO are gone by themselves.  One log line.  It
 * still has to be closed.  Any context.
 */
IOMAP_API void iomap_bdev_set_gone(struct iomap_bdev *bdev);

/**
 * iomap_bdev_discard - the contents of a range are not needed any more
 * @addr: first byte, a multiple of the logical block size
 * @len: bytes, likewise
 *
 * What is read there afterwards is the old contents or zeros, until it is written; zeros
 * with IOMAP_BDEV_HAS_ZEROING_DISCARD.  Blocks.  Kernel: blkdev_issue_discard.
 *
 * Return: 0; -EOPNOTSUPP where the device cannot; -EINVAL; -EIO outside the device; or the
 * device's error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_discard(struct iomap_bdev *bdev, uint64_t addr,
						  uint64_t len);

/* iomap_bdev_write_zeroes() */
#define IOMAP_BDEV_ZERO_NOFALLBACK 0x1U /* -EOPNOTSUPP rather than writing zeros from memory */

/**
 * iomap_bdev_write_zeroes - make a range read as zeros
 * @addr: first byte, a multiple of the logical block size
 * @len: bytes, likewise
 * @flags: IOMAP_BDEV_ZERO_xxx
 *
 * By a command of the device where it has one, else by writing.  As volatile as any write.
 * Blocks.  Kernel: blkdev_issue_zeroout.
 *
 * Return: as iomap_bdev_discard(), or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bdev_write_zeroes(struct iomap_bdev *bdev, uint64_t addr,
						       uint64_t len, unsigned flags);

/**
 * iomap_register_buffers - memory that much direct I/O will be done on
 * @iov: pieces of it, 1 byte to 1 GiB each
 * @nr: how many
 * @first_index: receives the number of the first one; the others follow it
 *
 * Where the backend is io_uring the rings pin it, so that a transfer whose memory lies within
 * one of the pieces costs less: which one it is is found by the address.  What the limit on
 * locked memory does not allow (RLIMIT_MEMLOCK, against the pieces of all rings; one log line),
 * and with other backends or IOMAP_ENGINE_NO_REGISTER, goes as any other memory, and that is no
 * error: registered_bytes of iomap_engine_stats() tells.
 *   The memory stays mapped where it is until it is unregistered, or the engine destroyed: after
 * an munmap() rings would still know the old pages.  At most 1024 pieces in an engine.  Any
 * thread; blocks.
 *
 * Return: 0; -EINVAL; -ENOSPC when there are too many; -ENOMEM; -ECHILD.  Kernel counterpart:
 * none; io_uring_register_buffers of user space.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_register_buffers(struct iomap_engine *engine,
						      const struct iovec *iov, unsigned nr,
						      unsigned *first_index);
/**
 * iomap_unregister_buffers - the rings forget it
 * @first_index: of the first piece
 * @nr: how many; pieces of several registrations may go together
 *
 * After that it may be unmapped; a queue of one thread (IOMAP_REQ_POLLED) keeps its pages, not its
 * address, until that thread does its next I/O there.  Nobody begins I/O on it meanwhile.  Any
 * thread; blocks.
 *
 * Return: 0; -EBUSY while a transfer is in flight that goes by one of them, and nothing has
 * changed; -EINVAL when one of them is not registered; -ECHILD.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_unregister_buffers(struct iomap_engine *engine,
							unsigned first_index, unsigned nr);

struct iomap_bdev_stats {
	uint64_t reads_nr, writes_nr, flushes_nr; /* bios completed */
	uint64_t read_bytes, written_bytes;
	uint64_t errors_nr; /* bios completed with an error */
	uint64_t inflight_nr; /* now */
	uint64_t discards_nr, write_zeroes_nr; /* bios completed */
};

/** iomap_bdev_stats - counters of the device; @size as for iomap_engine_stats() */
IOMAP_API int iomap_bdev_stats(struct iomap_bdev *bdev, struct iomap_bdev_stats *out, size_t size);

/**
 * iomap_bdev_histogram - latencies of the device, see iomap_engine_histogram()
 * @which: IOMAP_HIST_DEVICE_READ, _DEVICE_WRITE or _FLUSH (enum iomap_histogram)
 *
 * Of a device that passes its bios on to another one it is that one which has them.
 *
 * Return: 0; -EINVAL; -ECHILD.
 */
IOMAP_API int iomap_bdev_histogram(struct iomap_bdev *bdev, unsigned which, uint64_t *buckets,
				   unsigned nr);

#ifdef __cplusplus
}
#endif
#endif
