/* SPDX-License-Identifier: MIT */
/*
 * engine.c - options, and putting the layers together.
 *
 * States: an engine is made bottom up (environment, block layer, cache, the operations' own
 * pools) and taken down in the reverse order; each layer is whole before the next one starts,
 * and a failure undoes exactly what stood.  No thread of the library sees an engine that is
 * half made: the first one starts in iomap__cache_create() or in the block layer, and looks
 * only at the layers below its own.
 *
 * Options: read into a struct of this version's size, checked against each other, and then
 * filled in, so that what the layers read in engine->opts is what holds.
 *
 * All engines of the process are in a list, by which a second destroy is found out without a
 * look at memory that is not ours any more.
 *
 * fork().  The child has neither our threads nor our rings, and finds locks held for ever.  So it
 * gets nothing of an engine: folio memory, its descriptors and the struct of the engine itself are
 * not inherited (the latter two read as zeros there, MADV_WIPEONFORK), descriptors are closed by
 * exec.  In the child `state` is IOMAP__ENGINE_FORKED, which is what every call that begins
 * something looks at anyway.  A read that hits looks at no such thing: in the child it finds a
 * descriptor that belongs to no file, takes that for a miss, and a miss looks.  So nobody pays,
 * there is nothing to register, and _Fork() and clone() are no different.  The list is of nodes of
 * its own, since the child reads it.
 *
 * Locks: one of the process for that list.  Create has the engine to itself, and destroy must not
 * race other calls.
 * Left out: options that change at run time, but for the size of the cache (cache/resize.c).
 */
#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "cache/cache.h"
#include "iomap/ops.h"
#include "iomap/workers.h"

#define ENGINE_OPTS_SIZE_MAX 4096U /* beyond it `size` was never set */
#define ENGINE_CACHE_BYTES (256ULL << 20)
#define ENGINE_FOLIO_BYTES (64ULL << 10)
#define ENGINE_FOLIO_BYTES_MAX (2ULL << 20)
#define ENGINE_FOLIO_SHARE 16U	/* of these, at most one is the largest folio */
#define ENGINE_GROWTH 8U	/* times its size that a cache can grow to, if nothing is said */
#define ENGINE_CACHE_BYTES_MAX ((16ULL << 40) - 2 * IOMAP_PAGE_SIZE) /* 32 bits of pages */
#define ENGINE_DIRTY_PCT_MAX 80U
#define ENGINE_QUEUES_MAX 32U
#define ENGINE_QUEUE_DEPTH_MAX 4096U
#define ENGINE_IO_THREADS_MAX 1024U
#define ENGINE_WORKERS_MAX 64U
#define ENGINE_LOOK_NS 1000000U
#define ENGINE_FLAGS (IOMAP_ENGINE_NO_THREADS | IOMAP_ENGINE_IOPOLL | IOMAP_ENGINE_NO_REGISTER)

/* All engines; under the lock. */
struct engine_node {
	struct engine_node *next;
	struct iomap_engine *engine;
};
static struct engine_node *engine_list;

#define engine_default(member, value) ((member) ? (member) : (value))

/* Whether all bytes of [from, to) of @mem are zero. */
static bool engine_is_zero(const void *mem, size_t from, size_t to)
{
	const unsigned char *byte = mem;

	for (size_t i = from; i < to; i++)
		if (byte[i])
			return false;
	return true;
}

/*
 * Copy the caller's options, which may be shorter (an older caller: the rest is zero) or
 * longer (a newer one: what this version does not know must be zero).
 */
static int engine_copy_opts(struct iomap_engine_opts *to, const struct iomap_engine_opts *from)
{
	iomap_engine_opts_init(to);
	if (!from)
		return 0;
	if (from->size < sizeof(from->size) || from->size > ENGINE_OPTS_SIZE_MAX)
		return -EINVAL;
	memcpy(to, from, iomap__min(from->size, sizeof(*to)));
	to->size = sizeof(*to);
	return engine_is_zero(from, sizeof(*to), from->size) ? 0 : -EINVAL;
}

static uint32_t engine_nr_cpus(void)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);

	return nr < 1 ? 1 : (uint32_t)nr;
}

/* The largest folio when the caller has not named one. */
static uint64_t engine_default_folio(uint64_t cache_bytes)
{
	uint64_t bytes = ENGINE_FOLIO_BYTES;

	while (bytes > IOMAP_PAGE_SIZE && bytes > cache_bytes / ENGINE_FOLIO_SHARE)
		bytes /= 2;
	return bytes;
}

