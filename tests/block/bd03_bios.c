/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd03_bios.c - every operation and flag of a bio, on each kind of device; chains and plugs.
 */
#include <iomap/faulty.h>
#include <iomap/writelog.h>
#include <sched.h>

#include "blktest.h"
#include "testdev.h"

#define MIB (1024U * 1024U)
#define KIB 1024U

static uint64_t blocks_of(const char *path)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return (uint64_t)st.st_blocks;
}

/* ---- discard and zeroing ---- */

/* [from, to) of the first MiB reads as zeros, the rest as it was filled. */
static void expect_hole(struct iomap_bdev *bdev, size_t from, size_t to)
{
	unsigned char *in = bt_buffer(MIB);

	cr_assert_eq(bt_read(bdev, 0, in, MIB), 0);
	cr_assert_eq(t_mismatch(in, from, 0, 7), -1);
	cr_assert(t_all(in + from, to - from, 0));
	cr_assert_eq(t_mismatch(in + to, MIB - to, (int64_t)to, 7), -1);
	free(in);
}

static void fill(struct iomap_bdev *bdev)
{
	unsigned char *out = bt_buffer(MIB);

	t_fill(out, MIB, 0, 7);
	cr_assert_eq(bt_write(bdev, 0, out, MIB), 0);
	free(out);
}

static int range_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr, uint64_t len)
{
	struct iomap_bio *bio = bt_bio(bdev, opf, addr, NULL, 0);
	int status;

	bio->bi_iter.bi_size = len;
	status = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return status;
}

static void range_op(struct iomap_bdev *bdev, uint32_t op, bool zeroing)
{
	struct iomap_bdev_limits limits;
	unsigned char buf[4096];

	iomap_bdev_limits(bdev, &limits);
	fill(bdev);
	cr_assert_eq(range_io(bdev, op | IOMAP_REQ_SYNC, 128 * KIB, 64 * KIB), 0);
	if (zeroing)
		expect_hole(bdev, 128 * KIB, 192 * KIB);
	/* one block, and the last one */
	cr_assert_eq(range_io(bdev, op, 4 * KIB, 4 * KIB), 0);
	cr_assert_eq(range_io(bdev, op, 2 * MIB - 4 * KIB, 4 * KIB), 0);
	cr_assert_eq(range_io(bdev, op, 0, 0), 0, "nothing");

	cr_assert_eq(range_io(bdev, op, 0, 100), -EINVAL, "length");
	cr_assert_eq(range_io(bdev, op, 2 * MIB, 4 * KIB), -EIO, "behind the end");
	cr_assert_eq(range_io(bdev, op, 2 * MIB - 4 * KIB, 8 * KIB), -EIO, "over the end");
	cr_assert_eq(range_io(bdev, op | IOMAP_REQ_FUA, 0, 4 * KIB), -EINVAL, "flag");
	cr_assert_eq(range_io(bdev, op | IOMAP_REQ_PREFLUSH, 0, 4 * KIB), -EINVAL, "flag");
	cr_assert_eq(bt_io(bdev, op, 0, buf, limits.logical_block_size), -EINVAL, "with memory");
}

static void ranges(struct bt *bt, struct iomap_bdev *bdev)
{
	struct iomap_bdev_limits limits;
	struct iomap_bdev_stats before, after;
	uint64_t flushes;

	iomap_bdev_limits(bdev, &limits);
	if (!limits.max_discard_bytes)
		cr_skip_test("no holes here");
	range_op(bdev, IOMAP_REQ_OP_WRITE_ZEROES, true);
	range_op(bdev, IOMAP_REQ_OP_DISCARD, limits.flags & IOMAP_BDEV_HAS_ZEROING_DISCARD);
	fill(bdev);
	before = bt_stats(bdev);
	cr_assert_eq(iomap_bdev_write_zeroes(bdev, 256 * KIB, 512 * KIB, 0), 0);
	expect_hole(bdev, 256 * KIB, 768 * KIB);
	/* zeros are as volatile as any write, and so is a discard: a flush has to be one */
	for (int i = 0; i < 2; i++) {
		if (i)
			cr_assert_eq(iomap_bdev_discard(bdev, 512 * KIB, 64 * KIB), 0);
		flushes = bt_flushes(bt);
		cr_assert_eq(iomap_bdev_flush(bdev), 0);
		cr_assert_eq(bt_flushes(bt), flushes + 1);
		cr_assert_eq(iomap_bdev_flush(bdev), 0);
		cr_assert_eq(bt_flushes(bt), flushes + 1);
	}
	after = bt_stats(bdev);
	cr_assert_eq(after.write_zeroes_nr - before.write_zeroes_nr, 1U);
	cr_assert_eq(after.discards_nr - before.discards_nr, 1U);
	cr_assert_eq(after.writes_nr, before.writes_nr);
	cr_assert_eq(after.errors_nr, 0U);
	cr_assert_eq(after.inflight_nr, 0U);
}

