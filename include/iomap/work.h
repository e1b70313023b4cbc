/* SPDX-License-Identifier: MIT */
/*
 * iomap/work.h - functions that run later, on a worker thread of the engine.
 *
 * For what may block and so must not be done where it is found out, in a bi_end_io above all.
 * The library's own completions that may block run in the same way.
 *
 * Threads: an engine has up to iomap_engine_opts.nr_workers workers.  They are started when
 * they are first needed, and block all signals.  On an engine without threads work runs
 * inside iomap_engine_poll(), and nowhere else but in iomap_flush_work() and
 * iomap_engine_destroy().  Work that ends writeback also runs in who waits for that
 * (iomap/writeback.h).
 * Lifetime: the struct is the caller's, embedded in whatever the work is about.  It is the
 * library's from iomap_queue_work() until its function is called, which may free it.
 */
#ifndef IOMAP_WORK_H
#define IOMAP_WORK_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct iomap_work;

/*
 * A work function.  Context: a worker, iomap_engine_poll() with blocking callbacks allowed,
 * iomap_flush_work() or iomap_engine_destroy().  No lock of the library is held, but where it ends
 * writeback for who waits (struct iomap_ioend says which that may be).  It may
 * block, submit I/O, queue any work, also its own, and call everything but
 * iomap_flush_work() of its own work and iomap_engine_destroy().  What it waits for must not
 * hang on more work than there are workers left for.
 */
typedef void iomap_work_fn(struct iomap_work *work);

/* Something to be done later (kernel: struct work_struct).  Members are the library's. */
struct iomap_work {
	iomap_work_fn *func;
	struct iomap_list_head entry;
	uint32_t state;
	uint32_t reserved32;
	uint64_t id;
	uint64_t reserved;
};

/** iomap_init_work - prepare @work; it must not be queued.  Any context.  Kernel: INIT_WORK. */
IOMAP_API void iomap_init_work(struct iomap_work *work, iomap_work_fn *func);

/**
 * iomap_queue_work - have the work's function called
 * @engine: whose workers
 * @work: initialised
 *
 * Any thread, from a bi_end_io and from a work function as well; does not block.  Work is
 * begun in the order it was queued, by several workers at once; the function of one work
 * never runs twice at a time.  What was done before this call the function sees, also when
 * the call returns false.  Kernel counterpart: queue_work.
 *
 * Where no worker can be started (a log line says why) and none runs, the work stays queued
 * until a later call has more luck, or iomap_engine_poll() is called.
 *
 * Return: true; false when it was queued already and has not begun: it will run once.
 */
IOMAP_API bool iomap_queue_work(struct iomap_engine *engine, struct iomap_work *work);

/**
 * iomap_flush_work - wait until the work is neither queued nor running
 *
 * Blocks.  Not from the work's own function.  In a work function, and where there is no
 * worker, the caller runs it.  @work must stay valid meanwhile: not for works that free
 * themselves.  One that is queued again and again is waited for again and again.
 */
IOMAP_API void iomap_flush_work(struct iomap_engine *engine, struct iomap_work *work);

#ifdef __cplusplus
}
#endif
#endif
