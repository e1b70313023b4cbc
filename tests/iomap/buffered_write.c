/* SPDX-License-Identifier: MIT */
/*
 * buffered_write.c - BW: writes through the cache.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* ---- BW01 ---- */

static ssize_t write_iocb(struct ts *ts, struct iomap_kiocb *iocb, const void *buf, size_t len,
			  void *private_data)
{
	struct iomap_iov_iter from;
	ssize_t n;

	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	iomap_inode_lock(&ts->inode);
	n = iomap_file_buffered_write(iocb, &from, &ts->ops, &ts->write_ops, private_data);
	iomap_inode_unlock(&ts->inode);
	cr_assert_eq(iomap_iov_iter_count(&from), len - (n > 0 ? (size_t)n : 0));
	return n;
}

Test(buffered_write, bw01_flags_are_write_and_private_reaches_the_callbacks)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_kiocb iocb;
	char buf[6000];
	int tag;

	t_fill(buf, sizeof(buf), 100, 1);
	iomap_kiocb_init(&iocb, ts->file, 100);
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), &tag), (ssize_t)sizeof(buf));
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).flags, (unsigned)IOMAP_WRITE);
	cr_assert_eq(ts_nth(ts, TS_END, 0).flags, (unsigned)IOMAP_WRITE);
	cr_assert_eq(ts_nth(ts, TS_GET, 0).private_data, (void *)&tag);
	cr_assert_eq(td_count(ts->dev, TD_WRITE | TD_FLUSH), 0U, "it does not sync");
	cr_assert(ts_reads(ts, 100, sizeof(buf), 1));
	ts_close(ts);
}

Test(buffered_write, bw01_a_vector_is_gathered)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	char buf[10000];
	struct iovec iov[4] = {
		{ buf, 1 }, { buf + 1, 0 }, { buf + 1, 5000 }, { buf + 5001, 4999 }
	};

	t_fill(buf, sizeof(buf), 50, 1);
	cr_assert_eq(iomap_writev(ts->file, iov, 4, 50), 10000);
	cr_assert(ts_reads(ts, 50, 10000, 1));
	/* the same into what is cached by now */
	t_fill(buf, sizeof(buf), 50, 2);
	cr_assert_eq(iomap_writev(ts->file, iov, 4, 50), 10000);
	cr_assert(ts_reads(ts, 50, 10000, 2));
	cr_assert_eq(iomap_writev(ts->file, iov, IOV_MAX + 1, 50), -EINVAL);
	ts_close(ts);
}

Test(buffered_write, bw01_limits_and_unknown_flags)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .i_maxbytes = 10000 });
	struct iomap_kiocb iocb;
	char buf[100] = "x";

	iomap_kiocb_init(&iocb, ts->file, 10000);
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), NULL), -EFBIG);
	iomap_kiocb_init(&iocb, ts->file, INT64_MAX);
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), NULL), -EFBIG);
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_flags |= 0x40000000;
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), NULL), -EINVAL);
	iomap_kiocb_init(&iocb, ts->file, 0);
	cr_assert_eq(write_iocb(ts, &iocb, buf, 0, NULL), 0);
	cr_assert_eq(iomap_write(ts->file, buf, sizeof(buf), 10000), -EFBIG);
	cr_assert_eq(iomap_write(ts->file, buf, sizeof(buf), -1), -EINVAL);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	cr_assert_eq(iomap_write(ts->file, buf, sizeof(buf), 9950), 50, "cut at i_maxbytes");
	cr_assert_eq(iomap_i_size_read(&ts->inode), 10000);
	ts_close(ts);
}

/* ---- BW02 ---- */

static int64_t size_at_end[4];
static uint16_t flags_at_end[4];
static int note_size(struct ts *ts, int64_t pos, int64_t length, ssize_t written, unsigned flags,
		     struct iomap *iomap)
{
	size_t i = ts_calls(ts, TS_END) - 1;

	(void)pos;
	(void)length;
	(void)written;
	(void)flags;
	if (i < 4) {
		size_at_end[i] = iomap_i_size_read(&ts->inode);
		flags_at_end[i] = iomap->flags;
	}
	return 0;
}

