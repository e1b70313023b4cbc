/* SPDX-License-Identifier: MIT */
/*
 * bdev_ring.c - the bare loop over io_uring.
 *
 * Plain: no flags, nothing registered, goes on with each completion.  Tuned: what pays in one
 * thread that waits for several: SINGLE_ISSUER | DEFER_TASKRUN, the file and the buffers
 * registered, four to eight completions for each enter where the depth allows it.
 */
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <unistd.h>

#include "bdev.h"

#define BATCH_MAX 8U

const struct bdev_ring_kind bdev_ring_plain = { .defer = false };
const struct bdev_ring_kind bdev_ring_batch = { .batch = true };
const struct bdev_ring_kind bdev_ring_tuned = { .defer = true, .registered = true, .batch = true };

struct ring {
	struct bdev_io io;
	struct io_uring ring;
	bool up, fixed_file, fixed_buffers;
	unsigned wait_nr;
};

void bdev_ring_teardown(struct bench_ctx *ctx, void *state)
{
	struct ring *r = state;

	(void)ctx;
	if (r->up)
		io_uring_queue_exit(&r->ring);
	bdev_io_exit(&r->io);
	free(r);
}

/* Registering may be refused for its locked memory: then without. */
static void ring_register(struct ring *r)
{
	const struct bdev_param *p = r->io.p;
	struct iovec all = { r->io.buffers, p->depth * p->bytes };

	r->fixed_file = io_uring_register_files(&r->ring, &r->io.fd, 1) == 0;
	r->fixed_buffers = io_uring_register_buffers(&r->ring, &all, 1) == 0;
}

int bdev_ring_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	const struct bdev_ring_kind *kind = side->arg;
	struct ring *r = calloc(1, sizeof(*r));
	unsigned depth, flags;
	int rc;

	rc = bdev_io_init(ctx, &r->io);
	if (rc)
		goto fail;
	depth = r->io.p->depth;
	flags = kind->defer ? IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN : 0;
	rc = io_uring_queue_init(depth * 2, &r->ring, flags);
	if (rc) {
		rc = bench_skip(ctx, "io_uring_setup: %s", strerror(-rc));
		goto fail;
	}
	r->up = true;
	if (kind->registered)
		ring_register(r);
	r->wait_nr = kind->batch && depth > BATCH_MAX ? depth / BATCH_MAX : 1;
	if (r->wait_nr > BATCH_MAX)
		r->wait_nr = BATCH_MAX;
	*state = r;
	return 0;

fail:
	bdev_ring_teardown(ctx, r);
	return rc;
}

static void ring_prepare(struct ring *r, unsigned slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
	const struct bdev_param *p = r->io.p;
	int fd = r->fixed_file ? 0 : r->io.fd;
	unsigned op;

	if (r->fixed_buffers)
		op = p->write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
	else
		op = p->write ? IORING_OP_WRITE : IORING_OP_READ;
	io_uring_prep_rw((int)op, sqe, fd, bdev_buffer(&r->io, slot), (unsigned)p->bytes,
			 bdev_next(&r->io));
	if (r->fixed_file)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, slot);
}

/* Take what has completed, go on with it if @again.  Return: how many, or -1. */
static int ring_reap(struct ring *r, bool again)
{
	struct io_uring_cqe *cqe;
	unsigned head;
	int nr = 0;

	io_uring_for_each_cqe(&r->ring, head, cqe) {
		if (cqe->res != (int)r->io.p->bytes)
			return bench_error("bare ring: result %d", cqe->res);
		if (again)
			ring_prepare(r, (unsigned)cqe->user_data);
		nr++;
	}
	io_uring_cq_advance(&r->ring, (unsigned)nr);
	return nr;
}

int bdev_ring_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct ring *r = state;
	unsigned depth = r->io.p->depth, left = depth;
	struct bench_round round;
	uint64_t ops = 0;
	int nr;

	bench_round_begin(&round, ctx->round_s);
	for (unsigned i = 0; i < depth; i++)
		ring_prepare(r, i);
	while (!bench_round_over(&round)) {
		nr = io_uring_submit_and_wait(&r->ring, r->wait_nr);
		if (nr < 0 && nr != -EINTR)
			return bench_error("bare ring: %s", strerror(-nr));
		nr = ring_reap(r, true);
		if (nr < 0)
			return nr;
		ops += (unsigned)nr;
	}
	bench_round_end(&round, ops, values);
	io_uring_submit(&r->ring);
	while (left) {
		io_uring_submit_and_wait(&r->ring, 1);
		nr = ring_reap(r, false);
		if (nr < 0)
			return nr;
		left -= (unsigned)nr;
	}
	return 0;
}