static void engine_fill_opts(struct iomap_engine_opts *opts)
{
	opts->cache_bytes = iomap__round_down(engine_default(opts->cache_bytes, ENGINE_CACHE_BYTES),
					      IOMAP_PAGE_SIZE);
	opts->max_folio_bytes =
		engine_default(opts->max_folio_bytes, engine_default_folio(opts->cache_bytes));
	opts->max_callers = engine_default(opts->max_callers, 16);
	opts->nr_queues = engine_default(opts->nr_queues, iomap__min(engine_nr_cpus(), 4U));
	opts->queue_depth = engine_default(opts->queue_depth, 128);
	opts->nr_io_threads = engine_default(opts->nr_io_threads, 8);
	opts->dirty_hard_pct = engine_default(opts->dirty_hard_pct, 40);
	opts->dirty_background_pct =
		engine_default(opts->dirty_background_pct, iomap__min(opts->dirty_hard_pct, 10U));
	opts->dirty_expire_ms = engine_default(opts->dirty_expire_ms, 30000);
	opts->flush_interval_ms = engine_default(opts->flush_interval_ms, 5000);
	opts->readahead_bytes = engine_default(opts->readahead_bytes, 2U << 20);
	opts->log_per_second = engine_default(opts->log_per_second, 20);
	opts->nr_workers = engine_default(opts->nr_workers, 3);
	opts->slow_io_ms = engine_default(opts->slow_io_ms, 10000);
	opts->register_pct = engine_default(opts->register_pct, 100);
	opts->max_cache_bytes = iomap__round_down(
		engine_default(opts->max_cache_bytes,
			       iomap__max(opts->cache_bytes,
					  iomap__min(opts->cache_bytes * ENGINE_GROWTH,
						     ENGINE_CACHE_BYTES_MAX))),
		IOMAP_PAGE_SIZE);
}

/* The cache has to have room for what its callers and its largest folio need. */
static int engine_check_cache(struct iomap__env *env, const struct iomap_engine_opts *opts)
{
	uint64_t needed = (uint64_t)opts->max_callers * IOMAP__CALLER_FOLIOS * IOMAP_PAGE_SIZE;

	if (opts->cache_bytes < needed) {
		iomap__log(env, IOMAP_LOG_ERROR,
			   "engine: cache of %llu bytes is too small for %u callers: %llu needed",
			   (unsigned long long)opts->cache_bytes, opts->max_callers,
			   (unsigned long long)needed);
		return -EINVAL;
	}
	if (opts->max_cache_bytes < opts->cache_bytes ||
	    opts->max_cache_bytes > ENGINE_CACHE_BYTES_MAX) {
		iomap__log(env, IOMAP_LOG_ERROR,
			   "engine: max_cache_bytes of %llu is not in %llu to %llu",
			   (unsigned long long)opts->max_cache_bytes,
			   (unsigned long long)opts->cache_bytes,
			   (unsigned long long)ENGINE_CACHE_BYTES_MAX);
		return -EINVAL;
	}
	if (!iomap__is_pow2(opts->max_folio_bytes) || opts->max_folio_bytes < IOMAP_PAGE_SIZE ||
	    opts->max_folio_bytes > ENGINE_FOLIO_BYTES_MAX) {
		iomap__log(
			env, IOMAP_LOG_ERROR,
			"engine: largest folio of %llu bytes is not a power of two of %zu to %llu",
			(unsigned long long)opts->max_folio_bytes, IOMAP_PAGE_SIZE,
			(unsigned long long)ENGINE_FOLIO_BYTES_MAX);
		return -EINVAL;
	}
	if (opts->max_folio_bytes > opts->cache_bytes / ENGINE_FOLIO_SHARE) {
		iomap__log(env, IOMAP_LOG_ERROR,
			   "engine: largest folio of %llu bytes needs a cache of %llu, not of %llu",
			   (unsigned long long)opts->max_folio_bytes,
			   (unsigned long long)opts->max_folio_bytes * ENGINE_FOLIO_SHARE,
			   (unsigned long long)opts->cache_bytes);
		return -EINVAL;
	}
	return 0;
}

static int engine_check_at_most(struct iomap__env *env, const char *what, uint32_t value,
				uint32_t max)
{
	if (value <= max)
		return 0;
	iomap__log(env, IOMAP_LOG_ERROR, "engine: %s of %u is more than %u", what, value, max);
	return -EINVAL;
}

