/* SPDX-License-Identifier: MIT */
/*
 * uring.c - the io_uring backend: one ring for each queue.
 *
 * The rings are shared between threads: no SINGLE_ISSUER and no DEFER_TASKRUN (another
 * thread's wait would be refused), and no COOP_TASKRUN (the completion of a thread that
 * computes would stay with it until it enters the kernel, while others wait for it).
 *
 * But for those of one thread (private.c): SINGLE_ISSUER and DEFER_TASKRUN.  There a completion
 * waits until its thread asks for it, so that several end in one go and none wakes the thread
 * before as many have come as it sleeps for.  Such a ring does not wake who polls it; it tells
 * an eventfd (poll.c).  Linux 6.1 can do that.
 *
 * The submission side is ours and not liburing's: entries are filled under the queue's lock,
 * and mostly sent under it, so whatever lies between head and tail after a failed enter can
 * be taken back.  A thread that goes to sleep in its ring sends what it holds back (queue.c)
 * by the call that sleeps.  Twice as many entries as the queue is deep: NOPs that kick a sleeper
 * need a place as well.  The completion side is used by the queue's reaper only.
 *
 * Left out: what to do when the process is denied io_uring_enter() only once there is an engine.
 * What is then submitted fails, but nobody is left who could wake one who sleeps in a ring
 * already; that one wakes when something it has in flight ends.
 */
#include <sched.h>

#include "block/uring.h"

#define URING_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS)
#define URING_SEND_RETRIES 16U /* with the queue's lock held; step.c has more */
/* how long the end of a request may wait for company */
#define URING_BATCH_WAIT_NS 1000000
#define URING_HOLD_MAX 8U /* with 32 a tenth fewer transfers at depth 32 */
#define URING_KICK_RETRIES 10000U
#define URING_PRIVATE_HOLD_MAX 32U

static struct io_uring *uring_of(const struct iomap__queue *queue)
{
	return &iomap__uring(queue)->ring;
}

static int uring_enter(struct io_uring *ring, unsigned submit, unsigned wait, unsigned flags)
{
	iomap__count(syscalls_nr);
	return io_uring_enter((unsigned)ring->ring_fd, submit, wait, flags, NULL);
}

/* ---- submission; the queue's lock held ---- */

static unsigned uring_pending(const struct io_uring *ring)
{
	/* acquire: pairs with the kernel's release when it has read the entries */
	return __atomic_load_n(ring->sq.ktail, __ATOMIC_RELAXED) -
	       __atomic_load_n(ring->sq.khead, __ATOMIC_ACQUIRE);
}

static struct io_uring_sqe *uring_next_sqe(struct io_uring *ring)
{
	unsigned index;

	if (uring_pending(ring) == ring->sq.ring_entries)
		return NULL;
	index = *ring->sq.ktail & (ring->sq.ring_entries - 1);
	ring->sq.array[index] = index;
	memset(&ring->sq.sqes[index], 0, sizeof(struct io_uring_sqe));
	return &ring->sq.sqes[index];
}

static void uring_publish_sqe(struct io_uring *ring)
{
	/* release: pairs with the kernel's acquire of the tail */
	__atomic_store_n(ring->sq.ktail, *ring->sq.ktail + 1, __ATOMIC_RELEASE);
}

/* There is room for it. */
static void uring_add_nop(struct io_uring *ring)
{
	io_uring_prep_nop(uring_next_sqe(ring));
	uring_publish_sqe(ring);
}

/* The vectors are one piece of memory: *@vec. */
static bool uring_is_run(const struct iovec *vecs, unsigned nr, struct iovec *run)
{
	unsigned i;

	*run = vecs[0];
	for (i = 1; i < nr; i++) {
		if ((char *)run->iov_base + run->iov_len != vecs[i].iov_base)
			return false;
		run->iov_len += vecs[i].iov_len;
	}
	return true;
}

