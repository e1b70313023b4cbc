/* SPDX-License-Identifier: MIT */
/*
 * remote.h - a file whose bytes are at the other end of a socket.
 *
 * Threads: any.  A remote belongs to an engine, which outlives it.
 * Errors: negative errno.  When the other side goes away, what waits for it fails with -EIO and so
 * does all that comes later; data that had not been written stays dirty, until it is closed with
 * @discard.
 */
#ifndef REMOTE_H
#define REMOTE_H

#include <iomap/iomap.h>
#include <pthread.h>

/* What goes over the socket, in both directions; bytes follow a write and the answer of a read. */
enum remote_op {
	REMOTE_SIZE,  /* answer: pos is the size of the file */
	REMOTE_READ,  /* [pos, pos + len); what was never written is zero */
	REMOTE_WRITE,
	REMOTE_FLUSH, /* all that was answered is to be kept; pos: the size of the file from now on */
};

struct remote_message {
	uint64_t id; /* of the request, also in its answer */
	uint32_t op;
	int32_t error; /* answer: 0 or negative errno */
	int64_t pos;
	uint64_t len;
};

struct remote_request;

struct remote {
	struct iomap_inode inode;
	struct iomap_file *file;
	int socket;
	pthread_t receiver;
	pthread_mutex_t send_lock; /* one message after the other; before `lock` */
	pthread_mutex_t lock;	   /* of what follows */
	pthread_cond_t answered;
	struct remote_request *first, **last; /* in the order in which they were sent */
	uint64_t last_id;
	bool gone; /* nobody answers any more */
};

/* Open the file at the other end of @socket, which is the remote's from now on, also on an error. */
int remote_open(struct iomap_engine *engine, int socket, struct remote **out);
/*
 * Close it and free it.  Dirty data is written, but not flushed, or with @discard lost.  Return: 0;
 * -EBUSY while it is in use; an error of writing, and it may be called again.
 */
int remote_close(struct remote *remote, bool discard);

/* ---- the other end (server.c): keeps the bytes in memory ---- */

struct remote_server {
	pthread_t thread;
	int socket;
	/* may be looked at between stop and start */
	char *bytes;
	size_t room; /* of bytes */
	int64_t size;
	/* changed atomically: the next so many writes fail; writes wait while held */
	uint32_t failing_nr, held;
	uint64_t writes_nr, flushes_nr;
};

/* Answer what comes from @socket, which it closes in the end, in a thread.  0 or -errno. */
int remote_server_start(struct remote_server *server, int socket);
/* Wait until the client has closed; or @cut it off. */
void remote_server_stop(struct remote_server *server, bool cut);
/* The bytes go. */
void remote_server_free(struct remote_server *server);

/* All of @len bytes; 0 or -errno, -EPIPE at the end. */
int remote_send(int socket, const void *buf, size_t len);
int remote_receive(int socket, void *buf, size_t len);

#endif
