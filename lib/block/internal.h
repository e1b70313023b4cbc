/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of the block layer share.
 */
#ifndef IOMAP__BLOCK_INTERNAL_H
#define IOMAP__BLOCK_INTERNAL_H

#include <iomap/bdev.h>
#include <iomap/bio.h>
#include <iomap/engine.h>

#include "block/block.h"

struct stat;

#define IOMAP__QUEUES_MAX 32U
#define IOMAP__PARK_BUCKETS 64U
#define IOMAP__PRIVATES_MAX 16U
#define IOMAP__BDEV_IDS 63U /* ids below are a bdev's own, this one is shared by the rest */
#define IOMAP__PATH_MAX_LOG 200
#define IOMAP__IOPOLL_WHY 160

/* ---- requests ---- */

enum iomap__step {
	IOMAP__STEP_FLUSH, /* flush the device: a flush, or what goes before a PREFLUSH write */
	IOMAP__STEP_DATA,  /* move the data */
};

/*
 * What the library keeps in iomap_bio.bi_internal.
 *
 * `handoff` is stored with release by the thread that gives the request to a ring and loaded
 * with acquire by the one that collects it: between the two only the kernel has seen it.  It is
 * 1, and more for a transfer by memory of the application that the ring knows: uring.c.
 */
struct iomap__req {
	_Atomic uint32_t handoff;
	int32_t result;	    /* of the step, from an I/O thread */
	uint8_t step;	    /* enum iomap__step */
	uint8_t queue;	    /* index; threads backend */
	uint16_t retries;   /* since the last progress */
	uint32_t remaining; /* split: children that have not ended, and 1 for the splitter */
	/* first vector that is not done; WRITE_ZEROES: by a hole; split range: see submit.c */
	uint32_t vec;
	uint32_t chained;   /* bio.c; atomic */
	uint64_t vec_done; /* bytes done of it */
	union {
		uint64_t done;		  /* STEP_DATA: bytes done; split range: handed out */
		uint64_t flush_generation; /* STEP_FLUSH: the device's when it started */
	};
	struct iomap_bdev *bdev;	   /* innermost device that counts the bio as its own */
	struct iomap__stacked *stacked; /* the devices around it but the outermost */
	struct iomap_bdev *outermost;	/* if there is one around it */
} __attribute__((may_alias));
_Static_assert(sizeof(struct iomap__req) == sizeof(((struct iomap_bio *)0)->bi_internal),
	       "a request fills bi_internal");

/*
 * A device that has passed a bio on to another one, and still counts it.  The first one that
 * does so has its place in the request: what goes through one device needs no memory.
 */
struct iomap__stacked {
	struct iomap_bdev *bdev;
	struct iomap__stacked *next;
};

static inline struct iomap__req *iomap__req(struct iomap_bio *bio)
{
	return (struct iomap__req *)(void *)bio->bi_internal;
}
static inline unsigned iomap__bio_op(const struct iomap_bio *bio)
{
	return bio->bi_opf & IOMAP_REQ_OP_MASK;
}

/* The operation changes what is on the device. */
static inline bool iomap__op_is_write(unsigned op)
{
	return op & 1;
}
/* The operation has memory; DISCARD and WRITE_ZEROES are only a range. */
static inline bool iomap__op_has_data(unsigned op)
{
	return op == IOMAP_REQ_OP_READ || op == IOMAP_REQ_OP_WRITE;
}

/* Bios linked by bi_next. */
struct iomap__bio_list {
	struct iomap_bio *first, *last;
	unsigned count;
};
static inline void iomap__bio_list_add(struct iomap__bio_list *list, struct iomap_bio *bio)
{
	bio->bi_next = NULL;
	if (list->last)
		list->last->bi_next = bio;
	else
		list->first = bio;
	list->last = bio;
	list->count++;
}
static inline struct iomap_bio *iomap__bio_list_pop(struct iomap__bio_list *list)
{
	struct iomap_bio *bio = list->first;

	if (bio) {
		list->first = bio->bi_next;
		if (!list->first)
			list->last = NULL;
		list->count--;
		bio->bi_next = NULL;
	}
	return bio;
}

/* ---- devices ---- */

/*
 * How a kind of device does I/O.  `submit` takes one checked bio that fits the limits.
 * `queued`: bios go to a queue in batches instead.
 */
