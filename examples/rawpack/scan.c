/* SPDX-License-Identifier: MIT */
/* scan.c - the regular files below a directory. */
#include "rawpack.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* The part of @path below the directory it was found in. */
static const char *below(const char *path, size_t dir_bytes)
{
	path += dir_bytes;
	while (*path == '/')
		path++;
	return path;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Take one entry that fts has found.  Return: status. */
static int take_entry(const FTSENT *entry, size_t dir_bytes, const struct stat *image,
		      struct manifest *manifest)
{
	const char *name = below(entry->fts_path, dir_bytes);
	struct object *object;

	switch (entry->fts_info) {
	case FTS_F: /* regular files only: all else is FTS_DEFAULT, FTS_SL ... */
		if (image && same_file(entry->fts_statp, image)) {
			complain("skipping %s: it is the image", printable(name));
			return EX_OK;
		}
		object = manifest_add(manifest, name, strlen(name));
		if (!object)
			return EX_OSERR;
		object->bytes = (uint64_t)entry->fts_statp->st_size;
		return EX_OK;
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		complain("skipping %s: %s", printable(*name ? name : entry->fts_path),
			 strerror(entry->fts_errno));
		return EX_OK;
	default:
		return EX_OK;
	}
}

static int walk(FTS *fts, size_t dir_bytes, const struct stat *image, struct manifest *manifest)
{
	int status = EX_OK;
	FTSENT *entry;

	errno = 0;
	while (status == EX_OK && (entry = fts_read(fts))) {
		status = take_entry(entry, dir_bytes, image, manifest);
		if (interrupted())
			status = EX_TEMPFAIL;
		errno = 0;
	}
	if (status == EX_OK && errno) {
		complain("walking the directory: %s", strerror(errno));
		status = EX_IOERR;
	}
	return status;
}

int scan(const struct options *options, struct manifest *manifest)
{
	/* COMFOLLOW: DIR itself may be a symbolic link; below it none is followed. */
	const int flags = FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR;
	struct stat dir, image;
	bool have_image = stat(options->image, &image) == 0;
	char *roots[] = { NULL, NULL };
	int status;
	FTS *fts;

	if (stat(options->dir, &dir) != 0) {
		complain("%s: %s", printable(options->dir), strerror(errno));
		return EX_NOINPUT;
	}
	if (!S_ISDIR(dir.st_mode)) {
		complain("%s: not a directory", printable(options->dir));
		return EX_NOINPUT;
	}
	roots[0] = strdup(options->dir);
	fts = roots[0] ? fts_open(roots, flags, by_name) : NULL;
	if (!fts) {
		complain("%s: %s", printable(options->dir), strerror(errno));
		free(roots[0]);
		return EX_OSERR;
	}
	status = walk(fts, strlen(roots[0]), have_image ? &image : NULL, manifest);
	fts_close(fts);
	free(roots[0]);
	if (status == EX_OK && manifest->nr == 0) {
		complain("%s: no regular file in it that can be packed", printable(options->dir));
		status = EX_NOINPUT;
	}
	return status;
}
