/* SPDX-License-Identifier: MIT */
/*
 * work.c - workers: threads for callbacks that may block, and for I/O that nobody waits for.
 *
 * A work is idle -> queued (QUEUED, in the queue) -> begun (QUEUED cleared, known by a frame
 * on the stack of the thread that runs it) -> idle.  From the moment it has begun it may be
 * queued again; a thread that finds at the head of the queue what another one is running
 * leaves it with that one's frame, which puts it back at its end, so that a function never
 * runs beside itself.  Frames know works by a number that each gets when it is initialised: a
 * function may free its work, and the next one at that address must not wait for it.
 *
 * A worker is busy, idle (asleep on its own futex word), or the watcher (asleep in the parking
 * lot).  Whoever wants one takes it off the list of the idle, or off its post, under the lock,
 * sets its word, and wakes it without the lock: so each wake-up is for a thread of its own.
 *
 * The watcher.  An asynchronous I/O needs somebody who reaps it though nobody waits.  While
 * there are any, one worker that has nothing to do waits in iomap__io_wait(), and by the rules
 * of park.c becomes the reaper wherever nobody else is.  It does so only then: in the parking
 * lot it would be woken for the I/O of callers who wait themselves.  The invariant: with
 * asynchronous I/O in flight there is a watcher, or no worker that could be one.  It may break
 *	when the first I/O is submitted	the submitter looks, under the lock
 *	when the watcher turns to work	it calls an idle one to its post, or starts one
 *	when a worker turns idle	it looks before it sleeps, under the lock
 * `watched` goes up before the submitter looks, so that one of the two sees the other.
 *
 * A watcher that queues work itself, from a completion that it reaps, runs it itself: there is
 * nobody to be woken for it but the next watcher.
 *
 * Threads are started under the lock, one at a time, when there is something to do and nobody
 * to do it; they end in iomap__workers_finish().
 *
 * An application's event loop, once it has asked for the descriptor, finds it readable for as
 * long as the queue is not empty.  What a poll finds in the queues it is about to run itself,
 * so nothing is said of it before the poll has run one of them.
 *
 * Works that end writeback: marked when they are queued inside the bi_end_io of an ioend.  Who
 * waits for writeback runs them while it waits, also where there are workers: all of these may
 * wait for a lock that it holds.  It runs those that end nothing of a class below the one it is
 * concerned with, as it may run writepages (iomap__work_end_writeback(); the waiting is in
 * cache/dirty.c).  One that it leaves since it runs it is told of when that run is over.
 *
 * Locks: `lock` (IOMAP__RANK_WORK) guards all but `watched`, `waiters` and `event`.  No work
 * runs under it.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "block/block.h"
#include "cache/cache.h"
#include "iomap/workers.h"

#define WORK_QUEUED 0x1U
/* what it is to do ends writeback of inodes of these classes: a bit for each */
#define WORK_ENDS_SHIFT 8
#define WORK_ENDS (0xffU << WORK_ENDS_SHIFT)

static _Atomic uint64_t work_ids;

struct worker {
	struct iomap__workers *workers;
	pthread_t thread;
	struct iomap__thread *self; /* its record */
	uint32_t word;		    /* 1: called; what it sleeps on */
	struct iomap_list_head idle;
};

struct iomap__workers {
	struct iomap_engine *engine;
	struct iomap__mutex lock;
	struct iomap_list_head queue;
	struct iomap_list_head running; /* frames */
	struct iomap_list_head idle;
	struct worker *watcher; /* asleep at its post, and not called */
	uint32_t nr, max;	/* threads; `nr` is also read without the lock */
	bool stop;
	bool loop;	       /* there is an event loop to be told */
	bool told;	       /* it has been, that work waits */
	struct worker *worker; /* max of them */
	/* without the lock */
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint32_t watched; /* I/Os in flight nobody waits for */
	_Atomic uint32_t waiters; /* between iomap__work_wait_begin() and _end() */
	_Atomic uint32_t reaping; /* polls that will look at the queue in a moment */
	_Atomic uint32_t marked;  /* works queued that end writeback, about; see mark_counted() */
	uint32_t event;
};

