/* SPDX-License-Identifier: MIT */
/*
 * store.c - a filesystem of three files on a device in memory, made to show mistakes.
 *
 * Blocks lie in no order, and one that was given back is likely to be somebody's soon, with
 * the bytes that it had.  At first they hold poison.  Space is unwritten until its data is
 * there (it is converted at the end of the I/O), or is chosen when the data is written; where
 * nobody else reads (one thread), it may be new instead.
 *
 * With a thread the device completes in any order; without, inside submit_bio.
 *
 * A block that is freed has no I/O under way: that is the library's promise to a truncation,
 * and a bio for a block that is nobody's ends the test.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "fm.h"

#define POISON 0xa5

/* ---- the device ---- */

static unsigned dev_op(const struct iomap_bio *bio)
{
	return bio->bi_opf & IOMAP_REQ_OP_MASK;
}

/* Gate not held. */
static void dev_complete(struct fm_dev *dev, struct iomap_bio *bio)
{
	uint64_t addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	uint64_t bytes = bio->bi_iter.bi_size;

	if (dev_op(bio) != IOMAP_REQ_OP_FLUSH) {
		t_lock(&dev->gate);
		t_must(addr + bytes <= dev->bytes);
		if (dev_op(bio) == IOMAP_REQ_OP_READ) {
			t_must(iomap_bio_copy_in(bio, 0, dev->mem + addr, bytes) == bytes);
		} else {
			t_must(dev_op(bio) == IOMAP_REQ_OP_WRITE);
			t_must(iomap_bio_copy_out(bio, 0, dev->mem + addr, bytes) == bytes);
		}
		t_unlock(&dev->gate);
	}
	bio->bi_status = 0;
	iomap_bio_endio(bio);
}

static long dev_main(void *arg)
{
	struct fm_dev *dev = arg;

	t_lock(&dev->gate);
	for (;;) {
		struct iomap_bio *bio;
		size_t i;

		while (!dev->queue_nr && !dev->stop)
			t_must(pthread_cond_wait(&dev->gate.cond, &dev->gate.lock) == 0);
		if (!dev->queue_nr)
			break;
		i = t_below(&dev->rand, dev->queue_nr);
		bio = dev->queue[i];
		dev->queue[i] = dev->queue[--dev->queue_nr];
		t_unlock(&dev->gate);
		dev_complete(dev, bio);
		t_lock(&dev->gate);
	}
	t_unlock(&dev->gate);
	return 0;
}

static void dev_check_owner(struct fm *fm, const struct iomap_bio *bio)
{
	uint64_t addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	uint64_t bytes = bio->bi_iter.bi_size;

	if (dev_op(bio) == IOMAP_REQ_OP_FLUSH)
		return;
	t_must(pthread_mutex_lock(&fm->map) == 0);
	for (uint64_t b = addr >> fm->setup.blkbits; b << fm->setup.blkbits < addr + bytes; b++)
		if (!fm->used[b])
			t_die(__FILE__, __LINE__, "the block of a bio is a file's");
	t_must(pthread_mutex_unlock(&fm->map) == 0);
}

/*
 * Of reads for f->failing, most: see failing_range().  And a read ahead that fails is nobody's
 * affair, who wants the bytes reads them again.
 */
static bool dev_fails(struct fm *fm, const struct iomap_bio *bio)
{
	bool fails = false;

	if (bio->bi_opf & (IOMAP_REQ_META | IOMAP_REQ_RAHEAD) && fm->setup.faults) {
		t_must(pthread_mutex_lock(&fm->map) == 0);
		fails = bio->bi_opf & IOMAP_REQ_META ? t_below(&fm->where, 4) > 0
						     : !t_below(&fm->where, 8);
		t_must(pthread_mutex_unlock(&fm->map) == 0);
	}
	return fails;
}

static void dev_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct fm *fm = iomap_bdev_private(bdev);
	struct fm_dev *dev = &fm->dev;

	dev_check_owner(fm, bio);
	if (dev_op(bio) == IOMAP_REQ_OP_READ && dev_fails(fm, bio)) {
		bio->bi_status = -EIO;
		iomap_bio_endio(bio);
		return;
	}
	if (!fm->setup.async) {
		dev_complete(dev, bio);
		return;
	}
	t_lock(&dev->gate);
	t_must(dev->queue_nr < sizeof(dev->queue) / sizeof(dev->queue[0]));
	dev->queue[dev->queue_nr++] = bio;
	t_wake(&dev->gate);
	t_unlock(&dev->gate);
}

