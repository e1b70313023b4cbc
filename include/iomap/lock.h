/* SPDX-License-Identifier: MIT */
/*
 * iomap/lock.h - the two inode locks, which applications may take themselves.
 *
 * i_rwsem and invalidate_lock mean what they mean in the kernel's iomap documents.
 * Order: i_rwsem, then invalidate_lock, then folio locks by rising position; debug
 * builds check it and abort on a violation.  A lock is released by the thread that
 * took it.  Taking one blocks; none of these may be called from a completion.
 */
#ifndef IOMAP_LOCK_H
#define IOMAP_LOCK_H

#include <iomap/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A reader-writer semaphore of 16 bytes.  Members are the library's. */
struct iomap_rwsem {
	uint32_t state;
	uint32_t owner; /* thread that holds it for writing, in debug builds */
	uint16_t rank;	/* place in the lock order */
	uint16_t reserved;
	uint32_t reserved2;
};

/** Take for reading, shared with other readers; waiting writers go first. */
IOMAP_API void iomap_down_read(struct iomap_rwsem *sem);
/** Take for reading if that needs no wait. Return: true when taken. */
IOMAP_API IOMAP_MUST_CHECK bool iomap_down_read_trylock(struct iomap_rwsem *sem);
/** Release what iomap_down_read() took. */
IOMAP_API void iomap_up_read(struct iomap_rwsem *sem);
/** Take for writing, alone. */
IOMAP_API void iomap_down_write(struct iomap_rwsem *sem);
/** Take for writing if that needs no wait. Return: true when taken. */
IOMAP_API IOMAP_MUST_CHECK bool iomap_down_write_trylock(struct iomap_rwsem *sem);
/** Release what iomap_down_write() took. */
IOMAP_API void iomap_up_write(struct iomap_rwsem *sem);

/** i_rwsem, exclusively (kernel: inode_lock and so on). */
IOMAP_API void iomap_inode_lock(struct iomap_inode *inode);
/** The same if that needs no wait. Return: true when taken. */
IOMAP_API IOMAP_MUST_CHECK bool iomap_inode_trylock(struct iomap_inode *inode);
/** Release what iomap_inode_lock() took. */
IOMAP_API void iomap_inode_unlock(struct iomap_inode *inode);
/** i_rwsem, shared. */
IOMAP_API void iomap_inode_lock_shared(struct iomap_inode *inode);
/** The same if that needs no wait. Return: true when taken. */
IOMAP_API IOMAP_MUST_CHECK bool iomap_inode_trylock_shared(struct iomap_inode *inode);
/** Release what iomap_inode_lock_shared() took. */
IOMAP_API void iomap_inode_unlock_shared(struct iomap_inode *inode);
/** invalidate_lock, exclusively or shared (kernel: filemap_invalidate_lock and so on). */
IOMAP_API void iomap_filemap_invalidate_lock(struct iomap_address_space *mapping);
IOMAP_API void iomap_filemap_invalidate_unlock(struct iomap_address_space *mapping);
IOMAP_API void iomap_filemap_invalidate_lock_shared(struct iomap_address_space *mapping);
IOMAP_API void iomap_filemap_invalidate_unlock_shared(struct iomap_address_space *mapping);

#ifdef __cplusplus
}
#endif
#endif
