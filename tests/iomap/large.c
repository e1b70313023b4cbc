/* SPDX-License-Identifier: MIT */
/*
 * large.c - FS05, CA07: folios of more than one page, and blocks of more than one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)

/* A store of 8 MiB, mapped, whose inode may have large folios up to `max`. */
static struct ts *large_store(uint64_t cache_bytes, uint64_t max, uint32_t blkbits)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_folio_bytes = max;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_background_pct = opts.dirty_hard_pct = 80;
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts, .blkbits = blkbits });
	ts_map(ts, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 8 * MIB, 0, 1);
	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	return ts;
}

static size_t size_at(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);
	size_t size = iomap_folio_size(folio);

	cr_assert_eq((uint64_t)iomap_folio_pos(folio) % size, 0U, "it lies at its size");
	iomap_folio_put(folio);
	return size;
}

static bool cached_at(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> 12);

	if (folio)
		iomap_folio_put(folio);
	return folio;
}

/* ---- asking for them ---- */

Test(large, fs05_without_a_word_all_folios_are_of_base_size)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = MIB });

	ts_map(ts, 0, MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, MIB, 0, 1);
	cr_assert(ts_reads(ts, 0, MIB / 2, 1));
	ts_write(ts, MIB / 2, MIB / 2, 1);
	for (int64_t pos = 0; pos < MIB; pos += 4 * KIB)
		cr_assert_eq(size_at(ts, pos), 4U * KIB);
	ts_close(ts);
}

Test(large, fs05_they_are_asked_for_before_the_first_folio)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = MIB });
	struct iomap_address_space *mapping = &ts->inode.i_data;

	ts_map(ts, 0, MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, MIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 100, 1));
	cr_assert_eq(iomap_mapping_set_large_folios(mapping), -EBUSY);
	cr_assert_eq(iomap_mapping_set_folio_order_range(mapping, 0, 2), -EBUSY);
	ts_drop(ts);
	cr_assert_eq(iomap_mapping_set_folio_order_range(mapping, 2, 1), -EINVAL);
	cr_assert_eq(iomap_mapping_set_folio_order_range(mapping, 0, 7), -EINVAL, "max_folio_bytes");
	cr_assert_eq(iomap_mapping_set_folio_order_range(mapping, 1, 3), 0);
	cr_assert(ts_reads(ts, 0, MIB, 1));
	for (int64_t pos = 0; pos < MIB; pos += 4 * KIB) {
		cr_assert_geq(size_at(ts, pos), 8U * KIB);
		cr_assert_leq(size_at(ts, pos), 32U * KIB);
	}
	ts_close(ts);
}

Test(large, fs05_largest_folios_of_an_engine_are_64_kib_unless_told)
{
	struct ts *ts = large_store(4 * MIB, 0, 12);

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert_eq(size_at(ts, MIB), 64U * KIB);
	ts_close(ts);
}

/* ---- reading ---- */

Test(large, fs05_a_stream_of_small_reads_fills_large_folios)
{
	struct ts *ts = large_store(32 * MIB, 0, 12);
	size_t large = 0;

	for (int64_t pos = 0; pos < 4 * MIB; pos += 4 * KIB)
		cr_assert(ts_reads(ts, pos, 4 * KIB, 1));
	for (int64_t pos = 0; pos < 4 * MIB; pos += (int64_t)size_at(ts, pos))
		if (size_at(ts, pos) == 64 * KIB)
			large += 64 * KIB;
	cr_assert_geq(large, (size_t)(4 * MIB - 128 * KIB), "%zu bytes in folios of 64 KiB", large);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), t_stats(ts->engine).cached_bytes,
		     "nothing is read twice");
	ts_close(ts);
}

Test(large, fs05_folios_of_2_mib_where_told)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);

	cr_assert(ts_reads(ts, 0, 8 * MIB, 1));
	for (int64_t pos = 0; pos < 8 * MIB; pos += 2 * MIB)
		cr_assert_eq(size_at(ts, pos), 2U * MIB, "at %" PRId64, pos);
	for (int64_t pos = 5000; pos < 8 * MIB; pos += 300001)
		cr_assert(ts_reads(ts, pos, 9000, 1));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 8U * MIB);
	ts_close(ts);
}