static const struct iomap_bdev_ops dev_ops = { .submit_bio = dev_submit };

static void dev_open(struct fm *fm)
{
	struct fm_dev *dev = &fm->dev;

	dev->bytes = (uint64_t)fm->blocks_nr << fm->setup.blkbits;
	dev->mem = malloc(dev->bytes);
	t_must(dev->mem != NULL);
	memset(dev->mem, POISON, dev->bytes);
	t_gate_init(&dev->gate);
	dev->rand.state = fm->seed * 31 + fm->run;
	t_must(iomap_bdev_create(fm->engine, &dev_ops, dev->bytes, NULL, fm, &dev->bdev) == 0);
	if (fm->setup.async)
		t_start(&dev->thread, dev_main, dev);
}

static void dev_close(struct fm *fm)
{
	struct fm_dev *dev = &fm->dev;

	if (fm->setup.async) {
		t_lock(&dev->gate);
		dev->stop = true;
		t_wake(&dev->gate);
		t_unlock(&dev->gate);
		t_join(&dev->thread);
	}
	t_must(iomap_bdev_close(dev->bdev) == 0);
	t_gate_exit(&dev->gate);
	free(dev->mem);
}

/* ---- the map; all with fm->map held ---- */

static struct fm_file *file_of(struct iomap_inode *inode)
{
	return inode->i_private;
}

static void map_lock(struct fm_file *f)
{
	t_must(pthread_mutex_lock(&f->fm->map) == 0);
}

static void map_unlock(struct fm_file *f)
{
	t_must(pthread_mutex_unlock(&f->fm->map) == 0);
}

static bool space_is_free(const struct fm *fm, uint32_t b)
{
	return b < fm->blocks_nr && !fm->used[b];
}

/* Behind the block before, so that there are runs; else anywhere. */
static uint32_t space_take(struct fm *fm, uint32_t behind)
{
	uint32_t b = behind + 1;

	if (!space_is_free(fm, b))
		b = (uint32_t)t_below(&fm->where, fm->blocks_nr);
	for (uint32_t tries = 0; fm->used[b]; tries++) {
		t_must(tries < fm->blocks_nr);
		b = (b + 1) % fm->blocks_nr;
	}
	fm->used[b] = 1;
	return b;
}

static void block_give_space(struct fm_file *f, uint32_t at, enum fm_state state)
{
	struct fm_block *block = &f->block[at];
	uint32_t behind = at && f->block[at - 1].state >= FM_IS_UNWRITTEN ? f->block[at - 1].addr
									 : f->fm->blocks_nr;

	block->state = state;
	if (state >= FM_IS_UNWRITTEN)
		block->addr = space_take(f->fm, behind);
	f->seq++;
}

static bool goes_on(const struct fm_block *a, const struct fm_block *b)
{
	return a->state == b->state &&
	       (a->state < FM_IS_UNWRITTEN || a->addr + 1 == b->addr);
}

/* The mapping that covers block @at, of no block before @first. */
static void map_fill(struct fm_file *f, uint32_t at, uint32_t first, struct iomap *iomap)
{
	static const uint16_t types[] = { IOMAP_HOLE, IOMAP_DELALLOC, IOMAP_UNWRITTEN,
					  IOMAP_MAPPED };
	struct fm *fm = f->fm;
	uint32_t max = fm->setup.map_max ? fm->setup.map_max : fm->file_blocks, end = at + 1;

	while (at > first && end - at < max && goes_on(&f->block[at - 1], &f->block[at]))
		at--;
	while (end < fm->file_blocks && end - at < max &&
	       goes_on(&f->block[end - 1], &f->block[end]))
		end++;
	iomap->type = types[f->block[at].state];
	iomap->offset = (int64_t)at << fm->setup.blkbits;
	iomap->length = (uint64_t)(end - at) << fm->setup.blkbits;
	iomap->addr = f->block[at].state < FM_IS_UNWRITTEN
			      ? IOMAP_NULL_ADDR
			      : (uint64_t)f->block[at].addr << fm->setup.blkbits;
	iomap->bdev = fm->dev.bdev;
	iomap->validity_cookie = f->seq;
}

