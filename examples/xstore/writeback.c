/* SPDX-License-Identifier: MIT */
/*
 * writeback.c - out of the cache: places for what is dirty, ioends, and what has been written.
 *
 * What is written lies in an unwritten extent, which reads as zeros: what was reserved becomes
 * one here (delalloc.c), other space is one since it was allocated.  The completion makes it
 * a written one (xs_write_end()): so no commit ever names a block as data that the device has
 * not been given, and since a commit flushes before its super block, none that could still be
 * lost.  A power cut in between leaves zeros.
 *
 * The conversion comes before the folios leave writeback.  Until then they cannot leave the
 * cache, so nobody reads the extent's zeros in place of the data; and a writer that took its
 * mapping before the conversion finds the cookie changed when it has locked a folio, and
 * asks again.
 */
#include <errno.h>

#include "store.h"

/* An ioend has been written, or has failed.  Any thread; `lock` is held for moments only. */
static void xs_write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);
	struct xs_object *object = xs_object_of(ioend->io_inode);
	uint64_t from = (uint64_t)ioend->io_offset >> XS_BLOCK_SHIFT;
	uint64_t end = (uint64_t)ioend->io_offset + ioend->io_size;
	uint64_t i_size = (uint64_t)iomap_i_size_read(ioend->io_inode);

	pthread_mutex_lock(&object->store->lock);
	xs_extents_reserve(object, -2);
	if (bio->bi_status) {
		xs_blocks_lost(object, from, xs_blocks_up(end));
	} else {
		xs_size_reached(object, from, xs_blocks_up(end), end < i_size ? end : i_size);
		if (ioend->io_flags & IOMAP_IOEND_SHARED)
			xs_copies_install(object, from, xs_blocks_up(end));
		else
			xs_extents_convert(object, from, xs_blocks_up(end));
	}
	pthread_mutex_unlock(&object->store->lock);

	bio->bi_end_io = (iomap_bio_end_io_fn *)ioend->io_private;
	bio->bi_end_io(bio);
}

/*
 * What one call of xs_writepages() has.  Room for what a completion does is found before there
 * is an ioend: later there is nobody to tell, and until then data can be left dirty.
 */
struct writeback {
	struct iomap_writepage_ctx wpc;
	bool spare; /* room that no ioend has yet */
};

static int reserve_conversion(struct writeback *writeback, struct xs_object *object)
{
	int error = 0;

	if (writeback->spare)
		return 0;
	pthread_mutex_lock(&object->store->lock);
	error = xs_extents_room(object, 2);
	if (!error)
		xs_extents_reserve(object, 2);
	pthread_mutex_unlock(&object->store->lock);
	writeback->spare = !error;
	return error;
}

static void drop_spare(struct writeback *writeback)
{
	struct xs_object *object = xs_object_of(writeback->wpc.inode);

	if (!writeback->spare)
		return;
	pthread_mutex_lock(&object->store->lock);
	xs_extents_reserve(object, -2);
	pthread_mutex_unlock(&object->store->lock);
}

/* The ioend being built ends with us, if it is a new one: it takes the room. */
static void take_ioend(struct writeback *writeback)
{
	struct iomap_ioend *ioend = writeback->wpc.wb_ctx;

	if (!ioend || ioend->io_private)
		return;
	ioend->io_private = (void *)ioend->io_bio.bi_end_io;
	ioend->io_bio.bi_end_io = xs_write_end;
	writeback->spare = false;
}

/* Where dirty data at @pos goes.  -ENOMEM: nowhere yet. */
static int place(struct xs_object *object, uint64_t pos, struct iomap *iomap)
{
	int error = 0;

	pthread_mutex_lock(&object->store->lock);
	xs_map_at(object, (int64_t)pos, iomap);
	if (iomap->type == IOMAP_MAPPED)
		xs_copies_map(object, (int64_t)pos, iomap);
	if (iomap->type != IOMAP_MAPPED && iomap->type != IOMAP_UNWRITTEN) {
		error = xs_reserved_take(object, pos >> XS_BLOCK_SHIFT);
		if (!error)
			xs_map_at(object, (int64_t)pos, iomap);
	}
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

/* [@pos, @end) is clean without having been written, and does not come again. */
static void range_lost(struct xs_object *object, uint64_t pos, uint64_t end)
{
	uint64_t from = pos >> XS_BLOCK_SHIFT, to = xs_blocks_up(end);

	pthread_mutex_lock(&object->store->lock);
	xs_unreserve(object, from, to);
	xs_blocks_lost(object, from, to);
	pthread_mutex_unlock(&object->store->lock);
}

static ssize_t xs_writeback_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				  uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct writeback *writeback = (struct writeback *)wpc;
	struct xs_object *object = xs_object_of(wpc->inode);
	ssize_t done;

	/* without memory: it stays dirty, and is tried again */
	if (reserve_conversion(writeback, object))
		return IOMAP_WB_DEFER;
	done = place(object, pos, &wpc->iomap);
	if (done == -ENOMEM)
		return IOMAP_WB_DEFER;
	if (!done)
		done = iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
	take_ioend(writeback);
	if (done < 0)
		range_lost(object, pos, (uint64_t)iomap_folio_pos(folio) + iomap_folio_size(folio));
	return done;
}

static const struct iomap_writeback_ops xs_writeback_ops = {
	.writeback_range = xs_writeback_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

int xs_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct writeback writeback = {
		.wpc = {
			.inode = mapping->host,
			.wbc = wbc,
			.ops = &xs_writeback_ops,
		},
	};
	int error = iomap_writepages(&writeback.wpc);

	drop_spare(&writeback);
	return error;
}

