/* SPDX-License-Identifier: MIT */
/*
 * dirty.c - dirty and writeback state of folios, and its accounting.
 *
 * A folio's flags are changed with its lock held, but for the end of writeback, which runs
 * in completions.  Flag, tag and counters of one change are made in this order: flag, then
 * under tree_lock tag and the address space's counters, then the cache's counters.  A count
 * of dirty pages is one of tags: it falls only when the folio's writeback is queued, so that
 * an fsync which finds it 0 has WRITEBACK tags to wait for.
 *
 * The end of writeback clears flag and tag in one hold of tree_lock, and does nothing with
 * the address space after it has let go of it: whoever destroys the inode takes tree_lock
 * once more for the folio and so comes after it.
 *
 * wb_seq moves whenever a folio leaves writeback or stops being dirty, but not when all of it
 * was held back; writers over the limit and allocations wait on it.
 *
 * The end of writeback may be left to a work function (iomap_finish_ioends()).  There may be no
 * worker to run it, and where there are some, all may be waiting here, or for a lock that a thread
 * holds which waits here.  So who waits runs it, whoever that is, and sleeps on a word that moves
 * when such work is queued as well, not on the folio's flags.  These words are several
 * (end_wait), so that not everybody is woken at each end that one waits for.
 */
#include "cache/internal.h"

/* A wait for writeback is looked at again after this long: what is waited for may be a
 * lock or a pin, which do not move wb_seq. */
#define WB_WAIT_NS 10000000

void iomap__wb_progress(struct iomap__cache *cache)
{
	/* seq_cst pairs with iomap__wb_wait(): a waiter counts itself, then looks at wb_seq */
	__atomic_fetch_add(&cache->wb_seq, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&cache->nr_wb_waiters))
		iomap__io_wake(iomap__cache_blk(cache), &cache->wb_seq);
}

/* A folio's; its address is all that is needed. */
static unsigned end_bucket(const struct iomap__cache *cache, const struct iomap_folio *folio)
{
	return (size_t)(folio - cache->folios) % IOMAP__END_BUCKETS;
}

/* Those who wait for a folio of this bucket look again. */
static void wake_end_waiters(struct iomap__cache *cache, unsigned bucket)
{
	/*
	 * Not a load: of this and wait_end()'s one comes first, and the other sees it; so the waiter
	 * sees what has changed, or we see the waiter.
	 */
	if (!atomic_fetch_add(&cache->end_wait[bucket].waiters, 0))
		return;
	iomap__fetch_add(&cache->end_wait[bucket].seq, 1);
	iomap__io_wake(iomap__cache_blk(cache), &cache->end_wait[bucket].seq);
}

void iomap__wb_end_queued(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;

	/* as above: a waiter is in its bucket before it is counted here, and then looks */
	if (atomic_fetch_add(&cache->nr_end_waiters, 0))
		for (unsigned i = 0; i < IOMAP__END_BUCKETS; i++)
			wake_end_waiters(cache, i);
	iomap__wb_progress(cache);
}

bool iomap__wb_wait(struct iomap__cache *cache, unsigned class, uint32_t seq)
{
	return cache->late_end(cache->engine, class) || iomap__wb_sleep(cache, seq);
}

bool iomap__wb_sleep(struct iomap__cache *cache, uint32_t seq)
{
	bool moved = true;

	atomic_fetch_add(&cache->nr_wb_waiters, 1);
	if (__atomic_load_n(&cache->wb_seq, __ATOMIC_SEQ_CST) == seq)
		moved = iomap__io_wait_timeout(iomap__cache_blk(cache), &cache->wb_seq, seq,
					       WB_WAIT_NS);
	atomic_fetch_sub(&cache->nr_wb_waiters, 1);
	return moved;
}

