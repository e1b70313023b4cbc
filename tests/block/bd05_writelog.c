/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/*
 * bd05_writelog.c - the writelog: what it records, and what a cut may leave behind.
 *
 * Under the log lies a faulty device that holds completions, so that a test decides what is
 * in flight when.
 */
#include "bd05.h"

#define DEV_BYTES (64U * 1024U)
#define SEEDS 400U

struct setup {
	struct iomap_engine *engine;
	struct iomap_bdev *memory, *faulty, *log;
	struct iomap_replay *replay;
	unsigned char image[DEV_BYTES];
};

static struct setup *set_up(void)
{
	struct setup *s = calloc(1, sizeof(*s));

	t_must(s);
	s->engine = b_engine();
	s->memory = b_memory(s->engine, DEV_BYTES);
	s->faulty = b_faulty(s->memory, 1);
	t_must(iomap_writelog_create(s->faulty, NULL, &s->log) == 0);
	return s;
}

static void tear_down(struct setup *s)
{
	iomap_replay_close(s->replay);
	b_close(s->log);
	b_close(s->faulty);
	b_close(s->memory);
	cr_assert_eq(iomap_engine_destroy(s->engine), 0);
	free(s);
}

static struct iomap_writelog_info info(struct setup *s)
{
	struct iomap_writelog_info i;

	t_must(iomap_writelog_info(s->log, &i, sizeof(i)) == 0);
	return i;
}

static uint64_t now(struct setup *s)
{
	return info(s).events_nr;
}

static struct iomap_replay_info seek(struct setup *s, uint64_t at)
{
	struct iomap_replay_info i;

	if (!s->replay)
		t_must(iomap_replay_open(s->log, &s->replay) == 0);
	t_must(iomap_replay_seek(s->replay, at) == 0);
	t_must(iomap_replay_info(s->replay, &i, sizeof(i)) == 0);
	t_must(i.at == at && i.bytes == DEV_BYTES);
	return i;
}

/* How many writes are not durable now. */
static uint64_t undurable(struct setup *s)
{
	return seek(s, now(s)).writes_nr;
}

static struct iomap_cut_outcome cut(struct setup *s, struct iomap_cut c)
{
	struct iomap_cut_outcome outcome;

	c.size = sizeof(c);
	t_must(iomap_replay_image(s->replay, &c, s->image, &outcome) == 0);
	return outcome;
}

static struct iomap_cut_outcome cut_mode(struct setup *s, uint32_t mode)
{
	return cut(s, (struct iomap_cut){ .mode = mode });
}

static struct iomap_cut_outcome cut_seed(struct setup *s, uint64_t seed)
{
	return cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_RANDOM, .seed = seed });
}

static struct iomap_cut_outcome cut_subset(struct setup *s, uint64_t keep)
{
	return cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_SUBSET, .keep = &keep });
}

/* Values of a sector that random cuts here give, as bits. */
static uint64_t values(struct setup *s, uint64_t sector)
{
	uint64_t seen = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut_seed(s, seed);
		t_must(b_value(s->image, sector) >= 0 && b_value(s->image, sector) < 64);
		seen |= UINT64_C(1) << b_value(s->image, sector);
	}
	return seen;
}

#define V(n) (UINT64_C(1) << (n))

static uint32_t hold(struct setup *s, uint32_t ops)
{
	return b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .ops = ops });
}

static void let_go(struct setup *s, uint32_t rule)
{
	cr_assert_eq(iomap_faulty_remove(s->faulty, rule), 0);
	cr_assert_gt(iomap_faulty_release(s->faulty, rule, UINT64_MAX, IOMAP_RELEASE_FIFO), 0);
}

/* ---- recording ---- */

static struct iomap_writelog_event event(struct setup *s, uint64_t n)
{
	struct iomap_writelog_event e;

	t_must(iomap_writelog_event(s->log, n, &e, sizeof(e)) == 0);
	return e;
}

Test(writelog, bd05_events_are_recorded_as_they_happen)
{
	struct setup *s = set_up();
	struct iomap_writelog_event e;
	struct b_async io;
	uint32_t rule;

	cr_assert_eq(b_put(s->log, IOMAP_REQ_FUA, 2, 3, 1), 0);
	rule = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&io, s->log, IOMAP_REQ_OP_WRITE, 9, 1, 2);
	cr_assert_eq(b_get(s->log, 2), 1, "reads leave no event");
	cr_assert_eq(b_flush(s->log), 0);
	cr_assert_eq(iomap_writelog_mark(s->log, 77), 0);
	cr_assert_eq(info(s).inflight_nr, 1U);
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL });
	cr_assert_eq(b_put(s->log, 0, 5, 1, 3), -EIO);

	cr_assert_eq(now(s), 9U);
	e = event(s, 0);
	cr_assert(e.type == IOMAP_WRITELOG_SUBMIT && e.addr == 2 * SECTOR && e.len == 3 * SECTOR);
	cr_assert_eq(e.opf, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA);
	e = event(s, 1);
	cr_assert(e.type == IOMAP_WRITELOG_COMPLETE && e.submit == 0 && e.status == 0);
	cr_assert_eq(event(s, 2).addr, 9 * SECTOR);
	e = event(s, 3);
	cr_assert(e.type == IOMAP_WRITELOG_SUBMIT && e.opf == IOMAP_REQ_OP_FLUSH && e.len == 0);
	cr_assert_eq(event(s, 4).submit, 3U);
	e = event(s, 5);
	cr_assert(e.type == IOMAP_WRITELOG_MARK && e.value == 77);
	cr_assert_eq(event(s, 6).submit, 2U, "the held write completes after the flush");
	cr_assert_eq(event(s, 8).status, -EIO);
	cr_assert_eq(iomap_writelog_event(s->log, 9, &e, sizeof(e)), -ENOENT);
	cr_assert_eq(info(s).writes_nr, 3U);
	cr_assert_eq(info(s).flushes_nr, 1U);
	cr_assert_eq(info(s).marks_nr, 1U);
	cr_assert_eq(info(s).data_bytes, 5 * SECTOR);
	cr_assert_eq(info(s).inflight_nr, 0U);
	tear_down(s);
}

