/* SPDX-License-Identifier: MIT */
/*
 * count.c - iomap-bench count: how many instructions a cache hit, or a bio, takes.
 *
 *	iomap-bench count [--check FILE | --record FILE]
 *
 * Times vary from run to run, this number does not, so it can be held by a test.  The program
 * runs itself under valgrind's callgrind, once for each kind of hit or bio, and takes from what
 * that writes the instructions of all functions inside count_loop() but these: the copy itself,
 * the loop, and the application's extent map.  What is left is the library's, called through
 * its public interface.  A write is iomap_file_buffered_write() alone; what makes its control block
 * and its iterator, 22 instructions, is the caller's business.  Bios are those of count_bio.c.
 *
 * FILE names the compiler and the kind of build it was recorded with.  With another one the
 * check is skipped (status 77), as it is without valgrind.
 */
#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "count.h"
#include "hit.h"

#define SET_BYTES (8ULL << 20)
#define OPS 2000U
#define GROWTH 1.05 /* that a check lets pass */
#define SKIP 77
#define NOT_HERE 2 /* of one case: without io_uring, or without tmpfs */
#define NAMES_MAX 65536

extern char **environ;

static const struct {
	const char *name;
	struct hit_param param;
	double target;
} hits[] = {
	{ "read-64", { false, false, 64 }, 120 },
	{ "read-4k", { false, false, 4096 }, 120 },
	{ "write-64", { true, false, 64 }, 180 },
	{ "pin", { false, false, 4096, HIT_PIN }, 60 },
	{ "batch-64", { false, false, 64, HIT_BATCH }, 120 },
};
#define NR_HITS (sizeof(hits) / sizeof(hits[0]))
#define NR_CASES (NR_HITS + COUNT_BIOS)

static const char *case_name(unsigned i)
{
	return i < NR_HITS ? hits[i].name : count_bios[i - NR_HITS].name;
}

static double case_target(unsigned i)
{
	return i < NR_HITS ? hits[i].target : count_bios[i - NR_HITS].target;
}

/* ---- below valgrind ---- */

/* By this name valgrind knows when to count. */
bool BENCH_NOINLINE count_loop(struct cached *c, const struct hit_param *p, char *buffer,
			       unsigned ops)
{
	struct iomap_read_range range[HIT_BATCH_NR];
	uint64_t seed = 1, at;
	bool ok = true;

	for (unsigned n = 0; n < ops; n++) {
		at = bench_random(&seed) % (c->bytes / p->bytes) * p->bytes;
		if (p->kind == HIT_BATCH) {
			range[n % HIT_BATCH_NR] = (struct iomap_read_range){
				.file = c->file, .buf = buffer, .len = p->bytes, .pos = (int64_t)at,
			};
			if (n % HIT_BATCH_NR == HIT_BATCH_NR - 1)
				ok &= iomap_read_batch(range, HIT_BATCH_NR, 0) == 0;
		} else if (p->kind == HIT_PIN) {
			ok &= hit_pin(c, at);
		} else {
			ok &= p->write ? hit_write(c, buffer, p->bytes, at) :
					 hit_read(c, buffer, p->bytes, at);
		}
	}
	return ok;
}

static bool count_hits(struct cached *c, const struct hit_param *p)
{
	static char buffer[65536];
	bool ok = true;

	if (!p->write)
		return count_loop(c, p, buffer, OPS);
	/* overwrites of what is dirty already */
	iomap_inode_lock(&c->inode);
	for (uint64_t at = 0; ok && at < c->bytes; at += sizeof(buffer))
		ok = hit_write(c, buffer, sizeof(buffer), at);
	ok = ok && count_loop(c, p, buffer, OPS);
	iomap_inode_unlock(&c->inode);
	return ok;
}

