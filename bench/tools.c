/* SPDX-License-Identifier: MIT */
/*
 * tools.c - what scenarios share: the clock of a round, memory, files without names.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <iomap/engine.h>
#ifdef BENCH_JEMALLOC
#include <iomap/jemalloc.h>
#endif

#include "bench.h"

#define FILE_CHUNK ((size_t)4 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

int bench_engine_create(struct iomap_engine_opts *opts, struct iomap_engine **out)
{
#ifdef BENCH_JEMALLOC
	static struct iomap_alloc_hooks hooks; /* one arena for all engines of the run */

	/* without one the engine has what malloc gives */
	if (hooks.alloc || iomap_jemalloc_hooks(&hooks) == 0)
		opts->alloc = hooks;
#endif
	return iomap_engine_create(opts, out);
}

int bench_skip(struct bench_ctx *ctx, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ctx->why, sizeof(ctx->why), format, args);
	va_end(args);
	return BENCH_SKIPPED;
}

int bench_error(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("iomap-bench: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return -1;
}

double bench_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Of all threads, those of the kernel that work for our rings among them. */
static double cpu_now(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

double bench_thread_cpu(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void bench_round_begin(struct bench_round *round, double seconds)
{
	round->cpu = cpu_now();
	round->start = bench_now();
	round->end = round->start + seconds;
}

void bench_round_end(struct bench_round *round, uint64_t ops, double *values)
{
	double seconds = bench_now() - round->start, cpu = cpu_now() - round->cpu;

	values[0] = (double)ops / seconds;
	values[1] = ops ? cpu * 1e6 / (double)ops : 0;
}

static size_t memory_bytes(size_t bytes)
{
	return (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
}

void *bench_memory(size_t bytes)
{
	size_t all = memory_bytes(bytes) + HUGE_PAGE;
	char *memory, *aligned;

	memory = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		bench_error("mmap of %zu bytes: %s", all, strerror(errno));
		exit(1);
	}
	aligned = (char *)(((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	if (aligned > memory)
		munmap(memory, (size_t)(aligned - memory));
	if (aligned < memory + HUGE_PAGE)
		munmap(aligned + memory_bytes(bytes), (size_t)(memory + HUGE_PAGE - aligned));
	madvise(aligned, memory_bytes(bytes), MADV_HUGEPAGE);
	memset(aligned, 0x5a, memory_bytes(bytes));
	return aligned;
}

void bench_memory_free(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, memory_bytes(bytes));
}

/* Not zeros: a file system, or the host below it, may know better than to store those. */
static int file_fill(int fd, uint64_t bytes)
{
	char *chunk = bench_memory(FILE_CHUNK);
	uint64_t seed = bytes, at;
	ssize_t n = 0;

	for (size_t i = 0; i < FILE_CHUNK; i += 8)
		*(uint64_t *)(void *)(chunk + i) = bench_random(&seed);
	for (at = 0; at < bytes && n >= 0; at += (uint64_t)n)
		n = pwrite(fd, chunk, bytes - at < FILE_CHUNK ? bytes - at : FILE_CHUNK,
			   (off_t)at);
	bench_memory_free(chunk, FILE_CHUNK);
	if (n < 0 || fsync(fd) != 0)
		return -errno;
	/* direct I/O would otherwise first look for, and drop, what is cached */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

int bench_file(struct bench_ctx *ctx, const char *dir, uint64_t bytes)
{
	char path[4096];
	int fd, error;

	snprintf(path, sizeof(path), "%s/iomap-bench.XXXXXX", dir);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		bench_skip(ctx, "no file in %s: %s", dir, strerror(errno));
		return -1;
	}
	unlink(path);
	error = file_fill(fd, bytes);
	if (error) {
		bench_skip(ctx, "%llu MiB in %s: %s", (unsigned long long)(bytes >> 20), dir,
			   strerror(-error));
		close(fd);
		return -1;
	}
	return fd;
}

void bench_fd_path(int fd, char *path, size_t bytes)
{
	snprintf(path, bytes, "/proc/%d/fd/%d", (int)getpid(), fd);
}

uint64_t bench_set_bytes(const struct bench_ctx *ctx, bool large)
{
	static const uint64_t small_set[] = { 1ULL << 20, 8ULL << 20, 8ULL << 20 };
	static const uint64_t large_set[] = { 4ULL << 20, 256ULL << 20, 1ULL << 30 };

	return large ? large_set[ctx->mode] : small_set[ctx->mode];
}
