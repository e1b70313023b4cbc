/* SPDX-License-Identifier: MIT */
/*
 * faulty.h - what the two halves of the faulty device share: faulty.c decides, holds and
 * ends, faulty_io.c does what was decided.
 */
#ifndef IOMAP__BLOCK_FAULTY_H
#define IOMAP__BLOCK_FAULTY_H

#include <iomap/faulty.h>

#include "block/stacked.h"

struct iomap__faulty {
	struct iomap_bdev *lower;
	struct iomap__env *env;
	uint64_t seed;
	struct iomap__pool ios;	  /* struct iomap__faulty_io */
	struct iomap__mutex lock; /* RANK_BDEV; protects all below */
	struct iomap__faulty_rule *rules, **last_rule;
	uint32_t last_id;
	bool gone;
	uint64_t submitted_nr;
	struct iomap_list_head held; /* struct iomap__faulty_io, oldest first */
	uint64_t held_nr;
	uint64_t release_random;
	uint32_t held_word; /* moves with each I/O that is held; somebody may wait for it */
};

/* An I/O with a fault, from its submission to its end. */
struct iomap__faulty_io {
	struct iomap_list_head held;
	struct iomap__faulty *faulty;
	struct iomap_bio *bio;
	/* decided at submission */
	uint32_t kind; /* enum iomap_fault_kind without DELAY; 0: nothing but a delay */
	int32_t error;
	uint64_t amount;
	uint64_t random;    /* of this I/O */
	uint32_t delayed_by; /* rule; 0: not delayed */
	bool hold_end;
	uint64_t due; /* held until submitted_nr reaches it; UINT64_MAX: until released */
	/* in flight */
	bool transferred;   /* its data has been moved; nothing but its end is held */
	uint32_t remaining; /* bios below that have not ended, and 1 for who starts them */
	int32_t status;	    /* the first error of these */
	void *copy;	    /* of the data of a corrupted write */
	size_t copy_bytes;
};

static inline uint64_t iomap__bio_addr(const struct iomap_bio *bio)
{
	return bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
}

/*
 * Where a misdirected I/O goes: @amount further, or by @random, but inside the device.  Not
 * elsewhere at all when there is no other place, or @amount leads back.
 */
uint64_t iomap__faulty_elsewhere(const struct iomap_bdev *lower, const struct iomap_bio *bio,
				 uint64_t amount, uint64_t random);
/* Do the I/O with its fault; iomap__faulty_done() follows, now or later.  No lock held. */
void iomap__faulty_start(struct iomap__faulty_io *io);
/* It has been done, with io->status.  Holds its end, or ends it and frees @io. */
void iomap__faulty_done(struct iomap__faulty_io *io);

#endif
