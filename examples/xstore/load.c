/* SPDX-License-Identifier: MIT */
/*
 * load.c - read the metadata of a store and believe nothing of it.
 *
 * Opening and checking share this.  The tree is read level by level, from the root down; what
 * a node says of one below is held against that.  Memory is bounded by what the device can
 * hold: nodes have to be inside the store, each there once, and not more than the super block
 * says, and there are no more levels than that says either.
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

/* ---- objects ---- */

struct reader {
	struct iomap_bdev *bdev;
	struct xs_image *image;
	struct xs_why *why;
	xs_object_fn *fn; /* may be NULL */
	void *arg;
	struct xs_space data; /* taken: written extents; only if they may share blocks */
	uint8_t *buffer;      /* of READ_BLOCKS, or less if there are less */
	struct xs_key last;   /* key read */
	bool any;	      /* key was read */

	/* the object whose items come */
	struct xs_record record;
	struct xs_extent *extents;
	uint32_t extents_nr, extents_max;
	char **names; /* of those before, and this one */
	size_t names_nr, names_max;
};

static int used_twice(struct reader *reader, uint64_t start)
{
	return xs_because(reader->why, XS_EDAMAGED, "block used twice at %" PRIu64, start);
}

static int mark(struct reader *reader, uint64_t start, uint64_t nr)
{
	return xs_space_mark(&reader->image->space, start, nr) ? 0 : used_twice(reader, start);
}

/* One of several owners of a block, or else two uses of it. */
static int mark_shared(struct reader *reader, uint64_t block)
{
	struct xs_space *space = &reader->image->space;
	int error;

	if (xs_space_mark(space, block, 1)) {
		xs_space_mark(&reader->data, block, 1);
		reader->image->data_nr++;
		return 0;
	}
	if (xs_space_mark(&reader->data, block, 1))
		return used_twice(reader, block);
	error = xs_shares_add(&space->shares, block, 1);
	if (error == -EMLINK)
		return xs_because(reader->why, XS_EDAMAGED, "too many owners of block %" PRIu64,
				  block);
	return error;
}

/* Nodes are all known by now: leaves are read last, and inner nodes name them. */
static int mark_extent(struct reader *reader, const struct xs_extent *extent)
{
	bool may_share = reader->data.bits && !extent->unwritten;
	int error = 0;

	if (xs_space_mark(&reader->image->space, extent->disk, extent->nr)) {
		if (may_share)
			xs_space_mark(&reader->data, extent->disk, extent->nr);
		reader->image->data_nr += extent->nr;
		return 0;
	}
	if (!may_share)
		return used_twice(reader, extent->disk);
	for (uint32_t i = 0; !error && i < extent->nr; i++)
		error = mark_shared(reader, extent->disk + i);
	return error;
}

/* The object is complete, if there is one. */
static int end_object(struct reader *reader)
{
	struct xs_extent *extents = reader->extents;
	int error = 0;

	if (!reader->names_nr)
		return 0;
	reader->extents = NULL;
	if (reader->fn)
		error = reader->fn(reader->arg, &reader->record, extents, reader->extents_nr);
	else
		free(extents);
	reader->extents_nr = reader->extents_max = 0;
	return error;
}

static int begin_object(struct reader *reader, const struct xs_record *record)
{
	size_t max = reader->names_max ? 2 * reader->names_max : 64;
	char **names;
	int error = end_object(reader);

	if (error)
		return error;
	if (!record->id || record->id >= reader->image->super.next_id)
		return xs_because(reader->why, XS_EDAMAGED, "object of an impossible id");
	if (reader->names_nr == reader->names_max) {
		names = realloc(reader->names, max * sizeof(*names));
		if (!names)
			return -ENOMEM;
		reader->names = names;
		reader->names_max = max;
	}
	reader->record = *record;
	reader->names[reader->names_nr] = strdup(record->name);
	if (!reader->names[reader->names_nr])
		return -ENOMEM;
	reader->names_nr++;
	return 0;
}

