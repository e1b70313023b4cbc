/* SPDX-License-Identifier: MIT */
/*
 * iter.h - the steps of an iterator, for operations that go over mappings themselves.
 *
 * iomap_iter() does all of them in one loop, for everybody.  A write of a few bytes into the
 * cache costs little more than its steps, so it takes them one by one and leaves out what it
 * knows: that its flags and its range are right, that an iterator it has just zeroed need not
 * be cleared, and that nothing is left to be done when no iomap_end waits for the last mapping.
 */
#ifndef IOMAP__ITER_H
#define IOMAP__ITER_H

#include "iomap/ops.h"

/* A srcmap is there when it has a type, or a length: then it says "a hole is below". */
static inline bool iomap__iter_has_srcmap(const struct iomap_iter *iter)
{
	return iter->srcmap.type != IOMAP_HOLE || iter->srcmap.length;
}

/* As iomap_iter_srcmap(). */
static inline const struct iomap *iomap__iter_srcmap(const struct iomap_iter *iter)
{
	return iomap__iter_has_srcmap(iter) ? &iter->srcmap : &iter->iomap;
}

/* Bytes of the mapping from @pos on, of at most @len.  There is a mapping. */
static inline uint64_t iomap__iter_length_at(const struct iomap_iter *iter, int64_t pos,
					     uint64_t len)
{
	uint64_t end = iomap__mapping_end(&iter->iomap);

	if (iomap__unlikely(iomap__iter_has_srcmap(iter)))
		end = iomap__min(end, iomap__mapping_end(&iter->srcmap));
	return iomap__min(len, end - (uint64_t)pos);
}

/* As iomap_length(); there is a mapping. */
static inline uint64_t iomap__iter_length(const struct iomap_iter *iter)
{
	return iomap__iter_length_at(iter, iter->pos, iter->len);
}

/* As iomap_iter_advance(), of no more than iomap__iter_length(). */
static inline void iomap__iter_advance(struct iomap_iter *iter, uint64_t count)
{
	/* the end of the range may be 2^63, where nothing is left to be done */
	iter->pos = (int64_t)((uint64_t)iter->pos + count);
	iter->len -= count;
}

/* To the state without a mapping. */
static inline void iomap__iter_clear(struct iomap_iter *iter)
{
	memset(&iter->iomap, 0, sizeof(iter->iomap));
	memset(&iter->srcmap, 0, sizeof(iter->srcmap));
	iter->iomap.addr = IOMAP_NULL_ADDR;
	iter->srcmap.addr = IOMAP_NULL_ADDR;
}

/*
 * sample: iomap_begin for what is left of the range, which is not empty; both mappings are
 *   cleared.  1 with a mapping, or -errno without one.
 * next: end the mapping the body has worked on, and sample the next one.  As iomap_iter().
 */
IOMAP_MUST_CHECK int iomap__iter_sample(struct iomap_iter *iter, const struct iomap_ops *ops);
IOMAP_MUST_CHECK int iomap__iter_next(struct iomap_iter *iter, const struct iomap_ops *ops);

/* The range is done, and nobody waits to hear of its last mapping: iomap__iter_next() is 0. */
static inline bool iomap__iter_over(const struct iomap_iter *iter, const struct iomap_ops *ops)
{
	return !iter->len && !ops->iomap_end;
}

#endif
