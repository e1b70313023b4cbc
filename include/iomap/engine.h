/* SPDX-License-Identifier: MIT */
/*
 * iomap/engine.h - the engine: cache memory, I/O queues, background threads.
 *
 * Threads: every function here may be called from any thread.  Create and destroy
 * block; destroy must not race other calls on the same engine.
 * Lifetime: an engine outlives its bdevs, inodes, files and bio sets; destroying it while any
 * of them exists gives -EBUSY and changes nothing.
 * Several engines may live in one process.  The library installs no signal handlers,
 * its threads block all signals, and it has no global constructors.
 *
 * fork(): the parent does not notice.  The child inherits nothing of the engines there are: in it
 * calls on them, and on their devices, inodes and files, give -ECHILD and change nothing, those
 * that return a pointer NULL, and a bio that is submitted ends with -ECHILD.  No callback runs,
 * and iomap_engine_destroy() frees nothing: that is for exec and exit, where descriptors are
 * closed.  It may not: use folios that it has, take inode locks (another thread may have held
 * them), or return from a callback in which it was made.  It can create engines of its own, unless
 * _Fork() made it.
 */
#ifndef IOMAP_ENGINE_H
#define IOMAP_ENGINE_H

#include <string.h>

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

enum iomap_log_level {
	IOMAP_LOG_ERROR,
	IOMAP_LOG_WARN,
	IOMAP_LOG_INFO,
	IOMAP_LOG_DEBUG,
};

/*
 * Log callback.  Context: any thread, with library locks possibly held; must not call
 * back into the library but for functions marked "any context", must not block for long.
 * `message` has no newline and lives only during the call.  At most
 * iomap_engine_opts.log_per_second lines a second come through; what was left out is
 * counted in the next line.
 */
typedef void iomap_log_fn(void *ctx, enum iomap_log_level level, const char *message);

/*
 * Memory hooks for all the library allocates but folio memory.  `alloc` returns memory of
 * at least `size` bytes aligned to `align` (a power of two), or NULL; need not be zeroed.
 * `free` gets the pointer and the same size.  Any thread, library locks possibly held;
 * must not call into the library.
 */
struct iomap_alloc_hooks {
	void *(*alloc)(void *ctx, size_t align, size_t size);
	void (*free)(void *ctx, void *ptr, size_t size);
	void *ctx;
};

/*
 * What a test can make fail, each as it fails where memory, descriptors or the device do.
 * What then happens is in docs/testing.md.
 */
enum iomap_fail_kind {
	IOMAP_FAIL_ALLOC,	  /* memory through the hooks, slabs of pools among it */
	IOMAP_FAIL_ARENA_MAP,	  /* address space for folio memory, its descriptors, the engine */
	IOMAP_FAIL_RING_SETUP,	  /* a ring of io_uring or a context of libaio: -ENOMEM; the
				   * latter's eventfds: -EMFILE */
	IOMAP_FAIL_THREAD_CREATE, /* a thread of the library: -EAGAIN */
	IOMAP_FAIL_EVENTFD,	  /* a descriptor to wake a waiting thread: -EMFILE */
	IOMAP_FAIL_POOL,	  /* a bio, an ioend, an index node, block state: its pool is
				   * empty and there is no memory for more; write-out asks
				   * again until it gets one */
	IOMAP_FAIL_FOLIO,	  /* a folio: nothing in the cache can be evicted */
	IOMAP_FAIL_IO,		  /* a bio at a file, block device or memory device: -EIO, and
				   * nothing of it is done */
	IOMAP_FAIL_RING_REGISTER, /* memory or a file with a ring, which then does without: -ENOMEM */
	IOMAP_FAIL_KINDS_NR,	  /* of this version */
};

/*
 * Asked before each operation that can fail, so that a test can let each of them fail in
 * turn: true makes it fail.  @n counts the operations of this kind since the engine's creation
 * began, from 1; those of creation itself count.  One that is tried again counts again.
 * Context: any thread, with library locks possibly held; must not block nor call the library.
 */
typedef bool iomap_fail_fn(void *ctx, enum iomap_fail_kind kind, uint64_t n);

/* iomap_engine_opts.flags */
/* No background flusher: writeback by callers only.  No workers: iomap_engine_poll(). */
#define IOMAP_ENGINE_NO_THREADS 0x1U
/* Ask each file and block device at open whether it could complete by being polled: one read of
 * its first block.  iomap_features() ("polled") and a log line for each that cannot tell the
 * answer.  All complete by interrupt in this version. */