struct iomap__bdev_kind {
	const char *io_path; /* NULL: the backend's */
	bool queued;
	void (*submit)(struct iomap_bdev *bdev, struct iomap_bio *bio);
	void (*release)(struct iomap_bdev *bdev);
	/* What the size is now; NULL: as it was.  0 or -errno. */
	int (*revalidate)(struct iomap_bdev *bdev, uint64_t *bytes);
};

enum {
	IOMAP__BSTAT_READS,
	IOMAP__BSTAT_WRITES,
	IOMAP__BSTAT_FLUSHES,
	IOMAP__BSTAT_READ_BYTES,
	IOMAP__BSTAT_WRITTEN_BYTES,
	IOMAP__BSTAT_ERRORS,
	IOMAP__BSTAT_DISCARDS,
	IOMAP__BSTAT_WRITE_ZEROES,
};

/*
 * The life of bios at a device, counted by whoever takes the step: begun; ended, which is the
 * operations of the statistics above; the callbacks entered for it that may outlive its
 * end, submit_bio of a device of the application; and callbacks returned from, these and
 * bi_end_io.  See iomap__bdev_busy().
 */
enum {
	IOMAP__BLIFE_BEGUN,
	IOMAP__BLIFE_ENTERED,
	IOMAP__BLIFE_RETURNED,
};

#define IOMAP__BDEV_MAGIC 0x62646576U

/* One who waits for a flush, on its stack. */
struct iomap__flush_wait {
	struct iomap__flush_wait *next;
	int error;
	uint32_t state; /* its word, see flush.c */
};

/* The flush that is under way, and those who wait for it or the next one: flush.c. */
struct iomap__flush {
	uint32_t lock; /* iomap__word_lock(), IOMAP__RANK_BDEV; protects all below but the bio */
	bool busy;
	uint64_t generation; /* `written` when it started */
	struct iomap__flush_wait *now, *next;
	struct iomap_bio bio; /* whose flush is under way has it */
};

/*
 * From a pool of the engine, so that one that has been closed is still memory to look at:
 * `magic` lies where a free object of a pool may be read (pool.c).
 */
struct iomap_bdev {
	struct iomap_engine *engine;
	uint32_t magic; /* IOMAP__BDEV_MAGIC; atomic */
	unsigned id;
	const struct iomap__bdev_kind *kind;
	uint8_t *memory;
	uint64_t bytes; /* grows; atomic */
	/* The limits, as submit_is_plain() asks for them; set when it is published. */
	uint64_t plain_bytes_max; /* 0 before that: nothing is plain */
	uint32_t plain_opf;	  /* bits that a bi_opf may have */
	uint32_t block_mask;
	uint32_t memory_mask;
	bool gone; /* for good; atomic */
	bool readonly;
	bool direct; /* O_DIRECT */
	bool block;  /* a block device */
	bool zero_by_holes; /* the file system has no FALLOC_FL_ZERO_RANGE; atomic */
	bool registered; /* the backend knows the file by `id` */
	int fd;
	const struct iomap_bdev_ops *ops;
	struct iomap_bdev_limits limits;
	void *context;
	char *name;
	size_t name_bytes;
	struct iomap__stats stats; /* IOMAP__BSTAT_xxx */
	struct iomap__stats life;  /* IOMAP__BLIFE_xxx */
	_Atomic uint32_t refs;
	/*
	 * `written` moves with each completed write that may be volatile, before its bi_end_io;
	 * `flushed` is what `written` was when the last successful flush started.  It starts
	 * below: nothing is assumed about what was written before the device was opened.
	 */
	_Atomic uint64_t written;
	_Atomic uint64_t flushed;
	struct iomap__flush flush;
	struct iomap__hist hist; /* from IOMAP_HIST_DEVICE_READ on */
	struct iomap_bdev *next; /* under blk->bdevs_lock */
};

