/* SPDX-License-Identifier: MIT */
/*
 * register.c - what the rings know beforehand: folio memory and the files of devices.
 *
 * Memory.  The registered share of the folio memory is cut into equal slots, 2 MiB each, or
 * more where that would be more than 1024, at most 1 GiB.  A slot is registered with a ring
 * when the first transfer in it comes along: registering pins all its memory, and memory
 * that no device has been asked for need not exist.  So an engine does not cost its whole
 * cache when it is created; a slot costs a few microseconds once (its pages must be there
 * for the I/O anyway), under the queue's lock.  A transfer that does not lie in one slot, or
 * in a slot that was refused, goes as any other memory does.
 *
 * Locked memory.  The kernel charges each ring for what is registered with it, to the user,
 * unless the process may lock memory as it likes.  Rings times bytes is therefore compared
 * with RLIMIT_MEMLOCK before anything is registered, so that engines of an ordinary user do
 * not use up between them what they need for rings.  A refusal that comes later stops that
 * ring's registering for good: others of the user have used the limit up, or a slot begins
 * inside a huge page, which is charged whole.
 *
 * What is pinned may not be taken away under the rings: they would go on with the old pages.
 * So before the cache gives memory back to the kernel it has the rings forget it
 * (iomap__uring_let_go()), in whole slots: a part of one would be pinned again by the next
 * transfer in the rest.  In a slot that is let go there is no folio, so there is none in flight
 * and none comes, and it is registered anew when it is used again.  A ring of one thread could
 * only be told by its thread: what it knows stays.  iomap__blk_set_memory(NULL) comes before the
 * unmapping.
 *
 * A ring of one thread (private.c) is told of memory as the others are, if there is room for one
 * ring more, and of no files: its table could only be changed by its thread, while a device
 * may be closed by any, and would stay open there.
 *
 * Files.  Each ring has a table as long as there are numbers of bdevs; a device that is
 * opened gets the entry of its number in all of them, or in none.  It goes before the number
 * is free again, with nothing in flight.
 *
 * Each of the two is done without where the kernel refuses it, with one log line for each.
 * Left out: transfers with vectors all over the memory, which would need Linux 6.15.
 */
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/uring.h"

#define SLOT_SHIFT_MIN 21U
#define SLOT_SHIFT_MAX 30U
#define SLOTS_USUAL 1024U

enum {
	REGISTER_MEMORY = 1,
	REGISTER_FILES = 2,
	REGISTER_OWN = 4, /* memory with the ring of one thread */
};

static struct iomap__uring_all *register_all(const struct iomap__blk *blk)
{
	return blk->backend_data;
}

static bool register_complained(struct iomap__blk *blk, unsigned about)
{
	struct iomap__uring_all *all = register_all(blk);

	/* relaxed: it decides who writes the line, and nothing else */
	return atomic_fetch_or_explicit(&all->complained, about, memory_order_relaxed) & about;
}

static void register_complain(struct iomap__blk *blk, unsigned about, int error)
{
	if (register_complained(blk, about))
		return;
	iomap__log(blk->env, IOMAP_LOG_INFO, "io_uring goes without registered %s: %s",
		   about == REGISTER_MEMORY ? "memory" : "files", strerror(-error));
}

void iomap__uring_complain(struct iomap__blk *blk, int error)
{
	register_complain(blk, REGISTER_MEMORY, error);
}

/* ---- memory ---- */

/* Whether the kernel charges this process for memory that it locks. */
static bool register_is_charged(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	if (syscall(SYS_capget, &header, data) != 0)
		return true;
	return !(data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK));
}

static bool register_fits(struct iomap__blk *blk, unsigned rings, uint64_t bytes)
{
	const struct io_uring *ring = &iomap__uring(&blk->queues[0])->ring;
	/* newer kernels charge for the ring itself as well */
	uint64_t own = ring->sq.ring_sz + ring->sq.ring_entries * sizeof(struct io_uring_sqe);
	struct rlimit limit;

	if (!register_is_charged() || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
	    limit.rlim_cur == RLIM_INFINITY || bytes + own <= limit.rlim_cur / rings)
		return true;
	if (register_complained(blk, rings > blk->nr_queues ? REGISTER_OWN : REGISTER_MEMORY))
		return false;
	iomap__log(blk->env, IOMAP_LOG_INFO,
		   "io_uring goes without registered memory: %u rings x %llu bytes are more than "
		   "RLIMIT_MEMLOCK of %llu",
		   rings, (unsigned long long)(bytes + own),
		   (unsigned long long)limit.rlim_cur);
	return false;
}

