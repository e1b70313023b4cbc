/* SPDX-License-Identifier: MIT */
/*
 * rocksdb.h - a side that looks keys up in RocksDB's cache; metric: ns for one.
 */
#ifndef IOMAP_BENCH_ROCKSDB_H
#define IOMAP_BENCH_ROCKSDB_H

#include "bench.h"

#define BENCH_ROCKSDB_SIDE \
	{ "rocksdb", false, NULL, bench_rocksdb_setup, bench_rocksdb_round, bench_rocksdb_teardown }

int bench_rocksdb_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state);
int bench_rocksdb_round(struct bench_ctx *ctx, void *state, double *values);
void bench_rocksdb_teardown(struct bench_ctx *ctx, void *state);

#endif
