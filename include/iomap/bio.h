/* SPDX-License-Identifier: MIT */
/*
 * iomap/bio.h - block I/O requests.
 *
 * A bio belongs to whoever allocated it until iomap_submit_bio(), then to the library and
 * the device until bi_end_io runs, then to bi_end_io, which usually calls iomap_bio_put().
 * bi_end_io runs exactly once, on any thread that reaps completions or, for devices that
 * complete at once, inside iomap_submit_bio(); it must not block and may call only
 * functions marked "any context".
 */
#ifndef IOMAP_BIO_H
#define IOMAP_BIO_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * bi_opf: operation in the low 8 bits, flags above.
 *
 * FUA and PREFLUSH go with writes.  What a device lacks for FUA the kernel does by a flush
 * after the write (RWF_DSYNC); a device of the application sees the flag and keeps it.
 *
 * NOWAIT: rather than to wait for a place in a queue, for a lock of the file system or for an
 * allocation, the bio ends with -EAGAIN: also where the device has not IOMAP_BDEV_HAS_NOWAIT,
 * where the bio is past the device's limits, and, on files and block devices, for what is not
 * a plain read or write.  Submit it again without the flag.  Of a write that ends so a part
 * may be on the device.
 *
 * POLLED: this thread comes back for the bio: it waits for it (iomap_submit_bio_wait(), or any
 * other wait of the library), or calls iomap_engine_poll(), until the bio has ended.  Until
 * then nobody else waits for it, nor for anything that only its bi_end_io brings about; so
 * never on folios of the cache.  In return it may go by a queue that is the thread's alone,
 * which with io_uring (Linux 6.1) costs fewer wake-ups: the thread gets one with its first
 * such bio, sixteen threads of an engine at most, and has it until it ends.  The end of a
 * thread waits for its POLLED bios.  iomap_engine_fd() does not tell of them: their loop asks
 * iomap_engine_poll_timeout().
 * The flag is taken as unset where the promise cannot be meant: in a work function or
 * ki_complete; in a bi_end_io, but that of a bio of this very queue, in the same thread; on a
 * bio that a stacked device passes on.  A device of the application that makes bios of its own
 * leaves the flag out.
 *
 * ATOMIC: after a power cut all of the write is there or nothing.  It is never split; -EINVAL
 * outside the device's limits for it, -EOPNOTSUPP where the device has none.
 */
#define IOMAP_REQ_OP_READ 0U
#define IOMAP_REQ_OP_WRITE 1U
#define IOMAP_REQ_OP_FLUSH 2U
#define IOMAP_REQ_OP_DISCARD 3U	     /* the contents are not needed any more; no memory */
#define IOMAP_REQ_OP_WRITE_ZEROES 9U /* the range reads as zeros afterwards; no memory */
#define IOMAP_REQ_OP_MASK 0xffU
#define IOMAP_REQ_SYNC 0x0100U	   /* somebody waits for it */
#define IOMAP_REQ_META 0x0200U	   /* metadata, for statistics and faults */
#define IOMAP_REQ_FUA 0x0400U	   /* write is durable when it completes */
#define IOMAP_REQ_PREFLUSH 0x0800U /* flush the device before the write */
#define IOMAP_REQ_RAHEAD 0x1000U   /* readahead */
#define IOMAP_REQ_BACKGROUND 0x2000U /* nobody waits */
#define IOMAP_REQ_NOWAIT 0x4000U     /* -EAGAIN rather than waiting to start it */
#define IOMAP_REQ_POLLED 0x8000U     /* the submitting thread comes back for it; see above */
#define IOMAP_REQ_ATOMIC 0x10000U    /* write: all of it or nothing */

/* Memory of a bio: laid out as struct iovec. */
struct iomap_bio_vec {
	void *bv_base;
	size_t bv_len;
};

struct iomap_bvec_iter {
	uint64_t bi_sector; /* device address in units of 512 bytes */
	uint64_t bi_size;   /* bytes left */
	uint32_t bi_idx, bi_bvec_done; /* for an iteration over the vectors; not used yet */
};

/*
 * The end of a bio.  Context: whoever reaps, no lock of the library held; must not block, and
 * calls only what is marked "any context".  It may take a mutex that is held for moments only,
 * by holders who wait for nothing and call nothing else of the library.
 */
typedef void iomap_bio_end_io_fn(struct iomap_bio *bio);

/*
 * One request (kernel: struct bio).  Members above the line are the submitter's, the
 * others the library's; a device may use bi_device[] from submit_bio to iomap_bio_endio().
 */
struct iomap_bio {
	struct iomap_bio *bi_next; /* free while the submitter owns the bio */
	struct iomap_bdev *bi_bdev;
	uint32_t bi_opf;    /* IOMAP_REQ_xxx */
	int32_t bi_status;  /* 0 or -errno; set before bi_end_io */
	struct iomap_bvec_iter bi_iter;
	iomap_bio_end_io_fn *bi_end_io;
	void *bi_private; /* bi_end_io's */
	struct iomap_bio_vec *bi_io_vec;
	uint32_t bi_vcnt;     /* vectors in use */
	uint32_t bi_max_vecs; /* vectors there is room for */
	/* -- library -- */
	struct iomap_bio_set *bi_pool;
	uint64_t bi_device[2];
	uint64_t bi_start_ns;
	uint64_t bi_internal[8];
};

/*
 * A source of bios with `front_pad` bytes of room in front of each (kernel: struct
 * bio_set).  Members are the library's.  Embed one and call iomap_bio_set_init().
 */
struct iomap_bio_set {
	struct iomap_engine *engine;
	size_t front_pad;
	void *pool;
	uint64_t reserved[4];
};

/** Most vectors that one bio can have. */
#define IOMAP_BIO_MAX_VECS 256U

