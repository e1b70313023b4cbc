/* SPDX-License-Identifier: MIT */
/*
 * policy_sim.c - what simple eviction policies make of a trace.
 *
 * Each object is on at most one list of a policy, by its number.  A list's head is where objects
 * come in, its tail where they are looked at.  Parameters are those that the policies' authors
 * recommend.
 *
 *	lru	a hit moves the object to the head; the tail goes
 *	clock	a hit marks it; the tail goes, or if it is marked comes in again without the mark
 *	sieve	the same, but what is marked stays where it is and the next one is looked at
 *	2q	a quarter for new objects, first in first out; one that comes again within half
 *		a cache of its eviction goes to an LRU list
 *	s3-fifo	a tenth for new objects, first in first out; one that was hit twice there, or comes
 *		again soon after it was evicted, goes to a clock with counts up to three
 */
#include <stdlib.h>
#include <string.h>

#include "policy.h"

#define NONE UINT32_MAX
#define COUNT_MAX 3U

struct list {
	uint32_t head, tail;
	uint64_t pages;
};

enum { OUT, SMALL, MAIN, GHOST };

struct sim {
	const struct policy_trace *trace;
	uint64_t capacity, small_pages, ghost_pages;
	struct list list[4]; /* by place; that of OUT is empty */
	uint32_t *next, *prev; /* towards the tail, towards the head */
	uint8_t *place, *mark;
	uint32_t hand; /* sieve's */
};

struct policy {
	const char *name;
	unsigned small_percent, ghost_percent; /* of the cache */
	void (*hit)(struct sim *sim, uint32_t object);
	void (*miss)(struct sim *sim, uint32_t object);
	void (*evict_one)(struct sim *sim); /* there is something */
};

static void take(struct sim *sim, uint32_t object)
{
	struct list *list = &sim->list[sim->place[object]];
	uint32_t next = sim->next[object], prev = sim->prev[object];

	if (next == NONE)
		list->tail = prev;
	else
		sim->prev[next] = prev;
	if (prev == NONE)
		list->head = next;
	else
		sim->next[prev] = next;
	list->pages -= policy_pages(sim->trace, object);
	sim->place[object] = OUT;
}

static void put(struct sim *sim, uint32_t object, uint8_t place)
{
	struct list *list = &sim->list[place];

	sim->place[object] = place;
	sim->prev[object] = NONE;
	sim->next[object] = list->head;
	if (list->head == NONE)
		list->tail = object;
	else
		sim->prev[list->head] = object;
	list->head = object;
	list->pages += policy_pages(sim->trace, object);
}

static void move_to(struct sim *sim, uint32_t object, uint8_t place)
{
	take(sim, object);
	put(sim, object, place);
}

/* Evicted, and remembered for a while. */
static void make_ghost(struct sim *sim, uint32_t object)
{
	move_to(sim, object, GHOST);
	while (sim->list[GHOST].pages > sim->ghost_pages)
		take(sim, sim->list[GHOST].tail);
}

/* ---- lru, clock, sieve: all on one list ---- */

static void plain_miss(struct sim *sim, uint32_t object)
{
	sim->mark[object] = 0;
	put(sim, object, MAIN);
}

static void lru_hit(struct sim *sim, uint32_t object)
{
	move_to(sim, object, MAIN);
}

static void lru_evict(struct sim *sim)
{
	take(sim, sim->list[MAIN].tail);
}

static void mark_hit(struct sim *sim, uint32_t object)
{
	sim->mark[object] = 1;
}

static void clock_evict(struct sim *sim)
{
	uint32_t object;

	while (sim->mark[object = sim->list[MAIN].tail]) {
		sim->mark[object]--;
		move_to(sim, object, MAIN);
	}
	take(sim, object);
}

static void sieve_evict(struct sim *sim)
{
	uint32_t object = sim->hand;

	if (object == NONE)
		object = sim->list[MAIN].tail;
	while (sim->mark[object]) {
		sim->mark[object] = 0;
		object = sim->prev[object];
		if (object == NONE)
			object = sim->list[MAIN].tail;
	}
	sim->hand = sim->prev[object];
	take(sim, object);
}

