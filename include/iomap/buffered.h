/* SPDX-License-Identifier: MIT */
/*
 * iomap/buffered.h - buffered reads and writes, and the per-folio block state.
 *
 * Threads: any; an iocb, an iterator and a read context belong to one thread at a time.
 * Callbacks run on the thread of the operation, for reclaim and background writeback on the
 * thread that does it; what is locked in each stands at it.
 * Errors: negative errno; a call that has done something returns that, short, and the error
 * shows when the rest is asked for.
 * Folios that callbacks get belong to the library and are valid while their lock is held.
 */
#ifndef IOMAP_BUFFERED_H
#define IOMAP_BUFFERED_H

#include <iomap/folio.h>
#include <iomap/mapping.h>
#include <iomap/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A window of folios to read ahead (kernel: struct readahead_control). */
struct iomap_readahead_control {
	struct iomap_file *file; /* may be NULL */
	struct iomap_address_space *mapping;
	uint64_t _index;     /* the library's: first page not yet taken */
	uint32_t _nr_pages;  /* the library's: pages left in the window */
	uint32_t _batch;     /* the library's */
	uint64_t reserved[2];
};

/** iomap_readahead_folio - take the next folio of the window: locked, no reference; or NULL */
IOMAP_API struct iomap_folio *iomap_readahead_folio(struct iomap_readahead_control *rac);
/** iomap_readahead_pos - byte where the rest of the window starts */
IOMAP_API int64_t iomap_readahead_pos(const struct iomap_readahead_control *rac);
/** iomap_readahead_length - bytes left in the window */
IOMAP_API size_t iomap_readahead_length(const struct iomap_readahead_control *rac);

struct iomap_read_ops;

/* Context of a read (kernel: struct iomap_read_folio_ctx).  Zero what is not named. */
struct iomap_read_folio_ctx {
	const struct iomap_read_ops *ops;
	struct iomap_folio *cur_folio;	     /* iomap_read_folio: required */
	struct iomap_readahead_control *rac; /* iomap_readahead: required */
	void *read_ctx;			     /* the ops' own */
	uint64_t reserved[4];
};

/*
 * How the bytes of a folio are fetched (kernel: struct iomap_read_ops).
 *
 * read_folio_range: required.  Read @len bytes of ctx->cur_folio from iter->pos on, from
 *   iter->iomap, a MAPPED mapping.  Folio locked.  May start the read and return: after it
 *   returned 0, iomap_finish_folio_read() must be called exactly once for the range, also
 *   when the read failed; after it returned -errno, never.  Must not advance @iter.
 * submit_read: optional; once at the end of a batch that called read_folio_range.
 * bio_set: for ops built upon iomap_bio_read_folio_range(); NULL: the library's.
 * end_read: optional; iomap_bio_read_folio_range() has it called when a bio has ended, for each
 *   block, [off, off + len) of the folio, before it is uptodate: to verify a checksum.  @error: of the device.  Folio locked, by the read.  Must not block; any context
 *   functions only.  Returns the error to record, for which the block is not uptodate and
 *   whoever asks for it gets it, or 0: also for @error, when it has put the right bytes there.
 *   The block that holds EOF may end with the sector that does, and where a mapping ends inside a
 *   block, or a device makes two bios of it, its parts come one by one.  The ops are used until the last read has ended.  Reads of direct I/O and
 *   those of parts of a block before a write are others: see struct iomap_dio_ops and
 *   write_ops->read_folio_range.
 */
struct iomap_read_ops {
	int (*read_folio_range)(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
				size_t len);
	void (*submit_read)(struct iomap_read_folio_ctx *ctx);
	struct iomap_bio_set *bio_set;
	int (*end_read)(struct iomap_folio *folio, size_t off, size_t len, int error);
	void (*reserved[3])(void);
};

