/* SPDX-License-Identifier: MIT */
/*
 * epoch.c - waiting until no reader can still see what was unlinked.
 *
 * A reader stores the global epoch into its record, reads shared pointers, stores 0.  The
 * waiter has unlinked something, bumps the global epoch to N, fences, and waits for every
 * record that holds a number below N.  Why no reader is missed:
 *
 *   reader                        waiter
 *   r->epoch = e                  unlink p
 *   (fence)                       global = N
 *   q = p                         (fence)
 *                                 look at r->epoch
 *
 * The two fences allow only: the waiter sees e, or the reader sees p unlinked.  With
 * membarrier the waiter's system call makes every running thread of the process pass a full
 * barrier, which serves as both fences, and the reader needs none.  Without it, and under
 * ThreadSanitizer, which knows no membarrier, the reader writes its record by an exchange
 * and the waiter reads it by a read-modify-write: of the two one comes first in the order
 * of that word, and the second then synchronises with it.
 *
 * A reader that shows N or later took it from the global by an acquire load, so it sees
 * what was unlinked before; it needs no waiting for.
 */
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "base/thread.h"

#define EPOCH_SPINS 64

_Atomic uint64_t iomap__epoch_global = 1;
static bool epoch_fence; /* IOMAP__EPOCH_FENCE is set; constant after first use */

static int epoch_membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

void iomap__epoch_init_process(void)
{
	epoch_fence = IOMAP__TSAN ||
		      epoch_membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) != 0;
	/* before any reader; the numbers go on from there */
	if (epoch_fence)
		atomic_fetch_or_explicit(&iomap__epoch_global, IOMAP__EPOCH_FENCE,
					 memory_order_relaxed);
}

/* The epoch a record shows. */
static uint64_t epoch_read(struct iomap__thread *thread)
{
	if (epoch_fence)
		return atomic_fetch_add_explicit(&thread->epoch, 0, memory_order_acq_rel);
	/* pairs with the release store of iomap__epoch_exit() */
	return atomic_load_explicit(&thread->epoch, memory_order_acquire);
}

void iomap__epoch_synchronize(void)
{
	struct iomap__thread *thread = iomap__thread_self();
	uint64_t now, shown;
	unsigned spins = 0;

	iomap__assert_msg(atomic_load_explicit(&thread->epoch, memory_order_relaxed) == 0,
			  "waiting for readers inside a read section");
	/* release: pairs with the acquire load of iomap__epoch_enter() */
	now = atomic_fetch_add_explicit(&iomap__epoch_global, 1, memory_order_acq_rel) + 1;
	if (!epoch_fence) {
		iomap__count(syscalls_nr);
		epoch_membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
	}
	for (thread = iomap__thread_first(); thread; thread = thread->next) {
		for (;;) {
			shown = epoch_read(thread);
			if (shown == 0 || shown >= now)
				break;
			if (++spins % EPOCH_SPINS) {
				iomap__cpu_relax();
				continue;
			}
			iomap__count(syscalls_nr);
			sched_yield();
		}
	}
}
