/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * write_ops.c - WO: the hooks of a buffered write.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

static struct ts *mapped_store(int64_t size, uint32_t blkbits)
{
	struct ts *ts = ts_open(
		&(struct ts_config){ .i_size = size, .blkbits = blkbits, .with_write_ops = true });

	ts_map(ts, 0, (uint64_t)size, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, (size_t)size, 0, 1);
	return ts;
}

/* ---- WO01 ---- */

static void locked_at_put(struct ts *ts, int64_t pos, unsigned copied, struct iomap_folio *folio)
{
	(void)copied;
	t_must(iomap_folio_test_locked(folio));
	t_must(iomap_folio_mapping(folio) == &ts->inode.i_data);
	t_must(iomap_folio_pos(folio) <= pos);
	t_must(iomap_folio_pos(folio) + (int64_t)iomap_folio_size(folio) > pos);
}

Test(write_ops, wo01_get_folio_is_called_for_each_folio_before_it_is_touched)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts->hook.put = locked_at_put;
	ts_write(ts, 1000, 10 * KIB, 2);
	cr_assert_eq(ts_calls(ts, TS_GET), 3U);
	cr_assert_eq(ts_calls(ts, TS_PUT), 3U);
	for (size_t i = 0; i < 3; i++) {
		struct ts_event get = ts_nth(ts, TS_GET, i), put = ts_nth(ts, TS_PUT, i);

		cr_assert_eq(get.pos, i ? (int64_t)i * 4096 : 1000);
		cr_assert_eq(get.length, i == 0 ? 3096U : i == 1 ? 4096U : 1000U + 10 * KIB - 8192);
		cr_assert_eq(get.flags, (unsigned)IOMAP_WRITE);
		cr_assert_eq(put.folio, get.folio);
		cr_assert_lt(get.tick, put.tick);
	}
	/* the first folio's rest was read after it had been got */
	cr_assert_gt(ts_nth(ts, TS_WREAD, 0).tick, ts_nth(ts, TS_GET, 0).tick);
	cr_assert(ts_reads(ts, 1000, 10 * KIB, 2));
	ts_close(ts);
}

Test(write_ops, wo01_an_error_of_get_folio_ends_the_write_and_no_put_follows)
{
	struct ts *ts = mapped_store(64 * KIB, 12);
	char buf[12 * KIB];

	t_fill(buf, sizeof(buf), 0, 2);
	ts_fail(ts, TS_GET, 1, -ENOLCK, 1);
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), -ENOLCK);
	cr_assert_eq(ts_calls(ts, TS_PUT), 0U);
	ts_fail(ts, TS_GET, 2, -ENOLCK, 1);
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), 4 * KIB);
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 2));
	cr_assert(ts_reads(ts, 4 * KIB, 60 * KIB, 1));
	ts_close(ts);
}

Test(write_ops, wo01_zeroing_gets_folios_in_the_same_way)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW, .with_write_ops = true });
	bool zeroed = false;

	ts_write(ts, 0, 1000, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	ts_reset(ts);
	ts_write(ts, 20000, 100, 1); /* leaves a gap from 1000 on */
	for (size_t i = 0; i < ts_calls(ts, TS_GET); i++)
		if (ts_nth(ts, TS_GET, i).flags & IOMAP_ZERO) {
			cr_assert_eq(ts_nth(ts, TS_GET, i).pos, 1000);
			zeroed = true;
		}
	cr_assert(zeroed);
	cr_assert_eq(ts_calls(ts, TS_PUT), ts_calls(ts, TS_GET));
	cr_assert(ts_reads(ts, 0, 1000, 1));
	cr_assert(ts_reads_all(ts, 1000, 19000, 0));
	ts_close(ts);
}

Test(write_ops, wo01_wo02_without_hooks_the_defaults_do_it)
{
	struct ts *ts = mapped_store(64 * KIB, 10);

	memset(&ts->write_ops, 0, sizeof(ts->write_ops));
	ts_write(ts, 100, 9000, 2);
	cr_assert(ts_reads(ts, 0, 100, 1));
	cr_assert(ts_reads(ts, 100, 9000, 2));
	cr_assert(ts_reads(ts, 9100, 1000, 1));
	ts_close(ts);
}

/* ---- WO02 ---- */

Test(write_ops, wo02_put_folio_gets_the_bytes_copied)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts_write(ts, 4000, 200, 2);
	cr_assert_eq(ts_calls(ts, TS_PUT), 2U);
	cr_assert_eq(ts_nth(ts, TS_PUT, 0).pos, 4000);
	cr_assert_eq(ts_nth(ts, TS_PUT, 0).written, 96);
	cr_assert_eq(ts_nth(ts, TS_PUT, 1).pos, 4096);
	cr_assert_eq(ts_nth(ts, TS_PUT, 1).written, 104);
	ts_close(ts);
}

