/* SPDX-License-Identifier: MIT */
/*
 * remote.c - an extent store at the other end of a socket: reading and writing back without a
 * device.
 *
 * Where bios go to a device, messages go over the socket here.  The library has two callbacks for
 * each direction, and is told when a range has ended:
 *
 *	read_folio_range	asks for the bytes, and returns
 *	writeback_range		counts the run as being written (iomap_start_folio_write()) and
 *				notes it
 *	writeback_submit	sends what was noted, or, on an error, ends it
 *	the receiver		a thread: for each answer, iomap_finish_folio_read(),
 *				iomap_finish_folio_write() or iomap_fail_folio_write()
 *
 * Life of a request: noted, for a write, in wpc->wb_ctx -> sent, in the remote's list -> answered:
 * the receiver takes it off, ends its range, and frees it; or the connection is gone, and all that
 * are in the list end with an error.  Folios stay locked (a read) or under writeback (a write)
 * until then, and so the inode in use.
 *
 * A write is sent from folio memory; it has stable writes, so nobody changes that meanwhile.  What
 * could not be written stays dirty and is tried again (IOMAP_INODE_RETRY_WRITES): over a network
 * much is well again a moment later.
 *
 * Locks: send_lock, for one message at a time; within it lock, of the list, a leaf.  While there is
 * a connection the receiver never waits for send_lock, or both sides might wait for each other with
 * full sockets.
 */
#include "remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct remote_request {
	struct remote_request *next;
	struct remote_message message; /* of a SIZE or FLUSH, in the end, the answer */
	struct iomap_folio *folio;     /* NULL: somebody waits for the answer */
	size_t off;
	void *buffer; /* where the bytes of a read go that somebody waits for */
	bool done;
};

static struct remote *remote_of(struct iomap_inode *inode)
{
	return inode->i_private;
}

/* ---- requests ---- */

static struct remote_request *request_new(enum remote_op op, int64_t pos, size_t len,
					  struct iomap_folio *folio)
{
	struct remote_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->message.op = op;
	request->message.pos = pos;
	request->message.len = len;
	request->folio = folio;
	request->off = folio ? (size_t)(pos - iomap_folio_pos(folio)) : 0;
	return request;
}

/* It has been answered, or never will be; frees it, unless somebody waits for it. */
static void request_end(struct remote *remote, struct remote_request *request, int error)
{
	struct iomap_inode *inode = &remote->inode;
	size_t len = request->message.len;

	if (!request->folio) {
		pthread_mutex_lock(&remote->lock);
		request->message.error = error;
		request->done = true;
		pthread_cond_broadcast(&remote->answered);
		pthread_mutex_unlock(&remote->lock);
		return;
	}
	if (request->message.op == REMOTE_READ)
		iomap_finish_folio_read(request->folio, request->off, len, error);
	else if (error)
		iomap_fail_folio_write(inode, request->folio, request->off, len, error);
	else
		iomap_finish_folio_write(inode, request->folio, len);
	free(request);
}

/* From here on the receiver may end it at any time; what cannot be sent it ends as well. */
static void request_send(struct remote *remote, struct remote_request *request)
{
	struct remote_message message;
	const void *bytes = NULL;
	size_t len = 0;
	bool gone;

	if (request->message.op == REMOTE_WRITE) {
		bytes = (const char *)iomap_folio_address(request->folio) + request->off;
		len = request->message.len;
	}
	pthread_mutex_lock(&remote->send_lock);
	pthread_mutex_lock(&remote->lock);
	gone = remote->gone;
	if (!gone) {
		request->message.id = ++remote->last_id;
		*remote->last = request;
		remote->last = &request->next;
	}
	message = request->message;
	pthread_mutex_unlock(&remote->lock);
	/* on an error the receiver sees that the other side is gone, and ends what is in the list */
	if (!gone && (remote_send(remote->socket, &message, sizeof(message)) ||
		      (len && remote_send(remote->socket, bytes, len))))
		(void)shutdown(remote->socket, SHUT_RDWR);
	pthread_mutex_unlock(&remote->send_lock);
	if (gone)
		request_end(remote, request, -EIO);
}

/* Ask, and wait for the answer; a read is of @len bytes, to @buffer. */
static int remote_ask(struct remote *remote, enum remote_op op, int64_t *pos, void *buffer,
		      size_t len)
{
	struct remote_request *request = request_new(op, *pos, len, NULL);
	int error;

	if (!request)
		return -ENOMEM;
	request->buffer = buffer;
	request_send(remote, request);
	pthread_mutex_lock(&remote->lock);
	while (!request->done)
		pthread_cond_wait(&remote->answered, &remote->lock);
	pthread_mutex_unlock(&remote->lock);
	error = request->message.error;
	*pos = request->message.pos;
	free(request);
	return error;
}

