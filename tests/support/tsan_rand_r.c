// SPDX-License-Identifier: MIT
/*
 * Criterion starts each test in a process of its own, which maps a shared
 * arena at 0x200000000000 + (rand_r() & 0x3fffff) * 2^24. Nearly all of these
 * addresses are ThreadSanitizer's shadow, so under TSan most test programs
 * would not start (BoxFort, Criterion issue 274). This rand_r, which
 * libcriterion finds before the C library's, yields addresses in
 * 0x550000000000..0x558000000000: memory that TSan leaves to the program.
 */
#ifdef IOMAP_TSAN

#include <stdlib.h>

int rand_r(unsigned int *seed)
{
	static unsigned int calls;

	(void)seed;
	return (int)(0x350000 + (__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) * 97 + 11) % 0x4000);
}

#else

typedef int iomap_test_no_tsan; /* ISO C wants at least one declaration */

#endif
