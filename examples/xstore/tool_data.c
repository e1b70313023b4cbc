/* SPDX-License-Identifier: MIT */
/*
 * tool_data.c - xstore put and get, and what they share with commands for directories.
 *
 * put fills an object without a name, and gives it the name when all is written: until then,
 * and when anything fails, the object that had the name stays what it was.  What a regular
 * file holds is preallocated, so that it lies in one piece if there is one; its holes are left
 * out.  From a pipe whole chunks of zeros are.
 *
 * A direct write is whole blocks.  The last one of an object is filled up with zeros, and the
 * object then truncated to its size.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

/*
 * A file of one chunk gets all its space by its only write.  More than the upper bound at once
 * would have the store keep much room for what may become of it.
 */
#define PREALLOCATE_BYTES_MIN CHUNK_BYTES
#define PREALLOCATE_BYTES_MAX (UINT64_C(256) << 20)

/* ---- objects ---- */

char *chunk_alloc(void)
{
	return aligned_alloc(XS_BLOCK_BYTES, CHUNK_BYTES);
}

static int open_file(bool direct, struct opened *opened)
{
	int error =
		iomap_file_open(&opened->object->inode, direct ? IOMAP_O_DIRECT : 0, &opened->file);

	if (error)
		(void)xs_put(opened->object);
	return error;
}

int open_object(struct xs_store *store, const char *name, bool direct, struct opened *out)
{
	int error = xs_lookup(store, name, &out->object);

	return error ? error : open_file(direct, out);
}

int create_object(struct xs_store *store, bool direct, struct opened *out)
{
	int error = xs_create(store, &out->object);

	return error ? error : open_file(direct, out);
}

int close_object(struct opened *opened)
{
	iomap_file_close(opened->file);
	return xs_put(opened->object);
}

int object_write(struct iomap_file *file, const char *chunk, size_t bytes, uint64_t pos)
{
	while (bytes) {
		ssize_t put = iomap_write(file, chunk, bytes, (int64_t)pos);

		if (put <= 0)
			return put ? (int)put : -EIO;
		chunk += put;
		pos += (uint64_t)put;
		bytes -= (size_t)put;
	}
	return 0;
}

ssize_t object_read(struct iomap_file *file, char *chunk, uint64_t pos)
{
	int64_t size = iomap_i_size_read(iomap_file_inode(file));
	size_t have = 0, want = CHUNK_BYTES;
	ssize_t got;

	if (pos >= (uint64_t)size)
		return 0;
	if ((uint64_t)size - pos < want)
		want = (size_t)((uint64_t)size - pos);
	/* what is asked for stays whole blocks, for direct reads */
	while (have < want) {
		got = iomap_read(file, chunk + have, CHUNK_BYTES - have, (int64_t)(pos + have));
		if (got <= 0)
			return got ? got : -EIO;
		have += (size_t)got;
	}
	return (ssize_t)have;
}

/* ---- files ---- */

