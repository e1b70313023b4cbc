/* SPDX-License-Identifier: MIT */
/*
 * xs_sync.c - BW05: what an O_DSYNC or O_SYNC write has put somewhere is there after a power cut,
 * with all metadata that it takes to find it.
 *
 * Writes of all kinds go to one object, each with a sync of its own: into holes, over data, at
 * the end, far behind it; through the cache and past it; by the opener's mode and by the iocb's.
 * Beside them runs what is not synced, on another object.  The log of the device has a mark for
 * each write that was acknowledged, and after every event the power is cut.
 */
#include "xst.h"

#define KIB 1024
#define MIB (UINT64_C(1) << 20)
#define WRITES 20
#define FILE_MAX (128 * KIB)
#define NAME "synced"

enum by { BY_DSYNC, BY_SYNC, BY_IOCB_DSYNC, BY_IOCB_SYNC, BY_DIRECT, BYS };

/* What the object holds after each number of writes. */
struct history {
	unsigned char *bytes[WRITES + 1];
	int64_t size[WRITES + 1];
};

static void open_all(struct xs_object *object, struct iomap_file *file[BYS])
{
	static const unsigned flags[BYS] = {
		IOMAP_O_DSYNC, IOMAP_O_SYNC, 0, 0, IOMAP_O_DIRECT | IOMAP_O_DSYNC,
	};

	for (int by = 0; by < BYS; by++)
		XST_OK(iomap_file_open(&object->inode, flags[by], &file[by]));
}

static ssize_t write_by(enum by by, struct iomap_file *file, void *buf, size_t len, int64_t pos)
{
	struct iomap_inode *inode = iomap_file_inode(file);
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	if (by != BY_IOCB_DSYNC && by != BY_IOCB_SYNC)
		return iomap_write(file, buf, len, pos);
	/* as a filesystem's own write_iter */
	iomap_kiocb_init(&iocb, file, pos);
	iocb.ki_flags |= by == BY_IOCB_SYNC ? IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC : IOMAP_IOCB_DSYNC;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(inode);
	ret = iomap_file_buffered_write(&iocb, &from, inode->i_op->write, inode->i_op->write_ops,
					NULL);
	iomap_inode_unlock(inode);
	return iomap_write_sync(&iocb, ret);
}

/* Where the nth write goes: the iocb's own do not reach behind the end, which would need zeroing. */
static void place(uint64_t *seed, enum by by, int64_t size, size_t *len, int64_t *pos)
{
	const size_t unit = by == BY_DIRECT ? 4 * KIB : 1;

	*len = (1 + xst_random(seed) % (20 * KIB / unit)) * unit;
	switch (xst_random(seed) % 4) {
	case 0:
		*pos = size;
		break;
	case 1:
		*pos = by == BY_DIRECT || by <= BY_SYNC ? size + (int64_t)(xst_random(seed) % 30000)
							: size;
		break;
	default:
		*pos = size ? (int64_t)(xst_random(seed) % (uint64_t)size) : 0;
		break;
	}
	*pos = *pos / (int64_t)unit * (int64_t)unit;
	if (*pos + (int64_t)*len > FILE_MAX)
		*pos = 0;
}

static void run_writes(struct xs_store *store, struct iomap_bdev *log, struct history *h)
{
	uint64_t seed = 5;
	struct xs_object *object, *other;
	struct iomap_file *file[BYS];
	void *buf;

	cr_assert_eq(posix_memalign(&buf, 4096, FILE_MAX), 0);
	h->bytes[0] = calloc(1, FILE_MAX);
	XST_OK(xst_put(store, NAME, NULL, 0));
	XST_OK(xst_put(store, "other", NULL, 0));
	XST_OK(iomap_writelog_restart(log));
	XST_OK(xs_lookup(store, NAME, &object));
	XST_OK(xs_lookup(store, "other", &other));
	open_all(object, file);
	for (unsigned n = 1; n <= WRITES; n++) {
		enum by by = n % BYS;
		unsigned char *bytes;
		int64_t pos;
		size_t len;

		place(&seed, by, h->size[n - 1], &len, &pos);
		bytes = xst_pattern(len, n);
		memcpy(buf, bytes, len);
		XST_OK(xst_write(other, buf, 3000, (int64_t)n * 1000));
		h->bytes[n] = malloc(FILE_MAX);
		memcpy(h->bytes[n], h->bytes[n - 1], FILE_MAX);
		memcpy(h->bytes[n] + pos, bytes, len);
		h->size[n] = pos + (int64_t)len > h->size[n - 1] ? pos + (int64_t)len : h->size[n - 1];
		cr_assert_eq(write_by(by, file[by], buf, len, pos), (ssize_t)len);
		XST_OK(iomap_writelog_mark(log, n));
		free(bytes);
	}
	for (int by = 0; by < BYS; by++)
		iomap_file_close(file[by]);
	XST_OK(xs_put(other));
	XST_OK(xs_put(object));
	free(buf);
}

