/* SPDX-License-Identifier: MIT */
/*
 * share.h - which blocks have several owners.
 *
 * An owner is an extent.  Nothing of this is on the device: the extents there tell, and the
 * counts are made of them when the store is opened.  Memory holds, for each XS_SHARES_CHUNK
 * blocks of which any is shared, how many owners each has besides the first; where nothing is
 * shared there is nothing.
 *
 * An owner that goes is taken off with the commit that no longer has it (see space.h), and
 * until then the block is shared: the metadata on the device still shows the block to that
 * owner, who after a power cut must not find there what another one has written meanwhile.
 *
 * All of it is protected by the store's lock.
 */
#ifndef XSTORE_SHARE_H
#define XSTORE_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#define XS_SHARES_CHUNK 1024U
#define XS_OWNERS_MAX (UINT16_MAX + 1U) /* of one block */

struct xs_shares_chunk {
	uint32_t shared_nr; /* blocks with other owners */
	uint16_t others[XS_SHARES_CHUNK];
};

struct xs_shares {
	struct xs_shares_chunk **chunks; /* NULL: no block has ever had two owners */
	uint64_t blocks;		 /* of the store */
	uint64_t shared_nr;		 /* blocks that have several owners */
};

void xs_shares_init(struct xs_shares *shares, uint64_t blocks);
void xs_shares_exit(struct xs_shares *shares);

/*
 * One owner more for each of these blocks.  Return: 0; -ENOMEM; -EMLINK: one has XS_OWNERS_MAX;
 * then nothing has changed.
 */
int xs_shares_add(struct xs_shares *shares, uint64_t start, uint64_t nr);
/* One less; all of them are shared. */
void xs_shares_drop(struct xs_shares *shares, uint64_t start, uint64_t nr);
/* How many of the blocks from @start on, up to @nr, are shared, or are not: as the first is. */
uint64_t xs_shares_run(const struct xs_shares *shares, uint64_t start, uint64_t nr, bool *shared);
/* How many of them are. */
uint64_t xs_shares_count(const struct xs_shares *shares, uint64_t start, uint64_t nr);

#endif
