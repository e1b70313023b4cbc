/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * direct_flags.c - DF02 to DF06, DI03, DI04, DO02: what the flags of a direct call change, the call
 * in two steps, and what end_io is told.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES (64 * KIB)
#define ADDR (64U * KIB) /* of byte 0 */

struct fs {
	struct ts ts; /* first: ts_of() */
	struct iomap_file *file;
	struct iomap_dio_ops dops;
	/* end_io, under the gate of the store */
	unsigned ended;
	ssize_t size;
	int error;
	unsigned flags;
	uint64_t tick;
};

/* One call; with ki_complete it may be asynchronous. */
struct call {
	struct iomap_kiocb iocb; /* first */
	struct fs *fs;
	unsigned direction, dio_flags;
	char *buf;
	size_t len, done_before;
	ssize_t ret;
	unsigned calls; /* of ki_complete, under the gate of the store */
	long result;
};

static struct fs *fs_of(struct iomap_inode *inode)
{
	return (struct fs *)(void *)ts_of(inode);
}

static int end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct fs *fs = fs_of(iomap_file_inode(iocb->ki_filp));

	if (!error)
		ts_convert(&fs->ts, iocb->ki_pos, iocb->ki_pos + size);
	t_lock(&fs->ts.gate);
	fs->ended++;
	fs->size = size;
	fs->error = error;
	fs->flags = flags;
	fs->tick = t_tick();
	t_unlock(&fs->ts.gate);
	return 0;
}

static int open_all(struct ts *ts, struct iomap_file *file)
{
	(void)ts;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT | IOMAP_FMODE_CAN_ATOMIC_WRITE);
	return 0;
}

/* What most devices here are: everything there is. */
static const struct iomap_bdev_limits able = {
	.logical_block_size = 512,
	.physical_block_size = 512,
	.dma_alignment = 512,
	.max_segments_nr = 64,
	.max_transfer_bytes = 1 << 20,
	.flags = IOMAP_BDEV_HAS_WRITE_CACHE | IOMAP_BDEV_HAS_FUA | IOMAP_BDEV_HAS_NOWAIT,
	.atomic_write_min_bytes = 4 * KIB,
	.atomic_write_max_bytes = 16 * KIB,
	.atomic_write_segments_nr = 2,
};

/* 64 KiB of the pattern 1, mapped. */
static struct fs *fs_open(const struct iomap_bdev_limits *limits, bool threads)
{
	struct fs *fs = calloc(1, sizeof(*fs));

	t_must(fs != NULL);
	ts_prepare(&fs->ts, &(struct ts_config){ .i_size = FILE_BYTES, .limits = limits,
						 .threads = threads });
	fs->ts.hook.open = open_all;
	fs->dops.end_io = end_io;
	fs->ts.i_op.dio_ops = &fs->dops;
	ts_begin(&fs->ts);
	ts_poison(&fs->ts);
	ts_map(&fs->ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, ADDR);
	ts_dev_fill(&fs->ts, ADDR, FILE_BYTES, 0, 1);
	cr_assert_eq(iomap_file_open(&fs->ts.inode, IOMAP_O_DIRECT, &fs->file), 0);
	return fs;
}

static void fs_close(struct fs *fs)
{
	cr_assert_eq(iomap_file_close(fs->file), 0);
	ts_close(&fs->ts); /* frees it */
}

static void call_init(struct call *call, struct fs *fs, unsigned direction, size_t len,
		      int64_t pos)
{
	*call = (struct call){ .fs = fs, .direction = direction, .len = len };
	t_must(posix_memalign((void **)&call->buf, 4096, len) == 0);
	if (direction == IOMAP_ITER_SOURCE)
		t_fill(call->buf, len, pos, 2);
	else
		memset(call->buf, 0x5a, len);
	iomap_kiocb_init(&call->iocb, fs->file, pos);
}

static void on_complete(struct iomap_kiocb *iocb, long ret)
{
	struct call *call = (struct call *)(void *)iocb;
	struct t_gate *gate = &call->fs->ts.gate;

	t_lock(gate);
	call->calls++;
	call->result = ret;
	t_wake(gate);
	t_unlock(gate);
}

static ssize_t call_vec(struct call *call, const struct iovec *iov, size_t nr)
{
	struct fs *fs = call->fs;
	struct iomap_iov_iter iter;

	iomap_iov_iter_init(&iter, call->direction, iov, nr, SSIZE_MAX);
	iomap_inode_lock_shared(&fs->ts.inode);
	call->ret = iomap_dio_rw(&call->iocb, &iter, &fs->ts.ops, &fs->dops, call->dio_flags, fs,
				 call->done_before);
	iomap_inode_unlock_shared(&fs->ts.inode);
	return call->ret;
}

static ssize_t call_run(struct call *call)
{
	return call_vec(call, &(struct iovec){ call->buf, call->len }, 1);
}

/* What came by ki_complete, or else was returned. */
static ssize_t call_result(struct call *call)
{
	struct t_gate *gate = &call->fs->ts.gate;

	if (call->ret != -IOMAP_EIOCBQUEUED)
		return call->ret;
	t_lock(gate);
	while (!call->calls)
		t_wait(gate);
	t_unlock(gate);
	return call->result;
}

static struct iomap_dio *call_start(struct call *call)
{
	struct fs *fs = call->fs;
	struct iomap_iov_iter iter;
	struct iomap_dio *dio;

