/* SPDX-License-Identifier: MIT */
/*
 * tool_data.c - xstore put and get.
 *
 * put fills an object without a name, and gives it the name when all is durable: until then,
 * and when anything fails, the object that had the name stays what it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define CHUNK_BYTES ((size_t)256 << 10)

static bool is_standard(const char *path)
{
	return !path || strcmp(path, "-") == 0;
}

static ssize_t read_chunk(int fd, char *chunk)
{
	size_t have = 0;
	ssize_t got;

	/* pipes give little at a time; whole chunks make whole extents */
	while (have < CHUNK_BYTES) {
		got = read(fd, chunk + have, CHUNK_BYTES - have);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		have += (size_t)got;
	}
	return (ssize_t)have;
}

static bool all_zero(const char *chunk, size_t bytes)
{
	return bytes == 0 || (chunk[0] == 0 && memcmp(chunk, chunk + 1, bytes - 1) == 0);
}

static int write_all(struct iomap_file *file, const char *chunk, size_t bytes, int64_t pos)
{
	while (bytes) {
		ssize_t put = iomap_write(file, chunk, bytes, pos);

		if (put <= 0)
			return put ? (int)put : -EIO;
		chunk += put;
		pos += put;
		bytes -= (size_t)put;
	}
	return 0;
}

/* Copy @fd into the object.  Whole chunks of zeros become holes. */
static int fill(struct session *session, struct iomap_file *file, int fd, const char *source)
{
	const char *name = session->request->name;
	char *chunk = malloc(CHUNK_BYTES);
	int64_t pos = 0;
	int error = chunk ? 0 : -ENOMEM;
	ssize_t got = 0;

	while (!error && (got = read_chunk(fd, chunk)) > 0) {
		if (!all_zero(chunk, (size_t)got))
			error = write_all(file, chunk, (size_t)got, pos);
		pos += got;
	}
	free(chunk);
	if (got < 0)
		return complain(EX_NOINPUT, "%s: %s", printable(source), strerror((int)-got));
	if (!error && pos > iomap_i_size_read(iomap_file_inode(file)))
		error = iomap_truncate(file, pos);
	if (!error)
		error = iomap_file_fsync(file, 0);
	return error ? complain_error(name, error, NULL) : EX_OK;
}

static int put_object(struct session *session, struct xs_object *object, int fd, const char *source)
{
	const char *name = session->request->name;
	struct iomap_file *file;
	int status, error = iomap_file_open(&object->inode, 0, &file);

	if (error)
		return complain_error(name, error, NULL);
	status = fill(session, file, fd, source);
	iomap_file_close(file);
	if (status != EX_OK)
		return status;
	error = xs_link(object, name);
	if (!error)
		error = xs_commit(session->store);
	return error ? complain_error(name, error, NULL) : EX_OK;
}

int tool_put(struct session *session)
{
	const char *path = session->request->arg;
	const char *source = is_standard(path) ? "standard input" : path;
	int fd = is_standard(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	struct xs_object *object;
	int status, error;

	if (fd < 0)
		return complain(errno == EACCES ? EX_NOPERM : EX_NOINPUT, "%s: %s",
				printable(source), strerror(errno));
	error = xs_create(session->store, &object);
	if (error) {
		status = complain_error(session->request->name, error, NULL);
	} else {
		status = put_object(session, object, fd, source);
		error = xs_put(object);
		if (error && status == EX_OK)
			status = complain_error(session->request->name, error, NULL);
	}
	if (fd != STDIN_FILENO)
		close(fd);
	return status;
}

static int write_out(int fd, const char *chunk, size_t bytes)
{
	while (bytes) {
		ssize_t put = write(fd, chunk, bytes);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		chunk += put;
		bytes -= (size_t)put;
	}
	return 0;
}

/* Copy the object to @fd.  *@target: the error is one of writing there. */
static int copy_out(struct iomap_file *file, int fd, bool *target)
{
	char *chunk = malloc(CHUNK_BYTES);
	int64_t pos = 0;
	ssize_t got = 0;
	int error = chunk ? 0 : -ENOMEM;

	while (!error && (got = iomap_read(file, chunk, CHUNK_BYTES, pos)) > 0) {
		error = write_out(fd, chunk, (size_t)got);
		*target = error;
		pos += got;
	}
	free(chunk);
	return got < 0 ? (int)got : error;
}

static int get_object(struct session *session, struct xs_object *object, int fd, const char *target)
{
	struct iomap_file *file;
	bool target_failed = false;
	int error = iomap_file_open(&object->inode, 0, &file);

	if (!error) {
		error = copy_out(file, fd, &target_failed);
		iomap_file_close(file);
	}
	if (target_failed)
		return complain(EX_IOERR, "%s: %s", printable(target), strerror(-error));
	return error ? complain_error(session->request->name, error, NULL) : EX_OK;
}

int tool_get(struct session *session)
{
	const char *path = session->request->arg;
	const char *target = is_standard(path) ? "standard output" : path;
	struct xs_object *object;
	int fd, status, error = xs_lookup(session->store, session->request->name, &object);

	if (error)
		return complain_error(session->request->name, error, NULL);
	fd = is_standard(path) ? STDOUT_FILENO :
				 open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		status = complain(EX_CANTCREAT, "%s: %s", printable(target), strerror(errno));
	else
		status = get_object(session, object, fd, target);
	if (fd >= 0 && fd != STDOUT_FILENO && close(fd) != 0 && status == EX_OK)
		status = complain(EX_IOERR, "%s: %s", printable(target), strerror(errno));
	error = xs_put(object);
	if (error && status == EX_OK)
		status = complain_error(session->request->name, error, NULL);
	return status;
}
