/* SPDX-License-Identifier: MIT */
/*
 * teststore.c - one inode with a configurable extent map, an engine and a device.
 *
 * Extents are kept sorted and do not overlap.  A callback takes the gate to look at or
 * change the map and to leave its record, never around a call into the library or a hook.
 * Unwritten extents turn into written ones in writeback_range: what is being written is in
 * the cache until it has been, so no reader can see the difference.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

struct ts *ts_of(struct iomap_inode *inode)
{
	return (struct ts *)(void *)((char *)inode - offsetof(struct ts, inode));
}

/* ---- records ---- */

/*
 * Count a call and decide whether it has to fail.  Returns 0 or the error; *n is the number
 * of the call, from 0.
 */
static int call(struct ts *ts, enum ts_cb cb, uint64_t *n)
{
	int error = 0;

	t_lock(&ts->gate);
	*n = ts->calls[cb]++;
	if (*n + 1 >= ts->fail[cb].at && *n + 1 < ts->fail[cb].at + ts->fail[cb].times)
		error = ts->fail[cb].error;
	t_unlock(&ts->gate);
	return error;
}

static void record(struct ts *ts, enum ts_cb cb, uint64_t n, const struct ts_event *event)
{
	t_lock(&ts->gate);
	if (n < TS_EVENTS) {
		ts->event[cb][n] = *event;
		ts->event[cb][n].tick = t_tick();
	}
	t_wake(&ts->gate);
	t_unlock(&ts->gate);
}

void ts_reset(struct ts *ts)
{
	t_lock(&ts->gate);
	for (int cb = 0; cb < TS_CB_NR; cb++) {
		ts->calls[cb] = 0;
		memset(ts->event[cb], 0, TS_EVENTS * sizeof(struct ts_event));
		memset(&ts->fail[cb], 0, sizeof(ts->fail[cb]));
	}
	t_unlock(&ts->gate);
}

uint64_t ts_calls(struct ts *ts, enum ts_cb cb)
{
	uint64_t nr;

	t_lock(&ts->gate);
	nr = ts->calls[cb];
	t_unlock(&ts->gate);
	return nr;
}

struct ts_event ts_nth(struct ts *ts, enum ts_cb cb, size_t n)
{
	struct ts_event event;

	t_lock(&ts->gate);
	t_must(n < ts->calls[cb] && n < TS_EVENTS);
	event = ts->event[cb][n];
	t_unlock(&ts->gate);
	return event;
}

struct ts_event ts_last(struct ts *ts, enum ts_cb cb)
{
	uint64_t nr = ts_calls(ts, cb);

	t_must(nr > 0);
	return ts_nth(ts, cb, nr - 1);
}

void ts_wait_calls(struct ts *ts, enum ts_cb cb, uint64_t nr)
{
	t_lock(&ts->gate);
	/* the record comes after the count, and is what the waiter wants to see */
	while (ts->calls[cb] < nr || (nr && nr <= TS_EVENTS && !ts->event[cb][nr - 1].tick))
		t_wait(&ts->gate);
	t_unlock(&ts->gate);
}

void ts_fail(struct ts *ts, enum ts_cb cb, uint64_t nth, int error, uint64_t times)
{
	t_lock(&ts->gate);
	ts->fail[cb].at = ts->calls[cb] + nth;
	ts->fail[cb].times = times;
	ts->fail[cb].error = error;
	t_unlock(&ts->gate);
}

/* ---- the map; gate held ---- */

static void extent_insert(struct ts *ts, size_t at, struct ts_extent e)
{
	ts->extent = realloc(ts->extent, (ts->extent_nr + 1) * sizeof(e));
	t_must(ts->extent != NULL);
	memmove(ts->extent + at + 1, ts->extent + at, (ts->extent_nr - at) * sizeof(e));
	ts->extent[at] = e;
	ts->extent_nr++;
}

static bool has_addr(const struct ts_extent *e)
{
	return e->addr != IOMAP_NULL_ADDR;
}

