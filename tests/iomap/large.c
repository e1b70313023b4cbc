/* SPDX-License-Identifier: MIT */
/* ctest-options: CONCURRENT *threads*|*same_time* */
/* ctest-options: TIMEOUT 400 */
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
	/* in pieces that the device takes, and not split by the block layer */
	cr_assert_eq(ts_calls(ts, TS_RANGE), td_count(ts->dev, TD_WRITE));
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

/* ---- where small folios are everywhere ---- */

#define SMALL_BYTES (4 * MIB) /* as much as the cache */

/* A store in pages that fills the cache, and one in blocks of 64 KiB beside it. */
struct crowd {
	struct ts *pages, *blocks;
	struct t_rand rand;
};

static void crowd_open(struct crowd *c, bool threads)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = SMALL_BYTES;
	opts.flags = threads ? 0 : IOMAP_ENGINE_NO_THREADS;
	opts.dirty_background_pct = opts.dirty_hard_pct = 80;
	c->rand.state = t_seed();
	c->pages = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts });
	ts_map(c->pages, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(c->pages, 0, 16 * MIB, 0, 1);
	c->blocks = ts_open(&(struct ts_config){ .i_size = 8 * MIB,
						 .engine = c->pages->engine,
						 .dev = c->pages->dev,
						 .blkbits = 16 });
	ts_map(c->blocks, 0, 8 * MIB, IOMAP_MAPPED, 0, 8 * MIB);
	ts_dev_fill(c->blocks, 8 * MIB, 8 * MIB, 0, 4);
}

static void crowd_close(struct crowd *c)
{
	ts_close(c->blocks);
	ts_close(c->pages);
}

/* Every page of the cache holds a page of the file, in no order. */
static void crowd_fill(struct crowd *c)
{
	char buf[10];

	while (t_stats(c->pages->engine).cached_bytes < SMALL_BYTES) {
		int64_t pos = (int64_t)t_below(&c->rand, 2048) * 4096 + 1;

		cr_assert_eq(iomap_read(c->pages->file, buf, 10, pos), 10);
	}
}

/* Blocks are read and written, in parts and as a whole. */
static void crowd_use_blocks(struct crowd *c)
{
	for (int64_t pos = 0; pos < 4 * MIB; pos += 64 * KIB)
		cr_assert(ts_reads(c->blocks, pos + 30000, 10, 4), "at %" PRId64, pos);
	for (int64_t pos = 4 * MIB; pos < 5 * MIB; pos += 64 * KIB)
		ts_write(c->blocks, pos + 100, 10, 5);
	ts_write(c->blocks, 5 * MIB, 256 * KIB, 5);
	cr_assert_eq(ts_fsync(c->blocks), 0);
	cr_assert(ts_dev_has(c->pages, 13 * MIB, 256 * KIB, 5 * MIB, 5));
}

Test(large, fs05_a_cache_full_of_small_folios_has_room_for_large_blocks)
{
	struct crowd c;

	crowd_open(&c, false);
	crowd_fill(&c);
	crowd_use_blocks(&c);
	crowd_fill(&c);
	crowd_use_blocks(&c);
	crowd_close(&c);
}

/* Half of the pages are dirty and stay so: not one block of the arena is free of them. */
Test(large, fs05_dirty_small_folios_move_out_of_the_way)
{
	static bool dirty[2048];
	struct crowd c;

	crowd_open(&c, false);
	ts_fail(c.pages, TS_RANGE, 1, IOMAP_WB_DEFER, UINT64_MAX / 2);
	crowd_fill(&c);
	for (unsigned nr = 0; nr < 512;) {
		unsigned page = (unsigned)t_below(&c.rand, 2048);

		if (dirty[page])
			continue;
		ts_write(c.pages, page * 4096LL, 4096, 2);
		dirty[page] = true;
		nr++;
		if (nr % 8 == 0)
			crowd_fill(&c);
	}
	cr_assert_eq(t_stats(c.pages->engine).dirty_bytes, 2U * MIB);
	crowd_use_blocks(&c);
	cr_assert_eq(t_stats(c.pages->engine).dirty_bytes, 2U * MIB, "none was written");
	for (unsigned page = 0; page < 2048; page++)
		cr_assert(ts_reads(c.pages, page * 4096LL, 4096, dirty[page] ? 2 : 1), "page %u",
			  page);
	t_lock(&c.pages->gate);
	memset(c.pages->fail, 0, sizeof(c.pages->fail));
	t_unlock(&c.pages->gate);
	cr_assert_eq(ts_fsync(c.pages), 0);
	for (unsigned page = 0; page < 2048; page++)
		cr_assert(ts_dev_has(c.pages, page * 4096ULL, 4096, page * 4096LL,
				     dirty[page] ? 2 : 1));
	crowd_close(&c);
}

