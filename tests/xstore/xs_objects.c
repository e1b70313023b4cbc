/* SPDX-License-Identifier: MIT */
/*
 * xs_objects.c - objects against a model in memory.
 */
#include <stdatomic.h>

#include "xst.h"

Test(xs_objects, round_trips_of_many_sizes_with_and_without_reopening)
{
	static const size_t sizes[] = { 0,    1,     511,   512,    4095,    4096,
					4097, 65535, 65537, 262144, 1000001, 5000000 };
	struct xst_fixture f = xst_begin(16 << 20, 1 << 20);
	char name[32];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		unsigned char *data = xst_pattern(sizes[i], i);

		snprintf(name, sizeof(name), "size-%zu", sizes[i]);
		XST_OK(xst_put(f.store, name, data, sizes[i]));
		xst_assert_holds(f.store, name, data, sizes[i]);
		xst_reopen(&f);
		xst_assert_holds(f.store, name, data, sizes[i]);
		free(data);
	}
	xst_end(&f);
}

/* Writes at random, some sparse, truncations and syncs, with a cache that does not hold all. */
Test(xs_objects, random_writes_and_truncations_agree_with_a_model)
{
	enum { MAX = 3 << 20 };
	struct xst_fixture f = xst_begin(16 << 20, 1 << 20);
	unsigned char *model = calloc(1, MAX), *noise = xst_pattern(200000, 3);
	struct xs_object *object;
	struct iomap_file *file;
	uint64_t random = 11;
	int64_t size = 0;

	XST_OK(xst_put(f.store, "o", noise, 0));
	for (int round = 0; round < 8; round++) {
		XST_OK(xs_lookup(f.store, "o", &object));
		XST_OK(iomap_file_open(&object->inode, 0, &file));
		for (int n = 0; n < 60; n++) {
			int64_t pos = (int64_t)(xst_random(&random) % (MAX - 200000));
			size_t len = xst_random(&random) % (n % 4 ? 9000 : 200000) + 1;

			if (xst_random(&random) % 8 == 0) {
				XST_OK(iomap_truncate(file, pos));
				if (pos < size)
					memset(model + pos, 0, (size_t)(size - pos));
				size = pos;
			} else {
				cr_assert_eq(iomap_write(file, noise, len, pos), (ssize_t)len);
				memcpy(model + pos, noise, len);
				size = pos + (int64_t)len > size ? pos + (int64_t)len : size;
			}
			if (xst_random(&random) % 16 == 0)
				XST_OK(iomap_file_fsync(file, 0));
		}
		XST_OK(iomap_file_fsync(file, 0));
		iomap_file_close(file);
		XST_OK(xs_put(object));
		xst_assert_holds(f.store, "o", model, (size_t)size);
		xst_reopen(&f);
		xst_assert_holds(f.store, "o", model, (size_t)size);
	}
	free(model);
	free(noise);
	xst_end(&f);
}

struct beside {
	struct iomap_file *file;
	atomic_bool over;
};

static void *sync_range_beside(void *arg)
{
	struct beside *beside = arg;

	while (!atomic_load(&beside->over))
		XST_OK(iomap_sync_range(beside->file, 0, INT64_MAX,
					IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE |
						IOMAP_SYNC_WAIT_AFTER));
	return NULL;
}

/*
 * Write-out may take the zeros of the tail block at any moment before i_size grows, and then
 * writes it no more.  Each growth must be in the size that a sync commits, and in the one
 * that the next opener finds.
 */
