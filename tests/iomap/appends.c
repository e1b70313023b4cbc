/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/*
 * appends.c - BW06: appends of many threads lie one behind the other, wherever they come from.
 *
 * Each append is a record that tells its thread and number in each of its words.  In the end the
 * file is a row of whole records, each of them once, those of a thread in its order, and where
 * the thread was told where it went it is there.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define THREADS 6
#define APPENDS (T_SANITIZED ? 60U : 400U)
#define WORDS_MAX 1024U
#define SECTOR 512U

enum how {
	BY_OPENER, /* iomap_write() of an opener with IOMAP_O_APPEND */
	BY_IOCB,   /* iomap_file_buffered_write() with IOMAP_IOCB_APPEND, i_rwsem held */
	DIRECT_BY_OPENER,
	DIRECT_BY_IOCB,
};

struct appender {
	struct ts *ts;
	struct iomap_file *file; /* of the thread, or shared with all */
	enum how how;
	unsigned nr;
	int64_t told[400];
	struct t_task task;
};

/* Bytes of the record. */
static size_t record_bytes(unsigned thread, unsigned nr, bool direct)
{
	struct t_rand r = { thread * 1000U + nr };

	if (direct)
		return SECTOR * (1 + t_below(&r, 8));
	return sizeof(uint64_t) * (1 + t_below(&r, nr % 8 ? 40 : WORDS_MAX));
}

static uint64_t record_word(unsigned thread, unsigned nr, size_t word)
{
	return (uint64_t)(thread + 1) << 48 | (uint64_t)nr << 24 | word;
}

static ssize_t append(struct appender *a, void *buf, size_t len, int64_t *pos)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	*pos = -1;
	if (a->how == BY_OPENER || a->how == DIRECT_BY_OPENER)
		return iomap_write(a->file, buf, len, 12345);
	iomap_kiocb_init(&iocb, a->file, 12345);
	iocb.ki_flags |= IOMAP_IOCB_APPEND;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(&a->ts->inode);
	if (a->how == BY_IOCB)
		ret = iomap_file_buffered_write(&iocb, &from, &a->ts->ops, a->ts->i_op.write_ops,
						NULL);
	else
		ret = iomap_dio_rw(&iocb, &from, &a->ts->ops, a->ts->i_op.dio_ops, 0, NULL, 0);
	if (ret > 0 && a->how == DIRECT_BY_IOCB)
		iomap_i_size_write(&a->ts->inode, iocb.ki_pos);
	iomap_inode_unlock(&a->ts->inode);
	*pos = iocb.ki_pos - ret;
	return ret;
}

static long appender_main(void *arg)
{
	struct appender *a = arg;
	bool direct = a->how >= DIRECT_BY_OPENER;
	void *buf;

	t_must(posix_memalign(&buf, 4096, WORDS_MAX * sizeof(uint64_t)) == 0);
	for (unsigned nr = 0; nr < APPENDS; nr++) {
		size_t len = record_bytes(a->nr, nr, direct);

		for (size_t i = 0; i < len / sizeof(uint64_t); i++)
			((uint64_t *)buf)[i] = record_word(a->nr, nr, i);
		t_must(append(a, buf, len, &a->told[nr]) == (ssize_t)len);
	}
	free(buf);
	return 0;
}

/* The file from its first byte on, by @data. */
static void check_records(const struct appender *a, const uint64_t *data, size_t bytes)
{
	unsigned next[THREADS] = { 0 }, records = 0;
	size_t at = 0;

	while (at < bytes) {
		uint64_t first = data[at / sizeof(uint64_t)];
		unsigned thread = (unsigned)(first >> 48) - 1;
		unsigned nr = (unsigned)(first >> 24) & 0xffffff;
		size_t len;

		cr_assert_lt(thread, (unsigned)THREADS, "byte %zu is nobody's: %llx", at,
			     (unsigned long long)first);
		cr_assert_eq(nr, next[thread], "record %u of thread %u at %zu", nr, thread, at);
		next[thread]++;
		records++;
		len = record_bytes(thread, nr, a[thread].how >= DIRECT_BY_OPENER);
		cr_assert_leq(at + len, bytes);
		for (size_t i = 0; i < len / sizeof(uint64_t); i++)
			cr_assert_eq(data[at / sizeof(uint64_t) + i], record_word(thread, nr, i),
				     "record %u of thread %u, word %zu", nr, thread, i);
		if (a[thread].told[nr] >= 0)
			cr_assert_eq(a[thread].told[nr], (int64_t)at, "it was told another place");
		at += len;
	}
	cr_assert_eq(records, THREADS * APPENDS, "%u records", records);
}

static void read_all(struct ts *ts, void *data, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t got = iomap_read(ts->file, (char *)data + at, bytes - at, (int64_t)at);

		cr_assert_gt(got, 0);
		at += (size_t)got;
	}
}

static void run(enum ts_alloc alloc, uint32_t blkbits, const enum how how[2], bool one_file)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct appender *a = calloc(THREADS, sizeof(*a));
	struct iomap_engine_opts opts;
	size_t bytes;
	uint64_t *data;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20; /* less than is written: with the flusher and eviction at work */
	opts.max_callers = 2 * THREADS;
	ts_prepare(ts, &(struct ts_config){
			       .alloc = alloc, .blkbits = blkbits, .dev_bytes = 64 << 20, .opts = &opts });
	ts->hook.open = ts_allow_direct;
	ts_begin(ts);
	ts_poison(ts);
	td_async(ts->dev);
	for (unsigned i = 0; i < THREADS; i++) {
		unsigned flags = how[i % 2] == BY_OPENER	  ? IOMAP_O_APPEND
				 : how[i % 2] == DIRECT_BY_OPENER ? IOMAP_O_APPEND | IOMAP_O_DIRECT
								  : 0;

		a[i] = (struct appender){ .ts = ts, .how = how[i % 2], .nr = i };
		if (one_file && i > 1)
			a[i].file = a[i - 2].file;
		else
			cr_assert_eq(iomap_file_open(&ts->inode, flags, &a[i].file), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		t_start(&a[i].task, appender_main, &a[i]);
	for (unsigned i = 0; i < THREADS; i++)
		t_join(&a[i].task);
	bytes = (size_t)iomap_i_size_read(&ts->inode);
	data = malloc(bytes);
	read_all(ts, data, bytes);
	check_records(a, data, bytes);
	/* and on the device */
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	read_all(ts, data, bytes);
	check_records(a, data, bytes);
	for (unsigned i = 0; i < (one_file ? 2 : THREADS); i++)
		cr_assert_eq(iomap_file_close(a[i].file), 0);
	free(data);
	free(a);
	ts_close(ts);
}

Test(appends, bw06_appends_of_many_threads_do_not_overlap)
{
	run(TS_NEW, 12, (enum how[]){ BY_OPENER, BY_OPENER }, false);
	run(TS_UNWRITTEN, 9, (enum how[]){ BY_OPENER, BY_OPENER }, true);
}

Test(appends, bw06_an_iocb_is_told_where_its_append_went)
{
	run(TS_DELALLOC, 12, (enum how[]){ BY_IOCB, BY_IOCB }, true);
	run(TS_NEW, 10, (enum how[]){ BY_IOCB, BY_OPENER }, false);
}

Test(appends, bw06_direct_appends_do_not_overlap)
{
	run(TS_NEW, 9, (enum how[]){ DIRECT_BY_OPENER, DIRECT_BY_OPENER }, false);
	run(TS_NEW, 9, (enum how[]){ DIRECT_BY_IOCB, DIRECT_BY_OPENER }, true);
}
