/* SPDX-License-Identifier: MIT */
/*
 * folio_state.c - FS: what a folio knows of its blocks.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(uint32_t blkbits)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = blkbits });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	return ts;
}

/* ---- FS01 ---- */

Test(folio_state, fs01_a_block_as_large_as_the_folio_needs_no_state)
{
	struct ts *ts = mapped_store(12);
	uint64_t before;

	if (!t_debug()) {
		ts_close(ts);
		cr_skip_test("states are counted in debug builds only");
	}
	before = t_counters().ifs_allocs_nr;
	cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
	ts_write(ts, 100, 200, 2);
	ts_write(ts, 8 * KIB, 4 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 100, 200, 2));
	cr_assert_eq(t_counters().ifs_allocs_nr, before);
	ts_close(ts);
}

Test(folio_state, fs01_io_moves_whole_folios)
{
	struct ts *ts = mapped_store(12);

	ts_write(ts, 100, 200, 2);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)(4 * KIB));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(4 * KIB));
	cr_assert(ts_dev_has(ts, 64 * KIB, 100, 0, 1));
	cr_assert(ts_dev_has(ts, 64 * KIB + 100, 200, 100, 2));
	cr_assert(ts_dev_has(ts, 64 * KIB + 300, 4 * KIB - 300, 300, 1));
	ts_close(ts);
}

/* ---- FS02 ---- */

Test(folio_state, fs02_smaller_blocks_are_uptodate_and_dirty_one_by_one)
{
	for (uint32_t bits = 9; bits < 12; bits++) {
		struct ts *ts = mapped_store(bits);
		size_t block = (size_t)1 << bits;
		uint64_t before = t_debug() ? t_counters().ifs_allocs_nr : 0;

		ts_write(ts, (int64_t)block, block, 2);
		cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
		cr_assert(ts_dirty(ts, 0));
		cr_assert_not(ts_uptodate(ts, 0));
		cr_assert(ts_blocks_uptodate(ts, 0, block, block));
		cr_assert_not(ts_blocks_uptodate(ts, 0, 0, block));
		if (2 * block < 4 * KIB)
			cr_assert_not(ts_blocks_uptodate(ts, 0, 2 * block, block));
		if (t_debug())
			cr_assert_eq(t_counters().ifs_allocs_nr, before + 1);
		/* a read brings in the others and leaves this one */
		cr_assert(ts_reads(ts, 0, block, 1));
		cr_assert(ts_reads(ts, (int64_t)block, block, 2));
		cr_assert(ts_reads(ts, (int64_t)(2 * block), 8 * KIB - 2 * block, 1));
		cr_assert_not(td_touched(ts->dev, TD_READ, 64 * KIB + block, block));
		cr_assert(ts_uptodate(ts, 0));
		ts_close(ts);
	}
}

Test(folio_state, fs02_blocks_smaller_than_the_device_can_do_are_refused)
{
	struct ts *ts = mapped_store(12);
	struct iomap_bdev_limits limits;
	struct iomap_inode inode;
	struct td *coarse;

	iomap_bdev_limits(ts->dev->bdev, &limits);
	limits.logical_block_size = 4096;
	limits.physical_block_size = 4096;
	coarse = td_new(ts->engine, 1 << 20, &limits);
	ts->args.bdev = coarse->bdev;
	for (uint32_t bits = 9; bits <= 12; bits++) {
		int rc;

		ts->args.blkbits = bits;
		rc = iomap_inode_init(ts->engine, &inode, &ts->args);
		cr_assert_eq(rc, bits == 12 ? 0 : -EINVAL, "%u bits: %d", bits, rc);
		if (!rc)
			cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	}
	ts->args.bdev = ts->dev->bdev;
	ts->args.blkbits = 8;
	cr_assert_eq(iomap_inode_init(ts->engine, &inode, &ts->args), -EINVAL);
	cr_assert_geq(t_log_count(&ts->log, IOMAP_LOG_WARN, NULL), 4U, "each says why");
	td_free(coarse);
	ts_close(ts);
}

/* ---- FS03 ---- */

/* Each block lies elsewhere, so that each is read by its own bio. */
static struct ts *scattered_store(uint32_t bits)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .blkbits = bits });
	uint64_t block = (uint64_t)1 << bits;

	for (uint64_t i = 0; i < 4 * KIB / block; i++) {
		ts_map(ts, (int64_t)(i * block), block, IOMAP_MAPPED, 0, (64 + 8 * i) * KIB);
		ts_dev_fill(ts, (64 + 8 * i) * KIB, block, (int64_t)(i * block), 1);
	}
	return ts;
}

