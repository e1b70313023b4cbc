/* SPDX-License-Identifier: MIT */
/*
 * xs_crash.c - a script on xstore, and the images that a power cut during it may leave.
 *
 * The device is filled with poison before the store is made on it.  After each step the
 * script keeps what every object holds, and which step's contents were last made durable,
 * and marks the log.  Of each image, the last mark says which steps were done, so:
 *
 *	- it opens, and check finds nothing;
 *	- a name is there if it was after the last step done, or after the one in between;
 *	- each byte is one that the object had from its last durable contents on, or zero where
 *	  a write had not been made durable;
 *	- no byte is poison, which no step writes;
 *	- something can be put into it, and it checks again.
 */
#include "xst.h"

#define DEV_BYTES (UINT64_C(512) << 10)
#define POISON 0xdb
#define STEPS 60
#define NAMES 4
#define OBJECT_MAX (48 << 10)
#define SEEDS 8

static const char *const names[NAMES] = { "alpha", "beta", "gamma", "delta" };

/* An object as it was after a step. */
struct view {
	bool exists;
	int born;   /* step that put it */
	int synced; /* step whose contents of it are durable */
	int64_t size;
	unsigned char *bytes; /* OBJECT_MAX, zero behind the size */
};

struct script {
	struct view view[STEPS + 1][NAMES]; /* [0]: the empty store */
	struct iomap_engine *engine;
	struct iomap_bdev *log;
	struct xs_store *store;
	uint64_t random;
};

static size_t draw(struct script *script, size_t below)
{
	return (size_t)(xst_random(&script->random) % below);
}

/* Bytes of one step: never zero nor poison, and others at other places. */
static unsigned char byte_of(int step, int64_t pos)
{
	unsigned value = (unsigned)(step * 37 + pos / 512 * 11 + pos) % 200 + 1;

	return (unsigned char)value;
}

static void fill(unsigned char *to, int step, int64_t pos, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = byte_of(step, pos + (int64_t)i);
}

/* ---- steps ---- */

static void step_put(struct script *script, int step, int name)
{
	struct view *view = &script->view[step][name];
	size_t len = draw(script, OBJECT_MAX / 2) * draw(script, 2) + draw(script, 6000);

	memset(view->bytes, 0, OBJECT_MAX);
	fill(view->bytes, step, 0, len);
	XST_OK(xst_put(script->store, names[name], view->bytes, len));
	view->exists = true;
	view->born = view->synced = step;
	view->size = (int64_t)len;
}

static void step_write(struct script *script, struct xs_object *object, int step, struct view *view)
{
	int64_t pos = (int64_t)draw(script, OBJECT_MAX - 10000);
	size_t len = 1 + draw(script, 9000);

	fill(view->bytes + pos, step, pos, len);
	XST_OK(xst_write(object, view->bytes + pos, len, pos));
	if (pos + (int64_t)len > view->size)
		view->size = pos + (int64_t)len;
}

static void step_truncate(struct script *script, struct xs_object *object, struct view *view)
{
	int64_t size = (int64_t)draw(script, OBJECT_MAX);
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_truncate(file, size));
	iomap_file_close(file);
	if (size < view->size)
		memset(view->bytes + size, 0, (size_t)(view->size - size));
	view->size = size;
}

static void step_change(struct script *script, int step, int name, size_t what,
			struct xs_object *object)
{
	struct view *view = &script->view[step][name];

	if (what < 4)
		step_write(script, object, step, view);
	else if (what == 4)
		step_truncate(script, object, view);
	/* some data goes to the device without being durable */
	if (draw(script, 3) == 0) {
		struct iomap_file *file;

		XST_OK(iomap_file_open(&object->inode, 0, &file));
		XST_OK(iomap_sync_range(file, 0, INT64_MAX, IOMAP_SYNC_WRITE));
		iomap_file_close(file);
	}
	if (what > 4 || draw(script, 3) == 0) {
		XST_OK(xst_fsync(object));
		view->synced = step;
	}
}

