/* SPDX-License-Identifier: MIT */
/*
 * format.c - encoding and decoding.  See format.h and README.md.
 *
 * Integers are little endian and not aligned.  A checksum is XXH64 of the whole unit but for
 * its own bytes.  Those of metadata blocks are seeded with the store's id and include the
 * block's own number and its generation, so that a block of another store, of an older
 * commit, or one that was written to a wrong place is not taken for a good one.
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
	SUPER_META_FIRST = 48,
	SUPER_META_BYTES = 56,
	SUPER_OBJECTS_NR = 64,
	SUPER_CHECKSUM = 504,
};

/* Offsets in a metadata block */
enum {
	META_MAGIC = 0,
	META_PAYLOAD_BYTES = 4,
	META_GENERATION = 8,
	META_SELF = 16,
	META_NEXT = 24,
	META_RESERVED = 32,
	META_CHECKSUM = 40,
};

static const char super_magic[8] = { 'X', 'S', 'T', 'O', 'R', 'E', '\n', '\0' };
#define META_MAGIC_VALUE UINT32_C(0x424d5358) /* "XSMB" */

int xs_because(struct xs_why *why, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why->text, sizeof(why->text), format, args);
	va_end(args);
	return error;
}

/* ---- integers ---- */

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
	put64(block + SUPER_META_FIRST, super->meta_first);
	put64(block + SUPER_META_BYTES, super->meta_bytes);
	put64(block + SUPER_OBJECTS_NR, super->objects_nr);
	put64(block + SUPER_CHECKSUM, checksum(block, XS_SUPER_BYTES, SUPER_CHECKSUM, 0));
}

/* What the checksum cannot vouch for: the numbers make sense. */
static int super_plausible(const struct xs_super *super, struct xs_why *why)
{
	if (super->blocks < XS_BLOCKS_MIN || super->blocks > XS_BLOCKS_MAX)
		return xs_because(why, XS_EDAMAGED, "impossible size: %" PRIu64 " blocks",
				  super->blocks);
	if (super->meta_bytes > XS_META_BYTES_MAX ||
	    xs_meta_blocks(super->meta_bytes) > super->blocks ||
	    super->objects_nr > super->meta_bytes / XS_RECORD_BYTES)
		return xs_because(why, XS_EDAMAGED, "impossible amount of metadata");
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
	super->meta_first = get64(block + SUPER_META_FIRST);
	super->meta_bytes = get64(block + SUPER_META_BYTES);
	super->objects_nr = get64(block + SUPER_OBJECTS_NR);
	return super_plausible(super, why);
}

/* ---- metadata blocks ---- */

void xs_meta_seal(uint8_t *block, const struct xs_super *super, uint64_t self, uint64_t next,
		  uint32_t payload_bytes)
{
	put32(block + META_MAGIC, META_MAGIC_VALUE);
	put32(block + META_PAYLOAD_BYTES, payload_bytes);
	put64(block + META_GENERATION, super->generation);
	put64(block + META_SELF, self);
	put64(block + META_NEXT, next);
	put64(block + META_RESERVED, 0);
	put64(block + META_CHECKSUM, checksum(block, XS_BLOCK_BYTES, META_CHECKSUM, super->id));
}

int xs_meta_verify(const uint8_t *block, const struct xs_super *super, uint64_t self,
		   uint64_t *next, uint32_t *payload_bytes, struct xs_why *why)
{
	if (get64(block + META_CHECKSUM) !=
	    checksum(block, XS_BLOCK_BYTES, META_CHECKSUM, super->id))
		return xs_because(why, XS_EDAMAGED, "metadata block %" PRIu64 ": wrong checksum",
				  self);
	*payload_bytes = get32(block + META_PAYLOAD_BYTES);
	*next = get64(block + META_NEXT);
	if (get32(block + META_MAGIC) != META_MAGIC_VALUE || get64(block + META_SELF) != self ||
	    get64(block + META_GENERATION) != super->generation ||
	    *payload_bytes > XS_META_PAYLOAD_BYTES)
		return xs_because(why, XS_EDAMAGED,
				  "metadata block %" PRIu64 ": belongs somewhere else", self);
	return 0;
}

/* ---- objects ---- */

static uint8_t *cursor_take(struct xs_cursor *cursor, size_t bytes)
{
	uint8_t *at = cursor->at;

	cursor->at += bytes;
	cursor->left -= bytes;
	return at;
}

void xs_record_encode(struct xs_cursor *to, const struct xs_record *record)
{
	uint8_t *at = cursor_take(to, XS_RECORD_BYTES);

	put64(at, record->id);
	put64(at + 8, record->size);
	put32(at + 16, record->extents_nr);
	put32(at + 20, record->name_bytes);
	put64(at + 24, 0);
	memcpy(cursor_take(to, record->name_bytes), record->name, record->name_bytes);
}

void xs_extent_encode(struct xs_cursor *to, const struct xs_extent *extent)
{
	uint8_t *at = cursor_take(to, XS_EXTENT_BYTES);

	put64(at, extent->file);
	put64(at + 8, extent->disk);
	put32(at + 16, extent->nr);
	put32(at + 20, extent->unwritten);
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

int xs_record_decode(struct xs_cursor *from, struct xs_record *record, struct xs_why *why)
{
	const uint8_t *at;
	uint32_t name_bytes;
	uint64_t reserved;

	if (from->left < XS_RECORD_BYTES)
		return xs_because(why, XS_EDAMAGED, "the object table ends within an object");
	at = cursor_take(from, XS_RECORD_BYTES);
	record->id = get64(at);
	record->size = get64(at + 8);
	record->extents_nr = get32(at + 16);
	name_bytes = get32(at + 20);
	reserved = get64(at + 24);
	if (name_bytes > XS_NAME_MAX || name_bytes > from->left)
		return xs_because(why, XS_EDAMAGED, "an object's name is too long");
	memcpy(record->name, cursor_take(from, name_bytes), name_bytes);
	record->name[name_bytes] = '\0';
	record->name_bytes = (uint16_t)name_bytes;
	if (xs_name_check(record->name, name_bytes))
		return xs_because(why, XS_EDAMAGED, "an object's name cannot be one");
	if (record->size > XS_FILE_BYTES_MAX || reserved ||
	    record->extents_nr > from->left / XS_EXTENT_BYTES)
		return xs_because(why, XS_EDAMAGED, "object of impossible size");
	return 0;
}

int xs_extent_decode(struct xs_cursor *from, uint64_t blocks, const struct xs_extent *before,
		     struct xs_extent *extent, struct xs_why *why)
{
	const uint8_t *at;

	if (from->left < XS_EXTENT_BYTES)
		return xs_because(why, XS_EDAMAGED, "the object table ends within an extent");
	at = cursor_take(from, XS_EXTENT_BYTES);
	*extent = (struct xs_extent){
		.file = get64(at),
		.disk = get64(at + 8),
		.nr = get32(at + 16),
		.unwritten = get32(at + 20),
	};
	if (!extent->nr || extent->unwritten > 1 || extent->file > XS_FILE_BLOCKS_MAX ||
	    extent->nr > XS_FILE_BLOCKS_MAX - extent->file)
		return xs_because(why, XS_EDAMAGED, "extent that cannot be");
	if (extent->disk < XS_SUPER_SLOTS || extent->disk > blocks ||
	    extent->nr > blocks - extent->disk)
		return xs_because(why, XS_EDAMAGED, "extent outside the store");
	if (before && extent->file < xs_extent_end(before))
		return xs_because(why, XS_EDAMAGED, "extents overlap in an object");
	return 0;
}
