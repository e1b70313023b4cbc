/* SPDX-License-Identifier: MIT */
/*
 * conversion.c - IE06: unwritten space becomes written only behind its data.
 *
 * A store of one file whose blocks are all unwritten at first.  The end of an ioend, in an own
 * bi_end_io, marks its blocks as written; commit_metadata puts these marks, whatever they are
 * at that moment, into a header, behind a flush.  A script holds data in the device while
 * another fsync commits, and goes through every power cut: a block reads as zeros or as its
 * data, never as what the device held before, and as its data once that was acknowledged.
 *
 * Two stores that do it wrong are found by the same test: one converts when the ioend is
 * submitted, one leaves out the flush before the header.
 *
 * The devices: faulty (holds) over writelog (records) over memory full of poison.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "testutil.h"

#define BLOCK 4096
#define BLOCKS 24
#define DATA_AT (2 * BLOCK)
#define FILE_BYTES (BLOCKS * BLOCK)
#define DEV_BYTES (DATA_AT + FILE_BYTES)
#define POISON 0xbd
#define SEEDS 24

enum mistake { NONE, CONVERTS_AT_SUBMISSION, NO_FLUSH_BEFORE_HEADER };

/* Alternating in the first two blocks. */
struct header {
	uint64_t number, written, sum;
};

struct store {
	struct iomap_inode inode;
	struct iomap_engine *engine;
	struct iomap_bdev *dev;
	struct iomap_file *file;
	struct header header;
	uint64_t written; /* bit n: block n; one thread uses the store */
	enum mistake mistake;
};

static struct store *store_of(struct iomap_inode *inode)
{
	return (struct store *)(void *)((char *)inode - offsetof(struct store, inode));
}

static void convert(struct iomap_ioend *ioend)
{
	uint64_t first = (uint64_t)ioend->io_offset / BLOCK;
	uint64_t end = ((uint64_t)ioend->io_offset + ioend->io_size + BLOCK - 1) / BLOCK;

	for (uint64_t block = first; block < end; block++)
		store_of(ioend->io_inode)->written |= UINT64_C(1) << block;
}

/* One block at a time: what is alike and goes on is put together by the library. */
static int begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		 struct iomap *iomap, struct iomap *srcmap)
{
	struct store *s = store_of(inode);
	int64_t block = pos / BLOCK;

	(void)length;
	(void)flags;
	(void)srcmap;
	iomap->type = s->written >> block & 1 ? IOMAP_MAPPED : IOMAP_UNWRITTEN;
	iomap->offset = block * BLOCK;
	iomap->length = BLOCK;
	iomap->addr = (uint64_t)(DATA_AT + block * BLOCK);
	iomap->bdev = s->dev;
	return 0;
}

static const struct iomap_ops ops = { .iomap_begin = begin };

static ssize_t range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
		     unsigned len, uint64_t end_pos)
{
	begin(wpc->inode, (int64_t)pos, len, IOMAP_WRITE, &wpc->iomap, NULL);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static void write_end(struct iomap_bio *bio)
{
	struct iomap_ioend *ioend = iomap_ioend_from_bio(bio);

	/* before writeback ends: with it an fsync may go on to commit */
	if (!bio->bi_status && ioend->io_flags & IOMAP_IOEND_UNWRITTEN)
		convert(ioend);
	bio->bi_end_io = (iomap_bio_end_io_fn *)ioend->io_private;
	bio->bi_end_io(bio);
}

static int submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct iomap_ioend *ioend = wpc->wb_ctx;

	if (ioend && !error) {
		if (store_of(wpc->inode)->mistake == CONVERTS_AT_SUBMISSION)
			convert(ioend);
		ioend->io_private = (void *)ioend->io_bio.bi_end_io;
		ioend->io_bio.bi_end_io = write_end;
	}
	return iomap_ioend_writeback_submit(wpc, error);
}

static const struct iomap_writeback_ops wb_ops = {
	.writeback_range = range,
	.writeback_submit = submit,
};

static int writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &wb_ops };

	return iomap_writepages(&wpc);
}

static int read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct iomap_read_folio_ctx ctx = { .ops = &iomap_bio_read_ops, .cur_folio = folio };

	(void)file;
	return iomap_read_folio(&ops, &ctx);
}

static const struct iomap_address_space_operations aops = {
	.read_folio = read_folio,
	.writepages = writepages,
};