Test(xs_objects, a_tail_written_before_the_size_has_grown_keeps_no_size_back)
{
	enum { MAX = 3 << 20, ROUNDS = 150 };
	struct xst_fixture f = xst_begin(16 << 20, 1 << 20);
	unsigned char *data = xst_pattern(30000, 3);
	struct beside beside = { .over = false };
	struct xs_object *object;
	uint64_t random = 5;
	int64_t size = 0;
	pthread_t thread;
	struct xs_info info;

	XST_OK(xst_put(f.store, "o", data, 0));
	for (int round = 0; round < ROUNDS; round++) {
		XST_OK(xs_lookup(f.store, "o", &object));
		XST_OK(iomap_file_open(&object->inode, 0, &beside.file));
		atomic_store(&beside.over, false);
		cr_assert_eq(pthread_create(&thread, NULL, sync_range_beside, &beside), 0);
		for (int n = 0; n < 10; n++) {
			size_t len = xst_random(&random) % 30000 + 1;
			int64_t pos = size + (int64_t)(xst_random(&random) % 30000);

			if (pos > MAX) {
				size = (int64_t)(xst_random(&random) % 9000);
				XST_OK(iomap_truncate(beside.file, size));
				continue;
			}
			if (n % 3)
				cr_assert_eq(iomap_write(beside.file, data, len, pos), (ssize_t)len);
			else
				XST_OK(iomap_truncate(beside.file, pos + (int64_t)len));
			size = pos + (int64_t)len;
			if (round % 2 || n % 2)
				continue;
			XST_OK(iomap_file_fsync(beside.file, 0));
			pthread_mutex_lock(&f.store->lock);
			cr_assert_eq((int64_t)object->size, size, "synced: %lld",
				     (long long)object->size);
			pthread_mutex_unlock(&f.store->lock);
		}
		atomic_store(&beside.over, true);
		pthread_join(thread, NULL);
		XST_OK(iomap_file_close(beside.file));
		XST_OK(xs_put(object));
		XST_OK(xs_info_nth(f.store, 0, &info));
		cr_assert_eq((int64_t)info.size, size, "put: %lld", (long long)info.size);
	}
	free(data);
	xst_end(&f);
}

Test(xs_objects, removed_space_is_used_again_and_a_full_store_stays_whole)
{
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char *data = xst_pattern(600000, 5);
	struct xs_usage usage;
	uint64_t free_nr;

	XST_OK(xst_put(f.store, "first", data, 300000));
	xs_usage(f.store, &usage);
	free_nr = usage.free_nr;
	for (int i = 0; i < 20; i++) {
		XST_OK(xst_put(f.store, "second", data, 600000));
		cr_assert_eq(xst_put(f.store, "third", data, 300000), -ENOSPC);
		cr_assert_eq(xst_put(f.store, "second", data, 600000), -ENOSPC);
		xst_assert_holds(f.store, "second", data, 600000);
		XST_OK(xs_unlink(f.store, "second"));
		if (i % 2)
			XST_OK(xs_commit(f.store));
	}
	xst_assert_holds(f.store, "first", data, 300000);
	xst_reopen(&f);
	xs_usage(f.store, &usage);
	cr_assert_eq(usage.free_nr, free_nr);
	free(data);
	xst_end(&f);
}

/* Objects until none fits any more: then they can still be removed, one by one. */
Test(xs_objects, a_store_full_of_objects_can_be_emptied)
{
	struct xst_fixture f = xst_begin(256 << 10, 1 << 20);
	unsigned char *data = xst_pattern(100, 6);
	char name[32];
	int nr = 0, error;

	for (;; nr++) {
		snprintf(name, sizeof(name), "%d", nr);
		error = xst_put(f.store, name, data, nr % 3 ? 100 : 0);
		if (error)
			break;
	}
	cr_assert_eq(error, -ENOSPC);
	cr_assert_gt(nr, 40);
	xst_reopen(&f);
	while (nr--) {
		snprintf(name, sizeof(name), "%d", nr);
		XST_OK(xs_unlink(f.store, name));
		XST_OK(xs_commit(f.store));
	}
	xst_reopen(&f);
	free(data);
	xst_end(&f);
}

Test(xs_objects, a_removed_object_lives_until_its_last_opener_has_gone)
{
	struct xst_fixture f = xst_begin(1 << 20, 1 << 20);
	unsigned char *data = xst_pattern(50000, 8);
	struct xs_object *object;
	struct iomap_file *file;
	unsigned char byte;

	XST_OK(xst_put(f.store, "o", data, 50000));
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(xs_unlink(f.store, "o"));
	XST_OK(xs_commit(f.store));
	cr_assert_eq(xs_close(f.store), -EBUSY);
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	cr_assert_eq(xs_put(object), -EBUSY);
	XST_OK(xst_put(f.store, "o", data + 1, 40000));
	cr_assert_eq(iomap_read(file, &byte, 1, 49999), 1);
	cr_assert_eq(byte, data[49999]);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "o", data + 1, 40000);
	free(data);
	xst_end(&f);
}

