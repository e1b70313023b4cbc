/* SPDX-License-Identifier: MIT */
/*
 * park.c - threads that wait for a word to change, and complete I/O meanwhile.
 *
 * Contract: no wait depends on an application thread coming back into the library.  If the
 * change of the word hangs on I/O in flight, one of those who wait reaps that I/O.
 *
 * The role.  Each queue has at most one reaper: only that thread collects completions and
 * runs their callbacks.  A waiter has the state
 *   RUNNING  awake,
 *   FUTEX    asleep on its own futex word, has no queue to reap,
 *   RING     asleep in the queues it reaps.
 * A waiter that cares for a queue (all do, but for submit_bio_wait, which knows the one
 * queue its bio is in) takes the role of it if I/O is in flight there and nobody reaps it.
 * It collects what is there, looks at its word again, and goes to sleep in its queues; with
 * none, on its futex.
 *
 * The invariant: I/O in flight, no reaper, and a sleeper that cares never persist together.
 * All of roles, states and lists change under park_lock, so it is enough to look where one
 * of the three comes about:
 *   a sleeper    looks for queues under the lock just before it sleeps;
 *   no reaper    who gives a role back looks for a sleeper, under the same lock;
 *   I/O          who submits and is not about to wait looks for a sleeper
 *                (iomap__park_work_added()).
 * A sleeper that was woken to take a role but finds its word changed looks for another
 * sleeper as it leaves; so does every waiter that leaves.
 *
 * The submitter's look is without the lock in the common case, so it needs a proof.  It
 * adds to `inflight`, then reads `nr_waiters` and `reaper`.  A waiter adds to `nr_waiters`,
 * then reads `inflight`; who gives up a role clears `reaper`, then reads `inflight`.  These
 * readings of `inflight` are read-modify-writes, too (park_inflight()).  Of two of them on
 * the same word one comes first, and the second synchronises with it: either the waiter
 * sees the I/O, or the submitter sees the waiter, and the cleared role.
 *
 * The word.  A waiter enters itself in a bucket, then looks at the word; the waker changes
 * the word, then looks whether the bucket is empty: again read-modify-writes on both sides,
 * on `bucket_nr`.
 *
 * Expecting.  A thread that submits what it is about to wait for says so before
 * (iomap__park_expect()): it holds what it submits, which its sleep sends, and until it has come
 * nobody else is woken for its queue, nor takes the role of it from afar, which would only have
 * to be handed back.  So the invariant has an exception while `expected` is not 0.  The thread
 * takes that back when it waits, under the lock and as a waiter that cares; or else in
 * iomap__io_expected(), and then looks for a sleeper, as who submits without waiting does.  That
 * `expected` is read by read-modify-writes in park_expected() proves that one of the two sees the
 * other: a sleeper that saw it before it was taken back had entered itself in `nr_waiters`, and
 * who submitted meanwhile and woke nobody had added to `inflight`.  In between the thread calls
 * no callback and waits nowhere but here, so it comes: what may do either ends the expectation
 * first (the read of a window, a poll, the end of bios that were refused).
 *
 * Home.  A thread's own queue, the one it submits to, is its home.  A waiter that takes the
 * role of a foreign queue may meet the thread that lives there, on its way to wait for what
 * it has just submitted; to be woken by another thread costs more than the I/O.  So a
 * thread takes the role of its home queue away from a foreign reaper that is asleep.
 *
 * A queue that is the waiter's thread's alone (private.c) has no role: nobody else may take it.
 * With requests in flight there a waiter sleeps as one that reaps a foreign queue does.
 *
 * Kicks.  A waiter that sleeps in its home queue alone sleeps in io_uring_enter() and is
 * kicked by a NOP in that ring: nobody else collects from it.  One that has a foreign queue
 * may lose it while it sleeps, and a NOP could then be collected by the new reaper before
 * the sleeper has seen it; so it sleeps in ppoll() on its rings and an eventfd of its own.
 * A kick is decided under the lock by moving the state to RUNNING and carried out without
 * it; it may come late, at a futex word, ring or eventfd that means something else by now,
 * which is a spurious wake-up there.
 *
 * Nesting.  A device of the application may wait inside its submit_bio, which may run in a
 * completion: the thread then already holds roles.  The inner waiter inherits them.
 */
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "block/internal.h"

