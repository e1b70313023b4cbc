/* SPDX-License-Identifier: MIT */
/*
 * walpages - a bank in a file: transfers that survive power cuts and kill -9.
 *
 *   walpages init FILE [--pages N] [--log BYTES]
 *   walpages run FILE [--transfers N] [--threads N] [--order defer|submit] [--progress]
 *   walpages check FILE
 *
 * Exit codes are those of sysexits.h; EX_DATAERR: money is missing, or a page is damaged.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "bank.h"

#define THREADS_MAX 64
#define PROGRESS_EVERY 100

struct request {
	const char *command, *path;
	uint64_t pages_nr, log_bytes, transfers_nr, threads_nr;
	const struct iomap_writeback_ops *order;
	bool progress;
};

static int complain(int status, const char *what, int error)
{
	fprintf(stderr, "walpages: %s: %s\n", what,
		error == -EBADMSG ? "not a store of walpages, or damaged" : strerror(-error));
	return status;
}

static int usage(void)
{
	fputs("usage: walpages init FILE [--pages N] [--log BYTES]\n"
	      "       walpages run FILE [--transfers N] [--threads N] [--order defer|submit]"
	      " [--progress]\n"
	      "       walpages check FILE\n", stderr);
	return EX_USAGE;
}

/* ---- a session: engine and device ---- */

struct session {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
};

/* A process that was killed may keep the lock of the file for a moment longer than it lives. */
static int open_device(struct session *session, const char *path)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	int error = iomap_bdev_open(session->engine, path, NULL, &session->bdev);

	for (int tries = 0; error == -EBUSY && tries < 100; tries++) {
		nanosleep(&pause, NULL);
		error = iomap_bdev_open(session->engine, path, NULL, &session->bdev);
	}
	return error;
}

static int session_open(struct session *session, const char *path)
{
	int error = iomap_engine_create(NULL, &session->engine);

	if (error)
		return complain(EX_OSERR, "cannot start the engine", error);
	error = open_device(session, path);
	if (!error)
		return EX_OK;
	complain(EX_NOINPUT, path, error);
	error = iomap_engine_destroy(session->engine);
	return error ? complain(EX_SOFTWARE, "cannot stop the engine", error) : EX_NOINPUT;
}

static int session_close(struct session *session, int status)
{
	int error = iomap_bdev_close(session->bdev);

	if (!error)
		error = iomap_engine_destroy(session->engine);
	if (error && status == EX_OK)
		status = complain(EX_SOFTWARE, "cannot stop the engine", error);
	return status;
}

/* ---- init ---- */

/* A regular file gets the size it needs; a block device has the one it has. */
static int make_file(const char *path, uint64_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	struct stat st;
	int error = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || (S_ISREG(st.st_mode) && ftruncate(fd, (off_t)bytes)))
		error = -errno;
	close(fd);
	return error;
}

