/* SPDX-License-Identifier: MIT */
/* ctest-options: SOURCES iomap/names/runfs.c */
/*
 * names.c - NM01: names/runfs.c, a filesystem written in the kernel's names, is put to work.
 *
 * This file is the glue that the kernel's inode cache and VFS would be, in our names.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "names/runfs.h"
#include "testutil.h"

#define FILE_BYTES (512U << 10)

static int open_file(struct iomap_inode *inode, struct iomap_file *file)
{
	(void)inode;
	iomap_file_set_mode(file, runfs_f_mode);
	return 0;
}

static const struct iomap_inode_ops inode_ops = {
	.open = open_file,
	.commit_metadata = runfs_commit_metadata,
	.setsize = runfs_setsize,
};

struct mount {
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct runfs_info *info;
	struct iomap_file *file;
	struct t_log log;
	uint8_t model[FILE_BYTES], back[FILE_BYTES];
};

static void mount_fs(struct mount *m, const struct iomap_file_operations *fop)
{
	struct iomap_engine_opts opts;
	struct iomap_inode_args args = {
		.size = sizeof(args),
		.a_ops = &runfs_aops,
		.i_fop = fop,
		.i_op = &inode_ops,
		.blkbits = 10,
	};

	memset(m, 0, sizeof(*m));
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	m->engine = t_engine(&opts, &m->log);
	cr_assert_eq(iomap_bdev_open_memory(m->engine, 2 * FILE_BYTES, &m->bdev), 0);
	m->info = runfs_alloc_inode(m->bdev);
	cr_assert_not_null(m->info);
	args.bdev = m->bdev;
	cr_assert_eq(iomap_inode_init(m->engine, runfs_vfs_inode(m->info), &args), 0);
	cr_assert_eq(iomap_file_open(runfs_vfs_inode(m->info), 0, &m->file), 0);
}

static void unmount_fs(struct mount *m)
{
	cr_assert_eq(iomap_file_close(m->file), 0);
	cr_assert_eq(iomap_inode_destroy(runfs_vfs_inode(m->info), IOMAP_DESTROY_WAIT), 0);
	runfs_free_inode(m->info);
	cr_assert_eq(iomap_bdev_close(m->bdev), 0);
	cr_assert_eq(iomap_engine_destroy(m->engine), 0);
}

static void write_both(struct mount *m, size_t pos, size_t len, unsigned seed)
{
	t_fill(m->model + pos, len, (int64_t)pos, seed);
	cr_assert_eq(iomap_write(m->file, m->model + pos, len, (int64_t)pos), (ssize_t)len);
}

static void compare_all(struct mount *m)
{
	int64_t size = iomap_i_size_read(runfs_vfs_inode(m->info));

	memset(m->back, 0xee, sizeof(m->back));
	cr_assert_eq(iomap_read(m->file, m->back, sizeof(m->back), 0), (ssize_t)size);
	cr_assert_eq(memcmp(m->back, m->model, (size_t)size), 0);
}

Test(names, nm01_a_kernel_shaped_filesystem_writes_and_reads)
{
	struct mount *m = malloc(sizeof(*m));
	struct runfs_stats *stats;

	mount_fs(m, &runfs_file_operations);
	stats = runfs_stats(m->info);
	cr_assert(iomap_file_mode(m->file) & IOMAP_FMODE_CAN_ODIRECT);

	/* extents, a hole of blocks between them, an end inside a block */
	write_both(m, 0, 50000, 1);
	write_both(m, 70001, 3, 2);
	write_both(m, 120000, 200007, 3);
	write_both(m, 49000, 30000, 4);
	compare_all(m);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	cr_assert_eq(stats->commits, 1U);
	cr_assert_gt(stats->writeback_ranges, 0U);
	cr_assert_gt(stats->writeback_submits, 0U);
	cr_assert_eq(runfs_nr_runs(m->info) >= 2, true);

	/* from the device */
	cr_assert_gt(runfs_drop_cache(runfs_vfs_inode(m->info)), 0U);
	compare_all(m);
	cr_assert_gt(stats->folio_reads, 0U);
	cr_assert_gt(stats->read_submits, 0U);

	/* parts of blocks, which have to be read first */
	cr_assert_eq(iomap_file_fsync(m->file, 1), 0);
	runfs_drop_cache(runfs_vfs_inode(m->info));
	stats->block_reads = 0;
	write_both(m, 1000, 100, 5);
	write_both(m, 200100, 1, 6);
	cr_assert_geq(stats->block_reads, 3U);
	compare_all(m);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	runfs_drop_cache(runfs_vfs_inode(m->info));
	compare_all(m);

	cr_assert_eq(stats->begins, stats->ends);
	cr_assert_eq(stats->gets, stats->puts);
	cr_assert_gt(stats->valid_checks, 0U);
	cr_assert_eq(t_log_count(&m->log, IOMAP_LOG_ERROR, NULL), 0U);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_work_is_queued)
{
	struct mount *m = malloc(sizeof(*m));

	mount_fs(m, &runfs_file_operations);
	write_both(m, 0, 8192, 1);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	cr_assert(runfs_queue_drop(runfs_vfs_inode(m->info)));
	iomap_flush_work(m->engine, runfs_drop(m->info));
	cr_assert_eq(runfs_stats(m->info)->dropped_later, 2U);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_direct_io_and_truncation)
{
	struct mount *m = malloc(sizeof(*m));
	struct iomap_file *buffered;
	struct iomap_bdev_stats before, after;

	mount_fs(m, &runfs_file_operations);
	buffered = m->file;
	write_both(m, 0, 100000, 1);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	cr_assert_eq(iomap_file_open(runfs_vfs_inode(m->info), IOMAP_O_DIRECT, &m->file), 0);
	compare_all(m);
	cr_assert_eq(iomap_bdev_stats(m->bdev, &before, sizeof(before)), 0);
	t_fill(m->back, 8192, 4096, 2);
	memcpy(m->model + 4096, m->back, 8192);
	cr_assert_eq(iomap_write(m->file, m->model + 4096, 8192, 4096), 8192);
	cr_assert_eq(iomap_bdev_stats(m->bdev, &after, sizeof(after)), 0);
	cr_assert_eq(after.writes_nr, before.writes_nr + ((uintptr_t)m->model % 1024 ? 0 : 1));
	compare_all(m);
	/* not there yet, not aligned: through the cache */
	write_both(m, 200704, 4096, 3);
	write_both(m, 300000, 77, 4);
	compare_all(m);

	cr_assert_eq(iomap_truncate(m->file, 150001), 0);
	cr_assert_eq(iomap_truncate(m->file, 400000), 0);
	memset(m->model + 150001, 0, 250000);
	compare_all(m);
	cr_assert_eq(iomap_truncate(m->file, 50001), 0);
	cr_assert_eq(iomap_truncate(m->file, 60000), 0);
	memset(m->model + 50001, 0, 10000);
	compare_all(m);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	runfs_drop_cache(runfs_vfs_inode(m->info));
	compare_all(m);
	cr_assert_eq(iomap_file_close(m->file), 0);
	m->file = buffered;
	compare_all(m);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_zeroing_and_unsharing)
{
	struct mount *m = malloc(sizeof(*m));

	mount_fs(m, &runfs_file_operations);
	write_both(m, 0, 100000, 1);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	write_both(m, 200000, 50000, 2);
	cr_assert_geq(runfs_nr_extents(m->file), 1);
	cr_assert_eq(runfs_zero(m->file, 3000, 60000), 0);
	cr_assert_eq(runfs_zero(m->file, 90001, 120000), 0);
	memset(m->model + 3000, 0, 60000);
	memset(m->model + 90001, 0, 120000);
	cr_assert_eq(iomap_fallocate(m->file, IOMAP_FALLOC_FL_UNSHARE_RANGE, 0, 250000), 0);
	cr_assert_eq(iomap_fallocate(m->file, 0, 0, 1000), -EOPNOTSUPP);
	compare_all(m);
	cr_assert_eq(iomap_file_fsync(m->file, 0), 0);
	runfs_drop_cache(runfs_vfs_inode(m->info));
	compare_all(m);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_an_error_pointer_ends_the_write)
{
	struct mount *m = malloc(sizeof(*m));
	struct runfs_stats *stats;

	mount_fs(m, &runfs_file_operations);
	stats = runfs_stats(m->info);
	stats->fail_get = ENOSPC;
	cr_assert_eq(iomap_write(m->file, "x", 1, 10), -ENOSPC);
	cr_assert_eq(stats->puts, 0U);
	cr_assert_eq(runfs_nr_runs(m->info), 0);
	cr_assert_eq(stats->punches, 1U);
	cr_assert_eq(iomap_i_size_read(runfs_vfs_inode(m->info)), 0);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_iterators_by_kernel_names)
{
	struct mount *m = malloc(sizeof(*m));
	char buf[16];
	struct iovec iov[] = { { buf, 3 }, { NULL, 0 }, { buf + 3, 9 } };

	mount_fs(m, &runfs_info_operations);
	memset(buf, 'x', sizeof(buf));
	cr_assert_eq(iomap_readv(m->file, iov, 3, 0), 12);
	cr_assert_eq(memcmp(buf, "0 runs\n\0\0\0\0\0xxxx", sizeof(buf)), 0);
	cr_assert_eq(iomap_read(m->file, buf, 4, 2), 4);
	cr_assert_eq(memcmp(buf, "runs", 4), 0);
	cr_assert_eq(iomap_write(m->file, "nonsense", 8, 0), -EINVAL);
	cr_assert_eq(iomap_write(m->file, "reset\n", 6, 0), 6);
	unmount_fs(m);
	free(m);
}

Test(names, nm01_helpers_do_as_the_kernels_do)
{
	cr_assert_eq(runfs_check_helpers(), 0, "runfs.c:%d", runfs_check_helpers());
}
