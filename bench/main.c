/* SPDX-License-Identifier: MIT */
/*
 * main.c - iomap-bench: the command line.
 *
 *	iomap-bench list
 *	iomap-bench run [SCENARIO...] [--quick|--full|--smoke] [--json FILE] [--dir DIR]
 *	                [--only SIDE]
 *	iomap-bench count [--check FILE | --record FILE]
 *
 * --only runs one side, by itself, for whoever wants to look at it with strace or perf.
 * SCENARIO is a scenario's name or the beginning of a case's id: bdev-rand,
 * bdev-rand/io_uring/read.
 */
#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "bench.h"
#include "count.h"

extern const struct bench_scenario bench_self, bench_self_fio;
extern const struct bench_scenario bench_open_many;
extern const struct bench_scenario bench_bdev_rand, bench_bdev_seq;
extern const struct bench_scenario bench_dio_rand_qd1, bench_dio_rand_qd32;
extern const struct bench_scenario bench_hit_read, bench_hit_write, bench_hit_batch;
extern const struct bench_scenario bench_seq_read_cold;
extern const struct bench_scenario bench_seq_write, bench_rand_write_back, bench_fsync_4k;
extern const struct bench_scenario bench_hit_same, bench_hit_2t, bench_write_2t, bench_hit_pin;
extern const struct bench_scenario bench_write_same;
#ifdef BENCH_XSTORE
extern const struct bench_scenario bench_group_commit;
#endif
extern const struct bench_scenario bench_policy, bench_rand_read_cold, bench_mixed;

const struct bench_scenario *const bench_scenarios[] = {
	&bench_open_many, &bench_dio_rand_qd1, &bench_dio_rand_qd32,
	&bench_self,	  &bench_self_fio,  &bench_bdev_rand, &bench_bdev_seq, &bench_hit_read,
	&bench_hit_write, &bench_hit_batch, &bench_hit_same,  &bench_hit_2t,   &bench_write_2t,
	&bench_write_same, &bench_hit_pin, &bench_policy,
	&bench_rand_read_cold, &bench_mixed, &bench_seq_read_cold, &bench_seq_write,
	&bench_rand_write_back, &bench_fsync_4k,
#ifdef BENCH_XSTORE
	&bench_group_commit,
#endif
	NULL,
};

static const struct {
	unsigned rounds, slow_rounds;
	double round_s, slow_round_s;
} modes[] = {
	[BENCH_SMOKE] = { 1, 1, 0.003, 0.003 },
	[BENCH_QUICK] = { 3, 3, 0.06, 0.3 },
	[BENCH_FULL] = { 31, 11, 0.06, 0.5 },
};

static int usage(FILE *to)
{
	fputs("usage: iomap-bench list\n"
	      "       iomap-bench run [SCENARIO...] [--quick|--full|--smoke] [--json FILE]"
	      " [--dir DIR] [--only SIDE]\n"
	      "       iomap-bench count [--check FILE | --record FILE]\n",
	      to);
	return to == stdout ? 0 : 64;
}

static int list(void)
{
	struct bench_case c;

	for (unsigned s = 0; bench_scenarios[s]; s++) {
		const struct bench_scenario *scenario = bench_scenarios[s];

		printf("%-16s %s\n", scenario->id, scenario->what);
		if (scenario->not_yet)
			printf("    not yet: %s\n", scenario->not_yet);
		for (unsigned i = 0; scenario->get; i++) {
			memset(&c, 0, sizeof(c));
			if (!scenario->get(i, &c))
				break;
			if (strcmp(c.id, scenario->id) != 0)
				printf("    %s\n", c.id);
		}
	}
	return 0;
}

/* A whole word of @id, by '/'. */
static bool begins(const char *id, const char *wanted)
{
	size_t len = strlen(wanted);

	return strncmp(id, wanted, len) == 0 && (!id[len] || id[len] == '/');
}

struct run {
	struct bench_ctx ctx;
	char **wanted;
	int nr_wanted;
	bool found[64];
	FILE *json;
};

static bool is_wanted(struct run *run, const struct bench_scenario *scenario, const char *id)
{
	bool found = !run->nr_wanted;

	for (int i = 0; i < run->nr_wanted; i++)
		if (begins(id, run->wanted[i]) || strcmp(scenario->id, run->wanted[i]) == 0)
			found = run->found[i] = true;
	return found;
}

