/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * en05.c - EN05: fork(): the child has nothing of an engine, is told so by every call, and the
 * parent does not notice.
 *
 * A child tells what it found by how it ends: t_must() ends it with a signal.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iomap/faulty.h>
#include <iomap/work.h>

#include "testpiece.h"

#define KIB 1024
#define SIZE (1024 * KIB)
#define HOT (256 * KIB) /* what readers read, cached */
#define CHUNK (4 * KIB)
#define FORKS 12
#define DIOS 8
#define SEED 5

struct fk {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev, *memory;
	struct iomap_inode inode;
	struct iomap_file *file, *direct;
	struct t_log log;
	char *path;
	atomic_bool stop;
	atomic_uint rounds, completed;
};

static struct tp piece = { .offset = 0, .length = SIZE };

static struct fk *set_up(uint32_t flags)
{
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &piece,
		.i_size = SIZE,
	};
	struct iomap_engine_opts opts;
	struct fk *fk = calloc(1, sizeof(*fk));
	void *data = malloc(SIZE);

	t_must(fk && data);
	t_fill(data, SIZE, 0, SEED);
	fk->path = t_temp(SIZE);
	t_temp_put(fk->path, data, SIZE);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = flags;
	t_log_init(&fk->log);
	fk->engine = t_engine(&opts, &fk->log);
	cr_assert_eq(iomap_bdev_open(fk->engine, fk->path, NULL, &fk->bdev), 0);
	cr_assert_eq(iomap_bdev_open_memory(fk->engine, SIZE, &fk->memory), 0);
	args.bdev = fk->bdev;
	cr_assert_eq(iomap_inode_init(fk->engine, &fk->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&fk->inode, 0, &fk->file), 0);
	cr_assert_eq(iomap_file_open(&fk->inode, IOMAP_O_DIRECT, &fk->direct), 0);
	cr_assert_eq(iomap_read(fk->file, data, HOT, 0), HOT);
	cr_assert_eq(t_mismatch(data, HOT, 0, SEED), -1);
	free(data);
	return fk;
}

