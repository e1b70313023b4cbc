/* SPDX-License-Identifier: MIT */
/*
 * xs_killed.c - FY05 on a store: a process that is killed leaves a clean one, with what it had
 * been told was durable and nothing else.
 *
 * A child puts objects, and writes over one without a sync, and is killed after each number of
 * such steps in turn.  It notes in shared memory how many have been acknowledged.  Nothing is
 * dirty for so long, or so much, that the flusher would write it.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testutil.h"
#include "xst.h"

#define STORE_BYTES (4 << 20)
#define STEPS 12
#define LEN 10000

static void name_of(char *name, size_t size, unsigned n)
{
	snprintf(name, size, "object-%u", n);
}

static struct xs_store *open_file(const char *path, struct iomap_engine **engine,
				  struct iomap_bdev **bdev)
{
	*engine = xst_engine(4 << 20);
	XST_OK(iomap_bdev_open(*engine, path, NULL, bdev));
	return xst_open(*engine, *bdev);
}

static void close_all(struct xs_store *store, struct iomap_bdev *bdev, struct iomap_engine *engine)
{
	XST_OK(xs_close(store));
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
}

/* Put an object, durably; then write over it, and over the one before it, and do not sync. */
static void step(struct xs_store *store, unsigned n, _Atomic unsigned *done)
{
	unsigned char data[LEN];
	struct xs_object *object;
	char name[32];

	t_fill(data, LEN, 0, n + 1);
	name_of(name, sizeof(name), n);
	t_must(xst_put(store, name, data, LEN) == 0);
	atomic_store(done, n + 1);
	t_fill(data, LEN, 0, 1000 + n);
	t_must(xs_lookup(store, name, &object) == 0);
	t_must(xst_write(object, data, LEN, 0) == 0);
	t_must(xst_write(object, data, LEN, LEN) == 0);
	/* it stays open: its end would bring what is dirty to the device */
}

static void child(const char *path, unsigned steps, _Atomic unsigned *done)
{
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store = open_file(path, &engine, &bdev);

	for (unsigned n = 0; n < steps; n++)
		step(store, n, done);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static void look(const char *path, unsigned steps)
{
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store;
	char name[32];
	int64_t size;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	/* what io_uring holds of a dead process, with its lock, goes a moment after it */
	t_must(fd >= 0 && flock(fd, LOCK_EX) == 0);
	close(fd);
	store = open_file(path, &engine, &bdev);
	for (unsigned n = 0; n <= steps; n++) {
		unsigned char *data;

		name_of(name, sizeof(name), n);
		data = xst_get(store, name, &size);
		if (n == steps) {
			cr_assert_null(data);
			break;
		}
		cr_assert_eq(size, LEN, "%s: %lld bytes", name, (long long)size);
		cr_assert_eq(t_mismatch(data, LEN, 0, n + 1), -1, "%s", name);
		free(data);
	}
	XST_OK(xs_close(store));
	xst_check(bdev);
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
}

Test(xs_killed, fy05_a_killed_process_leaves_a_clean_store_with_what_was_synced)
{
	_Atomic unsigned *done = mmap(NULL, sizeof(*done), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *path = t_temp(STORE_BYTES);
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store;
	pid_t pid;
	int status;

	t_must(done != MAP_FAILED);
	for (unsigned n = 0; n <= STEPS; n++) {
		engine = xst_engine(4 << 20);
		XST_OK(iomap_bdev_open(engine, path, NULL, &bdev));
		XST_OK(xs_mkfs(bdev, 0, XST_ID));
		store = xst_open(engine, bdev);
		close_all(store, bdev, engine);
		atomic_store(done, 0);
		fflush(NULL);
		pid = fork();
		t_must(pid >= 0);
		if (!pid)
			child(path, n, done);
		t_must(waitpid(pid, &status, 0) == pid);
		cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		cr_assert_eq(atomic_load(done), n);
		look(path, n);
	}
	t_temp_free(path);
	munmap((void *)done, sizeof(*done));
}

/* Readahead fails, and whoever waited for it reads again. */
Test(xs_killed, a_file_that_is_cut_short_below_an_open_store_gives_errors)
{
	char *path = t_temp(STORE_BYTES);
	unsigned char data[LEN] = "data";
	struct iomap_engine *engine = xst_engine(4 << 20);
	struct iomap_bdev *bdev;
	struct xs_object *object;
	struct iomap_file *file;
	struct xs_store *store;

	XST_OK(iomap_bdev_open(engine, path, NULL, &bdev));
	XST_OK(xs_mkfs(bdev, 0, XST_ID));
	store = xst_open(engine, bdev);
	XST_OK(xst_put(store, "object", data, LEN));
	close_all(store, bdev, engine);
	store = open_file(path, &engine, &bdev);
	XST_OK(xs_lookup(store, "object", &object));
	XST_OK(iomap_file_open(&object->inode, 0, &file));
	t_must(truncate(path, 0) == 0);
	for (int64_t at = 0; at < LEN; at += XS_BLOCK_BYTES)
		cr_assert_eq(iomap_read(file, data, sizeof(data), at), -EIO);
	t_must(truncate(path, STORE_BYTES) == 0);
	iomap_file_close(file);
	XST_OK(xs_put(object));
	close_all(store, bdev, engine);
	t_temp_free(path);
}
