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

#define WEIGHTS_NR 20

struct slot {
	struct xs_object *open;
	struct iomap_file *file;
	struct crash_object *object;
	uint32_t held;	 /* rule that holds some of its writes, or 0 */
	bool owes_error; /* a write failed; the next fsync has to say so */
	bool syncing;	 /* a held commit is that of its fsync: it can be written, no more */
	bool busy;	 /* a second thread is writing it: hands off */
};

struct run {
	struct crash_script *script;
	struct xs_store *store;
	struct slot slot[CRASH_NAMES];
	uint64_t random;
	uint64_t moment;
	bool faults;
	bool committing;	     /* a commit is held */
	uint32_t fault;		     /* rule of the fault that may hit this step, or 0 */
	unsigned weight[WEIGHTS_NR]; /* of each enum what */
	int names_nr;
	unsigned fillers_nr;
	uint64_t given_up; /* a block */
	unsigned char *aligned; /* CRASH_OBJECT_MAX, for direct I/O */
};

static size_t draw(struct run *run, size_t below)
{
	return (size_t)(crash_random(&run->random) % below);
}

/* For direct I/O. */
static unsigned char *aligned_bytes(void)
{
	unsigned char *bytes = aligned_alloc(XS_BLOCK_BYTES, CRASH_OBJECT_MAX);

	if (!bytes)
		crash_die("no memory");
	return bytes;
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

static uint32_t hold(struct run *run, uint32_t ops, uint32_t opf, uint64_t nth)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_DELAY,
		.ops = ops,
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

/* ---- space ---- */

/* All of the object has been written: each block that was reserved has its place. */
static void nothing_reserved(const struct slot *slot, uint64_t from)
{
	uint64_t block = xs_reserved_next(slot->open, from, XS_FILE_BLOCKS_MAX);

	if (block < XS_FILE_BLOCKS_MAX)
		crash_die("block %llu is reserved, and nothing there is dirty",
			  (unsigned long long)block);
}

/*
 * Free space is looked for from anywhere on, and often from where something was given up: it must
 * not be used again before a commit.
 */
static void move_hint(struct run *run)
{
	struct xs_store *store = run->store;
	const struct xs_runs *freed = &store->space.freed;

	pthread_mutex_lock(&store->lock);
	if (freed->nr)
		run->given_up = freed->v[draw(run, freed->nr)].start;
	if (draw(run, 3) == 0)
		store->space.hint = draw(run, 2) ? run->given_up :
						   draw(run, CRASH_DEV_BYTES / XS_BLOCK_BYTES);
	pthread_mutex_unlock(&store->lock);
}

static uint64_t weight_of(const struct xs_store *store)
{
	uint64_t weight = 0;

	for (size_t i = 0; i < store->objects_nr; i++) {
		const struct xs_object *object = store->objects[i];

		for (uint32_t n = 0; n < object->extents_nr; n++)
			weight += object->extents[n].unwritten ? object->extents[n].nr : 1;
	}
	return weight;
}

/*
 * Nothing is open and all is committed: what the store thinks is free, and may come to need, is what
 * its metadata says.
 */
static void recount(const struct run *run)
{
	struct xs_counts counts;
	struct xs_usage usage;
	struct xs_why why = { .text = "" };
	int error;

	while (xs_space_waiting(run->store))
		CRASH_OK(xs_commit(run->store));
	xs_usage(run->store, &usage);
	if (usage.delalloc_nr)
		crash_die("%llu blocks stay reserved", (unsigned long long)usage.delalloc_nr);
	if (run->store->weight != weight_of(run->store))
		crash_die("the weight is %llu, and should be %llu",
			  (unsigned long long)run->store->weight,
			  (unsigned long long)weight_of(run->store));
	error = xs_check(run->script->top, &counts, &why);
	if (error)
		crash_die("check: %s: %s", strerror(-error), why.text);
	if (counts.free_bytes != usage.free_nr << XS_BLOCK_SHIFT)
		crash_die("%llu blocks are free, and check counts %llu",
			  (unsigned long long)usage.free_nr,
			  (unsigned long long)(counts.free_bytes >> XS_BLOCK_SHIFT));
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

/* Make the version of a write to come. */
static struct crash_version *version_of_write(struct run *run, struct slot *slot, int64_t pos,
					      size_t len)
{
	uint64_t moment = tick(run);
	struct crash_version *version = crash_change(slot->object, moment);

	fill(version->bytes + pos, moment, pos, len);
	if (version->size < pos + (int64_t)len)
		version->size = pos + (int64_t)len;
	return version;
}

static void write_bytes(struct run *run, struct slot *slot, int64_t pos, size_t len)
{
	struct crash_version *version;
	ssize_t put;

	settle(run, slot);
	version = version_of_write(run, slot, pos, len);
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

/* Sectors, for a direct write. */
static void draw_sectors(struct run *run, int64_t *pos, size_t *len)
{
	*len = IOMAP_SECTOR_SIZE * (1 + draw(run, draw(run, 2) ? 20 : 3));
	*pos = (int64_t)(IOMAP_SECTOR_SIZE *
			 draw(run, (CRASH_OBJECT_MAX - *len) / IOMAP_SECTOR_SIZE + 1));
}

/* Through the cache or past it, with whatever of it is dirty: all is as it was written last. */
static void step_read(struct run *run, struct slot *slot)
{
	const struct crash_version *now = crash_now(slot->object);
	unsigned flags = draw(run, 2) ? IOMAP_O_DIRECT : 0;
	struct iomap_file *file;
	ssize_t got;

	if (slot->object->tainted || slot->owes_error)
		return;
	settle(run, slot);
	tell(run, "read%s", flags ? " direct" : "");
	CRASH_OK(iomap_file_open(&slot->open->inode, flags, &file));
	got = iomap_read(file, run->aligned, CRASH_OBJECT_MAX, 0);
	iomap_file_close(file);
	if (got != now->size)
		crash_die("%s has a wrong size, %zd, in a read", crash_names[slot - run->slot], got);
	for (ssize_t at = 0; at < got; at++)
		if (run->aligned[at] != now->bytes[at])
			crash_die("%s is wrong at %zd: %s, in a%s read",
				  crash_names[slot - run->slot], at,
				  run->aligned[at] ? "other bytes" : "zeros",
				  flags ? " direct" : "");
}

/* What a write in one go has come to: all of it, or the fault. */
static void wrote(struct run *run, struct slot *slot, ssize_t put, size_t len)
{
	tell(run, "  which gives %zd", put);
	if (put == (ssize_t)len)
		return;
	if (!run->faults)
		crash_die("write: %zd of %zu", put, len);
	crash_taint(slot->object, run->moment);
}

/*
 * Past the cache, or durable when it returns, or both.  Direct ones are durable with the next
 * commit.
 */
static void step_write_through(struct run *run, struct slot *slot)
{
	/* what is durable at once waits for a commit */
	unsigned flags = run->committing || draw(run, 2) ? 0 : IOMAP_O_DSYNC;
	struct crash_version *version;
	struct iomap_file *file;
	uint64_t begin;
	int64_t pos;
	size_t len;
	ssize_t put;

	settle(run, slot);
	draw_sectors(run, &pos, &len);
	if (!flags || draw(run, 2))
		flags |= IOMAP_O_DIRECT;
	version = version_of_write(run, slot, pos, len);
	begin = version->from;
	CRASH_OK(iomap_file_open(&slot->open->inode, flags, &file));
	tell(run, "write [%lld, %lld)%s%s", (long long)pos, (long long)pos + (long long)len,
	     flags & IOMAP_O_DIRECT ? " direct" : "", flags & IOMAP_O_DSYNC ? " durable" : "");
	memcpy(run->aligned, version->bytes + pos, len);
	maybe_fault(run);
	put = iomap_write(file, run->aligned, len, pos);
	if (end_fault(run) && put == (ssize_t)len && flags & IOMAP_O_DSYNC)
		crash_die("a durable write says nothing of an error");
	wrote(run, slot, put, len);
	iomap_file_close(file);
	if (flags & IOMAP_O_DSYNC)
		crash_synced_range(slot->object, begin, tick(run), pos, pos + (int64_t)len);
	else
		crash_written_range(slot->object, begin, pos, pos + (int64_t)len);
}

static void step_preallocate(struct run *run, struct slot *slot)
{
	int64_t pos = (int64_t)draw(run, CRASH_OBJECT_MAX - 1);
	int64_t len = 1 + (int64_t)draw(run, (size_t)(CRASH_OBJECT_MAX - pos));
	bool keep_size = draw(run, 2);
	struct crash_version *version;

	settle(run, slot);
	version = crash_change(slot->object, tick(run));
	if (!keep_size && version->size < pos + len)
		version->size = pos + len;
	tell(run, "preallocate [%lld, %lld)%s", (long long)pos, (long long)(pos + len),
	     keep_size ? ", same size" : "");
	CRASH_OK(xs_preallocate(slot->open, pos, len, keep_size));
}

/* A hole, or zeros: what is whole blocks of it is durable with the next commit. */
static void step_clear(struct run *run, struct slot *slot)
{
	int64_t pos = (int64_t)draw(run, CRASH_OBJECT_MAX - 1);
	int64_t end = pos + 1 + (int64_t)draw(run, (size_t)(CRASH_OBJECT_MAX - pos));
	bool punch = draw(run, 2), keep_size = punch || draw(run, 2);
	int mode = punch ? IOMAP_FALLOC_FL_PUNCH_HOLE : IOMAP_FALLOC_FL_ZERO_RANGE;
	struct crash_version *version;
	const int64_t mask = XS_BLOCK_BYTES - 1;

	settle(run, slot);
	version = crash_change(slot->object, tick(run));
	memset(version->bytes + pos, 0, (size_t)(end - pos));
	if (!keep_size && version->size < end)
		version->size = end;
	tell(run, "%s [%lld, %lld)%s", punch ? "punch" : "zero", (long long)pos, (long long)end,
	     keep_size ? ", same size" : "");
	CRASH_OK(iomap_fallocate(slot->file, mode | (keep_size ? IOMAP_FALLOC_FL_KEEP_SIZE : 0),
				 pos, end - pos));
	pos = (pos + mask) & ~mask;
	end &= ~mask;
	if (pos < end)
		crash_written_range(slot->object, version->from, pos, end);
}

static void truncate_to(struct run *run, struct slot *slot, int64_t size)
{
	int64_t old = crash_now(slot->object)->size;
	struct crash_version *version;

	settle(run, slot);
	version = crash_change(slot->object, tick(run));
	if (size < old)
		memset(version->bytes + size, 0, (size_t)(old - size));
	version->size = size;
	tell(run, "truncate from %lld to %lld", (long long)old, (long long)size);
	CRASH_OK(iomap_truncate(slot->file, size));
	nothing_reserved(slot, xs_blocks_up((uint64_t)size));
	if (size < old)
		crash_truncated(slot->object, version->from);
}

static void step_truncate(struct run *run, struct slot *slot)
{
	size_t old = (size_t)crash_now(slot->object)->size;

	truncate_to(run, slot, (int64_t)draw(run, draw(run, 2) ? old + 1 : CRASH_OBJECT_MAX));
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
		crash_taint(slot->object, run->moment);
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
		rule = hold(run, IOMAP_FAULT_ON_WRITE, 0, 0);
	else
		maybe_fault(run);
	error = iomap_sync_range(slot->file, 0, INT64_MAX, IOMAP_SYNC_WRITE);
	tell(run, "start to write out%s: %d", rule ? ", held" : "", error);
	if (end_fault(run)) {
		slot->owes_error = true;
		crash_taint(slot->object, run->moment);
	} else if (error && !slot->owes_error && !slot->object->tainted) {
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
	if (error && !slot->owes_error && !slot->object->tainted)
		crash_die("sync_range: %s", strerror(-error));
	if (error)
		return;
	crash_written(slot->object, begin);
	nothing_reserved(slot, 0);
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

/* ---- sharing ---- */

/* What @to gets of @from; false: there is nothing that can be shared. */
static bool draw_clone(struct run *run, struct slot *from, struct slot *to, int64_t *pos,
		       int64_t *to_pos, int64_t *len)
{
	int64_t size = crash_now(from->object)->size, to_size = crash_now(to->object)->size;
	bool all = draw(run, 3) == 0;

	*pos = all ? 0 : (int64_t)draw(run, (size_t)size / XS_BLOCK_BYTES + 1) * XS_BLOCK_BYTES;
	*to_pos = all ? 0 : (int64_t)draw(run, CRASH_OBJECT_MAX / XS_BLOCK_BYTES) * XS_BLOCK_BYTES;
	*len = all ? size : (1 + (int64_t)draw(run, 5)) * XS_BLOCK_BYTES;
	if (*len > size - *pos)
		*len = size - *pos;
	if (*len > CRASH_OBJECT_MAX - *to_pos)
		*len = CRASH_OBJECT_MAX - *to_pos;
	/* the block that holds the end of one has to hold that of the other */
	if (*to_pos + *len < to_size || from == to)
		*len -= *len % XS_BLOCK_BYTES;
	return *len > 0 && !(from == to && *pos < *to_pos + *len && *to_pos < *pos + *len);
}

static bool is_well(const struct slot *slot)
{
	return slot->open && !slot->busy && !slot->syncing && !slot->owes_error &&
	       !slot->object->tainted;
}

/*
 * The first block of what they share, of one and then the other, which by then is its only
 * owner, but for what a power cut may bring back.
 */
static void overwrite_block(struct run *run, struct slot *first, struct slot *from, int64_t pos,
			    struct slot *to, int64_t to_pos)
{
	struct slot *second = first == from ? to : from;

	write_bytes(run, first, first == from ? pos : to_pos, 1 + draw(run, XS_BLOCK_BYTES));
	step_write_out(run, first);
	write_bytes(run, second, second == from ? pos : to_pos, 1 + draw(run, XS_BLOCK_BYTES));
	step_write_out(run, second);
}

/* A part or all of another object, or another part of this one. */
static void step_clone(struct run *run, struct slot *to)
{
	struct slot *from = &run->slot[draw(run, (size_t)run->names_nr)];
	struct crash_version *version;
	unsigned char bytes[CRASH_OBJECT_MAX];
	int64_t pos, to_pos, len;
	uint64_t moment;

	if (!is_well(from) || !is_well(to) || !draw_clone(run, from, to, &pos, &to_pos, &len)) {
		step_write(run, to);
		return;
	}
	settle(run, from);
	settle(run, to);
	memcpy(bytes, crash_now(from->object)->bytes + pos, (size_t)len);
	moment = tick(run);
	version = crash_change(to->object, moment);
	memcpy(version->bytes + to_pos, bytes, (size_t)len);
	if (version->size < to_pos + len)
		version->size = to_pos + len;
	tell(run, "clone [%lld, %lld) of %s to %lld", (long long)pos, (long long)(pos + len),
	     crash_names[from - run->slot], (long long)to_pos);
	CRASH_OK(xs_clone(from->open, pos, to->open, to_pos, len));
	crash_written_range(from->object, moment, pos, pos + len);
	crash_written_range(to->object, moment, to_pos, to_pos + len);
	if (from != to && !run->committing && draw(run, 2)) {
		step_commit(run);
		overwrite_block(run, draw(run, 2) ? from : to, from, pos, to, to_pos);
	}
}

/* An object whose long name fills the metadata, so that there are more blocks of it. */
static void add_filler(struct run *run)
{
	char name[XS_NAME_MAX + 1];
	struct xs_object *object;

	memset(name, 'x', XS_NAME_MAX);
	name[XS_NAME_MAX] = '\0';
	snprintf(name, sizeof(name), "%03u", run->fillers_nr++);
	name[3] = 'x';
	CRASH_OK(xs_create(run->store, &object));
	CRASH_OK(xs_link(object, name));
	CRASH_OK(xs_put(object));
}

/* A new object takes the name: before or after its data has been synced. */
static void step_put(struct run *run, int name)
{
	struct slot *slot = &run->slot[name], old = *slot;
	bool late = draw(run, 3) == 0;

	if (draw(run, 2))
		add_filler(run);
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

/* ---- a sync, commit or write in a second thread, held while the script goes on ---- */

struct syncer {
	struct run *run;
	struct iomap_file *file; /* fsync of it, or NULL: xs_commit() */
	size_t len;		 /* ... or write of so many bytes of `bytes` to it */
	unsigned char *bytes;
	int64_t pos;
	ssize_t put;
	uint64_t begin;
	pthread_t thread;
	int error;
	atomic_bool over;
};

static void *syncer_main(void *arg)
{
	struct syncer *syncer = arg;

	if (syncer->len)
		syncer->put = iomap_write(syncer->file, syncer->bytes, syncer->len, syncer->pos);
	else if (syncer->file)
		syncer->error = iomap_file_fsync(syncer->file, 0);
	else
		syncer->error = xs_commit(syncer->run->store);
	atomic_store(&syncer->over, true);
	return NULL;
}

static void syncer_start(struct syncer *syncer)
{
	CRASH_OK(-pthread_create(&syncer->thread, NULL, syncer_main, syncer));
}

/* Begin an fsync of the slot's object, or a commit. */
static void syncer_begin(struct run *run, struct syncer *syncer, struct slot *slot)
{
	*syncer = (struct syncer){ .run = run, .begin = tick(run) };
	syncer->file = slot ? slot->file : NULL;
	tell(run, "%s begins", slot ? "fsync" : "commit");
	syncer_start(syncer);
}

/* Wait until something more than @before is held, or it is over.  Return: whether it is held. */
static bool syncer_held(struct run *run, struct syncer *syncer, int64_t before)
{
	while (iomap_faulty_held_nr(run->script->low) == before) {
		if (atomic_load(&syncer->over))
			return false;
		sched_yield();
	}
	run->script->held_nr++;
	return true;
}

/*
 * It cannot be over, since it needs what is held.  Looking for a while is not waiting for
 * anything: it gives a mistake the time to show.
 */
static void syncer_not_over(const struct syncer *syncer, const char *what)
{
	for (int i = 0; i < 1000; i++) {
		if (atomic_load(&syncer->over))
			crash_die("acknowledged although %s is under way", what);
		sched_yield();
	}
}

static void syncer_join(struct syncer *syncer)
{
	CRASH_OK(-pthread_join(syncer->thread, NULL));
}

/* It has been joined. */
static void syncer_end(struct run *run, struct syncer *syncer, int name)
{
	struct crash_model *model = &run->script->model;

	tell(run, "%s ends: %d", syncer->file ? "fsync" : "commit", syncer->error);
	CRASH_OK(syncer->error);
	if (syncer->file)
		crash_synced(model, run->slot[name].object, name, syncer->begin, tick(run));
	else
		crash_committed(model, syncer->begin, tick(run));
}

static void do_step(struct run *run);

static void steps_while_held(struct run *run)
{
	size_t nr = 1 + draw(run, 4);

	run->committing = true;
	while (nr--)
		do_step(run);
	run->committing = false;
}

/* Held: the super block, another block of the metadata, or a flush. */
static uint32_t hold_commit(struct run *run)
{
	switch (draw(run, 3)) {
	case 0:
		return hold(run, IOMAP_FAULT_ON_WRITE, IOMAP_REQ_META | IOMAP_REQ_FUA, 1);
	case 1:
		return hold(run, IOMAP_FAULT_ON_WRITE, IOMAP_REQ_META, 1 + draw(run, 2));
	default:
		return hold(run, IOMAP_FAULT_ON_FLUSH, 0, 1);
	}
}

static void step_held_commit(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	bool fsync = !slot->owes_error && !slot->object->tainted && draw(run, 2);
	struct syncer syncer;
	int64_t held;
	uint32_t rule;

	settle(run, slot);
	held = iomap_faulty_held_nr(run->script->low);
	rule = hold_commit(run);
	syncer_begin(run, &syncer, fsync ? slot : NULL);
	(void)syncer_held(run, &syncer, held);
	slot->syncing = fsync;
	steps_while_held(run);
	slot->syncing = false;
	release(run, rule);
	syncer_join(&syncer);
	syncer_end(run, &syncer, name);
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
}

/* An fsync whose data is held, a single write, and maybe a commit meanwhile. */
static void step_held_fsync(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	struct syncer syncer;
	int64_t held;
	uint32_t rule;

	step_write_out(run, slot);
	write_bytes(run, slot,
		    (int64_t)draw(run, CRASH_OBJECT_MAX / XS_BLOCK_BYTES) * XS_BLOCK_BYTES,
		    1 + draw(run, XS_BLOCK_BYTES));
	held = iomap_faulty_held_nr(run->script->low);
	rule = hold(run, IOMAP_FAULT_ON_WRITE, 0, 1);
	syncer_begin(run, &syncer, slot);
	if (syncer_held(run, &syncer, held))
		syncer_not_over(&syncer, "its data");
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
	if (draw(run, 2))
		step_commit(run);
	release(run, rule);
	syncer_join(&syncer);
	syncer_end(run, &syncer, name);
}

/* A write in place that ends while a flush is held: that flush does not make it durable. */
static void step_held_flush(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	struct syncer syncer;
	int64_t held;
	uint32_t rule;

	write_bytes(run, slot, 0, 1 + draw(run, XS_BLOCK_BYTES));
	step_fsync(run, name);
	write_bytes(run, slot, 0, 1 + draw(run, XS_BLOCK_BYTES / 2));
	step_write_out(run, slot);
	held = iomap_faulty_held_nr(run->script->low);
	rule = hold(run, IOMAP_FAULT_ON_FLUSH, 0, 1);
	syncer_begin(run, &syncer, NULL);
	(void)syncer_held(run, &syncer, held);
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
	write_bytes(run, slot, 0, 1 + draw(run, XS_BLOCK_BYTES / 2));
	step_write_out(run, slot);
	release(run, rule);
	syncer_join(&syncer);
	syncer_end(run, &syncer, name);
	step_commit(run);
}

/* A direct write that is held, and a commit meanwhile. */
static void step_held_direct(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	struct syncer syncer = { .run = run };
	struct crash_version *version;
	int64_t held;
	uint32_t rule;

	settle(run, slot);
	draw_sectors(run, &syncer.pos, &syncer.len);
	version = version_of_write(run, slot, syncer.pos, syncer.len);
	syncer.begin = version->from;
	/* its own, since the script goes on with direct writes */
	syncer.bytes = aligned_bytes();
	memcpy(syncer.bytes, version->bytes + syncer.pos, syncer.len);
	CRASH_OK(iomap_file_open(&slot->open->inode, IOMAP_O_DIRECT, &syncer.file));
	held = iomap_faulty_held_nr(run->script->low);
	rule = hold(run, IOMAP_FAULT_ON_WRITE, 0, 1);
	tell(run, "direct write of %zu at %lld begins", syncer.len, (long long)syncer.pos);
	syncer_start(&syncer);
	if (syncer_held(run, &syncer, held))
		syncer_not_over(&syncer, "its data");
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
	slot->busy = true;
	if (draw(run, 2))
		steps_while_held(run);
	step_commit(run);
	slot->busy = false;
	release(run, rule);
	syncer_join(&syncer);
	wrote(run, slot, syncer.put, syncer.len);
	iomap_file_close(syncer.file);
	free(syncer.bytes);
	crash_written_range(slot->object, syncer.begin, syncer.pos,
			    syncer.pos + (int64_t)syncer.len);
}

/* To another size, in any case. */
static void truncate_other(struct run *run, struct slot *slot)
{
	truncate_to(run, slot, crash_now(slot->object)->size ? 0 : 1 + (int64_t)draw(run, 9000));
}

/* An fsync of what a commit that is held has in it, or just not: it is not over before that. */
static void step_joined_commit(struct run *run, int name)
{
	struct slot *slot = &run->slot[name];
	struct syncer commit, fsync;
	bool is_held;
	int64_t held;
	uint32_t rule;

	step_write_out(run, slot);
	truncate_other(run, slot);
	held = iomap_faulty_held_nr(run->script->low);
	rule = hold(run, IOMAP_FAULT_ON_WRITE, IOMAP_REQ_META | IOMAP_REQ_FUA, 1);
	syncer_begin(run, &commit, NULL);
	is_held = syncer_held(run, &commit, held);
	CRASH_OK(iomap_faulty_remove(run->script->low, rule));
	if (draw(run, 2))
		truncate_other(run, slot);
	syncer_begin(run, &fsync, slot);
	if (is_held)
		syncer_not_over(&fsync, "the super block that it needs");
	release(run, rule);
	syncer_join(&commit);
	syncer_join(&fsync);
	syncer_end(run, &commit, name);
	syncer_end(run, &fsync, name);
}

/* ---- scripts ---- */

enum what {
	DO_WRITE,
	DO_TRUNCATE,
	DO_START,
	DO_WRITE_OUT,
	DO_UNLINK,
	DO_PUT,
	DO_WRITE_THROUGH,
	DO_READ,
	DO_CLONE,
	DO_PREALLOCATE, /* from here on: may wait for a commit */
	DO_CLEAR,
	DO_FSYNC,
	DO_COMMIT,
	DO_HELD_COMMIT,
	DO_HELD_FSYNC, /* from here on: of an object without errors */
	DO_HELD_FLUSH,
	DO_HELD_DIRECT,
	DO_JOINED_COMMIT,
	DO_NR,
};

_Static_assert(DO_NR <= WEIGHTS_NR, "each has one");

/*
 * What a script does more or less often, or not at all, differs from seed to seed: what goes
 * wrong needs some steps close to each other, and no third kind in between.
 */
static void draw_weights(struct run *run)
{
	static const unsigned char usual[DO_NR] = {
		[DO_WRITE] = 10,	[DO_TRUNCATE] = 5,    [DO_START] = 6,
		[DO_WRITE_OUT] = 3,	[DO_UNLINK] = 1,      [DO_PUT] = 1,
		[DO_WRITE_THROUGH] = 3, [DO_PREALLOCATE] = 2, [DO_FSYNC] = 4,
		[DO_COMMIT] = 4,	[DO_HELD_COMMIT] = 2, [DO_HELD_FSYNC] = 1,
		[DO_HELD_FLUSH] = 1,	[DO_HELD_DIRECT] = 1, [DO_JOINED_COMMIT] = 1,
		[DO_CLONE] = 4,		[DO_READ] = 3,
		[DO_CLEAR] = 3,
	};

	for (int what = 0; what < DO_NR; what++)
		run->weight[what] = usual[what] * (unsigned)draw(run, 4);
	run->weight[DO_WRITE] += 6;
	run->names_nr = 1 + (int)draw(run, CRASH_NAMES);
}

static enum what draw_step(struct run *run)
{
	unsigned all = 0;
	size_t drawn;
	int what;

	for (what = 0; what < DO_NR; what++)
		all += run->weight[what];
	drawn = draw(run, all);
	for (what = 0; drawn >= run->weight[what]; what++)
		drawn -= run->weight[what];
	return (enum what)what;
}

static void do_step_on(struct run *run, int name, enum what what)
{
	struct slot *slot = &run->slot[name];

	switch (what) {
	case DO_WRITE:
		step_write(run, slot);
		break;
	case DO_TRUNCATE:
		step_truncate(run, slot);
		break;
	case DO_START:
		step_start(run, slot);
		break;
	case DO_WRITE_OUT:
		step_write_out(run, slot);
		break;
	case DO_UNLINK:
		step_unlink(run, name);
		break;
	case DO_PUT:
		step_put(run, name);
		break;
	case DO_WRITE_THROUGH:
		step_write_through(run, slot);
		break;
	case DO_READ:
		step_read(run, slot);
		break;
	case DO_CLONE:
		step_clone(run, slot);
		break;
	case DO_PREALLOCATE:
		step_preallocate(run, slot);
		break;
	case DO_CLEAR:
		step_clear(run, slot);
		break;
	case DO_FSYNC:
		step_fsync(run, name);
		break;
	case DO_COMMIT:
		step_commit(run);
		break;
	case DO_HELD_COMMIT:
		step_held_commit(run, name);
		break;
	case DO_HELD_FSYNC:
		step_held_fsync(run, name);
		break;
	case DO_HELD_FLUSH:
		step_held_flush(run, name);
		break;
	case DO_HELD_DIRECT:
		step_held_direct(run, name);
		break;
	case DO_JOINED_COMMIT:
		step_joined_commit(run, name);
		break;
	case DO_NR:
		break;
	}
}

/* What cannot be done now becomes a write. */
static void do_step(struct run *run)
{
	int name = (int)draw(run, (size_t)run->names_nr);
	const struct slot *slot = &run->slot[name];
	enum what what = draw_step(run);

	if (!slot->open)
		what = DO_PUT;
	else if (run->committing && what >= DO_PREALLOCATE)
		what = DO_WRITE;
	else if (slot->syncing && what != DO_TRUNCATE)
		what = DO_WRITE;
	else if (what >= DO_HELD_FSYNC && (slot->owes_error || slot->object->tainted))
		what = DO_WRITE;
	if (slot->busy)
		return;
	tell(run, "%s", crash_names[name]);
	move_hint(run);
	do_step_on(run, name, what);
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
	struct run run = { .script = script,
			   .random = seed,
			   .faults = crash_seed_has_faults(seed) };
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
	draw_weights(&run);
	run.aligned = aligned_bytes();
	for (size_t nr = 16 * draw(&run, 3); nr; nr--)
		add_filler(&run);
	for (int step = 0; step < CRASH_STEPS; step++)
		do_step(&run);
	for (int name = 0; name < CRASH_NAMES; name++)
		close_slot(&run, &run.slot[name]);
	step_commit(&run);
	recount(&run);
	CRASH_OK(xs_close(run.store));
	free(run.aligned);
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
