/* SPDX-License-Identifier: MIT */
/*
 * ops.c - the operations: drawn, planned, done, checked.
 *
 * Drawing takes the operation's own random numbers, and so is the same whatever else happens;
 * planning makes a place in the file out of them, for which the size has to be known.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "fm.h"

/* What is drawn. */
struct draw {
	enum fm_kind kind;
	unsigned file;
	unsigned where;	   /* how the place is chosen */
	uint64_t a, b;	   /* for the place */
	uint64_t len, hot; /* bytes; where all threads of the run are at this time */
	uint64_t pattern, more;
};

/* Of 64. */
static const unsigned char weights[FM_KINDS] = {
	[FM_WRITE] = 8,	 [FM_SHARED] = 9,     [FM_APPEND] = 3, [FM_DSYNC] = 1, [FM_DWRITE] = 3,
	[FM_TRUNCATE] = 4, [FM_READ] = 9,     [FM_READV] = 3,  [FM_DREAD] = 3, [FM_BATCH] = 2,
	[FM_PIN] = 2,	   [FM_FSYNC] = 1,
	[FM_SYNC_RANGE] = 2, [FM_DROP] = 2, [FM_SYNC_ALL] = 1,
	[FM_IOCB_WRITE] = 3, [FM_IOCB_READ] = 3, [FM_APPENDS] = 1, [FM_RESIZE] = 1,
	[FM_ZERO] = 1,	 [FM_PUNCH] = 2,
};

/* What makes two threads wait for a device leaves no time to meet. */
static const unsigned char crowd_weights[FM_KINDS] = {
	[FM_WRITE] = 8, [FM_SHARED] = 17,    [FM_APPEND] = 6, [FM_DWRITE] = 1, [FM_TRUNCATE] = 6,
	[FM_READ] = 16, [FM_SYNC_RANGE] = 1, [FM_DROP] = 2,   [FM_PIN] = 1,
	[FM_IOCB_WRITE] = 2, [FM_IOCB_READ] = 2, [FM_ZERO] = 1, [FM_PUNCH] = 1,
};

static enum fm_kind draw_kind(struct t_rand *r, const unsigned char *of)
{
	unsigned n = (unsigned)t_below(r, 64);

	for (int kind = 0; kind < FM_KINDS; kind++) {
		if (n < of[kind])
			return (enum fm_kind)kind;
		n -= of[kind];
	}
	return FM_READ;
}

/* Where a crowd is: two blocks or folios, and a bit. */
static int64_t crowd_bytes(const struct fm *fm)
{
	int64_t unit = (int64_t)1 << fm->setup.blkbits;

	return 2 * (unit > (int64_t)IOMAP_PAGE_SIZE ? unit : (int64_t)IOMAP_PAGE_SIZE) + 100;
}

static uint64_t draw_len(struct t_rand *r, const struct fm *fm)
{
	if (fm->setup.crowd && t_below(r, 2))
		return 1 + t_below(r, (uint64_t)crowd_bytes(fm) / 2);
	switch (t_below(r, 8)) {
	case 0:
		return 1 + t_below(r, fm->setup.crowd ? 100 : 24 * 1024);
	case 1:
	case 2:
		return 1 + t_below(r, 5000);
	case 3:
		return (1 + t_below(r, 8)) * 512;
	default:
		return 1 + t_below(r, 300);
	}
}

static void draw(const struct fm_worker *w, uint64_t nr, struct draw *d)
{
	const struct fm *fm = w->fm;
	struct t_rand all = { fm->seed * 1000003 + fm->run * 7919 + nr / 64 };
	struct t_rand r = { (fm->seed ^ fm->run << 40) + nr * FM_THREADS_MAX + w->thread };

	/* stir, since neighbours begin with almost the same state */
	r.state = t_rand(&r);
	d->kind = draw_kind(&r, fm->setup.crowd ? crowd_weights : weights);
	/* what is pinned cannot make room */
	if (d->kind == (fm->setup.resize ? FM_PIN : FM_RESIZE))
		d->kind = FM_READ;
	d->file = fm->setup.crowd || t_below(&r, 8) ? 0 : (unsigned)t_below(&r, FM_FILES);
	d->where = (unsigned)t_below(&r, 10);
	d->a = t_rand(&r);
	d->b = t_rand(&r);
	d->len = draw_len(&r, fm);
	d->hot = t_below(&all, (uint64_t)fm->setup.bytes_max);
	d->pattern = t_rand(&r);
	d->more = t_rand(&r);
}

