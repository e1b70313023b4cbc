/* SPDX-License-Identifier: MIT */
/*
 * far.c - TR02: the last 64 KiB before the largest position a file can have.
 *
 * The last byte of a file is at 2^63 - 2, and blocks, pages and folios there end at 2^63,
 * which no signed position can say.  Random writes, reads, truncations and syncs go on there,
 * by the cache and past it, against a copy in memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "testpiece.h"

#define KIB 1024
#define SPAN (64 * KIB) /* mapped, to the device's beginning; all before it is a hole */
#define FAR (INT64_MAX - SPAN + 1)
#define POISON 0xa5
#define STEPS 2000U

struct far {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *direct, *buffered;
	struct t_log log;
	struct t_rand r;
	unsigned char *model, *buf; /* model: byte 0 is at FAR */
	int64_t size;
};

static struct tp piece = { .offset = FAR, .length = SPAN };

static struct far *set_up(uint32_t blkbits, uint64_t seed)
{
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &piece
	};
	struct iomap_engine_opts opts;
	struct far *f = calloc(1, sizeof(*f));
	void *model = NULL, *buf = NULL;

	t_must(f && !posix_memalign(&model, 4096, SPAN) && !posix_memalign(&buf, 4096, SPAN));
	f->model = memset(model, 0, SPAN);
	f->buf = memset(buf, POISON, SPAN);
	f->r.state = seed;
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_log_init(&f->log);
	f->engine = t_engine(&opts, &f->log);
	t_must(iomap_bdev_open_memory(f->engine, SPAN, &f->bdev) == 0);
	t_must(t_io(f->bdev, IOMAP_REQ_OP_WRITE, 0, buf, SPAN) == 0);
	args.bdev = f->bdev;
	args.blkbits = blkbits;
	cr_assert_eq(iomap_inode_init(f->engine, &f->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&f->inode, IOMAP_O_DIRECT, &f->direct), 0);
	cr_assert_eq(iomap_file_open(&f->inode, 0, &f->buffered), 0);
	cr_assert_eq(iomap_truncate(f->buffered, FAR), 0);
	f->size = FAR;
	return f;
}

