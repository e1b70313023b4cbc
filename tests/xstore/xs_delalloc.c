/* SPDX-License-Identifier: MIT */
/*
 * xs_delalloc.c - blocks are reserved by writes, chosen by writeback, and given back by all else.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "xst.h"

#include <iomap/faulty.h>

#define MIB (UINT64_C(1) << 20)
#define BLOCK ((int64_t)XS_BLOCK_BYTES)
#define CACHE_BYTES (32 * MIB) /* so much that nothing is written out before it is asked for */

static uint64_t reserved_nr(struct xs_store *store)
{
	struct xs_usage usage;

	xs_usage(store, &usage);
	return usage.delalloc_nr;
}

/* Committed, nothing is reserved, and free is what a recount of the device finds free. */
static void assert_recount(struct xst_fixture *f)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;
	struct xs_usage usage;

	XST_OK(xs_commit(f->store));
	xs_usage(f->store, &usage);
	cr_assert_eq(usage.delalloc_nr, 0U, "%llu blocks are reserved",
		     (unsigned long long)usage.delalloc_nr);
	cr_assert_eq(xs_check(f->bdev, &counts, &why), 0, "%s", why.text);
	cr_assert_eq(counts.free_bytes / XS_BLOCK_BYTES, usage.free_nr, "%llu free, not %llu",
		     (unsigned long long)counts.free_bytes / XS_BLOCK_BYTES,
		     (unsigned long long)usage.free_nr);
}

static struct xs_object *new_object(struct xs_store *store, const char *name)
{
	struct xs_object *object;

	XST_OK(xst_put(store, name, "", 0));
	XST_OK(xs_lookup(store, name, &object));
	return object;
}

static uint32_t extents_nr(struct xs_store *store, const char *name)
{
	struct xs_info info;

	XST_OK(xs_info(store, name, &info));
	return info.extents_nr;
}

Test(xs_delalloc, small_writes_to_two_objects_in_turn_make_one_extent_of_each)
{
	struct xst_fixture f = xst_begin(8 * MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(MIB, 1);
	struct xs_object *one = new_object(f.store, "one"), *two = new_object(f.store, "two");

	for (size_t at = 0; at < MIB; at += 1000) {
		size_t len = MIB - at < 1000 ? MIB - at : 1000;

		XST_OK(xst_write(one, data + at, len, (int64_t)at));
		XST_OK(xst_write(two, data + at, len, (int64_t)at));
	}
	cr_assert_eq(reserved_nr(f.store), 2 * MIB / XS_BLOCK_BYTES);
	XST_OK(xst_fsync(one));
	XST_OK(xst_fsync(two));
	cr_assert_eq(extents_nr(f.store, "one"), 1U);
	cr_assert_eq(extents_nr(f.store, "two"), 1U);
	assert_recount(&f);
	XST_OK(xs_put(one));
	XST_OK(xs_put(two));
	xst_reopen(&f);
	xst_assert_holds(f.store, "one", data, MIB);
	xst_assert_holds(f.store, "two", data, MIB);
	free(data);
	xst_end(&f);
}

/* From the middle outwards; a sync of one block of it takes space for all. */
Test(xs_delalloc, a_run_gets_its_place_as_a_whole_whichever_block_is_written_first)
{
	struct xst_fixture f = xst_begin(8 * MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(64 * XS_BLOCK_BYTES, 2);
	struct xs_object *object = new_object(f.store, "o");
	struct xs_extent *extents;
	struct iomap_file *file;
	uint32_t nr;

	for (int64_t i = 63; i >= 0; i--)
		XST_OK(xst_write(object, data + i * BLOCK, XS_BLOCK_BYTES, i * BLOCK));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(iomap_sync_range(file, 40 * BLOCK, 41 * BLOCK,
				IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER));
	cr_assert_eq(reserved_nr(f.store), 0U);
	XST_OK(xs_extents(f.store, "o", &extents, &nr));
	cr_assert_eq(nr, 3U);
	cr_assert(extents[0].unwritten && !extents[1].unwritten && extents[2].unwritten);
	cr_assert_eq(extents[2].disk, extents[0].disk + 41);
	free(extents);
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	cr_assert_eq(extents_nr(f.store, "o"), 1U);
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, 64 * XS_BLOCK_BYTES);
	free(data);
	xst_end(&f);
}

/* Free space is in pieces of a block: a run of many finds its place piece by piece. */
Test(xs_delalloc, where_there_is_no_long_piece_a_run_takes_many)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100 * XS_BLOCK_BYTES, 3);
	struct xs_object *object = new_object(f.store, "o");
	char name[16];
	int nr;

	for (nr = 0;; nr++) {
		snprintf(name, sizeof(name), "%03d", nr);
		if (xst_put(f.store, name, data, XS_BLOCK_BYTES))
			break;
	}
	for (int i = 0; i < nr; i += 2) {
		snprintf(name, sizeof(name), "%03d", i);
		XST_OK(xs_unlink(f.store, name));
	}
	XST_OK(xs_commit(f.store));
	XST_OK(xst_write(object, data, 60 * XS_BLOCK_BYTES, 0));
	cr_assert_eq(reserved_nr(f.store), 60U);
	XST_OK(xst_fsync(object));
	cr_assert_gt(extents_nr(f.store, "o"), 10U);
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, 60 * XS_BLOCK_BYTES);
	free(data);
	xst_end(&f);
}

