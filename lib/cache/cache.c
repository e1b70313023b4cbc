/* SPDX-License-Identifier: MIT */
/*
 * cache.c - the cache of an engine as an object: creation, end, statistics.
 */
#include "cache/internal.h"

int iomap__cache_create(struct iomap_engine *engine,
			const struct iomap_address_space_operations *defaults,
			const struct iomap__block_state_ops *block_state,
			iomap__late_end_fn *late_end)
{
	const struct iomap_engine_opts *opts = &engine->opts;
	struct iomap__cache *cache;
	int err;

	cache = iomap__alloc_aligned(&engine->env, IOMAP__CACHE_LINE, sizeof(*cache));
	if (!cache)
		return -ENOMEM;
	memset(cache, 0, sizeof(*cache));
	cache->engine = engine;
	cache->defaults = defaults;
	cache->block_state = block_state;
	cache->late_end = late_end;
	iomap__mutex_init(&cache->retire_lock, IOMAP__RANK_RETIRE);
	iomap__mutex_init(&cache->dirty_lock, IOMAP__RANK_DIRTY);
	iomap__mutex_init(&cache->inodes_lock, IOMAP__RANK_ENGINE);
	iomap__await_init(cache);
	iomap__throttle_init(cache);
	iomap__list_init(&cache->dirty_inodes);
	cache->dirty_turn = &cache->dirty_inodes;
	iomap__list_init(&cache->inodes);
	engine->cache = cache;
	err = iomap__arena_create(cache, opts->cache_bytes, opts->max_cache_bytes);
	if (err)
		goto free_cache;
	iomap__cache_set_limits(cache, atomic_load(&cache->nr_pages));
	err = iomap__policy_create(cache, cache->max_pages);
	if (err)
		goto free_policy;
	iomap__blk_set_memory(engine, cache->data,
			      atomic_load(&cache->nr_pages) << IOMAP_PAGE_SHIFT);
	err = iomap__pool_init(&cache->ra_tables, &engine->env, IOMAP__RA_TABLE_BYTES, 0);
	if (err)
		goto free_arena;
	err = iomap__index_init(cache);
	if (err)
		goto free_tables;
	err = iomap__flusher_start(cache);
	if (err)
		goto free_index;
	return 0;

free_index:
	iomap__index_exit(cache);
free_tables:
	iomap__pool_exit(&cache->ra_tables);
free_arena:
	iomap__blk_set_memory(engine, NULL, 0);
free_policy:
	iomap__policy_destroy(cache);
	iomap__arena_destroy(cache);
free_cache:
	engine->cache = NULL;
	iomap__free(&engine->env, cache, sizeof(*cache));
	return err;
}

uint64_t iomap__cache_bytes(const struct iomap_engine *engine)
{
	const struct iomap__cache *cache = engine->cache;

	return atomic_load_explicit(&cache->nr_pages, memory_order_relaxed) << IOMAP_PAGE_SHIFT;
}

void iomap__cache_destroy(struct iomap_engine *engine)
{
	struct iomap__cache *cache = engine->cache;

	if (!cache)
		return;
	iomap__flusher_stop(cache);
	iomap__index_exit(cache);
	iomap__pool_exit(&cache->ra_tables);
	iomap__assert_msg(!cache->nr_used,
			  "folios in use at the end of the engine");
	iomap__blk_set_memory(engine, NULL, 0);
	iomap__policy_destroy(cache);
	iomap__arena_destroy(cache);
	engine->cache = NULL;
	iomap__free(&engine->env, cache, sizeof(*cache));
}

void iomap__cache_count(struct iomap_engine *engine, enum iomap__cache_stat which, uint64_t n)
{
	iomap__stat_add(&engine->cache->stats, iomap__thread_self(), which, n);
}

void iomap__cache_count2(struct iomap_engine *engine, enum iomap__cache_stat2 which, uint64_t n)
{
	iomap__stat_add(&engine->cache->stats2, iomap__thread_self(), which, n);
}

void iomap__cache_took(struct iomap_engine *engine, enum iomap_histogram which, uint64_t began_ns)
{
	uint64_t now_ns = iomap__now_ns(&engine->env);

	/* a clock of the application's may go backwards */
	iomap__hist_add(&engine->cache->waits, which, now_ns > began_ns ? now_ns - began_ns : 0);
}

int iomap_engine_histogram(struct iomap_engine *engine, enum iomap_histogram which,
			   uint64_t *buckets, unsigned nr)
{
	uint64_t sum[IOMAP_HIST_BUCKETS_NR] = { 0 };

	if (!engine || (unsigned)which >= IOMAP_HISTOGRAMS_NR || !buckets || !nr)
		return -EINVAL;
	if (iomap__engine_forked(engine))
		return -ECHILD;
	if (which < IOMAP_HIST_DEVICE_READ)
		iomap__hist_sum(&engine->cache->waits, which, sum);
	else
		iomap__blk_hist(engine, which, sum);
	iomap__hist_give(sum, buckets, nr);
	return 0;
}

void iomap__cache_stats(struct iomap_engine *engine, struct iomap_engine_stats *stats)
{
	struct iomap__cache *cache = engine->cache;

	stats->cache_bytes = iomap__arena_pages(cache) << IOMAP_PAGE_SHIFT;
	iomap__mutex_lock(&cache->arena_lock);
	stats->cached_bytes = cache->nr_used << IOMAP_PAGE_SHIFT;
	stats->peak_cached_bytes = cache->peak_used << IOMAP_PAGE_SHIFT;
	iomap__mutex_unlock(&cache->arena_lock);
	stats->dirty_bytes = atomic_load(&cache->nr_dirty) << IOMAP_PAGE_SHIFT;
	stats->writeback_bytes = atomic_load(&cache->nr_writeback) << IOMAP_PAGE_SHIFT;
	stats->hits_nr = iomap__stat_sum(&cache->stats, IOMAP__STAT_HITS);
	stats->misses_nr = iomap__stat_sum(&cache->stats, IOMAP__STAT_MISSES);
	stats->readahead_bytes = iomap__stat_sum(&cache->stats, IOMAP__STAT_RA_BYTES);
	stats->readahead_used_bytes = iomap__stat_sum(&cache->stats, IOMAP__STAT_RA_USED);
	stats->evictions_nr = iomap__stat_sum(&cache->stats, IOMAP__STAT_EVICTIONS);
	stats->ioends_nr = iomap__stat_sum(&cache->stats, IOMAP__STAT_IOENDS);
	stats->ioend_bytes = iomap__stat_sum(&cache->stats, IOMAP__STAT_IOEND_BYTES);
	stats->ioend_blocks_nr = iomap__stat_sum(&cache->stats, IOMAP__STAT_IOEND_BLOCKS);
	stats->fsyncs_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_FSYNCS);
	stats->deferred_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_DEFERRED);
	stats->throttled_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_THROTTLED);
	stats->readahead_wasted_bytes = iomap__stat_sum(&cache->stats2, IOMAP__STAT_RA_WASTED);
	stats->ranges_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_RANGES);
	stats->throttle_pause_ns = iomap__stat_sum(&cache->stats2, IOMAP__STAT_PAUSE_NS);
	stats->ioend_bios_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_IOEND_BIOS);
	stats->range_bios_nr = iomap__stat_sum(&cache->stats2, IOMAP__STAT_RANGE_BIOS);
}
