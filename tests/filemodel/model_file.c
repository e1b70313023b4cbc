/* SPDX-License-Identifier: MIT */
/*
 * model_file.c - BW, TR, DR, DW, FY: the file model, as long as the suite has time for.
 *
 * One thread goes through more kinds of stores and is the same each time; four meet in the same
 * folios.  model_campaign.c is the same without end.
 */
#include <criterion/criterion.h>

#include "fm.h"

#define OPS (T_SANITIZED ? 20000U : 500000U)

Test(model_file, bw02_tr02_dr01_dw01_fy01_one_thread_agrees_with_the_model, .timeout = 600)
{
	struct fm_count count;

	fm_campaign(t_seed(), 0, OPS, 1, &count);
	cr_assert_geq(count.ops, OPS);
	cr_assert_eq(count.unchecked, 0U);
	cr_assert_geq(count.evictions, OPS / 100);
}

Test(model_file, bw02_tr02_dr01_dw01_fy01_four_threads_in_the_same_folios, .timeout = 600)
{
	struct fm_count count;

	fm_campaign(t_seed(), 0, OPS, 4, &count);
	cr_assert_geq(count.ops, OPS);
	cr_assert_leq(count.unchecked, OPS / 1000);
	cr_assert_geq(count.evictions, OPS / 100);
	cr_assert_geq(count.shared, count.ops / 5, "only %llu of %llu shared a folio",
		      (unsigned long long)count.shared, (unsigned long long)count.ops);
}