Test(writelog, bd05_no_power_lost_gives_the_device_as_it_is)
{
	struct setup *s = set_up();
	struct t_rand r = { t_seed() };
	unsigned char device[DEV_BYTES];

	for (int i = 0; i < 300; i++) {
		uint64_t sector = t_below(&r, DEV_BYTES / SECTOR - 8);
		static const uint32_t flags[] = { 0, 0, 0, IOMAP_REQ_FUA, IOMAP_REQ_PREFLUSH };

		if (t_below(&r, 8) == 0)
			cr_assert_eq(b_flush(s->log), 0);
		cr_assert_eq(b_put(s->log, flags[t_below(&r, 5)], sector,
				   1 + (unsigned)t_below(&r, 8), i % 251),
			     0);
	}
	cr_assert_eq(b_read(s->log, 0, device, DEV_BYTES), 0);
	undurable(s);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(memcmp(s->image, device, DEV_BYTES), 0);
	/* backward, and forward again */
	seek(s, 100);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_neq(memcmp(s->image, device, DEV_BYTES), 0);
	undurable(s);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(memcmp(s->image, device, DEV_BYTES), 0);
	cr_assert_eq(iomap_replay_seek(s->replay, now(s) + 1), -EINVAL);
	cr_assert_eq(seek(s, 0).writes_nr, 0U);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert(t_all(s->image, DEV_BYTES, 0), "as the log began");
	tear_down(s);
}

/* A cache without stable writes changes the memory of a write that is in flight. */
/* One of two that were in flight together is durable, and completed last. */
Test(writelog, bd05_no_power_lost_leaves_what_completed_last)
{
	struct setup *s = set_up();
	struct b_async fua, plain;
	uint64_t keep = 1;
	uint32_t rule;

	rule = b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY,
						       .opf = IOMAP_REQ_FUA });
	b_start(&fua, s->log, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA, 0, 1, 1);
	b_start(&plain, s->log, IOMAP_REQ_OP_WRITE, 0, 2, 2);
	cr_assert_eq(b_finish(&plain), 0);
	let_go(s, rule);
	cr_assert_eq(b_finish(&fua), 0);
	cr_assert_eq(undurable(s), 1U);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(b_value(s->image, 0), 1);
	cr_assert_eq(b_value(s->image, 1), 2);
	cut_subset(s, keep);
	cr_assert_eq(b_value(s->image, 0), 1);
	cr_assert_eq(values(s, 0), V(1) | V(2), "but a disk is free to order them so or so");
	tear_down(s);
}

Test(writelog, bd05_the_log_has_what_the_device_got)
{
	struct setup *s = set_up();
	struct b_async io;
	uint32_t rule = hold(s, IOMAP_FAULT_ON_WRITE);

	b_start(&io, s->log, IOMAP_REQ_OP_WRITE, 0, 4, 1);
	memset(io.buf, 2, 4 * SECTOR);
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	undurable(s);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(b_get(s->memory, 3), b_value(s->image, 3));
	tear_down(s);
}

/* ---- what is durable ---- */

Test(writelog, bd05_all_subsets_of_ten_unflushed_writes_appear)
{
	struct setup *s = set_up();
	bool seen[1024] = { false };

	cr_assert_eq(b_put(s->log, 0, 20, 1, 9), 0);
	cr_assert_eq(b_flush(s->log), 0);
	for (uint64_t i = 0; i < 10; i++)
		cr_assert_eq(b_put(s->log, 0, i * 2, 1 + i % 2, (int)i + 1), 0);
	cr_assert_eq(undurable(s), 10U);
	for (uint64_t keep = 0; keep < 1024; keep++) {
		struct iomap_cut_outcome outcome = cut_subset(s, keep);
		unsigned landed = 0;

		for (unsigned i = 0; i < 10; i++) {
			int value = b_value(s->image, i * 2);

			cr_assert(value == 0 || value == (int)i + 1);
			landed |= (value != 0) << i;
		}
		cr_assert_eq(landed, keep);
		cr_assert_eq(b_value(s->image, 20), 9);
		cr_assert_eq(outcome.whole_nr, (uint64_t)__builtin_popcountll(keep));
		cr_assert_eq(outcome.dropped_nr, 10 - outcome.whole_nr);
		cr_assert_not(seen[landed]);
		seen[landed] = true;
	}
	tear_down(s);
}

Test(writelog, bd05_a_flush_makes_durable_what_had_completed_before_it)
{
	struct setup *s = set_up();
	uint64_t before;

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	cr_assert_eq(undurable(s), 1U);
	cr_assert_eq(values(s, 0), V(0) | V(1));
	before = now(s);
	cr_assert_eq(b_flush(s->log), 0);
	cr_assert_eq(undurable(s), 0U);
	cr_assert_eq(values(s, 0), V(1));
	seek(s, before + 1);
	cr_assert_eq(values(s, 0), V(0) | V(1), "the flush is not over");
	tear_down(s);
}