bool iomap__uring_buffers_fit(struct iomap__blk *blk, uint64_t bytes)
{
	struct iomap__uring_all *all = register_all(blk);

	return register_fits(blk, blk->nr_queues, bytes + (all->memory ? all->bytes : 0));
}

static void register_cut(struct iomap__uring_all *all, uint64_t bytes)
{
	all->slot_shift = SLOT_SHIFT_MIN;
	while (all->slot_shift < SLOT_SHIFT_MAX && bytes >> all->slot_shift > SLOTS_USUAL)
		all->slot_shift++;
	all->bytes = iomap__min(bytes, (uint64_t)IOMAP__URING_SLOTS_MAX << all->slot_shift);
	all->nr_slots = (unsigned)((all->bytes + (UINT64_C(1) << all->slot_shift) - 1) >>
				   all->slot_shift);
}

/* A ring's table of empty slots. */
static void register_open_slots(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);
	unsigned nr = register_all(queue->blk)->nr_slots;
	int error = -ENOMEM;

	memset(uring->slots, IOMAP__SLOT_NEW, nr);
	if (!iomap__fails(queue->blk->env, IOMAP_FAIL_RING_REGISTER))
		error = io_uring_register_buffers_sparse(
			&uring->ring, iomap__min(nr + IOMAP__BUFFERS_MAX, IOMAP__URING_SLOTS_MAX));
	uring->memory = uring->table = !error;
	if (error)
		register_complain(queue->blk, REGISTER_MEMORY, error);
}

static void register_close_slots(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);

	if (uring->table)
		io_uring_unregister_buffers(&uring->ring);
	uring->memory = uring->table = false;
	iomap__uring_close_users(queue);
}

void iomap__uring_set_memory(struct iomap__blk *blk, void *memory, uint64_t bytes)
{
	struct iomap__uring_all *all = register_all(blk);
	unsigned i;

	if (all->memory)
		for (i = 0; i < blk->nr_queues; i++)
			register_close_slots(&blk->queues[i]);
	all->memory = NULL;
	if (!memory || !bytes || !register_fits(blk, blk->nr_queues, bytes))
		return;
	register_cut(all, bytes);
	all->memory = memory;
	for (i = 0; i < blk->nr_queues; i++)
		register_open_slots(&blk->queues[i]);
}

void iomap__uring_open_own(struct iomap__queue *queue)
{
	struct iomap__blk *blk = queue->blk;
	struct iomap__uring_all *all = register_all(blk);
	/* this one is not counted yet; of two that come at once neither counts the other */
	unsigned owns = atomic_load_explicit(&blk->privates_nr, memory_order_relaxed) + 1;

	if (all->memory && register_fits(blk, blk->nr_queues + owns, all->bytes))
		register_open_slots(queue);
}

void iomap__uring_close_own(struct iomap__queue *queue)
{
	struct iomap__uring_all *all = register_all(queue->blk);
	struct iomap__uring *uring = iomap__uring(queue);

	for (unsigned nr = 0; uring->memory && nr < all->nr_slots; nr++)
		if (uring->slots[nr] == IOMAP__SLOT_REGISTERED)
			atomic_fetch_sub(&all->own_nr[nr], 1);
	register_close_slots(queue);
}

/* A shared ring forgets slot @nr. */
static bool register_forget(struct iomap__queue *queue, unsigned nr)
{
	struct iomap__uring *uring = iomap__uring(queue);
	struct iovec none = { .iov_base = NULL };
	__u64 tag = 0;
	bool forgot = true;

	iomap__mutex_lock(&queue->lock);
	if (uring->memory && uring->slots[nr] == IOMAP__SLOT_REGISTERED) {
		iomap__count(syscalls_nr);
		forgot = io_uring_register_buffers_update_tag(&uring->ring, nr, &none, &tag, 1) >= 0;
		if (forgot)
			uring->slots[nr] = IOMAP__SLOT_NEW;
	}
	iomap__mutex_unlock(&queue->lock);
	return forgot;
}

bool iomap__uring_let_go(struct iomap__blk *blk, const void *addr, uint64_t *bytes)
{
	struct iomap__uring_all *all = register_all(blk);
	uint64_t at = (uintptr_t)addr - (uintptr_t)all->memory, slot_bytes;
	bool free = true;
	unsigned nr;

	if (!all->memory || at >= all->bytes)
		return true;
	nr = (unsigned)(at >> all->slot_shift);
	at -= (uint64_t)nr << all->slot_shift;
	slot_bytes = iomap__min(UINT64_C(1) << all->slot_shift,
				all->bytes - ((uint64_t)nr << all->slot_shift));
	*bytes = iomap__min(*bytes, slot_bytes - at);
	if (*bytes < slot_bytes || atomic_load(&all->own_nr[nr]))
		return false;
	for (unsigned i = 0; i < blk->nr_queues; i++)
		free = register_forget(&blk->queues[i], nr) && free;
	return free;
}

