/* SPDX-License-Identifier: MIT */
/*
 * index.c - which folio holds a page of a file: a radix tree for each address space.
 *
 * Nodes have 64 slots.  A folio stands at the lowest level whose slots are not larger than it:
 * one of 2^n pages, n < 6, in 2^n slots of a lowest node; a larger one in 2^(n - 6) slots of
 * a node above.  So a look-up never has to look for a folio's start, and one of 2 MiB costs 8
 * slots.  An entry has the folio's order in its low bits, which tells it from a node where both
 * can be: they are 0 in a node's address, and no folio of order 0 stands so high.  Tags stand
 * at the first slot only; a walk that begins inside a folio begins at its start.  One that fills at
 * least a quarter of a lowest node stands in the node's heads too, for the look-ups of hits.
 * mapping->tree_root is the root node's address with the height of the tree in the low bits,
 * so that a reader gets both in one load; 0 is the empty tree.
 *
 * Changes are made under tree_lock.  Readers walk without it: they see each slot as it was at
 * some moment.  A node that has become empty is unlinked and retired: it is used again only
 * after a grace period.  So a walk inside an epoch is exact: what it finds was there, and what
 * it does not find was not, at some moment of the walk.  One outside an epoch (hit.h) may be
 * led astray by a node that is in use again, but never to anything that is not a folio: a node
 * keeps its level, in its next life too, and its slots hold nothing but 0 and what belongs to
 * that level at any time.  Free nodes are kept by level, their slots all 0, and go back to the
 * pool only at the end of the engine.
 *
 * The height grows when needed and goes back to 0 when the last entry leaves.
 */
#include "cache/internal.h"

#define NODE_SHIFT IOMAP__NODE_SHIFT
#define NODE_SLOTS IOMAP__NODE_SLOTS
#define HEIGHT_MASK IOMAP__ROOT_HEIGHT
#define MAX_HEIGHT IOMAP__INDEX_LEVELS
#define ENTRY_ORDER IOMAP__ENTRY_ORDER
/* Retired nodes are given back in batches, since a grace period costs some microseconds. */
#define RETIRE_BATCH 64

struct iomap__node {
	_Alignas(IOMAP__CACHE_LINE) _Atomic(uintptr_t) slot[NODE_SLOTS];
	_Atomic(uintptr_t) head[IOMAP__NODE_HEADS]; /* hints, see iomap__node_leaf() */
	uint64_t tags[IOMAP__TAGS]; /* a bit for each slot; under tree_lock */
	struct iomap__node *parent; /* under tree_lock; while retired or free: the next one */
	uint8_t shift;		    /* of this node's slots; constant, from life to life */
	uint8_t offset;		    /* place in the parent; constant but for the root */
	uint16_t count;		    /* slots in use; under tree_lock */
};

static inline struct iomap__node *root_node(uint64_t root)
{
	return (struct iomap__node *)(uintptr_t)(root & ~(uint64_t)HEIGHT_MASK);
}

static inline unsigned root_height(uint64_t root)
{
	return (unsigned)(root & HEIGHT_MASK);
}

static inline bool root_covers(uint64_t root, uint64_t index)
{
	unsigned height = root_height(root);

	return height && !(index >> (NODE_SHIFT * height));
}

static inline unsigned slot_of(const struct iomap__node *node, uint64_t index)
{
	return (unsigned)(index >> node->shift) & (NODE_SLOTS - 1);
}

static inline uintptr_t entry_at(const struct iomap__node *node, unsigned slot)
{
	return atomic_load_explicit(&node->slot[slot], memory_order_relaxed);
}

/* Of the node in which a folio of that order stands; how many slots of it. */
static inline unsigned order_shift(unsigned order)
{
	return order / NODE_SHIFT * NODE_SHIFT;
}

static inline unsigned order_slots(unsigned order)
{
	return 1U << order % NODE_SHIFT;
}

