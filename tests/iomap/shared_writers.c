/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * shared_writers.c - BW08: writers that hold i_rwsem shared.
 *
 * Each byte of the file belongs to one of the threads, in stripes of three, so that the threads
 * are neighbours in nearly every block.  They overwrite at random what is theirs, keep in a
 * model of their own what that was, and read back at once what nobody else can have changed.
 * Meanwhile the file is written out, and dropped from the cache, again and again: a byte that
 * one writer takes from another differs from the model, and so does, once all has been written
 * out and dropped for the last time, a byte whose dirty bit was lost.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "teststore.h"

#define KIB 1024
#define WRITERS 4
#define STRIPE 3
#define FILE_BYTES (48 * KIB)
#define ROUNDS (T_SANITIZED ? 15 : 40)
#define WRITES_A_ROUND 200

struct shared {
	struct ts *ts;
	uint8_t model[FILE_BYTES]; /* each byte by its writer */
	atomic_uint running;
};

struct writer {
	struct shared *shared;
	unsigned number;
	struct t_rand rand;
	struct t_task task;
};

/*
 * Only iomap_valid: the library finds the folios, as for most filesystems.  These are of
 * 2^@min_order pages, or twice as many.
 */
static struct ts *shared_store(const struct ts_config *cfg, unsigned min_order)
{
	struct ts *ts = calloc(1, sizeof(*ts));

	cr_assert_not_null(ts);
	ts_prepare(ts, cfg);
	ts->write_ops.get_folio = NULL;
	ts->write_ops.put_folio = NULL;
	ts->write_ops.read_folio_range = NULL;
	ts_begin(ts);
	cr_assert_eq(iomap_mapping_set_folio_order_range(&ts->inode.i_data, min_order,
							 min_order + 1), 0);
	return ts;
}

static ssize_t write_shared(struct ts *ts, int64_t pos, const void *buf, size_t len)
{
	struct iomap_iov_iter from;
	struct iomap_kiocb iocb;
	ssize_t n;

	iomap_kiocb_init(&iocb, ts->file, pos);
	iomap_iov_iter_ubuf(&from, IOMAP_ITER_SOURCE, (void *)(uintptr_t)buf, len);
	iomap_inode_lock_shared(&ts->inode);
	n = iomap_file_buffered_write(&iocb, &from, &ts->ops, ts->i_op.write_ops, NULL);
	iomap_inode_unlock_shared(&ts->inode);
	return n;
}

/* ---- bytes and dirty bits ---- */

static void write_one(struct writer *w)
{
	struct shared *s = w->shared;
	size_t stripes = FILE_BYTES / (STRIPE * WRITERS);
	size_t pos = (t_below(&w->rand, stripes) * WRITERS + w->number) * STRIPE;
	size_t off = t_below(&w->rand, STRIPE), len = 1 + t_below(&w->rand, STRIPE - off);
	uint8_t got[STRIPE];

	for (size_t i = 0; i < len; i++)
		s->model[pos + off + i] = (uint8_t)t_rand(&w->rand);
	t_must(write_shared(s->ts, (int64_t)(pos + off), s->model + pos + off, len) ==
	       (ssize_t)len);
	t_must(iomap_read(s->ts->file, got, STRIPE, (int64_t)pos) == STRIPE);
	t_must(!memcmp(got, s->model + pos, STRIPE));
}

static long writer_main(void *arg)
{
	struct writer *w = arg;

	for (unsigned i = 0; i < WRITES_A_ROUND; i++)
		write_one(w);
	atomic_fetch_sub(&w->shared->running, 1);
	return 0;
}

static void drop_all(struct ts *ts)
{
	cr_assert_eq(ts_fsync(ts), 0);
	ts_drop(ts);
	cr_assert_eq(t_stats(ts->engine).cached_bytes, 0U, "all is clean, and goes");
}

static void compare(struct shared *s, const char *what)
{
	static uint8_t got[FILE_BYTES];

	cr_assert_eq(iomap_read(s->ts->file, got, FILE_BYTES, 0), FILE_BYTES);
	for (size_t i = 0; i < FILE_BYTES; i++)
		cr_assert_eq(got[i], s->model[i], "%s: byte %zu is %#x and not %#x", what, i, got[i],
			     s->model[i]);
}

