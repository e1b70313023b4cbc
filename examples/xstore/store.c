/* SPDX-License-Identifier: MIT */
/*
 * store.c - make, open, commit and close a store.
 *
 * A commit writes all metadata anew, into blocks that nothing durable names, and then one
 * super block, over the older of the two:
 *
 *	1. under `lock`: encode everything as it is, take blocks for it, remember how many
 *	   runs `freed` has;
 *	2. write the metadata blocks;
 *	3. write the super block with PREFLUSH and FUA: the device makes durable what had
 *	   completed, which is these blocks and all data that the encoded extents name as
 *	   written, then the super block, and only then tells us;
 *	4. under `lock`: the blocks of the metadata before, and what was freed before step 1,
 *	   are free.
 *
 * One flush is enough: nothing durable names the metadata blocks before the super block
 * lands, so it does not matter when, before that, they and the data do.
 *
 * When step 3 fails nobody knows which super block is on the device.  So the next commit
 * writes the same slot again, with a higher generation, and the blocks of the failed one
 * wait in `freed`, like everything it would have freed.
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

static int write_super(struct iomap_bdev *bdev, const struct xs_super *super, unsigned slot)
{
	const uint32_t opf = IOMAP_REQ_OP_WRITE | IOMAP_REQ_META | IOMAP_REQ_PREFLUSH |
			     IOMAP_REQ_FUA;
	uint8_t *block = alloc_blocks(1);
	int error;

	if (!block)
		return -ENOMEM;
	xs_super_encode(super, block);
	error = xs_block_io(bdev, opf, slot, block, 1);
	free(block);
	return error;
}

/* ---- make ---- */

int xs_mkfs(struct iomap_bdev *bdev, uint64_t bytes, uint64_t id)
{
	uint64_t blocks = (bytes ? bytes : iomap_bdev_bytes(bdev)) >> XS_BLOCK_SHIFT;
	struct xs_super super = { .id = id, .generation = 1, .blocks = blocks };
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
		error = write_super(bdev, &super, slot);
	return error;
}

/* ---- open and close ---- */

static int adopt(void *arg, const struct xs_record *record, struct xs_extent *extents)
{
	return xs_adopt(arg, record, extents);
}

static void store_free(struct xs_store *store)
{
	for (size_t i = 0; i < store->objects_nr; i++)
		xs_object_free(store->objects[i]);
	free(store->objects);
	free(store->meta.v);
	xs_space_exit(&store->space);
	pthread_mutex_destroy(&store->lock);
	pthread_mutex_destroy(&store->commit_lock);
	pthread_mutex_destroy(&store->open_lock);
	free(store);
}

int xs_open(struct iomap_engine *engine, struct iomap_bdev *bdev, bool readonly,
	    struct xs_store **out, struct xs_why *why)
{
	struct xs_store *store = calloc(1, sizeof(*store));
	struct xs_image image;
	int error;

	if (!store)
		return -ENOMEM;
	pthread_mutex_init(&store->open_lock, NULL);
	pthread_mutex_init(&store->commit_lock, NULL);
	pthread_mutex_init(&store->lock, NULL);
	store->engine = engine;
	store->bdev = bdev;
	store->readonly = readonly;
	error = xs_image_load(bdev, &image, adopt, store, why);
	if (!error) {
		store->super = image.super;
		store->slot = image.slot;
		store->generation = image.super.generation;
		store->space = image.space;
		store->meta = image.meta;
		store->meta_nr = image.meta.nr;
		memset(&image.space, 0, sizeof(image.space));
		memset(&image.meta, 0, sizeof(image.meta));
		store->committed = store->changes;
	}
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

/* ---- commit ---- */

/* What one commit writes. */
struct commit {
	struct xs_super super;
	uint8_t *payload;
	struct xs_runs meta;
	size_t freed_nr; /* runs that are free when it is durable */
	uint64_t changes;
};

static uint64_t payload_bytes(const struct xs_store *store)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < store->objects_nr; i++)
		bytes += XS_RECORD_BYTES + strlen(store->objects[i]->name) +
			 (uint64_t)store->objects[i]->extents_nr * XS_EXTENT_BYTES;
	return bytes;
}