int iomap__index_init(struct iomap__cache *cache)
{
	_Static_assert(IOMAP__MAX_ORDER < 2 * NODE_SHIFT, "no folio above level 1, see hit.h");
	_Static_assert(offsetof(struct iomap__node, head) == NODE_SLOTS * sizeof(uintptr_t),
		       "heads behind the slots, see iomap__node_leaf()");
	_Static_assert(sizeof(struct iomap__node) == 9 * IOMAP__CACHE_LINE, "9 B for each page");
	return iomap__pool_init(&cache->nodes, &cache->engine->env, sizeof(struct iomap__node),
			       IOMAP__POOL_RESERVE);
}

void iomap__index_exit(struct iomap__cache *cache)
{
	iomap__index_reap(cache, true);
	for (unsigned level = 0; level < IOMAP__INDEX_LEVELS; level++) {
		struct iomap__node *node;

		while ((node = cache->free_nodes[level])) {
			cache->free_nodes[level] = node->parent;
			iomap__pool_put(&cache->nodes, node);
		}
	}
	iomap__pool_exit(&cache->nodes);
}

struct iomap_folio *iomap__index_lookup(const struct iomap_address_space *mapping, uint64_t index)
{
	/* acquire: pairs with the release stores of insert; a node is whole when it is seen */
	uint64_t root = iomap__load_acquire(&mapping->tree_root);
	uintptr_t at = (uintptr_t)root_node(root);
	unsigned level = root_height(root);

	if (!root_covers(root, index))
		return NULL;
	while (at && level && !(at & ENTRY_ORDER))
		at = iomap__node_slot(at, index, --level);
	return iomap__entry_folio(at);
}

/* ---- changes; all under tree_lock ---- */

static struct iomap__node *node_new(const struct iomap_address_space *mapping, unsigned shift,
				    struct iomap__node *parent, unsigned offset)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	struct iomap__node **free = &cache->free_nodes[shift / NODE_SHIFT], *node;

	iomap__mutex_lock(&cache->retire_lock);
	node = *free;
	if (node) {
		*free = node->parent;
		cache->nr_free_nodes--;
	}
	iomap__mutex_unlock(&cache->retire_lock);
	if (!node) {
		node = iomap__pool_get_but(&cache->nodes, iomap__has_reserve(mapping)
								  ? 0 : IOMAP__POOL_RESERVE);
		if (!node)
			return NULL;
		/* nobody has seen it as a node yet */
		memset(node, 0, sizeof(*node));
		node->shift = (uint8_t)shift;
	}
	node->parent = parent;
	node->offset = (uint8_t)offset;
	return node;
}

/* The first root of an empty tree, as high as @index needs: below it nothing is empty. */
static int plant(struct iomap_address_space *mapping, uint64_t index, unsigned height)
{
	struct iomap__node *node;

	while (height < MAX_HEIGHT && index >> (NODE_SHIFT * height))
		height++;
	if (!root_covers(height, index))
		return -EFBIG;
	node = node_new(mapping, NODE_SHIFT * (height - 1), NULL, 0);
	if (!node)
		return -ENOMEM;
	iomap__store_release(&mapping->tree_root, (uint64_t)(uintptr_t)node | height);
	return 0;
}

/* Make the tree high enough for @index, and at least @min_height. */
static int grow(struct iomap_address_space *mapping, uint64_t index, unsigned min_height)
{
	uint64_t root = mapping->tree_root;

	if (!root)
		return plant(mapping, index, min_height);
	while (!root_covers(root, index) || root_height(root) < min_height) {
		struct iomap__node *old = root_node(root);
		unsigned height = root_height(root);
		struct iomap__node *node;

		if (height == MAX_HEIGHT)
			return -EFBIG;
		node = node_new(mapping, NODE_SHIFT * height, NULL, 0);
		if (!node)
			return -ENOMEM;
		atomic_store_explicit(&node->slot[0], (uintptr_t)old, memory_order_relaxed);
		node->count = 1;
		for (int tag = 0; tag < IOMAP__TAGS; tag++)
			node->tags[tag] = old->tags[tag] ? 1 : 0;
		old->parent = node;
		old->offset = 0;
		root = (uint64_t)(uintptr_t)node | (height + 1);
		iomap__store_release(&mapping->tree_root, root);
	}
	return 0;
}

