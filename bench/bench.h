/* SPDX-License-Identifier: MIT */
/*
 * bench.h - the harness: scenarios, their cases, the sides that are measured against each other.
 *
 * A scenario is one file: it defines a struct bench_scenario and is named in bench_scenarios[]
 * (main.c).  It has one or more cases (a block size, a depth, a backend).  A case has two or more
 * sides, of which the first is ours and the others are its peers.
 *
 * How a case is measured (run.c): every side is set up, does one round that is thrown away, and
 * then rounds of all sides alternate, beginning with another side each time.  What a round
 * returns are the case's metrics.  Each round of ours gives one ratio with each peer's round of
 * the same number; the median over the rounds is the ratio of the case, and is held against the
 * target.  So what disturbs the machine for longer than a round disturbs both sides alike, and
 * many short rounds are better than few long ones.
 *
 * All of this runs in the main thread; sides may have threads of their own, which are asleep
 * while others are measured.  State of a side is freed by its teardown.  Nothing is left on disk
 * however the program ends: files have no names, and mounts live in a name space of our own.
 */
#ifndef IOMAP_BENCH_H
#define IOMAP_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define BENCH_SIDES_MAX 8
#define BENCH_METRICS_MAX 2
#define BENCH_TARGETS_MAX 4
#define BENCH_ROUNDS_MAX 99
#define BENCH_WHY_BYTES 256
#define BENCH_ID_BYTES 96
/* The name of a target's peer: the best of those that are marked as a limit. */
#define BENCH_BEST "best"

enum bench_mode {
	BENCH_SMOKE, /* does the harness work? a few ms for each round */
	BENCH_QUICK, /* small sets, 3 rounds, no verdict */
	BENCH_FULL,  /* verdicts */
};

/* What the sides of a case are told. */
struct bench_ctx {
	enum bench_mode mode;
	unsigned rounds;
	double round_s;	    /* how long a round should take */
	const char *dir;    /* where files may go */
	const char *only;   /* the one side to run, for a profile; NULL: all */
	const void *param;  /* the case's */
	char why[BENCH_WHY_BYTES]; /* set by bench_skip() */
};

struct bench_side {
	const char *name;
	bool limit;	 /* takes part in BENCH_BEST */
	const void *arg; /* the side's own */
	/* 0; or bench_skip(), bench_error().  *state is for the others. */
	int (*setup)(struct bench_ctx *ctx, const struct bench_side *side, void **state);
	/* One round: fills a value for each metric.  0 or bench_error(). */
	int (*round)(struct bench_ctx *ctx, void *state, double *values);
	void (*teardown)(struct bench_ctx *ctx, void *state);
};

/* How ours and a peer's value make a ratio. */
enum bench_ratio {
	BENCH_SPEED, /* how many times as fast as the peer; the target is a least value */
	BENCH_COST,  /* how many times the peer's cost; the target is a largest value */
	BENCH_SAME,  /* the larger by the smaller; the target is a largest value */
};

struct bench_metric {
	const char *name; /* part of the id when there are several */
	const char *unit;
	bool less_is_better;
	enum bench_ratio ratio;
	int digits; /* behind the point, when printed */
};

struct bench_target {
	const char *peer;
	unsigned metric; /* index */
	double bound;
	enum bench_ratio ratio;
};

struct bench_case {
	char id[BENCH_ID_BYTES];
	const struct bench_side *sides; /* ends with a name of NULL; the first is ours */
	const void *param;
	struct bench_target targets[BENCH_TARGETS_MAX]; /* ends with a peer of NULL */
	bool slow; /* as of a scenario */
};

struct bench_scenario {
	const char *id, *what;
	const char *not_yet; /* why there is nothing to measure as yet */
	const struct bench_metric *metrics; /* ends with a unit of NULL */
	bool slow; /* a side takes long to get going: fewer, longer rounds */
	bool sure; /* its numbers are always the same: one round */
	/* Case number @index into *out, which is zero.  False: there are no more. */
	bool (*get)(unsigned index, struct bench_case *out);
};

