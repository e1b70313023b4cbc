/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * bd05_hammer.c - stacked devices with many I/Os in flight, and several threads that submit,
 * let go of what is held, change rules, mark and replay.
 *
 * The stack is faulty on writelog on faulty on memory.  Each thread has sectors of its own:
 * what concurrent I/O to one place does is the application's affair.
 */
#include "bd05.h"

#define THREADS 4U
#define DEPTH 8U /* of each thread */
#define SLOT_SECTORS 2U
#define DEV_BYTES (THREADS * DEPTH * SLOT_SECTORS * SECTOR)
#define ROUNDS (T_SANITIZED ? 300U : 2000U)
#define CHOSEN (-117) /* an error that nothing else gives */

struct stack {
	struct iomap_engine *engine;
	struct iomap_bdev *memory, *low, *log, *top;
	atomic_ulong submitted_writes, chosen, ended;
	atomic_bool stop;
};

struct slot {
	struct submitter *by;
	struct iomap_bio *bio;
	atomic_bool busy;
	unsigned char buf[SLOT_SECTORS * SECTOR];
};

struct submitter {
	struct stack *stack;
	unsigned index;
	struct slot slot[DEPTH];
	atomic_ulong submitted;
};

static void slot_end(struct iomap_bio *bio)
{
	struct slot *slot = bio->bi_private;
	struct stack *stack = slot->by->stack;

	t_must(atomic_load(&slot->busy));
	if (bio->bi_status == CHOSEN)
		atomic_fetch_add(&stack->chosen, 1);
	atomic_fetch_add(&stack->ended, 1);
	iomap_bio_put(bio);
	atomic_store(&slot->busy, false);
}

