/* SPDX-License-Identifier: MIT */
/* ctest-options: TIMEOUT 300 */
/*
 * lk05.c - LK05: limits: lengths of 0, positions up to the last one and sizes up to i_maxbytes,
 * as many segments as there can be, and many open inodes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "testpiece.h"
#include "teststore.h"

#define KIB 1024
#define PAGE (4 * KIB)
#define SIZE (64 * KIB)

static struct ts *store(int64_t maxbytes)
{
	struct ts *ts = calloc(1, sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, &(struct ts_config){ .i_maxbytes = maxbytes, .blkbits = 9 });
	ts->hook.open = ts_allow_direct;
	ts->i_op.setsize = ts_setsize;
	ts_begin(ts);
	return ts;
}

static struct iomap_file *direct(struct ts *ts)
{
	struct iomap_file *file;

	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	return file;
}

/* By the calls that take an iocb. */
static ssize_t write_iter(struct iomap_file *file, struct ts *ts, void *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_kiocb_init(&iocb, file, pos);
	iomap_inode_lock(&ts->inode);
	if (iomap_file_flags(file) & IOMAP_O_DIRECT)
		ret = iomap_dio_rw(&iocb, &from, &ts->ops, NULL, 0, NULL, 0);
	else
		ret = iomap_file_buffered_write(&iocb, &from, &ts->ops, NULL, NULL);
	iomap_inode_unlock(&ts->inode);
	cr_assert_eq(iocb.ki_pos, pos + (ret > 0 ? ret : 0));
	return ret;
}

/* ---- nothing ---- */

Test(lk05, lk05_a_length_of_zero_does_nothing)
{
	struct ts *ts = store(SIZE);
	struct iomap_file *files[] = { ts->file, direct(ts) };
	int64_t places[] = { 0, 1, PAGE, PAGE + 1, SIZE, SIZE + 1, INT64_MAX };
	_Alignas(4096) static char buf[PAGE];
	struct iovec none[2] = { { buf, 0 }, { NULL, 0 } };
	struct iomap_iter iter = { .inode = &ts->inode };
	uint64_t begins;

	ts_write(ts, 0, PAGE + 1, 1);
	cr_assert_eq(ts_fsync(ts), 0);
	begins = ts_calls(ts, TS_BEGIN);
	for (unsigned f = 0; f < 2; f++)
		for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			cr_assert_eq(iomap_read(files[f], buf, 0, places[i]), 0);
			cr_assert_eq(iomap_read(files[f], NULL, 0, places[i]), 0);
			cr_assert_eq(iomap_readv(files[f], none, 0, places[i]), 0);
			cr_assert_eq(iomap_readv(files[f], none, 2, places[i]), 0);
			cr_assert_eq(iomap_write(files[f], buf, 0, places[i]), 0);
			cr_assert_eq(iomap_write(files[f], NULL, 0, places[i]), 0);
			cr_assert_eq(iomap_writev(files[f], none, 0, places[i]), 0);
			cr_assert_eq(iomap_writev(files[f], none, 2, places[i]), 0);
			cr_assert_eq(write_iter(files[f], ts, buf, 0, places[i]), 0);
			cr_assert_eq(iomap_sync_range(ts->file, places[i], places[i],
						      IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE |
							      IOMAP_SYNC_WAIT_AFTER), 0);
			cr_assert_eq(iomap_invalidate_inode_pages(&ts->inode, places[i], places[i]),
				     0);
			iter.pos = places[i];
			cr_assert_eq(iomap_iter(&iter, &ts->ops), 0);
		}
	cr_assert_eq(ts_calls(ts, TS_BEGIN), begins);
	cr_assert_eq(iomap_i_size_read(&ts->inode), PAGE + 1);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0);
	cr_assert_eq(iomap_truncate(ts->file, PAGE + 1), 0);
	cr_assert(ts_reads(ts, 0, PAGE + 1, 1));
	cr_assert_eq(iomap_file_close(files[1]), 0);
	ts_close(ts);
}

/* ---- the ends ---- */