/* Options with their defaults filled in: 0, or -EINVAL and a log line that says which. */
static int engine_check_opts(struct iomap__env *env, const struct iomap_engine_opts *opts)
{
	const struct {
		const char *what;
		uint32_t value, max;
	} bounds[] = {
		{ "nr_queues", opts->nr_queues, ENGINE_QUEUES_MAX },
		{ "queue_depth", opts->queue_depth, ENGINE_QUEUE_DEPTH_MAX },
		{ "nr_io_threads", opts->nr_io_threads, ENGINE_IO_THREADS_MAX },
		{ "nr_workers", opts->nr_workers, ENGINE_WORKERS_MAX },
		{ "register_pct", opts->register_pct, 100 },
		{ "dirty_hard_pct", opts->dirty_hard_pct, ENGINE_DIRTY_PCT_MAX },
		{ "dirty_background_pct", opts->dirty_background_pct, opts->dirty_hard_pct },
	};

	if (opts->flags & ~ENGINE_FLAGS) {
		iomap__log(env, IOMAP_LOG_ERROR, "engine: unknown flags 0x%x",
			   opts->flags & ~ENGINE_FLAGS);
		return -EINVAL;
	}
	for (size_t i = 0; i < iomap__array_len(bounds); i++)
		if (engine_check_at_most(env, bounds[i].what, bounds[i].value, bounds[i].max))
			return -EINVAL;
	if (opts->queue_faults && (opts->queue_faults->size < sizeof(*opts->queue_faults) ||
				   !opts->queue_faults->complete)) {
		iomap__log(env, IOMAP_LOG_ERROR, "engine: queue_faults without its size or function");
		return -EINVAL;
	}
	return engine_check_cache(env, opts);
}

/* What stands in for the members that an application's a_ops leave NULL. */
static const struct iomap_address_space_operations engine_default_aops = {
	.dirty_folio = iomap_dirty_folio,
	.invalidate_folio = iomap_invalidate_folio,
	.release_folio = iomap_release_folio,
	.is_partially_uptodate = iomap_is_partially_uptodate,
};

/* The layers, bottom up.  On an error none of them stands. */
static int engine_create_layers(struct iomap_engine *engine)
{
	int err;

	err = iomap__blk_create(engine);
	if (err)
		return err;
	err = iomap__workers_create(engine);
	if (err)
		goto out_blk;
	err = iomap__cache_create(engine, &engine_default_aops, &iomap__block_state,
				 iomap__work_end_writeback);
	if (err)
		goto out_workers;
	err = iomap__fs_create(engine);
	if (err)
		goto out_cache;
	return 0;

out_cache:
	iomap__cache_destroy(engine);
out_workers:
	iomap__workers_destroy(engine);
out_blk:
	iomap__blk_destroy(engine);
	return err;
}

static void engine_list_lock(void)
{
	iomap__word_lock(&iomap__process_lock[IOMAP__PROCESS_ENGINES], IOMAP__RANK_ENGINE);
}

static void engine_list_unlock(void)
{
	iomap__word_unlock(&iomap__process_lock[IOMAP__PROCESS_ENGINES]);
}

static void engine_list_add(struct engine_node *node, struct iomap_engine *engine)
{
	node->engine = engine;
	engine_list_lock();
	node->next = engine_list;
	engine_list = node;
	engine_list_unlock();
}

/* The node of the engine, or NULL when there is no such engine; taken off the list if told to. */
static struct engine_node *engine_list_find(const struct iomap_engine *engine, bool del)
{
	struct engine_node **link = &engine_list, *node;

	engine_list_lock();
	while (*link && (*link)->engine != engine)
		link = &(*link)->next;
	node = *link;
	if (node && del)
		*link = node->next;
	engine_list_unlock();
	return node;
}

/* ---- the struct itself ---- */

#define ENGINE_BYTES iomap__round_up(sizeof(struct iomap_engine), IOMAP_PAGE_SIZE)

/* Zeroed, and zeros again in the child of a fork(). */
static struct iomap_engine *engine_alloc(struct iomap__env *env)
{
	void *p = MAP_FAILED;

	if (!iomap__fails(env, IOMAP_FAIL_ARENA_MAP))
		p = mmap(NULL, ENGINE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);
	if (p == MAP_FAILED)
		return NULL;
	if (madvise(p, ENGINE_BYTES, MADV_WIPEONFORK) != 0)
		iomap__log(env, IOMAP_LOG_WARN,
			   "engine: MADV_WIPEONFORK: %s: the child of a fork() must not use it",
			   strerror(errno));
	return p;
}

static void engine_free(struct iomap_engine *engine)
{
	munmap(engine, ENGINE_BYTES);
}

