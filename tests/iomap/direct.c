/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * direct.c - DI, DR, DW: I/O between the caller's memory and the device.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024

/* A store whose inode has a direct opener, and whose end_io converts what was unwritten. */
struct ds {
	struct ts ts; /* first: ts_of() */
	struct iomap_file *file;
	struct iomap_dio_ops dops;
	/* end_io */
	unsigned ended;
	int64_t pos;
	ssize_t size;
	int error;
	unsigned flags;
	uint64_t tick;
	int64_t i_size; /* when it was called */
	int ret;	/* what it returns */
	void (*hook)(struct ds *ds); /* before anything is converted */
};

static struct ds *ds_of(struct iomap_inode *inode)
{
	return (struct ds *)(void *)ts_of(inode);
}

static int end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct ds *ds = ds_of(iomap_file_inode(iocb->ki_filp));

	ds->ended++;
	ds->pos = iocb->ki_pos;
	ds->size = size;
	ds->error = error;
	ds->flags = flags;
	ds->tick = t_tick();
	ds->i_size = iomap_i_size_read(&ds->ts.inode);
	if (ds->hook)
		ds->hook(ds);
	if (!error)
		ts_convert(&ds->ts, ds->pos, ds->pos + size);
	return ds->ret;
}

static struct ds *ds_open(const struct ts_config *cfg)
{
	struct ds *ds = calloc(1, sizeof(*ds));

	t_must(ds != NULL);
	ts_prepare(&ds->ts, cfg);
	ds->ts.hook.open = ts_allow_direct;
	ds->dops.end_io = end_io;
	ds->ts.i_op.dio_ops = &ds->dops;
	ts_begin(&ds->ts);
	cr_assert_eq(iomap_file_open(&ds->ts.inode, IOMAP_O_DIRECT, &ds->file), 0);
	return ds;
}

static void ds_close(struct ds *ds)
{
	cr_assert_eq(iomap_file_close(ds->file), 0);
	ts_close(&ds->ts); /* frees it */
}

static void *memory(size_t len)
{
	void *mem = NULL;

	t_must(posix_memalign(&mem, 4096, len ? len : 1) == 0);
	memset(mem, 0x5a, len);
	return mem;
}

/* iomap_dio_rw() under i_rwsem. */
static ssize_t dio_vec(struct ds *ds, unsigned direction, const struct iovec *iov, size_t nr,
		       int64_t pos)
{
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	size_t count;
	ssize_t n;

	iomap_iov_iter_init(&iter, direction, iov, nr, SSIZE_MAX);
	count = iomap_iov_iter_count(&iter);
	iomap_kiocb_init(&iocb, ds->file, pos);
	iomap_inode_lock(&ds->ts.inode);
	n = iomap_dio_rw(&iocb, &iter, &ds->ts.ops, &ds->dops, 0, ds, 0);
	iomap_inode_unlock(&ds->ts.inode);
	t_must(iocb.ki_pos == pos + (n > 0 ? n : 0));
	t_must(iomap_iov_iter_count(&iter) == count - (size_t)(n > 0 ? n : 0));
	return n;
}

static ssize_t dio_bounce(struct ds *ds, unsigned direction, void *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	ssize_t n;

	iomap_iov_iter_ubuf(&iter, direction, buf, len);
	iomap_kiocb_init(&iocb, ds->file, pos);
	iomap_inode_lock(&ds->ts.inode);
	n = iomap_dio_rw(&iocb, &iter, &ds->ts.ops, &ds->dops, IOMAP_DIO_BOUNCE, ds, 0);
	iomap_inode_unlock(&ds->ts.inode);
	t_must(iocb.ki_pos == pos + (n > 0 ? n : 0));
	t_must(iomap_iov_iter_count(&iter) == len - (size_t)(n > 0 ? n : 0));
	return n;
}

static ssize_t dio_read(struct ds *ds, void *buf, size_t len, int64_t pos)
{
	return dio_vec(ds, IOMAP_ITER_DEST, &(struct iovec){ buf, len }, 1, pos);
}

/* Write the pattern. */
static ssize_t dio_write(struct ds *ds, size_t len, int64_t pos, unsigned seed)
{
	void *buf = memory(len);
	ssize_t n;

	t_fill(buf, len, pos, seed);
	n = dio_vec(ds, IOMAP_ITER_SOURCE, &(struct iovec){ buf, len }, 1, pos);
	free(buf);
	return n;
}

static bool direct_reads(struct ds *ds, int64_t pos, size_t len, unsigned seed)
{
	void *buf = memory(len);
	bool good = dio_read(ds, buf, len, pos) == (ssize_t)len &&
		    t_mismatch(buf, len, pos, seed) < 0;

	free(buf);
	return good;
}

static struct ds *mapped(int64_t size, uint32_t blkbits)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = size, .blkbits = blkbits });

	ts_poison(&ds->ts);
	ts_map(&ds->ts, 0, (uint64_t)size, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&ds->ts, 64 * KIB, (size_t)size, 0, 1);
	return ds;
}

/* ---- DI01 ---- */

Test(direct, di01_reads_past_the_cache_into_every_segment)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *a = memory(4 * KIB), *b = memory(8 * KIB);
	struct iovec iov[] = { { a, 4 * KIB }, { NULL, 0 }, { b, 8 * KIB } };

	cr_assert_eq(dio_vec(ds, IOMAP_ITER_DEST, iov, 3, 8 * KIB), 12 * KIB);
	cr_assert_lt(t_mismatch(a, 4 * KIB, 8 * KIB, 1), 0);
	cr_assert_lt(t_mismatch(b, 8 * KIB, 12 * KIB, 1), 0);
	cr_assert_eq(td_count(ds->ts.dev, TD_READ), 1U);
	cr_assert_eq(td_nth(ds->ts.dev, TD_READ, 0).addr, 72U * KIB);
	cr_assert_eq(ts_nth(&ds->ts, TS_BEGIN, 0).flags, (unsigned)IOMAP_DIRECT);
	cr_assert_eq(t_stats(ds->ts.engine).misses_nr + t_stats(ds->ts.engine).hits_nr,
		     t_stats(ds->ts.engine).cache_bytes / 4096); /* ts_begin()'s */
	cr_assert_eq(ts_calls(&ds->ts, TS_END), 1U);
	free(a);
	free(b);
	ds_close(ds);
}

Test(direct, di01_writes_past_the_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);

	cr_assert_eq(dio_write(ds, 16 * KIB, 4 * KIB, 2), 16 * KIB);
	cr_assert(ts_dev_has(&ds->ts, 68 * KIB, 16 * KIB, 4 * KIB, 2));
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 4 * KIB, 0, 1));
	cr_assert_eq(ts_nth(&ds->ts, TS_BEGIN, 0).flags, (unsigned)(IOMAP_DIRECT | IOMAP_WRITE));
	cr_assert_eq(td_count(ds->ts.dev, TD_WRITE), 1U);
	cr_assert_eq(td_count(ds->ts.dev, TD_READ), 0U);
	cr_assert(ts_reads(&ds->ts, 4 * KIB, 16 * KIB, 2));
	ds_close(ds);
}