Test(buffered_write, bw02_size_and_position_move_by_what_was_copied)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_kiocb iocb;
	char buf[12 * KIB];

	t_fill(buf, sizeof(buf), 0, 1);
	ts->map_max_bytes = 4 * KIB;
	ts->hook.end = note_size;
	ts_fail(ts, TS_BEGIN, 3, -ENOSPC, 1);
	iomap_kiocb_init(&iocb, ts->file, 0);
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), NULL), 8 * KIB);
	cr_assert_eq(iocb.ki_pos, 8 * KIB);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 8 * KIB);
	cr_assert_eq(size_at_end[0], 4 * KIB);
	cr_assert_eq(size_at_end[1], 8 * KIB);
	cr_assert(flags_at_end[0] & IOMAP_F_SIZE_CHANGED);
	cr_assert(ts_reads(ts, 0, 8 * KIB, 1));

	/* inside the file the size stays */
	iomap_kiocb_init(&iocb, ts->file, 1000);
	cr_assert_eq(write_iocb(ts, &iocb, buf + 1000, 500, NULL), 500);
	cr_assert_eq(iocb.ki_pos, 1500);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 8 * KIB);
	cr_assert_not(flags_at_end[2] & IOMAP_F_SIZE_CHANGED);

	/* nothing written: nothing moves */
	ts_fail(ts, TS_BEGIN, 1, -ENOSPC, 1);
	iomap_kiocb_init(&iocb, ts->file, 8 * KIB);
	cr_assert_eq(write_iocb(ts, &iocb, buf, sizeof(buf), NULL), -ENOSPC);
	cr_assert_eq(iocb.ki_pos, 8 * KIB);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 8 * KIB);
	ts_close(ts);
}

/* ---- BW03 ---- */

Test(buffered_write, bw03_partial_block_reads_the_rest_from_mapped_space)
{
	for (uint32_t bits = 9; bits <= 12; bits++) {
		struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = bits });
		size_t block = (size_t)1 << bits;
		int64_t pos = 8 * KIB + (int64_t)block + 10; /* in the second block of a folio,
							       * or the first of the next one */

		ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
		ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
		ts_write(ts, pos, 100, 2);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)block);
		cr_assert_eq(td_nth(ts->dev, TD_READ, 0).addr, 72 * KIB + block);
		cr_assert(ts_reads(ts, pos - 10, 10, 1));
		cr_assert(ts_reads(ts, pos, 100, 2));
		cr_assert(ts_reads(ts, pos + 100, block - 110, 1));
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert(ts_dev_has(ts, 72 * KIB + block, 10, pos - 10, 1));
		cr_assert(ts_dev_has(ts, 72 * KIB + block + 110, block - 110, pos + 100, 1));
		ts_close(ts);
	}
}

Test(buffered_write, bw03_both_ends_of_a_write_are_read)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = 9 });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	ts_write(ts, 700, 2000, 2); /* from block 1 to block 5 */
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 1024U);
	cr_assert(td_touched(ts->dev, TD_READ, 64 * KIB + 512, 512));
	cr_assert(td_touched(ts->dev, TD_READ, 64 * KIB + 2560, 512));
	cr_assert_not(td_touched(ts->dev, TD_READ, 64 * KIB + 1024, 1536));
	cr_assert(ts_reads(ts, 0, 700, 1));
	cr_assert(ts_reads(ts, 700, 2000, 2));
	cr_assert(ts_reads(ts, 2700, 2000, 1));
	ts_close(ts);
}

Test(buffered_write, bw03_a_block_that_is_uptodate_is_not_read_again)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	ts_write(ts, 10, 10, 2);
	ts_write(ts, 30, 10, 2);
	cr_assert_eq(td_count(ts->dev, TD_READ), 1U);
	ts_close(ts);
}

Test(buffered_write, bw03_full_blocks_are_not_read)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 16 * KIB, .blkbits = 10 });

	ts_map(ts, 0, 16 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 16 * KIB, 0, 1);
	ts_write(ts, 3 * KIB, 7 * KIB, 2);
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert(ts_reads(ts, 3 * KIB, 7 * KIB, 2));
	cr_assert(ts_reads(ts, 0, 3 * KIB, 1));
	ts_close(ts);
}

Test(buffered_write, bw03_fresh_unwritten_and_delalloc_space_is_zeroed_and_not_read)
{
	static const enum ts_alloc kinds[] = { TS_NEW, TS_UNWRITTEN, TS_DELALLOC };

	for (size_t i = 0; i < 3; i++) {
		for (int preallocated = 0; preallocated < 2; preallocated++) {
			struct ts *ts = ts_open(
				&(struct ts_config){ .i_size = 16 * KIB, .alloc = kinds[i] });

			memset(ts->dev->mem, 0xee, ts->dev->bytes);
			if (preallocated && kinds[i] == TS_UNWRITTEN)
				ts_map(ts, 0, 16 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
			else if (preallocated && kinds[i] == TS_DELALLOC)
				ts_map(ts, 0, 16 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
			ts_write(ts, 5000, 100, 1);
			cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
			cr_assert(ts_reads_all(ts, 4096, 904, 0));
			cr_assert(ts_reads(ts, 5000, 100, 1));
			cr_assert(ts_reads_all(ts, 5100, 3092, 0));
			cr_assert_eq(ts_fsync(ts), 0);
			ts_drop(ts);
			cr_assert(ts_reads_all(ts, 4096, 904, 0));
			cr_assert(ts_reads(ts, 5000, 100, 1));
			cr_assert(ts_reads_all(ts, 5100, 3092, 0));
			ts_close(ts);
		}
	}
}

static int data_below(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
		      struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos;
	(void)length;
	if (!(flags & IOMAP_WRITE))
		return 0;
	*srcmap = *iomap;
	srcmap->type = IOMAP_MAPPED;
	srcmap->flags = 0;
	srcmap->addr = 512 * KIB + (uint64_t)iomap->offset;
	(void)ts;
	return 0;
}

Test(buffered_write, bw03_over_data_below_it_is_read_from_there)
{
	static const enum ts_alloc kinds[] = { TS_NEW, TS_UNWRITTEN, TS_DELALLOC };

	for (size_t i = 0; i < 3; i++) {
		struct ts *ts =
			ts_open(&(struct ts_config){ .i_size = 16 * KIB, .alloc = kinds[i] });

		memset(ts->dev->mem, 0xee, ts->dev->bytes);
		ts_dev_fill(ts, 512 * KIB, 16 * KIB, 0, 1);
		ts->hook.begin = data_below;
		ts_write(ts, 5000, 100, 2);
		cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)(4 * KIB));
		cr_assert(ts_reads(ts, 4096, 904, 1));
		cr_assert(ts_reads(ts, 5000, 100, 2));
		cr_assert(ts_reads(ts, 5100, 3092, 1));
		ts_close(ts);
	}
}

