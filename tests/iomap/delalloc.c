/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * delalloc.c - WF: writes that come up short, and the space that they had reserved.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "teststore.h"

#define KIB 1024

/* ---- what was punched ---- */

static struct {
	int64_t pos, len;
} punched[64];
static unsigned punched_nr;

static void punch(struct iomap_inode *inode, int64_t offset, int64_t length, struct iomap *iomap)
{
	t_must(iomap->type == IOMAP_DELALLOC && length > 0);
	t_must(!iomap_down_read_trylock(&inode->i_data.invalidate_lock));
	if (punched_nr < 64) {
		punched[punched_nr].pos = offset;
		punched[punched_nr].len = length;
	}
	punched_nr++;
	ts_unreserve(ts_of(inode), offset, (uint64_t)length);
}

/* Areas that follow each other count as one. */
static unsigned areas(void)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < punched_nr; i++)
		nr += !i || punched[i - 1].pos + punched[i - 1].len != punched[i].pos;
	return nr;
}

/* As the iomap_end of a filesystem. */
static int give_back(struct ts *ts, int64_t pos, int64_t length, ssize_t written, unsigned flags,
		     struct iomap *iomap)
{
	return iomap_write_delalloc_release(&ts->inode, pos + written, pos + length, flags, iomap,
					    punch);
}

static struct ts *store(const struct ts_config *cfg)
{
	struct ts *ts = ts_open(cfg);

	ts_poison(ts);
	ts->hook.end = give_back;
	punched_nr = 0;
	return ts;
}

static struct ts *delalloc_store(uint32_t blkbits)
{
	return store(&(struct ts_config){ .i_size = 256 * KIB, .alloc = TS_DELALLOC,
					  .blkbits = blkbits, .with_write_ops = true });
}

/* A call of the test's own, for [start, end) of a mapping [0, 64 KiB). */
static int release(struct ts *ts, int64_t start, int64_t end, unsigned type, unsigned mapping_flags,
		   unsigned flags)
{
	struct iomap iomap = { .length = 64 * KIB, .type = (uint16_t)type,
			       .flags = (uint16_t)mapping_flags, .addr = IOMAP_NULL_ADDR };

	return iomap_write_delalloc_release(&ts->inode, start, end, flags, &iomap, punch);
}

static int release_fresh(struct ts *ts, int64_t start, int64_t end)
{
	return release(ts, start, end, IOMAP_DELALLOC, IOMAP_F_NEW, IOMAP_WRITE);
}

/* ---- WF01 ---- */

/* Two pages of which the second cannot be read. */
static char *half_bad(size_t *good)
{
	char *mem = mmap(NULL, 128 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);

	t_must(mem != MAP_FAILED);
	t_must(mprotect(mem + 64 * KIB, 64 * KIB, PROT_NONE) == 0);
	*good = 64 * KIB;
	return mem;
}

static ssize_t write_checked(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iocb.ki_flags |= IOMAP_IOCB_CHECKED;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	iomap_inode_lock(&ts->inode);
	ret = iomap_file_buffered_write(&iocb, &from, &ts->ops, ts->i_op.write_ops, NULL);
	iomap_inode_unlock(&ts->inode);
	return ret;
}

Test(delalloc, wf01_what_was_not_copied_is_not_dirty)
{
	size_t good;
	char *mem = half_bad(&good);

	for (size_t n = 1; n < 20 * KIB; n += 1777)
		for (uint32_t blkbits = 9; blkbits <= 12; blkbits += 3) {
			struct ts *ts = store(&(struct ts_config){ .i_size = 256 * KIB,
								   .blkbits = blkbits });
			size_t block = 1U << blkbits;
			size_t end = (1000 + n + block - 1) / block * block;
			ssize_t done;

			ts_map(ts, 0, 256 * KIB, IOMAP_MAPPED, 0, 256 * KIB);
			ts_dev_fill(ts, 256 * KIB, 256 * KIB, 0, 1);
			t_fill(mem + good - n, n, 1000, 2);
			done = write_checked(ts, 1000, mem + good - n, n + 10 * KIB);
			cr_assert_eq(done, (ssize_t)n);
			cr_assert_eq(ts_fsync(ts), 0);
			cr_assert_eq(td_bytes(ts->dev, TD_WRITE), end - 1000 / block * block);
			for (int pass = 0; pass < 2; pass++) {
				cr_assert(ts_reads(ts, 0, 1000, 1));
				cr_assert(ts_reads(ts, 1000, n, 2));
				cr_assert(ts_reads(ts, 1000 + (int64_t)n, 40 * KIB, 1));
				ts_drop(ts);
			}
			ts_close(ts);
		}
	t_must(munmap(mem, 128 * KIB) == 0);
}

