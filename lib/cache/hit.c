/* SPDX-License-Identifier: MIT */
/*
 * hit.c - reads that may take several folios, or more than one look at one of them.
 *
 * A run goes from folio to folio as long as these are cached and uptodate.  While it copies
 * out of one it has looked up the next and asked for its descriptor and the first of its data,
 * which the processor would not guess: folios of one file lie anywhere in the arena.
 *
 * A folio that changes while it is copied is tried again a few times; then the reader takes its
 * lock, which is filemap.c's business.  A folio that is used for the first time since eviction
 * has looked at it, or since it was read ahead, is marked so.
 *
 * Nothing here takes a lock or blocks, but for the window of readahead that a first use may
 * start.  The proof of all this is at the head of hit.h.
 */
#include "cache/internal.h"

/* Failed optimistic copies before the reader takes the folio's lock. */
#define COPY_TRIES 4
/* Bytes of the next folio that are asked for beforehand. */
#define AHEAD_BYTES 1024U

void iomap__file_init_hits(struct iomap_file *file)
{
	const struct iomap_file_operations *fop = file->inode->i_fop;
	struct iomap__cache *cache = file->inode->i_engine->cache;

	file->cached = !(file->flags & IOMAP_O_DIRECT) && !(fop && fop->read_iter);
	file->page_bias = (uintptr_t)cache->data - ((uintptr_t)cache->folios << 6);
	file->stats = &cache->stats;
}

/*
 * Up to @n bytes out of one folio, of any flags, and up to i_size.  0: not cached, not uptodate,
 * changing, or behind the end.
 */
static size_t hit_one(struct iomap_file *file, uintptr_t entry, void *to, size_t n, int64_t pos,
		      unsigned how)
{
	uint64_t bytes = iomap__entry_bytes(entry), word;
	uint32_t flags = iomap__hit_check(file, entry, pos, &word);
	int64_t left;

	if (!(flags & IOMAP__FOLIO_UPTODATE))
		return 0;
	left = iomap__hit_left(file, pos);
	if (left <= 0)
		return 0;
	n = (size_t)iomap__min(n, (uint64_t)left);
	n = (size_t)iomap__min(n, bytes - ((uint64_t)pos & (bytes - 1)));
	iomap__copy_from_folio(to, iomap__hit_address(file, entry, pos), n);
	if (!iomap__hit_stands(entry, word))
		return 0;
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, 1);
	if (flags & IOMAP__FOLIO_COUNTED)
		iomap__mapping_count(&file->inode->i_data, IOMAP__ISTAT_HITS, 1);
	if ((flags & IOMAP__HIT_FLAGS) != (IOMAP__FOLIO_UPTODATE | IOMAP__FOLIO_ACCESSED)) {
		iomap__filemap_used(file, iomap__entry_folio(entry), pos, how);
		iomap__store(&file->used_end, (uint32_t)pos + (uint32_t)n);
	}
	return n;
}

/* Look again, where it may be that the folio was only changing. */
static size_t hit_retry(struct iomap_file *file, void *to, size_t n, int64_t pos, unsigned how)
{
	const struct iomap_address_space *mapping = &file->inode->i_data;
	size_t got = 0;

	for (int i = 1; i < COPY_TRIES && !got; i++) {
		uintptr_t entry = iomap__index_hint(mapping, (uint64_t)pos >> IOMAP_PAGE_SHIFT);

		if (!entry || !iomap__folio_test(iomap__entry_folio(entry), IOMAP__FOLIO_UPTODATE))
			return 0;
		iomap__cpu_relax();
		got = hit_one(file, entry, to, n, pos, how);
	}
	return got;
}

/* The slot of the folio at @pos, of which @n bytes will be wanted soon. */
static uintptr_t hit_ahead(const struct iomap_file *file, size_t n, int64_t pos)
{
	uintptr_t entry = iomap__index_hint(&file->inode->i_data,
					    (uint64_t)pos >> IOMAP_PAGE_SHIFT);

	if (entry) {
		const char *data = iomap__hit_address(file, entry, pos);

		__builtin_prefetch(iomap__entry_folio(entry));
		n = iomap__min(n, AHEAD_BYTES);
		for (size_t at = 0; at < n; at += IOMAP__CACHE_LINE)
			__builtin_prefetch(data + at);
	}
	return entry;
}

size_t iomap__hit_run(struct iomap_file *file, void *to, size_t n, int64_t pos, unsigned how)
{
	uintptr_t entry = hit_ahead(file, n, pos), next;
	size_t done = 0, got;

	while (done < n) {
		int64_t at = pos + (int64_t)done;
		uint64_t bytes = iomap__entry_bytes(entry);
		/* where the folio ends, if there is one */
		size_t end = done + (size_t)(bytes - ((uint64_t)at & (bytes - 1)));

		next = end < n ? hit_ahead(file, n - end, pos + (int64_t)end) : 0;
		got = entry ? hit_one(file, entry, (char *)to + done, n - done, at, how) : 0;
		if (iomap__unlikely(!got)) {
			got = hit_retry(file, (char *)to + done, n - done, at, how);
			if (!got)
				break;
			/* perhaps another folio than before: of another size */
			next = hit_ahead(file, n - done - got, at + (int64_t)got);
		}
		done += got;
		entry = next;
	}
	return done;
}
