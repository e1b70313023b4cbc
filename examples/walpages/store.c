/* SPDX-License-Identifier: MIT */
/*
 * store.c - format, open, checkpoint, close.
 *
 * A checkpoint is fuzzy: transactions go on meanwhile.
 *
 *	1. Between two transactions (apply_lock) a new generation begins, and a new batch in the
 *	   log, at `redo`.  From now on the first change of each page is logged as an image.
 *	2. What became dirty in an earlier generation is written, as are younger pages that
 *	   come along.  One that stays behind, since it was changed again and its record is not
 *	   durable, is locked for the time of a flush of the log and its own write.
 *	3. Flush, then a super block with `redo` in it.  The log before that is free.
 *
 * The two super blocks are written in turns, so one of them is always whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "internal.h"

#define MAGIC UINT64_C(0x31736567617077) /* "wpages1" */
#define LOG_AT (2 * (uint64_t)WP_BLOCK_BYTES)
#define PAGE_BITS 13

_Static_assert(1U << PAGE_BITS == WP_PAGE_BYTES, "one number, said twice");

static void keep_first(int *error, int next)
{
	if (!*error)
		*error = next;
}

/* ---- super blocks ---- */

static uint64_t super_checksum(const struct wp_super *super)
{
	return XXH3_64bits(&super->magic, sizeof(*super) - offsetof(struct wp_super, magic));
}

/* Durable when it returns, and so is what was written before. */
static int super_write(struct iomap_bdev *bdev, struct wp_super *super)
{
	void *block = aligned_alloc(WP_BLOCK_BYTES, WP_BLOCK_BYTES);
	int error;

	if (!block)
		return -ENOMEM;
	super->sequence++;
	super->checksum = super_checksum(super);
	memset(block, 0, WP_BLOCK_BYTES);
	memcpy(block, super, sizeof(*super));
	error = wp_device_io(bdev,
			     IOMAP_REQ_OP_WRITE | IOMAP_REQ_SYNC | IOMAP_REQ_META |
				     IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA,
			     super->sequence % 2 * WP_BLOCK_BYTES, block, WP_BLOCK_BYTES);
	free(block);
	return error;
}

/* The newer of the two. */
static int super_read(struct iomap_bdev *bdev, struct wp_super *out)
{
	void *block = aligned_alloc(WP_BLOCK_BYTES, WP_BLOCK_BYTES);
	const struct wp_super *super = block;
	int error = block ? 0 : -ENOMEM;

	memset(out, 0, sizeof(*out));
	for (uint64_t slot = 0; slot < 2 && !error; slot++) {
		error = wp_device_io(bdev, IOMAP_REQ_OP_READ, slot * WP_BLOCK_BYTES, block,
				     WP_BLOCK_BYTES);
		if (!error && super->magic == MAGIC && super->checksum == super_checksum(super) &&
		    super->sequence > out->sequence)
			*out = *super;
	}
	free(block);
	if (!error && (!out->sequence || wp_store_bytes(out->pages_nr, out->log_bytes) >
						 iomap_bdev_bytes(bdev)))
		error = -EBADMSG;
	return error;
}

/* ---- format ---- */

uint64_t wp_store_bytes(uint64_t pages_nr, uint64_t log_bytes)
{
	return LOG_AT + log_bytes + pages_nr * WP_PAGE_BYTES;
}

static int format_pages(struct iomap_bdev *bdev, uint64_t at, uint64_t pages_nr,
			void (*fill)(uint64_t number, void *payload), struct wp_page *page)
{
	int error = 0;

	for (uint64_t number = 0; number < pages_nr && !error; number++) {
		memset(page, 0, sizeof(*page));
		page->number = number;
		fill(number, page->payload);
		wp_page_seal(page, 0);
		error = wp_device_io(bdev, IOMAP_REQ_OP_WRITE, at + number * sizeof(*page), page,
				     sizeof(*page));
	}
	return error;
}

/*
 * Everything is written, zeros too: then writing it again needs no space and no metadata of
 * a file system below, and nothing that was there before is taken for a log.
 */
