/* SPDX-License-Identifier: MIT */
/* ctest-options: TIMEOUT 300 */
/*
 * killed.c - FY05: what a killed process leaves behind.
 *
 * A child writes a file through the public interface, on a real device file by direct I/O, and
 * is killed by SIGKILL: after each number of operations in turn, inside fsync at each of its
 * steps, and with writes held in the device.  What it has been told of is kept in memory that
 * it shares with the test: `told`, all that was written, and `synced`, what of it a sync has
 * made durable.  The test then looks at the device file, and opens it again.
 *
 * The store is the smallest that can be clean or not: file block n is device block n + 2, and
 * in the first two lie, in turn, headers with i_size, a number and a sum, written by
 * commit_metadata.
 *
 * Without a flusher and below the limits nothing is written but by syncs.  So what is found
 * is exact: the bytes of the file are those of `synced`, and the size too.  Killed inside a
 * sync, each block that it covers is the old or the new one, and the header old or new.  With
 * a flusher at work each byte is one that was written there, and none is older than the sync.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testpiece.h"

#define BLOCK 4096
#define BLOCKS 24
#define DATA_AT (2 * BLOCK)
#define FILE_BYTES (BLOCKS * BLOCK)
#define DEV_BYTES (DATA_AT + FILE_BYTES)
#define VERSIONS 256
#define OPS 60

/* ---- what the child has been told, in shared memory ---- */

struct report {
	int64_t begun_size, told_size, synced_size; /* begun: with the write that runs */
	uint64_t version;		/* of the last write that was begun */
	uint64_t synced_version[BLOCKS]; /* the block is at least so new */
	bool touched[BLOCKS][VERSIONS];	 /* that write was for the block */
	unsigned syncs;			/* that have returned */
	unsigned char told[FILE_BYTES], synced[FILE_BYTES];
};

/* ---- the store ---- */

struct header {
	uint64_t number, size, sum;
};

/* Where a child dies, counted by the store. */
enum where { NOWHERE, BEFORE_COMMIT, AFTER_COMMIT, IN_THE_DEVICE };

struct store {
	struct iomap_inode inode;
	struct iomap_engine *engine;
	struct iomap_bdev *file_dev, *dev; /* dev may be stacked on file_dev */
	struct iomap_file *file;
	struct header header;
	enum where where;
	unsigned nth; /* of these events */
};

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static void may_die(struct store *s, enum where here)
{
	if (s->where == here && s->nth-- == 0)
		die();
}

static struct store *store_of(struct iomap_inode *inode)
{
	return (struct store *)(void *)((char *)inode - offsetof(struct store, inode));
}

static uint64_t header_sum(const struct header *h)
{
	return (h->number * 0x9e3779b97f4a7c15ULL) ^ (h->size * 0xbf58476d1ce4e5b9ULL) ^ 1;
}

static int commit(struct iomap_inode *inode, int datasync)
{
	struct store *s = store_of(inode);
	void *mem = aligned_alloc(BLOCK, BLOCK);
	int err;

	(void)datasync;
	t_must(mem != NULL);
	may_die(s, BEFORE_COMMIT);
	s->header.number++;
	s->header.size = (uint64_t)iomap_i_size_read(inode);
	s->header.sum = header_sum(&s->header);
	memset(mem, 0, BLOCK);
	memcpy(mem, &s->header, sizeof(s->header));
	err = t_io(s->dev, IOMAP_REQ_OP_WRITE, s->header.number % 2 * BLOCK, mem, BLOCK);
	free(mem);
	may_die(s, AFTER_COMMIT);
	return err;
}

static const struct iomap_inode_ops i_op = { .write = &tp_ops, .commit_metadata = commit };