Test(bd03_bios, bd03_discard_and_zeroing_of_a_file)
{
	char *path = t_temp(2 * MIB);
	struct iomap_bdev *bdev;
	struct iomap_bdev_limits limits;
	uint64_t full, zeroed;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	ranges(&bt, bdev);
	iomap_bdev_limits(bdev, &limits);
	/* zeros keep the space, a discard gives it back */
	fill(bdev);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	full = blocks_of(path);
	cr_assert_eq(iomap_bdev_write_zeroes(bdev, 0, MIB, 0), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	zeroed = blocks_of(path);
	if (!iomap__load(&bdev->zero_by_holes))
		cr_assert_geq(zeroed, full);
	cr_assert_eq(iomap_bdev_discard(bdev, 0, MIB), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_lt(blocks_of(path), full);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

/* tmpfs has no FALLOC_FL_ZERO_RANGE. */
Test(bd03_bios, bd03_zeroing_by_holes_where_there_is_nothing_else)
{
	char *path = bt_tmpfs_file(2 * MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	if (!path)
		cr_skip_test("no /dev/shm");
	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, IOMAP_BDEV_BUFFERED);
	ranges(&bt, bdev);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

Test(bd03_bios, bd03_discard_and_zeroing_of_memory)
{
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 2 * MIB, &bdev), 0);
	ranges(&bt, bdev);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

/* ---- transfers of one range at the same time ---- */

#define OVERLAP_TURNS 2000

struct overlap {
	struct iomap_bdev *bdev;
	uint32_t opf;
	atomic_int *together; /* counts to three before the first transfer */
};

/* Whole blocks of one byte, read, written or zeroed beside the others. */
static void *overlap_main(void *arg)
{
	struct overlap *o = arg;
	unsigned char *buf = bt_buffer(8 * KIB);
	int turn;

	atomic_fetch_add(o->together, 1);
	while (atomic_load(o->together) < 3)
		sched_yield();
	for (turn = 0; turn < OVERLAP_TURNS; turn++) {
		memset(buf, 1 + turn % 250, 8 * KIB);
		if (o->opf == IOMAP_REQ_OP_WRITE_ZEROES)
			cr_assert_eq(range_io(o->bdev, o->opf, 4 * KIB, 8 * KIB), 0);
		else
			cr_assert_eq(bt_io(o->bdev, o->opf, 4 * KIB, buf, 8 * KIB), 0);
	}
	free(buf);
	return NULL;
}

/* As on a disk: what a reader gets is not said, and that is all; TSan looks on. */
Test(bd03_bios, bd03_transfers_of_one_range_of_memory_may_overlap)
{
	static const uint32_t ops[] = { IOMAP_REQ_OP_READ, IOMAP_REQ_OP_WRITE,
					IOMAP_REQ_OP_WRITE_ZEROES };
	struct overlap o[3];
	atomic_int together = 0;
	pthread_t threads[3];
	unsigned char *in = bt_buffer(16 * KIB);
	struct bt bt;
	int i;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 2 * MIB, &o[0].bdev), 0);
	for (i = 0; i < 3; i++) {
		o[i] = (struct overlap){ o[0].bdev, ops[i], &together };
		cr_assert_eq(pthread_create(&threads[i], NULL, overlap_main, &o[i]), 0);
	}
	for (i = 0; i < 3; i++)
		cr_assert_eq(pthread_join(threads[i], NULL), 0);
	cr_assert_eq(bt_read(o[0].bdev, 0, in, 16 * KIB), 0);
	cr_assert(t_all(in, 4 * KIB, 0) && t_all(in + 12 * KIB, 4 * KIB, 0), "the blocks beside");
	cr_assert_eq(iomap_bdev_close(o[0].bdev), 0);
	bt_stop(&bt);
	free(in);
}

Test(bd03_bios, bd03_discard_and_zeroing_of_a_block_device)
{
	char *path = t_temp(2 * MIB), name[64];
	struct iomap_bdev *bdev;
	uint64_t full;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name));

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, name, 0);
	ranges(&bt, bdev);
	/* what the loop device discards is a hole in its file */
	fill(bdev);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	full = blocks_of(path);
	cr_assert_eq(iomap_bdev_discard(bdev, 0, MIB), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_lt(blocks_of(path), full);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	close(fd);
	t_temp_free(path);
}

static const struct iomap_bdev_limits small_limits = {
	.logical_block_size = 512,
	.physical_block_size = 512,
	.dma_alignment = 1,
	.max_segments_nr = 4,
	.max_transfer_bytes = 16 * KIB,
	.flags = IOMAP_BDEV_HAS_NOWAIT,
	.discard_granularity = 16 * KIB,
	.atomic_write_min_bytes = 4 * KIB,
	.atomic_write_max_bytes = 16 * KIB,
	.atomic_write_segments_nr = 2,
	.max_discard_bytes = 40 * KIB,
	.max_write_zeroes_bytes = 20 * KIB,
};

