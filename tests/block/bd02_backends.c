/* SPDX-License-Identifier: MIT */
/*
 * bd02_backends.c - every backend by name, and what is taken where the better ones are denied.
 *
 * Each test is a process of its own, so it may deny itself system calls and give up root.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "testutil.h"

#define BYTES (1024U * 1024U)
#define NOBODY 65534

static int create(const char *backend, struct t_log *log, struct iomap_engine **engine)
{
	struct iomap_engine_opts opts;

	t_log_init(log);
	iomap_engine_opts_init(&opts);
	opts.backend = backend;
	opts.log = t_log_line;
	opts.log_ctx = log;
	return iomap_engine_create(&opts, engine);
}

static int one(struct iomap_bdev *bdev, uint32_t opf, void *buf, size_t bytes)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);
	int status;

	cr_assert(bio);
	bio->bi_iter.bi_sector = 16;
	cr_assert(iomap_bio_add(bio, buf, bytes));
	status = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return status;
}

/* I/O through the engine works; the engine is gone afterwards. */
static void use(struct iomap_engine *engine, const char *path)
{
	void *out = aligned_alloc(4096, 65536), *in = aligned_alloc(4096, 65536);
	struct iomap_bdev *bdev;

	cr_assert_eq(iomap_bdev_open(engine, path, NULL, &bdev), 0);
	t_fill(out, 65536, 0, 11);
	cr_assert_eq(one(bdev, IOMAP_REQ_OP_WRITE, out, 65536), 0);
	memset(in, 0, 65536);
	cr_assert_eq(one(bdev, IOMAP_REQ_OP_READ, in, 65536), 0);
	cr_assert_eq(memcmp(in, out, 65536), 0);
	cr_assert_eq(iomap_bdev_flush(bdev), 0);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	free(out);
	free(in);
}

/*
 * Skips where io_uring does not work to begin with, or may not: rings are charged to a small
 * limit on locked memory, together with those of other tests of the same user, and a ring
 * that has been closed is charged for a while yet.
 */
static void need_uring(void)
{
	struct iomap_engine *engine;
	struct rlimit memlock;
	struct t_log log;

	cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &memlock), 0);
	if (geteuid() != 0 && memlock.rlim_cur < (1U << 20))
		cr_skip_test("too little locked memory to be sure of a ring");
	unsetenv("IOMAP_BACKEND");
	if (create("io_uring", &log, &engine) != 0)
		cr_skip_test("io_uring does not work here");
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

static void named(const char *backend)
{
	struct iomap_engine *engine;
	char *path = t_temp(BYTES);
	struct t_log log;

	cr_assert_eq(create(backend, &log, &engine), 0);
	cr_assert_str_eq(iomap_engine_backend(engine), backend);
	use(engine, path);
	/* that memory cannot be registered would be of level INFO */
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_WARN, NULL), 0U);
	t_temp_free(path);
}

Test(bd02, bd02_io_uring_by_name)
{
	need_uring();
	named("io_uring");
}

Test(bd02, bd02_libaio_by_name)
{
	named("libaio");
}

Test(bd02, bd02_threads_by_name)
{
	named("threads");
}

Test(bd02, bd02_the_environment_names_a_backend_and_the_options_win)
{
	struct iomap_engine *engine;
	char *path = t_temp(BYTES);
	struct t_log log;

	setenv("IOMAP_BACKEND", "threads", 1);
	cr_assert_eq(create(NULL, &log, &engine), 0);
	cr_assert_str_eq(iomap_engine_backend(engine), "threads");
	use(engine, path);
	setenv("IOMAP_BACKEND", "nonsense", 1);
	cr_assert_eq(create(NULL, &log, &engine), -EINVAL);
	cr_assert_eq(create("threads", &log, &engine), 0);
	use(engine, path);
	t_temp_free(path);
}

Test(bd02, bd02_an_unknown_backend_is_refused)
{
	struct iomap_engine *engine;
	struct t_log log;

	cr_assert_eq(create("carrier pigeon", &log, &engine), -EINVAL);
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_ERROR, "carrier pigeon"), 1U);
}

