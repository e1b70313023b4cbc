/* SPDX-License-Identifier: MIT */
/*
 * store.h - objects by name in one device: the interface, and what its files share.
 *
 * Threads: any, on any object; xs_close() must not race other calls.
 * Errors: negative errno; XS_ENOTSTORE, XS_EDAMAGED, XS_EUNKNOWN of format.h from opening.
 * Locks, in this order: open_lock, the library's i_rwsem and invalidate_lock, commit_lock,
 * the library's folio locks, lock.
 *
 *	open_lock    inodes come and go; held while a last opener's dirty data is written
 *	commit_lock  who commits, and who waits for it; never held across I/O.  One thread at
 *		     a time leads a commit, and waits for nothing but its own bios.
 *	lock	     everything in memory: objects, extents, space, tree.  Never held across I/O
 *		     nor across a call of the library that waits, so a completion may take it.
 *
 * Lifetime: an object exists from xs_create() or the opening of the store until it has no
 * name and no opener.  Its inode exists while it has openers.
 */
#ifndef XSTORE_STORE_H
#define XSTORE_STORE_H

#include <pthread.h>
#include <iomap/iomap.h>

#include "format.h"
#include "space.h"
#include "tree.h"

/* Blocks of an object that are reserved; see delalloc.c. */
struct xs_reserves {
	struct xs_reserved **v;
	uint32_t nr, max;
	uint64_t blocks_nr;
};

struct xs_object {
	struct iomap_inode inode; /* while openers_nr */
	struct xs_store *store;
	struct iomap_work ended_work; /* while openers_nr; see writeback.c */

	/* protected by store->lock */
	char *name;	     /* NULL: none; the object goes with its last opener */
	unsigned openers_nr; /* changed under open_lock as well */
	uint64_t id;
	uint64_t size;		   /* what a commit writes; see file.c */
	uint64_t pending_size;	   /* to become `size` when the tail block is written; or 0 */
	uint64_t cuts_nr;	   /* so far: a cut leaves old bytes in the new tail block */
	bool tail_lost;		   /* ... which will not be: writing it has failed */
	struct xs_extent *extents; /* by place in the object, no two adjoining mergeable */
	uint32_t extents_nr, extents_max;
	uint32_t reserved_nr;	  /* room in the array that conversions in flight may need */
	struct xs_extent *copies; /* where writes to shared blocks go: copies.c */
	uint32_t copies_nr, copies_max;
	uint32_t name_room; /* bytes that its name may have: store->name_bytes has them */
	uint64_t cookie;    /* of mappings; also read without the lock */
	struct iomap_list_head ended; /* ioends that are to be converted; see writeback.c */
	int32_t ended_nr;
	uint64_t flying_nr; /* those that have not ended */
	struct xs_reserves reserves;
	size_t cut_reserved; /* of `freed`, for what is being cut off */
	bool cutting;
	bool holding;
	struct xs_runs held; /* what has been cut, and is nobody's yet */
	struct xs_object *next_gone;
};

struct xs_store {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev; /* the caller's */
	bool readonly;
	pthread_mutex_t open_lock;
	pthread_mutex_t commit_lock;
	pthread_mutex_t lock;

	/* protected by commit_lock */
	struct xs_commit_caller *callers; /* whom the next commit will answer */
	bool committing;		  /* somebody leads one */
	uint64_t callers_nr;		  /* so far */
	uint64_t waiting_nr;		  /* of `callers` */
	uint64_t commits_nr;		  /* that were led so far */

	/* changed under lock by whoever leads a commit, who also reads them without */
	struct xs_super super;	 /* durable */
	unsigned slot;		 /* where it lies */
	uint64_t generation;	 /* highest that may be on the device */
	struct xs_runs doubtful; /* blocks of a commit whose super block may have landed */
	uint64_t doubtful_nr;

