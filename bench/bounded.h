/* SPDX-License-Identifier: MIT */
/*
 * bounded.h - a child process that may use no more memory than it is told, the kernel's cache of
 * its files included: a control group of its own.
 */
#ifndef IOMAP_BENCH_BOUNDED_H
#define IOMAP_BENCH_BOUNDED_H

#include "bench.h"

struct bounded;
/*
 * Start a child in which rounds are run, with @bytes of memory.  @round is called there, with
 * @arg, which is the child's copy.  0, or BENCH_SKIPPED after bench_skip().
 */
int bounded_start(struct bench_ctx *ctx, uint64_t bytes,
		  int (*round)(struct bench_ctx *ctx, void *arg, double *values), void *arg,
		  struct bounded **out);
/* One round in the child. */
int bounded_round(struct bounded *b, double *values);
/* The child ends, and its group goes. */
void bounded_stop(struct bounded *b);

#endif
