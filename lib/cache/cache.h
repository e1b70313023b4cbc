/* SPDX-License-Identifier: MIT */
/*
 * cache.h - the page cache: folio memory, the index of each address space, the read path,
 * readahead, eviction, dirty accounting and the flusher.
 *
 * Owns: the arena (folio memory, the hard bound), one descriptor for each base page of it,
 * the index nodes, the list of dirty inodes, the flusher thread.
 *
 * A folio and its lock word.  `lock` is one 64-bit word: LOCKED, WAITERS, CHANGING and a
 * version above them.  The lock is for whoever changes the folio or its identity.  CHANGING
 * is set, and the version moves, only while bytes that readers may see change or the folio
 * leaves the index; so a folio that is merely locked (for writeback, say) is still read.
 * A copying reader takes nothing: look up, remember the version (CHANGING
 * clear), check identity and UPTODATE, copy, fence, compare the version; see hit.h for
 * the proof.
 *
 * References: the index holds one; look-ups by iomap__filemap_get() take one with a
 * compare-and-swap that fails at zero.  Only a folio whose count the evictor moved from 1
 * to 0 leaves the index by eviction, so pinned folios stay; truncation removes others too,
 * and their memory goes back at the last put.
 *
 * Life of a folio: free in the buddy lists -> allocated, locked, in the index, not uptodate
 * -> read or written -> unlocked, uptodate -> (dirty -> writeback -> clean)* -> removed by
 * eviction or truncation with its version moved -> free.
 *
 * Tags of the index: DIRTY, WRITEBACK, TOWRITE, changed under tree_lock.  A folio that is
 * about to be written loses its DIRTY flag first (iomap__folio_clear_dirty_for_io()), then
 * gets WRITEBACK, flag and tag, and loses its DIRTY and TOWRITE tags last, when all of it
 * is queued (iomap__folio_writeback_queued()).  So whoever looks for dirty and then for
 * writeback folios never misses one, and one of which something was held back keeps its
 * tags throughout.  The counts of dirty pages follow the tag, not the flag.
 */
#ifndef IOMAP__CACHE_H
#define IOMAP__CACHE_H

#include <iomap/buffered.h>
#include <iomap/file.h>
#include <iomap/folio.h>
#include <iomap/inode.h>
#include <iomap/writeback.h>

#include "base/base.h"

/* Base folios that one caller may need at once; folios of a block that is larger. */
#define IOMAP__CALLER_FOLIOS 8U
#define IOMAP__CALLER_BLOCKS 2U

/* ---- folio ---- */

#define IOMAP__FOLIO_LOCKED 0x1U
#define IOMAP__FOLIO_WAITERS 0x2U
#define IOMAP__FOLIO_CHANGING 0x4U
#define IOMAP__FOLIO_VERSION 0x8U /* one step of the version */

/* flags */
#define IOMAP__FOLIO_UPTODATE 0x01U
#define IOMAP__FOLIO_DIRTY 0x02U
#define IOMAP__FOLIO_WRITEBACK 0x04U
#define IOMAP__FOLIO_WB_WAITERS 0x08U
#define IOMAP__FOLIO_ACCESSED 0x10U  /* used again since policy.c has last looked */
#define IOMAP__FOLIO_RA_MARK 0x20U   /* reading here starts the next window */
#define IOMAP__FOLIO_RA_UNUSED 0x40U /* read ahead, not asked for yet */
/* dirty, and the last writeback took nothing of it; or failed, of an inode that retries (retry.c) */
#define IOMAP__FOLIO_HELD_BACK 0x80U
#define IOMAP__FOLIO_COUNTED 0x100U  /* hits count for the inode as well */
/*
 * Brought in by a call with DONTCACHE and used by no other: it goes when that call has read it,
 * or when its data has been written.  Never together with ACCESSED, so that a plain hit need not
 * ask for it: whoever sets the one takes off the other.
 */
#define IOMAP__FOLIO_DONTCACHE 0x200U
/* policy.c tells of these; the upper 16 bits are its as well */
#define IOMAP__FOLIO_FRESH 0x400U /* was read in, and not used since */
#define IOMAP__FOLIO_ONCE 0x800U  /* what has marked it may be one write in pieces */
#define IOMAP__FOLIO_SMALL 0x1000U /* in the queue of new folios */
#define IOMAP__FOLIO_RANK 0x6000U /* two bits */
#define IOMAP__FOLIO_WAITS 0x8000U /* left the queue dirty */

