/* SPDX-License-Identifier: MIT */
/*
 * format.c - encoding and decoding.  See format.h and README.md.
 *
 * Integers are little endian and not aligned.  A checksum is XXH64 of the whole unit but for
 * its own bytes.  Those of nodes are seeded with the store's id and include the block's own
 * number and its generation, and whatever names a node knows both and the checksum; so a
 * node of another store, of an older commit, or one that was written to a wrong place or not
 * at all is not taken for a good one.
 */
#include "format.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* Offsets in a super block */
enum {
	SUPER_MAGIC = 0,
	SUPER_VERSION = 8,
	SUPER_BLOCK_SHIFT = 12,
	SUPER_INCOMPAT = 16,
	SUPER_ID = 24,
	SUPER_GENERATION = 32,
	SUPER_BLOCKS = 40,
	SUPER_ROOT = 48,
	SUPER_ROOT_GENERATION = 56,
	SUPER_ROOT_CHECKSUM = 64,
	SUPER_NODES_NR = 72,
	SUPER_OBJECTS_NR = 80,
	SUPER_NEXT_ID = 88,
	SUPER_LEVELS_NR = 96,
	SUPER_CHECKSUM = 504,
};

/* Offsets in a node */
enum {
	NODE_MAGIC = 0,
	NODE_LEVEL = 4,
	NODE_ITEMS_NR = 6,
	NODE_GENERATION = 8,
	NODE_SELF = 16,
	NODE_BYTES = 24,
	NODE_RESERVED = 28, /* 12 bytes */
	NODE_CHECKSUM = 40,
};

static const char super_magic[8] = { 'X', 'S', 'T', 'O', 'R', 'E', '\n', '\0' };
#define NODE_MAGIC_VALUE UINT32_C(0x444e5358) /* "XSND" */

int xs_because(struct xs_why *why, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why->text, sizeof(why->text), format, args);
	va_end(args);
	return error;
}

/* ---- integers ---- */

static void put16(uint8_t *to, uint16_t value)
{
	value = htole16(value);
	memcpy(to, &value, sizeof(value));
}

static void put32(uint8_t *to, uint32_t value)
{
	value = htole32(value);
	memcpy(to, &value, sizeof(value));
}

static void put64(uint8_t *to, uint64_t value)
{
	value = htole64(value);
	memcpy(to, &value, sizeof(value));
}

static uint16_t get16(const uint8_t *from)
{
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return le16toh(value);
}

static uint32_t get32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t value;

	memcpy(&value, from, sizeof(value));
	return le64toh(value);
}

/* XXH64 of what is before the checksum itself seeds that of what is behind. */
static uint64_t checksum(const uint8_t *unit, size_t bytes, size_t own, uint64_t seed)
{
	size_t behind = own + sizeof(uint64_t);

	return XXH64(unit + behind, bytes - behind, XXH64(unit, own, seed));
}

/* ---- super blocks ---- */

void xs_super_encode(const struct xs_super *super, uint8_t *block)
{
	memset(block, 0, XS_BLOCK_BYTES);
	memcpy(block + SUPER_MAGIC, super_magic, sizeof(super_magic));
	put32(block + SUPER_VERSION, XS_VERSION);
	put32(block + SUPER_BLOCK_SHIFT, XS_BLOCK_SHIFT);
	put64(block + SUPER_INCOMPAT, super->incompat);
	put64(block + SUPER_ID, super->id);
	put64(block + SUPER_GENERATION, super->generation);
	put64(block + SUPER_BLOCKS, super->blocks);
	put64(block + SUPER_ROOT, super->root);
	put64(block + SUPER_ROOT_GENERATION, super->root_generation);
	put64(block + SUPER_ROOT_CHECKSUM, super->root_checksum);
	put64(block + SUPER_NODES_NR, super->nodes_nr);
	put64(block + SUPER_OBJECTS_NR, super->objects_nr);
	put64(block + SUPER_NEXT_ID, super->next_id);
	put32(block + SUPER_LEVELS_NR, super->levels_nr);
	put64(block + SUPER_CHECKSUM, checksum(block, XS_SUPER_BYTES, SUPER_CHECKSUM, 0));
}

