/* SPDX-License-Identifier: MIT */
/*
 * filemap.c - finding folios, and reading through the cache what is not a hit.
 *
 * Reading goes by steps, each of one contiguous piece of the caller's memory: what is cached
 * is copied (hit.c), then one folio that is not cached, or not uptodate, is brought in under
 * its lock and copied from, and so on.  A read that is one plain hit never comes here.
 *
 * With IOMAP_IOCB_NOWAIT nothing is brought in: what is neither a hit nor to be had by a lock
 * that is free is -EAGAIN.  A hit that meets the mark of a window leaves it where it is, since
 * starting the next one may wait in the extent map; the next reader that may finds it.
 *
 * With IOMAP_IOCB_DONTCACHE what is brought in, and read ahead, is marked, and dropped as soon as
 * such a read has come past it, unless somebody else has used it meanwhile or uses it just then.
 *
 * With IOMAP_IOCB_CHECKED a read goes into a buffer of the library's and from there, by the
 * kernel, to the caller's memory; the position moves by what has arrived.
 *
 * What is copied under a folio's lock is cut off at the i_size of that time, see hit.h.
 */
#include "cache/internal.h"

struct iomap_folio *iomap__filemap_get(struct iomap_address_space *mapping, uint64_t index)
{
	for (;;) {
		struct iomap__thread *self = iomap__epoch_enter();
		struct iomap_folio *folio = iomap__index_lookup(mapping, index);
		/* fails when it was just evicted: the slot is about to become empty */
		bool got = folio && iomap__folio_tryget(folio);
		/* With a reference the identity stays, unless it was truncated. */
		bool right = got && iomap_folio_mapping(folio) == mapping &&
			     index - iomap_folio_index(folio) < 1ULL << folio->order;

		/* Inside: when read sections have ended no stray reference is left. */
		if (got && !right)
			iomap_folio_put(folio);
		iomap__epoch_exit(self);
		if (!folio || right)
			return folio;
		/* a child has the index and not the folios: it would look for ever */
		if (iomap__engine_forked(mapping->host->i_engine))
			return NULL;
	}
}

struct iomap_folio *iomap_filemap_get_folio(struct iomap_address_space *mapping, uint64_t index)
{
	return iomap__filemap_get(mapping, index);
}

/* Allocate a folio of that order for the pages around @index, lock it, put it into the index. */
static int add_order(struct iomap_address_space *mapping, uint64_t index, unsigned order,
		     bool may_wait, struct iomap_folio **out)
{
	struct iomap_folio *folio;
	int err;

	if (iomap__engine_forked(mapping->host->i_engine))
		return -ECHILD;
	folio = iomap__folio_alloc(mapping, order, may_wait);
	if (!folio)
		return -ENOMEM;
	iomap__folio_set_place(folio, iomap__round_down(index, 1ULL << order), order);
	/*
	 * Nobody else has a reference, but somebody may have the lock: whoever tries to evict
	 * needs none, and may have got hold of what was another folio when it looked.  It finds
	 * no address space and lets go at once.
	 */
	iomap_folio_lock(folio);
	iomap_folio_get(folio); /* the index's */
	err = iomap__index_insert(mapping, folio);
	if (err) {
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
		iomap_folio_put(folio);
		if (iomap__likely(err != -EBUSY))
			return err;
		if (!may_wait)
			return -ENOMEM;
		iomap__filemap_wait_bar(mapping, index);
		return -EEXIST;
	}
	iomap__policy_added(mapping, folio);
	/* after it is in the index: see iomap_inode_stats() */
	if (iomap__unlikely(iomap__load_acquire(&mapping->inode_stats)))
		iomap__folio_set(folio, IOMAP__FOLIO_COUNTED);
	*out = folio;
	return 0;
}

int iomap__filemap_add(struct iomap_address_space *mapping, uint64_t index, bool may_wait,
		       struct iomap_folio **out)
{
	return add_order(mapping, index, mapping->min_order, may_wait, out);
}

/* The largest folio that begins at @index and ends at @end at the latest; or the smallest. */
static unsigned fit_order(const struct iomap_address_space *mapping, uint64_t index, uint64_t end)
{
	unsigned order = iomap__mapping_max_order(mapping);

	while (order > mapping->min_order &&
	       (index & ((1ULL << order) - 1) || index + (1ULL << order) > end))
		order--;
	return order;
}

