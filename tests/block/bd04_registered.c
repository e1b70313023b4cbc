/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd04_registered.c - folio memory and files that rings know beforehand: what is used when,
 * and that all goes on where limits or the kernel do not allow it.
 *
 * What a ring was asked for is read from its last submission entry, which stays there.  Tests
 * about limits on locked memory become a user of their own: the kernel counts by user.
 */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "block/uring.h"
#include "blktest.h"

#define MIB (1024U * 1024U)
#define SLOT (2U * MIB)
#define ROOM (128U * 1024U) /* for what the rings are charged */

struct reg {
	struct bt bt;
	struct iomap_bdev *bdev;
	char *path;
	uint8_t *memory;
	size_t bytes;
};

static struct iomap__uring *ring(struct reg *r, unsigned i)
{
	return iomap__uring(&r->bt.engine.blk->queues[i]);
}

static struct iomap__uring_all *all(struct reg *r)
{
	return r->bt.engine.blk->backend_data;
}

static const struct io_uring_sqe *last_sqe(struct reg *r)
{
	struct io_uring *u = &ring(r, 0)->ring;

	return &u->sq.sqes[(*u->sq.ktail - 1) & (u->sq.ring_entries - 1)];
}

static void need_uring(void)
{
	struct io_uring_params params = { 0 };
	long fd = syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		cr_skip_test("io_uring does not work here");
	close((int)fd);
	setenv("IOMAP_BACKEND", "io_uring", 1);
}

/* Whether memory may be locked is whether it may be registered: by the user, not the process. */
static void need_locked_memory(void)
{
	const size_t bytes = 64 * MIB;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int denied;

	t_must(memory != MAP_FAILED);
	denied = mlock2(memory, bytes, MLOCK_ONFAULT);
	t_must(munmap(memory, bytes) == 0);
	if (denied)
		cr_skip_test("less than 64 MiB may be locked, of which other tests have a share");
}

static void reg_start(struct reg *r, uint32_t queues, size_t bytes)
{
	memset(r, 0, sizeof(*r));
	bt_start(&r->bt, queues, 8);
	r->bt.engine.opts.register_pct = 100;
	r->path = t_temp(8 * MIB);
	r->bdev = bt_open(&r->bt, r->path, 0);
	r->bytes = bytes;
	r->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	t_must(r->memory != MAP_FAILED);
	/* a huge page is charged whole, also for a part of it */
	(void)madvise(r->memory, bytes, MADV_NOHUGEPAGE);
	iomap__blk_set_memory(&r->bt.engine, r->memory, bytes);
}

static void reg_stop(struct reg *r)
{
	cr_assert_eq(iomap_bdev_close(r->bdev), 0);
	iomap__blk_set_memory(&r->bt.engine, NULL, 0);
	bt_stop(&r->bt);
	t_must(munmap(r->memory, r->bytes) == 0);
	t_temp_free(r->path);
}

static bool t_check(const void *buf, size_t bytes, int64_t pos, unsigned seed)
{
	void *expected = malloc(bytes);
	bool same;

	t_must(expected);
	t_fill(expected, bytes, pos, seed);
	same = memcmp(buf, expected, bytes) == 0;
	free(expected);
	return same;
}

/* Write @bytes from place @at of the memory and read them into place @to. */
static void there_and_back(struct reg *r, size_t at, size_t to, size_t bytes, unsigned seed)
{
	t_fill(r->memory + at, bytes, 0, seed);
	cr_assert_eq(bt_write(r->bdev, 0, r->memory + at, bytes), 0);
	memset(r->memory + to, 0, bytes);
	cr_assert_eq(bt_read(r->bdev, 0, r->memory + to, bytes), 0);
	cr_assert(t_check(r->memory + to, bytes, 0, seed));
}

static void cr_assert_sqe(struct reg *r, unsigned opcode, unsigned slot, unsigned bytes)
{
	const struct io_uring_sqe *sqe = last_sqe(r);

	cr_assert_eq(sqe->opcode, opcode, "opcode %u, not %u: %s", sqe->opcode, opcode,
		     r->bt.log.line[0].text);
	cr_assert_eq(sqe->buf_index, slot);
	cr_assert_eq(sqe->len, bytes);
	cr_assert(sqe->flags & IOSQE_FIXED_FILE);
	cr_assert_eq(sqe->fd, (int)r->bdev->id);
}

