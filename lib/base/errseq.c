/* SPDX-License-Identifier: MIT */
/*
 * errseq.c - an error word that each observer sees once.
 *
 * The word: errno (12 bits), SEEN (some observer has been told), a count above.  A new error
 * after a SEEN one moves the count, so that the word differs from every cursor taken before.
 * A cursor is 0 or a word with SEEN set.  One that is 0 differs from every word with an
 * error in it: that is how an error which nobody has seen yet reaches the next observer.
 *
 * All orders are relaxed but for recording and telling, so that whoever is told also sees
 * what was written before the error was recorded.
 */
#include "base/base.h"

#define ERRSEQ_ERRNO 0xfffU
#define ERRSEQ_SEEN 0x1000U
#define ERRSEQ_COUNT 0x2000U

void iomap__errseq_set(uint32_t *eseq, int error)
{
	uint32_t old = iomap__load(eseq), new;

	iomap__assert(error < 0 && error >= -(int)ERRSEQ_ERRNO);
	do {
		new = (old & ~(ERRSEQ_ERRNO | ERRSEQ_SEEN)) | (uint32_t)-error;
		if (old & ERRSEQ_SEEN)
			new += ERRSEQ_COUNT;
		/* release: pairs with the acquire loads below */
	} while (!__atomic_compare_exchange_n(eseq, &old, new, true, __ATOMIC_RELEASE,
					      __ATOMIC_RELAXED));
}

uint32_t iomap__errseq_sample(uint32_t *eseq)
{
	uint32_t now = iomap__load_acquire(eseq);

	return now & ERRSEQ_SEEN ? now : 0;
}

int iomap__errseq_check(uint32_t *eseq, uint32_t since)
{
	uint32_t now = iomap__load_acquire(eseq);

	return now == since ? 0 : -(int)(now & ERRSEQ_ERRNO);
}

int iomap__errseq_check_and_advance(uint32_t *eseq, uint32_t *since)
{
	uint32_t now = iomap__load_acquire(eseq);

	if (now == *since)
		return 0;
	/* Mark it seen.  A newer error that comes in between is told instead. */
	while (!(now & ERRSEQ_SEEN))
		if (__atomic_compare_exchange_n(eseq, &now, now | ERRSEQ_SEEN, false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			now |= ERRSEQ_SEEN;
	*since = now;
	return -(int)(now & ERRSEQ_ERRNO);
}
