/* SPDX-License-Identifier: MIT */
/*
 * tool_clone.c - xstore cp and unshare.
 *
 * cp is a put from another object: it fills an object without a name, and gives it the name
 * when all is there.  With --reflink the two share their blocks; otherwise what is written is
 * copied, and holes and space that was never written are left out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* ---- cp ---- */

/* Copy [@pos, @end). */
static int copy_run(struct iomap_file *from, struct iomap_file *to, char *chunk, uint64_t pos,
		    uint64_t end)
{
	ssize_t got;
	int error = 0;

	while (!error && pos < end) {
		got = object_read(from, chunk, pos);
		if (got <= 0)
			return got ? (int)got : -EIO;
		if ((uint64_t)got > end - pos)
			got = (ssize_t)(end - pos);
		error = object_write(to, chunk, (size_t)got, pos);
		pos += (uint64_t)got;
	}
	return error;
}

static int copy_bytes(struct session *session, struct opened *from, struct opened *to,
		      uint64_t size)
{
	char *chunk = chunk_alloc();
	struct xs_extent *extents = NULL;
	uint32_t nr = 0;
	int error = chunk ? xs_extents(session->store, session->request->name, &extents, &nr) :
			    -ENOMEM;

	for (uint32_t i = 0; i < nr && !error; i++) {
		uint64_t start = extents[i].file << XS_BLOCK_SHIFT;
		uint64_t end = xs_extent_end(&extents[i]) << XS_BLOCK_SHIFT;

		if (!extents[i].unwritten)
			error = copy_run(from->file, to->file, chunk, start,
					 end < size ? end : size);
	}
	free(extents);
	free(chunk);
	if (!error && iomap_i_size_read(&to->object->inode) != (int64_t)size)
		error = iomap_truncate(to->file, (int64_t)size);
	return error;
}

static int copy_object(struct session *session, struct opened *from, struct opened *to)
{
	const struct request *request = session->request;
	uint64_t size = (uint64_t)iomap_i_size_read(&from->object->inode);
	int error;

	if (request->given & OPTION_REFLINK)
		error = xs_clone(from->object, 0, to->object, 0, 0);
	else
		error = copy_bytes(session, from, to, size);
	if (!error)
		error = publish_object(session, to, request->arg);
	if (error)
		return complain_error(request->arg, error, NULL);
	json_name("to", request->arg);
	if (json_wanted() || request->given & OPTION_STATS)
		say_figures(session, "copied", 1, "objects", size);
	return EX_OK;
}

static int copy_to_new(struct session *session, struct opened *from)
{
	struct opened to;
	int error = create_object(session->store, false, &to);
	int status;

	if (error)
		return complain_error(session->request->arg, error, NULL);
	status = copy_object(session, from, &to);
	error = close_object(&to);
	if (error && status == EX_OK)
		status = complain_error(session->request->arg, error, NULL);
	return status;
}

int tool_cp(struct session *session)
{
	const struct request *request = session->request;
	struct opened from;
	int error, status;

	json_name("name", request->name);
	status = check_name(request->arg);
	if (status != EX_OK)
		return status;
	error = open_object(session->store, request->name, false, &from);
	if (error)
		return complain_error(request->name, error, NULL);
	status = copy_to_new(session, &from);
	error = close_object(&from);
	if (error && status == EX_OK)
		status = complain_error(request->name, error, NULL);
	return status;
}

/* ---- unshare ---- */

/* The whole object, or what the command line says.  Return: status. */
static int take_range(const struct request *request, uint64_t *pos, uint64_t *len)
{
	*pos = 0;
	*len = INT64_MAX;
	if (!request->arg)
		return EX_OK;
	if (!request->arg2)
		return complain(EX_USAGE, "a length goes with the offset");
	if (!parse_size(request->arg, pos))
		return complain(EX_USAGE, "'%s' is not an offset", printable(request->arg));
	if (!parse_size(request->arg2, len))
		return complain(EX_USAGE, "'%s' is not a length", printable(request->arg2));
	return EX_OK;
}

/* Blocks of the object that are shared. */
static uint64_t shared_bytes(struct session *session)
{
	struct xs_info info;

	return xs_info(session->store, session->request->name, &info) ?
		       0 :
		       info.shared_blocks_nr << XS_BLOCK_SHIFT;
}

int tool_unshare(struct session *session)
{
	const struct request *request = session->request;
	struct opened opened;
	uint64_t pos, len;
	int status = take_range(request, &pos, &len), error, closing;

	if (status != EX_OK)
		return status;
	error = open_object(session->store, request->name, false, &opened);
	if (error)
		return complain_error(request->name, error, NULL);
	error = xs_unshare(opened.object, (int64_t)pos, (int64_t)len);
	closing = iomap_file_fsync(opened.file, 0);
	if (!error)
		error = closing;
	json_name("name", request->name);
	json_number("shared", shared_bytes(session));
	closing = close_object(&opened);
	if (!error)
		error = closing;
	return error ? complain_error(request->name, error, NULL) : EX_OK;
}
