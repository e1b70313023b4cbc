/* SPDX-License-Identifier: MIT */
/*
 * teststore.h - one inode with a configurable extent map, an engine and a device.
 *
 * The map is a list of extents in memory; what no extent covers is a hole.  Any thread may
 * change it; each change moves `seq`, the validity cookie of mappings.  Writes into holes
 * allocate as `alloc` says.  Every callback is counted and its first arguments are kept;
 * each can be made to fail at its nth call, and the important ones have a hook that sees
 * or replaces what the store would do.
 *
 * Life: ts_open(), or ts_prepare() + changes of the ops + ts_begin(); then use ts->file and
 * ts->inode; then ts_close(), which throws dirty data away and checks that all goes away.
 */
#ifndef TESTSTORE_H
#define TESTSTORE_H

#include "testdev.h"

enum ts_alloc {
	TS_NEW,	      /* MAPPED | F_NEW */
	TS_UNWRITTEN, /* becomes MAPPED when writeback_range gets it */
	TS_DELALLOC,  /* reserved; writeback_range gives it an address */
	TS_NOTHING,   /* the hole comes back as it is: a broken mapping */
};

struct ts_extent {
	int64_t offset;
	uint64_t length;
	uint16_t type;
	uint16_t flags; /* set in every mapping of it */
	uint64_t addr;
	void *inline_data;
};

/* Callbacks; each has a counter and a record. */
enum ts_cb {
	TS_BEGIN,
	TS_END,
	TS_RANGE,	/* writeback_range */
	TS_SUBMIT,	/* writeback_submit */
	TS_GET,		/* get_folio */
	TS_PUT,		/* put_folio */
	TS_VALID,	/* iomap_valid */
	TS_WREAD,	/* write_ops.read_folio_range */
	TS_READ,	/* read_ops.read_folio_range */
	TS_READ_SUBMIT, /* read_ops.submit_read */
	TS_READ_FOLIO,	/* a_ops.read_folio */
	TS_READAHEAD,	/* a_ops.readahead; recorded when it is over */
	TS_WRITEPAGES,	/* a_ops.writepages; recorded when it is over */
	TS_COMMIT,	/* commit_metadata */
	TS_OPEN,	/* open */
	TS_CB_NR,
};

/* What a callback got and answered; what does not apply is 0. */
struct ts_event {
	uint64_t tick; /* t_tick() when it had been decided what to answer */
	int64_t pos;
	uint64_t length;
	ssize_t written; /* TS_END; TS_PUT: copied; TS_COMMIT: datasync; TS_SUBMIT: error */
	unsigned flags;
	ssize_t ret;
	uint64_t end_pos;   /* TS_RANGE */
	struct iomap iomap; /* TS_BEGIN: what was answered; TS_END: what came */
	struct iomap_folio *folio;
	void *private_data; /* iter->private where there is an iter */
	/* TS_SUBMIT: the ioend that was sent */
	uint64_t io_sector;
	int64_t io_offset;
	size_t io_size;
	uint16_t io_flags;
};

#define TS_EVENTS 1024 /* of each kind are kept */

struct ts;

/* All optional.  Called without locks of the store. */
struct ts_hooks {
	void *arg; /* the test's own */
	/* after the store filled the mapping; the result is the callback's */
	int (*begin)(struct ts *ts, int64_t pos, int64_t length, unsigned flags,
		     struct iomap *iomap, struct iomap *srcmap);
	int (*end)(struct ts *ts, int64_t pos, int64_t length, ssize_t written, unsigned flags,
		   struct iomap *iomap);
	/* in place of the store's; may call ts_range() */
	ssize_t (*range)(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			 uint64_t pos, unsigned len, uint64_t end_pos);
	int (*submit)(struct ts *ts, struct iomap_writepage_ctx *wpc, int error);
	/* in place of the block read; 0: started, somebody finishes it */
	int (*read)(struct ts *ts, const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
		    size_t len);
	/* before the folio is taken */
	void (*get)(struct ts *ts, struct iomap_iter *iter, int64_t pos);
	/* with the folio still locked */
	void (*put)(struct ts *ts, int64_t pos, unsigned copied, struct iomap_folio *folio);
	bool (*valid)(struct ts *ts, const struct iomap *iomap);
	int (*commit)(struct ts *ts, int datasync);
	int (*open)(struct ts *ts, struct iomap_file *file);
};

struct ts_config {
	uint64_t cache_bytes; /* 0: 4 MiB */
	uint64_t dev_bytes;   /* 0: 16 MiB */
	int64_t i_size;
	int64_t i_maxbytes;
	uint32_t blkbits; /* 0: 12 */
	uint32_t lock_class;
	enum ts_alloc alloc;
	bool threads;	     /* with a background flusher */
	bool with_write_ops; /* write_ops of the store, else NULL */
	bool cow; /* what is IOMAP_F_SHARED is written to a new place; with ts_cow_begin() */
	const struct iomap_bdev_limits *limits;
	struct iomap_engine *engine;	      /* of another store, else an own one */
	struct td *dev;			      /* of another store, else an own one */
	const struct iomap_engine_opts *opts; /* instead of all that concerns the engine here */
};

struct ts {
	struct iomap_inode inode;
	struct iomap_engine *engine;
	struct td *dev;
	struct iomap_file *file;
	struct t_log log;
	struct ts_config cfg;
	struct ts_hooks hook;

	/* What the library calls; may be changed between ts_prepare() and ts_begin(). */
	struct iomap_ops ops;
	struct iomap_write_ops write_ops;
	struct iomap_read_ops read_ops;
	struct iomap_writeback_ops wb_ops;
	struct iomap_address_space_operations a_ops;
	struct iomap_inode_ops i_op;
	struct iomap_inode_args args;

