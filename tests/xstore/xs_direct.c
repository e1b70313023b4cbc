/* SPDX-License-Identifier: MIT */
/*
 * xs_direct.c - objects past the cache, and space allocated before it is used.
 */
#include "xst.h"

#include <iomap/faulty.h>
#include <iomap/writelog.h>

#define MIB (UINT64_C(1) << 20)

static void *aligned(size_t bytes)
{
	void *memory = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);

	cr_assert(memory);
	return memory;
}

static struct iomap_file *open_direct(struct xs_object *object, unsigned flags)
{
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT | flags, &file));
	return file;
}

static struct xs_object *new_object(struct xs_store *store, const char *name)
{
	struct xs_object *object;

	XST_OK(xst_put(store, name, "", 0));
	XST_OK(xs_lookup(store, name, &object));
	return object;
}

static void assert_extents(struct xs_store *store, uint32_t nr, uint64_t data, uint64_t unwritten)
{
	struct xs_info info;

	XST_OK(xs_info(store, "o", &info));
	cr_assert_eq(info.extents_nr, nr, "%u extents", info.extents_nr);
	cr_assert_eq(info.data_blocks_nr, data);
	cr_assert_eq(info.unwritten_blocks_nr, unwritten);
}

/* ---- direct I/O ---- */

Test(xs_direct, what_is_written_past_the_cache_is_there_for_both_ways_and_after_reopening)
{
	struct xst_fixture f = xst_begin(8 * MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *direct = open_direct(object, 0), *buffered;
	unsigned char *data = xst_pattern(MIB, 1), *memory = aligned(MIB);

	XST_OK(iomap_file_open(&object->inode, 0, &buffered));
	memcpy(memory, data, MIB);
	cr_assert_eq(iomap_write(direct, memory, MIB, 0), (ssize_t)MIB);
	assert_extents(f.store, 1, MIB / 4096, 0);
	memset(memory, 0, MIB);
	cr_assert_eq(iomap_read(buffered, memory, MIB, 0), (ssize_t)MIB);
	cr_assert(!memcmp(memory, data, MIB));
	/* over what is cached, and what is dirty there seen past it */
	memset(memory, 'd', 8192);
	memset(data + 4096, 'd', 8192);
	cr_assert_eq(iomap_write(direct, memory, 8192, 4096), 8192);
	memset(data + 100, 'b', 50);
	cr_assert_eq(iomap_write(buffered, data + 100, 50, 100), 50);
	cr_assert_eq(iomap_read(buffered, memory, MIB, 0), (ssize_t)MIB);
	cr_assert(!memcmp(memory, data, MIB));
	memset(memory, 0, MIB);
	cr_assert_eq(iomap_read(direct, memory, MIB, 0), (ssize_t)MIB);
	cr_assert(!memcmp(memory, data, MIB));
	iomap_file_close(buffered);
	iomap_file_close(direct);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, MIB);
	free(memory);
	free(data);
	xst_end(&f);
}

Test(xs_direct, sectors_of_a_new_block_leave_zeros_in_its_rest)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *memory = aligned(4096), model[16384] = { 0 };

	memset(memory, 0xee, 4096);
	/* the blocks that it will get are not zero on the device */
	XST_OK(xst_put(f.store, "dirt", memory, 4096));
	for (uint64_t block = 4; block < 64; block++)
		XST_OK(xs_block_io(f.bdev, IOMAP_REQ_OP_WRITE, block + 100, memory, 1));
	memset(memory, 's', 1024);
	cr_assert_eq(iomap_write(file, memory, 512, 512), 512);
	cr_assert_eq(iomap_write(file, memory, 1024, 7680), 1024);
	cr_assert_eq(iomap_write(file, memory, 512, 13312), 512);
	memset(model + 512, 's', 512);
	memset(model + 7680, 's', 1024);
	memset(model + 13312, 's', 512);
	assert_extents(f.store, 1, 4, 0);
	iomap_file_close(file);
	xst_assert_holds(f.store, "o", model, 13824);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", model, 13824);
	/* and behind the end, as growing shows */
	XST_OK(xs_lookup(f.store, "o", &object));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_truncate(file, 16384));
	iomap_file_close(file);
	xst_assert_holds(f.store, "o", model, 16384);
	XST_OK(xs_put(object));
	free(memory);
	xst_end(&f);
}

