/* SPDX-License-Identifier: MIT */
/*
 * xs_format.c - images that are not as they were written: all is found, nothing crashes.
 */
#include "xst.h"

#define DEV_BYTES (UINT64_C(160) << 10)

static struct iomap_engine *engine;
static struct iomap_bdev *bdev;
static uint8_t block[XS_BLOCK_BYTES] __attribute__((aligned(4096)));

static void begin(void)
{
	static char data[9000];
	struct xs_store *store;

	memset(data, 'd', sizeof(data));
	engine = xst_engine(1 << 20);
	XST_OK(iomap_bdev_open_memory(engine, DEV_BYTES, &bdev));
	XST_OK(xs_mkfs(bdev, 0, XST_ID));
	store = xst_open(engine, bdev);
	XST_OK(xst_put(store, "one", data, 9000));
	XST_OK(xst_put(store, "two", data, 100));
	XST_OK(xst_put(store, "empty", data, 0));
	XST_OK(xs_unlink(store, "two"));
	XST_OK(xst_put(store, "three", data, 5000));
	XST_OK(xs_close(store));
	xst_check(bdev);
}

static void end(void)
{
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
}

static void read_block(uint64_t at)
{
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_READ, at, block, 1));
}

static void write_block(uint64_t at)
{
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_WRITE, at, block, 1));
}

static int check(void)
{
	struct xs_why why;
	struct xs_counts counts;

	return xs_check(bdev, &counts, &why);
}

static int open_and_close(void)
{
	struct xs_why why;
	struct xs_store *store;
	int error = xs_open(engine, bdev, true, &store, &why);

	if (!error)
		XST_OK(xs_close(store));
	return error;
}

static void flip_block(uint64_t at)
{
	read_block(at);
	for (unsigned bit = 0; bit < XS_BLOCK_BYTES * 8; bit++) {
		block[bit / 8] ^= (uint8_t)(1U << bit % 8);
		write_block(at);
		cr_assert_neq(check(), 0, "block %llu, bit %u", (unsigned long long)at, bit);
		/* the slack of a super block is not looked at by opening, and harms nothing */
		if (bit % 61 == 0 && (at >= XS_SUPER_SLOTS || bit < XS_SUPER_BYTES * 8))
			cr_assert_neq(open_and_close(), 0);
		block[bit / 8] ^= (uint8_t)(1U << bit % 8);
	}
	write_block(at);
	cr_assert_eq(check(), 0);
}

Test(xs_format, each_flipped_bit_of_the_metadata_is_found)
{
	struct xs_image image;
	struct xs_why why;

	begin();
	XST_OK(xs_image_load(bdev, &image, NULL, NULL, &why));
	cr_assert_gt(image.meta.nr, 0U);
	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++)
		flip_block(slot);
	for (size_t i = 0; i < image.meta.nr; i++)
		flip_block(image.meta.v[i].start);
	xs_image_free(&image);
	end();
}

/* Checksums that are right prove nothing to a decoder. */
Test(xs_format, metadata_that_lies_under_a_right_checksum_does_no_harm)
{
	struct xs_image image;
	uint64_t random = 7;
	struct xs_why why;
	unsigned refused = 0;

	begin();
	XST_OK(xs_image_load(bdev, &image, NULL, NULL, &why));
	cr_assert_eq(image.meta.nr, 1U);
	for (unsigned round = 0; round < 20000; round++) {
		struct xs_super super = image.super;

		memset(block, 0, sizeof(block));
		memcpy(block + XS_META_HEADER_BYTES, image.payload, image.super.meta_bytes);
		for (uint64_t n = xst_random(&random) % 4 + 1; n; n--)
			block[XS_META_HEADER_BYTES + xst_random(&random) % super.meta_bytes] =
				(uint8_t)(xst_random(&random) >> (xst_random(&random) % 56));
		if (xst_random(&random) % 4 == 0)
			super.meta_bytes = xst_random(&random) % XS_META_PAYLOAD_BYTES;
		if (xst_random(&random) % 8 == 0)
			super.objects_nr = xst_random(&random) % 100;
		xs_meta_seal(block, &super, super.meta_first, 0, (uint32_t)super.meta_bytes);
		write_block(super.meta_first);
		xs_super_encode(&super, block);
		write_block(image.slot);
		refused += check() != 0;
		open_and_close();
	}
	cr_assert_gt(refused, 1000U);
	xs_image_free(&image);
	end();
}

Test(xs_format, unknown_bits_versions_and_sizes_are_refused)
{
	struct xs_super super;
	struct xs_why why;

	begin();
	read_block(0);
	XST_OK(xs_super_decode(block, &super, &why));
	super.incompat = 4;
	xs_super_encode(&super, block);
	write_block(0);
	cr_assert_eq(open_and_close(), XS_EUNKNOWN);
	cr_assert_eq(check(), XS_EUNKNOWN);
	super.incompat = 0;
	super.blocks = DEV_BYTES / XS_BLOCK_BYTES + 1;
	xs_super_encode(&super, block);
	write_block(0);
	write_block(1);
	cr_assert_eq(open_and_close(), XS_EDAMAGED);
	memset(block, 0, sizeof(block));
	write_block(0);
	write_block(1);
	cr_assert_eq(open_and_close(), XS_ENOTSTORE);
	end();
}

Test(xs_format, a_device_that_is_too_small_is_refused)
{
	struct iomap_bdev *small;
	struct xs_why why;
	struct xs_counts counts;

	begin();
	XST_OK(iomap_bdev_open_memory(engine, 4096, &small));
	cr_assert_eq(xs_mkfs(small, 0, 1), -ENOSPC);
	cr_assert_eq(xs_check(small, &counts, &why), XS_ENOTSTORE);
	XST_OK(iomap_bdev_close(small));
	end();
}
