/* SPDX-License-Identifier: MIT */
/*
 * report.c - results as a table for people and as JSON for programs.
 *
 * JSON: an array with one object for each metric of each case:
 *
 *	{"id","unit","ours":{"median","p10","p90"},"peers":{NAME:{…} or {"skipped":why},…},
 *	 "ratios":{NAME:x,…},"target":{NAME:y},"met":true|false|null,"rounds","machine":{…}}
 *
 * A figure that no round gave is null.  A scenario or case that was not measured has
 * "ours":{"skipped":why}.  "met" is null without a target, in --quick, and when the peer of a
 * target was skipped.  How a ratio is made, and whether its target is a least or a largest
 * value, follows from the metric: see bench.h.
 */
#include <math.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum met { MET_UNKNOWN, MET_YES, MET_NO };

static void metric_id(const struct bench_result *result, unsigned metric, char *id, size_t bytes)
{
	if (result->nr_metrics > 1)
		snprintf(id, bytes, "%s/%s", result->c->id,
			 result->scenario->metrics[metric].name);
	else
		snprintf(id, bytes, "%s", result->c->id);
}

/* The target of @metric that names @peer. */
static const struct bench_target *find_target(const struct bench_result *result, unsigned metric,
					      const char *peer)
{
	const struct bench_target *target = result->c->targets;

	for (unsigned i = 0; i < BENCH_TARGETS_MAX && target[i].peer; i++)
		if (target[i].metric == metric && strcmp(target[i].peer, peer) == 0)
			return &target[i];
	return NULL;
}

static enum met all_met(const struct bench_result *result, unsigned metric)
{
	const struct bench_target *target = result->c->targets;
	enum met met = MET_UNKNOWN;
	unsigned peer;

	if (!result->verdict || result->skipped[0])
		return MET_UNKNOWN;
	for (unsigned i = 0; i < BENCH_TARGETS_MAX && target[i].peer; i++) {
		if (target[i].metric != metric)
			continue;
		peer = bench_find_peer(result, metric, target[i].peer);
		if (!peer)
			return MET_UNKNOWN;
		if (!bench_target_met(&target[i],
				      bench_ratio_of(result, metric, target[i].ratio, peer)))
			met = MET_NO;
		else if (met == MET_UNKNOWN)
			met = MET_YES;
	}
	return met;
}

/* A ratio is what its target asks for, else what the metric says. */
static enum bench_ratio ratio_kind(const struct bench_result *result, unsigned metric,
				   const char *peer)
{
	const struct bench_target *target = find_target(result, metric, peer);

	return target ? target->ratio : result->scenario->metrics[metric].ratio;
}

/* ---- the table ---- */

static void print_target(const struct bench_result *result, unsigned metric, const char *name,
			 double ratio)
{
	const struct bench_target *target = find_target(result, metric, name);

	if (!target)
		return;
	printf("  target %s %g", target->ratio == BENCH_SPEED ? ">=" : "<=", target->bound);
	if (result->verdict)
		printf("  %s", bench_target_met(target, ratio) ? "met" : "MISSED");
}

static void print_peer(const struct bench_result *result, unsigned metric, const char *name,
		       unsigned peer, bool values)
{
	const struct bench_metric *m = &result->scenario->metrics[metric];
	struct bench_spread spread;
	double ratio;

	printf("  %-14s", name);
	if (values) {
		spread = bench_spread(result->values[metric][peer], result->rounds);
		printf(" %12.*f  [%.*f .. %.*f]", m->digits, spread.median, m->digits, spread.p10,
		       m->digits, spread.p90);
	} else {
		printf(" is %s", result->c->sides[peer].name);
	}
	if (peer && !result->skipped[0]) {
		ratio = bench_ratio_of(result, metric, ratio_kind(result, metric, name), peer);
		printf("  ratio %.3f", ratio);
		print_target(result, metric, name, ratio);
	}
	putchar('\n');
}

static void print_metric(const struct bench_result *result, unsigned metric)
{
	char id[BENCH_ID_BYTES + 32];
	unsigned best;

	metric_id(result, metric, id, sizeof(id));
	printf("%s  (%s, %u rounds, load %.1f)\n", id, result->scenario->metrics[metric].unit,
	       result->rounds, result->load);
	for (unsigned s = 0; s < result->nr_sides; s++) {
		const char *name = s ? result->c->sides[s].name : "ours";

		if (result->skipped[s])
			printf("  %-14s skipped: %s\n", name, result->skipped[s]);
		else
			print_peer(result, metric, name, s, true);
	}
	best = bench_find_peer(result, metric, BENCH_BEST);
	if (best)
		print_peer(result, metric, BENCH_BEST, best, false);
}

void bench_print(const struct bench_result *result)
{
	if (result->skipped[0] && !result->only)
		printf("%s\n  skipped: %s\n", result->c->id, result->skipped[0]);
	else
		for (unsigned m = 0; m < result->nr_metrics; m++)
			print_metric(result, m);
	fflush(stdout);
}

/* ---- JSON ---- */

static bool json_first;

static void json_string(FILE *to, const char *string)
{
	fputc('"', to);
	for (; *string; string++) {
		if (*string == '"' || *string == '\\')
			fprintf(to, "\\%c", *string);
		else if ((unsigned char)*string < ' ')
			fprintf(to, "\\u%04x", (unsigned)*string);
		else
			fputc(*string, to);
	}
	fputc('"', to);
}

