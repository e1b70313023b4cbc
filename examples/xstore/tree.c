/* SPDX-License-Identifier: MIT */
/*
 * tree.c - which nodes there are, and what is in them.  See tree.h.
 *
 * Shaping goes level by level, from the leaves up.  A dirty node that is too full is split,
 * into equal parts, or at the end of a level into full ones, since new objects come there.
 * Two neighbours, of one parent or of two, become one when together they fill a node to
 * 7/8 at most, and an empty node goes.  So of any two neighbours together more is filled than
 * that: this bounds the number of nodes (xs_tree_nodes_max()), and the eighth between a split
 * and a merge keeps nodes from going to and fro.
 *
 * The node before one that goes takes over its keys.  If the one that goes is the first below
 * its parent, the parent's `low` becomes that of the next, when its level is shaped.
 */
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

#define MERGE_BYTES (XS_NODE_PAYLOAD_BYTES - XS_NODE_PAYLOAD_BYTES / 8)

static const struct xs_key key_end = { UINT64_MAX, UINT64_MAX }; /* behind all keys */

/* ---- nodes ---- */

/* The last node whose `low` is not above @key. */
static size_t find(const struct xs_level *level, struct xs_key key)
{
	size_t low = 0, high = level->nr;

	while (low + 1 < high) {
		size_t mid = low + (high - low) / 2;

		if (xs_key_cmp(level->v[mid]->ref.low, key) <= 0)
			low = mid;
		else
			high = mid;
	}
	return low;
}

static void unlist(struct xs_tree *tree, struct xs_node *node)
{
	if (node->state == XS_NODE_CLEAN)
		return;
	LIST_REMOVE(node, entry);
	tree->shaped_nr -= node->state == XS_NODE_SHAPED;
	node->state = XS_NODE_CLEAN;
}

/* The node, and what is above it. */
static void set_dirty(struct xs_tree *tree, struct xs_node *node)
{
	for (;;) {
		struct xs_level *level = &tree->levels[node->level];

		if (node->state != XS_NODE_DIRTY) {
			unlist(tree, node);
			LIST_INSERT_HEAD(&level->dirty, node, entry);
			node->state = XS_NODE_DIRTY;
		}
		if (node->level + 1U == tree->levels_nr)
			return;
		level++;
		node = level->v[find(level, node->ref.low)];
	}
}

static int level_room(struct xs_level *level)
{
	size_t max = level->max ? 2 * level->max : 8;
	struct xs_node **v;

	if (level->nr < level->max)
		return 0;
	v = realloc(level->v, max * sizeof(*v));
	if (!v)
		return -ENOMEM;
	level->v = v;
	level->max = max;
	return 0;
}

static struct xs_node *insert(struct xs_tree *tree, unsigned n, size_t at, struct xs_key low)
{
	struct xs_level *level = &tree->levels[n];
	struct xs_node *node = calloc(1, sizeof(*node));

	if (!node || level_room(level)) {
		free(node);
		return NULL;
	}
	node->ref.low = low;
	node->level = (uint8_t)n;
	memmove(level->v + at + 1, level->v + at, (level->nr - at) * sizeof(*level->v));
	level->v[at] = node;
	level->nr++;
	tree->nodes_nr++;
	return node;
}

/* What is above it is dirty, and there is room in `freed`. */
static void drop(struct xs_store *store, struct xs_level *level, size_t at)
{
	struct xs_node *node = level->v[at];

	unlist(&store->tree, node);
	level->nr--;
	memmove(level->v + at, level->v + at + 1, (level->nr - at) * sizeof(*level->v));
	store->tree.nodes_nr--;
	xs_meta_free(store, node->ref.block);
	free(node);
}

void xs_tree_init(struct xs_tree *tree)
{
	memset(tree, 0, sizeof(*tree));
}

void xs_tree_exit(struct xs_tree *tree)
{
	for (unsigned n = 0; n < XS_LEVELS_MAX; n++) {
		for (size_t i = 0; i < tree->levels[n].nr; i++)
			free(tree->levels[n].v[i]);
		free(tree->levels[n].v);
	}
	xs_tree_init(tree);
}