Test(write_ops, wo02_put_folio_runs_with_0_when_the_folio_could_not_be_written)
{
	struct ts *ts = mapped_store(64 * KIB, 12);
	char buf[100] = "x";
	struct iomap_folio *folio;

	ts_fail(ts, TS_WREAD, 1, -EIO, 1);
	cr_assert_eq(ts_buffered_write(ts, 0, buf, sizeof(buf)), -EIO);
	cr_assert_eq(ts_calls(ts, TS_GET), 1U);
	cr_assert_eq(ts_calls(ts, TS_PUT), 1U);
	cr_assert_eq(ts_nth(ts, TS_PUT, 0).written, 0);
	folio = iomap_filemap_get_folio(&ts->inode.i_data, 0);
	if (folio) {
		cr_assert(iomap_folio_trylock(folio), "nobody holds the folio any more");
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
	}
	ts_close(ts);
}

Test(write_ops, wo02_put_folio_runs_with_0_when_the_mapping_is_stale)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts_fail(ts, TS_VALID, 1, 1, 1);
	ts_write(ts, 0, 4 * KIB, 2);
	cr_assert_eq(ts_calls(ts, TS_GET), ts_calls(ts, TS_PUT));
	cr_assert_eq(ts_nth(ts, TS_PUT, 0).written, 0);
	cr_assert_eq(ts_last(ts, TS_PUT).written, 4 * KIB);
	ts_close(ts);
}

/* ---- WO03 ---- */

static bool locked_when_valid_is_asked(struct ts *ts, const struct iomap *iomap)
{
	struct iomap_folio *folio = ts_folio(ts, 4 * KIB);

	t_must(iomap_folio_test_locked(folio));
	t_must(!iomap_folio_test_dirty(folio));
	iomap_folio_put(folio);
	return iomap->validity_cookie == ts->seq;
}

Test(write_ops, wo03_valid_is_asked_with_the_folio_locked_before_data_moves)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts->hook.valid = locked_when_valid_is_asked;
	ts_write(ts, 5000, 100, 2);
	cr_assert_eq(ts_calls(ts, TS_VALID), 1U);
	cr_assert_gt(ts_nth(ts, TS_VALID, 0).tick, ts_nth(ts, TS_GET, 0).tick);
	cr_assert_lt(ts_nth(ts, TS_VALID, 0).tick, ts_nth(ts, TS_WREAD, 0).tick);
	cr_assert_lt(ts_nth(ts, TS_VALID, 0).tick, ts_nth(ts, TS_PUT, 0).tick);
	ts_close(ts);
}

Test(write_ops, wo03_a_stale_mapping_is_not_used_and_a_new_one_sampled)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts_fail(ts, TS_VALID, 1, 1, 1);
	ts_write(ts, 100, 100, 2);
	cr_assert_eq(ts_calls(ts, TS_VALID), 2U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 2U);
	cr_assert_eq(ts_calls(ts, TS_END), 2U);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	cr_assert(ts_nth(ts, TS_END, 0).iomap.flags & IOMAP_F_STALE);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 1).pos, 100);
	cr_assert_gt(ts_nth(ts, TS_WREAD, 0).tick, ts_nth(ts, TS_BEGIN, 1).tick);
	cr_assert_eq(ts_calls(ts, TS_WREAD), 1U);
	cr_assert(ts_reads(ts, 100, 100, 2));
	cr_assert(ts_reads(ts, 200, 4000, 1));
	ts_close(ts);
}

Test(write_ops, wo03_without_valid_every_mapping_counts_as_valid)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	ts->write_ops.iomap_valid = NULL;
	ts_write(ts, 0, 16 * KIB, 2);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 1U);
	cr_assert(ts_reads(ts, 0, 16 * KIB, 2));
	ts_close(ts);
}

