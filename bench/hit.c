/* SPDX-License-Identifier: MIT */
/*
 * hit.c - what a cache hit costs: the scenarios hit-read, hit-write, hit-batch and hit-pin.
 *
 * Random aligned pieces of a cached set, in folios of 64 KiB, are read by iomap_read(), or overwritten by
 * iomap_file_buffered_write() in folios that are dirty already; the peers are pread and pwrite in
 * the kernel's cache of a file on XFS, and memcpy, the limit.  Before each round a side goes once
 * over its whole set, because the kernel may have reclaimed idle pages of a file, and memory that
 * was left alone for long is slow at first.
 *
 * A batch is HIT_BATCH_NR of such reads by one call, into a buffer each; its peers read one at a
 * time.  A pin is taken of a random folio, its first byte looked at, and given back; its peers
 * are a look at memory, and a look-up in RocksDB's cache (rocksdb.c).
 *
 * What is measured is CPU time of the thread.  None of these operations waits for anything, so on
 * an idle machine that is the time they take, and on a busy one it leaves out the time in which
 * somebody else had the CPU.
 *
 * Where the set is large, "bare" is what is left of a read when everything is taken off but its
 * misses: a word that says where a piece of 64 KiB lies, a descriptor that is asked for together
 * with the data, and compared before and behind the copy.  It bounds what can be had.
 *
 * i_rwsem is held by the writer for its whole round: what a write takes besides it is counted.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hit.h"
#include "rocksdb.h"

#define OPS_A_LOOK_BYTES (256U << 10) /* moved between two looks at the clock */
#define OPS_A_LOOK_MAX 512U
#define PIN_SET_BYTES (256ULL << 20)
#define BARE_SHIFT 16 /* of a piece: a folio of 64 KiB */
#define BARE_WORDS 128 /* from one descriptor to the next, as of such folios */

struct hit_side {
	const struct hit_param *p;
	uint64_t set_bytes, seed;
	char *buffer;
	struct cached cached;
	struct iomap_engine *engine;
	char *memory;
	int fd;
	struct iomap_read_range range[HIT_BATCH_NR];
	unsigned in_batch;
	uint64_t *slot, *descriptor;	       /* bare: by piece, and by place */
	uint64_t bare_place[HIT_BATCH_NR];     /* of the batch that is being put together */
	const char *bare_from[HIT_BATCH_NR];
};

void BENCH_NOINLINE hit_copy(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
}

/* ---- life ---- */

static void side_teardown(struct bench_ctx *ctx, void *state)
{
	struct hit_side *s = state;
	int error = 0;

	(void)ctx;
	cached_close(&s->cached);
	if (s->engine)
		error = iomap_engine_destroy(s->engine);
	if (error)
		bench_error("closing: %s", strerror(-error));
	if (s->fd >= 0)
		close(s->fd);
	bench_memory_free(s->memory, s->set_bytes);
	bench_memory_free(s->buffer, s->p->bytes * HIT_BATCH_NR);
	free(s->slot);
	free(s->descriptor);
	free(s);
}

/* 256 MiB, or with --quick the large set there is. */
static uint64_t pin_set_bytes(const struct bench_ctx *ctx)
{
	uint64_t large = bench_set_bytes(ctx, true), bytes = PIN_SET_BYTES;

	return large < bytes ? large : bytes;
}

static struct hit_side *side_new(struct bench_ctx *ctx, void **state)
{
	struct hit_side *s = calloc(1, sizeof(*s));

	s->p = ctx->param;
	s->set_bytes = s->p->kind == HIT_PIN ? pin_set_bytes(ctx) : bench_set_bytes(ctx, s->p->large);
	s->seed = 1;
	s->fd = -1;
	s->buffer = bench_memory(s->p->bytes * HIT_BATCH_NR);
	*state = s;
	return s;
}

static int side_ready(struct bench_ctx *ctx, struct hit_side *s, int rc)
{
	if (rc)
		side_teardown(ctx, s);
	return rc;
}

static int ours_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct hit_side *s = side_new(ctx, state);
	int rc = cached_engine(s->set_bytes, &s->engine);

	(void)side;
	if (!rc)
		rc = cached_open(&s->cached, s->engine, s->set_bytes, true);
	if (!rc && s->p->write) {
		/* all of it dirty */
		iomap_inode_lock(&s->cached.inode);
		for (uint64_t at = 0; !rc && at < s->set_bytes; at += s->p->bytes)
			if (!hit_write(&s->cached, s->buffer, s->p->bytes, at))
				rc = bench_error("a write failed");
		iomap_inode_unlock(&s->cached.inode);
	}
	return side_ready(ctx, s, rc);
}

