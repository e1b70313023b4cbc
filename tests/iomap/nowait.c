/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * nowait.c - KI01: IOMAP_IOCB_NOWAIT, at each place where a call would wait.
 *
 * Each case makes the state that would make an ordinary call wait, by holding the device or a
 * lock, and calls with NOWAIT: it has to come back while the state holds, and without a wait that
 * the library has counted.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "holder.h"
#include "teststore.h"

#define KIB 1024
#define PAGE 4096

static struct ts *mapped_store(struct ts_config cfg)
{
	struct ts *ts;

	cfg.i_size = 512 * KIB;
	ts = ts_open(&cfg);
	ts_map(ts, 0, 512 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 512 * KIB, 0, 1);
	return ts;
}

static uint64_t waits(void)
{
	return t_debug() ? t_counters().waits_nr : 0;
}

/* A read with NOWAIT; it calls no extent map and starts no I/O. */
static ssize_t nowait_read(struct ts *ts, int64_t pos, void *buf, size_t len)
{
	uint64_t before = waits(), begins = ts_calls(ts, TS_BEGIN);
	size_t ios = td_count(ts->dev, TD_ALL);
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	ssize_t n;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, len);
	n = iomap_file_read_iter(&iocb, &to);
	t_must(waits() == before);
	t_must(ts_calls(ts, TS_BEGIN) == begins);
	t_must(td_count(ts->dev, TD_ALL) == ios);
	t_must(iocb.ki_pos == pos + (n > 0 ? n : 0));
	t_must(iomap_iov_iter_count(&to) == len - (n > 0 ? (size_t)n : 0));
	return n;
}

/* A write with NOWAIT, i_rwsem held. */
static ssize_t nowait_write(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	uint64_t before = waits();
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t n;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	iomap_inode_lock(&ts->inode);
	n = iomap_file_buffered_write(&iocb, &from, &ts->ops,
				      ts->cfg.with_write_ops ? &ts->write_ops : NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	t_must(waits() == before);
	t_must(iocb.ki_pos == pos + (n > 0 ? n : 0));
	t_must(iomap_iov_iter_count(&from) == len - (n > 0 ? (size_t)n : 0));
	return n;
}

static long read_task(void *arg)
{
	return ts_reads(arg, 0, PAGE, 1);
}

/* As let_go(), and gives back the reference to the folio. */
static void let_go_and_put(struct holder *holder)
{
	let_go(holder);
	if (holder->folio)
		iomap_folio_put(holder->folio);
}

/* ---- reads ---- */

Test(nowait, ki01_a_read_of_what_is_not_cached_is_eagain_without_a_call)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char buf[3 * PAGE];

	cr_assert_eq(nowait_read(ts, 0, buf, sizeof(buf)), -EAGAIN);
	cr_assert_eq(ts_calls(ts, TS_READ_FOLIO) + ts_calls(ts, TS_READAHEAD), 0U);
	/* beyond the end there is nothing to wait for */
	cr_assert_eq(nowait_read(ts, 512 * KIB, buf, sizeof(buf)), 0);
	ts_close(ts);
}

Test(nowait, ki01_a_read_ends_short_at_what_is_not_cached)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char buf[3 * PAGE];

	ts->a_ops.readahead = NULL;
	cr_assert(ts_reads(ts, 8 * PAGE, 2 * PAGE, 1));
	cr_assert_eq(nowait_read(ts, 8 * PAGE + 10, buf, sizeof(buf)), 2 * PAGE - 10);
	cr_assert_eq(t_mismatch(buf, 2 * PAGE - 10, 8 * PAGE + 10, 1), -1);
	cr_assert_eq(nowait_read(ts, 10 * PAGE, buf, sizeof(buf)), -EAGAIN);
	ts_close(ts);
}

Test(nowait, ki01_a_read_does_not_wait_for_a_folio_that_is_being_read)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	struct t_task task;
	char buf[PAGE];

	td_hold(ts->dev, TD_READ);
	t_start(&task, read_task, ts);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(nowait_read(ts, 0, buf, sizeof(buf)), -EAGAIN);
	td_open_gates(ts->dev);
	cr_assert(t_join(&task));
	cr_assert_eq(nowait_read(ts, 0, buf, sizeof(buf)), PAGE);
	ts_close(ts);
}

