/* SPDX-License-Identifier: MIT */
/*
 * xs_en10.c - EN10 on a store: each allocation, the store's own among them, and each I/O of a
 * script fails once in turn.
 *
 * An operation that fails is repeated and then has to succeed.  In between an object is what
 * it was before or what it was to become.  At the end `check` finds nothing, and everything
 * that was acknowledged is there when the store is opened again.
 */
#include "smallstore.h"
#include "xst.h"

#define KIB 1024
#define DEV_BYTES (512 * KIB)
#define NAMES 4
#define OBJECT_MAX (96 * KIB)

struct object {
	bool there;
	bool in_place; /* it comes to be bit by bit: a failed write may have moved the end */
	size_t size;
	unsigned char data[OBJECT_MAX];
};

struct script {
	struct tf *tf;
	struct iomap_engine *engine;
	struct iomap_bdev *lower;
	struct ss_dev dev;
	struct xs_store *store;
	struct object object[NAMES];
	unsigned char fresh[OBJECT_MAX]; /* what the operation is to write */
};

static const char *const names[NAMES] = { "first", "second", "third", "fourth" };

/* ---- memory of the store ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t nr, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t nr, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);

static struct tf *inside; /* an operation of the store is running */
static bool no_growth;	  /* no array may grow */

static bool app_fails(void)
{
	return inside && !inside->in_hook && tf_application_fails(inside);
}

