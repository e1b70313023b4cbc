/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_rw.c - bios go through every kind of device and come back, or say what is wrong.
 */
#include <sys/uio.h>
#include <sys/wait.h>

#include "blktest.h"

#define MIB (1024U * 1024U)

/* ---- the same for each kind of device ---- */

static void round_trip(struct iomap_bdev *bdev)
{
	unsigned char *out = bt_buffer(MIB), *in = bt_buffer(MIB);
	struct iomap_bdev_stats stats;

	cr_assert_eq(iomap_bdev_bytes(bdev), 2U * MIB);
	t_fill(out, MIB, 0, 1);
	cr_assert_eq(bt_write(bdev, 512 * 1024, out, MIB), 0);
	cr_assert_eq(bt_read(bdev, 512 * 1024, in, MIB), 0);
	cr_assert_eq(memcmp(in, out, MIB), 0);
	/* what was not written is zero, and a part can be read */
	cr_assert_eq(bt_read(bdev, 508 * 1024, in, 8192), 0);
	cr_assert(t_all(in, 4096, 0));
	cr_assert_eq(memcmp(in + 4096, out, 4096), 0);
	/* the last sector */
	cr_assert_eq(bt_write(bdev, 2 * MIB - 512, out, 512), 0);
	cr_assert_eq(bt_read(bdev, 2 * MIB - 512, in, 512), 0);
	cr_assert_eq(memcmp(in, out, 512), 0);

	stats = bt_stats(bdev);
	cr_assert_eq(stats.reads_nr, 3U);
	cr_assert_eq(stats.writes_nr, 2U);
	cr_assert_eq(stats.read_bytes, MIB + 8192U + 512U);
	cr_assert_eq(stats.written_bytes, MIB + 512U);
	cr_assert_eq(stats.errors_nr, 0U);
	cr_assert_eq(stats.inflight_nr, 0U);
	free(out);
	free(in);
}

/* Pieces of memory that do not touch: one transfer, several vectors. */
static void scattered(struct iomap_bdev *bdev)
{
	unsigned char *mem = bt_buffer(64 * 8192), *in = bt_buffer(64 * 4096);
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 64, IOMAP_REQ_OP_WRITE, NULL);

	for (int i = 0; i < 64; i++) {
		t_fill(mem + i * 8192, 4096, i * 4096, 2);
		cr_assert(iomap_bio_add(bio, mem + i * 8192, 4096));
	}
	cr_assert_eq(bio->bi_vcnt, 64U);
	bio->bi_iter.bi_sector = 8;
	cr_assert_eq(iomap_bio_end_sector(bio), 8U + 64 * 8);
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	cr_assert_eq(bio->bi_iter.bi_size, 64U * 4096, "as it was submitted");
	iomap_bio_put(bio);
	cr_assert_eq(bt_read(bdev, 4096, in, 64 * 4096), 0);
	cr_assert_eq(t_mismatch(in, 64 * 4096, 0, 2), -1);
	free(mem);
	free(in);
}

static void fua_and_preflush(struct iomap_bdev *bdev)
{
	unsigned char *out = bt_buffer(4096), *in = bt_buffer(4096);
	uint32_t flags[] = { IOMAP_REQ_FUA, IOMAP_REQ_PREFLUSH, IOMAP_REQ_FUA | IOMAP_REQ_PREFLUSH,
			     IOMAP_REQ_SYNC | IOMAP_REQ_META };

	for (unsigned i = 0; i < 4; i++) {
		t_fill(out, 4096, i, 3);
		cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | flags[i], i * 4096, out, 4096), 0);
		cr_assert_eq(bt_read(bdev, i * 4096, in, 4096), 0);
		cr_assert_eq(memcmp(in, out, 4096), 0);
	}
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 0, NULL, 0), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE, 0, NULL, 0), 0);
	free(out);
	free(in);
}