#define PARK_KICKS IOMAP__QUEUES_MAX /* as many as queues can be offered at once */

struct park_kick {
	const uint32_t *futex;
	struct iomap__queue *queue;
	int eventfd;
};

/* Kicks that have been decided, to be carried out without the lock. */
struct park_kicks {
	unsigned nr;
	bool loop; /* the application's event loop has to look */
	struct park_kick kick[PARK_KICKS];
};

/* Not by an initializer, which would clear all of it for each wake-up. */
static void park_no_kicks(struct park_kicks *kicks)
{
	kicks->nr = 0;
	kicks->loop = false;
}

static uint64_t park_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static unsigned park_bucket(const uint32_t *word)
{
	return (unsigned)(((uintptr_t)word >> 2) * UINT64_C(0x9e3779b97f4a7c15) >> 58) %
	       IOMAP__PARK_BUCKETS;
}

static uint32_t park_bit(const struct iomap__queue *queue)
{
	return UINT32_C(1) << queue->index;
}

/* See the file's head for why this is not a load. */
static uint32_t park_inflight(struct iomap__queue *queue)
{
	return atomic_fetch_add_explicit(&queue->inflight, 0, memory_order_acq_rel);
}

/* Whether whoever lives there is on the way.  See the file's head for why this is not a load. */
static bool park_expected(struct iomap__queue *queue)
{
	return atomic_fetch_add_explicit(&queue->expected, 0, memory_order_acq_rel) != 0;
}

/* Changed under the lock only; loaded without it by submitters and I/O threads. */
static struct iomap__waiter *park_reaper(struct iomap__queue *queue)
{
	return atomic_load_explicit(&queue->reaper, memory_order_acquire);
}

static void park_set_reaper(struct iomap__queue *queue, struct iomap__waiter *waiter)
{
	atomic_store_explicit(&queue->reaper, waiter, memory_order_release);
}

/* ---- kicks ---- */

/* Lock held; @waiter sleeps, and there is room in @kicks. */
static void park_wake(struct iomap__blk *blk, struct iomap__waiter *waiter,
		      struct park_kicks *kicks)
{
	struct park_kick *kick = &kicks->kick[kicks->nr++];

	*kick = (struct park_kick){ .eventfd = -1 };
	if (waiter->state == IOMAP__WAITER_FUTEX || !blk->backend->sleep)
		kick->futex = &waiter->state;
	else if (waiter->eventfd >= 0)
		kick->eventfd = waiter->eventfd;
	else
		kick->queue = waiter->home;
	iomap__store_release(&waiter->state, IOMAP__WAITER_RUNNING);
	iomap__list_del(&waiter->sleepers);
}

/* Lock not held. */
static void park_kick(struct iomap__blk *blk, struct park_kicks *kicks)
{
	uint64_t one = 1;
	unsigned i;

	for (i = 0; i < kicks->nr; i++) {
		const struct park_kick *kick = &kicks->kick[i];

		if (kick->futex) {
			iomap__futex_wake(kick->futex, 1);
		} else if (kick->eventfd >= 0) {
			iomap__count(syscalls_nr);
			/* Fails only when it is full of kicks already. */
			if (write(kick->eventfd, &one, sizeof(one)) < 0)
				continue;
		} else {
			blk->backend->kick(kick->queue);
		}
	}
	if (iomap__unlikely(kicks->loop))
		iomap__loop_notify(blk);
	kicks->nr = 0;
	kicks->loop = false;
}

