/* SPDX-License-Identifier: MIT */
/*
 * crash_device.c - a device over memory of the caller, which nobody reads before it is written;
 * and how everything here ends when something is wrong.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

const char *const crash_names[CRASH_NAMES] = { "alpha", "beta", "gamma", "delta" };
struct crash_where crash_where;

/* In one piece, since other processes may print too. */
void crash_die(const char *format, ...)
{
	char what[200], repeat[160];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (crash_where.in_cut)
		snprintf(repeat, sizeof(repeat), "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
			 crash_where.seed, crash_where.cut, crash_where.kind, crash_where.cut_seed);
	else
		snprintf(repeat, sizeof(repeat), "%" PRIu64, crash_where.seed);
	fprintf(stderr,
		"xs_crash: %s\n"
		"xs_crash: found after %" PRIu64 " states, at moment %" PRIu64 "%s\n"
		"xs_crash: repeat it with XS_CRASH='%s' and the same program\n",
		what, crash_where.states, crash_where.moment,
		crash_where.in_cut ? " of a cut" : " of the script itself", repeat);
	fflush(NULL);
	abort();
}

uint64_t crash_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void *crash_alloc(size_t bytes)
{
	void *memory = calloc(1, bytes);

	if (!memory)
		crash_die("no memory");
	return memory;
}

/* Errors are injected; what becomes of them is looked at, not read. */
static void no_log(void *ctx, enum iomap_log_level level, const char *message)
{
	(void)ctx;
	(void)level;
	(void)message;
}

struct iomap_engine *crash_engine(uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 4;
	opts.nr_queues = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.log = no_log;
	CRASH_OK(iomap_engine_create(&opts, &engine));
	return engine;
}

/* ---- the device ---- */

static void look_for_poison(const unsigned char *bytes, uint64_t addr, uint64_t len)
{
	for (uint64_t at = 0; at < len; at += IOMAP_SECTOR_SIZE) {
		const unsigned char *sector = bytes + addr + at;

		if (sector[0] == CRASH_POISON && !memcmp(sector, sector + 1, IOMAP_SECTOR_SIZE - 1))
			crash_die("poison is read at 0x%" PRIx64, addr + at);
	}
}

static void submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct crash_device *device = iomap_bdev_private(bdev);
	unsigned char *bytes = device->bytes;
	uint64_t addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	uint64_t len = bio->bi_iter.bi_size;
	uint64_t moved = len;

	switch (bio->bi_opf & IOMAP_REQ_OP_MASK) {
	case IOMAP_REQ_OP_READ:
		if (device->watched)
			look_for_poison(bytes, addr, len);
		moved = iomap_bio_copy_in(bio, 0, bytes + addr, len);
		break;
	case IOMAP_REQ_OP_WRITE:
		moved = iomap_bio_copy_out(bio, 0, bytes + addr, len);
		break;
	default:
		break;
	}
	bio->bi_status = moved == len ? 0 : -EIO;
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops device_ops = { .submit_bio = submit };

void crash_device_open(struct crash_device *device, struct iomap_engine *engine,
		       unsigned char *bytes)
{
	device->bytes = bytes;
	device->watched = false;
	CRASH_OK(iomap_bdev_create(engine, &device_ops, CRASH_DEV_BYTES, NULL, device,
				   &device->bdev));
}
