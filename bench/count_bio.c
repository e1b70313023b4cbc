/* SPDX-License-Identifier: MIT */
/*
 * count_bio.c - iomap-bench count: how many instructions a bio takes from its submission to
 * its end, without the copy, the submitter and the kernel.
 *
 *	bio-memory	submitted to a device in memory
 *	bio-inline	submitted and waited for, on a file that is served inline (tmpfs)
 *	bio-wait	submitted and waited for, through a ring
 *	bio-queue	submitted by the bi_end_io of the one before it, 32 in flight, through a ring
 *
 * When a disk is done with what differs from run to run, and with it how many completions are
 * found at once, and the count.  So the files of the last two have O_DIRECT taken away behind the
 * library's back: their reads come from the kernel's cache and have ended when they have been
 * sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "count.h"

#define BIO_BYTES 4096U
#define BIO_SET (1ULL << 20)
#define BIO_DEPTH 32U
#define BIO_TMPFS "/dev/shm"

struct bios {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_bio *bio[BIO_DEPTH];
	char *memory;
	int fd; /* -1: none */
	uint64_t seed;
	unsigned left;	   /* to be submitted */
	unsigned inflight; /* of count_loop_queue() */
	int error;
};

/* ---- below valgrind: names that count.c knows ---- */

static void count_aim(struct bios *b, struct iomap_bio *bio)
{
	bio->bi_iter.bi_sector = bench_random(&b->seed) % (BIO_SET / BIO_BYTES) *
				 (BIO_BYTES >> IOMAP_SECTOR_SHIFT);
}

static void count_end(struct iomap_bio *bio)
{
	struct bios *b = bio->bi_private;

	if (bio->bi_status)
		b->error = bio->bi_status;
}

static void count_end_again(struct iomap_bio *bio)
{
	struct bios *b = bio->bi_private;

	count_end(bio);
	if (!b->left || b->error) {
		b->inflight--;
		return;
	}
	b->left--;
	count_aim(b, bio);
	iomap_submit_bio(bio);
}

static void BENCH_NOINLINE count_loop_memory(struct bios *b)
{
	for (; b->left && !b->error; b->left--) {
		count_aim(b, b->bio[0]);
		iomap_submit_bio(b->bio[0]);
	}
}

static void BENCH_NOINLINE count_loop_wait(struct bios *b)
{
	for (; b->left && !b->error; b->left--) {
		count_aim(b, b->bio[0]);
		b->error = iomap_submit_bio_wait(b->bio[0]);
	}
}

static void BENCH_NOINLINE count_loop_queue(struct bios *b)
{
	struct iomap_plug plug;

	iomap_start_plug(&plug);
	for (; b->inflight < BIO_DEPTH && b->left; b->left--) {
		count_aim(b, b->bio[b->inflight]);
		iomap_submit_bio(b->bio[b->inflight++]);
	}
	iomap_finish_plug(&plug);
	while (b->inflight)
		iomap_engine_poll(b->engine, 0, false);
}

/* ---- around it ---- */

static void bios_exit(struct bios *b)
{
	int error = 0;

	for (unsigned i = 0; i < BIO_DEPTH; i++)
		iomap_bio_put(b->bio[i]);
	if (b->bdev)
		error = iomap_bdev_close(b->bdev);
	if (!error && b->engine)
		error = iomap_engine_destroy(b->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	if (b->fd >= 0)
		close(b->fd);
	bench_memory_free(b->memory, BIO_DEPTH * BIO_BYTES);
}

/* The descriptor of the device is the one that open() will return next. */
static int bios_make_buffered(int fd)
{
	static char chunk[BIO_SET];
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || !(flags & O_DIRECT) || fcntl(fd, F_SETFL, flags & ~O_DIRECT) != 0)
		return bench_error("a file that is direct cannot be made buffered");
	return pread(fd, chunk, sizeof(chunk), 0) == (ssize_t)sizeof(chunk) ? 0 : -EIO;
}

static int bios_open_file(struct bios *b, const char *dir, bool inline_io)
{
	struct bench_ctx ctx = { .mode = BENCH_FULL, .dir = dir };
	char path[64];
	int next, error;

	b->fd = bench_file(&ctx, dir, BIO_SET);
	if (b->fd < 0)
		return BENCH_SKIPPED;
	bench_fd_path(b->fd, path, sizeof(path));
	next = fcntl(b->fd, F_DUPFD_CLOEXEC, 0);
	close(next);
	if (iomap_bdev_open(b->engine, path, NULL, &b->bdev) != 0)
		return BENCH_SKIPPED;
	if ((strcmp(iomap_bdev_io_path(b->bdev), "inline") == 0) != inline_io)
		return BENCH_SKIPPED;
	error = inline_io ? 0 : bios_make_buffered(next);
	return error;
}

static int bios_get(struct bios *b, iomap_bio_end_io_fn *end_io)
{
	b->memory = bench_memory(BIO_DEPTH * BIO_BYTES);
	for (unsigned i = 0; i < BIO_DEPTH; i++) {
		struct iomap_bio *bio = iomap_bio_alloc(b->bdev, 1, IOMAP_REQ_OP_READ, NULL);

		b->bio[i] = bio;
		if (!bio || !iomap_bio_add(bio, b->memory + i * BIO_BYTES, BIO_BYTES))
			return bench_error("no bio");
		bio->bi_end_io = end_io;
		bio->bi_private = b;
	}
	return 0;
}

static int bios_run(const char *backend, const char *dir, iomap_bio_end_io_fn *end_io,
		    void (*loop)(struct bios *b), unsigned ops)
{
	struct bios b = { .fd = -1, .seed = 1, .left = ops };
	struct iomap_engine_opts opts;
	int rc = BENCH_SKIPPED;

	iomap_engine_opts_init(&opts);
	opts.backend = backend;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.nr_io_threads = 1;
	if (bench_engine_create(&opts, &b.engine) != 0)
		return BENCH_SKIPPED;
	if (dir)
		rc = bios_open_file(&b, dir, loop == count_loop_wait && strcmp(dir, BIO_TMPFS) == 0);
	else
		rc = iomap_bdev_open_memory(b.engine, BIO_SET, &b.bdev);
	if (!rc)
		rc = bios_get(&b, end_io);
	if (!rc) {
		loop(&b);
		rc = b.error ? bench_error("I/O: %s", strerror(-b.error)) : 0;
	}
	bios_exit(&b);
	return rc;
}

static const char *disk_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	return tmp ? tmp : "/var/tmp";
}

static int run_memory(unsigned ops)
{
	return bios_run("threads", NULL, count_end, count_loop_memory, ops);
}

static int run_inline(unsigned ops)
{
	return bios_run("threads", BIO_TMPFS, count_end, count_loop_wait, ops);
}

static int run_wait(unsigned ops)
{
	return bios_run("io_uring", disk_dir(), count_end, count_loop_wait, ops);
}

static int run_queue(unsigned ops)
{
	return bios_run("io_uring", disk_dir(), count_end_again, count_loop_queue, ops);
}

const struct count_bio count_bios[COUNT_BIOS] = {
	{ "bio-memory", 200, run_memory },
	{ "bio-inline", 300, run_inline },
	{ "bio-wait", 700, run_wait },
	{ "bio-queue", 400, run_queue },
};
