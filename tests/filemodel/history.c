/* SPDX-License-Identifier: MIT */
/*
 * history.c - the model: what files hold, what runs, and what has run a short while ago.
 *
 * A file's tick moves with each begin and end of an operation that writes.  Operation o ran at
 * some time since tick t if it still runs or has ended behind t.  The model has an operation's
 * bytes from its end on; in between a reader may find either, so what the reader is held
 * against is the model as it was when the read began, and all that ran since.
 *
 * Ended operations stay in a ring.  If more end during one read than it holds, the read is not
 * checked, and counted; the campaign asserts that this hardly happens.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "fm.h"

#define NO_LIMIT INT64_MAX

static uint64_t pattern_word(uint64_t pattern, int64_t word)
{
	uint64_t x = (uint64_t)word * 0x9e3779b97f4a7c15ULL ^ pattern;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	return x ^ (x >> 29);
}

static unsigned char pattern_byte(uint64_t pattern, int64_t pos)
{
	/* never 0, which is what was never written */
	unsigned char byte = (unsigned char)(pattern_word(pattern, pos >> 3) >> (8 * (pos & 7)));

	return byte ? byte : 0xff;
}

void fm_fill(unsigned char *buf, size_t len, int64_t pos, uint64_t pattern)
{
	for (size_t i = 0; i < len;) {
		uint64_t word = pattern_word(pattern, (pos + (int64_t)i) >> 3);

		do {
			unsigned char byte =
				(unsigned char)(word >> (8 * ((pos + (int64_t)i) & 7)));

			buf[i++] = byte ? byte : 0xff;
		} while (i < len && (pos + (int64_t)i) & 7);
	}
}

unsigned char fm_append_byte(uint64_t pattern, unsigned which)
{
	return (unsigned char)((pattern >> (8 * which)) | 1);
}

/* Whether @op may have put @byte there. */
static bool may_put(const struct fm_op *op, int64_t pos, unsigned char byte)
{
	if (op->kind == FM_TRUNCATE || op->kind >= FM_ZERO || pos < op->pos || pos >= op->limit)
		return false;
	if (op->kind == FM_APPENDS)
		return byte == fm_append_byte(op->pattern, 0) ||
		       byte == fm_append_byte(op->pattern, 1);
	return pattern_byte(op->pattern, pos) == byte;
}

const char *fm_kind_name(enum fm_kind kind)
{
	static const char *const names[FM_KINDS] = {
		"write",       "shared write", "append",      "dsync write",
		"direct write", "truncate",    "read",	      "readv",
		"direct read", "batch",	       "pin",	      "fsync",
		"sync_range",  "drop",	       "sync all",    "iocb write",
		"iocb read",   "two appends",  "resize",      "zero",
		"punch",
	};

	return names[kind];
}

static void tell(const struct fm_file *f, const struct fm_op *op)
{
	fprintf(stderr, "  file %u, %" PRIu64 "..%" PRIu64 ": thread %u op %" PRIu64 ": %s [%" PRId64
			", %" PRId64 "), size %" PRId64 " -> %" PRId64 "\n",
		f->nr, op->begin, op->end, op->thread, op->nr, fm_kind_name(op->kind), op->pos, op->limit,
		op->size_before, op->size_after);
}

/* ---- what may run ---- */

static bool overlap(int64_t a, int64_t a_end, int64_t b, int64_t b_end)
{
	return a < b_end && b < a_end;
}

/* Gate held. */
static bool must_wait(const struct fm_file *f, const struct fm_op *op)
{
	for (unsigned i = 0; i < f->fm->setup.threads; i++) {
		const struct fm_op *other = f->running[i];
		int64_t unit = 1;

		if (!other || !other->writes || !op->writes)
			continue;
		/* the cache is dropped by folios: under a direct write nobody may dirty one */
		if ((op->kind == FM_DWRITE) != (other->kind == FM_DWRITE))
			unit = (int64_t)IOMAP_PAGE_SIZE << f->inode.i_data.max_order;
		if (overlap(op->lock_pos / unit * unit, op->lock_limit, other->lock_pos / unit * unit,
			    other->lock_limit) ||
		    overlap(op->lock_pos, op->lock_limit - 1 + unit, other->lock_pos,
			    other->lock_limit - 1 + unit))
			return true;
	}
	return false;
}

