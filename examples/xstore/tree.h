/* SPDX-License-Identifier: MIT */
/*
 * tree.h - the tree of metadata as it lies on the device, and which of its nodes have to be
 * written.
 *
 * Each level is an array of nodes in the order of their keys.  A node has the items from its
 * `low` up to the `low` of the node behind it, and keeps none of them in memory: the items of
 * a leaf are objects and extents, which the store has, and those of an inner node are the
 * nodes of the level below.  A commit makes them anew for the nodes that have changed.
 *
 *	clean	on the device as it should be
 *	dirty	its items, or how they are divided among nodes, have changed
 *	shaped	its items are settled; the next commit writes it
 *
 * What is above a node that is not clean is not clean either.  Marking a node dirty needs no
 * memory, so completions do it.
 *
 * Everything here is protected by store->lock, and nodes come and go by commits only.
 */
#ifndef XSTORE_TREE_H
#define XSTORE_TREE_H

#include <sys/queue.h>

#include "format.h"
#include "space.h"

struct xs_store;

enum xs_node_state { XS_NODE_CLEAN, XS_NODE_DIRTY, XS_NODE_SHAPED };

struct xs_node {
	struct xs_child ref; /* ref.block 0: nothing on the device is it */
	uint32_t bytes;	     /* of items, unless it is dirty */
	uint8_t level;	     /* 0: leaf */
	uint8_t state;
	LIST_ENTRY(xs_node) entry; /* in `dirty` or `shaped` */
};

LIST_HEAD(xs_node_list, xs_node);

struct xs_level {
	struct xs_node **v; /* by ref.low; that of the first is the lowest key */
	size_t nr, max;
	struct xs_node_list dirty, shaped;
};

struct xs_tree {
	struct xs_level levels[XS_LEVELS_MAX];
	unsigned levels_nr; /* the last one has one node, unless a commit is to settle that */
	uint64_t nodes_nr;
	uint64_t shaped_nr;
};

/* A tree of no level, for xs_tree_add(). */
void xs_tree_init(struct xs_tree *tree);
void xs_tree_exit(struct xs_tree *tree);
/* A clean node behind the last one of its level.  Return: 0 or -ENOMEM. */
int xs_tree_add(struct xs_tree *tree, unsigned level, const struct xs_child *ref);
/* One leaf without items, if there is none.  Return: 0 or -ENOMEM. */
int xs_tree_begin(struct xs_tree *tree);

/* Items with keys from @low to @high, inclusive, come, go or change. */
void xs_tree_mark(struct xs_tree *tree, struct xs_key low, struct xs_key high);
/* A node that was written has not reached the device. */
void xs_tree_lost(struct xs_tree *tree, struct xs_node *node);

/*
 * Settle which nodes there are: split those that are too full, merge those that are not full
 * enough.  The blocks of nodes that go are freed with the commit to come.
 * Return: 0; -ENOMEM, and then what is not done yet is done by the next call.
 */
int xs_tree_shape(struct xs_store *store);
/*
 * Encode the shaped nodes, which are clean then, into @buffer, for the blocks of @runs;
 * @nodes receives them.  There is room in the list of freed blocks for as many.
 */
void xs_tree_encode(struct xs_store *store, uint64_t generation, const struct xs_runs *runs,
		    uint8_t *buffer, struct xs_node **nodes);
/* The root; NULL when there are no items. */
const struct xs_node *xs_tree_root(const struct xs_tree *tree);

/* Most nodes that a shaped tree has when its items take @bytes. */
uint64_t xs_tree_nodes_max(uint64_t bytes);

#endif
