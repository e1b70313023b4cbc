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
 *
 * Who converts.  An ioend that ends joins the list of its object.  If none is on its way
 * any more, whoever has brought it ends all of the list at once: the one that a sync waits for
 * is handed to nobody, and nothing is left to anybody.  Else a work does, with all that have
 * ended by the time it runs: sorted and merged they take the lock once, and those that
 * adjoin change the extents once.
 */
#include <errno.h>
#include <stddef.h>

#include "store.h"

/* ---- completions ---- */

static struct iomap_ioend *take_first(struct iomap_list_head *list)
{
	struct iomap_list_head *first = list->next;

	list->next = first->next;
	first->next->prev = list;
	first->next = first->prev = first;
	return (struct iomap_ioend *)((char *)first - offsetof(struct iomap_ioend, io_list));
}

/* lock held.  With what was merged into it; it has been written, or has failed. */
static void convert(struct xs_object *object, const struct iomap_ioend *ioend)
{
	uint64_t from = (uint64_t)ioend->io_offset >> XS_BLOCK_SHIFT;
	uint64_t end = (uint64_t)ioend->io_offset + ioend->io_size;
	uint64_t i_size = (uint64_t)iomap_i_size_read(ioend->io_inode);

	if (ioend->io_bio.bi_status) {
		xs_blocks_lost(object, from, xs_blocks_up(end));
		return;
	}
	xs_size_reached(object, from, xs_blocks_up(end), end < i_size ? end : i_size);
	if (ioend->io_flags & IOMAP_IOEND_SHARED)
		xs_copies_install(object, from, xs_blocks_up(end));
	else
		xs_extents_convert(object, from, xs_blocks_up(end));
}

/* lock held.  All that have ended.  Return: what finish_all() is to end, by io_private. */
static struct iomap_ioend *convert_all(struct xs_object *object)
{
	struct iomap_ioend *first = NULL, *last = NULL, *ioend;

	xs_extents_reserve(object, -2 * object->ended_nr);
	object->ended_nr = 0;
	iomap_sort_ioends(&object->ended);
	while (object->ended.next != &object->ended) {
		ioend = take_first(&object->ended);
		iomap_ioend_try_merge(ioend, &object->ended);
		convert(object, ioend);
		ioend->io_private = NULL;
		if (last)
			last->io_private = ioend;
		else
			first = ioend;
		last = ioend;
	}
	return first;
}

/* No lock held.  With the last of them the object may go. */
static void finish_all(struct iomap_ioend *ioend)
{
	struct iomap_ioend *next;

	for (; ioend; ioend = next) {
		next = ioend->io_private;
		iomap_finish_ioends(ioend, 0);
	}
}

static void convert_work(struct iomap_work *work)
{
	struct xs_object *object =
		(struct xs_object *)((char *)work - offsetof(struct xs_object, ended_work));
	struct iomap_ioend *ended;

	pthread_mutex_lock(&object->store->lock);
	ended = convert_all(object);
	pthread_mutex_unlock(&object->store->lock);
	finish_all(ended);
}

/* An ioend has been written, or has failed.  Any thread; `lock` is held for moments only. */
static void xs_write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio), *ended = NULL;
	struct xs_object *object = xs_object_of(ioend->io_inode);
	struct xs_store *store = object->store;

	pthread_mutex_lock(&store->lock);
	ioend->io_list.next = &object->ended;
	ioend->io_list.prev = object->ended.prev;
	object->ended.prev->next = &ioend->io_list;
	object->ended.prev = &ioend->io_list;
	object->ended_nr++;
	object->flying_nr--;
	if (!object->flying_nr)
		ended = convert_all(object);
	else if (object->ended_nr == 1)
		/* under the lock: once it is free somebody else may end all, and the object go */
		iomap_queue_work(store->engine, &object->ended_work);
	pthread_mutex_unlock(&store->lock);
	finish_all(ended);
}

void xs_writeback_begin(struct xs_object *object)
{
	object->ended.next = object->ended.prev = &object->ended;
	iomap_init_work(&object->ended_work, convert_work);
}

void xs_writeback_end(struct xs_object *object)
{
	iomap_flush_work(object->store->engine, &object->ended_work);
}

/* ---- ioends ---- */

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
static void take_ioend(struct writeback *writeback, struct xs_object *object)
{
	struct iomap_ioend *ioend = writeback->wpc.wb_ctx;

	if (!ioend || ioend->io_bio.bi_end_io == xs_write_end)
		return;
	ioend->io_bio.bi_end_io = xs_write_end;
	writeback->spare = false;
	pthread_mutex_lock(&object->store->lock);
	object->flying_nr++;
	pthread_mutex_unlock(&object->store->lock);
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
	take_ioend(writeback, object);
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