/* ---- the receiver ---- */

static struct remote_request *list_take(struct remote *remote)
{
	struct remote_request *request;

	pthread_mutex_lock(&remote->lock);
	request = remote->first;
	if (request) {
		remote->first = request->next;
		if (!remote->first)
			remote->last = &remote->first;
	}
	pthread_mutex_unlock(&remote->lock);
	return request;
}

/* The folio is locked, by the read; others may be looking: iomap_folio_write() knows how. */
static int receive_bytes(struct remote *remote, struct remote_request *request)
{
	char piece[IOMAP_PAGE_SIZE];
	size_t done = 0, n;
	int error = 0;

	if (!request->folio)
		return remote_receive(remote->socket, request->buffer, request->message.len);
	for (; !error && done < request->message.len; done += n) {
		n = request->message.len - done;
		n = n < sizeof(piece) ? n : sizeof(piece);
		error = remote_receive(remote->socket, piece, n);
		if (!error)
			iomap_folio_write(request->folio, request->off + done, piece, n);
	}
	return error;
}

static void *receiver_main(void *arg)
{
	struct remote *remote = arg;
	struct remote_request *request;
	struct remote_message answer;

	while (!remote_receive(remote->socket, &answer, sizeof(answer))) {
		int error = answer.error;

		request = list_take(remote);
		/* the answers come in the order of the requests, or something is very wrong */
		if (!request || request->message.id != answer.id) {
			if (request)
				request_end(remote, request, -EIO);
			break;
		}
		if (request->message.op == REMOTE_READ && !error)
			error = receive_bytes(remote, request);
		if (!request->folio)
			request->message.pos = answer.pos;
		request_end(remote, request, error);
	}
	pthread_mutex_lock(&remote->lock);
	remote->gone = true;
	pthread_mutex_unlock(&remote->lock);
	(void)shutdown(remote->socket, SHUT_RDWR);
	/* who is just sending from a folio fails now, and is done with it before that is given back */
	pthread_mutex_lock(&remote->send_lock);
	pthread_mutex_unlock(&remote->send_lock);
	while ((request = list_take(remote)))
		request_end(remote, request, -EIO);
	return NULL;
}

/* ---- reading ---- */

static int remote_read_range(const struct iomap_iter *iter, struct iomap_read_folio_ctx *ctx,
			     size_t len)
{
	struct remote_request *request = request_new(REMOTE_READ, iter->pos, len, ctx->cur_folio);

	if (!request)
		return -ENOMEM;
	request_send(remote_of(iter->inode), request);
	return 0;
}

static const struct iomap_read_ops read_ops = { .read_folio_range = remote_read_range };

/* A block of which a write covers a part: the writer waits for it. */
static int remote_read_for_write(const struct iomap_iter *iter, struct iomap_folio *folio,
				 int64_t pos, size_t len)
{
	size_t off = (size_t)(pos - iomap_folio_pos(folio));
	char block[IOMAP_PAGE_SIZE];
	int error;

	if (len > sizeof(block))
		return -EIO;
	error = remote_ask(remote_of(iter->inode), REMOTE_READ, &pos, block, len);
	if (!error)
		iomap_folio_write(folio, off, block, len);
	return error;
}

static const struct iomap_write_ops write_ops = { .read_folio_range = remote_read_for_write };

/* All of it is there, on no device. */
static int remote_begin(struct iomap_inode *inode, int64_t pos, int64_t length, unsigned flags,
			struct iomap *iomap, struct iomap *srcmap)
{
	(void)inode, (void)pos, (void)length, (void)flags, (void)srcmap;
	iomap->type = IOMAP_MAPPED;
	iomap->length = INT64_MAX;
	iomap->addr = IOMAP_NULL_ADDR;
	return 0;
}

static const struct iomap_ops map_ops = { .iomap_begin = remote_begin };

static int remote_read_folio(struct iomap_file *file, struct iomap_folio *folio)
{
	struct iomap_read_folio_ctx ctx = { .ops = &read_ops, .cur_folio = folio };

	(void)file;
	return iomap_read_folio(&map_ops, &ctx);
}

static void remote_readahead(struct iomap_readahead_control *rac)
{
	struct iomap_read_folio_ctx ctx = { .ops = &read_ops, .rac = rac };

	iomap_readahead(&map_ops, &ctx);
}

