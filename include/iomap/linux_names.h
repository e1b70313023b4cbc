/* SPDX-License-Identifier: MIT */
/*
 * iomap/linux_names.h - the kernel's names for what libiomap has, so that extent-map code in
 * the kernel's shape compiles with no edits but its includes.  Shapes follow Linux 6.18.
 *
 * Include it before every other header, the system's too: a tag is mapped by an object-like
 * macro, which renames members, parameters and variables of that name as well.  That does
 * no harm as long as all headers of one source file see the same macros; a header that came
 * before would keep members whose names the source no longer can write.  C only.
 *
 * It includes all of libiomap.  What a macro or function here does beyond giving another
 * name stands at its place.  What is not covered, and what differs although the name is the
 * same, is in docs/porting.md.
 *
 * Nothing here is part of the library's ABI: all are macros and static inline functions.
 */
#ifndef IOMAP_LINUX_NAMES_H
#define IOMAP_LINUX_NAMES_H

#ifdef IOMAP_TYPES_H
#error "iomap/linux_names.h must come before every other header of libiomap"
#endif
#ifdef __cplusplus
#error "iomap/linux_names.h is for C: it renames members"
#endif

/* What libiomap's headers need of the system comes first, with its own names. */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

/* ---- tags ---- */

#define address_space iomap_address_space
#define address_space_operations iomap_address_space_operations
#define bio iomap_bio
#define bio_set iomap_bio_set
#define blk_plug iomap_plug
#define block_device iomap_bdev
#define bvec_iter iomap_bvec_iter
#define dax_device iomap_dax_dev
#define file iomap_file
#define file_operations iomap_file_operations
#define folio iomap_folio
#define inode iomap_inode
#define iov_iter iomap_iov_iter
#define kiocb iomap_kiocb
#define list_head iomap_list_head
#define readahead_control iomap_readahead_control
#define rw_semaphore iomap_rwsem
#define work_struct iomap_work
#define workqueue_struct iomap_engine
#define writeback_control iomap_writeback_control
#define writeback_sync_modes iomap_writeback_sync_modes

#include <iomap/iomap.h>

/* ---- types ---- */

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef int64_t loff_t;
typedef uint64_t sector_t;
typedef uint64_t pgoff_t;
typedef uint32_t blk_opf_t;
typedef unsigned fmode_t;
typedef iomap_work_fn *work_func_t;

/* Allocations of the library never call back into the extent map: the flags are not read. */
typedef unsigned gfp_t;
#define GFP_KERNEL ((gfp_t)0)
#define GFP_NOFS ((gfp_t)0)
#define GFP_NOIO ((gfp_t)0)

/* A bio's status is 0 or a negative errno. */
typedef int blk_status_t;
#define BLK_STS_OK 0
#define BLK_STS_NOTSUPP (-EOPNOTSUPP)
#define BLK_STS_TIMEOUT (-ETIMEDOUT)
#define BLK_STS_NOSPC (-ENOSPC)
#define BLK_STS_TARGET (-EREMOTEIO)
#define BLK_STS_MEDIUM (-ENODATA)
#define BLK_STS_PROTECTION (-EILSEQ)
#define BLK_STS_RESOURCE (-ENOMEM)
#define BLK_STS_AGAIN (-EAGAIN)
#define BLK_STS_OFFLINE (-ENODEV)
#define BLK_STS_INVAL (-EINVAL)
#define BLK_STS_IOERR (-EIO)
#define blk_status_to_errno(status) (status)
#define errno_to_blk_status(error) (error)

/* ---- general helpers ---- */

#ifndef container_of
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#endif
#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif
#ifndef min_t
#define min_t(type, x, y) ((type)(x) < (type)(y) ? (type)(x) : (type)(y))
#define max_t(type, x, y) ((type)(x) > (type)(y) ? (type)(x) : (type)(y))
#endif
/* @y: a power of two */
#ifndef round_up
#define round_up(x, y) ((((x)-1) | ((__typeof__(x))(y)-1)) + 1)
#define round_down(x, y) ((x) & ~((__typeof__(x))(y)-1))
#endif
#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#endif

#undef PAGE_SHIFT
#undef PAGE_SIZE
#undef PAGE_MASK
#define PAGE_SHIFT IOMAP_PAGE_SHIFT
#define PAGE_SIZE IOMAP_PAGE_SIZE
#define PAGE_MASK (~(IOMAP_PAGE_SIZE - 1))
#define SECTOR_SHIFT IOMAP_SECTOR_SHIFT
#define SECTOR_SIZE IOMAP_SECTOR_SIZE

