/* SPDX-License-Identifier: MIT */
/*
 * filemap.c - finding folios, and reading through the cache.
 *
 * A hit copies without taking anything.  Why that is right:
 *
 *   reader                                  writer or evictor (holds the folio lock)
 *   1 find the folio in the index           a set CHANGING
 *   2 v = lock word (acquire), not CHANGING b release fence
 *   3 mapping, index, UPTODATE as expected  c store bytes, or mapping = NULL
 *   4 copy                                  d clear CHANGING, version + 1 (release)
 *   5 acquire fence
 *   6 lock word == v but for the lock bits
 *
 * Suppose the copy contains a byte stored in c.  By the fences 5 and b, the load in 6 then
 * sees a or something later, so CHANGING or another version: the copy is thrown away.
 * Suppose the folio was given another identity between 1 and 4.  It left the index by c and
 * d first.  If 2 came before a, 6 finds another version.  If 2 came after d, its acquire
 * makes mapping == NULL (or a later identity) visible to 3; a new identity sets index and
 * flags before mapping (release), and 3 reads mapping first (acquire), so it cannot mix the
 * two.  A 61-bit version does not wrap in the time of a copy, ever.
 * The epoch covers step 1 alone: it keeps index nodes from being reused; descriptors and
 * folio memory are type-stable, so stale pointers to them are safe to look at.
 *
 * i_size is read before the copy and again after it: a read that raced with a truncate is cut
 * to the new size.  A read that sees a size that a write has moved sees that write's bytes,
 * since i_size is stored (release) after them.
 */
#include "cache/internal.h"

/* Failed optimistic copies before the reader takes the folio's lock. */
#define COPY_TRIES 4

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
	atomic_store_explicit(&folio->index, iomap__round_down(index, 1ULL << order),
			      memory_order_relaxed);
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
		return err;
	}
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
	unsigned order = mapping->max_order;

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

int iomap__filemap_grab(struct iomap_address_space *mapping, uint64_t index, uint64_t end,
			struct iomap_folio **out)
{
	for (;;) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, index);
		int err;

		if (!folio) {
			err = iomap__filemap_add_upto(mapping, index, end, true, out);
			if (err != -EEXIST) {
				iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_MISSES, 1);
				return err;
			}
			continue;
		}
		iomap_folio_lock(folio);
		if (iomap__likely(iomap_folio_mapping(folio) == mapping)) {
			if (!iomap__folio_test(folio, IOMAP__FOLIO_ACCESSED))
				iomap__folio_set(folio, IOMAP__FOLIO_ACCESSED);
			if (iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE))
				iomap__cache_count(mapping->host->i_engine, IOMAP__STAT_HITS, 1);
			*out = folio;
			return 0;
		}
		/* truncated while we waited for the lock */
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
	}
}

/* ---- hits ---- */

static inline bool same_version(uint64_t a, uint64_t b)
{
	return !((a ^ b) & ~(uint64_t)(IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_WAITERS));
}

/* A read met a folio that needs more than a copy: a mark, or the first use of readahead. */
static void first_use(struct iomap_file *file, struct iomap_folio *folio, uint64_t index)
{
	struct iomap__cache *cache = folio->cache;
	uint32_t old = atomic_fetch_and_explicit(&folio->flags,
						 ~(IOMAP__FOLIO_RA_MARK | IOMAP__FOLIO_RA_UNUSED),
						 memory_order_acq_rel);

	if (old & IOMAP__FOLIO_RA_UNUSED)
		iomap__cache_count(cache->engine, IOMAP__STAT_RA_USED, iomap__folio_bytes(folio));
	if (old & IOMAP__FOLIO_RA_MARK)
		iomap__readahead_mark(file, index);
}

/*
 * Copy up to @n bytes at @pos out of one cached, uptodate folio.  0: not cached, not
 * uptodate, or changed too often.  *@seen (may be stale) gets the flags that were found.
 */
