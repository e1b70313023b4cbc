/* SPDX-License-Identifier: MIT */
/*
 * run.c - runs, campaigns, and a failing run made small.
 *
 * With one thread, no thread of the library and a device that completes at once a run is the
 * same each time.  Then each of its operations can be left out in turn, in ever smaller
 * groups, as long as the run still fails: in a child, since a failure ends the process.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fm.h"

static void draw_setup(struct fm *fm, unsigned threads)
{
	static const uint64_t caches[] = { 288 << 10, 384 << 10, 512 << 10 };
	struct t_rand r = { fm->seed * 0x9e3779b97f4a7c15ULL + fm->run };
	struct fm_setup *s = &fm->setup;

	s->threads = threads;
	s->order = (unsigned)t_below(&r, 6);
	/* a block needs a folio */
	s->blkbits = 9 + (uint32_t)t_below(&r, 4 + s->order);
	s->blkbits = s->blkbits < 16 ? s->blkbits : 16;
	/* where somebody reads beside the write new space is unwritten: see struct iomap_ops */
	s->alloc = threads == 1 ? (enum fm_alloc)t_below(&r, FM_ALLOCS)
				: FM_UNWRITTEN + (enum fm_alloc)t_below(&r, 2);
	s->flusher = t_below(&r, threads == 1 ? 4 : 2) == 0;
	s->async = t_below(&r, threads == 1 ? 4 : 2) == 0;
	s->own_setsize = t_below(&r, 2) == 0;
	s->hooks = t_below(&r, 2) == 0;
	s->map_max = (uint32_t)(t_below(&r, 2) ? 0 : 1 + t_below(&r, 8));
	/* a cache holds sixteen of the largest folios, and the files are larger than it */
	s->cache_bytes = caches[t_below(&r, 3)];
	if (s->cache_bytes < (uint64_t)IOMAP_PAGE_SIZE << s->order << 4)
		s->cache_bytes = (uint64_t)IOMAP_PAGE_SIZE << s->order << 4;
	/* and eight pages for each caller (fm_store_open()) */
	if (s->cache_bytes < (2ULL * threads + 1) * 8 * IOMAP_PAGE_SIZE)
		s->cache_bytes = (2ULL * threads + 1) * 8 * IOMAP_PAGE_SIZE;
	/* and two blocks for each caller, of which one may be pinned besides */
	if (s->cache_bytes < (6ULL * threads + 2) << s->blkbits)
		s->cache_bytes = (6ULL * threads + 2) << s->blkbits;
	/* more than 64 pages make the index higher */
	s->bytes_max = s->cache_bytes > 512 << 10 || !t_below(&r, 3) ? FM_BYTES_MAX
								     : FM_BYTES_MAX / 4;
	s->faults = t_below(&r, 3) == 0;
	s->resize = t_below(&r, 3) == 0;
	s->crowd = threads > 1 && t_below(&r, 3) == 0;
	s->ops = (T_SANITIZED ? 1000 : 4000) * (s->crowd ? 3 : 1) / threads;
}

static long worker_main(void *arg)
{
	struct fm_worker *w = arg;

	for (uint64_t i = 0; i < w->fm->setup.ops; i++) {
		if (!w->fm->skip || !w->fm->skip[i])
			fm_do(w, i);
		/* with fewer processors than threads one would go on alone for a long time */
		if (i % 64 == 0)
			sched_yield();
	}
	fm_worker_done(w);
	return 0;
}

