/* SPDX-License-Identifier: MIT */
/*
 * flusher.c - the background thread that writes dirty data by amount and by age, and the
 * list of dirty inodes it works from.
 *
 * An inode is on the list from its first dirty page on, in order of age, so that the one that
 * is to be written by age is the first.  By amount each inode has its turn, whatever its age: a mark
 * goes round the list, and no inode changes its place by that.  The flusher pins it (i_pins_nr),
 * writes without the list's lock, and takes it off when it has no dirty page left: it clears
 * DIRTY_LISTED first and then looks at the count once more, while a thread that dirties a
 * page counts first and then looks at DIRTY_LISTED, so one of the two puts it back.
 *
 * What could not be written, of inodes that keep it (retry.c), is passed by until its time has
 * come; then the inode has a turn for that.
 *
 * The thread sleeps on flusher_word; while writeback is in flight it does so in the parking
 * lot, and completes what nobody else waits for.  It blocks all signals.
 *
 * Without threads iomap_engine_poll() does the same, a piece at a time: no more than
 * FLUSH_PAGES pages, so that the application's event loop goes on.  An inode with more keeps
 * its age and its place at the head of the list, and the next poll goes on with it.  The loop
 * asks iomap__flusher_poll_timeout() how long it may sleep, and is notified where that answer
 * has become too long: when there is dirty data for the first time, or too much of it, or what a
 * smaller size has left is to be given back (resize.c).
 */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "cache/internal.h"

/* Pages of one inode that are written before the next one has its turn. */
#define FLUSH_PAGES 2048
/* Inodes without anything to write after which a search for some ends. */
#define FLUSH_IDLE 16

/* ---- the list ---- */

/* All of them with dirty_lock held. */

static struct iomap_inode *dirty_inode(struct iomap_list_head *item)
{
	return iomap__container_of(item, struct iomap_inode, i_dirty_list);
}

static void list_del(struct iomap__cache *cache, struct iomap_inode *inode)
{
	if (cache->dirty_turn == &inode->i_dirty_list)
		cache->dirty_turn = inode->i_dirty_list.next;
	iomap__list_del(&inode->i_dirty_list);
}

static bool is_resumed(const struct iomap_inode *inode)
{
	return iomap__load(&inode->i_state) & IOMAP__I_RESUME;
}

/*
 * Where it belongs: those that were resumed are first, which alone is looked at; the others come by
 * age, mostly at the tail or near it.
 */
static void list_add(struct iomap__cache *cache, struct iomap_inode *inode)
{
	struct iomap_list_head *head = &cache->dirty_inodes;
	struct iomap_list_head *after = is_resumed(inode) ? head : head->prev;

	while (after != head && !is_resumed(dirty_inode(after)) &&
	       dirty_inode(after)->i_dirtied_ns > inode->i_dirtied_ns)
		after = after->prev;
	iomap__list_add_tail(&inode->i_dirty_list, after->next);
}

static void put_dirty_since(struct iomap_inode *inode, uint64_t since_ns)
{
	struct iomap__cache *cache = inode->i_engine->cache;
	bool first = false;

	iomap__mutex_lock(&cache->dirty_lock);
	/* one that is frozen has left for good, or thaws and comes then */
	if (!(iomap__load(&inode->i_state) & (IOMAP__I_DIRTY_LISTED | IOMAP__I_DYING))) {
		first = iomap__list_empty(&cache->dirty_inodes);
		inode->i_dirtied_ns = since_ns;
		list_add(cache, inode);
		__atomic_fetch_or(&inode->i_state, IOMAP__I_DIRTY_LISTED, __ATOMIC_SEQ_CST);
	}
	iomap__mutex_unlock(&cache->dirty_lock);
	if (first && !cache->flusher_runs)
		iomap__loop_notify(cache->engine->blk);
}

void iomap__inode_put_dirty(struct iomap_inode *inode)
{
	if (!(__atomic_load_n(&inode->i_state, __ATOMIC_SEQ_CST) & IOMAP__I_DIRTY_LISTED))
		put_dirty_since(inode, iomap__now_ns(&inode->i_engine->env));
}

void iomap__inode_rejoin_dirty(struct iomap_inode *inode)
{
	if (iomap__load_acquire(&inode->i_data.nr_dirty_pages))
		put_dirty_since(inode, inode->i_dirtied_ns);
}