/*
 * What a request's `handoff` says of the application's memory: 1 alone, nothing; else the place
 * of the buffer is above that bit, plus one.
 */
static uint32_t uring_handoff_of(unsigned place)
{
	return (place + 1) << 1 | 1;
}

/* The request is back from the kernel, or was never sent. */
static void uring_taken_back(struct iomap__blk *blk, uint32_t handoff)
{
	if (iomap__unlikely(handoff > 1))
		iomap__buffers_done(blk, (handoff >> 1) - 1);
}

/* The place of the memory in the ring's table, or -1; *@handoff where it is the application's. */
static int uring_place(struct iomap__queue *queue, const struct iovec *run, uint32_t *handoff)
{
	struct iomap__uring *uring = iomap__uring(queue);
	int at = iomap__uring_slot(queue, run->iov_base, run->iov_len);
	unsigned place;

	if (at >= 0)
		return at;
	/* relaxed: iomap__uring_follow() looks again */
	if (iomap__unlikely(uring->users_generation != iomap__load(&queue->blk->buffers_generation)))
		iomap__uring_follow(queue);
	if (iomap__likely(!uring->users))
		return -1;
	at = iomap__uring_user(queue, run->iov_base, run->iov_len, &place);
	if (at >= 0)
		*handoff = uring_handoff_of(place);
	return at;
}

/* Return: for `handoff`. */
static uint32_t uring_prepare_data(struct iomap__queue *queue, struct iomap_bio *bio,
				   struct io_uring_sqe *sqe)
{
	bool read = iomap__bio_op(bio) == IOMAP_REQ_OP_READ;
	struct iovec partial, run, *vecs;
	uint32_t handoff = 1;
	uint64_t pos;
	unsigned nr;
	int slot;

	vecs = iomap__step_vecs(bio, &partial, &nr, &pos);
	if (!uring_is_run(vecs, nr, &run)) {
		io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, -1, vecs, nr, pos);
	} else {
		io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, -1, run.iov_base,
				 (unsigned)run.iov_len, pos);
		slot = uring_place(queue, &run, &handoff);
		if (slot >= 0) {
			sqe->opcode = read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
			sqe->buf_index = (uint16_t)slot;
		}
	}
	sqe->rw_flags = iomap__step_rw_flags(bio);
	return handoff;
}

