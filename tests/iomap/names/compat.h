/* SPDX-License-Identifier: MIT */
/*
 * compat.h - what a kernel source needs and libiomap does not cover (docs/porting.md): a
 * lock, memory, warnings.  Whoever ports brings these; here they are a few lines of libc.
 */
#ifndef RUNFS_COMPAT_H
#define RUNFS_COMPAT_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef pthread_mutex_t spinlock_t;
#define spin_lock_init(lock) pthread_mutex_init(lock, NULL)
#define spin_lock(lock) pthread_mutex_lock(lock)
#define spin_unlock(lock) pthread_mutex_unlock(lock)

#define kzalloc(size, gfp) ((void)(gfp), calloc(1, size))
#define kfree(ptr) free(ptr)

#define WARN_ON(condition) \
	((condition) ? fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), true : false)

#endif
