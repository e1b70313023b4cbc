/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/*
 * checked.c - BW04: IOMAP_IOCB_CHECKED: memory of the caller that is bad from somewhere on.
 *
 * The memory is GOOD bytes up to the end of a page, and behind them what the test makes of it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "teststore.h"

#define KIB 1024
#define PAGE (4 * KIB)
#define PAGES 40
#define PROT_GONE (-1)

/* PAGES pages that may be used, and as many behind them with `prot`. */
struct area {
	unsigned char *mem, *bad;
	int prot;
};

static struct area area_new(int prot)
{
	struct area area = { .prot = prot };

	area.mem = mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t_must(area.mem != MAP_FAILED);
	area.bad = area.mem + PAGES * PAGE;
	memset(area.mem, 0x77, 2 * PAGES * PAGE);
	if (prot == PROT_GONE)
		t_must(munmap(area.bad, PAGES * PAGE) == 0);
	else
		t_must(mprotect(area.bad, PAGES * PAGE, prot) == 0);
	return area;
}

static void area_free(struct area *area)
{
	t_must(munmap(area->mem, (size_t)(area->prot == PROT_GONE ? 1 : 2) * PAGES * PAGE) == 0);
}

/* Nothing has been written behind what was good. */
static void area_check_bad(struct area *area)
{
	if (area->prot == PROT_GONE)
		return;
	t_must(mprotect(area->bad, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
	cr_assert(t_all(area->bad, PAGES * PAGE, 0x77));
}

static ssize_t write_iter(struct ts *ts, struct iomap_iov_iter *from, int64_t *pos, uint32_t flags)
{
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, ts->file, *pos);
	iocb.ki_flags |= IOMAP_IOCB_CHECKED | flags;
	iomap_inode_lock(&ts->inode);
	ret = iomap_file_buffered_write(&iocb, from, &ts->ops, ts->i_op.write_ops, NULL);
	iomap_inode_unlock(&ts->inode);
	*pos = iocb.ki_pos;
	return ret;
}

static ssize_t write_from(struct ts *ts, const void *buf, size_t len, int64_t *pos)
{
	struct iomap_iov_iter from;

	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	return write_iter(ts, &from, pos, 0);
}

static ssize_t read_to(struct ts *ts, void *buf, size_t len, int64_t *pos)
{
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, ts->file, *pos);
	iocb.ki_flags |= IOMAP_IOCB_CHECKED;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, len);
	ret = iomap_file_read_iter(&iocb, &to);
	*pos = iocb.ki_pos;
	return ret;
}

/* A store whose device, and whose free folios, are full of what nobody may see. */
static struct ts *dirty_store(enum ts_alloc alloc, uint32_t blkbits, bool large)
{
	struct ts *ts = ts_open(&(struct ts_config){
		.alloc = alloc, .blkbits = blkbits, .i_maxbytes = 2 << 20 });
	struct ts *other;

	if (large)
		cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	ts_poison(ts);
	other = ts_open(&(struct ts_config){ .alloc = TS_NEW, .engine = ts->engine });
	for (int64_t pos = 0; pos < 3 << 20; pos += 64 * KIB)
		ts_write(other, pos, 64 * KIB, 9);
	ts_close(other);
	return ts;
}

/* ---- writes ---- */

/* @good bytes may be read, of @len that are to be written at @pos. */
static void write_goes_bad(struct ts *ts, int prot, size_t good, size_t len, int64_t pos)
{
	struct area area = area_new(prot);
	int64_t at = pos, size = iomap_i_size_read(&ts->inode);
	unsigned char buf[3000];

	t_fill(area.bad - good, good, pos, 1);
	cr_assert_eq(write_from(ts, area.bad - good, len, &at),
		     good ? (ssize_t)good : (ssize_t)-EFAULT);
	cr_assert_eq(at, pos + (int64_t)good);
	cr_assert_eq(iomap_i_size_read(&ts->inode),
		     pos + (int64_t)good > size && good ? pos + (int64_t)good : size);
	cr_assert(ts_reads(ts, pos, good, 1));
	if (pos + (int64_t)good >= size) {
		/* what is behind reads as zeros when the file grows, cached or not */
		cr_assert_eq(iomap_truncate(ts->file, pos + (int64_t)(good + sizeof(buf))), 0);
		cr_assert(ts_reads_all(ts, pos + (int64_t)good, sizeof(buf), 0));
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
		cr_assert(ts_reads(ts, pos, good, 1));
		cr_assert(ts_reads_all(ts, pos + (int64_t)good, sizeof(buf), 0));
	}
	area_free(&area);
}