static void uring_prepare(struct iomap__queue *queue, struct iomap_bio *bio)
{
	struct io_uring *ring = uring_of(queue);
	struct io_uring_sqe *sqe = uring_next_sqe(ring);
	uint32_t handoff = 1;

	/* active <= depth, and there are never more NOPs than that: there is room */
	iomap__assert(sqe);
	if (iomap__req(bio)->step == IOMAP__STEP_FLUSH)
		io_uring_prep_fsync(sqe, -1, IORING_FSYNC_DATASYNC);
	else if (!iomap__op_has_data(iomap__bio_op(bio)))
		io_uring_prep_fallocate(sqe, -1, iomap__step_fallocate_mode(bio),
					(off_t)(bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT),
					(off_t)bio->bi_iter.bi_size);
	else
		handoff = uring_prepare_data(queue, bio, sqe);
	sqe->fd = bio->bi_bdev->fd;
	if (bio->bi_bdev->registered && iomap__uring(queue)->files) {
		sqe->fd = (int)bio->bi_bdev->id;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	io_uring_sqe_set_data(sqe, bio);
	/* The last use of the bio here.  release: pairs with the load in uring_collect(). */
	atomic_store_explicit(&iomap__req(bio)->handoff, handoff, memory_order_release);
	uring_publish_sqe(ring);
}

/*
 * Take back what the kernel has not taken, but for NOPs: who kicks is still trying to send them,
 * and knows them to be sent when nothing is left.
 *
 * A thread that sends as it goes to sleep does so without the lock, and from outside one cannot
 * see whether it is past the sending: so while it is there, entries are not ours to take back,
 * and stay.  It has our bit to see when it is back, and then sends them or takes them back
 * itself.  It comes back: it sleeps only if it has sent all that it meant to, and that ends.
 * Either it sees the bit, or we see that it is not there: both are read-modify-writes of one
 * word.
 */
static void uring_withdraw(struct iomap__queue *queue, int error, struct iomap__bio_list *failed)
{
	struct iomap__uring *uring = iomap__uring(queue);
	struct io_uring *ring = &uring->ring;
	unsigned mask = ring->sq.ring_entries - 1;
	unsigned head, tail, at, nops = 0;

	if (atomic_fetch_or(&uring->submitting, IOMAP__URING_WITHDRAWS) & ~IOMAP__URING_WITHDRAWS)
		return;
	head = __atomic_load_n(ring->sq.khead, __ATOMIC_ACQUIRE);
	tail = *ring->sq.ktail;
	for (at = head; at != tail; at++) {
		struct io_uring_sqe *sqe = &ring->sq.sqes[ring->sq.array[at & mask]];
		struct iomap_bio *bio = (void *)(uintptr_t)sqe->user_data;

		if (!bio) {
			nops++;
			continue;
		}
		uring_taken_back(queue->blk, atomic_load_explicit(&iomap__req(bio)->handoff,
								  memory_order_acquire));
		iomap__req(bio)->result = error;
		iomap__bio_list_add(failed, bio);
	}
	__atomic_store_n(ring->sq.ktail, head, __ATOMIC_RELEASE);
	while (nops--)
		uring_add_nop(ring);
	atomic_fetch_and(&uring->submitting, ~IOMAP__URING_WITHDRAWS);
}

/*
 * 0, or why what is left cannot be sent.  -EAGAIN: the kernel is out of memory, or of room for
 * completions, which it keeps.
 */
static int uring_push(struct iomap__queue *queue)
{
	struct io_uring *ring = uring_of(queue);
	unsigned pending, retries = 0;
	int sent;

	while ((pending = uring_pending(ring))) {
		sent = uring_enter(ring, pending, 0, 0);
		if (sent > 0 || sent == -EINTR) {
			retries = 0;
			continue;
		}
		if (sent == 0 || sent == -EAGAIN || sent == -EBUSY) {
			if (retries++ == URING_SEND_RETRIES)
				return -EAGAIN;
			sched_yield();
			continue;
		}
		iomap__log(queue->blk->env, IOMAP_LOG_ERROR, "io_uring_enter: %s",
			   strerror(-sent));
		/* the ring is at its end, which says nothing of the device */
		return sent == -ENXIO ? -EIO : sent;
	}
	return 0;
}

static void uring_send(struct iomap__queue *queue, struct iomap__bio_list *failed)
{
	int error = uring_push(queue);

	if (error)
		uring_withdraw(queue, error, failed);
}

static void uring_kick(struct iomap__queue *queue)
{
	struct io_uring *ring = uring_of(queue);
	unsigned tries = 0;

	iomap__mutex_lock(&queue->lock);
	/* what others hold back must not take the NOP's place: it may be long in coming back */
	if (uring_pending(ring) >= queue->depth)
		(void)uring_push(queue);
	/* with that many there is something on its way that wakes the sleeper */
	if (uring_pending(ring) < queue->depth)
		uring_add_nop(ring);
	/*
	 * What cannot be sent stays: others hold requests back here, who are told when they send
	 * them.  But nobody else sends the NOP, so without memory for it one tries for long.
	 */
	while (uring_push(queue) == -EAGAIN && tries++ < URING_KICK_RETRIES) {
		iomap__mutex_unlock(&queue->lock);
		sched_yield();
		iomap__mutex_lock(&queue->lock);
	}
	iomap__mutex_unlock(&queue->lock);
}

/* ---- completion; the queue's reaper ---- */

/* IORING_SQ_xxx: what an enter would bring in. */
static unsigned uring_waiting(const struct io_uring *ring)
{
	return __atomic_load_n(ring->sq.kflags, __ATOMIC_RELAXED) &
	       (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
}

static bool uring_ready(struct iomap__queue *queue)
{
	const struct io_uring *ring = uring_of(queue);

	return io_uring_cq_ready(ring) || uring_waiting(ring) & IORING_SQ_TASKRUN;
}

static void uring_collect(struct iomap__queue *queue, struct iomap__bio_list *list)
{
	struct io_uring *ring = uring_of(queue);
	struct io_uring_cqe *cqe;
	unsigned head, nr = 0, waiting = uring_waiting(ring);

	/* Completions that did not fit, and those of one thread's ring where there are none yet:
	 * where there are, the call that sleeps brings in the rest. */
	if (iomap__unlikely(waiting) &&
	    (waiting & IORING_SQ_CQ_OVERFLOW || !io_uring_cq_ready(ring)))
		uring_enter(ring, 0, 0, IORING_ENTER_GETEVENTS);
	io_uring_for_each_cqe(ring, head, cqe) {
		struct iomap_bio *bio = io_uring_cqe_get_data(cqe);

		nr++;
		if (!bio)
			continue; /* a NOP */
		/* acquire: pairs with the release store of uring_prepare() */
		uring_taken_back(queue->blk, atomic_load_explicit(&iomap__req(bio)->handoff,
								  memory_order_acquire));
		iomap__req(bio)->result = cqe->res;
		iomap__bio_list_add(list, bio);
	}
	if (nr)
		io_uring_cq_advance(ring, nr);
}

static int uring_poll_fd(struct iomap__queue *queue)
{
	return uring_of(queue)->ring_fd;
}

/*
 * Sends what the thread holds and sleeps, in one call and without the queue's lock: the
 * kernel has one of its own, and of entries that others have sent there are just fewer left.
 */
static int uring_sleep_sending(struct iomap__queue *queue, struct iomap__thread *self)
{
	struct iomap__uring *uring = iomap__uring(queue);
	unsigned submit = 0;
	bool withdrawn;
	int sent;

	/* see uring_withdraw() */
	withdrawn = atomic_fetch_add(&uring->submitting, 1) & IOMAP__URING_WITHDRAWS;
	if (iomap__likely(!withdrawn))
		submit = uring_pending(&uring->ring);
	if (iomap__likely(submit)) {
		sent = uring_enter(&uring->ring, submit, 1, IORING_ENTER_GETEVENTS);
		if (sent == (int)submit)
			self->held = 0;
	}
	if (iomap__unlikely(atomic_fetch_sub(&uring->submitting, 1) & IOMAP__URING_WITHDRAWS)) {
		withdrawn = true;
		atomic_fetch_and(&uring->submitting, ~IOMAP__URING_WITHDRAWS);
		/* others' requests, that they have left here */
		self->held = iomap__max(self->held, 1U);
	}
	if (iomap__likely(submit) || withdrawn) {
		iomap__hold_send(self); /* the hard way, if anything is left */
		return 0;
	}
	/*
	 * Others have sent ours.  This may be the sleep of one who has nothing in flight, so
	 * nothing may be left to him.
	 */
	self->held = 0;
	return uring_enter(&uring->ring, 0, 1, IORING_ENTER_GETEVENTS);
}

/* Sleeping has failed. */
static void uring_complain(struct iomap__blk *blk, int error)
{
	if (error == -EINTR || error == -EAGAIN || error == -EBUSY || error == -ETIME)
		return;
	iomap__log(blk->env, IOMAP_LOG_ERROR, "waiting in io_uring_enter: %s", strerror(-error));
	sched_yield();
}

static void uring_sleep(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	struct iomap__thread *self = iomap__thread_self();
	int error;

	if (iomap__sleeps_elsewhere(waiter)) {
		iomap__sleep_poll(blk, waiter);
		return;
	}
	if (self->held)
		error = uring_sleep_sending(waiter->home, self);
	else
		error = uring_enter(uring_of(waiter->home), 0, 1, IORING_ENTER_GETEVENTS);
	if (error < 0)
		uring_complain(blk, error);
}

/* ---- life ---- */

/* A NOP there and back: setting a ring up does not mean that entering it is allowed. */
static int uring_probe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = uring_next_sqe(ring);
	int error;

	io_uring_prep_nop(sqe);
	uring_publish_sqe(ring);
	do
		error = uring_enter(ring, 1, 1, IORING_ENTER_GETEVENTS);
	while (error == -EINTR);
	if (error < 0)
		return error;
	io_uring_cq_advance(ring, io_uring_cq_ready(ring));
	return 0;
}

/*
 * Rings given back.  A new ring may get the addresses of one that another thread has just
 * unmapped; liburing makes these calls past the C library, so that ThreadSanitizer sees
 * nothing of the order between the two but this word.
 */
static _Atomic uint32_t uring_unmapped;

static void uring_exit(struct io_uring *ring)
{
	/* release: pairs with the acquire of uring_open() */
	atomic_fetch_add_explicit(&uring_unmapped, 1, memory_order_release);
	io_uring_queue_exit(ring);
}

/* @flags besides those that any ring has; of these SUBMIT_ALL came with Linux 5.18. */
static int uring_setup(struct iomap__queue *queue, struct iomap__uring *uring, unsigned flags,
		       struct io_uring_params *params)
{
	if (iomap__fails(queue->blk->env, IOMAP_FAIL_RING_SETUP))
		return -ENOMEM;
	memset(params, 0, sizeof(*params));
	params->flags = IORING_SETUP_CLAMP | flags;
	return io_uring_queue_init_params(queue->depth * 2, &uring->ring, params);
}

/* A ring that works: 0 or -errno. */
static int uring_open(struct iomap__queue *queue, struct iomap__uring *uring, unsigned flags,
		      const char **why)
{
	struct io_uring_params params;
	int error;

	*why = "io_uring_setup";
	error = uring_setup(queue, uring, flags | IORING_SETUP_SUBMIT_ALL, &params);
	/* without it uring_send() goes on by itself */
	if (error == -EINVAL && !flags)
		error = uring_setup(queue, uring, 0, &params);
	if (error)
		return error;
	(void)atomic_load_explicit(&uring_unmapped, memory_order_acquire);
	/* A child of fork() must not write to the parent's rings. */
	io_uring_ring_dontfork(&uring->ring);
	if ((params.features & URING_NEEDED) != URING_NEEDED) {
		*why = "features of io_uring";
		error = -EOPNOTSUPP;
	}
	if (!error) {
		*why = "io_uring_enter";
		error = uring_probe(&uring->ring);
	}
	if (error)
		uring_exit(&uring->ring);
	else
		/* CLAMP may have given fewer. */
		queue->depth = iomap__min(queue->depth, iomap__max(params.sq_entries / 2, 1U));
	return error;
}

static int uring_create_queue(struct iomap__queue *queue, unsigned flags, const char **why)
{
	struct iomap__env *env = queue->blk->env;
	struct iomap__uring *uring;
	int error;

	*why = "memory for rings";
	uring = iomap__zalloc(env, sizeof(*uring));
	if (!uring)
		return -ENOMEM;
	error = uring_open(queue, uring, flags, why);
	if (error)
		iomap__free(env, uring, sizeof(*uring));
	else
		queue->backend = uring;
	return error;
}

static void uring_destroy_queue(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);

	uring_exit(&uring->ring);
	iomap__uring_close_users(queue);
	iomap__free(queue->blk->env, uring, sizeof(*uring));
	queue->backend = NULL;
}

