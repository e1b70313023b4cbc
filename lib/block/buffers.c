/* SPDX-License-Identifier: MIT */
/*
 * buffers.c - memory of the application that rings may know beforehand.
 *
 * The engine has one table of it, and each ring follows the table by itself: when `generation`
 * has moved since it last looked (register_user.c).  Whoever changes the table has the shared
 * rings follow it before he returns.  A ring of one thread follows when its thread next
 * prepares a transfer there, since nobody else may tell it; until then what has been taken
 * back stays pinned by it, but no transfer uses it.
 *
 *	free -> used -> leaving -> free		iomap_unregister_buffers()
 *		     <-				... when a transfer is in flight
 *
 * A transfer that goes by a buffer counts in it from its preparation until it has been collected,
 * so who takes the buffer out of the rings first, and then finds no transfer, finds none for good,
 * but those that others begin at the same time, which is for the caller to see to.
 *
 * Where no ring is told (another backend, IOMAP_ENGINE_NO_REGISTER, the limit on locked memory)
 * the table is kept all the same, and transfers go by address.
 *
 * Who frees: the end of the engine.
 *
 * Locks: buffers->lock (IOMAP__RANK_BDEV) one change at a time, held while rings follow;
 * buffers->table_lock (IOMAP__RANK_POOL) the places, for moments.
 */
#include "block/internal.h"

#define BUFFER_BYTES_MAX (UINT64_C(1) << 30) /* the kernel's bound for one */

static uint64_t buffers_id; /* of all engines; atomic */

/* The table, made when it is first needed; NULL: no memory. */
static struct iomap__buffers *buffers_get(struct iomap__blk *blk)
{
	/* acquire: pairs with the release below */
	struct iomap__buffers *buffers = iomap__load_acquire(&blk->buffers), *none = NULL;

	if (buffers)
		return buffers;
	buffers = iomap__zalloc(blk->env, sizeof(*buffers));
	if (!buffers)
		return NULL;
	iomap__mutex_init(&buffers->lock, IOMAP__RANK_BDEV);
	iomap__mutex_init(&buffers->table_lock, IOMAP__RANK_POOL);
	if (__atomic_compare_exchange_n(&blk->buffers, &none, buffers, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return buffers;
	iomap__free(blk->env, buffers, sizeof(*buffers));
	return none;
}

void iomap__buffers_exit(struct iomap__blk *blk)
{
	iomap__free(blk->env, blk->buffers, sizeof(*blk->buffers));
	blk->buffers = NULL;
}

/* buffers->lock held: the places have changed. */
static void buffers_changed(struct iomap__blk *blk)
{
	bool told = blk->backend->follow_buffers &&
		    !(blk->engine->opts.flags & IOMAP_ENGINE_NO_REGISTER);

	/* release: pairs with the acquire of rings that follow */
	iomap__store_release(&blk->buffers_generation, blk->buffers_generation + told);
	if (told)
		blk->backend->follow_buffers(blk);
}

/* The first of @nr free places in a row; IOMAP__BUFFERS_MAX: there are none. */
static unsigned buffers_find(const struct iomap__buffers *buffers, unsigned nr)
{
	unsigned i, run = 0;

	for (i = 0; i < IOMAP__BUFFERS_MAX; i++) {
		run = buffers->place[i].bytes ? 0 : run + 1;
		if (run == nr)
			return i + 1 - nr;
	}
	return IOMAP__BUFFERS_MAX;
}

static uint64_t buffers_bytes(const struct iomap__buffers *buffers, bool known)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < IOMAP__BUFFERS_MAX; i++)
		if (buffers->place[i].id && (!known || buffers->place[i].known))
			bytes += buffers->place[i].bytes;
	return bytes;
}

uint64_t iomap__buffers_known(struct iomap__blk *blk)
{
	struct iomap__buffers *buffers = iomap__load_acquire(&blk->buffers);
	uint64_t bytes;

	if (!buffers)
		return 0;
	iomap__mutex_lock(&buffers->table_lock);
	bytes = buffers_bytes(buffers, true);
	iomap__mutex_unlock(&buffers->table_lock);
	return bytes;
}