Test(write_ops, wo03_an_overwrite_of_cached_data_asks_and_leaves_all_when_told_no)
{
	struct ts *ts = mapped_store(64 * KIB, 12);

	/* as in the calls before, but that the library looks for the folio itself */
	ts->write_ops.get_folio = NULL;
	ts->write_ops.put_folio = NULL;
	ts_write(ts, 4 * KIB, 4 * KIB, 2);
	ts_reset(ts);
	ts_fail(ts, TS_VALID, 1, 1, 1);
	ts_fail(ts, TS_BEGIN, 2, -ENOSPC, 1);
	cr_assert_eq(ts_buffered_write(ts, 5000, "x", 1), -ENOSPC);
	cr_assert_eq(ts_calls(ts, TS_VALID), 1U);
	cr_assert(ts_nth(ts, TS_END, 0).iomap.flags & IOMAP_F_STALE);
	cr_assert_eq(ts_nth(ts, TS_END, 0).written, 0);
	cr_assert(ts_reads(ts, 4 * KIB, 4 * KIB, 2));

	ts_reset(ts);
	ts_fail(ts, TS_VALID, 1, 1, 1);
	ts_write(ts, 5000, 100, 3);
	cr_assert_eq(ts_calls(ts, TS_VALID), 2U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), 2U);
	cr_assert_eq(ts_calls(ts, TS_END), 2U);
	cr_assert_eq(ts_nth(ts, TS_BEGIN, 1).pos, 5000);
	cr_assert(ts_reads(ts, 5000, 100, 3));
	cr_assert(ts_reads(ts, 5100, 3092, 2));
	ts_close(ts);
}

/*
 * The race: between iomap_begin and the folio lock another thread moves the block that is
 * about to be written to another place of the device, fills it when it was unwritten, or
 * makes it unwritten, and wrecks the old place.  Whoever uses the old mapping reads
 * wreckage, zeros over data or data where there is none.
 */
#define RACE_BLOCKS 64
#define RACE_ROUNDS (T_SANITIZED ? 3000 : 6000)

struct race {
	struct ts *ts;
	struct t_gate gate;
	int64_t block; /* to change now, or -1 */
	bool stop;
	uint64_t changes;
	uint64_t slot[RACE_BLOCKS]; /* where each block lies */
	uint64_t free_slot[RACE_BLOCKS];
	uint8_t model[RACE_BLOCKS * 4096];
	struct t_rand rand;
};

static void change_block(struct race *race, int64_t block)
{
	struct ts *ts = race->ts;
	uint64_t to = race->free_slot[block], from = race->slot[block];
	struct ts_extent was = ts_lookup(ts, block * 4096);
	uint8_t *mem = ts->dev->mem;

	t_lock(&ts->dev->gate);
	memcpy(mem + to, race->model + block * 4096, 4096);
	memset(mem + from, 0xee, 4096);
	t_unlock(&ts->dev->gate);
	race->slot[block] = to;
	race->free_slot[block] = from;
	if (was.type == IOMAP_MAPPED && t_all(race->model + block * 4096, 4096, 0)) {
		/* all zero: an unwritten block over wreckage says the same */
		t_lock(&ts->dev->gate);
		memset(mem + to, 0xdd, 4096);
		t_unlock(&ts->dev->gate);
		ts_map(ts, block * 4096, 4096, IOMAP_UNWRITTEN, 0, to);
	} else {
		ts_map(ts, block * 4096, 4096, IOMAP_MAPPED, 0, to);
	}
	race->changes++;
}

static long race_thread(void *arg)
{
	struct race *race = arg;

	t_lock(&race->gate);
	while (!race->stop) {
		if (race->block < 0) {
			t_wait(&race->gate);
			continue;
		}
		change_block(race, race->block);
		race->block = -1;
		t_wake(&race->gate);
	}
	t_unlock(&race->gate);
	return 0;
}

static struct iomap_folio *cached(struct ts *ts, int64_t pos)
{
	return iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
}

/* Called between iomap_begin and the folio lock. */
static void race_get(struct ts *ts, struct iomap_iter *iter, int64_t pos)
{
	struct race *race = ts->hook.arg;
	struct iomap_folio *folio = cached(ts, pos);

	(void)iter;
	/* A cached folio is newer than the device; its block stays where it is. */
	if (folio) {
		iomap_folio_put(folio);
		return;
	}
	t_lock(&race->gate);
	if (t_below(&race->rand, 4)) {
		race->block = pos / 4096;
		t_wake(&race->gate);
		while (race->block >= 0)
			t_wait(&race->gate);
	}
	t_unlock(&race->gate);
}

static void race_round(struct race *race)
{
	uint64_t block = t_below(&race->rand, RACE_BLOCKS);
	uint64_t off = t_below(&race->rand, 4096), len = 1 + t_below(&race->rand, 9000);
	uint64_t pos = block * 4096 + off;
	uint8_t *buf = race->model + pos;

	if (pos + len > sizeof(race->model))
		len = sizeof(race->model) - pos;
	if (!t_below(&race->rand, 8)) {
		/* whole blocks of zeros, for those that become unwritten */
		pos = block * 4096;
		len = 4096;
		buf = race->model + pos;
		memset(buf, 0, len);
	} else {
		for (uint64_t i = 0; i < len; i++)
			buf[i] = (uint8_t)t_rand(&race->rand);
	}
	t_must(iomap_write(race->ts->file, buf, len, (int64_t)pos) == (ssize_t)len);
	if (!t_below(&race->rand, 3)) {
		t_must(ts_fsync(race->ts) == 0);
		ts_drop(race->ts);
	}
}

