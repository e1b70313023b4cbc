/* SPDX-License-Identifier: MIT */
/*
 * readahead.c - folios that are read before they are asked for.
 *
 * What to read, and when, is streams.c's to say; here it is done.  The folios of a window are put
 * into the index locked and not uptodate, then given to a_ops->readahead, which starts their I/O
 * and unlocks them when it ends.
 *
 * Large folios.  Each is as large as the pages that are to be read, its place and the memory
 * at hand allow.  What is read at random is no more than was asked for, rounded to blocks,
 * in large folios too if it is long.
 *
 * How much.  A folio that nobody has asked for has RA_UNUSED, until it is read or goes; ra_unused
 * counts their pages.  They may take an eighth of the cache, so that they are
 * read before their turn to be evicted comes, or half of what is free, where that is more: what
 * streams have left behind need not keep others from memory that nobody uses.
 *
 * Lock: the opener's, around the decisions, not around I/O.
 */
#include "cache/internal.h"

/* Read for who waits for it, at a time, if the window is no longer. */
#define BATCH_BYTES (1ULL << 20)
/* Folios that are locked at a time. */
#define BATCH_FOLIOS 512U
/* Shares of the cache: a window's, and that of all that wait to be asked for. */
#define WINDOW_SHARE 16U
#define UNUSED_SHARE 8U

/* At most that many pages; a window must not fill a small cache by itself, nor do folios. */
static uint32_t window_pages(const struct iomap_file *file, uint64_t bytes)
{
	const struct iomap_address_space *mapping = &file->inode->i_data;
	uint64_t share = atomic_load(&file->inode->i_engine->cache->nr_pages) / WINDOW_SHARE;
	/* room for a folio that is read while another one is consumed */
	uint64_t least = iomap__max(1ULL << iomap__mapping_max_order(mapping),
				    2ULL << mapping->min_order);

	return (uint32_t)iomap__max(least, iomap__min(bytes >> IOMAP_PAGE_SHIFT, share));
}

static uint32_t batch_pages(const struct iomap_file *file)
{
	uint64_t bytes = file->inode->i_engine->opts.readahead_bytes;

	return window_pages(file, iomap__max(bytes, BATCH_BYTES));
}

/* Pages that may be read ahead now, by whomever. */
static uint64_t room(const struct iomap__cache *cache)
{
	int64_t unused = atomic_load_explicit(&cache->ra_unused, memory_order_relaxed);
	int64_t share = (int64_t)(atomic_load(&cache->nr_pages) / UNUSED_SHARE);
	uint64_t free = atomic_load_explicit(&cache->nr_free, memory_order_relaxed) / 2;

	return unused < share ? iomap__max((uint64_t)(share - iomap__max(unused, 0)), free) : free;
}

static struct iomap__ra_limits limits_of(const struct iomap_file *file)
{
	const struct iomap_address_space *mapping = &file->inode->i_data;
	struct iomap__cache *cache = file->inode->i_engine->cache;
	int64_t size = iomap_i_size_read(file->inode);
	uint32_t max = window_pages(file, file->inode->i_engine->opts.readahead_bytes);

	return (struct iomap__ra_limits){
		.eof = size > 0 ? iomap__end_index(size) : 0,
		.max = max,
		.room = (uint32_t)iomap__min(room(cache), max),
		.batch = batch_pages(file),
		.lost = atomic_load_explicit(&cache->ra_lost, memory_order_relaxed),
		.tables = &cache->ra_tables,
		.min_order = mapping->min_order,
		.max_order = (uint8_t)iomap__mapping_max_order(mapping),
	};
}

/* ---- what becomes of it ---- */

static void count_pages(struct iomap_address_space *mapping, uint64_t pages,
			enum iomap__cache_stat stat, enum iomap__inode_stat inode_stat)
{
	iomap__cache_count(mapping->host->i_engine, stat, pages << IOMAP_PAGE_SHIFT);
	iomap__mapping_count(mapping, inode_stat, pages << IOMAP_PAGE_SHIFT);
}

/* The folio, which nobody has seen yet, was not asked for. */
static void set_unused(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	uint64_t pages = 1ULL << folio->order;

	iomap__folio_set(folio, IOMAP__FOLIO_RA_UNUSED);
	atomic_fetch_add_explicit(&folio->cache->ra_unused, (int64_t)pages, memory_order_relaxed);
	count_pages(mapping, pages, IOMAP__STAT_RA_BYTES, IOMAP__ISTAT_RA_BYTES);
}

