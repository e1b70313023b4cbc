/* SPDX-License-Identifier: MIT */
/*
 * xs_grow.c - an object that grows shows zeros where nobody has written since, whatever lies
 * behind its end on the device after a power cut.
 *
 * A size waits for its tail block, extents do not.  So a power cut may leave written extents
 * behind the end of an object, and bytes in its last block.
 */
#include "xst.h"

#define BLOCK 4096
#define MIB (1 << 20)
#define GROWN (8 * BLOCK)

static struct xs_object *open_object(struct xs_store *store, const char *name)
{
	struct xs_object *object;

	XST_OK(xs_lookup(store, name, &object));
	return object;
}

/* The device as it is now, as if power went and everything had landed. */
static struct iomap_bdev *cut(struct iomap_engine *engine, struct iomap_bdev *bdev)
{
	const uint64_t blocks = iomap_bdev_bytes(bdev) / BLOCK;
	uint8_t *bytes = aligned_alloc(BLOCK, blocks * BLOCK);
	struct iomap_bdev *copy;

	XST_OK(iomap_bdev_open_memory(engine, blocks * BLOCK, &copy));
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_READ, 0, bytes, blocks));
	XST_OK(xs_block_io(copy, IOMAP_REQ_OP_WRITE, 0, bytes, blocks));
	free(bytes);
	return copy;
}

static void write_range(struct xs_object *object, unsigned flags, int byte, int64_t pos, size_t len)
{
	unsigned char *memory = aligned_alloc(BLOCK, GROWN);
	struct iomap_file *file;

	memset(memory, byte, GROWN);
	XST_OK(iomap_file_open(&object->inode, flags, &file));
	cr_assert_eq(iomap_write(file, memory, len, pos), (ssize_t)len);
	iomap_file_close(file);
	free(memory);
}

static void truncate_to(struct xs_object *object, int64_t size)
{
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_truncate(file, size));
	iomap_file_close(file);
}

static void sync_blocks(struct xs_object *object, int64_t first, int64_t nr)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_sync_range(file, first * BLOCK, (first + nr) * BLOCK, all));
	iomap_file_close(file);
}

/* Ways to grow from @size on to GROWN.  Return: from where on it has 'G'. */
static int64_t grow(struct xs_object *object, int way, int64_t size)
{
	switch (way) {
	case 0:
		truncate_to(object, GROWN);
		return GROWN;
	case 1:
		write_range(object, 0, 'G', GROWN - 100, 100);
		return GROWN - 100;
	case 2:
		write_range(object, IOMAP_O_DIRECT, 'G', GROWN - BLOCK, BLOCK);
		return GROWN - BLOCK;
	case 3:
		XST_OK(xs_preallocate(object, GROWN - BLOCK, BLOCK, false));
		return GROWN;
	case 4:
		/* sectors of the last block itself, past the cache */
		write_range(object, IOMAP_O_DIRECT, 'G', (size + 511) / 512 * 512 + 512, 512);
		truncate_to(object, GROWN);
		return -((size + 511) / 512 * 512 + 512);
	default:
		XST_OK(xs_preallocate(object, 0, GROWN, true));
		truncate_to(object, GROWN);
		return GROWN;
	}
}

enum { WAYS = 6 };

static void assert_grown(const unsigned char *got, int64_t size, int64_t from)
{
	for (int64_t i = 0; i < GROWN; i++) {
		bool is_new = from < 0 ? i >= -from && i < -from + 512 : i >= from;
		int byte = i < size ? 'A' : is_new ? 'G' : 0;

		cr_assert_eq(got[i], byte, "byte %lld is %d, not %d", (long long)i, got[i], byte);
	}
}

/* Open what a power cut left, grow the object, and look at it now and once it was written. */
static void judge(struct iomap_engine *engine, struct iomap_bdev *bdev, int way, int64_t size)
{
	struct xs_store *store = xst_open(engine, bdev);
	struct xs_object *object = open_object(store, "o");
	unsigned char *got;
	int64_t from, found;

	cr_assert_eq(iomap_i_size_read(&object->inode), size);
	from = grow(object, way, size);
	for (int round = 0; round < 2; round++) {
		got = xst_get(store, "o", &found);
		cr_assert_eq(found, GROWN);
		assert_grown(got, size, from);
		free(got);
		XST_OK(xst_fsync(object));
		XST_OK(xs_put(object));
		XST_OK(xs_close(store));
		xst_check(bdev);
		store = xst_open(engine, bdev);
		object = open_object(store, "o");
	}
	XST_OK(xs_put(object));
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(bdev));
}

/* 100 bytes of 'A'; in the rest of their block, and in @behind blocks at 2, 'B'. */
static void run_cut(int way, bool direct, int64_t behind)
{
	const unsigned flags = direct ? IOMAP_O_DIRECT : 0;
	struct xst_fixture f = xst_begin(MIB, MIB);
	unsigned char data[BLOCK];
	struct xs_object *object;

	memset(data, 'B', sizeof(data));
	memset(data, 'A', 100);
	XST_OK(xst_put(f.store, "o", data, sizeof(data)));
	object = open_object(f.store, "o");
	truncate_to(object, 100);
	if (behind) {
		XST_OK(xs_preallocate(object, BLOCK, 3 * BLOCK, true));
		write_range(object, flags, 'B', 2 * BLOCK, (size_t)behind * BLOCK);
		sync_blocks(object, 2, behind);
	}
	/* the rest of the last block is still dirty */
	XST_OK(xs_commit(f.store));
	judge(f.engine, cut(f.engine, f.bdev), way, 100);
	XST_OK(xs_put(object));
	xst_end(&f);
}

Test(xs_grow, after_a_power_cut_the_rest_of_the_last_block_is_zeros)
{
	for (int way = 0; way < WAYS; way++)
		run_cut(way, false, 0);
}

Test(xs_grow, after_a_power_cut_what_was_written_behind_the_end_is_not_there)
{
	for (int way = 0; way < WAYS; way++)
		for (int64_t behind = 1; behind <= 5; behind += 2) {
			run_cut(way, false, behind);
			run_cut(way, true, behind);
		}
}
