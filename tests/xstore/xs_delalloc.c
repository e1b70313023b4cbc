/* SPDX-License-Identifier: MIT */
/*
 * xs_delalloc.c - blocks are reserved by writes, chosen by writeback, and given back by all else.
 */
#include <sys/mman.h>

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
