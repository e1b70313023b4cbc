/* SPDX-License-Identifier: MIT */
/* ctest-options: CONCURRENT *threads* */
/*
 * readahead.c - RA05: what is read ahead, told by what the device was asked for.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define PAGE ((int64_t)4096)
#define DEV_BYTES (16 * MIB)

/*
 * A store of @bytes whose pieces of 16 MiB all lie at the same place of the device: what counts
 * here is how much is read, and when.
 */
static struct ts *store(int64_t bytes, uint64_t cache_bytes, uint32_t readahead_bytes)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.readahead_bytes = readahead_bytes;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = bytes, .opts = &opts });
	ts_dev_fill(ts, 0, DEV_BYTES, 0, 1);
	for (int64_t at = 0; at < bytes; at += DEV_BYTES)
		ts_map(ts, at, DEV_BYTES, IOMAP_MAPPED, 0, 0);
	return ts;
}

static void read_at(struct iomap_file *file, int64_t pos, size_t len)
{
	static _Thread_local char buf[4 * MIB];

	t_must(iomap_read(file, buf, len, pos) == (ssize_t)len);
	for (size_t done = 0; done < len;) {
		int64_t on_dev = (pos + (int64_t)done) % DEV_BYTES;
		size_t n = len - done;

		if (n > (size_t)(DEV_BYTES - on_dev))
			n = (size_t)(DEV_BYTES - on_dev);
		t_must(t_mismatch(buf + done, n, on_dev, 1) < 0);
		done += n;
	}
}

static uint64_t read_bytes(struct ts *ts)
{
	return td_bytes(ts->dev, TD_READ);
}

static size_t requests(struct ts *ts)
{
	return td_count(ts->dev, TD_READ);
}

/* ---- one stream ---- */

Test(readahead, ra05_a_stream_is_read_ahead_by_windows_that_grow_to_the_limit)
{
	enum { WINDOW = 256 * KIB };
	struct ts *ts = store(2 * MIB, 32 * MIB, WINDOW);
	uint64_t largest = 0;

	for (int64_t pos = 0; pos < 2 * MIB; pos += PAGE) {
		uint64_t ahead;

		read_at(ts->file, pos, PAGE);
		ahead = read_bytes(ts) - (uint64_t)(pos + PAGE);
		cr_assert_leq(ahead, (uint64_t)WINDOW, "at %" PRId64, pos);
		/* the next piece was asked for long before this one is at its end */
		if (pos >= MIB && pos < 2 * MIB - WINDOW)
			cr_assert_geq(ahead, (uint64_t)(WINDOW / 2 - PAGE), "at %" PRId64, pos);
	}
	cr_assert_eq(read_bytes(ts), (uint64_t)(2 * MIB), "nothing is read twice");
	cr_assert_leq(td_nth(ts->dev, TD_READ, 0).bytes, (uint64_t)(5 * PAGE));
	for (size_t i = 0; i < requests(ts); i++) {
		struct td_io io = td_nth(ts->dev, TD_READ, i);

		cr_assert_leq(io.bytes, 2 * largest + 5 * PAGE, "request %zu", i);
		largest = io.bytes > largest ? io.bytes : largest;
	}
	cr_assert_eq(largest, (uint64_t)(WINDOW / 2));
	cr_assert_leq(requests(ts), 2U * MIB / (WINDOW / 2) + 6);
	/* a mapping for each window */
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_READAHEAD));
	cr_assert_eq(ts_calls(ts, TS_READAHEAD), requests(ts));
	cr_assert_eq(ts_calls(ts, TS_READ_FOLIO), 0U);
	cr_assert_eq(t_stats(ts->engine).readahead_used_bytes,
		     t_stats(ts->engine).readahead_bytes);
	ts_close(ts);
}

Test(readahead, ra05_long_windows_are_refilled_by_quarters)
{
	enum { WINDOW = 2 * MIB };
	struct ts *ts = store(64 * MIB, 64 * MIB, WINDOW);

	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	for (int64_t pos = 0; pos < 32 * MIB; pos += 128 * KIB) {
		read_at(ts->file, pos, 128 * KIB);
		if (pos >= 8 * MIB)
			cr_assert_geq(read_bytes(ts), (uint64_t)pos + WINDOW * 3 / 4);
		cr_assert_leq(read_bytes(ts), (uint64_t)pos + 128 * KIB + WINDOW);
	}
	for (size_t i = ts_calls(ts, TS_READAHEAD) / 2; i < ts_calls(ts, TS_READAHEAD); i++)
		cr_assert_eq(ts_nth(ts, TS_READAHEAD, i).length, (uint64_t)(WINDOW / 4));
	ts_close(ts);
}