#define IOMAP_ENGINE_IOPOLL 0x2U
/* No folio memory and no file is registered with rings: nothing of it is pinned. */
#define IOMAP_ENGINE_NO_REGISTER 0x4U

/*
 * What tests put between a device and the block layer: asked at the end of each transfer and
 * flush of a file or block device, whatever does the I/O.
 */
struct iomap_queue_faults {
	size_t size; /* sizeof(struct iomap_queue_faults) */
	void *ctx;
	/*
	 * @res is what the kernel said of @len bytes at byte @addr of @bdev, or of a flush (both
	 * are 0): bytes, or -errno.  Return: what the block layer is to see, that is the same,
	 * fewer bytes in whole blocks, or -errno.  -EINTR, -EAGAIN and -ECANCELED and what is
	 * missing of a transfer are asked for again, and again told.  @op is
	 * IOMAP_REQ_OP_READ and so on; a discard or zeroing moves no bytes, its @res is 0.  What
	 * could not be handed to the kernel is told as well, with the error of the handing over.
	 * Any thread, several at once; must not block nor call the library.
	 */
	int64_t (*complete)(void *ctx, struct iomap_bdev *bdev, uint32_t op, uint64_t addr,
			    uint64_t len, int64_t res);
};

/*
 * Options of an engine.  Zero means the default in brackets.  Set `size` to
 * sizeof(struct iomap_engine_opts), or use iomap_engine_opts_init().
 */
struct iomap_engine_opts {
	size_t size;
	uint64_t cache_bytes;	      /* hard bound on folio memory [256 MiB] */
	uint64_t max_folio_bytes;     /* largest folio, power of two [64 KiB, or less if
				       * cache_bytes / 16 is smaller]; at most cache_bytes / 16 */
	uint32_t max_callers;	      /* threads that may be inside calls at once [16]; the cache
				       * must have room for eight base folios for each */
	uint32_t flags;		      /* IOMAP_ENGINE_xxx */
	const char *backend;	      /* "io_uring", "libaio", "threads"; NULL: $IOMAP_BACKEND, then the
				       * best that works.  A named backend has no fallback. */
	uint32_t nr_queues;	      /* I/O queues [number of CPUs, at most 4], <= 32 */
	uint32_t queue_depth;	      /* requests in flight in each queue [128], <= 4096 */
	uint32_t nr_io_threads;	      /* threads of the "threads" backend, all queues [8], <= 1024 */
	uint32_t dirty_background_pct; /* flusher starts at this share of the cache [10, or
					* dirty_hard_pct if that is smaller] */
	uint32_t dirty_hard_pct;      /* writers write out themselves from here [40], <= 80 */
	uint32_t dirty_expire_ms;     /* age at which dirty data is written [30000] */
	uint32_t flush_interval_ms;   /* how often the flusher looks [5000] */
	uint32_t readahead_bytes;     /* how far a stream is read ahead [2 MiB]; cut to a sixteenth
				       * of the cache, and no less than the largest folio */
	uint32_t log_per_second;      /* log lines a second [20] */
	iomap_log_fn *log;	      /* [lines of WARN and ERROR to stderr] */
	void *log_ctx;
	struct iomap_alloc_hooks alloc; /* [malloc, free] */
	uint64_t (*now_ns)(void *ctx); /* monotonic clock [CLOCK_MONOTONIC] */
	void *now_ctx;
	iomap_fail_fn *fail_nth; /* for tests [nothing fails on purpose] */
	void *fail_ctx;
	uint32_t nr_workers;	      /* threads for callbacks that may block and for queued work,
				       * started when needed [3], <= 64; 1 saves wake-ups where
				       * these never wait for one another; below 3 asynchronous
				       * writes that wait hold up fsyncs and reads */
	uint32_t register_pct;	      /* share of the cache that may be registered with rings, and
				       * then is pinned when it has seen its first I/O [100] */
	uint32_t io_deadline_ms;      /* reads, direct I/O and fsync wait no longer than this for
				       * a device [0: as long as it takes]; see below */
	uint32_t slow_io_ms;	      /* a log line for I/O that takes longer [10000] */
	const struct iomap_queue_faults *queue_faults; /* for tests; lives as long as the engine
							* [none] */
	uint64_t max_cache_bytes;     /* what iomap_engine_set_cache_bytes() can make of it;
				       * address space is reserved for that, no memory
				       * [8 * cache_bytes]; below 16 TiB */
};

