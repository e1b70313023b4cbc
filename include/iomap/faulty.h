/* SPDX-License-Identifier: MIT */
/*
 * iomap/faulty.h - a device that fails as told: for tests of your own extent store.
 *
 * A faulty device is stacked on another one and passes its I/O on.  Rules say which I/O meets
 * which fault; rules come and go at run time.  What happens is decided when an I/O is
 * submitted, from the rules, the seed and the I/Os that came before, and from nothing else:
 * the same seed, rules and sequence of I/O give the same faults.
 *
 * Threads: any; rules may change while I/O runs.
 * Lifetime: the device keeps its lower one open (closing that gives -EBUSY); close it with
 * iomap_bdev_close() and then the lower one.  I/O that is held keeps the device busy.
 * Limits and size are those of the lower device (iomap_bdev_revalidate() asks that one again).
 * An I/O longer than the limits arrives in pieces, and each piece is an I/O to the rules.
 * Memory: a bio without a fault costs nothing.  One with a fault takes a small object from a
 * pool, a corrupted write also a copy of its data, a torn one copies of parts that begin where
 * the device does not take memory; where there is no memory it ends with -ENOMEM.
 * Functions that get a bdev which is not a faulty device return -EINVAL.
 */
#ifndef IOMAP_FAULTY_H
#define IOMAP_FAULTY_H

#include <iomap/bio.h>
#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What happens to an I/O that meets a rule.  Unless it says otherwise, the I/O then ends with
 * the lower device's error, or else with iomap_fault.error, where 0 is success: so each of
 * them can be reported or go unnoticed.
 */
enum iomap_fault_kind {
	IOMAP_FAULT_FAIL = 1, /* nothing is done; it ends with `error`, -EIO when that is 0 */
	IOMAP_FAULT_DELAY,    /* it is held; `amount` says for how long */
	IOMAP_FAULT_SHORTEN,  /* only the first `amount` bytes are transferred, in whole blocks */
	IOMAP_FAULT_TEAR,     /* of a write, some units of `amount` bytes land and some do not */
	IOMAP_FAULT_CORRUPT,  /* `amount` bits of the data read or written are flipped */
	IOMAP_FAULT_LOSE,     /* all but a read (a write with its PREFLUSH): acknowledged, not done */
	IOMAP_FAULT_MISDIRECT, /* another address is read or written, by `amount` */
	IOMAP_FAULT_GONE,     /* the device is gone, with this I/O: iomap_faulty_set_gone() */
};

/* iomap_fault.ops */
#define IOMAP_FAULT_ON_READ (1U << IOMAP_REQ_OP_READ)
#define IOMAP_FAULT_ON_WRITE (1U << IOMAP_REQ_OP_WRITE)
#define IOMAP_FAULT_ON_FLUSH (1U << IOMAP_REQ_OP_FLUSH)
#define IOMAP_FAULT_ON_DISCARD (1U << IOMAP_REQ_OP_DISCARD)
#define IOMAP_FAULT_ON_WRITE_ZEROES (1U << IOMAP_REQ_OP_WRITE_ZEROES)

/* iomap_fault.flags */
#define IOMAP_FAULT_HOLD_END 0x1U /* DELAY: do the I/O at once and hold its completion */

/* iomap_fault.amount: drawn for each I/O from the seed (SHORTEN, MISDIRECT) */
#define IOMAP_FAULT_ANY UINT64_MAX

/*
 * A rule.  Zero means what is in brackets.  An I/O matches when its operation, its flags and
 * its range do, and it is one that the kind can act on: SHORTEN and CORRUPT act on reads and
 * writes with data, MISDIRECT on those of them that have another place to go to, TEAR on
 * writes of two units or more, LOSE on all but reads, the others on all.  A flush, and a
 * write of nothing, has no address: it matches only rules for the whole device.
 *
 * Each rule counts its matches, from 1, and fires at those that `nth`, `every`, `limit` and
 * `per_million` leave.  When several fire at once, the one added first acts, and the others
 * do not count it as fired; a DELAY acts in addition to another kind, and comes first.
 */
