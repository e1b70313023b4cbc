/* SPDX-License-Identifier: MIT */
/*
 * optimistic_read.pml - a copying read that takes nothing, against all that can happen to what it
 * copies (lib/cache: the proof at the hit path; folio.c, reclaim.c, truncate.c).
 *
 * The arena has two pages and a descriptor for each.  They hold one folio of two pages or two
 * of one, of file A (pages 0 and 1, which the reader wants) or of file B.  A page is two halves,
 * stored and copied one after the other, so that a torn copy shows.
 *
 * The reader does not walk an index: it takes any descriptor, with any order, as the walk may end
 * there when the slot or the node has been used again.  So what is shown holds for every index that
 * gives back nothing but folios.  Loads that only the acquire fence orders go both ways: index and
 * order are looked at before the copy or behind it.
 *
 * The writer changes a page of A.  The other one evicts, fills again, gives memory to B, splits the
 * large folio, cuts the file to one page and lets it grow again: any of these, in any order.
 *
 * What a page of A holds is its generation: each write and each growth makes a new one.  The reader
 * must return a generation that was current at some time during its read, of the page that it
 * asked for, in one piece; or nothing.  The zeros of a truncation are current once the file has grown
 * by zeros; never, if it grew by an append.
 *
 * config: -DWRITES=1 -DSTEPS=2
 * config: -DWRITES=0 -DSTEPS=3
 *
 * plant: NO_BUMP	the version does not move
 * plant: NO_CHANGING	CHANGING is not set
 * plant: LATE_CHANGING	CHANGING is set behind the first store (no release fence)
 * plant: NO_MAPPING	the reader does not look whose folio it is
 * plant: NO_INDEX	nor which
 * plant: NO_ORDER	nor how large
 * plant: NO_UPTODATE	nor whether there is data
 * plant: NO_REREAD	nor at the lock word a second time
 * plant: EARLY_REREAD	it does so before the copy (no acquire fence)
 * plant: IGNORE_CHANGING the reader begins while something changes
 * plant: MAPPING_FIRST	a new identity shows before its index and flags
 * plant: QUIET_EVICT	a folio leaves without a change of its version
 * plant: QUIET_SPLIT	so is one split
 * plant: NO_SIZE	the reader does not look at the size
 * plant: EARLY_SIZE	it does so before the lock word
 * plant: LATE_SIZE	it does so behind the second look at that
 * plant: CACHE_FIRST	a truncation moves the size behind the cache
 */
#define NONE 0
#define A 1
#define B 2

typedef folio_t {
	bool locked;
	bool changing;
	byte version;
	byte mapping;
	byte index;
	byte order;
	bool uptodate;
	bool used; /* in the index; a tail and a free one are not */
}
folio_t folio[2];

/* of each page of the arena: whose, which, and the generation of each half */
byte owner[2];
byte page[2];
byte half0[2];
byte half1[2];

byte size = 2; /* of A, in pages */
bool rwsem;    /* i_rwsem of A */
byte disk[2];
/* ghosts: generations that have begun, and that have ended */
byte begun[2];
byte ended[2];
int gone; /* bits: of page 1, generations that were in the cache and not the file's */

#define covers(d, p) (folio[d].used && folio[d].mapping == A && (p) - folio[d].index >= 0 && \
		      (p) - folio[d].index < (1 << folio[d].order))
#define cached(p) (covers(0, p) || covers(1, p))

inline lock(d)
{
	atomic { !folio[d].locked -> folio[d].locked = true }
}

inline unlock(d)
{
	assert(folio[d].locked && !folio[d].changing);
	folio[d].locked = false
}

inline begin_change(d)
{
#if !defined(NO_CHANGING) && !defined(LATE_CHANGING)
	folio[d].changing = true
#else
	skip
#endif
}

inline begin_change_late(d)
{
#ifdef LATE_CHANGING
	folio[d].changing = true
#else
	skip
#endif
}

inline end_change(d)
{
	atomic {
		folio[d].changing = false;
#ifndef NO_BUMP
		folio[d].version++
#endif
	}
}

/* The descriptor is locked and in no index; the folio's data is read into it. */
inline become(d, file, at, ord)
{
	/* set while free */
	folio[d].order = ord;
	lock(d);
#ifdef MAPPING_FIRST
	folio[d].mapping = file;
#endif
	folio[d].index = at;
	folio[d].uptodate = false;
	folio[d].mapping = file;
	folio[d].used = true;
	/* not uptodate: nothing to announce, and nobody looks at it half done */
	atomic {
		fill(d, file, at);
		if
		:: ord == 1 -> fill(d + 1, file, at + 1)
		:: else
		fi
	};
	folio[d].uptodate = true;
	unlock(d)
}