/*
 * Whether somebody is at work in a folio of this operation's, and whether the last one in one of
 * them was somebody else.  Gate held.
 */
static void note_shared(struct fm_file *f, struct fm_op *op)
{
	int64_t unit = IOMAP_PAGE_SIZE, end = op->limit < FM_BYTES_MAX ? op->limit
										   : FM_BYTES_MAX;

	for (unsigned i = 0; i < f->fm->setup.threads; i++) {
		struct fm_op *other = f->running[i];

		if (other && other->limit > other->pos && op->limit > op->pos &&
		    overlap(op->pos / unit, (op->limit - 1) / unit + 1, other->pos / unit,
			    (other->limit - 1) / unit + 1))
			op->meets = other->meets = true;
	}
	for (int64_t page = op->pos / unit; page * unit < end; page++) {
		op->shared |= f->last[page] && f->last[page] != op->thread + 1;
		f->last[page] = (unsigned char)(op->thread + 1);
	}
}

void fm_begin(struct fm_file *f, struct fm_op *op,
	      void (*plan)(struct fm_file *f, struct fm_op *op, void *arg), void *arg)
{
	t_lock(&f->gate);
	for (;;) {
		plan(f, op, arg);
		if (!must_wait(f, op))
			break;
		t_wait(&f->gate);
	}
	note_shared(f, op);
	op->begin = ++f->tick;
	op->size_before = f->size;
	f->running[op->thread] = op;
	if (f->fm->trace)
		tell(f, op);
	t_unlock(&f->gate);
}

void fm_end(struct fm_file *f, struct fm_op *op, const unsigned char *data)
{
	t_lock(&f->gate);
	f->running[op->thread] = NULL;
	if (op->shared)
		atomic_fetch_add_explicit(&f->fm->shared, 1, memory_order_relaxed);
	if (op->meets)
		atomic_fetch_add_explicit(&f->fm->meets, 1, memory_order_relaxed);
	if (op->writes) {
		/* who moves the size is alone with it */
		if (op->is_short) {
			op->limit = op->pos + op->done;
			if (op->size_after != op->size_before)
				op->size_after = op->limit > op->size_before ? op->limit
									     : op->size_before;
		}
		if (op->cut < f->size)
			memset(f->model + op->cut, 0, (size_t)(f->size - op->cut));
		if (data)
			memcpy(f->model + op->pos, data, (size_t)(op->limit - op->pos));
		/* inside the size others work at the same time, and it is theirs */
		if (op->size_after != op->size_before)
			f->size = op->size_after;
		op->end = ++f->tick;
		f->past[f->past_nr++ % FM_PAST] = *op;
		t_wake(&f->gate);
	}
	t_unlock(&f->gate);
}

/* ---- what may be found ---- */

void fm_look(struct fm_file *f, struct fm_view *view, int64_t pos, int64_t limit)
{
	t_lock(&f->gate);
	view->begin = f->tick;
	view->size = f->size;
	view->pos = pos;
	view->limit = limit > f->fm->setup.bytes_max ? f->fm->setup.bytes_max : limit;
	if (view->limit > pos)
		memcpy(view->bytes, f->model + pos, (size_t)(view->limit - pos));
	t_unlock(&f->gate);
}

/* Operations that ran since `begin`; NULL behind the last one.  Gate held. */
static const struct fm_op *next_since(const struct fm_file *f, uint64_t begin, unsigned *at)
{
	while (*at < FM_THREADS_MAX) {
		const struct fm_op *op = f->running[(*at)++];

		if (op && op->writes)
			return op;
	}
	if (*at - FM_THREADS_MAX < FM_PAST && *at - FM_THREADS_MAX < f->past_nr) {
		const struct fm_op *op =
			&f->past[(f->past_nr - 1 - (*at)++ + FM_THREADS_MAX) % FM_PAST];

		if (op->end > begin)
			return op;
	}
	return NULL;
}

