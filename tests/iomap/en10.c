/* SPDX-License-Identifier: MIT */
/* ctest-options: TIMEOUT 240 */
/* ctest-labels: release */
/*
 * en10.c - EN10: each allocation and each I/O of a script fails once in turn.
 *
 * The script does what a program does: an engine, a device, two files with several openers,
 * buffered writes of all shapes, more of them than the cache holds, reads with readahead,
 * truncation, direct I/O, syncs, and the end of all of it.  A call that fails, or does less
 * than it was asked for, is made again, and then has to succeed: what failed was one thing.
 *
 * What must come of a failure follows from where it came:
 *
 *	NONE	    the library goes on without: no call fails.  docs/testing.md has the list.
 *	ONE	    one call fails, once
 *	OBSERVERS   a write-out failed: each opener of the file is told by one fsync (or O_DSYNC
 *		    write), and iomap_sync_engine() once; a call whose own business that
 *		    write-out was (direct I/O, iomap_sync_range) may fail besides
 *
 * Data: for each byte there is a value that a call has reported as written, and after a
 * failed call or fsync perhaps a second one, what was there before.  Nothing else is ever
 * read: not through the cache, and at the end not from the device.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "smallstore.h"
#include "teststore.h"

#define KIB 1024
#define POISON 0xdb
#define A_BYTES (96 * KIB)
#define B_BYTES (200 * KIB)
#define A_BASE (32 * KIB)
#define B_BASE (160 * KIB)
#define DEV_BYTES (384 * KIB)
#define OPENERS_MAX 4

#define IS_OTHER 0x1U /* `other` may be there as well */
#define IS_DIRTY 0x2U /* written since the last successful fsync */
#define IS_AGAIN 0x4U /* and before that, what is in `before`, without an fsync in between */

/* What a file may hold. */
struct model {
	int64_t size, max; /* now, and of all sizes that it had */
	uint8_t now[B_BYTES], other[B_BYTES], synced[B_BYTES], before[B_BYTES], is[B_BYTES];
};

struct opener {
	struct iomap_file *file;
	int number; /* as an observer */
	bool dsync, direct;
};

struct file {
	struct ss ss;
	struct model model;
	struct opener opener[OPENERS_MAX];
	unsigned openers_nr;
	int first; /* number of the first opener */
};

#define ENGINE_OBSERVER 100

struct script {
	/* what is run */
	const char *backend;
	uint32_t engine_flags, nr_io_threads;
	uint64_t cache_bytes;
	uint32_t max_segments_nr; /* of the device; 0: many */
	const char *path; /* NULL: a memory device */
	/* a run */
	struct tf *tf;
	struct iomap_engine *engine;
	struct iomap_bdev *lower;
	struct ss_dev dev;
	struct file a, b;
	unsigned seed;
	char *buf; /* B_BYTES + 64 KiB, aligned */
	const char *backend_used, *backend_clean;
	bool few_threads; /* the log says that some I/O threads are missing */
	bool closing;	  /* the openers are gone */
};

/* ---- the model ---- */

static void m_write(struct model *m, int64_t pos, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		size_t at = (size_t)pos + i;

		m->before[at] = m->now[at];
		m->is[at] = m->is[at] & IS_DIRTY ? IS_DIRTY | IS_AGAIN : IS_DIRTY;
	}
	memcpy(m->now + pos, data, len);
	if (pos + (int64_t)len > m->size)
		m->size = pos + (int64_t)len;
	if (m->size > m->max)
		m->max = m->size;
}

/* Zeros that count as written: what a new size has moved over. */
static void m_zero(struct model *m, int64_t from, int64_t to)
{
	if (to <= from)
		return;
	memset(m->now + from, 0, (size_t)(to - from));
	memset(m->is + from, IS_DIRTY, (size_t)(to - from));
	if (to > m->max)
		m->max = to;
}

/* A call that failed may have written this. */
static void m_perhaps(struct model *m, int64_t pos, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		m->other[pos + (int64_t)i] = (uint8_t)data[i];
		m->is[pos + (int64_t)i] |= IS_OTHER | IS_DIRTY;
	}
	if (pos + (int64_t)len > m->max)
		m->max = pos + (int64_t)len;
}

static void m_synced(const struct script *s, struct model *m)
{
	memcpy(m->synced, m->now, (size_t)m->max);
	if (!s->tf->fired)
		memset(m->is, 0, (size_t)m->max);
	else
		for (int64_t i = 0; i < m->max; i++)
			m->is[i] &= (uint8_t)~IS_DIRTY;
}