/*
 * The node for @index whose slots have @shift, or one above it, where the way ends: at nothing,
 * or at a folio that is larger than its slots.  NULL: the tree does not reach so far.
 */
static struct iomap__node *descend(const struct iomap_address_space *mapping, uint64_t index,
				   unsigned shift)
{
	struct iomap__node *node = root_node(mapping->tree_root);

	if (!root_covers(mapping->tree_root, index))
		return NULL;
	while (node->shift > shift) {
		uintptr_t entry = entry_at(node, slot_of(node, index));

		if (!entry || entry & ENTRY_ORDER)
			break;
		node = (struct iomap__node *)entry;
	}
	return node;
}

/* A new node below @node, which has nothing at @index; NULL without memory. */
static struct iomap__node *descend_new(struct iomap_address_space *mapping,
				       struct iomap__node *node, uint64_t index)
{
	unsigned at = slot_of(node, index);
	struct iomap__node *child =
		node_new(mapping, node->shift - NODE_SHIFT, node, at);

	if (!child)
		return NULL;
	/* pairs with the acquire of iomap__index_lookup() */
	atomic_store_explicit(&node->slot[at], (uintptr_t)child, memory_order_release);
	node->count++;
	return child;
}

/* All of its slots are 0, and so are its tags. */
static void retire(struct iomap__cache *cache, struct iomap__node *node)
{
	iomap__mutex_lock(&cache->retire_lock);
	node->parent = cache->retired;
	cache->retired = node;
	cache->nr_retired++;
	iomap__mutex_unlock(&cache->retire_lock);
}

/* Unlink @node and its ancestors as far as they are empty. */
static void prune(struct iomap_address_space *mapping, struct iomap__node *node)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);

	while (node && !node->count) {
		struct iomap__node *parent = node->parent;

		if (parent) {
			atomic_store_explicit(&parent->slot[node->offset], 0, memory_order_release);
			parent->count--;
		} else {
			iomap__store_release(&mapping->tree_root, 0);
		}
		retire(cache, node);
		node = parent;
	}
}

/* The folio's slots in @node: are they free; put it there. */
static bool slots_free(const struct iomap__node *node, const struct iomap_folio *folio)
{
	unsigned first = slot_of(node, iomap_folio_index(folio));

	for (unsigned i = 0; i < order_slots(folio->order); i++)
		if (entry_at(node, first + i))
			return false;
	return true;
}

/*
 * The heads of a lowest node, for a folio of that order or the next: each says what the slots of
 * its quarter say, all of which are the folio's.  The last quarter has none.
 */
static void heads_store(struct iomap__node *node, unsigned first, unsigned nr, uintptr_t entry)
{
	unsigned quarter = first >> IOMAP__HEAD_ORDER, end = (first + nr) >> IOMAP__HEAD_ORDER;

	if (node->shift || nr < 1U << IOMAP__HEAD_ORDER)
		return;
	for (; quarter < iomap__min(end, IOMAP__NODE_HEADS); quarter++)
		/* release: as with the slots */
		atomic_store_explicit(&node->head[IOMAP__NODE_HEADS - 1 - quarter], entry,
				      memory_order_release);
}

static void slots_clear(struct iomap__node *node, unsigned first, unsigned nr)
{
	/* before the slots, which are what counts */
	heads_store(node, first, nr, 0);
	for (unsigned i = 0; i < nr; i++)
		atomic_store_explicit(&node->slot[first + i], 0, memory_order_release);
}

static void slots_fill(struct iomap__node *node, struct iomap_folio *folio)
{
	unsigned first = slot_of(node, iomap_folio_index(folio)), nr = order_slots(folio->order);
	uintptr_t entry = (uintptr_t)folio | folio->order;

	for (unsigned i = 0; i < nr; i++)
		atomic_store_explicit(&node->slot[first + i], entry, memory_order_release);
	heads_store(node, first, nr, entry);
	node->count = (uint16_t)(node->count + nr);
}

