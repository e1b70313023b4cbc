/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/* ctest-options: TIMEOUT 400 */
/*
 * model.c - CA, BW, FY: threads that overlap, against a model.
 *
 * Four threads read, write and fsync ranges of one file that is eight times the cache.  The
 * file is an array of cells of 64 bytes; none lies in two folios, so each is read and written
 * whole.  A cell says who wrote it (thread, number of the write), where, and has a checksum.
 *
 * What a read may find.  Every write takes a ticket before it starts and one after it has
 * ended; a write w is over for a reader when another write v of that cell has ended before
 * the read began, and v began after w had ended.  For each cell the model keeps the highest
 * start ticket of the writes of it that have ended (`floor`).  So a read takes the cell's
 * floor first and then reads; the write it finds must not have ended before that ticket.
 * Writes that overlap in time may go either way, and do.
 *
 * Pairing: floor[] is stored with release after the write's end ticket, and loaded with
 * acquire before the read, so that the end ticket of a write that is found is looked up in
 * order.  A write that has no end ticket yet is still running and always allowed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "testpiece.h"

#define CELL 64
#define FILE_BYTES (16U << 20)
#define CACHE_BYTES (2U << 20)
#define CELLS (FILE_BYTES / CELL)
#define THREADS 4
#define OPS (T_SANITIZED ? 120000U : 2000000U)
/* Few fsyncs are needed of many operations, and many of few. */
#define FSYNC_EACH (T_SANITIZED ? 80U : 1200U)
#define FAR_EACH (T_SANITIZED ? 3U : 20U)
#define MAX_CELLS 64U /* of one operation: 4 KiB, and now and then a longer one */
#define LONG_CELLS 1500U

struct write_record {
	_Atomic uint64_t end; /* 0: running */
	uint32_t cell, nr;
};

struct cell {
	uint64_t magic;
	uint32_t thread, cell;
	uint64_t seq;
	uint64_t fill[4];
	uint64_t sum;
};
_Static_assert(sizeof(struct cell) == CELL, "a cell");

struct model {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct iomap_inode inode;
	struct iomap_file *file;
	uint64_t seed;
	_Atomic uint64_t ticket;
	_Atomic uint64_t hot; /* first cell of the part that most operations go to */
	_Atomic uint64_t *floor;
	struct write_record *writes[THREADS];
	_Atomic uint64_t started[THREADS];
	_Atomic uint64_t reads, cells_checked, fsyncs;
};

/* The file lies on the device as it is. */
static struct tp whole = { .length = FILE_BYTES };

/* ---- cells ---- */

#define MAGIC 0x6c6c65632d657571ULL

static uint64_t cell_sum(const struct cell *c)
{
	const uint64_t *w = (const uint64_t *)(const void *)c;
	uint64_t sum = 0x243f6a8885a308d3ULL;

	for (int i = 0; i < 7; i++)
		sum = (sum ^ w[i]) * 0x9e3779b97f4a7c15ULL + (sum >> 29);
	return sum;
}

static void cell_make(struct cell *c, uint32_t thread, uint64_t seq, uint32_t cell)
{
	c->magic = MAGIC;
	c->thread = thread;
	c->cell = cell;
	c->seq = seq;
	for (int i = 0; i < 4; i++)
		c->fill[i] =
			(seq + 1) * 0xd1b54a32d192ed03ULL + cell * 31ULL + thread + (unsigned)i;
	c->sum = cell_sum(c);
}

static void cell_wrong(const struct cell *c, uint32_t cell, const char *what)
{
	fprintf(stderr,
		"cell %u: %s: magic %" PRIx64 " thread %u write %" PRIu64 " cell %u sum %s\n", cell,
		what, c->magic, c->thread, c->seq, c->cell, c->sum == cell_sum(c) ? "good" : "bad");
	t_die(__FILE__, __LINE__, what);
}

/* `floor`: of the cell, from before the read. */
static void cell_check(struct model *m, const struct cell *c, uint32_t cell, uint64_t floor)
{
	struct write_record *w;
	uint64_t end;

	if (t_all(c, sizeof(*c), 0)) {
		if (floor)
			cell_wrong(c, cell, "zeros where a write had ended");
		return;
	}
	if (c->magic != MAGIC || c->sum != cell_sum(c))
		cell_wrong(c, cell, "torn or foreign");
	if (c->cell != cell)
		cell_wrong(c, cell, "misplaced");
	if (c->thread >= THREADS || c->seq >= atomic_load(&m->started[c->thread]))
		cell_wrong(c, cell, "from a write that never was");
	w = &m->writes[c->thread][c->seq];
	if (cell < w->cell || cell >= w->cell + w->nr)
		cell_wrong(c, cell, "from a write that was elsewhere");
	/* pairs with the release store in do_write() */
	end = atomic_load_explicit(&w->end, memory_order_acquire);
	if (end && end < floor)
		cell_wrong(c, cell, "older than a write that had ended");
}