/* Make [offset, end) a hole. */
static void map_cut(struct ts *ts, int64_t offset, int64_t end)
{
	for (size_t i = 0; i < ts->extent_nr; i++) {
		struct ts_extent *e = &ts->extent[i];
		int64_t e_end = e->offset + (int64_t)e->length;

		if (e->offset >= end || e_end <= offset)
			continue;
		if (e->offset < offset && e_end > end) {
			struct ts_extent tail = *e;

			tail.offset = end;
			tail.length = (uint64_t)(e_end - end);
			tail.addr += has_addr(e) ? (uint64_t)(end - e->offset) : 0;
			e->length = (uint64_t)(offset - e->offset);
			extent_insert(ts, i + 1, tail);
		} else if (e->offset < offset) {
			e->length = (uint64_t)(offset - e->offset);
		} else if (e_end > end) {
			e->addr += has_addr(e) ? (uint64_t)(end - e->offset) : 0;
			e->offset = end;
			e->length = (uint64_t)(e_end - end);
		} else {
			memmove(e, e + 1, (ts->extent_nr - i - 1) * sizeof(*e));
			ts->extent_nr--;
			i--;
		}
	}
}

static void map_put(struct ts *ts, struct ts_extent e)
{
	size_t at = 0;

	map_cut(ts, e.offset, e.offset + (int64_t)e.length);
	while (at < ts->extent_nr && ts->extent[at].offset < e.offset)
		at++;
	extent_insert(ts, at, e);
	ts->seq++;
}

static struct ts_extent map_get(struct ts *ts, int64_t pos)
{
	struct ts_extent hole = { .type = IOMAP_HOLE, .addr = IOMAP_NULL_ADDR };

	for (size_t i = 0; i < ts->extent_nr; i++) {
		struct ts_extent *e = &ts->extent[i];
		int64_t end = e->offset + (int64_t)e->length;

		if (end <= pos) {
			hole.offset = end;
			continue;
		}
		if (e->offset <= pos)
			return *e;
		hole.length = (uint64_t)(e->offset - hole.offset);
		return hole;
	}
	/* whole blocks */
	hole.length = (uint64_t)((INT64_MAX >> ts->inode.i_blkbits << ts->inode.i_blkbits) -
				 hole.offset);
	return hole;
}

static uint64_t space_take(struct ts *ts, uint64_t bytes)
{
	uint64_t addr = ts->next_addr;

	t_must(addr + bytes <= ts->dev->bytes);
	ts->next_addr += bytes;
	return addr;
}

/* Turn the hole at `pos` into what the store's policy says. */
static void map_alloc(struct ts *ts, int64_t pos, int64_t length)
{
	int64_t block = (int64_t)1 << ts->args.blkbits;
	struct ts_extent hole = map_get(ts, pos);
	int64_t hole_end = hole.offset + (int64_t)hole.length;
	struct ts_extent e = { .addr = IOMAP_NULL_ADDR };
	int64_t end = (pos + length + block - 1) & ~(block - 1);

	e.offset = pos & ~(block - 1);
	e.length = (uint64_t)((end < hole_end ? end : hole_end) - e.offset);
	switch (ts->cfg.alloc) {
	case TS_NEW:
		e.type = IOMAP_MAPPED;
		e.addr = space_take(ts, e.length);
		break;
	case TS_UNWRITTEN:
		e.type = IOMAP_UNWRITTEN;
		e.addr = space_take(ts, e.length);
		break;
	case TS_DELALLOC:
		e.type = IOMAP_DELALLOC;
		break;
	case TS_NOTHING:
		return;
	}
	map_put(ts, e);
}

void ts_map(struct ts *ts, int64_t offset, uint64_t length, unsigned type, unsigned flags,
	    uint64_t addr)
{
	struct ts_extent e = { .offset = offset,
			       .length = length,
			       .type = (uint16_t)type,
			       .flags = (uint16_t)flags,
			       .addr = addr };

	t_lock(&ts->gate);
	map_put(ts, e);
	t_unlock(&ts->gate);
}

