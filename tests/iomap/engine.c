/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * engine.c - EN: the engine: its bounds, its memory, its threads.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

static struct iomap_engine_opts small(void)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 * MIB;
	return opts;
}

/* ---- the bound ---- */

#define LOAD_FILE (8 * MIB)

struct load {
	struct ts *ts;
	uint64_t seed;
	_Atomic uint64_t *over; /* times that more than the bound was seen */
};

static long load_thread(void *arg)
{
	struct load *load = arg;
	struct t_rand r = { load->seed };
	char *buf = malloc(96 * KIB);

	t_must(buf != NULL);
	memset(buf, 0x77, 96 * KIB);
	for (int i = 0; i < (T_SANITIZED ? 400 : 1500); i++) {
		size_t len = 1 + t_below(&r, 96 * KIB);
		int64_t pos = (int64_t)t_below(&r, LOAD_FILE - len);
		struct iomap_engine_stats stats;

		if (t_below(&r, 3)) {
			t_must(iomap_read(load->ts->file, buf, len, pos) == (ssize_t)len);
		} else {
			memset(buf, 0x77, len);
			t_must(iomap_write(load->ts->file, buf, len, pos) == (ssize_t)len);
		}
		stats = t_stats(load->ts->engine);
		if (stats.cached_bytes > stats.cache_bytes ||
		    stats.peak_cached_bytes > stats.cache_bytes)
			atomic_fetch_add(load->over, 1);
	}
	free(buf);
	return 0;
}

