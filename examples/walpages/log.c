/* SPDX-License-Identifier: MIT */
/*
 * log.c - the log: records in memory, and how they become durable.
 *
 * Records collect in `active`, in batches with a checksum each.  Whoever needs them durable
 * first takes the buffer away and writes it, and the others wait: those who come meanwhile
 * share the next flush (group commit).
 *
 *	append		record to `active`
 *	flush		seal, swap the buffers, write with O_DSYNC, `flushed` moves up
 *	free		a checkpoint has made the beginning superfluous
 *
 * The log is written through the cache as the pages are, but on an inode of a higher lock class,
 * so that it may be flushed by whoever writes pages out, and with IOMAP_IOCB_NOTHROTTLE: were it
 * to wait for dirty pages to be written, these would wait for it.
 *
 * Room is reserved before a transaction begins: so there is no transaction that holds locks
 * and waits for a checkpoint, which may need them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "internal.h"

#define BUFFER_BYTES_MAX (1U << 20)

int wp_log_init(struct wp_log *log, uint64_t bytes, uint64_t id)
{
	log->bytes = bytes;
	log->buffer_bytes = bytes / 4 < BUFFER_BYTES_MAX ? bytes / 4 : BUFFER_BYTES_MAX;
	/* a batch is padded to its last block, and there is room for that, too */
	log->buffer_bytes = wp_round_up(log->buffer_bytes);
	log->id = id;
	pthread_mutex_init(&log->lock, NULL);
	pthread_cond_init(&log->changed, NULL);
	log->active = malloc(log->buffer_bytes);
	log->spare = malloc(log->buffer_bytes);
	return log->active && log->spare ? 0 : -ENOMEM;
}

void wp_log_begin(struct wp_log *log, uint64_t epoch, uint64_t begin)
{
	log->epoch = epoch;
	log->start = begin;
	log->free_to = begin + log->bytes;
	atomic_store(&log->flushed, begin);
}

void wp_log_exit(struct wp_log *log)
{
	free(log->active);
	free(log->spare);
	pthread_cond_destroy(&log->changed);
	pthread_mutex_destroy(&log->lock);
}

/* ---- room ---- */

/* As much as it can take up, with the rest of its last block, and that of a batch before. */
static uint64_t room_for(size_t bytes)
{
	return wp_round_up(sizeof(struct wp_batch) + bytes) + WP_BLOCK_BYTES;
}

int wp_log_reserve(struct wp_log *log, size_t bytes)
{
	uint64_t room = room_for(bytes), end;
	int error;

	pthread_mutex_lock(&log->lock);
	for (;;) {
		end = log->start + log->used + room;
		error = atomic_load(&log->error);
		if (error || end > log->free_to || end + log->reserved <= log->free_to)
			break;
		pthread_cond_wait(&log->changed, &log->lock);
	}
	if (!error && end > log->free_to)
		error = -ENOSPC;
	if (!error)
		log->reserved += room;
	pthread_mutex_unlock(&log->lock);
	return error;
}

void wp_log_unreserve(struct wp_log *log, size_t bytes)
{
	pthread_mutex_lock(&log->lock);
	log->reserved -= room_for(bytes);
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
}

void wp_log_free(struct wp_log *log, uint64_t lsn)
{
	pthread_mutex_lock(&log->lock);
	log->free_to = lsn + log->bytes;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->lock);
}

bool wp_log_is_half_full(struct wp_log *log)
{
	bool is;

	pthread_mutex_lock(&log->lock);
	is = log->start + log->used + log->bytes / 2 > log->free_to;
	pthread_mutex_unlock(&log->lock);
	return is;
}

static void fail(struct wp_log *log, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&log->error, &none, error);
	pthread_cond_broadcast(&log->changed);
}

void wp_log_fail(struct wp_log *log, int error)
{
	pthread_mutex_lock(&log->lock);
	fail(log, error);
	pthread_mutex_unlock(&log->lock);
}

/* ---- records ---- */

uint64_t wp_log_checksum(const struct wp_batch *batch)
{
	return XXH3_64bits(&batch->id, batch->bytes - offsetof(struct wp_batch, id));
}