static void floor_raise(struct model *m, uint32_t cell, uint64_t start)
{
	uint64_t now = atomic_load_explicit(&m->floor[cell], memory_order_relaxed);

	/* release: whoever sees the floor sees the end tickets before it */
	while (now < start &&
	       !atomic_compare_exchange_weak_explicit(&m->floor[cell], &now, start,
						      memory_order_release, memory_order_relaxed))
		;
}

/* ---- operations ---- */

struct worker {
	struct model *m;
	uint32_t thread;
	struct t_rand rand;
	uint64_t seq;
	struct cell *buf;
	uint64_t *floor;
};

static void pick(struct worker *w, uint32_t *cell, uint32_t *nr)
{
	uint64_t n = t_below(&w->rand, 16) ? 1 + t_below(&w->rand, 8) :
					     1 + t_below(&w->rand, MAX_CELLS);

	if (!t_below(&w->rand, 1000))
		n = 1 + t_below(&w->rand, LONG_CELLS);
	*nr = (uint32_t)n;
	if (t_below(&w->rand, FAR_EACH)) {
		/* near the others: 256 KiB, which move on over time */
		*cell = (uint32_t)((atomic_load(&w->m->hot) + t_below(&w->rand, 4096)) % CELLS);
	} else {
		*cell = (uint32_t)t_below(&w->rand, CELLS);
	}
	if (*cell + *nr > CELLS)
		*nr = CELLS - *cell;
	if (!t_below(&w->rand, 20000))
		atomic_store(&w->m->hot, t_below(&w->rand, CELLS));
}

static void do_read(struct worker *w)
{
	struct model *m = w->m;
	uint32_t cell, nr;
	ssize_t n;

	pick(w, &cell, &nr);
	for (uint32_t i = 0; i < nr; i++)
		w->floor[i] = atomic_load_explicit(&m->floor[cell + i], memory_order_acquire);
	n = iomap_read(m->file, w->buf, (size_t)nr * CELL, (int64_t)cell * CELL);
	if (n != (ssize_t)nr * CELL) {
		fprintf(stderr, "read of %u cells at %u: %zd\n", nr, cell, n);
		t_die(__FILE__, __LINE__, "read");
	}
	for (uint32_t i = 0; i < nr; i++)
		cell_check(m, &w->buf[i], cell + i, w->floor[i]);
	atomic_fetch_add_explicit(&m->reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&m->cells_checked, nr, memory_order_relaxed);
}

static void do_write(struct worker *w)
{
	struct model *m = w->m;
	struct write_record *rec = &m->writes[w->thread][w->seq];
	uint64_t start;
	uint32_t cell, nr;
	ssize_t n;

	pick(w, &cell, &nr);
	for (uint32_t i = 0; i < nr; i++)
		cell_make(&w->buf[i], w->thread, w->seq, cell + i);
	rec->cell = cell;
	rec->nr = nr;
	atomic_store(&m->started[w->thread], ++w->seq);
	start = atomic_fetch_add(&m->ticket, 1) + 1;
	n = iomap_write(m->file, w->buf, (size_t)nr * CELL, (int64_t)cell * CELL);
	if (n != (ssize_t)nr * CELL) {
		fprintf(stderr, "write of %u cells at %u: %zd\n", nr, cell, n);
		t_die(__FILE__, __LINE__, "write");
	}
	/* pairs with the acquire load in cell_check() */
	atomic_store_explicit(&rec->end, atomic_fetch_add(&m->ticket, 1) + 1, memory_order_release);
	for (uint32_t i = 0; i < nr; i++)
		floor_raise(m, cell + i, start);
}

static void do_fsync(struct worker *w)
{
	struct model *m = w->m;
	int rc;

	if (t_below(&w->rand, 4)) {
		int64_t start = (int64_t)t_below(&w->rand, FILE_BYTES);
		int64_t len = (int64_t)t_below(&w->rand, 512 * 1024);

		rc = iomap_fsync(m->file, start, start + len, 1);
	} else {
		rc = iomap_file_fsync(m->file, 0);
	}
	if (rc) {
		fprintf(stderr, "fsync: %d\n", rc);
		t_die(__FILE__, __LINE__, "fsync");
	}
	atomic_fetch_add(&m->fsyncs, 1);
}

static long worker_main(void *arg)
{
	struct worker *w = arg;

	for (uint32_t i = 0; i < OPS / THREADS; i++) {
		if (!t_below(&w->rand, FSYNC_EACH))
			do_fsync(w);
		else if (t_below(&w->rand, 100) < 55)
			do_read(w);
		else
			do_write(w);
	}
	return 0;
}

/* ---- the end ---- */

static void check_image(struct model *m, const char *image, const char *who)
{
	fprintf(stderr, "checking %u cells %s\n", CELLS, who);
	for (uint32_t i = 0; i < CELLS; i++)
		cell_check(m, (const struct cell *)(const void *)(image + (size_t)i * CELL), i,
			   atomic_load(&m->floor[i]));
}

