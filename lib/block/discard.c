/* SPDX-License-Identifier: MIT */
/*
 * discard.c - discarding and zeroing a range of a device, and waiting for it.
 *
 * One bio for the range, which is split at the device's limits as any other.  Zeros that the
 * device has no command for are written from memory.
 */
#include "block/internal.h"

#define DISCARD_ZEROES_BYTES (UINT64_C(1) << 18) /* written at once */

static int discard_range(struct iomap_bdev *bdev, uint32_t op, uint64_t addr, uint64_t len)
{
	struct iomap_bio bio = {
		.bi_bdev = bdev,
		.bi_opf = op | IOMAP_REQ_SYNC,
		.bi_iter = { .bi_sector = addr >> IOMAP_SECTOR_SHIFT, .bi_size = len },
	};

	/* what the sector number does not hold */
	if (addr % IOMAP_SECTOR_SIZE)
		return -EINVAL;
	return iomap_submit_bio_wait(&bio);
}

/* @zeroes: DISCARD_ZEROES_BYTES of them. */
static int discard_write(struct iomap_bdev *bdev, uint64_t addr, uint64_t len, void *zeroes)
{
	uint64_t done, bytes;
	int error = 0;

	for (done = 0; !error && done < len; done += bytes) {
		struct iomap_bio_vec vec = { .bv_base = zeroes };
		struct iomap_bio bio = {
			.bi_bdev = bdev,
			.bi_opf = IOMAP_REQ_OP_WRITE | IOMAP_REQ_SYNC,
			.bi_io_vec = &vec,
			.bi_vcnt = 1,
			.bi_max_vecs = 1,
		};

		bytes = iomap__min(len - done, DISCARD_ZEROES_BYTES);
		vec.bv_len = bytes;
		bio.bi_iter.bi_sector = (addr + done) >> IOMAP_SECTOR_SHIFT;
		bio.bi_iter.bi_size = bytes;
		error = iomap_submit_bio_wait(&bio);
	}
	return error;
}

static int discard_write_zeroes(struct iomap_bdev *bdev, uint64_t addr, uint64_t len)
{
	struct iomap__env *env = &bdev->engine->env;
	size_t align = iomap__max(bdev->limits.dma_alignment, bdev->limits.logical_block_size);
	void *zeroes;
	int error;

	if ((addr | len) & (bdev->limits.logical_block_size - 1U))
		return -EINVAL;
	if (addr > iomap_bdev_bytes(bdev) || len > iomap_bdev_bytes(bdev) - addr)
		return -EIO;
	zeroes = iomap__alloc_aligned(env, align, DISCARD_ZEROES_BYTES);
	if (!zeroes)
		return -ENOMEM;
	memset(zeroes, 0, DISCARD_ZEROES_BYTES);
	error = discard_write(bdev, addr, len, zeroes);
	iomap__free(env, zeroes, DISCARD_ZEROES_BYTES);
	return error;
}

int iomap_bdev_discard(struct iomap_bdev *bdev, uint64_t addr, uint64_t len)
{
	return discard_range(bdev, IOMAP_REQ_OP_DISCARD, addr, len);
}

int iomap_bdev_write_zeroes(struct iomap_bdev *bdev, uint64_t addr, uint64_t len, unsigned flags)
{
	int error;

	if (flags & ~IOMAP_BDEV_ZERO_NOFALLBACK)
		return -EINVAL;
	error = discard_range(bdev, IOMAP_REQ_OP_WRITE_ZEROES, addr, len);
	if (error != -EOPNOTSUPP || flags & IOMAP_BDEV_ZERO_NOFALLBACK)
		return error;
	return discard_write_zeroes(bdev, addr, len);
}
