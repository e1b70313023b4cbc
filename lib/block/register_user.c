/* SPDX-License-Identifier: MIT */
/*
 * register_user.c - what the rings know of the application's memory (buffers.c).
 *
 * Behind the slots of folio memory each ring's table has a place for each of the engine's
 * buffers.  A ring that finds the generation moved goes through the engine's table: takes out
 * what is not there any more, or is another buffer now, which its id tells, and puts in what is
 * new.  It keeps them sorted by address: a transfer whose memory lies in one of them goes by its
 * place, and counts there until it is collected.  Of buffers that overlap the one that begins
 * last is looked at.
 *
 * What the kernel refuses a ring goes by address in that ring, with one log line for the engine.
 *
 * Locks: the queue's lock, under which the ring is used anyway; and for the engine's table
 * buffers->table_lock.
 */
#include "block/uring.h"

#define USER_PLACES_MAX 16384U /* the kernel's bound, of slots and buffers */

/* What a ring has of it; made when there is a buffer for the first time. */
struct iomap__uring_users {
	unsigned nr;
	unsigned base;			 /* place of the first buffer in the ring's table */
	uint64_t id[IOMAP__BUFFERS_MAX]; /* in the ring's table; 0: nothing */
	struct user {
		uintptr_t base;
		uint64_t bytes;
		unsigned place;
	} user[IOMAP__BUFFERS_MAX]; /* sorted by base */
};

static int user_update(struct iomap__queue *queue, unsigned place, void *base, uint64_t bytes)
{
	struct iomap__uring *uring = iomap__uring(queue);
	struct iovec iov = { .iov_base = base, .iov_len = bytes };
	__u64 tag = 0;

	if (uring->users->base + place >= USER_PLACES_MAX)
		return -ENOSPC;
	iomap__count(syscalls_nr);
	if (base && iomap__fails(queue->blk->env, IOMAP_FAIL_RING_REGISTER))
		return -ENOMEM;
	return io_uring_register_buffers_update_tag(&uring->ring, uring->users->base + place, &iov,
						    &tag, 1);
}

/* In its order. */
static void user_add(struct iomap__uring_users *users, const struct iomap__buffer *buffer,
		     unsigned place)
{
	unsigned at = users->nr++;

	for (; at && users->user[at - 1].base > buffer->base; at--)
		users->user[at] = users->user[at - 1];
	users->user[at] = (struct user){ buffer->base, buffer->bytes, place };
}

/* table_lock held. */
static void user_follow_place(struct iomap__queue *queue, struct iomap__buffers *buffers,
			      unsigned place)
{
	struct iomap__uring_users *users = iomap__uring(queue)->users;
	struct iomap__buffer *buffer = &buffers->place[place];
	bool wanted = buffer->id && buffer->known;
	int error;

	if (users->id[place] && (!wanted || users->id[place] != buffer->id)) {
		(void)user_update(queue, place, NULL, 0);
		users->id[place] = 0;
	}
	if (wanted && !users->id[place]) {
		error = user_update(queue, place, (void *)buffer->base, buffer->bytes);
		if (error < 0) {
			/* for what is said of the engine: not all rings have it */
			buffer->known = false;
			iomap__uring_complain(queue->blk, error);
			return;
		}
		users->id[place] = buffer->id;
	}
	if (users->id[place])
		user_add(users, buffer, place);
}

/* The ring's tables, if they can be had. */
static bool user_open(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);
	const struct iomap__uring_all *all = queue->blk->backend_data;
	int error = 0;

	if (uring->users)
		return true;
	if (!uring->table) {
		/* no folio memory is registered, so that nobody has made one */
		error = io_uring_register_buffers_sparse(&uring->ring, IOMAP__BUFFERS_MAX);
		uring->table = !error;
	}
	if (!error)
		uring->users = iomap__zalloc(queue->blk->env, sizeof(*uring->users));
	if (error)
		iomap__uring_complain(queue->blk, error);
	if (!uring->users)
		return false;
	uring->users->base = uring->memory ? all->nr_slots : 0;
	return true;
}

void iomap__uring_follow(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);
	struct iomap__blk *blk = queue->blk;
	/* acquire, both: pair with the releases of buffers.c */
	uint64_t generation = iomap__load_acquire(&blk->buffers_generation);
	struct iomap__buffers *buffers = iomap__load_acquire(&blk->buffers);
	bool opened;

	uring->users_generation = generation;
	opened = user_open(queue);
	iomap__mutex_lock(&buffers->table_lock);
	if (opened)
		uring->users->nr = 0;
	for (unsigned place = 0; place < IOMAP__BUFFERS_MAX; place++)
		if (opened)
			user_follow_place(queue, buffers, place);
		else
			buffers->place[place].known = false;
	iomap__mutex_unlock(&buffers->table_lock);
}

void iomap__uring_follow_buffers(struct iomap__blk *blk)
{
	for (unsigned i = 0; i < blk->nr_queues; i++) {
		struct iomap__queue *queue = &blk->queues[i];

		iomap__mutex_lock(&queue->lock);
		iomap__uring_follow(queue);
		iomap__mutex_unlock(&queue->lock);
	}
}

void iomap__uring_close_users(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);

	iomap__free(queue->blk->env, uring->users, sizeof(*uring->users));
	uring->users = NULL;
	uring->users_generation = 0;
}

int iomap__uring_user(struct iomap__queue *queue, const void *addr, uint64_t bytes, unsigned *place)
{
	const struct iomap__uring_users *users = iomap__uring(queue)->users;
	unsigned low = 0, high = users ? users->nr : 0;
	const struct user *user;

	/* the last one that begins at the address or before */
	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (users->user[mid].base <= (uintptr_t)addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return -1;
	user = &users->user[low - 1];
	if ((uintptr_t)addr - user->base > user->bytes ||
	    bytes > user->bytes - ((uintptr_t)addr - user->base))
		return -1;
	*place = user->place;
	iomap__fetch_add(&queue->blk->buffers->place[*place].inflight, 1);
	return (int)(users->base + *place);
}
