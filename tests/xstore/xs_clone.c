/* SPDX-License-Identifier: MIT */
/*
 * xs_clone.c - objects that share blocks: neither sees what is written to the other.
 */
#include <stdatomic.h>

#include "xst.h"

#include "testutil.h"

#define BLOCK XS_BLOCK_BYTES

static struct xs_object *open_name(struct xs_store *store, const char *name)
{
	struct xs_object *object;

	XST_OK(xs_lookup(store, name, &object));
	return object;
}

/* A durable clone of all of an object. */
static int clone_as(struct xs_store *store, const char *name, const char *new_name)
{
	struct xs_object *from = open_name(store, name), *to;
	int error;

	XST_OK(xs_create(store, &to));
	error = xs_clone(from, 0, to, 0, 0);
	if (!error)
		XST_OK(xs_link(to, new_name));
	if (!error)
		XST_OK(xs_commit(store));
	XST_OK(xs_put(from));
	XST_OK(xs_put(to));
	return error;
}

static void overwrite(struct xs_store *store, const char *name, const void *data, size_t len,
		      int64_t pos)
{
	struct xs_object *object = open_name(store, name);

	XST_OK(xst_write(object, data, len, pos));
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
}

static void truncate_to(struct xs_store *store, const char *name, int64_t size)
{
	struct xs_object *object = open_name(store, name);
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_truncate(file, size));
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	XST_OK(xs_put(object));
}

static struct xs_usage usage(struct xs_store *store)
{
	struct xs_usage now;

	xs_usage(store, &now);
	return now;
}

/* What a new opener counts is what this one has counted: free, metadata, shared. */
static void assert_recount(struct xst_fixture *f)
{
	struct xs_usage before, after;

	/* twice: the first frees what the second then counts as free */
	XST_OK(xs_commit(f->store));
	XST_OK(xs_commit(f->store));
	before = usage(f->store);
	cr_assert_eq(f->store->space.freed.reserved, 0U);
	xst_reopen(f);
	after = usage(f->store);
	cr_assert_eq(after.free_nr, before.free_nr, "%llu free, %llu counted",
		     (unsigned long long)before.free_nr, (unsigned long long)after.free_nr);
	cr_assert_eq(after.shared_nr, before.shared_nr);
	cr_assert_eq(after.meta_nr, before.meta_nr);
}

Test(xs_clone, either_side_can_be_overwritten_and_the_other_stays_what_it_was)
{
	enum { LEN = 50 * BLOCK + 123 };
	struct xst_fixture f = xst_begin(16 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1), *b = malloc(LEN), *noise = xst_pattern(LEN, 2);
	uint64_t free_nr;

	memcpy(b, a, LEN);
	XST_OK(xst_put(f.store, "a", a, LEN));
	free_nr = usage(f.store).free_nr;
	XST_OK(clone_as(f.store, "a", "b"));
	cr_assert_eq(usage(f.store).shared_nr, 51U);
	/* no block but of metadata */
	cr_assert_geq(usage(f.store).free_nr + 2, free_nr);
	xst_assert_holds(f.store, "b", a, LEN);
	xst_reopen(&f);
	cr_assert_eq(usage(f.store).shared_nr, 51U);
	xst_assert_holds(f.store, "b", a, LEN);

	/* parts of blocks, whole ones, the tail, and more behind */
	overwrite(f.store, "b", noise, 100, 5 * BLOCK + 50);
	memcpy(b + 5 * BLOCK + 50, noise, 100);
	overwrite(f.store, "a", noise, 3 * BLOCK, 10 * BLOCK - 1);
	memcpy(a + 10 * BLOCK - 1, noise, 3 * BLOCK);
	overwrite(f.store, "a", noise, 7, LEN - 7);
	memcpy(a + LEN - 7, noise, 7);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, LEN);
	XST_OK(xs_commit(f.store));
	cr_assert_eq(usage(f.store).shared_nr, 51U - 1 - 4 - 1);
	assert_recount(&f);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, LEN);

	/* what is one's own again is written in place */
	XST_OK(xs_unlink(f.store, "a"));
	assert_recount(&f);
	cr_assert_eq(usage(f.store).shared_nr, 0U);
	free_nr = usage(f.store).free_nr;
	overwrite(f.store, "b", noise, LEN, 0);
	XST_OK(xs_commit(f.store));
	cr_assert_eq(usage(f.store).free_nr, free_nr);
	xst_assert_holds(f.store, "b", noise, LEN);
	free(a);
	free(b);
	free(noise);
	xst_end(&f);
}

