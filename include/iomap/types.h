/* SPDX-License-Identifier: MIT */
/*
 * iomap/types.h - what every other public header needs.
 *
 * Errors are negative errno values everywhere.  A `pos` is a byte in a file, an
 * `addr` a byte on a device, an `index` a page number; a size that is counted in
 * anything but bytes says so in its name.  Ranges are half open, but for the few
 * kernel-named structs whose comment says "inclusive".
 */
#ifndef IOMAP_TYPES_H
#define IOMAP_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
/* A member named `private` cannot be had in C++. */
#define IOMAP_PRIVATE_MEMBER private_
#else
#define IOMAP_PRIVATE_MEMBER private
#endif

#define IOMAP_API __attribute__((visibility("default")))
#define IOMAP_MUST_CHECK __attribute__((warn_unused_result))

#define IOMAP_VERSION_MAJOR 0
#define IOMAP_VERSION_MINOR 1
#define IOMAP_VERSION_PATCH 0

/* The base page of the cache: the smallest folio.  A constant of the library. */
#define IOMAP_PAGE_SHIFT 12
#define IOMAP_PAGE_SIZE ((size_t)1 << IOMAP_PAGE_SHIFT)

/* Unit of iomap_bio.bi_iter.bi_sector and of iomap_ioend.io_sector. */
#define IOMAP_SECTOR_SHIFT 9
#define IOMAP_SECTOR_SIZE ((size_t)1 << IOMAP_SECTOR_SHIFT)

/* "queued; ki_complete will run": the kernel's -EIOCBQUEUED, which libc lacks. */
#define IOMAP_EIOCBQUEUED 529

struct iomap_engine;
struct iomap_bdev;
struct iomap_dax_dev;
struct iomap_bio;
struct iomap_bio_set;
struct iomap_file;
struct iomap_folio;
struct iomap_inode;
struct iomap_address_space;
struct iomap_kiocb;
struct iomap_iov_iter;
struct iomap_iter;

/* Circular doubly linked list, as the kernel's struct list_head. */
struct iomap_list_head {
	struct iomap_list_head *next, *prev;
};

/**
 * iomap_version - version of the library that is loaded
 *
 * Return: a static string such as "0.1.0".  Any context, never fails.
 */
IOMAP_API const char *iomap_version(void);

#ifdef __cplusplus
}
#endif
#endif