int iomap__filemap_add_upto(struct iomap_address_space *mapping, uint64_t index, uint64_t end,
			    bool may_wait, struct iomap_folio **out)
{
	unsigned order = fit_order(mapping, index, end);

	while (order > mapping->min_order) {
		int err = add_order(mapping, index, order, false, out);

		if (err == -EEXIST) {
			end = iomap__index_next(mapping, index, end);
			if (end <= index)
				return err;
			order = iomap__min(fit_order(mapping, index, end), order - 1);
		} else if (err == -ENOMEM) {
			order--;
		} else {
			return err;
		}
	}
	return add_order(mapping, index, order, may_wait, out);
}

static void count_miss(struct iomap_address_space *mapping)
{
	iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_MISSES, 1);
	iomap__mapping_count(mapping, IOMAP__ISTAT_MISSES, 1);
}

/* A new one.  -EEXIST: it is not needed any more. */
static int grab_new(struct iomap_address_space *mapping, uint64_t index, uint64_t end, unsigned how,
		    struct iomap_folio **out)
{
	int err = iomap__filemap_add_upto(mapping, index, end, !(how & IOMAP_NOWAIT), out);

	if (err == -EEXIST)
		return err;
	count_miss(mapping);
	/* the write that makes it may come in pieces */
	if (!err)
		iomap__folio_set(*out, how & IOMAP_DONTCACHE ?
					       IOMAP__FOLIO_ONCE | IOMAP__FOLIO_DONTCACHE :
					       IOMAP__FOLIO_ONCE);
	/* there may be some for who waits for it */
	return err == -ENOMEM && how & IOMAP_NOWAIT ? -EAGAIN : err;
}

static bool grab_lock(struct iomap_folio *folio, unsigned how)
{
	if (how & IOMAP_NOWAIT)
		return iomap_folio_trylock(folio);
	iomap_folio_lock(folio);
	return true;
}

int iomap__filemap_grab(struct iomap_address_space *mapping, uint64_t index, uint64_t end,
			unsigned how, struct iomap_folio **out)
{
	for (;;) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, index);
		int err;

		if (!folio) {
			err = grab_new(mapping, index, end, how, out);
			if (err != -EEXIST)
				return err;
			continue;
		}
		if (!grab_lock(folio, how)) {
			iomap_folio_put(folio);
			return -EAGAIN;
		}
		if (iomap__likely(iomap_folio_mapping(folio) == mapping)) {
			uint32_t flags = atomic_load_explicit(&folio->flags, memory_order_relaxed);

			if (!(flags & IOMAP__FOLIO_ACCESSED))
				iomap__folio_accessed(folio, flags, how);
			if (iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE)) {
				iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_HITS, 1);
				iomap__mapping_count(mapping, IOMAP__ISTAT_HITS, 1);
			}
			*out = folio;
			return 0;
		}
		/* truncated while we waited for the lock */
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
	}
}

void iomap__filemap_used(struct iomap_file *file, struct iomap_folio *folio, int64_t pos,
			 unsigned how)
{
	uint32_t old = atomic_load_explicit(&folio->flags, memory_order_relaxed);
	uint32_t met = IOMAP__FOLIO_RA_UNUSED | (how & IOMAP_NOWAIT ? 0 : IOMAP__FOLIO_RA_MARK);
	uint64_t pages;

	/*
	 * Who goes on inside a folio uses it once, however many reads that takes; but a call without
	 * DONTCACHE takes the mark off, also where one with it has ended.
	 */
	if (!(old & IOMAP__FOLIO_ACCESSED) &&
	    (old & IOMAP__FOLIO_DONTCACHE || iomap__load(&file->used_end) != (uint32_t)pos ||
	     pos == iomap_folio_pos(folio)))
		iomap__folio_accessed(folio, old, how);
	if (iomap__likely(!(old & met)))
		return;
	/* while the mark is there: behind it the folio may be another one, of another size */
	pages = iomap__folio_bytes(folio) >> IOMAP_PAGE_SHIFT;
	/* of two who come at once, one goes on */
	old = atomic_fetch_and_explicit(&folio->flags, ~met, memory_order_acq_rel) & met;
	if (old & IOMAP__FOLIO_RA_UNUSED)
		iomap__readahead_used(&file->inode->i_data, pages);
	if (old & IOMAP__FOLIO_RA_MARK)
		iomap__readahead_mark(file, (uint64_t)pos >> IOMAP_PAGE_SHIFT, how);
}

