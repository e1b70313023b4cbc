/* SPDX-License-Identifier: MIT */
/*
 * ioend.c - ioends: contiguous writeback of many folios, from the first run to completion.
 *
 * Life of an ioend:
 *
 *	building    in wpc->wb_ctx: runs are added while they go on in file and device
 *	in flight   after iomap_ioend_writeback_submit()
 *	ended	    the bi_end_io of its io_bio runs once, when every bio has ended
 *
 * A bio takes so many pieces of memory; an ioend that outgrows its io_bio gets more bios,
 * each in an object of the same kind, chained behind it.  They are submitted together, by
 * iomap_ioend_writeback_submit() alone: until then a hook may still put off or refuse the
 * whole, or give it an address (IOMAP_F_ANON_WRITE).  For the time in flight the end_io of
 * all bios is ours; the one that ends last calls what io_bio had before, so that an own
 * bi_end_io sees one completion, with the first error in bi_status and io_error.
 *
 * Completion ends writeback on the folios and frees the ioend.  It runs on any thread that
 * reaps, holds no lock and does not block.  Errors are recorded before writeback ends, since
 * with the last folio the inode may go.
 *
 * An own bi_end_io may put it off, to a work function that does several at a time
 * (ioend_merge.c).  Who waits for writeback has to know of such work where nobody else would do
 * it: so what is queued while that hook runs is marked (work.c), with the classes of the inodes.
 */
#include "block/block.h"
#include "iomap/dio.h"

/* An ioend ends here, so that the device has something to do while the next is built. */
#define IOEND_BYTES_MAX ((size_t)4 << 20)

/*
 * Kept for when there is no memory.  Who needs one waits for one that is on its way, but who is
 * inside writeback_range has one that is not, and may have to write metadata there, by an ioend of
 * its own: so two for each thread that can be in there, or they would wait for each other; and some
 * that are on their way meanwhile.
 */
#define FS_RESERVED_IOENDS 32U

static unsigned fs_reserved_ioends(const struct iomap_engine *engine)
{
	/* the flusher besides */
	return FS_RESERVED_IOENDS + 2 * (engine->opts.max_callers + engine->opts.nr_workers + 1);
}

/* Where it can be read in one that has been freed: pool.c. */
#define IOEND_MAGIC 0x696f656eU

struct ioend_box {
	struct ioend_box *next; /* further bios */
	uint32_t magic;		/* of the first, until it has been finished */
	uint32_t anon;		/* of the first: the address comes at submission */
	struct ioend_box *tail; /* of the first: the last one, to which runs are added */
	union {
		const struct iomap_folio *folio; /* of the first, building: the last run's */
		iomap_bio_end_io_fn *end_io; /* of the first, in flight: what io_bio had */
	};
	struct iomap__slow slow;	 /* of the first, in flight */
	struct iomap_ioend ioend;
};

#define IOEND_FRONT_PAD offsetof(struct ioend_box, ioend.io_bio)
_Static_assert(IOEND_FRONT_PAD % 16 == 0, "the front pad keeps the bio's alignment");

struct iomap_ioend *iomap_ioend_from_bio(struct iomap_bio *bio)
{
	return iomap__container_of(bio, struct iomap_ioend, io_bio);
}

static struct ioend_box *ioend_box(struct iomap_ioend *ioend)
{
	return iomap__container_of(ioend, struct ioend_box, ioend);
}

/* ---- folios of a bio ---- */

void iomap__bio_for_each_folio(const struct iomap_bio *bio, struct iomap__cache *cache,
			       iomap__bio_folio_fn *fn, void *arg)
{
	for (uint32_t i = 0; i < bio->bi_vcnt; i++) {
		char *mem = bio->bi_io_vec[i].bv_base;
		size_t left = bio->bi_io_vec[i].bv_len;

		/* memory of neighbours was put into one vector */
		while (left) {
			struct iomap_folio *folio = iomap__folio_of(cache, mem);
			size_t off = (size_t)(mem - (char *)iomap_folio_address(folio));
			size_t len = iomap__min(left, iomap__folio_bytes(folio) - off);

			/* it may be somebody else's when fn returns */
			fn(arg, folio, off, len);
			mem += len;
			left -= len;
		}
	}
}