int xs_tree_add(struct xs_tree *tree, unsigned level, const struct xs_child *ref)
{
	struct xs_node *node = insert(tree, level, tree->levels[level].nr, ref->low);

	if (!node)
		return -ENOMEM;
	node->ref = *ref;
	if (tree->levels_nr <= level)
		tree->levels_nr = level + 1;
	return 0;
}

int xs_tree_begin(struct xs_tree *tree)
{
	static const struct xs_child none;

	return tree->levels_nr ? 0 : xs_tree_add(tree, 0, &none);
}

void xs_tree_mark(struct xs_tree *tree, struct xs_key low, struct xs_key high)
{
	struct xs_level *leaves = &tree->levels[0];
	size_t i = find(leaves, low);

	do
		set_dirty(tree, leaves->v[i]);
	while (++i < leaves->nr && xs_key_cmp(leaves->v[i]->ref.low, high) <= 0);
}

void xs_tree_lost(struct xs_tree *tree, struct xs_node *node)
{
	node->ref.block = 0;
	set_dirty(tree, node);
}

const struct xs_node *xs_tree_root(const struct xs_tree *tree)
{
	const struct xs_node *root = tree->levels[tree->levels_nr - 1].v[0];

	return root->ref.block ? root : NULL;
}

uint64_t xs_tree_nodes_max(uint64_t bytes)
{
	uint64_t total = 0, nr;

	do {
		nr = 2 * bytes / MERGE_BYTES + 1;
		total += nr;
		bytes = nr * XS_CHILD_BYTES;
	} while (nr > 1);
	return total;
}

/* ---- items ---- */

/* Over the items of a node. */
struct walk {
	const struct xs_store *store;
	const struct xs_level *below; /* NULL: of a leaf */
	struct xs_key high;
	size_t at;	 /* node below, or object */
	uint32_t extent; /* of the object, when its own item is done */
	bool object_done;
};

struct item {
	struct xs_key key;
	uint32_t bytes;
	const struct xs_node *child; /* one of these three */
	const struct xs_object *object;
	const struct xs_extent *extent;
};

static void begin_objects(struct walk *walk, struct xs_key low)
{
	const struct xs_object *object;
	uint64_t block;

	walk->at = xs_object_find_id(walk->store, low.id);
	if (walk->at == walk->store->objects_nr || low.at <= XS_AT_OBJECT)
		return;
	object = walk->store->by_id[walk->at];
	if (object->id != low.id)
		return;
	walk->object_done = true;
	block = low.at > XS_AT_EXTENT ? low.at - XS_AT_EXTENT : 0;
	walk->extent = xs_extent_find(object, block);
	/* one that begins before is the item of the leaf before */
	if (walk->extent < object->extents_nr && object->extents[walk->extent].file < block)
		walk->extent++;
}

static struct walk walk_begin(const struct xs_store *store, unsigned n, size_t i)
{
	const struct xs_level *level = &store->tree.levels[n];
	struct xs_key low = level->v[i]->ref.low;
	struct walk walk = {
		.store = store,
		.below = n ? level - 1 : NULL,
		.high = i + 1 < level->nr ? level->v[i + 1]->ref.low : key_end,
	};

	if (!n) {
		begin_objects(&walk, low);
		return walk;
	}
	walk.at = find(walk.below, low);
	/* the lowest below a node may have gone to the node before */
	if (xs_key_cmp(walk.below->v[walk.at]->ref.low, low) < 0)
		walk.at++;
	return walk;
}

static bool next_child(struct walk *walk, struct item *item)
{
	if (walk->at == walk->below->nr)
		return false;
	*item = (struct item){ .child = walk->below->v[walk->at], .bytes = XS_CHILD_BYTES };
	item->key = item->child->ref.low;
	walk->at++;
	return xs_key_cmp(item->key, walk->high) < 0;
}

