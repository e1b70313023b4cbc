/* SPDX-License-Identifier: MIT */
/*
 * dio.c - dio-rand-qd1 and dio-rand-qd32: direct I/O through an inode and its extent map, against
 * bare loops and fio on the same file.
 *
 * At depth 1 the calls wait.  At depth 32 each iocb has a ki_complete which submits it again, in
 * an engine without threads: this thread polls it, and sleeps by the engine's descriptor when
 * there is nothing.  The file is one mapping; its memory is registered.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include <iomap/iomap.h>

#include "bdev.h"

#define CACHE_BYTES (8ULL << 20)
#define POLL_BUDGET 64U
#define TICK_MS 100

struct dio {
	struct bdev_io io;
	struct bench_round round;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	bool inited;
	struct iomap_file *file;
	struct dio_slot {
		struct iomap_kiocb iocb; /* first */
		struct dio *dio;
		char *memory;
	} *slots;
	unsigned inflight;
	uint64_t ops;
	bool stop;
	double *values;
	int error;
};

/* ---- the inode: byte n of it is byte n of the file ---- */

static int dio_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		     struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->offset = 0;
	iomap->length = (uint64_t)iomap_i_size_read(inode);
	iomap->addr = 0;
	iomap->bdev = inode->i_bdev;
	return 0;
}

static const struct iomap_ops dio_ops = { .iomap_begin = dio_begin };

static int dio_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &dio_ops);
}

static const struct iomap_address_space_operations dio_aops = { .read_folio = dio_read_folio };

static int dio_open(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT);
	return 0;
}

static const struct iomap_inode_ops dio_inode_ops = { .direct = &dio_ops, .open = dio_open };

/* ---- one call ---- */

static ssize_t dio_call(struct dio_slot *slot)
{
	struct dio *d = slot->dio;
	const struct bdev_param *p = d->io.p;
	struct iomap_iov_iter iter;
	ssize_t ret;

	slot->iocb.ki_pos = (int64_t)bdev_next(&d->io);
	iomap_iov_iter_ubuf(&iter, p->write ? IOMAP_ITER_SOURCE : IOMAP_ITER_DEST, slot->memory,
			    p->bytes);
	iomap_inode_lock_shared(&d->inode);
	ret = iomap_dio_rw(&slot->iocb, &iter, &dio_ops, NULL, 0, NULL, 0);
	iomap_inode_unlock_shared(&d->inode);
	return ret;
}

static bool dio_over(struct dio *d)
{
	if (!d->stop && bench_round_over(&d->round)) {
		bench_round_end(&d->round, d->ops, d->values);
		d->stop = true;
	}
	return d->stop;
}

/* Submit again and again, while it ends in the call. */
static void dio_go_on(struct dio_slot *slot)
{
	struct dio *d = slot->dio;
	ssize_t ret = 0;

	while (!dio_over(d) && !d->error) {
		ret = dio_call(slot);
		if (ret == -IOMAP_EIOCBQUEUED)
			return;
		if (ret != (ssize_t)d->io.p->bytes)
			d->error = ret < 0 ? (int)ret : -EIO;
		d->ops++;
	}
	d->inflight--;
}

static void dio_complete(struct iomap_kiocb *iocb, long ret)
{
	struct dio_slot *slot = (struct dio_slot *)(void *)iocb;
	struct dio *d = slot->dio;

	if (ret != (long)d->io.p->bytes)
		d->error = ret < 0 ? (int)ret : -EIO;
	d->ops++;
	dio_go_on(slot);
}

/* ---- the side ---- */

static void dio_teardown(struct bench_ctx *ctx, void *state)
{
	struct dio *d = state;
	int error = 0;

	(void)ctx;
	if (d->file)
		error = iomap_file_close(d->file);
	if (!error && d->inited)
		error = iomap_inode_destroy(&d->inode, 0);
	if (!error && d->bdev)
		error = iomap_bdev_close(d->bdev);
	if (!error && d->engine)
		error = iomap_engine_destroy(d->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	bdev_io_exit(&d->io);
	free(d->slots);
	free(d);
}

static int dio_open_file(struct bench_ctx *ctx, struct dio *d)
{
	/* the peers have it open as well */
	const struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_SHARED };
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &dio_aops,
					 .i_op = &dio_inode_ops,
					 .i_size = (int64_t)d->io.file_bytes };
	char path[64];
	int error;

	bench_fd_path(d->io.fd, path, sizeof(path));
	error = iomap_bdev_open(d->engine, path, &opts, &d->bdev);
	if (error)
		return bench_skip(ctx, "opening a file for direct I/O: %s", strerror(-error));
	args.bdev = d->bdev;
	error = iomap_inode_init(d->engine, &d->inode, &args);
	d->inited = !error;
	if (!error)
		error = iomap_file_open(&d->inode, IOMAP_O_DIRECT, &d->file);
	return error ? bench_error("an inode over the file: %s", strerror(-error)) : 0;
}

