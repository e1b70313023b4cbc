/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * errseq.c - an error is told once to each observer.
 */
#include <criterion/criterion.h>

#include "base/base.h"

Test(errseq, each_observer_is_told_once)
{
	uint32_t eseq = 0, a = iomap__errseq_sample(&eseq), b = iomap__errseq_sample(&eseq);

	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), 0);
	iomap__errseq_set(&eseq, -EIO);
	cr_assert_eq(iomap__errseq_check(&eseq, a), -EIO);
	cr_assert_eq(iomap__errseq_check(&eseq, a), -EIO, "check moves nothing");
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), -EIO);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), 0);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), -EIO);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), 0);
}

Test(errseq, the_same_error_again_is_told_again)
{
	uint32_t eseq = 0, a = 0;

	for (int i = 0; i < 100; i++) {
		iomap__errseq_set(&eseq, -ENOSPC);
		cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), -ENOSPC, "round %d", i);
		cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), 0, "round %d", i);
	}
}

Test(errseq, an_error_nobody_saw_goes_to_the_next_observer_only)
{
	uint32_t eseq = 0, first, second;

	iomap__errseq_set(&eseq, -EIO);
	first = iomap__errseq_sample(&eseq);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &first), -EIO);
	second = iomap__errseq_sample(&eseq);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &second), 0, "it has been seen");
}

Test(errseq, errors_between_two_looks_are_told_as_one)
{
	uint32_t eseq = 0, a = 0, b = 0;

	iomap__errseq_set(&eseq, -EIO);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), -EIO);
	iomap__errseq_set(&eseq, -ENOSPC);
	iomap__errseq_set(&eseq, -ENOSPC);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), -ENOSPC);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), 0);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), -ENOSPC);
	cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), 0);
}

Test(errseq, an_error_that_another_observer_saw_first_is_told_all_the_same)
{
	uint32_t eseq = 0, a = 0, b = 0;

	/* the same errno twice: but for the count the word would look as a left it */
	for (int i = 0; i < 3; i++) {
		iomap__errseq_set(&eseq, -EIO);
		cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &b), -EIO);
		cr_assert_eq(iomap__errseq_check_and_advance(&eseq, &a), -EIO, "round %d", i);
	}
}
