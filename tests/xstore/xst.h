/* SPDX-License-Identifier: MIT */
/*
 * xst.h - a store on a device in memory, for the tests of xstore.
 */
#ifndef XST_H
#define XST_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include <iomap/writelog.h>

#include "store.h"

/* Must not fail; the line says what did. */
#define XST_OK(call)                                                               \
	do {                                                                       \
		int xst_error = (call);                                            \
		cr_assert_eq(xst_error, 0, "%s: %s", #call, strerror(-xst_error)); \
	} while (0)

#define XST_ID UINT64_C(0x1234567890abcdef)

static inline struct iomap_engine *xst_engine(uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 4;
	XST_OK(iomap_engine_create(&opts, &engine));
	return engine;
}

static inline struct xs_store *xst_open(struct iomap_engine *engine, struct iomap_bdev *bdev)
{
	struct xs_why why = { .text = "" };
	struct xs_store *store;
	int error = xs_open(engine, bdev, false, &store, &why);

	cr_assert_eq(error, 0, "open: %s: %s", strerror(-error), why.text);
	return store;
}

/* `check` finds nothing, and the three kinds of bytes add up to the device. */
static inline void xst_check(struct iomap_bdev *bdev)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;
	int error = xs_check(bdev, &counts, &why);

	cr_assert_eq(error, 0, "check: %s: %s", strerror(-error), why.text);
	cr_assert_eq(counts.data_bytes + counts.meta_bytes + counts.free_bytes, counts.bytes);
}

static inline int xst_write(struct xs_object *object, const void *data, size_t len, int64_t pos)
{
	struct iomap_file *file;
	ssize_t put;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	put = iomap_write(file, data, len, pos);
	iomap_file_close(file);
	return put == (ssize_t)len ? 0 : put < 0 ? (int)put : -ENOSPC;
}

static inline int xst_fsync(struct xs_object *object)
{
	struct iomap_file *file;
	int error;

	XST_OK(iomap_file_open(&object->inode, 0, &file));
	error = iomap_file_fsync(file, 0);
	iomap_file_close(file);
	return error;
}

/* A new object of that name and contents, durable.  Return: 0, or what failed. */
static inline int xst_put(struct xs_store *store, const char *name, const void *data, size_t len)
{
	struct xs_object *object;
	int error = xs_create(store, &object);

	if (error)
		return error;
	if (len)
		error = xst_write(object, data, len, 0);
	if (!error)
		error = xst_fsync(object);
	if (!error)
		error = xs_link(object, name);
	if (!error)
		error = xs_commit(store);
	XST_OK(xs_put(object));
	return error;
}

/* All of an object; *@size -1 when there is none of that name. */
static inline unsigned char *xst_get(struct xs_store *store, const char *name, int64_t *size)
{
	struct xs_object *object;
	struct iomap_file *file;
	unsigned char *data;
	int error = xs_lookup(store, name, &object);

	*size = -1;
	if (error == -ENOENT)
		return NULL;
	XST_OK(error);
	*size = iomap_i_size_read(&object->inode);
	data = malloc((size_t)*size + 1);
	cr_assert(data);
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	for (int64_t at = 0; at < *size;) {
		ssize_t got = iomap_read(file, data + at, (size_t)(*size - at), at);

		cr_assert_gt(got, 0, "read of %s at %lld: %zd", name, (long long)at, got);
		at += got;
	}
	iomap_file_close(file);
	XST_OK(xs_put(object));
	return data;
}

static inline uint64_t xst_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* ---- a store and what is below it ---- */

struct xst_fixture {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store;
};

static inline struct xst_fixture xst_begin(uint64_t dev_bytes, uint64_t cache_bytes)
{
	struct xst_fixture f;

	f.engine = xst_engine(cache_bytes);
	XST_OK(iomap_bdev_open_memory(f.engine, dev_bytes, &f.bdev));
	XST_OK(xs_mkfs(f.bdev, 0, XST_ID));
	f.store = xst_open(f.engine, f.bdev);
	return f;
}

static inline void xst_reopen(struct xst_fixture *f)
{
	XST_OK(xs_close(f->store));
	xst_check(f->bdev);
	f->store = xst_open(f->engine, f->bdev);
}

static inline void xst_end(struct xst_fixture *f)
{
	XST_OK(xs_close(f->store));
	xst_check(f->bdev);
	XST_OK(iomap_bdev_close(f->bdev));
	XST_OK(iomap_engine_destroy(f->engine));
}

static inline unsigned char *xst_pattern(size_t len, uint64_t seed)
{
	unsigned char *data = malloc(len + 8);

	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = xst_random(&seed);

		memcpy(data + i, &word, 8);
	}
	return data;
}

static inline void xst_assert_holds(struct xs_store *store, const char *name,
				    const unsigned char *data, size_t len)
{
	int64_t size;
	unsigned char *got = xst_get(store, name, &size);

	cr_assert_eq(size, (int64_t)len, "%s: %lld bytes, not %zu", name, (long long)size, len);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(got[i], data[i], "%s: byte %zu of %zu", name, i, len);
	free(got);
}

/* ---- power cuts ---- */

struct xst_cut {
	uint64_t event, seed;
	uint64_t mark; /* the last one before it */
};

typedef void xst_judge(struct xs_store *store, const struct xst_cut *cut, void *arg);

/* What a power cut after each event leaves: both ends, and random states up to `seeds_nr`. */
static inline void xst_try_cuts(struct iomap_engine *engine, struct iomap_bdev *log,
				uint64_t seeds_nr, xst_judge *judge, void *arg)
{
	struct iomap_writelog_info log_info;
	struct iomap_replay_info info;
	struct iomap_replay *replay;
	struct iomap_bdev *target;
	struct xs_store *store;

	XST_OK(iomap_bdev_open_memory(engine, iomap_bdev_bytes(log), &target));
	XST_OK(iomap_writelog_info(log, &log_info, sizeof(log_info)));
	XST_OK(iomap_replay_open(log, &replay));
	for (uint64_t n = 0; n <= log_info.events_nr; n++) {
		XST_OK(iomap_replay_seek(replay, n));
		XST_OK(iomap_replay_info(replay, &info, sizeof(info)));
		for (uint64_t seed = 0; seed < seeds_nr; seed++) {
			struct xst_cut at = { .event = n, .seed = seed, .mark = info.mark };
			struct iomap_cut cut = {
				.size = sizeof(cut),
				.mode = seed == 0 ? IOMAP_CUT_NONE :
					seed == 1 ? IOMAP_CUT_ALL :
						    IOMAP_CUT_RANDOM,
				.seed = n * 8 + seed,
			};

			XST_OK(iomap_replay_store(replay, &cut, target, NULL));
			xst_check(target);
			store = xst_open(engine, target);
			judge(store, &at, arg);
			XST_OK(xs_close(store));
		}
	}
	iomap_replay_close(replay);
	XST_OK(iomap_bdev_close(target));
}

#endif