/* Blocks of 512 bytes, some of them dirty, some not even read: a folio takes that along. */
Test(large, fs05_a_folio_that_moves_keeps_the_state_of_its_blocks)
{
	struct iomap_folio *folio;
	void *address;
	struct ts *ts;
	struct crowd c;

	crowd_open(&c, false);
	ts = ts_open(&(struct ts_config){ .i_size = MIB,
					  .engine = c.pages->engine,
					  .dev = c.pages->dev,
					  .blkbits = 9 });
	ts_map(ts, 0, MIB, IOMAP_MAPPED, 0, 0);
	ts_fail(ts, TS_RANGE, 1, IOMAP_WB_DEFER, UINT64_MAX / 2);
	ts_write(ts, 1024, 512, 2);
	folio = ts_folio(ts, 0);
	address = iomap_folio_address(folio);
	iomap_folio_put(folio);
	for (unsigned round = 0;; round++) {
		cr_assert_lt(round, 1000U, "it never moved");
		crowd_fill(&c);
		cr_assert(ts_reads(c.blocks, (int64_t)t_below(&c.rand, 128) * 64 * KIB, 10, 4));
		folio = ts_folio(ts, 0);
		iomap_folio_put(folio);
		if (iomap_folio_address(folio) != address)
			break;
	}
	cr_assert(ts_dirty(ts, 0));
	cr_assert_not(ts_uptodate(ts, 0));
	cr_assert(ts_blocks_uptodate(ts, 0, 1024, 512));
	cr_assert_not(ts_blocks_uptodate(ts, 0, 0, 512));
	cr_assert_not(ts_blocks_uptodate(ts, 0, 1536, 512));
	cr_assert(ts_reads(ts, 1024, 512, 2));
	t_lock(&ts->gate);
	memset(ts->fail, 0, sizeof(ts->fail));
	t_unlock(&ts->gate);
	td_reset(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 512U);
	cr_assert(ts_dev_has(ts, 1024, 512, 1024, 2));
	ts_close(ts);
	crowd_close(&c);
}

Test(large, fs05_references_stay_where_they_are_and_others_make_room)
{
	struct iomap_folio *held[32];
	void *address[32];
	struct crowd c;

	crowd_open(&c, false);
	crowd_fill(&c);
	/* of 64 blocks of the arena some are without */
	for (unsigned i = 0; i < 32; i++) {
		int64_t pos = (int64_t)t_below(&c.rand, 2048) * 4096;

		cr_assert(ts_reads(c.pages, pos, 10, 1));
		held[i] = ts_folio(c.pages, pos);
		address[i] = iomap_folio_address(held[i]);
	}
	crowd_use_blocks(&c);
	for (unsigned i = 0; i < 32; i++) {
		cr_assert_eq(iomap_folio_mapping(held[i]), &c.pages->inode.i_data);
		cr_assert_eq(iomap_folio_address(held[i]), address[i]);
		iomap_folio_put(held[i]);
	}
	crowd_close(&c);
}

/* ---- the same with threads ---- */

struct crowder {
	struct crowd *c;
	unsigned nr;
};

