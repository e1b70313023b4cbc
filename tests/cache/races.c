/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * races.c - interleavings of threads that a run hits once in a million times, made to
 * happen: a test takes the place of one of the threads, or holds it in a callback.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "cache/internal.h"
#include "teststore.h"

#define KIB 1024

/* ---- folios ---- */

static long read_first_page(void *arg)
{
	return ts_reads(arg, 0, 4 * KIB, 1);
}

/*
 * Somebody who tries to evict takes the lock of a folio that is being freed and used again:
 * here of every free one.
 */
Test(races, en01_a_late_evictor_holds_the_lock_of_a_new_folio)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .threads = true });
	struct iomap__cache *cache = ts->engine->cache;
	struct t_task task;

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 4 * KIB, 0, 1);
	for (uint64_t page = 0; page < cache->nr_pages; page++)
		atomic_fetch_or(&cache->folios[page].lock, IOMAP__FOLIO_LOCKED);
	t_start(&task, read_first_page, ts);
	/* it has taken a folio and waits for its lock */
	while (atomic_load(&cache->nr_free) == cache->nr_pages)
		sched_yield();
	for (uint64_t page = 0; page < cache->nr_pages; page++) {
		uint64_t old = atomic_fetch_and(&cache->folios[page].lock,
						~(uint64_t)(IOMAP__FOLIO_LOCKED |
							    IOMAP__FOLIO_WAITERS));

		if (old & IOMAP__FOLIO_WAITERS)
			iomap__io_wake(ts->engine->blk,
				       iomap__folio_lock_key(&cache->folios[page]));
	}
	cr_assert_eq(t_join(&task), 1);
	ts_close(ts);
}

/* A writer holds its folio by the word that others wait on. */
struct awaited {
	struct iomap_folio *folio;
	atomic_bool locked;
};

static bool valid_when_awaited(struct ts *ts, const struct iomap *iomap)
{
	struct awaited *awaited = ts->hook.arg;

	(void)iomap;
	atomic_store(&awaited->locked, true);
	while (!(atomic_load(&awaited->folio->lock) & IOMAP__FOLIO_WAITERS))
		sched_yield();
	return true;
}

static long wait_for_folio(void *arg)
{
	struct awaited *awaited = arg;

	while (!atomic_load(&awaited->locked))
		sched_yield();
	iomap_folio_lock(awaited->folio);
	iomap_folio_unlock(awaited->folio);
	return 0;
}

Test(races, bw08_an_overwrite_wakes_who_came_to_wait_for_its_folio)
{
	struct ts *ts = calloc(1, sizeof(*ts));
	struct awaited awaited = { .locked = false };
	struct t_task task;
	uint64_t version;

	cr_assert_not_null(ts);
	ts_prepare(ts, &(struct ts_config){ .i_size = 4 * KIB, .with_write_ops = true });
	ts->write_ops.get_folio = NULL;
	ts->write_ops.put_folio = NULL;
	ts_begin(ts);
	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(ts, 0, 4 * KIB, 1);
	awaited.folio = ts_folio(ts, 0);
	version = atomic_load(&awaited.folio->lock);
	ts->hook.arg = &awaited;
	ts->hook.valid = valid_when_awaited;
	t_start(&task, wait_for_folio, &awaited);
	ts_write(ts, 100, 100, 2);
	t_join(&task);
	cr_assert_gt(atomic_load(&awaited.folio->lock), version, "readers saw the change");
	cr_assert_eq(atomic_load(&awaited.folio->lock) % IOMAP__FOLIO_VERSION, 0U, "it is free");
	iomap_folio_put(awaited.folio);
	ts->hook.valid = NULL;
	cr_assert(ts_reads(ts, 100, 100, 2));
	ts_close(ts);
}

/*
 * A folio that has become another's while an overwrite was on its way from the index to the
 * lock.  Here it is another's for as long as the index still says otherwise.
 */
struct overwrite {
	struct ts *ts;
	unsigned seed;
};

static long overwrite_page(void *arg)
{
	struct overwrite *o = arg;

	ts_write(o->ts, 0, 4 * KIB, o->seed);
	return 0;
}

