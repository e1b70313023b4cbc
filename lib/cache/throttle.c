/* SPDX-License-Identifier: MIT */
/*
 * throttle.c - EN04, CA08: who dirties data waits for write-out.
 *
 * What counts is the level: pages that are dirty and pages under writeback, of all the cache.
 *
 *	up to background	nobody notices
 *	background to hard	a pause for each page that becomes dirty, in which the flusher writes
 *	hard			data waits until it is below
 *	four fifths		metadata (inodes of a lock class above 0) writes itself out
 *
 * Pauses.  A page owes the time that the device takes to write one, times
 *
 *	(level - background) / (hard - level)
 *
 * so one writer alone, who makes pages dirty as fast as they are written, stays where that is
 * 1, and n of them where it is n: more than half way up, and never at the limit.  What a thread owes is its
 * own, by the pages that it made dirty; it sleeps when that is worth it.  So one that writes
 * little is hardly held up, however much others write.  The time for a page is measured while
 * writers owe: pages written, by the engine's clock.  Without a flusher nothing would happen in a
 * pause, so there is none.
 *
 * At the hard limit a writer writes its own inode, and then waits for as long as it takes: while
 * nothing can be written (a device that hangs, data held back by the application) letting it
 * through would only fill the cache.  Not so when what is beyond the limit has been tried and has
 * failed, and stays dirty since its inode wants that: it gets that error.  Who has to write for the
 * others to go on says so
 * (IOMAP_IOCB_NOTHROTTLE).  Without threads nobody but callers lets go what is held back, perhaps
 * this very one: there a writer gets -EAGAIN when nothing can be written and nothing is under way,
 * as fsync does.  An engine that is shut down lets all through: it is the end, and
 * nobody writes any more.
 *
 * Metadata.  Write-out of data may need some: the extent map dirties it inside
 * writeback_range, with folios of data locked, in the flusher itself.  So it is never made to wait for data.  Data
 * therefore leaves room below the four fifths: where there are inodes of a class above 0, a
 * sixteenth of the cache, and everywhere what max_callers threads may make dirty at once after
 * they have looked (iomap__cache_set_limits()).  Over the four fifths metadata is written by who
 * dirties more of it, its own inode's, or in the flusher that of its class and higher ones; what
 * the application holds back of it does not stop it.
 *
 * The reserve.  Where there are such inodes, folios for data leave some pages free
 * (iomap__folio_reserved()), as they do index nodes and block state: metadata that is read so that
 * data can be written finds memory even when data has filled the cache and cannot be evicted.
 */
#include "cache/internal.h"

/* Pages that a writer over the limit starts to write at a time. */
#define THROTTLE_PAGES 256
/* Rounds of 10 ms without progress after which metadata is let through. */
#define THROTTLE_TRIES 100
/* Rounds, each over some of the inodes, after which a writer without threads gives up. */
#define THROTTLE_LOOKS 16

/* A pause is worth a sleep, and no sleep is longer, whatever is owed. */
#define PAUSE_MIN_NS 4000000U
#define PAUSE_MAX_NS 200000000U
/* A measure takes so long at least; of a longer one it is not known what writers did. */
#define RATE_MIN_NS 50000000U
#define RATE_MAX_NS 1000000000U
/* Pages a second: before there is a measure, and at least. */
#define RATE_FIRST 262144U
#define RATE_LEAST 256U

static uint64_t level(const struct iomap__cache *cache)
{
	return atomic_load_explicit(&cache->nr_dirty, memory_order_relaxed) +
	       atomic_load_explicit(&cache->nr_writeback, memory_order_relaxed);
}

void iomap__throttle_init(struct iomap__cache *cache)
{
	atomic_store(&cache->rate, RATE_FIRST);
}

/* A folio of so many pages has become dirty. */
void iomap__throttle_dirtied(struct iomap__cache *cache, uint64_t pages)
{
	/* below the limit nothing is owed, nor counted */
	if (iomap__unlikely(level(cache) >
			    atomic_load_explicit(&cache->background_pages, memory_order_relaxed)))
		iomap__thread_self()->dirtied += pages;
}

/* ---- pauses ---- */