static int memcpy_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct hit_side *s = side_new(ctx, state);

	(void)side;
	s->memory = bench_memory(s->set_bytes);
	return 0;
}

/* Pieces lie anywhere in memory, as folios do. */
static int bare_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct hit_side *s = side_new(ctx, state);
	uint64_t nr = s->set_bytes >> BARE_SHIFT, seed = 1;

	(void)side;
	s->memory = bench_memory(s->set_bytes);
	s->slot = calloc(nr, sizeof(*s->slot));
	s->descriptor = aligned_alloc(64, nr * BARE_WORDS * sizeof(*s->descriptor));
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t other = bench_random(&seed) % (i + 1);

		s->slot[i] = s->slot[other];
		s->slot[other] = i;
		s->descriptor[i * BARE_WORDS] = 0;
		s->descriptor[i * BARE_WORDS + 1] = i;
	}
	return 0;
}

static int xfs_setup(struct bench_ctx *ctx, const struct bench_side *side, void **state)
{
	struct hit_side *s = side_new(ctx, state);

	(void)side;
	s->fd = bench_xfs_file(ctx, s->set_bytes);
	return side_ready(ctx, s, s->fd < 0 ? BENCH_SKIPPED : 0);
}

/* ---- rounds ---- */

typedef bool hit_op(struct hit_side *s, size_t bytes, uint64_t at);

/* As many operations as make a look at the clock cheap. */
static unsigned ops_a_look(size_t bytes)
{
	unsigned ops = (unsigned)(OPS_A_LOOK_BYTES / bytes);

	return ops > OPS_A_LOOK_MAX ? OPS_A_LOOK_MAX : ops;
}

/* Inlined with its operation: what a call by pointer costs is not to be measured. */
static inline __attribute__((always_inline)) int hit_loop(struct bench_ctx *ctx,
							   struct hit_side *s, double *values,
							   hit_op *op)
{
	const size_t bytes = s->p->bytes;
	const uint64_t places = s->set_bytes / bytes;
	const unsigned nr = ops_a_look(bytes);
	struct bench_round round;
	uint64_t ops = 0;
	bool ok = true;
	double cpu;

	bench_round_begin(&round, ctx->round_s);
	cpu = bench_thread_cpu();
	do {
		for (unsigned i = 0; i < nr; i++)
			ok &= op(s, bytes, bench_random(&s->seed) % places * bytes);
		ops += nr;
	} while (ok && !bench_round_over(&round));
	values[0] = (bench_thread_cpu() - cpu) * 1e9 / (double)ops;
	return ok ? 0 : bench_error("an operation failed: %s", strerror(errno));
}

static inline bool ours_read(struct hit_side *s, size_t bytes, uint64_t at)
{
	return hit_read(&s->cached, s->buffer, bytes, at);
}
static inline bool ours_write(struct hit_side *s, size_t bytes, uint64_t at)
{
	return hit_write(&s->cached, s->buffer, bytes, at);
}
static inline bool copy_out(struct hit_side *s, size_t bytes, uint64_t at)
{
	hit_copy(s->buffer, s->memory + at, bytes);
	return true;
}
static inline bool copy_in(struct hit_side *s, size_t bytes, uint64_t at)
{
	hit_copy(s->memory + at, s->buffer, bytes);
	return true;
}
static inline bool xfs_read(struct hit_side *s, size_t bytes, uint64_t at)
{
	return pread(s->fd, s->buffer, bytes, (off_t)at) == (ssize_t)bytes;
}
static inline bool xfs_write(struct hit_side *s, size_t bytes, uint64_t at)
{
	return pwrite(s->fd, s->buffer, bytes, (off_t)at) == (ssize_t)bytes;
}

static inline bool pin_one(struct hit_side *s, size_t bytes, uint64_t at)
{
	(void)bytes;
	return hit_pin(&s->cached, at);
}
static inline bool look_at(struct hit_side *s, size_t bytes, uint64_t at)
{
	(void)bytes;
	(void)*(volatile const char *)(s->memory + at);
	return true;
}

/* The batch that is being put together; the last read of it makes the call. */
static inline bool batch_add(struct hit_side *s, size_t bytes, uint64_t at)
{
	struct iomap_read_range *range = &s->range[s->in_batch++];

	range->pos = (int64_t)at;
	if (s->in_batch < HIT_BATCH_NR)
		return true;
	s->in_batch = 0;
	(void)bytes;
	return iomap_read_batch(s->range, HIT_BATCH_NR, 0) == 0;
}

