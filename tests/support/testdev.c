/* SPDX-License-Identifier: MIT */
/*
 * testdev.c - a block device in memory that a test holds in its hand.
 *
 * A bio goes through submit() on the submitter's thread: recorded, then completed there,
 * queued for the device's thread, or held.  complete() runs without the gate, since
 * iomap_bio_endio() may bring the next bio.
 */
#include <errno.h>
#include <string.h>

#include "testdev.h"

static unsigned bio_op(const struct iomap_bio *bio)
{
	return 1U << (bio->bi_opf & IOMAP_REQ_OP_MASK);
}

static int fault_of(struct td *td, const struct iomap_bio *bio, uint64_t addr, uint64_t bytes)
{
	for (size_t i = 0; i < sizeof(td->fault) / sizeof(td->fault[0]); i++) {
		struct td_fault *f = &td->fault[i];

		if (!(f->ops & bio_op(bio)) || !f->times)
			continue;
		if (bytes && (addr >= f->end || addr + bytes <= f->addr))
			continue;
		f->times--;
		return f->error;
	}
	return 0;
}

static void transfer(struct td *td, struct iomap_bio *bio, uint64_t addr, uint64_t bytes)
{
	uint8_t *at = td->mem + addr;

	t_must(addr + bytes <= td->bytes);
	if (bio_op(bio) == TD_READ)
		t_must(iomap_bio_copy_in(bio, 0, at, bytes) == bytes);
	else if (bio_op(bio) & (TD_DISCARD | TD_ZEROES))
		memset(at, 0, bytes);
	else
		t_must(iomap_bio_copy_out(bio, 0, at, bytes) == bytes);
}

static void complete(struct td *td, struct td_queued q)
{
	struct iomap_bio *bio = q.bio;
	uint64_t addr, bytes;
	int error;

	t_lock(&td->gate);
	addr = td->io[q.io].addr;
	bytes = td->io[q.io].bytes;
	error = fault_of(td, bio, addr, bytes);
	if (!error && bio_op(bio) != TD_FLUSH)
		transfer(td, bio, addr, bytes);
	td->io[q.io].status = error;
	td->io[q.io].completed = t_tick();
	t_unlock(&td->gate);

	bio->bi_status = error;
	iomap_bio_endio(bio);

	t_lock(&td->gate);
	t_wake(&td->gate);
	t_unlock(&td->gate);
}

static size_t record(struct td *td, const struct iomap_bio *bio)
{
	struct td_io *io;

	if (td->io_nr == td->io_max) {
		td->io_max = td->io_max ? td->io_max * 2 : 256;
		td->io = realloc(td->io, td->io_max * sizeof(*td->io));
		t_must(td->io != NULL);
	}
	io = &td->io[td->io_nr];
	memset(io, 0, sizeof(*io));
	io->submitted = t_tick();
	io->opf = bio->bi_opf;
	io->vcnt = bio->bi_vcnt;
	io->addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	io->bytes = bio_op(bio) == TD_FLUSH ? 0 : bio->bi_iter.bi_size;
	return td->io_nr++;
}

static void submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct td *td = iomap_bdev_private(bdev);
	struct td_queued q = { .bio = bio };
	bool later = true;

	t_lock(&td->gate);
	q.io = record(td, bio);
	if (td->hold & bio_op(bio)) {
		t_must(td->held_nr < sizeof(td->held) / sizeof(td->held[0]));
		td->held[td->held_nr++] = q;
	} else if (td->async) {
		t_must(td->queue_nr < sizeof(td->queue) / sizeof(td->queue[0]));
		td->queue[td->queue_nr++] = q;
	} else {
		later = false;
	}
	t_wake(&td->gate);
	t_unlock(&td->gate);
	if (!later)
		complete(td, q);
}

static const struct iomap_bdev_ops td_ops = { .submit_bio = submit };

static long thread_main(void *arg)
{
	struct td *td = arg;

	t_lock(&td->gate);
	for (;;) {
		struct td_queued q;

		/* an idle device may wait for as long as it likes */
		while (!td->queue_nr && !td->stop)
			t_must(pthread_cond_wait(&td->gate.cond, &td->gate.lock) == 0);
		if (!td->queue_nr)
			break;
		q = td->queue[0];
		td->queue_nr--;
		memmove(td->queue, td->queue + 1, td->queue_nr * sizeof(q));
		t_unlock(&td->gate);
		complete(td, q);
		t_lock(&td->gate);
	}
	t_unlock(&td->gate);
	return 0;
}