/* ---- results (run.c, report.c) ---- */

struct bench_spread {
	double median, p10, p90;
};

struct bench_result {
	const struct bench_scenario *scenario;
	const struct bench_case *c;
	unsigned rounds, nr_sides, nr_metrics;
	const char *skipped[BENCH_SIDES_MAX]; /* why, or NULL */
	char why[BENCH_SIDES_MAX][BENCH_WHY_BYTES];
	double values[BENCH_METRICS_MAX][BENCH_SIDES_MAX][BENCH_ROUNDS_MAX];
	double load; /* when it was measured */
	bool verdict; /* in --full only */
	bool only;    /* one side was asked for */
};

/* Measure one case.  0, or -1 after a message when a side failed. */
int bench_run_case(struct bench_ctx *ctx, const struct bench_scenario *scenario,
		   const struct bench_case *c, struct bench_result *result);
struct bench_spread bench_spread(const double *values, unsigned nr);
/* How ours relates to side number @peer. */
double bench_ratio_of(const struct bench_result *result, unsigned metric, enum bench_ratio kind,
		      unsigned peer);
/* The side that a target names, 0 when it was skipped. */
unsigned bench_find_peer(const struct bench_result *result, unsigned metric, const char *name);
bool bench_target_met(const struct bench_target *target, double ratio);

void bench_print(const struct bench_result *result);
void bench_json_begin(FILE *to);
void bench_json_add(FILE *to, const struct bench_result *result);
void bench_json_end(FILE *to);

/* ---- tools for scenarios (tools.c) ---- */

/* A function that stays one, under its own name. */
#ifdef __clang__
#define BENCH_NOINLINE __attribute__((noinline))
#else
#define BENCH_NOINLINE __attribute__((noinline, noclone))
#endif

int __attribute__((format(printf, 2, 3))) bench_skip(struct bench_ctx *ctx, const char *format,
						    ...);
int __attribute__((format(printf, 1, 2))) bench_error(const char *format, ...);
#define BENCH_SKIPPED 1

/* One round: from begin to over, by the clock. */
struct bench_round {
	double start, end; /* seconds */
	double cpu;	   /* of the process, seconds */
};
struct iomap_engine;
struct iomap_engine_opts;
/* iomap_engine_create() with memory from jemalloc where that is built in. */
int bench_engine_create(struct iomap_engine_opts *opts, struct iomap_engine **out);
double bench_now(void);
void bench_round_begin(struct bench_round *round, double seconds);
static inline bool bench_round_over(const struct bench_round *round)
{
	return bench_now() >= round->end;
}
/* Operations per second, and microseconds of CPU time for each. */
void bench_round_end(struct bench_round *round, uint64_t ops, double *values);
/* CPU time of the calling thread, seconds. */
double bench_thread_cpu(void);

/* Random numbers: fast, good enough to scatter offsets. */
static inline uint64_t bench_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

/* Memory on huge pages where there are any, all of it touched. */
void *bench_memory(size_t bytes);
void bench_memory_free(void *memory, size_t bytes);
/*
 * A file without a name in @dir, `bytes` long, written and durable.  Return: its descriptor or
 * bench_skip().  bench_fd_path() is a path by which it can be opened again.
 */
int bench_file(struct bench_ctx *ctx, const char *dir, uint64_t bytes);
void bench_fd_path(int fd, char *path, size_t bytes);
/* The size of a set: 8 MiB, or 1 GiB when @large; less where the mode asks for less. */
uint64_t bench_set_bytes(const struct bench_ctx *ctx, bool large);
/* XFS over a loop device (xfs.c): a descriptor of its root, which stays open; or -1 after
 * bench_skip().  And of such a file in it. */
int bench_xfs_root(struct bench_ctx *ctx);
int bench_xfs_file(struct bench_ctx *ctx, uint64_t bytes);

extern const struct bench_scenario *const bench_scenarios[];

#endif
