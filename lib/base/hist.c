/* SPDX-License-Identifier: MIT */
/*
 * hist.c - histograms of latencies, in shards so that threads do not meet at one line.
 *
 * The first threads have a shard each and count without a read-modify-write; those that come
 * later share the last one.
 */
#include "base/base.h"

static unsigned hist_bucket(uint64_t ns)
{
	unsigned n = 63U - (unsigned)__builtin_clzll(ns | 1);

	return iomap__min(n, IOMAP_HIST_BUCKETS_NR - 1U);
}

void iomap__hist_add(struct iomap__hist *hist, unsigned kind, uint64_t ns)
{
	unsigned id = iomap__thread_self()->id;
	bool shared = id >= IOMAP__HIST_SHARDS - 1U;
	_Atomic uint64_t *nr =
		&hist->nr[shared ? IOMAP__HIST_SHARDS - 1U : id][kind][hist_bucket(ns)];

	/* relaxed, as all counters: a sum is a recent value, no more */
	if (shared)
		atomic_fetch_add_explicit(nr, 1, memory_order_relaxed);
	else
		atomic_store_explicit(nr, atomic_load_explicit(nr, memory_order_relaxed) + 1,
				      memory_order_relaxed);
}

void iomap__hist_sum(const struct iomap__hist *hist, unsigned kind, uint64_t *sum)
{
	for (unsigned shard = 0; shard < IOMAP__HIST_SHARDS; shard++)
		for (unsigned i = 0; i < IOMAP_HIST_BUCKETS_NR; i++)
			sum[i] += atomic_load_explicit(&hist->nr[shard][kind][i],
						       memory_order_relaxed);
}

void iomap__hist_give(const uint64_t *sum, uint64_t *buckets, unsigned nr)
{
	memset(buckets, 0, nr * sizeof(*buckets));
	for (unsigned i = 0; i < IOMAP_HIST_BUCKETS_NR; i++)
		buckets[iomap__min(i, nr - 1)] += sum[i];
}
