/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * blk_step.c - what becomes of each result that a backend can deliver.
 */
#include "blktest.h"

#define VECS 5U

struct step {
	struct bt bt;
	char *path;
	struct iomap_bdev *bdev;
	unsigned char *mem;
	struct iomap_bio *bio;
};

/* A request of five vectors of a page each that do not touch. */
static void set_up(struct step *s, uint32_t opf)
{
	bt_start(&s->bt, 1, 0);
	s->path = t_temp(1024 * 1024);
	s->bdev = bt_open(&s->bt, s->path, 0);
	s->mem = bt_buffer(2 * VECS * BT_PAGE);
	s->bio = iomap_bio_alloc(s->bdev, VECS, opf, NULL);
	s->bio->bi_iter.bi_sector = 80;
	for (unsigned i = 0; i < VECS; i++)
		cr_assert(iomap_bio_add(s->bio, s->mem + 2 * i * BT_PAGE, BT_PAGE));
	iomap__step_init(s->bio);
}

static void tear_down(struct step *s)
{
	iomap_bio_put(s->bio);
	cr_assert_eq(iomap_bdev_close(s->bdev), 0);
	bt_stop(&s->bt);
	free(s->mem);
	t_temp_free(s->path);
}

/* What the backend is asked for next. */
static void expect(struct step *s, uint64_t pos, unsigned nr, unsigned char *base, size_t len)
{
	struct iovec partial, *vecs;
	uint64_t at;
	unsigned vcnt;

	vecs = iomap__step_vecs(s->bio, &partial, &vcnt, &at);
	cr_assert_eq(at, pos);
	cr_assert_eq(vcnt, nr);
	cr_assert_eq(vecs[0].iov_base, base);
	cr_assert_eq(vecs[0].iov_len, len);
}

Test(blk_step, a_short_transfer_goes_on_where_it_stopped)
{
	struct step s;

	set_up(&s, IOMAP_REQ_OP_READ);
	expect(&s, 40960, 5, s.mem, BT_PAGE);
	cr_assert(!iomap__step_done(s.bio, 512));
	expect(&s, 40960 + 512, 1, s.mem + 512, BT_PAGE - 512);
	cr_assert(!iomap__step_done(s.bio, 1024));
	expect(&s, 40960 + 1536, 1, s.mem + 1536, BT_PAGE - 1536);
	cr_assert(!iomap__step_done(s.bio, BT_PAGE - 1536));
	expect(&s, 40960 + 4096, 4, s.mem + 2 * BT_PAGE, BT_PAGE);
	cr_assert(!iomap__step_done(s.bio, 2 * BT_PAGE + 2048));
	expect(&s, 40960 + 3 * 4096 + 2048, 1, s.mem + 6 * BT_PAGE + 2048, 2048);
	cr_assert(!iomap__step_done(s.bio, 2048));
	expect(&s, 40960 + 4 * 4096, 1, s.mem + 8 * BT_PAGE, BT_PAGE);
	cr_assert(iomap__step_done(s.bio, BT_PAGE));
	cr_assert_eq(s.bio->bi_status, 0);
	tear_down(&s);
}

Test(blk_step, interrupted_and_cancelled_requests_are_asked_for_again)
{
	int64_t again[] = { -EINTR, -EAGAIN, -ECANCELED };
	struct step s;

	set_up(&s, IOMAP_REQ_OP_WRITE);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(!iomap__step_done(s.bio, again[i]));
		expect(&s, 40960, 5, s.mem, BT_PAGE);
	}
	cr_assert(iomap__step_done(s.bio, VECS * BT_PAGE));
	cr_assert_eq(s.bio->bi_status, 0);
	tear_down(&s);
}

Test(blk_step, but_not_for_ever)
{
	struct step s;
	unsigned tries = 0;

	set_up(&s, IOMAP_REQ_OP_WRITE);
	while (!iomap__step_done(s.bio, -EAGAIN))
		cr_assert_lt(++tries, 100000U);
	cr_assert_gt(tries, 100U);
	cr_assert_eq(s.bio->bi_status, -EAGAIN);
	tear_down(&s);
}

Test(blk_step, errors_and_impossible_results_end_it)
{
	int64_t results[] = { -EIO, -ENOSPC, -ENODEV, 0, VECS * BT_PAGE + 512, 100 };
	int status[] = { -EIO, -ENOSPC, -ENODEV, -EIO, -EIO, -EIO };

	for (unsigned i = 0; i < 6; i++) {
		struct step s;

		set_up(&s, IOMAP_REQ_OP_WRITE);
		cr_assert(!iomap__step_done(s.bio, BT_PAGE));
		cr_assert(iomap__step_done(s.bio, results[i]), "result %lld",
			  (long long)results[i]);
		cr_assert_eq(s.bio->bi_status, status[i], "result %lld", (long long)results[i]);
		cr_assert_eq(t_log_count(&s.bt.log, IOMAP_LOG_ERROR, "write of 20480 bytes"), 1U);
		tear_down(&s);
	}
}

Test(blk_step, a_flush_that_fails_keeps_the_data_from_being_written)
{
	struct step s;

	set_up(&s, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH);
	cr_assert_eq(iomap__req(s.bio)->step, IOMAP__STEP_FLUSH);
	cr_assert(!iomap__step_done(s.bio, -EINTR));
	cr_assert_eq(iomap__req(s.bio)->step, IOMAP__STEP_FLUSH);
	cr_assert(iomap__step_done(s.bio, -EIO));
	cr_assert_eq(s.bio->bi_status, -EIO);
	cr_assert_eq(atomic_load(&s.bdev->flushed), 0U);

	iomap__step_init(s.bio);
	cr_assert(!iomap__step_done(s.bio, 0));
	cr_assert_eq(iomap__req(s.bio)->step, IOMAP__STEP_DATA);
	expect(&s, 40960, 5, s.mem, BT_PAGE);
	cr_assert(iomap__step_done(s.bio, VECS * BT_PAGE));
	cr_assert_eq(s.bio->bi_status, 0);
	tear_down(&s);
}
