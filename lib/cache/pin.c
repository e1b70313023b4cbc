/* SPDX-License-Identifier: MIT */
/*
 * pin.c - pins: the memory of a cached folio, to be looked at in place.
 *
 * A pin is a reference on the folio and nothing else, so that two threads which pin different
 * folios of one inode share no cache line for it.  With it the folio is neither evicted nor
 * split; truncation takes it out of the index, and its memory is free at the unpin.  Whoever
 * needs to know whether an inode has pins asks for references on its folios: on those in the
 * index by a walk, on those that have left it by a count in the address space
 * (iomap__filemap_referenced()).
 *
 * The look-up takes its reference inside an epoch, although it needs none to be safe (hit.h):
 * what it took of a folio that has meanwhile become another inode's is given back before the
 * section ends, so that a destroy of that inode can wait for it.
 *
 * With the reference the folio keeps its order, and its address space and index unless it is
 * truncated, so they are looked at once.
 */
#include "cache/internal.h"

#define PIN_FLAGS IOMAP_PIN_NOREAD

/*
 * Whether the referenced folio of a slot is the one of @pos in the file, and of @mask its flags are
 * those of a plain hit.
 */
static inline bool pin_holds(const struct iomap_file *file, uintptr_t entry, int64_t pos,
			     uint32_t mask)
{
	const struct iomap_folio *folio = iomap__entry_folio(entry);

	/* acquire, and mapping first, as in hit.h; the flags are those of what it is then */
	return iomap__likely(atomic_load_explicit(&folio->mapping, memory_order_acquire) ==
			     &file->inode->i_data) &&
	       iomap__likely(atomic_load_explicit(&folio->place, memory_order_relaxed) ==
			     iomap__hit_place(entry, pos)) &&
	       iomap__likely((atomic_load_explicit(&folio->flags, memory_order_acquire) & mask) ==
			     (IOMAP__FOLIO_UPTODATE | IOMAP__FOLIO_ACCESSED));
}

static inline void pin_fill(struct iomap_pin *pin, struct iomap_folio *folio, char *addr,
			    size_t to_end, int64_t to_eof)
{
	pin->addr = addr;
	pin->len = (size_t)iomap__min(to_end, (uint64_t)to_eof);
	pin->folio = folio;
}

/* Not a plain hit. */
static __attribute__((noinline)) int pin_slow(struct iomap_file *file, int64_t pos, unsigned flags,
					      struct iomap_pin *pin)
{
	struct iomap_inode *inode = file->inode;
	int64_t size = iomap_i_size_read(inode);
	struct iomap_folio *folio;
	size_t off;
	int err;

	if (flags & ~PIN_FLAGS || pos < 0)
		return -EINVAL;
	if (pos >= size)
		return iomap__engine_forked(inode->i_engine) ? -ECHILD : -ENXIO;
	folio = iomap__filemap_get(&inode->i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
	if (folio && !iomap__folio_test(folio, IOMAP__FOLIO_UPTODATE)) {
		iomap_folio_put(folio);
		folio = NULL;
	}
	if (folio) {
		iomap__filemap_used(file, folio, pos, 0);
	} else if (flags & IOMAP_PIN_NOREAD) {
		return iomap__engine_forked(inode->i_engine) ? -ECHILD : -ENODATA;
	} else {
		err = iomap__filemap_read_folio(file, pos, &folio);
		if (err)
			return err;
	}
	off = (size_t)pos & (iomap__folio_bytes(folio) - 1);
	pin_fill(pin, folio, (char *)iomap_folio_address(folio) + off,
		 iomap__folio_bytes(folio) - off, size - pos);
	return 0;
}

/* The folio of a slot; its address is there already. */
static inline void pin_fill_hit(struct iomap_pin *pin, uintptr_t entry, int64_t pos, int64_t to_eof)
{
	uint64_t bytes = iomap__entry_bytes(entry);

	pin_fill(pin, iomap__entry_folio(entry), pin->addr,
		 bytes - ((uint64_t)pos & (bytes - 1)), to_eof);
}

/* The reference is to another folio, or this one needs more than a look. */
static __attribute__((noinline)) int pin_other(struct iomap_file *file, int64_t pos, unsigned flags,
					       struct iomap_pin *pin, uintptr_t entry)
{
	int64_t to_eof = iomap_i_size_read(file->inode) - pos;
	bool holds = to_eof > 0 && pin_holds(file, entry, pos,
					     IOMAP__HIT_FLAGS & ~IOMAP__FOLIO_COUNTED);

	if (!holds)
		iomap_folio_put(iomap__entry_folio(entry));
	iomap__epoch_exit(iomap__thread_self());
	if (!holds)
		return pin_slow(file, pos, flags, pin);
	/* but for being counted it is a plain hit */
	iomap__stat_add(file->stats, iomap__thread_self(), IOMAP__STAT_HITS, 1);
	iomap__folio_counted_hit(&file->inode->i_data);
	pin_fill_hit(pin, entry, pos, to_eof);
	return 0;
}

/*
 * No call but in the tail, and nothing kept in a register that can be computed or read again: what
 * has to be saved costs the plain hit more.  A position beyond the end finds no folio, or one in
 * which the file ends before it, so i_size is looked at last.
 */
int iomap_folio_pin(struct iomap_file *file, int64_t pos, unsigned flags, struct iomap_pin *pin)
{
	struct iomap__thread *self = iomap__thread_self_ptr;
	uintptr_t entry;
	int64_t to_eof;

	iomap__file_check(file);
	if (iomap__unlikely(flags & ~PIN_FLAGS) || iomap__unlikely(!self))
		return pin_slow(file, pos, flags, pin);
	iomap__epoch_enter_self(self);
	entry = iomap__index_hint(&file->inode->i_data, (uint64_t)pos >> IOMAP_PAGE_SHIFT);
	/* whoever pins is going to look */
	pin->addr = iomap__hit_address(file, entry, pos);
	__builtin_prefetch(pin->addr);
	if (iomap__unlikely(!entry) ||
	    iomap__unlikely(!iomap__folio_tryget(iomap__entry_folio(entry)))) {
		iomap__epoch_exit(self);
		return pin_slow(file, pos, flags, pin);
	}
	if (iomap__unlikely(!pin_holds(file, entry, pos, IOMAP__HIT_FLAGS)))
		return pin_other(file, pos, flags, pin, entry);
	/* neither is negative: a folio's place is not */
	to_eof = iomap__load_acquire(&file->inode->i_size) - pos;
	if (iomap__unlikely(to_eof <= 0))
		return pin_other(file, pos, flags, pin, entry);
	pin_fill_hit(pin, entry, pos, to_eof);
	iomap__epoch_exit(self);
	iomap__stat_add(file->stats, self, IOMAP__STAT_HITS, 1);
	return 0;
}

void iomap_folio_unpin(struct iomap_pin *pin)
{
	struct iomap_folio *folio = pin->folio;

	iomap__assert_msg(folio, "iomap_folio_unpin of what is not pinned");
	pin->folio = NULL;
	iomap_folio_put(folio);
}
