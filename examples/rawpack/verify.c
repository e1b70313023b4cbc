/* SPDX-License-Identifier: MIT */
/*
 * verify.c - rawpack verify.
 *
 * In this order, each step that opens the image doing so with an empty cache:
 *
 *   1. read all objects back, hash them, and keep what lies in the pieces;
 *   2. hash the source files by plain read(2), and compare;
 *   3. rewrite the pieces, without reading them first, and fsync;
 *   4. read all back: with the pieces changed back in memory, every hash must be as before,
 *      so exactly the bytes of the pieces have changed, and each as it should;
 *   5. write what was in the pieces, and fsync;
 *   6. read all back: every hash as before.
 *
 * Once 3 has begun, 5 is done whatever happens, so that the image stays good.  Only being
 * killed between them leaves it changed.
 */
#include "rawpack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct verification {
	const struct options *options;
	struct manifest manifest;
	struct pieces pieces;
	struct hash *hash;
	uint8_t *buffer;
	uint8_t (*digests)[DIGEST_BYTES]; /* of each object, as read last */
	int dir_fd;
	bool not_cold; /* some reading back was: a failure, once the bytes are compared */
};

/* What becomes of the bytes that lie in pieces when they have been read. */
enum piece_use { PIECES_SAVE, PIECES_TOGGLE, PIECES_IGNORE };

/* ---- the image ---- */

static int read_object(struct verification *v, struct session *session, const struct object *object,
		       enum piece_use use, uint8_t *digest)
{
	uint64_t done = 0;

	hash_start(v->hash);
	while (done < object->bytes) {
		uint64_t left = object->bytes - done;
		size_t bytes = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
		int status = session_read(session, v->buffer, bytes, object->pos + done);

		if (status == EX_OK && interrupted())
			status = EX_TEMPFAIL;
		if (status != EX_OK)
			return status;
		if (use == PIECES_SAVE)
			pieces_save(&v->pieces, v->buffer, bytes, object->pos + done);
		else if (use == PIECES_TOGGLE)
			pieces_toggle(&v->pieces, v->buffer, bytes, object->pos + done);
		hash_add(v->hash, v->buffer, bytes);
		done += bytes;
		progress_add(bytes);
	}
	return hash_finish(v->hash, digest);
}

static int read_objects(struct verification *v, struct session *session, enum piece_use use)
{
	uint64_t hashed_before_ns = hash_ns(v->hash);
	int status = EX_OK;

	for (size_t i = 0; i < v->manifest.nr && status == EX_OK; i++) {
		const struct object *object = &v->manifest.objects[i];

		status = read_object(v, session, object, use, v->digests[i]);
		if (status == EX_OK) {
			session->nr++;
			session->bytes += object->bytes;
		} else if (status == EX_IOERR) {
			complain("%s: cannot be read back", printable(object->name));
		}
	}
	session->hash_ns = hash_ns(v->hash) - hashed_before_ns;
	progress_end();
	return status;
}

static int close_read(struct verification *v, struct session *session, int status)
{
	status = session_close(session, status);
	if (status == EX_OK && session_check_cold(session) != EX_OK)
		v->not_cold = true;
	return status;
}

/* Step 1. */
static int read_first(struct verification *v)
{
	struct session session;
	int status = session_open(&session, "read back", v->options, v->options->image);

	if (status != EX_OK)
		return status;
	status = manifest_load(&session, &v->manifest, v->hash);
	if (status == EX_OK)
		status = pieces_plan(&v->pieces, DATA_START, v->manifest.data_end);
	if (status == EX_OK) {
		v->digests = calloc(v->manifest.nr + 1, DIGEST_BYTES);
		if (!v->digests) {
			complain("out of memory for the hashes");
			status = EX_OSERR;
		}
	}
	if (status == EX_OK) {
		progress_start("reading back", v->manifest.nr, "objects",
			       manifest_object_bytes(&v->manifest));
		status = read_objects(v, &session, PIECES_SAVE);
	}
	return close_read(v, &session, status);
}

/* Steps 4 and 6. */
static int read_again(struct verification *v, const char *doing, const char *done,
		      enum piece_use use, const char *complaint)
{
	struct manifest manifest = { 0 };
	struct session session;
	int status = session_open(&session, done, v->options, v->options->image);

	if (status != EX_OK)
		return status;
	/* Header and manifest have checksums, and no piece lies in them. */
	status = manifest_load(&session, &manifest, v->hash);
	manifest_free(&manifest);
	if (status == EX_OK) {
		progress_start(doing, v->manifest.nr, "objects",
			       manifest_object_bytes(&v->manifest));
		status = read_objects(v, &session, use);
	}
	status = close_read(v, &session, status);
	for (size_t i = 0; i < v->manifest.nr && (status == EX_OK || status == STATUS_MISMATCH);
	     i++) {
		const struct object *object = &v->manifest.objects[i];

		if (memcmp(v->digests[i], object->digest, DIGEST_BYTES) != 0) {
			complain("MISMATCH: %s: %s", printable(object->name), complaint);
			status = STATUS_MISMATCH;
		}
	}
	return status;
}

