/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * prefetch.c - CA04: ranges brought into the cache without a wait, and who is told of it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES ((int64_t)1024 * KIB)
#define NR 20U

/* What `done` has been told. */
struct told {
	struct t_gate gate;
	struct iomap_read_range *range[NR + 1];
	int error[NR + 1];
	unsigned nr;
	struct iomap_file *close; /* in the first call */
};

static void note(struct iomap_prefetch *prefetch, struct iomap_read_range *range, int error)
{
	struct told *told = prefetch->private;

	t_lock(&told->gate);
	t_must(told->nr <= NR);
	if (told->close && !told->nr)
		t_must(iomap_file_close(told->close) == 0);
	told->range[told->nr] = range;
	told->error[told->nr++] = error;
	t_wake(&told->gate);
	t_unlock(&told->gate);
}

static void wait_told(struct iomap_engine *engine, struct told *told, unsigned nr, bool threads)
{
	t_lock(&told->gate);
	while (told->nr < nr) {
		if (threads) {
			t_wait(&told->gate);
			continue;
		}
		t_unlock(&told->gate);
		iomap_engine_poll(engine, 100, true);
		t_lock(&told->gate);
	}
	t_unlock(&told->gate);
}

static struct ts *store(bool threads)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES, .threads = threads });

	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	return ts;
}

static void fill_ranges(struct ts *ts, struct iomap_read_range *range, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		range[i] = (struct iomap_read_range){ .file = ts->file, .len = 9000,
						      .pos = (int64_t)i * 48 * KIB + 100 };
}

static bool cached(struct ts *ts, const struct iomap_read_range *range)
{
	for (int64_t at = range->pos; at < range->pos + (int64_t)range->len; at += 1000) {
		struct iomap_pin pin;

		if (iomap_folio_pin(ts->file, at, IOMAP_PIN_NOREAD, &pin))
			return false;
		iomap_folio_unpin(&pin);
	}
	return true;
}

Test(prefetch, ca04_each_range_is_told_of_once_when_it_is_cached)
{
	for (unsigned threads = 0; threads < 2; threads++) {
		struct ts *ts = store(threads);
		struct told told = { .nr = 0 };
		struct iomap_read_range range[NR];
		struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range,
						   .nr = NR, .done = note, .private = &told };

		t_gate_init(&told.gate);
		fill_ranges(ts, range, NR);
		for (unsigned round = 0; round < 2; round++) { /* and again, cached */
			told.nr = 0;
			cr_assert_eq(iomap_prefetch(&prefetch), 0);
			wait_told(ts->engine, &told, NR, threads);
			for (unsigned i = 0; i < NR; i++) {
				unsigned seen = 0;

				for (unsigned j = 0; j < NR; j++)
					seen += told.range[j] == &range[i];
				cr_assert_eq(seen, 1U);
				cr_assert_eq(told.error[i], 0);
				cr_assert(cached(ts, &range[i]), "range %u, threads %u", i,
					  threads);
			}
		}
		/* none comes late */
		while (!threads && iomap_engine_poll(ts->engine, 100, true))
			;
		cr_assert_eq(told.nr, NR);
		t_gate_exit(&told.gate);
		ts_close(ts);
	}
}

Test(prefetch, ca04_all_at_once_on_request)
{
	struct ts *ts = store(true);
	struct told told = { .nr = 0 };
	struct iomap_read_range range[NR];
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range, .nr = NR,
					   .flags = IOMAP_PREFETCH_ALL, .done = note,
					   .private = &told };

	t_gate_init(&told.gate);
	fill_ranges(ts, range, NR);
	cr_assert_eq(iomap_prefetch(&prefetch), 0);
	wait_told(ts->engine, &told, 1, true);
	cr_assert_null(told.range[0]);
	cr_assert_eq(told.error[0], 0);
	for (unsigned i = 0; i < NR; i++)
		cr_assert(cached(ts, &range[i]));
	ts_close(ts);
	t_gate_exit(&told.gate);
}

/* ---- reads that end when the test says so ---- */

struct held {
	struct t_gate gate;
	struct {
		struct iomap_folio *folio;
		size_t off, len;
	} read[64];
	unsigned nr;
};

