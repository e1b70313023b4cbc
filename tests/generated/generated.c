/* SPDX-License-Identifier: MIT */
/*
 * generated.c - RO05: the example store without a device, in process.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "generated.h"
#include "testutil.h"

#define KIB 1024
#define LINES 100000
#define BYTES ((int64_t)LINES * GENERATED_LINE)
#define THREADS 4

struct rig {
	struct t_log log;
	struct iomap_engine *engine;
	struct generated *gen;
};

static void rig_open(struct rig *rig, uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 8;
	rig->engine = t_engine(&opts, &rig->log);
	cr_assert_eq(generated_open(rig->engine, LINES, &rig->gen), 0);
}

static void rig_close(struct rig *rig)
{
	cr_assert_eq(generated_close(rig->gen), 0);
	cr_assert_eq(iomap_engine_destroy(rig->engine), 0);
	cr_assert_eq(t_log_count(&rig->log, IOMAP_LOG_WARN, NULL), 0U);
}

/* What is there at @pos is what should be, up to the end of the file. */
static void read_right(struct generated *gen, int64_t pos, size_t len)
{
	static _Thread_local char got[256 * KIB], want[256 * KIB];
	ssize_t n = iomap_read(gen->file, got, len, pos);

	if ((int64_t)len > BYTES - pos)
		len = (size_t)(BYTES - pos);
	t_must(n == (ssize_t)len);
	generated_fill(want, len, pos);
	t_must(memcmp(got, want, len) == 0);
}

Test(generated, ro05_all_of_it_is_read_without_a_device)
{
	struct rig rig;
	struct iomap_engine_stats stats;

	rig_open(&rig, 8 << 20);
	for (int64_t pos = 0; pos < BYTES; pos += 10000)
		read_right(rig.gen, pos, 10000);
	stats = t_stats(rig.engine);
	cr_assert_eq(stats.bios_nr, 0U);
	cr_assert_eq(stats.read_bytes, 0U);
	cr_assert_gt(stats.readahead_used_bytes, (uint64_t)BYTES / 2);
	/* by windows, and each byte once */
	cr_assert_leq(rig.gen->batches_nr, (uint64_t)BYTES / (32 * KIB));
	cr_assert_eq(stats.evictions_nr, 0U);
	cr_assert_eq(stats.cached_bytes, (uint64_t)(BYTES + 4095) / 4096 * 4096);
	for (int64_t pos = 0; pos < BYTES; pos += 10000)
		read_right(rig.gen, pos, 10000);
	cr_assert_eq(t_stats(rig.engine).misses_nr, stats.misses_nr);
	rig_close(&rig);
}

Test(generated, ro05_nothing_is_written_and_the_end_is_the_end)
{
	struct rig rig;
	char byte = 0;

	rig_open(&rig, 8 << 20);
	read_right(rig.gen, BYTES - 5, 100);
	cr_assert_eq(iomap_read(rig.gen->file, &byte, 1, BYTES), 0);
	cr_assert_eq(iomap_write(rig.gen->file, &byte, 1, 0), -EINVAL);
	cr_assert_eq(generated_open(rig.engine, 0, &(struct generated *){ NULL }), -EINVAL);
	rig_close(&rig);
}

struct reader {
	struct rig *rig;
	struct t_task task;
	uint64_t seed;
};

static long read_anywhere(void *arg)
{
	struct reader *reader = arg;
	struct t_rand rand = { reader->seed };

	for (unsigned i = 0; i < (T_SANITIZED ? 300 : 2000); i++)
		read_right(reader->rig->gen, (int64_t)t_below(&rand, BYTES),
			   1 + t_below(&rand, i % 20 ? 9000 : 200 * KIB));
	return 0;
}

/* In a cache that does not hold it, so that folios come and go meanwhile. */
Test(generated, ro05_threads_read_anywhere_beside_eviction)
{
	struct reader reader[THREADS];
	struct rig rig;

	rig_open(&rig, 1 << 20);
	for (unsigned i = 0; i < THREADS; i++) {
		reader[i] = (struct reader){ .rig = &rig, .seed = i + 1 };
		t_start(&reader[i].task, read_anywhere, &reader[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert_eq(t_join(&reader[i].task), 0);
	cr_assert_gt(t_stats(rig.engine).evictions_nr, 0U);
	cr_assert_eq(t_stats(rig.engine).bios_nr, 0U);
	rig_close(&rig);
}

/* What is still being computed when its file is closed ends by itself. */
Test(generated, ro05_closing_waits_for_what_is_computed_ahead)
{
	for (unsigned i = 0; i < 50; i++) {
		struct rig rig;

		rig_open(&rig, 4 << 20);
		cr_assert_eq(iomap_fadvise(rig.gen->file, 0, BYTES, IOMAP_ADV_WILLNEED), 0);
		rig_close(&rig);
	}
}
