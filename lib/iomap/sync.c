/* SPDX-License-Identifier: MIT */
/*
 * sync.c - durability: from dirty folios to "it survives a power cut".
 *
 * fsync is four steps, and their order is what it promises: write the data and wait for it;
 * look for errors of writing that this opener has not been told of; let the application make
 * the metadata durable that finds the data; flush every device the data went to, unless the
 * application says that its commit has done so.  Metadata never goes before its data, and the
 * flush comes after both.
 *
 * A failed step ends it, as in a kernel filesystem: when data could not be written there is
 * nothing whose metadata should be committed, the caller is told, and its next fsync, with
 * the error told, commits and flushes what was written since.  iomap_sync_engine() differs:
 * it stands for many files, and the failure of one is no reason to leave the others.
 *
 * Errors of writing are told once to each opener, by a cursor in the file, under file->lock;
 * iomap_sync_engine() has a cursor in the engine.
 *
 * Data held back (IOMAP_WB_DEFER): fsync may not return 0 over it.  It waits until the
 * inode's i_resume_seq moves and writes again; the count is read before writing, so that a
 * resume which comes while the callback still answers "defer" is not slept through:
 *
 *	fsync				application
 *	seq = i_resume_seq
 *	writeback_range: defer
 *					iomap_writeback_resume(): i_resume_seq++
 *	sleep while i_resume_seq == seq: returns at once, writes again
 *
 * It also asks again each flush interval, as the flusher does, since an application may let
 * deferred runs go without saying so.
 *
 * Locks: none is held over a step; file->lock and engine->sync_lock guard the cursors.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/ops.h"

#define SYNC_RANGE_FLAGS (IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER)

int iomap__sync_write_once(struct iomap_address_space *mapping, int64_t start, int64_t end,
			   uint32_t *deferred)
{
	/*
	 * wb_err cannot tell: while nobody has been told of an error it stays what it is when
	 * the same comes once more.  One of another range that comes just now counts: better an
	 * error too many than bytes from before a write.
	 */
	uint32_t since = iomap__errseq_sample(&mapping->wb_err);
	uint64_t errors_nr = iomap__load_acquire(&mapping->wb_errors_nr);
	int err, waited, recorded = 0;

	err = iomap__filemap_write_range(mapping, start, end, IOMAP_WB_SYNC_ALL, deferred);
	/* what was sent before an error is waited for all the same */
	waited = iomap__filemap_wait_range(mapping, start, end);
	if (iomap__load_acquire(&mapping->wb_errors_nr) != errors_nr)
		recorded = iomap__errseq_check(&mapping->wb_err, since);
	if (recorded)
		return recorded;
	return err ? err : waited;
}

int iomap__sync_write_wait(struct iomap_inode *inode, int64_t start, int64_t end)
{
	struct iomap_engine *engine = inode->i_engine;
	uint64_t interval_ns = (uint64_t)engine->opts.flush_interval_ms * 1000000U;

	for (;;) {
		/* acquire: pairs with iomap_writeback_resume() */
		uint32_t seq = iomap__load_acquire(&inode->i_resume_seq);
		uint32_t deferred = 0;
		int err = iomap__sync_write_once(&inode->i_data, start, end, &deferred);

		if (err || !deferred)
			return err;
		if (engine->opts.flags & IOMAP_ENGINE_NO_THREADS)
			return -EAGAIN;
		if (iomap__engine_closed(engine))
			return iomap__engine_refusal(engine);
		iomap__io_wait_timeout(engine->blk, &inode->i_resume_seq, seq, interval_ns);
	}
}

int iomap_filemap_write_and_wait_range(struct iomap_address_space *mapping, int64_t start,
				       int64_t end)
{
	struct iomap_inode *inode = mapping->host;

	iomap__inode_check(inode);
	if (start < 0 || end < start)
		return -EINVAL;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	return iomap__sync_write_wait(inode, start, end == INT64_MAX ? end : end + 1);
}