/* Space for a write from block @at on, up to what has some; how many blocks got it. */
static uint32_t map_alloc(struct fm_file *f, uint32_t at, uint32_t end, bool direct)
{
	enum fm_state state = f->fm->setup.alloc == FM_NEW	    ? FM_IS_MAPPED
			      : f->fm->setup.alloc == FM_DELALLOC && !direct ? FM_IS_DELALLOC
									     : FM_IS_UNWRITTEN;
	enum fm_state was = f->block[at].state;
	uint32_t first = at;

	if (was > (direct ? FM_IS_DELALLOC : FM_IS_HOLE))
		return 0;
	if (f->fm->setup.map_max && end - at > f->fm->setup.map_max)
		end = at + f->fm->setup.map_max;
	for (; at < end && at < f->fm->file_blocks && f->block[at].state == was; at++) {
		/* new blocks have to fit one mapping: of the next one they would be old */
		if (state == FM_IS_MAPPED && at > first &&
		    !space_is_free(f->fm, f->block[at - 1].addr + 1))
			break;
		block_give_space(f, at, state);
	}
	return at - first;
}

/* ---- callbacks ---- */

static long meddle_main(void *arg)
{
	struct fm_file *f = arg;

	t_must(iomap_sync_range(f->file, 0, INT64_MAX,
				IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER) == 0);
	iomap_invalidate_inode_pages(&f->inode, 0, INT64_MAX);
	return 0;
}

/*
 * Between the moment at which a write learns its mapping and that at which it has a folio another
 * thread writes out and drops all of the file, which may change the mapping.
 */
static void meddle_with(struct fm_file *f)
{
	struct t_task task;

	t_start(&task, meddle_main, f);
	t_join(&task);
}

static int fs_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		    struct iomap *iomap, struct iomap *srcmap)
{
	struct fm_file *f = file_of(inode);
	uint32_t bits = f->fm->setup.blkbits;
	int64_t at = pos >> bits, end = ((pos + length - 1) >> bits) + 1;
	uint32_t fresh = 0;
	bool meddle, yield;

	(void)srcmap;
	if (at >= f->fm->file_blocks) {
		t_must(!(flags & IOMAP_WRITE));
		iomap->offset = (int64_t)f->fm->file_blocks << bits;
		iomap->length = (1ULL << 62) - (uint64_t)iomap->offset;
		return 0;
	}
	if (end > f->fm->file_blocks)
		end = f->fm->file_blocks;
	map_lock(f);
	if (flags & IOMAP_WRITE)
		fresh = map_alloc(f, (uint32_t)at, (uint32_t)end, flags & IOMAP_DIRECT);
	map_fill(f, (uint32_t)at, fresh ? (uint32_t)at : 0, iomap);
	if (fresh && f->fm->setup.alloc == FM_NEW) {
		/* and no more than these */
		iomap->length = iomap->length < (uint64_t)fresh << bits ? iomap->length
									: (uint64_t)fresh << bits;
		iomap->flags |= IOMAP_F_NEW;
	}
	yield = !t_below(&f->fm->where, 4);
	meddle = flags & IOMAP_WRITE && !(flags & IOMAP_DIRECT) && !t_below(&f->fm->where, 24);
	map_unlock(f);
	/* so that others run while somebody is in the middle of something */
	if (yield)
		sched_yield();
	if (meddle)
		meddle_with(f);
	return 0;
}

const struct iomap_ops fm_ops = { .iomap_begin = fs_begin };

static bool fs_valid(struct iomap_inode *inode, const struct iomap *iomap)
{
	struct fm_file *f = file_of(inode);
	bool valid;

	map_lock(f);
	valid = iomap->validity_cookie == f->seq;
	map_unlock(f);
	return valid;
}

static struct iomap_folio *fs_get_folio(struct iomap_iter *iter, int64_t pos, unsigned len)
{
	return iomap_get_folio(iter, pos, len);
}

static void fs_put_folio(struct iomap_inode *inode, int64_t pos, unsigned copied,
			 struct iomap_folio *folio)
{
	(void)inode, (void)pos, (void)copied;
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
}

static const struct iomap_write_ops write_ops[] = {
	{ .iomap_valid = fs_valid },
	{ .iomap_valid = fs_valid, .get_folio = fs_get_folio, .put_folio = fs_put_folio },
};