int count_child(const char *name)
{
	struct iomap_engine *engine;
	struct cached c;
	bool ok;

	for (unsigned i = 0; i < NR_HITS; i++) {
		if (strcmp(hits[i].name, name) != 0)
			continue;
		if (cached_engine(SET_BYTES, &engine) != 0)
			return 1;
		ok = cached_open(&c, engine, SET_BYTES, false) == 0 && count_hits(&c, &hits[i].param);
		cached_close(&c);
		return ok && iomap_engine_destroy(engine) == 0 ? 0 : 1;
	}
	for (unsigned i = 0; i < COUNT_BIOS; i++)
		if (strcmp(count_bios[i].name, name) == 0)
			switch (count_bios[i].run(OPS)) {
			case 0: return 0;
			case BENCH_SKIPPED: return SKIP;
			default: return 1;
			}
	return 64;
}

/* ---- what callgrind writes ---- */

/*
 * Functions appear as fn=(3) name, and later as fn=(3).  What follows is lines of position and
 * cost that belong to it, but for the one after each calls=, which is the callee's.
 */
struct profile {
	bool *left_out; /* by number */
	bool skip, current;
	double instructions;
};

static bool is_left_out(const char *name)
{
	return strstr(name, "memcpy") || strstr(name, "memmove") ||
	       strncmp(name, "cached_begin", 12) == 0 || strncmp(name, "count_", 6) == 0 ||
	       strncmp(name, "iomap_kiocb_init", 16) == 0 ||
	       strncmp(name, "iomap_iov_iter_ubuf", 19) == 0;
}

static void profile_function(struct profile *profile, char *text, bool called)
{
	char *end;
	unsigned long number = strtoul(text + 1, &end, 10);

	end[strcspn(end, "\n")] = '\0';
	if (number >= NAMES_MAX)
		number = 0;
	if (end[0] == ')' && end[1] == ' ')
		profile->left_out[number] = is_left_out(end + 2);
	if (!called)
		profile->current = profile->left_out[number];
}

static void profile_line(struct profile *profile, char *line)
{
	char *cost;

	if (strncmp(line, "fn=(", 4) == 0) {
		profile_function(profile, line + 3, false);
	} else if (strncmp(line, "cfn=(", 5) == 0) {
		profile_function(profile, line + 4, true);
	} else if (strncmp(line, "calls=", 6) == 0) {
		profile->skip = true;
	} else if (strchr("0123456789+-*", line[0])) {
		cost = strchr(line, ' ');
		if (cost && !profile->skip && !profile->current)
			profile->instructions += strtod(cost, NULL);
		profile->skip = false;
	}
}

static double profile_read(const char *path)
{
	static bool left_out[NAMES_MAX];
	struct profile profile = { .left_out = left_out };
	static char line[65536];
	FILE *from = fopen(path, "r");

	if (!from)
		return -1;
	memset(left_out, 0, sizeof(left_out));
	while (fgets(line, sizeof(line), from))
		profile_line(&profile, line);
	fclose(from);
	return profile.instructions / OPS;
}

/* ---- above it ---- */

