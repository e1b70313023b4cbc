/* SPDX-License-Identifier: MIT */
/* ctest-labels: release */
/*
 * hits.c - CA: what a hit costs: no lock, no allocation, no system call.
 *
 * Two witnesses: the library's own counters (debug builds), and, in every build, the kernel,
 * which kills a child at its first system call, together with malloc, which this program
 * replaces by one that counts.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "teststore.h"

#define KIB 1024

/* ---- malloc, counted; a sanitizer has its own ---- */

static _Atomic uint64_t mallocs;

#if !T_SANITIZED
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t nr, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t align, size_t size);
extern void __libc_free(void *p);

void *malloc(size_t size)
{
	atomic_fetch_add(&mallocs, 1);
	return __libc_malloc(size);
}
void *calloc(size_t nr, size_t size)
{
	atomic_fetch_add(&mallocs, 1);
	return __libc_calloc(nr, size);
}
void *realloc(void *p, size_t size)
{
	atomic_fetch_add(&mallocs, 1);
	return __libc_realloc(p, size);
}
int posix_memalign(void **out, size_t align, size_t size)
{
	atomic_fetch_add(&mallocs, 1);
	*out = __libc_memalign(align, size);
	return *out ? 0 : ENOMEM;
}
void *aligned_alloc(size_t align, size_t size)
{
	atomic_fetch_add(&mallocs, 1);
	return __libc_memalign(align, size);
}
void free(void *p)
{
	if (p)
		atomic_fetch_add(&mallocs, 1);
	__libc_free(p);
}
#endif

/* ---- the counters ---- */

static const size_t sizes[] = { 64, 512, 4 * KIB, 64 * KIB };
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static struct ts *cached_file(size_t bytes)
{
	struct ts *ts = ts_open(&(struct ts_config){ .i_size = (int64_t)bytes });

	ts_map(ts, 0, bytes, IOMAP_MAPPED, 0, 64 * KIB);
	ts_dev_fill(ts, 64 * KIB, bytes, 0, 1);
	cr_assert(ts_reads(ts, 0, bytes, 1));
	return ts;
}

Test(hits, ca01_a_read_hit_takes_no_lock_allocates_nothing_and_makes_no_system_call)
{
	struct ts *ts;
	char *buf;

	if (!t_debug())
		cr_skip_test("counted in debug builds only");
	ts = cached_file(256 * KIB);
	buf = malloc(64 * KIB);
	for (size_t i = 0; i < SIZES; i++) {
		struct iomap_debug_counters before, after;
		struct iomap_engine_stats stats = t_stats(ts->engine);

		/* aligned, and astride of pages */
		for (int64_t pos = 4 * KIB; pos < 128 * KIB; pos += 3001) {
			before = t_counters();
			cr_assert_eq(iomap_read(ts->file, buf, sizes[i], pos), (ssize_t)sizes[i]);
			after = t_counters();
			cr_assert_eq(t_mismatch(buf, sizes[i], pos, 1), -1);
			cr_assert_eq(after.locks_nr - before.locks_nr, 0U);
			cr_assert_eq(after.folio_locks_nr - before.folio_locks_nr, 0U);
			cr_assert_eq(after.allocs_nr - before.allocs_nr, 0U);
			cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 0U);
		}
		cr_assert_gt(t_stats(ts->engine).hits_nr, stats.hits_nr);
		cr_assert_eq(t_stats(ts->engine).misses_nr, stats.misses_nr);
	}
	free(buf);
	ts_close(ts);
}

Test(hits, ca01_a_miss_is_counted_by_the_same_counters)
{
	struct iomap_debug_counters before, after;
	struct ts *ts;
	char buf[64];

	if (!t_debug())
		cr_skip_test("counted in debug builds only");
	ts = cached_file(256 * KIB);
	ts_drop(ts);
	before = t_counters();
	cr_assert_eq(iomap_read(ts->file, buf, sizeof(buf), 0), (ssize_t)sizeof(buf));
	after = t_counters();
	cr_assert_gt(after.locks_nr, before.locks_nr);
	cr_assert_gt(after.folio_locks_nr, before.folio_locks_nr);
	ts_close(ts);
}

