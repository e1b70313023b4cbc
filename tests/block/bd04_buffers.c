/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd04_buffers.c - BD04: memory of the application that rings know beforehand: what goes by it,
 * when it may be taken back, and that all goes on where it cannot be had.
 *
 * What a ring was asked for is read from its last submission entry, which stays there.
 */
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "block/uring.h"
#include "blktest.h"

#define MIB (1024U * 1024U)
#define PIECE (64U * 1024)

struct rig {
	struct bt bt;
	struct iomap_bdev *bdev;
	char *path;
	uint8_t *memory; /* 1 MiB of the application's */
};

static void rig_start(struct rig *r)
{
	bt_start(&r->bt, 2, 8);
	r->path = t_temp(MIB);
	r->bdev = bt_open(&r->bt, r->path, 0);
	r->memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t_must(r->memory != MAP_FAILED);
	(void)madvise(r->memory, MIB, MADV_NOHUGEPAGE);
}

static void rig_stop(struct rig *r)
{
	cr_assert_eq(iomap_bdev_close(r->bdev), 0);
	bt_stop(&r->bt);
	t_must(munmap(r->memory, MIB) == 0);
	t_temp_free(r->path);
}

static void need_uring(void)
{
	struct io_uring_params params = { 0 };
	long fd = syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		cr_skip_test("io_uring does not work here");
	close((int)fd);
	setenv("IOMAP_BACKEND", "io_uring", 1);
}

static struct iomap__queue *mine(struct rig *r)
{
	return iomap__queue_mine(r->bt.engine.blk);
}

static const struct io_uring_sqe *last_sqe(struct iomap__queue *queue)
{
	struct io_uring *u = &iomap__uring(queue)->ring;

	return &u->sq.sqes[(*u->sq.ktail - 1) & (u->sq.ring_entries - 1)];
}

static uint64_t known(struct rig *r)
{
	struct iomap_engine_stats stats = { 0 };

	iomap__blk_stats(&r->bt.engine, &stats);
	return stats.registered_bytes;
}

static unsigned put(struct rig *r, size_t at, size_t bytes)
{
	const struct iovec iov = { r->memory + at, bytes };
	unsigned index = UINT_MAX;

	cr_assert_eq(iomap_register_buffers(&r->bt.engine, &iov, 1, &index), 0);
	return index;
}

/* The data arrives; whether it went by a buffer. */
static bool fixed(struct rig *r, size_t at, size_t bytes)
{
	const struct io_uring_sqe *sqe;

	t_fill(r->memory + at, bytes, 0, (unsigned)at);
	cr_assert_eq(bt_write(r->bdev, 0, r->memory + at, bytes), 0);
	memset(r->memory + at, 0, bytes);
	cr_assert_eq(bt_read(r->bdev, 0, r->memory + at, bytes), 0);
	cr_assert_lt(t_mismatch(r->memory + at, bytes, 0, (unsigned)at), 0);
	sqe = last_sqe(mine(r));
	t_must(sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_READ_FIXED);
	return sqe->opcode == IORING_OP_READ_FIXED;
}

static void need_registering(struct rig *r, unsigned index)
{
	if (known(r))
		return;
	cr_assert_eq(iomap_unregister_buffers(&r->bt.engine, index, 1), 0);
	rig_stop(r);
	cr_skip_test("no memory may be locked here");
}

Test(bd04_buffers, bd04_a_transfer_inside_a_buffer_goes_by_it)
{
	struct rig r;
	unsigned a, b;

	need_uring();
	rig_start(&r);
	cr_assert(!fixed(&r, 0, BT_PAGE));
	a = put(&r, 0, PIECE);
	need_registering(&r, a);
	b = put(&r, 4 * PIECE, PIECE);
	cr_assert_eq(known(&r), 2U * PIECE);
	cr_assert(fixed(&r, 0, BT_PAGE));
	cr_assert(fixed(&r, 0, PIECE));
	cr_assert(fixed(&r, PIECE - BT_PAGE, BT_PAGE));
	cr_assert(fixed(&r, 4 * PIECE, PIECE));
	cr_assert(fixed(&r, 4 * PIECE + 8 * BT_PAGE, BT_PAGE));
	/* over the end, before, behind, and between the two */
	cr_assert(!fixed(&r, PIECE - BT_PAGE, 2 * BT_PAGE));
	cr_assert(!fixed(&r, PIECE, BT_PAGE));
	cr_assert(!fixed(&r, 4 * PIECE - BT_PAGE, 2 * BT_PAGE));
	cr_assert(!fixed(&r, 5 * PIECE, BT_PAGE));
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, a, 1), 0);
	cr_assert(!fixed(&r, 0, BT_PAGE));
	cr_assert(fixed(&r, 4 * PIECE, BT_PAGE));
	cr_assert_eq(known(&r), PIECE);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, b, 1), 0);
	cr_assert_eq(known(&r), 0U);
	cr_assert_eq(r.bt.log.nr, 0U, "%s", r.bt.log.line[0].text);
	rig_stop(&r);
}

