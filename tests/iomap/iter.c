/* SPDX-License-Identifier: MIT */
/*
 * iter.c - IT: iteration over mappings, bare and through buffered reads and writes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* Iterate over [pos, pos + len), advancing each mapping by at most `step` (0: all of it). */
static int walk(struct ts *ts, int64_t pos, uint64_t len, unsigned flags, uint64_t step,
		unsigned *rounds)
{
	struct iomap_iter iter = { .inode = &ts->inode, .pos = pos, .len = len, .flags = flags };
	int rc;

	*rounds = 0;
	while ((rc = iomap_iter(&iter, &ts->ops)) > 0) {
		uint64_t n = iomap_length(&iter);

		cr_assert_lt(++*rounds, 1000U);
		if (step && n > step)
			n = step;
		cr_assert_eq(iomap_iter_advance(&iter, n), 0);
	}
	return rc;
}

/* ---- IT01 ---- */

Test(iter, it01_begin_gets_what_is_left_and_each_begin_one_end)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	static const struct {
		int64_t pos;
		uint64_t left, here;
	} want[] = { { 1000, 10000, 3096 }, { 4096, 6904, 4096 }, { 8192, 2808, 2808 } };
	unsigned rounds;

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->map_max_bytes = 4 * KIB;
	cr_assert_eq(walk(ts, 1000, 10000, IOMAP_REPORT, 0, &rounds), 0);
	cr_assert_eq(rounds, 3U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 3U);
	cr_assert_eq(ts_calls(ts, TS_END), 3U);
	for (size_t i = 0; i < 3; i++) {
		struct ts_event begin = ts_nth(ts, TS_BEGIN, i), end = ts_nth(ts, TS_END, i);

		cr_assert_eq(begin.pos, want[i].pos);
		cr_assert_eq(begin.length, want[i].left);
		cr_assert_eq(begin.flags, (unsigned)IOMAP_REPORT);
		cr_assert_eq(end.pos, want[i].pos);
		cr_assert_eq(end.length, want[i].here, "iomap_end's length is %" PRIu64,
			     end.length);
		cr_assert_eq(end.written, (ssize_t)want[i].here);
		cr_assert_lt(begin.tick, end.tick);
		if (i)
			cr_assert_gt(begin.tick, ts_nth(ts, TS_END, i - 1).tick);
	}
	ts_close(ts);
}

Test(iter, it01_end_runs_with_nothing_written_when_the_work_fails)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	struct iomap_iter iter = { .inode = &ts->inode, .len = 8 * KIB };

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	iter.status = -EDOM;
	cr_assert_eq(iomap_iter(&iter, &ts->ops), -EDOM);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert_eq(ts_calls(ts, TS_END), 1U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	ts_close(ts);
}

Test(iter, it01_end_runs_when_the_work_did_nothing_and_the_walk_ends)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	struct iomap_iter iter = { .inode = &ts->inode, .len = 8 * KIB };

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert_eq(ts_calls(ts, TS_END), 1U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	ts_close(ts);
}

Test(iter, it01_no_end_follows_a_begin_that_failed)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	unsigned rounds;

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->map_max_bytes = 4 * KIB;
	ts_fail(ts, TS_BEGIN, 3, -ENOSPC, 1);
	cr_assert_eq(walk(ts, 0, 16 * KIB, 0, 0, &rounds), -ENOSPC);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 3U);
	cr_assert_eq(ts_calls(ts, TS_END), 2U);
	ts_close(ts);
}

Test(iter, it01_partial_progress_is_told_to_end_and_the_rest_asked_for_again)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	unsigned rounds;

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(walk(ts, 0, 10 * KIB, 0, 4000, &rounds), 0);
	cr_assert_eq(rounds, 3U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 4000);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 1).pos, 4000);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 2).pos, 8000);
	cr_assert_eq(ts_nth(ts, TS_END, 2).written, 10 * KIB - 8000);
	ts_close(ts);
}

Test(iter, it01_an_advance_beyond_the_mapping_is_refused)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	struct iomap_iter iter = { .inode = &ts->inode, .len = 8 * KIB };

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	cr_assert_eq(iomap_iter_advance(&iter, 8 * KIB + 1), -EIO);
	cr_assert_eq(iomap_length(&iter), (uint64_t)(8 * KIB));
	iter.status = -EINTR;
	cr_assert_eq(iomap_iter(&iter, &ts->ops), -EINTR);
	ts_close(ts);
}

