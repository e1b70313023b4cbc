/* SPDX-License-Identifier: MIT */
/*
 * wp_order.c - CA05, WB06: when walpages lets a page go, seen at the device and by threads.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "bank.h"
#include "internal.h"
#include "testdev.h"

#define LOG_AT (2 * WP_BLOCK_BYTES)
#define LOG_BYTES WP_LOG_BYTES_MIN
#define PAGES_AT (LOG_AT + LOG_BYTES)

struct bank {
	struct iomap_engine *engine;
	struct td *dev;
	struct wp_store *store;
	uint64_t pages_nr;
};

static struct bank bank_open_log(const struct iomap_writeback_ops *order, uint64_t pages_nr,
				 uint64_t log_bytes, uint64_t cache_bytes)
{
	struct bank bank = { .pages_nr = pages_nr };
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = cache_bytes;
	opts.max_callers = 8;
	/* what is held back goes when it is let go, not when the flusher asks again */
	opts.flush_interval_ms = 3600 * 1000;
	bank.engine = t_engine(&opts, NULL);
	bank.dev = td_new(bank.engine, wp_store_bytes(pages_nr, log_bytes), NULL);
	t_must(wp_format(bank.dev->bdev, pages_nr, log_bytes, 7, bank_fill) == 0);
	t_must(wp_open(bank.engine, bank.dev->bdev, order, &bank.store) == 0);
	td_reset(bank.dev);
	return bank;
}

static struct bank bank_open(const struct iomap_writeback_ops *order, uint64_t pages_nr,
			     uint64_t cache_bytes)
{
	return bank_open_log(order, pages_nr, LOG_BYTES, cache_bytes);
}

static void bank_close(struct bank *bank)
{
	td_free(bank->dev);
	cr_assert_eq(iomap_engine_destroy(bank->engine), 0);
}

/* Not waited for. */
static uint64_t change_by(struct bank *bank, uint64_t number, unsigned transfers, int64_t money)
{
	struct bank_page *page;
	struct wp_txn *txn;
	uint64_t lsn;

	t_must(wp_begin(bank->store, &number, 1, &txn) == 0);
	page = wp_payload(txn, 0);
	page->transfers_nr += transfers;
	page->balance[0] += money;
	t_must(wp_commit(txn, &lsn) == 0);
	return lsn;
}

static uint64_t change(struct bank *bank, uint64_t number)
{
	return change_by(bank, number, 1, 0);
}

static void start_writing(struct bank *bank)
{
	t_must(iomap_sync_range(bank->store->pages.file, 0, INT64_MAX, IOMAP_SYNC_WRITE) == 0);
}

static struct wp_page on_device(struct bank *bank, uint64_t number)
{
	struct wp_page page;

	t_lock(&bank->dev->gate);
	memcpy(&page, bank->dev->mem + PAGES_AT + number * sizeof(page), sizeof(page));
	t_unlock(&bank->dev->gate);
	return page;
}

/* ---- one page ---- */

