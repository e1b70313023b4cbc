/* SPDX-License-Identifier: MIT */
/*
 * self.c - the harness measured against itself.
 *
 * self: a peer in our place, against itself: what differs is noise, and has to stay within 3 %.
 * self-fio: the bare ring loop against fio on the same file, as a child process: a bare loop that
 * is slower than a general tool would be no yardstick.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bdev.h"

#define FIO_SECONDS_MIN 0.3 /* less than that and its start counts */
#define FIO_FIELDS 4096

extern char **environ;

/* ---- fio, a round each ---- */

struct fio {
	struct bdev_io io;
	char path[64];
};

static void fio_teardown(struct bench_ctx *ctx, void *state)
{
	struct fio *f = state;

	(void)ctx;
	bdev_io_exit(&f->io);
	free(f);
}

static int fio_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct fio *f;
	int rc;

	(void)side;
	if (access("/usr/bin/fio", X_OK) != 0)
		return bench_skip(ctx, "fio is not installed");
	f = calloc(1, sizeof(*f));
	rc = bdev_io_init(ctx, &f->io);
	if (rc) {
		fio_teardown(ctx, f);
		return rc;
	}
	bench_fd_path(f->io.fd, f->path, sizeof(f->path));
	*state = f;
	return 0;
}

/* Transfers per second out of the terse output, version 3: field 8 is reads, 49 is writes. */
static double fio_iops(char *line, bool write)
{
	unsigned wanted = write ? 49 : 8;
	char *at = line;

	for (unsigned field = 1; at && field < wanted; field++) {
		at = strchr(at, ';');
		at = at ? at + 1 : NULL;
	}
	return at ? strtod(at, NULL) : 0;
}

static int fio_spawn(struct fio *f, double seconds, int output)
{
	static char program[] = "fio", name[] = "--name=peer", engine[] = "--ioengine=io_uring",
		    direct[] = "--direct=1", timed[] = "--time_based", minimal[] = "--minimal",
		    size[] = "--size=100%", create[] = "--allow_file_create=0";
	const struct bdev_param *p = f->io.p;
	char file[96], rw[32], bs[32], depth[32], runtime[32], bytes[48];
	char *argv[] = { program, name, engine, direct, timed, minimal, size, create,
			 file,	  rw,	bs,	depth,	runtime, bytes,	  NULL };
	posix_spawn_file_actions_t actions;
	int status, error;
	pid_t child;

	snprintf(file, sizeof(file), "--filename=%s", f->path);
	snprintf(rw, sizeof(rw), "--rw=%s", p->write ? "randwrite" : "randread");
	snprintf(bs, sizeof(bs), "--bs=%zu", p->bytes);
	snprintf(depth, sizeof(depth), "--iodepth=%u", p->depth);
	snprintf(runtime, sizeof(runtime), "--runtime=%ums", (unsigned)(seconds * 1000));
	snprintf(bytes, sizeof(bytes), "--filesize=%llu", (unsigned long long)f->io.file_bytes);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, output, 1);
	error = posix_spawnp(&child, program, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error)
		return bench_error("fio: %s", strerror(error));
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return bench_error("waiting for fio: %s", strerror(errno));
	return status ? bench_error("fio failed") : 0;
}

static int fio_round(struct bench_ctx *ctx, void *state, double *values)
{
	double seconds = ctx->round_s > FIO_SECONDS_MIN ? ctx->round_s : FIO_SECONDS_MIN;
	struct fio *f = state;
	char line[FIO_FIELDS];
	FILE *output = tmpfile();
	int rc;

	if (!output)
		return bench_error("output of fio: %s", strerror(errno));
	rc = fio_spawn(f, seconds, fileno(output));
	rewind(output);
	if (!rc && !fgets(line, sizeof(line), output))
		rc = bench_error("fio says nothing");
	fclose(output);
	if (!rc)
		values[0] = fio_iops(line, f->io.p->write);
	return rc;
}

/* ---- the scenarios ---- */

#define SIDE(name, kind, arg) { name, false, arg, kind##_setup, kind##_round, kind##_teardown }

static const struct bench_side memcpy_sides[] = {
	SIDE("ours", bdev_memcpy, NULL), SIDE("again", bdev_memcpy, NULL), { 0 }
};
static const struct bench_side ring_sides[] = {
	SIDE("ours", bdev_ring, &bdev_ring_plain), SIDE("again", bdev_ring, &bdev_ring_plain), { 0 }
};
static const struct bench_side fio_sides[] = {
	SIDE("ours", bdev_ring, &bdev_ring_tuned), SIDE("fio", fio, NULL), { 0 }
};

static const struct bench_metric metrics[] = {
	{ "iops", "transfers/s", false, BENCH_SPEED, 0 }, { 0 }
};

static const struct bdev_param memory_param = { "", BDEV_MEMORY, false, false, 1, 4096 };
static const struct bdev_param read_param = { "", BDEV_DISK, false, false, 32, 4096 };
static const struct bdev_param write_param = { "", BDEV_DISK, true, false, 32, 4096 };

static bool self_get(unsigned index, struct bench_case *out)
{
	if (index > 1)
		return false;
	snprintf(out->id, sizeof(out->id), "self/%s", index ? "ring" : "memcpy");
	out->sides = index ? ring_sides : memcpy_sides;
	out->param = index ? &read_param : &memory_param;
	out->targets[0] = (struct bench_target){ "again", 0, 1.03, BENCH_SAME };
	return true;
}

static bool fio_get(unsigned index, struct bench_case *out)
{
	if (index > 1)
		return false;
	snprintf(out->id, sizeof(out->id), "self-fio/%s", index ? "write" : "read");
	out->sides = fio_sides;
	out->param = index ? &write_param : &read_param;
	out->targets[0] = (struct bench_target){ "fio", 0, 0.95, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_self = {
	.id = "self",
	.what = "a peer against itself: the harness, and the noise",
	.metrics = metrics,
	.get = self_get,
};
const struct bench_scenario bench_self_fio = {
	.id = "self-fio",
	.what = "the best bare ring loop against fio, random 4 KiB at depth 32",
	.metrics = metrics,
	.slow = true,
	.get = fio_get,
};