Test(writelog, bd05_a_write_in_flight_when_the_flush_starts_is_not_covered)
{
	struct setup *s = set_up();
	struct b_async write, flush;
	uint32_t writes, flushes;

	/* the flush is over before the write */
	writes = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&write, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(b_flush(s->log), 0);
	cr_assert_eq(undurable(s), 1U);
	let_go(s, writes);
	cr_assert_eq(b_finish(&write), 0);
	cr_assert_eq(undurable(s), 1U);
	cr_assert_eq(values(s, 0), V(0) | V(1));

	/* the write completes while the flush is under way */
	writes = hold(s, IOMAP_FAULT_ON_WRITE);
	flushes = hold(s, IOMAP_FAULT_ON_FLUSH);
	b_start(&write, s->log, IOMAP_REQ_OP_WRITE, 1, 1, 2);
	b_start(&flush, s->log, IOMAP_REQ_OP_FLUSH, 0, 0, 0);
	let_go(s, writes);
	cr_assert_eq(b_finish(&write), 0);
	let_go(s, flushes);
	cr_assert_eq(b_finish(&flush), 0);
	cr_assert_eq(undurable(s), 1U, "of the two the first is covered");
	cr_assert_eq(values(s, 0), V(1));
	cr_assert_eq(values(s, 1), V(0) | V(2));

	/* and when it starts and completes within the flush */
	flushes = hold(s, IOMAP_FAULT_ON_FLUSH);
	b_start(&flush, s->log, IOMAP_REQ_OP_FLUSH, 0, 0, 0);
	cr_assert_eq(b_put(s->log, 0, 2, 1, 3), 0);
	let_go(s, flushes);
	cr_assert_eq(b_finish(&flush), 0);
	undurable(s);
	cr_assert_eq(values(s, 1), V(2));
	cr_assert_eq(values(s, 2), V(0) | V(3));
	tear_down(s);
}

Test(writelog, bd05_a_failed_flush_covers_nothing)
{
	struct setup *s = set_up();
	uint32_t rule = b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
								.ops = IOMAP_FAULT_ON_FLUSH });

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	cr_assert_eq(b_flush(s->log), -EIO);
	undurable(s);
	cr_assert_eq(values(s, 0), V(0) | V(1));
	cr_assert_eq(iomap_faulty_remove(s->faulty, rule), 0);
	b_rule(s->faulty,
	       (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .opf = IOMAP_REQ_PREFLUSH });
	cr_assert_eq(b_put(s->log, IOMAP_REQ_PREFLUSH, 1, 1, 1), -EIO);
	undurable(s);
	cr_assert_eq(values(s, 0), V(0) | V(1));
	tear_down(s);
}

Test(writelog, bd05_fua_is_durable_without_a_flush)
{
	struct setup *s = set_up();
	uint64_t before;

	cr_assert_eq(b_put(s->log, 0, 0, 2, 1), 0);
	before = now(s);
	cr_assert_eq(b_put(s->log, IOMAP_REQ_FUA, 0, 1, 2), 0);
	cr_assert_eq(undurable(s), 1U, "the older write can still land in its other sector");
	cr_assert_eq(values(s, 0), V(2), "but not come back here");
	cr_assert_eq(values(s, 1), V(0) | V(1));
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(b_value(s->image, 0), 2);
	cr_assert_eq(b_value(s->image, 1), 1);
	seek(s, before + 1);
	cr_assert_eq(values(s, 0), V(0) | V(1) | V(2), "in flight it promises nothing");
	cr_assert_eq(b_put(s->log, IOMAP_REQ_FUA, 0, 2, 3), 0);
	cr_assert_eq(undurable(s), 0U);
	tear_down(s);
}

Test(writelog, bd05_preflush_covers_what_came_before_and_not_itself)
{
	struct setup *s = set_up();

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	cr_assert_eq(b_put(s->log, IOMAP_REQ_PREFLUSH, 1, 1, 2), 0);
	cr_assert_eq(undurable(s), 1U);
	cr_assert_eq(values(s, 0), V(1));
	cr_assert_eq(values(s, 1), V(0) | V(2));
	cr_assert_eq(b_put(s->log, IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 2, 1, 3), 0);
	cr_assert_eq(undurable(s), 0U);
	tear_down(s);
}

/* The super block that names a tree must not be there without the tree. */
Test(writelog, bd05_nothing_of_a_preflush_write_lands_before_its_flush)
{
	struct setup *s = set_up();
	unsigned with = 0, without = 0;
	uint32_t rule;
	struct b_async io;

	cr_assert_eq(b_put(s->log, 0, 0, 4, 1), 0);
	rule = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&io, s->log, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 8, 2, 2);
	cr_assert_eq(undurable(s), 2U);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut_seed(s, seed);
		if (b_value(s->image, 8) || b_value(s->image, 9)) {
			cr_assert_eq(b_value(s->image, 0), 1);
			cr_assert_eq(b_value(s->image, 3), 1);
			with++;
		} else {
			without += b_value(s->image, 0) != 1;
		}
	}
	cr_assert(with && without);
	cut_subset(s, 2);
	cr_assert_eq(b_value(s->image, 0), 1, "chosen alone it brings the other along");
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	tear_down(s);
}

