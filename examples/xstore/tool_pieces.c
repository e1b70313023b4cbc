/* SPDX-License-Identifier: MIT */
/*
 * tool_pieces.c - xstore rewrite: overwrite pieces of all objects, and put them back.
 *
 * Where the pieces are depends on the seed and each object's name and size alone, and so does
 * the pattern that the bytes of the file are XORed with, which is never zero: verify --seed
 * can tell, in another process, what every byte has to be.  Pieces are from one byte to 64 KiB
 * long (as many of each power of two) and begin at odd places; nothing of the object is read
 * before, so the cache has to fetch what a piece leaves of its blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define PIECE_BYTES_MAX (UINT64_C(64) << 10)
#define GAP_BYTES (UINT64_C(64) << 10) /* between two, on average */

/* ---- which pieces, and what is in them ---- */

/* A fixed scrambling of the counter: the same numbers on every machine. */
static uint64_t scramble(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
	return scramble(*state += UINT64_C(0x9e3779b97f4a7c15)) % bound;
}

/* 1 to PIECE_BYTES_MAX, each power of two as likely as the next. */
static uint64_t random_length(uint64_t *state)
{
	uint64_t top = UINT64_C(1) << random_below(state, 17);

	return top == PIECE_BYTES_MAX ? top : top + random_below(state, top);
}

void pieces_start(struct pieces *pieces, uint64_t seed, const char *name, uint64_t size)
{
	uint64_t state = scramble(seed + 1);

	for (; *name; name++)
		state = scramble(state + (unsigned char)*name + 1);
	*pieces = (struct pieces){ .state = state, .size = size, .key = ~state };
	pieces->at = random_below(&pieces->state, 2 * GAP_BYTES) | 1;
}

bool pieces_next(struct pieces *pieces, struct piece *piece)
{
	uint64_t bytes = random_length(&pieces->state);

	if (pieces->at >= pieces->size)
		return false;
	if (bytes > pieces->size - pieces->at)
		bytes = pieces->size - pieces->at;
	*piece = (struct piece){ pieces->at, (size_t)bytes };
	pieces->at = (pieces->at + bytes + 1 + random_below(&pieces->state, 2 * GAP_BYTES)) | 1;
	return true;
}

void pieces_toggle(const struct pieces *pieces, char *bytes, size_t nr, uint64_t pos)
{
	for (size_t i = 0; i < nr; i++) {
		uint64_t word = scramble(pieces->key + (pos + i) / 8);

		bytes[i] ^= (char)((word >> (8 * ((pos + i) % 8))) | 1);
	}
}

/* ---- rewrite ---- */

#define FLIGHT_NR 64U

struct rewriting {
	struct session *session;
	struct tree tree;
	char *chunk;
	struct opened flights[FLIGHT_NR]; /* being written; a ring */
	size_t first, flights_nr;
	uint64_t pieces_nr, bytes;
};

static int read_piece(int fd, char *to, const struct piece *piece)
{
	size_t have = 0;

	while (have < piece->bytes) {
		ssize_t got = pread(fd, to + have, piece->bytes - have, (off_t)(piece->pos + have));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -ENODATA;
		have += (size_t)got;
	}
	return 0;
}

/* Return: 0 or -errno, and *@side. */
static int rewrite_pieces(struct rewriting *r, const char *name, uint64_t size, int fd,
			  struct iomap_file *file, enum copy_side *side)
{
	const struct request *request = r->session->request;
	struct pieces pieces;
	struct piece piece;
	int error = 0;

	pieces_start(&pieces, request->seed, name, size);
	while (!error && pieces_next(&pieces, &piece)) {
		*side = COPY_FILE;
		error = read_piece(fd, r->chunk, &piece);
		if (error)
			return error;
		*side = COPY_STORE;
		if (!(request->given & OPTION_RESTORE))
			pieces_toggle(&pieces, r->chunk, piece.bytes, piece.pos);
		error = object_write(file, r->chunk, piece.bytes, piece.pos);
		r->pieces_nr += !error;
		r->bytes += error ? 0 : piece.bytes;
	}
	return error;
}

/* Wait for the oldest one.  Return: 0 or -errno. */
static int land_one(struct rewriting *r)
{
	int error = close_object(&r->flights[r->first]);

	r->first = (r->first + 1) % FLIGHT_NR;
	r->flights_nr--;
	return error;
}