/* ---- 2q, s3-fifo: a list for new objects, and ghosts ---- */

static void ghost_miss(struct sim *sim, uint32_t object)
{
	bool again = sim->place[object] == GHOST;

	if (again)
		take(sim, object);
	sim->mark[object] = 0;
	put(sim, object, again ? MAIN : SMALL);
}

static void two_hit(struct sim *sim, uint32_t object)
{
	if (sim->place[object] == MAIN)
		move_to(sim, object, MAIN);
}

static void two_evict(struct sim *sim)
{
	if (sim->list[SMALL].pages > sim->small_pages || sim->list[MAIN].tail == NONE)
		make_ghost(sim, sim->list[SMALL].tail);
	else
		lru_evict(sim);
}

static void s3_hit(struct sim *sim, uint32_t object)
{
	if (sim->mark[object] < COUNT_MAX)
		sim->mark[object]++;
}

static void s3_evict(struct sim *sim)
{
	while (sim->list[SMALL].pages >= sim->small_pages && sim->list[SMALL].tail != NONE) {
		uint32_t object = sim->list[SMALL].tail;

		if (sim->mark[object] <= 1) {
			make_ghost(sim, object);
			return;
		}
		sim->mark[object] = 0;
		move_to(sim, object, MAIN);
	}
	if (sim->list[MAIN].tail != NONE)
		clock_evict(sim);
	else
		make_ghost(sim, sim->list[SMALL].tail);
}

static const struct policy policies[] = {
	{ "s3-fifo", 10, 90, s3_hit, ghost_miss, s3_evict },
	{ "sieve", 0, 0, mark_hit, plain_miss, sieve_evict },
	{ "2q", 25, 50, two_hit, ghost_miss, two_evict },
	{ "clock", 0, 0, mark_hit, plain_miss, clock_evict },
	{ "lru", 0, 0, lru_hit, plain_miss, lru_evict },
};

const struct policy *policy_find(const char *name)
{
	for (unsigned i = 0; i < sizeof(policies) / sizeof(policies[0]); i++)
		if (strcmp(policies[i].name, name) == 0)
			return &policies[i];
	return NULL;
}

/* ---- a run ---- */

static bool sim_init(struct sim *sim, const struct policy *policy,
		     const struct policy_trace *trace, uint64_t cache_pages)
{
	uint32_t nr = trace->spec.nr_objects;

	*sim = (struct sim){
		.trace = trace,
		.capacity = cache_pages,
		.small_pages = cache_pages * policy->small_percent / 100,
		.ghost_pages = cache_pages * policy->ghost_percent / 100,
		.next = malloc(nr * sizeof(*sim->next)),
		.prev = malloc(nr * sizeof(*sim->prev)),
		.place = calloc(nr, 1),
		.mark = calloc(nr, 1),
		.hand = NONE,
	};
	for (unsigned i = 0; i < 4; i++)
		sim->list[i] = (struct list){ NONE, NONE, 0 };
	return sim->next && sim->prev && sim->place && sim->mark;
}

static void sim_exit(struct sim *sim)
{
	free(sim->next);
	free(sim->prev);
	free(sim->place);
	free(sim->mark);
}

static bool sim_request(struct sim *sim, const struct policy *policy, uint32_t object)
{
	unsigned pages = policy_pages(sim->trace, object);

	if (sim->place[object] == SMALL || sim->place[object] == MAIN) {
		policy->hit(sim, object);
		return true;
	}
	while (sim->list[SMALL].pages + sim->list[MAIN].pages + pages > sim->capacity)
		policy->evict_one(sim);
	policy->miss(sim, object);
	return false;
}

double policy_simulate(const struct policy *policy, const struct policy_trace *trace,
		       uint64_t cache_pages)
{
	uint32_t nr = trace->spec.nr_requests, misses = 0;
	struct sim sim;

	if (!sim_init(&sim, policy, trace, cache_pages)) {
		sim_exit(&sim);
		return -1;
	}
	for (uint32_t at = 0; at < nr; at++)
		if (!sim_request(&sim, policy, trace->request[at]) && at >= nr / 2)
			misses++;
	sim_exit(&sim);
	return (double)misses / (nr - nr / 2);
}
