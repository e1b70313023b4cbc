/* SPDX-License-Identifier: MIT */
/*
 * manifest.c - what lies where in an image, on disk and in memory.
 *
 * An image is a header, the objects' bytes one after another from DATA_START on, and the
 * manifest.  All numbers are little endian, all places are bytes of the image:
 *
 *   header     0  8  magic               manifest: for each object, in order
 *              8  4  version                0   8  its place
 *             12  4  bytes of this header   8   8  its bytes
 *             16  8  number of objects     16  32  SHA-256 of its source
 *             24  8  place of the manifest 48   4  bytes of its name
 *             32  8  bytes of the manifest 52      its name, below the packed directory
 *             40 32  SHA-256 of the manifest
 *             72 32  SHA-256 of the header up to here
 *
 * The header is written after everything else is durable, so an image with a good header
 * is a whole one.
 */
#include "rawpack.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 104
#define HEADER_SUMMED 72 /* bytes of it that its own checksum covers */
#define ENTRY_BYTES 52	 /* of the manifest, without the name */
#define FORMAT_VERSION 1

static const char magic[8] = "RAWPACK\n";

/* ---- in memory ---- */

struct object *manifest_add(struct manifest *manifest, const char *name, size_t name_bytes)
{
	struct object *object;

	if (manifest->nr == manifest->room) {
		size_t room = manifest->room ? 2 * manifest->room : 256;
		struct object *objects = realloc(manifest->objects, room * sizeof(*objects));

		if (!objects)
			goto out_of_memory;
		manifest->objects = objects;
		manifest->room = room;
	}
	object = &manifest->objects[manifest->nr];
	memset(object, 0, sizeof(*object));
	object->name = strndup(name, name_bytes);
	if (!object->name)
		goto out_of_memory;
	manifest->nr++;
	return object;

out_of_memory:
	complain("out of memory for the list of files");
	return NULL;
}

void manifest_free(struct manifest *manifest)
{
	for (size_t i = 0; i < manifest->nr; i++)
		free(manifest->objects[i].name);
	free(manifest->objects);
	memset(manifest, 0, sizeof(*manifest));
}

uint64_t manifest_object_bytes(const struct manifest *manifest)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < manifest->nr; i++)
		bytes += manifest->objects[i].bytes;
	return bytes;
}

static uint64_t encoded_bytes(const struct manifest *manifest)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < manifest->nr; i++)
		bytes += ENTRY_BYTES + strlen(manifest->objects[i].name);
	return bytes;
}

uint64_t manifest_image_bytes(const struct manifest *manifest)
{
	return DATA_START + manifest_object_bytes(manifest) + encoded_bytes(manifest);
}

/* ---- numbers ---- */

static uint8_t *put_number(uint8_t *to, uint64_t number, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)(number >> (8 * i));
	return to + bytes;
}

static uint64_t get_number(const uint8_t *from, size_t bytes)
{
	uint64_t number = 0;

	for (size_t i = 0; i < bytes; i++)
		number |= (uint64_t)from[i] << (8 * i);
	return number;
}

static int digest_of(struct hash *hash, const uint8_t *data, size_t bytes, uint8_t *digest)
{
	hash_start(hash);
	hash_add(hash, data, bytes);
	return hash_finish(hash, digest);
}

/* ---- to the image ---- */

/* Return: the encoded manifest, to be freed, or NULL (complained about). */
static uint8_t *encode(const struct manifest *manifest, size_t bytes)
{
	uint8_t *encoded = malloc(bytes);
	uint8_t *to = encoded;

	if (!encoded) {
		complain("out of memory for the manifest");
		return NULL;
	}
	for (size_t i = 0; i < manifest->nr; i++) {
		const struct object *object = &manifest->objects[i];
		size_t name_bytes = strlen(object->name);

		to = put_number(to, object->pos, 8);
		to = put_number(to, object->bytes, 8);
		memcpy(to, object->digest, DIGEST_BYTES);
		to = put_number(to + DIGEST_BYTES, name_bytes, 4);
		memcpy(to, object->name, name_bytes);
		to += name_bytes;
	}
	return encoded;
}

int manifest_store(struct session *session, const struct manifest *manifest, struct hash *hash)
{
	size_t bytes = (size_t)encoded_bytes(manifest);
	uint8_t *encoded = encode(manifest, bytes);
	uint8_t header[HEADER_BYTES], *to = header;
	int status;

	if (!encoded)
		return EX_OSERR;
	memcpy(to, magic, sizeof(magic));
	to = put_number(to + sizeof(magic), FORMAT_VERSION, 4);
	to = put_number(to, HEADER_BYTES, 4);
	to = put_number(to, manifest->nr, 8);
	to = put_number(to, manifest->data_end, 8);
	to = put_number(to, bytes, 8);
	status = digest_of(hash, encoded, bytes, to);
	if (status == EX_OK)
		status = digest_of(hash, header, HEADER_SUMMED, header + HEADER_SUMMED);
	if (status == EX_OK)
		status = session_write(session, encoded, bytes, manifest->data_end);
	if (status == EX_OK)
		status = session_sync(session);
	if (status == EX_OK)
		status = session_write(session, header, sizeof(header), 0);
	if (status == EX_OK)
		status = session_sync(session);
	free(encoded);
	return status;
}