void *__wrap_malloc(size_t size)
{
	return app_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t nr, size_t size)
{
	return app_fails() ? NULL : __real_calloc(nr, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return no_growth || app_fails() ? NULL : __real_realloc(old, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return app_fails() ? NULL : __real_aligned_alloc(align, size);
}

/* ---- operations: 0 or the first error ---- */

static void no_log(void *ctx, enum iomap_log_level level, const char *message)
{
	(void)ctx;
	(void)level;
	(void)message;
}

static int op_create(struct script *s, int which, size_t pos, size_t len)
{
	struct iomap_engine_opts opts;

	(void)which;
	(void)pos;
	(void)len;
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 256 * KIB;
	opts.max_callers = 4;
	opts.nr_queues = 1;
	opts.backend = "threads";
	opts.nr_io_threads = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.log = no_log;
	tf_opts(s->tf, &opts);
	for (unsigned i = 0; i < IOMAP_FAIL_KINDS_NR; i++)
		s->tf->last[i] = 0;
	return iomap_engine_create(&opts, &s->engine);
}

static int op_mkfs(struct script *s, int which, size_t pos, size_t len)
{
	(void)which;
	(void)pos;
	(void)len;
	return xs_mkfs(s->dev.bdev, 0, XST_ID);
}

static int op_open(struct script *s, int which, size_t pos, size_t len)
{
	struct xs_why why = { .text = "" };

	(void)which;
	(void)pos;
	(void)len;
	return xs_open(s->engine, s->dev.bdev, false, &s->store, &why);
}

/* What a close that could not commit has lost was in the store before. */
static int op_commit(struct script *s, int which, size_t pos, size_t len)
{
	(void)which;
	(void)pos;
	(void)len;
	return xs_commit(s->store);
}

static int first_of(int a, int b)
{
	return a ? a : b;
}

static int write_and_sync(struct xs_object *object, const void *data, size_t len, int64_t pos,
			  struct tf *tf)
{
	struct iomap_file *file, *other;
	int error = iomap_file_open(&object->inode, 0, &file);
	int told[2] = { 0, 0 };
	ssize_t ret;

	if (error)
		return error;
	error = iomap_file_open(&object->inode, 0, &other);
	if (error) {
		iomap_file_close(file);
		return error;
	}
	ret = iomap_write(file, data, len, pos);
	if (ret != (ssize_t)len)
		error = ret < 0 ? (int)ret : -EINTR; /* short */
	if (!error) {
		told[0] = iomap_file_fsync(file, 0);
		told[1] = iomap_file_fsync(other, 0);
		error = first_of(told[0], told[1]);
		/* both were told; one of them counts as the operation's */
		if (told[0] && told[1])
			tf_event(tf, 2, told[1]);
	}
	iomap_file_close(other);
	iomap_file_close(file);
	return error;
}

static int op_put(struct script *s, int which, size_t pos, size_t len)
{
	struct xs_object *object;
	int error = xs_create(s->store, &object), closed;

	(void)pos;
	if (error)
		return error;
	error = write_and_sync(object, s->fresh, len, 0, s->tf);
	if (!error)
		error = xs_link(object, names[which]);
	if (!error)
		error = xs_commit(s->store);
	closed = xs_put(object);
	return first_of(error, closed);
}

/* All of object @from. */
static int op_clone(struct script *s, int which, size_t from, size_t len)
{
	struct xs_object *object, *other;
	int error = xs_lookup(s->store, names[from], &other), closed;

	(void)len;
	if (error)
		return error;
	error = xs_create(s->store, &object);
	if (!error) {
		error = xs_clone(other, 0, object, 0, 0);
		if (!error)
			error = xs_link(object, names[which]);
		if (!error)
			error = xs_commit(s->store);
		closed = xs_put(object);
		error = first_of(error, closed);
	}
	closed = xs_put(other);
	return first_of(error, closed);
}

static int op_overwrite(struct script *s, int which, size_t pos, size_t len)
{
	struct xs_object *object;
	int error = xs_lookup(s->store, names[which], &object), closed;

	if (error)
		return error;
	error = write_and_sync(object, s->fresh + pos, len, (int64_t)pos, s->tf);
	closed = xs_put(object);
	return first_of(error, closed);
}

static int op_truncate(struct script *s, int which, size_t pos, size_t len)
{
	struct xs_object *object;
	struct iomap_file *file;
	int error = xs_lookup(s->store, names[which], &object), closed;

	(void)len;
	if (error)
		return error;
	error = iomap_file_open(&object->inode, 0, &file);
	if (!error) {
		error = iomap_truncate(file, (int64_t)pos);
		if (!error)
			error = iomap_file_fsync(file, 0);
		iomap_file_close(file);
	}
	closed = xs_put(object);
	return first_of(error, closed);
}

static int op_rm(struct script *s, int which, size_t pos, size_t len)
{
	int error = xs_unlink(s->store, names[which]);

	(void)pos;
	(void)len;
	/* gone by the first try, which could not commit it */
	if (error && !(error == -ENOENT && tf_events(s->tf, "rm", -2)))
		return error;
	return xs_commit(s->store);
}

/* The object holds the one or the other.  0 or an error of reading. */
static int holds(struct script *s, int which, const struct object *one, const struct object *other)
{
	static unsigned char data[OBJECT_MAX];
	struct xs_object *object;
	struct iomap_file *file;
	int error = xs_lookup(s->store, names[which], &object), closed;
	ssize_t ret = 0;
	size_t size;

	if (error == -ENOENT) {
		t_must(!one->there || (other && !other->there));
		return 0;
	}
	if (error)
		return error;
	error = iomap_file_open(&object->inode, 0, &file);
	size = (size_t)iomap_i_size_read(&object->inode);
	if (!(one->there && size == one->size) &&
	    !(other && other->there && size == other->size) &&
	    !(other && other->in_place && size > one->size && size < other->size)) {
		tf_print(s->tf);
		fprintf(stderr, "%s has %zu bytes\n", names[which], size);
		t_must(false);
	}
	for (size_t at = 0; !error && at < size; at += (size_t)ret) {
		ret = iomap_read(file, data + at, size - at > 7000 ? 7000 : size - at, (int64_t)at);
		if (ret <= 0)
			error = (int)ret;
		t_must(ret);
	}
	if (!error)
		for (size_t at = 0; at < size; at++)
			t_must((one->there && data[at] == one->data[at]) ||
			       (other && other->there && data[at] == other->data[at]));
	if (!error || file)
		iomap_file_close(file);
	closed = xs_put(object);
	return first_of(error, closed);
}

static int op_get(struct script *s, int which, size_t pos, size_t len)
{
	(void)pos;
	(void)len;
	return holds(s, which, &s->object[which], NULL);
}

static int op_info(struct script *s, int which, size_t pos, size_t len)
{
	struct xs_extent *extents = NULL;
	struct xs_info info;
	uint32_t nr;
	int error = xs_info(s->store, names[which], &info);

	(void)pos;
	(void)len;
	if (!error)
		error = xs_extents(s->store, names[which], &extents, &nr);
	free(extents);
	return error;
}

/* ---- the script ---- */

typedef int op_fn(struct script *s, int which, size_t pos, size_t len);

static int once(struct script *s, op_fn *op, int which, size_t pos, size_t len)
{
	int error;

	inside = s->tf;
	error = op(s, which, pos, len);
	inside = NULL;
	return error;
}

/* `after`: what the object is to become; NULL: nothing changes. */
static void run_op(struct script *s, const char *call, op_fn *op, int which, size_t pos,
		   size_t len, const struct object *after)
{
	int error;

	tf_call(s->tf, call);
	error = once(s, op, which, pos, len);
	if (error) {
		tf_event(s->tf, -1, error);
		if (s->store) {
			tf_pause(s->tf);
			t_must(holds(s, which, &s->object[which], after) == 0);
			tf_go_on(s->tf);
		}
		error = once(s, op, which, pos, len);
	}
	if (error)
		tf_print(s->tf);
	cr_assert_eq(error, 0, "%s fails for ever: %s", call, strerror(-error));
	if (after)
		s->object[which] = *after;
}

static void put(struct script *s, int which, size_t len, unsigned seed)
{
	static struct object after;

	t_fill(s->fresh, len, 0, seed);
	memset(&after, 0, sizeof(after));
	after.there = true;
	after.size = len;
	memcpy(after.data, s->fresh, len);
	run_op(s, "put", op_put, which, 0, len, &after);
}

static void overwrite(struct script *s, int which, size_t pos, size_t len, unsigned seed)
{
	static struct object after;

	t_fill(s->fresh + pos, len, (int64_t)pos, seed);
	after = s->object[which];
	after.in_place = true;
	memcpy(after.data + pos, s->fresh + pos, len);
	after.size = pos + len > after.size ? pos + len : after.size;
	run_op(s, "overwrite", op_overwrite, which, pos, len, &after);
}

static void clone_as(struct script *s, int which, int from)
{
	static struct object after;

	after = s->object[from];
	after.in_place = false;
	run_op(s, "clone", op_clone, which, (size_t)from, 0, &after);
}

static void truncate_to(struct script *s, int which, size_t size)
{
	static struct object after;

	after = s->object[which];
	after.in_place = false;
	memset(after.data + size, 0, sizeof(after.data) - size);
	after.size = size;
	run_op(s, "truncate", op_truncate, which, size, 0, &after);
}

static void rm(struct script *s, int which)
{
	static struct object after;

	after.there = false;
	run_op(s, "rm", op_rm, which, 0, 0, &after);
}

/* The device as it is on, without what the store has in memory. */
static void check_all(struct script *s)
{
	tf_pause(s->tf);
	XST_OK(xs_close(s->store));
	s->store = NULL;
	xst_check(s->dev.bdev);
	tf_go_on(s->tf);
	run_op(s, "open", op_open, 0, 0, 0, NULL);
	for (int i = 0; i < NAMES; i++)
		run_op(s, "get", op_get, i, 0, 0, NULL);
}

static void run(void *arg, struct tf *tf)
{
	static char poison[64 * KIB] __attribute__((aligned(4096)));
	struct script *s = arg;

	memset(s, 0, sizeof(*s));
	s->tf = tf;
	run_op(s, "create", op_create, 0, 0, 0, NULL);
	tf_pause(tf);
	XST_OK(iomap_bdev_open_memory(s->engine, DEV_BYTES, &s->lower));
	XST_OK(ss_dev_open(&s->dev, s->engine, s->lower, tf, 0));
	memset(poison, 0xdb, sizeof(poison));
	for (uint64_t at = 0; at < DEV_BYTES; at += sizeof(poison))
		ss_dev_io(&s->dev, IOMAP_REQ_OP_WRITE, at, poison, sizeof(poison));
	tf_go_on(tf);
	run_op(s, "mkfs", op_mkfs, 0, 0, 0, NULL);
	run_op(s, "open", op_open, 0, 0, 0, NULL);
	put(s, 0, 20000, 1);
	put(s, 1, 90000, 2);
	put(s, 2, 100, 3);
	overwrite(s, 0, 5000, 9000, 4);
	overwrite(s, 1, 40000, 1000, 5);
	overwrite(s, 0, 30000, 5000, 6);
	run_op(s, "get", op_get, 0, 0, 0, NULL);
	truncate_to(s, 1, 50001);
	put(s, 2, 60000, 7);
	rm(s, 0);
	put(s, 3, 8192, 8);
	truncate_to(s, 3, 20000);
	check_all(s);
	run_op(s, "info", op_info, 1, 0, 0, NULL);
	put(s, 0, 12345, 9);
	overwrite(s, 1, 3, 70000, 10);
	rm(s, 2);
	clone_as(s, 2, 1);
	overwrite(s, 2, 100, 30000, 11);
	overwrite(s, 1, 20000, 5000, 12);
	truncate_to(s, 2, 50000);
	rm(s, 1);
	run_op(s, "commit", op_commit, 1, 0, 0, NULL);
	check_all(s);
	tf_pause(tf);
	XST_OK(xs_close(s->store));
	XST_OK(iomap_bdev_close(s->dev.bdev));
	XST_OK(iomap_bdev_close(s->lower));
	XST_OK(iomap_engine_destroy(s->engine));
	tf_end(tf);
}

/* One operation fails, or none where readahead or write-out does without. */
static void check(void *arg, struct tf *tf)
{
	const struct script *s = arg;
	unsigned expected = 1;
	uint32_t op;

	if (tf->kind == IOMAP_FAIL_IO) {
		op = s->dev.op[tf->n - 1];
		if (op & IOMAP_REQ_RAHEAD)
			expected = 0;
		/* data: both openers */
		else if ((op & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_WRITE &&
			 !(op & IOMAP_REQ_META) && strcmp(tf->at.call, "truncate"))
			expected = 2;
	} else if (tf->kind == TF_APPLICATION) {
		/* room for what the end of a write-out converts: the write-out fails */
		expected = tf_events(tf, NULL, 2) ? 2 : 1;
	} else if (tf->kind == IOMAP_FAIL_THREAD_CREATE || !strcmp(tf->at.call, "create")) {
		expected = 1;
	} else if (tf->events_nr == 0) {
		/* of these the library has some that it does without */
		expected = tf->kind == IOMAP_FAIL_ALLOC || tf->kind == IOMAP_FAIL_POOL ||
					   tf->kind == IOMAP_FAIL_FOLIO ?
				   0 :
				   1;
	}
	if (tf->events_nr == expected)
		return;
	tf_print(tf);
	cr_assert_fail("expected %u", expected);
}

Test(xs_en10, en10_each_failure_under_and_in_a_store)
{
	static struct script s;
	struct tf_script script = {
		.name = "xstore",
		.run = run,
		.check = check,
		.arg = &s,
		.max_io = 2000,
	};

	tf_each(&script);
}

/* ---- arrays that cannot grow for a while ---- */

static struct iomap_engine *quiet_engine(void)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.cache_bytes = 1 << 20;
	XST_OK(iomap_engine_create(&opts, &engine));
	return engine;
}

static struct xst_fixture quiet_begin(void)
{
	struct xst_fixture f = { .engine = quiet_engine() };

	XST_OK(iomap_bdev_open_memory(f.engine, 4 << 20, &f.bdev));
	XST_OK(xs_mkfs(f.bdev, 0, XST_ID));
	f.store = xst_open(f.engine, f.bdev);
	return f;
}

/* An object of 100 blocks, no two of which adjoin on the device. */
static struct xs_object *scattered(struct xs_store *store, const char *name)
{
	unsigned char block[XS_BLOCK_BYTES];
	struct xs_object *object, *other;

	memset(block, 's', sizeof(block));
	XST_OK(xs_create(store, &object));
	XST_OK(xs_create(store, &other));
	for (int i = 0; i < 100; i++) {
		XST_OK(xst_write(object, block, sizeof(block), i * XS_BLOCK_BYTES));
		XST_OK(xst_fsync(object));
		XST_OK(xst_write(other, block, sizeof(block), i * XS_BLOCK_BYTES));
		XST_OK(xst_fsync(other));
	}
	XST_OK(xs_link(object, name));
	XST_OK(xs_link(other, "other"));
	XST_OK(xs_put(other));
	XST_OK(xs_commit(store));
	return object;
}

static uint64_t free_blocks(struct xs_store *store)
{
	struct xs_usage usage;

	xs_usage(store, &usage);
	return usage.free_nr;
}

Test(xs_en10, en10_data_stays_dirty_when_there_is_no_memory_for_its_completion)
{
	struct xst_fixture f = quiet_begin();
	unsigned char *data = xst_pattern(XS_BLOCK_BYTES, 1);
	struct xs_object *object;

	XST_OK(xs_create(f.store, &object));
	XST_OK(xs_link(object, "o"));
	XST_OK(xs_preallocate(object, 0, 8 * XS_BLOCK_BYTES, true));
	XST_OK(xst_write(object, data, XS_BLOCK_BYTES, 0));
	no_growth = true;
	cr_assert_eq(xst_fsync(object), -EAGAIN);
	no_growth = false;
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, XS_BLOCK_BYTES);
	free(data);
	xst_end(&f);
}

Test(xs_en10, en10_what_is_removed_without_memory_is_free_after_a_commit)
{
	struct xst_fixture f = quiet_begin();
	uint64_t before;

	XST_OK(xs_put(scattered(f.store, "o")));
	xst_reopen(&f);
	before = free_blocks(f.store);
	no_growth = true;
	XST_OK(xs_unlink(f.store, "o"));
	no_growth = false;
	XST_OK(xs_commit(f.store));
	cr_assert_geq(free_blocks(f.store), before + 100);
	before = free_blocks(f.store);
	xst_reopen(&f);
	cr_assert_eq(free_blocks(f.store), before);
	xst_end(&f);
}

Test(xs_en10, en10_an_object_is_not_cut_without_memory_for_what_it_gives_back)
{
	struct xst_fixture f = quiet_begin();
	unsigned char data[2 * XS_BLOCK_BYTES];
	struct xs_object *object;
	struct iomap_file *file;

	XST_OK(xs_put(scattered(f.store, "o")));
	xst_reopen(&f);
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	no_growth = true;
	cr_assert_eq(iomap_truncate(file, sizeof(data)), -ENOMEM);
	no_growth = false;
	cr_assert_eq(iomap_i_size_read(&object->inode), 100 * XS_BLOCK_BYTES);
	XST_OK(iomap_truncate(file, sizeof(data)));
	iomap_file_close(file);
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	memset(data, 's', sizeof(data));
	xst_assert_holds(f.store, "o", data, sizeof(data));
	xst_end(&f);
}