static void writes_of(enum ts_alloc alloc, uint32_t blkbits, bool large)
{
	static const size_t goods[] = { 0, 1, 100, 4095, 4096, 4097, 9000, 65536, 70001 };
	static const int prots[] = { PROT_NONE, PROT_GONE };

	for (unsigned i = 0; i < sizeof(goods) / sizeof(goods[0]); i += T_SANITIZED ? 3 : 1) {
		struct ts *ts = dirty_store(alloc, blkbits, large);

		write_goes_bad(ts, prots[i % 2], goods[i], goods[i] + 1, 0);
		write_goes_bad(ts, prots[(i + 1) % 2], goods[i], goods[i] + 100000, 131072 + 77);
		write_goes_bad(ts, prots[i % 2], goods[i], SSIZE_MAX, 327680 + 13);
		ts_close(ts);
	}
}

Test(checked, bw04_a_write_ends_where_its_memory_goes_bad)
{
	writes_of(TS_NEW, 12, false);
	writes_of(TS_UNWRITTEN, 9, false);
	writes_of(TS_DELALLOC, 12, true);
	writes_of(TS_NEW, 16, true);
}

Test(checked, bw04_a_write_that_cannot_begin_leaves_nothing)
{
	static char *const bad[] = { NULL, (char *)8, (char *)0x1000, (char *)-4096,
				     (char *)-1, (char *)((uintptr_t)1 << 62) };
	struct ts *ts = dirty_store(TS_NEW, 12, false);

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int64_t pos = 5000;

		cr_assert_eq(write_from(ts, bad[i], 10, &pos), -EFAULT, "%p", (void *)bad[i]);
		cr_assert_eq(write_from(ts, bad[i], SSIZE_MAX, &pos), -EFAULT);
		cr_assert_eq(pos, 5000);
	}
	cr_assert_eq(iomap_i_size_read(&ts->inode), 0);
	cr_assert_eq(t_stats(ts->engine).dirty_bytes, 0U);
	cr_assert_eq(ts_calls(ts, TS_BEGIN), ts_calls(ts, TS_END));
	ts_close(ts);
}

Test(checked, bw04_an_overwrite_changes_no_byte_behind)
{
	struct ts *ts = dirty_store(TS_NEW, 12, false);
	struct area area = area_new(PROT_NONE);
	int64_t pos = 1000;

	ts_write(ts, 0, 64 * KIB, 2);
	cr_assert_eq(ts_fsync(ts), 0);
	t_fill(area.bad - 5000, 5000, pos, 3);
	cr_assert_eq(write_from(ts, area.bad - 5000, 20000, &pos), 5000);
	cr_assert(ts_reads(ts, 0, 1000, 2));
	cr_assert(ts_reads(ts, 1000, 5000, 3));
	cr_assert(ts_reads(ts, 6000, 64 * KIB - 6000, 2));
	cr_assert(ts_dirty(ts, 4096));
	cr_assert_not(ts_dirty(ts, 8192), "what was not written is not dirty");
	area_free(&area);
	ts_close(ts);
}

Test(checked, bw04_a_vector_ends_in_its_first_bad_segment)
{
	struct ts *ts = dirty_store(TS_NEW, 12, false);
	struct area area = area_new(PROT_NONE);
	struct iovec iov[3] = {
		{ area.mem, 3000 }, { area.bad - 50, 100 }, { area.mem + 3100, 5000 },
	};
	struct iomap_iov_iter from;
	int64_t pos = 0;

	t_fill(area.mem, 3000, 0, 4);
	t_fill(area.bad - 50, 50, 3000, 4);
	iomap_iov_iter_init(&from, IOMAP_ITER_SOURCE, iov, 3, SIZE_MAX);
	cr_assert_eq(write_iter(ts, &from, &pos, IOMAP_IOCB_APPEND), 3050);
	cr_assert_eq(iomap_iov_iter_count(&from), 5050U);
	cr_assert_eq(pos, 3050);
	cr_assert_eq(write_iter(ts, &from, &pos, IOMAP_IOCB_APPEND), -EFAULT);
	cr_assert_eq(iomap_i_size_read(&ts->inode), 3050);
	cr_assert(ts_reads(ts, 0, 3050, 4));
	area_free(&area);
	ts_close(ts);
}

/* ---- reads ---- */

static void read_goes_bad(struct ts *ts, int prot, size_t good, size_t len, int64_t pos)
{
	struct area area = area_new(prot);
	int64_t at = pos;

	cr_assert_eq(read_to(ts, area.bad - good, len, &at),
		     good ? (ssize_t)good : (ssize_t)-EFAULT);
	cr_assert_eq(at, pos + (int64_t)good);
	cr_assert_eq(t_mismatch(area.bad - good, good, pos, 5), -1);
	cr_assert(t_all(area.mem, PAGES * PAGE - good, 0x77));
	area_check_bad(&area);
	area_free(&area);
}

