/* SPDX-License-Identifier: MIT */
/*
 * open_many.c - scenario open-many: 100,000 files are opened, a page of each is read, and all are
 * closed; what an open file costs in time and in memory.
 *
 * Ours makes an inode for each file, as an application does that has found it, opens it, reads a
 * page from a device in memory, closes it and destroys the inode.  The cache holds a sixth of the pages.
 * The kernel's side opens by openat(), reads by pread() and closes; it has had its inodes, dentries
 * and pages in memory since the files were made, and only has to find them.  It opens as many at once
 * as RLIMIT_NOFILE allows, which may be fewer than 100,000.
 *
 * Memory is counted, not measured, since the machine has other users.  Ours: what goes through the
 * allocation hooks while all files are open, less what the engine has without any, and the
 * application's inodes.  The kernel's: one object for each file of each of the caches that
 * /proc/slabinfo names.  Neither has cached data in it, nor the 64 bytes for each page of it that
 * are the same for both.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cached.h"

#define MANY 100000U
#define PAGE ((size_t)4096)
#define FDS_EXTRA 256 /* that the process has otherwise */

static unsigned many(const struct bench_ctx *ctx)
{
	return ctx->mode == BENCH_FULL ? MANY : ctx->mode == BENCH_QUICK ? MANY / 10 : MANY / 500;
}

/* ---- ours ---- */

struct ours {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode *inode;
	struct iomap_file **file;
	unsigned nr;
	int64_t bytes, before; /* through the hooks; without any file */
};

static void *ours_alloc(void *arg, size_t align, size_t size)
{
	struct ours *ours = arg;
	void *p = NULL;

	if (posix_memalign(&p, align < sizeof(p) ? sizeof(p) : align, size) != 0)
		return NULL;
	__atomic_fetch_add(&ours->bytes, (int64_t)size, __ATOMIC_RELAXED);
	return p;
}

static void ours_free(void *arg, void *p, size_t size)
{
	struct ours *ours = arg;

	__atomic_fetch_sub(&ours->bytes, (int64_t)size, __ATOMIC_RELAXED);
	free(p);
}

static int ours_engine(struct ours *ours)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = ours->nr * PAGE / 6;
	if (opts.cache_bytes < 1 << 20)
		opts.cache_bytes = 1 << 20;
	opts.backend = "threads";
	opts.nr_io_threads = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	opts.alloc.alloc = ours_alloc;
	opts.alloc.free = ours_free;
	opts.alloc.ctx = ours;
	return iomap_engine_create(&opts, &ours->engine);
}

static void ours_teardown(struct bench_ctx *ctx, void *state)
{
	struct ours *ours = state;
	int error = 0;

	(void)ctx;
	if (ours->bdev)
		error = iomap_bdev_close(ours->bdev);
	if (!error)
		error = iomap_engine_destroy(ours->engine);
	if (error)
		bench_error("open-many: %s", strerror(-error));
	free(ours->inode);
	free(ours->file);
	free(ours);
}

static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct ours *ours = calloc(1, sizeof(*ours));
	int error = -ENOMEM;

	(void)side;
	if (!ours)
		return bench_error("no memory");
	ours->nr = many(ctx);
	ours->inode = calloc(ours->nr, sizeof(*ours->inode));
	ours->file = calloc(ours->nr, sizeof(struct iomap_file *));
	if (ours->inode && ours->file)
		error = ours_engine(ours);
	if (!error)
		error = iomap_bdev_open_memory(ours->engine, ours->nr * PAGE, &ours->bdev);
	/* pools keep what they have had: later on it could not be told */
	ours->before = ours->bytes;
	*state = ours;
	if (!error)
		return 0;
	ours_teardown(ctx, ours);
	return bench_error("open-many: %s", strerror(-error));
}

/* File @i begins at its place on the device. */
static int ours_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		      struct iomap *iomap, struct iomap *srcmap)
{
	(void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->addr = inode->i_ino * PAGE;
	iomap->length = PAGE;
	iomap->bdev = inode->i_bdev;
	return 0;
}
static const struct iomap_ops ours_ops = { .iomap_begin = ours_begin };

static int ours_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &ours_ops);
}
static const struct iomap_address_space_operations ours_aops = { .read_folio = ours_read_folio };

