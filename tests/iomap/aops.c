/* SPDX-License-Identifier: MIT */
/*
 * aops.c - AS: the library's functions as address-space operations.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* A cached, clean, uptodate folio with four blocks of 1 KiB. */
static struct ts *four_blocks(void)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = 10 });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	td_reset(ts->dev);
	return ts;
}

static bool dirty_all(struct ts *ts, struct iomap_folio *folio)
{
	bool was_clean;

	iomap_folio_lock(folio);
	was_clean = iomap_dirty_folio(&ts->inode.i_data, folio);
	iomap_folio_unlock(folio);
	return was_clean;
}

static void invalidate(struct iomap_folio *folio, size_t off, size_t len)
{
	iomap_folio_lock(folio);
	iomap_invalidate_folio(folio, off, len);
	iomap_folio_unlock(folio);
}

static bool release(struct iomap_folio *folio)
{
	bool released;

	iomap_folio_lock(folio);
	released = iomap_release_folio(folio, 0);
	iomap_folio_unlock(folio);
	return released;
}

Test(aops, as01_dirty_folio_dirties_all_blocks)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);

	cr_assert(dirty_all(ts, folio));
	cr_assert(iomap_folio_test_dirty(folio));
	cr_assert_not(dirty_all(ts, folio), "it was dirty already");
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, (uint64_t)(4 * KIB));
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(4 * KIB));
	cr_assert_eq(ts_calls(ts, TS_RANGE), 1U);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).length, (uint64_t)(4 * KIB));
	ts_close(ts);
}

Test(aops, as01_dirty_folio_dirties_blocks_beside_a_dirty_one)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);

	ts_write(ts, KIB, KIB, 1);
	cr_assert(iomap_folio_test_dirty(folio));
	cr_assert_not(dirty_all(ts, folio));
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(4 * KIB));
	ts_close(ts);
}

Test(aops, as02_release_drops_the_state_of_a_clean_folio)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);
	uint64_t before = 0;

	if (t_debug()) {
		ts_write(ts, 0, KIB, 1); /* there is a state from here on */
		cr_assert_eq(ts_fsync(ts), 0);
		before = t_counters().ifs_allocs_nr;
		ts_write(ts, 0, KIB, 1);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(t_counters().ifs_allocs_nr, before, "the state was kept");
	}
	cr_assert(release(folio));
	if (t_debug()) {
		ts_write(ts, 0, KIB, 1);
		cr_assert_eq(t_counters().ifs_allocs_nr, before + 1, "there was none any more");
	}
	cr_assert(iomap_folio_test_uptodate(folio));
	iomap_folio_put(folio);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_close(ts);
}

Test(aops, as02_release_refuses_a_dirty_folio)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);

	ts_write(ts, 2 * KIB, KIB, 2);
	cr_assert_not(release(folio));
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)KIB, "the dirty bits were kept");
	ts_close(ts);
}

static long fsync_task(void *arg)
{
	return ts_fsync(arg);
}

Test(aops, as02_release_refuses_a_folio_under_writeback)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);
	struct t_task task;

	ts_write(ts, 2 * KIB, KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	t_start(&task, fsync_task, ts);
	td_wait_held(ts->dev, 1);
	cr_assert_not(iomap_folio_test_dirty(folio));
	cr_assert(iomap_folio_test_writeback(folio));
	cr_assert_not(release(folio));
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert(release(folio));
	iomap_folio_put(folio);
	ts_close(ts);
}

Test(aops, as03_invalidate_cleans_only_blocks_wholly_inside)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);

	cr_assert(dirty_all(ts, folio));
	invalidate(folio, 512, 3 * KIB); /* blocks 1 and 2, and halves of 0 and 3 */
	cr_assert(iomap_folio_test_dirty(folio));
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 2U);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).pos, 0);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 0).length, (uint64_t)KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 1).pos, 3 * KIB);
	cr_assert_eq(ts_nth(ts, TS_RANGE, 1).length, (uint64_t)KIB);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(2 * KIB));
	ts_close(ts);
}