	/* protected by lock */
	struct xs_space space;
	struct xs_tree tree;
	uint64_t meta_nr;	    /* blocks that nodes take, durable or not */
	uint64_t meta_waiting_nr;   /* of these, in `freed` */
	uint64_t meta_flight_nr;    /* of these, of the commit that is going on */
	struct xs_object **objects; /* those with a name, by name */
	struct xs_object **by_id;   /* the same, by id */
	size_t objects_nr, objects_max;
	struct xs_object *gone; /* they are no more, but for space that a commit sets free */
	uint64_t delalloc_nr;	/* of the free blocks those that are reserved */
	uint64_t all_nr;	/* objects, with or without a name */
	uint64_t name_bytes;	/* of all: name_room */
	/*
	 * The most extents that there may come to be without another allocation: written
	 * extents, and blocks of unwritten ones and of reservations, each of which may become an
	 * extent of its own as writes convert them in any order.  A block of a copy may do more: it becomes an
	 * extent, and leaves two parts of one that was shared.  Conversions never make it more,
	 * so space for the metadata that they need is always there: xs_space_spare().
	 */
	uint64_t weight;
	uint64_t next_id;
	uint64_t changes;   /* counts changes of what a commit writes */
	uint64_t committed; /* `changes` of the last durable commit */
};

/* ---- store.c ---- */

/* Make the device a store of @bytes (0: all of the device).  Durable on return. */
int xs_mkfs(struct iomap_bdev *bdev, uint64_t bytes, uint64_t id);
/*
 * @why: what is wrong with the store, when that is the error.  @readonly: refuse changes.
 * The device stays the caller's and open until xs_close().
 */
int xs_open(struct iomap_engine *engine, struct iomap_bdev *bdev, bool readonly,
	    struct xs_store **out, struct xs_why *why);
/* No object may be open (-EBUSY).  Commits what is not committed.  NULL is ignored. */
int xs_close(struct xs_store *store);

struct xs_usage {
	uint64_t blocks, free_nr, meta_nr, objects_nr, generation;
	uint64_t shared_nr;	    /* blocks that several extents share */
	uint64_t delalloc_nr;	    /* of free_nr those that are reserved for dirty data */
	uint64_t commits_nr;	    /* commits so far, whatever became of them */
	uint64_t commit_callers_nr; /* whom they answered, or will: xs_commit(), fsync, ... */
	uint64_t commit_waiting_nr; /* who now waits for one that has not begun */
};
void xs_usage(struct xs_store *store, struct xs_usage *out);

/* Synchronous I/O of whole blocks; @opf: IOMAP_REQ_xxx. */
int xs_block_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t block, void *memory, uint64_t nr);
/* ---- commit.c ---- */

/*
 * Make all metadata durable, and the data that had been written to the device.  Those who
 * call while a commit is going on share the next one, and its error.
 */
int xs_commit(struct xs_store *store);

/* Whether nothing may be added any more, lest a commit find no room for its metadata. */
bool xs_space_full(const struct xs_store *store);
/* Of @want blocks, as many as can be taken for data and leave what the commit needs. */
uint64_t xs_space_spare(const struct xs_store *store, uint64_t want);
/* The same of blocks for copies: store->weight grows by XS_COPY_WEIGHT for each. */
uint64_t xs_space_spare_copies(const struct xs_store *store, uint64_t want);
#define XS_COPY_WEIGHT 2U
/* Whether so much can be added to store->weight without taking blocks. */
bool xs_space_bears(const struct xs_store *store, uint64_t weight);
/* Whether a commit may set blocks free. */
bool xs_space_waiting(const struct xs_store *store);

/* A node does not need @block any more, once a commit is durable; 0: none.  lock held. */
void xs_meta_free(struct xs_store *store, uint64_t block);
/* For opening and making a store.  @slot: 0 or 1. */
int xs_super_write(struct iomap_bdev *bdev, const struct xs_super *super, unsigned slot);

/* ---- load.c ---- */

/* What a store holds, as it lies on the device. */
struct xs_image {
	struct xs_super super;
	unsigned slot;
	struct xs_space space; /* taken: super blocks, nodes, data */
	struct xs_tree tree;
	uint64_t data_nr; /* blocks of objects, each once */
};

/* Called for each object by id; takes @extents over, also when it fails. */
typedef int xs_object_fn(void *arg, const struct xs_record *record, struct xs_extent *extents,
			 uint32_t extents_nr);

/* Read and verify all metadata.  @fn may be NULL.  xs_image_free() in any case. */
int xs_image_load(struct iomap_bdev *bdev, struct xs_image *image, xs_object_fn *fn, void *arg,
		  struct xs_why *why);
