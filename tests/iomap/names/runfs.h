/* SPDX-License-Identifier: MIT */
/*
 * runfs.h - what the test sees of runfs.c, in the library's names.
 */
#ifndef RUNFS_H
#define RUNFS_H

#include <stdbool.h>
#include <stdint.h>

struct iomap_bdev;
struct iomap_file;
struct iomap_inode;

/* How often runfs was called, and what it is to refuse. */
struct runfs_stats {
	uint64_t begins, ends;
	uint64_t gets, puts;
	uint64_t valid_checks;
	uint64_t block_reads, folio_reads, read_submits;
	uint64_t writeback_ranges, writeback_submits;
	uint64_t commits;
	uint64_t punches;
	uint64_t dropped_later; /* pages, by a work */
	int fail_get; /* errno that the next get_folio returns, once */
};

struct runfs_info;
extern const struct iomap_address_space_operations runfs_aops;
extern const struct iomap_file_operations runfs_file_operations;
extern const struct iomap_file_operations runfs_info_operations;
extern const unsigned runfs_f_mode;

struct runfs_info *runfs_alloc_inode(struct iomap_bdev *bdev);
/* The inode has been destroyed. */
void runfs_free_inode(struct runfs_info *info);
struct iomap_inode *runfs_vfs_inode(struct runfs_info *info);
struct runfs_stats *runfs_stats(struct runfs_info *info);
int runfs_commit_metadata(struct iomap_inode *inode, int datasync);
int runfs_setsize(struct iomap_inode *inode, int64_t old_size, int64_t new_size);
int runfs_nr_extents(struct iomap_file *file);
int runfs_zero(struct iomap_file *file, int64_t offset, int64_t len);
/* Pages dropped from the cache. */
unsigned long runfs_drop_cache(struct iomap_inode *inode);
/* Have a worker do it.  False: one is about to. */
bool runfs_queue_drop(struct iomap_inode *inode);
struct iomap_work *runfs_drop(struct runfs_info *info);
/* Extents of the file; -1 when the list of them is not in order. */
int runfs_nr_runs(struct runfs_info *info);
/* 0, or the line on which a list, error pointer or size helper did not do as it should. */
int runfs_check_helpers(void);

#endif
