/* SPDX-License-Identifier: MIT */
/*
 * direct_end.c - the end of a direct I/O.
 *
 * Synchronous: the struct lies on the caller's stack.  What a completion touches last is
 * in_flight, and the wake-up behind it uses only its address.  The caller completes it.
 *
 * Asynchronous: the struct is from a pool.  Whoever takes the last of in_flight away owns it:
 *
 *	the submitter	it completes it as if it had been synchronous
 *	a completion	it queues the work, which in a worker, or inside poll,
 *			completes	end_io, the cache dropped, ki_pos moved, i_dio_count down
 *			syncs		where the iocb asks for it
 *			reports		ki_complete
 *
 * What is held meanwhile, from before the submitter lets go: i_dio_count of the inode, until it
 * is completed; a use of the file (file.c), until ki_complete has returned; a watch on its bios
 * (work.c), until the last one has ended.
 *
 * Who waits in iomap_inode_dio_wait() has i_rwsem and perhaps is a worker, or the only thread
 * there is.  So it completes what has been queued for the inode itself, and queues it again
 * for the rest: neither the sync, which may want i_rwsem, nor ki_complete is for it.
 *
 * A deadline: a synchronous call that may have to leave its I/O behind has its struct from the
 * pool as well.  When it gives up it hands the struct over as an asynchronous one does, by the
 * bit in in_flight, with copies of what lies on its caller's stack; so there is one moment at
 * which either the last completion finds the bit, or the caller finds that all has ended.  The
 * I/O counts as failed, since its caller has been told so: end_io moves no i_size and converts
 * nothing without i_rwsem.  It is held by the same counts, but nobody is called in the end.
 *
 * Errors: a bio's failure is the whole call's, since nobody knows what reached the device
 * before it; an error of the callbacks leaves what came before it, as a short count.
 *
 * Locks: none of its own; the caller of a synchronous one holds i_rwsem.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/dio.h"

#define DIO_RETRY_NS 10000000U

static void dio_queue_end(struct iomap__dio *dio)
{
	struct iomap_dio *async = iomap__container_of(dio, struct iomap_dio, dio);
	struct iomap_engine *engine = dio->iter.inode->i_engine;

	iomap__workers_unwatch(engine);
	iomap_queue_work(engine, &async->work);
}

void iomap_dio_bio_end_io(struct iomap_bio *bio)
{
	struct iomap__dio *dio = bio->bi_private;
	struct iomap__blk *blk = dio->blk;
	const uint32_t *word = &dio->in_flight;
	int32_t none = 0;
	uint32_t before;

	if (bio->bi_status && __atomic_compare_exchange_n(&dio->error, &none, bio->bi_status, false,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		dio->error_bdev = bio->bi_bdev;
		dio->error_addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	}
	iomap_bio_put(bio);
	/* release: pairs with iomap__dio_wait(); from here on the address is only a key ... */
	before = iomap__fetch_sub(&dio->in_flight, 1);
	if (before == 1)
		iomap__io_wake(blk, word);
	else if (before == (IOMAP__DIO_QUEUED | 1))
		dio_queue_end(dio); /* ... unless it is ours now */
}

static struct iomap__slow dio_slow(const struct iomap__dio *dio)
{
	return (struct iomap__slow){
		.begun_ns = iomap__now_ns(&dio->iter.inode->i_engine->env),
		.what = dio->write ? "direct write" : "direct read",
		.ino = dio->iter.inode->i_ino,
		.pos = dio->iocb->ki_pos,
		.len = (uint64_t)(dio->iter.pos - dio->iocb->ki_pos),
	};
}

/* False: the deadline has passed. */
static bool dio_wait(struct iomap__dio *dio, uint64_t deadline_ns)
{
	struct iomap__slow slow = dio_slow(dio);
	bool in_time = true;
	uint32_t nr;

	iomap__slow_wait(&slow);
	/* acquire: what completions have left, and what the devices have read */
	while ((nr = iomap__load_acquire(&dio->in_flight)) && in_time)
		in_time = iomap__io_wait_until(dio->blk, &dio->in_flight, nr, deadline_ns);
	iomap__slow_wait_end(&slow);
	return !nr;
}

void iomap__dio_wait(struct iomap__dio *dio)
{
	/* acquire: as above */
	if (iomap__fetch_sub(&dio->in_flight, 1) != 1)
		(void)dio_wait(dio, 0);
	/* all has ended before the wait */
	iomap__io_expected();
}