struct iomap_folio {
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint64_t lock;
	_Atomic(struct iomap_address_space *) mapping; /* NULL when not in the index */
	_Atomic uint64_t place; /* where it begins in the file, and its order: iomap__folio_place() */
	_Atomic uint32_t flags;
	_Atomic uint32_t refs;
	union {
		void *ifs; /* per-folio block state, iomap layer; stable under the lock */
		/* behind iomap__filemap_remove(): whose nr_removed counts it */
		struct iomap_address_space *removed_from;
	};
	struct iomap__cache *cache;
	uint32_t read_valid; /* lock held for reading: bytes below i_size when the read began */
	int16_t read_error;  /* lock held: first error of the last read, negative errno */
	_Atomic uint8_t order; /* set while free; copying readers look at `place` */
	uint8_t buddy_state; /* arena's */
	union {
		struct {
			uint32_t free_prev, free_next; /* arena's, while free or a tail */
		};
		struct {
			/* in use: bytes that are being read and written, iomap layer; each
			 * holds one more while ranges are still being started */
			_Atomic uint32_t read_bytes, write_bytes;
		};
	};
};
_Static_assert(sizeof(struct iomap_folio) == IOMAP__CACHE_LINE, "one cache line a descriptor");

/*
 * Byte position and order in one word, so that one comparison tells whether a folio is the one
 * that a slot of an index promises.
 */
static inline uint64_t iomap__folio_place(uint64_t index, unsigned order)
{
	_Static_assert(IOMAP_PAGE_SIZE > 64, "the order fits below the position");
	return (index << IOMAP_PAGE_SHIFT) | order;
}
static inline void iomap__folio_set_place(struct iomap_folio *folio, uint64_t index, unsigned order)
{
	atomic_store_explicit(&folio->place, iomap__folio_place(index, order), memory_order_relaxed);
}
static inline bool iomap__folio_test(const struct iomap_folio *folio, uint32_t flag)
{
	return atomic_load_explicit(&folio->flags, memory_order_acquire) & flag;
}
/*
 * It is used, and had @flags, by a call with @how.  One that two use at once may keep both flags
 * for a moment: it is dropped then although it was used, which costs a read.
 */
static inline void iomap__folio_accessed(struct iomap_folio *folio, uint32_t flags, unsigned how)
{
	uint32_t gone = flags & (IOMAP__FOLIO_DONTCACHE | IOMAP__FOLIO_FRESH);

	if (iomap__unlikely(flags & IOMAP__FOLIO_DONTCACHE) && how & IOMAP_DONTCACHE)
		return;
	if (gone)
		atomic_fetch_and_explicit(&folio->flags, ~gone, memory_order_relaxed);
	/* the first use is what it was read for */
	if (!(gone & IOMAP__FOLIO_FRESH))
		atomic_fetch_or_explicit(&folio->flags, IOMAP__FOLIO_ACCESSED,
					 memory_order_acq_rel);
}
static inline size_t iomap__folio_bytes(const struct iomap_folio *folio)
{
	return IOMAP_PAGE_SIZE << atomic_load_explicit(&folio->order, memory_order_relaxed);
}
/* The folio that @addr lies in; NULL when it is not folio memory. */
struct iomap_folio *iomap__folio_of(struct iomap__cache *cache, const void *addr);
/* Reference unless the count is zero. */
static inline bool iomap__folio_tryget(struct iomap_folio *folio)
{
	uint32_t refs = atomic_load_explicit(&folio->refs, memory_order_relaxed);

	/* acquire: pairs with the release of whoever gave it its identity */
	while (iomap__likely(refs))
		if (iomap__likely(atomic_compare_exchange_weak_explicit(&folio->refs, &refs, refs + 1,
									memory_order_acquire,
									memory_order_relaxed)))
			return true;
	return false;
}
/* Bytes that readers may see are about to change / have changed.  Locked. */
void iomap__folio_begin_change(struct iomap_folio *folio);
void iomap__folio_end_change(struct iomap_folio *folio);
/* Some of it holds no data any more; moves the version, for those who are copying.  Locked. */
void iomap__folio_clear_uptodate(struct iomap_folio *folio);
/* For debug builds: the lock is about to be taken, or has been by a try / is given back. */
#if IOMAP_DEBUG
void iomap__folio_note_lock(struct iomap_folio *folio, bool trylock);
void iomap__folio_note_unlock(struct iomap_folio *folio);
#else
#define iomap__folio_note_lock(folio, trylock) ((void)0)
#define iomap__folio_note_unlock(folio) ((void)0)
#endif
/* The locked folio will be unlocked by a completion. */
void iomap__folio_handoff(struct iomap_folio *folio);
/*
 * Dirty state.  All with the folio locked.
 * dirty: set the flag, the tag and the accounting, put the inode on the dirty list; true if
 *   it was clean.
 * clear_dirty_for_io: clear the flag, keep the tags; true if it was dirty.
 * start_writeback: set WRITEBACK, flag and tag.  writeback_queued: take off the DIRTY tag,
 *   unless the folio is dirty again, and TOWRITE; not called when something was held back.
 *   end_writeback: any context, not locked; wakes waiters.  The caller of end_writeback
 *   needs no reference: start_writeback takes one, end_writeback drops it.
 * held_back: under writeback, dirty again, and nothing of it is being written.
 * failed: under writeback and, where that is wanted, dirty again since it could not be written;
 *   any context, locked or not.  not_failed: it is about to be cut in pieces.
 * cancel_dirty: the folio is clean without having been written.
 */
