/* SPDX-License-Identifier: MIT */
/*
 * inode.c - making inodes, sizes, recording errors, and taking inodes apart.
 *
 * The application owns the memory, the library what is in it from iomap_inode_init() to the
 * iomap_inode_destroy() that returns 0.
 *
 * Destroying: the order is to look first and to change only when nothing can fail any more,
 * so that after -EBUSY or an error of writing the inode is as usable as before.
 *   1. files open: -EBUSY; direct I/O of the application's own: waited for, or -EBUSY.
 *   2. dirty data: written, or -EBUSY, or left for step 5 to drop.  The inode is still an
 *      inode like any other: the flusher and iomap_sync_engine() may be at it too.
 *   3. freezing keeps these two away and waits until they are gone.  From here on no other
 *      thread starts anything: only completions arrive.
 *   4. now that it is quiet: look for dirty data once more, wait for running I/O, and count
 *      references; one that is left is the application's: thaw, -EBUSY.
 *   5. off the list of inodes; the folios go, the bdev is put.
 *
 * A destroyed inode has i_engine NULL, by which a second destroy is found out; in debug builds
 * the rest of it is filled with a pattern, since its memory may be of a pool of the
 * application's.
 *
 * Locks: none are held here; what is called takes its own.
 */
#include "block/block.h"
#include "cache/cache.h"
#include "iomap/ops.h"

#define INODE_BLKBITS_MIN 9U
#define INODE_BLKBITS_MAX 16U
#define INODE_CLASS_MAX 7U
#define INODE_FLAGS IOMAP_INODE_RETRY_WRITES
#define INODE_DESTROY_FLAGS (IOMAP_DESTROY_WAIT | IOMAP_DESTROY_DISCARD)

/* One log line that says what is wrong with the arguments. */
static int inode_refuse(struct iomap_engine *engine, const struct iomap_inode_args *args,
			const char *why)
{
	iomap__log(&engine->env, IOMAP_LOG_ERROR, "inode %llu: %s", (unsigned long long)args->i_ino,
		   why);
	return -EINVAL;
}

/* Blocks have to be whole sectors of the device, or they could not be written alone. */
static int inode_check_bdev(struct iomap_engine *engine, const struct iomap_inode_args *args,
			    unsigned blkbits)
{
	struct iomap_bdev_limits limits;

	if (iomap__bdev_engine(args->bdev) != engine)
		return inode_refuse(engine, args, "its bdev belongs to another engine");
	iomap_bdev_limits(args->bdev, &limits);
	if (1U << blkbits >= limits.logical_block_size)
		return 0;
	iomap__log(&engine->env, IOMAP_LOG_ERROR,
		   "inode %llu: blocks of %u bytes are smaller than the %u of %s",
		   (unsigned long long)args->i_ino, 1U << blkbits, limits.logical_block_size,
		   iomap_bdev_name(args->bdev));
	return -EINVAL;
}

static int inode_check_args(struct iomap_engine *engine, const struct iomap_inode_args *args,
			    unsigned blkbits)
{
	if (!args->a_ops)
		return inode_refuse(engine, args, "no address-space operations");
	if (blkbits < INODE_BLKBITS_MIN || blkbits > INODE_BLKBITS_MAX)
		return inode_refuse(engine, args, "blkbits is not in 9 to 16");
	if (args->i_size < 0 || args->i_maxbytes < 0)
		return inode_refuse(engine, args, "a size is negative");
	if (args->i_maxbytes && args->i_size > args->i_maxbytes)
		return inode_refuse(engine, args, "i_size is beyond i_maxbytes");
	if (args->lock_class > INODE_CLASS_MAX)
		return inode_refuse(engine, args, "lock_class is above 7");
	if (args->flags & ~(uint64_t)INODE_FLAGS)
		return inode_refuse(engine, args, "unknown flags");
	for (size_t i = 0; i < iomap__array_len(args->reserved); i++)
		if (args->reserved[i])
			return inode_refuse(engine, args, "a reserved argument is not zero");
	return args->bdev ? inode_check_bdev(engine, args, blkbits) : 0;
}

int iomap_inode_init(struct iomap_engine *engine, struct iomap_inode *inode,
		     const struct iomap_inode_args *user_args)
{
	struct iomap_inode_args args = { 0 };
	unsigned blkbits;
	int err;

	if (user_args->size != sizeof(args))
		return inode_refuse(engine, &args, "size of the arguments is not set");
	args = *user_args;
	blkbits = args.blkbits ? args.blkbits : IOMAP_PAGE_SHIFT;
	err = inode_check_args(engine, &args, blkbits);
	if (err)
		return err;
	if (iomap__engine_closed(engine))
		return iomap__engine_refusal(engine);

	memset(inode, 0, sizeof(*inode));
	inode->i_engine = engine;
	inode->i_op = args.i_op;
	inode->i_fop = args.i_fop;
	inode->i_mapping = &inode->i_data;
	inode->i_bdev = args.bdev;
	inode->i_size = args.i_size;
	inode->i_maxbytes = args.i_maxbytes ? args.i_maxbytes : INT64_MAX;
	inode->i_ino = args.i_ino;
	inode->i_private = args.i_private;
	inode->i_blkbits = (uint8_t)blkbits;
	inode->i_class = (uint8_t)args.lock_class;
	if (args.flags & IOMAP_INODE_RETRY_WRITES)
		inode->i_state |= IOMAP__I_RETRY;
	iomap__list_init(&inode->i_engine_list);
	iomap__list_init(&inode->i_dirty_list);
	iomap__rwsem_init(&inode->i_rwsem, IOMAP__RANK_INODE, args.lock_class);
	iomap__mapping_init(&inode->i_data, inode, args.a_ops);
	/* every folio holds a block at least */
	if (iomap__inode_register(inode)) {
		inode->i_engine = NULL;
		return inode_refuse(engine, &args, "its blocks are larger than max_folio_bytes, "
				    "or the cache is too small for them and max_callers");
	}
	if (inode->i_bdev)
		iomap__bdev_get(inode->i_bdev);
	return 0;
}

