/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: TIMEOUT 400 */
/*
 * space_races.c - TR03: what takes space away, or gives a file other space, beside all that uses it.
 *
 * The thread that changes the space has the first half of the file to itself, and knows each byte of
 * it.  Into the other half writers write the same bytes to the same place: each byte there is that,
 * or a zero.  The device is full of rubbish, so what was never written shows; so does what has
 * moved.  Blocks that have been cloned are remembered with what they held, and hold it at the end.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define FILE_BYTES (64 * KIB)
#define OWN_BYTES (32 * KIB)
#define CLONES 100

struct clone {
	uint64_t addr, length;
	uint8_t *bytes;
};

struct race {
	struct ts *ts;
	struct iomap_file *direct;
	atomic_bool stop;
	struct clone clone[64 * CLONES];
	size_t clone_nr;
	unsigned clones;
	uint64_t seed;
	uint8_t own[OWN_BYTES];
};

/* A byte is what was written there, or a zero; what is the other thread's may be of any age. */
static void check_bytes(const unsigned char *buf, ssize_t n, int64_t pos)
{
	t_must(n >= 0);
	for (ssize_t i = 0; i < n; i++)
		t_must(!buf[i] || (pos + i < OWN_BYTES && !(buf[i] & 1)) ||
		       t_mismatch(buf + i, 1, pos + i, 1) < 0);
}

static long reader(struct race *race, struct iomap_file *file)
{
	struct t_rand r = { race->seed + 1 };
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, FILE_BYTES) == 0);
	while (!atomic_load(&race->stop)) {
		int64_t pos = (int64_t)t_below(&r, FILE_BYTES / 512) * 512;
		size_t len = (size_t)(1 + t_below(&r, 32)) * 512;

		check_bytes(buf, iomap_read(file, buf, len, pos), pos);
	}
	free(buf);
	return 0;
}

static long buffered_reader(void *arg)
{
	return reader(arg, ((struct race *)arg)->ts->file);
}

static long direct_reader(void *arg)
{
	return reader(arg, ((struct race *)arg)->direct);
}

static long writer(struct race *race, struct iomap_file *file, unsigned unit)
{
	struct t_rand r = { race->seed + unit };
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, FILE_BYTES) == 0);
	while (!atomic_load(&race->stop)) {
		int64_t pos = OWN_BYTES + (int64_t)t_below(&r, OWN_BYTES / unit / 2) * unit;
		size_t len = (size_t)(1 + t_below(&r, 16)) * unit;

		t_fill(buf, len, pos, 1);
		t_must(iomap_write(file, buf, len, pos) == (ssize_t)len);
	}
	free(buf);
	return 0;
}

static long buffered_writer(void *arg)
{
	return writer(arg, ((struct race *)arg)->ts->file, 300);
}

static long direct_writer(void *arg)
{
	return writer(arg, ((struct race *)arg)->direct, 512);
}

static long syncer(void *arg)
{
	struct race *race = arg;

	while (!atomic_load(&race->stop)) {
		t_must(ts_fsync(race->ts) == 0);
		ts_drop(race->ts);
	}
	return 0;
}

/* Another file has all that is on the device by now, too. */
static void make_clone(struct race *race)
{
	struct ts *ts = race->ts;
	struct ts_extent e;
	int64_t pos;

	iomap_inode_lock(&ts->inode);
	iomap_inode_dio_wait(&ts->inode);
	iomap_filemap_invalidate_lock(&ts->inode.i_data);
	t_must(iomap_filemap_write_and_wait_range(&ts->inode.i_data, 0, INT64_MAX) == 0);
	for (pos = 0; pos < 2 * FILE_BYTES; pos = e.offset + (int64_t)e.length) {
		struct clone *clone = &race->clone[race->clone_nr];

		e = ts_lookup(ts, pos);
		if (e.type != IOMAP_MAPPED || e.flags & IOMAP_F_SHARED ||
		    race->clone_nr == sizeof(race->clone) / sizeof(race->clone[0]))
			continue;
		ts_map(ts, e.offset, e.length, e.type, IOMAP_F_SHARED, e.addr);
		clone->addr = e.addr;
		clone->length = e.length;
		clone->bytes = malloc(e.length);
		t_must(clone->bytes != NULL);
		t_lock(&ts->dev->gate);
		memcpy(clone->bytes, ts->dev->mem + e.addr, e.length);
		t_unlock(&ts->dev->gate);
		race->clone_nr++;
	}
	iomap_filemap_invalidate_unlock(&ts->inode.i_data);
	iomap_inode_unlock(&ts->inode);
	race->clones++;
}

/* [pos, end) of the own half are zeros now. */
static void own_zeros(struct race *race, int64_t pos, int64_t end)
{
	end = end < OWN_BYTES ? end : OWN_BYTES;
	if (pos < end)
		memset(race->own + pos, 0, (size_t)(end - pos));
}

/* Even bytes, never 0: not the device's rubbish, and another one each time. */
static void own_write(struct race *race, struct iomap_file *file, int64_t pos, int64_t len,
		      uint8_t *buf, struct t_rand *r)
{
	bool direct = file == race->direct;
	int value = 2 + 2 * (int)t_below(r, 127);

	if (direct) {
		pos &= ~511LL;
		len = (len + 511) & ~511LL;
	}
	len = len < OWN_BYTES - pos ? len : OWN_BYTES - pos;
	memset(buf, value, (size_t)len);
	t_must(iomap_write(file, buf, (size_t)len, pos) == len);
	memset(race->own + pos, value, (size_t)len);
}