Test(readahead, ra05_one_mapping_for_each_extent_or_window)
{
	struct ts *ts = store(2 * MIB, 32 * MIB, 256 * KIB);
	uint64_t windows;

	ts->map_max_bytes = 40 * KIB;
	for (int64_t pos = 0; pos < 2 * MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	windows = ts_calls(ts, TS_READAHEAD);
	cr_assert_leq(windows, 2U * MIB / (128 * KIB) + 6);
	cr_assert_leq(ts_calls(ts, TS_BEGIN), windows + 2 * MIB / (40 * KIB) + 1);
	ts_close(ts);
}

Test(readahead, ra05_a_stream_begins_anywhere_with_the_third_read)
{
	struct ts *ts = store(64 * MIB, 32 * MIB, 256 * KIB);

	for (unsigned i = 0; i < 2; i++) {
		int64_t pos = (int64_t)(5 + 20 * i) * MIB + (int64_t)i * 9000;
		uint64_t before = read_bytes(ts);

		read_at(ts->file, pos, 8 * KIB);
		read_at(ts->file, pos + 8 * KIB, 8 * KIB);
		cr_assert_leq(read_bytes(ts) - before, (uint64_t)(5 * PAGE), "as asked for");
		read_at(ts->file, pos + 16 * KIB, 8 * KIB);
		cr_assert_geq(read_bytes(ts) - before, (uint64_t)(24 + 32) * KIB);
	}
	ts_close(ts);
}

Test(readahead, ra05_a_stream_backward)
{
	static const int64_t sizes[] = { PAGE, 12 * KIB, 5000, 64 * KIB };

	for (unsigned i = 0; i < 4; i++) {
		enum { WINDOW = 256 * KIB, TOP = 6 * MIB };
		struct ts *ts = store(64 * MIB, 32 * MIB, WINDOW);
		int64_t pos = TOP;

		while (pos > 2 * MIB) {
			pos -= sizes[i];
			read_at(ts->file, pos, (size_t)sizes[i]);
			cr_assert_leq(read_bytes(ts), (uint64_t)(TOP - pos / PAGE * PAGE) + WINDOW,
				      "at %" PRId64, pos);
			/* what comes next is there, or on its way */
			if (pos < 5 * MIB)
				cr_assert_geq(read_bytes(ts), (uint64_t)(TOP - pos) + WINDOW / 4,
					      "at %" PRId64, pos);
		}
		cr_assert_leq(requests(ts), (4U * MIB + WINDOW) / (WINDOW / 2) + 8, "%zu requests",
			      requests(ts));
		for (size_t n = requests(ts) / 2; n < requests(ts); n++)
			cr_assert_eq(td_nth(ts->dev, TD_READ, n).bytes, (uint64_t)(WINDOW / 2));
		ts_close(ts);
	}
}

Test(readahead, ra05_backward_to_the_beginning_in_large_folios)
{
	struct ts *ts = store(4 * MIB, 32 * MIB, 256 * KIB);
	struct iomap_folio *folio;

	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	for (int64_t pos = 4 * MIB - 8 * KIB; pos >= 0; pos -= 8 * KIB)
		read_at(ts->file, pos, 8 * KIB);
	cr_assert_eq(read_bytes(ts), (uint64_t)(4 * MIB));
	folio = ts_folio(ts, MIB);
	cr_assert_eq(iomap_folio_size(folio), (size_t)(64 * KIB));
	iomap_folio_put(folio);
	ts_close(ts);
}

/* Bytes read that nobody has asked for when a stream of @nr reads of @size bytes stops. */
static uint64_t left_over(struct ts *ts, int64_t pos, int64_t size, unsigned nr)
{
	struct iomap_engine_stats before = t_stats(ts->engine), after;
	int64_t low = pos, high = pos;
	struct iomap_file *file;
	uint64_t left;

	td_reset(ts->dev);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &file), 0);
	for (unsigned i = 0; i < nr; i++, pos += size) {
		int64_t len = size < 0 ? -size : size;

		read_at(file, pos, (size_t)len);
		low = pos < low ? pos : low;
		high = pos + len > high ? pos + len : high;
	}
	cr_assert_eq(iomap_file_close(file), 0);
	left = read_bytes(ts) - (uint64_t)((high + PAGE - 1) / PAGE - low / PAGE) * PAGE;
	iomap_engine_drop_cache(ts->engine);
	after = t_stats(ts->engine);
	cr_assert_eq(after.readahead_bytes - before.readahead_bytes,
		     after.readahead_used_bytes - before.readahead_used_bytes +
			     after.readahead_wasted_bytes - before.readahead_wasted_bytes);
	cr_assert_leq(after.readahead_wasted_bytes - before.readahead_wasted_bytes, left);
	return left;
}

