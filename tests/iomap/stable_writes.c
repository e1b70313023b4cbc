/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * stable_writes.c - WB11: what is being written stays as it is, and what was read is looked at.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static uint64_t sum_of(uint64_t sum, const void *buf, size_t len)
{
	const unsigned char *byte = buf;

	for (size_t i = 0; i < len; i++)
		sum = (sum ^ byte[i]) * 0x100000001b3ULL;
	return sum;
}

/* ---- verifying what was read ---- */

static struct {
	_Atomic uint64_t calls, uptodate;
	int64_t bad_from, bad_to; /* file bytes */
	int error;		  /* for what is bad; 0: made good */
	int seen;		  /* error that came */
} check;

static int check_read(struct iomap_folio *folio, size_t off, size_t len, int error)
{
	int64_t pos = iomap_folio_pos(folio) + (int64_t)off;

	atomic_fetch_add(&check.calls, 1);
	t_must(iomap_folio_test_locked(folio));
	if (iomap_folio_test_uptodate(folio))
		atomic_fetch_add(&check.uptodate, 1);
	if (pos >= check.bad_to || pos + (int64_t)len <= check.bad_from)
		return error;
	check.seen = error;
	if (!check.error) {
		t_fill((char *)iomap_folio_address(folio) + off, len, pos, 1);
		return 0;
	}
	return check.error;
}

/* Blocks of 1 KiB, each a mapping of its own. */
static struct ts *checked_store(int64_t bad_from, int64_t bad_to, int error)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	memset(&check, 0, sizeof(check));
	check.bad_from = bad_from;
	check.bad_to = bad_to;
	check.error = error;
	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = 256 * KIB, .blkbits = 10, .opts = &opts });
	ts->read_ops.end_read = check_read;
	ts_begin(ts);
	ts_map(ts, 0, 256 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->map_max_bytes = KIB;
	ts_dev_fill(ts, 64 * KIB, 256 * KIB, 0, 1);
	return ts;
}

static ssize_t read_at(struct ts *ts, int64_t pos, size_t len)
{
	char buf[64 * KIB];

	t_must(len <= sizeof(buf));
	return iomap_read(ts->file, buf, len, pos);
}

Test(stable_writes, wb11_end_read_comes_before_uptodate_for_every_block)
{
	struct ts *ts = checked_store(0, 0, 0);

	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	cr_assert_geq(atomic_load(&check.calls), 64U);
	cr_assert_eq(atomic_load(&check.uptodate), 0U);
	ts_close(ts);
}

Test(stable_writes, wb11_what_end_read_refuses_is_not_uptodate_and_nothing_else)
{
	struct ts *ts = checked_store(5 * KIB, 6 * KIB, -EBADMSG);

	cr_assert_eq(read_at(ts, 4 * KIB, KIB), KIB);
	cr_assert_eq(read_at(ts, 5 * KIB, KIB), -EBADMSG);
	cr_assert(ts_blocks_uptodate(ts, 4 * KIB, 0, KIB));
	cr_assert_not(ts_blocks_uptodate(ts, 4 * KIB, KIB, KIB));
	cr_assert(ts_blocks_uptodate(ts, 4 * KIB, 2 * KIB, 2 * KIB));
	cr_assert(ts_reads(ts, 0, 5 * KIB, 1));
	cr_assert(ts_reads(ts, 6 * KIB, 60 * KIB, 1));
	/* nobody finds it good because it was there before */
	cr_assert_eq(read_at(ts, 5 * KIB, KIB), -EBADMSG);
	check.bad_to = 0;
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	ts_close(ts);
}

