/* SPDX-License-Identifier: MIT */
/*
 * bdev_ours.c - bios through the block layer.
 *
 * The memory of the bios is folios of the engine's arena, as in every transfer of the cache:
 * those of an inode over a device in memory, as large as a bio and held by references for the
 * whole case.  Nobody reads that inode meanwhile, so nobody minds what is read into its folios.
 *
 * The bios are POLLED: this one thread comes back for each, so it may have a queue to itself.
 * With bdev_ours_shared they are not, and go by a queue that any thread may collect from.
 *
 * One bio is submitted and waited for by the thread, again and again; the others are submitted
 * again by their bi_end_io, which runs in that thread while it waits.  When the time is over
 * bi_end_io stops doing so; the round is what had completed by then, and the rest is waited for
 * outside the measured time.
 */
#include <string.h>

#include "bdev.h"
#include "cached.h"

const char bdev_ours_shared;

#define CACHE_EXTRA (64ULL << 20)

struct ours {
	struct bdev_io io;
	struct bench_round round;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct cached memory; /* the arena's */
	struct iomap_folio **folios;
	unsigned nr_folios;
	uint32_t opf; /* IOMAP_REQ_xxx of all bios */

	struct iomap_bio **bios;
	uint64_t ops;
	unsigned inflight; /* without the first */
	bool stop;
	double *values; /* of the round */
	int error;
};

static void ours_log(void *ctx, enum iomap_log_level level, const char *message)
{
	if (level == IOMAP_LOG_ERROR)
		bench_skip(ctx, "%s", message);
}

/* ---- memory of the arena ---- */

static int memory_get(struct ours *o)
{
	uint64_t bytes = (uint64_t)o->io.p->depth * o->io.p->bytes, pos = 0;
	struct iomap_folio *folio;

	if (cached_open(&o->memory, o->engine, bytes, true) != 0)
		return -1;
	o->folios = calloc(bytes / IOMAP_PAGE_SIZE, sizeof(struct iomap_folio *));
	while (pos < bytes) {
		folio = iomap_filemap_get_folio(o->memory.inode.i_mapping, pos >> IOMAP_PAGE_SHIFT);
		if (!folio)
			return bench_error("a folio of the bench's own inode is not cached");
		o->folios[o->nr_folios++] = folio;
		pos += iomap_folio_size(folio);
	}
	return 0;
}

/* Bytes [at, at + len) of the memory into @bio. */
static bool memory_add(struct ours *o, struct iomap_bio *bio, uint64_t at, size_t len)
{
	uint64_t pos = 0;
	unsigned i;

	for (i = 0; i < o->nr_folios && len; pos += iomap_folio_size(o->folios[i]), i++) {
		size_t size = iomap_folio_size(o->folios[i]), off, part;

		if (at >= pos + size)
			continue;
		off = at - pos;
		part = size - off < len ? size - off : len;
		if (!iomap_bio_add(bio, (char *)iomap_folio_address(o->folios[i]) + off, part))
			return false;
		at += part;
		len -= part;
	}
	return !len;
}

/* ---- bios ---- */

static void ours_aim(struct ours *o, struct iomap_bio *bio)
{
	bio->bi_iter.bi_sector = bdev_next(&o->io) >> IOMAP_SECTOR_SHIFT;
}

/* The round is over with this completion, whenever the thread's own bio ends. */
static bool ours_over(struct ours *o)
{
	/* as often as the peer does */
	if (o->io.p->medium == BDEV_MEMORY && o->ops % BDEV_COPIES_A_LOOK)
		return false;
	if (!o->stop && bench_round_over(&o->round)) {
		bench_round_end(&o->round, o->ops, o->values);
		o->stop = true;
	}
	return o->stop;
}

static void ours_end(struct iomap_bio *bio)
{
	struct ours *o = bio->bi_private;

	if (bio->bi_status)
		o->error = bio->bi_status;
	o->ops++;
	if (ours_over(o) || o->error) {
		o->inflight--;
		return;
	}
	ours_aim(o, bio);
	iomap_submit_bio(bio);
}

static int bios_get(struct ours *o)
{
	const struct bdev_param *p = o->io.p;
	uint32_t opf = (p->write ? IOMAP_REQ_OP_WRITE : IOMAP_REQ_OP_READ) | o->opf;
	unsigned vecs = (unsigned)(p->bytes / IOMAP_PAGE_SIZE);

	o->bios = calloc(p->depth, sizeof(struct iomap_bio *));
	for (unsigned i = 0; i < p->depth; i++) {
		struct iomap_bio *bio = iomap_bio_alloc(o->bdev, vecs, opf, NULL);

		o->bios[i] = bio;
		if (!bio || !memory_add(o, bio, (uint64_t)i * p->bytes, p->bytes))
			return bench_error("no bio of %zu bytes", p->bytes);
		bio->bi_end_io = ours_end;
		bio->bi_private = o;
	}
	return 0;
}

