/* SPDX-License-Identifier: MIT */
/*
 * region.c - a piece of the device as an inode.
 *
 * The map is fixed, as in examples/rawfile, but for where it begins.  Nothing is allocated when
 * something is written: format has written every byte, so the file system below a regular file
 * has its blocks too, and a flush of the log is one of data alone.
 */
#include <errno.h>

#include "internal.h"

/* ---- where bytes lie ---- */

void wp_region_map(const struct wp_region *region, struct iomap *iomap)
{
	iomap->type = IOMAP_MAPPED;
	iomap->offset = 0;
	iomap->length = (uint64_t)iomap_i_size_read(&region->inode);
	iomap->addr = region->start;
	iomap->bdev = region->bdev;
}

static const struct wp_region *region_of(const struct iomap_inode *inode)
{
	return (const struct wp_region *)((const char *)inode - offsetof(struct wp_region, inode));
}

static int region_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	(void)length;
	(void)flags;
	(void)srcmap;
	/* a region is whole blocks, and nobody reads or writes behind its end */
	if (pos >= iomap_i_size_read(inode))
		return -EIO;
	wp_region_map(region_of(inode), iomap);
	return 0;
}

const struct iomap_ops wp_region_ops = {
	.iomap_begin = region_begin,
};

static int region_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &wp_region_ops);
}

static void region_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &wp_region_ops);
}

static ssize_t plain_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			   unsigned len, uint64_t end_pos)
{
	wp_region_map(region_of(wpc->inode), &wpc->iomap);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops plain_ops = {
	.writeback_range = plain_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int plain_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &plain_ops };

	return iomap_writepages(&wpc);
}

const struct iomap_address_space_operations wp_plain_a_ops = {
	.read_folio = region_read_folio,
	.readahead = region_readahead,
	.writepages = plain_writepages,
};

static int page_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct wp_store *store = mapping->host->i_private;
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host,
		.wbc = wbc,
		.ops = store->order,
	};

	return iomap_writepages(&wpc);
}

const struct iomap_address_space_operations wp_page_a_ops = {
	.read_folio = region_read_folio,
	.readahead = region_readahead,
	.writepages = page_writepages,
};

/* ---- open and close ---- */

static const struct iomap_inode_ops region_inode_ops = {
	.write = &wp_region_ops,
};

static void keep_first(int *error, int next)
{
	if (!*error)
		*error = next;
}

int wp_region_open(struct iomap_engine *engine, struct wp_region *region,
		   const struct wp_region_args *args)
{
	struct iomap_inode_args inode_args = {
		.size = sizeof(inode_args),
		.a_ops = args->a_ops,
		.i_op = &region_inode_ops,
		.bdev = args->bdev,
		.i_size = (int64_t)args->bytes,
		.i_maxbytes = (int64_t)args->bytes,
		.i_private = args->owner,
		.blkbits = args->blkbits,
		.lock_class = args->lock_class,
	};
	int error;

	region->bdev = args->bdev;
	region->start = args->start;
	error = iomap_inode_init(engine, &region->inode, &inode_args);
	if (error)
		return error;
	error = iomap_file_open(&region->inode, 0, &region->file);
	if (error)
		keep_first(&error, iomap_inode_destroy(&region->inode, 0));
	return error;
}

int wp_region_close(struct wp_region *region)
{
	int error = iomap_file_close(region->file);
	int unwritten = iomap_inode_destroy(&region->inode, IOMAP_DESTROY_WAIT);

	keep_first(&error, unwritten);
	if (unwritten)
		keep_first(&error, iomap_inode_destroy(&region->inode, IOMAP_DESTROY_DISCARD));
	return error;
}

/* ---- bytes ---- */

int wp_region_read(struct wp_region *region, void *to, size_t bytes, uint64_t at)
{
	char *end = (char *)to + bytes;

	while (bytes) {
		ssize_t got = iomap_read(region->file, end - bytes, bytes, (int64_t)at);

		if (got <= 0)
			return got ? (int)got : -EIO;
		bytes -= (size_t)got;
		at += (size_t)got;
	}
	return 0;
}

int wp_region_write(struct wp_region *region, const void *from, size_t bytes, uint64_t at,
		    uint32_t ki_flags, const struct iomap_write_ops *write_ops)
{
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	ssize_t put = 1;

	iomap_kiocb_init(&iocb, region->file, (int64_t)at);
	iocb.ki_flags |= ki_flags;
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_SOURCE, (void *)(uintptr_t)from, bytes);
	while (iomap_iov_iter_count(&iter) && put > 0) {
		iomap_inode_lock_shared(&region->inode);
		put = iomap_file_buffered_write(&iocb, &iter, &wp_region_ops, write_ops, NULL);
		iomap_inode_unlock_shared(&region->inode);
		put = iomap_write_sync(&iocb, put);
	}
	return put > 0 ? 0 : put ? (int)put : -EIO;
}

int wp_device_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr, void *memory, size_t bytes)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);
	int error = -EIO;

	if (!bio)
		return -ENOMEM;
	bio->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	if (iomap_bio_add(bio, memory, bytes))
		error = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return error;
}
