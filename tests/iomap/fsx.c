/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * fsx.c - TR, DR, DW: random writes, reads, truncations and syncs of one file, by the cache and
 * past it, against a copy in memory.
 *
 * The device is full of rubbish, and places are drawn near blocks, pages, the end of the file
 * and the bound: what goes wrong there shows as a byte that was never written, or was.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_MAX (60 * KIB + 3) /* i_maxbytes */
#define STEPS (T_SANITIZED ? 150U : 600U)

struct fsx {
	struct ts *ts;
	struct iomap_file *direct;
	struct t_rand r;
	int64_t size;
	unsigned char *model, *buf; /* model: zero beyond size */
	char did[128];
};

/* ---- steps ---- */

/* Where something may go wrong. */
static int64_t place(struct fsx *f)
{
	int64_t block = (int64_t)1 << f->ts->args.blkbits, at, span = FILE_MAX;

	switch (t_below(&f->r, 6)) {
	case 0:
		at = (int64_t)t_below(&f->r, (uint64_t)(span / block + 1)) * block;
		break;
	case 1:
		at = (int64_t)t_below(&f->r, (uint64_t)(span / 4096 + 1)) * 4096;
		break;
	case 2:
		at = f->size;
		break;
	case 3:
		return (int64_t)t_below(&f->r, 8 * KIB);
	default:
		return (int64_t)t_below(&f->r, (uint64_t)span + 1);
	}
	at += (int64_t)t_below(&f->r, 3) - 1;
	return at < 0 ? 0 : at > span ? span : at;
}

static void write_some(struct fsx *f, struct iomap_file *file, int64_t unit)
{
	int64_t pos = place(f) / unit * unit;
	size_t len = (size_t)((1 + (int64_t)t_below(&f->r, 12 * KIB) / unit) * unit), want = len;
	ssize_t ret;

	if (pos >= FILE_MAX)
		return;
	if (pos + (int64_t)len > FILE_MAX)
		want = (size_t)(FILE_MAX - pos);
	if (want % (size_t)unit)
		return;
	for (size_t i = 0; i < len; i++)
		f->buf[i] = (unsigned char)(1 + t_rand(&f->r) % 100);
	sprintf(f->did, "write %lld+%zu by %lld", (long long)pos, len, (long long)unit);
	ret = iomap_write(file, f->buf, len, pos);
	cr_assert_eq(ret, (ssize_t)want, "%s: %zd", f->did, ret);
	memcpy(f->model + pos, f->buf, want);
	if (pos + (int64_t)want > f->size)
		f->size = pos + (int64_t)want;
}

static void read_some(struct fsx *f, struct iomap_file *file, int64_t unit)
{
	int64_t pos = place(f) / unit * unit, left = f->size > pos ? f->size - pos : 0;
	size_t len = (size_t)((1 + (int64_t)t_below(&f->r, 20 * KIB) / unit) * unit);
	size_t want = (int64_t)len < left ? len : (size_t)left;
	ssize_t ret;

	memset(f->buf, 0xee, len);
	ret = iomap_read(file, f->buf, len, pos);
	cr_assert_eq(ret, (ssize_t)want, "read %lld+%zu by %lld of %lld: %zd; %s", (long long)pos,
		     len, (long long)unit, (long long)f->size, ret, f->did);
	for (size_t i = 0; i < want; i++)
		cr_assert_eq(f->buf[i], f->model[pos + (int64_t)i],
			     "byte %lld of %lld is %#x, not %#x; read %lld+%zu by %lld; %s",
			     (long long)pos + (long long)i, (long long)f->size, f->buf[i],
			     f->model[pos + (int64_t)i], (long long)pos, len, (long long)unit,
			     f->did);
}

static void truncate_some(struct fsx *f)
{
	int64_t size = place(f);

	sprintf(f->did, "truncate %lld to %lld", (long long)f->size, (long long)size);
	cr_assert_eq(iomap_truncate(f->ts->file, size), 0);
	if (size < f->size)
		memset(f->model + size, 0, (size_t)(f->size - size));
	f->size = size;
	cr_assert_eq(iomap_i_size_read(&f->ts->inode), size);
}

/* By itself it zeroes what is in the file too. */
static void truncate_page(struct fsx *f)
{
	int64_t pos = place(f), block = (int64_t)1 << f->ts->args.blkbits;
	int64_t end = (pos + block - 1) & ~(block - 1);

	if (pos > f->size)
		return;
	sprintf(f->did, "truncate_page %lld", (long long)pos);
	iomap_inode_lock(&f->ts->inode);
	cr_assert_eq(iomap_truncate_page(&f->ts->inode, pos, NULL, &f->ts->ops,
					 f->ts->i_op.write_ops, NULL),
		     0);
	iomap_inode_unlock(&f->ts->inode);
	memset(f->model + pos, 0, (size_t)(end - pos));
}