static bool buffers_are_good(const struct iovec *iov, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (!iov[i].iov_base || !iov[i].iov_len || iov[i].iov_len > BUFFER_BYTES_MAX ||
		    (uintptr_t)iov[i].iov_base > UINTPTR_MAX - iov[i].iov_len)
			return false;
	return true;
}

/* buffers->lock held. */
static void buffers_put(struct iomap__blk *blk, struct iomap__buffers *buffers, unsigned first,
			const struct iovec *iov, unsigned nr)
{
	bool told = blk->backend->follow_buffers &&
		    !(blk->engine->opts.flags & IOMAP_ENGINE_NO_REGISTER);
	uint64_t bytes = 0;
	unsigned i;

	for (i = 0; i < nr; i++)
		bytes += iov[i].iov_len;
	told = told && blk->backend->buffers_fit(blk, buffers_bytes(buffers, true) + bytes);
	iomap__mutex_lock(&buffers->table_lock);
	for (i = 0; i < nr; i++) {
		struct iomap__buffer *buffer = &buffers->place[first + i];

		buffer->base = (uintptr_t)iov[i].iov_base;
		buffer->bytes = iov[i].iov_len;
		buffer->id = iomap__fetch_add(&buffers_id, 1) + 1;
		buffer->known = told;
	}
	iomap__mutex_unlock(&buffers->table_lock);
}

int iomap_register_buffers(struct iomap_engine *engine, const struct iovec *iov, unsigned nr,
			   unsigned *first_index)
{
	struct iomap__buffers *buffers;
	struct iomap__blk *blk;
	unsigned first;

	if (!engine || !iov || !nr || !first_index || !buffers_are_good(iov, nr))
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	blk = engine->blk;
	buffers = buffers_get(blk);
	if (!buffers)
		return -ENOMEM;
	iomap__mutex_lock(&buffers->lock);
	first = buffers_find(buffers, nr);
	if (first < IOMAP__BUFFERS_MAX) {
		buffers_put(blk, buffers, first, iov, nr);
		buffers_changed(blk);
	}
	iomap__mutex_unlock(&buffers->lock);
	if (first == IOMAP__BUFFERS_MAX)
		return -ENOSPC;
	*first_index = first;
	return 0;
}

/* buffers->lock held.  All are in use; then none is, for the rings, or all again. */
static bool buffers_set(struct iomap__buffers *buffers, unsigned first, unsigned nr, bool leave,
			bool gone)
{
	unsigned i;

	for (i = 0; i < nr; i++)
		if (!buffers->place[first + i].bytes)
			return false;
	iomap__mutex_lock(&buffers->table_lock);
	for (i = 0; i < nr; i++) {
		struct iomap__buffer *buffer = &buffers->place[first + i];

		buffer->id = leave ? 0 : iomap__fetch_add(&buffers_id, 1) + 1;
		if (gone)
			buffer->bytes = 0;
	}
	iomap__mutex_unlock(&buffers->table_lock);
	return true;
}

static bool buffers_busy(const struct iomap__buffers *buffers, unsigned first, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		/* acquire: pairs with the release of iomap__buffers_done() */
		if (iomap__load_acquire(&buffers->place[first + i].inflight))
			return true;
	return false;
}

int iomap_unregister_buffers(struct iomap_engine *engine, unsigned first_index, unsigned nr)
{
	struct iomap__buffers *buffers;
	struct iomap__blk *blk;
	int error = 0;

	if (!engine || !nr || first_index >= IOMAP__BUFFERS_MAX ||
	    nr > IOMAP__BUFFERS_MAX - first_index)
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	blk = engine->blk;
	buffers = iomap__load_acquire(&blk->buffers);
	if (!buffers)
		return -EINVAL;
	iomap__mutex_lock(&buffers->lock);
	if (!buffers_set(buffers, first_index, nr, true, false)) {
		error = -EINVAL;
	} else {
		buffers_changed(blk);
		if (buffers_busy(buffers, first_index, nr))
			error = -EBUSY;
		buffers_set(buffers, first_index, nr, !error, !error);
		if (error)
			buffers_changed(blk);
	}
	iomap__mutex_unlock(&buffers->lock);
	return error;
}

void iomap__buffers_done(struct iomap__blk *blk, unsigned place)
{
	/* release: pairs with buffers_busy(): the device has done with the memory */
	iomap__fetch_sub(&blk->buffers->place[place].inflight, 1);
}
