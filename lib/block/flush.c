/* SPDX-License-Identifier: MIT */
/*
 * flush.c - flushing a device: when it may be left out, and who shares one.
 *
 * The rule.  `written` counts completed writes that may be volatile; it moves before the
 * write's bi_end_io.  A flush remembers `written` when it starts; when it succeeds all those
 * writes are durable, and it raises `flushed` to that number.  A caller needs what `written`
 * was when it came; it is left alone if `flushed` has reached that.  A flush that fails raises
 * nothing.
 *
 * Sharing.  A device has at most one of these flushes under way.  Who comes meanwhile
 *
 *	shares it	if `written` has not moved between its start and the caller's coming:
 *			all of the caller's writes had ended before it started (`now`);
 *	waits for the	otherwise (`next`).  All who do so share that one, which is started
 *	next one	when the one under way has ended.
 *
 * So nobody waits for more than what is left of one flush, and another one.  Each sharer gets
 * the flush's error.
 *
 *	idle --- a caller comes; or one of `next` is awake: takes all of `next` along --> busy
 *	busy --- the end: `now` is told, one of `next` is woken to start the next one --> idle
 *
 * The one that is woken is not waited for: whoever comes first starts the flush, for all of
 * `next`.  So it does not matter if it is kept by a callback that it runs, and that may itself
 * ask for a flush of the device.  If its deadline passes it wakes another one in its place.
 * The end does not start the next flush itself: it runs in a completion, and a device may do a
 * flush in its submit_bio, in which the completing thread would be held up by others' flushes.
 *
 * The bio is the device's own, so that a flush needs no memory and goes on when nobody waits
 * for it any more.  Callers lie on their own stacks; the lists, and the callers on them, are
 * under `lock`, and the end tells each of them by the last store to it.
 *
 * Lock: flush.lock (IOMAP__RANK_BDEV), taken in completions too; held over no call.
 */
#include "block/internal.h"

/* What one who waits sleeps on. */
enum { FLUSH_WAITS, FLUSH_MAY_START, FLUSH_ENDED };

void iomap__bdev_flushed(struct iomap_bdev *bdev, uint64_t generation)
{
	uint64_t old = atomic_load_explicit(&bdev->flushed, memory_order_relaxed);

	/* release: pairs with the acquire load of flush_is_needed() */
	while (old < generation &&
	       !atomic_compare_exchange_weak_explicit(&bdev->flushed, &old, generation,
						      memory_order_release, memory_order_relaxed))
		;
}

static bool flush_is_needed(const struct iomap_bdev *bdev, uint64_t generation)
{
	return atomic_load_explicit(&bdev->flushed, memory_order_acquire) < generation;
}

static void flush_lock(struct iomap_bdev *bdev)
{
	iomap__word_lock(&bdev->flush.lock, IOMAP__RANK_BDEV);
}

static void flush_unlock(struct iomap_bdev *bdev)
{
	iomap__word_unlock(&bdev->flush.lock);
}

/* Lock held, nothing under way: one of `next`, if there is any, which has to be woken. */
static const uint32_t *flush_choose(struct iomap_bdev *bdev)
{
	/* the one that came last is the likeliest not to sleep yet */
	struct iomap__flush_wait *one = bdev->flush.next;

	if (!one)
		return NULL;
	iomap__store(&one->state, FLUSH_MAY_START);
	return &one->state;
}

/* The flush that is under way has ended. */
static void flush_ended(struct iomap_bdev *bdev, int error)
{
	struct iomap__blk *blk = bdev->engine->blk;
	struct iomap__flush_wait *one, *next;
	const uint32_t *word;

	flush_lock(bdev);
	one = bdev->flush.now;
	bdev->flush.now = NULL;
	bdev->flush.busy = false;
	word = flush_choose(bdev);
	flush_unlock(bdev);
	/* first, so that the device has something to do; perhaps a stack that is gone: only a key */
	if (word)
		iomap__io_wake(blk, word);
	for (; one; one = next) {
		next = one->next;
		word = &one->state;
		one->error = error;
		/* release: pairs with flush_wait(); behind it that one may be gone */
		iomap__store_release(&one->state, FLUSH_ENDED);
		iomap__io_wake(blk, word);
	}
}

static void flush_end_io(struct iomap_bio *bio)
{
	/* not bi_bdev, which may be one below it by now */
	struct iomap_bdev *bdev = iomap__container_of(bio, struct iomap_bdev, flush.bio);

	if (!bio->bi_status)
		iomap__bdev_flushed(bdev, bdev->flush.generation);
	flush_ended(bdev, bio->bi_status);
}

