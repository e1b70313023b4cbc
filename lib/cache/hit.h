/* SPDX-License-Identifier: MIT */
/*
 * hit.h - one read out of one cached folio, from the call to the copy; part of cache.h, which
 * includes it.
 *
 * Here, and not in a .c file, is what must be inlined into each of its callers: iomap_read(),
 * the iterator's path, batches and pins.  Nothing here blocks, allocates, takes a lock or makes
 * a system call; whatever is not a plain hit is answered by 0 and left to hit.c and filemap.c.
 *
 * A hit copies without taking anything.  Why that is right:
 *
 *   reader                                  writer, evictor, truncation or split (holds the
 *                                           folio lock)
 *   1 find the folio in the index           a set CHANGING
 *   2 v = lock word (acquire), not CHANGING b release fence
 *   3 mapping, place, UPTODATE as expected  c store bytes, or mapping = NULL, or place
 *   4 i_size (acquire), copy up to it       d clear CHANGING, version + 1 (release)
 *   5 acquire fence
 *   6 lock word == v but for the lock bits
 *
 * Suppose the copy contains a byte stored in c.  By the fences 5 and b, the load in 6 then
 * sees a or something later, so CHANGING or another version: the copy is thrown away.
 * Suppose the folio was given another identity between 1 and 4.  It left the index by c and
 * d first.  If 2 came before a, 6 finds another version.  If 2 came after d, its acquire
 * makes mapping == NULL (or a later identity) visible to 3; a new identity sets place
 * and flags before mapping (release), and 3 reads mapping first (acquire), so it cannot mix
 * the two.  A 61-bit version does not wrap in the time of a copy, ever.
 * Suppose 2 came before a, and 3 finds the old mapping still but a place, or 4 a byte, that the new
 * owner has stored before it set CHANGING itself: the place, what compact.c moves, what a device
 * reads.  The new owner got the memory behind d, by arena_lock, and a release fence follows
 * (prepare() in arena.c) before it stores anything or starts a read, so fence 5 pairs with that one
 * as it does with b, and 6 sees a or something later.  The pieces of a split get their places
 * behind the fence b of the split.
 *
 * Step 1 needs no epoch, because nothing that it reads is trusted before 3, and all of it can
 * be read at any time:
 *   - a node belongs to one level of the trees of its engine for as long as the engine lives
 *     (index.c), so a slot that is reached through a node that has been retired, or is in use
 *     again elsewhere, holds 0, a folio, or, above the lowest level, a node of the next one;
 *   - descriptors and folio memory are type-stable (arena.c), and the address of the data
 *     follows from slot and position without a look at the descriptor.  Both are inside the
 *     arena whatever has become of the folio, since the order in the slot is one it had.
 * So a walk that has lost its way ends with nothing, or with a folio whose mapping or place
 * (index and order, in one word) is not the one looked for.  For the same reason the walk need
 * not ask whether the tree is high enough for the index: it comes to the folio of another one.
 * Both look like a miss here, and the miss looks again inside an epoch, which is exact.
 *
 * The order stands in the slot as well as in the descriptor, so that the address of the data is
 * known while the descriptor is still on its way from memory: the two misses overlap.
 *
 * i_size is looked at once, and between 2 and 6, since it says which of the folio's bytes are the
 * file's: what 6 lets pass did not change from 2 to 6, so it is what the file held at the moment
 * of that look.  For truncation moves i_size first (release) and goes through a to d behind that,
 * and who makes a file longer has stored its bytes, c, before it moves i_size (release):
 *   - suppose the copy has zeros of a truncation.  2 came behind its d, or 6 would find another
 *     version; so the look sees its i_size, or a later one;
 *   - suppose the look sees the i_size of a growth.  By its acquire, 6 sees the a of what was
 *     stored for it, or something later; so either 2 came behind its d, and that was copied, or 6
 *     finds CHANGING or another version.
 * Before 2, or behind 6, it would not do: a file that was cut off and has grown again in between
 * has the size that it had, and zeros would be read that it never held there.
 * The same holds of a copy under the folio's lock, if the look is under it as well (filemap.c).
 */
#ifndef IOMAP__CACHE_HIT_H
#define IOMAP__CACHE_HIT_H

/* ---- the walk ---- */