Test(iter, it01_a_failing_write_pairs_begin_and_end_too)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .with_write_ops = true });
	char buf[8 * KIB];

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->map_max_bytes = 4 * KIB;
	memset(buf, 1, sizeof(buf));
	ts_fail(ts, TS_GET, 1, -ENOMEM, 1000);
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), -ENOMEM);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert_eq(ts_calls(ts, TS_END), 1U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	ts_close(ts);
}

/* ---- IT02 ---- */

Test(iter, it02_a_write_and_a_read_go_on_over_short_mappings)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });

	ts->map_max_bytes = 4 * KIB;
	ts_write(ts, 100, 40 * KIB, 1);
	cr_assert_geq(ts_calls(ts, TS_BEGIN), 11U);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 100, 40 * KIB, 1));
	cr_assert(ts_reads_all(ts, 0, 100, 0));
	ts_close(ts);
}

Test(iter, it02_of_a_longer_mapping_only_the_overlap_is_used)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB });
	struct ts_event begin, end;

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	ts_write(ts, 20 * KIB, 4 * KIB, 2);
	begin = ts_nth(ts, TS_BEGIN, 0);
	end = ts_nth(ts, TS_END, 0);
	cr_assert_eq(begin.iomap.offset, 0);
	cr_assert_eq(begin.length, (uint64_t)(4 * KIB));
	cr_assert_eq(end.pos, 20 * KIB);
	cr_assert_eq(end.written, 4 * KIB);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB, 20 * KIB, 0, 1));
	cr_assert(ts_dev_has(ts, 84 * KIB, 4 * KIB, 20 * KIB, 2));
	cr_assert(ts_dev_has(ts, 88 * KIB, 40 * KIB, 24 * KIB, 1));
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(4 * KIB));
	ts_close(ts);
}

/* ---- IT03 ---- */

Test(iter, it03_end_is_optional)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	unsigned rounds;

	ts->ops.iomap_end = NULL;
	ts->map_max_bytes = 4 * KIB;
	ts_write(ts, 0, 16 * KIB, 1);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	cr_assert_eq(walk(ts, 0, 16 * KIB, 0, 0, &rounds), 0);
	cr_assert_eq(rounds, 4U);
	cr_assert_eq(ts_calls(ts, TS_END), 0U);
	ts_close(ts);
}

Test(iter, it03_an_error_of_end_counts_when_nothing_was_written)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	struct iomap_iter iter = { .inode = &ts->inode, .len = 8 * KIB };

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_fail(ts, TS_END, 1, -EDQUOT, 1);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), -EDQUOT);
	ts_close(ts);
}

Test(iter, it03_after_progress_an_error_of_end_does_not_end_the_walk)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	unsigned rounds;

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->map_max_bytes = 4 * KIB;
	ts_fail(ts, TS_END, 1, -EDQUOT, 100);
	cr_assert_eq(walk(ts, 0, 16 * KIB, 0, 0, &rounds), 0);
	cr_assert_eq(rounds, 4U);
	cr_assert_eq(ts_calls(ts, TS_END), 4U);
	ts_close(ts);
}

Test(iter, it03_progress_counts_more_than_an_error_of_end)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	char buf[4 * KIB];

	t_fill(buf, sizeof(buf), 0, 1);
	ts_fail(ts, TS_END, 1, -EDQUOT, 1);
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), (ssize_t)sizeof(buf));
	cr_assert_eq(iomap_i_size_read(&ts->inode), (int64_t)sizeof(buf));
	cr_assert(ts_reads(ts, 0, sizeof(buf), 1));
	ts_close(ts);
}

/* ---- IT04 ---- */

Test(iter, it04_private_cookie_and_flags_come_back_in_end_and_valid)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .with_write_ops = true });
	struct ts_event begin, end, valid;
	int tag;

	ts->map_private = &tag;
	ts_write(ts, 0, 4 * KIB, 1);
	begin = ts_nth(ts, TS_BEGIN, 0);
	end = ts_nth(ts, TS_END, 0);
	valid = ts_nth(ts, TS_VALID, 0);
	cr_assert_eq(end.iomap.private, (void *)&tag);
	cr_assert_eq(valid.iomap.private, (void *)&tag);
	cr_assert_neq(begin.iomap.validity_cookie, 0U);
	cr_assert_eq(end.iomap.validity_cookie, begin.iomap.validity_cookie);
	cr_assert_eq(valid.iomap.validity_cookie, begin.iomap.validity_cookie);
	cr_assert_eq(begin.flags, (unsigned)IOMAP_WRITE);
	cr_assert_eq(end.flags, begin.flags);
	ts_close(ts);
}