/* ---- completion ---- */

static void ioend_folio(void *arg, struct iomap_folio *folio, size_t off, size_t len)
{
	(void)off;
	iomap_finish_folio_write(arg, folio, len);
}

static void ioend_failed_folio(void *arg, struct iomap_folio *folio, size_t off, size_t len)
{
	iomap__folio_write_failed(folio, off, len);
	iomap_finish_folio_write(arg, folio, len);
}

static void ioend_record_error(struct iomap_ioend *ioend, int error)
{
	struct iomap_inode *inode = ioend->io_inode;

	iomap__log_io_error(inode, "writeback", ioend->io_offset, ioend->io_size,
			    ioend->io_bio.bi_bdev, ioend->io_sector << IOMAP_SECTOR_SHIFT, error);
	iomap_mapping_set_error(&inode->i_data, error);
	if (iomap__inode_retries(inode))
		iomap__mapping_failed(&inode->i_data, error);
}

int iomap__ioend_outcome(const struct iomap_ioend *ioend)
{
	/* a hook may have found fault with it, or made it good */
	return ioend->io_bio.bi_status;
}

/* All of it has ended; @error is its own, or what came behind. */
static void ioend_finish(struct iomap_ioend *ioend, int error)
{
	struct ioend_box *box = ioend_box(ioend), *next;
	iomap__bio_folio_fn *fn = ioend_folio;
	struct iomap_inode *inode;
	struct iomap__cache *cache;

	iomap__assert_msg(box->magic == IOEND_MAGIC, "an ioend is finished twice, or is none");
	box->magic = 0;
	inode = ioend->io_inode;
	cache = inode->i_engine->cache;
	if (error) {
		ioend_record_error(ioend, error);
		/* not behind the first folio: with the last one the inode may go */
		if (iomap__inode_retries(inode))
			fn = ioend_failed_folio;
	}
	for (; box; box = next) {
		next = box->next;
		iomap__bio_for_each_folio(&box->ioend.io_bio, cache, fn, inode);
		iomap_bio_put(&box->ioend.io_bio);
	}
}

void iomap_finish_ioends(struct iomap_ioend *ioend, int error)
{
	struct iomap_list_head *merged = &ioend->io_list;
	int own;

	iomap__assert_msg(ioend_box(ioend)->magic == IOEND_MAGIC,
			  "iomap_finish_ioends: an ioend is finished twice, or is none");
	while (!iomap__list_empty(merged)) {
		struct iomap_ioend *next =
			iomap__container_of(merged->next, struct iomap_ioend, io_list);

		iomap__list_del(&next->io_list);
		own = iomap__ioend_outcome(next);
		ioend_finish(next, own ? own : error);
	}
	/* the first one last: with it goes the head of the list */
	own = iomap__ioend_outcome(ioend);
	ioend_finish(ioend, own ? own : error);
}

/* The default bi_end_io of an ioend. */
static void ioend_end_io(struct iomap_bio *bio)
{
	ioend_finish(iomap_ioend_from_bio(bio), bio->bi_status);
}

/* All bios have ended, or none has been submitted: what io_bio says is to be done. */
static void ioend_call_end_io(struct iomap_ioend *ioend)
{
	struct iomap__thread *self = iomap__thread_self();
	uint32_t before = self->ending_ioends;

	self->ending_ioends |= 1U << ioend->io_inode->i_class;
	ioend->io_bio.bi_end_io(&ioend->io_bio);
	self->ending_ioends = before;
}