static uint64_t header_sum(const struct header *h)
{
	return (h->number * 0x9e3779b97f4a7c15ULL) ^ (h->written * 0xbf58476d1ce4e5b9ULL) ^ 1;
}

static int commit(struct iomap_inode *inode, int datasync)
{
	static _Alignas(BLOCK) unsigned char mem[BLOCK];
	struct store *s = store_of(inode);
	unsigned opf = IOMAP_REQ_OP_WRITE | IOMAP_REQ_META | IOMAP_REQ_FUA;

	(void)datasync;
	if (s->mistake != NO_FLUSH_BEFORE_HEADER)
		opf |= IOMAP_REQ_PREFLUSH;
	s->header.number++;
	s->header.written = s->written;
	s->header.sum = header_sum(&s->header);
	memset(mem, 0, BLOCK);
	memcpy(mem, &s->header, sizeof(s->header));
	return t_io(s->dev, opf, s->header.number % 2 * BLOCK, mem, BLOCK);
}

static const struct iomap_inode_ops i_op = { .write = &ops, .commit_metadata = commit };

static void store_open(struct store *s, struct iomap_engine *engine, struct iomap_bdev *dev,
		       enum mistake mistake)
{
	static _Alignas(BLOCK) unsigned char mem[BLOCK];
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &aops,
					 .i_op = &i_op,
					 .bdev = dev,
					 .i_size = FILE_BYTES };
	struct header h;

	memset(s, 0, sizeof(*s));
	s->engine = engine;
	s->dev = dev;
	s->mistake = mistake;
	for (uint64_t block = 0; block < 2; block++) {
		t_must(t_io(s->dev, IOMAP_REQ_OP_READ, block * BLOCK, mem, BLOCK) == 0);
		memcpy(&h, mem, sizeof(h));
		if (h.sum == header_sum(&h) && h.number > s->header.number)
			s->header = h;
	}
	s->written = s->header.written;
	t_must(iomap_inode_init(engine, &s->inode, &args) == 0);
	t_must(iomap_file_open(&s->inode, 0, &s->file) == 0);
}

static void store_close(struct store *s)
{
	t_must(iomap_file_close(s->file) == 0);
	t_must(iomap_inode_destroy(&s->inode, IOMAP_DESTROY_DISCARD) == 0);
}

/* ---- the script ---- */

struct play {
	struct store store;
	struct iomap_bdev *log, *faulty;
	uint64_t promised; /* bit n: block n was acknowledged as durable */
	unsigned char data[FILE_BYTES]; /* what is written in the end; each byte once */
};

static void put(struct play *p, int64_t pos, size_t len)
{
	unsigned char buf[2 * BLOCK];

	t_fill(buf, len, pos, 7);
	memcpy(p->data + pos, buf, len);
	t_must(iomap_write(p->store.file, buf, len, pos) == (ssize_t)len);
}

static void promise(struct play *p, uint64_t bits)
{
	p->promised |= bits;
	t_must(iomap_writelog_mark(p->log, p->promised) == 0);
}

/* Data of one block is in the device when the header is written for another. */
static void overtake(struct play *p, unsigned round)
{
	int64_t slow = (int64_t)round * 3 * BLOCK, fast = slow + BLOCK;
	struct iomap_fault hold = {
		.size = sizeof(hold),
		.kind = IOMAP_FAULT_DELAY,
		.ops = IOMAP_FAULT_ON_WRITE,
		.start = (uint64_t)(DATA_AT + slow),
		.end = (uint64_t)(DATA_AT + slow + BLOCK),
		.limit = 1,
	};
	uint32_t id;

	t_must(iomap_faulty_add(p->faulty, &hold, &id) == 0);
	put(p, slow + (round % 2 ? 100 : 0), round % 2 ? 1000 : BLOCK);
	t_must(iomap_sync_range(p->store.file, slow, slow + BLOCK, IOMAP_SYNC_WRITE) == 0);
	t_must(iomap_faulty_held_nr(p->faulty) == 1);
	/* two blocks every third time, an ioend of both */
	put(p, fast, round % 3 ? BLOCK : 2 * BLOCK);
	t_must(iomap_fsync(p->store.file, fast, fast + 2 * BLOCK - 1, 1) == 0);
	promise(p, (round % 3 ? UINT64_C(1) : 3) << (fast / BLOCK));
	t_must(iomap_faulty_release(p->faulty, id, 1, IOMAP_RELEASE_FIFO) == 1);
	t_must(iomap_faulty_remove(p->faulty, id) == 0);
	if (round % 2) {
		t_must(iomap_file_fsync(p->store.file, 0) == 0);
		promise(p, (UINT64_C(1) << (slow / BLOCK + 1)) - 1);
	}
}

