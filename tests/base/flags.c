/* SPDX-License-Identifier: MIT */
/*
 * flags.c - names of flags for logs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "testutil.h"

static void expect(enum iomap_flag_family family, uint64_t flags, const char *text)
{
	char buf[256];

	cr_assert_eq(iomap_format_flags(family, flags, buf, sizeof(buf)), (int)strlen(text));
	cr_assert_str_eq(buf, text);
}

Test(flags, are_written_by_name)
{
	expect(IOMAP_FAMILY_TYPE, IOMAP_HOLE, "HOLE");
	expect(IOMAP_FAMILY_TYPE, IOMAP_INLINE, "INLINE");
	expect(IOMAP_FAMILY_TYPE, 77, "0x4d");
	expect(IOMAP_FAMILY_MAPPING, 0, "0");
	expect(IOMAP_FAMILY_MAPPING, IOMAP_F_NEW | IOMAP_F_STALE, "NEW|STALE");
	expect(IOMAP_FAMILY_MAPPING, IOMAP_F_SHARED | 0x10, "SHARED|0x10");
	expect(IOMAP_FAMILY_OPERATION, IOMAP_WRITE | IOMAP_UNSHARE, "WRITE|UNSHARE");
	expect(IOMAP_FAMILY_IOCB, IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC, "DSYNC|SYNC");
	expect(IOMAP_FAMILY_REQ, IOMAP_REQ_OP_READ, "READ");
	expect(IOMAP_FAMILY_REQ, IOMAP_REQ_OP_WRITE | IOMAP_REQ_FUA, "WRITE|FUA");
	expect(IOMAP_FAMILY_REQ, 0x77 | IOMAP_REQ_META, "0x77|META");
	expect(IOMAP_FAMILY_REQ, 5, "0x5");
	expect(IOMAP_FAMILY_REQ, IOMAP_REQ_OP_DISCARD | IOMAP_REQ_POLLED, "DISCARD|POLLED");
	expect(IOMAP_FAMILY_REQ, IOMAP_REQ_OP_WRITE_ZEROES | IOMAP_REQ_NOWAIT,
	       "WRITE_ZEROES|NOWAIT");
	expect(IOMAP_FAMILY_REQ, IOMAP_REQ_OP_WRITE | IOMAP_REQ_ATOMIC, "WRITE|ATOMIC");
	expect(IOMAP_FAMILY_IOEND, IOMAP_IOEND_UNWRITTEN, "UNWRITTEN");
	expect(IOMAP_FAMILY_OPEN, IOMAP_O_DIRECT | IOMAP_O_APPEND, "DIRECT|APPEND");
	expect(IOMAP_FAMILY_IOCB, IOMAP_IOCB_DSYNC | IOMAP_IOCB_DIRECT, "DSYNC|DIRECT");
	expect(IOMAP_FAMILY_DIO, IOMAP_DIO_BOUNCE | IOMAP_DIO_COW, "BOUNCE|COW");
	expect(IOMAP_FAMILY_PIN, IOMAP_PIN_NOREAD | 0x80, "NOREAD|0x80");
	expect(IOMAP_FAMILY_OPEN, UINT64_MAX << 32, "0xffffffff00000000");
}

Test(flags, are_cut_to_the_buffer_as_by_snprintf)
{
	char buf[8];

	memset(buf, 'x', sizeof(buf));
	cr_assert_eq(iomap_format_flags(IOMAP_FAMILY_OPERATION, IOMAP_OVERWRITE_ONLY, buf, 5), 14);
	cr_assert_eq(memcmp(buf, "OVER\0xxx", 8), 0);
	cr_assert_eq(iomap_format_flags(IOMAP_FAMILY_OPERATION, IOMAP_WRITE, NULL, 0), 5);
}

Test(flags, of_an_unknown_family_are_refused)
{
	char buf[8];

	cr_assert_eq(iomap_format_flags((enum iomap_flag_family)99, 0, buf, sizeof(buf)), -EINVAL);
}