Test(races, bw08_an_overwrite_leaves_a_folio_alone_that_is_anothers_by_now)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });
	struct overwrite o = { .ts = ts, .seed = 2 };
	struct iomap_address_space other = ts->inode.i_data;
	struct iomap_folio *folio;
	struct t_task task;
	uint64_t version;
	char buf[4 * KIB];

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(ts, 0, 4 * KIB, 1);
	folio = ts_folio(ts, 0);
	version = atomic_load(&folio->lock);
	atomic_store(&folio->mapping, &other);
	t_start(&task, overwrite_page, &o);
	/* it has had the lock, and given it back */
	while (atomic_load(&folio->lock) < version + IOMAP__FOLIO_VERSION)
		sched_yield();
	memcpy(buf, iomap_folio_address(folio), sizeof(buf));
	cr_assert_eq(t_mismatch(buf, sizeof(buf), 0, 1), -1);
	atomic_store(&folio->mapping, &ts->inode.i_data);
	t_join(&task);
	iomap_folio_put(folio);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 2));
	ts_close(ts);
}

/* A look-up in another address space has a reference for a moment; read sections end it. */
struct stray {
	struct iomap_folio *folio;
	atomic_int step;
};

static long stray_look_up(void *arg)
{
	struct stray *stray = arg;
	struct iomap__thread *self = iomap__epoch_enter();

	t_must(iomap__folio_tryget(stray->folio));
	atomic_store(&stray->step, 1);
	/* the destroyer has begun to wait for read sections */
	while (atomic_load(&iomap__epoch_global) == atomic_load(&self->epoch))
		sched_yield();
	iomap_folio_put(stray->folio);
	iomap__epoch_exit(self);
	return 0;
}

Test(races, en02_a_stray_reference_does_not_make_the_inode_busy)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });
	struct stray stray = { .step = 0 };
	struct t_task task;

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	cr_assert(ts_reads_all(ts, 0, 4 * KIB, 0));
	stray.folio = ts_folio(ts, 0);
	iomap_folio_put(stray.folio);
	t_start(&task, stray_look_up, &stray);
	while (!atomic_load(&stray.step))
		sched_yield();
	ts_close(ts); /* destroys the inode */
	t_join(&task);
}

/* ---- what was read ahead ---- */

/* A file of which a folio waits to be asked for; its first byte. */
static struct ts *read_ahead(int64_t *pos, unsigned order)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 2 * KIB * KIB });
	struct iomap_folio *folio = NULL;

	ts_map(ts, 0, 2 * KIB * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 2 * KIB * KIB, 0, 1);
	if (order)
		cr_assert_eq(iomap_mapping_set_large_folios(&ts->inode.i_data), 0);
	for (*pos = 0; *pos < 256 * KIB; *pos += 16 * KIB)
		cr_assert(ts_reads(ts, *pos, 16 * KIB, 1));
	for (*pos = 0; *pos < 2 * KIB * KIB; *pos += 4 * KIB) {
		folio = iomap__filemap_get(&ts->inode.i_data, (uint64_t)*pos / (4 * KIB));
		if (folio && folio->order == order &&
		    iomap__folio_test(folio, IOMAP__FOLIO_RA_UNUSED))
			break;
		if (folio)
			iomap_folio_put(folio);
	}
	cr_assert(folio);
	/* it has been read */
	iomap_folio_lock(folio);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	return ts;
}

static struct iomap_folio *look_at(struct ts *ts, int64_t pos)
{
	struct iomap_folio *folio = ts_folio(ts, pos);

	iomap_folio_put(folio);
	return folio;
}

/* A reader has copied from the folio without a reference, and comes to tell of it only now. */
static void tell_late(struct ts *ts, struct iomap_folio *folio, int64_t pos)
{
	int64_t before = atomic_load(&ts->engine->cache->ra_unused);

	/* NOWAIT: a mark in it is left alone */
	iomap__filemap_used(ts->file, folio, pos, IOMAP_NOWAIT);
	cr_assert_eq(atomic_load(&ts->engine->cache->ra_unused), before);
	iomap__filemap_truncate_range(&ts->inode.i_data, 0, INT64_MAX);
	cr_assert_eq(atomic_load(&ts->engine->cache->ra_unused), 0);
	ts_close(ts);
}

Test(races, ra05_what_was_evicted_unused_is_not_counted_as_used_as_well)
{
	int64_t pos;
	struct ts *ts = read_ahead(&pos, 0);
	struct iomap_folio *folio = look_at(ts, pos);

	cr_assert(iomap__folio_evict(folio));
	tell_late(ts, folio, pos);
	/* and of one that was truncated, a reader with a reference */
	ts = read_ahead(&pos, 0);
	folio = ts_folio(ts, pos);
	iomap__filemap_truncate_range(&ts->inode.i_data, pos, pos + 4 * KIB);
	iomap__filemap_used(ts->file, folio, pos, IOMAP_NOWAIT);
	iomap_folio_put(folio);
	tell_late(ts, folio, pos);
}