bool iomap__filemap_dirty_folio(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	struct iomap__cache *cache = folio->cache;
	bool fresh;

	if (iomap__folio_test(folio, IOMAP__FOLIO_DIRTY))
		return false;
	iomap__assert_msg(mapping->a_ops->writepages, "dirty data that nobody could write");
	iomap__folio_set(folio, IOMAP__FOLIO_DIRTY);
	iomap__tree_lock(mapping);
	fresh = iomap__index_set_tag(mapping, iomap_folio_index(folio), IOMAP__TAG_DIRTY);
	/* seq_cst pairs with the flusher taking the inode off its list */
	if (fresh)
		__atomic_fetch_add(&mapping->nr_dirty_pages, iomap__folio_pages(folio), __ATOMIC_SEQ_CST);
	iomap__tree_unlock(mapping);
	if (fresh) {
		atomic_fetch_add(&cache->nr_dirty, iomap__folio_pages(folio));
		iomap__throttle_dirtied(cache, iomap__folio_pages(folio));
	}
	iomap__inode_put_dirty(mapping->host);
	return true;
}

/* Take DIRTY, unless the folio is dirty, and TOWRITE off. */
static void clear_dirty_tags(struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);
	uint64_t index = iomap_folio_index(folio);
	bool cleared = false;

	iomap__tree_lock(mapping);
	iomap__index_clear_tag(mapping, index, IOMAP__TAG_TOWRITE);
	if (!iomap__folio_test(folio, IOMAP__FOLIO_DIRTY))
		cleared = iomap__index_clear_tag(mapping, index, IOMAP__TAG_DIRTY);
	if (cleared)
		__atomic_fetch_sub(&mapping->nr_dirty_pages, iomap__folio_pages(folio), __ATOMIC_SEQ_CST);
	iomap__tree_unlock(mapping);
	if (cleared)
		atomic_fetch_sub(&folio->cache->nr_dirty, iomap__folio_pages(folio));
}

bool iomap__folio_clear_dirty_for_io(struct iomap_folio *folio)
{
	uint32_t old = atomic_fetch_and_explicit(&folio->flags,
						 ~(IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_HELD_BACK),
						 memory_order_acq_rel);

	iomap__assert(iomap_folio_test_locked(folio));
	iomap__count_failed(folio, old, false);
	return old & IOMAP__FOLIO_DIRTY;
}

void iomap__folio_cancel_dirty(struct iomap_folio *folio)
{
	if (!iomap__folio_clear_dirty_for_io(folio))
		return;
	clear_dirty_tags(folio);
	iomap__wb_progress(folio->cache);
}

void iomap__folio_start_writeback(struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);
	uint32_t old;

	iomap__assert(iomap_folio_test_locked(folio));
	iomap_folio_get(folio);
	iomap__tree_lock(mapping);
	old = atomic_fetch_or_explicit(&folio->flags, IOMAP__FOLIO_WRITEBACK,
				       memory_order_acq_rel);
	iomap__assert_msg(!(old & IOMAP__FOLIO_WRITEBACK), "folio is already under writeback");
	iomap__index_set_tag(mapping, iomap_folio_index(folio), IOMAP__TAG_WRITEBACK);
	iomap__fetch_add(&mapping->nr_writeback_pages, iomap__folio_pages(folio));
	iomap__tree_unlock(mapping);
	atomic_fetch_add(&folio->cache->nr_writeback, iomap__folio_pages(folio));
}

void iomap__folio_writeback_queued(struct iomap_folio *folio)
{
	iomap__assert(iomap_folio_test_locked(folio));
	clear_dirty_tags(folio);
}

void iomap__folio_held_back(struct iomap_folio *folio)
{
	iomap__assert(iomap_folio_test_locked(folio) && iomap_folio_test_dirty(folio));
	iomap__count_failed(folio, atomic_fetch_or(&folio->flags, IOMAP__FOLIO_HELD_BACK), true);
}