	iomap_iov_iter_ubuf(&iter, call->direction, call->buf, call->len);
	dio = iomap_dio_start(&call->iocb, &iter, &fs->ts.ops, &fs->dops, call->dio_flags, fs,
			      call->done_before);
	if (dio && !iomap_is_err(dio))
		t_must(iter.count == 0 || call->len == iter.count); /* all, or an error */
	return dio;
}

static ssize_t once(struct fs *fs, unsigned direction, uint32_t iocb_flags, unsigned dio_flags,
		    size_t len, int64_t pos)
{
	struct call call;
	ssize_t ret;

	call_init(&call, fs, direction, len, pos);
	call.iocb.ki_flags |= iocb_flags;
	call.dio_flags = dio_flags;
	ret = call_run(&call);
	free(call.buf);
	return ret;
}

/* ---- DI03 ---- */

Test(direct_flags, di03_started_and_completed_in_two_steps)
{
	struct fs *fs = fs_open(NULL, false);
	struct iomap_dio *dio;
	struct call call;

	td_hold(fs->ts.dev, TD_ALL);
	call_init(&call, fs, IOMAP_ITER_SOURCE, 16 * KIB, 8 * KIB);
	iomap_inode_lock(&fs->ts.inode);
	dio = call_start(&call); /* it does not wait for the device */
	cr_assert(dio && !iomap_is_err(dio));
	cr_assert_eq(td_count(fs->ts.dev, TD_WRITE), 1U);
	cr_assert_eq(fs->ended, 0U);
	cr_assert_eq(call.iocb.ki_pos, 8 * KIB);
	td_open_gates(fs->ts.dev);
	cr_assert_eq(fs->ended, 0U); /* nobody ends it but complete */
	cr_assert_eq(iomap_dio_complete(dio), 16 * KIB);
	iomap_inode_unlock(&fs->ts.inode);
	cr_assert_eq(fs->ended, 1U);
	cr_assert_eq(call.iocb.ki_pos, 24 * KIB);
	cr_assert(ts_dev_has(&fs->ts, ADDR + 8 * KIB, 16 * KIB, 8 * KIB, 2));
	free(call.buf);
	fs_close(fs);
}

struct releaser {
	struct fs *fs;
	struct t_task task;
};

static long release_held(void *arg)
{
	struct releaser *releaser = arg;

	td_wait_held(releaser->fs->ts.dev, 2);
	td_open_gates(releaser->fs->ts.dev);
	return 0;
}

Test(direct_flags, di03_complete_waits_for_what_was_started)
{
	struct fs *fs = fs_open(NULL, false);
	struct releaser releaser = { .fs = fs };
	struct iomap_dio *first, *second;
	struct call a, b;

	td_hold(fs->ts.dev, TD_ALL);
	call_init(&a, fs, IOMAP_ITER_DEST, 16 * KIB, 0);
	call_init(&b, fs, IOMAP_ITER_DEST, 8 * KIB, 32 * KIB);
	first = call_start(&a);
	second = call_start(&b);
	t_start(&releaser.task, release_held, &releaser);
	cr_assert_eq(iomap_dio_complete(second), 8 * KIB);
	cr_assert_neq(td_nth(fs->ts.dev, TD_READ, 1).completed, 0U);
	cr_assert_eq(iomap_dio_complete(first), 16 * KIB);
	cr_assert_neq(td_nth(fs->ts.dev, TD_READ, 0).completed, 0U);
	cr_assert_eq(t_join(&releaser.task), 0);
	cr_assert_lt(t_mismatch(a.buf, 16 * KIB, 0, 1), 0);
	cr_assert_lt(t_mismatch(b.buf, 8 * KIB, 32 * KIB, 1), 0);
	free(a.buf);
	free(b.buf);
	fs_close(fs);
}

Test(direct_flags, di03_nothing_to_do_is_null_and_an_error_is_a_pointer)
{
	struct fs *fs = fs_open(NULL, true);
	struct iomap_dio *dio;
	struct call call;

	call_init(&call, fs, IOMAP_ITER_DEST, 4 * KIB, FILE_BYTES);
	cr_assert_null(call_start(&call)); /* behind the end */
	call.iocb.ki_pos = 0;
	call.len = 0;
	cr_assert_null(call_start(&call));
	call.len = 4 * KIB;
	call.iocb.ki_pos = 100;
	cr_assert_eq(iomap_ptr_err(call_start(&call)), -EINVAL);
	call.iocb.ki_pos = 0;
	call.dio_flags = IOMAP_DIO_BOUNCE;
	cr_assert_eq(iomap_ptr_err(call_start(&call)), -EINVAL);
	call.dio_flags = 0;
	/* what comes from the extent map or a device is complete's */
	ts_fail(&fs->ts, TS_BEGIN, 1, -ENOLCK, 1);
	dio = call_start(&call);
	cr_assert(dio && !iomap_is_err(dio));
	cr_assert_eq(iomap_dio_complete(dio), -ENOLCK);
	td_fail(fs->ts.dev, TD_READ, 0, fs->ts.dev->bytes, -EILSEQ, 1);
	dio = call_start(&call);
	cr_assert(dio && !iomap_is_err(dio));
	cr_assert_eq(iomap_dio_complete(dio), -EILSEQ);
	cr_assert_eq(call.iocb.ki_pos, 0);
	/* asynchronous: ki_complete, and nothing is left to complete */
	call.iocb.ki_complete = on_complete;
	td_hold(fs->ts.dev, TD_ALL);
	dio = call_start(&call);
	cr_assert_eq(iomap_ptr_err(dio), -IOMAP_EIOCBQUEUED);
	call.ret = -IOMAP_EIOCBQUEUED;
	td_open_gates(fs->ts.dev);
	cr_assert_eq(call_result(&call), 4 * KIB);
	cr_assert_eq(call.calls, 1U);
	/* and one that has ended by then is the caller's */
	call.iocb.ki_pos = 4 * KIB;
	dio = call_start(&call);
	cr_assert(dio && !iomap_is_err(dio));
	cr_assert_eq(iomap_dio_complete(dio), 4 * KIB);
	cr_assert_eq(call.calls, 1U);
	free(call.buf);
	fs_close(fs);
}