/*
 * Deadlines.  A call that has waited for a device until its deadline (iomap_kiocb.ki_deadline,
 * or io_deadline_ms after the wait began; after the submission, where a worker makes the call for
 * somebody who does not wait) returns -ETIMEDOUT, or a short count if it has done
 * something.  The I/O goes on:
 *
 * - Direct I/O: the caller's memory is in use until the device is done, and what is written may
 *   reach it at any time until then.  Do not free or use the memory, and do not write the same
 *   blocks (of a new one zeros go to what the write leaves of it), before
 *   iomap_inode_dio_wait() has returned; iomap_file_close() gives -EBUSY and
 *   truncation waits until then.  The write counts as failed: end_io gets -ETIMEDOUT, at the real
 *   completion, with a copy of the iocb, which the caller's need not outlive.
 * - Asynchronous direct I/O does not wait, so ki_complete comes at the real completion, with the
 *   real result, whatever the deadline.
 * - Buffered reads: the folio is the library's, and later reads find it.
 * - iomap_fsync(), O_DSYNC: nothing is lost and nothing is durable; call it again.  io_deadline_ms
 *   only, for all of its waits together.
 *
 * - Where no thread can be had that would end what is left behind, the call waits.  A flush is
 *   not waited for: without threads (IOMAP_ENGINE_NO_THREADS) it ends in the next call that
 *   waits or polls, and until then its device is busy: iomap_bdev_close() gives -EBUSY.
 *
 * Not bounded: what the application's callbacks wait for, buffered writes, truncation, direct
 * I/O through a buffer (IOMAP_DIO_BOUNCE), and a direct write into what is just being read
 * into the cache.
 *
 * Slow I/O is looked for by the flusher, on an engine without threads by iomap_engine_poll(),
 * and by waits that have a deadline.
 */

/**
 * iomap_engine_opts_init - clear @opts and set its size
 */
static inline void iomap_engine_opts_init(struct iomap_engine_opts *opts)
{
	/* inline, so that it clears the struct of the caller's version */
	memset(opts, 0, sizeof(*opts));
	opts->size = sizeof(*opts);
}

/**
 * iomap_engine_create - reserve cache memory, set up I/O queues, start the flusher
 * @opts: options, copied; NULL for all defaults
 * @out: receives the engine
 *
 * Blocks.  When io_uring is denied or missing "libaio" is taken, else "threads", and one log
 * line says which and why.
 *
 * Return: 0; -EINVAL for options that contradict each other (a log line says which), an
 * unknown backend or flag; -ENOMEM; the error of a named backend that does not work.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_engine_create(const struct iomap_engine_opts *opts,
						   struct iomap_engine **out);

/**
 * iomap_engine_destroy - stop threads and free everything
 *
 * Blocks.  Work that is queued runs before, in workers or here.  NULL is ignored.
 *
 * Return: 0; -EBUSY while a bdev, inode, file or bio set exists, and in a work function of the
 * engine (nothing is changed); -EINVAL for what is no engine any more (debug builds abort).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_engine_destroy(struct iomap_engine *engine);

/**
 * iomap_engine_shutdown - close the engine to new calls, and wait for what is in flight
 * @deadline_ns: when to give up, by the engine's clock (iomap_engine_opts.now_ns); 0: do not
 *	wait; UINT64_MAX: no limit
 *
 * From now on calls that begin something give -ESHUTDOWN: opening inodes, files and devices,
 * reads that find their data not cached, writes, syncs, truncation, direct I/O.  Reads of what
 * is cached go on.  What had begun ends as it would have, with its iomap_end; so bios are not
 * refused.  Closing and destroying work.  Dirty data stays dirty, and the flusher starts nothing:
 * sync before; iomap_inode_destroy() still writes it, or throws it away, as asked.
 *
 * Then it waits until no bio and no asynchronous iocb is in flight and no work is queued or
 * running: each ki_complete has run, once, at its real completion.  Without threads work runs
 * here.  A synchronous call that another thread is in may still begin a next bio.
 *
 * Any thread; may be called again.  Return: 0; -ETIMEDOUT: there is still something, which keeps
 * its memory and its inodes; -EBUSY in a work function or ki_complete of the engine, which is
 * closed then; -EINVAL.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_engine_shutdown(struct iomap_engine *engine,
						     uint64_t deadline_ns);

/**
 * iomap_engine_backend - name of the I/O backend in use: "io_uring", "libaio" or "threads"
 *
 * Any context.  The string is static.
 */