static int batch_round(struct bench_ctx *ctx, struct hit_side *s, double *values)
{
	for (unsigned i = 0; i < HIT_BATCH_NR; i++)
		s->range[i] = (struct iomap_read_range){
			.file = s->cached.file, .buf = s->buffer + i * s->p->bytes, .len = s->p->bytes,
		};
	s->in_batch = 0;
	return hit_loop(ctx, s, values, batch_add);
}

static inline void bare_look_up(struct hit_side *s, uint64_t at, unsigned i)
{
	uint64_t place = s->slot[at >> BARE_SHIFT];

	s->bare_place[i] = place;
	s->bare_from[i] = s->memory + (place << BARE_SHIFT) + (at & ((1U << BARE_SHIFT) - 1));
	__builtin_prefetch(s->bare_from[i]);
	__builtin_prefetch(&s->descriptor[place * BARE_WORDS]);
}
static inline bool bare_copy(struct hit_side *s, size_t bytes, unsigned i)
{
	volatile const uint64_t *word = &s->descriptor[s->bare_place[i] * BARE_WORDS];
	uint64_t before = word[0];

	if (word[1] != s->bare_place[i])
		return false;
	hit_copy(s->buffer + i * bytes, s->bare_from[i], bytes);
	return word[0] == before;
}
static inline bool bare_read(struct hit_side *s, size_t bytes, uint64_t at)
{
	bare_look_up(s, at, 0);
	return bare_copy(s, bytes, 0);
}
static inline bool bare_batch(struct hit_side *s, size_t bytes, uint64_t at)
{
	bool ok = true;

	bare_look_up(s, at, s->in_batch++);
	if (s->in_batch < HIT_BATCH_NR)
		return true;
	s->in_batch = 0;
	for (unsigned i = 0; i < HIT_BATCH_NR; i++)
		ok &= bare_copy(s, bytes, i);
	return ok;
}

static int ours_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct hit_side *s = state;
	int rc;

	if (cached_warm(&s->cached) != 0)
		return -1;
	if (s->p->kind == HIT_BATCH)
		return batch_round(ctx, s, values);
	if (s->p->kind == HIT_PIN)
		return hit_loop(ctx, s, values, pin_one);
	if (!s->p->write)
		return hit_loop(ctx, s, values, ours_read);
	iomap_inode_lock(&s->cached.inode);
	rc = hit_loop(ctx, s, values, ours_write);
	iomap_inode_unlock(&s->cached.inode);
	return rc;
}

static void touch_memory(const struct hit_side *s)
{
	volatile char sum = 0;

	for (uint64_t at = 0; at < s->set_bytes; at += 64)
		sum = (char)(sum + s->memory[at]);
}

static int bare_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct hit_side *s = state;

	touch_memory(s);
	s->in_batch = 0;
	if (s->p->kind == HIT_BATCH)
		return hit_loop(ctx, s, values, bare_batch);
	return hit_loop(ctx, s, values, bare_read);
}

static int memcpy_round(struct bench_ctx *ctx, void *state, double *values)
{
	struct hit_side *s = state;

	touch_memory(s);
	if (s->p->kind == HIT_PIN)
		return hit_loop(ctx, s, values, look_at);
	if (s->p->write)
		return hit_loop(ctx, s, values, copy_in);
	return hit_loop(ctx, s, values, copy_out);
}

static int xfs_round(struct bench_ctx *ctx, void *state, double *values)
{
	static char chunk[1 << 20];
	struct hit_side *s = state;

	for (uint64_t at = 0; at < s->set_bytes; at += sizeof(chunk))
		if (pread(s->fd, chunk, sizeof(chunk), (off_t)at) < 0)
			return bench_error("pread: %s", strerror(errno));
	if (s->p->write)
		return hit_loop(ctx, s, values, xfs_write);
	return hit_loop(ctx, s, values, xfs_read);
}

/* ---- the scenarios ---- */

static const struct bench_side sides[] = {
	{ "ours", false, NULL, ours_setup, ours_round, side_teardown },
	{ "xfs", false, NULL, xfs_setup, xfs_round, side_teardown },
	{ "memcpy", false, NULL, memcpy_setup, memcpy_round, side_teardown },
	{ 0 },
};