/* One bio of an ioend in flight has ended. */
static void ioend_part_end_io(struct iomap_bio *bio)
{
	struct iomap_ioend *part = iomap_ioend_from_bio(bio);
	struct iomap_ioend *ioend = part->io_parent ? part->io_parent : part;
	int32_t none = 0;

	if (bio->bi_status)
		__atomic_compare_exchange_n(&ioend->io_error, &none, bio->bi_status, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	/* the last one sees what the others have done */
	if (iomap__fetch_sub(&ioend->io_remaining, 1) > 1)
		return;
	iomap__slow_end(ioend->io_inode->i_engine->blk, &ioend_box(ioend)->slow);
	ioend->io_bio.bi_status = ioend->io_error;
	ioend->io_bio.bi_end_io = ioend_box(ioend)->end_io;
	ioend_call_end_io(ioend);
}

/* ---- submission ---- */

static void ioend_count(struct iomap_ioend *ioend)
{
	struct iomap_engine *engine = ioend->io_inode->i_engine;
	unsigned blkbits = ioend->io_inode->i_blkbits;
	uint64_t bytes = 0, bios = 0;

	for (const struct ioend_box *box = ioend_box(ioend); box; box = box->next, bios++)
		bytes += box->ioend.io_bio.bi_iter.bi_size;
	iomap__mapping_count(&ioend->io_inode->i_data, IOMAP__ISTAT_IOENDS, 1);
	iomap__mapping_count(&ioend->io_inode->i_data, IOMAP__ISTAT_IOEND_BYTES, bytes);
	iomap__cache_count2(engine, IOMAP__STAT_RANGE_BIOS, bios);
	iomap__cache_count2(engine, IOMAP__STAT_IOEND_BIOS, bios);
	iomap__cache_count(engine, IOMAP__STAT_IOENDS, 1);
	iomap__cache_count(engine, IOMAP__STAT_IOEND_BYTES, bytes);
	iomap__cache_count(engine, IOMAP__STAT_IOEND_BLOCKS,
			   (bytes + (1ULL << blkbits) - 1) >> blkbits);
}

/* Make the bios of an ioend one: they follow io_bio on its device, wherever a hook put it. */
static void ioend_prepare(struct iomap_ioend *ioend)
{
	struct ioend_box *first = ioend_box(ioend);
	uint64_t sector = ioend->io_bio.bi_iter.bi_sector;

	first->end_io = ioend->io_bio.bi_end_io;
	ioend->io_sector = sector;
	for (struct ioend_box *box = first; box; box = box->next) {
		struct iomap_bio *bio = &box->ioend.io_bio;

		bio->bi_bdev = ioend->io_bio.bi_bdev;
		bio->bi_opf = ioend->io_bio.bi_opf;
		bio->bi_iter.bi_sector = sector;
		bio->bi_end_io = ioend_part_end_io;
		sector = iomap_bio_end_sector(bio);
		ioend->io_remaining++;
	}
}

static void ioend_submit(struct iomap_ioend *ioend)
{
	struct ioend_box *box = ioend_box(ioend), *next;
	struct iomap_plug plug;

	/* again: a hook may have put it on another device */
	iomap__sync_note_device(ioend->io_inode, ioend->io_bio.bi_bdev);
	ioend_count(ioend);
	ioend_prepare(ioend);
	box->slow = (struct iomap__slow){
		.begun_ns = iomap__now_ns(&ioend->io_inode->i_engine->env),
		.what = "writeback",
		.ino = ioend->io_inode->i_ino,
		.pos = ioend->io_offset,
		.len = ioend->io_size,
	};
	iomap__slow_begin(ioend->io_inode->i_engine->blk, &box->slow);
	iomap_start_plug(&plug);
	for (; box; box = next) {
		/* with the last bio the ioend may be gone */
		next = box->next;
		iomap_submit_bio(&box->ioend.io_bio);
	}
	iomap_finish_plug(&plug);
}

int iomap_ioend_writeback_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	wpc->wb_ctx = NULL;
	wpc->nr_folios = 0;
	if (!ioend)
		return error;
	if (error) {
		ioend->io_error = error;
		ioend->io_bio.bi_status = error;
		/* not iomap_bio_endio(): no device has seen it */
		ioend_call_end_io(ioend);
		return error;
	}
	ioend_submit(ioend);
	return 0;
}

