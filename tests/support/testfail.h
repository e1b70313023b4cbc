/* SPDX-License-Identifier: MIT */
/*
 * testfail.h - let each operation that can fail do so once in turn (EN10).
 *
 * A script runs once without failures, which counts the operations of each kind, and then
 * once for each operation with that one failing.  A script fills in the engine's options by
 * tf_opts(), says by tf_call() which call it is about to make, tells by tf_event() of each
 * call that failed, and looks at `at` to know where the failure came.
 *
 * What the script does between tf_pause() and tf_go_on() neither counts nor fails.
 */
#ifndef TESTFAIL_H
#define TESTFAIL_H

#include "testutil.h"

#define TF_EVENTS 64

/* A kind behind the library's: what the script itself asks for, by tf_application_fails(). */
#define TF_APPLICATION IOMAP_FAIL_KINDS_NR
#define TF_KINDS_NR (IOMAP_FAIL_KINDS_NR + 1)

/* A call that failed, or did less than it was asked for. */
struct tf_event {
	const char *call;
	int observer; /* who was told of a failed write-out: the script's number; -1: nobody */
	int error;    /* 0: less than asked for */
};

/* Where the failure came. */
struct tf_at {
	const char *call; /* what tf_call() said */
	unsigned where;	  /* what tf->where was: the script's */
	uint64_t op;	  /* what tf->op was: the script's */
};

struct tf {
	/* what is to fail: the nth (from 1) operation of `kind`; 0: none, `always`: all */
	unsigned kind; /* enum iomap_fail_kind or TF_APPLICATION */
	uint64_t n;
	bool always;

	/* the script's, for tf_at; 0 at the beginning of each call but for op */
	const char *call;
	unsigned where;
	uint64_t op;

	/* what came */
	_Atomic uint64_t nr[TF_KINDS_NR]; /* operations that count */
	_Atomic uint64_t last[TF_KINDS_NR]; /* the library's number of the last one */
	bool in_order;	/* the library numbers are checked: there is one thread */
	_Atomic bool paused, fired;
	bool in_hook; /* memory for the library is being allocated; with one thread */
	struct tf_at at;
	struct tf_event event[TF_EVENTS];
	unsigned events_nr;

	/* memory that the library has */
	_Atomic int64_t blocks_nr, bytes;
	unsigned fds_nr;
};

/* Begin a run: everything is zero but what is to fail. */
void tf_begin(struct tf *tf, unsigned kind, uint64_t n);
/* The hooks. */
void tf_opts(struct tf *tf, struct iomap_engine_opts *opts);
static inline void tf_call(struct tf *tf, const char *call)
{
	tf->call = call;
	tf->where = 0;
}
void tf_event(struct tf *tf, int observer, int error);
/* An allocation of the script's own: it is to fail. */
bool tf_application_fails(struct tf *tf);
static inline void tf_pause(struct tf *tf)
{
	tf->paused = true;
}
static inline void tf_go_on(struct tf *tf)
{
	tf->paused = false;
}
/* Events of this call (NULL: any) that this observer (-2: any) had. */
unsigned tf_events(const struct tf *tf, const char *call, int observer);
/* After the end of the engine: nothing of it is left.  Ends the test otherwise. */
void tf_end(struct tf *tf);
/* What failed, and what came of it, on stderr; for a test that is about to fail. */
void tf_print(const struct tf *tf);
const char *tf_kind_name(unsigned kind);

/*
 * All of it: run(arg, tf) clean, and once for each operation; `check` after each run but the
 * first.  Prints, and checks, that as many operations failed as there were.
 */
struct tf_script {
	const char *name;
	void (*run)(void *arg, struct tf *tf);
	void (*check)(void *arg, struct tf *tf);
	void *arg;
	uint64_t max_io; /* of the clean run; 0: any number */
	bool threads;	 /* counts differ from run to run: not all need fail */
	/* Of these kinds only every so many fails, but with $IOMAP_FULL all of them [1]. */
	uint64_t every[TF_KINDS_NR];
};
void tf_each(const struct tf_script *script);

#endif
