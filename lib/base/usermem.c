/* SPDX-License-Identifier: MIT */
/*
 * usermem.c - memory of the caller that may be bad (IOMAP_IOCB_CHECKED).
 *
 * A process cannot ask whether it may touch an address: the answer would be out of date.  But
 * the kernel copies for it, and says EFAULT where the processor would send a signal.  No
 * signal handler, no privileges, and no other process has to do with it:
 *
 *	process_vm_readv, process_vm_writev	on the own process, for which no permission is
 *						asked: one system call and one copy
 *	a pipe					where these are denied or not built in: written
 *						to and read from for each page, and made and
 *						closed for each call
 *
 * Which one works is tried with memory of our own, once; what is denied later, by a filter of
 * system calls, is found out as it fails, and the pipe is used from then on.
 *
 * Direct I/O does not copy.  Its memory is looked at before the I/O is sent, by madvise(2),
 * MADV_POPULATE_READ or _WRITE, which changes nothing but that the pages are there.  Where
 * the kernel does not know these, a byte of each page is copied; where it is to be written
 * to, 0 is added to a word of it by futex(2), atomically, so that no store of another thread
 * is lost.  What becomes bad later, while the I/O goes on, is not seen by this.
 *
 * What goes in and out is a buffer of the library's and never a folio: the caller's memory may
 * be a mapping whose fault needs the folio's lock.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <iomap/uio.h>

#include "base/base.h"

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define UM_PAGE 4096U /* or larger: then there are more steps than there have to be */

/* In the order in which they are tried; relaxed: each thread that looks finds the same. */
enum { UM_UNKNOWN, UM_PROCESS, UM_PIPE, UM_NONE };
static uint32_t um_method;

static bool um_is_denied(int error)
{
	return error == -ENOSYS || error == -EPERM || error == -EACCES;
}

/* ---- the two ways; bytes, 0 when the first one is bad, or -errno when it does not work ---- */

static ssize_t um_process(bool in, char *ours, char *theirs, size_t n)
{
	struct iovec local = { ours, n }, remote = { theirs, n };
	/* not getpid(): the process's first thread may have ended, and has no memory then */
	const pid_t self = (pid_t)syscall(SYS_gettid);
	ssize_t ret;

	iomap__count(syscalls_nr);
	ret = in ? process_vm_readv(self, &local, 1, &remote, 1, 0)
		 : process_vm_writev(self, &local, 1, &remote, 1, 0);
	return ret >= 0 ? ret : errno == EFAULT ? 0 : -errno;
}

/* One piece of a page of theirs: all of it or nothing. */
static ssize_t um_pipe_piece(const int fd[2], char *from, char *to, size_t n)
{
	ssize_t ret;

	iomap__count(syscalls_nr);
	ret = write(fd[1], from, n);
	if (ret == (ssize_t)n) {
		iomap__count(syscalls_nr);
		ret = read(fd[0], to, n);
	}
	return ret == (ssize_t)n ? ret : ret >= 0 || errno == EFAULT ? 0 : -errno;
}

static ssize_t um_pipe(bool in, char *ours, char *theirs, size_t n)
{
	size_t done = 0;
	ssize_t ret = 0;
	int fd[2];

	iomap__count(syscalls_nr);
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	while (done < n) {
		char *at = theirs + done;
		size_t piece = iomap__min(n - done, UM_PAGE - ((uintptr_t)at & (UM_PAGE - 1)));

		ret = um_pipe_piece(fd, in ? at : ours + done, in ? ours + done : at, piece);
		if (ret <= 0)
			break;
		done += (size_t)ret;
	}
	close(fd[0]);
	close(fd[1]);
	return done ? (ssize_t)done : ret;
}

