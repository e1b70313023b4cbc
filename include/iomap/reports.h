/* SPDX-License-Identifier: MIT */
/*
 * iomap/reports.h - where the data of an inode is, and where it is not.
 *
 * All of them go over the extent map with IOMAP_REPORT, and hold no folio or internal lock while
 * it runs.  What writers change meanwhile is seen or not.
 */
#ifndef IOMAP_REPORTS_H
#define IOMAP_REPORTS_H

#include <iomap/mapping.h>
#include <iomap/types.h>

struct fiemap;	      /* linux/fiemap.h */
struct fiemap_extent; /* linux/fiemap.h */

#ifdef __cplusplus
extern "C" {
#endif

/**
 * iomap_seek_data - the first data at or behind a position
 * @inode: the inode
 * @pos: bytes, from 0 on
 * @ops: the extent map; called with IOMAP_REPORT
 *
 * Data is what is mapped, inline or reserved for delayed allocation, and, of unwritten space, the
 * blocks that are cached and uptodate.  Any thread; blocks in the extent map, and for folios that
 * are being read.  i_rwsem is usually held, shared; iomap_file_seek() takes it so.  Kernel
 * counterpart: iomap_seek_data.
 *
 * Return: the position; -ENXIO at or behind i_size, for a negative @pos and where there is no
 * more data; -errno of the extent map.
 */
IOMAP_API int64_t iomap_seek_data(struct iomap_inode *inode, int64_t pos,
				  const struct iomap_ops *ops);

/**
 * iomap_seek_hole - the first hole at or behind a position
 *
 * As iomap_seek_data(), the other way round; the end of the file ends in a hole.  Kernel
 * counterpart: iomap_seek_hole.
 *
 * Return: the position, i_size when there is no hole before it; -ENXIO at or behind i_size and for
 * a negative @pos; -errno of the extent map.
 */
IOMAP_API int64_t iomap_seek_hole(struct iomap_inode *inode, int64_t pos,
				  const struct iomap_ops *ops);

/**
 * iomap_file_seek - one of the two, by the inode's own extent map and with its lock
 * @file: open
 * @pos: bytes
 * @whence: SEEK_DATA or SEEK_HOLE of unistd.h
 *
 * The extent map is i_op->report, else read, direct or write.  Takes i_rwsem, shared.  Kernel
 * counterpart: what a filesystem's llseek does.
 *
 * Return: as above; -EINVAL for another @whence or without an extent map; -ESHUTDOWN, -ECHILD.
 */
IOMAP_API int64_t iomap_file_seek(struct iomap_file *file, int64_t pos, int whence);

/*
 * What is to be reported, and room for it (kernel: struct fiemap_extent_info).  Zeroed by the
 * caller, who owns the memory behind fi_extents_start.
 */
struct iomap_fiemap_extent_info {
	unsigned fi_flags;	    /* FIEMAP_FLAG_SYNC */
	unsigned fi_extents_mapped; /* set: how many there are, or found room */
	unsigned fi_extents_max;    /* room; 0: count only */
	struct fiemap_extent *fi_extents_start;
};

/**
 * iomap_fiemap - report extents in the kernel's format
 * @inode: the inode
 * @fi: what, and where to
 * @start: bytes
 * @len: bytes; what ends behind i_maxbytes is cut
 * @ops: the extent map; called with IOMAP_REPORT
 *
 * Every mapping but holes that touches the range is one struct fiemap_extent, whole, as the extent
 * map gives it; FIEMAP_EXTENT_LAST marks the last of the inode.  FIEMAP_FLAG_SYNC writes the range
 * out first.  Any thread; blocks; locks as iomap_seek_data().  Kernel counterpart: iomap_fiemap.
 *
 * Return: 0, also when there was no room for all; -EBADR for other flags, which are then in
 * fi_flags; -EINVAL for a length of 0; -EFBIG for a start behind i_maxbytes; the error of writing
 * out or of the extent map.
 */
IOMAP_API int iomap_fiemap(struct iomap_inode *inode, struct iomap_fiemap_extent_info *fi,
			   uint64_t start, uint64_t len, const struct iomap_ops *ops);

/**
 * iomap_file_fiemap - answer a struct fiemap (kernel: FS_IOC_FIEMAP)
 * @file: open
 * @fiemap: fm_start, fm_length, fm_flags and fm_extent_count are read; fm_mapped_extents,
 *   fm_flags and the fm_extents behind it are written
 *
 * As iomap_fiemap(), by the inode's own extent map, as iomap_file_seek(); takes i_rwsem, shared.
 *
 * Return: as iomap_fiemap(); -EINVAL without an extent map.
 */
IOMAP_API int iomap_file_fiemap(struct iomap_file *file, struct fiemap *fiemap);

/**
 * iomap_bmap - the device block of a block of the inode
 * @mapping: the inode's
 * @block: in units of its block size
 * @ops: the extent map; called with IOMAP_REPORT
 *
 * Writes the inode out first.  Deprecated from the start: it knows one device and no error.  Any
 * thread; blocks.  Kernel counterpart: iomap_bmap.
 *
 * Return: the block, in units of the inode's block size; 0 for what is not mapped, and for errors.
 */
IOMAP_API uint64_t iomap_bmap(struct iomap_address_space *mapping, uint64_t block,
			      const struct iomap_ops *ops)
	__attribute__((deprecated("knows one device and no error; use iomap_fiemap()")));

#ifdef __cplusplus
}
#endif
#endif
