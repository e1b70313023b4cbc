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