Test(xs_direct, what_is_not_aligned_or_behind_the_end_is_told)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *memory = aligned(8192);

	memset(memory, 'x', 8192);
	cr_assert_eq(iomap_write(file, memory, 100, 0), -EINVAL);
	cr_assert_eq(iomap_write(file, memory, 512, 100), -EINVAL);
	cr_assert_eq(iomap_read(file, memory, 512, 0), 0);
	cr_assert_eq(iomap_write(file, memory, 4096, 0), 4096);
	XST_OK(iomap_truncate(file, 700));
	cr_assert_eq(iomap_read(file, memory, 8192, 0), 700);
	cr_assert_eq(iomap_read(file, memory, 512, 512), 188);
	cr_assert_eq(iomap_read(file, memory, 512, 1024), 0);
	cr_assert_eq(iomap_write(file, memory, 512, (int64_t)XS_FILE_BYTES_MAX), -EFBIG);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	free(memory);
	xst_end(&f);
}

Test(xs_direct, a_full_store_takes_what_fits_and_then_says_so)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *memory = aligned(2 * MIB);
	ssize_t put;

	memset(memory, 'f', 2 * MIB);
	put = iomap_write(file, memory, 2 * MIB, 0);
	cr_assert_gt(put, (ssize_t)(MIB / 2));
	cr_assert_lt(put, (ssize_t)MIB);
	/* what little the conversion has given back */
	for (ssize_t more = 0; more >= 0; put += more > 0 ? more : 0)
		more = iomap_write(file, memory, MIB, put);
	cr_assert_eq(iomap_write(file, memory, MIB, put), -ENOSPC);
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", memory, (size_t)put);
	free(memory);
	xst_end(&f);
}

Test(xs_direct, a_write_that_fails_leaves_unwritten_space_and_the_size)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct iomap_fault fault = { .size = sizeof(fault), .kind = IOMAP_FAULT_FAIL };
	struct iomap_bdev *memory_dev = f.bdev;
	unsigned char *memory = aligned(8192);
	struct xs_object *object;
	struct iomap_file *file;

	XST_OK(xs_close(f.store));
	XST_OK(iomap_faulty_create(memory_dev, NULL, &f.bdev));
	f.store = xst_open(f.engine, f.bdev);
	object = new_object(f.store, "o");
	file = open_direct(object, 0);
	fault.ops = IOMAP_FAULT_ON_WRITE;
	fault.nth = 1;
	XST_OK(iomap_faulty_add(f.bdev, &fault, NULL));
	memset(memory, 'x', 8192);
	cr_assert_eq(iomap_write(file, memory, 8192, 0), -EIO);
	cr_assert_eq(iomap_i_size_read(&object->inode), 0);
	assert_extents(f.store, 1, 0, 2);
	cr_assert_eq(iomap_write(file, memory, 8192, 0), 8192);
	assert_extents(f.store, 1, 2, 0);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	XST_OK(xs_close(f.store));
	XST_OK(iomap_bdev_close(f.bdev));
	f.bdev = memory_dev;
	f.store = xst_open(f.engine, f.bdev);
	xst_assert_holds(f.store, "o", memory, 8192);
	free(memory);
	xst_end(&f);
}

/* The size must not stay where the direct write ends, in a block that nobody writes again. */
Test(xs_direct, a_direct_write_below_dirty_data_does_not_keep_the_size_back)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *all = aligned(26376);

	memset(all, 0, 26376);
	memset(all + 22000, 'b', 4376);
	XST_OK(xst_write(object, all + 22000, 4376, 22000));
	memset(all + 8192, 'd', 6656);
	cr_assert_eq(iomap_write(file, all + 8192, 6656, 8192), 6656);
	iomap_file_close(file);
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	XST_OK(xs_close(f.store));
	f.store = xst_open(f.engine, f.bdev);
	xst_assert_holds(f.store, "o", all, 26376);
	free(all);
	xst_end(&f);
}

/*
 * The block that holds the end has old bytes on the device, and zeros in the cache only: a
 * write behind it must not move the durable size over them.
 */