/* Other memory at the same address: what the rings knew of it would be the old pages. */
Test(bd04_buffers, bd04_a_buffer_that_comes_back_is_new_memory)
{
	struct rig r;
	unsigned index;
	void *again;

	need_uring();
	rig_start(&r);
	index = put(&r, 0, PIECE);
	need_registering(&r, index);
	cr_assert(fixed(&r, 0, PIECE));
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), 0);
	t_must(munmap(r.memory, MIB) == 0);
	again = mmap(r.memory, MIB, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	t_must(again == r.memory);
	cr_assert(!fixed(&r, 0, PIECE));
	cr_assert_eq(put(&r, 0, PIECE), index);
	cr_assert(fixed(&r, 0, PIECE));
	rig_stop(&r); /* goes with the engine */
}

Test(bd04_buffers, bd04_a_buffer_in_flight_is_busy)
{
	struct rig r;
	unsigned a, b;
	struct iomap_bio *bio;

	need_uring();
	rig_start(&r);
	a = put(&r, 0, PIECE);
	need_registering(&r, a);
	b = put(&r, PIECE, PIECE);
	bio = bt_bio(r.bdev, IOMAP_REQ_OP_READ, 0, r.memory + PIECE, BT_PAGE);
	bio->bi_end_io = iomap_bio_put;
	iomap_submit_bio(bio);
	/* nobody has looked for its end */
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, b, 1), -EBUSY);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, a, 2), -EBUSY);
	cr_assert_eq(known(&r), 2U * PIECE);
	while (!iomap__io_poll(r.bt.engine.blk))
		;
	cr_assert(fixed(&r, 0, BT_PAGE));
	cr_assert(fixed(&r, PIECE, BT_PAGE));
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, a, 2), 0);
	rig_stop(&r);
}

Test(bd04_buffers, bd04_the_ring_of_one_thread_follows_by_itself)
{
	const uint32_t polled = IOMAP_REQ_OP_READ | IOMAP_REQ_POLLED;
	struct iomap__queue *own;
	unsigned index;
	struct rig r;

	need_uring();
	rig_start(&r);
	cr_assert_eq(bt_io(r.bdev, polled, 0, r.memory, BT_PAGE), 0);
	own = iomap__private_mine(r.bt.engine.blk);
	if (!own) {
		rig_stop(&r);
		cr_skip_test("no ring of one thread here");
	}
	cr_assert_eq(last_sqe(own)->opcode, IORING_OP_READ);
	index = put(&r, 0, PIECE);
	need_registering(&r, index);
	cr_assert_eq(bt_io(r.bdev, polled, 0, r.memory, BT_PAGE), 0);
	cr_assert_eq(last_sqe(own)->opcode, IORING_OP_READ_FIXED);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), 0);
	cr_assert_eq(bt_io(r.bdev, polled, 0, r.memory, BT_PAGE), 0);
	cr_assert_eq(last_sqe(own)->opcode, IORING_OP_READ);
	(void)put(&r, 0, PIECE);
	cr_assert_eq(bt_io(r.bdev, polled, 0, r.memory, BT_PAGE), 0);
	rig_stop(&r);
}

