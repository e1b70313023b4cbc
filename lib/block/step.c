/* SPDX-License-Identifier: MIT */
/*
 * step.c - a request on a file as steps: flush, then data, each perhaps in several goes.
 *
 * Every backend issues one step at a time and hands its result to iomap__step_done(), which
 * says whether the request has ended.  It does not end by
 *   - a short transfer: the rest is asked for, until one comes back empty (-EIO: the file
 *     is shorter than when it was opened),
 *   - EINTR, or ECANCELED because the thread that submitted it has ended: asked for again,
 *   - EAGAIN: asked for again, a bounded number of times; not of a NOWAIT request.
 *
 * A device for which the kernel says ENODEV or ENXIO is gone; what it fails then is -ENODEV.
 *
 * Discarding and zeroing are one step.  On files it is fallocate(): a hole, or
 * FALLOC_FL_ZERO_RANGE, which keeps the space, and where the file system has none of that a
 * hole again.  On block devices BLKDISCARD, and FALLOC_FL_ZERO_RANGE, for which the kernel
 * writes zeros when the device has no command.  FUA is RWF_DSYNC: the kernel knows whether
 * the device has it, and flushes after the write where it has not.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "block/internal.h"

#define STEP_RETRIES_MAX 10000U

#ifndef RWF_ATOMIC
#define RWF_ATOMIC 0x00000040 /* Linux 6.11 */
#endif

static void step_begin_data(struct iomap__req *req)
{
	req->step = IOMAP__STEP_DATA;
	req->vec = 0;
	req->vec_done = 0;
	req->done = 0;
	req->retries = 0;
}

void iomap__step_init(struct iomap_bio *bio)
{
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bdev *bdev = bio->bi_bdev;

	step_begin_data(req);
	if (iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH || bio->bi_opf & IOMAP_REQ_PREFLUSH) {
		req->step = IOMAP__STEP_FLUSH;
		/* Writes that have ended by now are covered by the flush. */
		req->flush_generation =
			atomic_load_explicit(&bdev->written, memory_order_acquire);
	} else if (iomap__bio_op(bio) == IOMAP_REQ_OP_WRITE_ZEROES) {
		req->vec = iomap__load(&bdev->zero_by_holes);
	}
	iomap__stat_add(&bdev->engine->blk->stats, iomap__thread_self(), IOMAP__BLKSTAT_BIOS, 1);
}

struct iovec *iomap__step_vecs(struct iomap_bio *bio, struct iovec *partial, unsigned *nr,
			       uint64_t *pos)
{
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bio_vec *vec = &bio->bi_io_vec[req->vec];

	*pos = (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT) + req->done;
	if (req->vec_done) {
		partial->iov_base = (char *)vec->bv_base + req->vec_done;
		partial->iov_len = vec->bv_len - req->vec_done;
		*nr = 1;
		return partial;
	}
	*nr = bio->bi_vcnt - req->vec;
	return (struct iovec *)(void *)vec;
}

int iomap__step_rw_flags(const struct iomap_bio *bio)
{
	uint32_t opf = bio->bi_opf;

	return (opf & IOMAP_REQ_FUA ? RWF_DSYNC : 0) | (opf & IOMAP_REQ_NOWAIT ? RWF_NOWAIT : 0) |
	       (opf & IOMAP_REQ_ATOMIC ? RWF_ATOMIC : 0);
}

