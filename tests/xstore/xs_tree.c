/* SPDX-License-Identifier: MIT */
/*
 * xs_tree.c - the tree of metadata: it grows, shrinks, and is written where it has changed.
 */
#include "xst.h"

#include <sched.h>

#include <iomap/faulty.h>
#include <iomap/writelog.h>

#define MIB (UINT64_C(1) << 20)

/* An object of that name with @blocks of space that was never written. */
static int make(struct xs_store *store, const char *name, int64_t blocks)
{
	struct xs_object *object;
	int error = xs_create(store, &object);

	if (error)
		return error;
	if (blocks)
		error = xs_preallocate(object, 0, blocks * 4096, true);
	if (!error)
		error = xs_link(object, name);
	XST_OK(xs_put(object));
	return error;
}

static uint64_t nodes_nr(struct xs_store *store)
{
	struct xs_usage usage;

	xs_usage(store, &usage);
	return usage.meta_nr - XS_SUPER_SLOTS;
}

static uint64_t written_bytes(struct iomap_bdev *bdev)
{
	struct iomap_bdev_stats stats;

	XST_OK(iomap_bdev_stats(bdev, &stats, sizeof(stats)));
	return stats.written_bytes;
}

/* Names of many lengths, so that items are. */
static void name_of(char *name, unsigned nr)
{
	snprintf(name, XS_NAME_MAX + 1, "%u-%0*u", nr, (int)(nr * 7919 % 200 + 1), nr);
}

/* ---- shape ---- */

enum { NAMES = 4000 };

/* Of all that is there, as the model has it: nothing is lost, and nodes are not too many. */
static void assert_names(struct xs_store *store, const bool *there)
{
	uint64_t bytes = 0, nr = 0;
	struct xs_usage usage;
	struct xs_info info;
	char name[XS_NAME_MAX + 1];

	for (unsigned i = 0; i < NAMES; i++) {
		name_of(name, i);
		cr_assert_eq(xs_info(store, name, &info), there[i] ? 0 : -ENOENT, "%s", name);
		if (!there[i])
			continue;
		nr++;
		bytes += XS_OBJECT_BYTES + strlen(name) + info.extents_nr * XS_EXTENT_BYTES;
	}
	xs_usage(store, &usage);
	cr_assert_eq(usage.objects_nr, nr);
	cr_assert_leq(nodes_nr(store), xs_tree_nodes_max(bytes));
}

Test(xs_tree, it_grows_and_shrinks_with_what_is_in_it)
{
	struct xst_fixture f = xst_begin(64 * MIB, MIB);
	bool *there = calloc(NAMES, sizeof(*there));
	char name[XS_NAME_MAX + 1];
	uint64_t random = 3, most;

	/* up, up and down, down; each commit a few changes or many */
	for (int phase = 0; phase < 3; phase++) {
		for (int n = 0; n < 6000; n++) {
			unsigned i = (unsigned)(xst_random(&random) % NAMES);
			bool add = phase == 1 ? xst_random(&random) % 2 : phase == 0;

			name_of(name, i);
			if (add && !there[i])
				XST_OK(make(f.store, name, (int64_t)(i % 3)));
			else if (!add && there[i])
				XST_OK(xs_unlink(f.store, name));
			there[i] = add;
			if (xst_random(&random) % (n % 1000 < 500 ? 4 : 300) == 0)
				XST_OK(xs_commit(f.store));
			if (n % 500 == 0) {
				XST_OK(xs_commit(f.store));
				xst_check(f.bdev);
			}
		}
		XST_OK(xs_commit(f.store));
		assert_names(f.store, there);
		xst_reopen(&f);
		assert_names(f.store, there);
		if (phase == 0)
			most = nodes_nr(f.store);
	}
	cr_assert_lt(nodes_nr(f.store), most);
	for (unsigned i = 0; i < NAMES; i++) {
		name_of(name, i);
		if (there[i])
			XST_OK(xs_unlink(f.store, name));
	}
	XST_OK(xs_commit(f.store));
	cr_assert_eq(nodes_nr(f.store), 0U);
	xst_reopen(&f);
	XST_OK(make(f.store, "again", 1));
	free(there);
	xst_end(&f);
}

