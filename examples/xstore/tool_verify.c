/* SPDX-License-Identifier: MIT */
/*
 * tool_verify.c - xstore verify: all objects against the files below a directory.
 *
 * Both are in the order of strcmp(), so one walk over the two finds what is missing, what is
 * too much, and what to compare.  Each difference is a line of its own on standard output, the
 * sum of them the one on standard error.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

struct verification {
	struct session *session;
	struct tree tree;
	char *chunks[2];
	const uint64_t *seed; /* NULL: nothing has been rewritten */
	uint64_t same_nr, same_bytes;
	uint64_t different_nr, missing_nr, extra_nr;
};

/* ---- bytes ---- */

/* Apply the pattern to what lies in pieces, of the chunk at @pos; *@piece: the next of them. */
static void toggle_chunk(struct pieces *pieces, struct piece *piece, bool *more, char *chunk,
			 size_t bytes, uint64_t pos)
{
	while (*more && piece->pos < pos + bytes) {
		uint64_t end = piece->pos + piece->bytes;
		uint64_t from = piece->pos > pos ? piece->pos : pos;
		uint64_t to = end < pos + bytes ? end : pos + bytes;

		pieces_toggle(pieces, chunk + (from - pos), (size_t)(to - from), from);
		if (end > pos + bytes)
			return;
		*more = pieces_next(pieces, piece);
	}
}

static uint64_t first_difference(const char *a, const char *b, size_t bytes)
{
	size_t i = 0;

	while (i < bytes && a[i] == b[i])
		i++;
	return i;
}

int compare_object(struct iomap_file *file, int fd, const char *name, uint64_t bytes,
		   const uint64_t *seed, char *chunks[2], bool *same, uint64_t *at,
		   enum copy_side *side)
{
	struct pieces pieces;
	struct piece piece = { 0 };
	bool more = false;

	*same = true;
	if (seed) {
		pieces_start(&pieces, *seed, name, bytes);
		more = pieces_next(&pieces, &piece);
	}
	for (uint64_t pos = 0; pos < bytes && *same; pos += CHUNK_BYTES) {
		size_t want = bytes - pos < CHUNK_BYTES ? (size_t)(bytes - pos) : CHUNK_BYTES;
		ssize_t mine = object_read(file, chunks[0], pos), theirs;

		*side = COPY_STORE;
		if (mine < 0 || (size_t)mine < want)
			return mine < 0 ? (int)mine : -ENODATA;
		*side = COPY_FILE;
		theirs = read_chunk_at(fd, chunks[1], want, (int64_t)pos);
		if (theirs < 0 || (size_t)theirs < want)
			return theirs < 0 ? (int)theirs : -ENODATA;
		*side = COPY_INTERRUPTED;
		if (interrupted())
			return -EINTR;
		if (seed)
			toggle_chunk(&pieces, &piece, &more, chunks[1], want, pos);
		*same = memcmp(chunks[0], chunks[1], want) == 0;
		if (!*same)
			*at = pos + first_difference(chunks[0], chunks[1], want);
	}
	return 0;
}

/* ---- what is found ---- */

/* Begin to say that an object is not what it should be; json_end() after it. */
static void difference(const char *kind, const char *name, const char *details)
{
	json_object(NULL);
	json_name("kind", kind);
	json_name("name", name);
	if (!json_wanted())
		printf("%s: %s%s\n", printable(name), kind, details);
}

static void say_missing(struct verification *v, const char *name)
{
	v->missing_nr++;
	difference("missing", name, ": no such object");
	json_end();
}

static void say_extra(struct verification *v, const char *name)
{
	v->extra_nr++;
	difference("extra", name, ": no such file");
	json_end();
}

static void say_sizes(struct verification *v, const char *name, uint64_t mine, uint64_t theirs)
{
	char details[80];

	v->different_nr++;
	snprintf(details, sizeof(details), ": %" PRIu64 " bytes, the file has %" PRIu64, mine,
		 theirs);
	difference("different", name, details);
	json_number("size", mine);
	json_number("file_size", theirs);
	json_end();
}

static void say_differs(struct verification *v, const char *name, uint64_t at)
{
	char details[40];

	v->different_nr++;
	snprintf(details, sizeof(details), " at byte %" PRIu64, at);
	difference("different", name, details);
	json_number("offset", at);
	json_end();
}

