/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd04_exit.c - a thread that ends with requests in flight loses none of them.
 *
 * A file in memory refuses NOWAIT, so io_uring hands its requests to kernel workers of the
 * thread that submitted them, which end with it.  The library would do such a file's I/O
 * inline; the test makes its device a queued one.
 */
#include "block/uring.h"
#include "blktest.h"

#define REQUESTS 64U
#define BYTES (256U * 1024U)
#define ROUNDS 8U

struct submitter {
	struct bt *bt;
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	uint8_t *buf;
	unsigned left; /* the kernel had not ended when the thread did; io_uring */
};

static long submit_and_end(void *arg)
{
	struct submitter *s = arg;

	for (unsigned i = 0; i < REQUESTS; i++)
		bt_submit(bt_bio(s->bdev, IOMAP_REQ_OP_WRITE, (uint64_t)i * BYTES,
				 s->buf + (size_t)i * BYTES, BYTES),
			  &s->latch);
	if (!strcmp(s->bt->engine.blk->backend->name, "io_uring"))
		s->left = REQUESTS -
			  io_uring_cq_ready(&iomap__uring(&s->bt->engine.blk->queues[0])->ring);
	return 0;
}

/* Return: requests that the thread left behind. */
static unsigned one_round(struct bt *bt, struct iomap_bdev *bdev, uint8_t *buf, unsigned round)
{
	struct submitter s = {
		.bt = bt,
		.bdev = bdev,
		.latch = { .blk = bt->engine.blk, .left = REQUESTS },
		.buf = buf,
	};
	struct t_task task;

	t_fill(buf, (size_t)REQUESTS * BYTES, 0, round);
	t_start(&task, submit_and_end, &s);
	t_join(&task);
	/* nobody has reaped: all are in flight, whatever has become of them */
	cr_assert_eq(bt_stats(bdev).inflight_nr, REQUESTS);
	bt_latch_wait(&s.latch);
	cr_assert_eq(atomic_load(&s.latch.first_error), 0);
	return s.left;
}

Test(bd04, bd04_a_thread_that_ends_with_requests_in_flight_loses_none)
{
	uint8_t *buf = bt_buffer(REQUESTS * BYTES), *back = bt_buffer(REQUESTS * BYTES);
	char *path = t_temp(BT_PAGE), *memory = bt_tmpfs_file((uint64_t)REQUESTS * BYTES);
	struct iomap_bdev *other, *bdev;
	unsigned round, left = 0;
	bool uring;
	struct bt bt;

	if (!memory)
		cr_skip_test("no file in memory");
	bt_start(&bt, 1, REQUESTS);
	uring = !strcmp(bt.engine.blk->backend->name, "io_uring");
	other = bt_open(&bt, path, 0);
	bdev = bt_open(&bt, memory, IOMAP_BDEV_BUFFERED);
	cr_assert_str_eq(iomap_bdev_io_path(bdev), "inline");
	bdev->kind = other->kind;
	for (round = 1; round <= ROUNDS; round++) {
		left += one_round(&bt, bdev, buf, round);
		cr_assert_eq(bt_read(bdev, 0, back, REQUESTS * BYTES), 0);
		cr_assert_eq(memcmp(back, buf, (size_t)REQUESTS * BYTES), 0);
	}
	if (uring)
		cr_assert_gt(left, 0U, "the kernel was at it when the threads ended");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_bdev_close(other), 0);
	bt_stop(&bt);
	unlink(memory);
	free(memory);
	t_temp_free(path);
	free(buf);
	free(back);
}
