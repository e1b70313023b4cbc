/* SPDX-License-Identifier: MIT */
/*
 * memory.c - a device in memory.
 *
 * A large one asks for huge pages, without which a transfer to a random place costs a walk of
 * page tables as well.
 *
 * Bios are done inside their submission.  There is nothing volatile below, so a flush has
 * nothing to do but to be counted.  What is discarded is zeroed.
 */
#include <sys/mman.h>

#include "block/internal.h"

#define MEMORY_ALIGN 4096U
#define MEMORY_HUGE (UINT64_C(2) << 20)

static void memory_flush(struct iomap_bdev *bdev, struct iomap__thread *self)
{
	iomap__stat_add(&bdev->engine->blk->stats, self, IOMAP__BLKSTAT_FLUSHES, 1);
	iomap__bdev_flushed(bdev, atomic_load_explicit(&bdev->written, memory_order_acquire));
}

/* Between the memory of @bio and the device's at @at. */
static void memory_copy(const struct iomap_bio *bio, uint8_t *at, bool read)
{
	const struct iomap_bio_vec *vec = bio->bi_io_vec, *end = vec + bio->bi_vcnt;

	for (; vec < end; at += vec->bv_len, vec++) {
		if (read)
			iomap__copy_medium(vec->bv_base, at, vec->bv_len);
		else
			iomap__copy_medium(at, vec->bv_base, vec->bv_len);
	}
}

void iomap__memory_do(struct iomap_bio *bio)
{
	struct iomap_bdev *bdev = bio->bi_bdev;
	struct iomap__stats *stats = &bdev->engine->blk->stats;
	struct iomap__thread *self = iomap__thread_self();
	uint8_t *at = bdev->memory + (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT);
	unsigned op = iomap__bio_op(bio);
	bool read = op == IOMAP_REQ_OP_READ;

	iomap__stat_add(stats, self, IOMAP__BLKSTAT_BIOS, 1);
	if (iomap__unlikely(op == IOMAP_REQ_OP_FLUSH || bio->bi_opf & IOMAP_REQ_PREFLUSH))
		memory_flush(bdev, self);
	if (iomap__op_has_data(op)) {
		memory_copy(bio, at, read);
		iomap__stat_add(stats, self,
				read ? IOMAP__BLKSTAT_READ_BYTES : IOMAP__BLKSTAT_WRITTEN_BYTES,
				bio->bi_iter.bi_size);
	} else {
		iomap__fill_folio_mem(at, 0, bio->bi_iter.bi_size);
	}
	iomap_bio_endio(bio);
}

static void memory_release(struct iomap_bdev *bdev)
{
	iomap__free(&bdev->engine->env, bdev->memory, bdev->bytes);
}

static uint8_t *memory_alloc(struct iomap__env *env, uint64_t bytes)
{
	bool huge = bytes >= MEMORY_HUGE;
	uint8_t *memory = iomap__alloc_aligned(env, huge ? MEMORY_HUGE : MEMORY_ALIGN, bytes);

	if (!memory)
		return NULL;
	/* no more than a wish; before the memory is used for the first time */
	if (huge)
		(void)madvise(memory, iomap__round_down(bytes, MEMORY_HUGE), MADV_HUGEPAGE);
	memset(memory, 0, bytes);
	return memory;
}

static const struct iomap__bdev_kind memory_kind = {
	.io_path = "memory",
	.submit = iomap__inline_submit,
	.release = memory_release,
};

int iomap_bdev_open_memory(struct iomap_engine *engine, uint64_t bytes, struct iomap_bdev **out)
{
	struct iomap_bdev *bdev;
	int error;

	if (!engine || !out || !bytes || bytes % IOMAP_SECTOR_SIZE || bytes > SIZE_MAX / 2)
		return -EINVAL;
	error = iomap__bdev_new(engine, &memory_kind, "memory", &bdev);
	if (error)
		return error;
	bdev->bytes = bytes;
	bdev->limits.flags = IOMAP_BDEV_HAS_FUA | IOMAP_BDEV_HAS_NOWAIT |
			     IOMAP_BDEV_HAS_ZEROING_DISCARD;
	bdev->limits.discard_granularity = IOMAP_SECTOR_SIZE;
	bdev->limits.max_discard_bytes = UINT64_MAX;
	bdev->limits.max_write_zeroes_bytes = UINT64_MAX;
	bdev->memory = memory_alloc(&engine->env, bytes);
	if (!bdev->memory) {
		iomap__bdev_free(bdev);
		return -ENOMEM;
	}
	iomap__bdev_publish(bdev);
	*out = bdev;
	return 0;
}
