/* SPDX-License-Identifier: MIT */
/*
 * shortforms.c - what tests of a test store say often, in a word.
 */
#include <errno.h>
#include <string.h>

#include "teststore.h"

void ts_write(struct ts *ts, int64_t pos, size_t len, unsigned seed)
{
	char *buf = malloc(len);
	ssize_t n;

	t_must(buf != NULL);
	t_fill(buf, len, pos, seed);
	n = iomap_write(ts->file, buf, len, pos);
	if (n != (ssize_t)len)
		fprintf(stderr, "iomap_write of %zu at %lld: %zd\n", len, (long long)pos, n);
	t_must(n == (ssize_t)len);
	free(buf);
}

ssize_t ts_buffered_write(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t n;

	iomap_iov_iter_init(&from, IOMAP_ITER_SOURCE, &iov, 1, len);
	iomap_kiocb_init(&iocb, ts->file, pos);
	iomap_inode_lock(&ts->inode);
	n = iomap_file_buffered_write(&iocb, &from, &ts->ops,
				      ts->cfg.with_write_ops ? &ts->write_ops : NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	if (n > 0)
		t_must(iocb.ki_pos == pos + n);
	return n;
}

static bool reads(struct ts *ts, int64_t pos, size_t len, bool pattern, unsigned seed)
{
	char *buf = malloc(len);
	ssize_t at, n;
	bool good;

	t_must(buf != NULL);
	memset(buf, 0x5a, len);
	n = iomap_read(ts->file, buf, len, pos);
	if (pattern) {
		at = n == (ssize_t)len ? t_mismatch(buf, len, pos, seed) : 0;
		good = at < 0;
		if (!good)
			fprintf(stderr, "read of %zu at %lld: returned %zd, differs at +%zd\n", len,
				(long long)pos, n, at);
	} else {
		good = n == (ssize_t)len && t_all(buf, len, (int)seed);
		if (!good)
			fprintf(stderr, "read of %zu at %lld: returned %zd, not all 0x%02x\n", len,
				(long long)pos, n, seed);
	}
	free(buf);
	return good;
}

bool ts_reads(struct ts *ts, int64_t pos, size_t len, unsigned seed)
{
	return reads(ts, pos, len, true, seed);
}

bool ts_reads_all(struct ts *ts, int64_t pos, size_t len, int value)
{
	return reads(ts, pos, len, false, (unsigned)value);
}

void ts_dev_fill(struct ts *ts, uint64_t addr, size_t len, int64_t pos, unsigned seed)
{
	t_lock(&ts->dev->gate);
	t_must(addr + len <= ts->dev->bytes);
	t_fill(ts->dev->mem + addr, len, pos, seed);
	t_unlock(&ts->dev->gate);
}

bool ts_dev_has(struct ts *ts, uint64_t addr, size_t len, int64_t pos, unsigned seed)
{
	ssize_t at;

	t_lock(&ts->dev->gate);
	t_must(addr + len <= ts->dev->bytes);
	at = t_mismatch(ts->dev->mem + addr, len, pos, seed);
	t_unlock(&ts->dev->gate);
	if (at >= 0)
		fprintf(stderr, "device at %llu, %zu bytes: differs at +%zd\n",
			(unsigned long long)addr, len, at);
	return at < 0;
}

bool ts_dev_all(struct ts *ts, uint64_t addr, size_t len, int value)
{
	bool yes;

	t_lock(&ts->dev->gate);
	t_must(addr + len <= ts->dev->bytes);
	yes = t_all(ts->dev->mem + addr, len, value);
	t_unlock(&ts->dev->gate);
	return yes;
}

void ts_poison(struct ts *ts)
{
	t_lock(&ts->dev->gate);
	memset(ts->dev->mem, TS_POISON, ts->dev->bytes);
	t_unlock(&ts->dev->gate);
}

void ts_drop(struct ts *ts)
{
	iomap_invalidate_inode_pages(&ts->inode, 0, INT64_MAX);
}

struct iomap_folio *ts_folio(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio =
		iomap_filemap_get_folio(&ts->inode.i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);

	t_must(folio != NULL);
	return folio;
}

bool ts_dirty(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);
	bool yes = iomap_folio_test_dirty(folio);

	iomap_folio_put(folio);
	return yes;
}

bool ts_uptodate(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);
	bool yes = iomap_folio_test_uptodate(folio);

	iomap_folio_put(folio);
	return yes;
}

bool ts_under_writeback(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);
	bool yes = iomap_folio_test_writeback(folio);

	iomap_folio_put(folio);
	return yes;
}