Test(large, fs05_ra05_random_reads_read_no_more_than_was_asked_for)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);

	cr_assert(ts_reads(ts, 3 * MIB + 100, 10, 1));
	cr_assert(ts_reads(ts, MIB + 60 * KIB, 8 * KIB, 1));
	cr_assert(ts_reads(ts, 6 * MIB, 64 * KIB, 1));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)(4 + 8 + 64) * KIB);
	cr_assert_eq(size_at(ts, 3 * MIB), 4U * KIB);
	cr_assert_eq(size_at(ts, 6 * MIB), 64U * KIB);
	ts_close(ts);
}

Test(large, fs05_ra05_folios_stop_at_the_end_of_the_file)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);

	iomap_i_size_write(&ts->inode, 100 * KIB + 5);
	cr_assert(ts_reads(ts, 0, 100 * KIB + 5, 1));
	cr_assert(cached_at(ts, 100 * KIB));
	cr_assert_not(cached_at(ts, 104 * KIB));
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 104U * KIB);
	ts_close(ts);
}

Test(large, fs05_a_window_passes_by_what_is_cached)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);

	ts_write(ts, 300 * KIB, 4 * KIB, 2);
	ts_write(ts, 700 * KIB, 64 * KIB, 2);
	cr_assert(ts_reads(ts, 0, 300 * KIB, 1));
	cr_assert(ts_reads(ts, 300 * KIB, 4 * KIB, 2));
	cr_assert(ts_reads(ts, 304 * KIB, 396 * KIB, 1));
	cr_assert(ts_reads(ts, 700 * KIB, 64 * KIB, 2));
	cr_assert(ts_reads(ts, 764 * KIB, 2 * MIB - 764 * KIB, 1));
	cr_assert_not(td_touched(ts->dev, TD_READ, 300 * KIB, 4 * KIB));
	cr_assert_not(td_touched(ts->dev, TD_READ, 700 * KIB, 64 * KIB));
	ts_close(ts);
}

/* ---- writing ---- */

Test(large, fs05_a_large_write_makes_large_folios_and_small_ones_do_not)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);

	ts_write(ts, 0, 2 * MIB, 2);
	cr_assert_eq(size_at(ts, MIB), 2U * MIB);
	ts_write(ts, 2 * MIB + 4 * KIB, 200 * KIB, 2);
	cr_assert_eq(size_at(ts, 2 * MIB + 4 * KIB), 4U * KIB);
	cr_assert_eq(size_at(ts, 2 * MIB + 64 * KIB), 64U * KIB);
	ts_write(ts, 5 * MIB, 100, 2);
	cr_assert_eq(size_at(ts, 5 * MIB), 4U * KIB);
	cr_assert_eq(td_count(ts->dev, TD_READ), 1U, "the block that was written in part");
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 2U * MIB + 204 * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert(ts_dev_has(ts, 0, 2 * MIB, 0, 2));
	cr_assert(ts_dev_has(ts, 2 * MIB + 4 * KIB, 200 * KIB, 2 * MIB + 4 * KIB, 2));
	cr_assert(ts_dev_has(ts, 5 * MIB, 100, 5 * MIB, 2));
	cr_assert(ts_dev_has(ts, 5 * MIB + 100, 4096 - 100, 5 * MIB + 100, 1));
	ts_close(ts);
}