static bool next_of_object(struct walk *walk, struct item *item)
{
	const struct xs_object *object;

	while (walk->at < walk->store->objects_nr) {
		object = walk->store->by_id[walk->at];
		*item = (struct item){ .key = { object->id, XS_AT_OBJECT }, .object = object };
		if (!walk->object_done) {
			item->bytes = XS_OBJECT_BYTES + (uint32_t)strlen(object->name);
			walk->object_done = true;
			return true;
		}
		if (walk->extent < object->extents_nr) {
			item->extent = &object->extents[walk->extent++];
			item->key.at = XS_AT_EXTENT + item->extent->file;
			item->bytes = XS_EXTENT_BYTES;
			return true;
		}
		walk->at++;
		walk->extent = 0;
		walk->object_done = false;
	}
	return false;
}

static bool walk_next(struct walk *walk, struct item *item)
{
	if (walk->below)
		return next_child(walk, item);
	return next_of_object(walk, item) && xs_key_cmp(item->key, walk->high) < 0;
}

static uint64_t count_bytes(const struct xs_store *store, unsigned n, size_t i)
{
	struct walk walk = walk_begin(store, n, i);
	struct item item;
	uint64_t bytes = 0;

	while (walk_next(&walk, &item))
		bytes += item.bytes;
	return bytes;
}

/* ---- shaping ---- */

static uint64_t node_bytes(const struct xs_store *store, unsigned n, size_t i)
{
	const struct xs_node *node = store->tree.levels[n].v[i];

	return node->state == XS_NODE_DIRTY ? count_bytes(store, n, i) : node->bytes;
}

/* The parts stay dirty, and are looked at again. */
static int split(struct xs_store *store, unsigned n, size_t i, uint64_t bytes)
{
	bool last = i + 1 == store->tree.levels[n].nr;
	uint64_t parts = (bytes + XS_NODE_PAYLOAD_BYTES - 1) / XS_NODE_PAYLOAD_BYTES;
	uint64_t target = last ? XS_NODE_PAYLOAD_BYTES : (bytes + parts - 1) / parts;
	struct walk walk = walk_begin(store, n, i);
	struct xs_node *node;
	struct item item;
	uint64_t used = 0;

	while (walk_next(&walk, &item)) {
		if (used && (used >= target || used + item.bytes > XS_NODE_PAYLOAD_BYTES)) {
			node = insert(&store->tree, n, ++i, item.key);
			if (!node)
				return -ENOMEM;
			set_dirty(&store->tree, node);
			used = 0;
		}
		used += item.bytes;
	}
	return 0;
}

/* Make it one with the node before or behind, if that is due. */
static bool merge(struct xs_store *store, unsigned n, size_t i, uint64_t bytes)
{
	struct xs_level *level = &store->tree.levels[n];

	if (!bytes && i) {
		drop(store, level, i);
		return true;
	}
	if (i + 1 < level->nr && (!bytes || bytes + node_bytes(store, n, i + 1) <= MERGE_BYTES)) {
		set_dirty(&store->tree, level->v[i + 1]);
		drop(store, level, i + 1);
		return true;
	}
	if (i && bytes + node_bytes(store, n, i - 1) <= MERGE_BYTES) {
		set_dirty(&store->tree, level->v[i - 1]);
		drop(store, level, i);
		return true;
	}
	return false;
}

static void settle(struct xs_store *store, struct xs_node *node, uint64_t bytes)
{
	struct xs_tree *tree = &store->tree;

	unlist(tree, node);
	node->bytes = (uint32_t)bytes;
	if (!bytes) {
		/* the only leaf: a tree without items has no node on the device */
		xs_meta_free(store, node->ref.block);
		node->ref.block = 0;
		return;
	}
	LIST_INSERT_HEAD(&tree->levels[node->level].shaped, node, entry);
	node->state = XS_NODE_SHAPED;
	tree->shaped_nr++;
}

static int shape_node(struct xs_store *store, struct xs_node *node)
{
	unsigned n = node->level;
	size_t i = find(&store->tree.levels[n], node->ref.low);
	struct walk walk;
	struct item item;
	uint64_t bytes;

	/* one node may go */
	if (xs_runs_room(&store->space.freed, 1))
		return -ENOMEM;
	if (n && i) {
		walk = walk_begin(store, n, i);
		if (walk_next(&walk, &item))
			node->ref.low = item.key;
	}
	bytes = count_bytes(store, n, i);
	if (merge(store, n, i, bytes))
		return 0;
	if (bytes > XS_NODE_PAYLOAD_BYTES)
		return split(store, n, i, bytes);
	settle(store, node, bytes);
	return 0;
}

