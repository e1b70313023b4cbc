/* SPDX-License-Identifier: MIT */
/*
 * wp_cuts.c - CA05, WB06: walpages after power cuts.
 *
 * A script, drawn from a seed, runs transactions over two to four pages on a writelog, lets pages
 * be written at any time, waits for some commits, and makes checkpoints.  Of each image that
 * a cut may leave:
 *
 *	- no page is on it whose LSN lies behind the end of the log;
 *	- it opens, and each page is what it was behind the last transaction in the log: so all
 *	  of a transaction is there or nothing, and the sum has not changed;
 *	- what was acknowledged before the cut is in the log;
 *	- it goes on from there, the power goes again, it is opened, and has it all.
 *
 * And with pages that are not held back some image is wrong.
 *
 * Scripts run on an engine without threads: one seed gives one log, and one set of images.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "bank.h"
#include "internal.h"
#include "testutil.h"

#define PAGES 6
#define LOG_BYTES WP_LOG_BYTES_MIN
#define DEV_BYTES (2 * WP_BLOCK_BYTES + LOG_BYTES + PAGES * WP_PAGE_BYTES)
#define STEPS 160
#define TXNS_MAX (STEPS + 1)
#define SLOTS (UINT64_C(1) << 16)
#define SEEDS_PER_CUT 3

/* What all pages are behind a transaction. */
struct version {
	uint64_t lsn;
	uint64_t hash[PAGES]; /* of the payloads */
};

struct script {
	struct iomap_engine *engine;
	struct iomap_bdev *log;
	struct wp_store *store;
	uint64_t random;
	struct version versions[TXNS_MAX];
	unsigned versions_nr;
	uint64_t acknowledged; /* LSN; each a mark */
};

struct campaign {
	uint64_t slots[SLOTS];
	uint64_t distinct, states, lacking, wanted;
	char wrong[200]; /* the first thing */
};

static struct iomap_engine *engine_new(void)
{
	struct iomap_engine_opts opts;

	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.nr_queues = 1;
	opts.flags = IOMAP_ENGINE_NO_THREADS;
	return t_engine(&opts, NULL);
}

/* ---- a script ---- */

static uint64_t below(struct script *script, uint64_t bound)
{
	return bank_random(&script->random) % bound;
}

static uint64_t hash_of(const void *payload)
{
	return XXH3_64bits(payload, WP_PAYLOAD_BYTES);
}

static void remember(struct script *script, const uint64_t *pages, unsigned nr, struct wp_txn *txn)
{
	struct version *next = &script->versions[script->versions_nr];

	t_must(script->versions_nr < TXNS_MAX);
	*next = next[-1];
	for (unsigned i = 0; i < nr; i++)
		next->hash[pages[i]] = hash_of(wp_payload(txn, i));
}

/* Money moves from the first page to the others, which are different ones. */
static void transact(struct script *script)
{
	unsigned nr = 2 + (unsigned)below(script, WP_TXN_PAGES_MAX - 1);
	uint64_t first = below(script, PAGES), pages[WP_TXN_PAGES_MAX];
	struct wp_txn *txn;
	uint64_t lsn;

	for (unsigned i = 0; i < nr; i++)
		pages[i] = (first + i) % PAGES;
	t_must(wp_begin(script->store, pages, nr, &txn) == 0);
	for (unsigned i = 1; i < nr; i++) {
		struct bank_page *source = wp_payload(txn, 0), *target = wp_payload(txn, i);
		int64_t amount = (int64_t)below(script, 100) + 1;

		source->transfers_nr++;
		source->balance[below(script, BANK_ACCOUNTS)] -= amount;
		target->balance[below(script, BANK_ACCOUNTS)] += amount;
	}
	if (below(script, 8) == 0) {
		wp_abort(txn);
		return;
	}
	remember(script, pages, nr, txn);
	t_must(wp_commit(txn, &lsn) == 0);
	script->versions[script->versions_nr++].lsn = lsn;
}

static void write_out(struct script *script, unsigned flags)
{
	int64_t pos = (int64_t)(below(script, PAGES) * WP_PAGE_BYTES);
	int64_t end = below(script, 3) ? pos + WP_PAGE_BYTES : INT64_MAX;

	t_must(iomap_sync_range(script->store->pages.file, pos, end, flags) == 0);
}