/*
 * How a buffered write touches folios (kernel: struct iomap_write_ops).  All optional.
 *
 * get_folio: return the folio at @pos locked and referenced (default iomap_get_folio()); with
 *   IOMAP_NOWAIT in iter->flags without a wait; or
 *   an error as iomap_err_ptr(), which ends the operation with no put_folio.
 * put_folio: unlock and put (also the default).  Always runs once get_folio succeeded;
 *   @copied: bytes copied, 0 on failure.
 * iomap_valid: whether @iomap still tells the truth.  Folio locked; must not block; any
 *   context functions only.
 * read_folio_range: read @len bytes at @pos into the folio, synchronously; default
 *   iomap_bio_read_folio_range_sync().  Folio locked.  Who keeps checksums verifies them here as
 *   in end_read, or a write of a part of a block would make whole what is broken.
 */
struct iomap_write_ops {
	struct iomap_folio *(*get_folio)(struct iomap_iter *iter, int64_t pos, unsigned len);
	void (*put_folio)(struct iomap_inode *inode, int64_t pos, unsigned copied,
			  struct iomap_folio *folio);
	bool (*iomap_valid)(struct iomap_inode *inode, const struct iomap *iomap);
	int (*read_folio_range)(const struct iomap_iter *iter, struct iomap_folio *folio,
				int64_t pos, size_t len);
	void (*reserved[4])(void);
};

/** Errors as pointers (kernel: ERR_PTR, PTR_ERR, IS_ERR). */
IOMAP_API void *iomap_err_ptr(long error);
IOMAP_API long iomap_ptr_err(const void *ptr);
IOMAP_API bool iomap_is_err(const void *ptr);

/**
 * iomap_read_folio - read ctx->cur_folio
 * @ops: the extent map, called with flags 0
 * @ctx: ops->read_folio_range and cur_folio required
 *
 * Folio locked; it is unlocked when the last of its ranges has been read, which may be
 * after the return.  Holes and unwritten extents become zeros without I/O.  May block in
 * iomap_begin.
 *
 * Return: 0 when reading was started or done; -EINVAL for an incomplete context (the folio
 * is unlocked); or the error, and the folio is unlocked once what was started has ended.
 */
IOMAP_API int iomap_read_folio(const struct iomap_ops *ops, struct iomap_read_folio_ctx *ctx);

/**
 * iomap_readahead - read the folios of ctx->rac
 *
 * Never waits for the I/O it starts.  Errors are left for iomap_read_folio() to find.
 * Return: 0, or -EINVAL for an incomplete context; not must-check.
 */
IOMAP_API int iomap_readahead(const struct iomap_ops *ops, struct iomap_read_folio_ctx *ctx);

/** Block reads: contiguous ranges become one bio, over folios and windows. */
IOMAP_API extern const struct iomap_read_ops iomap_bio_read_ops;
/** The parts of iomap_bio_read_ops, for wrappers. */
IOMAP_API int iomap_bio_read_folio_range(const struct iomap_iter *iter,
					 struct iomap_read_folio_ctx *ctx, size_t len);
IOMAP_API void iomap_bio_submit_read(struct iomap_read_folio_ctx *ctx);
/**
 * iomap_bio_read_folio_range_sync - read a part of a folio from the mapping, and wait
 *
 * The default of write_ops->read_folio_range, for wrappers.  @pos and @len: whole sectors of the
 * device.  Return: 0; -EIO, -ENOMEM, or the device's error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bio_read_folio_range_sync(const struct iomap_iter *iter,
							       struct iomap_folio *folio,
							       int64_t pos, size_t len);
/** iomap_bio_read_folio - a_ops->read_folio by block reads, in one line */
IOMAP_API int iomap_bio_read_folio(struct iomap_folio *folio, const struct iomap_ops *ops);
/** iomap_bio_readahead - a_ops->readahead by block reads, in one line */
IOMAP_API void iomap_bio_readahead(struct iomap_readahead_control *rac,
				   const struct iomap_ops *ops);

/**
 * iomap_finish_folio_read - a range of a folio has been read
 * @off: byte within the folio
 * @len: bytes
 * @error: 0, or -errno: the blocks stay not uptodate
 *
 * Unlocks the folio with the last range.  Any context; exactly once for each range that
 * read_folio_range accepted (debug builds abort when it is more).
 */
IOMAP_API void iomap_finish_folio_read(struct iomap_folio *folio, size_t off, size_t len,
				       int error);