Test(engine, en01_folio_memory_never_exceeds_the_cache_size, .timeout = 300)
{
	struct iomap_engine_opts opts = small();
	struct load load[4];
	struct t_task task[4];
	_Atomic uint64_t over = 0;
	struct iomap_engine_stats stats;
	uint64_t seed = t_seed();
	struct ts *ts;

	ts = ts_open(&(struct ts_config){ .i_size = LOAD_FILE, .opts = &opts });
	ts_map(ts, 0, LOAD_FILE, IOMAP_MAPPED, 0, 0);
	memset(ts->dev->mem, 0x77, LOAD_FILE);
	for (unsigned i = 0; i < 4; i++) {
		load[i] = (struct load){ ts, seed + i, &over };
		t_start(&task[i], load_thread, &load[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		t_join(&task[i]);
	stats = t_stats(ts->engine);
	cr_assert_eq(stats.cache_bytes, (uint64_t)MIB);
	cr_assert_eq(over, 0U, "over the bound %" PRIu64 " times", (uint64_t)over);
	cr_assert_leq(stats.peak_cached_bytes, (uint64_t)MIB);
	cr_assert_geq(stats.peak_cached_bytes, (uint64_t)MIB / 2, "the cache was used");
	cr_assert_gt(stats.evictions_nr, 1000U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(t_all(ts->dev->mem, LOAD_FILE, 0x77));
	ts_close(ts);
}

/* ---- options ---- */

static int try_create(struct iomap_engine_opts *opts, struct t_log *log)
{
	struct iomap_engine *engine = NULL;
	int rc;

	t_log_init(log);
	opts->log = t_log_line;
	opts->log_ctx = log;
	rc = iomap_engine_create(opts, &engine);
	if (!rc)
		cr_assert_eq(iomap_engine_destroy(engine), 0);
	return rc;
}

Test(engine, en01_options_that_contradict_each_other_are_refused_with_a_line)
{
	struct t_log log;
	struct iomap_engine_opts opts;

	opts = small();
	opts.cache_bytes = 100 * KIB; /* less than eight base folios for each of 16 callers */
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
	cr_assert_geq(log.nr, 1U);

	opts = small();
	opts.max_callers = 1000;
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
	cr_assert_geq(log.nr, 1U);

	opts = small();
	opts.max_folio_bytes = 128 * KIB; /* more than a sixteenth */
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
	cr_assert_geq(log.nr, 1U);

	opts = small();
	opts.max_folio_bytes = 12 * KIB; /* no power of two */
	cr_assert_eq(try_create(&opts, &log), -EINVAL);

	opts = small();
	opts.dirty_hard_pct = 81;
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
	cr_assert_geq(log.nr, 1U);

	opts = small();
	opts.dirty_hard_pct = 20;
	opts.dirty_background_pct = 30;
	cr_assert_eq(try_create(&opts, &log), -EINVAL);

	opts = small();
	opts.flags = 0x80000000;
	cr_assert_eq(try_create(&opts, &log), -EINVAL);

	opts = small();
	opts.backend = "punched cards";
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
	cr_assert_geq(t_log_count(&log, IOMAP_LOG_WARN, "punched cards"), 1U);

	opts = small();
	opts.size = 3;
	cr_assert_eq(try_create(&opts, &log), -EINVAL);
}

Test(engine, en01_all_defaults_work)
{
	struct iomap_engine *engine = NULL;
	struct iomap_engine_stats stats;

	if (getenv("IOMAP_BACKEND")) {
		struct iomap_engine_opts opts = small();

		engine = t_engine(&opts, NULL); /* skips when there is no such backend */
		cr_assert_eq(iomap_engine_destroy(engine), 0);
	}
	cr_assert_eq(iomap_engine_create(NULL, &engine), 0);
	stats = t_stats(engine);
	cr_assert_eq(stats.cache_bytes, 256U * MIB);
	cr_assert_eq(stats.cached_bytes, 0U);
	cr_assert(!strcmp(iomap_engine_backend(engine), "io_uring") ||
		  !strcmp(iomap_engine_backend(engine), "libaio") ||
		  !strcmp(iomap_engine_backend(engine), "threads"));
	if (getenv("IOMAP_BACKEND"))
		cr_assert_str_eq(iomap_engine_backend(engine), getenv("IOMAP_BACKEND"));
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	cr_assert_eq(iomap_engine_destroy(NULL), 0);
}

Test(engine, en01_stats_of_an_older_program_are_filled_as_far_as_they_go)
{
	struct iomap_engine_opts opts = small();
	struct iomap_engine *engine = t_engine(&opts, NULL);
	struct iomap_engine_stats stats;

	memset(&stats, 0x5a, sizeof(stats));
	cr_assert_eq(iomap_engine_stats(engine, &stats,
					offsetof(struct iomap_engine_stats, peak_cached_bytes)),
		     0);
	cr_assert_eq(stats.cache_bytes, (uint64_t)MIB);
	cr_assert_eq(stats.cached_bytes, 0U);
	cr_assert(t_all(&stats.peak_cached_bytes, sizeof(stats.peak_cached_bytes), 0x5a));
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(engine, en01_destroy_refuses_while_something_of_it_exists)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });

	cr_assert_eq(iomap_engine_destroy(ts->engine), -EBUSY);
	cr_assert_eq(iomap_bdev_close(ts->dev->bdev), -EBUSY);
	cr_assert(ts_reads_all(ts, 0, 4 * KIB, 0), "nothing was changed");
	ts_close(ts);
}

/* ---- hooks ---- */

struct hook_count {
	_Atomic uint64_t allocs, frees, bytes;
};

static void *count_alloc(void *ctx, size_t align, size_t size)
{
	struct hook_count *c = ctx;
	void *p = NULL;

	t_must(align && !(align & (align - 1)));
	if (posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size))
		return NULL;
	memset(p, 0xa5, size); /* it need not be zeroed */
	atomic_fetch_add(&c->allocs, 1);
	atomic_fetch_add(&c->bytes, size);
	return p;
}

static void count_free(void *ctx, void *p, size_t size)
{
	struct hook_count *c = ctx;

	if (!p)
		return;
	memset(p, 0x5a, size);
	atomic_fetch_add(&c->frees, 1);
	atomic_fetch_sub(&c->bytes, size);
	free(p);
}

Test(engine, en01_memory_comes_from_the_hooks_and_all_goes_back)
{
	struct iomap_engine_opts opts = small();
	struct hook_count count = { 0 };
	struct ts *ts;

	opts.alloc = (struct iomap_alloc_hooks){ count_alloc, count_free, &count };
	ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .blkbits = 9, .opts = &opts });
	cr_assert_gt(count.allocs, 0U);
	ts_write(ts, 100, 300 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 100, 300 * KIB, 1));
	ts_close(ts);
	cr_assert_eq(count.allocs, count.frees);
	cr_assert_eq(count.bytes, 0U);
}

