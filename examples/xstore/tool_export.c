/* SPDX-License-Identifier: MIT */
/*
 * tool_export.c - xstore export: each object becomes a file below a directory.
 *
 * All names are looked at before anything is written: one that leads out of the directory, or
 * is none of a file, is refused.  Nor does a symbolic link below the directory lead out: none
 * is followed.  A file is written under a temporary name and renamed, so that there is the old
 * one or the new; one syncfs() at the end makes all of them durable.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define NAME_FORMAT ".xstore-%08" PRIx32

struct export
{
	struct session *session;
	const char *dir;
	char *chunk;
	int root;
	/* where the last file went: most of the next go there too */
	char parent[XS_NAME_MAX + 1]; /* "" is the root */
	int parent_fd;
	uint64_t nr, bytes, all_nr;
};

/* ---- names ---- */

static int check_names(struct export *export)
{
	struct xs_info info;

	for (size_t n = 0; xs_info_nth(export->session->store, n, &info) == 0; n++) {
		if (!tree_stays_below(info.name))
			return complain(EX_DATAERR, "%s: cannot be the name of a file below %s",
					printable(info.name), printable(export->dir));
		export->all_nr++;
	}
	return EX_OK;
}

/* ---- directories ---- */

/* Open directory @name of @at, which is made if it is not there.  Return: fd or -errno. */
static int open_dir(int at, const char *name)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(at, name, flags);

	if (fd < 0 && errno == ENOENT && (mkdirat(at, name, 0777) == 0 || errno == EEXIST))
		fd = openat(at, name, flags);
	return fd < 0 ? -errno : fd;
}

static void leave_parent(struct export *export)
{
	if (export->parent_fd >= 0)
		close(export->parent_fd);
	export->parent_fd = -1;
}

/* Make parent_fd the directory @path below the root.  Return: 0 or -errno. */
static int enter_parent(struct export *export, const char *path)
{
	char rest[XS_NAME_MAX + 1], *at = rest, *slash;
	int fd = dup(export->root);

	if (fd < 0)
		return -errno;
	strcpy(rest, path);
	while (*at) {
		int next;

		slash = strchr(at, '/');
		if (slash)
			*slash = '\0';
		next = open_dir(fd, at);
		close(fd);
		if (next < 0)
			return next;
		fd = next;
		at += strlen(at) + (slash != NULL);
	}
	leave_parent(export);
	export->parent_fd = fd;
	strcpy(export->parent, path);
	return 0;
}

/* Return: the last component of @name, whose directory is parent_fd then; NULL and *@error. */
static const char *enter(struct export *export, const char *name, int *error)
{
	const char *slash = strrchr(name, '/');
	size_t bytes = slash ? (size_t)(slash - name) : 0;
	char parent[XS_NAME_MAX + 1];

	memcpy(parent, name, bytes);
	parent[bytes] = '\0';
	*error = 0;
	if (export->parent_fd < 0 || strcmp(parent, export->parent) != 0)
		*error = enter_parent(export, parent);
	if (*error)
		return NULL;
	return slash ? slash + 1 : name;
}

/* ---- files ---- */

/* A new file of a name that nothing has.  Return: fd or -errno. */
static int temporary_open(int at, char name[24])
{
	uint32_t number;
	int fd;

	do {
		if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
			return -errno;
		sprintf(name, NAME_FORMAT, number);
		fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	} while (fd < 0 && errno == EEXIST);
	return fd < 0 ? -errno : fd;
}

/* Return: 0 or -errno, and *@side. */
static int export_to(struct export *export, const char *name, struct iomap_file *file,
		     enum copy_side *side)
{
	char temporary[24];
	struct stat found;
	const char *last;
	int fd, error;

	*side = COPY_FILE;
	last = enter(export, name, &error);
	if (!last)
		return error;
	if (fstatat(export->parent_fd, last, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
	    is_own_store(export->session, &found))
		return -EBUSY;
	fd = temporary_open(export->parent_fd, temporary);
	if (fd < 0)
		return fd;
	error = copy_out(export->session->store, name, file, fd, export->chunk, side);
	if (close(fd) != 0 && !error) {
		*side = COPY_FILE;
		error = -errno;
	}
	if (!error && renameat(export->parent_fd, temporary, export->parent_fd, last) != 0) {
		*side = COPY_FILE;
		error = -errno;
	}
	if (error)
		unlinkat(export->parent_fd, temporary, 0);
	return error;
}

static int export_object(struct export *export, const struct xs_info *info)
{
	enum copy_side side = COPY_STORE;
	struct opened opened;
	int closing, error = open_object(export->session->store, info->name, false, &opened);

	if (!error) {
		error = export_to(export, info->name, opened.file, &side);
		closing = close_object(&opened);
		if (!error)
			error = closing;
	}
	if (!error) {
		export->nr++;
		export->bytes += info->size;
		return EX_OK;
	}
	if (side == COPY_INTERRUPTED)
		return EX_TEMPFAIL;
	if (side == COPY_STORE)
		return complain_error(info->name, error, NULL);
	return complain_file(status_of_errno(-error, EX_CANTCREAT), export->dir, info->name,
			     error == -EBUSY ? "is the store itself" : strerror(-error));
}

static int export_objects(struct export *export)
{
	struct xs_info info;
	int status = EX_OK;

	for (size_t n = 0; status == EX_OK && xs_info_nth(export->session->store, n, &info) == 0;
	     n++)
		status = interrupted() ? EX_TEMPFAIL : export_object(export, &info);
	if (status == EX_TEMPFAIL)
		complain(status, "%s: interrupted: %" PRIu64 " of %" PRIu64 " objects are out",
			 printable(export->dir), export->nr, export->all_nr);
	if (status == EX_OK && syncfs(export->root) != 0)
		status = complain(EX_IOERR, "%s: %s", printable(export->dir), strerror(errno));
	return status;
}

static int export_all(struct export *export)
{
	int status = check_names(export);

	if (status != EX_OK)
		return status;
	export->chunk = chunk_alloc();
	if (!export->chunk)
		return complain(EX_OSERR, "out of memory");
	if (mkdir(export->dir, 0777) == 0 || errno == EEXIST)
		export->root = open(export->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (export->root < 0)
		return complain(status_of_errno(errno, EX_CANTCREAT), "%s: %s",
				printable(export->dir), strerror(errno));
	status = export_objects(export);
	json_bool("complete", status == EX_OK);
	if (status == EX_OK || json_wanted())
		say_figures(export->session, "exported", export->nr, "objects", export->bytes);
	return status;
}

int tool_export(struct session *session)
{
	struct export export = { session, session->request->arg, .root = -1, .parent_fd = -1 };
	int status;

	interrupts_catch();
	status = export_all(&export);
	leave_parent(&export);
	if (export.root >= 0)
		close(export.root);
	free(export.chunk);
	return status;
}
