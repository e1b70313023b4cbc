/* SPDX-License-Identifier: MIT */
/*
 * iter.h - the steps of an iterator, for operations that go over mappings themselves.
 *
 * iomap_iter() does all of them in one loop, for everybody.  A write of a few bytes into the
 * cache costs little more than its steps, so it takes them one by one and leaves out what it
 * knows: that its flags and its range are right, that a mapping which covers all of it is as good
 * as any, and that nothing is left to be done when no iomap_end waits for the last mapping.
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

/* A mapping that the library takes no part of the flags of. */
#define IOMAP__ITER_PLAIN_FLAGS                                                                    \
	(IOMAP_F_NEW | IOMAP_F_DIRTY | IOMAP_F_SHARED | IOMAP_F_MERGED | IOMAP_F_XATTR |           \
	 IOMAP_F_BOUNDARY | IOMAP_F_ANON_WRITE | IOMAP_F_ATOMIC_BIO | IOMAP_F_ZEROES_UNWRITTEN |   \
	 IOMAP_F_PRIVATE)

/*
 * What nearly every mapping is: it covers all of [pos, pos + len), has a place or a reservation
 * for its bytes, is not marked for us, and has no other source.
 */
static inline bool iomap__iter_is_plain(const struct iomap_iter *iter, int64_t pos, uint64_t len)
{
	const struct iomap *iomap = &iter->iomap;

	_Static_assert(IOMAP_HOLE == 0 && IOMAP_UNWRITTEN == 3 && IOMAP_INLINE == 4,
		       "plain types are those of the two low bits");
	/*
	 * A negative offset is far behind the position.  The last bytes are compared with their
	 * signs: that of the mapping is negative where it has no byte or ends behind 2^63, and
	 * where the sum is too large for its 64 bits it lies before the offset.
	 */
	return iomap__likely((uint64_t)iomap->offset <= (uint64_t)pos) &&
	       iomap__likely((int64_t)(iomap__mapping_end(iomap) - 1) >=
			     (int64_t)((uint64_t)pos + len - 1)) &&
	       iomap__likely(iomap->type != IOMAP_HOLE) &&
	       iomap__likely(!((iomap->type | (uint32_t)iomap->flags << 16) &
			       ~(IOMAP_UNWRITTEN | (uint32_t)IOMAP__ITER_PLAIN_FLAGS << 16))) &&
	       iomap__likely(!iomap__iter_has_srcmap(iter));
}

/*
 * A new iterator over [pos, pos + len), which is not empty nor ends behind 2^63; as far as
 * iomap__iter_sample() needs it.
 */
static inline void iomap__iter_init(struct iomap_iter *iter, struct iomap_inode *inode,
				    int64_t pos, uint64_t len, unsigned flags, void *private_data)
{
	iter->inode = inode;
	iter->pos = pos;
	iter->len = len;
	iter->flags = flags;
	iter->private = private_data;
	iter->reserved[0] = iter->reserved[1] = 0;
	iomap__iter_clear(iter);
}

/* For debug builds: nothing is locked that an iomap_begin or iomap_end may want. */
#if IOMAP_DEBUG
void iomap__iter_assert_unlocked(const struct iomap_iter *iter, const char *what);
#else
#define iomap__iter_assert_unlocked(iter, what) ((void)0)
#endif

/* Call iomap_begin for what is left of the range; the mappings are cleared.  Its answer. */
static inline int iomap__iter_ask(struct iomap_iter *iter, const struct iomap_ops *ops)
{
	iter->iter_start_pos = iter->pos;
	iter->status = 0;
	iomap__iter_assert_unlocked(iter, "iomap_begin");
	return ops->iomap_begin(iter->inode, iter->pos, (int64_t)iter->len, iter->flags,
				&iter->iomap, &iter->srcmap);
}
/* Look closely at what was answered: 1 with a mapping, or -errno without. */
IOMAP_MUST_CHECK int iomap__iter_look(struct iomap_iter *iter, const struct iomap_ops *ops,
				      int answer);
/* End the mapping the body has worked on, and sample the next one.  As iomap_iter(). */
IOMAP_MUST_CHECK int iomap__iter_next(struct iomap_iter *iter, const struct iomap_ops *ops);

/* The range is done, and nobody waits to hear of its last mapping: iomap__iter_next() is 0. */
static inline bool iomap__iter_over(const struct iomap_iter *iter, const struct iomap_ops *ops)
{
	return !iter->len && !ops->iomap_end;
}

#endif