int iomap__step_fallocate_mode(struct iomap_bio *bio)
{
	bool hole = iomap__bio_op(bio) == IOMAP_REQ_OP_DISCARD || iomap__req(bio)->vec;

	return (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

static bool step_by_ioctl(const struct iomap_bio *bio)
{
	return iomap__bio_op(bio) == IOMAP_REQ_OP_DISCARD && bio->bi_bdev->block;
}

bool iomap__step_is_inline(const struct iomap_bio *bio)
{
	const struct iomap__backend *backend = bio->bi_bdev->engine->blk->backend;

	if (iomap__bio_op(bio) == IOMAP_REQ_OP_FLUSH || iomap__op_has_data(iomap__bio_op(bio)))
		return false;
	return step_by_ioctl(bio) ? !backend->takes_ioctl : !backend->takes_fallocate;
}

static int step_range_sync(struct iomap_bio *bio)
{
	uint64_t range[2] = { bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT, bio->bi_iter.bi_size };
	int fd = bio->bi_bdev->fd, ret;

	if (step_by_ioctl(bio))
		ret = ioctl(fd, BLKDISCARD, range);
	else
		ret = fallocate(fd, iomap__step_fallocate_mode(bio), (off_t)range[0],
				(off_t)range[1]);
	return ret ? -errno : 0;
}

int64_t iomap__step_sync(struct iomap_bio *bio)
{
	struct iovec partial, *vecs;
	struct iomap_bdev *bdev = bio->bi_bdev;
	ssize_t result;
	uint64_t pos;
	unsigned nr;

	iomap__count(syscalls_nr);
	if (iomap__req(bio)->step == IOMAP__STEP_FLUSH)
		return fdatasync(bdev->fd) ? -errno : 0;
	if (!iomap__op_has_data(iomap__bio_op(bio)))
		return step_range_sync(bio);
	vecs = iomap__step_vecs(bio, &partial, &nr, &pos);
	if (iomap__bio_op(bio) == IOMAP_REQ_OP_READ)
		result = preadv2(bdev->fd, vecs, (int)nr, (off_t)pos, iomap__step_rw_flags(bio));
	else
		result = pwritev2(bdev->fd, vecs, (int)nr, (off_t)pos, iomap__step_rw_flags(bio));
	return result < 0 ? -errno : result;
}

const char *iomap__op_name(unsigned op)
{
	switch (op) {
	case IOMAP_REQ_OP_READ:
		return "read";
	case IOMAP_REQ_OP_FLUSH:
		return "flush";
	case IOMAP_REQ_OP_DISCARD:
		return "discard";
	case IOMAP_REQ_OP_WRITE_ZEROES:
		return "zeroing";
	default:
		return "write";
	}
}

static const char *step_name(struct iomap_bio *bio)
{
	return iomap__op_name(iomap__req(bio)->step == IOMAP__STEP_FLUSH ? IOMAP_REQ_OP_FLUSH :
									   iomap__bio_op(bio));
}

static bool step_end(struct iomap_bio *bio, int error)
{
	struct iomap_bdev *bdev = bio->bi_bdev;
	bool read = iomap__bio_op(bio) == IOMAP_REQ_OP_READ;

	bio->bi_status = error;
	if (error)
		iomap__log(&bdev->engine->env, IOMAP_LOG_ERROR,
			   "%s: %s of %llu bytes at byte %llu failed: %s", bdev->name,
			   step_name(bio),
			   (unsigned long long)bio->bi_iter.bi_size,
			   (unsigned long long)(bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT),
			   strerror(-error));
	else if (iomap__op_has_data(iomap__bio_op(bio)) && bio->bi_iter.bi_size)
		iomap__stat_add(&bdev->engine->blk->stats, iomap__thread_self(),
				read ? IOMAP__BLKSTAT_READ_BYTES : IOMAP__BLKSTAT_WRITTEN_BYTES,
				bio->bi_iter.bi_size);
	return true;
}

static bool step_flush_done(struct iomap_bio *bio)
{
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bdev *bdev = bio->bi_bdev;

	iomap__stat_add(&bdev->engine->blk->stats, iomap__thread_self(), IOMAP__BLKSTAT_FLUSHES,
			1);
	iomap__bdev_flushed(bdev, req->flush_generation);
	if (!bio->bi_iter.bi_size)
		return step_end(bio, 0);
	step_begin_data(req);
	return false;
}

/* Move the position; the bytes moved end where a vector ends, or inside one. */
static void step_advance(struct iomap_bio *bio, uint64_t bytes)
{
	struct iomap__req *req = iomap__req(bio);

	req->done += bytes;
	while (bytes) {
		uint64_t left = bio->bi_io_vec[req->vec].bv_len - req->vec_done;

		if (bytes < left) {
			req->vec_done += bytes;
			return;
		}
		bytes -= left;
		req->vec++;
		req->vec_done = 0;
	}
}

/* The step has failed for a reason that says: again, in the same way or in another one. */
static bool step_again(struct iomap_bio *bio, int64_t result)
{
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bdev *bdev = bio->bi_bdev;

	if (result == -EOPNOTSUPP && iomap__bio_op(bio) == IOMAP_REQ_OP_WRITE_ZEROES &&
	    !bdev->block && !req->vec) {
		iomap__store(&bdev->zero_by_holes, true);
		req->vec = 1;
		return true;
	}
	if (result != -EINTR && result != -EAGAIN && result != -ECANCELED)
		return false;
	if (req->retries++ >= STEP_RETRIES_MAX)
		return false;
	if (result == -EAGAIN)
		sched_yield();
	return true;
}

/* What a test makes of the result. */
static int64_t step_faults(const struct iomap_queue_faults *faults, struct iomap_bio *bio,
			   int64_t result)
{
	struct iovec partial, *vecs;
	uint64_t pos, bytes = 0;
	unsigned nr, i;

	if (iomap__req(bio)->step == IOMAP__STEP_FLUSH)
		return faults->complete(faults->ctx, bio->bi_bdev, IOMAP_REQ_OP_FLUSH, 0, 0, result);
	if (!iomap__op_has_data(iomap__bio_op(bio)))
		return faults->complete(faults->ctx, bio->bi_bdev, iomap__bio_op(bio),
					bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT,
					bio->bi_iter.bi_size, result);
	vecs = iomap__step_vecs(bio, &partial, &nr, &pos);
	for (i = 0; i < nr; i++)
		bytes += vecs[i].iov_len;
	return faults->complete(faults->ctx, bio->bi_bdev, iomap__bio_op(bio), pos, bytes, result);
}

bool iomap__step_done(struct iomap_bio *bio, int64_t result)
{
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bdev *bdev = bio->bi_bdev;
	const struct iomap_queue_faults *faults = bdev->engine->opts.queue_faults;
	uint64_t bytes;

	if (iomap__unlikely(faults))
		result = step_faults(faults, bio, result);
	/* all of it at once, which most are */
	if (iomap__likely(req->step == IOMAP__STEP_DATA && result > 0 && !req->done &&
			  (uint64_t)result == bio->bi_iter.bi_size &&
			  iomap__op_has_data(iomap__bio_op(bio))))
		return step_end(bio, 0);
	/* not an error to tell: it says that it would have had to wait */
	if (bio->bi_opf & IOMAP_REQ_NOWAIT && (result == -EAGAIN || result == -EOPNOTSUPP)) {
		bio->bi_status = -EAGAIN;
		return true;
	}
	if (iomap__unlikely(result == -ENODEV || result == -ENXIO))
		iomap_bdev_set_gone(bdev);
	if (result < 0 && iomap__bdev_is_gone(bdev))
		return step_end(bio, -ENODEV);
	if (result < 0 && step_again(bio, result))
		return false;
	if (result == -EINTR || result == -ECANCELED)
		result = -EIO;
	if (result < 0)
		return step_end(bio, (int)result);
	if (req->step == IOMAP__STEP_FLUSH)
		return step_flush_done(bio);
	if (!iomap__op_has_data(iomap__bio_op(bio)))
		return step_end(bio, 0);

	bytes = (uint64_t)result;
	/* Direct I/O that ends inside a block has met the end of the file. */
	if (!bytes || bytes > bio->bi_iter.bi_size - req->done ||
	    (bdev->direct && bytes & (bdev->limits.logical_block_size - 1U)))
		return step_end(bio, -EIO);
	req->retries = 0;
	step_advance(bio, bytes);
	return req->done == bio->bi_iter.bi_size ? step_end(bio, 0) : false;
}
