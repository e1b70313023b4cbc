/* SPDX-License-Identifier: MIT */
/*
 * bounded.c - a child in a memory control group below the one we are in.
 *
 * The child joins the group before it touches anything of a file, so the pages of the kernel's
 * cache count for it.  It is killed when it is not needed any more, and ends with us; the parent
 * removes the directory of the group, which stays, empty, when that is killed.  Version 1 of the interface, and version 2 where our own
 * group hands the memory controller down.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bounded.h"

struct bounded {
	pid_t child;
	int socket;
	char group[4096];
};

struct answer {
	int rc;
	double values[BENCH_METRICS_MAX];
};

/* ---- the group ---- */

static bool put(const char *group, const char *name, const char *text)
{
	char path[4200];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", group, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text);
}

/* The directory of our own group: of version 1's memory controller, or of version 2. */
static bool own_group(char *group, size_t bytes)
{
	FILE *from = fopen("/proc/self/cgroup", "r");
	char line[2048];
	bool found = false;

	while (from && !found && fgets(line, sizeof(line), from)) {
		char *path = strstr(line, ":memory:");

		line[strcspn(line, "\n")] = '\0';
		if (path)
			snprintf(group, bytes, "/sys/fs/cgroup/memory%s", path + 8);
		else if (strncmp(line, "0::", 3) == 0)
			snprintf(group, bytes, "/sys/fs/cgroup%s", line + 3);
		else
			continue;
		/* of both only the one that has the controller is of use */
		found = path || access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	}
	if (from)
		fclose(from);
	return found;
}

static bool make_group(struct bounded *b, uint64_t bytes)
{
	static unsigned nr;
	char own[2100], limit[32];

	if (!own_group(own, sizeof(own)))
		return false;
	snprintf(b->group, sizeof(b->group), "%s/iomap-bench.%d.%u", own, (int)getpid(),
		 nr++);
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)bytes);
	if (mkdir(b->group, 0755) != 0)
		return false;
	if (put(b->group, "memory.limit_in_bytes", limit) || put(b->group, "memory.max", limit))
		return true;
	rmdir(b->group);
	return false;
}

/* ---- the child ---- */

static void __attribute__((noreturn)) child_main(struct bench_ctx *ctx, struct bounded *b,
						 int (*round)(struct bench_ctx *, void *, double *),
						 void *arg)
{
	struct answer answer = { 0 };
	char command;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	answer.rc = put(b->group, "cgroup.procs", "0") ? 0 : -1;
	while (write(b->socket, &answer, sizeof(answer)) == (ssize_t)sizeof(answer) &&
	       read(b->socket, &command, 1) == 1)
		answer.rc = round(ctx, arg, answer.values);
	_exit(0);
}

static bool get_answer(struct bounded *b, struct answer *answer)
{
	return read(b->socket, answer, sizeof(*answer)) == (ssize_t)sizeof(*answer);
}

int bounded_start(struct bench_ctx *ctx, uint64_t bytes,
		  int (*round)(struct bench_ctx *ctx, void *arg, double *values), void *arg,
		  struct bounded **out)
{
	struct bounded *b = calloc(1, sizeof(*b));
	struct answer answer;
	int sockets[2];

	if (!make_group(b, bytes)) {
		free(b);
		return bench_skip(ctx, "no control group to bound the kernel's cache: %s",
				  strerror(errno));
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
		rmdir(b->group);
		free(b);
		return bench_skip(ctx, "socketpair: %s", strerror(errno));
	}
	fflush(NULL);
	b->child = fork();
	if (!b->child) {
		close(sockets[0]);
		b->socket = sockets[1];
		child_main(ctx, b, round, arg);
	}
	close(sockets[1]);
	b->socket = sockets[0];
	if (b->child < 0 || !get_answer(b, &answer) || answer.rc) {
		bounded_stop(b);
		return bench_skip(ctx, "no child in a control group of its own");
	}
	*out = b;
	return 0;
}

int bounded_round(struct bounded *b, double *values)
{
	struct answer answer;

	if (write(b->socket, "", 1) != 1 || !get_answer(b, &answer))
		return bench_error("the child with bounded memory is gone");
	memcpy(values, answer.values, sizeof(answer.values));
	return answer.rc;
}

void bounded_stop(struct bounded *b)
{
	int status;

	close(b->socket);
	/* a child that was started later has our end of the socket too, so this one sees no end */
	if (b->child > 0)
		kill(b->child, SIGKILL);
	while (b->child > 0 && waitpid(b->child, &status, 0) < 0 && errno == EINTR)
		continue;
	rmdir(b->group);
	free(b);
}
