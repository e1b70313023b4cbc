/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * logging.c - log lines: how many a second, where they go, what becomes of the others.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/base.h"
#include "testutil.h"

static uint64_t clock_ns(void *ctx)
{
	return *(uint64_t *)ctx;
}

Test(logging, at_most_so_many_lines_a_second_and_the_rest_is_counted)
{
	uint64_t now = 5 * UINT64_C(1000000000);
	struct t_log log;
	struct iomap_engine_opts opts = {
		.log = t_log_line,
		.log_ctx = &log,
		.log_per_second = 3,
		.now_ns = clock_ns,
		.now_ctx = &now,
	};
	struct iomap__env env;

	t_log_init(&log);
	iomap__env_init(&env, &opts);
	for (int i = 0; i < 10; i++)
		iomap__log(&env, IOMAP_LOG_INFO, "line %d", i);
	cr_assert_eq(log.nr, 3U);
	cr_assert_str_eq(log.line[2].text, "line 2");

	now += UINT64_C(999999999);
	iomap__log(&env, IOMAP_LOG_INFO, "still the same second");
	cr_assert_eq(log.nr, 3U);
	now += 1;
	iomap__log(&env, IOMAP_LOG_WARN, "next");
	cr_assert_eq(log.nr, 4U);
	cr_assert_eq(log.line[3].level, IOMAP_LOG_WARN);
	cr_assert_str_eq(log.line[3].text, "next [8 lines left out]");
	iomap__log(&env, IOMAP_LOG_INFO, "told once");
	cr_assert_str_eq(log.line[4].text, "told once");
}

Test(logging, a_long_line_is_cut_and_keeps_the_note)
{
	static char text[2000];
	uint64_t now = 0;
	struct t_log log;
	struct iomap_engine_opts opts = {
		.log = t_log_line,
		.log_ctx = &log,
		.log_per_second = 1,
		.now_ns = clock_ns,
		.now_ctx = &now,
	};
	struct iomap__env env;

	memset(text, 'x', sizeof(text) - 1);
	t_log_init(&log);
	iomap__env_init(&env, &opts);
	iomap__log(&env, IOMAP_LOG_INFO, "%s", text);
	iomap__log(&env, IOMAP_LOG_INFO, "%s", text);
	now += UINT64_C(1000000000);
	iomap__log(&env, IOMAP_LOG_INFO, "short");
	cr_assert_eq(log.nr, 2U);
	cr_assert_eq(log.line[0].text[0], 'x');
	cr_assert_str_eq(log.line[1].text, "short [1 lines left out]");
}

static void log_to_stderr(void *arg)
{
	struct iomap_engine_opts opts = { 0 };
	struct iomap__env env;

	(void)arg;
	iomap__env_init(&env, &opts);
	for (int i = 0; i < 100; i++)
		iomap__log(&env, IOMAP_LOG_DEBUG, "chatter");
	iomap__log(&env, IOMAP_LOG_INFO, "news");
	iomap__log(&env, IOMAP_LOG_WARN, "watch out");
	iomap__log(&env, IOMAP_LOG_ERROR, "broken %d", 7);
}

Test(logging, without_a_callback_warnings_and_errors_go_to_stderr)
{
	char err[2048];

	cr_assert_eq(t_death(log_to_stderr, NULL, err, sizeof(err)), 0);
	cr_assert_str_eq(err, "libiomap: warning: watch out\nlibiomap: error: broken 7\n");
}