const struct iomap_write_ops *fm_write_ops(const struct fm *fm)
{
	/* a mapping that nothing but its own operation changes needs no second look */
	return fm->setup.alloc == FM_NEW ? NULL : &write_ops[fm->setup.hooks];
}

/* What the device shall know of a read for f->failing, whichever thread sends it, it has in the bio. */
static int failing_range(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx, size_t len)
{
	int err = iomap_bio_read_folio_range(iter, ctx, len);
	struct iomap_bio *bio = ctx->read_ctx;

	if (bio)
		bio->bi_opf |= IOMAP_REQ_META;
	return err;
}

static const struct iomap_read_ops failing_ops = {
	.read_folio_range = failing_range,
	.submit_read = iomap_bio_submit_read,
};

static const struct iomap_read_ops *read_ops(const struct iomap_file *file)
{
	return file && file == file_of(iomap_file_inode(file))->failing ? &failing_ops
									: &iomap_bio_read_ops;
}

static int fs_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct iomap_read_folio_ctx ctx = { .ops = read_ops(file), .cur_folio = folio };

	return iomap_read_folio(&fm_ops, &ctx);
}

static void fs_readahead(struct iomap_readahead_control *rac)
{
	struct iomap_read_folio_ctx ctx = { .ops = read_ops(rac->file), .rac = rac };

	t_must(iomap_readahead(&fm_ops, &ctx) == 0);
}

static void convert(struct fm_file *f, int64_t pos, int64_t limit)
{
	uint32_t bits = f->fm->setup.blkbits;

	map_lock(f);
	for (int64_t at = pos >> bits; at << bits < limit; at++) {
		t_must(f->punching || f->block[at].state >= FM_IS_UNWRITTEN);
		if (f->block[at].state >= FM_IS_UNWRITTEN)
			f->block[at].state = FM_IS_MAPPED;
	}
	f->seq++;
	map_unlock(f);
}

static ssize_t fs_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			unsigned len, uint64_t end_pos)
{
	struct fm_file *f = file_of(wpc->inode);
	uint32_t bits = f->fm->setup.blkbits, at = (uint32_t)(pos >> bits);
	uint32_t end = (uint32_t)((pos + len - 1) >> bits) + 1;

	map_lock(f);
	t_must(f->punching || f->block[at].state != FM_IS_HOLE);
	if (f->block[at].state == FM_IS_HOLE) {
		/* what has been punched is not written */
		while (++at < end && f->block[at].state == FM_IS_HOLE)
			;
		map_unlock(f);
		end_pos = (uint64_t)at << bits;
		return (ssize_t)(end_pos < pos + len ? end_pos - pos : len);
	}
	for (uint32_t b = at; b < end && f->block[b].state == FM_IS_DELALLOC; b++)
		block_give_space(f, b, FM_IS_UNWRITTEN);
	map_fill(f, at, 0, &wpc->iomap);
	map_unlock(f);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static void write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);

	if (ioend->io_flags & IOMAP_IOEND_UNWRITTEN)
		convert(file_of(ioend->io_inode), ioend->io_offset,
			ioend->io_offset + (int64_t)ioend->io_size);
	bio->bi_end_io = (iomap_bio_end_io_fn *)ioend->io_private;
	bio->bi_end_io(bio);
}

static int fs_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	if (ioend && !error) {
		ioend->io_private = (void *)ioend->io_bio.bi_end_io;
		ioend->io_bio.bi_end_io = write_end;
	}
	return iomap_ioend_writeback_submit(wpc, error);
}

static const struct iomap_writeback_ops wb_ops = {
	.writeback_range = fs_range,
	.writeback_submit = fs_submit,
};

static int fs_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &wb_ops };

	return iomap_writepages(&wpc);
}

static const struct iomap_address_space_operations fs_aops = {
	.read_folio = fs_read_folio,
	.readahead = fs_readahead,
	.writepages = fs_writepages,
};

static int fs_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	/* of a read that comes upon delayed space: the cache has the data */
	if (error && (error != -ENOTBLK || flags & IOMAP_DIO_UNWRITTEN)) {
		fprintf(stderr, "direct I/O of %zd bytes at %lld: %d\n", size,
			(long long)iocb->ki_pos, error);
		t_die(__FILE__, __LINE__, "the device does all");
	}
	if (size > 0 && flags & IOMAP_DIO_UNWRITTEN)
		convert(file_of(iomap_file_inode(iocb->ki_filp)), iocb->ki_pos,
			iocb->ki_pos + size);
	return 0;
}