static void run(struct fm *fm, struct fm_count *count)
{
	struct fm_worker worker[FM_THREADS_MAX];
	struct t_task task[FM_THREADS_MAX];
	struct iomap_engine_stats stats;

	fm_store_open(fm);
	for (unsigned i = 0; i < fm->setup.threads; i++)
		fm_worker_init(&worker[i], fm, i);
	for (unsigned i = 1; i < fm->setup.threads; i++)
		t_start(&task[i], worker_main, &worker[i]);
	worker_main(&worker[0]);
	for (unsigned i = 1; i < fm->setup.threads; i++)
		t_join(&task[i]);
	fm_check_all(&worker[0]);
	stats = t_stats(fm->engine);
	t_must(stats.peak_cached_bytes <= fm->setup.cache_bytes);
	for (unsigned i = 0; i < fm->setup.threads; i++)
		fm_worker_exit(&worker[i]);
	fm_store_close(fm);

	count->ops += fm->setup.ops * fm->setup.threads;
	count->meets += fm->meets;
	count->shared += fm->shared;
	count->bytes += fm->bytes;
	count->synced_bytes += fm->synced_bytes;
	count->unchecked += fm->unchecked;
	count->evictions += stats.evictions_nr;
	for (int kind = 0; kind < FM_KINDS; kind++)
		count->kinds[kind] += fm->kinds[kind];
}

static struct fm *fm_new(uint64_t seed, uint64_t nr, unsigned threads)
{
	struct fm *fm = calloc(1, sizeof(*fm));

	t_must(fm != NULL);
	fm->seed = seed;
	fm->run = nr;
	draw_setup(fm, threads);
	return fm;
}

void fm_campaign(uint64_t seed, uint64_t first, uint64_t ops, unsigned threads,
		 struct fm_count *count)
{
	memset(count, 0, sizeof(*count));
	do {
		struct fm *fm = fm_new(seed, first++, threads);

		run(fm, count);
		free(fm);
	} while (count->ops < ops);
	fprintf(stderr,
		"file model: seed %" PRIu64 ", %u threads: %" PRIu64 " operations, %" PRIu64
		" in a folio that was another thread's before, %" PRIu64
		" beside another thread in one, %" PRIu64 " bytes read, %" PRIu64
		" bytes on the device after a sync, %" PRIu64 " reads not checked, %" PRIu64
		" evictions\n ",
		seed, threads, count->ops, count->shared, count->meets, count->bytes, count->synced_bytes,
		count->unchecked, count->evictions);
	for (int kind = 0; kind < FM_KINDS; kind++)
		fprintf(stderr, " %s: %" PRIu64, fm_kind_name((enum fm_kind)kind),
			count->kinds[kind]);
	fputc('\n', stderr);
}

/* ---- small ---- */

/* True if the run fails without what is left out. */
static bool fails_without(uint64_t seed, uint64_t nr, const unsigned char *skip, bool quiet)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	t_must(child >= 0);
	if (!child) {
		struct fm *fm = fm_new(seed, nr, 1);
		struct fm_count count = { .ops = 0 };
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		if (quiet && null >= 0)
			dup2(null, 2);
		fm->skip = skip;
		fm->trace = !quiet;
		/* nothing that may come out differently */
		fm->setup.flusher = fm->setup.async = false;
		alarm(60);
		run(fm, &count);
		_exit(0);
	}
	t_must(waitpid(child, &status, 0) == child);
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

int fm_shrink(uint64_t seed, uint64_t nr)
{
	struct fm *fm = fm_new(seed, nr, 1);
	size_t ops = (size_t)fm->setup.ops, left = 0;
	unsigned char *skip = calloc(ops, 1), *was = malloc(ops);

	t_must(skip && was);
	if (!fails_without(seed, nr, skip, true)) {
		fprintf(stderr, "run %" PRIu64 " does not fail with one thread and nothing late\n",
			nr);
		return 1;
	}
	for (size_t group = ops / 2; group; group /= 2)
		for (size_t at = 0; at < ops; at += group) {
			size_t n = group < ops - at ? group : ops - at;

			memcpy(was, skip, ops);
			memset(skip + at, 1, n);
			if (memcmp(was, skip, ops) && !fails_without(seed, nr, skip, true))
				memcpy(skip, was, ops);
		}
	fprintf(stderr, "needed:");
	for (size_t i = 0; i < ops; i++)
		if (!skip[i] && ++left)
			fprintf(stderr, " %zu", i);
	fprintf(stderr, "\n%zu operations of %zu; with these:\n", left, ops);
	(void)fails_without(seed, nr, skip, false);
	free(skip);
	free(was);
	free(fm);
	return 0;
}