static void acknowledge(struct script *script)
{
	uint64_t lsn = script->versions[script->versions_nr - 1].lsn;

	t_must(wp_wait(script->store, lsn) == 0);
	t_must(iomap_writelog_mark(script->log, lsn) == 0);
}

static void step(struct script *script)
{
	switch (below(script, 16)) {
	case 0:
		t_must(wp_checkpoint(script->store) == 0);
		break;
	case 1:
	case 2:
		acknowledge(script);
		break;
	case 3:
	case 4:
		write_out(script, IOMAP_SYNC_WRITE);
		break;
	case 5:
		write_out(script, IOMAP_SYNC_WAIT_BEFORE | IOMAP_SYNC_WRITE | IOMAP_SYNC_WAIT_AFTER);
		break;
	case 6:
		iomap_engine_poll(script->engine, 8, true);
		break;
	case 7:
		/* what was written gets durable, in whatever order it was */
		t_must(iomap_bdev_flush(script->log) == 0);
		break;
	default:
		transact(script);
	}
}

static void script_run(struct script *script, uint64_t seed,
		       const struct iomap_writeback_ops *order)
{
	struct bank_page page[2] = { 0 };
	uint8_t payload[WP_PAYLOAD_BYTES] = { 0 };

	memset(script, 0, sizeof(*script));
	script->random = seed;
	script->engine = engine_new();
	t_must(iomap_writelog_open_memory(script->engine, DEV_BYTES, NULL, NULL, &script->log) == 0);
	t_must(wp_format(script->log, PAGES, LOG_BYTES, seed, bank_fill) == 0);
	t_must(wp_open(script->engine, script->log, order, &script->store) == 0);
	t_must(iomap_writelog_restart(script->log) == 0);
	bank_fill(0, page);
	memcpy(payload, page, sizeof(page[0]));
	for (int i = 0; i < PAGES; i++)
		script->versions[0].hash[i] = hash_of(payload);
	script->versions_nr = 1;
	for (int i = 0; i < STEPS; i++)
		step(script);
	t_must(wp_close(script->store) == 0);
}

static void script_end(struct script *script)
{
	t_must(iomap_bdev_close(script->log) == 0);
	t_must(iomap_engine_destroy(script->engine) == 0);
}

/* ---- an image ---- */

struct trial {
	const struct script *script;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	uint8_t *image, *second;
	uint64_t newest; /* LSN of pages, before it is opened */
	uint64_t acknowledged;
	char wrong[200];
};

__attribute__((format(printf, 2, 3))) static bool is_wrong(struct trial *trial, const char *format,
							   ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(trial->wrong, sizeof(trial->wrong), format, args);
	va_end(args);
	return false;
}

static void image_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	uint8_t *at = (uint8_t *)iomap_bdev_private(bdev) +
		      (bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT);

	if ((bio->bi_opf & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_READ)
		iomap_bio_copy_in(bio, 0, at, bio->bi_iter.bi_size);
	else if ((bio->bi_opf & IOMAP_REQ_OP_MASK) == IOMAP_REQ_OP_WRITE)
		iomap_bio_copy_out(bio, 0, at, bio->bi_iter.bi_size);
	bio->bi_status = 0;
	iomap_bio_endio(bio);
}

static const struct iomap_bdev_ops image_ops = { .submit_bio = image_submit };

/* The newest page that is whole, on the device itself. */
static uint64_t newest_page(const uint8_t *image)
{
	uint64_t newest = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		struct wp_page page;

		memcpy(&page, image + DEV_BYTES - (PAGES - i) * sizeof(page), sizeof(page));
		if (wp_page_valid(&page, i) && page.lsn > newest)
			newest = page.lsn;
	}
	return newest;
}

/* The last transaction whose record ends at or before @lsn. */
static const struct version *version_at(const struct script *script, uint64_t lsn)
{
	unsigned i = script->versions_nr - 1;

	while (i && script->versions[i].lsn > lsn)
		i--;
	return &script->versions[i];
}

