/* SPDX-License-Identifier: MIT */
/*
 * policy.c - CA02: which folios are evicted, counted.
 *
 * The library gets the requests of a trace through its interface (bench/policy_drive.c); the same
 * trace goes through simulations of S3-FIFO and LRU.  There is neither time nor chance in any of
 * it: the numbers are always the same.
 */
#include <criterion/criterion.h>

#include "policy.h"
#include "testutil.h"

#define OBJECTS 8192U
#define REQUESTS 150000U

struct misses {
	double ours, s3, lru;
};

static struct misses measure(enum policy_kind kind, double skew, unsigned share)
{
	const struct policy_spec spec = { kind, skew, OBJECTS, REQUESTS, 42 };
	struct policy_trace trace;
	struct misses misses;
	uint64_t pages;

	cr_assert_eq(policy_trace_make(&spec, &trace), 0);
	pages = trace.nr_pages / share;
	misses.ours = policy_drive(&trace, pages);
	misses.s3 = policy_simulate(policy_find("s3-fifo"), &trace, pages);
	misses.lru = policy_simulate(policy_find("lru"), &trace, pages);
	policy_trace_free(&trace);
	cr_assert_geq(misses.ours, 0);
	return misses;
}

static void expect_good(enum policy_kind kind, double skew)
{
	for (unsigned share = 32; share >= 4; share /= 2) {
		struct misses m = measure(kind, skew, share);

		cr_expect_leq(m.ours, m.s3 * 1.02, "1/%u: ours %f, S3-FIFO %f", share, m.ours, m.s3);
		cr_expect_lt(m.ours, m.lru, "1/%u: ours %f, LRU %f", share, m.ours, m.lru);
	}
}

Test(policy, ca02_misses_of_zipf_with_a_scan_are_those_of_s3_fifo)
{
	expect_good(POLICY_ZIPF_SCAN, 1.0);
}

Test(policy, ca02_misses_of_zipf_alone)
{
	expect_good(POLICY_ZIPF, 0.8);
	expect_good(POLICY_ZIPF, 1.2);
}

Test(policy, ca02_misses_of_a_loop_beside_zipf)
{
	expect_good(POLICY_LOOP, 1.0);
}

Test(policy, ca02_misses_of_zipf_a_loop_and_a_scan_at_once)
{
	expect_good(POLICY_MIXED, 1.0);
}

Test(policy, ca02_large_folios_are_charged_by_their_pages)
{
	expect_good(POLICY_SIZES, 1.0);
}
