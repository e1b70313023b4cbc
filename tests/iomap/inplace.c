/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * inplace.c - CA03: writes into folio memory itself.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "cache/cache.h"
#include "teststore.h"

#define KIB 1024

static struct ts *store(uint32_t blkbits)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .blkbits = blkbits,
						     .with_write_ops = true });

	ts_poison(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 64 * KIB, 0, 1);
	return ts;
}

static int begin(struct ts *ts, struct iomap_kiocb *iocb, int64_t pos, size_t len,
		 struct iomap_folio_writer *writer)
{
	iomap_kiocb_init(iocb, ts->file, pos);
	return iomap_folio_begin_write(iocb, len, &ts->ops, &ts->write_ops, NULL, writer);
}

/* The whole of a write: pattern `seed`, `written` of `len` bytes. */
static ssize_t write_in_place(struct ts *ts, int64_t pos, size_t len, size_t written, unsigned seed)
{
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_inode_lock(&ts->inode);
	cr_assert_eq(begin(ts, &iocb, pos, len, &writer), 0);
	cr_assert_leq(written, writer.len);
	t_fill(writer.addr, written, pos, seed);
	ret = iomap_folio_end_write(&writer, written);
	cr_assert_eq(iocb.ki_pos, pos + (ret > 0 ? ret : 0));
	iomap_inode_unlock(&ts->inode);
	return ret;
}

Test(inplace, ca03_what_is_stored_in_place_is_written)
{
	struct ts *ts = store(0);

	cr_assert_eq(write_in_place(ts, 5000, 100, 100, 2), 100);
	cr_assert(ts_dirty(ts, 5000));
	cr_assert(ts_reads(ts, 4096, 5000 - 4096, 1), "what was there is read first");
	cr_assert(ts_reads(ts, 5000, 100, 2));
	cr_assert(ts_reads(ts, 5100, 3000, 1));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 5000, 100, 5000, 2));
	cr_assert(ts_dev_has(ts, 4096, 904, 4096, 1));
	ts_close(ts);
}

Test(inplace, ca03_a_write_in_place_calls_what_a_write_does)
{
	struct ts *ts = store(0);

	ts_reset(ts);
	cr_assert_eq(write_in_place(ts, 4096, 4096, 4096, 2), 4096);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).pos, 4096);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).length, 4096U);
	cr_assert_eq(ts_calls(ts, TS_GET), 1U);
	cr_assert_eq(ts_calls(ts, TS_VALID), 1U);
	cr_assert_eq(ts_calls(ts, TS_READ) + ts_calls(ts, TS_WREAD), 0U, "all of it is covered");
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	cr_assert_eq(ts_nth(ts, TS_PUT, 0).written, 4096);
	cr_assert_eq(ts_calls(ts, TS_END), 1U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).length, 4096U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 4096);
	ts_close(ts);
}

Test(inplace, ca03_room_ends_with_the_folio_and_the_end_tells_of_all)
{
	struct ts *ts = store(0);
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	ts_reset(ts);
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(begin(ts, &iocb, 4000, 20000, &writer), 0);
	cr_assert_eq(writer.len, 96U);
	memset(writer.addr, 'x', 96);
	cr_assert_eq(iomap_folio_end_write(&writer, 96), 96);
	cr_assert_eq(iocb.ki_pos, 4096);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U, "no other mapping is asked for");
	cr_assert_eq(ts_nth(ts, TS_END, 0).length, 20000U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 96);
	/* given up */
	cr_assert_eq(begin(ts, &iocb, 9000, 10, &writer), 0);
	cr_assert_eq(iomap_folio_end_write(&writer, 0), 0);
	cr_assert_eq(iocb.ki_pos, 9000);
	cr_assert_eq(ts_last(ts, TS_END).written, 0);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 2U);
	iomap_inode_unlock(&ts->inode);
	cr_assert(ts_reads(ts, 8192, 4096, 1));
	cr_assert(!ts_dirty(ts, 8192));
	ts_close(ts);
}