static const struct iomap_dio_ops dio_ops = { .end_io = fs_dio_end_io };

static int fs_setsize(struct iomap_inode *inode, int64_t old_size, int64_t size)
{
	struct fm_file *f = file_of(inode);
	uint32_t bits = f->fm->setup.blkbits;
	int err = iomap_truncate_page(inode, size < old_size ? size : old_size, NULL, &fm_ops,
				      fm_write_ops(f->fm), NULL);

	if (err)
		return err;
	iomap_truncate_setsize(inode, size);
	map_lock(f);
	for (int64_t at = (size + (1 << bits) - 1) >> bits; at < f->fm->file_blocks; at++) {
		if (f->block[at].state >= FM_IS_UNWRITTEN)
			f->fm->used[f->block[at].addr] = 0;
		f->block[at].state = FM_IS_HOLE;
	}
	f->seq++;
	map_unlock(f);
	return 0;
}

/* Whole blocks of the range become a hole: the map, the cache, and then the blocks. */
static void punch_blocks(struct fm_file *f, int64_t start, int64_t end)
{
	uint32_t bits = f->fm->setup.blkbits, first = (uint32_t)(start >> bits);
	uint32_t last = (uint32_t)(end >> bits);
	struct fm_block *gone = malloc((last - first) * sizeof(*gone));

	t_must(gone != NULL);
	map_lock(f);
	memcpy(gone, f->block + first, (last - first) * sizeof(*gone));
	for (uint32_t at = first; at < last; at++)
		f->block[at].state = FM_IS_HOLE;
	f->seq++;
	f->punching = true;
	map_unlock(f);
	iomap_truncate_pagecache_range(&f->inode, start, end - 1);
	map_lock(f);
	for (uint32_t i = 0; i < last - first; i++)
		if (gone[i].state >= FM_IS_UNWRITTEN)
			f->fm->used[gone[i].addr] = 0;
	f->punching = false;
	map_unlock(f);
	free(gone);
}

static int fs_zero(struct fm_file *f, int64_t pos, int64_t end)
{
	return iomap_zero_range(&f->inode, pos, end - pos, NULL, &fm_ops, fm_write_ops(f->fm), NULL);
}

static int fs_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct iomap_inode *inode = iomap_file_inode(file);
	struct fm_file *f = file_of(inode);
	int64_t block = (int64_t)1 << f->fm->setup.blkbits, end = off + len;
	int64_t first = (off + block - 1) / block * block, last = end / block * block;
	int err;

	iomap_filemap_invalidate_lock(&inode->i_data);
	if (!(mode & IOMAP_FALLOC_FL_PUNCH_HOLE) || first >= last) {
		err = fs_zero(f, off, end);
	} else {
		err = fs_zero(f, off, first);
		if (!err)
			err = fs_zero(f, last, end);
		if (!err)
			punch_blocks(f, first, last);
	}
	iomap_filemap_invalidate_unlock(&inode->i_data);
	return err;
}

static int fs_open(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}


/* ---- for the operations ---- */

bool fm_has_space(struct fm_file *f, int64_t pos, int64_t limit)
{
	uint32_t bits = f->fm->setup.blkbits;
	bool has = true;

	map_lock(f);
	for (int64_t at = pos >> bits; at << bits < limit; at++)
		has = has && f->block[at].state != FM_IS_HOLE;
	map_unlock(f);
	return has;
}

void fm_device_bytes(struct fm_file *f, int64_t pos, size_t len, unsigned char *out)
{
	uint32_t bits = f->fm->setup.blkbits;
	size_t done = 0;

	map_lock(f);
	t_lock(&f->fm->dev.gate);
	while (done < len) {
		const struct fm_block *block = &f->block[(pos + (int64_t)done) >> bits];
		size_t off = (size_t)(pos + (int64_t)done) & (((size_t)1 << bits) - 1);
		size_t n = ((size_t)1 << bits) - off;

		if (n > len - done)
			n = len - done;
		if (block->state == FM_IS_MAPPED)
			memcpy(out + done, f->fm->dev.mem + ((size_t)block->addr << bits) + off, n);
		else
			memset(out + done, 0, n);
		done += n;
	}
	t_unlock(&f->fm->dev.gate);
	map_unlock(f);
}