static int do_init(const struct request *request)
{
	struct session session;
	struct timespec now;
	int status, error;

	error = make_file(request->path, wp_store_bytes(request->pages_nr, request->log_bytes));
	if (error)
		return complain(EX_CANTCREAT, request->path, error);
	status = session_open(&session, request->path);
	if (status)
		return status;
	clock_gettime(CLOCK_REALTIME, &now);
	error = wp_format(session.bdev, request->pages_nr, request->log_bytes,
			  (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec, bank_fill);
	if (error)
		status = complain(EX_CANTCREAT, request->path, error);
	else
		printf("%" PRIu64 " pages of %u bytes, %" PRIu64 " bytes of log, %" PRIu64
		       " accounts\n", request->pages_nr, WP_PAGE_BYTES, request->log_bytes,
		       request->pages_nr * BANK_ACCOUNTS);
	return session_close(&session, status);
}

/* ---- run ---- */

struct teller {
	pthread_t thread;
	struct wp_store *store;
	const struct request *request;
	_Atomic uint64_t *durable_nr;
	uint64_t pages_nr, transfers_nr, random;
	int error;
};

static void *serve(void *arg)
{
	struct teller *teller = arg;

	for (uint64_t i = 0; i < teller->transfers_nr && !teller->error; i++) {
		uint64_t lsn, nr;

		teller->error = bank_transfer(teller->store, teller->pages_nr, &teller->random,
					      &lsn);
		if (!teller->error)
			teller->error = wp_wait(teller->store, lsn);
		if (teller->error)
			break;
		nr = atomic_fetch_add(teller->durable_nr, 1) + 1;
		if (teller->request->progress && nr % PROGRESS_EVERY == 0) {
			printf("durable %" PRIu64 "\n", nr);
			fflush(stdout);
		}
	}
	return NULL;
}

static uint64_t share(uint64_t total, uint64_t of, uint64_t i)
{
	return total / of + (i < total % of);
}

static int run_tellers(struct wp_store *store, const struct request *request)
{
	struct teller tellers[THREADS_MAX];
	_Atomic uint64_t durable_nr = 0;
	struct wp_stats stats;
	struct timespec now;
	uint64_t started = 0;
	int error = 0;

	wp_stats(store, &stats);
	clock_gettime(CLOCK_REALTIME, &now);
	for (; started < request->threads_nr && !error; started++) {
		tellers[started] = (struct teller){
			.store = store,
			.request = request,
			.durable_nr = &durable_nr,
			.pages_nr = stats.pages_nr,
			.transfers_nr = share(request->transfers_nr, request->threads_nr, started),
			.random = (uint64_t)now.tv_nsec * THREADS_MAX + started,
		};
		error = -pthread_create(&tellers[started].thread, NULL, serve, &tellers[started]);
	}
	started -= error != 0;
	while (started-- > 0) {
		pthread_join(tellers[started].thread, NULL);
		if (!error)
			error = tellers[started].error;
	}
	return error;
}

static void print_run(struct wp_store *store)
{
	struct wp_stats stats;

	wp_stats(store, &stats);
	printf("%" PRIu64 " transfers, all durable\n", stats.committed_nr);
	printf("log: %" PRIu64 " bytes in %" PRIu64 " flushes, %" PRIu64 " images of pages, %" PRIu64
	       " checkpoints\n", stats.flushed_bytes, stats.flushes_nr, stats.images_nr,
	       stats.checkpoints_nr);
}

static int do_run(struct wp_store *store, const struct request *request)
{
	int error = run_tellers(store, request);

	if (error)
		return complain(EX_IOERR, request->path, error);
	print_run(store);
	return EX_OK;
}

/* ---- check ---- */

static int do_check(struct wp_store *store, const struct request *request)
{
	struct bank_totals totals;
	struct wp_stats stats;
	int64_t expected;
	int error;

	wp_stats(store, &stats);
	expected = (int64_t)stats.pages_nr * BANK_ACCOUNTS * BANK_BEGIN;
	error = bank_count(store, stats.pages_nr, &totals);
	if (error)
		return complain(error == -EBADMSG ? EX_DATAERR : EX_IOERR, request->path, error);
	printf("%" PRIu64 " transfers, %" PRIu64 " of them redone from the log\n",
	       totals.transfers_nr, stats.redone_nr);
	printf("sum %" PRId64 "\n", totals.sum);
	if (totals.sum == expected)
		return EX_OK;
	fprintf(stderr, "walpages: the sum should be %" PRId64 "\n", expected);
	return EX_DATAERR;
}

/* ---- the command line ---- */

static int with_store(const struct request *request,
		      int (*command)(struct wp_store *store, const struct request *request))
{
	struct session session;
	struct wp_store *store;
	int status = session_open(&session, request->path), error;

	if (status)
		return status;
	error = wp_open(session.engine, session.bdev, request->order, &store);
	if (error) {
		status = complain(error == -EBADMSG ? EX_DATAERR : EX_IOERR, request->path, error);
	} else {
		status = command(store, request);
		error = wp_close(store);
		if (error && status == EX_OK)
			status = complain(EX_IOERR, request->path, error);
	}
	return session_close(&session, status);
}

/* A whole number from 1 to @most. */
static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 0);
	return errno == 0 && end != text && *end == '\0' && *text != '-' && *out >= 1 && *out <= most;
}

static bool parse_option(const char *option, const char *value, struct request *request)
{
	bool init = strcmp(request->command, "init") == 0;

	if (init && strcmp(option, "--pages") == 0)
		return parse_number(value, UINT32_MAX, &request->pages_nr) && request->pages_nr > 1;
	if (init && strcmp(option, "--log") == 0)
		return parse_number(value, UINT32_MAX, &request->log_bytes);
	if (strcmp(request->command, "run") != 0)
		return false;
	if (strcmp(option, "--transfers") == 0)
		return parse_number(value, UINT64_MAX, &request->transfers_nr);
	if (strcmp(option, "--threads") == 0)
		return parse_number(value, THREADS_MAX, &request->threads_nr);
	if (strcmp(option, "--order") != 0)
		return false;
	request->order = strcmp(value, "submit") == 0 ? &wp_order_submit : &wp_order_defer;
	return strcmp(value, "submit") == 0 || strcmp(value, "defer") == 0;
}

static bool parse(int argc, char **argv, struct request *request)
{
	*request = (struct request){
		.pages_nr = 64,
		.log_bytes = 1 << 20,
		.transfers_nr = 1000,
		.threads_nr = 4,
		.order = &wp_order_defer,
	};
	if (argc < 3)
		return false;
	request->command = argv[1];
	request->path = argv[2];
	for (int i = 3; i < argc; i++) {
		if (strcmp(request->command, "run") == 0 && strcmp(argv[i], "--progress") == 0)
			request->progress = true;
		else if (++i == argc || !parse_option(argv[i - 1], argv[i], request))
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct request request;
	int status;

	if (!parse(argc, argv, &request))
		return usage();
	if (strcmp(request.command, "init") == 0)
		status = do_init(&request);
	else if (strcmp(request.command, "run") == 0)
		status = with_store(&request, do_run);
	else if (strcmp(request.command, "check") == 0)
		status = with_store(&request, do_check);
	else
		return usage();
	if (fflush(stdout) && status == EX_OK)
		status = complain(EX_IOERR, "standard output", -errno);
	return status;
}