/* ---- misses ---- */

/* What reading needs to know of the place it is at. */
struct read_at {
	struct iomap_file *file;
	struct iomap_address_space *mapping;
	int64_t pos;
	size_t n; /* contiguous bytes wanted in this step, up to i_size and the segment's end */
	char *to;
	unsigned how;	      /* IOMAP_NOWAIT, IOMAP_DONTCACHE */
	uint64_t deadline_ns; /* of the waits; 0: none */
	uint64_t pages_ahead; /* pages that the whole request still wants, from pos on */
	/* not NULL: no copy, but the folio, uptodate and referenced; then `to` is not used */
	struct iomap_folio **folio;
};

/* The file ends before what is wanted.  Neither an errno value nor the code of a queued call. */
#define READ_END ((ssize_t)INT64_MIN)

/*
 * Copy out of a locked folio, whose lock keeps writers off and truncation from making zeros in it,
 * if it holds what is wanted; or take a reference to it.
 * Returns bytes, 0, or READ_END.
 */
static ssize_t locked_copy(const struct read_at *at, struct iomap_folio *folio)
{
	size_t off = (size_t)(at->pos - iomap_folio_pos(folio));
	size_t n = iomap__min(at->n, iomap__folio_bytes(folio) - off);

	if (!at->folio) {
		int64_t left = iomap__hit_left(at->file, at->pos);

		if (left <= 0)
			return READ_END;
		n = (size_t)iomap__min(n, (uint64_t)left);
	}
	if (!iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE) &&
	    (at->folio || !iomap__aops_partial(at->mapping, folio, off, n)))
		return 0;
	if (at->folio) {
		iomap_folio_get(folio);
		*at->folio = folio;
		return (ssize_t)n;
	}
	iomap__copy_from_folio(at->to, (char *)iomap_folio_address(folio) + off, n);
	return (ssize_t)n;
}

/* The version of a folio that is locked here.  Relaxed: under the lock. */
static uint64_t locked_version(const struct iomap_folio *folio)
{
	return atomic_load_explicit(&folio->lock, memory_order_relaxed) &
	       -(uint64_t)IOMAP__FOLIO_VERSION;
}

/*
 * The folio was of @version as it was read, by a call that gave @err, and now that it is locked
 * again what is wanted is not there.  The error; or 0, to look again, when it did arrive, and a
 * direct write has had it forgotten since.
 */
static int fill_error(const struct iomap_folio *folio, uint64_t version, int err)
{
	if (err || folio->read_error)
		return err ? err : folio->read_error;
	return locked_version(folio) == version ? -EIO : 0;
}

/*
 * Read the locked, referenced folio and copy.  Returns with it unlocked: bytes, 0 when it was
 * truncated or forgotten meanwhile, READ_END, or the error of the read if what is wanted did not
 * arrive; -ETIMEDOUT with the folio locked, by the read that goes on.
 */
static ssize_t fill_and_copy(const struct read_at *at, struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = at->mapping;
	uint64_t version = locked_version(folio);
	ssize_t ret = 0;
	int err;

	if (!mapping->a_ops->read_folio) {
		iomap_folio_unlock(folio);
		return -EINVAL;
	}
	/* atomic: iomap__folio_read_error() looks without the lock */
	__atomic_store_n(&folio->read_error, 0, __ATOMIC_RELAXED);
	err = mapping->a_ops->read_folio(at->file, folio);
	/* The lock is free again when the last range has been read. */
	if (!iomap__folio_lock_until(folio, at->deadline_ns))
		return -ETIMEDOUT;
	if (iomap_folio_mapping(folio) == mapping) {
		ret = locked_copy(at, folio);
		if (!ret)
			ret = fill_error(folio, version, err);
	}
	iomap_folio_unlock(folio);
	return ret;
}