static void not_yet(struct run *run, const struct bench_scenario *scenario)
{
	if (is_wanted(run, scenario, scenario->id))
		printf("%s\n  not yet: %s\n", scenario->id, scenario->not_yet);
}

static void set_rounds(struct bench_ctx *ctx, bool slow, bool sure)
{
	ctx->rounds = slow ? modes[ctx->mode].slow_rounds : modes[ctx->mode].rounds;
	if (sure)
		ctx->rounds = 1;
	ctx->round_s = slow ? modes[ctx->mode].slow_round_s : modes[ctx->mode].round_s;
}

static int run_scenario(struct run *run, const struct bench_scenario *scenario)
{
	static struct bench_result result;
	struct bench_ctx *ctx = &run->ctx;
	struct bench_case c;

	if (scenario->not_yet) {
		not_yet(run, scenario);
		return 0;
	}
	for (unsigned i = 0;; i++) {
		memset(&c, 0, sizeof(c));
		if (!scenario->get(i, &c))
			return 0;
		if (!is_wanted(run, scenario, c.id))
			continue;
		set_rounds(ctx, scenario->slow || c.slow, scenario->sure);
		if (bench_run_case(ctx, scenario, &c, &result) != 0)
			return -1;
		bench_print(&result);
		if (run->json)
			bench_json_add(run->json, &result);
	}
}

static int run_all(struct run *run)
{
	int rc = 0;

	for (unsigned s = 0; bench_scenarios[s] && !rc; s++)
		rc = run_scenario(run, bench_scenarios[s]);
	for (int i = 0; i < run->nr_wanted && !rc; i++)
		if (!run->found[i])
			rc = bench_error("no scenario %s: see iomap-bench list", run->wanted[i]);
	return rc;
}

static int run_command(int argc, char **argv)
{
	static const struct option options[] = {
		{ "quick", no_argument, NULL, 'q' },	{ "full", no_argument, NULL, 'f' },
		{ "smoke", no_argument, NULL, 's' },	{ "json", required_argument, NULL, 'j' },
		{ "dir", required_argument, NULL, 'd' }, { "only", required_argument, NULL, 'o' },
		{ 0 },
	};
	struct run run = { .ctx = { .mode = BENCH_QUICK, .dir = "." } };
	const char *json = NULL;
	int option, rc;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (option) {
		case 'q': run.ctx.mode = BENCH_QUICK; break;
		case 'f': run.ctx.mode = BENCH_FULL; break;
		case 's': run.ctx.mode = BENCH_SMOKE; break;
		case 'j': json = optarg; break;
		case 'd': run.ctx.dir = optarg; break;
		case 'o': run.ctx.only = optarg; break;
		default: return usage(stderr);
		}
	run.wanted = argv + optind;
	run.nr_wanted = argc - optind;
	if (run.nr_wanted > (int)sizeof(run.found))
		return usage(stderr);
	if (json) {
		run.json = fopen(json, "w");
		if (!run.json) {
			bench_error("%s: %s", json, strerror(errno));
			return 1;
		}
		bench_json_begin(run.json);
	}
	rc = run_all(&run);
	if (run.json) {
		bench_json_end(run.json);
		if (fclose(run.json) != 0)
			rc = bench_error("%s: %s", json, strerror(errno));
	}
	return rc ? 1 : 0;
}

static int count(int argc, char **argv)
{
	if (argc == 2)
		return count_command(NULL, NULL);
	if (argc == 4 && strcmp(argv[2], "--check") == 0)
		return count_command(argv[3], NULL);
	if (argc == 4 && strcmp(argv[2], "--record") == 0)
		return count_command(NULL, argv[3]);
	return usage(stderr);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "run") == 0)
		return run_command(argc - 1, argv + 1);
	if (argc == 2 && strcmp(argv[1], "list") == 0)
		return list();
	if (argc > 1 && strcmp(argv[1], "count") == 0)
		return count(argc, argv);
	if (argc == 3 && strcmp(argv[1], "count-child") == 0)
		return count_child(argv[2]);
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return usage(stdout);
	return usage(stderr);
}