Test(bd03_bios, bd03_ranges_are_split_at_the_limits_of_their_device)
{
	struct td_io io;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, &small_limits);
	/* pieces end at multiples of the granularity */
	cr_assert_eq(iomap_bdev_discard(td->bdev, 3 * KIB, 100 * KIB), 0);
	cr_assert_eq(td_count(td, TD_DISCARD), 3U);
	io = td_nth(td, TD_DISCARD, 0);
	cr_assert(io.addr == 3 * KIB && io.bytes == 29 * KIB && io.vcnt == 0);
	io = td_nth(td, TD_DISCARD, 1);
	cr_assert(io.addr == 32 * KIB && io.bytes == 32 * KIB);
	io = td_nth(td, TD_DISCARD, 2);
	cr_assert(io.addr == 64 * KIB && io.bytes == 39 * KIB);
	cr_assert_eq(bt_stats(td->bdev).discards_nr, 1U, "one bio to its submitter");
	/* unless that is further than the limit */
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 17 * KIB, 50 * KIB, 0), 0);
	cr_assert_eq(td_count(td, TD_ZEROES), 3U);
	cr_assert_eq(td_bytes(td, TD_ZEROES), 50U * KIB);
	io = td_nth(td, TD_ZEROES, 0);
	cr_assert(io.addr == 17 * KIB && io.bytes == 15 * KIB);
	/* the first error is that of the whole */
	td_fail(td, TD_DISCARD, 32 * KIB, 512, -ENOSPC, 1);
	cr_assert_eq(iomap_bdev_discard(td->bdev, 0, 100 * KIB), -ENOSPC);
	td_free(td);
	bt_stop(&bt);
}

/* ---- a range of many pieces ---- */

#define PIECES 4096U

/* A device that does nothing, at once or not, and notes how much there is of it. */
struct pieces {
	struct iomap_bdev *bdev;
	char *top; /* the stack at the first one */
	size_t deepest;
	atomic_uint nr;
};

static void pieces_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct pieces *pieces = iomap_bdev_private(bdev);
	char here;

	t_must(bio->bi_iter.bi_size == 512);
	if (!pieces->top)
		pieces->top = &here;
	if (pieces->top > &here && (size_t)(pieces->top - &here) > pieces->deepest)
		pieces->deepest = (size_t)(pieces->top - &here);
	atomic_fetch_add(&pieces->nr, 1);
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops pieces_ops = { .submit_bio = pieces_submit };

static const struct iomap_bdev_limits pieces_limits = {
	.logical_block_size = 512,
	.physical_block_size = 512,
	.dma_alignment = 1,
	.max_segments_nr = 4,
	.max_transfer_bytes = 16 * KIB,
	.discard_granularity = 512,
	.max_discard_bytes = 512,
	.max_write_zeroes_bytes = 512,
};

Test(bd03_bios, bd03_a_range_of_many_pieces_that_end_at_once_needs_no_deep_stack)
{
	struct pieces pieces = { .nr = 0 };
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &pieces_ops, PIECES * 512, &pieces_limits,
				       &pieces, &pieces.bdev), 0);
	cr_assert_eq(iomap_bdev_discard(pieces.bdev, 0, PIECES * 512), 0);
	cr_assert_eq(atomic_load(&pieces.nr), PIECES);
	cr_assert_lt(pieces.deepest, 16U * KIB);
	cr_assert_eq(iomap_bdev_close(pieces.bdev), 0);
	bt_stop(&bt);
}

struct releaser {
	struct td *td;
	struct bt_latch latch;
};

static long release_one_by_one(void *arg)
{
	struct releaser *r = arg;

	while (iomap__load_acquire(&r->latch.left))
		if (!td_release(r->td, 1))
			sched_yield();
	return 0;
}

static struct iomap_bio *range_bio(struct iomap_bdev *bdev, uint32_t op, uint64_t bytes)
{
	struct iomap_bio *bio = bt_bio(bdev, op, 0, NULL, 0);

	bio->bi_iter.bi_size = bytes;
	return bio;
}

Test(bd03_bios, bd03_a_few_pieces_of_a_long_range_are_out_at_a_time)
{
	struct releaser r;
	struct t_task task[3];
	struct bt bt;
	size_t out, i;

	bt_start(&bt, 1, 0);
	r.td = td_new(&bt.engine, PIECES * 512, &pieces_limits);
	r.latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	td_hold(r.td, TD_ALL);
	bt_submit(range_bio(r.td->bdev, IOMAP_REQ_OP_WRITE_ZEROES, PIECES * 512), &r.latch);
	out = td_count(r.td, TD_ZEROES);
	cr_assert(out > 1 && out <= 16, "%zu", out);
	for (i = 0; i < 100; i++) {
		cr_assert_eq(td_release(r.td, 1), 1U);
		cr_assert_eq(td_count(r.td, TD_ZEROES), out + i + 1);
	}
	/* and when several threads end them */
	for (i = 0; i < 3; i++)
		t_start(&task[i], release_one_by_one, &r);
	for (i = 0; i < 3; i++)
		t_join(&task[i]);
	cr_assert_eq(atomic_load(&r.latch.first_error), 0);
	cr_assert_eq(td_count(r.td, TD_ZEROES), PIECES);
	cr_assert_eq(td_bytes(r.td, TD_ZEROES), PIECES * 512U);
	/* after an error no more are begun */
	td_reset(r.td);
	td_fail(r.td, TD_DISCARD, 512, 512, -ENOSPC, 1);
	r.latch.left = 1;
	bt_submit(range_bio(r.td->bdev, IOMAP_REQ_OP_DISCARD, PIECES * 512), &r.latch);
	td_release(r.td, 2);
	cr_assert_eq(r.latch.left, 1U, "others are under way");
	td_release(r.td, PIECES);
	cr_assert_eq(r.latch.left, 0U);
	cr_assert_eq(atomic_load(&r.latch.first_error), -ENOSPC);
	cr_assert_leq(td_count(r.td, TD_DISCARD), out + 1);
	td_free(r.td);
	bt_stop(&bt);
}

