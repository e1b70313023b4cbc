/* SPDX-License-Identifier: MIT */
/*
 * direct_end.c - the end of a direct I/O.
 *
 * The struct lies on the caller's stack: what a completion touches last is in_flight, and the
 * wake-up behind it uses only its address.
 *
 * Errors: a bio's failure is the whole call's, since nobody knows what reached the device
 * before it; an error of the callbacks leaves what came before it, as a short count.
 *
 * Locks: none of its own; the caller holds i_rwsem.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/dio.h"

void iomap_dio_bio_end_io(struct iomap_bio *bio)
{
	struct iomap__dio *dio = bio->bi_private;
	struct iomap__blk *blk = dio->blk;
	const uint32_t *word = &dio->in_flight;
	int32_t none = 0;

	if (bio->bi_status && __atomic_compare_exchange_n(&dio->error, &none, bio->bi_status, false,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		dio->error_bdev = bio->bi_bdev;
		dio->error_addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	}
	iomap_bio_put(bio);
	/* release: pairs with iomap__dio_wait(); from here on the address is only a key */
	if (iomap__fetch_sub(&dio->in_flight, 1) == 1)
		iomap__io_wake(blk, word);
}

void iomap__dio_wait(struct iomap__dio *dio)
{
	uint32_t nr;

	/* acquire: what completions have left, and what the devices have read */
	while ((nr = iomap__load_acquire(&dio->in_flight)))
		iomap__io_wait(dio->blk, &dio->in_flight, nr);
}

/* Bytes from ki_pos on that count. */
static int64_t dio_size(const struct iomap__dio *dio)
{
	int64_t start = dio->iocb->ki_pos, end = dio->iter.pos, size;
	uint64_t block = iomap_i_blocksize(dio->iter.inode);

	if (dio->write) {
		if (dio->open_tail)
			end = (int64_t)iomap__round_down((uint64_t)end, block);
	} else {
		/* a truncation that the caller's lock does not keep off */
		size = iomap__min(dio->i_size, iomap_i_size_read(dio->iter.inode));
		end = iomap__min(end, size);
	}
	return iomap__max(end - start, 0);
}

ssize_t iomap__dio_complete(struct iomap__dio *dio, int64_t end, int err)
{
	struct iomap_kiocb *iocb = dio->iocb;
	struct iomap_inode *inode = dio->iter.inode;
	int64_t start = iocb->ki_pos, size = dio_size(dio);

	if (dio->error) {
		iomap__log_io_error(inode, dio->write ? "direct write" : "direct read", start,
				    (uint64_t)(end - start), dio->error_bdev, dio->error_addr,
				    dio->error);
		err = dio->error;
	} else if (size) {
		err = 0;
	}
	if (dio->dops && dio->dops->end_io) {
		int ended;

		iomap__witness_assert_class("end_io", inode->i_class);
		ended = dio->dops->end_io(iocb, size, err, dio->flags);
		if (!err && ended < 0)
			err = ended;
	}
	if (dio->write)
		iomap__dio_drop_cache(dio, start, end);
	if (err)
		return err;
	iocb->ki_pos += size;
	return size;
}
