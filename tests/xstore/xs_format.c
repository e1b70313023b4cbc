/* SPDX-License-Identifier: MIT */
/*
 * xs_format.c - images that are not as they were written: all is found, nothing crashes.
 *
 * The image has a tree of two levels.  A forgery changes a node or the super block and then
 * makes all checksums right, up to the super block: what is left to find it is what the
 * loader knows of numbers, orders and counts.
 */
#include "xst.h"

#include <xxhash.h>

#include "testutil.h"

#define DEV_BYTES (UINT64_C(192) << 10)
#define DEV_BLOCKS (DEV_BYTES / XS_BLOCK_BYTES)
#define LEAVES 2U

static struct iomap_engine *engine;
static struct iomap_bdev *bdev;
static uint8_t block[XS_BLOCK_BYTES] __attribute__((aligned(4096)));

static void begin(void)
{
	static char data[9000];
	char name[XS_NAME_MAX + 1];
	struct xs_object *object;
	struct xs_store *store;

	memset(data, 'd', sizeof(data));
	engine = xst_engine(1 << 20);
	XST_OK(iomap_bdev_open_memory(engine, DEV_BYTES, &bdev));
	XST_OK(xs_mkfs(bdev, 0, XST_ID));
	store = xst_open(engine, bdev);
	for (int i = 0; i < 21; i++) {
		snprintf(name, sizeof(name), "%0200d", i);
		XST_OK(xst_put(store, name, data, i < 4 ? 9000 : i < 8 ? 100 : 0));
		if (i)
			continue;
		XST_OK(xs_lookup(store, name, &object));
		XST_OK(xst_write(object, data, 100, 65536));
		XST_OK(xst_fsync(object));
		XST_OK(xs_put(object));
	}
	XST_OK(xs_unlink(store, name));
	XST_OK(xs_close(store));
	xst_check(bdev);
}

static void end(void)
{
	XST_OK(iomap_bdev_close(bdev));
	XST_OK(iomap_engine_destroy(engine));
}

static void read_block(uint64_t at, uint8_t *to)
{
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_READ, at, to, 1));
}

static void write_block(uint64_t at, uint8_t *from)
{
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_WRITE, at, from, 1));
}

static struct xs_why why;

static int check(void)
{
	struct xs_counts counts;

	return xs_check(bdev, &counts, &why);
}

static int open_and_close(void)
{
	struct xs_store *store;
	int error = xs_open(engine, bdev, true, &store, &why);

	if (!error)
		XST_OK(xs_close(store));
	return error;
}

/* ---- flipped bits ---- */

static void flip_block(uint64_t at)
{
	read_block(at, block);
	for (unsigned bit = 0; bit < XS_BLOCK_BYTES * 8; bit++) {
		block[bit / 8] ^= (uint8_t)(1U << bit % 8);
		write_block(at, block);
		cr_assert_neq(check(), 0, "block %llu, bit %u", (unsigned long long)at, bit);
		/* the slack of a super block is not looked at by opening, and harms nothing */
		if (at >= XS_SUPER_SLOTS || bit < XS_SUPER_BYTES * 8)
			cr_assert_neq(open_and_close(), 0);
		block[bit / 8] ^= (uint8_t)(1U << bit % 8);
	}
	write_block(at, block);
	cr_assert_eq(check(), 0);
}

Test(xs_format, each_flipped_bit_of_the_metadata_is_found)
{
	struct xs_image image;
	uint64_t nodes = 0;

	begin();
	XST_OK(xs_image_load(bdev, &image, NULL, NULL, &why));
	cr_assert_eq(image.super.levels_nr, 2U);
	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++)
		flip_block(slot);
	for (unsigned n = 0; n < 2; n++) {
		for (size_t i = 0; i < image.tree.levels[n].nr; i++, nodes++)
			flip_block(image.tree.levels[n].v[i]->ref.block);
	}
	cr_assert_eq(nodes, image.super.nodes_nr);
	/* all that is not free: the super blocks, the nodes, what objects have */
	cr_assert_eq(DEV_BLOCKS - image.space.free_nr, XS_SUPER_SLOTS + nodes + image.data_nr);
	xs_image_free(&image);
	end();
}

/* ---- forgeries ---- */

struct node {
	uint8_t raw[XS_BLOCK_BYTES] __attribute__((aligned(4096)));
	struct xs_node_head head;
	uint64_t self;
};