/* Wake-ups that have been decided, to be carried out without the lock. */
struct work_calls {
	const uint32_t *idle, *watcher;
	bool event, ends;
};

/* ---- calling workers ---- */

static void *worker_main(void *arg);

/* Lock held.  False: there is no thread to be had. */
static bool worker_start(struct iomap__workers *workers)
{
	struct worker *worker = &workers->worker[workers->nr];
	struct iomap__env *env = &workers->engine->env;
	sigset_t all, before;
	int error = EAGAIN;

	worker->workers = workers;
	iomap__list_init(&worker->idle);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (!iomap__fails(env, IOMAP_FAIL_THREAD_CREATE))
		error = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		iomap__log(env, IOMAP_LOG_ERROR, "engine: no worker thread: %s", strerror(error));
		return false;
	}
	iomap__store_release(&workers->nr, workers->nr + 1);
	return true;
}

/* Lock held.  Call @worker, which is off its list or post. */
static const uint32_t *worker_call(struct worker *worker)
{
	/* release: pairs with worker_sleep() */
	iomap__store_release(&worker->word, 1);
	return &worker->word;
}

static void call_watcher(struct iomap__workers *workers, struct work_calls *calls)
{
	struct worker *watcher = workers->watcher;

	workers->watcher = NULL;
	calls->watcher = worker_call(watcher);
	/* at its post, but awake: it looks at its word before it sleeps */
	if (watcher->self == iomap__thread_self())
		calls->watcher = NULL;
}

/* Lock held.  Somebody who is idle, or new.  False: there is none. */
static bool call_idle(struct iomap__workers *workers, struct work_calls *calls)
{
	struct iomap_list_head *first = workers->idle.next;

	if (first != &workers->idle) {
		iomap__list_del(first);
		calls->idle = worker_call(iomap__container_of(first, struct worker, idle));
		return true;
	}
	return workers->nr < workers->max && !workers->stop && worker_start(workers);
}

/* Lock held.  There is work in the queue. */
static void call_for_work(struct iomap__workers *workers, struct work_calls *calls)
{
	struct worker *watcher = workers->watcher;

	if (watcher && (watcher->self == iomap__thread_self() || !atomic_load(&workers->watched)))
		call_watcher(workers, calls);
	else if (!call_idle(workers, calls) && watcher)
		call_watcher(workers, calls);
}

/* Lock held.  Who waits for work to come or go looks again. */
static void call_waiters(struct iomap__workers *workers, struct work_calls *calls)
{
	if (!atomic_load(&workers->waiters))
		return;
	iomap__fetch_add(&workers->event, 1);
	calls->event = true;
}

/* Lock not held. */
static void calls_carry_out(struct iomap__workers *workers, const struct work_calls *calls)
{
	struct iomap__blk *blk = workers->engine->blk;

	if (calls->idle)
		iomap__futex_wake(calls->idle, 1);
	if (calls->watcher)
		iomap__io_wake(blk, calls->watcher);
	if (calls->event)
		iomap__io_wake(blk, &workers->event);
	if (calls->ends)
		iomap__wb_end_queued(workers->engine);
}

/* Lock held.  The queue may have become empty, or not to be so any more. */
static void tell_loop(struct iomap__workers *workers)
{
	bool waits = !iomap__list_empty(&workers->queue);

	if (iomap__likely(!workers->loop) || workers->told == waits ||
	    atomic_load(&workers->reaping))
		return;
	workers->told = waits;
	iomap__loop_work(workers->engine->blk, waits);
}

/* ---- running work; lock held at entry and exit ---- */

