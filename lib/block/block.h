/* SPDX-License-Identifier: MIT */
/*
 * block.h - block devices, bios, I/O queues, and waiting for I/O.
 *
 * Owns: bdevs of an engine, bio pools, queues (a ring or its thread-pool twin), and the
 * parking lot in which threads sleep for a word to change.
 *
 * Waiting: whoever waits can complete I/O (contract 7 of docs/design.md).  A thread that
 * waits in iomap__io_wait() becomes the reaper of each queue that has I/O in flight and no
 * reaper, and sleeps in these queues; only when every such queue has one, or nothing is in
 * flight, does it sleep on a futex of its own.  A reaper that stops while I/O is in flight
 * and others sleep wakes one of these to take over; so does a submission that finds
 * sleepers and no reaper on its queue.
 *
 * Locks: the ranks ENGINE (list of bdevs), BDEV, QUEUE, WORK, PARK and POOL of base.h.
 * Reaping is a role, not a lock: completions (bi_end_io) run with none held.
 *
 * Life cycle of a bio: allocated, submitted (counted as in flight on its bdev), perhaps held
 * in a plug, perhaps split into children, issued to a queue or done inline, completed exactly
 * once by iomap_bio_endio(), which takes it out of the count before it runs bi_end_io.
 */
#ifndef IOMAP__BLOCK_H
#define IOMAP__BLOCK_H

#include <iomap/bdev.h>
#include <iomap/bio.h>

#include "base/base.h"

struct iomap__queue;

/* Engine-wide state of the layer. */
struct iomap__blk;

/* Create queues by opts (backend, fallback with one log line).  0 or -errno. */
int iomap__blk_create(struct iomap_engine *engine);
/* No bdev is open.  Stops the I/O threads. */
void iomap__blk_destroy(struct iomap_engine *engine);
/* A bdev is open, or the application has a bio set. */
bool iomap__blk_busy(struct iomap_engine *engine);
const char *iomap__blk_backend(const struct iomap_engine *engine);
/*
 * Backends by number, the best one first.  @engine: may be NULL, for the process.
 * available: whether the @nth is in use (in an engine) or works; @why gets a reason, or what
 * there is to say.  taken: the name of the one in use, or that an engine would take now; NULL:
 * none would.
 */
unsigned iomap__backends_nr(void);
const char *iomap__backend_name(unsigned nth);
int iomap__backend_available(struct iomap_engine *engine, unsigned nth, char *why, size_t size);
const char *iomap__backend_taken(struct iomap_engine *engine);
/*
 * Folio memory, which is most of what I/O is done on: it may be registered with the devices'
 * queues, which pins it.  It stays mapped until it is taken back with NULL, and no page of it is
 * punched out of which iomap__blk_let_go() has not said that it may.  No bdev is open at either
 * moment.
 */
void iomap__blk_set_memory(struct iomap_engine *engine, void *memory, uint64_t bytes);
/*
 * Whether the piece of that memory at @addr may be given back to the kernel: no ring has it pinned,
 * any more.  *bytes is cut to what the answer is about.  Nobody uses the piece, or will before
 * this has returned and it has been given back.
 */
bool iomap__blk_let_go(struct iomap_engine *engine, const void *addr, uint64_t *bytes);
/* How devices of @engine, which has IOMAP_ENGINE_IOPOLL, complete, and why. */
void iomap__iopoll_say(struct iomap_engine *engine, char *buf, size_t size);
/* Fill the block counters of @stats (bios_nr, read_bytes, written_bytes, flushes_nr). */
void iomap__blk_stats(struct iomap_engine *engine, struct iomap_engine_stats *stats);
/* Add latencies of all devices, from IOMAP_HIST_DEVICE_READ on, to @sum; say what is in flight. */
void iomap__blk_hist(struct iomap_engine *engine, enum iomap_histogram which, uint64_t *sum);
void iomap__blk_dump(struct iomap_engine *engine, struct iomap__lines *lines);

/*
 * Sleep until *@word differs from @expected, completing I/O meanwhile.  Spurious returns
 * happen; the caller loops.  Folio and inode locks may be held, internal locks not.
 */
void iomap__io_wait(struct iomap__blk *blk, const uint32_t *word, uint32_t expected);
/* The same, at most @timeout_ns.  Return false when it timed out. */
bool iomap__io_wait_timeout(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			    uint64_t timeout_ns);
/*
 * The same until @deadline_ns of the engine's clock; 0: no limit.  False: it has passed, and the
 * caller looks once more.
 */