/* ---- places ---- */

/* Where something may go wrong: at ends of blocks, pages, folios, the file; and all in one place. */
static int64_t place(const struct fm_file *f, const struct draw *d)
{
	int64_t unit = 1, at, bytes_max = f->fm->setup.bytes_max;

	if (f->fm->setup.crowd && d->where > 1)
		return (int64_t)(d->a % (uint64_t)crowd_bytes(f->fm));
	switch (f->fm->setup.crowd ? 2 + d->where : d->where) {
	case 0:
		unit = (int64_t)1 << f->fm->setup.blkbits;
		at = (int64_t)(d->a % (uint64_t)bytes_max) / unit * unit + (int64_t)(d->b % 3) - 1;
		break;
	case 1:
		unit = (int64_t)IOMAP_PAGE_SIZE;
		at = (int64_t)(d->a % (uint64_t)bytes_max) / unit * unit + (int64_t)(d->b % 3) - 1;
		break;
	case 2:
		at = f->size + (int64_t)(d->b % 3) - 1;
		break;
	case 3:
		at = f->size - (int64_t)(d->a % 6000);
		break;
	case 4:
		at = (int64_t)(d->a % (uint64_t)bytes_max);
		break;
	default:
		at = (int64_t)d->hot + (int64_t)(d->a % 3000);
		break;
	}
	return at < 0 ? 0 : at < bytes_max ? at : bytes_max - 1;
}

static void plan_truncate(struct fm_file *f, struct fm_op *op, const struct draw *d)
{
	int64_t block = (int64_t)1 << f->fm->setup.blkbits, size = f->size, to = place(f, d);

	/* mostly near the end: a file that is always short shows little */
	if (d->more % 4 && to < size)
		to = size - (size - to) % (3 * 4096);
	op->pos = size < to ? size : to;
	op->limit = size < to ? to : size;
	op->size_after = to;
	op->lock_pos = op->pos;
	op->lock_limit = INT64_MAX / 2;
	op->zero_pos = op->pos;
	op->zero_limit = op->limit;
	if (to < size) {
		int64_t end = (to + block - 1) / block * block;

		op->cut = to;
		op->zero_limit = end < size ? end : size;
	}
}

/* Whether it is about what is in the file, and nothing else. */
static bool is_inside(enum fm_kind kind)
{
	return kind == FM_SHARED || kind == FM_ZERO || kind == FM_PUNCH;
}

static void plan_write(struct fm_file *f, struct fm_op *op, const struct draw *d)
{
	int64_t size = f->size, unit = op->kind == FM_DWRITE ? FM_SECTOR : 1;
	int64_t most = f->fm->setup.bytes_max / unit * unit;

	op->pos = op->kind == FM_APPEND || op->kind == FM_APPENDS ? size : place(f, d) / unit * unit;
	if (op->kind == FM_IOCB_WRITE && op->pos > size)
		op->pos = size;
	if (is_inside(op->kind) && op->pos >= size)
		op->pos = size ? op->pos % size : 0;
	/* an append may find no room, and what is inside no file: then there is nothing to do */
	if (op->kind == FM_DWRITE && op->pos >= most)
		op->pos = most - unit;
	op->limit = op->pos + ((int64_t)d->len + unit - 1) / unit * unit;
	if (op->limit > most)
		op->limit = most;
	if (is_inside(op->kind) && op->limit > size)
		op->limit = size;
	op->size_after = op->limit > size ? op->limit : size;
	op->lock_pos = op->pos < size || op->limit == op->pos ? op->pos : size;
	op->lock_limit = op->limit > size ? INT64_MAX / 2 : op->limit;
	op->zero_pos = size;
	op->zero_limit = op->limit > op->pos ? op->pos : size;
	/* its end moves the size, and then drops what the cache holds there: see direct_cache.c */
	if (op->kind == FM_DWRITE)
		op->zero_limit = op->limit;
	if (op->kind >= FM_ZERO) {
		op->zero_pos = op->pos;
		op->zero_limit = op->limit;
	}
}