static void uring_destroy(struct iomap__blk *blk)
{
	unsigned i;

	for (i = 0; i < blk->nr_queues; i++)
		if (blk->queues[i].backend)
			uring_destroy_queue(&blk->queues[i]);
	iomap__free(blk->env, blk->backend_data, sizeof(struct iomap__uring_all));
	blk->backend_data = NULL;
}

static int uring_create(struct iomap__blk *blk, const char **why)
{
	unsigned i;
	int error;

	*why = "memory for rings";
	blk->backend_data = iomap__zalloc(blk->env, sizeof(struct iomap__uring_all));
	if (!blk->backend_data)
		return -ENOMEM;
	for (i = 0; i < blk->nr_queues; i++) {
		error = uring_create_queue(&blk->queues[i], 0, why);
		if (error) {
			uring_destroy(blk);
			return error;
		}
		if (!(blk->engine->opts.flags & IOMAP_ENGINE_NO_REGISTER))
			iomap__uring_open_files(&blk->queues[i]);
	}
	return 0;
}

/* ---- rings of one thread ---- */

static int uring_private_open(struct iomap__queue *queue, const char **why)
{
	int error = uring_create_queue(queue,
				       IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					       IORING_SETUP_TASKRUN_FLAG,
				       why);

	if (!error)
		iomap__uring_open_own(queue);
	return error;
}