Test(races, ra05_what_has_moved_unused_is_counted_where_it_is)
{
	int64_t pos;
	struct ts *ts = read_ahead(&pos, 0);
	struct iomap_folio *folio = look_at(ts, pos);

	/* or it would be evicted */
	iomap__folio_set(folio, IOMAP__FOLIO_ACCESSED);
	cr_assert(iomap__folio_send_away(folio));
	cr_assert(look_at(ts, pos) != folio);
	cr_assert(iomap__folio_test(look_at(ts, pos), IOMAP__FOLIO_RA_UNUSED));
	tell_late(ts, folio, pos);
}

Test(races, ra05_what_is_taken_apart_unused_is_counted_once)
{
	int64_t pos;
	struct ts *ts = read_ahead(&pos, 4);
	struct iomap_folio *folio = look_at(ts, pos);

	iomap__filemap_truncate_range(&ts->inode.i_data, pos, pos + 32 * KIB);
	cr_assert(iomap__folio_test(look_at(ts, pos + 32 * KIB), IOMAP__FOLIO_RA_UNUSED));
	tell_late(ts, folio, pos);
	/* what stays goes on waiting, each piece for itself */
	ts = read_ahead(&pos, 4);
	folio = look_at(ts, pos);
	iomap__filemap_truncate_range(&ts->inode.i_data, pos + 32 * KIB, pos + 64 * KIB);
	cr_assert_eq(look_at(ts, pos), folio);
	cr_assert(iomap__folio_test(folio, IOMAP__FOLIO_RA_UNUSED));
	iomap__filemap_used(ts->file, folio, pos, IOMAP_NOWAIT);
	tell_late(ts, folio, pos);
}

/* ---- inodes ---- */

static ssize_t defer_once_dying(struct ts *ts, struct iomap_writepage_ctx *wpc,
				struct iomap_folio *folio, uint64_t pos, unsigned len,
				uint64_t end_pos)
{
	(void)wpc;
	(void)folio;
	(void)pos;
	(void)len;
	(void)end_pos;
	atomic_store((atomic_int *)ts->hook.arg, 1);
	while (!(iomap__load_acquire(&ts->inode.i_state) & IOMAP__I_DYING))
		sched_yield();
	/* and off the list, which comes next */
	while (iomap__load(&ts->inode.i_state) & IOMAP__I_DIRTY_LISTED)
		sched_yield();
	return IOMAP_WB_DEFER;
}

/* The flusher makes a folio dirty again while the inode goes. */
Test(races, wb06_an_inode_that_goes_does_not_come_back_to_the_dirty_list)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .threads = true });
	struct iomap__cache *cache = ts->engine->cache;
	atomic_int writing = 0;

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts->hook.range = defer_once_dying;
	ts->hook.arg = &writing;
	ts_write(ts, 0, 4 * KIB, 1);
	iomap_writeback_resume(&ts->inode); /* makes the flusher write it */
	while (!atomic_load(&writing))
		sched_yield();
	cr_assert_eq(iomap_file_close(ts->file), 0);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_DISCARD), 0);
	iomap__mutex_lock(&cache->dirty_lock);
	cr_assert(iomap__list_empty(&cache->dirty_inodes));
	iomap__mutex_unlock(&cache->dirty_lock);
	/* ts_close() wants both */
	cr_assert_eq(iomap_inode_init(ts->engine, &ts->inode, &ts->args), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &ts->file), 0);
	ts_close(ts);
}

/* ---- data that is held back ---- */

static ssize_t defer_all(struct ts *ts, struct iomap_writepage_ctx *wpc,
			 struct iomap_folio *folio, uint64_t pos, unsigned len, uint64_t end_pos)
{
	(void)ts;
	(void)wpc;
	(void)folio;
	(void)pos;
	(void)len;
	(void)end_pos;
	return IOMAP_WB_DEFER;
}