#define EIOCBQUEUED IOMAP_EIOCBQUEUED

/* Errors as pointers. */
#define ERR_PTR iomap_err_ptr
#define PTR_ERR iomap_ptr_err
#define IS_ERR iomap_is_err

static inline bool IS_ERR_OR_NULL(const void *ptr)
{
	return !ptr || iomap_is_err(ptr);
}

static inline int PTR_ERR_OR_ZERO(const void *ptr)
{
	return iomap_is_err(ptr) ? (int)iomap_ptr_err(ptr) : 0;
}

static inline void *ERR_CAST(const void *ptr)
{
	return iomap_err_ptr(iomap_ptr_err(ptr));
}

/* ---- inodes, files, their locks ---- */

#define FMODE_CAN_ODIRECT IOMAP_FMODE_CAN_ODIRECT
#define FMODE_CAN_ATOMIC_WRITE IOMAP_FMODE_CAN_ATOMIC_WRITE

#define i_size_read iomap_i_size_read
#define i_size_write iomap_i_size_write
#define i_blocksize iomap_i_blocksize
#define file_inode iomap_file_inode
#define mapping_set_error iomap_mapping_set_error
#define mapping_set_large_folios iomap_mapping_set_large_folios
#define mapping_set_stable_writes iomap_mapping_set_stable_writes
#define mapping_set_folio_order_range iomap_mapping_set_folio_order_range
#define __iomap_dio_rw iomap_dio_start
#define inode_dio_begin iomap_inode_dio_begin
#define inode_dio_end iomap_inode_dio_end
#define inode_dio_wait iomap_inode_dio_wait

#define inode_lock iomap_inode_lock
#define inode_trylock iomap_inode_trylock
#define inode_unlock iomap_inode_unlock
#define inode_lock_shared iomap_inode_lock_shared
#define inode_trylock_shared iomap_inode_trylock_shared
#define inode_unlock_shared iomap_inode_unlock_shared
#define filemap_invalidate_lock iomap_filemap_invalidate_lock
#define filemap_invalidate_unlock iomap_filemap_invalidate_unlock
#define filemap_invalidate_lock_shared iomap_filemap_invalidate_lock_shared
#define filemap_invalidate_unlock_shared iomap_filemap_invalidate_unlock_shared
#define down_read iomap_down_read
#define down_read_trylock iomap_down_read_trylock
#define up_read iomap_up_read
#define down_write iomap_down_write
#define down_write_trylock iomap_down_write_trylock
#define up_write iomap_up_write

/* ---- reading and writing files ---- */

#define IOCB_APPEND IOMAP_IOCB_APPEND
#define IOCB_DSYNC IOMAP_IOCB_DSYNC
#define IOCB_SYNC IOMAP_IOCB_SYNC
#define IOCB_DIRECT IOMAP_IOCB_DIRECT
#define IOCB_NOWAIT IOMAP_IOCB_NOWAIT
#define IOCB_DONTCACHE IOMAP_IOCB_DONTCACHE
#define IOCB_HIPRI IOMAP_IOCB_HIPRI
#define IOCB_ATOMIC IOMAP_IOCB_ATOMIC
#define IOCB_WRITE IOMAP_IOCB_WRITE

#define generic_file_read_iter iomap_file_read_iter
#define generic_write_sync iomap_write_sync
#define generic_file_fsync iomap_fsync
#define fiemap_extent_info iomap_fiemap_extent_info
#define filemap_write_and_wait_range iomap_filemap_write_and_wait_range
#define vfs_fsync iomap_file_fsync
#define file_check_and_advance_wb_err iomap_file_check_and_advance_wb_err

/* Takes the file's modes over, as the kernel's does. */
static inline void init_sync_kiocb(struct kiocb *iocb, struct file *filp)
{
	iomap_kiocb_init(iocb, filp, 0);
}

static inline bool is_sync_kiocb(const struct kiocb *iocb)
{
	return !iocb->ki_complete;
}

/*
 * For a write_iter, i_rwsem held: choose the position of an append, cut the write to
 * i_maxbytes.  Return: bytes to write, 0, or -errno.
 */