/*
 * Blocks that the metadata may come to need when @more unwritten blocks are added: as if all
 * objects had a name and each unwritten block were an extent; one object and two extents
 * more, which is what a single change may add.
 */
static uint64_t meta_max(const struct xs_store *store, uint64_t more)
{
	uint64_t bytes = (store->all_nr + 1) * XS_RECORD_BYTES + store->name_bytes + XS_NAME_MAX +
			 (store->weight + more + 2) * XS_EXTENT_BYTES;

	return bytes > XS_META_BYTES_MAX ? UINT64_MAX / 4 : xs_meta_blocks(bytes);
}

/*
 * A commit holds the old metadata and the new.  What one takes, the next gets back; so with
 * twice the most that there may be, each finds room, whatever it takes.
 */
static bool can_spare(const struct xs_store *store, uint64_t nr)
{
	uint64_t room = store->space.free_nr + store->meta_nr, keep = 2 * meta_max(store, nr);

	return keep <= room && nr <= room - keep;
}

bool xs_space_full(const struct xs_store *store)
{
	return !can_spare(store, 0);
}

uint64_t xs_space_spare(const struct xs_store *store, uint64_t want)
{
	uint64_t low = 0, high = want < store->space.free_nr ? want : store->space.free_nr;

	if (can_spare(store, high))
		return high;
	while (low + 1 < high) {
		uint64_t mid = low + (high - low) / 2;

		if (can_spare(store, mid))
			low = mid;
		else
			high = mid;
	}
	return low;
}

bool xs_space_waiting(const struct xs_store *store)
{
	return store->space.freed.nr > 0 || store->changes != store->committed;
}

static void encode_object(struct xs_cursor *to, const struct xs_object *object)
{
	struct xs_record record = {
		.name_bytes = (uint16_t)strlen(object->name),
		.id = object->id,
		.size = object->size,
		.extents_nr = object->extents_nr,
	};

	memcpy(record.name, object->name, record.name_bytes);
	xs_record_encode(to, &record);
	for (uint32_t i = 0; i < object->extents_nr; i++)
		xs_extent_encode(to, &object->extents[i]);
}

static int take_meta_blocks(struct xs_store *store, struct commit *commit, uint64_t nr)
{
	uint64_t start, got;

	while (nr) {
		got = xs_space_take(&store->space, 0, nr, &start);
		if (!got)
			return -ENOSPC;
		if (xs_runs_add(&commit->meta, start, got)) {
			xs_space_release(&store->space, start, got);
			return -ENOMEM;
		}
		nr -= got;
	}
	return 0;
}

/* Step 1. */
static int commit_encode(struct xs_store *store, struct commit *commit)
{
	uint64_t bytes = payload_bytes(store);
	struct xs_cursor to = { NULL, (size_t)bytes };
	int error;

	if (bytes > XS_META_BYTES_MAX)
		return -ENOSPC;
	commit->payload = malloc((size_t)bytes + 1);
	if (!commit->payload)
		return -ENOMEM;
	error = take_meta_blocks(store, commit, xs_meta_blocks(bytes));
	if (error)
		return error;
	to.at = commit->payload;
	for (size_t i = 0; i < store->objects_nr; i++)
		encode_object(&to, store->objects[i]);
	commit->super = store->super;
	commit->super.meta_bytes = bytes;
	commit->super.meta_first = commit->meta.nr ? commit->meta.v[0].start : 0;
	commit->super.objects_nr = store->objects_nr;
	commit->super.generation = store->generation + 1;
	commit->freed_nr = store->space.freed.nr;
	commit->changes = store->changes;
	return 0;
}

/* Fill and write the blocks of run @n; @from moves over the payload. */
static int write_meta_run(struct xs_store *store, const struct commit *commit, size_t n,
			  struct xs_cursor *from)
{
	const struct xs_run *run = &commit->meta.v[n];
	uint64_t behind = n + 1 < commit->meta.nr ? run[1].start : 0;
	uint8_t *blocks = alloc_blocks(run->nr);
	int error;

