/* SPDX-License-Identifier: MIT */
/*
 * crash_cuts.c - the images that power cuts during a script may leave, each judged once.
 *
 * Of an image, the last mark says what had been done and promised, so:
 *
 *	- it opens, and check finds nothing;
 *	- every name and every byte is as the model allows, read through the cache and past it;
 *	- no sector is read that nobody has written;
 *	- an object can be put, written anew and removed, and then it checks again, and what
 *	  was there before is what it was;
 *	- objects that share blocks can be overwritten, each without a change of the others.
 *
 * An image that has come up before is judged again when another mark was the last; as a
 * distinct one it counts only once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "crash.h"

#define JUDGED_SLOTS (UINT64_C(1) << 16)
#define WRITES_MAX 4096U /* in flight at once */

struct trial {
	const struct crash_script *script;
	struct crash_plan *plan;
	struct iomap_replay *replay;
	struct iomap_engine *engine;
	struct crash_device device;
	uint64_t judged[JUDGED_SLOTS]; /* (image, mark) */
};

/* ---- what an image owes ---- */

static void check(struct iomap_bdev *bdev)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;
	int error = xs_check(bdev, &counts, &why);

	if (error)
		crash_die("check: %s: %s", strerror(-error), why.text);
	if (counts.data_bytes + counts.meta_bytes + counts.free_bytes != counts.bytes)
		crash_die("check: data, metadata and free space do not add up");
}

static struct iomap_file *open_object(struct xs_object *object, unsigned flags)
{
	struct iomap_file *file;

	CRASH_OK(iomap_file_open(&object->inode, flags, &file));
	return file;
}

/* All of an object, at most CRASH_OBJECT_MAX bytes.  Return: its size, -1: not there. */
static int64_t get(struct xs_store *store, const char *name, unsigned flags, unsigned char *bytes)
{
	struct xs_object *object;
	struct iomap_file *file;
	int error = xs_lookup(store, name, &object);
	int64_t size, at = 0;

	if (error == -ENOENT)
		return -1;
	CRASH_OK(error);
	size = iomap_i_size_read(&object->inode);
	file = open_object(object, flags);
	while (at < size && at < CRASH_OBJECT_MAX) {
		ssize_t got = iomap_read(file, bytes + at, (size_t)(CRASH_OBJECT_MAX - at), at);

		if (got <= 0)
			crash_die("read of %s at %lld: %zd", name, (long long)at, got);
		at += got;
	}
	iomap_file_close(file);
	CRASH_OK(xs_put(object));
	return size;
}

/* @flags: of the opened files. */
static void judge_names(const struct trial *trial, struct xs_store *store, uint64_t moment,
			unsigned flags)
{
	_Alignas(XS_BLOCK_BYTES) unsigned char bytes[CRASH_OBJECT_MAX];

	for (int name = 0; name < CRASH_NAMES; name++) {
		int64_t size = get(store, crash_names[name], flags, bytes);
		const char *wrong =
			crash_judge_name(&trial->script->model, name, moment, bytes, size);

		if (wrong)
			crash_die("%s %s", crash_names[name], wrong);
	}
}

static void put_new(struct xs_store *store, const char *name, size_t len, int byte)
{
	unsigned char bytes[3 * XS_BLOCK_BYTES];
	struct xs_object *object;
	struct iomap_file *file;

	memset(bytes, byte, len);
	CRASH_OK(xs_create(store, &object));
	file = open_object(object, 0);
	if (iomap_write(file, bytes, len, 0) != (ssize_t)len)
		crash_die("cannot write after the cut");
	CRASH_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	CRASH_OK(xs_link(object, name));
	CRASH_OK(xs_commit(store));
	CRASH_OK(xs_put(object));
}

struct image {
	_Alignas(XS_BLOCK_BYTES) unsigned char bytes[CRASH_NAMES][CRASH_OBJECT_MAX];
	int64_t size[CRASH_NAMES];
};

/* Write all of an object anew. */
static void overwrite(struct xs_store *store, int name, unsigned char *bytes, size_t len)
{
	struct xs_object *object;
	struct iomap_file *file;

	memset(bytes, 0xee, len);
	CRASH_OK(xs_lookup(store, crash_names[name], &object));
	file = open_object(object, 0);
	if (iomap_write(file, bytes, len, 0) != (ssize_t)len)
		crash_die("cannot overwrite after the cut");
	CRASH_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	CRASH_OK(xs_put(object));
}

