/* SPDX-License-Identifier: MIT */
/*
 * crash_script.c - scripts on a store, drawn from a seed.
 *
 * The store lies on four devices, from above:
 *
 *	faulty	 fails writes and flushes, and says so, or has done a part of them
 *	writelog records what comes through, in the order in which it is submitted and completed
 *	faulty	 holds writes: they have been submitted and are not complete, for as long as the
 *		 script likes
 *	memory	 full of poison when the store is made
 *
 * With a held write an object has data under way while other objects are synced and the
 * store commits.  What would wait for that write releases it first.
 *
 * A commit can be held as well, at one of its writes.  Then it runs in a second thread, and
 * the script goes on with steps that need no commit.  The two never run at the same time:
 * the script waits until the commit is held, or over, and then until it is over.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

struct slot {
	struct xs_object *open;
	struct iomap_file *file;
	struct crash_object *object;
	uint32_t held;	 /* rule that holds some of its writes, or 0 */
	bool owes_error; /* a write failed; the next fsync has to say so */
	bool syncing;	 /* a held commit is that of its fsync */
};

struct run {
	struct crash_script *script;
	struct xs_store *store;
	struct slot slot[CRASH_NAMES];
	uint64_t random;
	uint64_t moment;
	bool faults;
	bool committing; /* a commit is held */
	uint32_t fault;	 /* rule of the fault that may hit this step, or 0 */
};

static size_t draw(struct run *run, size_t below)
{
	return (size_t)(crash_random(&run->random) % below);
}

/* The next moment; what was before it is over. */
static uint64_t tick(struct run *run)
{
	CRASH_OK(iomap_writelog_mark(run->script->log, ++run->moment));
	crash_where.moment = run->moment;
	return run->moment;
}

__attribute__((format(printf, 2, 3))) static void tell(const struct run *run, const char *format,
						       ...)
{
	va_list args;

	if (!crash_where.told)
		return;
	fprintf(stderr, "%4llu  ", (unsigned long long)run->moment);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* Bytes of one moment: never zero nor poison, and others at other places. */
static void fill(unsigned char *to, uint64_t moment, int64_t pos, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t at = (uint64_t)pos + i;

		to[i] = (unsigned char)((moment * 37 + at / 512 * 11 + at) % 200 + 1);
	}
}

/* ---- holding ---- */

static uint32_t hold(struct run *run, uint32_t opf, uint64_t nth)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_DELAY,
		.ops = IOMAP_FAULT_ON_WRITE,
		.opf = opf,
		.flags = draw(run, 2) ? IOMAP_FAULT_HOLD_END : 0,
		.nth = nth,
	};
	uint32_t id;

	CRASH_OK(iomap_faulty_add(run->script->low, &fault, &id));
	return id;
}

static void release(struct run *run, uint32_t rule)
{
	/* IOMAP_RELEASE_FIFO .. RANDOM */
	int64_t nr =
		iomap_faulty_release(run->script->low, rule, UINT64_MAX, (uint32_t)draw(run, 3));

	if (nr < 0)
		crash_die("release: %lld", (long long)nr);
}

/* Before anything that waits for writes of this object. */
static void settle(struct run *run, struct slot *slot)
{
	if (slot->held)
		release(run, slot->held);
	slot->held = 0;
}

/* ---- failing ---- */

static void maybe_fault(struct run *run)
{
	static const uint32_t kinds[] = { IOMAP_FAULT_FAIL, IOMAP_FAULT_FAIL, IOMAP_FAULT_TEAR,
					  IOMAP_FAULT_SHORTEN };
	static const uint32_t ops[] = { IOMAP_FAULT_ON_WRITE,
					IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH };
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = kinds[draw(run, 4)],
		.nth = 1 + draw(run, 4),
		.error = -EIO,
	};

	if (!run->faults || draw(run, 2))
		return;
	fault.ops = ops[fault.kind == IOMAP_FAULT_FAIL && draw(run, 2)];
	if (fault.kind == IOMAP_FAULT_SHORTEN)
		fault.amount = IOMAP_FAULT_ANY;
	CRASH_OK(iomap_faulty_add(run->script->top, &fault, &run->fault));
	tell(run, "  fault %u at I/O %llu", fault.kind, (unsigned long long)fault.nth);
}

