/* SPDX-License-Identifier: MIT */
/*
 * policy.h - traces of requests, and simulations of what eviction policies make of them.
 *
 * An object is what a cache keeps or evicts as a whole, here a folio: POLICY_LARGE pages or
 * one.  A cache is so many pages large.  The simulations charge an object by its pages and
 * know nothing of the library; the scenario `policy` and the test of the same name drive the
 * library with the same traces.  Nothing here depends on time, place or the machine.
 */
#ifndef IOMAP_BENCH_POLICY_H
#define IOMAP_BENCH_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#define POLICY_LARGE 16U /* pages of a large object */

enum policy_kind {
	POLICY_ZIPF,	  /* independent draws, by Zipf's law */
	POLICY_SCAN,	  /* a fifth from few hot objects, the rest a scan of all others */
	POLICY_LOOP,	  /* a fifth by Zipf's law, the rest a loop over a part */
	POLICY_ZIPF_SCAN, /* Zipf, in turns with stretches of a scan */
	POLICY_MIXED,	  /* Zipf, a loop and a scan at once */
	POLICY_SIZES,	  /* Zipf over large and small objects */
};

struct policy_spec {
	enum policy_kind kind;
	double skew;	      /* of Zipf's law */
	uint32_t nr_objects;  /* a power of two */
	uint32_t nr_requests; /* of which the first half warms the cache and does not count */
	uint64_t seed;
};

struct policy_trace {
	struct policy_spec spec;
	uint32_t nr_small; /* objects below it have one page, the others POLICY_LARGE */
	uint64_t nr_pages; /* of all objects */
	uint32_t *request; /* objects */
};

/* 0 or -ENOMEM; policy_trace_free() when done. */
int policy_trace_make(const struct policy_spec *spec, struct policy_trace *trace);
void policy_trace_free(struct policy_trace *trace);
static inline unsigned policy_pages(const struct policy_trace *trace, uint32_t object)
{
	return object < trace->nr_small ? 1 : POLICY_LARGE;
}

struct policy;
/* "s3-fifo", "sieve", "2q", "clock", "lru". */
const struct policy *policy_find(const char *name);
/* Misses per request of the second half, or a negative number without memory. */
double policy_simulate(const struct policy *policy, const struct policy_trace *trace,
		       uint64_t cache_pages);
/*
 * The same of libiomap: an engine with a cache of that size, whose files' reads are the requests
 * (policy_drive.c).  A negative errno when something failed.
 */
double policy_drive(const struct policy_trace *trace, uint64_t cache_pages);

#endif