int manifest_invalidate(struct session *session)
{
	static const uint8_t nothing[HEADER_BYTES];
	int status = session_write(session, nothing, sizeof(nothing), 0);

	return status == EX_OK ? session_sync(session) : status;
}

/* ---- from the image ---- */

static int bad_image(const struct session *session, const char *why)
{
	complain("%s: %s", printable(session->path), why);
	return EX_DATAERR;
}

/* Where the manifest is, according to a header that has been checked. */
struct place {
	uint64_t nr, pos, bytes;
	uint8_t digest[DIGEST_BYTES];
};

static int load_header(struct session *session, struct hash *hash, struct place *place)
{
	uint64_t image_bytes = (uint64_t)session->image->bytes;
	uint8_t header[HEADER_BYTES], digest[DIGEST_BYTES];
	int status;

	if (image_bytes < HEADER_BYTES)
		return bad_image(session, "not a rawpack image: too small");
	status = session_read(session, header, sizeof(header), 0);
	if (status != EX_OK)
		return status;
	if (memcmp(header, magic, sizeof(magic)) != 0)
		return bad_image(session, "not a rawpack image, or packing was not finished");
	if (get_number(header + 8, 4) != FORMAT_VERSION) {
		complain("%s: format version %" PRIu64 ", this program knows version %d",
			 printable(session->path), get_number(header + 8, 4), FORMAT_VERSION);
		return EX_DATAERR;
	}
	status = digest_of(hash, header, HEADER_SUMMED, digest);
	if (status != EX_OK)
		return status;
	if (get_number(header + 12, 4) != HEADER_BYTES ||
	    memcmp(digest, header + HEADER_SUMMED, DIGEST_BYTES) != 0)
		return bad_image(session, "the header is damaged");

	place->nr = get_number(header + 16, 8);
	place->pos = get_number(header + 24, 8);
	place->bytes = get_number(header + 32, 8);
	memcpy(place->digest, header + 40, DIGEST_BYTES);
	if (place->pos > image_bytes || place->bytes > image_bytes - place->pos) {
		complain("%s: truncated: %" PRIu64 " bytes of at least %" PRIu64,
			 printable(session->path), image_bytes, place->pos + place->bytes);
		return EX_DATAERR;
	}
	return EX_OK;
}

/* A name that leads out of the directory would make us read files nobody meant. */
static bool name_is_sane(const uint8_t *name, size_t bytes)
{
	if (bytes == 0 || name[0] == '/' || memchr(name, 0, bytes))
		return false;
	for (size_t start = 0, i = 0; i <= bytes; i++) {
		if (i < bytes && name[i] != '/')
			continue;
		if (i - start == 2 && name[start] == '.' && name[start + 1] == '.')
			return false;
		start = i + 1;
	}
	return true;
}

/* The checksum was right; that the contents make sense is checked all the same. */
static bool decode(struct manifest *manifest, const uint8_t *from, const struct place *place)
{
	const uint8_t *end = from + place->bytes;

	manifest->data_end = DATA_START;
	for (uint64_t i = 0; i < place->nr; i++) {
		struct object *object;
		uint64_t name_bytes;

		if (end - from < ENTRY_BYTES)
			return false;
		name_bytes = get_number(from + 48, 4);
		if (name_bytes > (uint64_t)(end - from - ENTRY_BYTES) ||
		    !name_is_sane(from + ENTRY_BYTES, name_bytes))
			return false;
		object = manifest_add(manifest, (const char *)from + ENTRY_BYTES, name_bytes);
		if (!object)
			return false;
		object->pos = get_number(from, 8);
		object->bytes = get_number(from + 8, 8);
		memcpy(object->digest, from + 16, DIGEST_BYTES);
		if (object->pos != manifest->data_end || object->pos > place->pos ||
		    object->bytes > place->pos - object->pos)
			return false;
		manifest->data_end += object->bytes;
		from += ENTRY_BYTES + name_bytes;
	}
	return from == end && manifest->data_end == place->pos;
}

int manifest_load(struct session *session, struct manifest *manifest, struct hash *hash)
{
	uint8_t digest[DIGEST_BYTES], *encoded;
	struct place place;
	int status = load_header(session, hash, &place);

	if (status != EX_OK)
		return status;
	encoded = malloc(place.bytes);
	if (!encoded) {
		complain("out of memory for the manifest");
		return EX_OSERR;
	}
	status = session_read(session, encoded, place.bytes, place.pos);
	if (status == EX_OK)
		status = digest_of(hash, encoded, place.bytes, digest);
	if (status == EX_OK && memcmp(digest, place.digest, DIGEST_BYTES) != 0)
		status = bad_image(session, "the manifest is damaged");
	if (status == EX_OK && !decode(manifest, encoded, &place)) {
		manifest_free(manifest);
		status = bad_image(session, "the manifest makes no sense");
	}
	free(encoded);
	return status;
}