static bool judge_pages(struct trial *trial, struct wp_store *store, const struct version *version)
{
	struct bank_totals totals;

	for (uint64_t i = 0; i < PAGES; i++) {
		struct wp_page page;
		int error = wp_page_read(store, i, &page);

		if (error)
			return is_wrong(trial, "page %" PRIu64 ": %s", i, strerror(-error));
		if (hash_of(page.payload) != version->hash[i])
			return is_wrong(trial, "page %" PRIu64 " is not that of %" PRIu64, i,
					version->lsn);
	}
	if (bank_count(store, PAGES, &totals))
		return is_wrong(trial, "cannot count");
	if (totals.sum != INT64_C(1) * PAGES * BANK_ACCOUNTS * BANK_BEGIN)
		return is_wrong(trial, "the sum is %" PRId64, totals.sum);
	return true;
}

static bool judge_store(struct trial *trial, struct wp_store *store)
{
	const struct version *version;
	struct wp_stats stats;

	wp_stats(store, &stats);
	version = version_at(trial->script, stats.redone_end);
	if (trial->newest > stats.redone_end)
		return is_wrong(trial, "a page of %" PRIu64 " where the log ends at %" PRIu64,
				trial->newest, stats.redone_end);
	if (version->lsn < trial->acknowledged)
		return is_wrong(trial, "%" PRIu64 " was acknowledged, the log ends at %" PRIu64,
				trial->acknowledged, stats.redone_end);
	return judge_pages(trial, store, version);
}

/* It goes on: transfers that are waited for are there when it is opened again. */
static bool judge_future(struct trial *trial, const struct bank_totals *before)
{
	struct bank_totals totals;
	struct wp_store *store;
	int error = wp_open(trial->engine, trial->bdev, &wp_order_defer, &store);
	bool good;

	if (error)
		return is_wrong(trial, "opening again: %s", strerror(-error));
	good = !bank_count(store, PAGES, &totals) && totals.sum == before->sum &&
	       totals.transfers_nr == before->transfers_nr + 1;
	if (!good)
		is_wrong(trial, "a transfer after the cut is lost");
	t_must(wp_close(store) == 0);
	return good;
}

static bool judge(struct trial *trial)
{
	struct bank_totals totals;
	struct wp_store *store;
	uint64_t lsn = 0, random = 1;
	int error;
	bool good;

	trial->newest = newest_page(trial->image);
	error = wp_open(trial->engine, trial->bdev, &wp_order_defer, &store);
	if (error)
		return is_wrong(trial, "open: %s", strerror(-error));
	good = judge_store(trial, store);
	if (good)
		t_must(!bank_count(store, PAGES, &totals) &&
		       !bank_transfer(store, PAGES, &random, &lsn) && !wp_wait(store, lsn));
	memcpy(trial->second, trial->image, DEV_BYTES);
	t_must(wp_close(store) == 0);
	/* the power goes again, before anything but the log was written */
	memcpy(trial->image, trial->second, DEV_BYTES);
	return good && judge_future(trial, &totals);
}

/* ---- which images ---- */

static bool is_new(struct campaign *campaign, uint64_t key)
{
	uint64_t at = key % SLOTS;

	t_must(campaign->distinct < SLOTS / 2);
	for (key |= !key; campaign->slots[at]; at = (at + 1) % SLOTS)
		if (campaign->slots[at] == key)
			return false;
	campaign->slots[at] = key;
	return true;
}

static void try_cut(struct campaign *campaign, struct trial *trial, struct iomap_replay *replay,
		    uint32_t mode, uint64_t seed)
{
	struct iomap_cut cut = { .size = sizeof(cut), .mode = mode };
	struct iomap_cut_outcome outcome;
	struct iomap_replay_info info;

	if (campaign->distinct >= campaign->wanted || *campaign->wrong)
		return;
	t_must(iomap_replay_info(replay, &info, sizeof(info)) == 0);
	cut.seed = seed + info.at * 1000003;
	t_must(iomap_replay_image(replay, &cut, trial->image, &outcome) == 0);
	campaign->states++;
	trial->acknowledged = info.mark;
	if (!is_new(campaign, XXH3_64bits(trial->image, DEV_BYTES)))
		return;
	campaign->distinct++;
	campaign->lacking += outcome.dropped_nr || outcome.torn_nr;
	if (!judge(trial))
		snprintf(campaign->wrong, sizeof(campaign->wrong), "event %" PRIu64 ": %.150s",
			 info.at, trial->wrong);
}