void iomap__readahead_used(struct iomap_address_space *mapping, uint64_t pages)
{
	atomic_fetch_sub_explicit(&iomap__cache_of(mapping)->ra_unused, (int64_t)pages,
				  memory_order_relaxed);
	count_pages(mapping, pages, IOMAP__STAT_RA_USED, IOMAP__ISTAT_RA_USED);
}

void iomap__readahead_wasted(struct iomap_address_space *mapping, uint64_t pages)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);

	atomic_fetch_sub_explicit(&cache->ra_unused, (int64_t)pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&cache->ra_lost, 1, memory_order_relaxed);
	iomap__cache_count2(cache->engine, IOMAP__STAT_RA_WASTED, pages << IOMAP_PAGE_SHIFT);
	iomap__mapping_count(mapping, IOMAP__ISTAT_RA_WASTED, pages << IOMAP_PAGE_SHIFT);
}

/* ---- reading ---- */

static void submit_batch(struct iomap_file *file, uint64_t first, uint32_t nr)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	struct iomap_readahead_control rac = {
		.file = file, .mapping = mapping, ._index = first, ._nr_pages = nr
	};
	struct iomap_folio *folio;

	if (!nr)
		return;
	mapping->a_ops->readahead(&rac);
	/* what the callback did not take stays cached, not uptodate, and is read when asked for */
	while ((folio = iomap_readahead_folio(&rac)))
		iomap_folio_unlock(folio);
}

/* A window on its way into the index: folios from @batch on were not submitted yet. */
struct filling {
	const struct iomap__ra_window *window;
	uint64_t batch;	    /* page */
	uint32_t nr;	    /* pages from there on */
	uint64_t next_mark; /* page; UINT64_MAX: none */
	bool dontcache;	    /* they go when they have been read */
};

static void fill_flags(struct iomap_address_space *mapping, struct filling *f, uint64_t index,
		       struct iomap_folio *folio)
{
	const struct iomap__ra_window *window = f->window;
	uint64_t end = index + (1ULL << folio->order);

	iomap__folio_set(folio, f->dontcache ? IOMAP__FOLIO_FRESH | IOMAP__FOLIO_DONTCACHE :
					       IOMAP__FOLIO_FRESH);
	if (index >= window->asked_end || end <= window->asked)
		set_unused(mapping, folio);
	if (f->next_mark >= end || (window->back && index >= window->asked))
		return;
	iomap__folio_set(folio, IOMAP__FOLIO_RA_MARK);
	while (f->next_mark < end)
		f->next_mark += window->step;
}

/* Fill [index, end) with folios.  Returns where it came to: a cached page, or no memory. */
static uint64_t fill_stretch(struct iomap_address_space *mapping, struct filling *f,
			     uint64_t index, uint64_t end)
{
	f->batch = index;
	f->nr = 0;
	for (unsigned i = 0; i < BATCH_FOLIOS && index < end; i++) {
		struct iomap_folio *folio;

		/* no memory at hand: what is needed will be read when it is */
		if (iomap__filemap_add_upto(mapping, index, end, false, &folio))
			break;
		fill_flags(mapping, f, index, folio);
		index += 1ULL << folio->order;
		f->nr += 1U << folio->order;
	}
	return index;
}

/* Read what is not cached of a window.  Inside a plug.  Returns where it came to. */
static uint64_t read_pages(struct iomap_file *file, const struct iomap__ra_window *window,
			   unsigned how)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	struct filling f = { .window = window, .next_mark = UINT64_MAX,
			     .dontcache = how & IOMAP_DONTCACHE };
	uint64_t index = window->first;

	/* the first of them where the reader comes first, which may be the upper end */
	if (window->step && !window->back)
		f.next_mark = window->asked_end;
	else if (window->step && window->first < window->asked)
		f.next_mark = window->first + (window->asked - 1 - window->first) % window->step;
	while (index < window->end) {
		uint64_t next = iomap__index_next(mapping, index, window->end), at;

		at = fill_stretch(mapping, &f, index, next);
		submit_batch(file, f.batch, f.nr);
		if (at < next && !f.nr && iomap__index_next(mapping, at, next) > at)
			break;
		index = iomap__index_gap(mapping, at, window->end);
	}
	return index;
}

void iomap__readahead_unplug(struct iomap_plug *plug, struct iomap_engine *engine)
{
	iomap_finish_plug(plug);
	/*
	 * Inside another plug, of a callback's data, these reads would stay in it: folios whose
	 * lock nobody gives back.  The thread may go on without waiting for them, and then for
	 * a lock of the application whose holder reads the same folios.
	 */
	if (plug->nested)
		iomap__plug_flush(engine->blk);
}