void ts_map_inline(struct ts *ts, void *data, uint64_t length)
{
	struct ts_extent e = {
		.length = length, .type = IOMAP_INLINE, .addr = IOMAP_NULL_ADDR, .inline_data = data
	};

	t_lock(&ts->gate);
	map_put(ts, e);
	t_unlock(&ts->gate);
}

void ts_punch(struct ts *ts, int64_t offset, uint64_t length)
{
	t_lock(&ts->gate);
	map_cut(ts, offset, offset + (int64_t)length);
	ts->seq++;
	t_unlock(&ts->gate);
}

void ts_unreserve(struct ts *ts, int64_t offset, uint64_t length)
{
	int64_t end = offset + (int64_t)length, next;

	t_lock(&ts->gate);
	for (int64_t pos = offset; pos < end; pos = next) {
		struct ts_extent e = map_get(ts, pos);

		next = e.offset + (int64_t)e.length < end ? e.offset + (int64_t)e.length : end;
		if (e.type == IOMAP_DELALLOC)
			map_cut(ts, pos, next);
	}
	ts->seq++;
	t_unlock(&ts->gate);
}

void ts_reserve(struct ts *ts, int64_t offset, uint64_t length)
{
	int64_t end = offset + (int64_t)length, next;

	t_lock(&ts->gate);
	for (int64_t pos = offset; pos < end; pos = next) {
		struct ts_extent e = map_get(ts, pos);

		next = e.offset + (int64_t)e.length < end ? e.offset + (int64_t)e.length : end;
		if (e.type != IOMAP_HOLE)
			continue;
		e.type = IOMAP_UNWRITTEN;
		e.offset = pos;
		e.length = (uint64_t)(next - pos);
		e.addr = space_take(ts, e.length);
		map_put(ts, e);
	}
	t_unlock(&ts->gate);
}

uint64_t ts_reserved(struct ts *ts)
{
	uint64_t bytes = 0;

	t_lock(&ts->gate);
	for (size_t i = 0; i < ts->extent_nr; i++)
		if (ts->extent[i].type == IOMAP_DELALLOC)
			bytes += ts->extent[i].length;
	t_unlock(&ts->gate);
	return bytes;
}

struct ts_extent ts_lookup(struct ts *ts, int64_t pos)
{
	struct ts_extent e;

	t_lock(&ts->gate);
	e = map_get(ts, pos);
	t_unlock(&ts->gate);
	return e;
}

/* Gate held. */
static void fill_iomap(struct ts *ts, const struct ts_extent *e, int64_t pos, struct iomap *iomap)
{
	iomap->offset = e->offset;
	iomap->length = e->length;
	iomap->type = e->type;
	iomap->flags = e->flags;
	iomap->addr = e->addr;
	iomap->bdev = ts->dev->bdev;
	iomap->inline_data = e->inline_data;
	iomap->private = ts->map_private;
	iomap->validity_cookie = ts->seq;
	if (ts->map_max_bytes && e->type != IOMAP_INLINE) {
		int64_t max = (int64_t)ts->map_max_bytes;
		int64_t start = pos - pos % max;
		int64_t end = e->offset + (int64_t)e->length;

		if (start > e->offset) {
			iomap->addr += has_addr(e) ? (uint64_t)(start - e->offset) : 0;
			iomap->offset = start;
		}
		if (end > start + max)
			end = start + max;
		iomap->length = (uint64_t)(end - iomap->offset);
	}
}

/* ---- callbacks ---- */