/* Return: whether the fault has hit. */
static bool end_fault(struct run *run)
{
	uint64_t fired;

	if (!run->fault)
		return false;
	CRASH_OK(iomap_faulty_count(run->script->top, run->fault, NULL, &fired));
	CRASH_OK(iomap_faulty_remove(run->script->top, run->fault));
	run->fault = 0;
	run->script->faults_nr += fired;
	return fired;
}

/* ---- steps on an object ---- */

static void close_slot(struct run *run, struct slot *slot)
{
	int error;

	if (!slot->open)
		return;
	settle(run, slot);
	iomap_file_close(slot->file);
	error = xs_put(slot->open);
	if (error && !slot->object->tainted && !slot->owes_error)
		crash_die("xs_put: %s", strerror(-error));
	memset(slot, 0, sizeof(*slot));
}

static void write_bytes(struct run *run, struct slot *slot, int64_t pos, size_t len)
{
	uint64_t moment;
	struct crash_version *version;
	ssize_t put;

	settle(run, slot);
	moment = tick(run);
	version = crash_change(slot->object, moment);
	fill(version->bytes + pos, moment, pos, len);
	if (version->size < pos + (int64_t)len)
		version->size = pos + (int64_t)len;
	tell(run, "write [%lld, %lld)", (long long)pos, (long long)pos + (long long)len);
	put = iomap_write(slot->file, version->bytes + pos, len, pos);
	if (put != (ssize_t)len)
		crash_die("write: %zd of %zu", put, len);
}

static void step_write(struct run *run, struct slot *slot)
{
	size_t len = 1 + draw(run, draw(run, 2) ? 9000 : 700);
	int64_t pos = crash_now(slot->object)->size;

	if (draw(run, 3) || pos + (int64_t)len > CRASH_OBJECT_MAX)
		pos = (int64_t)draw(run, CRASH_OBJECT_MAX - len);
	write_bytes(run, slot, pos, len);
}

static void step_truncate(struct run *run, struct slot *slot)
{
	int64_t old = crash_now(slot->object)->size;
	int64_t size = (int64_t)draw(run, draw(run, 2) ? (size_t)old + 1 : CRASH_OBJECT_MAX);
	struct crash_version *version;

	settle(run, slot);
	version = crash_change(slot->object, tick(run));
	if (size < old)
		memset(version->bytes + size, 0, (size_t)(old - size));
	version->size = size;
	tell(run, "truncate from %lld to %lld", (long long)old, (long long)size);
	CRASH_OK(iomap_truncate(slot->file, size));
	if (size < old)
		crash_truncated(slot->object, version->from);
}

static void step_fsync(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	uint64_t begin;
	int error;

	settle(run, slot);
	begin = tick(run);
	maybe_fault(run);
	error = iomap_file_fsync(slot->file, 0);
	tell(run, "fsync: %d", error);
	if (end_fault(run))
		slot->owes_error = true;
	if (!error && slot->owes_error)
		crash_die("%s: fsync says nothing of a failed write", crash_names[name]);
	if (error && !slot->owes_error && !slot->object->tainted)
		crash_die("%s: fsync: %s", crash_names[name], strerror(-error));
	if (error)
		crash_taint(slot->object);
	else
		crash_synced(&run->script->model, slot->object, name, begin, tick(run));
	slot->owes_error = false;
}

/* Give data to the device, without waiting for it. */
static void step_start(struct run *run, struct slot *slot)
{
	uint32_t rule = 0;
	int64_t held;
	int error;

	settle(run, slot);
	tick(run);
	held = iomap_faulty_held_nr(run->script->low);
	if (draw(run, 2))
		rule = hold(run, 0, 0);
	else
		maybe_fault(run);
	error = iomap_sync_range(slot->file, 0, INT64_MAX, IOMAP_SYNC_WRITE);
	tell(run, "start to write out%s: %d", rule ? ", held" : "", error);
	if (end_fault(run)) {
		slot->owes_error = true;
		crash_taint(slot->object);
	} else if (error && !slot->owes_error) {
		crash_die("sync_range: %s", strerror(-error));
	}
	if (rule) {
		CRASH_OK(iomap_faulty_remove(run->script->low, rule));
		held = iomap_faulty_held_nr(run->script->low) - held;
		slot->held = held ? rule : 0;
		run->script->held_nr += (uint64_t)held;
	}
}