static void reads_of(bool cached)
{
	static const size_t goods[] = { 0, 1, 100, 4096, 4097, 9000, 65536, 70001 };
	static const int prots[] = { PROT_NONE, PROT_GONE, PROT_READ };
	struct ts *ts = dirty_store(TS_NEW, 12, false);

	ts_write(ts, 0, 300 * KIB, 5);
	cr_assert_eq(ts_fsync(ts), 0);
	for (unsigned i = 0; i < sizeof(goods) / sizeof(goods[0]); i++)
		for (unsigned k = 0; k < 3; k++) {
			if (!cached)
				ts_drop(ts);
			read_goes_bad(ts, prots[k], goods[i], goods[i] + 1, 33);
			read_goes_bad(ts, prots[k], goods[i], goods[i] + 100000, 77777);
			read_goes_bad(ts, prots[k], goods[i], SSIZE_MAX, 4096);
		}
	ts_close(ts);
}

Test(checked, bw04_a_read_ends_where_its_memory_goes_bad)
{
	reads_of(true);
	reads_of(false);
}

Test(checked, bw04_good_memory_is_read_and_written_as_without)
{
	struct ts *ts = dirty_store(TS_UNWRITTEN, 10, false);
	size_t len = 200 * KIB + 5;
	unsigned char *buf = malloc(len);
	int64_t pos = 700;

	t_fill(buf, len, pos, 6);
	cr_assert_eq(write_from(ts, buf, len, &pos), (ssize_t)len);
	cr_assert(ts_reads(ts, 700, len, 6));
	memset(buf, 0, len);
	pos = 700;
	cr_assert_eq(read_to(ts, buf, len, &pos), (ssize_t)len);
	cr_assert_eq(t_mismatch(buf, len, 700, 6), -1);
	/* the end of the file, and behind it, where no memory is needed */
	cr_assert_eq(read_to(ts, buf, len, &pos), 0);
	cr_assert_eq(read_to(ts, NULL, len, &pos), 0);
	pos -= 10;
	cr_assert_eq(read_to(ts, buf, len, &pos), 10);
	cr_assert_eq(read_to(ts, buf, 0, &pos), 0);
	free(buf);
	ts_close(ts);
}

/* ---- direct I/O ---- */

static ssize_t direct(struct iomap_file *file, unsigned direction, void *buf, size_t len,
		      int64_t pos, const struct ts *ts, unsigned dio_flags)
{
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, file, pos);
	iocb.ki_flags |= IOMAP_IOCB_CHECKED;
	iomap_iov_iter_ubuf(&iter, direction, buf, len);
	iomap_inode_lock(iomap_file_inode(file));
	ret = iomap_dio_rw(&iocb, &iter, &ts->ops, NULL, dio_flags, NULL, 0);
	iomap_inode_unlock(iomap_file_inode(file));
	return ret;
}

static void direct_all(unsigned dio_flags)
{
	static const int prots[] = { PROT_NONE, PROT_GONE, PROT_READ };
	struct ts *ts = dirty_store(TS_NEW, 12, false);

	ts_write(ts, 0, 64 * KIB, 5);
	cr_assert_eq(ts_fsync(ts), 0);
	for (unsigned k = 0; k < 3; k++) {
		struct area area = area_new(prots[k]);

		for (size_t good = 0; good <= 2 * PAGE; good += PAGE) {
			cr_assert_eq(direct(ts->file, IOMAP_ITER_DEST, area.bad - good, 16 * KIB, 0,
					    ts, dio_flags), -EFAULT);
			if (prots[k] != PROT_READ)
				cr_assert_eq(direct(ts->file, IOMAP_ITER_SOURCE, area.bad - good,
						    16 * KIB, 0, ts, dio_flags), -EFAULT);
		}
		cr_assert_eq(direct(ts->file, IOMAP_ITER_DEST, NULL, 4 * KIB, 0, ts, dio_flags),
			     -EFAULT);
		cr_assert(t_all(area.mem, PAGES * PAGE, 0x77));
		if (prots[k] == PROT_READ)
			cr_assert_eq(direct(ts->file, IOMAP_ITER_SOURCE, area.bad, 4 * KIB,
					    128 * KIB, ts, dio_flags), 4 * KIB,
				     "what is written need only be readable");
		area_check_bad(&area);
		cr_assert_eq(direct(ts->file, IOMAP_ITER_DEST, area.mem, 16 * KIB, 0, ts, dio_flags),
			     16 * KIB);
		cr_assert_eq(t_mismatch(area.mem, 16 * KIB, 0, 5), -1);
		area_free(&area);
	}
	ts_drop(ts);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 5));
	ts_close(ts);
}

