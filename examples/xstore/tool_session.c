/* SPDX-License-Identifier: MIT */
/*
 * tool_session.c - a store in use by the xstore program, and the figures of what was done.
 *
 * A session has an engine, and so a cache, of its own: it starts with nothing cached, and the
 * library's counters at its end are those of the one command.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#ifdef XSTORE_JEMALLOC
#include <iomap/jemalloc.h>
#endif

#include "tool.h"

/*
 * The library's last line while a session opens, where it says more than the error does.
 * Later its lines would only repeat what commands say.
 */
static struct {
	pthread_mutex_t lock;
	bool done;
	char line[256];
} logged = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void take_log_line(void *context, enum iomap_log_level level, const char *message)
{
	(void)context;
	pthread_mutex_lock(&logged.lock);
	if (level <= IOMAP_LOG_WARN && !logged.done)
		snprintf(logged.line, sizeof(logged.line), "%s", message);
	pthread_mutex_unlock(&logged.lock);
}

static const char *last_log_line(void)
{
	pthread_mutex_lock(&logged.lock);
	logged.done = true;
	pthread_mutex_unlock(&logged.lock);
	return logged.line;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* ---- open, close ---- */

static int open_status(const struct request *request, int error)
{
	const char *line = last_log_line();

	if (error == -ENOENT)
		return complain(EX_NOINPUT, "%s: %s", printable(request->path), strerror(ENOENT));
	if (error == -EINVAL)
		return complain(EX_NOINPUT, "%s: %s", printable(request->path),
				*line ? line : "cannot be a store");
	return complain_error(request->path, error, NULL);
}

/*
 * A store may be in use for a moment longer than the process that used it: the kernel takes a
 * killed one's io_uring apart, and with it its lock on the file, a little later.
 */
static int open_device(struct session *session, const char *path,
		       const struct iomap_bdev_opts *opts)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	int error = iomap_bdev_open(session->engine, path, opts, &session->bdev);

	for (int tries = 0; error == -EBUSY && tries < 50; tries++) {
		nanosleep(&pause, NULL);
		error = iomap_bdev_open(session->engine, path, opts, &session->bdev);
	}
	return error;
}

int session_open(struct session *session, const struct request *request, bool readonly, bool mount)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct xs_why why = { .text = "" };
	struct iomap_engine_opts opts;
	const char *line;
	int error;

	session->request = request;
	session->started_ns = now_ns();
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = request->cache_bytes;
	opts.backend = request->backend;
	opts.log = take_log_line;
#ifdef XSTORE_JEMALLOC
	/* without an arena of its own it has what malloc gives */
	if (iomap_jemalloc_hooks(&session->alloc) == 0)
		opts.alloc = session->alloc;
#endif
	error = iomap_engine_create(&opts, &session->engine);
	if (error) {
		line = last_log_line();
		return complain(error == -EINVAL ? EX_USAGE : EX_UNAVAILABLE,
				"cannot start the library: %s", *line ? line : strerror(-error));
	}
	if (readonly)
		bdev_opts.flags |= IOMAP_BDEV_READONLY;
	if (request->given & OPTION_BUFFERED)
		bdev_opts.flags |= IOMAP_BDEV_BUFFERED;
	error = open_device(session, request->path, &bdev_opts);
	if (error)
		return open_status(request, error);
	if (mount)
		error = xs_open(session->engine, session->bdev, readonly, &session->store, &why);
	return error ? complain_error(request->path, error, &why) : EX_OK;
}

bool is_own_store(const struct session *session, const struct stat *found)
{
	struct stat store;

	if (stat(session->request->path, &store) != 0)
		return false;
	if (S_ISBLK(store.st_mode))
		return S_ISBLK(found->st_mode) && found->st_rdev == store.st_rdev;
	return found->st_dev == store.st_dev && found->st_ino == store.st_ino;
}

int session_close(struct session *session, int status)
{
	int error = xs_close(session->store);

	if (error && status == EX_OK)
		status = complain_error(session->request->path, error, NULL);
	error = iomap_bdev_close(session->bdev);
	if (error && status == EX_OK)
		status = complain_error(session->request->path, error, NULL);
	error = iomap_engine_destroy(session->engine);
	if (error && status == EX_OK)
		status = complain(EX_SOFTWARE, "cannot stop the library: %s", strerror(-error));
#ifdef XSTORE_JEMALLOC
	if (!error)
		iomap_jemalloc_hooks_release(&session->alloc);
#endif
	return status;
}

/* ---- figures ---- */

static double mb(uint64_t bytes)
{
	return (double)bytes / 1e6;
}

static double ratio(uint64_t n, uint64_t of)
{
	return of ? (double)n / (double)of : 0.0;
}

static void json_stats(const struct session *session, const struct iomap_engine_stats *stats)
{
	json_object("library");
	json_name("backend", iomap_engine_backend(session->engine));
	json_number("cache_bytes", stats->cache_bytes);
	json_number("hits", stats->hits_nr);
	json_number("misses", stats->misses_nr);
	json_number("evictions", stats->evictions_nr);
	json_number("readahead_bytes", stats->readahead_bytes);
	json_number("readahead_used_bytes", stats->readahead_used_bytes);
	json_number("ioends", stats->ioends_nr);
	json_number("ioend_blocks", stats->ioend_blocks_nr);
	json_number("ioend_bytes", stats->ioend_bytes);
	json_number("ioend_bios", stats->ioend_bios_nr);
	json_number("read_bytes", stats->read_bytes);
	json_number("written_bytes", stats->written_bytes);
	json_number("flushes", stats->flushes_nr);
	json_end();
}

static void print_stats(const struct session *session, const struct iomap_engine_stats *stats)
{
	printf("  cache      %.1f MB, %" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64
	       " evictions\n",
	       mb(stats->cache_bytes), stats->hits_nr, stats->misses_nr, stats->evictions_nr);
	printf("  readahead  %.1f MB, %.1f MB of it used\n", mb(stats->readahead_bytes),
	       mb(stats->readahead_used_bytes));
	printf("  writeback  %" PRIu64 " ioends of %.1f blocks, %.1f MB, %.1f bios per MiB\n",
	       stats->ioends_nr, ratio(stats->ioend_blocks_nr, stats->ioends_nr),
	       mb(stats->ioend_bytes), ratio(stats->ioend_bios_nr << 20, stats->ioend_bytes));
	printf("  device     %.1f MB read, %.1f MB written, %" PRIu64 " flushes, by %s\n",
	       mb(stats->read_bytes), mb(stats->written_bytes), stats->flushes_nr,
	       iomap_engine_backend(session->engine));
}

void say_figures(struct session *session, const char *verb, uint64_t nr, const char *unit,
		 uint64_t bytes)
{
	double seconds = (double)(now_ns() - session->started_ns) / 1e9;
	struct iomap_engine_stats stats = { 0 };

	iomap_engine_stats(session->engine, &stats, sizeof(stats));
	if (json_wanted()) {
		json_number(unit, nr);
		json_number("bytes", bytes);
		json_fraction("seconds", seconds);
		json_stats(session, &stats);
		return;
	}
	printf("%s %" PRIu64 " %s, %.1f MB in %.2f s, %.1f MB/s\n", verb, nr, unit, mb(bytes),
	       seconds, seconds > 0 ? mb(bytes) / seconds : 0.0);
	if (session->request->given & OPTION_STATS)
		print_stats(session, &stats);
}