bool iomap__filemap_dirty_folio(struct iomap_address_space *mapping, struct iomap_folio *folio);
bool iomap__folio_clear_dirty_for_io(struct iomap_folio *folio);
void iomap__folio_start_writeback(struct iomap_folio *folio);
void iomap__folio_writeback_queued(struct iomap_folio *folio);
void iomap__folio_end_writeback(struct iomap_folio *folio);
void iomap__folio_held_back(struct iomap_folio *folio);
void iomap__folio_failed(struct iomap_folio *folio);
void iomap__folio_not_failed(struct iomap_folio *folio);
void iomap__folio_cancel_dirty(struct iomap_folio *folio);

/* Folio locked, so that no writeback of it begins: whether its bytes are not to change now. */
static inline bool iomap__folio_is_stable(const struct iomap_address_space *mapping,
					  uint32_t flags)
{
	return iomap__unlikely(flags & IOMAP__FOLIO_WRITEBACK) &&
	       iomap__load(&mapping->stable_writes);
}

/* ---- index ---- */

enum iomap__tag { IOMAP__TAG_DIRTY, IOMAP__TAG_WRITEBACK, IOMAP__TAG_TOWRITE, IOMAP__TAGS };

/*
 * Up to @nr folios that carry @tag (or all, for IOMAP__TAGS) with *index <= index < end,
 * referenced, in order.  *index moves behind the last one (or to @end).
 */
unsigned iomap__filemap_get_tagged(struct iomap_address_space *mapping, uint64_t *index,
				   uint64_t end, enum iomap__tag tag, struct iomap_folio **folios,
				   unsigned nr);
/* DIRTY folios of [index, end) become TOWRITE: what a sync started now has to write. */
void iomap__filemap_tag_towrite(struct iomap_address_space *mapping, uint64_t index, uint64_t end);

/* Referenced folio at @index, or NULL. */
struct iomap_folio *iomap__filemap_get(struct iomap_address_space *mapping, uint64_t index);
/*
 * Find or make the folio at @index: locked, referenced, in the index.  One that is made is as
 * large as the address space allows and memory gives, but ends at @end at the latest, unless
 * the smallest does not.  @how: IOMAP_NOWAIT, IOMAP_DONTCACHE.  May reclaim and wait; no folio
 * lock held.  0, -ENOMEM; with NOWAIT -EAGAIN in place of a wait, and of -ENOMEM.
 */
int iomap__filemap_grab(struct iomap_address_space *mapping, uint64_t index, uint64_t end,
			unsigned how, struct iomap_folio **out);

