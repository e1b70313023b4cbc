/* SPDX-License-Identifier: MIT */
/*
 * cowstore.c - see cowstore.h.
 */
#include <errno.h>
#include <string.h>

#include <iomap/iomap.h>

#include "cowstore.h"

static struct cs *cs_of(struct iomap_inode *inode)
{
	return inode->i_private;
}

static uint64_t cs_sum(const struct cs_map *map)
{
	uint64_t sum = 0x9e3779b97f4a7c15U ^ map->seq;

	for (unsigned i = 0; i < CS_BLOCKS; i++)
		sum = (sum ^ map->place[i]) * 0x100000001b3U;
	return sum;
}

static uint64_t cs_addr(unsigned place)
{
	return (uint64_t)(1 + place) * CS_BLOCK;
}

/* Durable when it returns; behind all data that has been written. */
static int cs_commit(struct cs *cs)
{
	static _Alignas(512) unsigned char sector[512];
	struct iomap_bio *bio;
	int error = cs->commit_error;

	if (error)
		return error;
	cs->next.seq = cs->map.seq + 1;
	cs->next.sum = cs_sum(&cs->next);
	memset(sector, 0, sizeof(sector));
	memcpy(sector, &cs->next, sizeof(cs->next));
	bio = iomap_bio_alloc(cs->bdev, 1,
			      IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA | IOMAP_REQ_META,
			      NULL);
	t_must(bio && iomap_bio_add(bio, sector, sizeof(sector)));
	bio->bi_iter.bi_sector = cs->next.seq % 2;
	error = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	if (!error)
		cs->map = cs->next;
	return error;
}

static bool cs_is_used(const struct cs *cs, unsigned place)
{
	return memchr(cs->map.place, (int)place, CS_BLOCKS) ||
	       memchr(cs->next.place, (int)place, CS_BLOCKS);
}

/* A place in no map, not beside the last one, so that a write is in pieces. */
static unsigned cs_take(struct cs *cs)
{
	do
		cs->turn = (cs->turn + 5) % CS_PLACES;
	while (cs_is_used(cs, cs->turn));
	return cs->turn;
}

static int cs_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		    struct iomap *iomap, struct iomap *srcmap)
{
	struct cs *cs = cs_of(inode);
	unsigned block = (unsigned)(pos / CS_BLOCK), place = cs->map.place[block];

	(void)length;
	(void)srcmap;
	if (flags & IOMAP_ATOMIC) {
		if (pos % CS_BLOCK || length % CS_BLOCK)
			return -EINVAL;
		place = cs_take(cs);
		cs->next.place[block] = (uint8_t)place;
		iomap->flags = IOMAP_F_SHARED;
	}
	iomap->type = IOMAP_MAPPED;
	iomap->offset = pos - pos % CS_BLOCK;
	iomap->length = CS_BLOCK;
	iomap->addr = cs_addr(place);
	iomap->bdev = cs->bdev;
	return 0;
}

static const struct iomap_ops cs_ops = { .iomap_begin = cs_begin };

/* All of an untorn write has been written, or nothing counts. */
static int cs_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	struct cs *cs = cs_of(iomap_file_inode(iocb->ki_filp));
	int ret = 0;

	(void)size;
	if (flags & IOMAP_DIO_COW) {
		ret = error ? 0 : cs_commit(cs);
		cs->next = cs->map;
	}
	return ret;
}

static const struct iomap_dio_ops cs_dio_ops = { .end_io = cs_dio_end_io };

static ssize_t cs_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			unsigned len, uint64_t end_pos)
{
	t_must(cs_begin(wpc->inode, (int64_t)pos, len, 0, &wpc->iomap, NULL) == 0);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops cs_wb_ops = {
	.writeback_range = cs_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

static int cs_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &cs_ops);
}

static int cs_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host, .wbc = wbc, .ops = &cs_wb_ops
	};

	return iomap_writepages(&wpc);
}

static const struct iomap_address_space_operations cs_aops = {
	.read_folio = cs_read_folio,
	.writepages = cs_writepages,
	.dirty_folio = iomap_dirty_folio,
	.release_folio = iomap_release_folio,
	.invalidate_folio = iomap_invalidate_folio,
	.is_partially_uptodate = iomap_is_partially_uptodate,
};

static int cs_file_open(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT | IOMAP_FMODE_CAN_ATOMIC_WRITE);
	return 0;
}

static const struct iomap_inode_ops cs_inode_ops = {
	.read = &cs_ops,
	.write = &cs_ops,
	.direct = &cs_ops,
	.dio_ops = &cs_dio_ops,
	.open = cs_file_open,
};

void cs_open(struct cs *cs, struct iomap_engine *engine, struct iomap_bdev *bdev)
{
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.bdev = bdev,
		.a_ops = &cs_aops,
		.i_op = &cs_inode_ops,
		.i_private = cs,
		.i_size = CS_BLOCKS * CS_BLOCK,
	};

	memset(cs, 0, sizeof(*cs));
	cs->engine = engine;
	cs->bdev = bdev;
	for (unsigned i = 0; i < CS_BLOCKS; i++)
		cs->next.place[i] = (uint8_t)(i * 2);
	t_must(cs_commit(cs) == 0);
	t_must(iomap_inode_init(engine, &cs->inode, &args) == 0);
	t_must(iomap_file_open(&cs->inode, IOMAP_O_DIRECT, &cs->file) == 0);
}

void cs_close(struct cs *cs)
{
	t_must(iomap_file_close(cs->file) == 0);
	t_must(iomap_inode_destroy(&cs->inode, 0) == 0);
}

ssize_t cs_write(struct cs *cs, uint32_t flags, void *buf, size_t len, int64_t pos)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, cs->file, pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	return iomap_write_iter(&iocb, &from);
}

bool cs_look(const unsigned char *image, unsigned char *file)
{
	const struct cs_map *good = NULL;
	struct cs_map map[2];

	for (unsigned i = 0; i < 2; i++) {
		memcpy(&map[i], image + i * 512, sizeof(map[i]));
		if (map[i].seq && map[i].sum == cs_sum(&map[i]) &&
		    (!good || map[i].seq > good->seq))
			good = &map[i];
	}
	if (!good)
		return false;
	for (unsigned i = 0; i < CS_BLOCKS; i++)
		memcpy(file + i * CS_BLOCK, image + cs_addr(good->place[i]), CS_BLOCK);
	return true;
}
