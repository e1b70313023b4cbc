/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * witness.c - the lock-order checker: what it lets pass, what it aborts on, what it says.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/base.h"
#include "testutil.h"

#if IOMAP_DEBUG

static char err[8192];

#define DIES(fn, text)                                                                            \
	do {                                                                                      \
		cr_assert_eq(t_death(fn, NULL, err, sizeof(err)), SIGABRT, "%s", err);            \
		cr_assert(strstr(err, text), "no \"%s\" in:\n%s", text, err);                     \
	} while (0)

static void inverted(void *arg)
{
	struct iomap__mutex pool, bdev;

	(void)arg;
	iomap__mutex_init(&pool, IOMAP__RANK_POOL);
	iomap__mutex_init(&bdev, IOMAP__RANK_BDEV);
	/* the right way round, once */
	iomap__mutex_lock(&bdev);
	iomap__mutex_lock(&pool);
	iomap__mutex_unlock(&pool);
	iomap__mutex_unlock(&bdev);
	/* and the other */
	iomap__mutex_lock(&pool);
	iomap__mutex_lock(&bdev);
}

Test(witness, an_inversion_aborts_with_both_chains)
{
	DIES(inverted, "lock order violation");
	cr_assert(strstr(err, "chain held now:\n    pool lock"), "%s", err);
	cr_assert(strstr(err, "taken in the right order before:\n    bdev -> pool"), "%s", err);
}

static void inverted_unseen(void *arg)
{
	struct iomap_rwsem rwsem, invalidate;

	(void)arg;
	iomap__rwsem_init(&rwsem, IOMAP__RANK_INODE, 0);
	iomap__rwsem_init(&invalidate, IOMAP__RANK_INVALIDATE, 0);
	iomap_down_read(&invalidate);
	iomap_down_read(&rwsem);
}

Test(witness, an_inversion_never_seen_the_right_way_aborts_too)
{
	DIES(inverted_unseen, "have not been taken in the right order yet");
	cr_assert(strstr(err, "i_rwsem(class 0)"), "%s", err);
}

static void two_inodes(void *arg)
{
	struct iomap_rwsem a, b;

	(void)arg;
	iomap__rwsem_init(&a, IOMAP__RANK_INODE, 2);
	iomap__rwsem_init(&b, IOMAP__RANK_INODE, 2);
	iomap_down_read(&a);
	iomap_down_read(&b);
}

Test(witness, two_inodes_of_a_class_are_not_locked_together)
{
	DIES(two_inodes, "lock order violation");
}

static void lower_class(void *arg)
{
	struct iomap_rwsem data;
	static int folio, host;

	(void)arg;
	iomap__rwsem_init(&data, IOMAP__RANK_INODE, 0);
	iomap__witness_acquire(&folio, IOMAP__RANK_FOLIO, 1, false, &host, 5);
	iomap_down_read(&data);
}

Test(witness, all_locks_of_a_class_come_before_those_of_the_next)
{
	struct iomap_rwsem data, meta;
	static int data_folio, meta_folio, data_host, meta_host;

	iomap__rwsem_init(&data, IOMAP__RANK_INODE, 0);
	iomap__rwsem_init(&meta, IOMAP__RANK_INODE, 1);
	iomap_down_write(&data);
	iomap__witness_acquire(&data_folio, IOMAP__RANK_FOLIO, 0, false, &data_host, 5);
	iomap_down_write(&meta);
	iomap__witness_acquire(&meta_folio, IOMAP__RANK_FOLIO, 1, false, &meta_host, 5);
	cr_assert(iomap__witness_holds(&meta_folio));
	iomap__witness_release(&meta_folio);
	iomap_up_write(&meta);
	iomap__witness_release(&data_folio);
	iomap_up_write(&data);
	cr_assert(!iomap__witness_holds(&meta_folio));
	DIES(lower_class, "folio(class 1)");
}

static void falling_folios(void *arg)
{
	static int a, b, host;

	(void)arg;
	iomap__witness_acquire(&a, IOMAP__RANK_FOLIO, 0, false, &host, 5);
	iomap__witness_acquire(&b, IOMAP__RANK_FOLIO, 0, false, &host, 4);
}

static void folios_of_two_inodes(void *arg)
{
	static int a, b, host[2];

	(void)arg;
	iomap__witness_acquire(&a, IOMAP__RANK_FOLIO, 0, false, &host[0], 5);
	iomap__witness_acquire(&b, IOMAP__RANK_FOLIO, 0, false, &host[1], 6);
}

Test(witness, folios_of_one_inode_by_rising_index_only)
{
	static int folio[3], host;

	for (uint64_t i = 0; i < 3; i++)
		iomap__witness_acquire(&folio[i], IOMAP__RANK_FOLIO, 0, false, &host, i);
	for (int i = 0; i < 3; i++)
		iomap__witness_release(&folio[i]);
	DIES(falling_folios, "order 4");
	DIES(folios_of_two_inodes, "lock order violation");
}

static void behind_a_trylock(void *arg)
{
	static int a, b, host;

	(void)arg;
	iomap__witness_acquire(&a, IOMAP__RANK_FOLIO, 0, true, &host, 5);
	iomap__witness_acquire(&b, IOMAP__RANK_FOLIO, 0, false, &host, 4);
}

Test(witness, a_trylock_passes_but_counts_for_what_follows)
{
	static int a, b, host;

	iomap__witness_acquire(&a, IOMAP__RANK_FOLIO, 0, false, &host, 5);
	iomap__witness_acquire(&b, IOMAP__RANK_FOLIO, 0, true, &host, 4);
	iomap__witness_release(&a);
	iomap__witness_release(&b);
	DIES(behind_a_trylock, "(try-lock)");
}

static void twice(void *arg)
{
	struct iomap__mutex mutex;

	(void)arg;
	iomap__mutex_init(&mutex, IOMAP__RANK_BDEV);
	iomap__mutex_lock(&mutex);
	iomap__mutex_lock(&mutex);
}

static void not_held(void *arg)
{
	struct iomap__mutex mutex;

	(void)arg;
	iomap__mutex_init(&mutex, IOMAP__RANK_BDEV);
	iomap__mutex_unlock(&mutex);
}

Test(witness, taking_twice_and_releasing_what_is_not_held_abort)
{
	DIES(twice, "is taken twice");
	DIES(not_held, "which the thread does not hold");
}

static void callback_with_folio(void *arg)
{
	static int folio, host;

	(void)arg;
	iomap__witness_acquire(&folio, IOMAP__RANK_FOLIO, 0, false, &host, 0);
	iomap__witness_assert_callback("iomap_begin");
}

Test(witness, callbacks_may_run_under_inode_locks_only)
{
	struct iomap_rwsem rwsem, invalidate;
	static int folio, host;

	iomap__rwsem_init(&rwsem, IOMAP__RANK_INODE, 3);
	iomap__rwsem_init(&invalidate, IOMAP__RANK_INVALIDATE, 3);
	iomap_down_write(&rwsem);
	iomap_down_read(&invalidate);
	iomap__witness_assert_callback("iomap_begin");
	/* a lock that was handed to a completion is not this thread's any more */
	iomap__witness_acquire(&folio, IOMAP__RANK_FOLIO, 3, false, &host, 0);
	iomap__witness_disown(&folio);
	iomap__witness_assert_callback("iomap_begin");
	iomap_up_read(&invalidate);
	iomap_up_write(&rwsem);
	DIES(callback_with_folio, "iomap_begin is called with a lock held");
}

#else

Test(witness, is_in_debug_builds_only)
{
	cr_skip_test("no lock-order checker in release builds");
}

#endif
