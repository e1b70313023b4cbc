/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/*
 * bd05_faulty.c - the faulty device: which I/O meets a rule, and what happens to it.
 */
#include "bd05.h"

#define DEV_BYTES (256U * 1024U)

struct setup {
	struct iomap_engine *engine;
	struct iomap_bdev *lower, *dev;
};

static struct setup set_up_seed(uint64_t seed)
{
	struct setup s = { .engine = b_engine() };

	s.lower = b_memory(s.engine, DEV_BYTES);
	s.dev = b_faulty(s.lower, seed);
	return s;
}

static struct setup set_up(void)
{
	return set_up_seed(1);
}

static void tear_down(struct setup *s)
{
	b_close(s->dev);
	b_close(s->lower);
	cr_assert_eq(iomap_engine_destroy(s->engine), 0);
}

/* ---- which I/O ---- */

Test(faulty, bd05_without_a_rule_io_passes_through)
{
	struct setup s = set_up();
	struct iomap_bdev_limits upper, lower;

	cr_assert_eq(b_put(s.dev, 0, 3, 2, 7), 0);
	cr_assert_eq(b_get(s.lower, 4), 7);
	cr_assert_eq(b_get(s.dev, 3), 7);
	cr_assert_eq(b_flush(s.dev), 0);
	cr_assert_eq(b_stats(s.lower).flushes_nr, 1U);
	cr_assert_eq(iomap_bdev_bytes(s.dev), DEV_BYTES);
	iomap_bdev_limits(s.dev, &upper);
	iomap_bdev_limits(s.lower, &lower);
	cr_assert_eq(memcmp(&upper, &lower, sizeof(upper)), 0);
	cr_assert_eq(iomap_bdev_close(s.lower), -EBUSY, "the upper one holds it");
	tear_down(&s);
}

Test(faulty, bd05_the_nth_fails_with_the_chosen_error)
{
	struct setup s = set_up();
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							  .ops = IOMAP_FAULT_ON_WRITE,
							  .nth = 3,
							  .error = -ENOSPC });

	for (int i = 1; i <= 5; i++) {
		cr_assert_eq(b_put(s.dev, 0, (uint64_t)i, 1, i), i == 3 ? -ENOSPC : 0);
		cr_assert_eq(b_get(s.lower, (uint64_t)i), i == 3 ? 0 : i);
	}
	cr_assert_eq(b_matched(s.dev, id), 5U);
	cr_assert_eq(b_fired(s.dev, id), 1U);
	cr_assert_eq(b_stats(s.dev).errors_nr, 1U);
	tear_down(&s);
}

Test(faulty, bd05_every_nth_up_to_a_limit)
{
	struct setup s = set_up();
	uint32_t id =
		b_rule(s.dev, (struct iomap_fault){
				      .kind = IOMAP_FAULT_FAIL, .nth = 2, .every = 3, .limit = 3 });

	for (int i = 1; i <= 20; i++)
		cr_assert_eq(b_put(s.dev, 0, 0, 1, i), i == 2 || i == 5 || i == 8 ? -EIO : 0, "%d",
			     i);
	cr_assert_eq(b_fired(s.dev, id), 3U);
	cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);
	id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .every = 4 });
	for (int i = 1; i <= 12; i++)
		cr_assert_eq(b_put(s.dev, 0, 0, 1, i), i % 4 ? 0 : -EIO);
	tear_down(&s);
}

Test(faulty, bd05_a_rule_is_for_operations_flags_and_addresses)
{
	struct setup s = set_up();
	unsigned char buf[SECTOR];
	uint32_t reads = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							     .ops = IOMAP_FAULT_ON_READ,
							     .start = 8 * SECTOR,
							     .end = 10 * SECTOR });
	uint32_t fua = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							   .opf = IOMAP_REQ_FUA,
							   .error = -ENOLINK });
	uint32_t flush = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							     .ops = IOMAP_FAULT_ON_FLUSH });

	cr_assert_eq(b_put(s.dev, 0, 8, 1, 1), 0);
	cr_assert_eq(b_put(s.dev, IOMAP_REQ_FUA, 20, 1, 1), -ENOLINK);
	cr_assert_eq(b_put(s.dev, IOMAP_REQ_PREFLUSH, 20, 1, 1), 0);
	cr_assert_eq(b_read(s.dev, 7 * SECTOR, buf, SECTOR), 0);
	cr_assert_eq(b_read(s.dev, 8 * SECTOR, buf, SECTOR), -EIO);
	cr_assert_eq(b_read(s.dev, 9 * SECTOR, buf, SECTOR), -EIO);
	cr_assert_eq(b_read(s.dev, 10 * SECTOR, buf, SECTOR), 0);
	cr_assert_eq(b_flush(s.dev), -EIO);
	cr_assert_eq(b_fired(s.dev, reads), 2U);
	cr_assert_eq(b_fired(s.dev, fua), 1U);
	cr_assert_eq(b_fired(s.dev, flush), 1U);
	cr_assert_eq(t_stats(s.engine).flushes_nr, 1U, "of the PREFLUSH, not of what failed");
	tear_down(&s);
}

