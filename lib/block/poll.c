/* SPDX-License-Identifier: MIT */
/*
 * poll.c - sleeping in several queues at once, or until a deadline: ppoll() on a descriptor
 * of each queue and on the waiter's eventfd.
 *
 * The queue that is the thread's alone is not polled, but asked to tell the eventfd: a ring
 * whose completions wait for its thread does not wake who polls it.
 *
 * A queue's descriptor may be readable with nothing left to collect; the waiter then looks
 * around once more than it had to, and the backend sees to it that this does not go on.
 */
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "block/internal.h"

#define POLL_NO_EVENTFD_NS 1000000 /* how long to sleep where nobody can kick us */

/* @heard: all that may end the sleep does.  False: the deadline has passed.  *@out: NULL for no
 * limit, else @left. */
static bool poll_timeout(const struct iomap__waiter *waiter, bool heard, struct timespec *left,
			 struct timespec **out)
{
	uint64_t left_ns = heard ? 0 : POLL_NO_EVENTFD_NS, now_ns;
	struct timespec now;

	if (waiter->deadline_ns) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
		if (now_ns >= waiter->deadline_ns)
			return false;
		if (!left_ns || left_ns > waiter->deadline_ns - now_ns)
			left_ns = waiter->deadline_ns - now_ns;
	}
	left->tv_sec = (time_t)(left_ns / 1000000000U);
	left->tv_nsec = (long)(left_ns % 1000000000U);
	*out = left_ns ? left : NULL;
	return true;
}

static void poll_sleep(struct iomap__blk *blk, struct iomap__waiter *waiter, bool heard)
{
	struct pollfd fds[IOMAP__QUEUES_MAX + 1];
	struct timespec left, *timeout;
	uint64_t count;
	unsigned i, nr = 0;

	for (i = 0; i < blk->nr_queues; i++)
		if (waiter->asleep_roles & UINT32_C(1) << i)
			fds[nr++] = (struct pollfd){
				.fd = blk->backend->poll_fd(&blk->queues[i]),
				.events = POLLIN,
			};
	if (waiter->eventfd >= 0)
		fds[nr++] = (struct pollfd){ .fd = waiter->eventfd, .events = POLLIN };
	if (!poll_timeout(waiter, heard, &left, &timeout))
		return;
	iomap__count(syscalls_nr);
	if (ppoll(fds, nr, timeout, NULL) > 0 && waiter->eventfd >= 0 && fds[nr - 1].revents) {
		iomap__count(syscalls_nr);
		if (read(waiter->eventfd, &count, sizeof(count)) < 0)
			return; /* emptied by its previous user */
	}
}

void iomap__sleep_poll(struct iomap__blk *blk, struct iomap__waiter *waiter)
{
	bool heard = waiter->eventfd >= 0;

	if (!waiter->asleep_own) {
		poll_sleep(blk, waiter, heard);
		return;
	}
	if (heard)
		heard = blk->backend->private_watch(waiter->own, waiter->eventfd) == 0;
	/* what ended before nobody is told of any more */
	if (!blk->backend->ready(waiter->own))
		poll_sleep(blk, waiter, heard);
	if (heard)
		(void)blk->backend->private_watch(waiter->own, -1);
}