Test(direct, di01_many_mappings_are_one_call)
{
	struct ds *ds = mapped(64 * KIB, 12);

	ds->ts.map_max_bytes = 8 * KIB;
	cr_assert_eq(dio_write(ds, 40 * KIB, 4 * KIB, 2), 40 * KIB);
	cr_assert_eq(ts_calls(&ds->ts, TS_BEGIN), 6U);
	cr_assert_eq(ts_calls(&ds->ts, TS_END), 6U);
	cr_assert_eq(ds->ended, 1U);
	cr_assert_eq(ds->size, 40 * KIB);
	cr_assert(direct_reads(ds, 4 * KIB, 40 * KIB, 2));
	ds_close(ds);
}

Test(direct, di01_bios_stay_within_the_device_limits)
{
	const struct iomap_bdev_limits limits = { .logical_block_size = 512,
						  .physical_block_size = 512,
						  .dma_alignment = 512,
						  .max_segments_nr = 3,
						  .max_transfer_bytes = 10 * KIB };
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB, .limits = &limits });
	char *buf = memory(64 * KIB);
	struct iovec iov[16];

	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	/* backwards, so that no two touch */
	for (size_t i = 0; i < 16; i++) {
		iov[i] = (struct iovec){ buf + (15 - i) * 4 * KIB, 4 * KIB };
		t_fill(iov[i].iov_base, 4 * KIB, (int64_t)i * 4 * KIB, 3);
	}
	cr_assert_eq(dio_vec(ds, IOMAP_ITER_SOURCE, iov, 16, 0), 64 * KIB);
	for (size_t i = 0; i < td_count(ds->ts.dev, TD_WRITE); i++) {
		cr_assert_leq(td_nth(ds->ts.dev, TD_WRITE, i).bytes, 10U * KIB);
		cr_assert_leq(td_nth(ds->ts.dev, TD_WRITE, i).vcnt, 3U);
	}
	cr_assert_eq(td_bytes(ds->ts.dev, TD_WRITE), 64U * KIB);
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 64 * KIB, 0, 3));
	memset(buf, 0, 64 * KIB);
	cr_assert_eq(dio_vec(ds, IOMAP_ITER_DEST, iov, 16, 0), 64 * KIB);
	for (size_t i = 0; i < 16; i++)
		cr_assert_lt(t_mismatch(iov[i].iov_base, 4 * KIB, (int64_t)i * 4 * KIB, 3), 0);
	free(buf);
	ds_close(ds);
}

Test(direct, di01_what_is_not_supported_is_refused)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(4 * KIB);
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;

	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, buf, 4 * KIB);
	iomap_kiocb_init(&iocb, ds->file, 0);
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, &ds->ts.ops, NULL, 0x10, NULL, 0), -EINVAL);
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, &ds->ts.ops, NULL, 0, NULL, SSIZE_MAX), -EINVAL);
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, NULL, NULL, 0, NULL, 0), -EINVAL);
	iocb.ki_flags |= 0x8000;
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, &ds->ts.ops, NULL, 0, NULL, 0), -EINVAL);
	iomap_kiocb_init(&iocb, ds->file, -4096);
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, &ds->ts.ops, NULL, 0, NULL, 0), -EINVAL);
	iomap_kiocb_init(&iocb, ds->file, 0);
	cr_assert_eq(iomap_dio_rw(&iocb, &iter, &ds->ts.ops, NULL, 0, NULL, 0), 4 * KIB);
	cr_assert_eq(ts_calls(&ds->ts, TS_BEGIN), 1U);
	free(buf);
	ds_close(ds);
}

/* ---- DI02 ---- */

Test(direct, di02_what_came_before_an_error_is_a_short_count)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(32 * KIB);

	ds->ts.map_max_bytes = 8 * KIB;
	ts_fail(&ds->ts, TS_BEGIN, 3, -ENOLCK, 2);
	cr_assert_eq(dio_read(ds, buf, 32 * KIB, 0), 16 * KIB);
	cr_assert_eq(dio_read(ds, buf, 16 * KIB, 16 * KIB), -ENOLCK);
	cr_assert_eq(ds->error, -ENOLCK);
	cr_assert_lt(t_mismatch(buf, 16 * KIB, 0, 1), 0);
	ts_fail(&ds->ts, TS_BEGIN, 2, -ENOTBLK, 1);
	cr_assert_eq(dio_write(ds, 16 * KIB, 0, 2), 8 * KIB);
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 8 * KIB, 0, 2));
	cr_assert(ts_dev_has(&ds->ts, 72 * KIB, 8 * KIB, 8 * KIB, 1));
	free(buf);
	ds_close(ds);
}

Test(direct, di02_a_device_error_is_the_result_and_one_log_line)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(32 * KIB);

	td_fail(ds->ts.dev, TD_READ, 72 * KIB, 4 * KIB, -EILSEQ, 1);
	cr_assert_eq(dio_read(ds, buf, 32 * KIB, 0), -EILSEQ);
	cr_assert_eq(ds->error, -EILSEQ);
	cr_assert_eq(t_log_count(&ds->ts.log, IOMAP_LOG_ERROR, "direct read of bytes [0, 32768)"),
		     1U);
	td_fail(ds->ts.dev, TD_WRITE, 72 * KIB, 4 * KIB, -EIO, 1);
	cr_assert_eq(dio_write(ds, 32 * KIB, 0, 2), -EIO);
	cr_assert_eq(t_log_count(&ds->ts.log, IOMAP_LOG_ERROR, "direct write"), 1U);
	free(buf);
	ds_close(ds);
}

Test(direct, di02_begin_may_ask_for_the_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(8 * KIB);

	ts_fail(&ds->ts, TS_BEGIN, 1, -ENOTBLK, 1);
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 2), -ENOTBLK);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	/* the file does it by itself: through the cache, and out of it */
	ts_fail(&ds->ts, TS_BEGIN, 1, -ENOTBLK, 1);
	t_fill(buf, 8 * KIB, 0, 2);
	ts_reset(&ds->ts);
	ts_fail(&ds->ts, TS_BEGIN, 1, -ENOTBLK, 2); /* shared, and then exclusive */
	cr_assert_eq(iomap_write(ds->file, buf, 8 * KIB, 0), 8 * KIB);
	cr_assert_eq(ts_last(&ds->ts, TS_BEGIN).flags, (unsigned)IOMAP_WRITE);
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 8 * KIB, 0, 2));
	cr_assert_null(iomap_filemap_get_folio(&ds->ts.inode.i_data, 0));
	ts_fail(&ds->ts, TS_BEGIN, 1, -ENOTBLK, 1);
	memset(buf, 0, 8 * KIB);
	cr_assert_eq(iomap_read(ds->file, buf, 8 * KIB, 0), 8 * KIB);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 0, 2), 0);
	free(buf);
	ds_close(ds);
}