Test(faulty, bd05_a_flush_has_no_address)
{
	struct setup s = set_up();

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .end = DEV_BYTES / 2 });
	cr_assert_eq(b_flush(s.dev), 0);
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .end = DEV_BYTES });
	cr_assert_eq(b_flush(s.dev), -EIO);
	tear_down(&s);
}

/* Which of 400 writes fail, as bits; and how many. */
static unsigned random_faults(uint64_t seed, bool with_another_rule, unsigned char bits[400])
{
	struct setup s = set_up_seed(seed);
	unsigned nr = 0;
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							  .ops = IOMAP_FAULT_ON_WRITE,
							  .per_million = 250000 });

	if (with_another_rule)
		b_rule(s.dev,
		       (struct iomap_fault){ .kind = IOMAP_FAULT_CORRUPT, .per_million = 500000 });
	for (int i = 0; i < 400; i++) {
		bits[i] = b_put(s.dev, 0, 0, 1, i) != 0;
		nr += bits[i];
	}
	cr_assert_eq(b_fired(s.dev, id), nr);
	tear_down(&s);
	return nr;
}

Test(faulty, bd05_the_seed_decides_and_nothing_else)
{
	unsigned char one[400], again[400], other[400];
	unsigned nr = random_faults(42, false, one);

	cr_assert(nr > 60 && nr < 140, "%u of 400 at one in four", nr);
	random_faults(42, false, again);
	cr_assert_eq(memcmp(one, again, sizeof(one)), 0);
	random_faults(42, true, again);
	cr_assert_eq(memcmp(one, again, sizeof(one)), 0, "rules do not draw from one stream");
	random_faults(43, false, other);
	cr_assert_neq(memcmp(one, other, sizeof(one)), 0);
}

static void damage(uint64_t seed, unsigned char *image)
{
	struct setup s = set_up_seed(seed);
	unsigned char buf[4 * SECTOR];

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR, .per_million = 300000 });
	b_rule(s.dev, (struct iomap_fault){
			      .kind = IOMAP_FAULT_CORRUPT, .amount = 5, .per_million = 300000 });
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_MISDIRECT, .per_million = 300000 });
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_SHORTEN,
					    .amount = IOMAP_FAULT_ANY,
					    .per_million = 300000 });
	for (unsigned i = 0; i < 100; i++) {
		memset(buf, (int)i + 1, sizeof(buf));
		cr_assert_eq(b_write(s.dev, i % 60 * 4 * SECTOR, buf, sizeof(buf)), 0);
	}
	cr_assert_eq(b_read(s.lower, 0, image, DEV_BYTES), 0);
	tear_down(&s);
}

Test(faulty, bd05_the_same_seed_does_the_same_damage)
{
	static unsigned char one[DEV_BYTES], two[DEV_BYTES];

	damage(7, one);
	damage(7, two);
	cr_assert_eq(memcmp(one, two, DEV_BYTES), 0);
	damage(8, two);
	cr_assert_neq(memcmp(one, two, DEV_BYTES), 0);
}

Test(faulty, bd05_of_several_rules_the_first_acts_and_each_counts)
{
	struct setup s = set_up();
	uint32_t first = b_rule(
		s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .nth = 2, .error = -ENXIO });
	uint32_t second = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							      .every = 1,
							      .error = -ETIMEDOUT });

	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), -ETIMEDOUT);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), -ENXIO);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), -ETIMEDOUT);
	cr_assert_eq(b_fired(s.dev, first), 1U);
	cr_assert_eq(b_fired(s.dev, second), 2U);
	cr_assert_eq(b_matched(s.dev, second), 3U);
	cr_assert_eq(iomap_faulty_remove(s.dev, second), 0);
	cr_assert_eq(iomap_faulty_remove(s.dev, second), -ENOENT);
	cr_assert_eq(iomap_faulty_count(s.dev, second, NULL, NULL), -ENOENT);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), 0);
	cr_assert_gt(b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL }), second);
	tear_down(&s);
}

static int refused(struct iomap_bdev *dev, struct iomap_fault fault)
{
	if (!fault.size)
		fault.size = sizeof(fault);
	return iomap_faulty_add(dev, &fault, NULL);
}

