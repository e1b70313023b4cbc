/* SPDX-License-Identifier: MIT */
/*
 * pieces.c - the pieces of the image that verify rewrites.
 *
 * They are spread over all objects, from one byte to 64 KiB long (as many of each power of
 * two), begin at odd places, and cross the borders of objects as it comes.  Rewriting XORs
 * a pattern that is never zero, so that every byte of a piece changes, and a reader can
 * tell what was there without having kept it.
 */
#include "rawpack.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES_MAX ((uint64_t)64 * 1024)
#define PIECES_NR 4096 /* about as many, if there is room for them */
#define GAP_BYTES_MIN 4096
#define SEED 0x5eed0f9ac4a9e5ULL

/* A fixed scrambling of the counter: the same numbers on every machine. */
static uint64_t scramble(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t next_random(uint64_t *state)
{
	return scramble(*state += 0x9e3779b97f4a7c15ULL);
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
	return next_random(state) % bound;
}

/* 1 to PIECE_BYTES_MAX, each power of two as likely as the next. */
static uint64_t random_length(uint64_t *state)
{
	uint64_t top = (uint64_t)1 << random_below(state, 17);

	return top == PIECE_BYTES_MAX ? top : top + random_below(state, top);
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int pieces_plan(struct pieces *pieces, uint64_t start, uint64_t end)
{
	uint64_t mean_gap = (end - start) / PIECES_NR + GAP_BYTES_MIN;
	uint64_t state = SEED;
	size_t room = (size_t)(2 * ((end - start) / mean_gap) + 16);
	uint64_t pos = start;
	uint8_t *saved;

	memset(pieces, 0, sizeof(*pieces));
	pieces->list = calloc(room, sizeof(*pieces->list));
	if (!pieces->list)
		goto out_of_memory;
	while (pieces->nr < room && pos < end) {
		uint64_t bytes = earlier(random_length(&state), end - pos);

		pieces->list[pieces->nr++] = (struct piece){ .pos = pos, .bytes = bytes };
		pieces->bytes += bytes;
		pos += bytes + 1 + random_below(&state, 2 * mean_gap);
		pos |= 1;
	}
	pieces->memory = malloc(pieces->bytes + 1);
	if (!pieces->memory)
		goto out_of_memory;
	saved = pieces->memory;
	for (size_t i = 0; i < pieces->nr; i++) {
		pieces->list[i].saved = saved;
		saved += pieces->list[i].bytes;
	}
	return EX_OK;

out_of_memory:
	complain("out of memory for the pieces to rewrite");
	pieces_free(pieces);
	return EX_OSERR;
}

void pieces_free(struct pieces *pieces)
{
	free(pieces->list);
	free(pieces->memory);
	memset(pieces, 0, sizeof(*pieces));
}

static void toggle(uint8_t *bytes, size_t nr, uint64_t pos)
{
	for (size_t i = 0; i < nr; i++) {
		uint64_t word = scramble(SEED + (pos + i) / 8);

		bytes[i] ^= (uint8_t)(word >> (8 * ((pos + i) % 8))) | 1;
	}
}

/* The first piece that ends after @pos. */
static size_t first_after(const struct pieces *pieces, uint64_t pos)
{
	size_t low = 0, high = pieces->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (pieces->list[middle].pos + pieces->list[middle].bytes > pos)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

void pieces_save(const struct pieces *pieces, const uint8_t *buffer, size_t bytes, uint64_t pos)
{
	for (size_t i = first_after(pieces, pos);
	     i < pieces->nr && pieces->list[i].pos < pos + bytes; i++) {
		const struct piece *piece = &pieces->list[i];
		uint64_t from = later(piece->pos, pos);
		uint64_t to = earlier(piece->pos + piece->bytes, pos + bytes);

		memcpy(piece->saved + (from - piece->pos), buffer + (from - pos), to - from);
	}
}

void pieces_toggle(const struct pieces *pieces, uint8_t *buffer, size_t bytes, uint64_t pos)
{
	for (size_t i = first_after(pieces, pos);
	     i < pieces->nr && pieces->list[i].pos < pos + bytes; i++) {
		const struct piece *piece = &pieces->list[i];
		uint64_t from = later(piece->pos, pos);
		uint64_t to = earlier(piece->pos + piece->bytes, pos + bytes);

		toggle(buffer + (from - pos), to - from, from);
	}
}

/* Indices 0 .. nr - 1 in an order that neither readahead nor writeback can guess. */
static size_t *shuffled(size_t nr)
{
	size_t *order = malloc((nr + 1) * sizeof(*order));
	uint64_t state = ~SEED;

	if (!order) {
		complain("out of memory for the pieces to rewrite");
		return NULL;
	}
	for (size_t i = 0; i < nr; i++) {
		size_t j = random_below(&state, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	return order;
}

int pieces_write(const struct pieces *pieces, struct session *session, bool patterned)
{
	static uint8_t buffer[PIECE_BYTES_MAX];
	size_t *order = shuffled(pieces->nr);
	int status = order ? EX_OK : EX_OSERR;

	for (size_t i = 0; i < pieces->nr && status == EX_OK; i++) {
		const struct piece *piece = &pieces->list[order[i]];

		memcpy(buffer, piece->saved, piece->bytes);
		if (patterned)
			toggle(buffer, piece->bytes, piece->pos);
		status = session_write(session, buffer, piece->bytes, piece->pos);
		session->bytes += piece->bytes;
		session->nr++;
		progress_add(piece->bytes);
		/* What has been changed must be put back, interrupted or not. */
		if (patterned && status == EX_OK && interrupted())
			status = EX_TEMPFAIL;
	}
	free(order);
	return status == EX_OK ? session_sync(session) : status;
}