/* A rate of a round in which the clock did not move is not a number of JSON. */
static void json_number(FILE *to, const char *before, double value, int digits)
{
	fputs(before, to);
	if (isfinite(value))
		fprintf(to, "%.*g", digits, value);
	else
		fputs("null", to);
}

static void json_spread(FILE *to, const struct bench_result *result, unsigned metric, unsigned s)
{
	struct bench_spread spread;

	if (result->skipped[s]) {
		fputs("{\"skipped\":", to);
		json_string(to, result->skipped[s]);
		fputc('}', to);
		return;
	}
	spread = bench_spread(result->values[metric][s], result->rounds);
	json_number(to, "{\"median\":", spread.median, 6);
	json_number(to, ",\"p10\":", spread.p10, 6);
	json_number(to, ",\"p90\":", spread.p90, 6);
	fputc('}', to);
}

static void json_ratio(FILE *to, const struct bench_result *result, unsigned metric,
		       const char *name, unsigned peer, const char **comma)
{
	fprintf(to, "%s\"%s\"", *comma, name);
	json_number(to, ":",
		    bench_ratio_of(result, metric, ratio_kind(result, metric, name), peer), 4);
	*comma = ",";
}

static void json_ratios(FILE *to, const struct bench_result *result, unsigned metric)
{
	const char *comma = "";
	unsigned best;

	if (result->skipped[0])
		return;
	for (unsigned s = 1; s < result->nr_sides; s++)
		if (!result->skipped[s])
			json_ratio(to, result, metric, result->c->sides[s].name, s, &comma);
	best = bench_find_peer(result, metric, BENCH_BEST);
	if (best)
		json_ratio(to, result, metric, BENCH_BEST, best, &comma);
}

static void json_targets(FILE *to, const struct bench_result *result, unsigned metric)
{
	const struct bench_target *target = result->c->targets;
	const char *comma = "";

	for (unsigned i = 0; i < BENCH_TARGETS_MAX && target[i].peer; i++) {
		if (target[i].metric != metric)
			continue;
		fprintf(to, "%s\"%s\":%g", comma, target[i].peer, target[i].bound);
		comma = ",";
	}
}

static void json_cpu(FILE *to)
{
	char line[256], *colon = NULL;
	FILE *info = fopen("/proc/cpuinfo", "r");

	while (info && !colon && fgets(line, sizeof(line), info))
		if (strncmp(line, "model name", 10) == 0)
			colon = strchr(line, ':');
	if (colon) {
		line[strcspn(line, "\n")] = '\0';
		fputs("\"cpu\":", to);
		json_string(to, colon + 2);
		fputc(',', to);
	}
	if (info)
		fclose(info);
}

static void json_machine(FILE *to, double load)
{
	struct utsname name;

	fputs("\"machine\":{", to);
	json_cpu(to);
	if (uname(&name) == 0) {
		fputs("\"kernel\":", to);
		json_string(to, name.release);
		fputs(",\"arch\":", to);
		json_string(to, name.machine);
		fputc(',', to);
	}
	fputs("\"compiler\":", to);
	json_string(to, BENCH_COMPILER);
	fputs(",\"build\":", to);
	json_string(to, BENCH_BUILD_TYPE);
	fprintf(to, ",\"cpus\":%ld,\"memory_mib\":%ld,\"load\":%.2f,\"time\":%lld}",
		sysconf(_SC_NPROCESSORS_ONLN),
		sysconf(_SC_PHYS_PAGES) / 1024 * (sysconf(_SC_PAGESIZE) / 1024), load,
		(long long)time(NULL));
}

void bench_json_begin(FILE *to)
{
	fputs("[\n", to);
	json_first = true;
}

static void json_metric(FILE *to, const struct bench_result *result, unsigned metric)
{
	static const char *const met[] = { "null", "true", "false" };
	char id[BENCH_ID_BYTES + 32];

	metric_id(result, metric, id, sizeof(id));
	fprintf(to, "%s{\"id\":\"%s\",\"unit\":\"%s\",\"ours\":", json_first ? "" : ",\n", id,
		result->scenario->metrics[metric].unit);
	json_first = false;
	json_spread(to, result, metric, 0);
	fputs(",\"peers\":{", to);
	for (unsigned s = 1; s < result->nr_sides && !result->skipped[0]; s++) {
		fprintf(to, "%s\"%s\":", s > 1 ? "," : "", result->c->sides[s].name);
		json_spread(to, result, metric, s);
	}
	fputs("},\"ratios\":{", to);
	json_ratios(to, result, metric);
	fputs("},\"target\":{", to);
	json_targets(to, result, metric);
	fprintf(to, "},\"met\":%s,\"rounds\":%u,", met[all_met(result, metric)],
		result->skipped[0] ? 0 : result->rounds);
	json_machine(to, result->load);
	fputc('}', to);
}

void bench_json_add(FILE *to, const struct bench_result *result)
{
	for (unsigned m = 0; m < result->nr_metrics; m++)
		json_metric(to, result, m);
	fflush(to);
}

void bench_json_end(FILE *to)
{
	fputs("\n]\n", to);
}
