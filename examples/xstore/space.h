/* SPDX-License-Identifier: MIT */
/*
 * space.h - which blocks are taken, and which wait for a commit to be free.
 *
 * The device holds no list of free blocks: free is what no extent, no metadata block and no
 * super block takes, and the bitmap is made of these when the store is opened.
 *
 * A block that an owner gives back stays taken, and his: the metadata on the device may still
 * name it.  It waits in `freed` until a commit that no longer names it is durable.  From then
 * on it can be used again, or if it has other owners, belongs to them alone: share.h.  All of
 * it is protected by the store's lock.
 */
#ifndef XSTORE_SPACE_H
#define XSTORE_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "share.h"

struct xs_run {
	uint64_t start, nr; /* blocks */
};

struct xs_runs {
	struct xs_run *v;
	size_t nr, max;
	size_t reserved; /* of max - nr, promised to somebody */
};

struct xs_space {
	uint64_t *bits; /* 1: taken */
	uint64_t blocks;
	uint64_t free_nr;
	uint64_t hint; /* where the last search ended */
	struct xs_runs freed;
	struct xs_shares shares;
};

/* Return: 0 or -ENOMEM. */
int xs_space_init(struct xs_space *space, uint64_t blocks);
void xs_space_exit(struct xs_space *space);

/* Take what is known to be used.  Return: false when some of it is taken already. */
bool xs_space_mark(struct xs_space *space, uint64_t start, uint64_t nr);
/*
 * Take up to @want blocks in a row: at @goal if that is free, else the first place from where
 * the last search ended that has so many, else the longest.
 * Return: how many, from *@start on; 0 when there is no room.
 */
uint64_t xs_space_take(struct xs_space *space, uint64_t goal, uint64_t want, uint64_t *start);
/* Make free at once: nothing durable names these blocks. */
void xs_space_release(struct xs_space *space, uint64_t start, uint64_t nr);
/* An owner gives it back, with a commit to come; there is room in `freed`. */
void xs_space_free(struct xs_space *space, uint64_t start, uint64_t nr);
/* A commit is durable that was made when `freed` had @nr runs. */
void xs_space_committed(struct xs_space *space, size_t nr);

/* Room for @nr more, besides what is reserved.  Return: 0 or -ENOMEM. */
int xs_runs_room(struct xs_runs *runs, size_t nr);
/* Return: 0 or -ENOMEM. */
int xs_runs_add(struct xs_runs *runs, uint64_t start, uint64_t nr);

#endif
