/* SPDX-License-Identifier: MIT */
/*
 * prefetch.c - iomap_prefetch(): bring many ranges into the cache, and tell when that is done.
 *
 * The reads are those of readahead, started for all ranges under one plug.  Nobody waits for
 * them: each range goes over its folios and, at one that is still being read, leaves an entry
 * with it (cache/await.c) and goes on from there when the folio is unlocked, in whatever thread
 * that happens.  At its end it queues a work, which calls `done`.
 *
 * States of a range: walking (by the submitter, or by a completion) -> awaiting a folio, which
 * it holds a reference to -> walking ... -> over: its work is queued -> told.
 *
 * What is held: a use of each range's file until its `done` has returned (file.c); a watch on
 * the I/O until the last range is over (work.c).  `pending` counts ranges that are not over, and
 * the submitter; `refs` what will still look at the struct: works to come, and the submitter.
 * Whoever takes the last one away frees it.
 *
 * Without a `done` nothing of this is needed, and the reads are on their own, as readahead is.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/ops.h"
#include "iomap/workers.h"

#define PREFETCH_FLAGS IOMAP_PREFETCH_ALL

struct pf_range {
	struct pf *pf;
	struct iomap_read_range *range;
	struct iomap__folio_await await;
	uint64_t index, end; /* pages still to be looked at */
	int error;
	struct iomap_work work;
	struct iomap_kiocb iocb; /* as which it keeps its file open, and is called */
};

struct pf {
	struct iomap_prefetch *user;
	struct iomap_engine *engine;
	unsigned nr;
	bool all;
	_Atomic uint32_t pending, refs;
	struct pf_range range[];
};

static size_t pf_bytes(unsigned nr)
{
	return sizeof(struct pf) + nr * sizeof(struct pf_range);
}

static void pf_put(struct pf *pf)
{
	struct iomap_engine *engine = pf->engine;
	size_t bytes = pf_bytes(pf->nr);

	/* release, acquire: what others have done to it comes before its end */
	if (atomic_fetch_sub_explicit(&pf->refs, 1, memory_order_acq_rel) == 1)
		iomap__free(&engine->env, pf, bytes);
}

/* ---- telling ---- */

/* ki_complete of a range's iocb. */
static void pf_tell(struct iomap_kiocb *iocb, long error)
{
	struct pf_range *range = iomap__container_of(iocb, struct pf_range, iocb);
	struct pf *pf = range->pf;
	struct iomap_prefetch *user = pf->user;
	struct iomap_read_range *what = pf->all ? NULL : range->range;

	/* the file may be closed in there, and the engine's end may follow: not behind it */
	pf_put(pf);
	user->done(user, what, (int)error);
}

/* A work function: the range is over. */
static void pf_range_work(struct iomap_work *work)
{
	struct pf_range *range = iomap__container_of(work, struct pf_range, work);

	iomap__kiocb_complete(&range->iocb, range->error);
}

/* A work function: all ranges are, and it is that of the first one. */
static void pf_all_work(struct iomap_work *work)
{
	struct pf_range *first = iomap__container_of(work, struct pf_range, work);
	struct pf *pf = first->pf;
	int error = 0;

	for (unsigned i = 0; i < pf->nr; i++) {
		if (!error)
			error = pf->range[i].error;
		if (i)
			iomap__kiocb_cancel(&pf->range[i].iocb);
	}
	iomap__kiocb_complete(&first->iocb, error);
}

/* One less that is not over.  What was the last one's I/O has ended by then. */
static void pf_pending_put(struct pf *pf)
{
	/* release, acquire: errors of ranges that came before */
	if (atomic_fetch_sub_explicit(&pf->pending, 1, memory_order_acq_rel) != 1)
		return;
	iomap__workers_unwatch(pf->engine);
	if (pf->all)
		iomap_queue_work(pf->engine, &pf->range[0].work);
	else
		iomap__workers_settle(pf->engine);
}

static void pf_range_over(struct pf_range *range)
{
	struct pf *pf = range->pf;
	struct iomap_engine *engine = pf->engine;
	bool all = pf->all;

	/* the last one queues, and then all may be gone */
	if (all) {
		pf_pending_put(pf);
		return;
	}
	/* the work, once it is queued, may be the end of all else */
	atomic_fetch_add_explicit(&pf->refs, 1, memory_order_relaxed);
	iomap_queue_work(engine, &range->work);
	pf_pending_put(pf);
	pf_put(pf);
}

/* ---- walking ---- */

static void pf_awaited(struct iomap__folio_await *await);

/* True when the folio is being read, and the range will go on when that has ended. */
static bool pf_await(struct pf_range *range, struct iomap_folio *folio)
{
	range->await.fn = pf_awaited;
	return !iomap_folio_test_uptodate(folio) && iomap__folio_await(folio, &range->await);
}

