/* SPDX-License-Identifier: MIT */
/* ctest-options: CONCURRENT *beside*|*meanwhile*|*giving_back*|*writeback*|*rings*|*by_itself*|*left_moves* */
/* ctest-options: STATIC_INTERNAL TIMEOUT 300 */
/*
 * resize.c - EN02: the cache gets another size while it is in use.
 *
 * That folio memory never exceeds the size in force is asserted by the library itself, in debug
 * builds, at every allocation (lib/cache/arena.c).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/internal.h"
#include "testpiece.h"
#include "teststore.h"

#define KIB 1024
#define MIB (1024 * 1024)
#define PAGE (4 * KIB)

/* A store of 8 MiB, all of it on the device, with pattern 1. */
static struct ts *store(uint64_t cache_bytes, uint64_t max_bytes, uint64_t folio_bytes, bool threads)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_cache_bytes = max_bytes;
	opts.max_folio_bytes = folio_bytes;
	opts.max_callers = 4;
	/* or pieces of what may be registered would stay: that has a test of its own */
	opts.flags = IOMAP_ENGINE_NO_REGISTER | (threads ? 0 : IOMAP_ENGINE_NO_THREADS);
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts });
	ts_map(ts, 0, 8 * MIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 8 * MIB, 0, 1);
	return ts;
}

static int resize(struct ts *ts, uint64_t bytes)
{
	return iomap_engine_set_cache_bytes(ts->engine, bytes);
}

static uint64_t size(struct ts *ts)
{
	return t_stats(ts->engine).cache_bytes;
}

static uint64_t cached(struct ts *ts)
{
	return t_stats(ts->engine).cached_bytes;
}

/* Bytes of folio memory that exist. */
static uint64_t resident(struct ts *ts)
{
	const struct iomap__cache *cache = ts->engine->cache;
	uint64_t nr = 0;
	unsigned char *page = malloc(cache->max_pages);

	t_must(page && mincore(cache->data, cache->data_bytes, page) == 0);
	for (uint64_t i = 0; i < cache->max_pages; i++)
		nr += page[i] & 1;
	free(page);
	return nr * PAGE;
}

/* Bytes of the process that the kernel has pinned, by each ring again. */
static uint64_t pinned(void)
{
	FILE *from = fopen("/proc/self/status", "r");
	unsigned long kib = 0;
	char line[256];

	t_must(from != NULL);
	while (fgets(line, sizeof(line), from) && sscanf(line, "VmPin: %lu kB", &kib) != 1)
		;
	fclose(from);
	return (uint64_t)kib * KIB;
}

/* ---- growing ---- */

Test(resize, en02_a_cache_that_grows_holds_more)
{
	struct ts *ts = store(MIB, 0, 0, false);

	cr_assert(ts_reads(ts, 0, 4 * MIB, 1));
	cr_assert_leq(cached(ts), (uint64_t)MIB);
	cr_assert_eq(resize(ts, 4 * MIB), 0);
	cr_assert_eq(size(ts), 4U * MIB);
	cr_assert(ts_reads(ts, 0, 4 * MIB, 1));
	/* what was read ahead in vain goes after a while, and then all the rest fits */
	for (int i = 0; i < 8; i++) {
		td_reset(ts->dev);
		cr_assert(ts_reads(ts, 0, 4 * MIB, 1));
	}
	cr_assert_eq(td_count(ts->dev, TD_READ), 0U);
	cr_assert_eq(cached(ts), 4U * MIB);
	cr_assert(ts_reads(ts, 4 * MIB, 4 * MIB, 1));
	cr_assert_eq(t_stats(ts->engine).peak_cached_bytes, 4U * MIB);
	ts_close(ts);
}

