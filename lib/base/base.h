/* SPDX-License-Identifier: MIT */
/*
 * base.h - the lowest layer: environment of an engine, logging, memory, locks, epochs.
 *
 * Owns: struct iomap_engine as a handle that holds what each layer hangs on it; the
 * lock-order checker; the process-wide registry of threads that read under an epoch.
 *
 * Locks: every lock of the library has a rank (enum iomap__rank).  A thread takes locks by
 * rising rank; debug builds check it (witness.c) and abort with the chain held now and the
 * chain that once took them the other way round.  Of one rank only folio locks may be held
 * together, by rising index of one inode.  Locks that belong to an inode carry its class
 * (iomap_inode_args.lock_class): all locks of a class come before those of the next.
 *
 * Life cycles: a thread record (struct iomap__thread) is made at a thread's first call and
 * given back when the thread ends; records are never freed, so that scans need no lock.
 */
#ifndef IOMAP__BASE_H
#define IOMAP__BASE_H

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <iomap/engine.h>
#include <iomap/flags.h>
#include <iomap/lock.h>
#include <iomap/types.h>

#ifndef IOMAP_DEBUG
#define IOMAP_DEBUG 0
#endif

#if defined(__SANITIZE_THREAD__)
#define IOMAP__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IOMAP__TSAN 1
#endif
#endif
#ifndef IOMAP__TSAN
#define IOMAP__TSAN 0
#endif

#if defined(__SANITIZE_ADDRESS__)
#define IOMAP__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define IOMAP__ASAN 1
#endif
#endif
#ifndef IOMAP__ASAN
#define IOMAP__ASAN 0
#endif

/* What memory that is nobody's is filled with in debug builds. */
#define IOMAP__POISON 0x6b

#define iomap__likely(x) __builtin_expect(!!(x), 1)
#define iomap__unlikely(x) __builtin_expect(!!(x), 0)
#define iomap__container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define iomap__min(a, b) ((a) < (b) ? (a) : (b))
#define iomap__max(a, b) ((a) > (b) ? (a) : (b))
#define IOMAP__CACHE_LINE 64
#define iomap__array_len(a) (sizeof(a) / sizeof((a)[0]))

static inline bool iomap__is_pow2(uint64_t n)
{
	return n && !(n & (n - 1));
}

static inline uint64_t iomap__round_down(uint64_t n, uint64_t pow2)
{
	return n & ~(pow2 - 1);
}

static inline uint64_t iomap__round_up(uint64_t n, uint64_t pow2)
{
	return (n + pow2 - 1) & ~(pow2 - 1);
}

/* ---- environment: what the options gave (env.c, log.c) ---- */

struct iomap__env {
	struct iomap_alloc_hooks hooks;
	iomap_log_fn *log;
	void *log_ctx;
	uint64_t (*now_ns)(void *ctx);
	void *now_ctx;
	uint32_t log_per_second;
	/* rate limit: second << 32 | lines of that second; lines left out */
	_Atomic uint64_t log_window;
	_Atomic uint64_t log_dropped;
	iomap_fail_fn *fail_nth; /* NULL but in tests */
	void *fail_ctx;
	_Atomic uint64_t fail_nr[IOMAP_FAIL_KINDS_NR]; /* operations so far */
};

struct iomap__blk;
struct iomap__cache;
struct iomap__fs;
struct iomap__workers;

/*
 * What may be done with an engine.  The first one is what the child of a fork() finds: there
 * the struct reads as zeros.
 */
enum iomap__engine_state {
	IOMAP__ENGINE_FORKED, /* made by another process */
	IOMAP__ENGINE_OPEN,
	IOMAP__ENGINE_CLOSED, /* iomap_engine_shutdown() has begun; never goes back */
};

/* The engine: a handle.  Set up and torn down by lib/iomap/engine.c. */
struct iomap_engine {
	uint32_t state; /* enum iomap__engine_state; atomic */
	struct iomap__env env;
	struct iomap_engine_opts opts; /* with defaults filled in */
	uint64_t folio_bytes_max; /* largest folio where the cache is large enough */
	struct iomap__blk *blk;
	struct iomap__cache *cache;
	struct iomap__fs *fs;
	struct iomap__workers *workers;
	/* iomap_sync_engine's view of the errors of all inodes, gone ones too */
	uint32_t wb_err;    /* errseq; moved by iomap_mapping_set_error() */
	uint32_t sync_err;  /* cursor into it; under sync_lock */
	uint32_t sync_lock; /* iomap__word_lock(), IOMAP__RANK_ENGINE */
};

