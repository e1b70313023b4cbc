/* SPDX-License-Identifier: MIT */
/*
 * tool.c - the xstore program: its command line, and the commands that move no data.
 *
 * Each run opens the store alone (the device's lock sees to that), does one command, and has
 * committed it when it ends with status 0.
 */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what is said ---- */

int complain(int status, const char *format, ...)
{
	va_list args;

	fputs("xstore: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

const char *printable(const char *text)
{
	static char line[1024];
	size_t n = 0;

	for (; *text && n + 1 < sizeof(line); text++)
		line[n++] = (unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text;
	line[n] = '\0';
	return line;
}

static int status_of(int error)
{
	switch (error) {
	case XS_ENOTSTORE:
	case XS_EDAMAGED:
	case XS_EUNKNOWN:
		return EX_DATAERR;
	case -ENOENT:
		return EX_NOINPUT;
	case -ENOSPC:
	case -EFBIG:
		return EX_CANTCREAT;
	case -ENAMETOOLONG:
		return EX_USAGE;
	case -EBUSY:
		return EX_TEMPFAIL;
	case -EACCES:
	case -EPERM:
	case -EROFS:
		return EX_NOPERM;
	case -ENOMEM:
		return EX_OSERR;
	default:
		return EX_IOERR;
	}
}

int complain_error(const char *what, int error, const struct xs_why *why)
{
	const char *text = strerror(-error);

	if (why && why->text[0])
		text = why->text;
	else if (error == -ENOENT)
		text = "no such object";
	else if (error == -ENOSPC)
		text = "the store is full";
	else if (error == -EBUSY)
		text = "in use by another program";
	return complain(status_of(error), "%s: %s", printable(what), text);
}

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

/* ---- sessions ---- */

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

static int session_open(struct session *session, const struct request *request, bool readonly)
{
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct iomap_engine_opts opts;
	const char *line;
	int error;

	session->request = request;
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = request->cache_bytes;
	opts.backend = request->backend;
	opts.log = take_log_line;
	error = iomap_engine_create(&opts, &session->engine);
	if (error) {
		line = last_log_line();
		return complain(error == -EINVAL ? EX_USAGE : EX_UNAVAILABLE,
				"cannot start the library: %s", *line ? line : strerror(-error));
	}
	if (readonly)
		bdev_opts.flags |= IOMAP_BDEV_READONLY;
	if (request->buffered)
		bdev_opts.flags |= IOMAP_BDEV_BUFFERED;
	error = iomap_bdev_open(session->engine, request->path, &bdev_opts, &session->bdev);
	return error ? open_status(request, error) : EX_OK;
}

static int session_mount(struct session *session, bool readonly)
{
	struct xs_why why = { .text = "" };
	int error = xs_open(session->engine, session->bdev, readonly, &session->store, &why);

	return error ? complain_error(session->request->path, error, &why) : EX_OK;
}

static int session_close(struct session *session, int status)
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
	return status;
}

/* ---- commands ---- */

static int do_ls(struct session *session)
{
	struct xs_info info;

	for (size_t n = 0; xs_info_nth(session->store, n, &info) == 0; n++)
		printf("%12" PRIu64 " %s\n", info.size, printable(info.name));
	return EX_OK;
}

static int do_stat(struct session *session)
{
	struct xs_usage usage;
	struct xs_info info;
	int error;

	if (!session->request->name) {
		xs_usage(session->store, &usage);
		printf("blocks %" PRIu64 "\nblock size %u\nfree %" PRIu64 "\nmetadata %" PRIu64
		       "\nobjects %" PRIu64 "\ngeneration %" PRIu64 "\n",
		       usage.blocks, XS_BLOCK_BYTES, usage.free_nr, usage.meta_nr, usage.objects_nr,
		       usage.generation);
		return EX_OK;
	}
	error = xs_info(session->store, session->request->name, &info);
	if (error)
		return complain_error(session->request->name, error, NULL);
	printf("name %s\nid %" PRIu64 "\nsize %" PRIu64 "\nextents %" PRIu32 "\nwritten %" PRIu64
	       "\nunwritten %" PRIu64 "\n",
	       printable(info.name), info.id, info.size, info.extents_nr,
	       info.data_blocks_nr << XS_BLOCK_SHIFT, info.unwritten_blocks_nr << XS_BLOCK_SHIFT);
	return EX_OK;
}

static void print_map(const struct xs_extent *extents, uint32_t nr)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < nr; i++) {
		const struct xs_extent *extent = &extents[i];

		if (extent->file > at)
			printf("%12" PRIu64 " %12" PRIu64 " hole\n", at << XS_BLOCK_SHIFT,
			       (extent->file - at) << XS_BLOCK_SHIFT);
		printf("%12" PRIu64 " %12" PRIu64 " %s at %" PRIu64 "\n",
		       extent->file << XS_BLOCK_SHIFT, (uint64_t)extent->nr << XS_BLOCK_SHIFT,
		       extent->unwritten ? "unwritten" : "data", extent->disk << XS_BLOCK_SHIFT);
		at = xs_extent_end(extent);
	}
}

