/* SPDX-License-Identifier: MIT */
/*
 * bank.c - transactions as an application writes them.
 *
 * Half a transfer shows in the sum; one that was lost shows in the number of transfers.
 */
#include "bank.h"

_Static_assert(sizeof(struct bank_page) <= WP_PAYLOAD_BYTES, "a page has room for them");

void bank_fill(uint64_t number, void *payload)
{
	struct bank_page *page = payload;

	(void)number;
	for (int i = 0; i < BANK_ACCOUNTS; i++)
		page->balance[i] = BANK_BEGIN;
}

/* splitmix64 */
uint64_t bank_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

int bank_transfer(struct wp_store *store, uint64_t pages_nr, uint64_t *random, uint64_t *lsn)
{
	uint64_t from = bank_random(random) % pages_nr;
	uint64_t to = (from + 1 + bank_random(random) % (pages_nr - 1)) % pages_nr;
	int64_t amount = (int64_t)(bank_random(random) % 100);
	struct bank_page *source, *target;
	struct wp_txn *txn;
	int error;

	error = wp_begin(store, (uint64_t[]){ from, to }, 2, &txn);
	if (error)
		return error;
	source = wp_payload(txn, 0);
	target = wp_payload(txn, 1);
	source->balance[bank_random(random) % BANK_ACCOUNTS] -= amount;
	source->transfers_nr++;
	target->balance[bank_random(random) % BANK_ACCOUNTS] += amount;
	return wp_commit(txn, lsn);
}

int bank_count(struct wp_store *store, uint64_t pages_nr, struct bank_totals *out)
{
	int error = 0;

	*out = (struct bank_totals){ 0 };
	for (uint64_t number = 0; number < pages_nr && !error; number++) {
		const struct bank_page *page;
		struct wp_txn *txn;

		error = wp_begin(store, &number, 1, &txn);
		if (error)
			break;
		page = wp_payload(txn, 0);
		out->transfers_nr += page->transfers_nr;
		for (int i = 0; i < BANK_ACCOUNTS; i++)
			out->sum += page->balance[i];
		wp_abort(txn);
	}
	return error;
}
