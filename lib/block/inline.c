/* SPDX-License-Identifier: MIT */
/*
 * inline.c - I/O by the thread that submits it: preadv2, pwritev2, fdatasync.
 *
 * For files that refuse not to block (tmpfs, for example): a ring would hand each of their
 * requests to a kernel worker.
 *
 * A bi_end_io may submit the next bio, whose bi_end_io submits another: so that the stack
 * does not grow with each, a bio that is submitted while this thread is inside another one
 * waits in the thread's list until that one has ended, or until the thread waits.
 */
#include "block/internal.h"

static void inline_do(struct iomap_bio *bio)
{
	uint64_t now_ns = 0;

	iomap__step_init(bio);
	iomap__measure_start(iomap__thread_self(), bio);
	while (!iomap__step_done(bio, iomap__step_sync(bio)))
		;
	iomap__measure_end(bio->bi_bdev, bio, &now_ns);
	iomap_bio_endio(bio);
}

static struct iomap_bio *inline_pop(struct iomap__thread *self)
{
	struct iomap_bio *bio = self->inline_first;

	if (bio) {
		self->inline_first = bio->bi_next;
		if (!self->inline_first)
			self->inline_last = NULL;
		bio->bi_next = NULL;
	}
	return bio;
}

static void inline_add(struct iomap__thread *self, struct iomap_bio *bio)
{
	struct iomap_bio *last = self->inline_last;

	bio->bi_next = NULL;
	if (last)
		last->bi_next = bio;
	else
		self->inline_first = bio;
	self->inline_last = bio;
}

static void inline_one(const struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	if (bdev->memory)
		iomap__memory_do(bio);
	else
		inline_do(bio);
}

static void inline_run(struct iomap__thread *self)
{
	struct iomap_bio *bio;

	while ((bio = inline_pop(self))) {
		if (iomap__unlikely(iomap__bdev_is_gone(bio->bi_bdev))) {
			bio->bi_status = -ENODEV;
			iomap_bio_endio(bio);
		} else {
			inline_one(bio->bi_bdev, bio);
		}
	}
}

void iomap__inline_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct iomap__thread *self = iomap__thread_self();

	if (self->inline_busy) {
		inline_add(self, bio);
		return;
	}
	self->inline_busy = true;
	inline_one(bdev, bio);
	if (self->inline_first)
		inline_run(self);
	self->inline_busy = false;
}

void iomap__inline_flush(struct iomap__thread *self)
{
	if (self->inline_first)
		inline_run(self);
}