Test(resize, en02_sizes_that_cannot_be_are_refused)
{
	struct ts *ts = store(MIB, 0, 0, false);

	cr_assert_eq(resize(ts, 8 * MIB + PAGE), -EINVAL, "eight times the size, if nothing is said");
	cr_assert_eq(resize(ts, 8 * MIB), 0);
	cr_assert_eq(resize(ts, 4 * 8 * PAGE - 1), -EINVAL, "eight folios for each caller");
	cr_assert_eq(resize(ts, 4 * 8 * PAGE), 0);
	cr_assert_eq(resize(ts, 0), -EINVAL);
	cr_assert_eq(iomap_engine_set_cache_bytes(NULL, MIB), -EINVAL);
	cr_assert_eq(size(ts), 4U * 8 * PAGE);
	ts_close(ts);
	ts = store(MIB, 2 * MIB + 100, 0, false);
	cr_assert_eq(resize(ts, 2 * MIB + 100), 0);
	cr_assert_eq(size(ts), 2U * MIB);
	cr_assert_eq(resize(ts, 2 * MIB + PAGE), -EINVAL);
	cr_assert_eq(iomap_engine_shutdown(ts->engine, 0), 0);
	cr_assert_eq(resize(ts, MIB), -ESHUTDOWN);
	ts_close(ts);
}

Test(resize, en02_an_inode_with_large_blocks_bounds_the_size)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.max_callers = 4;
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts, .blkbits = 16 });
	cr_assert_eq(resize(ts, MIB - PAGE), -EINVAL, "a sixteenth of it is less than a block");
	cr_assert_eq(resize(ts, MIB), 0);
	ts_close(ts);
}

/* The same where it was asked for large ones. */
Test(resize, en02_smallest_folios_bound_the_size)
{
	struct iomap_engine_opts opts;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 * MIB;
	opts.max_callers = 16;
	ts = ts_open(&(struct ts_config){ .i_size = 8 * MIB, .opts = &opts });
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 4, 4), 0);
	cr_assert_eq(resize(ts, 2 * MIB - PAGE), -EINVAL, "two for each of 16 callers");
	cr_assert_eq(resize(ts, 2 * MIB), 0);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 0, 4), 0);
	cr_assert_eq(resize(ts, 2 * MIB - PAGE), 0);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 4, 4), -EINVAL);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, 3, 4), 0);
	ts_close(ts);
}

/* A quarter of the size there is now is read at once. */
Test(resize, en02_ra05_willneed_goes_by_the_size_in_force)
{
	struct ts *ts = store(4 * MIB, 0, 0, false);

	cr_assert_eq(resize(ts, 256 * KIB), 0);
	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_WILLNEED), 0);
	cr_assert_leq(td_bytes(ts->dev, TD_READ), 64U * KIB);
	cr_assert_eq(resize(ts, 8 * MIB), 0);
	ts_drop(ts);
	td_reset(ts->dev);
	cr_assert_eq(iomap_fadvise(ts->file, 0, 0, IOMAP_ADV_WILLNEED), 0);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), 2U * MIB);
	ts_close(ts);
}

/* ---- shrinking ---- */

static void shrinks(bool threads, uint64_t folio_bytes)
{
	struct ts *ts = store(4 * MIB, 0, folio_bytes, threads);

	if (folio_bytes)
		cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	cr_assert(ts_reads(ts, 0, 8 * MIB, 1));
	ts_write(ts, 100 * KIB + 10, 300 * KIB, 2);
	ts_write(ts, 5 * MIB, 300 * KIB, 3);
	cr_assert_geq(cached(ts), 3U * MIB);
	/* not a multiple of a block, so that folios lie across the new end */
	cr_assert_eq(resize(ts, MIB + 7 * PAGE), 0);
	cr_assert_eq(size(ts), MIB + 7U * PAGE);
	cr_assert_leq(cached(ts), MIB + 7U * PAGE);
	cr_assert_leq(resident(ts), MIB + 7U * PAGE);
	cr_assert(ts_reads(ts, 100 * KIB + 10, 300 * KIB, 2));
	cr_assert(ts_reads(ts, 5 * MIB, 300 * KIB, 3));
	cr_assert(ts_reads(ts, 2 * MIB, 3 * MIB, 1));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 100 * KIB + 10, 300 * KIB, 100 * KIB + 10, 2));
	cr_assert(ts_dev_has(ts, 5 * MIB, 300 * KIB, 5 * MIB, 3));
	/* and back, and beyond */
	cr_assert_eq(resize(ts, 3 * MIB + 3 * PAGE), 0);
	cr_assert_eq(resize(ts, 8 * MIB), 0);
	cr_assert(ts_reads(ts, 6 * MIB, 2 * MIB, 1));
	cr_assert_eq(ts->engine->cache->nr_off, 0U);
	(void)iomap_engine_drop_cache(ts->engine);
	cr_assert_eq(cached(ts), 0U);
	ts_close(ts);
}