int64_t iomap__dio_size(const struct iomap__dio *dio)
{
	/* a read of the last sector ends at 2^63 */
	uint64_t start = (uint64_t)dio->iocb->ki_pos, end = (uint64_t)dio->iter.pos;
	uint64_t block = iomap_i_blocksize(dio->iter.inode);
	int64_t size;

	if (dio->write) {
		if (dio->open_tail)
			end = iomap__round_down(end, block);
	} else {
		/* a truncation that the caller's lock does not keep off */
		size = iomap__min(dio->i_size, iomap_i_size_read(dio->iter.inode));
		end = iomap__min(end, (uint64_t)size);
	}
	return end > start ? (int64_t)(end - start) : 0;
}

/*
 * All bios have ended.  An atomic write is all or an error: of one that stopped in between
 * nothing may take effect, as after one that failed.
 */
static ssize_t dio_complete(struct iomap__dio *dio, int64_t end, int err)
{
	struct iomap_kiocb *iocb = dio->iocb;
	struct iomap_inode *inode = dio->iter.inode;
	int64_t start = iocb->ki_pos, size = dio->timed_out ? 0 : iomap__dio_size(dio);

	if (dio->timed_out)
		err = -ETIMEDOUT;
	if (dio->error) {
		if (dio->error != -EAGAIN || !(dio->opf & IOMAP_REQ_NOWAIT))
			iomap__log_io_error(inode, dio->write ? "direct write" : "direct read",
					    start, (uint64_t)(end - start), dio->error_bdev,
					    dio->error_addr, dio->error);
		err = dio->error;
	} else if (dio->iter.flags & IOMAP_ATOMIC && size < end - start) {
		err = err ? err : -EIO;
	} else if (size) {
		err = 0;
	}
	if (dio->dops && dio->dops->end_io) {
		int ended;

		iomap__witness_assert_class("end_io", inode->i_class);
		ended = dio->dops->end_io(iocb, size, err, dio->flags);
		if (!err && ended < 0)
			err = ended;
	}
	if (dio->write)
		iomap__dio_drop_cache(dio, start, end);
	if (err)
		return err;
	iocb->ki_pos += size;
	return size;
}

/* What is left to be done for a result: without i_rwsem, where the caller does not hold it. */
static ssize_t dio_result(struct iomap__dio *dio, ssize_t ret)
{
	if (ret > 0 && dio->write && !dio->through && !dio->no_sync)
		ret = iomap_write_sync(dio->iocb, ret);
	return ret > 0 ? ret + (ssize_t)dio->done_before : ret;
}

ssize_t iomap__dio_finish(struct iomap__dio *dio, int64_t end, int err)
{
	return dio_result(dio, dio_complete(dio, end, err));
}

/* ---- where nobody waits ---- */

static void dio_async_complete(struct iomap_dio *async)
{
	struct iomap_inode *inode = async->dio.iter.inode;

	iomap__slow_end(async->dio.blk, &async->slow);
	async->ret = dio_complete(&async->dio, async->end, async->err);
	iomap_inode_dio_end(inode);
}

/* A work function: the I/O has been completed. */
static void dio_async_report(struct iomap_work *work)
{
	struct iomap_dio *async = iomap__container_of(work, struct iomap_dio, work);
	struct iomap_kiocb *iocb = async->dio.iocb;
	struct iomap_engine *engine = async->dio.iter.inode->i_engine;
	ssize_t ret = async->ret;

	if (async->dio.timed_out) {
		struct iomap_kiocb copy = async->iocb;

		iomap__pool_put(&engine->fs->dios, async);
		iomap__kiocb_cancel(&copy);
		return;
	}
	ret = dio_result(&async->dio, ret);
	iomap__pool_put(&engine->fs->dios, async);
	iomap__kiocb_complete(iocb, ret);
}

/* A work function: all bios have ended. */
static void dio_async_end(struct iomap_work *work)
{
	dio_async_complete(iomap__container_of(work, struct iomap_dio, work));
	dio_async_report(work);
}

/* What is held until somebody else has ended it, but for the watch, which is there. */
static void dio_hold(struct iomap_dio *async)
{
	struct iomap__dio *dio = &async->dio;

	iomap_init_work(&async->work, dio_async_end);
	async->slow = dio_slow(dio);
	iomap__slow_begin(dio->blk, &async->slow);
	iomap_inode_dio_begin(dio->iter.inode);
	iomap__kiocb_begin(dio->iocb);
}

/* Its submitter ends it after all; with the watch. */
static void dio_unhold(struct iomap_dio *async)
{
	struct iomap_inode *inode = async->dio.iter.inode;
	struct iomap_engine *engine = inode->i_engine;

	iomap__slow_end(async->dio.blk, &async->slow);
	iomap__kiocb_cancel(async->dio.iocb);
	iomap_inode_dio_end(inode);
	iomap__workers_unwatch(engine);
	iomap__workers_settle(engine);
}