/* Lock held.  Someone to reap @queue, preferably one who has nothing to reap. */
static struct iomap__waiter *park_find_sleeper(struct iomap__blk *blk, struct iomap__queue *queue)
{
	struct iomap__waiter *waiter, *second = NULL;
	struct iomap_list_head *item;

	for (item = blk->sleepers.next; item != &blk->sleepers; item = item->next) {
		waiter = iomap__container_of(item, struct iomap__waiter, sleepers);
		if (waiter->only && waiter->only != queue)
			continue;
		if (waiter->state == IOMAP__WAITER_FUTEX)
			return waiter;
		if (!second)
			second = waiter;
	}
	return second;
}

/* Lock held.  Keep the invariant for @queue. */
static void park_offer(struct iomap__blk *blk, struct iomap__queue *queue, struct park_kicks *kicks)
{
	struct iomap__waiter *waiter;

	if (park_reaper(queue) || !park_inflight(queue) || iomap__list_empty(&blk->sleepers) ||
	    kicks->nr == PARK_KICKS || park_expected(queue))
		return;
	waiter = park_find_sleeper(blk, queue);
	if (waiter)
		park_wake(blk, waiter, kicks);
}

/* Lock held. */
static void park_offer_all(struct iomap__blk *blk, struct park_kicks *kicks)
{
	unsigned i;

	if (iomap__list_empty(&blk->sleepers))
		return;
	for (i = 0; i < blk->nr_queues; i++)
		park_offer(blk, &blk->queues[i], kicks);
}

void iomap__park_work_added(struct iomap__queue *queue)
{
	struct iomap__blk *blk = queue->blk;
	struct park_kicks kicks;

	park_no_kicks(&kicks);
	if (iomap__likely(!atomic_load_explicit(&blk->nr_waiters, memory_order_acquire)) ||
	    park_reaper(queue))
		return;
	iomap__mutex_lock(&blk->park_lock);
	park_offer(blk, queue, &kicks);
	iomap__mutex_unlock(&blk->park_lock);
	park_kick(blk, &kicks);
}

void iomap__park_expect(struct iomap__blk *blk)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *queue = iomap__queue_mine(blk);

	/* inside a completion others wait for what is submitted */
	if (self->expect || self->completing)
		return;
	/* before what follows is in flight */
	atomic_fetch_add_explicit(&queue->expected, 1, memory_order_acq_rel);
	self->expect = queue;
	self->expect_hold = iomap__hold_begin(self, queue);
}

void iomap__io_expected(void)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *queue = self->expect;

	if (iomap__likely(!queue))
		return;
	self->expect = NULL;
	atomic_fetch_sub_explicit(&queue->expected, 1, memory_order_acq_rel);
	iomap__hold_end(self, self->expect_hold);
	if (park_inflight(queue))
		iomap__park_work_added(queue);
}

void iomap__park_work_ended(struct iomap__queue *queue)
{
	struct iomap__blk *blk = queue->blk;
	struct park_kicks kicks;
	struct iomap__waiter *waiter;

	park_no_kicks(&kicks);
	/* The push of the request before this and the collecting of a new reaper are
	 * read-modify-writes of the same word: one of us sees the other. */
	if (!park_reaper(queue)) {
		iomap__loop_notify(blk);
		return;
	}
	iomap__mutex_lock(&blk->park_lock);
	waiter = park_reaper(queue);
	if (waiter && waiter->state == IOMAP__WAITER_RING)
		park_wake(blk, waiter, &kicks);
	/* whoever had the role may have looked for the last time before the push */
	kicks.loop = !waiter;
	iomap__mutex_unlock(&blk->park_lock);
	park_kick(blk, &kicks);
}

/* ---- roles; lock held ---- */

static bool park_may_take(struct iomap__blk *blk, struct iomap__waiter *waiter,
			  struct iomap__queue *queue)
{
	struct iomap__waiter *reaper = park_reaper(queue);

