/* SPDX-License-Identifier: MIT */
/*
 * direct_atomic.c - DW04: writes that are whole or absent after a power cut, by the device and by
 * new blocks.
 *
 * Each write fills a range with its number.  After a cut the range has to be of one number,
 * and of none below the last that was acknowledged as durable.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iomap/iomap.h>
#include <iomap/writelog.h>

#include "cowstore.h"
#include "testpiece.h"
#include "teststore.h"

#define KIB 1024

static void *memory(size_t len, int value)
{
	void *mem = NULL;

	t_must(posix_memalign(&mem, 4096, len) == 0);
	memset(mem, value, len);
	return mem;
}

/* ---- the contract ---- */

static const struct iomap_bdev_limits able = {
	.logical_block_size = 512,
	.physical_block_size = 512,
	.dma_alignment = 512,
	.max_segments_nr = 64,
	.max_transfer_bytes = 1 << 20,
	.atomic_write_min_bytes = 4 * KIB,
	.atomic_write_max_bytes = 16 * KIB,
	.atomic_write_segments_nr = 2,
};

static bool knows_atomic;

static int open_file(struct ts *ts, struct iomap_file *file)
{
	(void)ts;
	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ODIRECT |
					  (knows_atomic ? IOMAP_FMODE_CAN_ATOMIC_WRITE : 0U));
	return 0;
}

static struct ts *store(const struct iomap_bdev_limits *limits, unsigned mapping_flags)
{
	struct ts *ts = calloc(1, sizeof(*ts));

	t_must(ts != NULL);
	knows_atomic = true;
	ts_prepare(ts, &(struct ts_config){ .i_size = 64 * KIB, .limits = limits });
	ts->hook.open = open_file;
	ts_begin(ts);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, mapping_flags, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, 64 * KIB, 0, 1);
	return ts;
}

struct seen {
	ssize_t size;
	int error;
	unsigned ended;
};
static struct seen seen;

static int end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags)
{
	(void)iocb;
	(void)flags;
	seen = (struct seen){ size, error, seen.ended + 1 };
	return 0;
}

static ssize_t atomic_vec(struct ts *ts, const struct iovec *iov, size_t nr, int64_t pos)
{
	const struct iomap_dio_ops dops = { .end_io = end_io };
	struct iomap_iov_iter iter;
	struct iomap_kiocb iocb;
	struct iomap_file *file;
	ssize_t ret;

	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	iomap_iov_iter_init(&iter, IOMAP_ITER_SOURCE, iov, nr, SSIZE_MAX);
	iomap_kiocb_init(&iocb, file, pos);
	iocb.ki_flags |= IOMAP_IOCB_ATOMIC;
	td_reset(ts->dev);
	iomap_inode_lock(&ts->inode);
	ret = iomap_dio_rw(&iocb, &iter, &ts->ops, &dops, 0, NULL, 0);
	iomap_inode_unlock(&ts->inode);
	cr_assert_eq(iomap_file_close(file), 0);
	return ret;
}

static ssize_t atomic_at(struct ts *ts, size_t len, int64_t pos)
{
	char *buf = memory(len, 2);
	ssize_t ret = atomic_vec(ts, &(struct iovec){ buf, len }, 1, pos);

	free(buf);
	return ret;
}

Test(direct_atomic, dw04_by_the_device_it_is_one_atomic_bio)
{
	struct ts *ts = store(&able, IOMAP_F_ATOMIC_BIO);
	char *buf = memory(32 * KIB, 2);

	for (size_t len = 4 * KIB; len <= 16 * KIB; len *= 2) {
		cr_assert_eq(atomic_at(ts, len, 16 * KIB), (ssize_t)len);
		cr_assert_eq(td_count(ts->dev, TD_ALL), 1U);
		cr_assert(td_nth(ts->dev, TD_WRITE, 0).opf & IOMAP_REQ_ATOMIC);
		cr_assert_eq(td_nth(ts->dev, TD_WRITE, 0).bytes, len);
		cr_assert_eq(ts_last(ts, TS_BEGIN).flags,
			     (unsigned)(IOMAP_DIRECT | IOMAP_WRITE | IOMAP_ATOMIC));
	}
	/* as many pieces as the device takes */
	cr_assert_eq(atomic_vec(ts, (struct iovec[]){ { buf, 4 * KIB }, { buf + 8 * KIB, 4 * KIB } },
				2, 0), 8 * KIB);
	cr_assert_eq(td_nth(ts->dev, TD_WRITE, 0).vcnt, 2U);
	/* into unwritten space as well */
	ts_map(ts, 0, 16 * KIB, IOMAP_UNWRITTEN, IOMAP_F_ATOMIC_BIO, 64 * KIB);
	cr_assert_eq(atomic_at(ts, 8 * KIB, 8 * KIB), 8 * KIB);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 1U);
	free(buf);
	ts_close(ts);
}