static void refusals(struct iomap_bdev *bdev)
{
	struct iomap_bdev_limits limits;
	unsigned char *buf = bt_buffer(3 * 4096);
	uint64_t end = iomap_bdev_bytes(bdev);
	struct iomap_bio *bio;

	iomap_bdev_limits(bdev, &limits);
	cr_assert_eq(bt_read(bdev, 0, buf, 100), -EINVAL, "length");
	cr_assert_eq(bt_write(bdev, 0, buf, 513), -EINVAL, "length");
	if (limits.dma_alignment > 1)
		cr_assert_eq(bt_read(bdev, 0, buf + 1, 4096), -EINVAL, "memory");
	cr_assert_eq(bt_read(bdev, end, buf, 512), -EIO, "behind the end");
	cr_assert_eq(bt_write(bdev, end - 4096, buf, 8192), -EIO, "over the end");
	bio = bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 512);
	bio->bi_iter.bi_sector = UINT64_MAX;
	cr_assert_eq(iomap_submit_bio_wait(bio), -EIO, "an address that overflows");
	iomap_bio_put(bio);
	cr_assert_eq(bt_io(bdev, 7, 0, buf, 512), -EINVAL, "operation");
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | 0x80000000U, 0, buf, 512), -EINVAL, "flag");
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_FUA, 0, buf, 512), -EINVAL);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH, 0, buf, 512), -EINVAL, "flush with data");
	bio = bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 512);
	bio->bi_iter.bi_size = 1024;
	cr_assert_eq(iomap_submit_bio_wait(bio), -EINVAL, "vectors that do not add up");
	iomap_bio_put(bio);
	cr_assert_eq(bt_read(bdev, 0, buf, 4096), 0, "and still it works");
	free(buf);
}

static void all_of_it(struct bt *bt, struct iomap_bdev *bdev, const char *io_path)
{
	cr_assert_str_eq(iomap_bdev_io_path(bdev), io_path);
	round_trip(bdev);
	scattered(bdev);
	fua_and_preflush(bdev);
	refusals(bdev);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(bt);
}

Test(blk_rw, a_file)
{
	char *path = t_temp(2 * MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 0, 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_str_eq(iomap_bdev_name(bdev), path);
	all_of_it(&bt, bdev, iomap__blk_backend(&bt.engine));
	t_temp_free(path);
}

static bool refuses_nowait(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct iovec iov;
	char byte;
	bool refuses;

	cr_assert_geq(fd, 0);
	iov = (struct iovec){ &byte, 1 };
	refuses = preadv2(fd, &iov, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
	close(fd);
	return refuses;
}

Test(blk_rw, a_file_that_refuses_not_to_block_is_done_inline)
{
	char *path = bt_tmpfs_file(2 * MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 0, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	all_of_it(&bt, bdev, refuses_nowait(path) ? "inline" : iomap__blk_backend(&bt.engine));
	t_temp_free(path);
}

Test(blk_rw, an_empty_file_is_probed_as_well)
{
	char *path = bt_tmpfs_file(0), *full = bt_tmpfs_file(4096);
	struct iomap_bdev *a, *b;
	struct bt bt;
	char buf[512];

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 0, 0);
	a = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	b = bt_open(&bt, full, IOMAP_BDEV_BUFFERED);
	cr_assert_str_eq(iomap_bdev_io_path(a), iomap_bdev_io_path(b));
	cr_assert_eq(iomap_bdev_bytes(a), 0U);
	cr_assert_eq(bt_read(a, 0, buf, 512), -EIO);
	cr_assert_eq(iomap_bdev_close(a), 0);
	cr_assert_eq(iomap_bdev_close(b), 0);
	bt_stop(&bt);
	t_temp_free(path);
	t_temp_free(full);
}

Test(blk_rw, memory)
{
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 0, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 2 * MIB + 1, &bdev), -EINVAL);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 0, &bdev), -EINVAL);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 2 * MIB, &bdev), 0);
	all_of_it(&bt, bdev, "memory");
}

Test(blk_rw, a_block_device)
{
	struct iomap_bdev *bdev, *second;
	char *path = t_temp(2 * MIB), name[64];
	struct iomap_bdev_limits limits;
	struct bt bt;
	int fd;

	fd = bt_loop_device(path, name, sizeof(name));
	bt_start(&bt, 0, 0);
	bdev = bt_open(&bt, name, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, name, NULL, &second), -EBUSY);
	iomap_bdev_limits(bdev, &limits);
	cr_assert_geq(limits.logical_block_size, 512U);
	cr_assert_geq(limits.physical_block_size, limits.logical_block_size);
	all_of_it(&bt, bdev, iomap__blk_backend(&bt.engine));
	close(fd);
	t_temp_free(path);
}