/* Each block of an object an extent of its own; then they are joined, and cut. */
Test(xs_tree, an_object_of_many_extents_takes_many_leaves_and_gives_them_back)
{
	enum { BLOCKS = 6000 };
	struct xst_fixture f = xst_begin(64 * MIB, MIB);
	unsigned char *block = aligned_alloc(4096, 4096), *model = calloc(BLOCKS, 4096);
	struct xs_object *object;
	struct iomap_file *file;
	uint64_t random = 8;

	XST_OK(make(f.store, "before", 1));
	XST_OK(make(f.store, "o", 0));
	XST_OK(make(f.store, "behind", 1));
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(xs_preallocate(object, 0, BLOCKS * 4096, false));
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT, &file));
	memset(block, 'm', 4096);
	for (int n = 0; n < BLOCKS; n++) {
		int64_t at = (int64_t)(xst_random(&random) % (BLOCKS / 2)) * 2;

		cr_assert_eq(iomap_write(file, block, 4096, at * 4096), 4096);
		memcpy(model + at * 4096, block, 4096);
		if (xst_random(&random) % 50 == 0)
			XST_OK(xs_commit(f.store));
		if (n % 1000 == 0)
			xst_check(f.bdev);
	}
	XST_OK(xs_commit(f.store));
	cr_assert_gt(nodes_nr(f.store), 40U);
	xst_check(f.bdev);
	for (int64_t at = 1; at < BLOCKS; at += 2) {
		cr_assert_eq(iomap_write(file, block, 4096, at * 4096), 4096);
		memcpy(model + at * 4096, block, 4096);
		if (at % 1001 == 0) {
			XST_OK(xs_commit(f.store));
			xst_check(f.bdev);
		}
	}
	XST_OK(iomap_file_fsync(file, 0));
	XST_OK(iomap_truncate(file, BLOCKS * 2048 + 1));
	iomap_file_close(file);
	XST_OK(xs_put(object));
	XST_OK(xs_commit(f.store));
	cr_assert_lt(nodes_nr(f.store), 40U);
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", model, BLOCKS * 2048 + 1);
	free(block);
	free(model);
	xst_end(&f);
}

/* What is on the device is what is in memory. */
static void assert_committed(struct xst_fixture *f, const char *name)
{
	struct xs_store *store = xst_open(f->engine, f->bdev);
	struct xs_extent *now, *there;
	uint32_t now_nr, there_nr;

	XST_OK(xs_extents(f->store, name, &now, &now_nr));
	XST_OK(xs_extents(store, name, &there, &there_nr));
	cr_assert_eq(now_nr, there_nr);
	for (uint32_t i = 0; i < now_nr; i++)
		cr_assert(now[i].file == there[i].file && now[i].disk == there[i].disk &&
				  now[i].nr == there[i].nr &&
				  now[i].unwritten == there[i].unwritten,
			  "extent %u", i);
	free(now);
	free(there);
	XST_OK(xs_close(store));
}

/* One change in each commit: it and its neighbours may lie in two leaves. */
Test(xs_tree, each_change_of_an_extent_reaches_its_leaves)
{
	enum { BLOCKS = 1600 };
	struct xst_fixture f = xst_begin(16 * MIB, MIB);
	unsigned char *blocks = aligned_alloc(4096, 4 * 4096);
	struct xs_object *object;
	struct iomap_file *file;
	uint64_t random = 21;

	XST_OK(make(f.store, "o", 0));
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(xs_preallocate(object, 0, BLOCKS * 4096, false));
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT, &file));
	memset(blocks, 'm', 4 * 4096);
	for (int64_t at = 0; at < BLOCKS; at += 2)
		cr_assert_eq(iomap_write(file, blocks, 4096, at * 4096), 4096);
	for (int n = 0; n < 1500; n++) {
		int64_t at = (int64_t)(xst_random(&random) % BLOCKS);

		if (n % 30 == 29) {
			/* cut it where long extents have grown over the ends of leaves */
			XST_OK(iomap_truncate(file, (at / 2 + BLOCKS / 2) * 4096));
			XST_OK(xs_commit(f.store));
			assert_committed(&f, "o");
			XST_OK(xs_preallocate(object, 0, BLOCKS * 4096, false));
		} else {
			cr_assert_eq(iomap_write(file, blocks, 4096, at * 4096), 4096);
		}
		XST_OK(xs_commit(f.store));
		assert_committed(&f, "o");
	}
	iomap_file_close(file);
	XST_OK(xs_put(object));
	free(blocks);
	xst_end(&f);
}