/* ---- one object ---- */

/* Return: 0 or -errno, and *@side. */
static int compare_fd(struct verification *v, const struct xs_info *info, int fd, bool *same,
		      uint64_t *at, enum copy_side *side)
{
	struct opened opened;
	int error, closing;

	*side = COPY_STORE;
	error = open_object(v->session->store, info->name,
			    v->session->request->given & OPTION_DIRECT, &opened);
	if (error)
		return error;
	error = compare_object(opened.file, fd, info->name, info->size, v->seed, v->chunks, same,
			       at, side);
	closing = close_object(&opened);
	return error ? error : closing;
}

/* Return: status. */
static int verify_object(struct verification *v, const struct xs_info *info)
{
	enum copy_side side = COPY_FILE;
	uint64_t bytes = 0, at = 0;
	bool same = false;
	int fd = tree_open(&v->tree, info->name, &bytes);
	int error = fd < 0 ? fd : 0;

	if (!error && bytes == info->size)
		error = compare_fd(v, info, fd, &same, &at, &side);
	if (fd >= 0)
		close(fd);
	if (error && side == COPY_FILE) {
		tree_unreadable(&v->tree, info->name, -error);
		return EX_OK;
	}
	if (error && side == COPY_INTERRUPTED)
		return EX_TEMPFAIL;
	if (error)
		return complain_error(info->name, error, NULL);
	if (bytes != info->size) {
		say_sizes(v, info->name, info->size, bytes);
	} else if (!same) {
		say_differs(v, info->name, at);
	} else {
		v->same_nr++;
		v->same_bytes += bytes;
	}
	return EX_OK;
}

/* ---- all ---- */

static int verify_objects(struct verification *v)
{
	struct xs_info info;
	size_t n = 0, i = 0;
	int status = EX_OK;
	bool have = xs_info_nth(v->session->store, n, &info) == 0;

	while (status == EX_OK && (have || i < v->tree.nr)) {
		const char *name = i < v->tree.nr ? v->tree.files[i].name : NULL;
		int order = !have ? 1 : !name ? -1 : strcmp(info.name, name);

		if (interrupted())
			return EX_TEMPFAIL;
		if (order < 0)
			say_extra(v, info.name);
		else if (order > 0)
			say_missing(v, name);
		else
			status = verify_object(v, &info);
		if (order >= 0)
			i++;
		if (order <= 0)
			have = xs_info_nth(v->session->store, ++n, &info) == 0;
	}
	return status;
}

static int say_result(struct verification *v, int status)
{
	json_number("same", v->same_nr);
	json_number("different", v->different_nr);
	json_number("missing", v->missing_nr);
	json_number("extra", v->extra_nr);
	json_number("unreadable", v->tree.unreadable_nr);
	if (status == EX_OK || json_wanted())
		say_figures(v->session, "verified", v->same_nr, "objects", v->same_bytes);
	if (status == EX_TEMPFAIL)
		return complain(status, "%s: interrupted: %" PRIu64 " objects are verified",
				printable(v->session->request->path), v->same_nr);
	if (status == EX_OK && v->different_nr + v->missing_nr + v->extra_nr)
		return complain(EX_DATAERR,
				"%s: %" PRIu64 " objects are different, %" PRIu64
				" missing, %" PRIu64 " too much",
				printable(v->session->request->path), v->different_nr,
				v->missing_nr, v->extra_nr);
	return status;
}

int tool_verify(struct session *session)
{
	const struct request *request = session->request;
	struct verification v = {
		.session = session,
		.chunks = { chunk_alloc(), chunk_alloc() },
		.seed = request->given & OPTION_SEED ? &request->seed : NULL,
	};
	int status;

	interrupts_catch();
	status = tree_scan(request->arg, request->path, &v.tree);
	if (status == EX_OK && (!v.chunks[0] || !v.chunks[1]))
		status = complain(EX_OSERR, "out of memory");
	if (status == EX_OK) {
		json_array("differences");
		status = verify_objects(&v);
		json_end();
		status = say_result(&v, status);
		/* one line: a difference weighs more */
		if (status == EX_OK)
			status = tree_complain_unreadable(&v.tree, status);
	}
	tree_free(&v.tree);
	free(v.chunks[0]);
	free(v.chunks[1]);
	return status;
}