/* The root is at level @n: what is above goes. */
static int drop_levels(struct xs_store *store, unsigned n)
{
	struct xs_tree *tree = &store->tree;
	size_t nr = 0;

	for (unsigned above = n + 1; above < tree->levels_nr; above++)
		nr += tree->levels[above].nr;
	if (xs_runs_room(&store->space.freed, nr))
		return -ENOMEM;
	while (tree->levels_nr > n + 1) {
		struct xs_level *level = &tree->levels[tree->levels_nr - 1];

		while (level->nr)
			drop(store, level, level->nr - 1);
		tree->levels_nr--;
	}
	return 0;
}

static int add_level(struct xs_tree *tree)
{
	static const struct xs_key lowest;
	struct xs_node *node;

	if (tree->levels_nr == XS_LEVELS_MAX)
		return -EFBIG;
	node = insert(tree, tree->levels_nr, 0, lowest);
	if (!node)
		return -ENOMEM;
	tree->levels_nr++;
	set_dirty(tree, node);
	return 0;
}

int xs_tree_shape(struct xs_store *store)
{
	struct xs_tree *tree = &store->tree;
	struct xs_node *node;
	int error = 0;
	unsigned n;

	for (n = 0; !error; n++) {
		while (!error && (node = LIST_FIRST(&tree->levels[n].dirty)))
			error = shape_node(store, node);
		if (!error && tree->levels[n].nr == 1)
			break;
		if (!error && n + 1 == tree->levels_nr)
			error = add_level(tree);
	}
	return error ? error : drop_levels(store, n);
}

/* ---- encoding ---- */

static void encode_item(struct xs_cursor *to, const struct item *item)
{
	struct xs_record record;

	if (item->child) {
		xs_child_encode(to, &item->child->ref);
	} else if (item->extent) {
		xs_extent_encode(to, item->key.id, item->extent);
	} else {
		record.id = item->object->id;
		record.size = item->object->size;
		record.name_bytes = (uint16_t)strlen(item->object->name);
		memcpy(record.name, item->object->name, record.name_bytes);
		xs_record_encode(to, &record);
	}
}

static void encode_node(struct xs_store *store, struct xs_node *node, uint8_t *block)
{
	const struct xs_level *level = &store->tree.levels[node->level];
	struct walk walk = walk_begin(store, node->level, find(level, node->ref.low));
	struct xs_cursor to = { block + XS_NODE_HEADER_BYTES, XS_NODE_PAYLOAD_BYTES };
	struct xs_node_head head = {
		.level = node->level,
		.bytes = node->bytes,
		.generation = node->ref.generation,
	};
	struct item item;

	memset(block, 0, XS_BLOCK_BYTES);
	while (walk_next(&walk, &item)) {
		encode_item(&to, &item);
		head.items_nr++;
	}
	node->ref.checksum = xs_node_seal(block, &head, node->ref.block, store->super.id);
}

void xs_tree_encode(struct xs_store *store, uint64_t generation, const struct xs_runs *runs,
		    uint8_t *buffer, struct xs_node **nodes)
{
	struct xs_tree *tree = &store->tree;
	const struct xs_run *run = runs->v;
	struct xs_node *node;
	uint64_t used = 0;

	for (unsigned n = 0; n < tree->levels_nr; n++) {
		while ((node = LIST_FIRST(&tree->levels[n].shaped))) {
			if (used == run->nr) {
				run++;
				used = 0;
			}
			unlist(tree, node);
			xs_meta_free(store, node->ref.block);
			node->ref.block = run->start + used++;
			node->ref.generation = generation;
			encode_node(store, node, buffer);
			buffer += XS_BLOCK_BYTES;
			*nodes++ = node;
		}
	}
}
