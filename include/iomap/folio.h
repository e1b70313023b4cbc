/* SPDX-License-Identifier: MIT */
/*
 * iomap/folio.h - folios: runs of 2^n base pages in the cache.
 *
 * A folio is opaque.  Whoever uses one holds a reference (iomap_folio_get/put) or its lock;
 * callbacks that get a folio get it locked and referenced unless they say otherwise.
 * Functions here do not block and may be used in any context, but for lock and wait.
 * Contents are changed only by the holder of the lock, and never by a plain store where
 * readers may be copying: use iomap_folio_write() and iomap_folio_zero(), or bios.
 */
#ifndef IOMAP_FOLIO_H
#define IOMAP_FOLIO_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** iomap_folio_pos - byte in the file where the folio starts (kernel: folio_pos) */
IOMAP_API int64_t iomap_folio_pos(const struct iomap_folio *folio);
/** iomap_folio_size - bytes */
IOMAP_API size_t iomap_folio_size(const struct iomap_folio *folio);
/** iomap_folio_index - page number in the file where the folio starts */
IOMAP_API uint64_t iomap_folio_index(const struct iomap_folio *folio);
/** iomap_folio_mapping - its address space; NULL when it left the cache */
IOMAP_API struct iomap_address_space *iomap_folio_mapping(const struct iomap_folio *folio);
/** iomap_folio_inode - its inode; the folio must be locked or under writeback */
IOMAP_API struct iomap_inode *iomap_folio_inode(const struct iomap_folio *folio);
/** iomap_folio_address - its memory; reading it needs the lock, or a check that nobody wrote */
IOMAP_API void *iomap_folio_address(const struct iomap_folio *folio);

/*
 * State flags.  What is found may be old the next moment, unless the folio is locked: then
 * uptodate and dirty stay, and writeback can only end.
 */
/** iomap_folio_test_locked - somebody, perhaps a read in flight, holds the lock */
IOMAP_API bool iomap_folio_test_locked(const struct iomap_folio *folio);
/** iomap_folio_test_uptodate - all of it holds data */
IOMAP_API bool iomap_folio_test_uptodate(const struct iomap_folio *folio);
/** iomap_folio_test_dirty - some block of it has to be written */
IOMAP_API bool iomap_folio_test_dirty(const struct iomap_folio *folio);
/** iomap_folio_test_writeback - some of it is being written */
IOMAP_API bool iomap_folio_test_writeback(const struct iomap_folio *folio);

/** iomap_folio_mark_uptodate - all of it holds data (kernel name); the folio must be locked */
IOMAP_API void iomap_folio_mark_uptodate(struct iomap_folio *folio);

/** iomap_folio_write - copy into the folio; locked; @off + @len within the folio */
IOMAP_API void iomap_folio_write(struct iomap_folio *folio, size_t off, const void *from,
				 size_t len);
/** iomap_folio_read - copy out of the folio; locked or referenced and under writeback */
IOMAP_API void iomap_folio_read(const struct iomap_folio *folio, size_t off, void *to, size_t len);
/** iomap_folio_zero - fill with zeros; locked */
IOMAP_API void iomap_folio_zero(struct iomap_folio *folio, size_t off, size_t len);

/** iomap_folio_get - take a reference; the caller holds one, or the lock */
IOMAP_API void iomap_folio_get(struct iomap_folio *folio);
/** iomap_folio_put - drop a reference */
IOMAP_API void iomap_folio_put(struct iomap_folio *folio);

/** iomap_folio_lock - lock; blocks, completes I/O while it waits (kernel: folio_lock) */
IOMAP_API void iomap_folio_lock(struct iomap_folio *folio);
/** iomap_folio_trylock - lock if that needs no wait.  Return: true when locked. */
IOMAP_API IOMAP_MUST_CHECK bool iomap_folio_trylock(struct iomap_folio *folio);
/** iomap_folio_unlock - unlock; any thread and context, if the lock was handed to it */
IOMAP_API void iomap_folio_unlock(struct iomap_folio *folio);
/** iomap_folio_wait_writeback - block until the folio is not under writeback */
IOMAP_API void iomap_folio_wait_writeback(struct iomap_folio *folio);

/**
 * iomap_filemap_get_folio - look a folio up, cached only
 * @mapping: the address space
 * @index: page number
 *
 * Any context.  Return: the folio that covers @index, referenced and not locked, or NULL.
 */
IOMAP_API struct iomap_folio *iomap_filemap_get_folio(struct iomap_address_space *mapping,
						      uint64_t index);

/* ---- pins: folios in place ---- */

/* iomap_folio_pin() flags */
#define IOMAP_PIN_NOREAD 0x1U /* caller / library: only what is cached */

/* A folio that is held where it is.  Filled in by iomap_folio_pin(); the caller's memory. */
struct iomap_pin {
	void *addr; /* of the byte asked for */
	size_t len; /* bytes from there to the end of the folio or of the file */
	struct iomap_folio *folio;
	uint64_t reserved;
};

/**
 * iomap_folio_pin - hold the folio that has byte @pos, and tell where its memory is
 * @file: an open file; the pin does not hold it
 * @pos: byte, below i_size
 * @flags: IOMAP_PIN_NOREAD: do not read
 * @pin: filled in; needs no preparation
 *
 * Reads the folio in where it is not cached, or only in parts, and may block for that;
 * otherwise it takes no lock and makes no system call.  Any thread.  No folio lock held, unless
 * IOMAP_PIN_NOREAD is set.
 *
 * Until the unpin the folio is neither evicted nor moved.  Its bytes are live: writers change
 * them, and truncation zeroes them or takes the folio out of the file (its memory then counts
 * until the unpin).  The memory must not be stored to: that takes iomap_folio_begin_write().
 * While one is pinned iomap_inode_destroy() gives -EBUSY.
 *
 * Return: 0; -ENODATA with IOMAP_PIN_NOREAD when it is not cached; -ENXIO at and beyond i_size;
 * -EINVAL (unknown flags, negative @pos, no read_folio); -ENOMEM; the error of the read.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_folio_pin(struct iomap_file *file, int64_t pos, unsigned flags,
					       struct iomap_pin *pin);
/** iomap_folio_unpin - give a pin back, once; any thread and context */
IOMAP_API void iomap_folio_unpin(struct iomap_pin *pin);

#ifdef __cplusplus
}
#endif
#endif
