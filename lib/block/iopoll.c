/* SPDX-License-Identifier: MIT */
/*
 * iopoll.c - whether a device can complete by being polled, asked when it is opened.
 *
 * Two questions, since neither answer is enough.  A read by a ring that polls: file systems and
 * block layers that cannot refuse it.  What the device's queue says in sysfs: where it has no
 * queues for polling a write is done all the same, by interrupt, while the ring spins for it.
 *
 * The answers are kept for iomap_features().  Left out, until there is a device to try it on:
 * polling itself.  All devices complete by interrupt.
 *
 * Lock: bdevs_lock guards the answers.
 */
#include <liburing.h>
#include <stdio.h>
#include <sys/stat.h>

#include "block/internal.h"

/* 0, or why the first block cannot be read so; *@why: what failed. */
static int iopoll_read(struct iomap_bdev *bdev, struct io_uring *ring, void *buf, const char **why)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int error;

	io_uring_prep_read(sqe, bdev->fd, buf, bdev->limits.logical_block_size, 0);
	*why = "io_uring_enter";
	iomap__count(syscalls_nr);
	do
		error = io_uring_submit_and_wait(ring, 1);
	while (error == -EINTR);
	if (error < 0)
		return error;
	*why = "a polled read";
	error = io_uring_peek_cqe(ring, &cqe);
	if (error)
		return error;
	error = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return error < 0 ? error : 0;
}

static int iopoll_try(struct iomap_bdev *bdev, const char **why)
{
	size_t bytes = iomap__max(bdev->limits.logical_block_size, IOMAP_PAGE_SIZE);
	struct iomap__env *env = &bdev->engine->env;
	struct io_uring ring;
	void *buf;
	int error;

	*why = "memory";
	buf = iomap__alloc_aligned(env, iomap__max(bdev->limits.dma_alignment, IOMAP_PAGE_SIZE),
				   bytes);
	if (!buf)
		return -ENOMEM;
	*why = "io_uring_setup";
	error = -ENOMEM;
	if (!iomap__fails(env, IOMAP_FAIL_RING_SETUP))
		error = io_uring_queue_init(1, &ring, IORING_SETUP_IOPOLL);
	if (!error) {
		error = iopoll_read(bdev, &ring, buf, why);
		io_uring_queue_exit(&ring);
	}
	iomap__free(env, buf, bytes);
	return error;
}

/* What stands against it; false: nothing. */
static bool iopoll_refused(struct iomap_bdev *bdev, char *why, size_t size)
{
	const char *what;
	struct stat st;
	int error, at;

	if (strcmp(bdev->engine->blk->backend->name, "io_uring") || !bdev->kind->queued ||
	    !bdev->direct) {
		snprintf(why, size, "%s", bdev->direct ? "its I/O does not go by io_uring" :
							 "its I/O is not direct");
		return true;
	}
	if (fstat(bdev->fd, &st) != 0) {
		snprintf(why, size, "fstat: %s", strerror(errno));
		return true;
	}
	error = iopoll_try(bdev, &what);
	at = error ? snprintf(why, size, "%s: %s; ", what, strerror(-error)) : 0;
	if (!iomap__file_queue_number(S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev, "io_poll"))
		at += snprintf(why + at, size - (size_t)at, "no queue of the device polls; ");
	if (at >= 2)
		why[at - 2] = '\0';
	return at;
}

void iomap__iopoll_probe(struct iomap_bdev *bdev)
{
	struct iomap__blk *blk = bdev->engine->blk;
	char why[IOMAP__IOPOLL_WHY];
	bool refused;

	if (!(bdev->engine->opts.flags & IOMAP_ENGINE_IOPOLL))
		return;
	refused = iopoll_refused(bdev, why, sizeof(why));
	if (refused)
		iomap__log(blk->env, IOMAP_LOG_INFO, "%s cannot be polled: %s", bdev->name, why);
	iomap__mutex_lock(&blk->bdevs_lock);
	if (refused)
		memcpy(blk->iopoll.why, why, sizeof(why));
	else
		blk->iopoll.can++;
	blk->iopoll.asked++;
	iomap__mutex_unlock(&blk->bdevs_lock);
}

void iomap__iopoll_say(struct iomap_engine *engine, char *buf, size_t size)
{
	struct iomap__blk *blk = engine->blk;

	iomap__mutex_lock(&blk->bdevs_lock);
	if (!blk->iopoll.asked)
		snprintf(buf, size, "by interrupt; no file or block device has been opened to be asked");
	else if (blk->iopoll.can)
		snprintf(buf, size, "by interrupt in this version; %u of %u devices could be polled",
			 blk->iopoll.can, blk->iopoll.asked);
	else
		snprintf(buf, size, "by interrupt: %s", blk->iopoll.why);
	iomap__mutex_unlock(&blk->bdevs_lock);
}