/* ---- what a log line says of an operation that takes too long ---- */

static atomic_ullong slow_now_ns = 1;

static uint64_t slow_clock(void *ctx)
{
	(void)ctx;
	return atomic_load(&slow_now_ns);
}

static long discard_and_wait(void *arg)
{
	struct td *td = arg;

	return iomap_bdev_discard(td->bdev, 4096, 512);
}

Test(bd03_bios, bd03_en08_a_slow_discard_is_called_one)
{
	struct t_task task;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bt.engine.opts.slow_io_ms = 1000;
	bt.engine.env.now_ns = slow_clock;
	td = td_new(&bt.engine, MIB, &pieces_limits);
	td_hold(td, TD_ALL);
	t_start(&task, discard_and_wait, td);
	/* until it is asleep, and then looked at twice */
	while (!t_log_count(&bt.log, IOMAP_LOG_WARN, "slow I/O")) {
		atomic_fetch_add(&slow_now_ns, 2000000000);
		iomap__slow_look(bt.engine.blk);
	}
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_WARN, "discard, 512 bytes at 4096"), 1U);
	td_open_gates(td);
	cr_assert_eq(t_join(&task), 0);
	td_free(td);
	bt_stop(&bt);
}

Test(bd03_bios, bd03_zeros_are_written_where_there_is_no_command)
{
	unsigned char *out = bt_buffer(MIB), *in = bt_buffer(MIB);
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, NULL);
	t_fill(out, MIB, 0, 7);
	cr_assert_eq(bt_write(td->bdev, 0, out, MIB), 0);
	cr_assert_eq(iomap_bdev_discard(td->bdev, 0, 4096), -EOPNOTSUPP);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 0, 4096, IOMAP_BDEV_ZERO_NOFALLBACK),
		     -EOPNOTSUPP);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 0, 4096, 0x40), -EINVAL);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 4096, 700 * KIB, 0), 0);
	expect_hole(td->bdev, 4096, 4096 + 700 * KIB);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 100, 512, 0), -EINVAL);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, 512, 100, 0), -EINVAL);
	cr_assert_eq(iomap_bdev_write_zeroes(td->bdev, MIB, 512, 0), -EIO);
	td_free(td);
	bt_stop(&bt);
	free(out);
	free(in);
}

/* ---- flags ---- */

static unsigned long loop_flushes(const char *name)
{
	unsigned long field[17] = { 0 };
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/%s/stat", name + strlen("/dev/"));
	file = fopen(path, "re");
	if (!file)
		cr_skip_test("no %s", path);
	for (int i = 0; i < 17; i++)
		if (fscanf(file, "%lu", &field[i]) != 1)
			break;
	fclose(file);
	return field[15];
}

/* A loop device has no FUA: the kernel flushes after the write. */
Test(bd03_bios, bd03_fua_reaches_the_medium_and_a_plain_write_need_not)
{
	char *path = t_temp(MIB), name[64];
	unsigned char *buf = bt_buffer(4096);
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	unsigned long before;
	struct bt bt;
	int fd = bt_loop_device(path, name, sizeof(name));

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, name, 0);
	iomap_bdev_limits(bdev, &limits);
	cr_assert(limits.flags & IOMAP_BDEV_HAS_WRITE_CACHE);
	before = loop_flushes(name);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_SYNC, 0, buf, 4096), 0);
	cr_assert_eq(loop_flushes(name), before);
	/* a synchronous call flushes twice */
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA, 0, buf, 4096), 0);
	cr_assert_gt(loop_flushes(name), before);
	before = loop_flushes(name);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 0, buf, 4096), 0);
	cr_assert_eq(loop_flushes(name), before + 1);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(loop_flushes(name), before + 2);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	close(fd);
	free(buf);
	t_temp_free(path);
}

Test(bd03_bios, bd03_hints_change_nothing)
{
	const uint32_t hints = IOMAP_REQ_SYNC | IOMAP_REQ_META | IOMAP_REQ_RAHEAD |
			       IOMAP_REQ_BACKGROUND | IOMAP_REQ_POLLED;
	char *path = t_temp(MIB);
	unsigned char *out = bt_buffer(4096), *in = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	t_fill(out, 4096, 0, 1);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | hints, 0, out, 4096), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | hints, 0, in, 4096), 0);
	cr_assert_eq(memcmp(in, out, 4096), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH | hints, 0, NULL, 0), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(out);
	free(in);
	t_temp_free(path);
}

