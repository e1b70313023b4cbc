/* SPDX-License-Identifier: MIT */
/*
 * bdev_aio.c - the bare loop over the kernel's asynchronous I/O.
 *
 * libaio.h and linux/aio_abi.h clash, and liburing.h may bring the latter: a file of its own.
 */
#include <errno.h>
#include <libaio.h>
#include <string.h>

#include "bdev.h"

#define BATCH_MAX 8U

struct aio {
	struct bdev_io io;
	io_context_t context;
	struct iocb *iocbs;
	struct iocb **list; /* to submit */
	struct io_event *events;
	unsigned wait_nr;
};

void bdev_aio_teardown(struct bench_ctx *ctx, void *state)
{
	struct aio *a = state;

	(void)ctx;
	if (a->context)
		io_destroy(a->context);
	bdev_io_exit(&a->io);
	free(a->iocbs);
	free(a->list);
	free(a->events);
	free(a);
}

int bdev_aio_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct aio *a = calloc(1, sizeof(*a));
	unsigned depth;
	int rc = bdev_io_init(ctx, &a->io);

	depth = a->io.p->depth;
	if (!rc) {
		rc = io_setup((int)depth, &a->context);
		if (rc)
			rc = bench_skip(ctx, "io_setup: %s", strerror(-rc));
	}
	if (rc) {
		bdev_aio_teardown(ctx, a);
		return rc;
	}
	a->iocbs = calloc(depth, sizeof(*a->iocbs));
	a->list = calloc(depth, sizeof(struct iocb *));
	a->events = calloc(depth, sizeof(*a->events));
	/* arg: any pointer means waiting for several */
	a->wait_nr = side->arg && depth > BATCH_MAX ? depth / BATCH_MAX : 1;
	if (a->wait_nr > BATCH_MAX)
		a->wait_nr = BATCH_MAX;
	*state = a;
	return 0;
}

static void aio_prepare(struct aio *a, struct iocb *iocb)
{
	const struct bdev_param *p = a->io.p;
	char *buffer = bdev_buffer(&a->io, (unsigned)(iocb - a->iocbs));
	long long at = (long long)bdev_next(&a->io);

	if (p->write)
		io_prep_pwrite(iocb, a->io.fd, buffer, p->bytes, at);
	else
		io_prep_pread(iocb, a->io.fd, buffer, p->bytes, at);
}

static int aio_submit(struct aio *a, unsigned nr)
{
	unsigned done = 0;

	while (done < nr) {
		int rc = io_submit(a->context, (long)(nr - done), a->list + done);

		if (rc <= 0)
			return bench_error("io_submit: %s", strerror(-rc));
		done += (unsigned)rc;
	}
	return 0;
}

/* Return: completions, whose iocbs are in the list; or -1. */
static int aio_reap(struct aio *a, unsigned at_least, unsigned at_most)
{
	int nr;

	/* what a ring of another side still has to clear away interrupts as a signal does */
	do
		nr = io_getevents(a->context, (long)at_least, (long)at_most, a->events, NULL);
	while (nr == -EINTR);
	if (nr < 0)
		return bench_error("io_getevents: %s", strerror(-nr));
	for (int i = 0; i < nr; i++) {
		if (a->events[i].res != a->io.p->bytes)
			return bench_error("libaio: result %ld", (long)a->events[i].res);
		a->list[i] = a->events[i].obj;
	}
	return nr;
}

int bdev_aio_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct aio *a = state;
	unsigned depth = a->io.p->depth, left = depth;
	struct bench_round round;
	uint64_t ops = 0;
	int nr = (int)depth;

	bench_round_begin(&round, ctx->round_s);
	for (unsigned i = 0; i < depth; i++)
		a->list[i] = &a->iocbs[i];
	while (!bench_round_over(&round)) {
		for (int i = 0; i < nr; i++)
			aio_prepare(a, a->list[i]);
		if (aio_submit(a, (unsigned)nr) != 0)
			return -1;
		nr = aio_reap(a, a->wait_nr, depth);
		if (nr < 0)
			return nr;
		ops += (unsigned)nr;
	}
	bench_round_end(&round, ops, values);
	for (left -= (unsigned)nr; left; left -= (unsigned)nr) {
		nr = aio_reap(a, left, left);
		if (nr < 0)
			return nr;
	}
	return 0;
}