Test(xs_clone, blocks_are_free_when_the_last_owner_has_gone_in_whatever_order)
{
	static const char *const orders[] = { "abc", "acb", "bac", "bca", "cab", "cba" };
	enum { LEN = 20 * BLOCK };
	unsigned char *data = xst_pattern(LEN, 1);

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
		uint64_t empty = usage(f.store).free_nr;

		XST_OK(xst_put(f.store, "a", data, LEN));
		XST_OK(clone_as(f.store, "a", "b"));
		XST_OK(clone_as(f.store, "b", "c"));
		for (const char *at = orders[i]; *at; at++) {
			char name[2] = { *at, '\0' };

			XST_OK(xs_unlink(f.store, name));
			if (i % 2)
				XST_OK(xs_commit(f.store));
			for (const char *left = at + 1; *left; left++) {
				char other[2] = { *left, '\0' };

				xst_assert_holds(f.store, other, data, LEN);
			}
		}
		assert_recount(&f);
		cr_assert_eq(usage(f.store).free_nr, empty);
		/* and an older program can open it again */
		cr_assert_eq(f.store->super.incompat, 0U);
		xst_end(&f);
	}
	free(data);
}

Test(xs_clone, a_truncated_clone_gives_back_what_is_its_own_only)
{
	enum { LEN = 20 * BLOCK };
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1), *b = malloc(LEN), *noise = xst_pattern(LEN, 2);

	memcpy(b, a, LEN);
	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	overwrite(f.store, "b", noise, 4 * BLOCK, 14 * BLOCK);
	memcpy(b + 14 * BLOCK, noise, 4 * BLOCK);
	truncate_to(f.store, "b", 10 * BLOCK + 10);
	xst_assert_holds(f.store, "a", a, LEN);
	/* within a shared block: what was cut off does not come back, and stays with the other */
	truncate_to(f.store, "b", 12 * BLOCK);
	memset(b + 10 * BLOCK + 10, 0, LEN - 10 * BLOCK - 10);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, 12 * BLOCK);
	assert_recount(&f);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, 12 * BLOCK);
	truncate_to(f.store, "a", 0);
	xst_assert_holds(f.store, "b", b, 12 * BLOCK);
	XST_OK(xs_commit(f.store));
	XST_OK(xs_commit(f.store));
	cr_assert_eq(usage(f.store).shared_nr, 0U);
	assert_recount(&f);
	free(a);
	free(b);
	free(noise);
	xst_end(&f);
}

Test(xs_clone, what_cannot_be_cloned_is_refused_and_changes_nothing)
{
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	unsigned char *a = xst_pattern(5 * BLOCK + 9, 1), *b = xst_pattern(7 * BLOCK, 2);
	struct xs_object *from, *to;

	XST_OK(xst_put(f.store, "a", a, 5 * BLOCK + 9));
	XST_OK(xst_put(f.store, "b", b, 7 * BLOCK));
	from = open_name(f.store, "a");
	to = open_name(f.store, "b");
	cr_assert_eq(xs_clone(from, 1, to, 0, BLOCK), -EINVAL);
	cr_assert_eq(xs_clone(from, 0, to, 1, BLOCK), -EINVAL);
	cr_assert_eq(xs_clone(from, 0, to, 0, 10), -EINVAL);
	cr_assert_eq(xs_clone(from, 0, to, 0, 6 * BLOCK), -EINVAL, "beyond the end");
	cr_assert_eq(xs_clone(from, -BLOCK, to, 0, BLOCK), -EINVAL);
	cr_assert_eq(xs_clone(from, 0, to, 0, -1), -EINVAL);
	/* the tail block, in front of something */
	cr_assert_eq(xs_clone(from, 0, to, 0, 0), -EINVAL);
	cr_assert_eq(xs_clone(to, 0, to, BLOCK, 2 * BLOCK), -EINVAL, "overlap");
	cr_assert_eq(xs_clone(from, 0, to, (int64_t)XS_FILE_BYTES_MAX, BLOCK), -EFBIG);
	XST_OK(xs_put(from));
	XST_OK(xs_put(to));
	xst_assert_holds(f.store, "a", a, 5 * BLOCK + 9);
	xst_assert_holds(f.store, "b", b, 7 * BLOCK);
	cr_assert_eq(usage(f.store).shared_nr, 0U);
	free(a);
	free(b);
	xst_end(&f);
}