/* ---- building ---- */

/* @wait: there will be one; nothing that is being built may be held, see block.h. */
static struct ioend_box *ioend_box_alloc(struct iomap_writepage_ctx *wpc, bool wait)
{
	struct iomap_bio_set *set = &wpc->inode->i_engine->fs->ioend_bios;
	uint32_t opf = IOMAP_REQ_OP_WRITE | (wpc->wbc->sync_mode == IOMAP_WB_SYNC_ALL
						     ? IOMAP_REQ_SYNC
						     : IOMAP_REQ_BACKGROUND);
	struct iomap_bio *bio;
	struct ioend_box *box;

	if (wait)
		bio = iomap__bio_alloc_wait(wpc->iomap.bdev, IOMAP_BIO_MAX_VECS, opf, set);
	else
		bio = iomap_bio_alloc(wpc->iomap.bdev, IOMAP_BIO_MAX_VECS, opf, set);
	if (!bio)
		return NULL;
	box = iomap__container_of(bio, struct ioend_box, ioend.io_bio);
	memset(box, 0, IOEND_FRONT_PAD);
	return box;
}

static struct iomap_ioend *ioend_alloc(struct iomap_writepage_ctx *wpc, int64_t pos,
				       unsigned flags)
{
	struct ioend_box *box = ioend_box_alloc(wpc, true);
	struct iomap_ioend *ioend = &box->ioend;

	box->magic = IOEND_MAGIC;
	box->tail = box;
	iomap__list_init(&ioend->io_list);
	ioend->io_flags = (uint16_t)flags;
	ioend->io_inode = wpc->inode;
	ioend->io_offset = pos;
	box->anon = wpc->iomap.flags & IOMAP_F_ANON_WRITE;
	if (!box->anon)
		ioend->io_sector = iomap__mapping_addr(&wpc->iomap, pos) >> IOMAP_SECTOR_SHIFT;
	ioend->io_bio.bi_iter.bi_sector = ioend->io_sector;
	ioend->io_bio.bi_end_io = ioend_end_io;
	iomap__sync_note_device(wpc->inode, ioend->io_bio.bi_bdev);
	return ioend;
}

static unsigned ioend_flags(const struct iomap *iomap, const struct iomap_folio *folio, int64_t pos)
{
	unsigned flags = 0;

	if (iomap__folio_test(folio, IOMAP__FOLIO_DONTCACHE))
		flags |= IOMAP_IOEND_DONTCACHE;
	if (iomap->type == IOMAP_UNWRITTEN)
		flags |= IOMAP_IOEND_UNWRITTEN;
	if (iomap->flags & IOMAP_F_SHARED)
		flags |= IOMAP_IOEND_SHARED;
	if (iomap->flags & IOMAP_F_BOUNDARY && pos == iomap->offset)
		flags |= IOMAP_IOEND_BOUNDARY;
	return flags;
}

/* Whether a run at @pos continues what is being built. */
static bool ioend_continues(const struct iomap_writepage_ctx *wpc, struct iomap_ioend *ioend,
			    int64_t pos, unsigned flags)
{
	const struct iomap *iomap = &wpc->iomap;
	const unsigned alike = IOMAP_IOEND_UNWRITTEN | IOMAP_IOEND_SHARED | IOMAP_IOEND_DONTCACHE;
	const struct ioend_box *box = ioend_box(ioend);
	uint64_t anon = iomap->flags & IOMAP_F_ANON_WRITE;

	if (flags & IOMAP_IOEND_BOUNDARY || (flags ^ ioend->io_flags) & alike)
		return false;
	if (ioend->io_offset + (int64_t)ioend->io_size != pos ||
	    ioend->io_bio.bi_bdev != iomap->bdev || ioend->io_size >= IOEND_BYTES_MAX ||
	    anon != box->anon)
		return false;
	return anon || iomap__mapping_addr(iomap, pos) >> IOMAP_SECTOR_SHIFT ==
			       iomap_bio_end_sector(&box->tail->ioend.io_bio);
}