static void m_sync_failed(struct model *m)
{
	for (int64_t i = 0; i < m->max; i++)
		if (m->is[i] & IS_DIRTY) {
			m->other[i] = m->synced[i];
			m->is[i] |= IS_OTHER;
		}
}

static bool m_allows(const struct script *s, const struct model *m, size_t at, uint8_t value)
{
	if (value == m->now[at])
		return true;
	if (!s->tf->fired)
		return false;
	/* a write-out may have failed that nobody has been told of yet */
	return (m->is[at] & IS_OTHER && value == m->other[at]) ||
	       (m->is[at] & IS_AGAIN && value == m->before[at]) ||
	       (m->is[at] & IS_DIRTY && value == m->synced[at]);
}

static void m_check(const struct script *s, const struct model *m, int64_t pos, const char *data,
		    size_t len, const char *what)
{
	if (!memcmp(data, m->now + pos, len))
		return;
	for (size_t i = 0; i < len; i++) {
		size_t at = (size_t)pos + i;

		if (m_allows(s, m, at, (uint8_t)data[i]))
			continue;
		tf_print(s->tf);
		cr_assert_fail("%s: byte %zu of the file of %lld is 0x%02x, not 0x%02x (state %u)",
			       what, at, (long long)m->size, (uint8_t)data[i], m->now[at],
			       m->is[at]);
	}
}

/* What was found is what there is from now on. */
static void m_adopt(struct model *m, const char *data)
{
	memcpy(m->now, data, (size_t)m->size);
	memcpy(m->synced, m->now, (size_t)m->max);
	memset(m->is, 0, (size_t)m->max);
}

/* ---- calls ---- */

#define TRIES 8 /* a call that fails once, and comes back short more often, has ended by then */

/* The size after a call that failed: somewhere between the old one and `max`. */
static void size_after(struct script *s, struct file *f, int64_t max)
{
	int64_t size = iomap_i_size_read(&f->ss.inode);

	/* it may move over a gap, up to where the write was to begin */
	if (size < f->model.size || size > (max > f->model.size ? max : f->model.size)) {
		tf_print(s->tf);
		cr_assert_fail("a failed call has left a size of %lld", (long long)size);
	}
	m_zero(&f->model, f->model.size, size);
	f->model.size = size;
}

/* What the file has now, through the cache. */
static void look(struct script *s, struct file *f, int64_t pos, size_t len)
{
	static char data[B_BYTES];
	ssize_t ret;

	if (!s->tf->in_order)
		return;
	tf_pause(s->tf);
	ret = iomap_read(f->opener[0].file, data, len, pos);
	cr_assert_geq(ret, 0);
	m_check(s, &f->model, pos, data, (size_t)ret, "after a call that failed");
	tf_go_on(s->tf);
}

static ssize_t write_once(struct opener *o, int64_t pos, const char *data, size_t len,
			  unsigned dio_flags)
{
	struct iomap_iov_iter from;
	struct iomap_inode *inode;
	struct iomap_kiocb iocb;
	ssize_t ret;

	if (!dio_flags)
		return iomap_write(o->file, data, len, pos);
	inode = iomap_file_inode(o->file);
	iomap_kiocb_init(&iocb, o->file, pos);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)data, len);
	iomap_inode_lock(inode);
	ret = iomap_dio_rw(&iocb, &from, &ss_ops, &ss_dio_ops, dio_flags, NULL, 0);
	iomap_inode_unlock(inode);
	return ret;
}

static void do_write_by(struct script *s, struct file *f, unsigned opener, int64_t pos, size_t len,
			size_t off_in_memory, unsigned dio_flags)
{
	struct opener *o = &f->opener[opener];
	char *data = s->buf + off_in_memory;
	int tries;

	t_fill(data, len, pos, ++s->seed);
	tf_call(s->tf, o->direct ? "direct write" : o->dsync ? "O_DSYNC write" : "write");
	for (tries = 0; len && tries < TRIES; tries++) {
		ssize_t ret = write_once(o, pos, data, len, dio_flags);

		cr_assert_leq(ret, (ssize_t)len);
		if (ret < 0) {
			tf_event(s->tf, o->dsync ? o->number : -1, (int)ret);
			/* a buffered write that tells an error has written nothing */
			size_after(s, f, o->dsync || o->direct ? pos + (int64_t)len : pos);
			if (o->dsync)
				m_sync_failed(&f->model);
			if (o->dsync || o->direct)
				m_perhaps(&f->model, pos, data, len);
			look(s, f, pos, len);
			continue;
		}
		if (pos > f->model.size)
			m_zero(&f->model, f->model.size, pos);
		m_write(&f->model, pos, data, (size_t)ret);
		if (ret < (ssize_t)len) {
			tf_event(s->tf, -1, 0);
			look(s, f, pos, len);
		}
		pos += ret;
		data += ret;
		len -= (size_t)ret;
	}
	cr_assert_eq(len, 0);
	cr_assert_eq(iomap_i_size_read(&f->ss.inode), f->model.size);
}

