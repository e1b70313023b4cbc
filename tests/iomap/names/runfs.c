/* SPDX-License-Identifier: MIT */
/*
 * runfs - a filesystem in the kernel's shape: a file is a list of runs of blocks.
 *
 * Kernel names only; what makes it compile here is the three includes below.  Blocks are
 * reserved when they are written to and get their place when they are written back, by a
 * pointer that moves up the device.  Nothing is kept on the device but data: this shows the
 * interface, not a disk format.
 *
 * The list of runs is under ri_lock, which is taken last and never held over a call.
 */
#include <iomap/linux_names.h>

#include <linux/falloc.h>

#include "compat.h"
#include "runfs.h"

enum runfs_state {
	RUNFS_RESERVED,
	RUNFS_PLACED,
};

struct runfs_run {
	struct list_head list;
	loff_t start;
	u64 len;
	sector_t sector;
	enum runfs_state state;
};

struct runfs_info {
	struct inode vfs_inode;
	struct block_device *bdev;
	spinlock_t ri_lock;
	struct list_head runs; /* by start */
	sector_t next_sector;  /* where the next block goes */
	u64 cookie;	       /* moves when a run changes its place or goes */
	struct runfs_stats stats;
	struct work_struct drop_work;
};

/* A range of a folio on its way in. */
struct runfs_read {
	struct folio *folio;
	size_t off;
	size_t len;
};

const fmode_t runfs_f_mode = FMODE_CAN_ODIRECT;

static struct runfs_info *RUNFS_I(struct inode *inode)
{
	return container_of(inode, struct runfs_info, vfs_inode);
}

#define runfs_count(info, member) \
	((void)__atomic_fetch_add(&(info)->stats.member, 1, __ATOMIC_RELAXED))

/* ---- runs ---- */

/* The run that covers @pos; else NULL, and *@next is where the next one starts. */
static struct runfs_run *runfs_find(struct runfs_info *ri, loff_t pos, loff_t *next)
{
	struct runfs_run *run;

	*next = LLONG_MAX;
	list_for_each_entry(run, &ri->runs, list)
	{
		if (pos < run->start) {
			*next = run->start;
			return NULL;
		}
		if (pos < run->start + (loff_t)run->len)
			return run;
	}
	return NULL;
}

static struct runfs_run *runfs_new_run(loff_t start, u64 len)
{
	struct runfs_run *run = kzalloc(sizeof(*run), GFP_NOFS);

	if (!run)
		return ERR_PTR(-ENOMEM);
	INIT_LIST_HEAD(&run->list);
	run->start = start;
	run->len = len;
	run->state = RUNFS_RESERVED;
	return run;
}

static void runfs_insert(struct runfs_info *ri, struct runfs_run *new)
{
	struct runfs_run *run;

	list_for_each_entry(run, &ri->runs, list) if (new->start < run->start) break;
	/* before the first one behind it; before the head when there is none */
	list_add_tail(&new->list, &run->list);
}

/* Reserved blocks of [pos, pos + length) go: nobody wrote to them. */
static void runfs_punch(struct inode *inode, loff_t pos, loff_t length, struct iomap *iomap)
{
	struct runfs_info *ri = RUNFS_I(inode);
	struct runfs_run *rest = runfs_new_run(pos + length, 0), *run, *n;
	loff_t end = pos + length;

	(void)iomap;
	runfs_count(ri, punches);
	/* without memory a run keeps what lies behind the area, and the area with it */
	spin_lock(&ri->ri_lock);
	list_for_each_entry_safe(run, n, &ri->runs, list)
	{
		loff_t run_end = run->start + (loff_t)run->len;

		if (run->state != RUNFS_RESERVED || run->start >= end || run_end <= pos)
			continue;
		if (run_end > end) {
			if (IS_ERR_OR_NULL(rest))
				continue;
			rest->len = (u64)(run_end - end);
			list_add(&rest->list, &run->list);
			rest = NULL;
		}
		if (run->start >= pos) {
			list_del_init(&run->list);
			kfree(run);
		} else {
			run->len = (u64)(pos - run->start);
		}
	}
	ri->cookie++;
	spin_unlock(&ri->ri_lock);
	kfree(IS_ERR(rest) ? NULL : rest);
}