/* ---- unshare ---- */

static uint64_t shared_of(struct xs_store *store, const char *name)
{
	struct xs_info info;

	XST_OK(xs_info(store, name, &info));
	return info.shared_blocks_nr;
}

Test(xs_clone, us01_an_object_that_is_unshared_has_its_own_blocks_and_the_same_bytes)
{
	enum { LEN = 20 * BLOCK + 77 };
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1);
	struct xs_object *object;
	uint64_t free_nr;

	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	XST_OK(clone_as(f.store, "a", "c"));
	free_nr = usage(f.store).free_nr;
	object = open_name(f.store, "b");
	XST_OK(xs_unshare(object, 3 * BLOCK + 1, 2 * BLOCK));
	XST_OK(xst_fsync(object));
	XST_OK(xs_commit(f.store));
	/* a part of three blocks; holes and own blocks are left alone */
	cr_assert_eq(shared_of(f.store, "b"), 21U - 3);
	cr_assert_eq(shared_of(f.store, "a"), 21U);
	XST_OK(xs_unshare(object, 0, 6 * BLOCK));
	XST_OK(xst_fsync(object));
	cr_assert_eq(shared_of(f.store, "b"), 21U - 6);
	XST_OK(xs_unshare(object, 0, INT64_MAX));
	XST_OK(xst_fsync(object));
	cr_assert_eq(shared_of(f.store, "b"), 0U);
	cr_assert_eq(xs_unshare(object, -1, 5), -EINVAL);
	XST_OK(xs_put(object));
	XST_OK(xs_commit(f.store));
	cr_assert_leq(usage(f.store).free_nr, free_nr - 21);
	for (const char *name = "abc"; *name; name++) {
		char one[2] = { *name, '\0' };

		xst_assert_holds(f.store, one, a, LEN);
	}
	cr_assert_eq(usage(f.store).shared_nr, 21U);
	assert_recount(&f);
	for (const char *name = "abc"; *name; name++) {
		char one[2] = { *name, '\0' };

		xst_assert_holds(f.store, one, a, LEN);
	}
	free(a);
	xst_end(&f);
}

Test(xs_clone, us01_unsharing_in_a_full_store_is_refused_and_harms_nothing)
{
	enum { LEN = 100 * BLOCK };
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1);
	struct xs_object *object;

	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	XST_OK(xst_put(f.store, "fill", a, LEN));
	object = open_name(f.store, "b");
	cr_assert_eq(xs_unshare(object, 0, LEN), -ENOSPC);
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", a, LEN);
	assert_recount(&f);
	xst_assert_holds(f.store, "b", a, LEN);
	free(a);
	xst_end(&f);
}

/* ---- while others read and write ---- */

struct beside {
	struct iomap_file *file;
	atomic_bool over;
};

/* Readers that come at any moment, and find nothing cached. */
static void *read_beside(void *arg)
{
	static unsigned char bytes[8 * BLOCK];
	struct beside *beside = arg;
	struct iomap_inode *inode = iomap_file_inode(beside->file);

	while (!atomic_load(&beside->over)) {
		iomap_invalidate_inode_pages(inode, 0, INT64_MAX);
		t_must(iomap_read(beside->file, bytes, sizeof(bytes), 0) == (ssize_t)sizeof(bytes));
	}
	return NULL;
}

