/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * pool.c - object pools, and the memory hooks below them.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/base.h"
#include "testutil.h"

#if IOMAP__ASAN
#include <sanitizer/asan_interface.h>
#endif

struct counted {
	_Atomic long live_bytes, allocs;
	long fail_after; /* allocations that succeed; -1: all */
};

static void *counted_alloc(void *ctx, size_t align, size_t size)
{
	struct counted *c = ctx;
	void *ptr = NULL;

	if (c->fail_after >= 0 && atomic_load(&c->allocs) >= c->fail_after)
		return NULL;
	if (posix_memalign(&ptr, align < sizeof(void *) ? sizeof(void *) : align, size) != 0)
		return NULL;
	memset(ptr, 0xa5, size); /* the library must not count on zeroes */
	atomic_fetch_add(&c->allocs, 1);
	atomic_fetch_add(&c->live_bytes, (long)size);
	return ptr;
}

static void counted_free(void *ctx, void *ptr, size_t size)
{
	struct counted *c = ctx;

	atomic_fetch_sub(&c->live_bytes, (long)size);
	free(ptr);
}

static void counted_env(struct iomap__env *env, struct counted *c)
{
	struct iomap_engine_opts opts = {
		.alloc = { .alloc = counted_alloc, .free = counted_free, .ctx = c },
	};

	memset(c, 0, sizeof(*c));
	c->fail_after = -1;
	iomap__env_init(env, &opts);
}

Test(pool, reserved_objects_need_no_allocation_and_are_aligned)
{
	struct iomap__pool pool;
	struct iomap__env env;
	struct counted c;
	void *object[10];
	long before;

	counted_env(&env, &c);
	cr_assert_eq(iomap__pool_init(&pool, &env, 100, 10), 0);
	before = atomic_load(&c.allocs);
	for (int i = 0; i < 10; i++) {
		object[i] = iomap__pool_get(&pool);
		cr_assert(object[i]);
		cr_assert_eq((uintptr_t)object[i] % 64, 0U);
		memset(object[i], i, 100);
	}
	cr_assert_eq(atomic_load(&c.allocs), before);
	for (int i = 0; i < 10; i++) {
		cr_assert(t_all(object[i], 100, i), "objects do not overlap");
		iomap__pool_put(&pool, object[i]);
	}
	iomap__pool_exit(&pool);
	cr_assert_eq(atomic_load(&c.live_bytes), 0);
}

Test(pool, grows_when_empty_and_says_so_when_it_cannot)
{
	struct iomap__pool pool;
	struct iomap__env env;
	struct counted c;
	void *object[500];
	int got = 0;

	counted_env(&env, &c);
	cr_assert_eq(iomap__pool_init(&pool, &env, 1000, 0), 0);
	c.fail_after = 3;
	while (got < 500 && (object[got] = iomap__pool_get(&pool)))
		got++;
	cr_assert_geq(got, 3);
	cr_assert_lt(got, 500);
	cr_assert_eq(atomic_load(&c.allocs), 3);
	iomap__pool_put(&pool, object[--got]);
	cr_assert(object[got++] = iomap__pool_get(&pool), "one that came back");
	while (got)
		iomap__pool_put(&pool, object[--got]);
	iomap__pool_exit(&pool);
	cr_assert_eq(atomic_load(&c.live_bytes), 0);
}

static struct iomap__pool shared_pool;

static long get_and_put(void *arg)
{
	long id = (long)(intptr_t)arg;
	long *object[8];

	for (int i = 0; i < (T_TSAN ? 2000 : 20000); i++) {
		for (int j = 0; j < 8; j++) {
			object[j] = iomap__pool_get(&shared_pool);
			t_must(object[j]);
			*object[j] = id; /* plain: nobody else has it */
		}
		for (int j = 0; j < 8; j++) {
			t_must(*object[j] == id);
			iomap__pool_put(&shared_pool, object[j]);
		}
	}
	return 0;
}