Test(delalloc, wf01_a_folio_that_was_not_to_be_had_leaves_none_dirty)
{
	struct ts *ts = delalloc_store(10);
	char *buf = malloc(64 * KIB);

	t_fill(buf, 64 * KIB, 0, 1);
	ts_fail(ts, TS_GET, 3, -ENOMEM, 1);
	cr_assert_eq(iomap_write(ts->file, buf, 64 * KIB, 1 * KIB), 7 * KIB);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 8U * KIB);
	/* and the rest of what was reserved is given back, in one piece */
	cr_assert_eq(punched_nr, 1U);
	cr_assert_eq(punched[0].pos, 8 * KIB);
	cr_assert_eq(punched[0].len, 57 * KIB);
	cr_assert_eq(ts_reserved(ts), 7U * KIB);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_WRITE), 7U * KIB);
	cr_assert_eq(ts_reserved(ts), 0U);
	cr_assert(ts_reads_all(ts, 8 * KIB, 60 * KIB, 0));
	free(buf);
	ts_close(ts);
}

Test(delalloc, wf01_a_write_that_fails_at_once_leaves_nothing)
{
	struct ts *ts = delalloc_store(12);

	ts_fail(ts, TS_GET, 1, -ENOMEM, 1);
	cr_assert_eq(iomap_write(ts->file, "x", 1, 5000), -ENOMEM);
	cr_assert_eq(punched_nr, 1U);
	cr_assert_eq(punched[0].pos, 4 * KIB, "the whole block");
	cr_assert_eq(punched[0].len, 4 * KIB);
	cr_assert_eq(ts_reserved(ts), 0U);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert(ts_reads_all(ts, 0, 16 * KIB, 0));
	ts_close(ts);
}

/* ---- WF02: which areas ---- */

Test(delalloc, wf02_all_of_an_uncached_range_is_one_area)
{
	struct ts *ts = delalloc_store(10);

	ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	cr_assert_eq(release_fresh(ts, 3000, 50000), 0);
	cr_assert_eq(punched_nr, 1U);
	cr_assert_eq(punched[0].pos, 2 * KIB, "whole blocks");
	cr_assert_eq(punched[0].len, 47 * KIB);
	cr_assert_eq(ts_reserved(ts), 17U * KIB);
	/* not beyond the mapping */
	punched_nr = 0;
	cr_assert_eq(release_fresh(ts, 60 * KIB, 200 * KIB), 0);
	cr_assert_eq(punched_nr, 1U);
	cr_assert_eq(punched[0].len, 4 * KIB);
	cr_assert_eq(release_fresh(ts, 64 * KIB, 64 * KIB), 0);
	cr_assert_eq(release_fresh(ts, 10, 5), 0);
	cr_assert_eq(punched_nr, 1U);
	ts_close(ts);
}

/* Dirty blocks, and clean ones that are cached, in folios of 2^order pages. */
static void keeps_dirty_blocks(unsigned order)
{
	struct ts *ts = delalloc_store(10);

	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, order, order), 0);
	ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	cr_assert(ts_reads_all(ts, 8 * KIB, 20 * KIB, 0));
	ts_write(ts, 10 * KIB, 2 * KIB, 1);
	ts_write(ts, 21 * KIB + 100, 10, 1);
	ts_write(ts, 63 * KIB, 1 * KIB, 1);
	cr_assert_eq(punched_nr, 0U);
	cr_assert_eq(release_fresh(ts, 0, 64 * KIB), 0);
	cr_assert_eq(areas(), 3U);
	cr_assert_eq(punched[0].pos, 0);
	cr_assert_eq(ts_reserved(ts), 4U * KIB);
	for (int64_t pos = 0; pos < 64 * KIB; pos += KIB)
		cr_assert_eq(ts_lookup(ts, pos).type == IOMAP_DELALLOC,
			     pos == 10 * KIB || pos == 11 * KIB || pos == 21 * KIB ||
				     pos == 63 * KIB,
			     "at %lld", (long long)pos);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert(ts_reads(ts, 10 * KIB, 2 * KIB, 1));
	cr_assert(ts_reads(ts, 21 * KIB + 100, 10, 1));
	cr_assert(ts_reads(ts, 63 * KIB, 1 * KIB, 1));
	ts_close(ts);
}