static void do_write(struct script *s, struct file *f, unsigned opener, int64_t pos, size_t len)
{
	do_write_by(s, f, opener, pos, len, 0, 0);
}

static ssize_t read_once(struct opener *o, int64_t pos, char *data, size_t len, unsigned dio_flags)
{
	struct iomap_iov_iter to;
	struct iomap_inode *inode;
	struct iomap_kiocb iocb;
	ssize_t ret;

	if (!dio_flags)
		return iomap_read(o->file, data, len, pos);
	inode = iomap_file_inode(o->file);
	iomap_kiocb_init(&iocb, o->file, pos);
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, data, len);
	iomap_inode_lock_shared(inode);
	ret = iomap_dio_rw(&iocb, &to, &ss_ops, &ss_dio_ops, dio_flags, NULL, 0);
	iomap_inode_unlock_shared(inode);
	return ret;
}

static void do_read_by(struct script *s, struct file *f, unsigned opener, int64_t pos, size_t len,
		       size_t off_in_memory, unsigned dio_flags)
{
	struct opener *o = &f->opener[opener];
	int64_t left = f->model.size - pos;
	char *data = s->buf + off_in_memory;
	size_t want = left < 0 ? 0 : (int64_t)len > left ? (size_t)left : len;
	int tries;

	tf_call(s->tf, o->direct ? "direct read" : "read");
	memset(data, POISON, len);
	for (tries = 0; tries < TRIES; tries++) {
		ssize_t ret = read_once(o, pos, data, len, dio_flags);

		cr_assert_leq(ret, (ssize_t)want);
		if (ret < 0) {
			tf_event(s->tf, -1, (int)ret);
			continue;
		}
		m_check(s, &f->model, pos, data, (size_t)ret, s->tf->call);
		if (ret == (ssize_t)want)
			return;
		tf_event(s->tf, -1, 0);
		pos += ret;
		data += ret;
		len -= (size_t)ret;
		want -= (size_t)ret;
	}
	cr_assert_fail("%s: fails for ever", s->tf->call);
}

static void do_read(struct script *s, struct file *f, unsigned opener, int64_t pos, size_t len)
{
	do_read_by(s, f, opener, pos, len, 0, 0);
}

static void read_all(struct script *s, struct file *f, unsigned opener, size_t step)
{
	for (int64_t pos = 0; pos < f->model.size; pos += (int64_t)step)
		do_read(s, f, opener, pos, step);
}

/* Each opener's fsync tells an error once, and the next one is without. */
static void sync_all(struct script *s, struct file *f)
{
	tf_call(s->tf, "fsync");
	for (unsigned i = 0; i < f->openers_nr; i++)
		for (int tries = 0; tries < 3; tries++) {
			int error = iomap_file_fsync(f->opener[i].file, (int)i & 1);

			if (!error)
				break;
			tf_event(s->tf, f->opener[i].number, error);
			m_sync_failed(&f->model);
		}
	m_synced(s, &f->model);
}

static void sync_range(struct script *s, struct file *f, int64_t start, int64_t end)
{
	int error;

	tf_call(s->tf, "sync_range");
	error = iomap_sync_range(f->opener[0].file, start, end,
				 IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER);
	/* an error that fsync tells as well: again would fail again */
	if (error)
		tf_event(s->tf, -1, error);
}

