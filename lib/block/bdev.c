/* SPDX-License-Identifier: MIT */
/*
 * bdev.c - what all block devices have in common: life, limits, numbers.
 *
 * Life of a bdev: iomap__bdev_new() takes it from the engine's pool -> filled by its kind ->
 * iomap__bdev_publish() puts it on the engine's list -> iomap_bdev_close(), refused while bios
 * are in flight or inodes refer to it.  `refs` and the list change under blk->bdevs_lock, so
 * that a close and an iomap__bdevs_flush() see each other.  A closed one is found out by its
 * magic number for as long as the engine lives, unless another one has been opened in its place.
 *
 * A bio stops being in flight before its bi_end_io, so that who has been told by it that the
 * I/O is over can close the device.  The bi_end_io may still be running then, and use the
 * device, the pools of the engine, and what the engine holds of other layers: the close
 * waits for it to return, and so does, since it needs all devices closed, the engine's end.
 *
 * The size only grows, since data in use may lie anywhere below it.  A device that is gone is
 * so for good; bios look at it whenever they come to a place where they could be started.
 *
 * Flushing one device is flush.c's business.
 */
#include <sched.h>

#include "block/internal.h"

#define BDEV_LIMIT_FLAGS                                                                        \
	(IOMAP_BDEV_HAS_WRITE_CACHE | IOMAP_BDEV_HAS_FUA | IOMAP_BDEV_HAS_NOWAIT |              \
	 IOMAP_BDEV_HAS_ZEROING_DISCARD)

static const struct iomap_bdev_limits bdev_no_limits = {
	.logical_block_size = IOMAP_SECTOR_SIZE,
	.physical_block_size = IOMAP_SECTOR_SIZE,
	.dma_alignment = 1,
	.max_segments_nr = IOMAP_BIO_MAX_VECS,
	.max_transfer_bytes = UINT64_MAX,
};

int iomap__bdev_new(struct iomap_engine *engine, const struct iomap__bdev_kind *kind,
		    const char *name, struct iomap_bdev **out)
{
	struct iomap__env *env = &engine->env;
	struct iomap_bdev *bdev;

	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	bdev = iomap__pool_get(&engine->blk->bdev_pool);
	if (!bdev)
		return -ENOMEM;
	memset(bdev, 0, sizeof(*bdev));
	bdev->name_bytes = strlen(name) + 1;
	bdev->name = iomap__alloc(env, bdev->name_bytes);
	if (!bdev->name) {
		iomap__pool_put(&engine->blk->bdev_pool, bdev);
		return -ENOMEM;
	}
	memcpy(bdev->name, name, bdev->name_bytes);
	bdev->engine = engine;
	bdev->magic = IOMAP__BDEV_MAGIC;
	bdev->kind = kind;
	bdev->limits = bdev_no_limits;
	bdev->fd = -1;
	atomic_store_explicit(&bdev->written, 1, memory_order_relaxed);
	*out = bdev;
	return 0;
}

void iomap__bdev_free(struct iomap_bdev *bdev)
{
	struct iomap_engine *engine = bdev->engine;

	iomap__free(&engine->env, bdev->name, bdev->name_bytes);
	iomap__store(&bdev->magic, 0);
	iomap__pool_put(&engine->blk->bdev_pool, bdev);
}

/* What needs no further look: a read or write, which the limits allow as it is. */
static void bdev_set_plain(struct iomap_bdev *bdev)
{
	const struct iomap_bdev_limits *limits = &bdev->limits;

	bdev->plain_bytes_max = limits->max_transfer_bytes;
	bdev->block_mask = limits->logical_block_size - 1U;
	bdev->memory_mask = limits->dma_alignment - 1U;
	bdev->plain_opf = IOMAP_REQ_SYNC | IOMAP_REQ_META | IOMAP_REQ_RAHEAD |
			  IOMAP_REQ_BACKGROUND | IOMAP_REQ_POLLED;
	if (!bdev->readonly)
		bdev->plain_opf |= IOMAP_REQ_OP_WRITE;
}

