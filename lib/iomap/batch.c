/* SPDX-License-Identifier: MIT */
/*
 * batch.c - iomap_read_batch(): many ranges read by one call.
 *
 * What a random read of a large cache waits for is memory: the slot of the index, the folio's
 * descriptor, the data.  The processor works on several such misses at a time if they do not
 * hang on each other.  So ranges are taken in groups: first all of a group are looked up, and
 * their descriptors and the start of their data asked for; then they are checked and copied, one
 * after the other.  What was found is only a hint (hit.h), so nothing need be held in between.
 *
 * Where a range is not cached the reads of all ranges near it are started before the first is
 * waited for, so that the device has them together.
 *
 * Whatever is not a plain hit is read by iomap_read(), which has its answer.
 */
#include "cache/cache.h"
#include "iomap/ops.h"

/* Ranges of a group: their data has to stay in the first level of the processor's cache. */
#define BATCH_GROUP 8U
#define BATCH_AHEAD_BYTES 1024U
/* Ranges whose device reads are started together. */
#define BATCH_START 32U

/* Bytes of the range below i_size. */
static size_t batch_bytes(const struct iomap_read_range *range, int64_t size)
{
	/* a negative position is beyond every size */
	if ((uint64_t)range->pos >= (uint64_t)size)
		return 0;
	return (size_t)iomap__min(range->len, (uint64_t)(size - range->pos));
}

static uintptr_t batch_look_up(const struct iomap_read_range *range)
{
	const struct iomap_file *file = range->file;
	const struct iomap_inode *inode = file->inode;
	size_t n = batch_bytes(range, iomap__load_acquire(&inode->i_size));
	const char *data;
	uintptr_t entry;

	if (!n || !file->cached)
		return 0;
	entry = iomap__index_hint(&inode->i_data, (uint64_t)range->pos >> IOMAP_PAGE_SHIFT);
	if (!entry)
		return 0;
	__builtin_prefetch(iomap__entry_folio(entry));
	data = iomap__hit_address(file, entry, range->pos);
	n = iomap__min(n, BATCH_AHEAD_BYTES) + ((uintptr_t)data & (IOMAP__CACHE_LINE - 1));
	for (size_t at = 0; at < n; at += IOMAP__CACHE_LINE)
		__builtin_prefetch(data + at);
	return entry;
}

/* The range out of one folio, if that is all, and a plain hit; else 0. */
static inline size_t batch_copy(const struct iomap_read_range *range, uintptr_t entry,
				struct iomap__thread *self)
{
	const struct iomap_file *file = range->file;
	int64_t size = iomap__load_acquire(&file->inode->i_size);
	size_t n = batch_bytes(range, size);

	n = iomap__hit_copy(file, entry, range->buf, n, range->pos);
	if (!n || iomap__load_acquire(&file->inode->i_size) != size)
		return 0;
	iomap__stat_add(file->stats, self, IOMAP__STAT_HITS, 1);
	return n;
}

/* Start reading what is not cached of @nr ranges. */
static void batch_start(const struct iomap_read_range *ranges, unsigned nr)
{
	struct iomap_plug plug;

	iomap_start_plug(&plug);
	for (unsigned i = 0; i < nr; i++)
		if (ranges[i].file->cached)
			iomap__readahead_range(ranges[i].file, ranges[i].pos, ranges[i].len);
	iomap__readahead_unplug(&plug, ranges[0].file->inode->i_engine);
}

int iomap_read_batch(struct iomap_read_range *ranges, unsigned nr, unsigned flags)
{
	struct iomap__thread *self = iomap__thread_self();
	uintptr_t entry[BATCH_GROUP];
	unsigned started = 0;
	int err = 0;

	if (flags)
		return -EINVAL;
	for (unsigned first = 0; first < nr; first += BATCH_GROUP) {
		unsigned in_group = iomap__min(nr - first, BATCH_GROUP);
		bool missing = false;

		for (unsigned i = 0; i < in_group; i++) {
			iomap__file_check(ranges[first + i].file);
			entry[i] = batch_look_up(&ranges[first + i]);
			missing |= !entry[i];
		}
		if (iomap__unlikely(missing) && first >= started) {
			unsigned more = iomap__min(nr - first, BATCH_START);

			batch_start(ranges + first, more);
			started = first + more;
		}
		for (unsigned i = 0; i < in_group; i++) {
			struct iomap_read_range *range = &ranges[first + i];
			size_t n = entry[i] ? batch_copy(range, entry[i], self) : 0;

			range->ret = iomap__likely(n) ? (ssize_t)n :
						       iomap_read(range->file, range->buf,
								  range->len, range->pos);
			if (iomap__unlikely(range->ret < 0) && !err)
				err = (int)range->ret;
		}
	}
	return err;
}
