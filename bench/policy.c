/* SPDX-License-Identifier: MIT */
/*
 * policy.c - the scenario `policy`: misses of the library and of simulated policies.
 *
 * The same trace for all; ours is the library itself, driven through its interface.  The numbers
 * are the same each time and on each machine, so there is one round.
 */
#include <string.h>

#include "bench.h"
#include "policy.h"

#define OBJECTS (1U << 16)
#define REQUESTS 1000000U

struct policy_case {
	const struct policy_spec *spec;
	unsigned share; /* the cache is that part of the data */
};

static const struct {
	const char *name;
	struct policy_spec spec;
} traces[] = {
	{ "zipf-0.8", { POLICY_ZIPF, 0.8, OBJECTS, REQUESTS, 1 } },
	{ "zipf-1.0", { POLICY_ZIPF, 1.0, OBJECTS, REQUESTS, 2 } },
	{ "zipf-1.2", { POLICY_ZIPF, 1.2, OBJECTS, REQUESTS, 3 } },
	{ "scan", { POLICY_SCAN, 0, OBJECTS, REQUESTS, 4 } },
	{ "loop", { POLICY_LOOP, 1.0, OBJECTS, REQUESTS, 5 } },
	{ "zipf-scan", { POLICY_ZIPF_SCAN, 1.0, OBJECTS, REQUESTS, 6 } },
	{ "mixed", { POLICY_MIXED, 1.0, OBJECTS, REQUESTS, 7 } },
	{ "sizes", { POLICY_SIZES, 1.0, OBJECTS, REQUESTS, 8 } },
};
#define TRACES (sizeof(traces) / sizeof(traces[0]))

static const unsigned shares[] = { 64, 32, 16, 8, 4, 2 };
#define SHARES (sizeof(shares) / sizeof(shares[0]))
/* Shares of --quick and --smoke. */
#define SMALL_RUN 16

struct policy_state {
	const struct policy *policy; /* NULL: the library */
	const struct policy_case *c;
};

/* All sides of a case, and all cases of a trace, use one. */
static struct policy_trace the_trace;

static int policy_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	const struct policy_case *c = ctx->param;
	struct policy_state *s;

	if (ctx->mode != BENCH_FULL && c->share != SMALL_RUN)
		return bench_skip(ctx, "only with --full");
	if (memcmp(&the_trace.spec, c->spec, sizeof(*c->spec)) != 0) {
		policy_trace_free(&the_trace);
		if (policy_trace_make(c->spec, &the_trace) != 0)
			return bench_error("no memory for a trace");
	}
	s = calloc(1, sizeof(*s));
	s->c = c;
	s->policy = side->arg ? policy_find(side->arg) : NULL;
	*state = s;
	return 0;
}

static int policy_round(struct bench_ctx *ctx, void *state, double *values)
{
	const struct policy_state *s = state;
	uint64_t pages = the_trace.nr_pages / s->c->share;
	double misses;

	(void)ctx;
	misses = s->policy ? policy_simulate(s->policy, &the_trace, pages) :
			     policy_drive(&the_trace, pages);
	values[0] = misses * 100;
	return misses < 0 ? bench_error("error %g", misses) : 0;
}

static void policy_teardown(struct bench_ctx *ctx, void *state)
{
	(void)ctx;
	free(state);
}

static const struct bench_side sides[] = {
	{ "ours", false, NULL, policy_setup, policy_round, policy_teardown },
	{ "s3-fifo", false, "s3-fifo", policy_setup, policy_round, policy_teardown },
	{ "sieve", false, "sieve", policy_setup, policy_round, policy_teardown },
	{ "2q", false, "2q", policy_setup, policy_round, policy_teardown },
	{ "clock", false, "clock", policy_setup, policy_round, policy_teardown },
	{ "lru", false, "lru", policy_setup, policy_round, policy_teardown },
	{ 0 },
};

static const struct bench_metric metrics[] = { { "misses", "%", true, BENCH_COST, 2 }, { 0 } };

static bool policy_get(unsigned index, struct bench_case *out)
{
	static struct policy_case cases[TRACES][SHARES];
	unsigned trace = index / SHARES, share = index % SHARES;

	if (trace == TRACES)
		return false;
	cases[trace][share] = (struct policy_case){ &traces[trace].spec, shares[share] };
	snprintf(out->id, sizeof(out->id), "policy/%s/%u", traces[trace].name, shares[share]);
	out->sides = sides;
	out->param = &cases[trace][share];
	out->targets[0] = (struct bench_target){ "s3-fifo", 0, 1.02, BENCH_COST };
	out->targets[1] = (struct bench_target){ "lru", 0, 1, BENCH_COST };
	return true;
}

const struct bench_scenario bench_policy = {
	.id = "policy",
	.what = "misses by eviction policy, the cache 1/64 to 1/2 of the data; others simulated",
	.metrics = metrics,
	.sure = true,
	.get = policy_get,
};