/* What the checksum cannot vouch for: the numbers make sense. */
static int super_plausible(const struct xs_super *super, struct xs_why *why)
{
	if (super->blocks < XS_BLOCKS_MIN || super->blocks > XS_BLOCKS_MAX)
		return xs_because(why, XS_EDAMAGED, "impossible size: %" PRIu64 " blocks",
				  super->blocks);
	if (super->levels_nr > XS_LEVELS_MAX || super->nodes_nr > super->blocks ||
	    super->nodes_nr < super->levels_nr || !super->root != !super->levels_nr ||
	    !super->root != !super->nodes_nr || !super->root != !super->objects_nr ||
	    super->objects_nr > super->nodes_nr * (XS_NODE_PAYLOAD_BYTES / XS_OBJECT_BYTES))
		return xs_because(why, XS_EDAMAGED, "impossible amount of metadata");
	if (super->root && (super->root < XS_SUPER_SLOTS || super->root >= super->blocks))
		return xs_because(why, XS_EDAMAGED, "metadata outside the store");
	if (!super->generation)
		return xs_because(why, XS_EDAMAGED, "generation 0");
	return 0;
}

int xs_super_decode(const uint8_t *block, struct xs_super *super, struct xs_why *why)
{
	if (memcmp(block + SUPER_MAGIC, super_magic, sizeof(super_magic)) != 0)
		return xs_because(why, XS_ENOTSTORE, "not an xstore");
	if (get64(block + SUPER_CHECKSUM) != checksum(block, XS_SUPER_BYTES, SUPER_CHECKSUM, 0))
		return xs_because(why, XS_EDAMAGED, "wrong checksum");
	if (get32(block + SUPER_VERSION) != XS_VERSION ||
	    get32(block + SUPER_BLOCK_SHIFT) != XS_BLOCK_SHIFT)
		return xs_because(why, XS_EUNKNOWN, "format version %" PRIu32 " is not known",
				  get32(block + SUPER_VERSION));
	super->incompat = get64(block + SUPER_INCOMPAT);
	if (super->incompat & ~XS_INCOMPAT_KNOWN)
		return xs_because(why, XS_EUNKNOWN, "unknown features: 0x%" PRIx64,
				  super->incompat & ~XS_INCOMPAT_KNOWN);
	super->id = get64(block + SUPER_ID);
	super->generation = get64(block + SUPER_GENERATION);
	super->blocks = get64(block + SUPER_BLOCKS);
	super->root = get64(block + SUPER_ROOT);
	super->root_generation = get64(block + SUPER_ROOT_GENERATION);
	super->root_checksum = get64(block + SUPER_ROOT_CHECKSUM);
	super->nodes_nr = get64(block + SUPER_NODES_NR);
	super->objects_nr = get64(block + SUPER_OBJECTS_NR);
	super->next_id = get64(block + SUPER_NEXT_ID);
	super->levels_nr = get32(block + SUPER_LEVELS_NR);
	return super_plausible(super, why);
}

/* ---- nodes ---- */

uint64_t xs_node_seal(uint8_t *node, const struct xs_node_head *head, uint64_t self,
		      uint64_t store_id)
{
	uint64_t sum;

	put32(node + NODE_MAGIC, NODE_MAGIC_VALUE);
	put16(node + NODE_LEVEL, (uint16_t)head->level);
	put16(node + NODE_ITEMS_NR, (uint16_t)head->items_nr);
	put64(node + NODE_GENERATION, head->generation);
	put64(node + NODE_SELF, self);
	put32(node + NODE_BYTES, head->bytes);
	memset(node + NODE_RESERVED, 0, NODE_CHECKSUM - NODE_RESERVED);
	sum = checksum(node, XS_BLOCK_BYTES, NODE_CHECKSUM, store_id);
	put64(node + NODE_CHECKSUM, sum);
	return sum;
}

