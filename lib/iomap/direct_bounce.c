/* SPDX-License-Identifier: MIT */
/*
 * direct_bounce.c - IOMAP_DIO_BOUNCE: the same I/O to or from a buffer of the library's, and a
 * copy, where the caller's memory or the range does not suit the device.
 */
#include "block/block.h"
#include "iomap/dio.h"

/* The I/O goes from @start on to @buf, which is aligned; the call is the caller's. */
static ssize_t dio_rw_buffer(const struct iomap__dio_call *call, int64_t start, void *buf, size_t len)
{
	struct iomap_kiocb *iocb = call->iocb;
	struct iomap__dio_call by_buffer = *call;
	struct iomap_iov_iter memory = *call->iter, by;
	int64_t pos = iocb->ki_pos;
	ssize_t ret;

	iomap_iov_iter_ubuf(&by, memory.data_source, buf, len);
	by_buffer.iter = &by;
	by_buffer.done_before = 0;
	if (memory.data_source == IOMAP_ITER_SOURCE) {
		iomap_copy_from_iter(buf, len, &memory);
		ret = iomap__dio_rw_wait(&by_buffer);
		if (ret > 0)
			iomap_iov_iter_advance(call->iter, (size_t)ret);
	} else {
		iocb->ki_pos = start;
		ret = iomap__dio_rw_wait(&by_buffer);
		if (ret > 0) {
			ret = iomap__max(ret - (pos - start), 0);
			ret = (ssize_t)iomap_copy_to_iter((char *)buf + (pos - start), (size_t)ret,
							  call->iter);
		}
		iocb->ki_pos = pos + iomap__max(ret, 0);
	}
	return ret > 0 ? ret + (ssize_t)call->done_before : ret;
}

ssize_t iomap__dio_rw_bounce(const struct iomap__dio_call *call)
{
	struct iomap_iov_iter *iter = call->iter;
	struct iomap_inode *inode = call->iocb->ki_filp->inode;
	struct iomap__env *env = &inode->i_engine->env;
	struct iomap_bdev_limits limits;
	uint64_t start = (uint64_t)call->iocb->ki_pos, end = start + iter->count;
	ssize_t ret;
	void *buf;

	if (call->iocb->ki_flags & IOMAP_IOCB_CHECKED) {
		ret = iomap__checked_look(iter, iter->count);
		if (ret)
			return ret;
	}
	iomap_bdev_limits(inode->i_bdev, &limits);
	if (iter->data_source != IOMAP_ITER_SOURCE) {
		start = iomap__round_down(start, limits.logical_block_size);
		end = iomap__round_up(end, limits.logical_block_size);
	} else if ((start | end) & (limits.logical_block_size - 1)) {
		return -ENOTBLK; /* the rest of the sector has to be read: the cache's business */
	}
	buf = iomap__alloc_aligned(env, iomap__max(limits.dma_alignment, IOMAP_PAGE_SIZE),
				   end - start);
	if (!buf)
		return call->iocb->ki_flags & IOMAP_IOCB_NOWAIT ? -EAGAIN : -ENOMEM;
	ret = dio_rw_buffer(call, (int64_t)start, buf, end - start);
	iomap__free(env, buf, end - start);
	return ret;
}
