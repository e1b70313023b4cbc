/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of the cache layer share among themselves.
 */
#ifndef IOMAP__CACHE_INTERNAL_H
#define IOMAP__CACHE_INTERNAL_H

#include <pthread.h>

#include "block/block.h"
#include "cache/cache.h"

#define IOMAP__MAX_ORDER 9
#define IOMAP__INDEX_LEVELS 9 /* 9 * 6 bits hold every page number of a file */
#define IOMAP__NO_PAGE UINT32_MAX

#define IOMAP__AWAIT_BUCKETS 64
#define IOMAP__END_BUCKETS 32U

/* Folios that one walk over the index handles at a time. */
#define IOMAP__BATCH 32

struct iomap__split;

/* ghost.c: names of folios that have been evicted */
struct iomap__ghosts {
	_Atomic uint32_t *words;
	_Atomic uint64_t lines; /* of 8 words, as many as the size of the cache asks for */
	uint64_t max_lines;	/* constant */
	_Atomic uint64_t pages; /* of all that have got a name */
	_Atomic uint32_t orders; /* a bit for each order there was a name of */
};

/* policy.c */
struct iomap__policy {
	struct iomap__mutex queue_lock; /* of what follows */
	uint32_t *ring; /* page numbers */
	uint64_t head, tail; /* places, counted from the beginning; in the ring from `base` on */
	uint64_t base;
	uint64_t places; /* as many as the cache has pages */
	uint64_t max_places; /* constant */
	_Atomic uint64_t nr_small; /* pages of the folios that have SMALL */
	_Atomic uint64_t hand;
};

struct iomap__cache {
	struct iomap_engine *engine;
	const struct iomap_address_space_operations *defaults;
	const struct iomap__block_state_ops *block_state;
	iomap__late_end_fn *late_end;

	/* arena.c: constant after creation */
	char *data;
	struct iomap_folio *folios;
	uint64_t max_pages;		 /* that there is address space for */
	size_t data_bytes, folios_bytes; /* of address space */

	/* arena.c: under arena_lock */
	struct iomap__mutex arena_lock;
	uint32_t free_head[IOMAP__MAX_ORDER + 1];
	uint64_t end_pages;	   /* pages below it have been the cache's at some time */
	uint64_t nr_used, nr_off;  /* of these, in folios; not the cache's any more */
	uint64_t peak_used;	   /* pages */
	/* written under the lock: */
	_Atomic uint64_t nr_pages; /* folios come from below it */
	_Atomic uint64_t nr_free;  /* pages, held ones too */
	struct iomap__hold *holds;

	/* resize.c */
	uint32_t size_role;	   /* whose end_pages and nr_pages are; waited on */
	_Atomic bool trim_wanted;  /* pages went off with nobody there to give them back */
	_Atomic bool left_over;	   /* what a shrink has left was in use: look again */
	uint64_t left_retry_ns;	   /* and not before; by who has the role */
	_Atomic uint8_t max_order; /* largest folio of the size there is; under inodes_lock */
	uint64_t target_pages;	   /* under inodes_lock: nr_pages, or what it will be */

	struct iomap__pool ra_tables; /* readahead.c, streams.c */

	/* index.c */
	struct iomap__pool nodes;
	struct iomap__mutex retire_lock; /* of what follows */
	struct iomap__node *retired;
	uint32_t nr_retired;
	struct iomap__node *free_nodes[IOMAP__INDEX_LEVELS];
	uint64_t nr_free_nodes;

	/* await.c */
	struct iomap__mutex await_lock;
	struct iomap_list_head awaits[IOMAP__AWAIT_BUCKETS]; /* under await_lock */
	_Atomic uint32_t nr_awaits;

	struct iomap__policy policy;
	struct iomap__ghosts ghosts;
	uint64_t last_mapping; /* number of the newest address space; under inodes_lock */

	/* reclaim.c: pages that the flusher is to have written for want of clean ones */
	_Atomic uint64_t clean_wanted;

	/* readahead.c: pages that wait to be asked for; folios that have gone before they were */
	_Atomic int64_t ra_unused;
	_Atomic uint32_t ra_lost;

	/* compact.c: number of a block, of whatever size is wanted */
	_Atomic uint64_t compact_hand;