/*
 * Start reading what is not cached of the range, of at most a batch, up to i_size; where no
 * memory is at hand it stays away.  No folio lock held.  Inside a plug of the caller, which
 * ends by iomap__readahead_unplug().  False: there is nothing to read.
 */
bool iomap__readahead_range(struct iomap_file *file, int64_t pos, size_t len);
void iomap__readahead_unplug(struct iomap_plug *plug, struct iomap_engine *engine);
/* Most bytes that are read at a time because they were asked for. */
size_t iomap__readahead_batch(const struct iomap_file *file);
/* How the opener will read: IOMAP_ADV_NORMAL, _RANDOM or _SEQUENTIAL.  Forgets its streams. */
void iomap__readahead_advise(struct iomap_file *file, unsigned advice);
/* It is being closed. */
void iomap__readahead_forget(struct iomap_file *file);
/*
 * A bar keeps folios out of pages [index, end) where there are none (bar.c).  The caller's memory
 * from _bar() to _unbar(); of an address space one at a time, under invalidate_lock.
 * bar: false: page @index is cached, and there is no bar; else @end is cut to where the next
 *   folio begins.
 */
struct iomap__bar {
	uint64_t index, end;
};
bool iomap__filemap_bar(struct iomap_address_space *mapping, struct iomap__bar *bar);
void iomap__filemap_unbar(struct iomap_address_space *mapping);
/* First page at or after @index that is cached, or @end. */
uint64_t iomap__index_next(struct iomap_address_space *mapping, uint64_t index, uint64_t end);
/* Why the folio is not uptodate: the first error of its last read, or 0. */
static inline int iomap__folio_read_error(const struct iomap_folio *folio)
{
	return __atomic_load_n(&folio->read_error, __ATOMIC_RELAXED);
}

/* ---- being told of an unlock (await.c) ---- */

struct iomap__folio_await {
	struct iomap_list_head entry;
	struct iomap_folio *folio;
	/* Any context, no lock of the cache held; the entry is the caller's again. */
	void (*fn)(struct iomap__folio_await *await);
};
/*
 * Have await->fn called once, when @folio is unlocked; it is the caller's to keep it referenced.
 * False: it is not locked, and fn will not be called.
 */
bool iomap__folio_await(struct iomap_folio *folio, struct iomap__folio_await *await);

/* ---- buffered reads by iocb, which somebody else ends (filemap.c) ---- */

/* What a read whose caller does not wait keeps from step to step; zero it, set await.fn. */
struct iomap__read_async {
	struct iomap__folio_await await; /* its folio: referenced, or NULL */
	bool missed;			 /* the miss at ki_pos has been counted, and read ahead */
	bool filled;			 /* the folio has been read for this request */
	int fill_error;			 /* what read_folio said of that */
	uint64_t fill_version;		 /* the folio's as that began */
};
/*
 * Copy what is cached, moving ki_pos and @to, up to the first byte that is not.  0: the read is
 * over; -ENODATA: it is not; -errno.
 */
ssize_t iomap__filemap_read_cached(struct iomap_kiocb *iocb, struct iomap_iov_iter *to);
/*
 * The same, and bring in what is not cached.  0: the read is over; -EAGAIN: no memory is to be
 * had without a wait; -errno; -IOMAP_EIOCBQUEUED: await.fn will be called, or has been, and then
 * this is to be called once more.  No lock held.  May block in the extent map, not for a device.
 */
ssize_t iomap__filemap_read_async(struct iomap_kiocb *iocb, struct iomap_iov_iter *to,
				  struct iomap__read_async *read);

/* ---- ranges; bytes, half open; INT64_MAX is the end ---- */

/* a_ops->writepages over the range.  *deferred (may be NULL): runs held back. */
int iomap__filemap_write_range(struct iomap_address_space *mapping, int64_t start, int64_t end,
			       enum iomap_writeback_sync_modes mode, uint32_t *deferred);
/* Wait for writeback that is running.  Does not report errors. */
/* -ETIMEDOUT at the thread's deadline_ns, if it has one. */
int iomap__filemap_wait_range(struct iomap_address_space *mapping, int64_t start, int64_t end);
/* iomap_folio_lock() and _wait_writeback() with a deadline (0: none).  False: it has passed. */
bool iomap__folio_lock_until(struct iomap_folio *folio, uint64_t deadline_ns);
bool iomap__folio_wait_writeback_until(struct iomap_folio *folio, uint64_t deadline_ns);
/*
 * Remove folios of the range, dirty or not, waiting for writeback and locks; what the range
 * covers of the folios at its ends becomes zero, and blocks wholly in it clean.
 */