Test(xs_delalloc, a_commit_knows_nothing_of_what_is_reserved)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 4);
	struct xs_object *object = new_object(f.store, "o");
	struct xs_why why = { .text = "" };
	struct xs_counts counts;

	XST_OK(xst_write(object, data, 100000, 0));
	XST_OK(xs_commit(f.store));
	XST_OK(xs_check(f.bdev, &counts, &why));
	cr_assert_eq(counts.data_bytes, 0U);
	cr_assert_eq(reserved_nr(f.store), 25U);
	cr_assert_eq(object->size, 0U);
	XST_OK(xst_fsync(object));
	cr_assert_eq(object->size, 100000U);
	assert_recount(&f);
	XST_OK(xs_put(object));
	free(data);
	xst_end(&f);
}

/* ---- there is no room ---- */

/* All of it in the cache, nothing written out: whoever was told that it fits can sync it. */
Test(xs_delalloc, enospc_comes_from_the_write_and_never_from_the_sync)
{
	struct xst_fixture f = xst_begin(2 * MIB, CACHE_BYTES);
	struct xs_object *object[4];
	unsigned char *data = xst_pattern(XS_BLOCK_BYTES, 5);
	int64_t next[4] = { 0 };
	uint64_t random = 5;
	char name[16];
	int error = 0;

	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%d", i);
		object[i] = new_object(f.store, name);
	}
	for (int nr = 0; !error; nr++) {
		unsigned i = (unsigned)(xst_random(&random) % 4);

		/* as bad as can be: no two blocks of an object adjoin */
		error = xst_write(object[i], data, XS_BLOCK_BYTES, next[i] * BLOCK);
		next[i] += 2;
		cr_assert_lt(nr, 512);
	}
	cr_assert_eq(error, -ENOSPC);
	cr_assert_gt(reserved_nr(f.store), 400U);
	for (int i = 0; i < 4; i++)
		XST_OK(xst_fsync(object[i]));
	for (int i = 0; i < 4; i++)
		XST_OK(xs_put(object[i]));
	assert_recount(&f);
	free(data);
	xst_end(&f);
}

Test(xs_delalloc, a_write_that_finds_what_waits_for_a_commit_makes_one)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(MIB, 6);
	struct xs_object *object;

	XST_OK(xst_put(f.store, "old", data, 600000));
	object = new_object(f.store, "new");
	XST_OK(xs_unlink(f.store, "old"));
	XST_OK(xst_write(object, data, 600000, 0));
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	assert_recount(&f);
	xst_assert_holds(f.store, "new", data, 600000);
	free(data);
	xst_end(&f);
}

/* ---- giving back ---- */

