/* SPDX-License-Identifier: MIT */
/*
 * iomap/uio.h - iterators over caller memory, and the control block of an I/O call.
 *
 * Both belong to one thread at a time.
 */
#ifndef IOMAP_UIO_H
#define IOMAP_UIO_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IOMAP_ITER_DEST 0   /* memory is filled: a read */
#define IOMAP_ITER_SOURCE 1 /* memory is the data: a write */

/* Caller memory as one buffer or a vector (kernel: struct iov_iter). */
struct iomap_iov_iter {
	const struct iovec *iov; /* current segment; NULL: `ubuf` is all there is */
	size_t nr_segs;		 /* segments left, with the current one */
	size_t iov_offset;	 /* bytes of the current segment already used */
	size_t count;		 /* bytes left */
	char *ubuf;
	uint8_t data_source; /* IOMAP_ITER_xxx */
	uint8_t reserved[7];
};

/**
 * iomap_iov_iter_init - iterate over @nr_segs segments, of which @count bytes are used
 *
 * @iov is kept, not copied.  @count is cut to what the segments hold.
 */
IOMAP_API void iomap_iov_iter_init(struct iomap_iov_iter *iter, unsigned direction,
				   const struct iovec *iov, size_t nr_segs, size_t count);
/** iomap_iov_iter_ubuf - iterate over one buffer */
IOMAP_API void iomap_iov_iter_ubuf(struct iomap_iov_iter *iter, unsigned direction, void *buf,
				   size_t count);
/** iomap_iov_iter_count - bytes left */
IOMAP_API size_t iomap_iov_iter_count(const struct iomap_iov_iter *iter);
/** iomap_iov_iter_advance - skip @bytes, at most those left */
IOMAP_API void iomap_iov_iter_advance(struct iomap_iov_iter *iter, size_t bytes);
/** iomap_iov_iter_revert - go back @bytes that were advanced over */
IOMAP_API void iomap_iov_iter_revert(struct iomap_iov_iter *iter, size_t bytes);
/** iomap_iov_iter_truncate - lower the bytes left to @count */
IOMAP_API void iomap_iov_iter_truncate(struct iomap_iov_iter *iter, size_t count);
/** iomap_copy_to_iter - copy into the memory and advance. Return: bytes copied. */
IOMAP_API size_t iomap_copy_to_iter(const void *from, size_t bytes, struct iomap_iov_iter *iter);
/** iomap_copy_from_iter - copy out of the memory and advance. Return: bytes copied. */
IOMAP_API size_t iomap_copy_from_iter(void *to, size_t bytes, struct iomap_iov_iter *iter);
/** iomap_iov_iter_zero - fill the memory with zeros and advance. Return: bytes zeroed. */
IOMAP_API size_t iomap_iov_iter_zero(size_t bytes, struct iomap_iov_iter *iter);
/** iomap_iov_iter_alignment - all addresses and lengths of the memory left, or'ed */
IOMAP_API unsigned long iomap_iov_iter_alignment(const struct iomap_iov_iter *iter);

/*
 * Control block of one read or write (kernel: struct kiocb).  Zero it, set ki_filp and
 * ki_pos; iomap_kiocb_init() does so and takes the file's modes over.
 *
 * ki_complete: NULL: the call waits.  Else it may return -IOMAP_EIOCBQUEUED, and ki_complete
 * will be called exactly once with what would have been returned; when it returns anything else
 * it never will be.  iomap_dio_rw() and the calls of file.h by iocb make use of it; the buffered
 * calls of the kernel's names (buffered.h) wait.
 *   Context: a worker, or iomap_engine_poll() with blocking callbacks allowed; without a lock
 *   of the library; perhaps before the call that was asynchronous has returned; never inside
 *   another ki_complete or work function.  It may block, submit I/O, close the file, and free
 *   the iocb, which is the library's until then.  What it waits for must not hang on more
 *   ki_completes and work than there are workers left for.
 *
 * IOMAP_IOCB_CHECKED: the memory may be unmapped, not readable or, for a read, not writable, or
 *   any length too much (the struct iovecs themselves are good).  The call then ends with the
 *   bytes before, or with -EFAULT when there are none; nothing of what lies behind is dirty, and
 *   no byte is written, read or shown that the call has not been given.  Without the flag it
 *   is the caller's bug.  Buffered calls copy by way of a buffer and the kernel: a system call
 *   for each 64 KiB, or 4 KiB of small calls, one more copy, and no hit without either.  Direct
 *   I/O looks at all of its memory first, by a system call for each segment, and gives -EFAULT
 *   if some of it is bad; from then until its end the memory has to stay as it is.  -EOPNOTSUPP
 *   where the kernel lets nothing of this be done: iomap_features(), "checked".
 */
struct iomap_kiocb {
	struct iomap_file *ki_filp;
	int64_t ki_pos; /* moved by what was done */
	void (*ki_complete)(struct iomap_kiocb *iocb, long ret);
	void *IOMAP_PRIVATE_MEMBER; /* the caller's */
	uint32_t ki_flags;	    /* IOMAP_IOCB_xxx */
	uint32_t reserved32;
	uint64_t ki_deadline; /* by the engine's clock: a wait ends then with -ETIMEDOUT, see
			       * iomap_engine_opts.io_deadline_ms; 0: as that says */
	uint64_t reserved[3];
};

/** iomap_kiocb_init - clear @iocb, set file and position, take over the file's modes */
IOMAP_API void iomap_kiocb_init(struct iomap_kiocb *iocb, struct iomap_file *file, int64_t pos);

#ifdef __cplusplus
}
#endif
#endif