Test(xs_clone, who_reads_meanwhile_leaves_no_old_bytes_in_the_cache)
{
	enum { LEN = 8 * BLOCK, ROUNDS = 400 };
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	unsigned char *data[2] = { xst_pattern(LEN, 1), xst_pattern(LEN, 2) }, *got = malloc(LEN);
	struct beside beside = { .over = false };
	struct xs_object *from[2], *to;
	pthread_t thread;

	XST_OK(xst_put(f.store, "a", data[0], LEN));
	XST_OK(xst_put(f.store, "b", data[1], LEN));
	XST_OK(xst_put(f.store, "c", data[1], LEN));
	from[0] = open_name(f.store, "a");
	from[1] = open_name(f.store, "b");
	to = open_name(f.store, "c");
	XST_OK(iomap_file_open(&to->inode, 0, &beside.file));
	cr_assert_eq(pthread_create(&thread, NULL, read_beside, &beside), 0);
	for (int round = 0; round < ROUNDS; round++) {
		XST_OK(xs_clone(from[round % 2], 0, to, 0, 0));
		cr_assert_eq(iomap_read(beside.file, got, LEN, 0), (ssize_t)LEN);
		cr_assert_arr_eq(got, data[round % 2], LEN, "round %d", round);
	}
	atomic_store(&beside.over, true);
	pthread_join(thread, NULL);
	iomap_file_close(beside.file);
	XST_OK(xs_put(from[0]));
	XST_OK(xs_put(from[1]));
	XST_OK(xs_put(to));
	assert_recount(&f);
	free(data[0]);
	free(data[1]);
	free(got);
	xst_end(&f);
}

/* Each block has bytes of one value; a writer makes all of them the next one. */
static void *write_beside(void *arg)
{
	static unsigned char bytes[8 * BLOCK];
	struct beside *beside = arg;

	for (int value = 1; !atomic_load(&beside->over); value++) {
		memset(bytes, value, sizeof(bytes));
		t_must(iomap_write(beside->file, bytes, sizeof(bytes), 0) ==
		       (ssize_t)sizeof(bytes));
	}
	return NULL;
}

/* Two clone each other's source in both directions, while it is written: whole writes only. */
Test(xs_clone, who_writes_meanwhile_has_all_or_nothing_of_a_write_in_the_clone)
{
	enum { LEN = 8 * BLOCK, ROUNDS = 200 };
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	unsigned char *got = malloc(LEN);
	struct beside beside = { .over = false };
	struct xs_object *from, *to;
	struct iomap_file *file;
	pthread_t thread;

	memset(got, 0, LEN);
	XST_OK(xst_put(f.store, "a", got, LEN));
	XST_OK(xst_put(f.store, "b", got, LEN));
	from = open_name(f.store, "a");
	to = open_name(f.store, "b");
	XST_OK(iomap_file_open(&from->inode, 0, &beside.file));
	XST_OK(iomap_file_open(&to->inode, 0, &file));
	cr_assert_eq(pthread_create(&thread, NULL, write_beside, &beside), 0);
	for (int round = 0; round < ROUNDS; round++) {
		unsigned char value;

		XST_OK(xs_clone(from, 0, to, 0, 0));
		for (int again = 0; again < 2; again++) {
			cr_assert_eq(iomap_read(file, got, LEN, 0), (ssize_t)LEN);
			value = again ? value : got[0];
			for (size_t i = 0; i < LEN; i++)
				cr_assert_eq(got[i], value, "round %d, byte %zu", round, i);
			iomap_invalidate_inode_pages(&to->inode, 0, INT64_MAX);
		}
		if (round % 8 == 0)
			XST_OK(xs_clone(to, 0, from, 0, 0));
	}
	atomic_store(&beside.over, true);
	pthread_join(thread, NULL);
	iomap_file_close(beside.file);
	iomap_file_close(file);
	XST_OK(xs_put(from));
	XST_OK(xs_put(to));
	assert_recount(&f);
	free(got);
	xst_end(&f);
}

/* ---- against a model ---- */

#define NAMES 3
#define OBJECT_MAX (40 * BLOCK)

struct model {
	unsigned char bytes[NAMES][OBJECT_MAX];
	int64_t size[NAMES];
	struct xs_object *object[NAMES];
	struct iomap_file *file[NAMES];
	uint64_t random;
};

static const char *const names[NAMES] = { "x", "y", "z" };

static uint64_t draw(struct model *m, uint64_t below)
{
	return xst_random(&m->random) % below;
}

static void open_all(struct model *m, struct xs_store *store)
{
	for (int i = 0; i < NAMES; i++) {
		m->object[i] = open_name(store, names[i]);
		XST_OK(iomap_file_open(&m->object[i]->inode, 0, &m->file[i]));
	}
}