static long crowder_main(void *arg)
{
	struct crowder *me = arg;
	struct t_rand rand = { me->c->rand.state * 7 + me->nr };
	struct ts *ts = me->nr < 2 ? me->c->pages : me->c->blocks;
	int64_t unit = me->nr < 2 ? 4 * KIB : 64 * KIB, base = me->nr % 2 * 4LL * MIB;
	unsigned version[1024] = { 0 }, first = me->nr < 2 ? 1 : 4;

	for (unsigned i = 0; i < (T_SANITIZED ? 1500U : 8000U); i++) {
		unsigned at = (unsigned)t_below(&rand, (uint64_t)(4 * MIB / unit));
		int64_t pos = base + at * unit;

		if (t_below(&rand, 3)) {
			unsigned seed = version[at] ? version[at] : first;

			t_must(ts_reads(ts, pos + 7, (size_t)unit - 9, seed));
		} else {
			version[at] = 10 + i;
			ts_write(ts, pos, (size_t)unit, version[at]);
		}
	}
	for (unsigned at = 0; at < 4 * MIB / unit; at++)
		t_must(ts_reads(ts, base + at * unit, (size_t)unit,
				version[at] ? version[at] : first));
	return 0;
}

Test(large, fs05_threads_in_pages_and_threads_in_blocks_share_a_cache, .timeout = 300)
{
	struct crowder crowder[4];
	struct t_task task[4];
	struct crowd c;

	crowd_open(&c, true);
	td_async(c.pages->dev);
	for (unsigned i = 0; i < 4; i++) {
		crowder[i] = (struct crowder){ &c, i };
		t_start(&task[i], crowder_main, &crowder[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		t_join(&task[i]);
	cr_assert_leq(t_stats(c.pages->engine).peak_cached_bytes, (uint64_t)SMALL_BYTES);
	crowd_close(&c);
}

/* ---- cutting ---- */

static uint64_t cached_bytes(struct ts *ts)
{
	return t_stats(ts->engine).cached_bytes;
}

/* Bytes [start, end) go from file and cache; the device stays as it is. */
static void punch(struct ts *ts, int64_t start, int64_t end)
{
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	iomap_truncate_pagecache_range(&ts->inode, start, end - 1);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
}

/* One folio of 2 MiB, and nothing else. */
static struct ts *one_folio(uint32_t blkbits)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, blkbits);

	iomap_i_size_write(&ts->inode, 2 * MIB);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert_eq(size_at(ts, 0), 2U * MIB);
	cr_assert_eq(cached_bytes(ts), 2U * MIB);
	td_reset(ts->dev);
	return ts;
}

Test(large, ca07_a_truncation_inside_a_folio_gives_its_memory_back)
{
	struct ts *ts = one_folio(12);

	iomap_i_size_write(&ts->inode, MIB + 5000);
	punch(ts, MIB + 5000, INT64_MAX);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB + 8 * KIB));
	cr_assert_eq(size_at(ts, 0), (size_t)MIB);
	cr_assert_eq(size_at(ts, MIB), 8U * KIB);
	cr_assert_not(cached_at(ts, MIB + 8 * KIB));
	cr_assert(ts_reads(ts, 0, MIB + 5000, 1));
	/* what the file gets back is what the device has; of the last page zeros */
	iomap_i_size_write(&ts->inode, 2 * MIB);
	cr_assert(ts_reads_all(ts, MIB + 5000, 8 * KIB - 5000, 0));
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert(ts_reads(ts, MIB + 8 * KIB, MIB - 8 * KIB, 1));
	ts_close(ts);
}

Test(large, ca07_a_punched_folio_keeps_what_lies_on_both_sides)
{
	for (uint32_t bits = 9; bits <= 13; bits++) {
		struct ts *ts = one_folio(bits);
		int64_t unit = bits > 12 ? 8 * KIB : 4 * KIB;

		punch(ts, 304 * KIB + 100, 912 * KIB + 100);
		cr_assert_eq(cached_bytes(ts), (uint64_t)(2 * MIB - 608 * KIB + unit), "%u", bits);
		cr_assert(ts_reads(ts, 0, 304 * KIB + 100, 1));
		cr_assert(ts_reads_all(ts, 304 * KIB + 100, (size_t)unit - 100, 0));
		cr_assert(ts_reads(ts, 912 * KIB + 100, 2 * MIB - 912 * KIB - 100, 1));
		cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
		/* what is gone is read again */
		cr_assert(ts_reads(ts, 304 * KIB + unit, (size_t)(608 * KIB - unit), 1));
		punch(ts, 0, 64 * KIB);
		cr_assert_not(cached_at(ts, 0));
		cr_assert(ts_reads(ts, 64 * KIB, 200 * KIB, 1));
		ts_close(ts);
	}
}

