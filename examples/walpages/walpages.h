/* SPDX-License-Identifier: MIT */
/*
 * walpages.h - pages in one file or block device, changed by transactions that survive any
 * power cut, by means of a write-ahead log.
 *
 * A transaction locks up to four pages, changes private copies of them, and commits: one record
 * goes to the log, then the copies become the pages in the cache.  The cache writes pages when
 * it likes, but never one whose last record is not durable; that is what this example is about,
 * and order.c is where it happens.
 *
 * Threads: any, of any function; a transaction belongs to one thread.
 * Errors: negative errno.  When the log or a page cannot be written, the store has failed: every
 * call from then on gives that error, and what was durable is found again by opening anew.
 * Lifetime: engine and device are the caller's and outlive the store.
 */
#ifndef WALPAGES_H
#define WALPAGES_H

#include <iomap/iomap.h>

#define WP_PAGE_BYTES 8192U
#define WP_PAYLOAD_BYTES (WP_PAGE_BYTES - 3 * sizeof(uint64_t))
#define WP_TXN_PAGES_MAX 4U
#define WP_LOG_BYTES_MIN (256U << 10)

/* A page as it lies on the device, in the byte order of the machine. */
struct wp_page {
	uint64_t checksum; /* XXH3 of what follows */
	uint64_t lsn;	   /* end of the record of the last change */
	uint64_t number;
	uint8_t payload[WP_PAYLOAD_BYTES];
};

struct wp_store;
struct wp_txn;

/* How pages are kept behind their records: for wp_open(). */
extern const struct iomap_writeback_ops wp_order_defer;	 /* the page stays until the log is there */
extern const struct iomap_writeback_ops wp_order_submit; /* the log is flushed before the page */

/*
 * Make a store.
 * @fill: called for each page, with a payload of zeros, to put there what it begins with
 * @id: any number; tells logs of different stores apart
 * Return: 0; -EINVAL: no pages, a log that is too small or no multiple of the page size;
 * -ENOSPC: the device is too small; or its error.
 */
int wp_format(struct iomap_bdev *bdev, uint64_t pages_nr, uint64_t log_bytes, uint64_t id,
	      void (*fill)(uint64_t number, void *payload));
/* Bytes of device that such a store needs. */
uint64_t wp_store_bytes(uint64_t pages_nr, uint64_t log_bytes);

/*
 * Open a store, and redo what the log has.  The cache should have room for some dozen pages for
 * each thread.
 * Return: 0; -EBADMSG: no store, or damage that a power cut does not do; -EIO and others.
 */
int wp_open(struct iomap_engine *engine, struct iomap_bdev *bdev,
	    const struct iomap_writeback_ops *order, struct wp_store **out);
/* Checkpoint and close; no transaction is open.  The store is gone also after an error. */
int wp_close(struct wp_store *store);

/*
 * Begin a transaction on these pages, which are locked until its end: in the order of their
 * locks, so transactions never wait for each other in a circle, but a thread has one at a time.
 * Return: 0; -EINVAL: none, too many, one that is not there or that is named twice; -EBADMSG: a
 * page is damaged; -ENOMEM; or the store's error.
 */
int wp_begin(struct wp_store *store, const uint64_t *pages, unsigned nr, struct wp_txn **out);
/* Its copy of pages[i], WP_PAYLOAD_BYTES, to be read and changed. */
void *wp_payload(struct wp_txn *txn, unsigned i);
/*
 * Commit: others see the changes from now on.  They are durable when wp_wait() for *@lsn has
 * returned 0.  The transaction is gone also after an error.
 */
int wp_commit(struct wp_txn *txn, uint64_t *lsn);
/* Forget the transaction. */
void wp_abort(struct wp_txn *txn);
/* Wait until the log is durable up to @lsn.  Those who wait together share flushes. */
int wp_wait(struct wp_store *store, uint64_t lsn);

/*
 * Write what had been changed when it was called, while others go on, and give the log before
 * that free.  Commits do it by themselves when half of the log is in use.
 */
int wp_checkpoint(struct wp_store *store);

struct wp_stats {
	uint64_t pages_nr, log_bytes, data_start; /* the last: byte on the device */
	uint64_t redone_nr;   /* transactions found in the log at open */
	uint64_t redone_end;  /* where the log ended then */
	uint64_t committed_nr; /* since */
	uint64_t durable;     /* LSN */
	uint64_t flushes_nr, flushed_bytes; /* of the log */
	uint64_t checkpoints_nr;
	uint64_t images_nr;   /* records of a whole page */
};

void wp_stats(struct wp_store *store, struct wp_stats *out);

/* Whether @page is page @number, undamaged. */
bool wp_page_valid(const struct wp_page *page, uint64_t number);

#endif
