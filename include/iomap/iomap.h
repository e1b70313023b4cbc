/* SPDX-License-Identifier: MIT */
/*
 * iomap/iomap.h - all of libiomap.
 *
 * A process gets what fs/iomap, the page cache and the block layer are to a kernel
 * filesystem: create an engine, open a device, describe where a file's bytes lie in
 * callbacks, and read and write through a cache in the process's own memory.
 */
#ifndef IOMAP_IOMAP_H
#define IOMAP_IOMAP_H

#include <iomap/bdev.h>
#include <iomap/bio.h>
#include <iomap/buffered.h>
#include <iomap/direct.h>
#include <iomap/engine.h>
#include <iomap/faulty.h>
#include <iomap/file.h>
#include <iomap/flags.h>
#include <iomap/folio.h>
#include <iomap/inode.h>
#include <iomap/lock.h>
#include <iomap/mapping.h>
#include <iomap/reports.h>
#include <iomap/types.h>
#include <iomap/uio.h>
#include <iomap/work.h>
#include <iomap/writeback.h>
#include <iomap/writelog.h>

#endif
