/* SPDX-License-Identifier: MIT */
/*
 * testpiece.c - an inode that is one piece of its device: its map, by cache and past it.
 */
#include "testpiece.h"

static int piece_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	const struct tp *tp = inode->i_private;
	bool hole = pos < tp->offset;

	(void)length, (void)flags, (void)srcmap;
	iomap->bdev = inode->i_bdev;
	iomap->type = hole ? IOMAP_HOLE : IOMAP_MAPPED;
	iomap->offset = hole ? 0 : tp->offset;
	iomap->length = hole ? (uint64_t)tp->offset : tp->length;
	iomap->addr = hole ? IOMAP_NULL_ADDR : tp->addr;
	return 0;
}

const struct iomap_ops tp_ops = { .iomap_begin = piece_begin };

static int piece_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &tp_ops);
}

static void piece_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &tp_ops);
}

static ssize_t piece_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			   unsigned len, uint64_t end_pos)
{
	(void)piece_begin(wpc->inode, (int64_t)pos, len, IOMAP_WRITE, &wpc->iomap, NULL);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops wb_ops = {
	.writeback_range = piece_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int piece_writepages(struct iomap_address_space *mapping,
			    struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &wb_ops };

	return iomap_writepages(&wpc);
}

const struct iomap_address_space_operations tp_aops = {
	.read_folio = piece_read_folio,
	.readahead = piece_readahead,
	.writepages = piece_writepages,
};

static int allow_direct(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

const struct iomap_inode_ops tp_inode_ops = { .write = &tp_ops, .open = allow_direct };
