/* SPDX-License-Identifier: MIT */
/*
 * testpiece.h - the smallest filesystem: an inode is one piece of its device.
 *
 * Nothing is allocated, and nothing fails by itself.  For tests of files that lie on a real
 * device, or whose bytes are to be found on it; a map that changes is teststore.h's.
 *
 * The inode's i_private is its struct tp, which the caller owns and nobody changes.
 */
#ifndef TESTPIECE_H
#define TESTPIECE_H

#include "testutil.h"

/* Bytes [offset, offset + length) of the inode are at `addr`; before them is a hole. */
struct tp {
	int64_t offset;
	uint64_t length, addr;
};

extern const struct iomap_ops tp_ops;
extern const struct iomap_address_space_operations tp_aops;
/* write, and open which allows direct I/O */
extern const struct iomap_inode_ops tp_inode_ops;

#endif