#define IOMAP__NODE_SHIFT 6
#define IOMAP__NODE_SLOTS (1U << IOMAP__NODE_SHIFT)
/* Folios of that order and the next have words of their own in a lowest node: its heads. */
#define IOMAP__HEAD_ORDER 4U
#define IOMAP__NODE_QUARTERS (1U << (IOMAP__NODE_SHIFT - IOMAP__HEAD_ORDER))
#define IOMAP__NODE_HEADS (IOMAP__NODE_QUARTERS - 1)
/* Low bits of tree_root: the height; of an entry: a folio's order. */
#define IOMAP__ROOT_HEIGHT 63U
#define IOMAP__ENTRY_ORDER 15U

static inline struct iomap_folio *iomap__entry_folio(uintptr_t entry)
{
	return (struct iomap_folio *)(entry & ~(uintptr_t)(IOMAP__CACHE_LINE - 1));
}

static inline uint64_t iomap__entry_bytes(uintptr_t entry)
{
	return (uint64_t)IOMAP_PAGE_SIZE << (entry & IOMAP__ENTRY_ORDER);
}

/* A node begins with its slots.  Acquire: pairs with the release stores of index.c. */
static inline uintptr_t iomap__node_slot(uintptr_t node, uint64_t index, unsigned level)
{
	_Atomic(uintptr_t) *slot = (_Atomic(uintptr_t) *)node;

	return atomic_load_explicit(&slot[(index >> (IOMAP__NODE_SHIFT * level)) &
					  (IOMAP__NODE_SLOTS - 1)],
				    memory_order_acquire);
}

/*
 * What stands for @index in a lowest node.  The slots of a folio of 64 KiB lie in two cache lines,
 * and those of all of 1 GiB in more than the second level of the processor's cache holds.  So each
 * quarter of the node has one word that is looked at first, in two lines for all of them: the last
 * quarter its last slot, which is any such folio's in it, and the others, downwards, the
 * heads behind that.  A head that is out of date is as good a hint as a slot that is.
 */
static inline uintptr_t iomap__node_leaf(const struct iomap_address_space *mapping, uintptr_t node,
					 uint64_t index)
{
	if (iomap__load(&mapping->max_order) >= IOMAP__HEAD_ORDER) {
		const _Atomic(uintptr_t) *quarter =
			(const _Atomic(uintptr_t) *)node + IOMAP__NODE_SLOTS - 1;
		/* acquire: as with a slot */
		uintptr_t entry = atomic_load_explicit(
			&quarter[~(index >> IOMAP__HEAD_ORDER) & (IOMAP__NODE_QUARTERS - 1)],
			memory_order_acquire);

		if (iomap__likely((entry & IOMAP__ENTRY_ORDER) >= IOMAP__HEAD_ORDER))
			return entry;
	}
	return iomap__node_slot(node, index, 0);
}

/*
 * The slot of @index, or 0: without an epoch only a hint, see the file's head.
 */
static inline uintptr_t iomap__index_hint(const struct iomap_address_space *mapping, uint64_t index)
{
	uint64_t root = iomap__load_acquire(&mapping->tree_root);
	unsigned height = (unsigned)(root & IOMAP__ROOT_HEIGHT);
	uintptr_t at = (uintptr_t)(root - height);

	if (height > 1) {
		if (height > 2) {
			/* higher than what files of 1 GiB need; not a call, which costs registers */
			for (; iomap__unlikely(height > 3); height--) {
				at = iomap__node_slot(at, index, height - 1);
				if (!at)
					return 0;
			}
			at = iomap__node_slot(at, index, 2);
			if (iomap__unlikely(!at))
				return 0;
		}
		at = iomap__node_slot(at, index, 1);
		if (at & IOMAP__ENTRY_ORDER)
			return at; /* larger than what a lowest node covers */
	}
	if (iomap__unlikely(!at))
		return 0;
	return iomap__node_leaf(mapping, at, index);
}

/* ---- the copy ---- */

#define IOMAP__HIT_FLAGS \
	(IOMAP__FOLIO_UPTODATE | IOMAP__FOLIO_ACCESSED | IOMAP__FOLIO_RA_MARK | \
	 IOMAP__FOLIO_RA_UNUSED | IOMAP__FOLIO_COUNTED)

/* Where the byte at @pos lies, in the folio of a slot of its index. */
static inline char *iomap__hit_address(const struct iomap_file *file, uintptr_t entry, int64_t pos)
{
	/* a descriptor is a 64th of a page, and page_bias the distance of the two arrays */
	_Static_assert(sizeof(struct iomap_folio) * 64 == IOMAP_PAGE_SIZE, "page_bias");
	return (char *)(((uintptr_t)iomap__entry_folio(entry) << 6) + file->page_bias +
			(size_t)((uint64_t)pos & (iomap__entry_bytes(entry) - 1)));
}

