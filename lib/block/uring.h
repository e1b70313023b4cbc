/* SPDX-License-Identifier: MIT */
/*
 * uring.h - what uring.c and register.c share: a queue's ring, and what is registered with it.
 */
#ifndef IOMAP__BLOCK_URING_H
#define IOMAP__BLOCK_URING_H

#include <liburing.h>

#include "block/internal.h"

#define IOMAP__URING_SLOTS_MAX 16384U /* the kernel's bound */
#define IOMAP__URING_FILES IOMAP__BDEV_IDS

#define IOMAP__URING_WITHDRAWS (UINT32_C(1) << 31)

enum iomap__uring_slot {
	IOMAP__SLOT_NEW, /* nobody has needed it yet */
	IOMAP__SLOT_REGISTERED,
	IOMAP__SLOT_REFUSED,
};

struct iomap__uring {
	struct io_uring ring;
	/* threads that may be sending without the queue's lock; IOMAP__URING_WITHDRAWS */
	_Atomic uint32_t submitting;
	/* under the queue's lock */
	uint8_t slots[IOMAP__URING_SLOTS_MAX]; /* enum iomap__uring_slot */
	bool memory; /* the table has slots; constant while there is I/O */
	bool table;  /* there is a table of memory, of slots or of the application's buffers */
	/* buffers, and what blk->buffers_generation was when these were looked at */
	struct iomap__uring_users *users;
	uint64_t users_generation;
	bool files;  /* there is a table of files; constant; never in one thread's ring */
};

/* Of all rings: blk->backend_data. */
struct iomap__uring_all {
	uint8_t *memory; /* NULL: none that may be registered; constant while there is I/O */
	uint64_t bytes;
	unsigned slot_shift;
	unsigned nr_slots;
	/* rings of one thread that know the slot; they alone can forget it */
	_Atomic uint8_t own_nr[IOMAP__URING_SLOTS_MAX];
	_Atomic uint32_t complained; /* bits: what a log line has been written about */
};

static inline struct iomap__uring *iomap__uring(const struct iomap__queue *queue)
{
	return queue->backend;
}

/*
 * The number of the slot that [@addr, @addr + @bytes) lies in, registered; -1 when it has to
 * go without.  The queue's lock held.
 */
int iomap__uring_slot(struct iomap__queue *queue, const void *addr, uint64_t bytes);
/*
 * The same of memory of the application: a place in the ring's table, and *@place, that in
 * the engine's, in which the transfer then counts.  iomap__uring_follow() comes before.
 */
int iomap__uring_user(struct iomap__queue *queue, const void *addr, uint64_t bytes, unsigned *place);
/* The ring knows what there is, as of now.  The queue's lock held. */
void iomap__uring_follow(struct iomap__queue *queue);
void iomap__uring_follow_buffers(struct iomap__blk *blk);
bool iomap__uring_buffers_fit(struct iomap__blk *blk, uint64_t bytes);
/* The ring's table is gone. */
void iomap__uring_close_users(struct iomap__queue *queue);
/* One log line: rings go without registered memory. */
void iomap__uring_complain(struct iomap__blk *blk, int error);
/* The table of slots of one thread's ring, if it can be had; by that thread. */
void iomap__uring_open_own(struct iomap__queue *queue);
void iomap__uring_close_own(struct iomap__queue *queue);
/* A table of files for @queue, if it can be had. */
void iomap__uring_open_files(struct iomap__queue *queue);
void iomap__uring_add_file(struct iomap__blk *blk, struct iomap_bdev *bdev);
void iomap__uring_del_file(struct iomap__blk *blk, struct iomap_bdev *bdev);
void iomap__uring_set_memory(struct iomap__blk *blk, void *memory, uint64_t bytes);
bool iomap__uring_let_go(struct iomap__blk *blk, const void *addr, uint64_t *bytes);

#endif