static inline bool iomap__bdev_is_open(const struct iomap_bdev *bdev)
{
	return iomap__load(&bdev->magic) == IOMAP__BDEV_MAGIC;
}
/* relaxed: a bio that comes too early is as if it had been submitted earlier */
static inline uint64_t iomap__bdev_size(const struct iomap_bdev *bdev)
{
	return iomap__load(&bdev->bytes);
}
static inline bool iomap__bdev_is_gone(const struct iomap_bdev *bdev)
{
	return iomap__load(&bdev->gone);
}
#define iomap__bdev_check(bdev)                                                           \
	iomap__assert_msg(iomap__bdev_is_open(bdev),                                      \
			  "bdev %p is used after it was closed, or was never opened",     \
			  (const void *)(bdev))

/* Allocate, give it an id, put it on the list.  @name is copied. */
int iomap__bdev_new(struct iomap_engine *engine, const struct iomap__bdev_kind *kind,
		    const char *name, struct iomap_bdev **out);
void iomap__bdev_publish(struct iomap_bdev *bdev);
void iomap__bdev_free(struct iomap_bdev *bdev);
/* Bios that have begun and not ended; with those that did both during the call. */
uint64_t iomap__bdev_inflight(const struct iomap_bdev *bdev);
/*
 * 0: there was a moment in this call at which no bio was in flight, and no callback running of
 * one that has ended.  -EBUSY: one is in flight.  -EAGAIN: a callback has not returned yet.
 */
int iomap__bdev_busy(const struct iomap_bdev *bdev);
/*
 * Latencies: one bio in IOMAP__MEASURED of a thread, and each flush.  start: the bio goes to its
 * device now; a bi_start_ns of 0 says that it is not measured.  end: it has ended; *now_ns is 0 or
 * what the clock said a moment ago, so that it is asked once for all that ends together.
 */
#define IOMAP__MEASURED 8U
static inline void iomap__measure_start(struct iomap__thread *self, struct iomap_bio *bio)
{
	bio->bi_start_ns = 0;
	if (iomap__unlikely(!(self->bios_nr++ % IOMAP__MEASURED) ||
			    iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH))
		bio->bi_start_ns = iomap__max(iomap__now_ns(&bio->bi_bdev->engine->env), 1);
}
void iomap__measured(struct iomap_bdev *bdev, const struct iomap_bio *bio, uint64_t *now_ns);
static inline void iomap__measure_end(struct iomap_bdev *bdev, const struct iomap_bio *bio,
				      uint64_t *now_ns)
{
	if (iomap__unlikely(bio->bi_start_ns))
		iomap__measured(bdev, bio, now_ns);
}
/* A flush that started at generation @generation has succeeded. */
void iomap__bdev_flushed(struct iomap_bdev *bdev, uint64_t generation);
/* iomap_bdev_flush(); one that is not done by @deadline_ns (0: none) goes on, -ETIMEDOUT. */
int iomap__bdev_flush_by(struct iomap_bdev *bdev, uint64_t deadline_ns);

/*
 * What the file or device @bdev->fd, which fstat() calls @st, can do, and its size.
 * @bdev->direct: it is open for direct I/O.  0; -EOPNOTSUPP when that does not work after all;
 * or another error.
 */
int iomap__file_limits(struct iomap_bdev *bdev, const struct stat *st);
/* What the queue of block device @dev says in sysfs; 0 where it says nothing. */
uint64_t iomap__file_queue_number(dev_t dev, const char *name);
/* Ask a device that has been opened whether it could be polled, if the engine wants to know. */
void iomap__iopoll_probe(struct iomap_bdev *bdev);

/* ---- submission (submit.c, plug.c) ---- */

/* Collected bios for the calling thread's queue, and for the one that is its alone. */
struct iomap__batch {
	struct iomap__bio_list bios;
	struct iomap__bio_list polled;
	struct iomap__queue *own; /* where there are any `polled` */
};
/* Start a checked, accounted bio, splitting it where needed. */
void iomap__dispatch(struct iomap_bio *bio, struct iomap__batch *batch);
void iomap__batch_send(struct iomap__blk *blk, struct iomap__batch *batch, bool will_wait);
/* iomap_submit_bio() by a thread that goes on to iomap__io_wait(): nobody else is woken for it. */
void iomap__submit_before_wait(struct iomap_bio *bio);
/* The plug took the bio. */
bool iomap__plug_add(struct iomap_bio *bio);

/* ---- steps of a request (step.c) ---- */