Test(bd03_bios, bd03_an_atomic_write_is_never_split_nor_outside_its_limits)
{
	const uint32_t atomic = IOMAP_REQ_OP_WRITE | IOMAP_REQ_ATOMIC;
	unsigned char *buf = bt_buffer(64 * KIB);
	struct iomap_bdev *memory;
	struct iomap_bio *bio;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, &small_limits);
	cr_assert_eq(bt_io(td->bdev, atomic, 16 * KIB, buf, 16 * KIB), 0);
	cr_assert_eq(td_count(td, TD_WRITE), 1U);
	cr_assert_eq(td_nth(td, TD_WRITE, 0).opf, atomic, "the device sees that it is one");
	cr_assert_eq(td_nth(td, TD_WRITE, 0).bytes, 16U * KIB);
	cr_assert_eq(bt_io(td->bdev, atomic, 32 * KIB, buf, 32 * KIB), -EINVAL, "too long");
	cr_assert_eq(bt_io(td->bdev, atomic, 0, buf, 2 * KIB), -EINVAL, "too short");
	cr_assert_eq(bt_io(td->bdev, atomic, 0, buf, 12 * KIB), -EINVAL, "no power of two");
	cr_assert_eq(bt_io(td->bdev, atomic, 4 * KIB, buf, 8 * KIB), -EINVAL, "misaligned");
	cr_assert_eq(bt_io(td->bdev, atomic, 0, NULL, 0), -EINVAL, "nothing");
	bio = iomap_bio_alloc(td->bdev, 4, atomic, NULL);
	for (int i = 0; i < 3; i++)
		cr_assert(iomap_bio_add(bio, buf + i * 8 * KIB, i < 2 ? KIB : 2 * KIB));
	cr_assert_eq(iomap_submit_bio_wait(bio), -EINVAL, "too many segments");
	iomap_bio_put(bio);
	cr_assert_eq(bt_io(td->bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_ATOMIC, 0, buf, 4 * KIB),
		     -EINVAL);
	cr_assert_eq(td_count(td, TD_ALL), 1U);
	td_free(td);

	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &memory), 0);
	cr_assert_eq(bt_io(memory, atomic, 0, buf, 4 * KIB), -EOPNOTSUPP);
	bio = bt_bio(memory, atomic | IOMAP_REQ_FUA | IOMAP_REQ_NOWAIT, 0, buf, 4 * KIB);
	/* what the kernel is told where a file has them */
	cr_assert_eq(iomap__step_rw_flags(bio), 0x40 | RWF_DSYNC | RWF_NOWAIT);
	bio->bi_opf = IOMAP_REQ_OP_READ;
	cr_assert_eq(iomap__step_rw_flags(bio), 0);
	iomap_bio_put(bio);
	cr_assert_eq(iomap_bdev_close(memory), 0);
	bt_stop(&bt);
	free(buf);
}

Test(bd03_bios, bd03_nowait_finds_the_queue_full)
{
	char *path = t_temp(MIB);
	unsigned char *buf = bt_buffer(3 * 4096);
	struct bt_latch latch, nowait;
	struct iomap_bdev *bdev;
	struct iomap_plug plug;
	struct bt bt;

	bt_start(&bt, 1, 1);
	bdev = bt_open(&bt, path, 0);
	fill(bdev);
	/* In one submission, so that the first has not ended before the second comes. */
	latch = (struct bt_latch){ .blk = bt.engine.blk, .left = 2 };
	nowait = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	iomap_start_plug(&plug);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096), &latch);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_NOWAIT, 4096, buf + 4096, 4096),
		  &nowait);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 8192, buf + 8192, 4096), &latch);
	iomap_finish_plug(&plug);
	bt_latch_wait(&nowait);
	bt_latch_wait(&latch);
	cr_assert_eq(nowait.first_error, -EAGAIN);
	cr_assert_eq(latch.first_error, 0, "the others wait for their place");
	cr_assert_eq(t_mismatch(buf, 4096, 0, 7), -1);
	cr_assert(t_all(buf + 4096, 4096, 0));
	cr_assert_eq(t_mismatch(buf + 8192, 4096, 8192, 7), -1);
	/* with a place it is done */
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_NOWAIT, 4096, buf, 4096), 0);
	cr_assert_eq(t_mismatch(buf, 4096, 4096, 7), -1);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, path), 0U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

Test(bd03_bios, bd03_nowait_does_not_wait_where_there_is_no_other_way)
{
	char *path = t_temp(MIB), *inlined = bt_tmpfs_file(MIB);
	const uint32_t nowait = IOMAP_REQ_NOWAIT;
	unsigned char *buf = bt_buffer(64 * KIB);
	struct iomap_bdev *bdev;
	struct td *td, *lazy;
	struct bt bt;
	int status;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_FLUSH | nowait, 0, NULL, 0), -EAGAIN);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | nowait, 0, buf, 4096),
		     -EAGAIN);
	cr_assert_eq(range_io(bdev, IOMAP_REQ_OP_WRITE_ZEROES | nowait, 0, 4096), -EAGAIN);
	/* into a hole: the file system would have to allocate, which may mean to wait */
	status = bt_io(bdev, IOMAP_REQ_OP_WRITE | nowait, 0, buf, 4096);
	cr_assert(status == 0 || status == -EAGAIN);
	cr_assert_eq(bt_write(bdev, 0, buf, 4096), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);

	if (inlined) {
		bdev = bt_open(&bt, inlined, IOMAP_BDEV_BUFFERED);
		if (strcmp(iomap_bdev_io_path(bdev), "inline") == 0)
			cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | nowait, 0, buf, 4096),
				     -EAGAIN);
		cr_assert_eq(iomap_bdev_close(bdev), 0);
		t_temp_free(inlined);
	}

	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | nowait, 0, buf, 4096),
		     0, "memory never waits");
	cr_assert_eq(range_io(bdev, IOMAP_REQ_OP_DISCARD | nowait, 0, 4096), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);

	/* a device of the application says whether it looks at the flag */
	td = td_new(&bt.engine, MIB, &small_limits);
	lazy = td_new(&bt.engine, MIB, NULL);
	cr_assert_eq(bt_io(td->bdev, nowait, 0, buf, 16 * KIB), 0);
	cr_assert_eq(td_nth(td, TD_READ, 0).opf, nowait);
	cr_assert_eq(bt_io(td->bdev, nowait, 0, buf, 32 * KIB), -EAGAIN, "would be split");
	cr_assert_eq(td_count(td, TD_ALL), 1U);
	cr_assert_eq(bt_io(lazy->bdev, nowait, 0, buf, 4096), -EAGAIN);
	cr_assert_eq(td_count(lazy, TD_ALL), 0U);
	td_free(td);
	td_free(lazy);
	cr_assert_eq(t_log_count(&bt.log, IOMAP_LOG_ERROR, ""), 0U, "nothing to tell");
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- chains ---- */

