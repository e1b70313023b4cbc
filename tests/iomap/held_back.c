/* SPDX-License-Identifier: MIT */
/*
 * held_back.c - WB06: what becomes of a folio of which the application holds a part back.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define PAGE 4096
#define BLOCK 512

/* hook.arg: file position from which on everything is held back */
static ssize_t hold_from(struct ts *ts, struct iomap_writepage_ctx *wpc,
			 struct iomap_folio *folio, uint64_t pos, unsigned len, uint64_t end_pos)
{
	uint64_t limit = *(uint64_t *)ts->hook.arg;

	if (pos >= limit)
		return IOMAP_WB_DEFER;
	if (pos + len > limit)
		len = (unsigned)(limit - pos);
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

static struct ts *store_with_old_bytes(uint64_t *limit)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = PAGE, .blkbits = 9 });

	ts_map(ts, 0, PAGE, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, PAGE, 0, 1);
	ts->hook.range = hold_from;
	ts->hook.arg = limit;
	return ts;
}

/* Blocks that nobody has read or written hold no data: they must never be written. */
Test(held_back, wb06_only_what_was_dirty_is_written_in_the_end)
{
	uint64_t limit = 0;
	struct ts *ts = store_with_old_bytes(&limit);

	ts_write(ts, 2 * BLOCK, BLOCK, 2);
	cr_assert_eq(ts_fsync(ts), -EAGAIN);
	limit = PAGE;
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)BLOCK);
	cr_assert(ts_dev_has(ts, 0, 2 * BLOCK, 0, 1));
	cr_assert(ts_dev_has(ts, 2 * BLOCK, BLOCK, 2 * BLOCK, 2));
	cr_assert(ts_dev_has(ts, 3 * BLOCK, PAGE - 3 * BLOCK, 3 * BLOCK, 1));
	ts_close(ts);
}

Test(held_back, wb06_what_went_out_before_is_not_written_again)
{
	uint64_t limit = 3 * BLOCK;
	struct ts *ts = store_with_old_bytes(&limit);

	ts_write(ts, BLOCK, 4 * BLOCK, 2);
	cr_assert_eq(ts_fsync(ts), -EAGAIN);
	cr_assert(ts_dev_has(ts, BLOCK, 2 * BLOCK, BLOCK, 2));
	cr_assert(ts_dev_has(ts, 3 * BLOCK, PAGE - 3 * BLOCK, 3 * BLOCK, 1));
	limit = PAGE;
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 2U * BLOCK);
	cr_assert(ts_dev_has(ts, BLOCK, 4 * BLOCK, BLOCK, 2));
	cr_assert(ts_dev_has(ts, 5 * BLOCK, PAGE - 5 * BLOCK, 5 * BLOCK, 1));
	ts_close(ts);
}

/* A folio without block state is dirty as a whole, until a part of it has gone out. */
Test(held_back, wb06_a_folio_that_is_dirty_as_a_whole)
{
	uint64_t limit = 3 * BLOCK;
	struct ts *ts = store_with_old_bytes(&limit);
	struct iomap_folio *folio;

	cr_assert(ts_reads(ts, 0, PAGE, 1));
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	cr_assert(iomap_release_folio(folio, 0));
	iomap_dirty_folio(&ts->inode.i_data, folio);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), -EAGAIN);
	limit = PAGE;
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(PAGE - 3 * BLOCK));
	ts_close(ts);
}
