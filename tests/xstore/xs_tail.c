/* SPDX-License-Identifier: MIT */
/*
 * xs_tail.c - the block of a new end, written out while the object is cut.
 */
#include <sched.h>
#include <stdatomic.h>

#include "testutil.h"
#include "xst.h"

#define MIB (1U << 20)
#define DEV_BYTES (8 * MIB)

/* A write has reached the memory when it is submitted; one of them ends when the test says so. */
struct slow {
	unsigned char *memory;
	atomic_bool hold;
	struct iomap_bio *_Atomic held;
};

static void slow_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct slow *slow = iomap_bdev_private(bdev);
	unsigned char *at = slow->memory + (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT);
	unsigned op = bio->bi_opf & IOMAP_REQ_OP_MASK;

	if (op == IOMAP_REQ_OP_READ)
		iomap_bio_copy_in(bio, 0, at, bio->bi_iter.bi_size);
	else if (op == IOMAP_REQ_OP_WRITE)
		iomap_bio_copy_out(bio, 0, at, bio->bi_iter.bi_size);
	if (op == IOMAP_REQ_OP_WRITE && atomic_exchange(&slow->hold, false))
		atomic_store(&slow->held, bio);
	else
		iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops slow_ops = { .submit_bio = slow_submit };

static long cut(void *arg)
{
	return iomap_truncate(arg, 5000);
}

static void write_out(struct iomap_file *file, int64_t start, int64_t end)
{
	XST_OK(iomap_sync_range(file, start, end, IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER));
}

/* What the device has now is all there is after a power cut. */
static unsigned char *after_power_cut(const unsigned char *memory, const char *name, int64_t *size)
{
	struct iomap_engine *engine = xst_engine(4 * MIB);
	struct xs_store *store;
	struct iomap_bdev *bdev;
	unsigned char *copy = aligned_alloc(4096, DEV_BYTES), *got;

	memcpy(copy, memory, DEV_BYTES);
	XST_OK(iomap_bdev_open_memory(engine, DEV_BYTES, &bdev));
	XST_OK(t_io(bdev, IOMAP_REQ_OP_WRITE, 0, copy, DEV_BYTES));
	free(copy);
	store = xst_open(engine, bdev);
	got = xst_get(store, name, size);
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
	return got;
}

/*
 * The data of the second block is on its way when the object is cut in the middle of it, and
 * the size waits for the first block.  When that is written the size must not pass what was
 * cut off, before the zeros have come to the device in its place.
 */
Test(xs_tail, what_was_on_its_way_when_it_was_cut_off_does_not_come_back)
{
	struct iomap_engine *engine = xst_engine(4 * MIB);
	struct slow slow = { .memory = calloc(1, DEV_BYTES) };
	unsigned char data[12288], *got;
	struct xs_object *object;
	struct iomap_file *file;
	struct xs_store *store;
	struct iomap_bdev *bdev;
	struct t_task task;
	uint64_t before;
	int64_t size;

	XST_OK(iomap_bdev_create(engine, &slow_ops, DEV_BYTES, NULL, &slow, &bdev));
	XST_OK(xs_mkfs(bdev, 0, XST_ID));
	store = xst_open(engine, bdev);
	memset(data, 'o', sizeof(data));
	XST_OK(xst_put(store, "o", data, 100));
	XST_OK(xs_lookup(store, "o", &object));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_file_fsync(file, 0));
	memset(data, 'A', sizeof(data));
	cr_assert_eq(iomap_write(file, data, sizeof(data), 0), (ssize_t)sizeof(data));
	atomic_store(&slow.hold, true);
	XST_OK(iomap_sync_range(file, 4096, 8192, IOMAP_SYNC_WRITE));
	cr_assert_neq(atomic_load(&slow.held), NULL);
	before = t_stats(engine).dirty_bytes;
	t_start(&task, cut, file);
	/* it zeroes the rest of the block, before or after it waits for it: give it the time */
	for (int i = 0; i < 1000 && t_stats(engine).dirty_bytes <= before; i++)
		sched_yield();
	iomap_bio_endio(atomic_load(&slow.held));
	XST_OK((int)t_join(&task));

	memset(data, 'B', 100);
	cr_assert_eq(iomap_write(file, data, 100, 9000), 100);
	write_out(file, 8192, 9100);
	write_out(file, 0, 4096);
	XST_OK(xs_commit(store));
	got = after_power_cut(slow.memory, "o", &size);
	for (int64_t i = 5000; i < size && i < 8192; i++)
		cr_assert_eq(got[i], 0, "byte %lld", (long long)i);
	free(got);

	XST_OK(iomap_file_close(file));
	XST_OK(xs_put(object));
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
	free(slow.memory);
}
