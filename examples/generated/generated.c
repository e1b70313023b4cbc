/* SPDX-License-Identifier: MIT */
/*
 * generated.c - an extent store without a device.
 *
 * What a store tells the library of its bytes is where they lie; here they lie nowhere.  So the
 * mapping names no device, and the bytes come from the two callbacks of struct iomap_read_ops:
 *
 *	read_folio_range	notes which bytes of which folio are wanted, and returns
 *	submit_read		hands what was noted to a worker
 *	the worker		computes, stores, and says for each range that it has ended
 *
 * A store whose bytes are compressed, or come over a network, does the same with other work.
 *
 * Life of a batch: made by the first range of a call of iomap_read_folio() or iomap_readahead(),
 * in ctx->read_ctx -> full, or the end of the call: queued -> the worker's, which frees it.  The
 * folios stay locked, and so the inode in use, until the last range has ended.
 *
 * Locks: none.
 */
#include "generated.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_RANGES 64

struct range {
	struct iomap_folio *folio;
	int64_t pos;
	size_t len;
};

struct batch {
	struct iomap_work work;
	struct generated *gen;
	unsigned nr;
	struct range range[BATCH_RANGES];
};

/* ---- what the file is made of ---- */

/* @number, right-aligned in @places. */
static void put_number(char *to, int places, uint64_t number)
{
	memset(to, ' ', (size_t)places);
	do {
		to[--places] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
}

static void make_line(char line[GENERATED_LINE], uint64_t n)
{
	put_number(line, 10, n);
	line[10] = ' ';
	put_number(line + 11, 20, n * n);
	line[31] = '\n';
}

void generated_fill(char *to, size_t len, int64_t pos)
{
	char line[GENERATED_LINE];

	while (len) {
		size_t off = (size_t)(pos % GENERATED_LINE);
		size_t n = GENERATED_LINE - off < len ? GENERATED_LINE - off : len;

		make_line(line, (uint64_t)(pos / GENERATED_LINE));
		memcpy(to, line + off, n);
		to += n;
		pos += (int64_t)n;
		len -= n;
	}
}

/* ---- reading ---- */

/* Others may be copying out of a folio: its bytes change by iomap_folio_write() only. */
static void fill_range(const struct range *range)
{
	size_t off = (size_t)(range->pos - iomap_folio_pos(range->folio));
	char piece[IOMAP_PAGE_SIZE];

	for (size_t done = 0; done < range->len;) {
		size_t n = range->len - done < sizeof(piece) ? range->len - done : sizeof(piece);

		generated_fill(piece, n, range->pos + (int64_t)done);
		iomap_folio_write(range->folio, off + done, piece, n);
		done += n;
	}
	iomap_finish_folio_read(range->folio, off, range->len, 0);
}

static void batch_work(struct iomap_work *work)
{
	struct batch *batch = (struct batch *)work;

	/* with the end of its last range the inode may go */
	for (unsigned i = 0; i < batch->nr; i++)
		fill_range(&batch->range[i]);
	free(batch);
}

static void generated_submit_read(struct iomap_read_folio_ctx *ctx)
{
	struct batch *batch = ctx->read_ctx;

	if (!batch)
		return;
	ctx->read_ctx = NULL;
	__atomic_fetch_add(&batch->gen->batches_nr, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&batch->gen->ranges_nr, batch->nr, __ATOMIC_RELAXED);
	iomap_queue_work(batch->gen->inode.i_engine, &batch->work);
}

static int generated_read_range(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
				size_t len)
{
	struct batch *batch = ctx->read_ctx;

	if (batch && batch->nr == BATCH_RANGES) {
		generated_submit_read(ctx);
		batch = NULL;
	}
	if (!batch) {
		batch = malloc(sizeof(*batch));
		if (!batch)
			return -ENOMEM;
		iomap_init_work(&batch->work, batch_work);
		batch->gen = iter->inode->i_private;
		batch->nr = 0;
		ctx->read_ctx = batch;
	}
	batch->range[batch->nr++] = (struct range){ ctx->cur_folio, iter->pos, len };
	return 0;
}

static const struct iomap_read_ops read_ops = {
	.read_folio_range = generated_read_range,
	.submit_read = generated_submit_read,
};

/* All of it is there, on no device. */
static int generated_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			   struct iomap *iomap, struct iomap *srcmap)
{
	const struct generated *gen = inode->i_private;

	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->length = (uint64_t)gen->lines * GENERATED_LINE;
	iomap->addr = IOMAP_NULL_ADDR;
	return 0;
}

static const struct iomap_ops map_ops = { .iomap_begin = generated_begin };

static int generated_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct iomap_read_folio_ctx ctx = { .ops = &read_ops, .cur_folio = folio };

	(void)file;
	return iomap_read_folio(&map_ops, &ctx);
}

static void generated_readahead(struct iomap_readahead_control *rac)
{
	struct iomap_read_folio_ctx ctx = { .ops = &read_ops, .rac = rac };

	iomap_readahead(&map_ops, &ctx);
}

static const struct iomap_address_space_operations a_ops = {
	.read_folio = generated_read_folio,
	.readahead = generated_readahead,
};

/* ---- open and close ---- */

int generated_open(struct iomap_engine *engine, int64_t lines, struct generated **out)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &a_ops };
	struct generated *gen;
	int error;

	if (lines < 1 || lines > GENERATED_LINES_MAX)
		return -EINVAL;
	gen = calloc(1, sizeof(*gen));
	if (!gen)
		return -ENOMEM;
	gen->lines = lines;
	args.i_private = gen;
	args.i_size = lines * GENERATED_LINE;
	error = iomap_inode_init(engine, &gen->inode, &args);
	if (error)
		goto out_free;
	error = iomap_mapping_set_large_folios(&gen->inode.i_data);
	if (!error)
		error = iomap_file_open(&gen->inode, 0, &gen->file);
	if (error)
		goto out_inode;
	*out = gen;
	return 0;

out_inode:
	/* nobody has used it: it goes */
	if (iomap_inode_destroy(&gen->inode, 0))
		return error;
out_free:
	free(gen);
	return error;
}

int generated_close(struct generated *gen)
{
	int error = iomap_file_close(gen->file);

	if (!error)
		error = iomap_inode_destroy(&gen->inode, 0);
	if (!error)
		free(gen);
	return error;
}