Test(lk05, lk05_negative_positions_are_invalid)
{
	struct ts *ts = store(0);
	struct iomap_file *files[] = { ts->file, direct(ts) };
	_Alignas(4096) static char buf[PAGE];

	for (unsigned f = 0; f < 2; f++) {
		cr_assert_eq(iomap_read(files[f], buf, PAGE, -PAGE), -EINVAL);
		cr_assert_eq(iomap_read(files[f], buf, PAGE, INT64_MIN), -EINVAL);
		cr_assert_eq(iomap_write(files[f], buf, PAGE, -PAGE), -EINVAL);
		cr_assert_eq(write_iter(files[f], ts, buf, PAGE, -PAGE), -EINVAL);
	}
	cr_assert_eq(iomap_truncate(ts->file, -1), -EINVAL);
	cr_assert_eq(iomap_fsync(ts->file, -1, 0, 0), -EINVAL);
	cr_assert_eq(iomap_fsync(ts->file, 1, 0, 0), -EINVAL);
	cr_assert_eq(iomap_sync_range(ts->file, -1, 0, IOMAP_SYNC_WRITE), -EINVAL);
	cr_assert_eq(iomap_file_close(files[1]), 0);
	ts_close(ts);
}

#define FAR (INT64_MAX - SIZE + 1)

/* A file of which the last 64 KiB before 2^63 are on a device. */
struct far {
	struct tp piece;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct t_log log;
};

static struct far *far_open(void)
{
	struct far *far = calloc(1, sizeof(*far));
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .blkbits = 9,
	};
	struct iomap_engine_opts opts;

	t_must(far != NULL);
	far->piece = (struct tp){ .offset = FAR, .length = SIZE };
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_log_init(&far->log);
	far->engine = t_engine(&opts, &far->log);
	cr_assert_eq(iomap_bdev_open_memory(far->engine, SIZE, &far->bdev), 0);
	args.bdev = far->bdev;
	args.i_private = &far->piece;
	cr_assert_eq(iomap_inode_init(far->engine, &far->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&far->inode, 0, &far->file), 0);
	return far;
}