/* -EINVAL, and nothing has been sent. */
static void refused(struct ts *ts, size_t len, int64_t pos, int error)
{
	cr_assert_eq(atomic_at(ts, len, pos), error, "%zu bytes at %lld", len, (long long)pos);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	/* nor was it a bio that the block layer had to refuse */
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, "direct write"), 0U);
}

Test(direct_atomic, dw04_what_does_not_suit_the_device_is_refused)
{
	struct ts *ts = store(&able, IOMAP_F_ATOMIC_BIO);
	char *buf = memory(32 * KIB, 2);

	refused(ts, 32 * KIB, 0, -EINVAL);	  /* more than the device can */
	refused(ts, 12 * KIB, 0, -EINVAL);	  /* no power of two */
	refused(ts, 2 * KIB, 0, -EINVAL);	  /* less than a block, and than the device's least */
	refused(ts, 8 * KIB, 4 * KIB, -EINVAL);	  /* not at a multiple of its length */
	ts->map_max_bytes = 4 * KIB;
	refused(ts, 8 * KIB, 0, -EINVAL); /* more than the mapping */
	ts->map_max_bytes = 0;
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_ATOMIC_BIO, 68 * KIB);
	refused(ts, 8 * KIB, 8 * KIB, -EINVAL); /* the address is not */
	cr_assert_eq(atomic_at(ts, 4 * KIB, 8 * KIB), 4 * KIB);
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, IOMAP_F_ATOMIC_BIO, 64 * KIB);
	cr_assert_eq(atomic_vec(ts, (struct iovec[]){ { buf, 4 * KIB }, { buf + 8 * KIB, 4 * KIB },
						      { buf + 16 * KIB, 8 * KIB } }, 3, 0), -EINVAL);
	cr_assert_eq(td_count(ts->dev, TD_ALL), 0U);
	free(buf);
	ts_close(ts);
}

Test(direct_atomic, dw04_a_device_that_cannot_and_a_file_that_does_not_know_refuse)
{
	struct iomap_bdev_limits limits = able;
	struct ts *ts;

	limits.atomic_write_min_bytes = limits.atomic_write_max_bytes = 0;
	limits.atomic_write_segments_nr = 0;
	ts = store(&limits, IOMAP_F_ATOMIC_BIO);
	refused(ts, 4 * KIB, 0, -EINVAL);
	knows_atomic = false;
	refused(ts, 4 * KIB, 0, -EOPNOTSUPP);
	knows_atomic = true;
	/* in place, by no device: an extent map that does not know what it was asked for */
	ts_map(ts, 0, 64 * KIB, IOMAP_MAPPED, 0, 64 * KIB);
	refused(ts, 4 * KIB, 0, -EIO);
	cr_assert_eq(t_log_count(&ts->log, IOMAP_LOG_ERROR, "an atomic write in place"), 1U);
	ts_close(ts);
}

Test(direct_atomic, dw04_by_new_blocks_there_are_no_limits_but_all_or_nothing)
{
	struct ts *ts = store(NULL, IOMAP_F_SHARED);

	/* any length, any place, several mappings */
	ts->map_max_bytes = 4 * KIB;
	cr_assert_eq(atomic_at(ts, 20 * KIB, 4 * KIB), 20 * KIB);
	cr_assert_eq(td_count(ts->dev, TD_WRITE), 5U);
	cr_assert(!(td_nth(ts->dev, TD_WRITE, 0).opf & IOMAP_REQ_ATOMIC));
	cr_assert_eq(seen.error, 0);
	/* what came before an error is nothing */
	ts_fail(ts, TS_BEGIN, 3, -ENOLCK, 1);
	cr_assert_eq(atomic_at(ts, 20 * KIB, 4 * KIB), -ENOLCK);
	cr_assert_eq(seen.error, -ENOLCK);
	/* nor is what the cache would have to do */
	ts_fail(ts, TS_BEGIN, 8, -ENOTBLK, 1);
	ts_reset(ts);
	ts_fail(ts, TS_BEGIN, 2, -ENOTBLK, 1);
	cr_assert_eq(atomic_at(ts, 20 * KIB, 4 * KIB), -EINVAL);
	cr_assert_eq(seen.error, -EINVAL);
	ts->inode.i_maxbytes = 60 * KIB;
	cr_assert_eq(atomic_at(ts, 8 * KIB, 56 * KIB), -EFBIG);
	ts_close(ts);
}

