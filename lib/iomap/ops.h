/* SPDX-License-Identifier: MIT */
/*
 * ops.h - the operations: iterating over mappings, buffered reads and writes, writeback.
 *
 * Owns: the per-folio block state (folio->ifs), the counts of bytes in flight in the folio,
 * and the ioends.
 *
 * Locks: none of its own.  What it keeps for a folio is changed under the folio's lock.  The
 * exceptions are made by completions and are atomic: uptodate bits, which only the read that
 * holds the lock clears and sets; the counts of bytes in flight, whose owner is whoever takes
 * the last byte away: it ends the read (and unlocks) or the writeback.
 *
 * Life of the block state: made when a folio of several blocks is first read or written, by
 * the holder of its lock; freed under the lock by release or invalidation, before the folio
 * leaves the cache and never under writeback.  A folio without it is uptodate, or dirty, as
 * a whole.
 */
#ifndef IOMAP__OPS_H
#define IOMAP__OPS_H

#include <iomap/bio.h>
#include <iomap/buffered.h>
#include <iomap/direct.h>
#include <iomap/inode.h>
#include <iomap/mapping.h>
#include <iomap/reports.h>
#include <iomap/writeback.h>

#include "base/base.h"
#include "cache/cache.h"

/*
 * Block states of up to IOMAP__IFS_SMALL blocks fit one cache line; those of larger folios have
 * twice as many blocks from pool to pool, up to 2 MiB in blocks of 512 bytes.
 */
#define IOMAP__IFS_SMALL 192U
#define IOMAP__IFS_POOLS 6U

/* Asynchronous requests under way, and those that wait until there are fewer (async.c). */
struct iomap__async_gate {
	struct iomap_list_head queue;
	uint32_t inside, max;
};

/* What an engine keeps for this layer. */
struct iomap__fs {
	struct iomap_bio_set ioend_bios; /* bios in ioends */
	struct iomap__pool dios;	 /* struct iomap_dio */
	struct iomap__pool ifs[IOMAP__IFS_POOLS]; /* block states, by size: ifs.c */
	struct iomap__pool files;	 /* struct iomap_file */
	struct iomap__pool asyncs;	 /* requests of async.c */
	struct iomap__mutex async_lock;	 /* of the gates */
	struct iomap__async_gate async_gate[3];
};

/* After block and cache; before them. */
int iomap__fs_create(struct iomap_engine *engine);
void iomap__fs_destroy(struct iomap_engine *engine);

/* Its part of these, for asynchronous calls (async.c).  0 or -ENOMEM. */
int iomap__async_create(struct iomap_engine *engine, struct iomap__fs *fs);
void iomap__async_destroy(struct iomap__fs *fs);

/* ---- zeros (zero.c) ---- */

/* What zeroing does to i_size. */
enum iomap__zero_size {
	IOMAP__ZERO_KEEP_SIZE,
	IOMAP__ZERO_MOVE_BLOCKS, /* up to the last whole block that was zeroed */
	IOMAP__ZERO_MOVE,	 /* up to the last byte */
};
/*
 * Zero [from, to) in the cache, where it is mapped or busy.  i_rwsem and invalidate_lock held
 * exclusively.  Beyond the block that holds EOF i_size has to move along, with the folio locked, or
 * writeback would throw the zeros away; zero.c tells more.  *@did_zero (may be NULL) becomes
 * true when something was zeroed.  0 or -errno.
 */
int iomap__zero_range(struct iomap_inode *inode, int64_t from, int64_t to,
		      enum iomap__zero_size how, bool *did_zero, const struct iomap_ops *ops,
		      const struct iomap_write_ops *write_ops, void *private_data);

/* All of iomap_truncate() but for the locks, i_rwsem and invalidate_lock (truncate.c). */
int iomap__truncate_locked(struct iomap_inode *inode, int64_t size);

/* ---- direct I/O (direct.c, direct_cache.c) ---- */

/* Whether @iter at @pos suits the inode's device; 0 or -EINVAL. */
int iomap__dio_check_alignment(const struct iomap_inode *inode, int64_t pos,
			       const struct iomap_iov_iter *iter);
/*
 * Write out dirty data of [start, end) and wait.  0: the device has it; -ENOTBLK: some is held
 * back; or an error of writing, perhaps an earlier one that nobody has been told of.
 */
int iomap__dio_write_out(struct iomap_inode *inode, int64_t start, int64_t end);