static void tear_down(struct fk *fk)
{
	cr_assert_eq(iomap_file_close(fk->direct), 0);
	cr_assert_eq(iomap_file_close(fk->file), 0);
	cr_assert_eq(iomap_inode_destroy(&fk->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert_eq(iomap_bdev_close(fk->bdev), 0);
	cr_assert_eq(iomap_bdev_close(fk->memory), 0);
	cr_assert_eq(iomap_engine_destroy(fk->engine), 0);
	cr_assert_eq(t_log_count(&fk->log, IOMAP_LOG_WARN, NULL), 0U);
	t_temp_free(fk->path);
	free(fk);
}

/* Run fn(fk) in a child that @fork_fn makes; it must come to its end. */
static void in_child(struct fk *fk, void (*fn)(struct fk *fk), pid_t (*fork_fn)(void))
{
	int status = 0;
	pid_t pid = fork_fn();

	t_must(pid >= 0);
	if (!pid) {
		alarm(T_HANG_S); /* a lock that nobody gives back */
		fn(fk);
		_exit(0);
	}
	t_must(waitpid(pid, &status, 0) == pid);
	t_must(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* ---- what a child is told ---- */

static void end_io(struct iomap_bio *bio)
{
	*(int *)bio->bi_private = bio->bi_status;
}

static void no_work(struct iomap_work *work)
{
	(void)work;
	t_must(!"work of the parent's engine ran");
}

static void no_bio(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	(void)bdev, (void)bio;
	t_must(!"a device of the parent's engine was used");
}

static void no_line(void *ctx, const char *text)
{
	(void)ctx, (void)text;
	t_must(!"there was something to tell");
}

static void child_engine(struct fk *fk)
{
	struct iomap_feature feature;
	struct iomap_inode_stats inode_stats;
	struct iomap_engine_stats stats;
	struct iomap_work work;
	uint64_t bucket;

	t_must(iomap_engine_stats(fk->engine, &stats, sizeof(stats)) == -ECHILD);
	t_must(iomap_engine_histogram(fk->engine, IOMAP_HIST_READ, &bucket, 1) == -ECHILD);
	t_must(iomap_engine_dump(fk->engine, no_line, NULL) == -ECHILD);
	t_must(iomap_inode_stats(&fk->inode, &inode_stats, sizeof(inode_stats)) == -ECHILD);
	t_must(iomap_bdev_histogram(fk->bdev, IOMAP_HIST_FLUSH, &bucket, 1) == -ECHILD);
	t_must(iomap_engine_poll(fk->engine, 1, true) == -ECHILD);
	t_must(iomap_engine_poll_timeout(fk->engine) == -1);
	t_must(iomap_engine_fd(fk->engine) == -ECHILD);
	t_must(iomap_engine_shutdown(fk->engine, UINT64_MAX) == -ECHILD);
	t_must(iomap_engine_drop_cache(fk->engine) == 0);
	t_must(iomap_engine_set_cache_bytes(fk->engine, 1 << 20) == -ECHILD);
	t_must(iomap_sync_engine(fk->engine) == -ECHILD);
	t_must(iomap_features(fk->engine, &feature, sizeof(feature), 1) == -ECHILD);
	t_must(!strcmp(iomap_engine_backend(fk->engine), "none"));
	iomap_init_work(&work, no_work);
	t_must(!iomap_queue_work(fk->engine, &work));
	iomap_flush_work(fk->engine, &work);
	t_must(iomap_engine_destroy(fk->engine) == -ECHILD);
}

static void child_bdev(struct fk *fk)
{
	static const struct iomap_bdev_ops ops = { .submit_bio = no_bio };
	struct iomap_bdev *bdevs[] = { fk->bdev, fk->memory }, *bdev;
	static char data[CHUNK];
	struct iomap_bdev_stats stats;
	struct iomap_bio_set set;

	for (unsigned i = 0; i < 2; i++) {
		struct iomap_bio_vec vec = { data, sizeof(data) };
		struct iomap_bio bio = {
			.bi_bdev = bdevs[i], .bi_io_vec = &vec, .bi_vcnt = 1, .bi_max_vecs = 1,
			.bi_iter.bi_size = sizeof(data), .bi_end_io = end_io,
		};
		int status = 1;

		bio.bi_private = &status;
		iomap_submit_bio(&bio);
		t_must(status == -ECHILD);
		t_must(iomap_submit_bio_wait(&bio) == -ECHILD);
		t_must(!iomap_bio_alloc(bdevs[i], 1, IOMAP_REQ_OP_READ, NULL));
		t_must(iomap_bdev_flush(bdevs[i]) == -ECHILD);
		t_must(iomap_bdev_revalidate(bdevs[i]) == -ECHILD);
		t_must(iomap_bdev_discard(bdevs[i], 0, CHUNK) == -ECHILD);
		t_must(iomap_bdev_write_zeroes(bdevs[i], 0, CHUNK, 0) == -ECHILD);
		t_must(iomap_bdev_stats(bdevs[i], &stats, sizeof(stats)) == -ECHILD);
		t_must(iomap_bdev_bytes(bdevs[i]) == SIZE);
		iomap_bdev_set_gone(bdevs[i]);
		t_must(iomap_bdev_close(bdevs[i]) == -ECHILD);
	}
	t_must(!strcmp(iomap_bdev_io_path(fk->bdev), "none"));
	t_must(iomap_bdev_open(fk->engine, fk->path, NULL, &bdev) == -ECHILD);
	t_must(iomap_bdev_open_memory(fk->engine, SIZE, &bdev) == -ECHILD);
	t_must(iomap_bdev_create(fk->engine, &ops, SIZE, NULL, NULL, &bdev) == -ECHILD);
	t_must(iomap_faulty_create(fk->memory, NULL, &bdev) == -ECHILD);
	t_must(iomap_bio_set_init(&set, fk->engine, 0, 1) == -ECHILD);
}

static void no_complete(struct iomap_kiocb *iocb, long ret)
{
	(void)iocb, (void)ret;
	t_must(!"ki_complete ran in the child");
}

static ssize_t flagged_read(struct fk *fk, char *buf, size_t n, int64_t pos, unsigned flags)
{
	struct iomap_iov_iter to;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, fk->file, pos);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, buf, n);
	return iomap_file_read_iter(&iocb, &to);
}

static ssize_t flagged_write(struct fk *fk, char *buf, size_t n, unsigned flags)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, fk->file, 0);
	iocb.ki_flags |= flags;
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, n);
	return iomap_file_buffered_write(&iocb, &from, &tp_ops, NULL, NULL);
}

