/* SPDX-License-Identifier: MIT */
/*
 * readahead.c - windows of folios read before they are asked for.
 *
 * Each opener has one window: [start, start + size) pages, of which the last `async` lie
 * behind a mark.  A read that misses where the last one ended starts a window of twice its
 * own length; a read that meets the mark starts the next window, twice as long up to the
 * limit, while this one is consumed.  A miss anywhere else reads what was asked for and no
 * more.  The state is read and written without a lock: threads that share an opener can at
 * worst guess badly.
 *
 * The folios of a window are put into the index locked and not uptodate, then given to
 * a_ops->readahead, which starts their I/O and unlocks them when it ends.
 *
 * Large folios.  Each is as large as the pages that are to be read, its place and the memory
 * at hand allow.  So that a stream comes to be in folios of the largest size, its windows end at
 * a multiple of the folios that fill them: of the largest size, once the window has that
 * length, and the limit of a window is never less than one.  What is read at random is no more
 * than was asked for, rounded to blocks, in large folios too if it is long.
 */
#include "cache/internal.h"

/* Window limit of the file, in pages. */
static uint64_t window_max(const struct iomap_file *file)
{
	const struct iomap_engine *engine = file->inode->i_engine;
	uint64_t pages = engine->opts.readahead_bytes >> IOMAP_PAGE_SHIFT;

	/* a window must not fill a small cache by itself; nor does the largest folio */
	return iomap__max(1ULL << iomap__mapping_max_order(&file->inode->i_data),
			  iomap__min(pages, atomic_load(&engine->cache->nr_pages) / 16));
}

/* Where a stream's window that begins at @start and has @size pages is to end. */
static uint64_t window_end(const struct iomap_file *file, uint64_t start, uint64_t size)
{
	const struct iomap_address_space *mapping = &file->inode->i_data;
	unsigned order = iomap__mapping_max_order(mapping);

	while (order > mapping->min_order && 1ULL << order > size)
		order--;
	return iomap__round_up(start + size, 1ULL << order);
}

static void submit_batch(struct iomap_file *file, uint64_t first, uint32_t nr)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	struct iomap_readahead_control rac = {
		.file = file, .mapping = mapping, ._index = first, ._nr_pages = nr
	};
	struct iomap_folio *folio;

	if (!nr)
		return;
	iomap__mapping_count(mapping, IOMAP__ISTAT_RA_BYTES, (uint64_t)nr << IOMAP_PAGE_SHIFT);
	iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_RA_BYTES,
			   (uint64_t)nr << IOMAP_PAGE_SHIFT);
	mapping->a_ops->readahead(&rac);
	/* what the callback did not take stays cached, not uptodate, and is read when asked for */
	while ((folio = iomap_readahead_folio(&rac)))
		iomap_folio_unlock(folio);
}

/* A stretch of pages that are not cached: what is put into the index of it. */
struct stretch {
	uint64_t asked, mark; /* folios from `asked` on were not asked for; that of `mark` has it */
	uint64_t batch;	      /* first page that was not submitted yet */
	uint32_t nr;	      /* pages from there on */
	bool dontcache;	      /* they go when they have been read */
};

/* Fill [index, end) with folios.  Returns where it came to: a cached page, or no memory. */
static uint64_t fill_stretch(struct iomap_address_space *mapping, struct stretch *s,
			     uint64_t index, uint64_t end)
{
	s->batch = index;
	s->nr = 0;
	while (index < end) {
		struct iomap_folio *folio;
		uint64_t pages;

		/* no memory at hand: what is needed will be read when it is */
		if (iomap__filemap_add_upto(mapping, index, end, false, &folio))
			break;
		pages = 1ULL << folio->order;
		if (s->mark - index < pages)
			iomap__folio_set(folio, IOMAP__FOLIO_RA_MARK);
		if (index >= s->asked)
			iomap__folio_set(folio, IOMAP__FOLIO_RA_UNUSED);
		if (s->dontcache)
			iomap__folio_set(folio, IOMAP__FOLIO_DONTCACHE);
		index += pages;
		s->nr += (uint32_t)pages;
	}
	return index;
}

/*
 * Read pages [first, end) that are not cached and not past EOF; the folio that holds @mark
 * gets the mark (UINT64_MAX: none), those from @asked on count as not asked for.  Inside a plug.
 */