Test(xs_direct, the_size_waits_for_the_block_of_the_old_end)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *memory = aligned(MIB), *got;
	struct iomap_bdev *copy;
	struct xs_store *store;
	int64_t size;

	memset(memory, 'x', 4096);
	cr_assert_eq(iomap_write(file, memory, 4096, 0), 4096);
	XST_OK(iomap_truncate(file, 100));
	cr_assert_eq(iomap_write(file, memory, 4096, 8192), 4096);
	XST_OK(xs_commit(f.store));
	/* the power goes */
	XST_OK(iomap_bdev_open_memory(f.engine, MIB, &copy));
	XST_OK(xs_block_io(f.bdev, IOMAP_REQ_OP_READ, 0, memory, MIB / 4096));
	XST_OK(xs_block_io(copy, IOMAP_REQ_OP_WRITE, 0, memory, MIB / 4096));
	store = xst_open(f.engine, copy);
	got = xst_get(store, "o", &size);
	cr_assert(size == 100 || size == 12288);
	cr_assert(!memchr(got + 100, 'x', (size_t)(size > 8192 ? 8192 : size) - 100));
	free(got);
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(copy));
	iomap_file_close(file);
	XST_OK(xs_put(object));
	free(memory);
	xst_end(&f);
}

/* Buffered and direct, aligned and by sectors, truncations, preallocation: one model. */
Test(xs_direct, both_ways_at_random_agree_with_a_model)
{
	enum { MAX = 2 << 20, LONGEST = 64 << 10 };
	struct xst_fixture f = xst_begin(16 * MIB, MIB);
	unsigned char *model = calloc(1, MAX), *memory = aligned(LONGEST);
	unsigned char *noise = xst_pattern(LONGEST, 9);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *files[2];
	uint64_t random = 5;
	int64_t size = 0;

	memcpy(memory, noise, LONGEST);
	files[0] = open_direct(object, 0);
	XST_OK(iomap_file_open(&object->inode, 0, &files[1]));
	for (int n = 0; n < 1500; n++) {
		bool buffered = xst_random(&random) % 2;
		uint64_t unit = buffered ? 1 : xst_random(&random) % 2 ? 512 : 4096;
		int64_t pos = (int64_t)(xst_random(&random) % (MAX - LONGEST) / unit * unit);
		size_t len = (xst_random(&random) % LONGEST / unit + 1) * unit;

		len = len > LONGEST ? LONGEST : len;
		switch (xst_random(&random) % 10) {
		case 0:
			XST_OK(iomap_truncate(files[buffered], pos));
			if (pos < size)
				memset(model + pos, 0, (size_t)(size - pos));
			size = pos;
			break;
		case 1:
			XST_OK(xs_preallocate(object, pos, (int64_t)len, buffered));
			if (!buffered && pos + (int64_t)len > size)
				size = pos + (int64_t)len;
			break;
		case 2:
			XST_OK(iomap_file_fsync(files[buffered], 0));
			break;
		default:
			cr_assert_eq(iomap_write(files[buffered], memory, len, pos), (ssize_t)len);
			memcpy(model + pos, noise, len);
			size = pos + (int64_t)len > size ? pos + (int64_t)len : size;
		}
		if (n % 100 == 0)
			xst_assert_holds(f.store, "o", model, (size_t)size);
	}
	XST_OK(iomap_file_fsync(files[0], 0));
	iomap_file_close(files[0]);
	iomap_file_close(files[1]);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", model, (size_t)size);
	free(memory);
	free(noise);
	free(model);
	xst_end(&f);
}

/* ---- allocated before ---- */

