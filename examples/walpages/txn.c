/* SPDX-License-Identifier: MIT */
/*
 * txn.c - transactions: lock, copy, change, log, apply.
 *
 * The copies are the transaction's own until it commits, so nothing is ever to be undone, in the
 * cache or on the device: a log of new values is enough.  A transaction that has no record in the
 * log never was.
 *
 * Torn pages: the first change of a page since the newest checkpoint began is logged with the
 * whole payload, whatever of it has changed, and so recovery needs nothing of what the device has of
 * that page.  Later changes are logged as the range of bytes that differ.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "internal.h"

struct wp_txn {
	struct wp_store *store;
	unsigned nr;
	unsigned slots_nr;
	unsigned slots[WP_TXN_PAGES_MAX]; /* of page_locks, ascending, each once */
	uint64_t numbers[WP_TXN_PAGES_MAX];
	struct wp_page old[WP_TXN_PAGES_MAX], new[WP_TXN_PAGES_MAX];
};

/* ---- pages ---- */

static uint64_t page_checksum(const struct wp_page *page)
{
	return XXH3_64bits(&page->lsn, sizeof(*page) - offsetof(struct wp_page, lsn));
}

bool wp_page_valid(const struct wp_page *page, uint64_t number)
{
	return page->number == number && page->checksum == page_checksum(page);
}

void wp_page_seal(struct wp_page *page, uint64_t lsn)
{
	page->lsn = lsn;
	page->checksum = page_checksum(page);
}

int wp_page_read(struct wp_store *store, uint64_t number, struct wp_page *page)
{
	int error = wp_region_read(&store->pages, page, sizeof(*page), number * sizeof(*page));

	/* after the read: a page that could not be written may have been read as it was before */
	if (!error)
		error = atomic_load(&store->log.error);
	if (error)
		return error;
	return wp_page_valid(page, number) ? 0 : -EBADMSG;
}

int wp_page_write(struct wp_store *store, struct wp_page *page, uint64_t lsn)
{
	wp_page_seal(page, lsn);
	return wp_region_write(&store->pages, page, sizeof(*page), page->number * sizeof(*page), 0,
			       &wp_page_write_ops);
}

/* ---- locks ---- */

static void take_slot(struct wp_txn *txn, unsigned slot)
{
	unsigned at = 0;

	while (at < txn->slots_nr && txn->slots[at] < slot)
		at++;
	if (at < txn->slots_nr && txn->slots[at] == slot)
		return;
	memmove(&txn->slots[at + 1], &txn->slots[at], (txn->slots_nr - at) * sizeof(slot));
	txn->slots[at] = slot;
	txn->slots_nr++;
}

static void lock_pages(struct wp_txn *txn)
{
	for (unsigned i = 0; i < txn->slots_nr; i++)
		pthread_mutex_lock(&txn->store->page_locks[txn->slots[i]]);
}

static void unlock_pages(struct wp_txn *txn)
{
	for (unsigned i = txn->slots_nr; i-- > 0;)
		pthread_mutex_unlock(&txn->store->page_locks[txn->slots[i]]);
}

/* ---- begin and end ---- */

static bool pages_make_sense(const struct wp_store *store, const uint64_t *pages, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		if (pages[i] >= store->super.pages_nr)
			return false;
		for (unsigned j = 0; j < i; j++)
			if (pages[i] == pages[j])
				return false;
	}
	return true;
}

static int reserve(struct wp_store *store, size_t bytes)
{
	int error;

	while ((error = wp_log_reserve(&store->log, bytes)) == -ENOSPC) {
		error = wp_checkpoint(store);
		if (error)
			break;
	}
	return error;
}