	/* dirty.c */
	_Atomic uint64_t nr_dirty, nr_writeback; /* pages */
	_Atomic uint64_t nr_written;		     /* pages whose writeback has ended */
	_Atomic uint64_t nr_failed;		     /* dirty ones that could not be written */
	_Atomic uint32_t failed_errno;		     /* the last error of that */
	/* limits; they follow the size.  Of all: dirty data at which the flusher begins, at which
	 * data waits; of metadata, four fifths */
	_Atomic uint64_t background_pages, hard_pages, most_pages;
	/* throttle.c: pages a second that are written; when and at which nr_written measured */
	_Atomic uint64_t rate, rate_ns, rate_written;
	_Atomic uint64_t reserve_pages; /* free ones that are not for data */
	uint32_t pause_word;		/* never moves; waited on */
	uint32_t wb_seq; /* moves when a folio leaves writeback or becomes clean; waited on */
	_Atomic uint32_t nr_wb_waiters;
	/* of who waits for a folio's writeback and may have to end it: buckets by folio; `seq` moves
	 * at each end that somebody waits for, in all when some is queued; waited on */
	struct {
		uint32_t seq;
		_Atomic uint32_t waiters;
	} end_wait[IOMAP__END_BUCKETS];
	_Atomic uint32_t nr_end_waiters; /* of all buckets */
	struct iomap__mutex dirty_lock;
	/* under dirty_lock: the oldest first, but one that was resumed is at the head; and where
	 * the next turn by amount begins, which may be the list itself */
	struct iomap_list_head dirty_inodes, *dirty_turn;

	/* inodes.c */
	struct iomap__mutex inodes_lock;
	struct iomap_list_head inodes;	    /* under inodes_lock */
	uint64_t nr_metadata;		    /* inodes of a class above 0; under inodes_lock */
	struct iomap__inode_walk *walks; /* under inodes_lock */
	uint32_t frozen_seq; /* moves when a frozen inode has thawed or gone; waited on */

	/* flusher.c */
	pthread_t flusher;
	bool flusher_runs;
	uint32_t flusher_word; /* moves at each kick; waited on */
	_Atomic bool flusher_stop, flusher_kicked;
	/* the same in iomap_engine_poll() */
	_Atomic bool poll_busy;		/* a poll is writing */
	_Atomic bool poll_lowers;	/* over the limit, and not yet at half of it */
	_Atomic uint64_t poll_retry_ns; /* not by amount before this */

	struct iomap__stats stats, stats2;
	struct iomap__hist waits; /* IOMAP_HIST_READ, _WRITE, _FSYNC */
};

static inline struct iomap__cache *iomap__cache_of(const struct iomap_address_space *mapping)
{
	return mapping->host->i_engine->cache;
}

static inline struct iomap__blk *iomap__cache_blk(const struct iomap__cache *cache)
{
	return cache->engine->blk;
}

/*
 * The 32 bits of a lock word that futexes and the parking lot look at: the low half, with
 * the lock bits and the low bits of the version.
 */
static inline const uint32_t *iomap__folio_lock_key(const struct iomap_folio *folio)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return (const uint32_t *)(const void *)&folio->lock + 1;
#else
	return (const uint32_t *)(const void *)&folio->lock;
#endif
}

/* For a log line: what a thread waits for when it waits for this. */
struct iomap__slow iomap__folio_slow(const struct iomap_folio *folio, const char *what);

/* The largest folio that the address space gets, with the size that the cache has now. */
static inline unsigned iomap__mapping_max_order(const struct iomap_address_space *mapping)
{
	/* relaxed: of two sizes either will do */
	unsigned order = atomic_load_explicit(&iomap__cache_of(mapping)->max_order,
					      memory_order_relaxed);

	return iomap__max(iomap__min(order, (unsigned)mapping->max_order),
			  (unsigned)mapping->min_order);
}

/* Memory of a folio, by the place of its descriptor. */
static inline char *iomap__folio_mem(const struct iomap__cache *cache,
				     const struct iomap_folio *folio)
{
	return cache->data + ((size_t)(folio - cache->folios) << IOMAP_PAGE_SHIFT);
}

static inline uint64_t iomap__folio_pages(const struct iomap_folio *folio)
{
	return 1ULL << folio->order;
}

static inline void iomap__folio_set(struct iomap_folio *folio, uint32_t flag)
{
	atomic_fetch_or_explicit(&folio->flags, flag, memory_order_acq_rel);
}

