/* SPDX-License-Identifier: MIT */
/*
 * reference.pml - who may use a folio: references, the index, eviction, truncation and reuse
 * (lib/cache/filemap.c, reclaim.c, folio.c).
 *
 * One folio, and two files that may have it.  Two threads look it up in file A: the slot, a
 * reference unless the count is 0, and then whose folio it is.  One evicts, one truncates, one
 * takes the folio for either file whenever it is free.
 *
 * Shown: with a reference that was looked at the folio is A's, or nobody's after a truncation, and
 * never free; it is freed once; and nobody is left with a count that is wrong.
 * Left out: the epoch (a slot is read in one step), versions (optimistic_read.pml).
 *
 * plant: NO_TRY	the reference is taken whatever the count is
 * plant: NO_LOOK	whose folio it is is not asked with the reference
 * plant: CHECK_ONLY	eviction sees that the count is 1, and then makes it 0
 * plant: NO_COUNT	eviction does not look at the count
 * plant: NO_LOCK	eviction does not lock
 * plant: PUT_FIRST	truncation gives the index's reference back before the folio leaves it
 */
#define NONE 0
#define A 1
#define B 2

bool is_free;
byte refs;
bool locked;
byte mapping;
byte slot; /* the file in whose index the folio stands */

inline lock_folio()
{
	atomic { !locked -> locked = true }
}

inline put()
{
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 -> assert(!is_free && slot == NONE); is_free = true
		:: else
		fi
	}
}

proctype user()
{
	bool got;
	byte n = 0;

	do
	:: n < 2 ->
		n++;
		got = false;
		if
		:: slot == A ->
#ifdef NO_TRY
			refs++; got = true;
#else
			atomic {
				if
				:: refs -> refs++; got = true
				:: else
				fi
			};
#endif
			if
			:: !got -> goto next
#ifndef NO_LOOK
			:: got && mapping != A -> put(); goto next
			:: got && mapping == A
#else
			:: got
#endif
			fi;
			/* in use */
			assert(!is_free);
			assert(mapping == A || mapping == NONE);
			put()
		:: else
		fi;
next:
		skip
	:: else -> break
	od
}

proctype evictor()
{
	byte n = 0;
	bool frozen;

	do
	:: n < 2 ->
		n++;
		frozen = false;
#ifndef NO_LOCK
		atomic {
			if
			:: locked -> goto next
			:: else -> locked = true
			fi
		};
#endif
		if
#ifndef NO_COUNT
		:: mapping != NONE && refs == 1 ->
#else
		:: mapping != NONE ->
#endif
#if defined(CHECK_ONLY) || defined(NO_COUNT)
			refs = 0; frozen = true;
#else
			atomic {
				if
				:: refs == 1 -> refs = 0; frozen = true
				:: else
				fi
			};
#endif
			if
			:: frozen -> slot = NONE; mapping = NONE
			:: else
			fi
		:: else
		fi;
#ifndef NO_LOCK
		locked = false;
#endif
		if
		:: frozen -> assert(!is_free); is_free = true
		:: else
		fi;
next:
		skip
	:: else -> break
	od
}

/* It has a reference from its walk over the index, which it takes under tree_lock. */
proctype truncator()
{
	byte file;
	bool got = false;

	if
	:: file = A
	:: file = B
	fi;
	atomic {
		if
		:: slot == file && refs -> refs++; got = true
		:: else
		fi
	};
	if
	:: got ->
		lock_folio();
		if
		:: mapping == file ->
#ifdef PUT_FIRST
			put(); put(); got = false;
#endif
			slot = NONE;
			mapping = NONE;
#ifndef PUT_FIRST
			put()
#endif
		:: else
		fi;
		locked = false;
		if
		:: got -> put()
		:: else
		fi
	:: else
	fi
}

proctype allocator()
{
	byte n = 0, file;

	do
	:: n < 2 ->
		n++;
		if
		:: file = A
		:: file = B
		fi;
		if
		:: atomic { is_free -> is_free = false };
			assert(refs == 0);
			refs = 1;
			lock_folio();
			refs++;
			mapping = file;
			slot = file;
			locked = false;
			put()
		:: !is_free
		fi
	:: else -> break
	od;
	file = 0
}

init {
	atomic {
		refs = 1;
		mapping = A;
		slot = A;
		run user();
		run user();
		run evictor();
		run truncator();
		run allocator()
	};
	/* when all have ended: the index's reference, or none */
	_nr_pr == 1;
	assert(is_free == (refs == 0) && refs <= 1 && (refs == 1) == (slot != NONE))
}