/**
 * iomap_bio_set_init - prepare a bio set
 * @front_pad: bytes in front of each bio, kept aligned to 16
 * @nr_reserved: bios allocated now, so that as many can be in use without allocating
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_bio_set_init(struct iomap_bio_set *set,
						  struct iomap_engine *engine, size_t front_pad,
						  unsigned nr_reserved);
/**
 * iomap_bio_set_exit - free what is cached; no bio of the set may be in use
 *
 * Before the engine goes: iomap_engine_destroy() gives -EBUSY while there is a set.  One that is
 * zeroed, or has had its exit, is ignored.
 */
IOMAP_API void iomap_bio_set_exit(struct iomap_bio_set *set);

/**
 * iomap_bio_alloc - a bio from a set
 * @bdev: its device, whose engine is the set's
 * @nr_vecs: 0 to IOMAP_BIO_MAX_VECS; more than asked for may be given
 * @opf: IOMAP_REQ_xxx
 * @set: NULL: the engine's own
 *
 * Any context.  From a free list; allocates when that is empty.
 *
 * Return: a bio with all but bi_bdev, bi_opf and the vectors zero, or NULL.
 */
IOMAP_API struct iomap_bio *iomap_bio_alloc(struct iomap_bdev *bdev, unsigned nr_vecs, uint32_t opf,
					    struct iomap_bio_set *set);
/** iomap_bio_put - give a bio back; any context; NULL is ignored */
IOMAP_API void iomap_bio_put(struct iomap_bio *bio);

/**
 * iomap_bio_add - add memory to a bio
 *
 * Contiguous memory is put into one vector.  Any context.  @base must stay valid until
 * bi_end_io.
 *
 * Return: false when the bio has no room for it.
 */
IOMAP_API IOMAP_MUST_CHECK bool iomap_bio_add(struct iomap_bio *bio, void *base, size_t bytes);
/** iomap_bio_add_folio - add part of a folio (kernel: bio_add_folio) */
IOMAP_API IOMAP_MUST_CHECK bool iomap_bio_add_folio(struct iomap_bio *bio,
						    struct iomap_folio *folio, size_t len,
						    size_t off);
/**
 * iomap_bio_copy_in - copy into the bio's memory: a device that serves a read
 * @bio: from submit_bio to iomap_bio_endio()
 * @off: byte of the bio's data where to start
 * @from: the bytes
 * @len: how many; cut to what the bio holds behind @off
 *
 * The memory may be a folio that a copying reader still looks at, who will throw its copy
 * away.  This function knows how to store there; plain stores are the same to the machine,
 * but ThreadSanitizer would call them a race.  Any context.  Kernel: memcpy_to_bvec.
 *
 * Return: bytes copied.
 */
IOMAP_API size_t iomap_bio_copy_in(struct iomap_bio *bio, size_t off, const void *from,
				   size_t len);
/** iomap_bio_copy_out - copy out of the bio's memory: a device that serves a write; as above */
IOMAP_API size_t iomap_bio_copy_out(const struct iomap_bio *bio, size_t off, void *to, size_t len);
/** iomap_bio_end_sector - the sector after the last one */
IOMAP_API uint64_t iomap_bio_end_sector(const struct iomap_bio *bio);

/**
 * iomap_submit_bio - start a request
 *
 * Never fails itself: what is wrong (misaligned, outside the device, read-only; -ENODEV: the
 * device is gone) comes back in bi_status.  Does not wait for other requests: one that finds
 * its queue full is started as places come free.  Devices in memory, and files that refuse not
 * to block, do the I/O here, and so do block devices their discards where the backend has no
 * threads for it.  Starts nothing while the thread holds a plug that collects it
 * (iomap_start_plug()); of a bi_end_io's bios only POLLED ones may be.  Kernel: submit_bio.
 */
IOMAP_API void iomap_submit_bio(struct iomap_bio *bio);
/**
 * iomap_submit_bio_wait - start a request and wait for it
 *
 * Uses bi_end_io and bi_private.  The caller still owns the bio.  Blocks.
 *
 * Return: bi_status.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_submit_bio_wait(struct iomap_bio *bio);
/** iomap_bio_endio - complete a request (devices and hooks call it); any context */
IOMAP_API void iomap_bio_endio(struct iomap_bio *bio);
/**
 * iomap_bio_chain - a bio that ends as part of another one
 * @bio: the child: not submitted, bi_end_io and bi_private unset, put when it has ended
 * @parent: its bi_end_io runs when it and all bios chained to it have ended
 *
 * The first error of all of them is the parent's bi_status.  Each is submitted apart, in any
 * order and to any device, the parent as well; a parent may be the child of another one.  The
 * caller owns both.  At most a million children.  Any context.  Kernel: bio_chain.
 */
IOMAP_API void iomap_bio_chain(struct iomap_bio *bio, struct iomap_bio *parent);

/*
 * Several bios in one submission (kernel: struct blk_plug).  On the caller's stack; between
 * start and finish the thread's bios to files and block devices are collected, and go out
 * together at finish, when there are many, or when the thread waits in the library.
 *
 * Those that a bi_end_io submits are not, but for POLLED ones from the end of a POLLED one, in
 * the thread's own queue.  So a loop under one plug that waits, and whose ends submit more,
 * needs one system call a turn; and in between, while it computes, they wait as well.
 */
struct iomap_plug {
	struct iomap_bio *first, *last;
	unsigned count;
	bool nested;
	uint64_t reserved[4];
};
IOMAP_API void iomap_start_plug(struct iomap_plug *plug);
IOMAP_API void iomap_finish_plug(struct iomap_plug *plug);

#ifdef __cplusplus
}
#endif
#endif