/* A flush that a write in flight brings along does not make a failed write a good one. */
Test(writelog, bd05_a_failed_write_is_no_better_for_a_flush)
{
	struct setup *s = set_up();
	unsigned with = 0, without = 0;
	struct b_async io;
	uint32_t rule;

	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .nth = 1 });
	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), -EIO);
	rule = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&io, s->log, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 8, 1, 2);
	undurable(s);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut_seed(s, seed);
		if (b_value(s->image, 8) != 2)
			continue;
		with += b_value(s->image, 0) == 1;
		without += b_value(s->image, 0) == 0;
	}
	cr_assert(with && without);
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	tear_down(s);
}

/* What had been in flight with it may be covered by that flush, and yet be under it. */
Test(writelog, bd05_a_failed_write_may_be_over_what_the_flush_of_a_later_one_covers)
{
	struct setup *s = set_up();
	struct b_async good, bad, last;
	uint64_t order = 0;
	uint32_t first, rule;

	first = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&good, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(iomap_faulty_remove(s->faulty, first), 0);
	rule = b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .nth = 1 });
	b_start(&bad, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 2);
	cr_assert_eq(b_finish(&bad), -EIO);
	cr_assert_eq(iomap_faulty_remove(s->faulty, rule), 0);
	cr_assert_eq(iomap_faulty_release(s->faulty, 0, 1, IOMAP_RELEASE_FIFO), 1);
	cr_assert_eq(b_finish(&good), 0);
	rule = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&last, s->log, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 1, 1, 3);
	undurable(s);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut_seed(s, seed);
		if (b_value(s->image, 1) == 3)
			order |= V(b_value(s->image, 0));
	}
	cr_assert_eq(order, V(1) | V(2));
	let_go(s, rule);
	cr_assert_eq(b_finish(&last), 0);
	tear_down(s);
}

Test(writelog, bd05_a_failed_write_may_or_may_not_be_there_for_ever)
{
	struct setup *s = set_up();

	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .nth = 1 });
	cr_assert_eq(b_put(s->log, IOMAP_REQ_FUA, 0, 2, 1), -EIO);
	cr_assert_eq(b_flush(s->log), 0);
	cr_assert_eq(undurable(s), 1U);
	cr_assert_eq(values(s, 1), V(0) | V(1));
	cr_assert_eq(b_put(s->log, 0, 0, 2, 2), 0);
	cr_assert_eq(undurable(s), 2U);
	cr_assert_eq(values(s, 1), V(0) | V(1) | V(2));
	cr_assert_eq(b_flush(s->log), 0);
	cr_assert_eq(undurable(s), 0U, "until it is overwritten");
	cr_assert_eq(values(s, 1), V(2));
	tear_down(s);
}

/* ---- order and tearing ---- */

Test(writelog, bd05_a_later_write_can_be_there_without_an_earlier_one)
{
	struct setup *s = set_up();
	unsigned b_alone = 0, a_alone = 0;

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	cr_assert_eq(b_put(s->log, 0, 8, 1, 2), 0);
	undurable(s);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct iomap_cut_outcome outcome = cut_seed(s, seed);
		bool a = b_value(s->image, 0), b = b_value(s->image, 8);

		a_alone += a && !b;
		b_alone += b && !a;
		cr_assert_eq(outcome.overtaken_nr, (uint64_t)(b && !a));
	}
	cr_assert(a_alone && b_alone);
	tear_down(s);
}

Test(writelog, bd05_of_two_unflushed_writes_to_a_sector_either_may_be_there)
{
	struct setup *s = set_up();
	struct b_async one, two;
	uint32_t rule;

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	cr_assert_eq(b_put(s->log, 0, 0, 1, 2), 0);
	undurable(s);
	cr_assert_eq(values(s, 0), V(0) | V(1) | V(2));
	cr_assert_eq(b_flush(s->log), 0);
	undurable(s);
	cr_assert_eq(values(s, 0), V(2));

	/* in flight together; the one that completes first is made durable */
	rule = hold(s, IOMAP_FAULT_ON_WRITE);
	b_start(&one, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 3);
	b_start(&two, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 4);
	undurable(s);
	cr_assert_eq(values(s, 0), V(2) | V(3) | V(4));
	cr_assert_eq(iomap_faulty_release(s->faulty, rule, 1, IOMAP_RELEASE_LIFO), 1);
	cr_assert_eq(b_finish(&two), 0);
	cr_assert_eq(b_flush(s->log), 0);
	undurable(s);
	cr_assert_eq(values(s, 0), V(3) | V(4), "the other may have come before it or after it");
	let_go(s, rule);
	cr_assert_eq(b_finish(&one), 0);
	cr_assert_eq(b_flush(s->log), 0);
	undurable(s);
	cr_assert_eq(values(s, 0), V(3), "it completed last");
	tear_down(s);
}

Test(writelog, bd05_what_is_in_flight_comes_behind_what_has_completed)
{
	struct setup *s = set_up();
	struct iomap_writelog_event e;
	struct b_async io;
	uint32_t rule =
		b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .nth = 1 });

	b_start(&io, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(b_put(s->log, 0, 0, 1, 2), 0);
	cr_assert_eq(undurable(s), 2U);
	cr_assert_eq(iomap_replay_write(s->replay, 0, &e, sizeof(e)), 0);
	cr_assert(e.type == IOMAP_WRITELOG_COMPLETE && e.submit == 1);
	cr_assert_eq(iomap_replay_write(s->replay, 1, &e, sizeof(e)), 0);
	cr_assert(e.type == IOMAP_WRITELOG_SUBMIT && e.submit == 0);
	cut_mode(s, IOMAP_CUT_ALL);
	cr_assert_eq(b_value(s->image, 0), 1);
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	tear_down(s);
}

