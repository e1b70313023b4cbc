/* SPDX-License-Identifier: MIT */
/*
 * folio.c - the folio as an object: lock word, references, flags, contents.
 *
 * The lock word.  LOCKED is taken by compare-and-swap and given back by one atomic and; a
 * thread that has to wait sets WAITERS and sleeps on the low half of the word in the parking
 * lot, completing I/O meanwhile, since what it waits for may be a read that nobody else
 * reaps.  A lock may be handed to a completion (iomap__folio_handoff()), which then unlocks
 * from another thread.
 *
 * CHANGING and the version: only the lock's holder moves them.  Every change of bytes that a
 * copying reader may look at, and the removal from the index, lies between begin_change and
 * end_change.  Filling a folio that is not uptodate needs neither, since readers look at
 * UPTODATE, after the version, before they copy.
 */
#include "cache/internal.h"

/* How often a lock is tried before the thread sleeps: a writer's copy is over by then. */
#define FOLIO_SPINS 64

int64_t iomap_folio_pos(const struct iomap_folio *folio)
{
	return (int64_t)(iomap_folio_index(folio) << IOMAP_PAGE_SHIFT);
}

size_t iomap_folio_size(const struct iomap_folio *folio)
{
	return iomap__folio_bytes(folio);
}

uint64_t iomap_folio_index(const struct iomap_folio *folio)
{
	return atomic_load_explicit(&folio->place, memory_order_relaxed) >> IOMAP_PAGE_SHIFT;
}

struct iomap_address_space *iomap_folio_mapping(const struct iomap_folio *folio)
{
	return atomic_load_explicit(&folio->mapping, memory_order_acquire);
}

struct iomap_inode *iomap_folio_inode(const struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);

	return mapping ? mapping->host : NULL;
}

bool iomap_folio_test_locked(const struct iomap_folio *folio)
{
	return atomic_load_explicit(&folio->lock, memory_order_relaxed) & IOMAP__FOLIO_LOCKED;
}

bool iomap_folio_test_uptodate(const struct iomap_folio *folio)
{
	return iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE);
}

bool iomap_folio_test_dirty(const struct iomap_folio *folio)
{
	return iomap__folio_test(folio, IOMAP__FOLIO_DIRTY);
}

bool iomap_folio_test_writeback(const struct iomap_folio *folio)
{
	return iomap__folio_test(folio, IOMAP__FOLIO_WRITEBACK);
}

void iomap_folio_mark_uptodate(struct iomap_folio *folio)
{
	/* release: the bytes come before the flag that lets readers at them */
	iomap__folio_set(folio, IOMAP__FOLIO_UPTODATE);
}

/* ---- references ---- */

void iomap_folio_get(struct iomap_folio *folio)
{
	uint32_t old = atomic_fetch_add_explicit(&folio->refs, 1, memory_order_relaxed);

	iomap__assert_msg(old, "iomap_folio_get without a reference");
	(void)old;
}

/* The last reference is gone. */
static __attribute__((noinline)) void folio_free(struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = folio->removed_from;

	folio->removed_from = NULL;
	iomap__arena_free(folio);
	/* release: pairs with iomap__filemap_quiesce(); the last touch of the address space */
	if (mapping)
		iomap__fetch_sub(&mapping->nr_removed, 1);
}

void iomap_folio_put(struct iomap_folio *folio)
{
	uint32_t old = atomic_fetch_sub_explicit(&folio->refs, 1, memory_order_acq_rel);

	iomap__assert_msg(old, "iomap_folio_put without a reference");
	if (iomap__unlikely(old == 1))
		folio_free(folio);
}

/* ---- lock ---- */

static bool lock_try(struct iomap_folio *folio)
{
	uint64_t word = atomic_load_explicit(&folio->lock, memory_order_relaxed);

	/* acquire: pairs with the release of iomap_folio_unlock() */
	return !(word & IOMAP__FOLIO_LOCKED) &&
	       atomic_compare_exchange_strong_explicit(&folio->lock, &word,
						       word | IOMAP__FOLIO_LOCKED,
						       memory_order_acquire, memory_order_relaxed);
}

