/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_stack.c - devices of the application: stacked on others, with limits, that fail,
 * that answer later, that wait.
 */
#include "blktest.h"

#define MIB (1024U * 1024U)

struct stacked {
	struct iomap_bdev *lower;
	unsigned bios, reads, writes, flushes, preflushes;
	unsigned max_vecs;
	uint64_t max_bytes;
	uint64_t fail_at; /* byte; a bio that covers it fails; UINT64_MAX: none */
	unsigned released;
	bool wait; /* for each bio with data, inside submit_bio */
	struct iomap_bio *held; /* bios kept back, linked by bi_next */
	bool hold;
};

static void stacked_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct stacked *s = iomap_bdev_private(bdev);
	uint64_t pos = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	struct iomap_bio *copy;

	s->bios++;
	s->max_vecs = iomap__max(s->max_vecs, bio->bi_vcnt);
	s->max_bytes = iomap__max(s->max_bytes, bio->bi_iter.bi_size);
	s->reads += iomap__bio_op(bio) == IOMAP_REQ_OP_READ;
	s->writes += iomap__bio_op(bio) == IOMAP_REQ_OP_WRITE;
	s->flushes += iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH;
	s->preflushes += (bio->bi_opf & IOMAP_REQ_PREFLUSH) != 0;
	if (s->fail_at >= pos && s->fail_at - pos < bio->bi_iter.bi_size) {
		bio->bi_status = -ENOSPC;
		iomap_bio_endio(bio);
	} else if (s->hold) {
		bio->bi_next = s->held;
		s->held = bio;
	} else if (s->wait && iomap__bio_op(bio) != IOMAP_REQ_OP_FLUSH) {
		copy = iomap_bio_alloc(s->lower, IOMAP_BIO_MAX_VECS, bio->bi_opf, NULL);
		t_must(copy);
		copy->bi_iter.bi_sector = bio->bi_iter.bi_sector;
		for (uint32_t i = 0; i < bio->bi_vcnt; i++)
			t_must(iomap_bio_add(copy, bio->bi_io_vec[i].bv_base,
					     bio->bi_io_vec[i].bv_len));
		bio->bi_status = iomap_submit_bio_wait(copy);
		iomap_bio_put(copy);
		iomap_bio_endio(bio);
	} else {
		bio->bi_bdev = s->lower;
		iomap_submit_bio(bio);
	}
}

static void stacked_release(struct iomap_bdev *bdev)
{
	struct stacked *s = iomap_bdev_private(bdev);

	s->released++;
}

static const struct iomap_bdev_ops stacked_ops = {
	.submit_bio = stacked_submit,
	.release = stacked_release,
};

static const struct iomap_bdev_limits tiny = {
	.logical_block_size = 512,
	.physical_block_size = 4096,
	.dma_alignment = 512,
	.max_segments_nr = 2,
	.max_transfer_bytes = 3000, /* five sectors and a bit */
};

struct setup {
	struct bt bt;
	char *path;
	struct stacked s;
	struct iomap_bdev *lower, *upper;
};

static void set_up(struct setup *t, const struct iomap_bdev_limits *limits)
{
	memset(&t->s, 0, sizeof(t->s));
	bt_start(&t->bt, 2, 4);
	t->path = t_temp(2 * MIB);
	t->lower = t->s.lower = bt_open(&t->bt, t->path, 0);
	t->s.fail_at = UINT64_MAX;
	cr_assert_eq(iomap_bdev_create(&t->bt.engine, &stacked_ops, 2 * MIB, limits, &t->s,
				       &t->upper), 0);
	cr_assert_eq(iomap_bdev_private(t->upper), &t->s);
	cr_assert_str_eq(iomap_bdev_io_path(t->upper), "custom");
}

static void tear_down(struct setup *t)
{
	cr_assert_eq(iomap_bdev_close(t->upper), 0);
	cr_assert_eq(t->s.released, 1U);
	cr_assert_eq(bt_stats(t->lower).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_close(t->lower), 0);
	bt_stop(&t->bt);
	t_temp_free(t->path);
}