static struct iomap__work_frame *work_frame_of(struct iomap__workers *workers,
					       const struct iomap_work *work)
{
	struct iomap_list_head *item;

	for (item = workers->running.next; item != &workers->running; item = item->next) {
		struct iomap__work_frame *frame =
			iomap__container_of(item, struct iomap__work_frame, running);

		if (frame->id == work->id)
			return frame;
	}
	return NULL;
}

static struct iomap_work *work_next(struct iomap__workers *workers)
{
	struct iomap__work_frame *frame;
	struct iomap_work *work = NULL;

	while (!iomap__list_empty(&workers->queue)) {
		work = iomap__container_of(workers->queue.next, struct iomap_work, entry);
		iomap__list_del(&work->entry);
		frame = work_frame_of(workers, work);
		if (!frame)
			break;
		frame->again = work;
		work = NULL;
	}
	tell_loop(workers);
	return work;
}

static void work_dequeued(struct iomap__workers *workers, struct iomap_work *work)
{
	/* acquire: what was done before an iomap_queue_work() that found it queued */
	if (iomap__fetch_and(&work->state, ~(WORK_QUEUED | WORK_ENDS)) & WORK_ENDS)
		atomic_fetch_sub(&workers->marked, 1);
}

/* Lock held, the run of @frame is over: whether who waits for writeback has something to run. */
static bool work_ends_again(const struct iomap__work_frame *frame)
{
	return frame->wanted ||
	       (frame->again && iomap__load_acquire(&frame->again->state) & WORK_ENDS);
}

/* True: it was queued again meanwhile, and is so now. */
static bool work_run(struct iomap__workers *workers, struct iomap_work *work)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__work_frame frame = {
		.workers = workers,
		.outer = self->work,
		.id = work->id,
	};
	iomap_work_fn *func = work->func;
	struct work_calls calls = { .event = false };
	uint64_t deadline_ns = self->deadline_ns;

	iomap__list_add_tail(&frame.running, &workers->running);
	work_dequeued(workers, work);
	if (atomic_load(&workers->watched) && !workers->watcher)
		call_idle(workers, &calls);
	iomap__mutex_unlock(&workers->lock);
	calls_carry_out(workers, &calls);

	self->work = &frame;
	/* what it waits for is not what a sync waits for that happens to run it */
	self->deadline_ns = 0;
	func(work);
	self->deadline_ns = deadline_ns;
	self->work = frame.outer;

	calls = (struct work_calls){ .event = false };
	iomap__mutex_lock(&workers->lock);
	iomap__list_del(&frame.running);
	if (frame.again)
		iomap__list_add_tail(&frame.again->entry, &workers->queue);
	tell_loop(workers);
	call_waiters(workers, &calls);
	calls.ends = work_ends_again(&frame);
	if (calls.event || calls.ends) {
		iomap__mutex_unlock(&workers->lock);
		calls_carry_out(workers, &calls);
		iomap__mutex_lock(&workers->lock);
	}
	return frame.again;
}

/* Until the worker is called. */
static void worker_sleep(struct iomap__workers *workers, struct worker *worker)
{
	bool watch = atomic_load(&workers->watched) && !workers->watcher;
	struct iomap__blk *blk = workers->engine->blk;

	iomap__store(&worker->word, 0);
	if (watch)
		workers->watcher = worker;
	else
		/* the one that slept last is called first: its memory is in the caches */
		iomap__list_add_tail(&worker->idle, workers->idle.next);
	iomap__mutex_unlock(&workers->lock);
	/* acquire: pairs with worker_call() */
	while (!iomap__load_acquire(&worker->word)) {
		if (watch)
			iomap__io_wait(blk, &worker->word, 0);
		else
			iomap__futex_wait(&worker->word, 0);
	}
	iomap__mutex_lock(&workers->lock);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct iomap__workers *workers = worker->workers;
	struct iomap_work *work;

	(void)prctl(PR_SET_NAME, "iomap-worker");
	iomap__mutex_lock(&workers->lock);
	worker->self = iomap__thread_self();
	for (;;) {
		work = work_next(workers);
		if (work)
			work_run(workers, work);
		else if (workers->stop)
			break;
		else
			worker_sleep(workers, worker);
	}
	iomap__mutex_unlock(&workers->lock);
	return NULL;
}