/* A count that is short below the end of the file would be taken for that end. */
Test(direct, di02_the_rest_of_a_read_is_left_to_the_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(32 * KIB);

	ts_poison(&ds->ts);
	ts_dev_fill(&ds->ts, 64 * KIB, 64 * KIB, 0, 1);
	ts_map(&ds->ts, 8 * KIB, 4 * KIB, IOMAP_DELALLOC, 0, IOMAP_NULL_ADDR);
	cr_assert_eq(dio_read(ds, buf, 32 * KIB, 0), 8 * KIB);
	cr_assert_eq(dio_read(ds, buf, 8 * KIB, 8 * KIB), -ENOTBLK);
	memset(buf, 0x5a, 32 * KIB);
	cr_assert_eq(iomap_read(ds->file, buf, 32 * KIB, 0), 32 * KIB);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 0, 1), 0);
	cr_assert(t_all(buf + 8 * KIB, 4 * KIB, 0));
	cr_assert_lt(t_mismatch(buf + 12 * KIB, 20 * KIB, 12 * KIB, 1), 0);
	/* a begin that fails fails again, and what was read before it counts */
	ts_drop(&ds->ts);
	ts_map(&ds->ts, 8 * KIB, 4 * KIB, IOMAP_MAPPED, 0, 72 * KIB);
	ds->ts.map_max_bytes = 8 * KIB;
	ts_fail(&ds->ts, TS_BEGIN, 2, -ENOLCK, 1000);
	cr_assert_eq(iomap_read(ds->file, buf, 32 * KIB, 0), 8 * KIB);
	free(buf);
	ds_close(ds);
}

static long read_both(void *arg)
{
	struct ds *ds = arg;
	char *buf = memory(8 * KIB);

	t_must(iomap_read(ds->file, buf, 8 * KIB, 0) == 8 * KIB);
	t_must(t_mismatch(buf, 4 * KIB, 0, 1) < 0 && t_all(buf + 4 * KIB, 4 * KIB, 0));
	free(buf);
	return 0;
}

/* The write has reserved its block, and will have to come again, for the cache. */
static int read_meanwhile(struct ts *ts, int64_t pos, int64_t length, ssize_t written,
			  unsigned flags, struct iomap *iomap)
{
	struct t_task task;

	(void)pos, (void)length, (void)written;
	if (!(flags & IOMAP_WRITE))
		return 0;
	t_must(flags & IOMAP_DIRECT && iomap->type == IOMAP_DELALLOC);
	ts->hook.end = NULL;
	t_start(&task, read_both, ts);
	t_must(t_join(&task) == 0);
	return 0;
}

Test(direct, di02_dr01_a_read_beside_a_write_that_is_left_to_the_cache)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 8 * KIB, .alloc = TS_DELALLOC });
	char *buf = memory(4 * KIB);

	ts_poison(&ds->ts);
	ts_map(&ds->ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&ds->ts, 64 * KIB, 4 * KIB, 0, 1);
	ds->ts.hook.end = read_meanwhile;
	t_fill(buf, 4 * KIB, 4 * KIB, 2);
	cr_assert_eq(iomap_write(ds->file, buf, 4 * KIB, 4 * KIB), 4 * KIB);
	cr_assert_null(ds->ts.hook.end);
	cr_assert(direct_reads(ds, 4 * KIB, 4 * KIB, 2));
	free(buf);
	ds_close(ds);
}

static ssize_t hold_back(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			 uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)ts, (void)wpc, (void)folio, (void)pos, (void)len, (void)end_pos;
	return IOMAP_WB_DEFER;
}

Test(direct, di02_data_that_is_held_back_is_left_to_the_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(8 * KIB);

	ds->ts.hook.range = hold_back;
	ts_write(&ds->ts, 0, 4 * KIB, 2);
	cr_assert_eq(dio_read(ds, buf, 8 * KIB, 0), -ENOTBLK);
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), -ENOTBLK);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	cr_assert_eq(iomap_read(ds->file, buf, 8 * KIB, 0), 8 * KIB);
	cr_assert_lt(t_mismatch(buf, 4 * KIB, 0, 2), 0);
	cr_assert_lt(t_mismatch(buf + 4 * KIB, 4 * KIB, 4 * KIB, 1), 0);
	t_fill(buf, 8 * KIB, 0, 3);
	cr_assert_eq(iomap_write(ds->file, buf, 8 * KIB, 0), 8 * KIB);
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 3));
	ds->ts.hook.range = NULL;
	cr_assert(direct_reads(ds, 0, 8 * KIB, 3));
	free(buf);
	ds_close(ds);
}

static bool keep(struct iomap_folio *folio, unsigned gfp)
{
	(void)folio, (void)gfp;
	return false;
}

Test(direct, di02_a_cache_that_cannot_be_invalidated_gives_enotblk)
{
	struct ds *ds = mapped(64 * KIB, 12);

	cr_assert(ts_reads(&ds->ts, 0, 4 * KIB, 1));
	ds->ts.a_ops.release_folio = keep;
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), -ENOTBLK);
	cr_assert_eq(td_count(ds->ts.dev, TD_WRITE), 0U);
	cr_assert(direct_reads(ds, 0, 8 * KIB, 1)); /* a read leaves the cache alone */
	ds->ts.a_ops.release_folio = NULL;
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), 8 * KIB);
	ds_close(ds);
}

static int srcmap_below(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	(void)length;
	if (!(flags & IOMAP_WRITE))
		return 0;
	*srcmap = *iomap;
	iomap->addr = 256 * KIB + (uint64_t)iomap->offset;
	iomap->flags |= IOMAP_F_SHARED | IOMAP_F_NEW;
	(void)ts, (void)pos;
	return 0;
}

Test(direct, di02_a_part_of_a_shared_block_goes_through_the_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);

	ds->ts.hook.begin = srcmap_below;
	cr_assert_eq(dio_write(ds, 1 * KIB, 512, 2), -ENOTBLK);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	cr_assert_eq(dio_write(ds, 9 * KIB, 0, 2), 8 * KIB);
	cr_assert_eq(ds->flags, IOMAP_DIO_COW);
	cr_assert(ts_dev_has(&ds->ts, 256 * KIB, 8 * KIB, 0, 2));
	cr_assert(ts_dev_all(&ds->ts, 264 * KIB, 4 * KIB, TS_POISON));
	ds_close(ds);
}

Test(direct, di02_an_error_of_end_io_is_the_result)
{
	struct ds *ds = mapped(64 * KIB, 12);

	ds->ret = -EDQUOT;
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), -EDQUOT);
	cr_assert_eq(ds->size, 8 * KIB);
	cr_assert_eq(ds->error, 0);
	td_fail(ds->ts.dev, TD_WRITE, 0, ds->ts.dev->bytes, -EIO, 1);
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), -EIO); /* the first error wins */
	ds_close(ds);
}

/* ---- DO: hooks of the bios ---- */

/* In front of each bio. */
struct front {
	struct ds *ds;
	int64_t file_offset;
};

static struct {
	atomic_uint submitted, ended;
	int64_t first, last; /* file offsets */
} hooked;

static struct front *front_of(struct iomap_bio *bio)
{
	return (struct front *)(void *)bio - 1;
}

static void own_bi_end_io(struct iomap_bio *bio)
{
	t_must(front_of(bio)->ds);
	t_must(front_of(bio)->file_offset >= 8 * KIB && front_of(bio)->file_offset <= 32 * KIB);
	atomic_fetch_add(&hooked.ended, 1);
	iomap_dio_bio_end_io(bio);
}