Test(bd04, bd04_a_slot_is_registered_when_it_is_used_first)
{
	struct reg r;

	need_uring();
	need_locked_memory();
	reg_start(&r, 1, 2 * SLOT + 3 * BT_PAGE);
	cr_assert_eq(all(&r)->nr_slots, 3U);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(ring(&r, 0)->slots[i], IOMAP__SLOT_NEW);
	there_and_back(&r, 0, 0, BT_PAGE, 1);
	cr_assert_sqe(&r, IORING_OP_READ_FIXED, 0, BT_PAGE);
	cr_assert_eq(ring(&r, 0)->slots[0], IOMAP__SLOT_REGISTERED);
	cr_assert_eq(ring(&r, 0)->slots[1], IOMAP__SLOT_NEW);
	/* up to the very end of the last one, which is shorter */
	there_and_back(&r, 0, 2 * SLOT, 3 * BT_PAGE, 2);
	cr_assert_sqe(&r, IORING_OP_READ_FIXED, 2, 3 * BT_PAGE);
	cr_assert_eq(ring(&r, 0)->slots[1], IOMAP__SLOT_NEW);
	there_and_back(&r, SLOT, SLOT - 8 * BT_PAGE, 8 * BT_PAGE, 3);
	cr_assert_sqe(&r, IORING_OP_READ_FIXED, 0, 8 * BT_PAGE);
	cr_assert_eq(ring(&r, 0)->slots[1], IOMAP__SLOT_REGISTERED);
	cr_assert_eq(r.bt.log.nr, 0U, "%s", r.bt.log.line[0].text);
	reg_stop(&r);
}

Test(bd04, bd04_a_transfer_over_two_slots_or_elsewhere_goes_without)
{
	void *buf = bt_buffer(BT_PAGE);
	struct reg r;

	need_uring();
	reg_start(&r, 1, 2 * SLOT);
	there_and_back(&r, SLOT - BT_PAGE, SLOT - BT_PAGE, 2 * BT_PAGE, 1);
	cr_assert_sqe(&r, IORING_OP_READ, 0, 2 * BT_PAGE);
	cr_assert_eq(bt_read(r.bdev, BT_PAGE, buf, BT_PAGE), 0);
	cr_assert_sqe(&r, IORING_OP_READ, 0, BT_PAGE);
	cr_assert(t_check(buf, BT_PAGE, BT_PAGE, 1));
	reg_stop(&r);
	free(buf);
}

static void cr_assert_written(struct reg *r, const size_t *page, unsigned nr, unsigned opcode)
{
	struct iomap_bio *bio = iomap_bio_alloc(r->bdev, nr, IOMAP_REQ_OP_WRITE, NULL);
	uint8_t *back = bt_buffer(nr * BT_PAGE);
	const struct io_uring_sqe *sqe;

	t_must(bio);
	bio->bi_iter.bi_sector = 0;
	for (unsigned i = 0; i < nr; i++) {
		t_fill(r->memory + page[i] * BT_PAGE, BT_PAGE, i * BT_PAGE, opcode);
		t_must(iomap_bio_add(bio, r->memory + page[i] * BT_PAGE, BT_PAGE));
	}
	cr_assert_eq(iomap_submit_bio_wait(bio), 0);
	sqe = last_sqe(r);
	cr_assert_eq(sqe->opcode, opcode, "opcode %u, not %u", sqe->opcode, opcode);
	cr_assert_eq(bt_read(r->bdev, 0, back, nr * BT_PAGE), 0);
	cr_assert(t_check(back, nr * BT_PAGE, 0, opcode));
	iomap_bio_put(bio);
	free(back);
}

Test(bd04, bd04_adjacent_vectors_are_one_transfer)
{
	struct reg r;

	need_uring();
	need_locked_memory();
	reg_start(&r, 1, 2 * SLOT);
	cr_assert_written(&r, (size_t[]){ 4, 5, 6 }, 3, IORING_OP_WRITE_FIXED);
	cr_assert_written(&r, (size_t[]){ 4, 5, 7 }, 3, IORING_OP_WRITEV);
	cr_assert_written(&r, (size_t[]){ 5, 4, 6 }, 3, IORING_OP_WRITEV);
	cr_assert_written(&r, (size_t[]){ 511, 512 }, 2, IORING_OP_WRITE);
	reg_stop(&r);
}