ssize_t read_chunk_at(int fd, char *chunk, size_t bytes, int64_t pos)
{
	size_t have = 0;
	ssize_t got;

	/* pipes give little at a time; whole chunks make whole extents */
	while (have < bytes) {
		got = pos < 0 ? read(fd, chunk + have, bytes - have) :
				pread(fd, chunk + have, bytes - have, pos + (off_t)have);
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

/* @pos < 0: where the file stands, for pipes. */
static int write_out(int fd, const char *chunk, size_t bytes, int64_t pos)
{
	while (bytes) {
		ssize_t put = pos < 0 ? write(fd, chunk, bytes) : pwrite(fd, chunk, bytes, pos);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		chunk += put;
		bytes -= (size_t)put;
		if (pos >= 0)
			pos += put;
	}
	return 0;
}

/* ---- into an object ---- */

/* A copy into an object, and how far it has come. */
struct filling {
	struct xs_object *object;
	struct iomap_file *file;
	char *chunk;
	int fd;
	uint64_t pos; /* everything before is done */
	enum copy_side *side;
	uint64_t allocated; /* up to here */
};

/* Space for the run that ends at @end, from pos on. */
static int preallocate(struct filling *filling, uint64_t end)
{
	uint64_t bytes = end - filling->pos;

	if (bytes <= PREALLOCATE_BYTES_MIN || filling->pos < filling->allocated)
		return 0;
	if (bytes > PREALLOCATE_BYTES_MAX)
		bytes = PREALLOCATE_BYTES_MAX;
	filling->allocated = filling->pos + bytes;
	return xs_preallocate(filling->object, (int64_t)filling->pos, (int64_t)bytes, true);
}

/* With @bytes of the chunk.  *@side is left alone: it is the store's then. */
static int fill_chunk(struct filling *filling, size_t bytes)
{
	size_t whole = bytes;

	if (iomap_file_flags(filling->file) & IOMAP_O_DIRECT) {
		whole = (bytes + XS_BLOCK_BYTES - 1) / XS_BLOCK_BYTES * XS_BLOCK_BYTES;
		memset(filling->chunk + bytes, 0, whole - bytes);
	}
	return object_write(filling->file, filling->chunk, whole, filling->pos);
}

/* Copy [pos, @end) of a regular file; *@is_short: the file ended before. */
static int fill_run(struct filling *filling, uint64_t end, bool *is_short)
{
	int error = 0;

	while (!error && !*is_short && filling->pos < end) {
		uint64_t left = end - filling->pos;
		size_t want = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
		ssize_t got =
			read_chunk_at(filling->fd, filling->chunk, want, (int64_t)filling->pos);

		if (interrupted()) {
			*filling->side = COPY_INTERRUPTED;
			return -EINTR;
		}
		if (got < 0) {
			*filling->side = COPY_FILE;
			return (int)got;
		}
		*is_short = (size_t)got < want;
		error = preallocate(filling, end);
		if (!error)
			error = fill_chunk(filling, (size_t)got);
		filling->pos += (uint64_t)got;
	}
	return error;
}

/*
 * The next data of the file from @pos on, in whole blocks: [*@start, *@end), at @size when
 * there is no more.  A file system that knows no holes says that all is data.
 */
static void next_data(int fd, uint64_t pos, uint64_t size, uint64_t *start, uint64_t *end)
{
	off_t data = lseek(fd, (off_t)pos, SEEK_DATA);
	off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

	*start = data < 0 && errno == ENXIO ? size : pos;
	*end = size;
	if (hole < 0)
		return;
	*start = (uint64_t)data / XS_BLOCK_BYTES * XS_BLOCK_BYTES;
	*end = ((uint64_t)hole + XS_BLOCK_BYTES - 1) / XS_BLOCK_BYTES * XS_BLOCK_BYTES;
	if (*start > size)
		*start = size;
	if (*end > size)
		*end = size;
}

/* The object ends at @size, be that in a hole or in the last block of direct writes. */
static int set_size(struct iomap_file *file, uint64_t size)
{
	if (iomap_i_size_read(iomap_file_inode(file)) == (int64_t)size)
		return 0;
	return iomap_truncate(file, (int64_t)size);
}

int copy_in(struct xs_object *object, struct iomap_file *file, int fd, char *chunk, uint64_t *bytes,
	    enum copy_side *side)
{
	struct filling filling = { object, file, chunk, fd, 0, side, 0 };
	struct stat found;
	uint64_t size, end;
	bool is_short = false, sparse;
	int error = 0;

	*side = COPY_FILE;
	if (fstat(fd, &found) != 0)
		return -errno;
	*side = COPY_STORE;
	size = (uint64_t)found.st_size;
	/* most files have no holes, and need not be asked */
	sparse = (uint64_t)found.st_blocks * 512 < size;
	while (!error && !is_short && filling.pos < size) {
		end = size;
		if (sparse)
			next_data(fd, filling.pos, size, &filling.pos, &end);
		error = fill_run(&filling, end, &is_short);
	}
	*bytes = filling.pos;
	return error ? error : set_size(file, filling.pos);
}

static bool all_zero(const char *chunk, size_t bytes)
{
	return bytes == 0 || (chunk[0] == 0 && memcmp(chunk, chunk + 1, bytes - 1) == 0);
}

static int copy_in_pipe(struct iomap_file *file, int fd, char *chunk, uint64_t *bytes,
			enum copy_side *side)
{
	struct filling filling = { NULL, file, chunk, fd, 0, side, 0 };
	ssize_t got = 0;
	int error = 0;

	*side = COPY_STORE;
	while (!error && (got = read_chunk_at(fd, chunk, CHUNK_BYTES, -1)) > 0) {
		if (!all_zero(chunk, (size_t)got))
			error = fill_chunk(&filling, (size_t)got);
		filling.pos += (uint64_t)got;
	}
	*bytes = filling.pos;
	if (got < 0) {
		*side = COPY_FILE;
		return (int)got;
	}
	return error ? error : set_size(file, filling.pos);
}

/* ---- put ---- */

/* What the request means by a file. */
struct stream {
	const char *name; /* for messages */
	int fd;
	bool seekable; /* a regular file that is ours to seek in */
};

/* Return: 0, or -errno of the file below. */
static int stream_close(struct stream *stream)
{
	if (stream->fd <= STDERR_FILENO)
		return 0;
	return close(stream->fd) != 0 ? -errno : 0;
}

/* The store itself is refused, also as standard input or output: it would be overwritten. */
static int stream_check(const struct session *session, struct stream *stream, bool named, int flags)
{
	struct stat found;

	if (fstat(stream->fd, &found) != 0)
		return -errno;
	if (is_own_store(session, &found))
		return -EBUSY;
	stream->seekable = named && S_ISREG(found.st_mode);
	/* not when it is opened: it may have been the store */
	if (stream->seekable && flags & O_CREAT && ftruncate(stream->fd, 0) != 0)
		return -errno;
	return 0;
}

/* Return: status. */
static int stream_open(const struct session *session, int flags, int standard, struct stream *out)
{
	const char *path = session->request->arg;
	bool named = path && strcmp(path, "-") != 0;
	int other = flags & O_CREAT ? EX_CANTCREAT : EX_NOINPUT, error;

	*out = (struct stream){ path, standard, false };
	if (named)
		out->fd = open(path, flags | O_CLOEXEC, 0666);
	else
		out->name = standard == STDIN_FILENO ? "standard input" : "standard output";
	error = out->fd < 0 ? -errno : stream_check(session, out, named, flags);
	if (!error)
		return EX_OK;
	(void)stream_close(out);
	return complain(status_of_errno(-error, other), "%s: %s", printable(out->name),
			error == -EBUSY ? "is the store itself" : strerror(-error));
}

int publish_object(struct session *session, struct opened *opened, const char *name)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	int error = iomap_sync_range(opened->file, 0, INT64_MAX, all);

	if (!error)
		error = xs_link(opened->object, name);
	/* a commit flushes before */
	return error ? error : xs_commit(session->store);
}

static int put_object(struct session *session, struct opened *opened, struct stream *from)
{
	char *chunk = chunk_alloc();
	enum copy_side side = COPY_STORE;
	uint64_t bytes = 0;
	int error = -ENOMEM;

	if (chunk && from->seekable)
		error = copy_in(opened->object, opened->file, from->fd, chunk, &bytes, &side);
	else if (chunk)
		error = copy_in_pipe(opened->file, from->fd, chunk, &bytes, &side);
	free(chunk);
	if (error && side == COPY_FILE)
		return complain(EX_NOINPUT, "%s: %s", printable(from->name), strerror(-error));
	if (!error)
		error = publish_object(session, opened, session->request->name);
	if (error)
		return complain_error(session->request->name, error, NULL);
	if (json_wanted() || session->request->given & OPTION_STATS)
		say_figures(session, "put", 1, "objects", bytes);
	return EX_OK;
}

int tool_put(struct session *session)
{
	const struct request *request = session->request;
	struct stream from;
	struct opened opened;
	int status, error;

	json_name("name", request->name);
	status = stream_open(session, O_RDONLY, STDIN_FILENO, &from);
	if (status != EX_OK)
		return status;
	error = create_object(session->store, request->given & OPTION_DIRECT, &opened);
	if (error) {
		status = complain_error(request->name, error, NULL);
	} else {
		status = put_object(session, &opened, &from);
		error = close_object(&opened);
		if (error && status == EX_OK)
			status = complain_error(request->name, error, NULL);
	}
	(void)stream_close(&from);
	return status;
}

/* ---- out of an object ---- */

/* Copy [@pos, @end) to where it is in the file, or with @fd a pipe behind what it got. */
static int drain_run(struct iomap_file *file, int fd, bool pipe, char *chunk, uint64_t pos,
		     uint64_t end, enum copy_side *side)
{
	int error = 0;

	while (!error && pos < end) {
		ssize_t got = object_read(file, chunk, pos);
		uint64_t bytes = got > 0 ? (uint64_t)got : 0;

		if (got < 0)
			return (int)got;
		if (bytes > end - pos)
			bytes = end - pos;
		if (interrupted()) {
			*side = COPY_INTERRUPTED;
			return -EINTR;
		}
		error = write_out(fd, chunk, (size_t)bytes, pipe ? -1 : (int64_t)pos);
		if (error)
			*side = COPY_FILE;
		pos += bytes;
	}
	return error;
}

int copy_out(struct xs_store *store, const char *name, struct iomap_file *file, int fd, char *chunk,
	     enum copy_side *side)
{
	uint64_t size = (uint64_t)iomap_i_size_read(iomap_file_inode(file));
	struct xs_extent *extents = NULL;
	uint32_t nr = 0;
	int error;

	*side = COPY_STORE;
	error = xs_extents(store, name, &extents, &nr);
	/* what is not written reads as zeros, and so does a hole of the file */
	for (uint32_t i = 0; i < nr && !error; i++) {
		uint64_t from = extents[i].file << XS_BLOCK_SHIFT;
		uint64_t to = xs_extent_end(&extents[i]) << XS_BLOCK_SHIFT;

		if (!extents[i].unwritten)
			error = drain_run(file, fd, false, chunk, from, to < size ? to : size,
					  side);
	}
	free(extents);
	if (!error && ftruncate(fd, (off_t)size) != 0) {
		*side = COPY_FILE;
		error = -errno;
	}
	return error;
}

static int get_object(struct session *session, struct opened *opened, struct stream *to)
{
	const char *name = session->request->name;
	uint64_t size = (uint64_t)iomap_i_size_read(iomap_file_inode(opened->file));
	char *chunk = chunk_alloc();
	enum copy_side side = COPY_STORE;
	int error = -ENOMEM;

	if (chunk && to->seekable)
		error = copy_out(session->store, name, opened->file, to->fd, chunk, &side);
	else if (chunk)
		error = drain_run(opened->file, to->fd, true, chunk, 0, size, &side);
	free(chunk);
	if (error && side == COPY_FILE)
		return complain(EX_IOERR, "%s: %s", printable(to->name), strerror(-error));
	if (error)
		return complain_error(name, error, NULL);
	if (json_wanted() || session->request->given & OPTION_STATS)
		say_figures(session, "got", 1, "objects", size);
	return EX_OK;
}

static int get_to(struct session *session, struct opened *opened)
{
	struct stream to;
	int status = stream_open(session, O_WRONLY | O_CREAT, STDOUT_FILENO, &to), error;

	if (status != EX_OK)
		return status;
	status = get_object(session, opened, &to);
	error = stream_close(&to);
	if (error && status == EX_OK)
		status = complain(EX_IOERR, "%s: %s", printable(to.name), strerror(-error));
	return status;
}

int tool_get(struct session *session)
{
	const struct request *request = session->request;
	bool to_stdout = !request->arg || strcmp(request->arg, "-") == 0;
	struct opened opened;
	int status, error;

	json_name("name", request->name);
	if (to_stdout && request->given & (OPTION_JSON | OPTION_STATS))
		return complain(EX_USAGE, "standard output gets the object: no --json, no --stats");
	error = open_object(session->store, request->name, request->given & OPTION_DIRECT, &opened);
	if (error)
		return complain_error(request->name, error, NULL);
	status = get_to(session, &opened);
	error = close_object(&opened);
	if (error && status == EX_OK)
		status = complain_error(request->name, error, NULL);
	return status;
}