IOMAP_API const char *iomap_engine_backend(const struct iomap_engine *engine);

/**
 * iomap_engine_poll - complete what the devices have finished, and run work
 * @budget: work functions to run at most
 * @may_block_callbacks: false: only complete I/O, that is bi_end_io and what does not block
 *
 * For event loops, and the one place where work functions and ki_complete run on an engine
 * without threads; with threads it takes part in what workers do.  Does not wait for I/O.
 * Any thread; runs no work inside a work function or ki_complete, and does nothing inside a
 * bi_end_io.  POLLED bios are completed by calls of the thread that submitted them.
 *
 * Completions are not counted against @budget: each queue is collected once, so they are no
 * more than can be in flight, and what they run does not block.
 *
 * On an engine without threads it also writes out dirty data that is old enough or too much,
 * as the flusher does elsewhere: with @may_block_callbacks, where @budget was not used up, and
 * 8 MiB at most in a call.  It starts these writes; `writepages` and what it calls run here,
 * so no lock that they take may be held.
 *
 * Return: requests completed and functions run, a write-out as one of them; 0 when there was
 * nothing to do; INT32_MAX at most.
 */
IOMAP_API int iomap_engine_poll(struct iomap_engine *engine, unsigned budget,
				bool may_block_callbacks);

/* One thing that the library can or cannot do. */
struct iomap_feature {
	const char *name; /* static; the list is at iomap_features() */
	int available;	  /* 1 or 0 */
	char detail[116]; /* 0: why not; 1: may say how, or be empty */
};

/**
 * iomap_features - what can be had here, and why the rest cannot
 * @engine: of this engine; NULL: of this process, as an engine with default options finds it
 * @out: receives the first @nr features; may be NULL when that is 0
 * @element_size: sizeof(struct iomap_feature): elements of an older version are filled as far
 *	as they go, those of a newer one with zeros behind
 * @nr: elements of @out
 *
 * Names: "io_uring", "libaio", "threads" as far as they are built in, the best first (for an
 * engine: available is the one in use); "backend" (detail: the name of the one in use, or
 * that would be taken); "fua", "atomic", "registered_buffers", "registered_files", "polled",
 * "nowait", "checked", "mmap", "dax".  Later versions add names; look for those you know.  Limits of a
 * device are in iomap_bdev_limits().
 *
 * Any thread; blocks for moments.  Backends are probed at the first call that asks for one
 * not in use, and the answer holds for the process: what is denied to it later is not seen.
 *
 * Return: number of features there are; -EINVAL.
 */
IOMAP_API int iomap_features(struct iomap_engine *engine, struct iomap_feature *out,
			     size_t element_size, unsigned nr);

/**
 * iomap_engine_fd - a descriptor for the application's event loop
 *
 * For poll(2), select(2), or, level triggered, an epoll of the application.  It is readable
 * when iomap_engine_poll() has something to do: completions nobody has collected,
 * work that nobody has begun (ki_complete among it), and on an engine without threads when
 * the answer of iomap_engine_poll_timeout() may have become shorter.  Never read from it.
 * It does not tell of POLLED bios (IOMAP_REQ_POLLED).
 *
 * Once readable it stays so until iomap_engine_poll() is called: work until it has begun (in
 * whatever thread), all else until the next call, which looks at everything.  What another
 * thread completes while it waits for something itself is not lost to the loop: the
 * ki_complete is work, and makes it readable again.  It may be readable with nothing left to
 * do: a call then returns 0 and it is not readable any more.  A call with
 * @may_block_callbacks false leaves it readable while work waits.
 *
 * The engine's: it lives as long, is closed with it and across exec, and is always the same.
 * Any thread, does not block.  epoll_wait() may give -1 with EINTR more often than without
 * io_uring.
 *
 * Return: the descriptor; -EMFILE, -ENFILE or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_engine_fd(struct iomap_engine *engine);

/**
 * iomap_engine_poll_timeout - how long an event loop may sleep
 *
 * Until this time iomap_engine_poll() has nothing to do but what iomap_engine_fd() tells of:
 * on an engine without threads, until the next dirty data is old enough to be written.  By
 * the engine's clock (iomap_engine_opts.now_ns).  Ask again after each poll; other threads
 * may shorten it, and then the descriptor becomes readable.
 *
 * Any thread, does not block.
 *
 * Return: nanoseconds; 0: call iomap_engine_poll() now, and so it is while POLLED bios of the
 * calling thread are in flight; -1: no limit.
 */
