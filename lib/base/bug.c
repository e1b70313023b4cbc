/* SPDX-License-Identifier: MIT */
/*
 * bug.c - the end of a debug build that has found a bug.
 *
 * Writes straight to file descriptor 2: the process may hold any lock, and the engine's
 * log callback may be what is broken.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/base.h"

void iomap__bug(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	dprintf(STDERR_FILENO, "libiomap: bug at %s:%d: ", file, line);
	va_start(args, fmt);
	vdprintf(STDERR_FILENO, fmt, args);
	va_end(args);
	dprintf(STDERR_FILENO, "\n");
	abort();
}