/* Small and large, of what is cached and what is not. */
static void child_flags(struct fk *fk)
{
	static const unsigned flags[] = { IOMAP_IOCB_NOWAIT, IOMAP_IOCB_DONTCACHE,
					  IOMAP_IOCB_CHECKED,
					  IOMAP_IOCB_DONTCACHE | IOMAP_IOCB_CHECKED };
	static char buf[HOT];

	for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		for (size_t n = 1; n <= HOT; n *= 512) {
			t_must(flagged_read(fk, buf, n, 0, flags[i]) == -ECHILD);
			t_must(flagged_read(fk, buf, n, SIZE / 2, flags[i]) == -ECHILD);
			t_must(flagged_write(fk, buf, n, flags[i]) == -ECHILD);
		}
		t_must(flagged_read(fk, buf, 1, SIZE, flags[i]) == -ECHILD);
	}
	t_must(iomap_fadvise(fk->file, 0, 0, IOMAP_ADV_WILLNEED) == -ECHILD);
	t_must(iomap_mapping_set_large_folios(&fk->inode.i_data) == -ECHILD);
	t_must(iomap_mapping_set_folio_order_range(&fk->inode.i_data, 0, 0) == -ECHILD);
}

static void child_file(struct fk *fk)
{
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &tp_aops };
	struct iomap_iter iter = { .inode = &fk->inode, .len = CHUNK };
	static _Alignas(CHUNK) char buf[CHUNK];
	struct iovec iov = { buf, sizeof(buf) };
	struct iomap_iov_iter it;
	struct iomap_kiocb iocb;
	struct iomap_inode inode;
	struct iomap_file *file;

	/* cached, where it ends, and not cached */
	t_must(iomap_read(fk->file, buf, CHUNK, 0) == -ECHILD);
	t_must(iomap_read(fk->file, buf, CHUNK, HOT - CHUNK) == -ECHILD);
	t_must(iomap_read(fk->file, buf, CHUNK, SIZE - CHUNK) == -ECHILD);
	t_must(iomap_read(fk->file, buf, CHUNK, SIZE) == -ECHILD);
	t_must(iomap_readv(fk->file, &iov, 1, 0) == -ECHILD);
	t_must(iomap_read(fk->direct, buf, CHUNK, 0) == -ECHILD);
	t_must(iomap_write(fk->file, buf, CHUNK, 0) == -ECHILD);
	t_must(iomap_write(fk->direct, buf, CHUNK, 0) == -ECHILD);
	iomap_iov_iter_ubuf(&it, IOMAP_ITER_SOURCE, buf, CHUNK);
	iomap_kiocb_init(&iocb, fk->file, 0);
	t_must(iomap_file_buffered_write(&iocb, &it, &tp_ops, NULL, NULL) == -ECHILD);
	iomap_kiocb_init(&iocb, fk->direct, 0);
	iocb.ki_complete = no_complete;
	t_must(iomap_dio_rw(&iocb, &it, &tp_ops, NULL, 0, NULL, 0) == -ECHILD);
	t_must(iomap_iter(&iter, &tp_ops) == -ECHILD);
	t_must(iomap_truncate(fk->file, 1) == -ECHILD);
	t_must(iomap_file_fsync(fk->file, 0) == -ECHILD);
	t_must(iomap_sync_range(fk->file, 0, CHUNK, IOMAP_SYNC_WRITE) == -ECHILD);
	t_must(iomap_file_check_and_advance_wb_err(fk->file) == -ECHILD);
	t_must(iomap_invalidate_inode_pages(&fk->inode, 0, INT64_MAX) == 0);
	t_must(!iomap_filemap_get_folio(&fk->inode.i_data, 0));
	iomap_truncate_pagecache(&fk->inode, 0);
	iomap_inode_dio_wait(&fk->inode);
	iomap_writeback_resume(&fk->inode);
	t_must(iomap_file_inode(fk->file) == &fk->inode);
	t_must(iomap_i_size_read(&fk->inode) == SIZE);
	t_must(iomap_inode_init(fk->engine, &inode, &args) == -ECHILD);
	t_must(iomap_file_open(&fk->inode, 0, &file) == -ECHILD);
	t_must(iomap_file_close(fk->file) == -ECHILD);
	t_must(iomap_inode_destroy(&fk->inode, IOMAP_DESTROY_DISCARD) == -ECHILD);
}

