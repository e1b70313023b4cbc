/* SPDX-License-Identifier: MIT */
/*
 * folio_lock.pml - the folio's lock word and those who sleep for it (lib/cache/folio.c,
 * write_hit.c), with the part of the parking lot (lib/block/park.c) that their sleep needs.
 *
 * The word has LOCKED, WAITERS and a version.  Three threads take the lock twice each: by the
 * ordinary way, or by a write's own one, which only tries, and moves the version as it unlocks.
 * Who finds it taken sets WAITERS, enters the bucket, and sleeps until it is woken or the word is
 * not what it was.  Who unlocks clears LOCKED and WAITERS in one step and wakes the bucket if there
 * was WAITERS.
 *
 * Shown: one holder at a time; nobody sleeps for ever.
 * Left out: spinning, deadlines, the reaping of I/O by those who sleep (park.pml).
 *
 * plant: TWO_STEPS	the word is read, and stored, when it is unlocked
 * plant: HIT_STORES	so it is by the write's own way, which then overlooks WAITERS
 * plant: WAKE_FIRST	those who sleep are woken before the word is free
 * plant: NO_LOOK	the word is not looked at again by one who is in the bucket
 * plant: LATE_BUCKET	the count of those in the bucket moves behind that look
 * plant: WAKE_ONE	only one of those in the bucket is woken
 */
#define THREADS 3
#define ROUNDS 2

bool locked, waiters;
byte version;
byte holders;

bool park_lock;
byte bucket_nr;
bool in_bucket[THREADS];
bool woken[THREADS];
bool asleep[THREADS];

inline park_take()
{
	atomic { !park_lock -> park_lock = true }
}

inline park_give()
{
	park_lock = false
}

/* Sleeps unless the word is no longer LOCKED, WAITERS and version v. */
inline sleep(me, v)
{
	park_take();
	in_bucket[me] = true;
	woken[me] = false;
#ifndef LATE_BUCKET
	bucket_nr++;
#endif
	do
#ifndef NO_LOOK
	:: woken[me] || !locked || !waiters || version != v -> break
	:: else ->
#else
	:: woken[me] -> break
	:: else ->
#endif
#ifdef LATE_BUCKET
		if
		:: !late[me] -> park_give(); park_take(); bucket_nr++; late[me] = true
		:: else
		fi;
#endif
		asleep[me] = true;
		park_give();
		!asleep[me];
		park_take()
	od;
#ifdef LATE_BUCKET
	if
	:: !late[me] -> bucket_nr++
	:: else
	fi;
	late[me] = false;
#endif
	if
	:: in_bucket[me] -> in_bucket[me] = false; bucket_nr--
	:: else
	fi;
	park_give()
}
#ifdef LATE_BUCKET
bool late[THREADS];
#endif

inline wake()
{
	if
	:: bucket_nr ->
		park_take();
		d_step {
			i = 0;
			do
			:: i < THREADS ->
				if
				:: in_bucket[i] ->
					in_bucket[i] = false;
					bucket_nr--;
					woken[i] = true;
					asleep[i] = false;
#ifdef WAKE_ONE
					break
#endif
				:: else
				fi;
				i++
			:: else -> break
			od;
			i = 0
		};
		park_give()
	:: else
	fi
}

proctype thread(byte me)
{
	byte n = 0, v, i;
	bool had, hit;

	do
	:: n < ROUNDS ->
		n++;
		hit = false;
		if
		:: true ->
			/* a write: one try */
			atomic {
				if
				:: !locked -> locked = true; hit = true
				:: else
				fi
			}
		:: true
		fi;
		do
		:: hit -> break
		:: atomic { !hit && !locked -> locked = true };
			break
		:: atomic { !hit && locked -> v = version; waiters = true };
			sleep(me, v)
		od;
		holders++;
		assert(holders == 1);
		holders--;
#ifdef WAKE_FIRST
		had = waiters;
		if
		:: had -> wake()
		:: else
		fi;
#endif
		if
		:: hit ->
#ifdef HIT_STORES
			had = waiters;
			if
			:: !had ->
				/* what came between is lost */
				atomic { locked = false; waiters = false; version++ };
				goto unlocked
			:: else
			fi;
#else
			atomic {
				if
				:: !waiters -> locked = false; version++; had = false; goto unlocked
				:: else
				fi
			};
#endif
			version++
		:: else
		fi;
#ifdef TWO_STEPS
		had = waiters;
		atomic { locked = false; waiters = false };
#else
		atomic { had = waiters; locked = false; waiters = false };
#endif
#ifndef WAKE_FIRST
		if
		:: had -> wake()
		:: else
		fi;
#endif
unlocked:
		skip
	:: else -> break
	od
}

init {
	atomic {
		run thread(0);
		run thread(1);
		run thread(2)
	}
}