static void try_all(struct campaign *campaign, const struct script *script)
{
	struct trial trial = { .script = script, .engine = engine_new() };
	struct iomap_writelog_info info;
	struct iomap_replay *replay;

	trial.image = calloc(1, DEV_BYTES);
	trial.second = calloc(1, DEV_BYTES);
	t_must(trial.image && trial.second);
	t_must(iomap_bdev_create(trial.engine, &image_ops, DEV_BYTES, NULL, trial.image,
				 &trial.bdev) == 0);
	t_must(iomap_replay_open(script->log, &replay) == 0);
	t_must(iomap_writelog_info(script->log, &info, sizeof(info)) == 0);
	t_must(!info.ended);
	for (uint64_t n = 0; n <= info.events_nr; n++) {
		t_must(iomap_replay_seek(replay, n) == 0);
		try_cut(campaign, &trial, replay, IOMAP_CUT_ALL, 0);
		try_cut(campaign, &trial, replay, IOMAP_CUT_NONE, 0);
		for (uint64_t seed = 1; seed <= SEEDS_PER_CUT; seed++)
			try_cut(campaign, &trial, replay, IOMAP_CUT_RANDOM, seed);
	}
	iomap_replay_close(replay);
	t_must(iomap_bdev_close(trial.bdev) == 0);
	t_must(iomap_engine_destroy(trial.engine) == 0);
	free(trial.second);
	free(trial.image);
}

/* Return: what is wrong with some image; NULL: nothing with any. */
static const char *campaign_run(const struct iomap_writeback_ops *order, uint64_t wanted)
{
	static struct campaign campaign;
	static struct script script;
	uint64_t seed;

	campaign.wanted = wanted;
	for (seed = 1; campaign.distinct < wanted && !*campaign.wrong; seed++) {
		script_run(&script, seed, order);
		try_all(&campaign, &script);
		script_end(&script);
	}
	fprintf(stderr,
		"wp_cuts: %" PRIu64 " seeds, %" PRIu64 " states, %" PRIu64
		" distinct images, %" PRIu64 " of them with writes dropped or torn\n",
		seed - 1, campaign.states, campaign.distinct, campaign.lacking);
	if (*campaign.wrong)
		fprintf(stderr, "wp_cuts: seed %" PRIu64 ", %s\n", seed - 1, campaign.wrong);
	else
		cr_assert_gt(campaign.lacking, campaign.distinct / 2);
	return *campaign.wrong ? campaign.wrong : NULL;
}

static uint64_t states_wanted(void)
{
	return getenv("IOMAP_FULL") ? 30000 : 5000;
}

Test(wp_cuts, ca05_wb06_no_cut_shows_a_page_that_was_deferred)
{
	const char *wrong = campaign_run(&wp_order_defer, states_wanted());

	cr_assert_null(wrong, "%s", wrong);
}

Test(wp_cuts, ca05_wb06_no_cut_shows_a_page_before_the_flush_at_its_submission)
{
	const char *wrong = campaign_run(&wp_order_submit, states_wanted());

	cr_assert_null(wrong, "%s", wrong);
}

/* ---- without the hold-back ---- */

static ssize_t careless_range(struct iomap_writepage_ctx *wpc, struct iomap_folio *folio,
			      uint64_t pos, unsigned len, uint64_t end_pos)
{
	struct wp_store *store = wpc->inode->i_private;

	wp_region_map(&store->pages, &wpc->iomap);
	atomic_store(&store->dirtied[pos / WP_PAGE_BYTES], 0);
	return iomap_add_to_ioend(wpc, folio, (int64_t)pos, (int64_t)end_pos, len);
}

static const struct iomap_writeback_ops careless = {
	.writeback_range = careless_range,
	.writeback_submit = iomap_ioend_writeback_submit,
};

Test(wp_cuts, ca05_without_the_hold_back_an_image_is_wrong)
{
	const char *wrong = campaign_run(&careless, states_wanted());

	cr_assert_not_null(wrong, "pages that were not held back harmed nobody");
	cr_assert_not_null(strstr(wrong, "where the log ends at"), "%s", wrong);
}
