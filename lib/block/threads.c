/* SPDX-License-Identifier: MIT */
/*
 * threads.c - the backend for where io_uring and libaio are missing or denied: a pool of
 * I/O threads that make blocking system calls.
 *
 * A step goes: prepared list of its queue -> work list of the pool -> an I/O thread ->
 * `done` of its queue -> the queue's reaper, who runs the callbacks.  I/O threads run none
 * of them, so all backends keep the same promises about where callbacks run.
 *
 * `done` is a stack that I/O threads push to and the reaper takes as a whole.  A push and a
 * take are read-modify-writes with acquire and release: they hand the bio over, and they
 * decide who sees whom when a reaper comes in just then (iomap__park_work_ended()).
 *
 * I/O threads sleep on `seq`, which moves with each batch of work; they block all signals.
 *
 * Lock: pool->lock (IOMAP__RANK_WORK) guards the work list, below the queues' locks.
 */
#include <pthread.h>
#include <signal.h>

#include "block/internal.h"

#define THREADS_HOLD_MAX 8U

struct threads_pool {
	struct iomap__blk *blk;
	struct iomap__mutex lock;
	struct iomap__bio_list work; /* under lock */
	unsigned nr_idle;	     /* under lock */
	bool stop;		     /* under lock */
	uint32_t seq;		     /* futex word */
	unsigned nr;
	pthread_t *threads;
};

struct threads_queue {
	struct iomap__bio_list prepared; /* under the queue's lock */
	_Atomic(struct iomap_bio *) done;
};

/* ---- the I/O threads ---- */

static struct iomap_bio *threads_next(struct threads_pool *pool)
{
	struct iomap_bio *bio;
	uint32_t seen;

	iomap__mutex_lock(&pool->lock);
	while (!(bio = iomap__bio_list_pop(&pool->work)) && !pool->stop) {
		pool->nr_idle++;
		seen = iomap__load(&pool->seq);
		iomap__mutex_unlock(&pool->lock);
		iomap__futex_wait(&pool->seq, seen);
		iomap__mutex_lock(&pool->lock);
		pool->nr_idle--;
	}
	iomap__mutex_unlock(&pool->lock);
	return bio;
}

static void threads_push_done(struct iomap__queue *queue, struct iomap_bio *bio)
{
	struct threads_queue *tq = queue->backend;
	struct iomap_bio *first = atomic_load_explicit(&tq->done, memory_order_relaxed);

	do
		bio->bi_next = first;
	while (!atomic_compare_exchange_weak_explicit(&tq->done, &first, bio, memory_order_acq_rel,
						      memory_order_relaxed));
	iomap__park_work_ended(queue);
}

static void *threads_main(void *arg)
{
	struct threads_pool *pool = arg;
	struct iomap_bio *bio;

	while ((bio = threads_next(pool))) {
		struct iomap__req *req = iomap__req(bio);
		struct iomap__queue *queue = &pool->blk->queues[req->queue];

		req->result = (int32_t)iomap__step_sync(bio);
		threads_push_done(queue, bio);
	}
	return NULL;
}

/* ---- the queue's side ---- */

static void threads_prepare(struct iomap__queue *queue, struct iomap_bio *bio)
{
	struct threads_queue *tq = queue->backend;

	iomap__req(bio)->queue = (uint8_t)queue->index;
	iomap__bio_list_add(&tq->prepared, bio);
}

static void threads_send(struct iomap__queue *queue, struct iomap__bio_list *failed)
{
	struct threads_pool *pool = queue->blk->backend_data;
	struct threads_queue *tq = queue->backend;
	struct iomap_bio *bio;
	unsigned wake;

	(void)failed;
	if (!tq->prepared.first)
		return;
	iomap__mutex_lock(&pool->lock);
	wake = iomap__min(tq->prepared.count, pool->nr_idle);
	while ((bio = iomap__bio_list_pop(&tq->prepared)))
		iomap__bio_list_add(&pool->work, bio);
	iomap__store(&pool->seq, pool->seq + 1);
	iomap__mutex_unlock(&pool->lock);
	if (wake)
		iomap__futex_wake(&pool->seq, (int)wake);
}