Test(faulty, bd05_rules_that_make_no_sense_are_refused)
{
	struct setup s = set_up();
	struct iomap_faulty_opts opts = { .size = 4 };
	struct iomap_bdev *bdev;

	cr_assert_eq(refused(s.dev, (struct iomap_fault){ 0 }), -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = 99 }), -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .error = 5 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .flags = 1 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .ops = 16 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .opf = 1 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							  .per_million = 1000001 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
							  .start = 4096,
							  .end = 4096 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR,
							  .ops = IOMAP_FAULT_ON_READ }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev,
			     (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR, .amount = 1000 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_LOSE,
							  .ops = IOMAP_FAULT_ON_READ }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev,
			     (struct iomap_fault){ .kind = IOMAP_FAULT_MISDIRECT, .amount = 100 }),
		     -EINVAL);
	cr_assert_eq(refused(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .size = 8 }),
		     -EINVAL);
	cr_assert_eq(refused(s.lower, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL }), -EINVAL,
		     "not a faulty device");
	cr_assert_eq(iomap_faulty_set_gone(s.lower, true), -EINVAL);
	cr_assert_eq(iomap_faulty_release(s.dev, 0, 1, 9), -EINVAL);
	cr_assert_eq(iomap_faulty_create(s.lower, &opts, &bdev), -EINVAL);
	cr_assert_eq(iomap_faulty_create(NULL, NULL, &bdev), -EINVAL);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), 0);
	tear_down(&s);
}

/* A struct of a later version is taken if it asks for nothing that we do not know. */
Test(faulty, bd05_a_longer_struct_is_taken_when_the_rest_is_zero)
{
	struct {
		struct iomap_fault fault;
		uint64_t more[2];
	} later = { .fault = { .size = sizeof(later), .kind = IOMAP_FAULT_FAIL } };
	struct setup s = set_up();

	cr_assert_eq(iomap_faulty_add(s.dev, &later.fault, NULL), 0);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), -EIO);
	later.more[1] = 1;
	cr_assert_eq(iomap_faulty_add(s.dev, &later.fault, NULL), -EINVAL);
	later.fault = (struct iomap_fault){ .size = sizeof(later.fault),
					    .kind = IOMAP_FAULT_FAIL,
					    .reserved = { [3] = 1 } };
	cr_assert_eq(iomap_faulty_add(s.dev, &later.fault, NULL), -EINVAL, "it may mean something");
	later.fault.size = SIZE_MAX;
	later.fault.reserved[3] = 0;
	cr_assert_eq(iomap_faulty_add(s.dev, &later.fault, NULL), -EINVAL, "not a size");
	tear_down(&s);
}

/* ---- what happens ---- */

Test(faulty, bd05_a_lost_write_is_acknowledged_and_not_there)
{
	struct setup s = set_up();

	cr_assert_eq(b_put(s.dev, 0, 5, 1, 1), 0);
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_LOSE });
	cr_assert_eq(b_put(s.dev, 0, 5, 1, 2), 0);
	cr_assert_eq(b_get(s.lower, 5), 1);
	cr_assert_eq(b_flush(s.dev), 0);
	cr_assert_eq(b_put(s.dev, IOMAP_REQ_PREFLUSH, 5, 1, 2), 0);
	cr_assert_eq(t_stats(s.engine).flushes_nr, 0U, "flushes are lost as well");
	cr_assert_eq(b_stats(s.lower).writes_nr, 1U);
	cr_assert_eq(b_get(s.dev, 5), 1, "reads are not");
	tear_down(&s);
}

Test(faulty, bd05_a_shortened_io_moves_a_prefix)
{
	struct setup s = set_up();
	unsigned char buf[4 * SECTOR];
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_SHORTEN,
							  .amount = 2 * SECTOR + 100 });

	cr_assert_eq(b_put(s.dev, 0, 0, 4, 3), 0, "and it goes unnoticed");
	for (uint64_t i = 0; i < 4; i++)
		cr_assert_eq(b_get(s.lower, i), i < 2 ? 3 : 0);
	memset(buf, 0xee, sizeof(buf));
	cr_assert_eq(b_read(s.dev, 0, buf, sizeof(buf)), 0);
	cr_assert(t_all(buf, 2 * SECTOR, 3));
	cr_assert(t_all(buf + 2 * SECTOR, 2 * SECTOR, 0xee), "memory behind it is not touched");
	cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_SHORTEN, .error = -EREMOTEIO });
	cr_assert_eq(b_put(s.dev, IOMAP_REQ_PREFLUSH, 0, 4, 9), -EREMOTEIO);
	cr_assert_eq(b_get(s.lower, 0), 3, "amount 0: nothing");
	cr_assert_eq(t_stats(s.engine).flushes_nr, 1U, "but its flush");
	tear_down(&s);
}

static void check_torn(struct iomap_bdev *lower, uint64_t sector, unsigned nr, unsigned unit,
		       int before, int after)
{
	unsigned landed = 0;

	for (unsigned i = 0; i < nr; i++) {
		int value = b_get(lower, sector + i);

		cr_assert(value == before || value == after, "a sector is not torn");
		cr_assert_eq(value, b_get(lower, sector + i / unit * unit), "nor is a unit");
		landed += value == after;
	}
	cr_assert(landed > 0 && landed < nr, "%u of %u", landed, nr);
}