/**
 * iomap_file_buffered_write - write through the cache
 * @iocb: file and position; ki_pos moves by what was written
 * @from: the data; advanced
 * @ops: the extent map, called with IOMAP_WRITE
 * @write_ops: NULL for none
 * @private_data: iter->private of the callbacks
 *
 * i_rwsem held exclusively; or shared, for writes without IOMAP_IOCB_APPEND that leave no gap
 * behind i_size: then no byte of one writer is lost to another, i_size never goes back, and where two
 * write the same byte one of them has, folio by folio.  Blocks, but not with IOMAP_IOCB_NOWAIT.
 * With IOMAP_IOCB_DONTCACHE it starts to write out what it has written before it returns.  Does
 * not sync: see iomap_write_sync().  Beyond i_size it does not zero the gap, which iomap_write()
 * does.
 *
 * Return: bytes written, short when an error follows them; else -errno: -EAGAIN (NOWAIT; or as
 * iomap_write()), -EFBIG beyond i_maxbytes, -EINVAL for unknown flags or no writepages, -ENOMEM,
 * or the callbacks' error.
 */
IOMAP_API ssize_t iomap_file_buffered_write(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
					    const struct iomap_ops *ops,
					    const struct iomap_write_ops *write_ops,
					    void *private_data);

/**
 * iomap_file_read_iter - read through the cache (kernel: generic_file_read_iter)
 *
 * Takes no inode lock.  Blocks, but not with IOMAP_IOCB_NOWAIT: then it ends at the first byte that
 * is not cached, or is -EAGAIN, and calls nobody.  Stops at i_size, 0 from there on.  Bytes of the buffer
 * beyond the count returned are undefined.  Reads are atomic against writes folio by folio.
 *
 * Return: bytes, short when an error follows them; else -errno.
 */
IOMAP_API ssize_t iomap_file_read_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *to);

/**
 * iomap_get_folio - find or make the folio at @pos, locked and referenced
 * @len: bytes wanted; where large folios are allowed, one that is made covers no more pages
 *	than these touch, but for the smallest there can be
 *
 * Blocks, but with IOMAP_NOWAIT in iter->flags it is -EAGAIN in place of a wait.  No folio may be
 * locked by the caller.  Return: the folio or an error pointer.
 */
IOMAP_API struct iomap_folio *iomap_get_folio(struct iomap_iter *iter, int64_t pos, size_t len);

/** iomap_dirty_folio - mark the whole folio and all its blocks dirty; locked. Return: was clean. */
IOMAP_API bool iomap_dirty_folio(struct iomap_address_space *mapping, struct iomap_folio *folio);
/** iomap_release_folio - free the per-folio state. Return: false while dirty or under writeback. */
IOMAP_API bool iomap_release_folio(struct iomap_folio *folio, unsigned gfp);
/** iomap_invalidate_folio - blocks wholly inside [off, off + len) are no longer dirty; locked,
 * not under writeback; the state is freed when the range is the whole folio. */
IOMAP_API void iomap_invalidate_folio(struct iomap_folio *folio, size_t off, size_t len);
/** iomap_is_partially_uptodate - whether [from, from + count) of the folio holds data; locked */
IOMAP_API bool iomap_is_partially_uptodate(struct iomap_folio *folio, size_t from, size_t count);

