/* SPDX-License-Identifier: MIT */
/*
 * iomap/writeback.h - from dirty folios to ioends.
 *
 * Threads: writepages and the callbacks below it run in fsync and the other sync calls, in
 * throttled writers, in the flusher, and, on an engine without threads, in callers that need
 * memory for an inode of the same or a lower class; several may write different folios of one
 * inode at once.  A writepage context belongs to one thread.
 * Errors: those of queueing are returned and recorded, those of I/O are recorded; both are
 * told by the next fsync of each opener.
 * Lifetime: an ioend exists from iomap_add_to_ioend() to the end of its completion.  Folios
 * given to a callback are locked; those of an ioend are under writeback.
 */
#ifndef IOMAP_WRITEBACK_H
#define IOMAP_WRITEBACK_H

#include <iomap/bio.h>
#include <iomap/folio.h>
#include <iomap/mapping.h>

#ifdef __cplusplus
extern "C" {
#endif

enum iomap_writeback_sync_modes {
	IOMAP_WB_SYNC_NONE, /* write what is easy to write */
	IOMAP_WB_SYNC_ALL,  /* write all, waiting for writeback already running */
};

/* What to write (kernel: struct writeback_control).  range_end is inclusive. */
struct iomap_writeback_control {
	int64_t nr_to_write; /* base pages; counted down; SYNC_ALL ignores it */
	int64_t range_start; /* byte */
	int64_t range_end;   /* last byte, INT64_MAX for all */
	enum iomap_writeback_sync_modes sync_mode;
	uint32_t nr_deferred; /* runs that were deferred (IOMAP_WB_DEFER), counted up */
	uint64_t reserved[4];
};

/* iomap_ioend.io_flags */
#define IOMAP_IOEND_SHARED 0x0001U    /* blocks were shared */
#define IOMAP_IOEND_UNWRITTEN 0x0002U /* extent is unwritten */
#define IOMAP_IOEND_BOUNDARY 0x0004U  /* starts at a boundary, is not merged backwards */
#define IOMAP_IOEND_DONTCACHE 0x0010U /* its folios leave the cache when it has ended */

/*
 * One contiguous piece of writeback (kernel: struct iomap_ioend).  Belongs to the library;
 * hooks of submission and completion may read all of it and use io_private and io_list.
 *
 * An own completion.  A writeback_submit may set io_bio.bi_end_io before it calls
 * iomap_ioend_writeback_submit().  It is called once, when all bios of the ioend have ended,
 * with the first error in io_bio.bi_status; or, when the ioend was ended unsubmitted, by that
 * call.  As any bi_end_io it must not block: it may take the ioend into a list, by io_list, and
 * call iomap_queue_work(); the work function sorts the list, merges what touches, does what has
 * to be done when data has been written, and calls iomap_finish_ioends().  Until then the
 * folios are under writeback, and fsync waits.
 *   A work that is queued inside such a bi_end_io is taken for that: who waits for writeback
 * calls it while it waits, any thread and with workers too, which may all wait for a lock of
 * this thread.  So the function takes no lock that is held over a call which may wait for
 * writeback, no i_rwsem nor invalidate_lock above all; what writeback_range may do it may do as
 * well.  Who waits for a folio of an inode calls no work that was queued for an inode of a lower
 * lock class: use a work for each class.  The work is to outlive the inode's ioends:
 * iomap_flush_work() before its memory goes.
 */
struct iomap_ioend {
	struct iomap_list_head io_list;
	uint16_t io_flags; /* IOMAP_IOEND_xxx */
	uint16_t reserved16;
	int32_t io_error;    /* first error of the ioend's bios */
	uint32_t io_remaining; /* the library's */
	uint32_t io_folios_nr; /* the library's */
	struct iomap_inode *io_inode;
	size_t io_size;	     /* bytes */
	int64_t io_offset;   /* byte in the file */
	uint64_t io_sector;  /* start on the device, units of 512 bytes */
	void *io_private;    /* the application's */
	struct iomap_ioend *io_parent;
	uint64_t reserved[4];
	struct iomap_bio io_bio; /* must be last */
};

/** iomap_ioend_from_bio - the ioend that embeds @bio */
IOMAP_API struct iomap_ioend *iomap_ioend_from_bio(struct iomap_bio *bio);

struct iomap_writeback_ops;

/* Context of a writeback (kernel: struct iomap_writepage_ctx).  Zero it, then set inode,
 * wbc and ops; wb_ctx is the ops' own. */
struct iomap_writepage_ctx {
	struct iomap iomap;
	struct iomap_inode *inode;
	struct iomap_writeback_control *wbc;
	const struct iomap_writeback_ops *ops;
	uint32_t nr_folios; /* folios in the ioend being built */
	uint32_t reserved32;
	void *wb_ctx;
	uint64_t reserved[4];
};

/* Return of writeback_range: keep the rest of the folio dirty for now.  Not an errno. */
#define IOMAP_WB_DEFER ((ssize_t)-4096)

/*
 * How dirty ranges get to storage (kernel: struct iomap_writeback_ops).
 *
 * writeback_range: required.  Map and queue a dirty run of @len bytes at @pos of a locked
 *   folio; sets wpc->iomap and usually returns iomap_add_to_ioend().  @end_pos: byte after
 *   the last one of the folio to write (i_size cuts it).  May block but not wait for another
 *   folio, nor for a lock of the application whose holder waits for folios or I/O of this
 *   inode: bios of this call may still be collected, in the ioend being built or in a plug,
 *   and are sent before the thread sleeps in the library, but not before it sleeps on a lock
 *   that the library does not know.  Return: bytes handled (> 0; the rest is asked for
 *   again), -errno, or IOMAP_WB_DEFER.  After -errno it gives back the reservations from @pos
 *   to the end of the folio, and is not called again for this folio.
 *     Of reserved or unwritten space it makes no more IOMAP_MAPPED than [pos, pos + len), at
 *   once or better when that has been written.  The rest may belong to a write that has not
 *   come to it yet: nothing of it is in the cache, and whoever reads it, that write included,
 *   would get what the device happens to hold.
 * writeback_submit: required.  Send what was built, or with @error set end it unsubmitted
 *   with that error; usually iomap_ioend_writeback_submit().  Called when the context holds
 *   something in wb_ctx.  Return: 0 or -errno.
 */
struct iomap_writeback_ops {
	ssize_t (*writeback_range)(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				   uint64_t pos, unsigned len, uint64_t end_pos);
	int (*writeback_submit)(struct iomap_writepage_ctx *wpc, int error);
	void (*reserved[4])(void);
};

/**
 * iomap_writepages - write dirty folios of wpc->wbc's range
 *
 * The body of a_ops->writepages.  Takes neither i_rwsem nor invalidate_lock.  With SYNC_ALL
 * blocks for folio locks and for writeback that is already running; SYNC_NONE leaves such
 * folios dirty.  Does not wait for what it submits.
 *
 * Return: 0, -EINVAL for a missing op, or the first error.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_writepages(struct iomap_writepage_ctx *wpc);

/**
 * iomap_add_to_ioend - put a dirty run into the ioend being built
 * @wpc: wpc->iomap covers @pos
 * @folio: locked
 * @pos: byte in the file
 * @end_pos: as given to writeback_range
 * @dirty_len: bytes of the run, cut to the mapping
 *
 * Submits the ioend so far (by writeback_submit) when this run does not continue it in file
 * and device, differs in type, or starts at a boundary.  A HOLE is taken as handled.
 * Without memory for an ioend it waits until one in flight has ended: the caller holds no
 * lock that a bi_end_io needs, and a writeback_submit that keeps ioends back keeps few.
 *
 * Return: bytes taken, or -errno (-EIO for INLINE, DELALLOC and broken mappings).
 */
IOMAP_API IOMAP_MUST_CHECK ssize_t iomap_add_to_ioend(struct iomap_writepage_ctx *wpc,
						      struct iomap_folio *folio, int64_t pos,
						      int64_t end_pos, unsigned dirty_len);
/** iomap_ioend_writeback_submit - the default writeback_submit, for wpc->wb_ctx an ioend */
IOMAP_API int iomap_ioend_writeback_submit(struct iomap_writepage_ctx *wpc, int error);

/**
 * iomap_finish_ioends - complete an ioend, and all that were merged into it
 * @ioend: whose bios have all ended; in no list
 * @error: of what was to be done after the data was written; 0
 *
 * What an own bi_end_io has to call in the end, itself or in a work function: ends writeback
 * on the folios and frees the ioends.  An ioend that has failed keeps its own error, which is
 * not told of the others; of those that have not, @error is recorded.  When it returns, the
 * inode may be gone, unless the caller knows better.
 *
 * Any context.  Exactly once for each ioend that is not merged into another (debug builds abort
 * when it is more).
 */
IOMAP_API void iomap_finish_ioends(struct iomap_ioend *ioend, int error);
/**
 * iomap_sort_ioends - sort a list of ioends by file offset
 * @ioends: the head; ioends of one inode, linked by io_list
 *
 * Those of the same offset keep their order.  Any context; the list is the caller's.
 */
IOMAP_API void iomap_sort_ioends(struct iomap_list_head *ioends);
/**
 * iomap_ioend_try_merge - take ioends that continue @ioend off a list
 * @ioend: in no list
 * @more: the head of a sorted list
 *
 * As long as the first of @more continues @ioend in the file and on the device, is of the same
 * type (unwritten, shared, DONTCACHE), does not start at a boundary and has ended as it has, it
 * is merged: taken off @more and hung on ioend->io_list, and io_size grows.  What concerns all
 * of [io_offset, io_offset + io_size) is then done once, and iomap_finish_ioends() ends them all.
 *
 * Any context.
 */
IOMAP_API void iomap_ioend_try_merge(struct iomap_ioend *ioend, struct iomap_list_head *more);

/** iomap_start_folio_write - @len more bytes of the folio are being written; for
 * writeback_range without ioends; the folio is locked */
IOMAP_API void iomap_start_folio_write(struct iomap_inode *inode, struct iomap_folio *folio,
				       size_t len);
/** iomap_finish_folio_write - @len bytes of the folio have been written, with or without
 * success; exactly once for each range started, unless iomap_fail_folio_write() is; any context */
IOMAP_API void iomap_finish_folio_write(struct iomap_inode *inode, struct iomap_folio *folio,
					size_t len);

/**
 * iomap_fail_folio_write - a range that was started could not be written
 * @off: byte within the folio
 * @len: bytes, as given to iomap_start_folio_write()
 * @error: negative errno
 *
 * Records the error, has the range dirty again where the inode wants that
 * (IOMAP_INODE_RETRY_WRITES), and ends it as iomap_finish_folio_write(), in place of which it is
 * called.  Any context.
 */
IOMAP_API void iomap_fail_folio_write(struct iomap_inode *inode, struct iomap_folio *folio,
				      size_t off, size_t len, int error);

/**
 * iomap_writeback_resume - deferred runs of the inode may go; starts their write-out soon
 *
 * Wakes fsync and a destroy with IOMAP_DESTROY_WAIT that wait for it.  These ask again each
 * flush interval as well, and so may find out before this call that writeback_range defers no
 * longer, and then the inode may end.  Who lets runs go while another thread may destroy the
 * inode therefore changes what writeback_range answers, and calls this, under a lock that
 * writeback_range takes too, or changes the answer only after this has returned.
 *
 * Threads: any.  Locks: the application's may be held.  Does not block.
 */
IOMAP_API void iomap_writeback_resume(struct iomap_inode *inode);

/**
 * iomap_filemap_write_and_wait_range - write a range of an inode out, and wait
 * @start: first byte
 * @end: last byte, inclusive as in the kernel; INT64_MAX for all
 *
 * For extent maps that need data on the device before the metadata that speaks of it.  It
 * makes nothing durable, and spares no fsync the error.  Data that is held back is waited
 * for as iomap_fsync() does.
 *
 * In commit_metadata, setsize and a file's own fsync; not in other callbacks nor in
 * completions.  i_rwsem and invalidate_lock may be held, a folio lock not.  Blocks.  Kernel
 * counterpart: filemap_write_and_wait_range.
 *
 * Return: 0; an error of writing that came meanwhile, of another range perhaps; -EINVAL;
 * -EAGAIN when data is held back and the engine has no threads.
 */
IOMAP_API IOMAP_MUST_CHECK int
iomap_filemap_write_and_wait_range(struct iomap_address_space *mapping, int64_t start, int64_t end);

#ifdef __cplusplus
}
#endif
#endif