/*
 * Whether nothing may begin any more.  Who begins something asks; relaxed: one that comes at the
 * same time has begun before.
 */
static inline bool iomap__engine_closed(const struct iomap_engine *engine)
{
	return iomap__unlikely(__atomic_load_n(&engine->state, __ATOMIC_RELAXED) !=
			       IOMAP__ENGINE_OPEN);
}
/* It belongs to the process that has forked: nothing of it can be used. */
static inline bool iomap__engine_forked(const struct iomap_engine *engine)
{
	return iomap__unlikely(__atomic_load_n(&engine->state, __ATOMIC_RELAXED) ==
			       IOMAP__ENGINE_FORKED);
}
/* 0, or what a call that begins something returns: -ESHUTDOWN, -ECHILD. */
static inline int iomap__engine_refusal(const struct iomap_engine *engine)
{
	if (!iomap__engine_closed(engine))
		return 0;
	return iomap__engine_forked(engine) ? -ECHILD : -ESHUTDOWN;
}
/* Fill @env from @opts (defaults where zero). */
void iomap__env_init(struct iomap__env *env, const struct iomap_engine_opts *opts);
/* The same, going on where @from is, which was made from the same options. */
void iomap__env_go_on(struct iomap__env *env, const struct iomap_engine_opts *opts,
		      const struct iomap__env *from);
/* Memory through the hooks; counted in debug builds.  NULL when there is none. */
void *iomap__alloc(struct iomap__env *env, size_t size);
void *iomap__zalloc(struct iomap__env *env, size_t size);
void *iomap__alloc_aligned(struct iomap__env *env, size_t align, size_t size);
/* Debug builds fill it with IOMAP__POISON first. */
void iomap__free(struct iomap__env *env, void *ptr, size_t size);
/*
 * The next operation of @kind is to fail (iomap_engine_opts.fail_nth).  One branch when there
 * is no such hook; not for paths that cannot fail.
 */