static void tear_down(struct far *f)
{
	cr_assert_eq(iomap_file_close(f->direct), 0);
	cr_assert_eq(iomap_file_close(f->buffered), 0);
	cr_assert_eq(iomap_inode_destroy(&f->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert_eq(iomap_bdev_close(f->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(f->engine), 0);
	cr_assert_eq(t_log_count(&f->log, IOMAP_LOG_ERROR, NULL), 0U);
	free(f->model);
	free(f->buf);
	free(f);
}

/* In the span: anywhere, or at the very end. */
static int64_t place(struct far *f)
{
	return FAR + (int64_t)(t_below(&f->r, 3) ? t_below(&f->r, SPAN) :
						   SPAN - 1 - t_below(&f->r, 1200));
}

static void write_some(struct far *f, struct iomap_file *file, int64_t unit)
{
	int64_t pos = place(f) / unit * unit;
	size_t len = (size_t)((1 + (int64_t)t_below(&f->r, 9000) / unit) * unit);
	size_t left = (size_t)(INT64_MAX - pos), want = len < left ? len : left;
	ssize_t ret;

	for (size_t i = 0; i < len; i++)
		f->buf[i] = (unsigned char)(1 + t_rand(&f->r) % 100);
	ret = iomap_write(file, f->buf, len, pos);
	if (!want || want % (size_t)unit) {
		cr_assert_eq(ret, want ? -EINVAL : -EFBIG, "%zd", ret);
		return;
	}
	cr_assert_eq(ret, (ssize_t)want);
	memcpy(f->model + (pos - FAR), f->buf, want);
	if (pos + (int64_t)want > f->size)
		f->size = pos + (int64_t)want;
}

static void read_some(struct far *f, struct iomap_file *file, int64_t unit)
{
	int64_t pos = place(f) / unit * unit, left = f->size > pos ? f->size - pos : 0;
	size_t len = (size_t)((1 + (int64_t)t_below(&f->r, 20 * KIB) / unit) * unit);
	size_t want = (int64_t)len < left ? len : (size_t)left;
	ssize_t ret;

	ret = iomap_read(file, f->buf, len, pos);
	cr_assert_eq(ret, (ssize_t)want, "%zu bytes at FAR+%lld of %lld by %lld: %zd", len,
		     (long long)(pos - FAR), (long long)(f->size - FAR), (long long)unit, ret);
	cr_assert_eq(memcmp(f->buf, f->model + (pos - FAR), want), 0);
}

static void truncate_some(struct far *f)
{
	int64_t size = t_below(&f->r, 4) ? place(f) : t_below(&f->r, 2) ? INT64_MAX : 100;

	cr_assert_eq(iomap_truncate(f->buffered, size), 0);
	if (size < FAR)
		memset(f->model, 0, SPAN);
	else if (size < f->size)
		memset(f->model + (size - FAR), 0, (size_t)(f->size - size));
	f->size = size;
}

static void sync_some(struct far *f)
{
	int64_t pos = place(f);

	switch (t_below(&f->r, 4)) {
	case 0:
		cr_assert_eq(iomap_fsync(f->buffered, pos, INT64_MAX, 0), 0);
		break;
	case 1:
		cr_assert_eq(iomap_sync_range(f->buffered, pos, INT64_MAX,
					      IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER),
			     0);
		break;
	case 2:
		cr_assert_eq(iomap_file_fsync(f->direct, 1), 0);
		break;
	default:
		iomap_invalidate_inode_pages(&f->inode, pos, INT64_MAX);
		break;
	}
}

static void step(struct far *f)
{
	switch (t_below(&f->r, 8)) {
	case 0:
	case 1:
		write_some(f, f->buffered, 1);
		break;
	case 2:
		write_some(f, f->direct, 512);
		break;
	case 3:
		truncate_some(f);
		break;
	case 4:
		sync_some(f);
		break;
	case 5:
		read_some(f, f->direct, 512);
		break;
	default:
		read_some(f, f->buffered, 1);
		break;
	}
	cr_assert_eq(iomap_i_size_read(&f->inode), f->size);
}

Test(far, tr02_the_largest_position_is_one_like_others)
{
	uint64_t seed = t_seed();

	for (uint32_t blkbits = 9; blkbits <= 12; blkbits++) {
		struct far *f = set_up(blkbits, seed + blkbits);

		for (unsigned i = 0; i < STEPS; i++)
			step(f);
		tear_down(f);
	}
}

Test(far, dr01_the_last_sector_is_read_directly)
{
	struct far *f = set_up(9, 1);
	const int64_t last = INT64_MAX - 511;

	cr_assert_eq(iomap_write(f->buffered, "end", 3, INT64_MAX - 3), 3);
	cr_assert_eq(iomap_fsync(f->buffered, 0, INT64_MAX, 0), 0);
	cr_assert_eq(iomap_read(f->direct, f->buf, 512, last), 511);
	cr_assert_eq(memcmp(f->buf + 508, "end", 3), 0);
	memset(f->buf, 0xee, SPAN);
	cr_assert_eq(iomap_read(f->direct, f->buf, SPAN, last - 512), 1023);
	cr_assert_eq(memcmp(f->buf + 1020, "end", 3), 0);
	/* of what is asked for behind it, nothing is there, whatever the size */
	cr_assert_eq(iomap_truncate(f->buffered, last), 0);
	cr_assert_eq(iomap_read(f->direct, f->buf, 4096, last), 0);
	tear_down(f);
}

Test(far, tr02_odd_arguments_of_the_cache_calls)
{
	struct far *f = set_up(9, 1);
	struct iomap_inode *inode = &f->inode;

	cr_assert_eq(iomap_write(f->buffered, "x", 1, INT64_MAX - 1), 1);
	iomap_inode_lock(inode);
	iomap_filemap_invalidate_lock(&inode->i_data);
	cr_assert_eq(iomap_truncate_page(inode, -1, NULL, &tp_ops, NULL, NULL), -EINVAL);
	cr_assert_eq(iomap_truncate_page(inode, INT64_MIN, NULL, &tp_ops, NULL, NULL), -EINVAL);
	cr_assert_eq(iomap_truncate_page(inode, INT64_MAX, NULL, &tp_ops, NULL, NULL), 0);
	cr_assert_eq(iomap_truncate_page(inode, 0, NULL, NULL, NULL, NULL), -EINVAL);
	iomap_truncate_pagecache_range(inode, INT64_MIN, INT64_MIN);
	iomap_truncate_pagecache_range(inode, INT64_MIN, -1);
	iomap_truncate_pagecache_range(inode, INT64_MAX, INT64_MIN);
	iomap_truncate_pagecache_range(inode, INT64_MAX - 1, INT64_MAX - 2);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	iomap_inode_unlock(inode);
	cr_assert_eq(iomap_read(f->buffered, f->buf, 10, INT64_MAX - 1), 1);
	cr_assert_eq(f->buf[0], 'x', "nothing of all that was in a range");
	iomap_inode_lock(inode);
	iomap_filemap_invalidate_lock(&inode->i_data);
	iomap_truncate_pagecache_range(inode, INT64_MAX, INT64_MAX);
	iomap_truncate_pagecache_range(inode, INT64_MAX - 1, INT64_MAX - 1);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	iomap_inode_unlock(inode);
	cr_assert_eq(iomap_read(f->buffered, f->buf, 10, INT64_MAX - 1), 1);
	cr_assert_eq(f->buf[0], 0);
	iomap_inode_lock(inode);
	iomap_filemap_invalidate_lock(&inode->i_data);
	iomap_truncate_setsize(inode, INT64_MIN);
	iomap_filemap_invalidate_unlock(&inode->i_data);
	iomap_inode_unlock(inode);
	cr_assert_eq(iomap_i_size_read(inode), 0);
	cr_assert_eq(iomap_write(f->buffered, "x", 0, FAR + 5), 0);
	cr_assert_eq(iomap_write(f->direct, f->buf, 0, FAR + 512), 0);
	cr_assert_eq(iomap_i_size_read(inode), 0, "a write of nothing moves nothing");
	tear_down(f);
}