Test(faulty, bd05_a_torn_write_lands_in_some_of_its_sectors)
{
	struct setup s = set_up();
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR });

	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), 0);
	cr_assert_eq(b_matched(s.dev, id), 0U, "one sector does not tear");
	for (int i = 2; i < 30; i++) {
		cr_assert_eq(b_put(s.lower, 0, 16, 16, 1), 0);
		cr_assert_eq(b_put(s.dev, 0, 16, 16, i), 0, "acknowledged");
		check_torn(s.lower, 16, 16, 1, 1, i);
	}
	cr_assert_eq(b_fired(s.dev, id), 28U);
	cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);

	b_rule(s.dev,
	       (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR, .amount = PAGE, .error = -EIO });
	cr_assert_eq(b_put(s.lower, 0, 16, 32, 1), 0);
	cr_assert_eq(b_put(s.dev, 0, 16, 32, 2), -EIO, "or failed");
	check_torn(s.lower, 16, 32, 8, 1, 2);
	/* across one boundary of the unit: one side of it */
	for (int i = 3; i < 20; i++) {
		cr_assert_eq(b_put(s.lower, 0, 20, 8, 1), 0);
		cr_assert_eq(b_put(s.dev, 0, 20, 8, i), -EIO);
		cr_assert_neq(b_get(s.lower, 23), b_get(s.lower, 24));
		cr_assert_eq(b_get(s.lower, 20), b_get(s.lower, 23));
		cr_assert_eq(b_get(s.lower, 24), b_get(s.lower, 27));
	}
	tear_down(&s);
}

/* A device may want its memory aligned to more than its sectors. */
static void unaligned_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	bio->bi_bdev = iomap_bdev_private(bdev);
	iomap_submit_bio(bio);
}

Test(faulty, bd05_a_torn_write_suits_the_memory_alignment_of_the_device)
{
	static const struct iomap_bdev_ops ops = { .submit_bio = unaligned_submit };
	struct iomap_bdev_limits limits = { .logical_block_size = SECTOR,
					    .physical_block_size = SECTOR,
					    .dma_alignment = PAGE,
					    .max_segments_nr = 8,
					    .max_transfer_bytes = DEV_BYTES };
	static _Alignas(PAGE) unsigned char buf[PAGE], image[DEV_BYTES];
	struct setup s = set_up();
	struct iomap_bdev *strict, *dev;
	unsigned landed = 0;

	cr_assert_eq(iomap_bdev_create(s.engine, &ops, DEV_BYTES, &limits, s.lower, &strict), 0);
	dev = b_faulty(strict, 1);
	b_rule(dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR });
	for (unsigned i = 0; i < DEV_BYTES / PAGE; i++) {
		for (unsigned n = 0; n < PAGE / SECTOR; n++)
			memset(buf + n * SECTOR, (int)n + 1, SECTOR);
		cr_assert_eq(b_write(dev, i * PAGE, buf, PAGE), 0);
	}
	cr_assert_eq(b_read(s.lower, 0, image, DEV_BYTES), 0);
	for (unsigned i = 0; i < DEV_BYTES / SECTOR; i++) {
		int value = b_value(image, i);

		cr_assert(!value || value == (int)(i % 8) + 1);
		landed += value != 0;
	}
	cr_assert(landed > DEV_BYTES / SECTOR / 4 && landed < DEV_BYTES / SECTOR);
	b_close(dev);
	b_close(strict);
	tear_down(&s);
}

Test(faulty, bd05_the_flush_of_a_torn_write_comes_before_its_parts)
{
	struct setup s = set_up();
	struct iomap_bdev *log, *dev;
	struct iomap_writelog_event event;

	cr_assert_eq(iomap_writelog_create(s.lower, NULL, &log), 0);
	dev = b_faulty(log, 5);
	b_rule(dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR });
	cr_assert_eq(b_put(dev, IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 0, 16, 1), 0);
	check_torn(s.lower, 0, 16, 1, 0, 1);
	for (uint64_t n = 0; !iomap_writelog_event(log, n, &event, sizeof(event)); n++) {
		if (n < 2)
			cr_assert_eq(event.opf & IOMAP_REQ_OP_MASK, IOMAP_REQ_OP_FLUSH);
		else
			cr_assert_eq(event.opf, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA);
	}
	b_close(dev);
	b_close(log);
	tear_down(&s);
}

static unsigned bits_that_differ(const unsigned char *buf, size_t len, int value)
{
	unsigned nr = 0;

	for (size_t i = 0; i < len; i++)
		nr += (unsigned)__builtin_popcount((unsigned)(buf[i] ^ value));
	return nr;
}