static bool all_zero(const uint8_t *from, size_t bytes)
{
	return !bytes || (!from[0] && !memcmp(from, from + 1, bytes - 1));
}

int xs_node_verify(const uint8_t *node, const struct xs_super *super,
		   const struct xs_child *expected, uint32_t level, struct xs_node_head *head,
		   struct xs_why *why)
{
	uint64_t sum = checksum(node, XS_BLOCK_BYTES, NODE_CHECKSUM, super->id);

	if (get64(node + NODE_CHECKSUM) != sum)
		return xs_because(why, XS_EDAMAGED, "metadata block %" PRIu64 ": wrong checksum",
				  expected->block);
	head->level = get16(node + NODE_LEVEL);
	head->items_nr = get16(node + NODE_ITEMS_NR);
	head->generation = get64(node + NODE_GENERATION);
	head->bytes = get32(node + NODE_BYTES);
	if (get32(node + NODE_MAGIC) != NODE_MAGIC_VALUE ||
	    get64(node + NODE_SELF) != expected->block || head->level != level ||
	    head->generation != expected->generation || sum != expected->checksum)
		return xs_because(why, XS_EDAMAGED,
				  "metadata block %" PRIu64 ": not what was last written there",
				  expected->block);
	if (head->generation > super->generation)
		return xs_because(why, XS_EDAMAGED,
				  "metadata block %" PRIu64 ": newer than the super block",
				  expected->block);
	if (!head->items_nr || head->bytes > XS_NODE_PAYLOAD_BYTES ||
	    !all_zero(node + NODE_RESERVED, NODE_CHECKSUM - NODE_RESERVED) ||
	    !all_zero(node + XS_NODE_HEADER_BYTES + head->bytes,
		      XS_NODE_PAYLOAD_BYTES - head->bytes))
		return xs_because(why, XS_EDAMAGED,
				  "metadata block %" PRIu64 ": header that cannot be",
				  expected->block);
	return 0;
}

/* ---- items ---- */

static uint8_t *cursor_take(struct xs_cursor *cursor, size_t bytes)
{
	uint8_t *at = cursor->at;

	cursor->at += bytes;
	cursor->left -= bytes;
	return at;
}

static void key_put(uint8_t *to, struct xs_key key)
{
	put64(to, key.id);
	put64(to + 8, key.at);
}

static struct xs_key key_get(const uint8_t *from)
{
	return (struct xs_key){ get64(from), get64(from + 8) };
}

void xs_child_encode(struct xs_cursor *to, const struct xs_child *child)
{
	uint8_t *at = cursor_take(to, XS_CHILD_BYTES);

	key_put(at, child->low);
	put64(at + 16, child->block);
	put64(at + 24, child->generation);
	put64(at + 32, child->checksum);
}

int xs_child_decode(struct xs_cursor *from, uint64_t blocks, struct xs_child *child,
		    struct xs_why *why)
{
	const uint8_t *at;

	if (from->left < XS_CHILD_BYTES)
		return xs_because(why, XS_EDAMAGED, "a node ends within an item");
	at = cursor_take(from, XS_CHILD_BYTES);
	child->low = key_get(at);
	child->block = get64(at + 16);
	child->generation = get64(at + 24);
	child->checksum = get64(at + 32);
	if (child->block < XS_SUPER_SLOTS || child->block >= blocks)
		return xs_because(why, XS_EDAMAGED, "metadata outside the store");
	return 0;
}

static uint8_t *item_begin(struct xs_cursor *to, struct xs_key key, uint32_t value_bytes)
{
	uint8_t *at = cursor_take(to, XS_ITEM_BYTES + value_bytes);

	key_put(at, key);
	put32(at + 16, value_bytes);
	return at + XS_ITEM_BYTES;
}