static void slot_submit(struct slot *slot, uint64_t random)
{
	static const uint32_t opf[] = {
		IOMAP_REQ_OP_WRITE,
		IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA,
		IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH,
		IOMAP_REQ_OP_WRITE | IOMAP_REQ_PREFLUSH | IOMAP_REQ_FUA,
		IOMAP_REQ_OP_READ,
		IOMAP_REQ_OP_FLUSH,
	};
	struct submitter *by = slot->by;
	uint64_t place = by->index * DEPTH + (uint64_t)(slot - by->slot);
	uint32_t op = opf[random % 6];

	atomic_store(&slot->busy, true);
	if ((op & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_WRITE) {
		memset(slot->buf, (int)(random >> 8), sizeof(slot->buf));
		atomic_fetch_add(&by->stack->submitted_writes, 1);
	}
	slot->bio = b_bio(by->stack->top, op, place * SLOT_SECTORS * SECTOR, slot->buf,
			  op == IOMAP_REQ_OP_FLUSH ? 0 : sizeof(slot->buf));
	slot->bio->bi_private = slot;
	slot->bio->bi_end_io = slot_end;
	atomic_fetch_add(&by->submitted, 1);
	iomap_submit_bio(slot->bio);
}

static long submit(void *arg)
{
	struct submitter *by = arg;
	struct t_rand r = { by->index + 1 };

	for (unsigned round = 0; round < ROUNDS;) {
		struct slot *slot = &by->slot[t_below(&r, DEPTH)];

		if (atomic_load(&slot->busy)) {
			/* it may be held: a thread that lets go is bound to come by */
			if (!t_below(&r, 4))
				iomap_faulty_release(by->stack->top, 0, 1, IOMAP_RELEASE_RANDOM);
			else if (!t_below(&r, 4))
				iomap_faulty_release(by->stack->low, 0, 1, IOMAP_RELEASE_LIFO);
			continue;
		}
		slot_submit(slot, t_rand(&r));
		round++;
	}
	return 0;
}

static long change_rules(void *arg)
{
	static const uint32_t kinds[] = { IOMAP_FAULT_FAIL,    IOMAP_FAULT_DELAY,
					  IOMAP_FAULT_SHORTEN, IOMAP_FAULT_TEAR,
					  IOMAP_FAULT_CORRUPT, IOMAP_FAULT_LOSE };
	struct stack *stack = arg;
	struct t_rand r = { 99 };

	while (!atomic_load(&stack->stop)) {
		struct iomap_bdev *bdev = t_below(&r, 2) ? stack->top : stack->low;
		uint32_t kind = kinds[t_below(&r, 6)], id;

		id = b_rule(bdev, (struct iomap_fault){
					  .kind = kind,
					  .flags = kind == IOMAP_FAULT_DELAY && t_below(&r, 2) ?
							   IOMAP_FAULT_HOLD_END :
							   0,
					  .amount = kind == IOMAP_FAULT_DELAY ? t_below(&r, 9) :
						    kind == IOMAP_FAULT_TEAR  ? SECTOR :
										1,
					  .every = 1 + t_below(&r, 5) });
		for (uint64_t n = t_below(&r, 30); n; n--)
			iomap_faulty_release(bdev, t_below(&r, 2) ? id : 0, t_below(&r, 5),
					     (uint32_t)t_below(&r, 3));
		b_fired(bdev, id);
		t_must(iomap_faulty_remove(bdev, id) == 0);
		t_must(iomap_faulty_remove(bdev, id) == -ENOENT);
		t_must(iomap_faulty_held_nr(bdev) >= 0);
		if (!t_below(&r, 50)) {
			t_must(iomap_faulty_set_gone(stack->low, true) == 0);
			t_must(iomap_faulty_set_gone(stack->low, false) == 0);
		}
	}
	return 0;
}

/* The log grows while it is replayed: what was durable at a cut stays so. */
static long replay(void *arg)
{
	struct stack *stack = arg;
	unsigned char *image = malloc(DEV_BYTES), *again = malloc(DEV_BYTES);
	struct iomap_replay *replay;
	struct t_rand r = { 7 };
	uint64_t mark = 0;

	t_must(image && again);
	t_must(iomap_replay_open(stack->log, &replay) == 0);
	while (!atomic_load(&stack->stop)) {
		struct iomap_writelog_info info;
		struct iomap_cut cut = { .size = sizeof(cut), .mode = IOMAP_CUT_RANDOM };
		struct iomap_writelog_event event;
		struct iomap_cut_outcome outcome;
		struct iomap_replay_info at;

		t_must(iomap_writelog_mark(stack->log, ++mark) == 0);
		t_must(iomap_writelog_restart(stack->log) == -EBUSY);
		t_must(iomap_writelog_info(stack->log, &info, sizeof(info)) == 0);
		t_must(info.marks_nr == mark && !info.ended);
		t_must(info.events_nr + info.inflight_nr ==
		       2 * (info.writes_nr + info.flushes_nr) + info.marks_nr);
		if (!t_below(&r, 20))
			t_must(iomap_replay_seek(replay, t_below(&r, info.events_nr + 1)) == 0);
		t_must(iomap_replay_seek(replay, info.events_nr) == 0);
		t_must(iomap_replay_info(replay, &at, sizeof(at)) == 0);
		t_must(at.mark == mark && at.marks_nr == mark);
		for (uint64_t n = 0; n < at.writes_nr; n++)
			t_must(iomap_replay_write(replay, n, &event, sizeof(event)) == 0);
		cut.seed = mark;
		t_must(iomap_replay_image(replay, &cut, image, &outcome) == 0);
		t_must(outcome.whole_nr + outcome.torn_nr + outcome.dropped_nr == at.writes_nr);
		t_must(iomap_replay_image(replay, &cut, again, NULL) == 0);
		t_must(!memcmp(image, again, DEV_BYTES));
	}
	iomap_replay_close(replay);
	free(image);
	free(again);
	return 0;
}

static void let_all_go(struct stack *stack, struct submitter *by)
{
	bool busy = true;

	while (busy) {
		iomap_faulty_release(stack->top, 0, UINT64_MAX, IOMAP_RELEASE_FIFO);
		iomap_faulty_release(stack->low, 0, UINT64_MAX, IOMAP_RELEASE_FIFO);
		busy = false;
		for (unsigned i = 0; i < THREADS * DEPTH; i++)
			busy |= atomic_load(&by[i / DEPTH].slot[i % DEPTH].busy);
	}
}

Test(stacked, bd05_every_io_ends_once_and_is_counted_once_whatever_goes_on)
{
	struct stack s = { .engine = b_engine() };
	struct submitter *by = calloc(THREADS, sizeof(*by));
	struct t_task task[THREADS], rules[2], replays[1];
	uint32_t all, chosen;
	uint64_t submitted = 0;

	t_must(by);
	s.memory = b_memory(s.engine, DEV_BYTES);
	s.low = b_faulty(s.memory, 1);
	t_must(iomap_writelog_create(s.low, NULL, &s.log) == 0);
	s.top = b_faulty(s.log, 2);
	/* added first, so no other rule comes before it */
	chosen = b_rule(s.top, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
						     .ops = IOMAP_FAULT_ON_WRITE,
						     .nth = 3,
						     .every = 7,
						     .error = CHOSEN });
	all = b_rule(s.top, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
						  .ops = IOMAP_FAULT_ON_WRITE,
						  .nth = UINT64_MAX });
	for (unsigned i = 0; i < THREADS; i++) {
		by[i].stack = &s;
		by[i].index = i;
		for (unsigned n = 0; n < DEPTH; n++)
			by[i].slot[n].by = &by[i];
		t_start(&task[i], submit, &by[i]);
	}
	t_start(&rules[0], change_rules, &s);
	t_start(&rules[1], change_rules, &s);
	t_start(&replays[0], replay, &s);
	for (unsigned i = 0; i < THREADS; i++)
		t_join(&task[i]);
	atomic_store(&s.stop, true);
	for (unsigned i = 0; i < 2; i++)
		t_join(&rules[i]);
	t_join(&replays[0]);
	let_all_go(&s, by);

	for (unsigned i = 0; i < THREADS; i++)
		submitted += atomic_load(&by[i].submitted);
	cr_assert_eq(atomic_load(&s.ended), submitted);
	cr_assert_eq(b_matched(s.top, all), atomic_load(&s.submitted_writes));
	cr_assert_eq(b_fired(s.top, all), 0U);
	cr_assert_eq(b_fired(s.top, chosen), atomic_load(&s.chosen));
	cr_assert_eq(atomic_load(&s.chosen), (atomic_load(&s.submitted_writes) - 3) / 7 + 1);
	cr_assert_eq(b_stats(s.top).inflight_nr, 0U);
	cr_assert_eq(iomap_faulty_held_nr(s.top), 0);
	cr_assert_eq(iomap_writelog_restart(s.log), 0);
	b_close(s.top);
	b_close(s.log);
	b_close(s.low);
	b_close(s.memory);
	cr_assert_eq(iomap_engine_destroy(s.engine), 0);
	free(by);
}

