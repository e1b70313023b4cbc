/* SPDX-License-Identifier: MIT */
/*
 * alloc.c - free space.  See space.h.
 */
#include "space.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"

int xs_space_init(struct xs_space *space, uint64_t blocks)
{
	memset(space, 0, sizeof(*space));
	space->bits = calloc((size_t)(blocks / 64 + 1), sizeof(*space->bits));
	if (!space->bits)
		return -ENOMEM;
	space->blocks = blocks;
	space->free_nr = blocks;
	xs_shares_init(&space->shares, blocks);
	return 0;
}

void xs_space_exit(struct xs_space *space)
{
	free(space->bits);
	free(space->freed.v);
	xs_shares_exit(&space->shares);
	memset(space, 0, sizeof(*space));
}

bool xs_space_mark(struct xs_space *space, uint64_t start, uint64_t nr)
{
	if (xs_bits_next(space->bits, start, start + nr, true) < start + nr)
		return false;
	xs_bits_set(space->bits, start, nr, true);
	space->free_nr -= nr;
	return true;
}

void xs_space_release(struct xs_space *space, uint64_t start, uint64_t nr)
{
	xs_bits_set(space->bits, start, nr, false);
	space->free_nr += nr;
}

/* ---- search ---- */

/* Free blocks in a row at @at, as many as are asked for at most. */
static uint64_t free_run(const struct xs_space *space, uint64_t at, uint64_t want)
{
	if (at >= space->blocks)
		return 0;
	if (want > space->blocks - at)
		want = space->blocks - at;
	return xs_bits_next(space->bits, at, at + want, true) - at;
}

/* The first run from the hint on, and around, that is long enough; else the longest. */
static struct xs_run find_run(const struct xs_space *space, uint64_t want)
{
	struct xs_run best = { 0 };
	uint64_t at = space->hint, nr;
	bool around = false;

	while (best.nr < want) {
		at = xs_bits_next(space->bits, at, space->blocks, false);
		if (around && at >= space->hint)
			break;
		if (at == space->blocks) {
			at = 0;
			around = true;
			continue;
		}
		nr = free_run(space, at, want);
		if (nr > best.nr)
			best = (struct xs_run){ at, nr };
		at += nr;
	}
	return best;
}

uint64_t xs_space_take(struct xs_space *space, uint64_t goal, uint64_t want, uint64_t *start)
{
	struct xs_run run;

	if (want > space->free_nr)
		want = space->free_nr;
	if (!want)
		return 0;
	run = (struct xs_run){ goal, free_run(space, goal, want) };
	if (!run.nr)
		run = find_run(space, want);
	xs_bits_set(space->bits, run.start, run.nr, true);
	space->free_nr -= run.nr;
	space->hint = run.start + run.nr;
	*start = run.start;
	return run.nr;
}

/* ---- what waits for a commit ---- */

/* The metadata on the device does not show these blocks to one owner any more. */
static void drop_owner(struct xs_space *space, uint64_t start, uint64_t nr)
{
	uint64_t run;
	bool shared;

	for (; nr; start += run, nr -= run) {
		run = xs_shares_run(&space->shares, start, nr, &shared);
		if (shared)
			xs_shares_drop(&space->shares, start, run);
		else
			xs_space_release(space, start, run);
	}
}

int xs_runs_room(struct xs_runs *runs, size_t nr)
{
	size_t needed = runs->nr + runs->reserved + nr;
	size_t max = needed > 2 * runs->max ? needed : 2 * runs->max;
	struct xs_run *v;

	if (needed <= runs->max)
		return 0;
	v = realloc(runs->v, max * sizeof(*v));
	if (!v)
		return -ENOMEM;
	runs->v = v;
	runs->max = max;
	return 0;
}

int xs_runs_add(struct xs_runs *runs, uint64_t start, uint64_t nr)
{
	if (xs_runs_room(runs, 1))
		return -ENOMEM;
	runs->v[runs->nr++] = (struct xs_run){ start, nr };
	return 0;
}

void xs_space_free(struct xs_space *space, uint64_t start, uint64_t nr)
{
	space->freed.v[space->freed.nr++] = (struct xs_run){ start, nr };
}

void xs_space_committed(struct xs_space *space, size_t nr)
{
	struct xs_runs *freed = &space->freed;

	for (size_t i = 0; i < nr; i++)
		drop_owner(space, freed->v[i].start, freed->v[i].nr);
	freed->nr -= nr;
	/* empty lists have no array to move within */
	if (freed->nr)
		memmove(freed->v, freed->v + nr, freed->nr * sizeof(*freed->v));
}