static void sync_engine(struct script *s)
{
	uint64_t before = s->tf->nr[IOMAP_FAIL_IO], noted = s->dev.ops_nr;

	tf_call(s->tf, "sync_engine");
	for (int tries = 0; tries < 3; tries++) {
		int error = iomap_sync_engine(s->engine);

		if (!error)
			break;
		tf_event(s->tf, ENGINE_OBSERVER, error);
		m_sync_failed(&s->a.model);
		m_sync_failed(&s->b.model);
	}
	/* the lower device is flushed by itself, and last */
	for (before += s->dev.ops_nr - noted; before < s->tf->nr[IOMAP_FAIL_IO]; before++)
		s->dev.op[s->dev.ops_nr++] = IOMAP_REQ_OP_FLUSH;
}

static void truncate_to(struct script *s, struct file *f, int64_t size)
{
	int64_t old = f->model.size, block = (int64_t)1 << f->ss.blkbits;
	int tries;

	tf_call(s->tf, "truncate");
	for (tries = 0; tries < TRIES; tries++) {
		int error = iomap_truncate(f->opener[0].file, size);

		if (!error)
			break;
		tf_event(s->tf, -1, error);
		cr_assert_eq(iomap_i_size_read(&f->ss.inode), old);
	}
	cr_assert_eq(iomap_i_size_read(&f->ss.inode), size);
	if (size < old) {
		int64_t keep = (size + block - 1) & -block;

		m_zero(&f->model, size, old);
		/* blocks beyond are holes */
		for (int64_t i = keep; i < old; i++) {
			f->model.is[i] = 0;
			f->model.synced[i] = 0;
		}
	} else {
		m_zero(&f->model, old, size);
	}
	f->model.size = size;
}

static void drop_cache(struct file *f)
{
	iomap_invalidate_inode_pages(&f->ss.inode, 0, INT64_MAX);
}

/* ---- beginning and end ---- */

static void log_line(void *ctx, enum iomap_log_level level, const char *message)
{
	struct script *s = ctx;

	(void)level;
	if (strstr(message, "I/O threads started"))
		s->few_threads = true;
}

/* A call without anything to put right in between. */
#define RETRY(s, what, expr)                                                                       \
	do {                                                                                       \
		int error_;                                                                        \
		tf_call((s)->tf, what);                                                            \
		error_ = (expr);                                                                   \
		if (error_) {                                                                      \
			tf_event((s)->tf, -1, error_);                                             \
			error_ = (expr);                                                           \
		}                                                                                  \
		if (error_)                                                                        \
			tf_print((s)->tf);                                                         \
		cr_assert_eq(error_, 0, "%s fails for ever: %s", what, strerror(-error_));         \
	} while (0)

static int create(struct script *s)
{
	struct iomap_engine_opts opts;
	int error;

	iomap_engine_opts_init(&opts);
	opts.backend = s->backend;
	opts.flags = s->engine_flags;
	opts.nr_io_threads = s->nr_io_threads;
	opts.cache_bytes = s->cache_bytes;
	opts.max_callers = 2;
	opts.nr_queues = 1;
	opts.queue_depth = 8;
	opts.log = log_line;
	opts.log_ctx = s;
	tf_opts(s->tf, &opts);
	/* a new engine counts from 1 */
	for (unsigned i = 0; i < IOMAP_FAIL_KINDS_NR; i++)
		s->tf->last[i] = 0;
	error = iomap_engine_create(&opts, &s->engine);
	cr_assert(error || s->engine);
	return error;
}

static int open_lower(struct script *s)
{
	return s->path ? iomap_bdev_open(s->engine, s->path, NULL, &s->lower) :
			 iomap_bdev_open_memory(s->engine, DEV_BYTES, &s->lower);
}

static void open_file(struct script *s, struct file *f, unsigned flags)
{
	struct opener *o = &f->opener[f->openers_nr];

	RETRY(s, "open", iomap_file_open(&f->ss.inode, flags, &o->file));
	o->number = f->first + (int)f->openers_nr++;
	o->dsync = flags & IOMAP_O_DSYNC;
	o->direct = flags & IOMAP_O_DIRECT;
}