Test(bd04, bd04_no_slot_is_longer_than_1_gib)
{
	const uint64_t gib = 1024U * MIB, bytes = 3000U * gib;
	struct reg r;
	void *space;

	need_uring();
	space = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (space == MAP_FAILED)
		cr_skip_test("no address space");
	reg_start(&r, 1, SLOT);
	iomap__blk_set_memory(&r.bt.engine, NULL, 0);
	iomap__blk_set_memory(&r.bt.engine, space, bytes);
	if (all(&r)->memory) { /* else it is more than may be locked */
		cr_assert_eq(all(&r)->slot_shift, 30U);
		cr_assert_eq(all(&r)->nr_slots, 3000U);
	}
	iomap__blk_set_memory(&r.bt.engine, NULL, 0);
	r.bt.engine.opts.register_pct = 1;
	iomap__blk_set_memory(&r.bt.engine, space, bytes);
	if (all(&r)->memory) {
		cr_assert_eq(all(&r)->bytes, 30U * gib);
		cr_assert_eq(all(&r)->slot_shift, 25U);
		cr_assert_eq(all(&r)->nr_slots, 960U);
	}
	reg_stop(&r);
	t_must(munmap(space, bytes) == 0);
}

Test(bd04, bd04_files_come_and_go_with_their_devices)
{
	enum { NR = 70 };
	struct iomap_bdev *bdev[NR];
	void *buf = bt_buffer(BT_PAGE);
	char *path[NR];
	struct reg r;

	need_uring();
	reg_start(&r, 2, SLOT);
	for (int i = 0; i < NR; i++) {
		path[i] = t_temp(BT_PAGE);
		bdev[i] = bt_open(&r.bt, path[i], 0);
		cr_assert_eq(bdev[i]->registered, bdev[i]->id < IOMAP__URING_FILES);
		t_fill(buf, BT_PAGE, 0, (unsigned)i);
		cr_assert_eq(bt_write(bdev[i], 0, buf, BT_PAGE), 0);
	}
	cr_assert_not(bdev[NR - 1]->registered, "there are not that many numbers");
	/* numbers are used again, by other files */
	for (int i = 0; i < NR; i += 2)
		cr_assert_eq(iomap_bdev_close(bdev[i]), 0);
	for (int i = NR - 2; i >= 0; i -= 2)
		bdev[i] = bt_open(&r.bt, path[i], 0);
	for (int i = 0; i < NR; i++) {
		cr_assert_eq(bt_read(bdev[i], 0, buf, BT_PAGE), 0);
		cr_assert(t_check(buf, BT_PAGE, 0, (unsigned)i), "file %d", i);
	}
	for (int i = 0; i < NR; i++) {
		cr_assert_eq(iomap_bdev_close(bdev[i]), 0);
		t_temp_free(path[i]);
	}
	reg_stop(&r);
	free(buf);
}

/* ---- the ring of one thread ---- */

static unsigned memory_lines(struct reg *r)
{
	return t_log_count(&r->bt.log, IOMAP_LOG_INFO, "registered memory");
}

static const struct io_uring_sqe *own_last_sqe(struct reg *r)
{
	struct io_uring *u = &iomap__uring(iomap__private_mine(r->bt.engine.blk))->ring;

	return &u->sq.sqes[(*u->sq.ktail - 1) & (u->sq.ring_entries - 1)];
}

/* A polled read into place @at; what the ring was asked for. */
static const struct io_uring_sqe *polled(struct reg *r, size_t at)
{
	t_fill(r->memory + at, BT_PAGE, 0, 5);
	cr_assert_eq(bt_io(r->bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_POLLED, 0, r->memory + at,
			   BT_PAGE),
		     0);
	memset(r->memory + at, 0, BT_PAGE);
	cr_assert_eq(bt_io(r->bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_POLLED, 0, r->memory + at,
			   BT_PAGE),
		     0);
	cr_assert(t_check(r->memory + at, BT_PAGE, 0, 5));
	return own_last_sqe(r);
}