static bool keep(struct iomap_folio *folio, unsigned gfp)
{
	(void)folio, (void)gfp;
	return false;
}

Test(direct_atomic, dw04_the_cache_never_does_a_part_of_it)
{
	struct ts *ts = store(NULL, IOMAP_F_SHARED);
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	char *buf = memory(8 * KIB, 2);
	struct iomap_file *file;

	cr_assert(ts_reads(ts, 0, 4 * KIB, 1));
	ts->a_ops.release_folio = keep;
	refused(ts, 8 * KIB, 0, -EAGAIN); /* perhaps another time */
	ts->a_ops.release_folio = NULL;
	/* a buffered file promises nothing of the kind */
	iomap_kiocb_init(&iocb, ts->file, 0);
	iocb.ki_flags |= IOMAP_IOCB_ATOMIC;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, 8 * KIB);
	cr_assert_eq(iomap_write_iter(&iocb, &from), -EOPNOTSUPP);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_DEST, buf, 8 * KIB);
	cr_assert_eq(iomap_read_iter(&iocb, &from), -EINVAL);
	/* a direct one leaves nothing to it either */
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &file), 0);
	iomap_kiocb_init(&iocb, file, 0);
	iocb.ki_flags |= IOMAP_IOCB_ATOMIC;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, 8 * KIB);
	ts_reset(ts);
	ts_fail(ts, TS_BEGIN, 1, -ENOTBLK, 1);
	cr_assert_eq(iomap_write_iter(&iocb, &from), -EINVAL);
	cr_assert_eq(iomap_file_close(file), 0);
	free(buf);
	ts_close(ts);
}

/* ---- power cuts ---- */

#define WRITES 12
#define RANGE (4 * CS_BLOCK)
#define CUTS_MIN 10000U

struct cuts {
	unsigned tried, mixed, old, distinct_torn;
};

/* Of one value, or a mix. */
static int value_of(const unsigned char *range)
{
	for (size_t i = 1; i < RANGE; i++)
		if (range[i] != range[0])
			return -1;
	return range[0];
}

typedef const unsigned char *look_fn(const unsigned char *image, unsigned char *file);

static const unsigned char *look_cow(const unsigned char *image, unsigned char *file)
{
	return cs_look(image, file) ? file + CS_BLOCK : NULL;
}

/* Cut before each event, several times, until there were enough. */
static struct cuts try_cuts(struct iomap_bdev *log, look_fn *look, size_t bytes)
{
	struct iomap_cut cut = { .size = sizeof(cut), .mode = IOMAP_CUT_RANDOM,
				 .sector_bytes = 512 };
	unsigned char *image = memory(bytes, 0), *file = memory(CS_BLOCKS * CS_BLOCK, 0);
	struct iomap_cut_outcome outcome;
	struct iomap_writelog_info info;
	struct iomap_replay_info at;
	struct iomap_replay *replay;
	struct cuts cuts = { 0 };

	cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
	cr_assert_eq(iomap_replay_open(log, &replay), 0);
	for (uint64_t n = 0; n <= info.events_nr; n++) {
		cr_assert_eq(iomap_replay_seek(replay, n), 0);
		cr_assert_eq(iomap_replay_info(replay, &at, sizeof(at)), 0);
		for (cut.seed = 0; cut.seed <= CUTS_MIN / info.events_nr; cut.seed++) {
			const unsigned char *range;
			int value;

			cr_assert_eq(iomap_replay_image(replay, &cut, image, &outcome), 0);
			range = look(image, file);
			cr_assert(range, "event %llu, seed %llu: no store",
				  (unsigned long long)n, (unsigned long long)cut.seed);
			value = value_of(range);
			cuts.tried++;
			cuts.mixed += value < 0;
			cuts.distinct_torn += outcome.torn_nr > 0;
			/* acknowledged, and durable then */
			cuts.old += value >= 0 && (uint64_t)value < at.mark;
		}
	}
	iomap_replay_close(replay);
	free(image);
	free(file);
	return cuts;
}