void iomap__bdev_publish(struct iomap_bdev *bdev)
{
	struct iomap__blk *blk = bdev->engine->blk;
	unsigned id = 0;

	iomap__mutex_lock(&blk->bdevs_lock);
	while (id < IOMAP__BDEV_IDS && blk->bdev_ids & UINT64_C(1) << id)
		id++;
	bdev->id = id;
	if (id < IOMAP__BDEV_IDS)
		blk->bdev_ids |= UINT64_C(1) << id;
	bdev_set_plain(bdev);
	bdev->next = blk->bdevs;
	blk->bdevs = bdev;
	if (bdev->fd >= 0 && blk->backend->add_file)
		blk->backend->add_file(blk, bdev);
	iomap__mutex_unlock(&blk->bdevs_lock);
}

/* acquire: pairs with the releases of the ends; so the begin of each of them is seen as well */
static uint64_t bdev_ended(const struct iomap_bdev *bdev)
{
	return iomap__stat_sum_acquire(&bdev->stats, IOMAP__BSTAT_READS) +
	       iomap__stat_sum_acquire(&bdev->stats, IOMAP__BSTAT_WRITES) +
	       iomap__stat_sum_acquire(&bdev->stats, IOMAP__BSTAT_FLUSHES) +
	       iomap__stat_sum_acquire(&bdev->stats, IOMAP__BSTAT_DISCARDS) +
	       iomap__stat_sum_acquire(&bdev->stats, IOMAP__BSTAT_WRITE_ZEROES);
}

uint64_t iomap__bdev_inflight(const struct iomap_bdev *bdev)
{
	uint64_t ended = bdev_ended(bdev);

	return iomap__stat_sum(&bdev->life, IOMAP__BLIFE_BEGUN) - ended;
}

/*
 * Each count only grows, and at any moment
 *	ended <= begun, and returned <= ended + entered.
 * They are read from right to left.  Take the moment between the first two readings: what
 * was returned by then is at least the first sum, what had ended and been entered at most the
 * second ones, and what had begun at most the last.  So if the sums are equal, all of these
 * were equal at that moment.  A bi_end_io may submit the next bio: it returns after that one
 * has begun.
 */
int iomap__bdev_busy(const struct iomap_bdev *bdev)
{
	/* acquire: pairs with the release of the last callback's return, which touched the bdev */
	uint64_t returned = iomap__stat_sum_acquire(&bdev->life, IOMAP__BLIFE_RETURNED);
	uint64_t ended = bdev_ended(bdev);
	uint64_t entered = iomap__stat_sum(&bdev->life, IOMAP__BLIFE_ENTERED);
	uint64_t begun = iomap__stat_sum(&bdev->life, IOMAP__BLIFE_BEGUN);

	if (begun != ended)
		return -EBUSY;
	return returned == ended + entered ? 0 : -EAGAIN;
}

/* Lock held.  As iomap__bdev_busy(). */
static int bdev_unlink(struct iomap__blk *blk, struct iomap_bdev *bdev)
{
	struct iomap_bdev **link;
	unsigned kind;
	int error;

	if (atomic_load_explicit(&bdev->refs, memory_order_acquire))
		return -EBUSY;
	error = iomap__bdev_busy(bdev);
	if (error)
		return error;
	for (link = &blk->bdevs; *link != bdev; link = &(*link)->next)
		;
	*link = bdev->next;
	for (kind = 0; kind < IOMAP__HIST_KINDS; kind++)
		iomap__hist_sum(&bdev->hist, kind, blk->gone_hist[kind]);
	if (bdev->fd >= 0 && blk->backend->del_file)
		blk->backend->del_file(blk, bdev);
	if (bdev->id < IOMAP__BDEV_IDS)
		blk->bdev_ids &= ~(UINT64_C(1) << bdev->id);
	return 0;
}