static void own_submit_io(const struct iomap_iter *iter, struct iomap_bio *bio, int64_t file_offset)
{
	struct ds *ds = ds_of(iter->inode);

	t_must(bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT ==
	       iter->iomap.addr + (uint64_t)(file_offset - iter->iomap.offset));
	*front_of(bio) = (struct front){ ds, file_offset };
	if (!atomic_fetch_add(&hooked.submitted, 1))
		hooked.first = file_offset;
	hooked.last = file_offset > hooked.last ? file_offset : hooked.last;
	bio->bi_end_io = own_bi_end_io;
	iomap_submit_bio(bio);
}

Test(direct, do01_do03_do04_bios_of_an_own_set_are_submitted_and_ended_by_hooks)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct iomap_bio_set set;

	cr_assert_eq(iomap_bio_set_init(&set, ds->ts.engine, sizeof(struct front), 4), 0);
	ds->dops.bio_set = &set;
	ds->dops.submit_io = own_submit_io;
	ds->ts.map_max_bytes = 8 * KIB;
	td_async(ds->ts.dev);
	cr_assert_eq(dio_write(ds, 32 * KIB, 8 * KIB, 2), 32 * KIB);
	cr_assert_eq(atomic_load(&hooked.submitted), 4U);
	cr_assert_eq(atomic_load(&hooked.ended), 4U);
	cr_assert_eq(hooked.first, 8 * KIB);
	cr_assert_eq(hooked.last, 32 * KIB);
	cr_assert(direct_reads(ds, 8 * KIB, 32 * KIB, 2));
	cr_assert_eq(atomic_load(&hooked.ended), 8U);
	td_fail(ds->ts.dev, TD_WRITE, 64 * KIB, 64 * KIB, -EIO, 1);
	cr_assert_eq(dio_write(ds, 32 * KIB, 8 * KIB, 3), -EIO);
	cr_assert_eq(atomic_load(&hooked.ended), atomic_load(&hooked.submitted));
	iomap_bio_set_exit(&set);
	ds_close(ds);
}

/* ---- DI05 ---- */

Test(direct, di05_misalignment_is_refused_before_anything_is_done)
{
	const struct iomap_bdev_limits limits = { .logical_block_size = 1024,
						  .physical_block_size = 4096,
						  .dma_alignment = 64,
						  .max_segments_nr = 16,
						  .max_transfer_bytes = 64 * KIB };
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB, .limits = &limits });
	char *buf = memory(16 * KIB);
	struct iovec parts[] = { { buf, 512 }, { buf + 4096, 1536 } };
	struct iovec fits[] = { { buf + 64, 1024 }, { buf + 4096, 2048 } };

	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_write(&ds->ts, 0, 4 * KIB, 1); /* dirty: not even this is written out */
	ts_reset(&ds->ts);
	for (unsigned dir = 0; dir < 2; dir++) {
		cr_assert_eq(dio_vec(ds, dir, &(struct iovec){ buf, 1024 }, 1, 512), -EINVAL);
		cr_assert_eq(dio_vec(ds, dir, &(struct iovec){ buf, 1536 }, 1, 0), -EINVAL);
		cr_assert_eq(dio_vec(ds, dir, &(struct iovec){ buf + 32, 1024 }, 1, 0), -EINVAL);
		cr_assert_eq(dio_vec(ds, dir, parts, 2, 0), -EINVAL);
	}
	cr_assert_eq(ts_calls(&ds->ts, TS_BEGIN), 0U);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	cr_assert_eq(dio_vec(ds, IOMAP_ITER_DEST, fits, 2, 1024), 3072);
	cr_assert_lt(t_mismatch(buf + 64, 1024, 1024, 1), 0);
	cr_assert_eq(iomap_write(ds->file, buf, 1024, 100 * KIB + 512), -EINVAL);
	cr_assert_eq(iomap_i_size_read(&ds->ts.inode), 64 * KIB); /* the gap was not begun */
	free(buf);
	ds_close(ds);
}

static struct iomap_bdev *other_bdev;

static int on_other_device(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
			   struct iomap *iomap, struct iomap *srcmap)
{
	(void)ts, (void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->bdev = other_bdev;
	return 0;
}

Test(direct, di05_a_mapping_on_another_device_is_held_against_that_one)
{
	const struct iomap_bdev_limits limits = { .logical_block_size = 4096,
						  .physical_block_size = 4096,
						  .dma_alignment = 512,
						  .max_segments_nr = 16,
						  .max_transfer_bytes = 64 * KIB };
	struct ds *ds = mapped(64 * KIB, 12);
	struct td *other = td_new(ds->ts.engine, 1 << 20, &limits);
	char *buf = memory(8 * KIB);

	other_bdev = other->bdev;
	ds->ts.hook.begin = on_other_device;
	cr_assert_eq(dio_read(ds, buf, 4 * KIB, 512), -EINVAL);
	cr_assert_eq(dio_write(ds, 512, 4096, 1), -EINVAL);
	cr_assert_eq(td_count(other, TD_ALL), 0U);
	cr_assert_eq(dio_write(ds, 8 * KIB, 4096, 1), 8 * KIB);
	cr_assert_eq(td_count(other, TD_WRITE), 1U);
	/* and fsync flushes it */
	cr_assert_eq(iomap_file_fsync(ds->file, 0), 0);
	cr_assert_eq(td_count(other, TD_FLUSH), 1U);
	free(buf);
	cr_assert_eq(iomap_file_close(ds->file), 0);
	td_free(other);
	ts_close(&ds->ts);
}

Test(direct, di05_with_bounce_it_goes_through_a_buffer)
{
	const struct iomap_bdev_limits limits = { .logical_block_size = 1024,
						  .physical_block_size = 4096,
						  .dma_alignment = 512,
						  .max_segments_nr = 16,
						  .max_transfer_bytes = 8 * KIB };
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 60000, .limits = &limits });
	char *buf = memory(80 * KIB);

	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&ds->ts, 64 * KIB, 64 * KIB, 0, 1);
	/* memory, position, length */
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_DEST, buf + 3, 20 * KIB, 4 * KIB), 20 * KIB);
	cr_assert_lt(t_mismatch(buf + 3, 20 * KIB, 4 * KIB, 1), 0);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_DEST, buf, 2000, 1025), 2000);
	cr_assert_lt(t_mismatch(buf, 2000, 1025, 1), 0);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_DEST, buf, 7, 1021), 7);
	cr_assert_lt(t_mismatch(buf, 7, 1021, 1), 0);
	/* the end of the file */
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_DEST, buf + 1, 10000, 59000), 1000);
	cr_assert_lt(t_mismatch(buf + 1, 1000, 59000, 1), 0);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_DEST, buf + 1, 1000, 60001), 0);
	/* writes: memory only */
	t_fill(buf + 7, 20 * KIB, 1024, 2);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_SOURCE, buf + 7, 20 * KIB, 1024), 20 * KIB);
	cr_assert(ts_dev_has(&ds->ts, 65 * KIB, 20 * KIB, 1024, 2));
	td_reset(ds->ts.dev);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_SOURCE, buf + 7, 1000, 1024), -ENOTBLK);
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_SOURCE, buf + 7, 1024, 1000), -ENOTBLK);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	/* what is aligned goes straight */
	cr_assert_eq(dio_bounce(ds, IOMAP_ITER_SOURCE, buf, 4 * KIB, 0), 4 * KIB);
	free(buf);
	ds_close(ds);
}

