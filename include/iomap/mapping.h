/* SPDX-License-Identifier: MIT */
/*
 * iomap/mapping.h - mappings, the iterator, and the callbacks of an extent map.
 *
 * Callbacks run on the thread of the operation.  For write and zero operations no folio
 * and no internal lock is held in iomap_begin and iomap_end; for reads, readahead and
 * page faults the folios concerned are locked.  The application must hold no lock of its
 * extent map between the two calls; i_rwsem and invalidate_lock may be held around both.
 */
#ifndef IOMAP_MAPPING_H
#define IOMAP_MAPPING_H

#include <iomap/flags.h>
#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One mapping (kernel: struct iomap).  Filled by iomap_begin, which gets it zeroed but
 * for type IOMAP_HOLE and addr IOMAP_NULL_ADDR.
 */
struct iomap {
	uint64_t addr;	 /* byte on bdev, or IOMAP_NULL_ADDR */
	int64_t offset;	 /* byte in the file where the mapping starts */
	uint64_t length; /* bytes */
	uint16_t type;	 /* IOMAP_HOLE ... */
	uint16_t flags;	 /* IOMAP_F_xxx */
	struct iomap_bdev *bdev;
	struct iomap_dax_dev *dax_dev;
	void *inline_data;	   /* IOMAP_INLINE: the bytes at `offset`, writable; within one page
				    * of the file */
	void *IOMAP_PRIVATE_MEMBER; /* the application's */
	uint64_t validity_cookie;  /* the application's, for iomap_valid */
	uint64_t reserved[2];
};

/*
 * The extent map's two callbacks (kernel: struct iomap_ops).
 *
 * iomap_begin: required.  Fill @iomap with the mapping that covers @pos; it may start
 *   earlier and be shorter or longer than asked.  @srcmap, when its type is set to other
 *   than IOMAP_HOLE, is where old data is read from (copy-on-write).  May block.
 *     What is IOMAP_MAPPED anybody may read from the device at once.  IOMAP_F_NEW tells only
 *   this caller that nothing has been written there: where others read beside a write, answer
 *   IOMAP_UNWRITTEN or IOMAP_DELALLOC for what it has allocated, to all of them.
 *   Return 0 or -errno, which ends the operation; no iomap_end follows an error.
 * iomap_end: optional.  Called once for each iomap_begin that returned 0.  @written: bytes
 *   of the mapping that were worked on from @pos, 0 after a failure.  May block.  Its error
 *   is returned only when nothing was written.
 *     Of what was IOMAP_F_NEW, and of which fewer bytes were written, the rest holds nothing: take
 *   it back, or answer IOMAP_F_NEW again.  Short writes are ordinary with IOMAP_NOWAIT, and an
 *   asynchronous write begins as one.
 */
struct iomap_ops {
	int (*iomap_begin)(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			   struct iomap *iomap, struct iomap *srcmap);
	int (*iomap_end)(struct iomap_inode *inode, int64_t pos, int64_t length, ssize_t written,
			 unsigned flags, struct iomap *iomap);
	void (*reserved[2])(void);
};

/*
 * State of an operation that goes over mappings (kernel: struct iomap_iter).  The caller
 * zeroes it and sets inode, pos, len, flags and private, then calls iomap_iter() until it
 * returns <= 0.
 */
struct iomap_iter {
	struct iomap_inode *inode;
	int64_t pos;		/* where the operation is */
	uint64_t len;		/* bytes left */
	int64_t iter_start_pos; /* pos when the current mapping was sampled */
	int status;		/* the body sets it < 0 to end the operation with this error */
	unsigned flags;		/* IOMAP_WRITE ... */
	struct iomap iomap;	/* the current mapping */
	struct iomap srcmap;	/* type IOMAP_HOLE: none */
	void *IOMAP_PRIVATE_MEMBER; /* the caller's */
	uint64_t reserved[2];
};

/**
 * iomap_iter - end the current mapping, sample the next one
 * @iter: the operation
 * @ops: the extent map
 *
 * Calls iomap_end for the mapping the body has just worked on (progress as told by
 * iomap_iter_advance()), and iomap_begin for what is left.  A mapping on which the body
 * made no progress ends the operation, unless it is marked IOMAP_F_STALE.  Mappings are
 * checked; a broken one is -EIO and a log line.  Kernel counterpart: iomap_iter.
 *
 * Return: 1 with a mapping to work on, 0 when the range is done, or -errno; -EOVERFLOW for a range
 * that ends beyond 2^63, where no position is.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_iter(struct iomap_iter *iter, const struct iomap_ops *ops);

/**
 * iomap_iter_advance - tell that @count bytes of the current mapping are done
 *
 * Return: 0, or -EIO when @count is more than iomap_length(@iter).
 */
IOMAP_API int iomap_iter_advance(struct iomap_iter *iter, uint64_t count);

/** iomap_length - bytes of the current mapping left within the operation's range */
IOMAP_API uint64_t iomap_length(const struct iomap_iter *iter);

/** iomap_iter_srcmap - where to read old data: srcmap if there is one, else iomap */
IOMAP_API const struct iomap *iomap_iter_srcmap(const struct iomap_iter *iter);

#ifdef __cplusplus
}
#endif
#endif