/* Steps 3 and 5. */
static int write_pieces(struct verification *v, const char *doing, const char *done, bool patterned)
{
	struct session session;
	int status = session_open(&session, done, v->options, v->options->image);

	if (status != EX_OK)
		return status;
	session.unit = "pieces";
	progress_start(doing, v->pieces.nr, session.unit, v->pieces.bytes);
	status = pieces_write(&v->pieces, &session, patterned);
	progress_end();
	return session_close(&session, status);
}

/* ---- the sources ---- */

/* SHA-256 of a source file.  Return: 0 or an errno. */
static int hash_source(struct verification *v, const struct object *object, uint8_t *digest)
{
	int fd = openat(v->dir_fd, object->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t got = -1;
	int error;

	if (fd < 0)
		return errno;
	hash_start(v->hash);
	while (!interrupted() && (got = read(fd, v->buffer, CHUNK_BYTES)) > 0) {
		hash_add(v->hash, v->buffer, (size_t)got);
		progress_add((uint64_t)got);
	}
	error = got < 0 ? errno : 0;
	close(fd);
	if (!error && hash_finish(v->hash, digest) != EX_OK)
		error = EIO;
	return error;
}

struct comparison {
	uint64_t same, changed, gone, mismatched;
};

/* The image against the source file, or against its recorded hash when that is another now. */
static void compare_object(struct verification *v, size_t i, struct comparison *sum)
{
	const struct object *object = &v->manifest.objects[i];
	uint8_t source[DIGEST_BYTES];
	int error = hash_source(v, object, source);

	if (interrupted())
		return;
	if (error) {
		complain("%s: cannot read the source (%s), comparing with its recorded hash",
			 printable(object->name), strerror(error));
		sum->gone++;
	} else if (memcmp(source, object->digest, DIGEST_BYTES) != 0) {
		complain("%s: the source has changed, comparing with its recorded hash",
			 printable(object->name));
		sum->changed++;
	} else if (memcmp(source, v->digests[i], DIGEST_BYTES) == 0) {
		sum->same++;
		return;
	}
	if (memcmp(v->digests[i], object->digest, DIGEST_BYTES) != 0) {
		complain("MISMATCH: %s: the image does not hold the bytes of the source",
			 printable(object->name));
		sum->mismatched++;
	}
}

/* Step 2. */
static int compare_sources(struct verification *v)
{
	struct comparison sum = { 0 };
	uint64_t start = now_ns();

	progress_start("comparing with sources", v->manifest.nr, "objects",
		       manifest_object_bytes(&v->manifest));
	for (size_t i = 0; i < v->manifest.nr && !interrupted(); i++)
		compare_object(v, i, &sum);
	progress_end();
	if (interrupted())
		return EX_TEMPFAIL;
	say("compared with sources in %.2f s: %" PRIu64 " the same, %" PRIu64
	    " changed since, %" PRIu64 " gone since, %" PRIu64 " MISMATCHED",
	    (double)(now_ns() - start) / 1e9, sum.same, sum.changed, sum.gone, sum.mismatched);
	return sum.mismatched ? STATUS_MISMATCH : EX_OK;
}

/* ---- all of it ---- */

/* Steps 3 to 6. */
static int rewrite(struct verification *v)
{
	int status, restored;

	status = write_pieces(v, "rewriting pieces", "rewrote", true);
	if (status == EX_OK)
		status = read_again(v, "reading rewritten", "read rewritten", PIECES_TOGGLE,
				    "after rewriting pieces it holds other bytes than it should");
	restored = write_pieces(v, "restoring pieces", "restored", false);
	if (restored != EX_OK)
		complain("%s: the rewritten pieces could not be put back: pack it again",
			 printable(v->options->image));
	if (status == EX_OK)
		status = restored;
	if (status == EX_OK)
		status = read_again(v, "reading restored", "read restored", PIECES_IGNORE,
				    "after restoring the pieces it is not what it was");
	return status;
}

static int check_dir(const struct options *options, int *dir_fd)
{
	*dir_fd = open(options->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*dir_fd >= 0)
		return EX_OK;
	complain("%s: %s", printable(options->dir), strerror(errno));
	return EX_NOINPUT;
}

int verify(const struct options *options)
{
	struct verification v = { .options = options };
	int status = check_dir(options, &v.dir_fd);

	if (status != EX_OK)
		return status;
	v.hash = hash_create();
	v.buffer = malloc(CHUNK_BYTES);
	status = v.hash && v.buffer ? EX_OK : EX_OSERR;
	if (status == EX_OK)
		status = read_first(&v);
	if (status == EX_OK)
		status = compare_sources(&v);
	if (status == EX_OK)
		status = rewrite(&v);
	if (status == EX_OK && v.not_cold)
		status = STATUS_MISMATCH;
	if (status == EX_OK)
		say("verified: all %zu objects, before, during and after rewriting %zu pieces",
		    v.manifest.nr, v.pieces.nr);
	close(v.dir_fd);
	free(v.digests);
	free(v.buffer);
	hash_free(v.hash);
	pieces_free(&v.pieces);
	manifest_free(&v.manifest);
	return status;
}