/* The first step of @bio. */
void iomap__step_init(struct iomap_bio *bio);
/* The vectors of the current transfer: at most one partly done, or all that are left. */
struct iovec *iomap__step_vecs(struct iomap_bio *bio, struct iovec *partial, unsigned *nr,
			       uint64_t *pos);
/* An IOMAP_REQ_OP_xxx in a word, for a log line. */
const char *iomap__op_name(unsigned op);
/* The RWF_xxx of a transfer. */
int iomap__step_rw_flags(const struct iomap_bio *bio);
/* The mode with which fallocate() does a discard or zeroing. */
int iomap__step_fallocate_mode(struct iomap_bio *bio);
/* The backend cannot do it: the submitting thread does. */
bool iomap__step_is_inline(const struct iomap_bio *bio);
/* Do the current step by a blocking system call.  Return: its result or -errno. */
int64_t iomap__step_sync(struct iomap_bio *bio);
/* Take the result of a step.  Return: true when the request has ended (bi_status is set). */
bool iomap__step_done(struct iomap_bio *bio, int64_t result);

/* Do a request on a memory device; completes it. */
void iomap__memory_do(struct iomap_bio *bio);
/* Do a request in the calling thread; completes it. */
void iomap__inline_submit(struct iomap_bdev *bdev, struct iomap_bio *bio);
/* Bios that wait for one of this thread to end: do them now, the thread is about to wait. */
void iomap__inline_flush(struct iomap__thread *self);

/* ---- queues (queue.c), backends (uring.c, aio.c, threads.c) ---- */

struct iomap__waiter;

/*
 * A backend.  A queue's `prepare` and `send` are called with its lock held, `collect` and
 * `ready` by its reaper, the others without locks.
 */
struct iomap__backend {
	const char *name;
	/* It takes these, besides reads, writes and flushes; else they are done inline. */
	bool takes_fallocate;
	bool takes_ioctl;
	/* For all queues.  0 or -errno; *why says what failed. */
	int (*create)(struct iomap__blk *blk, const char **why);
	void (*destroy)(struct iomap__blk *blk);
	/* Take the current step of @bio.  Never more than `depth` are out. */
	void (*prepare)(struct iomap__queue *queue, struct iomap_bio *bio);
	/* Start all that is prepared.  What cannot be started is put on @failed, `result` set. */
	void (*send)(struct iomap__queue *queue, struct iomap__bio_list *failed);
	/* Move bios whose step has ended to @list, `result` set. */
	void (*collect)(struct iomap__queue *queue, struct iomap__bio_list *list);
	/* Something to collect. */
	bool (*ready)(struct iomap__queue *queue);
	/*
	 * Sleep until something can be collected in the queues of @waiter->asleep_roles, or it
	 * is kicked, or its deadline has passed; spurious returns are fine.  NULL: the waiter
	 * sleeps on its futex, and the backend calls iomap__park_work_ended().
	 */
	void (*sleep)(struct iomap__blk *blk, struct iomap__waiter *waiter);
	/* Asleep in its home queue alone, a thread sends what it holds there, and sets its `held`
	 * to 0 if that went well. */
	bool sleep_sends;
	/* Requests that a thread holds back at most, to send them together (queue.c). */
	unsigned hold_max;
	/* Polls readable while there is something to collect; sometimes when there is not. */
	int (*poll_fd)(struct iomap__queue *queue);
	/* Wake the thread that sleeps in @queue alone, if there is one. */
	void (*kick)(struct iomap__queue *queue);
	/*
	 * Queues of the calling thread alone (private.c), or NULL.  open: 0 or -errno; *why says
	 * what failed.  close: @mine: the calling thread's; else of one that does not use it
	 * any more.  sleep: send all that is prepared, and sleep until @nr requests have ended,
	 * which are in the backend; @bounded: for no longer than a millisecond or so; spurious
	 * returns are fine.  watch: tell @eventfd when one
	 * has ended; -1: no more.  0 or -errno.
	 */
	int (*private_open)(struct iomap__queue *queue, const char **why);
	void (*private_close)(struct iomap__queue *queue, bool mine);
	void (*private_sleep)(struct iomap__queue *queue, unsigned nr, bool bounded);
	int (*private_watch)(struct iomap__queue *queue, int eventfd);
	unsigned private_hold_max; /* as hold_max */
	/*
	 * What I/O can be prepared for, or NULL.  Memory that stays where it is until it is
	 * taken back with NULL, with no I/O at either moment; a file from before its first
	 * request until after its last one.
	 */
	void (*set_memory)(struct iomap__blk *blk, void *memory, uint64_t bytes);
	/* iomap__blk_let_go() of the memory */
	bool (*let_go)(struct iomap__blk *blk, const void *addr, uint64_t *bytes);
	void (*add_file)(struct iomap__blk *blk, struct iomap_bdev *bdev);
	void (*del_file)(struct iomap__blk *blk, struct iomap_bdev *bdev);
	/* The queues learn what has changed in blk->buffers.  Whether @bytes in all may be locked. */
	void (*follow_buffers)(struct iomap__blk *blk);
	bool (*buffers_fit)(struct iomap__blk *blk, uint64_t bytes);
};
extern const struct iomap__backend iomap__uring_backend;
extern const struct iomap__backend iomap__aio_backend;
extern const struct iomap__backend iomap__threads_backend;