void iomap__inode_leave_dirty(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;

	iomap__mutex_lock(&cache->dirty_lock);
	list_del(cache, inode);
	iomap__fetch_and(&inode->i_state, ~IOMAP__I_DIRTY_LISTED);
	iomap__mutex_unlock(&cache->dirty_lock);
}

/* Under dirty_lock: off the list if it is clean. */
static void drop_if_clean(struct iomap__cache *cache, struct iomap_inode *inode)
{
	__atomic_fetch_and(&inode->i_state, ~IOMAP__I_DIRTY_LISTED, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&inode->i_data.nr_dirty_pages, __ATOMIC_SEQ_CST))
		__atomic_fetch_or(&inode->i_state, IOMAP__I_DIRTY_LISTED, __ATOMIC_SEQ_CST);
	else
		list_del(cache, inode);
}

/* dirty_lock held: it is about to be written. */
static void take(struct iomap__cache *cache, struct iomap_inode *inode)
{
	iomap__inode_pin(inode);
	/* one that came to the head by this goes where it belongs, or older ones would hide */
	if (is_resumed(inode)) {
		iomap__fetch_and(&inode->i_state, ~IOMAP__I_RESUME);
		list_del(cache, inode);
		list_add(cache, inode);
	}
}

/* The inode whose turn it is, pinned: all of the class, and of higher ones, have one. */
static struct iomap_inode *take_turn(struct iomap__cache *cache, unsigned class)
{
	struct iomap_list_head *item, *begin;
	struct iomap_inode *inode = NULL;

	iomap__mutex_lock(&cache->dirty_lock);
	/* what was resumed waits at the head */
	item = cache->dirty_inodes.next;
	if (item == &cache->dirty_inodes ||
	    !is_resumed(dirty_inode(item)))
		item = cache->dirty_turn;
	begin = item;
	do {
		if (item != &cache->dirty_inodes && dirty_inode(item)->i_class >= class) {
			inode = dirty_inode(item);
			cache->dirty_turn = item->next;
			take(cache, inode);
		}
		item = item->next;
	} while (!inode && item != begin);
	iomap__mutex_unlock(&cache->dirty_lock);
	return inode;
}

/*
 * dirty_lock held.  When data that could not be written is to be tried again: the inode for which
 * that is first, *@due_ns; NULL: there is none.
 */
static struct iomap_inode *next_retry(struct iomap__cache *cache, uint64_t *due_ns)
{
	struct iomap_inode *first = NULL;
	struct iomap_list_head *item;

	*due_ns = UINT64_MAX;
	if (iomap__likely(!atomic_load(&cache->nr_failed)))
		return NULL;
	for (item = cache->dirty_inodes.next; item != &cache->dirty_inodes; item = item->next) {
		const struct iomap_address_space *mapping = &dirty_inode(item)->i_data;
		uint64_t due = iomap__load(&mapping->retry_ns);

		if (!iomap__load(&mapping->nr_failed_pages) || due >= *due_ns)
			continue;
		first = dirty_inode(item);
		*due_ns = due;
	}
	return first;
}

/* One whose time has come, pinned. */
static struct iomap_inode *take_retry(struct iomap__cache *cache, uint64_t now)
{
	struct iomap_inode *inode;
	uint64_t due_ns;

	iomap__mutex_lock(&cache->dirty_lock);
	inode = next_retry(cache, &due_ns);
	if (inode && due_ns > now)
		inode = NULL;
	if (inode)
		take(cache, inode);
	iomap__mutex_unlock(&cache->dirty_lock);
	return inode;
}

/* dirty_lock held. */
static struct iomap_inode *oldest(struct iomap__cache *cache)
{
	if (iomap__list_empty(&cache->dirty_inodes))
		return NULL;
	return dirty_inode(cache->dirty_inodes.next);
}

/* The oldest one, pinned, if it was dirtied @age before @now, or resumed. */
static struct iomap_inode *take_expired(struct iomap__cache *cache, uint64_t now, uint64_t age)
{
	struct iomap_inode *inode;

	iomap__mutex_lock(&cache->dirty_lock);
	inode = oldest(cache);
	if (inode && !(now >= age && inode->i_dirtied_ns <= now - age) &&
	    !is_resumed(inode))
		inode = NULL;
	if (inode)
		take(cache, inode);
	iomap__mutex_unlock(&cache->dirty_lock);
	return inode;
}