static bool inode_is_dirty(const struct iomap_inode *inode)
{
	return iomap__load_acquire(&inode->i_data.nr_dirty_pages);
}

/* Step 2: 0 when the data is clean, or may be dropped. */
static int inode_settle_dirty(struct iomap_inode *inode, unsigned flags)
{
	struct iomap_address_space *mapping = &inode->i_data;
	uint32_t since = iomap__errseq_sample(&mapping->wb_err);
	int err, recorded;

	if (flags & IOMAP_DESTROY_DISCARD)
		return 0;
	if (!(flags & IOMAP_DESTROY_WAIT))
		return inode_is_dirty(inode) ? -EBUSY : 0;
	err = iomap__sync_write_wait(inode, 0, INT64_MAX);
	/* also an earlier error that nobody has been told of: there is no later chance */
	recorded = iomap__errseq_check_and_advance(&mapping->wb_err, &since);
	return recorded ? recorded : err;
}

/* Step 4: whether somebody needs the inode.  It is frozen. */
static bool inode_is_busy(struct iomap_inode *inode, unsigned flags)
{
	if (inode_is_dirty(inode) && !(flags & IOMAP_DESTROY_DISCARD))
		return true;
	(void)iomap__filemap_wait_range(&inode->i_data, 0, INT64_MAX);
	/* what has failed just now */
	if (inode_is_dirty(inode) && !(flags & IOMAP_DESTROY_DISCARD))
		return true;
	return iomap__filemap_referenced(&inode->i_data);
}

int iomap_inode_destroy(struct iomap_inode *inode, unsigned flags)
{
	struct iomap_bdev *bdev;
	int err;

	iomap__assert_msg(inode->i_engine, "inode %p is destroyed twice, or was never made",
			  (void *)inode);
	if (!inode->i_engine || flags & ~INODE_DESTROY_FLAGS || flags == INODE_DESTROY_FLAGS)
		return -EINVAL;
	if (iomap__engine_forked(inode->i_engine))
		return -ECHILD;
	/* acquire: pairs with iomap_file_close(), whose last use of the inode came before */
	if (iomap__load_acquire(&inode->i_files_nr))
		return -EBUSY;
	if (iomap__load_acquire(&inode->i_dio_count) && !(flags & IOMAP_DESTROY_WAIT))
		return -EBUSY;
	iomap_inode_dio_wait(inode);

	err = inode_settle_dirty(inode, flags);
	if (err)
		return err;

	iomap__inode_freeze(inode);
	if (inode_is_busy(inode, flags)) {
		iomap__inode_thaw(inode);
		return -EBUSY;
	}
	iomap__inode_unregister(inode);
	iomap__filemap_truncate_range(&inode->i_data, 0, INT64_MAX);
	iomap__filemap_quiesce(&inode->i_data);
	iomap__inode_stats_free(inode);
	bdev = inode->i_bdev;
	if (IOMAP_DEBUG)
		memset(inode, IOMAP__POISON, sizeof(*inode));
	inode->i_engine = NULL;
	if (bdev)
		iomap__bdev_put(bdev);
	return 0;
}

int iomap_inode_discard_dirty(struct iomap_inode *inode)
{
	iomap__inode_check(inode);
	if (iomap__engine_forked(inode->i_engine))
		return -ECHILD;
	iomap__filemap_discard_dirty(&inode->i_data);
	return 0;
}

int64_t iomap_i_size_read(const struct iomap_inode *inode)
{
	/* acquire: who sees the new size sees the data that was put below it */
	return iomap__load_acquire(&inode->i_size);
}

void iomap_i_size_write(struct iomap_inode *inode, int64_t size)
{
	/* release: pairs with iomap_i_size_read() */
	iomap__store_release(&inode->i_size, size);
}

size_t iomap_i_blocksize(const struct iomap_inode *inode)
{
	return (size_t)1 << inode->i_blkbits;
}

void iomap_mapping_set_error(struct iomap_address_space *mapping, int error)
{
	if (!error)
		return;
	/* an application can do something about a full device, and about nothing else */
	if (error != -ENOSPC)
		error = -EIO;
	iomap__errseq_set(&mapping->wb_err, error);
	/* release: pairs with iomap__dio_write_out(), which then looks at wb_err */
	iomap__fetch_add(&mapping->wb_errors_nr, 1);
	iomap__errseq_set(&mapping->host->i_engine->wb_err, error);
}