/* Whoever writes until there is less comes to an end though it never gets less. */
Test(races, wb06_held_back_data_is_no_progress)
{
	struct iomap_engine_opts opts;
	struct iomap__cache *cache;
	uint32_t seq;
	struct ts *ts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1024 * KIB;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	ts = ts_open(&(struct ts_config){ .i_size = 1024 * KIB, .opts = &opts });
	cache = ts->engine->cache;
	ts_map(ts, 0, 1024 * KIB, IOMAP_MAPPED, 0, 0);
	ts->hook.range = defer_all;
	/* one page more than writers may have: the last one waits for a while */
	ts_write(ts, 0, (cache->hard_pages + 1) * 4 * KIB, 1);
	seq = iomap__load(&cache->wb_seq);
	cr_assert_eq(iomap__flush_some(cache, 0, 10), 0U);
	cr_assert_eq(iomap__load(&cache->wb_seq), seq);
	ts->hook.range = NULL;
	cr_assert_eq(iomap__flush_some(cache, 0, 10), 10U);
	cr_assert_eq(ts_fsync(ts), 0);
	cr_assert(ts_dev_has(ts, 0, (cache->hard_pages + 1) * 4 * KIB, 0, 1));
	ts_close(ts);
}

/* One that may go is written next, whoever else is dirty. */
Test(races, wb06_a_resumed_inode_is_written_before_older_ones)
{
	struct iomap_engine_opts opts;
	struct ts *first, *second;

	iomap_engine_opts_init(&opts);
	opts.flush_interval_ms = 3600 * 1000;
	opts.dirty_expire_ms = 3600 * 1000;
	first = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .opts = &opts });
	second = ts_open(&(struct ts_config){ .i_size = 4 * KIB, .engine = first->engine });
	ts_map(first, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_map(second, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	/* of a clean inode this is not remembered to anybody's harm */
	iomap_writeback_resume(&second->inode);
	ts_write(first, 0, 4 * KIB, 1);
	ts_write(second, 0, 4 * KIB, 2);
	iomap_writeback_resume(&second->inode);
	td_wait_completed(second->dev, TD_WRITE, 1);
	cr_assert(ts_dev_has(second, 0, 4 * KIB, 0, 2));
	cr_assert_eq(td_count(first->dev, TD_WRITE), 0U);
	ts_close(second);
	ts_close(first);
}

/* ---- writing for others ---- */

/* Whoever needs memory may hold folio locks, and be inside a callback of a lower class. */
Test(races, lk03_writing_for_memory_passes_by_locks_and_lower_classes)
{
	struct ts *data = ts_open(&(struct ts_config){ .i_size = 8 * KIB });
	struct ts *meta = ts_open(&(struct ts_config){ .i_size = 8 * KIB, .engine = data->engine,
						       .lock_class = 1 });
	struct iomap__cache *cache = data->engine->cache;
	struct iomap_folio *folio;

	ts_map(data, 0, 8 * KIB, IOMAP_MAPPED, 0, 0);
	ts_map(meta, 0, 8 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(data, 0, 8 * KIB, 1);
	ts_write(meta, 0, 8 * KIB, 2);
	folio = ts_folio(meta, 0);
	iomap_folio_lock(folio);
	cr_assert_eq(iomap__flush_some(cache, 1, 100), 1U);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	cr_assert_eq(ts_calls(data, TS_RANGE), 0U);
	cr_assert_eq(iomap__flush_some(cache, 1, 100), 1U);
	cr_assert_eq(iomap__flush_some(cache, 1, 100), 0U);
	cr_assert_eq(iomap__flush_some(cache, 0, 100), 2U);
	ts_close(meta);
	ts_close(data);
}

/* ---- the end of a device, and of its engine ---- */

struct late {
	struct iomap_bio *bio;
	atomic_int in_end_io, closing;
};

static void late_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct late *late = iomap_bdev_private(bdev);

	late->bio = bio;
}

/* The I/O no longer counts as in flight, but its completion is not over. */
static void late_end_io(struct iomap_bio *bio)
{
	struct late *late = bio->bi_private;

	atomic_store(&late->in_end_io, 1);
	while (!atomic_load(&late->closing))
		sched_yield();
	for (int i = 0; i < 1000; i++)
		sched_yield();
	iomap_bio_put(bio);
}

static long late_device(void *arg)
{
	struct late *late = arg;

	iomap_bio_endio(late->bio);
	return 0;
}

static const struct iomap_bdev_ops late_ops = { .submit_bio = late_submit };

Test(races, en01_close_waits_for_completions_that_are_giving_back)
{
	struct late late = { .in_end_io = 0 };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct t_task task;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1024 * KIB;
	cr_assert_eq(iomap_engine_create(&opts, &engine), 0);
	cr_assert_eq(iomap_bdev_create(engine, &late_ops, 4 * KIB, NULL, &late, &bdev), 0);
	bio = iomap_bio_alloc(bdev, 0, IOMAP_REQ_OP_FLUSH, NULL);
	bio->bi_end_io = late_end_io;
	bio->bi_private = &late;
	iomap_submit_bio(bio);
	t_start(&task, late_device, &late);
	while (!atomic_load(&late.in_end_io))
		sched_yield();
	atomic_store(&late.closing, 1);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	t_join(&task);
}

/* ---- devices ---- */

/* Its data is on the device, but not for sure. */
Test(races, fy03_sync_engine_flushes_for_an_inode_that_is_gone)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 4 * KIB });

	ts_map(ts, 0, 4 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(ts, 0, 4 * KIB, 1);
	cr_assert_eq(iomap_file_close(ts->file), 0);
	cr_assert_eq(iomap_inode_destroy(&ts->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 0U);
	cr_assert_eq(iomap_sync_engine(ts->engine), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U);
	cr_assert_eq(iomap_sync_engine(ts->engine), 0);
	cr_assert_eq(td_count(ts->dev, TD_FLUSH), 1U, "nothing was written since");
	/* ts_close() wants both */
	cr_assert_eq(iomap_inode_init(ts->engine, &ts->inode, &ts->args), 0);
	cr_assert_eq(iomap_file_open(&ts->inode, 0, &ts->file), 0);
	ts_close(ts);
}

/* A read that nobody waits for does not stay in a plug of whoever called. */
Test(races, ra06_readahead_leaves_no_locked_folio_in_a_plug)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 256 * KIB });
	struct iomap_plug plug;
	size_t nr;

	ts_map(ts, 0, 256 * KIB, IOMAP_MAPPED, 0, 0);
	ts_dev_fill(ts, 0, 256 * KIB, 0, 1);
	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	nr = td_count(ts->dev, TD_READ);
	iomap_start_plug(&plug);
	/* until a hit on a mark starts the next window */
	for (int64_t pos = 4 * KIB; pos < 16 * KIB; pos += 4 * KIB)
		cr_assert(ts_reads(ts, pos, 4 * KIB, 1));
	cr_assert_gt(td_count(ts->dev, TD_READ), nr);
	iomap_finish_plug(&plug);
	ts_close(ts);
}