struct td *td_new(struct iomap_engine *engine, uint64_t bytes,
		  const struct iomap_bdev_limits *limits)
{
	struct td *td = calloc(1, sizeof(*td));

	t_must(td != NULL);
	td->bytes = bytes;
	td->mem = calloc(1, bytes);
	t_must(td->mem != NULL);
	t_gate_init(&td->gate);
	t_must(iomap_bdev_create(engine, &td_ops, bytes, limits, td, &td->bdev) == 0);
	return td;
}

void td_free(struct td *td)
{
	if (td->async) {
		t_lock(&td->gate);
		td->stop = true;
		t_wake(&td->gate);
		t_unlock(&td->gate);
		t_join(&td->thread);
	}
	t_must(td->held_nr == 0);
	t_must(iomap_bdev_close(td->bdev) == 0);
	t_gate_exit(&td->gate);
	free(td->io);
	free(td->mem);
	free(td);
}

void td_async(struct td *td)
{
	t_lock(&td->gate);
	t_must(!td->async);
	td->async = true;
	t_unlock(&td->gate);
	t_start(&td->thread, thread_main, td);
}

void td_hold(struct td *td, unsigned ops)
{
	t_lock(&td->gate);
	td->hold = ops;
	t_unlock(&td->gate);
}

void td_wait_held(struct td *td, size_t nr)
{
	t_lock(&td->gate);
	while (td->held_nr < nr)
		t_wait(&td->gate);
	t_unlock(&td->gate);
}

size_t td_release(struct td *td, size_t nr)
{
	size_t done = 0;

	t_lock(&td->gate);
	while (done < nr && td->held_nr) {
		struct td_queued q = td->held[0];

		td->held_nr--;
		memmove(td->held, td->held + 1, td->held_nr * sizeof(q));
		t_unlock(&td->gate);
		complete(td, q);
		done++;
		t_lock(&td->gate);
	}
	t_unlock(&td->gate);
	return done;
}

void td_open_gates(struct td *td)
{
	td_hold(td, 0);
	td_release(td, SIZE_MAX);
}

void td_fail(struct td *td, unsigned ops, uint64_t addr, uint64_t len, int error, unsigned times)
{
	t_lock(&td->gate);
	for (size_t i = 0; i < sizeof(td->fault) / sizeof(td->fault[0]); i++) {
		struct td_fault *f = &td->fault[i];

		if (f->ops && f->times)
			continue;
		*f = (struct td_fault){ ops, addr, addr + len, error, times };
		t_unlock(&td->gate);
		return;
	}
	t_die(__FILE__, __LINE__, "room for another fault");
}

void td_reset(struct td *td)
{
	t_lock(&td->gate);
	t_must(td->held_nr == 0 && td->queue_nr == 0);
	td->io_nr = 0;
	t_unlock(&td->gate);
}

static bool is_op(const struct td_io *io, unsigned ops)
{
	return (1U << (io->opf & IOMAP_REQ_OP_MASK)) & ops;
}

size_t td_count(struct td *td, unsigned ops)
{
	size_t nr = 0;

	t_lock(&td->gate);
	for (size_t i = 0; i < td->io_nr; i++)
		nr += is_op(&td->io[i], ops);
	t_unlock(&td->gate);
	return nr;
}

uint64_t td_bytes(struct td *td, unsigned ops)
{
	uint64_t bytes = 0;

	t_lock(&td->gate);
	for (size_t i = 0; i < td->io_nr; i++)
		bytes += is_op(&td->io[i], ops) ? td->io[i].bytes : 0;
	t_unlock(&td->gate);
	return bytes;
}

struct td_io td_nth(struct td *td, unsigned ops, size_t n)
{
	struct td_io io;

	t_lock(&td->gate);
	for (size_t i = 0; i < td->io_nr; i++) {
		if (!is_op(&td->io[i], ops) || n--)
			continue;
		io = td->io[i];
		t_unlock(&td->gate);
		return io;
	}
	t_die(__FILE__, __LINE__, "so many bios came");
}

bool td_touched(struct td *td, unsigned ops, uint64_t addr, uint64_t len)
{
	bool touched = false;

	t_lock(&td->gate);
	for (size_t i = 0; i < td->io_nr; i++)
		if (is_op(&td->io[i], ops) && td->io[i].addr < addr + len &&
		    td->io[i].addr + td->io[i].bytes > addr)
			touched = true;
	t_unlock(&td->gate);
	return touched;
}

void td_wait_completed(struct td *td, unsigned ops, size_t nr)
{
	t_lock(&td->gate);
	for (;;) {
		size_t done = 0;

		for (size_t i = 0; i < td->io_nr; i++)
			done += is_op(&td->io[i], ops) && td->io[i].completed;
		if (done >= nr)
			break;
		t_wait(&td->gate);
	}
	t_unlock(&td->gate);
}