static void plan(struct fm_file *f, struct fm_op *op, void *arg)
{
	const struct draw *d = arg;
	int64_t unit = op->kind == FM_DREAD ? FM_SECTOR : 1;

	op->cut = INT64_MAX;
	op->size_after = f->size;
	op->zero_pos = op->zero_limit = 0;
	switch (op->kind) {
	case FM_WRITE:
	case FM_SHARED:
	case FM_APPEND:
	case FM_DSYNC:
	case FM_DWRITE:
	case FM_IOCB_WRITE:
	case FM_APPENDS:
	case FM_ZERO:
	case FM_PUNCH:
		plan_write(f, op, d);
		break;
	case FM_TRUNCATE:
		plan_truncate(f, op, d);
		break;
	default:
		op->pos = place(f, d) / unit * unit;
		op->limit = op->pos + ((int64_t)d->len + unit - 1) / unit * unit;
		break;
	}
}

/* ---- doing ---- */

/* Three parts of one buffer. */
static void split(struct iovec iov[3], unsigned char *buf, size_t len, uint64_t more)
{
	size_t a = more % (len + 1), b = more / 7 % (len + 1), swap = a;

	a = a < b ? a : b;
	b = swap < b ? b : swap;
	iov[0] = (struct iovec){ buf, a };
	iov[1] = (struct iovec){ buf + a, b - a };
	iov[2] = (struct iovec){ buf + b, len - b };
}

/* ---- a call by iocb, whose result comes later ---- */

struct later {
	struct iomap_kiocb iocb; /* first */
	struct t_gate gate;
	bool done;
	long ret;
};

static void later_complete(struct iomap_kiocb *iocb, long ret)
{
	struct later *later = (struct later *)(void *)iocb;

	t_lock(&later->gate);
	t_must(!later->done);
	later->done = true;
	later->ret = ret;
	t_wake(&later->gate);
	t_unlock(&later->gate);
}

/* The result of a call that returned @ret; without threads it is this one that brings it about. */
static ssize_t later_wait(struct fm *fm, struct later *later, ssize_t ret)
{
	if (ret != -IOMAP_EIOCBQUEUED)
		return ret;
	t_lock(&later->gate);
	while (!later->done) {
		if (fm->setup.flusher) {
			t_wait(&later->gate);
			continue;
		}
		t_unlock(&later->gate);
		iomap_engine_poll(fm->engine, 4, true);
		t_lock(&later->gate);
	}
	t_unlock(&later->gate);
	return later->ret;
}

static ssize_t call_later(struct fm_file *f, struct iomap_file *file, struct iomap_iov_iter *iter,
			  int64_t pos, bool dontcache)
{
	bool write = iter->data_source == IOMAP_ITER_SOURCE;
	struct later later = { .done = false };
	ssize_t ret;

	iomap_kiocb_init(&later.iocb, file, pos);
	later.iocb.ki_flags |= dontcache ? IOMAP_IOCB_DONTCACHE : 0;
	later.iocb.ki_complete = later_complete;
	t_gate_init(&later.gate);
	ret = write ? iomap_write_iter(&later.iocb, iter) : iomap_read_iter(&later.iocb, iter);
	ret = later_wait(f->fm, &later, ret);
	t_gate_exit(&later.gate);
	return ret;
}

/* One in four reads, writes and fsyncs is asynchronous. */
static bool is_later(uint64_t more)
{
	return (more >> 48 & 3) == 1;
}

static ssize_t write_or_later(struct fm_file *f, struct iomap_file *file, struct iovec *iov,
			      unsigned nr, const struct fm_op *op, uint64_t more)
{
	const size_t len = (size_t)(op->limit - op->pos);
	struct iomap_iov_iter from;
	ssize_t ret;

	/* it may be tried twice, and what is new and not written the store does not take back */
	if (!is_later(more) ||
	    (f->fm->setup.alloc == FM_NEW && !fm_has_space(f, op->pos, op->limit)))
		return iomap_writev(file, iov, (int)nr, op->pos);
	iomap_iov_iter_init(&from, IOMAP_ITER_SOURCE, iov, nr, len);
	ret = call_later(f, file, &from, op->pos, more >> 50 & 1);
	if (op->kind != FM_DWRITE || ret <= 0 || (size_t)ret == len)
		return ret;
	/* one that was queued ends where direct I/O goes no further */
	ret += iomap_write(file, (char *)iov->iov_base + ret, len - (size_t)ret, op->pos + ret);
	return ret;
}