static bool threads_ready(struct iomap__queue *queue)
{
	struct threads_queue *tq = queue->backend;

	return atomic_load_explicit(&tq->done, memory_order_acquire) != NULL;
}

static void threads_collect(struct iomap__queue *queue, struct iomap__bio_list *list)
{
	struct threads_queue *tq = queue->backend;
	struct iomap_bio *bio, *next;

	bio = atomic_exchange_explicit(&tq->done, NULL, memory_order_acq_rel);
	for (; bio; bio = next) {
		next = bio->bi_next;
		iomap__bio_list_add(list, bio);
	}
}

/* ---- life ---- */

static void threads_stop(struct threads_pool *pool)
{
	unsigned i;

	iomap__mutex_lock(&pool->lock);
	pool->stop = true;
	iomap__store(&pool->seq, pool->seq + 1);
	iomap__mutex_unlock(&pool->lock);
	iomap__futex_wake(&pool->seq, INT32_MAX);
	for (i = 0; i < pool->nr; i++)
		pthread_join(pool->threads[i], NULL);
}

static void threads_destroy(struct iomap__blk *blk)
{
	struct threads_pool *pool = blk->backend_data;
	unsigned i;

	if (pool) {
		threads_stop(pool);
		iomap__free(blk->env, pool->threads, blk->nr_io_threads * sizeof(pthread_t));
		iomap__free(blk->env, pool, sizeof(*pool));
		blk->backend_data = NULL;
	}
	for (i = 0; i < blk->nr_queues; i++) {
		iomap__free(blk->env, blk->queues[i].backend, sizeof(struct threads_queue));
		blk->queues[i].backend = NULL;
	}
}

/* Fewer threads than asked for will do, none will not. */
static int threads_start(struct threads_pool *pool, unsigned nr)
{
	sigset_t all, before;
	int error = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (pool->nr < nr) {
		error = EAGAIN;
		if (!iomap__fails(pool->blk->env, IOMAP_FAIL_THREAD_CREATE))
			error = pthread_create(&pool->threads[pool->nr], NULL, threads_main, pool);
		if (error)
			break;
		pthread_setname_np(pool->threads[pool->nr], "iomap-io");
		pool->nr++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pool->nr ? 0 : -error;
}

static int threads_create(struct iomap__blk *blk, const char **why)
{
	struct threads_pool *pool;
	int error = -ENOMEM;
	unsigned i;

	*why = "memory for I/O threads";
	for (i = 0; i < blk->nr_queues; i++) {
		blk->queues[i].backend = iomap__zalloc(blk->env, sizeof(struct threads_queue));
		if (!blk->queues[i].backend)
			goto fail;
	}
	pool = iomap__zalloc(blk->env, sizeof(*pool));
	if (!pool)
		goto fail;
	pool->blk = blk;
	iomap__mutex_init(&pool->lock, IOMAP__RANK_WORK);
	blk->backend_data = pool;
	pool->threads = iomap__zalloc(blk->env, blk->nr_io_threads * sizeof(pthread_t));
	if (!pool->threads)
		goto fail;
	*why = "pthread_create";
	error = threads_start(pool, blk->nr_io_threads);
	if (error)
		goto fail;
	if (pool->nr < blk->nr_io_threads)
		iomap__log(blk->env, IOMAP_LOG_WARN, "only %u of %u I/O threads started", pool->nr,
			   blk->nr_io_threads);
	return 0;

fail:
	threads_destroy(blk);
	return error;
}

const struct iomap__backend iomap__threads_backend = {
	.name = "threads",
	.takes_fallocate = true,
	.takes_ioctl = true,
	.create = threads_create,
	.destroy = threads_destroy,
	.prepare = threads_prepare,
	.send = threads_send,
	.collect = threads_collect,
	.ready = threads_ready,
	.hold_max = THREADS_HOLD_MAX,
};
