/* SPDX-License-Identifier: MIT */
/* tool_meta.c - the commands of the xstore program that move no data. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

int tool_ls(struct session *session)
{
	struct xs_info info;

	json_array("objects");
	for (size_t n = 0; xs_info_nth(session->store, n, &info) == 0; n++) {
		if (!json_wanted()) {
			printf("%12" PRIu64 " %s\n", info.size, printable(info.name));
			continue;
		}
		json_object(NULL);
		json_name("name", info.name);
		json_number("size", info.size);
		json_number("extents", info.extents_nr);
		json_end();
	}
	json_end();
	return EX_OK;
}

static void say_number(const char *what, const char *key, uint64_t number)
{
	json_number(key, number);
	if (!json_wanted())
		printf("%s %" PRIu64 "\n", what, number);
}

int tool_stat(struct session *session)
{
	struct xs_usage usage;
	struct xs_info info;
	int error;

	if (!session->request->name) {
		xs_usage(session->store, &usage);
		say_number("blocks", "blocks", usage.blocks);
		say_number("block size", "block_size", XS_BLOCK_BYTES);
		say_number("free", "free", usage.free_nr);
		say_number("shared", "shared", usage.shared_nr);
		say_number("metadata", "metadata", usage.meta_nr);
		say_number("objects", "objects", usage.objects_nr);
		say_number("generation", "generation", usage.generation);
		return EX_OK;
	}
	error = xs_info(session->store, session->request->name, &info);
	if (error)
		return complain_error(session->request->name, error, NULL);
	json_name("name", info.name);
	if (!json_wanted())
		printf("name %s\n", printable(info.name));
	say_number("id", "id", info.id);
	say_number("size", "size", info.size);
	say_number("extents", "extents", info.extents_nr);
	say_number("written", "written", info.data_blocks_nr << XS_BLOCK_SHIFT);
	say_number("unwritten", "unwritten", info.unwritten_blocks_nr << XS_BLOCK_SHIFT);
	say_number("shared", "shared", info.shared_blocks_nr << XS_BLOCK_SHIFT);
	return EX_OK;
}

/* @disk: NULL for a hole. */
static void say_extent(uint64_t file, uint64_t nr, const char *kind, const uint64_t *disk,
		       bool shared)
{
	if (json_wanted()) {
		json_object(NULL);
		json_number("offset", file << XS_BLOCK_SHIFT);
		json_number("length", nr << XS_BLOCK_SHIFT);
		json_name("kind", kind);
		if (disk)
			json_number("address", *disk << XS_BLOCK_SHIFT);
		if (shared)
			json_bool("shared", true);
		json_end();
		return;
	}
	printf("%12" PRIu64 " %12" PRIu64 " %s", file << XS_BLOCK_SHIFT, nr << XS_BLOCK_SHIFT,
	       kind);
	if (disk)
		printf(" at %" PRIu64, *disk << XS_BLOCK_SHIFT);
	puts(shared ? " shared" : "");
}

int tool_map(struct session *session)
{
	struct xs_extent *extents;
	uint64_t at = 0;
	bool *shared;
	size_t nr;
	int error = xs_pieces(session->store, session->request->name, &extents, &shared, &nr);

	if (error)
		return complain_error(session->request->name, error, NULL);
	json_name("name", session->request->name);
	json_array("extents");
	for (size_t i = 0; i < nr; i++) {
		if (extents[i].file > at)
			say_extent(at, extents[i].file - at, "hole", NULL, false);
		say_extent(extents[i].file, extents[i].nr,
			   extents[i].unwritten ? "unwritten" : "data", &extents[i].disk,
			   shared[i]);
		at = xs_extent_end(&extents[i]);
	}
	json_end();
	free(extents);
	free(shared);
	return EX_OK;
}

int tool_rm(struct session *session)
{
	int error = xs_unlink(session->store, session->request->name);

	json_name("name", session->request->name);
	if (!error)
		error = xs_commit(session->store);
	return error ? complain_error(session->request->name, error, NULL) : EX_OK;
}

bool parse_size(const char *text, uint64_t *out)
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

