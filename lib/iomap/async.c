/* SPDX-License-Identifier: MIT */
/*
 * async.c - reads, writes and fsyncs by iocb whose caller does not wait for them.
 *
 * What can be done without a wait is done in the call, and then it returns the result.  The rest
 * becomes a request, from a pool, which holds copies of the iterator and its vector.
 *
 * A read that misses.  It goes from folio to folio.  At one that is not there it starts the read
 * of it, leaves an entry with the folio (cache/await.c), and nobody waits: whoever unlocks the
 * folio queues the request's work, which copies in a worker, and goes on to the next one.
 *
 *	started -> (awaiting a folio -> work queued -> copying)* -> ended
 *
 * What would block in there, above all memory that is not to be had, makes the rest of it a call
 * that waits.
 *
 * Calls that wait: writes that have not been done by a NOWAIT write under i_rwsem, syncs, and
 * reads as above.  A worker makes them, by a copy of the iocb without ki_complete, just as a
 * synchronous caller would.
 *
 * Gates keep the number of requests under way in bounds; who does not get in waits in its
 * queue for one that leaves:
 *
 *	GATE_READ	requests that may hold a reference to a folio: these take no more than a
 *			quarter of the cache, so others find memory
 *	GATE_WAIT	calls that wait: one worker less than there are, so that ki_complete and
 *			work of others, which these calls may wait for, do not stand behind them
 *	GATE_WRITE	of these, writes of data, which may wait for as long as the application holds
 *			other data back: one less again, so that reads and syncs, which it may need to
 *			let that go, do not stand behind them.  A write passes it first
 *
 * A request's deadline is that of its submission: what it waits for at a gate counts.
 *
 * What is held from before a request is anybody else's until its end: a use of its file (file.c);
 * a line in what is logged as slow and waited for by iomap_engine_shutdown() (slow.c); and,
 * while a read awaits a folio, a watch on I/O (work.c).
 *
 * Whoever runs the request ends it, in a work function: gates left, request freed, ki_complete.
 * So it is called once for each, never inside another one, in a worker or in iomap_engine_poll().
 * A request that has not been handed on when its read is over was the caller's all the time, and
 * is ended without ki_complete.
 *
 * Locks: fs->async_lock guards the gates; nothing is called under it.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/async.h"
#include "iomap/workers.h"

/* Segments that need no memory of their own. */
#define ASYNC_IOV 4U
/* Of the cache's largest folios, the share that requests may hold. */
#define ASYNC_CACHE_SHARE 4U

enum { GATE_READ, GATE_WAIT, GATE_WRITE };

enum async_kind {
	ASYNC_READ, /* from folio to folio */
	ASYNC_READ_WAIT,
	ASYNC_WRITE,
	ASYNC_FSYNC,
};

struct async {
	struct iomap_kiocb *iocb;
	struct iomap_engine *engine;
	struct iomap_work work;
	struct iomap_list_head entry; /* in a gate's queue */
	enum async_kind kind;
	bool ours;   /* nobody else has seen it */
	ssize_t done; /* ASYNC_WRITE: bytes before the rest */
	uint64_t deadline_ns; /* of the call that waits; 0: none */
	int64_t first; /* reads: ki_pos at the beginning */
	struct iomap__read_async read;
	struct iomap_iov_iter iter;
	struct iovec iov[ASYNC_IOV], *more_iov; /* the vector; more_iov: where it is longer */
	size_t more_nr;
	int64_t start, end; /* ASYNC_FSYNC */
	int datasync;
	struct iomap__slow slow;
};

static void async_work(struct iomap_work *work);

/* ---- the engine's part ---- */

static void gate_init(struct iomap__async_gate *gate, uint32_t max)
{
	iomap__list_init(&gate->queue);
	gate->inside = 0;
	gate->max = max;
}

/* What GATE_READ lets in: the cache may have been resized since the last time. */
static uint32_t gate_read_max(struct iomap_engine *engine)
{
	uint64_t folios = iomap__cache_bytes(engine) / engine->opts.max_folio_bytes;

	return (uint32_t)iomap__min(iomap__max(folios / ASYNC_CACHE_SHARE, 1), UINT32_MAX);
}

int iomap__async_create(struct iomap_engine *engine, struct iomap__fs *fs)
{
	uint32_t waiting = iomap__max(engine->opts.nr_workers, 2) - 1;

	iomap__mutex_init(&fs->async_lock, IOMAP__RANK_WORK);
	gate_init(&fs->async_gate[GATE_READ], gate_read_max(engine));
	gate_init(&fs->async_gate[GATE_WAIT], waiting);
	gate_init(&fs->async_gate[GATE_WRITE], iomap__max(waiting, 2) - 1);
	return iomap__pool_init(&fs->asyncs, &engine->env, sizeof(struct async), 0);
}