static int store_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .pos = pos, .length = (uint64_t)length, .flags = flags };
	struct ts_extent e;
	bool fresh = false;
	uint64_t n;
	int rc = call(ts, TS_BEGIN, &n);

	if (!rc) {
		t_lock(&ts->gate);
		e = map_get(ts, pos);
		if (e.type == IOMAP_HOLE && (flags & IOMAP_WRITE) && !(flags & IOMAP_UNSHARE)) {
			map_alloc(ts, pos, length);
			e = map_get(ts, pos);
			fresh = e.type != IOMAP_HOLE;
		}
		fill_iomap(ts, &e, pos, iomap);
		if (fresh)
			iomap->flags |= IOMAP_F_NEW;
		t_unlock(&ts->gate);
		if (ts->hook.begin)
			rc = ts->hook.begin(ts, pos, length, flags, iomap, srcmap);
	}
	event.iomap = *iomap;
	event.ret = rc;
	record(ts, TS_BEGIN, n, &event);
	return rc;
}

static int store_end(struct iomap_inode *inode, int64_t pos, int64_t length, ssize_t written,
		     unsigned flags, struct iomap *iomap)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .pos = pos,
				  .length = (uint64_t)length,
				  .written = written,
				  .flags = flags,
				  .iomap = *iomap };
	uint64_t n;
	int rc = call(ts, TS_END, &n);

	if (!rc && ts->hook.end)
		rc = ts->hook.end(ts, pos, length, written, flags, iomap);
	event.ret = rc;
	record(ts, TS_END, n, &event);
	return rc;
}

/* The part of the extent that [pos, pos + len) covers, as written. */
static struct ts_extent written_part(struct ts_extent e, uint64_t pos, uint64_t len)
{
	uint64_t skip = pos - (uint64_t)e.offset, left = e.length - skip;

	e.type = IOMAP_MAPPED;
	e.offset = (int64_t)pos;
	e.length = len < left ? len : left;
	e.addr += has_addr(&e) ? skip : 0;
	return e;
}

ssize_t ts_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		 uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct ts_extent e, written;

	t_lock(&ts->gate);
	e = map_get(ts, (int64_t)pos);
	/* no more than that: the write which took the extent may not have come to its rest yet */
	written = written_part(e, pos, len);
	if (e.type == IOMAP_DELALLOC || (ts->cfg.cow && e.flags & IOMAP_F_SHARED)) {
		written.flags &= (uint16_t)~IOMAP_F_SHARED;
		written.addr = space_take(ts, written.length);
		map_put(ts, written);
		e = written;
	}
	fill_iomap(ts, &e, (int64_t)pos, &wpc->iomap);
	if (e.type == IOMAP_UNWRITTEN)
		map_put(ts, written);
	t_unlock(&ts->gate);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static ssize_t store_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			   unsigned len, uint64_t end_pos)
{
	struct ts *ts = ts_of(wpc->inode);
	struct ts_event event = {
		.pos = (int64_t)pos, .length = len, .end_pos = end_pos, .folio = folio
	};
	uint64_t n;
	ssize_t rc = call(ts, TS_RANGE, &n);

	if (!rc && ts->hook.range)
		rc = ts->hook.range(ts, wpc, folio, pos, len, end_pos);
	else if (!rc)
		rc = ts_range(ts, wpc, folio, pos, len, end_pos);
	event.iomap = wpc->iomap;
	event.ret = rc;
	record(ts, TS_RANGE, n, &event);
	return rc;
}

static int store_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct ts *ts = ts_of(wpc->inode);
	const struct iomap_ioend *ioend = wpc->wb_ctx;
	struct ts_event event = { .written = error };
	uint64_t n;
	int rc = call(ts, TS_SUBMIT, &n);

	if (ioend) {
		event.io_sector = ioend->io_sector;
		event.io_offset = ioend->io_offset;
		event.io_size = ioend->io_size;
		event.io_flags = ioend->io_flags;
	}
	if (ts->hook.submit)
		rc = ts->hook.submit(ts, wpc, rc ? rc : error);
	else
		rc = iomap_ioend_writeback_submit(wpc, rc ? rc : error);
	event.ret = rc;
	record(ts, TS_SUBMIT, n, &event);
	return rc;
}

static struct iomap_folio *store_get_folio(struct iomap_iter *iter, int64_t pos, unsigned len)
{
	struct ts *ts = ts_of(iter->inode);
	struct ts_event event = {
		.pos = pos, .length = len, .flags = iter->flags, .private_data = iter->private
	};
	struct iomap_folio *folio;
	uint64_t n;
	int rc = call(ts, TS_GET, &n);