/* The newer header that is whole; a new device has none, which is an empty file. */
static void find_header(struct store *s)
{
	void *mem = aligned_alloc(BLOCK, BLOCK);
	struct header h;

	t_must(mem != NULL);
	memset(&s->header, 0, sizeof(s->header));
	for (uint64_t block = 0; block < 2; block++) {
		t_must(t_io(s->dev, IOMAP_REQ_OP_READ, block * BLOCK, mem, BLOCK) == 0);
		memcpy(&h, mem, sizeof(h));
		/* a kill is no power cut: what is neither new nor whole is not clean */
		t_must(!h.number || h.sum == header_sum(&h));
		if (h.number > s->header.number)
			s->header = h;
	}
	free(mem);
}

static void store_open(struct store *s, const char *path, bool flusher, bool stacked)
{
	static struct tp data = { .length = FILE_BYTES, .addr = DATA_AT };
	struct iomap_inode_args args = {
		.size = sizeof(args), .a_ops = &tp_aops, .i_op = &i_op, .i_private = &data
	};
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.dirty_background_pct = flusher ? 1 : 80;
	opts.dirty_hard_pct = 80; /* more than the file has */
	opts.flags = flusher ? 0 : IOMAP_ENGINE_NO_THREADS;
	memset(s, 0, sizeof(*s));
	t_must(iomap_engine_create(&opts, &s->engine) == 0);
	t_must(iomap_bdev_open(s->engine, path, NULL, &s->file_dev) == 0);
	s->dev = s->file_dev;
	if (stacked)
		t_must(iomap_faulty_create(s->file_dev, NULL, &s->dev) == 0);
	find_header(s);
	args.i_size = (int64_t)s->header.size;
	args.bdev = s->dev;
	t_must(iomap_inode_init(s->engine, &s->inode, &args) == 0);
	t_must(iomap_file_open(&s->inode, 0, &s->file) == 0);
}

static void store_close(struct store *s)
{
	t_must(iomap_file_close(s->file) == 0);
	t_must(iomap_inode_destroy(&s->inode, 0) == 0);
	if (s->dev != s->file_dev)
		t_must(iomap_bdev_close(s->dev) == 0);
	t_must(iomap_bdev_close(s->file_dev) == 0);
	t_must(iomap_engine_destroy(s->engine) == 0);
}

/* ---- the child ---- */

struct script {
	const char *path;
	struct report *report;
	uint64_t seed;
	unsigned ops_nr; /* it dies after these */
	enum where where;
	unsigned nth;
	bool flusher;
};

static void synced(struct report *r, int64_t start, int64_t end)
{
	int64_t first = start / BLOCK, last = (end - 1) / BLOCK;

	for (int64_t block = first; block <= last && block < BLOCKS; block++) {
		memcpy(r->synced + block * BLOCK, r->told + block * BLOCK, BLOCK);
		r->synced_version[block] = r->version;
	}
	r->synced_size = r->told_size;
	r->syncs++;
}

static void do_write(struct report *r, struct iomap_file *file, struct t_rand *rnd, bool dsync)
{
	int64_t pos = (int64_t)t_below(rnd, FILE_BYTES - 1);
	size_t len = 1 + t_below(rnd, 3 * BLOCK);
	unsigned char buf[3 * BLOCK];

	if (len > (size_t)(FILE_BYTES - pos))
		len = (size_t)(FILE_BYTES - pos);
	/* one version, however often it is looked at while it is being written */
	r->version++;
	r->begun_size = r->told_size > pos + (int64_t)len ? r->told_size : pos + (int64_t)len;
	for (int64_t block = pos / BLOCK; block <= (pos + (int64_t)len - 1) / BLOCK; block++)
		r->touched[block][r->version] = true;
	t_fill(buf, len, pos, (unsigned)r->version);
	t_must(iomap_write(file, buf, len, pos) == (ssize_t)len);
	memcpy(r->told + pos, buf, len);
	r->told_size = r->begun_size;
	if (dsync)
		synced(r, pos, pos + (int64_t)len);
}