void iomap__flusher_resume(struct iomap_inode *inode)
{
	struct iomap__cache *cache = inode->i_engine->cache;

	iomap__mutex_lock(&cache->dirty_lock);
	/* one that is clean has nothing that was held back, and is not urgent when it gets dirty */
	if (iomap__load_acquire(&inode->i_data.nr_dirty_pages))
		iomap__fetch_or(&inode->i_state, IOMAP__I_RESUME);
	if (is_resumed(inode) && iomap__load(&inode->i_state) & IOMAP__I_DIRTY_LISTED) {
		list_del(cache, inode);
		list_add(cache, inode);
	}
	iomap__mutex_unlock(&cache->dirty_lock);
	iomap__flusher_kick(inode->i_engine);
}

/* @whole: what was dirty is on its way; what there is now is young. */
static void give_back(struct iomap__cache *cache, struct iomap_inode *inode, bool whole)
{
	iomap__mutex_lock(&cache->dirty_lock);
	if (iomap__load(&inode->i_state) & IOMAP__I_DIRTY_LISTED) {
		if (whole) {
			list_del(cache, inode);
			inode->i_dirtied_ns = iomap__now_ns(&cache->engine->env);
			list_add(cache, inode);
		}
		drop_if_clean(cache, inode);
	}
	iomap__mutex_unlock(&cache->dirty_lock);
	iomap__inode_unpin(inode);
}

/* ---- writing ---- */

uint64_t iomap__flush_some(struct iomap__cache *cache, unsigned class, uint64_t nr_pages)
{
	const struct iomap_inode *first = NULL; /* of those with nothing to write; an address */
	uint64_t done = 0;
	unsigned idle = 0;

	while (done < nr_pages) {
		struct iomap_inode *inode = take_turn(cache, class);
		uint64_t nr;

		if (!inode)
			break;
		nr = iomap__write_some(&inode->i_data, iomap__min(nr_pages - done, FLUSH_PAGES));
		give_back(cache, inode, false);
		done += nr;
		if (nr) {
			first = NULL;
			idle = 0;
			continue;
		}
		/* what is left is under way, or held back by the application */
		if (inode == first || ++idle > FLUSH_IDLE)
			break;
		if (!first)
			first = inode;
	}
	return done;
}

/* The thread is to end, or nothing new is begun in the engine. */
static bool flush_is_off(struct iomap__cache *cache)
{
	return atomic_load(&cache->flusher_stop) || iomap__engine_closed(cache->engine);
}

/*
 * @began, or now, if the application's clock has gone back: what was given back since is young by
 * both, so a search for what is old ends.
 */
static uint64_t earlier(struct iomap_engine *engine, uint64_t began)
{
	uint64_t now = iomap__now_ns(&engine->env);

	return iomap__min(now, began);
}

static void flush_expired(struct iomap__cache *cache)
{
	struct iomap_engine *engine = cache->engine;
	uint64_t age = (uint64_t)engine->opts.dirty_expire_ms * 1000000;
	uint64_t began = iomap__now_ns(&engine->env);
	struct iomap_inode *inode;

	while (!flush_is_off(cache) &&
	       (inode = take_expired(cache, earlier(engine, began), age))) {
		/* what is dirtied meanwhile is young */
		uint64_t left = iomap__load(&inode->i_data.nr_dirty_pages);

		while (left) {
			uint64_t nr = iomap__min(left, FLUSH_PAGES);

			left -= nr;
			if (iomap__write_some(&inode->i_data, nr) < nr)
				break;
		}
		give_back(cache, inode, true);
	}
}

/*
 * Once over the limit, write down to half of it: a flusher that hovers at the limit writes a
 * few pages at a time, and each such piece is an ioend of its own.
 */
static void flush_amount(struct iomap__cache *cache)
{
	uint64_t low = cache->background_pages / 2, limit = cache->background_pages;

	while (!flush_is_off(cache)) {
		uint64_t dirty = atomic_load(&cache->nr_dirty);
		uint32_t seq = iomap__load_acquire(&cache->wb_seq);

		if (dirty <= limit)
			break;
		limit = low;
		if (!iomap__flush_some(cache, 0, dirty - low))
			break;
		/* do not pile up more than the device takes */
		if (atomic_load(&cache->nr_writeback) > cache->hard_pages / 2)
			/* a work function, which may wait for what the flusher does, is not for it */
			(void)iomap__wb_sleep(cache, seq);
	}
}

/*
 * Try again what could not be written.  What is under way is no failure any more; what could not
 * even be tried, since somebody has it locked, is looked at again in a while.
 */
