/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * epoch.c - memory is not given back while a reader may look at it.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "testutil.h"

#define READERS 3
#define SWAPS (T_TSAN ? 3000 : 20000)
#define ALIVE UINT64_C(0x600dda7a600dda7a)
#define DEAD UINT64_C(0xdeadbeefdeadbeef)

struct object {
	uint64_t state[8]; /* plain: a race with the writer is a race for TSan as well */
};

static _Atomic(struct object *) current;
static atomic_bool stop;
static _Atomic uint64_t reads;

static long reader(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		struct iomap__thread *self = iomap__epoch_enter();
		struct object *object = atomic_load_explicit(&current, memory_order_acquire);

		for (int i = 0; i < 8; i++)
			t_must(object->state[i] == ALIVE);
		iomap__epoch_exit(self);
		atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
	}
	return 0;
}

static void fill(struct object *object, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		object->state[i] = value;
}

Test(epoch, retired_memory_is_not_seen_by_readers)
{
	struct t_task task[READERS];
	struct object pair[2];
	int now = 0;

	fill(&pair[0], ALIVE);
	atomic_store(&current, &pair[0]);
	for (int i = 0; i < READERS; i++)
		t_start(&task[i], reader, NULL);
	for (int i = 0; i < SWAPS; i++) {
		fill(&pair[!now], ALIVE);
		atomic_store_explicit(&current, &pair[!now], memory_order_release);
		iomap__epoch_synchronize();
		fill(&pair[now], DEAD);
		now = !now;
	}
	while (!atomic_load(&reads))
		sched_yield();
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++)
		t_join(&task[i]);
}

static struct t_gate gate;
static bool inside, leave;

static long stay_inside(void *arg)
{
	struct iomap__thread *self = iomap__epoch_enter();

	(void)arg;
	t_lock(&gate);
	inside = true;
	t_wake(&gate);
	while (!leave)
		t_wait(&gate);
	t_unlock(&gate);
	iomap__epoch_exit(self);
	return 0;
}

static atomic_bool waited;

static long synchronize(void *arg)
{
	(void)arg;
	iomap__epoch_synchronize();
	atomic_store(&waited, true);
	return 0;
}

Test(epoch, a_section_holds_the_waiter_up_until_it_ends)
{
	struct t_task task, waiter;
	uint64_t before;

	t_gate_init(&gate);
	t_start(&task, stay_inside, NULL);
	t_lock(&gate);
	while (!inside)
		t_wait(&gate);
	t_unlock(&gate);

	before = atomic_load(&iomap__epoch_global);
	t_start(&waiter, synchronize, NULL);
	while (atomic_load(&iomap__epoch_global) == before)
		sched_yield();
	for (int i = 0; i < 1000; i++) {
		sched_yield();
		cr_assert(!atomic_load(&waited));
	}
	t_lock(&gate);
	leave = true;
	t_wake(&gate);
	t_unlock(&gate);
	t_join(&task);
	t_join(&waiter);
	cr_assert(atomic_load(&waited));
	t_gate_exit(&gate);
}

static long my_record(void *arg)
{
	(void)arg;
	return (long)iomap__thread_self()->id;
}

Test(epoch, records_of_threads_that_ended_are_used_again)
{
	struct t_task task;
	long first;

	iomap__thread_self();
	t_start(&task, my_record, NULL);
	first = t_join(&task);
	for (int i = 0; i < 200; i++) {
		t_start(&task, my_record, NULL);
		cr_assert_eq(t_join(&task), first, "a thread that comes alone, number %d", i);
	}
}

static pthread_barrier_t all_inside;

static long stay_and_count(void *arg)
{
	struct iomap__stats *stats = arg;

	iomap__thread_self();
	pthread_barrier_wait(&all_inside);
	for (int i = 0; i < 1000; i++)
		iomap__stat_add(stats, iomap__thread_self(), 3, 2);
	return 0;
}

Test(epoch, counters_are_exact_with_more_threads_than_slots)
{
	enum { THREADS = IOMAP__STAT_SLOTS + 16 };
	static struct iomap__stats stats;
	static struct t_task task[THREADS];

	pthread_barrier_init(&all_inside, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		t_start(&task[i], stay_and_count, &stats);
	for (int i = 0; i < THREADS; i++)
		t_join(&task[i]);
	pthread_barrier_destroy(&all_inside);
	cr_assert_eq(iomap__stat_sum(&stats, 3), 2000U * THREADS);
	cr_assert_eq(iomap__stat_sum(&stats, 2), 0U);
}

/* ---- fork ---- */

static atomic_bool in_section, go;

static long stay_in_section(void *arg)
{
	struct iomap__thread *self = iomap__epoch_enter();

	(void)arg;
	atomic_store(&in_section, true);
	while (!atomic_load(&go))
		sched_yield();
	iomap__epoch_exit(self);
	return 0;
}

/* A reader that is in a read section at the fork is not there to leave it. */
Test(epoch, en05_a_child_waits_for_no_reader_of_its_parent)
{
	struct t_task task;
	int status;
	pid_t pid;

	iomap__thread_self();
	t_start(&task, stay_in_section, NULL);
	while (!atomic_load(&in_section))
		sched_yield();
	pid = fork();
	t_must(pid >= 0);
	if (!pid) {
		alarm(T_HANG_S);
		iomap__epoch_synchronize();
		_exit(0);
	}
	t_must(waitpid(pid, &status, 0) == pid);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	atomic_store(&go, true);
	t_join(&task);
}
