/* SPDX-License-Identifier: MIT */
/*
 * slow.c - waits that end, and log lines for I/O that takes too long.
 *
 * Nobody notes when an I/O begins: a clock read for each would be paid by all.  Instead there
 * is a look every now and then, at half of slow_io_ms, which marks what it sees for the first
 * time and logs what it has known for longer.  So a line comes between one time and one and a
 * half times slow_io_ms, and the age it tells is the least that it can be.  One I/O is logged
 * again when its age has doubled.
 *
 * What a look sees: threads that wait, in the parking lot, each with what it waits for on its
 * stack; and what nobody waits for (asynchronous direct I/O, ioends), in lists, by the number
 * of the thread that began it so that threads do not meet at one lock.
 *
 * A dump shows the same, with its age: exactly where begun_ns is set, which is done where it
 * costs little against what follows (a wait for a folio, an ioend), else since the first look.
 *
 * Who looks: the flusher, iomap_engine_poll() without threads, waits with a deadline.
 *
 * Locks: park_lock, or the lock of a list (IOMAP__RANK_POOL); lines are logged without.
 */
#include <stdio.h>

#include "block/internal.h"

#define SLOW_LINES 4U
#define SLOW_SLICE_NS 100000000U /* as often a wait looks at a clock that is not the system's */

struct slow_look {
	uint64_t now_ns, slow_ns;
	unsigned nr;
	char line[SLOW_LINES][192];
};

void iomap__slow_init(struct iomap__blk *blk)
{
	unsigned i;

	for (i = 0; i < IOMAP__SLOW_SHARDS; i++) {
		iomap__mutex_init(&blk->slow[i].lock, IOMAP__RANK_POOL);
		iomap__list_init(&blk->slow[i].list);
	}
}

void iomap__slow_begin(struct iomap__blk *blk, struct iomap__slow *slow)
{
	struct slow_shard *shard;

	slow->shard = iomap__thread_self()->id % IOMAP__SLOW_SHARDS;
	shard = &blk->slow[slow->shard];
	iomap__mutex_lock(&shard->lock);
	iomap__list_add_tail(&slow->entry, &shard->list);
	iomap__mutex_unlock(&shard->lock);
}

void iomap__slow_end(struct iomap__blk *blk, struct iomap__slow *slow)
{
	struct slow_shard *shard = &blk->slow[slow->shard];

	iomap__mutex_lock(&shard->lock);
	iomap__list_del(&slow->entry);
	iomap__mutex_unlock(&shard->lock);
}

bool iomap__slow_none(struct iomap__blk *blk)
{
	bool none = true;
	unsigned i;

	for (i = 0; none && i < IOMAP__SLOW_SHARDS; i++) {
		iomap__mutex_lock(&blk->slow[i].lock);
		none = iomap__list_empty(&blk->slow[i].list);
		iomap__mutex_unlock(&blk->slow[i].lock);
	}
	return none;
}

void iomap__slow_wait(struct iomap__slow *slow)
{
	struct iomap__thread *self = iomap__thread_self();

	slow->outer = self->waiting;
	self->waiting = slow;
}

void iomap__slow_wait_end(struct iomap__slow *slow)
{
	iomap__thread_self()->waiting = slow->outer;
}

/* ---- looking ---- */

static void slow_name(const struct iomap__slow *slow, char *of, size_t size)
{
	if (slow->device)
		snprintf(of, size, "%s", slow->device);
	else
		snprintf(of, size, "inode %llu", (unsigned long long)slow->ino);
}

/* Seen for the first time; its lock held. */
static bool slow_is_new(struct iomap__slow *slow, uint64_t now_ns, uint64_t slow_ns)
{
	if (slow->seen_ns)
		return false;
	/* 0 is taken */
	slow->seen_ns = iomap__max(now_ns, 1);
	slow->next_ns = slow->seen_ns + slow_ns;
	return true;
}

/* Its lock held. */
static void slow_see(void *arg, struct iomap__slow *slow)
{
	struct slow_look *look = arg;
	char of[96];

	if (slow_is_new(slow, look->now_ns, look->slow_ns))
		return;
	if (look->now_ns < slow->next_ns || look->nr == SLOW_LINES)
		return;
	slow_name(slow, of, sizeof(of));
	snprintf(look->line[look->nr++], sizeof(look->line[0]),
		 "slow I/O: %s, %s, %llu bytes at %lld: not done after %llu ms", of, slow->what,
		 (unsigned long long)slow->len, (long long)slow->pos,
		 (unsigned long long)((look->now_ns - slow->seen_ns) / 1000000));
	slow->next_ns = look->now_ns + (look->now_ns - slow->seen_ns);
}