Test(blk_stack, a_bio_that_is_passed_on_counts_on_both_devices)
{
	unsigned char *out = bt_buffer(65536), *in = bt_buffer(65536);
	struct setup t;

	set_up(&t, NULL);
	t_fill(out, 65536, 0, 1);
	cr_assert_eq(bt_write(t.upper, 4096, out, 65536), 0);
	cr_assert_eq(bt_read(t.lower, 4096, in, 65536), 0);
	cr_assert_eq(memcmp(in, out, 65536), 0);
	cr_assert_eq(bt_stats(t.upper).writes_nr, 1U);
	cr_assert_eq(bt_stats(t.lower).writes_nr, 1U);
	cr_assert_eq(bt_stats(t.upper).written_bytes, 65536U);
	cr_assert_eq(bt_stats(t.upper).reads_nr, 0U);
	cr_assert_eq(bt_stats(t.upper).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_flush(t.upper), 0);
	cr_assert_eq(t.s.flushes, 1U);
	cr_assert_eq(iomap_bdev_flush(t.upper), 0);
	cr_assert_eq(t.s.flushes, 1U);
	free(out);
	free(in);
	tear_down(&t);
}

static struct iomap_bio *scattered_bio(struct iomap_bdev *bdev, uint32_t opf, unsigned char *mem,
				       unsigned vecs, size_t bytes, size_t stride)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, vecs, opf, NULL);

	t_must(bio);
	for (unsigned i = 0; i < vecs; i++)
		t_must(iomap_bio_add(bio, mem + i * stride, bytes));
	return bio;
}

Test(blk_stack, a_bio_past_the_limits_goes_out_in_pieces)
{
	unsigned char *out = bt_buffer(64 * 8192), *in = bt_buffer(64 * 8192);
	struct iomap_bio *bio;
	struct setup t;

	set_up(&t, &tiny);
	for (int i = 0; i < 60; i++)
		t_fill(out + i * 8192, 4096, i * 4096, 9);
	bio = scattered_bio(t.upper, IOMAP_REQ_OP_WRITE, out, 60, 4096, 8192);
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	iomap_bio_put(bio);
	cr_assert_eq(t.s.max_vecs, 2U);
	cr_assert_eq(t.s.max_bytes, 2560U, "whole sectors");
	cr_assert_eq(t.s.bios, 96U, "60 * 4096 / 2560");
	cr_assert_eq(bt_stats(t.upper).writes_nr, 1U);
	cr_assert_eq(bt_stats(t.lower).writes_nr, 96U);

	cr_assert_eq(bt_read(t.lower, 0, in, 60 * 4096), 0);
	cr_assert_eq(t_mismatch(in, 60 * 4096, 0, 9), -1);
	memset(in, 0, 64 * 8192);
	bio = scattered_bio(t.upper, IOMAP_REQ_OP_READ, in, 100, 512, 1024);
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	iomap_bio_put(bio);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(t_mismatch(in + i * 1024, 512, i * 512, 9), -1);
	free(out);
	free(in);
	tear_down(&t);
}

Test(blk_stack, the_flush_of_a_bio_in_pieces_is_one_and_comes_first)
{
	unsigned char *out = bt_buffer(65536);
	struct setup t;

	set_up(&t, &tiny);
	cr_assert_eq(bt_io(t.upper, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 0, out,
			   65536), 0);
	cr_assert_eq(t.s.flushes, 1U);
	cr_assert_eq(t.s.preflushes, 0U);
	cr_assert_eq(t.s.writes, 26U);
	/* held back: nothing but the flush has been submitted */
	t.s.hold = true;
	t.s.bios = 0;
	struct bt_latch latch = { .blk = t.bt.engine.blk, .left = 1 };

	bt_submit(bt_bio(t.upper, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 0, out, 65536), &latch);
	cr_assert_eq(t.s.bios, 1U);
	cr_assert_eq(iomap__bio_op(t.s.held), IOMAP_REQ_OP_FLUSH);
	cr_assert_eq(bt_stats(t.upper).inflight_nr, 1U);
	cr_assert_eq(iomap_bdev_close(t.upper), -EBUSY);
	t.s.hold = false;
	t.s.held->bi_status = 0;
	iomap_bio_endio(t.s.held);
	bt_latch_wait(&latch);
	cr_assert_eq(atomic_load(&latch.first_error), 0);
	cr_assert_eq(t.s.bios, 27U);
	free(out);
	tear_down(&t);
}