static int do_map(struct session *session)
{
	struct xs_extent *extents;
	uint32_t nr;
	int error = xs_extents(session->store, session->request->name, &extents, &nr);

	if (error)
		return complain_error(session->request->name, error, NULL);
	print_map(extents, nr);
	free(extents);
	return EX_OK;
}

static int do_rm(struct session *session)
{
	int error = xs_unlink(session->store, session->request->name);

	if (!error)
		error = xs_commit(session->store);
	return error ? complain_error(session->request->name, error, NULL) : EX_OK;
}

static bool parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	unsigned long long number;
	unsigned shift = 0;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return false;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (errno || number > (UINT64_MAX >> 1) >> shift)
		return false;
	*out = (uint64_t)number << shift;
	return true;
}

static int do_truncate(struct session *session)
{
	const char *name = session->request->name;
	struct xs_object *object;
	struct iomap_file *file;
	uint64_t size;
	int error, closing;

	if (!parse_size(session->request->arg, &size))
		return complain(EX_USAGE, "'%s' is not a size", printable(session->request->arg));
	error = xs_lookup(session->store, name, &object);
	if (error)
		return complain_error(name, error, NULL);
	error = iomap_file_open(&object->inode, 0, &file);
	if (!error) {
		error = iomap_truncate(file, (int64_t)size);
		if (!error)
			error = iomap_file_fsync(file, 0);
		iomap_file_close(file);
	}
	closing = xs_put(object);
	if (!error)
		error = closing;
	return error ? complain_error(name, error, NULL) : EX_OK;
}

static int do_check(struct session *session)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;
	int error = xs_check(session->bdev, &counts, &why);

	return error ? complain_error(session->request->path, error, &why) : EX_OK;
}

/* ---- mkfs ---- */

/* Whether there is a store, damaged or not. */
static bool is_store(struct session *session)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;

	return xs_check(session->bdev, &counts, &why) != XS_ENOTSTORE;
}

static int do_mkfs(struct session *session)
{
	const struct request *request = session->request;
	uint64_t id;
	int error;

	if (!request->force && is_store(session))
		return complain(EX_CANTCREAT, "%s: is a store already (--force)",
				printable(request->path));
	if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return complain(EX_OSERR, "no random numbers: %s", strerror(errno));
	error = xs_mkfs(session->bdev, request->size, id);
	if (error == -ENOSPC)
		return complain(EX_CANTCREAT, "%s: too small: a store has at least %u bytes",
				printable(request->path), XS_BLOCKS_MIN * XS_BLOCK_BYTES);
	return error ? complain_error(request->path, error, NULL) : EX_OK;
}

