/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * pin.c - CA03: folios held in place, read there, and given back.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES ((int64_t)4096 * KIB)

static struct ts *store(uint64_t cache_bytes)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = FILE_BYTES + 100,
						     .cache_bytes = cache_bytes });

	ts_map(ts, 0, FILE_BYTES + 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, FILE_BYTES + 4 * KIB, 0, 1);
	return ts;
}

Test(pin, ca03_a_pin_tells_where_the_bytes_are)
{
	struct ts *ts = store(0);
	struct iomap_pin pin;

	for (unsigned i = 0; i < 3; i++) { /* a miss, the first use, a plain hit */
		cr_assert_eq(iomap_folio_pin(ts->file, 5000, 0, &pin), 0);
		cr_assert_eq(pin.len, (size_t)(8 * KIB - 5000));
		cr_assert_eq(t_mismatch(pin.addr, pin.len, 5000, 1), -1);
		cr_assert_eq(iomap_folio_index(pin.folio), 1U);
		iomap_folio_unpin(&pin);
	}
	/* to the end of the file */
	cr_assert_eq(iomap_folio_pin(ts->file, FILE_BYTES + 10, 0, &pin), 0);
	cr_assert_eq(pin.len, 90U);
	cr_assert_eq(t_mismatch(pin.addr, pin.len, FILE_BYTES + 10, 1), -1);
	iomap_folio_unpin(&pin);
	ts_close(ts);
}

Test(pin, ca03_what_cannot_be_pinned_is_refused)
{
	struct ts *ts = store(0);
	struct iomap_pin pin;

	cr_assert_eq(iomap_folio_pin(ts->file, FILE_BYTES + 100, 0, &pin), -ENXIO);
	cr_assert_eq(iomap_folio_pin(ts->file, INT64_MAX, 0, &pin), -ENXIO);
	cr_assert_eq(iomap_folio_pin(ts->file, -1, 0, &pin), -EINVAL);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, 0x80, &pin), -EINVAL);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, IOMAP_PIN_NOREAD, &pin), -ENODATA);
	cr_assert_eq(ts_calls(ts, TS_READAHEAD) + ts_calls(ts, TS_READ_FOLIO), 0U);
	ts_fail(ts, TS_READ_FOLIO, 1, -EIO, 100);
	ts_fail(ts, TS_READ, 1, -EIO, 100);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, 0, &pin), -EIO);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, IOMAP_PIN_NOREAD, &pin), -ENODATA);
	ts_close(ts);
}

Test(pin, ca03_noread_pins_what_is_cached)
{
	struct ts *ts = store(0);
	struct iomap_pin pin;

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	cr_assert_eq(iomap_folio_pin(ts->file, 100, IOMAP_PIN_NOREAD, &pin), 0);
	cr_assert_eq(t_mismatch(pin.addr, 64, 100, 1), -1);
	iomap_folio_unpin(&pin);
	ts_close(ts);
}

/* A folio of which blocks are missing is read in as a whole. */
Test(pin, ca03_a_folio_that_holds_some_blocks_is_completed)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 8 * KIB, .blkbits = 9 });
	struct iomap_pin pin;

	ts_map(ts, 0, 8 * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 8 * KIB, 0, 1);
	ts_write(ts, 512, 512, 2); /* a block: nothing need be read */
	cr_assert(!ts_uptodate(ts, 0));
	cr_assert_eq(iomap_folio_pin(ts->file, 0, IOMAP_PIN_NOREAD, &pin), -ENODATA);
	/* also when it is asked for where there is one */
	cr_assert_eq(iomap_folio_pin(ts->file, 600, 0, &pin), 0);
	cr_assert_eq(t_mismatch(pin.addr, 424, 600, 2), -1);
	cr_assert_eq(t_mismatch((char *)pin.addr + 424, 3 * KIB, 1024, 1), -1);
	iomap_folio_unpin(&pin);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, IOMAP_PIN_NOREAD, &pin), 0);
	cr_assert_eq(t_mismatch(pin.addr, 512, 0, 1), -1);
	iomap_folio_unpin(&pin);
	ts_close(ts);
}

Test(pin, ca03_a_pin_takes_no_lock_and_makes_no_system_call)
{
	struct iomap_debug_counters before, after;
	struct ts *ts = store(0);
	struct iomap_pin pin;

	if (!t_debug())
		cr_skip_test("counted in debug builds only");
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1));
	before = t_counters();
	for (int64_t pos = 0; pos < 64 * KIB; pos += 777) {
		cr_assert_eq(iomap_folio_pin(ts->file, pos, 0, &pin), 0);
		iomap_folio_unpin(&pin);
	}
	after = t_counters();
	cr_assert_eq(after.locks_nr - before.locks_nr, 0U);
	cr_assert_eq(after.allocs_nr - before.allocs_nr, 0U);
	cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 0U);
	ts_close(ts);
}

