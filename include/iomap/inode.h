/* SPDX-License-Identifier: MIT */
/*
 * iomap/inode.h - inodes and address spaces.
 *
 * The application embeds struct iomap_inode in its own object and frees it; the library
 * initialises and destroys it.  Members that are not described as the application's are
 * read only for it.
 * Lifetime: the engine outlives the inode; after iomap_inode_destroy() returned 0 no
 * callback of the inode runs again.
 */
#ifndef IOMAP_INODE_H
#define IOMAP_INODE_H

#include <iomap/direct.h>
#include <iomap/lock.h>
#include <iomap/mapping.h>
#include <iomap/types.h>
#include <iomap/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct iomap_writeback_control;
struct iomap_readahead_control;
struct iomap_write_ops;

/*
 * What the cache asks of an inode (kernel: struct address_space_operations).  Each is a line
 * or two around a function of this library; NULL where marked optional.
 *
 * read_folio: required to read.  Folio locked; fill it and unlock it, now or when the I/O
 *   ends.  May block.  Return 0 or -errno (then the folio has been unlocked all the same).
 * writepages: required to write.  Called by fsync, the flusher and throttled writers with no
 *   lock held that the library knows of but possibly i_rwsem.  May block.
 * dirty_folio: optional, default iomap_dirty_folio().
 * readahead: optional (one folio at a time without it).  Folios locked.
 * invalidate_folio, release_folio, is_partially_uptodate: optional, defaults
 *   iomap_invalidate_folio(), iomap_release_folio(), iomap_is_partially_uptodate().
 *   Folio locked; must not block.  release_folio is also called where I/O is reaped
 *   (IOMAP_IOCB_DONTCACHE), by any thread that waits in the library: it may call "any
 *   context" functions and the one of its name only, and takes no lock that its holder keeps
 *   over a call of the library.
 */
struct iomap_address_space_operations {
	int (*read_folio)(struct iomap_file *file, struct iomap_folio *folio);
	int (*writepages)(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc);
	bool (*dirty_folio)(struct iomap_address_space *mapping, struct iomap_folio *folio);
	void (*readahead)(struct iomap_readahead_control *rac);
	void (*reserved_bmap)(void); /* keeps the kernel's order */
	void (*invalidate_folio)(struct iomap_folio *folio, size_t off, size_t len);
	bool (*release_folio)(struct iomap_folio *folio, unsigned gfp);
	bool (*is_partially_uptodate)(struct iomap_folio *folio, size_t from, size_t count);
	void (*reserved[8])(void);
};

/*
 * What iomap_read(), iomap_write(), iomap_file_fsync(), iomap_fallocate() and iomap_fadvise() call
 * in place of the default (kernel: struct file_operations).  All optional.  They take the locks they need.
 */
struct iomap_file_operations {
	void (*reserved_llseek)(void); /* keeps the kernel's order, as below */
	ssize_t (*read_iter)(struct iomap_kiocb *iocb, struct iomap_iov_iter *to);
	ssize_t (*write_iter)(struct iomap_kiocb *iocb, struct iomap_iov_iter *from);
	void (*reserved_mmap)(void);
	void (*reserved_open)(void);
	void (*reserved_release)(void);
	/* @end inclusive, as in the kernel */
	int (*fsync)(struct iomap_file *file, int64_t start, int64_t end, int datasync);
	/* i_rwsem not held; it sees to locks, waiting and durability itself */
	long (*fallocate)(struct iomap_file *file, int mode, int64_t off, int64_t len);
	void (*reserved_remap_file_range)(void);
	int (*fadvise)(struct iomap_file *file, int64_t off, int64_t len, int advice);
	void (*reserved[5])(void);
};

/* What commit_metadata may return besides 0 and -errno. */
#define IOMAP_COMMIT_FLUSHED 1

/* Modes of fallocate; the numbers of fallocate(2).  0: reserve space, and move i_size. */
#define IOMAP_FALLOC_FL_KEEP_SIZE 0x01	  /* i_size stays */
#define IOMAP_FALLOC_FL_PUNCH_HOLE 0x02	  /* give space back; only with KEEP_SIZE */
#define IOMAP_FALLOC_FL_ZERO_RANGE 0x10	  /* zeros, and space is reserved */
#define IOMAP_FALLOC_FL_UNSHARE_RANGE 0x40 /* own copies of shared blocks */

