/* SPDX-License-Identifier: MIT */
/*
 * write_hit.h - the folio of an overwrite: found and locked by one look-up and one
 * compare-and-swap, unlocked by another; part of cache.h, which includes it.
 *
 * The word that a copying reader takes for the version is the writer's lock as well, so both
 * are moved together:
 *
 *	free, version v  --lock-->  LOCKED | CHANGING, version v  --unlock-->  free, version v + 1
 *
 * which is iomap_folio_lock() with iomap__folio_begin_change(), and their two ends, in half the
 * number of atomic operations.  What hit.h says of readers holds: CHANGING is in the word
 * before the first byte changes (the fence behind the lock), and the version has moved when the
 * word is free again (release).
 *
 * No reference is taken, and no epoch entered: the look-up gives a hint (hit.h), a pointer to
 * some descriptor, which is memory of its kind for ever (arena.c); it may have become another
 * folio's, or nobody's, before its lock was ours.  From then on it stays what it is: eviction,
 * truncation and splitting hold the lock while they change what a folio is, and a new owner
 * takes it before it gives the folio an address space.  So its address space and place,
 * read under the lock, tell whether it is the one that was looked for; and the index's
 * own reference keeps it there for as long as we hold the lock.  A lock that was taken of
 * somebody else's folio is given back at once, with one version more, which costs a reader of
 * it a second look.
 *
 * Whatever is in the way (locked, waited for, not uptodate, not found) is left to the ordinary
 * way, iomap__filemap_grab(), which waits, and keeps the lock order; what is done here never
 * waits for a lock, so it cannot deadlock.
 *
 * Writers of one folio come one after the other, for as long as their copies take.  A folio of
 * 64 KiB and less, which is what streams make by default, is copied in a few microseconds; to
 * sleep and to be woken takes ten times as long, and whoever unlocks has to make a system call
 * for it.  So one that meets another's copy looks for a while whether it is over.
 */
#ifndef IOMAP__CACHE_WRITE_HIT_H
#define IOMAP__CACHE_WRITE_HIT_H

/* A folio locked to be written to at a byte, and announced to copying readers. */
struct iomap__write_hit {
	struct iomap_folio *folio;
	char *mem;	/* the byte */
	size_t off;	/* of it in the folio */
	size_t bytes;	/* from it to the folio's end */
	uint32_t flags; /* the folio's */
};

/* Any of these in the lock word: the folio is not there to be taken at once. */
#define IOMAP__FOLIO_BUSY (IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_WAITERS | IOMAP__FOLIO_CHANGING)

static inline void iomap__write_hit_unlock(struct iomap__write_hit *hit)
{
	struct iomap_folio *folio = hit->folio;
	uint64_t word = atomic_load_explicit(&folio->lock, memory_order_relaxed);

	iomap__assert(word & IOMAP__FOLIO_LOCKED && word & IOMAP__FOLIO_CHANGING);
	iomap__folio_note_unlock(folio);
	/*
	 * CHANGING once more carries one into the version (iomap__folio_end_change()).  Behind
	 * this the folio may be another's.  A waiter has to be woken, by the ordinary way.
	 */
	if (iomap__likely(!(word & IOMAP__FOLIO_WAITERS)) &&
	    iomap__likely(atomic_compare_exchange_strong_explicit(
		    &folio->lock, &word, word + IOMAP__FOLIO_CHANGING - IOMAP__FOLIO_LOCKED,
		    memory_order_release, memory_order_relaxed)))
		return;
	iomap__folio_end_change(folio);
	iomap_folio_unlock(folio);
}

/*
 * The slot of the folio that holds byte @pos, which will be written to, or 0.  Its descriptor and
 * the byte are asked for: what the caller does before it takes the lock is done while they come.
 */
static inline uintptr_t iomap__write_hit_find(const struct iomap_file *file, int64_t pos)
{
	uintptr_t entry = iomap__index_hint(&file->inode->i_data,
					    (uint64_t)pos >> IOMAP_PAGE_SHIFT);

	__builtin_prefetch(iomap__entry_folio(entry), 1);
	__builtin_prefetch(iomap__hit_address(file, entry, pos), 1);
	return entry;
}

/*
 * Lock the folio of @entry, which is not 0, if that takes no waiting, it holds byte @pos, and its
 * flags are, of @mask, @flags, of which UPTODATE is one; false: it does not.  May be called with
 * folios locked.
 */
static inline bool iomap__write_hit_lock(const struct iomap_file *file, uintptr_t entry,
					 int64_t pos, uint32_t mask, uint32_t flags,
					 struct iomap__write_hit *hit)
{
	struct iomap_folio *folio = iomap__entry_folio(entry);
	uint64_t word;

	hit->folio = folio;
	hit->mem = iomap__hit_address(file, entry, pos);
	word = atomic_load_explicit(&folio->lock, memory_order_relaxed);
	/* acquire: pairs with the release of whoever has unlocked it */
	if (iomap__unlikely(word & IOMAP__FOLIO_BUSY) ||
	    iomap__unlikely(!atomic_compare_exchange_strong_explicit(
		    &folio->lock, &word, word | IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_CHANGING,
		    memory_order_acquire, memory_order_relaxed)))
		return false;
	/* CHANGING before the stores that follow; pairs with the fence of copying readers */
	IOMAP__FENCE(memory_order_release);
	iomap__folio_note_lock(folio, true);
	hit->flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
	if (iomap__unlikely(atomic_load_explicit(&folio->mapping, memory_order_acquire) !=
			    &file->inode->i_data) ||
	    iomap__unlikely(atomic_load_explicit(&folio->place, memory_order_relaxed) !=
			    iomap__hit_place(entry, pos)) ||
	    iomap__unlikely((hit->flags & mask) != flags)) {
		iomap__write_hit_unlock(hit);
		return false;
	}
	hit->off = (size_t)((uint64_t)pos & (iomap__entry_bytes(entry) - 1));
	hit->bytes = (size_t)iomap__entry_bytes(entry) - hit->off;
	return true;
}

/* How often a writer looks before it sleeps: some ten microseconds. */
#define IOMAP__WRITE_HIT_SPINS 512U

/*
 * The folio could not be locked.  True, when another writer was copying into it and is done; *spins
 * is what is left of the patience.  Relaxed: whoever locks it then acquires.
 */
static inline bool iomap__write_hit_pause(const struct iomap_folio *folio, unsigned *spins)
{
	bool busy = false;

	while (*spins) {
		uint64_t word = atomic_load_explicit(&folio->lock, memory_order_relaxed);

		if (!(word & IOMAP__FOLIO_BUSY))
			return busy;
		/* I/O, which takes longer, or somebody who sleeps and comes first */
		if (word & IOMAP__FOLIO_WAITERS || !(word & IOMAP__FOLIO_CHANGING))
			return false;
		busy = true;
		(*spins)--;
		iomap__cpu_relax();
	}
	return false;
}

/* What is locked has been written to, which counts; what is noted in its flags is seen to. */
static inline void iomap__write_hit_count(const struct iomap_file *file,
					  const struct iomap__write_hit *hit, unsigned how)
{
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, 1);
	if (!(hit->flags & IOMAP__FOLIO_ACCESSED))
		iomap__folio_accessed(hit->folio, hit->flags, how);
	if (hit->flags & IOMAP__FOLIO_COUNTED)
		iomap__folio_counted_hit(&file->inode->i_data);
}

#endif
