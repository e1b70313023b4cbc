/* SPDX-License-Identifier: MIT */
/*
 * debug.c - the counters of the calling thread, for tests.
 */
#include "base/base.h"

int iomap_debug_counters(struct iomap_debug_counters *out, size_t size)
{
	if (!out || size != sizeof(*out))
		return -EINVAL;
	if (!IOMAP_DEBUG)
		return -EOPNOTSUPP;
	*out = iomap__thread_self()->counters;
	return 0;
}