	if (!reaper)
		/* a poll looks at all (loop.c) */
		return queue == waiter->home || !waiter->word || !park_expected(queue);
	return queue == waiter->home && reaper->home != queue &&
	       reaper->state == IOMAP__WAITER_RING &&
	       (!blk->backend->sleep || reaper->eventfd >= 0);
}

/* Take the role of all queues that need a reaper and that we care for.  True if any. */
static bool park_take_roles(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	uint32_t before = waiter->roles;
	unsigned i;

	for (i = 0; i < blk->nr_queues; i++) {
		struct iomap__queue *queue = &blk->queues[i];
		struct iomap__waiter *reaper;

		if ((waiter->only && waiter->only != queue) || waiter->roles & park_bit(queue) ||
		    !park_inflight(queue) || !park_may_take(blk, waiter, queue))
			continue;
		reaper = park_reaper(queue);
		if (reaper)
			reaper->roles &= ~park_bit(queue);
		park_set_reaper(queue, waiter);
		waiter->roles |= park_bit(queue);
	}
	return waiter->roles != before;
}

static void park_drop_role(struct iomap__waiter *waiter, struct iomap__queue *queue)
{
	waiter->roles &= ~park_bit(queue);
	park_set_reaper(queue, NULL);
}

/* Queues with nothing in flight need no reaper.  True if one has to be collected from again. */
static bool park_drop_idle_roles(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	bool again = false;
	unsigned i;

	for (i = 0; i < blk->nr_queues; i++) {
		struct iomap__queue *queue = &blk->queues[i];

		if (!(waiter->roles & park_bit(queue)) || park_inflight(queue))
			continue;
		park_drop_role(waiter, queue);
		/*
		 * Something may have been submitted before the role was seen to be free.  Then
		 * it is ours again, also if we inherited it and do not care for the queue.  An
		 * I/O thread may have seen it free and wakes nobody: see iomap__park_work_ended().
		 */
		if (park_inflight(queue)) {
			park_set_reaper(queue, waiter);
			waiter->roles |= park_bit(queue);
			again = true;
		}
	}
	return again;
}

/* Hand roles from @from to @to, both of this thread. */
static void park_move_roles(struct iomap__blk *blk, struct iomap__waiter *from,
			    struct iomap__waiter *to, uint32_t which)
{
	unsigned i;

	for (i = 0; i < blk->nr_queues; i++) {
		struct iomap__queue *queue = &blk->queues[i];

		if (!(from->roles & which & park_bit(queue)))
			continue;
		from->roles &= ~park_bit(queue);
		to->roles |= park_bit(queue);
		park_set_reaper(queue, to);
	}
}

/* Give up what roles are left, and see who should go on. */
static void park_leave_roles(struct iomap__blk *blk, struct iomap__waiter *waiter,
			     struct park_kicks *kicks)
{
	unsigned i;

	for (i = 0; waiter->roles && i < blk->nr_queues; i++) {
		if (!(waiter->roles & park_bit(&blk->queues[i])))
			continue;
		/* loop.c: a poll that was to collect it has found the role taken */
		if (iomap__loop_on(blk))
			kicks->loop |= blk->backend->ready(&blk->queues[i]);
		park_drop_role(waiter, &blk->queues[i]);
	}
	park_offer_all(blk, kicks);
}

/*
 * Lock not held.  While we are RUNNING nobody takes a role of ours, but a callback may have
 * slept in a wait of its own and lost one: so each is looked at when its turn comes.
 */
static unsigned park_reap(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	unsigned nr = 0, i;

	for (i = 0; i < blk->nr_queues; i++)
		if (park_reaper(&blk->queues[i]) == waiter)
			nr += iomap__queue_reap(&blk->queues[i]);
	if (iomap__private_busy(waiter->own))
		nr += iomap__private_reap(waiter->own);
	return nr;
}

/* ---- sleeping ---- */

/*
 * Lock held.  None is closed before the end: a late kick would write into whatever file of
 * the application has got the number.  With -1 the waiter looks around every now and then.
 */