Test(pin, ca03_what_is_pinned_is_not_evicted)
{
	struct ts *ts = store(1024 * KIB);
	struct iomap_pin pin[16];

	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(iomap_folio_pin(ts->file, i * 8 * KIB, 0, &pin[i]), 0);
	for (unsigned round = 0; round < 3; round++) {
		cr_assert(ts_reads(ts, 0, FILE_BYTES, 1)); /* four times the cache */
		iomap_invalidate_inode_pages(&ts->inode, 0, INT64_MAX);
	}
	for (unsigned i = 0; i < 16; i++) {
		struct iomap_pin again;

		cr_assert_eq(iomap_folio_pin(ts->file, i * 8 * KIB, IOMAP_PIN_NOREAD, &again), 0);
		cr_assert_eq(again.folio, pin[i].folio);
		iomap_folio_unpin(&again);
		cr_assert_eq(t_mismatch(pin[i].addr, 4 * KIB, i * 8 * KIB, 1), -1);
		iomap_folio_unpin(&pin[i]);
	}
	ts_drop(ts);
	cr_assert_eq(iomap_folio_pin(ts->file, 0, IOMAP_PIN_NOREAD, &pin[0]), -ENODATA);
	ts_close(ts);
}

Test(pin, ca03_bytes_of_a_pinned_folio_are_live)
{
	struct ts *ts = store(0);
	struct iomap_pin pin;

	cr_assert_eq(iomap_folio_pin(ts->file, 0, 0, &pin), 0);
	ts_write(ts, 100, 50, 7);
	cr_assert_eq(t_mismatch(pin.addr, 100, 0, 1), -1);
	cr_assert_eq(t_mismatch((char *)pin.addr + 100, 50, 100, 7), -1);
	iomap_folio_unpin(&pin);
	ts_close(ts);
}

static int close_and_destroy(struct ts *ts)
{
	int err = iomap_file_close(ts->file);

	return err ? err : iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD);
}

/* In the cache, or truncated: the inode waits for its pins. */
Test(pin, ca03_an_inode_with_pins_is_busy)
{
	for (unsigned truncated = 0; truncated < 2; truncated++) {
		struct ts *ts = store(0);
		struct iomap_engine_stats before = t_stats(ts->engine);
		struct iomap_pin pin;

		cr_assert_eq(iomap_folio_pin(ts->file, 4 * KIB, 0, &pin), 0);
		if (truncated) {
			struct iomap_pin again;

			iomap_truncate_setsize(&ts->inode, 0);
			cr_assert_eq(iomap_folio_pin(ts->file, 4 * KIB, 0, &again), -ENXIO);
			/* out of the file, but not free */
			cr_assert_null(iomap_folio_mapping(pin.folio));
			cr_assert_eq(t_stats(ts->engine).cached_bytes,
				     before.cached_bytes + 4 * KIB);
			cr_assert_eq(t_mismatch(pin.addr, 4 * KIB, 4 * KIB, 1), -1);
		}
		cr_assert_eq(close_and_destroy(ts), -EBUSY, "truncated: %u", truncated);
		iomap_folio_unpin(&pin);
		cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), 0);
		cr_assert_eq(t_stats(ts->engine).cached_bytes, before.cached_bytes);
		ts_free(ts);
	}
}

/* ---- threads ---- */

struct shared {
	struct ts *ts;
	atomic_bool over;
};

static long pin_at_random(void *arg)
{
	struct shared *s = arg;
	struct t_rand rand = { .state = 77 + (uintptr_t)t_tick() };

	for (unsigned i = 0; i < (T_SANITIZED ? 5000U : 50000U); i++) {
		int64_t pos = (int64_t)t_below(&rand, FILE_BYTES);
		struct iomap_pin pin;
		size_t n;

		t_must(iomap_folio_pin(s->ts->file, pos, 0, &pin) == 0);
		n = pin.len < 64 ? pin.len : 64;
		t_must(t_mismatch(pin.addr, n, pos, 1) == -1);
		iomap_folio_unpin(&pin);
	}
	return 0;
}

static long drop_at_random(void *arg)
{
	struct shared *s = arg;
	struct t_rand rand = { .state = 5 };

	while (!atomic_load(&s->over)) {
		int64_t pos = (int64_t)t_below(&rand, 64) * 64 * KIB;

		iomap_invalidate_inode_pages(&s->ts->inode, pos, pos + 64 * KIB);
	}
	return 0;
}

Test(pin, ca03_pins_beside_eviction, .timeout = 300)
{
	struct shared s = { .ts = store(1024 * KIB) };
	struct t_task pinner[2], dropper;

	t_start(&dropper, drop_at_random, &s);
	for (unsigned i = 0; i < 2; i++)
		t_start(&pinner[i], pin_at_random, &s);
	for (unsigned i = 0; i < 2; i++)
		t_join(&pinner[i]);
	atomic_store(&s.over, true);
	t_join(&dropper);
	ts_close(s.ts);
}