static ssize_t read_or_later(struct fm_file *f, struct iomap_file *file, struct iovec *iov,
			     unsigned nr, const struct fm_op *op, uint64_t more)
{
	struct iomap_iov_iter to;

	if (!is_later(more))
		return nr == 1 ? iomap_read(file, iov->iov_base, iov->iov_len, op->pos)
			       : iomap_readv(file, iov, (int)nr, op->pos);
	iomap_iov_iter_init(&to, IOMAP_ITER_DEST, iov, nr, (size_t)(op->limit - op->pos));
	return call_later(f, file, &to, op->pos, more >> 50 & 1);
}

static int fsync_or_later(struct fm_file *f, int datasync, uint64_t more)
{
	struct later later = { .done = false };
	int ret;

	if (!is_later(more))
		return iomap_file_fsync(f->file, datasync);
	iomap_kiocb_init(&later.iocb, f->file, 0);
	later.iocb.ki_complete = later_complete;
	t_gate_init(&later.gate);
	ret = iomap_fsync_iocb(&later.iocb, 0, INT64_MAX, datasync);
	ret = (int)later_wait(f->fm, &later, ret);
	t_gate_exit(&later.gate);
	return ret;
}

/* As a filesystem that lets writers inside the size share the lock. */
static ssize_t write_shared(struct fm_file *f, unsigned char *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, f->file, pos);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock_shared(&f->inode);
	/* what is new to one of them must not be old to another: see struct iomap_ops */
	if (f->fm->setup.alloc == FM_NEW && !fm_has_space(f, pos, pos + (int64_t)len)) {
		iomap_inode_unlock_shared(&f->inode);
		return iomap_write(f->file, buf, len, pos);
	}
	ret = iomap_file_buffered_write(&iocb, &from, &fm_ops, fm_write_ops(f->fm), NULL);
	iomap_inode_unlock_shared(&f->inode);
	return ret;
}

static ssize_t write_by_kind(struct fm_file *f, const struct fm_op *op, const struct draw *d,
			     unsigned char *buf)
{
	size_t len = (size_t)(op->limit - op->pos);
	struct iovec iov[3] = { { buf, len } };

	switch (op->kind) {
	case FM_SHARED:
		return write_shared(f, buf, len, op->pos);
	case FM_APPEND:
		return write_or_later(f, f->append, iov, 1, op, d->more);
	case FM_DSYNC:
		return write_or_later(f, f->dsync, iov, 1, op, d->more);
	case FM_DWRITE:
		return write_or_later(f, f->direct, iov, 1, op, d->more);
	default:
		if (d->more % 8)
			return write_or_later(f, f->file, iov, 1, op, d->more);
		split(iov, buf, len, d->more);
		return write_or_later(f, f->file, iov, 3, op, d->more);
	}
}

static void do_write(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	unsigned char *buf = w->buf + (op->kind == FM_DWRITE ? 0 : d->more % 64);
	struct fm_view view = { .bytes = w->bytes };
	size_t len;
	ssize_t ret;

	op->writes = true;
	op->pattern = d->pattern;
	fm_begin(f, op, plan, d);
	len = (size_t)(op->limit - op->pos);
	fm_fill(buf, len, op->pos, op->pattern);
	ret = len ? write_by_kind(f, op, d, buf) : 0;
	if (ret != (ssize_t)len)
		fm_fail(f, op, "%zd instead of %zu bytes were written", ret, len);
	fm_end(f, op, buf);
	if (op->kind != FM_DSYNC)
		return;
	/* what it has written has to be there, and nothing of what came behind it */
	view.begin = op->end;
	view.pos = op->pos;
	view.limit = view.size = op->limit;
	memcpy(view.bytes, buf, len);
	fm_device_bytes(f, op->pos, len, buf);
	fm_check(f, op, &view, buf, -1);
	atomic_fetch_add_explicit(&f->fm->synced_bytes, len, memory_order_relaxed);
}

/* ---- by iocb ---- */