Test(nowait, ki01_a_read_takes_the_blocks_that_are_there_if_nobody_has_the_lock)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 9 });
	struct iomap_folio *folio;
	char buf[1024];

	/* the second and the third block of the folio, and no other */
	ts_write(ts, 512, 1024, 2);
	cr_assert_not(ts_uptodate(ts, 0));
	cr_assert_eq(nowait_read(ts, 512, buf, 1024), 1024);
	cr_assert_eq(t_mismatch(buf, 1024, 512, 2), -1);
	cr_assert_eq(nowait_read(ts, 0, buf, 512), -EAGAIN);
	folio = ts_folio(ts, 0);
	iomap_folio_lock(folio);
	cr_assert_eq(nowait_read(ts, 512, buf, 1024), -EAGAIN);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	ts_close(ts);
}

Test(nowait, ki01_a_hit_starts_no_readahead_and_leaves_it_to_the_next_one)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char *buf = malloc(512 * KIB);
	uint64_t begins;
	ssize_t n;

	/* a window, whose mark lies in what was not asked for */
	cr_assert(ts_reads(ts, 0, PAGE, 1));
	begins = ts_calls(ts, TS_BEGIN);
	n = nowait_read(ts, 0, buf, 512 * KIB);
	cr_assert_gt(n, PAGE);
	cr_assert_lt(n, 512 * KIB);
	cr_assert(ts_reads(ts, 0, (size_t)n, 1));
	cr_assert_gt(ts_calls(ts, TS_BEGIN), begins);
	free(buf);
	ts_close(ts);
}

/* ---- writes ---- */

Test(nowait, ki01_a_write_tells_the_extent_map)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char page[PAGE] = "x";

	cr_assert_eq(nowait_write(ts, 0, page, PAGE), PAGE);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)(IOMAP_WRITE | IOMAP_NOWAIT));
	cr_assert_eq(ts_last(ts, TS_END).flags, (unsigned)(IOMAP_WRITE | IOMAP_NOWAIT));
	/* what is dirty already is written to the same way */
	cr_assert_eq(nowait_write(ts, 10, page, 100), 100);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)(IOMAP_WRITE | IOMAP_NOWAIT));
	ts_write(ts, 0, 100, 1);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)IOMAP_WRITE);
	ts_close(ts);
}

Test(nowait, ki01_the_answer_of_the_extent_map_is_the_writes)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char pages[2 * PAGE] = "x";

	ts_fail(ts, TS_BEGIN, 1, -EAGAIN, 1);
	cr_assert_eq(nowait_write(ts, 0, pages, PAGE), -EAGAIN);
	ts->map_max_bytes = PAGE;
	ts_fail(ts, TS_BEGIN, 2, -EAGAIN, 1);
	cr_assert_eq(nowait_write(ts, 0, pages, 2 * PAGE), PAGE);
	ts_close(ts);
}

Test(nowait, ki01_a_write_does_not_wait_for_a_locked_folio)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char pages[2 * PAGE] = "x";
	struct holder holder;

	cr_assert(ts_reads(ts, 0, 2 * PAGE, 1));
	hold(ts, ts_folio(ts, PAGE), &holder);
	cr_assert_eq(nowait_write(ts, PAGE, pages, PAGE), -EAGAIN);
	cr_assert_eq(nowait_write(ts, 0, pages, 2 * PAGE), PAGE);
	let_go_and_put(&holder);
	cr_assert_eq(nowait_write(ts, 0, pages, 2 * PAGE), 2 * PAGE);
	ts_close(ts);
}

Test(nowait, ki01_a_write_does_not_wait_for_a_folio_that_is_being_read)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	struct t_task task;
	char page[PAGE] = "x";

	td_hold(ts->dev, TD_READ);
	t_start(&task, read_task, ts);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(nowait_write(ts, 0, page, PAGE), -EAGAIN);
	td_open_gates(ts->dev);
	cr_assert(t_join(&task));
	ts_close(ts);
}

Test(nowait, ki01_a_write_does_not_read_the_rest_of_a_block)
{
	for (int own = 0; own < 2; own++) {
		struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12,
								 .with_write_ops = own });
		char pages[2 * PAGE];

		memset(pages, 'x', sizeof(pages));
		td_hold(ts->dev, TD_READ);
		cr_assert_eq(nowait_write(ts, 100, pages, 100), -EAGAIN);
		/* whole blocks as far as they go */
		cr_assert_eq(nowait_write(ts, 2 * PAGE, pages, PAGE + 100), PAGE);
		cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
		cr_assert_eq(ts_calls(ts, TS_WREAD), 0U);
		td_open_gates(ts->dev);
		cr_assert(ts_reads(ts, 0, 2 * PAGE, 1));
		cr_assert(ts_reads_all(ts, 2 * PAGE, PAGE, 'x'));
		cr_assert(ts_reads(ts, 3 * PAGE, PAGE, 1));
		ts_close(ts);
	}
}

