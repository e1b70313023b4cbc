/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd01_atomic.c - what a file says of atomic writes, cut to what is never split.
 *
 * No file system at hand has them: the test answers for it, by a syscall() of its own that
 * comes before the C library's.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "blktest.h"

#define KIB 1024U
#define WRITE_ATOMIC 0x00010000U

static struct {
	bool on;
	uint32_t min, max, segments;
} says;

static void forge(unsigned char *stx)
{
	uint32_t mask;

	memcpy(&mask, stx, sizeof(mask));
	mask |= WRITE_ATOMIC;
	memcpy(stx, &mask, sizeof(mask));
	memcpy(stx + 0xa8, &says.min, 4);
	memcpy(stx + 0xac, &says.max, 4);
	memcpy(stx + 0xb0, &says.segments, 4);
}

/* It takes six arguments however many there are, which AddressSanitizer sees as a stray read. */
__attribute__((no_sanitize_address)) long syscall(long nr, ...)
{
	static long (*next)(long nr, ...);
	long arg[6], ret;
	va_list list;

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "syscall");
	va_start(list, nr);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(list, long);
	va_end(list);
	ret = next(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	if (nr == SYS_statx && says.on && ret == 0)
		forge((unsigned char *)(uintptr_t)arg[4]);
	return ret;
}

static struct iomap_bdev_limits limits_with(uint32_t min, uint32_t max, uint32_t segments)
{
	char *path = t_temp(1024 * KIB);
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	says.min = min;
	says.max = max;
	says.segments = segments;
	says.on = true;
	bdev = bt_open(&bt, path, 0);
	says.on = false;
	iomap_bdev_limits(bdev, &limits);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
	return limits;
}

Test(bd01_atomic, bd01_atomic_limits_are_within_those_of_one_transfer)
{
	struct iomap_bdev_limits limits = limits_with(4 * KIB, 64 * KIB, 3);

	cr_assert_eq(limits.atomic_write_min_bytes, 4 * KIB);
	cr_assert_eq(limits.atomic_write_max_bytes, 64 * KIB);
	cr_assert_eq(limits.atomic_write_segments_nr, 3U);

	limits = limits_with(512, UINT32_C(1) << 31, 1000000);
	cr_assert_geq(limits.atomic_write_min_bytes, limits.logical_block_size);
	cr_assert_leq(limits.atomic_write_max_bytes, limits.max_transfer_bytes);
	cr_assert_gt(limits.atomic_write_max_bytes, 0U);
	cr_assert_eq(limits.atomic_write_segments_nr, limits.max_segments_nr);
}

Test(bd01_atomic, bd01_atomic_limits_that_make_no_sense_are_none)
{
	const uint32_t bad[][2] = {
		{ 0, 4096 }, { 4096, 0 }, { 8192, 4096 }, { 4096, 12288 }, { 3000, 4096 },
		{ 128, 256 }, { UINT32_C(1) << 31, UINT32_C(1) << 31 },
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct iomap_bdev_limits limits = limits_with(bad[i][0], bad[i][1], 1);

		cr_assert_eq(limits.atomic_write_min_bytes, 0U, "%u", i);
		cr_assert_eq(limits.atomic_write_max_bytes, 0U, "%u", i);
		cr_assert_eq(limits.atomic_write_segments_nr, 0U, "%u", i);
	}
}