Test(resize, en02_a_cache_that_shrinks_keeps_its_data_and_gives_memory_back)
{
	shrinks(false, 0);
	shrinks(true, 0);
}

Test(resize, en02_a_cache_of_large_folios_shrinks)
{
	shrinks(false, 64 * KIB);
	shrinks(true, 64 * KIB);
	shrinks(false, 256 * KIB);
}

/* What was used again moves where it may stay, and what is there and was not makes room. */
Test(resize, en02_what_is_hot_moves)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert_eq(resize(ts, MIB), 0);
	cr_assert_gt(cached(ts), (uint64_t)MIB / 2, "it is not thrown away for nothing");
	ts_close(ts);
}

Test(resize, en02_limits_follow_the_size)
{
	struct ts *ts = store(4 * MIB, 0, 256 * KIB, false);
	const struct iomap__cache *cache = ts->engine->cache;

	cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	cr_assert_eq(cache->hard_pages, 4U * MIB / PAGE * 40 / 100);
	cr_assert_eq(resize(ts, MIB), 0);
	cr_assert_eq(cache->hard_pages, 1U * MIB / PAGE * 40 / 100);
	cr_assert_eq(cache->background_pages, 1U * MIB / PAGE * 10 / 100);
	for (int64_t pos = 0; pos < 8 * MIB; pos += 256 * KIB) {
		struct iomap_folio *folio;

		ts_write(ts, pos, 256 * KIB, 2);
		cr_assert_leq(t_stats(ts->engine).dirty_bytes, (uint64_t)MIB / 2);
		folio = ts_folio(ts, pos + 255 * KIB);
		cr_assert_leq(iomap_folio_size(folio), 64U * KIB, "a sixteenth of the cache");
		iomap_folio_put(folio);
	}
	cr_assert_eq(resize(ts, 8 * MIB), 0);
	cr_assert_eq(cache->hard_pages, 8U * MIB / PAGE * 40 / 100);
	ts_drop(ts);
	ts_write(ts, 0, 256 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
}

/* ---- what is in use ---- */

/* A page that lies above the first MiB of a cache of 2 MiB; referenced. */
static struct iomap_folio *high_folio(struct ts *ts)
{
	struct iomap__cache *cache = ts->engine->cache;

	for (int64_t pos = 0; pos < 2 * MIB; pos += PAGE) {
		struct iomap_folio *folio =
			iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos / PAGE);

		if (folio && folio - cache->folios >= MIB / PAGE + 7)
			return folio;
		if (folio)
			iomap_folio_put(folio);
	}
	t_must(!"no page lies there");
	return NULL;
}

/* Hits meanwhile take no lock and make no system call, and the size tells what was reached. */
static void referenced(bool threads)
{
	struct ts *ts = store(2 * MIB, 0, 0, threads);
	struct iomap_folio *folio;
	int64_t pos;
	char byte;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	pos = iomap_folio_pos(folio);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	cr_assert_eq(size(ts), MIB + 1U * PAGE);
	cr_assert_leq(cached(ts), MIB + 1U * PAGE);
	/* it is the file's all the same */
	cr_assert_eq(iomap_folio_mapping(folio), &ts->inode.i_data);
	cr_assert_eq(iomap_read(ts->file, &byte, 1, pos), 1);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	iomap_folio_put(folio);
	cr_assert_eq(resize(ts, MIB), 0);
	cr_assert_eq(size(ts), (uint64_t)MIB);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	ts_close(ts);
}

Test(resize, en02_a_referenced_folio_is_left_and_told)
{
	referenced(false);
	referenced(true);
}

/* Let the library do what it does by itself, now. */
static void look_after(struct ts *ts, bool threads)
{
	if (threads) {
		iomap__flusher_kick(ts->engine);
		sched_yield();
	} else {
		(void)iomap_engine_poll(ts->engine, 1, true);
	}
}