/* ---- queueing ---- */

void iomap_init_work(struct iomap_work *work, iomap_work_fn *func)
{
	memset(work, 0, sizeof(*work));
	work->func = func;
	/* relaxed: each number is given out once, nothing hangs on it */
	work->id = atomic_fetch_add_explicit(&work_ids, 1, memory_order_relaxed);
	iomap__list_init(&work->entry);
}

/*
 * @before: the state that marking has found.  Whoever runs the work may have uncounted it by now,
 * and then `marked` is too low until here: iomap__wb_end_queued(), which follows in any case,
 * has those look again who have seen it so.
 */
static void mark_counted(struct iomap__workers *workers, uint32_t before)
{
	if (!(before & WORK_ENDS))
		atomic_fetch_add(&workers->marked, 1);
}

bool iomap_queue_work(struct iomap_engine *engine, struct iomap_work *work)
{
	struct iomap__workers *workers = engine->workers;
	uint32_t ends = iomap__thread_self()->ending_ioends << WORK_ENDS_SHIFT;
	struct work_calls calls = { .event = false };
	uint32_t before;

	if (iomap__engine_forked(engine))
		return false;
	/* release: pairs with work_dequeued() */
	before = iomap__fetch_or(&work->state, WORK_QUEUED | ends);
	if (ends)
		mark_counted(workers, before);
	if (!(before & WORK_QUEUED)) {
		iomap__mutex_lock(&workers->lock);
		iomap__list_add_tail(&work->entry, &workers->queue);
		call_for_work(workers, &calls);
		call_waiters(workers, &calls);
		tell_loop(workers);
		iomap__mutex_unlock(&workers->lock);
		calls_carry_out(workers, &calls);
	}
	/* also for one that was there without the mark */
	if (ends)
		iomap__wb_end_queued(engine);
	return !(before & WORK_QUEUED);
}

/* Lock held at entry and exit. */
static void flush_run(struct iomap__workers *workers, struct iomap_work *work)
{
	struct work_calls calls = { .event = false };

	if (!work_run(workers, work))
		return;
	/* a worker that was called for it has left it with us, and sleeps again */
	call_for_work(workers, &calls);
	iomap__mutex_unlock(&workers->lock);
	calls_carry_out(workers, &calls);
	iomap__mutex_lock(&workers->lock);
}

/* Lock held.  One that ends writeback, of no class below @class, off the queue; or NULL. */
static struct iomap_work *work_next_ending(struct iomap__workers *workers, unsigned class)
{
	uint32_t below = ((1U << class) - 1) << WORK_ENDS_SHIFT;
	struct iomap_list_head *item;

	for (item = workers->queue.next; item != &workers->queue; item = item->next) {
		struct iomap_work *work = iomap__container_of(item, struct iomap_work, entry);
		uint32_t state = iomap__load_acquire(&work->state);

		struct iomap__work_frame *frame;

		if (!(state & WORK_ENDS) || state & below)
			continue;
		frame = work_frame_of(workers, work);
		if (frame) {
			frame->wanted = true;
			continue;
		}
		iomap__list_del(item);
		tell_loop(workers);
		return work;
	}
	return NULL;
}

bool iomap__work_end_writeback(struct iomap_engine *engine, unsigned class)
{
	struct iomap__workers *workers = engine->workers;
	struct iomap_work *work;

	/* the queue may be long, and nothing in it of this kind */
	if (!atomic_load(&workers->marked))
		return false;
	iomap__mutex_lock(&workers->lock);
	work = work_next_ending(workers, class);
	if (work)
		flush_run(workers, work);
	iomap__mutex_unlock(&workers->lock);
	return work;
}