/*
 * Add memory to the bio, but not past what its device takes at once: splitting it would need
 * memory when nobody can wait for it any more.  What alone is too much goes into an empty one.
 */
static bool ioend_bio_add(struct iomap_bio *bio, struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bio->bi_bdev, &limits);
	if (bio->bi_vcnt && (bio->bi_iter.bi_size + len > limits.max_transfer_bytes ||
			     bio->bi_vcnt >= limits.max_segments_nr))
		return false;
	return iomap_bio_add_folio(bio, folio, len, off);
}

/* Add memory to the last bio, or to a new one behind it. */
static bool ioend_add(struct iomap_writepage_ctx *wpc, struct iomap_ioend *ioend,
		      struct iomap_folio *folio, size_t off, size_t len)
{
	struct ioend_box *first = ioend_box(ioend), *more;

	if (ioend_bio_add(&first->tail->ioend.io_bio, folio, off, len))
		return true;
	more = ioend_box_alloc(wpc, false);
	if (!more)
		return false;
	more->ioend.io_parent = ioend;
	more->ioend.io_bio.bi_iter.bi_sector = iomap_bio_end_sector(&first->tail->ioend.io_bio);
	if (!ioend_bio_add(&more->ioend.io_bio, folio, off, len)) {
		iomap_bio_put(&more->ioend.io_bio);
		return false;
	}
	first->tail->next = more;
	first->tail = more;
	return true;
}

/*
 * Bytes of the run that the mapping and the device take at once.  One that ends with the file,
 * inside a sector, takes the rest of that too.
 */
static size_t ioend_run_bytes(const struct iomap_writepage_ctx *wpc, int64_t pos, int64_t end_pos,
			      unsigned dirty_len)
{
	const struct iomap *iomap = &wpc->iomap;
	uint64_t left = iomap__mapping_end(iomap) - (uint64_t)pos;
	size_t block = iomap_i_blocksize(wpc->inode);
	struct iomap_bdev_limits limits;

	if (!iomap->bdev || iomap->type == IOMAP_HOLE)
		return (size_t)iomap__min(left, dirty_len);
	iomap_bdev_limits(iomap->bdev, &limits);
	/* a bio that is past the limit would be split, which needs memory */
	if (dirty_len > limits.max_transfer_bytes && limits.max_transfer_bytes >= block)
		dirty_len = (unsigned)iomap__round_down(limits.max_transfer_bytes, block);
	if (left >= dirty_len)
		return dirty_len;
	if (iomap__mapping_end(iomap) < (uint64_t)end_pos)
		return (size_t)left;
	return (size_t)iomap__min(iomap__round_up(left, limits.logical_block_size), dirty_len);
}

/* Whether the mapping can be written to at all. */
static int ioend_check(const struct iomap_writepage_ctx *wpc, int64_t pos)
{
	const struct iomap *iomap = &wpc->iomap;

	if (!iomap->length || iomap->offset < 0 || iomap->offset > pos ||
	    iomap->length > (uint64_t)INT64_MAX + 1 - (uint64_t)iomap->offset ||
	    iomap__mapping_end(iomap) <= (uint64_t)pos)
		return iomap__broken_mapping(wpc->inode, iomap, pos, "does not cover the offset");
	if (iomap->type != IOMAP_HOLE && iomap->type != IOMAP_MAPPED &&
	    iomap->type != IOMAP_UNWRITTEN)
		return iomap__broken_mapping(wpc->inode, iomap, pos,
					     "a type that cannot be written back");
	return 0;
}

/*
 * A run that does not continue the ioend, or finds no memory to, starts the next one.  For
 * that one there is memory in the end: what was built is on its way, and so are those of
 * others, and each that ends leaves its own.  Dirty data is not given up for want of memory.
 */