static ssize_t um_by(uint32_t method, bool in, char *ours, char *theirs, size_t n)
{
	switch (method) {
	case UM_PROCESS:
		return um_process(in, ours, theirs, n);
	case UM_PIPE:
		return um_pipe(in, ours, theirs, n);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * The first one from @method on that can copy a byte of our own.  What is denied stays so; what
 * fails for another reason, as a pipe does without descriptors, is asked again next time.
 */
static uint32_t um_find(uint32_t method)
{
	char from = 1, to = 0;
	bool denied = true;
	ssize_t ret;

	for (; method < UM_NONE; method++) {
		ret = um_by(method, true, &to, &from, 1);
		if (ret == 1)
			ret = um_by(method, false, &to, &from, 1);
		if (ret == 1)
			break;
		denied = denied && um_is_denied((int)ret);
	}
	if (method < UM_NONE || denied)
		iomap__store(&um_method, method);
	return method;
}

static uint32_t um_current(void)
{
	uint32_t method = iomap__load(&um_method);

	return iomap__likely(method != UM_UNKNOWN) ? method : um_find(UM_PROCESS);
}

/* Bytes up to the first that is bad, or -errno when there is no way to tell. */
static ssize_t um_copy(bool in, char *ours, char *theirs, size_t n)
{
	uint32_t method = um_current();
	size_t done = 0;
	ssize_t ret;

	/* behind the last address there is nothing */
	n = (size_t)iomap__min(n, theirs ? UINTPTR_MAX - (uintptr_t)theirs : 0);
	while (done < n) {
		ret = um_by(method, in, ours + done, (char *)((uintptr_t)theirs + done), n - done);
		if (iomap__unlikely(ret < 0 && um_is_denied((int)ret) && method < UM_NONE)) {
			method = um_find(method + 1);
			continue;
		}
		if (ret < 0)
			return done ? (ssize_t)done : ret;
		if (!ret)
			break;
		done += (size_t)ret;
	}
	return (ssize_t)done;
}

static ssize_t um_iter(bool in, char *ours, size_t n, struct iomap_iov_iter *iter)
{
	size_t done = 0;

	n = iomap__min(n, iter->count);
	while (done < n) {
		size_t part = n - done;
		char *theirs = iomap__iov_iter_segment(iter, &part);
		ssize_t ret = um_copy(in, ours + done, theirs, part);

		if (ret < 0)
			return done ? (ssize_t)done : ret;
		iomap_iov_iter_advance(iter, (size_t)ret);
		done += (size_t)ret;
		if ((size_t)ret < part)
			break;
	}
	return (ssize_t)done;
}

ssize_t iomap__checked_copy_in(void *to, size_t n, struct iomap_iov_iter *from)
{
	return um_iter(true, to, n, from);
}

ssize_t iomap__checked_copy_out(const void *from, size_t n, struct iomap_iov_iter *to)
{
	/* only read, but the two directions share one pointer */
	return um_iter(false, (char *)(uintptr_t)from, n, to);
}

void iomap__checked_begin(struct iomap__checked *checked, struct iomap__env *env, size_t n)
{
	checked->env = env;
	checked->memory = NULL;
	checked->room = IOMAP__CHECKED_BYTES;
	if (n > sizeof(checked->own))
		checked->memory = iomap__alloc(env, checked->room);
	if (!checked->memory) {
		checked->memory = checked->own;
		checked->room = sizeof(checked->own);
	}
}

void iomap__checked_end(struct iomap__checked *checked)
{
	if (checked->memory != checked->own)
		iomap__free(checked->env, checked->memory, checked->room);
}

/* ---- looking without a copy ---- */

/* 0; -EFAULT; -EOPNOTSUPP: the kernel does not know how. */
static int um_populate(uintptr_t page, uintptr_t end, bool write)
{
	static uint32_t denied; /* relaxed: a hint */
	char own[1];

	while (!iomap__load(&denied)) {
		iomap__count(syscalls_nr);
		if (!madvise((void *)page, end - page,
			     write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ))
			return 0;
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno == EFAULT || errno == ENOMEM)
			return -EFAULT;
		/* EINVAL: of this memory, or unknown?  Of ours it would be allowed. */
		if (!madvise((void *)iomap__round_down((uintptr_t)own, UM_PAGE), UM_PAGE,
			     MADV_POPULATE_WRITE))
			return -EFAULT;
		iomap__store(&denied, 1);
	}
	return -EOPNOTSUPP;
}

/*
 * Adds 0 to a word of the page at @at: 0 or -errno.  Nobody sleeps on `none`; who sleeps on the
 * word itself is woken for nothing if it is below all that the operation can compare with.
 */
static int um_touch(char *at)
{
	const uint32_t least = 0x800;
	uint32_t *word = (uint32_t *)(void *)(at - ((uintptr_t)at & 3)), none = 0;

	iomap__count(syscalls_nr);
	return syscall(SYS_futex, &none, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, NULL, word,
		       FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_LT, least)) < 0 ? -errno : 0;
}

