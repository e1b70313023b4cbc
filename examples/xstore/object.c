/* SPDX-License-Identifier: MIT */
/*
 * object.c - objects: made, found, named, listed, given back.
 *
 * An object without a name is written by no commit, so its blocks are free for whoever opens
 * the store next.  That makes a new object appear, or take the place of an old one, in a
 * single commit: fill it, fsync it, xs_link() it, xs_commit().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* ---- in memory ---- */

static void account(struct xs_object *object, bool here)
{
	struct xs_store *store = object->store;

	if (here) {
		store->all_nr++;
		store->name_bytes += object->name_room;
	} else {
		store->all_nr--;
		store->name_bytes -= object->name_room;
	}
}

/* Without a name it keeps the room of the one it had, and may get one that needs no more. */
static void set_name(struct xs_object *object, char *name)
{
	account(object, false);
	free(object->name);
	object->name = name;
	if (name)
		object->name_room = (uint32_t)strlen(name);
	account(object, true);
}

void xs_object_free(struct xs_object *object)
{
	free(object->extents);
	free(object->copies);
	free(object->name);
	free(object);
}

/* lock held.  It has neither name nor opener, and may be freed. */
static void gone(struct xs_object *object)
{
	struct xs_store *store = object->store;

	account(object, false);
	object->next_gone = store->gone;
	store->gone = object;
	xs_objects_bury(store);
}

void xs_objects_bury(struct xs_store *store)
{
	struct xs_object *object;

	while ((object = store->gone) && !xs_extents_cut_begin(object, 0, XS_FILE_BLOCKS_MAX)) {
		store->gone = object->next_gone;
		xs_extents_cut(object, 0, XS_FILE_BLOCKS_MAX);
		xs_extents_cut_end(object);
		xs_object_free(object);
	}
}