static void close_all(struct model *m)
{
	for (int i = 0; i < NAMES; i++) {
		iomap_file_close(m->file[i]);
		XST_OK(xs_put(m->object[i]));
	}
}

static void model_write(struct model *m, int i)
{
	int64_t pos = (int64_t)draw(m, OBJECT_MAX - 1);
	size_t len = 1 + (size_t)draw(m, draw(m, 2) ? 3 * BLOCK : 600);
	unsigned char *noise = xst_pattern(3 * BLOCK, draw(m, 1000000));

	if (len > (size_t)(OBJECT_MAX - pos))
		len = (size_t)(OBJECT_MAX - pos);
	cr_assert_eq(iomap_write(m->file[i], noise, len, pos), (ssize_t)len);
	memcpy(m->bytes[i] + pos, noise, len);
	if (pos + (int64_t)len > m->size[i])
		m->size[i] = pos + (int64_t)len;
	free(noise);
}

/* Past the cache; whole blocks. */
static void model_direct(struct model *m, int i)
{
	static unsigned char noise[4 * BLOCK] __attribute__((aligned(4096)));
	size_t len = (1 + (size_t)draw(m, 4)) * BLOCK;
	int64_t pos = (int64_t)draw(m, OBJECT_MAX / BLOCK - 4) * BLOCK;
	struct iomap_file *file;

	memset(noise, (int)(1 + draw(m, 255)), len);
	XST_OK(iomap_file_open(&m->object[i]->inode, IOMAP_O_DIRECT, &file));
	cr_assert_eq(iomap_write(file, noise, len, pos), (ssize_t)len);
	iomap_file_close(file);
	memcpy(m->bytes[i] + pos, noise, len);
	if (pos + (int64_t)len > m->size[i])
		m->size[i] = pos + (int64_t)len;
}

static void model_truncate(struct model *m, int i)
{
	int64_t size = (int64_t)draw(m, OBJECT_MAX);

	XST_OK(iomap_truncate(m->file[i], size));
	if (size < m->size[i])
		memset(m->bytes[i] + size, 0, (size_t)(m->size[i] - size));
	m->size[i] = size;
}

static void model_clone(struct model *m, int from, int to)
{
	int64_t pos = (int64_t)draw(m, OBJECT_MAX / BLOCK) * BLOCK;
	int64_t to_pos = (int64_t)draw(m, OBJECT_MAX / BLOCK) * BLOCK;
	int64_t len = (1 + (int64_t)draw(m, 20)) * BLOCK;
	static unsigned char copy[OBJECT_MAX];

	if (pos >= m->size[from])
		pos = 0;
	if (len > m->size[from] - pos)
		len = m->size[from] - pos;
	if (len > OBJECT_MAX - to_pos)
		len = OBJECT_MAX - to_pos;
	if (len % BLOCK && to_pos + len < m->size[to])
		len -= len % BLOCK;
	if (!len || (from == to && pos < to_pos + len && to_pos < pos + len + BLOCK))
		return;
	if (len % BLOCK && from == to)
		return;
	XST_OK(xs_clone(m->object[from], pos, m->object[to], to_pos, len));
	memcpy(copy, m->bytes[from] + pos, (size_t)len);
	memcpy(m->bytes[to] + to_pos, copy, (size_t)len);
	if (to_pos + len > m->size[to])
		m->size[to] = to_pos + len;
}

static void model_step(struct model *m, struct xs_store *store)
{
	int i = (int)draw(m, NAMES);
	int64_t pos, len;

	switch (draw(m, 10)) {
	case 0:
	case 1:
	case 2:
		model_write(m, i);
		break;
	case 3:
	case 4:
	case 5:
		model_clone(m, (int)draw(m, NAMES), i);
		break;
	case 6:
		model_direct(m, i);
		break;
	case 7:
		if (draw(m, 2))
			model_truncate(m, i);
		break;
	case 8:
		pos = (int64_t)draw(m, OBJECT_MAX - 1);
		len = 1 + (int64_t)draw(m, (uint64_t)(OBJECT_MAX - pos));
		if (draw(m, 2))
			XST_OK(xs_unshare(m->object[i], pos, len));
		else
			XST_OK(xs_preallocate(m->object[i], pos, len, true));
		break;
	default:
		if (draw(m, 2))
			XST_OK(iomap_file_fsync(m->file[i], 0));
		else
			XST_OK(xs_commit(store));
	}
}