int wp_begin(struct wp_store *store, const uint64_t *pages, unsigned nr, struct wp_txn **out)
{
	struct wp_txn *txn;
	int error;

	if (!nr || nr > WP_TXN_PAGES_MAX || !pages_make_sense(store, pages, nr))
		return -EINVAL;
	error = reserve(store, WP_TXN_BYTES_MAX(nr));
	if (error)
		return error;
	txn = malloc(sizeof(*txn));
	if (!txn) {
		wp_log_unreserve(&store->log, WP_TXN_BYTES_MAX(nr));
		return -ENOMEM;
	}
	txn->store = store;
	txn->nr = nr;
	txn->slots_nr = 0;
	for (unsigned i = 0; i < nr; i++)
		take_slot(txn, (unsigned)(pages[i] % WP_LOCKS));
	lock_pages(txn);
	for (unsigned i = 0; i < nr && !error; i++) {
		txn->numbers[i] = pages[i];
		error = wp_page_read(store, pages[i], &txn->old[i]);
		txn->new[i] = txn->old[i];
	}
	if (error)
		wp_abort(txn);
	else
		*out = txn;
	return error;
}

void *wp_payload(struct wp_txn *txn, unsigned i)
{
	return txn->new[i].payload;
}

void wp_abort(struct wp_txn *txn)
{
	unlock_pages(txn);
	wp_log_unreserve(&txn->store->log, WP_TXN_BYTES_MAX(txn->nr));
	free(txn);
}

/* ---- commit ---- */

/* What has to be logged of a page: nothing, an image, or the bytes that differ, in units of 8. */
static struct wp_record record_of(const struct wp_txn *txn, unsigned i)
{
	const uint8_t *old = txn->old[i].payload, *new = txn->new[i].payload;
	struct wp_record record = { .number = txn->numbers[i], .len = WP_PAYLOAD_BYTES };

	if (!memcmp(old, new, WP_PAYLOAD_BYTES))
		record.len = 0;
	if (!record.len || txn->old[i].lsn <= txn->store->redo)
		return record;
	while (!memcmp(old + record.off, new + record.off, 8))
		record.off += 8;
	record.len -= record.off;
	while (!memcmp(old + record.off + record.len - 8, new + record.off + record.len - 8, 8))
		record.len -= 8;
	return record;
}

/* Log what has changed; *@changed has a bit for each such page. */
static int log_changes(struct wp_txn *txn, unsigned *changed, uint64_t *lsn)
{
	struct wp_txn_header header = { .bytes = sizeof(header) };
	struct iovec parts[1 + 2 * WP_TXN_PAGES_MAX] = { { &header, sizeof(header) } };
	struct wp_record records[WP_TXN_PAGES_MAX];
	unsigned nr = 1;

	for (unsigned i = 0; i < txn->nr; i++) {
		struct wp_record *record = &records[i];

		*record = record_of(txn, i);
		if (!record->len)
			continue;
		*changed |= 1U << i;
		header.records_nr++;
		header.bytes += (uint32_t)sizeof(*record) + record->len;
		parts[nr++] = (struct iovec){ record, sizeof(*record) };
		parts[nr++] = (struct iovec){ txn->new[i].payload + record->off, record->len };
		if (record->len == WP_PAYLOAD_BYTES)
			atomic_fetch_add(&txn->store->images_nr, 1);
	}
	return *changed ? wp_log_append(&txn->store->log, parts, nr, lsn) : 0;
}

/*
 * From the record on the pages have to follow.  Where that fails half of the transaction may be
 * in the cache: the store has failed, and its log has all of it.
 */
static int apply(struct wp_txn *txn, unsigned changed, uint64_t lsn)
{
	int error = 0;

	for (unsigned i = 0; i < txn->nr && !error; i++)
		if (changed & 1U << i)
			error = wp_page_write(txn->store, &txn->new[i], lsn);
	if (error)
		wp_log_fail(&txn->store->log, error);
	return error;
}

int wp_commit(struct wp_txn *txn, uint64_t *lsn)
{
	struct wp_store *store = txn->store;
	unsigned changed = 0;
	int error;

	*lsn = 0;
	pthread_rwlock_rdlock(&store->apply_lock);
	error = log_changes(txn, &changed, lsn);
	if (!error)
		error = apply(txn, changed, *lsn);
	pthread_rwlock_unlock(&store->apply_lock);
	wp_abort(txn);
	if (error)
		return error;
	atomic_fetch_add(&store->committed_nr, 1);
	return wp_make_room(store);
}

int wp_wait(struct wp_store *store, uint64_t lsn)
{
	return wp_log_flush(&store->log, lsn);
}
