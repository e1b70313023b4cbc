/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * bd02_iopoll.c - IOMAP_ENGINE_IOPOLL: devices are asked whether they could be polled, each
 * refusal comes with its reason, and all works as without.
 */
#include <sys/syscall.h>

#include "blktest.h"

struct polled {
	struct iomap_engine *engine;
	struct t_log log;
};

static void polled_start(struct polled *p, const char *backend)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.flags = IOMAP_ENGINE_IOPOLL;
	opts.backend = backend;
	opts.log = t_log_line;
	opts.log_ctx = &p->log;
	t_log_init(&p->log);
	if (iomap_engine_create(&opts, &p->engine) != 0)
		cr_skip_test("%s does not work here", backend);
}

static void says(struct polled *p, const char *text)
{
	struct iomap_feature feature[32];
	int nr = iomap_features(p->engine, feature, sizeof(feature[0]), 32);

	for (int i = 0; i < nr; i++)
		if (!strcmp(feature[i].name, "polled")) {
			cr_assert_eq(feature[i].available, 0);
			cr_assert(strstr(feature[i].detail, text), "%s", feature[i].detail);
			return;
		}
	cr_assert_fail("no such feature");
}

static void use(struct polled *p, const char *path, uint32_t flags)
{
	struct iomap_bdev_opts opts = { .size = sizeof(opts), .flags = flags };
	uint8_t *out = bt_buffer(BT_PAGE), *in = bt_buffer(BT_PAGE);
	struct iomap_bdev *bdev;

	cr_assert_eq(iomap_bdev_open(p->engine, path, &opts, &bdev), 0);
	t_fill(out, BT_PAGE, 0, 9);
	if (!(flags & IOMAP_BDEV_READONLY)) {
		cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_POLLED, 0, out, BT_PAGE), 0);
		cr_assert_eq(bt_io(bdev, IOMAP_REQ_OP_READ | IOMAP_REQ_POLLED, 0, in, BT_PAGE), 0);
		cr_assert_eq(memcmp(in, out, BT_PAGE), 0);
	}
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	free(in);
	free(out);
}

/* Whether it can depends on the machine: then nothing is to be seen here. */
static bool refused(struct polled *p)
{
	return t_log_count(&p->log, IOMAP_LOG_INFO, "cannot be polled") != 0;
}

static void stop(struct polled *p)
{
	cr_assert_eq(iomap_engine_destroy(p->engine), 0);
}

Test(bd02, bd02_a_file_says_why_it_cannot_be_polled)
{
	char *path = t_temp(BT_PAGE);
	struct polled p;

	polled_start(&p, "io_uring");
	says(&p, "to be asked");
	use(&p, path, 0);
	if (refused(&p))
		says(&p, "by interrupt: ");
	else
		says(&p, "1 of 1 devices");
	cr_assert_leq(t_log_count(&p.log, IOMAP_LOG_INFO, "polled"), 1U);
	stop(&p);
	t_temp_free(path);
}

/* A loop device has neither the queues nor the reads. */
Test(bd02, bd02_a_loop_device_says_why_it_cannot_be_polled)
{
	char *path = t_temp(1U << 20), name[64];
	struct polled p;
	int fd;

	if (geteuid() != 0)
		cr_skip_test("needs root for a loop device");
	fd = bt_loop_device(path, name, sizeof(name));
	polled_start(&p, "io_uring");
	use(&p, name, IOMAP_BDEV_READONLY | IOMAP_BDEV_SHARED);
	cr_assert(refused(&p));
	says(&p, "a polled read: Operation not supported; no queue of the device polls");
	stop(&p);
	close(fd);
	t_temp_free(path);
}

static void not_by_ring(const char *backend, bool memory, const char *why)
{
	char *path = memory ? bt_tmpfs_file(BT_PAGE) : t_temp(BT_PAGE);
	struct polled p;

	if (!path)
		cr_skip_test("no file in memory");
	polled_start(&p, backend);
	use(&p, path, memory ? IOMAP_BDEV_BUFFERED : 0);
	cr_assert(refused(&p));
	says(&p, why);
	stop(&p);
	unlink(path);
	free(path);
}

Test(bd02, bd02_other_backends_do_not_poll)
{
	not_by_ring("libaio", false, "its I/O does not go by io_uring");
	not_by_ring("threads", false, "its I/O does not go by io_uring");
}

Test(bd02, bd02_a_file_in_memory_is_not_polled)
{
	not_by_ring("io_uring", true, "its I/O ");
}

Test(bd02, bd02_a_polling_ring_denied_by_seccomp)
{
	char *path = t_temp(BT_PAGE);
	struct polled p;

	polled_start(&p, "io_uring");
	t_deny(SYS_io_uring_setup, EPERM);
	use(&p, path, 0);
	cr_assert(refused(&p));
	says(&p, "io_uring_setup: Operation not permitted");
	stop(&p);
	t_temp_free(path);
}

static bool fail_setup(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	return kind == IOMAP_FAIL_RING_SETUP;
}

Test(bd02, bd02_no_memory_for_a_polling_ring)
{
	char *path = t_temp(BT_PAGE);
	struct polled p;

	polled_start(&p, "io_uring");
	p.engine->env.fail_nth = fail_setup;
	use(&p, path, 0);
	cr_assert(refused(&p));
	says(&p, "io_uring_setup: Cannot allocate memory");
	stop(&p);
	t_temp_free(path);
}

Test(bd02, bd02_nobody_is_asked_without_the_flag)
{
	struct iomap_engine_opts opts;
	char *path = t_temp(BT_PAGE);
	struct polled p;

	iomap_engine_opts_init(&opts);
	p.engine = t_engine(&opts, &p.log);
	use(&p, path, 0);
	cr_assert_not(refused(&p));
	says(&p, "asked with IOMAP_ENGINE_IOPOLL");
	stop(&p);
	t_temp_free(path);
}