/* The free count, and who shares what, are what a new opener counts. */
Test(xs_clone, random_clones_writes_and_truncations_agree_with_a_model)
{
	struct xst_fixture f = xst_begin(8 << 20, 1 << 20);
	struct model *m = calloc(1, sizeof(*m));

	m->random = t_seed();
	for (int i = 0; i < NAMES; i++)
		XST_OK(xst_put(f.store, names[i], "", 0));
	for (int round = 0; round < 25; round++) {
		open_all(m, f.store);
		for (int step = 0; step < 80; step++)
			model_step(m, f.store);
		close_all(m);
		for (int i = 0; i < NAMES; i++)
			xst_assert_holds(f.store, names[i], m->bytes[i], (size_t)m->size[i]);
		assert_recount(&f);
		for (int i = 0; i < NAMES; i++)
			xst_assert_holds(f.store, names[i], m->bytes[i], (size_t)m->size[i]);
	}
	free(m);
	xst_end(&f);
}

/* ---- no room ---- */

Test(xs_clone, overwriting_shared_space_in_a_full_store_is_refused_and_harms_nothing)
{
	enum { LEN = 100 * BLOCK };
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1), *noise = xst_pattern(LEN, 2), *b = malloc(LEN);
	struct xs_object *object;
	size_t done = 0;

	memcpy(b, a, LEN);
	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	cr_assert_eq(xst_put(f.store, "fill", noise, LEN), 0);
	object = open_name(f.store, "b");
	while (done < LEN && !xst_write(object, noise, BLOCK, (int64_t)done)) {
		memcpy(b + done, noise, BLOCK);
		done += BLOCK;
	}
	cr_assert_gt(done, 0U);
	cr_assert_lt(done, (size_t)LEN);
	cr_assert_eq(xst_write(object, noise, BLOCK, (int64_t)done), -ENOSPC);
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, LEN);
	assert_recount(&f);
	xst_assert_holds(f.store, "b", b, LEN);
	/* what is removed makes room, at once */
	XST_OK(xs_unlink(f.store, "fill"));
	overwrite(f.store, "b", noise, LEN, 0);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", noise, LEN);
	free(a);
	free(b);
	free(noise);
	xst_end(&f);
}

/* Extents of one block each, the most metadata that data of that size can have. */
Test(xs_clone, a_clone_whose_metadata_has_no_room_is_refused_and_commits_go_on)
{
	enum { BLOCKS = 60 };
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char byte = 1;
	struct xs_object *object;
	unsigned clones_nr = 0;
	char name[16];
	int error = 0;

	XST_OK(xst_put(f.store, "a", "", 0));
	object = open_name(f.store, "a");
	for (int i = 0; i < BLOCKS; i++)
		XST_OK(xst_write(object, &byte, 1, (int64_t)i * 2 * BLOCK));
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	while (!error) {
		snprintf(name, sizeof(name), "%u", clones_nr++);
		error = clone_as(f.store, "a", name);
	}
	cr_assert_eq(error, -ENOSPC);
	cr_assert_gt(clones_nr, 5U);
	assert_recount(&f);
	/* and all of them can be removed, each in a commit */
	for (unsigned i = 0; i + 1 < clones_nr; i++) {
		snprintf(name, sizeof(name), "%u", i);
		XST_OK(xs_unlink(f.store, name));
		XST_OK(xs_commit(f.store));
	}
	assert_recount(&f);
	cr_assert_eq(usage(f.store).shared_nr, 0U);
	xst_end(&f);
}

