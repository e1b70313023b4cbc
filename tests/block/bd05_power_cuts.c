/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/* ctest-options: TIMEOUT 240 */
/*
 * bd05_power_cuts.c - programs that promise something, and every power cut that could make
 * liars of them.
 *
 * A program runs on a writelog and leaves a mark each time it has acknowledged something.
 * Then each state after each cut is held against the last mark before it.  Each program runs
 * a second time with a mistake in it, which must be found: so the test can fail.
 */
#include "bd05.h"

#include "testpiece.h"

#define DEV_BYTES (64U * 1024U)
#define SUBSETS_MAX 10U /* of so many writes all subsets are tried */
#define SEEDS (T_SANITIZED ? 20U : 60U)

struct state {
	const unsigned char *image;
	uint64_t marks_nr;
	uint64_t mark;
};

typedef bool check_fn(const struct state *state, void *arg);

struct cuts {
	struct iomap_replay *replay;
	unsigned char *image;
	check_fn *check;
	void *arg;
	uint64_t states, broken;
	uint64_t incomplete; /* states with a write dropped or torn */
};

static void try_cut(struct cuts *cuts, struct iomap_cut cut)
{
	struct iomap_cut_outcome outcome;
	struct iomap_replay_info info;
	struct state state;

	cut.size = sizeof(cut);
	t_must(iomap_replay_image(cuts->replay, &cut, cuts->image, &outcome) == 0);
	t_must(iomap_replay_info(cuts->replay, &info, sizeof(info)) == 0);
	state = (struct state){ cuts->image, info.marks_nr, info.mark };
	cuts->states++;
	cuts->incomplete += outcome.dropped_nr || outcome.torn_nr;
	cuts->broken += !cuts->check(&state, cuts->arg);
}

/* Every cut; of each the two ends, all subsets when they are few, and random states. */
static struct cuts try_all(struct iomap_bdev *log, check_fn *check, void *arg)
{
	struct cuts cuts = { .check = check, .arg = arg };
	struct iomap_writelog_info info;
	struct iomap_replay_info at;

	cuts.image = malloc(iomap_bdev_bytes(log));
	t_must(cuts.image);
	t_must(iomap_replay_open(log, &cuts.replay) == 0);
	t_must(iomap_writelog_info(log, &info, sizeof(info)) == 0);
	t_must(!info.ended);
	for (uint64_t n = 0; n <= info.events_nr; n++) {
		t_must(iomap_replay_seek(cuts.replay, n) == 0);
		t_must(iomap_replay_info(cuts.replay, &at, sizeof(at)) == 0);
		try_cut(&cuts, (struct iomap_cut){ .mode = IOMAP_CUT_NONE });
		try_cut(&cuts, (struct iomap_cut){ .mode = IOMAP_CUT_ALL });
		if (at.writes_nr <= SUBSETS_MAX)
			for (uint64_t keep = 0; keep < UINT64_C(1) << at.writes_nr; keep++)
				try_cut(&cuts, (struct iomap_cut){ .mode = IOMAP_CUT_SUBSET,
								   .keep = &keep });
		for (uint64_t seed = 1; at.writes_nr && seed <= SEEDS; seed++)
			try_cut(&cuts, (struct iomap_cut){ .mode = IOMAP_CUT_RANDOM,
							   .seed = n * SEEDS + seed });
	}
	iomap_replay_close(cuts.replay);
	free(cuts.image);
	return cuts;
}

static struct iomap_bdev *new_log(struct iomap_engine *engine)
{
	struct iomap_bdev *log;

	t_must(iomap_writelog_open_memory(engine, DEV_BYTES, NULL, NULL, &log) == 0);
	return log;
}

static void put_u64(struct iomap_bdev *log, uint32_t flags, uint64_t sector, uint64_t value)
{
	unsigned char buf[SECTOR] = { 0 };

	memcpy(buf, &value, sizeof(value));
	t_must(t_io(log, IOMAP_REQ_OP_WRITE | flags, sector * SECTOR, buf, SECTOR) == 0);
}

static uint64_t get_u64(const unsigned char *image, uint64_t sector)
{
	uint64_t value;

	memcpy(&value, image + sector * SECTOR, sizeof(value));
	return value;
}

/* ---- a counter ---- */

enum how { WITH_FLUSH, WITH_FUA, WITH_NOTHING };