	if (!blocks)
		return -ENOMEM;
	memset(blocks, 0, (size_t)run->nr << XS_BLOCK_SHIFT);
	for (uint64_t i = 0; i < run->nr; i++) {
		uint8_t *block = blocks + (i << XS_BLOCK_SHIFT);
		uint64_t self = run->start + i;
		size_t bytes = from->left < XS_META_PAYLOAD_BYTES ? from->left :
								    XS_META_PAYLOAD_BYTES;

		memcpy(block + XS_META_HEADER_BYTES, from->at, bytes);
		from->at += bytes;
		from->left -= bytes;
		xs_meta_seal(block, &commit->super, self, i + 1 < run->nr ? self + 1 : behind,
			     (uint32_t)bytes);
	}
	error = xs_block_io(store->bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_META, run->start, blocks,
			    run->nr);
	free(blocks);
	return error;
}

/* Steps 2 and 3.  @named: the super block may be on the device, also after an error. */
static int commit_write(struct xs_store *store, struct commit *commit, bool *named)
{
	struct xs_cursor from = { commit->payload, (size_t)commit->super.meta_bytes };
	int error = 0;

	for (size_t n = 0; !error && n < commit->meta.nr; n++)
		error = write_meta_run(store, commit, n, &from);
	if (error)
		return error;
	*named = true;
	store->generation = commit->super.generation;
	return write_super(store->bdev, &commit->super, !store->slot);
}

/* Step 4. */
static void commit_done(struct xs_store *store, struct commit *commit)
{
	struct xs_runs old = store->meta;

	xs_space_committed(&store->space, commit->freed_nr);
	for (size_t i = 0; i < old.nr; i++)
		xs_space_release(&store->space, old.v[i].start, old.v[i].nr);
	store->meta = commit->meta;
	commit->meta = old;
	store->meta_nr = xs_meta_blocks(commit->super.meta_bytes);
	store->super = commit->super;
	store->slot = !store->slot;
	store->committed = commit->changes;
}

static void commit_failed(struct xs_store *store, const struct commit *commit, bool named)
{
	for (size_t i = 0; i < commit->meta.nr; i++) {
		const struct xs_run *run = &commit->meta.v[i];

		if (named)
			xs_space_free(&store->space, run->start, run->nr);
		else
			xs_space_release(&store->space, run->start, run->nr);
	}
}

static int commit_locked(struct xs_store *store)
{
	struct commit commit = { 0 };
	bool named = false;
	int error;

	pthread_mutex_lock(&store->lock);
	if (store->changes == store->committed) {
		pthread_mutex_unlock(&store->lock);
		/* no change of metadata, but maybe data in place that has been written */
		return store->readonly ? 0 : iomap_bdev_flush(store->bdev);
	}
	error = store->readonly ? -EROFS : commit_encode(store, &commit);
	pthread_mutex_unlock(&store->lock);
	if (!error)
		error = commit_write(store, &commit, &named);
	pthread_mutex_lock(&store->lock);
	if (error)
		commit_failed(store, &commit, named);
	else
		commit_done(store, &commit);
	pthread_mutex_unlock(&store->lock);
	free(commit.payload);
	free(commit.meta.v);
	return error;
}

int xs_commit(struct xs_store *store)
{
	int error;

	pthread_mutex_lock(&store->commit_lock);
	error = commit_locked(store);
	pthread_mutex_unlock(&store->commit_lock);
	return error;
}

void xs_usage(struct xs_store *store, struct xs_usage *out)
{
	pthread_mutex_lock(&store->commit_lock);
	pthread_mutex_lock(&store->lock);
	*out = (struct xs_usage){
		.blocks = store->super.blocks,
		.free_nr = store->space.free_nr,
		.objects_nr = store->objects_nr,
		.generation = store->super.generation,
		.meta_nr = xs_meta_blocks(store->super.meta_bytes) + XS_SUPER_SLOTS,
	};
	pthread_mutex_unlock(&store->lock);
	pthread_mutex_unlock(&store->commit_lock);
}