/*
 * What the convenience layer uses.
 *
 * write: the extent map for iomap_write(); required to write without a write_iter.
 * write_ops: passed to the buffered write; NULL for none.
 * dio_ops: for direct I/O; NULL for none.  i_size is moved by the library after end_io, unless
 *   that has done so.
 * open: a file is being opened; may refuse with -errno, may call iomap_file_set_mode().
 *   No lock held, may block.
 * commit_metadata: make durable all metadata that is needed to find the data written so
 *   far, or (@datasync 0) all metadata.  Called by fsync after the data was written and
 *   before the device is flushed; no library lock held; may block, may read and write other
 *   inodes of a higher lock class and submit bios; must not fsync this inode.  NULL: there
 *   is none.  Return: 0; IOMAP_COMMIT_FLUSHED: and since it was called all devices that the
 *   inode's data is on have been flushed, behind which what was needed is durable as well, so
 *   that fsync flushes none; -errno.
 * read: the extent map for direct reads, where `direct` is not set; NULL: `write`, which then
 *   has to look at the flags.
 * direct: the extent map for direct reads and writes; NULL: `read` and `write`.  Writes of
 *   whole blocks below i_size come from several threads at once.
 * report: the extent map for iomap_file_seek() and iomap_file_fiemap(); NULL: `read`, `direct` or
 *   `write`, whichever is there, which then has to look at the flags.
 * setsize: iomap_truncate() changes the size.  i_rwsem and invalidate_lock are held
 *   exclusively; may block; may call iomap_truncate_page(), iomap_truncate_setsize() and
 *   bios.  It zeroes the rest of the block that holds the new end (or, growing, the old
 *   one), moves i_size by iomap_truncate_setsize(), and gives back the blocks beyond it,
 *   which no I/O uses from then on.  When it returns 0 and has left i_size, the library
 *   moves it.  An error is iomap_truncate()'s.  NULL: blocks stay where they are.
 * fallocate: iomap_fallocate() of a @mode that it knows (IOMAP_FALLOC_FL_xxx) and a range that
 *   begins at 0 or later, is not empty and ends at i_maxbytes at most.  i_rwsem is held
 *   exclusively, no direct I/O is under way, and invalidate_lock is for it to take exclusively,
 *   around iomap_zero_range(), iomap_file_unshare() and what frees or moves blocks.  Readers go
 *   on, and fill the cache by the map they see: so what takes blocks away changes the map first,
 *   then calls iomap_truncate_pagecache_range(), and then gives the blocks away.  May block;
 *   -EOPNOTSUPP for a mode that it does not want.  Need not move i_size: where the mode does not
 *   keep it the library makes the file longer afterwards, by `setsize` if there is one.  NULL:
 *   -EOPNOTSUPP.
 */
struct iomap_inode_ops {
	const struct iomap_ops *write;
	const struct iomap_write_ops *write_ops;
	const struct iomap_dio_ops *dio_ops;
	int (*open)(struct iomap_inode *inode, struct iomap_file *file);
	int (*commit_metadata)(struct iomap_inode *inode, int datasync);
	const struct iomap_ops *read;
	const struct iomap_ops *direct;
	const struct iomap_ops *report;
	int (*setsize)(struct iomap_inode *inode, int64_t old_size, int64_t new_size);
	int (*fallocate)(struct iomap_file *file, int mode, int64_t off, int64_t len);
	void (*reserved[5])(void);
};

/* The cached pages of an inode (kernel: struct address_space). */
struct iomap_address_space {
	struct iomap_inode *host;
	const struct iomap_address_space_operations *a_ops;
	struct iomap_rwsem invalidate_lock;
	uint64_t nrpages; /* base pages cached */
	uint32_t wb_err;  /* errseq of writeback errors */
	uint32_t tree_lock;
	uint64_t tree_root;
	uint64_t nr_dirty_pages;
	uint64_t nr_writeback_pages;
	uint64_t wb_bdevs; /* which devices were written to */
	uint64_t writeback_index;
	uint8_t min_order, max_order;
	uint8_t stable_writes;
	uint8_t retry_shift;   /* the wait before the next try has doubled so often */
	uint16_t retry_errno;  /* of the last write that failed, with IOMAP_INODE_RETRY_WRITES */
	uint8_t reserved8[2];
	uint64_t wb_errors_nr; /* errors recorded in wb_err, also while nobody is told of one */
	uint64_t nr_removed;   /* folios that left the index and are still referenced */
	uint64_t number; /* of all of the engine, from 1 */
	uint64_t nr_failed_pages; /* dirty ones that could not be written */
	uint64_t retry_ns;	  /* and are not tried in the background before this */
	void *inode_stats; /* NULL before the first iomap_inode_stats() */
};

