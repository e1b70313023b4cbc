/* SPDX-License-Identifier: MIT */
/*
 * bits.h - arrays of bits: of space (alloc.c), and of what is reserved (delalloc.c).
 *
 * All of them take the array as it is: bit N is bit N % 64 of word N / 64.  The caller's lock.
 */
#ifndef XSTORE_BITS_H
#define XSTORE_BITS_H

#include <stdbool.h>
#include <stdint.h>

/* The first bit from @at on, below @end, that is @set; @end when there is none. */
static inline uint64_t xs_bits_next(const uint64_t *bits, uint64_t at, uint64_t end, bool set)
{
	uint64_t flip = set ? 0 : UINT64_MAX;

	while (at < end) {
		uint64_t word = (bits[at / 64] ^ flip) >> (at % 64);

		if (word) {
			at += (uint64_t)__builtin_ctzll(word);
			return at < end ? at : end;
		}
		at = (at / 64 + 1) * 64;
	}
	return end;
}

/* Where the set bits in front of @at begin; @at when there are none. */
static inline uint64_t xs_bits_run_start(const uint64_t *bits, uint64_t at)
{
	while (at) {
		uint64_t last = at - 1;
		uint64_t clear = ~bits[last / 64] << (63 - last % 64);

		if (clear)
			return at - (uint64_t)__builtin_clzll(clear);
		at -= last % 64 + 1;
	}
	return 0;
}

/* Of the word of @start: the bits from there on, @nr of them, or as many as it has. */
static inline uint64_t xs_bits_mask(uint64_t start, uint64_t nr, uint64_t *in_word)
{
	uint64_t left = 64 - start % 64;

	*in_word = nr < left ? nr : left;
	return (*in_word == 64 ? UINT64_MAX : (UINT64_C(1) << *in_word) - 1) << (start % 64);
}

static inline void xs_bits_set(uint64_t *bits, uint64_t start, uint64_t nr, bool set)
{
	uint64_t n;

	for (; nr; start += n, nr -= n) {
		uint64_t mask = xs_bits_mask(start, nr, &n);

		if (set)
			bits[start / 64] |= mask;
		else
			bits[start / 64] &= ~mask;
	}
}

/* How many are set. */
static inline uint64_t xs_bits_count(const uint64_t *bits, uint64_t start, uint64_t nr)
{
	uint64_t count = 0, n;

	for (; nr; start += n, nr -= n) {
		uint64_t mask = xs_bits_mask(start, nr, &n);

		count += (uint64_t)__builtin_popcountll(bits[start / 64] & mask);
	}
	return count;
}

#endif
