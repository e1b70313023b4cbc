/* SPDX-License-Identifier: MIT */
/*
 * env.c - what an engine takes from its options: memory, clock, log sink.
 *
 * All memory but that of folios and of thread records goes through here.
 */
#include <time.h>

#include "base/base.h"

#define ENV_LOG_PER_SECOND 20

static void *env_malloc(void *ctx, size_t align, size_t size)
{
	void *ptr = NULL;

	(void)ctx;
	if (align <= _Alignof(max_align_t))
		return malloc(size);
	if (posix_memalign(&ptr, align, size) != 0)
		return NULL;
	return ptr;
}

static void env_mfree(void *ctx, void *ptr, size_t size)
{
	(void)ctx;
	(void)size;
	free(ptr);
}

/* CLOCK_MONOTONIC comes from the vDSO: not a system call. */
static uint64_t env_monotonic_ns(void *ctx)
{
	struct timespec now;

	(void)ctx;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

void iomap__env_init(struct iomap__env *env, const struct iomap_engine_opts *opts)
{
	memset(env, 0, sizeof(*env));
	env->hooks = opts->alloc;
	if (!env->hooks.alloc) {
		env->hooks.alloc = env_malloc;
		env->hooks.free = env_mfree;
		env->hooks.ctx = NULL;
	}
	env->log = opts->log;
	env->log_ctx = opts->log_ctx;
	env->log_per_second = opts->log_per_second ? opts->log_per_second : ENV_LOG_PER_SECOND;
	env->now_ns = opts->now_ns ? opts->now_ns : env_monotonic_ns;
	env->now_ctx = opts->now_ctx;
	env->fail_nth = opts->fail_nth;
	env->fail_ctx = opts->fail_ctx;
}

void iomap__env_go_on(struct iomap__env *env, const struct iomap_engine_opts *opts,
		      const struct iomap__env *from)
{
	unsigned kind;

	iomap__env_init(env, opts);
	for (kind = 0; kind < IOMAP_FAIL_KINDS_NR; kind++)
		atomic_init(&env->fail_nr[kind], atomic_load(&from->fail_nr[kind]));
}

bool iomap__fail_asked(struct iomap__env *env, enum iomap_fail_kind kind)
{
	/* relaxed: each number is given out once, nothing hangs on it */
	uint64_t n = atomic_fetch_add_explicit(&env->fail_nr[kind], 1, memory_order_relaxed) + 1;

	return env->fail_nth(env->fail_ctx, kind, n);
}

void *iomap__alloc_aligned(struct iomap__env *env, size_t align, size_t size)
{
	iomap__assert(iomap__is_pow2(align));
	iomap__count(allocs_nr);
	if (iomap__fails(env, IOMAP_FAIL_ALLOC))
		return NULL;
	return env->hooks.alloc(env->hooks.ctx, align, size ? size : 1);
}

void *iomap__alloc(struct iomap__env *env, size_t size)
{
	return iomap__alloc_aligned(env, _Alignof(max_align_t), size);
}

void *iomap__zalloc(struct iomap__env *env, size_t size)
{
	void *ptr = iomap__alloc(env, size);

	if (ptr)
		memset(ptr, 0, size);
	return ptr;
}

void iomap__free(struct iomap__env *env, void *ptr, size_t size)
{
	if (!ptr)
		return;
	/* whoever still uses it finds neither pointers nor numbers that look right */
	if (IOMAP_DEBUG)
		memset(ptr, IOMAP__POISON, size);
	env->hooks.free(env->hooks.ctx, ptr, size ? size : 1);
}