Test(stable_writes, wb11_end_read_may_make_good_what_the_device_could_not)
{
	struct ts *ts = checked_store(5 * KIB, 6 * KIB, 0);

	ts_poison(ts);
	ts_dev_fill(ts, 64 * KIB, 5 * KIB, 0, 1);
	ts_dev_fill(ts, 70 * KIB, 58 * KIB, 6 * KIB, 1);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	cr_assert_eq(check.seen, 0);
	/* and a bio that has failed as a whole */
	ts_drop(ts);
	ts_poison(ts);
	td_fail(ts->dev, TD_READ, 64 * KIB, 64 * KIB, -EIO, 1000);
	check.bad_from = 0;
	check.bad_to = 256 * KIB;
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	cr_assert_eq(check.seen, -EIO);
	ts_close(ts);
}

Test(stable_writes, wb11_the_devices_error_stands_unless_end_read_takes_it_away)
{
	struct ts *ts = checked_store(0, 0, 0);

	td_fail(ts->dev, TD_READ, 69 * KIB, KIB, -EIO, 1000);
	cr_assert_eq(read_at(ts, 5 * KIB, KIB), -EIO);
	cr_assert_gt(atomic_load(&check.calls), 0U);
	ts_close(ts);
}

/* ---- stable writes ---- */

static _Atomic unsigned summed, compared;

static uint64_t sum_of_bio(const struct iomap_bio *bio)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < bio->bi_vcnt; i++)
		sum = sum_of(sum, bio->bi_io_vec[i].bv_base, bio->bi_io_vec[i].bv_len);
	return sum;
}

/* The device has what was there when the checksum was computed. */
static void compare_end_io(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct ts *ts = ts_of(ioend->io_inode);
	const uint8_t *mem = ts->dev->mem + (ioend->io_sector << IOMAP_SECTOR_SHIFT);

	t_must(sum_of(0, mem, ioend->io_size) == (uint64_t)(uintptr_t)ioend->io_private);
	atomic_fetch_add(&compared, 1);
	iomap_finish_ioends(ioend, 0);
}

static int sum_submit(struct ts *ts, struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	(void)ts;
	/* whole blocks, in one bio: or this would not be all of it */
	t_must(ioend->io_bio.bi_iter.bi_size == ioend->io_size);
	ioend->io_private = (void *)(uintptr_t)sum_of_bio(&ioend->io_bio);
	ioend->io_bio.bi_end_io = compare_end_io;
	atomic_fetch_add(&summed, 1);
	return iomap_ioend_writeback_submit(wpc, error);
}

static struct ts *stable_store(unsigned flags, uint32_t blkbits)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = flags;
	opts.dirty_hard_pct = 80;
	opts.dirty_background_pct = 80;
	opts.flush_interval_ms = 3600 * 1000;
	ts = ts_open(&(struct ts_config){ .i_size = 1 << 20, .blkbits = blkbits, .opts = &opts });
	cr_assert_eq(iomap_mapping_set_stable_writes(&ts->inode.i_data), 0);
	ts_map(ts, 0, 1 << 20, IOMAP_MAPPED, 0, 64 * KIB);
	return ts;
}

/* The first folio is under writeback, and will be until the gates open. */
static struct ts *store_under_writeback(unsigned flags)
{
	struct ts *ts = stable_store(flags, 10);

	ts_write(ts, 0, 4 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert(ts_under_writeback(ts, 0));
	return ts;
}

Test(stable_writes, wb11_is_for_an_address_space_with_nothing_in_it)
{
	struct ts *ts = stable_store(IOMAP_ENGINE_NO_THREADS, 12);

	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(iomap_mapping_set_stable_writes(&ts->inode.i_data), -EBUSY);
	ts_close(ts);
}

static ssize_t write_nowait(struct ts *ts, int64_t pos, size_t len)
{
	static char buf[8 * KIB];
	struct iomap_kiocb iocb;
	struct iomap_iov_iter from;
	ssize_t ret;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(&ts->inode);
	ret = iomap_file_buffered_write(&iocb, &from, &ts->ops, NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	return ret;
}

Test(stable_writes, wb11_who_must_not_wait_is_told_to_come_again)
{
	struct ts *ts = store_under_writeback(IOMAP_ENGINE_NO_THREADS);
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	cr_assert_eq(write_nowait(ts, 0, 4 * KIB), -EAGAIN);
	cr_assert_eq(write_nowait(ts, 100, 100), -EAGAIN);
	cr_assert_eq(write_nowait(ts, 1000, KIB), -EAGAIN);
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 100, &ts->ops, NULL, NULL, &writer), -EAGAIN);
	iomap_inode_unlock(&ts->inode);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 2), "readers need not wait");
	td_open_gates(ts->dev);
	cr_assert_eq(write_nowait(ts, 100, 100), 100);
	ts_close(ts);
}