/* ---- DI06 ---- */

Test(direct, di06_holes_and_unwritten_space_read_as_zeros)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB });
	char *buf = memory(64 * KIB);

	ts_poison(&ds->ts);
	ts_map(&ds->ts, 8 * KIB, 8 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(&ds->ts, 64 * KIB, 8 * KIB, 8 * KIB, 1);
	ts_map(&ds->ts, 16 * KIB, 16 * KIB, IOMAP_UNWRITTEN, 0, 128 * KIB);
	ts_map(&ds->ts, 32 * KIB, 4 * KIB, IOMAP_MAPPED, IOMAP_F_NEW, 256 * KIB);
	cr_assert_eq(dio_read(ds, buf, 64 * KIB, 0), 64 * KIB);
	cr_assert(t_all(buf, 8 * KIB, 0));
	cr_assert_lt(t_mismatch(buf + 8 * KIB, 8 * KIB, 8 * KIB, 1), 0);
	cr_assert(t_all(buf + 16 * KIB, 48 * KIB, 0));
	cr_assert_eq(td_bytes(ds->ts.dev, TD_READ), 8U * KIB);
	free(buf);
	ds_close(ds);
}

Test(direct, di06_inline_data_is_copied_both_ways)
{
	static char data[4096];
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 2000 });
	char *buf = memory(4 * KIB);

	t_fill(data, 2000, 0, 1);
	ts_map_inline(&ds->ts, data, sizeof(data));
	cr_assert(ts_reads(&ds->ts, 0, 2000, 1)); /* it is in the cache now */
	cr_assert_eq(dio_read(ds, buf, 4 * KIB, 0), 2000);
	cr_assert_lt(t_mismatch(buf, 2000, 0, 1), 0);
	cr_assert_eq(dio_write(ds, 1024, 512, 2), 1024);
	cr_assert(ts_reads(&ds->ts, 512, 1024, 2));
	cr_assert(ts_reads(&ds->ts, 0, 512, 1));
	/* beyond the end there may be anything */
	memset(data + 2000, TS_POISON, sizeof(data) - 2000);
	t_fill(buf, 512, 3072, 2);
	cr_assert_eq(iomap_write(ds->file, buf, 512, 3072), 512);
	cr_assert_eq(iomap_i_size_read(&ds->ts.inode), 3584);
	cr_assert(t_all(data + 2000, 3072 - 2000, 0));
	cr_assert(ts_reads_all(&ds->ts, 2000, 1072, 0));
	cr_assert(ts_reads(&ds->ts, 3072, 512, 2));
	/* without the file's own zeros before the write */
	memset(data + 3584, TS_POISON, sizeof(data) - 3584);
	iomap_i_size_write(&ds->ts.inode, 3000);
	cr_assert_eq(dio_write(ds, 512, 3584, 3), 512);
	cr_assert(t_all(data + 3000, 584, 0));
	cr_assert_lt(t_mismatch(data + 3584, 512, 3584, 3), 0);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	free(buf);
	ds_close(ds);
}

/* ---- DR01, DR02 ---- */

Test(direct, dr01_dirty_data_is_written_before_a_read)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct td_io read;

	ts_write(&ds->ts, 6000, 9000, 2);
	cr_assert(direct_reads(ds, 0, 4 * KIB, 1)); /* does not touch it */
	cr_assert_eq(td_count(ds->ts.dev, TD_WRITE), 0U);
	td_reset(ds->ts.dev);
	cr_assert(direct_reads(ds, 8 * KIB, 4 * KIB, 2));
	cr_assert_eq(td_count(ds->ts.dev, TD_WRITE), 1U);
	read = td_nth(ds->ts.dev, TD_READ, 0);
	cr_assert_gt(read.submitted, td_nth(ds->ts.dev, TD_WRITE, 0).completed);
	cr_assert(ts_dirty(&ds->ts, 12 * KIB)); /* beyond the range */
	cr_assert(ts_uptodate(&ds->ts, 8 * KIB)); /* still cached */
	ds_close(ds);
}

Test(direct, dr01_a_read_is_short_at_the_end_of_the_file)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(32 * KIB);

	iomap_i_size_write(&ds->ts.inode, 10000);
	cr_assert_eq(dio_read(ds, buf, 32 * KIB, 8 * KIB), 10000 - 8 * KIB);
	cr_assert_lt(t_mismatch(buf, 10000 - 8 * KIB, 8 * KIB, 1), 0);
	cr_assert_eq(td_bytes(ds->ts.dev, TD_READ), 4U * KIB); /* to the end of the block */
	cr_assert_eq(ds->size, 10000 - 8 * KIB);
	td_reset(ds->ts.dev);
	cr_assert_eq(dio_read(ds, buf, 4 * KIB, 10000), 0); /* not aligned, and beyond */
	cr_assert_eq(dio_read(ds, buf, 4 * KIB, 12 * KIB), 0);
	cr_assert_eq(dio_read(ds, buf, 0, 0), 0);
	cr_assert_eq(td_count(ds->ts.dev, TD_ALL), 0U);
	/* a mapping that ends with the file */
	ts_punch(&ds->ts, 0, 64 * KIB);
	ts_map(&ds->ts, 0, 10000, IOMAP_MAPPED, 0, 64 * KIB);
	cr_assert_eq(dio_read(ds, buf, 32 * KIB, 0), 10000);
	cr_assert_lt(t_mismatch(buf, 10000, 0, 1), 0);
	cr_assert_eq(td_bytes(ds->ts.dev, TD_READ), 10240U);
	free(buf);
	ds_close(ds);
}

struct reader {
	struct ds *ds;
	char *buf;
	struct t_task task;
};

static long read_direct(void *arg)
{
	struct reader *r = arg;

	return dio_read(r->ds, r->buf, 8 * KIB, 0);
}

Test(direct, dr02_writeback_that_runs_is_waited_for)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct reader r = { .ds = ds, .buf = memory(8 * KIB) };
	struct iomap_writeback_control wbc = { .range_end = INT64_MAX, .nr_to_write = 100 };

	ts_write(&ds->ts, 0, 8 * KIB, 2);
	td_hold(ds->ts.dev, TD_WRITE);
	cr_assert_eq(ds->ts.a_ops.writepages(&ds->ts.inode.i_data, &wbc), 0);
	td_wait_held(ds->ts.dev, 1);
	t_start(&r.task, read_direct, &r);
	/* gives a read that does not wait its time; one that waits needs none */
	for (int i = 0; i < 20000 && !td_count(ds->ts.dev, TD_READ); i++)
		sched_yield();
	cr_assert_eq(td_count(ds->ts.dev, TD_READ), 0U);
	td_open_gates(ds->ts.dev);
	cr_assert_eq(t_join(&r.task), 8 * KIB);
	cr_assert_lt(t_mismatch(r.buf, 8 * KIB, 0, 2), 0);
	cr_assert_gt(td_nth(ds->ts.dev, TD_READ, 0).submitted,
		     td_nth(ds->ts.dev, TD_WRITE, 0).completed);
	free(r.buf);
	ds_close(ds);
}

