/* SPDX-License-Identifier: MIT */
/*
 * count.h - the command "count", and what it runs under valgrind; see count.c.
 */
#ifndef IOMAP_BENCH_COUNT_H
#define IOMAP_BENCH_COUNT_H

#include "hit.h"

/* @check: hold it against this record; @to: write one.  Return: an exit status. */
int count_command(const char *check, const char *to);
int count_child(const char *name);

/* Bios (count_bio.c).  run: that many below valgrind; 0, BENCH_SKIPPED or -1. */
#define COUNT_BIOS 4
struct count_bio {
	const char *name;
	double target;
	int (*run)(unsigned ops);
};
extern const struct count_bio count_bios[COUNT_BIOS];

bool count_loop(struct cached *c, const struct hit_param *p, char *buffer, unsigned ops);

#endif
