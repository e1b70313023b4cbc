/* SPDX-License-Identifier: MIT */
/*
 * store.c - make, open and close a store.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* Of one bio */
#define IO_BLOCKS_MAX 64U

/* ---- blocks ---- */

static int submit_blocks(struct iomap_bdev *bdev, uint32_t opf, uint64_t block, void *memory,
			 uint64_t nr)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);
	int error = -EIO;

	if (!bio)
		return -ENOMEM;
	bio->bi_iter.bi_sector = block << (XS_BLOCK_SHIFT - IOMAP_SECTOR_SHIFT);
	if (iomap_bio_add(bio, memory, (size_t)nr << XS_BLOCK_SHIFT))
		error = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return error;
}

int xs_block_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t block, void *memory, uint64_t nr)
{
	char *at = memory;
	int error = 0;

	while (!error && nr) {
		uint64_t n = nr < IO_BLOCKS_MAX ? nr : IO_BLOCKS_MAX;

		error = submit_blocks(bdev, opf | IOMAP_REQ_SYNC, block, at, n);
		at += n << XS_BLOCK_SHIFT;
		block += n;
		nr -= n;
	}
	return error;
}

static uint8_t *alloc_blocks(uint64_t nr)
{
	return aligned_alloc(XS_BLOCK_BYTES, (size_t)nr << XS_BLOCK_SHIFT);
}

/* ---- make ---- */

int xs_mkfs(struct iomap_bdev *bdev, uint64_t bytes, uint64_t id)
{
	uint64_t blocks = (bytes ? bytes : iomap_bdev_bytes(bdev)) >> XS_BLOCK_SHIFT;
	struct xs_super super = { .id = id, .generation = 1, .blocks = blocks, .next_id = 1 };
	uint8_t *zero;
	int error;

	if (bytes > iomap_bdev_bytes(bdev) || blocks < XS_BLOCKS_MIN)
		return -ENOSPC;
	if (blocks > XS_BLOCKS_MAX)
		return -EFBIG;
	/* No super block of a former store survives together with one of the new. */
	zero = alloc_blocks(XS_SUPER_SLOTS);
	if (!zero)
		return -ENOMEM;
	memset(zero, 0, XS_SUPER_SLOTS << XS_BLOCK_SHIFT);
	error = xs_block_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_META, 0, zero, XS_SUPER_SLOTS);
	free(zero);
	for (unsigned slot = 0; !error && slot < XS_SUPER_SLOTS; slot++)
		error = xs_super_write(bdev, &super, slot);
	return error;
}

/* ---- open and close ---- */

static int adopt(void *arg, const struct xs_record *record, struct xs_extent *extents,
		 uint32_t extents_nr)
{
	return xs_adopt(arg, record, extents, extents_nr);
}

static void store_free(struct xs_store *store)
{
	struct xs_object *object;

	for (size_t i = 0; i < store->objects_nr; i++)
		xs_object_free(store->objects[i]);
	while ((object = store->gone)) {
		store->gone = object->next_gone;
		xs_object_free(object);
	}
	free(store->objects);
	free(store->by_id);
	free(store->doubtful.v);
	xs_tree_exit(&store->tree);
	xs_space_exit(&store->space);
	pthread_mutex_destroy(&store->lock);
	pthread_mutex_destroy(&store->commit_lock);
	pthread_mutex_destroy(&store->open_lock);
	free(store);
}

static struct xs_store *store_alloc(struct iomap_engine *engine, struct iomap_bdev *bdev)
{
	struct xs_store *store = calloc(1, sizeof(*store));

	if (!store)
		return NULL;
	pthread_mutex_init(&store->open_lock, NULL);
	pthread_mutex_init(&store->commit_lock, NULL);
	pthread_mutex_init(&store->lock, NULL);
	store->engine = engine;
	store->bdev = bdev;
	xs_tree_init(&store->tree);
	return store;
}

/* What the store takes over from the image. */
static int take_image(struct xs_store *store, struct xs_image *image)
{
	store->super = image->super;
	store->slot = image->slot;
	store->generation = image->super.generation;
	store->next_id = image->super.next_id;
	store->space = image->space;
	store->tree = image->tree;
	memset(&image->space, 0, sizeof(image->space));
	xs_tree_init(&image->tree);
	store->meta_nr = image->super.nodes_nr;
	xs_adopted(store);
	return xs_tree_begin(&store->tree);
}

int xs_open(struct iomap_engine *engine, struct iomap_bdev *bdev, bool readonly,
	    struct xs_store **out, struct xs_why *why)
{
	struct xs_store *store = store_alloc(engine, bdev);
	struct xs_image image;
	int error;

	if (!store)
		return -ENOMEM;
	store->readonly = readonly;
	error = xs_image_load(bdev, &image, adopt, store, why);
	if (!error)
		error = take_image(store, &image);
	xs_image_free(&image);
	if (error)
		store_free(store);
	else
		*out = store;
	return error;
}

int xs_close(struct xs_store *store)
{
	bool busy;
	int error;

	if (!store)
		return 0;
	pthread_mutex_lock(&store->lock);
	busy = store->all_nr > store->objects_nr;
	for (size_t i = 0; i < store->objects_nr; i++)
		busy |= store->objects[i]->openers_nr > 0;
	pthread_mutex_unlock(&store->lock);
	if (busy)
		return -EBUSY;
	error = xs_commit(store);
	store_free(store);
	return error;
}

void xs_usage(struct xs_store *store, struct xs_usage *out)
{
	pthread_mutex_lock(&store->commit_lock);
	*out = (struct xs_usage){
		.commits_nr = store->commits_nr,
		.commit_callers_nr = store->callers_nr,
		.commit_waiting_nr = store->committing ? store->waiting_nr : 0,
	};
	pthread_mutex_unlock(&store->commit_lock);
	pthread_mutex_lock(&store->lock);
	out->blocks = store->super.blocks;
	out->free_nr = store->space.free_nr;
	out->shared_nr = store->space.shares.shared_nr;
	out->delalloc_nr = store->delalloc_nr;
	out->objects_nr = store->objects_nr;
	out->generation = store->super.generation;
	out->meta_nr = store->super.nodes_nr + XS_SUPER_SLOTS;
	pthread_mutex_unlock(&store->lock);
}
