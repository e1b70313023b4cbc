/* SPDX-License-Identifier: MIT */
/*
 * zero.c - ZR: zeroing a range in the cache, where there is something else.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

static struct ts *store(const struct ts_config *cfg)
{
	struct ts *ts = ts_open(cfg);

	ts_poison(ts);
	return ts;
}

/* 64 KiB of pattern 1 at 64 KiB of a device that is full of rubbish. */
static struct ts *mapped(uint32_t blkbits)
{
	struct ts *ts = store(&(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits,
						   .with_write_ops = true });

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	return ts;
}

static int zero_range(struct ts *ts, int64_t pos, int64_t len, bool *did_zero)
{
	int err;

	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	err = iomap_zero_range(&ts->inode, pos, len, did_zero, &ts->ops, ts->i_op.write_ops, ts);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
	return err;
}

static bool cached_at(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> 12);

	if (folio)
		iomap_folio_put(folio);
	return folio;
}

/* The file is pattern 1 but for zeros in [pos, pos + len), in the cache and on the device. */
static void check_zeroed(struct ts *ts, int64_t pos, size_t len, int64_t size)
{
	for (int pass = 0; pass < 2; pass++) {
		if (pos)
			cr_assert(ts_reads(ts, 0, (size_t)pos, 1));
		cr_assert(ts_reads_all(ts, pos, len, 0));
		cr_assert(ts_reads(ts, pos + (int64_t)len, (size_t)(size - pos) - len, 1));
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	}
}

/* ---- mapped space ---- */

Test(zero, zr01_unaligned_ends_are_zeroed_in_the_cache)
{
	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++) {
		struct ts *ts = mapped(blkbits);
		bool did_zero = false;

		cr_assert_eq(zero_range(ts, 1100, 20000, &did_zero), 0);
		cr_assert(did_zero);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).flags, (unsigned)IOMAP_ZERO);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).pos, 1100);
		cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).length, 20000U);
		cr_assert_eq(ts_last(ts, TS_END).written, 20000);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
		/* nothing went to the device, and no more was read than the blocks at both ends */
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), 2U << blkbits);
		check_zeroed(ts, 1100, 20000, 64 * KIB);
		ts_close(ts);
	}
}