void xs_image_free(struct xs_image *image);

/* ---- check.c ---- */

struct xs_counts {
	uint64_t bytes;				     /* of the device */
	uint64_t data_bytes, meta_bytes, free_bytes; /* the three add up to it */
	uint64_t shared_bytes;			     /* of the data: with several owners */
	uint64_t objects_nr, generation;
};

/* Verify the image on a device that nobody has open.  Return: as xs_open(). */
int xs_check(struct iomap_bdev *bdev, struct xs_counts *counts, struct xs_why *why);

/* ---- object.c ---- */

/* A new object without a name, opened.  It has no place in the store until xs_link(). */
int xs_create(struct xs_store *store, struct xs_object **out);
/* -ENOENT when there is none of that name. */
int xs_lookup(struct xs_store *store, const char *name, struct xs_object **out);
/* Give back what xs_create() or xs_lookup() gave.  Writes what is dirty, commits nothing. */
int xs_put(struct xs_object *object);
/*
 * Give an object without a name one, in place of whatever has it.  With a commit durable, in
 * one step: after a power cut there is the old object or the new one.
 * Return: 0; -EINVAL, -ENAMETOOLONG, -EEXIST, -ENOMEM; -ENOSPC when the object had a name before
 * that was shorter, and the store is full.
 */
int xs_link(struct xs_object *object, const char *name);
/* Take the name away; the space is free when the last opener is gone and a commit made. */
int xs_unlink(struct xs_store *store, const char *name);

struct xs_info {
	char name[XS_NAME_MAX + 1];
	uint64_t id, size;
	uint64_t data_blocks_nr, unwritten_blocks_nr;
	uint64_t shared_blocks_nr; /* of the data */
	uint32_t extents_nr;
};
/* About the @n-th object by name, or the one of that name; -ENOENT when there is none. */
int xs_info_nth(struct xs_store *store, size_t n, struct xs_info *out);
int xs_info(struct xs_store *store, const char *name, struct xs_info *out);
/* Copy of the extents of an object; *@out is the caller's to free.  -ENOENT, -ENOMEM. */
int xs_extents(struct xs_store *store, const char *name, struct xs_extent **out, uint32_t *nr);
/*
 * The extents in *@pieces, an array of @nr, parted where blocks that are shared begin or end, with
 * shared[i] of each.  Both arrays are the caller's to free.  -ENOENT, -ENOMEM.
 */
int xs_pieces(struct xs_store *store, const char *name, struct xs_extent **pieces, bool **shared,
	      size_t *nr);

/* For opening: an object with a name and extents, which it takes over; by id. */
int xs_adopt(struct xs_store *store, const struct xs_record *record, struct xs_extent *extents,
	     uint32_t extents_nr);
/* ... and that was the last. */
void xs_adopted(struct xs_store *store);
/* The place in store->by_id of the first whose id is not below @id.  lock held. */
size_t xs_object_find_id(const struct xs_store *store, uint64_t id);
/*
 * What a commit writes has changed: items of the object from @low to @high, inclusive, as in
 * xs_key.at.  lock held.
 */
void xs_changed(struct xs_object *object, uint64_t low, uint64_t high);
/* ... or what is reserved: mappings that were told of before are no longer true.  lock held. */
void xs_mappings_changed(struct xs_object *object);
void xs_object_free(struct xs_object *object);
/* Give back the space of those that are gone, as far as there is memory for it.  lock held. */
void xs_objects_bury(struct xs_store *store);

/* ---- extents.c: all under store->lock ---- */

/* The first extent that ends behind @block; extents_nr when there is none. */
uint32_t xs_extent_find(const struct xs_object *object, uint64_t block);
/*
 * Room for @nr more, besides what is reserved, and as much among the copies, which conversions
 * may part.  Return: 0 or -ENOMEM.
 */
int xs_extents_room(struct xs_object *object, uint32_t nr);
void xs_extents_reserve(struct xs_object *object, int32_t nr);
/* Add an extent to a hole; there is room for one. */
void xs_extent_insert(struct xs_object *object, struct xs_extent extent);
/*
 * Give back what is in [@from, @to).  There is room for two more extents meanwhile, and in
 * `freed` for each extent that lies in it.
 */