Test(readahead, ra05_a_stream_that_stops_wastes_one_window_at_most)
{
	static const uint32_t windows[] = { 64 * KIB, 128 * KIB, 500 * KIB, MIB };
	static const int64_t sizes[] = { 1000, PAGE, 20000, 128 * KIB, -PAGE, -20000 };

	for (unsigned i = 0; i < 8; i++) {
		uint32_t window = windows[i / 2];
		struct ts *ts = store(64 * MIB, 20 * MIB, window);

		if (i % 2)
			cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
		for (unsigned s = 0; s < 6; s++)
			for (unsigned nr = 1; nr < 120; nr += nr < 12 ? 1 : 17) {
				int64_t size = nr % 3 ? sizes[s] : sizes[s % 4];
				uint64_t left;

				left = left_over(ts, nr % 3 ? 16 * MIB : 0, size, nr);
				cr_assert_leq(left, window, "%u reads of %" PRId64 ", window %u",
					      nr, size, window);
			}
		ts_close(ts);
	}
}

/* ---- no stream ---- */

Test(readahead, ra05_random_reads_fetch_no_extra_byte)
{
	enum { PAGES = 1024 * MIB / 4096 };
	static bool cached[PAGES];
	struct ts *ts = store(1024 * MIB, 64 * MIB, 1 * MIB);
	struct t_rand rand = { 5 };
	uint64_t pages = 0;

	for (unsigned i = 0; i < 1500; i++) {
		size_t len = i % 300 ? 1 + t_below(&rand, 20000) : 3 * MIB;
		int64_t pos = (int64_t)t_below(&rand, 1024 * MIB - len);

		read_at(ts->file, pos, len);
		for (int64_t at = pos / PAGE; at <= (pos + (int64_t)len - 1) / PAGE; at++) {
			pages += !cached[at];
			cached[at] = true;
		}
		cr_assert_eq(read_bytes(ts), pages * 4096, "read %u", i);
	}
	cr_assert_eq(t_stats(ts->engine).readahead_bytes, 0U);
	ts_close(ts);
}

Test(readahead, ra05_random_reads_beside_a_stream_leave_it_its_window)
{
	struct ts *ts = store(1024 * MIB, 128 * MIB, 256 * KIB);
	struct t_rand rand = { 6 };
	size_t others = 0;

	for (int64_t pos = 0; pos < 4 * MIB; pos += PAGE) {
		read_at(ts->file, pos, PAGE);
		for (unsigned i = 0; i < 5; i++, others++)
			read_at(ts->file, 16 * MIB + (int64_t)t_below(&rand, 200000) * PAGE, PAGE);
	}
	cr_assert_leq(requests(ts), others + 4 * MIB / (128 * KIB) + 8);
	cr_assert_leq(read_bytes(ts), others * 4096 + 4 * MIB);
	ts_close(ts);
}

Test(readahead, ra05_a_long_request_is_read_in_one_piece_and_no_more)
{
	struct ts *ts = store(64 * MIB, 64 * MIB, 128 * KIB);

	read_at(ts->file, 5 * MIB, MIB);
	cr_assert_eq(requests(ts), 1U);
	read_at(ts->file, 20 * MIB, 4 * MIB);
	cr_assert_eq(requests(ts), 5U);
	cr_assert_eq(read_bytes(ts), (uint64_t)(5 * MIB));
	ts_close(ts);
}

/* ---- several streams ---- */