/* What is on the device, to be changed and written back. */
static struct {
	struct xs_super super;
	unsigned slot;
	struct node root, leaves[LEAVES];
	struct xs_child refs[LEAVES];
} forged, genuine;

static uint64_t number(const uint8_t *from, size_t bytes)
{
	uint64_t value = 0;

	for (size_t i = bytes; i-- > 0;)
		value = value << 8 | from[i];
	return value;
}

static void set_number(uint8_t *to, size_t bytes, uint64_t value)
{
	for (size_t i = 0; i < bytes; i++, value >>= 8)
		to[i] = (uint8_t)value;
}

static void get_node(uint64_t at, struct node *node)
{
	read_block(at, node->raw);
	node->self = at;
	node->head = (struct xs_node_head){
		.level = (uint32_t)number(node->raw + 4, 2),
		.items_nr = (uint32_t)number(node->raw + 6, 2),
		.generation = number(node->raw + 8, 8),
		.bytes = (uint32_t)number(node->raw + 24, 4),
	};
}

static void begin_forging(void)
{
	struct xs_image image;

	begin();
	XST_OK(xs_image_load(bdev, &image, NULL, NULL, &why));
	cr_assert_eq(image.super.levels_nr, 2U);
	cr_assert_eq(image.tree.levels[0].nr, LEAVES);
	genuine.super = image.super;
	genuine.slot = image.slot;
	get_node(image.super.root, &genuine.root);
	for (unsigned i = 0; i < LEAVES; i++) {
		genuine.refs[i] = image.tree.levels[0].v[i]->ref;
		get_node(genuine.refs[i].block, &genuine.leaves[i]);
	}
	xs_image_free(&image);
	forged = genuine;
}

/* Make the checksums right and write it all; back to the genuine ones for the next. */
static void write_forgery(bool refs_too)
{
	struct xs_cursor to = { forged.root.raw + XS_NODE_HEADER_BYTES, XS_NODE_PAYLOAD_BYTES };

	for (unsigned i = 0; i < LEAVES; i++) {
		forged.refs[i].checksum = xs_node_seal(forged.leaves[i].raw, &forged.leaves[i].head,
						       forged.leaves[i].self, forged.super.id);
		if (refs_too)
			xs_child_encode(&to, &forged.refs[i]);
		write_block(forged.leaves[i].self, forged.leaves[i].raw);
	}
	forged.super.root_checksum =
		xs_node_seal(forged.root.raw, &forged.root.head, forged.root.self, forged.super.id);
	write_block(forged.root.self, forged.root.raw);
	xs_super_encode(&forged.super, block);
	write_block(forged.slot, block);
	forged = genuine;
}

static void expect(int error, const char *text)
{
	write_forgery(true);
	cr_assert_eq(check(), error, "%s: found %s", text, why.text);
	cr_assert(strstr(why.text, text), "'%s', not '%s'", why.text, text);
	cr_assert_eq(open_and_close(), error);
	/* and the forger's tools forge nothing by themselves */
	write_forgery(true);
	cr_assert_eq(check(), 0, "%s", why.text);
}

/* The @n-th item of a leaf, header and value. */
static uint8_t *item_of(struct node *leaf, unsigned n)
{
	uint8_t *at = leaf->raw + XS_NODE_HEADER_BYTES;

	while (n--)
		at += XS_ITEM_BYTES + number(at + 16, 4);
	return at;
}

Test(xs_format, counts_of_the_super_block_that_are_wrong_are_found)
{
	begin_forging();
	forged.super.objects_nr++;
	expect(XS_EDAMAGED, "objects, not");
	forged.super.nodes_nr++;
	expect(XS_EDAMAGED, "less metadata");
	forged.super.nodes_nr--;
	expect(XS_EDAMAGED, "more metadata");
	forged.super.levels_nr++;
	expect(XS_EDAMAGED, "not what was last written");
	forged.super.levels_nr = 0;
	expect(XS_EDAMAGED, "impossible amount");
	forged.super.levels_nr = XS_LEVELS_MAX + 1;
	expect(XS_EDAMAGED, "impossible amount");
	forged.super.nodes_nr = UINT64_MAX;
	expect(XS_EDAMAGED, "impossible amount");
	forged.super.objects_nr = UINT64_MAX;
	expect(XS_EDAMAGED, "impossible amount");
	forged.super.root = DEV_BLOCKS;
	expect(XS_EDAMAGED, "outside the store");
	forged.super.root = 1;
	expect(XS_EDAMAGED, "outside the store");
	forged.super.root_generation--;
	expect(XS_EDAMAGED, "not what was last written");
	forged.super.next_id = 20;
	expect(XS_EDAMAGED, "impossible id");
	forged.super.blocks = DEV_BLOCKS + 1;
	expect(XS_EDAMAGED, "cut off");
	forged.super.blocks = DEV_BLOCKS - 1;
	expect(XS_EDAMAGED, "of two stores");
	forged.super.blocks = 3;
	expect(XS_EDAMAGED, "impossible size");
	forged.super.generation = 0;
	expect(XS_EDAMAGED, "generation 0");
	end();
}

