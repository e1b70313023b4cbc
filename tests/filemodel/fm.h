/* SPDX-License-Identifier: MIT */
/*
 * fm.h - the file model: files under random operations of several threads, each byte that is
 * read held against a model in memory.
 *
 * A campaign is a number of runs.  A run draws, from the campaign's seed and its own number, a
 * store (block size, kind of allocation, size of the cache, ...) and a list of operations for
 * each thread: operation i of thread t is a function of seed, run, t and i alone, so that one
 * can be left out without a change to the others.
 *
 *	store.c	   a filesystem on a device in memory: what is freed is used again soon, completions
 *		   come late and in any order
 *	history.c  the model: who may do what at the same time, and what may be read
 *	ops.c	   the operations
 *	run.c	   runs and campaigns; a failing run of one thread made small
 *
 * What may run together.  Operations that change the same bytes do not; but whoever changes
 * others does so at the same time, in the same block or folio.  Whoever moves the size has
 * everything from the old or new one on to himself.  Reads and syncs wait for nobody.
 *
 * What may be read.  A byte is what the model said when the read began, or what an operation
 * puts there that ran at some time during the read.  Zeros only where they are put or punched,
 * where a file grows by them, and up to the end of the block in which it was cut off: not where it
 * was cut off and has grown by bytes.  The end of the file is between the smallest and the largest
 * size of that time.
 *
 * What must be on the device when a sync of a file has returned: the same, as of its beginning,
 * but for what a truncation cuts off meanwhile.
 *
 * Locks: a file's gate (its model), then the store's map, then the device.  None is held in a
 * call of the library.
 */
#ifndef FM_H
#define FM_H

#include "testutil.h"

#define FM_FILES 3
#define FM_THREADS_MAX 8
#define FM_SECTOR 512
/* No file is larger. */
#define FM_BYTES_MAX ((int64_t)640 * 1024 + 3)
/* Ended operations that a file remembers: a read during which more end is not checked. */
#define FM_PAST 1024
#define FM_BUF_BYTES ((size_t)768 * 1024)
#define FM_GUARD ((size_t)128 * 1024)

enum fm_alloc { FM_NEW, FM_UNWRITTEN, FM_DELALLOC, FM_ALLOCS };

/* What a run draws. */
struct fm_setup {
	unsigned threads;
	uint32_t blkbits;
	enum fm_alloc alloc;
	bool flusher;	  /* the library has threads */
	bool async;	  /* the device has one */
	bool own_setsize; /* gives blocks back when a file shrinks */
	bool hooks;	  /* get_folio and put_folio, which keep writes to the ordinary way */
	bool faults;	  /* reads fail: those of readahead now and then, others of one opener */
	bool resize;	  /* the cache changes its size, and nothing is pinned */
	bool crowd;	  /* all are in the first few blocks of one file, and few of them sync */
	uint32_t map_max; /* blocks in a mapping, 0: as many as there are */
	unsigned order;	      /* of the largest folio */
	int64_t bytes_max;    /* i_maxbytes of each file */
	uint64_t cache_bytes;
	uint64_t ops; /* of each thread */
};

enum fm_state { FM_IS_HOLE, FM_IS_DELALLOC, FM_IS_UNWRITTEN, FM_IS_MAPPED };

struct fm_block {
	uint32_t addr; /* in blocks */
	enum fm_state state;
};

enum fm_kind {
	FM_WRITE,  /* iomap_write() */
	FM_SHARED, /* inside the size, under a shared i_rwsem */
	FM_APPEND,
	FM_DSYNC,
	FM_DWRITE, /* direct */
	FM_TRUNCATE,
	FM_READ,
	FM_READV,
	FM_DREAD,
	FM_BATCH, /* iomap_read_batch() */
	FM_PIN,
	FM_FSYNC,
	FM_SYNC_RANGE, /* starts write-out, or waits for it */
	FM_DROP,
	FM_SYNC_ALL,
	FM_IOCB_WRITE, /* NOWAIT, DONTCACHE, CHECKED, not behind the end */
	FM_IOCB_READ,
	FM_APPENDS, /* two at once */
	FM_RESIZE,
	FM_ZERO,  /* iomap_fallocate(): zeros inside the size */
	FM_PUNCH, /* the same, and whole blocks are given back */
	FM_KINDS,
};

/* One operation.  Times are the file's ticks. */
struct fm_op {
	enum fm_kind kind;
	unsigned thread;
	uint64_t nr;
	uint64_t begin, end; /* end 0: still running */
	int64_t pos, limit;  /* bytes it is about */
	int64_t lock_pos, lock_limit;
	int64_t zero_pos, zero_limit; /* what it may turn into zeros besides */
	int64_t cut;		      /* truncation: nothing is owed from here on; else INT64_MAX */
	int64_t size_before, size_after;
	uint64_t pattern;
	bool writes;
	bool is_short; /* it has done less than was planned: `done` bytes */
	int64_t done;
	bool may_be_short; /* a read that may end anywhere */
	/* under the gate: with another thread in one folio; after another one in one folio */
	bool meets, shared;
};

struct fm;