static int add_extent(struct reader *reader, uint64_t id, const struct xs_extent *extent)
{
	uint32_t nr = reader->extents_nr, max = nr ? 2 * nr : 4;
	struct xs_extent *extents;

	if (!reader->names_nr || id != reader->record.id)
		return xs_because(reader->why, XS_EDAMAGED, "extent of no object");
	if (nr && extent->file < xs_extent_end(&reader->extents[nr - 1]))
		return xs_because(reader->why, XS_EDAMAGED, "extents overlap in an object");
	if (nr == reader->extents_max) {
		extents = max < nr ? NULL : realloc(reader->extents, max * sizeof(*extents));
		if (!extents)
			return -ENOMEM;
		reader->extents = extents;
		reader->extents_max = max;
	}
	reader->extents[reader->extents_nr++] = *extent;
	return mark_extent(reader, extent);
}

static int compare_names(const void *a, const void *b)
{
	char *const *left = a, *const *right = b;

	return strcmp(*left, *right);
}

static int end_objects(struct reader *reader)
{
	int error = end_object(reader);

	if (error)
		return error;
	if (reader->names_nr != reader->image->super.objects_nr)
		return xs_because(reader->why, XS_EDAMAGED, "%zu objects, not %" PRIu64,
				  reader->names_nr, reader->image->super.objects_nr);
	if (reader->names_nr)
		qsort(reader->names, reader->names_nr, sizeof(char *), compare_names);
	for (size_t i = 1; i < reader->names_nr; i++)
		if (!strcmp(reader->names[i - 1], reader->names[i]))
			return xs_because(reader->why, XS_EDAMAGED, "two objects of one name");
	return 0;
}

/* ---- nodes ---- */

#define READ_BLOCKS 64U

/* Items come in order, and lie in what their node has: from @low to below @high. */
static int check_key(struct reader *reader, struct xs_key key, struct xs_key low,
		     const struct xs_key *high)
{
	if (xs_key_cmp(key, low) < 0 || (high && xs_key_cmp(key, *high) >= 0) ||
	    (reader->any && xs_key_cmp(key, reader->last) <= 0))
		return xs_because(reader->why, XS_EDAMAGED, "items out of order");
	reader->last = key;
	reader->any = true;
	return 0;
}

static int add_node(struct reader *reader, unsigned level, const struct xs_child *ref)
{
	struct xs_image *image = reader->image;
	int error = mark(reader, ref->block, 1);

	if (!error && image->tree.nodes_nr == image->super.nodes_nr)
		error = xs_because(reader->why, XS_EDAMAGED, "more metadata than there should be");
	return error ? error : xs_tree_add(&image->tree, level, ref);
}

static int read_child(struct reader *reader, struct xs_cursor *from, const struct xs_node *node,
		      bool first, const struct xs_key *high)
{
	struct xs_child child;
	int error = xs_child_decode(from, reader->image->super.blocks, &child, reader->why);

	if (!error)
		error = check_key(reader, child.low, node->ref.low, high);
	if (!error && first && xs_key_cmp(child.low, node->ref.low) != 0)
		error = xs_because(reader->why, XS_EDAMAGED, "items out of order");
	if (!error && child.generation > node->ref.generation)
		error = xs_because(reader->why, XS_EDAMAGED, "a node newer than what names it");
	return error ? error : add_node(reader, node->level - 1U, &child);
}

static int read_item(struct reader *reader, struct xs_cursor *from, const struct xs_node *node,
		     const struct xs_key *high)
{
	struct xs_item item;
	int error = xs_item_decode(from, reader->image->super.blocks, &item, reader->why);

	if (!error)
		error = check_key(reader, item.key, node->ref.low, high);
	if (error)
		return error;
	return item.is_extent ? add_extent(reader, item.key.id, &item.extent) :
				begin_object(reader, &item.record);
}

static int read_items(struct reader *reader, struct xs_node *node, uint8_t *block,
		      const struct xs_key *high)
{
	struct xs_node_head head;
	struct xs_cursor from = { block + XS_NODE_HEADER_BYTES, 0 };
	int error = xs_node_verify(block, &reader->image->super, &node->ref, node->level, &head,
				   reader->why);

	if (error)
		return error;
	from.left = head.bytes;
	node->bytes = head.bytes;
	for (uint32_t i = 0; !error && i < head.items_nr; i++)
		error = node->level ? read_child(reader, &from, node, !i, high) :
				      read_item(reader, &from, node, high);
	if (!error && from.left)
		error = xs_because(reader->why, XS_EDAMAGED,
				   "metadata block %" PRIu64 ": bytes behind the last item",
				   node->ref.block);
	return error;
}