bool iomap__io_wait_until(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			  uint64_t deadline_ns);
/* *@word was changed: wake all that wait for it.  @word is only a key.  Any context. */
void iomap__io_wake(struct iomap__blk *blk, const uint32_t *word);
/* Complete what the devices have finished.  Never blocks; no internal lock held.  Requests. */
unsigned iomap__io_poll(struct iomap__blk *blk);
/* The calling thread has requests in flight that only its own polls and waits complete. */
bool iomap__io_polled(struct iomap__blk *blk);
/*
 * The descriptor for an event loop, made when it is first asked for; or -errno.
 * begin: a poll is about to look for completions; readable again is what comes after.
 * notify: let the loop poll, once.  work: it polls readable for as long as work waits; for who
 * has seen the descriptor, calls one after the other.  notify: any context.
 */
int iomap__loop_fd(struct iomap__blk *blk);
void iomap__loop_begin(struct iomap__blk *blk);
void iomap__loop_notify(struct iomap__blk *blk);
void iomap__loop_work(struct iomap__blk *blk, bool waiting);
/*
 * Something that may take too long (slow.c): an I/O that nobody waits for, registered from
 * begin to end, or what a thread waits for, which lies on its stack from wait to wait_end.
 * Whoever makes one sets what, and either device or ino, and begun_ns where a look at the clock
 * does not count; the rest is the block layer's.
 */
struct iomap__slow {
	const char *what;   /* static */
	const char *device; /* its name; NULL: an inode */
	uint64_t ino;
	int64_t pos;
	uint64_t len;
	uint64_t begun_ns; /* 0: nobody has looked at the clock */
	uint64_t seen_ns; /* when it was first looked at; 0: not yet */
	uint64_t next_ns; /* when to log it */
	struct iomap__slow *outer;
	struct iomap_list_head entry;
	uint32_t shard;
};
void iomap__slow_begin(struct iomap__blk *blk, struct iomap__slow *slow);
void iomap__slow_end(struct iomap__blk *blk, struct iomap__slow *slow);
bool iomap__slow_none(struct iomap__blk *blk);
void iomap__slow_wait(struct iomap__slow *slow);
void iomap__slow_wait_end(struct iomap__slow *slow);
/* Look for what is slow, if it is time for that, and log it.  No internal lock held. */
void iomap__slow_look(struct iomap__blk *blk);
/* Nanoseconds between two looks. */
uint64_t iomap__slow_interval(const struct iomap__blk *blk);

/* No bio is in flight on any device. */
bool iomap__bdevs_idle(struct iomap_engine *engine);
/* Send what the thread's plug has collected (before any wait). */
void iomap__plug_flush(struct iomap__blk *blk);
/*
 * iomap_finish_plug() of a thread that waits next for what is in it: that is sent with the wait, and
 * nobody else is woken to complete it.  iomap__io_expected() has to follow the wait, or take its place,
 * before the thread calls the application.
 */
void iomap__plug_finish_expecting(struct iomap_plug *plug);
void iomap__io_expected(void);

/* Sets of the library, which the engine does not wait for; exit: of one that was initialised. */
int iomap__bio_set_init(struct iomap_bio_set *set, struct iomap_engine *engine, size_t front_pad,
			unsigned nr_reserved);
void iomap__bio_set_exit(struct iomap_bio_set *set);
/*
 * iomap_bio_alloc() from a set with reserved bios, which never fails: without memory it waits
 * until one of the set is put.  The caller holds none that is not submitted, and no lock that
 * an end of one needs.  Not in a completion.
 */
struct iomap_bio *iomap__bio_alloc_wait(struct iomap_bdev *bdev, unsigned nr_vecs, uint32_t opf,
					struct iomap_bio_set *set);

/* An i_bdev: keeps iomap_bdev_close() at -EBUSY. */
void iomap__bdev_get(struct iomap_bdev *bdev);
void iomap__bdev_put(struct iomap_bdev *bdev);
/* What iomap_bdev_limits() copies; constant while the bdev is open. */
const struct iomap_bdev_limits *iomap__bdev_limits(const struct iomap_bdev *bdev);
struct iomap_engine *iomap__bdev_engine(const struct iomap_bdev *bdev);
/* Number of the bdev in its engine, < 63; 63 for all later ones. */
unsigned iomap__bdev_id(const struct iomap_bdev *bdev);
/*
 * Flush every bdev whose id is set in @ids (63: every one from 63 on). First error.  One that
 * is not done by @deadline_ns (0: none) goes on, -ETIMEDOUT.
 */
int iomap__bdevs_flush(struct iomap_engine *engine, uint64_t ids, uint64_t deadline_ns);

#endif