struct iomap__queue {
	_Alignas(IOMAP__CACHE_LINE) struct iomap__mutex lock; /* submission side */
	uint32_t active;		/* under lock: requests in the backend */
	struct iomap__bio_list backlog; /* under lock: requests that wait for a place */
	struct iomap__blk *blk;
	unsigned index;
	uint32_t depth;
	struct iomap__thread *owner; /* who alone uses it (private.c); NULL: everybody */
	void *backend;		     /* the backend's */
	/* Requests that nobody has collected the end of, with the backlog. */
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint32_t inflight;
	_Atomic uint32_t expected; /* threads that are about to reap it (park.c) */
	/* Who reaps the queue; changed under blk->park_lock. */
	_Atomic(struct iomap__waiter *) reaper;
};

void iomap__queue_submit(struct iomap__queue *queue, struct iomap__bio_list *list,
			 bool will_wait);
/* Send all that waits in the thread: its plug, and what it holds (plug.c). */
void iomap__plug_flush_thread(struct iomap__thread *self);
/* Send what the thread holds back in its queue (queue.c); the queue's lock not held. */
void iomap__hold_send(struct iomap__thread *self);
/* From here to the end the thread holds back what it starts in @queue.  Return: for the end. */
static inline struct iomap__queue *iomap__hold_begin(struct iomap__thread *self,
						     struct iomap__queue *queue)
{
	struct iomap__queue *before = self->hold;

	if (before != queue)
		iomap__hold_send(self);
	self->plug_flush = iomap__plug_flush_thread;
	self->hold = queue;
	return before;
}
static inline void iomap__hold_end(struct iomap__thread *self, struct iomap__queue *before)
{
	iomap__hold_send(self);
	self->hold = before;
}
/* Complete what has ended.  By the reaper.  Requests. */
unsigned iomap__queue_reap(struct iomap__queue *queue);
struct iomap__queue *iomap__queue_mine(struct iomap__blk *blk);

/* ---- queues of one thread (private.c) ---- */

struct iomap__private {
	struct iomap__queue queue;
	unsigned slot;
	bool leaving;		     /* its thread ends; under the lock of private.c */
	/* of all in flight, if it is one; its owner's, and only to be compared */
	const struct iomap_bdev *bdev;
	struct iomap__private *next; /* of its thread; under the lock of private.c */
};

/*
 * The calling thread's own queue, for a POLLED bio that nobody but it waits for; NULL: the bio
 * goes where all others do.
 */
struct iomap__queue *iomap__private_for(struct iomap__blk *blk);
/* As iomap__queue_submit(), to what iomap__private_for() has given. */
void iomap__private_submit(struct iomap__queue *queue, struct iomap__bio_list *list,
			   bool will_wait);
/* The calling thread's, if it has one. */
struct iomap__queue *iomap__private_mine(struct iomap__blk *blk);
/* Complete what has ended in the calling thread's.  Requests. */
unsigned iomap__private_reap(struct iomap__queue *queue);
/* Sleep in it until *@word differs from @expected, which only its requests can change. */
void iomap__private_wait(struct iomap__queue *queue, const uint32_t *word, uint32_t expected);
/* Give back those of all threads.  Nothing is in flight; no thread but this one is inside. */
void iomap__private_close_all(struct iomap__blk *blk);
/* A request of the queue has not been collected yet.  By its owner; NULL: no. */
static inline bool iomap__private_busy(struct iomap__queue *queue)
{
	return queue && atomic_load_explicit(&queue->inflight, memory_order_relaxed);
}