Test(direct_flags, di03_a_dsync_write_is_durable_when_complete_returns)
{
	struct fs *fs = fs_open(NULL, false);
	struct iomap_dio *dio;
	struct call call;

	ts_map(&fs->ts, 0, FILE_BYTES, IOMAP_MAPPED, IOMAP_F_DIRTY, ADDR);
	call_init(&call, fs, IOMAP_ITER_SOURCE, 8 * KIB, 0);
	call.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
	iomap_inode_lock(&fs->ts.inode);
	dio = call_start(&call);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 0U);
	cr_assert_eq(iomap_dio_complete(dio), 8 * KIB);
	iomap_inode_unlock(&fs->ts.inode);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 1U);
	free(call.buf);
	fs_close(fs);
}

/* ---- DI04 ---- */

Test(direct_flags, di04_done_before_counts_in_the_result_and_only_there)
{
	struct fs *fs = fs_open(NULL, true);
	struct iomap_dio *dio;
	struct call call;

	call_init(&call, fs, IOMAP_ITER_DEST, 8 * KIB, 8 * KIB);
	call.done_before = 3000;
	cr_assert_eq(call_run(&call), 3000 + 8 * KIB);
	cr_assert_eq(call.iocb.ki_pos, 16 * KIB);
	cr_assert_eq(fs->size, 8 * KIB);
	dio = call_start(&call);
	cr_assert_eq(iomap_dio_complete(dio), 3000 + 8 * KIB);
	cr_assert_eq(call.iocb.ki_pos, 24 * KIB);
	/* what would have been 0 or an error stays so: the caller has its count */
	call.iocb.ki_pos = FILE_BYTES;
	cr_assert_eq(call_run(&call), 0);
	call.iocb.ki_pos = 0;
	ts_fail(&fs->ts, TS_BEGIN, 1, -ENOLCK, 1);
	cr_assert_eq(call_run(&call), -ENOLCK);
	/* by ki_complete as well */
	call.iocb.ki_complete = on_complete;
	td_hold(fs->ts.dev, TD_ALL);
	cr_assert_eq(call_run(&call), -IOMAP_EIOCBQUEUED);
	td_open_gates(fs->ts.dev);
	cr_assert_eq(call_result(&call), 3000 + 8 * KIB);
	call.done_before = SSIZE_MAX;
	cr_assert_eq(call_run(&call), -EINVAL);
	free(call.buf);
	fs_close(fs);
}

Test(direct_flags, di04_a_sync_is_of_this_part_alone)
{
	struct fs *fs = fs_open(NULL, false);
	struct call call;

	ts_map(&fs->ts, 0, FILE_BYTES, IOMAP_MAPPED, IOMAP_F_DIRTY, ADDR);
	call_init(&call, fs, IOMAP_ITER_SOURCE, 8 * KIB, 8 * KIB);
	call.iocb.ki_flags |= IOMAP_IOCB_DSYNC;
	call.done_before = 16 * KIB; /* more than lies before */
	cr_assert_eq(call_run(&call), 24 * KIB);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 1U);
	cr_assert_eq(call.iocb.ki_pos, 16 * KIB);
	free(call.buf);
	fs_close(fs);
}

Test(direct_flags, di04_a_bounced_call_counts_once)
{
	struct fs *fs = fs_open(NULL, false);
	struct call call;

	call_init(&call, fs, IOMAP_ITER_DEST, 8 * KIB, 0);
	call.dio_flags = IOMAP_DIO_BOUNCE;
	call.done_before = 512;
	cr_assert_eq(call_vec(&call, &(struct iovec){ call.buf + 1, 1000 }, 1), 512 + 1000);
	cr_assert_eq(call.iocb.ki_pos, 1000);
	free(call.buf);
	fs_close(fs);
}

/* ---- DO02 ---- */

/* Queued: what end_io is told, and that ki_complete comes after it. */
static void expect_flags(struct fs *fs, unsigned flags)
{
	struct call call;

	call_init(&call, fs, IOMAP_ITER_SOURCE, 16 * KIB, 0);
	call.iocb.ki_complete = on_complete;
	td_hold(fs->ts.dev, TD_ALL);
	fs->ended = 0;
	cr_assert_eq(call_run(&call), -IOMAP_EIOCBQUEUED);
	cr_assert_eq(fs->ended, 0U);
	td_open_gates(fs->ts.dev);
	cr_assert_eq(call_result(&call), 16 * KIB);
	cr_assert_eq(fs->ended, 1U);
	cr_assert_eq(fs->flags, flags);
	cr_assert_eq(fs->size, 16 * KIB);
	free(call.buf);
}

Test(direct_flags, do02_end_io_is_told_what_was_written_to)
{
	struct fs *fs = fs_open(NULL, true);

	expect_flags(fs, 0);
	ts_map(&fs->ts, 4 * KIB, 4 * KIB, IOMAP_UNWRITTEN, 0, ADDR + 4 * KIB);
	expect_flags(fs, IOMAP_DIO_UNWRITTEN);
	ts_map(&fs->ts, 8 * KIB, 4 * KIB, IOMAP_MAPPED, IOMAP_F_SHARED, ADDR + 8 * KIB);
	expect_flags(fs, IOMAP_DIO_COW);
	ts_map(&fs->ts, 4 * KIB, 4 * KIB, IOMAP_UNWRITTEN, 0, ADDR + 4 * KIB);
	expect_flags(fs, IOMAP_DIO_UNWRITTEN | IOMAP_DIO_COW);
	fs_close(fs);
}