/* Of the folio that a slot promises for the byte at @pos. */
static inline uint64_t iomap__hit_place(uintptr_t entry, int64_t pos)
{
	return ((uint64_t)pos & -iomap__entry_bytes(entry)) + (entry & IOMAP__ENTRY_ORDER);
}

/* Steps 2 and 3: the folio's flags, or 0 when it is not the one looked for, or changing. */
static inline uint32_t iomap__hit_check(const struct iomap_file *file, uintptr_t entry, int64_t pos,
					uint64_t *word)
{
	struct iomap_folio *folio = iomap__entry_folio(entry);

	*word = atomic_load_explicit(&folio->lock, memory_order_acquire);
	if (iomap__unlikely(*word & IOMAP__FOLIO_CHANGING) ||
	    iomap__unlikely(atomic_load_explicit(&folio->mapping, memory_order_acquire) !=
			    &file->inode->i_data) ||
	    iomap__unlikely(atomic_load_explicit(&folio->place, memory_order_relaxed) !=
			    iomap__hit_place(entry, pos)))
		return 0;
	/* acquire: pairs with iomap_folio_mark_uptodate(); the bytes came before it */
	return atomic_load_explicit(&folio->flags, memory_order_acquire);
}

/* Steps 5 and 6: nothing of what was copied has changed meanwhile. */
static inline bool iomap__hit_stands(uintptr_t entry, uint64_t word)
{
	uint64_t now;

	IOMAP__FENCE(memory_order_acquire);
	now = atomic_load_explicit(&iomap__entry_folio(entry)->lock, memory_order_relaxed);
	return iomap__likely(now == word) ||
	       !((now ^ word) & ~(uint64_t)(IOMAP__FOLIO_LOCKED | IOMAP__FOLIO_WAITERS));
}

/* Whether [pos, pos + n) is something, and all in the folio that a slot promises. */
static inline bool iomap__hit_fits(uintptr_t entry, size_t n, int64_t pos)
{
	uint64_t bytes = iomap__entry_bytes(entry);

	return n - 1 < bytes - ((uint64_t)pos & (bytes - 1));
}

/*
 * Step 4's look: how many bytes of the file there are from @pos on, which lies in one of its folios.
 * Not positive: none.  Acquire: pairs with the release of who moves i_size.
 */
static inline int64_t iomap__hit_left(const struct iomap_file *file, int64_t pos)
{
	return iomap__load_acquire(&file->inode->i_size) - pos;
}

/*
 * Copy up to @len bytes, up to i_size, if all of that is in one folio that has been used before:
 * what most reads are.  @from: iomap__hit_address() of @pos.  0: it is not that, or there is nothing to
 * read, and *@to may hold anything.
 */
static inline size_t iomap__hit_copy(const struct iomap_file *file, uintptr_t entry, void *to,
				     const char *from, size_t len, int64_t pos)
{
	uint64_t word;
	int64_t left;
	size_t n;

	if (iomap__unlikely((iomap__hit_check(file, entry, pos, &word) & IOMAP__HIT_FLAGS) !=
			    (IOMAP__FOLIO_UPTODATE | IOMAP__FOLIO_ACCESSED)))
		return 0;
	left = iomap__hit_left(file, pos);
	n = (size_t)iomap__min(len, (uint64_t)left);
	if (iomap__unlikely(left <= 0) || iomap__unlikely(!iomap__hit_fits(entry, n, pos)))
		return 0;
	iomap__copy_from_folio(to, from, n);
	return iomap__likely(iomap__hit_stands(entry, word)) ? n : 0;
}

/*
 * Read up to @len bytes at @pos, up to i_size, if that is all in one folio and a plain hit.
 * 0: it is not, or there is nothing to read.
 */
static inline size_t iomap__hit_read(const struct iomap_file *file, void *to, size_t len,
				     int64_t pos)
{
	const char *from;
	uintptr_t entry;
	size_t n;

	if (iomap__unlikely(!file->cached))
		return 0;
	/* a negative position is in no folio */
	entry = iomap__index_hint(&file->inode->i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
	if (iomap__unlikely(!entry))
		return 0;
	from = iomap__hit_address(file, entry, pos);
	__builtin_prefetch(from);
	n = iomap__hit_copy(file, entry, to, from, len, pos);
	if (iomap__unlikely(!n))
		return 0;
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, 1);
	return n;
}

#endif
