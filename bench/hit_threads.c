/* SPDX-License-Identifier: MIT */
/*
 * hit_threads.c - how cache hits scale from one thread to two: hit-same, hit-2t, write-2t,
 * write-same.
 *
 * The metric is how many times as much two threads do as one.  What the machine gives two threads
 * that share nothing, which is not 2 where CPUs are threads of a core or others use them, is the
 * scaling of a loop of plain arithmetic, measured in the same way: the peer.  One thread and two
 * alternate in short slices within a round, and each thread stays on a CPU of its own.
 *
 * Writers have a file each, since those of one file exclude each other by contract (i_rwsem);
 * those of write-same hold it shared, as they may below i_size, and meet at the lock of one folio.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "hit.h"

#define THREADS 2
#define SLICES 8 /* of a round, in pairs of one thread and two */
#define OPS_A_LOOK 256U
#define ALU_STEPS 16U /* of an operation of the loop of arithmetic */
#define FOLIO_BYTES (64U << 10) /* of a set of large folios */

struct scale;

struct worker {
	_Alignas(128) pthread_t thread;
	struct scale *scale;
	struct cached *cached;
	char *buffer, *memory;
	uint64_t seed, ops;
	unsigned number;
	bool failed;
};

typedef void worker_op(struct worker *w);

struct scale_param {
	bool write;
	bool same; /* one page is read, or one folio written to, by both */
	size_t bytes;
};

struct scale {
	const struct scale_param *p;
	uint64_t set_bytes;
	struct iomap_engine *engine;
	struct cached cached[THREADS];
	char *memory;
	worker_op *op; /* of the side: many operations */
	struct worker worker[THREADS];

	_Alignas(128) atomic_uint ready; /* threads of the slice that have come */
	atomic_uint start;		  /* the slice goes */
	atomic_bool over;
};

/* ---- operations ---- */

static uint64_t worker_at(struct worker *w)
{
	const struct scale_param *p = w->scale->p;
	uint64_t bytes = !p->same ? w->scale->set_bytes : p->write ? FOLIO_BYTES : IOMAP_PAGE_SIZE;

	return bench_random(&w->seed) % (bytes / p->bytes) * p->bytes;
}

static void op_read(struct worker *w)
{
	for (unsigned i = 0; i < OPS_A_LOOK; i++)
		w->failed |= !hit_read(w->cached, w->buffer, w->scale->p->bytes, worker_at(w));
}

static void op_write(struct worker *w)
{
	if (w->scale->p->same)
		iomap_inode_lock_shared(&w->cached->inode);
	else
		iomap_inode_lock(&w->cached->inode);
	for (unsigned i = 0; i < OPS_A_LOOK; i++)
		w->failed |= !hit_write(w->cached, w->buffer, w->scale->p->bytes, worker_at(w));
	if (w->scale->p->same)
		iomap_inode_unlock_shared(&w->cached->inode);
	else
		iomap_inode_unlock(&w->cached->inode);
}

static void op_copy(struct worker *w)
{
	size_t bytes = w->scale->p->bytes;

	for (unsigned i = 0; i < OPS_A_LOOK; i++)
		if (w->scale->p->write)
			hit_copy(w->memory + worker_at(w), w->buffer, bytes);
		else
			hit_copy(w->buffer, w->memory + worker_at(w), bytes);
}

static void op_alu(struct worker *w)
{
	uint64_t x = w->seed;

	for (unsigned i = 0; i < OPS_A_LOOK * ALU_STEPS; i++) {
		x = x * UINT64_C(6364136223846793005) + i;
		__asm__ volatile("" : "+r"(x));
	}
	w->seed = x;
}

/* ---- slices ---- */