struct iomap_work *iomap__work_take(struct iomap_engine *engine, iomap__work_match_fn *match,
				    const void *arg)
{
	struct iomap__workers *workers = engine->workers;
	struct iomap_work *found = NULL;
	struct iomap_list_head *item;

	iomap__mutex_lock(&workers->lock);
	for (item = workers->queue.next; item != &workers->queue; item = item->next) {
		struct iomap_work *work = iomap__container_of(item, struct iomap_work, entry);

		if (!match(work, arg))
			continue;
		iomap__list_del(&work->entry);
		work_dequeued(workers, work);
		found = work;
		break;
	}
	tell_loop(workers);
	iomap__mutex_unlock(&workers->lock);
	return found;
}

/* ---- waiting ---- */

void iomap__work_wait_begin(struct iomap_engine *engine)
{
	/* read-modify-write: pairs with that of iomap__work_notify() */
	atomic_fetch_add(&engine->workers->waiters, 1);
}

uint32_t iomap__work_event(struct iomap_engine *engine)
{
	return iomap__load_acquire(&engine->workers->event);
}

void iomap__work_wait(struct iomap_engine *engine, uint32_t event)
{
	iomap__io_wait(engine->blk, &engine->workers->event, event);
}

void iomap__work_wait_for(struct iomap_engine *engine, uint32_t event, uint64_t timeout_ns)
{
	(void)iomap__io_wait_timeout(engine->blk, &engine->workers->event, event, timeout_ns);
}

void iomap__work_wait_end(struct iomap_engine *engine)
{
	atomic_fetch_sub(&engine->workers->waiters, 1);
}

void iomap__work_notify(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;

	/*
	 * Not a load: of this and the waiter's one comes first, and the other sees it; so the
	 * waiter sees what has changed, or we see the waiter.
	 */
	if (!atomic_fetch_add(&workers->waiters, 0))
		return;
	iomap__fetch_add(&workers->event, 1);
	iomap__io_wake(engine->blk, &workers->event);
}

/* Lock held.  The caller runs it itself: where nobody else would, or perhaps nobody could. */
static bool flush_by_caller(struct iomap__workers *workers, struct iomap_work *work)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_list_head *item;

	if (workers->nr && !self->work)
		return false;
	for (item = workers->queue.next; item != &workers->queue; item = item->next) {
		if (item != &work->entry)
			continue;
		if (work_frame_of(workers, work))
			return false;
		iomap__list_del(item);
		tell_loop(workers);
		flush_run(workers, work);
		return true;
	}
	return false;
}

void iomap_flush_work(struct iomap_engine *engine, struct iomap_work *work)
{
	struct iomap__workers *workers = engine->workers;
	struct iomap__thread *self = iomap__thread_self();
	uint32_t event;

	if (iomap__engine_forked(engine))
		return;
	for (struct iomap__work_frame *frame = self->work; frame; frame = frame->outer)
		iomap__assert_msg(frame->id != work->id, "work %p waits for itself", (void *)work);
	iomap__work_wait_begin(engine);
	iomap__mutex_lock(&workers->lock);
	for (;;) {
		event = iomap__work_event(engine);
		if (flush_by_caller(workers, work))
			continue;
		if (!(iomap__load_acquire(&work->state) & WORK_QUEUED) &&
		    !work_frame_of(workers, work))
			break;
		iomap__mutex_unlock(&workers->lock);
		iomap__work_wait(engine, event);
		iomap__mutex_lock(&workers->lock);
	}
	iomap__mutex_unlock(&workers->lock);
	iomap__work_wait_end(engine);
}

/* ---- I/O that nobody waits for ---- */

