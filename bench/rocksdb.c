/* SPDX-License-Identifier: MIT */
/*
 * rocksdb.c - the peer of hit-pin: look-ups in RocksDB's HyperClockCache, by its own cache_bench.
 *
 * A program of its own that chooses its keys itself, so it is run as a child, once for each round,
 * with a cache of the same size that holds all of them: of the rate it prints ("parallel ops/sec =
 * N", of all threads together) comes the time of one look-up.  Setting up its cache is not in that.
 * Where there is no cache_bench in PATH the side is skipped.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "rocksdb.h"

#define TOOL "cache_bench"
#define LOOKUPS 2000000U /* in a round: some seconds */

/* Whether a directory of PATH has it. */
static bool tool_is_there(void)
{
	const char *path = getenv("PATH");
	char file[4096];

	while (path && *path) {
		size_t len = strcspn(path, ":");

		snprintf(file, sizeof(file), "%.*s/" TOOL, (int)len, path);
		if (access(file, X_OK) == 0)
			return true;
		path += len + (path[len] == ':');
	}
	return false;
}

int bench_rocksdb_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	(void)side, (void)state;
	if (!tool_is_there())
		return bench_skip(ctx, TOOL " of RocksDB is not installed");
	return 0;
}

/* Of the child's output; 0 when it does not say. */
static double read_rate(FILE *from)
{
	static const char mark[] = "parallel ops/sec = ";
	char line[1024];
	double rate = 0;

	while (fgets(line, sizeof(line), from)) {
		const char *at = strstr(line, mark);

		if (at)
			rate = strtod(at + sizeof(mark) - 1, NULL);
	}
	return rate;
}

int bench_rocksdb_round(struct bench_ctx *ctx, void *state, double *values)
{
	static const char command[] =
		TOOL " -cache_type=hyper_clock_cache -threads=1 -cache_size=268435456"
		     " -value_bytes=4096 -resident_ratio=0.9 -lookup_percent=100 -insert_percent=0"
		     " -lookup_insert_percent=0 -erase_percent=0 -ops_per_thread=%u 2>&1";
	char line[512];
	double rate;
	FILE *from;
	int status;

	(void)ctx, (void)state;
	snprintf(line, sizeof(line), command, LOOKUPS);
	from = popen(line, "r");
	if (!from)
		return bench_error(TOOL ": %s", strerror(errno));
	rate = read_rate(from);
	status = pclose(from);
	if (status || !(rate > 0))
		return bench_error(TOOL " failed, or printed no rate");
	values[0] = 1e9 / rate;
	return 0;
}

void bench_rocksdb_teardown(struct bench_ctx *ctx, void *state)
{
	(void)ctx, (void)state;
}