Test(large, fs05_fs04_a_small_overwrite_writes_its_blocks_alone)
{
	for (uint32_t bits = 9; bits <= 12; bits++) {
		struct ts *ts = large_store(32 * MIB, 2 * MIB, bits);
		uint64_t block = 1ULL << bits, read_bytes;

		cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
		read_bytes = td_bytes(ts->dev, TD_READ);
		cr_assert_eq(size_at(ts, 0), 2U * MIB);
		ts_write(ts, MIB + 1, 10, 2);
		ts_write(ts, MIB + 512 * KIB, block + 1, 2);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), read_bytes, "all of it is there");
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 3 * block);
		cr_assert(td_touched(ts->dev, TD_WRITE, MIB, 1));
		cr_assert(ts_dev_has(ts, MIB + 1, 10, MIB + 1, 2));
		cr_assert(ts_dev_has(ts, MIB + 512 * KIB, block + 1, MIB + 512 * KIB, 2));
		cr_assert(ts_dev_has(ts, 0, MIB, 0, 1));
		ts_close(ts);
	}
}

Test(large, fs05_bw03_only_the_blocks_at_its_ends_are_read_for_a_write)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 9);

	/* 64 KiB and a bit, in one folio of 128 KiB, or two */
	ts_write(ts, 100, 128 * KIB - 200, 2);
	cr_assert_eq(size_at(ts, 0), 128U * KIB);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 1024U);
	cr_assert(ts_reads(ts, 0, 100, 1));
	cr_assert(ts_reads(ts, 100, 128 * KIB - 200, 2));
	cr_assert(ts_reads(ts, 128 * KIB - 100, 100, 1));
	cr_assert(ts_uptodate(ts, 0));
	ts_close(ts);
}

Test(large, fs05_a_run_longer_than_the_device_takes_is_not_split)
{
	struct iomap_bdev_limits limits = { 0 };
	struct iomap_engine_opts opts;
	struct ts *ts;

	ts = large_store(32 * MIB, 2 * MIB, 12);
	iomap_bdev_limits(ts->dev->bdev, &limits);
	ts_close(ts);
	limits.max_transfer_bytes = 100 * KIB;
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 32 * MIB;
	opts.max_folio_bytes = 2 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts, .limits = &limits });
	ts_map(ts, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	ts_write(ts, 0, 2 * MIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, 2 * MIB, 0, 2));
	cr_assert_eq(td_count(ts->dev, TD_WRITE), (size_t)((2 * MIB + 100 * KIB - 1) / (100 * KIB)));
	cr_assert_eq(ts_last(ts, TS_SUBMIT).io_size, (size_t)(2 * MIB), "one ioend");
	ts_close(ts);
}

/* ---- blocks of more than a page ---- */

Test(large, fs05_blocks_larger_than_a_page_have_folios_of_a_block)
{
	for (uint32_t bits = 13; bits <= 16; bits++) {
		struct ts *ts = ts_open(&(struct ts_config){ .i_size = MIB, .blkbits = bits });
		size_t block = (size_t)1 << bits;

		ts_map(ts, 0, MIB, IOMAP_MAPPED, 0, 0);
		ts_dev_fill(ts, 0, MIB, 0, 1);
		/* one byte brings in its block */
		cr_assert(ts_reads(ts, 5 * (int64_t)block - 1, 1, 1));
		cr_assert_eq(td_bytes(ts->dev, TD_READ), block);
		cr_assert_eq(size_at(ts, 4 * (int64_t)block), block);
		/* a write of a part reads its block, one of a whole block nothing */
		ts_write(ts, 7 * (int64_t)block + 100, 5, 2);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), 2 * block);
		ts_write(ts, 9 * (int64_t)block, block, 2);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), 2 * block);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 2 * block);
		cr_assert(ts_dev_has(ts, 7 * block, 100, 7 * (int64_t)block, 1));
		cr_assert(ts_dev_has(ts, 7 * block + 100, 5, 7 * (int64_t)block + 100, 2));
		cr_assert(ts_dev_has(ts, 7 * block + 105, block - 105, 7 * (int64_t)block + 105, 1));
		cr_assert(ts_dev_has(ts, 9 * block, block, 9 * (int64_t)block, 2));
		cr_assert(ts_reads(ts, 10 * (int64_t)block, block, 1));
		for (int64_t pos = 0; pos < MIB; pos += 4 * KIB)
			if (cached_at(ts, pos))
				cr_assert_eq(size_at(ts, pos), block);
		ts_close(ts);
	}
}