/* How fast the devices write, from time to time, by whoever comes first. */
static void measure(struct iomap__cache *cache, uint64_t now)
{
	uint64_t then = atomic_load(&cache->rate_ns), took = now - then, written, rate;

	if (now >= then && took < RATE_MIN_NS)
		return;
	if (!atomic_compare_exchange_strong(&cache->rate_ns, &then, now))
		return;
	written = atomic_load(&cache->nr_written);
	written -= atomic_exchange(&cache->rate_written, written);
	/* the clock is the application's, and may go backwards; another may have measured meanwhile */
	if (now < then || took > RATE_MAX_NS || (int64_t)written < 0)
		return;
	rate = (3 * atomic_load(&cache->rate) + written * 1000000000 / took) / 4;
	atomic_store(&cache->rate, iomap__max(rate, RATE_LEAST));
}

/* What @pages owe at this level, in nanoseconds. */
static uint64_t owed(const struct iomap__cache *cache, uint64_t pages)
{
	uint64_t low = atomic_load(&cache->background_pages);
	uint64_t hard = atomic_load(&cache->hard_pages), at = level(cache);

	if (at <= low)
		return 0;
	if (at >= hard)
		return PAUSE_MAX_NS;
	/* there is a balance for each folio; and so no product exceeds 64 bits */
	pages = iomap__min(pages, 1ULL << IOMAP__MAX_ORDER);
	return iomap__min(pages * 1000000000 / atomic_load(&cache->rate) * (at - low) / (hard - at),
			  PAUSE_MAX_NS);
}

static void pause_in_proportion(struct iomap__cache *cache, struct iomap__thread *self)
{
	uint64_t ns = owed(cache, self->dirtied), began_ns;

	self->dirtied = 0;
	if (!ns)
		return;
	self->pause_ns = iomap__min(self->pause_ns + ns, PAUSE_MAX_NS);
	iomap__cache_count2(cache->engine, IOMAP__STAT_PAUSE_NS, ns);
	began_ns = iomap__now_ns(&cache->engine->env);
	measure(cache, began_ns);
	if (self->pause_ns < PAUSE_MIN_NS)
		return;
	/* nobody moves the word; a thread that sleeps so completes I/O meanwhile */
	(void)iomap__io_wait_timeout(iomap__cache_blk(cache), &cache->pause_word, 0,
				     self->pause_ns);
	self->pause_ns = 0;
	iomap__cache_took(cache->engine, IOMAP_HIST_WRITE, began_ns);
}

/* ---- the limits ---- */

/* Start to write, the own inode's first: pages, as far as this thread has done it. */
static uint64_t write_data(struct iomap__cache *cache, struct iomap_address_space *mapping)
{
	uint64_t nr = 0;

	if (iomap__load(&mapping->nr_dirty_pages))
		nr = iomap__write_some(mapping, THROTTLE_PAGES);
	if (nr)
		return nr;
	if (!cache->flusher_runs)
		return iomap__flush_some(cache, 0, THROTTLE_PAGES);
	iomap__flusher_kick(cache->engine);
	return 0;
}

/*
 * The error for which no more can be written than has been: what failed is by itself beyond the
 * limit.  0: who waits may hope.
 */
static int failure(struct iomap__cache *cache, const struct iomap_address_space *mapping)
{
	unsigned error = iomap__load(&mapping->retry_errno);

	if (iomap__likely(atomic_load(&cache->nr_failed) <= atomic_load(&cache->hard_pages)))
		return 0;
	if (!error || !iomap__load(&mapping->nr_failed_pages))
		error = atomic_load(&cache->failed_errno);
	return -(int)error;
}

/* 0, that error, or -EAGAIN: all is held back, and there is no thread that could let it go. */
static int wait_as_data(struct iomap__cache *cache, struct iomap_address_space *mapping)
{
	unsigned looks = 0;
	int err;

	while (level(cache) > atomic_load(&cache->hard_pages) &&
	       !iomap__engine_closed(cache->engine)) {
		uint32_t seq = iomap__load_acquire(&cache->wb_seq);
		uint64_t nr;

		err = failure(cache, mapping);
		if (err)
			return err;
		nr = write_data(cache, mapping);
		if (level(cache) <= atomic_load(&cache->hard_pages))
			break;
		if (nr || cache->flusher_runs || atomic_load(&cache->nr_writeback) ||
		    iomap__load_acquire(&cache->wb_seq) != seq) {
			looks = 0;
			(void)iomap__wb_wait(cache, 0, seq);
		} else if (++looks == THROTTLE_LOOKS) {
			return -EAGAIN;
		}
	}
	return 0;
}