int wp_format(struct iomap_bdev *bdev, uint64_t pages_nr, uint64_t log_bytes, uint64_t id,
	      void (*fill)(uint64_t number, void *payload))
{
	struct wp_super super = {
		.magic = MAGIC, .id = id, .pages_nr = pages_nr, .log_bytes = log_bytes
	};
	struct wp_page *page;
	int error = 0;

	if (!pages_nr || log_bytes < WP_LOG_BYTES_MIN || log_bytes % WP_PAGE_BYTES ||
	    log_bytes > INT64_MAX / 4 || pages_nr > INT64_MAX / 4 / WP_PAGE_BYTES)
		return -EINVAL;
	if (wp_store_bytes(pages_nr, log_bytes) > iomap_bdev_bytes(bdev))
		return -ENOSPC;
	page = aligned_alloc(WP_BLOCK_BYTES, sizeof(*page));
	if (!page)
		return -ENOMEM;
	memset(page, 0, sizeof(*page));
	/* the super blocks first: half a store is none */
	for (uint64_t at = 0; at < LOG_AT + log_bytes && !error; at += sizeof(*page))
		error = wp_device_io(bdev,
				     IOMAP_REQ_OP_WRITE | (at ? 0 : IOMAP_REQ_FUA), at, page,
				     sizeof(*page));
	if (!error)
		error = format_pages(bdev, LOG_AT + log_bytes, pages_nr, fill, page);
	free(page);
	return error ? error : super_write(bdev, &super);
}

/* ---- checkpoint ---- */

static bool is_older(struct wp_store *store, uint64_t number, uint32_t generation)
{
	uint32_t dirtied = atomic_load(&store->dirtied[number]);

	return dirtied && dirtied < generation;
}

/*
 * Write a page that others change all the time: not while this goes on.  Of a store that has failed
 * none is: a page that could not be put into the cache stays as old as it is for ever.
 */
static int write_page(struct wp_store *store, uint64_t number)
{
	pthread_mutex_t *lock = &store->page_locks[number % WP_LOCKS];
	int64_t pos = (int64_t)(number * WP_PAGE_BYTES);
	int error;

	pthread_mutex_lock(lock);
	error = wp_log_flush(&store->log, UINT64_MAX);
	if (!error)
		error = atomic_load(&store->log.error);
	if (!error)
		error = iomap_sync_range(store->pages.file, pos, pos + WP_PAGE_BYTES,
					 IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE |
						 IOMAP_SYNC_WAIT_AFTER);
	pthread_mutex_unlock(lock);
	return error;
}

static int write_older(struct wp_store *store, uint32_t generation)
{
	int error = wp_log_flush(&store->log, UINT64_MAX);

	if (!error)
		error = iomap_sync_range(store->pages.file, 0, INT64_MAX, IOMAP_SYNC_WRITE);
	for (uint64_t number = 0; number < store->super.pages_nr && !error; number++)
		while (!error && is_older(store, number, generation))
			error = write_page(store, number);
	if (!error)
		error = iomap_sync_range(store->pages.file, 0, INT64_MAX, IOMAP_SYNC_WAIT_BEFORE);
	/* the log has what is missing, of a page not written or of half a transaction */
	if (!error)
		error = atomic_load(&store->log.error);
	return error;
}

static int checkpoint(struct wp_store *store)
{
	uint32_t generation;
	int error;

	pthread_rwlock_wrlock(&store->apply_lock);
	generation = ++store->generation;
	store->redo = wp_log_seal(&store->log);
	store->super.redo = store->redo;
	pthread_rwlock_unlock(&store->apply_lock);
	error = write_older(store, generation);
	if (!error)
		error = super_write(store->bdev, &store->super);
	if (error) {
		wp_log_fail(&store->log, error);
		return error;
	}
	wp_log_free(&store->log, store->super.redo);
	atomic_fetch_add(&store->checkpoints_nr, 1);
	return 0;
}

int wp_checkpoint(struct wp_store *store)
{
	int error;

	pthread_mutex_lock(&store->checkpoint_lock);
	error = atomic_load(&store->log.error);
	if (!error)
		error = checkpoint(store);
	pthread_mutex_unlock(&store->checkpoint_lock);
	return error;
}

int wp_make_room(struct wp_store *store)
{
	int error = 0;

	if (!wp_log_is_half_full(&store->log) || pthread_mutex_trylock(&store->checkpoint_lock))
		return 0;
	/* somebody else may have done so just now */
	if (wp_log_is_half_full(&store->log))
		error = checkpoint(store);
	pthread_mutex_unlock(&store->checkpoint_lock);
	return error;
}

/* ---- open and close ---- */