void iomap_writeback_resume(struct iomap_inode *inode)
{
	struct iomap__blk *blk;

	iomap__inode_check(inode);
	if (iomap__engine_forked(inode->i_engine))
		return;
	blk = inode->i_engine->blk;
	/* a destroy that waits for just this must not end before we do */
	iomap__inode_pin(inode);
	iomap__fetch_and(&inode->i_state, ~IOMAP__I_DEFERRED);
	/* release: pairs with iomap__sync_write_wait() */
	iomap__fetch_add(&inode->i_resume_seq, 1);
	iomap__io_wake(blk, &inode->i_resume_seq);
	iomap__flusher_resume(inode);
	iomap__inode_unpin(inode);
}

void iomap__sync_note_device(struct iomap_inode *inode, const struct iomap_bdev *bdev)
{
	uint64_t *bdevs = &inode->i_data.wb_bdevs;
	uint64_t bit = 1ULL << iomap__bdev_id(bdev);

	if (!(iomap__load(bdevs) & bit))
		iomap__fetch_or(bdevs, bit);
}

/* 0, IOMAP_COMMIT_FLUSHED or -errno. */
static int sync_commit(struct iomap_inode *inode, int datasync)
{
	int err;

	if (!inode->i_op || !inode->i_op->commit_metadata)
		return 0;
	iomap__witness_assert_callback("commit_metadata");
	err = inode->i_op->commit_metadata(inode, datasync);
	return err > IOMAP_COMMIT_FLUSHED ? -EIO : err;
}

/* The devices whose flush makes the inode's data durable, as iomap__bdevs_flush() takes them. */
static uint64_t sync_bdevs(const struct iomap_inode *inode)
{
	uint64_t ids = iomap__load_acquire(&inode->i_data.wb_bdevs);

	if (inode->i_bdev)
		ids |= 1ULL << iomap__bdev_id(inode->i_bdev);
	return ids;
}

/*
 * The error of the data step: what was recorded, so that each opener is told the same,
 * whichever thread's writeback it was that failed; else what writing returned.
 */
static int sync_data_error(int returned, int recorded)
{
	return recorded ? recorded : returned;
}

/* The thread's waits end at its deadline_ns, see iomap__filemap_wait_range(). */
static int sync_file(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	struct iomap_inode *inode = file->inode;
	int err, told;

	err = iomap__sync_write_wait(inode, start, end == INT64_MAX ? end : end + 1);
	/* what was recorded is what is told, once, and not as writepages happened to call it */
	told = iomap_file_check_and_advance_wb_err(file);
	if (told)
		err = told;
	if (err)
		return err;
	err = sync_commit(inode, datasync);
	/* by now others have written, so that a flush would hardly ever be left out by itself */
	if (err)
		return err == IOMAP_COMMIT_FLUSHED ? 0 : err;
	return iomap__bdevs_flush(inode->i_engine, sync_bdevs(inode),
				  iomap__thread_self()->deadline_ns);
}

int iomap__fsync_until(struct iomap_file *file, int64_t start, int64_t end, int datasync,
		       uint64_t deadline_ns)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_engine *engine;
	uint64_t outer = self->deadline_ns, began_ns;
	int err;

	iomap__file_check(file);
	if (start < 0 || end < start)
		return -EINVAL;
	engine = file->inode->i_engine;
	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	iomap__cache_count2(engine, IOMAP__STAT_FSYNCS, 1);
	began_ns = iomap__now_ns(&engine->env);
	self->deadline_ns = iomap__deadline(engine, deadline_ns);
	err = sync_file(file, start, end, datasync);
	self->deadline_ns = outer;
	iomap__cache_took(engine, IOMAP_HIST_FSYNC, began_ns);
	return err;
}

int iomap_fsync(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	return iomap__fsync_until(file, start, end, datasync, 0);
}