static void a_page_goes_after_its_record(const struct iomap_writeback_ops *order)
{
	struct bank bank = bank_open(order, 4, 4 << 20);
	struct td_io record, flush, page;

	change(&bank, 1);
	start_writing(&bank);
	/* nobody waits for the commit: the log is flushed for the page alone */
	td_wait_completed(bank.dev, TD_WRITE, 2);
	record = td_nth(bank.dev, TD_WRITE, 0);
	page = td_nth(bank.dev, TD_WRITE, 1);
	flush = td_nth(bank.dev, TD_FLUSH, 0);
	cr_assert_lt(record.addr, (uint64_t)PAGES_AT);
	cr_assert_eq(page.addr, (uint64_t)PAGES_AT + WP_PAGE_BYTES);
	cr_assert_gt(flush.submitted, record.completed);
	cr_assert_gt(page.submitted, flush.completed);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

Test(wp_order, ca05_wb06_a_deferred_page_goes_when_its_record_is_durable)
{
	a_page_goes_after_its_record(&wp_order_defer);
}

Test(wp_order, ca05_wb06_the_log_is_flushed_in_writeback_submit)
{
	a_page_goes_after_its_record(&wp_order_submit);
}

struct second {
	struct bank *bank;
	uint64_t lsn;
};

static long change_again(void *arg)
{
	struct second *second = arg;

	second->lsn = change(second->bank, 1);
	return 0;
}

/* This device fetches the bytes of a write at its end, as a real one may. */
Test(wp_order, ca05_a_page_under_way_does_not_change)
{
	struct bank bank = bank_open(&wp_order_defer, 4, 4 << 20);
	struct second second = { .bank = &bank };
	uint64_t lsn = change(&bank, 1);
	struct t_task task;
	struct wp_page page;

	cr_assert_eq(wp_wait(bank.store, lsn), 0);
	td_hold(bank.dev, TD_WRITE);
	start_writing(&bank);
	td_wait_held(bank.dev, 1);
	t_start(&task, change_again, &second);
	/* time to do wrong; right is whatever comes of it */
	for (int i = 0; i < 10000 && !atomic_load(&task.done); i++)
		sched_yield();
	cr_assert_eq(td_release(bank.dev, 1), 1U);
	cr_assert_eq(t_join(&task), 0);
	page = on_device(&bank, 1);
	cr_assert(wp_page_valid(&page, 1));
	cr_assert_eq(page.lsn, lsn);
	cr_assert_gt(second.lsn, lsn);
	td_open_gates(bank.dev);
	cr_assert_eq(wp_close(bank.store), 0);
	page = on_device(&bank, 1);
	cr_assert_eq(page.lsn, second.lsn);
	bank_close(&bank);
}

static void a_log_that_fails(const struct iomap_writeback_ops *order)
{
	struct bank bank = bank_open(order, 4, 4 << 20);
	struct bank_totals totals;
	uint64_t lsn, random = 1;

	td_fail(bank.dev, TD_WRITE, LOG_AT, LOG_BYTES, -EIO, 1000);
	lsn = change(&bank, 1);
	cr_assert_eq(wp_wait(bank.store, lsn), -EIO);
	cr_assert_eq(bank_transfer(bank.store, bank.pages_nr, &random, &lsn), -EIO);
	cr_assert_eq(iomap_sync_range(bank.store->pages.file, 0, INT64_MAX, IOMAP_SYNC_WRITE), -EIO);
	cr_assert_neq(wp_close(bank.store), 0);
	cr_assert_not(td_touched(bank.dev, TD_WRITE, PAGES_AT, bank.dev->bytes - PAGES_AT));

	td_fail(bank.dev, TD_WRITE, LOG_AT, LOG_BYTES, -EIO, 0);
	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), 0);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, 0U);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

Test(wp_order, ca05_no_page_is_written_when_the_log_cannot_be)
{
	a_log_that_fails(&wp_order_defer);
}

Test(wp_order, ca05_no_page_is_submitted_when_the_log_cannot_be)
{
	a_log_that_fails(&wp_order_submit);
}

/* The next transaction would build upon what the device has of the page: it is not begun. */
static void a_page_that_fails(const struct iomap_writeback_ops *order)
{
	struct bank bank = bank_open(order, 4, 4 << 20);
	struct bank_totals totals;
	uint64_t number = 1, lsn = change(&bank, number);
	struct wp_txn *txn;

	cr_assert_eq(wp_wait(bank.store, lsn), 0);
	td_fail(bank.dev, TD_WRITE, PAGES_AT, bank.dev->bytes - PAGES_AT, -EIO, 1);
	/* in the background, and then memory is short */
	cr_assert_eq(iomap_filemap_write_and_wait_range(&bank.store->pages.inode.i_data, 0,
							INT64_MAX),
		     -EIO);
	iomap_engine_drop_cache(bank.engine);
	cr_assert_eq(wp_begin(bank.store, &number, 1, &txn), -EIO);
	cr_assert_eq(wp_close(bank.store), -EIO);

	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), 0);
	change(&bank, number);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, 2U);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