/* The folio is referenced.  Bytes, 0 to look again, READ_END, or -errno. */
static ssize_t copy_or_fill(const struct read_at *at, struct iomap_folio *folio)
{
	ssize_t ret = 0;
	bool locked = iomap__folio_lock_until(folio, at->deadline_ns);

	iomap__io_expected();
	if (!locked)
		return -ETIMEDOUT;
	if (iomap_folio_mapping(folio) == at->mapping) {
		ret = locked_copy(at, folio);
		if (!ret)
			return fill_and_copy(at, folio);
	}
	iomap_folio_unlock(folio);
	return ret;
}

/* Read what is not there.  Returns bytes copied (> 0), READ_END, or -errno. */
static ssize_t miss_fill(const struct read_at *at)
{
	struct iomap_address_space *mapping = at->mapping;
	uint64_t index = (uint64_t)at->pos >> IOMAP_PAGE_SHIFT;
	bool missed = false;

	for (;;) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, index);
		ssize_t ret;

		if (!folio) {
			if (!missed && mapping->a_ops->readahead) {
				missed = true;
				count_miss(mapping);
				iomap__readahead_miss(at->file, index, at->pages_ahead, at->how,
						      true);
				continue;
			}
			/* nothing there to wait for: what follows calls the application */
			iomap__io_expected();
			if (!missed)
				count_miss(mapping);
			missed = true;
			ret = iomap__filemap_add(mapping, index, true, &folio);
			if (ret == -EEXIST)
				continue;
			if (ret)
				return ret;
			if (at->how & IOMAP_DONTCACHE)
				iomap__folio_set(folio, IOMAP__FOLIO_DONTCACHE);
			ret = fill_and_copy(at, folio);
		} else {
			iomap__filemap_used(at->file, folio, at->pos, at->how);
			ret = copy_or_fill(at, folio);
		}
		iomap_folio_put(folio);
		if (ret)
			return ret;
	}
}

static ssize_t miss_copy(const struct read_at *at)
{
	struct iomap_engine *engine = at->mapping->host->i_engine;
	uint64_t began_ns = iomap__now_ns(&engine->env);
	ssize_t ret = miss_fill(at);

	iomap__cache_took(engine, IOMAP_HIST_READ, began_ns);
	return ret;
}

/* What can be had of what is no hit, without a wait: bytes, READ_END, or -EAGAIN. */
static ssize_t nowait_copy(const struct read_at *at)
{
	uint64_t index = (uint64_t)at->pos >> IOMAP_PAGE_SHIFT;
	struct iomap_folio *folio = iomap__filemap_get(at->mapping, index);
	ssize_t ret = 0;

	if (!folio)
		return -EAGAIN;
	if (iomap_folio_trylock(folio)) {
		if (iomap_folio_mapping(folio) == at->mapping)
			ret = locked_copy(at, folio);
		iomap_folio_unlock(folio);
	}
	if (ret > 0)
		iomap__filemap_used(at->file, folio, at->pos, at->how);
	iomap_folio_put(folio);
	return ret ? ret : -EAGAIN;
}

int iomap__filemap_read_folio(struct iomap_file *file, int64_t pos, struct iomap_folio **out)
{
	struct iomap_engine *engine = file->inode->i_engine;
	struct read_at at = {
		.file = file,
		.mapping = &file->inode->i_data,
		.pos = pos,
		.n = 1,
		.pages_ahead = 1,
		.folio = out,
	};
	ssize_t ret;

	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	at.deadline_ns = iomap__deadline(engine, 0);
	ret = miss_copy(&at);
	return ret < 0 ? (int)ret : 0;
}

/* ---- the call ---- */

/* The contiguous memory at the head of @to. */
static char *iter_segment(struct iomap_iov_iter *to, size_t *n)
{
	while (to->iov) {
		if (to->iov->iov_len > to->iov_offset) {
			*n = iomap__min(to->count, to->iov->iov_len - to->iov_offset);
			return (char *)to->iov->iov_base + to->iov_offset;
		}
		to->iov++;
		to->nr_segs--;
		to->iov_offset = 0;
	}
	*n = to->count;
	return to->ubuf + to->iov_offset;
}

