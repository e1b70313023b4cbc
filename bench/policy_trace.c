/* SPDX-License-Identifier: MIT */
/*
 * policy_trace.c - the requests that eviction policies are measured by.
 *
 * All of a trace follows from its spec.  The objects of Zipf's law are scattered over the numbers,
 * so that neighbours have nothing to do with each other.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

#define HOT_OBJECTS 512U    /* of POLICY_SCAN */
#define TURN_ZIPF 4096U	    /* requests of POLICY_ZIPF_SCAN between two stretches */
#define TURN_SCAN 2048U	    /* of a stretch */
#define LARGE_SHARE 8U	    /* one object in so many is large, of POLICY_SIZES */

struct generator {
	const struct policy_spec *spec;
	uint64_t state;
	uint32_t nr_zipf; /* objects 0 to nr_zipf - 1 are drawn by Zipf's law */
	uint32_t nr_loop; /* the next ones are the loop's, the others the scan's */
	uint32_t at_loop, at_scan;
	double *below; /* below[n]: the probability of the n + 1 most wanted ones */
};

static uint64_t random_bits(struct generator *g)
{
	uint64_t z = g->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint32_t below(struct generator *g, uint32_t n)
{
	return (uint32_t)(random_bits(g) % n);
}

static int zipf_init(struct generator *g)
{
	double sum = 0;

	g->below = malloc(g->nr_zipf * sizeof(*g->below));
	if (!g->below)
		return -ENOMEM;
	for (uint32_t n = 0; n < g->nr_zipf; n++) {
		sum += 1 / pow(n + 1, g->spec->skew);
		g->below[n] = sum;
	}
	for (uint32_t n = 0; n < g->nr_zipf; n++)
		g->below[n] /= sum;
	return 0;
}

static uint32_t zipf(struct generator *g)
{
	double want = (double)(random_bits(g) >> 11) * 0x1p-53;
	uint32_t low = 0, high = g->nr_zipf - 1;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (g->below[middle] < want)
			low = middle + 1;
		else
			high = middle;
	}
	/* nr_zipf is a power of two, so an odd factor makes a permutation */
	return low * UINT32_C(2654435761) & (g->nr_zipf - 1);
}

static uint32_t loop(struct generator *g)
{
	return g->nr_zipf + g->at_loop++ % g->nr_loop;
}

static uint32_t scan(struct generator *g)
{
	uint32_t first = g->nr_zipf + g->nr_loop;

	return first + g->at_scan++ % (g->spec->nr_objects - first);
}

static void divide(struct generator *g)
{
	uint32_t all = g->spec->nr_objects;

	g->nr_loop = 0;
	switch (g->spec->kind) {
	case POLICY_ZIPF:
	case POLICY_SIZES:
		g->nr_zipf = all;
		break;
	case POLICY_SCAN:
		g->nr_zipf = HOT_OBJECTS;
		break;
	case POLICY_LOOP:
		g->nr_zipf = all / 2;
		g->nr_loop = all / 4;
		break;
	case POLICY_ZIPF_SCAN:
		g->nr_zipf = all / 2;
		break;
	case POLICY_MIXED:
		g->nr_zipf = all / 2;
		g->nr_loop = all / 8;
		break;
	}
}

static uint32_t next(struct generator *g, uint32_t at)
{
	uint32_t die = below(g, 5);

	switch (g->spec->kind) {
	case POLICY_SCAN:
		return die ? scan(g) : below(g, g->nr_zipf) & (HOT_OBJECTS - 1);
	case POLICY_LOOP:
		return die ? loop(g) : zipf(g);
	case POLICY_ZIPF_SCAN:
		return at % (TURN_ZIPF + TURN_SCAN) < TURN_ZIPF ? zipf(g) : scan(g);
	case POLICY_MIXED:
		return die == 0 ? loop(g) : die == 1 ? scan(g) : zipf(g);
	default:
		return zipf(g);
	}
}

int policy_trace_make(const struct policy_spec *spec, struct policy_trace *trace)
{
	struct generator g = { .spec = spec, .state = spec->seed };
	int err;

	*trace = (struct policy_trace){ .spec = *spec, .nr_small = spec->nr_objects };
	if (spec->kind == POLICY_SIZES)
		trace->nr_small -= spec->nr_objects / LARGE_SHARE;
	trace->nr_pages = trace->nr_small +
			  (uint64_t)(spec->nr_objects - trace->nr_small) * POLICY_LARGE;
	divide(&g);
	err = zipf_init(&g);
	trace->request = malloc(spec->nr_requests * sizeof(*trace->request));
	if (!trace->request)
		err = -ENOMEM;
	for (uint32_t at = 0; !err && at < spec->nr_requests; at++)
		trace->request[at] = next(&g, at);
	free(g.below);
	if (err)
		policy_trace_free(trace);
	return err;
}

void policy_trace_free(struct policy_trace *trace)
{
	free(trace->request);
	memset(trace, 0, sizeof(*trace));
}