static int um_look_each(uintptr_t at, uintptr_t end, bool write)
{
	while (at < end) {
		char byte;
		ssize_t ret = um_copy(true, &byte, (char *)at, 1);

		if (ret == 1 && write)
			ret = um_touch((char *)at) ? 0 : 1;
		if (ret != 1)
			return ret ? (int)ret : -EFAULT;
		at = iomap__round_down(at, UM_PAGE) + UM_PAGE;
	}
	return 0;
}

static int um_look(char *memory, size_t n, bool write)
{
	uintptr_t at = (uintptr_t)memory, end = at + n;
	int err;

	if (!at || end < at || end > UINTPTR_MAX - UM_PAGE)
		return -EFAULT;
	err = um_populate(iomap__round_down(at, UM_PAGE), iomap__round_up(end, UM_PAGE), write);
	return err == -EOPNOTSUPP ? um_look_each(at, end, write) : err;
}

int iomap__checked_look(const struct iomap_iov_iter *iter, size_t n)
{
	const bool write = iter->data_source == IOMAP_ITER_DEST;
	struct iomap_iov_iter at = *iter;
	int err = 0;

	n = iomap__min(n, at.count);
	while (n && !err) {
		size_t part = n;
		char *memory = iomap__iov_iter_segment(&at, &part);

		err = um_look(memory, part, write);
		iomap_iov_iter_advance(&at, part);
		n -= part;
	}
	return err;
}

/* Bytes before the first page that is bad, or -errno. */
static ssize_t um_good(char *memory, size_t n, bool write)
{
	size_t done = 0;
	int err = um_look(memory, n, write);

	if (err != -EFAULT)
		return err ? err : (ssize_t)n;
	/* which one it is only the looks at each can tell */
	while (done < n) {
		uintptr_t at = (uintptr_t)memory + done;
		size_t part = iomap__min(n - done, UM_PAGE - (at & (UM_PAGE - 1)));

		err = um_look((char *)at, part, write);
		if (err)
			return err == -EFAULT ? (ssize_t)done : err;
		done += part;
	}
	return (ssize_t)done;
}

ssize_t iomap__checked_good(const struct iomap_iov_iter *iter, size_t n)
{
	const bool write = iter->data_source == IOMAP_ITER_DEST;
	struct iomap_iov_iter at = *iter;
	size_t done = 0;

	n = iomap__min(n, at.count);
	while (done < n) {
		size_t part = n - done;
		char *memory = iomap__iov_iter_segment(&at, &part);
		ssize_t good = um_good(memory, part, write);

		if (good < 0)
			return good;
		iomap_iov_iter_advance(&at, part);
		done += (size_t)good;
		if ((size_t)good < part)
			break;
	}
	return (ssize_t)done;
}

const char *iomap__checked_say(bool *works)
{
	static const char *const says[] = {
		[UM_PROCESS] = "IOMAP_IOCB_CHECKED, by process_vm_readv and process_vm_writev",
		[UM_PIPE] = "IOMAP_IOCB_CHECKED, by a pipe: process_vm_readv is not allowed here",
		[UM_NONE] = "neither process_vm_readv nor a pipe may be used",
	};
	uint32_t method = um_current();

	*works = method != UM_NONE;
	return says[method];
}
