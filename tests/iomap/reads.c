/* SPDX-License-Identifier: MIT */
/*
 * reads.c - RA: readahead and buffered reads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(int64_t i_size)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = i_size });

	ts_map(ts, 0, 512 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 512 * KIB, 0, 1);
	return ts;
}

static long read_task(void *arg)
{
	return ts_reads(arg, 0, 64 * KIB, 1);
}

/* ---- RA01 ---- */

Test(reads, ra01_readahead_does_not_wait_for_the_io_it_starts)
{
	struct ts *ts = mapped_store(256 * KIB);
	struct t_task task;

	td_hold(ts->dev, TD_READ);
	t_start(&task, read_task, ts);
	/* It is over before any of its bios is. */
	ts_wait_calls(ts, TS_READAHEAD, 1);
	cr_assert_eq(ts_nth(ts, TS_READAHEAD, 0).ret, 0);
	cr_assert_gt(ts_calls(ts, TS_READ), 1U);
	td_wait_held(ts->dev, 1);
	cr_assert_not(atomic_load(&task.done));
	td_open_gates(ts->dev);
	cr_assert(t_join(&task));
	ts_close(ts);
}

Test(reads, ra01_begin_is_called_with_flags_0)
{
	struct ts *ts = mapped_store(256 * KIB);

	ts->map_max_bytes = 16 * KIB;
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts->a_ops.readahead = NULL;
	cr_assert(ts_reads(ts, 200 * KIB, 8 * KIB, 1));
	cr_assert_gt(ts_calls(ts, TS_BEGIN), 4U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END));
	for (size_t i = 0; i < ts_calls(ts, TS_BEGIN); i++) {
		cr_assert_eq(ts_nth(ts, TS_BEGIN, i).flags, 0U);
		cr_assert_eq(ts_nth(ts, TS_END, i).flags, 0U);
	}
	ts_close(ts);
}

Test(reads, ra01_read_folio_reads_one_folio)
{
	struct ts *ts = mapped_store(256 * KIB);

	ts->a_ops.readahead = NULL;
	cr_assert(ts_reads(ts, 8 * KIB + 100, 100, 1));
	cr_assert_eq(ts_calls(ts, TS_READ_FOLIO), 1U);
	cr_assert_eq(td_count(ts->dev, TD_READ), 1U);
	cr_assert_eq(td_nth(ts->dev, TD_READ, 0).addr, (uint64_t)(72 * KIB));
	cr_assert_eq(td_nth(ts->dev, TD_READ, 0).bytes, (uint64_t)(4 * KIB));
	cr_assert(ts_reads(ts, 8 * KIB, 4 * KIB, 1));
	cr_assert_eq(td_count(ts->dev, TD_READ), 1U);
	ts_close(ts);
}

Test(reads, ra01_what_readahead_could_not_read_is_read_again_when_it_is_asked_for)
{
	struct ts *ts = mapped_store(256 * KIB);

	td_fail(ts->dev, TD_READ, 64 * KIB, 256 * KIB, -EIO, 1);
	cr_assert(ts_reads(ts, 0, 128 * KIB, 1));
	ts_close(ts);
}

/* ---- RA02 ---- */

Test(reads, ra02_holes_and_unwritten_extents_are_zeros_without_io)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .blkbits = 9 });
	char buf[64 * KIB];

	ts_map(ts, 16 * KIB, 16 * KIB, IOMAP_UNWRITTEN, 0, 128 * KIB);
	ts_dev_fill(ts, 128 * KIB, 16 * KIB, 0, 9);
	cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	ts_drop(ts);

	/* in one folio with data */
	ts_map(ts, 1024, 512, IOMAP_MAPPED, 0, 64 * KIB);
	ts_map(ts, 2048, 512, IOMAP_UNWRITTEN, 0, 128 * KIB);
	ts_dev_fill(ts, 64 * KIB, 512, 1024, 1);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
	cr_assert(t_all(buf, 1024, 0));
	cr_assert_eq(t_mismatch(buf + 1024, 512, 1024, 1), -1);
	cr_assert(t_all(buf + 1536, sizeof(buf) - 1536, 0));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 512U);
	ts_close(ts);
}

/* ---- RA03 ---- */