Test(checked, bw04_direct_io_looks_at_its_memory_first)
{
	direct_all(0);
}

/* ---- where the kernel does not help ---- */

static bool feature(const char *text)
{
	struct iomap_feature all[32];
	int nr = iomap_features(NULL, all, sizeof(all[0]), 32);

	for (int i = 0; i < nr; i++)
		if (!strcmp(all[i].name, "checked"))
			return all[i].available && strstr(all[i].detail, text);
	return false;
}

Test(checked, bw04_without_process_vm_a_pipe_does)
{
	t_deny(SYS_process_vm_readv, EPERM);
	writes_of(TS_UNWRITTEN, 9, false);
	reads_of(true);
	cr_assert(feature("pipe"));
}

Test(checked, bw04_what_is_denied_later_is_found_out)
{
	reads_of(true);
	cr_assert(feature("process_vm_readv and"));
	t_deny(SYS_process_vm_writev, ENOSYS);
	reads_of(true);
	cr_assert(feature("pipe"));
}

Test(checked, bw04_without_madvise_direct_io_looks_at_each_page)
{
	t_deny(SYS_madvise, EINVAL);
	direct_all(0);
}

Test(checked, bw04_where_nothing_works_it_says_so)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct iomap_feature all[32];
	char byte = 0;
	int64_t pos = 0;
	int nr;

	t_deny(SYS_process_vm_readv, EPERM);
	t_deny(SYS_pipe2, EPERM);
	cr_assert_eq(write_from(ts, &byte, 1, &pos), -EOPNOTSUPP);
	nr = iomap_features(NULL, all, sizeof(all[0]), 32);
	for (int i = 0; i < nr; i++)
		if (!strcmp(all[i].name, "checked"))
			cr_assert_not(all[i].available);
	ts_close(ts);
}

/* ---- beside a thread that takes the memory away and gives it back ---- */

static atomic_bool enough;

static long meddle(void *arg)
{
	struct area *area = arg;

	while (!atomic_load(&enough)) {
		t_must(mprotect(area->mem + PAGE, PAGE, PROT_NONE) == 0);
		t_must(mprotect(area->mem + PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	}
	return 0;
}

Test(checked, bw04_memory_that_comes_and_goes)
{
	struct ts *ts = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	struct area area = area_new(PROT_NONE);
	struct t_task task;

	t_fill(area.mem, 3 * PAGE, 0, 7);
	t_start(&task, meddle, &area);
	for (unsigned i = 0; i < 2000; i++) {
		int64_t pos = 0;
		ssize_t ret = write_from(ts, area.mem, 3 * PAGE, &pos);

		cr_assert(ret == PAGE || ret == 3 * PAGE, "%zd", ret);
		cr_assert_eq(pos, ret);
		cr_assert(ts_reads(ts, 0, (size_t)ret, 7));
		pos = 0;
		ret = read_to(ts, area.mem, PAGE * 2, &pos);
		cr_assert(ret == pos && (ret == PAGE || ret == iomap_i_size_read(&ts->inode) ||
					 ret == 2 * PAGE), "%zd", ret);
	}
	atomic_store(&enough, true);
	t_join(&task);
	area_free(&area);
	ts_close(ts);
}

/* ---- a process whose first thread has ended ---- */

static struct ts *last_store;

static void read_checked(void)
{
	unsigned char buf[PAGE] = { 0 };
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, last_store->file, 0);
	iocb.ki_flags |= IOMAP_IOCB_CHECKED;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, PAGE);
	t_must(iomap_file_read_iter(&iocb, &to) == PAGE);
	t_must(t_mismatch(buf, PAGE, 0, 1) == -1);
}

static void *read_when_ended(void *arg)
{
	t_must(pthread_join(*(pthread_t *)arg, NULL) == 0);
	read_checked();
	_exit(0);
}

static void end_first_thread(void *arg)
{
	static pthread_t self;
	pthread_t thread;

	(void)arg;
	last_store = ts_open(&(struct ts_config){ .alloc = TS_NEW });
	ts_write(last_store, 0, PAGE, 1);
	read_checked();
	self = pthread_self();
	t_must(pthread_create(&thread, NULL, read_when_ended, &self) == 0);
	pthread_exit(NULL);
}

Test(checked, bw04_the_first_thread_may_have_ended)
{
	char err[4096];

	if (T_TSAN)
		cr_skip_test("ThreadSanitizer does not know a join of the first thread");
	cr_assert_eq(t_death(end_first_thread, NULL, err, sizeof(err)), 0, "%s", err);
}
