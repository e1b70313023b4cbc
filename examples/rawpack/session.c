/* SPDX-License-Identifier: MIT */
/*
 * session.c - one opening of the image by the library, timed and counted.
 *
 * Each session has an engine of its own, so it starts with an empty cache, and the
 * library's counters at its end are the session's.
 */
#include "rawpack.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

/* ---- what the library logs ---- */

/*
 * While a session opens, the last line is kept: it says why opening failed, better than the
 * error does.  The library may log from any of its threads.
 */
static struct {
	pthread_mutex_t lock;
	bool keeping;
	char line[512];
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void take_log_line(void *context, enum iomap_log_level level, const char *message)
{
	(void)context;
	if (level > IOMAP_LOG_WARN)
		return;
	pthread_mutex_lock(&kept.lock);
	if (kept.keeping)
		snprintf(kept.line, sizeof(kept.line), "%s", message);
	else
		fprintf(stderr, "rawpack: libiomap: %s\n", message);
	pthread_mutex_unlock(&kept.lock);
}

static void keep_log_lines(bool keep)
{
	pthread_mutex_lock(&kept.lock);
	kept.keeping = keep;
	if (keep)
		kept.line[0] = '\0';
	pthread_mutex_unlock(&kept.lock);
}

/* Nothing is written to the line from here on, so it can be read. */
static const char *last_log_line(void)
{
	keep_log_lines(false);
	return kept.line;
}

/* ---- what the kernel counts ---- */

/* Bytes that this process has caused to be read from a disk.  False when nobody counts. */
static bool disk_reads(uint64_t *bytes)
{
	FILE *file = fopen("/proc/self/io", "re");
	bool found = false;
	char line[128];

	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "read_bytes: %" SCNu64, bytes) == 1;
	fclose(file);
	return found;
}

/* File systems that have no disk of their own underneath, or count no reads from it. */
static bool counts_no_reads(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs) != 0)
		return false;
	switch (fs.f_type) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
	case FUSE_SUPER_MAGIC:
	case V9FS_MAGIC:
		return true;
	default:
		return false;
	}
}

int session_check_cold(const struct session *session)
{
	if (session->disk_read_known && session->disk_read_bytes >= session->bytes)
		return EX_OK;
	if (session->buffered) {
		say("  not cold: the kernel's cache was asked for");
		return EX_OK;
	}
	if (!session->disk_read_known) {
		say("  cold or not: unknown, there is no /proc/self/io here");
		return EX_OK;
	}
	if (session->disk_read_bytes == 0 && counts_no_reads(session->path)) {
		say("  cold or not: unknown, the file system of the image counts no disk reads");
		return EX_OK;
	}
	complain("%s: not cold: %" PRIu64 " bytes came from the disk for %" PRIu64
		 " bytes of objects",
		 printable(session->path), session->disk_read_bytes, session->bytes);
	return STATUS_MISMATCH;
}

/* ---- open, close ---- */

static int open_status(int error)
{
	switch (-error) {
	case EACCES:
	case EPERM:
	case EROFS:
		return EX_NOPERM;
	case EBUSY:
		return EX_TEMPFAIL;
	case ENOMEM:
		return EX_OSERR;
	default:
		return EX_NOINPUT;
	}
}

static int start_engine(struct session *session, const struct options *options)
{
	struct iomap_engine_opts opts;
	const char *why;
	int error;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = options->cache_bytes;
	opts.backend = options->backend;
	opts.log = take_log_line;
	error = iomap_engine_create(&opts, &session->engine);
	if (!error) {
		session->backend = iomap_engine_backend(session->engine);
		return EX_OK;
	}
	why = last_log_line();
	complain("cannot start the library: %s", *why ? why : strerror(-error));
	return error == -EINVAL ? EX_USAGE : EX_UNAVAILABLE;
}

static int open_image(struct session *session, const struct options *options)
{
	int error = rawfile_open(session->engine, session->path,
				 options->buffered ? IOMAP_BDEV_BUFFERED : 0, &session->image);
	const char *why;

	if (!error)
		return EX_OK;
	why = last_log_line();
	if (error == -EBUSY)
		complain("%s: in use by another program", printable(session->path));
	else if (error == -EINVAL && *why)
		complain("%s", why);
	else
		complain("%s: %s", printable(session->path), strerror(-error));
	return open_status(error);
}

int session_open(struct session *session, const char *what, const struct options *options,
		 const char *path)
{
	const char *remark;
	int status;

	memset(session, 0, sizeof(*session));
	session->what = what;
	session->unit = "objects";
	session->path = path;
	session->buffered = options->buffered;
	session->started_ns = now_ns();
	session->disk_read_known = disk_reads(&session->disk_read_bytes);

	keep_log_lines(true);
	status = start_engine(session, options);
	if (status == EX_OK)
		status = open_image(session, options);
	remark = last_log_line();
	if (status != EX_OK)
		return session_close(session, status);
	if (*remark) /* which backend it had to fall back to, and why */
		say("libiomap: %s", remark);
	return EX_OK;
}

/* Time and counters of what was done, before closing adds to them. */
static void take_stock(struct session *session)
{
	uint64_t disk_read_bytes = 0;

	session->elapsed_ns = now_ns() - session->started_ns;
	if (session->disk_read_known)
		session->disk_read_known = disk_reads(&disk_read_bytes);
	session->disk_read_bytes = disk_read_bytes - session->disk_read_bytes;
	iomap_engine_stats(session->engine, &session->stats, sizeof(session->stats));
}

int session_close(struct session *session, int status)
{
	int error = 0;

	if (session->image) {
		take_stock(session);
		error = rawfile_close(session->image);
		session->image = NULL;
	}
	if (error && status == EX_OK) {
		complain("%s: closing: %s", printable(session->path), strerror(-error));
		status = EX_IOERR;
	}
	error = iomap_engine_destroy(session->engine);
	session->engine = NULL;
	if (error && status == EX_OK) {
		complain("cannot stop the library: %s", strerror(-error));
		status = EX_SOFTWARE;
	}
	if (status == EX_OK)
		print_summary(session);
	return status;
}

/* ---- bytes ---- */

static int io_error(const struct session *session, const char *doing, uint64_t pos, int error)
{
	complain("%s: %s at byte %" PRIu64 ": %s", printable(session->path), doing, pos,
		 strerror(-error));
	return EX_IOERR;
}

int session_read(struct session *session, void *buffer, size_t bytes, uint64_t pos)
{
	char *to = buffer;

	while (bytes) {
		ssize_t got = iomap_read(session->image->file, to, bytes, (int64_t)pos);

		if (got < 0)
			return io_error(session, "reading", pos, (int)got);
		if (got == 0)
			return io_error(session, "end of the image", pos, -ENODATA);
		to += got;
		pos += (uint64_t)got;
		bytes -= (size_t)got;
	}
	return EX_OK;
}

int session_write(struct session *session, const void *buffer, size_t bytes, uint64_t pos)
{
	const char *from = buffer;

	while (bytes) {
		ssize_t put = iomap_write(session->image->file, from, bytes, (int64_t)pos);

		if (put <= 0)
			return io_error(session, "writing", pos, put ? (int)put : -EIO);
		from += put;
		pos += (uint64_t)put;
		bytes -= (size_t)put;
	}
	return EX_OK;
}

int session_sync(struct session *session)
{
	int error = iomap_file_fsync(session->image->file, 0);

	if (!error)
		return EX_OK;
	complain("%s: fsync: %s", printable(session->path), strerror(-error));
	return EX_IOERR;
}
