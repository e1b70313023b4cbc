/* SPDX-License-Identifier: MIT */
/*
 * xs_campaign.c - the crash campaign: scripts, one seed after the other, in as many processes
 * as there are CPUs, until as many distinct images have been judged as are wanted.
 *
 *	IOMAP_FULL=1	   500,000 rather than 20,000 of them
 *	XS_STATES=n	   n of them
 *	XS_JOBS=n	   processes; with 1, the order in which states come is always the same
 *	XS_CUTS=order	   only states of a device that keeps what has completed
 *	XS_CUTS=whole	   only states in which no write is torn; with either no I/O fails
 *	IOMAP_TEST_SEED=n  the first seed; else 1
 *	XS_CRASH='...'	   only what a failure told to repeat
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crash.h"

#define JOBS_MAX 64
#define SEEDS_PER_CUT 8

struct campaign {
	struct crash_plan plan;
	uint64_t next_seed;
};

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void *shared(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		crash_die("no memory");
	return memory;
}

static struct campaign *campaign_new(void)
{
	struct campaign *campaign = shared(sizeof(*campaign));
	const char *cuts = getenv("XS_CUTS");

	campaign->plan.distinct_max = number_of("XS_STATES", getenv("IOMAP_FULL") ? 500000 : 20000);
	campaign->plan.seeds = SEEDS_PER_CUT;
	campaign->plan.cuts = !cuts		     ? CRASH_ALL :
			      !strcmp(cuts, "order") ? CRASH_IN_ORDER :
			      !strcmp(cuts, "whole") ? CRASH_UNTORN :
						       CRASH_ALL;
	campaign->plan.slots_nr = 1 << 16;
	while (campaign->plan.slots_nr < 4 * campaign->plan.distinct_max)
		campaign->plan.slots_nr *= 2;
	campaign->plan.slots = shared(campaign->plan.slots_nr * sizeof(*campaign->plan.slots));
	campaign->next_seed = number_of("IOMAP_TEST_SEED", 1);
	return campaign;
}

static void work(struct campaign *campaign)
{
	struct crash_plan *plan = &campaign->plan;

	while (__atomic_load_n(&plan->distinct, __ATOMIC_RELAXED) < plan->distinct_max) {
		uint64_t seed = __atomic_fetch_add(&campaign->next_seed, 1, __ATOMIC_RELAXED);

		/* what fails tears and drops writes as well */
		if (plan->cuts == CRASH_ALL || !crash_seed_has_faults(seed))
			crash_try_seed(seed, plan);
	}
}

/* Return: whether all of them came to a good end. */
static bool run(struct campaign *campaign, unsigned jobs)
{
	pid_t pid[JOBS_MAX];
	bool good = true;
	int status;

	for (unsigned i = 0; i < jobs; i++) {
		pid[i] = fork();
		if (pid[i] < 0)
			crash_die("fork");
		if (!pid[i]) {
			work(campaign);
			exit(0);
		}
	}
	for (unsigned left = jobs; left;) {
		pid_t ended = wait(&status);

		for (unsigned i = 0; i < jobs; i++) {
			if (pid[i] != ended)
				continue;
			pid[i] = 0;
			left--;
		}
		if (status == 0 || !good)
			continue;
		good = false;
		for (unsigned i = 0; i < jobs; i++)
			if (pid[i])
				kill(pid[i], SIGKILL);
	}
	return good;
}

int main(void)
{
	uint64_t jobs = number_of("XS_JOBS", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
	struct campaign *campaign;
	struct timespec begin, end;
	uint64_t first;
	bool good;

	if (crash_try_named()) {
		puts("xs_campaign: that state is right");
		return 0;
	}
	campaign = campaign_new();
	first = campaign->next_seed;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	good = run(campaign, (unsigned)(jobs < 1 ? 1 : jobs > JOBS_MAX ? JOBS_MAX : jobs));
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("xs_campaign: seeds %" PRIu64 " to %" PRIu64 ", %" PRIu64 " states judged, %" PRIu64
	       " distinct images, %" PRIu64 " (%" PRIu64
	       " %%) of them with writes dropped or torn, %lld s\n",
	       first, campaign->next_seed - 1, campaign->plan.states, campaign->plan.distinct,
	       campaign->plan.incomplete,
	       campaign->plan.incomplete * 100 /
		       (campaign->plan.distinct | !campaign->plan.distinct),
	       (long long)(end.tv_sec - begin.tv_sec));
	if (good && campaign->plan.cuts == CRASH_ALL &&
	    campaign->plan.incomplete * 2 < campaign->plan.distinct) {
		puts("xs_campaign: less than half of the images lack something");
		good = false;
	}
	return good ? 0 : 1;
}