/* ---- opening ---- */

Test(blk_rw, a_file_is_opened_once_unless_shared)
{
	struct iomap_bdev_opts shared = { .size = sizeof(shared), .flags = IOMAP_BDEV_SHARED };
	char *path = t_temp(MIB);
	struct iomap_bdev *first, *second;
	struct bt bt, other;

	bt_start(&bt, 1, 0);
	bt_start(&other, 1, 0);
	first = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, path, NULL, &second), -EBUSY);
	cr_assert_eq(iomap_bdev_open(&other.engine, path, NULL, &second), -EBUSY);
	cr_assert_eq(iomap_bdev_open(&bt.engine, path, &shared, &second), 0);
	cr_assert_eq(iomap_bdev_close(second), 0);
	cr_assert_eq(iomap_bdev_open(&other.engine, path, NULL, &second), -EBUSY, "still locked");
	cr_assert_eq(iomap_bdev_close(first), 0);
	cr_assert_eq(iomap_bdev_open(&other.engine, path, NULL, &second), 0);
	cr_assert_eq(iomap_bdev_close(second), 0);
	bt_stop(&bt);
	bt_stop(&other);
	t_temp_free(path);
}

Test(blk_rw, a_forked_child_does_not_keep_the_lock)
{
	char *path = t_temp(BT_PAGE), byte;
	struct iomap_bdev *bdev;
	struct bt bt;
	int ends[2];
	pid_t child;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	t_must(pipe(ends) == 0);
	child = fork();
	t_must(child >= 0);
	if (!child) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) != 0);
	}
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	close(ends[1]);
	close(ends[0]);
	t_must(waitpid(child, NULL, 0) == child);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(blk_rw, what_cannot_be_opened_says_why)
{
	struct iomap_bdev_opts bad = { .size = sizeof(bad), .flags = 0x80 };
	struct iomap_bdev *bdev;
	char *path = t_temp(MIB);
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, "/nonexistent/file", NULL, &bdev), -ENOENT);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, "/nonexistent/file"), 1U);
	cr_assert_eq(iomap_bdev_open(&bt.engine, "/", NULL, &bdev), -EINVAL);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, "neither a file"), 1U);
	cr_assert_eq(iomap_bdev_open(&bt.engine, "/dev/null", NULL, &bdev), -EINVAL);
	cr_assert_eq(iomap_bdev_open(&bt.engine, path, &bad, &bdev), -EINVAL);
	bad.flags = 0;
	bad.size = 3;
	cr_assert_eq(iomap_bdev_open(&bt.engine, path, &bad, &bdev), -EINVAL);
	bt_stop(&bt);
	t_temp_free(path);
}

/* procfs has regular files and no O_DIRECT. */
Test(blk_rw, where_o_direct_is_refused_buffered_has_to_be_asked_for)
{
	struct iomap_bdev_opts opts = { .size = sizeof(opts),
					.flags = IOMAP_BDEV_READONLY | IOMAP_BDEV_SHARED };
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open(&bt.engine, "/proc/version", &opts, &bdev), -EINVAL);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, "O_DIRECT is refused"), 1U);
	opts.flags |= IOMAP_BDEV_BUFFERED;
	cr_assert_eq(iomap_bdev_open(&bt.engine, "/proc/version", &opts, &bdev), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

Test(blk_rw, a_read_only_device_refuses_writes)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	void *buf = bt_buffer(4096);
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_READONLY);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), -EROFS);
	cr_assert_eq(bt_read(bdev, 0, buf, 4096), 0);
	cr_assert_eq(bt_stats(bdev).errors_nr, 0U, "it never reached the device");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- errors from below ---- */