struct iomap_inode {
	struct iomap_engine *i_engine;
	const struct iomap_inode_ops *i_op;	   /* may be NULL */
	const struct iomap_file_operations *i_fop; /* may be NULL */
	struct iomap_address_space *i_mapping;	   /* &i_data */
	struct iomap_address_space i_data;
	struct iomap_rwsem i_rwsem;
	struct iomap_bdev *i_bdev; /* device that fsync flushes, besides those written to */
	int64_t i_size;		   /* use iomap_i_size_read/write */
	int64_t i_maxbytes;	   /* positions beyond give -EFBIG */
	uint64_t i_ino;		   /* for logs */
	void *i_private;	   /* the application's */
	uint8_t i_blkbits;
	uint8_t i_class;
	uint8_t i_reserved8[2];
	uint32_t i_state;
	uint32_t i_files_nr;
	uint32_t i_pins_nr;
	uint64_t i_dirtied_ns;
	struct iomap_list_head i_engine_list;
	struct iomap_list_head i_dirty_list;
	uint32_t i_resume_seq; /* counts iomap_writeback_resume(); fsync waits on it */
	uint32_t i_dio_count; /* use iomap_inode_dio_begin/end/wait */
	void *i_bar; /* pages that no folio comes into for now, or NULL */
	uint32_t i_bar_seq; /* moves when i_bar goes */
	uint32_t i_reserved32;
	uint64_t i_reserved[5];
};

/*
 * iomap_inode_args.flags
 *
 * RETRY_WRITES: data that cannot be written stays dirty.  Without it a folio becomes clean when
 *   its write has failed: fsync tells each opener of it, reads give the new bytes until the folio
 *   is evicted, and then the device's.  With it
 *     - the folio is dirty again, also when writeback_range has failed, which then gives back no
 *       reservation;
 *     - it is tried again in the background after a flush interval, then after twice that and so
 *       on, up to 64 times, and a random part of a quarter more; other data is written meanwhile;
 *     - fsync, and whoever else waits for data to be written, tries at once, and returns the error;
 *     - when no more than such data is left of what is dirty, and that is beyond the hard limit,
 *       who wants to make more dirty gets the error in place of waiting, also for other inodes;
 *     - iomap_inode_destroy() gives -EBUSY, or with IOMAP_DESTROY_WAIT the error, until the data
 *       has been written or thrown away (iomap_inode_discard_dirty(), IOMAP_DESTROY_DISCARD).
 *   Who writes back without ioends ends a range that failed by iomap_fail_folio_write().
 */
#define IOMAP_INODE_RETRY_WRITES 0x1U

/* Arguments of iomap_inode_init(); zero what is not used. */
struct iomap_inode_args {
	size_t size; /* sizeof(struct iomap_inode_args) */
	const struct iomap_address_space_operations *a_ops;
	const struct iomap_file_operations *i_fop;
	const struct iomap_inode_ops *i_op;
	struct iomap_bdev *bdev; /* device of the data, NULL when there is none */
	int64_t i_size;		 /* bytes */
	int64_t i_maxbytes;	 /* 0: 2^63 - 1 */
	uint64_t i_ino;
	void *i_private;
	uint32_t blkbits;    /* log2 of the block size: 9 to 16; 0: 12 */
	uint32_t lock_class; /* 0 data, 1 metadata ..., up to 7 */
	uint64_t flags;	     /* IOMAP_INODE_xxx */
	uint64_t reserved[7];
};