/* ---- DF02 ---- */

static ssize_t overwrite(struct fs *fs, size_t len, int64_t pos)
{
	ssize_t ret;

	td_reset(fs->ts.dev);
	ret = once(fs, IOMAP_ITER_SOURCE, 0, IOMAP_DIO_OVERWRITE_ONLY, len, pos);
	if (ret == -EAGAIN)
		t_must(td_count(fs->ts.dev, TD_ALL) == 0);
	return ret;
}

Test(direct_flags, df02_overwrite_only_takes_what_one_mapping_covers)
{
	struct fs *fs = fs_open(NULL, false);

	cr_assert_eq(overwrite(fs, 8 * KIB, 4 * KIB), 8 * KIB);
	cr_assert_eq(ts_last(&fs->ts, TS_BEGIN).flags,
		     (unsigned)(IOMAP_WRITE | IOMAP_DIRECT | IOMAP_OVERWRITE_ONLY));
	cr_assert(ts_dev_has(&fs->ts, ADDR + 4 * KIB, 8 * KIB, 4 * KIB, 2));
	/* a part of a written block needs no zeros */
	cr_assert_eq(overwrite(fs, 512, 1024), 512);
	/* two mappings, though the first is good */
	fs->ts.map_max_bytes = 8 * KIB;
	cr_assert_eq(overwrite(fs, 16 * KIB, 0), -EAGAIN);
	cr_assert_eq(fs->size, 0);
	cr_assert_eq(fs->error, -EAGAIN);
	fs->ts.map_max_bytes = 0;
	/* beyond the size, before anybody is asked */
	ts_reset(&fs->ts);
	cr_assert_eq(overwrite(fs, 8 * KIB, FILE_BYTES - 4 * KIB), -EAGAIN);
	cr_assert_eq(ts_calls(&fs->ts, TS_BEGIN), 0U);
	/* of a read it says nothing */
	cr_assert_eq(once(fs, IOMAP_ITER_DEST, 0, IOMAP_DIO_OVERWRITE_ONLY, 4 * KIB, 0), 4 * KIB);
	cr_assert_eq(ts_last(&fs->ts, TS_BEGIN).flags, (unsigned)IOMAP_DIRECT);
	fs_close(fs);
}

Test(direct_flags, df02_overwrite_only_allocates_copies_and_zeroes_nothing)
{
	static char data[4 * KIB];
	struct fs *fs = fs_open(NULL, false);

	ts_punch(&fs->ts, 0, 4 * KIB);
	fs->ts.cfg.alloc = TS_NEW;
	cr_assert_eq(overwrite(fs, 4 * KIB, 0), -EAGAIN);
	fs->ts.cfg.alloc = TS_DELALLOC;
	ts_punch(&fs->ts, 0, 4 * KIB);
	cr_assert_eq(overwrite(fs, 4 * KIB, 0), -EAGAIN);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_UNWRITTEN, 0, ADDR);
	cr_assert_eq(overwrite(fs, 4 * KIB, 0), 4 * KIB);
	cr_assert_eq(fs->flags, IOMAP_DIO_UNWRITTEN);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_UNWRITTEN, 0, ADDR);
	cr_assert_eq(overwrite(fs, 2 * KIB, 0), -EAGAIN);
	cr_assert_eq(overwrite(fs, 2 * KIB, 2 * KIB), -EAGAIN);
	/* the extent map can zero: the library does not */
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_UNWRITTEN, IOMAP_F_ZEROES_UNWRITTEN, ADDR);
	cr_assert_eq(overwrite(fs, 2 * KIB, 1 * KIB), 2 * KIB);
	cr_assert_eq(td_bytes(fs->ts.dev, TD_WRITE), 2U * KIB);
	cr_assert_eq(td_count(fs->ts.dev, TD_WRITE), 1U);
	ts_map_inline(&fs->ts, data, sizeof(data));
	cr_assert_eq(overwrite(fs, 4 * KIB, 0), -EAGAIN);
	fs_close(fs);
}

/* ---- DF03 ---- */

