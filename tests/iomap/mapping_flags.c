/* SPDX-License-Identifier: MIT */
/*
 * mapping_flags.c - IT08: what each flag of a mapping does, and where it goes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define OLD_ADDR (64 * KIB)

static struct ts *store(struct ts_config cfg)
{
	static const struct iomap_dio_ops dops = { .end_io = ts_dio_end_io };
	struct ts *ts = malloc(sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &cfg);
	ts->hook.open = ts_allow_direct;
	ts->i_op.dio_ops = &dops;
	ts_begin(ts);
	ts_poison(ts);
	return ts;
}

/* 64 KiB of pattern 1 whose mappings have these flags. */
static struct ts *mapped(unsigned flags, bool cow)
{
	struct ts *ts = store((struct ts_config){ .i_size = 64 * KIB, .cow = cow, .blkbits = 10 });

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, flags, OLD_ADDR);
	ts_dev_fill(ts, OLD_ADDR, 64 * KIB, 0, 1);
	return ts;
}

static ssize_t direct(struct ts *ts, int64_t pos, size_t len, unsigned seed, unsigned open_flags)
{
	struct iomap_file *file;
	void *buf = NULL;
	ssize_t n;

	t_must(posix_memalign(&buf, 4096, len) == 0);
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT | open_flags, &file), 0);
	if (seed) {
		t_fill(buf, len, pos, seed);
		n = iomap_write(file, buf, len, pos);
	} else {
		n = iomap_read(file, buf, len, pos);
		cr_assert_lt(t_mismatch(buf, len, pos, 1), 0);
	}
	cr_assert_eq(iomap_file_close(file), 0);
	free(buf);
	return n;
}

/* ---- IOMAP_F_NEW ---- */

Test(mapping_flags, it08_new_what_the_write_does_not_cover_reads_as_zero)
{
	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++)
		for (int past = 0; past < 2; past++) {
			struct ts *ts = store((struct ts_config){ .i_size = 64 * KIB,
								  .blkbits = blkbits,
								  .alloc = TS_NEW });
			int64_t block = 1 << blkbits, pos = past ? 5120 : 5000;
			size_t len = past ? 512 : 100;
			int64_t first = pos / block * block;
			int64_t end = (pos + (int64_t)len + block - 1) / block * block;

			if (past)
				cr_assert_eq(direct(ts, pos, len, 1, 0), 512);
			else
				ts_write(ts, pos, len, 1);
			cr_assert(ts_nth(ts, TS_BEGIN, 0).iomap.flags & IOMAP_F_NEW);
			cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
			for (int pass = 0; pass < 2; pass++) {
				cr_assert(ts_reads(ts, pos, len, 1));
				if (first < pos)
					cr_assert(ts_reads_all(ts, first, (size_t)(pos - first), 0));
				if (pos + (int64_t)len < end)
					cr_assert(ts_reads_all(ts, pos + (int64_t)len,
							       (size_t)(end - pos) - len, 0));
				cr_assert_eq(ts_fsync(ts), 0);
				ts_drop(ts);
			}
			ts_close(ts);
		}
}

/* ---- IOMAP_F_SHARED ---- */

static void change_partly(struct ts *ts)
{
	ts_write(ts, 5000, 100, 2);
}

static void change_wholly(struct ts *ts)
{
	ts_write(ts, 8 * KIB, 16 * KIB, 2);
}

static void change_in_place(struct ts *ts)
{
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, ts->file, 5000);
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 10, &ts->ops, NULL, NULL, &writer), 0);
	memset(writer.addr, 'x', 10);
	cr_assert_eq(iomap_folio_end_write(&writer, 10), 10);
	iomap_inode_unlock(&ts->inode);
}

static void change_by_zeros(struct ts *ts)
{
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	cr_assert_eq(iomap_zero_range(&ts->inode, 5000, 20000, NULL, &ts->ops, NULL, NULL), 0);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
}