static void read_pages(struct iomap_file *file, uint64_t first, uint64_t end, uint64_t asked,
		       uint64_t mark, unsigned how)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	uint64_t unit = 1ULL << mapping->min_order;
	struct stretch s = { .asked = asked, .mark = mark, .dontcache = how & IOMAP_DONTCACHE };
	int64_t size = iomap_i_size_read(file->inode);

	if (size <= 0)
		return;
	first = iomap__round_down(first, unit);
	end = iomap__min(end, ((uint64_t)(size - 1) >> IOMAP_PAGE_SHIFT) + 1);
	end = iomap__round_up(end, unit);
	while (first < end) {
		uint64_t next = iomap__index_next(mapping, first, end), at;

		at = fill_stretch(mapping, &s, first, next);
		submit_batch(file, s.batch, s.nr);
		if (at < next && iomap__index_next(mapping, at, next) > at)
			break;
		first = iomap__index_gap(mapping, at, end);
	}
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

/* The same by itself. */
static void read_window(struct iomap_file *file, uint64_t first, uint64_t end, uint64_t asked,
			uint64_t mark, unsigned how)
{
	struct iomap_plug plug;

	iomap_start_plug(&plug);
	read_pages(file, first, end, asked, mark, how);
	iomap__readahead_unplug(&plug, file->inode->i_engine);
}

void iomap__readahead_miss(struct iomap_file *file, uint64_t index, uint64_t nr, unsigned how)
{
	struct iomap__ra_state *ra = &file->ra;
	uint64_t max = window_max(file);
	uint64_t prev = iomap__load(&ra->prev_index);
	uint64_t end = iomap__load(&ra->start) + iomap__load(&ra->size);
	uint64_t size, async;
	bool sequential = index == 0 || index == prev + 1 || index == prev || index == end;

	nr = iomap__max(nr, 1);
	if (!sequential) {
		nr = iomap__min(nr, max);
		iomap__store(&ra->size, 0);
		iomap__store(&ra->prev_index, index + nr - 1);
		read_window(file, index, index + nr, UINT64_MAX, UINT64_MAX, how);
		return;
	}
	size = iomap__min(iomap__max(nr * 2, 4), max);
	size = window_end(file, index, size) - index;
	nr = iomap__min(nr, size);
	async = size - nr;
	iomap__store(&ra->start, index);
	iomap__store(&ra->size, (uint32_t)size);
	iomap__store(&ra->async, (uint32_t)async);
	iomap__store(&ra->prev_index, index + size - 1);
	/* with nothing ahead of the request the mark is its own last page */
	read_window(file, index, index + size, index + nr, index + size - (async ? async : 1), how);
}

size_t iomap__readahead_window(const struct iomap_file *file)
{
	return (size_t)window_max(file) << IOMAP_PAGE_SHIFT;
}

bool iomap__readahead_range(struct iomap_file *file, int64_t pos, size_t len)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	uint64_t first = (uint64_t)pos >> IOMAP_PAGE_SHIFT, end;
	int64_t size = iomap_i_size_read(file->inode);

	if (pos < 0 || pos >= size || !len || !mapping->a_ops->readahead ||
	    iomap__engine_closed(file->inode->i_engine))
		return false;
	end = iomap__end_index(pos + (int64_t)iomap__min(len, (uint64_t)(size - pos)));
	end = iomap__min(end, first + window_max(file));
	if (iomap__index_gap(mapping, first, end) < end)
		read_pages(file, first, end, UINT64_MAX, UINT64_MAX, 0);
	return true;
}

void iomap__readahead_mark(struct iomap_file *file, uint64_t index, unsigned how)
{
	struct iomap__ra_state *ra = &file->ra;
	uint64_t max = window_max(file);
	uint64_t start = iomap__load(&ra->start), size = iomap__load(&ra->size);

	if (index >= start && index < start + size) {
		start += size;
		size = iomap__min(size * 2, max);
	} else {
		/* another stream's mark: go on from it, at full length */
		start = index + 1;
		size = max;
	}
	size = window_end(file, start, size) - start;
	iomap__store(&ra->start, start);
	iomap__store(&ra->size, (uint32_t)size);
	iomap__store(&ra->async, (uint32_t)size);
	iomap__store(&ra->prev_index, start + size - 1);
	read_window(file, start, start + size, start, start, how);
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