static void begin(struct script *s)
{
	struct iomap_bdev_limits limits;
	unsigned blkbits = 10;

	s->few_threads = s->closing = false;
	s->seed = 0;
	s->a = (struct file){ .first = 0 };
	s->b = (struct file){ .first = 50 };
	RETRY(s, "create", create(s));
	s->backend_used = iomap_engine_backend(s->engine);
	RETRY(s, "bdev open", open_lower(s));
	RETRY(s, "bdev create", ss_dev_open(&s->dev, s->engine, s->lower, s->tf,
					     s->max_segments_nr));
	memset(s->buf, POISON, 64 * KIB);
	for (uint64_t addr = 0; addr < DEV_BYTES; addr += 64 * KIB)
		ss_dev_io(&s->dev, IOMAP_REQ_OP_WRITE, addr, s->buf, 64 * KIB);
	iomap_bdev_limits(s->lower, &limits);
	while (limits.logical_block_size > 1U << blkbits)
		blkbits++;
	RETRY(s, "inode init", ss_init(&s->a.ss, s->engine, &s->dev, A_BASE, A_BYTES, blkbits));
	RETRY(s, "inode init", ss_init(&s->b.ss, s->engine, &s->dev, B_BASE, B_BYTES, 12));
	open_file(s, &s->a, 0);
	open_file(s, &s->a, 0);
	open_file(s, &s->a, IOMAP_O_DSYNC);
	open_file(s, &s->a, IOMAP_O_DIRECT);
	open_file(s, &s->b, 0);
	open_file(s, &s->b, 0);
}

/* Everything through the cache, then without it, and then from the device. */
static void check_file(struct script *s, struct file *f, bool synced)
{
	struct model *m = &f->model;

	if (synced) {
		tf_pause(s->tf);
		cr_assert_eq(iomap_read(f->opener[0].file, s->buf, B_BYTES, 0), m->size);
		m_check(s, m, 0, s->buf, (size_t)m->size, "at the end, through the cache");
		for (unsigned i = 0; i < f->openers_nr; i++)
			cr_assert_eq(iomap_file_fsync(f->opener[i].file, 0), 0);
		drop_cache(f);
		cr_assert_eq(iomap_read(f->opener[0].file, s->buf, B_BYTES, 0), m->size);
		/* what could not be written out is what it was once it has left the cache */
		m_check(s, m, 0, s->buf, (size_t)m->size, "at the end, without the cache");
		m_adopt(m, s->buf);
		tf_go_on(s->tf);
	}
	for (int64_t pos = 0; pos < m->size; pos += 1 << f->ss.blkbits) {
		size_t block = 1U << f->ss.blkbits, len = (size_t)(m->size - pos);

		memset(s->buf, 0, block);
		if (ss_block_at(&f->ss, pos) == SS_WRITTEN)
			ss_dev_io(&s->dev, IOMAP_REQ_OP_READ, f->ss.base + (uint64_t)pos, s->buf,
				  block);
		m_check(s, m, pos, s->buf, len < block ? len : block, "on the device");
		if (len < block)
			cr_assert(t_all(s->buf + len, block - len, 0));
	}
}

static void close_file(struct script *s, struct file *f)
{
	for (unsigned i = 0; i < f->openers_nr; i++)
		RETRY(s, "close", iomap_file_close(f->opener[i].file));
}

static int destroy_inode(struct file *f)
{
	int error = iomap_inode_destroy(&f->ss.inode, IOMAP_DESTROY_WAIT);

	if (error)
		m_sync_failed(&f->model);
	return error;
}

static void end(struct script *s)
{
	struct iomap_engine_stats stats;

	do_write(s, &s->a, 0, 3000, 9000);
	close_file(s, &s->a);
	close_file(s, &s->b);
	s->closing = true;
	RETRY(s, "inode destroy", destroy_inode(&s->a));
	check_file(s, &s->a, false);
	RETRY(s, "inode destroy", destroy_inode(&s->b));
	ss_exit(&s->a.ss);
	ss_exit(&s->b.ss);
	cr_assert_eq(iomap_engine_stats(s->engine, &stats, sizeof(stats)), 0);
	cr_assert_eq(stats.cached_bytes, 0);
	cr_assert_eq(stats.dirty_bytes, 0);
	cr_assert_eq(stats.writeback_bytes, 0);
	RETRY(s, "bdev close", iomap_bdev_close(s->dev.bdev));
	RETRY(s, "bdev close", iomap_bdev_close(s->lower));
	RETRY(s, "engine destroy", iomap_engine_destroy(s->engine));
	tf_end(s->tf);
}

/* ---- the script ---- */

