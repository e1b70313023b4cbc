/* SPDX-License-Identifier: MIT */
/*
 * group.h - threads that append 4 KiB to files of their own and sync each: group.c.
 */
#ifndef IOMAP_BENCH_GROUP_H
#define IOMAP_BENCH_GROUP_H

#include "bench.h"

/* The store and XFS.  The case's param: const unsigned, how many threads, 1 to 16. */
extern const struct bench_side bench_group_sides[];

#endif
