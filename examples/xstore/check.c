/* SPDX-License-Identifier: MIT */
/*
 * check.c - verify an image: every byte is metadata that is right, object data, or free.
 *
 * Loading verifies the checksums, and that no block has two uses, but for the data that
 * several objects share, which it counts.  What is left is the rest
 * of the blocks that hold the super blocks, which is zero and under no checksum, so that a
 * super block fits a sector.
 */
#include <errno.h>
#include <stdlib.h>

#include "store.h"

static int check_slack(struct iomap_bdev *bdev, struct xs_why *why)
{
	uint8_t *block = aligned_alloc(XS_BLOCK_BYTES, XS_BLOCK_BYTES);
	int error = 0;

	if (!block)
		return -ENOMEM;
	for (unsigned slot = 0; !error && slot < XS_SUPER_SLOTS; slot++) {
		error = xs_block_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_META, slot, block, 1);
		if (error)
			xs_because(why, error, "cannot read super block %u", slot);
		for (size_t i = XS_SUPER_BYTES; !error && i < XS_BLOCK_BYTES; i++)
			if (block[i])
				error = xs_because(why, XS_EDAMAGED,
						   "super block %u: byte %zu is not zero", slot, i);
	}
	free(block);
	return error;
}

int xs_check(struct iomap_bdev *bdev, struct xs_counts *counts, struct xs_why *why)
{
	struct xs_image image;
	int error = xs_image_load(bdev, &image, NULL, NULL, why);

	if (!error)
		error = check_slack(bdev, why);
	if (!error) {
		*counts = (struct xs_counts){
			.bytes = iomap_bdev_bytes(bdev),
			.data_bytes = image.data_nr << XS_BLOCK_SHIFT,
			.meta_bytes = (image.super.nodes_nr + XS_SUPER_SLOTS) << XS_BLOCK_SHIFT,
			.objects_nr = image.super.objects_nr,
			.shared_bytes = image.space.shares.shared_nr << XS_BLOCK_SHIFT,
			.generation = image.super.generation,
		};
		counts->free_bytes = counts->bytes -
				     ((image.super.blocks - image.space.free_nr) << XS_BLOCK_SHIFT);
	}
	xs_image_free(&image);
	return error;
}