static void do_step(struct script *script, int step, struct xs_object **open)
{
	int name = (int)draw(script, NAMES);
	struct view *view = &script->view[step][name];
	size_t what = draw(script, 8);

	for (int i = 0; i < NAMES; i++) {
		struct view *now = &script->view[step][i];

		*now = script->view[step - 1][i];
		now->bytes = malloc(OBJECT_MAX);
		memcpy(now->bytes, script->view[step - 1][i].bytes, OBJECT_MAX);
	}
	if (view->exists && what < 6) {
		step_change(script, step, name, what, open[name]);
	} else {
		if (open[name])
			XST_OK(xs_put(open[name]));
		open[name] = NULL;
		if (view->exists && what == 6) {
			XST_OK(xs_unlink(script->store, names[name]));
			XST_OK(xs_commit(script->store));
			memset(view->bytes, 0, OBJECT_MAX);
			view->exists = false;
			view->size = 0;
		} else {
			step_put(script, step, name);
			XST_OK(xs_lookup(script->store, names[name], &open[name]));
		}
	}
	XST_OK(iomap_writelog_mark(script->log, (uint64_t)step));
}

static void run_script(struct script *script, uint64_t seed)
{
	struct xs_object *open[NAMES] = { NULL };
	unsigned char *poison = malloc(DEV_BYTES);

	memset(poison, POISON, DEV_BYTES);
	script->random = seed;
	script->engine = xst_engine(1 << 20);
	XST_OK(iomap_writelog_open_memory(script->engine, DEV_BYTES, poison, NULL, &script->log));
	free(poison);
	XST_OK(xs_mkfs(script->log, 0, XST_ID));
	XST_OK(iomap_writelog_restart(script->log));
	script->store = xst_open(script->engine, script->log);
	for (int i = 0; i < NAMES; i++)
		script->view[0][i].bytes = calloc(1, OBJECT_MAX);
	for (int step = 1; step <= STEPS; step++)
		do_step(script, step, open);
	for (int i = 0; i < NAMES; i++)
		if (open[i])
			XST_OK(xs_put(open[i]));
	XST_OK(xs_close(script->store));
}

static void end_script(struct script *script)
{
	XST_OK(iomap_bdev_close(script->log));
	XST_OK(iomap_engine_destroy(script->engine));
	for (int step = 0; step <= STEPS; step++)
		for (int i = 0; i < NAMES; i++)
			free(script->view[step][i].bytes);
}

/* ---- what an image owes ---- */

/* Whether what is there may be the object of view @at, of which steps up to @last count. */
static bool may_be(const struct script *script, int name, int at, int last,
		   const unsigned char *got, int64_t size)
{
	const struct view *now = &script->view[at][name];
	int64_t least = now->size, most = now->size;
	int first = now->synced;

	while (last > at &&
	       (!script->view[last][name].exists || script->view[last][name].born != now->born))
		last--;
	for (int j = first; j <= last; j++) {
		int64_t s = script->view[j][name].size;

		least = s < least ? s : least;
		most = s > most ? s : most;
	}
	if (size < least || size > most)
		return false;
	for (int64_t pos = 0; pos < size; pos++) {
		bool good = false;

		for (int j = first; j <= last && !good; j++) {
			const struct view *view = &script->view[j][name];

			good = view->bytes[pos] == got[pos] || (!got[pos] && pos >= view->size);
		}
		if (!good)
			return false;
	}
	return true;
}

static bool name_is_right(const struct script *script, int name, int step, const unsigned char *got,
			  int64_t size)
{
	int last = step < STEPS ? step + 1 : step;

	for (int at = step; at <= last; at++) {
		const struct view *view = &script->view[at][name];

		if (!view->exists && size < 0)
			return true;
		/* of a step in between, only a new object is a thing of its own */
		if (view->exists && size >= 0 &&
		    (at == step || view->born == at ? may_be(script, name, at, last, got, size) :
						      false))
			return true;
	}
	return false;
}

static void judge(const struct script *script, struct iomap_engine *engine, struct iomap_bdev *bdev,
		  int step, const char *where)
{
	static const char text[] = "still works";
	struct xs_store *store;

	xst_check(bdev);
	store = xst_open(engine, bdev);
	for (int name = 0; name < NAMES; name++) {
		int64_t size;
		unsigned char *got = xst_get(store, names[name], &size);

		cr_assert(size <= 0 || !memchr(got, POISON, (size_t)size), "%s: poison in %s",
			  where, names[name]);
		cr_assert(name_is_right(script, name, step, got, size), "%s: %s is wrong", where,
			  names[name]);
		free(got);
	}
	XST_OK(xst_put(store, "new", text, sizeof(text)));
	XST_OK(xs_close(store));
	xst_check(bdev);
}