/* Begin to write out. */
static int take_off(struct rewriting *r, const struct opened *opened)
{
	int error = iomap_sync_range(opened->file, 0, INT64_MAX, IOMAP_SYNC_WRITE);

	r->flights[(r->first + r->flights_nr++) % FLIGHT_NR] = *opened;
	if (!error && r->flights_nr == FLIGHT_NR)
		error = land_one(r);
	return error;
}

static int rewrite_opened(struct rewriting *r, const struct xs_info *info, int fd,
			  enum copy_side *side)
{
	struct opened opened;
	int own, error;

	*side = COPY_STORE;
	error = open_object(r->session->store, info->name, false, &opened);
	if (error)
		return error;
	error = rewrite_pieces(r, info->name, info->size, fd, opened.file, side);
	own = take_off(r, &opened);
	return error ? error : own;
}

/* Return: status. */
static int rewrite_object(struct rewriting *r, const struct xs_info *info)
{
	enum copy_side side = COPY_FILE;
	struct pieces pieces;
	struct piece piece;
	uint64_t bytes;
	int fd, error;

	pieces_start(&pieces, r->session->request->seed, info->name, info->size);
	if (!pieces_next(&pieces, &piece))
		return EX_OK;
	fd = tree_open(&r->tree, info->name, &bytes);
	error = fd < 0 ? fd : 0;
	if (!error)
		error = rewrite_opened(r, info, fd, &side);
	if (fd >= 0)
		close(fd);
	if (!error)
		return EX_OK;
	if (side == COPY_STORE)
		return complain_error(info->name, error, NULL);
	return complain_file(status_of_errno(-error, EX_NOINPUT), r->tree.dir, info->name,
			     strerror(-error));
}

/* Objects in an order that no readahead, and no allocator, can have had in mind. */
static size_t *shuffled(size_t nr, uint64_t seed)
{
	size_t *order = malloc((nr + 1) * sizeof(*order));
	uint64_t state = ~seed;

	for (size_t i = 0; order && i < nr; i++) {
		size_t j = (size_t)random_below(&state, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	return order;
}

static int rewrite_objects(struct rewriting *r)
{
	struct xs_usage usage;
	struct xs_info info;
	size_t *order;
	int status = EX_OK, error;

	xs_usage(r->session->store, &usage);
	order = shuffled((size_t)usage.objects_nr, r->session->request->seed);
	if (!order)
		return complain(EX_OSERR, "out of memory");
	for (size_t n = 0; n < usage.objects_nr && status == EX_OK; n++) {
		if (interrupted())
			status = complain(EX_TEMPFAIL,
					  "%s: interrupted: %zu of %" PRIu64
					  " objects are rewritten",
					  printable(r->session->request->path), n,
					  usage.objects_nr);
		else if (xs_info_nth(r->session->store, order[n], &info) == 0)
			status = rewrite_object(r, &info);
	}
	free(order);
	while (r->flights_nr) {
		error = land_one(r);
		if (error && status == EX_OK)
			status = complain_error(r->session->request->path, error, NULL);
	}
	error = xs_commit(r->session->store);
	/* what was written in place changed no metadata: no commit has flushed it */
	if (!error)
		error = iomap_sync_engine(r->session->engine);
	if (error && status == EX_OK)
		status = complain_error(r->session->request->path, error, NULL);
	return status;
}

int tool_rewrite(struct session *session)
{
	struct rewriting *r = calloc(1, sizeof(*r));
	char *chunk = chunk_alloc();
	int status = EX_OSERR;

	interrupts_catch();
	if (r && chunk) {
		r->session = session;
		r->chunk = chunk;
		status = tree_attach(session->request->arg, &r->tree);
		if (status == EX_OK)
			status = rewrite_objects(r);
		if (status == EX_OK || json_wanted())
			say_figures(session,
				    session->request->given & OPTION_RESTORE ? "restored" :
									       "rewrote",
				    r->pieces_nr, "pieces", r->bytes);
		tree_free(&r->tree);
	} else {
		complain(status, "out of memory");
	}
	free(chunk);
	free(r);
	return status;
}
