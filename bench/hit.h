/* SPDX-License-Identifier: MIT */
/*
 * hit.h - what the scenarios of cache hits share: one operation on each kind of cached file.
 */
#ifndef IOMAP_BENCH_HIT_H
#define IOMAP_BENCH_HIT_H

#include "cached.h"

enum hit_kind {
	HIT_ONE,   /* a read or an overwrite */
	HIT_BATCH, /* reads, HIT_BATCH_NR in a call */
	HIT_PIN,   /* pin, look, unpin */
};
#define HIT_BATCH_NR 8U

struct hit_param {
	bool write, large; /* large: the set of 1 GiB */
	size_t bytes;
	enum hit_kind kind;
};

/* One read or overwrite through the library; i_rwsem held for a write.  False: failed. */
static inline bool hit_read(struct cached *c, char *buffer, size_t bytes, uint64_t at)
{
	return iomap_read(c->file, buffer, bytes, (int64_t)at) == (ssize_t)bytes;
}
static inline bool hit_write(struct cached *c, char *buffer, size_t bytes, uint64_t at)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;

	iomap_kiocb_init(&iocb, c->file, (int64_t)at);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, buffer, bytes);
	return iomap_file_buffered_write(&iocb, &from, &cached_ops, NULL, NULL) == (ssize_t)bytes;
}

/* A look at a folio in place. */
static inline bool hit_pin(struct cached *c, uint64_t at)
{
	struct iomap_pin pin;

	if (iomap_folio_pin(c->file, (int64_t)at, 0, &pin) != 0)
		return false;
	(void)*(volatile const char *)pin.addr;
	iomap_folio_unpin(&pin);
	return true;
}

/* A copy that the compiler does not leave out. */
void hit_copy(void *to, const void *from, size_t bytes);

#endif