/**
 * iomap_zero_range - zero [@pos, @pos + @len) in the cache, where there is something else
 * @pos: byte
 * @len: bytes
 * @did_zero: set to true when something was zeroed; may be NULL
 * @ops: the extent map, called with IOMAP_ZERO
 * @write_ops: NULL for none
 * @private_data: iter->private of the callbacks
 *
 * Mapped space becomes zero by way of the cache, and dirty; blocks that the range covers are not
 * read for it.  Holes, unwritten and reserved space are zero already but for blocks that are
 * dirty or being written: these are zeroed, and nothing else of such space is touched.  Where the
 * source of the data is another place (srcmap), it is that one's type that counts.
 *
 * i_size stays.  Writeback takes no data of blocks that lie beyond the one that holds i_size, so
 * zeros there do not last: who makes a file longer over mapped space has iomap_truncate() do it.
 *
 * i_rwsem and invalidate_lock held exclusively.  Blocks.  Kernel counterpart: iomap_zero_range.
 *
 * Return: 0; -EINVAL (a negative @pos or @len, no writepages); -EOVERFLOW for a range that ends
 * beyond 2^63 - 1; -ESHUTDOWN; -ECHILD; -ENOMEM, an error of reading a block, or the callbacks'
 * error, and a part may have been zeroed.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_zero_range(struct iomap_inode *inode, int64_t pos, int64_t len,
						bool *did_zero, const struct iomap_ops *ops,
						const struct iomap_write_ops *write_ops,
						void *private_data);

/**
 * iomap_file_unshare - give a file its own copy of what it shares with others
 * @pos: byte
 * @len: bytes; what lies beyond i_size is left alone
 * @ops: the extent map, called with IOMAP_WRITE | IOMAP_UNSHARE
 * @write_ops: NULL for none
 *
 * Blocks whose data is mapped, and has a srcmap or IOMAP_F_SHARED, are read into the cache and made
 * dirty as they are, so that writeback_range finds them a place of their own.  All else (holes
 * too, which iomap_begin may answer here), is left alone.  Nothing is written before the next
 * write-out.
 *
 * i_rwsem and invalidate_lock held exclusively.  Blocks.  Kernel counterpart: iomap_file_unshare.
 *
 * Return: 0; -EINVAL (a negative @pos or @len, no writepages); -ESHUTDOWN; -ECHILD; -ENOMEM, an
 * error of reading, or the callbacks' error, and a part may be done.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_file_unshare(struct iomap_inode *inode, int64_t pos,
						  int64_t len, const struct iomap_ops *ops,
						  const struct iomap_write_ops *write_ops);

/*
 * Take the reservation of [@offset, @offset + @length), whole blocks, off the extent map, and
 * nothing but reservations; move what iomap_valid goes by.  For iomap_write_delalloc_release(),
 * which holds invalidate_lock exclusively and, where a folio is there, its lock.  May block,
 * as writeback_range may; calls nothing of the library on this inode.
 */
typedef void iomap_punch_fn(struct iomap_inode *inode, int64_t offset, int64_t length,
			    struct iomap *iomap);

/**
 * iomap_write_delalloc_release - find what a write has reserved and not used
 * @start: byte, as a rule behind the last one written
 * @end: byte after the range, as a rule the end of what iomap_end is called for
 * @flags: of the operation
 * @iomap: the mapping that iomap_end was called with
 * @punch: called for each area that is clean; one may come in several pieces
 *
 * For iomap_end, after a write that came up short.  Does nothing unless @iomap is
 * IOMAP_DELALLOC with IOMAP_F_NEW, nor with IOMAP_FAULT.  The range is rounded to blocks, and cut to
 * the mapping.  Blocks that are dirty, or under writeback, keep their reservation; so do those of
 * others who write there at the same time, also under a shared i_rwsem, if write_ops->iomap_valid
 * tells them that the map has changed.  In a folio under writeback all that is uptodate is kept.
 *
 * Takes invalidate_lock exclusively, unless @flags have IOMAP_ZERO or IOMAP_UNSHARE, whose callers
 * hold it (debug builds check it).  No folio locked.  Blocks.
 * Kernel counterpart: iomap_write_delalloc_release, which returns nothing.
 *
 * Return: 0; -EINVAL (no @punch, a negative @start); -ECHILD.  Not must-check.
 */
IOMAP_API int iomap_write_delalloc_release(struct iomap_inode *inode, int64_t start, int64_t end,
					   unsigned flags, struct iomap *iomap,
					   iomap_punch_fn *punch);

