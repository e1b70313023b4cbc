/* SPDX-License-Identifier: MIT */
/* ctest-options: STATIC_INTERNAL */
/*
 * index.c - the radix tree and the arena below the public API, against plain models.
 */
#include <criterion/criterion.h>

#include <iomap/iomap.h>

#include "cache/internal.h"
#include "testutil.h"

#define PAGES 800 /* keys that the model knows; half of them far apart */

static int no_read(struct iomap_file *file, struct iomap_folio *folio)
{
	(void)file;
	iomap_folio_unlock(folio);
	return -EIO;
}
static const struct iomap_address_space_operations aops = { .read_folio = no_read };

struct fixture {
	struct iomap_engine *engine;
	struct iomap_inode inode;
};

static void open_fixture(struct fixture *f, uint64_t cache_bytes)
{
	struct iomap_engine_opts opts;
	struct iomap_inode_args args = { .size = sizeof(args), .a_ops = &aops };

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	cr_assert_eq(iomap_engine_create(&opts, &f->engine), 0);
	cr_assert_eq(iomap_inode_init(f->engine, &f->inode, &args), 0);
}

static void close_fixture(struct fixture *f)
{
	cr_assert_eq(iomap_inode_destroy(&f->inode, IOMAP_DESTROY_DISCARD), 0);
	cr_assert_eq(iomap_engine_destroy(f->engine), 0);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Spread the keys so that trees of every height come about. */
static uint64_t page_of(unsigned key)
{
	return key < PAGES / 2 ? key : ((uint64_t)(key - PAGES / 2 + 1) << 40) + 77;
}

/* First key at or after @from that @has, or PAGES. */
static unsigned model_next(const bool *has, unsigned from)
{
	while (from < PAGES && !has[from])
		from++;
	return from;
}

Test(index, insert_erase_and_tags_agree_with_a_model)
{
	static struct iomap_folio *folio[PAGES];
	static bool present[PAGES], tagged[PAGES];
	struct fixture f;
	uint64_t seed = 88172645463325252ULL;
	struct iomap_address_space *mapping = &f.inode.i_data;

	open_fixture(&f, 32 << 20);
	for (int step = 0; step < 60000; step++) {
		unsigned key = (unsigned)(next_random(&seed) % PAGES);
		unsigned what = (unsigned)(next_random(&seed) % 8);

		if (what < 3 && !present[key]) {
			cr_assert_eq(iomap__filemap_add(mapping, page_of(key), false, &folio[key]),
				     0);
			present[key] = true;
		} else if (what < 5 && present[key]) {
			struct iomap_folio *again;

			cr_assert_eq(iomap__filemap_add(mapping, page_of(key), false, &again),
				     -EEXIST);
			iomap__filemap_remove(mapping, folio[key]);
			iomap_folio_unlock(folio[key]);
			iomap_folio_put(folio[key]);
			present[key] = tagged[key] = false;
		} else if (what == 5 && present[key]) {
			iomap__tree_lock(mapping);
			iomap__index_set_tag(mapping, page_of(key), IOMAP__TAG_DIRTY);
			iomap__tree_unlock(mapping);
			tagged[key] = true;
		} else if (what == 6 && present[key]) {
			iomap__tree_lock(mapping);
			iomap__index_clear_tag(mapping, page_of(key), IOMAP__TAG_DIRTY);
			iomap__tree_unlock(mapping);
			tagged[key] = false;
		} else if (what == 7) {
			struct iomap_folio *found[3];
			const bool *set = step & 1 ? tagged : present;
			uint64_t at = page_of(key);
			unsigned nr = iomap__filemap_get_tagged(
				mapping, &at, UINT64_MAX >> 13,
				step & 1 ? IOMAP__TAG_DIRTY : IOMAP__TAGS, found, 3);
			unsigned want = model_next(set, key);

			for (unsigned i = 0; i < nr; i++, want = model_next(set, want + 1)) {
				cr_assert_lt(want, PAGES);
				cr_assert_eq(found[i], folio[want]);
				iomap_folio_put(found[i]);
			}
			cr_assert(nr == 3 || want == PAGES, "a walk missed key %u", want);
		}
		struct iomap_folio *got = iomap__filemap_get(mapping, page_of(key));

		cr_assert_eq(got, present[key] ? folio[key] : NULL, "key %u", key);
		if (got)
			iomap_folio_put(got);
	}
	for (unsigned key = 0; key < PAGES; key++)
		if (present[key]) {
			iomap__filemap_remove(mapping, folio[key]);
			iomap_folio_unlock(folio[key]);
			iomap_folio_put(folio[key]);
		}
	cr_assert_eq(mapping->tree_root, 0, "the empty tree has no node");
	cr_assert_eq(mapping->nrpages, 0);
	close_fixture(&f);
}

/* ---- folios of all orders ---- */

#define SPAN 8192U /* pages; and as many far away, where the tree is high */
#define FAR ((uint64_t)1 << 30)

struct orders {
	struct fixture f;
	struct iomap_address_space *mapping;
	struct iomap_folio *at[2 * SPAN]; /* who holds a page */
	bool tagged[2 * SPAN];		  /* by first page */
	uint64_t seed;
};

static uint64_t span_page(unsigned key)
{
	return key < SPAN ? key : FAR + (key - SPAN);
}

static unsigned span_key(uint64_t page)
{
	return (unsigned)(page < SPAN ? page : page - FAR + SPAN);
}

static void orders_add(struct orders *o, unsigned key, unsigned order)
{
	unsigned first = key & ~((1U << order) - 1), nr = 1U << order;
	struct iomap_folio *folio = iomap__arena_alloc(o->f.engine->cache, order);
	bool busy = false;
	int err;

	if (!folio)
		return;
	for (unsigned i = first; i < first + nr; i++)
		busy |= o->at[i] != NULL;
	iomap__folio_set_place(folio, span_page(first), order);
	iomap_folio_lock(folio);
	iomap_folio_get(folio);
	err = iomap__index_insert(o->mapping, folio);
	cr_assert_eq(err, busy ? -EEXIST : 0, "order %u at %u", order, first);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	if (busy) {
		iomap_folio_put(folio);
		return;
	}
	for (unsigned i = first; i < first + nr; i++)
		o->at[i] = folio;
}

static void orders_remove(struct orders *o, struct iomap_folio *folio)
{
	unsigned first = span_key(iomap_folio_index(folio));
	unsigned nr = (unsigned)(iomap_folio_size(folio) >> IOMAP_PAGE_SHIFT);

	iomap_folio_get(folio);
	iomap_folio_lock(folio);
	iomap__filemap_remove(o->mapping, folio);
	iomap_folio_unlock(folio);
	iomap_folio_put(folio);
	for (unsigned i = first; i < first + nr; i++)
		o->at[i] = NULL;
	o->tagged[first] = false;
}

/* The folio that a walk from @key on has to find first. */
static struct iomap_folio *orders_next(const struct orders *o, unsigned *key, bool tagged)
{
	while (*key < 2 * SPAN) {
		struct iomap_folio *folio = o->at[*key];
		unsigned first = folio ? span_key(iomap_folio_index(folio)) : 0;

		if (folio && (!tagged || o->tagged[first])) {
			*key = first + (unsigned)(iomap_folio_size(folio) >> IOMAP_PAGE_SHIFT);
			return folio;
		}
		(*key)++;
	}
	return NULL;
}

static void orders_walk(struct orders *o, unsigned key, bool tagged)
{
	struct iomap_folio *found[5];
	uint64_t at = span_page(key);
	unsigned nr = iomap__filemap_get_tagged(o->mapping, &at, UINT64_MAX >> 13,
						tagged ? IOMAP__TAG_DIRTY : IOMAP__TAGS, found, 5);

	for (unsigned i = 0; i < nr; i++) {
		cr_assert_eq(found[i], orders_next(o, &key, tagged));
		iomap_folio_put(found[i]);
	}
	cr_assert(nr == 5 || !orders_next(o, &key, tagged), "a walk missed a folio");
}

static void orders_tag(struct orders *o, struct iomap_folio *folio, bool set)
{
	unsigned first = span_key(iomap_folio_index(folio));

	iomap__tree_lock(o->mapping);
	if (set)
		iomap__index_set_tag(o->mapping, iomap_folio_index(folio), IOMAP__TAG_DIRTY);
	else
		iomap__index_clear_tag(o->mapping, iomap_folio_index(folio), IOMAP__TAG_DIRTY);
	iomap__tree_unlock(o->mapping);
	o->tagged[first] = set;
}

Test(index, fs05_folios_of_all_orders_agree_with_a_model)
{
	static struct orders o;

	o.seed = t_seed() | 1;
	open_fixture(&o.f, 64 << 20);
	o.mapping = &o.f.inode.i_data;
	o.mapping->max_order = 9;
	for (int step = 0; step < 15000; step++) {
		unsigned key = (unsigned)(next_random(&o.seed) % (2 * SPAN)), end;
		unsigned what = (unsigned)(next_random(&o.seed) % 8);
		struct iomap_folio *folio = o.at[key], *got;

		if (what < 4 && !folio)
			orders_add(&o, key, (unsigned)(next_random(&o.seed) % 10));
		else if (what == 4)
			orders_add(&o, key, (unsigned)(next_random(&o.seed) % 10));
		else if (what == 5 && folio)
			orders_remove(&o, folio);
		else if (what == 6 && folio)
			orders_tag(&o, folio, next_random(&o.seed) % 3);
		else if (what == 7)
			orders_walk(&o, key, step & 1);
		got = iomap__filemap_get(o.mapping, span_page(key));
		cr_assert_eq(got, o.at[key], "page %u", key);
		if (got)
			iomap_folio_put(got);
		/* of a page that is not cached a hint may be anything */
		if (o.at[key])
			cr_assert_eq(iomap__entry_folio(iomap__index_hint(o.mapping, span_page(key))),
				     o.at[key], "hint of page %u", key);
		for (end = key; end < (key < SPAN ? SPAN : 2 * SPAN) && !o.at[end];)
			end++;
		if (end > key)
			cr_assert_eq(span_key(iomap__index_next(o.mapping, span_page(key),
								span_page(end - 1) + 1)),
				     span_key(span_page(end - 1) + 1));
		else
			cr_assert_eq(iomap__index_gap(o.mapping, span_page(key), span_page(key) + 1),
				     span_page(key) + 1);
	}
	for (unsigned key = 0; key < 2 * SPAN; key++)
		if (o.at[key])
			orders_remove(&o, o.at[key]);
	cr_assert_eq(o.mapping->tree_root, 0, "the empty tree has no node");
	cr_assert_eq(o.mapping->nrpages, 0);
	close_fixture(&o.f);
}

/* Levels made on the way to a far page must not stay behind, empty. */
Test(index, a_far_page_alone_leaves_no_node)
{
	struct fixture f;
	struct iomap_folio *folio;
	struct iomap_address_space *mapping = &f.inode.i_data;

	open_fixture(&f, 4 << 20);
	for (unsigned shift = 0; shift < 51; shift++) {
		cr_assert_eq(iomap__filemap_add(mapping, 1ULL << shift, false, &folio), 0);
		cr_assert_eq(iomap__index_lookup(mapping, 1ULL << shift), folio);
		iomap__filemap_remove(mapping, folio);
		iomap_folio_unlock(folio);
		iomap_folio_put(folio);
		cr_assert_eq(mapping->tree_root, 0, "page 2^%u", shift);
	}
	close_fixture(&f);
}

Test(index, towrite_takes_what_is_dirty_in_the_range)
{
	struct fixture f;
	struct iomap_folio *folio[8], *found[8];
	struct iomap_address_space *mapping = &f.inode.i_data;
	uint64_t at = 0;

	open_fixture(&f, 4 << 20);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(iomap__filemap_add(mapping, i * 100, false, &folio[i]), 0);
	iomap__tree_lock(mapping);
	for (unsigned i = 0; i < 8; i += 2)
		iomap__index_set_tag(mapping, i * 100, IOMAP__TAG_DIRTY);
	iomap__tree_unlock(mapping);
	iomap__filemap_tag_towrite(mapping, 100, 600);
	cr_assert_eq(iomap__filemap_get_tagged(mapping, &at, 10000, IOMAP__TAG_TOWRITE, found, 8),
		     2);
	cr_assert_eq(found[0], folio[2]);
	cr_assert_eq(found[1], folio[4]);
	iomap_folio_put(found[0]);
	iomap_folio_put(found[1]);
	for (unsigned i = 0; i < 8; i++) {
		iomap__filemap_remove(mapping, folio[i]);
		iomap_folio_unlock(folio[i]);
		iomap_folio_put(folio[i]);
	}
	close_fixture(&f);
}

Test(arena, blocks_never_overlap_and_all_come_back)
{
	struct fixture f;
	static struct iomap_folio *held[2048];
	static unsigned char used[1000];
	unsigned nr = 0, total = 0;
	uint64_t seed = 4101842887655102017ULL;
	struct iomap__cache *cache;

	open_fixture(&f, 1000 << IOMAP_PAGE_SHIFT); /* not a power of two */
	cache = f.engine->cache;
	for (int step = 0; step < 20000; step++) {
		unsigned order = (unsigned)(next_random(&seed) % 5);
		struct iomap_folio *folio = NULL;

		if (next_random(&seed) & 1)
			folio = iomap__arena_alloc(cache, order);
		if (folio) {
			size_t first = (size_t)((char *)iomap_folio_address(folio) - cache->data) >>
				       IOMAP_PAGE_SHIFT;

			cr_assert_eq(first & ((1U << order) - 1), 0, "aligned to its size");
			for (unsigned i = 0; i < 1U << order; i++) {
				cr_assert_eq(used[first + i], 0, "page %zu is in use", first + i);
				used[first + i] = 1;
				cr_assert_eq(iomap__folio_of(cache,
							     cache->data +
								     ((first + i) << 12) + 123),
					     folio);
			}
			held[nr++] = folio;
			total += 1U << order;
		} else if (nr) {
			unsigned which = (unsigned)(next_random(&seed) % nr);

			folio = held[which];
			held[which] = held[--nr];
			size_t first = (size_t)((char *)iomap_folio_address(folio) - cache->data) >>
				       IOMAP_PAGE_SHIFT;

			for (size_t i = 0; i < iomap_folio_size(folio) >> 12; i++)
				used[first + i] = 0;
			total -= (unsigned)(iomap_folio_size(folio) >> 12);
			iomap_folio_put(folio);
		}
		cr_assert_eq(atomic_load(&cache->nr_free), 1000 - total);
	}
	while (nr)
		iomap_folio_put(held[--nr]);
	/* merged again: a block of the largest order is to be had */
	struct iomap_folio *largest = iomap__arena_alloc(cache, IOMAP__MAX_ORDER);

	cr_assert_not_null(largest);
	iomap_folio_put(largest);
	close_fixture(&f);
}