void xs_extents_drop(struct xs_object *object, uint64_t from, uint64_t to);
/* [@from, @to) has been written; there is room for two. */
void xs_extents_convert(struct xs_object *object, uint64_t from, uint64_t to);
/* Where the block at @block would go to make one extent of it and what is in front; or 0. */
uint64_t xs_extents_goal(const struct xs_object *object, uint64_t block);
/*
 * From here to xs_extents_cut_end() what is cut of [@from, @to) has room in `freed`.  New extents
 * are xs_reserved_take()'s alone meanwhile.  Return: 0 or -ENOMEM.
 */
int xs_extents_cut_begin(struct xs_object *object, uint64_t from, uint64_t to);
/* Give back [@from, @to); there is room for an extent if one goes on behind it. */
void xs_extents_cut(struct xs_object *object, uint64_t from, uint64_t to);
void xs_extents_cut_end(struct xs_object *object);
/*
 * The same in two steps: what has been cut is held until xs_extents_hold_end(), when nobody reads
 * it any more, and only then given back.
 */
int xs_extents_hold_begin(struct xs_object *object, uint64_t from, uint64_t to);
void xs_extents_hold(struct xs_object *object, uint64_t from, uint64_t to);
void xs_extents_hold_end(struct xs_object *object);
/* Give back what is written from @block on.  Return: 0 or -ENOMEM. */
int xs_extents_cut_written(struct xs_object *object, uint64_t block);

/* ---- copies.c: all under store->lock ---- */

/*
 * Where a write to @pos, up to @length bytes, goes.  @iomap: the written extent there; it is cut
 * down to what is not shared, or is new space, with @srcmap what is there now.
 * Return: 0; -ENOSPC, -ENOMEM; -ENOTBLK for @direct ones, which only write what is not shared.
 */
int xs_copies_begin(struct xs_object *object, int64_t pos, int64_t length, bool direct,
		    struct iomap *iomap, struct iomap *srcmap);
/* The same for writeback, which finds the space; a hole where there is none. */
void xs_copies_map(struct xs_object *object, int64_t pos, struct iomap *iomap);
/* [@from, @to) of the copies has been written; it lies in one piece.  There is room for two. */
void xs_copies_install(struct xs_object *object, uint64_t from, uint64_t to);
/* Nobody is going to write it, or is writing it: give it back.  There is room for one more. */
void xs_copies_cut(struct xs_object *object, uint64_t from, uint64_t to);

/* How many blocks of [@from, @to) have a copy. */
uint64_t xs_copies_blocks(const struct xs_object *object, uint64_t from, uint64_t to);

/* ---- clone.c ---- */

/*
 * Let @to have at @to_pos the @len bytes (0: all) that @from has at @pos, without copying them:
 * both share the blocks, until one of them is overwritten.  Both are open, and may be the
 * same.  What was in @to there is replaced; the object grows if need be, and if it ends before
 * @to_pos it may have grown up to there also when this fails.  Positions are multiples of the
 * block size; so is @len, unless it reaches to the end of @from and to that of @to or behind.
 * Waits for writes of @from, takes the i_rwsem of both.  Durable with the next commit.
 * Return: 0; -EINVAL, -EXDEV, -EFBIG, -EROFS, -ENOMEM; -ENOSPC; -EMLINK when a block has
 * XS_OWNERS_MAX owners; errors of writing.
 */
int xs_clone(struct xs_object *from, int64_t pos, struct xs_object *to, int64_t to_pos,
	     int64_t len);
/*
 * Let an open object have blocks of its own in [@pos, @pos + @len); what is behind the end stays.
 * They are dirty then: an fsync writes them.
 * Return: 0; -EINVAL, -EROFS, -ENOMEM, errors of reading; -ENOSPC: a part may be done.
 */
int xs_unshare(struct xs_object *object, int64_t pos, int64_t len);

/* ---- punch.c ---- */

/*
 * For iomap_fallocate(): allocate, punch a hole, make a range zeros; all durable with the next
 * commit, the ends of blocks when they are written out.  i_rwsem held exclusively.
 * Return: 0; -EOPNOTSUPP, -EROFS; -ENOMEM, -ENOSPC, an error of reading or of a commit: then a
 * hole is not there but for its ends; of a range of zeros some may have no space.
 */