/**
 * iomap_truncate_page - zero, in the cache, from @pos to the end of its block
 * @pos: the new end of the file, or the old one when it grows
 * @did_zero: set to true when something was zeroed; may be NULL
 * @ops: the extent map, called with IOMAP_ZERO
 * @write_ops: NULL for none
 * @private_data: iter->private of the callbacks
 *
 * What lies behind EOF in its block has to be zero before the file may grow over it.  Holes,
 * unwritten and reserved space, are zero already but for what is dirty (iomap_zero_range()).  The
 * block becomes dirty; i_size stays.  i_rwsem and invalidate_lock held exclusively.  Blocks.
 *
 * Return: 0, also when @pos is the start of a block; -EINVAL for a negative @pos; -ENOMEM, an
 * error of reading the block, or the callbacks' error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_truncate_page(struct iomap_inode *inode, int64_t pos,
						   bool *did_zero, const struct iomap_ops *ops,
						   const struct iomap_write_ops *write_ops,
						   void *private_data);

/**
 * iomap_truncate_setsize - set i_size, and drop what is cached beyond it
 *
 * i_size first, then the cache, so that a reader in between, who looks at i_size again after
 * its copy, returns neither dropped nor zeroed bytes.  When it returns no I/O of the cache
 * goes on beyond @size, and none will.  A negative @size is 0.  i_rwsem and invalidate_lock
 * held exclusively.  Blocks.  Kernel counterpart: truncate_setsize.
 */
IOMAP_API void iomap_truncate_setsize(struct iomap_inode *inode, int64_t size);
/**
 * iomap_truncate_pagecache - drop what is cached from @size on, dirty or not
 *
 * The rest of the folio that holds @size becomes zero.  Waits for writeback and for reads of
 * these folios.  i_size was moved before.  Kernel counterpart: truncate_pagecache.
 */
IOMAP_API void iomap_truncate_pagecache(struct iomap_inode *inode, int64_t size);
/**
 * iomap_truncate_pagecache_range - the same for [@lstart, @lend], @lend inclusive as in the
 * kernel (truncate_pagecache_range); the mappings of the range were changed before
 */
IOMAP_API void iomap_truncate_pagecache_range(struct iomap_inode *inode, int64_t lstart,
					      int64_t lend);

/* A write into folio memory itself, between its two calls; the caller's memory. */
struct iomap_folio_writer {
	void *addr; /* of the byte at ki_pos */
	size_t len; /* bytes that may be stored from there on */
	struct iomap_folio *folio;
	/* the library's */
	struct iomap_kiocb *iocb;
	struct iomap_iter iter;
	const struct iomap_ops *ops;
	const struct iomap_write_ops *write_ops;
	uint64_t reserved[4];
};

/**
 * iomap_folio_begin_write - begin to write into the folio at iocb->ki_pos, in place
 * @iocb: file and position; with IOMAP_IOCB_APPEND the position becomes i_size
 * @len: bytes wanted; writer->len may be fewer, down to the rest of the folio or the mapping
 * @ops, @write_ops, @private_data: as for iomap_file_buffered_write()
 * @writer: filled in; needs no preparation
 *
 * Calls iomap_begin with @len, throttles, makes the folio ready as a buffered write of
 * writer->len bytes would, and returns with it locked and announced to readers: then plain
 * stores to writer->addr are right.  iomap_folio_end_write() has to follow, on the same thread.
 * Until then the thread calls nothing of the library but what is for higher offsets of the
 * same inode.  i_rwsem is the caller's, as for a buffered write.  Blocks.
 *
 * What the memory holds before it is stored to is the file's bytes only where the folio had
 * them already.
 *
 * Return: 0; -EINVAL (@len 0, unknown flags, negative position, no writepages); -EFBIG;
 * -ESHUTDOWN; -ENOMEM; what the callbacks or the read of a block returned.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_folio_begin_write(struct iomap_kiocb *iocb, size_t len,
						       const struct iomap_ops *ops,
						       const struct iomap_write_ops *write_ops,
						       void *private_data,
						       struct iomap_folio_writer *writer);
/**
 * iomap_folio_end_write - the bytes are stored
 * @writer: of a begin that returned 0
 * @written: bytes stored from writer->addr on; 0 to give up
 *
 * The bytes are part of the file, dirty, and i_size and ki_pos move up to their end.  Unlocks
 * the folio and calls iomap_end.  Does not sync: iomap_write_sync() does.
 *
 * Return: bytes taken over: @written, or fewer when that is less than writer->len and ends
 * inside a block that the cache did not hold: then up to that block.  0 for none, or the error
 * of iomap_end.
 */
IOMAP_API ssize_t iomap_folio_end_write(struct iomap_folio_writer *writer, size_t written);

#ifdef __cplusplus
}
#endif
#endif