static void open_model(struct model *m, const char *path, struct t_log *log)
{
	struct iomap_inode_args args = { .size = sizeof(args),
					 .a_ops = &tp_aops,
					 .i_op = &tp_inode_ops,
					 .i_size = FILE_BYTES,
					 .i_private = &whole };
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = CACHE_BYTES;
	m->engine = t_engine(&opts, log);
	cr_assert_eq(iomap_bdev_open(m->engine, path, NULL, &m->bdev), 0);
	args.bdev = m->bdev;
	cr_assert_eq(iomap_inode_init(m->engine, &m->inode, &args), 0);
	cr_assert_eq(iomap_file_open(&m->inode, 0, &m->file), 0);
}

static void close_model(struct model *m)
{
	cr_assert_eq(iomap_file_close(m->file), 0);
	cr_assert_eq(iomap_inode_destroy(&m->inode, 0), 0);
	cr_assert_eq(iomap_bdev_close(m->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(m->engine), 0);
}

static char *read_by_library(struct model *m)
{
	char *image = malloc(FILE_BYTES);

	cr_assert(image != NULL);
	for (size_t at = 0; at < FILE_BYTES; at += 100000) {
		size_t len = FILE_BYTES - at < 100000 ? FILE_BYTES - at : 100000;

		cr_assert_eq(iomap_read(m->file, image + at, len, (int64_t)at), (ssize_t)len);
	}
	return image;
}

static char *read_by_pread(const char *path)
{
	char *image = malloc(FILE_BYTES);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	cr_assert(image != NULL);
	cr_assert_geq(fd, 0);
	for (size_t at = 0; at < FILE_BYTES;) {
		ssize_t n = pread(fd, image + at, FILE_BYTES - at, (off_t)at);

		cr_assert_gt(n, 0);
		at += (size_t)n;
	}
	close(fd);
	return image;
}

static void run_workers(struct model *m)
{
	struct worker worker[THREADS];
	struct t_task task[THREADS];

	for (uint32_t i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){ .m = m, .thread = i };
		worker[i].rand.state = m->seed * 1000003 + i;
		worker[i].buf = malloc(LONG_CELLS * sizeof(struct cell));
		worker[i].floor = malloc(LONG_CELLS * sizeof(uint64_t));
		cr_assert(worker[i].buf && worker[i].floor);
		t_start(&task[i], worker_main, &worker[i]);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		t_join(&task[i]);
		free(worker[i].buf);
		free(worker[i].floor);
	}
}

static void compare_all(struct model *m, const char *path, struct t_log *log)
{
	char *cached = read_by_library(m), *plain, *fresh;

	check_image(m, cached, "through the cache");
	plain = read_by_pread(path);
	check_image(m, plain, "in the file");
	cr_assert_eq(memcmp(cached, plain, FILE_BYTES), 0, "the cache and the file differ");
	close_model(m);
	open_model(m, path, log);
	fresh = read_by_library(m);
	cr_assert_eq(memcmp(fresh, plain, FILE_BYTES), 0, "a fresh open and the file differ");
	free(cached);
	free(plain);
	free(fresh);
}

Test(model, ca01_bw02_fy01_ra04_overlapping_threads_agree_with_the_model, .timeout = 1200)
{
	struct model *m = calloc(1, sizeof(*m));
	char *path = t_temp(FILE_BYTES);
	struct iomap_engine_stats stats;
	struct t_log log;

	cr_assert(m != NULL);
	t_log_init(&log);
	m->seed = t_seed();
	m->floor = calloc(CELLS, sizeof(*m->floor));
	cr_assert(m->floor != NULL);
	for (uint32_t i = 0; i < THREADS; i++) {
		m->writes[i] = calloc(OPS / THREADS, sizeof(struct write_record));
		cr_assert(m->writes[i] != NULL);
	}
	open_model(m, path, &log);
	run_workers(m);

	stats = t_stats(m->engine);
	fprintf(stderr,
		"%s: %" PRIu64 " reads, %" PRIu64 " cells, %" PRIu64 " fsyncs, %" PRIu64
		" evictions, %" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64 " throttled\n",
		iomap_bdev_io_path(m->bdev), (uint64_t)m->reads, (uint64_t)m->cells_checked,
		stats.fsyncs_nr, stats.evictions_nr, stats.hits_nr, stats.misses_nr,
		stats.throttled_nr);
	cr_assert_geq(stats.evictions_nr, 10000U);
	cr_assert_geq(stats.fsyncs_nr, 1000U);
	cr_assert_leq(stats.peak_cached_bytes, (uint64_t)CACHE_BYTES);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	compare_all(m, path, &log);
	cr_assert_eq(t_log_count(&log, IOMAP_LOG_ERROR, NULL), 0U);

	close_model(m);
	for (uint32_t i = 0; i < THREADS; i++)
		free(m->writes[i]);
	free(m->floor);
	free(m);
	t_temp_free(path);
}