static void uring_private_close(struct iomap__queue *queue, bool mine)
{
	/* another thread may not ask for it: the kernel does it, some time after the close */
	if (mine)
		iomap__uring_close_own(queue);
	uring_destroy_queue(queue);
}

/* Send @submit, and sleep until @nr have ended or the time is over. */
static int uring_enter_bounded(struct io_uring *ring, unsigned submit, unsigned nr)
{
	struct __kernel_timespec limit = { .tv_nsec = URING_BATCH_WAIT_NS };
	struct io_uring_getevents_arg arg = { .ts = (uintptr_t)&limit };

	iomap__count(syscalls_nr);
	return io_uring_enter2((unsigned)ring->ring_fd, submit, nr,
			       IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, (sigset_t *)&arg,
			       sizeof(arg));
}

static void uring_private_sleep(struct iomap__queue *queue, unsigned nr, bool bounded)
{
	struct iomap__thread *self = iomap__thread_self();
	struct io_uring *ring = uring_of(queue);
	unsigned submit = uring_pending(ring);
	int sent;

	/* rings of one thread are younger than limits of time */
	sent = nr > 1 && bounded ? uring_enter_bounded(ring, submit, nr) :
				   uring_enter(ring, submit, nr, IORING_ENTER_GETEVENTS);
	if (sent == (int)submit) {
		if (submit)
			self->held = 0;
	} else if (submit) {
		iomap__hold_send(self); /* the hard way */
	} else {
		uring_complain(queue->blk, sent);
	}
}