/* Number of the page after a range of bytes that ends at @end. */
static inline uint64_t iomap__end_index(int64_t end)
{
	return ((uint64_t)end + IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
}

/* ---- arena.c ---- */
int iomap__arena_create(struct iomap__cache *cache, uint64_t bytes, uint64_t max_bytes);
void iomap__arena_destroy(struct iomap__cache *cache);
/* Address space, which costs memory where it is touched; NULL, after a line in the log. */
void *iomap__arena_reserve(struct iomap__cache *cache, size_t bytes, int prot);
void iomap__arena_unreserve(void *memory, size_t bytes);
/* A folio of 2^order pages with one reference, unlocked, no identity; NULL when full. */
struct iomap_folio *iomap__arena_alloc(struct iomap__cache *cache, unsigned order);
/* Its reference count is zero and it is in no index. */
void iomap__arena_free(struct iomap_folio *folio);
/*
 * A block of 2^order pages that is being emptied: what is free of it, and what is freed
 * there, is kept for whoever holds it, until the end.  hold: false when another one's is in
 * the way, or all of it and more is free.  hold_end: the folio, as from iomap__arena_alloc(),
 * if all of it has come free; NULL, and all is given back.
 */
struct iomap__hold {
	uint32_t first;
	unsigned order;
	uint32_t have; /* pages, under arena_lock */
	struct iomap__hold *next;
};
bool iomap__arena_hold(struct iomap__cache *cache, struct iomap__hold *hold, uint32_t first,
		       unsigned order);
struct iomap_folio *iomap__arena_hold_end(struct iomap__cache *cache, struct iomap__hold *hold);
/* The folio's pieces are folios. */
void iomap__arena_split(struct iomap__split *split);
/*
 * By who has the role `size_role`.
 * grow: there are @nr_pages; 0 or -ENOMEM.
 * shrink: no folio comes from @nr_pages on any more; what is free there is off, and what is freed
 *   there goes off.
 * left: pages from there on that are not off.
 * off: the next run of pages at or after *first that are off; false: there is none.
 */
int iomap__arena_grow(struct iomap__cache *cache, uint64_t nr_pages);
void iomap__arena_shrink(struct iomap__cache *cache, uint64_t nr_pages);
uint64_t iomap__arena_left(struct iomap__cache *cache);
bool iomap__arena_off(struct iomap__cache *cache, uint64_t *first, uint64_t *end);
/* Folio memory that may be in use at most: the size, or what of a larger one is left. */
uint64_t iomap__arena_pages(struct iomap__cache *cache);

/* ---- await.c ---- */
void iomap__await_init(struct iomap__cache *cache);
/* The folio, which may be another's by now, has been unlocked with WAITERS set. */
void iomap__folio_unlocked(struct iomap__cache *cache, const struct iomap_folio *folio);

/* ---- index.c ---- */
int iomap__index_init(struct iomap__cache *cache);
void iomap__index_exit(struct iomap__cache *cache);
/* Inside an epoch or under tree_lock.  No reference is taken. */
struct iomap_folio *iomap__index_lookup(const struct iomap_address_space *mapping, uint64_t index);
/*
 * Locked folio with its index set becomes visible; takes tree_lock.  -EEXIST: some page of it
 * is cached; -EBUSY: some page of it is barred; -ENOMEM.
 */
int iomap__index_insert(struct iomap_address_space *mapping, struct iomap_folio *folio);
/* Under tree_lock: pages of [index, end) stay empty for now (bar.c). */
static inline bool iomap__is_barred(const struct iomap_address_space *mapping, uint64_t index,
				    uint64_t end)
{
	const struct iomap__bar *bar = mapping->host->i_bar;

	return iomap__unlikely(bar) && index < bar->end && end > bar->index;
}
/* Wait until @index is not.  No lock of this layer but folios'. */
void iomap__filemap_wait_bar(struct iomap_address_space *mapping, uint64_t index);
/* First page at or after @index that is not cached, or @end; takes tree_lock. */
uint64_t iomap__index_gap(struct iomap_address_space *mapping, uint64_t index, uint64_t end);
/* Under tree_lock.  replace: @to is of the same order and has its index set. */
void iomap__index_replace(struct iomap_address_space *mapping, struct iomap_folio *from,
			  struct iomap_folio *to);
/*
 * Under tree_lock, with the folio whole: begin gets the nodes that its pieces need, or false;
 * then, when the pieces are folios, they take its place, and its tags.
 */
bool iomap__index_split_begin(struct iomap_address_space *mapping, struct iomap__split *split);
void iomap__index_split(struct iomap_address_space *mapping, struct iomap__split *split);
void iomap__index_erase(struct iomap_address_space *mapping, struct iomap_folio *folio);
/* @index: a folio's first page.  Return: whether the tag was not set, or was. */
bool iomap__index_set_tag(struct iomap_address_space *mapping, uint64_t index, enum iomap__tag tag);
bool iomap__index_clear_tag(struct iomap_address_space *mapping, uint64_t index,
			    enum iomap__tag tag);
/* Give back nodes that no reader can see any more.  No lock held but folio and inode locks. */
void iomap__index_reap(struct iomap__cache *cache, bool all);
static inline void iomap__tree_lock(struct iomap_address_space *mapping)
{
	iomap__word_lock(&mapping->tree_lock, IOMAP__RANK_TREE);
}
static inline void iomap__tree_unlock(struct iomap_address_space *mapping)
{
	iomap__word_unlock(&mapping->tree_lock);
}

/* ---- reclaim.c ---- */
/*
 * A folio from the arena, for @mapping, evicting others if needed.  @may_wait: may write back
 * and wait, so no folio of this lock class may be locked.  NULL when nothing can be freed.
 */
struct iomap_folio *iomap__folio_alloc(struct iomap_address_space *mapping, unsigned order,
				       bool may_wait);
/* Drop a clean folio that nobody uses; true when it is gone.  new: its name is remembered. */
bool iomap__folio_evict(struct iomap_folio *folio);
bool iomap__folio_evict_new(struct iomap_folio *folio);
/*
 * The same, if it belongs to @mapping still and has these @flags; the caller need hold no
 * reference.
 */
bool iomap__folio_evict_from(struct iomap_address_space *mapping, struct iomap_folio *folio,
			     uint32_t flags);
/* Take a locked folio out of the index, by its owner; drops the index's reference. */
void iomap__filemap_remove(struct iomap_address_space *mapping, struct iomap_folio *folio);
/*
 * Make room ahead of those who need it, when there is little: by the flusher, or without threads
 * by who polls, then for no more than @most pages.
 */
void iomap__reclaim_ahead(struct iomap__cache *cache, uint64_t most);

/* ---- policy.c ---- */
int iomap__policy_create(struct iomap__cache *cache, uint64_t max_pages);
/* The cache has nr_pages by now, @max_pages at most; by who has the role
 * `size_role`. */
void iomap__policy_resized(struct iomap__cache *cache);
void iomap__policy_destroy(struct iomap__cache *cache);
/* Evict what is least likely to be asked for again, about @want pages; pages freed. */
uint64_t iomap__policy_evict(struct iomap__cache *cache, uint64_t want);
/* A folio is new in the index; locked. */
void iomap__policy_added(struct iomap_address_space *mapping, struct iomap_folio *folio);
/* Its memory is given back, or it is taken apart: its flags say nothing of a place any more. */
void iomap__policy_gone(struct iomap_folio *folio);
/* @to has taken the place of @from, and has those of its flags that move with it. */
void iomap__policy_moved(const struct iomap_folio *from, struct iomap_folio *to);
uint32_t iomap__policy_flags_moved(uint32_t flags);
/* A folio that had WAITS has been written; referenced. */
void iomap__policy_written(struct iomap_folio *folio);

/* ---- ghost.c ---- */
int iomap__ghost_create(struct iomap__cache *cache, uint64_t max_pages);
void iomap__ghost_resized(struct iomap__cache *cache);
void iomap__ghost_destroy(struct iomap__cache *cache);
/* A folio was evicted that was new / comes in: whether it, or what it lay in, is known. */
void iomap__ghost_add(struct iomap_address_space *mapping, uint64_t index, unsigned order);
bool iomap__ghost_take(struct iomap_address_space *mapping, uint64_t index, unsigned order);

/* Evict what is not in use until about @want pages are free; how many it were. */
uint64_t iomap__reclaim(struct iomap__cache *cache, uint64_t want);

/* ---- resize.c ---- */
/* The limits that go with @pages: of dirty data, and of folios. */
void iomap__cache_set_limits(struct iomap__cache *cache, uint64_t pages);
/* Whether a cache of so many pages has room for what callers need of smallest folios of @order. */
bool iomap__order_fits(const struct iomap__cache *cache, unsigned order, uint64_t pages);
/*
 * Send away what a resizing has left and is not in use any more, and give memory back that has gone
 * off since it ended; waits for nothing.  wants_trim: there is something of that to do.
 */
void iomap__cache_trim(struct iomap__cache *cache);
bool iomap__cache_wants_trim(const struct iomap__cache *cache);

/* ---- compact.c ---- */
/* Evict it, or move it to another folio of its size; false: it is in use, or there is no room. */
bool iomap__folio_send_away(struct iomap_folio *folio);
/* The folio that holds page @first and the pages behind up to a block of @order, or NULL. */
struct iomap_folio *iomap__folio_covering(struct iomap__cache *cache, uint32_t first,
					  unsigned order);
/* A folio from a block that was emptied for it, of which nothing is in use; NULL: none can be. */
struct iomap_folio *iomap__compact(struct iomap__cache *cache, unsigned order);

/* ---- split.c ---- */
#define IOMAP__PIECES_MAX 20

/* A piece of a folio that is taken apart, by pages within it. */
struct iomap__piece {
	uint32_t page;
	uint8_t order;
	bool keep;
	struct iomap__block_part state; /* of one that is kept */
};
struct iomap__split {
	struct iomap_folio *folio;
	unsigned nr;
	struct iomap__piece piece[IOMAP__PIECES_MAX]; /* in order; the first one at page 0 */
	/* index.c: the folio's node, new ones for two of its slots at most, and its tags */
	struct iomap__node *node, *child[2];
	unsigned slots_nr; /* that it has had */
	bool dirty_tag, towrite_tag;
};
/*
 * Give the memory of the whole blocks of [off, off + len) back, if nobody else has a reference
 * and there is memory to do it.  Folio locked, not under writeback, of the address space, with
 * one reference of the caller's, at whose end it may be gone; not all of it is cut.
 */
void iomap__folio_split(struct iomap_address_space *mapping, struct iomap_folio *folio, size_t off,
			size_t len);

/* ---- filemap.c ---- */
/*
 * The folio is used, from @pos on: it stays cached for a while, unless it was brought in by
 * DONTCACHE and this is DONTCACHE as well, or goes on where the opener's last use ended; and a
 * mark of readahead in it is met, but not with NOWAIT, which leaves it to the next one.
 */
void iomap__filemap_used(struct iomap_file *file, struct iomap_folio *folio, int64_t pos,
			 unsigned how);
/* The folio that holds byte @pos, which is below i_size: uptodate, referenced; reads it in. */
int iomap__filemap_read_folio(struct iomap_file *file, int64_t pos, struct iomap_folio **out);
/*
 * Allocate, lock, insert; of the address space's smallest order.  Referenced for the caller.
 * -EEXIST, also when it may be looked up again since a bar has gone; -ENOMEM.
 */
int iomap__filemap_add(struct iomap_address_space *mapping, uint64_t index, bool may_wait,
		       struct iomap_folio **out);
/*
 * The same with the largest folio that begins at @index, ends at @end at the latest, and finds
 * memory and room in the index; at the smallest order it may begin before @index and end
 * behind @end, and then may wait.
 */
int iomap__filemap_add_upto(struct iomap_address_space *mapping, uint64_t index, uint64_t end,
			    bool may_wait, struct iomap_folio **out);

/* ---- readahead.c ---- */
/*
 * A read of @nr pages at @index missed at its first page.  @how: IOMAP_DONTCACHE.  @waits: the
 * caller waits for that page next, and then calls iomap__io_expected() (block.h).
 */
void iomap__readahead_miss(struct iomap_file *file, uint64_t index, uint64_t nr, unsigned how,
			   bool waits);
/* A read met the mark of a window at @index. */
void iomap__readahead_mark(struct iomap_file *file, uint64_t index, unsigned how);
/* Of a folio that was read ahead, @pages have been asked for / have gone, or go, unused. */
void iomap__readahead_used(struct iomap_address_space *mapping, uint64_t pages);
void iomap__readahead_wasted(struct iomap_address_space *mapping, uint64_t pages);

/* ---- streams.c ---- */
/* Pages, but for the orders. */
struct iomap__ra_limits {
	uint64_t eof;	/* first page behind the file */
	uint32_t max;	/* how far a stream may be read ahead */
	uint32_t room;	/* and how much of that there is memory for */
	uint32_t batch; /* of what was asked for, at a time */
	uint32_t lost;	/* cache->ra_lost */
	struct iomap__pool *tables; /* cache->ra_tables */
	uint8_t min_order, max_order; /* of folios */
};
/* Read [first, end); what is not in [asked, asked_end) is read ahead, with a mark each @step. */
struct iomap__ra_window {
	uint64_t first, end, asked, asked_end;
	uint32_t step;
	bool back;
};
#define IOMAP__RA_TABLE_BYTES ((IOMAP__RA_STREAMS - 1) * sizeof(struct iomap__ra_stream))
/* lock held, or nobody else has the opener */
void iomap__ra_forget(struct iomap__ra_state *ra, struct iomap__pool *tables);
/* Pages [index, index + nr), nr > 0, are asked for, and the first is not cached. */
void iomap__ra_miss(struct iomap__ra_state *ra, const struct iomap__ra_limits *limits,
		    uint64_t index, uint64_t nr, struct iomap__ra_window *window);
/* A mark was met at @index.  False: there is nothing to read. */
bool iomap__ra_mark(struct iomap__ra_state *ra, const struct iomap__ra_limits *limits,
		    uint64_t index, struct iomap__ra_window *window);
/* For want of memory only [first, reached) of the window was read. */
void iomap__ra_short(struct iomap__ra_state *ra, const struct iomap__ra_window *window,
		     uint64_t reached);

/* ---- dirty.c ---- */
/*
 * wb_seq has moved / wait until it differs from @seq.  False when it timed out.  wait may run a
 * work function that ends writeback instead, sleep does not.
 */
void iomap__wb_progress(struct iomap__cache *cache);
bool iomap__wb_wait(struct iomap__cache *cache, unsigned class, uint32_t seq);
bool iomap__wb_sleep(struct iomap__cache *cache, uint32_t seq);

/* ---- retry.c ---- */
/* HELD_BACK was set (@failed) or cleared; @old: the flags before. */
void iomap__count_failed(struct iomap_folio *folio, uint32_t old, bool failed);
/* What has failed is not to be tried before @ns. */
void iomap__mapping_put_off(struct iomap_address_space *mapping, uint64_t ns);

/* Start to write at most @nr pages of an address space, whatever is easy; pages taken. */
uint64_t iomap__write_some(struct iomap_address_space *mapping, uint64_t nr);

/* ---- throttle.c ---- */
void iomap__throttle_init(struct iomap__cache *cache);
/* A folio of so many pages has become dirty. */
void iomap__throttle_dirtied(struct iomap__cache *cache, uint64_t pages);
/* What is free is kept for others than a folio of that order of @mapping. */
bool iomap__folio_reserved(const struct iomap_address_space *mapping, unsigned order);

/* ---- flusher.c ---- */
int iomap__flusher_start(struct iomap__cache *cache);
void iomap__flusher_stop(struct iomap__cache *cache);
/*
 * Write some dirty data of inodes of that lock class and higher ones, without a wait for it;
 * pages started.  Who needs room for an inode may be inside a callback of an inode of a lower
 * class, with its folios and the application's locks held, and must not enter those again.
 */
uint64_t iomap__flush_some(struct iomap__cache *cache, unsigned class, uint64_t nr_pages);
void iomap__inode_put_dirty(struct iomap_inode *inode);
/* The inode is frozen: off the dirty list / thawed: on it again, as old as it was. */
void iomap__inode_leave_dirty(struct iomap_inode *inode);
void iomap__inode_rejoin_dirty(struct iomap_inode *inode);

/* ---- a_ops with their defaults ---- */
static inline bool iomap__aops_release(struct iomap_address_space *mapping,
				       struct iomap_folio *folio)
{
	const struct iomap__cache *cache = iomap__cache_of(mapping);

	return mapping->a_ops->release_folio ? mapping->a_ops->release_folio(folio, 0)
					     : cache->defaults->release_folio(folio, 0);
}
static inline void iomap__aops_invalidate(struct iomap_address_space *mapping,
					  struct iomap_folio *folio, size_t off, size_t len)
{
	const struct iomap__cache *cache = iomap__cache_of(mapping);

	if (mapping->a_ops->invalidate_folio)
		mapping->a_ops->invalidate_folio(folio, off, len);
	else
		cache->defaults->invalidate_folio(folio, off, len);
}
static inline bool iomap__aops_partial(struct iomap_address_space *mapping,
				       struct iomap_folio *folio, size_t from, size_t count)
{
	const struct iomap__cache *cache = iomap__cache_of(mapping);

	return mapping->a_ops->is_partially_uptodate
		       ? mapping->a_ops->is_partially_uptodate(folio, from, count)
		       : cache->defaults->is_partially_uptodate(folio, from, count);
}

#endif