uint64_t iomap__slow_interval(const struct iomap__blk *blk)
{
	return (uint64_t)blk->engine->opts.slow_io_ms * 500000U;
}

static bool slow_is_time(struct iomap__blk *blk, uint64_t now_ns)
{
	uint64_t next = atomic_load_explicit(&blk->slow_next_ns, memory_order_relaxed);

	/* relaxed: it only decides who looks; a look locks */
	return now_ns >= next &&
	       atomic_compare_exchange_strong_explicit(&blk->slow_next_ns, &next,
						       now_ns + iomap__slow_interval(blk),
						       memory_order_relaxed, memory_order_relaxed);
}

/* Calls @fn for each wait and each I/O that nobody waits for, with its lock held. */
static void slow_each(struct iomap__blk *blk, void (*fn)(void *arg, struct iomap__slow *slow),
		      void *arg)
{
	struct iomap_list_head *item;
	unsigned i;

	iomap__park_each_waiting(blk, fn, arg);
	for (i = 0; i < IOMAP__SLOW_SHARDS; i++) {
		struct slow_shard *shard = &blk->slow[i];

		iomap__mutex_lock(&shard->lock);
		for (item = shard->list.next; item != &shard->list; item = item->next)
			fn(arg, iomap__container_of(item, struct iomap__slow, entry));
		iomap__mutex_unlock(&shard->lock);
	}
}

struct slow_dump {
	struct iomap__lines *lines;
	uint64_t now_ns, slow_ns;
};

/* Its lock held. */
static void slow_tell(void *arg, struct iomap__slow *slow)
{
	struct slow_dump *dump = arg;
	uint64_t since_ns, age_ns;
	char of[96];

	(void)slow_is_new(slow, dump->now_ns, dump->slow_ns);
	since_ns = slow->begun_ns ? slow->begun_ns : slow->seen_ns;
	age_ns = since_ns < dump->now_ns ? dump->now_ns - since_ns : 0;
	slow_name(slow, of, sizeof(of));
	iomap__lines_add(dump->lines, "in flight: %s, %s, %llu bytes at %lld: %s%llu.%03llu ms", of,
			 slow->what, (unsigned long long)slow->len, (long long)slow->pos,
			 slow->begun_ns ? "" : "at least ", (unsigned long long)(age_ns / 1000000),
			 (unsigned long long)(age_ns / 1000 % 1000));
}

void iomap__slow_dump(struct iomap__blk *blk, struct iomap__lines *lines)
{
	struct slow_dump dump = {
		.lines = lines,
		.now_ns = iomap__now_ns(blk->env),
		.slow_ns = (uint64_t)blk->engine->opts.slow_io_ms * 1000000U,
	};

	slow_each(blk, slow_tell, &dump);
}

void iomap__slow_look(struct iomap__blk *blk)
{
	struct slow_look look = {
		.now_ns = iomap__now_ns(blk->env),
		.slow_ns = (uint64_t)blk->engine->opts.slow_io_ms * 1000000U,
	};
	unsigned i;

	if (!slow_is_time(blk, look.now_ns))
		return;
	slow_each(blk, slow_see, &look);
	for (i = 0; i < look.nr; i++)
		iomap__log(blk->env, IOMAP_LOG_WARN, "%s", look.line[i]);
}

/* ---- waits that end ---- */

bool iomap__io_wait_until(struct iomap__blk *blk, const uint32_t *word, uint32_t expected,
			  uint64_t deadline_ns)
{
	uint64_t now;

	if (iomap__likely(!deadline_ns)) {
		iomap__io_wait(blk, word, expected);
		return true;
	}
	now = iomap__now_ns(blk->env);
	if (now >= deadline_ns) {
		/* it may be over, and nobody have looked */
		iomap__io_poll(blk);
		return false;
	}
	/* the engine's clock need not be the system's: not in one piece */
	if (!iomap__io_wait_timeout(blk, word, expected,
				    iomap__min(deadline_ns - now, SLOW_SLICE_NS)))
		iomap__slow_look(blk);
	return true;
}