int iomap__index_insert(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	uint64_t index = iomap_folio_index(folio), nr = 1ULL << folio->order;
	unsigned shift = order_shift(folio->order);
	struct iomap__node *node = NULL;
	int err;

	iomap__tree_lock(mapping);
	err = iomap__is_barred(mapping, index, index + nr) ? -EBUSY : 0;
	if (!err)
		err = grow(mapping, index + nr - 1, shift / NODE_SHIFT + 1);
	if (!err)
		node = descend(mapping, index, shift);
	while (!err && node->shift > shift) {
		struct iomap__node *child = NULL;

		if (entry_at(node, slot_of(node, index)))
			err = -EEXIST;
		else if (!(child = descend_new(mapping, node, index)))
			err = -ENOMEM;
		else
			node = child;
	}
	if (!err && !slots_free(node, folio))
		err = -EEXIST;
	if (!err) {
		iomap__store(&mapping->nrpages, mapping->nrpages + nr);
		atomic_store_explicit(&folio->mapping, mapping, memory_order_release);
		slots_fill(node, folio);
	} else {
		/* nodes made on the way that nothing came to live in */
		prune(mapping, node);
	}
	iomap__tree_unlock(mapping);
	return err;
}

bool iomap__index_set_tag(struct iomap_address_space *mapping, uint64_t index, enum iomap__tag tag)
{
	struct iomap__node *node = descend(mapping, index, 0);
	bool changed = false;

	while (node) {
		uint64_t bit = 1ULL << slot_of(node, index);

		if (node->tags[tag] & bit)
			break;
		node->tags[tag] |= bit;
		node = node->parent;
		changed = true;
	}
	return changed;
}

static void clear_tag(struct iomap__node *node, uint64_t index, enum iomap__tag tag)
{
	while (node) {
		node->tags[tag] &= ~(1ULL << slot_of(node, index));
		if (node->tags[tag])
			return;
		node = node->parent;
	}
}

bool iomap__index_clear_tag(struct iomap_address_space *mapping, uint64_t index,
			    enum iomap__tag tag)
{
	struct iomap__node *node = descend(mapping, index, 0);
	bool set = node && node->tags[tag] & 1ULL << slot_of(node, index);

	if (set)
		clear_tag(node, index, tag);
	return set;
}

void iomap__index_replace(struct iomap_address_space *mapping, struct iomap_folio *from,
			  struct iomap_folio *to)
{
	uint64_t index = iomap_folio_index(from);
	struct iomap__node *node = descend(mapping, index, order_shift(from->order));

	iomap__assert(node && iomap__entry_folio(entry_at(node, slot_of(node, index))) == from);
	atomic_store_explicit(&to->mapping, mapping, memory_order_release);
	node->count = (uint16_t)(node->count - order_slots(from->order));
	slots_fill(node, to);
}

/* ---- pieces of a folio ---- */

static uint64_t piece_index(const struct iomap__split *split, unsigned i)
{
	return iomap_folio_index(split->folio) + split->piece[i].page;
}

/* The new node of the slot in which a small piece lies; where there is none yet, its place. */
static struct iomap__node **piece_child(struct iomap__split *split, unsigned i)
{
	struct iomap__node **child = split->child;

	if (*child && (*child)->offset != slot_of(split->node, piece_index(split, i)))
		child++;
	return child;
}