/* The second page of the memory is bad. */
Test(xs_delalloc, wf02_what_a_short_write_has_not_used_is_given_back)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb = { .ki_flags = IOMAP_IOCB_CHECKED };
	unsigned char *memory;

	memory = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(memory, MAP_FAILED);
	memset(memory, 's', 4096);
	cr_assert_eq(mprotect(memory + 4096, 15 * 4096, PROT_NONE), 0);
	XST_OK(iomap_file_open(&object->inode, 0, &iocb.ki_filp));
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, memory, 16 * 4096);
	cr_assert_eq(iomap_write_iter(&iocb, &from), 4096);
	cr_assert_eq(reserved_nr(f.store), 1U);
	/* not a byte of it */
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, memory + 4096, 15 * 4096);
	iocb.ki_pos = 100 * BLOCK + 17;
	cr_assert_eq(iomap_write_iter(&iocb, &from), -EFAULT);
	cr_assert_eq(reserved_nr(f.store), 1U);
	/* over what is dirty already: that stays */
	iocb.ki_pos = 100;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, memory + 4096, 2 * 4096);
	cr_assert_eq(iomap_write_iter(&iocb, &from), -EFAULT);
	cr_assert_eq(reserved_nr(f.store), 1U);
	XST_OK(iomap_file_fsync(iocb.ki_filp, 0));
	iomap_file_close(iocb.ki_filp);
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "o", memory, 4096);
	munmap(memory, 16 * 4096);
	xst_end(&f);
}

Test(xs_delalloc, truncation_gives_back)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 7);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(xst_write(object, data, 100000, 0));
	XST_OK(xst_write(object, data, 1000, 200 * BLOCK));
	cr_assert_eq(reserved_nr(f.store), 26U);
	XST_OK(iomap_truncate(file, 5000));
	cr_assert_eq(reserved_nr(f.store), 2U);
	XST_OK(iomap_file_fsync(file, 0));
	XST_OK(xst_write(object, data + 5000, 95000, 5000));
	/* the last block that is written has room for some of it */
	cr_assert_eq(reserved_nr(f.store), 23U);
	XST_OK(iomap_truncate(file, 0));
	assert_recount(&f);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "o", data, 0);
	free(data);
	xst_end(&f);
}

Test(xs_delalloc, punching_gives_back)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 12);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *file;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	XST_OK(xst_write(object, data, 50000, 0));
	XST_OK(iomap_file_fsync(file, 0));
	XST_OK(xst_write(object, data + 50000, 50000, 50000));
	cr_assert_eq(reserved_nr(f.store), 12U);
	/* written, reserved, and parts of both at its ends */
	XST_OK(iomap_fallocate(file, IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE, 5000,
			       90000));
	memset(data + 5000, 0, 90000);
	cr_assert_eq(reserved_nr(f.store), 2U);
	/* all that was dirty: the size has to come from somewhere else */
	XST_OK(iomap_fallocate(file, IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE,
			       94208, 1 << 20));
	memset(data + 94208, 0, 100000 - 94208);
	cr_assert_eq(reserved_nr(f.store), 0U);
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	cr_assert_eq(object->size, 100000U);
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "o", data, 100000);
	xst_reopen(&f);
	xst_assert_holds(f.store, "o", data, 100000);
	cr_assert_eq(extents_nr(f.store, "o"), 1U);
	free(data);
	xst_end(&f);
}

Test(xs_delalloc, zeroing_keeps_space_and_punching_what_is_shared_leaves_the_other)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 13), *other = xst_pattern(100000, 13);
	struct xs_object *one = new_object(f.store, "one"), *two = new_object(f.store, "two");
	struct iomap_file *file;
	struct xs_info info;

	XST_OK(xst_write(one, data, 100000, 0));
	XST_OK(xs_clone(one, 0, two, 0, 0));
	XST_OK(iomap_file_open(&one->inode, 0, &file));
	XST_OK(iomap_fallocate(file, IOMAP_FALLOC_FL_ZERO_RANGE, 10000, 20000));
	XST_OK(iomap_fallocate(file, IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE, 50000,
			       20000));
	memset(data + 10000, 0, 20000);
	memset(data + 50000, 0, 20000);
	XST_OK(xst_write(one, data, 100000, 0));
	XST_OK(iomap_file_fsync(file, 0));
	XST_OK(iomap_fallocate(file, IOMAP_FALLOC_FL_ZERO_RANGE, 0, 1 << 17));
	XST_OK(iomap_file_fsync(file, 0));
	iomap_file_close(file);
	XST_OK(xs_info(f.store, "one", &info));
	cr_assert_eq(info.size, 1U << 17);
	cr_assert_eq(info.unwritten_blocks_nr, 32U);
	cr_assert_eq(info.data_blocks_nr, 0U);
	assert_recount(&f);
	XST_OK(xs_put(one));
	XST_OK(xs_put(two));
	xst_reopen(&f);
	xst_assert_holds(f.store, "two", other, 100000);
	free(data);
	free(other);
	xst_end(&f);
}

