/* SPDX-License-Identifier: MIT */
/*
 * rwsem.c - the reader-writer semaphore of the inode locks, on one futex word.
 *
 * The word: readers inside (16 bits), writers waiting (14 bits), WRITER: a writer is inside,
 * SLEEPERS: somebody sleeps on the word.  New readers stay out while a writer waits, so
 * writers are not starved; readers can be, by writers that never stop coming.
 *
 * Sleeping: a waiter sets SLEEPERS and sleeps while the word stays as it saw it.  Whoever
 * leaves the semaphore free takes SLEEPERS off in the same compare-and-swap and wakes all,
 * who then compete.  No wake-up is lost: a sleeper sleeps on a word with SLEEPERS set and
 * with somebody inside, and that one's leaving sees the bit.  (Readers who wait for a
 * waiting writer only: that writer comes in and leaves.)  A herd is woken when many wait;
 * the locks are held for an operation, not for instructions, so that is not what costs.
 *
 * The compare-and-swap is the last access to the semaphore: whoever comes in next may free
 * it (an inode being destroyed).
 */
#include <iomap/inode.h>

#include "base/base.h"

#define RWSEM_READER 0x1U
#define RWSEM_READERS 0xffffU
#define RWSEM_WAITING 0x10000U
#define RWSEM_WAITING_MASK 0x3fff0000U
#define RWSEM_WRITER 0x40000000U
#define RWSEM_SLEEPERS 0x80000000U
#define RWSEM_SPINS 100

void iomap__rwsem_init(struct iomap_rwsem *sem, enum iomap__rank rank, unsigned subclass)
{
	memset(sem, 0, sizeof(*sem));
	sem->rank = (uint16_t)rank;
	sem->reserved = (uint16_t)subclass;
}