static void runfs_fill(struct runfs_info *ri, const struct runfs_run *run, struct iomap *iomap)
{
	iomap->bdev = ri->bdev;
	iomap->offset = run->start;
	iomap->length = run->len;
	if (run->state == RUNFS_RESERVED) {
		iomap->type = IOMAP_DELALLOC;
		iomap->addr = IOMAP_NULL_ADDR;
	} else {
		iomap->type = IOMAP_MAPPED;
		iomap->addr = run->sector << SECTOR_SHIFT;
	}
}

/* ---- mappings ---- */

static int runfs_reserve(struct inode *inode, loff_t pos, loff_t end, struct iomap *iomap)
{
	struct runfs_info *ri = RUNFS_I(inode);
	loff_t start = round_down(pos, (loff_t)i_blocksize(inode));
	struct runfs_run *run;

	run = runfs_new_run(start, (u64)(end - start));
	if (IS_ERR(run))
		return PTR_ERR_OR_ZERO(run);
	spin_lock(&ri->ri_lock);
	runfs_insert(ri, run);
	runfs_fill(ri, run, iomap);
	iomap->validity_cookie = ri->cookie;
	spin_unlock(&ri->ri_lock);
	iomap->flags |= IOMAP_F_NEW;
	return 0;
}

static int runfs_iomap_begin(struct inode *inode, loff_t pos, loff_t length, unsigned flags,
			     struct iomap *iomap, struct iomap *srcmap)
{
	struct runfs_info *ri = RUNFS_I(inode);
	loff_t end = round_up(pos + length, (loff_t)i_blocksize(inode));
	struct runfs_run *run;
	loff_t next;

	(void)srcmap;
	runfs_count(ri, begins);
	spin_lock(&ri->ri_lock);
	run = runfs_find(ri, pos, &next);
	if (run)
		runfs_fill(ri, run, iomap);
	iomap->validity_cookie = ri->cookie;
	spin_unlock(&ri->ri_lock);
	if (run)
		return 0;

	if (flags & IOMAP_WRITE)
		return runfs_reserve(inode, pos, min_t(loff_t, end, next), iomap);
	iomap->type = IOMAP_HOLE;
	iomap->addr = IOMAP_NULL_ADDR;
	iomap->offset = pos;
	iomap->length = (u64)(min_t(loff_t, end, next) - pos);
	return 0;
}

static int runfs_iomap_end(struct inode *inode, loff_t pos, loff_t length, ssize_t written,
			   unsigned flags, struct iomap *iomap)
{
	loff_t end = round_up(pos + length, (loff_t)i_blocksize(inode));
	const iomap_punch_t punch = runfs_punch;

	runfs_count(RUNFS_I(inode), ends);
	if (!(flags & IOMAP_WRITE) || !(iomap->flags & IOMAP_F_NEW) || written == length)
		return 0;
	/* what the write did not get to must not stay reserved */
	iomap_write_delalloc_release(inode, pos + written, end, flags, iomap, punch);
	return 0;
}

static const struct iomap_ops runfs_iomap_ops = {
	.iomap_begin = runfs_iomap_begin,
	.iomap_end = runfs_iomap_end,
};

/* ---- folios of a write ---- */

static struct folio *runfs_get_folio(struct iomap_iter *iter, loff_t pos, unsigned len)
{
	struct runfs_info *ri = RUNFS_I(iter->inode);
	struct folio *folio;

	if (unlikely(ri->stats.fail_get)) {
		folio = ERR_PTR(-ri->stats.fail_get);
		ri->stats.fail_get = 0;
		return folio;
	}
	folio = iomap_get_folio(iter, pos, len);
	if (IS_ERR(folio))
		return ERR_CAST(folio);
	runfs_count(ri, gets);
	WARN_ON(!folio_test_locked(folio) || folio_inode(folio) != iter->inode);
	return folio;
}

static void runfs_put_folio(struct inode *inode, loff_t pos, unsigned copied, struct folio *folio)
{
	WARN_ON(offset_in_folio(folio, pos) + copied > folio_size(folio));
	runfs_count(RUNFS_I(inode), puts);
	folio_unlock(folio);
	folio_put(folio);
}

static bool runfs_iomap_valid(struct inode *inode, const struct iomap *iomap)
{
	struct runfs_info *ri = RUNFS_I(inode);
	bool valid;

	runfs_count(ri, valid_checks);
	spin_lock(&ri->ri_lock);
	valid = iomap->validity_cookie == ri->cookie;
	spin_unlock(&ri->ri_lock);
	return valid;
}