static void round_of_writers(struct shared *s, struct writer *w)
{
	struct ts *ts = s->ts;

	atomic_store(&s->running, WRITERS);
	for (unsigned i = 0; i < WRITERS; i++)
		t_start(&w[i].task, writer_main, &w[i]);
	while (atomic_load(&s->running)) {
		cr_assert_eq(ts_fsync(ts), 0);
		ts_drop(ts);
		sched_yield();
	}
	for (unsigned i = 0; i < WRITERS; i++)
		t_join(&w[i].task);
	compare(s, "cache");
	drop_all(ts);
	compare(s, "device");
}

static void keep_all_bytes(const struct ts_config *cfg, unsigned min_order, uint64_t seed)
{
	struct shared *s = calloc(1, sizeof(*s));
	struct writer w[WRITERS];

	cr_assert_not_null(s);
	s->ts = shared_store(cfg, min_order);
	if (cfg->alloc == TS_NOTHING) /* there is space for all of it, with old data */
		ts_map(s->ts, 0, FILE_BYTES, IOMAP_MAPPED, 0, 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .shared = s, .number = i };
		w[i].rand.state = seed * WRITERS + i;
	}
	cr_assert_eq(iomap_read(s->ts->file, s->model, FILE_BYTES, 0), FILE_BYTES);
	for (unsigned round = 0; round < ROUNDS; round++) {
		round_of_writers(s, w);
		if (cfg->alloc == TS_NOTHING || round % 8 != 7)
			continue;
		/* and from the beginning again, in space that is not there yet */
		drop_all(s->ts);
		ts_punch(s->ts, 0, FILE_BYTES);
		memset(s->model, 0, FILE_BYTES);
	}
	ts_close(s->ts);
	free(s);
}

static void keep_all_bytes_of_blocks(uint32_t blkbits, unsigned min_order)
{
	uint64_t seed = t_seed();
	struct ts_config cfg = { .i_size = FILE_BYTES, .blkbits = blkbits, .dev_bytes = 64 << 20,
				 .with_write_ops = true };
	static const enum ts_alloc allocs[] = { TS_NOTHING, TS_UNWRITTEN, TS_DELALLOC };

	for (size_t i = 0; i < sizeof(allocs) / sizeof(allocs[0]); i++) {
		cfg.alloc = allocs[i];
		keep_all_bytes(&cfg, min_order, seed);
	}
}

Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_blocks_of_512)
{
	keep_all_bytes_of_blocks(9, 0);
}
Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_blocks_of_1024)
{
	keep_all_bytes_of_blocks(10, 0);
}
Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_blocks_of_4096)
{
	keep_all_bytes_of_blocks(12, 0);
}
Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_folios_of_4_pages)
{
	keep_all_bytes_of_blocks(9, 2);
}
Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_folios_of_8_pages)
{
	keep_all_bytes_of_blocks(12, 3);
}
Test(shared_writers, bw08_neighbouring_bytes_and_dirty_bits_stay_in_blocks_of_16384)
{
	keep_all_bytes_of_blocks(14, 2);
}

/* ---- the size ---- */

#define PIECE 700
#define PIECES 60
#define WINDOW 8 /* pieces that are under way at a time come from so near each other */

struct growing {
	struct ts *ts;
	unsigned order[PIECES];
	atomic_uint next;
	atomic_uint running;
	atomic_uint moved; /* writes that iomap_end was told had moved i_size */
};

static int count_moves(struct ts *ts, int64_t pos, int64_t length, ssize_t written, unsigned flags,
		       struct iomap *iomap)
{
	struct growing *g = ts->hook.arg;

	(void)length;
	(void)flags;
	if (iomap->flags & IOMAP_F_SIZE_CHANGED) {
		atomic_fetch_add(&g->moved, 1);
		t_must(iomap_i_size_read(&ts->inode) >= pos + written);
	}
	return 0;
}

static long grow(void *arg)
{
	struct growing *g = arg;
	uint8_t buf[PIECE];
	unsigned i;

	while ((i = atomic_fetch_add(&g->next, 1)) < PIECES) {
		int64_t pos = (int64_t)g->order[i] * PIECE;

		t_fill(buf, PIECE, pos, 1);
		t_must(write_shared(g->ts, pos, buf, PIECE) == PIECE);
		t_must(iomap_i_size_read(&g->ts->inode) >= pos + PIECE);
		t_must(iomap_read(g->ts->file, buf, PIECE, pos) == PIECE);
		t_must(t_mismatch(buf, PIECE, pos, 1) == -1);
	}
	atomic_fetch_sub(&g->running, 1);
	return 0;
}

