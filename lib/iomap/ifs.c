/* SPDX-License-Identifier: MIT */
/*
 * ifs.c - per-folio state of blocks that are smaller than the folio.
 *
 * Two bits for each block: uptodate, dirty.  Folios of one block have no such state; nor has
 * a folio that nobody has read or written in parts yet, which then is uptodate or dirty as a
 * whole: what makes the state copies the folio's flags into the bits.
 *
 * Dirty bits are changed with the folio locked, but that a completion sets them, under writeback,
 * when the write has failed and is to be tried again.  Uptodate bits too, but while the lock is
 * held for a read they are cleared, atomically, by the completions of ranges that failed:
 * the read sets them when it takes a block in hand, and unlocks after the last completion,
 * so nobody else sees a bit of a block that is still on its way.
 *
 * The state is allocated with a folio locked, from a pool of its size, and freed by
 * iomap_release_folio() and iomap_invalidate_folio(), which the cache calls before a folio
 * leaves it.
 */
#include "block/block.h"
#include "iomap/ops.h"

#define IFS_WORD_BITS IOMAP__IFS_WORD_BITS

static size_t ifs_bytes(unsigned nr_blocks)
{
	return sizeof(struct iomap__ifs) + 2 * iomap__ifs_words(nr_blocks) * sizeof(uint64_t);
}

_Static_assert(sizeof(struct iomap__ifs) +
			       2 * sizeof(uint64_t) * (IOMAP__IFS_SMALL / IFS_WORD_BITS) <=
		       IOMAP__CACHE_LINE,
	       "a small state fits one cache line");

static struct iomap_engine *ifs_engine(const struct iomap_folio *folio)
{
	return iomap_folio_inode(folio)->i_engine;
}

/* ---- bits ---- */

/* Bits [first, end) of word @w. */
static uint64_t ifs_mask(unsigned w, unsigned first, unsigned end)
{
	unsigned lo = w * IFS_WORD_BITS;
	uint64_t mask = ~0ULL;

	if (first > lo)
		mask &= ~0ULL << (first - lo);
	if (end < lo + IFS_WORD_BITS)
		mask &= ~0ULL >> (lo + IFS_WORD_BITS - end);
	return mask;
}

static void ifs_set(uint64_t *words, unsigned first, unsigned end)
{
	for (unsigned w = first / IFS_WORD_BITS; w * IFS_WORD_BITS < end; w++) {
		uint64_t mask = ifs_mask(w, first, end);

		/* overwrites find their bits set, and a look is cheaper */
		if (mask & ~iomap__load_acquire(&words[w]))
			iomap__fetch_or(&words[w], mask);
	}
}

static void ifs_clear(uint64_t *words, unsigned first, unsigned end)
{
	for (unsigned w = first / IFS_WORD_BITS; w * IFS_WORD_BITS < end; w++)
		iomap__fetch_and(&words[w], ~ifs_mask(w, first, end));
}

static unsigned ifs_find(const uint64_t *words, unsigned first, unsigned end, bool set)
{
	for (unsigned w = first / IFS_WORD_BITS; w * IFS_WORD_BITS < end; w++) {
		uint64_t word = iomap__load(&words[w]);

		if (!set)
			word = ~word;
		word &= ifs_mask(w, first, end);
		if (word)
			return w * IFS_WORD_BITS + (unsigned)__builtin_ctzll(word);
	}
	return end;
}

static uint64_t *ifs_uptodate(struct iomap__ifs *ifs)
{
	return ifs->bits;
}

static uint64_t *ifs_dirty(struct iomap__ifs *ifs)
{
	return ifs->bits + iomap__ifs_words(ifs->nr_blocks);
}

/* Blocks that a byte range touches. */
static unsigned ifs_first(const struct iomap__ifs *ifs, size_t off)
{
	return (unsigned)(off >> ifs->blkbits);
}