Test(zero, zr01_what_is_wholly_covered_is_not_read)
{
	struct ts *ts = mapped(10);
	bool did_zero = false;

	cr_assert_eq(zero_range(ts, 3 * KIB, 20 * KIB, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert_eq(ts_calls(ts, TS_WREAD), 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 20U * KIB, "and nothing else is written");
	check_zeroed(ts, 3 * KIB, 20 * KIB, 64 * KIB);
	ts_close(ts);
}

Test(zero, zr01_one_byte_of_a_cached_block)
{
	struct ts *ts = mapped(12);

	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	td_reset(ts->dev);
	cr_assert_eq(zero_range(ts, 5000, 1, NULL), 0);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	check_zeroed(ts, 5000, 1, 64 * KIB);
	ts_close(ts);
}

Test(zero, zr01_the_other_end_of_a_file_that_ends_in_a_block)
{
	struct ts *ts = mapped(12);
	bool did_zero = false;

	iomap_i_size_write(&ts->inode, 10000);
	cr_assert_eq(zero_range(ts, 9000, 8000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 10000);
	cr_assert(ts_reads(ts, 0, 9000, 1));
	cr_assert(ts_reads_all(ts, 9000, 1000, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB, 9000, 0, 1));
	cr_assert(ts_dev_all(ts, 64 * KIB + 9000, 12 * KIB - 9000, 0));
	cr_assert(ts_dev_has(ts, 76 * KIB, 52 * KIB, 12 * KIB, 1), "beyond it nothing is written");
	ts_close(ts);
}

/* ---- where there is nothing to zero ---- */

Test(zero, zr01_holes_and_clean_unwritten_space_are_skipped)
{
	static const unsigned type[] = { IOMAP_HOLE, IOMAP_UNWRITTEN, IOMAP_DELALLOC };

	for (size_t i = 0; i < 3; i++) {
		struct ts *ts = mapped(10);
		bool did_zero = false;

		ts_punch(ts, 8 * KIB, 32 * KIB);
		if (type[i] != IOMAP_HOLE)
			ts_map(ts, 8 * KIB, 32 * KIB, type[i], 0,
			       type[i] == IOMAP_UNWRITTEN ? 256 * KIB : IOMAP_NULL_ADDR);
		/* some of it is cached, and clean */
		cr_assert(ts_reads_all(ts, 16 * KIB, 4 * KIB, 0));
		cr_assert_eq(zero_range(ts, 8 * KIB + 100, 32 * KIB - 200, &did_zero), 0);
		cr_assert_not(did_zero);
		cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END));
		cr_assert_eq(ts_last(ts, TS_END).written, 32 * KIB - 200);
		cr_assert_eq(ts_calls(ts, TS_GET), 0U);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
		cr_assert_not(cached_at(ts, 12 * KIB));
		cr_assert_not(cached_at(ts, 32 * KIB));
		ts_close(ts);
	}
}

Test(zero, zr01_lengths_of_zero_and_ranges_that_cannot_be)
{
	struct ts *ts = mapped(12);
	bool did_zero = false;

	cr_assert_eq(zero_range(ts, 100, 0, &did_zero), 0);
	cr_assert_eq(zero_range(ts, -1, 100, &did_zero), -EINVAL);
	cr_assert_eq(zero_range(ts, 0, -1, &did_zero), -EINVAL);
	cr_assert_eq(zero_range(ts, INT64_MAX - 10, 11, &did_zero), -EOVERFLOW);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	cr_assert_not(did_zero);
	ts->a_ops.writepages = NULL;
	cr_assert_eq(zero_range(ts, 0, 100, &did_zero), -EINVAL);
	ts_close(ts);
}

/* ---- what only the cache has ---- */

/* A store whose writes go to unwritten or reserved space. */
static struct ts *fresh(enum ts_alloc alloc, uint32_t blkbits)
{
	return store(&(struct ts_config){ .i_size = 64 * KIB, .alloc = alloc, .blkbits = blkbits,
					  .with_write_ops = true });
}

Test(zero, zr01_dirty_data_over_unwritten_and_reserved_space_is_zeroed)
{
	for (enum ts_alloc alloc = TS_UNWRITTEN; alloc <= TS_DELALLOC; alloc++) {
		struct ts *ts = fresh(alloc, 10);
		bool did_zero = false;

		ts_write(ts, 0, 64 * KIB, 1);
		cr_assert_eq(zero_range(ts, 5000, 30000, &did_zero), 0);
		cr_assert(did_zero);
		cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
		check_zeroed(ts, 5000, 30000, 64 * KIB);
		ts_close(ts);
	}
}

Test(zero, zr01_only_dirty_blocks_of_it_are_touched)
{
	struct ts *ts = fresh(TS_UNWRITTEN, 10);
	bool did_zero = false;

	ts_map(ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 256 * KIB);
	cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
	ts_write(ts, 17 * KIB, 1 * KIB, 1);
	ts_write(ts, 33 * KIB, 6 * KIB, 1);
	ts_reset(ts);
	cr_assert_eq(zero_range(ts, 1000, 60000, &did_zero), 0);
	cr_assert(did_zero);
	/* the same blocks are dirty, and no others */
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 7U * KIB);
	cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
	did_zero = false;
	cr_assert_eq(zero_range(ts, 0, 16 * KIB, &did_zero), 0);
	cr_assert_not(did_zero);
	ts_close(ts);
}

/* Writeback of [0, 16 KiB), written, hangs in the device; the extent is unwritten until it ends. */
static bool extent_is_unwritten;

static ssize_t late_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	ssize_t n = ts_range(ts, wpc, folio, pos, len, end_pos);

	if (extent_is_unwritten)
		ts_map(ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 256 * KIB);
	return n;
}

static long zero_all(void *arg)
{
	bool did_zero = false;
	int err = zero_range(arg, 0, 64 * KIB, &did_zero);

	return err ? err : did_zero;
}

static void zero_beside_writeback(bool with_valid)
{
	struct ts *ts = fresh(TS_UNWRITTEN, 12);
	struct iomap_writeback_control wbc = { .range_end = INT64_MAX, .nr_to_write = 100 };
	struct t_task task;

	if (!with_valid)
		ts->i_op.write_ops = NULL;
	td_async(ts->dev);
	ts_map(ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 256 * KIB);
	ts->hook.range = late_range;
	extent_is_unwritten = true;
	ts_write(ts, 0, 16 * KIB, 1);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(ts->a_ops.writepages(&ts->inode.i_data, &wbc), 0);
	td_wait_held(ts->dev, 1);
	cr_assert_not(ts_dirty(ts, 0));
	t_start(&task, zero_all, ts);
	/* what the write converts, seen before the folio is under writeback no more */
	ts_wait_calls(ts, TS_BEGIN, ts_calls(ts, TS_END) + 1);
	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 256 * KIB);
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 1);
	extent_is_unwritten = false;
	for (int pass = 0; pass < 2; pass++) {
		cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
	}
	cr_assert(ts_dev_all(ts, 256 * KIB, 16 * KIB, 0));
	ts_close(ts);
}

