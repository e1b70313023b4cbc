/* SPDX-License-Identifier: MIT */
/*
 * loop.c - the descriptor by which an application's event loop learns that there is something
 * for iomap_engine_poll().
 *
 * It is an epoll instance over
 *	the queues' descriptors	edge triggered: completions have come
 *	`notify`		an eventfd, edge triggered: look around, whatever it is for
 *	`work`			an eventfd, level triggered: functions are queued (work.c)
 * and is made when it is first asked for; until then all of this costs a branch.
 *
 * Why edges.  A completion may be for a queue that another thread reaps, asleep or on its way:
 * by level the loop would spin until that one has come.  A poll first takes the edges away
 * (iomap__loop_begin()) and then looks at all queues, so no edge is taken without a look
 * behind it.  The look may find that somebody else has the role.  That one collects all there
 * is before it sleeps; and when it gives up the role it looks once more, under park_lock, and
 * notifies if it leaves anything (park_leave_roles()).  Say that an edge was taken for a
 * completion C, the poll found the role of its queue taken, and nobody has collected C.  The
 * poll looked at the role under park_lock, before the owner gave it up under the same lock, so
 * the owner's last look comes after C: it sees it, and notifies.
 *
 * Backends whose completions come without a descriptor notify when nobody has the role
 * (iomap__park_work_ended()).
 *
 * Locks: bdevs_lock while it is made.  `loop` is set under park_lock, and stays.
 */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/internal.h"

#define LOOP_EVENTS (IOMAP__QUEUES_MAX + 2U)

static int loop_add(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int loop_add_eventfd(struct iomap__blk *blk, int epoll, uint32_t events, int *out)
{
	int error;

	if (iomap__fails(blk->env, IOMAP_FAIL_EVENTFD))
		return -EMFILE;
	*out = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*out < 0)
		return -errno;
	error = loop_add(epoll, *out, events);
	if (error) {
		close(*out);
		*out = -1;
	}
	return error;
}

static int loop_fill(struct iomap__blk *blk, struct iomap__loop *loop)
{
	int error;
	unsigned i;

	error = loop_add_eventfd(blk, loop->epoll, EPOLLIN | EPOLLET, &loop->notify);
	if (!error)
		error = loop_add_eventfd(blk, loop->epoll, EPOLLIN, &loop->work);
	for (i = 0; !error && blk->backend->poll_fd && i < blk->nr_queues; i++)
		error = loop_add(loop->epoll, blk->backend->poll_fd(&blk->queues[i]),
				 EPOLLIN | EPOLLET);
	return error;
}

static void loop_close(struct iomap__loop *loop)
{
	if (loop->work >= 0)
		close(loop->work);
	if (loop->notify >= 0)
		close(loop->notify);
	if (loop->epoll >= 0)
		close(loop->epoll);
}

/* bdevs_lock held. */
static int loop_create(struct iomap__blk *blk)
{
	struct iomap__loop loop = { .epoll = -1, .notify = -1, .work = -1 };
	int error = -EMFILE;

	if (!iomap__fails(blk->env, IOMAP_FAIL_EVENTFD)) {
		loop.epoll = epoll_create1(EPOLL_CLOEXEC);
		error = loop.epoll < 0 ? -errno : loop_fill(blk, &loop);
	}
	if (error) {
		loop_close(&loop);
		return error;
	}
	blk->loop = loop;
	iomap__mutex_lock(&blk->park_lock);
	/* release: pairs with iomap__loop_on() */
	atomic_store_explicit(&blk->loop_on, true, memory_order_release);
	iomap__mutex_unlock(&blk->park_lock);
	return 0;
}

int iomap__loop_fd(struct iomap__blk *blk)
{
	int error = 0;

	iomap__mutex_lock(&blk->bdevs_lock);
	if (!iomap__loop_on(blk)) {
		error = loop_create(blk);
		/* for what came before there was anybody to be told */
		if (!error)
			iomap__loop_notify(blk);
	}
	iomap__mutex_unlock(&blk->bdevs_lock);
	return error ? error : blk->loop.epoll;
}

void iomap__loop_begin(struct iomap__blk *blk)
{
	struct epoll_event events[LOOP_EVENTS];

	if (!iomap__loop_on(blk))
		return;
	iomap__count(syscalls_nr);
	(void)epoll_wait(blk->loop.epoll, events, LOOP_EVENTS, 0);
}

static void loop_write(int fd)
{
	uint64_t one = 1;

	iomap__count(syscalls_nr);
	/* fails only when it is full, and then it is readable */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

void iomap__loop_notify(struct iomap__blk *blk)
{
	if (iomap__loop_on(blk))
		loop_write(blk->loop.notify);
}

void iomap__loop_work(struct iomap__blk *blk, bool waiting)
{
	uint64_t count;

	if (waiting) {
		loop_write(blk->loop.work);
		return;
	}
	iomap__count(syscalls_nr);
	if (read(blk->loop.work, &count, sizeof(count)) < 0)
		return; /* nothing was in it */
}

void iomap__loop_exit(struct iomap__blk *blk)
{
	if (iomap__loop_on(blk))
		loop_close(&blk->loop);
}
