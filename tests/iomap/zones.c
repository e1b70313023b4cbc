/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * zones.c - TR02, DR02, DW01: the end of a file moves while others read and write below it.
 *
 * The file has two zones, each written by one thread, through the cache or past it, and
 * behind them a rest in which the end of the file wanders.  A word of a zone is the number of
 * the write that it comes from.  A read returns nothing older than the last write of a sector
 * that had returned before, and nothing that nobody had begun to write; whatever happens to
 * the folios that zones and rest have in common.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define ZONES 2U
#define ZONE_SECTORS 41U /* so that neither blocks nor pages end where zones do */
#define SECTOR 512U
#define REST ((int64_t)(ZONES * ZONE_SECTORS * SECTOR))
#define REST_BYTES (40 * KIB)
#define STEPS (T_SANITIZED ? 250 : 1500)

struct zones {
	struct ts *ts;
	struct iomap_file *direct;
	atomic_bool stop;
	atomic_ulong begun[ZONES][ZONE_SECTORS], done[ZONES][ZONE_SECTORS];
	uint64_t seed;
};

struct user {
	struct zones *z;
	unsigned index;
	struct t_task task;
};

static uint64_t *memory(void)
{
	void *memory = NULL;

	t_must(posix_memalign(&memory, 4096, 64 * KIB) == 0);
	return memory;
}

static struct iomap_file *either(struct zones *z, struct t_rand *r)
{
	return t_below(r, 2) ? z->direct : z->ts->file;
}

static long write_zone(void *arg)
{
	struct user *user = arg;
	struct zones *z = user->z;
	struct t_rand r = { z->seed + user->index };
	uint64_t *buf = memory();

	for (uint64_t nr = 1; !atomic_load(&z->stop); nr++) {
		unsigned first = (unsigned)t_below(&r, ZONE_SECTORS);
		unsigned end = first + 1 + (unsigned)t_below(&r, ZONE_SECTORS - first);
		int64_t pos = (int64_t)(user->index * ZONE_SECTORS + first) * SECTOR;
		size_t len = (end - first) * SECTOR;

		for (size_t i = 0; i < len / sizeof(*buf); i++)
			buf[i] = nr;
		for (unsigned i = first; i < end; i++)
			atomic_store(&z->begun[user->index][i], nr);
		t_must(iomap_write(either(z, &r), buf, len, pos) == (ssize_t)len);
		for (unsigned i = first; i < end; i++)
			atomic_store(&z->done[user->index][i], nr);
	}
	free(buf);
	return 0;
}

static void read_zone(struct zones *z, struct iomap_file *file, unsigned zone, unsigned first,
		      unsigned nr, uint64_t *buf)
{
	int64_t pos = (int64_t)(zone * ZONE_SECTORS + first) * SECTOR;
	uint64_t oldest[ZONE_SECTORS];

	for (unsigned i = 0; i < nr; i++)
		oldest[i] = atomic_load(&z->done[zone][first + i]);
	t_must(iomap_read(file, buf, nr * SECTOR, pos) == (ssize_t)(nr * SECTOR));
	for (unsigned i = 0; i < nr * SECTOR / sizeof(*buf); i++) {
		unsigned sector = i * sizeof(*buf) / SECTOR;

		if (buf[i] >= oldest[sector] &&
		    buf[i] <= atomic_load(&z->begun[zone][first + sector]))
			continue;
		fprintf(stderr, "zone %u, sector %u, %s: %#llx, not %#llx to %#lx\n", zone,
			first + sector, file == z->direct ? "direct" : "buffered",
			(unsigned long long)buf[i], (unsigned long long)oldest[sector],
			atomic_load(&z->begun[zone][first + sector]));
		t_must(!"a byte that nobody wrote, or an old one");
	}
}

static long read_zones(void *arg)
{
	struct user *user = arg;
	struct t_rand r = { user->z->seed + 10 + user->index };
	uint64_t *buf = memory();

	while (!atomic_load(&user->z->stop)) {
		unsigned first = (unsigned)t_below(&r, ZONE_SECTORS);

		read_zone(user->z, either(user->z, &r), (unsigned)t_below(&r, ZONES), first,
			  1 + (unsigned)t_below(&r, ZONE_SECTORS - first), buf);
	}
	free(buf);
	return 0;
}

static long sync_all(void *arg)
{
	struct user *user = arg;
	struct ts *ts = user->z->ts;
	struct t_rand r = { user->z->seed + 20 };

	while (!atomic_load(&user->z->stop)) {
		if (t_below(&r, 2))
			t_must(ts_fsync(ts) == 0);
		ts_drop(ts);
	}
	return 0;
}

