/* SPDX-License-Identifier: MIT */
/*
 * stats.c - reading counters that are spread over threads.
 */
#include "base/base.h"

uint64_t iomap__stat_sum(const struct iomap__stats *stats, unsigned which)
{
	uint64_t sum = 0;
	unsigned slot;

	/* relaxed: a sum taken while others count is a recent value, no more */
	for (slot = 0; slot < IOMAP__STAT_SLOTS; slot++)
		sum += atomic_load_explicit(&stats->slot[slot][which], memory_order_relaxed);
	return sum;
}

uint64_t iomap__stat_sum_acquire(const struct iomap__stats *stats, unsigned which)
{
	uint64_t sum = 0;
	unsigned slot;

	for (slot = 0; slot < IOMAP__STAT_SLOTS; slot++)
		sum += atomic_load_explicit(&stats->slot[slot][which], memory_order_acquire);
	return sum;
}
