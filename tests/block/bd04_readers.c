/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd04_readers.c - threads that wait for a folio whose reader is no longer about.
 *
 * A file of two pages: the first one on a file as any other, the second one on a slow one.
 * Who reads the first page reads the second one ahead, and goes off with that read in flight.
 */
#include "slowfile.h"

#define READERS 2

struct rig {
	struct iomap_engine *engine;
	struct iomap_bdev *fast;
	struct slow slow;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct t_log log;
	char *path;
	atomic_bool off, finish;
};

static struct rig *the_rig;

static int begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		 struct iomap *iomap, struct iomap *srcmap)
{
	bool first = pos < (int64_t)BT_PAGE;

	(void)inode, (void)length, (void)flags, (void)srcmap;
	iomap->bdev = first ? the_rig->fast : the_rig->slow.bdev;
	iomap->type = IOMAP_MAPPED;
	iomap->offset = first ? 0 : BT_PAGE;
	iomap->length = BT_PAGE;
	iomap->addr = 0;
	return 0;
}

static const struct iomap_ops ops = { .iomap_begin = begin };

static int read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &ops);
}

static void read_ahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &ops);
}

static const struct iomap_address_space_operations a_ops = {
	.read_folio = read_folio,
	.readahead = read_ahead,
};
static const struct iomap_inode_ops i_op = { .read = &ops };

static void rig_start(struct rig *rig, unsigned queues)
{
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &a_ops, .i_op = &i_op, .i_size = 2 * BT_PAGE,
	};
	struct iomap_engine_opts opts;

	memset(rig, 0, sizeof(*rig));
	the_rig = rig;
	t_log_init(&rig->log);
	iomap_engine_opts_init(&opts);
	/* with workers one of them would reap, as it has nothing else to do */
	opts.flags = IOMAP_ENGINE_NO_THREADS | IOMAP_ENGINE_NO_REGISTER;
	opts.nr_queues = queues;
	opts.cache_bytes = 2U << 20;
	opts.max_folio_bytes = BT_PAGE;
	rig->engine = t_engine(&opts, &rig->log);
	rig->path = t_temp(BT_PAGE);
	cr_assert_eq(iomap_bdev_open(rig->engine, rig->path, NULL, &rig->fast), 0);
	slow_open(rig->engine, &rig->slow);
	args.bdev = rig->fast;
	cr_assert_eq(iomap_inode_init(rig->engine, &rig->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&rig->inode, 0, &rig->file), 0);
}

static void rig_stop(struct rig *rig)
{
	rig->slow.latch.left = 0;
	memset(rig->slow.buf, 0x5a, BT_PAGE);
	cr_assert_eq(iomap_file_close(rig->file), 0);
	cr_assert_eq(iomap_inode_destroy(&rig->inode, 0), 0);
	slow_close(&rig->slow);
	cr_assert_eq(iomap_bdev_close(rig->fast), 0);
	cr_assert_eq(iomap_engine_destroy(rig->engine), 0);
	t_temp_free(rig->path);
}

/* Reads the first page, which reads the second one ahead, and "computes" with that under way. */
static long read_and_go_off(void *arg)
{
	struct rig *rig = arg;
	uint32_t before = iomap__thread_self()->id;
	char buf[BT_PAGE];

	live_in_queue(1);
	t_must(iomap_read(rig->file, buf, sizeof(buf), 0) == (ssize_t)sizeof(buf));
	live_in_queue(before);
	atomic_store(&rig->off, true);
	while (!atomic_load(&rig->finish))
		iomap__cpu_relax();
	return 0;
}

static long read_second(void *arg)
{
	struct rig *rig = arg;
	uint32_t before = iomap__thread_self()->id;
	char buf[BT_PAGE];

	live_in_queue(0);
	t_must(iomap_read(rig->file, buf, sizeof(buf), BT_PAGE) == (ssize_t)sizeof(buf));
	live_in_queue(before);
	return t_all(buf, sizeof(buf), 0x5a);
}

static void both_return(unsigned queues)
{
	struct t_task off, task[READERS];
	struct rig rig;

	rig_start(&rig, queues);
	t_start(&off, read_and_go_off, &rig);
	while (!atomic_load(&rig.off))
		iomap__cpu_relax();
	cr_assert_eq(bt_stats(rig.slow.bdev).inflight_nr, 1U, "read ahead, and not awaited");
	for (unsigned i = 0; i < READERS; i++)
		t_start(&task[i], read_second, &rig);
	/* one reaps, the other one sleeps until it is told, where it has reaped perhaps */
	while (asleep(rig.engine->blk, IOMAP__WAITER_RING) +
		       asleep(rig.engine->blk, IOMAP__WAITER_FUTEX) != READERS)
		sched_yield();
	cr_assert_eq(bt_stats(rig.slow.bdev).inflight_nr, 1U);
	slow_finish(&rig.slow);
	for (unsigned i = 0; i < READERS; i++)
		cr_assert_eq(t_join(&task[i]), 1);
	/* it has been off all the time */
	cr_assert_not(atomic_load(&off.done));
	atomic_store(&rig.finish, true);
	t_join(&off);
	cr_assert_eq(bt_stats(rig.slow.bdev).reads_nr, 1U, "one read was enough for both");
	rig_stop(&rig);
}

Test(bd04_readers, bd04_two_who_wait_for_a_folio_return_though_its_reader_has_gone_off)
{
	both_return(1);
}

Test(bd04_readers, bd04_and_so_they_do_from_another_queue_than_the_readers)
{
	both_return(2);
}