/* Blocks of 512 bytes: 8 in a folio that is not cached. */
Test(inplace, ca03_a_short_end_takes_over_what_is_whole)
{
	struct ts *ts = store(9);

	/* blocks 0 to 7 were to be covered: one and a half have been */
	cr_assert_eq(write_in_place(ts, 0, 4096, 700, 2), 512);
	cr_assert(ts_reads(ts, 0, 512, 2));
	cr_assert(ts_reads(ts, 512, 3584, 1), "from the device");
	/* less than a block: nothing */
	cr_assert_eq(write_in_place(ts, 4096, 4096, 100, 2), 0);
	cr_assert(ts_reads(ts, 4096, 4096, 1));
	/* the first block was read around the write, so a part of it stands */
	cr_assert_eq(write_in_place(ts, 8192 + 100, 3996, 50, 2), 50);
	cr_assert(ts_reads(ts, 8192, 100, 1));
	cr_assert(ts_reads(ts, 8292, 50, 2));
	cr_assert(ts_reads(ts, 8342, 3000, 1));
	/* so was the last one */
	cr_assert_eq(write_in_place(ts, 12288, 4000, 3900, 2), 3900);
	cr_assert(ts_reads(ts, 12288, 3900, 2));
	cr_assert(ts_reads(ts, 16188, 196, 1));
	/* a cached folio takes any part */
	cr_assert_eq(write_in_place(ts, 4096, 4096, 100, 3), 100);
	cr_assert(ts_reads(ts, 4096, 100, 3));
	cr_assert(ts_reads(ts, 4196, 3996, 1));
	ts_close(ts);
}

/* Where nothing was before the gap of a short end is zero, not what the memory held. */
Test(inplace, ca03_a_short_end_beyond_eof_leaves_zeros)
{
	struct ts *ts = store(0);
	const char *memory;
	struct iomap_pin pin;

	ts->cfg.alloc = TS_NEW;
	cr_assert_eq(write_in_place(ts, 64 * KIB, 3000, 1000, 2), 1000);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 65 * KIB - 24);
	cr_assert(ts_reads(ts, 64 * KIB, 1000, 2));
	cr_assert_eq(iomap_folio_pin(ts->file, 64 * KIB, IOMAP_PIN_NOREAD, &pin), 0);
	memory = pin.addr;
	cr_assert(t_all(memory + 1000, 3096, 0));
	iomap_folio_unpin(&pin);
	ts_close(ts);
}

Test(inplace, ca03_i_size_moves_with_the_end)
{
	struct ts *ts = store(0);
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	ts->cfg.alloc = TS_NEW;
	iomap_inode_lock(&ts->inode);
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_flags |= IOMAP_IOCB_APPEND;
	cr_assert_eq(iomap_folio_begin_write(&iocb, 10, &ts->ops, NULL, NULL, &writer), 0);
	cr_assert_eq(iocb.ki_pos, 64 * KIB);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB);
	memset(writer.addr, 'a', 10);
	cr_assert_eq(iomap_folio_end_write(&writer, 10), 10);
	iomap_inode_unlock(&ts->inode);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 64 * KIB + 10);
	cr_assert(ts_reads_all(ts, 64 * KIB, 10, 'a'));
	ts_close(ts);
}

