/* SPDX-License-Identifier: MIT */
/*
 * tool_tree.c - the regular files below a directory, by name.
 *
 * Symbolic links are not followed, but DIR may be one.  What cannot be looked at is counted,
 * and the first of it kept for the one line that says so.
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tool.h"

static bool add_file(struct tree *tree, const char *name, uint64_t bytes)
{
	size_t max = tree->max ? 2 * tree->max : 256;
	struct tree_file *files;
	char *copy = strdup(name);

	if (!copy)
		return false;
	if (tree->nr == tree->max) {
		files = realloc(tree->files, max * sizeof(*files));
		if (!files) {
			free(copy);
			return false;
		}
		tree->files = files;
		tree->max = max;
	}
	tree->files[tree->nr++] = (struct tree_file){ copy, bytes };
	tree->bytes += bytes;
	return true;
}

void tree_unreadable(struct tree *tree, const char *name, int error)
{
	if (tree->unreadable_nr++)
		return;
	tree->unreadable = strdup(name);
	tree->unreadable_error = error;
}

int tree_complain_unreadable(const struct tree *tree, int status)
{
	int own = status_of_errno(tree->unreadable_error, EX_NOINPUT);

	if (!tree->unreadable_nr)
		return status;
	complain(own, "%s: %" PRIu64 " cannot be read, first of all %s: %s", printable(tree->dir),
		 tree->unreadable_nr, tree->unreadable ? printable(tree->unreadable) : "?",
		 strerror(tree->unreadable_error));
	return status == EX_OK ? own : status;
}

int tree_check_names(const struct tree *tree)
{
	for (size_t i = 0; i < tree->nr; i++) {
		const char *name = tree->files[i].name;
		int error = xs_name_check(name, strlen(name));

		if (error == -ENAMETOOLONG)
			return complain(EX_DATAERR,
					"%s/%s: the name is too long: %zu bytes, at most %u",
					printable(tree->dir), printable(name), strlen(name),
					XS_NAME_MAX);
		if (error)
			return complain_file(EX_DATAERR, tree->dir, name,
					     "cannot be the name of an object");
	}
	return EX_OK;
}

/* The part of @path below the directory it was found in. */
static const char *below(const char *path, size_t dir_bytes)
{
	path += dir_bytes;
	while (*path == '/')
		path++;
	return path;
}

/* Return: whether there was memory. */
static bool take_entry(struct tree *tree, const FTSENT *entry, const struct stat *store)
{
	const char *name = below(entry->fts_path, strlen(tree->dir));
	const struct stat *found = entry->fts_statp;

	switch (entry->fts_info) {
	case FTS_F: /* regular files only: all else is FTS_DEFAULT, FTS_SL ... */
		if (store && found->st_dev == store->st_dev && found->st_ino == store->st_ino)
			return true;
		return add_file(tree, name, (uint64_t)found->st_size);
	case FTS_SL:
	case FTS_SLNONE:
		tree->links_nr++;
		return true;
	case FTS_DEFAULT:
		tree->specials_nr++;
		return true;
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		tree_unreadable(tree, *name ? name : ".", entry->fts_errno);
		return true;
	default:
		return true;
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct tree_file *)a)->name, ((const struct tree_file *)b)->name);
}

static int walk(struct tree *tree, FTS *fts, const struct stat *store)
{
	FTSENT *entry;

	errno = 0;
	while ((entry = fts_read(fts))) {
		if (!take_entry(tree, entry, store))
			return complain(EX_OSERR, "%s: out of memory", printable(tree->dir));
		if (interrupted())
			return complain(EX_TEMPFAIL, "%s: interrupted", printable(tree->dir));
		errno = 0;
	}
	if (errno)
		return complain(EX_IOERR, "%s: %s", printable(tree->dir), strerror(errno));
	if (tree->nr)
		qsort(tree->files, tree->nr, sizeof(*tree->files), by_name);
	return EX_OK;
}

int tree_attach(const char *dir, struct tree *tree)
{
	*tree = (struct tree){ .dir = dir };
	tree->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tree->fd < 0)
		return complain(status_of_errno(errno, EX_NOINPUT), "%s: %s", printable(dir),
				strerror(errno));
	return EX_OK;
}

int tree_scan(const char *dir, const char *store, struct tree *tree)
{
	/* COMFOLLOW: DIR itself may be a symbolic link; below it none is followed */
	const int flags = FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR;
	char *roots[] = { (char *)dir, NULL };
	struct stat store_found;
	bool have_store = stat(store, &store_found) == 0;
	int status = tree_attach(dir, tree);
	FTS *fts;

	if (status != EX_OK)
		return status;
	fts = fts_open(roots, flags, NULL);
	if (!fts)
		return complain(EX_OSERR, "%s: %s", printable(dir), strerror(errno));
	status = walk(tree, fts, have_store ? &store_found : NULL);
	fts_close(fts);
	return status;
}

void tree_free(struct tree *tree)
{
	for (size_t i = 0; i < tree->nr; i++)
		free(tree->files[i].name);
	free(tree->files);
	free(tree->unreadable);
	if (tree->fd >= 0)
		close(tree->fd);
}

bool tree_stays_below(const char *name)
{
	do {
		size_t bytes = strcspn(name, "/");

		if (bytes == 0 || (bytes == 1 && name[0] == '.') ||
		    (bytes == 2 && name[0] == '.' && name[1] == '.'))
			return false;
		name += bytes;
	} while (*name++);
	return true;
}

/* No directory on the way may have become a symbolic link; old kernels look at the last name. */
static int open_below(int dir, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)flags, .resolve = RESOLVE_NO_SYMLINKS };
	int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));

	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = openat(dir, name, flags);
	return fd;
}

int tree_open(const struct tree *tree, const char *name, uint64_t *bytes)
{
	/* NONBLOCK: what was a file may be a pipe by now */
	const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
	struct stat found;
	int error = 0, fd;

	/* of a store that somebody else has made */
	if (!tree_stays_below(name))
		return -EINVAL;
	fd = open_below(tree->fd, name, flags);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &found) != 0)
		error = -errno;
	else if (!S_ISREG(found.st_mode))
		error = -EINVAL;
	if (error) {
		close(fd);
		return error;
	}
	*bytes = (uint64_t)found.st_size;
	return fd;
}

/*
 * Whole blocks for each file; what its entry takes, with room for a tree that is half empty and
 * for the old one beside the new; and a part to move in.
 */
uint64_t tree_store_bytes(const struct tree *tree)
{
	const uint64_t unit = UINT64_C(1) << 20, block = XS_BLOCK_BYTES, entry = 512;
	uint64_t bytes = 4 * unit;

	for (size_t i = 0; i < tree->nr; i++)
		bytes += (tree->files[i].bytes + block - 1) / block * block + entry +
			 4 * strlen(tree->files[i].name);
	bytes += bytes / 16;
	return (bytes + unit - 1) / unit * unit;
}
