/* SPDX-License-Identifier: MIT */
/*
 * read_ops.c - RO: how the bytes of folios are fetched.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* ---- reads that the test finishes itself ---- */

struct pending {
	struct t_gate gate;
	struct {
		struct iomap_folio *folio;
		int64_t pos;
		size_t len;
	} range[64];
	unsigned nr;
};

static int start_read(struct ts *ts, const struct iomap_iter *iter,
		      struct iomap_read_folio_ctx *ctx, size_t len)
{
	struct pending *p = ts->hook.arg;

	t_lock(&p->gate);
	t_must(p->nr < 64);
	p->range[p->nr].folio = ctx->cur_folio;
	p->range[p->nr].pos = iter->pos;
	p->range[p->nr].len = len;
	p->nr++;
	t_wake(&p->gate);
	t_unlock(&p->gate);
	return 0;
}

static void wait_started(struct pending *p, unsigned nr)
{
	t_lock(&p->gate);
	while (p->nr < nr)
		t_wait(&p->gate);
	t_unlock(&p->gate);
}

static void finish(struct pending *p, unsigned i, int error)
{
	struct iomap_folio *folio = p->range[i].folio;
	size_t off = (size_t)(p->range[i].pos - iomap_folio_pos(folio));
	char buf[4096];

	t_must(p->range[i].len <= sizeof(buf));
	if (!error) {
		t_fill(buf, p->range[i].len, p->range[i].pos, 1);
		iomap_folio_write(folio, off, buf, p->range[i].len);
	}
	iomap_finish_folio_read(folio, off, p->range[i].len, error);
}

/* Blocks of 1 KiB: data, hole, data, data elsewhere: two or three ranges in one folio. */
static struct ts *ranges_store(struct pending *p)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .blkbits = 10 });

	ts_map(ts, 0, KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_map(ts, 2 * KIB, 2 * KIB, IOMAP_MAPPED, 0, 128 * KIB);
	ts->a_ops.readahead = NULL;
	memset(p, 0, sizeof(*p));
	t_gate_init(&p->gate);
	ts->hook.arg = p;
	ts->hook.read = start_read;
	return ts;
}

static long read_task(void *arg)
{
	char buf[4096];
	ssize_t n = iomap_read(((struct ts *)arg)->file, buf, sizeof(buf), 0);

	if (n != sizeof(buf))
		return n;
	t_must(t_mismatch(buf, KIB, 0, 1) < 0);
	t_must(t_all(buf + KIB, KIB, 0));
	t_must(t_mismatch(buf + 2 * KIB, 2 * KIB, 2 * KIB, 1) < 0);
	return n;
}

Test(read_ops, ro01_the_folio_is_unlocked_when_the_last_range_ends)
{
	struct pending p;
	struct ts *ts = ranges_store(&p);
	struct t_task task;

	t_start(&task, read_task, ts);
	ts_wait_calls(ts, TS_READ_FOLIO, 1); /* it returned, with its reads running */
	wait_started(&p, 2);
	cr_assert_eq(p.range[0].pos, 0);
	cr_assert_eq(p.range[0].len, (size_t)KIB);
	cr_assert_eq(p.range[1].pos, 2 * KIB);
	cr_assert_eq(p.range[1].len, (size_t)(2 * KIB));
	cr_assert(iomap_folio_test_locked(p.range[0].folio));
	finish(&p, 1, 0);
	cr_assert(iomap_folio_test_locked(p.range[0].folio));
	cr_assert_not(iomap_folio_test_uptodate(p.range[0].folio));
	cr_assert_not(atomic_load(&task.done));
	finish(&p, 0, 0);
	cr_assert_eq(t_join(&task), 4 * KIB);
	cr_assert(ts_uptodate(ts, 0));
	cr_assert_eq(ts_calls(ts, TS_READ_SUBMIT), 1U);
	ts_close(ts);
	t_gate_exit(&p.gate);
}