static bool cpu_of(unsigned number, cpu_set_t *one)
{
	cpu_set_t all;

	CPU_ZERO(one);
	if (sched_getaffinity(0, sizeof(all), &all) != 0)
		return false;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && !number--) {
			CPU_SET(cpu, one);
			return true;
		}
	return false;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct scale *s = w->scale;
	uint64_t ops = 0;

	/* spinning: to be woken takes as long as many operations */
	atomic_fetch_add(&s->ready, 1);
	while (!atomic_load(&s->start))
		;
	/* once at least: on a busy machine a slice may be over before the thread has run */
	do {
		s->op(w);
		ops += OPS_A_LOOK;
	} while (!atomic_load_explicit(&s->over, memory_order_relaxed));
	w->ops = ops;
	return NULL;
}

static int worker_start(struct worker *w)
{
	pthread_attr_t attr;
	cpu_set_t cpu;
	int error;

	if (!cpu_of(w->number, &cpu))
		return bench_error("no CPU for thread %u", w->number);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(cpu), &cpu);
	error = pthread_create(&w->thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	return error ? bench_error("pthread_create: %s", strerror(error)) : 0;
}

static void slice_sleep(double seconds)
{
	struct timespec time = { .tv_nsec = (long)(seconds * 1e9) };

	while (nanosleep(&time, &time) != 0)
		;
}

/* Operations per second of @nr threads; negative when it failed. */
static double slice(struct scale *s, unsigned nr, double seconds)
{
	unsigned started = 0;
	uint64_t ops = 0;
	double begin;
	bool failed;

	atomic_store(&s->ready, 0);
	atomic_store(&s->start, 0);
	atomic_store(&s->over, false);
	while (started < nr && worker_start(&s->worker[started]) == 0)
		started++;
	failed = started < nr;
	while (atomic_load(&s->ready) < started)
		sched_yield();
	begin = bench_now();
	atomic_store(&s->start, 1);
	slice_sleep(failed ? 0 : seconds);
	atomic_store(&s->over, true);
	seconds = bench_now() - begin;
	for (unsigned i = 0; i < started; i++) {
		pthread_join(s->worker[i].thread, NULL);
		ops += s->worker[i].ops;
		failed |= s->worker[i].failed;
	}
	return failed ? -1 : (double)ops / seconds;
}

static int scale_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct scale *s = state;
	double rate[THREADS] = { 0 }, once;

	for (unsigned i = 0; s->engine && i < THREADS; i++)
		if (s->cached[i].file && cached_warm(&s->cached[i]) != 0)
			return -1;
	for (unsigned i = 0; i < SLICES; i++) {
		once = slice(s, i % THREADS + 1, ctx->round_s / SLICES);
		if (once < 0)
			return bench_error("an operation failed");
		rate[i % THREADS] += once;
	}
	values[0] = rate[1] / rate[0];
	return 0;
}

/* ---- life ---- */

static void scale_teardown(struct bench_ctx *ctx, void *state)
{
	struct scale *s = state;
	int error = 0;

	(void)ctx;
	for (unsigned i = 0; i < THREADS; i++) {
		cached_close(&s->cached[i]);
		bench_memory_free(s->worker[i].buffer, s->p->bytes);
	}
	if (s->engine)
		error = iomap_engine_destroy(s->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	bench_memory_free(s->memory, s->set_bytes * THREADS);
	free(s);
}

static int scale_open(struct scale *s)
{
	unsigned files = s->p->write && !s->p->same ? THREADS : 1;
	int rc = cached_engine(s->set_bytes * files, &s->engine);

	for (unsigned i = 0; i < THREADS && !rc; i++) {
		if (i < files)
			rc = cached_open(&s->cached[i], s->engine, s->set_bytes, true);
		s->worker[i].cached = &s->cached[i % files];
	}
	return rc;
}

static int scale_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct scale *s;
	cpu_set_t cpu;
	int rc = 0;

	if (!cpu_of(THREADS - 1, &cpu))
		return bench_skip(ctx, "needs %d CPUs", THREADS);
	s = aligned_alloc(128, sizeof(*s));
	memset(s, 0, sizeof(*s));
	s->p = ctx->param;
	s->op = *(worker_op *const *)side->arg;
	/* of each file, where there are two */
	s->set_bytes = bench_set_bytes(ctx, false) / (s->p->write ? THREADS : 1);
	if (s->op == op_read || s->op == op_write)
		rc = scale_open(s);
	else if (s->op == op_copy)
		s->memory = bench_memory(s->set_bytes * THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		struct worker *w = &s->worker[i];

		w->scale = s;
		w->number = i;
		w->seed = i * 7919;
		w->buffer = bench_memory(s->p->bytes);
		w->memory = s->memory && s->p->write ? s->memory + i * s->set_bytes : s->memory;
	}
	if (rc)
		scale_teardown(ctx, s);
	*state = s;
	return rc;
}