/* ---- IT05 ---- */

Test(iter, it05_a_stale_mapping_is_ended_and_sampled_again_for_the_rest)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });
	struct iomap_iter iter = { .inode = &ts->inode, .len = 8 * KIB };

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	iter.iomap.flags |= IOMAP_F_STALE; /* nothing done yet */
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 2U);
	cr_assert_eq(ts_calls(ts, TS_END), 1U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 1).pos, 0);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 1).length, (uint64_t)(8 * KIB));
	cr_assert_eq(iter.iomap.flags & IOMAP_F_STALE, 0);

	cr_assert_eq(iomap_iter_advance(&iter, 3000), 0);
	iter.iomap.flags |= IOMAP_F_STALE; /* in the middle */
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 1);
	cr_assert_eq(ts_nth(ts, TS_END, 1).written, 3000);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 2).pos, 3000);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 2).length, (uint64_t)(8 * KIB - 3000));
	cr_assert_eq(iomap_iter_advance(&iter, iomap_length(&iter)), 0);
	cr_assert_eq(iomap_iter(&iter, &ts->ops), 0);
	cr_assert_eq(ts_calls(ts, TS_END), 3U);
	ts_close(ts);
}

/* ---- IT06 ---- */

Test(iter, it06_all_types_can_be_read)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 32 * KIB });

	ts_map(ts, 4 * KIB, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 4 * KIB, 4 * KIB, 1);
	ts_map(ts, 8 * KIB, 4 * KIB, IOMAP_UNWRITTEN, 0, 128 * KIB);
	ts_dev_fill(ts, 128 * KIB, 4 * KIB, 0, 9); /* nobody may ever see this */
	ts_map(ts, 12 * KIB, 4 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	cr_assert(ts_reads_all(ts, 0, 4 * KIB, 0));
	cr_assert(ts_reads(ts, 4 * KIB, 4 * KIB, 1));
	cr_assert(ts_reads_all(ts, 8 * KIB, 24 * KIB, 0));
	ts_close(ts);
}

Test(iter, it06_all_types_with_space_can_be_written)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_map(ts, 4 * KIB, 4 * KIB, IOMAP_UNWRITTEN, 0, 128 * KIB);
	ts_map(ts, 8 * KIB, 4 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	ts_write(ts, 0, 12 * KIB, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 12 * KIB, 1));
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 1));
	cr_assert(ts_dev_has(ts, 128 * KIB, 4 * KIB, 4 * KIB, 1));
	cr_assert_eq(ts_lookup(ts, 8 * KIB).type, IOMAP_MAPPED);
	ts_close(ts);
}

Test(iter, it06_inline_data_can_be_read_and_written)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 300 });
	char inline_data[1024];

	t_fill(inline_data, 300, 0, 1);
	ts_map_inline(ts, inline_data, sizeof(inline_data));
	cr_assert(ts_reads(ts, 0, 300, 1));
	ts_write(ts, 250, 150, 2);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 400);
	cr_assert(ts_reads(ts, 0, 250, 1));
	cr_assert(ts_reads(ts, 250, 150, 2));
	cr_assert_eq(t_mismatch(inline_data + 250, 150, 250, 2), -1);
	ts_close(ts);
}

static int copy_on_write(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			 struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos;
	(void)length;
	(void)ts;
	if (!(flags & IOMAP_WRITE))
		return 0;
	*srcmap = *iomap;
	iomap->addr = 512 * KIB;
	iomap->flags |= IOMAP_F_SHARED;
	return 0;
}

Test(iter, it06_old_bytes_come_from_srcmap)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 4 * KIB, 0, 1);
	ts_dev_fill(ts, 512 * KIB, 4 * KIB, 0, 9);
	ts->hook.begin = copy_on_write;
	ts_write(ts, 1000, 1000, 2);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads(ts, 1000, 1000, 2));
	cr_assert(ts_reads(ts, 2000, 2096, 1));
	cr_assert(td_touched(ts->dev, TD_READ, 64 * KIB, 4 * KIB));
	cr_assert_not(td_touched(ts->dev, TD_READ, 512 * KIB, 4 * KIB));
	ts_close(ts);
}