static int ioend_append(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, int64_t pos,
			size_t len)
{
	unsigned flags = ioend_flags(&wpc->iomap, folio, pos);
	size_t off = (size_t)(pos - iomap_folio_pos(folio));
	struct iomap_ioend *ioend = wpc->wb_ctx;
	int err;

	if (ioend && ioend_continues(wpc, ioend, pos, flags) &&
	    ioend_add(wpc, ioend, folio, off, len))
		return 0;
	if (ioend) {
		err = wpc->ops->writeback_submit(wpc, 0);
		if (err)
			return err;
	}
	ioend = ioend_alloc(wpc, pos, flags);
	/* an empty bio has room */
	if (!ioend_add(wpc, ioend, folio, off, len)) {
		iomap_bio_put(&ioend->io_bio);
		return -EIO;
	}
	wpc->wb_ctx = ioend;
	return 0;
}

ssize_t iomap_add_to_ioend(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			   int64_t pos, int64_t end_pos, unsigned dirty_len)
{
	struct iomap_ioend *ioend;
	struct ioend_box *box;
	size_t len;
	int err;

	err = ioend_check(wpc, pos);
	if (err)
		return err;
	len = ioend_run_bytes(wpc, pos, end_pos, dirty_len);
	if (wpc->iomap.type == IOMAP_HOLE)
		return (ssize_t)len;
	err = iomap__check_device(wpc->inode, &wpc->iomap, pos, len);
	if (!err)
		err = ioend_append(wpc, folio, pos, len);
	if (err)
		return err;
	iomap__cache_count2(wpc->inode->i_engine, IOMAP__STAT_RANGES, 1);
	ioend = wpc->wb_ctx;
	iomap_start_folio_write(wpc->inode, folio, len);
	box = ioend_box(ioend);
	if (box->folio != folio) {
		box->folio = folio;
		ioend->io_folios_nr++;
	}
	wpc->nr_folios = ioend->io_folios_nr;
	/* what the file does not reach is written, but is none of its bytes */
	ioend->io_size = iomap__min(ioend->io_size + len, (size_t)(end_pos - ioend->io_offset));
	return (ssize_t)len;
}

/* ---- engine ---- */

int iomap__fs_create(struct iomap_engine *engine)
{
	struct iomap__fs *fs = iomap__zalloc(&engine->env, sizeof(*fs));
	int err;

	if (!fs)
		return -ENOMEM;
	err = iomap__bio_set_init(&fs->ioend_bios, engine, IOEND_FRONT_PAD,
				   fs_reserved_ioends(engine));
	if (err)
		goto out_free;
	err = iomap__ifs_create(engine, fs);
	if (err)
		goto out_bios;
	err = iomap__pool_init(&fs->files, &engine->env, sizeof(struct iomap_file), 0);
	if (err)
		goto out_ifs;
	err = iomap__pool_init(&fs->dios, &engine->env, sizeof(struct iomap_dio), 0);
	if (err)
		goto out_files;
	err = iomap__async_create(engine, fs);
	if (err)
		goto out_dios;
	engine->fs = fs;
	return 0;

out_dios:
	iomap__pool_exit(&fs->dios);
out_files:
	iomap__pool_exit(&fs->files);
out_ifs:
	iomap__ifs_destroy(fs);
out_bios:
	iomap__bio_set_exit(&fs->ioend_bios);
out_free:
	iomap__free(&engine->env, fs, sizeof(*fs));
	return err;
}

void iomap__fs_destroy(struct iomap_engine *engine)
{
	struct iomap__fs *fs = engine->fs;

	iomap__async_destroy(fs);
	iomap__pool_exit(&fs->dios);
	iomap__pool_exit(&fs->files);
	iomap__ifs_destroy(fs);
	iomap__bio_set_exit(&fs->ioend_bios);
	iomap__free(&engine->env, fs, sizeof(*fs));
	engine->fs = NULL;
}
