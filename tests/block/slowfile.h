/* SPDX-License-Identifier: MIT */
/*
 * slowfile.h - a file whose read ends when the test says so, on every backend, and who sleeps.
 *
 * It is a file whose descriptor has been replaced by a pipe: a read of it ends when the test
 * writes to the pipe.  "Asleep" is read from the parking lot, so no test depends on time.
 *
 * Calls of the C library and of libaio are replaced here, so one file of a program includes
 * this.
 */
#ifndef SLOWFILE_H
#define SLOWFILE_H

#include <libaio.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "blktest.h"

/*
 * The I/O threads' preadv2() refuses a pipe, which has no positions; io_uring does not.
 * This one comes before the C library's, and reads without one.
 */
ssize_t preadv2(int fd, const struct iovec *iov, int nr, off_t pos, int flags)
{
	struct stat st;
	ssize_t got = -1, n;

	(void)flags;
	if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
		return readv(fd, iov, nr);
	for (int i = 0; i < nr; i++) {
		n = pread(fd, iov[i].iov_base, iov[i].iov_len, pos);
		if (n < 0)
			return got < 0 ? -1 : got;
		got = (got < 0 ? 0 : got) + n;
		pos += n;
		if ((size_t)n < iov[i].iov_len)
			break;
	}
	return got;
}

/*
 * libaio would read from a pipe inside io_submit(), however long that takes.  So the request
 * becomes a poll of it, and the read is done when that ends.
 */
static inline bool is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

int io_submit(io_context_t context, long nr, struct iocb **list)
{
	long sent;

	for (long i = 0; i < nr; i++) {
		struct iocb poll = { .data = list[i]->data };

		if (list[i]->aio_lio_opcode != IO_CMD_PREAD || !is_pipe(list[i]->aio_fildes))
			continue;
		poll.aio_lio_opcode = IO_CMD_POLL;
		poll.aio_fildes = list[i]->aio_fildes;
		poll.u.poll.events = POLLIN;
		io_set_eventfd(&poll, (int)list[i]->u.c.resfd);
		*list[i] = poll;
	}
	sent = syscall(SYS_io_submit, context, nr, list);
	return sent < 0 ? -errno : (int)sent;
}

int io_getevents(io_context_t context, long least, long nr, struct io_event *events,
		 struct timespec *timeout)
{
	long got = syscall(SYS_io_getevents, context, least, nr, events, timeout);

	for (long i = 0; i < got; i++) {
		struct iomap_bio *bio = events[i].data;

		if (!bio) /* a kick */
			continue;
		(void)atomic_load_explicit(&iomap__req(bio)->handoff, memory_order_acquire);
		if (is_pipe(bio->bi_bdev->fd))
			events[i].res = (unsigned long)read(bio->bi_bdev->fd,
							    bio->bi_io_vec->bv_base,
							    bio->bi_io_vec->bv_len);
	}
	return got < 0 ? -errno : (int)got;
}

struct slow {
	struct iomap_bdev *bdev;
	char *path;
	int write_end;
	void *buf;
	struct bt_latch latch;
};

static inline void slow_open(struct iomap_engine *engine, struct slow *slow)
{
	int ends[2];

	slow->path = t_temp(BT_PAGE);
	t_must(iomap_bdev_open(engine, slow->path, NULL, &slow->bdev) == 0);
	slow->bdev->direct = false;
	t_must(pipe(ends) == 0);
	t_must(dup2(ends[0], slow->bdev->fd) == slow->bdev->fd);
	slow->bdev->registered = false; /* rings know the file that was opened */
	close(ends[0]);
	slow->write_end = ends[1];
	slow->buf = bt_buffer(BT_PAGE);
	slow->latch = (struct bt_latch){ .blk = engine->blk, .left = 1 };
}

/* Start the read, without waiting for it. */
static inline void slow_start(struct slow *slow)
{
	bt_submit(bt_bio(slow->bdev, IOMAP_REQ_OP_READ, 0, slow->buf, BT_PAGE), &slow->latch);
}

/* Let the read end.  A pipe holds a page. */
static inline void slow_finish(struct slow *slow)
{
	char page[BT_PAGE];

	memset(page, 0x5a, sizeof(page));
	t_must(write(slow->write_end, page, sizeof(page)) == (ssize_t)sizeof(page));
}

static inline void slow_close(struct slow *slow)
{
	cr_assert_eq(slow->latch.left, 0U);
	cr_assert_eq(atomic_load(&slow->latch.first_error), 0);
	cr_assert(t_all(slow->buf, BT_PAGE, 0x5a));
	cr_assert_eq(iomap_bdev_close(slow->bdev), 0);
	close(slow->write_end);
	free(slow->buf);
	t_temp_free(slow->path);
}

/* Which queue the calling thread submits to. */
static inline void live_in_queue(unsigned queue)
{
	iomap__thread_self()->id = queue;
}

static inline unsigned asleep(struct iomap__blk *blk, uint32_t state)
{
	struct iomap_list_head *item;
	unsigned nr = 0;

	iomap__mutex_lock(&blk->park_lock);
	for (item = blk->sleepers.next; item != &blk->sleepers; item = item->next)
		nr += iomap__container_of(item, struct iomap__waiter, sleepers)->state == state;
	iomap__mutex_unlock(&blk->park_lock);
	return nr;
}

static inline void until_asleep(struct iomap__blk *blk, unsigned on_futex, unsigned in_ring)
{
	while (asleep(blk, IOMAP__WAITER_FUTEX) != on_futex ||
	       asleep(blk, IOMAP__WAITER_RING) != in_ring)
		sched_yield();
}

#endif