static sector_t runfs_sector(const struct iomap *iomap, loff_t pos)
{
	return (iomap->addr + (u64)(pos - iomap->offset)) >> SECTOR_SHIFT;
}

/* The part of a block that the write does not cover. */
static int runfs_read_folio_sync(const struct iomap_iter *iter, struct folio *folio, loff_t pos,
				 size_t len)
{
	const struct iomap *srcmap = iomap_iter_srcmap(iter);
	struct bio *bio;
	int error;

	runfs_count(RUNFS_I(iter->inode), block_reads);
	bio = bio_alloc(srcmap->bdev, 1, REQ_OP_READ | REQ_SYNC, GFP_NOFS);
	if (!bio)
		return -ENOMEM;
	bio->bi_iter.bi_sector = runfs_sector(srcmap, pos);
	error = -EIO;
	if (bio_add_folio(bio, folio, len, offset_in_folio(folio, pos)))
		error = submit_bio_wait(bio);
	bio_put(bio);
	return error;
}

static const struct iomap_write_ops runfs_write_ops = {
	.get_folio = runfs_get_folio,
	.put_folio = runfs_put_folio,
	.iomap_valid = runfs_iomap_valid,
	.read_folio_range = runfs_read_folio_sync,
};

/* ---- reads ---- */

static void runfs_read_end_io(struct bio *bio)
{
	struct runfs_read *read = bio->bi_private;
	blk_status_t status = bio->bi_status;

	WARN_ON(bio_op(bio) != REQ_OP_READ || bio_data_dir(bio) != READ);
	iomap_finish_folio_read(read->folio, read->off, read->len, blk_status_to_errno(status));
	kfree(read);
	bio_put(bio);
}

static int runfs_read_folio_range(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
				  size_t len)
{
	const struct iomap *iomap = &iter->iomap;
	struct runfs_read *read;
	struct bio *bio;

	read = kzalloc(sizeof(*read), GFP_NOFS);
	if (!read)
		return -ENOMEM;
	bio = bio_alloc_bioset(iomap->bdev, 1, REQ_OP_READ, GFP_NOFS, NULL);
	if (!bio)
		goto out_free;
	if (ctx->rac)
		bio->bi_opf |= REQ_RAHEAD;
	read->folio = ctx->cur_folio;
	read->off = offset_in_folio(ctx->cur_folio, iter->pos);
	read->len = len;
	bio->bi_iter.bi_sector = runfs_sector(iomap, iter->pos);
	bio->bi_private = read;
	bio->bi_end_io = runfs_read_end_io;
	if (!bio_add_folio(bio, read->folio, len, read->off))
		goto out_put;
	WARN_ON(bio_sectors(bio) != len >> SECTOR_SHIFT);
	runfs_count(RUNFS_I(iter->inode), folio_reads);
	submit_bio(bio);
	return 0;

out_put:
	bio_put(bio);
out_free:
	kfree(read);
	return -ENOMEM;
}

static void runfs_submit_read(struct iomap_read_folio_ctx *ctx)
{
	struct runfs_info *ri = ctx->read_ctx;

	runfs_count(ri, read_submits);
}

static const struct iomap_read_ops runfs_read_ops = {
	.read_folio_range = runfs_read_folio_range,
	.submit_read = runfs_submit_read,
};

static int runfs_read_folio(struct file *file, struct folio *folio)
{
	struct iomap_read_folio_ctx ctx = {
		.cur_folio = folio,
		.ops = &runfs_read_ops,
		.read_ctx = RUNFS_I(folio_inode(folio)),
	};

	(void)file;
	return iomap_read_folio(&runfs_iomap_ops, &ctx);
}

static void runfs_readahead(struct readahead_control *rac)
{
	struct iomap_read_folio_ctx ctx = {
		.rac = rac,
		.ops = &runfs_read_ops,
		.read_ctx = RUNFS_I(rac->mapping->host),
	};
	struct blk_plug plug;

	blk_start_plug(&plug);
	iomap_readahead(&runfs_iomap_ops, &ctx);
	blk_finish_plug(&plug);
}

/* ---- writeback ---- */