static bool counter_kept(const struct state *state, void *arg)
{
	(void)arg;
	return get_u64(state->image, 3) >= state->mark;
}

/* Write a counter, flush, acknowledge. */
static struct cuts run_counter(enum how how)
{
	struct iomap_engine *engine = b_engine();
	struct iomap_bdev *log = new_log(engine);
	struct cuts cuts;

	for (uint64_t n = 1; n <= 8; n++) {
		put_u64(log, how == WITH_FUA ? IOMAP_REQ_FUA : 0, 3, n);
		if (how == WITH_FLUSH)
			t_must(iomap_bdev_flush(log) == 0);
		t_must(iomap_writelog_mark(log, n) == 0);
	}
	cuts = try_all(log, counter_kept, NULL);
	b_close(log);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	return cuts;
}

Test(power_cuts, bd05_no_acknowledged_value_is_lost_in_any_state)
{
	struct cuts cuts = run_counter(WITH_FLUSH);

	cr_assert_eq(cuts.broken, 0U);
	cr_assert_gt(cuts.states, 100U);
	cr_assert_gt(cuts.incomplete, 10U);
	cr_assert_eq(run_counter(WITH_FUA).broken, 0U);
}

Test(power_cuts, bd05_without_its_flush_an_acknowledged_value_is_lost)
{
	cr_assert_gt(run_counter(WITH_NOTHING).broken, 0U);
}

/* ---- a record and the header that names it ---- */

#define RECORD_SECTORS 8

enum mistake { NO_MISTAKE, NO_FLUSH_BEFORE_HEADER, HEADER_BEFORE_DATA, NO_PREFLUSH, IN_PLACE };

/* The header names a whole record, not older than what was acknowledged. */
static bool record_kept(const struct state *state, void *arg)
{
	uint64_t n = get_u64(state->image, 0);
	uint64_t at = arg ? 8 : 8 + n % 2 * RECORD_SECTORS;

	if (n < state->mark)
		return false;
	for (uint64_t i = 0; n && i < RECORD_SECTORS; i++)
		if (get_u64(state->image, at + i) != n)
			return false;
	return true;
}

static void put_record(struct iomap_bdev *log, uint64_t sector, uint64_t n)
{
	unsigned char buf[RECORD_SECTORS * SECTOR] = { 0 };

	for (size_t i = 0; i < RECORD_SECTORS; i++)
		memcpy(buf + i * SECTOR, &n, sizeof(n));
	t_must(b_write(log, sector * SECTOR, buf, sizeof(buf)) == 0);
}

static struct cuts run_records(enum mistake mistake)
{
	struct iomap_engine *engine = b_engine();
	struct iomap_bdev *log = new_log(engine);
	struct cuts cuts;

	for (uint64_t n = 1; n <= 6; n++) {
		uint64_t at = mistake == IN_PLACE ? 8 : 8 + n % 2 * RECORD_SECTORS;

		if (mistake == HEADER_BEFORE_DATA)
			put_u64(log, IOMAP_REQ_FUA, 0, n);
		put_record(log, at, n);
		if (mistake == NO_FLUSH_BEFORE_HEADER) {
			put_u64(log, 0, 0, n);
			t_must(iomap_bdev_flush(log) == 0);
		} else if (mistake == NO_PREFLUSH) {
			put_u64(log, IOMAP_REQ_FUA, 0, n);
		} else if (mistake == HEADER_BEFORE_DATA) {
			t_must(iomap_bdev_flush(log) == 0);
		} else {
			put_u64(log, IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA, 0, n);
		}
		t_must(iomap_writelog_mark(log, n) == 0);
	}
	cuts = try_all(log, record_kept, mistake == IN_PLACE ? log : NULL);
	b_close(log);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	return cuts;
}

Test(power_cuts, bd05_a_header_after_a_flush_names_a_whole_record)
{
	struct cuts cuts = run_records(NO_MISTAKE);

	cr_assert_eq(cuts.broken, 0U);
	cr_assert_gt(cuts.incomplete, cuts.states / 3);
}