/* ---- writing back ---- */

static ssize_t remote_writeback_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
				      uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct remote_request *request = request_new(REMOTE_WRITE, (int64_t)pos, len, folio);

	(void)end_pos;
	if (!request)
		return -ENOMEM;
	wpc->iomap.type = IOMAP_MAPPED;
	iomap_start_folio_write(wpc->inode, folio, len);
	/* the order in which they are sent is no matter */
	request->next = wpc->wb_ctx;
	wpc->wb_ctx = request;
	return len;
}

static int remote_writeback_submit(struct iomap_writepage_ctx *wpc, int error)
{
	struct remote *remote = remote_of(wpc->inode);
	struct remote_request *request = wpc->wb_ctx, *next;

	wpc->wb_ctx = NULL;
	for (; request; request = next) {
		next = request->next;
		request->next = NULL;
		if (error)
			request_end(remote, request, error);
		else
			request_send(remote, request);
	}
	return error;
}

static const struct iomap_writeback_ops writeback_ops = {
	.writeback_range = remote_writeback_range,
	.writeback_submit = remote_writeback_submit,
};

static int remote_writepages(struct iomap_address_space *mapping,
			     struct iomap_writeback_control *wbc)
{
	struct iomap_writepage_ctx wpc = {
		.inode = mapping->host,
		.wbc = wbc,
		.ops = &writeback_ops,
	};

	return iomap_writepages(&wpc);
}

static const struct iomap_address_space_operations a_ops = {
	.read_folio = remote_read_folio,
	.readahead = remote_readahead,
	.writepages = remote_writepages,
};

/* There is no device that the library could flush. */
static int remote_commit(struct iomap_inode *inode, int datasync)
{
	int64_t size = iomap_i_size_read(inode);

	(void)datasync;
	return remote_ask(remote_of(inode), REMOTE_FLUSH, &size, NULL, 0);
}

static const struct iomap_inode_ops inode_ops = {
	.write = &map_ops,
	.write_ops = &write_ops,
	.commit_metadata = remote_commit,
};

/* ---- open and close ---- */

static int remote_start(struct iomap_engine *engine, struct remote *remote)
{
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &a_ops,
		.i_op = &inode_ops,
		.i_private = remote,
		.flags = IOMAP_INODE_RETRY_WRITES,
	};
	int error;

	error = remote_ask(remote, REMOTE_SIZE, &args.i_size, NULL, 0);
	if (error)
		return error;
	error = iomap_inode_init(engine, &remote->inode, &args);
	if (error)
		return error;
	error = iomap_mapping_set_stable_writes(&remote->inode.i_data);
	if (!error)
		error = iomap_file_open(&remote->inode, 0, &remote->file);
	/* nobody has used it: it goes */
	if (error && iomap_inode_destroy(&remote->inode, 0))
		abort();
	return error;
}

/* The inode is gone, or was never there. */
static void remote_end(struct remote *remote)
{
	(void)shutdown(remote->socket, SHUT_RDWR);
	pthread_join(remote->receiver, NULL);
	close(remote->socket);
	pthread_cond_destroy(&remote->answered);
	pthread_mutex_destroy(&remote->lock);
	pthread_mutex_destroy(&remote->send_lock);
	free(remote);
}

int remote_open(struct iomap_engine *engine, int socket, struct remote **out)
{
	struct remote *remote = calloc(1, sizeof(*remote));
	int error = -ENOMEM;

	if (!remote)
		goto out_close;
	remote->socket = socket;
	remote->last = &remote->first;
	pthread_mutex_init(&remote->send_lock, NULL);
	pthread_mutex_init(&remote->lock, NULL);
	pthread_cond_init(&remote->answered, NULL);
	error = -pthread_create(&remote->receiver, NULL, receiver_main, remote);
	if (error)
		goto out_free;
	error = remote_start(engine, remote);
	if (error) {
		remote_end(remote);
		return error;
	}
	*out = remote;
	return 0;

out_free:
	free(remote);
out_close:
	close(socket);
	return error;
}

int remote_close(struct remote *remote, bool discard)
{
	int error = 0;

	if (remote->file)
		error = iomap_file_close(remote->file);
	if (error)
		return error;
	remote->file = NULL;
	error = iomap_inode_destroy(&remote->inode,
				    discard ? IOMAP_DESTROY_DISCARD : IOMAP_DESTROY_WAIT);
	if (!error)
		remote_end(remote);
	return error;
}