/* In the flusher, which would else be waited for: others too. */
static uint64_t write_metadata(struct iomap__cache *cache, struct iomap_address_space *mapping)
{
	if (iomap__thread_self()->writing)
		return iomap__flush_some(cache, mapping->host->i_class, THROTTLE_PAGES);
	if (iomap__load(&mapping->nr_dirty_pages))
		return iomap__write_some(mapping, THROTTLE_PAGES);
	return 0;
}

static void wait_as_metadata(struct iomap__cache *cache, struct iomap_address_space *mapping)
{
	for (int tries = 0; tries < THROTTLE_TRIES && level(cache) > cache->most_pages &&
			    !iomap__engine_closed(cache->engine);
	     tries++) {
		uint32_t seq = iomap__load_acquire(&cache->wb_seq);

		if (write_metadata(cache, mapping))
			tries = 0;
		if (level(cache) > cache->most_pages &&
		    iomap__wb_wait(cache, mapping->host->i_class, seq))
			tries = 0;
	}
}

static int throttle(struct iomap__cache *cache, struct iomap_address_space *mapping)
{
	uint64_t began_ns = iomap__now_ns(&cache->engine->env);
	int err = 0;

	iomap__cache_count2(cache->engine, IOMAP__STAT_THROTTLED, 1);
	if (mapping->host->i_class)
		wait_as_metadata(cache, mapping);
	else
		err = wait_as_data(cache, mapping);
	iomap__cache_took(cache->engine, IOMAP_HIST_WRITE, began_ns);
	return err;
}

/* Above the background limit, and not a writer that is not to wait; has the flusher write. */
static bool is_beyond(struct iomap__cache *cache)
{
	uint64_t low = atomic_load_explicit(&cache->background_pages, memory_order_relaxed);

	if (iomap__likely(level(cache) <= low) || iomap__thread_self()->unthrottled)
		return false;
	if (atomic_load_explicit(&cache->nr_dirty, memory_order_relaxed) > low &&
	    !atomic_load_explicit(&cache->flusher_kicked, memory_order_relaxed))
		iomap__flusher_kick(cache->engine);
	return true;
}

static bool is_over(struct iomap__cache *cache, const struct iomap_address_space *mapping)
{
	return level(cache) > (mapping->host->i_class ? atomic_load(&cache->most_pages)
						      : atomic_load(&cache->hard_pages));
}

int iomap__balance_dirty(struct iomap_address_space *mapping)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	struct iomap__thread *self;

	if (iomap__likely(!is_beyond(cache)))
		return 0;
	self = iomap__thread_self();
	if (is_over(cache, mapping))
		return throttle(cache, mapping);
	if (!mapping->host->i_class && cache->flusher_runs && self->dirtied)
		pause_in_proportion(cache, self);
	return 0;
}

int iomap__balance_dirty_nowait(struct iomap_address_space *mapping)
{
	struct iomap__cache *cache = iomap__cache_of(mapping);
	int err;

	/* what it owes it owes until it may wait */
	if (iomap__likely(!is_beyond(cache)) || !is_over(cache, mapping))
		return 0;
	err = mapping->host->i_class ? 0 : failure(cache, mapping);
	return err ? err : -EAGAIN;
}

bool iomap__writes_fail(const struct iomap_engine *engine)
{
	return iomap__unlikely(atomic_load_explicit(&engine->cache->nr_failed,
						    memory_order_relaxed));
}

/* ---- the reserve ---- */

bool iomap__folio_reserved(const struct iomap_address_space *mapping, unsigned order)
{
	const struct iomap__cache *cache = iomap__cache_of(mapping);
	uint64_t reserve = atomic_load_explicit(&cache->reserve_pages, memory_order_relaxed);

	return iomap__unlikely(reserve) && !iomap__has_reserve(mapping) &&
	       atomic_load_explicit(&cache->nr_free, memory_order_relaxed) <
		       reserve + (1ULL << order);
}
