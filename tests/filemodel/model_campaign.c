/* SPDX-License-Identifier: MIT */
/*
 * model_campaign.c - the file model for as long as one likes, or one run of it again.
 *
 *	IOMAP_TEST_SEED=n	the seed; else the clock's, printed
 *	IOMAP_MODEL_OPS=n	operations in all; else 2,000,000, with IOMAP_FULL=1 20,000,000
 *	IOMAP_MODEL_THREADS=n	1 to 8 threads; else half of the operations with 1, half with 4
 *	IOMAP_MODEL_RUN=n	only this run, with as many threads as are told
 *	IOMAP_MODEL_SHRINK=1	and, with one thread, without the operations that it fails without
 */
#include <inttypes.h>
#include <stdlib.h>

#include "fm.h"

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

int main(void)
{
	uint64_t ops = number("IOMAP_MODEL_OPS", number("IOMAP_FULL", 0) ? 20000000 : 2000000);
	unsigned threads = (unsigned)number("IOMAP_MODEL_THREADS", 0);
	uint64_t run = number("IOMAP_MODEL_RUN", UINT64_MAX), seed = t_seed();
	struct fm_count count;

	if (threads > FM_THREADS_MAX) {
		fprintf(stderr, "at most %d threads\n", FM_THREADS_MAX);
		return 2;
	}
	if (run != UINT64_MAX && number("IOMAP_MODEL_SHRINK", 0))
		return fm_shrink(seed, run);
	if (run != UINT64_MAX) {
		fm_campaign(seed, run, 0, threads ? threads : 1, &count);
	} else if (threads) {
		fm_campaign(seed, 0, ops, threads, &count);
	} else {
		fm_campaign(seed, 0, ops / 2, 1, &count);
		fm_campaign(seed, 0, ops / 2, 4, &count);
	}
	return 0;
}