Test(bd04_buffers, bd04_buffers_beside_folio_memory)
{
	uint8_t *folios = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);
	unsigned index;
	struct rig r;

	need_uring();
	t_must(folios != MAP_FAILED);
	(void)madvise(folios, 4 * MIB, MADV_NOHUGEPAGE);
	bt_start(&r.bt, 1, 8);
	r.bt.engine.opts.register_pct = 100;
	iomap__blk_set_memory(&r.bt.engine, folios, 4 * MIB);
	r.path = t_temp(MIB);
	r.bdev = bt_open(&r.bt, r.path, 0);
	r.memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t_must(r.memory != MAP_FAILED);
	index = put(&r, 0, PIECE);
	if (known(&r)) {
		cr_assert(fixed(&r, 0, PIECE));
		cr_assert_eq(last_sqe(mine(&r))->buf_index, 2 + index);
	}
	cr_assert_eq(bt_read(r.bdev, 0, folios + 2 * MIB, BT_PAGE), 0);
	if (iomap__uring(mine(&r))->memory)
		cr_assert_eq(last_sqe(mine(&r))->buf_index, 1);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), 0);
	cr_assert_eq(bt_read(r.bdev, 0, folios, BT_PAGE), 0);
	cr_assert_eq(iomap_bdev_close(r.bdev), 0);
	iomap__blk_set_memory(&r.bt.engine, NULL, 0);
	bt_stop(&r.bt);
	t_must(munmap(r.memory, MIB) == 0);
	t_must(munmap(folios, 4 * MIB) == 0);
	t_temp_free(r.path);
}

/* ---- where it is not to be had ---- */

Test(bd04_buffers, bd04_denied_by_seccomp_it_goes_by_address)
{
	struct rig r;
	unsigned index;

	need_uring();
	rig_start(&r);
	t_deny(SYS_io_uring_register, EPERM);
	index = put(&r, 0, PIECE);
	cr_assert(!fixed(&r, 0, PIECE));
	cr_assert_eq(known(&r), 0U);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), 0);
	cr_assert_eq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "registered memory"), 1U);
	rig_stop(&r);
}

static void by_backend(const char *backend)
{
	struct rig r;
	unsigned index;

	setenv("IOMAP_BACKEND", backend, 1);
	rig_start(&r);
	index = put(&r, 0, PIECE);
	t_fill(r.memory, PIECE, 0, 3);
	cr_assert_eq(bt_write(r.bdev, 0, r.memory, PIECE), 0);
	memset(r.memory, 0, PIECE);
	cr_assert_eq(bt_read(r.bdev, 0, r.memory, PIECE), 0);
	cr_assert_lt(t_mismatch(r.memory, PIECE, 0, 3), 0);
	cr_assert_eq(known(&r), 0U);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), 0);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, index, 1), -EINVAL);
	rig_stop(&r);
}

Test(bd04_buffers, bd04_other_backends_take_it_and_do_without)
{
	by_backend("threads");
	by_backend("libaio");
}

Test(bd04_buffers, bd04_what_makes_no_sense_is_refused)
{
	struct iovec iov[2], most[IOMAP__BUFFERS_MAX];
	unsigned index = 7;
	struct rig r;

	rig_start(&r);
	iov[0] = (struct iovec){ r.memory, PIECE };
	iov[1] = (struct iovec){ r.memory, 0 };
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, iov, 2, &index), -EINVAL);
	iov[1] = (struct iovec){ NULL, PIECE };
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, iov, 2, &index), -EINVAL);
	iov[1] = (struct iovec){ r.memory, (UINT64_C(1) << 30) + 1 };
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, iov, 2, &index), -EINVAL);
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, iov, 0, &index), -EINVAL);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, 0, 1), -EINVAL);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, IOMAP__BUFFERS_MAX, 1), -EINVAL);
	cr_assert_eq(index, 7U);
	for (unsigned i = 0; i < IOMAP__BUFFERS_MAX; i++)
		most[i] = (struct iovec){ r.memory, BT_PAGE };
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, most, IOMAP__BUFFERS_MAX - 1, &index), 0);
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, most, 2, &index), -ENOSPC);
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, most, 1, &index), 0);
	cr_assert_eq(index, IOMAP__BUFFERS_MAX - 1);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, 10, 5), 0);
	cr_assert_eq(iomap_unregister_buffers(&r.bt.engine, 9, 3), -EINVAL);
	cr_assert_eq(iomap_register_buffers(&r.bt.engine, most, 5, &index), 0);
	cr_assert_eq(index, 10U);
	rig_stop(&r);
}
