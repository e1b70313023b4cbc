/* SPDX-License-Identifier: MIT */
/*
 * jemalloc.c - EN01: an engine takes its memory from an arena of jemalloc, and gives all of it back.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include <iomap/jemalloc.h>
#include <jemalloc/jemalloc.h>

#include "testpiece.h"

#define PAGE 4096
#define SIZE (256 * 1024)

/* Bytes that are allocated in the arena of the hooks. */
static size_t allocated(const struct iomap_alloc_hooks *hooks)
{
	size_t small = 0, large = 0, size = sizeof(small);
	uint64_t epoch = 1;
	char name[64];

	cr_assert_eq(mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)), 0);
	snprintf(name, sizeof(name), "stats.arenas.%u.small.allocated",
		 (unsigned)(uintptr_t)hooks->ctx);
	cr_assert_eq(mallctl(name, &small, &size, NULL, 0), 0);
	snprintf(name, sizeof(name), "stats.arenas.%u.large.allocated",
		 (unsigned)(uintptr_t)hooks->ctx);
	cr_assert_eq(mallctl(name, &large, &size, NULL, 0), 0);
	return small + large;
}

Test(jemalloc, en01_jemalloc_serves_an_engine_from_an_arena_of_its_own)
{
	struct tp piece = { .length = SIZE };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &piece,
	};
	struct iomap_alloc_hooks hooks, others;
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_inode inode;
	struct iomap_bdev *bdev;
	struct iomap_file *file;
	char buf[PAGE];
	struct t_log log;

	cr_assert_eq(iomap_jemalloc_hooks(&hooks), 0);
	cr_assert_eq(iomap_jemalloc_hooks(&others), 0);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	opts.alloc = hooks;
	t_log_init(&log);
	engine = t_engine(&opts, &log);
	cr_assert_gt(allocated(&hooks), sizeof(void *));
	cr_assert_eq(iomap_bdev_open_memory(engine, SIZE, &bdev), 0);
	cr_assert_geq(allocated(&hooks), SIZE);
	args.bdev = bdev;
	cr_assert_eq(iomap_inode_init(engine, &inode, &args), 0);
	cr_assert_eq(iomap_file_open(&inode, 0, &file), 0);
	for (int64_t pos = 0; pos < SIZE; pos += PAGE) {
		t_fill(buf, PAGE, pos, 1);
		cr_assert_eq(iomap_write(file, buf, PAGE, pos), PAGE);
	}
	cr_assert_eq(iomap_file_fsync(file, 0), 0);
	(void)iomap_engine_drop_cache(engine);
	for (int64_t pos = 0; pos < SIZE; pos += PAGE) {
		cr_assert_eq(iomap_read(file, buf, PAGE, pos), PAGE);
		cr_assert_eq(t_mismatch(buf, PAGE, pos, 1), -1);
	}
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	cr_assert_eq(allocated(&hooks), 0);
	cr_assert_eq(allocated(&others), 0);
	iomap_jemalloc_hooks_release(&hooks);
	iomap_jemalloc_hooks_release(&others);
}

Test(jemalloc, en01_jemalloc_hooks_keep_alignments_and_the_arena_goes_as_a_whole)
{
	struct iomap_alloc_hooks hooks;
	void *ptr;

	cr_assert_eq(iomap_jemalloc_hooks(NULL), -EINVAL);
	cr_assert_eq(iomap_jemalloc_hooks(&hooks), 0);
	for (size_t align = 1; align <= (size_t)2 << 20; align *= 2) {
		ptr = hooks.alloc(hooks.ctx, align, 100);
		cr_assert(ptr && !((uintptr_t)ptr & (align - 1)), "%zu", align);
		memset(ptr, 1, 100);
		hooks.free(hooks.ctx, ptr, 100);
	}
	hooks.free(hooks.ctx, NULL, 0);
	cr_assert_eq(allocated(&hooks), 0);
	cr_assert(!hooks.alloc(hooks.ctx, 16, (size_t)1 << 60));
	/* what is still allocated goes with the arena */
	cr_assert(hooks.alloc(hooks.ctx, 64, 1 << 20));
	iomap_jemalloc_hooks_release(&hooks);
	cr_assert(!hooks.alloc && !hooks.free && !hooks.ctx);
	iomap_jemalloc_hooks_release(&hooks);
	iomap_jemalloc_hooks_release(NULL);
}