static void grow_together(const struct ts_config *cfg, struct t_rand *rand)
{
	struct growing g = { .running = WRITERS };
	struct t_task task[WRITERS];
	int64_t size = 0, now;

	g.ts = shared_store(cfg, cfg->blkbits > 12 ? cfg->blkbits - 12 : 0);
	for (unsigned i = 0; i < PIECES; i++)
		g.order[i] = i;
	for (unsigned i = 0; i < PIECES; i++) {
		unsigned other = i / WINDOW * WINDOW + (unsigned)t_below(rand, WINDOW);
		unsigned was = g.order[i];

		if (other < PIECES) {
			g.order[i] = g.order[other];
			g.order[other] = was;
		}
	}
	g.ts->hook.arg = &g;
	g.ts->hook.end = count_moves;
	for (unsigned i = 0; i < WRITERS; i++)
		t_start(&task[i], grow, &g);
	while (atomic_load(&g.running)) {
		now = iomap_i_size_read(&g.ts->inode);
		cr_assert_geq(now, size, "i_size went back from %lld to %lld", (long long)size,
			      (long long)now);
		size = now;
		cr_assert_eq(ts_fsync(g.ts), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++)
		t_join(&task[i]);
	cr_assert_eq(iomap_i_size_read(&g.ts->inode), PIECE * PIECES);
	cr_assert_geq(atomic_load(&g.moved), 1U);
	cr_assert(ts_reads(g.ts, 0, PIECE * PIECES, 1));
	drop_all(g.ts);
	cr_assert(ts_reads(g.ts, 0, PIECE * PIECES, 1));
	ts_close(g.ts);
}

Test(shared_writers, bw08_i_size_never_goes_back)
{
	struct t_rand rand = { t_seed() };

	for (unsigned i = 0; i < (T_SANITIZED ? 20U : 60U); i++) {
		struct ts_config cfg = {
			.blkbits = 9 + (uint32_t)t_below(&rand, 6),
			.alloc = t_below(&rand, 2) ? TS_UNWRITTEN : TS_DELALLOC,
			.with_write_ops = true,
		};

		grow_together(&cfg, &rand);
	}
}

/*
 * The same where it is hardest: two writers who move i_size at one moment, from one size to two
 * different ones.  Their folios are cached already, and i_size is put back for each round, so
 * that there is next to nothing around the moment.
 */
#define RACES (T_SANITIZED ? 4000 : 30000)

struct duel {
	struct ts *ts;
	atomic_uint round, arrived;
};

static void duel_meet(struct duel *d, unsigned round)
{
	/* who comes last lets both go */
	if (atomic_fetch_add(&d->arrived, 1) % 2)
		atomic_store(&d->round, round);
	for (unsigned spins = 0; atomic_load(&d->round) < round; spins++)
		if (spins > 1000)
			sched_yield();
}

static void duel_write(struct duel *d, unsigned number)
{
	t_must(write_shared(d->ts, (int64_t)(number * 4 + 4) * KIB - 8, "01234567", 8) == 8);
}

static long duel_second(void *arg)
{
	struct duel *d = arg;

	for (unsigned i = 0; i < RACES; i++) {
		duel_meet(d, 2 * i + 1);
		duel_write(d, 1);
		duel_meet(d, 2 * i + 2);
	}
	return 0;
}

Test(shared_writers, bw08_of_two_new_sizes_the_larger_one_stays)
{
	struct duel d = { .ts = ts_open(&(struct ts_config){ .i_size = 8 * KIB }) };
	struct t_task second;

	ts_map(d.ts, 0, 8 * KIB, IOMAP_MAPPED, 0, 0);
	ts_write(d.ts, 0, 8 * KIB, 1);
	t_start(&second, duel_second, &d);
	for (unsigned i = 0; i < RACES; i++) {
		iomap_i_size_write(&d.ts->inode, 0);
		duel_meet(&d, 2 * i + 1);
		duel_write(&d, 0);
		duel_meet(&d, 2 * i + 2);
		cr_assert_eq(iomap_i_size_read(&d.ts->inode), 8 * KIB, "round %u", i);
	}
	t_join(&second);
	ts_close(d.ts);
}