Test(aops, as03_invalidate_of_the_whole_folio_cleans_it_and_frees_the_state)
{
	struct ts *ts = four_blocks();
	struct iomap_folio *folio = ts_folio(ts, 0);
	uint64_t before = 0;

	ts_write(ts, KIB, 2 * KIB, 1);
	if (t_debug())
		before = t_counters().ifs_allocs_nr;
	invalidate(folio, 0, 4 * KIB);
	cr_assert_not(iomap_folio_test_dirty(folio));
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 0U);
	if (t_debug()) {
		ts_write(ts, 0, KIB, 1);
		cr_assert_eq(t_counters().ifs_allocs_nr, before + 1);
	}
	ts_close(ts);
}

Test(aops, as04_partially_uptodate_is_told_from_the_block_bits)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = 10 });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_write(ts, KIB, 2 * KIB, 1); /* blocks 1 and 2, of which nothing has to be read */
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert_not(ts_uptodate(ts, 0));
	cr_assert(ts_blocks_uptodate(ts, 0, KIB, KIB));
	cr_assert(ts_blocks_uptodate(ts, 0, KIB, 2 * KIB));
	cr_assert(ts_blocks_uptodate(ts, 0, 1500, 1000));
	cr_assert_not(ts_blocks_uptodate(ts, 0, 0, KIB));
	cr_assert_not(ts_blocks_uptodate(ts, 0, KIB - 1, 2));
	cr_assert_not(ts_blocks_uptodate(ts, 0, 3 * KIB - 1, 2));
	cr_assert_not(ts_blocks_uptodate(ts, 0, 0, 4 * KIB));
	ts_close(ts);
}

/* ---- an inode with nothing but the library's functions ---- */

static struct {
	uint64_t base; /* of a file that lies at one place of the device */
	_Atomic unsigned read_folio, readahead, writepages;
	struct iomap_bdev *bdev;
	struct t_gate gate;
} plain;

static int plain_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	(void)inode;
	(void)pos;
	(void)length;
	(void)flags;
	(void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->offset = 0;
	iomap->length = 1 << 20;
	iomap->addr = plain.base;
	iomap->bdev = plain.bdev;
	return 0;
}

static const struct iomap_ops plain_ops = { .iomap_begin = plain_begin };

static ssize_t plain_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			   unsigned len, uint64_t end_pos)
{
	int rc = plain_begin(wpc->inode, (int64_t)pos, len, 0, &wpc->iomap, NULL);

	return rc ? rc : iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops plain_writeback = {
	.writeback_range = plain_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int plain_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	plain.read_folio++;
	return iomap_bio_read_folio(folio, &plain_ops);
}

static void plain_readahead(struct iomap_readahead_control *rac)
{
	plain.readahead++;
	iomap_bio_readahead(rac, &plain_ops);
}

static int plain_writepages(struct iomap_address_space *mapping,
			    struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host,
					   .wbc = wbc,
					   .ops = &plain_writeback };
	int rc = iomap_writepages(&wpc);

	t_lock(&plain.gate);
	plain.writepages++;
	t_wake(&plain.gate);
	t_unlock(&plain.gate);
	return rc;
}

static const struct iomap_address_space_operations plain_aops = {
	.read_folio = plain_read_folio,
	.readahead = plain_readahead,
	.writepages = plain_writepages,
	.dirty_folio = iomap_dirty_folio,
	.release_folio = iomap_release_folio,
	.invalidate_folio = iomap_invalidate_folio,
	.is_partially_uptodate = iomap_is_partially_uptodate,
};

static const struct iomap_inode_ops plain_iops = { .write = &plain_ops };

static void plain_inode(struct iomap_engine *engine, struct iomap_inode *inode,
			const struct iomap_address_space_operations *a_ops)
{
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = a_ops,
					 .i_op = &plain_iops,
					 .bdev = plain.bdev,
					 .i_size = 1 << 20,
					 .blkbits = 10 };

	cr_assert_eq(iomap_inode_init(engine, inode, &args), 0);
}