static uint64_t flush_retries(struct iomap__cache *cache, uint64_t nr_pages)
{
	struct iomap_engine *engine = cache->engine;
	uint64_t interval_ns = (uint64_t)engine->opts.flush_interval_ms * 1000000;
	uint64_t now = iomap__now_ns(&engine->env), done = 0, nr;
	struct iomap_inode *inode;

	while (done < nr_pages && !flush_is_off(cache) && (inode = take_retry(cache, now))) {
		nr = iomap__write_some(&inode->i_data, iomap__min(nr_pages - done, FLUSH_PAGES));
		if (!nr)
			iomap__mapping_put_off(&inode->i_data, now + interval_ns);
		give_back(cache, inode, false);
		done += nr;
	}
	return done;
}

/* For want of clean folios, whatever the limits are. */
static void flush_wanted(struct iomap__cache *cache)
{
	uint64_t wanted = atomic_exchange(&cache->clean_wanted, 0);

	if (wanted && !flush_is_off(cache))
		(void)iomap__flush_some(cache, 0, wanted);
}

/* ---- without threads ---- */

static uint64_t poll_expired(struct iomap__cache *cache, uint64_t nr_pages)
{
	struct iomap_engine *engine = cache->engine;
	uint64_t age = (uint64_t)engine->opts.dirty_expire_ms * 1000000;
	uint64_t began = iomap__now_ns(&engine->env), done = 0;
	struct iomap_inode *inode;

	while (done < nr_pages &&
	       (inode = take_expired(cache, earlier(engine, began), age))) {
		uint64_t left = iomap__load(&inode->i_data.nr_dirty_pages);
		uint64_t want = iomap__min(left, nr_pages - done), nr = 0;

		if (want)
			nr = iomap__write_some(&inode->i_data, want);
		/* less than was asked for: the rest is under way, or held back */
		give_back(cache, inode, nr == left || nr < want);
		done += nr;
	}
	return done;
}

/* Pages to write by amount; as the thread does, down to half of the limit. */
static uint64_t poll_excess(struct iomap__cache *cache)
{
	uint64_t low = cache->background_pages / 2, dirty = atomic_load(&cache->nr_dirty);
	uint64_t limit = atomic_load(&cache->poll_lowers) ? low : cache->background_pages;

	/* do not pile up more than the device takes: its completions come to the loop */
	if (dirty <= limit || atomic_load(&cache->nr_writeback) > cache->hard_pages / 2)
		return 0;
	return dirty - low;
}

static uint64_t poll_amount(struct iomap__cache *cache, uint64_t nr_pages)
{
	struct iomap_engine *engine = cache->engine;
	uint64_t now = iomap__now_ns(&engine->env), excess = poll_excess(cache), done;

	atomic_store(&cache->poll_lowers, excess != 0);
	if (!excess || now < atomic_load(&cache->poll_retry_ns))
		return 0;
	done = iomap__flush_some(cache, 0, iomap__min(excess, nr_pages));
	/* all of it is held back: ask again as often as the thread would */
	if (!done)
		atomic_store(&cache->poll_retry_ns,
			     now + (uint64_t)engine->opts.flush_interval_ms * 1000000);
	return done;
}

unsigned iomap__flusher_poll(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;
	uint64_t done;

	if (cache->flusher_runs)
		return 0;
	iomap__slow_look(engine->blk);
	/* of two polls one is enough; the other has its own loop to go on with */
	if (iomap__engine_closed(engine) || atomic_exchange(&cache->poll_busy, true))
		return 0;
	atomic_store(&cache->flusher_kicked, false);
	iomap__cache_trim(cache);
	iomap__reclaim_ahead(cache, FLUSH_PAGES);
	done = poll_amount(cache, FLUSH_PAGES);
	if (done < FLUSH_PAGES)
		done += flush_retries(cache, FLUSH_PAGES - done);
	if (done < FLUSH_PAGES)
		done += poll_expired(cache, FLUSH_PAGES - done);
	atomic_store(&cache->poll_busy, false);
	return done != 0;
}

