/* SPDX-License-Identifier: MIT */
/*
 * bdev_sync.c - bare loops of blocking system calls in one thread, and of memcpy.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "bdev.h"

struct sync_side {
	struct bdev_io io;
	char *memory; /* the device of bdev_memcpy */
};

int bdev_preadv2_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct sync_side *s = calloc(1, sizeof(*s));
	int rc = bdev_io_init(ctx, &s->io);

	(void)side;
	*state = s;
	if (rc)
		free(s);
	return rc;
}

void bdev_preadv2_teardown(struct bench_ctx *ctx, void *state)
{
	struct sync_side *s = state;

	(void)ctx;
	bench_memory_free(s->memory, s->io.file_bytes);
	bdev_io_exit(&s->io);
	free(s);
}

int bdev_preadv2_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct sync_side *s = state;
	const struct bdev_param *p = s->io.p;
	struct bench_round round;
	uint64_t ops = 0;
	ssize_t n;

	bench_round_begin(&round, ctx->round_s);
	while (!bench_round_over(&round)) {
		struct iovec iov = { bdev_buffer(&s->io, (unsigned)(ops % p->depth)), p->bytes };
		off_t at = (off_t)bdev_next(&s->io);

		n = p->write ? pwritev2(s->io.fd, &iov, 1, at, 0) :
			       preadv2(s->io.fd, &iov, 1, at, 0);
		if (n != (ssize_t)p->bytes)
			return bench_error("preadv2 or pwritev2: %zd, %s", n, strerror(errno));
		ops++;
	}
	bench_round_end(&round, ops, values);
	return 0;
}

int bdev_memcpy_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	int rc = bdev_preadv2_setup(ctx, side, state);
	struct sync_side *s = *state;

	if (!rc)
		s->memory = bench_memory(s->io.file_bytes);
	return rc;
}

void bdev_memcpy_teardown(struct bench_ctx *ctx, void *state)
{
	bdev_preadv2_teardown(ctx, state);
}

int bdev_memcpy_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct sync_side *s = state;
	const struct bdev_param *p = s->io.p;
	struct bench_round round;
	uint64_t ops = 0;

	bench_round_begin(&round, ctx->round_s);
	while (ops % BDEV_COPIES_A_LOOK || !bench_round_over(&round)) {
		char *buffer = bdev_buffer(&s->io, (unsigned)(ops % p->depth));
		char *memory = s->memory + bdev_next(&s->io);

		memcpy(p->write ? memory : buffer, p->write ? buffer : memory, p->bytes);
		/* the compiler does not know that nobody looks */
		__asm__ volatile("" ::"r"(buffer), "r"(memory) : "memory");
		ops++;
	}
	bench_round_end(&round, ops, values);
	return 0;
}