static inline ssize_t generic_write_checks(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *host = iomap_file_inode(iocb->ki_filp);

	if (!iomap_iov_iter_count(from))
		return 0;
	if (iocb->ki_flags & IOMAP_IOCB_APPEND)
		iocb->ki_pos = iomap_i_size_read(host);
	if (iocb->ki_pos < 0)
		return -EINVAL;
	if (iocb->ki_pos >= host->i_maxbytes)
		return -EFBIG;
	iomap_iov_iter_truncate(from, (uint64_t)(host->i_maxbytes - iocb->ki_pos));
	return (ssize_t)iomap_iov_iter_count(from);
}

#define READ IOMAP_ITER_DEST
#define WRITE IOMAP_ITER_SOURCE
#define ITER_DEST IOMAP_ITER_DEST
#define ITER_SOURCE IOMAP_ITER_SOURCE
#define iov_iter_init iomap_iov_iter_init
#define iov_iter_ubuf iomap_iov_iter_ubuf
#define iov_iter_count iomap_iov_iter_count
#define iov_iter_advance iomap_iov_iter_advance
#define iov_iter_revert iomap_iov_iter_revert
#define iov_iter_truncate iomap_iov_iter_truncate
#define iov_iter_zero iomap_iov_iter_zero
#define iov_iter_alignment iomap_iov_iter_alignment
#define copy_to_iter iomap_copy_to_iter
#define copy_from_iter iomap_copy_from_iter

/* READ or WRITE */
static inline int iov_iter_rw(const struct iov_iter *iter)
{
	return iter->data_source;
}

/* ---- folios ---- */

#define folio_pos iomap_folio_pos
#define folio_size iomap_folio_size
#define folio_mapping iomap_folio_mapping
#define folio_inode iomap_folio_inode
#define folio_address iomap_folio_address
#define folio_test_locked iomap_folio_test_locked
#define folio_test_uptodate iomap_folio_test_uptodate
#define folio_test_dirty iomap_folio_test_dirty
#define folio_test_writeback iomap_folio_test_writeback
#define folio_mark_uptodate iomap_folio_mark_uptodate
#define folio_get iomap_folio_get
#define folio_put iomap_folio_put
#define folio_lock iomap_folio_lock
#define folio_trylock iomap_folio_trylock
#define folio_unlock iomap_folio_unlock
#define folio_wait_writeback iomap_folio_wait_writeback
/* Contents of a locked folio change by these only: readers may be copying them. */
#define memcpy_to_folio iomap_folio_write
#define folio_zero_range iomap_folio_zero

static inline void memcpy_from_folio(char *to, struct folio *from, size_t offset, size_t len)
{
	iomap_folio_read(from, offset, to, len);
}

static inline void folio_zero_segment(struct folio *target, size_t start, size_t end)
{
	iomap_folio_zero(target, start, end - start);
}

static inline size_t offset_in_folio(const struct folio *where, loff_t pos)
{
	return (size_t)pos & (iomap_folio_size(where) - 1);
}

/* For a read_folio that has filled the folio, or failed to, without the library's ops. */
static inline void folio_end_read(struct folio *locked, bool success)
{
	if (success)
		iomap_folio_mark_uptodate(locked);
	iomap_folio_unlock(locked);
}

/* Return: a referenced folio, or an error pointer: -ENOENT when it is not cached. */
static inline struct folio *filemap_get_folio(struct address_space *mapping, pgoff_t index)
{
	struct folio *found = iomap_filemap_get_folio(mapping, index);

	return found ? found : iomap_err_ptr(-ENOENT);
}

/* @start, @end: page numbers, inclusive.  Return: pages dropped. */
static inline unsigned long invalidate_mapping_pages(struct address_space *mapping, pgoff_t start,
						     pgoff_t end)
{
	const uint64_t last = (uint64_t)INT64_MAX >> IOMAP_PAGE_SHIFT;
	int64_t from, to;

	if (start > last || start > end)
		return 0;
	from = (int64_t)(start << IOMAP_PAGE_SHIFT);
	to = end >= last ? INT64_MAX : (int64_t)((end + 1) << IOMAP_PAGE_SHIFT);
	return iomap_invalidate_inode_pages(mapping->host, from, to) >> IOMAP_PAGE_SHIFT;
}

typedef iomap_punch_fn *iomap_punch_t;
#define vfs_fallocate iomap_fallocate
#define truncate_setsize iomap_truncate_setsize
#define truncate_pagecache iomap_truncate_pagecache
#define truncate_pagecache_range iomap_truncate_pagecache_range

#define readahead_folio iomap_readahead_folio
#define readahead_pos iomap_readahead_pos
#define readahead_length iomap_readahead_length