static int run_valgrind(const char *name, const char *out)
{
	static char valgrind[] = "valgrind", quiet[] = "-q", tool[] = "--tool=callgrind",
		    toggle[] = "--toggle-collect=count_loop*", child[] = "count-child";
	char file[4200], self[4096], arg[32];
	char *argv[] = { valgrind, quiet, tool, toggle, file, self, child, arg, NULL };
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int status, error;
	pid_t pid;

	if (n < 0)
		return bench_error("/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	snprintf(file, sizeof(file), "--callgrind-out-file=%s", out);
	snprintf(arg, sizeof(arg), "%s", name);
	error = posix_spawnp(&pid, valgrind, NULL, NULL, argv, environ);
	if (error == ENOENT)
		return BENCH_SKIPPED;
	if (error)
		return bench_error("valgrind: %s", strerror(error));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return bench_error("waiting for valgrind: %s", strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return BENCH_SKIPPED;
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP)
		return NOT_HERE;
	return status ? bench_error("valgrind failed") : 0;
}

static int count_one(const char *name, double *instructions)
{
	const char *tmp = getenv("TMPDIR");
	char out[4096];
	int fd, rc;

	snprintf(out, sizeof(out), "%s/iomap-bench.count.XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(out);
	if (fd < 0)
		return bench_error("%s: %s", out, strerror(errno));
	close(fd);
	rc = run_valgrind(name, out);
	if (!rc) {
		*instructions = profile_read(out);
		if (*instructions <= 0)
			rc = bench_error("callgrind counted nothing");
	}
	unlink(out);
	return rc;
}

/* ---- the record ---- */

struct record {
	char compiler[128], build[64];
	double count[NR_CASES]; /* 0: none */
};

static int record_read(const char *path, struct record *record)
{
	FILE *from = fopen(path, "r");
	char line[256], *value;

	memset(record, 0, sizeof(*record));
	if (!from)
		return bench_error("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), from)) {
		line[strcspn(line, "\n")] = '\0';
		value = strchr(line, ' ');
		if (line[0] == '#' || !value)
			continue;
		*value++ = '\0';
		if (strcmp(line, "compiler") == 0)
			snprintf(record->compiler, sizeof(record->compiler), "%s", value);
		else if (strcmp(line, "build") == 0)
			snprintf(record->build, sizeof(record->build), "%.63s", value);
		for (unsigned i = 0; i < NR_CASES; i++)
			if (strcmp(line, case_name(i)) == 0)
				record->count[i] = strtod(value, NULL);
	}
	fclose(from);
	return 0;
}

static int record_write(const char *path, const double *count)
{
	FILE *to = fopen(path, "w");

	if (!to)
		return bench_error("%s: %s", path, strerror(errno));
	fputs("# SPDX-License-Identifier: MIT\n"
	      "# Written by iomap-bench count --record: instructions of one cache hit or bio through\n"
	      "# the public interface, without the copy, the caller's loop and the extent map.\n",
	      to);
	fprintf(to, "compiler %s\nbuild %s\n", BENCH_COMPILER, BENCH_BUILD_TYPE);
	for (unsigned i = 0; i < NR_CASES; i++)
		if (count[i] > 0)
			fprintf(to, "%s %.1f\n", case_name(i), count[i]);
	return fclose(to) ? bench_error("%s: %s", path, strerror(errno)) : 0;
}

static bool record_suits(const struct record *record)
{
	if (strcmp(record->compiler, BENCH_COMPILER) == 0 &&
	    strcmp(record->build, BENCH_BUILD_TYPE) == 0)
		return true;
	printf("skipped: recorded with %s, %s; this is %s, %s\n", record->compiler, record->build,
	       BENCH_COMPILER, BENCH_BUILD_TYPE);
	return false;
}

static void print_count(unsigned i, double count, double recorded)
{
	printf("%-10s %8.1f instructions  target <= %g", case_name(i), count, case_target(i));
	if (recorded > 0)
		printf("  recorded %.1f%s", recorded,
		       count > recorded * GROWTH ? "  GREW" :
		       count * GROWTH < recorded ? "  (fell: record it anew)" :
						   "");
	putchar('\n');
}

int count_command(const char *check, const char *to)
{
	struct record record = { .count = { 0 } };
	double count[NR_CASES];
	bool grew = false;
	int rc;

	if (check && record_read(check, &record) != 0)
		return 1;
	if (check && !record_suits(&record))
		return SKIP;
	for (unsigned i = 0; i < NR_CASES; i++) {
		rc = count_one(case_name(i), &count[i]);
		if (rc == BENCH_SKIPPED) {
			puts("skipped: valgrind is not installed");
			return SKIP;
		}
		if (rc == NOT_HERE) {
			printf("%-10s skipped: cannot be had here\n", case_name(i));
			count[i] = 0;
			continue;
		}
		if (rc)
			return 1;
		print_count(i, count[i], record.count[i]);
		/* what was never recorded is held by nothing: record it */
		grew |= check && (!(record.count[i] > 0) || count[i] > record.count[i] * GROWTH);
	}
	if (to && record_write(to, count) != 0)
		return 1;
	return grew;
}