/*
 * Copy what is cached at @pos, as far as it goes and at->to is contiguous: bytes, 0 at the end of
 * the file, or -ENODATA, with *@at saying what is wanted, when the first byte is not.
 */
static ssize_t step_hit(struct iomap_file *file, int64_t pos, struct iomap_iov_iter *to,
			unsigned how, struct read_at *at)
{
	struct iomap_inode *inode = file->inode;
	int64_t size = iomap_i_size_read(inode);
	uint64_t want;
	size_t got;

	if (pos >= size)
		return iomap__engine_forked(inode->i_engine) ? -ECHILD : 0;
	at->to = iter_segment(to, &at->n);
	at->n = iomap__min(at->n, (uint64_t)(size - pos));
	/* a run may go on for as long as what is read ahead comes in time: drop what was used */
	if (iomap__unlikely(how & IOMAP_DONTCACHE)) {
		if (iomap__engine_forked(inode->i_engine))
			return -ECHILD;
		at->n = iomap__min(at->n, iomap__readahead_batch(file));
	}
	got = iomap__hit_run(file, at->to, at->n, pos, how);
	if (iomap__likely(got))
		return (ssize_t)got;
	if (iomap__engine_closed(inode->i_engine))
		return iomap__engine_refusal(inode->i_engine);
	want = iomap__min(to->count, (uint64_t)(size - pos));
	at->how = how;
	at->folio = NULL;
	at->file = file;
	at->mapping = &inode->i_data;
	at->pos = pos;
	at->pages_ahead = (((uint64_t)pos & (IOMAP_PAGE_SIZE - 1)) + want + IOMAP_PAGE_SIZE - 1) >>
			  IOMAP_PAGE_SHIFT;
	return -ENODATA;
}

/* What a step has brought, as its caller's: bytes, 0 at the end of the file, or -errno. */
static ssize_t step_end(struct iomap_iov_iter *to, ssize_t ret)
{
	if (iomap__likely(ret > 0))
		iomap_iov_iter_advance(to, (size_t)ret);
	return iomap__unlikely(ret == READ_END) ? 0 : ret;
}

/* @how: IOMAP_NOWAIT, IOMAP_DONTCACHE. */
static ssize_t read_step(struct iomap_file *file, int64_t pos, struct iomap_iov_iter *to,
			 unsigned how, uint64_t deadline_ns)
{
	struct read_at at;
	ssize_t ret = step_hit(file, pos, to, how, &at);

	if (iomap__unlikely(ret == -ENODATA)) {
		at.deadline_ns = iomap__deadline(file->inode->i_engine, deadline_ns);
		ret = how & IOMAP_NOWAIT ? nowait_copy(&at) : miss_copy(&at);
		if (ret > 0)
			iomap__store(&file->used_end, (uint32_t)(pos + ret));
	}
	return step_end(to, ret);
}

/* Flags of an iocb that mean nothing to a buffered read. */
#define READ_IGNORED                                                                              \
	(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT |             \
	 IOMAP_IOCB_HIPRI)

#define READ_PLAIN (READ_IGNORED | IOMAP_IOCB_NOWAIT | IOMAP_IOCB_DONTCACHE)

static unsigned read_how(const struct iomap_kiocb *iocb)
{
	return (iocb->ki_flags & IOMAP_IOCB_NOWAIT ? IOMAP_NOWAIT : 0) |
	       (iocb->ki_flags & IOMAP_IOCB_DONTCACHE ? IOMAP_DONTCACHE : 0);
}

/* A read with @how has come on by @n bytes. */
static void read_advance(struct iomap_kiocb *iocb, unsigned how, ssize_t n)
{
	int64_t pos = iocb->ki_pos;

	iocb->ki_pos += n;
	/* as it goes: the call may be for more than the cache holds */
	if (how & IOMAP_DONTCACHE)
		iomap__filemap_drop_behind(&iocb->ki_filp->inode->i_data, pos, iocb->ki_pos, true);
}

/* It has ended; the folio in which it did goes as well. */
static void read_end(const struct iomap_kiocb *iocb, unsigned how, int64_t start)
{
	if (how & IOMAP_DONTCACHE && iocb->ki_pos > start)
		iomap__filemap_drop_behind(&iocb->ki_filp->inode->i_data, iocb->ki_pos - 1,
					   iocb->ki_pos, false);
}