/* Off the list, unless it is in use. */
static int bdev_unpublish(struct iomap_bdev *bdev)
{
	struct iomap__blk *blk = bdev->engine->blk;
	int error;

	for (;;) {
		iomap__mutex_lock(&blk->bdevs_lock);
		error = bdev_unlink(blk, bdev);
		iomap__mutex_unlock(&blk->bdevs_lock);
		if (error != -EAGAIN)
			return error;
		sched_yield();
	}
}

int iomap_bdev_close(struct iomap_bdev *bdev)
{
	int error;

	if (!bdev)
		return 0;
	iomap__assert_msg(iomap__bdev_is_open(bdev), "bdev %p is closed twice, or was never opened",
			  (void *)bdev);
	if (!iomap__bdev_is_open(bdev))
		return -EINVAL;
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	/* it would wait for itself */
	iomap__assert_msg(!iomap__thread_self()->completing, "bdev closed by a bi_end_io");
	error = bdev_unpublish(bdev);
	if (error)
		return error;
	if (bdev->kind->release)
		bdev->kind->release(bdev);
	iomap__bdev_free(bdev);
	return 0;
}

/* ---- devices of the application ---- */

static void bdev_custom_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct iomap__thread *self = iomap__thread_self();

	/*
	 * A thread of the device may have ended the bio before submit_bio returns, which may
	 * still use the device (unlock what the bio was queued under): a close waits for it.
	 * Before the call: whoever sees the end of the bio sees this.
	 */
	iomap__stat_add(&bdev->life, self, IOMAP__BLIFE_ENTERED, 1);
	iomap__measure_start(self, bio);
	bdev->ops->submit_bio(bdev, bio);
	/* release: pairs with iomap__bdev_busy(); the last that is done to the bdev here */
	iomap__stat_add_release(&bdev->life, self, IOMAP__BLIFE_RETURNED, 1);
}

static void bdev_custom_release(struct iomap_bdev *bdev)
{
	if (bdev->ops->release)
		bdev->ops->release(bdev);
}

static int bdev_custom_revalidate(struct iomap_bdev *bdev, uint64_t *bytes)
{
	*bytes = iomap__bdev_size(bdev);
	return bdev->ops->revalidate ? bdev->ops->revalidate(bdev, bytes) : 0;
}

static const struct iomap__bdev_kind custom_kind = {
	.io_path = "custom",
	.submit = bdev_custom_submit,
	.release = bdev_custom_release,
	.revalidate = bdev_custom_revalidate,
};

static bool bdev_atomic_valid(const struct iomap_bdev_limits *limits)
{
	uint32_t min = limits->atomic_write_min_bytes, max = limits->atomic_write_max_bytes;

	if (!max)
		return !min && !limits->atomic_write_segments_nr;
	/* an atomic write that is allowed never needs to be split */
	return iomap__is_pow2(min) && iomap__is_pow2(max) && min >= limits->logical_block_size &&
	       max >= min && max <= limits->max_transfer_bytes &&
	       limits->atomic_write_segments_nr &&
	       limits->atomic_write_segments_nr <= limits->max_segments_nr;
}

/* What came after the first version; all zero: the device can do none of it. */
static bool bdev_more_limits_valid(const struct iomap_bdev_limits *limits)
{
	uint32_t block = limits->logical_block_size, granularity = limits->discard_granularity;

	return !(limits->flags & ~BDEV_LIMIT_FLAGS) &&
	       (!limits->max_discard_bytes || limits->max_discard_bytes >= block) &&
	       (!limits->max_write_zeroes_bytes || limits->max_write_zeroes_bytes >= block) &&
	       (!granularity || (iomap__is_pow2(granularity) && granularity >= block)) &&
	       bdev_atomic_valid(limits);
}