/* 32 KiB of memory, of which what begins at @bad is none. */
static char *memory_with_hole(size_t bad)
{
	char *mem = mmap(NULL, 32 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	t_must(mem != MAP_FAILED);
	t_must(mprotect(mem + bad, 32 * KIB - bad, PROT_NONE) == 0);
	return mem;
}

static ssize_t partial(struct call *call, char *mem, size_t len)
{
	return call_vec(call, &(struct iovec){ mem, len }, 1);
}

Test(direct_flags, df03_partial_returns_the_progress_and_goes_on_with_done_before)
{
	struct fs *fs = fs_open(NULL, false);
	char *mem = memory_with_hole(12 * KIB);
	struct call call;

	call_init(&call, fs, IOMAP_ITER_DEST, 4 * KIB, 8 * KIB);
	call.iocb.ki_flags |= IOMAP_IOCB_CHECKED;
	cr_assert_eq(partial(&call, mem, 32 * KIB), -EFAULT); /* without the flag */
	call.iocb.ki_flags &= ~IOMAP_IOCB_CHECKED;
	call.dio_flags = IOMAP_DIO_PARTIAL;
	td_reset(fs->ts.dev);
	cr_assert_eq(partial(&call, mem, 32 * KIB), 12 * KIB);
	cr_assert_eq(td_bytes(fs->ts.dev, TD_READ), 12U * KIB);
	cr_assert_lt(t_mismatch(mem, 12 * KIB, 8 * KIB, 1), 0);
	cr_assert_eq(call.iocb.ki_pos, 20 * KIB);
	/* the rest still is bad at its beginning */
	call.done_before = 12 * KIB;
	cr_assert_eq(partial(&call, mem + 12 * KIB, 20 * KIB), -EFAULT);
	cr_assert_eq(mprotect(mem, 32 * KIB, PROT_READ | PROT_WRITE), 0);
	cr_assert_eq(partial(&call, mem + 12 * KIB, 20 * KIB), 32 * KIB);
	cr_assert_lt(t_mismatch(mem, 32 * KIB, 8 * KIB, 1), 0);
	cr_assert_eq(call.iocb.ki_pos, 40 * KIB);
	free(call.buf);
	cr_assert_eq(munmap(mem, 32 * KIB), 0);
	fs_close(fs);
}

Test(direct_flags, df03_a_partial_write_ends_with_a_block)
{
	struct fs *fs = fs_open(NULL, false);
	char *mem = memory_with_hole(12 * KIB);
	struct call call;

	call_init(&call, fs, IOMAP_ITER_SOURCE, 4 * KIB, 0);
	t_fill(mem, 12 * KIB, 1024, 2);
	call.dio_flags = IOMAP_DIO_PARTIAL;
	call.iocb.ki_pos = 1024;
	/* 12 KiB are good, up to byte 13 KiB of the file */
	cr_assert_eq(partial(&call, mem, 32 * KIB), 11 * KIB);
	cr_assert(ts_dev_has(&fs->ts, ADDR + 1024, 11 * KIB, 1024, 2));
	cr_assert(ts_dev_has(&fs->ts, ADDR + 12 * KIB, 4 * KIB, 12 * KIB, 1));
	/* from the second segment on nothing */
	call.iocb.ki_pos = 0;
	cr_assert_eq(call_vec(&call, (struct iovec[]){ { mem, 8 * KIB }, { NULL, 8 * KIB } }, 2),
		     8 * KIB);
	cr_assert_eq(munmap(mem, 32 * KIB), 0);
	free(call.buf);
	fs_close(fs);
}

Test(direct_flags, df03_what_is_short_by_bad_memory_is_returned)
{
	struct fs *fs = fs_open(&able, true);
	char *mem = memory_with_hole(12 * KIB);
	struct call call;

	call_init(&call, fs, IOMAP_ITER_DEST, 4 * KIB, 0);
	call.dio_flags = IOMAP_DIO_PARTIAL;
	call.iocb.ki_complete = on_complete;
	td_async(fs->ts.dev);
	cr_assert_eq(partial(&call, mem, 32 * KIB), 12 * KIB);
	cr_assert_eq(call.calls, 0U);
	/* who will not wait is told by ki_complete */
	td_hold(fs->ts.dev, TD_ALL);
	call.iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
	call.iocb.ki_pos = 0;
	cr_assert_eq(partial(&call, mem, 32 * KIB), -IOMAP_EIOCBQUEUED);
	td_open_gates(fs->ts.dev);
	cr_assert_eq(call_result(&call), 12 * KIB);
	/* and so is one whose memory is good */
	td_hold(fs->ts.dev, TD_ALL);
	call.iocb.ki_flags &= ~IOMAP_IOCB_NOWAIT;
	call.iocb.ki_pos = 0;
	call.calls = 0;
	cr_assert_eq(partial(&call, mem, 8 * KIB), -IOMAP_EIOCBQUEUED);
	td_open_gates(fs->ts.dev);
	cr_assert_eq(call_result(&call), 8 * KIB);
	cr_assert_eq(munmap(mem, 32 * KIB), 0);
	free(call.buf);
	fs_close(fs);
}

/* ---- DF04 ---- */

Test(direct_flags, df04_nowait_goes_down_with_the_bios)
{
	struct fs *fs = fs_open(&able, false);

	cr_assert_eq(once(fs, IOMAP_ITER_SOURCE, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), 8 * KIB);
	cr_assert(td_nth(fs->ts.dev, TD_WRITE, 0).opf & IOMAP_REQ_NOWAIT);
	cr_assert_eq(once(fs, IOMAP_ITER_DEST, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), 8 * KIB);
	cr_assert(td_nth(fs->ts.dev, TD_READ, 0).opf & IOMAP_REQ_NOWAIT);
	cr_assert_eq(once(fs, IOMAP_ITER_DEST, 0, 0, 8 * KIB, 0), 8 * KIB);
	cr_assert(!(td_nth(fs->ts.dev, TD_READ, 1).opf & IOMAP_REQ_NOWAIT));
	/* a queue that is full is the call's answer, and no matter for the log */
	td_fail(fs->ts.dev, TD_ALL, 0, fs->ts.dev->bytes, -EAGAIN, 1);
	cr_assert_eq(once(fs, IOMAP_ITER_SOURCE, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), -EAGAIN);
	cr_assert_eq(fs->error, -EAGAIN);
	cr_assert_eq(t_log_count(&fs->ts.log, IOMAP_LOG_ERROR, "direct"), 0U);
	fs_close(fs);
}

Test(direct_flags, df04_a_device_that_may_block_is_eagain_before_anything_is_sent)
{
	struct iomap_bdev_limits limits = able;
	struct fs *fs;

	limits.flags &= ~IOMAP_BDEV_HAS_NOWAIT;
	fs = fs_open(&limits, false);
	cr_assert_eq(once(fs, IOMAP_ITER_SOURCE, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), -EAGAIN);
	cr_assert_eq(once(fs, IOMAP_ITER_DEST, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), -EAGAIN);
	cr_assert_eq(td_count(fs->ts.dev, TD_ALL), 0U);
	/* holes need no device */
	ts_punch(&fs->ts, 0, 8 * KIB);
	cr_assert_eq(once(fs, IOMAP_ITER_DEST, IOMAP_IOCB_NOWAIT, 0, 8 * KIB, 0), 8 * KIB);
	fs_close(fs);
}

static atomic_int failing = -1; /* an IOMAP_FAIL_xxx */

static bool fail_what_is_asked(void *arg, enum iomap_fail_kind kind, uint64_t n)
{
	(void)arg, (void)n;
	return (int)kind == atomic_load(&failing);
}

Test(direct_flags, df04_an_exhausted_pool_is_eagain)
{
	struct iomap_engine_opts opts;
	struct fs *fs = calloc(1, sizeof(*fs));
	struct call call;

	t_must(fs != NULL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.fail_nth = fail_what_is_asked;
	ts_prepare(&fs->ts, &(struct ts_config){ .i_size = FILE_BYTES, .limits = &able,
						 .opts = &opts });
	fs->ts.hook.open = open_all;
	ts_begin(&fs->ts);
	ts_map(&fs->ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, ADDR);
	cr_assert_eq(iomap_file_open(&fs->ts.inode, IOMAP_O_DIRECT, &fs->file), 0);
	call_init(&call, fs, IOMAP_ITER_SOURCE, 8 * KIB, 0);
	atomic_store(&failing, IOMAP_FAIL_POOL);
	for (unsigned async = 0; async < 2; async++) {
		call.iocb.ki_complete = async ? on_complete : NULL;
		call.iocb.ki_flags &= ~IOMAP_IOCB_NOWAIT;
		cr_assert_eq(call_run(&call), -ENOMEM);
		cr_assert_eq(iomap_ptr_err(call_start(&call)), -ENOMEM);
		call.iocb.ki_flags |= IOMAP_IOCB_NOWAIT;
		cr_assert_eq(call_run(&call), -EAGAIN);
		cr_assert_eq(iomap_ptr_err(call_start(&call)), -EAGAIN);
	}
	atomic_store(&failing, -1);
	call.iocb.ki_complete = NULL;
	cr_assert_eq(call_run(&call), 8 * KIB);
	cr_assert_eq(call.calls, 0U);
	free(call.buf);
	fs_close(fs);
}

/* ---- DF05 ---- */

/* A DSYNC write of 8 KiB at 0: which of its writes carry FUA, and flushes and commits. */
static void expect_sync(struct fs *fs, uint32_t iocb_flags, bool fua, unsigned flushes,
			unsigned commits)
{
	ssize_t ret;

	td_reset(fs->ts.dev);
	ts_reset(&fs->ts);
	ret = once(fs, IOMAP_ITER_SOURCE, iocb_flags, 0, 8 * KIB, 0);
	cr_assert_eq(ret, 8 * KIB);
	cr_assert_eq(!!(td_nth(fs->ts.dev, TD_WRITE, 0).opf & IOMAP_REQ_FUA), fua);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), flushes);
	cr_assert_eq(ts_calls(&fs->ts, TS_COMMIT), commits);
}