Test(faulty, bd05_corruption_flips_so_many_bits)
{
	struct setup s = set_up();
	unsigned char buf[8 * SECTOR];
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_CORRUPT,
							  .ops = IOMAP_FAULT_ON_WRITE });

	memset(buf, 0x5a, sizeof(buf));
	cr_assert_eq(b_write(s.dev, 0, buf, sizeof(buf)), 0);
	cr_assert(t_all(buf, sizeof(buf), 0x5a), "the writer's memory is its own");
	cr_assert_eq(b_read(s.lower, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(bits_that_differ(buf, sizeof(buf), 0x5a), 1U);
	cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);

	cr_assert_eq(b_put(s.dev, 0, 0, 8, 0x11), 0);
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_CORRUPT,
					    .ops = IOMAP_FAULT_ON_READ,
					    .amount = 100 });
	cr_assert_eq(b_read(s.dev, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(bits_that_differ(buf, sizeof(buf), 0x11), 100U);
	cr_assert_eq(b_get(s.lower, 0), 0x11, "what is on the device is good");
	tear_down(&s);
}

Test(faulty, bd05_a_misdirected_io_goes_elsewhere)
{
	struct setup s = set_up();
	unsigned char image[DEV_BYTES];
	unsigned found = 0;
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_MISDIRECT,
							  .amount = 8 * SECTOR });

	cr_assert_eq(b_put(s.dev, 0, 4, 2, 1), 0);
	cr_assert_eq(b_get(s.lower, 4), 0);
	cr_assert_eq(b_get(s.lower, 12), 1);
	cr_assert_eq(b_get(s.lower, 13), 1);
	cr_assert_eq(b_get(s.dev, 4), 1, "a read finds it at the same wrong place");
	cr_assert_eq(b_put(s.dev, 0, DEV_BYTES / SECTOR - 8, 1, 2), 0);
	cr_assert_eq(b_get(s.lower, 0), 2, "around the end");
	cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);

	b_rule(s.dev,
	       (struct iomap_fault){ .kind = IOMAP_FAULT_MISDIRECT, .ops = IOMAP_FAULT_ON_WRITE });
	for (int i = 0; i < 20; i++) {
		cr_assert_eq(b_put(s.dev, 0, 100, 1, 3), 0);
		cr_assert_eq(b_get(s.lower, 100), 0, "never where it should");
	}
	cr_assert_eq(b_read(s.lower, 0, image, DEV_BYTES), 0);
	for (unsigned i = 0; i < DEV_BYTES / SECTOR; i++)
		found += b_value(image, i) == 3;
	cr_assert_gt(found, 10U, "each to a place of its own");
	memset(image, 4, sizeof(image));
	for (int i = 0; i < 10; i++) {
		/* there is one other place */
		cr_assert_eq(b_write(s.dev, 0, image, DEV_BYTES - SECTOR), 0);
		cr_assert_neq(b_get(s.lower, 0), 4);
		cr_assert_eq(b_get(s.lower, DEV_BYTES / SECTOR - 1), 4);
	}
	tear_down(&s);
}

/* Then a rule would count as fired, and report its error, for an I/O that is as it should be. */
Test(faulty, bd05_what_has_no_other_place_is_not_misdirected)
{
	static const uint64_t amounts[] = { IOMAP_FAULT_ANY, SECTOR, DEV_BYTES };
	static unsigned char image[DEV_BYTES];
	struct setup s = set_up();
	uint32_t id[3];

	for (unsigned i = 0; i < 3; i++)
		id[i] = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_MISDIRECT,
							    .amount = amounts[i],
							    .ops = IOMAP_FAULT_ON_WRITE,
							    .error = -EILSEQ });
	memset(image, 1, sizeof(image));
	cr_assert_eq(b_write(s.dev, 0, image, DEV_BYTES), 0);
	cr_assert_eq(b_matched(s.dev, id[0]), 0U);
	cr_assert_eq(b_put(s.dev, 0, DEV_BYTES / SECTOR - 2, 2, 2), -EILSEQ);
	cr_assert_eq(b_matched(s.dev, id[0]), 1U);
	cr_assert_eq(b_matched(s.dev, id[1]), 0U, "no further than the end, where it is");
	cr_assert_eq(b_matched(s.dev, id[2]), 0U, "around the device and back");
	cr_assert_eq(b_get(s.lower, DEV_BYTES / SECTOR - 1), 1);
	tear_down(&s);
}

Test(faulty, bd05_a_device_that_is_gone_stays_gone)
{
	struct setup s = set_up();
	struct b_async held;
	unsigned char buf[SECTOR];
	uint32_t id;

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .nth = 1 });
	id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_GONE, .nth = 3 });
	b_start(&held, s.dev, IOMAP_REQ_OP_WRITE, 50, 1, 1);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 1), 0);
	cr_assert_not(atomic_load(&held.done));
	cr_assert_eq(b_put(s.dev, 0, 1, 1, 1), -ENODEV);
	cr_assert_eq(b_finish(&held), -ENODEV, "what was held ends with it");
	cr_assert_eq(b_put(s.dev, 0, 2, 1, 1), -ENODEV);
	cr_assert_eq(b_read(s.dev, 0, buf, SECTOR), -ENODEV);
	cr_assert_eq(b_flush(s.dev), -ENODEV);
	cr_assert_eq(b_matched(s.dev, id), 3U);
	cr_assert_eq(b_get(s.lower, 0), 1);
	cr_assert_eq(b_get(s.lower, 1), 0);
	cr_assert_eq(b_get(s.lower, 50), 0);
	cr_assert_eq(iomap_faulty_set_gone(s.dev, false), 0);
	cr_assert_eq(b_put(s.dev, 0, 2, 1, 1), 0, "until it is back");
	cr_assert_eq(iomap_faulty_set_gone(s.dev, true), 0);
	cr_assert_eq(b_put(s.dev, 0, 2, 1, 1), -ENODEV);
	tear_down(&s);
}