/*
 * Give [pos, pos + len) of the reserved run a place, and no more: what the write that reserved
 * it has not come to yet must go on reading as zeros.  Takes @placed and @rest where it has
 * use for them.  ri_lock is held.
 */
static struct runfs_run *runfs_place(struct runfs_info *ri, struct runfs_run *run,
				     struct runfs_run **placed, struct runfs_run **rest)
{
	struct runfs_run *new = *placed;
	loff_t run_end = run->start + (loff_t)run->len;
	loff_t end = min_t(loff_t, new->start + (loff_t) new->len, run_end);

	run->len = (u64)(new->start - run->start);
	new->len = (u64)(end - new->start);
	new->sector = ri->next_sector;
	new->state = RUNFS_PLACED;
	ri->next_sector += new->len >> SECTOR_SHIFT;
	runfs_insert(ri, new);
	*placed = NULL;
	if (end < run_end) {
		(*rest)->start = end;
		(*rest)->len = (u64)(run_end - end);
		runfs_insert(ri, *rest);
		*rest = NULL;
	}
	if (!run->len) {
		list_del_init(&run->list);
		kfree(run);
	}
	ri->cookie++;
	return new;
}

/* Map the dirty [pos, pos + len), or a part of it. */
static int runfs_map_dirty(struct runfs_info *ri, loff_t pos, unsigned len, struct iomap *iomap)
{
	struct runfs_run *placed = runfs_new_run(pos, len), *rest = runfs_new_run(pos, len), *run;
	int error = -EIO;
	loff_t next;

	if (IS_ERR(placed) || IS_ERR(rest)) {
		error = -ENOMEM;
		goto out;
	}
	spin_lock(&ri->ri_lock);
	run = runfs_find(ri, pos, &next);
	if (run && run->state == RUNFS_RESERVED)
		run = runfs_place(ri, run, &placed, &rest);
	if (run) {
		runfs_fill(ri, run, iomap);
		error = iomap->addr + iomap->length <= bdev_nr_bytes(ri->bdev) ? 0 : -ENOSPC;
	}
	spin_unlock(&ri->ri_lock);
out:
	kfree(IS_ERR(placed) ? NULL : placed);
	kfree(IS_ERR(rest) ? NULL : rest);
	return error;
}

static ssize_t runfs_writeback_range(struct iomap_writepage_ctx *wpc, struct folio *folio, u64 pos,
				     unsigned len, u64 end_pos)
{
	struct runfs_info *ri = RUNFS_I(wpc->inode);
	int error;

	runfs_count(ri, writeback_ranges);
	if ((loff_t)pos < wpc->iomap.offset ||
	    (loff_t)pos >= wpc->iomap.offset + (loff_t)wpc->iomap.length) {
		memset(&wpc->iomap, 0, sizeof(wpc->iomap));
		error = runfs_map_dirty(ri, (loff_t)pos, len, &wpc->iomap);
		if (error)
			return error;
	}
	return iomap_add_to_ioend(wpc, folio, (loff_t)pos, (loff_t)end_pos, len);
}

static int runfs_writeback_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	WARN_ON(ioend->io_inode != wpc->inode || !op_is_write(ioend->io_bio.bi_opf));
	runfs_count(RUNFS_I(wpc->inode), writeback_submits);
	return iomap_ioend_writeback_submit(wpc, error);
}

static const struct iomap_writeback_ops runfs_writeback_ops = {
	.writeback_range = runfs_writeback_range,
	.writeback_submit = runfs_writeback_submit,
};

static int runfs_writepages(struct address_space *mapping, struct writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host,
		.wbc = wbc,
		.ops = &runfs_writeback_ops,
	};

	WARN_ON(wbc->sync_mode != WB_SYNC_NONE && wbc->sync_mode != WB_SYNC_ALL);
	return iomap_writepages(&wpc);
}

static bool runfs_release_folio(struct folio *folio, gfp_t gfp)
{
	return iomap_release_folio(folio, gfp);
}

const struct address_space_operations runfs_aops = {
	.read_folio = runfs_read_folio,
	.writepages = runfs_writepages,
	.dirty_folio = iomap_dirty_folio,
	.readahead = runfs_readahead,
	.invalidate_folio = iomap_invalidate_folio,
	.release_folio = runfs_release_folio,
	.is_partially_uptodate = iomap_is_partially_uptodate,
};