Test(large, fs05_blocks_that_the_cache_cannot_hold_are_refused)
{
	struct iomap_engine_opts opts;
	struct ts *ts;
	struct iomap_inode inode;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = MIB;
	opts.max_folio_bytes = 32 * KIB;
	opts.max_callers = 20;
	ts = ts_open(&(struct ts_config){ .i_size = MIB, .opts = &opts });
	for (uint32_t bits = 13; bits <= 17; bits++) {
		int rc;

		ts->args.blkbits = bits;
		rc = iomap_inode_init(ts->engine, &inode, &ts->args);
		cr_assert_eq(rc, bits <= 14 ? 0 : -EINVAL, "%u: %d", bits, rc);
		if (!rc)
			cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	}
	cr_assert_geq(t_log_count(&ts->log, IOMAP_LOG_WARN, NULL), 3U, "each says why");
	ts_close(ts);
}

/* ---- direct I/O beside the cache ---- */

static long dio_result;

static void dio_complete(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb;
	dio_result = ret;
}

/* Start to write 64 KiB of the pattern 3 at 1 MiB, past the cache; the device holds it. */
static void dio_start(struct ts *ts, struct iomap_kiocb *iocb, char *buf)
{
	struct iovec iov = { buf, 64 * KIB };
	struct iomap_iov_iter iter;
	static struct iomap_dio_ops dops;

	td_hold(ts->dev, TD_WRITE);
	t_fill(buf, 64 * KIB, MIB, 3);
	iomap_iov_iter_init(&iter, IOMAP_ITER_SOURCE, &iov, 1, 64 * KIB);
	iocb->ki_complete = dio_complete;
	iomap_inode_lock_shared(&ts->inode);
	cr_assert_eq(iomap_dio_rw(iocb, &iter, &ts->ops, &dops, 0, NULL, 0), -IOMAP_EIOCBQUEUED);
	iomap_inode_unlock_shared(&ts->inode);
}

/* During the write its range is read, and `pos` of the same folio is written in the cache. */
static void dio_beside_a_write(int64_t pos, size_t errors_nr)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 12);
	struct iomap_kiocb iocb;
	struct iomap_file *file;
	char *buf = NULL;

	ts->hook.open = ts_allow_direct;
	cr_assert_eq(posix_memalign((void **)&buf, 4096, 64 * KIB), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	iomap_kiocb_init(&iocb, file, MIB);
	dio_start(ts, &iocb, buf);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	ts_write(ts, pos, 4 * KIB, 2);
	td_open_gates(ts->dev);
	cr_assert_eq(iomap_engine_poll(ts->engine, 10, true), 1);
	cr_assert_eq(dio_result, 64 * KIB);
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, NULL), errors_nr);
	if (!errors_nr) {
		cr_assert_eq(size_at(ts, MIB), 2U * MIB, "the folio is still there");
		cr_assert(ts_dirty(ts, MIB));
		td_reset(ts->dev);
		cr_assert(ts_reads(ts, MIB - 100 * KIB, 100, 1));
		cr_assert(ts_reads(ts, MIB, 64 * KIB, 3));
		cr_assert_eq(td_bytes(ts->dev, TD_READ), 64U * KIB);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 4U * KIB);
		cr_assert(ts_dev_has(ts, MIB, 64 * KIB, MIB, 3));
	}
	cr_assert(ts_reads(ts, pos, 4 * KIB, 2));
	cr_assert_eq(iomap_file_close(file), 0);
	free(buf);
	ts_close(ts);
}

Test(large, fs05_a_direct_write_drops_its_part_of_a_folio_that_gets_dirty_elsewhere)
{
	dio_beside_a_write(512 * KIB, 0);
	dio_beside_a_write(MIB - 4 * KIB, 0);
	dio_beside_a_write(MIB + 64 * KIB, 0);
}

Test(large, fs05_a_direct_write_beside_a_write_of_the_same_blocks_is_an_error)
{
	dio_beside_a_write(MIB, 1);
	dio_beside_a_write(MIB + 60 * KIB, 1);
}
