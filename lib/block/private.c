/* SPDX-License-Identifier: MIT */
/*
 * private.c - queues that one thread has to itself, for POLLED bios.
 *
 * Only their thread submits to them and collects from them, so the backend may set them up in
 * ways in which nobody else could (uring.c).  That is against the rule that whoever waits
 * for an I/O can complete it, and therefore for I/O that nobody else waits for: bios whose
 * submitter has promised, by IOMAP_REQ_POLLED, to come back for them.  Never for the cache's,
 * which any thread may come to wait for.
 *
 * A thread gets its queue with its first such bio, if it is the thread's own affair
 * (iomap__private_for()), and keeps it to its end.  There are IOMAP__PRIVATES_MAX of them in an
 * engine.  Without one, because they are all taken or because the backend cannot make one, the
 * bio goes to a shared queue and is as any other; what cannot be made once is not tried again.
 *
 * Waiting.  For a single bio of the queue its thread sleeps in the queue, for several
 * completions at a time where many are in flight: nobody else can end that wait, and nobody
 * needs to be told.  So the end of a bio waits for company, which a device that hangs would not
 * let come: where several devices are in flight there is a limit of time, which costs a timer
 * for each sleep.  In any other wait the queue is one of those that the thread looks after
 * (park.c).  iomap_engine_poll() collects from it.
 *
 * A thread that ends waits for what it still has in flight there.  POLLED bios that the ends of
 * these submit go to shared queues.
 *
 * Who frees: the thread when it ends, else the end of the engine, whichever comes first.  The
 * latter waits while a thread is at it; the thread's record is static or never freed, so
 * either may look at the other's.
 *
 * Lock: IOMAP__PROCESS_PRIVATES, one for the process since a thread's queues are of
 * several engines: lists of threads, tables of engines.  Using a queue takes none but its own,
 * which nobody contends.
 */
#include <limits.h>

#include "block/internal.h"

/* Completions to sleep for: this part of what is in flight, and no more than that many. */
#define PRIVATE_BATCH_PART 4U
#define PRIVATE_BATCH_MAX 8U

static uint32_t private_gone; /* changes when a thread has given one back; a futex word */

static void private_lock(void)
{
	iomap__word_lock(&iomap__process_lock[IOMAP__PROCESS_PRIVATES], IOMAP__RANK_ENGINE);
}

static void private_unlock(void)
{
	iomap__word_unlock(&iomap__process_lock[IOMAP__PROCESS_PRIVATES]);
}

static struct iomap__private *private_of(struct iomap__queue *queue)
{
	return iomap__container_of(queue, struct iomap__private, queue);
}

/* ---- using it ---- */

struct iomap__queue *iomap__private_mine(struct iomap__blk *blk)
{
	struct iomap__thread *self;
	unsigned i, slot;

	/* relaxed, here and below: a thread looks for what it has stored itself */
	if (iomap__likely(!atomic_load_explicit(&blk->privates_nr, memory_order_relaxed)))
		return NULL;
	self = iomap__thread_self();
	for (i = 0; i < IOMAP__PRIVATES_MAX; i++) {
		slot = (self->id + i) % IOMAP__PRIVATES_MAX;
		if (atomic_load_explicit(&blk->private_owner[slot], memory_order_relaxed) == self)
			return &blk->privates[slot]->queue;
	}
	return NULL;
}

bool iomap__io_polled(struct iomap__blk *blk)
{
	return iomap__private_busy(iomap__private_mine(blk));
}

unsigned iomap__private_reap(struct iomap__queue *queue)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *before = iomap__hold_begin(self, queue);
	unsigned nr = iomap__queue_reap(queue);

	iomap__plug_flush(queue->blk);
	iomap__hold_end(self, before);
	return nr;
}

void iomap__private_submit(struct iomap__queue *queue, struct iomap__bio_list *list, bool will_wait)
{
	struct iomap__private *private = private_of(queue);
	const struct iomap_bio *bio;

	if (!iomap__private_busy(queue))
		private->bdev = list->first->bi_bdev;
	for (bio = list->first; bio; bio = bio->bi_next)
		if (bio->bi_bdev != private->bdev)
			private->bdev = NULL;
	iomap__queue_submit(queue, list, will_wait);
}

/* With few in flight each is urgent; with many the next ones come soon. */
static unsigned private_batch(const struct iomap__queue *queue)
{
	unsigned part = queue->active / PRIVATE_BATCH_PART;

	return iomap__max(iomap__min(part, PRIVATE_BATCH_MAX), 1U);
}

void iomap__private_wait(struct iomap__queue *queue, const uint32_t *word, uint32_t expected)
{
	struct iomap__thread *self = iomap__thread_self();
	unsigned nr, ended = 1;

	while (iomap__load_acquire(word) == expected) {
		/* what callbacks have left there; after the last ones it stays for the next wait */
		iomap__plug_flush(queue->blk);
		/* nothing in all the time there was: then for the next one, however long it takes */
		nr = ended ? private_batch(queue) : 1;
		queue->blk->backend->private_sleep(queue, nr, !private_of(queue)->bdev);
		ended = iomap__queue_reap(queue);
		/* what callbacks have submitted; we may be inside an inline bio's end */
		iomap__inline_flush(self);
	}
}

/* ---- the end of a thread ---- */

/* The next one of @self, which nobody else frees from now on. */
static struct iomap__private *private_leave(struct iomap__thread *self)
{
	struct iomap__private *private;

	private_lock();
	private = self->privates;
	if (private)
		private->leaving = true;
	private_unlock();
	return private;
}