/* Flags of the call; how much more than the good memory is asked for. */
static uint32_t iocb_flags(const struct draw *d)
{
	return (d->more & 1 ? IOMAP_IOCB_CHECKED : 0) | (d->more & 6 ? 0 : IOMAP_IOCB_NOWAIT) |
	       (d->more & 8 ? IOMAP_IOCB_DONTCACHE : 0);
}

static ssize_t iocb_write(struct fm_file *f, unsigned char *buf, size_t len, int64_t *pos,
			  uint32_t flags)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_kiocb_init(&iocb, f->file, *pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(&f->inode);
	ret = iomap_file_buffered_write(&iocb, &from, &fm_ops, fm_write_ops(f->fm), NULL);
	iomap_inode_unlock(&f->inode);
	*pos = iocb.ki_pos;
	return ret;
}

/*
 * What is new and not written the store does not take back: so where that could be a write is for
 * no block that is not written, and does not end early.
 */
static size_t iocb_extra(const struct fm_file *f, const struct fm_op *op, const struct draw *d)
{
	int64_t block = (int64_t)1 << f->fm->setup.blkbits;
	size_t extra = 1 + d->b % 30000, room;

	room = (size_t)((op->limit + block - 1) / block * block - op->limit);
	if (f->fm->setup.alloc != FM_NEW)
		return extra;
	return extra < room ? extra : room;
}

static void do_iocb_write(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	uint32_t flags = iocb_flags(d);
	size_t len, asked;
	int64_t pos;
	ssize_t ret;

	op->writes = true;
	op->pattern = d->pattern;
	fm_begin(f, op, plan, d);
	len = asked = (size_t)(op->limit - op->pos);
	if (f->fm->setup.alloc == FM_NEW && !fm_has_space(f, op->pos, op->limit))
		flags &= ~IOMAP_IOCB_NOWAIT;
	if (flags & IOMAP_IOCB_CHECKED)
		asked += iocb_extra(f, op, d);
	fm_fill(w->guard - len, len, op->pos, op->pattern);
	pos = op->pos;
	ret = len ? iocb_write(f, w->guard - len, asked, &pos, flags) : 0;
	if (ret == -EAGAIN && flags & IOMAP_IOCB_NOWAIT)
		ret = 0;
	if (ret < 0 || (size_t)ret > len || (!(flags & IOMAP_IOCB_NOWAIT) && (size_t)ret != len))
		fm_fail(f, op, "%zd instead of %zu bytes were written, flags %#x", ret, len, flags);
	if (pos != op->pos + ret)
		fm_fail(f, op, "%zd bytes were written, and the position is %" PRId64, ret, pos);
	op->is_short = (size_t)ret < len;
	op->done = ret;
	fm_end(f, op, w->guard - len);
}

static void do_iocb_read(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	struct fm_view view = { .bytes = w->bytes };
	const uint32_t flags = iocb_flags(d);
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;
	size_t len;
	ssize_t ret;

	fm_begin(f, op, plan, d);
	len = (size_t)(op->limit - op->pos);
	fm_look(f, &view, op->pos, op->limit);
	iomap_kiocb_init(&iocb, f->file, op->pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, w->guard - len,
			    len + (flags & IOMAP_IOCB_CHECKED ? d->b % 30000 : 0));
	op->may_be_short = flags & IOMAP_IOCB_NOWAIT;
	ret = iomap_file_read_iter(&iocb, &to);
	if (ret == -EAGAIN && flags & IOMAP_IOCB_NOWAIT)
		ret = 0;
	if (ret < 0)
		fm_fail(f, op, "it returned %zd, flags %#x", ret, flags);
	if (iocb.ki_pos != op->pos + ret)
		fm_fail(f, op, "%zd bytes were read, and the position is %" PRId64, ret, iocb.ki_pos);
	fm_check(f, op, &view, w->guard - len, ret);
	fm_end(f, op, NULL);
}

/* One of two appends. */
struct append {
	struct fm_file *f;
	unsigned char *buf;
	size_t len;
	int64_t end;
};

static long append_main(void *arg)
{
	struct append *a = arg;

	a->end = -1;
	return iocb_write(a->f, a->buf, a->len, &a->end, IOMAP_IOCB_APPEND);
}

