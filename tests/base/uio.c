/* SPDX-License-Identifier: MIT */
/*
 * uio.c - iterators over caller memory.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "testutil.h"

#define SEGS 6U

/* Segments of 0, 5, 0, 0, 7 and 1 bytes. */
struct vec {
	char a[5], b[7], c[1];
	struct iovec iov[SEGS];
};

static void vec_init(struct vec *v)
{
	memset(v, '.', sizeof(*v));
	v->iov[0] = (struct iovec){ NULL, 0 };
	v->iov[1] = (struct iovec){ v->a, sizeof(v->a) };
	v->iov[2] = (struct iovec){ v->a, 0 };
	v->iov[3] = (struct iovec){ NULL, 0 };
	v->iov[4] = (struct iovec){ v->b, sizeof(v->b) };
	v->iov[5] = (struct iovec){ v->c, sizeof(v->c) };
}

Test(uio, copies_over_segments_and_stops_at_the_end)
{
	struct iomap_iov_iter iter;
	struct vec v;
	char out[20];

	vec_init(&v);
	iomap_iov_iter_init(&iter, IOMAP_ITER_DEST, v.iov, SEGS, SIZE_MAX);
	cr_assert_eq(iomap_iov_iter_count(&iter), 13U);
	cr_assert_eq(iomap_copy_to_iter("abc", 3, &iter), 3U);
	cr_assert_eq(iomap_copy_to_iter("defghij", 7, &iter), 7U);
	cr_assert_eq(iomap_iov_iter_zero(1, &iter), 1U);
	cr_assert_eq(iomap_copy_to_iter("kLMNOP", 6, &iter), 2U);
	cr_assert_eq(iomap_iov_iter_count(&iter), 0U);
	cr_assert_eq(iomap_copy_to_iter("x", 1, &iter), 0U);
	cr_assert_eq(memcmp(v.a, "abcde", 5), 0);
	cr_assert_eq(memcmp(v.b, "fghij\0k", 7), 0);
	cr_assert_eq(v.c[0], 'L');

	iomap_iov_iter_init(&iter, IOMAP_ITER_SOURCE, v.iov, SEGS, 11);
	cr_assert_eq(iomap_copy_from_iter(out, sizeof(out), &iter), 11U);
	cr_assert_eq(memcmp(out, "abcdefghij\0", 11), 0);
}

Test(uio, goes_back_over_any_number_of_segments)
{
	struct vec v;

	vec_init(&v);
	memcpy(v.a, "abcde", 5);
	memcpy(v.b, "fghijkl", 7);
	v.c[0] = 'm';
	for (size_t there = 0; there <= 13; there++)
		for (size_t back = 0; back <= there; back++) {
			struct iomap_iov_iter iter;
			char out[13];

			iomap_iov_iter_init(&iter, IOMAP_ITER_SOURCE, v.iov, SEGS, 13);
			iomap_iov_iter_advance(&iter, there);
			iomap_iov_iter_revert(&iter, back);
			cr_assert_eq(iomap_iov_iter_count(&iter), 13 - there + back);
			cr_assert_eq(iomap_copy_from_iter(out, sizeof(out), &iter),
				     13 - there + back);
			cr_assert_eq(memcmp(out, &"abcdefghijklm"[there - back], 13 - there + back),
				     0);
		}
}

Test(uio, is_bounded_by_its_count)
{
	struct iomap_iov_iter iter;
	struct vec v;
	char buf[8] = "12345678";

	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_DEST, buf, sizeof(buf));
	iomap_iov_iter_truncate(&iter, 100);
	cr_assert_eq(iomap_iov_iter_count(&iter), 8U);
	iomap_iov_iter_truncate(&iter, 4);
	cr_assert_eq(iomap_iov_iter_zero(100, &iter), 4U);
	cr_assert_eq(memcmp(buf,
			    "\0\0\0\0"
			    "5678",
			    8),
		     0);
	iomap_iov_iter_revert(&iter, 3);
	iomap_iov_iter_advance(&iter, 100);
	cr_assert_eq(iomap_iov_iter_count(&iter), 0U);

	/* lengths whose sum does not fit */
	vec_init(&v);
	v.iov[0].iov_len = SIZE_MAX - 1;
	v.iov[1].iov_len = SIZE_MAX - 1;
	iomap_iov_iter_init(&iter, IOMAP_ITER_DEST, v.iov, 2, SIZE_MAX);
	cr_assert_eq(iomap_iov_iter_count(&iter), SIZE_MAX);

	iomap_iov_iter_init(&iter, IOMAP_ITER_DEST, NULL, 0, 10);
	cr_assert_eq(iomap_iov_iter_count(&iter), 0U);
	cr_assert_eq(iomap_copy_to_iter("x", 1, &iter), 0U);
}

Test(uio, kiocb_takes_the_modes_of_its_file_over)
{
	struct iomap_engine_opts opts;
	static const struct iomap_address_space_operations a_ops;
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &a_ops };
	const struct {
		unsigned open;
		uint32_t ki;
	} modes[] = {
		{ 0, 0 },
		{ IOMAP_O_APPEND, IOMAP_IOCB_APPEND },
		{ IOMAP_O_DSYNC, IOMAP_IOCB_DSYNC },
		{ IOMAP_O_SYNC, IOMAP_IOCB_DSYNC | IOMAP_IOCB_SYNC },
	};
	struct iomap_engine *engine;
	struct iomap_inode inode;
	struct iomap_file *file;
	struct iomap_kiocb iocb;
	struct t_log log;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	engine = t_engine(&opts, &log);
	cr_assert_eq(iomap_inode_init(engine, &inode, &args), 0);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		memset(&iocb, 0xff, sizeof(iocb));
		cr_assert_eq(iomap_file_open(&inode, modes[i].open, &file), 0);
		iomap_kiocb_init(&iocb, file, 77);
		cr_assert_eq(iocb.ki_filp, file);
		cr_assert_eq(iocb.ki_pos, 77);
		cr_assert_eq(iocb.ki_flags, modes[i].ki);
		cr_assert_null(iocb.ki_complete);
		cr_assert_eq(iomap_file_close(file), 0);
	}
	cr_assert_eq(iomap_inode_destroy(&inode, 0), 0);
	cr_assert_eq(iomap_engine_destroy(engine), 0);
}

Test(uio, alignment_is_that_of_all_segments_left)
{
	static _Alignas(4096) char mem[16384];
	struct iovec iov[] = { { mem, 4096 }, { NULL, 0 }, { mem + 8192, 512 }, { mem + 1, 1 } };
	struct iomap_iov_iter iter;

	iomap_iov_iter_init(&iter, IOMAP_ITER_DEST, iov, 3, 4096 + 512);
	cr_assert_eq(iomap_iov_iter_alignment(&iter) & 4095, 512U);
	iomap_iov_iter_truncate(&iter, 4096);
	cr_assert_eq(iomap_iov_iter_alignment(&iter) & 4095, 0U);
	iomap_iov_iter_init(&iter, IOMAP_ITER_DEST, iov, 4, 4096 + 512 + 1);
	iomap_iov_iter_advance(&iter, 4096 + 256);
	cr_assert_eq(iomap_iov_iter_alignment(&iter) & 511, 257U);
	iomap_iov_iter_ubuf(&iter, IOMAP_ITER_SOURCE, mem + 24, 4096);
	cr_assert_eq(iomap_iov_iter_alignment(&iter) & 4095, 24U);
	iomap_iov_iter_advance(&iter, 4096);
	cr_assert_eq(iomap_iov_iter_alignment(&iter), 0U);
}