/* Writes that cannot tear: an early one over a later one takes another order. */
Test(writelog, bd05_writes_land_in_any_order)
{
	struct setup *s = set_up();
	unsigned in_order = 0, reordered = 0;

	cr_assert_eq(b_put(s->log, 0, 0, 2, 1), 0);
	cr_assert_eq(b_put(s->log, 0, 1, 2, 2), 0);
	undurable(s);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut(s, (struct iomap_cut){
			       .mode = IOMAP_CUT_RANDOM, .seed = seed, .sector_bytes = DEV_BYTES });
		if (b_value(s->image, 0) != 1 || b_value(s->image, 2) != 2)
			continue;
		in_order += b_value(s->image, 1) == 2;
		reordered += b_value(s->image, 1) == 1;
	}
	cr_assert(in_order && reordered);
	tear_down(s);
}

Test(writelog, bd05_writes_tear_between_sectors_and_nowhere_else)
{
	struct setup *s = set_up();
	unsigned mixed = 0, torn = 0;

	cr_assert_eq(b_put(s->log, IOMAP_REQ_FUA, 0, 32, 1), 0);
	cr_assert_eq(b_put(s->log, 0, 4, 24, 2), 0);
	undurable(s);
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct iomap_cut_outcome outcome = cut_seed(s, seed);
		unsigned landed = 0;

		for (unsigned i = 0; i < 32; i++) {
			int value = b_value(s->image, i);

			cr_assert(value == 1 || (value == 2 && i >= 4 && i < 28));
			landed += value == 2;
		}
		cr_assert_eq(outcome.torn_nr, (uint64_t)(landed > 0 && landed < 24));
		torn += outcome.torn_nr != 0;
	}
	cr_assert_gt(torn, SEEDS / 8);
	/* a unit of 4096 keeps together, aligned on the device */
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		cut(s, (struct iomap_cut){
			       .mode = IOMAP_CUT_RANDOM, .seed = seed, .sector_bytes = PAGE });
		for (unsigned i = 4; i < 28; i++)
			cr_assert_eq(b_value(s->image, i),
				     b_value(s->image, i < 8 ? 4 : i / 8 * 8));
		mixed += b_value(s->image, 8) != b_value(s->image, 16);
	}
	cr_assert_gt(mixed, 0U);
	tear_down(s);
}

/* What can tear takes every shape. */
Test(writelog, bd05_each_set_of_sectors_of_a_torn_write_appears)
{
	struct setup *s = set_up();
	bool seen[16] = { false };
	unsigned nr = 0;

	cr_assert_eq(b_put(s->log, 0, 0, 4, 1), 0);
	undurable(s);
	for (uint64_t seed = 1; seed <= 4000; seed++) {
		unsigned landed = 0;

		cut_seed(s, seed);
		for (unsigned i = 0; i < 4; i++)
			landed |= (unsigned)b_value(s->image, i) << i;
		nr += !seen[landed];
		seen[landed] = true;
	}
	cr_assert_eq(nr, 16U);
	tear_down(s);
}

Test(writelog, bd05_the_same_seed_gives_the_same_image)
{
	struct setup *s = set_up();
	unsigned char one[DEV_BYTES];
	unsigned different = 0;

	for (int i = 0; i < 20; i++)
		cr_assert_eq(b_put(s->log, 0, (uint64_t)i * 3, 5, i + 1), 0);
	undurable(s);
	for (uint64_t seed = 1; seed <= 50; seed++) {
		cut_seed(s, seed);
		memcpy(one, s->image, DEV_BYTES);
		cut_seed(s, seed + 1);
		different += memcmp(one, s->image, DEV_BYTES) != 0;
		seek(s, 3);
		undurable(s);
		cut_seed(s, seed);
		cr_assert_eq(memcmp(one, s->image, DEV_BYTES), 0);
	}
	cr_assert_gt(different, 45U);
	tear_down(s);
}

/* ---- choices of the caller ---- */

Test(writelog, bd05_pieces_land_as_the_caller_says)
{
	struct setup *s = set_up();
	struct iomap_cut_piece pieces[] = {
		{ .write = 1, .off = SECTOR, .len = 2 * SECTOR },
		{ .write = 0, .off = 2 * SECTOR, .len = SECTOR },
		{ .write = 0, .off = 0, .len = SECTOR },
	};
	struct iomap_cut c = {
		.size = sizeof(c), .mode = IOMAP_CUT_PIECES, .pieces = pieces, .pieces_nr = 3
	};
	struct iomap_cut_outcome outcome;
	static const int expected[] = { 1, 2, 1, 0 };

	cr_assert_eq(b_put(s->log, 0, 0, 4, 1), 0);
	cr_assert_eq(b_put(s->log, 0, 0, 4, 2), 0);
	undurable(s);
	outcome = cut(s, c);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(b_value(s->image, i), expected[i], "%u", i);
	cr_assert_eq(outcome.torn_nr, 2U);
	/* a sector that lands twice is no other sector */
	pieces[1] = (struct iomap_cut_piece){ .write = 1, .off = 0, .len = 2 * SECTOR };
	pieces[2] = pieces[1];
	outcome = cut(s, c);
	cr_assert_eq(outcome.whole_nr, 0U);
	cr_assert_eq(outcome.torn_nr, 1U);
	pieces[2] = (struct iomap_cut_piece){ .write = 1, .off = 2 * SECTOR, .len = 2 * SECTOR };
	outcome = cut(s, c);
	cr_assert_eq(outcome.whole_nr, 1U);
	cr_assert_eq(outcome.dropped_nr, 1U);
	c.pieces_nr = 0;
	cut(s, c);
	cr_assert_eq(b_value(s->image, 0), 0);
	c.pieces_nr = 1;
	pieces[0].len = 4 * SECTOR;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL, "too long");
	pieces[0] = (struct iomap_cut_piece){ .write = 2, .len = SECTOR };
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL, "no such write");
	pieces[0] = (struct iomap_cut_piece){ .write = 0, .len = 100 };
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL, "half a sector");
	tear_down(s);
}