Test(xs_delalloc, what_is_unlinked_gives_back_with_its_last_opener)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 8);
	struct xs_object *object = new_object(f.store, "o"), *nameless;

	XST_OK(xst_write(object, data, 100000, 0));
	XST_OK(xs_unlink(f.store, "o"));
	XST_OK(xs_create(f.store, &nameless));
	XST_OK(xst_write(nameless, data, 50000, 0));
	cr_assert_eq(reserved_nr(f.store), 25U + 13U);
	XST_OK(xs_put(object));
	XST_OK(xs_put(nameless));
	assert_recount(&f);
	free(data);
	xst_end(&f);
}

/* ---- the device fails ---- */

struct faulty_fixture {
	struct xst_fixture f;
	struct iomap_bdev *lower;
};

static struct faulty_fixture faulty_begin(uint64_t bytes)
{
	struct faulty_fixture ff = { .f.engine = xst_engine(CACHE_BYTES) };

	XST_OK(iomap_bdev_open_memory(ff.f.engine, bytes, &ff.lower));
	XST_OK(iomap_faulty_create(ff.lower, NULL, &ff.f.bdev));
	XST_OK(xs_mkfs(ff.f.bdev, 0, XST_ID));
	ff.f.store = xst_open(ff.f.engine, ff.f.bdev);
	return ff;
}

static void faulty_end(struct faulty_fixture *ff)
{
	XST_OK(xs_close(ff->f.store));
	xst_check(ff->f.bdev);
	XST_OK(iomap_bdev_close(ff->f.bdev));
	XST_OK(iomap_bdev_close(ff->lower));
	XST_OK(iomap_engine_destroy(ff->f.engine));
}

static uint32_t fail_writes(struct faulty_fixture *ff)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_FAIL,
		.ops = IOMAP_FAULT_ON_WRITE,
		.error = -EIO,
	};
	uint32_t id;

	XST_OK(iomap_faulty_add(ff->f.bdev, &fault, &id));
	return id;
}

Test(xs_delalloc, a_device_that_fails_leaves_no_reservation)
{
	struct faulty_fixture ff = faulty_begin(MIB);
	struct xst_fixture *f = &ff.f;
	unsigned char *data = xst_pattern(100000, 9);
	struct xs_object *object = new_object(f->store, "o"), *other = new_object(f->store, "p");
	uint32_t rule;

	XST_OK(xst_write(object, data, 100000, 0));
	XST_OK(xst_write(other, data, 100000, 0));
	rule = fail_writes(&ff);
	cr_assert_eq(xst_fsync(object), -EIO);
	/* nobody has looked at this one before it goes */
	cr_assert_eq(xs_put(other), -EIO);
	XST_OK(iomap_faulty_remove(f->bdev, rule));
	assert_recount(f);
	XST_OK(xst_write(object, data, 100000, 0));
	XST_OK(xst_fsync(object));
	XST_OK(xs_put(object));
	xst_assert_holds(f->store, "o", data, 100000);
	assert_recount(f);
	free(data);
	faulty_end(&ff);
}

/* ---- beside direct I/O ---- */

Test(xs_delalloc, direct_io_finds_what_is_reserved)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(65536, 10), *memory = aligned_alloc(4096, 65536);
	struct xs_object *object = new_object(f.store, "o");
	struct iomap_file *direct;

	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT, &direct));
	XST_OK(xst_write(object, data, 65536, 0));
	cr_assert_eq(reserved_nr(f.store), 16U);
	cr_assert_eq(iomap_read(direct, memory, 65536, 0), 65536);
	cr_assert(!memcmp(memory, data, 65536));
	/* over what is reserved, and beside it into the hole up to the next that is */
	XST_OK(xst_write(object, data, 4096, 20 * BLOCK));
	XST_OK(xst_write(object, data, 4096, 30 * BLOCK));
	memset(memory, 'd', 65536);
	cr_assert_eq(iomap_write(direct, memory, 65536, 18 * BLOCK), 65536);
	cr_assert_eq(iomap_read(direct, memory, 4096, 20 * BLOCK), 4096);
	cr_assert(memory[0] == 'd' && memory[4095] == 'd');
	XST_OK(iomap_file_fsync(direct, 0));
	iomap_file_close(direct);
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_reopen(&f);
	free(data);
	data = xst_get(f.store, "o", &(int64_t){ 0 });
	for (int64_t at = 16 * BLOCK; at < 34 * BLOCK; at++)
		cr_assert_eq(data[at], at < 18 * BLOCK ? 0 : 'd', "byte %lld", (long long)at);
	free(data);
	free(memory);
	xst_end(&f);
}