Test(blk_stack, an_error_of_one_piece_is_the_error_of_the_whole)
{
	unsigned char *out = bt_buffer(65536);
	struct setup t;

	set_up(&t, &tiny);
	t.s.fail_at = 40000;
	cr_assert_eq(bt_write(t.upper, 0, out, 65536), -ENOSPC);
	cr_assert_eq(t.s.writes, 26U, "the others were written");
	cr_assert_eq(bt_stats(t.upper).errors_nr, 1U);
	cr_assert_eq(bt_stats(t.upper).inflight_nr, 0U);
	t.s.fail_at = UINT64_MAX;
	cr_assert_eq(bt_write(t.upper, 0, out, 65536), 0);
	free(out);
	tear_down(&t);
}

Test(blk_stack, limits_and_arguments_are_checked)
{
	struct iomap_bdev_limits limits;
	struct iomap_bdev *bdev;
	struct bt bt;
	unsigned char *buf = bt_buffer(8192);

	bt_start(&bt, 1, 0);
	limits = tiny;
	limits.logical_block_size = 1000;
	cr_assert_eq(iomap_bdev_create(&bt.engine, &stacked_ops, MIB, &limits, NULL, &bdev),
		     -EINVAL);
	limits = tiny;
	limits.max_transfer_bytes = 100;
	cr_assert_eq(iomap_bdev_create(&bt.engine, &stacked_ops, MIB, &limits, NULL, &bdev),
		     -EINVAL);
	limits = tiny;
	limits.max_segments_nr = 0;
	cr_assert_eq(iomap_bdev_create(&bt.engine, &stacked_ops, MIB, &limits, NULL, &bdev),
		     -EINVAL);
	limits = tiny;
	limits.logical_block_size = 4096;
	limits.max_transfer_bytes = 8192;
	cr_assert_eq(iomap_bdev_create(&bt.engine, &stacked_ops, 4095, &limits, NULL, &bdev),
		     -EINVAL);
	cr_assert_eq(iomap_bdev_create(&bt.engine, NULL, MIB, NULL, NULL, &bdev), -EINVAL);
	struct stacked s = { .fail_at = 0 };

	cr_assert_eq(iomap_bdev_create(&bt.engine, &stacked_ops, MIB, &limits, &s, &bdev), 0);
	cr_assert_eq(bt_read(bdev, 512, buf, 4096), -EINVAL, "address");
	cr_assert_eq(bt_read(bdev, 0, buf, 512), -EINVAL, "length");
	cr_assert_eq(bt_read(bdev, 0, buf + 256, 4096), -EINVAL, "memory");
	cr_assert_eq(s.bios, 0U);
	cr_assert_eq(bt_read(bdev, 0, buf + 512, 4096), -ENOSPC, "the device's own error");
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
}

/* The pieces are submitted by the completion of the flush, and the device waits there. */
Test(blk_stack, a_device_may_wait_even_when_it_is_called_from_a_completion)
{
	unsigned char *out = bt_buffer(65536), *in = bt_buffer(65536);
	struct iomap_bdev *top;
	struct stacked s2 = { .fail_at = UINT64_MAX };
	struct setup t;

	set_up(&t, &tiny);
	t.s.wait = true;
	s2.lower = t.upper;
	cr_assert_eq(iomap_bdev_create(&t.bt.engine, &stacked_ops, 2 * MIB, NULL, &s2, &top), 0);
	t_fill(out, 65536, 0, 4);
	cr_assert_eq(bt_io(top, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, 0, out, 65536), 0);
	cr_assert_eq(bt_read(top, 0, in, 65536), 0);
	cr_assert_eq(memcmp(in, out, 65536), 0);
	cr_assert_eq(iomap_bdev_close(top), 0);
	free(out);
	free(in);
	tear_down(&t);
}

/* ---- completions that submit ---- */

struct chain {
	struct iomap_bdev *bdev;
	struct bt_latch latch;
	unsigned left;
	void *buf;
};

static void chain_end(struct iomap_bio *bio)
{
	struct chain *chain = bio->bi_private;
	struct iomap_bdev *bdev = chain->bdev;

	t_must(!bio->bi_status);
	if (--chain->left) {
		struct iomap_bio *next = bt_bio(bdev, IOMAP_REQ_OP_WRITE,
						chain->left % 64 * 4096, chain->buf, 4096);

		next->bi_private = chain;
		next->bi_end_io = chain_end;
		iomap_bio_put(bio);
		iomap_submit_bio(next);
		return;
	}
	bio->bi_private = &chain->latch;
	bt_latch_end(bio);
}