Test(hits, ca01_a_write_hit_of_a_dirty_folio_takes_its_lock_only)
{
	static const size_t lens[] = { 64, 512, 4 * KIB };
	struct ts *ts;
	char *buf;

	if (!t_debug())
		cr_skip_test("counted in debug builds only");
	ts = cached_file(256 * KIB);
	buf = malloc(4 * KIB);
	for (size_t i = 0; i < 3; i++) {
		struct iomap_debug_counters before, after;
		struct iomap_iov_iter from;
		struct iomap_kiocb iocb;

		ts_write(ts, 8 * KIB, 4 * KIB, 2); /* dirty by now */
		t_fill(buf, lens[i], 8 * KIB, 3);
		iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buf, lens[i]);
		iomap_kiocb_init(&iocb, ts->file, 8 * KIB);
		iomap_inode_lock(&ts->inode);
		before = t_counters();
		cr_assert_eq(iomap_file_buffered_write(&iocb, &from, &ts->ops, NULL, NULL),
			     (ssize_t)lens[i]);
		after = t_counters();
		iomap_inode_unlock(&ts->inode);
		cr_assert_eq(after.locks_nr - before.locks_nr, 1U, "%u locks",
			     (unsigned)(after.locks_nr - before.locks_nr));
		cr_assert_eq(after.folio_locks_nr - before.folio_locks_nr, 1U);
		cr_assert_eq(after.allocs_nr - before.allocs_nr, 0U);
		cr_assert_eq(after.syscalls_nr - before.syscalls_nr, 0U);
		cr_assert(ts_reads(ts, 8 * KIB, lens[i], 3));
	}
	free(buf);
	ts_close(ts);
}

/* ---- the kernel as a witness ---- */

/* From here on: exit_group, and write to this file descriptor; anything else kills. */
static void deny_system_calls(int fd)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_exit_group, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_write, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)fd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	t_must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	t_must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0);
}

static bool seccomp_works(void)
{
	return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0 &&
	       (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0,
			&(uint32_t){ SECCOMP_RET_KILL_PROCESS }) == 0);
}

struct verdict {
	uint64_t hits;
	uint64_t wrong;
	uint64_t mallocs;
};

enum work { READ_HITS, ONE_SYSCALL };

static char child_buf[64 * KIB], child_want[64 * KIB];

static void hit(struct ts *ts, struct verdict *v, size_t len, int64_t pos)
{
	if (iomap_read(ts->file, child_buf, len, pos) != (ssize_t)len)
		v->wrong++;
	v->hits++;
}

static void child(int fd, enum work work)
{
	struct ts *ts = cached_file(256 * KIB);
	struct verdict v = { 0, 0, 0 };
	uint64_t before;

	t_must(iomap_read(ts->file, child_want, sizeof(child_want), 4 * KIB) ==
	       (ssize_t)sizeof(child_want));
	before = atomic_load(&mallocs);
	deny_system_calls(fd);
	for (unsigned i = 0; i < 999000; i++)
		hit(ts, &v, sizes[i % 3], (int64_t)(i * 517 % (192 * KIB)) % (100 * KIB));
	for (unsigned i = 0; i < 1000; i++) {
		hit(ts, &v, 64 * KIB, 4 * KIB);
		if (memcmp(child_buf, child_want, sizeof(child_want)))
			v.wrong++;
	}
	if (work == ONE_SYSCALL)
		syscall(SYS_getpid);
	v.mallocs = atomic_load(&mallocs) - before;
	t_must(write(fd, &v, sizeof(v)) == (ssize_t)sizeof(v));
	syscall(SYS_exit_group, 0);
}

/* Returns the signal that ended the child, or 0 and its verdict. */
static int run_child(enum work work, struct verdict *v)
{
	int fds[2], status;
	ssize_t got;
	pid_t pid;

	memset(v, 0, sizeof(*v));
	cr_assert_eq(pipe(fds), 0);
	fflush(NULL);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		close(fds[0]);
		child(fds[1], work);
		_exit(1);
	}
	close(fds[1]);
	got = read(fds[0], v, sizeof(*v));
	close(fds[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		return WTERMSIG(status);
	cr_assert_eq(WEXITSTATUS(status), 0, "the child exited with %d", WEXITSTATUS(status));
	cr_assert_eq(got, (ssize_t)sizeof(*v));
	return 0;
}

Test(hits, ca01_a_million_read_hits_run_where_any_system_call_kills)
{
	struct verdict v;

	if (!seccomp_works())
		cr_skip_test("this kernel has no seccomp filters");
	cr_assert_eq(run_child(READ_HITS, &v), 0, "a hit made a system call");
	cr_assert_eq(v.hits, 1000000U);
	cr_assert_eq(v.wrong, 0U);
	cr_assert_eq(v.mallocs, 0U, "%u calls of malloc or free", (unsigned)v.mallocs);
}

Test(hits, ca01_the_witness_sees_a_system_call_and_a_malloc)
{
	struct verdict v;
	uint64_t before = atomic_load(&mallocs);
	void *p = malloc(100);

	cr_assert(p != NULL);
	free(p);
	if (!T_SANITIZED)
		cr_assert_eq(atomic_load(&mallocs), before + 2);
	if (!seccomp_works())
		cr_skip_test("this kernel has no seccomp filters");
	cr_assert_eq(run_child(ONE_SYSCALL, &v), SIGSYS);
}
