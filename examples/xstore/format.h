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
#define XS_INCOMPAT_KNOWN UINT64_C(0) /* no bit is defined yet */

#define XS_SUPER_SLOTS 2U   /* blocks 0 and 1 */
#define XS_SUPER_BYTES 512U /* what a disk writes whole or not at all */
#define XS_BLOCKS_MIN 16U
#define XS_BLOCKS_MAX (UINT64_C(1) << 40)

#define XS_NAME_MAX 255U
#define XS_FILE_BLOCKS_MAX (UINT64_C(1) << 50)
#define XS_FILE_BYTES_MAX (XS_FILE_BLOCKS_MAX << XS_BLOCK_SHIFT)

/* Of one metadata block; the payload follows the header. */
#define XS_META_HEADER_BYTES 48U
#define XS_META_PAYLOAD_BYTES (XS_BLOCK_BYTES - XS_META_HEADER_BYTES)
/* Of all of it, so that a corrupt number is not believed. */
#define XS_META_BYTES_MAX (UINT64_C(256) << 20)

#define XS_RECORD_BYTES 32U /* an object without its name and extents */
#define XS_EXTENT_BYTES 24U

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
	uint64_t meta_first; /* first metadata block; 0 when there is none */
	uint64_t meta_bytes; /* payload of all metadata blocks */
	uint64_t objects_nr;
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
	uint32_t extents_nr;
};

static inline uint64_t xs_extent_end(const struct xs_extent *extent)
{
	return extent->file + extent->nr;
}

/* Blocks for @bytes of metadata payload. */
static inline uint64_t xs_meta_blocks(uint64_t bytes)
{
	return (bytes + XS_META_PAYLOAD_BYTES - 1) / XS_META_PAYLOAD_BYTES;
}

__attribute__((format(printf, 3, 4))) int xs_because(struct xs_why *why, int error,
						     const char *format, ...);

/* @block: XS_BLOCK_BYTES, all of which is written. */
void xs_super_encode(const struct xs_super *super, uint8_t *block);
/* Return: 0, XS_ENOTSTORE, XS_EDAMAGED, XS_EUNKNOWN. */
int xs_super_decode(const uint8_t *block, struct xs_super *super, struct xs_why *why);

/* Complete a block whose payload is in place and the rest zero. */
void xs_meta_seal(uint8_t *block, const struct xs_super *super, uint64_t self, uint64_t next,
		  uint32_t payload_bytes);
/* Return: 0 or XS_EDAMAGED. */
int xs_meta_verify(const uint8_t *block, const struct xs_super *super, uint64_t self,
		   uint64_t *next, uint32_t *payload_bytes, struct xs_why *why);

/* Where encoders write and decoders read. */
struct xs_cursor {
	uint8_t *at;
	size_t left;
};

/* The caller has seen to the room. */
void xs_record_encode(struct xs_cursor *to, const struct xs_record *record);
void xs_extent_encode(struct xs_cursor *to, const struct xs_extent *extent);
/*
 * @blocks: size of the store.  The extents of a record follow it; an extent is held against
 * the one before it, if that is not NULL.  Return: 0 or XS_EDAMAGED.
 */
int xs_record_decode(struct xs_cursor *from, struct xs_record *record, struct xs_why *why);
int xs_extent_decode(struct xs_cursor *from, uint64_t blocks, const struct xs_extent *before,
		     struct xs_extent *extent, struct xs_why *why);

/* Whether @name can name an object: 0, -EINVAL (empty, control characters), -ENAMETOOLONG. */
int xs_name_check(const char *name, size_t bytes);

#endif