static bool bdev_limits_valid(const struct iomap_bdev_limits *limits)
{
	return iomap__is_pow2(limits->logical_block_size) &&
	       limits->logical_block_size >= IOMAP_SECTOR_SIZE &&
	       iomap__is_pow2(limits->physical_block_size) &&
	       limits->physical_block_size >= limits->logical_block_size &&
	       iomap__is_pow2(limits->dma_alignment) && limits->max_segments_nr &&
	       limits->max_transfer_bytes >=
		       iomap__max(limits->logical_block_size, limits->dma_alignment) &&
	       bdev_more_limits_valid(limits);
}

int iomap_bdev_create(struct iomap_engine *engine, const struct iomap_bdev_ops *ops, uint64_t bytes,
		      const struct iomap_bdev_limits *limits, void *context,
		      struct iomap_bdev **out)
{
	struct iomap_bdev *bdev;
	int error;

	if (!engine || !ops || !ops->submit_bio || !out)
		return -EINVAL;
	if (!limits)
		limits = &bdev_no_limits;
	if (!bdev_limits_valid(limits) || !bytes || bytes % limits->logical_block_size)
		return -EINVAL;
	error = iomap__bdev_new(engine, &custom_kind, "custom", &bdev);
	if (error)
		return error;
	bdev->ops = ops;
	bdev->bytes = bytes;
	bdev->limits = *limits;
	bdev->context = context;
	iomap__bdev_publish(bdev);
	*out = bdev;
	return 0;
}

/* ---- what it is ---- */

void *iomap_bdev_private(const struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	return bdev->context;
}

uint64_t iomap_bdev_bytes(const struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	return iomap__bdev_size(bdev);
}

void iomap_bdev_limits(const struct iomap_bdev *bdev, struct iomap_bdev_limits *out)
{
	iomap__bdev_check(bdev);
	*out = bdev->limits;
}

const char *iomap_bdev_name(const struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	return bdev->name;
}

const char *iomap_bdev_io_path(const struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	if (iomap__engine_forked(bdev->engine))
		return "none";
	return bdev->kind->io_path ? bdev->kind->io_path : bdev->engine->blk->backend->name;
}

static struct iomap_bdev_stats bdev_stats(const struct iomap_bdev *bdev)
{
	/*
	 * Before the ends, so that what begins and ends during this is not taken for in flight;
	 * iomap__bdev_inflight(), which may say too much but not too little, is for decisions.
	 */
	uint64_t begun = iomap__stat_sum_acquire(&bdev->life, IOMAP__BLIFE_BEGUN), ended;
	struct iomap_bdev_stats stats = {
		.reads_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_READS),
		.writes_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_WRITES),
		.flushes_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_FLUSHES),
		.read_bytes = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_READ_BYTES),
		.written_bytes = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_WRITTEN_BYTES),
		.errors_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_ERRORS),
		.discards_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_DISCARDS),
		.write_zeroes_nr = iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_WRITE_ZEROES),
	};

	ended = stats.reads_nr + stats.writes_nr + stats.flushes_nr + stats.discards_nr +
		stats.write_zeroes_nr;
	stats.inflight_nr = begun > ended ? begun - ended : 0;
	return stats;
}

int iomap_bdev_stats(struct iomap_bdev *bdev, struct iomap_bdev_stats *out, size_t size)
{
	struct iomap_bdev_stats stats;

	iomap__bdev_check(bdev);
	if (!out || !size)
		return -EINVAL;
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	stats = bdev_stats(bdev);
	if (size > sizeof(stats))
		memset((char *)out + sizeof(stats), 0, size - sizeof(stats));
	memcpy(out, &stats, iomap__min(size, sizeof(stats)));
	return 0;
}

void iomap__bdev_get(struct iomap_bdev *bdev)
{
	atomic_fetch_add_explicit(&bdev->refs, 1, memory_order_relaxed);
}

void iomap__bdev_put(struct iomap_bdev *bdev)
{
	/* release: pairs with iomap_bdev_close() */
	atomic_fetch_sub_explicit(&bdev->refs, 1, memory_order_release);
}

const struct iomap_bdev_limits *iomap__bdev_limits(const struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	return &bdev->limits;
}

