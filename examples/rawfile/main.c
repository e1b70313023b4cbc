/* SPDX-License-Identifier: MIT */
/*
 * rawfile - read and write bytes of a file or block device through the cache.
 *
 *   rawfile read IMAGE OFFSET [LENGTH]     to standard output
 *   rawfile write IMAGE OFFSET [LENGTH]    from standard input; durable on return
 *
 * Exit codes are those of sysexits.h.
 */
#include "rawfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

struct request {
	const char *image;
	int64_t offset;
	int64_t length; /* INT64_MAX: all there is */
};

static char buffer[128 * 1024];

static int complain(int status, const char *what, int error)
{
	fprintf(stderr, "rawfile: %s: %s\n", what, strerror(-error));
	return status;
}

static int usage(void)
{
	fputs("usage: rawfile read|write IMAGE OFFSET [LENGTH]\n", stderr);
	return EX_USAGE;
}

/* Bytes that are left of the request, at most a buffer full. */
static size_t next_bytes(const struct request *request, int64_t done)
{
	int64_t left = request->length - done;

	return left < (int64_t)sizeof(buffer) ? (size_t)left : sizeof(buffer);
}

static int do_read(struct rawfile *rawfile, const struct request *request)
{
	int64_t done = 0;
	ssize_t got;

	while ((got = iomap_read(rawfile->file, buffer, next_bytes(request, done),
				 request->offset + done)) > 0) {
		if (fwrite(buffer, 1, (size_t)got, stdout) < (size_t)got)
			return complain(EX_IOERR, "standard output", -errno);
		done += got;
	}
	if (got < 0)
		return complain(EX_IOERR, request->image, (int)got);
	if (fflush(stdout) != 0)
		return complain(EX_IOERR, "standard output", -errno);
	return EX_OK;
}

static int do_write(struct rawfile *rawfile, const struct request *request)
{
	int64_t done = 0;
	size_t got;
	int error;

	while ((got = fread(buffer, 1, next_bytes(request, done), stdin)) > 0) {
		size_t at = 0;

		while (at < got) {
			ssize_t put = iomap_write(rawfile->file, buffer + at, got - at,
						  request->offset + done);

			if (put < 0)
				return complain(EX_IOERR, request->image, (int)put);
			at += (size_t)put;
			done += put;
		}
	}
	if (ferror(stdin))
		return complain(EX_IOERR, "standard input", -errno);
	error = iomap_file_fsync(rawfile->file, 0);
	return error ? complain(EX_IOERR, request->image, error) : EX_OK;
}

/* A whole number >= 0, decimal, 0x... or 0...; false when @text is something else. */
static bool parse_number(const char *text, int64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 0);
	return errno == 0 && end != text && *end == '\0' && *out >= 0;
}

int main(int argc, char **argv)
{
	struct request request = { .length = INT64_MAX };
	struct iomap_engine *engine;
	struct rawfile *rawfile;
	int status, error;
	bool writing;

	if (argc < 4 || argc > 5)
		return usage();
	writing = strcmp(argv[1], "write") == 0;
	if (!writing && strcmp(argv[1], "read") != 0)
		return usage();
	request.image = argv[2];
	if (!parse_number(argv[3], &request.offset) ||
	    (argc == 5 && !parse_number(argv[4], &request.length)))
		return usage();
	if (request.length > INT64_MAX - request.offset)
		request.length = INT64_MAX - request.offset;

	error = iomap_engine_create(NULL, &engine);
	if (error)
		return complain(EX_OSERR, "cannot start the engine", error);
	error = rawfile_open(engine, request.image, writing ? 0 : IOMAP_BDEV_READONLY, &rawfile);
	if (error) {
		status = complain(EX_NOINPUT, request.image, error);
	} else {
		status = writing ? do_write(rawfile, &request) : do_read(rawfile, &request);
		error = rawfile_close(rawfile);
		if (error && status == EX_OK)
			status = complain(EX_IOERR, request.image, error);
	}
	error = iomap_engine_destroy(engine);
	if (error && status == EX_OK)
		status = complain(EX_SOFTWARE, "cannot stop the engine", error);
	return status;
}