static int ours_open(struct ours *ours, unsigned i)
{
	static char page[4096];
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &ours_aops, .i_ino = i,
					 .i_size = sizeof(page), .bdev = ours->bdev };
	int error = iomap_inode_init(ours->engine, &ours->inode[i], &args);
	ssize_t n;

	if (error)
		return error;
	error = iomap_file_open(&ours->inode[i], 0, &ours->file[i]);
	if (error)
		return error;
	n = iomap_read(ours->file[i], page, sizeof(page), 0);
	return n == (ssize_t)sizeof(page) ? 0 : n < 0 ? (int)n : -EIO;
}

static int ours_close(struct ours *ours, unsigned i)
{
	int error = iomap_file_close(ours->file[i]);

	return error ? error : iomap_inode_destroy(&ours->inode[i], 0);
}

static int ours_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct ours *ours = state;
	double start, took;
	int error = 0;
	unsigned i;

	(void)ctx;
	start = bench_now();
	for (i = 0; i < ours->nr && !error; i++)
		error = ours_open(ours, i);
	took = bench_now() - start;
	values[1] = (double)(ours->bytes - ours->before) / ours->nr + sizeof(struct iomap_inode);
	start = bench_now();
	for (i = 0; i < ours->nr && !error; i++)
		error = ours_close(ours, i);
	values[0] = (took + bench_now() - start) * 1e6 / ours->nr;
	return error ? bench_error("open-many: %s", strerror(-error)) : 0;
}

/* ---- the kernel's ---- */

struct kernel {
	int dir, *fd;
	unsigned nr;
	double bytes; /* for each file */
};

/* Objects of all files, and those of the file system's inodes. */
struct kernel_kind {
	const char *inodes;
	bool xfs;
};

static void kernel_name(unsigned i, char *name, size_t bytes)
{
	snprintf(name, bytes, "iomap-bench-%u", i);
}

/* Bytes of an object of each of these caches; 0 when it is not known. */
static double kernel_bytes(const char *inodes)
{
	/* the last two only where a security module is active */
	const char *const names[] = { inodes, "dentry", "filp", "lsm_inode_cache",
				      "lsm_file_cache" };
	char line[512], name[64];
	unsigned found = 0, size;
	double bytes = 0;
	FILE *from = fopen("/proc/slabinfo", "r");

	while (from && fgets(line, sizeof(line), from)) {
		if (sscanf(line, "%63s %*u %*u %u", name, &size) != 2)
			continue;
		for (unsigned i = 0; i < 5; i++)
			if (strcmp(name, names[i]) == 0) {
				bytes += size;
				found += i < 3;
			}
	}
	if (from)
		fclose(from);
	return found == 3 ? bytes : 0;
}

/* How many of *nr files can be open at once. */
static int kernel_limit(struct bench_ctx *ctx, unsigned *nr)
{
	struct rlimit limit, more;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return bench_skip(ctx, "RLIMIT_NOFILE: %s", strerror(errno));
	if (limit.rlim_cur >= *nr + FDS_EXTRA)
		return 0;
	more.rlim_cur = more.rlim_max = *nr + FDS_EXTRA;
	if (limit.rlim_max >= more.rlim_max)
		more.rlim_max = limit.rlim_max;
	/* more than the hard limit takes a privilege */
	if (setrlimit(RLIMIT_NOFILE, &more) == 0)
		return 0;
	limit.rlim_cur = limit.rlim_max;
	if (limit.rlim_cur < 2 * FDS_EXTRA || setrlimit(RLIMIT_NOFILE, &limit) != 0)
		return bench_skip(ctx, "RLIMIT_NOFILE of %llu is too low",
				  (unsigned long long)limit.rlim_max);
	*nr = (unsigned)limit.rlim_cur - FDS_EXTRA;
	return 0;
}

static int kernel_make(const struct kernel *k)
{
	static const char page[4096] = { 1 };
	char name[64];

	for (unsigned i = 0; i < k->nr; i++) {
		int fd;

		kernel_name(i, name, sizeof(name));
		fd = openat(k->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0)
			return errno;
		if (write(fd, page, sizeof(page)) != (ssize_t)sizeof(page)) {
			close(fd);
			return errno ? errno : EIO;
		}
		close(fd);
	}
	return 0;
}

