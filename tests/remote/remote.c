/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * remote.c - WB10: the example store that writes back over a socket, in process.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "remote.h"
#include "testutil.h"

#define KIB 1024
#define MIB (1024 * 1024)

struct rig {
	struct t_log log;
	struct iomap_engine *engine;
	struct remote_server server;
	struct remote *remote;
};

static void rig_session(struct rig *rig)
{
	int sockets[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	cr_assert_eq(remote_server_start(&rig->server, sockets[1]), 0);
	cr_assert_eq(remote_open(rig->engine, sockets[0], &rig->remote), 0);
}

static void rig_open(struct rig *rig, unsigned flags, uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;

	memset(rig, 0, sizeof(*rig));
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 8;
	opts.flags = flags;
	opts.flush_interval_ms = 50;
	rig->engine = t_engine(&opts, &rig->log);
	rig_session(rig);
}

static void rig_close(struct rig *rig)
{
	cr_assert_eq(remote_close(rig->remote, false), 0);
	remote_server_stop(&rig->server, false);
	remote_server_free(&rig->server);
	cr_assert_eq(iomap_engine_destroy(rig->engine), 0);
}

static void write_at(struct rig *rig, int64_t pos, size_t len, unsigned seed)
{
	char *buf = malloc(len);

	t_fill(buf, len, pos, seed);
	t_must(iomap_write(rig->remote->file, buf, len, pos) == (ssize_t)len);
	free(buf);
}

static bool reads(struct rig *rig, int64_t pos, size_t len, unsigned seed)
{
	char *buf = malloc(len);
	bool same;

	t_must(iomap_read(rig->remote->file, buf, len, pos) == (ssize_t)len);
	same = t_mismatch(buf, len, pos, seed) < 0;
	free(buf);
	return same;
}

static const unsigned kinds[] = { 0, IOMAP_ENGINE_NO_THREADS };

Test(remote, wb10_what_was_synced_is_there_in_the_next_session)
{
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;

		rig_open(&rig, kinds[i], 4 * MIB);
		write_at(&rig, 0, 300 * KIB + 77, 1);
		write_at(&rig, 100, 3000, 2);
		cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), 0);
		cr_assert_eq(rig.server.size, 300 * KIB + 77);
		cr_assert_eq(rig.server.flushes_nr, 1U);
		cr_assert_eq(remote_close(rig.remote, false), 0);
		remote_server_stop(&rig.server, false);
		rig_session(&rig);
		cr_assert_eq(iomap_i_size_read(&rig.remote->inode), 300 * KIB + 77);
		cr_assert(reads(&rig, 0, 100, 1));
		cr_assert(reads(&rig, 100, 3000, 2));
		cr_assert(reads(&rig, 3100, 300 * KIB + 77 - 3100, 1));
		/* a part of a block that is not cached */
		iomap_engine_drop_cache(rig.engine);
		write_at(&rig, 200 * KIB + 10, 20, 3);
		cr_assert(reads(&rig, 200 * KIB, 10, 1));
		cr_assert(reads(&rig, 200 * KIB + 10, 20, 3));
		cr_assert(reads(&rig, 200 * KIB + 30, 5000, 1));
		rig_close(&rig);
	}
}

Test(remote, wb10_more_than_the_cache_holds_is_written_out)
{
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;

		rig_open(&rig, kinds[i], MIB);
		for (int64_t pos = 0; pos < 8 * MIB; pos += 64 * KIB)
			write_at(&rig, pos, 64 * KIB, 1);
		for (int64_t pos = 0; pos < 8 * MIB; pos += 64 * KIB)
			cr_assert(reads(&rig, pos, 64 * KIB, 1));
		cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), 0);
		cr_assert_lt(t_mismatch(rig.server.bytes, 8 * MIB, 0, 1), 0);
		rig_close(&rig);
	}
}

static long fsync_task(void *arg)
{
	struct rig *rig = arg;

	return iomap_file_fsync(rig->remote->file, 0);
}