/* Preallocation gives what is reserved its place, and counts it once. */
Test(xs_delalloc, preallocation_takes_reservations_over)
{
	struct xst_fixture f = xst_begin(MIB, CACHE_BYTES);
	unsigned char *data = xst_pattern(100000, 11);
	struct xs_object *object = new_object(f.store, "o");
	struct xs_usage usage;
	int64_t blocks;

	XST_OK(xst_write(object, data, 100000, 0));
	xs_usage(f.store, &usage);
	for (blocks = (int64_t)usage.free_nr; blocks; blocks--)
		if (xs_preallocate(object, 0, blocks * BLOCK, true) != -ENOSPC)
			break;
	cr_assert_gt(blocks, 220);
	cr_assert_eq(reserved_nr(f.store), 0U);
	XST_OK(xst_fsync(object));
	assert_recount(&f);
	XST_OK(xs_put(object));
	xst_assert_holds(f.store, "o", data, 100000);
	free(data);
	xst_end(&f);
}

/* ---- a mix of everything ---- */

#define NAMES 3
#define OBJECT_MAX (80 * XS_BLOCK_BYTES)
#define DEV_BYTES (2 * MIB)

struct mix_object {
	struct xs_object *object;
	struct iomap_file *file;
	unsigned char data[OBJECT_MAX];
	size_t size;
	bool unknown; /* something has failed: `data` is not what it holds */
};

struct mix {
	struct faulty_fixture ff;
	struct mix_object of[NAMES];
	uint64_t random;
	unsigned char *memory; /* OBJECT_MAX, and a page behind that is bad */
	uint32_t rule;
	bool faults; /* with them little can be said of what an object holds */
};

/* One allocation of the store in so many fails; 0: none. */
static unsigned allocations_fail;
static uint64_t allocations_random;

void *__real_malloc(size_t size);
void *__real_calloc(size_t nr, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t nr, size_t size);
void *__wrap_realloc(void *old, size_t size);

static bool allocation_fails(void)
{
	return allocations_fail && xst_random(&allocations_random) % allocations_fail == 0;
}