void iomap__filemap_truncate_range(struct iomap_address_space *mapping, int64_t start, int64_t end);
/*
 * Remove clean folios that touch the range, waiting for writeback and locks; of one that is
 * dirty outside of the range, forget the blocks that touch it.  -EBUSY: there is dirty data in the
 * range, or release_folio kept a folio; all else is gone.
 */
int iomap__filemap_invalidate_range(struct iomap_address_space *mapping, int64_t start,
				    int64_t end);
/*
 * Drop clean folios that nobody uses and that lie in the range as a whole; waits for nothing.
 */
void iomap__filemap_drop_whole(struct iomap_address_space *mapping, int64_t start, int64_t end);
/* A folio reference other than the index's and writeback's exists in the address space, or to
 * a folio that was removed from it.  Nothing takes new ones meanwhile. */
bool iomap__filemap_referenced(struct iomap_address_space *mapping);
/* The address space goes, without folios and references: wait until nobody looks at it. */
void iomap__filemap_quiesce(struct iomap_address_space *mapping);
/*
 * Data of the inode, which retries, could not be written: when it is tried again, and what is told
 * at the hard limit.  Any context.
 */
void iomap__mapping_failed(struct iomap_address_space *mapping, int error);
/* Some is there that is not to be tried yet in the background. */
bool iomap__mapping_waits(const struct iomap_address_space *mapping);
/* Throw dirty folios away. */
void iomap__filemap_discard_dirty(struct iomap_address_space *mapping);

/*
 * Throttle: the caller dirties data.  No folio lock held.  May write and wait.  0; the error for
 * which nothing of what is dirty can be written; or -EAGAIN: there is too much of it, all held back,
 * and the engine has no threads.
 */
int iomap__balance_dirty(struct iomap_address_space *mapping);
/* There is data that could not be written: who makes more dirty has to ask first. */
bool iomap__writes_fail(const struct iomap_engine *engine);
/*
 * The same for who must not wait: 0, that error, or -EAGAIN when there is too much dirty data for
 * more of it.
 * Has the flusher write, as iomap__balance_dirty() does.  Folio locks may be held.
 */
int iomap__balance_dirty_nowait(struct iomap_address_space *mapping);
/* What this thread writes until _again(), with what _not() has given, is not throttled, if @not. */
static inline bool iomap__throttle_not(bool not)
{
	struct iomap__thread *self = iomap__thread_self();
	bool before = self->unthrottled;

	self->unthrottled = not;
	return before;
}
static inline void iomap__throttle_again(bool before)
{
	iomap__thread_self()->unthrottled = before;
}
/*
 * Whether memory that is kept for write-out may be used: for metadata, and inside writepages.  Of
 * the pools it is so many objects.
 */
#define IOMAP__POOL_RESERVE 64U
static inline bool iomap__has_reserve(const struct iomap_address_space *mapping)
{
	return mapping->host->i_class || iomap__thread_self()->writing;
}

/* ---- DONTCACHE (dontcache.c) ---- */

/*
 * Drop the folios of the range that are marked, clean, and not used by anybody just now; waits
 * for nothing.  @whole: not one that is only touched by the end of the range.
 */
void iomap__filemap_drop_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
				bool whole);
/*
 * Drop @folio if it is such a one; the caller need have no reference to it.  put: gives one back
 * first.  Any context.
 */
void iomap__folio_drop_behind(struct iomap_address_space *mapping, struct iomap_folio *folio);
void iomap__folio_put_behind(struct iomap_address_space *mapping, struct iomap_folio *folio);
/*
 * A write has come from @start to @end / ends at @end, which began at @start: start the write-out
 * of whole pieces, of the rest.  @how: with IOMAP_NOWAIT the flusher does it.  No folio lock held.
 */
void iomap__filemap_wrote_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
				 unsigned how);
void iomap__filemap_end_behind(struct iomap_address_space *mapping, int64_t start, int64_t end,
			       unsigned how);