Test(xs_format, nodes_that_lead_astray_are_found)
{
	begin_forging();
	forged.refs[1].block = forged.root.self;
	expect(XS_EDAMAGED, "used twice");
	forged.refs[1].block = forged.refs[0].block;
	expect(XS_EDAMAGED, "used twice");
	forged.refs[1].block = 0;
	expect(XS_EDAMAGED, "outside the store");
	forged.refs[1].block = DEV_BLOCKS;
	expect(XS_EDAMAGED, "outside the store");
	forged.refs[1].generation++;
	expect(XS_EDAMAGED, "newer than what names it");
	forged.refs[0].generation--;
	expect(XS_EDAMAGED, "not what was last written");
	forged.refs[0].low.id = 1;
	expect(XS_EDAMAGED, "out of order");
	forged.refs[1].low = forged.refs[0].low;
	expect(XS_EDAMAGED, "out of order");
	/* the key that leaf 1 begins with would be leaf 0's, and the other way round */
	forged.refs[1].low.id += 1;
	expect(XS_EDAMAGED, "out of order");
	forged.refs[1].low.id -= 1;
	expect(XS_EDAMAGED, "out of order");
	forged.leaves[0].head.level = 1;
	expect(XS_EDAMAGED, "not what was last written");
	forged.root.head.level = 2;
	expect(XS_EDAMAGED, "not what was last written");
	forged.root.head.items_nr++;
	expect(XS_EDAMAGED, "ends within an item");
	forged.root.head.items_nr--;
	expect(XS_EDAMAGED, "bytes behind");
	forged.leaves[1].head.items_nr++;
	expect(XS_EDAMAGED, "ends within an item");
	forged.leaves[1].head.items_nr--;
	expect(XS_EDAMAGED, "bytes behind");
	forged.leaves[1].head.items_nr = 0;
	expect(XS_EDAMAGED, "header that cannot be");
	forged.leaves[1].head.bytes = XS_BLOCK_BYTES;
	expect(XS_EDAMAGED, "header that cannot be");
	forged.leaves[1].head.bytes++;
	expect(XS_EDAMAGED, "bytes behind");
	forged.leaves[1].raw[XS_BLOCK_BYTES - 1] = 1;
	expect(XS_EDAMAGED, "header that cannot be");
	forged.root.head.generation++;
	forged.super.root_generation++;
	expect(XS_EDAMAGED, "newer than the super block");
	/* a good node of another place: written astray */
	memcpy(forged.leaves[1].raw, forged.leaves[0].raw, XS_BLOCK_BYTES);
	forged.leaves[1].head = forged.leaves[0].head;
	forged.leaves[1].head.generation = forged.refs[1].generation;
	expect(XS_EDAMAGED, "out of order");
	end();
}

/* A node that stays as it was, though the one above says that it was written: a lost write. */
Test(xs_format, a_lost_or_misdirected_write_of_a_node_is_found)
{
	static uint8_t good[XS_BLOCK_BYTES] __attribute__((aligned(4096)));
	struct xs_store *store;
	struct xs_image image;
	uint64_t victim;
	uint8_t *before;

	begin();
	before = aligned_alloc(4096, DEV_BYTES);
	XST_OK(xs_block_io(bdev, IOMAP_REQ_OP_READ, 0, before, DEV_BLOCKS));
	store = xst_open(engine, bdev);
	XST_OK(xst_put(store, "new", "text", 4));
	XST_OK(xs_close(store));
	XST_OK(xs_image_load(bdev, &image, NULL, NULL, &why));
	victim = image.tree.levels[0].v[image.tree.levels[0].nr - 1]->ref.block;
	read_block(victim, good);
	memcpy(block, before + victim * XS_BLOCK_BYTES, XS_BLOCK_BYTES);
	write_block(victim, block);
	cr_assert_eq(check(), XS_EDAMAGED);
	cr_assert_eq(open_and_close(), XS_EDAMAGED);
	/* the other leaf, which is as good as ever */
	read_block(image.tree.levels[0].v[0]->ref.block, block);
	write_block(victim, block);
	cr_assert_eq(check(), XS_EDAMAGED);
	cr_assert(strstr(why.text, "not what was last written"), "%s", why.text);
	cr_assert_eq(open_and_close(), XS_EDAMAGED);
	write_block(victim, good);
	cr_assert_eq(check(), 0);
	xs_image_free(&image);
	free(before);
	end();
}