static int dio_start(struct bench_ctx *ctx, struct dio *d)
{
	const struct bdev_param *p = d->io.p;
	const struct iovec all = { d->io.buffers, p->depth * p->bytes };
	struct iomap_engine_opts opts;
	unsigned index;
	int rc;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = CACHE_BYTES;
	opts.flags |= IOMAP_ENGINE_NO_THREADS;
	rc = bench_engine_create(&opts, &d->engine);
	if (!rc)
		rc = iomap_register_buffers(d->engine, &all, 1, &index);
	if (rc)
		return bench_skip(ctx, "an engine: %s", strerror(-rc));
	rc = dio_open_file(ctx, d);
	if (rc)
		return rc;
	d->slots = calloc(p->depth, sizeof(*d->slots));
	for (unsigned i = 0; i < p->depth; i++) {
		d->slots[i].dio = d;
		d->slots[i].memory = bdev_buffer(&d->io, i);
		iomap_kiocb_init(&d->slots[i].iocb, d->file, 0);
		if (p->depth > 1)
			d->slots[i].iocb.ki_complete = dio_complete;
	}
	return 0;
}

static int dio_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct dio *d = calloc(1, sizeof(*d));
	int rc;

	(void)side;
	rc = bdev_io_init(ctx, &d->io);
	if (!rc)
		rc = dio_start(ctx, d);
	if (rc)
		dio_teardown(ctx, d);
	else
		*state = d;
	return rc;
}

/* Until all have ended: what has completed, and sleep while nothing has. */
static void dio_poll(struct dio *d)
{
	struct pollfd fd = { iomap_engine_fd(d->engine), POLLIN, 0 };
	struct iomap_plug plug;
	int nr;

	while (d->inflight) {
		iomap_start_plug(&plug);
		nr = iomap_engine_poll(d->engine, POLL_BUDGET, true);
		iomap_finish_plug(&plug);
		if (!nr && d->inflight)
			(void)poll(&fd, 1, TICK_MS);
	}
}

static int dio_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct dio *d = state;

	d->ops = 0;
	d->stop = false;
	d->values = values;
	d->inflight = d->io.p->depth;
	bench_round_begin(&d->round, ctx->round_s);
	for (unsigned i = 0; i < d->io.p->depth; i++)
		dio_go_on(&d->slots[i]);
	dio_poll(d);
	return d->error ? bench_error("direct I/O: %s", strerror(-d->error)) : 0;
}

/* ---- the scenarios ---- */

#define SIDE(name, limit, kind, arg) \
	{ name, limit, arg, kind##_setup, kind##_round, kind##_teardown }

static const struct bench_metric metrics[] = {
	{ "iops", "transfers/s", false, BENCH_SPEED, 0 },
	{ "cpu", "us CPU/transfer", true, BENCH_COST, 2 },
	{ 0 },
};
static const struct bench_side disk_sides[] = {
	SIDE("ours", false, dio, NULL),
	SIDE("ring", true, bdev_ring, &bdev_ring_plain),
	SIDE("ring-tuned", true, bdev_ring, &bdev_ring_tuned),
	SIDE("fio", false, bdev_fio, NULL),
	{ 0 },
};
static const struct bench_side tmpfs_sides[] = {
	SIDE("ours", false, dio, NULL),
	SIDE("preadv2", true, bdev_preadv2, NULL),
	{ 0 },
};

static bool dio_get(unsigned index, struct bench_case *out, unsigned depth)
{
	static struct bdev_param param;
	const bool tmpfs = index / 2;

	if (index > 3)
		return false;
	param = (struct bdev_param){
		.backend = "",
		.medium = tmpfs ? BDEV_TMPFS : BDEV_DISK,
		.write = index % 2,
		.depth = depth,
		.bytes = 4096,
	};
	snprintf(out->id, sizeof(out->id), "dio-rand-qd%u/%s/%s", depth, tmpfs ? "tmpfs" : "disk",
		 param.write ? "write" : "read");
	out->sides = tmpfs ? tmpfs_sides : disk_sides;
	out->param = &param;
	out->targets[0] = (struct bench_target){ BENCH_BEST, 0, tmpfs ? 0.9 : 0.98, BENCH_SPEED };
	out->targets[1] = (struct bench_target){ BENCH_BEST, 1, 1.10, BENCH_COST };
	return true;
}

static bool qd1_get(unsigned index, struct bench_case *out)
{
	return dio_get(index, out, 1);
}

static bool qd32_get(unsigned index, struct bench_case *out)
{
	return dio_get(index, out, 32);
}

const struct bench_scenario bench_dio_rand_qd1 = {
	.id = "dio-rand-qd1",
	.what = "random 4 KiB direct reads and writes that are waited for, against bare loops and fio",
	.metrics = metrics,
	.get = qd1_get,
};
const struct bench_scenario bench_dio_rand_qd32 = {
	.id = "dio-rand-qd32",
	.what = "the same by 32 asynchronous iocbs in one thread",
	.metrics = metrics,
	.get = qd32_get,
};
