/* SPDX-License-Identifier: MIT */
/*
 * faulty_io.c - carrying out what the faulty device has decided for an I/O.
 *
 * The bio itself stays here; what has to be done below goes out as bios of our own.
 * `remaining` counts those that have not ended, and one for the thread that still submits
 * them; who takes it to zero goes on with iomap__faulty_done().
 *
 * A torn write with PREFLUSH goes out as a flush, and then its parts: none of them may be
 * ahead of the flush.
 */
#include "block/faulty.h"

static void fio_set_error(struct iomap__faulty_io *io, int error)
{
	int32_t none = 0;

	/* The first error wins.  Relaxed: `remaining` orders it before the end. */
	__atomic_compare_exchange_n(&io->status, &none, error, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
}

/* ---- bits ---- */

/* The @n-th bit to flip: each comes from a slice of its own, so they differ. */
static uint64_t fio_bit(const struct iomap__faulty_io *io, uint64_t n, uint64_t nr)
{
	uint64_t bits = io->bio->bi_iter.bi_size * 8;
	uint64_t slice = bits / nr;

	return n * slice + iomap__mix2(io->random, n) % slice;
}

static uint64_t fio_nr_bits(const struct iomap__faulty_io *io)
{
	return iomap__min(io->amount, io->bio->bi_iter.bi_size * 8);
}

static void fio_flip_read(struct iomap__faulty_io *io)
{
	uint64_t nr = fio_nr_bits(io), n;

	for (n = 0; n < nr; n++) {
		uint64_t bit = fio_bit(io, n, nr);
		uint8_t byte;

		iomap_bio_copy_out(io->bio, bit / 8, &byte, 1);
		byte ^= (uint8_t)(1U << bit % 8);
		iomap_bio_copy_in(io->bio, bit / 8, &byte, 1);
	}
}

/* The data of the write with bits flipped, in memory of our own. */
static bool fio_flip_write(struct iomap__faulty_io *io)
{
	struct iomap__faulty *faulty = io->faulty;
	size_t align = iomap__max(faulty->lower->limits.dma_alignment, _Alignof(max_align_t));
	uint64_t nr = fio_nr_bits(io), n;

	io->copy_bytes = io->bio->bi_iter.bi_size;
	io->copy = iomap__alloc_aligned(faulty->env, align, io->copy_bytes);
	if (!io->copy)
		return false;
	iomap_bio_copy_out(io->bio, 0, io->copy, io->copy_bytes);
	for (n = 0; n < nr; n++) {
		uint64_t bit = fio_bit(io, n, nr);

		((uint8_t *)io->copy)[bit / 8] ^= (uint8_t)(1U << bit % 8);
	}
	return true;
}

/* ---- bios below ---- */

static void fio_put(struct iomap__faulty_io *io)
{
	if (iomap__fetch_sub(&io->remaining, 1) != 1)
		return;
	if (io->kind == IOMAP_FAULT_CORRUPT && !io->status &&
	    iomap__bio_op(io->bio) == IOMAP_REQ_OP_READ)
		fio_flip_read(io);
	iomap__free(io->faulty->env, io->copy, io->copy_bytes);
	iomap__faulty_done(io);
}

static void fio_below_end(struct iomap_bio *below)
{
	struct iomap__faulty_io *io = below->bi_private;

	if (below->bi_status)
		fio_set_error(io, below->bi_status);
	iomap_bio_put(below);
	fio_put(io);
}

/* Point @below at bytes [off, off + len) of the data of @bio. */
static void fio_slice(struct iomap_bio *below, const struct iomap_bio *bio, uint64_t off,
		      uint64_t len)
{
	uint32_t i;

	for (i = 0; i < bio->bi_vcnt && len; i++) {
		const struct iomap_bio_vec *vec = &bio->bi_io_vec[i];
		uint64_t bytes;

		if (off >= vec->bv_len) {
			off -= vec->bv_len;
			continue;
		}
		bytes = iomap__min(vec->bv_len - off, len);
		below->bi_io_vec[below->bi_vcnt++] = (struct iomap_bio_vec){
			.bv_base = (char *)vec->bv_base + off,
			.bv_len = bytes,
		};
		below->bi_iter.bi_size += bytes;
		len -= bytes;
		off = 0;
	}
}

static void fio_bounced_end(struct iomap_bio *below)
{
	struct iomap__faulty_io *io = below->bi_private;

	iomap__free(io->faulty->env, below->bi_io_vec[0].bv_base, below->bi_iter.bi_size);
	fio_below_end(below);
}

/*
 * A part of a torn write may begin where the device does not take memory: it is then written
 * from a copy.  False: no memory for that.
 */
static bool fio_align(struct iomap__faulty_io *io, struct iomap_bio *below)
{
	size_t align = io->faulty->lower->limits.dma_alignment, bytes = below->bi_iter.bi_size;
	void *copy;

	if (!((uintptr_t)below->bi_io_vec[0].bv_base & (align - 1)))
		return true;
	copy = iomap__alloc_aligned(io->faulty->env, align, bytes);
	if (!copy)
		return false;
	iomap_bio_copy_out(below, 0, copy, bytes);
	below->bi_io_vec[0] = (struct iomap_bio_vec){ .bv_base = copy, .bv_len = bytes };
	below->bi_vcnt = 1;
	below->bi_end_io = fio_bounced_end;
	return true;
}

/* Submit a bio for bytes [off, off + len) of the data, at @addr. */
static void fio_below(struct iomap__faulty_io *io, uint32_t opf, uint64_t addr, uint64_t off,
		      uint64_t len, iomap_bio_end_io_fn *end_io)
{
	struct iomap_bio *bio = io->bio, *below;

	/* in whatever thread this is: not the one that has promised to poll */
	opf &= ~IOMAP_REQ_POLLED;
	/* a part of it, or elsewhere, is not what the limits for atomic writes allow */
	if (len != bio->bi_iter.bi_size || addr != iomap__bio_addr(bio))
		opf &= ~IOMAP_REQ_ATOMIC;
	below = iomap_bio_alloc(io->faulty->lower, len ? bio->bi_vcnt : 0, opf, NULL);
	if (!below) {
		fio_set_error(io, -ENOMEM);
		return;
	}
	below->bi_private = io;
	below->bi_end_io = end_io;
	below->bi_iter.bi_sector = addr >> IOMAP_SECTOR_SHIFT;
	if (!iomap__op_has_data(opf & IOMAP_REQ_OP_MASK)) {
		below->bi_iter.bi_size = len;
	} else if (io->copy && len) {
		below->bi_io_vec[below->bi_vcnt++] = (struct iomap_bio_vec){
			.bv_base = (char *)io->copy + off,
			.bv_len = len,
		};
		below->bi_iter.bi_size = len;
	} else {
		fio_slice(below, bio, off, len);
	}
	if (off && !fio_align(io, below)) {
		fio_set_error(io, -ENOMEM);
		iomap_bio_put(below);
		return;
	}
	iomap__fetch_add(&io->remaining, 1);
	iomap_submit_bio(below);
}

/* All of it, or a prefix. */
static void fio_whole(struct iomap__faulty_io *io, uint64_t addr, uint64_t len)
{
	/* An empty read or write goes nowhere below, an empty PREFLUSH write flushes. */
	fio_below(io, io->bio->bi_opf, addr, 0, len, fio_below_end);
}

/* ---- kinds ---- */

static void fio_shorten(struct iomap__faulty_io *io)
{
	uint64_t block = io->faulty->lower->limits.logical_block_size;
	uint64_t size = io->bio->bi_iter.bi_size;
	uint64_t keep = iomap__min(iomap__round_down(io->amount, block), size);

	if (io->amount == IOMAP_FAULT_ANY)
		keep = io->random % (size / block) * block;
	fio_whole(io, iomap__bio_addr(io->bio), keep);
}

uint64_t iomap__faulty_elsewhere(const struct iomap_bdev *lower, const struct iomap_bio *bio,
				 uint64_t amount, uint64_t random)
{
	uint64_t block = lower->limits.logical_block_size;
	uint64_t addr = iomap__bio_addr(bio), size = bio->bi_iter.bi_size;
	uint64_t bytes = iomap__bdev_size(lower);
	uint64_t places = (bytes - size) / block + 1;

	if (amount != IOMAP_FAULT_ANY) {
		amount %= bytes;
		/* the sum may be past what 64 bits hold */
		addr = amount < bytes - addr ? addr + amount :
						      amount - (bytes - addr);
		return iomap__min(addr, bytes - size);
	}
	return places > 1 ? (addr / block + 1 + random % (places - 1)) % places * block : addr;
}

static void fio_misdirect(struct iomap__faulty_io *io)
{
	uint64_t to = iomap__faulty_elsewhere(io->faulty->lower, io->bio, io->amount, io->random);

	fio_whole(io, to, io->bio->bi_iter.bi_size);
}

/* A unit lands or does not; @lost never does and @kept always, so that both happen. */
static bool fio_unit_lands(const struct iomap__faulty_io *io, uint64_t unit, uint64_t kept,
			   uint64_t lost)
{
	if (unit == kept || unit == lost)
		return unit == kept;
	return iomap__mix2(io->random, unit) & 1;
}

/* Submit the runs of units that land. */
static void fio_tear_runs(struct iomap__faulty_io *io)
{
	uint64_t addr = iomap__bio_addr(io->bio), end = addr + io->bio->bi_iter.bi_size;
	uint64_t first = addr / io->amount, nr = (end - 1) / io->amount - first + 1;
	uint64_t kept = io->random % nr;
	uint64_t lost = (kept + 1 + (io->random >> 32) % (nr - 1)) % nr;
	uint32_t opf = io->bio->bi_opf & ~IOMAP_REQ_PREFLUSH;
	uint64_t unit = 0, from;

	while (unit < nr) {
		uint64_t begin, stop;

		if (!fio_unit_lands(io, unit, kept, lost)) {
			unit++;
			continue;
		}
		from = unit;
		while (unit < nr && fio_unit_lands(io, unit, kept, lost))
			unit++;
		begin = iomap__max((first + from) * io->amount, addr);
		stop = iomap__min((first + unit) * io->amount, end);
		fio_below(io, opf, begin, begin - addr, stop - begin, fio_below_end);
	}
}

static void fio_tear_flush_end(struct iomap_bio *flush)
{
	struct iomap__faulty_io *io = flush->bi_private;

	if (flush->bi_status)
		fio_set_error(io, flush->bi_status);
	else
		fio_tear_runs(io);
	iomap_bio_put(flush);
	fio_put(io);
}

static void fio_tear(struct iomap__faulty_io *io)
{
	if (io->bio->bi_opf & IOMAP_REQ_PREFLUSH)
		fio_below(io, IOMAP_REQ_OP_FLUSH, 0, 0, 0, fio_tear_flush_end);
	else
		fio_tear_runs(io);
}

static void fio_corrupt(struct iomap__faulty_io *io)
{
	if (iomap__bio_op(io->bio) == IOMAP_REQ_OP_WRITE && !fio_flip_write(io))
		fio_set_error(io, -ENOMEM);
	else
		fio_whole(io, iomap__bio_addr(io->bio), io->bio->bi_iter.bi_size);
}

void iomap__faulty_start(struct iomap__faulty_io *io)
{
	/* Held by the thread that submits. */
	io->remaining = 1;
	switch (io->kind) {
	case IOMAP_FAULT_SHORTEN:
		fio_shorten(io);
		break;
	case IOMAP_FAULT_TEAR:
		fio_tear(io);
		break;
	case IOMAP_FAULT_CORRUPT:
		fio_corrupt(io);
		break;
	case IOMAP_FAULT_MISDIRECT:
		fio_misdirect(io);
		break;
	case IOMAP_FAULT_FAIL:
	case IOMAP_FAULT_LOSE:
	case IOMAP_FAULT_GONE:
		break;
	default: /* only delayed */
		fio_whole(io, iomap__bio_addr(io->bio), io->bio->bi_iter.bi_size);
		break;
	}
	fio_put(io);
}