/* Whoever opens the image knows what objects share: one that is overwritten is alone in that. */
static void judge_sharing(struct xs_store *store)
{
	static struct image now, read;
	struct xs_usage usage;

	xs_usage(store, &usage);
	if (!usage.shared_nr)
		return;
	for (int name = 0; name < CRASH_NAMES; name++)
		now.size[name] = get(store, crash_names[name], 0, now.bytes[name]);
	for (int name = 0; name < CRASH_NAMES; name++) {
		if (now.size[name] <= 0)
			continue;
		overwrite(store, name, now.bytes[name], (size_t)now.size[name]);
		for (int other = 0; other < CRASH_NAMES; other++) {
			read.size[other] =
				get(store, crash_names[other], IOMAP_O_DIRECT, read.bytes[other]);
			if (read.size[other] != now.size[other] ||
			    (read.size[other] > 0 &&
			     memcmp(read.bytes[other], now.bytes[other], (size_t)read.size[other])))
				crash_die("%s is wrong when %s has been overwritten",
					  crash_names[other], crash_names[name]);
		}
	}
}

static void judge(struct trial *trial, uint64_t moment)
{
	struct iomap_bdev *bdev = trial->device.bdev;
	struct xs_why why = { .text = "" };
	struct xs_store *store;
	int error;

	check(bdev);
	error = xs_open(trial->engine, bdev, false, &store, &why);
	if (error)
		crash_die("open: %s: %s", strerror(-error), why.text);
	judge_names(trial, store, moment, 0);
	put_new(store, "new", 3 * XS_BLOCK_BYTES, 1);
	put_new(store, "new", 100, 2);
	CRASH_OK(xs_unlink(store, "new"));
	CRASH_OK(xs_commit(store));
	judge_names(trial, store, moment, IOMAP_O_DIRECT);
	judge_sharing(store);
	CRASH_OK(xs_close(store));
	check(bdev);
}

/* ---- which states ---- */

/* Return: whether @key is new to the set. */
static bool add_to(uint64_t *slots, uint64_t slots_nr, uint64_t key)
{
	uint64_t at = key & (slots_nr - 1);

	key |= !key;
	for (uint64_t n = 0; n < slots_nr; n++, at = (at + 1) & (slots_nr - 1)) {
		uint64_t there = 0;

		/* Other processes add to the same slots; nothing else goes with a key. */
		if (__atomic_compare_exchange_n(&slots[at], &there, key, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED))
			return true;
		if (there == key)
			return false;
	}
	crash_die("more states than expected");
}

static void count(struct crash_plan *plan, uint64_t hash, const struct iomap_cut_outcome *outcome)
{
	/* only counters */
	__atomic_fetch_add(&plan->states, 1, __ATOMIC_RELAXED);
	if (!add_to(plan->slots, plan->slots_nr, hash))
		return;
	__atomic_fetch_add(&plan->distinct, 1, __ATOMIC_RELAXED);
	if (outcome->dropped_nr || outcome->torn_nr)
		__atomic_fetch_add(&plan->incomplete, 1, __ATOMIC_RELAXED);
}

static void draw_subset(uint64_t *keep, uint64_t writes_nr, enum crash_kind kind, uint64_t seed)
{
	memset(keep, 0, WRITES_MAX / 8);
	for (uint64_t n = 0; n < writes_nr; n++) {
		bool kept = kind == CRASH_CUT_PREFIX ? n < seed : crash_random(&seed) & 1;

		keep[n / 64] |= (uint64_t)kept << (n % 64);
	}
}

static void try_cut(struct trial *trial, enum crash_kind kind, uint64_t seed)
{
	static const uint32_t modes[] = {
		[CRASH_CUT_NONE] = IOMAP_CUT_NONE,     [CRASH_CUT_ALL] = IOMAP_CUT_ALL,
		[CRASH_CUT_PREFIX] = IOMAP_CUT_SUBSET, [CRASH_CUT_WHOLE] = IOMAP_CUT_SUBSET,
		[CRASH_CUT_RANDOM] = IOMAP_CUT_RANDOM,
	};
	uint64_t keep[WRITES_MAX / 64], hash;
	struct iomap_cut cut = { .size = sizeof(cut), .mode = modes[kind], .keep = keep };
	struct iomap_cut_outcome outcome;
	struct iomap_replay_info info;

	CRASH_OK(iomap_replay_info(trial->replay, &info, sizeof(info)));
	if (info.writes_nr > WRITES_MAX)
		crash_die("too many writes in flight");
	cut.seed = seed + info.at * 1000003;
	draw_subset(keep, info.writes_nr, kind, kind == CRASH_CUT_PREFIX ? seed : cut.seed);
	crash_where.moment = info.mark;
	crash_where.cut = info.at;
	crash_where.kind = kind;
	crash_where.cut_seed = seed;
	CRASH_OK(iomap_replay_image(trial->replay, &cut, trial->device.bytes, &outcome));
	hash = XXH3_64bits(trial->device.bytes, CRASH_DEV_BYTES);
	if (!add_to(trial->judged, JUDGED_SLOTS, hash ^ info.mark * UINT64_C(0x9e3779b97f4a7c15)))
		return;
	judge(trial, info.mark);
	count(trial->plan, hash, &outcome);
	crash_where.states++;
}