/* Streams in turn, @each bytes of each of @nr; from below or from above. */
static void interleave(struct iomap_file **file, unsigned nr, int64_t each, bool back)
{
	for (int64_t at = 0; at < each; at += PAGE)
		for (unsigned i = 0; i < nr; i++) {
			bool down = back && i % 2;
			int64_t off = down ? each - at - PAGE : at;

			read_at(file[i], (int64_t)(2 * i + 1) * each + off, PAGE);
		}
}

Test(readahead, ra05_interleaved_streams_keep_their_windows)
{
	enum { STREAMS = 8, WINDOW = 128 * KIB, EACH = 2 * MIB };

	for (unsigned openers = 1; openers <= STREAMS; openers *= 2) {
		struct ts *ts = store(64 * MIB, 64 * MIB, WINDOW);
		struct iomap_file *file[STREAMS], *own[STREAMS];

		for (unsigned i = 0; i < openers; i++)
			cr_assert_eq(iomap_file_open(&ts->inode, 0, &own[i]), 0);
		for (unsigned i = 0; i < STREAMS; i++)
			file[i] = own[i % openers];
		interleave(file, STREAMS, EACH, openers == 2);
		cr_assert_leq(requests(ts), STREAMS * (EACH / (WINDOW / 2) + 8U), "%zu requests",
			      requests(ts));
		cr_assert_leq(read_bytes(ts), STREAMS * (uint64_t)(EACH + WINDOW));
		for (unsigned i = 0; i < openers; i++)
			cr_assert_eq(iomap_file_close(own[i]), 0);
		ts_close(ts);
	}
}

/* There are more than an opener has places for: some have windows, and all their bytes. */
Test(readahead, ra05_of_too_many_streams_most_keep_their_windows)
{
	enum { STREAMS = 12, WINDOW = 128 * KIB, EACH = 1 * MIB };
	struct ts *ts = store(64 * MIB, 64 * MIB, WINDOW);
	struct iomap_file *file[STREAMS];
	size_t reads = STREAMS * EACH / PAGE;

	for (unsigned i = 0; i < STREAMS; i++)
		file[i] = ts->file;
	interleave(file, STREAMS, EACH, false);
	cr_assert_leq(requests(ts), reads / 2, "%zu requests", requests(ts));
	cr_assert_leq(read_bytes(ts), STREAMS * (uint64_t)(EACH + WINDOW));
	ts_close(ts);
}

struct sharer {
	struct ts *ts;
	struct t_task task;
	int64_t pos, end;
};

static long share_file(void *arg)
{
	struct sharer *sharer = arg;
	size_t len = 3000;

	for (int64_t pos = sharer->pos; pos < sharer->end; pos += (int64_t)len) {
		if ((int64_t)len > sharer->end - pos)
			len = (size_t)(sharer->end - pos);
		read_at(sharer->ts->file, pos, len);
	}
	return 0;
}