/* ---- a log that ends under I/O ---- */

struct writer {
	struct iomap_bdev *log;
	unsigned index;
};

static long write_and_mark(void *arg)
{
	struct writer *by = arg;
	struct t_rand r = { by->index };

	for (unsigned i = 0; i < 40; i++) {
		uint32_t flags = t_below(&r, 2) ? IOMAP_REQ_FUA : IOMAP_REQ_PREFLUSH;
		int error;

		t_must(b_put(by->log, flags, by->index * DEPTH + t_below(&r, DEPTH), 1,
			     (int)t_below(&r, 200)) == 0);
		error = iomap_writelog_mark(by->log, i);
		t_must(!error || error == -ENOSPC);
	}
	return 0;
}

/* The device goes on as if nothing was; the log is what it was, and begins anew when told. */
Test(stacked, bd05_a_log_that_ends_under_io_can_be_restarted)
{
	struct iomap_writelog_opts opts = { .size = sizeof(opts), .max_bytes = 40000 };
	struct iomap_engine *engine = b_engine();
	struct iomap_bdev *memory = b_memory(engine, DEV_BYTES), *log;
	static unsigned char image[DEV_BYTES], now[DEV_BYTES];
	struct iomap_cut all = { .size = sizeof(all), .mode = IOMAP_CUT_ALL };
	struct iomap_writelog_info info, later;

	cr_assert_eq(iomap_writelog_create(memory, &opts, &log), 0);
	for (unsigned round = 0; round < 20; round++) {
		struct writer by[THREADS];
		struct t_task task[THREADS];
		struct iomap_replay *replay;

		for (unsigned i = 0; i < THREADS; i++) {
			by[i] = (struct writer){ log, i };
			t_start(&task[i], write_and_mark, &by[i]);
		}
		for (unsigned i = 0; i < THREADS; i++)
			t_join(&task[i]);
		cr_assert_eq(iomap_writelog_info(log, &info, sizeof(info)), 0);
		cr_assert_eq(info.ended, 1U);
		cr_assert_leq(info.log_bytes, opts.max_bytes);
		cr_assert_eq(info.inflight_nr, 0U);
		cr_assert_eq(b_put(log, 0, 0, 1, 201), 0);
		cr_assert_eq(iomap_writelog_info(log, &later, sizeof(later)), 0);
		cr_assert_eq(memcmp(&info, &later, sizeof(info)), 0);
		cr_assert_eq(iomap_replay_open(log, &replay), 0);
		cr_assert_eq(iomap_replay_seek(replay, info.events_nr), 0);
		cr_assert_eq(iomap_replay_image(replay, &all, image, NULL), 0);
		iomap_replay_close(replay);

		cr_assert_eq(iomap_writelog_restart(log), 0);
		cr_assert_eq(iomap_replay_open(log, &replay), 0);
		cr_assert_eq(iomap_replay_image(replay, &all, image, NULL), 0);
		cr_assert_eq(b_read(memory, 0, now, DEV_BYTES), 0);
		cr_assert_eq(memcmp(image, now, DEV_BYTES), 0);
		iomap_replay_close(replay);
	}
	b_close(log);
	b_close(memory);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}