static size_t hit_copy(struct iomap_file *file, struct iomap_address_space *mapping, int64_t pos,
		       char *to, size_t n)
{
	uint64_t index = (uint64_t)pos >> IOMAP_PAGE_SHIFT;

	for (int i = 0; i < COPY_TRIES; i++) {
		struct iomap__thread *self = iomap__epoch_enter();
		struct iomap_folio *folio = iomap__index_lookup(mapping, index);
		uint64_t word, first;
		size_t off, bytes;
		uint32_t flags;

		iomap__epoch_exit(self);
		if (!folio)
			return 0;
		word = atomic_load_explicit(&folio->lock, memory_order_acquire);
		if (iomap__unlikely(word & IOMAP__FOLIO_CHANGING)) {
			iomap__cpu_relax();
			continue;
		}
		if (atomic_load_explicit(&folio->mapping, memory_order_acquire) != mapping)
			continue;
		first = iomap_folio_index(folio);
		bytes = iomap__folio_bytes(folio);
		off = (size_t)(pos - (int64_t)(first << IOMAP_PAGE_SHIFT));
		if (iomap__unlikely(off >= bytes))
			continue;
		flags = atomic_load_explicit(&folio->flags, memory_order_acquire);
		if (!(flags & IOMAP__FOLIO_UPTODATE))
			return 0;
		bytes = iomap__min(n, bytes - off);
		iomap__copy_from_folio(to, (char *)iomap_folio_address(folio) + off, bytes);
		IOMAP__FENCE(memory_order_acquire);
		if (iomap__unlikely(!same_version(word, atomic_load_explicit(&folio->lock,
									     memory_order_relaxed))))
			continue;
		if (iomap__unlikely(!(flags & IOMAP__FOLIO_ACCESSED)))
			iomap__folio_set(folio, IOMAP__FOLIO_ACCESSED);
		iomap__stat_add(&folio->cache->stats, self, IOMAP__STAT_HITS, 1);
		if (iomap__unlikely(flags & (IOMAP__FOLIO_RA_MARK | IOMAP__FOLIO_RA_UNUSED)))
			first_use(file, folio, index);
		return bytes;
	}
	return 0;
}

/* ---- misses ---- */

/* What reading needs to know of the place it is at. */
struct read_at {
	struct iomap_file *file;
	struct iomap_address_space *mapping;
	int64_t pos;
	size_t n; /* contiguous bytes wanted in this step, up to i_size and the segment's end */
	char *to;
	uint64_t deadline_ns; /* of the waits; 0: none */
	uint64_t pages_ahead; /* pages that the whole request still wants, from pos on */
};

/*
 * Copy out of a locked folio, whose lock keeps writers off, if it holds what is wanted.
 * Returns bytes, or 0.
 */
static ssize_t locked_copy(const struct read_at *at, struct iomap_folio *folio)
{
	size_t off = (size_t)(at->pos - iomap_folio_pos(folio));
	size_t n = iomap__min(at->n, iomap__folio_bytes(folio) - off);

	if (!iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE) &&
	    !iomap__aops_partial(at->mapping, folio, off, n))
		return 0;
	iomap__copy_from_folio(at->to, (char *)iomap_folio_address(folio) + off, n);
	return (ssize_t)n;
}

/*
 * Read the locked, referenced folio and copy.  Returns with it unlocked: bytes, 0 when it was
 * truncated meanwhile, or the error of the read if what is wanted did not arrive; -ETIMEDOUT
 * with the folio locked, by the read that goes on.
 */
static ssize_t fill_and_copy(const struct read_at *at, struct iomap_folio *folio)
{
	struct iomap_address_space *mapping = at->mapping;
	ssize_t ret = 0;
	int err;

	if (!mapping->a_ops->read_folio) {
		iomap_folio_unlock(folio);
		return -EINVAL;
	}
	folio->read_error = 0;
	err = mapping->a_ops->read_folio(at->file, folio);
	/* The lock is free again when the last range has been read. */
	if (!iomap__folio_lock_until(folio, at->deadline_ns))
		return -ETIMEDOUT;
	if (iomap_folio_mapping(folio) == mapping) {
		ret = locked_copy(at, folio);
		if (!ret)
			ret = err ? err : folio->read_error ? folio->read_error : -EIO;
	}
	iomap_folio_unlock(folio);
	return ret;
}

