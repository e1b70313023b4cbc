/* SPDX-License-Identifier: MIT */
/*
 * fadvise.c - iomap_fadvise(): what an application knows of its reads.
 *
 * How it will read is kept in the opener, for streams.c; a range that it will need is a prefetch
 * of which nobody wants to be told; one that it will not is dropped as far as that costs nobody
 * anything.
 *
 * Locks: the opener's, for the advice.
 */
#include "cache/cache.h"
#include "iomap/ops.h"

/* Share of the cache that is read at once: of more, the first would be gone before its use. */
#define WILLNEED_SHARE 4U

static int advise_willneed(struct iomap_file *file, int64_t off, uint64_t len)
{
	struct iomap_engine *engine = file->inode->i_engine;
	struct iomap_read_range range = { .file = file, .pos = off };
	struct iomap_prefetch prefetch = { .size = sizeof(prefetch), .ranges = &range, .nr = 1 };

	range.len = iomap__min(len, iomap__cache_bytes(engine) / WILLNEED_SHARE);
	return iomap_prefetch(&prefetch);
}

static void advise_dontneed(struct iomap_file *file, int64_t off, uint64_t len)
{
	int64_t size = iomap_i_size_read(file->inode), end = INT64_MAX;

	/* the last page of the file is in the range as a whole if all of it that there is is */
	if (len < (uint64_t)iomap__max(size - off, 0))
		end = off + (int64_t)len;
	iomap__filemap_drop_whole(&file->inode->i_data, off, end);
}

int iomap_fadvise(struct iomap_file *file, int64_t off, int64_t len, int advice)
{
	const struct iomap_file_operations *fop;
	struct iomap_engine *engine;
	uint64_t bytes = len ? (uint64_t)len : INT64_MAX;

	iomap__file_check(file);
	fop = file->inode->i_fop;
	engine = file->inode->i_engine;
	if (off < 0 || len < 0)
		return -EINVAL;
	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);
	if (fop && fop->fadvise)
		return fop->fadvise(file, off, len, advice);
	switch (advice) {
	case IOMAP_ADV_NORMAL:
	case IOMAP_ADV_RANDOM:
	case IOMAP_ADV_SEQUENTIAL:
		iomap__readahead_advise(file, (unsigned)advice);
		return 0;
	case IOMAP_ADV_WILLNEED:
		return advise_willneed(file, off, bytes);
	case IOMAP_ADV_DONTNEED:
		advise_dontneed(file, off, bytes);
		return 0;
	default:
		return -EINVAL;
	}
}
