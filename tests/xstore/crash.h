/* SPDX-License-Identifier: MIT */
/*
 * crash.h - scripts on xstore, and what every image owes that a power cut during one leaves.
 *
 *	crash_model.c	what a script did and was promised, and whether an image keeps it
 *	crash_device.c	the device below, in memory, that knows poison when it is read
 *	crash_script.c	scripts, drawn from a seed
 *	crash_cuts.c	the states of a script, each judged
 *
 * One seed gives one script, one log and one set of states: scripts run on an engine without
 * threads, and what happens at the same time is put there by holding I/O.  Whatever is
 * wrong ends the process by abort(), with a line that says what, and one that repeats it.
 *
 * Time in a script is counted in moments.  Each is a mark in the log; so of an image one
 * knows which moments were over when the power went.
 *
 * Threads: a script uses a second thread, but never at the same time; else none.
 */
#ifndef CRASH_H
#define CRASH_H

#include <stdbool.h>
#include <stdint.h>

#include "store.h"

#define CRASH_DEV_BYTES (768U << 10)
#define CRASH_OBJECT_MAX (32 << 10)
#define CRASH_NAMES 4
#define CRASH_STEPS 70
#define CRASH_POISON 0xdb
#define CRASH_STORE_ID UINT64_C(0x1234567890abcdef)

extern const char *const crash_names[CRASH_NAMES];

/* ---- what goes wrong ---- */

/* What is being done, for the lines that crash_die() prints. */
struct crash_where {
	uint64_t seed, moment;
	bool in_cut;
	uint64_t cut, kind, cut_seed;
	uint64_t states; /* judged before */
	bool told;	 /* each step, on stderr */
};
extern struct crash_where crash_where;

