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
 */
#include "cache/internal.h"

/* Window limit of the file's engine, in pages. */
static uint64_t window_max(const struct iomap_file *file)
{
	const struct iomap_engine *engine = file->inode->i_engine;
	uint64_t pages = engine->opts.readahead_bytes >> IOMAP_PAGE_SHIFT;

	/* a window must not fill a small cache by itself */
	return iomap__max(1, iomap__min(pages, engine->cache->nr_pages / 16));
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
	iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_RA_BYTES,
			   (uint64_t)nr << IOMAP_PAGE_SHIFT);
	mapping->a_ops->readahead(&rac);
	/* what the callback did not take stays cached, not uptodate, and is read when asked for */
	while ((folio = iomap_readahead_folio(&rac)))
		iomap_folio_unlock(folio);
}

/*
 * Read pages [first, first + nr) that are not cached and not past EOF; the folio at @mark
 * gets the mark (UINT64_MAX: none), those from @asked on count as not asked for.
 */
static void read_window(struct iomap_file *file, uint64_t first, uint64_t nr, uint64_t asked,
			uint64_t mark)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	int64_t size = iomap_i_size_read(file->inode);
	uint64_t end, index, batch = first;
	struct iomap_plug plug;
	uint32_t in_batch = 0;

	if (size <= 0)
		return;
	end = iomap__min(first + nr, ((uint64_t)(size - 1) >> IOMAP_PAGE_SHIFT) + 1);
	iomap_start_plug(&plug);
	for (index = first; index < end; index++) {
		struct iomap_folio *folio;
		int err = iomap__filemap_add(mapping, index, false, &folio);

		if (err && err != -EEXIST)
			break; /* no memory at hand: what is needed will be read when it is */
		if (err) {
			submit_batch(file, batch, in_batch);
			in_batch = 0;
			continue;
		}
		if (index == mark)
			iomap__folio_set(folio, IOMAP__FOLIO_RA_MARK);
		if (index >= asked)
			iomap__folio_set(folio, IOMAP__FOLIO_RA_UNUSED);
		if (!in_batch++)
			batch = index;
	}
	submit_batch(file, batch, in_batch);
	iomap_finish_plug(&plug);
	/*
	 * Inside another plug, of a callback's data, these reads would stay in it: folios whose
	 * lock nobody gives back.  The thread may go on without waiting for them, and then for
	 * a lock of the application whose holder reads the same folios.
	 */
	if (plug.nested)
		iomap__plug_flush(mapping->host->i_engine->blk);
}

void iomap__readahead_miss(struct iomap_file *file, uint64_t index, uint64_t nr)
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
		read_window(file, index, nr, UINT64_MAX, UINT64_MAX);
		return;
	}
	size = iomap__min(iomap__max(nr * 2, 4), max);
	nr = iomap__min(nr, size);
	async = size - nr;
	iomap__store(&ra->start, index);
	iomap__store(&ra->size, (uint32_t)size);
	iomap__store(&ra->async, (uint32_t)async);
	iomap__store(&ra->prev_index, index + size - 1);
	/* with nothing ahead of the request the mark is its own last page */
	read_window(file, index, size, index + nr, index + size - (async ? async : 1));
}

void iomap__readahead_mark(struct iomap_file *file, uint64_t index)
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
	iomap__store(&ra->start, start);
	iomap__store(&ra->size, (uint32_t)size);
	iomap__store(&ra->async, (uint32_t)size);
	iomap__store(&ra->prev_index, start + size - 1);
	read_window(file, start, size, start, start);
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