Test(read_ops, ro01_a_range_that_fails_later_is_finished_with_its_error)
{
	struct pending p;
	struct ts *ts = ranges_store(&p);
	struct t_task task;

	t_start(&task, read_task, ts);
	wait_started(&p, 2);
	finish(&p, 0, -EREMOTEIO);
	cr_assert(iomap_folio_test_locked(p.range[0].folio));
	finish(&p, 1, 0);
	cr_assert_eq(t_join(&task), -EREMOTEIO);
	cr_assert_not(ts_uptodate(ts, 0));
	cr_assert(ts_blocks_uptodate(ts, 0, 2 * KIB, 2 * KIB));
	ts_close(ts);
	t_gate_exit(&p.gate);
}

Test(read_ops, ro01_a_range_that_was_refused_is_not_finished)
{
	struct pending p;
	struct ts *ts = ranges_store(&p);
	struct t_task task;

	ts_fail(ts, TS_READ, 2, -ENOMEM, 1);
	t_start(&task, read_task, ts);
	wait_started(&p, 1);
	ts_wait_calls(ts, TS_READ_FOLIO, 1);
	cr_assert_eq(ts_nth(ts, TS_READ_FOLIO, 0).ret, -ENOMEM);
	cr_assert(iomap_folio_test_locked(p.range[0].folio), "one range is still running");
	finish(&p, 0, 0);
	cr_assert_eq(t_join(&task), -ENOMEM);
	cr_assert(ts_blocks_uptodate(ts, 0, 0, KIB));
	ts_close(ts);
	t_gate_exit(&p.gate);
}

static void finish_twice(void *arg)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });
	struct iomap_folio *folio;

	(void)arg;
	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	t_must(ts_reads_all(ts, 0, 4 * KIB, 0));
	folio = ts_folio(ts, 0);
	iomap_finish_folio_read(folio, 0, 4 * KIB, 0);
}

Test(read_ops, ro01_finishing_a_range_twice_aborts_in_debug_builds)
{
	if (!t_debug())
		cr_skip_test("the library was built without debug checks");
	cr_assert_eq(t_death(finish_twice, NULL, NULL, 0), SIGABRT);
}

/* ---- RO02 ---- */

Test(read_ops, ro02_submit_read_runs_once_at_the_end_of_the_batch)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 32 * KIB, .blkbits = 10 });
	uint64_t batches;

	for (int64_t i = 0; i < 32; i++) /* every block elsewhere */
		ts_map(ts, i * KIB, KIB, IOMAP_MAPPED, 0, (uint64_t)(64 + 2 * i) * KIB);
	cr_assert(ts_reads_all(ts, 0, 32 * KIB, 0));
	batches = ts_calls(ts, TS_READAHEAD) + ts_calls(ts, TS_READ_FOLIO);
	cr_assert_eq(ts_calls(ts, TS_READ), 32U);
	cr_assert_eq(ts_calls(ts, TS_READ_SUBMIT), batches);
	/* after the last range, before the operation's end */
	cr_assert_gt(ts_last(ts, TS_READ_SUBMIT).tick, ts_last(ts, TS_READ).tick);
	ts_close(ts);
}

static int read_at_once(struct ts *ts, const struct iomap_iter *iter,
			struct iomap_read_folio_ctx *ctx, size_t len)
{
	char buf[4096];

	(void)ts;
	t_must(len <= sizeof(buf));
	t_fill(buf, len, iter->pos, 1);
	iomap_folio_write(ctx->cur_folio, (size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio)),
			  buf, len);
	iomap_finish_folio_read(ctx->cur_folio,
				(size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio)), len, 0);
	return 0;
}

Test(read_ops, ro02_submit_read_is_optional)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 32 * KIB });

	ts_map(ts, 0, 32 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->read_ops.submit_read = NULL;
	ts->hook.read = read_at_once;
	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	ts_close(ts);
}

/* ---- RO03 ---- */