struct iomap_engine *iomap__bdev_engine(const struct iomap_bdev *bdev)
{
	return bdev->engine;
}

unsigned iomap__bdev_id(const struct iomap_bdev *bdev)
{
	return bdev->id;
}

/* ---- growing and vanishing ---- */

static void bdev_grow(struct iomap_bdev *bdev, uint64_t bytes)
{
	uint64_t old = iomap__bdev_size(bdev);

	/* Somebody may have asked later, and been told more. */
	while (old < bytes && !__atomic_compare_exchange_n(&bdev->bytes, &old, bytes, true,
							   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

int iomap_bdev_revalidate(struct iomap_bdev *bdev)
{
	uint64_t old, bytes;
	int error;

	iomap__bdev_check(bdev);
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	if (iomap__bdev_is_gone(bdev))
		return -ENODEV;
	if (!bdev->kind->revalidate)
		return 0;
	old = iomap__bdev_size(bdev);
	error = bdev->kind->revalidate(bdev, &bytes);
	if (error == -ENODEV || error == -ENXIO) {
		iomap_bdev_set_gone(bdev);
		return -ENODEV;
	}
	if (error)
		return error;
	bytes = iomap__round_down(bytes, bdev->limits.logical_block_size);
	if (bytes < old) {
		iomap__log(&bdev->engine->env, IOMAP_LOG_ERROR,
			   "%s: the device has shrunk from %llu to %llu bytes", bdev->name,
			   (unsigned long long)old, (unsigned long long)bytes);
		return -ERANGE;
	}
	bdev_grow(bdev, bytes);
	return 0;
}

int iomap_bdev_set_bytes(struct iomap_bdev *bdev, uint64_t bytes)
{
	iomap__bdev_check(bdev);
	if (!bdev->ops || bdev->ops->revalidate || bytes % bdev->limits.logical_block_size)
		return -EINVAL;
	if (bytes < iomap__bdev_size(bdev))
		return -ERANGE;
	bdev_grow(bdev, bytes);
	return 0;
}

void iomap_bdev_set_gone(struct iomap_bdev *bdev)
{
	iomap__bdev_check(bdev);
	if (!__atomic_exchange_n(&bdev->gone, true, __ATOMIC_RELAXED))
		iomap__log(&bdev->engine->env, IOMAP_LOG_ERROR, "%s: the device is gone",
			   bdev->name);
}

/* ---- all of them ---- */

/* The first bdev on the list with @id, referenced, behind @after (NULL: from the head). */
static struct iomap_bdev *bdev_next(struct iomap__blk *blk, struct iomap_bdev *after, uint64_t ids)
{
	struct iomap_bdev *bdev;

	iomap__mutex_lock(&blk->bdevs_lock);
	for (bdev = after ? after->next : blk->bdevs; bdev; bdev = bdev->next)
		if (ids & UINT64_C(1) << bdev->id)
			break;
	if (bdev)
		iomap__bdev_get(bdev);
	iomap__mutex_unlock(&blk->bdevs_lock);
	return bdev;
}

bool iomap__bdevs_idle(struct iomap_engine *engine)
{
	struct iomap__blk *blk = engine->blk;
	struct iomap_bdev *bdev;

	iomap__mutex_lock(&blk->bdevs_lock);
	for (bdev = blk->bdevs; bdev; bdev = bdev->next)
		if (iomap__bdev_busy(bdev))
			break;
	iomap__mutex_unlock(&blk->bdevs_lock);
	return !bdev;
}

int iomap__bdevs_flush(struct iomap_engine *engine, uint64_t ids, uint64_t deadline_ns)
{
	struct iomap_bdev *bdev, *next;
	int first = 0, error;

	for (bdev = bdev_next(engine->blk, NULL, ids); bdev; bdev = next) {
		error = iomap__bdev_flush_by(bdev, deadline_ns);
		if (!first)
			first = error;
		next = bdev_next(engine->blk, bdev, ids);
		iomap__bdev_put(bdev);
	}
	return first;
}