static void run_chain(struct bt *bt, struct iomap_bdev *bdev, unsigned length)
{
	struct chain chain = {
		.bdev = bdev,
		.latch = { .blk = bt->engine.blk, .left = 1 },
		.left = length,
		.buf = bt_buffer(4096),
	};
	struct iomap_bio *bio = bt_bio(bdev, IOMAP_REQ_OP_WRITE, 0, chain.buf, 4096);

	bio->bi_private = &chain;
	bio->bi_end_io = chain_end;
	iomap_submit_bio(bio);
	bt_latch_wait(&chain.latch);
	cr_assert_eq(bt_stats(bdev).writes_nr, length);
	free(chain.buf);
}

Test(blk_stack, a_long_chain_of_completions_that_submit_uses_no_stack)
{
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &bdev), 0);
	run_chain(&bt, bdev, 300000);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
}

Test(blk_stack, completions_submit_to_the_full_queue_they_came_from)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	struct bt bt;

	bt_start(&bt, 1, 1);
	bdev = bt_open(&bt, path, 0);
	run_chain(&bt, bdev, 500);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

/* The thread with the plug waits for the last bio of the chain, and runs the chain meanwhile. */
Test(blk_stack, bios_of_a_completion_pass_by_the_plug_of_the_thread_that_runs_it)
{
	char *path = t_temp(MIB);
	struct iomap_bdev *bdev;
	struct iomap_plug plug;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	iomap_start_plug(&plug);
	run_chain(&bt, bdev, 10);
	iomap_finish_plug(&plug);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	t_temp_free(path);
}

/* ---- closing while a completion is still running ---- */

/* A device that keeps the bio it is given; its bi_end_io submits it once more. */
static struct {
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	atomic_bool in_end_io, closing;
	unsigned ended;
} keep;

static void keep_bio(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	keep.bio = bio;
}

static const struct iomap_bdev_ops keep_ops = { .submit_bio = keep_bio };

static void keep_end(struct iomap_bio *bio)
{
	if (keep.ended++)
		return;
	atomic_store(&keep.in_end_io, true);
	/* whether the close has begun or not when this goes on, it must come to the same */
	while (!atomic_load(&keep.closing))
		sched_yield();
	for (int i = 0; i < 100; i++)
		sched_yield();
	t_must(iomap_bdev_bytes(bio->bi_bdev) == MIB);
	iomap_submit_bio(bio);
}

static long keep_complete(void *arg)
{
	(void)arg;
	iomap_bio_endio(keep.bio);
	return 0;
}

Test(blk_stack, a_close_waits_for_a_completion_that_is_running_and_sees_what_it_submits)
{
	struct iomap_bio *bio;
	struct t_task task;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &keep_ops, MIB, NULL, NULL, &keep.bdev), 0);
	bio = bt_bio(keep.bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);
	bio->bi_end_io = keep_end;
	iomap_submit_bio(bio);
	cr_assert_eq(iomap_bdev_close(keep.bdev), -EBUSY);
	t_start(&task, keep_complete, NULL);
	while (!atomic_load(&keep.in_end_io))
		sched_yield();
	cr_assert_eq(bt_stats(keep.bdev).inflight_nr, 0U);
	atomic_store(&keep.closing, true);
	cr_assert_eq(iomap_bdev_close(keep.bdev), -EBUSY, "it was submitted again");
	cr_assert_eq(t_join(&task), 0);
	keep_complete(NULL);
	iomap_bio_put(bio);
	cr_assert_eq(iomap_bdev_close(keep.bdev), 0);
	bt_stop(&bt);
}

/* A device whose own thread ends the bio before submit_bio has returned. */
static struct {
	struct iomap_bio *bio;
	atomic_bool queued, closing, released;
} eager;

static void eager_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	eager.bio = bio;
	atomic_store(&eager.queued, true);
	while (!atomic_load(&eager.closing))
		sched_yield();
	for (int i = 0; i < 100; i++)
		sched_yield();
	t_must(!atomic_load(&eager.released));
}

static void eager_release(struct iomap_bdev *bdev)
{
	(void)bdev;
	atomic_store(&eager.released, true);
}

static const struct iomap_bdev_ops eager_ops = {
	.submit_bio = eager_submit,
	.release = eager_release,
};

static long eager_main(void *bio)
{
	iomap_submit_bio(bio);
	return 0;
}

Test(blk_stack, a_close_waits_for_a_submission_that_is_still_in_the_device)
{
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct t_task task;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &eager_ops, MIB, NULL, NULL, &bdev), 0);
	bio = bt_bio(bdev, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);
	t_start(&task, eager_main, bio);
	while (!atomic_load(&eager.queued))
		sched_yield();
	iomap_bio_endio(bio);
	iomap_bio_put(bio);
	atomic_store(&eager.closing, true);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(t_join(&task), 0);
	bt_stop(&bt);
}