Test(stable_writes, wb11_without_it_nobody_waits)
{
	struct ts *ts = store_under_writeback(IOMAP_ENGINE_NO_THREADS);

	ts->inode.i_data.stable_writes = 0;
	cr_assert_eq(write_nowait(ts, 100, 100), 100);
	td_open_gates(ts->dev);
	ts_close(ts);
}

struct change {
	struct ts *ts;
	struct t_task task;
	_Atomic bool begun;
};

static long overwrite(void *arg)
{
	struct change *change = arg;

	atomic_store(&change->begun, true);
	ts_write(change->ts, 0, 4 * KIB, 3);
	return 0;
}

/* Of a folio of which one half is being written and the other held back, and so dirty. */
static ssize_t defer_half(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	if (pos >= 2 * KIB)
		return IOMAP_WB_DEFER;
	return ts_range(ts, wpc, folio, pos, pos + len > 2 * KIB ? (unsigned)(2 * KIB - pos) : len,
			end_pos);
}

static long overwrite_half(void *arg)
{
	struct change *change = arg;

	atomic_store(&change->begun, true);
	ts_write(change->ts, 2 * KIB, KIB, 3);
	return 0;
}

Test(stable_writes, wb11_what_is_held_back_of_a_folio_is_stable_as_well)
{
	struct ts *ts = stable_store(IOMAP_ENGINE_NO_THREADS, 10);
	struct change change = { .ts = ts };

	ts->hook.range = defer_half;
	ts_write(ts, 0, 4 * KIB, 2);
	/* used, so that a mere overwrite is one */
	cr_assert(ts_reads(ts, 0, 4 * KIB, 2));
	ts_write(ts, 0, 4 * KIB, 2);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, INT64_MAX, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert(ts_under_writeback(ts, 0));
	cr_assert(ts_dirty(ts, 0));
	t_start(&change.task, overwrite_half, &change);
	while (!atomic_load(&change.begun))
		;
	for (unsigned n = 0; n < 1000; n++)
		cr_assert(ts_reads(ts, 0, 4 * KIB, 2));
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&change.task), 0);
	cr_assert(ts_reads(ts, 2 * KIB, KIB, 3));
	ts->hook.range = NULL;
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 66 * KIB, KIB, 2 * KIB, 3));
	ts_close(ts);
}

static long store_in_place(void *arg)
{
	struct change *change = arg;
	struct ts *ts = change->ts;
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;

	atomic_store(&change->begun, true);
	iomap_kiocb_init(&iocb, ts->file, 0);
	iomap_inode_lock(&ts->inode);
	t_must(!iomap_folio_begin_write(&iocb, 4 * KIB, &ts->ops, NULL, NULL, &writer));
	t_must(writer.len == 4 * KIB);
	t_fill(writer.addr, writer.len, 0, 3);
	t_must(iomap_folio_end_write(&writer, writer.len) == 4 * KIB);
	iomap_inode_unlock(&ts->inode);
	return 0;
}

