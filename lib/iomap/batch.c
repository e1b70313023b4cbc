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
/* The processor finds the rest by itself; more asked for at once makes the copies wait. */
#define BATCH_AHEAD_BYTES 256U
/* Ranges whose device reads are started together. */
#define BATCH_START 32U

/* What the look-up of a range has found. */
struct batch_hit {
	uintptr_t entry;  /* slot of the index, or 0 */
	const char *from; /* its bytes, if the slot tells the truth */
};

/*
 * Look the range up, and ask for what is going to be read.  False: nothing is cached there, or it
 * is not a read from the cache.
 */
static inline bool batch_look_up(const struct iomap_read_range *range, struct batch_hit *hit)
{
	const struct iomap_file *file = range->file;
	const char *line, *end;

	hit->entry = 0;
	if (iomap__unlikely(!file->cached))
		return false;
	/* a negative position is in no folio */
	hit->entry = iomap__index_hint(&file->inode->i_data,
				       (uint64_t)range->pos >> IOMAP_PAGE_SHIFT);
	if (iomap__unlikely(!hit->entry))
		return false;
	__builtin_prefetch(iomap__entry_folio(hit->entry));
	hit->from = iomap__hit_address(file, hit->entry, range->pos);
	line = hit->from - ((uintptr_t)hit->from & (IOMAP__CACHE_LINE - 1));
	end = hit->from + iomap__min(range->len, BATCH_AHEAD_BYTES);
	for (; line < end; line += IOMAP__CACHE_LINE)
		__builtin_prefetch(line);
	return true;
}

/* The range out of its folio.  False: it is no plain hit. */
static inline bool batch_copy(struct iomap_read_range *range, const struct batch_hit *hit)
{
	if (iomap__unlikely(!hit->entry))
		return false;
	range->ret = (ssize_t)iomap__hit_copy(range->file, hit->entry, range->buf, hit->from,
					      range->len, range->pos);
	return iomap__likely(range->ret != 0);
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

static inline void batch_count(const struct iomap_file *file, uint64_t hits)
{
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, hits);
}

/* Copy a group that has been looked up.  The first error. */
static int batch_group(struct iomap_read_range *range, unsigned nr, const struct batch_hit *hit)
{
	const struct iomap_file *file = range->file; /* one of the cache that is counted for */
	uint64_t hits = 0;
	int err = 0;

	for (const struct iomap_read_range *end = range + nr; range < end; range++, hit++) {
		if (iomap__likely(batch_copy(range, hit))) {
			if (iomap__unlikely(range->file->stats != file->stats)) {
				batch_count(file, hits);
				file = range->file;
				hits = 0;
			}
			hits++;
			continue;
		}
		range->ret = iomap_read(range->file, range->buf, range->len, range->pos);
		if (iomap__unlikely(range->ret < 0) && !err)
			err = (int)range->ret;
	}
	batch_count(file, hits);
	return err;
}

int iomap_read_batch(struct iomap_read_range *ranges, unsigned nr, unsigned flags)
{
	struct batch_hit hit[BATCH_GROUP];
	unsigned started = 0;
	int err = 0, failed;

	if (flags)
		return -EINVAL;
	for (unsigned first = 0; first < nr; first += BATCH_GROUP) {
		unsigned in_group = iomap__min(nr - first, BATCH_GROUP);
		bool missing = false;

		for (unsigned i = 0; i < in_group; i++) {
			iomap__file_check(ranges[first + i].file);
			missing |= !batch_look_up(&ranges[first + i], &hit[i]);
		}
		if (iomap__unlikely(missing) && first >= started) {
			unsigned more = iomap__min(nr - first, BATCH_START);

			batch_start(ranges + first, more);
			started = first + more;
		}
		failed = batch_group(ranges + first, in_group, hit);
		err = err ? err : failed;
	}
	return err;
}
