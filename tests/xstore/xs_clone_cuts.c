/* SPDX-License-Identifier: MIT */
/*
 * xs_clone_cuts.c - a clone that makes an object longer is in a commit as a whole, or not at all.
 */
#include <sched.h>
#include <stdatomic.h>

#include <iomap/faulty.h>

#include "xst.h"

#include "testutil.h"

#define BLOCK XS_BLOCK_BYTES
#define CLONE_BYTES (6 * BLOCK)
#define OLD_BYTES (2 * BLOCK)

static struct xs_object *open_name(struct xs_store *store, const char *name)
{
	struct xs_object *object;

	XST_OK(xs_lookup(store, name, &object));
	return object;
}

/* Where a clone is the only thing that says how far the object reaches, its commit says it. */
struct far {
	unsigned char *clone;
	int64_t old_size;
};

static void judge_far(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	struct far *far = arg;
	int64_t size;
	unsigned char *got = xst_get(store, "b", &size);

	cr_assert_geq(size, far->old_size);
	if (cut->mark == 1) {
		cr_assert_geq(size, 4 * BLOCK + CLONE_BYTES, "%lld bytes, event %llu", (long long)size,
			      (unsigned long long)cut->event);
		cr_assert_arr_eq(got + 4 * BLOCK, far->clone, CLONE_BYTES);
	}
	free(got);
}

static void clone_before_dirty_data(int64_t old_size)
{
	struct iomap_engine *engine = xst_engine(1 << 20);
	struct far far = { xst_pattern(CLONE_BYTES, 1), old_size };
	unsigned char *old = xst_pattern(3 * BLOCK, 2);
	struct xs_object *from, *to;
	struct iomap_bdev *log;
	struct xs_store *store;

	XST_OK(iomap_writelog_open_memory(engine, 256 << 10, NULL, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	store = xst_open(engine, log);
	XST_OK(xst_put(store, "a", far.clone, CLONE_BYTES));
	XST_OK(xst_put(store, "b", old, (size_t)old_size));
	XST_OK(iomap_writelog_restart(log));
	from = open_name(store, "a");
	to = open_name(store, "b");
	/* i_size is there, and what a commit says is not */
	XST_OK(xst_write(to, old, 1, 30 * BLOCK));
	XST_OK(xs_clone(from, 0, to, 4 * BLOCK, CLONE_BYTES));
	XST_OK(xs_commit(store));
	XST_OK(iomap_writelog_mark(log, 1));
	XST_OK(xs_put(from));
	XST_OK(xs_put(to));
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 4, judge_far, &far);
	free(far.clone);
	free(old);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
}

Test(xs_clone_cuts, a_committed_clone_is_there_though_dirty_data_lies_behind_it)
{
	clone_before_dirty_data(2 * BLOCK);
	clone_before_dirty_data(2 * BLOCK + 100);
}

struct half {
	unsigned char *old, *new;
	struct xs_object *from, *to;
	uint64_t whole_nr[2];
};

static long clone_over(void *arg)
{
	struct half *half = arg;

	return xs_clone(half->from, 0, half->to, 0, 0);
}

static void judge_half(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	struct half *half = arg;
	int64_t size;
	unsigned char *got = xst_get(store, "b", &size);
	bool is_new = size == CLONE_BYTES;

	cr_assert(is_new || size == OLD_BYTES);
	cr_assert_arr_eq(got, is_new ? half->new : half->old, (size_t)size, "event %llu",
			 (unsigned long long)cut->event);
	if (cut->mark == 1)
		cr_assert(is_new);
	half->whole_nr[is_new]++;
	free(got);
}

/* A read of the range is under way, and what is cached cannot go: there is time for a commit. */
static void commit_meanwhile(struct half *half, struct iomap_bdev *log, struct iomap_bdev *faulty)
{
	struct xs_store *store = half->to->store;
	struct xs_usage usage;
	struct iomap_fault fault = { .size = sizeof(fault),
				     .kind = IOMAP_FAULT_DELAY,
				     .ops = IOMAP_FAULT_ON_READ };
	struct iomap_file *file;
	struct t_task task;
	uint32_t rule;

	XST_OK(iomap_file_open(&half->to->inode, 0, &file));
	XST_OK(iomap_faulty_add(faulty, &fault, &rule));
	XST_OK(iomap_fadvise(file, 0, OLD_BYTES, IOMAP_ADV_WILLNEED));
	XST_OK(iomap_faulty_wait_held(faulty, 1));
	XST_OK(iomap_faulty_remove(faulty, rule));
	t_start(&task, clone_over, half);
	do {
		sched_yield();
		xs_usage(store, &usage);
	} while (!usage.shared_nr);
	XST_OK(xs_commit(store));
	XST_OK(iomap_writelog_mark(log, 1));
	cr_assert_not(atomic_load(&task.done));
	cr_assert_geq(iomap_faulty_release(faulty, 0, UINT64_MAX, IOMAP_RELEASE_FIFO), 1);
	cr_assert_eq(t_join(&task), 0);
	iomap_file_close(file);
}

Test(xs_clone_cuts, a_commit_meanwhile_has_all_of_a_clone_that_makes_the_object_longer)
{
	struct iomap_faulty_opts opts = { .size = sizeof(opts), .seed = 1 };
	struct iomap_engine *engine = xst_engine(1 << 20);
	struct half half = { .old = xst_pattern(OLD_BYTES, 1), .new = xst_pattern(CLONE_BYTES, 2) };
	struct iomap_bdev *log, *faulty;
	struct xs_store *store;

	XST_OK(iomap_writelog_open_memory(engine, 256 << 10, NULL, NULL, &log));
	XST_OK(iomap_faulty_create(log, &opts, &faulty));
	XST_OK(xs_mkfs(faulty, 0, XST_ID));
	store = xst_open(engine, faulty);
	XST_OK(xst_put(store, "a", half.new, CLONE_BYTES));
	XST_OK(xst_put(store, "b", half.old, OLD_BYTES));
	XST_OK(iomap_writelog_restart(log));
	half.from = open_name(store, "a");
	half.to = open_name(store, "b");
	commit_meanwhile(&half, log, faulty);
	XST_OK(xs_put(half.from));
	XST_OK(xs_put(half.to));
	xst_assert_holds(store, "b", half.new, CLONE_BYTES);
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(faulty));
	xst_try_cuts(engine, log, 6, judge_half, &half);
	cr_assert(half.whole_nr[false] && half.whole_nr[true]);
	free(half.old);
	free(half.new);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
}
