/* SPDX-License-Identifier: MIT */
/*
 * lock.c - short locks on one futex word, and the futex calls.
 *
 * States of the word: 0 free, 1 held, 2 held and perhaps somebody sleeps.  A thread that
 * found the lock held takes it as 2, since others may sleep whom it does not know of; so
 * the unlock after it makes one wake call too many at worst.  The last access to the word
 * in unlock is the exchange: whoever takes the lock next may free it.  The wake call that
 * follows uses the address as a number only.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define LOCK_SPINS 100

void iomap__cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

static long lock_futex(const uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
	iomap__count(syscalls_nr);
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

void iomap__futex_wait(const uint32_t *word, uint32_t expected)
{
	int saved = errno;

	iomap__count(waits_nr);
	lock_futex(word, FUTEX_WAIT, expected, NULL);
	errno = saved;
}

bool iomap__futex_wait_timeout(const uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_ns / 1000000000U),
		.tv_nsec = (long)(timeout_ns % 1000000000U),
	};
	int saved = errno;
	bool in_time;

	iomap__count(waits_nr);
	in_time = lock_futex(word, FUTEX_WAIT, expected, timeout_ns ? &timeout : NULL) == 0 ||
		  errno != ETIMEDOUT;
	errno = saved;
	return in_time;
}

void iomap__futex_wake(const uint32_t *word, int nr)
{
	int saved = errno;

	lock_futex(word, FUTEX_WAKE, (uint32_t)nr, NULL);
	errno = saved;
}

static bool lock_try(uint32_t *word)
{
	uint32_t free = 0;

	/* acquire: pairs with the release of lock_drop() */
	return __atomic_compare_exchange_n(word, &free, 1, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static void lock_take(uint32_t *word)
{
	unsigned spins;

	if (iomap__likely(lock_try(word)))
		return;
	for (spins = 0; spins < LOCK_SPINS; spins++) {
		iomap__cpu_relax();
		if (iomap__load(word) == 0 && lock_try(word))
			return;
	}
	while (__atomic_exchange_n(word, 2, __ATOMIC_ACQUIRE) != 0)
		iomap__futex_wait(word, 2);
}

static void lock_drop(uint32_t *word)
{
	/* release: pairs with the acquire of lock_take() and lock_try() */
	uint32_t old = __atomic_exchange_n(word, 0, __ATOMIC_RELEASE);

	iomap__assert_msg(old != 0, "unlock of a lock that is not held");
	if (iomap__unlikely(old == 2))
		iomap__futex_wake(word, 1);
}

void iomap__mutex_init(struct iomap__mutex *mutex, enum iomap__rank rank)
{
	mutex->state = 0;
	mutex->rank = (uint16_t)rank;
	mutex->reserved = 0;
}

void iomap__mutex_lock(struct iomap__mutex *mutex)
{
	iomap__witness_acquire(mutex, mutex->rank, 0, false, NULL, 0);
	iomap__count(locks_nr);
	lock_take(&mutex->state);
}

void iomap__mutex_unlock(struct iomap__mutex *mutex)
{
	iomap__witness_release(mutex);
	lock_drop(&mutex->state);
}

void iomap__word_lock(uint32_t *word, enum iomap__rank rank)
{
	(void)rank;
	iomap__witness_acquire(word, rank, 0, false, NULL, 0);
	iomap__count(locks_nr);
	lock_take(word);
}

void iomap__word_unlock(uint32_t *word)
{
	iomap__witness_release(word);
	lock_drop(word);
}
