/* SPDX-License-Identifier: MIT */
/*
 * testdev.h - a block device in memory that a test holds in its hand.
 *
 * It records every bio, fails ranges, completes inside submit_bio, from a thread of its own
 * or when the test says so.  A write reaches the memory when it completes, not before.
 *
 * All functions may be called from any thread.  td_free() closes the bdev.
 */
#ifndef TESTDEV_H
#define TESTDEV_H

#include "testutil.h"

#define TD_READ (1U << IOMAP_REQ_OP_READ)
#define TD_WRITE (1U << IOMAP_REQ_OP_WRITE)
#define TD_FLUSH (1U << IOMAP_REQ_OP_FLUSH)
#define TD_DISCARD (1U << IOMAP_REQ_OP_DISCARD)
#define TD_ZEROES (1U << IOMAP_REQ_OP_WRITE_ZEROES)
#define TD_ALL (TD_READ | TD_WRITE | TD_FLUSH | TD_DISCARD | TD_ZEROES)

/* One bio, as the device saw it. */
struct td_io {
	uint64_t submitted; /* t_tick() */
	uint64_t completed; /* t_tick(), 0: not yet */
	uint32_t opf;
	uint32_t vcnt;
	uint64_t addr;
	uint64_t bytes;
	int status;
};

struct td_fault {
	unsigned ops; /* TD_xxx, 0: unused */
	uint64_t addr, end;
	int error;
	unsigned times;
};

struct td_queued {
	struct iomap_bio *bio;
	size_t io; /* index of its record */
};

struct td {
	struct iomap_bdev *bdev;
	uint8_t *mem;
	uint64_t bytes;
	struct t_gate gate; /* protects all below; signalled at each submission and completion */
	struct td_io *io;
	size_t io_nr, io_max;
	struct td_fault fault[8];
	unsigned hold; /* TD_xxx that stay until td_release() */
	struct td_queued held[8192];
	size_t held_nr;
	bool async, stop;
	struct td_queued queue[8192]; /* for the thread */
	size_t queue_nr;
	struct t_task thread;
};

struct td *td_new(struct iomap_engine *engine, uint64_t bytes,
		  const struct iomap_bdev_limits *limits);
/* Closes the bdev, which must be idle and unused. */
void td_free(struct td *td);

/* From now on a thread of the device completes what is not held. */
void td_async(struct td *td);
/* Bios of these operations are kept until td_release(). */
void td_hold(struct td *td, unsigned ops);
/* Wait until at least `nr` bios are held. */
void td_wait_held(struct td *td, size_t nr);
/* Complete up to `nr` held bios, in the order in which they came; returns how many. */
size_t td_release(struct td *td, size_t nr);
/* Hold nothing any more and complete all that is held. */
void td_open_gates(struct td *td);
/* The next `times` bios of these operations that touch [addr, addr + len) get `error`. */
void td_fail(struct td *td, unsigned ops, uint64_t addr, uint64_t len, int error, unsigned times);

/* Records of bios, since td_reset(). */
void td_reset(struct td *td);
size_t td_count(struct td *td, unsigned ops);
uint64_t td_bytes(struct td *td, unsigned ops);
/* The nth (from 0) bio of these operations; the test fails when there is none. */
struct td_io td_nth(struct td *td, unsigned ops, size_t n);
/* Some bio of these operations touches [addr, addr + len). */
bool td_touched(struct td *td, unsigned ops, uint64_t addr, uint64_t len);
/* Wait until at least `nr` bios of these operations have completed. */
void td_wait_completed(struct td *td, unsigned ops, size_t nr);

#endif
