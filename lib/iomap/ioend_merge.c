/* SPDX-License-Identifier: MIT */
/*
 * ioend_merge.c - batches of ioends whose completion was put off: sorting and merging.
 *
 * Ioends that have ended wait in a list of the application's, linked by io_list, in the order in
 * which they ended.  Sorted by file offset, those that continue each other become one: the first
 * keeps the others in a list at its own io_list and covers their bytes, so that a filesystem
 * changes its metadata once for all of them.  Who has merged them owns them as one, until
 * iomap_finish_ioends() (ioend.c) ends each with its own folios and its own error.
 *
 * Merging several that are merged already is not done: ioends come here one by one.
 *
 * Locks: none; the list is the caller's.
 */
#include "iomap/ops.h"

static struct iomap_ioend *merge_ioend(struct iomap_list_head *item)
{
	return iomap__container_of(item, struct iomap_ioend, io_list);
}

/* ---- sorting ---- */

/*
 * Merge sort from the bottom up over lists that are linked by `next` only and end in NULL:
 * runs[i] is NULL or a sorted run of 2^i ioends, all of which came before those of runs[i - 1].
 */
#define SORT_RUNS 32

static struct iomap_list_head *sort_join(struct iomap_list_head *first,
					 struct iomap_list_head *second)
{
	struct iomap_list_head *head = NULL, **tail = &head;

	while (first && second) {
		struct iomap_list_head **from = &first;

		/* of equal ones that which came first */
		if (merge_ioend(second)->io_offset < merge_ioend(first)->io_offset)
			from = &second;
		*tail = *from;
		tail = &(*from)->next;
		*from = *tail;
	}
	*tail = first ? first : second;
	return head;
}

static struct iomap_list_head *sort_all(struct iomap_list_head *item)
{
	struct iomap_list_head *runs[SORT_RUNS] = { NULL }, *sorted = NULL;
	unsigned i;

	while (item) {
		struct iomap_list_head *run = item;

		item = item->next;
		run->next = NULL;
		for (i = 0; i < SORT_RUNS - 1 && runs[i]; i++) {
			run = sort_join(runs[i], run);
			runs[i] = NULL;
		}
		runs[i] = sort_join(runs[i], run);
	}
	for (i = 0; i < SORT_RUNS; i++)
		sorted = sort_join(runs[i], sorted);
	return sorted;
}

void iomap_sort_ioends(struct iomap_list_head *ioends)
{
	struct iomap_list_head *item;

	if (iomap__list_empty(ioends))
		return;
	ioends->prev->next = NULL;
	item = sort_all(ioends->next);
	iomap__list_init(ioends);
	while (item) {
		struct iomap_list_head *next = item->next;

		iomap__list_add_tail(item, ioends);
		item = next;
	}
}

/* ---- merging ---- */

static bool merge_continues(const struct iomap_ioend *ioend, const struct iomap_ioend *next)
{
	const unsigned alike = IOMAP_IOEND_UNWRITTEN | IOMAP_IOEND_SHARED | IOMAP_IOEND_DONTCACHE;

	if ((next->io_flags ^ ioend->io_flags) & alike || next->io_flags & IOMAP_IOEND_BOUNDARY)
		return false;
	if (iomap__ioend_outcome(next) != iomap__ioend_outcome(ioend))
		return false;
	/* one that ends with the file, inside a sector, continues nowhere */
	return next->io_inode == ioend->io_inode &&
	       next->io_offset == ioend->io_offset + (int64_t)ioend->io_size &&
	       next->io_bio.bi_bdev == ioend->io_bio.bi_bdev &&
	       next->io_sector == ioend->io_sector + (ioend->io_size >> IOMAP_SECTOR_SHIFT);
}

void iomap_ioend_try_merge(struct iomap_ioend *ioend, struct iomap_list_head *more)
{
	iomap__list_init(&ioend->io_list);
	while (!iomap__list_empty(more)) {
		struct iomap_ioend *next = merge_ioend(more->next);

		if (!merge_continues(ioend, next))
			break;
		iomap__list_del(&next->io_list);
		iomap__list_add_tail(&next->io_list, &ioend->io_list);
		ioend->io_size += next->io_size;
	}
}
