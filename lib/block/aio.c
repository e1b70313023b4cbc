/* SPDX-License-Identifier: MIT */
/*
 * aio.c - the libaio backend, for where io_uring is missing or denied: one context of
 * io_setup() for each queue.
 *
 * Submission, under the queue's lock: a step becomes a control block of an array as long as
 * the queue is deep; all that are prepared go out in one io_submit(), which copies them.
 *
 * Completion, by the queue's reaper: events are fetched into an array of the queue, and
 * collected from there.  Fetching and collecting are apart because the call that sleeps
 * fetches as well: a reaper that sleeps in its home queue alone sleeps in io_getevents().
 * What it has fetched and not collected when it gives up the role is there for the next one,
 * whom park_lock has handed the role to.  An empty context is found out by libaio without a
 * system call.
 *
 * Kicks.  io_getevents() has no other way out than an event, so a kick is a request that
 * ends at once: a poll of a descriptor that is always readable.
 *
 * Several queues.  Each completion adds to an eventfd of its queue as well, for sleepers in
 * ppoll() (poll.c).  It is emptied by the reaper, who does so only after somebody has slept
 * that way (`polled`), and before he fetches: what it had counted is in the context by then.
 *
 * Left out: files whose I/O would block in io_submit(), as buffered ones do: the submitter
 * waits for it.  Flushes are IOCB_CMD_FDSYNC and need Linux 4.19, as the poll does.
 */
#include <libaio.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "block/internal.h"

#define AIO_EVENTS 64U
#define AIO_SUBMIT_RETRIES 16U /* with the queue's lock held; step.c has more */
/* with 8 a call for each few: a tenth more CPU time at depth 32 */
#define AIO_HOLD_MAX 32U
#define AIO_KICK_RETRIES 10000U

struct aio {
	int readable; /* an eventfd that is never emptied */
};

struct aio_queue {
	io_context_t context;
	int eventfd;
	_Atomic uint32_t polled; /* `eventfd` may have been slept on since it was emptied */
	/* under the queue's lock */
	unsigned nr_prepared;
	uint32_t nr_iocbs;
	struct iocb *iocbs;
	struct iocb **list; /* &iocbs[i] */
	/* the reaper's: events from `first` on are fetched and not collected */
	unsigned first, nr;
	struct io_event events[AIO_EVENTS];
};

/* ---- submission; the queue's lock held ---- */

static void aio_prepare(struct iomap__queue *queue, struct iomap_bio *bio)
{
	struct aio_queue *aq = queue->backend;
	struct iocb *iocb = &aq->iocbs[aq->nr_prepared++];
	struct iovec partial, *vecs;
	int fd = bio->bi_bdev->fd;
	uint64_t pos;
	unsigned nr;
	bool read;

	if (iomap__req(bio)->step == IOMAP__STEP_FLUSH) {
		io_prep_fdsync(iocb, fd);
	} else {
		read = iomap__bio_op(bio) == IOMAP_REQ_OP_READ;
		vecs = iomap__step_vecs(bio, &partial, &nr, &pos);
		if (nr == 1 && read)
			io_prep_pread(iocb, fd, vecs->iov_base, vecs->iov_len, (long long)pos);
		else if (nr == 1)
			io_prep_pwrite(iocb, fd, vecs->iov_base, vecs->iov_len, (long long)pos);
		else if (read)
			io_prep_preadv(iocb, fd, vecs, (int)nr, (long long)pos);
		else
			io_prep_pwritev(iocb, fd, vecs, (int)nr, (long long)pos);
		iocb->aio_rw_flags = iomap__step_rw_flags(bio);
	}
	io_set_eventfd(iocb, aq->eventfd);
	iocb->data = bio;
	/* The last use of the bio here.  release: pairs with the load in aio_collect(). */
	atomic_store_explicit(&iomap__req(bio)->handoff, 1, memory_order_release);
}

/* The first of those that are left was refused: 0 to try again, else its error. */
static int aio_refused(int error, unsigned *retries, unsigned retries_max)
{
	/* no memory or no slot for it; slots come free as others are fetched */
	if (error && error != -EAGAIN && error != -EINTR)
		return error;
	if ((*retries)++ >= retries_max)
		return -EAGAIN;
	sched_yield();
	return 0;
}

