/* SPDX-License-Identifier: MIT */
/*
 * batch.c - CA04: many ranges by one call.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES ((size_t)1024 * KIB)
#define NR 100U

static struct ts *store(void)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES - 1000 });

	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	return ts;
}

static void fill_ranges(struct ts *ts, struct iomap_read_range *range, unsigned nr, char *memory,
			size_t len, struct t_rand *rand)
{
	for (unsigned i = 0; i < nr; i++)
		range[i] = (struct iomap_read_range){
			.file = ts->file, .buf = memory + i * len, .len = len,
			.pos = (int64_t)t_below(rand, FILE_BYTES - 1000 - len), .ret = -1,
		};
}

Test(batch, ca04_a_batch_reads_what_single_reads_do)
{
	static const size_t lens[] = { 1, 64, 4 * KIB, 20 * KIB };
	struct iomap_read_range range[NR];
	struct ts *ts = store();
	char *memory = malloc(NR * 20 * KIB);
	struct t_rand rand = { .state = t_seed() };

	for (unsigned cached = 0; cached < 2; cached++)
		for (unsigned l = 0; l < 4; l++) {
			/* also fewer than a group */
			unsigned nr = l == 1 ? 3 : NR;

			if (cached)
				cr_assert(ts_reads(ts, 0, FILE_BYTES - 1000, 1));
			else
				ts_drop(ts);
			fill_ranges(ts, range, nr, memory, lens[l], &rand);
			cr_assert_eq(iomap_read_batch(range, nr, 0), 0);
			for (unsigned i = 0; i < nr; i++) {
				cr_assert_eq(range[i].ret, (ssize_t)lens[l]);
				cr_assert_eq(t_mismatch(range[i].buf, lens[l], range[i].pos, 1),
					     -1);
			}
		}
	free(memory);
	ts_close(ts);
}

Test(batch, ca04_each_range_has_its_own_answer)
{
	struct ts *ts = store();
	char buf[6][64];
	struct iomap_read_range range[6];

	for (unsigned i = 0; i < 6; i++)
		range[i] = (struct iomap_read_range){ .file = ts->file, .buf = buf[i], .len = 64 };
	range[1].pos = FILE_BYTES - 1010; /* cut at the end */
	range[2].pos = FILE_BYTES - 1000;
	range[3].pos = -5;
	range[4].len = 0;
	range[5].pos = 500 * KIB;
	cr_assert_eq(iomap_read_batch(range, 6, 1), -EINVAL, "unknown flags");
	for (unsigned round = 0; round < 2; round++) {
		cr_assert_eq(iomap_read_batch(range, 6, 0), -EINVAL);
		cr_assert_eq(range[0].ret, 64);
		cr_assert_eq(range[1].ret, 10);
		cr_assert_eq(t_mismatch(buf[1], 10, FILE_BYTES - 1010, 1), -1);
		cr_assert_eq(range[2].ret, 0);
		cr_assert_eq(range[3].ret, -EINVAL);
		cr_assert_eq(range[4].ret, 0);
		cr_assert_eq(range[5].ret, 64);
		cr_assert_eq(t_mismatch(buf[5], 64, 500 * KIB, 1), -1);
	}
	cr_assert_eq(iomap_read_batch(NULL, 0, 0), 0);
	ts_close(ts);
}

Test(batch, ca04_a_cached_batch_takes_no_lock_and_makes_no_system_call)
{
	struct iomap_debug_counters before, after;
	struct iomap_engine_stats stats;
	struct iomap_read_range range[NR];
	struct ts *ts = store();
	char *memory = malloc(NR * 64);
	struct t_rand rand = { .state = t_seed() };

	if (!t_debug())
		cr_skip_test("counted in debug builds only");
	cr_assert(ts_reads(ts, 0, FILE_BYTES - 1000, 1));
	fill_ranges(ts, range, NR, memory, 64, &rand);
	for (unsigned i = 0; i < NR; i++)
		range[i].pos &= ~63;
	stats = t_stats(ts->engine);
	before = t_counters();
	cr_assert_eq(iomap_read_batch(range, NR, 0), 0);
	after = t_counters();
	cr_assert_eq(after.locks_nr - before.locks_nr, 0U);
	cr_assert_eq(after.allocs_nr - before.allocs_nr, 0U);
	cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 0U);
	cr_assert_eq(t_stats(ts->engine).hits_nr - stats.hits_nr, NR);
	free(memory);
	ts_close(ts);
}

