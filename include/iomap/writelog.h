/* SPDX-License-Identifier: MIT */
/*
 * iomap/writelog.h - power cuts: a device that remembers every write, and the images that a
 * cut at any moment could leave behind.
 *
 * A writelog is stacked on another device.  It passes all I/O on and records writes with
 * their data, flushes, and marks of the application, in the order in which they were
 * submitted and in which they completed: the events 0, 1, 2, ...  A replay then makes the
 * image of the device after a cut before any event.
 *
 * What a cut may leave is what a disk with a volatile cache promises:
 *   - A write is durable from when a flush has completed that was submitted after the write
 *     had completed.  Flushes are IOMAP_REQ_OP_FLUSH, and IOMAP_REQ_PREFLUSH of a write, which
 *     flushes what had completed when that write was submitted.  A write that was still in
 *     flight when the flush was submitted is not covered.  A flush that failed covers nothing.
 *   - A write with IOMAP_REQ_FUA is durable from when it has completed.
 *   - Every other write, in flight or completed, may have landed wholly, in any of its
 *     sectors, or not at all, in any order; so a later one may be there without an earlier
 *     one, and of two writes to one sector either.  A write that failed is such a write for
 *     ever, also after a flush.
 *   - Of a write with IOMAP_REQ_ATOMIC all sectors have landed or none.
 *   - A discard or zeroing is a write of zeros.
 *   - A sector that a durable write has reached does not go back to what had completed
 *     before that write was submitted.
 *   - Nothing of a write with PREFLUSH lands before what its flush covers is durable.
 * When two writes to one sector were in flight together and both have become durable, the
 * one that completed last is taken to be there.
 *
 * Threads: any thread may do I/O, mark, and replay at the same time; one replay is used by one
 * thread at a time.
 * Size: that of the lower device when the log was made, also when that one grows.
 * Lifetime: the writelog keeps its lower device open, and a replay keeps the writelog open:
 * closing what is kept gives -EBUSY.
 * Memory: a copy of the whole device from when the log began, the data of each write, and
 * some 150 bytes for each write or flush; a replay takes another copy of the device and 16
 * bytes for each 512.  Everything comes from the engine's allocation hooks.
 * Functions that get a bdev which is not a writelog return -EINVAL.
 */
#ifndef IOMAP_WRITELOG_H
#define IOMAP_WRITELOG_H

#include <iomap/bio.h>
#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- recording ---- */

/* Options of a writelog. */
struct iomap_writelog_opts {
	size_t size; /* sizeof(struct iomap_writelog_opts) */
	/*
	 * Most memory for what is recorded (not for the copy of the device); 0: no bound.
	 * What does not fit ends the log: I/O goes to the lower device unrecorded from then
	 * on, and marks are refused, until iomap_writelog_restart().
	 */
	uint64_t max_bytes;
	uint64_t reserved[4];
};

/**
 * iomap_writelog_create - stack a writelog on @lower
 * @lower: any device; nothing else writes to it while the log exists
 * @opts: NULL for none
 * @out: receives the device
 *
 * Reads the whole of @lower: what is on it now is durable.  Blocks.
 *
 * Return: 0, -EINVAL, -ENOMEM or the error of a read.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_writelog_create(struct iomap_bdev *lower,
						     const struct iomap_writelog_opts *opts,
						     struct iomap_bdev **out);
/**
 * iomap_writelog_open_memory - a writelog on a device in memory of its own
 * @bytes: size of the device, a multiple of 512
 * @image: @bytes of initial contents, copied; NULL for zeros
 * @opts: NULL for none
 * @out: receives the writelog; closing it frees the memory as well
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_writelog_open_memory(struct iomap_engine *engine,
							  uint64_t bytes, const void *image,
							  const struct iomap_writelog_opts *opts,
							  struct iomap_bdev **out);

/**
 * iomap_writelog_mark - write a number of the application into the log
 * @value: for example of the last operation that was acknowledged as durable
 *
 * With it a test knows what an image owes it: all that was promised before the last mark
 * before the cut.  Does not wait for I/O.
 *
 * Return: 0; -ENOSPC when the log has ended at its bound; -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_writelog_mark(struct iomap_bdev *writelog, uint64_t value);

/**
 * iomap_writelog_restart - forget all events; what is on the device now is durable
 *
 * The caller sees to it that nothing writes meanwhile.  Reads the lower device.  Blocks.
 *
 * Return: 0; -EBUSY while I/O is in flight or a replay is open; the error of a read.  After an
 * error nothing has changed.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_writelog_restart(struct iomap_bdev *writelog);

struct iomap_writelog_info {
	uint64_t events_nr;   /* so a cut is before one of 0 .. events_nr */
	uint64_t writes_nr;   /* writes recorded, discards and zeroings too */
	uint64_t flushes_nr;  /* flushes recorded, those of PREFLUSH not counted */
	uint64_t marks_nr;    /* marks recorded */
	uint64_t data_bytes;  /* of the writes */
	uint64_t log_bytes;   /* memory of all that is recorded; max_bytes bounds it */
	uint64_t inflight_nr; /* recorded, not completed */
	uint64_t ended;	      /* 1: the log has ended at its bound */
};

/** iomap_writelog_info - state of the log; @size as for iomap_engine_stats() */
IOMAP_API int iomap_writelog_info(struct iomap_bdev *writelog, struct iomap_writelog_info *out,
				  size_t size);

