/* SPDX-License-Identifier: MIT */
/*
 * generated - read a file of squares that lies nowhere, through the cache.
 *
 *   generated [--lines N] read OFFSET [LENGTH]    bytes to standard output
 *   generated [--lines N] verify                  read all of it twice, compare each byte
 *
 * Exit codes are those of sysexits.h; EX_DATAERR: a byte was wrong.
 */
#include "generated.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#define LINES (INT64_C(1) << 20)

static char buffer[128 * 1024], expected[sizeof(buffer)];

static int complain(int status, const char *what, int error)
{
	fprintf(stderr, "generated: %s: %s\n", what, strerror(-error));
	return status;
}

static int usage(void)
{
	fputs("usage: generated [--lines N] read OFFSET [LENGTH]\n"
	      "       generated [--lines N] verify\n", stderr);
	return EX_USAGE;
}

static int do_read(struct generated *gen, int64_t pos, int64_t length)
{
	ssize_t got = 1;

	while (length && got > 0) {
		size_t n = length < (int64_t)sizeof(buffer) ? (size_t)length : sizeof(buffer);

		got = iomap_read(gen->file, buffer, n, pos);
		if (got < 0)
			return complain(EX_IOERR, "read", (int)got);
		if (fwrite(buffer, 1, (size_t)got, stdout) < (size_t)got)
			return complain(EX_IOERR, "standard output", -errno);
		pos += got;
		length -= got;
	}
	return fflush(stdout) ? complain(EX_IOERR, "standard output", -errno) : EX_OK;
}

static int verify_once(struct generated *gen)
{
	int64_t end = gen->lines * GENERATED_LINE;
	ssize_t got;

	for (int64_t pos = 0; pos < end; pos += got) {
		got = iomap_read(gen->file, buffer, sizeof(buffer), pos);
		if (got <= 0)
			return complain(EX_IOERR, "read", got ? (int)got : -EIO);
		generated_fill(expected, (size_t)got, pos);
		for (ssize_t i = 0; i < got; i++)
			if (buffer[i] != expected[i]) {
				fprintf(stderr, "generated: byte %" PRId64 " is wrong\n", pos + i);
				return EX_DATAERR;
			}
	}
	return EX_OK;
}

static int do_verify(struct generated *gen, struct iomap_engine *engine)
{
	struct iomap_engine_stats stats;
	int status = verify_once(gen);

	if (status == EX_OK)
		status = verify_once(gen);
	if (status != EX_OK)
		return status;
	iomap_engine_stats(engine, &stats, sizeof(stats));
	printf("verified %" PRId64 " bytes, twice\n", gen->lines * GENERATED_LINE);
	printf("computed %" PRIu64 " ranges in %" PRIu64 " batches\n",
	       __atomic_load_n(&gen->ranges_nr, __ATOMIC_RELAXED),
	       __atomic_load_n(&gen->batches_nr, __ATOMIC_RELAXED));
	printf("read ahead %" PRIu64 " bytes, %" PRIu64 " of them used\n", stats.readahead_bytes,
	       stats.readahead_used_bytes);
	printf("device bytes read %" PRIu64 "\n", stats.read_bytes);
	return EX_OK;
}

/* A whole number >= 0; false when @text is something else. */
static bool parse_number(const char *text, int64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 0);
	return errno == 0 && end != text && *end == '\0' && *out >= 0;
}

struct request {
	int64_t lines, pos, length;
	bool verify;
};

static bool parse(int argc, char **argv, struct request *request)
{
	*request = (struct request){ .lines = LINES, .length = INT64_MAX };
	if (argc > 2 && strcmp(argv[1], "--lines") == 0) {
		if (!parse_number(argv[2], &request->lines))
			return false;
		argc -= 2;
		argv += 2;
	}
	request->verify = argc == 2 && strcmp(argv[1], "verify") == 0;
	if (request->verify)
		return true;
	return argc >= 3 && argc <= 4 && strcmp(argv[1], "read") == 0 &&
	       parse_number(argv[2], &request->pos) &&
	       (argc == 3 || parse_number(argv[3], &request->length));
}

int main(int argc, char **argv)
{
	struct iomap_engine *engine;
	struct request request;
	struct generated *gen;
	int status, error;

	if (!parse(argc, argv, &request))
		return usage();
	error = iomap_engine_create(NULL, &engine);
	if (error)
		return complain(EX_OSERR, "cannot start the engine", error);
	error = generated_open(engine, request.lines, &gen);
	if (error) {
		status = complain(EX_USAGE, "cannot open", error);
	} else {
		status = request.verify ? do_verify(gen, engine)
					: do_read(gen, request.pos, request.length);
		error = generated_close(gen);
		if (error && status == EX_OK)
			status = complain(EX_SOFTWARE, "cannot close", error);
	}
	error = iomap_engine_destroy(engine);
	if (error && status == EX_OK)
		status = complain(EX_SOFTWARE, "cannot stop the engine", error);
	return status;
}