static int commit(struct ts *ts, int datasync)
{
	(void)ts, (void)datasync;
	return 0;
}

Test(direct_flags, df05_a_pure_overwrite_goes_by_fua)
{
	struct fs *fs = fs_open(&able, false);

	fs->ts.hook.commit = commit;
	expect_sync(fs, 0, false, 0, 0);
	expect_sync(fs, IOMAP_IOCB_DSYNC, true, 0, 0);
	/* several bios, none of which needs a flush */
	fs->ts.map_max_bytes = 4 * KIB;
	expect_sync(fs, IOMAP_IOCB_DSYNC, true, 0, 0);
	cr_assert_eq(td_count(fs->ts.dev, TD_WRITE), 2U);
	cr_assert(td_nth(fs->ts.dev, TD_WRITE, 1).opf & IOMAP_REQ_FUA);
	/* all metadata: it is committed, and then everything flushed */
	expect_sync(fs, IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC, false, 1, 1);
	fs_close(fs);
}

Test(direct_flags, df05_metadata_that_is_needed_is_committed)
{
	struct fs *fs = fs_open(&able, false);

	fs->ts.hook.commit = commit;
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_MAPPED, IOMAP_F_DIRTY, ADDR);
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_UNWRITTEN, 0, ADDR);
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_MAPPED, IOMAP_F_NEW, ADDR);
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_MAPPED, IOMAP_F_SHARED, ADDR);
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	/* the first half in place, the second not: one flush for both */
	ts_map(&fs->ts, 0, 4 * KIB, IOMAP_MAPPED, 0, ADDR);
	expect_sync(fs, IOMAP_IOCB_DSYNC, true, 1, 1);
	ts_map(&fs->ts, 0, 8 * KIB, IOMAP_MAPPED, 0, ADDR);
	/* the size has to be durable as well */
	iomap_i_size_write(&fs->ts.inode, 6 * KIB);
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	fs_close(fs);
}

