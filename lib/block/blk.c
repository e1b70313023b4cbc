/* SPDX-License-Identifier: MIT */
/*
 * blk.c - the layer's state in an engine: which backend, how many queues.
 *
 * The backend is the one named by the options, else by $IOMAP_BACKEND: these have no
 * fallback.  Else the first of io_uring, libaio and the threads that works (what stands
 * against the others: seccomp, sysctl, memlock, an old kernel), with one log line that says
 * which and why.
 */
#include <stdio.h>
#include <unistd.h>

#include "block/internal.h"

#define BLK_QUEUES_DEFAULT_MAX 4
#define BLK_QUEUE_DEPTH 128U
#define BLK_QUEUE_DEPTH_MAX 4096U
#define BLK_IO_THREADS 8U
#define BLK_IO_THREADS_MAX 1024U
#define BLK_BIOS_RESERVED 64U
#define BLK_STACKED_RESERVED 16U
#define BLK_REFUSED_BYTES 320

/* The best one first. */
static const struct iomap__backend *const blk_backends[] = {
	&iomap__uring_backend,
	&iomap__aio_backend,
	&iomap__threads_backend,
};

static const struct iomap__backend *blk_find_backend(const char *name)
{
	unsigned i;

	for (i = 0; i < iomap__array_len(blk_backends); i++)
		if (strcmp(blk_backends[i]->name, name) == 0)
			return blk_backends[i];
	return NULL;
}

_Static_assert(iomap__array_len(blk_backends) <= IOMAP__BACKENDS_MAX, "room for refusals");

unsigned iomap__backends_nr(void)
{
	return iomap__array_len(blk_backends);
}

const struct iomap__backend *iomap__backend_nth(unsigned nth)
{
	return blk_backends[nth];
}

const char *iomap__backend_name(unsigned nth)
{
	return blk_backends[nth]->name;
}

static int blk_try_backend(struct iomap__blk *blk, const struct iomap__backend *backend,
			   const char **why)
{
	unsigned i;
	int error;

	for (i = 0; i < blk->nr_queues; i++)
		blk->queues[i].depth = blk->depth;
	blk->backend = backend;
	error = backend->create(blk, why);
	for (i = 0; error && i < iomap__array_len(blk_backends); i++)
		if (blk_backends[i] == backend)
			blk->refused[i] = (struct iomap__refusal){ *why, error };
	return error;
}

static int blk_start_named(struct iomap__blk *blk, const char *name)
{
	const struct iomap__backend *backend = blk_find_backend(name);
	const char *why = NULL;
	int error;

	if (!backend) {
		iomap__log(blk->env, IOMAP_LOG_ERROR, "unknown backend \"%s\"", name);
		return -EINVAL;
	}
	error = blk_try_backend(blk, backend, &why);
	if (error)
		iomap__log(blk->env, IOMAP_LOG_ERROR, "backend %s does not work: %s: %s", name, why,
			   strerror(-error));
	return error;
}

static int blk_start_backend(struct iomap__blk *blk, const char *name)
{
	char refused[BLK_REFUSED_BYTES] = "";
	const char *why = NULL;
	int error = -ENODEV, at = 0;
	unsigned i;

	if (!name || !*name)
		name = getenv("IOMAP_BACKEND");
	if (name && *name)
		return blk_start_named(blk, name);
	for (i = 0; i < iomap__array_len(blk_backends); i++) {
		error = blk_try_backend(blk, blk_backends[i], &why);
		if (!error && i)
			iomap__log(blk->env, IOMAP_LOG_WARN, "%s, using %s", refused,
				   blk_backends[i]->name);
		if (!error)
			return 0;
		at += snprintf(refused + at, sizeof(refused) - (size_t)at,
			       "%s%s does not work (%s: %s)", i ? ", " : "", blk_backends[i]->name,
			       why, strerror(-error));
		at = iomap__min(at, (int)sizeof(refused) - 1);
	}
	iomap__log(blk->env, IOMAP_LOG_ERROR, "%s", refused);
	return error;
}

static int blk_check_opts(struct iomap__blk *blk, const struct iomap_engine_opts *opts)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	blk->nr_queues = opts->nr_queues;
	if (!blk->nr_queues)
		blk->nr_queues = (unsigned)iomap__min(iomap__max(cpus, 1), BLK_QUEUES_DEFAULT_MAX);
	blk->depth = opts->queue_depth ? opts->queue_depth : BLK_QUEUE_DEPTH;
	blk->nr_io_threads = opts->nr_io_threads ? opts->nr_io_threads : BLK_IO_THREADS;
	if (blk->nr_queues <= IOMAP__QUEUES_MAX && blk->depth <= BLK_QUEUE_DEPTH_MAX &&
	    blk->nr_io_threads <= BLK_IO_THREADS_MAX)
		return 0;
	iomap__log(blk->env, IOMAP_LOG_ERROR,
		   "at most %u queues, a depth of %u and %u I/O threads are possible",
		   IOMAP__QUEUES_MAX, BLK_QUEUE_DEPTH_MAX, BLK_IO_THREADS_MAX);
	return -EINVAL;
}

