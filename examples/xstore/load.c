/* SPDX-License-Identifier: MIT */
/*
 * load.c - read the metadata of a store and believe nothing of it.
 *
 * Opening and checking share this.  Memory is bounded by what the device can hold: the chain
 * of metadata blocks ends after as many as the super block says, and these have to be inside
 * the store and each there once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* ---- super blocks ---- */

static int read_slot(struct iomap_bdev *bdev, uint8_t *block, unsigned slot, struct xs_super *super,
		     struct xs_why *why)
{
	struct xs_why reason;
	int error = xs_block_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_META, slot, block, 1);

	if (error)
		return xs_because(why, error, "cannot read super block %u", slot);
	error = xs_super_decode(block, super, &reason);
	if (error)
		return xs_because(why, error, "super block %u: %s", slot, reason.text);
	if (super->blocks > iomap_bdev_bytes(bdev) >> XS_BLOCK_SHIFT)
		return xs_because(why, XS_EDAMAGED,
				  "cut off: %" PRIu64 " of %" PRIu64 " blocks are there",
				  iomap_bdev_bytes(bdev) >> XS_BLOCK_SHIFT, super->blocks);
	return 0;
}

/*
 * The newer one counts.  One that cannot be read is not passed over: a power cut leaves none
 * such, so it may have been the newer, and what it acknowledged would be lost without a word.
 */
static int read_supers(struct iomap_bdev *bdev, struct xs_image *image, struct xs_why *why)
{
	struct xs_super super[XS_SUPER_SLOTS];
	struct xs_why whys[XS_SUPER_SLOTS];
	int error[XS_SUPER_SLOTS];
	uint8_t *block = aligned_alloc(XS_BLOCK_BYTES, XS_BLOCK_BYTES);

	if (!block)
		return -ENOMEM;
	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++)
		error[slot] = read_slot(bdev, block, slot, &super[slot], &whys[slot]);
	free(block);
	if (error[0] == XS_ENOTSTORE && error[1] == XS_ENOTSTORE)
		return xs_because(why, XS_ENOTSTORE, "not an xstore");
	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++) {
		if (error[slot]) {
			*why = whys[slot];
			return error[slot] == XS_ENOTSTORE ? XS_EDAMAGED : error[slot];
		}
	}
	if (super[0].id != super[1].id || super[0].blocks != super[1].blocks)
		return xs_because(why, XS_EDAMAGED, "super blocks of two stores");
	image->slot = super[1].generation > super[0].generation;
	image->super = super[image->slot];
	return 0;
}

/* ---- metadata blocks ---- */

static int mark(struct xs_image *image, uint64_t start, uint64_t nr, struct xs_why *why)
{
	if (xs_space_mark(&image->space, start, nr))
		return 0;
	return xs_because(why, XS_EDAMAGED, "block used twice at %" PRIu64, start);
}

/* Read the block at *@at; add its payload at @used; move *@at on. */
static int read_meta_block(struct iomap_bdev *bdev, struct xs_image *image, uint8_t *block,
			   uint64_t *at, uint64_t *used, struct xs_why *why)
{
	uint64_t next, self = *at;
	uint32_t bytes;
	int error;

	if (self < XS_SUPER_SLOTS || self >= image->super.blocks)
		return xs_because(why, XS_EDAMAGED, "metadata outside the store");
	error = mark(image, self, 1, why);
	if (!error)
		error = xs_runs_add(&image->meta, self, 1);
	if (error)
		return error;
	error = xs_block_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_META, self, block, 1);
	if (error)
		return xs_because(why, error, "cannot read metadata block %" PRIu64, self);
	error = xs_meta_verify(block, &image->super, self, &next, &bytes, why);
	if (error)
		return error;
	if (bytes > image->super.meta_bytes - *used)
		return xs_because(why, XS_EDAMAGED, "more metadata than there should be");
	memcpy(image->payload + *used, block + XS_META_HEADER_BYTES, bytes);
	*used += bytes;
	*at = next;
	return 0;
}

static int read_payload(struct iomap_bdev *bdev, struct xs_image *image, struct xs_why *why)
{
	uint64_t nr = xs_meta_blocks(image->super.meta_bytes);
	uint64_t at = image->super.meta_first, used = 0;
	uint8_t *block = aligned_alloc(XS_BLOCK_BYTES, XS_BLOCK_BYTES);
	int error = 0;

	image->payload = malloc((size_t)image->super.meta_bytes + 1);
	if (!block || !image->payload)
		error = -ENOMEM;
	for (; !error && nr; nr--)
		error = read_meta_block(bdev, image, block, &at, &used, why);
	free(block);
	if (!error && (at || used != image->super.meta_bytes))
		error = xs_because(why, XS_EDAMAGED, "less metadata than there should be");
	return error;
}

/* ---- objects ---- */

static int read_extents(struct xs_image *image, struct xs_cursor *from,
			const struct xs_record *record, struct xs_extent *extents,
			struct xs_why *why)
{
	int error = 0;

	for (uint32_t i = 0; !error && i < record->extents_nr; i++) {
		error = xs_extent_decode(from, image->super.blocks, i ? &extents[i - 1] : NULL,
					 &extents[i], why);
		if (!error)
			error = mark(image, extents[i].disk, extents[i].nr, why);
		if (!error)
			image->data_nr += extents[i].nr;
	}
	return error;
}

static int read_object(struct xs_image *image, struct xs_cursor *from, struct xs_record *record,
		       xs_object_fn *fn, void *arg, struct xs_why *why)
{
	struct xs_extent *extents;
	int error = xs_record_decode(from, record, why);

	if (error)
		return error;
	extents = malloc(((size_t)record->extents_nr + 1) * sizeof(*extents));
	if (!extents)
		return -ENOMEM;
	error = read_extents(image, from, record, extents, why);
	if (!error && fn)
		error = fn(arg, record, extents);
	if (error || !fn)
		free(extents);
	return error;
}

static int read_objects(struct xs_image *image, xs_object_fn *fn, void *arg, struct xs_why *why)
{
	struct xs_cursor from = { image->payload, (size_t)image->super.meta_bytes };
	struct xs_record record[2];
	int error;

	for (uint64_t n = 0; n < image->super.objects_nr; n++) {
		error = read_object(image, &from, &record[n % 2], fn, arg, why);
		if (error)
			return error;
		if (n && strcmp(record[(n - 1) % 2].name, record[n % 2].name) >= 0)
			return xs_because(why, XS_EDAMAGED, "names out of order");
	}
	if (from.left)
		return xs_because(why, XS_EDAMAGED, "metadata behind the last object");
	return 0;
}

int xs_image_load(struct iomap_bdev *bdev, struct xs_image *image, xs_object_fn *fn, void *arg,
		  struct xs_why *why)
{
	int error;

	memset(image, 0, sizeof(*image));
	why->text[0] = '\0';
	if (iomap_bdev_bytes(bdev) < XS_SUPER_SLOTS * XS_BLOCK_BYTES)
		return xs_because(why, XS_ENOTSTORE, "not an xstore: too small");
	error = read_supers(bdev, image, why);
	if (!error)
		error = xs_space_init(&image->space, image->super.blocks);
	if (!error)
		error = mark(image, 0, XS_SUPER_SLOTS, why);
	if (!error)
		error = read_payload(bdev, image, why);
	if (!error)
		error = read_objects(image, fn, arg, why);
	return error;
}

void xs_image_free(struct xs_image *image)
{
	xs_space_exit(&image->space);
	free(image->meta.v);
	free(image->payload);
	memset(image, 0, sizeof(*image));
}