bool iomap__index_split_begin(struct iomap_address_space *mapping, struct iomap__split *split)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	uint64_t index = iomap_folio_index(split->folio), first;
	struct iomap__node *node = descend(mapping, index, 0);

	split->node = node;
	for (unsigned i = 0; node->shift && i < split->nr; i++) {
		struct iomap__node **child = piece_child(split, i);

		if (order_shift(split->piece[i].order) || *child)
			continue;
		/* the cut has two edges: no more than two slots hold pieces smaller than them */
		*child = node_new(mapping, 0, node, slot_of(node, piece_index(split, i)));
		if (!*child) {
			if (split->child[0])
				retire(cache, split->child[0]);
			return false;
		}
	}
	first = 1ULL << slot_of(node, index);
	split->slots_nr = order_slots(split->folio->order);
	split->dirty_tag = node->tags[IOMAP__TAG_DIRTY] & first;
	split->towrite_tag = node->tags[IOMAP__TAG_TOWRITE] & first;
	return true;
}

/* Put the pieces that stay where the folio was; nothing where those were that go. */
static void split_slots(struct iomap_address_space *mapping, struct iomap__split *split)
{
	for (unsigned i = 0; i < split->nr; i++) {
		struct iomap_folio *folio = split->folio + split->piece[i].page;
		struct iomap__node *node = split->node;

		if (node->shift && !order_shift(split->piece[i].order))
			node = *piece_child(split, i);
		if (split->piece[i].keep) {
			atomic_store_explicit(&folio->mapping, mapping, memory_order_release);
			slots_fill(node, folio);
			continue;
		}
		for (unsigned at = 0; node == split->node && at < order_slots(folio->order); at++)
			atomic_store_explicit(&node->slot[slot_of(node, piece_index(split, i)) + at],
					      0, memory_order_release);
	}
}

void iomap__index_split(struct iomap_address_space *mapping, struct iomap__split *split)
{
	struct iomap__node *node = split->node;
	uint64_t index = iomap_folio_index(split->folio);

	clear_tag(node, index, IOMAP__TAG_DIRTY);
	clear_tag(node, index, IOMAP__TAG_TOWRITE);
	node->count = (uint16_t)(node->count - split->slots_nr);
	heads_store(node, slot_of(node, index), split->slots_nr, 0);
	split_slots(mapping, split);
	for (unsigned i = 0; i < 2 && split->child[i]; i++) {
		atomic_store_explicit(&node->slot[split->child[i]->offset],
				      (uintptr_t)split->child[i], memory_order_release);
		node->count++;
	}
	for (unsigned i = 0; i < split->nr; i++) {
		if (!split->piece[i].keep || !split->piece[i].state.dirty)
			continue;
		if (split->dirty_tag)
			iomap__index_set_tag(mapping, piece_index(split, i), IOMAP__TAG_DIRTY);
		if (split->towrite_tag)
			iomap__index_set_tag(mapping, piece_index(split, i), IOMAP__TAG_TOWRITE);
	}
}

void iomap__index_erase(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	uint64_t index = iomap_folio_index(folio);
	struct iomap__node *node = descend(mapping, index, order_shift(folio->order));
	unsigned first, nr = order_slots(folio->order);

	iomap__assert(node && iomap__entry_folio(entry_at(node, slot_of(node, index))) == folio);
	for (int tag = 0; tag < IOMAP__TAGS; tag++)
		clear_tag(node, index, (enum iomap__tag)tag);
	first = slot_of(node, index);
	slots_clear(node, first, nr);
	node->count = (uint16_t)(node->count - nr);
	prune(mapping, node);
	iomap__store(&mapping->nrpages, mapping->nrpages - (1ULL << folio->order));
}

void iomap__index_reap(struct iomap__cache *cache, bool all)
{
	struct iomap__node *list = NULL;

	iomap__mutex_lock(&cache->retire_lock);
	if (cache->nr_retired >= RETIRE_BATCH || (all && cache->nr_retired)) {
		list = cache->retired;
		cache->retired = NULL;
		cache->nr_retired = 0;
	}
	iomap__mutex_unlock(&cache->retire_lock);
	if (!list)
		return;
	iomap__epoch_synchronize();
	iomap__mutex_lock(&cache->retire_lock);
	while (list) {
		struct iomap__node *next = list->parent;
		struct iomap__node **free = &cache->free_nodes[list->shift / NODE_SHIFT];

		list->parent = *free;
		*free = list;
		cache->nr_free_nodes++;
		list = next;
	}
	iomap__mutex_unlock(&cache->retire_lock);
}