/* Give it to the device, and wait; what is there now is durable with the next commit. */
static void step_write_out(struct run *run, struct slot *slot)
{
	uint64_t begin;
	int error;

	settle(run, slot);
	begin = tick(run);
	error = iomap_sync_range(slot->file, 0, INT64_MAX,
				 IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER);
	tell(run, "write out: %d", error);
	if (error && !slot->owes_error)
		crash_die("sync_range: %s", strerror(-error));
	if (!error)
		crash_written(slot->object, begin);
}

/* ---- steps on the store ---- */

static void step_commit(struct run *run)
{
	uint64_t begin = tick(run);
	int error;

	maybe_fault(run);
	error = xs_commit(run->store);
	tell(run, "commit: %d", error);
	if (end_fault(run) != (error != 0))
		crash_die("commit: %s", error ? strerror(-error) : "does not tell of an error");
	if (!error)
		crash_committed(&run->script->model, begin, tick(run));
}

static void step_unlink(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	bool before = draw(run, 2);

	settle(run, slot);
	if (before)
		close_slot(run, slot);
	crash_name_set(&run->script->model, name, NULL, tick(run));
	tell(run, "unlink");
	CRASH_OK(xs_unlink(run->store, crash_names[name]));
	if (!before)
		close_slot(run, slot);
	if (!run->committing && draw(run, 2))
		step_commit(run);
}

/* A new object takes the name: before or after its data has been synced. */
static void step_put(struct run *run, int name)
{
	struct slot *slot = &run->slot[name], old = *slot;
	bool late = draw(run, 3) == 0;

	*slot = (struct slot){ .object = crash_object_new(&run->script->model, tick(run)) };
	tell(run, "create");
	CRASH_OK(xs_create(run->store, &slot->open));
	CRASH_OK(iomap_file_open(&slot->open->inode, 0, &slot->file));
	if (draw(run, 8))
		write_bytes(run, slot, 0, 1 + draw(run, CRASH_OBJECT_MAX / 2));
	if (draw(run, 4) == 0)
		step_write(run, slot);
	if (!late && !run->committing) {
		uint64_t begin = tick(run);

		tell(run, "fsync without a name");
		CRASH_OK(iomap_file_fsync(slot->file, 0));
		crash_written(slot->object, begin);
	}
	if (draw(run, 2))
		close_slot(run, &old);
	crash_name_set(&run->script->model, name, slot->object, tick(run));
	tell(run, "link");
	CRASH_OK(xs_link(slot->open, crash_names[name]));
	close_slot(run, &old);
	if (run->committing)
		return;
	if (draw(run, 3))
		step_commit(run);
	else if (draw(run, 2))
		step_fsync(run, name);
}

/* ---- a commit, held while the script goes on ---- */

struct committer {
	struct run *run;
	struct iomap_file *file; /* fsync of it, or NULL: xs_commit() */
	int error;
	atomic_bool over;
};

static void *committer_main(void *arg)
{
	struct committer *committer = arg;

	if (committer->file)
		committer->error = iomap_file_fsync(committer->file, 0);
	else
		committer->error = xs_commit(committer->run->store);
	atomic_store(&committer->over, true);
	return NULL;
}

static void do_step(struct run *run);

/* @before: what was held without it. */
static void steps_while_held(struct run *run, struct committer *committer, int64_t before)
{
	size_t nr = 1 + draw(run, 4);

	while (!atomic_load(&committer->over) && iomap_faulty_held_nr(run->script->low) == before)
		sched_yield();
	run->committing = true;
	while (nr--)
		do_step(run);
	run->committing = false;
}