static void aio_send(struct iomap__queue *queue, struct iomap__bio_list *failed)
{
	struct aio_queue *aq = queue->backend;
	unsigned at = 0, retries = 0;
	struct iomap_bio *bio;
	int sent, error;

	while (at < aq->nr_prepared) {
		iomap__count(syscalls_nr);
		sent = io_submit(aq->context, aq->nr_prepared - at, &aq->list[at]);
		if (sent > 0) {
			at += (unsigned)sent;
			retries = 0;
			continue;
		}
		error = aio_refused(sent, &retries, AIO_SUBMIT_RETRIES);
		if (!error)
			continue;
		bio = aq->iocbs[at++].data;
		iomap__req(bio)->result = error;
		iomap__bio_list_add(failed, bio);
		retries = 0;
	}
	aq->nr_prepared = 0;
}

/* A request that ends at once.  Any thread; the kernel locks for itself. */
static int aio_nop(struct iomap__queue *queue)
{
	const struct aio *aio = queue->blk->backend_data;
	struct aio_queue *aq = queue->backend;
	struct iocb nop, *list = &nop;
	unsigned retries = 0;
	int sent, error;

	io_prep_poll(&nop, aio->readable, POLLIN);
	io_set_eventfd(&nop, aq->eventfd);
	do {
		iomap__count(syscalls_nr);
		sent = io_submit(aq->context, 1, &list);
		if (sent == 1)
			return 0;
		error = aio_refused(sent, &retries, AIO_KICK_RETRIES);
	} while (!error);
	return error;
}

static void aio_kick(struct iomap__queue *queue)
{
	int error = aio_nop(queue);

	/* Without a slot for it there is something on its way that wakes the sleeper. */
	if (error)
		iomap__log(queue->blk->env, IOMAP_LOG_ERROR, "io_submit of a wake-up: %s",
			   strerror(-error));
}

/* ---- completion; the queue's reaper ---- */

/* Nothing fetched is left.  @wait: sleep for the first one.  0 or -errno. */
static int aio_fetch(struct aio_queue *aq, bool wait)
{
	struct timespec none = { 0 };
	int nr;

	nr = io_getevents(aq->context, wait, AIO_EVENTS, aq->events, wait ? NULL : &none);
	/* an empty context costs none, unless it is slept in */
	if (nr || wait)
		iomap__count(syscalls_nr);
	aq->first = 0;
	aq->nr = nr > 0 ? (unsigned)nr : 0;
	return iomap__min(nr, 0);
}

static bool aio_ready(struct iomap__queue *queue)
{
	struct aio_queue *aq = queue->backend;

	if (aq->first == aq->nr)
		aio_fetch(aq, false);
	return aq->first != aq->nr;
}

static void aio_empty_eventfd(struct aio_queue *aq)
{
	uint64_t count;

	/* relaxed: whoever sleeps on it after this finds it readable, or nothing in the queue */
	if (iomap__likely(!atomic_load_explicit(&aq->polled, memory_order_relaxed)))
		return;
	atomic_store_explicit(&aq->polled, 0, memory_order_relaxed);
	iomap__count(syscalls_nr);
	if (read(aq->eventfd, &count, sizeof(count)) < 0)
		return; /* nothing since the last time */
}

static void aio_collect(struct iomap__queue *queue, struct iomap__bio_list *list)
{
	struct aio_queue *aq = queue->backend;
	bool full;

	aio_empty_eventfd(aq);
	do {
		if (aq->first == aq->nr)
			aio_fetch(aq, false);
		full = aq->nr == AIO_EVENTS;
		while (aq->first < aq->nr) {
			struct io_event *event = &aq->events[aq->first++];
			struct iomap_bio *bio = event->data;

			if (!bio)
				continue; /* a kick */
			/* acquire: pairs with the release store of aio_prepare() */
			(void)atomic_load_explicit(&iomap__req(bio)->handoff,
						   memory_order_acquire);
			iomap__req(bio)->result = (int32_t)(long)event->res;
			iomap__bio_list_add(list, bio);
		}
	} while (full);
}

static int aio_poll_fd(struct iomap__queue *queue)
{
	struct aio_queue *aq = queue->backend;

	atomic_store_explicit(&aq->polled, 1, memory_order_relaxed);
	return aq->eventfd;
}

