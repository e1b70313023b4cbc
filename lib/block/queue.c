/* SPDX-License-Identifier: MIT */
/*
 * queue.c - I/O queues: at most `depth` requests in the backend, the rest in a backlog.
 *
 * A thread submits to the queue that its number falls on.  A request that finds the queue
 * full goes to the end of the backlog, linked through the bio itself: nothing is allocated,
 * and submission never has to wait for a completion, so that it works from within a
 * bi_end_io as well.  The reaper starts requests of the backlog as places come free; since
 * there is a backlog only while the backend is full, and somebody who waits always reaps
 * (park.c), it cannot be forgotten.
 *
 * A request passes between threads twice: from the submitter to the reaper, for which the
 * backend has its own release and acquire, and by what its bi_end_io does from the reaper to
 * the waiters, through the word they wait for.
 *
 * Counting.  `active` (under the lock) is what the backend has; `inflight` is what nobody
 * has collected yet, backlog included: while it is not zero, somebody who waits has to
 * reap.  It goes up before requests are started and down when they have been collected,
 * before their bi_end_io runs.
 *
 * Holding.  A thread that is about to sleep in its own queue, or is collecting from it, holds
 * back what it starts there (thread->hold): prepared, but not sent.  So the requests that
 * several bi_end_io submit go out in one system call, and with io_uring it is the one that
 * sleeps.  The thread sends what it holds (iomap__hold_send()) before it does anything else:
 * sleeps elsewhere, sleeps in a callback, or leaves the library; and when there are
 * backend->hold_max, so that the device has something to do meanwhile.  Where the call that
 * sleeps cannot send, nothing is gained by holding back longer than one round of callbacks:
 * then the next round, if there is one, begins by sending.  Whoever else sends in
 * this queue sends these too, which is no harm.  In a queue that is the thread's alone the
 * next call brings the completions in as well, so there it holds back more.
 *
 * What the backend cannot start has the error as the result of its step, and is treated as
 * if the device had said so (step.c): asked for again, or ended.
 *
 * Locks: queue->lock (IOMAP__RANK_QUEUE) is held while requests are started, which may be a
 * system call that the file system makes take a while; not while callbacks run.
 */
#include "block/internal.h"

struct iomap__queue *iomap__queue_mine(struct iomap__blk *blk)
{
	return &blk->queues[iomap__thread_self()->id % blk->nr_queues];
}

/*
 * Lock held.  What cannot be started goes to @failed with its result, and counts as active
 * until that has been looked at.
 */
static void queue_start(struct iomap__queue *queue, struct iomap_bio *bio,
			struct iomap__bio_list *failed)
{
	queue->active++;
	if (iomap__unlikely(iomap__bdev_is_gone(bio->bi_bdev))) {
		iomap__req(bio)->result = -ENODEV;
		iomap__bio_list_add(failed, bio);
		return;
	}
	queue->blk->backend->prepare(queue, bio);
}

/* lock held */
static void queue_start_backlog(struct iomap__queue *queue, struct iomap__bio_list *failed)
{
	struct iomap_bio *bio;

	while (queue->active < queue->depth && (bio = iomap__bio_list_pop(&queue->backlog)))
		queue_start(queue, bio, failed);
}

/* End bios that have been collected; their bi_status is set. */
static void queue_end(struct iomap__queue *queue, struct iomap__bio_list *ended)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__queue *outer = self->ending;
	struct iomap_bio *bio;

	if (!ended->first)
		return;
	/* read-modify-write: park.c relies on the order of changes of this word */
	atomic_fetch_sub_explicit(&queue->inflight, ended->count, memory_order_acq_rel);
	self->ending = queue;
	while ((bio = iomap__bio_list_pop(ended)))
		iomap_bio_endio(bio);
	self->ending = outer;
}

/* Steps have ended: requests that have ended as well go to @ended, the others to @again. */
static void queue_take(struct iomap__bio_list *done, struct iomap__bio_list *ended,
		       struct iomap__bio_list *again)
{
	struct iomap_bio *bio;

	while ((bio = iomap__bio_list_pop(done)))
		iomap__bio_list_add(iomap__step_done(bio, iomap__req(bio)->result) ? ended : again,
				    bio);
}

/* As queue_take(), of requests that never came to the backend. */
static void queue_take_failed(struct iomap__bio_list *failed, struct iomap__bio_list *ended,
			      struct iomap__bio_list *again)
{
	struct iomap__bio_list done = { 0 };
	struct iomap_bio *bio;

	while ((bio = iomap__bio_list_pop(failed))) {
		/* nobody has asked the device, so nobody is told that it has failed */
		bio->bi_status = -ENODEV;
		iomap__bio_list_add(iomap__bdev_is_gone(bio->bi_bdev) ? ended : &done, bio);
	}
	queue_take(&done, ended, again);
}