Test(remote, wb10_the_transport_completes_by_itself_and_fsync_waits_for_it)
{
	for (unsigned i = 0; i < 2; i++) {
		struct iomap_engine_stats stats;
		struct t_task task;
		struct rig rig;

		rig_open(&rig, kinds[i], 4 * MIB);
		__atomic_store_n(&rig.server.held, 1, __ATOMIC_RELEASE);
		write_at(&rig, 0, 64 * KIB, 1);
		t_start(&task, fsync_task, &rig);
		do
			t_must(!iomap_engine_stats(rig.engine, &stats, sizeof(stats)));
		while (stats.writeback_bytes < 64 * KIB);
		cr_assert(!atomic_load(&task.done));
		cr_assert_eq(__atomic_load_n(&rig.server.flushes_nr, __ATOMIC_RELAXED), 0U);
		cr_assert(reads(&rig, 0, 64 * KIB, 1), "readers do not wait");
		__atomic_store_n(&rig.server.held, 0, __ATOMIC_RELEASE);
		cr_assert_eq(t_join(&task), 0);
		cr_assert_eq(rig.server.flushes_nr, 1U);
		cr_assert_lt(t_mismatch(rig.server.bytes, 64 * KIB, 0, 1), 0);
		rig_close(&rig);
	}
}

Test(remote, wb10_what_the_other_side_refuses_is_told_and_kept)
{
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;

		rig_open(&rig, kinds[i], 4 * MIB);
		write_at(&rig, 0, 64 * KIB, 1);
		__atomic_store_n(&rig.server.failing_nr, 2, __ATOMIC_RELAXED);
		cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), -ENOSPC);
		iomap_engine_drop_cache(rig.engine);
		cr_assert(reads(&rig, 0, 64 * KIB, 1));
		/* the flusher may have met one of the failures */
		if (iomap_file_fsync(rig.remote->file, 0))
			cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), 0);
		cr_assert_lt(t_mismatch(rig.server.bytes, 64 * KIB, 0, 1), 0);
		rig_close(&rig);
	}
}

Test(remote, wb10_a_connection_that_breaks_hangs_nobody)
{
	for (unsigned i = 0; i < 2; i++) {
		struct rig rig;
		char byte = 1;

		rig_open(&rig, kinds[i], MIB);
		write_at(&rig, 0, 64 * KIB, 1);
		remote_server_stop(&rig.server, true);
		cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), -EIO);
		cr_assert(reads(&rig, 0, 64 * KIB, 1), "it is cached, and dirty");
		cr_assert_eq(iomap_write(rig.remote->file, &byte, 1, 0), 1);
		cr_assert_eq(remote_close(rig.remote, false), -EIO);
		cr_assert_eq(remote_close(rig.remote, true), 0);
		remote_server_free(&rig.server);
		cr_assert_eq(iomap_engine_destroy(rig.engine), 0);
	}
}

static long write_and_sync(void *arg)
{
	struct rig *rig = arg;
	struct t_rand r = { .state = t_tick() };

	for (unsigned i = 0; i < 100; i++) {
		int64_t pos = (int64_t)t_below(&r, 2 * MIB);

		write_at(rig, pos, 1 + t_below(&r, 32 * KIB), 1);
		if (i % 10 == 0)
			t_must(iomap_file_fsync(rig->remote->file, 0) == 0);
	}
	return 0;
}

Test(remote, wb10_threads_write_and_sync_at_the_same_time)
{
	for (unsigned i = 0; i < 2; i++) {
		struct t_task task[3];
		struct rig rig;

		rig_open(&rig, kinds[i], MIB);
		for (int64_t pos = 0; pos < 2 * MIB + 32 * KIB; pos += 32 * KIB)
			write_at(&rig, pos, 32 * KIB, 1);
		for (unsigned n = 0; n < 3; n++)
			t_start(&task[n], write_and_sync, &rig);
		for (unsigned n = 0; n < 3; n++)
			cr_assert_eq(t_join(&task[n]), 0);
		for (int64_t pos = 0; pos < 2 * MIB; pos += 64 * KIB)
			cr_assert(reads(&rig, pos, 64 * KIB, 1));
		cr_assert_eq(iomap_file_fsync(rig.remote->file, 0), 0);
		cr_assert_lt(t_mismatch(rig.server.bytes, 2 * MIB, 0, 1), 0);
		rig_close(&rig);
	}
}