/* As fsync of a kernel file: the inode's own operation wins. */
static int sync_file_range(struct iomap_file *file, int64_t start, int64_t end, int datasync)
{
	const struct iomap_file_operations *fop;

	iomap__file_check(file);
	fop = file->inode->i_fop;
	if (fop && fop->fsync)
		return fop->fsync(file, start, end, datasync);
	return iomap_fsync(file, start, end, datasync);
}

int iomap_file_fsync(struct iomap_file *file, int datasync)
{
	return sync_file_range(file, 0, INT64_MAX, datasync);
}

ssize_t iomap_write_sync(struct iomap_kiocb *iocb, ssize_t ret)
{
	int datasync = !(iocb->ki_flags & IOMAP_IOCB_SYNC);
	int err;

	if (ret <= 0 || !(iocb->ki_flags & (IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC)))
		return ret;
	err = sync_file_range(iocb->ki_filp, iocb->ki_pos - ret, iocb->ki_pos - 1, datasync);
	return err ? err : ret;
}

int iomap_sync_range(struct iomap_file *file, int64_t start, int64_t end, unsigned flags)
{
	struct iomap_address_space *mapping = &file->inode->i_data;
	int err = 0, recorded = 0;

	iomap__file_check(file);
	if (start < 0 || end < start || flags & ~SYNC_RANGE_FLAGS)
		return -EINVAL;
	if (iomap__engine_closed(file->inode->i_engine))
		return iomap__engine_refusal(file->inode->i_engine);
	if (flags & IOMAP_SYNC_WAIT_BEFORE)
		(void)iomap__filemap_wait_range(mapping, start, end);
	if (flags & IOMAP_SYNC_WRITE) {
		/* Only all three together ask that nothing be left out. */
		enum iomap_writeback_sync_modes mode =
			flags == SYNC_RANGE_FLAGS ? IOMAP_WB_SYNC_ALL : IOMAP_WB_SYNC_NONE;

		err = iomap__filemap_write_range(mapping, start, end, mode, NULL);
	}
	if (flags & IOMAP_SYNC_WAIT_AFTER)
		(void)iomap__filemap_wait_range(mapping, start, end);
	if (flags & (IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WAIT_AFTER)) {
		iomap__mutex_lock(&file->lock);
		recorded = iomap__errseq_check(&mapping->wb_err, file->wb_err);
		iomap__mutex_unlock(&file->lock);
	}
	return sync_data_error(err, recorded);
}

static void sync_first(int *first, int err)
{
	if (err && !*first)
		*first = err;
}

static int sync_engine_error(struct iomap_engine *engine)
{
	int err;

	iomap__word_lock(&engine->sync_lock, IOMAP__RANK_ENGINE);
	err = iomap__errseq_check_and_advance(&engine->wb_err, &engine->sync_err);
	iomap__word_unlock(&engine->sync_lock);
	return err;
}

int iomap_sync_engine(struct iomap_engine *engine)
{
	struct iomap__inode_walk first = { .engine = engine }, second = { .engine = engine };
	struct iomap_inode *inode;
	int data_err = 0, err = 0;

	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	/* Get all devices busy first.  What this leaves out the second round writes. */
	while ((inode = iomap__inode_walk_next(&first)))
		(void)iomap__filemap_write_range(&inode->i_data, 0, INT64_MAX, IOMAP_WB_SYNC_NONE,
						 NULL);
	while ((inode = iomap__inode_walk_next(&second))) {
		sync_first(&data_err, iomap__sync_write_wait(inode, 0, INT64_MAX));
		sync_first(&err, iomap__min(sync_commit(inode, 0), 0));
	}
	data_err = sync_data_error(data_err, sync_engine_error(engine));
	/* all devices: an inode that has been destroyed since has left its data in one of them */
	sync_first(&err, iomap__bdevs_flush(engine, UINT64_MAX, 0));
	return data_err ? data_err : err;
}