/* Where @name is in store->objects, or would be. */
static size_t find_name(const struct xs_store *store, const char *name, bool *found)
{
	size_t low = 0, high = store->objects_nr;

	*found = false;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(store->objects[mid]->name, name);

		*found |= order == 0;
		if (order >= 0)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

size_t xs_object_find_id(const struct xs_store *store, uint64_t id)
{
	size_t low = 0, high = store->objects_nr;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (store->by_id[mid]->id >= id)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static int room_for_name(struct xs_store *store)
{
	size_t max = store->objects_max ? 2 * store->objects_max : 16;
	struct xs_object **objects, **by_id;

	if (store->objects_nr < store->objects_max)
		return 0;
	objects = realloc(store->objects, max * sizeof(*objects));
	if (!objects)
		return -ENOMEM;
	store->objects = objects;
	by_id = realloc(store->by_id, max * sizeof(*by_id));
	if (!by_id)
		return -ENOMEM;
	store->by_id = by_id;
	store->objects_max = max;
	return 0;
}

static void list_insert(struct xs_object **list, size_t nr, size_t at, struct xs_object *object)
{
	memmove(list + at + 1, list + at, (nr - at) * sizeof(struct xs_object *));
	list[at] = object;
}

static void list_remove(struct xs_object **list, size_t nr, size_t at)
{
	memmove(list + at, list + at + 1, (nr - at - 1) * sizeof(struct xs_object *));
}

/* @at: its place by name.  There is room. */
static void insert_at(struct xs_store *store, size_t at, struct xs_object *object)
{
	list_insert(store->objects, store->objects_nr, at, object);
	list_insert(store->by_id, store->objects_nr, xs_object_find_id(store, object->id), object);
	store->objects_nr++;
	xs_changed(object, 0, XS_AT_LAST);
}

/* @at: its place by name. */
static void remove_at(struct xs_store *store, size_t at)
{
	struct xs_object *object = store->objects[at];

	xs_changed(object, 0, XS_AT_LAST);
	list_remove(store->objects, store->objects_nr, at);
	list_remove(store->by_id, store->objects_nr, xs_object_find_id(store, object->id));
	store->objects_nr--;
}

void xs_changed(struct xs_object *object, uint64_t low, uint64_t high)
{
	struct xs_store *store = object->store;

	store->changes++;
	/* without a name it is in no tree */
	if (object->name)
		xs_tree_mark(&store->tree, (struct xs_key){ object->id, low },
			     (struct xs_key){ object->id, high });
	if (high >= XS_AT_EXTENT)
		xs_mappings_changed(object);
}

void xs_mappings_changed(struct xs_object *object)
{
	/* Release: pairs with the acquire of iomap_valid, which looks without the lock. */
	__atomic_store_n(&object->cookie, object->cookie + 1, __ATOMIC_RELEASE);
}

int xs_adopt(struct xs_store *store, const struct xs_record *record, struct xs_extent *extents,
	     uint32_t extents_nr)
{
	struct xs_object *object = calloc(1, sizeof(*object));
	char *name = strdup(record->name);

	if (!object || !name || room_for_name(store)) {
		free(extents);
		free(object);
		free(name);
		return -ENOMEM;
	}
	object->store = store;
	object->name = name;
	object->name_room = record->name_bytes;
	object->id = record->id;
	object->size = record->size;
	object->extents = extents;
	object->extents_nr = extents_nr;
	object->extents_max = extents_nr;
	account(object, true);
	for (uint32_t i = 0; i < extents_nr; i++)
		store->weight += extents[i].unwritten ? extents[i].nr : 1;
	store->by_id[store->objects_nr] = object;
	store->objects[store->objects_nr++] = object;
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	const struct xs_object *const *left = a, *const *right = b;

	return strcmp((*left)->name, (*right)->name);
}

void xs_adopted(struct xs_store *store)
{
	if (store->objects_nr)
		qsort(store->objects, store->objects_nr, sizeof(struct xs_object *), compare_names);
}

/* ---- openers ---- */

/*
 * The first opener finds nothing behind the end that an object that grows would show: extents
 * that were written before the size could follow, and then power went, or the write that the
 * size waited for failed.
 */
static int cut_behind_end(struct xs_object *object)
{
	int error;

	if (object->store->readonly)
		return 0;
	pthread_mutex_lock(&object->store->lock);
	error = xs_extents_cut_written(object, xs_blocks_up(object->size));
	pthread_mutex_unlock(&object->store->lock);
	return error;
}

/* open_lock held, no openers: nobody else looks at the object's size. */
static int first_opener(struct xs_object *object)
{
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &xs_a_ops,
		.i_op = &xs_inode_ops,
		.i_fop = &xs_file_ops,
		.bdev = object->store->bdev,
		.i_size = (int64_t)object->size,
		.i_maxbytes = (int64_t)XS_FILE_BYTES_MAX,
		.i_ino = object->id,
		.i_private = object,
		.blkbits = XS_BLOCK_SHIFT,
	};
	int error = cut_behind_end(object);

	xs_writeback_begin(object);
	return error ? error : iomap_inode_init(object->store->engine, &object->inode, &args);
}

/* open_lock held.  The first opener brings the inode. */
static int get_opener(struct xs_object *object)
{
	struct xs_store *store = object->store;
	int error = object->openers_nr ? 0 : first_opener(object);

	if (error)
		return error;
	pthread_mutex_lock(&store->lock);
	if (!object->openers_nr++) {
		object->pending_size = 0;
		object->tail_lost = false;
	}
	pthread_mutex_unlock(&store->lock);
	return 0;
}

/* An id and the space for its metadata; without openers. */
static int add_nameless(struct xs_object *object)
{
	struct xs_store *store = object->store;
	int error = 0;

	pthread_mutex_lock(&store->lock);
	if (xs_space_full(store)) {
		error = xs_space_waiting(store) ? -EAGAIN : -ENOSPC;
	} else {
		object->id = store->next_id++;
		account(object, true);
	}
	pthread_mutex_unlock(&store->lock);
	return error;
}

int xs_create(struct xs_store *store, struct xs_object **out)
{
	struct xs_object *object;
	int error = 0;

	if (store->readonly)
		return -EROFS;
	object = calloc(1, sizeof(*object));
	if (!object)
		return -ENOMEM;
	object->store = store;
	object->name_room = XS_NAME_MAX;
	error = add_nameless(object);
	if (error == -EAGAIN) {
		/* What was removed is free once a commit says so. */
		error = xs_commit(store);
		if (!error)
			error = add_nameless(object);
		error = error == -EAGAIN ? -ENOSPC : error;
	}
	if (error) {
		free(object);
		return error;
	}
	pthread_mutex_lock(&store->open_lock);
	error = get_opener(object);
	if (error) {
		pthread_mutex_lock(&store->lock);
		account(object, false);
		pthread_mutex_unlock(&store->lock);
		free(object);
	}
	pthread_mutex_unlock(&store->open_lock);
	if (!error)
		*out = object;
	return error;
}

int xs_lookup(struct xs_store *store, const char *name, struct xs_object **out)
{
	struct xs_object *object = NULL;
	bool found;
	size_t at;
	int error = -ENOENT;

	pthread_mutex_lock(&store->open_lock);
	pthread_mutex_lock(&store->lock);
	at = find_name(store, name, &found);
	if (found)
		object = store->objects[at];
	pthread_mutex_unlock(&store->lock);
	/* under open_lock it stays: what loses its name has to get it as well */
	if (object)
		error = get_opener(object);
	pthread_mutex_unlock(&store->open_lock);
	if (!error)
		*out = object;
	return error;
}

/* The last one has gone: what no name leads to goes as well. */
static void drop_nameless(struct xs_object *object)
{
	struct xs_store *store = object->store;

	pthread_mutex_lock(&store->lock);
	gone(object);
	pthread_mutex_unlock(&store->lock);
}

/* -EBUSY: files are open, nothing has happened.  Else the inode is gone. */
static int destroy_inode(struct xs_object *object, bool nameless)
{
	int error = 0, discard = 0;

	if (!nameless)
		error = iomap_inode_destroy(&object->inode, IOMAP_DESTROY_WAIT);
	/* what the device does not take now it will not take later: the error says it */
	if (nameless || (error && error != -EBUSY))
		discard = iomap_inode_destroy(&object->inode, IOMAP_DESTROY_DISCARD);
	return discard == -EBUSY || !error ? discard : error;
}

int xs_put(struct xs_object *object)
{
	struct xs_store *store = object->store;
	bool last, nameless;
	int error = 0;

	pthread_mutex_lock(&store->open_lock);
	pthread_mutex_lock(&store->lock);
	last = object->openers_nr == 1;
	object->openers_nr -= !last;
	nameless = !object->name;
	pthread_mutex_unlock(&store->lock);
	if (last)
		error = destroy_inode(object, nameless);
	if (last && error != -EBUSY) {
		xs_writeback_end(object);
		pthread_mutex_lock(&store->lock);
		object->openers_nr = 0;
		/* taken for writes that failed, or were shorter than announced */
		xs_copies_cut(object, 0, XS_FILE_BLOCKS_MAX);
		xs_reserves_exit(object);
		if (!error && !nameless)
			xs_size_settled(object);
		pthread_mutex_unlock(&store->lock);
		if (nameless)
			drop_nameless(object);
	}
	pthread_mutex_unlock(&store->open_lock);
	return error;
}

/* ---- names ---- */

/* Both locks held.  Without openers the object goes. */
static void take_name(struct xs_store *store, size_t at)
{
	struct xs_object *object = store->objects[at];

	remove_at(store, at);
	set_name(object, NULL);
	if (!object->openers_nr)
		gone(object);
}

int xs_link(struct xs_object *object, const char *name)
{
	struct xs_store *store = object->store;
	int error = xs_name_check(name, strlen(name));
	char *copy;
	bool found;
	size_t at;

	if (error)
		return error;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	pthread_mutex_lock(&store->open_lock);
	pthread_mutex_lock(&store->lock);
	error = object->name ? -EEXIST : room_for_name(store);
	/* it had a name, which took less */
	if (!error && strlen(name) > object->name_room && xs_space_full(store))
		error = -ENOSPC;
	if (!error) {
		at = find_name(store, name, &found);
		if (found)
			take_name(store, at);
		set_name(object, copy);
		insert_at(store, at, object);
	}
	pthread_mutex_unlock(&store->lock);
	pthread_mutex_unlock(&store->open_lock);
	if (error)
		free(copy);
	return error;
}

int xs_unlink(struct xs_store *store, const char *name)
{
	bool found = false;
	size_t at;

	if (store->readonly)
		return -EROFS;
	pthread_mutex_lock(&store->open_lock);
	pthread_mutex_lock(&store->lock);
	at = find_name(store, name, &found);
	if (found)
		take_name(store, at);
	pthread_mutex_unlock(&store->lock);
	pthread_mutex_unlock(&store->open_lock);
	return found ? 0 : -ENOENT;
}

/* ---- reports ---- */

static void fill_info(const struct xs_object *object, struct xs_info *out)
{
	memset(out, 0, sizeof(*out));
	memcpy(out->name, object->name, strlen(object->name));
	out->id = object->id;
	/* an inode that is just being destroyed still knows its size */
	out->size = object->openers_nr ? (uint64_t)iomap_i_size_read(&object->inode) : object->size;
	out->extents_nr = object->extents_nr;
	for (uint32_t i = 0; i < object->extents_nr; i++) {
		const struct xs_extent *extent = &object->extents[i];

		if (extent->unwritten)
			out->unwritten_blocks_nr += extent->nr;
		else
			out->data_blocks_nr += extent->nr;
		out->shared_blocks_nr +=
			xs_shares_count(&object->store->space.shares, extent->disk, extent->nr);
	}
}

int xs_info_nth(struct xs_store *store, size_t n, struct xs_info *out)
{
	int error = -ENOENT;

	pthread_mutex_lock(&store->lock);
	if (n < store->objects_nr) {
		fill_info(store->objects[n], out);
		error = 0;
	}
	pthread_mutex_unlock(&store->lock);
	return error;
}

int xs_info(struct xs_store *store, const char *name, struct xs_info *out)
{
	bool found;
	size_t at;

	pthread_mutex_lock(&store->lock);
	at = find_name(store, name, &found);
	if (found)
		fill_info(store->objects[at], out);
	pthread_mutex_unlock(&store->lock);
	return found ? 0 : -ENOENT;
}

int xs_extents(struct xs_store *store, const char *name, struct xs_extent **out, uint32_t *nr)
{
	const struct xs_object *object;
	bool found;
	size_t at;
	int error = -ENOENT;

	pthread_mutex_lock(&store->lock);
	at = find_name(store, name, &found);
	if (found) {
		object = store->objects[at];
		*nr = object->extents_nr;
		*out = calloc((size_t)*nr + 1, sizeof(**out));
		error = *out ? 0 : -ENOMEM;
		if (!error && *nr)
			memcpy(*out, object->extents, *nr * sizeof(**out));
	}
	pthread_mutex_unlock(&store->lock);
	return error;
}

/* How many pieces there are; with @pieces, what they are. */
static size_t fill_pieces(const struct xs_object *object, struct xs_extent *pieces, bool *shared)
{
	const struct xs_shares *shares = &object->store->space.shares;
	size_t nr = 0;

	for (uint32_t i = 0; i < object->extents_nr; i++) {
		struct xs_extent left = object->extents[i];

		while (left.nr) {
			bool is_shared;
			uint32_t run =
				(uint32_t)xs_shares_run(shares, left.disk, left.nr, &is_shared);

			if (pieces) {
				shared[nr] = is_shared;
				pieces[nr] = left;
				pieces[nr].nr = run;
			}
			nr++;
			left.file += run;
			left.disk += run;
			left.nr -= run;
		}
	}
	return nr;
}

int xs_pieces(struct xs_store *store, const char *name, struct xs_extent **pieces, bool **shared,
	      size_t *nr)
{
	bool found;
	size_t at;
	int error = -ENOENT;

	*pieces = NULL;
	*shared = NULL;
	pthread_mutex_lock(&store->lock);
	at = find_name(store, name, &found);
	if (found) {
		*nr = fill_pieces(store->objects[at], NULL, NULL);
		*pieces = calloc(*nr + 1, sizeof(**pieces));
		*shared = calloc(*nr + 1, sizeof(**shared));
		error = *pieces && *shared ? 0 : -ENOMEM;
	}
	if (!error)
		fill_pieces(store->objects[at], *pieces, *shared);
	pthread_mutex_unlock(&store->lock);
	if (error) {
		free(*pieces);
		free(*shared);
	}
	return error;
}