Test(direct, dr02_an_error_of_writing_out_is_not_hidden_by_old_bytes)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(8 * KIB);

	for (int i = 0; i < 3; i++) { /* the second and third time nobody has seen the first */
		ts_write(&ds->ts, 0, 8 * KIB, 2);
		td_fail(ds->ts.dev, TD_WRITE, 0, ds->ts.dev->bytes, -EIO, 1);
		cr_assert_eq(dio_read(ds, buf, 8 * KIB, 0), -EIO);
		ts_write(&ds->ts, 0, 8 * KIB, 2);
		td_fail(ds->ts.dev, TD_WRITE, 0, ds->ts.dev->bytes, -EIO, 1);
		cr_assert_eq(dio_write(ds, 8 * KIB, 0, 3), -EIO);
	}
	cr_assert_eq(td_count(ds->ts.dev, TD_READ), 0U);
	cr_assert_eq(ts_fsync(&ds->ts), -EIO); /* is told all the same */
	free(buf);
	ds_close(ds);
}

/* One thread writes rising numbers through the cache, the other reads past it. */
struct race {
	struct ds *ds;
	atomic_ullong done; /* the last number that a write has returned for */
	atomic_bool stop;
	struct t_task task[3];
	bool direct_writer;
};

#define RACE_BYTES (12 * KIB)

static long race_writer(void *arg)
{
	struct race *race = arg;
	uint64_t *buf = memory(RACE_BYTES);
	uint64_t rounds = T_SANITIZED ? 400 : 3000;

	for (uint64_t n = 1; n <= rounds; n++) {
		for (size_t i = 0; i < RACE_BYTES / sizeof(n); i++)
			buf[i] = n;
		t_must(iomap_write(race->direct_writer ? race->ds->file : race->ds->ts.file, buf,
				   RACE_BYTES, 4 * KIB) == RACE_BYTES);
		atomic_store(&race->done, n);
	}
	atomic_store(&race->stop, true);
	free(buf);
	return 0;
}

static long race_reader(void *arg, struct iomap_file *file)
{
	struct race *race = arg;
	uint64_t *buf = memory(RACE_BYTES);
	long reads = 0;

	while (!atomic_load(&race->stop)) {
		uint64_t before = atomic_load(&race->done);

		t_must(iomap_read(file, buf, RACE_BYTES, 4 * KIB) == RACE_BYTES);
		for (size_t i = 0; i < RACE_BYTES / sizeof(*buf); i++)
			t_must(buf[i] >= before && buf[i] <= before + (1 << 20));
		reads++;
	}
	free(buf);
	return reads;
}

static long race_direct_reader(void *arg)
{
	return race_reader(arg, ((struct race *)arg)->ds->file);
}

static long race_buffered_reader(void *arg)
{
	return race_reader(arg, ((struct race *)arg)->ds->ts.file);
}

static long race_flusher(void *arg)
{
	struct race *race = arg;

	while (!atomic_load(&race->stop))
		t_must(ts_fsync(&race->ds->ts) == 0);
	return 0;
}

static void coherence(bool direct_writer, bool async)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB, .threads = true });
	struct race race = { .ds = ds, .direct_writer = direct_writer };

	ds->dops.end_io = NULL; /* it keeps records for one caller */
	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	if (async)
		td_async(ds->ts.dev);
	t_start(&race.task[0], direct_writer ? race_buffered_reader : race_direct_reader, &race);
	t_start(&race.task[1], direct_writer ? race_direct_reader : race_flusher, &race);
	t_start(&race.task[2], race_writer, &race);
	for (int i = 0; i < 3; i++)
		(void)t_join(&race.task[i]);
	ds_close(ds);
}

Test(direct, dr02_never_older_than_a_buffered_write_that_returned)
{
	coherence(false, false);
	coherence(false, true);
}

/* ---- DW01 ---- */

Test(direct, dw01_buffered_reads_are_never_older_than_a_direct_write_that_returned)
{
	coherence(true, false);
	coherence(true, true);
}

Test(direct, dw01_the_cache_is_written_and_dropped_before)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct td_io first;

	ts_write(&ds->ts, 2000, 1000, 2); /* in the folio of the write, but not in its range */
	cr_assert(ts_reads(&ds->ts, 32 * KIB, 4 * KIB, 1));
	td_reset(ds->ts.dev);
	cr_assert_eq(dio_write(ds, 512, 512, 3), 512);
	first = td_nth(ds->ts.dev, TD_WRITE, 0);
	cr_assert_eq(first.bytes, 4U * KIB); /* writeback's */
	cr_assert_gt(td_nth(ds->ts.dev, TD_WRITE, 1).submitted, first.completed);
	cr_assert_null(iomap_filemap_get_folio(&ds->ts.inode.i_data, 0));
	iomap_folio_put(ts_folio(&ds->ts, 32 * KIB));
	cr_assert(ts_reads(&ds->ts, 2000, 1000, 2));
	cr_assert(ts_reads(&ds->ts, 512, 512, 3));
	cr_assert(ts_reads(&ds->ts, 0, 512, 1));
	ds_close(ds);
}

static long write_direct(void *arg)
{
	return dio_write(arg, 8 * KIB, 0, 2);
}

Test(direct, dw01_what_was_read_during_the_write_is_dropped_after_it)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct t_task task;

	td_hold(ds->ts.dev, TD_WRITE);
	t_start(&task, write_direct, ds);
	td_wait_held(ds->ts.dev, 1);
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 1)); /* old bytes, into the cache */
	td_open_gates(ds->ts.dev);
	cr_assert_eq(t_join(&task), 8 * KIB);
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 2));
	ds_close(ds);
}

static long read_buffered(void *arg)
{
	struct reader *r = arg;

	return iomap_read(r->ds->ts.file, r->buf, 4 * KIB, 0);
}

/* Reads into the cache that the test ends by itself. */
struct slow_read {
	struct iomap_folio *folio[64];
	size_t off[64], len[64];
	size_t nr;
	bool over; /* the ones from here on are ordinary reads */
};

static int start_slow_read(struct ts *ts, const struct iomap_iter *iter,
			   struct iomap_read_folio_ctx *ctx, size_t len)
{
	struct slow_read *slow = ts->hook.arg;
	bool over;
	int ret = 0;

	t_lock(&ts->gate);
	over = slow->over;
	if (!over) {
		t_must(slow->nr < 64);
		slow->folio[slow->nr] = ctx->cur_folio;
		slow->off[slow->nr] = (size_t)(iter->pos - iomap_folio_pos(ctx->cur_folio));
		slow->len[slow->nr++] = len;
		t_wake(&ts->gate);
	}
	t_unlock(&ts->gate);
	if (over) {
		ret = iomap_bio_read_folio_range(iter, ctx, len);
		iomap_bio_submit_read(ctx);
	}
	return ret;
}