inline fill(a, file, at)
{
	owner[a] = file;
	page[a] = at;
	if
	:: file == A -> half0[a] = disk[at]; half1[a] = disk[at]
	:: else -> half0[a] = 0; half1[a] = 0
	fi
}

proctype reader(byte p)
{
	byte d, ord, v, a, h0, h1, who, which;
	byte floor;
	bool late, c, ok = true;

	floor = ended[p];
#ifdef EARLY_SIZE
	if
	:: size <= p -> goto out
	:: else
	fi;
#endif
	/* whatever the walk comes to */
	if
	:: d = 0; ord = 0
	:: d = 1; ord = 0
	:: d = 0; ord = 1
	fi;
	a = d + (p & ((1 << ord) - 1));
	if
	:: late = false
	:: late = true
	fi;

	atomic {
		v = folio[d].version;
		c = folio[d].changing;
#ifndef IGNORE_CHANGING
		if
		:: folio[d].changing -> goto out
		:: else
		fi
#endif
	};
#ifndef NO_MAPPING
	if
	:: folio[d].mapping != A -> goto out
	:: else
	fi;
#endif
	if
	:: !late ->
#ifndef NO_INDEX
		ok = ok && folio[d].index == ((p >> ord) << ord);
#endif
#ifndef NO_ORDER
		ok = ok && folio[d].order == ord;
#endif
		if
		:: !ok -> goto out
		:: else
		fi
	:: else
	fi;
#ifndef NO_UPTODATE
	if
	:: !folio[d].uptodate -> goto out
	:: else
	fi;
#endif
#ifdef EARLY_REREAD
	if
	:: folio[d].changing != c || folio[d].version != v -> goto out
	:: else
	fi;
#endif
#if !defined(NO_SIZE) && !defined(EARLY_SIZE) && !defined(LATE_SIZE)
	if
	:: size <= p -> goto out
	:: else
	fi;
#endif
	/* the copy */
	atomic { h0 = half0[a]; who = owner[a]; which = page[a] };
	atomic { h1 = half1[a]; ok = ok && who == owner[a] && which == page[a] };
	if
	:: late ->
#ifndef NO_INDEX
		if
		:: folio[d].index != ((p >> ord) << ord) -> goto out
		:: else
		fi;
#endif
#ifndef NO_ORDER
		if
		:: folio[d].order != ord -> goto out
		:: else
		fi
#else
		skip
#endif
	:: else
	fi;
#if !defined(NO_REREAD) && !defined(EARLY_REREAD)
	if
	:: folio[d].changing != c || folio[d].version != v -> goto out
	:: else
	fi;
#endif
#ifdef LATE_SIZE
	if
	:: size <= p -> goto out
	:: else
	fi;
#endif
	/* returned to the caller */
	d_step {
		assert(ok && who == A && which == p);
		assert(h0 == h1);
		assert(h0 >= floor && h0 <= begun[p]);
		assert(p == 0 || !(gone & (1 << h0)))
	}
out:
	skip;
	/* what nobody looks at any more makes no states */
	d_step { d = 0; ord = 0; v = 0; a = 0; h0 = 0; h1 = 0; who = 0; which = 0; floor = 0;
		 late = false; c = false; ok = false }
}

/* Writes through the cache, of pages that are there. */
proctype writer()
{
	byte d, p, a, n = 0;

	do
	:: n < WRITES ->
		n++;
		if
		:: p = 0
		:: p = 1
		fi;
		if
		:: d = 0
		:: d = 1
		fi;
		if
		:: atomic { !rwsem && !folio[d].locked && covers(d, p) && p < size ->
			    rwsem = true; folio[d].locked = true };
			a = d + p - folio[d].index;
			begun[p]++;
			begin_change(d);
			half0[a] = begun[p];
			begin_change_late(d);
			half1[a] = begun[p];
			end_change(d);
			unlock(d);
			/* the call returns */
			atomic { ended[p] = begun[p]; rwsem = false }
		:: else
		fi
	:: else -> break
	od;
	skip;
	d_step { d = 0; p = 0; a = 0 }
}

inline evict(d)
{
	if
	:: atomic { !folio[d].locked && folio[d].used -> folio[d].locked = true };
#ifndef QUIET_EVICT
		begin_change(d);
#endif
		/* out of the index; what was written is on the device by now */
		d_step {
			if
			:: folio[d].mapping == A ->
				disk[folio[d].index] = half0[d];
				if
				:: folio[d].order -> disk[1] = half0[1]
				:: else
				fi
			:: else
			fi;
			folio[d].mapping = NONE;
			folio[d].used = false
		};
		begin_change_late(d);
#ifndef QUIET_EVICT
		end_change(d);
#endif
		unlock(d)
	:: else
	fi
}

