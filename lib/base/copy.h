/* SPDX-License-Identifier: MIT */
/*
 * copy.h - moving bytes in and out of folio memory; part of base.h, which includes it.
 *
 * A copying reader takes no lock: it copies bytes that a writer may be changing, and throws
 * the copy away when the folio's version has moved (cache/hit.h has the argument).  In C11's
 * letter that is a data race, so under ThreadSanitizer both sides go by relaxed atomic
 * words, which is what the plain copy amounts to on the machine; everywhere else it is
 * memcpy.  The other side of a copy, the caller's memory, is always accessed plainly, so
 * that races there are still found.
 *
 * The memory of a memory device is like the medium of a disk: transfers of one range may
 * overlap, and what the reader then gets, old or new, is thrown away by whoever let them
 * (a direct write beside readahead invalidates the folios when it has ended).
 * iomap__copy_medium() is for it: words on both sides.
 */
#ifndef IOMAP__COPY_H
#define IOMAP__COPY_H

#if IOMAP__TSAN
#define IOMAP__FENCE(order) ((void)0) /* TSan follows the version word itself */

static inline void iomap__copy_from_folio(void *to, const void *folio_mem, size_t n)
{
	const unsigned char *s = folio_mem;
	unsigned char *d = to;

	for (; n && ((uintptr_t)s & 7); n--)
		*d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
	for (; n >= 8; n -= 8, s += 8, d += 8) {
		uint64_t v = __atomic_load_n((const uint64_t *)(const void *)s, __ATOMIC_RELAXED);

		memcpy(d, &v, 8);
	}
	for (; n; n--)
		*d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
}

static inline void iomap__copy_to_folio(void *folio_mem, const void *from, size_t n)
{
	const unsigned char *s = from;
	unsigned char *d = folio_mem;

	for (; n && ((uintptr_t)d & 7); n--)
		__atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
	for (; n >= 8; n -= 8, s += 8, d += 8) {
		uint64_t v;

		memcpy(&v, s, 8);
		__atomic_store_n((uint64_t *)(void *)d, v, __ATOMIC_RELAXED);
	}
	for (; n; n--)
		__atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
}

static inline void iomap__copy_medium(void *to, const void *from, size_t n)
{
	const unsigned char *s = from;
	unsigned char *d = to;

	if (!(((uintptr_t)s | (uintptr_t)d) & 7))
		for (; n >= 8; n -= 8, s += 8, d += 8)
			__atomic_store_n((uint64_t *)(void *)d,
					 __atomic_load_n((const uint64_t *)(const void *)s,
							 __ATOMIC_RELAXED), __ATOMIC_RELAXED);
	for (; n; n--)
		__atomic_store_n(d++, __atomic_load_n(s++, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

static inline void iomap__fill_folio_mem(void *folio_mem, uint8_t value, size_t n)
{
	uint64_t word = value * UINT64_C(0x0101010101010101);
	unsigned char *d = folio_mem;

	for (; n && ((uintptr_t)d & 7); n--)
		__atomic_store_n(d++, value, __ATOMIC_RELAXED);
	for (; n >= 8; n -= 8, d += 8)
		__atomic_store_n((uint64_t *)(void *)d, word, __ATOMIC_RELAXED);
	for (; n; n--)
		__atomic_store_n(d++, value, __ATOMIC_RELAXED);
}
#else
#define IOMAP__FENCE(order) atomic_thread_fence(order)

static inline void iomap__copy_from_folio(void *to, const void *folio_mem, size_t n)
{
	memcpy(to, folio_mem, n);
}

static inline void iomap__copy_to_folio(void *folio_mem, const void *from, size_t n)
{
	memcpy(folio_mem, from, n);
}

static inline void iomap__copy_medium(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
}

static inline void iomap__fill_folio_mem(void *folio_mem, uint8_t value, size_t n)
{
	memset(folio_mem, value, n);
}
#endif

static inline void iomap__zero_folio_mem(void *folio_mem, size_t n)
{
	iomap__fill_folio_mem(folio_mem, 0, n);
}

#endif
