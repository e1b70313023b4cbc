/* SPDX-License-Identifier: MIT */
/*
 * probe.c - which backends work in this process, and why the others do not.
 *
 * A probe is the backend itself: it is created for one queue of one request, in a layer that
 * belongs to no engine, and destroyed.  What works there may still be refused where an engine
 * asks for more (RLIMIT_MEMLOCK), so an engine remembers its own refusals (blk.c).
 *
 * The answers are those of the first time that somebody asks: what is denied later, by a
 * seccomp filter say, is not found out.
 *
 * Locks: that of the process for them guards the answers, also while they are found.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "block/internal.h"

static bool probe_done;					       /* under the lock */
static struct iomap__refusal probe_answers[IOMAP__BACKENDS_MAX]; /* likewise */

static void probe_no_log(void *ctx, enum iomap_log_level level, const char *message)
{
	(void)ctx;
	(void)level;
	(void)message;
}

static struct iomap__refusal probe_backend(const struct iomap__backend *backend)
{
	struct iomap_engine_opts opts = { .log = probe_no_log };
	struct iomap__refusal refusal = { .why = "memory", .error = -ENOMEM };
	struct iomap_engine *engine;

	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return refusal;
	iomap__env_init(&engine->env, &opts);
	refusal.error = iomap__blk_probe(engine, backend, &refusal.why);
	free(engine);
	return refusal;
}

static struct iomap__refusal probe_answer(unsigned nth)
{
	struct iomap__refusal answer;
	unsigned i;

	iomap__word_lock(&iomap__process_lock[IOMAP__PROCESS_PROBE], IOMAP__RANK_ENGINE);
	for (i = 0; !probe_done && i < iomap__backends_nr(); i++)
		probe_answers[i] = probe_backend(iomap__backend_nth(i));
	probe_done = true;
	answer = probe_answers[nth];
	iomap__word_unlock(&iomap__process_lock[IOMAP__PROCESS_PROBE]);
	return answer;
}

/* ---- reasons ---- */

/* kernel.io_uring_disabled; 0 where there is no such thing. */
static int probe_sysctl(void)
{
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	char text[2] = "0";
	ssize_t got = 0;

	iomap__count(syscalls_nr);
	if (fd >= 0) {
		got = read(fd, text, 1);
		close(fd);
	}
	return got == 1 && text[0] > '0' && text[0] <= '9' ? text[0] - '0' : 0;
}

/* What stands behind an error of a call of @backend, as far as one can tell. */
static void probe_cause(const struct iomap__backend *backend, int error, char *buf, size_t size)
{
	bool uring = backend == &iomap__uring_backend, filtered = prctl(PR_GET_SECCOMP) > 0;
	int disabled = uring ? probe_sysctl() : 0;

	*buf = '\0';
	if (error == -EPERM && disabled)
		snprintf(buf, size, "; kernel.io_uring_disabled=%d", disabled);
	else if (uring && error == -ENOMEM)
		snprintf(buf, size, "; see RLIMIT_MEMLOCK");
	else if (filtered)
		snprintf(buf, size, "; this process has a seccomp filter");
	else if (error == -ENOSYS)
		snprintf(buf, size, "; not in this kernel");
}

static void probe_explain(const struct iomap__backend *backend,
			  const struct iomap__refusal *refusal, char *buf, size_t size)
{
	char cause[48];

	probe_cause(backend, refusal->error, cause, sizeof(cause));
	snprintf(buf, size, "%s: %s%s", refusal->why, strerror(-refusal->error), cause);
}

int iomap__backend_available(struct iomap_engine *engine, unsigned nth, char *why, size_t size)
{
	const struct iomap__backend *backend = iomap__backend_nth(nth);
	struct iomap__refusal refusal = { .error = 0 };

	if (engine && engine->blk->backend == backend) {
		snprintf(why, size, "in use");
		return 1;
	}
	if (engine)
		refusal = engine->blk->refused[nth];
	if (!refusal.error)
		refusal = probe_answer(nth);
	if (refusal.error) {
		probe_explain(backend, &refusal, why, size);
		return 0;
	}
	if (!engine) {
		*why = '\0';
		return 1;
	}
	snprintf(why, size, "works in this process; this engine uses %s",
		 engine->blk->backend->name);
	return 0;
}

const char *iomap__backend_taken(struct iomap_engine *engine)
{
	const char *name = getenv("IOMAP_BACKEND");
	unsigned i;

	if (engine)
		return engine->blk->backend->name;
	for (i = 0; i < iomap__backends_nr(); i++)
		if (name && *name ? !strcmp(iomap__backend_nth(i)->name, name)
				  : !probe_answer(i).error)
			return probe_answer(i).error ? NULL : iomap__backend_nth(i)->name;
	return NULL;
}