/* ---- states ---- */

#define HASHES (1U << 16)

struct states {
	uint64_t *seen; /* HASHES slots */
	unsigned char *image;
	struct iomap_replay *replay;
	struct iomap_engine *engine;
	struct iomap_bdev *target;
	uint64_t distinct, incomplete;
};

static uint64_t hash_image(const unsigned char *image)
{
	uint64_t hash = 1, word;

	for (size_t i = 0; i < DEV_BYTES; i += sizeof(word)) {
		memcpy(&word, image + i, sizeof(word));
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 29;
	}
	return hash ? hash : 1;
}

static bool is_new(struct states *states, uint64_t key)
{
	size_t at = key % HASHES;

	while (states->seen[at] && states->seen[at] != key)
		at = (at + 1) % HASHES;
	if (states->seen[at])
		return false;
	states->seen[at] = key;
	return true;
}

static void try_cut(const struct script *script, struct states *states, struct iomap_cut cut)
{
	struct iomap_cut_outcome outcome;
	struct iomap_replay_info info;
	char where[100];

	cut.size = sizeof(cut);
	XST_OK(iomap_replay_info(states->replay, &info, sizeof(info)));
	XST_OK(iomap_replay_image(states->replay, &cut, states->image, &outcome));
	/* the same image owes more after a later mark */
	if (!is_new(states, (hash_image(states->image) ^ info.mark << 56) | 1))
		return;
	XST_OK(iomap_replay_store(states->replay, &cut, states->target, NULL));
	snprintf(where, sizeof(where), "cut %llu, mode %u, seed %llu, step %llu",
		 (unsigned long long)info.at, cut.mode, (unsigned long long)cut.seed,
		 (unsigned long long)info.mark);
	judge(script, states->engine, states->target, (int)info.mark, where);
	states->distinct++;
	states->incomplete += outcome.dropped_nr || outcome.torn_nr;
}

static void try_all(const struct script *script, struct states *states)
{
	struct iomap_writelog_info info;

	XST_OK(iomap_writelog_info(script->log, &info, sizeof(info)));
	cr_assert(!info.ended);
	XST_OK(iomap_replay_open(script->log, &states->replay));
	states->image = malloc(DEV_BYTES);
	states->seen = calloc(HASHES, sizeof(*states->seen));
	for (uint64_t n = 0; n <= info.events_nr; n++) {
		XST_OK(iomap_replay_seek(states->replay, n));
		try_cut(script, states, (struct iomap_cut){ .mode = IOMAP_CUT_NONE });
		try_cut(script, states, (struct iomap_cut){ .mode = IOMAP_CUT_ALL });
		for (uint64_t seed = 1; seed <= SEEDS; seed++)
			try_cut(script, states,
				(struct iomap_cut){ .mode = IOMAP_CUT_RANDOM,
						    .seed = n * SEEDS + seed });
	}
	iomap_replay_close(states->replay);
	free(states->image);
	free(states->seen);
}

static void campaign(uint64_t seed)
{
	struct script *script = calloc(1, sizeof(*script));
	struct states states = { .engine = xst_engine(1 << 20) };

	run_script(script, seed);
	XST_OK(iomap_bdev_open_memory(states.engine, DEV_BYTES, &states.target));
	try_all(script, &states);
	printf("seed %llu: %llu distinct states, %llu with writes dropped or torn\n",
	       (unsigned long long)seed, (unsigned long long)states.distinct,
	       (unsigned long long)states.incomplete);
	cr_assert_gt(states.distinct, 300U);
	cr_assert_gt(states.incomplete, states.distinct / 4);
	XST_OK(iomap_bdev_close(states.target));
	XST_OK(iomap_engine_destroy(states.engine));
	end_script(script);
	free(script);
}

Test(xs_crash, ie06_every_power_cut_leaves_what_was_acknowledged_and_no_stale_bytes)
{
	campaign(1);
}

Test(xs_crash, ie06_every_power_cut_of_another_script)
{
	campaign(20261);
}