static unsigned ifs_end(const struct iomap__ifs *ifs, size_t end)
{
	return (unsigned)((end + ((size_t)1 << ifs->blkbits) - 1) >> ifs->blkbits);
}

/* ---- life ---- */

static unsigned ifs_pool_blocks(unsigned pool)
{
	return pool ? 128U << pool : IOMAP__IFS_SMALL;
}

static struct iomap__pool *ifs_pool(struct iomap_engine *engine, unsigned nr_blocks)
{
	unsigned pool = 0;

	while (nr_blocks > ifs_pool_blocks(pool))
		pool++;
	iomap__assert(pool < IOMAP__IFS_POOLS);
	return &engine->fs->ifs[pool];
}

int iomap__ifs_create(struct iomap_engine *engine, struct iomap__fs *fs)
{
	for (unsigned i = 0; i < IOMAP__IFS_POOLS; i++) {
		size_t bytes = iomap__max(ifs_bytes(ifs_pool_blocks(i)), IOMAP__CACHE_LINE);
		int err = iomap__pool_init(&fs->ifs[i], &engine->env, bytes, i ? 0 : IOMAP__POOL_RESERVE);

		while (err && i--)
			iomap__pool_exit(&fs->ifs[i]);
		if (err)
			return err;
	}
	return 0;
}

void iomap__ifs_destroy(struct iomap__fs *fs)
{
	for (unsigned i = 0; i < IOMAP__IFS_POOLS; i++)
		iomap__pool_exit(&fs->ifs[i]);
}

static struct iomap__ifs *ifs_new(const struct iomap_inode *inode, unsigned nr_blocks)
{
	struct iomap__pool *pool = ifs_pool(inode->i_engine, nr_blocks);
	bool kept = pool == inode->i_engine->fs->ifs && !iomap__has_reserve(&inode->i_data);
	struct iomap__ifs *ifs = iomap__pool_get_but(pool, kept ? IOMAP__POOL_RESERVE : 0);

	if (!ifs)
		return NULL;
	iomap__count(ifs_allocs_nr);
	memset(ifs, 0, ifs_bytes(nr_blocks));
	ifs->nr_blocks = nr_blocks;
	ifs->blkbits = inode->i_blkbits;
	return ifs;
}

/*
 * A completion of a write that failed may make the folio dirty just now, and has looked for the
 * state before it was there: it has set the folio's flag by then, which stands for all blocks.
 */
static void ifs_publish(struct iomap_folio *folio, struct iomap__ifs *ifs)
{
	/* seq_cst: pairs with iomap__ifs_failed(), which comes before and behind the flag */
	__atomic_store_n(&folio->ifs, ifs, __ATOMIC_SEQ_CST);
	if (atomic_load(&folio->flags) & IOMAP__FOLIO_DIRTY)
		ifs_set(ifs_dirty(ifs), 0, ifs->nr_blocks);
}

int iomap__ifs_alloc(struct iomap_inode *inode, struct iomap_folio *folio)
{
	unsigned nr_blocks = iomap__folio_blocks(inode, folio);
	struct iomap__ifs *ifs;

	iomap__assert(iomap_folio_test_locked(folio));
	if (folio->ifs || nr_blocks <= 1)
		return 0;
	ifs = ifs_new(inode, nr_blocks);
	if (!ifs)
		return -ENOMEM;
	if (iomap_folio_test_uptodate(folio))
		ifs_set(ifs_uptodate(ifs), 0, nr_blocks);
	ifs_publish(folio, ifs);
	return 0;
}

static void ifs_free(struct iomap_folio *folio)
{
	struct iomap__ifs *ifs = folio->ifs;

	if (!ifs)
		return;
	folio->ifs = NULL;
	iomap__pool_put(ifs_pool(ifs_engine(folio), ifs->nr_blocks), ifs);
}

/* ---- for the operations ---- */