/* An extent of the second leaf that has grown over the end of that is cut behind the end. */
static void cut_at(int64_t block)
{
	enum { BLOCKS = 400 };
	struct xst_fixture f = xst_begin(4 * MIB, MIB);
	unsigned char *data = aligned_alloc(4096, 4096);
	struct xs_object *object;
	struct iomap_file *file;

	XST_OK(make(f.store, "o", 0));
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(xs_preallocate(object, 0, BLOCKS * 4096, false));
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT, &file));
	memset(data, 'c', 4096);
	for (int64_t at = 0; at < BLOCKS; at += 2)
		cr_assert_eq(iomap_write(file, data, 4096, at * 4096), 4096);
	XST_OK(xs_commit(f.store));
	cr_assert_gt(nodes_nr(f.store), 3U);
	for (int64_t at = 181; at < block + 3; at += 2)
		cr_assert_eq(iomap_write(file, data, 4096, at * 4096), 4096);
	XST_OK(xs_commit(f.store));
	assert_committed(&f, "o");
	XST_OK(iomap_truncate(file, block * 4096));
	XST_OK(xs_commit(f.store));
	assert_committed(&f, "o");
	iomap_file_close(file);
	XST_OK(xs_put(object));
	free(data);
	xst_end(&f);
}

Test(xs_tree, an_extent_that_is_cut_behind_the_end_of_its_leaf_is_cut_on_the_device)
{
	for (int64_t block = 210; block < 240; block++)
		cut_at(block);
}

/* The first leaf takes over one after the other, of its own parent and of the next. */
Test(xs_tree, objects_that_go_in_their_order_take_the_leaves_along)
{
	enum { NR = 4400 };
	struct xst_fixture f = xst_begin(16 * MIB, MIB);
	char name[XS_NAME_MAX + 1];
	struct xs_usage usage;

	for (unsigned i = 0; i < NR; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		XST_OK(make(f.store, name, 0));
	}
	XST_OK(xs_commit(f.store));
	cr_assert_gt(nodes_nr(f.store), 220U);
	for (unsigned i = 0; i < NR; i++) {
		snprintf(name, sizeof(name), "%0200u", i);
		XST_OK(xs_unlink(f.store, name));
		XST_OK(xs_commit(f.store));
		if (i % 5 == 0)
			xst_check(f.bdev);
	}
	xs_usage(f.store, &usage);
	cr_assert_eq(usage.meta_nr, XS_SUPER_SLOTS);
	xst_end(&f);
}

/* An object that lost its name while open gets one again, where leaves still end within it. */
Test(xs_tree, an_object_that_is_named_again_is_whole)
{
	struct xst_fixture f = xst_begin(16 * MIB, MIB);
	unsigned char *data = xst_pattern(MIB, 2);
	struct xs_object *object;

	XST_OK(make(f.store, "o", 0));
	XST_OK(xs_lookup(f.store, "o", &object));
	for (int64_t at = 0; at < 256; at += 2)
		XST_OK(xst_write(object, data + at * 4096, 4096, at * 4096));
	XST_OK(xst_fsync(object));
	XST_OK(xs_unlink(f.store, "o"));
	XST_OK(xs_commit(f.store));
	for (int64_t at = 1; at < 256; at += 2)
		XST_OK(xst_write(object, data + at * 4096, 4096, at * 4096));
	XST_OK(xst_fsync(object));
	XST_OK(xs_link(object, "again"));
	XST_OK(xs_commit(f.store));
	xst_check(f.bdev);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "again", data, MIB);
	free(data);
	xst_end(&f);
}

/* ---- cost ---- */

Test(xs_tree, a_commit_writes_what_has_changed_and_the_way_to_the_root)
{
	struct xst_fixture f = xst_begin(128 * MIB, MIB);
	struct xs_object *object;
	struct iomap_file *file;
	uint64_t before;
	char name[32];

	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "object-%05d", i);
		XST_OK(make(f.store, name, 1));
	}
	XST_OK(xs_commit(f.store));
	cr_assert_gt(nodes_nr(f.store), 150U);
	XST_OK(xs_lookup(f.store, "object-05000", &object));
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT, &file));
	before = written_bytes(f.bdev);
	XST_OK(iomap_truncate(file, 1000));
	XST_OK(iomap_file_fsync(file, 0));
	/* a leaf, two nodes above it, the super block */
	cr_assert_leq(written_bytes(f.bdev) - before, 4U * 4096);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	xst_end(&f);
}