Test(readahead, ra05_threads_that_share_an_opener_have_streams_of_their_own)
{
	enum { THREADS = 4, EACH = 2 * MIB };
	struct ts *ts = store(THREADS * EACH, 32 * MIB, 256 * KIB);
	struct sharer sharer[THREADS];

	td_async(ts->dev);
	for (int64_t i = 0; i < THREADS; i++) {
		sharer[i] = (struct sharer){ .ts = ts, .pos = i * EACH, .end = (i + 1) * EACH };
		t_start(&sharer[i].task, share_file, &sharer[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert_eq(t_join(&sharer[i].task), 0);
	cr_assert_eq(read_bytes(ts), (uint64_t)THREADS * EACH, "nothing is read twice");
	cr_assert_leq(requests(ts), THREADS * (EACH / (128U * KIB) + 16), "%zu requests",
		      requests(ts));
	ts_close(ts);
}

/* ---- memory ---- */

Test(readahead, ra05_more_streams_than_memory_do_not_thrash)
{
	enum { STREAMS = 48, CACHE = 4 * MIB, EACH = 1 * MIB };
	struct ts *ts = store(128 * MIB, CACHE, 256 * KIB);
	struct iomap_file *file[STREAMS];
	struct iomap_engine_stats stats;

	for (unsigned i = 0; i < STREAMS; i++)
		cr_assert_eq(iomap_file_open(&ts->inode, 0, &file[i]), 0);
	interleave(file, STREAMS, EACH, false);
	stats = t_stats(ts->engine);
	cr_assert_leq(read_bytes(ts), STREAMS * (uint64_t)EACH / 100 * 102, "%" PRIu64 " bytes",
		      read_bytes(ts));
	cr_assert_leq(stats.readahead_wasted_bytes, STREAMS * (uint64_t)EACH / 100);
	/* and have windows all the same */
	cr_assert_leq(requests(ts), STREAMS * EACH / (2 * (size_t)PAGE), "%zu requests",
		      requests(ts));
	for (unsigned i = 0; i < STREAMS; i++)
		cr_assert_eq(iomap_file_close(file[i]), 0);
	ts_close(ts);
}

Test(readahead, ra05_a_full_cache_does_not_make_windows_shorter)
{
	enum { WINDOW = 256 * KIB };
	struct ts *ts = store(16 * MIB, 4 * MIB, WINDOW);

	for (int64_t pos = 0; pos < 16 * MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	cr_assert_eq(read_bytes(ts), (uint64_t)(16 * MIB));
	cr_assert_eq(t_stats(ts->engine).readahead_wasted_bytes, 0U);
	for (size_t i = 6; i + 1 < ts_calls(ts, TS_READAHEAD); i++)
		cr_assert_eq(ts_nth(ts, TS_READAHEAD, i).length, (uint64_t)(WINDOW / 2));
	ts_close(ts);
}

Test(readahead, ra05_a_window_that_was_lost_shrinks)
{
	enum { WINDOW = 256 * KIB };
	struct ts *ts = store(64 * MIB, 64 * MIB, WINDOW);
	uint64_t before, ahead;
	int64_t pos = 0;

	for (; pos < 2 * MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	for (unsigned i = 0; i < 3; i++) {
		/* as eviction does */
		iomap_engine_drop_cache(ts->engine);
		cr_assert_gt(t_stats(ts->engine).readahead_wasted_bytes, 0U);
		before = read_bytes(ts);
		read_at(ts->file, pos, PAGE);
		ahead = read_bytes(ts) - before - PAGE;
		cr_assert_leq(ahead, (uint64_t)(WINDOW >> (i + 1)));
		cr_assert_gt(ahead, 0U);
		pos += PAGE;
	}
	/* and grows again when nothing is lost any more */
	before = read_bytes(ts) - (uint64_t)pos - ahead;
	for (; pos < 6 * MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	cr_assert_geq(read_bytes(ts) - before, (uint64_t)pos + WINDOW / 2 - PAGE);
	ts_close(ts);
}

static uint64_t hook_calls, hook_bytes;
static void *count_alloc(void *ctx, size_t alignment, size_t bytes)
{
	(void)ctx;
	hook_calls++;
	hook_bytes += bytes;
	return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void count_free(void *ctx, void *memory, size_t bytes)
{
	(void)ctx;
	(void)bytes;
	free(memory);
}

Test(readahead, ra05_streams_allocate_nothing)
{
	struct iomap_engine_opts opts;
	struct ts *ts;
	uint64_t before = 0;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.alloc = (struct iomap_alloc_hooks){ .alloc = count_alloc, .free = count_free };
	ts = ts_open(&(struct ts_config){ .i_size = 16 * MIB, .opts = &opts });
	ts_map(ts, 0, 16 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 16 * MIB, 0, 1);
	/* the second run of the opener brings its table */
	for (unsigned round = 0; round < 3; round++) {
		before = hook_calls;
		for (int64_t pos = 0; pos < 16 * MIB; pos += PAGE)
			read_at(ts->file, pos, PAGE);
	}
	cr_assert_eq(hook_calls, before, "in the last round");
	ts_close(ts);
}

/* What a file that is read at random never needs it does not have. */
Test(readahead, ra05_an_opener_that_reads_once_has_no_table_of_streams)
{
	enum { NR = 1024, TABLE = 7 * 32 };
	static struct iomap_file *file[NR];
	struct iomap_engine_opts opts;
	struct ts *ts;
	uint64_t opened, read_once, other_reads, again;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 16 * MIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.alloc = (struct iomap_alloc_hooks){ .alloc = count_alloc, .free = count_free };
	ts = ts_open(&(struct ts_config){ .i_size = 16 * MIB, .opts = &opts });
	ts_map(ts, 0, 16 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 16 * MIB, 0, 1);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < NR; i++)
			cr_assert_eq(iomap_file_open(&ts->inode, 0, &file[i]), 0);
		opened = hook_bytes;
		for (unsigned i = 0; i < NR; i++)
			read_at(file[i], (int64_t)(2 * i + 1) * PAGE, PAGE);
		read_once = hook_bytes;
		cr_assert_lt(read_once - opened, (uint64_t)NR * TABLE / 8, "%llu",
			     (unsigned long long)(read_once - opened));
		ts_drop(ts);
		for (unsigned i = 0; i < NR; i++)
			read_at(file[i], (int64_t)(NR + i) * PAGE, PAGE);
		other_reads = hook_bytes;
		for (unsigned i = 0; i < NR; i++)
			cr_assert_eq(iomap_file_close(file[i]), 0);
		if (!round) {
			cr_assert_geq(other_reads - read_once, (uint64_t)NR * TABLE);
			again = other_reads;
		}
	}
	cr_assert_eq(hook_bytes, again, "closing gives the tables back");
	ts_close(ts);
}

/* ---- advice ---- */

Test(readahead, ra05_sequential_reads_ahead_from_the_first_read_on)
{
	enum { WINDOW = 256 * KIB };
	struct ts *ts = store(64 * MIB, 64 * MIB, WINDOW);

	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_SEQUENTIAL), 0);
	read_at(ts->file, 7 * MIB, PAGE);
	cr_assert_geq(read_bytes(ts), (uint64_t)WINDOW / 4 * 3);
	cr_assert_leq(read_bytes(ts), (uint64_t)(WINDOW + PAGE));
	cr_assert_eq(requests(ts), 1U);
	ts_close(ts);
}

Test(readahead, ra05_random_reads_nothing_ahead)
{
	struct ts *ts = store(64 * MIB, 64 * MIB, 256 * KIB);
	uint64_t before;

	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_RANDOM), 0);
	for (int64_t pos = 0; pos < MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	cr_assert_eq(read_bytes(ts), (uint64_t)MIB);
	cr_assert_eq(requests(ts), (size_t)(MIB / PAGE));
	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_NORMAL), 0);
	for (int64_t pos = MIB; pos < 2 * MIB; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	cr_assert_leq(requests(ts), (size_t)(MIB / PAGE) + 20);
	/* nor at the marks of what was read ahead before */
	before = read_bytes(ts);
	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_RANDOM), 0);
	for (int64_t pos = 2 * MIB; pos < (int64_t)before; pos += PAGE)
		read_at(ts->file, pos, PAGE);
	cr_assert_eq(read_bytes(ts), before);
	ts_close(ts);
}