/* ---- IT07 ---- */

struct fault {
	const char *name;
	unsigned when; /* 1: also for bare walks, 2: where I/O is built; | 4: writes only */
	void (*spoil)(struct ts *ts, struct iomap *iomap);
};

static void spoil_length(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->length = 0;
}
static void spoil_after(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->offset += 64 * KIB;
}
static void spoil_before(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->length = 4 * KIB; /* pos is 8 KiB */
}
static void spoil_overflow(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->offset = 4 * KIB;
	iomap->length = UINT64_MAX - 100;
}
static void spoil_type(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->type = 77;
}
static void spoil_flags(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->flags |= 0x0400;
}
static void spoil_hole(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->type = IOMAP_HOLE;
	iomap->addr = IOMAP_NULL_ADDR;
}
static void spoil_inline(struct ts *ts, struct iomap *iomap)
{
	static char data[16 * KIB];

	(void)ts;
	iomap->type = IOMAP_INLINE;
	iomap->addr = IOMAP_NULL_ADDR;
	iomap->inline_data = data;
	iomap->offset = 7 * KIB;
	iomap->length = 4 * KIB;
}
static void spoil_addr(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->addr = IOMAP_NULL_ADDR;
}
static void spoil_alignment(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->addr += 7;
}
static void spoil_bdev(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->bdev = NULL;
}

static struct iomap_bdev *foreign_bdev;
static void spoil_engine(struct ts *ts, struct iomap *iomap)
{
	(void)ts;
	iomap->bdev = foreign_bdev;
}

static const struct fault faults[] = {
	{ "length 0", 1, spoil_length },
	{ "starts after pos", 1, spoil_after },
	{ "ends before pos", 1, spoil_before },
	{ "end overflows", 1, spoil_overflow },
	{ "unknown type", 1, spoil_type },
	{ "unknown flag", 1, spoil_flags },
	{ "inline over a page's end", 1, spoil_inline },
	{ "hole for a write", 1 | 4, spoil_hole },
	{ "no address", 2, spoil_addr },
	{ "unaligned address", 2, spoil_alignment },
	{ "no device", 2, spoil_bdev },
	{ "another engine's device", 2, spoil_engine },
};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

static int spoil(struct ts *ts, int64_t pos, int64_t length, unsigned flags, struct iomap *iomap,
		 struct iomap *srcmap)
{
	const struct fault *fault = ts->hook.arg;

	(void)pos;
	(void)length;
	(void)flags;
	(void)srcmap;
	fault->spoil(ts, iomap);
	return 0;
}

static ssize_t spoil_range(struct ts *ts, struct iomap_writepage_ctx *wpc,
			   struct iomap_folio *folio, uint64_t pos, unsigned len, uint64_t end_pos)
{
	const struct fault *fault = ts->hook.arg;
	struct ts_extent e = ts_lookup(ts, (int64_t)pos);

	wpc->iomap = (struct iomap){ .addr = e.addr,
				     .offset = e.offset,
				     .length = e.length,
				     .type = e.type,
				     .bdev = ts->dev->bdev };
	fault->spoil(ts, &wpc->iomap);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static struct ts *spoiled_store(const struct fault *fault)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	ts->a_ops.readahead = NULL; /* it would find the fault first, and leave it to the read */
	ts->hook.arg = (void *)(uintptr_t)fault;
	foreign_bdev = NULL;
	return ts;
}

/* One line of level ERROR that names the inode and the position. */
static void expect_line(struct ts *ts, const struct fault *fault, const char *what)
{
	char ino[32];

	snprintf(ino, sizeof(ino), "%u", TS_INO);
	if (ts->log.nr != 1)
		for (unsigned i = 0; i < ts->log.nr && i < T_LOG_LINES; i++)
			fprintf(stderr, "log: %s\n", ts->log.line[i].text);
	cr_assert_eq(ts->log.nr, 1U, "%s, %s: %u log lines", fault->name, what, ts->log.nr);
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, ino), 1U, "%s, %s: no inode in '%s'",
		     fault->name, what, ts->log.line[0].text);
	cr_assert(t_log_count(&ts->log, IOMAP_LOG_ERROR, "8192") == 1 ||
			  t_log_count(&ts->log, IOMAP_LOG_ERROR, "2000") == 1,
		  "%s, %s: no offset in '%s'", fault->name, what, ts->log.line[0].text);
}