int xs_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len);

/* ---- delalloc.c: all under store->lock ---- */

/*
 * Reserve up to *@nr blocks from @block on, which are neither reserved nor allocated.  *@nr: how
 * many it were, at least 1.  Return: 0, -ENOSPC, -ENOMEM.
 */
int xs_reserve(struct xs_object *object, uint64_t block, uint64_t *nr);
/* Give back what is reserved of [@from, @to).  Return: how many blocks. */
uint64_t xs_unreserve(struct xs_object *object, uint64_t from, uint64_t to);
/* How many blocks of [@from, @to) are reserved. */
uint64_t xs_reserved_nr(const struct xs_object *object, uint64_t from, uint64_t to);
/* The first that is from @block on, below @end; or @end. */
uint64_t xs_reserved_next(const struct xs_object *object, uint64_t block, uint64_t end);
/* How many in a row are from @block on, as far as one mapping tells of them; 0: it is not. */
uint64_t xs_reserved_run(const struct xs_object *object, uint64_t block);
/*
 * Make an unwritten extent of the reserved blocks around @block, of as many as there is room
 * for in a row.  Return: 0; -ENOMEM; -EIO: it is not reserved.
 */
int xs_reserved_take(struct xs_object *object, uint64_t block);
/* No inode any more: nothing is reserved, and nothing kept for it. */
void xs_reserves_exit(struct xs_object *object);

/* ---- prealloc.c ---- */

/*
 * Allocate what is a hole in [@pos, @pos + @len) of an open object, in as few extents as free
 * space allows; it reads as zeros.  The size becomes @pos + @len if that is more, unless
 * @keep_size.  Durable with the next commit.
 * Return: 0; -EINVAL, -EFBIG, -EROFS; -ENOSPC, -ENOMEM, and nothing has been allocated.
 */
int xs_preallocate(struct xs_object *object, int64_t pos, int64_t len, bool keep_size);
/* The same with i_rwsem and invalidate_lock held exclusively, of a range that is right. */
int xs_allocate(struct xs_object *object, int64_t pos, int64_t len);

/* ---- file.c ---- */

static inline struct xs_object *xs_object_of(const struct iomap_inode *inode)
{
	return inode->i_private;
}

/* lock held.  What is at @pos; of a reservation or a hole from there on. */
void xs_map_at(struct xs_object *object, int64_t pos, struct iomap *iomap);
extern const struct iomap_ops xs_ops;
extern const struct iomap_write_ops xs_write_ops;
extern const struct iomap_address_space_operations xs_a_ops;
extern const struct iomap_inode_ops xs_inode_ops;
extern const struct iomap_file_operations xs_file_ops;

/* ---- writeback.c ---- */

int xs_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc);

/* Before the inode is there, and when it is no more.  The latter waits for completions. */
void xs_writeback_begin(struct xs_object *object);
void xs_writeback_end(struct xs_object *object);

/* ---- size.c ---- */

/* lock held.  Blocks [@from, @to) are written; the object reaches to byte @end with them. */
void xs_size_reached(struct xs_object *object, uint64_t from, uint64_t to, uint64_t end);
/*
 * lock held.  Blocks [@from, @to) are clean without having been written.  Whoever syncs is
 * told so; the size must not wait for them, nor what is written later be lost with it.
 */
void xs_blocks_lost(struct xs_object *object, uint64_t from, uint64_t to);
/* lock held, all of the object written out: its size waits for nothing. */
void xs_size_settled(struct xs_object *object);
/*
 * The size waits for its tail block no longer: that is written out here, with what lies
 * behind it below @to.  Return: 0, or the error of writing.
 */
int xs_settle_size(struct xs_object *object, uint64_t to);
/* See struct iomap_inode_ops and struct iomap_file_operations. */
int xs_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size);
/* Grow to @end if it is shorter; i_rwsem and invalidate_lock held as for xs_setsize(). */
int xs_size_at_least(struct iomap_inode *inode, int64_t end);
int xs_commit_metadata(struct iomap_inode *inode, int datasync);
int xs_fsync(struct iomap_file *file, int64_t start, int64_t end, int datasync);

#endif