bool iomap__fail_asked(struct iomap__env *env, enum iomap_fail_kind kind);
static inline bool iomap__fails(struct iomap__env *env, enum iomap_fail_kind kind)
{
	return iomap__unlikely(env->fail_nth) && iomap__fail_asked(env, kind);
}
static inline uint64_t iomap__now_ns(struct iomap__env *env)
{
	return env->now_ns(env->now_ctx);
}
/* When a wait that begins now ends: at @own, or as the options say; 0: never. */
static inline uint64_t iomap__deadline(struct iomap_engine *engine, uint64_t own)
{
	if (own || !engine->opts.io_deadline_ms)
		return own;
	return iomap__now_ns(&engine->env) + (uint64_t)engine->opts.io_deadline_ms * 1000000U;
}
/* One log line, rate limited.  Any context. */
void iomap__log(struct iomap__env *env, enum iomap_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* A bug of ours or of the caller: logs to stderr and aborts.  Debug builds only use it. */
void iomap__bug(const char *file, int line, const char *fmt, ...)
	__attribute__((noreturn, cold, format(printf, 3, 4)));
#if IOMAP_DEBUG
#define iomap__assert(cond) \
	((cond) ? (void)0 : iomap__bug(__FILE__, __LINE__, "assertion failed: %s", #cond))
#define iomap__assert_msg(cond, ...) \
	((cond) ? (void)0 : iomap__bug(__FILE__, __LINE__, __VA_ARGS__))
#else
#define iomap__assert(cond) ((void)sizeof(!(cond)))
#define iomap__assert_msg(cond, ...) ((void)sizeof(!(cond)))
#endif

/* ---- threads, epochs, debug counters (thread.c, epoch.c) ---- */

/* Statistics slots that one thread owns alone; later threads share the last one. */
#define IOMAP__STAT_SLOTS 64

/*
 * One thread inside the library.  `epoch` is 0 outside a read section, else the global
 * epoch at its start.  Written by the thread, read by whoever waits for a grace period.
 */
struct iomap__thread {
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint64_t epoch;
	uint32_t id;	    /* small number, unique among living threads */
	uint32_t stat_offset; /* bytes, of the thread's slot in each struct iomap__stats */
	uint32_t tid;	    /* kernel's */
	bool stat_shared;   /* the slot is not this thread's alone */
	_Atomic bool in_use;
	bool inline_busy; /* block layer: a bio is being done inline */
	/* block layer: bios held back, and what sends them before the thread sleeps */
	void *plug; /* struct iomap_plug */
	void (*plug_flush)(struct iomap__thread *self);
	void *inline_first, *inline_last; /* bios that wait for the one being done inline */
	void *waiter;	     /* struct iomap__waiter: innermost wait */
	/* block layer: a queue in which requests of this thread may stay unsent for now, and
	 * how many do (queue.c) */
	void *hold; /* struct iomap__queue */
	uint32_t held;
	/* block layer: the queue in which this thread is going to wait for what it has submitted, and
	 * `hold` before that (park.c) */
	void *expect, *expect_hold; /* struct iomap__queue */
	uint32_t completing; /* depth of completion callbacks */
	uint32_t bios_nr; /* block layer: started; which are measured (internal.h) */
	/* block layer: queues that are this thread's alone (private.c); what gives them back
	 * before the thread ends, NULL: there are none; the one whose completions are being
	 * handed out, NULL: those of another queue, or none */
	void *privates; /* struct iomap__private */
	void (*on_exit)(struct iomap__thread *self);
	void *ending; /* struct iomap__queue */
	void *work; /* iomap layer: struct iomap__work_frame, the innermost */
	uint32_t ending_ioends; /* iomap layer: bits, of classes whose ioends it is ending */
	void *waiting; /* block layer: struct iomap__slow, what the thread waits for; NULL: no I/O */
	uint64_t deadline_ns; /* iomap layer: when a sync's waits end; 0: never */
	/* cache layer, throttle.c: pages made dirty that owe a pause, and what is owed; depth of
	 * writepages; a writer that says that it is not to wait */
	uint64_t dirtied, pause_ns;
	uint32_t writing;
	bool unthrottled;
	struct iomap_debug_counters counters;
	struct iomap__thread *next; /* registry, never unlinked */
};

extern _Thread_local struct iomap__thread *iomap__thread_self_ptr
	__attribute__((tls_model("initial-exec"), visibility("hidden")));
struct iomap__thread *iomap__thread_register(void);

/*
 * Locks of the process, not of an engine (iomap__word_lock(), IOMAP__RANK_ENGINE).  In the child
 * of a fork() they are free: whoever held one is not there.  So what they guard makes sense at
 * any moment, or is found to be unfinished.
 */
enum iomap__process_lock {
	IOMAP__PROCESS_ENGINES, /* list of engines: engine.c */
	IOMAP__PROCESS_PROBE,	/* what backends work: probe.c */
	IOMAP__PROCESS_PRIVATES, /* queues of one thread: private.c */
	IOMAP__PROCESS_LOCKS,
};
extern uint32_t iomap__process_lock[IOMAP__PROCESS_LOCKS];

/* The calling thread's record.  Allocates at the thread's first call only. */
static inline struct iomap__thread *iomap__thread_self(void)
{
	struct iomap__thread *self = iomap__thread_self_ptr;

	return iomap__likely(self) ? self : iomap__thread_register();
}

#if IOMAP_DEBUG
#define iomap__count(member) ((void)iomap__thread_self()->counters.member++)
#else
#define iomap__count(member) ((void)0)
#endif

/*
 * Epochs: memory that readers may look at without a lock is given back only after every
 * reader that was inside a section has left it.  A reader only stores; the waiter pays with
 * a membarrier (a full fence in the reader where that is missing, and under TSan).
 * Sections must not block.  They do not nest.
 */
extern _Atomic uint64_t iomap__epoch_global;
/* In the global epoch, from before the first reader: readers need a full fence. */
#define IOMAP__EPOCH_FENCE (UINT64_C(1) << 63)

/* For who has its record at hand. */
static inline void iomap__epoch_enter_self(struct iomap__thread *self)
{
	/* acquire: whoever shows this epoch has seen what was unlinked before it began */
	uint64_t now = atomic_load_explicit(&iomap__epoch_global, memory_order_acquire);

	if (iomap__unlikely(now & IOMAP__EPOCH_FENCE)) {
		atomic_exchange_explicit(&self->epoch, now, memory_order_seq_cst);
	} else {
		/* pairs with the membarrier of iomap__epoch_synchronize() */
		atomic_store_explicit(&self->epoch, now, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
	}
}

static inline struct iomap__thread *iomap__epoch_enter(void)
{
	struct iomap__thread *self = iomap__thread_self();

	iomap__epoch_enter_self(self);
	return self;
}

static inline void iomap__epoch_exit(struct iomap__thread *self)
{
	/* pairs with the acquire load of iomap__epoch_synchronize() */
	atomic_store_explicit(&self->epoch, 0, memory_order_release);
}

/* Wait until every section that was running has ended.  Spins and yields; short. */
void iomap__epoch_synchronize(void);

/*
 * A counter spread over threads: exact, without contention for the first 63 threads.
 * An array of IOMAP__STAT_SLOTS lines of IOMAP__STAT_LINE counters each.
 */
#define IOMAP__STAT_LINE 8
struct iomap__stats {
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint64_t slot[IOMAP__STAT_SLOTS][IOMAP__STAT_LINE];
};
static inline _Atomic uint64_t *iomap__stat_of(struct iomap__stats *stats,
					       const struct iomap__thread *self, unsigned which)
{
	_Static_assert(sizeof(stats->slot[0]) == IOMAP__CACHE_LINE, "a line for each thread");
	return (_Atomic uint64_t *)((uintptr_t)stats->slot + self->stat_offset) + which;
}
static inline void iomap__stat_add(struct iomap__stats *stats, struct iomap__thread *self,
				   unsigned which, uint64_t n)
{
	_Atomic uint64_t *c = iomap__stat_of(stats, self, which);

	if (iomap__unlikely(self->stat_shared))
		atomic_fetch_add_explicit(c, n, memory_order_relaxed);
	else
		atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
				      memory_order_relaxed);
}
/* The same, with what was done before it: pairs with iomap__stat_sum_acquire(). */
static inline void iomap__stat_add_release(struct iomap__stats *stats, struct iomap__thread *self,
					   unsigned which, uint64_t n)
{
	_Atomic uint64_t *c = iomap__stat_of(stats, self, which);

	if (iomap__unlikely(self->stat_shared))
		atomic_fetch_add_explicit(c, n, memory_order_release);
	else
		atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
				      memory_order_release);
}
uint64_t iomap__stat_sum(const struct iomap__stats *stats, unsigned which);
/* The same, and what was done before the additions it has seen. */
uint64_t iomap__stat_sum_acquire(const struct iomap__stats *stats, unsigned which);

/* Latencies of a few kinds of things, see enum iomap_histogram (hist.c). */
#define IOMAP__HIST_SHARDS 8U
#define IOMAP__HIST_KINDS 3U
struct iomap__hist {
	_Alignas(IOMAP__CACHE_LINE) _Atomic uint64_t
		nr[IOMAP__HIST_SHARDS][IOMAP__HIST_KINDS][IOMAP_HIST_BUCKETS_NR];
};
void iomap__hist_add(struct iomap__hist *hist, unsigned kind, uint64_t ns);
/* Add them to @sum, which has IOMAP_HIST_BUCKETS_NR elements / to an application's @nr. */
void iomap__hist_sum(const struct iomap__hist *hist, unsigned kind, uint64_t *sum);
void iomap__hist_give(const uint64_t *sum, uint64_t *buckets, unsigned nr);

/* Text for iomap_engine_dump() (lines.c).  add: with any locks held.  tell: with none. */
struct iomap__lines {
	struct iomap__env *env;
	char *text;
	size_t used, room;
	uint64_t lost;
};
void iomap__lines_add(struct iomap__lines *lines, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void iomap__lines_tell(struct iomap__lines *lines, void (*line)(void *ctx, const char *text),
		       void *ctx);

/* ---- locks (lock.c, rwsem.c, witness.c) ---- */

/*
 * The lock order, lowest first.  Ranks of an inode are taken per class, see above; those
 * from IOMAP__RANK_ENGINE on are below all classes.
 */
enum iomap__rank {
	IOMAP__RANK_NONE,
	IOMAP__RANK_INODE,	/* i_rwsem */
	IOMAP__RANK_INVALIDATE, /* invalidate_lock */
	IOMAP__RANK_FOLIO,	/* folio lock, rising index within an inode */
	IOMAP__RANK_ENGINE = 64, /* lists of engines, inodes and bdevs */
	IOMAP__RANK_BDEV,	/* a bdev's own state */
	IOMAP__RANK_DIRTY,	/* list of dirty inodes */
	IOMAP__RANK_TREE,	/* tree_lock of an address space */
	IOMAP__RANK_EVICT,	/* queue of new folios */
	IOMAP__RANK_ARENA,	/* free lists of folio memory */
	IOMAP__RANK_RETIRE,	/* memory waiting for a grace period */
	IOMAP__RANK_QUEUE,	/* submission side of an I/O queue */
	IOMAP__RANK_WORK,	/* work of the I/O threads; that of the workers */
	IOMAP__RANK_PARK,	/* waiters */
	IOMAP__RANK_POOL,	/* free lists of objects */
	IOMAP__RANK_MAX = 96,
};

/*
 * iomap__witness_acquire: about to take @lock, may block.  @trylock: cannot deadlock, only
 * recorded.  @order: for folios the index, else 0.  @host: for folios the mapping.
 * iomap__witness_release: by the thread that holds it.  iomap__witness_disown: the lock
 * goes to whoever will release it (a completion); that one calls no release.
 */
#if IOMAP_DEBUG
void iomap__witness_acquire(const void *lock, unsigned rank, unsigned subclass, bool trylock,
			    const void *host, uint64_t order);
void iomap__witness_release(const void *lock);
void iomap__witness_disown(const void *lock);
bool iomap__witness_holds(const void *lock);
/* Abort if the thread holds any lock but i_rwsem and invalidate_lock (LK03). */
void iomap__witness_assert_callback(const char *what);
/* The same in an operation on an inode of @subclass, which may be part of a callback of an
 * inode of a lower class, whose folios are locked. */
void iomap__witness_assert_class(const char *what, unsigned subclass);
#else
#define iomap__witness_acquire(l, r, s, t, h, o) ((void)0)
#define iomap__witness_release(l) ((void)0)
#define iomap__witness_disown(l) ((void)0)
#define iomap__witness_holds(l) ((void)(l), true)
#define iomap__witness_assert_callback(w) ((void)0)
#define iomap__witness_assert_class(w, s) ((void)0)
#endif

/* futex(2) on 32-bit words; counted as system calls.  Spurious returns happen. */
void iomap__futex_wait(const uint32_t *word, uint32_t expected);
/* @timeout_ns relative, 0: none.  Return false on timeout. */
bool iomap__futex_wait_timeout(const uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void iomap__futex_wake(const uint32_t *word, int nr);
void iomap__cpu_relax(void);

/* A short lock: spins a little, then sleeps.  0 free, 1 held, 2 held with sleepers. */
struct iomap__mutex {
	uint32_t state;
	uint16_t rank;
	uint16_t reserved;
};
void iomap__mutex_init(struct iomap__mutex *mutex, enum iomap__rank rank);
void iomap__mutex_lock(struct iomap__mutex *mutex);
void iomap__mutex_unlock(struct iomap__mutex *mutex);

/* The same on a bare word (public structs). */
void iomap__word_lock(uint32_t *word, enum iomap__rank rank);
void iomap__word_unlock(uint32_t *word);

void iomap__rwsem_init(struct iomap_rwsem *sem, enum iomap__rank rank, unsigned subclass);

/* ---- caller memory (uio.c) ---- */

/* The contiguous memory at the cursor, of at most *@bytes, which is cut to it. */
char *iomap__iov_iter_segment(const struct iomap_iov_iter *iter, size_t *bytes);

/*
 * Memory of the caller that may be bad (usermem.c).  Copies move the cursor by what was copied:
 * that many bytes, fewer when the next one is bad, or -errno when it cannot be told which are.
 * look: 0 if @n bytes from the cursor on may be read, or for IOMAP_ITER_DEST written; -EFAULT.
 * good: how many of @n, up to the first page where they may not.
 * No lock that a fault of the caller's may need is held.
 */
ssize_t iomap__checked_copy_in(void *to, size_t n, struct iomap_iov_iter *from);
ssize_t iomap__checked_copy_out(const void *from, size_t n, struct iomap_iov_iter *to);
int iomap__checked_look(const struct iomap_iov_iter *iter, size_t n);
ssize_t iomap__checked_good(const struct iomap_iov_iter *iter, size_t n);
/* How that is done here, or why it cannot be. */
const char *iomap__checked_say(bool *works);

/* A buffer for such copies; `room` is a power of two. */
#define IOMAP__CHECKED_BYTES ((size_t)64 * 1024)
struct iomap__checked {
	char *memory;
	size_t room;
	struct iomap__env *env;
	char own[4096];
};
/* For @n bytes in all.  Never fails: without memory it goes in smaller steps. */
void iomap__checked_begin(struct iomap__checked *checked, struct iomap__env *env, size_t n);
void iomap__checked_end(struct iomap__checked *checked);
/* Bytes of a step at @pos: up to a multiple of the room, so that steps are whole blocks. */
static inline size_t iomap__checked_step(const struct iomap__checked *checked, int64_t pos)
{
	return checked->room - ((size_t)pos & (checked->room - 1));
}

/* ---- errseq: an error that each observer sees once (errseq.c) ---- */

/* Record @error (negative errno). */
void iomap__errseq_set(uint32_t *eseq, int error);
/* A cursor for a new observer; an error nobody has seen will be seen by it. */
uint32_t iomap__errseq_sample(uint32_t *eseq);
/* The error since @since, or 0; does not move anything. */
int iomap__errseq_check(uint32_t *eseq, uint32_t since);
/* The same, and moves *@since up. */
int iomap__errseq_check_and_advance(uint32_t *eseq, uint32_t *since);

/* ---- object pools: free lists of equal objects (pool.c) ---- */

struct iomap__pool {
	struct iomap__env *env;
	struct iomap__mutex lock;
	size_t object_bytes;
	void *free; /* linked through the first word */
	void *slabs;
	uint64_t nr_free, nr_total;
	uint32_t slab_objects;
};
/* @nr_reserved objects are allocated at once.  Objects are aligned to 64. */
int iomap__pool_init(struct iomap__pool *pool, struct iomap__env *env, size_t object_bytes,
		     unsigned nr_reserved);
/* All objects must be back. */
void iomap__pool_exit(struct iomap__pool *pool);
/* Not zeroed.  Grows by a slab when empty; NULL when that fails. */
void *iomap__pool_get(struct iomap__pool *pool);
/* The same, as though @keep of those that are free were not there. */
void *iomap__pool_get_but(struct iomap__pool *pool, uint64_t keep);
void iomap__pool_put(struct iomap__pool *pool, void *object);

/* ---- lists ---- */

static inline void iomap__list_init(struct iomap_list_head *head)
{
	head->next = head->prev = head;
}
static inline bool iomap__list_empty(const struct iomap_list_head *head)
{
	return head->next == head;
}
static inline void iomap__list_add_tail(struct iomap_list_head *item, struct iomap_list_head *head)
{
	item->prev = head->prev;
	item->next = head;
	head->prev->next = item;
	head->prev = item;
}
/* Leaves @item an empty list. */
static inline void iomap__list_del(struct iomap_list_head *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	iomap__list_init(item);
}

/* Plain members of public structs that several threads use. */
#define iomap__load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define iomap__load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define iomap__store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define iomap__store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define iomap__fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define iomap__fetch_sub(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_ACQ_REL)
#define iomap__fetch_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_ACQ_REL)
#define iomap__fetch_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_ACQ_REL)

/* ---- folio memory that is read without a lock ---- */

#include "base/copy.h"

#endif