static void do_appends(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	struct append a[2] = { { .f = f }, { .f = f } };
	struct t_task task;
	size_t len;
	bool first;

	op->writes = true;
	op->pattern = d->pattern;
	fm_begin(f, op, plan, d);
	len = (size_t)(op->limit - op->pos);
	if (len > 1) {
		a[0].len = 1 + d->a % (len - 1);
		a[1].len = len - a[0].len;
		a[0].buf = w->buf + len;
		a[1].buf = a[0].buf + a[0].len;
		memset(a[0].buf, fm_append_byte(op->pattern, 0), a[0].len);
		memset(a[1].buf, fm_append_byte(op->pattern, 1), a[1].len);
		t_start(&task, append_main, &a[1]);
		if (append_main(&a[0]) != (long)a[0].len || t_join(&task) != (long)a[1].len)
			fm_fail(f, op, "an append was short");
		first = a[0].end == op->pos + (int64_t)a[0].len;
		if (a[!first].end != op->pos + (int64_t)a[!first].len || a[first].end != op->limit)
			fm_fail(f, op, "they end at %" PRId64 " and %" PRId64, a[0].end, a[1].end);
		memcpy(w->buf, a[!first].buf, a[!first].len);
		memcpy(w->buf + a[!first].len, a[first].buf, a[first].len);
	} else {
		op->is_short = true;
	}
	fm_end(f, op, w->buf);
}

static void do_resize(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	uint64_t bytes = f->fm->setup.cache_bytes;
	int ret;

	(void)w;
	fm_begin(f, op, plan, d);
	/* mostly not: it writes and evicts a lot */
	ret = d->more % 32 ? 0 : iomap_engine_set_cache_bytes(f->fm->engine,
							     bytes / 8 * (5 + d->a % 4));
	/* -EINVAL: less than the callers and blocks need; -EBUSY: another thread is at it */
	if (ret && ret != -EBUSY && ret != -EINVAL)
		fm_fail(f, op, "it returned %d", ret);
	fm_end(f, op, NULL);
}

static void do_fallocate(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	int mode = op->kind == FM_ZERO ? IOMAP_FALLOC_FL_ZERO_RANGE : IOMAP_FALLOC_FL_PUNCH_HOLE;
	int64_t len;
	int ret = 0;

	/* some blocks */
	if (d->more & 1)
		d->len *= 8;
	op->writes = true;
	fm_begin(f, op, plan, d);
	len = op->limit - op->pos;
	if (len)
		ret = iomap_fallocate(f->file, mode | IOMAP_FALLOC_FL_KEEP_SIZE, op->pos, len);
	if (ret)
		fm_fail(f, op, "it returned %d", ret);
	memset(w->buf, 0, (size_t)len);
	fm_end(f, op, w->buf);
}

static void do_truncate(struct fm_file *f, struct fm_op *op, struct draw *d)
{
	int ret;

	op->writes = true;
	fm_begin(f, op, plan, d);
	ret = iomap_truncate(f->file, op->size_after);
	if (ret)
		fm_fail(f, op, "it returned %d", ret);
	fm_end(f, op, NULL);
}

static void do_read(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	unsigned char *buf = w->buf + (op->kind == FM_DREAD ? 0 : d->more % 64);
	struct fm_view view = { .bytes = w->bytes };
	struct iomap_file *by = op->kind == FM_DREAD ? f->direct : f->file;
	struct iovec iov[3] = { { .iov_base = buf } };
	size_t len;
	ssize_t ret;

	fm_begin(f, op, plan, d);
	len = (size_t)(op->limit - op->pos);
	fm_look(f, &view, op->pos, op->limit);
	iov[0].iov_len = len;
	if (op->kind == FM_READV)
		split(iov, buf, len, d->more);
	else if (op->kind == FM_READ && d->more % 8 == 0)
		by = f->failing;
	op->may_be_short = by == f->failing && f->fm->setup.faults;
	ret = read_or_later(f, by, iov, op->kind == FM_READV ? 3 : 1, op, d->more);
	if (op->kind == FM_DREAD && is_later(d->more))
		op->may_be_short = true; /* as a direct write */
	if (ret == -EIO && op->may_be_short)
		ret = 0;
	if (ret < 0)
		fm_fail(f, op, "it returned %zd", ret);
	fm_check(f, op, &view, buf, ret);
	fm_end(f, op, NULL);
	atomic_fetch_add_explicit(&f->fm->bytes, (uint64_t)ret, memory_order_relaxed);
}