void iomap__async_destroy(struct iomap__fs *fs)
{
	for (unsigned i = 0; i < iomap__array_len(fs->async_gate); i++)
		iomap__assert(!fs->async_gate[i].inside);
	iomap__pool_exit(&fs->asyncs);
}

/* ---- gates ---- */

static void async_wait_on(struct async *req);

/* False: it is in the queue, and goes on, or is gone already, when it has got in. */
static bool gate_enter(struct async *req, unsigned which)
{
	struct iomap__fs *fs = req->engine->fs;
	struct iomap__async_gate *gate = &fs->async_gate[which];
	bool inside;

	iomap__mutex_lock(&fs->async_lock);
	if (which == GATE_READ)
		gate->max = gate_read_max(req->engine);
	inside = gate->inside < gate->max;
	if (inside)
		gate->inside++;
	else
		iomap__list_add_tail(&req->entry, &gate->queue);
	iomap__mutex_unlock(&fs->async_lock);
	return inside;
}

static void gate_leave(struct iomap_engine *engine, unsigned which)
{
	struct iomap__fs *fs = engine->fs;
	struct iomap__async_gate *gate = &fs->async_gate[which];
	struct async *next = NULL;

	iomap__mutex_lock(&fs->async_lock);
	/* one that has become smaller lets nobody in for some */
	if (iomap__list_empty(&gate->queue) || gate->inside > gate->max) {
		gate->inside--;
	} else {
		next = iomap__container_of(gate->queue.next, struct async, entry);
		iomap__list_del(&next->entry);
	}
	iomap__mutex_unlock(&fs->async_lock);
	if (next && which == GATE_WRITE)
		async_wait_on(next);
	else if (next)
		iomap_queue_work(engine, &next->work);
}

/* ---- life of a request ---- */

static struct async *async_alloc(struct iomap_kiocb *iocb, enum async_kind kind)
{
	struct iomap_engine *engine = iocb->ki_filp->inode->i_engine;
	struct async *req = iomap__pool_get(&engine->fs->asyncs);

	if (!req)
		return NULL;
	memset(req, 0, sizeof(*req));
	req->iocb = iocb;
	req->engine = engine;
	req->kind = kind;
	iomap_init_work(&req->work, async_work);
	iomap__list_init(&req->entry);
	return req;
}

/* An own copy of the iterator and its vector.  0 or -ENOMEM. */
static int async_copy_iter(struct async *req, const struct iomap_iov_iter *iter)
{
	struct iovec *iov = req->iov;

	req->iter = *iter;
	if (!iter->iov)
		return 0;
	if (iter->nr_segs > ASYNC_IOV) {
		iov = iomap__zalloc(&req->engine->env, iter->nr_segs * sizeof(*iov));
		if (!iov)
			return -ENOMEM;
		req->more_iov = iov;
		req->more_nr = iter->nr_segs;
	}
	memcpy(iov, iter->iov, iter->nr_segs * sizeof(*iov));
	req->iter.iov = iov;
	return 0;
}

static void async_free(struct async *req)
{
	struct iomap_engine *engine = req->engine;

	if (req->more_iov)
		iomap__free(&engine->env, req->more_iov, req->more_nr * sizeof(*req->more_iov));
	iomap__pool_put(&engine->fs->asyncs, req);
}

/* From here on somebody else may end it. */
static void async_hold(struct async *req, const char *what)
{
	req->slow = (struct iomap__slow){
		.begun_ns = iomap__now_ns(&req->engine->env),
		.what = what,
		.ino = req->iocb->ki_filp->inode->i_ino,
		.pos = req->kind == ASYNC_FSYNC ? req->start : req->iocb->ki_pos,
		.len = req->kind == ASYNC_FSYNC ? 0 : req->iter.count,
	};
	req->deadline_ns = iomap__deadline(req->engine, req->iocb->ki_deadline);
	iomap__slow_begin(req->engine->blk, &req->slow);
	iomap__kiocb_begin(req->iocb);
}

/* In its work function; gates have been left. */
static void async_complete(struct async *req, ssize_t ret)
{
	struct iomap_kiocb *iocb = req->iocb;

	iomap__slow_end(req->engine->blk, &req->slow);
	async_free(req);
	iomap__kiocb_complete(iocb, ret);
}

/* ---- calls that wait ---- */

/* Metadata is not made to wait for what is held back, see cache/throttle.c. */
static bool async_writes_data(const struct async *req)
{
	return req->kind == ASYNC_WRITE && !req->iocb->ki_filp->inode->i_class;
}

/* A call, a write among those of GATE_WRITE, on its way to a worker. */
static void async_wait_on(struct async *req)
{
	struct iomap_engine *engine = req->engine;

	/* behind a gate it may be gone at once */
	if (gate_enter(req, GATE_WAIT))
		iomap_queue_work(engine, &req->work);
}