/* A table of files could only be changed by its thread, so there is none. */
Test(bd04, bd04_the_ring_of_one_thread_knows_memory_and_no_files)
{
	const struct io_uring_sqe *sqe;
	struct reg r;

	need_uring();
	need_locked_memory();
	reg_start(&r, 2, 2 * SLOT);
	sqe = polled(&r, SLOT);
	cr_assert_eq(sqe->opcode, IORING_OP_READ_FIXED);
	cr_assert_eq(sqe->buf_index, 1);
	cr_assert_eq(sqe->flags & IOSQE_FIXED_FILE, 0);
	cr_assert_eq(sqe->fd, r.bdev->fd);
	cr_assert_eq(r.bt.log.nr, 0U, "%s", r.bt.log.line[0].text);
	/* memory that goes is gone from this ring as well */
	iomap__blk_set_memory(&r.bt.engine, NULL, 0);
	cr_assert_null(iomap__private_mine(r.bt.engine.blk));
	cr_assert_eq(polled(&r, SLOT)->opcode, IORING_OP_READ);
	reg_stop(&r);
}

/* ---- where it is not allowed ---- */

/* Without either, or with what there is: all data arrives. */
static void works(struct reg *r)
{
	for (unsigned i = 0; i < 20; i++)
		there_and_back(r, i * 13 % 32 * BT_PAGE, (i * 7 % 32 + 32) * BT_PAGE,
			       BT_PAGE << (i & 3), i + 1);
	cr_assert_eq(iomap_bdev_flush(r->bdev), 0);
}

Test(bd04, bd04_registering_denied_to_the_ring_of_one_thread)
{
	struct reg r;

	need_uring();
	reg_start(&r, 1, 2 * SLOT);
	works(&r);
	t_deny(SYS_io_uring_register, EPERM);
	cr_assert_eq(polled(&r, 0)->opcode, IORING_OP_READ);
	cr_assert_eq(polled(&r, SLOT)->opcode, IORING_OP_READ);
	cr_assert_eq(r.bt.log.nr, 1U);
	cr_assert_eq(memory_lines(&r), 1U);
	reg_stop(&r);
}

Test(bd04, bd04_registering_denied_by_seccomp)
{
	struct reg r;

	need_uring();
	t_deny(SYS_io_uring_register, EPERM);
	reg_start(&r, 2, 2 * SLOT);
	works(&r);
	cr_assert_eq(last_sqe(&r)->flags & IOSQE_FIXED_FILE, 0);
	cr_assert_eq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "registered memory"), 1U);
	cr_assert_eq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "registered files"), 1U);
	cr_assert_eq(r.bt.log.nr, 2U);
	reg_stop(&r);
}

static uint64_t refuse_from, refuse_to;

static bool refuse(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	return kind == IOMAP_FAIL_RING_REGISTER && n >= refuse_from && n <= refuse_to;
}

/* Each of the calls that register something fails alone, and from each one on all do. */
Test(bd04, bd04_each_refusal_to_register_does_without)
{
	bool files, memory;

	need_uring();
	need_locked_memory();
	/* two tables of files, two entries, two tables of slots, then slots */
	for (unsigned n = 1; n <= 12; n++) {
		struct reg r = { 0 };

		refuse_from = (n + 1) / 2;
		refuse_to = n & 1 ? refuse_from : UINT64_MAX;
		bt_start(&r.bt, 2, 8);
		r.bt.engine.opts.register_pct = 100;
		iomap__blk_destroy(&r.bt.engine);
		r.bt.engine.env.fail_nth = refuse;
		t_must(iomap__blk_create(&r.bt.engine) == 0);
		r.path = t_temp(8 * MIB);
		r.bdev = bt_open(&r.bt, r.path, 0);
		r.bytes = 2 * SLOT;
		r.memory = mmap(NULL, r.bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		t_must(r.memory != MAP_FAILED);
		iomap__blk_set_memory(&r.bt.engine, r.memory, r.bytes);
		works(&r);
		files = refuse_from <= 4;
		memory = refuse_from > 4 || refuse_to == UINT64_MAX;
		cr_assert_eq(r.bdev->registered, !files);
		cr_assert_eq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "registered files"),
			     files ? 1U : 0U, "%u", n);
		cr_assert_leq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "registered memory"),
			      memory ? 1U : 0U, "%u", n);
		reg_stop(&r);
	}
}