Test(xs_direct, preallocated_space_is_one_extent_of_zeros_that_writes_convert)
{
	struct xst_fixture f = xst_begin(8 * MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file = open_direct(object, 0);
	unsigned char *memory = aligned(4096), *model = calloc(1, 4 * MIB);

	XST_OK(xs_preallocate(object, 0, 4 * MIB, false));
	assert_extents(f.store, 1, 0, 4 * MIB / 4096);
	xst_assert_holds(f.store, "o", model, 4 * MIB);
	memset(memory, 'p', 4096);
	for (int64_t pos = 4096; pos < (int64_t)(4 * MIB); pos += 65536) {
		cr_assert_eq(iomap_write(file, memory, 4096, pos), 4096);
		memcpy(model + pos, memory, 4096);
	}
	assert_extents(f.store, 129, 64, 1024 - 64);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", model, 4 * MIB);
	free(memory);
	free(model);
	xst_end(&f);
}

Test(xs_direct, preallocation_may_keep_the_size_and_fills_holes_only)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	unsigned char *data = xst_pattern(100000, 4);
	struct xs_object *object = new_object(f.store, "o");
	struct xs_usage before, after;

	XST_OK(xst_write(object, data, 5000, 0));
	XST_OK(xst_write(object, data + 40960, 8192, 40960));
	memset(data + 5000, 0, 40960 - 5000);
	XST_OK(xst_fsync(object));
	xs_usage(f.store, &before);
	XST_OK(xs_preallocate(object, 4096, 100000, true));
	xs_usage(f.store, &after);
	cr_assert_eq(before.free_nr - after.free_nr, 8U + 14U);
	cr_assert_eq(iomap_i_size_read(&object->inode), 49152);
	assert_extents(f.store, 4, 4, 22);
	XST_OK(xs_preallocate(object, 0, 100000, true));
	cr_assert_eq(xs_preallocate(object, -1, 10, true), -EINVAL);
	cr_assert_eq(xs_preallocate(object, 0, 0, true), -EINVAL);
	cr_assert_eq(xs_preallocate(object, (int64_t)XS_FILE_BYTES_MAX, 1, true), -EFBIG);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, 49152);
	free(data);
	xst_end(&f);
}

/* Free space in many pieces gives as many extents; too little gives none at all. */
Test(xs_direct, preallocation_takes_the_longest_pieces_or_nothing)
{
	struct xst_fixture f = xst_begin(MIB, MIB);
	unsigned char *data = xst_pattern(40000, 4);
	struct xs_object *object;
	struct xs_usage before, after;
	struct xs_info info;
	char name[16];
	int nr;

	for (nr = 0;; nr++) {
		snprintf(name, sizeof(name), "%d", nr);
		if (xst_put(f.store, name, data, nr % 2 ? 12288 : 20480))
			break;
	}
	for (int i = 0; i < nr; i += 2) {
		snprintf(name, sizeof(name), "%d", i);
		XST_OK(xs_unlink(f.store, name));
	}
	XST_OK(xs_commit(f.store));
	object = new_object(f.store, "o");
	xs_usage(f.store, &before);
	cr_assert_eq(xs_preallocate(object, 0, (int64_t)before.free_nr * 4096, false), -ENOSPC);
	xs_usage(f.store, &after);
	cr_assert_eq(after.free_nr, before.free_nr);
	cr_assert_eq(iomap_i_size_read(&object->inode), 0);
	assert_extents(f.store, 0, 0, 0);
	XST_OK(xs_preallocate(object, 0, 50 * 4096, false));
	XST_OK(xs_info(f.store, "o", &info));
	cr_assert_eq(info.unwritten_blocks_nr, 50U);
	cr_assert_leq(info.extents_nr, 10U);
	XST_OK(xs_put(object));
	free(data);
	xst_end(&f);
}

/*
 * Every other block of it alone, in an order that leaves nodes half full; then a little in
 * each node at once, which a commit has to write all anew; then the rest.
 */
Test(xs_direct, a_store_full_of_preallocated_space_can_be_written_and_committed)
{
	struct xst_fixture f = xst_begin(16 * MIB, MIB);
	struct xs_object *object = new_object(f.store, "o");
	unsigned char *memory = aligned(4096);
	struct iomap_file *file;
	struct xs_usage usage;
	int64_t blocks, i;

	xs_usage(f.store, &usage);
	for (blocks = (int64_t)usage.free_nr; blocks; blocks--)
		if (xs_preallocate(object, 0, blocks * 4096, false) != -ENOSPC)
			break;
	cr_assert_gt(blocks, 3800);
	cr_assert_eq(xst_put(f.store, "more", "text", 4), -ENOSPC);
	file = open_direct(object, 0);
	memset(memory, 'w', 4096);
	for (i = 0; i < blocks / 2; i++) {
		int64_t at = i * 389 % (blocks / 2) * 2;

		cr_assert_eq(iomap_write(file, memory, 4096, at * 4096), 4096);
		if (i % 8 == 0)
			XST_OK(iomap_file_fsync(file, 0));
	}
	XST_OK(iomap_file_fsync(file, 0));
	xst_check(f.bdev);
	for (i = 1; i < blocks; i += 50)
		cr_assert_eq(iomap_write(file, memory, 4096, i * 4096), 4096);
	XST_OK(iomap_file_fsync(file, 0));
	for (i = 0; i < blocks; i++)
		cr_assert_eq(iomap_write(file, memory, 4096, i * 4096), 4096);
	XST_OK(iomap_file_fsync(file, 0));
	xst_check(f.bdev);
	assert_extents(f.store, 1, (uint64_t)blocks, 0);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	free(memory);
	xst_end(&f);
}

