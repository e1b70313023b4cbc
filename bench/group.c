/* SPDX-License-Identifier: MIT */
/*
 * group.c - group-commit: sixteen threads, or as many as a case asks for, append 4 KiB to files of their own and sync each.
 *
 * Ours is the example store, whose fsync is data, a commit of the metadata that finds it, and
 * a flush; the peer is XFS, whose fsync is data and its log.  Both share among those who sync at the
 * same time.  Each round begins with empty files, outside of what is measured.  What ours costs
 * the store itself is part of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store.h"

#include "group.h"

#define THREADS_MAX 16U
#define RECORD_BYTES 4096
#define DEVICE_BYTES (UINT64_C(1) << 30)
#define CACHE_BYTES (UINT64_C(256) << 20)

struct group;

struct appender {
	pthread_t thread;
	struct group *group;
	struct xs_object *object; /* ours */
	struct iomap_file *file;
	int fd; /* the peer's */
	uint64_t ops;
	int error;
};

struct group {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store;
	int device;
	/* One record at @pos, durable: 0 or -errno.  Empty files: the same. */
	int (*append)(struct appender *a, const void *record, int64_t pos);
	int (*empty)(struct appender *a);
	pthread_barrier_t start;
	atomic_bool over;
	unsigned nr; /* threads */
	struct appender appender[THREADS_MAX];
};

static void *appender_main(void *arg)
{
	struct appender *a = arg;
	struct group *group = a->group;
	_Alignas(4096) char record[RECORD_BYTES];
	int64_t pos = 0;

	memset(record, (int)(a - group->appender) + 1, sizeof(record));
	pthread_barrier_wait(&group->start);
	for (; !a->error && !atomic_load_explicit(&group->over, memory_order_relaxed);
	     pos += RECORD_BYTES) {
		a->error = group->append(a, record, pos);
		a->ops++;
	}
	return NULL;
}

static int group_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct group *group = state;
	struct bench_round round;
	struct timespec nap = { (time_t)ctx->round_s,
				(long)((ctx->round_s - (double)(time_t)ctx->round_s) * 1e9) };
	uint64_t ops = 0;
	int error = 0;

	for (unsigned i = 0; i < group->nr && !error; i++)
		error = group->empty(&group->appender[i]);
	if (error)
		return bench_error("an empty file: %s", strerror(-error));
	atomic_store(&group->over, false);
	pthread_barrier_init(&group->start, NULL, group->nr + 1);
	for (unsigned i = 0; i < group->nr; i++) {
		group->appender[i].ops = 0;
		error = pthread_create(&group->appender[i].thread, NULL, appender_main,
				       &group->appender[i]);
		/* those there are wait for all of them */
		if (error) {
			fprintf(stderr, "a thread: %s\n", strerror(error));
			abort();
		}
	}
	pthread_barrier_wait(&group->start);
	bench_round_begin(&round, ctx->round_s);
	nanosleep(&nap, NULL);
	atomic_store(&group->over, true);
	for (unsigned i = 0; i < group->nr; i++) {
		pthread_join(group->appender[i].thread, NULL);
		ops += group->appender[i].ops;
		if (group->appender[i].error)
			error = group->appender[i].error;
	}
	bench_round_end(&round, ops, values);
	pthread_barrier_destroy(&group->start);
	return error ? bench_error("append and sync: %s", strerror(-error)) : 0;
}

static struct group *group_new(const struct bench_ctx *ctx)
{
	struct group *group = calloc(1, sizeof(*group));

	if (!group)
		return NULL;
	group->nr = *(const unsigned *)ctx->param;
	group->device = -1;
	for (unsigned i = 0; i < group->nr; i++) {
		group->appender[i].group = group;
		group->appender[i].fd = -1;
	}
	return group;
}

/* ---- the store ---- */

static int ours_append(struct appender *a, const void *record, int64_t pos)
{
	ssize_t put = iomap_write(a->file, record, RECORD_BYTES, pos);

	return put == RECORD_BYTES ? iomap_file_fsync(a->file, 0) : put < 0 ? (int)put : -ENOSPC;
}

static int ours_empty(struct appender *a)
{
	int error = iomap_truncate(a->file, 0);

	return error ? error : iomap_file_fsync(a->file, 0);
}