/* ---- direct I/O ---- */

static int runfs_dio_end_io(struct kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct inode *inode = file_inode(iocb->ki_filp);

	(void)flags;
	if (error || size <= 0)
		return error;
	if (iocb->ki_pos + size > i_size_read(inode))
		i_size_write(inode, iocb->ki_pos + size);
	return 0;
}

static void runfs_dio_submit_io(const struct iomap_iter *iter, struct bio *bio, loff_t file_offset)
{
	(void)iter;
	(void)file_offset;
	submit_bio(bio);
}

static const struct iomap_dio_ops runfs_dio_ops = {
	.end_io = runfs_dio_end_io,
	.submit_io = runfs_dio_submit_io,
};

/* -ENOTBLK where space is only reserved: then it is the cache's. */
static ssize_t runfs_dio_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	unsigned long mask = (unsigned long)i_blocksize(inode) - 1;

	if (((unsigned long)iocb->ki_pos | iov_iter_alignment(from)) & mask)
		return -ENOTBLK;
	/* end_io moves i_size under the lock of the caller */
	return iomap_dio_rw(iocb, from, &runfs_iomap_ops, &runfs_dio_ops, IOMAP_DIO_FORCE_WAIT,
			    NULL, 0);
}

/* ---- the end of the file ---- */

/* No run reaches beyond @end any more. */
static void runfs_cut(struct runfs_info *ri, loff_t end)
{
	struct runfs_run *run, *n;

	spin_lock(&ri->ri_lock);
	list_for_each_entry_safe(run, n, &ri->runs, list)
	{
		if (run->start >= end) {
			list_del_init(&run->list);
			kfree(run);
		} else if (run->start + (loff_t)run->len > end) {
			run->len = (u64)(end - run->start);
		}
	}
	ri->cookie++;
	spin_unlock(&ri->ri_lock);
}

int runfs_setsize(struct inode *inode, loff_t oldsize, loff_t newsize)
{
	loff_t from = min_t(loff_t, oldsize, newsize);
	bool did_zero = false;
	int error;

	error = iomap_truncate_page(inode, from, &did_zero, &runfs_iomap_ops, &runfs_write_ops,
				    NULL);
	if (error)
		return error;
	/* for the names' sake: the caller has waited, and this one is none of its own */
	inode_dio_begin(inode);
	inode_dio_end(inode);
	inode_dio_wait(inode);
	truncate_setsize(inode, newsize);
	runfs_cut(RUNFS_I(inode), round_up(newsize, (loff_t)i_blocksize(inode)));
	/* for the names' sake: there is nothing left */
	truncate_pagecache(inode, newsize);
	truncate_pagecache_range(inode, newsize, LLONG_MAX);
	return 0;
}

/* ---- files ---- */

static ssize_t runfs_file_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret;

	if (WARN_ON(iov_iter_rw(to) != READ) || !is_sync_kiocb(iocb))
		return -EINVAL;
	inode_lock_shared(inode);
	if (iocb->ki_flags & IOCB_DIRECT)
		ret = iomap_dio_rw(iocb, to, &runfs_iomap_ops, NULL, 0, NULL, 0);
	else
		ret = generic_file_read_iter(iocb, to);
	inode_unlock_shared(inode);
	return ret;
}

static ssize_t runfs_file_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret;

	if (WARN_ON(iov_iter_rw(from) != WRITE))
		return -EINVAL;
	inode_lock(inode);
	ret = generic_write_checks(iocb, from);
	if (ret > 0) {
		bool direct = iocb->ki_flags & IOCB_DIRECT;

		ret = direct ? runfs_dio_write(iocb, from) : -ENOTBLK;
		if (ret == -ENOTBLK)
			ret = iomap_file_buffered_write(iocb, from, &runfs_iomap_ops,
							&runfs_write_ops, NULL);
	}
	inode_unlock(inode);
	if (ret > 0)
		ret = generic_write_sync(iocb, ret);
	return ret;
}

static int runfs_file_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	int error = generic_file_fsync(file, start, end, datasync);

	WARN_ON(!error && file_check_and_advance_wb_err(file) != 0);
	return error;
}

