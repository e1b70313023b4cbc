/* SPDX-License-Identifier: MIT */
/*
 * iomap/jemalloc.h - allocation hooks that take memory from jemalloc.
 *
 * In a library of its own, libiomap-jemalloc, which is there where jemalloc was when libiomap was
 * built: link it besides libiomap (pkg-config libiomap-jemalloc).  A shared object that links
 * jemalloc cannot be loaded by dlopen(), so libiomap itself does not.
 */
#ifndef IOMAP_JEMALLOC_H
#define IOMAP_JEMALLOC_H

#include <iomap/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * iomap_jemalloc_hooks - hooks with an arena of jemalloc of their own
 * @out: receives them, for iomap_engine_opts.alloc
 *
 * What the engine allocates lies together, apart from what the application does, and all of it
 * can be given back at once.  May serve several engines.  Any thread.
 *
 * Return: 0; -ENOMEM or -EAGAIN: jemalloc has no arena left; -EINVAL.
 */
IOMAP_API IOMAP_MUST_CHECK int iomap_jemalloc_hooks(struct iomap_alloc_hooks *out);

/**
 * iomap_jemalloc_hooks_release - give the arena back, with all memory in it
 * @hooks: of iomap_jemalloc_hooks(); zeroed.  NULL, and hooks that are zero, are ignored.
 *
 * When all engines that have used them are destroyed.
 */
IOMAP_API void iomap_jemalloc_hooks_release(struct iomap_alloc_hooks *hooks);

#ifdef __cplusplus
}
#endif
#endif
