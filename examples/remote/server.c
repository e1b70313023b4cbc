/* SPDX-License-Identifier: MIT */
/*
 * server.c - the other end of a remote file, for the example: a thread with the bytes in memory.
 *
 * It answers in the order in which it is asked.  A real one would be another process on another
 * machine, and keep what was flushed through a loss of power.
 *
 * Locks: none; `bytes` belongs to the thread while it runs.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "remote.h"

int remote_send(int socket, const void *buf, size_t len)
{
	const char *from = buf;

	while (len) {
		ssize_t n = send(socket, from, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

int remote_receive(int socket, void *buf, size_t len)
{
	char *to = buf;

	while (len) {
		ssize_t n = recv(socket, to, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		to += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Room for @end bytes, what is new zero. */
static int server_grow(struct remote_server *server, size_t end)
{
	size_t room = server->room ? server->room : 65536;
	char *bytes;

	while (room < end)
		room *= 2;
	if (room == server->room)
		return 0;
	bytes = realloc(server->bytes, room);
	if (!bytes)
		return -ENOMEM;
	memset(bytes + server->room, 0, room - server->room);
	server->bytes = bytes;
	server->room = room;
	return 0;
}

static bool server_fails(struct remote_server *server)
{
	uint32_t nr = __atomic_load_n(&server->failing_nr, __ATOMIC_RELAXED);

	while (nr && !__atomic_compare_exchange_n(&server->failing_nr, &nr, nr - 1, false,
						  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return nr;
}

/* The bytes of a write have to be taken off the socket in any case. */
static int server_write(struct remote_server *server, struct remote_message *message)
{
	size_t end = (size_t)message->pos + message->len;
	char *copy;
	int error;

	error = server_grow(server, end);
	copy = error ? NULL : malloc(message->len);
	if (!copy)
		return -ENOMEM;
	error = remote_receive(server->socket, copy, message->len);
	while (!error && __atomic_load_n(&server->held, __ATOMIC_ACQUIRE))
		sched_yield();
	if (!error && server_fails(server))
		message->error = -ENOSPC;
	else if (!error)
		memcpy(server->bytes + message->pos, copy, message->len);
	free(copy);
	message->len = 0;
	__atomic_fetch_add(&server->writes_nr, 1, __ATOMIC_RELAXED);
	return error;
}

/* An error ends the connection. */
static int server_answer(struct remote_server *server, struct remote_message *message)
{
	bool reads = message->op == REMOTE_READ;
	int error = 0;

	switch (message->op) {
	case REMOTE_SIZE:
		message->pos = server->size;
		break;
	case REMOTE_READ:
		error = server_grow(server, (size_t)message->pos + message->len);
		break;
	case REMOTE_WRITE:
		error = server_write(server, message);
		break;
	case REMOTE_FLUSH:
		server->size = message->pos;
		__atomic_fetch_add(&server->flushes_nr, 1, __ATOMIC_RELAXED);
		break;
	default:
		return -EPROTO;
	}
	if (!error)
		error = remote_send(server->socket, message, sizeof(*message));
	if (!error && reads)
		error = remote_send(server->socket, server->bytes + message->pos, message->len);
	return error;
}

static void *server_main(void *arg)
{
	struct remote_server *server = arg;
	struct remote_message message;

	while (!remote_receive(server->socket, &message, sizeof(message)) &&
	       !server_answer(server, &message))
		;
	/* the client is told, whoever still has the descriptor */
	(void)shutdown(server->socket, SHUT_RDWR);
	return NULL;
}

int remote_server_start(struct remote_server *server, int socket)
{
	server->socket = socket;
	return -pthread_create(&server->thread, NULL, server_main, server);
}

void remote_server_stop(struct remote_server *server, bool cut)
{
	if (cut)
		(void)shutdown(server->socket, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->socket);
}

void remote_server_free(struct remote_server *server)
{
	free(server->bytes);
	memset(server, 0, sizeof(*server));
}