unsigned iomap__ifs_find_uptodate(struct iomap_inode *inode, const struct iomap_folio *folio,
				  unsigned first, bool set)
{
	unsigned nr_blocks = iomap__folio_blocks(inode, folio);

	if (folio->ifs)
		return ifs_find(ifs_uptodate(folio->ifs), first, nr_blocks, set);
	return iomap_folio_test_uptodate(folio) == set ? first : nr_blocks;
}

unsigned iomap__ifs_find_dirty(struct iomap_inode *inode, const struct iomap_folio *folio,
			       unsigned first, bool set)
{
	unsigned nr_blocks = iomap__folio_blocks(inode, folio);

	if (folio->ifs)
		return ifs_find(ifs_dirty(folio->ifs), first, nr_blocks, set);
	/* writeback asks with the folio's own flag taken already: all of it is to be written */
	return set ? first : nr_blocks;
}

void iomap__ifs_set_dirty(struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap__ifs *ifs = folio->ifs;

	if (ifs)
		ifs_set(ifs_dirty(ifs), ifs_first(ifs, off), ifs_end(ifs, off + len));
}

void iomap__ifs_failed(struct iomap_folio *folio, size_t off, size_t len)
{
	/* seq_cst: pairs with ifs_publish(); one of the two sees the other */
	struct iomap__ifs *ifs = __atomic_load_n(&folio->ifs, __ATOMIC_SEQ_CST);

	if (ifs)
		ifs_set(ifs_dirty(ifs), ifs_first(ifs, off), ifs_end(ifs, off + len));
}

void iomap__ifs_clear_dirty(struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap__ifs *ifs = folio->ifs;

	if (ifs)
		ifs_clear(ifs_dirty(ifs), ifs_first(ifs, off), ifs_end(ifs, off + len));
}

void iomap__ifs_set_uptodate(struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap__ifs *ifs = folio->ifs;

	/* a block that starts before the range is not the range's to set */
	if (ifs)
		ifs_set(ifs_uptodate(ifs), ifs_end(ifs, off), ifs_end(ifs, off + len));
}

void iomap__ifs_clear_uptodate(struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap__ifs *ifs = folio->ifs;

	if (ifs)
		ifs_clear(ifs_uptodate(ifs), ifs_first(ifs, off), ifs_end(ifs, off + len));
}

bool iomap__ifs_all_uptodate(const struct iomap_folio *folio)
{
	struct iomap__ifs *ifs = folio->ifs;

	return ifs ? ifs_find(ifs_uptodate(ifs), 0, ifs->nr_blocks, false) == ifs->nr_blocks
		   : iomap_folio_test_uptodate(folio);
}

/* ---- for the cache ---- */

static bool ifs_forget(struct iomap_folio *folio, size_t off, size_t len)
{
	struct iomap__ifs *ifs = folio->ifs;
	unsigned first, end;
	bool all = true;

	/* without state all of it is dirty */
	if (!ifs)
		return !iomap_folio_test_dirty(folio);
	first = ifs_first(ifs, off);
	end = ifs_end(ifs, off + len);
	iomap__folio_clear_uptodate(folio);
	/* block by block: a dirty one, the edge of a punch say, keeps none but itself */
	for (unsigned i = first; i < end; i++) {
		if (ifs_find(ifs_dirty(ifs), i, i + 1, true) == i)
			all = false;
		else
			ifs_clear(ifs_uptodate(ifs), i, i + 1);
	}
	return all;
}

/* Blocks [first, first + nr) of @from become those of @to. */
static void ifs_copy(uint64_t *to, const uint64_t *from, unsigned first, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (ifs_find(from, first + i, first + i + 1, true) == first + i)
			ifs_set(to, i, i + 1);
}

static int ifs_part(const struct iomap_folio *folio, size_t off, size_t len,
		    struct iomap__block_part *part)
{
	const struct iomap_inode *inode = iomap_folio_inode(folio);
	unsigned first = (unsigned)(off >> inode->i_blkbits);
	unsigned nr = (unsigned)(len >> inode->i_blkbits);
	struct iomap__ifs *ifs = folio->ifs, *own;