static int uring_private_watch(struct iomap__queue *queue, int eventfd)
{
	iomap__count(syscalls_nr);
	return eventfd >= 0 ? io_uring_register_eventfd(uring_of(queue), eventfd) :
			      io_uring_unregister_eventfd(uring_of(queue));
}

const struct iomap__backend iomap__uring_backend = {
	.name = "io_uring",
	.takes_fallocate = true,
	.create = uring_create,
	.destroy = uring_destroy,
	.prepare = uring_prepare,
	.send = uring_send,
	.collect = uring_collect,
	.ready = uring_ready,
	.sleep = uring_sleep,
	.sleep_sends = true,
	.hold_max = URING_HOLD_MAX,
	.poll_fd = uring_poll_fd,
	.kick = uring_kick,
	.private_open = uring_private_open,
	.private_close = uring_private_close,
	.private_sleep = uring_private_sleep,
	.private_watch = uring_private_watch,
	.private_hold_max = URING_PRIVATE_HOLD_MAX,
	.set_memory = iomap__uring_set_memory,
	.let_go = iomap__uring_let_go,
	.add_file = iomap__uring_add_file,
	.del_file = iomap__uring_del_file,
	.follow_buffers = iomap__uring_follow_buffers,
	.buffers_fit = iomap__uring_buffers_fit,
};
