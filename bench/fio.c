/* SPDX-License-Identifier: MIT */
/*
 * fio.c - fio as a peer: a child process for each round, on the same file.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bdev.h"

#define FIO_SECONDS_MIN 0.3 /* less than that and its start counts */
#define FIO_FIELDS 4096

extern char **environ;

struct fio {
	struct bdev_io io;
	char path[64];
};

void bdev_fio_teardown(struct bench_ctx *ctx, void *state)
{
	struct fio *f = state;

	(void)ctx;
	bdev_io_exit(&f->io);
	free(f);
}

int bdev_fio_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct fio *f;
	int rc;

	(void)side;
	if (access("/usr/bin/fio", X_OK) != 0)
		return bench_skip(ctx, "fio is not installed");
	f = calloc(1, sizeof(*f));
	rc = bdev_io_init(ctx, &f->io);
	if (rc) {
		bdev_fio_teardown(ctx, f);
		return rc;
	}
	bench_fd_path(f->io.fd, f->path, sizeof(f->path));
	*state = f;
	return 0;
}

/* CPU time of all children that have ended, seconds. */
static double fio_cpu(void)
{
	struct rusage usage;

	getrusage(RUSAGE_CHILDREN, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
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

int bdev_fio_round(struct bench_ctx *ctx, void *state, double *values)
{
	double seconds = ctx->round_s > FIO_SECONDS_MIN ? ctx->round_s : FIO_SECONDS_MIN;
	struct fio *f = state;
	char line[FIO_FIELDS];
	FILE *output = tmpfile();
	double cpu = fio_cpu();
	int rc;

	if (!output)
		return bench_error("output of fio: %s", strerror(errno));
	rc = fio_spawn(f, seconds, fileno(output));
	rewind(output);
	if (!rc && !fgets(line, sizeof(line), output))
		rc = bench_error("fio says nothing");
	fclose(output);
	if (rc)
		return rc;
	values[0] = fio_iops(line, f->io.p->write);
	/* with its start, which it has in each round */
	values[1] = values[0] > 0 ? (fio_cpu() - cpu) * 1e6 / (values[0] * seconds) : 0;
	return 0;
}