/* ---- power cuts ---- */

static const unsigned char zeros[BLOCK];

/* Whether the image has stale bytes, or lacks what was promised. */
static bool image_is_bad(struct play *p, const void *image, uint64_t promised)
{
	static unsigned char found[FILE_BYTES];
	struct iomap_bdev *dev;
	struct store s;
	bool bad = false;

	t_must(iomap_writelog_open_memory(p->store.engine, DEV_BYTES, image, NULL, &dev) == 0);
	store_open(&s, p->store.engine, dev, NONE);
	t_must(iomap_read(s.file, found, FILE_BYTES, 0) == FILE_BYTES);
	for (unsigned block = 0; block < BLOCKS; block++) {
		const unsigned char *is = found + block * BLOCK, *data = p->data + block * BLOCK;
		bool written = !memcmp(is, data, BLOCK);

		/* bytes of a block that were never written are zeros, in p->data as well */
		if (!written && (promised >> block & 1 || memcmp(is, zeros, BLOCK)))
			bad = true;
	}
	store_close(&s);
	t_must(iomap_bdev_close(dev) == 0);
	return bad;
}

static unsigned cuts(struct play *p)
{
	struct iomap_cut cut = { .size = sizeof(cut) };
	struct iomap_writelog_info log;
	struct iomap_replay_info at;
	struct iomap_replay *replay;
	unsigned char *image = malloc(DEV_BYTES);
	unsigned bad = 0;

	t_must(image && iomap_writelog_info(p->log, &log, sizeof(log)) == 0);
	t_must(iomap_replay_open(p->log, &replay) == 0);
	for (uint64_t n = 0; n <= log.events_nr; n++) {
		t_must(iomap_replay_seek(replay, n) == 0);
		t_must(iomap_replay_info(replay, &at, sizeof(at)) == 0);
		for (unsigned i = 0; i < SEEDS; i++) {
			cut.mode = i == 0 ? IOMAP_CUT_NONE : i == 1 ? IOMAP_CUT_ALL :
								      IOMAP_CUT_RANDOM;
			cut.seed = i;
			t_must(iomap_replay_image(replay, &cut, image, NULL) == 0);
			bad += image_is_bad(p, image, at.mark);
		}
	}
	iomap_replay_close(replay);
	free(image);
	return bad;
}

/* How many power cuts leave behind what must not be. */
static unsigned bad_states(enum mistake mistake)
{
	unsigned char *image = malloc(DEV_BYTES);
	struct play *p = calloc(1, sizeof(*p));
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	unsigned bad;

	t_must(image && p);
	memset(image, 0, DATA_AT);
	memset(image + DATA_AT, POISON, FILE_BYTES);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.dirty_background_pct = opts.dirty_hard_pct = 80;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	engine = t_engine(&opts, NULL);
	cr_assert_eq(iomap_writelog_open_memory(engine, DEV_BYTES, image, NULL, &p->log), 0);
	cr_assert_eq(iomap_faulty_create(p->log, NULL, &p->faulty), 0);
	store_open(&p->store, engine, p->faulty, mistake);
	for (unsigned round = 0; round < BLOCKS / 3; round++)
		overtake(p, round);
	bad = cuts(p);
	store_close(&p->store);
	cr_assert_eq(iomap_bdev_close(p->faulty), 0);
	cr_assert_eq(iomap_bdev_close(p->log), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(p);
	free(image);
	return bad;
}

Test(conversion, ie06_a_power_cut_shows_zeros_or_data_and_keeps_what_was_acknowledged)
{
	cr_assert_eq(bad_states(NONE), 0U);
}

Test(conversion, ie06_conversion_at_submission_shows_old_bytes)
{
	cr_assert_gt(bad_states(CONVERTS_AT_SUBMISSION), 0U, "the test cannot fail");
}

Test(conversion, ie06_conversion_without_a_flush_shows_old_bytes)
{
	cr_assert_gt(bad_states(NO_FLUSH_BEFORE_HEADER), 0U, "the test cannot fail");
}
