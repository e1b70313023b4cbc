/* SPDX-License-Identifier: MIT */
/* ctest-options: CONCURRENT *beside* */
/*
 * reports.c - SK01, SK02, FM01, BM01 (and IT08's flags in them): where the data is.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/fiemap.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "teststore.h"

#define KIB 1024
#define PAGE ((int64_t)4096)
#define MAX_EXTENTS 16

static int64_t data(struct ts *ts, int64_t pos)
{
	return iomap_seek_data(&ts->inode, pos, &ts->ops);
}

static int64_t hole(struct ts *ts, int64_t pos)
{
	return iomap_seek_hole(&ts->inode, pos, &ts->ops);
}

static struct ts *store(int64_t size, uint32_t blkbits)
{
	return ts_open(&(struct ts_config){
		.i_size = size, .blkbits = blkbits, .alloc = TS_UNWRITTEN });
}

/* ---- seeking ---- */

Test(reports, sk01_data_and_holes_follow_the_mappings)
{
	struct ts *ts = store(40 * PAGE + 100, 0);

	ts_map(ts, 2 * PAGE, 3 * PAGE, IOMAP_MAPPED, 0, 0);
	ts_map(ts, 5 * PAGE, 2 * PAGE, IOMAP_MAPPED, 0, 64 * PAGE);
	ts_map(ts, 10 * PAGE, 2 * PAGE, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	ts_map(ts, 40 * PAGE, PAGE, IOMAP_MAPPED, 0, 128 * PAGE);
	ts_reset(ts);
	cr_assert_eq(data(ts, 0), 2 * PAGE);
	cr_assert_eq(ts_last(ts, TS_BEGIN).flags, (unsigned)IOMAP_REPORT);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END));
	cr_assert_eq(data(ts, 3 * PAGE + 7), 3 * PAGE + 7);
	cr_assert_eq(hole(ts, 0), 0);
	ts_reset(ts);
	cr_assert_eq(hole(ts, 2 * PAGE + 5), 7 * PAGE, "over two extents that touch");
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 3U, "one call for each");
	cr_assert_eq(data(ts, 7 * PAGE), 10 * PAGE, "what is reserved is data");
	cr_assert_eq(hole(ts, 10 * PAGE), 12 * PAGE);
	cr_assert_eq(data(ts, 12 * PAGE), 40 * PAGE);
	cr_assert_eq(hole(ts, 40 * PAGE), 40 * PAGE + 100, "the end is a hole");
	cr_assert_eq(data(ts, 40 * PAGE + 100), -ENXIO);
	cr_assert_eq(hole(ts, 40 * PAGE + 100), -ENXIO);
	cr_assert_eq(data(ts, -1), -ENXIO);
	ts_punch(ts, 40 * PAGE, PAGE);
	cr_assert_eq(data(ts, 12 * PAGE), -ENXIO, "nothing but a hole up to the end");
	ts_close(ts);
}

Test(reports, sk01_inline_data_is_data)
{
	struct ts *ts = store(100, 0);
	static char bytes[PAGE];

	ts_map_inline(ts, bytes, 100);
	cr_assert_eq(data(ts, 3), 3);
	cr_assert_eq(hole(ts, 3), 100);
	ts_close(ts);
}

Test(reports, sk01_an_error_of_the_extent_map_is_the_result)
{
	struct ts *ts = store(8 * PAGE, 0);

	/* the numbers next to every value that has a meaning of its own */
	for (int error = -1; error >= -40; error--) {
		ts_fail(ts, TS_BEGIN, 1, error, 1);
		cr_assert_eq(data(ts, 0), error);
		ts_fail(ts, TS_BEGIN, 1, error, 1);
		cr_assert_eq(hole(ts, 0), error);
	}
	ts_close(ts);
}

Test(reports, sk01_by_the_opener)
{
	struct ts *ts = store(8 * PAGE, 0);

	ts_map(ts, 4 * PAGE, PAGE, IOMAP_MAPPED, 0, 0);
	cr_assert_eq(iomap_file_seek(ts->file, 0, SEEK_DATA), 4 * PAGE);
	cr_assert_eq(iomap_file_seek(ts->file, 4 * PAGE, SEEK_HOLE), 5 * PAGE);
	cr_assert_eq(iomap_file_seek(ts->file, 0, SEEK_SET), -EINVAL);
	ts_close(ts);
}

