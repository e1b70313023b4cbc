/* SPDX-License-Identifier: MIT */
/*
 * thread.c - records of the threads that are or have been inside the library.
 *
 * States of a record: unused (static or not yet allocated) -> in use by a living thread ->
 * given back by the destructor of a thread-specific key -> in use by another thread.  A
 * record is never freed and never leaves the registry, so scans (epoch.c) take no lock; its
 * id goes with it, so ids stay small.
 *
 * All is initialised at the first call of the process by pthread_once: the library has no
 * constructors.  Each thread passes through that pthread_once before it looks at an epoch, so
 * what is decided there about readers' fences can be a plain variable (epoch.c).
 *
 * fork().  The child has the thread that called it and no other, so all other records are given
 * back there, and what they were about is forgotten; else a new engine of the child would wait
 * for readers that are not there.  Engines from before the fork are none of its (engine.c).
 *
 * Lock: registry_lock, a leaf; held for a walk of the list, and by a fork.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"

/* So many threads need no memory; they also are those with a statistics slot of their own. */
#define THREAD_STATIC_RECORDS IOMAP__STAT_SLOTS

_Thread_local struct iomap__thread *iomap__thread_self_ptr;

static struct iomap__thread thread_static[THREAD_STATIC_RECORDS];
static _Atomic(struct iomap__thread *) registry;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t registry_nr; /* under registry_lock */
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;
static bool thread_key_valid;

uint32_t iomap__process_lock[IOMAP__PROCESS_LOCKS];

/* ---- fork ---- */

static void thread_fork_prepare(void)
{
	pthread_mutex_lock(&registry_lock);
}

static void thread_fork_parent(void)
{
	pthread_mutex_unlock(&registry_lock);
}

/*
 * What a thread was about, and the child will not go on with: it is the parent's.  A plug that the
 * application has started stays for it to finish.
 */
static void thread_forget(struct iomap__thread *thread)
{
	atomic_store_explicit(&thread->epoch, 0, memory_order_relaxed);
	thread->inline_busy = false;
	thread->inline_first = thread->inline_last = NULL;
	thread->waiter = thread->hold = thread->work = thread->waiting = NULL;
	thread->privates = thread->ending = NULL;
	thread->expect = thread->expect_hold = NULL;
	thread->on_exit = NULL;
	thread->held = thread->completing = thread->writing = 0;
	thread->unthrottled = false;
	thread->deadline_ns = 0;
}

static void thread_fork_child(void)
{
	struct iomap__thread *self = iomap__thread_self_ptr, *thread;

	pthread_mutex_unlock(&registry_lock);
	memset(iomap__process_lock, 0, sizeof(iomap__process_lock));
	thread = atomic_load_explicit(&registry, memory_order_relaxed);
	for (; thread; thread = thread->next) {
		/* the plugs of others lie on stacks that nobody returns to */
		if (thread != self) {
			thread->plug = NULL;
			atomic_store_explicit(&thread->in_use, false, memory_order_relaxed);
		}
		thread_forget(thread);
	}
	if (self)
		self->tid = (uint32_t)syscall(SYS_gettid);
}

/* The thread ends.  It may still come back from a later destructor: then it registers anew. */
static void thread_give_back(void *arg)
{
	struct iomap__thread *self = arg;

	/* first: it may run callbacks, in which this is still the thread's record */
	if (self->on_exit)
		self->on_exit(self);
	iomap__assert(atomic_load_explicit(&self->epoch, memory_order_relaxed) == 0);
	iomap__thread_self_ptr = NULL;
	pthread_mutex_lock(&registry_lock);
	atomic_store_explicit(&self->in_use, false, memory_order_relaxed);
	pthread_mutex_unlock(&registry_lock);
}

static void thread_init_process(void)
{
	/* Without a key records are not given back; ids then grow, nothing breaks. */
	thread_key_valid = pthread_key_create(&thread_key, thread_give_back) == 0;
	/* Without them, for want of memory, a child may find locks held; it has no engine to use. */
	(void)pthread_atfork(thread_fork_prepare, thread_fork_parent, thread_fork_child);
	iomap__epoch_init_process();
}

/* registry_lock held.  NULL when there is no memory and no record has been given back. */
static struct iomap__thread *thread_find_record(void)
{
	struct iomap__thread *thread = atomic_load_explicit(&registry, memory_order_relaxed);
	void *memory;

	for (; thread; thread = thread->next)
		if (!atomic_load_explicit(&thread->in_use, memory_order_relaxed))
			return thread;

	if (registry_nr < THREAD_STATIC_RECORDS) {
		thread = &thread_static[registry_nr];
	} else {
		if (posix_memalign(&memory, IOMAP__CACHE_LINE, sizeof(*thread)) != 0)
			return NULL;
		thread = memory;
		memset(thread, 0, sizeof(*thread));
	}
	thread->id = registry_nr++;
	thread->stat_offset = IOMAP__CACHE_LINE * iomap__min(thread->id, IOMAP__STAT_SLOTS - 1U);
	thread->stat_shared = thread->id >= IOMAP__STAT_SLOTS - 1U;
	thread->next = atomic_load_explicit(&registry, memory_order_relaxed);
	/* pairs with the acquire load of iomap__thread_first() */
	atomic_store_explicit(&registry, thread, memory_order_release);
	return thread;
}

struct iomap__thread *iomap__thread_register(void)
{
	struct iomap__thread *self;

	pthread_once(&thread_once, thread_init_process);
	for (;;) {
		pthread_mutex_lock(&registry_lock);
		self = thread_find_record();
		if (self)
			break;
		/* Out of memory: there is no caller to tell.  Wait for a thread to end. */
		pthread_mutex_unlock(&registry_lock);
		sched_yield();
	}
	atomic_store_explicit(&self->in_use, true, memory_order_relaxed);
	self->tid = (uint32_t)syscall(SYS_gettid);
	self->plug = NULL;
	self->dirtied = self->pause_ns = 0;
	memset(&self->counters, 0, sizeof(self->counters));
	pthread_mutex_unlock(&registry_lock);

	iomap__thread_self_ptr = self;
	if (thread_key_valid)
		pthread_setspecific(thread_key, self);
	return self;
}

/*
 * The lock orders this against registration: a thread that is not in the list yet registers
 * after us, and so sees all that was done before this call.
 */
struct iomap__thread *iomap__thread_first(void)
{
	struct iomap__thread *first;

	pthread_mutex_lock(&registry_lock);
	first = atomic_load_explicit(&registry, memory_order_acquire);
	pthread_mutex_unlock(&registry_lock);
	return first;
}
