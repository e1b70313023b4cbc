/* SPDX-License-Identifier: MIT */
/*
 * async.h - buffered calls by iocb whose caller does not wait; async.c tells how they go.
 */
#ifndef IOMAP__ASYNC_H
#define IOMAP__ASYNC_H

#include "iomap/ops.h"

/*
 * All of an iocb with ki_complete, whose arguments have been checked.  Its result, or
 * -IOMAP_EIOCBQUEUED, and then the iocb may be gone.  @first: its ki_pos at the beginning; what
 * lies between that and ki_pos has been done.  The iterator and its vector are the caller's again.
 */
/* What is left of a buffered read. */
ssize_t iomap__async_read(struct iomap_kiocb *iocb, struct iomap_iov_iter *to, int64_t first);
/* iomap_read_iter() or iomap_write_iter() in a worker, which waits. */
ssize_t iomap__async_read_later(struct iomap_kiocb *iocb, struct iomap_iov_iter *to, int64_t first);
/*
 * The rest of a write, of which @done bytes, up to ki_pos, have been written; with none left the
 * sync that the iocb asks for.
 */
ssize_t iomap__async_write_later(struct iomap_kiocb *iocb, struct iomap_iov_iter *from,
				 ssize_t done);

#endif