bool iomap__dio_queue(struct iomap_dio *async)
{
	struct iomap__dio *dio = &async->dio;
	struct iomap_engine *engine = dio->iter.inode->i_engine;
	const uint32_t *call;
	bool queued;

	if (iomap__workers_watch(engine, &call)) {
		iomap__dio_take_back(dio);
		return false;
	}
	dio_hold(async);
	/* release: pairs with the acquire of whoever takes the last one away */
	queued = iomap__fetch_sub(&dio->in_flight, 1) != (IOMAP__DIO_QUEUED | 1);
	if (!queued) {
		iomap__store(&dio->in_flight, 1);
		dio_unhold(async);
	}
	iomap__workers_call(call);
	return queued;
}

/* Leave it to whoever ends it.  False: all bios have ended, or nobody could be had for it. */
static bool dio_abandon(struct iomap_dio *async, int64_t end)
{
	struct iomap__dio *dio = &async->dio;
	const struct iomap_dio_ops *dops = dio->dops;
	struct iomap_kiocb *iocb = dio->iocb;
	uint32_t nr = iomap__load_acquire(&dio->in_flight);
	const uint32_t *call;

	if (iomap__workers_watch(dio->iter.inode->i_engine, &call))
		return false;
	async->iocb = *iocb;
	dio->iocb = &async->iocb;
	if (dops) {
		async->dops = *dops;
		dio->dops = &async->dops;
	}
	dio->timed_out = true;
	async->end = end;
	async->err = -ETIMEDOUT;
	dio_hold(async);
	/* release: pairs with the acquire of whoever takes the last one away */
	while (nr && !__atomic_compare_exchange_n(&dio->in_flight, &nr, nr | IOMAP__DIO_QUEUED,
						  false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
	if (!nr) {
		dio_unhold(async);
		dio->iocb = iocb;
		dio->dops = dops;
		dio->timed_out = false;
	}
	iomap__workers_call(call);
	return nr;
}

bool iomap__dio_wait_until(struct iomap_dio *async, int64_t end, uint64_t deadline_ns)
{
	struct iomap__dio *dio = &async->dio;

	/* acquire: as in dio_wait() */
	if (iomap__fetch_sub(&dio->in_flight, 1) == 1)
		return true;
	while (!dio_wait(dio, deadline_ns)) {
		if (dio_abandon(async, end))
			return false;
		/* without a thread to be had: as late as it has to be */
		deadline_ns += DIO_RETRY_NS;
	}
	return true;
}

void iomap__dio_take_back(struct iomap__dio *dio)
{
	/* no completion has looked for the bit: we still have our one */
	iomap__fetch_sub(&dio->in_flight, IOMAP__DIO_QUEUED);
}

/* ---- I/O in flight of an inode ---- */

void iomap_inode_dio_begin(struct iomap_inode *inode)
{
	iomap__fetch_add(&inode->i_dio_count, 1);
}

void iomap_inode_dio_end(struct iomap_inode *inode)
{
	struct iomap_engine *engine = inode->i_engine;

	/* release: pairs with iomap_inode_dio_wait(); the last one lets the inode go */
	if (iomap__fetch_sub(&inode->i_dio_count, 1) == 1)
		iomap__work_notify(engine);
}

static bool dio_is_end_of(const struct iomap_work *work, const void *inode)
{
	return work->func == dio_async_end &&
	       iomap__container_of(work, struct iomap_dio, work)->dio.iter.inode == inode;
}

/* Complete one that waits for a worker.  False: there is none. */
static bool dio_complete_queued(struct iomap_inode *inode)
{
	struct iomap_engine *engine = inode->i_engine;
	struct iomap_work *work = iomap__work_take(engine, dio_is_end_of, inode);

	if (!work)
		return false;
	dio_async_complete(iomap__container_of(work, struct iomap_dio, work));
	iomap_init_work(work, dio_async_report);
	iomap_queue_work(engine, work);
	return true;
}

void iomap_inode_dio_wait(struct iomap_inode *inode)
{
	struct iomap_engine *engine = inode->i_engine;

	/* acquire: pairs with iomap_inode_dio_end() */
	if (!iomap__load_acquire(&inode->i_dio_count) || iomap__engine_forked(engine))
		return;
	iomap__work_wait_begin(engine);
	for (;;) {
		uint32_t event = iomap__work_event(engine);

		if (!iomap__load_acquire(&inode->i_dio_count))
			break;
		if (!dio_complete_queued(inode))
			iomap__work_wait(engine, event);
	}
	iomap__work_wait_end(engine);
}