/* ---- several threads ---- */

enum { WRITERS = 3, SHARED_BYTES = 600000, ROUNDS = 40 };

struct writer {
	struct xs_store *store;
	struct iomap_file *shared; /* each writes pieces of its own: 1000 bytes in 3000 */
	unsigned nr;
};

static void *writer_main(void *arg)
{
	struct writer *writer = arg;
	unsigned char *mine = xst_pattern(30000, writer->nr);
	uint64_t random = writer->nr + 100;
	unsigned char piece[1000];
	char name[32];

	memset(piece, (int)('a' + writer->nr), sizeof(piece));
	snprintf(name, sizeof(name), "own-%u", writer->nr);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned n = round; n < SHARED_BYTES / 3000; n += ROUNDS)
			cr_assert_eq(iomap_write(writer->shared, piece, sizeof(piece),
						 n * 3000 + writer->nr * 1000),
				     (ssize_t)sizeof(piece));
		XST_OK(xst_put(writer->store, name, mine, 1 + xst_random(&random) % 30000));
		if (round % 4 == writer->nr)
			XST_OK(iomap_file_fsync(writer->shared, 0));
		if (round % 5 == 0)
			XST_OK(xs_unlink(writer->store, name));
	}
	XST_OK(xst_put(writer->store, name, mine, 30000));
	free(mine);
	return NULL;
}

/* The cache is small: folios leave and come back while extents are converted. */
Test(xs_objects, threads_on_one_object_and_on_their_own_lose_nothing)
{
	struct xst_fixture f = xst_begin(8 << 20, 512 << 10);
	struct writer writers[WRITERS];
	unsigned char *expected = malloc(SHARED_BYTES), *mine;
	pthread_t threads[WRITERS];
	struct xs_object *object;
	struct iomap_file *file;
	char name[32];

	XST_OK(xst_put(f.store, "shared", "", 0));
	XST_OK(xs_lookup(f.store, "shared", &object));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ f.store, file, i };
		cr_assert_eq(pthread_create(&threads[i], NULL, writer_main, &writers[i]), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	XST_OK(xs_put(object));
	for (size_t i = 0; i < SHARED_BYTES; i++)
		expected[i] = (unsigned char)('a' + i / 1000 % 3);
	xst_assert_holds(f.store, "shared", expected, SHARED_BYTES);
	xst_reopen(&f);
	xst_assert_holds(f.store, "shared", expected, SHARED_BYTES);
	for (unsigned i = 0; i < WRITERS; i++) {
		mine = xst_pattern(30000, i);
		snprintf(name, sizeof(name), "own-%u", i);
		xst_assert_holds(f.store, name, mine, 30000);
		free(mine);
	}
	free(expected);
	xst_end(&f);
}

/* ---- everything at once ---- */

enum { HANDS = 6, SHARED_NR = 3, DEEDS = 150, AREA = 1 << 18 };

struct hand {
	struct xs_store *store;
	unsigned nr;
	unsigned full_nr;
};

static int64_t some(uint64_t *random, int64_t below, int64_t unit)
{
	return (int64_t)(xst_random(random) % (uint64_t)(below / unit)) * unit;
}

/* Full, or to be tried again: nothing else may go wrong. */
static void expect_done(struct hand *hand, int64_t result)
{
	if (result == -ENOSPC)
		hand->full_nr++;
	else
		cr_assert_geq(result, 0, "%lld", (long long)result);
}