static void aio_sleep(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	struct aio_queue *aq = waiter->home->backend;
	int error;

	if (iomap__sleeps_elsewhere(waiter)) {
		iomap__sleep_poll(blk, waiter);
		return;
	}
	/* nobody takes this role from us: the events are ours though park_lock is not held */
	if (aq->first != aq->nr)
		return;
	error = aio_fetch(aq, true);
	if (error && error != -EINTR) {
		iomap__log(blk->env, IOMAP_LOG_ERROR, "waiting in io_getevents: %s",
			   strerror(-error));
		sched_yield();
	}
}

/* ---- life ---- */

static int aio_eventfd(struct iomap__env *env, unsigned value, int *fd)
{
	if (iomap__fails(env, IOMAP_FAIL_RING_SETUP))
		return -EMFILE;
	*fd = eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK);
	return *fd < 0 ? -errno : 0;
}

static void aio_destroy_queue(struct iomap__queue *queue)
{
	struct iomap__env *env = queue->blk->env;
	struct aio_queue *aq = queue->backend;

	if (!aq)
		return;
	if (aq->context)
		io_destroy(aq->context);
	if (aq->eventfd >= 0)
		close(aq->eventfd);
	iomap__free(env, aq->iocbs, aq->nr_iocbs * sizeof(*aq->iocbs));
	iomap__free(env, aq->list, aq->nr_iocbs * sizeof(*aq->list));
	iomap__free(env, aq, sizeof(*aq));
	queue->backend = NULL;
}

static void aio_destroy(struct iomap__blk *blk)
{
	struct aio *aio = blk->backend_data;
	unsigned i;

	for (i = 0; i < blk->nr_queues; i++)
		aio_destroy_queue(&blk->queues[i]);
	if (aio && aio->readable >= 0)
		close(aio->readable);
	iomap__free(blk->env, aio, sizeof(*aio));
	blk->backend_data = NULL;
}

/* There and back: that a context can be set up does not mean that it may be used. */
static int aio_probe(struct iomap__queue *queue, const char **why)
{
	struct aio_queue *aq = queue->backend;
	int error;

	*why = "io_submit";
	error = aio_nop(queue);
	if (error)
		return error;
	*why = "io_getevents";
	do
		error = aio_fetch(aq, true);
	while (error == -EINTR);
	aq->first = aq->nr;
	return error;
}

static int aio_create_queue(struct iomap__queue *queue, const char **why)
{
	struct iomap__env *env = queue->blk->env;
	struct aio_queue *aq;
	unsigned i;
	int error;

	*why = "memory for a queue of libaio";
	aq = iomap__zalloc(env, sizeof(*aq));
	if (!aq)
		return -ENOMEM;
	queue->backend = aq;
	aq->eventfd = -1;
	aq->nr_iocbs = queue->depth;
	aq->iocbs = iomap__zalloc(env, aq->nr_iocbs * sizeof(*aq->iocbs));
	aq->list = iomap__zalloc(env, aq->nr_iocbs * sizeof(*aq->list));
	if (!aq->iocbs || !aq->list)
		return -ENOMEM;
	for (i = 0; i < aq->nr_iocbs; i++)
		aq->list[i] = &aq->iocbs[i];
	*why = "eventfd";
	error = aio_eventfd(env, 0, &aq->eventfd);
	if (error)
		return error;
	*why = "io_setup";
	error = -ENOMEM;
	/* one for a kick */
	if (!iomap__fails(env, IOMAP_FAIL_RING_SETUP))
		error = io_setup((int)queue->depth + 1, &aq->context);
	return error ? error : aio_probe(queue, why);
}

static int aio_create(struct iomap__blk *blk, const char **why)
{
	struct aio *aio;
	int error = -ENOMEM;
	unsigned i;

	*why = "memory for libaio";
	aio = iomap__zalloc(blk->env, sizeof(*aio));
	if (!aio)
		return -ENOMEM;
	blk->backend_data = aio;
	*why = "eventfd";
	aio->readable = -1;
	error = aio_eventfd(blk->env, 1, &aio->readable);
	for (i = 0; !error && i < blk->nr_queues; i++)
		error = aio_create_queue(&blk->queues[i], why);
	if (error)
		aio_destroy(blk);
	return error;
}

const struct iomap__backend iomap__aio_backend = {
	.name = "libaio",
	.create = aio_create,
	.destroy = aio_destroy,
	.prepare = aio_prepare,
	.send = aio_send,
	.collect = aio_collect,
	.ready = aio_ready,
	.sleep = aio_sleep,
	.hold_max = AIO_HOLD_MAX,
	.poll_fd = aio_poll_fd,
	.kick = aio_kick,
};