/* ---- writeback ---- */

#define WB_SYNC_NONE IOMAP_WB_SYNC_NONE
#define WB_SYNC_ALL IOMAP_WB_SYNC_ALL

/* ---- work; an inode's workqueue is its i_engine ---- */

#define INIT_WORK iomap_init_work
#define queue_work iomap_queue_work

/* ---- bios and devices ---- */

#define REQ_OP_READ IOMAP_REQ_OP_READ
#define REQ_OP_WRITE IOMAP_REQ_OP_WRITE
#define REQ_OP_FLUSH IOMAP_REQ_OP_FLUSH
#define REQ_OP_DISCARD IOMAP_REQ_OP_DISCARD
#define REQ_OP_WRITE_ZEROES IOMAP_REQ_OP_WRITE_ZEROES
#define REQ_OP_MASK IOMAP_REQ_OP_MASK
#define REQ_SYNC IOMAP_REQ_SYNC
#define REQ_META IOMAP_REQ_META
#define REQ_FUA IOMAP_REQ_FUA
#define REQ_PREFLUSH IOMAP_REQ_PREFLUSH
#define REQ_RAHEAD IOMAP_REQ_RAHEAD
#define REQ_BACKGROUND IOMAP_REQ_BACKGROUND
#define REQ_NOWAIT IOMAP_REQ_NOWAIT
#define REQ_POLLED IOMAP_REQ_POLLED
#define REQ_ATOMIC IOMAP_REQ_ATOMIC

#define BIO_MAX_VECS IOMAP_BIO_MAX_VECS
#define bio_end_io_t iomap_bio_end_io_fn
#define bio_put iomap_bio_put
#define bio_add_folio iomap_bio_add_folio
#define bio_end_sector iomap_bio_end_sector
#define bio_endio iomap_bio_endio
#define bio_chain iomap_bio_chain
#define bioset_exit iomap_bio_set_exit
#define submit_bio iomap_submit_bio
#define submit_bio_wait iomap_submit_bio_wait
#define blk_start_plug iomap_start_plug
#define blk_finish_plug iomap_finish_plug
#define blkdev_issue_flush iomap_bdev_flush
#define bdev_nr_bytes iomap_bdev_bytes

static inline struct bio *bio_alloc_bioset(struct block_device *bdev, unsigned short nr_vecs,
					   blk_opf_t opf, gfp_t gfp, struct bio_set *set)
{
	(void)gfp;
	return iomap_bio_alloc(bdev, nr_vecs, opf, set);
}

static inline struct bio *bio_alloc(struct block_device *bdev, unsigned short nr_vecs,
				    blk_opf_t opf, gfp_t gfp)
{
	return bio_alloc_bioset(bdev, nr_vecs, opf, gfp, NULL);
}

static inline u32 bio_op(const struct bio *request)
{
	return request->bi_opf & IOMAP_REQ_OP_MASK;
}

static inline bool op_is_write(blk_opf_t op)
{
	return op & 1;
}

static inline int bio_data_dir(const struct bio *request)
{
	return op_is_write(request->bi_opf) ? WRITE : READ;
}

static inline u64 bio_sectors(const struct bio *request)
{
	return request->bi_iter.bi_size >> IOMAP_SECTOR_SHIFT;
}

static inline void bio_set_dev(struct bio *request, struct block_device *bdev)
{
	request->bi_bdev = bdev;
}

static inline void bio_io_error(struct bio *request)
{
	request->bi_status = BLK_STS_IOERR;
	iomap_bio_endio(request);
}

static inline unsigned bdev_logical_block_size(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.logical_block_size;
}

static inline unsigned bdev_physical_block_size(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.physical_block_size;
}

static inline u64 bdev_max_discard_sectors(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.max_discard_bytes >> IOMAP_SECTOR_SHIFT;
}

static inline unsigned bdev_discard_granularity(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.discard_granularity;
}

static inline bool bdev_write_cache(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.flags & IOMAP_BDEV_HAS_WRITE_CACHE;
}

static inline bool bdev_fua(const struct block_device *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return limits.flags & IOMAP_BDEV_HAS_FUA;
}

static inline int blkdev_issue_discard(struct block_device *bdev, sector_t sector, sector_t sectors,
				       gfp_t gfp)
{
	(void)gfp;
	return iomap_bdev_discard(bdev, sector << IOMAP_SECTOR_SHIFT,
				  sectors << IOMAP_SECTOR_SHIFT);
}

