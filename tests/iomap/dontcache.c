/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * dontcache.c - KI02: IOMAP_IOCB_DONTCACHE leaves nothing behind that it brought in.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define PAGE 4096
#define FILE_BYTES (2048 * KIB)

static struct ts *mapped_store(struct ts_config cfg)
{
	struct ts *ts;

	cfg.i_size = FILE_BYTES;
	ts = ts_open(&cfg);
	ts_map(ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, FILE_BYTES, 0, 1);
	return ts;
}

static bool cached(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio =
		iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos / PAGE);

	if (folio)
		iomap_folio_put(folio);
	return folio;
}

static unsigned cached_nr(struct ts *ts, int64_t pos, int64_t end)
{
	unsigned nr = 0;

	for (; pos < end; pos += PAGE)
		nr += cached(ts, pos);
	return nr;
}

static ssize_t read_flags(struct ts *ts, int64_t pos, size_t len, uint32_t flags)
{
	char *buf = malloc(len);
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	ssize_t n;

	t_must(buf != NULL);
	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, len);
	n = iomap_file_read_iter(&iocb, &to);
	if (n > 0)
		t_must(t_mismatch(buf, (size_t)n, pos, 1) == -1);
	free(buf);
	return n;
}

static ssize_t read_dontcache(struct ts *ts, int64_t pos, size_t len)
{
	return read_flags(ts, pos, len, IOMAP_IOCB_DONTCACHE);
}

static ssize_t write_flags(struct ts *ts, int64_t pos, size_t len, uint32_t flags)
{
	char *buf = malloc(len);
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t n;

	t_must(buf != NULL);
	t_fill(buf, len, pos, 1);
	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(&ts->inode);
	n = iomap_file_buffered_write(&iocb, &from, &ts->ops, NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	free(buf);
	return n;
}

static ssize_t write_dontcache(struct ts *ts, int64_t pos, size_t len)
{
	return write_flags(ts, pos, len, IOMAP_IOCB_DONTCACHE);
}

/* ---- reads ---- */

Test(dontcache, ki02_a_read_drops_what_it_brought_in)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	cr_assert_eq(read_dontcache(ts, 0, 8 * PAGE), 8 * PAGE);
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 0U);
	/* a part of a page is a part of a folio */
	cr_assert_eq(read_dontcache(ts, 100 * PAGE + 7, 5), 5);
	cr_assert_eq(cached_nr(ts, 100 * PAGE, 101 * PAGE), 0U);
	ts_close(ts);
}

Test(dontcache, ki02_a_stream_of_reads_uses_what_it_reads_ahead_and_leaves_nothing)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	for (int64_t at = 0; at < FILE_BYTES; at += 8 * PAGE)
		cr_assert_eq(read_dontcache(ts, at, 8 * PAGE), 8 * PAGE);
	cr_assert_eq(cached_nr(ts, 0, FILE_BYTES), 0U);
	/* nothing was read twice */
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)FILE_BYTES);
	ts_close(ts);
}

Test(dontcache, ki02_one_read_of_more_than_the_cache)
{
	struct ts *ts = mapped_store((struct ts_config){ .cache_bytes = 1024 * KIB });
	unsigned ahead;

	/* what is hot is a quarter of the cache */
	cr_assert_eq(read_flags(ts, 0, 256 * KIB, 0), 256 * KIB);
	cr_assert_eq(read_flags(ts, 0, 256 * KIB, 0), 256 * KIB);
	ahead = cached_nr(ts, 256 * KIB, FILE_BYTES); /* by those two: it was there before */
	cr_assert_eq(read_dontcache(ts, 256 * KIB, FILE_BYTES - 256 * KIB),
		     FILE_BYTES - 256 * KIB);
	cr_assert_eq(cached_nr(ts, 256 * KIB, FILE_BYTES), ahead);
	cr_assert_eq(cached_nr(ts, 0, 256 * KIB), 64U);
	ts_close(ts);
}

Test(dontcache, ki02_what_was_cached_before_stays)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	ts->a_ops.readahead = NULL;
	cr_assert_eq(read_flags(ts, 2 * PAGE, PAGE, 0), PAGE);
	cr_assert_eq(read_dontcache(ts, 0, 8 * PAGE), 8 * PAGE);
	cr_assert(cached(ts, 2 * PAGE));
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 1U);
	cr_assert_eq(write_dontcache(ts, 0, 8 * PAGE), 8 * PAGE);
	cr_assert(cached(ts, 2 * PAGE));
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 1U);
	ts_close(ts);
}

Test(dontcache, ki02_a_read_without_a_wait_drops_nothing_of_others)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	cr_assert_eq(read_flags(ts, 0, 4 * PAGE, IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE),
		     -EAGAIN);
	cr_assert_eq(read_flags(ts, 0, 4 * PAGE, 0), 4 * PAGE);
	cr_assert_eq(read_flags(ts, 0, 4 * PAGE, IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE),
		     4 * PAGE);
	cr_assert_eq(cached_nr(ts, 0, 4 * PAGE), 4U);
	ts_close(ts);
}

/* ---- writes ---- */

Test(dontcache, ki02_a_write_tells_the_extent_map_and_the_ioend)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	cr_assert_eq(write_dontcache(ts, 0, PAGE), PAGE);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)(IOMAP_WRITE | IOMAP_DONTCACHE));
	cr_assert_eq(ts_last(ts, TS_END).flags, (unsigned)(IOMAP_WRITE | IOMAP_DONTCACHE));
	cr_assert_eq(ts_last(ts, TS_SUBMIT).io_flags, IOMAP_IOEND_DONTCACHE);
	ts_write(ts, 0, PAGE, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_last(ts, TS_SUBMIT).io_flags, 0);
	ts_close(ts);
}