Test(iter, it07_a_broken_mapping_ends_a_walk_with_eio_and_a_line)
{
	for (size_t i = 0; i < FAULTS; i++) {
		struct ts *ts;
		unsigned rounds;
		int rc;

		if (!(faults[i].when & 1))
			continue;
		ts = spoiled_store(&faults[i]);
		ts->hook.begin = spoil;
		rc = walk(ts, 8 * KIB, 4 * KIB, faults[i].when & 4 ? IOMAP_WRITE : IOMAP_REPORT, 0,
			  &rounds);
		cr_assert_eq(rc, -EIO, "%s: %d", faults[i].name, rc);
		cr_assert_eq(rounds, 0U, "%s", faults[i].name);
		expect_line(ts, &faults[i], "walk");
		ts_close(ts);
	}
}

Test(iter, it07_a_broken_mapping_ends_a_read_with_eio_and_a_line)
{
	for (size_t i = 0; i < FAULTS; i++) {
		struct ts *ts;
		struct td *foreign = NULL;
		struct iomap_engine *other = NULL;
		char buf[1000];
		ssize_t rc;

		if (faults[i].when & 4)
			continue;
		ts = spoiled_store(&faults[i]);
		if (faults[i].spoil == spoil_engine) {
			struct iomap_engine_opts opts;

			iomap_engine_opts_init(&opts);
			opts.cache_bytes = 2 << 20;
			opts.flags = IOMAP_ENGINE_NO_THREADS;
			other = t_engine(&opts, NULL);
			foreign = td_new(other, 1 << 20, NULL);
			foreign_bdev = foreign->bdev;
		}
		ts->hook.begin = spoil;
		rc = iomap_read(ts->file, buf, sizeof(buf), 8 * KIB);
		cr_assert_eq(rc, -EIO, "%s: %zd", faults[i].name, rc);
		cr_assert_eq(td_count(ts->dev, TD_ALL), 0U, "%s", faults[i].name);
		expect_line(ts, &faults[i], "read");

		/* no damage: when the map is well again, so is the read */
		ts->hook.begin = NULL;
		cr_assert(ts_reads(ts, 8 * KIB, 4 * KIB, 1), "%s", faults[i].name);
		ts_close(ts);
		if (foreign) {
			cr_assert_eq(td_count(foreign, TD_ALL), 0U);
			td_free(foreign);
			cr_assert_eq(iomap_engine_destroy(other), 0);
		}
	}
}

Test(iter, it07_a_broken_mapping_ends_a_write_with_eio_and_a_line)
{
	for (size_t i = 0; i < FAULTS; i++) {
		struct ts *ts;
		char buf[100] = "x";
		ssize_t rc;

		if (faults[i].spoil == spoil_engine)
			continue;
		ts = spoiled_store(&faults[i]);
		ts->hook.begin = spoil;
		/* part of a block, so that the rest has to be read */
		rc = ts_buffered_write(ts, 8 * KIB, buf, sizeof(buf));
		cr_assert_eq(rc, -EIO, "%s: %zd", faults[i].name, rc);
		cr_assert_eq(td_count(ts->dev, TD_ALL), 0U, "%s", faults[i].name);
		expect_line(ts, &faults[i], "write");
		ts->hook.begin = NULL;
		cr_assert(ts_reads(ts, 0, 16 * KIB, 1), "%s", faults[i].name);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		ts_close(ts);
	}
}

Test(iter, it07_a_broken_mapping_ends_writeback_with_eio_and_a_line)
{
	for (size_t i = 0; i < FAULTS; i++) {
		struct ts *ts;
		int rc;

		if (!(faults[i].when & 2) || faults[i].spoil == spoil_engine)
			continue;
		ts = spoiled_store(&faults[i]);
		ts_write(ts, 8 * KIB, 4 * KIB, 2);
		ts->hook.range = spoil_range;
		rc = ts_fsync(ts);
		cr_assert_eq(rc, -EIO, "%s: %d", faults[i].name, rc);
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U, "%s", faults[i].name);
		cr_assert_geq(ts->log.nr, 1U, "%s: no log line", faults[i].name);
		ts_close(ts);
	}
}
