/* SPDX-License-Identifier: MIT */
/*
 * witness.c - the lock-order checker of debug builds.
 *
 * Each thread keeps the chain of locks it holds.  A lock that is about to be taken must come
 * after all of them: locks of an inode (ranks below IOMAP__RANK_ENGINE) by class and then
 * by rank, all others by rank behind these.  Of one place in that order only folio locks
 * may be held together: of one inode, by rising index.  A try-lock cannot deadlock by
 * itself and is recorded unchecked; what is taken while it is held is checked against it.
 *
 * For each pair of places the chain that first took them in the right order is kept, so
 * that a violation prints both sides of the deadlock: the chain held now, and the one that
 * went the other way.  Pairs are written once: EMPTY -> WRITING -> READY.
 */
#include "base/base.h"

#if IOMAP_DEBUG

#include <stdio.h>
#include <unistd.h>

#define WITNESS_HELD_MAX 600 /* a read-ahead window or a write-back batch of locked folios */
#define WITNESS_CHAIN_MAX 12
#define WITNESS_CLASSES 8U
#define WITNESS_INODE_RANKS 4U
#define WITNESS_ENGINE_PLACES (WITNESS_CLASSES * WITNESS_INODE_RANKS)
#define WITNESS_PLACES (WITNESS_ENGINE_PLACES + IOMAP__RANK_MAX - IOMAP__RANK_ENGINE)

struct witness_held {
	const void *lock;
	const void *host;
	uint64_t order;
	uint32_t place;
	bool trylock;
};

enum { PAIR_EMPTY, PAIR_WRITING, PAIR_READY };

struct witness_pair {
	_Atomic uint8_t state;
	uint8_t nr;
	uint8_t chain[WITNESS_CHAIN_MAX]; /* places, the last one is the lock taken */
};

static _Thread_local struct witness_held witness_chain[WITNESS_HELD_MAX];
static _Thread_local unsigned witness_nr;
static struct witness_pair witness_pairs[WITNESS_PLACES][WITNESS_PLACES];

static const char *const witness_inode_names[WITNESS_INODE_RANKS] = {
	[IOMAP__RANK_NONE] = "unranked",
	[IOMAP__RANK_INODE] = "i_rwsem",
	[IOMAP__RANK_INVALIDATE] = "invalidate_lock",
	[IOMAP__RANK_FOLIO] = "folio",
};

static const char *const witness_names[IOMAP__RANK_MAX - IOMAP__RANK_ENGINE] = {
	[IOMAP__RANK_ENGINE - IOMAP__RANK_ENGINE] = "engine",
	[IOMAP__RANK_BDEV - IOMAP__RANK_ENGINE] = "bdev",
	[IOMAP__RANK_DIRTY - IOMAP__RANK_ENGINE] = "dirty",
	[IOMAP__RANK_TREE - IOMAP__RANK_ENGINE] = "tree",
	[IOMAP__RANK_EVICT - IOMAP__RANK_ENGINE] = "evict",
	[IOMAP__RANK_ARENA - IOMAP__RANK_ENGINE] = "arena",
	[IOMAP__RANK_RETIRE - IOMAP__RANK_ENGINE] = "retire",
	[IOMAP__RANK_QUEUE - IOMAP__RANK_ENGINE] = "queue",
	[IOMAP__RANK_WORK - IOMAP__RANK_ENGINE] = "work",
	[IOMAP__RANK_PARK - IOMAP__RANK_ENGINE] = "park",
	[IOMAP__RANK_POOL - IOMAP__RANK_ENGINE] = "pool",
};

/* Where a lock stands in the order. */
static uint32_t witness_place(unsigned rank, unsigned subclass)
{
	iomap__assert_msg(rank < WITNESS_INODE_RANKS ||
				  (rank >= IOMAP__RANK_ENGINE && rank < IOMAP__RANK_MAX),
			  "lock of unknown rank %u", rank);
	if (rank >= IOMAP__RANK_ENGINE)
		return WITNESS_ENGINE_PLACES + rank - IOMAP__RANK_ENGINE;
	iomap__assert_msg(subclass < WITNESS_CLASSES, "lock class %u", subclass);
	return subclass * WITNESS_INODE_RANKS + rank;
}

static void witness_print_place(uint32_t place)
{
	const char *name;

	if (place < WITNESS_ENGINE_PLACES) {
		dprintf(STDERR_FILENO, "%s(class %u)",
			witness_inode_names[place % WITNESS_INODE_RANKS],
			place / WITNESS_INODE_RANKS);
		return;
	}
	name = witness_names[place - WITNESS_ENGINE_PLACES];
	dprintf(STDERR_FILENO, "%s", name ? name : "?");
}

static void witness_print_held(const struct witness_held *held)
{
	dprintf(STDERR_FILENO, "    ");
	witness_print_place(held->place);
	dprintf(STDERR_FILENO, " lock %p host %p order %llu%s\n", held->lock, held->host,
		(unsigned long long)held->order, held->trylock ? " (try-lock)" : "");
}

static void witness_print_chain(const char *title)
{
	unsigned i;

	dprintf(STDERR_FILENO, "  %s\n", title);
	for (i = 0; i < witness_nr; i++)
		witness_print_held(&witness_chain[i]);
}