/* ---- life ---- */

/* The size is the model's: the first time and after all has been forgotten. */
void fm_file_open(struct fm_file *f)
{
	struct fm *fm = f->fm;
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &fs_aops,
		.i_op = &f->i_op,
		.i_size = f->size,
		.i_maxbytes = fm->setup.bytes_max,
		.i_ino = f->nr,
		.i_private = f,
		.bdev = fm->dev.bdev,
		.blkbits = fm->setup.blkbits,
	};

	f->i_op = (struct iomap_inode_ops){
		.write = &fm_ops,
		.write_ops = fm_write_ops(fm),
		.dio_ops = &dio_ops,
		.open = fs_open,
		.fallocate = fs_fallocate,
		.setsize = fm->setup.own_setsize ? fs_setsize : NULL,
	};
	t_must(iomap_inode_init(fm->engine, &f->inode, &args) == 0);
	if (fm->setup.order)
		t_must(iomap_mapping_set_large_folios(&f->inode.i_data) == 0);
	t_must(iomap_file_open(&f->inode, 0, &f->file) == 0);
	t_must(iomap_file_open(&f->inode, IOMAP_O_APPEND, &f->append) == 0);
	t_must(iomap_file_open(&f->inode, IOMAP_O_DSYNC, &f->dsync) == 0);
	t_must(iomap_file_open(&f->inode, IOMAP_O_DIRECT, &f->direct) == 0);
	t_must(iomap_file_open(&f->inode, 0, &f->failing) == 0);
}

void fm_file_close(struct fm_file *f)
{
	t_must(iomap_file_close(f->file) == 0);
	t_must(iomap_file_close(f->append) == 0);
	t_must(iomap_file_close(f->dsync) == 0);
	t_must(iomap_file_close(f->direct) == 0);
	t_must(iomap_file_close(f->failing) == 0);
	t_must(iomap_inode_destroy(&f->inode, 0) == 0);
}

void fm_store_open(struct fm *fm)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = fm->setup.cache_bytes;
	opts.max_folio_bytes = IOMAP_PAGE_SIZE << fm->setup.order;
	opts.max_callers = 2 * fm->setup.threads + 1;
	opts.flags = fm->setup.flusher ? 0 : IOMAP_ENGINE_NO_THREADS;
	/* soon, so that it writes what is being changed */
	opts.dirty_expire_ms = 2;
	opts.flush_interval_ms = 1;
	t_log_init(&fm->log);
	fm->engine = t_engine(&opts, &fm->log);
	t_must(pthread_mutex_init(&fm->map, NULL) == 0);
	fm->file_blocks = (uint32_t)((fm->setup.bytes_max >> fm->setup.blkbits) + 1);
	/* little more than there must be: what one gives back another one gets */
	fm->blocks_nr = fm->file_blocks * FM_FILES + fm->file_blocks / 4 + 1;
	fm->used = calloc(fm->blocks_nr, 1);
	t_must(fm->used != NULL);
	fm->where.state = fm->seed + fm->run * 77;
	dev_open(fm);
	for (unsigned i = 0; i < FM_FILES; i++) {
		struct fm_file *f = &fm->file[i];

		f->fm = fm;
		f->nr = i;
		f->block = calloc(fm->file_blocks, sizeof(*f->block));
		f->model = calloc((size_t)fm->file_blocks, (size_t)1 << fm->setup.blkbits);
		t_must(f->block && f->model);
		t_gate_init(&f->gate);
		fm_file_open(f);
	}
}

void fm_store_close(struct fm *fm)
{
	for (unsigned i = 0; i < FM_FILES; i++) {
		fm_file_close(&fm->file[i]);
		t_gate_exit(&fm->file[i].gate);
		free(fm->file[i].block);
		free(fm->file[i].model);
	}
	dev_close(fm);
	t_must(iomap_engine_destroy(fm->engine) == 0);
	t_must(fm->setup.faults || t_log_count(&fm->log, IOMAP_LOG_ERROR, NULL) == 0);
	t_must(pthread_mutex_destroy(&fm->map) == 0);
	free(fm->used);
}