/* What was left goes when it is let go: nobody evicts or reads anything. */
static void goes_by_itself(bool threads)
{
	struct ts *ts = store(2 * MIB, 0, 0, threads);
	struct iomap_folio *folio;
	int64_t pos;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	pos = iomap_folio_pos(folio);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	look_after(ts, threads);
	cr_assert_eq(size(ts), MIB + 1U * PAGE, "it is in use");
	iomap_folio_put(folio);
	while (size(ts) != MIB || resident(ts) > MIB)
		look_after(ts, threads);
	cr_assert_leq(cached(ts), (uint64_t)MIB);
	cr_assert_not(iomap__cache_wants_trim(ts->engine->cache));
	cr_assert(ts_reads(ts, pos, PAGE, 1));
	ts_close(ts);
}

Test(resize, en02_what_was_left_goes_by_itself)
{
	goes_by_itself(false);
	goes_by_itself(true);
}

/* What is dirty moves, and is not lost. */
Test(resize, en02_dirty_data_that_was_left_moves)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);
	struct iomap_folio *folio;
	int64_t pos;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	pos = iomap_folio_pos(folio);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	ts_write(ts, pos, PAGE, 2);
	iomap_folio_put(folio);
	td_reset(ts->dev);
	while (size(ts) != MIB)
		look_after(ts, false);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, (uint64_t)PAGE);
	cr_assert(ts_reads(ts, pos, PAGE, 2));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, (uint64_t)pos, PAGE, pos, 2));
	ts_close(ts);
}

static bool readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	t_must(poll(&pfd, 1, 0) >= 0);
	return pfd.revents;
}

/* A loop that sleeps as long as it is told comes and looks. */
Test(resize, en02_a_loop_is_told_of_what_is_to_be_given_back)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);
	int fd = iomap_engine_fd(ts->engine);
	struct iomap_folio *folio;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	/* so that nothing goes off one by one */
	(void)iomap_engine_drop_cache(ts->engine);
	(void)iomap_engine_poll(ts->engine, 1, true);
	cr_assert_not(readable(fd));
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), -1);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	cr_assert(readable(fd));
	cr_assert_gt(iomap_engine_poll_timeout(ts->engine), 0);
	(void)iomap_engine_poll(ts->engine, 1, true);
	cr_assert_not(readable(fd));
	cr_assert_gt(iomap_engine_poll_timeout(ts->engine), 0, "it is there still");
	/* off without a poll */
	iomap_folio_put(folio);
	(void)iomap_engine_drop_cache(ts->engine);
	cr_assert(readable(fd));
	cr_assert_gt(iomap_engine_poll_timeout(ts->engine), 0);
	cr_assert_eq(resident(ts), MIB + 1U * PAGE);
	(void)iomap_engine_poll(ts->engine, 1, true);
	cr_assert_leq(resident(ts), (uint64_t)MIB);
	cr_assert_eq(iomap_engine_poll_timeout(ts->engine), -1);
	ts_close(ts);
}

static atomic_bool stop;
static atomic_uint rounds;

static long write_and_sync(void *arg)
{
	struct ts *ts = arg;

	while (!atomic_load(&stop)) {
		ts_write(ts, 6 * MIB, PAGE, 3);
		t_must(ts_fsync(ts) == 0);
		atomic_fetch_add(&rounds, 1);
	}
	return 0;
}

/* Writeback of others is no progress, but it does not make the second shorter either. */
Test(resize, en02_it_does_not_give_up_early_beside_writers)
{
	struct ts *ts = store(2 * MIB, 0, 0, true);
	struct timespec began, end;
	struct iomap_folio *folio;
	struct t_task task;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	t_start(&task, write_and_sync, ts);
	while (atomic_load(&rounds) < 10)
		sched_yield();
	clock_gettime(CLOCK_MONOTONIC, &began);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	clock_gettime(CLOCK_MONOTONIC, &end);
	cr_assert_geq((end.tv_sec - began.tv_sec) * 1000000000L + end.tv_nsec - began.tv_nsec,
		      1000000000L);
	atomic_store(&stop, true);
	t_join(&task);
	iomap_folio_put(folio);
	cr_assert_eq(resize(ts, MIB), 0);
	ts_close(ts);
}

static long poll_and_trim(void *arg)
{
	struct ts *ts = arg;

	while (!atomic_load(&stop)) {
		atomic_store(&ts->engine->cache->trim_wanted, true);
		(void)iomap__flusher_poll(ts->engine);
		atomic_fetch_add(&rounds, 1);
	}
	return 0;
}