/* The same writes, untorn or not; the nth fills the range with n. */
static struct cuts cow_writes(uint32_t flags)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	unsigned char *buf = memory(RANGE, 0);
	struct iomap_bdev *log;
	struct cuts cuts;
	struct t_log lines;
	struct cs cs;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	opts.flags |= IOMAP_ENGINE_NO_THREADS;
	engine = t_engine(&opts, &lines);
	cr_assert_eq(iomap_writelog_open_memory(engine, CS_BYTES, NULL, NULL, &log), 0);
	cs_open(&cs, engine, log);
	cr_assert_eq(iomap_writelog_restart(log), 0);
	for (unsigned n = 1; n <= WRITES; n++) {
		memset(buf, (int)n, RANGE);
		cr_assert_eq(cs_write(&cs, flags, buf, RANGE, CS_BLOCK), (ssize_t)RANGE);
		if (flags & IOMAP_IOCB_ATOMIC)
			cr_assert_eq(iomap_writelog_mark(log, n), 0);
	}
	cuts = try_cuts(log, look_cow, CS_BYTES);
	cs_close(&cs);
	cr_assert_eq(iomap_bdev_close(log), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(buf);
	printf("%u cuts, %u with a torn write: %u mixed\n", cuts.tried, cuts.distinct_torn,
	       cuts.mixed);
	return cuts;
}

Test(direct_atomic, dw04_new_blocks_are_old_or_new_after_any_cut, .timeout = 120)
{
	struct cuts cuts = cow_writes(IOMAP_IOCB_ATOMIC);

	cr_assert_geq(cuts.tried, CUTS_MIN);
	cr_assert_gt(cuts.distinct_torn, 0U);
	cr_assert_eq(cuts.mixed, 0U);
	cr_assert_eq(cuts.old, 0U);
}

Test(direct_atomic, dw04_the_same_writes_without_it_are_mixed, .timeout = 120)
{
	cr_assert_gt(cow_writes(0).mixed, 0U);
}

Test(direct_atomic, dw04_a_write_that_fails_leaves_the_old_blocks)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	unsigned char *buf = memory(RANGE, 7), *back = memory(RANGE, 0);
	struct iomap_bdev *bdev;
	struct t_log lines;
	struct cs cs;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	engine = t_engine(&opts, &lines);
	cr_assert_eq(iomap_bdev_open_memory(engine, CS_BYTES, &bdev), 0);
	cs_open(&cs, engine, bdev);
	cr_assert_eq(cs_write(&cs, IOMAP_IOCB_ATOMIC, buf, RANGE, CS_BLOCK), (ssize_t)RANGE);
	memset(buf, 9, RANGE);
	cs.commit_error = -ENOSPC;
	cr_assert_eq(cs_write(&cs, IOMAP_IOCB_ATOMIC, buf, RANGE, CS_BLOCK), -ENOSPC);
	cs.commit_error = 0;
	cr_assert_eq(iomap_read(cs.file, back, RANGE, CS_BLOCK), (ssize_t)RANGE);
	cr_assert(t_all(back, RANGE, 7));
	cs_close(&cs);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(buf);
	free(back);
}

/* ---- by a device, under power cuts ---- */

static unsigned piece_flags;

static int piece_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		       struct iomap *iomap, struct iomap *srcmap)
{
	int error = tp_ops.iomap_begin(inode, pos, length, flags, iomap, srcmap);

	iomap->flags |= piece_flags;
	return error;
}

static const struct iomap_ops piece_ops = { .iomap_begin = piece_begin };
static struct tp piece = { .length = 64 * KIB };

static ssize_t piece_write(struct iomap_file *file, uint32_t flags, void *buf, size_t len,
			   int64_t pos)
{
	struct iomap_inode *inode = iomap_file_inode(file);
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t ret;

	iomap_file_set_mode(file, IOMAP_FMODE_CAN_ATOMIC_WRITE);
	iomap_kiocb_init(&iocb, file, pos);
	iocb.ki_flags |= flags;
	piece_flags = flags & IOMAP_IOCB_ATOMIC ? IOMAP_F_ATOMIC_BIO : 0;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, len);
	iomap_inode_lock(inode);
	ret = iomap_dio_rw(&iocb, &from, &piece_ops, NULL, 0, NULL, 0);
	iomap_inode_unlock(inode);
	return ret;
}

static void piece_open(struct iomap_engine *engine, struct iomap_bdev *bdev,
		       struct iomap_inode *inode, struct iomap_file **file)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &tp_aops,
					 .i_op = &tp_inode_ops, .i_private = &piece,
					 .bdev = bdev, .i_size = 64 * KIB };

	cr_assert_eq(iomap_inode_init(engine, inode, &args), 0);
	cr_assert_eq(iomap_file_open(inode, IOMAP_O_DIRECT, file), 0);
}

static const unsigned char *look_piece(const unsigned char *image, unsigned char *file)
{
	(void)file;
	return image + RANGE;
}