void xs_record_encode(struct xs_cursor *to, const struct xs_record *record)
{
	uint8_t *value = item_begin(to, (struct xs_key){ record->id, XS_AT_OBJECT },
				    8U + record->name_bytes);

	put64(value, record->size);
	memcpy(value + 8, record->name, record->name_bytes);
}

void xs_extent_encode(struct xs_cursor *to, uint64_t id, const struct xs_extent *extent)
{
	struct xs_key key = { id, XS_AT_EXTENT + extent->file };
	uint8_t *value = item_begin(to, key, XS_EXTENT_BYTES - XS_ITEM_BYTES);

	put64(value, extent->disk);
	put32(value + 8, extent->nr);
	put32(value + 12, extent->unwritten);
}

int xs_name_check(const char *name, size_t bytes)
{
	if (bytes > XS_NAME_MAX)
		return -ENAMETOOLONG;
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return -EINVAL;
	return bytes ? 0 : -EINVAL;
}

static int record_decode(const uint8_t *value, uint32_t bytes, struct xs_record *record,
			 struct xs_why *why)
{
	if (bytes < 8 || bytes - 8 > XS_NAME_MAX)
		return xs_because(why, XS_EDAMAGED, "an object's name is too long");
	record->size = get64(value);
	record->name_bytes = (uint16_t)(bytes - 8);
	memcpy(record->name, value + 8, record->name_bytes);
	record->name[record->name_bytes] = '\0';
	if (xs_name_check(record->name, record->name_bytes))
		return xs_because(why, XS_EDAMAGED, "an object's name cannot be one");
	if (record->size > XS_FILE_BYTES_MAX)
		return xs_because(why, XS_EDAMAGED, "object of impossible size");
	return 0;
}

static int extent_decode(const uint8_t *value, uint32_t bytes, uint64_t blocks,
			 struct xs_extent *extent, struct xs_why *why)
{
	if (bytes != XS_EXTENT_BYTES - XS_ITEM_BYTES)
		return xs_because(why, XS_EDAMAGED, "extent that cannot be");
	extent->disk = get64(value);
	extent->nr = get32(value + 8);
	extent->unwritten = get32(value + 12);
	if (!extent->nr || extent->unwritten > 1 || extent->file > XS_FILE_BLOCKS_MAX ||
	    extent->nr > XS_FILE_BLOCKS_MAX - extent->file)
		return xs_because(why, XS_EDAMAGED, "extent that cannot be");
	if (extent->disk < XS_SUPER_SLOTS || extent->disk > blocks ||
	    extent->nr > blocks - extent->disk)
		return xs_because(why, XS_EDAMAGED, "extent outside the store");
	return 0;
}

int xs_item_decode(struct xs_cursor *from, uint64_t blocks, struct xs_item *item,
		   struct xs_why *why)
{
	const uint8_t *at, *value;
	uint32_t bytes;

	if (from->left < XS_ITEM_BYTES)
		return xs_because(why, XS_EDAMAGED, "a node ends within an item");
	at = cursor_take(from, XS_ITEM_BYTES);
	item->key = key_get(at);
	bytes = get32(at + 16);
	if (bytes > from->left)
		return xs_because(why, XS_EDAMAGED, "a node ends within an item");
	value = cursor_take(from, bytes);
	item->is_extent = item->key.at >> XS_AT_SHIFT == XS_AT_EXTENT >> XS_AT_SHIFT;
	if (item->is_extent) {
		item->extent.file = item->key.at - XS_AT_EXTENT;
		return extent_decode(value, bytes, blocks, &item->extent, why);
	}
	if (item->key.at != XS_AT_OBJECT)
		return xs_because(why, XS_EDAMAGED, "item of a kind that there is not");
	item->record.id = item->key.id;
	return record_decode(value, bytes, &item->record, why);
}