/* Who gives memory back is done soon; it is no other resizing. */
Test(resize, en02_giving_back_does_not_make_a_call_fail)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);
	struct t_task task;

	cr_assert_eq(resize(ts, MIB), 0);
	t_start(&task, poll_and_trim, ts);
	while (atomic_load(&rounds) < 10)
		sched_yield();
	for (int i = 0; i < (T_SANITIZED ? 2000 : 10000); i++)
		cr_assert_eq(resize(ts, i & 1 ? MIB : MIB + PAGE), 0);
	atomic_store(&stop, true);
	t_join(&task);
	ts_close(ts);
}

/* ---- the queue of new folios ---- */

static uint64_t queue_of(const struct iomap__policy *policy, uint32_t *pages)
{
	uint64_t live = policy->tail - policy->head;

	for (uint64_t i = 0; i < live; i++)
		pages[i] = policy->ring[(policy->head + i - policy->base) % policy->places];
	return live;
}

/* Whatever place it begins at and wherever it wraps, it keeps its pages, the newest at least. */
Test(resize, en02_the_queue_of_new_folios_keeps_its_order)
{
	struct ts *ts = store(2 * MIB, 8 * MIB, 0, false);
	struct iomap__cache *cache = ts->engine->cache;
	uint32_t *before = calloc(8 * MIB / PAGE, 4), *after = calloc(8 * MIB / PAGE, 4);
	uint64_t was = atomic_load(&cache->nr_pages), nr_before, nr_after, kept;
	struct t_rand r = { t_seed() };
	unsigned wrapped = 0;

	t_must(before && after);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t places = 64 + t_below(&r, 2 * MIB / PAGE);

		/* it goes on by as much as that */
		for (uint64_t n = t_below(&r, 200); n; n--)
			cr_assert(ts_reads(ts, (int64_t)t_below(&r, 8 * MIB / PAGE) * PAGE, PAGE, 1));
		nr_before = queue_of(&cache->policy, before);
		wrapped += (cache->policy.head - cache->policy.base) % cache->policy.places +
				   nr_before > cache->policy.places;
		/* as if the cache had that size */
		atomic_store(&cache->nr_pages, places);
		iomap__policy_resized(cache);
		atomic_store(&cache->nr_pages, was);
		nr_after = queue_of(&cache->policy, after);
		kept = nr_before < places ? nr_before : places;
		cr_assert_eq(cache->policy.places, places);
		cr_assert_eq(nr_after, kept);
		cr_assert(!memcmp(after, before + nr_before - kept, kept * 4), "round %u", i);
	}
	cr_assert_gt(wrapped, 10U);
	free(before);
	free(after);
	ts_close(ts);
}

/* ---- meanwhile ---- */

/* It becomes the cache's again where it is. */
Test(resize, en02_growing_takes_back_what_was_left)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);
	struct iomap_folio *folio;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	cr_assert_eq(resize(ts, 2 * MIB), 0);
	cr_assert_eq(size(ts), 2U * MIB);
	iomap_folio_put(folio);
	cr_assert(ts_reads(ts, 0, 4 * MIB, 1));
	cr_assert_gt(cached(ts), 2U * MIB - 32 * PAGE);
	ts_close(ts);
}

/* A block that somebody is emptying up there is nobody's in the end. */
Test(resize, en02_a_block_that_is_held_goes_off)
{
	struct ts *ts = store(2 * MIB, 0, 0, false);
	struct iomap__cache *cache = ts->engine->cache;
	struct iomap__hold hold;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	cr_assert(iomap__arena_hold(cache, &hold, 3 * MIB / 2 / PAGE, 4));
	(void)iomap_engine_drop_cache(ts->engine);
	cr_assert_eq(resize(ts, MIB), -EBUSY);
	cr_assert_eq(size(ts), MIB + 16U * PAGE);
	cr_assert_null(iomap__arena_hold_end(cache, &hold));
	cr_assert_eq(size(ts), (uint64_t)MIB);
	cr_assert(!iomap__arena_hold(cache, &hold, 3 * MIB / 2 / PAGE, 4));
	cr_assert_eq(resize(ts, 2 * MIB), 0);
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	ts_close(ts);
}

static long resize_to_one(void *arg)
{
	return resize(arg, MIB);
}

