/* SPDX-License-Identifier: MIT */
/*
 * log.c - log lines, at most so many a second for each engine.
 *
 * `log_window` is the current second (upper half) and the lines it has seen (lower half) in
 * one word, so that counting a line and starting a new second is one compare-and-swap.  A
 * line beyond the limit only bumps `log_dropped`; the next line that goes out says so.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"

#define LOG_LINE_BYTES 512

static const char *log_level_name(enum iomap_log_level level)
{
	switch (level) {
	case IOMAP_LOG_ERROR:
		return "error";
	case IOMAP_LOG_WARN:
		return "warning";
	case IOMAP_LOG_INFO:
		return "info";
	case IOMAP_LOG_DEBUG:
		break;
	}
	return "debug";
}

/* The default sink.  dprintf: one write, no stdio lock that a dying thread may hold. */
static void log_stderr(enum iomap_log_level level, const char *message)
{
	iomap__count(syscalls_nr);
	dprintf(STDERR_FILENO, "libiomap: %s: %s\n", log_level_name(level), message);
}

/* Relaxed throughout: the words order nothing but themselves. */
static bool log_admit(struct iomap__env *env)
{
	uint64_t second = (iomap__now_ns(env) / 1000000000U) & UINT32_MAX;
	uint64_t old = atomic_load_explicit(&env->log_window, memory_order_relaxed);
	uint64_t lines;

	do {
		lines = (old >> 32) == second ? (old & UINT32_MAX) : 0;
		if (lines >= env->log_per_second) {
			atomic_fetch_add_explicit(&env->log_dropped, 1, memory_order_relaxed);
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(&env->log_window, &old,
							second << 32 | (lines + 1),
							memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

void iomap__log(struct iomap__env *env, enum iomap_log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_BYTES];
	uint64_t dropped;
	va_list args;
	size_t used;
	int len;

	/* Lines the default sink does not show must not use up its budget. */
	if (!env->log && level > IOMAP_LOG_WARN)
		return;
	/* an engine that is its parent's, after a fork(): there is nobody to tell */
	if (!env->now_ns || !log_admit(env))
		return;

	va_start(args, fmt);
	len = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	used = len < 0 ? 0 : iomap__min((size_t)len, sizeof(line) - 1);
	line[used] = '\0';

	dropped = atomic_exchange_explicit(&env->log_dropped, 0, memory_order_relaxed);
	if (dropped) {
		char note[64];

		len = snprintf(note, sizeof(note), " [%llu lines left out]",
			       (unsigned long long)dropped);
		used = iomap__min(used, sizeof(line) - 1 - (size_t)len);
		memcpy(line + used, note, (size_t)len + 1);
	}
	if (env->log)
		env->log(env->log_ctx, level, line);
	else
		log_stderr(level, line);
}