#define BLKDEV_ZERO_NOFALLBACK IOMAP_BDEV_ZERO_NOFALLBACK
static inline int blkdev_issue_zeroout(struct block_device *bdev, sector_t sector, sector_t sectors,
				       gfp_t gfp, unsigned flags)
{
	(void)gfp;
	return iomap_bdev_write_zeroes(bdev, sector << IOMAP_SECTOR_SHIFT,
				       sectors << IOMAP_SECTOR_SHIFT, flags);
}

/* ---- lists ---- */

#define LIST_HEAD_INIT(name)     \
	{                        \
		&(name), &(name) \
	}
#define LIST_HEAD(name) struct list_head name = LIST_HEAD_INIT(name)

static inline void INIT_LIST_HEAD(struct list_head *head)
{
	head->next = head;
	head->prev = head;
}

static inline bool list_empty(const struct list_head *head)
{
	return head->next == head;
}

static inline bool list_is_singular(const struct list_head *head)
{
	return head->next != head && head->next == head->prev;
}

static inline bool list_is_first(const struct list_head *item, const struct list_head *head)
{
	return item->prev == head;
}

static inline bool list_is_last(const struct list_head *item, const struct list_head *head)
{
	return item->next == head;
}

/* Behind @head: a stack. */
static inline void list_add(struct list_head *item, struct list_head *head)
{
	item->prev = head;
	item->next = head->next;
	head->next->prev = item;
	head->next = item;
}

/* Before @head: a queue. */
static inline void list_add_tail(struct list_head *item, struct list_head *head)
{
	list_add(item, head->prev);
}

/* @item is in no list afterwards, and not an empty one either. */
static inline void list_del(struct list_head *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	item->next = NULL;
	item->prev = NULL;
}

static inline void list_del_init(struct list_head *item)
{
	list_del(item);
	INIT_LIST_HEAD(item);
}

static inline void list_move(struct list_head *item, struct list_head *head)
{
	list_del(item);
	list_add(item, head);
}

static inline void list_move_tail(struct list_head *item, struct list_head *head)
{
	list_del(item);
	list_add_tail(item, head);
}

/* All of @from goes behind @head; @from itself is left as it was. */
static inline void list_splice(const struct list_head *from, struct list_head *head)
{
	if (list_empty(from))
		return;
	from->prev->next = head->next;
	head->next->prev = from->prev;
	from->next->prev = head;
	head->next = from->next;
}

static inline void list_splice_tail(struct list_head *from, struct list_head *head)
{
	list_splice(from, head->prev);
}

static inline void list_splice_init(struct list_head *from, struct list_head *head)
{
	list_splice(from, head);
	INIT_LIST_HEAD(from);
}

static inline void list_splice_tail_init(struct list_head *from, struct list_head *head)
{
	list_splice_tail(from, head);
	INIT_LIST_HEAD(from);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)
#define list_first_entry(head, type, member) list_entry((head)->next, type, member)
#define list_last_entry(head, type, member) list_entry((head)->prev, type, member)
#define list_first_entry_or_null(head, type, member) \
	(list_empty(head) ? NULL : list_first_entry(head, type, member))
#define list_next_entry(pos, member) list_entry((pos)->member.next, __typeof__(*(pos)), member)
#define list_prev_entry(pos, member) list_entry((pos)->member.prev, __typeof__(*(pos)), member)
#define list_entry_is_head(pos, head, member) (&(pos)->member == (head))

#define list_for_each(pos, head) for (pos = (head)->next; pos != (head); pos = pos->next)
#define list_for_each_safe(pos, n, head) \
	for (pos = (head)->next, n = pos->next; pos != (head); pos = n, n = pos->next)
#define list_for_each_entry(pos, head, member)                         \
	for (pos = list_first_entry(head, __typeof__(*(pos)), member); \
	     !list_entry_is_head(pos, head, member); pos = list_next_entry(pos, member))
#define list_for_each_entry_reverse(pos, head, member)                \
	for (pos = list_last_entry(head, __typeof__(*(pos)), member); \
	     !list_entry_is_head(pos, head, member); pos = list_prev_entry(pos, member))
#define list_for_each_entry_safe(pos, n, head, member)                 \
	for (pos = list_first_entry(head, __typeof__(*(pos)), member), \
	    n = list_next_entry(pos, member);                          \
	     !list_entry_is_head(pos, head, member); pos = n, n = list_next_entry(n, member))

#endif
