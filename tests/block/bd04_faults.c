/* SPDX-License-Identifier: MIT */
/* ctest-labels: release */
/*
 * bd04_faults.c - short transfers, interruptions and errors between a completion and its bio,
 * on every backend, as root and as an ordinary user.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "testutil.h"

#define BLOCK 4096U
#define BLOCKS 64U
#define BYTES (BLOCKS * BLOCK)
#define VECS 7U
#define NOBODY 65534

/* ---- what is done to completions ---- */

struct fault {
	struct iomap_queue_faults faults;
	struct iomap_bdev *bdev;
	atomic_uint nr;	    /* completions seen */
	atomic_uint turned; /* of these, changed */
	/* how */
	int error;	  /* every `each`th one */
	unsigned each;	  /* 0: none */
	bool shorten;	  /* to half, in whole blocks */
	uint32_t only_op; /* UINT32_MAX: any */
};

static int64_t complete(void *ctx, struct iomap_bdev *bdev, uint32_t op, uint64_t addr,
			uint64_t len, int64_t res)
{
	struct fault *fault = ctx;
	unsigned n = atomic_fetch_add(&fault->nr, 1) + 1;

	t_must(bdev == fault->bdev);
	t_must(op == IOMAP_REQ_OP_FLUSH ? !addr && !len && res == 0 :
					  len && len % BLOCK == 0 && addr % BLOCK == 0 &&
						  addr + len <= BYTES && res == (int64_t)len);
	if (fault->only_op != UINT32_MAX && fault->only_op != op)
		return res;
	if (fault->each && n % fault->each == 0) {
		atomic_fetch_add(&fault->turned, 1);
		return fault->error;
	}
	if (fault->shorten && res >= 2 * (int64_t)BLOCK) {
		atomic_fetch_add(&fault->turned, 1);
		return res / 2 / BLOCK * BLOCK;
	}
	return res;
}

/* ---- engines ---- */

struct where {
	const char *backend;
	bool memory; /* a file in memory, whose I/O is done inline */
};

static const struct where wheres[] = {
	{ "io_uring", false },
	{ "libaio", false },
	{ "threads", false },
	{ "threads", true },
};

struct env {
	struct fault fault;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	char *path;
	struct t_log log;
};

static char *memory_file(void)
{
	char path[] = "/dev/shm/iomap-test-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0)
		return NULL;
	t_must(ftruncate(fd, BYTES) == 0);
	close(fd);
	return strdup(path);
}

/* False: there is no such backend here. */
static bool env_start(struct env *env, const struct where *where)
{
	struct iomap_engine_opts opts;

	memset(env, 0, sizeof(*env));
	env->fault.faults = (struct iomap_queue_faults){
		.size = sizeof(env->fault.faults),
		.ctx = &env->fault,
		.complete = complete,
	};
	env->fault.only_op = UINT32_MAX;
	t_log_init(&env->log);
	iomap_engine_opts_init(&opts);
	opts.backend = where->backend;
	opts.cache_bytes = 8U << 20;
	opts.queue_faults = &env->fault.faults;
	opts.log = t_log_line;
	opts.log_ctx = &env->log;
	opts.log_per_second = 1000000;
	/* a small limit on locked memory may be used up by rings of other processes */
	if (iomap_engine_create(&opts, &env->engine) != 0) {
		cr_assert(!strcmp(where->backend, "io_uring"), "%s", where->backend);
		return false;
	}
	env->path = where->memory ? memory_file() : t_temp(BYTES);
	t_must(env->path);
	cr_assert_eq(iomap_bdev_open(env->engine, env->path,
				     &(struct iomap_bdev_opts){
					     .size = sizeof(struct iomap_bdev_opts),
					     .flags = IOMAP_BDEV_BUFFERED,
				     },
				     &env->bdev),
		     0);
	env->fault.bdev = env->bdev;
	if (where->memory)
		cr_assert_str_eq(iomap_bdev_io_path(env->bdev), "inline");
	return true;
}