Test(large, ca07_pieces_are_dirty_where_the_folio_was)
{
	for (uint32_t bits = 9; bits <= 12; bits++) {
		struct ts *ts = one_folio(bits);
		uint64_t block = 1ULL << bits;

		ts_write(ts, 100 * KIB, 1, 2);
		ts_write(ts, 600 * KIB, 1, 2);
		ts_write(ts, 2 * MIB - 1, 1, 2);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 2U * MIB);
		punch(ts, 512 * KIB, MIB);
		cr_assert_eq(size_at(ts, 0), 512U * KIB);
		cr_assert_eq(size_at(ts, MIB), (size_t)MIB);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, (uint64_t)(512 * KIB + MIB));
		punch(ts, MIB, MIB + 512 * KIB);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, (uint64_t)MIB);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 2 * block);
		cr_assert(ts_dev_has(ts, 100 * KIB, 1, 100 * KIB, 2));
		cr_assert(ts_dev_has(ts, 600 * KIB, 1, 600 * KIB, 1), "cut, and so not written");
		cr_assert(ts_dev_has(ts, 2 * MIB - 1, 1, 2 * MIB - 1, 2));
		ts_close(ts);
	}
}

Test(large, ca07_the_dirty_part_that_is_cut_counts_no_more)
{
	struct ts *ts = one_folio(12);

	ts_write(ts, 100 * KIB, 8 * KIB, 2);
	punch(ts, 64 * KIB, 128 * KIB);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert(ts_reads(ts, 128 * KIB, MIB, 1));
	ts_close(ts);
}

Test(large, ca07_a_folio_that_somebody_refers_to_is_zeroed_in_place)
{
	struct ts *ts = one_folio(9);
	struct iomap_folio *folio = ts_folio(ts, 0);
	char *mem = iomap_folio_address(folio);

	ts_write(ts, 10 * KIB, 1, 2);
	ts_write(ts, 600 * KIB, 100, 2);
	punch(ts, 512 * KIB, MIB);
	cr_assert_eq(iomap_folio_size(folio), 2U * MIB);
	cr_assert_eq(iomap_folio_mapping(folio), &ts->inode.i_data);
	cr_assert_eq(cached_bytes(ts), 2U * MIB);
	cr_assert(t_all(mem + 512 * KIB, 512 * KIB, 0));
	cr_assert_lt(t_mismatch(mem + MIB, MIB, MIB, 1), 0);
	cr_assert(ts_reads_all(ts, 512 * KIB, 512 * KIB, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 512U, "the cut is clean");
	iomap_folio_put(folio);
	/* the next cut finds nobody */
	punch(ts, 512 * KIB, MIB);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB + 512 * KIB));
	ts_close(ts);
}

Test(large, ca07_a_truncated_folio_counts_until_its_last_reference_goes)
{
	struct ts *ts = one_folio(12);
	struct iomap_folio *folio = ts_folio(ts, MIB), *other;
	char byte;

	iomap_i_size_write(&ts->inode, 0);
	punch(ts, 0, INT64_MAX);
	cr_assert_null(iomap_folio_mapping(folio));
	cr_assert_not(cached_at(ts, MIB));
	cr_assert_eq(cached_bytes(ts), 2U * MIB);
	cr_assert_lt(t_mismatch(iomap_folio_address(folio), 2 * MIB, 0, 1), 0, "its memory stays");
	iomap_i_size_write(&ts->inode, 2 * MIB);
	cr_assert_eq(iomap_read(ts->file, &byte, 1, MIB), 1);
	other = ts_folio(ts, MIB);
	cr_assert_neq(other, folio, "another one is made");
	iomap_folio_put(other);
	iomap_folio_put(folio);
	cr_assert_eq(cached_bytes(ts), 4U * KIB);
	ts_close(ts);
}

