/* SPDX-License-Identifier: MIT */
/*
 * unshare.c - US: a file gets its own copy of the blocks that it shares.
 *
 * The other owner is the device itself: what lies at the old address may never change.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define OLD_ADDR (64 * KIB) /* where the shared blocks are */
#define NEW_ADDR (8 * MIB)  /* where blocks of the file's own go */

/* Shared blocks get a new place when they are written out. */
static ssize_t cow_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			 uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct ts_extent e = ts_lookup(ts, (int64_t)pos);
	uint64_t left = (uint64_t)e.offset + e.length - pos;

	if (e.flags & IOMAP_F_SHARED)
		ts_map(ts, (int64_t)pos, len < left ? len : left, IOMAP_MAPPED, 0, NEW_ADDR + pos);
	return ts_range(ts, wpc, folio, pos, len, end_pos);
}

static struct ts *shared(uint32_t blkbits, bool with_write_ops)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits,
						     .with_write_ops = with_write_ops });

	ts_poison(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_SHARED, OLD_ADDR);
	ts_dev_fill(ts, OLD_ADDR, 64 * KIB, 0, 1);
	ts->hook.range = cow_range;
	return ts;
}

static int unshare_range(struct ts *ts, int64_t pos, int64_t len)
{
	int err;

	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	err = iomap_file_unshare(&ts->inode, pos, len, &ts->ops, ts->i_op.write_ops);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
	return err;
}

Test(unshare, us01_shared_blocks_go_to_new_space)
{
	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++) {
		struct ts *ts = shared(blkbits, false);
		const int64_t block = 1 << blkbits, first = 5000 / block * block;
		const size_t len = (size_t)((25000 + block - 1) / block * block - first);

		cr_assert_eq(unshare_range(ts, 5000, 20000), 0);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).flags, (unsigned)(IOMAP_WRITE | IOMAP_UNSHARE));
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).pos, 5000);
		cr_assert_eq(ts_last(ts, TS_END).written, 20000);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), len, "whole blocks, and no more");
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), len);
		cr_assert(ts_dev_has(ts, NEW_ADDR + (uint64_t)first, len, first, 1));
		cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1), "the other owner's");
		/* and it is the file's own now */
		ts_dev_fill(ts, OLD_ADDR + (uint64_t)first, len, first, 7);
		ts_drop(ts);
		cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
		ts_close(ts);
	}
}

Test(unshare, us01_what_is_cached_is_not_read_again)
{
	struct ts *ts = shared(10, false);

	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_write(ts, 20000, 5000, 2);
	td_reset(ts->dev);
	cr_assert_eq(unshare_range(ts, 16 * KIB, 16 * KIB), 0);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 16U * KIB);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 20000, 1));
	cr_assert(ts_reads(ts, 20000, 5000, 2));
	cr_assert(ts_reads(ts, 25000, 40000, 1));
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
	ts_close(ts);
}

static void left_alone(unsigned type, unsigned flags)
{
	struct ts *ts = shared(12, true);
	uint64_t addr = type == IOMAP_MAPPED || type == IOMAP_UNWRITTEN ? OLD_ADDR : IOMAP_NULL_ADDR;

	if (type == IOMAP_HOLE)
		ts_punch(ts, 0, 64 * KIB);
	else
		ts_map(ts, 0, 64 * KIB, type, flags, addr);
	cr_assert_eq(unshare_range(ts, 1000, 60000), 0);
	cr_assert_eq(ts_last(ts, TS_END).written, 60000);
	cr_assert_eq(ts_calls(ts, TS_GET), 0U);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	ts_close(ts);
}

Test(unshare, us01_what_is_not_shared_is_left_alone)
{
	left_alone(IOMAP_MAPPED, 0);
	left_alone(IOMAP_HOLE, 0);
	left_alone(IOMAP_UNWRITTEN, 0);
	left_alone(IOMAP_UNWRITTEN, IOMAP_F_SHARED);
	left_alone(IOMAP_DELALLOC, 0);
	left_alone(IOMAP_MAPPED, IOMAP_F_SHARED | IOMAP_F_NEW);
}

Test(unshare, us01_only_the_shared_blocks_among_others)
{
	struct ts *ts = shared(10, false);

	/* own, hole, shared, unwritten, shared */
	ts_map(ts, 0, 8 * KIB, IOMAP_MAPPED, 0, OLD_ADDR);
	ts_punch(ts, 8 * KIB, 8 * KIB);
	ts_map(ts, 24 * KIB, 8 * KIB, IOMAP_UNWRITTEN, 0, OLD_ADDR + 24 * KIB);
	cr_assert_eq(unshare_range(ts, 0, 64 * KIB), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (8U + 32U) * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (8U + 32U) * KIB);
	cr_assert(ts_dev_has(ts, NEW_ADDR + 16 * KIB, 8 * KIB, 16 * KIB, 1));
	cr_assert(ts_dev_has(ts, NEW_ADDR + 32 * KIB, 32 * KIB, 32 * KIB, 1));
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 1));
	cr_assert(ts_reads_all(ts, 8 * KIB, 8 * KIB, 0));
	cr_assert(ts_reads(ts, 16 * KIB, 8 * KIB, 1));
	cr_assert(ts_reads_all(ts, 24 * KIB, 8 * KIB, 0));
	cr_assert(ts_reads(ts, 32 * KIB, 32 * KIB, 1));
	ts_close(ts);
}

