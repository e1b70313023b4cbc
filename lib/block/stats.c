/* SPDX-License-Identifier: MIT */
/*
 * stats.c - what the block layer counts, and tells in a dump.
 *
 * Latencies belong to a device; when it is closed the engine keeps what it has counted.  A look at
 * the clock costs about as much as a tenth of what a bio costs here, so one bio in
 * IOMAP__MEASURED of each thread is measured; flushes, which take long and are few, all.  A bio
 * that a device has passed on is measured where it was served.
 *
 * Locks: bdevs_lock for the list of devices and what is left of those that are closed.
 */
#include "block/internal.h"

void iomap__measured(struct iomap_bdev *bdev, const struct iomap_bio *bio, uint64_t *now_ns)
{
	static const unsigned kinds[] = {
		[IOMAP_REQ_OP_READ] = IOMAP_HIST_DEVICE_READ - IOMAP_HIST_DEVICE_READ,
		[IOMAP_REQ_OP_WRITE] = IOMAP_HIST_DEVICE_WRITE - IOMAP_HIST_DEVICE_READ,
		[IOMAP_REQ_OP_FLUSH] = IOMAP_HIST_FLUSH - IOMAP_HIST_DEVICE_READ,
	};
	unsigned op = iomap__bio_op(bio);

	if (op >= iomap__array_len(kinds))
		return;
	if (!*now_ns)
		*now_ns = iomap__now_ns(&bdev->engine->env);
	/* a clock of the application's may go backwards */
	iomap__hist_add(&bdev->hist, kinds[op],
			*now_ns > bio->bi_start_ns ? *now_ns - bio->bi_start_ns : 0);
}

void iomap__blk_stats(struct iomap_engine *engine, struct iomap_engine_stats *stats)
{
	const struct iomap__stats *from = &engine->blk->stats;

	stats->bios_nr = iomap__stat_sum(from, IOMAP__BLKSTAT_BIOS);
	stats->read_bytes = iomap__stat_sum(from, IOMAP__BLKSTAT_READ_BYTES);
	stats->written_bytes = iomap__stat_sum(from, IOMAP__BLKSTAT_WRITTEN_BYTES);
	stats->flushes_nr = iomap__stat_sum(from, IOMAP__BLKSTAT_FLUSHES);
	stats->registered_bytes = iomap__buffers_known(engine->blk);
}

void iomap__blk_hist(struct iomap_engine *engine, enum iomap_histogram which, uint64_t *sum)
{
	unsigned kind = which - IOMAP_HIST_DEVICE_READ, i;
	struct iomap__blk *blk = engine->blk;
	const struct iomap_bdev *bdev;

	iomap__mutex_lock(&blk->bdevs_lock);
	for (bdev = blk->bdevs; bdev; bdev = bdev->next)
		iomap__hist_sum(&bdev->hist, kind, sum);
	for (i = 0; i < IOMAP_HIST_BUCKETS_NR; i++)
		sum[i] += blk->gone_hist[kind][i];
	iomap__mutex_unlock(&blk->bdevs_lock);
}

int iomap_bdev_histogram(struct iomap_bdev *bdev, unsigned which, uint64_t *buckets, unsigned nr)
{
	uint64_t sum[IOMAP_HIST_BUCKETS_NR] = { 0 };

	iomap__bdev_check(bdev);
	if (which < IOMAP_HIST_DEVICE_READ || which > IOMAP_HIST_FLUSH || !buckets || !nr)
		return -EINVAL;
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	iomap__hist_sum(&bdev->hist, which - IOMAP_HIST_DEVICE_READ, sum);
	iomap__hist_give(sum, buckets, nr);
	return 0;
}

/* ---- dump ---- */

static void stats_dump_bdev(const struct iomap_bdev *bdev, struct iomap__lines *lines)
{
	iomap__lines_add(lines, "device %s: %llu bios in flight, %llu errors%s", bdev->name,
			 (unsigned long long)iomap__bdev_inflight(bdev),
			 (unsigned long long)iomap__stat_sum(&bdev->stats, IOMAP__BSTAT_ERRORS),
			 iomap__bdev_is_gone(bdev) ? ", gone" : "");
}

static void stats_dump_queue(struct iomap__queue *queue, struct iomap__lines *lines)
{
	uint32_t active, backlog;

	iomap__mutex_lock(&queue->lock);
	active = queue->active;
	backlog = queue->backlog.count;
	iomap__mutex_unlock(&queue->lock);
	if (active || backlog)
		iomap__lines_add(lines, "queue %u: %u requests in the backend, %u wait for a place",
				 queue->index, active, backlog);
}

void iomap__blk_dump(struct iomap_engine *engine, struct iomap__lines *lines)
{
	struct iomap__blk *blk = engine->blk;
	const struct iomap_bdev *bdev;
	unsigned i;

	iomap__lines_add(lines, "backend %s: %u queues of depth %u", blk->backend->name,
			 blk->nr_queues, blk->depth);
	for (i = 0; i < blk->nr_queues; i++)
		stats_dump_queue(&blk->queues[i], lines);
	iomap__mutex_lock(&blk->bdevs_lock);
	for (bdev = blk->bdevs; bdev; bdev = bdev->next)
		stats_dump_bdev(bdev, lines);
	iomap__mutex_unlock(&blk->bdevs_lock);
	iomap__slow_dump(blk, lines);
}