/* ---- faults ---- */

/* What is taken and not free is what a fresh look at the device finds. */
static void assert_nothing_leaks(struct xst_fixture *f)
{
	struct xs_usage usage;
	uint64_t free_nr;

	XST_OK(xs_commit(f->store));
	xs_usage(f->store, &usage);
	free_nr = usage.free_nr;
	xst_reopen(f);
	xs_usage(f->store, &usage);
	cr_assert_eq(usage.free_nr, free_nr);
}

/* Each write of a few commits fails once, or several in a row: the next commit has it all. */
Test(xs_tree, commits_that_fail_change_nothing_and_lose_no_space)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_FAIL,
		.ops = IOMAP_FAULT_ON_WRITE,
	};
	struct xst_fixture f = xst_begin(4 * MIB, MIB);
	struct iomap_bdev *memory = f.bdev;
	char name[XS_NAME_MAX + 1];
	unsigned made = 0, failed = 0;
	struct xs_info info;
	uint32_t id;

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	for (unsigned round = 0; round < 300; round++) {
		fault.opf = round % 3 ? 0 : IOMAP_REQ_FUA;
		fault.nth = round % 5 + 1;
		fault.limit = round % 4 + 1;
		fault.every = 1;
		XST_OK(iomap_faulty_add(f.bdev, &fault, &id));
		for (int i = 0; i < 6; i++) {
			name_of(name, made++);
			XST_OK(make(f.store, name, 1));
			failed += xs_commit(f.store) != 0;
			if (made > 60) {
				name_of(name, made - 60);
				XST_OK(xs_unlink(f.store, name));
			}
		}
		iomap_faulty_remove(f.bdev, id);
		if (round % 20 == 0)
			assert_nothing_leaks(&f);
	}
	cr_assert_gt(failed, 300U);
	assert_nothing_leaks(&f);
	for (unsigned i = made - 59; i < made; i++) {
		name_of(name, i);
		XST_OK(xs_info(f.store, name, &info));
	}
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory;
	f.store = xst_open(f.engine, f.bdev);
	xst_end(&f);
}

/* Super blocks that cannot be written, in a store that is as full as can be. */
Test(xs_tree, a_full_store_stands_any_number_of_failed_commits)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_FAIL,
		.ops = IOMAP_FAULT_ON_WRITE,
		.opf = IOMAP_REQ_FUA,
		.every = 1,
	};
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct iomap_bdev *memory = f.bdev;
	char name[XS_NAME_MAX + 1];
	unsigned nr;
	uint32_t id;

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	for (nr = 0;; nr++) {
		int error;

		name_of(name, nr);
		error = make(f.store, name, 1);
		cr_assert(!error || error == -ENOSPC);
		if (error)
			break;
	}
	XST_OK(xs_commit(f.store));
	cr_assert_gt(nr, 150U);
	while (nr--) {
		name_of(name, nr);
		XST_OK(xs_unlink(f.store, name));
		XST_OK(iomap_faulty_add(f.bdev, &fault, &id));
		for (int i = 0; i < 3; i++)
			cr_assert_eq(xs_commit(f.store), -EIO);
		iomap_faulty_remove(f.bdev, id);
		XST_OK(xs_commit(f.store));
		xst_check(f.bdev);
	}
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory;
	f.store = xst_open(f.engine, f.bdev);
	xst_end(&f);
}