Test(inplace, ca03_what_cannot_be_begun_is_refused)
{
	struct ts *ts = store(0);
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	iomap_inode_lock(&ts->inode);
	cr_assert_eq(begin(ts, &iocb, 0, 0, &writer), -EINVAL);
	cr_assert_eq(begin(ts, &iocb, -1, 1, &writer), -EINVAL);
	cr_assert_eq(begin(ts, &iocb, INT64_MAX, 1, &writer), -EFBIG);
	iomap_kiocb_init(&iocb, ts->file, 0);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 1, NULL, NULL, NULL, &writer), -EINVAL);
	iocb.ki_flags = 0x8000;
	cr_assert_eq(iomap_folio_begin_write(&iocb, 1, &ts->ops, NULL, NULL, &writer), -EINVAL);
	ts_fail(ts, TS_BEGIN, 1, -ENOSPC, 1);
	cr_assert_eq(begin(ts, &iocb, 0, 1, &writer), -ENOSPC);
	ts_fail(ts, TS_GET, 1, -ENOMEM, 1);
	cr_assert_eq(begin(ts, &iocb, 0, 1, &writer), -ENOMEM);
	ts_fail(ts, TS_WREAD, 1, -EIO, 1);
	cr_assert_eq(begin(ts, &iocb, 0, 1, &writer), -EIO);
	/* an end that fails counts only when nothing was written */
	ts_fail(ts, TS_END, 1, -EDQUOT, 2);
	cr_assert_eq(begin(ts, &iocb, 0, 1, &writer), 0);
	cr_assert_eq(iomap_folio_end_write(&writer, 0), -EDQUOT);
	cr_assert_eq(begin(ts, &iocb, 0, 1, &writer), 0);
	*(char *)writer.addr = 'e';
	cr_assert_eq(iomap_folio_end_write(&writer, 1), 1);
	iomap_inode_unlock(&ts->inode);
	ts_close(ts);
}

/* Two at a time, of rising offsets. */
Test(inplace, ca03_a_second_write_may_begin_behind_the_first)
{
	struct ts *ts = store(0);
	struct iomap_folio_writer low, high;
	struct iomap_kiocb low_iocb, high_iocb;

	iomap_inode_lock(&ts->inode);
	cr_assert_eq(begin(ts, &low_iocb, 100, 50, &low), 0);
	cr_assert_eq(begin(ts, &high_iocb, 9000, 50, &high), 0);
	t_fill(low.addr, 50, 100, 2);
	t_fill(high.addr, 50, 9000, 2);
	cr_assert_eq(iomap_folio_end_write(&high, 50), 50);
	cr_assert_eq(iomap_folio_end_write(&low, 50), 50);
	iomap_inode_unlock(&ts->inode);
	cr_assert(ts_reads(ts, 100, 50, 2));
	cr_assert(ts_reads(ts, 9000, 50, 2));
	ts_close(ts);
}

/* ---- readers meanwhile ---- */

struct meanwhile {
	struct ts *ts;
	char buf[100];
};

static long read_hundred(void *arg)
{
	struct meanwhile *m = arg;

	return iomap_read(m->ts->file, m->buf, 100, 1000);
}

/* A reader that comes in the middle waits for the end, and sees all of it or nothing. */
Test(inplace, ca03_a_reader_sees_no_half_of_it)
{
	struct meanwhile m = { .ts = store(0) };
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;
	struct t_task task;

	/* the plain hit is of what has been used again */
	cr_assert(ts_reads(m.ts, 0, 4096, 1) && ts_reads(m.ts, 0, 4096, 1));
	cr_assert_eq(iomap__hit_read(m.ts->file, m.buf, 100, 1000), 100U);
	iomap_inode_lock(&m.ts->inode);
	cr_assert_eq(begin(m.ts, &iocb, 1000, 100, &writer), 0);
	t_fill(writer.addr, 50, 1000, 2);
	cr_assert_eq(iomap__hit_read(m.ts->file, m.buf, 100, 1000), 0U, "not without the lock");
	t_start(&task, read_hundred, &m);
	t_fill((char *)writer.addr + 50, 50, 1050, 2);
	cr_assert_eq(iomap_folio_end_write(&writer, 100), 100);
	iomap_inode_unlock(&m.ts->inode);
	cr_assert_eq(t_join(&task), 100);
	cr_assert_eq(t_mismatch(m.buf, 100, 1000, 2), -1);
	ts_close(m.ts);
}