/**
 * iomap_inode_init - prepare an inode for use
 * @engine: its engine
 * @inode: memory of the caller, any content
 * @args: what it is
 *
 * Does not block for I/O.
 *
 * Blocks larger than a page, up to 64 KiB, have folios of at least the block size: so the
 * engine's max_folio_bytes has to allow them, and its cache to hold two for each of max_callers.
 *
 * Return: 0; -EINVAL (no a_ops, block size out of range, smaller than the device's
 * direct-I/O alignment or too large for the engine's cache, a bdev of another engine, negative
 * size; a log line says which).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_inode_init(struct iomap_engine *engine,
						struct iomap_inode *inode,
						const struct iomap_inode_args *args);

/* iomap_inode_destroy() flags */
#define IOMAP_DESTROY_WAIT 0x1U	   /* write dirty data and wait, instead of -EBUSY */
#define IOMAP_DESTROY_DISCARD 0x2U /* throw dirty data away */

/**
 * iomap_inode_destroy - drop the inode's cache and forget it
 *
 * May block for running I/O and for the flusher, in any case.  No other call on the inode may
 * run, but iomap_sync_engine(), and iomap_writeback_resume() while IOMAP_DESTROY_WAIT waits for
 * data that is held back.
 *
 * Return: 0, and the memory is the application's again; -EBUSY with files open, folios
 * referenced or, without IOMAP_DESTROY_WAIT, direct I/O under way (iomap_inode_dio_begin())
 * or, without a flag, dirty data, and the inode is still usable; with
 * IOMAP_DESTROY_WAIT an error of writing that nobody has been told of yet, and the inode is
 * still usable; -EAGAIN with IOMAP_DESTROY_WAIT when data is held back and the engine has no
 * threads; -EINVAL for unknown flags or both, or an inode that is destroyed already (debug
 * builds abort).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_inode_destroy(struct iomap_inode *inode, unsigned flags);

/**
 * iomap_inode_discard_dirty - throw away what is dirty
 *
 * The folios go as a whole, whatever of them is dirty, and reads find what the device has.  For
 * data that cannot be written (IOMAP_INODE_RETRY_WRITES).  i_size stays.  Reservations are the
 * application's to give back.  Waits for writeback and folio locks.  i_rwsem and invalidate_lock
 * held exclusively, or data may become dirty behind it.
 *
 * Return: 0; -ECHILD.
 */
IOMAP_API int iomap_inode_discard_dirty(struct iomap_inode *inode);

/** iomap_i_size_read - i_size, untorn and in order with the data (kernel: i_size_read) */
IOMAP_API int64_t iomap_i_size_read(const struct iomap_inode *inode);
/** iomap_i_size_write - set i_size; i_rwsem held exclusively, or before first use */
IOMAP_API void iomap_i_size_write(struct iomap_inode *inode, int64_t size);
/** iomap_i_blocksize - bytes of a block */
IOMAP_API size_t iomap_i_blocksize(const struct iomap_inode *inode);

/**
 * iomap_inode_dio_begin - a direct I/O is under way that holds no lock of the inode
 *
 * An asynchronous iomap_dio_rw() does it itself, from before it returns until end_io has run
 * and the cache was invalidated.  For I/O of the application's own; i_rwsem held at least
 * shared, so that who holds it exclusively meets no new one.  Any context.
 */
IOMAP_API void iomap_inode_dio_begin(struct iomap_inode *inode);
/** iomap_inode_dio_end - it has ended; the inode may be gone at return.  Any context. */
IOMAP_API void iomap_inode_dio_end(struct iomap_inode *inode);
/**
 * iomap_inode_dio_wait - wait until no such I/O is under way
 *
 * i_rwsem held exclusively, or new ones may begin.  Blocks.  Where the end of such an I/O waits
 * for a worker the caller sees to it, so end_io may run here.  Does not wait for ki_complete,
 * nor for the sync of a write.  iomap_truncate() calls it.  Kernel counterpart: inode_dio_wait.
 */
IOMAP_API void iomap_inode_dio_wait(struct iomap_inode *inode);

