/* SPDX-License-Identifier: MIT */
/*
 * bdev_threads.c - bare loops of blocking system calls in several threads.
 *
 * Direct: each thread does one transfer after another; there is no hand-over, so this is the
 * limit of what threads can do, not of a pool.  Pool: one thread hands transfers out and takes
 * them back, `depth` of them, which is the work that an I/O backend has to do.
 *
 * Threads live for one round.  One mutex guards all that is shared.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"

struct transfer {
	struct transfer *next;
	char *buffer;
	uint64_t at;
};

struct threads {
	struct bdev_io io;
	struct bench_round round;
	unsigned nr;
	pthread_t *thread;
	pthread_mutex_t lock;
	atomic_bool failed;

	/* direct */
	uint64_t ops; /* under lock */
	unsigned slot; /* under lock */

	/* pool; under lock */
	pthread_cond_t work_added, done_added;
	struct transfer *transfers, *work, *done;
	unsigned idle;
	bool stop, waiting;
};

int bdev_direct_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct threads *t = calloc(1, sizeof(*t));
	int rc = bdev_io_init(ctx, &t->io);

	(void)side;
	if (rc) {
		free(t);
		return rc;
	}
	t->nr = bdev_nr_threads(t->io.p);
	t->thread = calloc(t->nr, sizeof(*t->thread));
	t->transfers = calloc(t->io.p->depth, sizeof(*t->transfers));
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work_added, NULL);
	pthread_cond_init(&t->done_added, NULL);
	*state = t;
	return 0;
}

void bdev_direct_teardown(struct bench_ctx *ctx, void *state)
{
	struct threads *t = state;

	(void)ctx;
	bdev_io_exit(&t->io);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->work_added);
	pthread_cond_destroy(&t->done_added);
	free(t->thread);
	free(t->transfers);
	free(t);
}

static void threads_transfer(struct threads *t, char *buffer, uint64_t at)
{
	const struct bdev_param *p = t->io.p;
	ssize_t n = p->write ? pwrite(t->io.fd, buffer, p->bytes, (off_t)at) :
			       pread(t->io.fd, buffer, p->bytes, (off_t)at);

	if (n != (ssize_t)p->bytes && !atomic_exchange(&t->failed, true))
		bench_error("pread or pwrite: %zd, %s", n, strerror(errno));
}

static int threads_start(struct threads *t, void *(*main)(void *))
{
	for (unsigned i = 0; i < t->nr; i++) {
		int error = pthread_create(&t->thread[i], NULL, main, t);

		if (error) {
			t->nr = i;
			return bench_error("pthread_create: %s", strerror(error));
		}
	}
	return 0;
}

static void threads_join(struct threads *t)
{
	for (unsigned i = 0; i < t->nr; i++)
		pthread_join(t->thread[i], NULL);
}

/* ---- direct ---- */

static void *direct_main(void *arg)
{
	struct threads *t = arg;
	struct bdev_io io = t->io;
	uint64_t ops = 0;
	unsigned slot;

	pthread_mutex_lock(&t->lock);
	slot = t->slot++;
	pthread_mutex_unlock(&t->lock);
	io.seed += slot * 7919;
	/* each its own part of the file */
	io.next = io.file_bytes / io.p->bytes / t->nr * slot * io.p->bytes;
	while (!bench_round_over(&t->round) && !t->failed) {
		threads_transfer(t, bdev_buffer(&io, slot), bdev_next(&io));
		ops++;
	}
	pthread_mutex_lock(&t->lock);
	t->ops += ops;
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int bdev_direct_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct threads *t = state;
	int rc;

	t->ops = 0;
	t->slot = 0;
	t->io.seed++;
	bench_round_begin(&t->round, ctx->round_s);
	rc = threads_start(t, direct_main);
	threads_join(t);
	bench_round_end(&t->round, t->ops, values);
	return rc ? rc : t->failed ? -1 : 0;
}

/* ---- pool ---- */

static void *pool_main(void *arg)
{
	struct threads *t = arg;
	struct transfer *transfer;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		transfer = t->work;
		if (!transfer) {
			t->idle++;
			pthread_cond_wait(&t->work_added, &t->lock);
			t->idle--;
			continue;
		}
		t->work = transfer->next;
		pthread_mutex_unlock(&t->lock);
		threads_transfer(t, transfer->buffer, transfer->at);
		pthread_mutex_lock(&t->lock);
		transfer->next = t->done;
		t->done = transfer;
		if (t->waiting) {
			t->waiting = false;
			pthread_cond_signal(&t->done_added);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* Lock held.  Hand out @list, and wake as many as there is work for. */
static void pool_submit(struct threads *t, struct transfer *list)
{
	unsigned wake = 0;

	while (list) {
		struct transfer *next = list->next;

		list->at = bdev_next(&t->io);
		list->next = t->work;
		t->work = list;
		if (wake++ < t->idle)
			pthread_cond_signal(&t->work_added);
		list = next;
	}
}

/* Lock held. */
static struct transfer *pool_wait(struct threads *t)
{
	struct transfer *list;

	while (!t->done) {
		t->waiting = true;
		pthread_cond_wait(&t->done_added, &t->lock);
	}
	list = t->done;
	t->done = NULL;
	return list;
}

static unsigned pool_count(const struct transfer *list)
{
	unsigned nr = 0;

	for (; list; list = list->next)
		nr++;
	return nr;
}

static uint64_t pool_drive(struct threads *t, double *values)
{
	struct transfer *list = NULL;
	unsigned depth = t->io.p->depth, left;
	uint64_t ops = 0;

	for (unsigned i = 0; i < depth; i++) {
		t->transfers[i].buffer = bdev_buffer(&t->io, i);
		t->transfers[i].next = list;
		list = &t->transfers[i];
	}
	pthread_mutex_lock(&t->lock);
	while (!bench_round_over(&t->round)) {
		pool_submit(t, list);
		list = pool_wait(t);
		ops += pool_count(list);
	}
	pthread_mutex_unlock(&t->lock);
	bench_round_end(&t->round, ops, values);
	pthread_mutex_lock(&t->lock);
	for (left = depth - pool_count(list); left; left -= pool_count(list))
		list = pool_wait(t);
	t->stop = true;
	pthread_cond_broadcast(&t->work_added);
	pthread_mutex_unlock(&t->lock);
	return ops;
}

int bdev_pool_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	return bdev_direct_setup(ctx, side, state);
}

void bdev_pool_teardown(struct bench_ctx *ctx, void *state)
{
	bdev_direct_teardown(ctx, state);
}

int bdev_pool_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct threads *t = state;

	t->stop = false;
	t->work = t->done = NULL;
	if (threads_start(t, pool_main) != 0)
		return -1;
	bench_round_begin(&t->round, ctx->round_s);
	pool_drive(t, values);
	threads_join(t);
	return t->failed ? -1 : 0;
}
