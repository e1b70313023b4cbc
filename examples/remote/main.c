/* SPDX-License-Identifier: MIT */
/*
 * main.c - writes a file at the other end of a socket, loses nothing when writes fail there, and
 * reads it back in a second session.
 *
 *	remote [MIB]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "remote.h"

#define PIECE 65536

static int session(struct iomap_engine *engine, struct remote_server *server,
		   struct remote **remote)
{
	int sockets[2];
	int error;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		return -errno;
	error = remote_server_start(server, sockets[1]);
	if (error)
		return error;
	return remote_open(engine, sockets[0], remote);
}

static void fill(char *piece, int64_t pos)
{
	for (size_t i = 0; i < PIECE; i++)
		piece[i] = (char)((uint64_t)(pos + (int64_t)i) * 2654435761U >> 13);
}

static int write_all(struct iomap_engine *engine, struct remote_server *server, int64_t bytes)
{
	static char piece[PIECE];
	struct remote *remote;
	int error = session(engine, server, &remote), closed;

	if (error)
		return error;
	/* nothing is lost by this: see IOMAP_INODE_RETRY_WRITES */
	__atomic_store_n(&server->failing_nr, 3, __ATOMIC_RELAXED);
	for (int64_t pos = 0; !error && pos < bytes; pos += PIECE) {
		ssize_t n;

		fill(piece, pos);
		n = iomap_write(remote->file, piece, PIECE, pos);
		error = n == PIECE ? 0 : n < 0 ? (int)n : -EIO;
	}
	for (int tries = 0; !error && tries < 10; tries++) {
		int synced = iomap_file_fsync(remote->file, 0);

		if (!synced)
			break;
		printf("fsync: %s\n", strerror(-synced));
		if (tries == 9)
			error = synced;
	}
	closed = remote_close(remote, error);
	remote_server_stop(server, false);
	return error ? error : closed;
}

static int read_all(struct iomap_engine *engine, struct remote_server *server, int64_t bytes)
{
	static char piece[PIECE], want[PIECE];
	struct remote *remote;
	int error = session(engine, server, &remote), closed;

	if (error)
		return error;
	if (iomap_i_size_read(&remote->inode) != bytes)
		error = -EIO;
	for (int64_t pos = 0; !error && pos < bytes; pos += PIECE) {
		fill(want, pos);
		if (iomap_read(remote->file, piece, PIECE, pos) != PIECE ||
		    memcmp(piece, want, PIECE) != 0)
			error = -EIO;
	}
	closed = remote_close(remote, false);
	remote_server_stop(server, false);
	return error ? error : closed;
}

int main(int argc, char **argv)
{
	struct remote_server server = { 0 };
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;
	long mib = argc > 1 ? strtol(argv[1], NULL, 10) : 16;
	int error;

	if (mib < 1 || mib > 4096) {
		fprintf(stderr, "usage: %s [MIB, 1 to 4096]\n", argv[0]);
		return 2;
	}
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 8 << 20;
	error = iomap_engine_create(&opts, &engine);
	if (error) {
		fprintf(stderr, "engine: %s\n", strerror(-error));
		return 1;
	}
	error = write_all(engine, &server, mib << 20);
	if (!error)
		error = read_all(engine, &server, mib << 20);
	if (error)
		fprintf(stderr, "%s\n", strerror(-error));
	else
		printf("%ld MiB written in %lu messages, %lu flushes, and read back\n", mib,
		       (unsigned long)server.writes_nr, (unsigned long)server.flushes_nr);
	remote_server_free(&server);
	if (iomap_engine_destroy(engine))
		return 1;
	return error != 0;
}