/* One step of a read to memory that may be bad.  Bytes, 0, or -errno; *@over: there is no next one. */
static ssize_t read_checked_step(struct iomap_kiocb *iocb, struct iomap_iov_iter *to,
				 const struct iomap__checked *checked, bool *over)
{
	size_t n = iomap__min(to->count, iomap__checked_step(checked, iocb->ki_pos));
	const int64_t pos = iocb->ki_pos;
	struct iomap_iov_iter by;
	ssize_t got, put;

	iomap_iov_iter_ubuf(&by, IOMAP_ITER_DEST, checked->memory, n);
	got = iomap_file_read_iter(iocb, &by);
	if (got <= 0)
		return got;
	put = iomap__checked_copy_out(checked->memory, (size_t)got, to);
	iocb->ki_pos = pos + iomap__max(put, 0);
	*over = put < (ssize_t)n;
	return put ? put : -EFAULT;
}

static ssize_t read_checked(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	struct iomap_engine *engine = iocb->ki_filp->inode->i_engine;
	const int64_t start = iocb->ki_pos;
	struct iomap__checked checked;
	bool over = false;
	ssize_t ret = 0;

	/* the memory comes by the engine's hooks */
	if (iomap__engine_forked(engine))
		return -ECHILD;
	iomap__checked_begin(&checked, &engine->env, to->count);
	iocb->ki_flags &= ~IOMAP_IOCB_CHECKED;
	while (to->count && !over) {
		ret = read_checked_step(iocb, to, &checked, &over);
		if (ret <= 0)
			break;
	}
	iocb->ki_flags |= IOMAP_IOCB_CHECKED;
	iomap__checked_end(&checked);
	return iocb->ki_pos > start ? (ssize_t)(iocb->ki_pos - start) : ret;
}

ssize_t iomap_file_read_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	struct iomap_file *file = iocb->ki_filp;
	const int64_t start = iocb->ki_pos;
	const unsigned how = read_how(iocb);
	ssize_t ret = 0;

	iomap__file_check(file);
	if (iomap__unlikely(start < 0 || to->data_source != IOMAP_ITER_DEST ||
			    iocb->ki_flags & ~READ_PLAIN)) {
		if (start < 0 || to->data_source != IOMAP_ITER_DEST ||
		    iocb->ki_flags & ~(READ_PLAIN | IOMAP_IOCB_CHECKED))
			return -EINVAL;
		return read_checked(iocb, to);
	}
	while (to->count) {
		ret = read_step(file, iocb->ki_pos, to, how, iocb->ki_deadline);
		if (ret <= 0)
			break;
		read_advance(iocb, how, ret);
	}
	read_end(iocb, how, start);
	return iocb->ki_pos > start ? (ssize_t)(iocb->ki_pos - start) : ret;
}

/* ---- a read whose caller does not wait ---- */

static void async_put(struct iomap__read_async *read)
{
	if (read->await.folio)
		iomap_folio_put(read->await.folio);
	read->await.folio = NULL;
	read->filled = false;
}

/*
 * The folio at at->pos, referenced, in read->await: the one there is, or a new one, which is
 * locked (*@fresh).  0; -EAGAIN: there is no memory without a wait.
 */
static int async_folio(const struct read_at *at, struct iomap__read_async *read, bool *fresh)
{
	struct iomap_address_space *mapping = at->mapping;
	uint64_t index = (uint64_t)at->pos >> IOMAP_PAGE_SHIFT;
	int err = 0;

	*fresh = false;
	while (!read->await.folio && !err) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, index);

		if (!folio && !read->missed) {
			read->missed = true;
			count_miss(mapping);
			if (mapping->a_ops->readahead)
				iomap__readahead_miss(at->file, index, at->pages_ahead, at->how,
						      false);
			continue;
		}
		if (!folio) {
			err = iomap__filemap_add(mapping, index, false, &folio);
			*fresh = !err;
			if (!err && at->how & IOMAP_DONTCACHE)
				iomap__folio_set(folio, IOMAP__FOLIO_DONTCACHE);
			if (err == -EEXIST)
				err = 0;
		}
		read->await.folio = folio;
	}
	return err == -ENOMEM ? -EAGAIN : err;
}

