/* SPDX-License-Identifier: MIT */
/*
 * workers.h - what the files of this layer need of the workers; work.c tells how they go.
 */
#ifndef IOMAP__WORKERS_H
#define IOMAP__WORKERS_H

#include <iomap/work.h>

#include "base/base.h"
#include "cache/cache.h"

struct iomap__workers;

/* A work function that runs; on the stack of its thread, the innermost one in its record. */
struct iomap__work_frame {
	struct iomap__workers *workers;
	struct iomap__work_frame *outer;
	struct iomap_list_head running; /* under the workers' lock */
	uint64_t id;		  /* of the work, which may have been freed */
	struct iomap_work *again; /* under the lock: the same work, queued meanwhile */
	bool wanted;		  /* under the lock: who waits for writeback would have run it again */
	struct iomap_file *file;  /* whose ki_complete is being called; NULL: none, or closed */
};

/* After the block layer; before it.  No thread is started yet. */
int iomap__workers_create(struct iomap_engine *engine);
void iomap__workers_destroy(struct iomap_engine *engine);
/*
 * Run what is queued and stop the threads; they start again when they are needed.  False when
 * the caller is a work function of the engine, and nothing was done.
 */
bool iomap__workers_finish(struct iomap_engine *engine);

/* The caller is a work function of the engine.  Nothing is queued or running. */
bool iomap__workers_inside(struct iomap_engine *engine);
bool iomap__workers_idle(struct iomap_engine *engine);
/* For iomap_engine_dump(). */
void iomap__workers_dump(struct iomap_engine *engine, struct iomap__lines *lines);

/* Whether anybody is going to run work: a worker, or without threads iomap_engine_poll(). */
bool iomap__workers_ready(struct iomap_engine *engine);

/*
 * An I/O has been submitted whose submitter does not wait: until the unwatch, some worker sees
 * to its completion.  0, or -errno when there is no worker and none could be started; without
 * threads 0, and it is up to iomap_engine_poll().  *@call is for iomap__workers_call(), in any
 * case and soon: so that a worker does not wake just to find the submitter in its way.
 * unwatch: any context.  Work is queued after it, or iomap__workers_settle() called.
 * settle: nobody need watch.
 */
int iomap__workers_watch(struct iomap_engine *engine, const uint32_t **call);
void iomap__workers_call(const uint32_t *call);
void iomap__workers_unwatch(struct iomap_engine *engine);
void iomap__workers_settle(struct iomap_engine *engine);

/* Take the first queued work that matches out of the queue: it is the caller's. */
typedef bool iomap__work_match_fn(const struct iomap_work *work, const void *arg);
struct iomap_work *iomap__work_take(struct iomap_engine *engine, iomap__work_match_fn *match,
				    const void *arg);

/*
 * For who waits for writeback, iomap__cache_create()'s late_end: run a queued work that ends some.
 */
bool iomap__work_end_writeback(struct iomap_engine *engine, unsigned class);

/*
 * Waiting for what work brings about.  Between begin and end the event moves whenever work is
 * queued or has run, and at each iomap__work_notify(): read it, look, wait for it to move.
 */
void iomap__work_wait_begin(struct iomap_engine *engine);
uint32_t iomap__work_event(struct iomap_engine *engine);
void iomap__work_wait(struct iomap_engine *engine, uint32_t event);
void iomap__work_wait_for(struct iomap_engine *engine, uint32_t event, uint64_t timeout_ns);
void iomap__work_wait_end(struct iomap_engine *engine);
/* Any context. */
void iomap__work_notify(struct iomap_engine *engine);

#endif