	if (ts->hook.get)
		ts->hook.get(ts, iter, pos);
	folio = rc ? iomap_err_ptr(rc) : iomap_get_folio(iter, pos, len);
	event.ret = rc;
	event.folio = rc ? NULL : folio;
	record(ts, TS_GET, n, &event);
	return folio;
}

static void store_put_folio(struct iomap_inode *inode, int64_t pos, unsigned copied,
			    struct iomap_folio *folio)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .pos = pos, .written = (ssize_t)copied, .folio = folio };
	uint64_t n;

	(void)call(ts, TS_PUT, &n);
	if (ts->hook.put)
		ts->hook.put(ts, pos, copied, folio);
	record(ts, TS_PUT, n, &event);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
}

static bool store_valid(struct iomap_inode *inode, const struct iomap *iomap)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .pos = iomap->offset, .length = iomap->length, .iomap = *iomap };
	bool valid;
	uint64_t n;
	int rc = call(ts, TS_VALID, &n);

	t_lock(&ts->gate);
	valid = !rc && iomap->validity_cookie == ts->seq;
	t_unlock(&ts->gate);
	if (!rc && ts->hook.valid)
		valid = ts->hook.valid(ts, iomap);
	event.ret = valid;
	record(ts, TS_VALID, n, &event);
	return valid;
}

/* The part of a block that a write does not cover, by a bio of the test's own. */
static int store_write_read(const struct iomap_iter *iter, struct iomap_folio *folio, int64_t pos,
			    size_t len)
{
	struct ts *ts = ts_of(iter->inode);
	const struct iomap *src = iomap_iter_srcmap(iter);
	struct ts_event event = { .pos = pos, .length = len, .folio = folio, .iomap = *src };
	struct iomap_bio *bio;
	uint64_t n;
	int rc = call(ts, TS_WREAD, &n);

	if (!rc) {
		bio = iomap_bio_alloc(src->bdev, 1, IOMAP_REQ_OP_READ, NULL);
		t_must(bio != NULL);
		bio->bi_iter.bi_sector = (src->addr + (uint64_t)(pos - src->offset)) >>
					 IOMAP_SECTOR_SHIFT;
		t_must(iomap_bio_add_folio(bio, folio, len,
					   (size_t)(pos - iomap_folio_pos(folio))));
		rc = iomap_submit_bio_wait(bio);
		iomap_bio_put(bio);
	}
	event.ret = rc;
	record(ts, TS_WREAD, n, &event);
	return rc;
}

static int store_read(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx, size_t len)
{
	struct ts *ts = ts_of(iter->inode);
	struct ts_event event = {
		.pos = iter->pos, .length = len, .flags = iter->flags, .folio = ctx->cur_folio
	};
	uint64_t n;
	int rc = call(ts, TS_READ, &n);

	if (!rc && ts->hook.read)
		rc = ts->hook.read(ts, iter, ctx, len);
	else if (!rc)
		rc = iomap_bio_read_folio_range(iter, ctx, len);
	event.ret = rc;
	record(ts, TS_READ, n, &event);
	return rc;
}

/* The folio may be anybody's by the time of submit_read, so the store is found like this. */
struct read_ctx {
	struct iomap_read_folio_ctx ctx; /* must be first */
	struct ts *ts;
};

static void store_read_submit(struct iomap_read_folio_ctx *ctx)
{
	struct ts *ts = ((struct read_ctx *)(void *)ctx)->ts;
	struct ts_event event = { .folio = ctx->cur_folio };
	uint64_t n;

	(void)call(ts, TS_READ_SUBMIT, &n);
	record(ts, TS_READ_SUBMIT, n, &event);
	if (!ts->hook.read)
		iomap_bio_submit_read(ctx);
}