Test(xs_format, items_that_cannot_be_are_found)
{
	uint8_t *object, *extent;

	begin_forging();
	/* items 0 to 2 are the first object and its extents, 3 and 4 the second and its one */
	extent = item_of(&forged.leaves[0], 1);
	object = item_of(&forged.leaves[0], 3);
	cr_assert_eq(number(extent + 8, 8), XS_AT_EXTENT);
	cr_assert_eq(number(item_of(&forged.leaves[0], 2) + 8, 8), XS_AT_EXTENT + 16);
	cr_assert_eq(number(object + 8, 8), XS_AT_OBJECT);

	set_number(extent + 20, 8, DEV_BLOCKS);
	expect(XS_EDAMAGED, "outside the store");
	set_number(extent + 20, 8, 1);
	expect(XS_EDAMAGED, "outside the store");
	set_number(extent + 20, 8, UINT64_MAX);
	expect(XS_EDAMAGED, "outside the store");
	set_number(extent + 28, 4, UINT32_MAX);
	expect(XS_EDAMAGED, "outside the store");
	set_number(extent + 28, 4, 0);
	expect(XS_EDAMAGED, "cannot be");
	set_number(extent + 32, 4, 2);
	expect(XS_EDAMAGED, "cannot be");
	set_number(extent + 8, 8, XS_AT_EXTENT + XS_FILE_BLOCKS_MAX + 1);
	expect(XS_EDAMAGED, "cannot be");
	set_number(extent + 16, 4, 15);
	expect(XS_EDAMAGED, "cannot be");
	set_number(extent + 16, 4, UINT32_MAX);
	expect(XS_EDAMAGED, "ends within an item");
	set_number(extent + 8, 8, UINT64_C(3) << XS_AT_SHIFT);
	expect(XS_EDAMAGED, "kind that there is not");
	set_number(item_of(&forged.leaves[0], 2), 8, 2);
	expect(XS_EDAMAGED, "extent of no object");
	set_number(extent + 20, 8, number(item_of(&forged.leaves[0], 4) + 20, 8));
	expect(XS_EDAMAGED, "used twice");
	set_number(extent + 20, 8, forged.root.self);
	expect(XS_EDAMAGED, "used twice");
	set_number(item_of(&forged.leaves[0], 2) + 8, 8, XS_AT_EXTENT + 1);
	expect(XS_EDAMAGED, "overlap");
	set_number(item_of(&forged.leaves[0], 2) + 8, 8, XS_AT_EXTENT);
	expect(XS_EDAMAGED, "out of order");

	set_number(object, 8, 1);
	expect(XS_EDAMAGED, "out of order");
	set_number(item_of(&forged.leaves[0], 0), 8, 0);
	expect(XS_EDAMAGED, "impossible id");
	set_number(object + 20, 8, XS_FILE_BYTES_MAX + 1);
	expect(XS_EDAMAGED, "impossible size");
	object[28] = '\n';
	expect(XS_EDAMAGED, "cannot be one");
	object[28] = '\0';
	expect(XS_EDAMAGED, "cannot be one");
	memcpy(object + 28, item_of(&forged.leaves[0], 0) + 28, 200);
	expect(XS_EDAMAGED, "two objects of one name");
	end();
}

/* ---- anything at all, under right checksums ---- */

static void corrupt(uint8_t *from, size_t bytes, uint64_t *random)
{
	for (uint64_t n = xst_random(random) % 4 + 1; n; n--)
		from[xst_random(random) % bytes] =
			(uint8_t)(xst_random(random) >> (xst_random(random) % 56));
}