/* acquire: pairs with the release of rwsem_leave() */
static bool rwsem_change(struct iomap_rwsem *sem, uint32_t *old, uint32_t new)
{
	return __atomic_compare_exchange_n(&sem->state, old, new, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

/* Sleep as long as the word is @seen with SLEEPERS. */
static void rwsem_sleep(struct iomap_rwsem *sem, uint32_t seen)
{
	struct iomap__thread *self = iomap__thread_self();

	/* Bios that the thread holds back may be what the holder of the lock waits for. */
	if (self->plug || self->held)
		self->plug_flush(self);
	if (!(seen & RWSEM_SLEEPERS)) {
		if (!rwsem_change(sem, &seen, seen | RWSEM_SLEEPERS))
			return;
		seen |= RWSEM_SLEEPERS;
	}
	iomap__futex_wait(&sem->state, seen);
}

static bool rwsem_try_read(struct iomap_rwsem *sem, uint32_t *seen)
{
	uint32_t old = iomap__load(&sem->state);

	while (!(old & (RWSEM_WRITER | RWSEM_WAITING_MASK))) {
		iomap__assert_msg((old & RWSEM_READERS) != RWSEM_READERS, "too many readers");
		if (rwsem_change(sem, &old, old + RWSEM_READER))
			return true;
	}
	*seen = old;
	return false;
}

/* @waiting: RWSEM_WAITING if the caller is counted as a waiting writer, else 0. */
static bool rwsem_try_write(struct iomap_rwsem *sem, uint32_t waiting, uint32_t *seen)
{
	uint32_t old = iomap__load(&sem->state);

	while (!(old & (RWSEM_WRITER | RWSEM_READERS)))
		if (rwsem_change(sem, &old, (old - waiting) | RWSEM_WRITER))
			return true;
	*seen = old;
	return false;
}

/* Take off @what; when nobody is left inside wake all who sleep. */
static void rwsem_leave(struct iomap_rwsem *sem, uint32_t what)
{
	uint32_t old = iomap__load(&sem->state), new;

	do {
		new = old - what;
		if (!(new & (RWSEM_WRITER | RWSEM_READERS)))
			new &= ~RWSEM_SLEEPERS;
	} while (!__atomic_compare_exchange_n(&sem->state, &old, new, true, __ATOMIC_RELEASE,
					      __ATOMIC_RELAXED));
	if (iomap__unlikely((old ^ new) & RWSEM_SLEEPERS))
		iomap__futex_wake(&sem->state, INT32_MAX);
}

void iomap_down_read(struct iomap_rwsem *sem)
{
	unsigned spins = 0;
	uint32_t seen;

	iomap__witness_acquire(sem, sem->rank, sem->reserved, false, NULL, 0);
	iomap__count(locks_nr);
	while (!rwsem_try_read(sem, &seen)) {
		if (spins++ < RWSEM_SPINS)
			iomap__cpu_relax();
		else
			rwsem_sleep(sem, seen);
	}
}

bool iomap_down_read_trylock(struct iomap_rwsem *sem)
{
	uint32_t seen;

	if (!rwsem_try_read(sem, &seen))
		return false;
	iomap__witness_acquire(sem, sem->rank, sem->reserved, true, NULL, 0);
	iomap__count(locks_nr);
	return true;
}

void iomap_up_read(struct iomap_rwsem *sem)
{
	iomap__assert_msg(iomap__load(&sem->state) & RWSEM_READERS, "up_read without a reader");
	iomap__witness_release(sem);
	rwsem_leave(sem, RWSEM_READER);
}

static void rwsem_set_owner(struct iomap_rwsem *sem)
{
	if (IOMAP_DEBUG)
		iomap__store(&sem->owner, iomap__thread_self()->tid);
}

void iomap_down_write(struct iomap_rwsem *sem)
{
	unsigned spins = 0;
	uint32_t seen;

	iomap__witness_acquire(sem, sem->rank, sem->reserved, false, NULL, 0);
	iomap__count(locks_nr);
	if (!rwsem_try_write(sem, 0, &seen)) {
		/* from here on no new reader comes in */
		__atomic_fetch_add(&sem->state, RWSEM_WAITING, __ATOMIC_RELAXED);
		while (!rwsem_try_write(sem, RWSEM_WAITING, &seen)) {
			if (spins++ < RWSEM_SPINS)
				iomap__cpu_relax();
			else
				rwsem_sleep(sem, seen);
		}
	}
	rwsem_set_owner(sem);
}

bool iomap_down_write_trylock(struct iomap_rwsem *sem)
{
	uint32_t seen;

	if (!rwsem_try_write(sem, 0, &seen))
		return false;
	iomap__witness_acquire(sem, sem->rank, sem->reserved, true, NULL, 0);
	iomap__count(locks_nr);
	rwsem_set_owner(sem);
	return true;
}

void iomap_up_write(struct iomap_rwsem *sem)
{
	iomap__assert_msg(iomap__load(&sem->state) & RWSEM_WRITER, "up_write without a writer");
	iomap__assert_msg(iomap__load(&sem->owner) == iomap__thread_self()->tid,
			  "up_write by a thread that does not hold the lock");
	iomap__witness_release(sem);
	rwsem_leave(sem, RWSEM_WRITER);
}

void iomap_inode_lock(struct iomap_inode *inode)
{
	iomap_down_write(&inode->i_rwsem);
}

bool iomap_inode_trylock(struct iomap_inode *inode)
{
	return iomap_down_write_trylock(&inode->i_rwsem);
}

void iomap_inode_unlock(struct iomap_inode *inode)
{
	iomap_up_write(&inode->i_rwsem);
}

void iomap_inode_lock_shared(struct iomap_inode *inode)
{
	iomap_down_read(&inode->i_rwsem);
}

bool iomap_inode_trylock_shared(struct iomap_inode *inode)
{
	return iomap_down_read_trylock(&inode->i_rwsem);
}

void iomap_inode_unlock_shared(struct iomap_inode *inode)
{
	iomap_up_read(&inode->i_rwsem);
}

void iomap_filemap_invalidate_lock(struct iomap_address_space *mapping)
{
	iomap_down_write(&mapping->invalidate_lock);
}

void iomap_filemap_invalidate_unlock(struct iomap_address_space *mapping)
{
	iomap_up_write(&mapping->invalidate_lock);
}

void iomap_filemap_invalidate_lock_shared(struct iomap_address_space *mapping)
{
	iomap_down_read(&mapping->invalidate_lock);
}

void iomap_filemap_invalidate_unlock_shared(struct iomap_address_space *mapping)
{
	iomap_up_read(&mapping->invalidate_lock);
}