Test(folio_state, fs03_a_read_error_leaves_just_its_blocks_not_uptodate)
{
	for (uint32_t bits = 9; bits < 12; bits++) {
		struct ts *ts = scattered_store(bits);
		size_t block = (size_t)1 << bits;
		char buf[4 * KIB];
		ssize_t n;

		/* readahead first, read_folio again: both meet it */
		td_fail(ts->dev, TD_READ, 72 * KIB, block, -EIO, 1000);
		n = iomap_read(ts->file, buf, block, (int64_t)block);
		cr_assert_eq(n, -EIO, "%zd", n);
		cr_assert_not(ts_uptodate(ts, 0));
		for (size_t at = 0; at < 4 * KIB; at += block)
			cr_assert_eq(ts_blocks_uptodate(ts, 0, at, block), at != block,
				     "block at %zu", at);
		/* the others can be read */
		cr_assert(ts_reads(ts, 0, block, 1));
		if (2 * block < 4 * KIB)
			cr_assert(ts_reads(ts, (int64_t)(2 * block), 4 * KIB - 2 * block, 1));

		/* when the device is well again only what is missing is read */
		t_lock(&ts->dev->gate);
		memset(ts->dev->fault, 0, sizeof(ts->dev->fault));
		t_unlock(&ts->dev->gate);
		td_reset(ts->dev);
		cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
		cr_assert(ts_uptodate(ts, 0), "the last block makes the folio uptodate");
		cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)block);
		ts_close(ts);
	}
}

/* ---- FS04 ---- */

Test(folio_state, fs04_writeback_writes_only_dirty_blocks)
{
	for (uint32_t bits = 9; bits <= 12; bits++) {
		struct ts *ts = mapped_store(bits);
		uint64_t block = (uint64_t)1 << bits;
		struct td_io io;

		cr_assert(ts_reads(ts, 0, 16 * KIB, 1));
		ts_write(ts, 8 * KIB - 7, 3, 2); /* in the last block of the second folio */
		cr_assert_not(ts_dirty(ts, 0));
		cr_assert(ts_dirty(ts, 4 * KIB));
		cr_assert_not(ts_dirty(ts, 8 * KIB));
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_not(ts_dirty(ts, 4 * KIB));
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 1U);
		io = td_nth(ts->dev, TD_WRITE, 0);
		cr_assert_eq(io.bytes, block);
		cr_assert_eq(io.addr, 72 * KIB - block);
		cr_assert(ts_dev_has(ts, 72 * KIB - 7, 3, 8 * KIB - 7, 2));
		ts_close(ts);
	}
}

Test(folio_state, fs04_the_folio_is_dirty_while_any_block_is)
{
	struct ts *ts = mapped_store(10);
	struct iomap_folio *folio;

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	ts_write(ts, 3 * KIB, KIB, 2);
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	iomap_invalidate_folio(folio, 0, KIB);
	cr_assert(iomap_folio_test_dirty(folio));
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)KIB);
	cr_assert_eq(td_nth(ts->dev, TD_WRITE, 0).addr, (uint64_t)(67 * KIB));
	cr_assert_not(ts_dirty(ts, 0));
	ts_close(ts);
}

Test(folio_state, fs04_blocks_that_were_written_are_clean)
{
	struct ts *ts = mapped_store(10);

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_write(ts, 0, KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_write(ts, 2 * KIB, KIB, 3);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 2U);
	cr_assert_eq(td_nth(ts->dev, TD_WRITE, 1).addr, (uint64_t)(66 * KIB));
	cr_assert_eq(td_nth(ts->dev, TD_WRITE, 1).bytes, (uint64_t)KIB);
	ts_close(ts);
}

Test(folio_state, fs04_a_block_written_to_under_writeback_is_written_again)
{
	struct ts *ts = mapped_store(10);

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_write(ts, 0, 2 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	ts_write(ts, KIB, KIB, 3);
	cr_assert(ts_dirty(ts, 0));
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 2U);
	cr_assert_eq(td_nth(ts->dev, TD_WRITE, 1).bytes, (uint64_t)KIB);
	cr_assert(ts_dev_has(ts, 64 * KIB, KIB, 0, 2));
	cr_assert(ts_dev_has(ts, 65 * KIB, KIB, KIB, 3));
	ts_close(ts);
}

/* Filled by the application: uptodate as a whole, with no state of its blocks. */
static int fill_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	char buf[4 * KIB];

	(void)file;
	t_fill(buf, sizeof(buf), iomap_folio_pos(folio), 1);
	iomap_folio_write(folio, 0, buf, sizeof(buf));
	iomap_folio_mark_uptodate(folio);
	iomap_folio_unlock(folio);
	return 0;
}

Test(folio_state, fs04_overwriting_a_folio_without_state_dirties_just_its_blocks)
{
	struct ts *ts = calloc(1, sizeof(*ts));

	cr_assert_not_null(ts);
	ts_prepare(ts, &(struct ts_config){ .i_size = 8 * KIB, .blkbits = 9 });
	ts->a_ops.read_folio = fill_folio;
	ts->a_ops.readahead = NULL;
	ts_begin(ts);
	ts_map(ts, 0, 8 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 1));
	td_reset(ts->dev);
	ts_write(ts, 1000, 30, 2); /* astride of two blocks */
	ts_write(ts, 5000, 1, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 3 * 512U);
	cr_assert(ts_dev_has(ts, 64 * KIB + 1000, 30, 1000, 2));
	/* and again, with the state that it has by now */
	td_reset(ts->dev);
	ts_write(ts, 2000, 30, 3);
	ts_write(ts, 2000, 30, 4);
	ts_write(ts, 3000, 1, 4);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 2 * 512U);
	cr_assert(ts_dev_has(ts, 64 * KIB + 2000, 30, 2000, 4));
	ts_close(ts);
}