static void judge(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	const struct history *h = arg;
	uint64_t done = cut->mark, next = done < WRITES ? done + 1 : done;
	unsigned char *bytes;
	int64_t size;

	bytes = xst_get(store, NAME, &size);
	cr_assert(size >= h->size[done] && size <= h->size[next],
		  "event %llu, seed %llu: %lld bytes after write %llu: %lld",
		  (unsigned long long)cut->event, (unsigned long long)cut->seed, (long long)size,
		  (unsigned long long)done, (long long)h->size[done]);
	for (int64_t i = 0; i < h->size[done]; i++)
		cr_assert(bytes[i] == h->bytes[done][i] || bytes[i] == h->bytes[next][i],
			  "event %llu, seed %llu: byte %lld of write %llu is %#x",
			  (unsigned long long)cut->event, (unsigned long long)cut->seed, (long long)i,
			  (unsigned long long)done, bytes[i]);
	free(bytes);
}

Test(xs_sync, bw05_acknowledged_writes_are_there_after_any_power_cut)
{
	struct iomap_engine *engine = xst_engine(MIB);
	struct history h = { .size = { 0 } };
	struct iomap_bdev *log;
	struct xs_store *store;

	XST_OK(iomap_writelog_open_memory(engine, 2 * MIB, NULL, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	store = xst_open(engine, log);
	run_writes(store, log, &h);
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 4, judge, &h);
	for (unsigned n = 0; n <= WRITES; n++)
		free(h.bytes[n]);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
}

/* ---- in place, past the cache ---- */

#define PLACE_BYTES (16 * KIB)

static void judge_in_place(struct xs_store *store, const struct xst_cut *cut, void *arg)
{
	unsigned char *bytes, *want;
	int64_t size;

	(void)arg;
	if (!cut->mark)
		return;
	bytes = xst_get(store, NAME, &size);
	cr_assert_eq(size, PLACE_BYTES);
	want = xst_pattern(PLACE_BYTES, (unsigned)cut->mark);
	/* the next write may have begun */
	for (int64_t i = 0; i < PLACE_BYTES && cut->mark == 2; i++)
		cr_assert_eq(bytes[i], want[i], "event %llu, seed %llu, byte %lld",
			     (unsigned long long)cut->event, (unsigned long long)cut->seed,
			     (long long)i);
	free(bytes);
	free(want);
}

Test(xs_sync, df05_a_durable_write_in_place_commits_what_finds_it_and_only_that)
{
	const unsigned all = IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER;
	struct iomap_engine *engine = xst_engine(MIB);
	struct iomap_bdev_stats before, after;
	struct xs_object *object;
	struct iomap_file *file;
	struct iomap_bdev *log;
	struct xs_store *store;
	unsigned char *bytes;
	void *buf;

	cr_assert_eq(posix_memalign(&buf, 4096, PLACE_BYTES), 0);
	XST_OK(iomap_writelog_open_memory(engine, 2 * MIB, NULL, NULL, &log));
	XST_OK(xs_mkfs(log, 0, XST_ID));
	store = xst_open(engine, log);
	XST_OK(xst_put(store, NAME, NULL, 0));
	XST_OK(iomap_writelog_restart(log));
	XST_OK(xs_lookup(store, NAME, &object));
	XST_OK(iomap_file_open(&object->inode, IOMAP_O_DIRECT | IOMAP_O_DSYNC, &file));
	/* written out, and no commit knows of it */
	XST_OK(xst_write(object, buf, PLACE_BYTES, 0));
	XST_OK(iomap_sync_range(file, 0, PLACE_BYTES, all));
	for (unsigned n = 1; n <= 2; n++) {
		bytes = xst_pattern(PLACE_BYTES, n);
		memcpy(buf, bytes, PLACE_BYTES);
		free(bytes);
		XST_OK(iomap_bdev_stats(log, &before, sizeof(before)));
		cr_assert_eq(iomap_write(file, buf, PLACE_BYTES, 0), PLACE_BYTES);
		XST_OK(iomap_bdev_stats(log, &after, sizeof(after)));
		/* the second one is written through, and that is all */
		if (n == 2)
			cr_assert_eq(after.writes_nr - before.writes_nr, 1U);
		else
			cr_assert_gt(after.writes_nr - before.writes_nr, 1U);
		XST_OK(iomap_writelog_mark(log, n));
	}
	XST_OK(iomap_file_close(file));
	XST_OK(xs_put(object));
	XST_OK(xs_close(store));
	xst_try_cuts(engine, log, 20, judge_in_place, NULL);
	free(buf);
	XST_OK(iomap_bdev_close(log));
	XST_OK(iomap_engine_destroy(engine));
}