void *__wrap_malloc(size_t size)
{
	return allocation_fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t nr, size_t size)
{
	return allocation_fails() ? NULL : __real_calloc(nr, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return allocation_fails() ? NULL : __real_realloc(old, size);
}

static size_t draw(struct mix *mix, size_t below)
{
	return (size_t)(xst_random(&mix->random) % below);
}

static const char *mix_name(int i)
{
	static const char *const names[NAMES] = { "a", "b", "c" };

	return names[i];
}

static void mix_open(struct mix *mix, int i)
{
	struct mix_object *of = &mix->of[i];

	XST_OK(xs_lookup(mix->ff.f.store, mix_name(i), &of->object));
	XST_OK(iomap_file_open(&of->object->inode, 0, &of->file));
}

static void mix_close(struct mix *mix, int i)
{
	struct mix_object *of = &mix->of[i];

	of->unknown |= iomap_file_fsync(of->file, 0) != 0;
	iomap_file_close(of->file);
	of->unknown |= xs_put(of->object) != 0;
}

static void mix_create(struct mix *mix, int i)
{
	struct mix_object *of = &mix->of[i];

	XST_OK(xs_create(mix->ff.f.store, &of->object));
	XST_OK(xs_link(of->object, mix_name(i)));
	XST_OK(iomap_file_open(&of->object->inode, 0, &of->file));
	memset(of->data, 0, OBJECT_MAX);
	of->size = 0;
	of->unknown = false;
}

/* Sometimes the memory is bad from some byte on. */
static void mix_write(struct mix *mix, struct mix_object *of, bool direct)
{
	struct iomap_kiocb iocb = { .ki_filp = of->file, .ki_flags = IOMAP_IOCB_CHECKED };
	size_t len = 1 + draw(mix, draw(mix, 2) ? 3 * XS_BLOCK_BYTES : OBJECT_MAX - 1);
	size_t pos = draw(mix, OBJECT_MAX - len + 1), good = len;
	struct iomap_iov_iter from;
	unsigned char *memory;
	ssize_t ret;

	if (direct) {
		len = (len + 511) & ~(size_t)511;
		pos = pos & ~(size_t)511;
		len = len < OBJECT_MAX - pos ? len : OBJECT_MAX - pos;
		good = len;
		iocb.ki_flags |= IOMAP_IOCB_DIRECT;
	} else if (draw(mix, 3) == 0) {
		good = 1 + draw(mix, len);
	}
	memory = direct ? mix->memory : mix->memory + OBJECT_MAX - good;
	memset(memory, 1 + (int)draw(mix, 255), good);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, memory, len);
	iocb.ki_pos = (int64_t)pos;
	ret = iomap_write_iter(&iocb, &from);
	of->unknown |= direct && ret != (ssize_t)len;
	if (ret > 0)
		memcpy(of->data + pos, memory, (size_t)ret);
	/* also of one that fails: a gap behind the end may have become zeros */
	of->size = (size_t)iomap_i_size_read(&of->object->inode);
}

static void mix_truncate(struct mix *mix, struct mix_object *of)
{
	size_t size = draw(mix, OBJECT_MAX);

	if (iomap_truncate(of->file, (int64_t)size)) {
		of->unknown = true;
		return;
	}
	if (size < of->size)
		memset(of->data + size, 0, of->size - size);
	of->size = size;
}

static void mix_fallocate(struct mix *mix, struct mix_object *of)
{
	static const int modes[] = {
		0,
		IOMAP_FALLOC_FL_KEEP_SIZE,
		IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE,
		IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE,
		IOMAP_FALLOC_FL_ZERO_RANGE,
		IOMAP_FALLOC_FL_ZERO_RANGE | IOMAP_FALLOC_FL_KEEP_SIZE,
	};
	int mode = modes[draw(mix, sizeof(modes) / sizeof(modes[0]))];
	size_t pos = draw(mix, OBJECT_MAX - 1);
	size_t end = pos + 1 + draw(mix, OBJECT_MAX - pos - 1);

	if (iomap_fallocate(of->file, mode, (int64_t)pos, (int64_t)(end - pos))) {
		of->unknown = true;
		return;
	}
	if (mode & ~IOMAP_FALLOC_FL_KEEP_SIZE)
		memset(of->data + pos, 0, end - pos);
	if (!(mode & IOMAP_FALLOC_FL_KEEP_SIZE) && of->size < end)
		of->size = end;
}

/* A sync waits until there is memory again, so there is some for what may sync. */
static void mix_faults(struct mix *mix, bool without_memory)
{
	struct iomap_fault fault = {
		.size = sizeof(fault),
		.kind = IOMAP_FAULT_FAIL,
		.ops = draw(mix, 2) ? IOMAP_FAULT_ON_WRITE : IOMAP_FAULT_ON_READ,
		.nth = 1 + draw(mix, 3),
		.error = -EIO,
	};

	if (!mix->faults)
		return;
	if (draw(mix, 4) == 0)
		XST_OK(iomap_faulty_add(mix->ff.f.bdev, &fault, &mix->rule));
	allocations_fail = without_memory && draw(mix, 4) == 0 ? 1 + (unsigned)draw(mix, 4) : 0;
}

static void mix_faults_end(struct mix *mix)
{
	allocations_fail = 0;
	if (mix->rule)
		XST_OK(iomap_faulty_remove(mix->ff.f.bdev, mix->rule));
	mix->rule = 0;
}