/* ---- copies: atomic words under TSan, memcpy else (copy.h has the reason) ---- */

/* Copy into or zero a locked folio, moving its version. */
void iomap__folio_copy_in(struct iomap_folio *folio, size_t off, const void *from, size_t len);
void iomap__folio_fill_zero(struct iomap_folio *folio, size_t off, size_t len);
/* Copy from caller memory into folio memory that is announced; returns bytes copied, advances. */
size_t iomap__copy_iter_to_folio(char *to, size_t len, struct iomap_iov_iter *from);
/* The same into a locked folio, moving its version. */
size_t iomap__folio_copy_from_iter(struct iomap_folio *folio, size_t off, size_t len,
				   struct iomap_iov_iter *from);

/* ---- inodes and openers ---- */

/* i_state; changed by atomic or/and */
#define IOMAP__I_DIRTY_LISTED 0x1U /* on the dirty list; changed under its lock */
#define IOMAP__I_DYING 0x2U	   /* frozen; changed under inodes_lock */
#define IOMAP__I_DEFERRED 0x4U	   /* runs were held back since the last resume */
#define IOMAP__I_RESUME 0x8U	   /* resume was asked for: flush soon */
#define IOMAP__I_RETRY 0x10U	   /* IOMAP_INODE_RETRY_WRITES; constant */

/* Whether data of the inode that could not be written stays dirty. */
static inline bool iomap__inode_retries(const struct iomap_inode *inode)
{
	return iomap__unlikely(iomap__load(&inode->i_state) & IOMAP__I_RETRY);
}

/*
 * i_pins_nr counts uses by threads that have no file of the inode: the flusher's,
 * sync_engine's, and iomap_writeback_resume()'s, since a destroy may wait for that.
 * pin: the inode cannot go now.  unpin: it may be gone afterwards.
 */
static inline void iomap__inode_pin(struct iomap_inode *inode)
{
	iomap__fetch_add(&inode->i_pins_nr, 1);
}
void iomap__inode_unpin(struct iomap_inode *inode);

#define IOMAP__RA_STREAMS 8

/*
 * A run of reads that follow each other, in pages; unused while high is 0.  size 0: what has been
 * asked for so far is [low, high), and nothing was read ahead; else a stream, read up to high, or
 * back: down to low.
 */
struct iomap__ra_stream {
	uint64_t low, high;
	uint32_t size; /* how far it is read ahead */
	uint32_t last; /* ra->clock when it was last met */
	uint32_t lost; /* cache->ra_lost at its last window */
	uint8_t follows; /* reads that followed, of one that is no stream yet */
	uint8_t hold;	 /* windows for which it does not grow */
	bool back;
};

/*
 * What an opener knows of its reads; streams.c.  Under its lock but for advice, which is atomic.
 * Most have one run and no more; the places for others are made when there is another.
 */
struct iomap__ra_state {
	struct iomap__ra_stream stream;
	struct iomap__ra_stream *more; /* IOMAP__RA_STREAMS - 1, of cache->ra_tables; or NULL */
	uint32_t clock; /* moves with each miss and mark */
	uint32_t advice; /* IOMAP_ADV_NORMAL, _RANDOM or _SEQUENTIAL */
};

/*
 * From a pool, so that one that has been closed is still memory to look at: `magic` lies where
 * a free object of a pool may be read (pool.c).
 */
struct iomap_file {
	/* what a hit needs; constant while the file is open (iomap__file_init_hits()) */
	struct iomap_inode *inode;
	uint32_t magic; /* IOMAP__FILE_MAGIC; atomic */
	bool cached;	/* iomap_read() goes by the cache, and by nothing else first */
	uint16_t mode;	/* IOMAP_FMODE_xxx */
	uintptr_t page_bias; /* of folio memory to 64 times the address of its descriptor */
	struct iomap__stats *stats;

	unsigned flags; /* IOMAP_O_xxx */
	/* where the last use ended that was no plain hit, its low bits; relaxed, a hint */
	uint32_t used_end;
	uint32_t wb_err; /* errseq cursor; advanced under `lock` */
	uint32_t uses; /* asynchronous iocbs and running ki_completes: iomap/file.c */
	struct iomap__mutex lock; /* wb_err, ra */
	struct iomap__ra_state ra;
};