Test(power_cuts, bd05_a_wrong_order_of_header_and_record_is_found)
{
	cr_assert_gt(run_records(NO_FLUSH_BEFORE_HEADER).broken, 0U, "reordering shows it");
	cr_assert_gt(run_records(NO_PREFLUSH).broken, 0U);
	cr_assert_gt(run_records(HEADER_BEFORE_DATA).broken, 0U);
	cr_assert_gt(run_records(IN_PLACE).broken, 0U, "tearing shows it");
}

/* ---- a file through the cache ---- */

#define FILE_WRITES 60
#define FILE_FSYNCS 8

/* Write number n (from 1) put bytes of value n into [pos, pos + len). */
struct file_program {
	struct {
		int64_t pos;
		size_t len;
	} write[FILE_WRITES + 1];
	unsigned writes;
	/* at the fsync with mark m: how many writes there had been */
	unsigned synced[FILE_FSYNCS + 1];
	unsigned char contents[FILE_FSYNCS + 1][DEV_BYTES]; /* and what the file was */
	unsigned char now[DEV_BYTES];
	unsigned fsyncs;
};

/* Each byte is what it was at the last fsync, or what a later write put there. */
static bool file_kept(const struct state *state, void *arg)
{
	const struct file_program *p = arg;
	unsigned synced = p->synced[state->mark];

	for (int64_t at = 0; at < (int64_t)DEV_BYTES; at++) {
		unsigned value = state->image[at];

		if (value == p->contents[state->mark][at])
			continue;
		if (value <= synced || value > p->writes || at < p->write[value].pos ||
		    at >= p->write[value].pos + (int64_t)p->write[value].len)
			return false;
	}
	return true;
}

static void run_file_program(struct file_program *p, struct iomap_file *file,
			     struct iomap_bdev *log, struct t_rand *r, bool flush)
{
	unsigned char buf[6000];

	while (p->writes < FILE_WRITES) {
		unsigned n = ++p->writes;
		size_t len = 1 + t_below(r, sizeof(buf));
		int64_t pos = (int64_t)t_below(r, DEV_BYTES - len);

		p->write[n].pos = pos;
		p->write[n].len = len;
		memset(buf, (int)n, len);
		memset(p->now + pos, (int)n, len);
		t_must(iomap_write(file, buf, len, pos) == (ssize_t)len);
		if (t_below(r, 10) == 0)
			t_must(iomap_sync_range(file, 0, INT64_MAX, IOMAP_SYNC_WRITE) == 0);
		if (p->fsyncs == FILE_FSYNCS || t_below(r, 6))
			continue;
		if (flush)
			t_must(iomap_fsync(file, 0, INT64_MAX, 0) == 0);
		else
			t_must(iomap_sync_range(file, 0, INT64_MAX,
						IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER) == 0);
		p->synced[++p->fsyncs] = n;
		memcpy(p->contents[p->fsyncs], p->now, DEV_BYTES);
		t_must(iomap_writelog_mark(log, p->fsyncs) == 0);
	}
	t_must(iomap_fsync(file, 0, INT64_MAX, 0) == 0);
}

static struct cuts run_file(struct t_rand *r, bool flush)
{
	struct iomap_engine *engine = b_engine();
	struct iomap_bdev *log = new_log(engine);
	struct tp whole = { .length = DEV_BYTES };
	struct iomap_inode inode;
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &tp_aops,
		.i_op = &tp_inode_ops,
		.i_private = &whole,
		.bdev = log,
		.i_size = DEV_BYTES,
		.blkbits = 9,
	};
	struct file_program *program = calloc(1, sizeof(*program));
	struct iomap_file *file;
	struct cuts cuts;

	t_must(program);
	t_must(iomap_inode_init(engine, &inode, &args) == 0);
	t_must(iomap_file_open(&inode, 0, &file) == 0);
	run_file_program(program, file, log, r, flush);
	cuts = try_all(log, file_kept, program);
	free(program);
	t_must(iomap_file_close(file) == 0);
	t_must(iomap_inode_destroy(&inode, 0) == 0);
	b_close(log);
	t_must(iomap_engine_destroy(engine) == 0);
	return cuts;
}

Test(power_cuts, bd05_what_was_fsynced_is_in_every_later_state)
{
	struct t_rand r = { t_seed() };
	struct cuts cuts = run_file(&r, true);

	cr_assert_eq(cuts.broken, 0U, "%u of %u states", (unsigned)cuts.broken,
		     (unsigned)cuts.states);
	cr_assert_gt(cuts.incomplete, cuts.states / 4);
}