static void env_stop(struct env *env)
{
	cr_assert_eq(iomap_bdev_close(env->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(env->engine), 0);
	unlink(env->path);
	t_temp_free(env->path);
}

/* All of the file in VECS vectors that do not lie side by side. */
static int all(struct env *env, uint32_t opf, uint8_t *buf)
{
	struct iomap_bio *bio = iomap_bio_alloc(env->bdev, VECS, opf, NULL);
	size_t at = 0, bytes;
	int status;

	t_must(bio);
	for (unsigned i = 0; i < VECS; i++) {
		bytes = i == VECS - 1 ? BYTES - at : (1 + i * 3) * BLOCK;
		t_must(iomap_bio_add(bio, buf + at + i * BLOCK, bytes));
		at += bytes;
	}
	status = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return status;
}

static uint8_t *buffer(void)
{
	uint8_t *buf = aligned_alloc(BLOCK, BYTES + VECS * BLOCK);

	t_must(buf);
	memset(buf, 0, BYTES + VECS * BLOCK);
	return buf;
}

/* Written, flushed and read, whatever happens in between. */
static void arrives(struct env *env, unsigned seed, uint32_t flags)
{
	uint8_t *out = buffer(), *in = buffer(), gap[BLOCK] = { 0 };
	size_t at = 0;

	t_fill(out, BYTES + VECS * BLOCK, 0, seed);
	for (unsigned i = 0; i + 1 < VECS; i++) {
		at += (1 + i * 3) * BLOCK;
		memset(out + at + i * BLOCK, 0, BLOCK); /* between two vectors */
	}
	memset(out + BYTES + (VECS - 1) * BLOCK, 0, BLOCK);
	cr_assert_eq(all(env, IOMAP_REQ_OP_WRITE | flags, out), 0);
	cr_assert_eq(iomap_bdev_flush(env->bdev), 0);
	cr_assert_eq(all(env, IOMAP_REQ_OP_READ, in), 0);
	cr_assert_eq(memcmp(in, out, BYTES + VECS * BLOCK), 0);
	cr_assert_eq(memcmp(in + BYTES + (VECS - 1) * BLOCK, gap, BLOCK), 0);
	free(out);
	free(in);
}

/* ---- what each backend has to stand ---- */

static void short_transfers(struct env *env)
{
	env->fault.shorten = true;
	arrives(env, 1, 0);
	arrives(env, 2, IOMAP_REQ_FUA);
	arrives(env, 3, IOMAP_REQ_PREFLUSH);
	cr_assert_gt(atomic_load(&env->fault.turned), 10U);
	cr_assert_eq(t_log_count(&env->log, IOMAP_LOG_WARN, NULL), 0U);
}

static void interruptions(struct env *env)
{
	const int errors[] = { -EINTR, -EAGAIN, -ECANCELED };

	env->fault.shorten = true;
	for (unsigned i = 0; i < 3; i++) {
		env->fault.error = errors[i];
		for (env->fault.each = 2; env->fault.each < 5; env->fault.each++)
			arrives(env, i * 8 + env->fault.each, i ? IOMAP_REQ_PREFLUSH : 0);
	}
	cr_assert_gt(atomic_load(&env->fault.turned), 20U);
	cr_assert_eq(t_log_count(&env->log, IOMAP_LOG_WARN, NULL), 0U);
}

static void expect(struct env *env, uint32_t op, int error, int status)
{
	uint8_t *buf = buffer();

	env->fault.only_op = op;
	env->fault.error = error;
	env->fault.each = 1;
	if (op == IOMAP_REQ_OP_FLUSH)
		cr_assert_eq(all(env, IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH, buf), status);
	else
		cr_assert_eq(all(env, op, buf), status);
	env->fault.each = 0;
	free(buf);
}

/* The same for a read of one block, which may be repeated many times. */
static void expect_block(struct env *env, int error, int status)
{
	struct iomap_bio *bio = iomap_bio_alloc(env->bdev, 1, IOMAP_REQ_OP_READ, NULL);
	uint8_t *buf = buffer();

	t_must(bio && iomap_bio_add(bio, buf, BLOCK));
	env->fault.only_op = UINT32_MAX;
	env->fault.error = error;
	env->fault.each = 1;
	cr_assert_eq(iomap_submit_bio_wait(bio), status);
	env->fault.each = 0;
	iomap_bio_put(bio);
	free(buf);
}

static void errors_and_endless_retries(struct env *env)
{
	const uint32_t ops[] = { IOMAP_REQ_OP_READ, IOMAP_REQ_OP_WRITE, IOMAP_REQ_OP_FLUSH };

	for (unsigned i = 0; i < 3; i++) {
		expect(env, ops[i], -ENOSPC, -ENOSPC);
		expect(env, ops[i], -EIO, -EIO);
	}
	expect_block(env, -EINTR, -EIO);
	expect_block(env, -ECANCELED, -EIO);
	expect_block(env, -EAGAIN, -EAGAIN);
	/* neither of the ends of a file nor more than was asked for is success */
	expect(env, IOMAP_REQ_OP_READ, 0, -EIO);
	expect(env, IOMAP_REQ_OP_WRITE, 2 * BYTES, -EIO);
	cr_assert_geq(t_log_count(&env->log, IOMAP_LOG_ERROR, "failed"), 11U);
	arrives(env, 9, 0);
}

static void on_each(void (*fn)(struct env *env))
{
	struct env env;

	unsetenv("IOMAP_BACKEND");
	for (unsigned i = 0; i < sizeof(wheres) / sizeof(wheres[0]); i++) {
		if (!env_start(&env, &wheres[i]))
			continue;
		fn(&env);
		env_stop(&env);
	}
}

Test(bd04_faults, bd04_short_transfers_are_continued)
{
	on_each(short_transfers);
}

Test(bd04_faults, bd04_interrupted_and_cancelled_ones_are_asked_for_again)
{
	on_each(interruptions);
}

Test(bd04_faults, bd04_every_error_reaches_its_bio_and_no_retry_is_endless)
{
	on_each(errors_and_endless_retries);
}

/* ---- the same as somebody whom limits hold ---- */

static void as_nobody(rlim_t memlock)
{
	struct rlimit limit = { .rlim_cur = memlock, .rlim_max = memlock };

	if (geteuid() != 0)
		cr_skip_test("needs root to give it up");
	t_must(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	t_must(setresgid(NOBODY, NOBODY, NOBODY) == 0);
	t_must(setresuid(NOBODY, NOBODY, NOBODY) == 0);
	t_must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	/* its own files are to be had by it */
	t_must(setenv("IOMAP_TEST_DIR", "/var/tmp", 1) == 0);
	on_each(short_transfers);
	on_each(interruptions);
}

Test(bd04_faults, bd04_as_a_user_with_8_mib_of_locked_memory)
{
	as_nobody(8U << 20);
}

Test(bd04_faults, bd04_as_a_user_with_64_kib_of_locked_memory)
{
	as_nobody(65536);
}

Test(bd04_faults, bd04_as_a_user_without_locked_memory)
{
	as_nobody(0);
}

/* ---- the option ---- */

Test(bd04_faults, bd04_faults_without_a_function_are_refused)
{
	struct iomap_queue_faults faults = { .size = sizeof(faults) };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.queue_faults = &faults;
	cr_assert_eq(iomap_engine_create(&opts, &engine), -EINVAL);
	faults.complete = complete;
	faults.size = 0;
	cr_assert_eq(iomap_engine_create(&opts, &engine), -EINVAL);
	iomap_engine_opts_init(&opts);
	opts.register_pct = 101;
	cr_assert_eq(iomap_engine_create(&opts, &engine), -EINVAL);
}