/* Zeros, by the cache; nothing is ever shared. */
static long runfs_file_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct inode *inode = file_inode(file);
	bool did_zero = false;
	int error = -EOPNOTSUPP;

	inode_lock(inode);
	inode_dio_wait(inode);
	filemap_invalidate_lock(inode->i_mapping);
	if (mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		error = iomap_zero_range(inode, offset, len, &did_zero, &runfs_iomap_ops,
					 &runfs_write_ops, NULL);
	if (mode == FALLOC_FL_UNSHARE_RANGE)
		error = iomap_file_unshare(inode, offset, len, &runfs_iomap_ops, &runfs_write_ops);
	filemap_invalidate_unlock(inode->i_mapping);
	inode_unlock(inode);
	return error;
}

const struct file_operations runfs_file_operations = {
	.read_iter = runfs_file_read_iter,
	.write_iter = runfs_file_write_iter,
	.fsync = runfs_file_fsync,
	.fallocate = runfs_file_fallocate,
};

/* Extents as the kernel would report them; -1: an error. */
int runfs_nr_extents(struct file *file)
{
	struct fiemap_extent_info info = { 0 };
	struct inode *inode = file_inode(file);
	int error;

	inode_lock_shared(inode);
	error = iomap_fiemap(inode, &info, 0, ~0ULL, &runfs_iomap_ops);
	inode_unlock_shared(inode);
	return error ? -1 : (int)info.fi_extents_mapped;
}

/* For the names' sake. */
int runfs_zero(struct file *file, loff_t offset, loff_t len)
{
	return vfs_fallocate(file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, len);
}

/* A file that says how many runs there are: a line, then zeros to the end of the buffer. */
static ssize_t runfs_info_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	char line[32];
	size_t len =
		(size_t)snprintf(line, sizeof(line), "%d runs\n", runfs_nr_runs(RUNFS_I(inode)));
	size_t done, skip = min_t(size_t, (size_t)iocb->ki_pos, len);

	iov_iter_truncate(to, PAGE_SIZE);
	done = copy_to_iter(line + skip, len - skip, to);
	done += iov_iter_zero(iov_iter_count(to), to);
	iocb->ki_pos += (loff_t)done;
	return (ssize_t)done;
}

static ssize_t runfs_info_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	char word[8] = "";
	size_t len = copy_from_iter(word, sizeof(word) - 1, from);

	/* the rest may be anything */
	iov_iter_advance(from, iov_iter_count(from));
	if (strcmp(word, "reset\n") != 0) {
		iov_iter_revert(from, len);
		return -EINVAL;
	}
	memset(&RUNFS_I(file_inode(iocb->ki_filp))->stats, 0, sizeof(struct runfs_stats));
	return (ssize_t)len;
}

const struct file_operations runfs_info_operations = {
	.read_iter = runfs_info_read_iter,
	.write_iter = runfs_info_write_iter,
};

/* ---- inodes ---- */

static void runfs_drop_work(struct work_struct *work)
{
	struct runfs_info *ri = container_of(work, struct runfs_info, drop_work);

	ri->stats.dropped_later += runfs_drop_cache(&ri->vfs_inode);
}

struct work_struct *runfs_drop(struct runfs_info *ri)
{
	return &ri->drop_work;
}

bool runfs_queue_drop(struct inode *inode)
{
	struct workqueue_struct *wq = inode->i_engine;

	return queue_work(wq, &RUNFS_I(inode)->drop_work);
}

struct runfs_info *runfs_alloc_inode(struct block_device *bdev)
{
	const work_func_t drop = runfs_drop_work;

	struct runfs_info *ri = kzalloc(sizeof(*ri), GFP_KERNEL);

	if (!ri)
		return NULL;
	spin_lock_init(&ri->ri_lock);
	INIT_LIST_HEAD(&ri->runs);
	INIT_WORK(&ri->drop_work, drop);
	ri->bdev = bdev;
	ri->next_sector = bdev_physical_block_size(bdev) >> SECTOR_SHIFT;
	return ri;
}

void runfs_free_inode(struct runfs_info *ri)
{
	while (!list_empty(&ri->runs)) {
		struct runfs_run *run = list_first_entry(&ri->runs, struct runfs_run, list);

		list_del(&run->list);
		kfree(run);
	}
	kfree(ri);
}

struct inode *runfs_vfs_inode(struct runfs_info *ri)
{
	return &ri->vfs_inode;
}

struct runfs_stats *runfs_stats(struct runfs_info *ri)
{
	return &ri->stats;
}