Test(power_cuts, bd05_writeback_without_a_flush_promises_nothing)
{
	struct t_rand r = { 1 };

	cr_assert_gt(run_file(&r, false).broken, 0U);
}

/* ---- several threads ---- */

#define THREADS 4
#define COUNTS (T_SANITIZED ? 20U : 60U)

struct counter {
	struct iomap_bdev *log;
	uint64_t index;
	bool flush;
	atomic_bool *stop;
};

/* A mark is the counter's number and its value.  A block each: the device may want that. */
static long count_up(void *arg)
{
	_Alignas(PAGE) unsigned char block[PAGE] = { 0 };
	struct counter *c = arg;

	for (uint64_t n = 1; n <= COUNTS; n++) {
		memcpy(block, &n, sizeof(n));
		t_must(b_write(c->log, c->index * PAGE, block, PAGE) == 0);
		if (c->flush)
			t_must(iomap_bdev_flush(c->log) == 0);
		t_must(iomap_writelog_mark(c->log, c->index << 32 | n) == 0);
	}
	return 0;
}

/* The highest mark of each counter before event @at. */
static void marks_before(struct iomap_bdev *log, uint64_t *next, uint64_t at, uint64_t *marks)
{
	struct iomap_writelog_event event;

	for (; *next < at; ++*next) {
		t_must(iomap_writelog_event(log, *next, &event, sizeof(event)) == 0);
		if (event.type == IOMAP_WRITELOG_MARK)
			marks[event.value >> 32] = event.value & UINT32_MAX;
	}
}

static uint64_t check_counters(struct iomap_bdev *log)
{
	struct iomap_cut cut = { .size = sizeof(cut), .mode = IOMAP_CUT_RANDOM };
	unsigned char *image = malloc(DEV_BYTES);
	uint64_t marks[THREADS] = { 0 }, next = 0, broken = 0;
	struct iomap_writelog_info info;
	struct iomap_replay *replay;

	t_must(image);
	t_must(iomap_replay_open(log, &replay) == 0);
	t_must(iomap_writelog_info(log, &info, sizeof(info)) == 0);
	for (uint64_t at = 0; at <= info.events_nr; at++) {
		t_must(iomap_replay_seek(replay, at) == 0);
		marks_before(log, &next, at, marks);
		for (unsigned i = 0; i < 5; i++) {
			cut.seed++;
			t_must(iomap_replay_image(replay, &cut, image, NULL) == 0);
			for (uint64_t c = 0; c < THREADS; c++)
				broken += get_u64(image, c * PAGE / SECTOR) < marks[c];
		}
	}
	iomap_replay_close(replay);
	free(image);
	return broken;
}

static long replay_all_the_time(void *arg)
{
	struct counter *c = arg;
	uint64_t broken = 0;

	while (!atomic_load(c->stop))
		broken += check_counters(c->log);
	return (long)broken;
}

static uint64_t run_threads(bool flush)
{
	char *path = t_temp(DEV_BYTES);
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = IOMAP_BDEV_BUFFERED };
	struct iomap_engine *engine = b_engine();
	struct iomap_bdev *lower, *log;
	struct counter counter[THREADS + 1];
	struct t_task task[THREADS + 1];
	atomic_bool stop = false;
	uint64_t broken;

	t_must(iomap_bdev_open(engine, path, &opts, &lower) == 0);
	t_must(iomap_writelog_create(lower, NULL, &log) == 0);
	for (uint64_t i = 0; i <= THREADS; i++) {
		counter[i] = (struct counter){ log, i, flush, &stop };
		t_start(&task[i], i < THREADS ? count_up : replay_all_the_time, &counter[i]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		t_must(t_join(&task[i]) == 0);
	atomic_store(&stop, true);
	broken = (uint64_t)t_join(&task[THREADS]);
	broken += check_counters(log);
	b_close(log);
	b_close(lower);
	t_must(iomap_engine_destroy(engine) == 0);
	t_temp_free(path);
	return broken;
}

Test(power_cuts, bd05_threads_that_flush_lose_nothing_they_acknowledged)
{
	cr_assert_eq(run_threads(true), 0U);
}

Test(power_cuts, bd05_threads_that_do_not_flush_do)
{
	cr_assert_gt(run_threads(false), 0U);
}