/*
 * While the end of an inline bio waits, it reaps a bio whose end submits an inline bio, which
 * is what it waits for.
 */
static struct {
	struct iomap__blk *blk;
	struct iomap_bdev *waiting, *memory;
	uint32_t word;
} inner;

static void inner_wait(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	while (!iomap__load_acquire(&inner.word))
		iomap__io_wait(inner.blk, &inner.word, 0);
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops inner_ops = { .submit_bio = inner_wait };

static void inner_set_word(struct iomap_bio *bio)
{
	iomap_bio_put(bio);
	iomap__store_release(&inner.word, 1);
	iomap__io_wake(inner.blk, &inner.word);
}

static void inner_submit_inline(struct iomap_bio *bio)
{
	struct iomap_bio *next = bt_bio(inner.memory, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);

	iomap_bio_put(bio);
	next->bi_end_io = inner_set_word;
	iomap_submit_bio(next);
}

static void inner_submit_waiting(struct iomap_bio *bio)
{
	struct iomap_bio *next = bt_bio(inner.waiting, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);

	iomap_bio_put(bio);
	next->bi_end_io = iomap_bio_put;
	iomap_submit_bio(next);
}

Test(blk_stack, inline_bios_of_a_nested_wait_are_done_in_it)
{
	char *path = t_temp(MIB);
	void *buf = bt_buffer(4096);
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct bt bt;

	bt_start(&bt, 1, 0);
	inner.blk = bt.engine.blk;
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &inner.memory), 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &inner_ops, MIB, NULL, NULL, &inner.waiting), 0);
	bio = bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096);
	bio->bi_end_io = inner_submit_inline;
	iomap_submit_bio(bio);
	bio = bt_bio(inner.memory, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);
	bio->bi_end_io = inner_submit_waiting;
	iomap_submit_bio(bio);
	cr_assert_eq(inner.word, 1U);
	cr_assert_eq(iomap_bdev_close(inner.waiting), 0);
	cr_assert_eq(iomap_bdev_close(inner.memory), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* Inside submit_bio, wait for a bio that the thread has submitted before, under the same plug. */
static struct bt_latch earlier;

static void earlier_wait(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	bt_latch_wait(&earlier);
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops earlier_ops = { .submit_bio = earlier_wait };

Test(blk_stack, a_plug_holds_nothing_back_that_a_device_waits_for)
{
	char *path = t_temp(MIB);
	void *buf = bt_buffer(4096);
	struct iomap_bdev *bdev, *waiting;
	struct iomap_plug plug;
	struct iomap_bio *bio;
	struct bt bt;

	bt_start(&bt, 1, 0);
	bdev = bt_open(&bt, path, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &earlier_ops, MIB, NULL, NULL, &waiting), 0);
	earlier = (struct bt_latch){ .blk = bt.engine.blk, .left = 1 };
	iomap_start_plug(&plug);
	bt_submit(bt_bio(bdev, IOMAP_REQ_OP_READ, 0, buf, 4096), &earlier);
	bio = bt_bio(waiting, IOMAP_REQ_OP_FLUSH, 0, NULL, 0);
	bio->bi_end_io = iomap_bio_put;
	iomap_submit_bio(bio);
	iomap_finish_plug(&plug);
	cr_assert_eq(earlier.left, 0U);
	cr_assert_eq(iomap_bdev_close(waiting), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	bt_stop(&bt);
	free(buf);
	t_temp_free(path);
}

/* A device that looks at the alignment of what it gets. */
static unsigned misaligned, pieces;

static void align_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	pieces++;
	for (uint32_t i = 0; i < bio->bi_vcnt; i++)
		misaligned += ((uintptr_t)bio->bi_io_vec[i].bv_base & 4095) != 0;
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops align_ops = { .submit_bio = align_submit };

Test(blk_stack, pieces_of_a_bio_are_as_aligned_as_the_device_wants_memory)
{
	struct iomap_bdev_limits limits = {
		.logical_block_size = 512,
		.physical_block_size = 512,
		.dma_alignment = 4096,
		.max_segments_nr = 8,
		.max_transfer_bytes = 4608,
	};
	unsigned char *buf = bt_buffer(65536);
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &align_ops, MIB, &limits, NULL, &bdev), 0);
	bio = iomap_bio_alloc(bdev, 2, IOMAP_REQ_OP_WRITE, NULL);
	t_must(bio && iomap_bio_add(bio, buf, 1024) && iomap_bio_add(bio, buf + 4096, 16384));
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	cr_assert_eq(misaligned, 0U);
	cr_assert_eq(pieces, 5U, "the first vector, and four pages");
	iomap_bio_put(bio);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	limits.max_transfer_bytes = 2048;
	cr_assert_eq(iomap_bdev_create(&bt.engine, &align_ops, MIB, &limits, NULL, &bdev), -EINVAL);
	bt_stop(&bt);
	free(buf);
}