static long zero_tail(void *arg)
{
	struct change *change = arg;
	struct ts *ts = change->ts;
	bool did = false;
	int rc;

	atomic_store(&change->begun, true);
	iomap_inode_lock(&ts->inode);
	rc = iomap_truncate_page(&ts->inode, 3 * KIB + 100, &did, &ts->ops, NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	t_must(!rc && did);
	return 0;
}

/*
 * Whatever changes the folio has begun when the device takes the bytes, or comes behind: it gets
 * those that were there before, and the change is not lost.
 */
Test(stable_writes, wb11_writers_zeroing_and_stores_in_place_wait)
{
	static long (*const changes[])(void *) = { overwrite, store_in_place, zero_tail };

	for (unsigned i = 0; i < 3; i++)
		for (unsigned threads = 0; threads < 2; threads++) {
			struct ts *ts = store_under_writeback(threads ? 0 : IOMAP_ENGINE_NO_THREADS);
			struct change change = { .ts = ts };

			t_start(&change.task, changes[i], &change);
			while (!atomic_load(&change.begun))
				;
			/* more chances for it to go wrong: readers go by meanwhile */
			for (unsigned n = 0; n < 1000; n++)
				cr_assert(ts_reads(ts, 0, 3 * KIB, 2));
			td_open_gates(ts->dev);
			cr_assert_eq(t_join(&change.task), 0);
			cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 2));
			cr_assert(ts_dirty(ts, 0));
			cr_assert_eq(ts_fsync(ts), 0);
			cr_assert(i == 2 ? ts_dev_all(ts, 67 * KIB + 100, KIB - 100, 0)
					 : ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 3));
			ts_close(ts);
		}
}

static _Atomic long completed;

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb;
	atomic_store(&completed, ret);
}

Test(stable_writes, wb11_an_asynchronous_write_goes_on_in_a_worker)
{
	struct ts *ts = store_under_writeback(0);
	static char buf[4 * KIB];
	struct iomap_kiocb iocb;
	struct iomap_iov_iter from;

	t_fill(buf, sizeof(buf), 0, 3);
	atomic_store(&completed, 0);
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_complete = on_complete;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, sizeof(buf));
	cr_assert_eq(iomap_write_iter(&iocb, &from), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(atomic_load(&completed), 0);
	td_open_gates(ts->dev);
	while (!atomic_load(&completed))
		iomap_engine_poll(ts->engine, 1, false);
	cr_assert_eq(atomic_load(&completed), 4 * KIB);
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 64 * KIB, 4 * KIB, 0, 3));
	ts_close(ts);
}

static _Atomic bool stop;

static long keep_writing(void *arg)
{
	struct ts *ts = arg;
	struct t_rand r = { .state = t_tick() };

	while (!atomic_load(&stop))
		ts_write(ts, (int64_t)t_below(&r, 60 * KIB), 1 + t_below(&r, 4 * KIB),
			 (unsigned)t_below(&r, 1000));
	return 0;
}

Test(stable_writes, wb11_a_checksum_of_submission_is_that_of_what_arrives_beside_writers)
{
	for (unsigned threads = 0; threads < 2; threads++) {
		struct ts *ts = stable_store(threads ? 0 : IOMAP_ENGINE_NO_THREADS, 10);
		struct t_task writers[2];

		atomic_store(&summed, 0);
		atomic_store(&compared, 0);
		atomic_store(&stop, false);
		ts->hook.submit = sum_submit;
		ts_write(ts, 0, 64 * KIB, 1);
		td_async(ts->dev);
		for (unsigned i = 0; i < 2; i++)
			t_start(&writers[i], keep_writing, ts);
		for (unsigned n = 0; n < 200 || atomic_load(&summed) < 100; n++)
			cr_assert_eq(ts_fsync(ts), 0);
		atomic_store(&stop, true);
		for (unsigned i = 0; i < 2; i++)
			cr_assert_eq(t_join(&writers[i]), 0);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_geq(atomic_load(&summed), 100U);
		cr_assert_eq(atomic_load(&compared), atomic_load(&summed));
		ts_close(ts);
	}
}
