/* SPDX-License-Identifier: MIT */
/*
 * rawfile.c - the identity map: byte N of the inode is byte N of the device.
 *
 * A filesystem tells the library two things about an inode: where its bytes lie (an extent
 * map, struct iomap_ops) and how the cache gets them in and out (the address-space
 * operations, each a line around a function of the library).  Here the first is one
 * mapping, fixed for ever, so no lock is needed around it, nothing is ever allocated, and
 * fsync has no metadata to commit.
 */
#include "rawfile.h"

#include <errno.h>
#include <stdlib.h>

/* ---- where bytes lie ---- */

/* The mapping covers the whole device, whatever part was asked for: the library cuts. */
static int rawfile_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			 struct iomap *iomap, struct iomap *srcmap)
{
	struct rawfile *rawfile = inode->i_private;

	(void)length;
	(void)srcmap;
	if (pos < rawfile->bytes) {
		iomap->type = IOMAP_MAPPED;
		iomap->offset = 0;
		iomap->length = (uint64_t)rawfile->bytes;
		iomap->addr = 0;
		iomap->bdev = rawfile->bdev;
		return 0;
	}
	if (flags & IOMAP_WRITE)
		return -ENOSPC;
	/* The last page of the cache may reach beyond the device: zeros. */
	iomap->type = IOMAP_HOLE;
	iomap->offset = rawfile->bytes;
	iomap->length = (uint64_t)(INT64_MAX - rawfile->bytes);
	return 0;
}

static const struct iomap_ops rawfile_iomap_ops = {
	.iomap_begin = rawfile_begin,
};

/* ---- how bytes get from the device into the cache ---- */

static int rawfile_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &rawfile_iomap_ops);
}

static void rawfile_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &rawfile_iomap_ops);
}

/* ---- and back ---- */

/* Say where a dirty run goes; runs that lie next to each other leave as one ioend. */
static ssize_t rawfile_writeback_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				       uint64_t pos, unsigned len, uint64_t end_pos)
{
	int error = rawfile_begin(wpc->inode, (int64_t)pos, len, IOMAP_WRITE, &wpc->iomap, NULL);

	if (error)
		return error;
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops rawfile_writeback_ops = {
	.writeback_range = rawfile_writeback_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int rawfile_writepages(struct iomap_address_space *mapping,
			      struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host,
		.wbc = wbc,
		.ops = &rawfile_writeback_ops,
	};

	return iomap_writepages(&wpc);
}

static const struct iomap_address_space_operations rawfile_a_ops = {
	.read_folio = rawfile_read_folio,
	.writepages = rawfile_writepages,
	.readahead = rawfile_readahead,
};

static const struct iomap_inode_ops rawfile_inode_ops = {
	.write = &rawfile_iomap_ops,
};

/* ---- open and close ---- */

/* Bytes of the device that can be used: whole sectors. */
static int64_t usable_bytes(const struct iomap_bdev *bdev)
{
	struct iomap_bdev_limits limits;

	iomap_bdev_limits(bdev, &limits);
	return (int64_t)(iomap_bdev_bytes(bdev) & ~((uint64_t)limits.logical_block_size - 1));
}

static void keep_first(int *error, int next)
{
	if (!*error)
		*error = next;
}

int rawfile_open(struct iomap_engine *engine, const char *path, uint32_t bdev_flags,
		 struct rawfile **out)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts), .flags = bdev_flags };
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &rawfile_a_ops,
		.i_op = &rawfile_inode_ops,
	};
	struct rawfile *rawfile = calloc(1, sizeof(*rawfile));
	int error;

	if (!rawfile)
		return -ENOMEM;
	error = iomap_bdev_open(engine, path, &bdev_opts, &rawfile->bdev);
	if (error)
		goto out_free;

	rawfile->bytes = usable_bytes(rawfile->bdev);
	args.bdev = rawfile->bdev;
	args.i_private = rawfile;
	args.i_size = rawfile->bytes;
	/* The largest block, up to a page, of which the device holds a whole number. */
	args.blkbits = (uint32_t)__builtin_ctzll((uint64_t)rawfile->bytes | IOMAP_PAGE_SIZE);
	error = iomap_inode_init(engine, &rawfile->inode, &args);
	if (error)
		goto out_bdev;
	error = iomap_file_open(&rawfile->inode, 0, &rawfile->file);
	if (error)
		goto out_inode;
	*out = rawfile;
	return 0;

out_inode:
	keep_first(&error, iomap_inode_destroy(&rawfile->inode, 0));
out_bdev:
	keep_first(&error, iomap_bdev_close(rawfile->bdev));
out_free:
	free(rawfile);
	return error;
}

int rawfile_close(struct rawfile *rawfile)
{
	int error = iomap_file_close(rawfile->file);
	int unwritten = iomap_inode_destroy(&rawfile->inode, IOMAP_DESTROY_WAIT);

	keep_first(&error, unwritten);
	/* What the device does not take now it will not take later: the error says it. */
	if (unwritten)
		keep_first(&error, iomap_inode_destroy(&rawfile->inode, IOMAP_DESTROY_DISCARD));
	keep_first(&error, iomap_bdev_close(rawfile->bdev));
	free(rawfile);
	return error;
}
