/* SPDX-License-Identifier: MIT */
/*
 * format.h - what lies on the device, and its translation to and from memory.
 *
 * README.md has the layout field by field.  Nothing here does I/O or takes a lock, and every
 * decoder expects the worst of its input: lengths are checked against what is left, numbers
 * against the size of the store, and nothing is allocated that the input could not fill.
 * Decoders say in a struct xs_why what is wrong, in words for the user.
 */
#ifndef XSTORE_FORMAT_H
#define XSTORE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XS_BLOCK_SHIFT 12
#define XS_BLOCK_BYTES (1U << XS_BLOCK_SHIFT)
#define XS_VERSION 1U
/* Written extents may share blocks.  Without it each block has one use. */
#define XS_INCOMPAT_SHARED UINT64_C(1)
#define XS_INCOMPAT_KNOWN XS_INCOMPAT_SHARED

#define XS_SUPER_SLOTS 2U   /* blocks 0 and 1 */
#define XS_SUPER_BYTES 512U /* what a disk writes whole or not at all */
#define XS_BLOCKS_MIN 16U
#define XS_BLOCKS_MAX (UINT64_C(1) << 40)

#define XS_NAME_MAX 255U
#define XS_FILE_BLOCKS_MAX (UINT64_C(1) << 50)
#define XS_FILE_BYTES_MAX (XS_FILE_BLOCKS_MAX << XS_BLOCK_SHIFT)

/* Of one node of the tree; the items follow the header. */
#define XS_NODE_HEADER_BYTES 48U
#define XS_NODE_PAYLOAD_BYTES (XS_BLOCK_BYTES - XS_NODE_HEADER_BYTES)
#define XS_LEVELS_MAX 8U /* of nodes that are a third full this is more than any store has */

#define XS_CHILD_BYTES 40U		     /* an item of an inner node */
#define XS_ITEM_BYTES 20U		     /* an item of a leaf without its value */
#define XS_OBJECT_BYTES (XS_ITEM_BYTES + 8U) /* without the name */
#define XS_EXTENT_BYTES (XS_ITEM_BYTES + 16U)

/* xs_open(), xs_check() and decoders: the one line that says what is wrong */
struct xs_why {
	char text[160];
};

/* Errors of decoding, besides -ENOMEM */
#define XS_ENOTSTORE (-EMEDIUMTYPE) /* no xstore */
#define XS_EDAMAGED (-EUCLEAN)	    /* one, but not as it was written */
#define XS_EUNKNOWN (-EOPNOTSUPP)   /* one of a version or with bits that we do not know */

struct xs_super {
	uint64_t incompat;
	uint64_t id;	     /* of the store, drawn by mkfs; seeds all other checksums */
	uint64_t generation; /* of the commit */
	uint64_t blocks;     /* size of the store */
	uint64_t root;	     /* block of the root; 0: there is no object */
	uint64_t root_generation, root_checksum;
	uint64_t nodes_nr; /* of the tree */
	uint64_t objects_nr;
	uint64_t next_id; /* no object has had this id or a higher one */
	uint32_t levels_nr;
};

/*
 * Of an item of a leaf: what it belongs to, and in the top byte of `at` what it is, then
 * where.  All items are in the order of their keys, `id` first.
 */
struct xs_key {
	uint64_t id, at;
};

/* Items */
#define XS_AT_SHIFT 56U
#define XS_AT_OBJECT (UINT64_C(1) << XS_AT_SHIFT)
#define XS_AT_EXTENT (UINT64_C(2) << XS_AT_SHIFT) /* + place in the object */
#define XS_AT_LAST UINT64_MAX

/* What an inner node says of a node below, and the super block of the root. */
struct xs_child {
	struct xs_key low; /* no key in it is lower */
	uint64_t block, generation, checksum;
};

/* In units of blocks. */
struct xs_extent {
	uint64_t file; /* place in the object */
	uint64_t disk; /* place on the device */
	uint32_t nr;
	uint32_t unwritten; /* 1: allocated, reads as zeros */
};

struct xs_record {
	char name[XS_NAME_MAX + 1];
	uint16_t name_bytes;
	uint64_t id;
	uint64_t size; /* bytes */
};

static inline uint64_t xs_blocks_up(uint64_t bytes)
{
	return (bytes + XS_BLOCK_BYTES - 1) >> XS_BLOCK_SHIFT;
}

static inline uint64_t xs_extent_end(const struct xs_extent *extent)
{
	return extent->file + extent->nr;
}

static inline int xs_key_cmp(struct xs_key a, struct xs_key b)
{
	if (a.id != b.id)
		return a.id < b.id ? -1 : 1;
	return a.at == b.at ? 0 : a.at < b.at ? -1 : 1;
}

__attribute__((format(printf, 3, 4))) int xs_because(struct xs_why *why, int error,
						     const char *format, ...);

/* @block: XS_BLOCK_BYTES, all of which is written. */
void xs_super_encode(const struct xs_super *super, uint8_t *block);
/* Return: 0, XS_ENOTSTORE, XS_EDAMAGED, XS_EUNKNOWN. */
int xs_super_decode(const uint8_t *block, struct xs_super *super, struct xs_why *why);

struct xs_node_head {
	uint32_t level, items_nr, bytes; /* of payload */
	uint64_t generation;
};

/*
 * Complete a node whose payload is in place and the rest zero.  @self: its block.
 * Return: its checksum.
 */
uint64_t xs_node_seal(uint8_t *node, const struct xs_node_head *head, uint64_t self,
		      uint64_t store_id);
/* Whether it is the node that is expected.  Return: 0 or XS_EDAMAGED. */
int xs_node_verify(const uint8_t *node, const struct xs_super *super,
		   const struct xs_child *expected, uint32_t level, struct xs_node_head *head,
		   struct xs_why *why);

/* Where encoders write and decoders read. */
struct xs_cursor {
	uint8_t *at;
	size_t left;
};

/* The caller has seen to the room. */
void xs_child_encode(struct xs_cursor *to, const struct xs_child *child);
void xs_record_encode(struct xs_cursor *to, const struct xs_record *record);
void xs_extent_encode(struct xs_cursor *to, uint64_t id, const struct xs_extent *extent);

/* An item of a leaf. */
struct xs_item {
	struct xs_key key;
	bool is_extent;
	struct xs_record record; /* one of the two */
	struct xs_extent extent;
};

/* @blocks: size of the store.  Return: 0 or XS_EDAMAGED. */
int xs_child_decode(struct xs_cursor *from, uint64_t blocks, struct xs_child *child,
		    struct xs_why *why);
int xs_item_decode(struct xs_cursor *from, uint64_t blocks, struct xs_item *item,
		   struct xs_why *why);

/* Whether @name can name an object: 0, -EINVAL (empty, control characters), -ENAMETOOLONG. */
int xs_name_check(const char *name, size_t bytes);

#endif