static void step_held_commit(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	struct committer committer = { .run = run };
	/* the super block, or one of the other writes of the commit */
	bool super = draw(run, 2);
	int64_t held;
	uint64_t begin;
	pthread_t thread;
	uint32_t rule;

	settle(run, slot);
	held = iomap_faulty_held_nr(run->script->low);
	begin = tick(run);
	if (!slot->owes_error && !slot->object->tainted && draw(run, 2))
		committer.file = slot->file;
	slot->syncing = committer.file;
	rule = super ? hold(run, IOMAP_REQ_META | IOMAP_REQ_FUA, 1) :
		       hold(run, IOMAP_REQ_META, 1 + draw(run, 2));
	tell(run, "%s begins, held at %s", committer.file ? "fsync" : "commit",
	     super ? "its super block" : "a block");
	CRASH_OK(-pthread_create(&thread, NULL, committer_main, &committer));
	steps_while_held(run, &committer, held);
	release(run, rule);
	CRASH_OK(-pthread_join(thread, NULL));
	slot->syncing = false;
	tell(run, "it ends: %d", committer.error);
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
	CRASH_OK(committer.error);
	if (committer.file)
		crash_synced(&run->script->model, slot->object, name, begin, tick(run));
	else
		crash_committed(&run->script->model, begin, tick(run));
}

/* ---- scripts ---- */

/* While a commit is held, what would wait for it is replaced by a write. */
static void do_step(struct run *run)
{
	int name = (int)draw(run, CRASH_NAMES);
	struct slot *slot = &run->slot[name];
	size_t what = draw(run, 20);

	tell(run, "%s", crash_names[name]);
	if (!slot->open)
		step_put(run, name);
	else if (what < 6 || (slot->syncing && what >= 8))
		step_write(run, slot);
	else if (what < 8)
		step_truncate(run, slot);
	else if (what < 11)
		step_start(run, slot);
	else if (what < 12 && !run->committing)
		step_write_out(run, slot);
	else if (what < 13)
		step_unlink(run, name);
	else if (what < 14)
		step_put(run, name);
	else if (run->committing)
		step_write(run, slot);
	else if (what < 16)
		step_fsync(run, name);
	else if (what < 18)
		step_commit(run);
	else
		step_held_commit(run, name);
}

static void stack_devices(struct crash_script *script, uint64_t seed)
{
	struct iomap_faulty_opts opts = { .size = sizeof(opts), .seed = seed };
	unsigned char *bytes = crash_alloc(CRASH_DEV_BYTES);

	memset(bytes, CRASH_POISON, CRASH_DEV_BYTES);
	script->engine = crash_engine(8 << 20);
	crash_device_open(&script->device, script->engine, bytes);
	CRASH_OK(iomap_faulty_create(script->device.bdev, &opts, &script->low));
	CRASH_OK(iomap_writelog_create(script->low, NULL, &script->log));
	CRASH_OK(iomap_faulty_create(script->log, &opts, &script->top));
}

void crash_script_run(struct crash_script *script, uint64_t seed)
{
	struct run run = { .script = script, .random = seed, .faults = seed % 3 == 0 };
	struct xs_why why = { .text = "" };

	memset(script, 0, sizeof(*script));
	crash_where.seed = seed;
	crash_where.moment = 0;
	crash_where.in_cut = false;
	crash_model_init(&script->model);
	stack_devices(script, seed);
	CRASH_OK(xs_mkfs(script->top, 0, CRASH_STORE_ID));
	CRASH_OK(iomap_writelog_restart(script->log));
	script->device.watched = true;
	CRASH_OK(xs_open(script->engine, script->top, false, &run.store, &why));
	for (int step = 0; step < CRASH_STEPS; step++)
		do_step(&run);
	for (int name = 0; name < CRASH_NAMES; name++)
		close_slot(&run, &run.slot[name]);
	step_commit(&run);
	CRASH_OK(xs_close(run.store));
}

void crash_script_end(struct crash_script *script)
{
	crash_model_exit(&script->model);
	CRASH_OK(iomap_bdev_close(script->top));
	CRASH_OK(iomap_bdev_close(script->log));
	CRASH_OK(iomap_bdev_close(script->low));
	CRASH_OK(iomap_bdev_close(script->device.bdev));
	CRASH_OK(iomap_engine_destroy(script->engine));
	free(script->device.bytes);
}