#if IOMAP_DEBUG
static void witness_lock(struct iomap_folio *folio, bool trylock)
{
	struct iomap_address_space *mapping = iomap_folio_mapping(folio);

	/* a folio outside every index belongs to its allocator alone */
	iomap__witness_acquire(folio, IOMAP__RANK_FOLIO, mapping ? mapping->host->i_class : 0,
			       trylock || !mapping, mapping, iomap_folio_index(folio));
}

void iomap__folio_note_lock(struct iomap_folio *folio, bool trylock)
{
	iomap__count(locks_nr);
	iomap__count(folio_locks_nr);
	witness_lock(folio, trylock);
}

void iomap__folio_note_unlock(struct iomap_folio *folio)
{
	if (iomap__witness_holds(folio))
		iomap__witness_release(folio);
}
#else
#define witness_lock(folio, trylock) ((void)0)
#endif

bool iomap_folio_trylock(struct iomap_folio *folio)
{
	if (!lock_try(folio))
		return false;
	iomap__folio_note_lock(folio, true);
	return true;
}

/* False: the deadline (0: none) has passed. */
static bool lock_wait(struct iomap_folio *folio, uint64_t deadline_ns)
{
	struct iomap__blk *blk = iomap__cache_blk(folio->cache);
	bool in_time = true;

	for (;;) {
		uint64_t word = atomic_load_explicit(&folio->lock, memory_order_relaxed);

		if (!(word & IOMAP__FOLIO_LOCKED)) {
			if (lock_try(folio))
				return true;
			continue;
		}
		if (!in_time)
			return false;
		if (!(word & IOMAP__FOLIO_WAITERS) &&
		    !atomic_compare_exchange_strong_explicit(&folio->lock, &word,
							     word | IOMAP__FOLIO_WAITERS,
							     memory_order_relaxed,
							     memory_order_relaxed))
			continue;
		in_time = iomap__io_wait_until(blk, iomap__folio_lock_key(folio),
					       (uint32_t)(word | IOMAP__FOLIO_WAITERS),
					       deadline_ns);
	}
}

static bool lock_slow(struct iomap_folio *folio, uint64_t deadline_ns)
{
	/* what unlocks it may not even have been sent: park.c */
	int spins = iomap__thread_self()->expect ? 0 : FOLIO_SPINS;
	struct iomap__slow slow;
	bool locked;

	for (int i = 0; i < spins; i++) {
		if (lock_try(folio))
			return true;
		iomap__cpu_relax();
	}
	slow = iomap__folio_slow(folio, "read (or a lock)");
	iomap__slow_wait(&slow);
	locked = lock_wait(folio, deadline_ns);
	iomap__slow_wait_end(&slow);
	return locked;
}

bool iomap__folio_lock_until(struct iomap_folio *folio, uint64_t deadline_ns)
{
	iomap__folio_note_lock(folio, false);
	if (iomap__likely(lock_try(folio)))
		return true;
	/* not yet ours: a completion that this thread reaps may be what unlocks it */
	iomap__witness_disown(folio);
	if (!lock_slow(folio, deadline_ns))
		return false;
	witness_lock(folio, false);
	return true;
}

void iomap_folio_lock(struct iomap_folio *folio)
{
	(void)iomap__folio_lock_until(folio, 0);
}

void iomap_folio_unlock(struct iomap_folio *folio)
{
	struct iomap__cache *cache = folio->cache;
	struct iomap__blk *blk = iomap__cache_blk(cache);
	uint64_t old;

	iomap__folio_note_unlock(folio);
	/*
	 * After this the folio may be another's; only its address is used, as a key.  Acquire:
	 * pairs with iomap__folio_await().
	 */
	old = atomic_fetch_and_explicit(&folio->lock,
					~(uint64_t)(IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_WAITERS),
					memory_order_acq_rel);
	iomap__assert_msg(old & IOMAP__FOLIO_LOCKED, "iomap_folio_unlock of an unlocked folio");
	iomap__assert_msg(!(old & IOMAP__FOLIO_CHANGING), "folio unlocked in mid-change");
	if (iomap__unlikely(old & IOMAP__FOLIO_WAITERS)) {
		iomap__io_wake(blk, iomap__folio_lock_key(folio));
		iomap__folio_unlocked(cache, folio);
	}
}

void iomap__folio_handoff(struct iomap_folio *folio)
{
	iomap__witness_disown(folio);
	(void)folio;
}

/* ---- contents ---- */

