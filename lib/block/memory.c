/* SPDX-License-Identifier: MIT */
/*
 * memory.c - a device in memory.
 *
 * Bios are done inside their submission.  There is nothing volatile below, so a flush has
 * nothing to do but to be counted.
 */
#include "block/internal.h"

#define MEMORY_ALIGN 4096U

/*
 * Folio memory that a read fills may be looked at by an optimistic reader of an earlier life
 * of the folio, who then throws the copy away (see filemap.c).  ThreadSanitizer wants such
 * accesses to be atomic on both sides.
 */
static void memory_copy(void *to, const void *from, size_t bytes)
{
#if IOMAP__TSAN
	uint8_t *dst = to;
	const uint8_t *src = from;
	size_t i = 0;

	if ((((uintptr_t)dst | (uintptr_t)src) & 7U) == 0)
		for (; i + 8 <= bytes; i += 8)
			__atomic_store_n((uint64_t *)(void *)(dst + i),
					 __atomic_load_n((const uint64_t *)(const void *)(src + i),
							 __ATOMIC_RELAXED),
					 __ATOMIC_RELAXED);
	for (; i < bytes; i++)
		__atomic_store_n(dst + i, __atomic_load_n(src + i, __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
#else
	memcpy(to, from, bytes);
#endif
}

void iomap__memory_do(struct iomap_bio *bio)
{
	struct iomap_bdev *bdev = bio->bi_bdev;
	struct iomap__stats *stats = &bdev->engine->blk->stats;
	struct iomap__thread *self = iomap__thread_self();
	uint8_t *at = bdev->memory + (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT);
	bool read = iomap__bio_op(bio) == IOMAP_REQ_OP_READ;
	uint64_t written = atomic_load_explicit(&bdev->written, memory_order_acquire);
	uint32_t i;

	iomap__stat_add(stats, self, IOMAP__BLKSTAT_BIOS, 1);
	if (iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH || bio->bi_opf & IOMAP_REQ_PREFLUSH) {
		iomap__stat_add(stats, self, IOMAP__BLKSTAT_FLUSHES, 1);
		iomap__bdev_flushed(bdev, written);
	}
	for (i = 0; i < bio->bi_vcnt; i++) {
		const struct iomap_bio_vec *vec = &bio->bi_io_vec[i];

		if (read)
			memory_copy(vec->bv_base, at, vec->bv_len);
		else
			memory_copy(at, vec->bv_base, vec->bv_len);
		at += vec->bv_len;
	}
	if (bio->bi_iter.bi_size)
		iomap__stat_add(stats, self,
				read ? IOMAP__BLKSTAT_READ_BYTES : IOMAP__BLKSTAT_WRITTEN_BYTES,
				bio->bi_iter.bi_size);
	iomap_bio_endio(bio);
}

static void memory_release(struct iomap_bdev *bdev)
{
	iomap__free(&bdev->engine->env, bdev->memory, bdev->bytes);
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
	bdev->memory = iomap__alloc_aligned(&engine->env, MEMORY_ALIGN, bytes);
	if (!bdev->memory) {
		iomap__bdev_free(bdev);
		return -ENOMEM;
	}
	memset(bdev->memory, 0, bytes);
	iomap__bdev_publish(bdev);
	*out = bdev;
	return 0;
}