/* ---- delays ---- */

Test(faulty, bd05_held_io_goes_on_when_released_in_the_order_asked_for)
{
	struct setup s = set_up();
	struct b_async io[4];
	uint32_t id = b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY,
							  .ops = IOMAP_FAULT_ON_WRITE });

	for (unsigned i = 0; i < 4; i++)
		b_start(&io[i], s.dev, IOMAP_REQ_OP_WRITE, 0, 1, (int)i + 1);
	cr_assert_eq(iomap_faulty_held_nr(s.dev), 4);
	cr_assert_eq(iomap_faulty_wait_held(s.dev, 4), 0);
	cr_assert_eq(b_get(s.dev, 0), 0, "not started");
	cr_assert_eq(iomap_bdev_close(s.dev), -EBUSY);
	cr_assert_eq(iomap_faulty_release(s.dev, 0, 1, IOMAP_RELEASE_FIFO), 1);
	cr_assert(atomic_load(&io[0].done));
	cr_assert_eq(b_get(s.dev, 0), 1);
	cr_assert_eq(iomap_faulty_release(s.dev, id + 1, UINT64_MAX, IOMAP_RELEASE_FIFO), 0);
	cr_assert_eq(iomap_faulty_release(s.dev, id, UINT64_MAX, IOMAP_RELEASE_LIFO), 3);
	cr_assert(io[3].tick < io[2].tick && io[2].tick < io[1].tick);
	cr_assert_eq(b_get(s.dev, 0), 2, "the oldest came last");
	cr_assert_eq(iomap_faulty_held_nr(s.dev), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(b_finish(&io[i]), 0);
	tear_down(&s);
}

/* The order in which ten held writes end, as a number. */
static uint64_t random_release(uint64_t seed)
{
	struct setup s = set_up_seed(seed);
	struct b_async io[10];
	uint64_t order = 0;

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY });
	for (unsigned i = 0; i < 10; i++)
		b_start(&io[i], s.dev, IOMAP_REQ_OP_WRITE, i, 1, 1);
	cr_assert_eq(iomap_faulty_release(s.dev, 0, UINT64_MAX, IOMAP_RELEASE_RANDOM), 10);
	for (unsigned i = 0; i < 10; i++) {
		unsigned before = 0;

		for (unsigned j = 0; j < 10; j++)
			before += io[j].tick < io[i].tick;
		order = order * 10 + before;
	}
	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(b_finish(&io[i]), 0);
	tear_down(&s);
	return order;
}

Test(faulty, bd05_a_random_order_is_the_seeds)
{
	cr_assert_eq(random_release(3), random_release(3));
	cr_assert_neq(random_release(3), random_release(4));
	cr_assert_neq(random_release(3), UINT64_C(123456789));
}

Test(faulty, bd05_a_delay_can_last_for_so_many_ios)
{
	struct setup s = set_up();
	struct b_async io;

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .nth = 1, .amount = 2 });
	b_start(&io, s.dev, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 2), 0);
	cr_assert_not(atomic_load(&io.done));
	cr_assert_eq(b_put(s.dev, 0, 0, 1, 3), 0);
	cr_assert(atomic_load(&io.done));
	cr_assert_eq(b_get(s.lower, 0), 1, "it was overtaken by both");
	cr_assert_eq(b_finish(&io), 0);
	tear_down(&s);
}