/* The reads of ranges that are not cached have all been started before the first has ended. */
struct started {
	struct iomap_folio *folio[32];
	size_t len[32], off[32];
	unsigned nr, want;
};

static int hold_read(struct ts *ts, const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
		     size_t len)
{
	struct started *s = ts->hook.arg;

	s->folio[s->nr] = ctx->cur_folio;
	s->off[s->nr] = (size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio));
	s->len[s->nr++] = len;
	if (s->nr == s->want) /* now all of them end */
		for (unsigned i = 0; i < s->nr; i++) {
			iomap_folio_zero(s->folio[i], s->off[i], s->len[i]);
			iomap_finish_folio_read(s->folio[i], s->off[i], s->len[i], 0);
		}
	return 0;
}

Test(batch, ca04_missing_ranges_are_read_together, .timeout = 60)
{
	struct started s = { .want = 20 };
	struct iomap_read_range range[20];
	struct ts *ts = store();
	char buf[20][64];

	ts->hook.read = hold_read;
	ts->hook.arg = &s;
	/* scattered, each a read of its own; one after the other they would wait for ever */
	for (unsigned i = 0; i < 20; i++)
		range[i] = (struct iomap_read_range){ .file = ts->file, .buf = buf[i], .len = 64,
						      .pos = (int64_t)(i + 1) * 40 * KIB };
	cr_assert_eq(iomap_read_batch(range, 20, 0), 0);
	for (unsigned i = 0; i < 20; i++) {
		cr_assert_eq(range[i].ret, 64);
		cr_assert(t_all(buf[i], 64, 0));
	}
	ts_close(ts);
}

static int cut_and_read(struct ts *ts, const struct iomap_iter *iter,
			struct iomap_read_folio_ctx *ctx, size_t len)
{
	size_t off = (size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio));

	iomap_i_size_write(&ts->inode, FILE_BYTES - 1000 - 32);
	iomap_folio_zero(ctx->cur_folio, off, len);
	iomap_finish_folio_read(ctx->cur_folio, off, len, 0);
	return 0;
}

/* What is missing is read when the others have been looked up and not yet copied. */
Test(batch, ca04_lk01_a_range_is_cut_where_the_file_has_got_shorter)
{
	const int64_t end = FILE_BYTES - 1000;
	struct iomap_read_range range[2];
	struct ts *ts = store();
	char buf[2][64];

	for (int i = 0; i < 2; i++)
		cr_assert(ts_reads(ts, end - 64, 64, 1));
	ts->hook.read = cut_and_read;
	range[0] = (struct iomap_read_range){ .file = ts->file, .buf = buf[0], .len = 64,
					      .pos = end - 64 };
	range[1] = (struct iomap_read_range){ .file = ts->file, .buf = buf[1], .len = 64,
					      .pos = 40 * KIB };
	cr_assert_eq(iomap_read_batch(range, 2, 0), 0);
	cr_assert_eq(range[0].ret, 32);
	cr_assert_eq(range[1].ret, 64);
	ts_close(ts);
}

Test(batch, ca04_the_first_error_is_returned_and_the_others_are_read)
{
	struct iomap_read_range range[20];
	struct ts *ts = store();
	char buf[20][64];

	ts_map(ts, 400 * KIB, 4 * KIB, 77, 0, 0); /* no such type */
	for (unsigned i = 0; i < 20; i++)
		range[i] = (struct iomap_read_range){ .file = ts->file, .buf = buf[i], .len = 64,
						      .pos = (int64_t)(i + 1) * 40 * KIB };
	range[15].pos = -1;
	cr_assert_eq(iomap_read_batch(range, 20, 0), -EIO);
	for (unsigned i = 0; i < 20; i++) {
		cr_assert_eq(range[i].ret, i == 9 ? -EIO : i == 15 ? -EINVAL : 64);
		if (range[i].ret > 0)
			cr_assert_eq(t_mismatch(buf[i], 64, range[i].pos, 1), -1);
	}
	ts_close(ts);
}