static void buffered(struct script *s)
{
	struct file *a = &s->a;

	do_write(s, a, 0, 0, 20000);
	do_write(s, a, 1, 30001, 5000);
	sync_range(s, a, 0, 16384);
	sync_all(s, a);
	read_all(s, a, 1, 6000);
	drop_cache(a);
	read_all(s, a, 1, 6000);
	drop_cache(a);
	do_write(s, a, 0, 777, 3000);
	do_write(s, a, 2, 12288, 4096);
	do_write(s, a, 2, 40000, 100);
	do_read(s, a, 0, 0, A_BYTES);
	sync_all(s, a);
	/* each of them has to read what it cuts */
	drop_cache(a);
	truncate_to(s, a, 12345);
	sync_all(s, a);
	drop_cache(a);
	truncate_to(s, a, 45000);
	do_write(s, a, 0, 44000, 3000);
	read_all(s, a, 0, 4096);
	sync_all(s, a);
	drop_cache(a);
	do_read(s, a, 1, 33000, 9000);
	drop_cache(a);
	truncate_to(s, a, 33333);
	sync_all(s, a);
}

/* More than the cache holds. */
static void pressure(struct script *s)
{
	struct file *b = &s->b;
	int64_t pos;

	for (pos = 0; pos < 120 * KIB; pos += 10000)
		do_write(s, b, 0, pos, 10000);
	read_all(s, b, 1, 16384);
	for (pos = 0; pos < B_BYTES - 8192; pos += 24 * KIB)
		do_write(s, b, 1, pos + 100, 8000);
	sync_all(s, b);
	read_all(s, b, 0, 10000);
	do_write(s, &s->a, 0, 100, 100);
}

static void direct(struct script *s)
{
	struct file *a = &s->a;

	do_write(s, a, 0, 4000, 6000);
	do_write(s, a, 3, 8192, 8192);
	do_read(s, a, 3, 0, 32768);
	do_read(s, a, 0, 4096, 8192);
	do_write(s, a, 3, 49152, 12288);
	do_write(s, a, 1, 57344, 5000);
	do_read(s, a, 3, 49152, 65536);
	do_write(s, a, 3, 81920, 4096);
	do_read_by(s, a, 3, 50001, 7001, 1, IOMAP_DIO_BOUNCE);
	do_write_by(s, a, 3, 49152, 8192, 1, IOMAP_DIO_BOUNCE);
	do_read(s, a, 1, 40000, 65536);
	sync_all(s, a);
}

static void run(void *arg, struct tf *tf)
{
	struct script *s = arg;

	s->tf = tf;
	begin(s);
	buffered(s);
	pressure(s);
	direct(s);
	do_write(s, &s->a, 0, 20, 20);
	do_write(s, &s->b, 0, 20000, 20000);
	sync_engine(s);
	sync_all(s, &s->a);
	sync_all(s, &s->b);
	check_file(s, &s->a, true);
	check_file(s, &s->b, true);
	if (!tf->n)
		s->backend_clean = s->backend_used;
	end(s);
}

/* ---- what must come of a failure ---- */

enum outcome { NONE, ONE, OBSERVERS };

static enum outcome expect_io(const struct script *s)
{
	uint32_t op = s->dev.op[s->tf->n - 1];

	cr_assert_leq(s->tf->n, s->dev.ops_nr);
	if (op & IOMAP_REQ_RAHEAD)
		return NONE; /* read again by whoever asks for it */
	if (op & SS_WRITE_OUT)
		return s->closing && !strcmp(s->tf->at.call, "inode destroy") ? ONE : OBSERVERS;
	return ONE;
}

/* Memory, an object or a folio. */
static enum outcome expect_memory(const struct script *s)
{
	const struct tf_at *at = &s->tf->at;

	/* another backend works without; or it was for one that does not work here anyway */
	if (!strcmp(at->call, "create"))
		return !s->backend && (s->backend_used != s->backend_clean ||
				       (!s->tf->events_nr && strcmp(s->backend_clean, "io_uring"))) ?
			       NONE : ONE;
	/* write-out waits for an object that comes back */
	if (at->where & SS_IN_WRITEPAGES)
		return NONE;
	/* readahead leaves it to the read */
	if (!strcmp(at->call, "read") && !(at->where & SS_IN_READ_FOLIO))
		return NONE;
	/* the rest goes through the cache; a write's is tried again first */
	if ((!strcmp(at->call, "direct write") || !strcmp(at->call, "direct read")) &&
	    at->where & SS_PART)
		return NONE;
	return ONE;
}