/* Each part for itself: between two of them the end of the file may move. */
static void do_batch(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	struct fm_view view = { .bytes = w->bytes };
	struct iomap_read_range range[3];
	struct iovec iov[3];

	fm_begin(f, op, plan, d);
	fm_look(f, &view, op->pos, op->limit);
	split(iov, w->buf, (size_t)(op->limit - op->pos), d->more);
	for (int i = 0; i < 3; i++)
		range[i] = (struct iomap_read_range){
			.file = f->file,
			.buf = iov[i].iov_base,
			.len = iov[i].iov_len,
			.pos = op->pos + ((unsigned char *)iov[i].iov_base - w->buf),
		};
	if (iomap_read_batch(range, 3, 0))
		fm_fail(f, op, "one of %zd, %zd, %zd", range[0].ret, range[1].ret, range[2].ret);
	for (int i = 0; i < 3; i++) {
		int64_t end = range[i].pos + (int64_t)range[i].len;
		struct fm_view part = view;

		part.pos = range[i].pos < view.limit ? range[i].pos : view.limit;
		part.limit = end < view.limit ? end : view.limit;
		part.bytes += part.pos - view.pos;
		fm_check(f, op, &part, range[i].buf, range[i].ret);
	}
	fm_end(f, op, NULL);
}

/* The folio is kept for a while: what is dropped or cut off meanwhile leaves the file without it. */
static void do_pin(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	struct fm_view view = { .bytes = w->bytes };
	size_t n;
	int ret;

	if (w->pin.folio)
		iomap_folio_unpin(&w->pin);
	fm_begin(f, op, plan, d);
	fm_look(f, &view, op->pos, op->limit);
	ret = iomap_folio_pin(f->file, op->pos, d->more % 4 ? 0 : IOMAP_PIN_NOREAD, &w->pin);
	if (ret) {
		w->pin.folio = NULL;
		if (ret != -ENXIO && (ret != -ENODATA || d->more % 4))
			fm_fail(f, op, "it returned %d", ret);
	} else {
		n = (size_t)(view.limit - view.pos);
		n = n < w->pin.len ? n : w->pin.len;
		iomap_folio_read(w->pin.folio,
				 (size_t)((char *)w->pin.addr -
					  (char *)iomap_folio_address(w->pin.folio)),
				 w->buf, n);
		fm_check(f, op, &view, w->buf, (ssize_t)n);
	}
	fm_end(f, op, NULL);
}

/* A sync of all there was when it began: of one file, or of all of them. */
static void do_fsync(struct fm_worker *w, struct fm_file *f, struct fm_op *op, struct draw *d)
{
	struct fm_view view = { .bytes = w->bytes };
	int ret;

	fm_begin(f, op, plan, d);
	fm_look(f, &view, 0, f->fm->setup.bytes_max);
	ret = op->kind == FM_SYNC_ALL ? iomap_sync_engine(f->fm->engine)
				      : fsync_or_later(f, (int)(d->more & 1), d->more);
	if (ret)
		fm_fail(f, op, "it returned %d", ret);
	fm_device_bytes(f, 0, (size_t)f->fm->setup.bytes_max, w->buf);
	fm_check(f, op, &view, w->buf, -1);
	fm_end(f, op, NULL);
	atomic_fetch_add_explicit(&f->fm->synced_bytes, (uint64_t)view.size, memory_order_relaxed);
}

static void do_rest(struct fm_file *f, struct fm_op *op, struct draw *d)
{
	int ret = 0;

	fm_begin(f, op, plan, d);
	if (op->kind == FM_DROP && !(d->more % 5))
		iomap_engine_drop_cache(f->fm->engine);
	else if (op->kind == FM_DROP)
		iomap_invalidate_inode_pages(&f->inode, d->more % 3 ? op->pos : 0,
					     d->more % 3 ? op->limit : INT64_MAX);
	else
		ret = iomap_sync_range(f->file, op->pos, op->limit, (unsigned)(d->more % 8));
	if (ret)
		fm_fail(f, op, "it returned %d", ret);
	fm_end(f, op, NULL);
}

void fm_worker_done(struct fm_worker *w)
{
	if (w->pin.folio)
		iomap_folio_unpin(&w->pin);
	w->pin.folio = NULL;
}