Test(direct, dw01_a_read_into_the_cache_that_is_under_way_is_waited_for)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct reader r = { .ds = ds, .buf = memory(8 * KIB) };
	struct slow_read slow = { .nr = 0 };
	struct t_task writer;
	char old[4 * KIB];

	ds->ts.hook.arg = &slow;
	ds->ts.hook.read = start_slow_read;
	td_hold(ds->ts.dev, TD_WRITE);
	t_start(&writer, write_direct, ds);
	td_wait_held(ds->ts.dev, 1);
	t_start(&r.task, read_buffered, &r);
	t_lock(&ds->ts.gate);
	while (!slow.nr)
		t_wait(&ds->ts.gate);
	t_unlock(&ds->ts.gate);
	ts_wait_calls(&ds->ts, TS_READAHEAD, 1);
	/* the write is done while the folios are still being read, and get old bytes */
	td_open_gates(ds->ts.dev);
	td_wait_completed(ds->ts.dev, TD_WRITE, 1);
	t_lock(&ds->ts.gate);
	slow.over = true;
	t_unlock(&ds->ts.gate);
	for (size_t i = 0; i < slow.nr; i++) {
		t_fill(old, slow.len[i], iomap_folio_pos(slow.folio[i]) + (int64_t)slow.off[i], 1);
		iomap_folio_write(slow.folio[i], slow.off[i], old, slow.len[i]);
		iomap_finish_folio_read(slow.folio[i], slow.off[i], slow.len[i], 0);
	}
	cr_assert_eq(t_join(&writer), 8 * KIB);
	cr_assert_eq(t_join(&r.task), 4 * KIB);
	ds->ts.hook.read = NULL;
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 2));
	free(r.buf);
	ds_close(ds);
}

static void read_unwritten(struct ds *ds)
{
	t_must(ts_reads_all(&ds->ts, 0, 8 * KIB, 0));
}

Test(direct, dw01_unwritten_space_is_converted_before_the_cache_is_dropped)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB });

	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
	ds->hook = read_unwritten;
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 2), 8 * KIB);
	cr_assert_eq(ds->flags, IOMAP_DIO_UNWRITTEN);
	cr_assert_gt(ds->tick, td_nth(ds->ts.dev, TD_WRITE, 0).completed);
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 2));
	cr_assert(ts_reads_all(&ds->ts, 8 * KIB, 4 * KIB, 0));
	ds_close(ds);
}

Test(direct, dw01_a_write_that_failed_leaves_no_old_cache)
{
	struct ds *ds = mapped(64 * KIB, 12);

	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 1));
	td_fail(ds->ts.dev, TD_WRITE, 0, ds->ts.dev->bytes, -EIO, 1);
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 2), -EIO);
	cr_assert_null(iomap_filemap_get_folio(&ds->ts.inode.i_data, 0));
	ds_close(ds);
}

/* ---- DW02 ---- */

Test(direct, dw02_the_rest_of_new_and_unwritten_blocks_is_zeroed_on_the_device)
{
	for (int unwritten = 0; unwritten < 2; unwritten++) {
		struct ds *ds = ds_open(&(struct ts_config){
			.i_size = 64 * KIB, .alloc = unwritten ? TS_UNWRITTEN : TS_NEW });
		uint64_t addr;

		ts_poison(&ds->ts);
		cr_assert_eq(dio_write(ds, 6 * KIB, 9 * KIB, 2), 6 * KIB);
		addr = ts_lookup(&ds->ts, 8 * KIB).addr;
		cr_assert(ts_dev_all(&ds->ts, addr, 1 * KIB, 0));
		cr_assert(ts_dev_has(&ds->ts, addr + 1 * KIB, 6 * KIB, 9 * KIB, 2));
		cr_assert(ts_dev_all(&ds->ts, addr + 7 * KIB, 1 * KIB, 0));
		cr_assert(ts_dev_all(&ds->ts, addr + 8 * KIB, 4 * KIB, TS_POISON));
		cr_assert(ts_dev_all(&ds->ts, addr - 4 * KIB, 4 * KIB, TS_POISON));
		cr_assert(ts_reads_all(&ds->ts, 8 * KIB, 1 * KIB, 0));
		cr_assert(ts_reads_all(&ds->ts, 15 * KIB, 2 * KIB, 0));
		cr_assert(direct_reads(ds, 9 * KIB, 6 * KIB, 2));
		ds_close(ds);
	}
}

Test(direct, dw02_mappings_that_end_inside_a_block_do_not_zero_each_other)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB, .alloc = TS_UNWRITTEN });

	ts_poison(&ds->ts);
	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
	ds->ts.map_max_bytes = 1 * KIB;
	cr_assert_eq(dio_write(ds, 5 * KIB, 2 * KIB, 2), 5 * KIB);
	ds->ts.map_max_bytes = 0;
	cr_assert(ts_dev_all(&ds->ts, 64 * KIB, 2 * KIB, 0));
	cr_assert(ts_dev_has(&ds->ts, 66 * KIB, 5 * KIB, 2 * KIB, 2));
	cr_assert(ts_dev_all(&ds->ts, 71 * KIB, 1 * KIB, 0));
	ds_close(ds);
}

Test(direct, dw02_a_block_that_the_write_breaks_off_in_does_not_count)
{
	struct ds *ds = ds_open(&(struct ts_config){ .i_size = 64 * KIB, .alloc = TS_UNWRITTEN });

	ts_poison(&ds->ts);
	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_UNWRITTEN, 0, 64 * KIB);
	ds->ts.map_max_bytes = 1 * KIB;
	ts_fail(&ds->ts, TS_BEGIN, 7, -ENOLCK, 1);
	cr_assert_eq(dio_write(ds, 8 * KIB, 0, 2), 4 * KIB);
	cr_assert_eq(ds->size, 4 * KIB);
	ts_fail(&ds->ts, TS_BEGIN, 3, -ENOLCK, 1);
	cr_assert_eq(dio_write(ds, 4 * KIB, 8 * KIB, 2), -ENOLCK);
	ds->ts.map_max_bytes = 0;
	cr_assert(ts_reads(&ds->ts, 0, 4 * KIB, 2));
	cr_assert(ts_reads_all(&ds->ts, 4 * KIB, 60 * KIB, 0));
	ds_close(ds);
}

Test(direct, dw02_written_blocks_keep_their_rest_unless_the_file_ends_there)
{
	struct ds *ds = mapped(64 * KIB, 12);

	cr_assert_eq(dio_write(ds, 512, 1024, 2), 512);
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 1024, 0, 1));
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB + 1536, 60 * KIB, 1536, 1));
	iomap_i_size_write(&ds->ts.inode, 512);
	cr_assert_eq(dio_write(ds, 512, 512, 3), 512);
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB, 512, 0, 1));
	cr_assert(ts_dev_has(&ds->ts, 64 * KIB + 512, 512, 512, 3));
	cr_assert(ts_dev_all(&ds->ts, 65 * KIB, 3 * KIB, 0));
	cr_assert(ts_dev_has(&ds->ts, 68 * KIB, 4 * KIB, 4 * KIB, 1));
	ds_close(ds);
}