/* ---- hits ---- */

/* As a read copies, out of the folio of a slot; 0: it would look elsewhere. */
static size_t slot_copy(const struct iomap_file *file, uintptr_t entry, void *to, size_t n,
			int64_t pos)
{
	return iomap__hit_fits(entry, n, pos) &&
			       iomap__hit_copy(file, entry, to, iomap__hit_address(file, entry, pos), n,
					       pos)
		       ? n
		       : 0;
}

/*
 * What a walk that has lost its way may come back with is refused: here a test plays the walk.
 * Each case is a slot as it was a moment ago.
 */
Test(races, ca01_a_slot_that_is_out_of_date_is_no_hit)
{
	struct ts *a = ts_open(&(struct ts_config){ .i_size = 64 * KIB });
	struct ts *b = ts_open(&(struct ts_config){ .i_size = 64 * KIB, .engine = a->engine,
						    .dev = a->dev });
	struct iomap_folio *folio;
	uintptr_t entry, other;
	char buf[64];

	cr_assert(ts_reads_all(a, 0, 64 * KIB, 0));
	cr_assert(ts_reads_all(b, 0, 64 * KIB, 0));
	cr_assert(ts_reads_all(b, 0, 64 * KIB, 0)); /* marks of readahead are gone */
	entry = iomap__index_hint(&b->inode.i_data, 1);
	other = iomap__index_hint(&a->inode.i_data, 1);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB + 100), 64U);
	cr_assert_eq(slot_copy(b->file, entry, buf, 0, 4 * KIB), 0U, "nothing");
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 8 * KIB - 63), 0U, "two folios");
	cr_assert_eq(slot_copy(b->file, other, buf, 64, 4 * KIB), 0U, "another file");
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 8 * KIB), 0U, "another page");
	other = iomap__index_hint(&b->inode.i_data, 2);
	cr_assert_eq(slot_copy(b->file, other, buf, 64, 8 * KIB), 64U);
	cr_assert_eq(slot_copy(b->file, other | 1, buf, 64, 8 * KIB), 0U, "another order");

	folio = iomap__filemap_get(&b->inode.i_data, 1);
	iomap_folio_lock(folio);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 64U, "locked is no matter");
	iomap__folio_begin_change(folio);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 0U, "changing");
	iomap__folio_end_change(folio);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 64U);
	atomic_fetch_and(&folio->flags, ~IOMAP__FOLIO_UPTODATE);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 0U, "not uptodate");
	atomic_fetch_or(&folio->flags, IOMAP__FOLIO_UPTODATE);
	iomap__filemap_remove(&b->inode.i_data, folio);
	iomap_folio_unlock(folio);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 0U, "truncated");
	iomap_folio_put(folio);
	cr_assert_eq(slot_copy(b->file, entry, buf, 64, 4 * KIB), 0U, "free");
	ts_close(b);
	ts_close(a);
}