Test(writelog, bd05_calls_that_make_no_sense_are_refused)
{
	struct setup *s = set_up();
	struct iomap_cut c = { .size = sizeof(c) };
	struct iomap_writelog_event e;
	struct iomap_replay *replay;
	struct iomap_bdev *bdev;

	cr_assert_eq(b_put(s->log, 0, 0, 1, 1), 0);
	undurable(s);
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL, "no mode");
	c.mode = IOMAP_CUT_SUBSET;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL, "no subset");
	c.mode = IOMAP_CUT_RANDOM;
	c.sector_bytes = 1000;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL);
	c.sector_bytes = 256;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL);
	c.sector_bytes = 0;
	c.reserved[0] = 1;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL);
	c.reserved[0] = 0;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), 0);
	c.size = 3;
	cr_assert_eq(iomap_replay_image(s->replay, &c, s->image, NULL), -EINVAL);
	cr_assert_eq(iomap_replay_write(s->replay, 1, &e, sizeof(e)), -ENOENT);
	cr_assert_eq(iomap_replay_write(s->replay, 0, &e, sizeof(e)), 0);
	cr_assert_eq(e.type, (uint32_t)IOMAP_WRITELOG_COMPLETE);
	cr_assert_eq(iomap_writelog_mark(s->memory, 1), -EINVAL, "not a writelog");
	cr_assert_eq(iomap_replay_open(s->memory, &replay), -EINVAL);
	cr_assert_eq(iomap_writelog_create(NULL, NULL, &bdev), -EINVAL);
	cr_assert_eq(iomap_writelog_open_memory(s->engine, 100, NULL, NULL, &bdev), -EINVAL);
	cr_assert_eq(iomap_bdev_close(s->log), -EBUSY, "the replay keeps it open");
	cr_assert_eq(iomap_bdev_close(s->faulty), -EBUSY, "the log keeps it open");
	tear_down(s);
}

Test(writelog, bd05_an_image_can_go_to_a_file)
{
	char *path = t_temp(DEV_BYTES);
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_BUFFERED };
	struct iomap_cut c = { .size = sizeof(c), .mode = IOMAP_CUT_RANDOM };
	struct setup *s = set_up();
	unsigned char *file = aligned_alloc(PAGE, DEV_BYTES);
	struct iomap_bdev *target, *small = b_memory(s->engine, DEV_BYTES / 2);

	t_must(file);
	cr_assert_eq(iomap_bdev_open(s->engine, path, &opts, &target), 0);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(b_put(s->log, 0, (uint64_t)i * 3, 5, i + 1), 0);
	undurable(s);
	for (c.seed = 0; c.seed < 5; c.seed++) {
		cut_seed(s, c.seed);
		cr_assert_eq(iomap_replay_store(s->replay, &c, target, NULL), 0);
		cr_assert_eq(b_read(target, 0, file, DEV_BYTES), 0);
		cr_assert_eq(memcmp(file, s->image, DEV_BYTES), 0);
	}
	cr_assert_eq(b_stats(target).flushes_nr, 5U);
	cr_assert_eq(iomap_replay_store(s->replay, &c, small, NULL), -EINVAL);
	b_close(small);
	b_close(target);
	free(file);
	tear_down(s);
	t_temp_free(path);
}

/* ---- the log's own life ---- */

