/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * hits_beside.c - CA: hits beside all that takes folios and index nodes away under them.
 *
 * Two files lie over more of the device than the cache holds, and each byte tells its file and
 * its place.  Threads read at random while others drop ranges of both, so that folios, and
 * nodes of the index, go from file to file and from place to place all the time.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES ((size_t)4096 * KIB)
#define READERS 3
#define READS (T_SANITIZED ? 10000U : 40000U)

struct shared {
	struct ts *ts[2];
	atomic_bool over;
};

struct reader {
	struct t_task task;
	struct shared *shared;
	struct t_rand rand;
};

static void open_both(struct shared *s)
{
	static const unsigned seeds[2] = { 1, 2 };
	struct ts_config cfg = { .i_size = FILE_BYTES, .cache_bytes = 2048 * KIB,
				 .dev_bytes = 2 * FILE_BYTES, .threads = true };

	for (unsigned i = 0; i < 2; i++) {
		s->ts[i] = ts_open(&cfg);
		cfg.engine = s->ts[0]->engine;
		cfg.dev = s->ts[0]->dev;
		ts_map(s->ts[i], 0, FILE_BYTES, IOMAP_MAPPED, 0, i * FILE_BYTES);
		ts_dev_fill(s->ts[i], i * FILE_BYTES, FILE_BYTES, 0, seeds[i]);
	}
	atomic_init(&s->over, false);
}

static void close_both(struct shared *s)
{
	ts_close(s->ts[1]);
	ts_close(s->ts[0]);
}

static long read_at_random(void *arg)
{
	static const size_t lens[] = { 1, 64, 500, 4 * KIB, 9000, 20 * KIB };
	struct reader *r = arg;
	char *buf = malloc(20 * KIB);

	for (unsigned i = 0; i < READS; i++) {
		unsigned file = (unsigned)t_below(&r->rand, 2);
		size_t len = lens[t_below(&r->rand, 6)];
		/* mostly in a part that stays cached for a while */
		size_t where = t_below(&r->rand, 8) ? 512 * KIB : FILE_BYTES;
		int64_t pos = (int64_t)t_below(&r->rand, where - len);

		t_must(iomap_read(r->shared->ts[file]->file, buf, len, pos) == (ssize_t)len);
		t_must(t_mismatch(buf, len, pos, file + 1) == -1);
	}
	free(buf);
	return 0;
}

static long drop_at_random(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(&r->shared->over)) {
		unsigned file = (unsigned)t_below(&r->rand, 2);
		/* a node of the index covers 256 KiB */
		int64_t pos = (int64_t)(t_below(&r->rand, 4) ? t_below(&r->rand, 2) :
							       t_below(&r->rand, 16));

		iomap_invalidate_inode_pages(&r->shared->ts[file]->inode, pos * 256 * KIB,
					     (pos + 1) * 256 * KIB);
	}
	return 0;
}

Test(hits_beside, ca01_hits_beside_eviction_and_reuse_of_folios_and_nodes, .timeout = 300)
{
	struct shared s;
	struct reader r[READERS + 1];
	uint64_t seed = t_seed();
	struct iomap_engine_stats stats;

	open_both(&s);
	for (unsigned i = 0; i <= READERS; i++) {
		r[i].shared = &s;
		r[i].rand.state = seed + i;
		t_start(&r[i].task, i < READERS ? read_at_random : drop_at_random, &r[i]);
	}
	for (unsigned i = 0; i < READERS; i++)
		t_join(&r[i].task);
	atomic_store(&s.over, true);
	t_join(&r[READERS].task);
	stats = t_stats(s.ts[0]->engine);
	cr_assert_gt(stats.hits_nr, READS / 4);
	cr_assert_gt(stats.evictions_nr, 1000U);
	close_both(&s);
}
