/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * direct_files.c - DI01, DR02: direct I/O to real files, by the file's own map: byte n of the
 * inode is byte n of the file.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "testpiece.h"

#define KIB 1024
#define FILE_BYTES (4U << 20)

struct fixture {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *direct, *buffered;
	struct t_log log;
};

static struct tp whole = { .length = FILE_BYTES };

static void setup(struct fixture *f, const char *path, uint32_t bdev_flags)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts), .flags = bdev_flags };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &whole
	};
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	f->engine = t_engine(&opts, &f->log);
	cr_assert_eq(iomap_bdev_open(f->engine, path, &bdev_opts, &f->bdev), 0);
	args.bdev = f->bdev;
	args.i_size = FILE_BYTES;
	cr_assert_eq(iomap_inode_init(f->engine, &f->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&f->inode, IOMAP_O_DIRECT, &f->direct), 0);
	cr_assert_eq(iomap_file_open(&f->inode, 0, &f->buffered), 0);
}

static void teardown(struct fixture *f)
{
	cr_assert_eq(iomap_file_close(f->direct), 0);
	cr_assert_eq(iomap_file_close(f->buffered), 0);
	cr_assert_eq(iomap_inode_destroy(&f->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert_eq(iomap_bdev_close(f->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(f->engine), 0);
}

static void *memory(size_t len)
{
	void *mem = NULL;

	t_must(posix_memalign(&mem, 4096, len) == 0);
	return mem;
}

/* Random reads and writes through both openers, against a copy in memory. */
static void both_ways(struct fixture *f, const char *path)
{
	struct t_rand r = { t_seed() };
	char *model = memory(FILE_BYTES), *buf = memory(FILE_BYTES);
	int fd;

	memset(model, 0, FILE_BYTES);
	for (unsigned i = 0; i < 600; i++) {
		bool direct = t_below(&r, 2), write = t_below(&r, 2);
		struct iomap_file *file = direct ? f->direct : f->buffered;
		size_t unit = direct ? 4 * KIB : 1, most = t_below(&r, 8) ? 64 * KIB : 1 << 20;
		size_t len = (1 + t_below(&r, most / unit)) * unit;
		size_t pos = t_below(&r, (FILE_BYTES - len) / unit + 1) * unit;

		if (write) {
			t_fill(model + pos, len, (int64_t)pos, i);
			memcpy(buf, model + pos, len);
			cr_assert_eq(iomap_write(file, buf, len, (int64_t)pos), (ssize_t)len);
		} else {
			cr_assert_eq(iomap_read(file, buf, len, (int64_t)pos), (ssize_t)len);
			cr_assert_eq(memcmp(buf, model + pos, len), 0, "step %u", i);
		}
	}
	cr_assert_eq(iomap_file_fsync(f->buffered, 0), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(pread(fd, buf, FILE_BYTES, 0), (ssize_t)FILE_BYTES);
	cr_assert_eq(memcmp(buf, model, FILE_BYTES), 0);
	cr_assert_eq(close(fd), 0);
	free(model);
	free(buf);
}

Test(direct_files, di01_dr02_a_file_by_both_ways)
{
	static struct fixture f;
	char *path = t_temp(FILE_BYTES);

	setup(&f, path, 0);
	both_ways(&f, path);
	teardown(&f);
	t_temp_free(path);
}

Test(direct_files, di01_dr02_a_file_in_memory_by_both_ways)
{
	static struct fixture f;
	char path[] = "/dev/shm/iomap-direct-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		cr_skip_test("no /dev/shm");
	cr_assert_eq(ftruncate(fd, FILE_BYTES), 0);
	cr_assert_eq(close(fd), 0);
	setup(&f, path, IOMAP_BDEV_BUFFERED);
	both_ways(&f, path);
	teardown(&f);
	cr_assert_eq(unlink(path), 0);
}

/* Each thread has a part of the file to itself and goes over it past the cache. */
struct part {
	struct fixture *f;
	struct t_task task;
	unsigned nr;
};

#define PARTS 4
#define PART_BYTES (FILE_BYTES / PARTS)

static long work_on_part(void *arg)
{
	struct part *part = arg;
	char *buf = memory(PART_BYTES);
	int64_t first = (int64_t)part->nr * PART_BYTES;

	for (unsigned round = 0; round < 8; round++) {
		size_t step = PART_BYTES >> round % 4;

		for (size_t at = 0; at < PART_BYTES; at += step) {
			t_fill(buf, step, first + (int64_t)at, round);
			t_must(iomap_write(part->f->direct, buf, step, first + (int64_t)at) ==
			       (ssize_t)step);
		}
		memset(buf, 0, PART_BYTES);
		t_must(iomap_read(round % 2 ? part->f->direct : part->f->buffered, buf, PART_BYTES,
				  first) == PART_BYTES);
		t_must(t_mismatch(buf, PART_BYTES, first, round) < 0);
	}
	free(buf);
	return 0;
}

Test(direct_files, di01_threads_do_not_wait_for_each_others_bios)
{
	static struct fixture f;
	struct part part[PARTS];
	char *path = t_temp(FILE_BYTES);

	setup(&f, path, 0);
	for (unsigned i = 0; i < PARTS; i++) {
		part[i] = (struct part){ .f = &f, .nr = i };
		t_start(&part[i].task, work_on_part, &part[i]);
	}
	for (unsigned i = 0; i < PARTS; i++)
		cr_assert_eq(t_join(&part[i].task), 0);
	teardown(&f);
	t_temp_free(path);
}

/* ---- steady state ---- */

Test(direct_files, di01_nothing_is_allocated_for_each_call)
{
	static struct fixture f;
	char *path = t_temp(FILE_BYTES), *buf = memory(64 * KIB);
	struct iomap_debug_counters before, after;

	if (!t_debug())
		cr_skip_test("counts in debug builds only");
	setup(&f, path, 0);
	for (unsigned i = 0; i < 20; i++) {
		before = t_counters();
		cr_assert_eq(iomap_write(f.direct, buf, 64 * KIB, 0), 64 * KIB);
		cr_assert_eq(iomap_read(f.direct, buf, 64 * KIB, 0), 64 * KIB);
		after = t_counters();
	}
	/* two bios out of a pool */
	cr_assert_leq(after.allocs_nr - before.allocs_nr, 2U);
	teardown(&f);
	t_temp_free(path);
	free(buf);
}

/* A call that waits goes to the device by the call of the kernel that sleeps. */
Test(direct_files, di01_submitting_and_sleeping_are_one_system_call)
{
	static struct fixture f;
	char *path = t_temp(FILE_BYTES), *buf = memory(4 * KIB);
	struct iomap_debug_counters before, after;

	if (!t_debug())
		cr_skip_test("counts in debug builds only");
	setup(&f, path, 0);
	if (strcmp(iomap_bdev_io_path(f.bdev), "io_uring") != 0) {
		teardown(&f);
		t_temp_free(path);
		cr_skip_test("only io_uring sends with the sleep");
	}
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(iomap_write(f.direct, buf, 4 * KIB, i * 4 * KIB), 4 * KIB);
	before = t_counters();
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(iomap_read(f.direct, buf, 4 * KIB, (i % 20) * 4 * KIB), 4 * KIB);
	after = t_counters();
	/* a sleep may end for nothing */
	cr_assert_leq(after.syscalls_nr - before.syscalls_nr, 130U);
	teardown(&f);
	t_temp_free(path);
	free(buf);
}