void iomap__folio_end_writeback(struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);
	struct iomap__cache *cache = folio->cache;
	uint32_t gone = IOMAP__FOLIO_WRITEBACK | IOMAP__FOLIO_WB_WAITERS | IOMAP__FOLIO_WAITS;
	uint64_t pages = iomap__folio_pages(folio);
	uint32_t old;

	/* it was written in pieces, perhaps; what comes from now on is another use */
	if (iomap__folio_test(folio, IOMAP__FOLIO_ONCE))
		gone |= IOMAP__FOLIO_ONCE | IOMAP__FOLIO_ACCESSED;
	iomap__tree_lock(mapping);
	iomap__index_clear_tag(mapping, iomap_folio_index(folio), IOMAP__TAG_WRITEBACK);
	iomap__fetch_sub(&mapping->nr_writeback_pages, iomap__folio_pages(folio));
	old = atomic_fetch_and_explicit(&folio->flags, ~gone, memory_order_acq_rel);
	iomap__assert_msg(old & IOMAP__FOLIO_WRITEBACK, "folio is not under writeback");
	if (old & IOMAP__FOLIO_WAITS)
		iomap__policy_written(folio);
	/*
	 * With the flag, or iomap__filemap_referenced() would take it for somebody's.  Not the
	 * last one: the index has its own, which goes under tree_lock.  From here on the folio
	 * is only an address.
	 */
	iomap_folio_put(folio);
	iomap__tree_unlock(mapping);
	atomic_fetch_sub(&cache->nr_writeback, pages);
	/* relaxed: only to see how fast it grows */
	atomic_fetch_add_explicit(&cache->nr_written, pages, memory_order_relaxed);
	if (old & IOMAP__FOLIO_WB_WAITERS)
		wake_end_waiters(cache, end_bucket(cache, folio));
	/* or whoever waits for room would ask for the same folio again, and so without end */
	if (!(old & IOMAP__FOLIO_HELD_BACK))
		iomap__wb_progress(cache);
	/* last: an address is all that is needed of either */
	if (iomap__unlikely(old & IOMAP__FOLIO_DONTCACHE))
		iomap__folio_drop_behind(mapping, folio);
}

struct iomap__slow iomap__folio_slow(const struct iomap_folio *folio, const char *what)
{
	const struct iomap_address_space *mapping = iomap_folio_mapping(folio);

	return (struct iomap__slow){
		.begun_ns = iomap__now_ns(&folio->cache->engine->env),
		.what = what,
		.ino = mapping ? mapping->host->i_ino : 0,
		.pos = iomap_folio_pos(folio),
		.len = iomap__folio_bytes(folio),
	};
}

/* Until the folio's writeback has ended, perhaps; false: until the deadline. */
static bool wait_end(struct iomap_folio *folio, unsigned class, uint64_t deadline_ns)
{
	struct iomap__cache *cache = folio->cache;
	unsigned bucket = end_bucket(cache, folio);
	bool in_time = true;
	uint32_t seq, flags;

	/*
	 * Read-modify-write: pairs with that of wake_end_waiters().  In this order: who sees us
	 * counted looks into the buckets.
	 */
	atomic_fetch_add(&cache->end_wait[bucket].waiters, 1);
	atomic_fetch_add(&cache->nr_end_waiters, 1);
	seq = iomap__load_acquire(&cache->end_wait[bucket].seq);
	if (cache->late_end(cache->engine, class))
		goto out;
	flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	/* without WB_WAITERS it has ended, and begun again, whose end we would not be told */
	if (flags & IOMAP__FOLIO_WRITEBACK && flags & IOMAP__FOLIO_WB_WAITERS)
		in_time = iomap__io_wait_until(iomap__cache_blk(cache),
					       &cache->end_wait[bucket].seq, seq, deadline_ns);
out:
	atomic_fetch_sub(&cache->nr_end_waiters, 1);
	atomic_fetch_sub(&cache->end_wait[bucket].waiters, 1);
	return in_time;
}

