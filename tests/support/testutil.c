/* SPDX-License-Identifier: MIT */
/*
 * testutil.c - threads, order of events, patterns, logs, counters, temporary files.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "testutil.h"

#if T_TSAN
/* Criterion's processes have threads of their own; children of ours start some as well. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}
#endif

void t_die(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
	fflush(NULL);
	abort();
}

uint64_t t_tick(void)
{
	static _Atomic uint64_t last;

	return atomic_fetch_add(&last, 1) + 1;
}

/* ---- threads ---- */

static void *task_main(void *arg)
{
	struct t_task *task = arg;

	task->ret = task->fn(task->arg);
	atomic_store(&task->done, true);
	return NULL;
}

void t_start(struct t_task *task, long (*fn)(void *arg), void *arg)
{
	task->fn = fn;
	task->arg = arg;
	task->ret = 0;
	atomic_init(&task->done, false);
	t_must(pthread_create(&task->thread, NULL, task_main, task) == 0);
}

long t_join(struct t_task *task)
{
	t_must(pthread_join(task->thread, NULL) == 0);
	return task->ret;
}

void t_gate_init(struct t_gate *gate)
{
	pthread_condattr_t attr;

	t_must(pthread_mutex_init(&gate->lock, NULL) == 0);
	t_must(pthread_condattr_init(&attr) == 0);
	t_must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
	t_must(pthread_cond_init(&gate->cond, &attr) == 0);
	t_must(pthread_condattr_destroy(&attr) == 0);
}

void t_gate_exit(struct t_gate *gate)
{
	t_must(pthread_cond_destroy(&gate->cond) == 0);
	t_must(pthread_mutex_destroy(&gate->lock) == 0);
}

void t_lock(struct t_gate *gate)
{
	t_must(pthread_mutex_lock(&gate->lock) == 0);
}

void t_unlock(struct t_gate *gate)
{
	t_must(pthread_mutex_unlock(&gate->lock) == 0);
}

void t_wake(struct t_gate *gate)
{
	t_must(pthread_cond_broadcast(&gate->cond) == 0);
}

void t_wait(struct t_gate *gate)
{
	struct timespec until;
	int rc;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += T_HANG_S;
	rc = pthread_cond_timedwait(&gate->cond, &gate->lock, &until);
	if (rc)
		t_die(__FILE__, __LINE__, "somebody comes (a wait took too long)");
}

/* ---- bytes ---- */

/* Never 0, so that a byte of a pattern is told from a byte that was never there. */
static uint8_t pattern(int64_t pos, unsigned seed)
{
	uint64_t x = ((uint64_t)pos + 1) * 0x9e3779b97f4a7c15ULL + seed * 0xbf58476d1ce4e5b9ULL;

	return (uint8_t)((x >> 40) % 255 + 1);
}

void t_fill(void *buf, size_t len, int64_t pos, unsigned seed)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern(pos + (int64_t)i, seed);
}

ssize_t t_mismatch(const void *buf, size_t len, int64_t pos, unsigned seed)
{
	const uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern(pos + (int64_t)i, seed))
			return (ssize_t)i;
	return -1;
}

bool t_all(const void *buf, size_t len, int value)
{
	const uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != (uint8_t)value)
			return false;
	return true;
}