static void child_all(struct fk *fk)
{
	child_flags(fk);
	child_file(fk);
	child_bdev(fk);
	child_engine(fk);
}

/* ---- the parent meanwhile ---- */

static long reader(void *arg)
{
	struct fk *fk = arg;
	char buf[CHUNK];

	for (unsigned n = 0; !atomic_load(&fk->stop); n++) {
		int64_t pos = n * 7 % (HOT / CHUNK) * CHUNK;

		t_must(iomap_read(fk->file, buf, CHUNK, pos) == CHUNK);
		t_must(t_mismatch(buf, CHUNK, pos, SEED) == -1);
		atomic_fetch_add(&fk->rounds, 1);
	}
	return 0;
}

/* Rewrites the second quarter, durably, and drops and reads it again. */
static long writer(void *arg)
{
	struct fk *fk = arg;
	char *buf = malloc(HOT);

	t_must(buf != NULL);
	for (unsigned n = 0; !atomic_load(&fk->stop); n++) {
		t_fill(buf, HOT, HOT, n);
		t_must(iomap_write(fk->file, buf, HOT, HOT) == HOT);
		t_must(iomap_file_fsync(fk->file, 0) == 0);
		(void)iomap_invalidate_inode_pages(&fk->inode, HOT, 2 * HOT);
		t_must(iomap_read(fk->file, buf, HOT, HOT) == HOT);
		t_must(t_mismatch(buf, HOT, HOT, n) == -1);
		atomic_fetch_add(&fk->rounds, 1);
	}
	free(buf);
	return 0;
}

struct dio {
	struct iomap_kiocb iocb; /* first */
	struct fk *fk;
	int64_t pos;
	void *buf;
};

static void dio_complete(struct iomap_kiocb *iocb, long ret)
{
	struct dio *dio = (struct dio *)(void *)iocb;

	t_must(ret == CHUNK);
	t_must(t_mismatch(dio->buf, CHUNK, dio->pos, SEED) == -1);
	atomic_fetch_add(&dio->fk->completed, 1);
}

/* Reads of the last half, past the cache; return: those that are under way. */
static unsigned dio_start(struct dio *dio, struct fk *fk)
{
	unsigned queued = 0;

	for (unsigned i = 0; i < DIOS; i++, dio++) {
		struct iomap_iov_iter to;
		ssize_t ret;

		dio->fk = fk;
		dio->pos = SIZE / 2 + i * CHUNK;
		memset(dio->buf, 0, CHUNK);
		iomap_kiocb_init(&dio->iocb, fk->direct, dio->pos);
		dio->iocb.ki_complete = dio_complete;
		iomap_iov_iter_ubuf(&to, IOMAP_ITER_DEST, dio->buf, CHUNK);
		ret = iomap_dio_rw(&dio->iocb, &to, &tp_ops, NULL, 0, NULL, 0);
		t_must(ret == -IOMAP_EIOCBQUEUED || ret == CHUNK);
		queued += ret == -IOMAP_EIOCBQUEUED;
	}
	return queued;
}

static void wait_for(atomic_uint *what, unsigned nr)
{
	while (atomic_load(what) < nr)
		sched_yield();
}