static int store_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct ts *ts = ts_of(iomap_folio_inode(folio));
	struct read_ctx ctx = { .ctx = { .ops = &ts->read_ops, .cur_folio = folio }, .ts = ts };
	struct ts_event event = { .pos = iomap_folio_pos(folio),
				  .length = iomap_folio_size(folio),
				  .folio = folio };
	uint64_t n;

	(void)file;
	(void)call(ts, TS_READ_FOLIO, &n);
	event.ret = iomap_read_folio(&ts->ops, &ctx.ctx);
	record(ts, TS_READ_FOLIO, n, &event);
	return (int)event.ret;
}

static void store_readahead(struct iomap_readahead_control *rac)
{
	struct ts *ts = ts_of(rac->mapping->host);
	struct read_ctx ctx = { .ctx = { .ops = &ts->read_ops, .rac = rac }, .ts = ts };
	struct ts_event event = { .pos = iomap_readahead_pos(rac),
				  .length = iomap_readahead_length(rac) };
	uint64_t n;

	(void)call(ts, TS_READAHEAD, &n);
	event.ret = iomap_readahead(&ts->ops, &ctx.ctx);
	record(ts, TS_READAHEAD, n, &event);
}

static int store_writepages(struct iomap_address_space *mapping,
			    struct iomap_writeback_control *wbc)
{
	struct ts *ts = ts_of(mapping->host);
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &ts->wb_ops };
	struct ts_event event = { .pos = wbc->range_start,
				  .end_pos = (uint64_t)wbc->range_end,
				  .flags = wbc->sync_mode };
	uint64_t n;

	(void)call(ts, TS_WRITEPAGES, &n);
	event.ret = iomap_writepages(&wpc);
	record(ts, TS_WRITEPAGES, n, &event);
	return (int)event.ret;
}

static int store_commit(struct iomap_inode *inode, int datasync)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .written = datasync };
	uint64_t n;
	int rc = call(ts, TS_COMMIT, &n);

	if (!rc && ts->hook.commit)
		rc = ts->hook.commit(ts, datasync);
	event.ret = rc;
	record(ts, TS_COMMIT, n, &event);
	return rc;
}

static int store_open(struct iomap_inode *inode, struct iomap_file *file)
{
	struct ts *ts = ts_of(inode);
	struct ts_event event = { .flags = iomap_file_flags(file) };
	uint64_t n;
	int rc = call(ts, TS_OPEN, &n);

	if (!rc && ts->hook.open)
		rc = ts->hook.open(ts, file);
	event.ret = rc;
	record(ts, TS_OPEN, n, &event);
	return rc;
}

/* ---- life ---- */

void ts_prepare(struct ts *ts, const struct ts_config *cfg)
{
	memset(ts, 0, sizeof(*ts));
	ts->cfg = *cfg;
	t_log_init(&ts->log);
	t_gate_init(&ts->gate);
	for (int cb = 0; cb < TS_CB_NR; cb++) {
		ts->event[cb] = calloc(TS_EVENTS, sizeof(struct ts_event));
		t_must(ts->event[cb] != NULL);
	}
	ts->next_addr = 1 << 20; /* the first MiB is for extents that tests place themselves */
	ts->ops.iomap_begin = store_begin;
	ts->ops.iomap_end = store_end;
	ts->write_ops.get_folio = store_get_folio;
	ts->write_ops.put_folio = store_put_folio;
	ts->write_ops.iomap_valid = store_valid;
	ts->write_ops.read_folio_range = store_write_read;
	ts->read_ops.read_folio_range = store_read;
	ts->read_ops.submit_read = store_read_submit;
	ts->wb_ops.writeback_range = store_range;
	ts->wb_ops.writeback_submit = store_submit;
	ts->a_ops.read_folio = store_read_folio;
	ts->a_ops.readahead = store_readahead;
	ts->a_ops.writepages = store_writepages;
	ts->i_op.write = &ts->ops;
	ts->i_op.write_ops = cfg->with_write_ops ? &ts->write_ops : NULL;
	ts->i_op.open = store_open;
	ts->i_op.commit_metadata = store_commit;
	ts->args.size = sizeof(ts->args);
	ts->args.a_ops = &ts->a_ops;
	ts->args.i_op = &ts->i_op;
	ts->args.i_size = cfg->i_size;
	ts->args.i_maxbytes = cfg->i_maxbytes;
	ts->args.i_ino = TS_INO;
	ts->args.blkbits = cfg->blkbits ? cfg->blkbits : 12;
	ts->args.lock_class = cfg->lock_class;
}

