/* SPDX-License-Identifier: MIT */
/*
 * testutil.h - what every test needs: threads, order of events, patterns, logs, counters.
 *
 * cr_assert() belongs to the main thread of a test; callbacks and other threads use
 * t_must(), which ends the process, and so the test, wherever it is called.
 *
 * Nothing here sleeps for another thread: waits are for a condition that the other thread
 * signals.  The time limit of such a wait only turns a hang into a failure.
 */
#ifndef TESTUTIL_H
#define TESTUTIL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <iomap/iomap.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define T_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
	__has_feature(memory_sanitizer)
#define T_SANITIZED 1
#endif
#endif
#ifndef T_SANITIZED
#define T_SANITIZED 0
#endif

#if defined(__SANITIZE_THREAD__) || defined(IOMAP_TSAN)
#define T_TSAN 1
#else
#define T_TSAN 0
#endif

/* A hang becomes a failure after so many seconds. */
#define T_HANG_S 90

void t_die(const char *file, int line, const char *what) __attribute__((noreturn));
#define t_must(cond) ((cond) ? (void)0 : t_die(__FILE__, __LINE__, #cond))

/* Numbers that order events of different threads; the first one is 1. */
uint64_t t_tick(void);

/* ---- a thread with a result ---- */

struct t_task {
	pthread_t thread;
	long (*fn)(void *arg);
	void *arg;
	long ret;
	atomic_bool done;
};
void t_start(struct t_task *task, long (*fn)(void *arg), void *arg);
long t_join(struct t_task *task);

/* ---- a lock with a condition; t_wait() ends the process when nothing comes ---- */

struct t_gate {
	pthread_mutex_t lock;
	pthread_cond_t cond;
};
void t_gate_init(struct t_gate *gate);
void t_gate_exit(struct t_gate *gate);
void t_lock(struct t_gate *gate);
void t_unlock(struct t_gate *gate);
/* Both with the lock held. */
void t_wake(struct t_gate *gate);
void t_wait(struct t_gate *gate);

/* ---- bytes ---- */

/* Bytes that tell where they belong: a function of their position and of `seed`. */
void t_fill(void *buf, size_t len, int64_t pos, unsigned seed);
/* Index of the first byte that differs, or -1. */
ssize_t t_mismatch(const void *buf, size_t len, int64_t pos, unsigned seed);
/* All bytes are `value`. */
bool t_all(const void *buf, size_t len, int value);

struct t_rand {
	uint64_t state;
};
uint64_t t_rand(struct t_rand *r);
/* 0 <= result < n */
uint64_t t_below(struct t_rand *r, uint64_t n);
/* From $IOMAP_TEST_SEED (or, shorter, $IOMAP_SEED) or the clock; printed. */
uint64_t t_seed(void);

/* ---- log ---- */

#define T_LOG_LINES 64
struct t_log {
	pthread_mutex_t lock;
	unsigned nr; /* lines seen, the first T_LOG_LINES kept */
	struct {
		enum iomap_log_level level;
		char text[256];
	} line[T_LOG_LINES];
};
void t_log_init(struct t_log *log);
/* The callback, with a struct t_log as its context. */
void t_log_line(void *ctx, enum iomap_log_level level, const char *message);
/* Lines of at most that level (ERROR is lowest) that contain `text`; NULL: any. */
unsigned t_log_count(struct t_log *log, enum iomap_log_level level, const char *text);

/* ---- the library ---- */

/* The library counts and checks (a debug build). */
bool t_debug(void);
struct iomap_debug_counters t_counters(void);
struct iomap_engine_stats t_stats(struct iomap_engine *engine);

/*
 * An engine for a test: `opts` as given but for log; with $IOMAP_BACKEND.  A backend that
 * the environment names and this machine does not have skips the test.  Lines that tell what
 * io_uring lacks here (locked memory) are left out of @log.
 */
struct iomap_engine *t_engine(struct iomap_engine_opts *opts, struct t_log *log);

/* One bio of at most one piece of memory, waited for; its status. */
int t_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr, void *buf, size_t bytes);

/* From now on system call `nr` fails with `error` in this process, besides what fails already. */
void t_deny(int nr, int error);

/* A new empty file of `bytes` on a real file system where there is one; t_temp_free()
 * removes it.  The name is the caller's to free by t_temp_free(). */
char *t_temp(uint64_t bytes);
void t_temp_free(char *path);
/* Write all of the file, and through to the disk. */
void t_temp_put(const char *path, const void *data, size_t bytes);

/*
 * Run fn(arg) in a child.  Return: the signal that ended it, or 0 when it returned.  What it
 * wrote to stderr is left in `err` (may be NULL).  No other thread may exist.
 */
int t_death(void (*fn)(void *arg), void *arg, char *err, size_t err_size);

#endif