Test(bd04, bd04_an_engine_may_ask_for_nothing_to_be_registered)
{
	struct reg r = { 0 };

	need_uring();
	bt_start(&r.bt, 1, 8);
	iomap__blk_destroy(&r.bt.engine);
	r.bt.engine.opts.flags = IOMAP_ENGINE_NO_REGISTER;
	r.bt.engine.opts.register_pct = 100;
	t_must(iomap__blk_create(&r.bt.engine) == 0);
	r.path = t_temp(8 * MIB);
	r.bdev = bt_open(&r.bt, r.path, 0);
	r.bytes = SLOT;
	r.memory = mmap(NULL, r.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t_must(r.memory != MAP_FAILED);
	iomap__blk_set_memory(&r.bt.engine, r.memory, r.bytes);
	works(&r);
	cr_assert_null(all(&r)->memory);
	cr_assert_eq(last_sqe(&r)->flags & IOSQE_FIXED_FILE, 0);
	cr_assert_eq(r.bt.log.nr, 0U, "%s", r.bt.log.line[0].text);
	reg_stop(&r);
}

/* ---- limits on locked memory ---- */

/* Nobody else counts as this user. */
static void become_a_user(rlim_t memlock)
{
	struct rlimit limit = { .rlim_cur = memlock, .rlim_max = memlock };
	uid_t uid = 100000U + (uid_t)getpid();

	if (geteuid() != 0)
		cr_skip_test("needs root to give it up");
	t_must(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	t_must(setresgid(uid, uid, uid) == 0);
	t_must(setresuid(uid, uid, uid) == 0);
	t_must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
	need_uring();
}

Test(bd04, bd04_an_ordinary_user_within_the_limit)
{
	struct reg r;

	become_a_user(8 * MIB);
	reg_start(&r, 2, 2 * SLOT - ROOM);
	works(&r);
	cr_assert_eq(all(&r)->memory, r.memory);
	cr_assert_eq(last_sqe(&r)->opcode, IORING_OP_FSYNC);
	there_and_back(&r, 0, 0, BT_PAGE, 1);
	cr_assert_sqe(&r, IORING_OP_READ_FIXED, 0, BT_PAGE);
	cr_assert_eq(r.bt.log.nr, 0U, "%s", r.bt.log.line[0].text);
	reg_stop(&r);
}

/* One ring more would be too much: the ring of one thread goes without. */
Test(bd04, bd04_a_limit_without_room_for_the_ring_of_one_thread)
{
	struct reg r;

	become_a_user(8 * MIB);
	reg_start(&r, 2, 2 * SLOT - ROOM);
	cr_assert_eq(polled(&r, 0)->opcode, IORING_OP_READ);
	cr_assert_eq(memory_lines(&r), 1U);
	cr_assert_eq(t_log_count(&r.bt.log, IOMAP_LOG_INFO, "3 rings"), 1U);
	works(&r);
	there_and_back(&r, 0, 0, BT_PAGE, 1);
	cr_assert_sqe(&r, IORING_OP_READ_FIXED, 0, BT_PAGE);
	reg_stop(&r);
}

static void too_much(rlim_t memlock, uint32_t queues, size_t bytes)
{
	struct reg r;

	become_a_user(memlock);
	reg_start(&r, queues, bytes);
	works(&r);
	cr_assert_null(all(&r)->memory);
	cr_assert_not(ring(&r, 0)->memory);
	cr_assert_eq(memory_lines(&r), 1U);
	cr_assert_eq(r.bt.log.nr, 1U);
	cr_assert(r.bdev->registered, "files cost no locked memory");
	reg_stop(&r);
}

Test(bd04, bd04_rings_times_bytes_over_8_mib)
{
	too_much(8 * MIB, 2, 2 * SLOT);
}

Test(bd04, bd04_an_ordinary_user_with_64_kib)
{
	too_much(65536, 1, SLOT);
}

Test(bd04, bd04_an_ordinary_user_with_nothing)
{
	too_much(0, 1, SLOT);
}

/* The limit would do, but another engine of the same user has used it up. */
Test(bd04, bd04_a_limit_that_others_have_used_up)
{
	struct reg first, second;

	become_a_user(8 * MIB);
	reg_start(&first, 1, 4 * SLOT - ROOM);
	for (unsigned i = 0; i < 4; i++)
		there_and_back(&first, i * SLOT, i * SLOT, BT_PAGE, i);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(ring(&first, 0)->slots[i], IOMAP__SLOT_REGISTERED, "%u: %s", i,
			     first.bt.log.line[0].text);
	reg_start(&second, 1, 4 * SLOT - ROOM);
	works(&second);
	cr_assert_eq(memory_lines(&second), 1U);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(ring(&second, 0)->slots[i], IOMAP__SLOT_REFUSED);
	works(&first);
	reg_stop(&first);
	works(&second);
	reg_stop(&second);
}