Test(direct_flags, df05_without_fua_one_flush_is_for_all_bios)
{
	struct iomap_bdev_limits limits = able;
	struct fs *fs;

	limits.flags &= ~IOMAP_BDEV_HAS_FUA;
	fs = fs_open(&limits, false);
	fs->ts.map_max_bytes = 4 * KIB;
	expect_sync(fs, IOMAP_IOCB_DSYNC, false, 1, 1);
	fs_close(fs);
	/* nothing to flush: the flag costs nothing, and a file below may have metadata */
	limits.flags &= ~IOMAP_BDEV_HAS_WRITE_CACHE;
	fs = fs_open(&limits, false);
	expect_sync(fs, IOMAP_IOCB_DSYNC, true, 0, 0);
	fs_close(fs);
}

/* The layer of files does the same, without i_rwsem. */
Test(direct_flags, df05_a_dsync_file_writes_through)
{
	struct fs *fs = fs_open(&able, true);
	struct iomap_iov_iter iter;
	struct iomap_file *file;
	struct call call;

	fs->ts.hook.commit = commit;
	cr_assert_eq(iomap_file_open(&fs->ts.inode, IOMAP_O_DIRECT | IOMAP_O_DSYNC, &file), 0);
	call_init(&call, fs, IOMAP_ITER_SOURCE, 8 * KIB, 0);
	cr_assert_eq(iomap_write(file, call.buf, 8 * KIB, 0), 8 * KIB);
	cr_assert(td_nth(fs->ts.dev, TD_WRITE, 0).opf & IOMAP_REQ_FUA);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 0U);
	cr_assert_eq(ts_calls(&fs->ts, TS_COMMIT), 0U);
	/* and does not where the file grows */
	cr_assert_eq(iomap_write(file, call.buf, 8 * KIB, FILE_BYTES - 4 * KIB), 8 * KIB);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 1U);
	cr_assert_eq(ts_calls(&fs->ts, TS_COMMIT), 1U);
	/* asynchronous, in a worker or not */
	td_reset(fs->ts.dev);
	iomap_kiocb_init(&call.iocb, file, 0);
	call.iocb.ki_complete = on_complete;
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_SOURCE, call.buf, 8 * KIB);
	call.ret = iomap_write_iter(&call.iocb, &iter);
	cr_assert_eq(call_result(&call), 8 * KIB);
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), 0U);
	cr_assert_eq(iomap_file_close(file), 0);
	free(call.buf);
	fs_close(fs);
}

/* ---- DF06 ---- */

static uint32_t hipri_opf(struct fs *fs, uint32_t iocb_flags, unsigned dio_flags, size_t len,
			  bool async)
{
	struct call call;
	uint32_t opf;

	td_reset(fs->ts.dev);
	call_init(&call, fs, IOMAP_ITER_DEST, len, 0);
	call.iocb.ki_flags |= iocb_flags;
	call.iocb.ki_complete = async ? on_complete : NULL;
	call.dio_flags = dio_flags;
	call_run(&call);
	t_must(call_result(&call) == (ssize_t)len);
	t_must(call.calls == (call.ret == -IOMAP_EIOCBQUEUED));
	opf = td_nth(fs->ts.dev, TD_READ, td_count(fs->ts.dev, TD_READ) - 1).opf |
	      td_nth(fs->ts.dev, TD_READ, 0).opf;
	free(call.buf);
	return opf & IOMAP_REQ_POLLED;
}

Test(direct_flags, df06_a_single_bio_that_nobody_waits_for_is_polled)
{
	struct fs *fs = fs_open(&able, true);

	cr_assert(hipri_opf(fs, IOMAP_IOCB_HIPRI, 0, 8 * KIB, true));
	cr_assert(!hipri_opf(fs, 0, 0, 8 * KIB, true));
	cr_assert(!hipri_opf(fs, IOMAP_IOCB_HIPRI, 0, 8 * KIB, false));
	cr_assert(!hipri_opf(fs, IOMAP_IOCB_HIPRI, IOMAP_DIO_FORCE_WAIT, 8 * KIB, true));
	fs->ts.map_max_bytes = 4 * KIB;
	cr_assert(!hipri_opf(fs, IOMAP_IOCB_HIPRI, 0, 8 * KIB, true));
	cr_assert(hipri_opf(fs, IOMAP_IOCB_HIPRI, 0, 4 * KIB, true));
	fs_close(fs);
}

/* ---- all of them ---- */

static const struct combination {
	bool write;
	uint32_t iocb;
	unsigned dio;
	ssize_t ret;
} illegal[] = {
	{ false, 0x0800, 0, -EINVAL },
	{ false, 0x80000000U, 0, -EINVAL },
	{ false, 0, 0x10, -EINVAL },
	{ true, 0, 0x20000000, -EINVAL },
	{ true, 0, IOMAP_DIO_UNWRITTEN, -EINVAL },
	{ false, IOMAP_IOCB_WRITE, 0, -EINVAL },
	{ false, IOMAP_IOCB_WRITE, IOMAP_DIO_FORCE_WAIT, -EINVAL },
	{ false, IOMAP_IOCB_ATOMIC, 0, -EINVAL },
	{ false, IOMAP_IOCB_NOTHROTTLE, 0, -EINVAL },
	{ true, IOMAP_IOCB_ATOMIC, IOMAP_DIO_PARTIAL, -EINVAL },
	{ true, 0, IOMAP_DIO_PARTIAL | IOMAP_DIO_BOUNCE, -EINVAL },
	{ false, 0, IOMAP_DIO_PARTIAL | IOMAP_DIO_BOUNCE, -EINVAL },
};