Test(nowait, ki01_a_write_does_not_wait_for_writeback)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	char page[PAGE] = "x";

	ts_write(ts, 0, PAGE, 3);
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, PAGE, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	cr_assert(ts_under_writeback(ts, 0));
	cr_assert_eq(nowait_write(ts, 0, page, PAGE), PAGE);
	td_open_gates(ts->dev);
	ts_close(ts);
}

#define CACHE_PAGES 1024

Test(nowait, ki01_a_write_does_not_wait_for_memory)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = (CACHE_PAGES + 8) * PAGE,
						     .cache_bytes = CACHE_PAGES * PAGE });
	static struct iomap_pin pin[CACHE_PAGES];
	char page[PAGE] = "x";

	/* holes, so that there is no device to be waited for; nobody can have these folios */
	for (unsigned i = 0; i < CACHE_PAGES; i++)
		cr_assert_eq(iomap_folio_pin(ts->file, (int64_t)i * PAGE, 0, &pin[i]), 0);
	cr_assert_eq(nowait_write(ts, (int64_t)CACHE_PAGES * PAGE, page, PAGE), -EAGAIN);
	for (unsigned i = 0; i < CACHE_PAGES; i++)
		iomap_folio_unpin(&pin[i]);
	cr_assert_eq(nowait_write(ts, (int64_t)CACHE_PAGES * PAGE, page, PAGE), PAGE);
	ts_close(ts);
}

/* Dirty what there may be of it; the pages that were taken. */
static unsigned dirty_until_eagain(struct ts *ts)
{
	char page[PAGE] = "x";
	unsigned nr = 0;
	ssize_t n;

	while ((n = nowait_write(ts, (int64_t)nr * PAGE, page, PAGE)) == PAGE)
		nr++;
	cr_assert_eq(n, -EAGAIN);
	return nr;
}

Test(nowait, ki01_a_write_is_not_throttled)
{
	/* of pages that are not cached, and of clean ones that are */
	for (int cached = 0; cached < 2; cached++) {
		struct ts *ts = ts_open(&(struct ts_config){
			.i_size = CACHE_PAGES * PAGE, .cache_bytes = CACHE_PAGES * PAGE });
		unsigned nr, hard = CACHE_PAGES * 40 / 100;

		ts_map(ts, 0, CACHE_PAGES * PAGE, IOMAP_MAPPED, 0, 64 * KIB);
		if (cached)
			for (int64_t at = 0; at < CACHE_PAGES / 2 * PAGE; at += PAGE)
				cr_assert(ts_reads_all(ts, at, PAGE, 0));
		td_hold(ts->dev, TD_WRITE);
		nr = dirty_until_eagain(ts);
		cr_assert_leq(nr, hard + 1);
		cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
		/* what is dirty already may change */
		cr_assert_eq(nowait_write(ts, 0, "x", 1), 1);
		td_open_gates(ts->dev);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(dirty_until_eagain(ts), nr);
		ts_close(ts);
	}
}

Test(nowait, ki01_a_write_in_place_does_not_wait_either)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });
	struct iomap_folio_writer writer;
	struct iomap_kiocb iocb;
	uint64_t before = waits();

	iomap_kiocb_init(&iocb, ts->file, 100);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 100, &ts->ops, NULL, NULL, &writer), -EAGAIN);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)(IOMAP_WRITE | IOMAP_NOWAIT));
	cr_assert_eq(waits(), before);
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	iomap_inode_unlock(&ts->inode);
	cr_assert(ts_reads(ts, 0, PAGE, 1));
	iomap_inode_lock(&ts->inode);
	cr_assert_eq(iomap_folio_begin_write(&iocb, 100, &ts->ops, NULL, NULL, &writer), 0);
	cr_assert_eq(iomap_folio_end_write(&writer, 0), 0);
	iomap_inode_unlock(&ts->inode);
	ts_close(ts);
}

/* ---- by iocb, with the inode's locks ---- */

static unsigned completions;

static void count_completion(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb, (void)ret;
	completions++;
}