Test(reports, sk02_in_unwritten_space_what_is_cached_is_data)
{
	struct ts *ts = store(64 * PAGE, 0);

	ts_map(ts, 0, 64 * PAGE, IOMAP_UNWRITTEN, 0, 0);
	cr_assert_eq(data(ts, 0), -ENXIO);
	cr_assert_eq(hole(ts, 0), 0);
	ts_write(ts, 10 * PAGE, (size_t)(3 * PAGE), 1);
	ts_write(ts, 13 * PAGE, 100, 1);
	cr_assert_eq(data(ts, 0), 10 * PAGE);
	cr_assert_eq(data(ts, 11 * PAGE + 5), 11 * PAGE + 5);
	cr_assert_eq(hole(ts, 0), 0);
	cr_assert_eq(hole(ts, 10 * PAGE), 14 * PAGE);
	cr_assert_eq(data(ts, 14 * PAGE), -ENXIO);
	/* on the device it is as much data as before */
	cr_assert_eq(iomap_file_fsync(ts->file, 0), 0);
	ts_drop(ts);
	cr_assert_eq(data(ts, 0), 10 * PAGE);
	cr_assert_eq(hole(ts, 10 * PAGE), 14 * PAGE);
	ts_close(ts);
}

Test(reports, sk02_block_by_block)
{
	struct ts *ts = store(16 * PAGE, 9);
	char bytes[1024];

	memset(bytes, 'x', sizeof(bytes));
	ts_map(ts, 0, 16 * PAGE, IOMAP_UNWRITTEN, 0, 0);
	/* two blocks of eight */
	cr_assert_eq(ts_buffered_write(ts, 3 * PAGE + 1024, bytes, sizeof(bytes)), 1024);
	cr_assert_eq(data(ts, 0), 3 * PAGE + 1024);
	cr_assert_eq(data(ts, 3 * PAGE + 1500), 3 * PAGE + 1500);
	cr_assert_eq(hole(ts, 3 * PAGE + 1024), 3 * PAGE + 2048);
	cr_assert_eq(hole(ts, 3 * PAGE), 3 * PAGE);
	cr_assert_eq(data(ts, 3 * PAGE + 2048), -ENXIO);
	ts_close(ts);
}

/* Written out, converted and dropped between the look at the map and the look at the cache. */
static int sync_and_drop(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			 struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos;
	(void)length;
	(void)iomap;
	(void)srcmap;
	if (!(flags & IOMAP_REPORT))
		return 0;
	ts->hook.begin = NULL;
	t_must(iomap_file_fsync(ts->file, 0) == 0);
	ts_drop(ts);
	return 0;
}

Test(reports, sk02_data_is_found_though_it_is_written_out_meanwhile)
{
	for (int whence = 0; whence < 2; whence++) {
		struct ts *ts = store(16 * PAGE, 0);

		ts_map(ts, 0, 16 * PAGE, IOMAP_UNWRITTEN, 0, 0);
		ts_write(ts, 5 * PAGE, (size_t)PAGE, 1);
		ts->hook.begin = sync_and_drop;
		if (whence)
			cr_assert_eq(data(ts, 0), 5 * PAGE);
		else
			cr_assert_eq(hole(ts, 5 * PAGE), 6 * PAGE);
		ts_close(ts);
	}
}

struct writer {
	struct ts *ts;
	struct t_task task;
	bool stop;
};

static long rewrite(void *arg)
{
	struct writer *w = arg;

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		ts_write(w->ts, 4 * PAGE, (size_t)PAGE, 1);
		t_must(iomap_file_fsync(w->ts->file, 0) == 0);
		ts_drop(w->ts);
	}
	return 0;
}

/* The page is data all the time: dirty, on its way, or written. */
Test(reports, sk02_beside_writeback_and_eviction)
{
	struct ts *ts = store(16 * PAGE, 0);
	struct writer w = { .ts = ts };

	ts_map(ts, 0, 16 * PAGE, IOMAP_UNWRITTEN, 0, 0);
	ts_write(ts, 4 * PAGE, (size_t)PAGE, 1);
	t_start(&w.task, rewrite, &w);
	for (unsigned i = 0; i < 3000; i++) {
		cr_assert_eq(data(ts, 0), 4 * PAGE, "%u", i);
		cr_assert_eq(hole(ts, 4 * PAGE), 5 * PAGE, "%u", i);
	}
	__atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
	cr_assert_eq(t_join(&w.task), 0);
	ts_close(ts);
}

