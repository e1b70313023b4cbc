/* SPDX-License-Identifier: MIT */
/*
 * pack.c - rawpack pack.
 *
 * A file is packed under a temporary name next to IMAGE, which it replaces when all is
 * durable; whatever goes wrong before, the temporary file goes and IMAGE is what it was.
 * A block device is written in place, without a header until the end.
 */
#include "rawpack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_UNIT 4096 /* an image is a whole number of these */

/* Where the image is written. */
struct target {
	const char *image;
	char path[PATH_MAX]; /* temporary, or the device */
	bool temporary;
};

/* ---- the file below ---- */

static int target_error(const struct target *target, const char *doing, int error)
{
	complain("%s: %s: %s", printable(target->image), doing, strerror(error));
	switch (error) {
	case EACCES:
	case EPERM:
	case EROFS:
		return EX_NOPERM;
	default:
		return EX_CANTCREAT;
	}
}

/* All the space now: a full disk is found out before anything is written. */
static int reserve(int fd, off_t bytes)
{
	int error;

	do {
		error = fallocate(fd, 0, 0, bytes) == 0 ? 0 : errno;
	} while (error == EINTR && !interrupted());
	/* Some file systems cannot; then fsync tells. */
	if (error == EOPNOTSUPP || error == ENOSYS)
		error = ftruncate(fd, bytes) == 0 ? 0 : errno;
	return error;
}

static int create_file(struct target *target, uint64_t bytes)
{
	mode_t mask = umask(0);
	int fd, error;

	umask(mask);
	fd = mkostemp(target->path, O_CLOEXEC);
	if (fd < 0)
		return target_error(target, "cannot create", errno);
	target->temporary = true;
	error = fchmod(fd, 0666 & ~mask) == 0 ? reserve(fd, (off_t)bytes) : errno;
	close(fd);
	if (error == EINTR)
		return EX_TEMPFAIL;
	return error ? target_error(target, "no room for the image", error) : EX_OK;
}

static int target_create(struct target *target, const char *image, uint64_t bytes)
{
	static const char suffix[] = ".XXXXXX";
	struct stat stat_now;

	target->image = image;
	target->temporary = false;
	if (strlen(image) + sizeof(suffix) > sizeof(target->path))
		return target_error(target, "cannot create", ENAMETOOLONG);
	strcpy(target->path, image);
	if (stat(image, &stat_now) == 0) {
		if (S_ISBLK(stat_now.st_mode))
			return EX_OK;
		if (!S_ISREG(stat_now.st_mode))
			return target_error(target, "cannot replace it",
					    S_ISDIR(stat_now.st_mode) ? EISDIR : EINVAL);
	}
	strcat(target->path, suffix);
	bytes = (bytes + IMAGE_UNIT - 1) / IMAGE_UNIT * IMAGE_UNIT;
	return create_file(target, bytes);
}