static void kernel_teardown(struct bench_ctx *ctx, void *state)
{
	struct kernel *k = state;
	char name[64];

	(void)ctx;
	for (unsigned i = 0; i < k->nr; i++) {
		kernel_name(i, name, sizeof(name));
		unlinkat(k->dir, name, 0);
	}
	close(k->dir);
	free(k->fd);
	free(k);
}

/* A directory of the process's own, without a name as soon as it is open. */
static int kernel_dir(struct bench_ctx *ctx, bool xfs)
{
	char path[4096];
	int dir, file;

	if (!xfs) {
		dir = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			bench_skip(ctx, "/dev/shm: %s", strerror(errno));
		return dir;
	}
	file = bench_xfs_root(ctx);
	if (file < 0)
		return -1;
	bench_fd_path(file, path, sizeof(path));
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		bench_skip(ctx, "the root of XFS: %s", strerror(errno));
	return dir;
}

static int kernel_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	const struct kernel_kind *kind = side->arg;
	double bytes = kernel_bytes(kind->inodes);
	unsigned nr = many(ctx);
	struct kernel *k;
	int dir, error;

	if (bytes <= 0)
		return bench_skip(ctx, "/proc/slabinfo does not tell of %s, dentry and filp",
				  kind->inodes);
	if (kernel_limit(ctx, &nr))
		return BENCH_SKIPPED;
	dir = kernel_dir(ctx, kind->xfs);
	if (dir < 0)
		return BENCH_SKIPPED;
	k = calloc(1, sizeof(*k));
	if (k)
		k->fd = calloc(nr, sizeof(int));
	if (!k || !k->fd) {
		close(dir);
		free(k);
		return bench_error("no memory");
	}
	k->dir = dir;
	k->nr = nr;
	k->bytes = bytes;
	error = kernel_make(k);
	*state = k;
	if (!error)
		return 0;
	kernel_teardown(ctx, k);
	return bench_error("open-many: %u files: %s", nr, strerror(error));
}

static int kernel_round(struct bench_ctx *ctx, void *state, double *values)
{
	static char page[4096];
	struct kernel *k = state;
	double start = bench_now();
	char name[64];
	unsigned i;

	(void)ctx;
	for (i = 0; i < k->nr; i++) {
		kernel_name(i, name, sizeof(name));
		k->fd[i] = openat(k->dir, name, O_RDWR | O_CLOEXEC);
		if (k->fd[i] < 0 || pread(k->fd[i], page, sizeof(page), 0) != (ssize_t)sizeof(page))
			break;
	}
	if (i < k->nr)
		return bench_error("open-many: file %u: %s", i, strerror(errno));
	for (i = 0; i < k->nr; i++)
		close(k->fd[i]);
	values[0] = (bench_now() - start) * 1e6 / k->nr;
	values[1] = k->bytes;
	return 0;
}

/* ---- the scenario ---- */

static const struct kernel_kind on_xfs = { "xfs_inode", true };
static const struct kernel_kind on_tmpfs = { "shmem_inode_cache", false };

static const struct bench_side sides[] = {
	{ "ours", false, NULL, ours_setup, ours_round, ours_teardown },
	{ "xfs", false, &on_xfs, kernel_setup, kernel_round, kernel_teardown },
	{ "tmpfs", false, &on_tmpfs, kernel_setup, kernel_round, kernel_teardown },
	{ .name = NULL },
};

static const struct bench_metric metrics[] = {
	{ "time", "us for a file", true, BENCH_COST, 2 },
	{ "memory", "bytes for a file", true, BENCH_COST, 0 },
	{ .unit = NULL },
};

static bool open_many_get(unsigned index, struct bench_case *out)
{
	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "open-many");
	out->sides = sides;
	out->targets[0] = (struct bench_target){ "xfs", 0, 0.5, BENCH_COST };
	out->targets[1] = (struct bench_target){ "xfs", 1, 0.5, BENCH_COST };
	out->targets[2] = (struct bench_target){ "tmpfs", 0, 0.5, BENCH_COST };
	out->targets[3] = (struct bench_target){ "tmpfs", 1, 0.5, BENCH_COST };
	return true;
}

const struct bench_scenario bench_open_many = {
	.id = "open-many",
	.what = "100,000 files opened, a page of each read, closed: time and memory",
	.metrics = metrics,
	.slow = true,
	.get = open_many_get,
};