/* ---- waiting (park.c) ---- */

enum iomap__waiter_state {
	IOMAP__WAITER_RUNNING, /* awake */
	IOMAP__WAITER_FUTEX,   /* sleeps on `state` */
	IOMAP__WAITER_RING,    /* sleeps in the queues it reaps */
};

/* One waiting thread, on its stack.  All but `state` is only used under blk->park_lock. */
struct iomap__waiter {
	uint32_t state; /* enum iomap__waiter_state; a futex word; changed under park_lock */
	bool woken;	/* the word has changed */
	struct iomap__blk *blk;
	const uint32_t *word;
	struct iomap__queue *home; /* the queue nobody takes from us */
	struct iomap__queue *only; /* the one queue we care about, or NULL: all */
	uint32_t roles;		   /* bits: queues we reap */
	uint32_t asleep_roles;	   /* and those when we went to sleep */
	struct iomap__queue *own;  /* the thread's alone, or NULL (private.c) */
	bool asleep_own;	   /* it had requests in flight when we went to sleep */
	int eventfd;		   /* kicks us out of several rings; -1: none */
	uint64_t deadline_ns;	   /* CLOCK_MONOTONIC; 0: none */
	struct iomap__slow *waiting; /* what the thread waits for; NULL: no I/O */
	struct iomap_list_head bucket;
	struct iomap_list_head sleepers;
};

/* Not in its home queue alone: it may lose a queue while it sleeps, or has a deadline. */
static inline bool iomap__sleeps_elsewhere(const struct iomap__waiter *waiter)
{
	return waiter->eventfd >= 0 || waiter->deadline_ns || waiter->asleep_own ||
	       waiter->asleep_roles != UINT32_C(1) << waiter->home->index;
}
/* Sleep in the queues of @waiter->asleep_roles, its own, and on its eventfd (poll.c). */
void iomap__sleep_poll(struct iomap__blk *blk, struct iomap__waiter *waiter);

void iomap__park_init(struct iomap__blk *blk);
void iomap__park_exit(struct iomap__blk *blk);
/* Wait as iomap__io_wait(), for something that only @only can bring about. */
void iomap__io_wait_only(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			 struct iomap__queue *only);
/* Requests were added to @queue by a thread that is not going to reap them. */
void iomap__park_work_added(struct iomap__queue *queue);
/* The thread submits next and then waits, or calls iomap__io_expected(). */
void iomap__park_expect(struct iomap__blk *blk);
/* An I/O thread has ended a request of @queue. */
void iomap__park_work_ended(struct iomap__queue *queue);

/* ---- the application's event loop (loop.c) ---- */

struct iomap__loop {
	int epoll; /* the application's */
	int notify, work;
};

void iomap__loop_exit(struct iomap__blk *blk);

/* ---- slow I/O (slow.c) ---- */

#define IOMAP__SLOW_SHARDS 8U

void iomap__slow_init(struct iomap__blk *blk);
void iomap__slow_dump(struct iomap__blk *blk, struct iomap__lines *lines);
/* Look at the waiters (park.c): calls @fn for what each waits for, under park_lock. */
void iomap__park_each_waiting(struct iomap__blk *blk,
			      void (*fn)(void *arg, struct iomap__slow *slow), void *arg);

/* ---- engine-wide state ---- */

enum {
	IOMAP__BLKSTAT_BIOS,
	IOMAP__BLKSTAT_READ_BYTES,
	IOMAP__BLKSTAT_WRITTEN_BYTES,
	IOMAP__BLKSTAT_FLUSHES,
};

#define IOMAP__BACKENDS_MAX 8U

/* Why a backend was not taken: what failed, a static string, and how; error 0: it was not tried. */
struct iomap__refusal {
	const char *why;
	int error;
};

/* The backends there are, the best one first (blk.c). */
const struct iomap__backend *iomap__backend_nth(unsigned nth);
/*
 * Create and destroy the backend in a layer of its own, with one queue of one request.
 * @engine: zeroed but for env.  0 or -errno; *why says what failed.
 */