/* One of many things with an open object; all bytes that it ever has are 'x'. */
static void one_deed(struct hand *hand, struct xs_object *object, uint64_t *random)
{
	unsigned char *memory = aligned_alloc(4096, AREA / 8);
	struct iomap_file *file;
	unsigned deed = (unsigned)(xst_random(random) % 9);
	int64_t pos = some(random, AREA, 512), len = 1 + some(random, AREA / 8, 1);

	memset(memory, 'x', AREA / 8);
	XST_OK(iomap_file_open(&object->inode, deed >= 6 ? IOMAP_O_DIRECT : 0, &file));
	if (deed < 2)
		expect_done(hand, iomap_write(file, memory, (size_t)len, pos));
	else if (deed == 2)
		expect_done(hand, iomap_truncate(file, pos));
	else if (deed == 3)
		expect_done(hand, iomap_file_fsync(file, 0));
	else if (deed == 4)
		expect_done(hand, xs_preallocate(object, pos, len, len % 2));
	else if (deed == 5)
		expect_done(hand, iomap_read(file, memory, (size_t)len, pos));
	else if (deed == 6)
		expect_done(hand, iomap_read(file, memory, AREA / 8, pos / 4096 * 4096));
	else
		expect_done(hand, iomap_write(file, memory, (size_t)(len + 4095) / 4096 * 4096,
					      pos / 4096 * 4096));
	if (deed == 5 || deed == 6)
		for (int64_t i = 0; i < len; i++)
			cr_assert(memory[i] == 'x' || memory[i] == 0);
	iomap_file_close(file);
	free(memory);
}

static void *hand_main(void *arg)
{
	struct hand *hand = arg;
	uint64_t random = hand->nr + 1;
	struct xs_object *object;
	char name[32];
	int error;

	for (unsigned n = 0; n < DEEDS; n++) {
		bool own = xst_random(&random) % 2;

		snprintf(name, sizeof(name), "%s-%u", own ? "own" : "shared",
			 own ? hand->nr : (unsigned)(xst_random(&random) % SHARED_NR));
		if (n % 16 == 15) {
			error = xs_unlink(hand->store, name);
			cr_assert(!error || error == -ENOENT);
			continue;
		}
		error = xs_lookup(hand->store, name, &object);
		if (error == -ENOENT) {
			error = xs_create(hand->store, &object);
			if (!error)
				XST_OK(xs_link(object, name));
		}
		expect_done(hand, error);
		if (error)
			continue;
		for (unsigned i = 0; i < 4; i++)
			one_deed(hand, object, &random);
		XST_OK(xs_put(object));
		if (n % 8 == 0)
			expect_done(hand, xs_commit(hand->store));
	}
	return NULL;
}

/* What nobody has written is no zeros either. */
static void poison(struct iomap_bdev *bdev)
{
	unsigned char block[XS_BLOCK_BYTES] __attribute__((aligned(4096)));

	memset(block, 0xdb, sizeof(block));
	for (uint64_t i = 0; i < iomap_bdev_bytes(bdev) / sizeof(block); i++)
		XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_WRITE, i, block, 1));
}

/* Create, write both ways, truncate, preallocate, sync, remove, rename over, in a small store. */
Test(xs_objects, threads_that_do_everything_to_shared_objects_leave_a_store_that_is_right)
{
	struct xst_fixture f = xst_begin(2 << 20, 512 << 10);
	struct hand hands[HANDS];
	pthread_t threads[HANDS];
	struct xs_usage before, after;
	struct xs_info info;

	XST_OK(xs_close(f.store));
	poison(f.bdev);
	XST_OK(xs_mkfs(f.bdev, 0, XST_ID));
	f.store = xst_open(f.engine, f.bdev);
	for (unsigned i = 0; i < HANDS; i++) {
		hands[i] = (struct hand){ f.store, i, 0 };
		cr_assert_eq(pthread_create(&threads[i], NULL, hand_main, &hands[i]), 0);
	}
	for (unsigned i = 0; i < HANDS; i++)
		pthread_join(threads[i], NULL);
	XST_OK(xs_commit(f.store));
	/* no block has been lost, and none has two owners */
	xs_usage(f.store, &before);
	xst_reopen(&f);
	xs_usage(f.store, &after);
	cr_assert_eq(after.free_nr, before.free_nr);
	while (xs_info_nth(f.store, 0, &info) == 0) {
		int64_t size;
		unsigned char *data = xst_get(f.store, info.name, &size);

		for (int64_t i = 0; i < size; i++)
			cr_assert(data[i] == 'x' || data[i] == 0, "%s: byte %lld", info.name,
				  (long long)i);
		free(data);
		XST_OK(xs_unlink(f.store, info.name));
	}
	XST_OK(xs_commit(f.store));
	xs_usage(f.store, &after);
	cr_assert_eq(after.free_nr, after.blocks - XS_SUPER_SLOTS);
	xst_end(&f);
}