struct family {
	struct iomap_bdev *bdev;
	unsigned ended;
	int status;
};

static void parent_end(struct iomap_bio *bio)
{
	struct family *family = bio->bi_private;

	family->ended++;
	family->status = bio->bi_status;
	iomap_bio_put(bio);
}

static struct iomap_bio *parent_of(struct family *family, unsigned char *buf)
{
	struct iomap_bio *bio = bt_bio(family->bdev, IOMAP_REQ_OP_WRITE, 0, buf, 512);

	bio->bi_private = family;
	bio->bi_end_io = parent_end;
	return bio;
}

Test(bd03_bios, bd03_a_parent_ends_when_it_and_its_children_have)
{
	unsigned char buf[512] = { 1 };
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, NULL);
	td_hold(td, TD_WRITE | TD_READ);
	/* each of the four in turn is the last to be submitted, and so to end; or fails */
	for (int last = 0; last < 4; last++) {
		for (int fails = -1; fails < 4; fails++) {
			struct family family = { .bdev = td->bdev };
			struct iomap_bio *bio[4];

			bio[0] = parent_of(&family, buf);
			for (int i = 1; i < 4; i++) {
				bio[i] = bt_bio(td->bdev, IOMAP_REQ_OP_READ, i * 512, buf, 512);
				iomap_bio_chain(bio[i], bio[0]);
			}
			if (fails >= 0)
				td_fail(td, TD_ALL, (uint64_t)fails * 512, 512, -EILSEQ, 1);
			for (int i = 0; i < 4; i++)
				iomap_submit_bio(bio[(last + 1 + i) % 4]);
			td_wait_held(td, 4);
			for (int i = 0; i < 3; i++) {
				cr_assert_eq(td_release(td, 1), 1U);
				cr_assert_eq(family.ended, 0U);
			}
			cr_assert_eq(td_release(td, 1), 1U);
			cr_assert_eq(family.ended, 1U);
			cr_assert_eq(family.status, fails < 0 ? 0 : -EILSEQ);
		}
	}
	cr_assert_eq(bt_stats(td->bdev).inflight_nr, 0U);
	td_free(td);
	bt_stop(&bt);
}

Test(bd03_bios, bd03_a_child_that_fails_before_its_parent_is_submitted_is_not_forgotten)
{
	unsigned char buf[512] = { 1 };
	struct family family = { 0 };
	struct iomap_bio *parent, *child;
	struct iomap_bdev *memory;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &memory), 0);
	family.bdev = memory;
	parent = parent_of(&family, buf);
	child = bt_bio(memory, IOMAP_REQ_OP_READ, MIB, buf, 512);
	iomap_bio_chain(child, parent);
	iomap_submit_bio(child); /* ends at once: outside the device */
	cr_assert_eq(family.ended, 0U);
	iomap_submit_bio(parent);
	cr_assert_eq(family.ended, 1U);
	cr_assert_eq(family.status, -EIO);
	/* whoever waits for a parent waits for all of it, wherever the children go */
	parent = bt_bio(memory, IOMAP_REQ_OP_WRITE, 0, buf, 512);
	child = bt_bio(memory, IOMAP_REQ_OP_DISCARD, 100 * MIB, NULL, 0);
	child->bi_iter.bi_size = 512;
	iomap_bio_chain(child, parent);
	iomap_submit_bio(child);
	cr_assert_eq(iomap_submit_bio_wait(parent), -EIO);
	/* it can be used again */
	cr_assert_eq(iomap_submit_bio_wait(parent), 0);
	iomap_bio_put(parent);
	cr_assert_eq(iomap_bdev_close(memory), 0);
	bt_stop(&bt);
}

/* As code of the kernel does it: each bio is chained to the one that follows. */
Test(bd03_bios, bd03_a_long_chain_ends_without_a_deep_stack)
{
	enum { LINKS = 200000 };
	unsigned char buf[512] = { 1 };
	struct family family = { 0 };
	struct iomap_bio *bio, *next;
	struct td *td;
	struct bt bt;

	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, NULL);
	family.bdev = td->bdev;
	/* the first one is held, and the end of all others waits for it */
	td_hold(td, TD_READ);
	bio = bt_bio(td->bdev, IOMAP_REQ_OP_READ, 0, buf, 512);
	for (int i = 0; i < LINKS; i++) {
		next = i == LINKS - 1 ? parent_of(&family, buf) :
					bt_bio(td->bdev, IOMAP_REQ_OP_WRITE, 0, NULL, 0);
		iomap_bio_chain(bio, next);
		iomap_submit_bio(bio);
		bio = next;
	}
	iomap_submit_bio(bio);
	cr_assert_eq(family.ended, 0U);
	td_fail(td, TD_READ, 0, 512, -EBADMSG, 1);
	td_open_gates(td);
	cr_assert_eq(family.ended, 1U);
	cr_assert_eq(family.status, -EBADMSG, "the error goes all the way");
	td_free(td);
	bt_stop(&bt);
}

