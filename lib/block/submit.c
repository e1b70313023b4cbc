/* SPDX-License-Identifier: MIT */
/*
 * submit.c - from iomap_submit_bio() to a device: checks, accounting, splitting.
 *
 * What is wrong with a bio comes back in bi_status:
 *   -EINVAL  address, length or memory not aligned to the device's limits, vectors that do
 *            not add up to bi_size, an unknown operation or flag, a flush with data, an atomic
 *            write outside the device's limits for it
 *   -EIO     (partly) outside the device
 *   -ENODEV  the device is gone
 *   -EROFS   a write to a device that was opened read-only
 *   -EOPNOTSUPP  a discard, zeroing or atomic write of a device that has none
 *   -EAGAIN  NOWAIT, and it would have to wait
 *   -ENOMEM  no memory for the pieces of a bio that is past the device's limits
 *
 * Splitting.  A bio longer than a single transfer of its device, or of more segments, goes
 * out as children with the parent's flags.  NOWAIT and ATOMIC bios are not split.  A discard or
 * zeroing that is too long goes out a few children at a time, which end, where possible, at
 * multiples of the granularity.  `remaining` of the parent counts children that have not ended,
 * plus one for the splitter; who takes it to zero ends the parent.  The flush of a PREFLUSH
 * parent is a child of its own, and the others start when it has ended.
 *
 * Stacking.  A device may pass a bio on by setting bi_bdev and submitting it again.  Each
 * device counts the bio as in flight until it ends; the outer ones are remembered in a list.
 */
#include "block/internal.h"

#define SUBMIT_FLAGS                                                                              \
	(IOMAP_REQ_OP_MASK | IOMAP_REQ_SYNC | IOMAP_REQ_META | IOMAP_REQ_FUA |                    \
	 IOMAP_REQ_PREFLUSH | IOMAP_REQ_RAHEAD | IOMAP_REQ_BACKGROUND | IOMAP_REQ_NOWAIT |        \
	 IOMAP_REQ_POLLED | IOMAP_REQ_ATOMIC)
#define SUBMIT_WRITE_FLAGS (IOMAP_REQ_FUA | IOMAP_REQ_PREFLUSH | IOMAP_REQ_ATOMIC)
#define SPLIT_RANGES_MAX 8U /* pieces of a discard or zeroing that are out at a time */

/*
 * What most bios are, by as few compares as it takes: a read or write of one segment that the
 * device takes as it is.  Whatever is not plain is looked at piece by piece.
 */
static bool submit_is_plain(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	uint64_t size = bio->bi_iter.bi_size, sector = bio->bi_iter.bi_sector;
	uint64_t bytes = iomap__bdev_size(bdev);
	const struct iomap_bio_vec *vec = bio->bi_io_vec;

	/* the first compare of the sector is what the shifts after it need not to overflow */
	return bio->bi_vcnt == 1 && vec->bv_len == size && size - 1 < bdev->plain_bytes_max &&
	       !(bio->bi_opf & ~bdev->plain_opf) && sector <= bytes >> IOMAP_SECTOR_SHIFT &&
	       size <= bytes - (sector << IOMAP_SECTOR_SHIFT) &&
	       !(((sector << IOMAP_SECTOR_SHIFT) | size) & bdev->block_mask) &&
	       !((uintptr_t)vec->bv_base & bdev->memory_mask) && !iomap__bdev_is_gone(bdev);
}

static int submit_check_vecs(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	uint64_t block_mask = bdev->limits.logical_block_size - 1U;
	uint64_t memory_mask = bdev->limits.dma_alignment - 1U;
	uint64_t bytes = 0;
	uint32_t i;

	for (i = 0; i < bio->bi_vcnt; i++) {
		const struct iomap_bio_vec *vec = &bio->bi_io_vec[i];

		if (((uintptr_t)vec->bv_base & memory_mask) || (vec->bv_len & block_mask) ||
		    !vec->bv_len)
			return -EINVAL;
		if (vec->bv_len > bio->bi_iter.bi_size - bytes)
			return -EINVAL;
		bytes += vec->bv_len;
	}
	return bytes == bio->bi_iter.bi_size ? 0 : -EINVAL;
}

static int submit_check_atomic(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	const struct iomap_bdev_limits *limits = &bdev->limits;
	uint64_t size = bio->bi_iter.bi_size;

	if (!limits->atomic_write_max_bytes)
		return -EOPNOTSUPP;
	if (!iomap__is_pow2(size) || size < limits->atomic_write_min_bytes ||
	    size > limits->atomic_write_max_bytes ||
	    bio->bi_vcnt > limits->atomic_write_segments_nr ||
	    (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT) & (size - 1))
		return -EINVAL;
	return 0;
}