Test(dontcache, ki02_a_write_goes_out_at_once_and_its_folios_when_it_has)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	td_hold(ts->dev, TD_WRITE);
	/* it returns while the device has it */
	cr_assert_eq(write_dontcache(ts, 0, 8 * PAGE), 8 * PAGE);
	td_wait_held(ts->dev, 1);
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 8U);
	cr_assert(ts_under_writeback(ts, 0));
	cr_assert_not(ts_dirty(ts, 7 * PAGE));
	td_open_gates(ts->dev);
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 0U);
	cr_assert(ts_dev_has(ts, 64 * KIB, 8 * PAGE, 0, 1));
	ts_close(ts);
}

Test(dontcache, ki02_the_same_where_the_device_ends_it_in_its_own_thread)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12, .threads = true });

	td_async(ts->dev);
	for (int64_t at = 0; at < FILE_BYTES; at += 16 * PAGE)
		cr_assert_eq(write_dontcache(ts, at, 16 * PAGE), 16 * PAGE);
	cr_assert_eq(ts_fsync(ts), 0);
	/* but for what somebody looked at in the moment in which it would have gone */
	cr_assert_lt(cached_nr(ts, 0, FILE_BYTES), 8U);
	ts_close(ts);
}

Test(dontcache, ki02_a_folio_that_is_used_meanwhile_stays)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(write_dontcache(ts, 0, 8 * PAGE), 8 * PAGE);
	/* a hit, a pin, and a write into it */
	cr_assert_eq(read_flags(ts, PAGE, PAGE, 0), PAGE);
	cr_assert(ts_reads(ts, 2 * PAGE, 10, 1));
	ts_write(ts, 3 * PAGE, 10, 1);
	/* but not one with the same flag */
	cr_assert_eq(read_dontcache(ts, 4 * PAGE, PAGE), PAGE);
	cr_assert_eq(write_dontcache(ts, 5 * PAGE, 10), 10);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(cached_nr(ts, 0, 8 * PAGE), 3U);
	cr_assert_eq(cached_nr(ts, PAGE, 4 * PAGE), 3U);
	ts_close(ts);
}

/* Also where it goes on at the very byte at which one with the flag has ended. */
Test(dontcache, ki02_a_read_that_goes_on_behind_one_with_the_flag)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	td_hold(ts->dev, TD_WRITE);
	cr_assert_eq(write_dontcache(ts, 0, 2 * PAGE), 2 * PAGE);
	for (int64_t at = 0; at < 2 * PAGE; at += PAGE)
		cr_assert_eq(read_dontcache(ts, at, 100), 100);
	cr_assert_eq(read_flags(ts, PAGE + 100, 100, 0), 100);
	td_open_gates(ts->dev);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_not(cached(ts, 0));
	cr_assert(cached(ts, PAGE));
	ts_close(ts);
}

Test(dontcache, ki02_without_a_wait_the_flusher_sends_it)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	cr_assert_eq(write_flags(ts, 0, 4 * PAGE, IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE),
		     4 * PAGE);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	/* its data is young, and little */
	while (iomap_engine_poll(ts->engine, 10, true) > 0)
		;
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 4U * PAGE);
	cr_assert_eq(cached_nr(ts, 0, 4 * PAGE), 0U);
	ts_close(ts);
}

Test(dontcache, ki02_a_write_that_fails_leaves_nothing_either)
{
	struct ts *ts = mapped_store((struct ts_config){ .blkbits = 12 });

	/* the read of the rest of the last block */
	td_fail(ts->dev, TD_READ, 64 * KIB, FILE_BYTES, -EIO, 1);
	cr_assert_eq(write_dontcache(ts, 0, PAGE + 10), PAGE);
	cr_assert_eq(cached_nr(ts, 0, 4 * PAGE), 0U);
	/* the write-out */
	td_fail(ts->dev, TD_WRITE, 64 * KIB, FILE_BYTES, -EIO, 1);
	cr_assert_eq(write_dontcache(ts, 0, PAGE), PAGE);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(cached_nr(ts, 0, 4 * PAGE), 0U);
	ts_close(ts);
}

Test(dontcache, ki02_a_stream_of_16_times_the_cache_leaves_the_hot_set_alone)
{
	const int64_t cache = 1024 * KIB, hot = cache / 2;

	const int64_t steps[] = { PAGE, 64 * KIB, 16 * cache };

	for (unsigned i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		struct ts *ts = ts_open(&(struct ts_config){ .cache_bytes = (uint64_t)cache,
							     .dev_bytes = 32U << 20,
							     .i_size = hot });

		ts_map(ts, 0, 24U << 20, IOMAP_MAPPED, 0, 64 * KIB);
		ts_dev_fill(ts, 64 * KIB, (size_t)hot, 0, 1);
		cr_assert(ts_reads(ts, 0, (size_t)hot, 1));
		cr_assert(ts_reads(ts, 0, (size_t)hot, 1));
		for (int64_t at = hot; at < hot + 16 * cache; at += steps[i])
			cr_assert_eq(write_dontcache(ts, at, (size_t)steps[i]), steps[i]);
		cr_assert_eq(cached_nr(ts, 0, hot), (unsigned)(hot / PAGE));
		cr_assert_eq(cached_nr(ts, hot, hot + 16 * cache), 0U);
		/* all of it was sent by the writer: nothing waits for the flusher */
		cr_assert_eq(td_bytes(ts->dev, TD_WRITE), (uint64_t)(16 * cache));
		ts_close(ts);
	}
}