int iomap_engine_create(const struct iomap_engine_opts *user_opts, struct iomap_engine **out)
{
	struct iomap_engine_opts opts;
	struct engine_node *node;
	struct iomap_engine *engine;
	struct iomap__env env;
	int err;

	*out = NULL;
	err = engine_copy_opts(&opts, user_opts);
	iomap__env_init(&env, &opts);
	if (err) {
		iomap__log(&env, IOMAP_LOG_ERROR,
			   "engine: options of %zu bytes: size not set, or not of this version",
			   user_opts->size);
		return err;
	}
	if (!opts.alloc.alloc != !opts.alloc.free) {
		iomap__log(&env, IOMAP_LOG_ERROR, "engine: alloc and free hooks go together");
		return -EINVAL;
	}
	engine_fill_opts(&opts);
	err = engine_check_opts(&env, &opts);
	if (err)
		return err;

	node = iomap__alloc(&env, sizeof(*node));
	if (!node)
		return -ENOMEM;
	engine = engine_alloc(&env);
	if (!engine) {
		err = -ENOMEM;
		goto free_node;
	}
	engine->state = IOMAP__ENGINE_OPEN;
	engine->opts = opts;
	engine->folio_bytes_max = user_opts && user_opts->max_folio_bytes ? opts.max_folio_bytes
									 : ENGINE_FOLIO_BYTES;
	iomap__env_go_on(&engine->env, &opts, &env);
	err = engine_create_layers(engine);
	if (err)
		goto free_engine;
	/* the caller's string need not live as long as the engine */
	engine->opts.backend = iomap__blk_backend(engine);
	engine_list_add(node, engine);
	*out = engine;
	return 0;

free_engine:
	engine_free(engine);
free_node:
	iomap__free(&env, node, sizeof(*node));
	return err;
}

/* files need no look: each one holds its inode */
static bool engine_is_busy(struct iomap_engine *engine)
{
	return iomap__cache_has_inodes(engine) || iomap__blk_busy(engine);
}

int iomap_engine_destroy(struct iomap_engine *engine)
{
	struct engine_node *node;
	struct iomap__env env;

	if (!engine)
		return 0;
	if (!engine_list_find(engine, false)) {
		iomap__assert_msg(false, "engine %p is destroyed twice, or was never made",
				  (void *)engine);
		return -EINVAL;
	}
	if (iomap__engine_forked(engine))
		return -ECHILD;
	/* once more when all work has run: it may have made what then is in the way */
	if (engine_is_busy(engine) || !iomap__workers_finish(engine) || engine_is_busy(engine))
		return -EBUSY;
	node = engine_list_find(engine, true);
	iomap__fs_destroy(engine);
	iomap__cache_destroy(engine);
	iomap__workers_destroy(engine);
	iomap__blk_destroy(engine);
	iomap__env_init(&env, &engine->opts);
	engine_free(engine);
	iomap__free(&env, node, sizeof(*node));
	return 0;
}

/* ---- shutting down ---- */

/*
 * Nothing is in flight.  In this order, which is that of an I/O's life: what has left one has
 * come to the next, so that nothing is missed that moves on while we look; and the first once
 * more, for what a work function has submitted.
 */
static bool engine_is_quiet(struct iomap_engine *engine)
{
	return iomap__bdevs_idle(engine) && iomap__slow_none(engine->blk) &&
	       iomap__workers_idle(engine) && iomap__bdevs_idle(engine);
}

int iomap_engine_shutdown(struct iomap_engine *engine, uint64_t deadline_ns)
{
	uint32_t event;
	bool quiet;

	if (!engine)
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	iomap__store_release(&engine->state, IOMAP__ENGINE_CLOSED);
	/* it would wait for itself */
	if (iomap__workers_inside(engine) || iomap__thread_self()->completing)
		return -EBUSY;
	iomap__work_wait_begin(engine);
	for (;;) {
		event = iomap__work_event(engine);
		(void)iomap_engine_poll(engine, UINT_MAX,
					engine->opts.flags & IOMAP_ENGINE_NO_THREADS);
		quiet = engine_is_quiet(engine);
		if (quiet || iomap__now_ns(&engine->env) >= deadline_ns)
			break;
		/* that a device has become idle moves no word: look now and then */
		iomap__work_wait_for(engine, event, ENGINE_LOOK_NS);
	}
	iomap__work_wait_end(engine);
	return quiet ? 0 : -ETIMEDOUT;
}

const char *iomap_engine_backend(const struct iomap_engine *engine)
{
	if (iomap__engine_forked(engine))
		return "none";
	return iomap__blk_backend(engine);
}

int iomap_engine_stats(struct iomap_engine *engine, struct iomap_engine_stats *out, size_t size)
{
	struct iomap_engine_stats stats = { 0 };

	if (!engine || !out || size < sizeof(uint64_t))
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	iomap__cache_stats(engine, &stats);
	iomap__blk_stats(engine, &stats);
	/* a caller of a later version finds what this one does not count to be zero */
	if (size > sizeof(stats))
		memset((char *)out + sizeof(stats), 0, size - sizeof(stats));
	memcpy(out, &stats, iomap__min(size, sizeof(stats)));
	return 0;
}

int iomap_engine_dump(struct iomap_engine *engine, void (*line)(void *ctx, const char *text),
		      void *ctx)
{
	struct iomap__lines lines = { .env = NULL };

	if (!engine || !line)
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	lines.env = &engine->env;
	iomap__blk_dump(engine, &lines);
	iomap__workers_dump(engine, &lines);
	iomap__cache_dump(engine, &lines);
	iomap__lines_tell(&lines, line, ctx);
	return 0;
}