enum iomap_writelog_type {
	IOMAP_WRITELOG_SUBMIT = 1, /* a write, discard, zeroing or flush was submitted */
	IOMAP_WRITELOG_COMPLETE,   /* it completed; its submitter learns of it after this */
	IOMAP_WRITELOG_MARK,
};

struct iomap_writelog_event {
	uint32_t type;	   /* enum iomap_writelog_type */
	uint32_t opf;	   /* IOMAP_REQ_xxx of the write or flush */
	int32_t status;	   /* COMPLETE: 0 or -errno */
	uint32_t reserved32;
	uint64_t addr, len; /* of a write; of a flush 0 */
	uint64_t submit;   /* number of the SUBMIT event of the same write or flush */
	uint64_t value;	   /* MARK */
};

/**
 * iomap_writelog_event - look at event @n
 * @size: sizeof(*out)
 *
 * Return: 0; -ENOENT when there are no more than @n; -EINVAL.
 */
IOMAP_API int iomap_writelog_event(struct iomap_bdev *writelog, uint64_t n,
				   struct iomap_writelog_event *out, size_t size);

/* ---- replay ---- */

struct iomap_replay;

/* Which of the writes that are not durable at the cut have landed, in which order. */
enum iomap_cut_mode {
	IOMAP_CUT_NONE = 1, /* none of them */
	IOMAP_CUT_ALL,	    /* all, as they completed, those in flight last: no power was lost */
	IOMAP_CUT_SUBSET,   /* those of `keep`, wholly, in the same order */
	IOMAP_CUT_RANDOM,   /* drawn from `seed`: subset, order and tears */
	IOMAP_CUT_PIECES,   /* `pieces`, in their order */
};

/* Bytes [off, off + len) of a write have landed; multiples of 512. */
struct iomap_cut_piece {
	uint64_t write; /* as in iomap_replay_write() */
	uint64_t off, len;
};

/*
 * A choice.  A write with PREFLUSH that is chosen brings along what its flush covers, and a
 * sector that cannot go back to a chosen write stays as it is: every choice gives a state
 * that the device could be in.
 */
struct iomap_cut {
	size_t size;	       /* sizeof(struct iomap_cut) */
	uint32_t mode;	       /* enum iomap_cut_mode */
	uint32_t sector_bytes; /* RANDOM: what does not tear, a power of two >= 512; 0: the
				* logical block size */
	uint64_t seed;	       /* RANDOM */
	const uint64_t *keep;  /* SUBSET: bit n % 64 of keep[n / 64] is write n */
	const struct iomap_cut_piece *pieces; /* PIECES */
	size_t pieces_nr;
	uint64_t reserved[4];
};

/* What became of the writes that were not durable. */
struct iomap_cut_outcome {
	uint64_t whole_nr;     /* landed wholly */
	uint64_t torn_nr;      /* landed in part */
	uint64_t dropped_nr;   /* not at all */
	uint64_t overtaken_nr; /* of the torn and dropped: a later one has landed */
};

/**
 * iomap_replay_open - replay a log
 * @out: receives the replay, at event 0: the device as the log began
 *
 * The log may grow meanwhile.  Blocks.  Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_replay_open(struct iomap_bdev *writelog,
						 struct iomap_replay **out);
/** iomap_replay_close - end a replay; NULL is ignored */
IOMAP_API void iomap_replay_close(struct iomap_replay *replay);

/**
 * iomap_replay_seek - move the cut
 * @at: the events before @at have happened, the others not
 *
 * Forward it costs what lies between, backward as much as from the beginning.
 *
 * Return: 0; -EINVAL when there are less than @at events; -ENOMEM (the cut is then at event 0).
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_replay_seek(struct iomap_replay *replay, uint64_t at);

struct iomap_replay_info {
	uint64_t at;	    /* where the cut is */
	uint64_t writes_nr; /* not durable there, each of which may have landed or not */
	uint64_t bytes;	    /* of an image */
	uint64_t marks_nr;  /* marks before the cut */
	uint64_t mark;	    /* the last of these; 0 when there is none */
};

/** iomap_replay_info - where the cut is; @size as for iomap_engine_stats() */
IOMAP_API int iomap_replay_info(struct iomap_replay *replay, struct iomap_replay_info *out,
				size_t size);
/**
 * iomap_replay_write - the @n-th write that is not durable at the cut
 * @out: its SUBMIT event, or its COMPLETE event if it has completed before the cut
 *
 * Completed ones come first, in the order of completion, then those in flight in that of
 * submission.  Return: 0; -ENOENT when there are no more than @n; -EINVAL.
 */
IOMAP_API int iomap_replay_write(struct iomap_replay *replay, uint64_t n,
				 struct iomap_writelog_event *out, size_t size);

/**
 * iomap_replay_image - the device after a power cut, in memory
 * @cut: what has landed
 * @image: receives the device's contents: as many bytes as it has
 * @outcome: receives what became of the writes; may be NULL
 *
 * Return: 0; -EINVAL for a cut that makes no sense; -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_replay_image(struct iomap_replay *replay,
						  const struct iomap_cut *cut, void *image,
						  struct iomap_cut_outcome *outcome);
/**
 * iomap_replay_store - the same, written to another device and flushed
 * @target: at least as large; may belong to another engine
 *
 * Blocks; takes memory for one image.  Return: as above, or the error of the I/O.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_replay_store(struct iomap_replay *replay,
						  const struct iomap_cut *cut,
						  struct iomap_bdev *target,
						  struct iomap_cut_outcome *outcome);

#ifdef __cplusplus
}
#endif
#endif