Test(wp_order, ca05_nothing_is_built_upon_a_page_that_could_not_be_written)
{
	a_page_that_fails(&wp_order_defer);
}

Test(wp_order, ca05_nothing_is_built_upon_a_page_that_failed_after_a_flush)
{
	a_page_that_fails(&wp_order_submit);
}

/*
 * A transaction has failed where its page had just been marked, and was not in the cache yet; others
 * have filled the log.  The checkpoint is refused, and does not wait for that page for ever.
 */
Test(wp_order, ca05_no_checkpoint_when_half_a_transaction_is_in_the_cache, .timeout = 60)
{
	struct bank bank = bank_open(&wp_order_defer, 20, 4 << 20);
	struct bank_totals totals;
	uint64_t lsn = 0;

	pthread_mutex_lock(&bank.store->checkpoint_lock);
	for (uint64_t i = 0; i < bank.pages_nr - 1; i++)
		lsn = change(&bank, i);
	pthread_mutex_unlock(&bank.store->checkpoint_lock);
	cr_assert_eq(wp_wait(bank.store, lsn), 0);
	cr_assert(wp_log_is_half_full(&bank.store->log));
	atomic_store(&bank.store->dirtied[bank.pages_nr - 1], 1);
	wp_log_fail(&bank.store->log, -ENOMEM);
	cr_assert_eq(wp_make_room(bank.store), -ENOMEM);
	/* nor when all pages that it knows of can be written */
	atomic_store(&bank.store->dirtied[bank.pages_nr - 1], 0);
	cr_assert_eq(wp_make_room(bank.store), -ENOMEM);
	cr_assert_not(td_touched(bank.dev, TD_WRITE, 0, LOG_AT));
	cr_assert_eq(wp_close(bank.store), -ENOMEM);

	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, &wp_order_defer, &bank.store), 0);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, bank.pages_nr - 1);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

/* ---- many ---- */

/* A quarter of this log is no whole number of blocks. */
Test(wp_order, ca05_the_buffer_of_the_log_has_room_for_the_last_block)
{
	struct bank bank = bank_open_log(&wp_order_defer, 64, LOG_BYTES + 8192, 4 << 20);
	uint64_t lsn, random = 1;

	cr_assert_eq(bank.store->log.buffer_bytes % WP_BLOCK_BYTES, 0U);
	/* nobody waits: it fills, and is flushed when it is full */
	for (int i = 0; i < 400; i++)
		cr_assert_eq(bank_transfer(bank.store, bank.pages_nr, &random, &lsn), 0);
	cr_assert_eq(wp_wait(bank.store, lsn), 0);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

/* More dirty pages than there may be, each of which waits for its record: nobody waits for ever. */
static void throttled(const struct iomap_writeback_ops *order)
{
	struct bank bank = bank_open(order, 400, 2 << 20);
	struct bank_totals totals;

	td_async(bank.dev);
	for (uint64_t i = 0; i < 2 * bank.pages_nr; i++)
		change(&bank, i % bank.pages_nr);
	cr_assert_eq(wp_close(bank.store), 0);
	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), 0);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, 2 * bank.pages_nr);
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

Test(wp_order, ca05_writers_of_deferred_pages_are_throttled_and_go_on)
{
	throttled(&wp_order_defer);
}

Test(wp_order, ca05_writers_that_flush_the_log_at_submission_go_on)
{
	throttled(&wp_order_submit);
}

/*
 * The log has an image of each page, then some bytes of it that are others.  Where an image that was
 * redone could not be written, these bytes alone would make a page that claims to have both.
 */