/* Lock held, which it gives back; nothing under way.  A flush for all of `next`. */
static void flush_start(struct iomap_bdev *bdev)
{
	struct iomap_bio *bio = &bdev->flush.bio;
	struct iomap__flush_wait *one;
	uint64_t generation;

	bdev->flush.busy = true;
	bdev->flush.now = bdev->flush.next;
	bdev->flush.next = NULL;
	/* so under the lock MAY_START is said to somebody in `next`, while nothing is under way */
	for (one = bdev->flush.now; one; one = one->next)
		iomap__store(&one->state, FLUSH_WAITS);
	/* acquire: pairs with the end of a write; what it counts has ended before the flush */
	generation = atomic_load_explicit(&bdev->written, memory_order_acquire);
	bdev->flush.generation = generation;
	flush_unlock(bdev);
	/* the flush before a write, or one that was asked for as a bio, may have come first */
	if (!flush_is_needed(bdev, generation)) {
		flush_ended(bdev, 0);
		return;
	}
	memset(bio, 0, sizeof(*bio));
	bio->bi_bdev = bdev;
	bio->bi_opf = IOMAP_REQ_OP_FLUSH | IOMAP_REQ_SYNC;
	bio->bi_end_io = flush_end_io;
	iomap__submit_before_wait(bio);
}

/* It may start what it waits for, unless somebody else has. */
static void flush_may_start(struct iomap_bdev *bdev, struct iomap__flush_wait *self)
{
	flush_lock(bdev);
	/* it may have been taken along meanwhile, and told of the end: that must not be lost */
	if (iomap__load(&self->state) != FLUSH_MAY_START)
		flush_unlock(bdev);
	else
		flush_start(bdev);
}

static void flush_join(struct iomap_bdev *bdev, struct iomap__flush_wait *self, uint64_t generation)
{
	struct iomap__flush_wait **list = &bdev->flush.next;

	flush_lock(bdev);
	if (bdev->flush.busy && bdev->flush.generation >= generation)
		list = &bdev->flush.now;
	self->next = *list;
	*list = self;
	if (bdev->flush.busy)
		flush_unlock(bdev);
	else
		flush_start(bdev);
}

/* Lock held. */
static bool flush_unlink(struct iomap__flush_wait **list, const struct iomap__flush_wait *self)
{
	for (; *list; list = &(*list)->next)
		if (*list == self) {
			*list = self->next;
			return true;
		}
	return false;
}

/* Its deadline has passed.  False: somebody is about to tell it of the end. */
static bool flush_leave(struct iomap_bdev *bdev, struct iomap__flush_wait *self)
{
	struct iomap__blk *blk = bdev->engine->blk;
	const uint32_t *word = NULL;
	bool was_there;

	flush_lock(bdev);
	was_there = flush_unlink(&bdev->flush.now, self) || flush_unlink(&bdev->flush.next, self);
	/* it may be the one that was to start it */
	if (!bdev->flush.busy)
		word = flush_choose(bdev);
	flush_unlock(bdev);
	if (word)
		iomap__io_wake(blk, word);
	return was_there;
}

static int flush_wait(struct iomap_bdev *bdev, struct iomap__flush_wait *self, uint64_t deadline_ns)
{
	struct iomap__blk *blk = bdev->engine->blk;
	uint32_t state;

	for (;;) {
		/* acquire: pairs with flush_ended() */
		state = iomap__load_acquire(&self->state);
		if (state == FLUSH_ENDED)
			return self->error;
		if (state == FLUSH_MAY_START) {
			flush_may_start(bdev, self);
			continue;
		}
		if (iomap__io_wait_until(blk, &self->state, FLUSH_WAITS, deadline_ns))
			continue;
		if (flush_leave(bdev, self))
			return -ETIMEDOUT;
		deadline_ns = 0;
	}
}

int iomap__bdev_flush_by(struct iomap_bdev *bdev, uint64_t deadline_ns)
{
	struct iomap__flush_wait self = { .state = FLUSH_WAITS };
	struct iomap__slow slow = { .what = "flush" };
	uint64_t generation;
	int error;

	iomap__bdev_check(bdev);
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	/* also where there is nothing left to flush */
	if (iomap__bdev_is_gone(bdev))
		return -ENODEV;
	/* acquire: what the caller knows to have been written has been counted */
	generation = atomic_load_explicit(&bdev->written, memory_order_acquire);
	if (!flush_is_needed(bdev, generation))
		return 0;
	flush_join(bdev, &self, generation);
	if (iomap__load_acquire(&self.state) == FLUSH_ENDED)
		return self.error;
	slow.device = bdev->name;
	iomap__slow_wait(&slow);
	error = flush_wait(bdev, &self, deadline_ns);
	iomap__slow_wait_end(&slow);
	return error;
}

int iomap_bdev_flush(struct iomap_bdev *bdev)
{
	return iomap__bdev_flush_by(bdev, 0);
}
