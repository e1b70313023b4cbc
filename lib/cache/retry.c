/* SPDX-License-Identifier: MIT */
/*
 * retry.c - dirty data that could not be written, of inodes that keep it
 * (IOMAP_INODE_RETRY_WRITES).
 *
 * A folio whose writeback fails is dirty again and HELD_BACK before that ends, so that nobody finds
 * it clean in between: it is neither evicted nor taken for written.  The completion that does so
 * holds no lock of the folio, whose holder may wait for it.  It has to do with
 *	a writer	who sets the same flag and tag: each counts what it has changed
 *	new block state	see ifs.c
 *	writepages	which leaves alone what is under writeback, and takes no tag off a
 *			folio that is dirty
 *
 * Pages that are HELD_BACK are counted, for the address space and for the cache: what has failed
 * and is not being tried just now.  A writer at the hard limit gets the error when they alone
 * are beyond it (throttle.c).
 *
 * When it is tried again is a matter of the address space: its retry_ns.  Before that background
 * writeback passes these folios by, and writes the others.  The first wait is one flush interval;
 * it doubles when a try that came when it was due failed as well.  A failure before it was due is
 * one more of the same try, or an fsync's, and moves nothing.  One that comes much later than it
 * was due is another story, and begins anew.
 *
 * Locks: tree_lock guards retry_ns, retry_shift and retry_errno where they are changed.
 */
#include "cache/internal.h"

/* ---- folios ---- */

void iomap__count_failed(struct iomap_folio *folio, uint32_t old, bool failed)
{
	struct iomap_address_space *mapping;

	if (iomap__likely(!(old & IOMAP__FOLIO_HELD_BACK) != failed))
		return;
	mapping = iomap_folio_mapping(folio);
	if (!iomap__inode_retries(mapping->host))
		return;
	if (failed) {
		iomap__fetch_add(&mapping->nr_failed_pages, iomap__folio_pages(folio));
		atomic_fetch_add(&folio->cache->nr_failed, iomap__folio_pages(folio));
	} else {
		iomap__fetch_sub(&mapping->nr_failed_pages, iomap__folio_pages(folio));
		atomic_fetch_sub(&folio->cache->nr_failed, iomap__folio_pages(folio));
	}
}

void iomap__folio_not_failed(struct iomap_folio *folio)
{
	uint32_t old = atomic_fetch_and(&folio->flags, ~IOMAP__FOLIO_HELD_BACK);

	iomap__count_failed(folio, old, false);
}

/*
 * Under writeback, so that nobody takes tags off, or writes it, meanwhile; but somebody may hold
 * its lock, and dirty it.
 */
void iomap__folio_failed(struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);
	uint64_t pages = iomap__folio_pages(folio);
	uint32_t old;
	bool fresh;

	old = atomic_fetch_or(&folio->flags, IOMAP__FOLIO_DIRTY | IOMAP__FOLIO_HELD_BACK);
	iomap__count_failed(folio, old, true);
	iomap__tree_lock(mapping);
	fresh = iomap__index_set_tag(mapping, iomap_folio_index(folio), IOMAP__TAG_DIRTY);
	if (fresh)
		__atomic_fetch_add(&mapping->nr_dirty_pages, pages, __ATOMIC_SEQ_CST);
	iomap__tree_unlock(mapping);
	if (fresh)
		atomic_fetch_add(&folio->cache->nr_dirty, pages);
	iomap__inode_put_dirty(mapping->host);
}

/* ---- time ---- */

#define RETRY_SHIFT_MAX 6

static uint64_t retry_wait_ns(const struct iomap_engine *engine, unsigned shift)
{
	return ((uint64_t)engine->opts.flush_interval_ms * 1000000) << shift;
}

/* So that not all come at once to a device that has just come back. */
static uint64_t retry_random(const struct iomap_address_space *mapping, uint64_t now)
{
	uint64_t x = now + mapping->number * 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

void iomap__mapping_failed(struct iomap_address_space *mapping, int error)
{
	struct iomap_engine *engine = mapping->host->i_engine;
	uint64_t now = iomap__now_ns(&engine->env), wait, due;
	unsigned shift;

	iomap__tree_lock(mapping);
	shift = mapping->retry_shift;
	due = iomap__load(&mapping->retry_ns);
	/* before it: more of the same try, or an fsync's */
	if (!due || now >= due) {
		/* a try that came when it was due and succeeded would have been the end of it */
		if (due && now - due <= retry_wait_ns(engine, shift))
			shift = iomap__min(shift + 1, RETRY_SHIFT_MAX);
		else
			shift = 0;
		mapping->retry_shift = (uint8_t)shift;
		wait = retry_wait_ns(engine, shift);
		wait += retry_random(mapping, now) % (wait / 4 + 1);
		iomap__store(&mapping->retry_ns, now + wait);
	}
	iomap__store(&mapping->retry_errno, error == -ENOSPC ? ENOSPC : EIO);
	iomap__tree_unlock(mapping);
	atomic_store(&engine->cache->failed_errno, error == -ENOSPC ? ENOSPC : EIO);
}

void iomap__mapping_put_off(struct iomap_address_space *mapping, uint64_t ns)
{
	iomap__tree_lock(mapping);
	iomap__store(&mapping->retry_ns, ns);
	iomap__tree_unlock(mapping);
}

bool iomap__mapping_waits(const struct iomap_address_space *mapping)
{
	return iomap__load(&mapping->nr_failed_pages) &&
	       iomap__now_ns(&mapping->host->i_engine->env) < iomap__load(&mapping->retry_ns);
}