/* Told to have failed, and landed: what it names stays whole until that is settled. */
Test(xs_tree, a_super_block_that_landed_though_it_failed_is_not_pulled_from_under)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_SHORTEN,
		.ops = IOMAP_FAULT_ON_WRITE,
		.opf = IOMAP_REQ_FUA,
		.nth = 1,
		.amount = XS_BLOCK_BYTES,
		.error = -EIO,
	};
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct iomap_bdev *memory = f.bdev;
	struct xs_usage before, after;
	struct xs_counts counts;
	struct xs_why why;

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	XST_OK(make(f.store, "one", 0));
	XST_OK(xs_commit(f.store));
	XST_OK(make(f.store, "two", 0));
	xs_usage(f.store, &before);
	XST_OK(iomap_faulty_add(f.bdev, &fault, NULL));
	cr_assert_eq(xs_commit(f.store), -EIO);
	XST_OK(xs_check(memory, &counts, &why));
	cr_assert_eq(counts.objects_nr, 2U);
	/* and so its node is not free, though nobody else has one like it */
	xs_usage(f.store, &after);
	cr_assert_eq(after.free_nr, before.free_nr - 1);
	XST_OK(xs_commit(f.store));
	xs_usage(f.store, &after);
	cr_assert_eq(after.free_nr, before.free_nr);
	XST_OK(xs_check(memory, &counts, &why));
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory;
	f.store = xst_open(f.engine, f.bdev);
	xst_end(&f);
}

/* ---- power cuts ---- */

enum { CUT_NAMES = 40, CUT_COMMITS = 150 };

/* Which objects there are after each commit. */
typedef bool names_at[CUT_COMMITS + 1][CUT_NAMES];

static void run_commits(struct xs_store *store, struct iomap_bdev *log, names_at there)
{
	char name[XS_NAME_MAX + 1];
	uint64_t random = 99;

	for (int n = 1; n <= CUT_COMMITS; n++) {
		memcpy(there[n], there[n - 1], sizeof(there[n]));
		for (uint64_t k = xst_random(&random) % 12 + 1; k; k--) {
			unsigned i = (unsigned)(xst_random(&random) % CUT_NAMES);

			snprintf(name, sizeof(name), "%0250u", i);
			if (there[n][i])
				XST_OK(xs_unlink(store, name));
			else if ((n / 15) % 2 == 0 || xst_random(&random) % 4 == 0)
				XST_OK(make(store, name, 0));
			else
				continue;
			there[n][i] = !there[n][i];
		}
		XST_OK(xs_commit(store));
		XST_OK(iomap_writelog_mark(log, (uint64_t)n));
	}
}

static bool holds_names(struct xs_store *store, const bool *there)
{
	char name[XS_NAME_MAX + 1];
	struct xs_info info;

	for (unsigned i = 0; i < CUT_NAMES; i++) {
		snprintf(name, sizeof(name), "%0250u", i);
		if ((xs_info(store, name, &info) == 0) != there[i])
			return false;
	}
	return true;
}

static void judge_cut(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	bool(*there)[CUT_NAMES] = arg;
	uint64_t next = cut->mark < CUT_COMMITS ? cut->mark + 1 : cut->mark;

	cr_assert(holds_names(store, there[cut->mark]) || holds_names(store, there[next]),
		  "event %llu, seed %llu", (unsigned long long)cut->event,
		  (unsigned long long)cut->seed);
}

