/* SPDX-License-Identifier: MIT */
/*
 * en09.c - EN09: what there is, and why the rest is not.
 *
 * Each test is a process of its own, so it may deny itself system calls.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "testutil.h"

#define NR 32

/* The feature of that name; the test fails when there is none. */
static struct iomap_feature feature(struct iomap_engine *engine, const char *name)
{
	struct iomap_feature all[NR];
	int nr = iomap_features(engine, all, sizeof(all[0]), NR);

	cr_assert(nr > 0 && nr <= NR);
	for (int i = 0; i < nr; i++) {
		cr_assert_not_null(all[i].name);
		cr_assert(all[i].available == 0 || all[i].available == 1);
		cr_assert(memchr(all[i].detail, 0, sizeof(all[i].detail)));
		/* EN09: for what is not available, why */
		if (!all[i].available)
			cr_assert(*all[i].detail, "%s", all[i].name);
		if (!strcmp(all[i].name, name))
			return all[i];
	}
	cr_assert_fail("no feature %s", name);
	return all[0];
}

static struct iomap_engine *engine_with(const char *backend, struct t_log *log)
{
	struct iomap_engine *engine = NULL;
	struct iomap_engine_opts opts;

	t_log_init(log);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.backend = backend;
	opts.log = t_log_line;
	opts.log_ctx = log;
	cr_assert_eq(iomap_engine_create(&opts, &engine), 0);
	return engine;
}

/* What the engine says of its backend agrees with its name. */
static void uses(struct iomap_engine *engine, const char *name)
{
	static const char *const backends[] = { "io_uring", "libaio", "threads" };

	cr_assert_str_eq(iomap_engine_backend(engine), name);
	cr_assert_str_eq(feature(engine, "backend").detail, name);
	cr_assert_eq(feature(engine, "backend").available, 1);
	cr_assert_eq(feature(engine, name).available, 1);
	for (unsigned i = 0; i < 3; i++)
		if (strcmp(backends[i], name))
			cr_assert_eq(feature(engine, backends[i]).available, 0);
}

Test(en09, en09_the_version_is_that_of_the_headers)
{
	char version[32];

	snprintf(version, sizeof(version), "%d.%d.%d", IOMAP_VERSION_MAJOR, IOMAP_VERSION_MINOR,
		 IOMAP_VERSION_PATCH);
	cr_assert_str_eq(iomap_version(), version);
}

Test(en09, en09_the_list_can_be_counted_and_cut)
{
	struct iomap_feature one, all[NR];
	int nr = iomap_features(NULL, NULL, 0, 0);

	cr_assert_geq(nr, 9);
	cr_assert_eq(iomap_features(NULL, all, sizeof(all[0]), NR), nr);
	memset(&all[1], 0x5a, sizeof(all[1]));
	one = all[1];
	cr_assert_eq(iomap_features(NULL, all, sizeof(all[0]), 1), nr);
	cr_assert_eq(memcmp(&all[1], &one, sizeof(one)), 0);
	cr_assert_eq(iomap_features(NULL, NULL, sizeof(one), 1), -EINVAL);
	cr_assert_eq(iomap_features(NULL, &one, 4, 1), -EINVAL);
}

Test(en09, en09_elements_of_other_versions_are_filled_as_far_as_they_go)
{
	struct {
		struct iomap_feature known;
		uint64_t later;
	} longer[NR];
	struct {
		const char *name;
		int available;
		char detail[20];
	} shorter[NR];
	struct iomap_feature all[NR];
	int nr = iomap_features(NULL, all, sizeof(all[0]), NR);

	memset(longer, 0x5a, sizeof(longer));
	memset(shorter, 0x5a, sizeof(shorter));
	cr_assert_eq(iomap_features(NULL, &longer[0].known, sizeof(longer[0]), NR), nr);
	cr_assert_eq(iomap_features(NULL, (struct iomap_feature *)(void *)shorter,
				    sizeof(shorter[0]), NR), nr);
	for (int i = 0; i < nr; i++) {
		cr_assert_eq(memcmp(&longer[i].known, &all[i], sizeof(all[i])), 0);
		cr_assert_eq(longer[i].later, 0U);
		cr_assert_eq(shorter[i].name, all[i].name);
		cr_assert_eq(shorter[i].available, all[i].available);
		cr_assert_eq(memcmp(shorter[i].detail, all[i].detail, 20), 0);
	}
}