/* @backend is what is left. */
static void left(const char *backend, const char *what)
{
	struct iomap_engine *engine;
	char *path = t_temp(BYTES);
	struct t_log log;

	cr_assert_eq(create(NULL, &log, &engine), 0);
	cr_assert_str_eq(iomap_engine_backend(engine), backend);
	cr_assert_eq(log.nr, 1U, "one line");
	cr_assert(strstr(log.line[0].text, what), "%s", log.line[0].text);
	cr_assert(strstr(log.line[0].text, backend), "%s", log.line[0].text);
	use(engine, path);
	t_temp_free(path);
}

/* Does not work by name, nor by the environment: there is no fallback. */
static void no_fallback(const char *backend, int error)
{
	struct iomap_engine *engine;
	struct t_log log;

	cr_assert_eq(create(backend, &log, &engine), -error, "by name");
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_ERROR, backend), 1U);
	setenv("IOMAP_BACKEND", backend, 1);
	cr_assert_eq(create(NULL, &log, &engine), -error, "by the environment");
	unsetenv("IOMAP_BACKEND");
}

static void denied(int nr, int error, const char *what)
{
	need_uring();
	t_deny(nr, error);
	left("libaio", what);
	no_fallback("io_uring", error);
}

Test(bd02, bd02_io_uring_denied_by_seccomp)
{
	denied(SYS_io_uring_setup, EPERM, "Operation not permitted");
}

Test(bd02, bd02_io_uring_missing_from_the_kernel)
{
	denied(SYS_io_uring_setup, ENOSYS, "Function not implemented");
}

Test(bd02, bd02_rings_that_may_be_set_up_but_not_entered)
{
	denied(SYS_io_uring_enter, EPERM, "io_uring_enter");
}

Test(bd02, bd02_no_memory_that_may_be_locked)
{
	denied(SYS_io_uring_setup, ENOMEM, "Cannot allocate memory");
}

/* With libaio gone as well. */
static void both_denied(int nr, int error, const char *what)
{
	unsetenv("IOMAP_BACKEND");
	t_deny(SYS_io_uring_setup, EPERM);
	t_deny(nr, error);
	left("threads", what);
	no_fallback("libaio", error);
}

Test(bd02, bd02_libaio_denied_by_seccomp)
{
	both_denied(SYS_io_setup, EPERM, "libaio does not work (io_setup: Operation not permitted)");
}

Test(bd02, bd02_no_context_of_libaio_left)
{
	both_denied(SYS_io_setup, EAGAIN, "io_setup");
}

Test(bd02, bd02_libaio_that_may_be_set_up_but_not_submitted_to)
{
	both_denied(SYS_io_submit, EPERM, "io_submit");
}

Test(bd02, bd02_libaio_that_may_be_set_up_but_not_waited_for)
{
	both_denied(SYS_io_getevents, EPERM, "io_getevents");
}

static void as_nobody(rlim_t memlock)
{
	struct rlimit limit = { .rlim_cur = memlock, .rlim_max = memlock };
	const char *backends[] = { NULL, "libaio", "threads" };
	char *path;

	if (geteuid() != 0)
		cr_skip_test("needs root to give it up");
	path = t_temp(BYTES);
	cr_assert_eq(chown(path, NOBODY, NOBODY), 0);
	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	cr_assert_eq(setresgid(NOBODY, NOBODY, NOBODY), 0);
	cr_assert_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
	/* or the leak checker cannot look at this process any more */
	cr_assert_eq(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), 0);
	/* what is taken by itself: io_uring by name may rightly fail here */
	unsetenv("IOMAP_BACKEND");
	for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		struct iomap_engine *engine;
		struct t_log log;

		cr_assert_eq(create(backends[i], &log, &engine), 0);
		cr_assert_leq(log.nr, 1U);
		use(engine, path);
	}
	t_temp_free(path);
}

Test(bd02, bd02_an_ordinary_user_without_locked_memory)
{
	as_nobody(0);
}

Test(bd02, bd02_an_ordinary_user_with_64_kib_of_locked_memory)
{
	as_nobody(65536);
}

/* Fallback of a system that has none of them: the error of the last one. */
Test(bd02, bd02_none_works)
{
	struct iomap_engine *engine;
	struct t_log log;

	unsetenv("IOMAP_BACKEND");
	t_deny(SYS_io_uring_setup, EPERM);
	t_deny(SYS_io_setup, EPERM);
	/* what the C library starts threads with; the leak checker needs the older clone() */
	t_deny(SYS_clone3, EAGAIN);
	cr_assert_eq(create(NULL, &log, &engine), -EAGAIN);
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_ERROR, "pthread_create"), 1U);
}