/* ---- log ---- */

static uint64_t frozen(void *ctx)
{
	return *(uint64_t *)ctx;
}

static int broken(struct ts *ts, int64_t pos, int64_t length, unsigned flags, struct iomap *iomap,
		  struct iomap *srcmap)
{
	(void)ts;
	(void)pos;
	(void)length;
	(void)flags;
	(void)srcmap;
	iomap->length = 0;
	return 0;
}

Test(engine, en01_log_lines_are_limited_by_the_engines_clock)
{
	struct iomap_engine_opts opts = small();
	uint64_t now = 1000000000000ULL;
	char buf[10] = "x";
	struct ts *ts;

	opts.log_per_second = 5;
	opts.now_ns = frozen;
	opts.now_ctx = &now;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .alloc = TS_NEW, .opts = &opts });
	ts->hook.begin = broken;
	/* an engine that had to do without something has told already */
	now += 1000000000ULL;
	for (unsigned i = 0; i < 50; i++)
		cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), -EIO);
	cr_assert_eq(ts->log.nr, 5U, "%u lines", ts->log.nr);
	now += 1000000000ULL;
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), -EIO);
	cr_assert_geq(ts->log.nr, 6U);
	cr_assert_leq(ts->log.nr, 7U);
	cr_assert_geq(t_log_count(&ts->log, IOMAP_LOG_DEBUG, "45"), 1U,
		      "what was left out is counted: %s", ts->log.line[5].text);
	ts_close(ts);
}

/* ---- several engines ---- */

Test(engine, en01_several_engines_live_side_by_side)
{
	struct ts *ts[3];

	for (unsigned i = 0; i < 3; i++) {
		struct iomap_engine_opts opts = small();

		opts.cache_bytes = (i + 1) * MIB;
		ts[i] = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	}
	for (unsigned i = 0; i < 3; i++)
		ts_write(ts[i], 0, 200 * KIB, i + 1);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(t_stats(ts[i]->engine).cache_bytes, (i + 1) * (uint64_t)MIB);
		cr_assert_eq(ts_fsync(ts[i]), 0);
		cr_assert_eq(td_bytes(ts[i]->dev, TD_WRITE), 200U * KIB);
		cr_assert(ts_reads(ts[i], 0, 200 * KIB, i + 1));
	}
	ts_close(ts[1]);
	cr_assert(ts_reads(ts[0], 0, 200 * KIB, 1));
	cr_assert(ts_reads(ts[2], 0, 200 * KIB, 3));
	ts_close(ts[0]);
	ts_close(ts[2]);
}

/* ---- threads and signals ---- */

/* Calls fn for each thread of the process; returns how many there are. */
static unsigned each_thread(void (*fn)(int tid, const char *name, uint64_t blocked, void *arg),
			    void *arg)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned nr = 0;

	cr_assert(dir != NULL);
	while ((entry = readdir(dir))) {
		char path[300], line[256], name[64] = "";
		uint64_t blocked = 0;
		FILE *file;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue; /* it has just ended */
		while (fgets(line, sizeof(line), file)) {
			sscanf(line, "Name: %63s", name);
			sscanf(line, "SigBlk: %" SCNx64, &blocked);
		}
		fclose(file);
		nr++;
		if (fn)
			fn(atoi(entry->d_name), name, blocked, arg);
	}
	closedir(dir);
	return nr;
}

struct known {
	int tid[64];
	unsigned nr;
	unsigned strangers;
};

