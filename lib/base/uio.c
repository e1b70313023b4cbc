/* SPDX-License-Identifier: MIT */
/*
 * uio.c - iterators over caller memory.
 *
 * An iterator is a cursor: (segment, offset in it) and the bytes left.  `count` may be less
 * than what the segments hold, and is what bounds every step; the cursor never stands on the
 * end of a segment while another one follows, so a segment of length zero is never current
 * for a copy.  Behind the last byte of the last segment nr_segs is 0 and `iov` points behind
 * the array, from where iomap_iov_iter_revert() walks back.
 *
 * For one buffer (`iov` NULL) iov_offset counts from `ubuf`.
 *
 * One thread at a time; nothing here takes a lock, allocates, or keeps memory.
 */
#include <iomap/uio.h>

#include "base/base.h"

/* Step over the segments that end at or before `iov_offset`. */
static void uio_normalise(struct iomap_iov_iter *iter)
{
	while (iter->nr_segs && iter->iov_offset >= iter->iov->iov_len) {
		iter->iov_offset -= iter->iov->iov_len;
		iter->iov++;
		iter->nr_segs--;
	}
}

void iomap_iov_iter_init(struct iomap_iov_iter *iter, unsigned direction, const struct iovec *iov,
			 size_t nr_segs, size_t count)
{
	size_t held = 0;

	/* Stops as soon as there is enough, so that no sum of lengths can overflow. */
	for (size_t i = 0; i < nr_segs && held < count; i++)
		held += iomap__min(iov[i].iov_len, count - held);

	memset(iter, 0, sizeof(*iter));
	iter->iov = iov;
	iter->nr_segs = nr_segs;
	iter->count = held;
	iter->data_source = direction == IOMAP_ITER_SOURCE;
	uio_normalise(iter);
}

void iomap_iov_iter_ubuf(struct iomap_iov_iter *iter, unsigned direction, void *buf, size_t count)
{
	memset(iter, 0, sizeof(*iter));
	iter->ubuf = buf;
	iter->nr_segs = 1;
	iter->count = count;
	iter->data_source = direction == IOMAP_ITER_SOURCE;
}

size_t iomap_iov_iter_count(const struct iomap_iov_iter *iter)
{
	return iter->count;
}

void iomap_iov_iter_advance(struct iomap_iov_iter *iter, size_t bytes)
{
	bytes = iomap__min(bytes, iter->count);
	iter->count -= bytes;
	iter->iov_offset += bytes;
	if (iter->iov)
		uio_normalise(iter);
}

void iomap_iov_iter_revert(struct iomap_iov_iter *iter, size_t bytes)
{
	if (!iter->iov) {
		iomap__assert_msg(bytes <= iter->iov_offset, "iov_iter reverted by too much");
		bytes = iomap__min(bytes, iter->iov_offset);
	}
	iter->count += bytes;
	while (bytes > iter->iov_offset) {
		bytes -= iter->iov_offset;
		iter->iov--;
		iter->nr_segs++;
		iter->iov_offset = iter->iov->iov_len;
	}
	iter->iov_offset -= bytes;
}

void iomap_iov_iter_truncate(struct iomap_iov_iter *iter, size_t count)
{
	iter->count = iomap__min(iter->count, count);
}

char *iomap__iov_iter_segment(const struct iomap_iov_iter *iter, size_t *bytes)
{
	/* as numbers: of memory that may be bad (IOMAP_IOCB_CHECKED) nothing is known */
	if (!iter->iov)
		return (char *)((uintptr_t)iter->ubuf + iter->iov_offset);
	*bytes = iomap__min(*bytes, iter->iov->iov_len - iter->iov_offset);
	return (char *)((uintptr_t)iter->iov->iov_base + iter->iov_offset);
}

size_t iomap_copy_to_iter(const void *from, size_t bytes, struct iomap_iov_iter *iter)
{
	size_t done = 0;

	iomap__assert_msg(iter->data_source == IOMAP_ITER_DEST, "copy into the source of a write");
	bytes = iomap__min(bytes, iter->count);
	while (done < bytes) {
		size_t part = bytes - done;
		char *to = iomap__iov_iter_segment(iter, &part);

		memcpy(to, (const char *)from + done, part);
		iomap_iov_iter_advance(iter, part);
		done += part;
	}
	return done;
}

size_t iomap_copy_from_iter(void *to, size_t bytes, struct iomap_iov_iter *iter)
{
	size_t done = 0;

	iomap__assert_msg(iter->data_source == IOMAP_ITER_SOURCE,
			  "copy out of the target of a read");
	bytes = iomap__min(bytes, iter->count);
	while (done < bytes) {
		size_t part = bytes - done;
		const char *from = iomap__iov_iter_segment(iter, &part);

		memcpy((char *)to + done, from, part);
		iomap_iov_iter_advance(iter, part);
		done += part;
	}
	return done;
}

size_t iomap_iov_iter_zero(size_t bytes, struct iomap_iov_iter *iter)
{
	size_t done = 0;

	iomap__assert_msg(iter->data_source == IOMAP_ITER_DEST, "zeroing the source of a write");
	bytes = iomap__min(bytes, iter->count);
	while (done < bytes) {
		size_t part = bytes - done;
		char *to = iomap__iov_iter_segment(iter, &part);

		memset(to, 0, part);
		iomap_iov_iter_advance(iter, part);
		done += part;
	}
	return done;
}

unsigned long iomap_iov_iter_alignment(const struct iomap_iov_iter *iter)
{
	struct iomap_iov_iter at = *iter;
	unsigned long all = 0;

	while (at.count) {
		size_t part = at.count;
		char *memory = iomap__iov_iter_segment(&at, &part);

		all |= (unsigned long)(uintptr_t)memory | part;
		iomap_iov_iter_advance(&at, part);
	}
	return all;
}