static void do_op(struct store *s, struct report *r, struct iomap_file *dsync, struct t_rand *rnd)
{
	uint64_t what = t_below(rnd, 10);
	int64_t from, to;

	if (what < 6) {
		do_write(r, s->file, rnd, false);
	} else if (what < 7) {
		do_write(r, dsync, rnd, true);
	} else if (what < 9) {
		from = (int64_t)t_below(rnd, FILE_BYTES);
		to = from + (int64_t)t_below(rnd, FILE_BYTES - (uint64_t)from);
		t_must(iomap_fsync(s->file, from, to, 1) == 0);
		synced(r, from, to + 1);
	} else {
		t_must(iomap_file_fsync(s->file, 0) == 0);
		synced(r, 0, FILE_BYTES);
	}
}

static long kill_when_held(void *arg)
{
	struct store *s = arg;

	t_must(iomap_faulty_wait_held(s->dev, 1) == 0);
	die();
	return 0;
}

static void run_child(const struct script *script)
{
	struct t_rand rnd = { script->seed };
	struct iomap_file *dsync;
	struct store s;
	struct t_task killer;
	struct iomap_fault hold = {
		.size = sizeof(hold),
		.kind = IOMAP_FAULT_DELAY,
		.ops = IOMAP_FAULT_ON_WRITE,
		.nth = script->nth,
		/* before it is done, and after */
		.flags = script->nth % 2 ? 0 : IOMAP_FAULT_HOLD_END,
	};

	store_open(&s, script->path, script->flusher, script->where == IN_THE_DEVICE);
	s.where = script->where;
	s.nth = script->nth;
	t_must(iomap_file_open(&s.inode, IOMAP_O_DSYNC, &dsync) == 0);
	if (script->where == IN_THE_DEVICE) {
		t_must(iomap_faulty_add(s.dev, &hold, NULL) == 0);
		t_start(&killer, kill_when_held, &s);
	}
	for (unsigned i = 0; i < script->ops_nr; i++)
		do_op(&s, script->report, dsync, &rnd);
	die();
}

/* Run the script in a child; it must have been killed. */
static void run(const struct script *script)
{
	pid_t child;
	int status;

	memset(script->report, 0, sizeof(*script->report));
	t_must(truncate(script->path, 0) == 0 && truncate(script->path, DEV_BYTES) == 0);
	fflush(NULL);
	child = fork();
	t_must(child >= 0);
	if (!child)
		run_child(script);
	t_must(waitpid(child, &status, 0) == child);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
		  "the child ended by itself: status 0x%x", (unsigned)status);
}

/* ---- what is found ---- */

static unsigned char device[DEV_BYTES], found[FILE_BYTES];
static int64_t found_size;

/* The device file as it lies there, and the file as a new process reads it. */
static void look(const char *path)
{
	struct store s;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	/* what io_uring holds of a dead process, with its lock, goes a moment after it */
	t_must(fd >= 0 && flock(fd, LOCK_EX) == 0);
	t_must(pread(fd, device, DEV_BYTES, 0) == DEV_BYTES);
	t_must(flock(fd, LOCK_UN) == 0);
	close(fd);
	store_open(&s, path, false, false);
	found_size = iomap_i_size_read(&s.inode);
	memset(found, 0, sizeof(found));
	cr_assert_eq(iomap_read(s.file, found, FILE_BYTES, 0), (ssize_t)found_size);
	store_close(&s);
	/* the same, but that bytes beyond the end of the file are nobody's */
	cr_assert_eq(memcmp(found, device + DATA_AT, (size_t)found_size), 0);
}

Test(killed, fy05_exactly_what_was_synced_is_there, .timeout = 250)
{
	struct report *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *path = t_temp(DEV_BYTES);
	uint64_t seed = t_seed();
	unsigned unsynced = 0;

	t_must(r != MAP_FAILED);
	for (unsigned n = 0; n <= OPS; n++) {
		struct script script = { .path = path, .report = r, .seed = seed, .ops_nr = n };

		run(&script);
		look(path);
		cr_assert_eq(found_size, r->synced_size, "after %u operations", n);
		cr_assert_eq(memcmp(found, r->synced, (size_t)found_size), 0,
			     "after %u operations", n);
		/* and nothing that was not synced lies anywhere */
		for (int64_t block = 0; block < BLOCKS; block++)
			cr_assert_eq(memcmp(device + DATA_AT + block * BLOCK,
					    r->synced + block * BLOCK, BLOCK),
				     0, "block %d after %u operations", (int)block, n);
		unsynced += memcmp(r->told, r->synced, FILE_BYTES) != 0;
	}
	cr_assert_gt(unsynced, OPS / 2U, "most kills found something to lose: %u", unsynced);
	t_temp_free(path);
	munmap(r, sizeof(*r));
}

