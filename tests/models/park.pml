/* SPDX-License-Identifier: MIT */
/*
 * park.pml - threads that wait for words to change and reap the I/O on which that hangs
 * (lib/block/park.c; its head has the proof).
 *
 * One queue.  Two requests are submitted by a thread that does not wait for them; each, when
 * its completion has been collected, changes the word of one of two waiters.  Nobody collects
 * but the waiters, and of them only the one that has the role.
 *
 * What happens under park_lock is not one step, since submitters and completions look at some of
 * it without the lock; read-modify-writes are one step each.
 *
 * Or, with EXPECT_WAIT, the second request is submitted by its waiter, who has said before that
 * it will wait; with EXPECT_PASS by a thread that has said so and does not wait after all.  The first
 * waiter lives elsewhere, and leaves the queue to whoever is expected.
 *
 * Shown: both waiters come to an end, however the steps interleave; one reaper at a time.
 * Left out: several queues and homes, kicks that come late, inherited roles, deadlines.
 *
 * config: -DPLAIN
 * config: -DEXPECT_WAIT
 * config: -DEXPECT_PASS
 *
 * plant: NO_OFFER	who gives the role up as it leaves wakes nobody for it
 * plant: NO_WORK_ADDED	who submits wakes nobody
 * plant: LOOK_FIRST	who submits looks for sleepers before the request counts
 * plant: WORD_FIRST	the word is looked at only before the waiter is in the bucket
 * plant: NO_TAKE	who is about to sleep does not look for a queue without a reaper
 * plant: STAYS_EXPECTED	who waits is expected until it has waited
 * plant: NO_LOOK	who was expected and does not wait wakes nobody
 * plant: LOOK_EXPECTED	and looks for sleepers while it is still expected
 */
#define NOBODY 2
#define RUNNING 0
#define FUTEX 1
#define RING 2

byte inflight; /* submitted and not collected */
byte ready;    /* bit i: request i may be collected */
byte word;     /* bit i: waiter i's word has changed */
bool park_lock;
byte reaper = NOBODY;
byte state[2];
bool in_bucket[2];
bool woken[2];
byte bucket_nr;
byte nr_waiters;
byte expected;
byte sent;     /* bit i: request i has been submitted */

inline park_take()
{
	atomic { !park_lock -> park_lock = true }
}

inline park_give()
{
	park_lock = false
}

/* park_lock held. */
inline offer()
{
	if
	:: reaper == NOBODY && inflight && !expected ->
		d_step {
			if
			:: state[0] == FUTEX -> state[0] = RUNNING
			:: else ->
				if
				:: state[1] == FUTEX -> state[1] = RUNNING
				:: else
				fi
			fi
		}
	:: else
	fi
}

/* The word of waiter w has changed. */
inline wake(w)
{
	if
	:: bucket_nr ->
		park_take();
		if
		:: in_bucket[w] ->
			in_bucket[w] = false;
			woken[w] = true;
			bucket_nr--;
			state[w] = RUNNING
		:: else
		fi;
		park_give()
	:: else
	fi
}

inline reap()
{
	do
	:: ready & 1 -> atomic { ready = ready & 2; inflight-- };
		atomic { word = word | 1 };
		wake(0);
		any = true
	:: !(ready & 1) && ready & 2 -> atomic { ready = ready & 1; inflight-- };
		atomic { word = word | 2 };
		wake(1);
		any = true
	:: !ready -> break
	od
}

#ifdef EXPECT_WAIT
#define at_home(me) (me == 1)
#else
#define at_home(me) false
#endif

#define changed(me) (woken[me] || word & (1 << me))

inline take_role(me)
{
	took = false;
	if
	:: reaper == NOBODY && inflight && (at_home(me) || !expected) -> reaper = me; took = true
	:: else
	fi
}

proctype waiter(byte me)
{
	bool any, took;

#ifdef EXPECT_WAIT
	if
	:: me == 1 ->
		expected++;
		atomic { inflight++; sent = sent | 2 }
	:: else
	fi;
#endif
#ifdef WORD_FIRST
	if
	:: word & (1 << me) -> goto done
	:: else
	fi;
#endif
	park_take();
	in_bucket[me] = true;
	bucket_nr++;
	nr_waiters++;
#if defined(EXPECT_WAIT) && !defined(STAYS_EXPECTED)
	if
	:: me == 1 -> expected--
	:: else
	fi;
#endif
	do
#ifdef WORD_FIRST
	:: woken[me] -> break
	:: !woken[me] ->
#else
	:: changed(me) -> break
	:: !changed(me) ->
#endif
#ifndef NO_TAKE
		take_role(me);
#else
		if
		:: reaper == NOBODY && ready -> reaper = me
		:: else
		fi;
#endif
		if
		:: reaper == me ->
			any = false;
			park_give();
			reap();
			park_take();
			if
			:: reaper == me && !inflight ->
				reaper = NOBODY;
				if
				:: inflight -> reaper = me; any = true
				:: else
				fi
			:: else
			fi;
			take_role(me);
			if
			:: any || took || changed(me) || (reaper == me && ready) -> goto again
			:: else
			fi
		:: else
		fi;
		if
		:: reaper == me -> state[me] = RING
		:: else -> state[me] = FUTEX
		fi;
		park_give();
		/* the ring is readable when there is something to collect */
		(state[me] == RUNNING || (state[me] == RING && ready));
		park_take();
		state[me] = RUNNING;
again:
		skip
	od;
	if
	:: in_bucket[me] -> in_bucket[me] = false; bucket_nr--
	:: else
	fi;
	nr_waiters--;
	if
	:: reaper == me -> reaper = NOBODY
	:: else
	fi;
#ifndef NO_OFFER
	offer();
#endif
	park_give();
done:
	skip
}

inline look_for_sleepers()
{
#ifndef NO_WORK_ADDED
	if
	:: nr_waiters ->
		if
		:: reaper == NOBODY ->
			park_take();
			offer();
			park_give()
		:: else
		fi
	:: else
	fi
#else
	skip
#endif
}

#ifdef PLAIN
#define SUBMITTED 2
#else
#define SUBMITTED 1
#endif

#ifdef EXPECT_PASS
proctype passer()
{
	expected++;
	atomic { inflight++; sent = sent | 2 };
#ifdef LOOK_EXPECTED
	if
	:: inflight -> look_for_sleepers()
	:: else
	fi;
	expected--
#else
	expected--;
#ifndef NO_LOOK
	if
	:: inflight -> look_for_sleepers()
	:: else
	fi
#endif
#endif
}
#endif

proctype submitter()
{
	byte n = 0;

	do
	:: n < SUBMITTED ->
#ifdef LOOK_FIRST
		look_for_sleepers();
		atomic { inflight++; sent = sent | (1 << n) };
#else
		atomic { inflight++; sent = sent | (1 << n) };
		look_for_sleepers();
#endif
		n++
	:: else -> break
	od
}
/* The device: in any order. */
proctype device()
{
	byte done = 0;

	do
	:: sent & 1 && !(done & 1) -> atomic { done = done | 1; ready = ready | 1 }
	:: sent & 2 && !(done & 2) -> atomic { done = done | 2; ready = ready | 2 }
	:: done == 3 -> break
	od
}

init {
	atomic {
		run waiter(0);
		run waiter(1);
		run submitter();
#ifdef EXPECT_PASS
		run passer();
#endif
		run device()
	};
	_nr_pr == 1;
	assert(word == 3 && !bucket_nr && !nr_waiters && reaper == NOBODY)
}
