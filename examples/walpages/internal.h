/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the files of walpages share.
 *
 *	region.c	two pieces of the device as inodes of the library: the log, the pages
 *	order.c		the order between them
 *	log.c		records in memory, and how they become durable
 *	txn.c		transactions
 *	recover.c	what the log has is done again
 *	store.c		format, open, checkpoint, close
 *
 * The device:  super block 0, super block 1 (4 KiB each)  |  log  |  pages.
 *
 * A position in the log, an LSN, counts the bytes ever logged; it lies at the LSN modulo the
 * size of the log.
 *
 * Locks, in this order:
 *	checkpoint_lock		one checkpoint at a time; the super block
 *	page_locks		pages of transactions, by number modulo WP_LOCKS, ascending
 *	apply_lock		shared: from a record to its pages in the cache; exclusively:
 *				where a checkpoint begins, so that each change is before it in
 *				the log and in the cache, or behind it in both
 *	folio locks		the library's
 *	log.lock		leaf, held for memory only
 * i_rwsem is taken shared by writers: two of them never have the same page, and one has the log.
 */
#ifndef WALPAGES_INTERNAL_H
#define WALPAGES_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "walpages.h"

#define WP_BLOCK_BYTES 4096U /* of super blocks, and what a batch of the log begins at */
#define WP_LOCKS 256U

_Static_assert(sizeof(struct wp_page) == WP_PAGE_BYTES, "no holes");

static inline uint64_t wp_round_up(uint64_t bytes)
{
	return (bytes + WP_BLOCK_BYTES - 1) & ~(uint64_t)(WP_BLOCK_BYTES - 1);
}

/* ---- regions ---- */

/* A piece of the device whose bytes lie where they lie, as an inode. */
struct wp_region {
	struct iomap_inode inode;
	struct iomap_file *file;
	struct iomap_bdev *bdev;
	uint64_t start; /* byte on the device */
};

struct wp_region_args {
	struct iomap_bdev *bdev;
	uint64_t start, bytes;
	uint32_t blkbits;
	uint32_t lock_class;
	const struct iomap_address_space_operations *a_ops;
	void *owner; /* i_private */
};

extern const struct iomap_address_space_operations wp_plain_a_ops;
extern const struct iomap_ops wp_region_ops;

int wp_region_open(struct iomap_engine *engine, struct wp_region *region,
		   const struct wp_region_args *args);
/* Write what is dirty, or throw it away when that fails. */
int wp_region_close(struct wp_region *region);
/* The one mapping there is. */
void wp_region_map(const struct wp_region *region, struct iomap *iomap);
/* All of [@at, @at + @bytes): -EIO when it is short. */
int wp_region_read(struct wp_region *region, void *to, size_t bytes, uint64_t at);
/* @ki_flags: IOMAP_IOCB_xxx; @write_ops: NULL for none.  No other writer has the same bytes. */
int wp_region_write(struct wp_region *region, const void *from, size_t bytes, uint64_t at,
		    uint32_t ki_flags, const struct iomap_write_ops *write_ops);
/* One bio. */
int wp_device_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr, void *memory, size_t bytes);

/* ---- the log ---- */

/*
 * What is written together begins at a block of its own: so no block with durable records is
 * ever written again, and what a power cut tears was promised to nobody.
 */
struct wp_batch {
	uint64_t checksum; /* XXH3 of what follows, `bytes` in all */
	uint64_t id;
	uint64_t epoch; /* counts recoveries: what an earlier one gave up stays given up */
	uint64_t lsn;
	uint32_t bytes; /* with this header, without the padding behind */
	uint32_t txns_nr;
};

/* A transaction: this, then its records. */
struct wp_txn_header {
	uint32_t bytes; /* with this header */
	uint32_t records_nr;
};

/* One change: this, then `len` bytes, padded to 8.  The whole payload: an image. */
struct wp_record {
	uint64_t number; /* page */
	uint32_t off, len; /* of the payload */
};

#define WP_TXN_BYTES_MAX(pages_nr)                                                              \
	(sizeof(struct wp_txn_header) +                                                         \
	 (pages_nr) * (sizeof(struct wp_record) + WP_PAYLOAD_BYTES))

