/* SPDX-License-Identifier: MIT */
/*
 * generated.h - a file of squares that lies nowhere: its bytes are computed when they are read.
 *
 * Line n, from 0, has GENERATED_LINE bytes: n in 10 places, a space, n * n in 20, a newline.
 *
 * The engine needs threads (no IOMAP_ENGINE_NO_THREADS): a reader waits for a worker.
 */
#ifndef GENERATED_H
#define GENERATED_H

#include <iomap/iomap.h>

#define GENERATED_LINE 32
#define GENERATED_LINES_MAX INT64_C(4294967296)

struct generated {
	struct iomap_inode inode;
	struct iomap_file *file;
	int64_t lines;
	/* changed atomically */
	uint64_t batches_nr; /* that workers have been given */
	uint64_t ranges_nr;  /* in them */
};

/*
 * Open a file of @lines lines, 1 to GENERATED_LINES_MAX.  Return: 0; -EINVAL; -ENOMEM; what the
 * library says.
 */
int generated_open(struct iomap_engine *engine, int64_t lines, struct generated **out);
/* Close it and free it; its file must not be in use.  Return: 0 or the first error. */
int generated_close(struct generated *gen);
/* Bytes [pos, pos + len) of the file: what it is made of, without the cache. */
void generated_fill(char *to, size_t len, int64_t pos);

#endif