/* ---- openers (file.c) ---- */

/* An asynchronous iocb keeps its file open; cancel: it has ended otherwise. */
void iomap__kiocb_begin(struct iomap_kiocb *iocb);
void iomap__kiocb_cancel(struct iomap_kiocb *iocb);
/* Call ki_complete, in a work function.  The iocb and the file may be gone then. */
void iomap__kiocb_complete(struct iomap_kiocb *iocb, long ret);
/*
 * All of a write, with the inode's locks, but for the sync; without ki_complete.  *@durable: it
 * needs none.
 */
ssize_t iomap__file_write(struct iomap_kiocb *iocb, struct iomap_iov_iter *from, bool *durable);

/* ---- mappings (iter.c) ---- */

/*
 * A MAPPED or UNWRITTEN mapping out of which the library itself builds I/O of @len bytes at
 * @pos: a device of the inode's engine, whole sectors at an address (unless
 * IOMAP_F_ANON_WRITE, which gets one later).  0, or -EIO after a log line.
 */
int iomap__check_device(const struct iomap_inode *inode, const struct iomap *iomap, int64_t pos,
			size_t len);
/* One log line about a transfer that failed; any context. */
void iomap__log_io_error(const struct iomap_inode *inode, const char *what, int64_t pos,
			 uint64_t len, const struct iomap_bdev *bdev, uint64_t addr, int error);
/* One log line about a mapping that cannot be used; returns -EIO. */
int iomap__broken_mapping(const struct iomap_inode *inode, const struct iomap *iomap,
			  int64_t pos, const char *fault);

/* Device byte of file position @pos, which may lie before the mapping but in its block. */
static inline uint64_t iomap__mapping_addr(const struct iomap *iomap, int64_t pos)
{
	return iomap->addr + (uint64_t)pos - (uint64_t)iomap->offset;
}
/* File byte after the mapping; at most 2^63. */
static inline uint64_t iomap__mapping_end(const struct iomap *iomap)
{
	return (uint64_t)iomap->offset + iomap->length;
}

/* ---- per-folio block state (ifs.c) ---- */

/* The pools, the first with so many states in reserve.  0 or -ENOMEM. */
int iomap__ifs_create(struct iomap_engine *engine, struct iomap__fs *fs);
void iomap__ifs_destroy(struct iomap__fs *fs);

static inline unsigned iomap__folio_blocks(const struct iomap_inode *inode,
					   const struct iomap_folio *folio)
{
	return (unsigned)(iomap__folio_bytes(folio) >> inode->i_blkbits);
}
/*
 * All with the folio locked; ranges are bytes within the folio, blocks are numbers within it.
 * alloc: make the state if the folio has several blocks and none yet; 0 or -ENOMEM.
 * find_uptodate, find_dirty: the first block from @first on whose bit is @set; the number of
 *   blocks when there is none.
 * set_dirty, clear_dirty: of every block that the range touches.
 * set_uptodate: of every block that starts in the range; the folio's flag is left alone.
 * failed: set_dirty without the folio's lock, under writeback; to be called before the folio's
 *   own flag is set, and once more behind that.
 * clear_uptodate: of every block that the range touches; any context, lock held for reading.
 * all_uptodate: every block is.
 */
extern const struct iomap__block_state_ops iomap__block_state;
int iomap__ifs_alloc(struct iomap_inode *inode, struct iomap_folio *folio);
unsigned iomap__ifs_find_uptodate(struct iomap_inode *inode, const struct iomap_folio *folio,
				  unsigned first, bool set);
unsigned iomap__ifs_find_dirty(struct iomap_inode *inode, const struct iomap_folio *folio,
			       unsigned first, bool set);
void iomap__ifs_set_dirty(struct iomap_folio *folio, size_t off, size_t len);
void iomap__ifs_failed(struct iomap_folio *folio, size_t off, size_t len);
void iomap__ifs_clear_dirty(struct iomap_folio *folio, size_t off, size_t len);
void iomap__ifs_set_uptodate(struct iomap_folio *folio, size_t off, size_t len);
void iomap__ifs_clear_uptodate(struct iomap_folio *folio, size_t off, size_t len);
bool iomap__ifs_all_uptodate(const struct iomap_folio *folio);

#define IOMAP__IFS_WORD_BITS 64U

/* folio->ifs */
struct iomap__ifs {
	uint32_t nr_blocks;
	uint8_t blkbits;
	uint64_t bits[]; /* uptodate words, then dirty words */
};

