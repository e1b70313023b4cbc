/* SPDX-License-Identifier: MIT */
/*
 * testfail.c - see testfail.h.
 */
#include "testfail.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <sched.h>
#include <string.h>
#include <time.h>

static const char *const tf_kinds[TF_KINDS_NR] = {
	[IOMAP_FAIL_ALLOC] = "ALLOC",
	[IOMAP_FAIL_ARENA_MAP] = "ARENA_MAP",
	[IOMAP_FAIL_RING_SETUP] = "RING_SETUP",
	[IOMAP_FAIL_RING_REGISTER] = "RING_REGISTER",
	[IOMAP_FAIL_THREAD_CREATE] = "THREAD_CREATE",
	[IOMAP_FAIL_EVENTFD] = "EVENTFD",
	[IOMAP_FAIL_POOL] = "POOL",
	[IOMAP_FAIL_FOLIO] = "FOLIO",
	[IOMAP_FAIL_IO] = "IO",
	[TF_APPLICATION] = "APPLICATION",
};

const char *tf_kind_name(unsigned kind)
{
	return tf_kinds[kind] ? tf_kinds[kind] : "a kind without a name";
}

/* ---- hooks ---- */

/* In front of each block. */
struct tf_block {
	void *raw;
	size_t size;
};

static void *tf_alloc(void *ctx, size_t align, size_t size)
{
	struct tf *tf = ctx;
	uintptr_t at;
	void *raw;

	t_must(align && !(align & (align - 1)));
	if (align < _Alignof(struct tf_block))
		align = _Alignof(struct tf_block);
	if (tf->in_order)
		tf->in_hook = true;
	raw = malloc(sizeof(struct tf_block) + align + size);
	if (tf->in_order)
		tf->in_hook = false;
	t_must(raw);
	at = ((uintptr_t)raw + sizeof(struct tf_block) + align - 1) & ~(align - 1);
	((struct tf_block *)at)[-1] = (struct tf_block){ raw, size };
	/* nobody may count on what malloc happens to give */
	memset((void *)at, 0xa7, size);
	tf->blocks_nr++;
	tf->bytes += (int64_t)size;
	return (void *)at;
}

static void tf_free(void *ctx, void *ptr, size_t size)
{
	struct tf_block block = ((struct tf_block *)ptr)[-1];
	struct tf *tf = ctx;

	t_must(block.size == size);
	memset(ptr, 0xa8, size);
	tf->blocks_nr--;
	tf->bytes -= (int64_t)size;
	free(block.raw);
}

/* One more operation. */
static bool tf_next(struct tf *tf, unsigned kind)
{
	uint64_t nth;

	if (tf->paused)
		return false;
	nth = ++tf->nr[kind];
	if (kind != tf->kind || (nth != tf->n && !tf->always))
		return false;
	/* with threads the script may be anywhere */
	if (!atomic_exchange(&tf->fired, true) && tf->in_order)
		tf->at = (struct tf_at){ tf->call, tf->where, tf->op };
	return true;
}

static bool tf_fail(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	struct tf *tf = ctx;

	t_must(kind < IOMAP_FAIL_KINDS_NR);
	if (tf->in_order)
		t_must(n == tf->last[kind] + 1);
	tf->last[kind] = n;
	return tf_next(tf, kind);
}

bool tf_application_fails(struct tf *tf)
{
	return tf_next(tf, TF_APPLICATION);
}

void tf_opts(struct tf *tf, struct iomap_engine_opts *opts)
{
	opts->alloc = (struct iomap_alloc_hooks){ tf_alloc, tf_free, tf };
	opts->fail_nth = tf_fail;
	opts->fail_ctx = tf;
}

void tf_event(struct tf *tf, int observer, int error)
{
	t_must(tf->events_nr < TF_EVENTS);
	tf->event[tf->events_nr++] = (struct tf_event){ tf->call, observer, error };
}

unsigned tf_events(const struct tf *tf, const char *call, int observer)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < tf->events_nr; i++)
		if ((!call || !strcmp(tf->event[i].call, call)) &&
		    (observer == -2 || tf->event[i].observer == observer))
			nr++;
	return nr;
}

/* ---- what is left ---- */

static unsigned tf_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned nr = 0;

	t_must(dir);
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