static enum outcome expect(const struct script *s)
{
	switch (s->tf->kind) {
	case IOMAP_FAIL_RING_SETUP:
		return s->backend ? ONE : NONE;
	case IOMAP_FAIL_THREAD_CREATE:
		return s->few_threads ? NONE : ONE;
	case IOMAP_FAIL_EVENTFD:
	case IOMAP_FAIL_RING_REGISTER:
		return NONE;
	case IOMAP_FAIL_ALLOC:
	case IOMAP_FAIL_POOL:
	case IOMAP_FAIL_FOLIO:
		return expect_memory(s);
	case IOMAP_FAIL_IO:
		return expect_io(s);
	default:
		return ONE;
	}
}

/* Every opener of the file, and the engine, once each; at most one call besides. */
static bool observers_told(const struct tf *tf, const struct file *f)
{
	for (unsigned i = 0; i < f->openers_nr; i++)
		if (tf_events(tf, NULL, f->opener[i].number) != 1)
			return false;
	return tf_events(tf, NULL, ENGINE_OBSERVER) == 1 && tf_events(tf, NULL, -1) <= 1 &&
	       tf->events_nr == f->openers_nr + 1 + tf_events(tf, NULL, -1);
}

static void check(void *arg, struct tf *tf)
{
	const struct script *s = arg;
	bool right = false;

	switch (expect(s)) {
	case NONE:
		right = tf->events_nr == 0;
		break;
	case ONE:
		right = tf->events_nr == 1;
		break;
	case OBSERVERS:
		right = observers_told(tf, &s->a) || observers_told(tf, &s->b);
		break;
	}
	if (right)
		return;
	tf_print(tf);
	cr_assert_fail("expected: %s", expect(s) == NONE ? "no call to fail" :
				       expect(s) == ONE	 ? "one call to fail" :
							   "each observer to be told once");
}

static struct script *script_new(void)
{
	struct script *s = calloc(1, sizeof(*s));

	cr_assert(s);
	s->buf = aligned_alloc(4096, B_BYTES + 64 * KIB);
	cr_assert(s->buf);
	s->engine_flags = IOMAP_ENGINE_NO_THREADS;
	s->nr_io_threads = 1;
	s->cache_bytes = 128 * KIB;
	return s;
}

static void script_run(struct script *s, const char *name, void (*judge)(void *, struct tf *),
		       bool threads)
{
	struct tf_script script = {
		.name = name,
		.run = run,
		.check = judge,
		.arg = s,
		.max_io = 2000,
		.threads = threads,
	};

	/* a file takes its time, and most of this knows nothing of the device */
	if (s->path) {
		script.every[IOMAP_FAIL_POOL] = script.every[IOMAP_FAIL_FOLIO] = 13;
		script.every[IOMAP_FAIL_IO] = s->backend ? 1 : 9;
	}
	tf_each(&script);
}

static struct script *script_on_file(const char *backend)
{
	struct script *s = script_new();
	struct tf probe;

	/* no memory is short, so that the order of I/O is always the same */
	s->cache_bytes = 1024 * KIB;
	s->path = t_temp(DEV_BYTES);
	s->backend = backend;
	tf_begin(&probe, 0, 0);
	s->tf = &probe;
	if (backend && create(s))
		cr_skip_test("backend %s does not work here", backend);
	if (backend)
		cr_assert_eq(iomap_engine_destroy(s->engine), 0);
	return s;
}

static void script_free(struct script *s)
{
	if (s->path)
		t_temp_free((char *)(uintptr_t)s->path);
	free(s->buf);
	free(s);
}

Test(en10, en10_each_failure_on_a_memory_device)
{
	struct script *s = script_new();

	unsetenv("IOMAP_BACKEND");
	script_run(s, "memory device", check, false);
	script_free(s);
}

/* Reads are split by it. */
Test(en10, en10_each_failure_on_a_device_that_takes_little_at_once)
{
	struct script *s = script_new();

	unsetenv("IOMAP_BACKEND");
	s->max_segments_nr = 2;
	s->cache_bytes = 512 * KIB;
	script_run(s, "device with limits", check, false);
	script_free(s);
}

Test(en10, en10_each_failure_on_a_file_by_io_uring)
{
	struct script *s = script_on_file("io_uring");

	script_run(s, "file, io_uring", check, false);
	script_free(s);
}

Test(en10, en10_each_failure_on_a_file_by_libaio)
{
	struct script *s = script_on_file("libaio");

	script_run(s, "file, libaio", check, false);
	script_free(s);
}