Test(delalloc, wf02_dirty_blocks_keep_theirs_and_clean_ones_go)
{
	for (unsigned order = 0; order <= 4; order++)
		keeps_dirty_blocks(order);
}

/* The store that says so only when it has been written. */
static ssize_t late_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			  uint64_t pos, unsigned len, uint64_t end_pos)
{
	ssize_t n = ts_range(ts, wpc, folio, pos, len, end_pos);

	if (n > 0)
		ts_map(ts, (int64_t)pos, (uint64_t)n, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	return n;
}

Test(delalloc, wf02_blocks_under_writeback_keep_theirs)
{
	for (unsigned order = 0; order <= 2; order += 2) {
		struct ts *ts = delalloc_store(10);
		struct iomap_writeback_control wbc = { .range_end = INT64_MAX,
						       .nr_to_write = 100 };

		cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, order, order),
			     0);
		td_async(ts->dev);
		ts->hook.range = late_range;
		ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
		ts_write(ts, 9 * KIB, 2 * KIB, 1);
		td_hold(ts->dev, TD_WRITE);
		cr_assert_eq(ts->a_ops.writepages(&ts->inode.i_data, &wbc), 0);
		td_wait_held(ts->dev, 1);
		cr_assert_not(ts_dirty(ts, 8 * KIB));
		cr_assert_eq(release_fresh(ts, 0, 64 * KIB), 0);
		cr_assert_eq(areas(), 2U);
		cr_assert_eq(ts_reserved(ts), 2U * KIB);
		cr_assert_eq(ts_lookup(ts, 9 * KIB).type, IOMAP_DELALLOC);
		td_open_gates(ts->dev);
		cr_assert_eq(ts_fsync(ts), 0);
		/* it has been written, and nothing is kept for it any more */
		cr_assert_eq(release_fresh(ts, 0, 64 * KIB), 0);
		cr_assert_eq(ts_reserved(ts), 0U);
		ts_close(ts);
	}
}

Test(delalloc, wf02_only_fresh_reservations_and_not_in_faults)
{
	struct ts *ts = delalloc_store(12);
	struct iomap iomap = { .length = 64 * KIB, .type = IOMAP_DELALLOC, .flags = IOMAP_F_NEW };

	ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	cr_assert_eq(release(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_WRITE), 0);
	cr_assert_eq(release(ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_NEW, IOMAP_WRITE), 0);
	cr_assert_eq(release(ts, 0, 64 * KIB, IOMAP_UNWRITTEN, IOMAP_F_NEW, IOMAP_WRITE), 0);
	cr_assert_eq(release(ts, 0, 64 * KIB, IOMAP_DELALLOC, IOMAP_F_NEW,
			     IOMAP_WRITE | IOMAP_FAULT),
		     0);
	cr_assert_eq(release_fresh(ts, -1, 64 * KIB), -EINVAL);
	cr_assert_eq(iomap_write_delalloc_release(&ts->inode, 0, 64 * KIB, IOMAP_WRITE, &iomap,
						  NULL),
		     -EINVAL);
	cr_assert_eq(iomap_write_delalloc_release(&ts->inode, 0, 64 * KIB,
						  IOMAP_WRITE | IOMAP_FAULT, &iomap, NULL),
		     -EINVAL);
	cr_assert_eq(punched_nr, 0U);
	ts_close(ts);
}

/* ---- the lock ---- */

Test(delalloc, wf02_a_zeroing_and_an_unsharing_have_the_lock_already)
{
	static const unsigned flags[] = { IOMAP_ZERO, IOMAP_WRITE | IOMAP_UNSHARE };

	for (size_t i = 0; i < 2; i++) {
		struct ts *ts = delalloc_store(12);

		ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
		iomap_filemap_invalidate_lock(&ts->inode.i_data);
		cr_assert_eq(release(ts, 0, 64 * KIB, IOMAP_DELALLOC, IOMAP_F_NEW, flags[i]), 0);
		iomap_filemap_invalidate_unlock(&ts->inode.i_data);
		cr_assert_eq(punched_nr, 1U);
		cr_assert_eq(ts_reserved(ts), 0U);
		ts_close(ts);
	}
}