void iomap__folio_begin_change(struct iomap_folio *folio)
{
	uint64_t old = atomic_fetch_or_explicit(&folio->lock, IOMAP__FOLIO_CHANGING,
						memory_order_relaxed);

	iomap__assert(old & IOMAP__FOLIO_LOCKED && !(old & IOMAP__FOLIO_CHANGING));
	(void)old;
	iomap__assert_msg(!iomap_folio_mapping(folio) ||
				  !iomap__folio_is_stable(iomap_folio_mapping(folio), folio->flags),
			  "a folio with stable writes is changed while it is being written");
	/*
	 * CHANGING before the stores that follow: a reader that sees one of these sees, after
	 * its acquire fence, CHANGING or a later version (hit.h).
	 */
	IOMAP__FENCE(memory_order_release);
}

void iomap__folio_end_change(struct iomap_folio *folio)
{
	/* One more CHANGING clears the bit and carries one into the version above it. */
	_Static_assert(IOMAP__FOLIO_VERSION == 2 * IOMAP__FOLIO_CHANGING, "the carry");
	atomic_fetch_add_explicit(&folio->lock, IOMAP__FOLIO_CHANGING, memory_order_release);
}

void iomap__folio_clear_uptodate(struct iomap_folio *folio)
{
	if (!iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE))
		return;
	iomap__folio_begin_change(folio);
	atomic_fetch_and_explicit(&folio->flags, ~IOMAP__FOLIO_UPTODATE, memory_order_relaxed);
	iomap__folio_end_change(folio);
}

/*
 * A folio that is not uptodate is not read without its lock, and several threads may be
 * filling it: then there is no change to announce.
 */
static bool announce_change(struct iomap_folio *folio)
{
	if (!iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE))
		return false;
	iomap__folio_begin_change(folio);
	return true;
}

void iomap__folio_copy_in(struct iomap_folio *folio, size_t off, const void *from, size_t len)
{
	bool announced = announce_change(folio);

	iomap__assert(off + len <= iomap__folio_bytes(folio));
	iomap__copy_to_folio((char *)iomap_folio_address(folio) + off, from, len);
	if (announced)
		iomap__folio_end_change(folio);
}

void iomap__folio_fill_zero(struct iomap_folio *folio, size_t off, size_t len)
{
	bool announced = announce_change(folio);

	iomap__assert(off + len <= iomap__folio_bytes(folio));
	iomap__zero_folio_mem((char *)iomap_folio_address(folio) + off, len);
	if (announced)
		iomap__folio_end_change(folio);
}

size_t iomap__copy_iter_to_folio(char *to, size_t len, struct iomap_iov_iter *from)
{
	size_t done = 0;

	while (done < len && from->count) {
		size_t n = iomap__min(len - done, from->count);
		const char *src = iomap__iov_iter_segment(from, &n);

		iomap__copy_to_folio(to + done, src, n);
		iomap_iov_iter_advance(from, n);
		done += n;
	}
	return done;
}

size_t iomap__folio_copy_from_iter(struct iomap_folio *folio, size_t off, size_t len,
				   struct iomap_iov_iter *from)
{
	size_t done;

	iomap__assert(off + len <= iomap__folio_bytes(folio));
	iomap__folio_begin_change(folio);
	done = iomap__copy_iter_to_folio((char *)iomap_folio_address(folio) + off, len, from);
	iomap__folio_end_change(folio);
	return done;
}

void iomap_folio_write(struct iomap_folio *folio, size_t off, const void *from, size_t len)
{
	iomap__folio_copy_in(folio, off, from, len);
}

void iomap_folio_zero(struct iomap_folio *folio, size_t off, size_t len)
{
	iomap__folio_fill_zero(folio, off, len);
}

void iomap_folio_read(const struct iomap_folio *folio, size_t off, void *to, size_t len)
{
	iomap__assert(off + len <= iomap__folio_bytes(folio));
	iomap__copy_from_folio(to, (const char *)iomap_folio_address(folio) + off, len);
}

/* Here and not with the other functions of bios: the block layer does not know folios. */
bool iomap_bio_add_folio(struct iomap_bio *bio, struct iomap_folio *folio, size_t len, size_t off)
{
	return iomap_bio_add(bio, (char *)iomap_folio_address(folio) + off, len);
}
