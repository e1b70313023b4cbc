/* SPDX-License-Identifier: MIT */
/*
 * writelog.h - what recording (writelog.c) and replaying (writelog_replay.c, writelog_cut.c)
 * share.
 *
 * An event and what it points to do not change once they are in the log, and are freed only
 * when no replay is open.  So a replay copies an event under the lock, and reads the data of
 * a write without it.
 */
#ifndef IOMAP__BLOCK_WRITELOG_H
#define IOMAP__BLOCK_WRITELOG_H

#include <iomap/writelog.h>

#include "block/stacked.h"

struct iomap__writelog;

/* A write or flush that was recorded.  Owned by the log, found by its SUBMIT event. */
struct iomap__wl_io {
	struct iomap__writelog *log;
	struct iomap_bio *bio; /* until it completes */
	uint64_t submit;       /* number of its SUBMIT event */
	uint64_t addr, len;
	uint32_t opf;
	int32_t status; /* set before its COMPLETE event is there */
	void *data;	/* iomap__wl_data_bytes(); NULL: zeros */
};

/* Bytes of data that were recorded: of a discard or zeroing none. */
static inline uint64_t iomap__wl_data_bytes(const struct iomap__wl_io *io)
{
	return (io->opf & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_WRITE ? io->len : 0;
}

/* Put a sector of the write, from byte @off on, to @to. */
static inline void iomap__wl_put_sector(const struct iomap__wl_io *io, uint64_t off, void *to)
{
	if (io->data)
		memcpy(to, (const uint8_t *)io->data + off, IOMAP_SECTOR_SIZE);
	else
		memset(to, 0, IOMAP_SECTOR_SIZE);
}

struct iomap__wl_event {
	uint32_t type; /* enum iomap_writelog_type */
	struct iomap__wl_io *io;
	uint64_t value; /* MARK */
};

struct iomap__writelog {
	struct iomap_bdev *bdev, *lower;
	bool owns_lower;
	uint64_t bytes; /* of the device, as the log began */
	struct iomap__env *env;
	uint64_t max_bytes;
	size_t align;		  /* of memory for I/O on the lower device */
	struct iomap__mutex lock; /* RANK_BDEV; protects all below */
	uint8_t *base;		  /* the device as the log began; constant while a replay is open */
	struct iomap__wl_event *events;
	uint64_t events_nr, events_max;
	uint64_t writes_nr, flushes_nr, marks_nr;
	uint64_t data_bytes, log_bytes;
	uint64_t inflight_nr; /* each has a place in `events` kept for its end */
	uint64_t replays_nr;
	bool ended;
};

static inline bool iomap__wl_is_flush(const struct iomap__wl_io *io)
{
	/* A write of nothing with PREFLUSH is one as well. */
	return !io->len;
}

/* ---- replay ---- */

/* 512 bytes of the device. */
struct iomap__replay_sector {
	uint64_t settled_end; /* COMPLETE of the durable write whose data is there; 0: none */
	uint64_t newest;      /* highest SUBMIT of a durable write that reached it; 0: none */
};

/* A write that is not durable at the cut. */
struct iomap__replay_write {
	const struct iomap__wl_io *io; /* NULL: it has become durable */
	uint64_t start; /* number of its SUBMIT event */
	uint64_t end;	/* of its COMPLETE event; 0: in flight */
	int32_t status; /* once it has completed; a failed one never becomes durable */
	/* of the cut that is being made (writelog_cut.c) */
	uint8_t fate;
	uint8_t tear;
	bool done;
	uint64_t random;
};

/* A cut: all that is durable, and the writes that are not. */
struct iomap_replay {
	struct iomap__writelog *log;
	struct iomap__env *env;
	uint64_t bytes;
	uint8_t *settled; /* the image with what is durable */
	struct iomap__replay_sector *sectors;
	/* completed ones by `end`, then those in flight by `start` */
	struct iomap__replay_write *writes;
	uint64_t *order; /* room for as many */
	uint64_t writes_nr, writes_max;
	uint64_t at, marks_nr, mark;
};

/*
 * @write may be what a sector holds: it was in flight at the cut, or completed after each
 * durable write that reached the sector was submitted.
 */
static inline bool iomap__replay_may_land(const struct iomap__replay_write *write,
					  const struct iomap__replay_sector *sector)
{
	return !write->end || write->end > sector->newest;
}

/* ---- recording ---- */

/* NULL when @bdev is not a writelog. */
struct iomap__writelog *iomap__writelog_of(struct iomap_bdev *bdev);
/* Describe @event for the application. */
void iomap__wl_describe(const struct iomap__wl_event *event, struct iomap_writelog_event *out);
/* Read or write the first @bytes of @bdev.  @memory is aligned as it wants. */
int iomap__wl_transfer(struct iomap_bdev *bdev, uint32_t opf, void *memory, uint64_t bytes);
size_t iomap__wl_align(const struct iomap_bdev *bdev);

#endif