/* The slot of a page in a tree of one node. */
static _Atomic(uintptr_t) *only_slot(const struct iomap_address_space *mapping, unsigned page)
{
	cr_assert_eq(mapping->tree_root & IOMAP__ROOT_HEIGHT, 1);
	return (_Atomic(uintptr_t) *)(uintptr_t)(mapping->tree_root - 1) + page;
}

/* The same for a pin and an overwrite: the slot has the order of a folio that was there before. */
Test(races, ca03_ca01_the_folio_tells_how_large_it_is_and_not_its_slot)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = 64 * KIB });
	_Atomic(uintptr_t) *slot;
	struct iomap_pin pin;

	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(ts, 0, 64 * KIB, 1);
	cr_assert(ts_reads(ts, 0, 64 * KIB, 1)); /* once is no plain hit yet */
	slot = only_slot(&ts->inode.i_data, 1);
	atomic_fetch_or(slot, 1);
	cr_assert_eq(iomap_folio_pin(ts->file, 4 * KIB + 100, 0, &pin), 0);
	cr_assert_eq(pin.len, 4 * KIB - 100U);
	cr_assert_eq(pin.addr, (char *)iomap_folio_address(pin.folio) + 100);
	iomap_folio_unpin(&pin);
	ts_write(ts, 4 * KIB + 100, 64, 2);
	atomic_fetch_and(slot, ~(uintptr_t)1);
	cr_assert(ts_reads(ts, 4 * KIB + 100, 64, 2));
	cr_assert(ts_reads(ts, 0, 4 * KIB + 100, 1));
	cr_assert(ts_reads(ts, 4 * KIB + 164, 60 * KIB - 164, 1));
	ts_close(ts);
}

/* A node of the index that is used again stays on its level, whatever tree it goes to. */
#define NODES_SEEN 64
static struct {
	uintptr_t node;
	unsigned level;
} node_seen[NODES_SEEN];

/* True when it was seen before. */
static bool see_node(uintptr_t node, unsigned level)
{
	for (unsigned i = 0; i < NODES_SEEN; i++) {
		if (node_seen[i].node == node) {
			cr_assert_eq(node_seen[i].level, level, "a node of level %u is now of %u",
				     node_seen[i].level, level);
			return true;
		}
		if (!node_seen[i].node) {
			node_seen[i].node = node;
			node_seen[i].level = level;
			return false;
		}
	}
	cr_assert(false, "no node is used twice");
	return false;
}

Test(races, ca01_a_node_keeps_its_level)
{
	/* trees of height 1 to 4, of which each is gone before the next */
	static const uint64_t pages[] = { 0, 64, 4096, 262144 };
	struct ts *a = ts_open(&(struct ts_config){ .i_size = INT64_C(1) << 40 });
	struct iomap_address_space *mapping = &a->inode.i_data;
	struct iomap_folio *folio;
	unsigned again = 0;
	uintptr_t node;

	for (unsigned i = 0; i < 200; i++) {
		unsigned level = i % 4;

		cr_assert_eq(iomap__filemap_add(mapping, pages[level], false, &folio), 0);
		cr_assert_eq(mapping->tree_root & IOMAP__ROOT_HEIGHT, level + 1);
		node = (uintptr_t)(mapping->tree_root & ~63ULL);
		for (; level > 0; level--) {
			again += see_node(node, level);
			node = iomap__node_slot(node, pages[i % 4], level);
		}
		again += see_node(node, 0);
		iomap__filemap_remove(mapping, folio);
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
		iomap__index_reap(a->engine->cache, true);
		/* and what it holds while it is free is nothing */
		for (unsigned at = 0; at < NODES_SEEN && node_seen[at].node; at++)
			for (unsigned slot = 0; slot < IOMAP__NODE_SLOTS; slot++)
				cr_assert_eq(iomap__node_slot(node_seen[at].node, slot, 0), 0U);
	}
	cr_assert_gt(again, 300U);
	ts_close(a);
}