/* lock held.  Send what is prepared, @started by us since we took the lock, or hold it. */
static void queue_send(struct iomap__queue *queue, unsigned started, struct iomap__bio_list *failed)
{
	const struct iomap__backend *backend = queue->blk->backend;
	struct iomap__thread *self = iomap__thread_self();

	if (self->hold == queue) {
		self->held += started;
		if (self->held < (queue->owner ? backend->private_hold_max : backend->hold_max))
			return;
		self->held = 0;
	}
	backend->send(queue, failed);
}

/* lock held.  The same between two rounds of callbacks. */
static void queue_send_round(struct iomap__queue *queue, unsigned started,
			     struct iomap__bio_list *failed)
{
	struct iomap__thread *self = iomap__thread_self();

	if (self->hold != queue || queue->blk->backend->sleep_sends) {
		queue_send(queue, started, failed);
		return;
	}
	self->held = 0;
	queue->blk->backend->send(queue, failed);
}

/*
 * @freed requests have left the backend: start those of @again, then the backlog.  What the
 * backend cannot start makes room for more of the backlog, unless it is tried again.
 */
static void queue_turn(struct iomap__queue *queue, unsigned freed, struct iomap__bio_list *again)
{
	struct iomap_bio *bio;
	unsigned before;

	for (;;) {
		struct iomap__bio_list failed = { 0 }, ended = { 0 };

		iomap__mutex_lock(&queue->lock);
		queue->active -= freed;
		before = queue->active;
		while ((bio = iomap__bio_list_pop(again)))
			queue_start(queue, bio, &failed);
		queue_start_backlog(queue, &failed);
		queue_send_round(queue, queue->active - before, &failed);
		iomap__mutex_unlock(&queue->lock);
		if (iomap__likely(!failed.first))
			return;
		freed = failed.count;
		queue_take_failed(&failed, &ended, again);
		queue_end(queue, &ended);
	}
}

/* Requests that the backend could not start. */
static void queue_failed(struct iomap__queue *queue, struct iomap__bio_list *failed)
{
	struct iomap__bio_list ended = { 0 }, again = { 0 };
	unsigned nr = failed->count;

	queue_take_failed(failed, &ended, &again);
	queue_end(queue, &ended);
	queue_turn(queue, nr, &again);
}

void iomap__hold_send(struct iomap__thread *self)
{
	struct iomap__bio_list failed = { 0 };
	struct iomap__queue *queue = self->hold;

	while (self->held) {
		self->held = 0;
		iomap__mutex_lock(&queue->lock);
		queue->blk->backend->send(queue, &failed);
		iomap__mutex_unlock(&queue->lock);
		/* whose bi_end_io may submit more */
		if (iomap__unlikely(failed.first))
			queue_failed(queue, &failed);
	}
}

void iomap__queue_submit(struct iomap__queue *queue, struct iomap__bio_list *list, bool will_wait)
{
	struct iomap__bio_list failed = { 0 }, refused = { 0 };
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_bio *bio;
	unsigned before;
	bool full;

	/* Before they can be collected; read-modify-write: see park.c. */
	atomic_fetch_add_explicit(&queue->inflight, list->count, memory_order_acq_rel);
	iomap__mutex_lock(&queue->lock);
	before = queue->active;
	while ((bio = iomap__bio_list_pop(list))) {
		iomap__step_init(bio);
		iomap__measure_start(self, bio);
		/* there is a backlog only while the backend is full */
		if (queue->active < queue->depth) {
			queue_start(queue, bio, &failed);
		} else if (bio->bi_opf & IOMAP_REQ_NOWAIT) {
			bio->bi_status = -EAGAIN;
			iomap__bio_list_add(&refused, bio);
		} else {
			iomap__bio_list_add(&queue->backlog, bio);
		}
	}
	queue_send(queue, queue->active - before, &failed);
	full = queue->backlog.first != NULL;
	iomap__mutex_unlock(&queue->lock);

	if (iomap__unlikely(refused.first || failed.first))
		iomap__io_expected();
	queue_end(queue, &refused);
	if (iomap__unlikely(failed.first))
		queue_failed(queue, &failed);
	if (!will_wait && !queue->owner && self->expect != queue)
		iomap__park_work_added(queue);
	if (full)
		iomap__io_poll(queue->blk);
}

unsigned iomap__queue_reap(struct iomap__queue *queue)
{
	struct iomap__bio_list done = { 0 }, ended = { 0 }, again = { 0 };
	struct iomap_bio *bio;
	uint64_t now_ns = 0;
	unsigned nr;

	queue->blk->backend->collect(queue, &done);
	nr = done.count;
	if (!nr)
		return 0;
	queue_take(&done, &ended, &again);
	for (bio = ended.first; bio; bio = bio->bi_next)
		iomap__measure_end(bio->bi_bdev, bio, &now_ns);
	/* The device gets its next requests before callbacks run. */
	queue_turn(queue, nr, &again);
	queue_end(queue, &ended);
	return nr;
}