int iomap__blk_probe(struct iomap_engine *engine, const struct iomap__backend *backend,
		     const char **why);

/* ---- memory of the application (buffers.c) ---- */

#define IOMAP__BUFFERS_MAX 1024U

struct iomap__buffer {
	uintptr_t base;
	uint64_t bytes;	   /* 0: the place is free */
	uint64_t id;	   /* never the same twice; 0: no ring is to know it */
	bool known;	   /* to all shared rings, as far as has been tried */
	uint32_t inflight; /* atomic: transfers that go by it */
};

struct iomap__buffers {
	struct iomap__mutex lock;	/* RANK_BDEV: one change at a time */
	struct iomap__mutex table_lock; /* RANK_POOL: the places but for `inflight` */
	struct iomap__buffer place[IOMAP__BUFFERS_MAX];
};

/* Bytes that rings know. */
uint64_t iomap__buffers_known(struct iomap__blk *blk);
/* A transfer that went by the buffer at @place has been collected; any context. */
void iomap__buffers_done(struct iomap__blk *blk, unsigned place);
void iomap__buffers_exit(struct iomap__blk *blk);

struct iomap__blk {
	struct iomap__stats stats;
	struct iomap_engine *engine;
	struct iomap__env *env;
	const struct iomap__backend *backend;
	unsigned nr_queues;
	uint32_t depth;
	unsigned nr_io_threads;
	struct iomap__queue *queues;
	void *backend_data;
	struct iomap__refusal refused[IOMAP__BACKENDS_MAX]; /* by number; constant after creation */
	struct iomap_bio_set bios;	  /* the engine's own */
	_Atomic uint32_t bio_sets_nr;	  /* of the application */
	struct iomap__pool stacked_pool; /* struct iomap__stacked */
	struct iomap__pool bdev_pool;	 /* struct iomap_bdev */
	struct iomap__buffers *buffers;	 /* NULL until there is one; atomic */
	uint64_t buffers_generation;	 /* moves with the table where rings follow it; atomic */

	/* What devices have said to iopoll.c; under bdevs_lock. */
	struct {
		unsigned asked, can;
		char why[IOMAP__IOPOLL_WHY]; /* the last one that cannot */
	} iopoll;

	/* Queues of one thread each.  Owners are atomic, since everybody looks; the rest is the
	 * owner's, and changes under the lock of private.c. */
	_Atomic(struct iomap__thread *) private_owner[IOMAP__PRIVATES_MAX];
	struct iomap__private *privates[IOMAP__PRIVATES_MAX];
	_Atomic uint32_t privates_nr;
	_Atomic bool privates_refused; /* one could not be had: nobody asks again */

	/* RANK_ENGINE: list and ids of bdevs */
	struct iomap__mutex bdevs_lock;
	struct iomap_bdev *bdevs;
	uint64_t bdev_ids; /* in use */
	/* latencies of devices that have been closed */
	uint64_t gone_hist[IOMAP__HIST_KINDS][IOMAP_HIST_BUCKETS_NR];

	/* RANK_PARK: all waiters, and who reaps what */
	struct iomap__mutex park_lock;
	struct iomap_list_head buckets[IOMAP__PARK_BUCKETS];
	_Atomic uint32_t bucket_nr[IOMAP__PARK_BUCKETS];
	struct iomap_list_head sleepers;
	_Atomic uint32_t nr_waiters;
	int spare_eventfds[IOMAP__QUEUES_MAX];
	unsigned nr_spare_eventfds, nr_eventfds;

	struct slow_shard {
		_Alignas(IOMAP__CACHE_LINE) struct iomap__mutex lock; /* RANK_POOL */
		struct iomap_list_head list;
	} slow[IOMAP__SLOW_SHARDS];
	_Atomic uint64_t slow_next_ns; /* when to look again */

	struct iomap__loop loop; /* constant once there is one */
	_Atomic bool loop_on;
};

static inline bool iomap__loop_on(struct iomap__blk *blk)
{
	/* acquire: pairs with the release of loop_create() */
	return iomap__unlikely(atomic_load_explicit(&blk->loop_on, memory_order_acquire));
}

#endif