static int submit_check_op(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	unsigned op = iomap__bio_op(bio);

	if (bio->bi_opf & ~SUBMIT_FLAGS ||
	    (op != IOMAP_REQ_OP_WRITE && bio->bi_opf & SUBMIT_WRITE_FLAGS))
		return -EINVAL;
	switch (op) {
	case IOMAP_REQ_OP_READ:
	case IOMAP_REQ_OP_FLUSH:
		return 0;
	case IOMAP_REQ_OP_WRITE:
		return bdev->readonly ? -EROFS : 0;
	case IOMAP_REQ_OP_DISCARD:
		return bdev->readonly ? -EROFS : bdev->limits.max_discard_bytes ? 0 : -EOPNOTSUPP;
	case IOMAP_REQ_OP_WRITE_ZEROES:
		return bdev->readonly			     ? -EROFS :
		       bdev->limits.max_write_zeroes_bytes ? 0 :
							       -EOPNOTSUPP;
	default:
		return -EINVAL;
	}
}

/* A device that may make the submitter, or the one who does the I/O, wait. */
static bool submit_would_wait(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	if (!(bdev->limits.flags & IOMAP_BDEV_HAS_NOWAIT))
		return true;
	/* there is no fdatasync() nor fallocate() that does not wait */
	return bdev->fd >= 0 && (!iomap__op_has_data(iomap__bio_op(bio)) ||
				 bio->bi_opf & IOMAP_REQ_PREFLUSH);
}

static int submit_check(const struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	uint64_t size = bio->bi_iter.bi_size, sector = bio->bi_iter.bi_sector;
	uint64_t bytes = iomap__bdev_size(bdev);
	unsigned op = iomap__bio_op(bio);
	int error;

	if (iomap__bdev_is_gone(bdev))
		return -ENODEV;
	error = submit_check_op(bdev, bio);
	if (error)
		return error;
	if (bio->bi_opf & IOMAP_REQ_NOWAIT && submit_would_wait(bdev, bio))
		return -EAGAIN;
	if (op == IOMAP_REQ_OP_FLUSH)
		return size || bio->bi_vcnt ? -EINVAL : 0;
	if (sector > UINT64_MAX >> IOMAP_SECTOR_SHIFT ||
	    sector << IOMAP_SECTOR_SHIFT > bytes || size > bytes - (sector << IOMAP_SECTOR_SHIFT))
		return -EIO;
	if (((sector << IOMAP_SECTOR_SHIFT) | size) & (bdev->limits.logical_block_size - 1U))
		return -EINVAL;
	if (!iomap__op_has_data(op))
		return bio->bi_vcnt ? -EINVAL : 0;
	error = submit_check_vecs(bdev, bio);
	if (!error && bio->bi_opf & IOMAP_REQ_ATOMIC)
		error = submit_check_atomic(bdev, bio);
	return error;
}

static void submit_count(struct iomap_bdev *bdev, struct iomap__req *req)
{
	req->bdev = bdev;
	iomap__stat_add(&bdev->life, iomap__thread_self(), IOMAP__BLIFE_BEGUN, 1);
}

/* Count the bio as the device's own until it ends. */
static int submit_account(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct iomap__req *req = iomap__req(bio);

	if (req->bdev && !req->outermost) {
		req->outermost = req->bdev;
	} else if (req->bdev) {
		struct iomap__stacked *stacked =
			iomap__pool_get(&bdev->engine->blk->stacked_pool);

		if (!stacked)
			return bio->bi_opf & IOMAP_REQ_NOWAIT ? -EAGAIN : -ENOMEM;
		stacked->bdev = req->bdev;
		stacked->next = req->stacked;
		req->stacked = stacked;
	}
	submit_count(bdev, req);
	return 0;
}

/*
 * POLLED is the promise of who submitted the bio, in this very thread: not of a device that
 * passes it on, whenever and in whatever thread it does.
 */
static void submit_to_queue(struct iomap_bio *bio, struct iomap__batch *batch)
{
	struct iomap__queue *own = NULL;

	if (iomap__unlikely(bio->bi_opf & IOMAP_REQ_POLLED) && !iomap__req(bio)->outermost)
		own = iomap__private_for(bio->bi_bdev->engine->blk);
	if (own)
		batch->own = own;
	iomap__bio_list_add(own ? &batch->polled : &batch->bios, bio);
}

