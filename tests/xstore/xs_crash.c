/* SPDX-License-Identifier: MIT */
/*
 * xs_crash.c - a little of the crash campaign, in every run of the tests: a few scripts, and
 * all states of theirs.  What they are is in crash.h; xs_campaign.c does many.
 *
 * Scripts whose seed is a multiple of three have I/O that fails; the others have none.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

#define SLOTS_NR (1U << 14)

/* Return: how many distinct images. */
static uint64_t try_seed(uint64_t seed)
{
	struct crash_plan plan = { .cuts = CRASH_ALL,
				   .seeds = 8,
				   .slots = crash_alloc(SLOTS_NR * sizeof(uint64_t)),
				   .slots_nr = SLOTS_NR,
				   .distinct_max = SLOTS_NR / 2 };

	crash_try_seed(seed, &plan);
	free(plan.slots);
	printf("seed %llu: %llu distinct images, %llu with writes dropped or torn\n",
	       (unsigned long long)seed, (unsigned long long)plan.distinct,
	       (unsigned long long)plan.incomplete);
	cr_assert_gt(plan.incomplete * 2, plan.distinct);
	return plan.distinct;
}

Test(xs_crash, ie06_every_power_cut_leaves_what_was_acknowledged_and_no_stale_bytes)
{
	cr_assert_gt(try_seed(1), 200U);
	cr_assert_gt(try_seed(2), 200U);
}

Test(xs_crash, ie06_every_power_cut_of_other_scripts)
{
	cr_assert_gt(try_seed(20260), 200U);
	cr_assert_gt(try_seed(20261), 200U);
}

Test(xs_crash, ie06_what_was_acknowledged_survives_errors_and_then_a_power_cut)
{
	cr_assert_gt(try_seed(3) + try_seed(6), 400U);
}

/* What is held and what fails is really met. */
Test(xs_crash, scripts_hold_writes_and_make_them_fail)
{
	struct crash_script *script = crash_alloc(sizeof(*script));
	uint64_t held_nr = 0, faults_nr = 0;

	for (uint64_t seed = 1; seed <= 12; seed++) {
		crash_script_run(script, seed);
		held_nr += script->held_nr;
		faults_nr += script->faults_nr;
		cr_assert(crash_seed_has_faults(seed) || !script->faults_nr);
		crash_script_end(script);
	}
	cr_assert_gt(held_nr, 50U);
	cr_assert_gt(faults_nr, 10U);
	free(script);
}

static struct iomap_writelog_event *events_of(uint64_t seed, uint64_t *nr)
{
	struct crash_script *script = crash_alloc(sizeof(*script));
	struct iomap_writelog_event *events;
	struct iomap_writelog_info info;

	crash_script_run(script, seed);
	CRASH_OK(iomap_writelog_info(script->log, &info, sizeof(info)));
	*nr = info.events_nr;
	events = crash_alloc(*nr * sizeof(*events));
	for (uint64_t n = 0; n < *nr; n++)
		CRASH_OK(iomap_writelog_event(script->log, n, &events[n], sizeof(*events)));
	crash_script_end(script);
	free(script);
	return events;
}

/* Else a state that is wrong could not be had again. */
Test(xs_crash, a_seed_gives_the_same_log_each_time)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		uint64_t nr[2];
		struct iomap_writelog_event *a = events_of(seed, &nr[0]);
		struct iomap_writelog_event *b = events_of(seed, &nr[1]);

		cr_assert_eq(nr[0], nr[1]);
		for (uint64_t n = 0; n < nr[0]; n++) {
			cr_assert_eq(a[n].type, b[n].type);
			cr_assert_eq(a[n].opf, b[n].opf);
			cr_assert_eq(a[n].status, b[n].status);
			cr_assert_eq(a[n].addr, b[n].addr);
			cr_assert_eq(a[n].len, b[n].len);
			cr_assert_eq(a[n].submit, b[n].submit);
			cr_assert_eq(a[n].value, b[n].value);
		}
		free(a);
		free(b);
	}
}

/* No change of metadata, so there is no super block to write; the flush is owed all the same. */
Test(xs_crash, a_commit_without_changes_makes_what_was_written_durable)
{
	struct iomap_engine *engine = crash_engine(1 << 20);
	struct xs_why why = { .text = "" };
	struct iomap_replay_info cut;
	struct iomap_writelog_info info;
	struct iomap_replay *replay;
	struct xs_object *object;
	struct iomap_file *file;
	struct iomap_bdev *log;
	struct xs_store *store;

	CRASH_OK(iomap_writelog_open_memory(engine, CRASH_DEV_BYTES, NULL, NULL, &log));
	CRASH_OK(xs_mkfs(log, 0, CRASH_STORE_ID));
	CRASH_OK(xs_open(engine, log, false, &store, &why));
	CRASH_OK(xs_create(store, &object));
	CRASH_OK(xs_link(object, "one"));
	CRASH_OK(iomap_file_open(&object->inode, 0, &file));
	cr_assert_eq(iomap_write(file, "before", 6, 0), 6);
	CRASH_OK(iomap_file_fsync(file, 0));

	cr_assert_eq(iomap_write(file, "behind", 6, 0), 6);
	CRASH_OK(iomap_sync_range(file, 0, INT64_MAX, IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER));
	CRASH_OK(xs_commit(store));
	CRASH_OK(iomap_writelog_info(log, &info, sizeof(info)));
	CRASH_OK(iomap_replay_open(log, &replay));
	CRASH_OK(iomap_replay_seek(replay, info.events_nr));
	CRASH_OK(iomap_replay_info(replay, &cut, sizeof(cut)));
	cr_assert_eq(cut.writes_nr, 0U);

	iomap_replay_close(replay);
	iomap_file_close(file);
	CRASH_OK(xs_put(object));
	CRASH_OK(xs_close(store));
	CRASH_OK(iomap_bdev_close(log));
	CRASH_OK(iomap_engine_destroy(engine));
}
