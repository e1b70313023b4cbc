/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * rwsem.c - the reader-writer semaphore: who may be inside with whom, and nobody sleeps on.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <signal.h>

#include "base/base.h"
#include "testutil.h"

#define THREADS 6
#define ROUNDS (T_TSAN ? 4000 : 40000)
#define WAITING_WRITERS 0x3fff0000U /* rwsem.c: RWSEM_WAITING_MASK */

struct shared {
	struct iomap_rwsem sem;
	/* Plain on purpose: ThreadSanitizer sees a semaphore that does not exclude. */
	uint64_t a, b;
	_Atomic int writers, readers;
	_Atomic int most_readers;
	unsigned seed;
};

static struct shared shared_state;

static long hammer(void *arg)
{
	struct shared *s = &shared_state;
	struct t_rand r = { .state = (uint64_t)(uintptr_t)arg * 7919 + 1 };

	for (int i = 0; i < ROUNDS; i++) {
		if (t_below(&r, 4) == 0) {
			iomap_down_write(&s->sem);
			t_must(atomic_fetch_add(&s->writers, 1) == 0);
			t_must(atomic_load(&s->readers) == 0);
			s->a++;
			if (t_below(&r, 8) == 0)
				sched_yield(); /* let the others spin out and sleep */
			s->b++;
			atomic_fetch_sub(&s->writers, 1);
			iomap_up_write(&s->sem);
		} else {
			iomap_down_read(&s->sem);
			atomic_fetch_add(&s->readers, 1);
			t_must(atomic_load(&s->writers) == 0);
			t_must(s->a == s->b);
			if (t_below(&r, 8) == 0)
				sched_yield();
			atomic_fetch_sub(&s->readers, 1);
			iomap_up_read(&s->sem);
		}
	}
	return 0;
}

Test(rwsem, many_threads_exclude_each_other_and_none_is_forgotten)
{
	struct t_task task[THREADS];

	iomap__rwsem_init(&shared_state.sem, IOMAP__RANK_INODE, 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		t_start(&task[i], hammer, (void *)i);
	for (int i = 0; i < THREADS; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(shared_state.a, shared_state.b);
	cr_assert_gt(shared_state.a, 0U);
	cr_assert_eq(shared_state.sem.state, 0U, "free, and nobody waits: %x",
		     shared_state.sem.state);
}

static pthread_barrier_t both_inside;

static long read_and_meet(void *arg)
{
	struct iomap_rwsem *sem = arg;

	iomap_down_read(sem);
	pthread_barrier_wait(&both_inside); /* a hang if only one gets in */
	iomap_up_read(sem);
	return 0;
}

Test(rwsem, readers_share)
{
	struct iomap_rwsem sem;
	struct t_task task[2];

	iomap__rwsem_init(&sem, IOMAP__RANK_INODE, 0);
	pthread_barrier_init(&both_inside, NULL, 2);
	for (int i = 0; i < 2; i++)
		t_start(&task[i], read_and_meet, &sem);
	for (int i = 0; i < 2; i++)
		t_join(&task[i]);
	pthread_barrier_destroy(&both_inside);
}

static long write_once(void *arg)
{
	struct iomap_rwsem *sem = arg;

	iomap_down_write(sem);
	iomap_up_write(sem);
	return 0;
}

static long try_read(void *arg)
{
	struct iomap_rwsem *sem = arg;

	if (!iomap_down_read_trylock(sem))
		return 0;
	iomap_up_read(sem);
	return 1;
}

/* Run @fn in another thread: this one may hold the semaphore. */
static long elsewhere(long (*fn)(void *arg), void *arg)
{
	struct t_task task;

	t_start(&task, fn, arg);
	return t_join(&task);
}

Test(rwsem, a_waiting_writer_keeps_new_readers_out)
{
	struct iomap_rwsem sem;
	struct t_task writer;

	iomap__rwsem_init(&sem, IOMAP__RANK_INODE, 0);
	iomap_down_read(&sem);
	cr_assert_eq(elsewhere(try_read, &sem), 1, "readers share");
	t_start(&writer, write_once, &sem);
	while (!(iomap__load(&sem.state) & WAITING_WRITERS))
		sched_yield();
	cr_assert_eq(elsewhere(try_read, &sem), 0, "a writer waits");
	iomap_up_read(&sem);
	cr_assert_eq(t_join(&writer), 0);
	cr_assert_eq(elsewhere(try_read, &sem), 1, "the writer is gone");
}

static long try_write(void *arg)
{
	struct iomap_rwsem *sem = arg;

	if (!iomap_down_write_trylock(sem))
		return 0;
	iomap_up_write(sem);
	return 1;
}

Test(rwsem, trylocks_refuse_what_would_wait)
{
	struct iomap_rwsem sem;

	iomap__rwsem_init(&sem, IOMAP__RANK_INODE, 0);
	cr_assert_eq(elsewhere(try_write, &sem), 1);
	iomap_down_read(&sem);
	cr_assert_eq(elsewhere(try_write, &sem), 0);
	iomap_up_read(&sem);
	iomap_down_write(&sem);
	cr_assert_eq(elsewhere(try_write, &sem), 0);
	cr_assert_eq(elsewhere(try_read, &sem), 0);
	iomap_up_write(&sem);
	cr_assert_eq(elsewhere(try_write, &sem), 1);
}

static void release_by_a_stranger(void *arg)
{
	struct iomap_rwsem sem;

	(void)arg;
	iomap__rwsem_init(&sem, IOMAP__RANK_INODE, 0);
	iomap_down_write(&sem);
	sem.owner++; /* as another thread would see it; a child of fork() cannot have one */
	iomap_up_write(&sem);
}

Test(rwsem, release_by_another_thread_aborts_in_debug_builds)
{
	char err[2048];

	if (!t_debug())
		cr_skip_test("checked in debug builds");
	cr_assert_eq(t_death(release_by_a_stranger, NULL, err, sizeof(err)), SIGABRT);
	cr_assert(strstr(err, "does not hold"), "%s", err);
}