/* In a store so small that blocks are used again at once. */
Test(xs_tree, a_power_cut_leaves_the_tree_of_one_commit_or_of_the_next)
{
	struct iomap_engine *engine = xst_engine(MIB);
	bool(*there)[CUT_NAMES] = calloc(CUT_COMMITS + 1, sizeof(*there));
	const uint64_t bytes = UINT64_C(80) << 10;
	struct iomap_bdev *log;
	struct xs_store *store;

	XST_OK(iomap_writelog_open_memory(engine, bytes, NULL, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	XST_OK(iomap_writelog_restart(log));
	store = xst_open(engine, log);
	run_commits(store, log, there);
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 6, judge_cut, there);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
	free(there);
}

/* ---- callers together ---- */

enum { CALLERS = 3 }; /* as many threads as the engine takes, and the test itself */

struct caller {
	pthread_t thread;
	struct xs_store *store;
	unsigned nr;
	int error;
};

static void *caller_main(void *arg)
{
	struct caller *caller = arg;
	char name[32];

	snprintf(name, sizeof(name), "of-%u", caller->nr);
	XST_OK(make(caller->store, name, 0));
	caller->error = xs_commit(caller->store);
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

/* One commit is held in the device while others come: one more answers them all. */
static void share(int error)
{
	struct iomap_fault hold = {
		.size = sizeof(hold),
		.kind = IOMAP_FAULT_DELAY,
		.ops = IOMAP_FAULT_ON_WRITE,
		.opf = IOMAP_REQ_FUA,
		.nth = 1,
	};
	struct iomap_fault fail = hold;
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct iomap_bdev *memory = f.bdev;
	struct xs_usage before, after;
	struct caller callers[CALLERS];
	struct xs_info info;
	char name[32];

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	xs_usage(f.store, &before);
	XST_OK(iomap_faulty_add(f.bdev, &hold, NULL));
	fail.kind = IOMAP_FAULT_FAIL;
	fail.nth = 2;
	if (error)
		XST_OK(iomap_faulty_add(f.bdev, &fail, NULL));
	for (unsigned i = 0; i < CALLERS; i++) {
		callers[i] = (struct caller){ .store = f.store, .nr = i };
		cr_assert_eq(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
		if (!i)
			XST_OK(iomap_faulty_wait_held(f.bdev, 1));
	}
	wait_for_waiting(f.store, CALLERS - 1);
	iomap_faulty_release(f.bdev, 0, UINT64_MAX, IOMAP_RELEASE_FIFO);
	for (unsigned i = 0; i < CALLERS; i++)
		pthread_join(callers[i].thread, NULL);
	xs_usage(f.store, &after);
	cr_assert_eq(after.commits_nr - before.commits_nr, 2U);
	cr_assert_eq(after.commit_callers_nr - before.commit_callers_nr, CALLERS);
	cr_assert_eq(callers[0].error, 0);
	for (unsigned i = 1; i < CALLERS; i++)
		cr_assert_eq(callers[i].error, error);
	/* durable is what is on the device, not what is in memory */
	if (!error)
		xst_check(f.bdev);
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory;
	f.store = xst_open(f.engine, f.bdev);
	for (unsigned i = 0; i < CALLERS; i++) {
		snprintf(name, sizeof(name), "of-%u", i);
		XST_OK(xs_info(f.store, name, &info));
	}
	xst_end(&f);
}

Test(xs_tree, callers_that_come_during_a_commit_share_the_next_one)
{
	share(0);
}

Test(xs_tree, an_error_reaches_all_who_shared_the_commit)
{
	share(-EIO);
}

/* ---- names ---- */

enum { RENAMED = 600 };

/* Objects with openers lose their names, short ones, and get long ones, in a full store. */
Test(xs_tree, longer_names_do_not_take_the_room_that_a_commit_needs)
{
	struct xst_fixture f = xst_begin(4 * MIB, MIB);
	static struct xs_object *objects[RENAMED];
	char name[XS_NAME_MAX + 1];
	struct xs_object *filler;
	unsigned long_nr = 0;
	int64_t blocks_nr = 0;
	int error;

	for (int i = 0; i < RENAMED; i++) {
		snprintf(name, sizeof(name), "%d", i);
		XST_OK(xs_create(f.store, &objects[i]));
		XST_OK(xs_link(objects[i], name));
	}
	XST_OK(xs_commit(f.store));
	XST_OK(xs_create(f.store, &filler));
	XST_OK(xs_link(filler, "filler"));
	while (!(error = xs_preallocate(filler, blocks_nr * 4096, 4096, true)))
		blocks_nr++;
	cr_assert_eq(error, -ENOSPC);
	XST_OK(xs_commit(f.store));
	for (int i = 0; i < RENAMED; i++) {
		snprintf(name, sizeof(name), "%d", i);
		XST_OK(xs_unlink(f.store, name));
		snprintf(name, sizeof(name), "%0250d", i);
		error = xs_link(objects[i], name);
		cr_assert(!error || error == -ENOSPC);
		long_nr += !error;
		if (error) {
			snprintf(name, sizeof(name), "%d", i);
			XST_OK(xs_link(objects[i], name));
		}
		XST_OK(xs_commit(f.store));
	}
	cr_assert_lt(long_nr, RENAMED);
	/* each second block: what the store has promised to find room for */
	for (int64_t i = 0; i < blocks_nr; i += 2)
		XST_OK(xst_write(filler, name, sizeof(name), i * 4096));
	XST_OK(xst_fsync(filler));
	for (int i = 0; i < RENAMED; i++)
		XST_OK(xs_put(objects[i]));
	XST_OK(xs_put(filler));
	xst_end(&f);
}