int runfs_commit_metadata(struct inode *inode, int datasync)
{
	struct runfs_info *ri = RUNFS_I(inode);

	(void)datasync;
	runfs_count(ri, commits);
	return blkdev_issue_flush(ri->bdev);
}

unsigned long runfs_drop_cache(struct inode *inode)
{
	unsigned long dropped;

	filemap_invalidate_lock(inode->i_mapping);
	dropped = invalidate_mapping_pages(inode->i_mapping, 0, (pgoff_t)-1);
	filemap_invalidate_unlock(inode->i_mapping);
	return dropped;
}

int runfs_nr_runs(struct runfs_info *ri)
{
	struct runfs_run *run;
	loff_t end = 0;
	int nr = 0;

	spin_lock(&ri->ri_lock);
	list_for_each_entry(run, &ri->runs, list)
	{
		if (run->start < end)
			nr = INT_MIN;
		end = run->start + (loff_t)run->len;
		nr++;
	}
	spin_unlock(&ri->ri_lock);
	return nr < 0 ? -1 : nr;
}

/* ---- helpers that runfs itself has no use for ---- */

#define runfs_expect(condition)          \
	do {                             \
		if (!(condition))        \
			return __LINE__; \
	} while (0)

static int runfs_check_lists(void)
{
	LIST_HEAD(a);
	LIST_HEAD(b);
	struct runfs_run r[4] = { 0 }, *run;
	struct list_head *pos, *n;
	u64 order = 0;

	for (u64 i = 0; i < ARRAY_SIZE(r); i++) {
		r[i].len = i + 1;
		list_add_tail(&r[i].list, i < 2 ? &a : &b);
	}
	runfs_expect(list_is_first(&r[0].list, &a) && list_is_last(&r[1].list, &a));
	list_splice_tail_init(&b, &a); /* 1 2 3 4 */
	runfs_expect(list_empty(&b));
	list_for_each_entry(run, &a, list) order = order * 10 + run->len;
	list_for_each_entry_reverse(run, &a, list) order = order * 10 + run->len;
	runfs_expect(order == 12344321);
	list_move(&r[2].list, &a);
	list_move_tail(&r[0].list, &a); /* 3 2 4 1 */
	runfs_expect(list_first_entry(&a, struct runfs_run, list) == &r[2]);
	runfs_expect(list_last_entry(&a, struct runfs_run, list) == &r[0]);
	runfs_expect(list_next_entry(&r[2], list) == &r[1]);
	runfs_expect(list_prev_entry(&r[3], list) == &r[1]);
	list_for_each_safe(pos, n, &a) if (list_entry(pos, struct runfs_run, list)->len > 1)
		list_del_init(pos);
	runfs_expect(list_is_singular(&a) && list_empty(&r[3].list));
	list_add(&r[3].list, &b);
	list_splice_init(&b, &a); /* 4 1 */
	runfs_expect(list_first_entry_or_null(&a, struct runfs_run, list) == &r[3]);
	runfs_expect(!list_first_entry_or_null(&b, struct runfs_run, list));
	order = 0;
	list_for_each(pos, &a) order++;
	runfs_expect(order == 2);
	return 0;
}

int runfs_check_helpers(void)
{
	runfs_expect(IS_ERR(ERR_PTR(-ENOSPC)) && PTR_ERR(ERR_PTR(-ENOSPC)) == -ENOSPC);
	runfs_expect(!IS_ERR(&runfs_aops) && PTR_ERR_OR_ZERO(&runfs_aops) == 0);
	runfs_expect(IS_ERR_OR_NULL(NULL) && PTR_ERR_OR_ZERO(ERR_PTR(-EIO)) == -EIO);
	runfs_expect(errno_to_blk_status(-ENOSPC) == BLK_STS_NOSPC);
	runfs_expect(blk_status_to_errno(BLK_STS_RESOURCE) == -ENOMEM);
	runfs_expect(round_up((u64)4097, 4096) == 8192 && round_down((s64)8191, 4096) == 4096);
	runfs_expect(max_t(u8, 3, 7) == 7 && likely(min_t(u32, 3, 7) == 3));
	runfs_expect((u64)PAGE_SIZE == 1ULL << PAGE_SHIFT && !(PAGE_SIZE & ~PAGE_MASK));
	return runfs_check_lists();
}