/* Give the finished image its name, durably. */
static int target_publish(struct target *target)
{
	char dir_path[PATH_MAX];
	int fd, error = 0;

	if (!target->temporary)
		return EX_OK;
	if (rename(target->path, target->image) != 0)
		return target_error(target, "cannot rename", errno);
	target->temporary = false;
	strcpy(dir_path, target->image);
	fd = open(dirname(dir_path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) != 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	return error ? target_error(target, "cannot sync the directory", error) : EX_OK;
}

static void target_discard(const struct target *target)
{
	if (target->temporary)
		unlink(target->path);
}

/* ---- the files that go in ---- */

struct packing {
	struct session session;
	struct hash *hash;
	int dir_fd;
	uint8_t *buffer;
};

static bool skip(const struct object *object, const char *why)
{
	complain("skipping %s: %s", printable(object->name), why);
	return false;
}

/* Some of the source file, and the time it took.  Return: bytes, 0 at the end, or -1. */
static ssize_t read_source(struct packing *packing, int fd)
{
	uint64_t start = now_ns();
	ssize_t got;

	do {
		got = read(fd, packing->buffer, CHUNK_BYTES);
	} while (got < 0 && errno == EINTR && !interrupted());
	packing->session.source_ns += now_ns() - start;
	return got;
}

/*
 * Copy one file to object->pos.  Return: false when it is left out, because it cannot be
 * read, is not the size any more that was scanned, or (*status set) because all has to end.
 * The next object then takes its place.
 */
static bool copy_file(struct packing *packing, struct object *object, int fd, int *status)
{
	uint64_t done = 0;
	ssize_t got;

	hash_start(packing->hash);
	while ((got = read_source(packing, fd)) > 0) {
		if ((uint64_t)got > object->bytes - done)
			return skip(object, "it grew while it was read");
		hash_add(packing->hash, packing->buffer, (size_t)got);
		*status = session_write(&packing->session, packing->buffer, (size_t)got,
					object->pos + done);
		if (*status == EX_OK && interrupted())
			*status = EX_TEMPFAIL;
		if (*status != EX_OK)
			return false;
		done += (uint64_t)got;
		progress_add((uint64_t)got);
	}
	if (got < 0)
		return skip(object, strerror(errno));
	if (done < object->bytes)
		return skip(object, "it shrank while it was read");
	*status = hash_finish(packing->hash, object->digest);
	return *status == EX_OK;
}

static bool pack_file(struct packing *packing, struct object *object, int *status)
{
	uint64_t start = now_ns();
	struct stat found;
	bool packed;
	int fd;

	/* NONBLOCK: what was a file may be a pipe by now. */
	fd = openat(packing->dir_fd, object->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return skip(object, strerror(errno));
	if (fstat(fd, &found) != 0)
		found.st_mode = 0;
	packing->session.source_ns += now_ns() - start;
	if (S_ISREG(found.st_mode))
		packed = copy_file(packing, object, fd, status);
	else
		packed = skip(object, "it is no regular file any more");
	start = now_ns();
	close(fd);
	packing->session.source_ns += now_ns() - start;
	return packed;
}

/* Pack what can be packed; the manifest is left with that. */
static int pack_files(struct packing *packing, struct manifest *manifest)
{
	uint64_t pos = DATA_START;
	size_t kept = 0;
	int status = EX_OK;

	for (size_t i = 0; i < manifest->nr; i++) {
		struct object *object = &manifest->objects[i];

		object->pos = pos;
		if (status == EX_OK && pack_file(packing, object, &status)) {
			pos += object->bytes;
			manifest->objects[kept++] = *object;
		} else {
			free(object->name);
		}
	}
	packing->session.nr = kept;
	packing->session.bytes = pos - DATA_START;
	manifest->nr = kept;
	manifest->data_end = pos;
	if (status == EX_OK && kept == 0) {
		complain("nothing was left to pack");
		status = EX_NOINPUT;
	}
	return status;
}

static int check_room(const struct session *session, uint64_t bytes)
{
	if ((uint64_t)session->image->bytes >= bytes)
		return EX_OK;
	complain("%s: too small: %" PRIi64 " bytes, %" PRIu64 " are needed",
		 printable(session->path), session->image->bytes, bytes);
	return EX_CANTCREAT;
}

static int fill_target(struct packing *packing, const struct options *options,
		       struct manifest *manifest, const struct target *target)
{
	struct session *session = &packing->session;
	int status = session_open(session, "packed", options, target->path);

	if (status != EX_OK)
		return status;
	status = check_room(session, manifest_image_bytes(manifest));
	if (status == EX_OK && !target->temporary)
		status = manifest_invalidate(session);
	if (status == EX_OK)
		status = pack_files(packing, manifest);
	progress_end();
	if (status == EX_OK)
		status = manifest_store(session, manifest, packing->hash);
	session->hash_ns = hash_ns(packing->hash);
	return session_close(session, status);
}

static int pack_manifest(struct packing *packing, const struct options *options,
			 struct manifest *manifest)
{
	struct target target;
	int status = target_create(&target, options->image, manifest_image_bytes(manifest));

	if (status == EX_OK)
		status = fill_target(packing, options, manifest, &target);
	if (status == EX_OK)
		status = target_publish(&target);
	target_discard(&target);
	return status;
}

int pack(const struct options *options)
{
	struct packing packing = { .dir_fd = -1 };
	struct manifest manifest = { 0 };
	int status = scan(options, &manifest);

	if (status != EX_OK)
		goto out;
	packing.hash = hash_create();
	packing.buffer = malloc(CHUNK_BYTES);
	packing.dir_fd = open(options->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!packing.hash || !packing.buffer || packing.dir_fd < 0) {
		if (packing.dir_fd < 0)
			complain("%s: %s", printable(options->dir), strerror(errno));
		status = packing.dir_fd < 0 ? EX_NOINPUT : EX_OSERR;
		goto out;
	}
	progress_start("packing", manifest.nr, "objects", manifest_object_bytes(&manifest));
	status = pack_manifest(&packing, options, &manifest);
	progress_end();
out:
	if (packing.dir_fd >= 0)
		close(packing.dir_fd);
	free(packing.buffer);
	hash_free(packing.hash);
	manifest_free(&manifest);
	return status;
}