/* Threads of the library. */
static unsigned tf_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned nr = 0;

	t_must(dir);
	while ((entry = readdir(dir))) {
		char path[sizeof(entry->d_name) + 32], comm[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(comm, sizeof(comm), file))
			nr += !strncmp(comm, "iomap", 5);
		fclose(file);
	}
	closedir(dir);
	return nr;
}

static uint64_t tf_now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

void tf_begin(struct tf *tf, unsigned kind, uint64_t n)
{
	memset(tf, 0, sizeof(*tf));
	tf->kind = kind;
	tf->n = n;
	tf->call = "nothing";
	tf->fds_nr = tf_fds();
}

void tf_end(struct tf *tf)
{
	uint64_t start = tf_now_s();

	/* a thread that was joined has its entry for a moment yet */
	while (tf_threads() && tf_now_s() < start + T_HANG_S)
		sched_yield();
	if (!tf->blocks_nr && !tf->bytes && tf_fds() == tf->fds_nr && !tf_threads())
		return;
	tf_print(tf);
	cr_assert_fail("left: %lld blocks, %lld bytes, %u threads; descriptors: %u, were %u",
		       (long long)tf->blocks_nr, (long long)tf->bytes, tf_threads(), tf_fds(),
		       tf->fds_nr);
}

void tf_print(const struct tf *tf)
{
	if (!tf->n && !tf->always)
		fprintf(stderr, "without a failure:");
	else if (!tf->fired)
		fprintf(stderr, "%s %llu did not come:", tf_kind_name(tf->kind),
			(unsigned long long)tf->n);
	else
		fprintf(stderr, "%s %llu failed in %s (where 0x%x, op 0x%llx):",
			tf_kind_name(tf->kind), (unsigned long long)tf->n,
			tf->at.call ? tf->at.call : "a call or a thread", tf->at.where, (unsigned long long)tf->at.op);
	for (unsigned i = 0; i < tf->events_nr; i++)
		fprintf(stderr, " %s[%d] = %d", tf->event[i].call, tf->event[i].observer,
			tf->event[i].error);
	fprintf(stderr, "%s\n", tf->events_nr ? "" : " no call failed");
}

/* ---- each in turn ---- */

static uint64_t tf_every(const struct tf_script *script, unsigned kind)
{
	const char *full = getenv("IOMAP_FULL");

	/* there is nothing to race with */
	if (T_TSAN && !script->threads)
		return 29;
	return (full && !strcmp(full, "1")) || !script->every[kind] ? 1 : script->every[kind];
}

void tf_each(const struct tf_script *script)
{
	uint64_t nr[TF_KINDS_NR], operations = 0, failed = 0, silent = 0, left_out = 0;
	struct tf tf;

	tf_begin(&tf, 0, 0);
	tf.in_order = !script->threads;
	script->run(script->arg, &tf);
	if (tf.events_nr)
		tf_print(&tf);
	cr_assert_eq(tf.events_nr, 0, "%s: a call failed, and nothing was made to", script->name);
	fprintf(stderr, "%s:", script->name);
	for (unsigned kind = 0; kind < TF_KINDS_NR; kind++) {
		nr[kind] = tf.nr[kind];
		operations += nr[kind];
		fprintf(stderr, " %s %llu", tf_kind_name(kind), (unsigned long long)nr[kind]);
	}
	cr_assert(!script->max_io || nr[IOMAP_FAIL_IO] <= script->max_io);

	for (unsigned kind = 0; kind < TF_KINDS_NR; kind++)
		for (uint64_t n = 1; n <= nr[kind]; n++) {
			if (n % tf_every(script, kind)) {
				left_out++;
				continue;
			}
			tf_begin(&tf, kind, n);
			tf.in_order = !script->threads;
			script->run(script->arg, &tf);
			if (!script->threads && !tf.fired)
				tf_print(&tf);
			cr_assert(script->threads || tf.fired, "%s: a run is not like the first",
				  script->name);
			failed += tf.fired;
			silent += tf.fired && !tf.events_nr;
			script->check(script->arg, &tf);
		}
	fprintf(stderr, "\n%s: operations %llu, failed %llu, left out %llu; noticed by no call %llu\n",
		script->name, (unsigned long long)operations, (unsigned long long)failed,
		(unsigned long long)left_out, (unsigned long long)silent);
	cr_assert(script->threads || failed + left_out == operations);
	cr_assert(failed);
}