void fm_do(struct fm_worker *w, uint64_t nr)
{
	struct fm_op op = { .thread = w->thread, .nr = nr };
	struct fm_file *f;
	struct draw d;

	draw(w, nr, &d);
	op.kind = d.kind;
	f = &w->fm->file[d.file];
	atomic_fetch_add_explicit(&w->fm->kinds[op.kind], 1, memory_order_relaxed);
	switch (op.kind) {
	case FM_TRUNCATE:
		do_truncate(f, &op, &d);
		break;
	case FM_READ:
	case FM_READV:
	case FM_DREAD:
		do_read(w, f, &op, &d);
		break;
	case FM_BATCH:
		do_batch(w, f, &op, &d);
		break;
	case FM_PIN:
		do_pin(w, f, &op, &d);
		break;
	case FM_FSYNC:
	case FM_SYNC_ALL:
		do_fsync(w, f, &op, &d);
		break;
	case FM_IOCB_WRITE:
		do_iocb_write(w, f, &op, &d);
		break;
	case FM_IOCB_READ:
		do_iocb_read(w, f, &op, &d);
		break;
	case FM_APPENDS:
		do_appends(w, f, &op, &d);
		break;
	case FM_ZERO:
	case FM_PUNCH:
		do_fallocate(w, f, &op, &d);
		break;
	case FM_RESIZE:
		do_resize(w, f, &op, &d);
		break;
	case FM_SYNC_RANGE:
	case FM_DROP:
		do_rest(f, &op, &d);
		break;
	default:
		do_write(w, f, &op, &d);
		break;
	}
}

/* ---- the end ---- */

static void check_file(struct fm_worker *w, struct fm_file *f, struct iomap_file *by,
		       const struct fm_op *op)
{
	struct fm_view view = { .bytes = w->bytes };
	size_t len = ((size_t)f->fm->setup.bytes_max + FM_SECTOR) / FM_SECTOR * FM_SECTOR;
	ssize_t ret;

	fm_look(f, &view, 0, f->fm->setup.bytes_max);
	ret = iomap_read(by, w->buf, len, 0);
	if (ret < 0)
		fm_fail(f, op, "it returned %zd", ret);
	fm_check(f, op, &view, w->buf, ret);
}

void fm_check_all(struct fm_worker *w)
{
	struct fm_op op = { .kind = FM_READ, .thread = w->thread, .nr = UINT64_MAX };
	struct fm_view view = { .bytes = w->bytes };

	for (unsigned i = 0; i < FM_FILES; i++) {
		struct fm_file *f = &w->fm->file[i];

		check_file(w, f, f->file, &op);
		check_file(w, f, f->direct, &op);
		t_must(iomap_file_fsync(f->file, 0) == 0);
		fm_look(f, &view, 0, f->fm->setup.bytes_max);
		fm_device_bytes(f, 0, (size_t)f->fm->setup.bytes_max, w->buf);
		fm_check(f, &op, &view, w->buf, -1);
		t_must(f->inode.i_data.nr_dirty_pages == 0);
		t_must(f->inode.i_data.nr_writeback_pages == 0);
		/* all that the cache knew is forgotten */
		fm_file_close(f);
		fm_file_open(f);
		check_file(w, f, f->file, &op);
	}
	t_must(t_stats(w->fm->engine).dirty_bytes == 0);
	t_must(t_stats(w->fm->engine).writeback_bytes == 0);
}

void fm_worker_init(struct fm_worker *w, struct fm *fm, unsigned thread)
{
	void *buf;

	memset(w, 0, sizeof(*w));
	t_must(posix_memalign(&buf, 4096, FM_BUF_BYTES) == 0);
	w->fm = fm;
	w->thread = thread;
	w->buf = buf;
	w->bytes = malloc((size_t)FM_BYTES_MAX);
	t_must(w->bytes != NULL);
	buf = mmap(NULL, 2 * FM_GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t_must(buf != MAP_FAILED);
	w->guard = (unsigned char *)buf + FM_GUARD;
	t_must(mprotect(w->guard, FM_GUARD, PROT_NONE) == 0);
}

void fm_worker_exit(struct fm_worker *w)
{
	t_must(!w->pin.folio);
	t_must(munmap(w->guard - FM_GUARD, 2 * FM_GUARD) == 0);
	free(w->buf);
	free(w->bytes);
}