static void release_without_lock(void *arg)
{
	(void)arg;
	(void)release(delalloc_store(12), 0, 64 * KIB, IOMAP_DELALLOC, IOMAP_F_NEW, IOMAP_ZERO);
}

Test(delalloc, wf02_who_says_so_and_has_not_is_found_out)
{
	char err[4096];

	if (!t_debug())
		cr_skip("a check of debug builds");
	cr_assert_eq(t_death(release_without_lock, NULL, err, sizeof(err)), SIGABRT);
	cr_assert_not_null(strstr(err, "without invalidate_lock"), "%s", err);
}

/* A gap that is zeroed, by a map that reserves for zeros, of which some is then not used. */
static int reserve_for_zeros(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			     struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length;
	if (!(flags & IOMAP_ZERO) || iomap->type != IOMAP_MAPPED)
		return 0;
	*srcmap = *iomap;
	iomap->type = IOMAP_DELALLOC;
	iomap->flags = IOMAP_F_NEW | IOMAP_F_SHARED;
	ts_map(ts, iomap->offset, iomap->length, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	iomap->validity_cookie = ts->seq;
	return 0;
}

Test(delalloc, wf02_a_gap_that_a_write_zeroes_is_such_a_zeroing)
{
	struct ts *ts = delalloc_store(12);

	iomap_i_size_write(&ts->inode, 1000);
	ts_map(ts, 0, 8 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts->hook.begin = reserve_for_zeros;
	ts_fail(ts, TS_GET, 2, -ENOMEM, 1);
	cr_assert_eq(iomap_write(ts->file, "x", 1, 20000), -ENOMEM);
	cr_assert_eq(punched_nr, 1U);
	cr_assert_eq(punched[0].pos, 4 * KIB);
	cr_assert_eq(ts_reserved(ts), 4U * KIB);
	ts_close(ts);
}

/* ---- beside other writers, who hold i_rwsem shared ---- */

static ssize_t write_locked(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	return iomap_file_buffered_write(&iocb, &from, &ts->ops, ts->i_op.write_ops, NULL);
}

static ssize_t write_shared(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	ssize_t n;

	iomap_inode_lock_shared(&ts->inode);
	n = write_locked(ts, pos, buf, len);
	iomap_inode_unlock_shared(&ts->inode);
	return n;
}

static long write_beside(void *arg)
{
	char buf[2 * KIB];

	t_fill(buf, sizeof(buf), 20 * KIB, 3);
	return write_shared(arg, 20 * KIB, buf, sizeof(buf));
}

static struct t_task beside;

/* While the area is being punched somebody writes there, by the mapping from before. */
static void punch_beside_a_write(struct iomap_inode *inode, int64_t offset, int64_t length,
				 struct iomap *iomap)
{
	struct ts *ts = ts_of(inode);

	if (offset <= 20 * KIB && offset + length > 20 * KIB) {
		uint64_t puts = ts_calls(ts, TS_PUT);

		t_start(&beside, write_beside, ts);
		ts_wait_calls(ts, TS_BEGIN, ts_calls(ts, TS_END) + 1);
		/* it waits now; the rest is for one that does not */
		for (int i = 0; i < 20000 && ts_calls(ts, TS_PUT) == puts; i++)
			sched_yield();
	}
	punch(inode, offset, length, iomap);
}

Test(delalloc, wf02_a_write_beside_it_reserves_again)
{
	/* nothing is cached there; something clean is, in small folios and in large ones */
	for (int cached = 0; cached < 3; cached++) {
		struct ts *ts = delalloc_store(10);
		struct iomap iomap = { .length = 64 * KIB, .type = IOMAP_DELALLOC,
				       .flags = IOMAP_F_NEW };
		unsigned order = cached == 2 ? 3 : 0;

		cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, order, order),
			     0);
		ts_map(ts, 0, 64 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
		if (cached)
			cr_assert(ts_reads_all(ts, 0, 64 * KIB, 0));
		ts_reset(ts);
		iomap_inode_lock_shared(&ts->inode);
		cr_assert_eq(iomap_write_delalloc_release(&ts->inode, 0, 64 * KIB, IOMAP_WRITE,
							  &iomap, punch_beside_a_write),
			     0);
		iomap_inode_unlock_shared(&ts->inode);
		cr_assert_eq(t_join(&beside), 2 * KIB);
		cr_assert_eq(ts_calls(ts, TS_BEGIN), 2U, "the first mapping was stale");
		cr_assert_eq(ts_nth(ts, TS_VALID, 0).ret, 0);
		cr_assert_eq(ts_reserved(ts), 2U * KIB);
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert_eq(ts_reserved(ts), 0U);
		ts_drop(ts);
		cr_assert(ts_reads_all(ts, 0, 20 * KIB, 0));
		cr_assert(ts_reads(ts, 20 * KIB, 2 * KIB, 3));
		cr_assert(ts_reads_all(ts, 22 * KIB, 42 * KIB, 0));
		ts_close(ts);
	}
}

static long read_beside(void *arg)
{
	return ts_reads_all(arg, 0, 128 * KIB, 0);
}

static void punch_beside_a_read(struct iomap_inode *inode, int64_t offset, int64_t length,
				struct iomap *iomap)
{
	if (!punched_nr)
		t_start(&beside, read_beside, ts_of(inode));
	for (int i = 0; i < 1000; i++)
		sched_yield();
	punch(inode, offset, length, iomap);
}

Test(delalloc, wf02_readers_go_on_beside_it)
{
	for (int i = 0; i < (T_SANITIZED ? 20 : 100); i++) {
		struct ts *ts = delalloc_store(12);
		struct iomap iomap = { .length = 128 * KIB, .type = IOMAP_DELALLOC,
				       .flags = IOMAP_F_NEW };

		ts_map(ts, 0, 128 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
		cr_assert(ts_reads_all(ts, 64 * KIB, 4 * KIB, 0));
		cr_assert_eq(iomap_write_delalloc_release(&ts->inode, 0, 128 * KIB, IOMAP_WRITE,
							  &iomap, punch_beside_a_read),
			     0);
		cr_assert_eq(t_join(&beside), 1);
		cr_assert_eq(ts_reserved(ts), 0U);
		ts_close(ts);
	}
}

#define WRITERS 3
#define STRIPE 512
#define FILE_BYTES (96 * KIB)

struct many {
	struct ts *ts;
	struct t_gate map_lock; /* of begin and punch: a reservation grows in two steps */
	int (*begin)(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		     struct iomap *iomap, struct iomap *srcmap);
	uint8_t model[FILE_BYTES];
	atomic_uint running;
};

static struct many *many;

/* Reserve more than was asked for, as filesystems do. */
static int greedy_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	struct ts *ts = ts_of(inode);
	int err;

	t_lock(&many->map_lock);
	err = many->begin(inode, pos, length, flags, iomap, srcmap);
	if (!err && iomap->type == IOMAP_DELALLOC && iomap->flags & IOMAP_F_NEW) {
		int64_t end = iomap->offset + (int64_t)iomap->length;
		struct ts_extent e = ts_lookup(ts, end);
		uint64_t more = e.length - (uint64_t)(end - e.offset);

		if (e.type == IOMAP_HOLE) {
			more = more < 12 * KIB ? more : 12 * KIB;
			ts_map(ts, end, more, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
			iomap->length += more;
			t_lock(&ts->gate);
			iomap->validity_cookie = ts->seq;
			t_unlock(&ts->gate);
		}
	}
	t_unlock(&many->map_lock);
	return err;
}

static void locked_punch(struct iomap_inode *inode, int64_t offset, int64_t length,
			 struct iomap *iomap)
{
	(void)iomap;
	t_lock(&many->map_lock);
	ts_unreserve(ts_of(inode), offset, (uint64_t)length);
	t_unlock(&many->map_lock);
}

static int give_back_beside(struct ts *ts, int64_t pos, int64_t length, ssize_t written,
			    unsigned flags, struct iomap *iomap)
{
	int64_t end = iomap->offset + (int64_t)iomap->length;

	(void)length;
	/* let others come to write to what is reserved */
	if (iomap->type == IOMAP_DELALLOC && iomap->flags & IOMAP_F_NEW)
		for (int i = 0; i < 3; i++)
			sched_yield();
	return iomap_write_delalloc_release(&ts->inode, pos + written, end, flags, iomap,
					    locked_punch);
}

struct writer {
	unsigned number;
	uint64_t seed;
	struct t_task task;
};

static long writer_main(void *arg)
{
	struct writer *w = arg;
	struct t_rand r = { w->seed };

	for (int i = 0; i < (T_SANITIZED ? 300 : 1500); i++) {
		size_t pos = (t_below(&r, FILE_BYTES / STRIPE / WRITERS) * WRITERS + w->number) *
			     STRIPE;

		iomap_inode_lock_shared(&many->ts->inode);
		for (size_t k = 0; k < STRIPE; k++)
			many->model[pos + k] = (uint8_t)t_rand(&r);
		t_must(write_locked(many->ts, (int64_t)pos, many->model + pos, STRIPE) == STRIPE);
		iomap_inode_unlock_shared(&many->ts->inode);
	}
	atomic_fetch_sub(&many->running, 1);
	return 0;
}

/* All of the file becomes a hole again, so that there is something to be reserved. */
static void punch_all(struct ts *ts)
{
	iomap_inode_lock(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	ts_punch(ts, 0, FILE_BYTES + 64 * KIB);
	iomap_truncate_pagecache_range(&ts->inode, 0, FILE_BYTES - 1);
	memset(many->model, 0, FILE_BYTES);
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
}

static void many_writers(uint32_t blkbits, unsigned order, uint64_t seed)
{
	static uint8_t got[FILE_BYTES];
	struct writer w[WRITERS];
	struct ts *ts;

	many = calloc(1, sizeof(*many));
	t_must(many != NULL);
	t_gate_init(&many->map_lock);
	ts = malloc(sizeof(*ts));
	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_size = FILE_BYTES, .alloc = TS_DELALLOC,
					    .blkbits = blkbits, .with_write_ops = true,
					    .dev_bytes = 64 << 20 });
	many->ts = ts;
	many->begin = ts->ops.iomap_begin;
	ts->ops.iomap_begin = greedy_begin;
	ts_begin(ts);
	ts_poison(ts);
	ts->hook.end = give_back_beside;
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, order, order), 0);
	atomic_store(&many->running, WRITERS);
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .number = i, .seed = seed + i };
		t_start(&w[i].task, writer_main, &w[i]);
	}
	for (unsigned i = 0; atomic_load(&many->running); i++) {
		if (i % 4 == 3) {
			punch_all(ts);
		} else {
			cr_assert_eq(ts_fsync(ts), 0);
			ts_drop(ts);
		}
		sched_yield();
	}
	for (unsigned i = 0; i < WRITERS; i++)
		t_join(&w[i].task);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U);
	cr_assert_eq(iomap_read(ts->file, got, FILE_BYTES, 0), FILE_BYTES);
	for (size_t i = 0; i < FILE_BYTES; i++)
		cr_assert_eq(got[i], many->model[i], "byte %zu", i);
	ts_close(ts);
	t_gate_exit(&many->map_lock);
	free(many);
}