/* A file that is not there, or is too short, gets the size that was asked for. */
static int prepare_file(const struct request *request)
{
	struct stat found;
	int fd, error = 0;

	if (!request->size)
		return EX_OK;
	fd = open(request->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		return complain(EX_CANTCREAT, "%s: %s", printable(request->path), strerror(errno));
	if (fstat(fd, &found) != 0 ||
	    (S_ISREG(found.st_mode) && (uint64_t)found.st_size < request->size &&
	     ftruncate(fd, (off_t)request->size) != 0))
		error = errno;
	close(fd);
	return error ? complain(EX_CANTCREAT, "%s: %s", printable(request->path), strerror(error)) :
		       EX_OK;
}

/* ---- command line ---- */

enum { CREATES = 1, READS = 2, MOUNTS = 4 };

static const struct command {
	const char *name;
	int (*run)(struct session *session);
	int args_min, args_max; /* behind STORE */
	unsigned flags;
} commands[] = {
	{ "mkfs", do_mkfs, 0, 0, CREATES },
	{ "put", tool_put, 1, 2, MOUNTS },
	{ "get", tool_get, 1, 2, MOUNTS | READS },
	{ "ls", do_ls, 0, 0, MOUNTS | READS },
	{ "rm", do_rm, 1, 1, MOUNTS },
	{ "map", do_map, 1, 1, MOUNTS | READS },
	{ "stat", do_stat, 0, 1, MOUNTS | READS },
	{ "truncate", do_truncate, 2, 2, MOUNTS },
	{ "check", do_check, 0, 0, READS },
};

static const char usage_text[] =
	"usage: xstore mkfs STORE [--size SIZE] [--force]\n"
	"       xstore put|get STORE NAME [FILE]    FILE may be -, as when there is none\n"
	"       xstore ls|check STORE\n"
	"       xstore stat STORE [NAME]\n"
	"       xstore rm|map STORE NAME\n"
	"       xstore truncate STORE NAME SIZE\n"
	"STORE is a file or a block device; SIZE is in bytes, with K, M, G or T for powers of 1024.\n"
	"  --cache SIZE      bytes of cache\n"
	"  --backend NAME    how I/O is done: io_uring or threads\n"
	"  --buffered        use the kernel's cache where O_DIRECT is refused\n"
	"  --help            this text\n";

static int usage(void)
{
	fputs(usage_text, stderr);
	return EX_USAGE;
}

/* Return: EX_OK, or -1 when help was asked for, or EX_USAGE, complained about. */
static int parse_options(int argc, char **argv, struct request *request)
{
	static const struct option options[] = {
		{ "size", required_argument, NULL, 's' },
		{ "cache", required_argument, NULL, 'c' },
		{ "backend", required_argument, NULL, 'b' },
		{ "buffered", no_argument, NULL, 'B' },
		{ "force", no_argument, NULL, 'f' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
		case 'c':
			if (!parse_size(optarg,
					option == 's' ? &request->size : &request->cache_bytes))
				return complain(EX_USAGE, "'%s' is not a size", printable(optarg));
			break;
		case 'b':
			request->backend = optarg;
			break;
		case 'B':
			request->buffered = true;
			break;
		case 'f':
			request->force = true;
			break;
		case 'h':
			return -1;
		default:
			return usage();
		}
	}
	return EX_OK;
}

static int run(const struct command *command, const struct request *request)
{
	struct session session = { 0 };
	int status = command->flags & CREATES ? prepare_file(request) : EX_OK;

	if (status != EX_OK)
		return status;
	status = session_open(&session, request, command->flags & READS);
	if (status == EX_OK && command->flags & MOUNTS)
		status = session_mount(&session, command->flags & READS);
	if (status == EX_OK)
		status = command->run(&session);
	return session_close(&session, status);
}

static int check_name(const struct request *request)
{
	int error = request->name ? xs_name_check(request->name, strlen(request->name)) : 0;

	if (error == -ENAMETOOLONG)
		return complain(EX_USAGE, "the name is too long: %zu bytes, at most %u",
				strlen(request->name), XS_NAME_MAX);
	return error ? complain(EX_USAGE, "'%s' cannot be a name", printable(request->name)) :
		       EX_OK;
}

int main(int argc, char **argv)
{
	struct request request = { 0 };
	const struct command *command = NULL;
	int status = parse_options(argc, argv, &request);
	int args = argc - optind - 2;

	if (status == -1)
		return fputs(usage_text, stdout) < 0 ? EX_IOERR : EX_OK;
	if (status != EX_OK)
		return status;
	if (argc == optind)
		return usage();
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[optind], commands[i].name) == 0)
			command = &commands[i];
	if (!command)
		return complain(EX_USAGE, "no such command: %s", printable(argv[optind]));
	if (args < command->args_min || args > command->args_max)
		return usage();
	request.path = argv[optind + 1];
	request.name = args > 0 ? argv[optind + 2] : NULL;
	request.arg = args > 1 ? argv[optind + 3] : NULL;
	/* a reader of our output that leaves is an error to report, not the end */
	signal(SIGPIPE, SIG_IGN);
	status = check_name(&request);
	if (status == EX_OK)
		status = run(command, &request);
	if (fflush(stdout) != 0 && status == EX_OK)
		status = complain(EX_IOERR, "standard output: %s", strerror(errno));
	return status;
}