bool iomap__workers_ready(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	bool ready;

	if (!workers->max || iomap__load_acquire(&workers->nr))
		return true;
	iomap__mutex_lock(&workers->lock);
	ready = workers->nr || worker_start(workers);
	iomap__mutex_unlock(&workers->lock);
	return ready;
}

int iomap__workers_watch(struct iomap_engine *engine, const uint32_t **call)
{
	struct iomap__workers *workers = engine->workers;
	struct work_calls calls = { .event = false };
	int err = 0;

	*call = NULL;
	if (!workers->max)
		return 0;
	/* a thread that could not be had by whoever came first is asked for again */
	if (atomic_fetch_add(&workers->watched, 1) && iomap__load_acquire(&workers->nr))
		return 0;
	iomap__mutex_lock(&workers->lock);
	if (!workers->watcher)
		call_idle(workers, &calls);
	if (!workers->nr) {
		atomic_fetch_sub(&workers->watched, 1);
		err = -EAGAIN;
	}
	iomap__mutex_unlock(&workers->lock);
	*call = calls.idle;
	return err;
}

void iomap__workers_call(const uint32_t *call)
{
	if (call)
		iomap__futex_wake(call, 1);
}

void iomap__workers_unwatch(struct iomap_engine *engine)
{
	if (engine->workers->max)
		atomic_fetch_sub(&engine->workers->watched, 1);
}

void iomap__workers_settle(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	struct work_calls calls = { .event = false };

	iomap__mutex_lock(&workers->lock);
	if (workers->watcher && !atomic_load(&workers->watched))
		call_watcher(workers, &calls);
	iomap__mutex_unlock(&workers->lock);
	calls_carry_out(workers, &calls);
}

int iomap_engine_poll(struct iomap_engine *engine, unsigned budget, bool may_block_callbacks)
{
	struct iomap__workers *workers = engine->workers;
	struct iomap__thread *self = iomap__thread_self();
	struct work_calls calls = { .event = false };
	unsigned handled, ran = 0;
	struct iomap_work *work;

	if (iomap__engine_forked(engine))
		return -ECHILD;
	if (self->completing)
		return 0;
	atomic_fetch_add(&workers->reaping, 1);
	iomap__loop_begin(engine->blk);
	handled = iomap__io_poll(engine->blk);
	atomic_fetch_sub(&workers->reaping, 1);
	iomap__mutex_lock(&workers->lock);
	if (may_block_callbacks && !self->work) {
		for (; ran < budget && (work = work_next(workers)); ran++)
			work_run(workers, work);
		/* one that was queued while we ran it may be there with nobody called for it */
		if (workers->max && !iomap__list_empty(&workers->queue))
			call_for_work(workers, &calls);
	}
	tell_loop(workers);
	iomap__mutex_unlock(&workers->lock);
	calls_carry_out(workers, &calls);
	if (may_block_callbacks && !self->work && ran < budget)
		ran += iomap__flusher_poll(engine);
	return (int)iomap__min(handled + ran, (unsigned)INT32_MAX);
}

int iomap_engine_fd(struct iomap_engine *engine)
{
	struct iomap__workers *workers;
	int fd;

	if (!engine)
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	workers = engine->workers;
	fd = iomap__loop_fd(engine->blk);
	if (fd < 0)
		return fd;
	iomap__mutex_lock(&workers->lock);
	workers->loop = true;
	tell_loop(workers);
	iomap__mutex_unlock(&workers->lock);
	return fd;
}

int64_t iomap_engine_poll_timeout(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	bool waits;

	if (iomap__engine_forked(engine))
		return -1;
	/* the descriptor does not tell of these */
	if (iomap__io_polled(engine->blk))
		return 0;
	/* for who sleeps without the descriptor */
	iomap__mutex_lock(&workers->lock);
	waits = !iomap__list_empty(&workers->queue);
	iomap__mutex_unlock(&workers->lock);
	return waits && !workers->max ? 0 : iomap__flusher_poll_timeout(engine);
}