Test(writelog, bd05_a_log_in_memory_starts_with_an_image)
{
	struct iomap_engine *engine = b_engine();
	unsigned char image[8 * SECTOR], out[8 * SECTOR];
	struct iomap_cut c = { .size = sizeof(c), .mode = IOMAP_CUT_NONE };
	struct iomap_replay *replay;
	struct iomap_bdev *log;

	memset(image, 0xa5, sizeof(image));
	cr_assert_eq(iomap_writelog_open_memory(engine, sizeof(image), image, NULL, &log), 0);
	cr_assert_eq(b_get(log, 7), 0xa5);
	cr_assert_eq(b_put(log, 0, 0, 1, 1), 0);
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	cr_assert_eq(iomap_replay_seek(replay, 2), 0);
	cr_assert_eq(iomap_replay_image(replay, &c, out, NULL), 0);
	cr_assert_eq(memcmp(out, image, sizeof(image)), 0);
	iomap_replay_close(replay);
	b_close(log);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(writelog, bd05_a_log_ends_at_its_bound)
{
	struct iomap_writelog_opts opts = { .size = sizeof(opts), .max_bytes = 20000 };
	struct setup *s = set_up();
	uint64_t events, marked = 0, reads;
	struct b_async io;
	int error = 0, i;
	uint32_t rule;

	b_close(s->log);
	cr_assert_eq(iomap_writelog_create(s->faulty, &opts, &s->log), 0);
	rule = b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .nth = 1 });
	b_start(&io, s->log, IOMAP_REQ_OP_WRITE, 9, 1, 9);
	for (i = 1; !error && i < 100; i++) {
		cr_assert_eq(b_put(s->log, 0, 0, 2, i), 0);
		cr_assert_eq(b_flush(s->log), 0);
		error = iomap_writelog_mark(s->log, (uint64_t)i);
		if (!error)
			marked = (uint64_t)i;
	}
	cr_assert_eq(error, -ENOSPC);
	cr_assert_gt(marked, 5U);
	cr_assert_eq(info(s).ended, 1U);
	cr_assert_leq(info(s).log_bytes, 20000U);
	events = now(s);
	cr_assert_eq(b_put(s->log, 0, 0, 2, 99), 0);
	cr_assert_eq(b_get(s->log, 0), 99, "I/O goes on");
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	cr_assert_eq(b_get(s->log, 9), 9);
	cr_assert_eq(now(s), events);
	cr_assert_eq(iomap_writelog_mark(s->log, 1), -ENOSPC);
	cr_assert_eq(seek(s, events).mark, marked);
	cut_mode(s, IOMAP_CUT_NONE);
	cr_assert_geq(b_value(s->image, 0), (int)marked, "what was marked is there");

	reads = b_stats(s->memory).reads_nr;
	cr_assert_eq(iomap_writelog_restart(s->log), -EBUSY, "a replay is open");
	cr_assert_eq(b_stats(s->memory).reads_nr, reads, "so the device is not even read");
	iomap_replay_close(s->replay);
	s->replay = NULL;
	cr_assert_eq(iomap_writelog_restart(s->log), 0);
	cr_assert_eq(info(s).ended, 0U);
	cr_assert_eq(undurable(s), 0U);
	cut_mode(s, IOMAP_CUT_NONE);
	cr_assert_eq(b_value(s->image, 0), 99, "and what was not recorded is the new beginning");
	cr_assert_eq(b_put(s->log, 0, 0, 2, 5), 0);
	cr_assert_eq(now(s), 2U);
	tear_down(s);
}

Test(writelog, bd05_a_log_does_not_restart_under_io)
{
	struct setup *s = set_up();
	struct b_async io;
	uint32_t rule = hold(s, IOMAP_FAULT_ON_WRITE);

	b_start(&io, s->log, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(iomap_writelog_restart(s->log), -EBUSY);
	cr_assert_eq(now(s), 1U);
	let_go(s, rule);
	cr_assert_eq(b_finish(&io), 0);
	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .nth = 1 });
	cr_assert_eq(iomap_writelog_restart(s->log), -EIO, "it cannot read the device");
	cr_assert_eq(now(s), 2U);
	cr_assert_eq(iomap_writelog_restart(s->log), 0);
	cr_assert_eq(now(s), 0U);
	tear_down(s);
}