Test(large, ca07_blocks_that_were_never_read_stay_so_in_the_pieces)
{
	struct ts *ts = large_store(32 * MIB, 2 * MIB, 9);

	/* made by a write that reads nothing of what lies between */
	ts_write(ts, 0, 2 * MIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	ts_write(ts, 512, 64 * KIB - 512, 3);
	cr_assert_eq(size_at(ts, 0), 64U * KIB);
	cr_assert_not(ts_uptodate(ts, 0));
	td_reset(ts->dev);
	punch(ts, 32 * KIB, 64 * KIB);
	cr_assert_eq(size_at(ts, 0), 32U * KIB);
	cr_assert_not(ts_uptodate(ts, 0));
	cr_assert(ts_reads(ts, 512, 32 * KIB - 512, 3));
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert(ts_reads(ts, 0, 512, 2));
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 512U);
	ts_close(ts);
}

/* ---- readers and writers of a file that is cut all the time ---- */

#define CUT_BYTES (8 * MIB)

struct cutter {
	struct ts *ts;
	uint64_t seed;
	atomic_bool *stop;
};

/* The device has the pattern 1, and writes write it: what is read is that, or zeros. */
static long cutter_reads(void *arg)
{
	struct cutter *me = arg;
	struct t_rand rand = { me->seed };
	char *buf = malloc(256 * KIB), *want = malloc(256 * KIB);

	t_must(buf && want);
	while (!atomic_load(me->stop)) {
		size_t len = 1 + t_below(&rand, t_below(&rand, 4) ? 9000 : 256 * KIB);
		int64_t pos = (int64_t)t_below(&rand, CUT_BYTES - len);

		t_must(iomap_read(me->ts->file, buf, len, pos) == (ssize_t)len);
		t_fill(want, len, pos, 1);
		for (size_t i = 0; i < len; i++)
			t_must(!buf[i] || buf[i] == want[i]);
	}
	free(buf);
	free(want);
	return 0;
}

static long cutter_writes(void *arg)
{
	struct cutter *me = arg;
	struct t_rand rand = { me->seed };

	while (!atomic_load(me->stop)) {
		size_t len = 1 + t_below(&rand, t_below(&rand, 4) ? 9000 : 2 * MIB);

		ts_write(me->ts, (int64_t)t_below(&rand, CUT_BYTES - len), len, 1);
		if (!t_below(&rand, 50))
			t_must(ts_fsync(me->ts) == 0);
	}
	return 0;
}

Test(large, ca07_fs05_cut_read_and_written_at_the_same_time, .timeout = 300)
{
	struct iomap_engine_opts opts;
	struct cutter cutter[3];
	struct t_task task[3];
	atomic_bool stop = false;
	struct t_rand rand;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 32 * MIB;
	opts.max_folio_bytes = 2 * MIB;
	ts = ts_open(&(struct ts_config){ .i_size = CUT_BYTES, .opts = &opts, .blkbits = 10 });
	ts_map(ts, 0, CUT_BYTES, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, CUT_BYTES, 0, 1);
	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	td_async(ts->dev);
	rand.state = t_seed();
	for (unsigned i = 0; i < 3; i++) {
		cutter[i] = (struct cutter){ ts, rand.state + i + 1, &stop };
		t_start(&task[i], i ? cutter_reads : cutter_writes, &cutter[i]);
	}
	for (unsigned i = 0; i < (T_SANITIZED ? 300U : 1500U); i++) {
		int64_t start = (int64_t)t_below(&rand, CUT_BYTES);
		int64_t len = 1 + (int64_t)t_below(&rand, t_below(&rand, 2) ? MIB : 20000);

		punch(ts, start, start + len > CUT_BYTES ? INT64_MAX : start + len);
		if (!t_below(&rand, 20))
			ts_drop(ts);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++)
		t_join(&task[i]);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_leq(t_stats(ts->engine).cached_bytes, (uint64_t)CUT_BYTES);
	punch(ts, 0, INT64_MAX);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
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