static void seal(struct wp_log *log)
{
	struct wp_batch *batch = (struct wp_batch *)(log->active + log->batch);
	size_t end = wp_round_up(log->used);

	if (!log->open)
		return;
	batch->bytes = (uint32_t)(log->used - log->batch);
	batch->checksum = wp_log_checksum(batch);
	memset(log->active + log->used, 0, end - log->used);
	log->used = end;
	log->open = false;
}

uint64_t wp_log_seal(struct wp_log *log)
{
	uint64_t end;

	pthread_mutex_lock(&log->lock);
	seal(log);
	end = log->start + log->used;
	pthread_mutex_unlock(&log->lock);
	return end;
}

static struct wp_batch *open_batch(struct wp_log *log)
{
	struct wp_batch *batch;

	if (!log->open) {
		log->batch = log->used;
		log->used += sizeof(*batch);
		log->open = true;
		batch = (struct wp_batch *)(log->active + log->batch);
		*batch = (struct wp_batch){
			.id = log->id,
			.epoch = log->epoch,
			.lsn = log->start + log->batch,
		};
	}
	return (struct wp_batch *)(log->active + log->batch);
}

static int flush(struct wp_log *log, uint64_t lsn);

int wp_log_append(struct wp_log *log, const struct iovec *parts, unsigned nr, uint64_t *lsn)
{
	size_t bytes = 0;
	int error = 0;

	for (unsigned i = 0; i < nr; i++)
		bytes += parts[i].iov_len;
	pthread_mutex_lock(&log->lock);
	while (!error && log->used + sizeof(struct wp_batch) + bytes > log->buffer_bytes)
		error = flush(log, log->start + log->used);
	if (!error)
		error = atomic_load(&log->error);
	if (!error) {
		open_batch(log)->txns_nr++;
		for (unsigned i = 0; i < nr; i++) {
			memcpy(log->active + log->used, parts[i].iov_base, parts[i].iov_len);
			log->used += parts[i].iov_len;
		}
		*lsn = log->start + log->used;
	}
	pthread_mutex_unlock(&log->lock);
	return error;
}

/* ---- durable ---- */

static int write_out(struct wp_log *log, const uint8_t *from, size_t bytes, uint64_t lsn)
{
	int error = 0;

	while (!error && bytes) {
		uint64_t at = lsn % log->bytes;
		size_t n = bytes < log->bytes - at ? bytes : (size_t)(log->bytes - at);

		error = wp_region_write(&log->region, from, n, at,
					IOMAP_IOCB_NOTHROTTLE | IOMAP_IOCB_DSYNC, NULL);
		from += n;
		lsn += n;
		bytes -= n;
	}
	return error;
}

/* Write all there is; the lock is held, but not while that goes on. */
static void lead(struct wp_log *log)
{
	uint8_t *buffer = log->active;
	uint64_t start = log->start;
	size_t bytes;
	int error;

	seal(log);
	bytes = log->used;
	log->active = log->spare;
	log->start += bytes;
	log->used = 0;
	log->flushing = true;
	pthread_mutex_unlock(&log->lock);
	error = write_out(log, buffer, bytes, start);
	pthread_mutex_lock(&log->lock);
	log->spare = buffer;
	log->flushing = false;
	log->flushes_nr++;
	log->flushed_bytes += bytes;
	if (error)
		fail(log, error);
	else
		atomic_store(&log->flushed, start + bytes);
	pthread_cond_broadcast(&log->changed);
}

static int flush(struct wp_log *log, uint64_t lsn)
{
	while (atomic_load(&log->flushed) < lsn && !atomic_load(&log->error)) {
		if (log->flushing)
			pthread_cond_wait(&log->changed, &log->lock);
		else
			lead(log);
	}
	return atomic_load(&log->flushed) < lsn ? atomic_load(&log->error) : 0;
}

int wp_log_flush(struct wp_log *log, uint64_t lsn)
{
	int error;

	if (atomic_load(&log->flushed) >= lsn)
		return 0;
	pthread_mutex_lock(&log->lock);
	if (lsn > log->start + log->used)
		lsn = log->start + log->used;
	error = flush(log, lsn);
	pthread_mutex_unlock(&log->lock);
	return error;
}
