/* SPDX-License-Identifier: MIT */
/*
 * run.c - rounds, medians, ratios, verdicts.
 */
#include <string.h>

#include "bench.h"

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The value below which @share of the sorted values lie. */
static double quantile(const double *sorted, unsigned nr, double share)
{
	double at = share * (nr - 1);
	unsigned low = (unsigned)at;

	if (low + 1 >= nr)
		return sorted[nr - 1];
	return sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]);
}

struct bench_spread bench_spread(const double *values, unsigned nr)
{
	double sorted[BENCH_ROUNDS_MAX];

	memcpy(sorted, values, nr * sizeof(*sorted));
	qsort(sorted, nr, sizeof(*sorted), by_value);
	return (struct bench_spread){
		.median = quantile(sorted, nr, 0.5),
		.p10 = quantile(sorted, nr, 0.1),
		.p90 = quantile(sorted, nr, 0.9),
	};
}

static double ratio_once(double ours, double peer, bool less_is_better, enum bench_ratio kind)
{
	bool inverse = kind == BENCH_SAME ? ours < peer : less_is_better == (kind == BENCH_SPEED);

	if (inverse)
		return ours > 0 ? peer / ours : 0;
	return peer > 0 ? ours / peer : 0;
}

double bench_ratio_of(const struct bench_result *result, unsigned metric, enum bench_ratio kind,
		      unsigned peer)
{
	bool less = result->scenario->metrics[metric].less_is_better;
	double ratios[BENCH_ROUNDS_MAX], ratio;

	for (unsigned r = 0; r < result->rounds; r++)
		ratios[r] = ratio_once(result->values[metric][0][r],
				       result->values[metric][peer][r], less,
				       kind == BENCH_SAME ? BENCH_SPEED : kind);
	ratio = bench_spread(ratios, result->rounds).median;
	/* after the median: before it, noise to either side would count as a difference */
	return kind == BENCH_SAME ? ratio_once(ratio, 1, false, kind) : ratio;
}

static unsigned find_best(const struct bench_result *result, unsigned metric)
{
	bool less = result->scenario->metrics[metric].less_is_better;
	double median, best_median = 0;
	unsigned best = 0;

	for (unsigned s = 1; s < result->nr_sides; s++) {
		if (!result->c->sides[s].limit || result->skipped[s])
			continue;
		median = bench_spread(result->values[metric][s], result->rounds).median;
		if (!best || (less ? median < best_median : median > best_median)) {
			best = s;
			best_median = median;
		}
	}
	return best;
}

unsigned bench_find_peer(const struct bench_result *result, unsigned metric, const char *name)
{
	if (result->skipped[0])
		return 0;
	if (strcmp(name, BENCH_BEST) == 0)
		return find_best(result, metric);
	for (unsigned s = 1; s < result->nr_sides; s++)
		if (strcmp(result->c->sides[s].name, name) == 0)
			return result->skipped[s] ? 0 : s;
	return 0;
}

bool bench_target_met(const struct bench_target *target, double ratio)
{
	return target->ratio == BENCH_SPEED ? ratio >= target->bound : ratio <= target->bound;
}

/* ---- one case ---- */

struct sides {
	void *state[BENCH_SIDES_MAX];
	bool up[BENCH_SIDES_MAX];
};

static int set_up(struct bench_ctx *ctx, struct bench_result *result, struct sides *sides)
{
	const struct bench_side *side = result->c->sides;

	for (unsigned s = 0; s < result->nr_sides; s++) {
		int rc;

		if (ctx->only && strcmp(side[s].name, ctx->only) != 0)
			rc = bench_skip(ctx, "not asked for");
		else
			rc = side[s].setup(ctx, &side[s], &sides->state[s]);
		if (rc < 0)
			return rc;
		sides->up[s] = rc == 0;
		if (rc == BENCH_SKIPPED) {
			memcpy(result->why[s], ctx->why, sizeof(ctx->why));
			result->skipped[s] = result->why[s];
		}
		/* peers alone say nothing, but to who asks for one */
		if (!s && rc && !ctx->only)
			return 0;
	}
	return 0;
}

static int one_round(struct bench_ctx *ctx, struct bench_result *result, struct sides *sides,
		     unsigned s, int round)
{
	/* a side may always fill what bench_round_end() knows */
	double values[BENCH_METRICS_MAX] = { 0 };

	if (!sides->up[s])
		return 0;
	if (result->c->sides[s].round(ctx, sides->state[s], values) != 0)
		return bench_error("%s: %s failed", result->c->id, result->c->sides[s].name);
	if (round >= 0)
		for (unsigned m = 0; m < result->nr_metrics; m++)
			result->values[m][s][round] = values[m];
	return 0;
}

static int all_rounds(struct bench_ctx *ctx, struct bench_result *result, struct sides *sides)
{
	for (int round = result->scenario->sure ? 0 : -1; round < (int)result->rounds; round++)
		for (unsigned i = 0; i < result->nr_sides; i++) {
			unsigned s = (unsigned)(round + 1 + (int)i) % result->nr_sides;

			if (one_round(ctx, result, sides, s, round) != 0)
				return -1;
		}
	return 0;
}

int bench_run_case(struct bench_ctx *ctx, const struct bench_scenario *scenario,
		   const struct bench_case *c, struct bench_result *result)
{
	struct sides sides = { .up = { false } };
	int rc;

	memset(result, 0, sizeof(*result));
	result->scenario = scenario;
	result->c = c;
	result->rounds = ctx->rounds;
	result->verdict = ctx->mode == BENCH_FULL;
	result->only = ctx->only != NULL;
	while (result->nr_sides < BENCH_SIDES_MAX && c->sides[result->nr_sides].name)
		result->nr_sides++;
	while (result->nr_metrics < BENCH_METRICS_MAX && scenario->metrics[result->nr_metrics].unit)
		result->nr_metrics++;
	ctx->param = c->param;
	rc = set_up(ctx, result, &sides);
	if (rc == 0)
		rc = all_rounds(ctx, result, &sides);
	if (getloadavg(&result->load, 1) != 1)
		result->load = -1;
	for (unsigned s = 0; s < result->nr_sides; s++)
		if (sides.up[s])
			c->sides[s].teardown(ctx, sides.state[s]);
	return rc;
}