/* ---- power cuts ---- */

enum { CUT_BLOCKS = 8, CUT_STEPS = 24 };

struct cut_model {
	unsigned char bytes[CUT_STEPS + 1][CUT_BLOCKS * 4096];
	int64_t size[CUT_STEPS + 1];
};

/* All writes are durable before they return: so each byte is the step's or the next one's. */
static void judge_cut(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	const struct cut_model *model = arg;
	int step = (int)cut->mark, next = step < CUT_STEPS ? step + 1 : step;
	int64_t size;
	unsigned char *got = xst_get(store, "o", &size);

	cr_assert(size == model->size[step] || size == model->size[next],
		  "step %d: size %lld, not %lld nor %lld", step, (long long)size,
		  (long long)model->size[step], (long long)model->size[next]);
	for (int64_t i = 0; i < size; i++)
		cr_assert(got[i] == model->bytes[step][i] || got[i] == model->bytes[next][i],
			  "step %d: byte %lld is %02x", step, (long long)i, got[i]);
	free(got);
}

/* Direct writes of sectors and blocks into unwritten space, holes and beyond the end. */
static void run_cut_steps(struct xs_store *store, struct iomap_bdev *log, struct cut_model *model)
{
	struct xs_object *object = new_object(store, "o");
	unsigned char *memory = aligned(8192);
	struct iomap_file *files[2];
	uint64_t random = 77;

	XST_OK(xs_preallocate(object, 8192, 8192, true));
	XST_OK(xs_commit(store));
	XST_OK(iomap_writelog_restart(log));
	files[0] = open_direct(object, IOMAP_O_DSYNC);
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DSYNC, &files[1]));
	for (int step = 1; step <= CUT_STEPS; step++) {
		int64_t pos = (int64_t)(xst_random(&random) % (CUT_BLOCKS * 8 - 15)) * 512;
		size_t len = (xst_random(&random) % 15 + 1) * 512;
		int buffered = step % 4 == 0;

		/* the end grows slowly, inside blocks, over gaps */
		pos = pos > model->size[step - 1] + 6144 ?
			      model->size[step - 1] / 512 * 512 + 1024 :
			      pos;
		len -= buffered ? 100 : 0;
		memset(memory, step, len);
		memcpy(model->bytes[step], model->bytes[step - 1], sizeof(model->bytes[0]));
		memset(model->bytes[step] + pos, step, len);
		model->size[step] = model->size[step - 1];
		if (pos + (int64_t)len > model->size[step])
			model->size[step] = pos + (int64_t)len;
		cr_assert_eq(iomap_write(files[buffered], memory, len, pos), (ssize_t)len);
		XST_OK(iomap_writelog_mark(log, (uint64_t)step));
	}
	iomap_file_close(files[0]);
	iomap_file_close(files[1]);
	XST_OK(xs_put(object));
	free(memory);
}

Test(xs_direct, power_cuts_around_direct_writes_lose_nothing_and_show_nothing_stale)
{
	struct iomap_engine *engine = xst_engine(MIB);
	struct cut_model *model = calloc(1, sizeof(*model));
	unsigned char *poison = malloc(MIB);
	struct iomap_bdev *log;
	struct xs_store *store;

	memset(poison, 0xdb, MIB);
	XST_OK(iomap_writelog_open_memory(engine, MIB, poison, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	store = xst_open(engine, log);
	run_cut_steps(store, log, model);
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 8, judge_cut, model);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
	free(poison);
	free(model);
}