struct kin {
	struct iomap_bdev *bdev;
	struct bt *bt;
	unsigned id;
};

/* Children on a device that ends them by a thread of its own, in three pieces each. */
static long families(void *arg)
{
	struct kin *kin = arg;
	unsigned char *buf = bt_buffer(40 * KIB);

	for (int i = 0; i < (T_TSAN ? 50 : 300); i++) {
		struct iomap_bio *parent = bt_bio(kin->bdev, IOMAP_REQ_OP_READ, 0, buf, 4 * KIB);
		bool bad = i % 3 == 0;

		for (int n = 0; n < 8; n++) {
			uint64_t at = bad && n == i % 8 ? MIB : (uint64_t)n * 40 * KIB;
			struct iomap_bio *child =
				bt_bio(kin->bdev, IOMAP_REQ_OP_READ, at, buf, 40 * KIB);

			iomap_bio_chain(child, parent);
			iomap_submit_bio(child);
		}
		t_must(iomap_submit_bio_wait(parent) == (bad ? -EIO : 0));
		iomap_bio_put(parent);
	}
	free(buf);
	return 0;
}

static void many_families(struct bt *bt, struct iomap_bdev *bdev)
{
	struct t_task task[4];
	struct kin kin[4];

	for (unsigned i = 0; i < 4; i++) {
		kin[i] = (struct kin){ bdev, bt, i };
		t_start(&task[i], families, &kin[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(bt_stats(bdev).inflight_nr, 0U);
}

Test(bd03_bios, bd03_chains_that_end_in_several_threads)
{
	struct td *td;
	struct bt bt;

	bt_start(&bt, 2, 0);
	td = td_new(&bt.engine, MIB, &small_limits);
	td_async(td);
	many_families(&bt, td->bdev);
	td_free(td);
	bt_stop(&bt);
}

Test(bd03_bios, bd03_chains_on_a_file)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 2, 4);
	bdev = bt_open(&bt, path, 0);
	many_families(&bt, bdev);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

/* ---- plugs ---- */

Test(bd03_bios, bd03_what_a_plug_collects_is_one_system_call)
{
	char *path = t_temp(MIB);
	unsigned char *buf = bt_buffer(16 * 4096);
	struct iomap_debug_counters before, after;
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	if (!t_debug() || strcmp(iomap__blk_backend(&bt.engine), "io_uring") != 0) {
		bt_stop(&bt);
		t_temp_free(path);
		cr_skip_test("io_uring in a debug build counts system calls");
	}
	bdev = bt_open(&bt, path, 0);
	for (int plugged = 0; plugged < 2; plugged++) {
		struct bt_latch latch = { .blk = bt.engine.blk, .left = 16 };
		struct iomap_plug plug;

		if (plugged)
			iomap_start_plug(&plug);
		before = t_counters();
		for (unsigned i = 0; i < 16; i++)
			bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, i * 4096, buf + i * 4096, 4096),
				  &latch);
		if (plugged) {
			after = t_counters();
			cr_assert_eq(after.syscalls_nr, before.syscalls_nr, "nothing yet");
			iomap_finish_plug(&plug);
		}
		after = t_counters();
		cr_assert_eq(after.syscalls_nr - before.syscalls_nr, plugged ? 1U : 16U);
		bt_latch_wait(&latch);
		cr_assert_eq(latch.first_error, 0);
	}
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* ---- devices for tests know them ---- */

Test(bd03_bios, bd03_a_faulty_device_fails_and_loses_ranges)
{
	struct iomap_fault fault = { .size = sizeof(fault), .kind = IOMAP_FAULT_FAIL,
				     .ops = IOMAP_FAULT_ON_DISCARD, .nth = 1, .error = -ENOSPC };
	struct iomap_bdev *memory, *faulty;
	struct bt_latch latch = { .left = 1 };
	struct iomap_bio *bio;
	struct bt bt;

	bt_start(&bt, 1, 0);
	latch.blk = bt.engine.blk;
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, 2 * MIB, &memory), 0);
	cr_assert_eq(iomap_faulty_create(memory, NULL, &faulty), 0);
	ranges(&bt, faulty);
	fill(faulty);
	cr_assert_eq(iomap_faulty_add(faulty, &fault, NULL), 0);
	cr_assert_eq(iomap_bdev_discard(faulty, 0, 4096), -ENOSPC);
	expect_hole(faulty, 0, 0);
	cr_assert_eq(iomap_bdev_discard(faulty, 0, 4096), 0);
	expect_hole(faulty, 0, 4096);
	fault.kind = IOMAP_FAULT_LOSE;
	fault.ops = IOMAP_FAULT_ON_WRITE_ZEROES;
	fault.error = 0;
	cr_assert_eq(iomap_faulty_add(faulty, &fault, NULL), 0);
	cr_assert_eq(iomap_bdev_write_zeroes(faulty, 4096, 4096, 0), 0);
	expect_hole(faulty, 0, 4096);
	/* held until the next I/O, and then done as a range */
	fault.kind = IOMAP_FAULT_DELAY;
	fault.amount = 1;
	cr_assert_eq(iomap_faulty_add(faulty, &fault, NULL), 0);
	bio = bt_bio(faulty, IOMAP_REQ_OP_WRITE_ZEROES, 4096, NULL, 0);
	bio->bi_iter.bi_size = 4096;
	bt_submit(bio, &latch);
	cr_assert_eq(latch.left, 1U);
	expect_hole(faulty, 0, 4096);
	cr_assert_eq(latch.left, 0U);
	cr_assert_eq(latch.first_error, 0);
	expect_hole(faulty, 0, 8192);
	fault.kind = IOMAP_FAULT_CORRUPT;
	cr_assert_eq(iomap_faulty_add(faulty, &fault, NULL), -EINVAL, "nothing to corrupt");
	cr_assert_eq(iomap_bdev_close(faulty), 0);
	cr_assert_eq(iomap_bdev_close(memory), 0);
	bt_stop(&bt);
}