static void change_the_end(struct ts *ts)
{
	cr_assert_eq(iomap_truncate(ts->file, 30000), 0);
	ts_write(ts, 40000, 100, 2);
}

static void change_past_the_cache(struct ts *ts)
{
	cr_assert_eq(direct(ts, 8 * KIB, 16 * KIB, 2, 0), 16 * KIB);
	cr_assert_eq(direct(ts, 512, 512, 2, 0), 512);
}

static void change_the_owner(struct ts *ts)
{
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	cr_assert_eq(iomap_file_unshare(&ts->inode, 0, 64 * KIB, &ts->ops, NULL), 0);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
}

Test(mapping_flags, it08_shared_blocks_are_never_written_in_place)
{
	static void (*const change[])(struct ts *) = {
		change_partly,	change_wholly,	       change_in_place, change_by_zeros,
		change_the_end, change_past_the_cache, change_the_owner,
	};

	for (size_t i = 0; i < sizeof(change) / sizeof(change[0]); i++) {
		struct ts *ts = mapped(IOMAP_F_SHARED, true);

		ts->hook.begin = ts_cow_begin;
		change[i](ts);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_gt(td_bytes(ts->dev, TD_WRITE), 0U);
		cr_assert_not(td_touched(ts->dev, TD_WRITE, OLD_ADDR, 64 * KIB), "change %zu", i);
		cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1));
		ts_drop(ts);
		cr_assert(ts_reads(ts, 0, 512, 1));
		ts_close(ts);
	}
}

/* ---- IOMAP_F_BOUNDARY ---- */

/* No bio of these operations goes on from one half into the other. */
static void check_boundary(struct ts *ts, unsigned ops, size_t bios)
{
	uint64_t middle = OLD_ADDR + 32 * KIB;

	for (size_t i = 0; i < td_count(ts->dev, ops); i++) {
		struct td_io io = td_nth(ts->dev, ops, i);

		if (bios > 1)
			cr_assert(io.addr >= middle || io.addr + io.bytes <= middle);
	}
	cr_assert_eq(td_count(ts->dev, ops), bios);
	td_reset(ts->dev);
	ts_drop(ts);
}

Test(mapping_flags, it08_nothing_is_merged_across_a_boundary)
{
	for (int boundary = 0; boundary < 2; boundary++) {
		struct ts *ts = mapped(0, false);
		char *buf = malloc(64 * KIB);

		ts_map(ts, 32 * KIB, 32 * KIB, IOMAP_MAPPED, boundary ? IOMAP_F_BOUNDARY : 0,
		       OLD_ADDR + 32 * KIB);
		cr_assert_eq(iomap_fadvise(ts->file, 0, 64 * KIB, IOMAP_ADV_WILLNEED), 0);
		cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
		check_boundary(ts, TD_READ, boundary ? 2 : 1);
		ts_write(ts, 0, 64 * KIB, 1);
		cr_assert_eq(ts_fsync(ts), 0);
		check_boundary(ts, TD_WRITE, boundary ? 2 : 1);
		/* past the cache each mapping has bios of its own anyway */
		cr_assert_eq(direct(ts, 0, 64 * KIB, 0, 0), 64 * KIB);
		check_boundary(ts, TD_READ, 2);
		cr_assert_eq(direct(ts, 0, 64 * KIB, 1, 0), 64 * KIB);
		check_boundary(ts, TD_WRITE, 2);
		free(buf);
		ts_close(ts);
	}
}

/* ---- IOMAP_F_ANON_WRITE ---- */

static uint64_t place;

/* The address of what is sent out is chosen now, and the map told of it. */
static int choose_address(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	if (ioend && !error) {
		uint64_t bytes = ((uint64_t)ioend->io_size + KIB - 1) / KIB * KIB;

		ioend->io_bio.bi_iter.bi_sector = place >> IOMAP_SECTOR_SHIFT;
		ts_map(ts, ioend->io_offset, bytes, IOMAP_MAPPED, 0, place);
		place += bytes;
	}
	return iomap_ioend_writeback_submit(wpc, error);
}