Test(readahead, ra05_advice_is_the_openers_own)
{
	struct ts *ts = store(64 * MIB, 64 * MIB, 256 * KIB);
	struct iomap_file *other;

	cr_assert_eq(iomap_file_open(&ts->inode, 0, &other), 0);
	cr_assert_eq(iomap_fadvise(other, 0, 0, IOMAP_ADV_RANDOM), 0);
	read_at(ts->file, 0, PAGE);
	cr_assert_gt(read_bytes(ts), (uint64_t)PAGE);
	cr_assert_eq(iomap_file_close(other), 0);
	ts_close(ts);
}

Test(readahead, ra05_willneed_starts_to_read_and_does_not_wait)
{
	struct ts *ts = store(64 * MIB, 16 * MIB, 128 * KIB);
	uint64_t misses = t_stats(ts->engine).misses_nr;

	td_hold(ts->dev, TD_READ);
	cr_assert_eq(iomap_fadvise(ts->file, 5 * MIB + 100, 300 * KIB, IOMAP_ADV_WILLNEED), 0);
	cr_assert_eq(requests(ts), 1U);
	cr_assert_eq(read_bytes(ts), (uint64_t)(304 * KIB));
	/* nothing is read twice */
	cr_assert_eq(iomap_fadvise(ts->file, 5 * MIB, 400 * KIB, IOMAP_ADV_WILLNEED), 0);
	cr_assert_eq(read_bytes(ts), (uint64_t)(400 * KIB));
	td_open_gates(ts->dev);
	read_at(ts->file, 5 * MIB, 400 * KIB);
	cr_assert_eq(read_bytes(ts), (uint64_t)(400 * KIB));
	cr_assert_eq(t_stats(ts->engine).misses_nr, misses);
	/* to the end of the file is more than fits: what fits well */
	cr_assert_eq(iomap_fadvise(ts->file, 20 * MIB, 0, IOMAP_ADV_WILLNEED), 0);
	cr_assert_eq(read_bytes(ts), (uint64_t)(400 * KIB + 4 * MIB));
	cr_assert_eq(iomap_fadvise(ts->file, 64 * MIB, 0, IOMAP_ADV_WILLNEED), 0);
	cr_assert_eq(iomap_fadvise(ts->file, 65 * MIB, MIB, IOMAP_ADV_WILLNEED), 0);
	ts_close(ts);
}

