/* SPDX-License-Identifier: MIT */
/*
 * policy_drive.c - the requests of a trace, made to libiomap: what its own eviction does.
 *
 * Small objects are pages of one file, large ones folios of another.  Neighbours in number are
 * none in the file, so that no readahead takes part.  A request reads all of an object, and is a
 * miss when the library asks for any of its data.  The engine has no threads, so that all happens
 * in the same order each time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <iomap/iomap.h>

#include "policy.h"

struct driven {
	struct iomap_inode inode;
	struct iomap_file *file;
	struct iomap_bdev *bdev;
	bool up;
	uint32_t places; /* of objects, a power of two */
	size_t bytes;	 /* of each */
};

struct drive {
	struct iomap_engine *engine;
	struct driven small, large;
	char *buffer;
};

/* The one that is running; callbacks have no other way to it, and only one thread drives. */
static uint64_t callbacks;

static int drive_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->addr = 0;
	iomap->length = (uint64_t)inode->i_size;
	iomap->bdev = inode->i_bdev;
	return 0;
}
static const struct iomap_ops drive_ops = { .iomap_begin = drive_begin };

static int drive_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	callbacks++;
	return iomap_bio_read_folio(folio, &drive_ops);
}

static void drive_readahead(struct iomap_readahead_control *rac)
{
	callbacks++;
	iomap_bio_readahead(rac, &drive_ops);
}

static const struct iomap_address_space_operations drive_aops = {
	.read_folio = drive_read_folio,
	.readahead = drive_readahead,
};

static int driven_open(struct iomap_engine *engine, struct driven *d, uint32_t places,
		       unsigned pages)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &drive_aops };
	int err;

	d->places = places;
	d->bytes = (size_t)pages << 12;
	/* nothing is at the file's start, which readahead takes for that of a stream */
	args.i_size = (int64_t)((places + 1) * d->bytes);
	err = iomap_bdev_open_memory(engine, (uint64_t)args.i_size, &d->bdev);
	args.bdev = d->bdev;
	if (!err)
		err = iomap_inode_init(engine, &d->inode, &args);
	d->up = !err;
	if (!err && pages > 1)
		err = iomap_mapping_set_folio_order_range(&d->inode.i_data, 0, 4);
	return err ? err : iomap_file_open(&d->inode, 0, &d->file);
}

static int driven_close(struct driven *d)
{
	int err = 0;

	if (d->file)
		err = iomap_file_close(d->file);
	if (!err && d->up)
		err = iomap_inode_destroy(&d->inode, 0);
	if (!err && d->bdev)
		err = iomap_bdev_close(d->bdev);
	return err;
}

static int drive_open(struct drive *drive, const struct policy_trace *trace, uint64_t cache_pages)
{
	uint32_t nr = trace->spec.nr_objects, nr_large = nr - trace->nr_small;
	struct iomap_engine_opts opts;
	int err;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_pages << 12;
	opts.max_folio_bytes = POLICY_LARGE << 12;
	opts.backend = "threads";
	opts.nr_io_threads = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	drive->buffer = malloc(POLICY_LARGE << 12);
	if (!drive->buffer)
		return -ENOMEM;
	err = iomap_engine_create(&opts, &drive->engine);
	if (!err)
		err = driven_open(drive->engine, &drive->small, nr, 1);
	if (!err && nr_large)
		err = driven_open(drive->engine, &drive->large, nr_large, POLICY_LARGE);
	return err;
}

static int drive_close(struct drive *drive)
{
	int err = driven_close(&drive->small);

	if (!err)
		err = driven_close(&drive->large);
	if (!err && drive->engine)
		err = iomap_engine_destroy(drive->engine);
	free(drive->buffer);
	return err;
}

/* 1: a miss, 0: a hit. */
static int drive_request(struct drive *drive, const struct policy_trace *trace, uint32_t object)
{
	bool is_small = object < trace->nr_small;
	struct driven *d = is_small ? &drive->small : &drive->large;
	uint32_t n = is_small ? object : object - trace->nr_small;
	int64_t pos = (int64_t)(1 + (n * UINT32_C(2654435761) & (d->places - 1))) *
		      (int64_t)d->bytes;
	uint64_t before = callbacks;
	ssize_t got = iomap_read(d->file, drive->buffer, d->bytes, pos);

	if (got != (ssize_t)d->bytes)
		return got < 0 ? (int)got : -EIO;
	return callbacks != before;
}

double policy_drive(const struct policy_trace *trace, uint64_t cache_pages)
{
	uint32_t nr = trace->spec.nr_requests, misses = 0;
	struct drive drive = { 0 };
	int err, ret;

	err = drive_open(&drive, trace, cache_pages);
	for (uint32_t at = 0; !err && at < nr; at++) {
		ret = drive_request(&drive, trace, trace->request[at]);
		if (ret < 0)
			err = ret;
		else if (at >= nr / 2)
			misses += (uint32_t)ret;
	}
	ret = drive_close(&drive);
	if (err || ret)
		return err ? err : ret;
	return (double)misses / (nr - nr / 2);
}