Test(mapping_flags, it08_an_address_may_be_chosen_in_the_submission_hook)
{
	struct ts *ts = mapped(0, false);

	place = 1 << 20;
	ts->hook.submit = choose_address;
	ts_map(ts, 8 * KIB, 24 * KIB, IOMAP_MAPPED, IOMAP_F_ANON_WRITE, IOMAP_NULL_ADDR);
	ts_write(ts, 8 * KIB, 24 * KIB, 2);
	ts_map(ts, 48 * KIB, 16 * KIB, IOMAP_UNWRITTEN, IOMAP_F_ANON_WRITE, IOMAP_NULL_ADDR);
	ts_write(ts, 50 * KIB, 5000, 2);
	/* part of the way is what ts_range() says: MAPPED, without an address, for the submission */
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_SUBMIT), 2U);
	cr_assert(ts_dev_has(ts, 1 << 20, 24 * KIB, 8 * KIB, 2));
	cr_assert(ts_dev_has(ts, (1 << 20) + 24 * KIB, 5000, 50 * KIB, 2));
	cr_assert(ts_dev_has(ts, OLD_ADDR, 64 * KIB, 0, 1), "the old place");
	ts_drop(ts);
	cr_assert(ts_reads(ts, 8 * KIB, 24 * KIB, 2));
	cr_assert(ts_reads(ts, 50 * KIB, 5000, 2));
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, NULL), 0U);
	/* without the flag the same mapping is broken */
	ts_map(ts, 8 * KIB, 4 * KIB, IOMAP_MAPPED, 0, IOMAP_NULL_ADDR);
	ts_write(ts, 8 * KIB, 4 * KIB, 3);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, "no address"), 1U);
	ts_close(ts);
}

/* ---- IOMAP_F_DIRTY ---- */

Test(mapping_flags, it08_dirty_has_a_sync_commit_the_metadata)
{
	struct ts *ts = mapped(IOMAP_F_DIRTY, false);
	struct iomap_file *file;
	char buf[KIB];

	memset(buf, 'x', sizeof(buf));
	/* a write of each kind that is to be durable */
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DSYNC, &file), 0);
	cr_assert_eq(iomap_write(file, buf, sizeof(buf), 4 * KIB), (ssize_t)sizeof(buf));
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 1U);
	cr_assert_eq(ts_nth(ts, TS_COMMIT, 0).written, 1, "datasync");
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(direct(ts, 8 * KIB, 4 * KIB, 2, IOMAP_O_DSYNC), 4 * KIB);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 2U);
	cr_assert_gt(ts_nth(ts, TS_COMMIT, 1).tick,
		     td_nth(ts->dev, TD_WRITE, td_count(ts->dev, TD_WRITE) - 1).completed);
	/* and a sync behind writes that were not */
	cr_assert_eq(direct(ts, 8 * KIB, 4 * KIB, 2, 0), 4 * KIB);
	ts_write(ts, 20000, 10, 2);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 2U);
	cr_assert_eq(iomap_file_fsync(ts->file, 1), 0);
	cr_assert_eq(ts_calls(ts, TS_COMMIT), 3U);
	cr_assert_eq(ts_nth(ts, TS_COMMIT, 2).written, 1);
	ts_close(ts);
}

/* ---- IOMAP_F_PRIVATE, MERGED, XATTR ---- */

#define HANDED_THROUGH (IOMAP_F_PRIVATE | IOMAP_F_MERGED | IOMAP_F_XATTR)