/* The first transfer in slot @nr. */
static void register_slot(struct iomap__queue *queue, unsigned nr)
{
	struct iomap__uring_all *all = register_all(queue->blk);
	struct iomap__uring *uring = iomap__uring(queue);
	uint64_t at = (uint64_t)nr << all->slot_shift;
	struct iovec iov = {
		.iov_base = all->memory + at,
		.iov_len = iomap__min(all->bytes - at, UINT64_C(1) << all->slot_shift),
	};
	__u64 tag = 0;
	int error = -ENOMEM;

	iomap__count(syscalls_nr);
	if (!iomap__fails(queue->blk->env, IOMAP_FAIL_RING_REGISTER))
		error = io_uring_register_buffers_update_tag(&uring->ring, nr, &iov, &tag, 1);
	uring->slots[nr] = error < 0 ? IOMAP__SLOT_REFUSED : IOMAP__SLOT_REGISTERED;
	if (error >= 0 && queue->owner)
		atomic_fetch_add(&all->own_nr[nr], 1);
	if (error >= 0)
		return;
	register_complain(queue->blk, REGISTER_MEMORY, error);
	for (nr = 0; nr < all->nr_slots; nr++)
		if (uring->slots[nr] == IOMAP__SLOT_NEW)
			uring->slots[nr] = IOMAP__SLOT_REFUSED;
}

int iomap__uring_slot(struct iomap__queue *queue, const void *addr, uint64_t bytes)
{
	const struct iomap__uring_all *all = register_all(queue->blk);
	struct iomap__uring *uring = iomap__uring(queue);
	uint64_t at = (uintptr_t)addr - (uintptr_t)all->memory;
	unsigned nr;

	if (!uring->memory || at >= all->bytes || bytes > all->bytes - at)
		return -1;
	nr = (unsigned)(at >> all->slot_shift);
	if ((at + bytes - 1) >> all->slot_shift != nr)
		return -1;
	if (iomap__unlikely(uring->slots[nr] == IOMAP__SLOT_NEW))
		register_slot(queue, nr);
	return uring->slots[nr] == IOMAP__SLOT_REGISTERED ? (int)nr : -1;
}

/* ---- files ---- */

void iomap__uring_open_files(struct iomap__queue *queue)
{
	struct iomap__uring *uring = iomap__uring(queue);
	int none[IOMAP__URING_FILES], error = -ENOMEM;
	unsigned i;

	for (i = 0; i < IOMAP__URING_FILES; i++)
		none[i] = -1;
	if (!iomap__fails(queue->blk->env, IOMAP_FAIL_RING_REGISTER))
		error = io_uring_register_files(&uring->ring, none, IOMAP__URING_FILES);
	uring->files = !error;
	if (error)
		register_complain(queue->blk, REGISTER_FILES, error);
}

static void register_no_file(struct iomap__blk *blk, struct iomap_bdev *bdev)
{
	unsigned i;
	int fd = -1;

	for (i = 0; i < blk->nr_queues; i++) {
		struct iomap__uring *uring = iomap__uring(&blk->queues[i]);

		if (uring->files)
			io_uring_register_files_update(&uring->ring, bdev->id, &fd, 1);
	}
}

static int register_file(struct iomap__queue *queue, struct iomap_bdev *bdev)
{
	struct iomap__uring *uring = iomap__uring(queue);

	if (!uring->files)
		return -EOPNOTSUPP;
	if (iomap__fails(queue->blk->env, IOMAP_FAIL_RING_REGISTER))
		return -ENOMEM;
	return iomap__min(io_uring_register_files_update(&uring->ring, bdev->id, &bdev->fd, 1), 0);
}

void iomap__uring_add_file(struct iomap__blk *blk, struct iomap_bdev *bdev)
{
	int error = 0;
	unsigned i;

	if (bdev->id >= IOMAP__URING_FILES || blk->engine->opts.flags & IOMAP_ENGINE_NO_REGISTER)
		return;
	for (i = 0; !error && i < blk->nr_queues; i++)
		error = register_file(&blk->queues[i], bdev);
	bdev->registered = !error;
	if (!error)
		return;
	register_no_file(blk, bdev);
	register_complain(blk, REGISTER_FILES, error);
}

void iomap__uring_del_file(struct iomap__blk *blk, struct iomap_bdev *bdev)
{
	if (bdev->registered)
		register_no_file(blk, bdev);
	bdev->registered = false;
}