Test(write_ops, wo03_no_byte_is_lost_when_another_thread_changes_the_map, .timeout = 300)
{
	struct race *race = calloc(1, sizeof(*race));
	struct ts *ts = mapped_store(RACE_BLOCKS * 4096, 12);
	struct t_task task;
	uint8_t *buf = malloc(sizeof(race->model));

	t_must(race && buf);
	race->ts = ts;
	race->block = -1;
	race->rand.state = t_seed();
	t_gate_init(&race->gate);
	t_fill(race->model, sizeof(race->model), 0, 1);
	for (uint64_t i = 0; i < RACE_BLOCKS; i++) {
		race->slot[i] = 64 * KIB + i * 4096;
		race->free_slot[i] = (2 << 20) + i * 4096;
		ts_map(ts, (int64_t)i * 4096, 4096, IOMAP_MAPPED, 0, race->slot[i]);
	}
	ts->hook.arg = race;
	ts->hook.get = race_get;
	t_start(&task, race_thread, race);
	for (int i = 0; i < RACE_ROUNDS; i++)
		race_round(race);
	t_lock(&race->gate);
	race->stop = true;
	t_wake(&race->gate);
	t_unlock(&race->gate);
	t_join(&task);

	cr_assert_geq(race->changes, 2000U, "only %" PRIu64 " changes hit a write", race->changes);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(race->model), 0),
		     (ssize_t)sizeof(race->model));
	cr_assert_eq(memcmp(buf, race->model, sizeof(race->model)), 0, "the cache lost bytes");
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(race->model), 0),
		     (ssize_t)sizeof(race->model));
	cr_assert_eq(memcmp(buf, race->model, sizeof(race->model)), 0, "the device lost bytes");
	ts_close(ts);
	t_gate_exit(&race->gate);
	free(race);
	free(buf);
}

/* ---- WO04 ---- */

Test(write_ops, wo04_read_folio_range_gets_what_the_write_does_not_cover)
{
	struct ts *ts = mapped_store(64 * KIB, 10);

	ts_write(ts, 5 * KIB + 100, 200, 2);
	cr_assert_eq(ts_calls(ts, TS_WREAD), 1U);
	cr_assert_eq(ts_nth(ts, TS_WREAD, 0).pos, 5 * KIB);
	cr_assert_eq(ts_nth(ts, TS_WREAD, 0).length, (uint64_t)KIB);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)KIB);
	cr_assert(ts_reads(ts, 5 * KIB, 100, 1));
	cr_assert(ts_reads(ts, 5 * KIB + 100, 200, 2));
	cr_assert(ts_reads(ts, 5 * KIB + 300, 724, 1));
	ts_close(ts);
}

Test(write_ops, wo04_by_default_the_rest_is_read_by_a_bio)
{
	struct ts *ts = mapped_store(64 * KIB, 10);

	ts->write_ops.read_folio_range = NULL;
	ts_write(ts, 5 * KIB + 100, 200, 2);
	cr_assert_eq(td_bytes(ts->dev, TD_READ), (uint64_t)KIB);
	cr_assert_eq(td_nth(ts->dev, TD_READ, 0).addr, (uint64_t)(69 * KIB));
	cr_assert(ts_reads(ts, 5 * KIB, 100, 1));
	cr_assert(ts_reads(ts, 5 * KIB + 100, 200, 2));
	cr_assert(ts_reads(ts, 5 * KIB + 300, 724, 1));
	ts_close(ts);
}

static void failed_read_leaves_nothing(bool own_hook)
{
	struct ts *ts = mapped_store(64 * KIB, 10);
	char buf[100] = "x";

	if (own_hook) {
		ts_fail(ts, TS_WREAD, 1, -ENODATA, 1);
	} else {
		ts->write_ops.read_folio_range = NULL;
		td_fail(ts->dev, TD_READ, 64 * KIB, KIB, -ENODATA, 1);
	}
	cr_assert_eq(ts_buffered_write(ts, 10, buf, sizeof(buf)), -ENODATA);
	cr_assert_not(ts_blocks_uptodate(ts, 0, 0, KIB));
	cr_assert_not(ts_dirty(ts, 0));
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 0U);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts_close(ts);
}

Test(write_ops, wo04_its_error_fails_the_write_and_leaves_the_block_not_uptodate)
{
	failed_read_leaves_nothing(true);
	failed_read_leaves_nothing(false);
}