static const struct bench_side large_sides[] = {
	{ "ours", false, NULL, ours_setup, ours_round, side_teardown },
	{ "xfs", false, NULL, xfs_setup, xfs_round, side_teardown },
	{ "memcpy", false, NULL, memcpy_setup, memcpy_round, side_teardown },
	{ "bare", false, NULL, bare_setup, bare_round, side_teardown },
	{ 0 },
};

static const struct bench_metric metrics[] = { { "ns", "ns", true, BENCH_SPEED, 1 }, { 0 } };

/* Targets are for 64 KiB folios, against XFS and against memcpy; 0: none. */
static const struct {
	const char *id;
	struct hit_param param;
	double xfs, memcpy;
} rows[] = {
	{ "hit-read-64", { false, false, 64 }, 20, 0 },
	{ "hit-read-512", { false, false, 512 }, 20, 0 },
	{ "hit-read-4k", { false, false, 4096 }, 7, 1.45 },
	{ "hit-read-64k", { false, false, 65536 }, 2, 1.15 },
	{ "hit-read-64-1g", { false, true, 64 }, 9, 0 },
	{ "hit-read-512-1g", { false, true, 512 }, 7, 0 },
	{ "hit-read-4k-1g", { false, true, 4096 }, 2.3, 1.15 },
	{ "hit-read-64k-1g", { false, true, 65536 }, 1.4, 1.15 },
	{ "hit-batch-4k-1g", { false, true, 4096, HIT_BATCH }, 3, 0.9 },
	{ "hit-batch-64-1g", { false, true, 64, HIT_BATCH }, 20, 0 },
	{ "hit-write-64", { true, false, 64 }, 25, 0 },
	{ "hit-write-512", { true, false, 512 }, 20, 0 },
	{ "hit-write-4k", { true, false, 4096 }, 9, 1.3 },
	{ "hit-write-64k", { true, false, 65536 }, 2.7, 0 },
};

static bool get_row(unsigned index, bool write, enum hit_kind kind, struct bench_case *out)
{
	unsigned i, target = 0;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].param.write == write && rows[i].param.kind == kind && !index--)
			break;
	if (i == sizeof(rows) / sizeof(rows[0]))
		return false;
	snprintf(out->id, sizeof(out->id), "%s", rows[i].id);
	out->sides = rows[i].param.large ? large_sides : sides;
	out->param = &rows[i].param;
	out->targets[target++] = (struct bench_target){ "xfs", 0, rows[i].xfs, BENCH_SPEED };
	if (rows[i].memcpy > 0)
		out->targets[target] =
			(struct bench_target){ "memcpy", 0, rows[i].memcpy, BENCH_COST };
	return true;
}

static bool read_get(unsigned index, struct bench_case *out)
{
	return get_row(index, false, HIT_ONE, out);
}
static bool write_get(unsigned index, struct bench_case *out)
{
	return get_row(index, true, HIT_ONE, out);
}

static bool batch_get(unsigned index, struct bench_case *out)
{
	return get_row(index, false, HIT_BATCH, out);
}

static const struct bench_side pin_sides[] = {
	{ "ours", false, NULL, ours_setup, ours_round, side_teardown },
	BENCH_ROCKSDB_SIDE,
	{ "memory", false, NULL, memcpy_setup, memcpy_round, side_teardown },
	{ 0 },
};
static bool pin_get(unsigned index, struct bench_case *out)
{
	static const struct hit_param param = { false, true, 4096, HIT_PIN };

	if (index)
		return false;
	snprintf(out->id, sizeof(out->id), "hit-pin-256m");
	out->sides = pin_sides;
	out->param = &param;
	out->targets[0] = (struct bench_target){ "rocksdb", 0, 2, BENCH_SPEED };
	return true;
}

const struct bench_scenario bench_hit_read = {
	.id = "hit-read",
	.what = "random reads of cached data, against pread on XFS and memcpy",
	.metrics = metrics,
	.get = read_get,
};
const struct bench_scenario bench_hit_write = {
	.id = "hit-write",
	.what = "random overwrites of dirty data, against pwrite on XFS and memcpy",
	.metrics = metrics,
	.get = write_get,
};
const struct bench_scenario bench_hit_batch = {
	.id = "hit-batch",
	.what = "random reads of cached data, 8 in a call, against pread and memcpy one by one",
	.metrics = metrics,
	.get = batch_get,
};
const struct bench_scenario bench_hit_pin = {
	.id = "hit-pin",
	.what = "pin, look at, unpin random folios of 256 MiB, against looks at memory",
	.metrics = metrics,
	.get = pin_get,
};