static bool forgotten(const struct fm_file *f, uint64_t begin)
{
	return f->past_nr > FM_PAST && f->past[f->past_nr % FM_PAST].end > begin;
}

/* Gate held. */
static void sizes_since(const struct fm_file *f, const struct fm_view *view, int64_t *least,
			int64_t *most)
{
	const struct fm_op *op;
	unsigned at = 0;

	*least = *most = view->size;
	while ((op = next_since(f, view->begin, &at))) {
		if (op->size_after == op->size_before)
			continue;
		*least = op->size_after < *least ? op->size_after : *least;
		*most = op->size_after > *most ? op->size_after : *most;
	}
}

/* Gate held. */
static bool may_be(const struct fm_file *f, const struct fm_view *view, int64_t pos,
		   unsigned char byte, bool live)
{
	const struct fm_op *op;
	unsigned at = 0;

	if (pos < view->size && view->bytes[pos - view->pos] == byte)
		return true;
	while ((op = next_since(f, view->begin, &at))) {
		if (may_put(op, pos, byte))
			return true;
		if (op->zero_pos <= pos && pos < op->zero_limit && !byte)
			return true;
		/* memory that is looked at in place shows what nobody can read any more */
		if (live && op->cut <= pos && !byte)
			return true;
	}
	return false;
}