/* ---- the scenarios ---- */

/* arg is data: a pointer to the pointer to a function */
static worker_op *const do_read = op_read, *const do_write = op_write, *const do_copy = op_copy,
		 *const do_alu = op_alu;

#define SIDE(name, op) { name, false, &(op), scale_setup, scale_round, scale_teardown }

static const struct bench_side read_sides[] = {
	SIDE("ours", do_read), SIDE("alu", do_alu), SIDE("memcpy", do_copy), { 0 }
};
static const struct bench_side write_sides[] = {
	SIDE("ours", do_write), SIDE("alu", do_alu), SIDE("memcpy", do_copy), { 0 }
};

static const struct bench_metric metrics[] = {
	{ "scaling", "x one thread", false, BENCH_SPEED, 2 }, { 0 }
};

static bool same_get(unsigned index, struct bench_case *out)
{
	static const struct scale_param params[] = {
		{ false, true, 64 }, { false, true, 512 }, { false, true, 4096 }
	};
	static const char *const names[] = { "64", "512", "4k" };

	if (index >= sizeof(params) / sizeof(params[0]))
		return false;
	snprintf(out->id, sizeof(out->id), "hit-same/%s", names[index]);
	out->sides = read_sides;
	out->param = &params[index];
	out->targets[0] = (struct bench_target){ "alu", 0, 0.9, BENCH_SPEED };
	return true;
}

/* Without a target: what it costs that a folio has one lock. */
static bool write_same_get(unsigned index, struct bench_case *out)
{
	static const struct scale_param params[] = {
		{ true, true, 64 }, { true, true, 512 }, { true, true, 4096 }
	};
	static const char *const names[] = { "64", "512", "4k" };

	if (index >= sizeof(params) / sizeof(params[0]))
		return false;
	snprintf(out->id, sizeof(out->id), "write-same/%s", names[index]);
	out->sides = write_sides;
	out->param = &params[index];
	return true;
}

static bool one_case(unsigned index, struct bench_case *out, const char *id, bool write)
{
	static const struct scale_param params[] = { { false, false, 4096 }, { true, false, 64 } };

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "%s", id);
	out->sides = write ? write_sides : read_sides;
	out->param = &params[write];
	out->targets[0] = (struct bench_target){ "alu", 0, write ? 0.85 : 0.9, BENCH_SPEED };
	return true;
}

static bool hit_2t_get(unsigned index, struct bench_case *out)
{
	return one_case(index, out, "hit-2t", false);
}
static bool write_2t_get(unsigned index, struct bench_case *out)
{
	return one_case(index, out, "write-2t", true);
}

const struct bench_scenario bench_hit_same = {
	.id = "hit-same",
	.what = "two threads read the same folio: scaling, against a loop of arithmetic",
	.metrics = metrics,
	.get = same_get,
};
const struct bench_scenario bench_hit_2t = {
	.id = "hit-2t",
	.what = "two threads, random 4 KiB reads of one cached file: scaling, likewise",
	.metrics = metrics,
	.get = hit_2t_get,
};
const struct bench_scenario bench_write_2t = {
	.id = "write-2t",
	.what = "two threads, random 64 B overwrites of a file each: scaling, likewise",
	.metrics = metrics,
	.get = write_2t_get,
};
const struct bench_scenario bench_write_same = {
	.id = "write-same",
	.what = "two threads, random overwrites in one folio of 64 KiB: scaling, likewise",
	.metrics = metrics,
	.get = write_same_get,
};