/* The blocks of up to READ_BLOCKS nodes from @i on, those that adjoin at once. */
static int read_blocks(struct reader *reader, struct xs_node **nodes, size_t nr)
{
	const uint32_t opf = IOMAP_REQ_OP_READ | IOMAP_REQ_META;
	size_t run;
	int error;

	for (size_t i = 0; i < nr; i += run) {
		uint64_t block = nodes[i]->ref.block;

		for (run = 1; i + run < nr && nodes[i + run]->ref.block == block + run;)
			run++;
		error = xs_block_io(reader->bdev, opf, block,
				    reader->buffer + (i << XS_BLOCK_SHIFT), run);
		if (error)
			return xs_because(reader->why, error, "cannot read metadata block %" PRIu64,
					  block);
	}
	return 0;
}

static int read_level(struct reader *reader, unsigned n)
{
	struct xs_level *level = &reader->image->tree.levels[n];
	int error = 0;

	reader->any = false;
	for (size_t i = 0; !error && i < level->nr; i += READ_BLOCKS) {
		size_t nr = level->nr - i < READ_BLOCKS ? level->nr - i : READ_BLOCKS;

		error = read_blocks(reader, level->v + i, nr);
		for (size_t k = i; !error && k < i + nr; k++)
			error = read_items(reader, level->v[k],
					   reader->buffer + ((k - i) << XS_BLOCK_SHIFT),
					   k + 1 < level->nr ? &level->v[k + 1]->ref.low : NULL);
	}
	return error;
}

static int read_tree(struct reader *reader)
{
	const struct xs_super *super = &reader->image->super;
	struct xs_child root = {
		.block = super->root,
		.generation = super->root_generation,
		.checksum = super->root_checksum,
	};
	int error = super->root ? add_node(reader, super->levels_nr - 1, &root) : 0;

	for (unsigned n = super->levels_nr; !error && n > 0; n--)
		error = read_level(reader, n - 1);
	if (!error && reader->image->tree.nodes_nr != super->nodes_nr)
		error = xs_because(reader->why, XS_EDAMAGED, "less metadata than there should be");
	return error ? error : end_objects(reader);
}

static int read_all(struct reader *reader)
{
	uint64_t nr = reader->image->super.nodes_nr;
	int error = mark(reader, 0, XS_SUPER_SLOTS);

	nr = nr < 1 ? 1 : nr < READ_BLOCKS ? nr : READ_BLOCKS;
	reader->buffer = aligned_alloc(XS_BLOCK_BYTES, nr << XS_BLOCK_SHIFT);
	if (!error && !reader->buffer)
		error = -ENOMEM;
	if (!error && reader->image->super.incompat & XS_INCOMPAT_SHARED)
		error = xs_space_init(&reader->data, reader->image->super.blocks);
	if (!error)
		error = read_tree(reader);
	xs_space_exit(&reader->data);
	for (size_t i = 0; i < reader->names_nr; i++)
		free(reader->names[i]);
	free(reader->names);
	free(reader->extents);
	free(reader->buffer);
	return error;
}

int xs_image_load(struct iomap_bdev *bdev, struct xs_image *image, xs_object_fn *fn, void *arg,
		  struct xs_why *why)
{
	struct reader reader = {
		.bdev = bdev,
		.image = image,
		.why = why,
		.fn = fn,
		.arg = arg,
	};
	int error;

	memset(image, 0, sizeof(*image));
	xs_tree_init(&image->tree);
	why->text[0] = '\0';
	if (iomap_bdev_bytes(bdev) < XS_SUPER_SLOTS * XS_BLOCK_BYTES)
		return xs_because(why, XS_ENOTSTORE, "not an xstore: too small");
	error = read_supers(bdev, image, why);
	if (!error)
		error = xs_space_init(&image->space, image->super.blocks);
	return error ? error : read_all(&reader);
}

void xs_image_free(struct xs_image *image)
{
	xs_space_exit(&image->space);
	xs_tree_exit(&image->tree);
	memset(image, 0, sizeof(*image));
}