/* iomap_write_iter() or iomap_read_iter() of a page. */
static ssize_t nowait_iter(struct ts *ts, int64_t pos, bool write, uint32_t flags, bool async)
{
	static _Alignas(PAGE) char page[PAGE];
	uint64_t before = waits();
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	ssize_t n;

	memset(page, 'x', PAGE);
	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT | flags;
	iocb.ki_complete = async ? count_completion : NULL;
	iomap_iov_iter_ubuf(&iter, write ? IOMAP_ITER_SOURCE : IOMAP_ITER_DEST, page, PAGE);
	n = write ? iomap_write_iter(&iocb, &iter) : iomap_read_iter(&iocb, &iter);
	/* direct I/O waits for its own, and for that alone */
	t_must(waits() == before || (flags & IOMAP_IOCB_DIRECT && n > 0));
	return n;
}

static struct ts *direct_store(void)
{
	static const struct iomap_bdev_limits limits = {
		.logical_block_size = 512,
		.physical_block_size = 512,
		.dma_alignment = 512,
		.max_segments_nr = 256,
		.max_transfer_bytes = 1 << 20,
		.flags = IOMAP_BDEV_HAS_NOWAIT,
	};
	struct ts *ts = calloc(1, sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = 512 * KIB, .limits = &limits });
	ts->hook.open = ts_allow_direct;
	ts_begin(ts);
	ts_map(ts, 0, 1024 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 512 * KIB, 0, 1);
	return ts;
}

Test(nowait, ki01_nobody_waits_for_i_rwsem)
{
	struct ts *ts = direct_store();
	struct holder holder;

	for (int async = 0; async < 2; async++) {
		hold(ts, NULL, &holder);
		cr_assert_eq(nowait_iter(ts, 0, true, 0, async), -EAGAIN);
		cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_APPEND, async), -EAGAIN);
		cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_DIRECT, async), -EAGAIN);
		cr_assert_eq(nowait_iter(ts, 0, false, IOMAP_IOCB_DIRECT, async), -EAGAIN);
		/* a read through the cache takes no lock of the inode, and has nothing there */
		cr_assert_eq(nowait_iter(ts, 0, false, 0, async), -EAGAIN);
		let_go_and_put(&holder);
	}
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 0U);
	cr_assert_eq(nowait_iter(ts, 0, true, 0, true), PAGE);
	cr_assert_eq(nowait_iter(ts, 0, false, 0, true), PAGE);
	while (iomap_engine_poll(ts->engine, 10, true) > 0)
		;
	cr_assert_eq(completions, 0U);
	ts_close(ts);
}

Test(nowait, ki01_nobody_waits_for_a_sync_or_fills_a_gap)
{
	struct ts *ts = direct_store();
	struct iomap_kiocb iocb;

	cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_DSYNC, false), -EAGAIN);
	cr_assert_eq(nowait_iter(ts, 600 * KIB, true, 0, false), -EAGAIN);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 512 * KIB);
	cr_assert_not(iomap_filemap_get_folio(&ts->inode.i_data, 0));
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	cr_assert_eq(iomap_fsync_iocb(&iocb, 0, INT64_MAX, 0), -EAGAIN);
	ts_close(ts);
}

Test(nowait, ki01_direct_calls_do_not_wait_for_the_cache)
{
	struct ts *ts = direct_store();
	struct holder holder;

	ts_write(ts, 0, PAGE, 3);
	cr_assert_eq(nowait_iter(ts, 0, false, IOMAP_IOCB_DIRECT, false), -EAGAIN);
	cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_DIRECT, false), -EAGAIN);
	cr_assert_eq(ts_calls(ts, TS_WRITEPAGES), 0U);
	/* what is under writeback */
	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(iomap_sync_range(ts->file, 0, PAGE, IOMAP_SYNC_WRITE), 0);
	cr_assert_eq(nowait_iter(ts, 0, false, IOMAP_IOCB_DIRECT, false), -EAGAIN);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	/* a clean folio goes, unless somebody has it */
	cr_assert_eq(nowait_iter(ts, 0, false, IOMAP_IOCB_DIRECT, false), PAGE);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)(IOMAP_DIRECT | IOMAP_NOWAIT));
	hold(ts, ts_folio(ts, 0), &holder);
	cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_DIRECT, false), -EAGAIN);
	let_go_and_put(&holder);
	cr_assert_eq(nowait_iter(ts, 0, true, IOMAP_IOCB_DIRECT, false), PAGE);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags,
		     (unsigned)(IOMAP_WRITE | IOMAP_DIRECT | IOMAP_NOWAIT));
	cr_assert(ts_reads_all(ts, 0, PAGE, 'x'));
	/* what extends the file takes the lock for itself */
	cr_assert_eq(nowait_iter(ts, 512 * KIB, true, IOMAP_IOCB_DIRECT, false), -EAGAIN);
	ts_close(ts);
}