/* lock held */
static void private_vacate(struct iomap__blk *blk, unsigned slot)
{
	blk->privates[slot] = NULL;
	/* release: pairs with the acquire of who takes the place */
	atomic_store_explicit(&blk->private_owner[slot], NULL, memory_order_release);
	atomic_fetch_sub_explicit(&blk->privates_nr, 1, memory_order_relaxed);
}

static void private_drain(struct iomap__queue *queue)
{
	while (iomap__private_busy(queue))
		if (!iomap__private_reap(queue))
			queue->blk->backend->private_sleep(queue, 1, false);
}

static void private_thread_ends(struct iomap__thread *self)
{
	struct iomap__private *private;
	struct iomap__blk *blk;

	while ((private = private_leave(self))) {
		blk = private->queue.blk;
		private_drain(&private->queue);
		blk->backend->private_close(&private->queue, true);
		private_lock();
		self->privates = private->next;
		private_vacate(blk, private->slot);
		iomap__free(blk->env, private, sizeof(*private));
		/* from here on the engine may go */
		iomap__store(&private_gone, private_gone + 1);
		private_unlock();
		iomap__futex_wake(&private_gone, INT_MAX);
	}
	self->on_exit = NULL;
}

/* ---- the end of an engine ---- */

/* Off the lists; NULL: there is none in @slot. */
static struct iomap__private *private_take(struct iomap__blk *blk, unsigned slot)
{
	struct iomap__private *private, **link;
	uint32_t gone;

	private_lock();
	while ((private = blk->privates[slot]) && private->leaving) {
		gone = private_gone;
		private_unlock();
		iomap__futex_wait(&private_gone, gone);
		private_lock();
	}
	if (private) {
		for (link = (struct iomap__private **)&private->queue.owner->privates;
		     *link != private; link = &(*link)->next)
			;
		*link = private->next;
		private_vacate(blk, slot);
	}
	private_unlock();
	return private;
}

void iomap__private_close_all(struct iomap__blk *blk)
{
	struct iomap__private *private;
	unsigned slot;

	for (slot = 0; slot < IOMAP__PRIVATES_MAX; slot++) {
		private = private_take(blk, slot);
		if (!private)
			continue;
		blk->backend->private_close(&private->queue,
					    private->queue.owner == iomap__thread_self());
		iomap__free(blk->env, private, sizeof(*private));
	}
}

/* ---- getting one ---- */

/* A place in the table; IOMAP__PRIVATES_MAX: all are taken. */
static unsigned private_find_slot(struct iomap__blk *blk, struct iomap__thread *self)
{
	struct iomap__thread *nobody;
	unsigned i, slot;

	for (i = 0; i < IOMAP__PRIVATES_MAX; i++) {
		slot = (self->id + i) % IOMAP__PRIVATES_MAX;
		nobody = NULL;
		if (atomic_compare_exchange_strong_explicit(&blk->private_owner[slot], &nobody, self,
							    memory_order_acquire,
							    memory_order_relaxed))
			return slot;
	}
	return IOMAP__PRIVATES_MAX;
}

static struct iomap__private *private_open(struct iomap__blk *blk, struct iomap__thread *self,
					   unsigned slot)
{
	struct iomap__private *private;
	const char *why = "memory";
	int error = -ENOMEM;

	private = iomap__alloc_aligned(blk->env, IOMAP__CACHE_LINE, sizeof(*private));
	if (private) {
		memset(private, 0, sizeof(*private));
		iomap__mutex_init(&private->queue.lock, IOMAP__RANK_QUEUE);
		private->queue.blk = blk;
		private->queue.index = UINT_MAX; /* it is none of those with numbers */
		private->queue.depth = blk->depth;
		private->queue.owner = self;
		private->slot = slot;
		error = blk->backend->private_open(&private->queue, &why);
	}
	if (!error)
		return private;
	iomap__free(blk->env, private, sizeof(*private));
	/* relaxed: it decides who asks, and who writes the line */
	if (!atomic_exchange_explicit(&blk->privates_refused, true, memory_order_relaxed))
		iomap__log(blk->env, IOMAP_LOG_INFO,
			   "polled bios go by the shared queues: a queue of one thread: %s: %s", why,
			   strerror(-error));
	return NULL;
}

static struct iomap__queue *private_get(struct iomap__blk *blk, struct iomap__thread *self)
{
	struct iomap__private *private;
	unsigned slot;

	if (!blk->backend->private_open ||
	    atomic_load_explicit(&blk->privates_refused, memory_order_relaxed))
		return NULL;
	slot = private_find_slot(blk, self);
	if (slot == IOMAP__PRIVATES_MAX)
		return NULL;
	private = private_open(blk, self, slot);
	if (!private) {
		atomic_store_explicit(&blk->private_owner[slot], NULL, memory_order_release);
		return NULL;
	}
	private_lock();
	private->next = self->privates;
	self->privates = private;
	self->on_exit = private_thread_ends;
	blk->privates[slot] = private;
	private_unlock();
	atomic_fetch_add_explicit(&blk->privates_nr, 1, memory_order_relaxed);
	return &private->queue;
}

/*
 * A completion may run in any thread, and so may a work function: what they submit is a
 * promise of nobody.  But where the completion is of this very queue, this thread looks after
 * it, and goes on doing so.
 */
struct iomap__queue *iomap__private_for(struct iomap__blk *blk)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *queue = iomap__private_mine(blk);

	if (self->work || (self->completing && (!queue || self->ending != queue)))
		return NULL;
	if (!queue)
		return private_get(blk, self);
	/* written by this thread alone, if it is written while the thread uses the queue */
	return private_of(queue)->leaving ? NULL : queue;
}