/* Have a worker make the call; the request is not ours any more. */
static void async_wait_later(struct async *req)
{
	if (!async_writes_data(req) || gate_enter(req, GATE_WRITE))
		async_wait_on(req);
}

static ssize_t async_write(struct async *req)
{
	struct iomap_kiocb *iocb = req->iocb, call = *iocb;
	bool durable = false;
	ssize_t ret = 0;

	call.ki_complete = NULL;
	call.ki_deadline = req->deadline_ns;
	if (req->iter.count)
		ret = iomap__file_write(&call, &req->iter, &durable);
	iocb->ki_pos = call.ki_pos;
	if (!req->done && (ret < 0 || durable))
		return ret;
	return iomap_write_sync(iocb, req->done + iomap__max(ret, 0));
}

static ssize_t async_read_wait(struct async *req)
{
	struct iomap_kiocb *iocb = req->iocb, call = *iocb;
	ssize_t ret;

	call.ki_complete = NULL;
	call.ki_deadline = req->deadline_ns;
	ret = iomap_read_iter(&call, &req->iter);
	iocb->ki_pos = call.ki_pos;
	return iocb->ki_pos > req->first ? (ssize_t)(iocb->ki_pos - req->first) : ret;
}

static int async_fsync(struct iomap_kiocb *iocb, int64_t start, int64_t end, int datasync,
		       uint64_t deadline_ns)
{
	const struct iomap_file_operations *fop = iocb->ki_filp->inode->i_fop;

	if (fop && fop->fsync)
		return fop->fsync(iocb->ki_filp, start, end, datasync);
	return iomap__fsync_until(iocb->ki_filp, start, end, datasync, deadline_ns);
}

static ssize_t async_run(struct async *req)
{
	switch (req->kind) {
	case ASYNC_WRITE:
		return async_write(req);
	case ASYNC_FSYNC:
		return async_fsync(req->iocb, req->start, req->end, req->datasync,
				   req->deadline_ns);
	default:
		return async_read_wait(req);
	}
}

/* A work function's: the call that waits. */
static void async_call(struct async *req)
{
	ssize_t ret = async_run(req);

	gate_leave(req->engine, GATE_WAIT);
	if (async_writes_data(req))
		gate_leave(req->engine, GATE_WRITE);
	async_complete(req, ret);
}

/* ---- reads ---- */

/* Any context: the folio has been unlocked. */
static void async_awaited(struct iomap__folio_await *await)
{
	struct async *req = iomap__container_of(await, struct async, read.await);
	struct iomap_engine *engine = req->engine;

	iomap__workers_unwatch(engine);
	iomap_queue_work(engine, &req->work);
}

/* As iomap__filemap_read_async(); -EAGAIN also where there is nobody to see to its I/O. */
static ssize_t async_read_step(struct async *req)
{
	struct iomap_engine *engine = req->engine;
	const uint32_t *call;
	ssize_t ret;

	if (iomap__workers_watch(engine, &call))
		return -EAGAIN;
	ret = iomap__filemap_read_async(req->iocb, &req->iter, &req->read);
	iomap__workers_call(call);
	if (ret == -IOMAP_EIOCBQUEUED)
		return ret;
	iomap__workers_unwatch(engine);
	iomap__workers_settle(engine);
	return ret;
}

static ssize_t async_read_result(const struct async *req, ssize_t ret)
{
	int64_t pos = req->iocb->ki_pos;

	return pos > req->first ? (ssize_t)(pos - req->first) : ret;
}

/* A work function's: what was awaited is there, or the gate has been passed. */
static void async_read_on(struct async *req)
{
	struct iomap_engine *engine = req->engine;
	ssize_t ret = async_read_step(req);

	if (ret == -IOMAP_EIOCBQUEUED)
		return;
	gate_leave(engine, GATE_READ);
	if (ret == -EAGAIN) {
		req->kind = ASYNC_READ_WAIT;
		async_wait_later(req);
		return;
	}
	async_complete(req, async_read_result(req, ret));
}

static void async_work(struct iomap_work *work)
{
	struct async *req = iomap__container_of(work, struct async, work);

	if (req->kind == ASYNC_READ)
		async_read_on(req);
	else
		async_call(req);
}

/* The request has not been handed on: its caller has the result. */
static ssize_t async_take_back(struct async *req, ssize_t ret)
{
	ret = async_read_result(req, ret);
	iomap__slow_end(req->engine->blk, &req->slow);
	iomap__kiocb_cancel(req->iocb);
	async_free(req);
	return ret;
}