static inline unsigned iomap__ifs_words(unsigned nr_blocks)
{
	return (nr_blocks + IOMAP__IFS_WORD_BITS - 1) / IOMAP__IFS_WORD_BITS;
}

/*
 * Blocks that the range touches are dirty, as far as a quick look tells: false also where
 * their bits lie in two words.
 */
static inline bool iomap__ifs_is_dirty(const struct iomap__ifs *ifs, size_t off, size_t len)
{
	unsigned first = (unsigned)(off >> ifs->blkbits);
	unsigned last = (unsigned)((off + len - 1) >> ifs->blkbits);
	const uint64_t *dirty = ifs->bits + iomap__ifs_words(ifs->nr_blocks);
	uint64_t mask = ~0ULL << first % IOMAP__IFS_WORD_BITS &
			~0ULL >> (IOMAP__IFS_WORD_BITS - 1 - last % IOMAP__IFS_WORD_BITS);

	return first / IOMAP__IFS_WORD_BITS == last / IOMAP__IFS_WORD_BITS &&
	       !(mask & ~iomap__load(&dirty[first / IOMAP__IFS_WORD_BITS]));
}

/* ---- one folio of a write (buffered_write.c) ---- */

struct iomap__write {
	struct iomap_iter *iter;
	const struct iomap_write_ops *ops; /* may be NULL */
	/* set by iomap__write_begin() */
	struct iomap_folio *folio;
	int64_t pos;
	size_t off, bytes; /* within the folio; as much of the mapping as it holds */
};

/* Throttle; with IOMAP_NOWAIT -EAGAIN in place of that.  No folio lock held but with NOWAIT. */
int iomap__write_balance(const struct iomap_iter *iter);
/*
 * Get the folio at iter->pos and make it ready to take at most @len bytes: parts of blocks
 * that these do not cover are read or zeroed.  0 with the folio locked; 0 with folio NULL:
 * the mapping was found stale; or -errno and no folio.
 */
int iomap__write_begin(struct iomap__write *wr, uint64_t len);
/* @copied bytes are in the folio: uptodate and dirty, or in inline_data.  Bytes that count. */
size_t iomap__write_end(struct iomap__write *wr, size_t copied);
/* The file reaches to @end at least (folio locked); i_size never goes back. */
void iomap__write_extend(struct iomap_iter *iter, int64_t end);
/* put_folio. */
void iomap__write_put(struct iomap__write *wr, size_t copied);

/* ---- folios of a bio (ioend.c) ---- */

typedef void iomap__bio_folio_fn(void *arg, struct iomap_folio *folio, size_t off, size_t len);
/* Call @fn for each folio's part of the bio's memory, in order.  Any context. */
void iomap__bio_for_each_folio(const struct iomap_bio *bio, struct iomap__cache *cache,
			       iomap__bio_folio_fn *fn, void *arg);

/* It could not be written: dirty again.  Under writeback, locked or not; any context. */
void iomap__folio_write_failed(struct iomap_folio *folio, size_t off, size_t len);
/* The error with which the ioend has ended, or 0; before it is finished. */
int iomap__ioend_outcome(const struct iomap_ioend *ioend);

/* ---- reports (seek.c) ---- */

/* The extent map by which an inode reports, or NULL. */
const struct iomap_ops *iomap__report_ops(const struct iomap_inode *inode);

/* ---- durability (sync.c) ---- */

/* iomap_fsync() with the deadline of an iocb, 0 for the engine's. */
int iomap__fsync_until(struct iomap_file *file, int64_t start, int64_t end, int datasync,
		       uint64_t deadline_ns);

/*
 * Write dirty data of [start, end) and wait for it and for writeback already running.
 * @deferred counts folios held back.  0, the error of the mapping recorded meanwhile, what
 * writepages returned, or -ETIMEDOUT.
 */
int iomap__sync_write_once(struct iomap_address_space *mapping, int64_t start, int64_t end,
			   uint32_t *deferred);
/* ... until none is held back.  -EAGAIN when data is and the engine has no threads. */
int iomap__sync_write_wait(struct iomap_inode *inode, int64_t start, int64_t end);
/* Before data goes to @bdev: an fsync that has waited for it must know which device to flush. */
void iomap__sync_note_device(struct iomap_inode *inode, const struct iomap_bdev *bdev);

#endif
