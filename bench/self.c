/* SPDX-License-Identifier: MIT */
/*
 * self.c - the harness measured against itself.
 *
 * self: a peer in our place, against itself: what differs is noise, and has to stay within 3 %.
 * self-fio: the bare ring loop against fio on the same file, as a child process: a bare loop that
 * is slower than a general tool would be no yardstick.
 */
#include "bdev.h"

/* ---- the scenarios ---- */

#define SIDE(name, kind, arg) { name, false, arg, kind##_setup, kind##_round, kind##_teardown }

static const struct bench_side memcpy_sides[] = {
	SIDE("ours", bdev_memcpy, NULL), SIDE("again", bdev_memcpy, NULL), { 0 }
};
static const struct bench_side ring_sides[] = {
	SIDE("ours", bdev_ring, &bdev_ring_plain), SIDE("again", bdev_ring, &bdev_ring_plain), { 0 }
};
static const struct bench_side fio_sides[] = {
	SIDE("ours", bdev_ring, &bdev_ring_tuned), SIDE("fio", bdev_fio, NULL), { 0 }
};

static const struct bench_metric metrics[] = {
	{ "iops", "transfers/s", false, BENCH_SPEED, 0 }, { 0 }
};

static const struct bdev_param memory_param = { "", BDEV_MEMORY, false, false, 1, 4096 };
static const struct bdev_param read_param = { "", BDEV_DISK, false, false, 32, 4096 };
static const struct bdev_param write_param = { "", BDEV_DISK, true, false, 32, 4096 };

static bool self_get(unsigned index, struct bench_case *out)
{
	if (index > 1)
		return false;
	snprintf(out->id, sizeof(out->id), "self/%s", index ? "ring" : "memcpy");
	out->sides = index ? ring_sides : memcpy_sides;
	out->param = index ? &read_param : &memory_param;
	out->targets[0] = (struct bench_target){ "again", 0, 1.03, BENCH_SAME };
	return true;
}

static bool fio_get(unsigned index, struct bench_case *out)
{
	if (index > 1)
		return false;
	snprintf(out->id, sizeof(out->id), "self-fio/%s", index ? "write" : "read");
	out->sides = fio_sides;
	out->param = index ? &write_param : &read_param;
	out->targets[0] = (struct bench_target){ "fio", 0, 0.95, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_self = {
	.id = "self",
	.what = "a peer against itself: the harness, and the noise",
	.metrics = metrics,
	.get = self_get,
};
const struct bench_scenario bench_self_fio = {
	.id = "self-fio",
	.what = "the best bare ring loop against fio, random 4 KiB at depth 32",
	.metrics = metrics,
	.slow = true,
	.get = fio_get,
};