struct fm_file {
	struct iomap_inode inode;
	struct iomap_inode_ops i_op;
	struct iomap_file *file, *append, *dsync, *direct;
	struct iomap_file *failing; /* of whose device reads most fail, with setup.faults */
	struct fm *fm;
	unsigned nr;
	/* under fm->map */
	struct fm_block *block;
	uint64_t seq;
	bool punching; /* what is dirty, or being written, of a hole is on its way out of the cache */
	/* under the gate */
	struct t_gate gate;
	uint64_t tick;
	unsigned char *model; /* zeros from the size on */
	int64_t size;
	struct fm_op *running[FM_THREADS_MAX];
	unsigned char last[FM_BYTES_MAX / IOMAP_PAGE_SIZE + 1]; /* thread + 1, of each page */
	struct fm_op past[FM_PAST];
	uint64_t past_nr;
};

struct fm_dev {
	struct iomap_bdev *bdev;
	struct t_gate gate; /* memory and queue */
	unsigned char *mem;
	uint64_t bytes;
	struct iomap_bio *queue[4096];
	size_t queue_nr;
	bool stop;
	struct t_rand rand;
	struct t_task thread;
};

/* What a campaign has done. */
struct fm_count {
	uint64_t ops, meets, shared, kinds[FM_KINDS], bytes, synced_bytes, unchecked, evictions;
};

struct fm {
	struct fm_setup setup;
	uint64_t seed, run;
	const unsigned char *skip; /* operations of a single thread to leave out, or NULL */
	bool trace;		   /* print operations as they begin */
	struct iomap_engine *engine;
	struct t_log log;
	struct fm_dev dev;
	pthread_mutex_t map; /* the files' blocks and `used` */
	unsigned char *used; /* of each block of the device */
	uint32_t blocks_nr, file_blocks;
	struct t_rand where; /* under map */
	struct fm_file file[FM_FILES];
	_Atomic uint64_t meets, shared, bytes, synced_bytes, unchecked, kinds[FM_KINDS];
};

/* ---- store.c ---- */
void fm_store_open(struct fm *fm);
void fm_store_close(struct fm *fm);
void fm_file_open(struct fm_file *f);
void fm_file_close(struct fm_file *f);
extern const struct iomap_ops fm_ops;
const struct iomap_write_ops *fm_write_ops(const struct fm *fm);
/* Every block of the range has space; i_rwsem is held, so that none loses it. */
bool fm_has_space(struct fm_file *f, int64_t pos, int64_t limit);
/* Bytes of the device; what has no block there, or one without data, reads as zeros. */
void fm_device_bytes(struct fm_file *f, int64_t pos, size_t len, unsigned char *out);

/* ---- history.c ---- */
/* The bytes of one of two appends at once, who do not know where they will be. */
unsigned char fm_append_byte(uint64_t pattern, unsigned which);
/* Bytes that an operation with that pattern writes. */
void fm_fill(unsigned char *buf, size_t len, int64_t pos, uint64_t pattern);
/*
 * Begin: waits until @op may run; `plan` fills in what it does, gate held, perhaps several
 * times.  End: the model has it from here on.
 */
void fm_begin(struct fm_file *f, struct fm_op *op,
	      void (*plan)(struct fm_file *f, struct fm_op *op, void *arg), void *arg);
void fm_end(struct fm_file *f, struct fm_op *op, const unsigned char *data);
/*
 * What the model holds of @op's range, as it begins or has ended; before it is read, or looked for
 * on the device.  Then check @n bytes in @buf; with a negative @n: all of the range, on the device.
 */
struct fm_view {
	uint64_t begin;
	int64_t pos, limit, size;
	unsigned char *bytes; /* room for all of a file, the caller's */
};
void fm_look(struct fm_file *f, struct fm_view *view, int64_t pos, int64_t limit);
void fm_check(struct fm_file *f, const struct fm_op *op, const struct fm_view *view,
	      const unsigned char *buf, ssize_t n);
void fm_fail(struct fm_file *f, const struct fm_op *op, const char *format, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
const char *fm_kind_name(enum fm_kind kind);

/* ---- ops.c ---- */
struct fm_worker {
	struct fm *fm;
	unsigned thread;
	unsigned char *buf, *bytes;
	unsigned char *guard; /* FM_GUARD bytes before it are good, and none from it on */
	struct iomap_pin pin; /* held for some operations; folio NULL: none */
};
void fm_worker_init(struct fm_worker *w, struct fm *fm, unsigned thread);
void fm_worker_exit(struct fm_worker *w);
void fm_do(struct fm_worker *w, uint64_t nr);
/* No more operations: give back what is held. */
void fm_worker_done(struct fm_worker *w);
/* Nothing runs: all there is, in every way. */
void fm_check_all(struct fm_worker *w);

/* ---- run.c ---- */
/*
 * Runs first .. until about @ops operations are done, or one run if @ops is 0.  A failure
 * ends the process, and says how to have it again.
 */
void fm_campaign(uint64_t seed, uint64_t first, uint64_t ops, unsigned threads,
		 struct fm_count *count);
/* Leave out what is not needed for the run to fail; one thread.  0: it was made smaller. */
int fm_shrink(uint64_t seed, uint64_t run);

#endif