static void check_ends(struct ts *ts, unsigned flags)
{
	uint64_t nr = ts_calls(ts, TS_END);

	cr_assert_gt(nr, 0U);
	cr_assert_eq(nr, ts_calls(ts, TS_BEGIN));
	for (uint64_t i = 0; i < nr; i++) {
		struct ts_event e = ts_nth(ts, TS_END, i);

		cr_assert_eq(e.flags & flags, flags);
		cr_assert_eq(e.iomap.flags & HANDED_THROUGH, HANDED_THROUGH);
		cr_assert_eq(e.iomap.private, ts);
		cr_assert_eq(e.iomap.validity_cookie, ts_nth(ts, TS_BEGIN, i).iomap.validity_cookie);
	}
	ts_reset(ts);
}

Test(mapping_flags, it08_private_merged_and_xattr_come_to_iomap_end_as_they_were)
{
	struct ts *ts = mapped(HANDED_THROUGH, false);
	struct iomap_iter iter = { .inode = &ts->inode, .len = 64 * KIB, .flags = IOMAP_REPORT };
	int ret;

	ts->map_private = ts;
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	check_ends(ts, 0);
	ts_write(ts, 100, 100, 1); /* a hit */
	check_ends(ts, IOMAP_WRITE);
	ts_write(ts, 30000, 100, 1); /* not one */
	check_ends(ts, IOMAP_WRITE);
	change_by_zeros(ts);
	check_ends(ts, IOMAP_ZERO);
	change_the_owner(ts);
	check_ends(ts, IOMAP_WRITE | IOMAP_UNSHARE);
	cr_assert_eq(direct(ts, 40 * KIB, 4 * KIB, 0, 0), 4 * KIB);
	check_ends(ts, IOMAP_DIRECT);
	cr_assert_eq(direct(ts, 40 * KIB, 4 * KIB, 1, 0), 4 * KIB);
	check_ends(ts, IOMAP_DIRECT | IOMAP_WRITE);
	while ((ret = iomap_iter(&iter, &ts->ops)) > 0) {
		cr_assert_eq(iter.iomap.flags & HANDED_THROUGH, HANDED_THROUGH);
		cr_assert_eq(iomap_iter_advance(&iter, iomap_length(&iter)), 0);
	}
	cr_assert_eq(ret, 0);
	check_ends(ts, IOMAP_REPORT);
	ts_close(ts);
}

/* ---- IOMAP_F_SIZE_CHANGED ---- */

static bool size_changed(struct ts *ts)
{
	return ts_last(ts, TS_END).iomap.flags & IOMAP_F_SIZE_CHANGED;
}

static int claim_size_changed(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			      struct iomap *iomap, struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->flags |= IOMAP_F_SIZE_CHANGED;
	return 0;
}

Test(mapping_flags, it08_size_changed_is_set_where_a_write_moved_the_end)
{
	struct ts *ts = mapped(0, false);
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	iomap_i_size_write(&ts->inode, 10000);
	ts_write(ts, 100, 100, 2);
	cr_assert_not(size_changed(ts));
	ts_write(ts, 100, 100, 2); /* a hit */
	cr_assert_not(size_changed(ts));
	ts_write(ts, 9900, 100, 2);
	cr_assert_not(size_changed(ts));
	ts_write(ts, 9900, 101, 2); /* a hit that goes on */
	cr_assert(size_changed(ts));
	ts_write(ts, 10001, 20000, 2);
	cr_assert(size_changed(ts));
	change_by_zeros(ts);
	cr_assert_not(size_changed(ts));
	iomap_kiocb_init(&iocb, ts->file, 30001);
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 10, &ts->ops, NULL, NULL, &writer), 0);
	memset(writer.addr, 'x', 10);
	cr_assert_eq(iomap_folio_end_write(&writer, 10), 10);
	iomap_inode_unlock(&ts->inode);
	cr_assert(size_changed(ts));
	cr_assert_eq(iomap_i_size_read(&ts->inode), 30011);
	/* an application that says so is not believed */
	ts->hook.begin = claim_size_changed;
	ts_write(ts, 20000, 100, 2);
	cr_assert_not(size_changed(ts));
	ts_write(ts, 100, 100, 2);
	cr_assert_not(size_changed(ts));
	ts_close(ts);
}