IOMAP_API int64_t iomap_engine_poll_timeout(struct iomap_engine *engine);

/**
 * iomap_engine_drop_cache - drop all clean cached folios of the engine
 *
 * As iomap_invalidate_inode_pages() of each inode, which does it for one, or a range of it: what is
 * dirty, under writeback, locked or referenced stays.  Sync before, to drop what is dirty.
 * Inodes that are being destroyed are passed by.  Any thread, in callbacks too; starts no I/O and
 * waits for none.  What it drops while others read may be read again at once.  Kernel counterpart:
 * /proc/sys/vm/drop_caches.
 *
 * Return: bytes dropped; 0 in the child of a fork().
 */
IOMAP_API uint64_t iomap_engine_drop_cache(struct iomap_engine *engine);

/**
 * iomap_engine_set_cache_bytes - another size for the cache, at run time
 * @bytes: the new bound on folio memory, rounded down to whole pages: at least eight base folios
 *	for each of max_callers, and what the blocks and smallest folios of the inodes there are
 *	need; at most max_cache_bytes
 *
 * The dirty limits, watermarks and the largest folio (cache_bytes / 16, if that is smaller than
 * max_folio_bytes) follow.  An address space keeps the orders it has been given; they are cut to
 * what the size allows.
 *
 * Growing takes effect at once.  Shrinking: at once nothing is given out any more beyond the new
 * size; what is cached there is moved, evicted or, where there is no room for what is dirty,
 * written.  What is locked, referenced (pins) or under writeback is waited for.  When a second has
 * brought nothing the call gives up on it with -EBUSY: all the rest is gone, `cache_bytes` of the
 * statistics is the new size and what is left above it, and goes on falling as that is let go.
 * Memory goes back to the kernel, but what a queue of one thread (IOMAP_REQ_POLLED) has registered,
 * and pieces of less than 2 MiB (more in a cache of over 2 GiB) of what io_uring may register.
 *
 * Hits go on meanwhile at full speed, and so does everything else.  Any thread that holds no
 * lock of an inode or folio and is in no callback; blocks; writes dirty data when it must.  One
 * call at a time.
 *
 * Return: 0; -EBUSY: see above, or another thread is resizing; -EINVAL: @bytes is out of range;
 * -ENOMEM: it could not grow, or not so far; -ESHUTDOWN; -ECHILD.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_engine_set_cache_bytes(struct iomap_engine *engine,
							    uint64_t bytes);

/* Counters since creation unless said otherwise; bytes unless the name says otherwise. */
struct iomap_engine_stats {
	uint64_t cache_bytes;	    /* now: the bound */
	uint64_t cached_bytes;	    /* now: folio memory in use */
	uint64_t peak_cached_bytes; /* highest cached_bytes */
	uint64_t dirty_bytes;	    /* now */
	uint64_t writeback_bytes;   /* now */
	uint64_t hits_nr;	    /* read and write look-ups that found uptodate data */
	uint64_t misses_nr;	    /* look-ups that did not */
	uint64_t readahead_bytes;   /* read ahead of a request: now used, wasted, or cached */
	uint64_t readahead_used_bytes; /* of these, asked for later */
	uint64_t evictions_nr;	    /* folios evicted */
	uint64_t ioends_nr;	    /* ioends submitted */
	uint64_t ioend_bytes;	    /* bytes in them */
	uint64_t ioend_blocks_nr;   /* blocks in them */
	uint64_t bios_nr;	    /* bios that reached a file or device backend */
	uint64_t read_bytes;	    /* read from devices */
	uint64_t written_bytes;	    /* written to devices */
	uint64_t flushes_nr;	    /* device flushes */
	uint64_t fsyncs_nr;	    /* calls of iomap_fsync */
	uint64_t deferred_nr;	    /* runs that writeback_range answered with IOMAP_WB_DEFER */
	uint64_t throttled_nr;	    /* writers that had to write out themselves */
	uint64_t readahead_wasted_bytes; /* read ahead, and gone before they were asked for */
	/* Merge ratio: ranges / bios. */
	uint64_t ranges_nr;	 /* ranges of folios that cached reads and write-out had to move */
	uint64_t range_bios_nr; /* bios that these became */
	uint64_t throttle_pause_ns; /* that writers owed for data beyond the background limit */
	uint64_t ioend_bios_nr;	    /* bios that ioends were submitted as */
	uint64_t registered_bytes;  /* now: of iomap_register_buffers(), and rings know them */
};