/* Numbers are where sizes and offsets are: small ones, large ones, one beside the right one. */
static uint64_t near(uint64_t value, uint64_t *random)
{
	switch (xst_random(random) % 4) {
	case 0:
		return value + xst_random(random) % 5 - 2;
	case 1:
		return xst_random(random) % 64;
	case 2:
		return UINT64_MAX - xst_random(random) % 64;
	default:
		return xst_random(random) >> (xst_random(random) % 64);
	}
}

static void forge_at_random(uint64_t *random)
{
	struct node *leaf = &forged.leaves[xst_random(random) % LEAVES];
	struct xs_super *super = &forged.super;
	uint64_t *const numbers[] = {
		&super->generation,	 &super->blocks,     &super->root,   &super->nodes_nr,
		&super->root_generation, &super->objects_nr, &super->next_id
	};
	uint64_t *value = numbers[xst_random(random) % 7];

	switch (xst_random(random) % 5) {
	case 0:
		*value = near(*value, random);
		break;
	case 1:
		leaf->head.items_nr = (uint32_t)near(leaf->head.items_nr, random);
		break;
	case 2:
		leaf->head.bytes = (uint32_t)near(leaf->head.bytes, random);
		break;
	case 3:
		corrupt(forged.root.raw + XS_NODE_HEADER_BYTES, forged.root.head.bytes, random);
		break;
	default:
		corrupt(leaf->raw + XS_NODE_HEADER_BYTES, leaf->head.bytes, random);
	}
}

Test(xs_format, metadata_that_lies_under_a_right_checksum_does_no_harm)
{
	unsigned refused = 0, opened = 0;
	uint64_t random;

	begin_forging();
	random = t_seed();
	for (unsigned round = 0; round < 20000; round++) {
		bool root_too = xst_random(&random) % 2;
		int error;

		forge_at_random(&random);
		/* what was changed in the root stays, or its items are made right for the leaves */
		write_forgery(root_too);
		error = check();
		refused += error != 0;
		cr_assert_eq(open_and_close(), error, "check says %d", error);
		opened += !error;
	}
	cr_assert_gt(refused, 1000U);
	cr_assert_gt(opened, 10U);
	write_forgery(true);
	cr_assert_eq(check(), 0);
	end();
}

/* ---- what is not ours ---- */

/* Another version, with a right checksum. */
static void set_version(unsigned slot, uint32_t version)
{
	read_block(slot, block);
	set_number(block + 8, 4, version);
	/* nothing is behind it */
	set_number(block + 504, 8, XXH64(block + 512, 0, XXH64(block, 504, 0)));
	write_block(slot, block);
}

Test(xs_format, unknown_versions_bits_and_things_are_refused_each_with_its_line)
{
	begin_forging();
	forged.super.incompat = 4;
	xs_super_encode(&forged.super, block);
	write_block(forged.slot, block);
	cr_assert_eq(open_and_close(), XS_EUNKNOWN);
	cr_assert_str_eq(why.text, forged.slot ? "super block 1: unknown features: 0x4" :
						 "super block 0: unknown features: 0x4");
	cr_assert_eq(check(), XS_EUNKNOWN);
	forged = genuine;
	write_forgery(true);
	for (unsigned slot = 0; slot < XS_SUPER_SLOTS; slot++) {
		set_version(slot, 2);
		cr_assert_eq(open_and_close(), XS_EUNKNOWN, "%s", why.text);
		cr_assert(strstr(why.text, "format version 2 is not known"), "%s", why.text);
		cr_assert_eq(check(), XS_EUNKNOWN);
		set_version(slot, 1);
		cr_assert_eq(check(), 0);
	}
	memset(block, 0, sizeof(block));
	write_block(0, block);
	cr_assert_eq(open_and_close(), XS_EDAMAGED);
	write_block(1, block);
	cr_assert_eq(open_and_close(), XS_ENOTSTORE);
	cr_assert_eq(check(), XS_ENOTSTORE);
	end();
}

Test(xs_format, a_device_that_is_too_small_is_refused)
{
	struct iomap_bdev *small;
	struct xs_counts counts;

	begin();
	XST_OK(iomap_bdev_open_memory(engine, 4096, &small));
	cr_assert_eq(xs_mkfs(small, 0, 1), -ENOSPC);
	cr_assert_eq(xs_check(small, &counts, &why), XS_ENOTSTORE);
	XST_OK(iomap_bdev_close(small));
	end();
}