static int hold_read(struct ts *ts, const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
		     size_t len)
{
	struct held *held = ts->hook.arg;

	t_lock(&held->gate);
	held->read[held->nr].folio = ctx->cur_folio;
	held->read[held->nr].off = (size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio));
	held->read[held->nr++].len = len;
	t_unlock(&held->gate);
	return 0;
}

static void end_read(struct held *held, unsigned i, int error)
{
	if (!error)
		iomap_folio_zero(held->read[i].folio, held->read[i].off, held->read[i].len);
	iomap_finish_folio_read(held->read[i].folio, held->read[i].off, held->read[i].len, error);
}

static struct ts *held_store(struct held *held)
{
	struct ts *ts = store(true);

	held->nr = 0;
	t_gate_init(&held->gate);
	ts->hook.read = hold_read;
	ts->hook.arg = held;
	return ts;
}

Test(prefetch, ca04_the_call_waits_for_nothing_and_a_range_for_all_of_its_folios)
{
	struct held held;
	struct ts *ts = held_store(&held);
	struct told told = { .nr = 0 };
	struct iomap_read_range range[2];
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range, .nr = 2,
					   .done = note, .private = &told };

	t_gate_init(&told.gate);
	fill_ranges(ts, range, 2);
	cr_assert_eq(iomap_prefetch(&prefetch), 0);
	cr_assert_eq(held.nr, 6U); /* three pages each */
	cr_assert_eq(told.nr, 0U);
	/* the file is in use */
	cr_assert_eq(iomap_file_close(ts->file), -EBUSY);
	/* the second range, from its end on */
	end_read(&held, 5, 0);
	end_read(&held, 3, 0);
	end_read(&held, 4, -EIO);
	wait_told(ts->engine, &told, 1, true);
	cr_assert_eq(told.range[0], &range[1]);
	cr_assert_eq(told.error[0], -EIO);
	cr_assert_eq(told.nr, 1U);
	for (unsigned i = 0; i < 3; i++)
		end_read(&held, i, 0);
	wait_told(ts->engine, &told, 2, true);
	cr_assert_eq(told.range[1], &range[0]);
	cr_assert_eq(told.error[1], 0);
	ts_close(ts);
	t_gate_exit(&told.gate);
}

static long read_page(void *arg)
{
	char buf[64];

	return iomap_read(((struct ts *)arg)->file, buf, sizeof(buf), 100);
}

/* A thread that waits for the same folio, and another prefetch, are told as well. */
Test(prefetch, ca04_several_may_await_one_folio)
{
	struct held held;
	struct ts *ts = held_store(&held);
	struct told told[2] = { { .nr = 0 }, { .nr = 0 } };
	struct iomap_read_range range[2];
	struct iomap_prefetch prefetch[2];
	struct t_task reader;

	for (unsigned i = 0; i < 2; i++) {
		t_gate_init(&told[i].gate);
		fill_ranges(ts, &range[i], 1);
		range[i].len = 100;
		prefetch[i] = (struct iomap_prefetch){ .size = sizeof(prefetch[i]),
						       .ranges = &range[i], .nr = 1, .done = note,
						       .private = &told[i] };
		cr_assert_eq(iomap_prefetch(&prefetch[i]), 0);
	}
	cr_assert_eq(held.nr, 1U);
	t_start(&reader, read_page, ts);
	end_read(&held, 0, 0);
	cr_assert_eq(t_join(&reader), 64);
	for (unsigned i = 0; i < 2; i++) {
		wait_told(ts->engine, &told[i], 1, true);
		cr_assert_eq(told[i].error[0], 0);
	}
	ts_close(ts);
	for (unsigned i = 0; i < 2; i++)
		t_gate_exit(&told[i].gate);
}

Test(prefetch, ca04_the_file_may_be_closed_by_who_is_told)
{
	struct ts *ts = store(true);
	struct told told = { .nr = 0 };
	struct iomap_read_range range[1];
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range, .nr = 1,
					   .done = note, .private = &told };

	t_gate_init(&told.gate);
	fill_ranges(ts, range, 1);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &range[0].file), 0);
	told.close = range[0].file;
	cr_assert_eq(iomap_prefetch(&prefetch), 0);
	wait_told(ts->engine, &told, 1, true);
	ts_close(ts);
	t_gate_exit(&told.gate);
}