static int refused_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	static const struct iomap_read_ops no_range;
	struct ts *ts = ts_of(iomap_folio_inode(folio));
	struct iomap_read_folio_ctx without_ops = { .cur_folio = folio };
	struct iomap_read_folio_ctx without_range = { .ops = &no_range, .cur_folio = folio };
	struct iomap_read_folio_ctx without_folio = { .ops = &ts->read_ops };

	(void)file;
	t_must(iomap_read_folio(&ts->ops, &without_folio) == -EINVAL);
	t_must(iomap_folio_test_locked(folio)); /* it cannot know of this one */
	t_must(iomap_read_folio(&ts->ops, &without_range) == -EINVAL);
	t_must(!iomap_folio_test_locked(folio));
	iomap_folio_lock(folio);
	return iomap_read_folio(&ts->ops, &without_ops);
}

Test(read_ops, ro03_read_folio_needs_ops_range_and_folio)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });
	char buf[100];

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->a_ops.readahead = NULL;
	ts->a_ops.read_folio = refused_read_folio;
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 0), -EINVAL);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	ts_close(ts);
}

static int readahead_results[3];
static void refused_readahead(struct iomap_readahead_control *rac)
{
	static const struct iomap_read_ops no_range;
	struct ts *ts = ts_of(rac->mapping->host);
	struct iomap_read_folio_ctx ctx = { .ops = &ts->read_ops };

	readahead_results[0] = iomap_readahead(&ts->ops, &ctx);
	ctx.rac = rac;
	ctx.ops = NULL;
	readahead_results[1] = iomap_readahead(&ts->ops, &ctx);
	ctx.ops = &no_range;
	readahead_results[2] = iomap_readahead(&ts->ops, &ctx);
}

Test(read_ops, ro03_readahead_needs_ops_range_and_window)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB });

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->a_ops.readahead = refused_readahead;
	cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0), "read_folio does it then");
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(readahead_results[i], -EINVAL);
	ts_close(ts);
}

/* ---- RO04 ---- */

Test(read_ops, ro04_contiguous_ranges_of_many_folios_are_one_bio)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 256 * KIB });

	ts_map(ts, 0, 256 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 256 * KIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 256 * KIB, 1));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)(256 * KIB));
	cr_assert_leq(td_count(ts->dev, TD_READ),
		      ts_calls(ts, TS_READAHEAD) + ts_calls(ts, TS_READ_FOLIO));
	cr_assert_leq(td_count(ts->dev, TD_READ), 16U, "%zu bios for 64 folios",
		      td_count(ts->dev, TD_READ));
	ts_close(ts);
}

Test(read_ops, ro04_ranges_that_are_apart_on_the_device_are_not_merged)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 32 * KIB });

	/* the second half lies before the first, the third piece far behind */
	ts_map(ts, 0, 12 * KIB, IOMAP_MAPPED, 0, 128 * KIB);
	ts_map(ts, 12 * KIB, 12 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_map(ts, 24 * KIB, 8 * KIB, IOMAP_MAPPED, 0, 512 * KIB);
	ts_dev_fill(ts, 128 * KIB, 12 * KIB, 0, 1);
	ts_dev_fill(ts, 64 * KIB, 12 * KIB, 12 * KIB, 1);
	ts_dev_fill(ts, 512 * KIB, 8 * KIB, 24 * KIB, 1);
	cr_assert(ts_reads(ts, 0, 32 * KIB, 1));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)(32 * KIB));
	for (size_t i = 0; i < td_count(ts->dev, TD_READ); i++) {
		struct td_io io = td_nth(ts->dev, TD_READ, i);

		cr_assert(io.addr + io.bytes <= 76 * KIB || io.addr >= 128 * KIB);
		cr_assert(io.addr + io.bytes <= 140 * KIB || io.addr >= 512 * KIB);
	}
	ts_close(ts);
}

Test(read_ops, ro04_contiguous_extents_are_one_bio)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .blkbits = 9 });

	for (int64_t i = 0; i < 8; i++)
		ts_map(ts, i * 512, 512, IOMAP_MAPPED, 0, (uint64_t)(64 * KIB + i * 512));
	ts_dev_fill(ts, 64 * KIB, 4 * KIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	cr_assert_eq(ts_calls(ts, TS_READ), 8U);
	cr_assert_eq(td_count(ts->dev, TD_READ), 1U);
	ts_close(ts);
}