Test(en09, en09_an_engine_says_which_backend_it_uses)
{
	struct iomap_engine *engine;
	struct t_log log;

	engine = engine_with("threads", &log);
	uses(engine, "threads");
	/* what only another one has is said not to be there */
	cr_assert_eq(feature(engine, "registered_buffers").available, 0);
	cr_assert(strstr(feature(engine, "registered_files").detail, "threads"));
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(en09, en09_the_environment_names_the_backend)
{
	const char *name = getenv("IOMAP_BACKEND");
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct t_log log;

	if (!name || !*name)
		setenv("IOMAP_BACKEND", name = "threads", 1);
	iomap_engine_opts_init(&opts);
	/* skips where the machine has not got it */
	engine = t_engine(&opts, &log);
	uses(engine, name);
	cr_assert_str_eq(feature(NULL, "backend").detail, name);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(en09, en09_a_name_that_is_no_backend_is_none)
{
	setenv("IOMAP_BACKEND", "carrier pigeon", 1);
	cr_assert_eq(feature(NULL, "backend").available, 0);
	cr_assert_eq(feature(NULL, "threads").available, 1);
}

static void denied(int nr, int error, const char *what, const char *why)
{
	struct iomap_engine *engine;
	struct iomap_feature f;
	struct t_log log;

	unsetenv("IOMAP_BACKEND");
	t_deny(nr, error);
	f = feature(NULL, "io_uring");
	cr_assert_eq(f.available, 0);
	if (nr == SYS_io_uring_enter && strstr(f.detail, "RLIMIT_MEMLOCK"))
		cr_skip_test("no ring can be had that could be denied: %s", f.detail);
	cr_assert(strstr(f.detail, what), "%s", f.detail);
	cr_assert(strstr(f.detail, why), "%s", f.detail);
	cr_assert_eq(feature(NULL, "threads").available, 1);
	cr_assert_str_neq(feature(NULL, "backend").detail, "io_uring");

	engine = engine_with(NULL, &log);
	uses(engine, iomap_engine_backend(engine));
	f = feature(engine, "io_uring");
	cr_assert_eq(f.available, 0);
	cr_assert(strstr(f.detail, what), "%s", f.detail);
	cr_assert(strstr(f.detail, why), "%s", f.detail);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(en09, en09_io_uring_denied_by_seccomp_says_so)
{
	denied(SYS_io_uring_setup, EPERM, "Operation not permitted", "seccomp");
}

Test(en09, en09_io_uring_that_may_not_be_entered_says_so)
{
	denied(SYS_io_uring_enter, EACCES, "io_uring_enter", "seccomp");
}

Test(en09, en09_no_memory_to_lock_says_so)
{
	denied(SYS_io_uring_setup, ENOMEM, "Cannot allocate memory", "RLIMIT_MEMLOCK");
}

static bool fail_rings(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind == IOMAP_FAIL_RING_SETUP;
}

/* The process could, this engine could not: its own reason is told. */
Test(en09, en09_an_engine_tells_its_own_reason)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	struct iomap_feature f;
	struct t_log log;

	unsetenv("IOMAP_BACKEND");
	if (!feature(NULL, "io_uring").available)
		cr_skip_test("io_uring does not work here");
	t_log_init(&log);
	iomap_engine_opts_init(&opts);
	opts.log = t_log_line;
	opts.log_ctx = &log;
	opts.fail_nth = fail_rings;
	cr_assert_eq(iomap_engine_create(&opts, &engine), 0);
	f = feature(engine, "io_uring");
	cr_assert_eq(f.available, 0);
	cr_assert(strstr(f.detail, "Cannot allocate memory"), "%s", f.detail);
	cr_assert_eq(feature(NULL, "io_uring").available, 1);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

/* Probed once: a second question makes no system call for it. */
Test(en09, en09_the_process_is_probed_once)
{
	struct iomap_feature before;

	before = feature(NULL, "threads");
	cr_assert_eq(before.available, 1);
	/* what the C library starts threads with */
	t_deny(SYS_clone3, EAGAIN);
	cr_assert_eq(feature(NULL, "threads").available, 1);
}

Test(en09, en09_what_is_not_built_says_so)
{
	cr_assert_eq(feature(NULL, "dax").available, 0);
	cr_assert(strstr(feature(NULL, "dax").detail, "not built"));
	cr_assert_eq(feature(NULL, "mmap").available, 0);
	cr_assert(strstr(feature(NULL, "mmap").detail, "userfaultfd"));
	cr_assert_eq(feature(NULL, "fua").available, 1);
}

static long ask(void *arg)
{
	(void)arg;
	return feature(NULL, "threads").available;
}

Test(en09, en09_many_may_ask_at_once)
{
	struct t_task task[4];

	for (unsigned i = 0; i < 4; i++)
		t_start(&task[i], ask, NULL);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(t_join(&task[i]), 1);
}