Test(zero, zr01_data_that_is_being_written_to_unwritten_space_is_zeroed)
{
	zero_beside_writeback(true);
	zero_beside_writeback(false);
}

/* What was dirty when the mapping was sampled is written and evicted before it is looked for. */
static int write_out_after_begin(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
				 struct iomap *iomap, struct iomap *srcmap)
{
	struct iomap_writeback_control wbc = { .sync_mode = IOMAP_WB_SYNC_ALL,
					       .range_end = INT64_MAX,
					       .nr_to_write = INT64_MAX };

	(void)pos, (void)length, (void)iomap, (void)srcmap;
	if (!(flags & IOMAP_ZERO) || iomap->type != IOMAP_UNWRITTEN)
		return 0;
	t_must(ts->a_ops.writepages(&ts->inode.i_data, &wbc) == 0);
	t_must(t_stats(ts->engine).dirty_bytes == 0);
	ts_drop(ts);
	t_must(!cached_at(ts, 0));
	return 0;
}

Test(zero, zr01_data_that_has_been_written_since_the_mapping_was_sampled_is_zeroed)
{
	/* with iomap_valid and without */
	for (int i = 0; i < 2; i++) {
		struct ts *ts = fresh(TS_UNWRITTEN, 12);
		bool did_zero = false;

		if (i)
			ts->i_op.write_ops = NULL;
		ts_write(ts, 0, 64 * KIB, 1);
		ts->hook.begin = write_out_after_begin;
		cr_assert_eq(zero_range(ts, 1000, 60000, &did_zero), 0);
		cr_assert(did_zero);
		ts->hook.begin = NULL;
		check_zeroed(ts, 1000, 60000, 64 * KIB);
		ts_close(ts);
	}
}

/* A hole of the map over which the cache has data: a copy-on-write map that tells of one half. */
static int tell_of_a_hole(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			  struct iomap *iomap, struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length, (void)srcmap;
	if (flags & IOMAP_ZERO && iomap->type == IOMAP_DELALLOC) {
		iomap->type = IOMAP_HOLE;
		iomap->addr = IOMAP_NULL_ADDR;
	}
	return 0;
}