/* The chain under which @first was held and @second was taken. */
static void witness_print_pair(uint32_t first, uint32_t second)
{
	struct witness_pair *pair = &witness_pairs[first][second];
	unsigned i;

	/* acquire: pairs with the release store of witness_record() */
	if (atomic_load_explicit(&pair->state, memory_order_acquire) != PAIR_READY) {
		dprintf(STDERR_FILENO, "  the two have not been taken in the right order yet\n");
		return;
	}
	dprintf(STDERR_FILENO, "  taken in the right order before:\n    ");
	for (i = 0; i < pair->nr; i++) {
		if (i)
			dprintf(STDERR_FILENO, " -> ");
		witness_print_place(pair->chain[i]);
	}
	dprintf(STDERR_FILENO, "\n");
}

static void witness_violation(const struct witness_held *held, const struct witness_held *next)
	__attribute__((noreturn));

static void witness_violation(const struct witness_held *held, const struct witness_held *next)
{
	dprintf(STDERR_FILENO, "libiomap: lock order violation: about to take\n");
	witness_print_held(next);
	dprintf(STDERR_FILENO, "  while holding\n");
	witness_print_held(held);
	witness_print_chain("chain held now:");
	witness_print_pair(next->place, held->place);
	abort();
}

static bool witness_in_order(const struct witness_held *held, const struct witness_held *next)
{
	if (next->place != held->place)
		return next->place > held->place;
	return next->place < WITNESS_ENGINE_PLACES &&
	       next->place % WITNESS_INODE_RANKS == IOMAP__RANK_FOLIO &&
	       next->host == held->host && next->order > held->order;
}

static void witness_record(const struct witness_held *held, const struct witness_held *next)
{
	struct witness_pair *pair = &witness_pairs[held->place][next->place];
	uint8_t empty = PAIR_EMPTY;
	unsigned i, start;

	if (iomap__likely(atomic_load_explicit(&pair->state, memory_order_relaxed) != PAIR_EMPTY))
		return;
	if (!atomic_compare_exchange_strong_explicit(&pair->state, &empty, PAIR_WRITING,
						     memory_order_relaxed, memory_order_relaxed))
		return;
	start = witness_nr > WITNESS_CHAIN_MAX - 1 ? witness_nr - (WITNESS_CHAIN_MAX - 1) : 0;
	for (i = start; i < witness_nr; i++)
		pair->chain[pair->nr++] = (uint8_t)witness_chain[i].place;
	pair->chain[pair->nr++] = (uint8_t)next->place;
	/* release: pairs with the acquire load of witness_print_pair() */
	atomic_store_explicit(&pair->state, PAIR_READY, memory_order_release);
}

void iomap__witness_acquire(const void *lock, unsigned rank, unsigned subclass, bool trylock,
			    const void *host, uint64_t order)
{
	struct witness_held next = {
		.lock = lock,
		.host = host,
		.order = order,
		.place = witness_place(rank, subclass),
		.trylock = trylock,
	};
	unsigned i;

	for (i = 0; i < witness_nr; i++) {
		const struct witness_held *held = &witness_chain[i];

		if (held->lock == lock) {
			witness_print_chain("chain held now:");
			iomap__bug(__FILE__, __LINE__, "lock %p is taken twice", lock);
		}
		if (trylock)
			continue;
		if (!witness_in_order(held, &next))
			witness_violation(held, &next);
		witness_record(held, &next);
	}
	iomap__assert_msg(witness_nr < WITNESS_HELD_MAX, "too many locks held");
	witness_chain[witness_nr++] = next;
}

/* Index in the chain + 1, or 0.  Most locks are released in reverse order. */
static unsigned witness_find(const void *lock)
{
	unsigned i;

	for (i = witness_nr; i > 0; i--)
		if (witness_chain[i - 1].lock == lock)
			return i;
	return 0;
}

static void witness_remove(const void *lock, const char *what)
{
	unsigned at = witness_find(lock);

	if (!at) {
		witness_print_chain("chain held now:");
		iomap__bug(__FILE__, __LINE__, "%s of lock %p, which the thread does not hold",
			   what, lock);
	}
	memmove(&witness_chain[at - 1], &witness_chain[at],
		(witness_nr - at) * sizeof(witness_chain[0]));
	witness_nr--;
}

void iomap__witness_release(const void *lock)
{
	witness_remove(lock, "release");
}

void iomap__witness_disown(const void *lock)
{
	witness_remove(lock, "hand-over");
}

bool iomap__witness_holds(const void *lock)
{
	return witness_find(lock) != 0;
}

void iomap__witness_assert_class(const char *what, unsigned subclass)
{
	unsigned i;

	for (i = 0; i < witness_nr; i++) {
		uint32_t place = witness_chain[i].place;
		uint32_t rank = place % WITNESS_INODE_RANKS;

		if (place < WITNESS_ENGINE_PLACES &&
		    (rank != IOMAP__RANK_FOLIO || place / WITNESS_INODE_RANKS < subclass))
			continue;
		witness_print_chain("chain held now:");
		iomap__bug(__FILE__, __LINE__, "%s is called with a lock held", what);
	}
}

void iomap__witness_assert_callback(const char *what)
{
	iomap__witness_assert_class(what, 0);
}

#else

typedef int witness_not_built; /* ISO C wants at least one declaration */

#endif