/* Through two devices, by threads that share their counters: those before them have them all. */
#define CROWD 8
#define CROWD_IDLE IOMAP__STAT_SLOTS
#define CROWD_BIOS 20000U

static struct {
	struct iomap_bdev *lower, *upper;
	pthread_barrier_t all_inside, all_done;
	atomic_uint left;
} crowd;

static void crowd_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev;
	bio->bi_bdev = crowd.lower;
	iomap_submit_bio(bio);
}

static const struct iomap_bdev_ops crowd_ops = { .submit_bio = crowd_submit };

static void crowd_end(struct iomap_bio *bio)
{
	struct iomap_bdev *bdev = bio->bi_private;

	iomap_bio_put(bio);
	if (atomic_fetch_sub(&crowd.left, 1) == 1)
		/* whoever is told by a bi_end_io finds the device idle */
		t_must(bt_stats(bdev).inflight_nr == 0);
}

static long crowd_idle(void *arg)
{
	(void)arg;
	iomap__thread_self();
	pthread_barrier_wait(&crowd.all_inside);
	pthread_barrier_wait(&crowd.all_done);
	return 0;
}

static long crowd_main(void *arg)
{
	unsigned char *buf = bt_buffer(BT_PAGE);

	(void)arg;
	pthread_barrier_wait(&crowd.all_inside);
	t_must(iomap__thread_self()->stat_shared);
	for (unsigned i = 0; i < CROWD_BIOS; i++) {
		uint32_t opf = i % 4 ? IOMAP_REQ_OP_READ : IOMAP_REQ_OP_FLUSH;
		struct iomap_bio *bio = bt_bio(crowd.upper, opf, 0, buf, i % 4 ? BT_PAGE : 0);

		bio->bi_end_io = crowd_end;
		bio->bi_private = crowd.upper;
		iomap_submit_bio(bio);
		/* at the same time as others begin and end theirs */
		if (i % 32 == 0)
			t_must(bt_stats(crowd.lower).inflight_nr <= CROWD);
	}
	free(buf);
	pthread_barrier_wait(&crowd.all_done);
	return 0;
}

Test(blk_stack, bios_of_more_threads_than_have_counters_are_counted)
{
	static struct t_task task[CROWD + CROWD_IDLE];
	struct bt bt;

	bt_start(&bt, 1, 0);
	cr_assert_eq(iomap_bdev_open_memory(&bt.engine, MIB, &crowd.lower), 0);
	cr_assert_eq(iomap_bdev_create(&bt.engine, &crowd_ops, MIB, NULL, NULL, &crowd.upper), 0);
	atomic_store(&crowd.left, CROWD * CROWD_BIOS);
	pthread_barrier_init(&crowd.all_inside, NULL, CROWD + CROWD_IDLE);
	pthread_barrier_init(&crowd.all_done, NULL, CROWD + CROWD_IDLE);
	for (int i = 0; i < CROWD + CROWD_IDLE; i++)
		t_start(&task[i], i < CROWD ? crowd_main : crowd_idle, NULL);
	for (int i = 0; i < CROWD + CROWD_IDLE; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	pthread_barrier_destroy(&crowd.all_inside);
	pthread_barrier_destroy(&crowd.all_done);
	cr_assert_eq(bt_stats(crowd.upper).reads_nr, CROWD * CROWD_BIOS / 4 * 3);
	cr_assert_eq(bt_stats(crowd.lower).flushes_nr, CROWD * CROWD_BIOS / 4);
	cr_assert_eq(bt_stats(crowd.lower).inflight_nr, 0U);
	cr_assert_eq(iomap_bdev_close(crowd.upper), 0);
	cr_assert_eq(iomap_bdev_close(crowd.lower), 0);
	bt_stop(&bt);
}