static int blk_create_queues(struct iomap__blk *blk)
{
	size_t bytes = blk->nr_queues * sizeof(struct iomap__queue);
	unsigned i;

	blk->queues = iomap__alloc_aligned(blk->env, IOMAP__CACHE_LINE, bytes);
	if (!blk->queues)
		return -ENOMEM;
	memset(blk->queues, 0, bytes);
	for (i = 0; i < blk->nr_queues; i++) {
		iomap__mutex_init(&blk->queues[i].lock, IOMAP__RANK_QUEUE);
		blk->queues[i].blk = blk;
		blk->queues[i].index = i;
	}
	return 0;
}

static void blk_free(struct iomap__blk *blk)
{
	struct iomap__env *env = blk->env;

	iomap__buffers_exit(blk);
	iomap__loop_exit(blk);
	iomap__park_exit(blk);
	iomap__free(env, blk->queues, blk->nr_queues * sizeof(struct iomap__queue));
	blk->engine->blk = NULL;
	iomap__free(env, blk, sizeof(*blk));
}

/* Without queues and backend; NULL: no memory. */
static struct iomap__blk *blk_alloc(struct iomap_engine *engine)
{
	struct iomap__blk *blk;

	blk = iomap__alloc_aligned(&engine->env, IOMAP__CACHE_LINE, sizeof(*blk));
	if (!blk)
		return NULL;
	memset(blk, 0, sizeof(*blk));
	blk->engine = engine;
	blk->env = &engine->env;
	iomap__park_init(blk);
	return blk;
}

int iomap__blk_create(struct iomap_engine *engine)
{
	struct iomap__blk *blk = blk_alloc(engine);
	int error;

	if (!blk)
		return -ENOMEM;
	engine->blk = blk;
	iomap__mutex_init(&blk->bdevs_lock, IOMAP__RANK_ENGINE);
	error = blk_check_opts(blk, &engine->opts);
	if (!error)
		error = blk_create_queues(blk);
	if (error)
		goto free_blk;
	error = iomap__bio_set_init(&blk->bios, engine, 0, BLK_BIOS_RESERVED);
	if (error)
		goto free_blk;
	error = iomap__pool_init(&blk->stacked_pool, blk->env, sizeof(struct iomap__stacked),
				 BLK_STACKED_RESERVED);
	if (error)
		goto exit_bios;
	error = iomap__pool_init(&blk->bdev_pool, blk->env, sizeof(struct iomap_bdev), 0);
	if (error)
		goto exit_stacked;
	error = blk_start_backend(blk, engine->opts.backend);
	if (error)
		goto exit_bdevs;
	return 0;

exit_bdevs:
	iomap__pool_exit(&blk->bdev_pool);
exit_stacked:
	iomap__pool_exit(&blk->stacked_pool);
exit_bios:
	iomap__bio_set_exit(&blk->bios);
free_blk:
	blk_free(blk);
	return error;
}

int iomap__blk_probe(struct iomap_engine *engine, const struct iomap__backend *backend,
		     const char **why)
{
	struct iomap__blk *blk;
	int error;

	*why = "memory";
	blk = blk_alloc(engine);
	if (!blk)
		return -ENOMEM;
	blk->nr_queues = blk->depth = blk->nr_io_threads = 1;
	error = blk_create_queues(blk);
	if (!error)
		error = blk_try_backend(blk, backend, why);
	if (!error)
		backend->destroy(blk);
	blk_free(blk);
	return error;
}

void iomap__blk_destroy(struct iomap_engine *engine)
{
	struct iomap__blk *blk = engine->blk;

	if (!blk)
		return;
	iomap__assert_msg(!blk->bdevs, "engine destroyed with open bdevs");
	iomap__private_close_all(blk);
	blk->backend->destroy(blk);
	iomap__pool_exit(&blk->bdev_pool);
	iomap__pool_exit(&blk->stacked_pool);
	iomap__bio_set_exit(&blk->bios);
	blk_free(blk);
}

bool iomap__blk_busy(struct iomap_engine *engine)
{
	struct iomap__blk *blk = engine->blk;
	bool busy;

	iomap__mutex_lock(&blk->bdevs_lock);
	busy = blk->bdevs != NULL ||
	       /* acquire: pairs with iomap_bio_set_exit() */
	       atomic_load_explicit(&blk->bio_sets_nr, memory_order_acquire);
	iomap__mutex_unlock(&blk->bdevs_lock);
	return busy;
}

const char *iomap__blk_backend(const struct iomap_engine *engine)
{
	return engine->blk->backend->name;
}

void iomap__blk_set_memory(struct iomap_engine *engine, void *memory, uint64_t bytes)
{
	const struct iomap_engine_opts *opts = &engine->opts;
	struct iomap__blk *blk = engine->blk;

	/* what only their threads could tell of the change */
	iomap__private_close_all(blk);
	if (!blk->backend->set_memory || opts->flags & IOMAP_ENGINE_NO_REGISTER)
		return;
	bytes = (bytes >> IOMAP_PAGE_SHIFT) * opts->register_pct / 100 << IOMAP_PAGE_SHIFT;
	blk->backend->set_memory(blk, memory, bytes);
}

bool iomap__blk_let_go(struct iomap_engine *engine, const void *addr, uint64_t *bytes)
{
	struct iomap__blk *blk = engine->blk;

	return !blk->backend->let_go || blk->backend->let_go(blk, addr, bytes);
}