static int park_get_eventfd(struct iomap__blk *blk)
{
	int fd;

	if (blk->nr_spare_eventfds)
		return blk->spare_eventfds[--blk->nr_spare_eventfds];
	if (blk->nr_eventfds == iomap__array_len(blk->spare_eventfds))
		return -1;
	if (iomap__fails(blk->env, IOMAP_FAIL_EVENTFD))
		return -1;
	iomap__count(syscalls_nr);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd >= 0)
		blk->nr_eventfds++;
	return fd;
}

/* Lock held. */
static void park_put_eventfd(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	if (waiter->eventfd >= 0)
		blk->spare_eventfds[blk->nr_spare_eventfds++] = waiter->eventfd;
	waiter->eventfd = -1;
}

/* Lock held at entry and exit, not in between. */
static void park_sleep(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	bool own = iomap__private_busy(waiter->own), ring = waiter->roles || own;
	uint32_t state = ring ? IOMAP__WAITER_RING : IOMAP__WAITER_FUTEX;
	uint64_t now;

	waiter->asleep_roles = waiter->roles;
	waiter->asleep_own = own;
	if (!ring)
		park_put_eventfd(blk, waiter);
	if (ring && blk->backend->sleep && waiter->eventfd < 0 &&
	    (waiter->deadline_ns || own || waiter->roles != park_bit(waiter->home)))
		waiter->eventfd = park_get_eventfd(blk);
	iomap__store(&waiter->state, state);
	iomap__list_add_tail(&waiter->sleepers, &blk->sleepers);
	iomap__mutex_unlock(&blk->park_lock);

	if (ring && blk->backend->sleep) {
		blk->backend->sleep(blk, waiter);
	} else if (!waiter->deadline_ns) {
		iomap__futex_wait(&waiter->state, state);
	} else {
		now = park_now_ns();
		if (now < waiter->deadline_ns)
			iomap__futex_wait_timeout(&waiter->state, state,
						  waiter->deadline_ns - now);
	}

	iomap__mutex_lock(&blk->park_lock);
	if (waiter->state != IOMAP__WAITER_RUNNING) {
		iomap__store(&waiter->state, IOMAP__WAITER_RUNNING);
		iomap__list_del(&waiter->sleepers);
	}
}

static bool park_changed(const struct iomap__waiter *waiter, uint32_t expected)
{
	/* acquire: pairs with the release with which the word is changed */
	return waiter->woken || iomap__load_acquire(waiter->word) != expected;
}

static bool park_ready(struct iomap__blk *blk, const struct iomap__waiter *waiter)
{
	unsigned i;

	if (iomap__private_busy(waiter->own) && blk->backend->ready(waiter->own))
		return true;
	for (i = 0; i < blk->nr_queues; i++)
		if (waiter->roles & park_bit(&blk->queues[i]) &&
		    blk->backend->ready(&blk->queues[i]))
			return true;
	return false;
}

/* Going to sleep sends what the thread holds in its queue. */
static bool park_sleep_sends(const struct iomap__blk *blk, const struct iomap__waiter *waiter)
{
	return blk->backend->sleep_sends && waiter->eventfd < 0 && !waiter->deadline_ns &&
	       !iomap__private_busy(waiter->own) &&
	       waiter->roles == park_bit(waiter->home);
}

