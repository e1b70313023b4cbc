/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cached.h"

#define CACHE_EXTRA (128ULL << 20)
#define READ_BYTES ((size_t)1 << 20)

static int cached_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->addr = 0;
	iomap->length = (uint64_t)inode->i_size;
	iomap->bdev = inode->i_bdev;
	return 0;
}
const struct iomap_ops cached_ops = { .iomap_begin = cached_begin };

static int cached_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &cached_ops);
}
static void cached_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &cached_ops);
}

static ssize_t cached_writeback(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct iomap none;

	cached_begin(wpc->inode, 0, 0, 0, &wpc->iomap, &none);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}
static const struct iomap_writeback_ops wb_ops = {
	.writeback_range = cached_writeback,
	.writeback_submit = iomap_ioend_writeback_submit,
};
static int cached_writepages(struct iomap_address_space *mapping,
			     struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &wb_ops };

	return iomap_writepages(&wpc);
}
static const struct iomap_address_space_operations cached_aops = {
	.read_folio = cached_read_folio,
	.readahead = cached_readahead,
	.writepages = cached_writepages,
};
static const struct iomap_inode_ops cached_iop = { .write = &cached_ops };

int cached_engine(uint64_t bytes, struct iomap_engine **engine)
{
	struct iomap_engine_opts opts;
	int error;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = CACHE_EXTRA + bytes / 4 * 5;
	opts.backend = "threads";
	opts.nr_io_threads = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.dirty_background_pct = opts.dirty_hard_pct = 80;
	error = bench_engine_create(&opts, engine);
	return error ? bench_error("engine: %s", strerror(-error)) : 0;
}

int cached_warm(struct cached *c)
{
	static char chunk[READ_BYTES];
	ssize_t n = 1;

	for (uint64_t at = 0; at < c->bytes && n > 0; at += (uint64_t)n)
		n = iomap_read(c->file, chunk, READ_BYTES, (int64_t)at);
	return n > 0 ? 0 : n < 0 ? (int)n : -EIO;
}

/* @path: of a file with the data, or NULL: memory. */
static int open_on(struct cached *c, struct iomap_engine *engine, const char *path, uint64_t bytes,
		   bool large)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &cached_aops,
					 .i_op = &cached_iop, .i_size = (int64_t)bytes };
	/* several sides may have it open */
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_SHARED };
	int error;

	*c = (struct cached){ .engine = engine, .bytes = bytes };
	if (path)
		error = iomap_bdev_open(engine, path, &opts, &c->bdev);
	else
		error = iomap_bdev_open_memory(engine, bytes, &c->bdev);
	args.bdev = c->bdev;
	if (!error)
		error = iomap_inode_init(engine, &c->inode, &args);
	c->inode_up = !error;
	if (!error && large)
		error = iomap_mapping_set_large_folios(&c->inode.i_data);
	if (!error)
		error = iomap_file_open(&c->inode, 0, &c->file);
	return error;
}

int cached_open_file(struct cached *c, struct iomap_engine *engine, const char *path,
		     uint64_t bytes, bool large)
{
	int error = open_on(c, engine, path, bytes, large);

	return error ? bench_error("a file to cache: %s", strerror(-error)) : 0;
}

int cached_open(struct cached *c, struct iomap_engine *engine, uint64_t bytes, bool large)
{
	int error = open_on(c, engine, NULL, bytes, large);

	/* twice: what was used once only is not a plain hit yet */
	for (int i = 0; i < 2 && !error; i++)
		error = cached_warm(c);
	return error ? bench_error("a cached file: %s", strerror(-error)) : 0;
}

void cached_close(struct cached *c)
{
	int error = 0;

	if (c->file)
		iomap_file_close(c->file);
	if (c->inode_up)
		error = iomap_inode_destroy(&c->inode, IOMAP_DESTROY_DISCARD);
	if (!error && c->bdev)
		error = iomap_bdev_close(c->bdev);
	if (error)
		bench_error("closing a cached file: %s", strerror(-error));
	memset(c, 0, sizeof(*c));
}