bool iomap__workers_inside(struct iomap_engine *engine)
{
	struct iomap__work_frame *frame = iomap__thread_self()->work;

	while (frame && frame->workers != engine->workers)
		frame = frame->outer;
	return frame;
}

bool iomap__workers_idle(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	bool idle;

	iomap__mutex_lock(&workers->lock);
	idle = iomap__list_empty(&workers->queue) && iomap__list_empty(&workers->running);
	iomap__mutex_unlock(&workers->lock);
	return idle;
}

void iomap__workers_dump(struct iomap_engine *engine, struct iomap__lines *lines)
{
	struct iomap__workers *workers = engine->workers;
	const struct iomap_list_head *item;
	unsigned queued = 0, running = 0;

	iomap__mutex_lock(&workers->lock);
	for (item = workers->queue.next; item != &workers->queue; item = item->next)
		queued++;
	for (item = workers->running.next; item != &workers->running; item = item->next)
		running++;
	iomap__mutex_unlock(&workers->lock);
	iomap__lines_add(lines, "work: %u waits, %u is running", queued, running);
}

/* ---- life ---- */

int iomap__workers_create(struct iomap_engine *engine)
{
	bool threads = !(engine->opts.flags & IOMAP_ENGINE_NO_THREADS);
	struct iomap__env *env = &engine->env;
	struct iomap__workers *workers;

	workers = iomap__alloc_aligned(env, IOMAP__CACHE_LINE, sizeof(*workers));
	if (!workers)
		return -ENOMEM;
	memset(workers, 0, sizeof(*workers));
	workers->engine = engine;
	workers->max = threads ? engine->opts.nr_workers : 0;
	iomap__mutex_init(&workers->lock, IOMAP__RANK_WORK);
	iomap__list_init(&workers->queue);
	iomap__list_init(&workers->running);
	iomap__list_init(&workers->idle);
	workers->worker = iomap__zalloc(env, workers->max * sizeof(*workers->worker));
	if (!workers->worker) {
		iomap__free(env, workers, sizeof(*workers));
		return -ENOMEM;
	}
	engine->workers = workers;
	return 0;
}

bool iomap__workers_finish(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	struct work_calls calls = { .event = false };
	struct iomap_work *work;
	uint32_t i;

	if (iomap__workers_inside(engine))
		return false;
	iomap__mutex_lock(&workers->lock);
	workers->stop = true;
	if (workers->watcher)
		call_watcher(workers, &calls);
	iomap__mutex_unlock(&workers->lock);
	calls_carry_out(workers, &calls);
	for (;;) {
		calls = (struct work_calls){ .event = false };
		iomap__mutex_lock(&workers->lock);
		call_idle(workers, &calls);
		iomap__mutex_unlock(&workers->lock);
		if (!calls.idle)
			break;
		calls_carry_out(workers, &calls);
	}
	/* one that is busy now sees `stop` before it sleeps */
	for (i = 0; i < workers->nr; i++)
		pthread_join(workers->worker[i].thread, NULL);

	iomap__mutex_lock(&workers->lock);
	while ((work = work_next(workers)))
		work_run(workers, work);
	workers->nr = 0;
	workers->stop = false;
	/* what was run may have submitted I/O, and then the engine lives on */
	calls = (struct work_calls){ .event = false };
	if (atomic_load(&workers->watched))
		call_idle(workers, &calls);
	iomap__mutex_unlock(&workers->lock);
	return true;
}

void iomap__workers_destroy(struct iomap_engine *engine)
{
	struct iomap__workers *workers = engine->workers;
	struct iomap__env *env = &engine->env;

	iomap__assert(iomap__list_empty(&workers->queue) && !workers->nr);
	iomap__free(env, workers->worker, workers->max * sizeof(*workers->worker));
	iomap__free(env, workers, sizeof(*workers));
	engine->workers = NULL;
}