#define is_free(d) (!folio[d].used && !folio[d].locked)
#define is_tail(d) ((d) == 1 && folio[0].used && folio[0].order == 1)

/* Of a folio that is cut in two: the second half becomes a folio of its own. */
inline split()
{
	if
	:: atomic { !folio[0].locked && folio[0].used && folio[0].order == 1 ->
		    folio[0].locked = true };
#ifndef QUIET_SPLIT
		begin_change(0);
#endif
		folio[0].order = 0;
		begin_change_late(0);
		folio[1].order = 0;
		folio[1].index = folio[0].index + 1;
		folio[1].uptodate = folio[0].uptodate;
		folio[1].mapping = folio[0].mapping;
		folio[1].used = true;
#ifndef QUIET_SPLIT
		end_change(0);
#endif
		unlock(0)
	:: else
	fi
}

/*
 * The second page of A's goes: with its folio, or as zeros in a folio of both.  Zeros are the
 * generation that the page has when the file grows again, and not before.
 */
inline cut_cache()
{
	byte d2 = 0;

	do
	:: d2 < 2 && covers(d2, 1) ->
		lock(d2);
		if
		:: covers(d2, 1) && folio[d2].order == 0 ->
			begin_change(d2);
			folio[d2].mapping = NONE;
			begin_change_late(d2);
			folio[d2].used = false;
			end_change(d2)
		:: covers(d2, 1) && folio[d2].order == 1 ->
			begin_change(d2);
			half0[d2 + 1] = begun[1] + 1;
			begin_change_late(d2);
			half1[d2 + 1] = begun[1] + 1;
			end_change(d2)
		:: else
		fi;
		unlock(d2);
		d2++
	:: d2 < 2 && !covers(d2, 1) -> d2++
	:: d2 == 2 -> break
	od
}

/* More of A: the page was cut off.  The bytes come before the size. */
inline append()
{
	byte d3 = 0;

	gone = gone | (1 << (begun[1] + 1));
	begun[1] = begun[1] + 2;
	disk[1] = begun[1];
	do
	:: d3 < 2 && covers(d3, 1) ->
		lock(d3);
		if
		:: covers(d3, 1) ->
			begin_change(d3);
			half0[d3 + folio[d3].order] = begun[1];
			begin_change_late(d3);
			half1[d3 + folio[d3].order] = begun[1];
			end_change(d3)
		:: else
		fi;
		unlock(d3);
		d3++
	:: d3 < 2 && !covers(d3, 1) -> d3++
	:: d3 == 2 -> break
	od;
	atomic { size = 2; ended[1] = begun[1] }
}

inline truncate()
{
	atomic { !rwsem -> rwsem = true };
	if
	:: size == 2 ->
		disk[1] = begun[1] + 1;
#ifdef CACHE_FIRST
		cut_cache();
		size = 1
#else
		size = 1;
		cut_cache()
#endif
	:: size == 1 ->
		/* the zeros are there */
		atomic { begun[1]++; size = 2; ended[1] = begun[1] }
	:: size == 1 ->
		append()
	fi;
	rwsem = false
}

proctype other()
{
	byte n = 0, which;

	do
	:: n < STEPS ->
		n++;
		if
		:: true -> evict(0)
		:: true -> evict(1)
		:: true -> split()
		:: true -> truncate()
		:: is_free(0) && !cached(0) && !cached(1) && is_free(1) -> become(0, A, 0, 1)
		:: is_free(0) && !cached(0) -> become(0, A, 0, 0)
		:: is_free(0) && !cached(1) && size == 2 -> become(0, A, 1, 0)
		:: is_free(1) && !is_tail(1) && !cached(0) -> become(1, A, 0, 0)
		:: is_free(1) && !is_tail(1) && !cached(1) && size == 2 -> become(1, A, 1, 0)
		:: is_free(0) -> become(0, B, 0, 0)
		:: is_free(1) && !is_tail(1) -> become(1, B, 1, 0)
		:: is_free(0) && is_free(1) -> become(0, B, 0, 1)
		fi
	:: else -> break
	od
}

init {
	atomic {
		/* A, in one folio of two pages */
		folio[0].mapping = A;
		folio[0].order = 1;
		folio[0].uptodate = true;
		folio[0].used = true;
		owner[0] = A;
		owner[1] = A;
		page[1] = 1;
		if
		:: run reader(0)
		:: run reader(1)
		fi;
		run writer();
		run other()
	}
}