/* ---- the side ---- */

void bdev_ours_teardown(struct bench_ctx *ctx, void *state)
{
	struct ours *o = state;
	int error = 0;

	(void)ctx;
	for (unsigned i = 0; o->bios && i < o->io.p->depth; i++)
		iomap_bio_put(o->bios[i]);
	for (unsigned i = 0; i < o->nr_folios; i++)
		iomap_folio_put(o->folios[i]);
	cached_close(&o->memory);
	if (o->bdev)
		error = iomap_bdev_close(o->bdev);
	if (!error && o->engine)
		error = iomap_engine_destroy(o->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	free(o->bios);
	free(o->folios);
	free(o);
}

static int ours_open_bdev(struct bench_ctx *ctx, struct ours *o)
{
	static const char *const io_path[] = { NULL, "inline", "memory" };
	const char *path_wanted = io_path[o->io.p->medium];
	/* another side has it open as well */
	const struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_SHARED };
	char path[64];
	int fd, error;

	if (o->io.p->medium == BDEV_MEMORY)
		return iomap_bdev_open_memory(o->engine, o->io.file_bytes, &o->bdev);
	fd = bdev_file(ctx, o->io.p);
	if (fd < 0)
		return BENCH_SKIPPED;
	bench_fd_path(fd, path, sizeof(path));
	error = iomap_bdev_open(o->engine, path, &opts, &o->bdev);
	if (error)
		return bench_skip(ctx, "opening a file for direct I/O: %s", strerror(-error));
	if (path_wanted ? strcmp(iomap_bdev_io_path(o->bdev), path_wanted) != 0 :
			  strcmp(iomap_bdev_io_path(o->bdev), o->io.p->backend) != 0)
		return bench_skip(ctx, "the device's I/O goes by %s", iomap_bdev_io_path(o->bdev));
	return 0;
}

static int ours_start(struct bench_ctx *ctx, struct ours *o)
{
	const struct bdev_param *p = o->io.p;
	struct iomap_engine_opts opts;
	int rc;

	iomap_engine_opts_init(&opts);
	opts.backend = p->backend;
	opts.cache_bytes = CACHE_EXTRA + 2 * (uint64_t)p->depth * p->bytes;
	opts.max_folio_bytes = p->bytes;
	opts.nr_io_threads = bdev_nr_threads(p);
	opts.log = ours_log;
	opts.log_ctx = ctx;
	ctx->why[0] = '\0';
	rc = bench_engine_create(&opts, &o->engine);
	if (rc) {
		o->engine = NULL;
		return ctx->why[0] ? BENCH_SKIPPED :
				     bench_skip(ctx, "engine with %s: %s", p->backend, strerror(-rc));
	}
	rc = ours_open_bdev(ctx, o);
	if (!rc)
		rc = memory_get(o);
	if (!rc)
		rc = bios_get(o);
	return rc;
}

int bdev_ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct ours *o = calloc(1, sizeof(*o));
	int rc;

	/* one thread starts and ends them all: it may say so */
	o->opf = side->arg == &bdev_ours_shared ? 0 : IOMAP_REQ_POLLED;
	o->io.p = ctx->param;
	o->io.file_bytes = bdev_file_bytes(ctx, o->io.p);
	o->io.seed = 1;
	o->io.fd = -1;
	rc = ours_start(ctx, o);
	if (rc)
		bdev_ours_teardown(ctx, o);
	else
		*state = o;
	return rc;
}

int bdev_ours_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct ours *o = state;
	unsigned depth = o->io.p->depth;
	struct iomap_plug plug;

	o->ops = 0;
	o->stop = false;
	o->values = values;
	bench_round_begin(&o->round, ctx->round_s);
	o->inflight = depth - 1;
	iomap_start_plug(&plug);
	for (unsigned i = 1; i < depth; i++) {
		ours_aim(o, o->bios[i]);
		iomap_submit_bio(o->bios[i]);
	}
	while (!ours_over(o) && !o->error) {
		ours_aim(o, o->bios[0]);
		o->error = iomap_submit_bio_wait(o->bios[0]);
		o->ops++;
	}
	iomap_finish_plug(&plug);
	while (o->inflight)
		iomap_engine_poll(o->engine, 0, false);
	return o->error ? bench_error("I/O through the library: %s", strerror(-o->error)) : 0;
}