/* To a device that takes it as it is. */
static void submit_to_device(struct iomap_bio *bio, struct iomap__batch *batch)
{
	struct iomap_bdev *bdev = bio->bi_bdev;

	/* it may have been in a plug, or waited for the flush before it */
	if (iomap__unlikely(iomap__bdev_is_gone(bdev))) {
		bio->bi_status = -ENODEV;
		iomap_bio_endio(bio);
		return;
	}
	/* what a device of the application fails is its own affair */
	if (!bdev->ops && iomap__fails(&bdev->engine->env, IOMAP_FAIL_IO)) {
		bio->bi_status = -EIO;
		iomap_bio_endio(bio);
	} else if (!bdev->kind->queued) {
		bdev->kind->submit(bdev, bio);
	} else if (iomap__op_has_data(iomap__bio_op(bio)) || !iomap__step_is_inline(bio)) {
		submit_to_queue(bio, batch);
	} else {
		iomap__inline_submit(bdev, bio);
	}
}

/* ---- splitting ---- */

static void split_put_parent(struct iomap_bio *parent)
{
	if (iomap__fetch_sub(&iomap__req(parent)->remaining, 1) == 1)
		iomap_bio_endio(parent);
}

static void split_set_error(struct iomap_bio *parent, int error)
{
	int32_t none = 0;

	/* The first error wins.  Relaxed: `remaining` orders it before the parent's end. */
	__atomic_compare_exchange_n(&parent->bi_status, &none, error, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

static void split_child_end(struct iomap_bio *child)
{
	struct iomap_bio *parent = child->bi_private;

	if (child->bi_status)
		split_set_error(parent, child->bi_status);
	iomap_bio_put(child);
	split_put_parent(parent);
}

static struct iomap_bio *split_child(struct iomap_bio *parent, unsigned vecs, uint32_t opf)
{
	struct iomap_bdev *bdev = parent->bi_bdev;
	struct iomap_bio *child;

	/* some are started by whoever has completed the flush before them */
	child = iomap_bio_alloc(bdev, vecs, opf & ~IOMAP_REQ_POLLED, NULL);

	if (!child)
		return NULL;
	child->bi_private = parent;
	child->bi_end_io = split_child_end;
	return child;
}

/* Fill @child with what the limits allow, from byte @at of vector @vec on. */
static void split_fill(struct iomap_bio *child, const struct iomap_bio *parent, uint32_t *vec,
		       uint64_t *at)
{
	const struct iomap_bdev_limits *limits = &parent->bi_bdev->limits;
	uint64_t left = iomap__round_down(limits->max_transfer_bytes, limits->logical_block_size);
	uint32_t max_vecs = iomap__min(limits->max_segments_nr, child->bi_max_vecs);

	while (*vec < parent->bi_vcnt && left && child->bi_vcnt < max_vecs) {
		const struct iomap_bio_vec *from = &parent->bi_io_vec[*vec];
		uint64_t bytes = iomap__min(from->bv_len - *at, left);

		/* the rest of the vector begins the next child: it has to be aligned as well */
		if (bytes < from->bv_len - *at)
			bytes = iomap__round_down(bytes, limits->dma_alignment);
		if (!bytes)
			break;
		child->bi_io_vec[child->bi_vcnt++] = (struct iomap_bio_vec){
			.bv_base = (char *)from->bv_base + *at,
			.bv_len = bytes,
		};
		child->bi_iter.bi_size += bytes;
		left -= bytes;
		*at += bytes;
		if (*at == from->bv_len) {
			++*vec;
			*at = 0;
		}
	}
}

/* The splitter holds one of the parent's `remaining` and gives it up here. */
static void split_data(struct iomap_bio *parent, struct iomap__batch *batch)
{
	uint64_t sector = parent->bi_iter.bi_sector, at = 0;
	struct iomap_bdev *bdev = parent->bi_bdev;
	uint32_t vec = 0, opf = parent->bi_opf & ~IOMAP_REQ_PREFLUSH;

	while (vec < parent->bi_vcnt) {
		unsigned vecs = iomap__min(parent->bi_vcnt - vec, bdev->limits.max_segments_nr);
		struct iomap_bio *child = split_child(parent, vecs, opf);

		if (!child) {
			split_set_error(parent, -ENOMEM);
			break;
		}
		child->bi_iter.bi_sector = sector;
		split_fill(child, parent, &vec, &at);
		sector = iomap_bio_end_sector(child);
		iomap__fetch_add(&iomap__req(parent)->remaining, 1);
		submit_to_device(child, batch);
	}
	split_put_parent(parent);
}

/* The longest bio that its device takes as it is. */
static uint64_t split_max_bytes(const struct iomap_bio *bio)
{
	const struct iomap_bdev_limits *limits = &bio->bi_bdev->limits;

	switch (iomap__bio_op(bio)) {
	case IOMAP_REQ_OP_DISCARD:
		return limits->max_discard_bytes;
	case IOMAP_REQ_OP_WRITE_ZEROES:
		return limits->max_write_zeroes_bytes;
	default:
		return limits->max_transfer_bytes;
	}
}

/*
 * An operation without memory may be of millions of pieces: SPLIT_RANGES_MAX are out at a
 * time, and the end of one is the beginning of the next.  `vec` of the parent's request counts
 * places that are free.  Who adds to none fills them, and those that others add meanwhile: so
 * there is one filler at a time, to whom `done`, where the next piece begins, belongs, and an
 * end inside its submission does not recurse.  After an error no more are begun.
 */

static uint64_t range_bytes(const struct iomap_bio *parent, uint64_t done)
{
	const struct iomap_bdev_limits *limits = &parent->bi_bdev->limits;
	uint64_t unit = iomap__max(limits->discard_granularity, limits->logical_block_size);
	uint64_t max = iomap__round_down(split_max_bytes(parent), limits->logical_block_size);
	uint64_t addr = (parent->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT) + done, stop;

	if (max >= parent->bi_iter.bi_size - done)
		return parent->bi_iter.bi_size - done;
	stop = iomap__round_down(addr + max, unit);
	return stop > addr ? stop - addr : max;
}

static void range_child_end(struct iomap_bio *child);

static void range_next(struct iomap_bio *parent, struct iomap__batch *batch)
{
	struct iomap__req *req = iomap__req(parent);
	struct iomap_bio *child;

	/* relaxed: one more after an error is no harm */
	if (req->done == parent->bi_iter.bi_size || iomap__load(&parent->bi_status))
		return;
	child = split_child(parent, 0, parent->bi_opf);
	if (!child) {
		split_set_error(parent, -ENOMEM);
		return;
	}
	child->bi_end_io = range_child_end;
	child->bi_iter.bi_sector = parent->bi_iter.bi_sector + (req->done >> IOMAP_SECTOR_SHIFT);
	child->bi_iter.bi_size = range_bytes(parent, req->done);
	req->done += child->bi_iter.bi_size;
	iomap__fetch_add(&req->remaining, 1);
	submit_to_device(child, batch);
}

/* @places have come free; the caller holds one of the parent's `remaining`. */
static void range_fill(struct iomap_bio *parent, uint32_t places, struct iomap__batch *batch)
{
	struct iomap__req *req = iomap__req(parent);
	uint32_t i;

	if (iomap__fetch_add(&req->vec, places))
		return;
	do {
		for (i = 0; i < places; i++)
			range_next(parent, batch);
		places = iomap__fetch_sub(&req->vec, places) - places;
	} while (places);
}

static void range_child_end(struct iomap_bio *child)
{
	struct iomap_bio *parent = child->bi_private;
	struct iomap__blk *blk = parent->bi_bdev->engine->blk;
	struct iomap__batch batch = { .bios = { 0 } };

	if (child->bi_status)
		split_set_error(parent, child->bi_status);
	iomap_bio_put(child);
	range_fill(parent, 1, &batch);
	iomap__batch_send(blk, &batch, false);
	split_put_parent(parent);
}

/* As split_data(), of an operation without memory. */
static void split_range(struct iomap_bio *parent, struct iomap__batch *batch)
{
	struct iomap__req *req = iomap__req(parent);

	req->vec = 0;
	req->done = 0;
	range_fill(parent, SPLIT_RANGES_MAX, batch);
	split_put_parent(parent);
}

/* The flush before the data has ended. */
static void split_flush_end(struct iomap_bio *child)
{
	struct iomap_bio *parent = child->bi_private;
	struct iomap__blk *blk = parent->bi_bdev->engine->blk;
	struct iomap__batch batch = { .bios = { 0 } };
	int error = child->bi_status;

	iomap_bio_put(child);
	if (error) {
		split_set_error(parent, error);
		split_put_parent(parent);
		return;
	}
	split_data(parent, &batch);
	iomap__batch_send(blk, &batch, false);
}

static void split_start(struct iomap_bio *parent, struct iomap__batch *batch)
{
	struct iomap_bio *flush;

	iomap__req(parent)->remaining = 1;
	if (!iomap__op_has_data(iomap__bio_op(parent))) {
		split_range(parent, batch);
		return;
	}
	if (!(parent->bi_opf & IOMAP_REQ_PREFLUSH)) {
		split_data(parent, batch);
		return;
	}
	flush = split_child(parent, 0, IOMAP_REQ_OP_FLUSH);
	if (!flush) {
		split_set_error(parent, -ENOMEM);
		split_put_parent(parent);
		return;
	}
	flush->bi_end_io = split_flush_end;
	submit_to_device(flush, batch);
}

/* ---- the way down ---- */

void iomap__dispatch(struct iomap_bio *bio, struct iomap__batch *batch)
{
	struct iomap_bdev *bdev = bio->bi_bdev;

	/* A write of nothing is a flush if it asks for one, else nothing at all. */
	if (iomap__bio_op(bio) != IOMAP_REQ_OP_FLUSH && !bio->bi_iter.bi_size &&
	    !(bio->bi_opf & IOMAP_REQ_PREFLUSH)) {
		iomap_bio_endio(bio);
	} else if (bio->bi_vcnt <= bdev->limits.max_segments_nr &&
		   bio->bi_iter.bi_size <= split_max_bytes(bio)) {
		submit_to_device(bio, batch);
	} else if (bio->bi_opf & IOMAP_REQ_NOWAIT) {
		/* one part could have been done and another one not */
		bio->bi_status = -EAGAIN;
		iomap_bio_endio(bio);
	} else {
		split_start(bio, batch);
	}
}

void iomap__batch_send(struct iomap__blk *blk, struct iomap__batch *batch, bool will_wait)
{
	if (batch->polled.first)
		iomap__private_submit(batch->own, &batch->polled, will_wait);
	if (batch->bios.first)
		iomap__queue_submit(iomap__queue_mine(blk), &batch->bios, will_wait);
}

enum submit_way {
	SUBMIT_ENDED,	/* with an error */
	SUBMIT_CHECKED, /* it may have to be split */
	SUBMIT_PLAIN,
};

static enum submit_way submit_begin_other(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	int error = submit_check(bdev, bio);

	if (!error)
		error = submit_account(bdev, bio);
	if (!error)
		return SUBMIT_CHECKED;
	bio->bi_status = error;
	iomap_bio_endio(bio);
	return SUBMIT_ENDED;
}

/* Check and account. */
static enum submit_way submit_begin(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	bio->bi_status = 0;
	if (iomap__unlikely(!submit_is_plain(bdev, bio) || iomap__req(bio)->bdev))
		return submit_begin_other(bdev, bio);
	submit_count(bdev, iomap__req(bio));
	return SUBMIT_PLAIN;
}

static void submit_go_on(struct iomap_bio *bio, enum submit_way way, struct iomap__batch *batch)
{
	if (iomap__likely(way == SUBMIT_PLAIN))
		submit_to_device(bio, batch);
	else
		iomap__dispatch(bio, batch);
}

void iomap_submit_bio(struct iomap_bio *bio)
{
	struct iomap__batch batch = { .bios = { 0 } };
	struct iomap_bdev *bdev = bio->bi_bdev;
	struct iomap__blk *blk;
	enum submit_way way;

	iomap__bdev_check(bdev);
	if (iomap__engine_forked(bdev->engine)) {
		bio->bi_status = -ECHILD;
		iomap_bio_endio(bio);
		return;
	}
	blk = bdev->engine->blk;
	way = submit_begin(bdev, bio);
	/* Only queues gain by a plug; and what has been held back must be sent as a whole,
	 * without a device of the application in between, where this thread may wait. */
	if (way == SUBMIT_ENDED || (bdev->kind->queued && iomap__plug_add(bio)))
		return;
	submit_go_on(bio, way, &batch);
	iomap__batch_send(blk, &batch, false);
}

void iomap__submit_before_wait(struct iomap_bio *bio)
{
	struct iomap__batch batch = { .bios = { 0 } };
	struct iomap_bdev *bdev = bio->bi_bdev;
	struct iomap__blk *blk = bdev->engine->blk;
	enum submit_way way = submit_begin(bdev, bio);

	if (way == SUBMIT_ENDED)
		return;
	iomap__plug_flush(blk);
	submit_go_on(bio, way, &batch);
	iomap__batch_send(blk, &batch, true);
}

/* ---- submit and wait ---- */

struct submit_wait {
	struct iomap__blk *blk;
	struct iomap__thread *waiter;
	uint32_t done;
};

static void submit_wait_end(struct iomap_bio *bio)
{
	struct submit_wait *wait = bio->bi_private;
	struct iomap__thread *waiter = wait->waiter;
	struct iomap__blk *blk = wait->blk;
	const uint32_t *word = &wait->done;

	/* release: pairs with the acquire of the waiter, whose stack `wait` is on; after this
	 * store it may be gone, so what follows uses the address only as a key. */
	iomap__store_release(&wait->done, 1);
	/* who runs this is awake, and looks at its word before it sleeps again */
	if (waiter != iomap__thread_self())
		iomap__io_wake(blk, word);
}

/* It has not ended inside its submission.  @only: where the end is to come from, if known. */
static void submit_wait_parked(struct submit_wait *wait, struct iomap__queue *only,
			       struct iomap__slow *slow)
{
	iomap__slow_wait(slow);
	while (!iomap__load_acquire(&wait->done))
		iomap__io_wait_only(wait->blk, &wait->done, 0, only);
	iomap__slow_wait_end(slow);
}

/* In the thread's own queue, past the parking lot, where those who look for slow I/O look. */
static void submit_wait_own(struct submit_wait *wait, struct iomap__queue *own,
			    struct iomap__slow *slow)
{
	iomap__slow_begin(wait->blk, slow);
	iomap__private_wait(own, &wait->done, 0);
	iomap__slow_end(wait->blk, slow);
}

/*
 * Submit the bio, whose thread is about to wait for it, and what the thread's plug holds: that
 * goes first.  What is started in @only, the one queue that can end the wait, is held back:
 * the call that sleeps sends it.  Return: it; NULL: the wait depends on others as well.
 */
static struct iomap__queue *submit_for_wait(struct iomap__thread *self, struct submit_wait *wait,
					    struct iomap_bio *bio, enum submit_way way)
{
	struct iomap__batch batch = { .bios = { 0 } };
	/* one bio in our own queue: nothing else can end our wait */
	bool alone = !iomap__load(&iomap__req(bio)->chained);
	struct iomap__queue *only = NULL;

	submit_go_on(bio, way, &batch);
	if (alone && batch.bios.count == 1 && batch.bios.first == bio)
		only = iomap__queue_mine(wait->blk);
	else if (alone && batch.polled.first == bio && !self->completing)
		only = batch.own;
	if (only)
		(void)iomap__hold_begin(self, only);
	if (self->plug)
		iomap__plug_flush(wait->blk);
	iomap__batch_send(wait->blk, &batch, true);
	return only;
}

int iomap_submit_bio_wait(struct iomap_bio *bio)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_bdev *bdev = bio->bi_bdev;
	struct submit_wait wait = { .waiter = self };
	struct iomap__queue *only = NULL, *held = self->hold;
	iomap_bio_end_io_fn *end_io = bio->bi_end_io;
	uint64_t sector = bio->bi_iter.bi_sector, size = bio->bi_iter.bi_size;
	void *private = bio->bi_private;
	enum submit_way way;
	unsigned op;

	iomap__bdev_check(bdev);
	if (iomap__engine_forked(bdev->engine)) {
		bio->bi_status = -ECHILD;
		return -ECHILD;
	}
	wait.blk = bdev->engine->blk;
	op = iomap__bio_op(bio);
	bio->bi_private = &wait;
	bio->bi_end_io = submit_wait_end;
	way = submit_begin(bdev, bio);
	if (way != SUBMIT_ENDED)
		only = submit_for_wait(self, &wait, bio, way);
	if (!iomap__load_acquire(&wait.done)) {
		/* not of the bio: a device may be about to change what it says */
		struct iomap__slow slow = {
			.what = iomap__op_name(op),
			.device = bdev->name,
			.pos = (int64_t)(sector << IOMAP_SECTOR_SHIFT),
			.len = size,
		};

		if (only && only->owner)
			submit_wait_own(&wait, only, &slow);
		else
			submit_wait_parked(&wait, only, &slow);
	}
	if (self->hold != held)
		iomap__hold_end(self, held);
	bio->bi_end_io = end_io;
	bio->bi_private = private;
	return bio->bi_status;
}