/**
 * iomap_engine_stats - read the counters
 * @out: filled; each counter is exact when nothing runs, else a recent value
 * @size: sizeof(*out); a smaller struct of an older version is filled as far as it goes
 *
 * Any thread, does not block.  Return: 0 or -EINVAL.
 */
IOMAP_API int iomap_engine_stats(struct iomap_engine *engine, struct iomap_engine_stats *out,
				 size_t size);

/*
 * Latencies, by the engine's clock (iomap_engine_opts.now_ns).  The first three are those of calls,
 * as far as they wait, and each is counted: nothing is measured of a hit, which a look at the clock
 * would slow down.  The others are those of bios, from the moment they go to the queue (with what
 * waits there before them) to the one in which the end is noticed; of files, block devices and the
 * application's devices, not of memory.  Of reads and writes they are a sample, each thread's
 * first, ninth and so on; of flushes all.
 */
enum iomap_histogram {
	IOMAP_HIST_READ,  /* reads through the cache, for each folio that was not there: from the
			   * miss to the copy */
	IOMAP_HIST_WRITE, /* writes through the cache: each wait for room (throttling), and each
			   * read of what they leave of a block */
	IOMAP_HIST_FSYNC, /* iomap_fsync() as a whole */
	IOMAP_HIST_DEVICE_READ,
	IOMAP_HIST_DEVICE_WRITE,
	IOMAP_HIST_FLUSH,
	IOMAP_HISTOGRAMS_NR, /* of this version */
};

/* Bucket n counts what took 2^n up to 2^(n+1) ns; the first one less, the last one more as well. */
#define IOMAP_HIST_BUCKETS_NR 40U

/**
 * iomap_engine_histogram - latencies since the engine was created
 * @buckets: receives @nr counts; where that is less than IOMAP_HIST_BUCKETS_NR the last one holds
 *	the rest, where it is more zeros follow
 *
 * Of devices: all of the engine, those that are closed too.  iomap_bdev_histogram() has those of
 * one.  Any thread, does not block.  Return: 0; -EINVAL; -ECHILD.
 */
IOMAP_API int iomap_engine_histogram(struct iomap_engine *engine, enum iomap_histogram which,
				     uint64_t *buckets, unsigned nr);

/**
 * iomap_engine_dump - what the engine is doing, for a human
 * @line: called for each line of text, without a newline, which lives only during the call
 *
 * Counters; queues and devices with the number of bios in flight; what threads wait for, ioends
 * and asynchronous direct I/O in flight, each with its age; and of each inode that has any, folios
 * that are locked, pinned (referenced by somebody), or dirty and held back.  The text is not for
 * programs: it may change.  It is a walk through all that is cached.
 *
 * Any thread, beside whatever else is going on, also when a device hangs: it waits for no I/O.
 * @line is called when all has been looked at, on the calling thread with no lock held.
 *
 * Return: 0; -EINVAL; -ECHILD.
 */
IOMAP_API int iomap_engine_dump(struct iomap_engine *engine,
				void (*line)(void *ctx, const char *text), void *ctx);

/*
 * What one thread did inside the library, for tests of the hit path.
 * Counted in debug builds only.
 */
struct iomap_debug_counters {
	uint64_t locks_nr;	 /* folio, inode and internal locks taken */
	uint64_t folio_locks_nr; /* of these, folio locks */
	uint64_t allocs_nr;	 /* allocations through the hooks or a pool */
	uint64_t syscalls_nr;	 /* system calls */
	uint64_t ifs_allocs_nr;	 /* per-folio block states allocated */
	uint64_t waits_nr;	 /* times it began to wait: for I/O, a lock, memory, another thread */
};

/**
 * iomap_debug_counters - the calling thread's counters since its start
 *
 * Any context.  Return: 0; -EOPNOTSUPP in release builds; -EINVAL for a wrong size.
 */
IOMAP_API int iomap_debug_counters(struct iomap_debug_counters *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
