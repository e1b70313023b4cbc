/* SPDX-License-Identifier: MIT */
/*
 * iomap/flags.h - the flag families.
 *
 * Four families carry kernel names that all start with IOMAP_.  Which is which:
 *
 *   mapping types   IOMAP_HOLE ...      iomap.type          set by iomap_begin
 *   mapping flags   IOMAP_F_xxx         iomap.flags         set by iomap_begin; two by the library
 *   operation flags IOMAP_WRITE ...     iomap_begin's flags set by the library
 *   iocb flags      IOMAP_IOCB_xxx      iomap_kiocb.ki_flags set by the caller
 *
 * A bit that its family does not define gives -EINVAL (in a mapping: -EIO, as a
 * broken mapping).
 */
#ifndef IOMAP_FLAGS_H
#define IOMAP_FLAGS_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Mapping types: iomap.type */
#define IOMAP_HOLE 0	  /* no blocks allocated, no space reserved */
#define IOMAP_DELALLOC 1  /* space reserved, blocks not chosen yet */
#define IOMAP_MAPPED 2	  /* blocks allocated at addr */
#define IOMAP_UNWRITTEN 3 /* blocks allocated at addr, read as zeros */
#define IOMAP_INLINE 4	  /* data in inline_data */

/* addr of a mapping that has no place on a device. */
#define IOMAP_NULL_ADDR UINT64_MAX

/* Mapping flags: iomap.flags.  First column: who sets it / who reads it. */
#define IOMAP_F_NEW 0x0001U	   /* app / write: blocks are fresh, what is not written is zero */
#define IOMAP_F_DIRTY 0x0002U	   /* app / sync: metadata is needed to find the data */
#define IOMAP_F_SHARED 0x0004U	   /* app / writeback: blocks shared, never written in place */
#define IOMAP_F_MERGED 0x0008U	   /* app / fiemap: several extents were put together */
#define IOMAP_F_XATTR 0x0020U	   /* app / fiemap: mapping of extended attributes */
#define IOMAP_F_BOUNDARY 0x0040U   /* app / writeback: I/O is not merged across the start */
#define IOMAP_F_ANON_WRITE 0x0080U /* app / writeback: addr is assigned at submission */
#define IOMAP_F_ATOMIC_BIO 0x0100U /* app / direct: the device itself can write this untorn */
#define IOMAP_F_ZEROES_UNWRITTEN 0x0800U /* app / direct (ours): can zero inside UNWRITTEN */
#define IOMAP_F_PRIVATE 0x1000U	   /* app / app: free for the application */
#define IOMAP_F_SIZE_CHANGED 0x4000U /* library / iomap_end: this write moved i_size */
#define IOMAP_F_STALE 0x8000U	   /* library or app / library: sample the mapping again */

/* Operation flags: iomap_begin's and iomap_end's `flags` */
#define IOMAP_WRITE 0x0001U	     /* writing, blocks must be allocated or reserved */
#define IOMAP_ZERO 0x0002U	     /* zeroing, may skip holes */
#define IOMAP_REPORT 0x0004U	     /* reporting extent state only */
#define IOMAP_FAULT 0x0008U	     /* on behalf of a mapped fault */
#define IOMAP_DIRECT 0x0010U	     /* direct I/O */
#define IOMAP_NOWAIT 0x0020U	     /* do not block */
#define IOMAP_OVERWRITE_ONLY 0x0040U /* only pure overwrites */
#define IOMAP_UNSHARE 0x0080U	     /* give shared blocks an own copy */
#define IOMAP_DAX 0x0100U	     /* DAX mapping */
#define IOMAP_ATOMIC 0x0200U	     /* torn-write protection */
#define IOMAP_DONTCACHE 0x0400U	     /* drop from the cache afterwards */

/* iocb flags: iomap_kiocb.ki_flags, and `flags` of iomap_file_open where marked (open) */
#define IOMAP_IOCB_APPEND 0x0001U /* (open) position is i_size at the time of the write */
#define IOMAP_IOCB_DSYNC 0x0002U  /* (open) data durable before return */
#define IOMAP_IOCB_SYNC 0x0004U	  /* (open) data and metadata durable before return; with DSYNC */
#define IOMAP_IOCB_DIRECT 0x0008U /* (open) for read_iter and write_iter to look at; the calls
				   * for buffered and for direct I/O take no notice of it */
#define IOMAP_IOCB_NOWAIT 0x0010U /* -EAGAIN, or a short count, rather than any wait: for a lock,
				   * memory, a device, throttling.  A read takes what is cached
				   * and does not call the extent map; a write tells it. */
#define IOMAP_IOCB_DONTCACHE 0x0020U /* folios that the call brings in are dropped: when they have
				      * been read, or written, which starts at once; not what was
				      * cached before, nor what others use meanwhile */
#define IOMAP_IOCB_CHECKED 0x0040U /* memory of the call may be bad: -EFAULT or a short count;
				    * see struct iomap_kiocb */
#define IOMAP_IOCB_NOTHROTTLE 0x0080U /* not held up, whatever is dirty: what is cannot be
					* written before this is (a log) */
#define IOMAP_IOCB_HIPRI 0x0100U /* direct: the submitter comes back for it, see direct.h */
#define IOMAP_IOCB_ATOMIC 0x0200U /* direct write: after a power cut all of it is there or nothing,
				   * see direct.h */
#define IOMAP_IOCB_WRITE 0x0400U /* it is a write; -EINVAL with memory to read into */

/* Flag families, for iomap_format_flags(). */
enum iomap_flag_family {
	IOMAP_FAMILY_TYPE,	 /* mapping types: a number, not bits */
	IOMAP_FAMILY_MAPPING,	 /* IOMAP_F_xxx */
	IOMAP_FAMILY_OPERATION,	 /* IOMAP_WRITE ... */
	IOMAP_FAMILY_IOCB,	 /* IOMAP_IOCB_xxx */
	IOMAP_FAMILY_REQ,	 /* IOMAP_REQ_xxx */
	IOMAP_FAMILY_IOEND,	 /* IOMAP_IOEND_xxx */
	IOMAP_FAMILY_OPEN,	 /* IOMAP_O_xxx */
	IOMAP_FAMILY_DIO,	 /* IOMAP_DIO_xxx */
	IOMAP_FAMILY_PIN,	 /* IOMAP_PIN_xxx */
};

/**
 * iomap_format_flags - write flags as names, for logs
 * @family: which family @flags belongs to
 * @flags: the flags, or the type
 * @buf: receives "A|B|0x40" (unknown bits in hex, "0" for none), always terminated
 * @size: bytes at @buf
 *
 * Any context, never blocks.
 *
 * Return: length of the whole text as snprintf does, or -EINVAL for an unknown family.
 */
IOMAP_API int iomap_format_flags(enum iomap_flag_family family, uint64_t flags, char *buf,
				 size_t size);

#ifdef __cplusplus
}
#endif
#endif