Test(pool, no_object_is_given_to_two_threads)
{
	struct t_task task[4];
	struct iomap__env env;
	struct counted c;

	counted_env(&env, &c);
	cr_assert_eq(iomap__pool_init(&shared_pool, &env, 64, 4), 0);
	for (intptr_t i = 0; i < 4; i++)
		t_start(&task[i], get_and_put, (void *)i);
	for (int i = 0; i < 4; i++)
		t_join(&task[i]);
	iomap__pool_exit(&shared_pool);
	cr_assert_eq(atomic_load(&c.live_bytes), 0);
}

static void write_after_put(void *arg)
{
	struct iomap_engine_opts opts = { 0 };
	struct iomap__pool pool;
	struct iomap__env env;
	unsigned char *object;

	(void)arg;
	iomap__env_init(&env, &opts);
	t_must(iomap__pool_init(&pool, &env, 128, 1) == 0);
	object = iomap__pool_get(&pool);
	iomap__pool_put(&pool, object);
	/* the head, which AddressSanitizer lets pass as well */
	object[13] = 1;
	iomap__pool_get(&pool);
}

#if IOMAP__ASAN
Test(pool, free_objects_are_not_to_be_touched_under_address_sanitizer)
{
	struct iomap_engine_opts opts = { 0 };
	struct iomap__pool pool;
	struct iomap__env env;
	unsigned char *object;

	iomap__env_init(&env, &opts);
	cr_assert_eq(iomap__pool_init(&pool, &env, 128, 1), 0);
	object = iomap__pool_get(&pool);
	cr_assert_not(__asan_address_is_poisoned(object + 77));
	iomap__pool_put(&pool, object);
	cr_assert(__asan_address_is_poisoned(object + 77));
	cr_assert_eq(iomap__pool_get(&pool), object);
	cr_assert_not(__asan_address_is_poisoned(object + 127));
	iomap__pool_put(&pool, object);
	iomap__pool_exit(&pool);
}
#endif

Test(pool, a_write_after_put_aborts_in_debug_builds)
{
	char err[2048];

	if (!t_debug())
		cr_skip_test("checked in debug builds");
	cr_assert_eq(t_death(write_after_put, NULL, err, sizeof(err)), SIGABRT);
	cr_assert(strstr(err, "after it was freed, at byte 13"), "%s", err);
}

Test(env, every_byte_comes_from_the_hooks_and_goes_back)
{
	struct iomap__env env;
	struct counted c;
	unsigned char *a, *b, *d;

	counted_env(&env, &c);
	a = iomap__alloc(&env, 10);
	b = iomap__zalloc(&env, 1000);
	d = iomap__alloc_aligned(&env, 4096, 5000);
	cr_assert(a && b && d);
	cr_assert(t_all(b, 1000, 0));
	cr_assert_eq((uintptr_t)d % 4096, 0U);
	cr_assert_eq(atomic_load(&c.live_bytes), 10 + 1000 + 5000);
	iomap__free(&env, a, 10);
	iomap__free(&env, b, 1000);
	iomap__free(&env, d, 5000);
	iomap__free(&env, NULL, 7);
	cr_assert_eq(atomic_load(&c.live_bytes), 0);
	c.fail_after = 0;
	cr_assert_null(iomap__zalloc(&env, 8));
}

Test(env, allocations_and_locks_are_counted_in_debug_builds)
{
	struct iomap_engine_opts opts = { 0 };
	struct iomap_debug_counters before, after;
	struct iomap__mutex mutex;
	struct iomap__env env;

	cr_assert_eq(iomap_debug_counters(&before, sizeof(before) - 1), -EINVAL);
	if (!t_debug()) {
		cr_assert_eq(iomap_debug_counters(&before, sizeof(before)), -EOPNOTSUPP);
		return;
	}
	iomap__env_init(&env, &opts);
	iomap__mutex_init(&mutex, IOMAP__RANK_POOL);
	cr_assert_eq(iomap_debug_counters(&before, sizeof(before)), 0);
	iomap__free(&env, iomap__alloc(&env, 1), 1);
	iomap__mutex_lock(&mutex);
	iomap__mutex_unlock(&mutex);
	iomap__futex_wake(&mutex.state, 1);
	cr_assert_eq(iomap_debug_counters(&after, sizeof(after)), 0);
	cr_assert_eq(after.allocs_nr - before.allocs_nr, 1U);
	cr_assert_eq(after.locks_nr - before.locks_nr, 1U);
	cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 1U);
}
