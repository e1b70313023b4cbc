/* SPDX-License-Identifier: MIT */
/*
 * smallstore.c - see smallstore.h.
 */
#include "smallstore.h"

#include <errno.h>
#include <string.h>

/* ---- the device ---- */

static void ss_dev_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct ss_dev *dev = iomap_bdev_private(bdev);

	if (dev->tf->in_order && !dev->tf->paused) {
		t_must(dev->ops_nr < SS_OPS);
		dev->op[dev->ops_nr++] = bio->bi_opf;
		if ((bio->bi_opf & IOMAP_REQ_OP_MASK) != IOMAP_REQ_OP_FLUSH &&
		    !(bio->bi_opf & (SS_WRITE_OUT | IOMAP_REQ_RAHEAD)) &&
		    !(dev->tf->where & (SS_IN_READ_FOLIO | SS_IN_READAHEAD)))
			dev->tf->where |= SS_PART;
	}
	bio->bi_bdev = dev->lower;
	iomap_submit_bio(bio);
}

static const struct iomap_bdev_ops ss_dev_ops = {
	.submit_bio = ss_dev_submit,
};

int ss_dev_open(struct ss_dev *dev, struct iomap_engine *engine, struct iomap_bdev *lower,
		struct tf *tf, uint32_t max_segments_nr)
{
	struct iomap_bdev_limits limits;

	dev->lower = lower;
	dev->tf = tf;
	dev->ops_nr = 0;
	iomap_bdev_limits(lower, &limits);
	if (max_segments_nr) {
		limits.max_segments_nr = max_segments_nr;
		limits.max_transfer_bytes = max_segments_nr * 4096ULL;
	}
	return iomap_bdev_create(engine, &ss_dev_ops, iomap_bdev_bytes(lower), &limits, dev,
				 &dev->bdev);
}

void ss_dev_io(struct ss_dev *dev, uint32_t op, uint64_t addr, void *memory, size_t bytes)
{
	struct iomap_bio *bio;

	tf_pause(dev->tf);
	bio = iomap_bio_alloc(dev->lower, 1, op, NULL);
	t_must(bio);
	bio->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	t_must(iomap_bio_add(bio, memory, bytes));
	t_must(iomap_submit_bio_wait(bio) == 0);
	iomap_bio_put(bio);
	tf_go_on(dev->tf);
}

/* ---- the extent map ---- */

static struct ss *ss_of(const struct iomap_inode *inode)
{
	return inode->i_private;
}

static void ss_enter(struct ss *ss, unsigned where)
{
	if (ss->tf->in_order)
		ss->tf->where |= where;
}

static void ss_leave(struct ss *ss, unsigned where)
{
	if (ss->tf->in_order)
		ss->tf->where &= ~where;
}

/* lock held */
static void ss_set(struct ss *ss, int64_t pos, int64_t end, enum ss_block from, enum ss_block to)
{
	uint64_t block = (uint64_t)pos >> ss->blkbits;
	uint64_t last = ((uint64_t)end + (1U << ss->blkbits) - 1) >> ss->blkbits;

	t_must(last <= ss->blocks_nr || to == SS_HOLE);
	for (; block < last && block < ss->blocks_nr; block++)
		if (ss->block[block] == from) {
			ss->block[block] = (uint8_t)to;
			__atomic_fetch_add(&ss->seq, 1, __ATOMIC_RELEASE);
		}
}

/* lock held */
static void ss_map(struct ss *ss, int64_t pos, struct iomap *iomap)
{
	static const uint16_t types[] = { IOMAP_HOLE, IOMAP_UNWRITTEN, IOMAP_MAPPED };
	uint64_t block = (uint64_t)pos >> ss->blkbits, end = block;
	uint8_t state = block < ss->blocks_nr ? ss->block[block] : SS_HOLE;

	iomap->offset = (int64_t)(block << ss->blkbits);
	iomap->validity_cookie = ss->seq;
	if (block >= ss->blocks_nr) {
		iomap->type = IOMAP_HOLE;
		iomap->addr = IOMAP_NULL_ADDR;
		iomap->length = (uint64_t)(INT64_MAX - iomap->offset);
		return;
	}
	while (end < ss->blocks_nr && ss->block[end] == state)
		end++;
	iomap->type = types[state];
	iomap->length = (end - block) << ss->blkbits;
	iomap->addr = state == SS_HOLE ? IOMAP_NULL_ADDR : ss->base + (uint64_t)iomap->offset;
	iomap->bdev = ss->dev->bdev;
}

static int ss_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		    struct iomap *iomap, struct iomap *srcmap)
{
	struct ss *ss = ss_of(inode);

	(void)srcmap;
	t_must(pthread_mutex_lock(&ss->lock) == 0);
	if (flags & IOMAP_WRITE)
		ss_set(ss, pos, pos + length, SS_HOLE, SS_UNWRITTEN);
	ss_map(ss, pos, iomap);
	t_must(pthread_mutex_unlock(&ss->lock) == 0);
	return 0;
}

const struct iomap_ops ss_ops = {
	.iomap_begin = ss_begin,
};

static bool ss_valid(struct iomap_inode *inode, const struct iomap *iomap)
{
	return iomap->validity_cookie == __atomic_load_n(&ss_of(inode)->seq, __ATOMIC_ACQUIRE);
}

static const struct iomap_write_ops ss_write_ops = {
	.iomap_valid = ss_valid,
};