/* ---- DW03 ---- */

struct extend {
	struct ds *ds;
	const void *buf;
	int64_t pos;
	size_t len;
};

static long extend(void *arg)
{
	struct extend *e = arg;

	return iomap_write(e->ds->file, e->buf, e->len, e->pos);
}

Test(direct, dw03_the_size_moves_after_the_data)
{
	struct ds *ds = ds_open(&(struct ts_config){ .alloc = TS_NEW });
	char *buf = memory(8 * KIB);
	struct extend e = { ds, buf, 0, 8 * KIB };
	struct t_task task;

	t_fill(buf, 8 * KIB, 0, 1);
	td_hold(ds->ts.dev, TD_WRITE);
	t_start(&task, extend, &e);
	td_wait_held(ds->ts.dev, 1);
	cr_assert_eq(iomap_i_size_read(&ds->ts.inode), 0);
	td_open_gates(ds->ts.dev);
	cr_assert_eq(t_join(&task), 8 * KIB);
	cr_assert_eq(ds->i_size, 0); /* the application's end_io comes first */
	cr_assert_eq(iomap_i_size_read(&ds->ts.inode), 8 * KIB);
	cr_assert(ts_reads(&ds->ts, 0, 8 * KIB, 1));
	td_fail(ds->ts.dev, TD_WRITE, 0, ds->ts.dev->bytes, -EIO, 1);
	cr_assert_eq(iomap_write(ds->file, buf, 4 * KIB, 8 * KIB), -EIO);
	cr_assert_eq(iomap_i_size_read(&ds->ts.inode), 8 * KIB);
	free(buf);
	ds_close(ds);
}

static void cache_the_end(struct ds *ds)
{
	/* the rest of the block reads as zeros by the old i_size, and stays in the cache */
	t_must(ts_reads(&ds->ts, 0, 1024, 1));
}

/* The last drop of the cache: a read that comes behind it goes by this i_size. */
static bool size_is_there(struct iomap_folio *folio, unsigned gfp)
{
	struct ds *ds = ds_of(iomap_folio_inode(folio));

	t_must(!ds->ended || iomap_i_size_read(&ds->ts.inode) == 3072);
	return iomap_release_folio(folio, gfp);
}

Test(direct, dw03_zeros_that_were_cached_by_the_old_size_are_dropped)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(2048);

	iomap_i_size_write(&ds->ts.inode, 1024);
	ds->hook = cache_the_end;
	ds->ts.a_ops.release_folio = size_is_there;
	t_fill(buf, 2048, 1024, 2);
	cr_assert_eq(iomap_write(ds->file, buf, 2048, 1024), 2048);
	cr_assert_eq(ds->ended, 1U);
	ds->ts.a_ops.release_folio = NULL;
	cr_assert(ts_reads(&ds->ts, 0, 1024, 1));
	cr_assert(ts_reads(&ds->ts, 1024, 2048, 2));
	free(buf);
	ds_close(ds);
}

Test(direct, dw03_a_gap_before_the_write_reads_as_zeros)
{
	for (int64_t pos = 20 * KIB; pos <= 21 * KIB; pos += 512) {
		struct ds *ds = mapped(64 * KIB, 12);
		char *buf = memory(4 * KIB);

		iomap_i_size_write(&ds->ts.inode, 1000);
		t_fill(buf, 4 * KIB, pos, 2);
		cr_assert_eq(iomap_write(ds->file, buf, 4 * KIB, pos), 4 * KIB);
		cr_assert_eq(iomap_i_size_read(&ds->ts.inode), pos + 4 * KIB);
		cr_assert_eq(ts_fsync(&ds->ts), 0);
		ts_drop(&ds->ts);
		cr_assert(ts_reads(&ds->ts, 0, 1000, 1));
		cr_assert(ts_reads_all(&ds->ts, 1000, (size_t)pos - 1000, 0));
		cr_assert(ts_reads(&ds->ts, pos, 4 * KIB, 2));
		free(buf);
		ds_close(ds);
	}
}

/* ---- FI01: the opener ---- */

Test(direct, fi01_a_direct_file_goes_to_the_device)
{
	struct ds *ds = mapped(64 * KIB, 12);
	char *buf = memory(8 * KIB);

	cr_assert_eq(iomap_read(ds->file, buf, 8 * KIB, 4 * KIB), 8 * KIB);
	cr_assert_lt(t_mismatch(buf, 8 * KIB, 4 * KIB, 1), 0);
	cr_assert_eq(t_stats(ds->ts.engine).cached_bytes, 0U);
	t_fill(buf, 8 * KIB, 4 * KIB, 2);
	cr_assert_eq(iomap_write(ds->file, buf, 8 * KIB, 4 * KIB), 8 * KIB);
	cr_assert(ts_dev_has(&ds->ts, 68 * KIB, 8 * KIB, 4 * KIB, 2));
	cr_assert_eq(t_stats(ds->ts.engine).cached_bytes, 0U);
	cr_assert_eq(td_count(ds->ts.dev, TD_FLUSH), 0U);
	free(buf);
	ds_close(ds);
}

Test(direct, fi01_a_direct_dsync_write_is_durable_when_it_returns)
{
	struct ds *ds = mapped(64 * KIB, 12);
	struct iomap_file *file = NULL;
	char *buf = memory(8 * KIB);

	/* with metadata to commit: else FUA would do */
	ts_map(&ds->ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_DIRTY, 64 * KIB);
	cr_assert_eq(iomap_file_open(&ds->ts.inode, IOMAP_O_DIRECT | IOMAP_O_DSYNC, &file), 0);
	cr_assert_eq(iomap_write(file, buf, 8 * KIB, 4 * KIB), 8 * KIB);
	cr_assert_eq(ts_calls(&ds->ts, TS_COMMIT), 1U);
	cr_assert_eq(td_count(ds->ts.dev, TD_FLUSH), 1U);
	cr_assert_gt(td_nth(ds->ts.dev, TD_FLUSH, 0).submitted,
		     td_nth(ds->ts.dev, TD_WRITE, 0).completed);
	cr_assert_eq(iomap_file_close(file), 0);
	free(buf);
	ds_close(ds);
}

Test(direct, fi01_direct_and_append_write_at_the_end)
{
	struct ds *ds = ds_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_file *file = NULL;
	char *buf = memory(8 * KIB);

	cr_assert_eq(iomap_file_open(&ds->ts.inode, IOMAP_O_DIRECT | IOMAP_O_APPEND, &file), 0);
	for (int64_t pos = 0; pos < 32 * KIB; pos += 8 * KIB) {
		t_fill(buf, 8 * KIB, pos, 1);
		cr_assert_eq(iomap_write(file, buf, 8 * KIB, 0), 8 * KIB);
	}
	cr_assert(ts_reads(&ds->ts, 0, 32 * KIB, 1));
	cr_assert_eq(iomap_file_close(file), 0);
	free(buf);
	ds_close(ds);
}
