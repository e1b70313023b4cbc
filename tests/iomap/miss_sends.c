/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * miss_sends.c - RA01, BD03: a read that misses is sent when its reader goes to sleep.  So until
 * then nothing may happen that needs it to be on its way: here the extent map is called in
 * between, for the window whose mark lies on the very folio that is read.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "testutil.h"

#define KIB 1024
#define FILE_BYTES (4 << 20)
#define PAGE ((size_t)4096)

struct store {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct t_log log;
	/* called by iomap_begin behind the first folio */
	void (*ahead)(struct store *s);
	struct t_gate gate;
	bool ahead_called, locked_read; /* under gate */
	pthread_mutex_t map_lock;
	char *path;
};

static _Thread_local bool own_read; /* this thread's own calls are not the ones that count */

static int begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
		 struct iomap *iomap, struct iomap *srcmap)
{
	struct store *s = inode->i_private;

	(void)length;
	(void)flags;
	(void)srcmap;
	if (pos >= 16 * KIB && !own_read)
		s->ahead(s);
	iomap->type = IOMAP_MAPPED;
	iomap->offset = 0;
	iomap->length = FILE_BYTES;
	iomap->addr = 0;
	iomap->bdev = s->bdev;
	return 0;
}

static const struct iomap_ops map_ops = { .iomap_begin = begin };

static int read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	return iomap_bio_read_folio(folio, &map_ops);
}

static void readahead(struct iomap_readahead_control *rac)
{
	iomap_bio_readahead(rac, &map_ops);
}

static const struct iomap_address_space_operations a_ops = {
	.read_folio = read_folio,
	.readahead = readahead,
};

static void setup(struct store *s, void (*ahead)(struct store *s))
{
	static const struct iomap_inode_ops i_op = { .write = &map_ops };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &a_ops, .i_op = &i_op, .i_private = s
	};
	struct iomap_bdev_opts bdev_opts = { .size = sizeof(bdev_opts) };
	struct iomap_engine_opts opts;

	memset(s, 0, sizeof(*s));
	s->ahead = ahead;
	t_gate_init(&s->gate);
	pthread_mutex_init(&s->map_lock, NULL);
	s->path = t_temp(FILE_BYTES);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 4 << 20;
	opts.nr_queues = 1;
	s->engine = t_engine(&opts, &s->log);
	cr_assert_eq(iomap_bdev_open(s->engine, s->path, &bdev_opts, &s->bdev), 0);
	args.bdev = s->bdev;
	args.i_size = FILE_BYTES;
	cr_assert_eq(iomap_inode_init(s->engine, &s->inode, &args), 0);
	/* then the first window of a stream has its mark on the first folio */
	cr_assert_eq(iomap_mapping_set_large_folios(&s->inode.i_data), 0);
	cr_assert_eq(iomap_file_open(&s->inode, 0, &s->file), 0);
}

static void teardown(struct store *s)
{
	cr_assert_eq(iomap_file_close(s->file), 0);
	cr_assert_eq(iomap_inode_destroy(&s->inode, IOMAP_DESTROY_WAIT), 0);
	cr_assert_eq(iomap_bdev_close(s->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(s->engine), 0);
	t_temp_free(s->path);
	t_gate_exit(&s->gate);
}

static void read_first_page(struct store *s)
{
	char page[PAGE];

	t_must(iomap_read(s->file, page, PAGE, 0) == (ssize_t)PAGE);
}

/* ---- a lock of the extent map whose holder reads ---- */

static void wait_for_map(struct store *s)
{
	t_lock(&s->gate);
	s->ahead_called = true;
	t_wake(&s->gate);
	while (!s->locked_read)
		t_wait(&s->gate);
	t_unlock(&s->gate);
	pthread_mutex_lock(&s->map_lock);
	pthread_mutex_unlock(&s->map_lock);
}

static long read_with_the_map_locked(void *arg)
{
	struct store *s = arg;

	own_read = true;
	pthread_mutex_lock(&s->map_lock);
	t_lock(&s->gate);
	while (!s->ahead_called)
		t_wait(&s->gate);
	s->locked_read = true;
	t_wake(&s->gate);
	t_unlock(&s->gate);
	read_first_page(s);
	pthread_mutex_unlock(&s->map_lock);
	return 0;
}

Test(miss_sends, ra01_the_holder_of_a_lock_of_the_extent_map_reads_what_is_missed)
{
	static struct store s;
	struct t_task task;

	setup(&s, wait_for_map);
	t_start(&task, read_with_the_map_locked, &s);
	read_first_page(&s);
	cr_assert_eq(t_join(&task), 0);
	cr_assert(s.ahead_called, "there was a window to read ahead");
	teardown(&s);
}

/* ---- an extent map that reads by itself ---- */

static struct iomap_bio *bio_at(struct store *s, int64_t pos, void *memory)
{
	struct iomap_bio *bio = iomap_bio_alloc(s->bdev, 1, IOMAP_REQ_OP_READ, NULL);

	t_must(bio != NULL);
	bio->bi_iter.bi_sector = (uint64_t)pos >> 9;
	t_must(iomap_bio_add(bio, memory, PAGE));
	return bio;
}

static void read_metadata(struct store *s)
{
	char *page = aligned_alloc(PAGE, PAGE);
	struct iomap_bio *bio = bio_at(s, 2 << 20, page);

	s->ahead_called = true;
	t_must(iomap_submit_bio_wait(bio) == 0);
	iomap_bio_put(bio);
	free(page);
}

static void ended(struct iomap_bio *bio)
{
	struct store *s = bio->bi_private;

	t_lock(&s->gate);
	s->locked_read = true;
	t_wake(&s->gate);
	t_unlock(&s->gate);
	iomap_bio_put(bio);
}

/* Somebody else, who never submits. */
static long poll_until_ended(void *arg)
{
	struct store *s = arg;
	bool over = false;

	while (!over) {
		iomap_engine_poll(s->engine, 8, true);
		t_lock(&s->gate);
		over = s->locked_read;
		t_unlock(&s->gate);
		sched_yield();
	}
	return 0;
}

Test(miss_sends, bd03_a_bio_is_sent_that_follows_a_miss_whose_extent_map_reads)
{
	static struct store s;
	char *page = aligned_alloc(PAGE, PAGE);
	struct iomap_bio *bio;
	struct t_task task;

	setup(&s, read_metadata);
	read_first_page(&s);
	cr_assert(s.ahead_called, "there was a window to read ahead");
	bio = bio_at(&s, 3 << 20, page);
	bio->bi_private = &s;
	bio->bi_end_io = ended;
	iomap_submit_bio(bio);
	t_start(&task, poll_until_ended, &s);
	cr_assert_eq(t_join(&task), 0);
	teardown(&s);
	free(page);
}