/* This thread alone touches the rest, and knows what is there. */
static long move_end(void *arg)
{
	struct user *user = arg;
	struct zones *z = user->z;
	struct t_rand r = { z->seed + 30 };
	unsigned char *rest = calloc(1, REST_BYTES), *buf = (unsigned char *)memory();
	int64_t size = 0, to, pos;

	t_must(rest);
	for (int i = 0; i < STEPS; i++) {
		size_t len = (size_t)(1 + t_below(&r, 3000));

		switch (t_below(&r, 4)) {
		case 0:
		case 1:
			to = t_below(&r, 4) ? (int64_t)t_below(&r, REST_BYTES) :
					      (int64_t)t_below(&r, 600);
			t_must(iomap_truncate(z->ts->file, REST + to) == 0);
			if (to < size)
				memset(rest + to, 0, (size_t)(size - to));
			size = to;
			break;
		case 2:
			pos = (int64_t)t_below(&r, REST_BYTES - len);
			memset(buf, 1 + i % 100, len);
			t_must(iomap_write(z->ts->file, buf, len, REST + pos) == (ssize_t)len);
			memset(rest + pos, 1 + i % 100, len);
			size = pos + (int64_t)len > size ? pos + (int64_t)len : size;
			break;
		default:
			t_must(iomap_read(either(z, &r), buf, 64 * KIB - SECTOR, REST) == size);
			t_must(!memcmp(buf, rest, (size_t)size));
			break;
		}
	}
	atomic_store(&z->stop, true);
	free(rest);
	free(buf);
	return 0;
}

static void run(const struct ts_config *cfg, bool own_setsize, bool async, uint64_t seed)
{
	static long (*const fn[])(void *) = { write_zone, write_zone, read_zones,
					      read_zones, sync_all,   move_end };
	static const struct iomap_dio_ops dops = { .end_io = ts_dio_end_io };
	struct zones *z = calloc(1, sizeof(*z));
	struct user user[6];
	uint64_t *buf = memory();

	t_must(z && (z->ts = malloc(sizeof(*z->ts))));
	z->seed = seed;
	ts_prepare(z->ts, cfg);
	z->ts->hook.open = ts_allow_direct;
	z->ts->i_op.dio_ops = &dops;
	if (own_setsize)
		z->ts->i_op.setsize = ts_setsize;
	ts_begin(z->ts);
	ts_poison(z->ts);
	if (async)
		td_async(z->ts->dev);
	cr_assert_eq(iomap_file_open(&z->ts->inode, IOMAP_O_DIRECT, &z->direct), 0);
	cr_assert_eq(iomap_truncate(z->ts->file, REST), 0);
	for (unsigned i = 0; i < 6; i++) {
		user[i].z = z;
		user[i].index = i;
		t_start(&user[i].task, fn[i], &user[i]);
	}
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(t_join(&user[i].task), 0);
	for (unsigned zone = 0; zone < ZONES; zone++) {
		read_zone(z, z->ts->file, zone, 0, ZONE_SECTORS, buf);
		cr_assert_eq(ts_fsync(z->ts), 0);
		ts_drop(z->ts);
		read_zone(z, z->direct, zone, 0, ZONE_SECTORS, buf);
	}
	cr_assert_eq(iomap_file_close(z->direct), 0);
	ts_close(z->ts);
	free(buf);
	free(z);
}

/*
 * A write into a hole, overtaken by a sync, and by a read of what it has yet to write, when it
 * has come to its second folio.
 */
struct overtaken {
	struct ts *ts;
	bool read, done;
};

static long overtake(void *arg)
{
	struct overtaken *o = arg;

	t_must(ts_fsync(o->ts) == 0);
	if (o->read)
		t_must(ts_reads_all(o->ts, 4 * KIB, 4 * KIB, 0));
	return 0;
}

static void before_the_second(struct ts *ts, struct iomap_iter *iter, int64_t pos)
{
	struct overtaken *o = ts->hook.arg;
	struct t_task task;

	(void)iter;
	if (pos < 4 * KIB || o->done)
		return;
	o->done = true;
	t_start(&task, overtake, o);
	t_must(t_join(&task) == 0);
}

static void overtaken_write(enum ts_alloc alloc, uint32_t blkbits, bool read)
{
	struct ts *ts = ts_open(&(struct ts_config){
		.alloc = alloc, .blkbits = blkbits, .i_size = 16 * KIB, .with_write_ops = true });
	struct overtaken o = { .ts = ts, .read = read };

	ts_poison(ts);
	ts->hook.arg = &o;
	ts->hook.get = before_the_second;
	ts_write(ts, 1000, 6000, 1);
	cr_assert(o.done);
	for (int i = 0; i < 2; i++) {
		cr_assert(ts_reads_all(ts, 0, 1000, 0));
		cr_assert(ts_reads(ts, 1000, 6000, 1));
		cr_assert(ts_reads_all(ts, 7000, 16 * KIB - 7000, 0), "%d, %u, %d, %d", alloc,
			  blkbits, read, i);
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
	}
	ts_close(ts);
}

Test(zones, wb03_bw03_a_write_overtaken_by_writeback_and_readers_fills_its_blocks_with_zeros)
{
	for (unsigned i = 0; i < 8; i++)
		overtaken_write(i & 1 ? TS_DELALLOC : TS_UNWRITTEN, i & 2 ? 12 : 10, i & 4);
}

Test(zones, tr02_dr02_dw01_data_below_a_wandering_end_is_nobodys_to_lose)
{
	static const enum ts_alloc alloc[] = { TS_UNWRITTEN, TS_DELALLOC, TS_UNWRITTEN };
	static const uint32_t blkbits[] = { 9, 12, 11 };
	uint64_t seed = t_seed();

	for (unsigned i = 0; i < 3; i++)
		run(&(struct ts_config){ .dev_bytes = 256 << 20,
					 .blkbits = blkbits[i],
					 .alloc = alloc[i],
					 .threads = true,
					 .with_write_ops = true },
		    i != 2, i != 1, seed + i);
}