bool ts_blocks_uptodate(struct ts *ts, int64_t pos, size_t from, size_t count)
{
	struct iomap_folio *folio = ts_folio(ts, pos);
	bool yes;

	iomap_folio_lock(folio);
	yes = iomap_is_partially_uptodate(folio, from, count);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	return yes;
}

int ts_fsync(struct ts *ts)
{
	return iomap_file_fsync(ts->file, 0);
}

int ts_cow_begin(struct ts *ts, int64_t pos, int64_t length, unsigned flags, struct iomap *iomap,
		 struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length;
	if (!(flags & (IOMAP_WRITE | IOMAP_ZERO)) || !(iomap->flags & IOMAP_F_SHARED))
		return 0;
	/* it has to be in the cache before it has a place */
	if (flags & IOMAP_DIRECT)
		return -ENOTBLK;
	*srcmap = *iomap;
	iomap->type = IOMAP_DELALLOC;
	iomap->addr = IOMAP_NULL_ADDR;
	return 0;
}

int ts_allow_direct(struct ts *ts, struct iomap_file *file)
{
	(void)ts;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

void ts_convert(struct ts *ts, int64_t pos, int64_t end)
{
	int64_t block = (int64_t)1 << ts->args.blkbits;

	for (pos &= ~(block - 1); pos < end; pos += block) {
		struct ts_extent e = ts_lookup(ts, pos);

		if (e.type == IOMAP_UNWRITTEN)
			ts_map(ts, pos, (uint64_t)block, IOMAP_MAPPED, e.flags,
			       e.addr + (uint64_t)(pos - e.offset));
	}
}

int ts_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	if (!error && flags & IOMAP_DIO_UNWRITTEN)
		ts_convert(ts_of(iomap_file_inode(iocb->ki_filp)), iocb->ki_pos,
			   iocb->ki_pos + size);
	return 0;
}

int ts_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size)
{
	struct ts *ts = ts_of(inode);
	int64_t block = (int64_t)1 << ts->args.blkbits, keep;
	int err = iomap_truncate_page(inode, new_size < old_size ? new_size : old_size, NULL,
				      &ts->ops, ts->i_op.write_ops, NULL);

	if (err)
		return err;
	iomap_truncate_setsize(inode, new_size);
	keep = (new_size + block - 1) & ~(block - 1);
	if (new_size < old_size)
		ts_punch(ts, keep, 1ULL << 40);
	return 0;
}

/* Blocks of [pos, end), which are whole, in place of what is there; unwritten, or none. */
static void fallocate_replace(struct ts *ts, int64_t pos, int64_t end, bool unwritten)
{
	if (pos >= end)
		return;
	/* readers who ask from here on find nothing; what they have found before goes */
	ts_punch(ts, pos, (uint64_t)(end - pos));
	iomap_truncate_pagecache_range(&ts->inode, pos, end - 1);
	if (unwritten)
		ts_reserve(ts, pos, (uint64_t)(end - pos));
}

/* Zeros in [off, end): by the cache where it is a part of a block. */
static int fallocate_zero(struct ts *ts, int64_t off, int64_t end, bool unwritten)
{
	int64_t mask = ((int64_t)1 << ts->args.blkbits) - 1;
	int64_t first = (off + mask) & ~mask, last = end & ~mask;
	const struct iomap_write_ops *write_ops = ts->i_op.write_ops;
	int err;

	if (first > last)
		return iomap_zero_range(&ts->inode, off, end - off, NULL, &ts->ops, write_ops, NULL);
	err = iomap_zero_range(&ts->inode, off, first - off, NULL, &ts->ops, write_ops, NULL);
	if (!err)
		err = iomap_zero_range(&ts->inode, last, end - last, NULL, &ts->ops, write_ops,
				       NULL);
	if (!err)
		fallocate_replace(ts, first, last, unwritten);
	return err;
}

int ts_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len)
{
	struct ts *ts = ts_of(iomap_file_inode(file));
	int64_t mask = ((int64_t)1 << ts->args.blkbits) - 1;
	int64_t first = off & ~mask, last = (off + len + mask) & ~mask;
	int err = 0;

	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	if (mode & IOMAP_FALLOC_FL_PUNCH_HOLE)
		err = fallocate_zero(ts, off, off + len, false);
	else if (mode & IOMAP_FALLOC_FL_ZERO_RANGE)
		err = fallocate_zero(ts, off, off + len, true);
	else if (mode & IOMAP_FALLOC_FL_UNSHARE_RANGE)
		err = iomap_file_unshare(&ts->inode, off, len, &ts->ops, ts->i_op.write_ops);
	else
		ts_reserve(ts, first, (uint64_t)(last - first));
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	return err;
}