/* What lies beyond the end of the file counts as zeros. */
static void own_check(struct race *race, struct iomap_file *file, uint8_t *buf)
{
	ssize_t n = iomap_read(file, buf, OWN_BYTES, 0);

	t_must(n >= 0);
	memset(buf + n, 0, (size_t)(OWN_BYTES - n));
	t_must(!memcmp(buf, race->own, OWN_BYTES));
}

static void change_space(struct race *race, uint8_t *buf, struct t_rand *r)
{
	struct iomap_file *file = race->ts->file, *either = t_below(r, 2) ? file : race->direct;
	int64_t pos = (int64_t)t_below(r, FILE_BYTES), len = 1 + (int64_t)t_below(r, 20000);
	unsigned keep = t_below(r, 2) ? IOMAP_FALLOC_FL_KEEP_SIZE : 0;

	switch (t_below(r, 10)) {
	case 0:
		t_must(iomap_truncate(file, pos) == 0);
		own_zeros(race, pos, OWN_BYTES);
		break;
	case 1:
		t_must(iomap_fallocate(file,
				       IOMAP_FALLOC_FL_PUNCH_HOLE | IOMAP_FALLOC_FL_KEEP_SIZE, pos,
				       len) == 0);
		own_zeros(race, pos, pos + len);
		break;
	case 2:
		t_must(iomap_fallocate(file, (int)(IOMAP_FALLOC_FL_ZERO_RANGE | keep), pos, len) ==
		       0);
		own_zeros(race, pos, pos + len);
		break;
	case 3:
	case 4:
		t_must(iomap_fallocate(file, (int)(IOMAP_FALLOC_FL_UNSHARE_RANGE | keep), pos,
				       len) == 0);
		break;
	case 5:
		t_must(iomap_fallocate(file, (int)keep, pos, len) == 0);
		break;
	case 6:
		if (race->clones < CLONES)
			make_clone(race);
		break;
	default:
		own_write(race, either, pos % OWN_BYTES, len, buf, r);
	}
	own_check(race, t_below(r, 2) ? file : race->direct, buf);
}

static long space(void *arg)
{
	struct race *race = arg;
	struct t_rand r = { race->seed };
	void *buf = NULL;

	t_must(posix_memalign(&buf, 4096, OWN_BYTES) == 0);
	for (int i = 0; i < (T_SANITIZED ? 250 : 1500); i++)
		change_space(race, buf, &r);
	atomic_store(&race->stop, true);
	free(buf);
	return 0;
}

static void check_clones(struct race *race)
{
	struct td *dev = race->ts->dev;

	for (size_t i = 0; i < race->clone_nr; i++) {
		struct clone *clone = &race->clone[i];

		t_lock(&dev->gate);
		for (uint64_t k = 0; k < clone->length; k++)
			cr_assert_eq(dev->mem[clone->addr + k], clone->bytes[k],
				     "shared byte %llu of %llu at %llu has changed",
				     (unsigned long long)k, (unsigned long long)clone->length,
				     (unsigned long long)clone->addr);
		t_unlock(&dev->gate);
		free(clone->bytes);
	}
}

static void run(enum ts_alloc alloc, uint32_t blkbits, unsigned order, bool with_write_ops,
		uint64_t seed)
{
	static const struct iomap_dio_ops dops = { .end_io = ts_dio_end_io };
	long (*const fn[])(void *) = { buffered_reader, direct_reader, buffered_writer,
				       direct_writer,	syncer,	       space };
	struct race *race = calloc(1, sizeof(*race));
	struct ts *ts = malloc(sizeof(*ts));
	struct t_task task[6];

	t_must(race && ts);
	race->seed = seed;
	ts_prepare(ts, &(struct ts_config){ .dev_bytes = 192 << 20, .blkbits = blkbits,
					    .alloc = alloc, .threads = true, .cow = true,
					    .with_write_ops = with_write_ops });
	ts->hook.open = ts_allow_direct;
	ts->hook.begin = ts_cow_begin;
	ts->i_op.setsize = ts_setsize;
	ts->i_op.fallocate = ts_fallocate;
	ts->i_op.dio_ops = &dops;
	ts_begin(ts);
	ts_poison(ts);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, order, order + 1), 0);
	td_async(ts->dev);
	race->ts = ts;
	cr_assert_eq(iomap_file_open(&ts->inode, IOMAP_O_DIRECT, &race->direct), 0);
	for (size_t i = 0; i < 6; i++)
		t_start(&task[i], fn[i], race);
	for (size_t i = 0; i < 6; i++)
		cr_assert_eq(t_join(&task[i]), 0);
	cr_assert_eq(ts_fsync(ts), 0);
	check_clones(race);
	cr_assert_eq(iomap_file_close(race->direct), 0);
	ts_close(ts);
	free(race);
}

Test(space_races, tr03_no_old_byte_shows_and_no_shared_one_changes, .timeout = 350)
{
	uint64_t seed = t_seed();

	run(TS_UNWRITTEN, 10, 0, true, seed);
	run(TS_UNWRITTEN, 9, 2, false, seed + 100);
	run(TS_DELALLOC, 12, 0, true, seed + 200);
}