/* ---- fiemap ---- */

static struct fiemap_extent extent[MAX_EXTENTS];

static unsigned fiemap(struct ts *ts, uint64_t start, uint64_t len, unsigned max)
{
	struct iomap_fiemap_extent_info fi = {
		.fi_extents_max = max, .fi_extents_start = max ? extent : NULL
	};

	memset(extent, 0xff, sizeof(extent));
	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, start, len, &ts->ops), 0);
	return fi.fi_extents_mapped;
}

static void is_extent(unsigned n, int64_t logical, uint64_t physical, int64_t length, uint32_t flags)
{
	cr_assert_eq(extent[n].fe_logical, (uint64_t)logical, "%u", n);
	cr_assert_eq(extent[n].fe_physical, physical, "%u", n);
	cr_assert_eq(extent[n].fe_length, (uint64_t)length, "%u", n);
	cr_assert_eq(extent[n].fe_flags, flags, "%u: %x", n, extent[n].fe_flags);
}

static struct ts *all_kinds(void)
{
	struct ts *ts = store(40 * PAGE, 0);

	ts_map(ts, 2 * PAGE, 3 * PAGE, IOMAP_MAPPED, 0, 16 * PAGE);
	ts_map(ts, 5 * PAGE, 2 * PAGE, IOMAP_MAPPED, IOMAP_F_SHARED, 64 * PAGE);
	ts_map(ts, 10 * PAGE, 2 * PAGE, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	ts_map(ts, 12 * PAGE, 4 * PAGE, IOMAP_UNWRITTEN, 0, 100 * PAGE);
	ts_map(ts, 20 * PAGE, 1 * PAGE, IOMAP_MAPPED, IOMAP_F_MERGED, 200 * PAGE);
	return ts;
}

Test(reports, fm01_it08_extents_of_all_kinds)
{
	struct ts *ts = all_kinds();

	ts_reset(ts);
	cr_assert_eq(fiemap(ts, 0, FIEMAP_MAX_OFFSET, MAX_EXTENTS), 5U);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 0).flags, (unsigned)IOMAP_REPORT);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END));
	is_extent(0, 2 * PAGE, 16 * PAGE, 3 * PAGE, 0);
	is_extent(1, 5 * PAGE, 64 * PAGE, 2 * PAGE, FIEMAP_EXTENT_SHARED);
	is_extent(2, 10 * PAGE, 0, 2 * PAGE, FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNKNOWN);
	is_extent(3, 12 * PAGE, 100 * PAGE, 4 * PAGE, FIEMAP_EXTENT_UNWRITTEN);
	is_extent(4, 20 * PAGE, 200 * PAGE, 1 * PAGE, FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_LAST);
	ts_close(ts);
}

Test(reports, fm01_count_only_and_too_little_room)
{
	struct ts *ts = all_kinds();

	cr_assert_eq(fiemap(ts, 0, FIEMAP_MAX_OFFSET, 0), 5U);
	cr_assert_eq(fiemap(ts, 0, FIEMAP_MAX_OFFSET, 2), 2U);
	is_extent(1, 5 * PAGE, 64 * PAGE, 2 * PAGE, FIEMAP_EXTENT_SHARED);
	cr_assert_eq(extent[2].fe_logical, UINT64_MAX, "nothing behind the room");
	cr_assert_eq(fiemap(ts, 0, FIEMAP_MAX_OFFSET, 5), 5U);
	cr_assert_neq(extent[4].fe_flags & FIEMAP_EXTENT_LAST, 0U, "there was room for all");
	ts_close(ts);
}

Test(reports, fm01_last_is_the_last_of_the_inode)
{
	struct ts *ts = all_kinds();

	cr_assert_eq(fiemap(ts, 3 * PAGE, (uint64_t)PAGE, MAX_EXTENTS), 1U);
	is_extent(0, 2 * PAGE, 16 * PAGE, 3 * PAGE, 0);
	cr_assert_eq(fiemap(ts, 15 * PAGE, (uint64_t)(6 * PAGE), MAX_EXTENTS), 2U);
	is_extent(1, 20 * PAGE, 200 * PAGE, 1 * PAGE, FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_LAST);
	cr_assert_eq(fiemap(ts, 21 * PAGE, (uint64_t)PAGE, MAX_EXTENTS), 0U);
	ts_close(ts);
}