static void recovery_fails(const struct iomap_writeback_ops *order)
{
	const uint64_t log_bytes = 16 << 20, pages_at = LOG_AT + log_bytes;
	struct bank bank = bank_open_log(order, 400, log_bytes, 2 << 20);
	uint64_t pages_bytes = bank.dev->bytes - pages_at, lsn = 0;
	uint8_t *supers = malloc(LOG_AT), *pages = malloc(pages_bytes);
	struct bank_totals totals;

	t_must(supers && pages);
	memcpy(supers, bank.dev->mem, LOG_AT);
	memcpy(pages, bank.dev->mem + pages_at, pages_bytes);
	for (uint64_t i = 0; i < bank.pages_nr; i++)
		change_by(&bank, i, 1, 0);
	for (uint64_t i = 0; i < bank.pages_nr; i++)
		lsn = change_by(&bank, i, 0, 1);
	cr_assert_eq(wp_wait(bank.store, lsn), 0);
	cr_assert_eq(wp_close(bank.store), 0);
	/* as if only the log had been written before the power went */
	memcpy(bank.dev->mem, supers, LOG_AT);
	memcpy(bank.dev->mem + pages_at, pages, pages_bytes);

	td_fail(bank.dev, TD_WRITE, pages_at, pages_bytes, -EIO, 1);
	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), -EIO);
	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), 0);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, bank.pages_nr);
	cr_assert_eq(totals.sum, (int64_t)(bank.pages_nr * (BANK_ACCOUNTS * BANK_BEGIN + 1)));
	cr_assert_eq(wp_close(bank.store), 0);
	free(supers);
	free(pages);
	bank_close(&bank);
}

Test(wp_order, ca05_recovery_builds_upon_no_page_that_could_not_be_written)
{
	recovery_fails(&wp_order_defer);
}

Test(wp_order, ca05_recovery_builds_upon_no_page_that_failed_after_a_flush)
{
	recovery_fails(&wp_order_submit);
}

#define TELLERS 4
#define TRANSFERS (T_SANITIZED ? 300 : 1500)

struct teller {
	struct bank *bank;
	uint64_t random;
};

static long serve(void *arg)
{
	struct teller *teller = arg;

	for (int i = 0; i < TRANSFERS; i++) {
		uint64_t lsn;

		t_must(bank_transfer(teller->bank->store, teller->bank->pages_nr, &teller->random,
				     &lsn) == 0);
		if (i % 4 == 0)
			t_must(wp_wait(teller->bank->store, lsn) == 0);
		if (i % 64 == 0)
			start_writing(teller->bank);
	}
	return 0;
}

/* With checkpoints all the while, as the log is small. */
static void tellers(const struct iomap_writeback_ops *order)
{
	struct bank bank = bank_open(order, 24, 4 << 20);
	struct teller teller[TELLERS];
	struct bank_totals totals;
	struct wp_stats stats;
	struct t_task task[TELLERS];

	td_async(bank.dev);
	for (unsigned i = 0; i < TELLERS; i++) {
		teller[i] = (struct teller){ .bank = &bank, .random = i };
		t_start(&task[i], serve, &teller[i]);
	}
	for (unsigned i = 0; i < TELLERS; i++)
		t_join(&task[i]);
	wp_stats(bank.store, &stats);
	cr_assert_eq(stats.committed_nr, (uint64_t)TELLERS * TRANSFERS);
	cr_assert_gt(stats.checkpoints_nr, 1U);
	cr_assert_eq(wp_close(bank.store), 0);
	cr_assert_eq(wp_open(bank.engine, bank.dev->bdev, order, &bank.store), 0);
	cr_assert_eq(bank_count(bank.store, bank.pages_nr, &totals), 0);
	cr_assert_eq(totals.transfers_nr, (uint64_t)TELLERS * TRANSFERS);
	cr_assert_eq(totals.sum, (int64_t)(bank.pages_nr * BANK_ACCOUNTS * BANK_BEGIN));
	cr_assert_eq(wp_close(bank.store), 0);
	bank_close(&bank);
}

Test(wp_order, ca05_threads_whose_pages_are_deferred)
{
	tellers(&wp_order_defer);
}

Test(wp_order, ca05_threads_whose_pages_flush_the_log)
{
	tellers(&wp_order_submit);
}