/* How many of the writes that are not durable have completed. */
static uint64_t completed_nr(const struct trial *trial)
{
	struct iomap_writelog_event event;
	uint64_t nr = 0;

	while (!iomap_replay_write(trial->replay, nr, &event, sizeof(event)) &&
	       event.type == IOMAP_WRITELOG_COMPLETE)
		nr++;
	return nr;
}

static void try_event(struct trial *trial)
{
	const struct crash_plan *plan = trial->plan;
	struct iomap_replay_info info;

	CRASH_OK(iomap_replay_info(trial->replay, &info, sizeof(info)));
	try_cut(trial, CRASH_CUT_ALL, 0);
	if (plan->cuts == CRASH_IN_ORDER)
		for (uint64_t n = completed_nr(trial); n < info.writes_nr; n++)
			try_cut(trial, CRASH_CUT_PREFIX, n);
	if (plan->cuts == CRASH_IN_ORDER)
		return;
	try_cut(trial, CRASH_CUT_NONE, 0);
	for (uint64_t n = 1; info.writes_nr && n <= plan->seeds; n++)
		try_cut(trial, plan->cuts == CRASH_UNTORN ? CRASH_CUT_WHOLE : CRASH_CUT_RANDOM, n);
}

static struct trial *open_trial(const struct crash_script *script, struct crash_plan *plan)
{
	struct trial *trial = crash_alloc(sizeof(*trial));

	trial->script = script;
	trial->plan = plan;
	trial->engine = crash_engine(1 << 20);
	crash_device_open(&trial->device, trial->engine, crash_alloc(CRASH_DEV_BYTES));
	trial->device.watched = true;
	CRASH_OK(iomap_replay_open(script->log, &trial->replay));
	crash_where.in_cut = true;
	return trial;
}

static void close_trial(struct trial *trial)
{
	crash_where.in_cut = false;
	iomap_replay_close(trial->replay);
	CRASH_OK(iomap_bdev_close(trial->device.bdev));
	CRASH_OK(iomap_engine_destroy(trial->engine));
	free(trial->device.bytes);
	free(trial);
}

void crash_try_all(const struct crash_script *script, struct crash_plan *plan)
{
	struct trial *trial = open_trial(script, plan);
	struct iomap_writelog_info info;

	CRASH_OK(iomap_writelog_info(script->log, &info, sizeof(info)));
	if (info.ended)
		crash_die("the log has ended");
	for (uint64_t n = 0; n <= info.events_nr; n++) {
		/* others count too */
		if (__atomic_load_n(&plan->distinct, __ATOMIC_RELAXED) >= plan->distinct_max)
			break;
		CRASH_OK(iomap_replay_seek(trial->replay, n));
		try_event(trial);
	}
	close_trial(trial);
}

void crash_try_seed(uint64_t seed, struct crash_plan *plan)
{
	struct crash_script *script = crash_alloc(sizeof(*script));

	crash_script_run(script, seed);
	crash_try_all(script, plan);
	crash_script_end(script);
	free(script);
}

bool crash_try_named(void)
{
	uint64_t seed, at, kind, cut_seed, slot[64] = { 0 };
	struct crash_plan plan = { .slots = slot, .slots_nr = 64 };
	const char *text = getenv("XS_CRASH");
	struct crash_script *script;
	struct trial *trial;
	int nr;

	if (!text)
		return false;
	nr = sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &seed, &at, &kind,
		    &cut_seed);
	if ((nr != 1 && nr != 4) || (nr == 4 && kind > CRASH_CUT_RANDOM))
		crash_die("XS_CRASH is neither 'seed' nor 'seed cut kind cut-seed': %s", text);
	crash_where.told = true;
	script = crash_alloc(sizeof(*script));
	crash_script_run(script, seed);
	if (nr == 4) {
		trial = open_trial(script, &plan);
		CRASH_OK(iomap_replay_seek(trial->replay, at));
		try_cut(trial, (enum crash_kind)kind, cut_seed);
		close_trial(trial);
	}
	crash_script_end(script);
	free(script);
	return true;
}
