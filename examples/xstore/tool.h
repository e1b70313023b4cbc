/* SPDX-License-Identifier: MIT */
/*
 * tool.h - what the files of the xstore program share.
 */
#ifndef XSTORE_TOOL_H
#define XSTORE_TOOL_H

#include <sysexits.h>

#include "store.h"

/* The command line. */
struct request {
	const char *path;
	const char *name; /* or NULL */
	const char *arg;  /* FILE or SIZE, or NULL */
	uint64_t size;	  /* --size, 0: not given */
	uint64_t cache_bytes;
	const char *backend;
	bool buffered, force;
};

/* A store in use. */
struct session {
	const struct request *request;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store; /* NULL for commands that work on the device */
};

/* One line on standard error.  Return: @status. */
__attribute__((format(printf, 2, 3))) int complain(int status, const char *format, ...);
/* The same about an error of the store; @why may be NULL. */
int complain_error(const char *what, int error, const struct xs_why *why);
/* A name or path as it can be printed: control characters become '?'. */
const char *printable(const char *text);

/* tool_data.c.  Return: an exit status. */
int tool_put(struct session *session);
int tool_get(struct session *session);

#endif
