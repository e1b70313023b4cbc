/* SPDX-License-Identifier: MIT */
/*
 * jemalloc.c - libiomap-jemalloc: hooks for memory out of an arena of jemalloc.
 *
 * The context of the hooks is the number of the arena, which is never 0: that is jemalloc's own.
 * No thread cache is used: a cache belongs to a thread and not to an arena, and destroying the
 * arena would leave in it what is not there any more.  It would serve nothing either, since the
 * library takes what it needs often from pools.
 *
 * Nothing here has state; jemalloc locks for itself, and sees to a fork().
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jemalloc/jemalloc.h>

#include <iomap/jemalloc.h>

static unsigned hooks_arena(void *ctx)
{
	return (unsigned)(uintptr_t)ctx;
}

static void *hooks_alloc(void *ctx, size_t align, size_t size)
{
	int flags = MALLOCX_ALIGN(align) | MALLOCX_ARENA(hooks_arena(ctx)) | MALLOCX_TCACHE_NONE;

	return mallocx(size ? size : 1, flags);
}

static void hooks_free(void *ctx, void *ptr, size_t size)
{
	(void)ctx;
	/* not by size: jemalloc would have to be told the alignment as well */
	(void)size;
	if (ptr)
		dallocx(ptr, MALLOCX_TCACHE_NONE);
}

int iomap_jemalloc_hooks(struct iomap_alloc_hooks *out)
{
	unsigned arena;
	size_t size = sizeof(arena);
	int error;

	if (!out)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	error = mallctl("arenas.create", &arena, &size, NULL, 0);
	if (error)
		return -error;
	out->alloc = hooks_alloc;
	out->free = hooks_free;
	out->ctx = (void *)(uintptr_t)arena;
	return 0;
}

void iomap_jemalloc_hooks_release(struct iomap_alloc_hooks *hooks)
{
	char name[48];

	if (!hooks || hooks->alloc != hooks_alloc)
		return;
	snprintf(name, sizeof(name), "arena.%u.destroy", hooks_arena(hooks->ctx));
	/* of an arena that is there it does not fail */
	(void)mallctl(name, NULL, NULL, NULL, 0);
	memset(hooks, 0, sizeof(*hooks));
}