/* As a filesystem with a map of its own for what is being copied: the source is elsewhere. */
static int with_srcmap(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length;
	if (!(flags & IOMAP_UNSHARE) || !(iomap->flags & IOMAP_F_SHARED))
		return 0;
	*srcmap = *iomap;
	srcmap->flags = 0;
	iomap->type = IOMAP_DELALLOC;
	iomap->addr = IOMAP_NULL_ADDR;
	return 0;
}

Test(unshare, us01_a_srcmap_is_where_the_bytes_come_from)
{
	struct ts *ts = shared(10, true);

	ts->hook.begin = with_srcmap;
	cr_assert_eq(unshare_range(ts, 3 * KIB, 30 * KIB), 0);
	cr_assert_eq(ts_nth(ts, TS_WREAD, 0).iomap.addr, OLD_ADDR);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, NEW_ADDR + 3 * KIB, 30 * KIB, 3 * KIB, 1));
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
	ts_close(ts);
}

Test(unshare, us01_it_ends_with_the_file)
{
	struct ts *ts = shared(12, false);

	iomap_i_size_write(&ts->inode, 10000);
	cr_assert_eq(unshare_range(ts, 0, 64 * KIB), 0);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).length, 10000U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 12U * KIB);
	cr_assert(ts_dev_has(ts, NEW_ADDR, 10000, 0, 1));
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
	ts_reset(ts);
	cr_assert_eq(unshare_range(ts, 10000, 1000), 0);
	cr_assert_eq(unshare_range(ts, 0, 0), 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	cr_assert_eq(unshare_range(ts, -1, 1000), -EINVAL);
	cr_assert_eq(unshare_range(ts, 0, -1), -EINVAL);
	ts->a_ops.writepages = NULL;
	cr_assert_eq(unshare_range(ts, 0, 1000), -EINVAL);
	ts_close(ts);
}

Test(unshare, us01_a_block_that_cannot_be_read_stays_shared_and_clean)
{
	struct ts *ts = shared(12, false);

	td_fail(ts->dev, TD_READ, OLD_ADDR + 8 * KIB, 4 * KIB, -EIO, 1);
	cr_assert_eq(unshare_range(ts, 0, 64 * KIB), -EIO);
	cr_assert_eq(ts_last(ts, TS_END).written, 8 * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 8U * KIB);
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_close(ts);
}

Test(unshare, wo01_get_folio_comes_first_and_its_error_ends_an_unsharing)
{
	struct ts *ts = shared(12, true);

	cr_assert_eq(unshare_range(ts, 0, 8 * KIB), 0);
	cr_assert_eq(ts_calls(ts, TS_GET), 2U);
	cr_assert_eq(ts_calls(ts, TS_PUT), 2U);
	cr_assert_eq(ts_nth(ts, TS_GET, 1).pos, 4 * KIB);
	cr_assert_eq(ts_nth(ts, TS_GET, 1).flags, (unsigned)(IOMAP_WRITE | IOMAP_UNSHARE));
	cr_assert_eq(ts_nth(ts, TS_PUT, 1).written, 4 * KIB);
	/* WO04: whole blocks, by the application's own reads */
	cr_assert_eq(ts_nth(ts, TS_WREAD, 1).length, 4U * KIB);
	ts_reset(ts);
	ts_fail(ts, TS_GET, 2, -ENOSPC, 1);
	cr_assert_eq(unshare_range(ts, 0, 16 * KIB), -ENOSPC);
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	cr_assert_eq(ts_last(ts, TS_END).written, 4 * KIB);
	ts_close(ts);
}

/* The map changes between iomap_begin and the folio's lock, once. */
static void change_map(struct ts *ts, struct iomap_iter *iter, int64_t pos)
{
	(void)iter;
	ts->hook.get = NULL;
	ts_map(ts, pos, 4 * KIB, IOMAP_MAPPED, 0, NEW_ADDR + (uint64_t)pos);
	ts_dev_fill(ts, NEW_ADDR + (uint64_t)pos, 4 * KIB, pos, 3);
}

Test(unshare, us01_a_mapping_that_is_stale_is_sampled_again)
{
	struct ts *ts = shared(12, true);

	ts->hook.get = change_map;
	cr_assert_eq(unshare_range(ts, 0, 16 * KIB), 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 3U, "stale, not shared any more, the rest");
	cr_assert_eq(ts_calls(ts, TS_END), 3U);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 3));
	cr_assert(ts_reads(ts, 4 * KIB, 60 * KIB, 1));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 12U * KIB);
	ts_close(ts);
}

Test(unshare, us01_inside_large_folios)
{
	struct ts *ts = shared(10, false);

	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 4, 4), 0);
	cr_assert_eq(unshare_range(ts, 5 * KIB, 20 * KIB), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 20U * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 20U * KIB);
	cr_assert(ts_dev_has(ts, NEW_ADDR + 5 * KIB, 20 * KIB, 5 * KIB, 1));
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_close(ts);
}