static void locks_init(struct wp_store *store)
{
	pthread_rwlockattr_t attr;

	pthread_mutex_init(&store->checkpoint_lock, NULL);
	for (unsigned i = 0; i < WP_LOCKS; i++)
		pthread_mutex_init(&store->page_locks[i], NULL);
	/* or a checkpoint might wait for as long as there are transactions */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&store->apply_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

static void store_free(struct wp_store *store)
{
	pthread_rwlock_destroy(&store->apply_lock);
	for (unsigned i = 0; i < WP_LOCKS; i++)
		pthread_mutex_destroy(&store->page_locks[i]);
	pthread_mutex_destroy(&store->checkpoint_lock);
	wp_log_exit(&store->log);
	free(store->dirtied);
	free(store);
}

static int regions_open(struct wp_store *store)
{
	struct wp_region_args log = {
		.bdev = store->bdev,
		.start = LOG_AT,
		.bytes = store->super.log_bytes,
		.blkbits = 12,
		.lock_class = 1,
		.a_ops = &wp_plain_a_ops,
	};
	struct wp_region_args pages = {
		.bdev = store->bdev,
		.start = LOG_AT + store->super.log_bytes,
		.bytes = store->super.pages_nr * WP_PAGE_BYTES,
		.blkbits = PAGE_BITS,
		.a_ops = &wp_page_a_ops,
		.owner = store,
	};
	int error = wp_region_open(store->engine, &store->log.region, &log);

	if (error)
		return error;
	error = wp_region_open(store->engine, &store->pages, &pages);
	if (error)
		keep_first(&error, wp_region_close(&store->log.region));
	else
		iomap_mapping_set_stable_writes(store->pages.inode.i_mapping);
	return error;
}

static int regions_close(struct wp_store *store)
{
	int error;

	/* held back pages have asked for it, and it looks at their inode */
	iomap_flush_work(store->engine, &store->flush_log);
	error = wp_region_close(&store->pages);
	keep_first(&error, wp_region_close(&store->log.region));
	return error;
}

/*
 * Redo, and begin a new epoch behind it.  The log goes on where it ended; all before is
 * in the pages, once they are durable together with the super block that says so.
 */
static int recover(struct wp_store *store)
{
	int error = wp_recover(store);

	if (error)
		return error;
	error = iomap_fsync(store->pages.file, 0, INT64_MAX, 1);
	if (error)
		return error;
	store->super.epoch++;
	store->super.redo = store->redo = store->redone_end;
	error = super_write(store->bdev, &store->super);
	wp_log_begin(&store->log, store->super.epoch, store->redo);
	return error;
}

static int store_new(struct iomap_engine *engine, struct iomap_bdev *bdev,
		     const struct wp_super *super, struct wp_store **out)
{
	struct wp_store *store = calloc(1, sizeof(*store));
	int error;

	if (!store)
		return -ENOMEM;
	locks_init(store);
	store->engine = engine;
	store->bdev = bdev;
	store->super = *super;
	store->generation = 1;
	iomap_init_work(&store->flush_log, wp_flush_log_work);
	store->dirtied = calloc(super->pages_nr, sizeof(*store->dirtied));
	error = wp_log_init(&store->log, super->log_bytes, super->id);
	if (!store->dirtied)
		keep_first(&error, -ENOMEM);
	wp_log_begin(&store->log, super->epoch, super->redo);
	if (error)
		store_free(store);
	else
		*out = store;
	return error;
}

int wp_open(struct iomap_engine *engine, struct iomap_bdev *bdev,
	    const struct iomap_writeback_ops *order, struct wp_store **out)
{
	struct wp_super super;
	struct wp_store *store;
	int error = super_read(bdev, &super);

	if (error)
		return error;
	error = store_new(engine, bdev, &super, &store);
	if (error)
		return error;
	store->order = order;
	error = regions_open(store);
	if (error) {
		store_free(store);
		return error;
	}
	error = recover(store);
	if (!error) {
		*out = store;
		return 0;
	}
	keep_first(&error, regions_close(store));
	store_free(store);
	return error;
}

int wp_close(struct wp_store *store)
{
	int error = wp_checkpoint(store);

	keep_first(&error, regions_close(store));
	store_free(store);
	return error;
}

void wp_stats(struct wp_store *store, struct wp_stats *out)
{
	struct wp_log *log = &store->log;

	*out = (struct wp_stats){
		.pages_nr = store->super.pages_nr,
		.log_bytes = store->super.log_bytes,
		.data_start = store->pages.start,
		.redone_nr = store->redone_nr,
		.redone_end = store->redone_end,
		.committed_nr = atomic_load(&store->committed_nr),
		.durable = atomic_load(&log->flushed),
		.checkpoints_nr = atomic_load(&store->checkpoints_nr),
		.images_nr = atomic_load(&store->images_nr),
	};
	pthread_mutex_lock(&log->lock);
	out->flushes_nr = log->flushes_nr;
	out->flushed_bytes = log->flushed_bytes;
	pthread_mutex_unlock(&log->lock);
}