/* Start reading the locked folio; it is unlocked by the end of that. */
static int async_fill(const struct read_at *at, struct iomap__read_async *read)
{
	struct iomap_folio *folio = read->await.folio;

	if (!at->mapping->a_ops->read_folio) {
		iomap_folio_unlock(folio);
		return -EINVAL;
	}
	read->filled = true;
	read->fill_version = locked_version(folio);
	/* atomic: iomap__folio_read_error() looks without the lock */
	__atomic_store_n(&folio->read_error, 0, __ATOMIC_RELAXED);
	read->fill_error = at->mapping->a_ops->read_folio(at->file, folio);
	return 0;
}

/*
 * With the folio locked: bytes; 0 when it was truncated or forgotten, or is being read now;
 * READ_END or -errno, as fill_and_copy().  Unlocks it, or has it unlocked by that read.
 */
static ssize_t async_locked(const struct read_at *at, struct iomap__read_async *read)
{
	struct iomap_folio *folio = read->await.folio;
	ssize_t ret = 0;

	if (iomap_folio_mapping(folio) == at->mapping) {
		ret = locked_copy(at, folio);
		if (!ret && !read->filled)
			return async_fill(at, read);
		if (!ret)
			ret = fill_error(folio, read->fill_version, read->fill_error);
	}
	iomap_folio_unlock(folio);
	/* once, as what is a hit after all counts for itself */
	if (ret > 0)
		iomap__filemap_used(at->file, folio, at->pos, at->how);
	async_put(read);
	return ret;
}

/*
 * Bring in what at->pos is in, and copy.  Bytes, READ_END, -errno, or -IOMAP_EIOCBQUEUED: its
 * unlock has been, or will be, told to read->await.
 */
static ssize_t async_copy(const struct read_at *at, struct iomap__read_async *read)
{
	struct iomap__blk *blk = at->mapping->host->i_engine->blk;
	ssize_t ret = 0;
	bool fresh;

	while (!ret) {
		ret = async_folio(at, read, &fresh);
		if (ret)
			break;
		if (fresh) {
			ret = async_fill(at, read);
		} else if (iomap_folio_trylock(read->await.folio)) {
			ret = async_locked(at, read);
			continue;
		}
		/* true: from here on the request may be somebody else's, or gone */
		if (!ret && iomap__folio_await(read->await.folio, &read->await)) {
			/* what it waits for may be in a plug of the caller's */
			iomap__plug_flush(blk);
			return -IOMAP_EIOCBQUEUED;
		}
	}
	return ret;
}

ssize_t iomap__filemap_read_cached(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	const int64_t start = iocb->ki_pos;
	const unsigned how = read_how(iocb);
	struct read_at at;
	ssize_t ret = 0;

	while (to->count) {
		ret = step_end(to, step_hit(iocb->ki_filp, iocb->ki_pos, to, how, &at));
		if (ret <= 0)
			break;
		read_advance(iocb, how, ret);
	}
	read_end(iocb, how, start);
	return ret < 0 ? ret : 0;
}

ssize_t iomap__filemap_read_async(struct iomap_kiocb *iocb, struct iomap_iov_iter *to,
				  struct iomap__read_async *read)
{
	const int64_t start = iocb->ki_pos;
	const unsigned how = read_how(iocb);
	struct read_at at;
	ssize_t ret = 0;

	while (to->count) {
		/* a second time for what was waited for: it is a hit by then, or has failed */
		ret = step_hit(iocb->ki_filp, iocb->ki_pos, to, how, &at);
		if (ret == -ENODATA) {
			ret = async_copy(&at, read);
			if (ret == -IOMAP_EIOCBQUEUED)
				return ret;
			if (ret > 0)
				iomap__store(&iocb->ki_filp->used_end,
					     (uint32_t)(iocb->ki_pos + ret));
		}
		ret = step_end(to, ret);
		if (ret <= 0)
			break;
		async_put(read);
		read->missed = false;
		read_advance(iocb, how, ret);
	}
	async_put(read);
	read_end(iocb, how, start);
	return ret < 0 ? ret : 0;
}