Test(faulty, bd05_a_delay_longer_than_all_time_lasts)
{
	struct setup s = set_up();
	struct b_async io;

	b_rule(s.dev,
	       (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .nth = 1, .amount = UINT64_MAX });
	b_start(&io, s.dev, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(b_put(s.dev, 0, 1, 1, 2), 0);
	cr_assert_not(atomic_load(&io.done));
	cr_assert_eq(iomap_faulty_release(s.dev, 0, UINT64_MAX, IOMAP_RELEASE_FIFO), 1);
	cr_assert_eq(b_finish(&io), 0);
	tear_down(&s);
}

Test(faulty, bd05_the_end_alone_can_be_held)
{
	struct setup s = set_up();
	struct b_async io;

	b_rule(s.dev, (struct iomap_fault){
			      .kind = IOMAP_FAULT_DELAY, .flags = IOMAP_FAULT_HOLD_END, .nth = 1 });
	b_start(&io, s.dev, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(iomap_faulty_wait_held(s.dev, 1), 0);
	cr_assert_eq(b_get(s.lower, 0), 1, "it has landed");
	cr_assert_not(atomic_load(&io.done), "and nobody was told");
	cr_assert_eq(iomap_faulty_release(s.dev, 0, 1, IOMAP_RELEASE_FIFO), 1);
	cr_assert_eq(b_finish(&io), 0);
	tear_down(&s);
}

Test(faulty, bd05_a_delay_adds_to_another_fault)
{
	struct setup s = set_up();
	struct b_async io[2];

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL, .error = -ENXIO, .nth = 1 });
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_LOSE, .nth = 2 });
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .error = -EPROTO });
	b_start(&io[0], s.dev, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	b_start(&io[1], s.dev, IOMAP_REQ_OP_WRITE, 1, 1, 1);
	cr_assert_eq(iomap_faulty_held_nr(s.dev), 2);
	cr_assert_eq(iomap_faulty_release(s.dev, 0, UINT64_MAX, IOMAP_RELEASE_FIFO), 2);
	cr_assert_eq(b_finish(&io[0]), -ENXIO);
	cr_assert_eq(b_finish(&io[1]), 0);
	cr_assert_eq(b_get(s.lower, 0), 0);
	cr_assert_eq(b_get(s.lower, 1), 0);
	tear_down(&s);
}

#define HELD_ROUNDS 300

static long let_go_task(void *arg)
{
	for (int i = 0; i < HELD_ROUNDS; i++) {
		t_must(iomap_faulty_wait_held(arg, 1) == 0);
		t_must(iomap_faulty_release(arg, 0, 1, IOMAP_RELEASE_FIFO) == 1);
	}
	return 0;
}

/* One thread waits for I/O, the other for it to be held. */
Test(faulty, bd05_a_thread_can_wait_for_held_io)
{
	struct setup s = set_up();
	struct t_task task;

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY });
	t_start(&task, let_go_task, s.dev);
	for (int i = 0; i < HELD_ROUNDS; i++)
		cr_assert_eq(b_put(s.dev, 0, 0, 1, i), 0);
	cr_assert_eq(t_join(&task), 0);
	tear_down(&s);
}

Test(faulty, bd05_io_that_comes_back_to_a_device_that_is_gone_is_not_held)
{
	struct setup s = set_up();
	struct iomap_bdev *top = b_faulty(s.dev, 2);
	struct b_async io;

	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY });
	b_rule(top,
	       (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY, .flags = IOMAP_FAULT_HOLD_END });
	b_start(&io, top, IOMAP_REQ_OP_WRITE, 0, 1, 1);
	cr_assert_eq(iomap_faulty_held_nr(top), 0);
	cr_assert_eq(iomap_faulty_set_gone(top, true), 0);
	cr_assert_eq(iomap_faulty_release(s.dev, 0, 1, IOMAP_RELEASE_FIFO), 1);
	cr_assert_eq(b_finish(&io), -ENODEV);
	b_close(top);
	tear_down(&s);
}

/* ---- pieces, memory, threads ---- */

/* Many vectors, faults that cut across them. */
Test(faulty, bd05_faults_work_on_scattered_memory)
{
	struct setup s = set_up();
	unsigned char *mem = malloc(64 * 2 * SECTOR);
	struct iomap_bio *bio;

	t_must(mem);
	memset(mem, 0xee, 64 * 2 * SECTOR);
	for (int i = 0; i < 64; i++)
		cr_assert_eq(b_put(s.lower, 0, (uint64_t)i, 1, i + 1), 0);
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_SHORTEN,
					    .ops = IOMAP_FAULT_ON_READ,
					    .amount = 41 * SECTOR });
	b_rule(s.dev, (struct iomap_fault){ .kind = IOMAP_FAULT_TEAR });
	bio = iomap_bio_alloc(s.dev, 64, IOMAP_REQ_OP_READ, NULL);
	t_must(bio);
	for (size_t i = 0; i < 64; i++)
		t_must(iomap_bio_add(bio, mem + i * 2 * SECTOR, SECTOR));
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	for (int i = 0; i < 64; i++)
		cr_assert_eq(b_value(mem, (uint64_t)i * 2), i < 41 ? i + 1 : 0xee);
	iomap_bio_put(bio);

	bio = iomap_bio_alloc(s.dev, 64, IOMAP_REQ_OP_WRITE, NULL);
	t_must(bio);
	for (size_t i = 0; i < 64; i++) {
		memset(mem + i * 2 * SECTOR, 100 + (int)i, SECTOR);
		t_must(iomap_bio_add(bio, mem + i * 2 * SECTOR, SECTOR));
	}
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	for (int i = 0; i < 64; i++) {
		int value = b_get(s.lower, (uint64_t)i);

		cr_assert(value == i + 1 || value == 100 + i, "each sector at its place");
	}
	iomap_bio_put(bio);
	free(mem);
	tear_down(&s);
}