Test(direct_flags, df01_df02_df03_df04_df05_df06_what_is_illegal_is_refused)
{
	struct fs *fs = fs_open(&able, true);

	for (size_t i = 0; i < sizeof(illegal) / sizeof(illegal[0]); i++) {
		const struct combination *c = &illegal[i];

		for (unsigned async = 0; async < 2; async++) {
			struct call call;

			call_init(&call, fs, c->write, 8 * KIB, 0);
			call.iocb.ki_flags |= c->iocb;
			call.iocb.ki_complete = async ? on_complete : NULL;
			call.dio_flags = c->dio;
			cr_assert_eq(call_run(&call), c->ret, "combination %zu", i);
			cr_assert_eq(iomap_ptr_err(call_start(&call)), c->ret, "combination %zu", i);
			cr_assert_eq(call.calls, 0U);
			free(call.buf);
		}
	}
	cr_assert_eq(td_count(fs->ts.dev, TD_ALL), 0U);
	cr_assert_eq(ts_calls(&fs->ts, TS_BEGIN), 0U);
	fs_close(fs);
}

static const uint32_t legal_iocb[] = { IOMAP_IOCB_DSYNC,  IOMAP_IOCB_SYNC,   IOMAP_IOCB_NOWAIT,
				       IOMAP_IOCB_CHECKED, IOMAP_IOCB_HIPRI, IOMAP_IOCB_ATOMIC,
				       IOMAP_IOCB_WRITE,  IOMAP_IOCB_DONTCACHE };
static const unsigned legal_dio[] = { IOMAP_DIO_FORCE_WAIT, IOMAP_DIO_OVERWRITE_ONLY,
				      IOMAP_DIO_PARTIAL, IOMAP_DIO_BOUNCE };

static bool is_illegal(bool write, uint32_t iocb, unsigned dio)
{
	for (size_t i = 0; i < sizeof(illegal) / sizeof(illegal[0]); i++)
		if (illegal[i].write == write && (iocb & illegal[i].iocb) == illegal[i].iocb &&
		    (dio & illegal[i].dio) == illegal[i].dio)
			return true;
	return false;
}

/* One combination does what each of its flags says. */
static void try_legal(struct fs *fs, bool write, uint32_t iocb, unsigned dio, bool async)
{
	const bool fua = write && iocb & IOMAP_IOCB_DSYNC && !(iocb & IOMAP_IOCB_SYNC);
	struct call call;
	struct td_io io;
	ssize_t ret;

	td_reset(fs->ts.dev);
	ts_reset(&fs->ts);
	call_init(&call, fs, write, 8 * KIB, 8 * KIB);
	call.iocb.ki_flags |= iocb;
	call.iocb.ki_complete = async ? on_complete : NULL;
	call.dio_flags = dio;
	call_run(&call);
	ret = call_result(&call);
	cr_assert_eq(ret, 8 * KIB, "write %d iocb %#x dio %#x: %zd", write, iocb, dio, ret);
	cr_assert_eq(call.calls, call.ret == -IOMAP_EIOCBQUEUED);
	cr_assert(!(dio & IOMAP_DIO_FORCE_WAIT && call.calls));
	io = td_nth(fs->ts.dev, TD_READ | TD_WRITE, 0);
	cr_assert_eq(!!(io.opf & IOMAP_REQ_NOWAIT), !!(iocb & IOMAP_IOCB_NOWAIT));
	cr_assert_eq(!!(io.opf & IOMAP_REQ_ATOMIC), !!(iocb & IOMAP_IOCB_ATOMIC));
	cr_assert_eq(!!(io.opf & IOMAP_REQ_FUA), fua);
	cr_assert_eq(!!(io.opf & IOMAP_REQ_POLLED),
		     async && iocb & IOMAP_IOCB_HIPRI && !(dio & IOMAP_DIO_FORCE_WAIT));
	cr_assert_eq(td_count(fs->ts.dev, TD_FLUSH), write && iocb & IOMAP_IOCB_SYNC ? 1U : 0U);
	cr_assert_eq(!!(ts_last(&fs->ts, TS_BEGIN).flags & IOMAP_OVERWRITE_ONLY),
		     write && dio & IOMAP_DIO_OVERWRITE_ONLY);
	free(call.buf);
}

Test(direct_flags, df01_df02_df03_df04_df05_df06_every_legal_combination, .timeout = 120)
{
	struct fs *fs = fs_open(&able, true);
	const unsigned nr_iocb = sizeof(legal_iocb) / sizeof(legal_iocb[0]);
	const unsigned nr_dio = sizeof(legal_dio) / sizeof(legal_dio[0]);
	unsigned tried = 0;

	fs->ts.hook.commit = commit; /* SYNC then is more than its data */
	ts_map(&fs->ts, 0, FILE_BYTES, IOMAP_MAPPED, IOMAP_F_ATOMIC_BIO, ADDR);
	td_async(fs->ts.dev);
	for (unsigned set = 0; set < 1U << (nr_iocb + nr_dio + 2); set++) {
		bool write = set & 1, async = set & 2;
		uint32_t iocb = 0;
		unsigned dio = 0;

		for (unsigned i = 0; i < nr_iocb; i++)
			iocb |= set & 4U << i ? legal_iocb[i] : 0;
		for (unsigned i = 0; i < nr_dio; i++)
			dio |= set & 4U << (nr_iocb + i) ? legal_dio[i] : 0;
		if (is_illegal(write, iocb, dio))
			continue;
		try_legal(fs, write, iocb, dio, async);
		tried++;
	}
	cr_assert_gt(tried, 4000U);
	fs_close(fs);
}
