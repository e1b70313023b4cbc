/* SPDX-License-Identifier: MIT */
/*
 * thread.h - what thread.c and epoch.c share.
 */
#ifndef IOMAP__THREAD_H
#define IOMAP__THREAD_H

#include "base/base.h"

/* Decide how readers and waiters fence; once, before the first reader. */
void iomap__epoch_init_process(void);
/* Head of the registry, to be followed by `next`. */
struct iomap__thread *iomap__thread_first(void);

#endif