Test(faulty, bd05_without_memory_calls_fail_and_nothing_is_lost)
{
	struct b_memory_limit limit = { .left = UINT64_MAX };
	struct iomap_fault fail = { .size = sizeof(fail), .kind = IOMAP_FAULT_CORRUPT };
	struct iomap_bdev *dev, *lower;
	struct iomap_engine *engine = b_limited_engine(&limit);
	uint64_t n;
	int error;

	lower = b_memory(engine, DEV_BYTES);
	for (n = 0;; n++) {
		limit.left = n;
		error = iomap_faulty_create(lower, NULL, &dev);
		if (!error)
			break;
		cr_assert_eq(error, -ENOMEM);
	}
	cr_assert_gt(n, 1U);
	limit.left = 0;
	cr_assert_eq(iomap_faulty_add(dev, &fail, NULL), -ENOMEM);
	limit.left = UINT64_MAX;
	b_rule(dev, fail);
	cr_assert_eq(b_put(dev, 0, 0, 1, 1), 0, "pools are filled");
	cr_assert_eq(b_put(lower, 0, 0, 1, 1), 0);
	limit.left = 0;
	cr_assert_eq(b_put(dev, 0, 0, 1, 2), -ENOMEM, "no copy to flip bits in");
	limit.left = UINT64_MAX;
	cr_assert_eq(b_get(lower, 0), 1);
	b_close(dev);
	b_close(lower);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

#define THREADS 4
#define ROUNDS (T_SANITIZED ? 300U : 1000U)

struct race {
	struct iomap_bdev *dev;
	unsigned index;
	atomic_uint running;
};

static long race_io(void *arg)
{
	_Alignas(PAGE) unsigned char buf[4 * PAGE];
	struct race *race = arg;
	long errors = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t addr = (i * 7 + race->index * 13) % 60 * PAGE;
		int status;

		memset(buf, (int)race->index, sizeof(buf));
		if (i % 16 == 15)
			status = b_flush(race->dev);
		else if (i & 1)
			status = b_read(race->dev, addr, buf, sizeof(buf));
		else
			status = b_write(race->dev, addr, buf, sizeof(buf));
		t_must(status == 0 || status == -EIO || status == -ENODEV);
		errors += status != 0;
	}
	atomic_fetch_sub(&race->running, 1);
	return errors;
}

/*
 * Rules come and go, held I/O is let go, the device vanishes and comes back.  On a file: I/O
 * to the same place at the same time is then the kernel's affair.
 */
Test(faulty, bd05_rules_change_while_io_runs)
{
	static const uint32_t kinds[] = {
		IOMAP_FAULT_FAIL,    IOMAP_FAULT_DELAY, IOMAP_FAULT_SHORTEN,   IOMAP_FAULT_TEAR,
		IOMAP_FAULT_CORRUPT, IOMAP_FAULT_LOSE,	IOMAP_FAULT_MISDIRECT,
	};
	char *path = t_temp(DEV_BYTES);
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_BUFFERED };
	struct setup s = { .engine = b_engine() };
	struct race race[THREADS];
	struct t_task task[THREADS];
	uint64_t round = 0;
	bool running = true;

	cr_assert_eq(iomap_bdev_open(s.engine, path, &opts, &s.lower), 0);
	s.dev = b_faulty(s.lower, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		race[i].dev = s.dev;
		race[i].index = i;
		atomic_init(&race[i].running, 1);
		t_start(&task[i], race_io, &race[i]);
	}
	while (running) {
		uint32_t id = b_rule(
			s.dev,
			(struct iomap_fault){
				.kind = kinds[round % 7],
				.flags = round % 14 == 1 ? IOMAP_FAULT_HOLD_END : 0,
				.amount = kinds[round % 7] == IOMAP_FAULT_DELAY ? round % 3 : 0,
				.per_million = 300000 });

		if (round % 50 == 49)
			cr_assert_eq(iomap_faulty_set_gone(s.dev, round % 100 == 99), 0);
		cr_assert_geq(iomap_faulty_release(s.dev, 0, UINT64_MAX, round % 3), 0);
		cr_assert_eq(iomap_faulty_count(s.dev, id, NULL, NULL), 0);
		cr_assert_eq(iomap_faulty_remove(s.dev, id), 0);
		iomap_faulty_release(s.dev, 0, UINT64_MAX, IOMAP_RELEASE_LIFO);
		round++;
		running = false;
		for (unsigned i = 0; i < THREADS; i++)
			running |= atomic_load(&race[i].running) != 0;
	}
	for (unsigned i = 0; i < THREADS; i++)
		t_join(&task[i]);
	cr_assert_eq(iomap_faulty_held_nr(s.dev), 0);
	cr_assert_eq(b_stats(s.dev).inflight_nr, 0U);
	tear_down(&s);
	t_temp_free(path);
}