Test(resize, en02_writeback_is_waited_for)
{
	struct ts *ts = store(2 * MIB, 0, 0, true);
	struct t_task task;

	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	td_async(ts->dev);
	td_hold(ts->dev, TD_WRITE);
	/* all over the arena */
	for (int64_t pos = 0; pos < 2 * MIB; pos += 16 * PAGE)
		ts_write(ts, pos, PAGE, 2);
	cr_assert_eq(iomap_sync_range(ts->file, 0, 2 * MIB, IOMAP_SYNC_WRITE), 0);
	td_wait_held(ts->dev, 1);
	t_start(&task, resize_to_one, ts);
	while (size(ts) == 2 * MIB)
		sched_yield();
	cr_assert_eq(resize(ts, 2 * MIB), -EBUSY, "one at a time");
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert_eq(size(ts), (uint64_t)MIB);
	for (int64_t pos = 0; pos < 2 * MIB; pos += 16 * PAGE)
		cr_assert(ts_reads(ts, pos, PAGE, 2));
	ts_close(ts);
}

Test(resize, en02_hits_go_on_meanwhile)
{
	struct ts *ts = store(2 * MIB, 0, 0, true);
	struct iomap_debug_counters before, after;
	struct iomap_folio *folio;
	struct t_task task;
	unsigned nr = 0;
	char buf[100];

	if (!t_debug())
		cr_skip_test("release builds do not count");
	cr_assert(ts_reads(ts, 0, 2 * MIB, 1));
	folio = high_folio(ts);
	t_start(&task, resize_to_one, ts);
	while (size(ts) > MIB + PAGE)
		sched_yield();
	/* it waits for this one folio */
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), iomap_folio_pos(folio)), 100);
	before = t_counters();
	for (; !atomic_load(&task.done) && nr < 1000; nr++)
		t_must(iomap_read(ts->file, buf, sizeof(buf), iomap_folio_pos(folio)) == 100);
	after = t_counters();
	cr_assert_gt(nr, 0U);
	cr_assert_eq(after.locks_nr, before.locks_nr);
	cr_assert_eq(after.syscalls_nr, before.syscalls_nr);
	iomap_folio_put(folio);
	(void)t_join(&task);
	ts_close(ts);
}

Test(resize, en02_the_child_of_a_fork_changes_nothing)
{
	struct ts *ts = store(MIB, 0, 0, false);
	int status;
	pid_t pid;

	cr_assert(ts_reads(ts, 0, MIB, 1));
	pid = fork();
	if (!pid)
		_exit(resize(ts, 2 * MIB) == -ECHILD ? 0 : 1);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	cr_assert_eq(resize(ts, 2 * MIB), 0);
	cr_assert(ts_reads(ts, 0, MIB, 1));
	ts_close(ts);
}

Test(resize, en02_no_memory_to_grow)
{
	struct ts *ts = store(MIB, 0, 0, false);
	struct iomap__cache *cache = ts->engine->cache;

	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	/* what is a file that may only be read cannot be opened for writing */
	t_must(mmap(cache->data + 4 * MIB, 4 * MIB, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0) !=
	       MAP_FAILED);
	t_must(close(fd) == 0);
	cr_assert_eq(resize(ts, 2 * MIB), 0);
	cr_assert_eq(resize(ts, 8 * MIB), -ENOMEM);
	cr_assert_eq(size(ts), 2U * MIB);
	cr_assert_eq(cache->hard_pages, 2U * MIB / PAGE * 40 / 100);
	cr_assert(ts_reads(ts, 0, 4 * MIB, 1));
	ts_close(ts);
}

/* ---- memory that rings have pinned ---- */