/* The same by itself, of a stream perhaps.  @waits: see iomap__readahead_miss(). */
static void read_window(struct iomap_file *file, const struct iomap__ra_window *window,
			unsigned how, bool waits)
{
	struct iomap_plug plug;
	uint64_t reached;

	iomap__io_expected();
	iomap_start_plug(&plug);
	reached = read_pages(file, window, how);
	if (waits && !plug.nested)
		iomap__plug_finish_expecting(&plug);
	else
		iomap__readahead_unplug(&plug, file->inode->i_engine);
	if (iomap__likely(reached >= window->end) || !window->step)
		return;
	iomap__io_expected();
	iomap__mutex_lock(&file->lock);
	iomap__ra_short(&file->ra, window, reached);
	iomap__mutex_unlock(&file->lock);
}

void iomap__readahead_miss(struct iomap_file *file, uint64_t index, uint64_t nr, unsigned how,
			   bool waits)
{
	struct iomap__ra_limits limits = limits_of(file);
	struct iomap__ra_window window;

	iomap__mutex_lock(&file->lock);
	iomap__ra_miss(&file->ra, &limits, index, iomap__max(nr, 1), &window);
	iomap__mutex_unlock(&file->lock);
	read_window(file, &window, how, waits);
}

void iomap__readahead_mark(struct iomap_file *file, uint64_t index, unsigned how)
{
	struct iomap__ra_limits limits = limits_of(file);
	struct iomap__ra_window window;
	bool more;

	iomap__mutex_lock(&file->lock);
	more = iomap__ra_mark(&file->ra, &limits, index, &window);
	iomap__mutex_unlock(&file->lock);
	if (more)
		read_window(file, &window, how, false);
}

void iomap__readahead_forget(struct iomap_file *file)
{
	iomap__ra_forget(&file->ra, &file->inode->i_engine->cache->ra_tables);
}

void iomap__readahead_advise(struct iomap_file *file, unsigned advice)
{
	iomap__mutex_lock(&file->lock);
	iomap__readahead_forget(file);
	iomap__store(&file->ra.advice, advice);
	iomap__mutex_unlock(&file->lock);
}

size_t iomap__readahead_batch(const struct iomap_file *file)
{
	return (size_t)batch_pages(file) << IOMAP_PAGE_SHIFT;
}

bool iomap__readahead_range(struct iomap_file *file, int64_t pos, size_t len)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	uint64_t unit = 1ULL << mapping->min_order, first = (uint64_t)pos >> IOMAP_PAGE_SHIFT, end;
	int64_t size = iomap_i_size_read(file->inode);
	struct iomap__ra_window window = { .asked = 0, .asked_end = UINT64_MAX };

	if (pos < 0 || pos >= size || !len || !mapping->a_ops->readahead ||
	    iomap__engine_closed(file->inode->i_engine))
		return false;
	end = iomap__end_index(pos + (int64_t)iomap__min(len, (uint64_t)(size - pos)));
	end = iomap__min(end, first + batch_pages(file));
	window.first = iomap__round_down(first, unit);
	window.end = iomap__round_up(end, unit);
	if (iomap__index_gap(mapping, first, end) < end)
		read_pages(file, &window, 0);
	return true;
}

struct iomap_folio *iomap_readahead_folio(struct iomap_readahead_control *rac)
{
	struct iomap_folio *folio;

	if (!rac->_nr_pages)
		return NULL;
	/* ours: in the index, locked, referenced by iomap__filemap_add() */
	folio = iomap__filemap_get(rac->mapping, rac->_index);
	iomap__assert(folio && iomap_folio_test_locked(folio));
	iomap_folio_put(folio);
	/* locked and in the index it stays, so the window's own reference is not needed */
	iomap_folio_put(folio);
	rac->_index += 1ULL << folio->order;
	rac->_nr_pages -= (uint32_t)iomap__min(1U << folio->order, rac->_nr_pages);
	return folio;
}

int64_t iomap_readahead_pos(const struct iomap_readahead_control *rac)
{
	return (int64_t)(rac->_index << IOMAP_PAGE_SHIFT);
}

size_t iomap_readahead_length(const struct iomap_readahead_control *rac)
{
	return (size_t)rac->_nr_pages << IOMAP_PAGE_SHIFT;
}