int tool_truncate(struct session *session)
{
	const char *name = session->request->name;
	struct opened opened;
	uint64_t size;
	int error, closing;

	if (!parse_size(session->request->arg, &size))
		return complain(EX_USAGE, "'%s' is not a size", printable(session->request->arg));
	error = open_object(session->store, name, false, &opened);
	if (error)
		return complain_error(name, error, NULL);
	error = iomap_truncate(opened.file, (int64_t)size);
	if (!error)
		error = iomap_file_fsync(opened.file, 0);
	closing = close_object(&opened);
	if (!error)
		error = closing;
	json_name("name", name);
	json_number("size", size);
	return error ? complain_error(name, error, NULL) : EX_OK;
}

int tool_check(struct session *session)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;
	int error = xs_check(session->bdev, &counts, &why);

	json_bool("ok", !error);
	if (error)
		return complain_error(session->request->path, error, &why);
	json_number("bytes", counts.bytes);
	json_number("data_bytes", counts.data_bytes);
	json_number("meta_bytes", counts.meta_bytes);
	json_number("free_bytes", counts.free_bytes);
	json_number("shared_bytes", counts.shared_bytes);
	json_number("objects", counts.objects_nr);
	json_number("generation", counts.generation);
	return EX_OK;
}

/* ---- mkfs ---- */

/* Whether there is a store, damaged or not. */
static bool is_store(struct session *session)
{
	struct xs_why why = { .text = "" };
	struct xs_counts counts;

	return xs_check(session->bdev, &counts, &why) != XS_ENOTSTORE;
}

int tool_mkfs(struct session *session)
{
	const struct request *request = session->request;
	uint64_t id, bytes = request->size ? request->size : iomap_bdev_bytes(session->bdev);
	int error;

	if (!(request->given & OPTION_FORCE) && is_store(session))
		return complain(EX_CANTCREAT, "%s: is a store already (--force)",
				printable(request->path));
	if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return complain(EX_OSERR, "no random numbers: %s", strerror(errno));
	error = xs_mkfs(session->bdev, request->size, id);
	if (error == -ENOSPC && bytes > iomap_bdev_bytes(session->bdev))
		return complain(EX_CANTCREAT, "%s: too small: %" PRIu64 " of %" PRIu64 " bytes",
				printable(request->path), iomap_bdev_bytes(session->bdev), bytes);
	if (error == -ENOSPC)
		return complain(EX_CANTCREAT, "%s: too small: a store has at least %u bytes",
				printable(request->path), XS_BLOCKS_MIN * XS_BLOCK_BYTES);
	json_number("bytes", bytes);
	return error ? complain_error(request->path, error, NULL) : EX_OK;
}

/* Return: 0 or an errno. */
static int extend(int fd, const struct request *request)
{
	/* what is going to be imported needs its space anyway: a full disk shows now */
	if (request->for_dir && fallocate(fd, 0, 0, (off_t)request->size) == 0)
		return 0;
	if (request->for_dir && errno != EOPNOTSUPP && errno != ENOSYS)
		return errno;
	return ftruncate(fd, (off_t)request->size) == 0 ? 0 : errno;
}

/*
 * A file that is not there, or empty, gets the size that was asked for.  So does a shorter one
 * with --force; without, it may be a store, which is not to change.
 */
static int prepare_file(const struct request *request)
{
	int fd = open(request->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	struct stat found;
	int error = 0;

	if (fd < 0)
		return complain(status_of_errno(errno, EX_CANTCREAT), "%s: %s",
				printable(request->path), strerror(errno));
	if (fstat(fd, &found) != 0)
		error = errno;
	else if (S_ISREG(found.st_mode) && (uint64_t)found.st_size < request->size &&
		 (!found.st_size || request->given & OPTION_FORCE))
		error = extend(fd, request);
	close(fd);
	return error ? complain(EX_CANTCREAT, "%s: %s", printable(request->path), strerror(error)) :
		       EX_OK;
}

int mkfs_prepare(struct request *request)
{
	struct tree tree;
	int status;

	if (request->for_dir) {
		status = tree_scan(request->for_dir, request->path, &tree);
		request->size = tree_store_bytes(&tree);
		tree_free(&tree);
		if (status != EX_OK)
			return status;
	}
	return request->size ? prepare_file(request) : EX_OK;
}