/* A sync that has not returned: block by block the old or the new, and a header that is whole. */
static void check_in_sync(const struct script *script)
{
	const struct report *r = script->report;

	look(script->path);
	cr_assert(found_size == r->synced_size || found_size == r->begun_size,
		  "size %lld, synced %lld, begun %lld", (long long)found_size,
		  (long long)r->synced_size, (long long)r->begun_size);
	for (int64_t block = 0; block < BLOCKS; block++) {
		const unsigned char *is = device + DATA_AT + block * BLOCK;
		unsigned char next[BLOCK];

		memcpy(next, r->told + block * BLOCK, BLOCK);
		if (!memcmp(is, r->synced + block * BLOCK, BLOCK) || !memcmp(is, next, BLOCK))
			continue;
		/* a DSYNC write has not returned either: its bytes are on top of the others */
		for (size_t i = 0; i < BLOCK; i++) {
			unsigned char mine;

			t_fill(&mine, 1, block * BLOCK + (int64_t)i, (unsigned)r->version);
			cr_assert(r->touched[block][r->version] &&
					  (is[i] == next[i] || is[i] == mine),
				  "block %d, byte %zu", (int)block, i);
		}
	}
}

static void kill_in_sync(enum where where, unsigned points)
{
	struct report *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *path = t_temp(DEV_BYTES);
	uint64_t seed = t_seed();

	t_must(r != MAP_FAILED);
	for (unsigned n = 0; n < points; n++) {
		struct script script = { .path = path,
					 .report = r,
					 .seed = seed + n,
					 .ops_nr = OPS,
					 .where = where,
					 .nth = where == IN_THE_DEVICE ? n + 1 : n };

		run(&script);
		check_in_sync(&script);
		if (where == BEFORE_COMMIT)
			cr_assert_eq(found_size, r->synced_size, "the header had not been written");
	}
	t_temp_free(path);
	munmap(r, sizeof(*r));
}

Test(killed, fy05_a_kill_between_data_and_metadata, .timeout = 250)
{
	kill_in_sync(BEFORE_COMMIT, 12);
}

Test(killed, fy05_a_kill_between_metadata_and_flush, .timeout = 250)
{
	kill_in_sync(AFTER_COMMIT, 12);
}

Test(killed, fy05_a_kill_while_the_device_has_a_write, .timeout = 250)
{
	kill_in_sync(IN_THE_DEVICE, 24);
}

/* The flusher writes what it likes, but nothing that was not written, nor old bytes again. */
Test(killed, fy05_with_a_flusher_nothing_synced_is_lost_nor_invented, .timeout = 250)
{
	struct report *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *path = t_temp(DEV_BYTES);
	uint64_t seed = t_seed();

	t_must(r != MAP_FAILED);
	for (unsigned n = 5; n <= OPS; n += 5) {
		struct script script = {
			.path = path, .report = r, .seed = seed + n, .ops_nr = n, .flusher = true
		};

		run(&script);
		look(path);
		cr_assert_eq(found_size, r->synced_size);
		for (int64_t pos = 0; pos < FILE_BYTES; pos++) {
			unsigned char is = device[DATA_AT + pos], was;
			int64_t block = pos / BLOCK;
			bool good = is == r->synced[pos];

			for (uint64_t v = r->synced_version[block]; !good && v++ < r->version;) {
				t_fill(&was, 1, pos, (unsigned)v);
				good = r->touched[block][v] && is == was;
			}
			cr_assert(good, "byte %lld after %u operations", (long long)pos, n);
		}
	}
	t_temp_free(path);
	munmap(r, sizeof(*r));
}