/* A folio of rubbish. */
static int rubbish(struct iomap_file *file, struct iomap_folio *folio)
{
	char buf[4096];

	(void)file;
	memset(buf, 0xcd, sizeof(buf));
	for (size_t off = 0; off < iomap_folio_size(folio); off += sizeof(buf))
		iomap_folio_write(folio, off, buf, sizeof(buf));
	iomap_folio_mark_uptodate(folio);
	iomap_folio_unlock(folio);
	return 0;
}

/* Fresh folio memory is zero, which hides that somebody forgot to zero it. */
static void soil(struct iomap_engine *engine)
{
	static const struct iomap_address_space_operations rubbish_aops = { .read_folio = rubbish };
	uint64_t bytes = t_stats(engine).cache_bytes;
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &rubbish_aops,
					 .i_size = (int64_t)bytes };
	struct iomap_inode inode;
	struct iomap_file *file;
	char buf[4096];

	t_must(iomap_inode_init(engine, &inode, &args) == 0);
	t_must(iomap_file_open(&inode, 0, &file) == 0);
	for (uint64_t pos = 0; pos < bytes; pos += sizeof(buf))
		t_must(iomap_read(file, buf, sizeof(buf), (int64_t)pos) == sizeof(buf));
	t_must(iomap_file_close(file) == 0);
	t_must(iomap_inode_destroy(&inode, 0) == 0);
}

void ts_begin(struct ts *ts)
{
	const struct ts_config *cfg = &ts->cfg;
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	if (cfg->opts)
		opts = *cfg->opts;
	if (!opts.cache_bytes)
		opts.cache_bytes = cfg->cache_bytes ? cfg->cache_bytes : 4 << 20;
	if (!cfg->opts && !cfg->threads)
		opts.flags |= IOMAP_ENGINE_NO_THREADS;
	if (!opts.log_per_second)
		opts.log_per_second = 1000;
	ts->engine = cfg->engine ? cfg->engine : t_engine(&opts, &ts->log);
	if (!cfg->engine)
		soil(ts->engine);
	ts->dev = cfg->dev ? cfg->dev :
			     td_new(ts->engine, cfg->dev_bytes ? cfg->dev_bytes : 16 << 20,
				    cfg->limits);
	ts->args.bdev = ts->dev->bdev;
	cr_assert_eq(iomap_inode_init(ts->engine, &ts->inode, &ts->args), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &ts->file), 0);
}

struct ts *ts_open(const struct ts_config *cfg)
{
	struct ts *ts = malloc(sizeof(*ts));

	t_must(ts != NULL);
	ts_prepare(ts, cfg);
	ts_begin(ts);
	return ts;
}

void ts_close(struct ts *ts)
{
	int rc;

	cr_assert_eq(iomap_file_close(ts->file), 0);
	rc = iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD);
	cr_assert_eq(rc, 0, "iomap_inode_destroy: %s", strerror(-rc));
	ts_free(ts);
}

void ts_free(struct ts *ts)
{
	int rc;

	if (!ts->cfg.dev)
		td_free(ts->dev);
	if (!ts->cfg.engine) {
		rc = iomap_engine_destroy(ts->engine);
		cr_assert_eq(rc, 0, "iomap_engine_destroy: %s", strerror(-rc));
	}
	for (int cb = 0; cb < TS_CB_NR; cb++)
		free(ts->event[cb]);
	free(ts->extent);
	t_gate_exit(&ts->gate);
	free(ts);
}