static void remember(int tid, const char *name, uint64_t blocked, void *arg)
{
	struct known *known = arg;

	(void)name;
	(void)blocked;
	cr_assert_lt(known->nr, 64U);
	known->tid[known->nr++] = tid;
}

static void check_blocked(int tid, const char *name, uint64_t blocked, void *arg)
{
	struct known *known = arg;

	for (unsigned i = 0; i < known->nr; i++)
		if (known->tid[i] == tid)
			return;
	if (!strncmp(name, "iou-", 4))
		return; /* the kernel's, and none of ours */
	known->strangers++;
	for (int sig = 1; sig < 32; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		cr_assert(blocked & ((uint64_t)1 << (sig - 1)), "thread %d (%s) takes signal %d",
			  tid, name, sig);
	}
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		cr_assert(blocked & ((uint64_t)1 << (sig - 1)), "thread %d (%s) takes signal %d",
			  tid, name, sig);
	cr_assert(name[0] != '\0');
}

Test(engine, en01_threads_of_the_library_block_all_signals)
{
	struct iomap_engine_opts opts = small();
	struct known known = { .nr = 0 };
	struct iomap_bdev *bdev = NULL;
	struct sigaction before[32], after;
	char *path = t_temp(MIB);
	struct ts *ts;

	for (int sig = 1; sig < 32; sig++)
		sigaction(sig, NULL, &before[sig]);
	each_thread(remember, &known);
	ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	cr_assert_eq(iomap_bdev_open(ts->engine, path, NULL, &bdev), 0);
	ts_write(ts, 0, 64 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	each_thread(check_blocked, &known);
	cr_assert_geq(known.strangers, 1U, "the flusher at least");
	for (int sig = 1; sig < 32; sig++) {
		sigaction(sig, NULL, &after);
		cr_assert_eq(after.sa_handler, before[sig].sa_handler, "signal %d", sig);
	}
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	ts_close(ts);
	known.strangers = 0;
	each_thread(check_blocked, &known);
	cr_assert_eq(known.strangers, 0U, "all have ended");
	t_temp_free(path);
}

static void count_strangers(int tid, const char *name, uint64_t blocked, void *arg)
{
	struct known *known = arg;

	(void)blocked;
	for (unsigned i = 0; i < known->nr; i++)
		if (known->tid[i] == tid)
			return;
	if (strncmp(name, "iou-", 4))
		known->strangers++;
}

Test(engine, en01_without_threads_there_are_none)
{
	struct iomap_engine_opts opts = small();
	struct known known = { .nr = 0 };
	struct ts *ts;

	each_thread(remember, &known);
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .opts = &opts });
	ts_write(ts, 0, 900 * KIB, 1); /* more than the hard limit: the writer writes it out */
	each_thread(count_strangers, &known);
	if (strcmp(iomap_engine_backend(ts->engine), "threads") != 0)
		cr_assert_eq(known.strangers, 0U);
	cr_assert(ts_reads(ts, 0, 900 * KIB, 1));
	ts_close(ts);
}

/* ---- no global constructors ---- */

static int look_at_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	size_t *init_bytes = arg;

	(void)size;
	if (!strstr(info->dlpi_name, "libiomap"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Dyn) * d;

		if (info->dlpi_phdr[i].p_type != PT_DYNAMIC)
			continue;
		for (d = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
		     d->d_tag != DT_NULL; d++)
			if (d->d_tag == DT_INIT_ARRAYSZ)
				*init_bytes = d->d_un.d_val;
	}
	return 1;
}

Test(engine, en01_there_are_no_global_constructors)
{
	size_t init_bytes = 0;

	if (T_SANITIZED)
		cr_skip_test("sanitizers bring constructors of their own");
	cr_assert_eq(dl_iterate_phdr(look_at_object, &init_bytes), 1, "libiomap is not loaded");
	/* the compiler's own start-up code has one entry */
	cr_assert_leq(init_bytes, sizeof(void *));
}