Test(aops, as01_as02_as03_as04_as05_one_line_operations_are_all_an_inode_needs)
{
	struct iomap_address_space_operations fewest = { .read_folio = plain_read_folio,
							 .writepages = plain_writepages };
	const struct iomap_address_space_operations *tables[] = { &plain_aops, &fewest };

	for (size_t i = 0; i < 2; i++) {
		struct iomap_engine_opts opts;
		struct iomap_engine *engine;
		struct iomap_inode inode;
		struct iomap_file *file;
		struct td *dev;
		char buf[5000];

		iomap_engine_opts_init(&opts);
		opts.cache_bytes = 1 << 20;
		opts.flags = IOMAP_ENGINE_NO_THREADS;
		engine = t_engine(&opts, NULL);
		dev = td_new(engine, 4 << 20, NULL);
		memset(&plain, 0, sizeof(plain));
		t_gate_init(&plain.gate);
		plain.base = 1 << 20;
		plain.bdev = dev->bdev;
		t_fill(dev->mem + plain.base, 1 << 20, 0, 1);
		plain_inode(engine, &inode, tables[i]);
		cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);

		/* a miss reads */
		cr_assert_eq(iomap_read(file, buf, sizeof(buf), 777), (ssize_t)sizeof(buf));
		cr_assert_eq(t_mismatch(buf, sizeof(buf), 777, 1), -1);
		cr_assert_gt(plain.read_folio + plain.readahead, 0U);
		if (!tables[i]->readahead)
			cr_assert_eq(plain.read_folio, 2U);
		/* fsync writes */
		t_fill(buf, sizeof(buf), 777, 2);
		cr_assert_eq(iomap_write(file, buf, sizeof(buf), 777), (ssize_t)sizeof(buf));
		cr_assert_eq(iomap_file_fsync(file, 0), 0);
		cr_assert_geq(plain.writepages, 1U);
		cr_assert_eq(t_mismatch(dev->mem + plain.base + 777, sizeof(buf), 777, 2), -1);
		cr_assert_eq(t_mismatch(dev->mem + plain.base, 777, 0, 1), -1);
		/* reclaim drops clean folios, and their state with them */
		for (int64_t pos = 0; pos < 1 << 20; pos += 4096) {
			cr_assert_eq(iomap_read(file, buf, 4096, pos), 4096);
			if (pos > 8192)
				cr_assert_eq(t_mismatch(buf, 4096, pos, 1), -1);
		}
		for (int64_t pos = (1 << 20) - 4096; pos > 8192; pos -= 4096) {
			cr_assert_eq(iomap_read(file, buf, 4096, pos), 4096);
			cr_assert_eq(t_mismatch(buf, 4096, pos, 1), -1);
		}
		cr_assert_eq(iomap_file_close(file), 0);
		cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
		td_free(dev);
		cr_assert_eq(iomap_engine_destroy(engine), 0);
		t_gate_exit(&plain.gate);
	}
}

Test(aops, as05_background_writeback_calls_writepages)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct td *dev;
	char buf[4096];

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.dirty_expire_ms = 1;
	opts.flush_interval_ms = 1;
	engine = t_engine(&opts, NULL);
	dev = td_new(engine, 4 << 20, NULL);
	memset(&plain, 0, sizeof(plain));
	t_gate_init(&plain.gate);
	plain.bdev = dev->bdev;
	plain_inode(engine, &inode, &plain_aops);
	cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);
	t_fill(buf, sizeof(buf), 0, 1);
	cr_assert_eq(iomap_write(file, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
	td_wait_completed(dev, TD_WRITE, 1);
	t_lock(&plain.gate);
	while (!plain.writepages)
		t_wait(&plain.gate);
	t_unlock(&plain.gate);
	cr_assert_eq(t_mismatch(dev->mem, sizeof(buf), 0, 1), -1);
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, IOMAP_DESTROY_WAIT), 0);
	td_free(dev);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	t_gate_exit(&plain.gate);
}