Test(prefetch, ca04_without_done_reads_are_started_all_the_same)
{
	struct ts *ts = store(false);
	struct iomap_read_range range[NR];
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range, .nr = NR };

	fill_ranges(ts, range, NR);
	cr_assert_eq(iomap_prefetch(&prefetch), 0);
	ts_reset(ts);
	for (unsigned i = 0; i < NR; i++)
		cr_assert(ts_reads(ts, range[i].pos, range[i].len, 1));
	cr_assert_eq(ts_calls(ts, TS_READ), 0U, "it was there, or on its way");
	ts_close(ts);
}

Test(prefetch, ca04_what_lies_outside_the_file_is_left_out_and_what_is_wrong_refused)
{
	struct ts *ts = store(false);
	struct ts *other = store(false);
	struct told told = { .nr = 0 };
	struct iomap_read_range range[4];
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = range, .nr = 4,
					   .done = note, .private = &told };

	t_gate_init(&told.gate);
	fill_ranges(ts, range, 4);
	range[0].pos = FILE_BYTES;
	range[1].pos = FILE_BYTES - 10;
	range[2].len = 0;
	range[3].pos = INT64_MAX;
	range[3].len = SIZE_MAX;
	cr_assert_eq(iomap_prefetch(&prefetch), 0);
	wait_told(ts->engine, &told, 4, false);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(told.error[i], 0);
	range[1].len = 10;
	cr_assert(cached(ts, &range[1]));

	told.nr = 0;
	range[0].pos = -1;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	range[0].pos = 0;
	range[2].file = other->file;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	range[2].file = ts->file;
	prefetch.flags = 0x80;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	prefetch.flags = 0;
	prefetch.nr = 0;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	prefetch.nr = 1;
	prefetch.reserved[2] = 1;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	prefetch.reserved[2] = 0;
	prefetch.size = 8;
	cr_assert_eq(iomap_prefetch(&prefetch), -EINVAL);
	while (iomap_engine_poll(ts->engine, 100, true))
		;
	cr_assert_eq(told.nr, 0U);
	ts_close(other);
	ts_close(ts);
	t_gate_exit(&told.gate);
}

/* Many at a time, of ranges that overlap, while the cache is too small for them. */
struct storm {
	struct ts *ts;
	struct told told;
	struct iomap_read_range range[NR];
	struct iomap_prefetch prefetch;
	struct t_task task;
	struct t_rand rand;
};

static long prefetch_at_random(void *arg)
{
	struct storm *s = arg;

	for (unsigned round = 0; round < (T_SANITIZED ? 20U : 100U); round++) {
		bool all = t_below(&s->rand, 2);

		for (unsigned i = 0; i < NR; i++)
			s->range[i] = (struct iomap_read_range){
				.file = s->ts->file, .pos = (int64_t)t_below(&s->rand, FILE_BYTES),
				.len = t_below(&s->rand, 40 * KIB),
			};
		s->told.nr = 0;
		s->prefetch = (struct iomap_prefetch){
			.size = sizeof(s->prefetch), .ranges = s->range, .nr = NR, .done = note,
			.flags = all ? IOMAP_PREFETCH_ALL : 0, .private = &s->told,
		};
		t_must(iomap_prefetch(&s->prefetch) == 0);
		wait_told(s->ts->engine, &s->told, all ? 1 : NR, true);
		for (unsigned i = 0; i < s->told.nr; i++)
			t_must(s->told.error[i] == 0);
	}
	return 0;
}

Test(prefetch, ca04_many_prefetches_at_a_time, .timeout = 300)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES, .threads = true,
						     .cache_bytes = 512 * KIB });
	static struct storm storm[3];

	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES, 0, 1);
	for (unsigned i = 0; i < 3; i++) {
		storm[i].ts = ts;
		storm[i].rand.state = t_seed() + i;
		t_gate_init(&storm[i].told.gate);
		t_start(&storm[i].task, prefetch_at_random, &storm[i]);
	}
	for (unsigned round = 0; round < 5; round++)
		cr_assert(ts_reads(ts, 0, FILE_BYTES, 1));
	for (unsigned i = 0; i < 3; i++)
		t_join(&storm[i].task);
	ts_close(ts);
	for (unsigned i = 0; i < 3; i++)
		t_gate_exit(&storm[i].told.gate);
}