/* Lock held at entry and exit.  Returns false at the deadline. */
static bool park_loop(struct iomap__blk *blk, struct iomap__waiter *waiter, uint32_t expected)
{
	struct iomap__thread *self = iomap__thread_self();
	bool any;

	while (!park_changed(waiter, expected)) {
		if (waiter->deadline_ns && park_now_ns() >= waiter->deadline_ns)
			return false;
		park_take_roles(blk, waiter);
		if (waiter->roles || iomap__private_busy(waiter->own)) {
			bool send = self->held && !park_sleep_sends(blk, waiter);

			iomap__mutex_unlock(&blk->park_lock);
			/* before it looks after others: they may always have something to collect */
			if (send)
				iomap__hold_send(self);
			any = park_reap(blk, waiter) != 0;
			/* what callbacks have submitted; we may be inside an inline bio's end */
			iomap__inline_flush(self);
			iomap__mutex_lock(&blk->park_lock);
			any |= park_drop_idle_roles(blk, waiter);
			/* All of this was looked at while the lock was not held. */
			if (any || park_take_roles(blk, waiter) ||
			    park_changed(waiter, expected) || park_ready(blk, waiter))
				continue;
		}
		if (self->held && !park_sleep_sends(blk, waiter)) {
			iomap__mutex_unlock(&blk->park_lock);
			iomap__hold_send(self);
			iomap__mutex_lock(&blk->park_lock);
			continue;
		}
		park_sleep(blk, waiter);
	}
	return true;
}

static bool park_wait(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
		      struct iomap__queue *only, uint64_t timeout_ns)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__waiter *outer = self->waiter, waiter = {
		.state = IOMAP__WAITER_RUNNING,
		.word = word,
		.home = only ? only : iomap__queue_mine(blk),
		.only = only,
		.eventfd = -1,
		.deadline_ns = timeout_ns ? park_now_ns() + timeout_ns : 0,
		.waiting = self->waiting,
	};
	struct park_kicks kicks;
	unsigned bucket = park_bucket(word);
	struct iomap__queue *held;
	uint32_t inherited = 0;
	bool in_time;

	if (iomap__unlikely(self->expect) && self->expect != waiter.home)
		iomap__io_expected();
	held = iomap__hold_begin(self, waiter.home);

	park_no_kicks(&kicks);
	iomap__plug_flush(blk);
	iomap__inline_flush(self);
	if (iomap__load_acquire(word) != expected) {
		iomap__hold_end(self, held);
		return true;
	}

	iomap__count(waits_nr);
	waiter.own = iomap__private_mine(blk);
	iomap__list_init(&waiter.sleepers);
	iomap__mutex_lock(&blk->park_lock);
	if (outer && outer->blk == blk) {
		inherited = outer->roles;
		park_move_roles(blk, outer, &waiter, inherited);
	}
	waiter.blk = blk;
	self->waiter = &waiter;
	iomap__list_add_tail(&waiter.bucket, &blk->buckets[bucket]);
	atomic_fetch_add_explicit(&blk->bucket_nr[bucket], 1, memory_order_acq_rel);
	atomic_fetch_add_explicit(&blk->nr_waiters, 1, memory_order_acq_rel);
	if (self->expect) {
		atomic_fetch_sub_explicit(&waiter.home->expected, 1, memory_order_acq_rel);
		self->expect = NULL;
		held = self->expect_hold;
	}

	in_time = park_loop(blk, &waiter, expected);

	self->waiter = outer;
	if (inherited)
		park_move_roles(blk, &waiter, outer, inherited);
	if (!waiter.woken) {
		iomap__list_del(&waiter.bucket);
		atomic_fetch_sub_explicit(&blk->bucket_nr[bucket], 1, memory_order_relaxed);
	}
	atomic_fetch_sub_explicit(&blk->nr_waiters, 1, memory_order_relaxed);
	park_put_eventfd(blk, &waiter);
	park_leave_roles(blk, &waiter, &kicks);
	iomap__mutex_unlock(&blk->park_lock);
	park_kick(blk, &kicks);
	iomap__hold_end(self, held);
	return in_time;
}

void iomap__io_wait(struct iomap__blk *blk, const uint32_t *word, uint32_t expected)
{
	park_wait(blk, word, expected, NULL, 0);
}

bool iomap__io_wait_timeout(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			    uint64_t timeout_ns)
{
	return park_wait(blk, word, expected, NULL, timeout_ns);
}

void iomap__io_wait_only(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			 struct iomap__queue *only)
{
	park_wait(blk, word, expected, only, 0);
}