/* ---- walks ---- */

/*
 * First entry at or after *index that carries @tag (any, for IOMAP__TAGS); *index becomes
 * its page number, or stays where it is inside the folio.
 */
static struct iomap_folio *next_tagged(struct iomap_address_space *mapping, uint64_t *index,
				       enum iomap__tag tag)
{
	uint64_t at = *index;

	while (root_covers(mapping->tree_root, at)) {
		struct iomap__node *node = root_node(mapping->tree_root);

		for (;;) {
			unsigned slot = slot_of(node, at);
			uint64_t bits = 0, low;
			uintptr_t entry;

			if (tag < IOMAP__TAGS) {
				bits = node->tags[tag] & (~0ULL << slot);
			} else {
				for (unsigned i = slot; i < NODE_SLOTS && !bits; i++)
					if (entry_at(node, i))
						bits = 1ULL << i;
			}
			/* this node's range ends here */
			low = at >> node->shift >> NODE_SHIFT;
			if (!bits) {
				at = (low + 1) << NODE_SHIFT << node->shift;
				break;
			}
			if ((unsigned)__builtin_ctzll(bits) != slot) {
				slot = (unsigned)__builtin_ctzll(bits);
				at = ((low << NODE_SHIFT) | slot) << node->shift;
			}
			entry = entry_at(node, slot);
			if (!node->shift || entry & ENTRY_ORDER) {
				*index = at;
				return iomap__entry_folio(entry);
			}
			node = (struct iomap__node *)entry;
		}
		if (!at)
			break; /* wrapped: the last page number was passed */
	}
	return NULL;
}

/* Tags stand at a folio's first page: where to begin so as not to miss that of @index. */
static uint64_t first_page(struct iomap_address_space *mapping, uint64_t index)
{
	struct iomap_folio *folio = iomap__index_lookup(mapping, index);

	return folio ? iomap_folio_index(folio) : index;
}

unsigned iomap__filemap_get_tagged(struct iomap_address_space *mapping, uint64_t *index,
				   uint64_t end, enum iomap__tag tag, struct iomap_folio **folios,
				   unsigned nr)
{
	uint64_t at;
	unsigned got = 0;

	iomap__tree_lock(mapping);
	at = first_page(mapping, *index);
	while (got < nr && at < end) {
		struct iomap_folio *folio = next_tagged(mapping, &at, tag);

		if (!folio || at >= end) {
			at = end;
			break;
		}
		/* an entry has its reference as long as the lock is held */
		iomap_folio_get(folio);
		folios[got++] = folio;
		at = iomap_folio_index(folio) + (1ULL << folio->order);
	}
	iomap__tree_unlock(mapping);
	*index = at;
	return got;
}

void iomap__filemap_tag_towrite(struct iomap_address_space *mapping, uint64_t index, uint64_t end)
{
	iomap__tree_lock(mapping);
	index = first_page(mapping, index);
	while (index < end && next_tagged(mapping, &index, IOMAP__TAG_DIRTY) && index < end) {
		iomap__index_set_tag(mapping, index, IOMAP__TAG_TOWRITE);
		index++;
	}
	iomap__tree_unlock(mapping);
}

uint64_t iomap__index_next(struct iomap_address_space *mapping, uint64_t index, uint64_t end)
{
	iomap__tree_lock(mapping);
	if (!next_tagged(mapping, &index, IOMAP__TAGS))
		index = end;
	iomap__tree_unlock(mapping);
	return iomap__min(index, end);
}

uint64_t iomap__index_gap(struct iomap_address_space *mapping, uint64_t index, uint64_t end)
{
	const struct iomap_folio *folio;

	iomap__tree_lock(mapping);
	while (index < end && (folio = iomap__index_lookup(mapping, index)))
		index = iomap_folio_index(folio) + (1ULL << folio->order);
	iomap__tree_unlock(mapping);
	return iomap__min(index, end);
}