Test(bd03_bios, bd03_a_writelog_replays_ranges_as_writes_of_zeros)
{
	struct iomap_cut cut = { .size = sizeof(cut), .mode = IOMAP_CUT_NONE };
	unsigned char *image = bt_buffer(2 * MIB);
	struct iomap_writelog_info info;
	struct iomap_replay *replay;
	struct iomap_bdev *log;
	bool torn = false, whole = false, none = false;
	uint64_t written;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_writelog_open_memory(&bt.engine, 2 * MIB, NULL, NULL, &log), 0);
	ranges(&bt, log);
	fill(log);
	cr_assert_eq(iomap_bdev_flush(log), 0);
	cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
	written = info.data_bytes;
	cr_assert_eq(iomap_bdev_discard(log, 4096, 8192), 0);
	cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
	cr_assert_eq(info.data_bytes, written, "there is none");
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	cr_assert_eq(iomap_replay_seek(replay, info.events_nr), 0);
	cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), 0);
	cr_assert_eq(t_mismatch(image, MIB, 0, 7), -1, "not durable: it may not have happened");
	cut.mode = IOMAP_CUT_RANDOM;
	for (cut.seed = 0; cut.seed < 200; cut.seed++) {
		cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), 0);
		if (t_mismatch(image, MIB, 0, 7) == -1)
			none = true;
		else if (t_all(image + 4096, 8192, 0))
			whole = true;
		else
			torn = true;
		cr_assert_eq(t_mismatch(image, 4096, 0, 7), -1);
		cr_assert_eq(t_mismatch(image + 12288, MIB - 12288, 12288, 7), -1);
	}
	cr_assert(none && whole && torn);
	iomap_replay_close(replay);
	cr_assert_eq(iomap_bdev_flush(log), 0);
	cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	cr_assert_eq(iomap_replay_seek(replay, info.events_nr), 0);
	cut.mode = IOMAP_CUT_NONE;
	cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), 0);
	cr_assert(t_all(image + 4096, 8192, 0), "durable");
	cr_assert_eq(t_mismatch(image, 4096, 0, 7), -1);
	iomap_replay_close(replay);
	cr_assert_eq(iomap_bdev_close(log), 0);
	bt_stop(&bt);
	free(image);
}

Test(bd03_bios, bd03_an_atomic_write_does_not_tear_in_a_power_cut)
{
	struct iomap_cut_piece piece = { .write = 0, .off = 0, .len = 4096 };
	struct iomap_cut cut = { .size = sizeof(cut), .mode = IOMAP_CUT_RANDOM };
	unsigned char *image = bt_buffer(MIB), *ones = bt_buffer(16 * KIB);
	struct iomap_writelog_info info;
	struct iomap_replay *replay;
	struct iomap_bdev *log;
	unsigned whole = 0;
	struct td *td;
	struct bt bt;

	memset(ones, 1, 16 * KIB);
	bt_start(&bt, 1, 0);
	td = td_new(&bt.engine, MIB, &small_limits);
	cr_assert_eq(iomap_writelog_create(td->bdev, NULL, &log), 0);
	cr_assert_eq(bt_io(log, IOMAP_REQ_OP_WRITE | IOMAP_REQ_ATOMIC, 0, ones, 16 * KIB), 0);
	cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	cr_assert_eq(iomap_replay_seek(replay, info.events_nr), 0);
	for (cut.seed = 0; cut.seed < 200; cut.seed++) {
		cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), 0);
		cr_assert(t_all(image, 16 * KIB, image[0]));
		whole += image[0];
	}
	cr_assert(whole > 0 && whole < 200);
	cut.mode = IOMAP_CUT_PIECES;
	cut.pieces = &piece;
	cut.pieces_nr = 1;
	cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), -EINVAL);
	piece.len = 16 * KIB;
	cr_assert_eq(iomap_replay_image(replay, &cut, image, NULL), 0);
	cr_assert(t_all(image, 16 * KIB, 1));
	iomap_replay_close(replay);
	cr_assert_eq(iomap_bdev_close(log), 0);
	td_free(td);
	bt_stop(&bt);
	free(image);
	free(ones);
}
