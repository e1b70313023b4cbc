/* SPDX-License-Identifier: MIT */
/*
 * stacked.h - what the library's stacked devices (faulty, writelog) have in common.
 */
#ifndef IOMAP__BLOCK_STACKED_H
#define IOMAP__BLOCK_STACKED_H

#include "block/internal.h"

/* Spread the bits of @x: neighbouring numbers give unrelated ones. */
static inline uint64_t iomap__mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* The number that belongs to @a and @b, in this order. */
static inline uint64_t iomap__mix2(uint64_t a, uint64_t b)
{
	return iomap__mix(iomap__mix(a) ^ b);
}

/* A sequence of random numbers out of a seed. */
static inline uint64_t iomap__random(uint64_t *state)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return iomap__mix(*state);
}

/* 0 <= result < n.  The bias of the remainder does not matter to a test. */
static inline uint64_t iomap__random_below(uint64_t *state, uint64_t n)
{
	return iomap__random(state) % n;
}

/* A size behind which there is no struct of ours in any version. */
#define IOMAP__OPTS_SIZE_MAX 4096U

/*
 * Take over a struct of the caller that starts with its size.  @least: what every version
 * has, behind which its members are reserved; @known: with these.  What is reserved, or
 * longer than we know, must be zero.
 */
static inline int iomap__opts_copy(void *to, size_t least, size_t known, const void *from)
{
	const unsigned char *bytes = from;
	size_t size, i;

	memcpy(&size, from, sizeof(size));
	if (size < least || size > IOMAP__OPTS_SIZE_MAX)
		return -EINVAL;
	for (i = least; i < size; i++)
		if (bytes[i])
			return -EINVAL;
	memset(to, 0, known);
	memcpy(to, from, iomap__min(size, known));
	return 0;
}

/* Fill a struct of @size bytes of the caller from one of @known bytes. */
static inline int iomap__info_copy(void *to, size_t size, const void *from, size_t known)
{
	if (!to || !size)
		return -EINVAL;
	memset(to, 0, size);
	memcpy(to, from, iomap__min(size, known));
	return 0;
}

#endif