Test(en05, en05_each_call_of_a_child_is_refused_and_the_parent_goes_on)
{
	struct fk *fk = set_up(0);
	struct t_task tasks[3];
	struct dio dios[DIOS];
	unsigned queued = 0;

	for (unsigned i = 0; i < DIOS; i++)
		t_must(posix_memalign(&dios[i].buf, 4096, CHUNK) == 0);
	t_start(&tasks[0], reader, fk);
	t_start(&tasks[1], reader, fk);
	t_start(&tasks[2], writer, fk);
	for (unsigned n = 0; n < FORKS; n++) {
		wait_for(&fk->rounds, atomic_load(&fk->rounds) + 3);
		queued += dio_start(dios, fk);
		in_child(fk, child_all, fork);
		wait_for(&fk->completed, queued);
	}
	atomic_store(&fk->stop, true);
	for (unsigned i = 0; i < 3; i++)
		t_join(&tasks[i]);
	cr_assert_eq(atomic_load(&fk->completed), queued);
	for (unsigned i = 0; i < DIOS; i++)
		free(dios[i].buf);
	tear_down(fk);
}

/* No handler of pthread_atfork() runs there. */
Test(en05, en05_a_child_that_was_made_past_libc_is_refused_too)
{
	struct fk *fk;

	if (T_SANITIZED)
		cr_skip_test("sanitizers need to know of a fork");
	fk = set_up(IOMAP_ENGINE_NO_THREADS);
	in_child(fk, child_all, _Fork);
	tear_down(fk);
}

/* ---- what a child has ---- */

static const void *folio_memory;

static void child_has_no_folios(struct fk *fk)
{
	unsigned char present;

	(void)fk;
	t_must(mincore((void *)((uintptr_t)folio_memory & ~(uintptr_t)4095), 4096, &present) == -1);
	t_must(errno == ENOMEM);
}

Test(en05, en05_folio_memory_is_not_inherited)
{
	struct fk *fk = set_up(IOMAP_ENGINE_NO_THREADS);
	struct iomap_folio *folio = iomap_filemap_get_folio(&fk->inode.i_data, 0);

	cr_assert(folio);
	folio_memory = iomap_folio_address(folio);
	in_child(fk, child_has_no_folios, fork);
	cr_assert_eq(t_mismatch(folio_memory, CHUNK, 0, SEED), -1);
	iomap_folio_put(folio);
	tear_down(fk);
}

static void child_own_engine(struct fk *fk)
{
	struct fk *own = calloc(1, sizeof(*own));
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &tp_inode_ops, .i_private = &piece,
	};
	struct iomap_engine_opts opts;
	char buf[CHUNK];

	t_must(own != NULL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 8;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_must(iomap_engine_create(&opts, &own->engine) == 0);
	t_must(iomap_bdev_open_memory(own->engine, SIZE, &own->bdev) == 0);
	args.bdev = own->bdev;
	t_must(iomap_inode_init(own->engine, &own->inode, &args) == 0);
	t_must(iomap_file_open(&own->inode, 0, &own->file) == 0);
	for (int64_t pos = 0; pos < SIZE; pos += CHUNK) {
		t_fill(buf, CHUNK, pos, 1);
		t_must(iomap_write(own->file, buf, CHUNK, pos) == CHUNK);
	}
	t_must(iomap_file_fsync(own->file, 0) == 0);
	t_must(iomap_invalidate_inode_pages(&own->inode, 0, INT64_MAX) > 0);
	for (int64_t pos = 0; pos < SIZE; pos += CHUNK) {
		t_must(iomap_read(own->file, buf, CHUNK, pos) == CHUNK);
		t_must(t_mismatch(buf, CHUNK, pos, 1) == -1);
	}
	t_must(iomap_read(fk->file, buf, CHUNK, 0) == -ECHILD);
	t_must(iomap_file_close(own->file) == 0);
	/* referenced: it looks twice, after all readers that it believes there are have gone */
	t_must(iomap_filemap_get_folio(&own->inode.i_data, 0) != NULL);
	t_must(iomap_inode_destroy(&own->inode, 0) == -EBUSY);
	_exit(0);
}

/* Readers are in read sections at the moment of the fork, and never leave them in the child. */
Test(en05, en05_a_child_can_have_an_engine_of_its_own)
{
	struct fk *fk = set_up(0);
	struct t_task tasks[2];

	t_start(&tasks[0], reader, fk);
	t_start(&tasks[1], reader, fk);
	for (unsigned n = 0; n < FORKS; n++) {
		wait_for(&fk->rounds, atomic_load(&fk->rounds) + 3);
		in_child(fk, child_own_engine, fork);
	}
	atomic_store(&fk->stop, true);
	t_join(&tasks[0]);
	t_join(&tasks[1]);
	tear_down(fk);
}