Test(zero, zr01_dirty_data_over_a_hole_is_zeroed)
{
	struct ts *ts = fresh(TS_DELALLOC, 10);
	bool did_zero = false;

	ts->hook.begin = tell_of_a_hole;
	ts_write(ts, 8 * KIB, 8 * KIB, 1);
	cr_assert_eq(zero_range(ts, 9000, 40000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert(ts_reads_all(ts, 9000, 40000, 0));
	cr_assert(ts_reads(ts, 8 * KIB, 9000 - 8 * KIB, 1));
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 8U * KIB);
	ts_close(ts);
}

/* Copy-on-write: reserved space whose source is elsewhere. */
static int copy_on_write(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			 struct iomap *iomap, struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length;
	if (!(flags & (IOMAP_WRITE | IOMAP_ZERO)) || iomap->type != IOMAP_MAPPED)
		return 0;
	*srcmap = *iomap;
	iomap->type = IOMAP_DELALLOC;
	iomap->addr = IOMAP_NULL_ADDR;
	iomap->flags = IOMAP_F_SHARED;
	return 0;
}

Test(zero, zr01_the_source_of_the_data_tells_what_is_there)
{
	struct ts *ts = mapped(12);
	bool did_zero = false;

	ts->hook.begin = copy_on_write;
	cr_assert_eq(zero_range(ts, 1000, 10000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads_all(ts, 1000, 10000, 0));
	cr_assert(ts_reads(ts, 11000, 50000, 1));
	ts_close(ts);
}

Test(zero, zr01_more_dirty_folios_than_are_looked_at_at_once)
{
	struct ts *ts = store(&(struct ts_config){ .i_size = MIB, .alloc = TS_UNWRITTEN });
	bool did_zero = false;

	ts_map(ts, 0, MIB, IOMAP_UNWRITTEN, 0, MIB);
	for (int64_t pos = 0; pos < MIB; pos += 12 * KIB)
		ts_write(ts, pos, 4 * KIB, 1);
	cr_assert_eq(zero_range(ts, 0, MIB, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert(ts_reads_all(ts, 0, MIB, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)((MIB + 12 * KIB - 1) / (12 * KIB)) *
							  4U * KIB);
	ts_close(ts);
}

/* ---- errors ---- */

Test(zero, zr01_errors_end_it_and_come_back)
{
	struct ts *ts = mapped(12);

	ts_fail(ts, TS_BEGIN, 1, -ENOLCK, 1);
	cr_assert_eq(zero_range(ts, 0, 100, NULL), -ENOLCK);
	ts_fail(ts, TS_WREAD, 1, -EIO, 1);
	cr_assert_eq(zero_range(ts, 100, 100, NULL), -EIO);
	cr_assert_eq(ts_calls(ts, TS_GET), ts_calls(ts, TS_PUT));
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END) + 1);
	ts_close(ts);
}

Test(zero, wo01_get_folio_comes_first_and_its_error_ends_a_zeroing)
{
	static const unsigned type[] = { IOMAP_MAPPED, IOMAP_UNWRITTEN };

	for (size_t i = 0; i < 2; i++) {
		struct ts *ts = mapped(12);
		bool did_zero = false;

		ts_map(ts, 0, 64 * KIB, type[i], 0, 64 * KIB);
		if (type[i] == IOMAP_UNWRITTEN)
			ts_write(ts, 0, 16 * KIB, 1);
		ts_reset(ts);
		cr_assert_eq(zero_range(ts, 0, 16 * KIB, &did_zero), 0);
		cr_assert_eq(ts_calls(ts, TS_GET), 4U);
		cr_assert_eq(ts_calls(ts, TS_PUT), 4U);
		for (size_t n = 0; n < 4; n++) {
			cr_assert_eq(ts_nth(ts, TS_GET, n).pos, (int64_t)n * 4 * KIB);
			cr_assert_eq(ts_nth(ts, TS_GET, n).flags, (unsigned)IOMAP_ZERO);
			cr_assert_eq(ts_nth(ts, TS_GET, n).private_data, ts);
			cr_assert_eq(ts_nth(ts, TS_PUT, n).written, 4 * KIB);
			cr_assert_eq(ts_nth(ts, TS_PUT, n).folio, ts_nth(ts, TS_GET, n).folio);
		}
		ts_reset(ts);
		ts_fail(ts, TS_GET, 2, -EDQUOT, 1);
		cr_assert_eq(zero_range(ts, 0, 16 * KIB, &did_zero), -EDQUOT);
		cr_assert_eq(ts_calls(ts, TS_GET), 2U);
		cr_assert_eq(ts_calls(ts, TS_PUT), 1U, "none for the one that failed");
		cr_assert_eq(ts_last(ts, TS_END).written, 4 * KIB);
		ts_close(ts);
	}
}

Test(zero, wo01_get_folio_comes_before_a_truncation_touches_a_folio)
{
	struct ts *ts = mapped(12);

	cr_assert_eq(iomap_truncate(ts->file, 1000), 0);
	cr_assert_eq(ts_calls(ts, TS_GET), 1U);
	cr_assert_eq(ts_nth(ts, TS_GET, 0).pos, 1000);
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	ts_fail(ts, TS_GET, 1, -EDQUOT, 1);
	cr_assert_eq(iomap_truncate(ts->file, 500), -EDQUOT);
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 1000);
	ts_close(ts);
}

/* ---- many extents, large folios ---- */

/* Extents of every type in turn, of a few blocks each; the model says what the file holds. */
static void map_all_types(struct ts *ts, uint8_t *model, int64_t size, int64_t block,
			  struct t_rand *r)
{
	static const unsigned type[] = { IOMAP_HOLE, IOMAP_MAPPED, IOMAP_UNWRITTEN, IOMAP_DELALLOC };
	int64_t pos, len;

	memset(model, 0, (size_t)size);
	for (pos = 0; pos < size; pos += len) {
		unsigned which = (unsigned)t_below(r, 4);

		len = block * (int64_t)(1 + t_below(r, 12));
		len = len < size - pos ? len : size - pos;
		if (type[which] == IOMAP_HOLE)
			continue;
		ts_map(ts, pos, (uint64_t)len, type[which], 0,
		       type[which] == IOMAP_DELALLOC ? IOMAP_NULL_ADDR : (uint64_t)(pos + size));
		if (type[which] == IOMAP_MAPPED) {
			ts_dev_fill(ts, (uint64_t)(pos + size), (size_t)len, pos, 1);
			t_fill(model + pos, (size_t)len, pos, 1);
		}
	}
}

static void compare(struct ts *ts, const uint8_t *model, size_t size)
{
	uint8_t *buf = malloc(size);

	cr_assert_eq(iomap_read(ts->file, buf, size, 0), (ssize_t)size);
	for (size_t i = 0; i < size; i++)
		cr_assert_eq(buf[i], model[i], "byte %zu", i);
	free(buf);
}

static void zero_all_types(uint32_t blkbits, unsigned min_order, unsigned max_order, uint64_t seed)
{
	const int64_t size = 256 * KIB;
	struct t_rand r = { seed };
	struct iomap_engine_opts opts;
	uint8_t *model = malloc((size_t)size);
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 8 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = size, .blkbits = blkbits, .opts = &opts,
					  .alloc = TS_DELALLOC, .with_write_ops = seed & 1,
					  .dev_bytes = 64 * MIB });
	ts_poison(ts);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, min_order, max_order),
		     0);
	map_all_types(ts, model, size, 1 << blkbits, &r);
	for (int i = 0; i < 60; i++) {
		int64_t pos = (int64_t)t_below(&r, (uint64_t)size);
		int64_t len = (int64_t)(1 + t_below(&r, (uint64_t)(size - pos)));

		switch (t_below(&r, 6)) {
		case 0:
		case 1:
			len = len < 20000 ? len : 20000;
			ts_write(ts, pos, (size_t)len, 1);
			t_fill(model + pos, (size_t)len, pos, 1);
			break;
		case 2:
			cr_assert_eq(iomap_sync_range(ts->file, pos, pos + len, IOMAP_SYNC_WRITE),
				     0);
			ts_drop(ts);
			break;
		case 3:
			compare(ts, model, (size_t)size);
			break;
		default:
			len = len < 60000 ? len : 60000;
			cr_assert_eq(zero_range(ts, pos, len, NULL), 0);
			memset(model + pos, 0, (size_t)len);
		}
	}
	compare(ts, model, (size_t)size);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	compare(ts, model, (size_t)size);
	ts_close(ts);
	free(model);
}