/**
 * iomap_mapping_set_large_folios - let the cache keep the inode in folios larger than a page
 *
 * Folios of up to iomap_engine_opts.max_folio_bytes (64 KiB unless told) then hold what is read
 * ahead and what large writes write; each is as large as its place, the length and the
 * memory at hand allow, and smaller ones stand beside it.  A lookup and a lock are for more bytes
 * then, so writers in small pieces of one large folio wait for each other: where many do so,
 * set a smaller largest folio.  Without it all folios are of one page, or of one block where
 * that is larger.
 *
 * Before the first use of the inode's cache.  Any thread, does not block.
 *
 * Return: 0; -EBUSY: folios are cached, and nothing is changed; -ECHILD.  Not must-check: the
 * kernel's counterpart (mapping_set_large_folios) returns nothing.
 */
IOMAP_API int iomap_mapping_set_large_folios(struct iomap_address_space *mapping);

/**
 * iomap_mapping_set_folio_order_range - the same, with both sizes named
 * @min_order: every folio has 2^min_order pages at least; at least a block
 * @max_order: and 2^max_order at most; 9 (2 MiB) at most, and max_folio_bytes
 *
 * Kernel counterpart: mapping_set_folio_order_range.
 *
 * Return: 0; -EINVAL for a range that is empty or outside those bounds, or when the cache has no room
 * for two folios of 2^min_order pages for each of max_callers; -EBUSY and -ECHILD as above.
 */
IOMAP_API IOMAP_MUST_CHECK int
iomap_mapping_set_folio_order_range(struct iomap_address_space *mapping, unsigned min_order,
				    unsigned max_order);

/**
 * iomap_mapping_set_stable_writes - nobody changes a folio while it is being written
 *
 * For data whose checksum is computed, or which goes to several devices, while it is on its way:
 * from writeback_range on until writeback of the folio has ended, its bytes stay what they are.
 * Writers, zeroing and iomap_folio_begin_write() wait for that; with NOWAIT they get -EAGAIN, and
 * an asynchronous write goes on in a worker.  An application that stores to folio memory otherwise
 * calls iomap_folio_wait_writeback() with the folio locked first.  What the folio holds beyond its
 * dirty blocks may still be read in meanwhile.
 *
 * Before the first use of the inode's cache.  Any thread, does not block.  Kernel counterpart:
 * mapping_set_stable_writes.
 *
 * Return: 0; -EBUSY: folios are cached, and nothing is changed; -ECHILD.  Not must-check.
 */
IOMAP_API int iomap_mapping_set_stable_writes(struct iomap_address_space *mapping);

/* Counters of an inode; bytes unless the name says otherwise. */
struct iomap_inode_stats {
	uint64_t cached_bytes;	  /* now */
	uint64_t dirty_bytes;	  /* now */
	uint64_t writeback_bytes; /* now */
	/* since the first call of iomap_inode_stats() for the inode, as in struct iomap_engine_stats */
	uint64_t hits_nr;
	uint64_t misses_nr;
	uint64_t readahead_bytes;
	uint64_t readahead_used_bytes;
	uint64_t readahead_wasted_bytes;
	uint64_t evictions_nr;
	uint64_t ioends_nr;
	uint64_t ioend_bytes;
};

/**
 * iomap_inode_stats - counters of one inode
 * @out: filled; each counter is exact when nothing runs, else a recent value
 * @size: sizeof(*out); as for iomap_engine_stats()
 *
 * What happens is counted from the first call on, which takes 4 KiB for it until the inode is
 * destroyed and walks over what is cached; hits on the inode cost a little more from then on.
 * Any thread; does not block for I/O.
 *
 * Return: 0; -EINVAL; -ENOMEM at the first call; -ECHILD.
 */
IOMAP_API int iomap_inode_stats(struct iomap_inode *inode, struct iomap_inode_stats *out,
				size_t size);

/** iomap_mapping_set_error - record a writeback error for fsync; any context */
IOMAP_API void iomap_mapping_set_error(struct iomap_address_space *mapping, int error);

/**
 * iomap_invalidate_inode_pages - drop clean cached folios of a range
 * @start: byte, rounded down to a page
 * @end: byte after the range; INT64_MAX for all
 *
 * Folios that are dirty, under writeback, locked or referenced stay.  Does not block.
 * Kernel counterpart: invalidate_mapping_pages.
 *
 * Return: bytes dropped.
 */
IOMAP_API uint64_t iomap_invalidate_inode_pages(struct iomap_inode *inode, int64_t start,
						int64_t end);

#ifdef __cplusplus
}
#endif
#endif