static void mix_step(struct mix *mix)
{
	int i = (int)draw(mix, NAMES);
	struct mix_object *of = &mix->of[i];
	int64_t pos = (int64_t)draw(mix, OBJECT_MAX);
	size_t what = draw(mix, 16);
	int error = 0;

	mix_faults(mix, what < 7 || (what > 9 && what < 14));
	switch (what) {
	case 0 ... 6:
		mix_write(mix, of, false);
		break;
	case 7:
		mix_write(mix, of, true);
		break;
	case 8 ... 9:
		mix_truncate(mix, of);
		break;
	case 10 ... 12:
		mix_fallocate(mix, of);
		break;
	case 13:
		/* an error of it is that of the next one */
		(void)xs_commit(mix->ff.f.store);
		break;
	case 14:
		error = iomap_file_fsync(of->file, 0);
		break;
	default:
		error = iomap_sync_range(of->file, pos, pos + 3 * BLOCK,
					 IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER);
	}
	mix_faults_end(mix);
	of->unknown |= error != 0;
	if (draw(mix, 40) == 0) {
		mix_close(mix, i);
		mix_open(mix, i);
	} else if (draw(mix, 40) == 0) {
		XST_OK(xs_unlink(mix->ff.f.store, mix_name(i)));
		mix_close(mix, i);
		mix_create(mix, i);
	}
}

/* The free bytes that the program finds. */
static uint64_t free_bytes_by_program(const struct mix *mix)
{
	char path[] = "xs_delalloc.XXXXXX", command[512], line[512] = "";
	int fd = mkstemp(path);
	unsigned char *image = aligned_alloc(4096, DEV_BYTES);
	const char *at;
	FILE *out;

	cr_assert_geq(fd, 0);
	XST_OK(xs_block_io(mix->ff.lower, IOMAP_REQ_OP_READ, 0, image,
			   DEV_BYTES / XS_BLOCK_BYTES));
	cr_assert_eq(write(fd, image, DEV_BYTES), (ssize_t)DEV_BYTES);
	close(fd);
	snprintf(command, sizeof(command), "'%s' check '%s' --json --buffered", XSTORE_PROGRAM,
		 path);
	out = popen(command, "r");
	cr_assert(out && fgets(line, sizeof(line), out));
	cr_assert_eq(pclose(out), 0, "%s", line);
	unlink(path);
	free(image);
	at = strstr(line, "\"free_bytes\":");
	cr_assert(at, "%s", line);
	return strtoull(at + strlen("\"free_bytes\":"), NULL, 10);
}

static void mix_end(struct mix *mix, uint64_t seed)
{
	struct xst_fixture *f = &mix->ff.f;
	struct xs_usage usage;

	for (int i = 0; i < NAMES; i++) {
		/* the first may tell of what has failed before */
		mix->of[i].unknown |= iomap_file_fsync(mix->of[i].file, 0) != 0;
		XST_OK(iomap_file_fsync(mix->of[i].file, 0));
	}
	assert_recount(f);
	xs_usage(f->store, &usage);
	cr_assert_eq(free_bytes_by_program(mix), usage.free_nr * XS_BLOCK_BYTES,
		     "seed %llu: %llu blocks are free", (unsigned long long)seed,
		     (unsigned long long)usage.free_nr);
	for (int i = 0; i < NAMES; i++) {
		mix_close(mix, i);
		cr_assert(mix->faults || !mix->of[i].unknown);
		if (!mix->of[i].unknown)
			xst_assert_holds(f->store, mix_name(i), mix->of[i].data, mix->of[i].size);
	}
}

static void run_mix(uint64_t seed)
{
	static struct mix mix;

	memset(&mix, 0, sizeof(mix));
	mix.random = seed;
	mix.faults = seed % 2;
	allocations_random = seed;
	mix.ff = faulty_begin(DEV_BYTES);
	mix.memory = mmap(NULL, OBJECT_MAX + 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq((void *)mix.memory, MAP_FAILED);
	cr_assert_eq(mprotect(mix.memory + OBJECT_MAX, 4096, PROT_NONE), 0);
	for (int i = 0; i < NAMES; i++)
		mix_create(&mix, i);
	for (int step = 0; step < 400; step++)
		mix_step(&mix);
	mix_end(&mix, seed);
	munmap(mix.memory, OBJECT_MAX + 4096);
	faulty_end(&mix.ff);
}

Test(xs_delalloc, wf02_after_any_mix_what_is_free_is_what_a_recount_finds)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
		run_mix(seed);
	}
}