struct wp_log {
	struct wp_region region;
	uint64_t bytes, id, epoch;
	size_t buffer_bytes;

	_Atomic uint64_t flushed; /* durable up to here; moved by who flushes */
	_Atomic int error;	  /* of the store, for ever; set under lock */

	pthread_mutex_t lock;	/* what follows */
	pthread_cond_t changed; /* of any of it */
	uint8_t *active, *spare;
	uint64_t start;	  /* LSN of active[0] */
	size_t used;	  /* bytes of active */
	size_t batch;	  /* where the open batch begins, if `open` */
	bool open;
	bool flushing;	  /* somebody writes what was `active`: `spare` is in use */
	uint64_t free_to; /* LSN at which the log would overtake its tail */
	uint64_t reserved;
	uint64_t flushes_nr, flushed_bytes;
};

int wp_log_init(struct wp_log *log, uint64_t bytes, uint64_t id);
void wp_log_exit(struct wp_log *log); /* after an error of init, too */
/* What is appended begins at @begin; nothing is before. */
void wp_log_begin(struct wp_log *log, uint64_t epoch, uint64_t begin);
/* Room for a transaction; waits for others that have some.  -ENOSPC: a checkpoint would help. */
int wp_log_reserve(struct wp_log *log, size_t bytes);
void wp_log_unreserve(struct wp_log *log, size_t bytes);
/* A transaction, in parts of multiples of 8 bytes.  Return: 0 and the LSN behind it. */
int wp_log_append(struct wp_log *log, const struct iovec *parts, unsigned nr, uint64_t *lsn);
/* End the batch; what comes goes to a new one.  Return: where that begins. */
uint64_t wp_log_seal(struct wp_log *log);
/* Durable up to @lsn, UINT64_MAX: up to now. */
int wp_log_flush(struct wp_log *log, uint64_t lsn);
/* What is before @lsn is not needed any more. */
void wp_log_free(struct wp_log *log, uint64_t lsn);
bool wp_log_is_half_full(struct wp_log *log);
void wp_log_fail(struct wp_log *log, int error);
uint64_t wp_log_checksum(const struct wp_batch *batch);

/* ---- the store ---- */

struct wp_super {
	uint64_t checksum; /* XXH3 of what follows */
	uint64_t magic, id;
	uint64_t sequence; /* counts super blocks; its lowest bit is where it lies */
	uint64_t epoch;
	uint64_t redo; /* LSN where recovery begins */
	uint64_t pages_nr, log_bytes;
};

struct wp_store {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct wp_log log;
	struct wp_region pages;
	const struct iomap_writeback_ops *order;
	struct iomap_work flush_log; /* for pages that wait for it */

	pthread_mutex_t checkpoint_lock;
	struct wp_super super; /* checkpoint_lock; pages_nr and log_bytes stay */

	pthread_rwlock_t apply_lock;
	uint64_t redo;	     /* where the newest checkpoint began; apply_lock */
	uint32_t generation; /* counts them, from 1; apply_lock */
	/* For each page 0 when it is clean, else the generation in which it became dirty: the folio's lock */
	_Atomic uint32_t *dirtied;

	pthread_mutex_t page_locks[WP_LOCKS];

	uint64_t redone_nr, redone_end; /* set at open */
	_Atomic uint64_t committed_nr, checkpoints_nr, images_nr;
};

extern const struct iomap_address_space_operations wp_page_a_ops;
extern const struct iomap_write_ops wp_page_write_ops;

void wp_flush_log_work(struct iomap_work *work);
/* A checkpoint, if half of the log is in use and nobody else makes one. */
int wp_make_room(struct wp_store *store);
/* Read a page: 0, -EBADMSG or -errno, that of a store that has failed too. */
int wp_page_read(struct wp_store *store, uint64_t number, struct wp_page *page);
void wp_page_seal(struct wp_page *page, uint64_t lsn);
/* Give @page its LSN and checksum and put it into the cache; apply_lock held, or at open. */
int wp_page_write(struct wp_store *store, struct wp_page *page, uint64_t lsn);
/* Redo what is there from super.redo on, in the cache; sets redone_nr and redone_end. */
int wp_recover(struct wp_store *store);

#endif