static void ours_teardown(struct bench_ctx *ctx, void *state)
{
	struct group *group = state;
	int error;

	(void)ctx;
	for (unsigned i = 0; i < group->nr; i++) {
		iomap_file_close(group->appender[i].file);
		if (group->appender[i].object)
			xs_put(group->appender[i].object);
	}
	error = xs_close(group->store);
	if (!error)
		error = iomap_bdev_close(group->bdev);
	if (!error && group->engine)
		error = iomap_engine_destroy(group->engine);
	if (error)
		bench_error("closing the store: %s", strerror(-error));
	if (group->device >= 0)
		close(group->device);
	free(group);
}

static int ours_open_files(struct group *group)
{
	char name[32];
	int error = 0;

	for (unsigned i = 0; i < group->nr && !error; i++) {
		struct appender *a = &group->appender[i];

		snprintf(name, sizeof(name), "file-%u", i);
		error = xs_create(group->store, &a->object);
		if (!error)
			error = xs_link(a->object, name);
		if (!error)
			error = iomap_file_open(&a->object->inode, 0, &a->file);
	}
	return error ? error : xs_commit(group->store);
}

static int ours_open(struct group *group)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct iomap_engine_opts opts;
	struct xs_why why;
	char path[64];
	int error;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = CACHE_BYTES;
	opts.max_callers = 2 * group->nr;
	bench_fd_path(group->device, path, sizeof(path));
	error = bench_engine_create(&opts, &group->engine);
	if (!error)
		error = iomap_bdev_open(group->engine, path, &bdev_opts, &group->bdev);
	if (!error)
		error = xs_mkfs(group->bdev, 0, 1);
	if (!error)
		error = xs_open(group->engine, group->bdev, false, &group->store, &why);
	return error ? error : ours_open_files(group);
}

static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct group *group = group_new(ctx);
	int error;

	(void)side;
	if (!group)
		return bench_error("no memory");
	group->append = ours_append;
	group->empty = ours_empty;
	group->device = bench_file(ctx, ctx->dir, DEVICE_BYTES >> (ctx->mode == BENCH_SMOKE ? 6 : 0));
	if (group->device < 0) {
		free(group);
		return BENCH_SKIPPED;
	}
	error = ours_open(group);
	if (!error) {
		*state = group;
		return 0;
	}
	ours_teardown(ctx, group);
	return bench_error("a store: %s", strerror(-error));
}

/* ---- XFS ---- */

static int xfs_append(struct appender *a, const void *record, int64_t pos)
{
	ssize_t put = pwrite(a->fd, record, RECORD_BYTES, pos);

	if (put != RECORD_BYTES)
		return put < 0 ? -errno : -ENOSPC;
	return fsync(a->fd) ? -errno : 0;
}

static int xfs_empty(struct appender *a)
{
	return ftruncate(a->fd, 0) || fsync(a->fd) ? -errno : 0;
}

static void xfs_teardown(struct bench_ctx *ctx, void *state)
{
	struct group *group = state;

	(void)ctx;
	for (unsigned i = 0; i < group->nr; i++)
		if (group->appender[i].fd >= 0)
			close(group->appender[i].fd);
	free(group);
}

static int xfs_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct group *group = group_new(ctx);

	(void)side;
	if (!group)
		return bench_error("no memory");
	group->append = xfs_append;
	group->empty = xfs_empty;
	for (unsigned i = 0; i < group->nr; i++) {
		group->appender[i].fd = bench_xfs_file(ctx, RECORD_BYTES);
		if (group->appender[i].fd < 0) {
			xfs_teardown(ctx, group);
			return BENCH_SKIPPED;
		}
	}
	*state = group;
	return 0;
}

/* ---- the scenario ---- */

const struct bench_side bench_group_sides[] = {
	{ .name = "iomap", .setup = ours_setup, .round = group_round, .teardown = ours_teardown },
	{ .name = "xfs", .setup = xfs_setup, .round = group_round, .teardown = xfs_teardown },
	{ .name = NULL },
};

static bool group_get(unsigned index, struct bench_case *out)
{
	static const unsigned all = THREADS_MAX;

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "group-commit");
	out->sides = bench_group_sides;
	out->param = &all;
	out->targets[0] = (struct bench_target){ "xfs", 0, 1.3, BENCH_SPEED };
	return true;
}

static const struct bench_metric group_metrics[] = {
	{ .name = "speed", .unit = "fsync/s", .ratio = BENCH_SPEED },
	{ .name = "cpu", .unit = "us/fsync", .less_is_better = true, .ratio = BENCH_COST, .digits = 1 },
	{ .unit = NULL },
};

const struct bench_scenario bench_group_commit = {
	.id = "group-commit",
	.what = "16 threads append 4 KiB to files of their own and sync each; the store against XFS",
	.metrics = group_metrics,
	.slow = true,
	.get = group_get,
};