/* ---- descriptors ---- */

/* What /proc/self/fd of a program says that a child becomes. */
static char *exec_lists_descriptors(void)
{
	size_t used = 0, room = 64 * KIB;
	char *text = calloc(1, room);
	int pipes[2], status;
	ssize_t got;
	pid_t pid;

	t_must(text && pipe(pipes) == 0);
	pid = fork();
	t_must(pid >= 0);
	if (!pid) {
		dup2(pipes[1], STDOUT_FILENO);
		execl("/bin/ls", "ls", "-l", "/proc/self/fd", (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	while ((got = read(pipes[0], text + used, room - 1 - used)) > 0)
		used += (size_t)got;
	close(pipes[0]);
	t_must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
	return text;
}

Test(en05, en05_a_program_that_a_child_becomes_has_none_of_the_descriptors)
{
	const char *names[] = { "anon_inode", "io_uring", "iomap-test-" };
	struct fk *fk;
	char *text = exec_lists_descriptors();

	for (unsigned i = 0; i < 3; i++)
		if (strstr(text, names[i]))
			cr_skip_test("what runs the test has such descriptors: %s", names[i]);
	free(text);
	fk = set_up(0);
	cr_assert(iomap_engine_fd(fk->engine) >= 0);
	text = exec_lists_descriptors();
	for (unsigned i = 0; i < 3; i++)
		cr_assert(!strstr(text, names[i]), "%s", text);
	free(text);
	tear_down(fk);
}

/* A child that lives on keeps neither the device nor the engine from being closed and opened. */
Test(en05, en05_a_child_that_stays_holds_nothing_of_the_parents)
{
	struct fk *fk = set_up(0);
	int pipes[2], status;
	char byte;
	pid_t pid;

	t_must(pipe(pipes) == 0);
	pid = fork();
	t_must(pid >= 0);
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &byte, 1) == 0 ? 0 : 1);
	}
	cr_assert_eq(iomap_file_close(fk->direct), 0);
	cr_assert_eq(iomap_file_close(fk->file), 0);
	cr_assert_eq(iomap_inode_destroy(&fk->inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(fk->bdev), 0);
	cr_assert_eq(iomap_bdev_open(fk->engine, fk->path, NULL, &fk->bdev), 0);
	cr_assert_eq(iomap_bdev_close(fk->bdev), 0);
	cr_assert_eq(iomap_bdev_close(fk->memory), 0);
	cr_assert_eq(iomap_engine_destroy(fk->engine), 0);
	close(pipes[0]);
	close(pipes[1]);
	t_must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
	t_temp_free(fk->path);
	free(fk);
}

/* The answer costs those nothing who need none: no system call, no lock in a hit. */
Test(en05, en05_hits_ask_nobody_whether_there_was_a_fork)
{
	struct fk *fk = set_up(IOMAP_ENGINE_NO_THREADS);
	struct iomap_debug_counters before, after;
	char buf[CHUNK];

	if (!t_debug())
		cr_skip_test("no counters in this build");
	in_child(fk, child_all, fork);
	before = t_counters();
	for (int64_t pos = 0; pos < HOT; pos += CHUNK)
		cr_assert_eq(iomap_read(fk->file, buf, CHUNK, pos), CHUNK);
	after = t_counters();
	cr_assert_eq(after.syscalls_nr, before.syscalls_nr);
	cr_assert_eq(after.locks_nr, before.locks_nr);
	tear_down(fk);
}

/* Where the kernel has no MADV_WIPEONFORK the engine works, and says what a child must not do. */
Test(en05, en05_without_wiping_there_is_a_warning)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct t_log log;

	t_deny(SYS_madvise, EINVAL);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	t_log_init(&log);
	engine = t_engine(&opts, &log);
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_WARN, "MADV_WIPEONFORK"), 1U);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}