__attribute__((format(printf, 1, 2), noreturn)) void crash_die(const char *format, ...);
/* Must not fail. */
#define CRASH_OK(call)                                                      \
	do {                                                                \
		int crash_error = (call);                                   \
		if (crash_error)                                            \
			crash_die("%s: %s", #call, strerror(-crash_error)); \
	} while (0)

uint64_t crash_random(uint64_t *state);
void *crash_alloc(size_t bytes); /* zeroed; dies rather than fail */
struct iomap_engine *crash_engine(uint64_t cache_bytes);

/* ---- the device below ---- */

struct crash_device {
	struct iomap_bdev *bdev;
	unsigned char *bytes; /* CRASH_DEV_BYTES, the caller's */
	bool watched;	      /* to read a sector that is all poison is wrong: nobody wrote it */
};

/* @device stays where it is until its bdev is closed. */
void crash_device_open(struct crash_device *device, struct iomap_engine *engine,
		       unsigned char *bytes);

/* ---- the model ---- */

/* An object after one change. */
struct crash_version {
	uint64_t from; /* moment from which on it may be there */
	int64_t size;
	unsigned char *bytes; /* CRASH_OBJECT_MAX, zero behind the size */
};

#define CRASH_NEVER UINT64_MAX

/* From a moment on no byte of [start, end) is older than that version. */
struct crash_promise {
	uint64_t made;	 /* when what it takes had been done, but for a commit */
	uint64_t moment; /* when a commit was acknowledged; CRASH_NEVER: not yet */
	uint64_t until;	 /* when it ended; 0: it has not */
	int64_t start, end;
	size_t version;
	bool whole; /* the size is not older either */
	bool reach; /* the size covers the range, unless what came since is smaller */
	bool cut;   /* nor larger than what came since */
};

struct crash_object {
	struct crash_object *next; /* all of a model */
	struct crash_version *versions;
	size_t versions_nr;
	struct crash_promise *promises;
	size_t promises_nr;
	bool tainted; /* an error was reported: nothing new is promised */
};

/* What a name stands for. */
struct crash_name {
	uint64_t from, moment;	     /* as in versions and promises */
	struct crash_object *object; /* NULL: nothing */
};

struct crash_model {
	struct crash_object *objects;
	struct crash_name *names[CRASH_NAMES]; /* [0]: nothing, from the beginning */
	size_t names_nr[CRASH_NAMES];
};

void crash_model_init(struct crash_model *model);
void crash_model_exit(struct crash_model *model);

struct crash_object *crash_object_new(struct crash_model *model, uint64_t moment);
/* The newest version, and a new one, the same until the caller changes it. */
struct crash_version *crash_now(struct crash_object *object);
struct crash_version *crash_change(struct crash_object *object, uint64_t moment);
void crash_name_set(struct crash_model *model, int name, struct crash_object *object,
		    uint64_t moment);

/* All of the object as it is now has been written to the device: true of a commit to come. */
void crash_written(struct crash_object *object, uint64_t moment);
/* The same of some bytes. */
void crash_written_range(struct crash_object *object, uint64_t moment, int64_t start, int64_t end);
/* They have been written with O_DSYNC. */
void crash_synced_range(struct crash_object *object, uint64_t begin, uint64_t moment, int64_t start,
			int64_t end);
/* It has been truncated to what it is now. */
void crash_truncated(struct crash_object *object, uint64_t moment);
/*
 * A write of it fails, from @moment on: nothing more is promised; what is acknowledged stays,
 * but what was cut off may come back, as the zeros in its place may be what could not be
 * written.
 */
void crash_taint(struct crash_object *object, uint64_t moment);
/* A commit that began at @begin was acknowledged at @end. */
void crash_committed(struct crash_model *model, uint64_t begin, uint64_t end);
/* An fsync of @object, or of what @name stands for if it is not negative, likewise. */
void crash_synced(struct crash_model *model, struct crash_object *object, int name, uint64_t begin,
		  uint64_t end);

/*
 * Whether @name may look so, the power having gone after @moment.  @size -1: it is not there.
 * Return: NULL, or what is wrong.
 */
const char *crash_judge_name(const struct crash_model *model, int name, uint64_t moment,
			     const unsigned char *bytes, int64_t size);

/* ---- scripts ---- */

struct crash_script {
	struct crash_model model;
	struct iomap_bdev *log; /* of what it did, from the empty store on */
	uint64_t faults_nr;	/* injected */
	uint64_t held_nr;	/* writes held */

	struct iomap_engine *engine;
	struct crash_device device;
	struct iomap_bdev *low, *top; /* faulty, below and above the log */
};

/* Every third seed lets I/O fail as well. */
static inline bool crash_seed_has_faults(uint64_t seed)
{
	return seed % 3 == 0;
}

void crash_script_run(struct crash_script *script, uint64_t seed);
void crash_script_end(struct crash_script *script);

/* ---- states ---- */

enum crash_kind {
	CRASH_CUT_NONE,	  /* nothing of what was not durable has landed */
	CRASH_CUT_ALL,	  /* all of it */
	CRASH_CUT_PREFIX, /* the first cut_seed writes, whole */
	CRASH_CUT_WHOLE,  /* some, drawn from cut_seed, whole, in order */
	CRASH_CUT_RANDOM, /* some, in any order, torn */
};

/* Which kinds are tried. */
enum crash_cuts {
	CRASH_IN_ORDER, /* ALL, PREFIX: what has completed is there, as without a cache */
	CRASH_UNTORN,	/* ALL, NONE, WHOLE */
	CRASH_ALL,	/* ALL, NONE, RANDOM */
};

struct crash_plan {
	enum crash_cuts cuts;
	unsigned seeds; /* states drawn for each cut */
	/* images seen, of all scripts, in slots_nr (a power of two) slots; shared by processes */
	uint64_t *slots, slots_nr;
	uint64_t states, distinct, incomplete; /* counted up, atomically */
	uint64_t distinct_max;		       /* enough */
};

/* Judge the states of a script. */
void crash_try_all(const struct crash_script *script, struct crash_plan *plan);
/* Run a script, judge its states, end it. */
void crash_try_seed(uint64_t seed, struct crash_plan *plan);
/* Only the one state that $XS_CRASH names.  Return: false when it names none. */
bool crash_try_named(void);

#endif
