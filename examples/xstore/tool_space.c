/* SPDX-License-Identifier: MIT */
/* tool_space.c - the commands of the xstore program that change where an object has space. */
#include "tool.h"

/* OFF and LEN.  Return: a status. */
static int take_range(const struct request *request, int64_t *off, int64_t *len)
{
	uint64_t number;

	if (!parse_size(request->arg, &number) || number > XS_FILE_BYTES_MAX)
		return complain(EX_USAGE, "'%s' is not an offset", printable(request->arg));
	*off = (int64_t)number;
	if (!parse_size(request->arg2, &number) || !number || number > XS_FILE_BYTES_MAX)
		return complain(EX_USAGE, "'%s' is not a length", printable(request->arg2));
	*len = (int64_t)number;
	return EX_OK;
}

static int change_range(struct session *session, int mode)
{
	const char *name = session->request->name;
	struct opened opened;
	int64_t off = 0, len = 0;
	int status = take_range(session->request, &off, &len);
	int error, closing;

	if (status != EX_OK)
		return status;
	if (session->request->given & OPTION_KEEP_SIZE)
		mode |= IOMAP_FALLOC_FL_KEEP_SIZE;
	error = open_object(session->store, name, false, &opened);
	if (error)
		return complain_error(name, error, NULL);
	error = iomap_fallocate(opened.file, mode, off, len);
	if (!error)
		error = iomap_file_fsync(opened.file, 0);
	json_name("name", name);
	json_number("offset", (uint64_t)off);
	json_number("length", (uint64_t)len);
	json_number("size", (uint64_t)iomap_i_size_read(&opened.object->inode));
	closing = close_object(&opened);
	if (!error)
		error = closing;
	return error ? complain_error(name, error, NULL) : EX_OK;
}

int tool_punch(struct session *session)
{
	return change_range(session,
			    IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE);
}

int tool_zero(struct session *session)
{
	return change_range(session, IOMAP_FALLOC_FL_ZERO_RANGE);
}

int tool_fallocate(struct session *session)
{
	return change_range(session, 0);
}