static void far_close(struct far *far)
{
	cr_assert_eq(iomap_file_close(far->file), 0);
	cr_assert_eq(iomap_inode_destroy(&far->inode, IOMAP_DESTROY_DISCARD), 0);
	cr_assert_eq(iomap_bdev_close(far->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(far->engine), 0);
	free(far);
}

/* The last byte that a file can have is at 2^63 - 2: its size is 2^63 - 1 then. */
Test(lk05, lk05_the_last_position)
{
	struct far *far = far_open();
	char buf[100] = "";

	cr_assert_eq(iomap_write(far->file, "x", 1, INT64_MAX), -EFBIG);
	cr_assert_eq(iomap_i_size_read(&far->inode), 0);
	cr_assert_eq(iomap_truncate(far->file, INT64_MAX - 10), 0);
	cr_assert_eq(iomap_write(far->file, "0123456789abc", 13, INT64_MAX - 10), 10);
	cr_assert_eq(iomap_i_size_read(&far->inode), INT64_MAX);
	cr_assert_eq(iomap_write(far->file, "x", 1, INT64_MAX), -EFBIG);
	cr_assert_eq(iomap_read(far->file, buf, sizeof(buf), INT64_MAX - 12), 12);
	cr_assert_eq(memcmp(buf, "\0\0" "0123456789", 12), 0);
	cr_assert_eq(iomap_read(far->file, buf, sizeof(buf), INT64_MAX - 1), 1);
	cr_assert_eq(buf[0], '9');
	cr_assert_eq(iomap_read(far->file, buf, sizeof(buf), INT64_MAX), 0);
	cr_assert_eq(iomap_read(far->file, buf, SIZE_MAX, INT64_MAX), 0);
	cr_assert_eq(iomap_file_fsync(far->file, 0), 0);
	cr_assert(iomap_invalidate_inode_pages(&far->inode, 0, INT64_MAX) > 0);
	cr_assert_eq(iomap_read(far->file, buf, SIZE_MAX, INT64_MAX - 10), 10);
	cr_assert_eq(memcmp(buf, "0123456789", 10), 0);
	cr_assert_eq(iomap_truncate(far->file, 0), 0);
	far_close(far);
}

Test(lk05, lk05_ranges_that_no_position_ends_overflow)
{
	struct far *far = far_open();
	struct iomap_iter iter = { .inode = &far->inode };

	iter.pos = INT64_MAX;
	iter.len = 2;
	cr_assert_eq(iomap_iter(&iter, &tp_ops), -EOVERFLOW);
	iter.pos = 0;
	iter.len = ((uint64_t)INT64_MAX) + 2;
	cr_assert_eq(iomap_iter(&iter, &tp_ops), -EOVERFLOW);
	iter.pos = 1;
	iter.len = UINT64_MAX;
	cr_assert_eq(iomap_iter(&iter, &tp_ops), -EOVERFLOW);
	/* up to 2^63 there are blocks */
	iter.pos = INT64_MAX - 511;
	iter.len = 512;
	cr_assert_eq(iomap_iter(&iter, &tp_ops), 1);
	cr_assert_eq(iomap_length(&iter), 512);
	cr_assert_eq(iomap_iter_advance(&iter, 512), 0);
	cr_assert_eq(iomap_iter(&iter, &tp_ops), 0);
	far_close(far);
}

Test(lk05, lk05_nothing_lies_beyond_i_maxbytes)
{
	const int64_t max = 5 * 512;
	struct ts *ts = store(max);
	struct iomap_file *files[] = { ts->file, direct(ts) }, *append;
	_Alignas(4096) static char buf[PAGE];
	struct iomap_inode_args args = ts->args;
	struct iomap_inode inode;

	memset(buf, 'x', sizeof(buf));
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_APPEND, &append), 0);
	for (unsigned f = 0; f < 2; f++) {
		cr_assert_eq(iomap_write(files[f], buf, 512, max), -EFBIG);
		cr_assert_eq(iomap_write(files[f], buf, 512, INT64_MAX & ~511LL), -EFBIG);
		cr_assert_eq(write_iter(files[f], ts, buf, 512, max), -EFBIG);
		cr_assert_eq(iomap_i_size_read(&ts->inode), 0);
		/* what fits is written */
		cr_assert_eq(iomap_write(files[f], buf, 1024, max - 512), 512);
		cr_assert_eq(iomap_i_size_read(&ts->inode), max);
		cr_assert_eq(write_iter(files[f], ts, buf, 1024, max - 512), 512);
		cr_assert_eq(iomap_i_size_read(&ts->inode), max);
		cr_assert_eq(iomap_write(append, buf, 1, 0), -EFBIG);
		cr_assert_eq(iomap_truncate(ts->file, 0), 0);
	}
	cr_assert_eq(iomap_truncate(ts->file, max + 1), -EFBIG);
	cr_assert_eq(iomap_truncate(ts->file, INT64_MAX), -EFBIG);
	cr_assert_eq(iomap_truncate(ts->file, max), 0);
	cr_assert_eq(iomap_read(ts->file, buf, PAGE, max - 1), 1);
	cr_assert_eq(iomap_read(ts->file, buf, PAGE, max), 0);
	args.i_size = max + 1;
	cr_assert_eq(iomap_inode_init(ts->engine, &inode, &args), -EINVAL);
	args.i_size = -1;
	cr_assert_eq(iomap_inode_init(ts->engine, &inode, &args), -EINVAL);
	cr_assert_eq(iomap_file_close(append), 0);
	cr_assert_eq(iomap_file_close(files[1]), 0);
	ts_close(ts);
}

/* ---- segments ---- */