/* Go on from folio to folio.  Any context. */
static void pf_walk(struct pf_range *range)
{
	struct iomap_address_space *mapping = &range->range->file->inode->i_data;

	while (range->index < range->end) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, range->index);

		if (!folio) {
			/* no memory, or dropped again: that is no error */
			range->index = iomap__index_next(mapping, range->index, range->end);
			continue;
		}
		if (pf_await(range, folio))
			return; /* all of it may be elsewhere by now */
		if (!iomap_folio_test_uptodate(folio) && !range->error)
			range->error = iomap__folio_read_error(folio);
		range->index = iomap_folio_index(folio) +
			       (iomap__folio_bytes(folio) >> IOMAP_PAGE_SHIFT);
		iomap_folio_put(folio);
	}
	pf_range_over(range);
}

static void pf_awaited(struct iomap__folio_await *await)
{
	struct pf_range *range = iomap__container_of(await, struct pf_range, await);
	struct iomap_folio *folio = await->folio;

	/* it is looked at again: it may have been locked by somebody else since */
	iomap_folio_put(folio);
	pf_walk(range);
}

/* ---- the call ---- */

static int pf_check(const struct iomap_prefetch *user)
{
	struct iomap_engine *engine;

	if (user->size != sizeof(*user) || user->flags & ~PREFETCH_FLAGS || !user->nr ||
	    !user->ranges)
		return -EINVAL;
	for (size_t i = 0; i < iomap__array_len(user->reserved); i++)
		if (user->reserved[i])
			return -EINVAL;
	engine = user->ranges[0].file->inode->i_engine;
	for (unsigned i = 0; i < user->nr; i++) {
		const struct iomap_file *file = user->ranges[i].file;

		iomap__file_check(file);
		if (file->inode->i_engine != engine || user->ranges[i].pos < 0)
			return -EINVAL;
		if (!file->inode->i_data.a_ops->readahead)
			return -EOPNOTSUPP;
	}
	return iomap__engine_closed(engine) ? iomap__engine_refusal(engine) : 0;
}

/* Start all reads; a batch at a time, as far as memory is to be had. */
static void pf_start(const struct iomap_prefetch *user)
{
	struct iomap_plug plug;

	iomap_start_plug(&plug);
	for (unsigned i = 0; i < user->nr; i++) {
		const struct iomap_read_range *range = &user->ranges[i];
		size_t step = iomap__readahead_batch(range->file), done = 0;

		while (done < range->len && (uint64_t)range->pos + done <= INT64_MAX) {
			size_t n = iomap__min(range->len - done, step);

			if (!iomap__readahead_range(range->file, range->pos + (int64_t)done, n))
				break;
			done += n;
		}
	}
	iomap__readahead_unplug(&plug, user->ranges[0].file->inode->i_engine);
}

static void pf_range_init(struct pf *pf, struct pf_range *range, struct iomap_read_range *what)
{
	int64_t size = iomap_i_size_read(what->file->inode);
	uint64_t len = what->pos < size ? iomap__min(what->len, (uint64_t)(size - what->pos)) : 0;

	range->pf = pf;
	range->range = what;
	range->index = (uint64_t)what->pos >> IOMAP_PAGE_SHIFT;
	range->end = len ? ((uint64_t)what->pos + len - 1) / IOMAP_PAGE_SIZE + 1 : range->index;
	iomap_init_work(&range->work, pf->all ? pf_all_work : pf_range_work);
	range->iocb.ki_filp = what->file;
	range->iocb.ki_complete = pf_tell;
	iomap__kiocb_begin(&range->iocb);
}

int iomap_prefetch(struct iomap_prefetch *user)
{
	struct iomap_engine *engine;
	const uint32_t *call;
	unsigned nr = user->nr;
	struct pf *pf;
	int err;

	err = pf_check(user);
	if (err)
		return err;
	if (!user->done) {
		pf_start(user);
		return 0;
	}
	engine = user->ranges[0].file->inode->i_engine;
	pf = iomap__zalloc(&engine->env, pf_bytes(nr));
	if (!pf)
		return -ENOMEM;
	err = iomap__workers_watch(engine, &call);
	if (err) {
		iomap__free(&engine->env, pf, pf_bytes(nr));
		return err;
	}
	pf->user = user;
	pf->engine = engine;
	pf->nr = nr;
	pf->all = user->flags & IOMAP_PREFETCH_ALL;
	atomic_init(&pf->pending, nr + 1);
	/* of the works, and ours */
	atomic_init(&pf->refs, (pf->all ? 1 : nr) + 1);
	for (unsigned i = 0; i < nr; i++)
		pf_range_init(pf, &pf->range[i], &user->ranges[i]);
	pf_start(user);
	/* from the first walk on callbacks may run, and with the last one @user may be gone */
	for (unsigned i = 0; i < nr; i++)
		pf_walk(&pf->range[i]);
	pf_pending_put(pf);
	pf_put(pf);
	iomap__workers_call(call);
	return 0;
}