/* Every other block, so that what was one extent becomes one for each: all in one commit. */
Test(xs_clone, what_was_accepted_finds_room_for_its_metadata_in_a_full_store)
{
	enum { BLOCKS = 900, LEN = BLOCKS * BLOCK };
	struct xst_fixture f = xst_begin(12 << 20, 64 << 20);
	unsigned char *a = xst_pattern(LEN, 1), *b = malloc(LEN), *noise = xst_pattern(LEN, 2);
	struct xs_object *object;
	size_t nr = 0;

	memcpy(b, a, LEN);
	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	for (int n = 0; usage(f.store).free_nr > BLOCKS / 2 + 5; n++) {
		uint64_t left = usage(f.store).free_nr - (BLOCKS / 2 + 2);
		char name[16];

		snprintf(name, sizeof(name), "fill%d", n);
		XST_OK(xst_put(f.store, name, a, (left < 500 ? (size_t)left : 500) * BLOCK));
	}
	object = open_name(f.store, "b");
	while (nr < BLOCKS && !xst_write(object, noise, BLOCK, (int64_t)(nr * BLOCK))) {
		memcpy(b + nr * BLOCK, noise, BLOCK);
		nr += 2;
	}
	cr_assert_gt(nr, 100U);
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "b", b, LEN);
	assert_recount(&f);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", b, LEN);
	free(a);
	free(b);
	free(noise);
	xst_end(&f);
}

Test(xs_clone, a_block_has_so_many_owners_and_no_more)
{
	struct xst_fixture f = xst_begin(64 << 20, 8 << 20);
	unsigned char *data = xst_pattern(BLOCK, 1);
	struct xs_object *object;
	int64_t nr;

	XST_OK(xst_put(f.store, "o", data, BLOCK));
	object = open_name(f.store, "o");
	for (nr = 1; nr < XS_OWNERS_MAX; nr *= 2)
		XST_OK(xs_clone(object, 0, object, nr * BLOCK, nr * BLOCK));
	cr_assert_eq(nr, (int64_t)XS_OWNERS_MAX);
	cr_assert_eq(xs_clone(object, 0, object, nr * BLOCK, BLOCK), -EMLINK);
	cr_assert_eq(xs_clone(object, 0, object, nr * BLOCK, nr * BLOCK), -EMLINK);
	XST_OK(xst_write(object, data, BLOCK, 5 * BLOCK));
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	assert_recount(&f);
	cr_assert_eq(usage(f.store).shared_nr, 1U);
	/* the place of the one that has gone */
	object = open_name(f.store, "o");
	XST_OK(xs_clone(object, 0, object, nr * BLOCK, BLOCK));
	XST_OK(xs_put(object));
	free(data);
	xst_end(&f);
}

/* ---- errors ---- */

Test(xs_clone, data_that_cannot_be_written_leaves_the_shared_blocks_and_the_counts)
{
	enum { LEN = 10 * BLOCK };
	struct iomap_faulty_opts opts = { .size = sizeof(opts), .seed = 1 };
	struct iomap_fault fault = { .size = sizeof(fault),
				     .kind = IOMAP_FAULT_FAIL,
				     .ops = IOMAP_FAULT_ON_WRITE,
				     .nth = 1,
				     .error = -EIO };
	unsigned char *a = xst_pattern(LEN, 1), *noise = xst_pattern(LEN, 2);
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	struct iomap_bdev *faulty;
	struct xs_object *object;
	uint32_t rule;

	XST_OK(xst_put(f.store, "a", a, LEN));
	XST_OK(clone_as(f.store, "a", "b"));
	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(f.bdev, &opts, &faulty));
	f.store = xst_open(f.engine, faulty);
	object = open_name(f.store, "b");
	XST_OK(xst_write(object, noise, LEN, 0));
	XST_OK(iomap_faulty_add(faulty, &fault, &rule));
	cr_assert_eq(xst_fsync(object), -EIO);
	XST_OK(iomap_faulty_remove(faulty, rule));
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", a, LEN);
	overwrite(f.store, "b", noise, LEN, 0);
	xst_assert_holds(f.store, "a", a, LEN);
	xst_assert_holds(f.store, "b", noise, LEN);
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(faulty));
	f.store = xst_open(f.engine, f.bdev);
	assert_recount(&f);
	xst_assert_holds(f.store, "b", noise, LEN);
	free(a);
	free(noise);
	xst_end(&f);
}

/* ---- images ---- */

static void set_incompat(struct iomap_bdev *bdev, uint64_t incompat)
{
	static uint8_t block[BLOCK] __attribute__((aligned(4096)));
	struct xs_why why = { .text = "" };
	struct xs_super super;

	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++) {
		XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_READ, slot, block, 1));
		XST_OK(xs_super_decode(block, &super, &why));
		super.incompat = incompat;
		XST_OK(xs_super_write(bdev, &super, slot));
	}
}