#define IOMAP__FILE_MAGIC 0x6f70656eU

static inline bool iomap__file_is_open(const struct iomap_file *file)
{
	return iomap__load(&file->magic) == IOMAP__FILE_MAGIC;
}
#define iomap__file_check(file)                                                           \
	iomap__assert_msg(iomap__file_is_open(file),                                      \
			  "file %p is used after it was closed, or was never opened",     \
			  (const void *)(file))
#define iomap__inode_check(inode)                                                         \
	iomap__assert_msg((inode)->i_engine,                                              \
			  "inode %p is used after it was destroyed, or was never made",   \
			  (const void *)(inode))

/* For a file that is being opened; inode and flags are set. */
void iomap__file_init_hits(struct iomap_file *file);
/*
 * Copy what is cached and uptodate of [pos, pos + n), which is below i_size, from its start up
 * to the first byte that is not.  @how: IOMAP_NOWAIT: starts no readahead; IOMAP_DONTCACHE.
 * Bytes, 0 if that is the first one.
 */
size_t iomap__hit_run(struct iomap_file *file, void *to, size_t n, int64_t pos, unsigned how);

void iomap__mapping_init(struct iomap_address_space *mapping, struct iomap_inode *inode,
			 const struct iomap_address_space_operations *a_ops);
/*
 * On the engine's list of inodes, and off it.  Off goes by two steps: freeze keeps the flusher
 * and walks away, and waits for i_pins_nr to fall to 0; then thaw, or unregister.
 */
/* Registering: -EINVAL when the cache is too small for it. */
int iomap__inode_register(struct iomap_inode *inode);
void iomap__inode_freeze(struct iomap_inode *inode);
void iomap__inode_thaw(struct iomap_inode *inode);
void iomap__inode_unregister(struct iomap_inode *inode);
bool iomap__cache_has_inodes(struct iomap_engine *engine);
/*
 * Go over all inodes of an engine, each pinned while the caller has it: zero a walk, set
 * engine, call next until it gives NULL.  Inodes that go meanwhile are left out, those that
 * are there from beginning to end are not: next waits for one that is frozen to thaw or go, but
 * with `passes_frozen`, which never waits and counts them.
 */
struct iomap__inode_walk {
	struct iomap_engine *engine;
	struct iomap_inode *inode;	   /* pinned, or NULL */
	struct iomap_list_head *next;	   /* under inodes_lock: where to go on */
	struct iomap__inode_walk *others; /* under inodes_lock */
	bool started, passes_frozen;
	unsigned frozen_nr;
};
struct iomap_inode *iomap__inode_walk_next(struct iomap__inode_walk *walk);
/*
 * Without threads: write some of what is due, for iomap_engine_poll(); 1 if anything was.
 * timeout: nanoseconds until something is, 0: now, -1: there is nothing; with threads always -1.
 */
unsigned iomap__flusher_poll(struct iomap_engine *engine);
int64_t iomap__flusher_poll_timeout(struct iomap_engine *engine);
/* Wake the flusher, or an event loop that does its work. */
void iomap__flusher_kick(struct iomap_engine *engine);
/* Have the flusher write the inode next, however young its data is. */
void iomap__flusher_resume(struct iomap_inode *inode);

/* ---- engine ---- */

/* The state of a part of a folio, as a folio of its own would have it. */
struct iomap__block_part {
	void *blocks; /* for folio->ifs; NULL: none is needed */
	bool uptodate, dirty;
};

/*
 * What the layer above keeps of the blocks of a folio, for the cache to change where the
 * application has no say.  Folio locked, not under writeback; must not block.
 * forget: the blocks that [off, off + len) touches hold no data any more; false, and nothing
 *   is changed, if one of them is dirty.
 * part: make the state that [off, off + len), whole blocks, has in the folio; 0 or -ENOMEM.
 * free: give the memory of block state back, if there is some.
 */
struct iomap__block_state_ops {
	bool (*forget)(struct iomap_folio *folio, size_t off, size_t len);
	int (*part)(const struct iomap_folio *folio, size_t off, size_t len,
		    struct iomap__block_part *part);
	void (*free)(const struct iomap_folio *folio, void *blocks);
};