/* The folio is referenced.  Bytes, 0 to look again, or -errno. */
static ssize_t copy_or_fill(const struct read_at *at, struct iomap_folio *folio)
{
	ssize_t ret = 0;

	if (!iomap__folio_lock_until(folio, at->deadline_ns))
		return -ETIMEDOUT;
	if (iomap_folio_mapping(folio) == at->mapping) {
		ret = locked_copy(at, folio);
		if (!ret)
			return fill_and_copy(at, folio);
	}
	iomap_folio_unlock(folio);
	return ret;
}

/* Read what is not there.  Returns bytes copied (> 0) or -errno. */
static ssize_t miss_copy(const struct read_at *at)
{
	struct iomap_address_space *mapping = at->mapping;
	struct iomap__cache *cache = iomap__cache_of(mapping);
	uint64_t index = (uint64_t)at->pos >> IOMAP_PAGE_SHIFT;
	bool missed = false;

	for (;;) {
		struct iomap_folio *folio = iomap__filemap_get(mapping, index);
		ssize_t ret;

		if (!folio) {
			if (!missed && mapping->a_ops->readahead) {
				missed = true;
				iomap__cache_count(cache->engine, IOMAP__STAT_MISSES, 1);
				iomap__readahead_miss(at->file, index, at->pages_ahead);
				continue;
			}
			if (!missed)
				iomap__cache_count(cache->engine, IOMAP__STAT_MISSES, 1);
			missed = true;
			ret = iomap__filemap_add(mapping, index, true, &folio);
			if (ret == -EEXIST)
				continue;
			if (ret)
				return ret;
			ret = fill_and_copy(at, folio);
		} else {
			first_use(at->file, folio, index);
			ret = copy_or_fill(at, folio);
		}
		iomap_folio_put(folio);
		if (ret)
			return ret;
	}
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

static ssize_t read_step(struct iomap_file *file, int64_t pos, struct iomap_iov_iter *to,
			 uint64_t deadline_ns)
{
	struct iomap_inode *inode = file->inode;
	struct iomap_address_space *mapping = &inode->i_data;
	int64_t size = iomap_i_size_read(inode);
	struct read_at at;
	ssize_t ret;

	if (pos >= size)
		return iomap__engine_forked(inode->i_engine) ? -ECHILD : 0;
	at.to = iter_segment(to, &at.n);
	at.n = iomap__min(at.n, (uint64_t)(size - pos));
	ret = (ssize_t)hit_copy(file, mapping, pos, at.to, at.n);
	if (iomap__unlikely(!ret)) {
		uint64_t want = iomap__min(to->count, (uint64_t)(size - pos));

		if (iomap__engine_closed(inode->i_engine))
			return iomap__engine_refusal(inode->i_engine);
		at.deadline_ns = iomap__deadline(inode->i_engine, deadline_ns);
		at.file = file;
		at.mapping = mapping;
		at.pos = pos;
		at.pages_ahead = (((uint64_t)pos & (IOMAP_PAGE_SIZE - 1)) + want +
				  IOMAP_PAGE_SIZE - 1) >> IOMAP_PAGE_SHIFT;
		ret = miss_copy(&at);
		if (ret < 0)
			return ret;
	}
	/* LK01: no lock kept i_size where it was */
	size = iomap_i_size_read(inode);
	if (iomap__unlikely(pos + ret > size))
		ret = iomap__max(size - pos, 0);
	iomap_iov_iter_advance(to, (size_t)ret);
	return ret;
}

ssize_t iomap_file_read_iter(struct iomap_kiocb *iocb, struct iomap_iov_iter *to)
{
	struct iomap_file *file = iocb->ki_filp;
	ssize_t done = 0, ret = 0;

	iomap__file_check(file);
	if (iomap__unlikely(iocb->ki_pos < 0 || to->data_source != IOMAP_ITER_DEST ||
			    iocb->ki_flags & ~(IOMAP_IOCB_APPEND | IOMAP_IOCB_DSYNC |
					       IOMAP_IOCB_SYNC | IOMAP_IOCB_DIRECT)))
		return -EINVAL;
	while (to->count) {
		ret = read_step(file, iocb->ki_pos, to, iocb->ki_deadline);
		if (ret <= 0)
			break;
		iocb->ki_pos += ret;
		done += ret;
	}
	return done ? done : ret;
}