int64_t iomap__flusher_poll_timeout(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;
	uint64_t age = (uint64_t)engine->opts.dirty_expire_ms * 1000000;
	uint64_t now = iomap__now_ns(&engine->env), at = UINT64_MAX, retry_ns;
	bool closed = iomap__engine_closed(engine);
	struct iomap_inode *inode;

	if (cache->flusher_runs)
		return -1;
	if (!iomap__slow_none(engine->blk))
		at = now + iomap__slow_interval(engine->blk);
	iomap__mutex_lock(&cache->dirty_lock);
	inode = closed ? NULL : oldest(cache);
	if (inode) {
		uint64_t due = inode->i_dirtied_ns + age;

		if (is_resumed(inode))
			due = now;
		at = iomap__min(at, due);
	}
	if (!closed && next_retry(cache, &retry_ns))
		at = iomap__min(at, retry_ns);
	iomap__mutex_unlock(&cache->dirty_lock);
	if (!closed && poll_excess(cache))
		at = iomap__min(at, atomic_load(&cache->poll_retry_ns));
	if (!closed && iomap__cache_wants_trim(cache))
		at = iomap__min(at, now + (uint64_t)engine->opts.flush_interval_ms * 1000000);
	if (at == UINT64_MAX)
		return -1;
	return at <= now ? 0 : (int64_t)iomap__min(at - now, (uint64_t)INT64_MAX);
}

/* ---- the thread ---- */

/*
 * Sleep until the word moves.  With writeback in flight in the parking lot, to complete what
 * nobody else waits for; else on the word alone, since a thread in the parking lot is woken
 * to reap for others, and reads are completed by those who wait for them.
 */
static void flusher_sleep(struct iomap__cache *cache, uint32_t word)
{
	struct iomap_engine *engine = cache->engine;
	uint64_t interval_ns = (uint64_t)engine->opts.flush_interval_ms * 1000000;
	uint64_t retry_ns, now;

	interval_ns = iomap__min(interval_ns, iomap__slow_interval(engine->blk));
	iomap__mutex_lock(&cache->dirty_lock);
	if (next_retry(cache, &retry_ns)) {
		now = iomap__now_ns(&engine->env);
		interval_ns = iomap__min(interval_ns, retry_ns > now ? retry_ns - now : 0);
	}
	iomap__mutex_unlock(&cache->dirty_lock);
	if (atomic_load(&cache->nr_writeback))
		(void)iomap__io_wait_timeout(engine->blk, &cache->flusher_word, word, interval_ns);
	else
		(void)iomap__futex_wait_timeout(&cache->flusher_word, word, interval_ns);
}

static void flusher_wake(struct iomap__cache *cache)
{
	iomap__fetch_add(&cache->flusher_word, 1);
	iomap__io_wake(cache->engine->blk, &cache->flusher_word);
	iomap__futex_wake(&cache->flusher_word, 1);
}

static void *flusher_main(void *arg)
{
	struct iomap__cache *cache = arg;
	struct iomap_engine *engine = cache->engine;

	(void)prctl(PR_SET_NAME, "iomap-flusher");
	while (!atomic_load(&cache->flusher_stop)) {
		uint32_t word = iomap__load_acquire(&cache->flusher_word);

		atomic_store(&cache->flusher_kicked, false);
		iomap__reclaim_ahead(cache, UINT64_MAX);
		flush_wanted(cache);
		flush_amount(cache);
		(void)flush_retries(cache, UINT64_MAX);
		flush_expired(cache);
		iomap__index_reap(cache, true);
		iomap__cache_trim(cache);
		iomap__io_poll(engine->blk);
		iomap__slow_look(engine->blk);
		if (!atomic_load(&cache->flusher_stop))
			flusher_sleep(cache, word);
	}
	return NULL;
}

void iomap__flusher_kick(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;

	if (atomic_exchange(&cache->flusher_kicked, true))
		return;
	if (cache->flusher_runs)
		flusher_wake(cache);
	else
		iomap__loop_notify(engine->blk);
}

int iomap__flusher_start(struct iomap__cache *cache)
{
	sigset_t all, old;
	int err;

	if (cache->engine->opts.flags & IOMAP_ENGINE_NO_THREADS)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = EAGAIN;
	if (!iomap__fails(&cache->engine->env, IOMAP_FAIL_THREAD_CREATE))
		err = pthread_create(&cache->flusher, NULL, flusher_main, cache);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		iomap__log(&cache->engine->env, IOMAP_LOG_ERROR, "engine: no flusher thread: %s",
			   strerror(err));
		return -err;
	}
	cache->flusher_runs = true;
	return 0;
}

void iomap__flusher_stop(struct iomap__cache *cache)
{
	if (!cache->flusher_runs)
		return;
	atomic_store(&cache->flusher_stop, true);
	flusher_wake(cache);
	pthread_join(cache->flusher, NULL);
	cache->flusher_runs = false;
}