Test(reads, ra03_inline_data_is_copied_and_the_tail_of_the_page_is_zero)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 300 });
	char inline_data[512], page[4096];
	struct iomap_folio *folio;

	memset(inline_data, 0xee, sizeof(inline_data));
	t_fill(inline_data, 300, 0, 1);
	ts_map_inline(ts, inline_data, sizeof(inline_data));
	cr_assert(ts_reads(ts, 0, 300, 1));
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	iomap_folio_read(folio, 0, page, sizeof(page));
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(t_mismatch(page, 300, 0, 1), -1);
	cr_assert(t_all(page + 300, sizeof(page) - 300, 0));
	ts_close(ts);
}

/* ---- RA04 ---- */

Test(reads, ra04_reads_stop_at_i_size)
{
	struct ts *ts = mapped_store(10000);
	char buf[16 * KIB];
	struct iovec iov[3] = { { buf, 100 }, { buf + 100, 0 }, { buf + 100, 9000 } };

	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 0), 10000);
	cr_assert_eq(t_mismatch(buf, 10000, 0, 1), -1);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 9990), 10);
	cr_assert_eq(t_mismatch(buf, 10, 9990, 1), -1);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 10000), 0);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 1 << 20), 0);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), INT64_MAX), 0);
	cr_assert_eq(iomap_read(ts->file, buf, 0, 0), 0);
	cr_assert_eq(iomap_read(ts->file, buf, 1, -1), -EINVAL);
	cr_assert_eq(iomap_readv(ts->file, iov, 3, 5000), 5000);
	cr_assert_eq(t_mismatch(buf, 5000, 5000, 1), -1);
	ts_close(ts);
}

Test(reads, ra04_the_tail_of_the_last_page_is_zero)
{
	struct ts *ts = mapped_store(10000);
	struct iomap_folio *folio;
	char page[4096];

	cr_assert(ts_reads(ts, 8192, 10000 - 8192, 1));
	folio = ts_folio(ts, 8192);
	iomap_folio_lock(folio);
	iomap_folio_read(folio, 0, page, sizeof(page));
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(t_mismatch(page, 10000 - 8192, 8192, 1), -1);
	cr_assert(t_all(page + (10000 - 8192), 4096 - (10000 - 8192), 0));
	ts_close(ts);
}

Test(reads, ra04_readahead_stays_below_i_size)
{
	struct ts *ts = mapped_store(10000);

	cr_assert(ts_reads(ts, 0, 10000, 1));
	cr_assert_leq(td_bytes(ts->dev, TD_READ), (uint64_t)(12 * KIB));
	cr_assert_not(td_touched(ts->dev, TD_READ, 76 * KIB, 512 * KIB));
	ts_close(ts);
}

/* ---- RA06 ---- */

Test(reads, ra06_a_short_count_when_an_error_follows_good_data)
{
	struct ts *ts = mapped_store(64 * KIB);
	char buf[32 * KIB];
	ssize_t n;

	ts->map_max_bytes = 4 * KIB;
	td_fail(ts->dev, TD_READ, 64 * KIB + 12 * KIB, 4 * KIB, -EIO, 1000);
	ts->a_ops.readahead = NULL; /* a bio for each folio */
	n = iomap_read(ts->file, buf, sizeof(buf), 100);
	cr_assert_eq(n, 12 * KIB - 100, "%zd", n);
	cr_assert_eq(t_mismatch(buf, (size_t)n, 100, 1), -1);
	ts_close(ts);
}

Test(reads, ra06_the_error_when_no_good_data_precedes_it)
{
	struct ts *ts = mapped_store(64 * KIB);
	char buf[32 * KIB];

	td_fail(ts->dev, TD_READ, 64 * KIB + 12 * KIB, 4 * KIB, -EIO, 1000);
	ts->a_ops.readahead = NULL;
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 12 * KIB + 5), -EIO);
	cr_assert(ts_reads(ts, 16 * KIB, 32 * KIB, 1));
	ts_close(ts);
}

Test(reads, ra06_an_error_of_begin_comes_back_as_it_is)
{
	struct ts *ts = mapped_store(64 * KIB);
	char buf[32 * KIB];
	ssize_t n;

	ts->map_max_bytes = 4 * KIB;
	ts->a_ops.readahead = NULL;
	ts_fail(ts, TS_BEGIN, 1, -ESTALE, 1);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 0), -ESTALE);
	ts_fail(ts, TS_BEGIN, 3, -ESTALE, 1);
	n = iomap_read(ts->file, buf, sizeof(buf), 0);
	cr_assert_eq(n, 8 * KIB, "%zd", n);
	cr_assert_eq(t_mismatch(buf, (size_t)n, 0, 1), -1);
	ts_close(ts);
}