void iomap__io_wake(struct iomap__blk *blk, const uint32_t *word)
{
	unsigned bucket = park_bucket(word);
	struct iomap_list_head *head = &blk->buckets[bucket], *item;
	struct park_kicks kicks;
	bool more;

	park_no_kicks(&kicks);
	/* Not a load: see the file's head. */
	if (!atomic_fetch_add_explicit(&blk->bucket_nr[bucket], 0, memory_order_acq_rel))
		return;
	do {
		more = false;
		iomap__mutex_lock(&blk->park_lock);
		for (item = head->next; item != head;) {
			struct iomap__waiter *waiter =
				iomap__container_of(item, struct iomap__waiter, bucket);

			item = item->next;
			if (waiter->word != word)
				continue;
			if (kicks.nr == PARK_KICKS) {
				more = true;
				break;
			}
			waiter->woken = true;
			iomap__list_del(&waiter->bucket);
			atomic_fetch_sub_explicit(&blk->bucket_nr[bucket], 1,
						  memory_order_relaxed);
			if (waiter->state != IOMAP__WAITER_RUNNING)
				park_wake(blk, waiter, &kicks);
		}
		iomap__mutex_unlock(&blk->park_lock);
		park_kick(blk, &kicks);
	} while (more);
}

void iomap__park_each_waiting(struct iomap__blk *blk,
			      void (*fn)(void *arg, struct iomap__slow *slow), void *arg)
{
	struct iomap_list_head *item;
	unsigned i;

	iomap__mutex_lock(&blk->park_lock);
	for (i = 0; i < IOMAP__PARK_BUCKETS; i++)
		for (item = blk->buckets[i].next; item != &blk->buckets[i]; item = item->next) {
			struct iomap__waiter *waiter =
				iomap__container_of(item, struct iomap__waiter, bucket);

			if (waiter->waiting)
				fn(arg, waiter->waiting);
		}
	iomap__mutex_unlock(&blk->park_lock);
}

unsigned iomap__io_poll(struct iomap__blk *blk)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__waiter *outer = self->waiter, waiter = {
		.state = IOMAP__WAITER_RUNNING,
		.home = iomap__queue_mine(blk),
		.own = iomap__private_mine(blk),
		.eventfd = -1,
		.blk = blk,
	};
	struct park_kicks kicks;
	struct iomap__queue *held;
	uint32_t inflight = iomap__private_busy(waiter.own);
	unsigned reaped, i;

	park_no_kicks(&kicks);
	/* Inside a completion the thread reaps already: further down its stack. */
	if (self->completing)
		return 0;
	iomap__io_expected();
	for (i = 0; i < blk->nr_queues; i++)
		inflight |= atomic_load_explicit(&blk->queues[i].inflight, memory_order_relaxed);
	if (!inflight)
		return 0;
	iomap__list_init(&waiter.sleepers);
	held = iomap__hold_begin(self, waiter.home);
	iomap__mutex_lock(&blk->park_lock);
	park_take_roles(blk, &waiter);
	self->waiter = &waiter;
	iomap__mutex_unlock(&blk->park_lock);
	reaped = park_reap(blk, &waiter);
	iomap__mutex_lock(&blk->park_lock);
	self->waiter = outer;
	park_leave_roles(blk, &waiter, &kicks);
	iomap__mutex_unlock(&blk->park_lock);
	park_kick(blk, &kicks);
	iomap__hold_end(self, held);
	return reaped;
}

void iomap__park_init(struct iomap__blk *blk)
{
	unsigned i;

	iomap__mutex_init(&blk->park_lock, IOMAP__RANK_PARK);
	iomap__list_init(&blk->sleepers);
	iomap__slow_init(blk);
	for (i = 0; i < IOMAP__PARK_BUCKETS; i++)
		iomap__list_init(&blk->buckets[i]);
}

void iomap__park_exit(struct iomap__blk *blk)
{
	while (blk->nr_spare_eventfds)
		close(blk->spare_eventfds[--blk->nr_spare_eventfds]);
}