Test(resize, en02_what_rings_have_registered_is_forgotten_before_it_goes)
{
	static struct tp whole = { .length = 16 * MIB };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &whole,
		.i_size = 16 * MIB,
	};
	struct iomap_engine_opts opts;
	struct ts fake = { .engine = NULL };
	struct iomap_inode inode;
	struct iomap_file *file;
	struct iomap_bdev *bdev;
	uint64_t before;
	char *path = t_temp(16 * MIB), *data = malloc(16 * MIB), *buf = malloc(MIB);
	struct t_log log;

	t_must(data && buf);
	t_fill(data, 16 * MIB, 0, 5);
	t_temp_put(path, data, 16 * MIB);
	t_log_init(&log);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 8 * MIB;
	fake.engine = t_engine(&opts, &log);
	cr_assert_eq(iomap_bdev_open(fake.engine, path, 0, &bdev), 0);
	args.bdev = bdev;
	cr_assert_eq(iomap_inode_init(fake.engine, &inode, &args), 0);
	cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);
	for (int round = 0; round < 4; round++) {
		for (int64_t pos = 0; pos < 16 * MIB; pos += MIB) {
			cr_assert_eq(iomap_read(file, buf, MIB, pos), MIB);
			cr_assert_eq(t_mismatch(buf, MIB, pos, 5), -1, "round %d", round);
		}
		before = pinned();
		cr_assert_eq(iomap_engine_set_cache_bytes(fake.engine,
							  round % 2 ? 8 * MIB : 4 * MIB), 0);
		if (round % 2 == 0)
			cr_assert(resident(&fake) <= 4U * MIB && (!before || pinned() < before));
	}
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(fake.engine), 0);
	t_temp_free(path);
	free(data);
	free(buf);
}

/* ---- beside all else ---- */

struct fighter {
	struct ts *ts;
	unsigned seed;
	int64_t base;
};

/* Each has a quarter of the file. */
static long fight(void *arg)
{
	struct fighter *f = arg;
	struct t_rand r = { f->seed };
	unsigned rounds_nr = 0;

	while (!atomic_load(&stop) || rounds_nr < 3) {
		for (int64_t pos = 0; pos < 2 * MIB; pos += 32 * KIB)
			ts_write(f->ts, f->base + pos, 32 * KIB, f->seed + rounds_nr);
		for (unsigned i = 0; i < 64; i++) {
			int64_t pos = (int64_t)t_below(&r, 64) * 32 * KIB;
			struct iomap_pin pin;

			t_must(ts_reads(f->ts, f->base + pos, 32 * KIB, f->seed + rounds_nr));
			t_must(iomap_folio_pin(f->ts->file, f->base + pos, 0, &pin) == 0);
			t_must(t_mismatch(pin.addr, 4 * KIB, f->base + pos, f->seed + rounds_nr) == -1);
			iomap_folio_unpin(&pin);
		}
		rounds_nr++;
	}
	return rounds_nr;
}

static long drop(void *arg)
{
	struct ts *ts = arg;

	while (!atomic_load(&stop)) {
		(void)iomap_engine_drop_cache(ts->engine);
		sched_yield();
	}
	return 0;
}

static void beside(uint64_t folio_bytes, unsigned changes)
{
	struct ts *ts = store(MIB, 4 * MIB, folio_bytes, true);
	struct t_rand r = { t_seed() };
	struct fighter f[3];
	struct t_task task[4];
	unsigned done = 0;

	if (folio_bytes > PAGE)
		cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	td_async(ts->dev);
	atomic_store(&stop, false);
	for (unsigned i = 0; i < 3; i++) {
		f[i] = (struct fighter){ ts, 100 * (i + 1), i * 2LL * MIB };
		t_start(&task[i], fight, &f[i]);
	}
	t_start(&task[3], drop, ts);
	for (unsigned i = 0; i < changes; i++) {
		uint64_t pages = 128 + t_below(&r, 1024 - 128 + 1);
		int err = resize(ts, pages * PAGE);

		cr_assert(!err || err == -EBUSY, "%d", err);
		done += !err;
		cr_assert(size(ts) == pages * PAGE || err);
	}
	cr_assert_gt(done, changes / 2);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 4; i++) {
		long nr = t_join(&task[i]);

		if (i == 3)
			break;
		cr_assert_eq(ts_fsync(ts), 0);
		cr_assert(ts_dev_has(ts, (uint64_t)f[i].base, 2 * MIB, f[i].base,
				     f[i].seed + (unsigned)nr - 1));
	}
	ts_close(ts);
}

Test(resize, en02_beside_readers_writers_and_pins)
{
	beside(PAGE, T_SANITIZED ? 30 : 200);
}

Test(resize, en02_beside_readers_writers_and_pins_of_large_folios)
{
	beside(32 * KIB, T_SANITIZED ? 30 : 200);
}