static char *inline_area;
static char inline_at_end[400];
static int look_at_inline(struct ts *ts, int64_t pos, int64_t length, ssize_t written,
			  unsigned flags, struct iomap *iomap)
{
	(void)ts;
	(void)pos;
	(void)length;
	(void)written;
	if (flags & IOMAP_WRITE) {
		t_must(iomap->inline_data == inline_area);
		memcpy(inline_at_end, inline_area, sizeof(inline_at_end));
	}
	return 0;
}

Test(buffered_write, bw03_inline_data_has_changed_when_end_comes_and_is_never_written_back)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 300 });
	struct iomap_folio *folio;
	char data[512], page[4096];

	inline_area = data;
	memset(data, 0, sizeof(data));
	t_fill(data, 300, 0, 1);
	ts_map_inline(ts, data, sizeof(data));
	ts->hook.end = look_at_inline;
	ts_write(ts, 100, 100, 2);
	cr_assert_eq(t_mismatch(inline_at_end, 100, 0, 1), -1);
	cr_assert_eq(t_mismatch(inline_at_end + 100, 100, 100, 2), -1);
	cr_assert_eq(t_mismatch(inline_at_end + 200, 100, 200, 1), -1);
	cr_assert_not(ts_dirty(ts, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_calls(ts, TS_RANGE), 0U);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert(ts_reads(ts, 100, 100, 2));
	/* the page was filled for the write: behind the end it is zero too */
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	iomap_folio_read(folio, 0, page, sizeof(page));
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(t_mismatch(page, 100, 0, 1), -1);
	cr_assert(t_all(page + 300, sizeof(page) - 300, 0));
	ts_close(ts);
}

/* ---- BW07 ---- */

Test(buffered_write, bw07_between_the_old_end_and_a_write_beyond_it_are_zeros)
{
	static const enum ts_alloc kinds[] = { TS_NEW, TS_UNWRITTEN, TS_DELALLOC };

	for (size_t i = 0; i < 3; i++) {
		for (uint32_t bits = 9; bits <= 12; bits += 3) {
			struct ts *ts = ts_open(&(struct ts_config){
				.i_size = 1000, .blkbits = bits, .alloc = kinds[i] });

			memset(ts->dev->mem, 0xee, ts->dev->bytes);
			/* the last block holds rubbish behind the end */
			ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
			ts_dev_fill(ts, 64 * KIB, 1000, 0, 1);
			ts_write(ts, 30000, 100, 1);
			cr_assert_eq(iomap_i_size_read(&ts->inode), 30100);
			cr_assert(ts_reads(ts, 0, 1000, 1));
			cr_assert(ts_reads_all(ts, 1000, 29000, 0));
			cr_assert(ts_reads(ts, 30000, 100, 1));
			cr_assert_eq(ts_fsync(ts), 0);
			ts_drop(ts);
			cr_assert(ts_reads(ts, 0, 1000, 1));
			cr_assert(ts_reads_all(ts, 1000, 29000, 0));
			cr_assert(ts_reads(ts, 30000, 100, 1));
			ts_close(ts);
		}
	}
}

Test(buffered_write, bw07_a_gap_within_a_cached_folio_is_zeroed)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 1000 });
	struct iomap_folio *folio;

	memset(ts->dev->mem, 0xee, ts->dev->bytes);
	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 1000, 0, 1);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	/* somebody soiled the tail, as a store to mapped memory can */
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	iomap_folio_write(folio, 2000, "soil", 4);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	ts_write(ts, 3000, 100, 1);
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads_all(ts, 1000, 2000, 0));
	cr_assert(ts_reads(ts, 3000, 100, 1));
	ts_close(ts);
}
