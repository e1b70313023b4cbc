/* SPDX-License-Identifier: MIT */
/*
 * bank.h - accounts in pages, and transfers between them: the sum of all never changes.
 */
#ifndef WALPAGES_BANK_H
#define WALPAGES_BANK_H

#include "walpages.h"

#define BANK_ACCOUNTS 1000 /* in each page */
#define BANK_BEGIN 1000	   /* what each account has at first */

/* The payload of a page. */
struct bank_page {
	uint64_t transfers_nr; /* out of its accounts */
	int64_t balance[BANK_ACCOUNTS];
};

struct bank_totals {
	int64_t sum;
	uint64_t transfers_nr;
};

/* For wp_format(). */
void bank_fill(uint64_t number, void *payload);
/* Random numbers: the state moves on. */
uint64_t bank_random(uint64_t *state);
/* Move a random amount between accounts of two random pages.  Return: as wp_commit(). */
int bank_transfer(struct wp_store *store, uint64_t pages_nr, uint64_t *random, uint64_t *lsn);
/* Add up all pages; no transfer runs meanwhile. */
int bank_count(struct wp_store *store, uint64_t pages_nr, struct bank_totals *out);

#endif