static void step(struct fsx *f)
{
	switch (t_below(&f->r, 16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		write_some(f, f->ts->file, 1);
		break;
	case 4:
	case 5:
		write_some(f, f->direct, 512);
		break;
	case 6:
	case 7:
		truncate_some(f);
		break;
	case 8:
		truncate_page(f);
		break;
	case 9:
		cr_assert_eq(ts_fsync(f->ts), 0);
		break;
	case 10:
		ts_drop(f->ts);
		break;
	case 11: {
		int64_t pos = place(f), len = 1 + (int64_t)t_below(&f->r, 8 * KIB);

		cr_assert_eq(iomap_sync_range(f->ts->file, pos, pos + len, 0), 0);
		break;
	}
	case 12:
	case 13:
		read_some(f, f->direct, 512);
		break;
	default:
		read_some(f, f->ts->file, 1);
		break;
	}
	cr_assert_eq(iomap_i_size_read(&f->ts->inode), f->size, "%s", f->did);
}

static void check_all(struct fsx *f)
{
	for (int way = 0; way < 3; way++) {
		struct iomap_file *file = way == 1 ? f->direct : f->ts->file;
		ssize_t ret = iomap_read(file, f->buf, 64 * KIB, 0);

		cr_assert_eq(ret, f->size);
		for (int64_t i = 0; i < f->size; i++)
			cr_assert_eq(f->buf[i], f->model[i],
				     "byte %lld at the end, %d: %#x, not %#x", (long long)i, way,
				     f->buf[i], f->model[i]);
		if (way == 1) {
			cr_assert_eq(ts_fsync(f->ts), 0);
			ts_drop(f->ts);
		}
	}
}

static void run(uint64_t seed, struct ts_config cfg, bool own_setsize, uint64_t map_max)
{
	static const struct iomap_dio_ops dops = { .end_io = ts_dio_end_io };
	struct fsx f = { .ts = malloc(sizeof(*f.ts)), .r = { seed } };
	void *model = NULL, *buf = NULL;

	cfg.dev_bytes = 64 << 20;
	cfg.i_maxbytes = FILE_MAX;
	t_must(f.ts && !posix_memalign(&model, 4096, 128 * KIB) &&
	       !posix_memalign(&buf, 4096, 128 * KIB));
	memset(model, 0, 128 * KIB);
	f.model = model;
	f.buf = buf;
	ts_prepare(f.ts, &cfg);
	f.ts->hook.open = ts_allow_direct;
	f.ts->i_op.dio_ops = &dops;
	f.ts->map_max_bytes = map_max;
	if (own_setsize)
		f.ts->i_op.setsize = ts_setsize;
	ts_begin(f.ts);
	ts_poison(f.ts);
	cr_assert_eq(iomap_file_open(&f.ts->inode, IOMAP_O_DIRECT, &f.direct), 0);
	for (unsigned i = 0; i < STEPS; i++)
		step(&f);
	check_all(&f);
	cr_assert_eq(iomap_file_close(f.direct), 0);
	ts_close(f.ts);
	free(model);
	free(buf);
}

static void run_all(enum ts_alloc alloc, bool own_setsize)
{
	/* of new space the store tells only once, in a mapping of all of it */
	static const uint64_t map_max[] = { 0, 4096, 12 * KIB };
	uint64_t seed = t_seed();

	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++)
		for (unsigned m = 0; m < 3; m++)
			run(seed + blkbits * 3 + m,
			    (struct ts_config){ .blkbits = blkbits,
						.alloc = alloc,
						.threads = m == 1,
						.with_write_ops = m == 2 },
			    own_setsize, alloc == TS_NEW ? 0 : map_max[m]);
}

Test(fsx, tr02_dr01_dw01_new_space_by_every_way)
{
	run_all(TS_NEW, true);
}

Test(fsx, tr02_dr01_dw01_new_space_that_stays)
{
	run_all(TS_NEW, false);
}

Test(fsx, tr02_dr01_dw01_unwritten_space_by_every_way)
{
	run_all(TS_UNWRITTEN, true);
}

Test(fsx, tr02_dr01_dw01_unwritten_space_that_stays)
{
	run_all(TS_UNWRITTEN, false);
}

Test(fsx, tr02_dr01_dw01_delayed_space_by_every_way)
{
	run_all(TS_DELALLOC, true);
}

Test(fsx, tr02_dr01_dw01_delayed_space_that_stays)
{
	run_all(TS_DELALLOC, false);
}