Test(zero, zr02_extents_of_all_types_and_folios_of_all_sizes)
{
	uint64_t seed = t_seed();

	for (unsigned i = 0; i < 24; i++) {
		static const uint32_t blkbits[] = { 9, 10, 12, 12, 14, 16 };
		uint32_t bits = blkbits[i % 6];
		unsigned min_order = bits > 12 ? bits - 12 : i % 3;

		zero_all_types(bits, min_order, 4, seed + i);
	}
}

Test(zero, zr02_inline_data_is_zeroed_in_place)
{
	static char data[4096];
	struct ts *ts = store(&(struct ts_config){ .i_size = 3000 });
	bool did_zero = false;

	t_fill(data, sizeof(data), 0, 1);
	ts_map_inline(ts, data, sizeof(data));
	cr_assert_eq(zero_range(ts, 1000, 1000, &did_zero), 0);
	cr_assert(did_zero);
	cr_assert_lt(t_mismatch(data, 1000, 0, 1), 0);
	cr_assert(t_all(data + 1000, 1000, 0));
	cr_assert_lt(t_mismatch(data + 2000, 1000, 2000, 1), 0);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	ts_close(ts);
}

Test(zero, zr02_a_part_of_a_large_folio_dirties_its_blocks_alone)
{
	struct ts *ts;
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 32 * MIB;
	opts.max_folio_bytes = 2 * MIB;
	opts.max_callers = 4;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = 4 * MIB, .blkbits = 10, .opts = &opts });
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 9, 9), 0);
	ts_map(ts, 0, 4 * MIB, IOMAP_MAPPED, 0, 4 * MIB);
	ts_dev_fill(ts, 4 * MIB, 4 * MIB, 0, 1);
	cr_assert_eq(zero_range(ts, 2 * MIB - 10000, 20000, NULL), 0);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 4U * MIB, "two folios");
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 2U * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 20U * KIB);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 2 * MIB - 20000, 10000, 1));
	cr_assert(ts_reads_all(ts, 2 * MIB - 10000, 20000, 0));
	cr_assert(ts_reads(ts, 2 * MIB + 10000, 10000, 1));
	ts_close(ts);
}