	*part = (struct iomap__block_part){ .uptodate = iomap_folio_test_uptodate(folio),
					    .dirty = iomap_folio_test_dirty(folio) };
	if (!ifs)
		return 0;
	part->uptodate = ifs_find(ifs_uptodate(ifs), first, first + nr, false) == first + nr;
	part->dirty = ifs_find(ifs_dirty(ifs), first, first + nr, true) < first + nr;
	if (nr <= 1)
		return 0;
	own = ifs_new(inode, nr);
	if (!own)
		return -ENOMEM;
	ifs_copy(ifs_uptodate(own), ifs_uptodate(ifs), first, nr);
	ifs_copy(ifs_dirty(own), ifs_dirty(ifs), first, nr);
	part->blocks = own;
	return 0;
}

static void ifs_free_part(const struct iomap_folio *folio, void *blocks)
{
	struct iomap__ifs *ifs = blocks;

	if (ifs)
		iomap__pool_put(ifs_pool(ifs_engine(folio), ifs->nr_blocks), ifs);
}

const struct iomap__block_state_ops iomap__block_state = {
	.forget = ifs_forget,
	.part = ifs_part,
	.free = ifs_free_part,
};

/* ---- address-space operations ---- */

bool iomap_dirty_folio(struct iomap_address_space *mapping, struct iomap_folio *folio)
{
	iomap__ifs_set_dirty(folio, 0, iomap__folio_bytes(folio));
	return iomap__filemap_dirty_folio(mapping, folio);
}

bool iomap_release_folio(struct iomap_folio *folio, unsigned gfp)
{
	(void)gfp;
	if (iomap_folio_test_dirty(folio) || iomap_folio_test_writeback(folio))
		return false;
	ifs_free(folio);
	return true;
}

/* The dirty bits of blocks wholly inside the range go; without state there are none. */
static void ifs_invalidate_part(struct iomap_inode *inode, struct iomap_folio *folio, size_t off,
				size_t len)
{
	struct iomap__ifs *ifs;
	unsigned first, end;

	/* without memory all of it stays dirty: too much is written, nothing is lost */
	if (!iomap_folio_test_dirty(folio) || iomap__ifs_alloc(inode, folio))
		return;
	ifs = folio->ifs;
	if (!ifs)
		return;
	first = ifs_end(ifs, off);
	end = ifs_first(ifs, off + len);
	if (first >= end)
		return;
	ifs_clear(ifs_dirty(ifs), first, end);
	if (ifs_find(ifs_dirty(ifs), 0, ifs->nr_blocks, true) == ifs->nr_blocks)
		iomap__folio_cancel_dirty(folio);
}

void iomap_invalidate_folio(struct iomap_folio *folio, size_t off, size_t len)
{
	size_t bytes = iomap__folio_bytes(folio);

	if (off > bytes || len > bytes - off)
		len = off > bytes ? 0 : bytes - off;
	if (!len)
		return;
	if (len < bytes) {
		ifs_invalidate_part(iomap_folio_inode(folio), folio, off, len);
		return;
	}
	iomap__assert_msg(!iomap_folio_test_writeback(folio),
			  "a folio under writeback is invalidated");
	iomap__folio_cancel_dirty(folio);
	ifs_free(folio);
}

bool iomap_is_partially_uptodate(struct iomap_folio *folio, size_t from, size_t count)
{
	size_t bytes = iomap__folio_bytes(folio);
	struct iomap__ifs *ifs = folio->ifs;
	unsigned end;

	if (from > bytes || count > bytes - from)
		return false;
	if (!count || iomap_folio_test_uptodate(folio))
		return true;
	if (!ifs)
		return false;
	end = ifs_end(ifs, from + count);
	return ifs_find(ifs_uptodate(ifs), ifs_first(ifs, from), end, false) == end;
}