	struct t_gate gate; /* protects all below; signalled at each callback */
	struct ts_extent *extent;
	size_t extent_nr;
	uint64_t seq;
	uint64_t next_addr;	/* where the next allocation goes */
	uint64_t map_max_bytes; /* mappings are cut to this; 0: not */
	void *map_private;	/* iomap->private of every mapping */
	uint64_t calls[TS_CB_NR];
	struct ts_event *event[TS_CB_NR];
	struct {
		uint64_t at, times; /* calls at .. at + times - 1, counted from 1 */
		int error;
	} fail[TS_CB_NR];
};

#define TS_INO 987654321U

void ts_prepare(struct ts *ts, const struct ts_config *cfg);
void ts_begin(struct ts *ts);
struct ts *ts_open(const struct ts_config *cfg);
void ts_close(struct ts *ts);
/* The same of a store whose file has been closed and whose inode destroyed by the test. */
void ts_free(struct ts *ts);

/* Put an extent in place of whatever is there. */
void ts_map(struct ts *ts, int64_t offset, uint64_t length, unsigned type, unsigned flags,
	    uint64_t addr);
void ts_map_inline(struct ts *ts, void *data, uint64_t length);
void ts_punch(struct ts *ts, int64_t offset, uint64_t length);
/* The same of what is IOMAP_DELALLOC there, and nothing else. */
void ts_unreserve(struct ts *ts, int64_t offset, uint64_t length);
/* Unwritten space in place of holes. */
void ts_reserve(struct ts *ts, int64_t offset, uint64_t length);
/* Bytes that are IOMAP_DELALLOC. */
uint64_t ts_reserved(struct ts *ts);
/* The extent that covers `pos`; a HOLE up to the next one when there is none. */
struct ts_extent ts_lookup(struct ts *ts, int64_t pos);

/* Callbacks since ts_reset(). */
void ts_reset(struct ts *ts);
uint64_t ts_calls(struct ts *ts, enum ts_cb cb);
/* The nth event (from 0); the test fails when there is none. */
struct ts_event ts_nth(struct ts *ts, enum ts_cb cb, size_t n);
struct ts_event ts_last(struct ts *ts, enum ts_cb cb);
void ts_wait_calls(struct ts *ts, enum ts_cb cb, uint64_t nr);
/* The nth call from now (1: the next one) and `times` - 1 after it fail. */
void ts_fail(struct ts *ts, enum ts_cb cb, uint64_t nth, int error, uint64_t times);

/* What the store does by itself in writeback_range. */
ssize_t ts_range(struct ts *ts, struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
		 uint64_t pos, unsigned len, uint64_t end_pos);
struct ts *ts_of(struct iomap_inode *inode);

/* ---- short forms ---- */

/* Write `len` bytes of the pattern at `pos`; all of it. */
void ts_write(struct ts *ts, int64_t pos, size_t len, unsigned seed);
/* iomap_file_buffered_write() under i_rwsem, with the store's callbacks. */
ssize_t ts_buffered_write(struct ts *ts, int64_t pos, const void *buf, size_t len);
/* The file holds the pattern there. */
bool ts_reads(struct ts *ts, int64_t pos, size_t len, unsigned seed);
/* The file holds `value` there. */
bool ts_reads_all(struct ts *ts, int64_t pos, size_t len, int value);
/* Put the pattern (of file position `pos`) on the device at `addr`. */
void ts_dev_fill(struct ts *ts, uint64_t addr, size_t len, int64_t pos, unsigned seed);
bool ts_dev_has(struct ts *ts, uint64_t addr, size_t len, int64_t pos, unsigned seed);
/* The device holds `value` there. */
bool ts_dev_all(struct ts *ts, uint64_t addr, size_t len, int value);
/* Fill the device with what no test writes: what was never written shows. */
#define TS_POISON 0xa5
void ts_poison(struct ts *ts);
/* Drop all clean folios: the next read is a miss. */
void ts_drop(struct ts *ts);
/* The cached folio at `pos`, referenced; the test fails when there is none. */
struct iomap_folio *ts_folio(struct ts *ts, int64_t pos);
/* Flags of the cached folio at `pos`. */
bool ts_dirty(struct ts *ts, int64_t pos);
bool ts_uptodate(struct ts *ts, int64_t pos);
bool ts_under_writeback(struct ts *ts, int64_t pos);
/* is_partially_uptodate of the cached folio at `pos` */
bool ts_blocks_uptodate(struct ts *ts, int64_t pos, size_t from, size_t count);
/* fsync of everything through ts->file */
int ts_fsync(struct ts *ts);

/* ---- callbacks that a test may put into a store ---- */

/* hook.begin: writes to shared extents have their old place as the source, and come to a new one */
int ts_cow_begin(struct ts *ts, int64_t pos, int64_t length, unsigned flags, struct iomap *iomap,
		 struct iomap *srcmap);
/* hook.open: files may be opened for direct I/O */
int ts_allow_direct(struct ts *ts, struct iomap_file *file);
/* Unwritten blocks of [pos, end) have been written. */
void ts_convert(struct ts *ts, int64_t pos, int64_t end);
/* dio_ops.end_io: converts what a write without an error was for */
int ts_dio_end_io(struct iomap_kiocb *iocb, ssize_t size, int error, unsigned flags);
/* i_op.setsize, as a filesystem would: zeros, size and cache, and then the blocks */
int ts_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size);
/* i_op.fallocate, of all modes: what is reserved or zeroed becomes unwritten space */
int ts_fallocate(struct iomap_file *file, int mode, int64_t off, int64_t len);

#endif