Test(reports, fm01_inline_data)
{
	struct ts *ts = store(100, 0);
	static char bytes[PAGE];

	ts_map_inline(ts, bytes, 100);
	cr_assert_eq(fiemap(ts, 0, 4096, MAX_EXTENTS), 1U);
	cr_assert_eq(extent[0].fe_flags, FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_NOT_ALIGNED |
						 FIEMAP_EXTENT_LAST);
	ts_close(ts);
}

Test(reports, fm01_sync_writes_out_first)
{
	struct ts *ts = store(0, 0);
	struct iomap_fiemap_extent_info fi = { .fi_flags = FIEMAP_FLAG_SYNC, .fi_extents_max = 1,
					       .fi_extents_start = extent };

	ts_write(ts, 0, (size_t)PAGE, 1);
	cr_assert_eq(fiemap(ts, 0, 4096, 1), 1U);
	cr_assert_neq(extent[0].fe_flags & FIEMAP_EXTENT_UNWRITTEN, 0U);
	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, 0, 4096, &ts->ops), 0);
	is_extent(0, 0, extent[0].fe_physical, PAGE, FIEMAP_EXTENT_LAST);
	ts_close(ts);
}

Test(reports, fm01_what_is_refused)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = PAGE, .i_maxbytes = 1 << 20 });
	struct iomap_fiemap_extent_info fi = {
		.fi_flags = FIEMAP_FLAG_SYNC | FIEMAP_FLAG_XATTR
	};

	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, 0, 1, &ts->ops), -EBADR);
	cr_assert_eq(fi.fi_flags, (unsigned)FIEMAP_FLAG_XATTR, "the one that is not known");
	fi.fi_flags = 0;
	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, 0, 0, &ts->ops), -EINVAL);
	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, 1 << 20, 1, &ts->ops), -EFBIG);
	ts_fail(ts, TS_BEGIN, 1, -EIO, 1);
	cr_assert_eq(iomap_fiemap(&ts->inode, &fi, 0, 1, &ts->ops), -EIO);
	ts_close(ts);
}

Test(reports, fm01_by_the_opener)
{
	struct ts *ts = all_kinds();
	struct fiemap *map = calloc(1, sizeof(*map) + 2 * sizeof(map->fm_extents[0]));

	map->fm_length = FIEMAP_MAX_OFFSET;
	map->fm_extent_count = 2;
	cr_assert_eq(iomap_file_fiemap(ts->file, map), 0);
	cr_assert_eq(map->fm_mapped_extents, 2U);
	cr_assert_eq(map->fm_extents[1].fe_logical, (uint64_t)(5 * PAGE));
	map->fm_extent_count = 0;
	cr_assert_eq(iomap_file_fiemap(ts->file, map), 0);
	cr_assert_eq(map->fm_mapped_extents, 5U);
	free(map);
	ts_close(ts);
}

/* ---- bmap ---- */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
Test(reports, bm01_a_block_of_the_device)
{
	struct ts *ts = all_kinds();
	struct iomap_address_space *mapping = &ts->inode.i_data;

	cr_assert_eq(iomap_bmap(mapping, 3, &ts->ops), 17U);
	cr_assert_eq(iomap_bmap(mapping, 0, &ts->ops), 0U, "a hole");
	cr_assert_eq(iomap_bmap(mapping, 12, &ts->ops), 0U, "unwritten");
	ts_write(ts, 12 * PAGE, (size_t)PAGE, 1);
	cr_assert_eq(iomap_bmap(mapping, 12, &ts->ops), 100U, "written out first");
	ts_fail(ts, TS_BEGIN, 1, -EIO, 1);
	cr_assert_eq(iomap_bmap(mapping, 3, &ts->ops), 0U);
	cr_assert_eq(iomap_bmap(mapping, UINT64_MAX, &ts->ops), 0U);
	ts_close(ts);
}
#pragma GCC diagnostic pop
