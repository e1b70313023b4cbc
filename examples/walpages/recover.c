/* SPDX-License-Identifier: MIT */
/*
 * recover.c - what the log has is done again.
 *
 * From where the last checkpoint began, batch after batch, until one is not whole: there the log
 * ended.  Behind it may be remains of what was being written when the power went, or of
 * earlier rounds; open() begins a new epoch, so that they never count as its continuation.
 *
 * A change is left out where the page has it already.  Doing it twice does no harm, so neither
 * does a power cut in the middle of this.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct recovery {
	struct wp_store *store;
	uint8_t *buffer; /* a batch */
	uint64_t lsn;	 /* behind what is redone */
};

static int read_log(struct wp_log *log, void *to, size_t bytes, uint64_t lsn)
{
	uint64_t at = lsn % log->bytes;
	size_t n = bytes < log->bytes - at ? bytes : (size_t)(log->bytes - at);
	int error = wp_region_read(&log->region, to, n, at);

	return error || n == bytes ? error : wp_region_read(&log->region, (char *)to + n, bytes - n, 0);
}

/* The batch at @lsn.  Return: 0; -ENODATA: there is none; -errno. */
static int read_batch(struct recovery *recovery)
{
	struct wp_log *log = &recovery->store->log;
	struct wp_batch *batch = (struct wp_batch *)recovery->buffer;
	int error = read_log(log, batch, sizeof(*batch), recovery->lsn);

	if (error)
		return error;
	if (batch->id != log->id || batch->epoch != log->epoch || batch->lsn != recovery->lsn ||
	    batch->bytes < sizeof(*batch) || batch->bytes > log->buffer_bytes)
		return -ENODATA;
	error = read_log(log, batch, batch->bytes, recovery->lsn);
	if (error)
		return error;
	return wp_log_checksum(batch) == batch->checksum ? 0 : -ENODATA;
}

static int redo_record(struct wp_store *store, const struct wp_record *record, uint64_t lsn)
{
	struct wp_page page;
	int error;

	if (record->number >= store->super.pages_nr || record->len > WP_PAYLOAD_BYTES ||
	    record->off > WP_PAYLOAD_BYTES - record->len)
		return -EBADMSG;
	error = wp_page_read(store, record->number, &page);
	if (!error && page.lsn >= lsn)
		return 0;
	/* torn, or never whole: an image does not mind */
	if (error && (error != -EBADMSG || record->len < WP_PAYLOAD_BYTES))
		return error;
	page.number = record->number;
	memcpy(page.payload + record->off, record + 1, record->len);
	return wp_page_write(store, &page, lsn);
}

static int redo_txn(struct wp_store *store, const struct wp_txn_header *txn, uint64_t end)
{
	const uint8_t *at = (const uint8_t *)(txn + 1), *limit = (const uint8_t *)txn + txn->bytes;
	int error = 0;

	for (uint32_t i = 0; i < txn->records_nr && !error; i++) {
		const struct wp_record *record = (const void *)at;

		if ((size_t)(limit - at) < sizeof(*record) ||
		    (size_t)(limit - at) - sizeof(*record) < record->len)
			return -EBADMSG;
		error = redo_record(store, record, end);
		at += sizeof(*record) + record->len;
	}
	if (!error)
		store->redone_nr++;
	return error;
}

static int redo_batch(struct recovery *recovery)
{
	const struct wp_batch *batch = (const void *)recovery->buffer;
	uint32_t at = sizeof(*batch);
	int error = 0;

	for (uint32_t i = 0; i < batch->txns_nr && !error; i++) {
		const struct wp_txn_header *txn = (const void *)(recovery->buffer + at);

		if (batch->bytes - at < sizeof(*txn) || txn->bytes < sizeof(*txn) ||
		    batch->bytes - at < txn->bytes)
			return -EBADMSG;
		at += txn->bytes;
		error = redo_txn(recovery->store, txn, batch->lsn + at);
	}
	recovery->lsn += wp_round_up(batch->bytes);
	return error;
}

int wp_recover(struct wp_store *store)
{
	struct recovery recovery = { .store = store, .lsn = store->super.redo };
	int error;

	/* What is found is durable, all of it: no page is held back, whenever it is written. */
	atomic_store(&store->log.flushed, UINT64_MAX);
	recovery.buffer = malloc(store->log.buffer_bytes);
	if (!recovery.buffer)
		return -ENOMEM;
	do {
		error = read_batch(&recovery);
		if (!error)
			error = redo_batch(&recovery);
	} while (!error);
	free(recovery.buffer);
	store->redone_end = recovery.lsn;
	return error == -ENODATA ? 0 : error;
}