static void short_transfer(bool tmpfs, off_t cut)
{
	char *path = tmpfs ? bt_tmpfs_file(MIB) : t_temp(MIB);
	unsigned char *buf = bt_buffer(65536);
	struct iomap_bdev *bdev;
	struct bt bt;

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	cr_assert_eq(truncate(path, cut), 0);
	cr_assert_eq(bt_read(bdev, 65536, buf, 65536), -EIO);
	cr_assert_eq(bt_stats(bdev).errors_nr, 1U);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, path), 1U);
	cr_assert_eq(bt_read(bdev, 0, buf, 65536), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

Test(blk_rw, a_transfer_cut_short_by_the_end_of_the_file_is_an_error)
{
	short_transfer(false, 65536 + 8192);
}

Test(blk_rw, a_transfer_cut_inside_a_block_is_an_error)
{
	short_transfer(false, 65536 + 8192 + 100);
}

Test(blk_rw, a_transfer_cut_short_inline_is_an_error)
{
	short_transfer(true, 65536 + 8192);
}

/* ---- bios ---- */

Test(blk_rw, contiguous_memory_is_one_vector_and_a_full_bio_says_so)
{
	unsigned char *buf = bt_buffer(1024 * 1024);
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	bio = iomap_bio_alloc(bdev, 1, IOMAP_REQ_OP_READ, NULL);
	for (int i = 0; i < 10; i++)
		cr_assert(iomap_bio_add(bio, buf + i * 512, 512));
	cr_assert_eq(bio->bi_vcnt, 1U);
	cr_assert_eq(bio->bi_iter.bi_size, 5120U);
	iomap_bio_put(bio);

	cr_assert_null(iomap_bio_alloc(bdev, IOMAP_BIO_MAX_VECS + 1, 0, NULL));
	bio = iomap_bio_alloc(bdev, IOMAP_BIO_MAX_VECS, IOMAP_REQ_OP_READ, NULL);
	for (unsigned i = 0; i < IOMAP_BIO_MAX_VECS; i++)
		cr_assert(iomap_bio_add(bio, buf + i * 1024, 512));
	cr_assert(!iomap_bio_add(bio, buf + 300 * 1024, 512));
	cr_assert_eq(bio->bi_iter.bi_size, IOMAP_BIO_MAX_VECS * 512U);
	iomap_bio_put(bio);
	iomap_bio_put(NULL);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
}

struct padded {
	uint64_t mine[3];
	struct iomap_bio bio;
};

Test(blk_rw, a_bio_set_has_room_in_front_and_bios_in_reserve)
{
	struct iomap_debug_counters before, after;
	struct iomap_bio *bio[8];
	struct iomap_bio_set set;
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	cr_assert_eq(iomap_bio_set_init(&set, &bt.engine, offsetof(struct padded, bio), 8), 0);
	if (t_debug())
		before = t_counters();
	for (int i = 0; i < 8; i++) {
		struct padded *padded;

		bio[i] = iomap_bio_alloc(bdev, 64, IOMAP_REQ_OP_READ, &set);
		cr_assert(bio[i]);
		cr_assert_eq((uintptr_t)bio[i] % 16, 0U);
		padded = iomap__container_of(bio[i], struct padded, bio);
		cr_assert(t_all(padded->mine, sizeof(padded->mine), 0));
		memset(padded->mine, 0xff, sizeof(padded->mine));
	}
	if (t_debug()) {
		after = t_counters();
		cr_assert_eq(after.allocs_nr - before.allocs_nr, 8U, "from the pool only");
	}
	for (int i = 0; i < 8; i++)
		iomap_bio_put(bio[i]);
	iomap_bio_set_exit(&set);
	iomap_bio_set_exit(&set);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

Test(blk_rw, a_single_thread_needs_one_system_call)
{
	struct iomap_debug_counters before, after;
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	void *buf = bt_buffer(4096);
	struct bt bt;

	if (!t_debug())
		cr_skip_test("counted in debug builds");
	bt_start(&bt, 0, 0);
	if (strcmp(iomap__blk_backend(&bt.engine), "io_uring") != 0) {
		bt_stop(&bt);
		t_temp_free(path);
		free(buf);
		cr_skip_test("about io_uring");
	}
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	before = t_counters();
	for (int i = 0; i < 100; i++)
		cr_assert_eq(bt_read(bdev, 0, buf, 4096), 0);
	after = t_counters();
	/* some slack for waits that a signal of the kernel's own interrupts */
	cr_assert_leq(after.syscalls_nr - before.syscalls_nr, 110U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}