void fm_fail(struct fm_file *f, const struct fm_op *op, const char *format, ...)
{
	static const char *const allocs[] = { "new", "unwritten", "delayed" };
	const struct fm_setup *s = &f->fm->setup;
	va_list args;

	fprintf(stderr, "\nfile model: file %u: ", f->nr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n  of:\n");
	tell(f, op);
	fprintf(stderr,
		"  threads %u, blocks of %u, %s space, mappings of at most %u, folios of "
		"up to %u, cache %" PRIu64 ", %s flusher, %s device, %s setsize, %s hooks, "
		"faults %d, resize %d\n"
		"  repeat: IOMAP_TEST_SEED=%" PRIu64 " IOMAP_MODEL_RUN=%" PRIu64
		" IOMAP_MODEL_THREADS=%u model_campaign\n",
		s->threads, 1U << s->blkbits, allocs[s->alloc], s->map_max,
		(unsigned)IOMAP_PAGE_SIZE << s->order, s->cache_bytes,
		s->flusher ? "a" : "no", s->async ? "late" : "prompt",
		s->own_setsize ? "own" : "no", s->hooks ? "with" : "no", s->faults, s->resize,
		f->fm->seed, f->fm->run, s->threads);
	t_die(__FILE__, __LINE__, "the library does what the model says");
}

/* Gate held.  What had to do with the byte: the last few, and all since the view. */
static void tell_byte(const struct fm_file *f, const struct fm_view *view, int64_t pos)
{
	const struct fm_op *op;
	unsigned at = 0, nr = 0;

	fprintf(stderr, "since tick %" PRIu64 ", when the size was %" PRId64 ":\n", view->begin,
		view->size);
	while ((op = next_since(f, view->begin, &at)))
		tell(f, op);
	fprintf(stderr, "of this byte before:\n");
	at = 0;
	while (nr < 12 && (op = next_since(f, 0, &at))) {
		if (op->end <= view->begin && op->end &&
		    ((op->pos <= pos && pos < op->limit) ||
		     (op->zero_pos <= pos && pos < op->zero_limit) || op->cut <= pos)) {
			tell(f, op);
			nr++;
		}
	}
}

/* Nothing else since the view touches the range.  Gate held. */
static bool is_alone(const struct fm_file *f, const struct fm_view *view, const struct fm_op *one,
		     int64_t pos, int64_t limit)
{
	const struct fm_op *op;
	unsigned at = 0;

	while ((op = next_since(f, view->begin, &at)))
		if (op->begin != one->begin &&
		    (overlap(op->pos, op->limit, pos, limit) ||
		     overlap(op->zero_pos, op->zero_limit, pos, limit) || op->cut < limit))
			return false;
	return true;
}

/* [pos, limit) is the write's. */
static bool is_torn(const struct fm_op *write, const struct fm_view *view,
		    const unsigned char *buf, int64_t pos, int64_t limit)
{
	bool old = true, new = true;

	for (; pos < limit; pos++) {
		unsigned char byte = buf[pos - view->pos];

		old = old && pos < view->size && view->bytes[pos - view->pos] == byte;
		new = new && pattern_byte(write->pattern, pos) == byte;
	}
	return !old && !new;
}

/*
 * A write changes what it covers of a folio at once for those who read by the cache, unless its
 * mapping ends there: so within a block.  Gate held.
 */
static void check_torn(struct fm_file *f, const struct fm_op *op, const struct fm_view *view,
		       const unsigned char *buf, int64_t limit)
{
	int64_t block = (int64_t)1 << f->fm->setup.blkbits;
	const struct fm_op *write;
	unsigned at = 0;

	while ((write = next_since(f, view->begin, &at))) {
		int64_t pos = write->pos > view->pos ? write->pos : view->pos, end;
		int64_t last = write->limit < limit ? write->limit : limit;

		/* up to the old end of the file and behind it a read goes in two steps */
		if (write->kind > FM_DSYNC || write->size_after != write->size_before)
			continue;
		for (; pos < last; pos = end) {
			end = (pos / block + 1) * block;
			end = end < last ? end : last;
			if (!is_alone(f, view, write, pos, end) ||
			    !is_torn(write, view, buf, pos, end))
				continue;
			tell_byte(f, view, pos);
			fm_fail(f, op, "of a write to [%" PRId64 ", %" PRId64
				") only a part was read", pos, end);
		}
	}
}

/* Gate held. */
static void check_bytes(struct fm_file *f, const struct fm_op *op, const struct fm_view *view,
			const unsigned char *buf, int64_t limit, const char *where)
{
	for (int64_t pos = view->pos; pos < limit; pos++) {
		unsigned char byte = buf[pos - view->pos];

		if (view->bytes[pos - view->pos] == byte && pos < view->size)
			continue;
		if (may_be(f, view, pos, byte, op->kind == FM_PIN))
			continue;
		tell_byte(f, view, pos);
		fm_fail(f, op, "byte %" PRId64 " %s is %#x, was %#x (size %" PRId64 ")", pos, where,
			byte, view->bytes[pos - view->pos], view->size);
	}
}

void fm_check(struct fm_file *f, const struct fm_op *op, const struct fm_view *view,
	      const unsigned char *buf, ssize_t n)
{
	int64_t least, most, len = view->limit - view->pos, limit;

	t_lock(&f->gate);
	if (forgotten(f, view->begin)) {
		atomic_fetch_add_explicit(&f->fm->unchecked, 1, memory_order_relaxed);
		t_unlock(&f->gate);
		return;
	}
	sizes_since(f, view, &least, &most);
	if (n < 0) {
		limit = view->limit < least ? view->limit : least;
	} else {
		int64_t from = least - view->pos, to = most - view->pos;

		from = from < 0 ? 0 : from < len ? from : len;
		to = to < 0 ? 0 : to < len ? to : len;
		if ((n < from && op->kind != FM_PIN && !op->may_be_short) || n > to)
			fm_fail(f, op, "%zd bytes were read, not %" PRId64 " to %" PRId64, n, from,
				to);
		limit = view->pos + n;
	}
	/* most of the time nobody was there */
	if (limit <= view->size &&
	    (limit <= view->pos || !memcmp(buf, view->bytes, (size_t)(limit - view->pos)))) {
		t_unlock(&f->gate);
		return;
	}
	check_bytes(f, op, view, buf, limit, n < 0 ? "on the device" : "read");
	if (n > 0 && op->kind == FM_READ)
		check_torn(f, op, view, buf, limit);
	t_unlock(&f->gate);
}