Test(en10, en10_each_failure_on_a_file_by_threads)
{
	struct script *s = script_on_file("threads");

	s->nr_io_threads = 2;
	script_run(s, "file, threads", check, false);
	script_free(s);
}

Test(en10, en10_each_failure_on_a_file_by_any_backend)
{
	struct script *s = script_on_file(NULL);

	unsetenv("IOMAP_BACKEND");
	script_run(s, "file", check, false);
	script_free(s);
}

/* ---- with a flusher ---- */

/* Where it comes is a matter of chance; what comes of it is one of the three. */
static void check_any(void *arg, struct tf *tf)
{
	const struct script *s = arg;

	if (tf->events_nr <= 1 || observers_told(tf, &s->a) || observers_told(tf, &s->b))
		return;
	tf_print(tf);
	cr_assert_fail("an error was told too often, or not to all");
}

static struct script *with_flusher(struct script *s)
{
	s->engine_flags = 0;
	return s;
}

Test(en10, en10_a_failure_beside_a_flusher_on_a_memory_device)
{
	struct script *s = with_flusher(script_new());

	script_run(s, "memory device, flusher", check_any, true);
	script_free(s);
}

Test(en10, en10_a_failure_beside_a_flusher_on_a_file)
{
	struct script *s = with_flusher(script_on_file(NULL));

	script_run(s, "file, flusher", check_any, true);
	script_free(s);
}

/* ---- for good ---- */

static long fsync_of(void *arg)
{
	return ts_fsync(arg);
}

/*
 * More ioends than are reserved, while there is no memory at all and the device keeps what it
 * has been given: write-out goes on when that comes back.
 */
Test(en10, en10_write_out_without_memory_waits_and_loses_nothing)
{
	static struct tf tf;
	struct iomap_engine_opts opts;
	struct ts_config cfg = { .opts = &opts, .i_size = 4096 * KIB };
	const int nr = 300;
	struct t_task task;
	struct ts *ts;

	tf_begin(&tf, IOMAP_FAIL_ALLOC, 0);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4096 * KIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_hard_pct = 80;
	opts.dirty_background_pct = 80;
	tf_opts(&tf, &opts);
	ts = ts_open(&cfg);
	ts_map(ts, 0, 4096 * KIB, IOMAP_MAPPED, 0, 0);
	/* each page by itself, so that each is an ioend */
	for (int i = 0; i < nr; i++)
		ts_write(ts, (int64_t)i * 8 * KIB, 4 * KIB, 7);
	tf.always = true;
	td_hold(ts->dev, TD_WRITE);
	t_start(&task, fsync_of, ts);
	/* those that are reserved are inside the device, and there is none for the next */
	while (!tf.fired)
		sched_yield();
	td_open_gates(ts->dev);
	cr_assert_eq(t_join(&task), 0);
	cr_assert(tf.fired, "there was memory for all");
	for (int i = 0; i < nr; i++)
		cr_assert(ts_dev_has(ts, (uint64_t)i * 8 * KIB, 4 * KIB, (int64_t)i * 8 * KIB, 7));
	tf.always = false;
	ts_close(ts);
	tf_end(&tf);
}

/* An error that a direct read has met is no error of the next one, whoever knows of it. */
Test(en10, en10_direct_io_tells_an_error_of_its_own_range_only)
{
	struct ts_config cfg = { .i_size = 64 * KIB };
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	struct ts *ts = ts_open(&cfg);
	char *buf = aligned_alloc(4096, 8 * KIB);

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(ts, 0, 8 * KIB, 1);
	ts_write(ts, 32 * KIB, 8 * KIB, 1);
	td_fail(ts->dev, TD_WRITE, 0, 8 * KIB, -EIO, 1);
	for (int i = 0; i < 2; i++) {
		iomap_kiocb_init(&iocb, ts->file, i * 32 * KIB);
		iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, 8 * KIB);
		iomap_inode_lock_shared(&ts->inode);
		cr_assert_eq(iomap_dio_rw(&iocb, &to, &ts->ops, NULL, 0, NULL, 0),
			     i ? 8 * KIB : -EIO);
		iomap_inode_unlock_shared(&ts->inode);
	}
	cr_assert_eq(t_mismatch(buf, 8 * KIB, 32 * KIB, 1), -1);
	cr_assert_eq(ts_fsync(ts), -EIO);
	cr_assert_eq(ts_fsync(ts), 0);
	ts_close(ts);
	free(buf);
}
