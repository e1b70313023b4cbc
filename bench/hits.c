/* SPDX-License-Identifier: MIT */
/*
 * hits.c - what a cache hit costs, next to memcpy and to pread(2) from the kernel's cache.
 *
 *	bench_hits [DIR] [ROUNDS]
 *
 * A file of 8 MiB in DIR (default: here) is cached by both sides; then random aligned pieces
 * are read, and dirty pieces overwritten, in rounds that alternate between the contenders.
 * Printed: the median time of one operation over the rounds, and its ratio to the others'
 * medians.  Ratios of one run mean something, the times themselves little.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <iomap/iomap.h>

#define SET_BYTES (8U << 20)
#define MAX_ROUNDS 99
#define BURST_BYTES (16U << 20) /* moved in one round of one contender, at most */
#define BURST_OPS 200000U

struct bench {
	int fd;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	char *set, *buf;
	uint64_t seed;
};

/* ---- the smallest extent map: the file's bytes lie where they are ---- */

static int begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		 struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->length = SET_BYTES;
	iomap->addr = 0;
	iomap->bdev = inode->i_bdev;
	return 0;
}
static const struct iomap_ops ops = { .iomap_begin = begin };

static ssize_t wb_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio, uint64_t pos,
			unsigned len, uint64_t end_pos)
{
	struct iomap none;

	begin(wpc->inode, 0, 0, 0, &wpc->iomap, &none);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}
static const struct iomap_writeback_ops wb_ops = { .writeback_range = wb_range,
						   .writeback_submit =
							   iomap_ioend_writeback_submit };

static int map_writepages(struct iomap_address_space *mapping, struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = { .inode = mapping->host, .wbc = wbc, .ops = &wb_ops };

	return iomap_writepages(&wpc);
}
static int map_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &ops);
}
static void map_readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &ops);
}
static const struct iomap_address_space_operations a_ops = {
	.read_folio = map_read_folio, .readahead = map_readahead, .writepages = map_writepages
};
static const struct iomap_inode_ops i_op = { .write = &ops };

/* ---- contenders: one operation of `size` bytes at `at` ---- */

static void op_memcpy_read(struct bench *b, size_t at, size_t size)
{
	memcpy(b->buf, b->set + at, size);
}
static void op_memcpy_write(struct bench *b, size_t at, size_t size)
{
	memcpy(b->set + at, b->buf, size);
}
static void op_iomap_read(struct bench *b, size_t at, size_t size)
{
	if (iomap_read(b->file, b->buf, size, (int64_t)at) != (ssize_t)size)
		abort();
}
static void op_iomap_write(struct bench *b, size_t at, size_t size)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, b->file, (int64_t)at);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, b->buf, size);
	if (iomap_file_buffered_write(&iocb, &from, &ops, NULL, NULL) != (ssize_t)size)
		abort();
}
static void op_kernel_read(struct bench *b, size_t at, size_t size)
{
	if (pread(b->fd, b->buf, size, (off_t)at) != (ssize_t)size)
		abort();
}
static void op_kernel_write(struct bench *b, size_t at, size_t size)
{
	if (pwrite(b->fd, b->buf, size, (off_t)at) != (ssize_t)size)
		abort();
}

typedef void op_fn(struct bench *b, size_t at, size_t size);
enum { MEMCPY, IOMAP, KERNEL, CONTENDERS };
static op_fn *const reads[CONTENDERS] = { op_memcpy_read, op_iomap_read, op_kernel_read };
static op_fn *const writes[CONTENDERS] = { op_memcpy_write, op_iomap_write, op_kernel_write };

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double burst(struct bench *b, op_fn *op, size_t size)
{
	unsigned nr = BURST_BYTES / size < BURST_OPS ? (unsigned)(BURST_BYTES / size) : BURST_OPS;
	double start = now();

	for (unsigned i = 0; i < nr; i++) {
		b->seed = b->seed * 6364136223846793005ULL + 1442695040888963407ULL;
		op(b, (size_t)(b->seed >> 33) % (SET_BYTES / size) * size, size);
	}
	return (now() - start) / nr;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void scenario(struct bench *b, const char *name, op_fn *const *op, size_t size,
		     unsigned rounds)
{
	static double times[CONTENDERS][MAX_ROUNDS];
	double median[CONTENDERS];

	for (unsigned r = 0; r < rounds + 1; r++)
		for (unsigned c = 0; c < CONTENDERS; c++) {
			double t = burst(b, op[c], size);

			if (r) /* the first round warms up */
				times[c][r - 1] = t;
		}
	for (unsigned c = 0; c < CONTENDERS; c++) {
		qsort(times[c], rounds, sizeof(double), by_value);
		median[c] = times[c][rounds / 2];
	}
	printf("%-10s %6zu B  memcpy %8.1f ns  iomap %8.1f ns  kernel %8.1f ns  "
	       "kernel/iomap %6.2f  iomap/memcpy %5.2f\n",
	       name, size, median[MEMCPY], median[IOMAP], median[KERNEL],
	       median[KERNEL] / median[IOMAP], median[IOMAP] / median[MEMCPY]);
}

static int fail(const char *what, int err)
{
	fprintf(stderr, "bench_hits: %s: %s\n", what, strerror(err < 0 ? -err : err));
	return 1;
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 64, 512, 4096, 65536 };
	const char *dir = argc > 1 ? argv[1] : ".";
	unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 15;
	static struct bench b = { .seed = 42 };
	struct iomap_engine *engine;
	char path[4096];
	int err;

	if (!rounds || rounds > MAX_ROUNDS)
		return fail("rounds are 1 to 99", EINVAL);
	snprintf(path, sizeof(path), "%s/bench_hits.XXXXXX", dir);
	b.fd = mkstemp(path);
	b.set = malloc(SET_BYTES);
	b.buf = malloc(65536);
	if (b.fd < 0 || !b.set || !b.buf)
		return fail(path, errno);
	memset(b.set, 1, SET_BYTES);
	memset(b.buf, 2, 65536);
	if (pwrite(b.fd, b.set, SET_BYTES, 0) != SET_BYTES || fsync(b.fd))
		return fail(path, errno);

	struct iomap_bdev_opts bopts = { .size = sizeof(bopts), .flags = IOMAP_BDEV_BUFFERED };
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &a_ops, .i_op = &i_op,
					 .i_size = SET_BYTES };
	struct iomap_engine_opts eopts;

	iomap_engine_opts_init(&eopts);
	eopts.cache_bytes = 8 * SET_BYTES;
	eopts.dirty_expire_ms = 3600 * 1000; /* hits on dirty folios, not write-out */
	eopts.dirty_background_pct = 40;
	err = iomap_engine_create(&eopts, &engine);
	if (!err)
		err = iomap_bdev_open(engine, path, &bopts, &b.bdev);
	args.bdev = b.bdev;
	if (!err)
		err = iomap_inode_init(engine, &b.inode, &args);
	if (!err)
		err = iomap_file_open(&b.inode, 0, &b.file);
	if (err)
		return fail("setting up", err);
	for (size_t at = 0; at < SET_BYTES; at += 65536)
		op_iomap_read(&b, at, 65536);

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		scenario(&b, "hit-read", reads, sizes[i], rounds);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		scenario(&b, "hit-write", writes, sizes[i], rounds);

	iomap_file_close(b.file);
	err = iomap_inode_destroy(&b.inode, IOMAP_DESTROY_DISCARD);
	if (!err)
		err = iomap_bdev_close(b.bdev);
	if (!err)
		err = iomap_engine_destroy(engine);
	close(b.fd);
	unlink(path);
	return err ? fail("closing", err) : 0;
}
