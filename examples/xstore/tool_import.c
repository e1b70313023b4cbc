/* SPDX-License-Identifier: MIT */
/*
 * tool_import.c - xstore import: each regular file below a directory becomes an object.
 *
 * As with put, an object is filled without a name and takes over the name when its data is on
 * the device; a commit makes that durable.  So the store holds whole files at any time, the
 * old or the new one, and an import that was cut off is completed by another: files that are
 * in with the same bytes are left alone.
 *
 * Neither waiting for each file's data nor committing each file would be fast.  Up to
 * FLIGHT_NR objects are in flight at a time, the oldest of which is waited for.  They are
 * written BATCH_NR together, under one plug: one system call, and the kernel can make one
 * request of what lies side by side.  A commit is made when enough has come together to make
 * its price small.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define FLIGHT_NR 64U
#define BATCH_NR 32U
#define BATCH_BYTES (UINT64_C(1) << 20)
#define COMMIT_OBJECTS 4096U
#define COMMIT_BYTES (UINT64_C(64) << 20)

/* Filled, being written, not yet in the store. */
struct flight {
	struct opened opened;
	const struct tree_file *source;
	uint64_t bytes;
};

struct import {
	struct session *session;
	struct tree tree;
	char *chunks[2];
	struct flight flights[FLIGHT_NR];
	size_t first, flights_nr; /* of a ring */
	size_t batch_nr;	  /* the last of these, not yet being written */
	uint64_t batch_bytes;
	uint64_t pending_nr, pending_bytes; /* in the store since the last commit */
	uint64_t in_nr, in_bytes;	    /* since it began, committed or not */
	uint64_t same_nr, same_bytes;	    /* had been in */
};

static struct xs_store *store_of(const struct import *import)
{
	return import->session->store;
}

/* ---- into the store ---- */

static int commit(struct import *import)
{
	import->pending_nr = 0;
	import->pending_bytes = 0;
	return xs_commit(store_of(import));
}

/* Wait for the oldest one's data, and give it its name. */
static int land_one(struct import *import)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct flight *flight = &import->flights[import->first];
	int error = iomap_sync_range(flight->opened.file, 0, INT64_MAX, all), closing;

	import->first = (import->first + 1) % FLIGHT_NR;
	import->flights_nr--;
	if (!error)
		error = xs_link(flight->opened.object, flight->source->name);
	closing = close_object(&flight->opened);
	if (error || closing)
		return error ? error : closing;
	import->in_nr++;
	import->in_bytes += flight->bytes;
	import->pending_nr++;
	import->pending_bytes += flight->bytes;
	if (import->pending_nr >= COMMIT_OBJECTS || import->pending_bytes >= COMMIT_BYTES)
		return commit(import);
	return 0;
}

/* Start to write what has come together. */
static int write_batch(struct import *import)
{
	struct iomap_plug plug;
	int error = 0;

	iomap_start_plug(&plug);
	for (; !error && import->batch_nr; import->batch_nr--) {
		size_t at = import->first + import->flights_nr - import->batch_nr;

		error = iomap_sync_range(import->flights[at % FLIGHT_NR].opened.file, 0, INT64_MAX,
					 IOMAP_SYNC_WRITE);
	}
	iomap_finish_plug(&plug);
	import->batch_nr = 0;
	import->batch_bytes = 0;
	return error;
}

/* All that is in flight, also after an error.  Return: the first error. */
static int land_all(struct import *import)
{
	int error = write_batch(import);

	while (import->flights_nr) {
		int own = land_one(import);

		if (!error)
			error = own;
	}
	return error;
}

static int take_off(struct import *import, const struct flight *flight)
{
	int error = 0;

	import->flights[(import->first + import->flights_nr++) % FLIGHT_NR] = *flight;
	import->batch_nr++;
	import->batch_bytes += flight->bytes;
	if (import->batch_nr >= BATCH_NR || import->batch_bytes >= BATCH_BYTES)
		error = write_batch(import);
	while (!error && import->flights_nr > FLIGHT_NR - BATCH_NR)
		error = land_one(import);
	return error;
}

/* ---- one file ---- */

/* Whether the store has it already. */
static int is_same(struct import *import, const struct tree_file *source, int fd, uint64_t bytes,
		   bool *same, enum copy_side *side)
{
	struct xs_info info;
	struct opened opened;
	uint64_t at;
	int error, closing;

	*same = false;
	*side = COPY_STORE;
	error = xs_info(store_of(import), source->name, &info);
	if (error == -ENOENT || (!error && info.size != bytes))
		return 0;
	if (!error)
		error = open_object(store_of(import), source->name, false, &opened);
	if (error)
		return error;
	error = compare_object(opened.file, fd, source->name, bytes, NULL, import->chunks, same,
			       &at, side);
	closing = close_object(&opened);
	return error ? error : closing;
}