/*
 * Writeback whose end was left to a work function of the layer above: a thread that waits for
 * writeback, of an inode of @class or so that its class finds room, asks before it sleeps.
 * True: one was run by this call; no lock of the cache was held.  False: there is none that the
 * caller may run; iomap__wb_end_queued() when there may be one.
 */
typedef bool iomap__late_end_fn(struct iomap_engine *engine, unsigned class);
/* Some can be run: who waits asks again.  Any context. */
void iomap__wb_end_queued(struct iomap_engine *engine);

/*
 * @defaults: what stands in for NULL members of a_ops (dirty_folio, invalidate_folio,
 * release_folio, is_partially_uptodate), so that this layer need not know the one above.
 * Starts the flusher unless IOMAP_ENGINE_NO_THREADS.
 */
int iomap__cache_create(struct iomap_engine *engine,
			const struct iomap_address_space_operations *defaults,
			const struct iomap__block_state_ops *block_state,
			iomap__late_end_fn *late_end);
void iomap__cache_destroy(struct iomap_engine *engine);
/* How large it is at present. */
uint64_t iomap__cache_bytes(const struct iomap_engine *engine);
void iomap__cache_stats(struct iomap_engine *engine, struct iomap_engine_stats *stats);

/* Counters of the layers above, in the cache's per-thread lines. */
enum iomap__cache_stat {
	IOMAP__STAT_HITS,
	IOMAP__STAT_MISSES,
	IOMAP__STAT_RA_BYTES,
	IOMAP__STAT_RA_USED,
	IOMAP__STAT_EVICTIONS,
	IOMAP__STAT_IOENDS,
	IOMAP__STAT_IOEND_BYTES,
	IOMAP__STAT_IOEND_BLOCKS,
};
enum iomap__cache_stat2 {
	IOMAP__STAT_FSYNCS,
	IOMAP__STAT_DEFERRED,
	IOMAP__STAT_THROTTLED,
	IOMAP__STAT_RA_WASTED,
	IOMAP__STAT_RANGES,
	IOMAP__STAT_RANGE_BIOS,
	IOMAP__STAT_PAUSE_NS,
	IOMAP__STAT_IOEND_BIOS,
};
void iomap__cache_count(struct iomap_engine *engine, enum iomap__cache_stat which, uint64_t n);
void iomap__cache_count2(struct iomap_engine *engine, enum iomap__cache_stat2 which, uint64_t n);
/* Something that began at @began_ns (iomap__now_ns()) is over: IOMAP_HIST_READ, _WRITE, _FSYNC. */
void iomap__cache_took(struct iomap_engine *engine, enum iomap_histogram which, uint64_t began_ns);

/*
 * Counters of one inode, for those who have asked for them (inode_stats.c): not counted, and not
 * there, before the first iomap_inode_stats().  Its folios have IOMAP__FOLIO_COUNTED then, so that
 * a hit need not ask.
 */
enum iomap__inode_stat {
	IOMAP__ISTAT_HITS,
	IOMAP__ISTAT_MISSES,
	IOMAP__ISTAT_RA_BYTES,
	IOMAP__ISTAT_RA_USED,
	IOMAP__ISTAT_RA_WASTED,
	IOMAP__ISTAT_EVICTIONS,
	IOMAP__ISTAT_IOENDS,
	IOMAP__ISTAT_IOEND_BYTES,
};
static inline void iomap__mapping_count(struct iomap_address_space *mapping,
					enum iomap__inode_stat which, uint64_t n)
{
	/* acquire: pairs with the release of iomap_inode_stats() */
	struct iomap__stats *stats = iomap__load_acquire(&mapping->inode_stats);

	if (iomap__unlikely(stats))
		iomap__stat_add(stats, iomap__thread_self(), which, n);
}
/* A hit on a folio with IOMAP__FOLIO_COUNTED, which may be another's by now. */
void iomap__folio_counted_hit(struct iomap_address_space *mapping);
/* The inode is being destroyed, and nobody counts any more. */
void iomap__inode_stats_free(struct iomap_inode *inode);
/* The rest of the dump (dump.c). */
void iomap__cache_dump(struct iomap_engine *engine, struct iomap__lines *lines);

#include "cache/hit.h"
#include "cache/write_hit.h"

#endif