/* splitmix64 */
uint64_t t_rand(struct t_rand *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

uint64_t t_below(struct t_rand *r, uint64_t n)
{
	return t_rand(r) % n;
}

uint64_t t_seed(void)
{
	const char *env = getenv("IOMAP_TEST_SEED") ? getenv("IOMAP_TEST_SEED")
						    : getenv("IOMAP_SEED");
	struct timespec now;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = env ? strtoull(env, NULL, 0) :
		     (uint64_t)now.tv_sec * 1000000007ULL ^ (uint64_t)now.tv_nsec;
	fprintf(stderr, "seed: IOMAP_TEST_SEED=%" PRIu64 "\n", seed);
	return seed;
}

/* ---- log ---- */

void t_log_init(struct t_log *log)
{
	memset(log, 0, sizeof(*log));
	t_must(pthread_mutex_init(&log->lock, NULL) == 0);
}

void t_log_line(void *ctx, enum iomap_log_level level, const char *message)
{
	struct t_log *log = ctx;

	t_must(pthread_mutex_lock(&log->lock) == 0);
	if (log->nr < T_LOG_LINES) {
		log->line[log->nr].level = level;
		snprintf(log->line[log->nr].text, sizeof(log->line[0].text), "%s", message);
	}
	log->nr++;
	t_must(pthread_mutex_unlock(&log->lock) == 0);
}

unsigned t_log_count(struct t_log *log, enum iomap_log_level level, const char *text)
{
	unsigned nr = 0;

	t_must(pthread_mutex_lock(&log->lock) == 0);
	for (unsigned i = 0; i < log->nr && i < T_LOG_LINES; i++)
		if (log->line[i].level <= level && (!text || strstr(log->line[i].text, text)))
			nr++;
	t_must(pthread_mutex_unlock(&log->lock) == 0);
	return nr;
}

/* ---- the library ---- */

bool t_debug(void)
{
	struct iomap_debug_counters counters;

	return iomap_debug_counters(&counters, sizeof(counters)) == 0;
}

struct iomap_debug_counters t_counters(void)
{
	struct iomap_debug_counters counters;

	memset(&counters, 0, sizeof(counters));
	t_must(iomap_debug_counters(&counters, sizeof(counters)) == 0);
	return counters;
}

struct iomap_engine_stats t_stats(struct iomap_engine *engine)
{
	struct iomap_engine_stats stats;

	t_must(iomap_engine_stats(engine, &stats, sizeof(stats)) == 0);
	return stats;
}

/* What this machine lacks, and the engine does without, is not what a test counts lines of. */
static void engine_line(void *ctx, enum iomap_log_level level, const char *message)
{
	if (!strstr(message, "io_uring goes without") && !strstr(message, "io_uring does not work"))
		t_log_line(ctx, level, message);
}

struct iomap_engine *t_engine(struct iomap_engine_opts *opts, struct t_log *log)
{
	const char *backend = getenv("IOMAP_BACKEND");
	struct iomap_engine *engine = NULL;
	int rc;

	if (log && !opts->log) {
		opts->log = engine_line;
		opts->log_ctx = log;
	}
	rc = iomap_engine_create(opts, &engine);
	if (rc && rc != -EINVAL && backend)
		cr_skip_test("backend %s does not work here: %s", backend, strerror(-rc));
	cr_assert_eq(rc, 0, "iomap_engine_create: %s", strerror(-rc));
	return engine;
}

static bool takes_o_direct(const char *dir)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/iomap-probe-XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0)
		return false;
	close(fd);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

int t_io(struct iomap_bdev *bdev, uint32_t opf, uint64_t addr, void *buf, size_t bytes)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);
	int status;

	t_must(bio);
	bio->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	if (bytes)
		t_must(iomap_bio_add(bio, buf, bytes));
	status = iomap_submit_bio_wait(bio);
	iomap_bio_put(bio);
	return status;
}

void t_deny(int nr, int error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(filter[0]),
		.filter = filter,
	};

	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

char *t_temp(uint64_t bytes)
{
	const char *dirs[] = { getenv("IOMAP_TEST_DIR"), getenv("TMPDIR"), "/var/tmp", "/tmp",
			       "." };
	char path[4096] = "";
	char *name;
	int fd;

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]) && !path[0]; i++)
		if (dirs[i] && takes_o_direct(dirs[i]))
			snprintf(path, sizeof(path), "%s/iomap-test-XXXXXX", dirs[i]);
	if (!path[0])
		cr_skip_test("no directory whose file system takes O_DIRECT");
	fd = mkstemp(path);
	t_must(fd >= 0);
	t_must(ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
	name = strdup(path);
	t_must(name != NULL);
	return name;
}

void t_temp_free(char *path)
{
	unlink(path);
	free(path);
}

void t_temp_put(const char *path, const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	t_must(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
	t_must(fsync(fd) == 0 && close(fd) == 0);
}

int t_death(void (*fn)(void *arg), void *arg, char *err, size_t err_size)
{
	size_t got = 0;
	int fds[2], status;
	pid_t child;

	t_must(pipe(fds) == 0);
	fflush(NULL);
	child = fork();
	t_must(child >= 0);
	if (!child) {
		dup2(fds[1], STDERR_FILENO);
		close(fds[0]);
		close(fds[1]);
		fn(arg);
		_exit(0);
	}
	close(fds[1]);
	for (;;) {
		char buf[512];
		ssize_t n = read(fds[0], buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		for (ssize_t i = 0; err && i < n && got + 1 < err_size; i++)
			err[got++] = buf[i];
	}
	if (err && err_size)
		err[got] = '\0';
	close(fds[0]);
	t_must(waitpid(child, &status, 0) == child);
	if (WIFSIGNALED(status))
		return WTERMSIG(status);
	t_must(WIFEXITED(status));
	return 0;
}