Test(xs_clone, the_super_block_says_that_blocks_are_shared_or_it_is_damage)
{
	enum { LEN = 10 * BLOCK };
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char *a = xst_pattern(LEN, 1);
	struct xs_why why = { .text = "" };
	struct xs_counts counts;

	XST_OK(xst_put(f.store, "a", a, LEN));
	cr_assert_eq(f.store->super.incompat, 0U);
	XST_OK(clone_as(f.store, "a", "b"));
	cr_assert_eq(f.store->super.incompat, XS_INCOMPAT_SHARED);
	XST_OK(xs_close(f.store));
	XST_OK(xs_check(f.bdev, &counts, &why));
	cr_assert_eq(counts.shared_bytes, (uint64_t)LEN);
	cr_assert_eq(counts.data_bytes, (uint64_t)LEN, "shared blocks count once");
	set_incompat(f.bdev, 0);
	cr_assert_eq(xs_check(f.bdev, &counts, &why), XS_EDAMAGED);
	cr_assert(strstr(why.text, "block used twice"), "%s", why.text);
	cr_assert_eq(xs_open(f.engine, f.bdev, true, &f.store, &why), XS_EDAMAGED);
	set_incompat(f.bdev, XS_INCOMPAT_SHARED);
	xst_check(f.bdev);
	f.store = xst_open(f.engine, f.bdev);
	free(a);
	xst_end(&f);
}

/* ---- power cuts ---- */

struct cuts {
	unsigned char *old, *new;
};

enum { CUT_LEN = 6 * BLOCK };

static bool holds(struct xs_store *store, const char *name, const unsigned char *data)
{
	int64_t size;
	unsigned char *got = xst_get(store, name, &size);
	bool same = size == CUT_LEN && !memcmp(got, data, CUT_LEN);

	free(got);
	return same;
}

/*
 * Marks: 1: b is a clone of a.  2: b is being removed, and a overwritten, without a commit.
 * 3: it has been committed.  As long as b is there it has the bytes that both had.
 */
static void judge_removal(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	struct cuts *cuts = arg;
	struct xs_info info;

	if (cut->mark >= 1 && cut->mark < 3) {
		if (!xs_info(store, "b", &info))
			cr_assert(holds(store, "b", cuts->old), "event %llu, seed %llu",
				  (unsigned long long)cut->event, (unsigned long long)cut->seed);
		else
			cr_assert_gt(cut->mark, 1U);
	}
	if (cut->mark == 1)
		cr_assert(holds(store, "a", cuts->old));
	if (cut->mark == 3) {
		cr_assert_eq(xs_info(store, "b", &info), -ENOENT);
		cr_assert(holds(store, "a", cuts->new));
	}
}

Test(xs_clone, the_only_owner_left_does_not_overwrite_what_a_power_cut_may_bring_back)
{
	struct iomap_engine *engine = xst_engine(1 << 20);
	struct cuts cuts = { xst_pattern(CUT_LEN, 1), xst_pattern(CUT_LEN, 2) };
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct xs_object *object;
	struct iomap_file *file;
	struct iomap_bdev *log;
	struct xs_store *store;

	XST_OK(iomap_writelog_open_memory(engine, 256 << 10, NULL, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	store = xst_open(engine, log);
	XST_OK(xst_put(store, "a", cuts.old, CUT_LEN));
	XST_OK(iomap_writelog_restart(log));
	XST_OK(clone_as(store, "a", "b"));
	XST_OK(iomap_writelog_mark(log, 1));
	XST_OK(iomap_writelog_mark(log, 2));
	XST_OK(xs_unlink(store, "b"));
	object = open_name(store, "a");
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	cr_assert_eq(iomap_write(file, cuts.new, CUT_LEN, 0), CUT_LEN);
	XST_OK(iomap_sync_range(file, 0, INT64_MAX, all));
	XST_OK(iomap_file_fsync(file, 0));
	XST_OK(iomap_writelog_mark(log, 3));
	iomap_file_close(file);
	XST_OK(xs_put(object));
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 6, judge_removal, &cuts);
	free(cuts.old);
	free(cuts.new);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
}
