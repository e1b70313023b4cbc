/* SPDX-License-Identifier: MIT */
/*
 * xs_group.c - FY04: the store's group commit, with the library's sharing of flushes below it.
 *
 * fsync of an object is the library's: data, the store's commit, a flush.  The data of all who
 * wait for a commit has been written before it begins, so the flush before its super block is a
 * later one for each of them.
 */
#include <pthread.h>
#include <sched.h>

#include <iomap/faulty.h>

#include "xst.h"

#define MIB (UINT64_C(1) << 20)

enum { CALLERS = 3 }; /* with the test itself as many as the engine takes */

struct caller {
	pthread_t thread;
	struct xs_object *object;
	unsigned char *data;
	int error;
};

static void *write_and_fsync(void *arg)
{
	struct caller *caller = arg;

	XST_OK(xst_write(caller->object, caller->data, 10000, 0));
	caller->error = xst_fsync(caller->object);
	return NULL;
}

static void wait_for_waiting(struct xs_store *store, uint64_t nr)
{
	struct xs_usage usage;

	do {
		sched_yield();
		xs_usage(store, &usage);
	} while (usage.commit_waiting_nr != nr);
}

static void open_objects(struct xs_store *store, struct caller *callers)
{
	char name[32];

	for (unsigned i = 0; i < CALLERS; i++) {
		snprintf(name, sizeof(name), "of-%u", i);
		callers[i].data = xst_pattern(10000, i);
		XST_OK(xs_create(store, &callers[i].object));
		XST_OK(xs_link(callers[i].object, name));
	}
	XST_OK(xs_commit(store));
}

/* The first one's commit is held while the others come: @error is that of the one they share. */
static void share(int error)
{
	struct iomap_fault hold = {
		.size = sizeof(hold),
		.kind = IOMAP_FAULT_DELAY,
		.ops = IOMAP_FAULT_ON_WRITE,
		.opf = IOMAP_REQ_PREFLUSH,
		.nth = 1,
	};
	struct iomap_fault fail = hold, all = hold;
	struct xst_fixture f = xst_begin(4 * MIB, MIB);
	struct iomap_bdev *memory = f.bdev;
	struct caller callers[CALLERS] = { 0 };
	uint64_t supers;
	uint32_t count;
	char name[32];

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	open_objects(f.store, callers);
	XST_OK(iomap_faulty_add(f.bdev, &hold, NULL));
	fail.kind = IOMAP_FAULT_FAIL;
	fail.nth = 2;
	if (error)
		XST_OK(iomap_faulty_add(f.bdev, &fail, NULL));
	/* fires never, and counts */
	all.nth = UINT64_MAX;
	XST_OK(iomap_faulty_add(f.bdev, &all, &count));
	for (unsigned i = 0; i < CALLERS; i++) {
		cr_assert_eq(pthread_create(&callers[i].thread, NULL, write_and_fsync,
					    &callers[i]), 0);
		if (!i)
			XST_OK(iomap_faulty_wait_held(f.bdev, 1));
	}
	wait_for_waiting(f.store, CALLERS - 1);
	iomap_faulty_release(f.bdev, 0, UINT64_MAX, IOMAP_RELEASE_FIFO);
	for (unsigned i = 0; i < CALLERS; i++)
		pthread_join(callers[i].thread, NULL);
	XST_OK(iomap_faulty_count(f.bdev, count, &supers, NULL));
	cr_assert_eq(supers, 2U, "%llu commits", (unsigned long long)supers);
	cr_assert_eq(callers[0].error, 0);
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_eq(callers[i].error, error);
	for (unsigned i = 0; i < CALLERS; i++)
		XST_OK(xst_fsync(callers[i].object));
	for (unsigned i = 0; i < CALLERS; i++)
		XST_OK(xs_put(callers[i].object));
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory;
	f.store = xst_open(f.engine, f.bdev);
	for (unsigned i = 0; i < CALLERS; i++) {
		snprintf(name, sizeof(name), "of-%u", i);
		xst_assert_holds(f.store, name, callers[i].data, 10000);
		free(callers[i].data);
	}
	xst_end(&f);
}

Test(xs_group, fy04_fsyncs_during_a_commit_share_the_next_one)
{
	share(0);
}

Test(xs_group, fy04_an_error_reaches_all_whose_fsync_shared_the_commit)
{
	share(-EIO);
}