Test(writelog, bd05_without_memory_calls_fail_and_nothing_is_half_recorded)
{
	struct b_memory_limit limit = { .left = UINT64_MAX };
	struct iomap_engine *engine = b_limited_engine(&limit);
	struct iomap_bdev *lower = b_memory(engine, DEV_BYTES), *log;
	struct iomap_writelog_info before, after;
	struct iomap_replay_info at;
	struct iomap_replay *replay;
	int error = -ENOMEM;
	uint64_t n;

	cr_assert_eq(b_put(lower, 0, 0, 1, 1), 0, "pools are filled");
	for (n = 0; error == -ENOMEM; n++) {
		limit.left = n;
		error = iomap_writelog_create(lower, NULL, &log);
	}
	cr_assert_eq(error, 0);
	cr_assert_gt(n, 3U);
	limit.left = UINT64_MAX;
	cr_assert_eq(b_put(log, 0, 0, 1, 2), 0);
	cr_assert_eq(iomap_writelog_info(log, &before, sizeof(before)), 0);
	error = -ENOMEM;
	for (n = 0; error == -ENOMEM; n++) {
		cr_assert_eq(iomap_writelog_info(log, &after, sizeof(after)), 0);
		cr_assert_eq(memcmp(&before, &after, sizeof(before)), 0);
		cr_assert_eq(b_get(lower, 0), 2);
		limit.left = n;
		error = b_put(log, 0, 0, 1, 3);
	}
	cr_assert_eq(error, 0);
	cr_assert_eq(b_get(lower, 0), 3);
	error = -ENOMEM;
	for (n = 0; error == -ENOMEM; n++) {
		limit.left = n;
		error = iomap_replay_open(log, &replay);
	}
	cr_assert_eq(error, 0);
	limit.left = 0;
	cr_assert_eq(iomap_replay_seek(replay, 4), -ENOMEM);
	cr_assert_eq(iomap_replay_info(replay, &at, sizeof(at)), 0);
	cr_assert_eq(at.at, 0U);
	limit.left = UINT64_MAX;
	cr_assert_eq(iomap_replay_seek(replay, 4), 0);
	iomap_replay_close(replay);
	b_close(log);
	b_close(lower);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

/* ---- against the definition ---- */

#define MODEL_SECTORS 6
#define MODEL_WRITES 12

/* What the header promises, computed from the events alone, the slow way. */
struct model_write {
	uint64_t start, end; /* end: UINT64_MAX in flight at the cut */
	uint64_t first, nr;
	bool ok, durable, failed;
	int value;
};

static bool model_flush_after(struct setup *s, uint64_t end, uint64_t at)
{
	for (uint64_t n = 0; n < at; n++) {
		struct iomap_writelog_event e = event(s, n);
		bool flush = (e.opf & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_FLUSH ||
			     e.opf & IOMAP_REQ_PREFLUSH;

		if (e.type == IOMAP_WRITELOG_COMPLETE && flush && !e.status && e.submit > end)
			return true;
	}
	return false;
}

static unsigned model_writes(struct setup *s, uint64_t at, const int *value_at_event,
			     struct model_write *w)
{
	unsigned nr = 0;

	for (uint64_t n = 0; n < at; n++) {
		struct iomap_writelog_event e = event(s, n);

		if (e.type == IOMAP_WRITELOG_SUBMIT && e.len)
			w[nr++] = (struct model_write){ .start = n,
							.end = UINT64_MAX,
							.first = e.addr / SECTOR,
							.nr = e.len / SECTOR,
							.value = value_at_event[n] };
		if (e.type != IOMAP_WRITELOG_COMPLETE || !e.len)
			continue;
		for (unsigned i = 0; i < nr; i++) {
			if (w[i].start != e.submit)
				continue;
			w[i].end = n;
			w[i].ok = !e.status;
			w[i].durable = !e.status &&
				       (e.opf & IOMAP_REQ_FUA || model_flush_after(s, n, at));
		}
	}
	return nr;
}

/* Legal values of @sector at the cut, as bits. */
static uint64_t model_legal(const struct model_write *w, unsigned nr, uint64_t sector)
{
	uint64_t legal = 1, last_end = 0;
	int last = 0;

	for (unsigned i = 0; i < nr; i++) {
		bool overwritten = false;

		if (sector < w[i].first || sector >= w[i].first + w[i].nr)
			continue;
		if (w[i].durable) {
			legal &= ~UINT64_C(1);
			if (w[i].end > last_end) {
				last_end = w[i].end;
				last = w[i].value;
			}
			continue;
		}
		for (unsigned j = 0; j < nr; j++)
			overwritten |= w[j].durable && sector >= w[j].first &&
				       sector < w[j].first + w[j].nr && w[j].start > w[i].end;
		if (!overwritten)
			legal |= V(w[i].value);
	}
	return last ? legal | V(last) : legal;
}

/* Random writes and flushes, in flight together, some of which fail. */
static void model_program(struct setup *s, struct t_rand *r, int *value_at_event)
{
	struct b_async io[MODEL_WRITES];
	unsigned nr = 0, steps = 0;
	uint32_t rule;

	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
						.ops = IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH,
						.per_million = 100000 });
	rule = hold(s, IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH);
	while (nr < MODEL_WRITES && steps++ < 100) {
		static const uint32_t flags[] = { 0, 0, 0, IOMAP_REQ_FUA, IOMAP_REQ_PREFLUSH };
		uint64_t sector = t_below(r, MODEL_SECTORS);
		unsigned len = 1 + (unsigned)t_below(r, MODEL_SECTORS - sector);

		switch (t_below(r, 4)) {
		case 0:
			b_start(&io[nr], s->log, IOMAP_REQ_OP_FLUSH, 0, 0, 0);
			nr++;
			break;
		case 1:
			value_at_event[now(s)] = (int)nr + 1;
			b_start(&io[nr], s->log, IOMAP_REQ_OP_WRITE | flags[t_below(r, 5)], sector,
				len, (int)nr + 1);
			nr++;
			break;
		default:
			iomap_faulty_release(s->faulty, rule, 1, IOMAP_RELEASE_RANDOM);
			break;
		}
	}
	iomap_faulty_release(s->faulty, rule, UINT64_MAX, IOMAP_RELEASE_RANDOM);
	for (unsigned i = 0; i < nr; i++)
		b_finish(&io[i]);
}

Test(writelog, bd05_each_state_is_legal_and_each_legal_value_appears)
{
	struct t_rand r = { t_seed() };

	for (unsigned round = 0; round < (T_SANITIZED ? 10U : 40U); round++) {
		struct model_write w[MODEL_WRITES];
		int value_at_event[4 * MODEL_WRITES] = { 0 };
		struct setup *s = set_up();
		uint64_t events;

		model_program(s, &r, value_at_event);
		events = now(s);
		for (uint64_t at = 0; at <= events; at++) {
			unsigned nr = model_writes(s, at, value_at_event, w);
			uint64_t seen[MODEL_SECTORS] = { 0 };

			seek(s, at);
			for (uint64_t seed = 1; seed <= SEEDS; seed++) {
				cut_seed(s, seed);
				for (unsigned i = 0; i < MODEL_SECTORS; i++)
					seen[i] |= V(b_value(s->image, i));
			}
			for (unsigned i = 0; i < MODEL_SECTORS; i++)
				cr_assert_eq(seen[i], model_legal(w, nr, i),
					     "round %u, cut %u, sector %u: %#llx, legal %#llx",
					     round, (unsigned)at, i, (unsigned long long)seen[i],
					     (unsigned long long)model_legal(w, nr, i));
		}
		tear_down(s);
	}
}
