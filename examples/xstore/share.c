/* SPDX-License-Identifier: MIT */
/*
 * share.c - which blocks have several owners.  See share.h.
 *
 * A chunk is there as long as any of its blocks is shared.  So only what adds an owner needs
 * memory, which a clone can be refused for; what takes one off never does.
 */
#include "share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void xs_shares_init(struct xs_shares *shares, uint64_t blocks)
{
	*shares = (struct xs_shares){ .blocks = blocks };
}

static uint64_t chunks_nr(const struct xs_shares *shares)
{
	return shares->blocks / XS_SHARES_CHUNK + 1;
}

void xs_shares_exit(struct xs_shares *shares)
{
	for (uint64_t i = 0; shares->chunks && i < chunks_nr(shares); i++)
		free(shares->chunks[i]);
	free(shares->chunks);
	*shares = (struct xs_shares){ 0 };
}

static struct xs_shares_chunk *chunk_of(const struct xs_shares *shares, uint64_t block)
{
	return shares->chunks ? shares->chunks[block / XS_SHARES_CHUNK] : NULL;
}

/* Blocks of the chunk from @start on, @nr at most. */
static uint64_t in_chunk(uint64_t start, uint64_t nr)
{
	uint64_t left = XS_SHARES_CHUNK - start % XS_SHARES_CHUNK;

	return nr < left ? nr : left;
}

/* ---- one more, one less ---- */

static int chunk_room(struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	struct xs_shares_chunk **chunk = &shares->chunks[start / XS_SHARES_CHUNK];

	if (!*chunk)
		*chunk = calloc(1, sizeof(**chunk));
	if (!*chunk)
		return -ENOMEM;
	for (uint64_t i = 0; i < nr; i++)
		if ((*chunk)->others[start % XS_SHARES_CHUNK + i] == XS_OWNERS_MAX - 1)
			return -EMLINK;
	return 0;
}

static int room(struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	uint64_t n;
	int error = 0;

	if (!shares->chunks)
		shares->chunks = calloc((size_t)chunks_nr(shares), sizeof(*shares->chunks));
	if (!shares->chunks)
		return -ENOMEM;
	for (; !error && nr; start += n, nr -= n) {
		n = in_chunk(start, nr);
		error = chunk_room(shares, start, n);
	}
	return error;
}

/* Chunks that were made for what then could not be. */
static void trim(struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	uint64_t n;

	for (; shares->chunks && nr; start += n, nr -= n) {
		struct xs_shares_chunk *chunk = chunk_of(shares, start);

		n = in_chunk(start, nr);
		if (!chunk || chunk->shared_nr)
			continue;
		free(chunk);
		shares->chunks[start / XS_SHARES_CHUNK] = NULL;
	}
}

int xs_shares_add(struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	int error = room(shares, start, nr);

	if (error) {
		trim(shares, start, nr);
		return error;
	}
	for (uint64_t block = start; block < start + nr; block++) {
		struct xs_shares_chunk *chunk = chunk_of(shares, block);
		bool first = !chunk->others[block % XS_SHARES_CHUNK]++;

		chunk->shared_nr += first;
		shares->shared_nr += first;
	}
	return 0;
}

void xs_shares_drop(struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	for (uint64_t block = start; block < start + nr; block++) {
		struct xs_shares_chunk *chunk = chunk_of(shares, block);
		bool last = !--chunk->others[block % XS_SHARES_CHUNK];

		chunk->shared_nr -= last;
		shares->shared_nr -= last;
	}
	trim(shares, start, nr);
}

/* ---- questions ---- */

uint64_t xs_shares_run(const struct xs_shares *shares, uint64_t start, uint64_t nr, bool *shared)
{
	const struct xs_shares_chunk *chunk = chunk_of(shares, start);
	uint64_t block = start, end = start + nr;

	*shared = chunk && chunk->others[start % XS_SHARES_CHUNK];
	if (!shares->shared_nr)
		return nr;
	while (block < end) {
		chunk = chunk_of(shares, block);
		if (!chunk) {
			if (*shared)
				break;
			block += in_chunk(block, end - block);
		} else if (!chunk->others[block % XS_SHARES_CHUNK] == *shared) {
			break;
		} else {
			block++;
		}
	}
	return block - start;
}

uint64_t xs_shares_count(const struct xs_shares *shares, uint64_t start, uint64_t nr)
{
	uint64_t count = 0, run;
	bool shared;

	for (; nr; start += run, nr -= run) {
		run = xs_shares_run(shares, start, nr, &shared);
		count += shared ? run : 0;
	}
	return count;
}