static struct cuts device_writes(uint32_t flags)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	unsigned char *buf = memory(RANGE, 0);
	struct iomap_inode inode;
	struct iomap_file *file;
	struct iomap_bdev *log;
	struct t_log lines;
	struct cuts cuts;
	struct td *td;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	engine = t_engine(&opts, &lines);
	td = td_new(engine, 64 * KIB, &able);
	cr_assert_eq(iomap_writelog_create(td->bdev, NULL, &log), 0);
	piece_open(engine, log, &inode, &file);
	for (unsigned n = 1; n <= WRITES; n++) {
		memset(buf, (int)n, RANGE);
		cr_assert_eq(piece_write(file, flags, buf, RANGE, RANGE), (ssize_t)RANGE);
	}
	cuts = try_cuts(log, look_piece, 64 * KIB);
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(log), 0);
	td_free(td);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(buf);
	return cuts;
}

Test(direct_atomic, dw04_a_device_writes_old_or_new, .timeout = 120)
{
	struct cuts cuts = device_writes(IOMAP_IOCB_ATOMIC);

	cr_assert_geq(cuts.tried, CUTS_MIN);
	cr_assert_eq(cuts.mixed, 0U);
	cr_assert_gt(device_writes(0).mixed, 0U);
}

/* ---- a file system that can ---- */

/* A file of 1 MiB on XFS on a loop device, all in a mount namespace that goes with the process. */
static char *xfs_file(void)
{
	static char path[PATH_MAX];
	char *image = t_temp(0), command[3 * PATH_MAX];
	int fd;

	if (geteuid())
		cr_skip_test("only root can mount XFS on a loop device");
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		cr_skip_test("no mount namespace: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s.mnt", image);
	snprintf(command, sizeof(command),
		 "truncate -s 320M %s && mkfs.xfs -q -f %s && mkdir %s && mount -o loop %s %s", image,
		 image, path, image, path);
	if (system(command))
		cr_skip_test("no XFS on a loop device here");
	/* the mount keeps both */
	cr_assert_eq(unlink(image), 0);
	strcat(path, "/file");
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(posix_fallocate(fd, 0, 1 << 20), 0);
	cr_assert_eq(close(fd), 0);
	return path;
}

static void xfs_remove(char *path)
{
	*strrchr(path, '/') = '\0';
	cr_assert_eq(umount(path), 0);
	cr_assert_eq(rmdir(path), 0);
}

Test(direct_atomic, dw04_a_file_on_xfs_takes_rwf_atomic, .timeout = 120)
{
	char *path = xfs_file(), *buf = memory(64 * KIB, 0), *back = memory(64 * KIB, 0);
	struct iomap_engine_opts opts;
	struct iomap_bdev_limits limits;
	struct iomap_engine *engine;
	struct iomap_inode inode;
	struct iomap_bdev *bdev;
	struct iomap_file *file;
	struct t_log lines;
	size_t len;
	int fd;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 2 << 20;
	opts.max_callers = 8;
	engine = t_engine(&opts, &lines);
	cr_assert_eq(iomap_bdev_open(engine, path, NULL, &bdev), 0);
	iomap_bdev_limits(bdev, &limits);
	if (!limits.atomic_write_max_bytes) {
		cr_assert_eq(iomap_bdev_close(bdev), 0);
		cr_assert_eq(iomap_engine_destroy(engine), 0);
		xfs_remove(path);
		cr_skip_test("the kernel's XFS has no atomic writes here");
	}
	piece_open(engine, bdev, &inode, &file);
	for (len = limits.atomic_write_min_bytes;
	     len <= limits.atomic_write_max_bytes && len <= 32 * KIB; len *= 2) {
		if (len < 4 * KIB)
			continue;
		t_fill(buf, len, (int64_t)len, (unsigned)len);
		cr_assert_eq(piece_write(file, IOMAP_IOCB_ATOMIC, buf, len, (int64_t)len), (ssize_t)len);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		cr_assert_eq(pread(fd, back, len, (off_t)len), (ssize_t)len);
		cr_assert_lt(t_mismatch(back, len, (int64_t)len, (unsigned)len), 0);
		cr_assert_eq(close(fd), 0);
	}
	cr_assert_gt(len, limits.atomic_write_min_bytes);
	if (limits.atomic_write_max_bytes <= 32 * KIB)
		cr_assert_eq(piece_write(file, IOMAP_IOCB_ATOMIC, buf,
					 limits.atomic_write_max_bytes * (size_t)2, 0), -EINVAL);
	cr_assert_eq(iomap_file_close(file), 0);
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	xfs_remove(path);
	free(buf);
	free(back);
}