static void ss_written(struct ss *ss, int64_t pos, int64_t end)
{
	t_must(pthread_mutex_lock(&ss->lock) == 0);
	ss_set(ss, pos & -((int64_t)1 << ss->blkbits), end, SS_UNWRITTEN, SS_WRITTEN);
	t_must(pthread_mutex_unlock(&ss->lock) == 0);
}

static int ss_dio_end(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	if (!error && size && flags & IOMAP_DIO_UNWRITTEN)
		ss_written(ss_of(iomap_file_inode(iocb->ki_filp)), iocb->ki_pos,
			   iocb->ki_pos + size);
	return 0;
}

const struct iomap_dio_ops ss_dio_ops = {
	.end_io = ss_dio_end,
};

/* ---- the cache ---- */

static int ss_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct ss *ss = ss_of(iomap_folio_inode(folio));
	int error;

	(void)file;
	ss_enter(ss, SS_IN_READ_FOLIO);
	error = iomap_bio_read_folio(folio, &ss_ops);
	ss_leave(ss, SS_IN_READ_FOLIO);
	return error;
}

static void ss_readahead(struct iomap_readahead_control *rac)
{
	struct ss *ss = ss_of(rac->mapping->host);

	ss_enter(ss, SS_IN_READAHEAD);
	iomap_bio_readahead(rac, &ss_ops);
	ss_leave(ss, SS_IN_READAHEAD);
}

static void ss_write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);

	if (!bio->bi_status)
		ss_written(ss_of(ioend->io_inode), ioend->io_offset,
			   ioend->io_offset + (int64_t)ioend->io_size);
	bio->bi_end_io = (iomap_bio_end_io_fn *)ioend->io_private;
	bio->bi_end_io(bio);
}

static int ss_writeback_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	if (ioend && !error) {
		ioend->io_private = (void *)ioend->io_bio.bi_end_io;
		ioend->io_bio.bi_end_io = ss_write_end;
		ioend->io_bio.bi_opf |= SS_WRITE_OUT;
	}
	return iomap_ioend_writeback_submit(wpc, error);
}

static ssize_t ss_writeback_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				  uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct ss *ss = ss_of(wpc->inode);

	t_must(pthread_mutex_lock(&ss->lock) == 0);
	ss_map(ss, (int64_t)pos, &wpc->iomap);
	t_must(pthread_mutex_unlock(&ss->lock) == 0);
	if (wpc->iomap.type == IOMAP_HOLE)
		return -EIO;
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops ss_writeback_ops = {
	.writeback_range = ss_writeback_range,
	.writeback_submit = ss_writeback_submit,
};

static int ss_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct ss *ss = ss_of(mapping->host);
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host,
		.wbc = wbc,
		.ops = &ss_writeback_ops,
	};
	int error;

	ss_enter(ss, SS_IN_WRITEPAGES);
	error = iomap_writepages(&wpc);
	ss_leave(ss, SS_IN_WRITEPAGES);
	return error;
}

static const struct iomap_address_space_operations ss_a_ops = {
	.read_folio = ss_read_folio,
	.readahead = ss_readahead,
	.writepages = ss_writepages,
};

/* ---- the inode ---- */

static int ss_open(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

static int ss_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	struct ss *ss = ss_of(inode);
	int64_t block = (int64_t)1 << ss->blkbits, keep = (new_size + block - 1) & -block;
	int error;

	error = iomap_truncate_page(inode, new_size < old_size ? new_size : old_size, NULL, &ss_ops,
				    &ss_write_ops, NULL);
	if (error)
		return error;
	iomap_truncate_setsize(inode, new_size);
	if (new_size > old_size)
		return 0;
	t_must(pthread_mutex_lock(&ss->lock) == 0);
	ss_set(ss, keep, (int64_t)(ss->blocks_nr << ss->blkbits), SS_UNWRITTEN, SS_HOLE);
	ss_set(ss, keep, (int64_t)(ss->blocks_nr << ss->blkbits), SS_WRITTEN, SS_HOLE);
	t_must(pthread_mutex_unlock(&ss->lock) == 0);
	return 0;
}

static const struct iomap_inode_ops ss_inode_ops = {
	.write = &ss_ops,
	.write_ops = &ss_write_ops,
	.dio_ops = &ss_dio_ops,
	.open = ss_open,
	.setsize = ss_setsize,
};

int ss_init(struct ss *ss, struct iomap_engine *engine, struct ss_dev *dev, uint64_t base,
	    uint64_t bytes, unsigned blkbits)
{
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &ss_a_ops,
		.i_op = &ss_inode_ops,
		.bdev = dev->bdev,
		.i_ino = base,
		.i_private = ss,
		.blkbits = blkbits,
	};
	int error;

	memset(ss, 0, sizeof(*ss));
	ss->dev = dev;
	ss->tf = dev->tf;
	ss->base = base;
	ss->blkbits = blkbits;
	ss->blocks_nr = bytes >> blkbits;
	ss->block = calloc(ss->blocks_nr, 1);
	t_must(ss->block && pthread_mutex_init(&ss->lock, NULL) == 0);
	error = iomap_inode_init(engine, &ss->inode, &args);
	if (error)
		ss_exit(ss);
	return error;
}

void ss_exit(struct ss *ss)
{
	pthread_mutex_destroy(&ss->lock);
	free(ss->block);
	ss->block = NULL;
}

enum ss_block ss_block_at(struct ss *ss, int64_t pos)
{
	enum ss_block state;

	t_must(pthread_mutex_lock(&ss->lock) == 0);
	state = ss->block[(uint64_t)pos >> ss->blkbits];
	t_must(pthread_mutex_unlock(&ss->lock) == 0);
	return state;
}