static uint64_t cached_bytes(struct ts *ts)
{
	return t_stats(ts->engine).cached_bytes;
}

Test(readahead, ra05_dontneed_drops_what_is_clean_and_writes_nothing)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = MIB + 10 });
	struct iomap_folio *folio;

	ts_map(ts, 0, 2 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 2 * MIB, 0, 1);
	cr_assert(ts_reads(ts, 0, MIB + 10, 1));
	ts_write(ts, 512 * KIB, 8 * KIB, 2);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB + PAGE));
	/* pages of which it covers a part stay */
	cr_assert_eq(iomap_fadvise(ts->file, 100, 3 * PAGE, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB - PAGE));
	cr_assert_eq(iomap_fadvise(ts->file, 100, PAGE, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB - PAGE));
	/* what is used stays, and what is dirty */
	folio = ts_folio(ts, 64 * KIB);
	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(3 * PAGE));
	cr_assert_eq(td_count(ts->dev, TD_WRITE | TD_FLUSH), 0U);
	iomap_folio_put(folio);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(iomap_fadvise(ts->file, 0, MIB + 10, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(cached_bytes(ts), 0U);
	cr_assert(ts_reads(ts, 512 * KIB, 8 * KIB, 2));
	/* up to the end of the file is all of its last page */
	cr_assert(ts_reads(ts, MIB, 10, 1));
	cr_assert_eq(iomap_fadvise(ts->file, MIB, 10, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(iomap_filemap_get_folio(&ts->inode.i_data, MIB / PAGE), NULL);
	ts_close(ts);
}

Test(readahead, ra05_dontneed_leaves_large_folios_that_are_not_all_in_the_range)
{
	struct ts *ts = store(4 * MIB, 32 * MIB, 0);

	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	read_at(ts->file, MIB, MIB);
	cr_assert_eq(iomap_fadvise(ts->file, MIB + 8 * KIB, 256 * KIB, IOMAP_ADV_DONTNEED), 0);
	cr_assert_eq(cached_bytes(ts), (uint64_t)(MIB - 192 * KIB));
	ts_close(ts);
}

static int advised[4];
static int own_fadvise(struct iomap_file *file, int64_t off, int64_t len, int advice)
{
	(void)file;
	advised[0]++;
	advised[1] = (int)off;
	advised[2] = (int)len;
	advised[3] = advice;
	return -EXDEV;
}

Test(readahead, ra05_advice_that_is_refused)
{
	static const struct iomap_file_operations fop = { .fadvise = own_fadvise };
	struct ts *ts = store(MIB, 4 * MIB, 0);
	int (*advise)(struct iomap_file *, int64_t, int64_t, int) = iomap_fadvise;

	cr_assert_eq(advise(ts->file, -1, 1, IOMAP_ADV_WILLNEED), -EINVAL);
	cr_assert_eq(advise(ts->file, 0, -1, IOMAP_ADV_NORMAL), -EINVAL);
	cr_assert_eq(advise(ts->file, 0, 0, 5), -EINVAL);
	cr_assert_eq(advise(ts->file, 0, 0, -1), -EINVAL);
	ts->a_ops.readahead = NULL;
	cr_assert_eq(advise(ts->file, 0, 100, IOMAP_ADV_WILLNEED), -EOPNOTSUPP);
	cr_assert_eq(advise(ts->file, 0, 100, IOMAP_ADV_DONTNEED), 0);
	ts->inode.i_fop = &fop;
	cr_assert_eq(advise(ts->file, 1, 2, 77), -EXDEV);
	cr_assert_eq(advised[0], 1);
	cr_assert_eq(advised[1], 1);
	cr_assert_eq(advised[2], 2);
	cr_assert_eq(advised[3], 77);
	ts_close(ts);
}