Test(lk05, lk05_as_many_segments_as_there_can_be)
{
	struct ts *ts = store(0);
	struct iomap_file *files[] = { ts->file, direct(ts) };
	const size_t bytes = (size_t)IOV_MAX * 512;
	struct iovec *iov = calloc(IOV_MAX + 1, sizeof(*iov));
	unsigned char *from, *to;
	void *memory[2];

	t_must(iov && !posix_memalign(&memory[0], 4096, bytes) &&
	       !posix_memalign(&memory[1], 4096, bytes));
	from = memory[0];
	to = memory[1];
	for (unsigned f = 0; f < 2; f++) {
		t_fill(from, bytes, 0, f + 1);
		for (unsigned i = 0; i <= IOV_MAX; i++)
			iov[i] = (struct iovec){ from + i * 512 % bytes, 512 };
		cr_assert_eq(iomap_writev(files[f], iov, IOV_MAX + 1, 0), -EINVAL);
		cr_assert_eq(iomap_writev(files[f], iov, INT_MAX, 0), -EINVAL);
		cr_assert_eq(iomap_writev(files[f], iov, -1, 0), -EINVAL);
		cr_assert_eq(iomap_writev(files[f], iov, IOV_MAX, 0), (ssize_t)bytes);
		/* from the last segment to the first */
		memset(to, 0, bytes);
		for (unsigned i = 0; i <= IOV_MAX; i++)
			iov[i].iov_base = to + (bytes - 512 - i * 512) % bytes;
		cr_assert_eq(iomap_readv(files[f], iov, IOV_MAX + 1, 0), -EINVAL);
		cr_assert_eq(iomap_readv(files[f], iov, -1, 0), -EINVAL);
		cr_assert_eq(iomap_readv(files[f], iov, IOV_MAX, 0), (ssize_t)bytes);
		for (unsigned i = 0; i < IOV_MAX; i++)
			cr_assert_eq(memcmp(to + bytes - 512 - i * 512, from + i * 512, 512), 0);
	}
	/* lengths that add up to more than there can be are cut, by the end of the file as well */
	iov[0].iov_base = to;
	iov[0].iov_len = PAGE;
	iov[1].iov_len = iov[2].iov_len = SIZE_MAX;
	cr_assert_eq(iomap_truncate(ts->file, 100), 0);
	cr_assert_eq(iomap_readv(ts->file, iov, 3, 0), 100);
	cr_assert_eq(iomap_file_close(files[1]), 0);
	free(from);
	free(to);
	free(iov);
	ts_close(ts);
}

/* ---- many inodes ---- */

#define INODES 100000U
#define BYTES 512 /* of each */

struct many {
	struct tp piece;
	struct iomap_inode inode;
	struct iomap_file *file;
};

/* 16 times what the cache holds: all of them are written out, and read again. */
Test(lk05, lk05_a_hundred_thousand_open_inodes)
{
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .blkbits = 9,
	};
	struct many *many = calloc(INODES, sizeof(*many));
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	char buf[BYTES];
	struct t_log log;

	t_must(many != NULL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 24 << 20;
	t_log_init(&log);
	engine = t_engine(&opts, &log);
	cr_assert_eq(iomap_bdev_open_memory(engine, (uint64_t)INODES * BYTES, &bdev), 0);
	args.bdev = bdev;
	for (unsigned i = 0; i < INODES; i++) {
		many[i].piece = (struct tp){ .length = BYTES, .addr = (uint64_t)i * BYTES };
		args.i_private = &many[i].piece;
		args.i_ino = i;
		cr_assert_eq(iomap_inode_init(engine, &many[i].inode, &args), 0);
		cr_assert_eq(iomap_file_open(&many[i].inode, 0, &many[i].file), 0);
		t_fill(buf, BYTES, i, 1);
		cr_assert_eq(iomap_write(many[i].file, buf, BYTES, 0), BYTES);
	}
	cr_assert_eq(iomap_sync_engine(engine), 0);
	cr_assert_eq(t_stats(engine).dirty_bytes, 0);
	for (unsigned i = 0; i < INODES; i++) {
		cr_assert_eq(iomap_read(many[i].file, buf, BYTES, 0), BYTES);
		cr_assert_eq(t_mismatch(buf, BYTES, i, 1), -1, "inode %u", i);
	}
	(void)iomap_engine_drop_cache(engine);
	cr_assert_eq(t_stats(engine).cached_bytes, 0);
	for (unsigned i = 0; i < INODES; i++) {
		cr_assert_eq(iomap_file_close(many[i].file), 0);
		cr_assert_eq(iomap_inode_destroy(&many[i].inode, 0), 0);
	}
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(many);
}