Test(delalloc, wf02_reservations_of_others_who_write_are_kept, .timeout = 200)
{
	uint64_t seed = t_seed();

	many_writers(9, 0, seed);
	many_writers(12, 0, seed + 10);
	many_writers(10, 2, seed + 20);
}

/* ---- nothing is left over ---- */

Test(delalloc, wf02_after_short_writes_what_is_reserved_is_what_is_dirty)
{
	struct t_rand r = { t_seed() };
	struct ts *ts = delalloc_store(10);
	char *buf = malloc(64 * KIB);

	t_fill(buf, 64 * KIB, 0, 1);
	for (int i = 0; i < 200; i++) {
		int64_t pos = (int64_t)t_below(&r, 190 * KIB);
		size_t len = 1 + t_below(&r, 64 * KIB);

		if (t_below(&r, 2))
			ts_fail(ts, TS_GET, 1 + t_below(&r, 8), -ENOMEM, 1);
		(void)iomap_write(ts->file, buf, len, pos);
		ts_reset(ts);
		for (pos = 0; pos < 256 * KIB; pos += KIB) {
			struct iomap_folio *folio =
				iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> 12);
			bool dirty = folio && iomap_folio_test_dirty(folio);

			if (folio)
				iomap_folio_put(folio);
			if (ts_lookup(ts, pos).type == IOMAP_DELALLOC)
				cr_assert(dirty, "reserved and clean at %lld", (long long)pos);
		}
		if (!t_below(&r, 20)) {
			cr_assert_eq(ts_fsync(ts), 0);
			cr_assert_eq(ts_reserved(ts), 0U, "all that was reserved was dirty");
			if (t_below(&r, 2))
				ts_punch(ts, 0, 256 * KIB);
			ts_drop(ts);
		}
	}
	free(buf);
	ts_close(ts);
}