struct iomap_fault {
	size_t size;	 /* sizeof(struct iomap_fault) */
	uint32_t kind;	 /* enum iomap_fault_kind */
	uint32_t ops;	 /* IOMAP_FAULT_ON_xxx [all that the kind can act on] */
	uint32_t opf;	 /* IOMAP_REQ_xxx flags that must all be set: FUA, PREFLUSH, META, ... */
	uint32_t flags;	 /* IOMAP_FAULT_xxx */
	uint64_t start;	 /* first address */
	uint64_t end;	 /* the one behind the last [start 0: the whole device; else its end] */
	uint64_t nth;	 /* fire at the nth match [`every`, or 1 if that is 0 as well] ... */
	uint64_t every;	 /* ... and then at every so many [with `nth` never, else 1] */
	uint64_t limit;	 /* fire at most so often [no limit] */
	uint32_t per_million; /* of the matches that are left, drawn from the seed [all] */
	int32_t error;	 /* -errno, see enum iomap_fault_kind */
	/*
	 * DELAY: until so many later I/Os have been submitted to the device [until
	 *   iomap_faulty_release()]
	 * SHORTEN: bytes, rounded down to the logical block size; IOMAP_FAULT_ANY: less than
	 *   all of them
	 * TEAR: the unit, a power of two of at least the logical block size, aligned on the
	 *   device [the logical block size]
	 * CORRUPT: bits [1], spread over the data
	 * MISDIRECT: added to the address, modulo the device, but no further than where all
	 *   of it lies on the device; a multiple of the logical block size
	 *   [IOMAP_FAULT_ANY: another place]
	 */
	uint64_t amount;
	uint64_t reserved[4];
};

/* Options of a faulty device. */
struct iomap_faulty_opts {
	size_t size; /* sizeof(struct iomap_faulty_opts) */
	uint64_t seed;
	uint64_t reserved[4];
};

/* In which order held I/O goes on. */
enum iomap_release_order {
	IOMAP_RELEASE_FIFO,
	IOMAP_RELEASE_LIFO,
	IOMAP_RELEASE_RANDOM, /* drawn from the seed */
};

/**
 * iomap_faulty_create - stack a faulty device on @lower
 * @lower: any device
 * @opts: NULL for seed 0
 * @out: receives the device, without rules
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_faulty_create(struct iomap_bdev *lower,
						   const struct iomap_faulty_opts *opts,
						   struct iomap_bdev **out);

/**
 * iomap_faulty_add - add a rule
 * @fault: copied
 * @id: receives its number, from 1 in the order of addition; may be NULL
 *
 * Does not block.  Numbers are not used again.  What a rule draws depends on the seed, its
 * number and its matches only, not on other rules.
 *
 * Return: 0; -EINVAL for a rule that contradicts itself, names an operation that its kind
 * cannot act on, or is misaligned; -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_faulty_add(struct iomap_bdev *faulty,
						const struct iomap_fault *fault, uint32_t *id);
/**
 * iomap_faulty_remove - take a rule away; I/O that it holds stays held
 *
 * Does not block.  Return: 0 or -ENOENT.
 */
IOMAP_API int iomap_faulty_remove(struct iomap_bdev *faulty, uint32_t id);
/**
 * iomap_faulty_count - counters of a rule
 * @matched: receives how many I/Os it matched; may be NULL
 * @fired: receives on how many it acted; may be NULL
 *
 * Does not block.  Return: 0 or -ENOENT.
 */
IOMAP_API int iomap_faulty_count(struct iomap_bdev *faulty, uint32_t id, uint64_t *matched,
				 uint64_t *fired);

/**
 * iomap_faulty_release - let held I/O go on
 * @id: of the rule that holds it, which may be gone; 0: of any
 * @nr: at most so many; UINT64_MAX: all that is held now and until the call is through
 * @order: enum iomap_release_order
 *
 * Starts or completes the I/O on the calling thread, one after the other; does not wait for
 * what it starts.
 *
 * Return: how many I/Os were released, or -EINVAL.
 */
IOMAP_API int64_t iomap_faulty_release(struct iomap_bdev *faulty, uint32_t id, uint64_t nr,
				       uint32_t order);
/**
 * iomap_faulty_held_nr - how many I/Os are held now
 *
 * Does not block.  Return: their number, or -EINVAL.
 */
IOMAP_API int64_t iomap_faulty_held_nr(struct iomap_bdev *faulty);
/**
 * iomap_faulty_wait_held - wait until at least @nr I/Os are held
 *
 * Blocks; completes I/O of the engine meanwhile.  Return: 0 or -EINVAL.
 */
IOMAP_API int iomap_faulty_wait_held(struct iomap_bdev *faulty, uint64_t nr);

/**
 * iomap_faulty_set_gone - the device vanishes, or is back
 * @gone: true: I/O that comes from now on and all that is held ends with -ENODEV, and rules
 *   do not see it; I/O that the lower device has already got ends as it ends there
 *
 * Does not block.  Return: 0 or -EINVAL.
 */
IOMAP_API int iomap_faulty_set_gone(struct iomap_bdev *faulty, bool gone);

#ifdef __cplusplus
}
#endif
#endif