static int fill(struct import *import, const struct tree_file *source, int fd, enum copy_side *side)
{
	struct flight flight = { .source = source };
	int error;

	*side = COPY_STORE;
	error = create_object(store_of(import), false, &flight.opened);
	if (error)
		return error;
	error = copy_in(flight.opened.object, flight.opened.file, fd, import->chunks[0],
			&flight.bytes, side);
	if (!error)
		return take_off(import, &flight);
	(void)close_object(&flight.opened); /* drops it */
	return error;
}

static int import_fd(struct import *import, const struct tree_file *source, int fd, uint64_t bytes,
		     enum copy_side *side)
{
	bool same;
	int error = is_same(import, source, fd, bytes, &same, side);

	if (!error && same) {
		import->same_nr++;
		import->same_bytes += bytes;
		return 0;
	}
	if (!error)
		error = fill(import, source, fd, side);
	if (error != -ENOSPC || *side != COPY_STORE)
		return error;
	/* what the objects in flight take the place of is free once they are in */
	error = land_all(import);
	if (!error)
		error = commit(import);
	return error ? error : fill(import, source, fd, side);
}

/* Return: status. */
static int import_file(struct import *import, const struct tree_file *source)
{
	enum copy_side side = COPY_FILE;
	uint64_t bytes;
	int fd = tree_open(&import->tree, source->name, &bytes);
	int error = fd < 0 ? fd : import_fd(import, source, fd, bytes, &side);

	if (fd >= 0)
		close(fd);
	if (error && side == COPY_FILE) {
		tree_unreadable(&import->tree, source->name, -error);
		return EX_OK;
	}
	/* how many are in will say it: import_files() */
	if (error && side == COPY_STORE && error != -ENOSPC)
		return complain_error(source->name, error, NULL);
	return !error ? EX_OK : side == COPY_INTERRUPTED ? EX_TEMPFAIL : EX_CANTCREAT;
}

/* ---- all ---- */

/* How far it has come, when it has not come to the end. */
static int say_stopped(const struct import *import, int status)
{
	return complain(status, "%s: %s: %" PRIu64 " of %zu files are in",
			printable(import->session->request->path),
			status == EX_TEMPFAIL ? "interrupted" : "the store is full",
			import->in_nr + import->same_nr, import->tree.nr);
}

static int import_files(struct import *import)
{
	int status = EX_OK, error, committing;

	for (size_t i = 0; i < import->tree.nr && status == EX_OK; i++)
		status = interrupted() ? EX_TEMPFAIL : import_file(import, &import->tree.files[i]);
	/* what is whole is kept, whatever ended it */
	error = land_all(import);
	committing = commit(import);
	if (!error)
		error = committing;
	if (error == -ENOSPC && status == EX_OK)
		status = EX_CANTCREAT;
	else if (error && status == EX_OK)
		return complain_error(import->session->request->path, error, NULL);
	if (status == EX_TEMPFAIL || status == EX_CANTCREAT)
		return say_stopped(import, status);
	return status;
}

static void say_result(struct import *import, int status)
{
	const struct tree *tree = &import->tree;

	json_number("files", tree->nr);
	json_bool("complete", status == EX_OK && !tree->unreadable_nr);
	json_number("same", import->same_nr);
	json_number("links", tree->links_nr);
	json_number("specials", tree->specials_nr);
	json_number("unreadable", tree->unreadable_nr);
	if (status == EX_OK || json_wanted())
		say_figures(import->session, "imported", import->in_nr, "objects",
			    import->in_bytes);
	if (json_wanted() || status != EX_OK)
		return;
	if (import->same_nr)
		printf("  in before  %" PRIu64 " objects, %.1f MB\n", import->same_nr,
		       (double)import->same_bytes / 1e6);
	if (tree->links_nr || tree->specials_nr)
		printf("  left out   %" PRIu64 " symbolic links, %" PRIu64
		       " devices, pipes and the like\n",
		       tree->links_nr, tree->specials_nr);
}

int tool_import(struct session *session)
{
	struct import *import = calloc(1, sizeof(*import));
	int status;

	if (!import)
		return complain(EX_OSERR, "out of memory");
	interrupts_catch();
	import->session = session;
	import->chunks[0] = chunk_alloc();
	import->chunks[1] = chunk_alloc();
	status = tree_scan(session->request->arg, session->request->path, &import->tree);
	if (status == EX_OK)
		status = tree_check_names(&import->tree);
	if (status == EX_OK && (!import->chunks[0] || !import->chunks[1]))
		status = complain(EX_OSERR, "out of memory");
	if (status == EX_OK) {
		status = import_files(import);
		say_result(import, status);
		if (status == EX_OK)
			status = tree_complain_unreadable(&import->tree, status);
	}
	tree_free(&import->tree);
	free(import->chunks[0]);
	free(import->chunks[1]);
	free(import);
	return status;
}