/* False: the deadline (0: none) has passed. */
static bool writeback_wait(struct iomap_folio *folio, uint64_t deadline_ns)
{
	const struct iomap_address_space *mapping = iomap_folio_mapping(folio);
	/* NULL: it has ended by now, and the folio has gone */
	unsigned class = mapping ? mapping->host->i_class : 0;
	uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	bool in_time = true;

	while (flags & IOMAP__FOLIO_WRITEBACK) {
		if (!in_time)
			return false;
		if (!(flags & IOMAP__FOLIO_WB_WAITERS)) {
			if (!atomic_compare_exchange_weak_explicit(
				    &folio->flags, &flags, flags | IOMAP__FOLIO_WB_WAITERS,
				    memory_order_acquire, memory_order_acquire))
				continue;
		}
		in_time = wait_end(folio, class, deadline_ns);
		flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	}
	return true;
}

bool iomap__folio_wait_writeback_until(struct iomap_folio *folio, uint64_t deadline_ns)
{
	struct iomap__slow slow;
	bool over;

	if (!(atomic_load_explicit(&folio->flags, memory_order_acquire) & IOMAP__FOLIO_WRITEBACK))
		return true;
	slow = iomap__folio_slow(folio, "writeback");
	iomap__slow_wait(&slow);
	over = writeback_wait(folio, deadline_ns);
	iomap__slow_wait_end(&slow);
	return over;
}

void iomap_folio_wait_writeback(struct iomap_folio *folio)
{
	(void)iomap__folio_wait_writeback_until(folio, 0);
}

/* ---- ranges ---- */

/* What the callback needs so that data can be written may use the reserve: throttle.c. */
static int call_writepages(struct iomap_address_space *mapping,
			   struct iomap_writeback_control *wbc)
{
	struct iomap__thread *self = iomap__thread_self();
	int err;

	self->writing++;
	err = mapping->a_ops->writepages(mapping, wbc);
	self->writing--;
	return err;
}

int iomap__filemap_write_range(struct iomap_address_space *mapping, int64_t start, int64_t end,
			       enum iomap_writeback_sync_modes mode, uint32_t *deferred)
{
	struct iomap_writeback_control wbc = {
		.nr_to_write = INT64_MAX,
		.range_start = start,
		.range_end = end == INT64_MAX ? INT64_MAX : end - 1,
		.sync_mode = mode,
	};
	struct iomap_plug plug;
	int err;

	if (start >= end || !iomap__load_acquire(&mapping->nr_dirty_pages))
		return 0;
	iomap_start_plug(&plug);
	err = call_writepages(mapping, &wbc);
	iomap_finish_plug(&plug);
	if (deferred)
		*deferred += wbc.nr_deferred;
	return err;
}

int iomap__filemap_wait_range(struct iomap_address_space *mapping, int64_t start, int64_t end)
{
	uint64_t deadline_ns = iomap__thread_self()->deadline_ns;
	bool over = true;
	uint64_t index = (uint64_t)start >> IOMAP_PAGE_SHIFT, last = iomap__end_index(end);
	struct iomap_folio *folios[IOMAP__BATCH];
	unsigned nr;

	while (over && (nr = iomap__filemap_get_tagged(mapping, &index, last, IOMAP__TAG_WRITEBACK,
						       folios, IOMAP__BATCH)))
		for (unsigned i = 0; i < nr; i++) {
			over = over && iomap__folio_wait_writeback_until(folios[i], deadline_ns);
			iomap__folio_put_behind(mapping, folios[i]);
		}
	return over ? 0 : -ETIMEDOUT;
}

uint64_t iomap__write_some(struct iomap_address_space *mapping, uint64_t nr)
{
	struct iomap_writeback_control wbc = {
		.nr_to_write = (int64_t)nr,
		.range_end = INT64_MAX,
		.sync_mode = IOMAP_WB_SYNC_NONE,
	};
	struct iomap_plug plug;

	iomap_start_plug(&plug);
	/* its error is in wb_err, for fsync; a writer's own data is safe in the cache */
	(void)call_writepages(mapping, &wbc);
	iomap_finish_plug(&plug);
	return wbc.nr_to_write > 0 ? nr - (uint64_t)wbc.nr_to_write : nr;
}