/* Start reading what is not cached. */
static ssize_t async_read_start(struct async *req)
{
	struct iomap_engine *engine = req->engine;
	ssize_t ret;

	async_hold(req, "asynchronous read");
	if (!gate_enter(req, GATE_READ))
		return -IOMAP_EIOCBQUEUED;
	ret = async_read_step(req);
	if (ret == -IOMAP_EIOCBQUEUED)
		return ret;
	gate_leave(engine, GATE_READ);
	if (ret != -EAGAIN)
		return async_take_back(req, ret);
	req->kind = ASYNC_READ_WAIT;
	async_wait_later(req);
	return -IOMAP_EIOCBQUEUED;
}

ssize_t iomap__async_read(struct iomap_kiocb *iocb, struct iomap_iov_iter *to, int64_t first)
{
	struct async *req;
	ssize_t ret;

	ret = iomap__filemap_read_cached(iocb, to);
	if (ret == -ENODATA && iomap__workers_ready(iocb->ki_filp->inode->i_engine)) {
		req = async_alloc(iocb, ASYNC_READ);
	} else {
		/* which may give a device's -ENODATA */
		if (ret == -ENODATA)
			ret = iomap_file_read_iter(iocb, to);
		return iocb->ki_pos > first ? (ssize_t)(iocb->ki_pos - first) : ret;
	}
	if (!req || async_copy_iter(req, to)) {
		if (req)
			async_free(req);
		return iocb->ki_pos > first ? (ssize_t)(iocb->ki_pos - first) : -ENOMEM;
	}
	req->first = first;
	req->read.await.fn = async_awaited;
	return async_read_start(req);
}

/* ---- what goes to a worker as a whole ---- */

static ssize_t async_submit(struct async *req, const struct iomap_iov_iter *iter, const char *what)
{
	if (iter && async_copy_iter(req, iter)) {
		async_free(req);
		return -ENOMEM;
	}
	if (!iomap__workers_ready(req->engine)) {
		ssize_t ret;

		req->deadline_ns = req->iocb->ki_deadline;
		ret = async_run(req);

		async_free(req);
		return ret;
	}
	async_hold(req, what);
	async_wait_later(req);
	return -IOMAP_EIOCBQUEUED;
}

ssize_t iomap__async_read_later(struct iomap_kiocb *iocb, struct iomap_iov_iter *to, int64_t first)
{
	struct iomap_engine *engine = iocb->ki_filp->inode->i_engine;
	struct async *req = NULL;
	ssize_t ret = -ENOMEM;

	if (iomap__engine_closed(engine))
		ret = iomap__engine_refusal(engine);
	else
		req = async_alloc(iocb, ASYNC_READ_WAIT);
	if (req) {
		req->first = first;
		ret = async_submit(req, to, "asynchronous read");
	}
	/* what has been read is not lost with the rest */
	if (ret < 0 && ret != -IOMAP_EIOCBQUEUED && iocb->ki_pos > first)
		return iocb->ki_pos - first;
	return ret;
}

ssize_t iomap__async_write_later(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
				 ssize_t done)
{
	struct async *req = async_alloc(iocb, ASYNC_WRITE);
	ssize_t ret = -ENOMEM;

	if (req) {
		req->done = done;
		ret = async_submit(req, from, "asynchronous write");
	}
	/* what has been written stays so, and a sync that was asked for is waited for here */
	return ret == -ENOMEM && done > 0 ? iomap_write_sync(iocb, done) : ret;
}

int iomap_fsync_iocb(struct iomap_kiocb *iocb, int64_t start, int64_t end, int datasync)
{
	struct iomap_file *file = iocb->ki_filp;
	const struct iomap_file_operations *fop;
	struct iomap_inode *inode;
	struct async *req;

	iomap__file_check(file);
	inode = file->inode;
	if (start < 0 || end < start)
		return -EINVAL;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	if (!iocb->ki_complete)
		return iocb->ki_flags & IOMAP_IOCB_NOWAIT
			       ? -EAGAIN
			       : async_fsync(iocb, start, end, datasync, iocb->ki_deadline);
	req = async_alloc(iocb, ASYNC_FSYNC);
	if (!req)
		return -ENOMEM;
	req->start = start;
	req->end = end;
	req->datasync = datasync;
	fop = inode->i_fop;
	/* the devices have something to do until a worker comes to it; what this leaves out it finds */
	if (!(fop && fop->fsync) && !(iocb->ki_flags & IOMAP_IOCB_NOWAIT))
		(void)iomap__filemap_write_range(&inode->i_data, start,
						 end == INT64_MAX ? end : end + 1,
						 IOMAP_WB_SYNC_NONE, NULL);
	/* a worker waits for it, and not the thread whose plug it would be in */
	iomap__plug_flush(inode->i_engine->blk);
	return (int)async_submit(req, NULL, "asynchronous fsync");
}
