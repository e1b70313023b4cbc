/* SPDX-License-Identifier: MIT */
/*
 * writelog_cut.c - the image that a power cut leaves.
 *
 * First each write that is not durable gets a fate; then the image is made: a copy of what
 * is durable, and over it the writes that have landed, each where it may
 * (iomap__replay_may_land()).
 *
 * A write with PREFLUSH puts nothing on the medium before its flush has succeeded.  If
 * something of it has landed, then what that flush covers is durable, and goes first, in the
 * order of completion.  A failed write that had completed by then is as free as ever, but
 * where what the flush covers was submitted after it (cut_overwritten()).
 *
 * Drawing.  Fates that are drawn for each write alone rarely hit what breaks a store: one
 * write missing under many that landed, or one alone that has landed.  So the manner is drawn
 * first (enum cut_manner), and how many of eight writes land; then the fates.
 */
#include "block/writelog.h"

#define CUT_LEAST offsetof(struct iomap_cut, reserved)
#define CUT_LANDING 8U

enum cut_fate {
	CUT_DROPPED,
	CUT_WHOLE,
	CUT_TORN,
	CUT_PIECEMEAL, /* pieces of the caller */
};

enum cut_manner {
	CUT_IN_ORDER,	 /* a subset, in order, nothing torn */
	CUT_REORDERED,	 /* a subset, in any order, nothing torn */
	CUT_ANYTHING,	 /* subset, order and tears */
	CUT_ONE_MISSING, /* all but one, or the part of one */
	CUT_MANNERS,
};

/* Which units of a torn write land. */
enum cut_tear {
	CUT_TEAR_SOME,
	CUT_TEAR_HEAD,
	CUT_TEAR_TAIL,
	CUT_TEAR_HOLE, /* all but one */
	CUT_TEAR_ONE,
	CUT_TEARS,
};

/* The units of @unit_bytes that a write touches; an atomic write is one. */
struct cut_units {
	uint64_t first, nr;
};

static struct cut_units cut_units(const struct iomap__replay_write *write, uint64_t unit_bytes)
{
	uint64_t addr = write->io->addr, end = addr + write->io->len;
	uint64_t first = addr / unit_bytes;

	if (write->io->opf & IOMAP_REQ_ATOMIC)
		return (struct cut_units){ .first = first, .nr = 1 };
	return (struct cut_units){ .first = first, .nr = (end - 1) / unit_bytes - first + 1 };
}

/* ---- fates ---- */

/* Torn, if it can be. */
static void cut_draw_tear(struct iomap__replay_write *write, uint64_t unit_bytes, uint64_t *random)
{
	write->random = iomap__random(random);
	write->tear = (uint8_t)iomap__random_below(random, CUT_TEARS);
	if (cut_units(write, unit_bytes).nr > 1)
		write->fate = CUT_TORN;
	else
		write->fate = write->random & 1 ? CUT_WHOLE : CUT_DROPPED;
}

static void cut_shuffle(struct iomap_replay *replay, uint64_t *random)
{
	uint64_t n, other, swap;

	for (n = replay->writes_nr; n > 1; n--) {
		other = iomap__random_below(random, n);
		swap = replay->order[n - 1];
		replay->order[n - 1] = replay->order[other];
		replay->order[other] = swap;
	}
}

static void cut_draw(struct iomap_replay *replay, uint64_t seed, uint64_t unit_bytes)
{
	uint64_t random = iomap__mix(seed), n;
	unsigned manner = (unsigned)iomap__random_below(&random, CUT_MANNERS);
	uint64_t missing = iomap__random_below(&random, replay->writes_nr);
	uint64_t landing = iomap__random_below(&random, CUT_LANDING + 1);

	for (n = 0; n < replay->writes_nr; n++) {
		struct iomap__replay_write *write = &replay->writes[n];
		uint64_t draw = iomap__random(&random);
		bool lands = (draw >> 8) % CUT_LANDING < landing;

		if (manner == CUT_ONE_MISSING)
			write->fate = n != missing ? CUT_WHOLE : draw & 1 ? CUT_TORN : CUT_DROPPED;
		else if (manner == CUT_ANYTHING && draw & 2)
			write->fate = CUT_TORN;
		else
			write->fate = lands ? CUT_WHOLE : CUT_DROPPED;
		if (write->fate != CUT_TORN)
			continue;
		cut_draw_tear(write, unit_bytes, &random);
		if (manner == CUT_ONE_MISSING && write->fate == CUT_WHOLE)
			write->fate = CUT_DROPPED;
	}
	if (manner == CUT_REORDERED || manner == CUT_ANYTHING)
		cut_shuffle(replay, &random);
}

static int cut_take_pieces(struct iomap_replay *replay, const struct iomap_cut *cut)
{
	size_t i;

	if (cut->pieces_nr && !cut->pieces)
		return -EINVAL;
	for (i = 0; i < cut->pieces_nr; i++) {
		const struct iomap_cut_piece *piece = &cut->pieces[i];
		struct iomap__replay_write *write;

		if (piece->write >= replay->writes_nr)
			return -EINVAL;
		write = &replay->writes[piece->write];
		if ((piece->off | piece->len) % IOMAP_SECTOR_SIZE || !piece->len ||
		    piece->off > write->io->len || piece->len > write->io->len - piece->off)
			return -EINVAL;
		if (write->io->opf & IOMAP_REQ_ATOMIC && piece->len != write->io->len)
			return -EINVAL;
		write->fate = CUT_PIECEMEAL;
	}
	return 0;
}

static int cut_choose(struct iomap_replay *replay, const struct iomap_cut *cut, uint64_t unit_bytes)
{
	uint64_t n;

	if (cut->mode < IOMAP_CUT_NONE || cut->mode > IOMAP_CUT_PIECES ||
	    (cut->mode == IOMAP_CUT_SUBSET && !cut->keep && replay->writes_nr))
		return -EINVAL;
	for (n = 0; n < replay->writes_nr; n++) {
		struct iomap__replay_write *write = &replay->writes[n];
		bool keep = cut->mode == IOMAP_CUT_ALL ||
			    (cut->mode == IOMAP_CUT_SUBSET && cut->keep[n / 64] >> n % 64 & 1);

		write->fate = keep ? CUT_WHOLE : CUT_DROPPED;
		write->random = 0;
		write->done = false;
		replay->order[n] = n;
	}
	if (cut->mode == IOMAP_CUT_RANDOM && replay->writes_nr)
		cut_draw(replay, cut->seed, unit_bytes);
	return cut->mode == IOMAP_CUT_PIECES ? cut_take_pieces(replay, cut) : 0;
}

/* ---- the image ---- */

struct cut_target {
	const struct iomap_replay *replay;
	const struct iomap_cut *cut;
	uint64_t unit_bytes;
	uint64_t flush; /* SUBMIT of the last write with PREFLUSH that has landed; 0: none */
	uint8_t *image;
};

/* What has landed lands in the order of completion. */
static bool cut_in_order(const struct cut_target *to)
{
	return to->cut->mode == IOMAP_CUT_ALL || to->cut->mode == IOMAP_CUT_SUBSET;
}

/* The flush of a write that has landed covers @write. */
static bool cut_flushed(const struct cut_target *to, const struct iomap__replay_write *write)
{
	return write->end && write->end < to->flush && !write->status;
}

/* @write had failed before something was submitted that such a flush covers, for @addr. */
static bool cut_overwritten(const struct cut_target *to, const struct iomap__replay_write *write,
			    uint64_t addr)
{
	const struct iomap_replay *replay = to->replay;
	uint64_t n;

	for (n = 0; write->status && n < replay->writes_nr; n++) {
		const struct iomap__replay_write *other = &replay->writes[n];

		if (cut_flushed(to, other) && other->start > write->end &&
		    addr >= other->io->addr && addr - other->io->addr < other->io->len)
			return true;
	}
	return false;
}

static bool cut_may_land(const struct cut_target *to, const struct iomap__replay_write *write,
			 uint64_t addr)
{
	const struct iomap__replay_sector *sector =
		&to->replay->sectors[addr >> IOMAP_SECTOR_SHIFT];

	if (!iomap__replay_may_land(write, sector))
		return false;
	/* of what is durable, the last to complete is there */
	if ((cut_in_order(to) || cut_flushed(to, write)) && write->end &&
	    write->end < sector->settled_end)
		return false;
	return !cut_overwritten(to, write, addr);
}

/* Bytes [off, end) of @write land where they may. */
static void cut_land(const struct cut_target *to, const struct iomap__replay_write *write,
		     uint64_t off, uint64_t end)
{
	const struct iomap__wl_io *io = write->io;

	for (; off < end; off += IOMAP_SECTOR_SIZE) {
		uint64_t addr = io->addr + off;

		if (cut_may_land(to, write, addr))
			iomap__wl_put_sector(io, off, to->image + addr);
	}
}

static bool cut_unit_lands(const struct iomap__replay_write *write, uint64_t unit, uint64_t nr)
{
	/* Whatever the manner, one unit lands and another does not. */
	uint64_t kept = write->random % nr;
	uint64_t lost = (kept + 1 + (write->random >> 32) % (nr - 1)) % nr;

	switch (write->tear) {
	case CUT_TEAR_HEAD:
		return unit < iomap__max(kept, 1);
	case CUT_TEAR_TAIL:
		return unit >= iomap__max(kept, 1);
	case CUT_TEAR_HOLE:
		return unit != lost;
	case CUT_TEAR_ONE:
		return unit == kept;
	default:
		if (unit == kept || unit == lost)
			return unit == kept;
		return iomap__mix2(write->random, unit) & 1;
	}
}

static void cut_land_torn(const struct cut_target *to, const struct iomap__replay_write *write)
{
	struct cut_units units = cut_units(write, to->unit_bytes);
	uint64_t addr = write->io->addr, end = addr + write->io->len, n;

	for (n = 0; n < units.nr; n++) {
		uint64_t begin = iomap__max((units.first + n) * to->unit_bytes, addr);
		uint64_t stop = iomap__min((units.first + n + 1) * to->unit_bytes, end);

		if (cut_unit_lands(write, n, units.nr))
			cut_land(to, write, begin - addr, stop - addr);
	}
}

/* Write @n meets its fate; pieces of the caller have their turn in his order. */
static void cut_meet(const struct cut_target *to, uint64_t n)
{
	struct iomap__replay_write *write = &to->replay->writes[n];

	write->done = true;
	switch (write->fate) {
	case CUT_WHOLE:
		cut_land(to, write, 0, write->io->len);
		break;
	case CUT_TORN:
		cut_land_torn(to, write);
		break;
	default:
		break;
	}
}

/* What the flushes of writes that have landed cover. */
static void cut_meet_flushed(struct cut_target *to)
{
	const struct iomap_replay *replay = to->replay;
	uint64_t n;

	for (n = 0; n < replay->writes_nr; n++) {
		const struct iomap__replay_write *write = &replay->writes[n];

		if (write->fate != CUT_DROPPED && write->io->opf & IOMAP_REQ_PREFLUSH)
			to->flush = iomap__max(to->flush, write->start);
	}
	for (n = 0; n < replay->writes_nr; n++) {
		struct iomap__replay_write *write = &replay->writes[n];

		if (cut_flushed(to, write))
			write->fate = CUT_WHOLE;
		else if (!cut_in_order(to) || !write->end || write->end >= to->flush)
			continue;
		cut_meet(to, n);
	}
}

static void cut_meet_all(struct cut_target *to)
{
	const struct iomap_replay *replay = to->replay;
	uint64_t n;
	size_t i;

	cut_meet_flushed(to);
	for (n = 0; n < replay->writes_nr; n++)
		if (!replay->writes[replay->order[n]].done &&
		    replay->writes[replay->order[n]].fate != CUT_PIECEMEAL)
			cut_meet(to, replay->order[n]);
	for (i = 0; to->cut->mode == IOMAP_CUT_PIECES && i < to->cut->pieces_nr; i++) {
		const struct iomap_cut_piece *piece = &to->cut->pieces[i];

		if (!replay->writes[piece->write].done)
			cut_land(to, &replay->writes[piece->write], piece->off,
				 piece->off + piece->len);
	}
}

/* The pieces of write @n, which may overlap, are together the whole write. */
static bool cut_pieces_whole(const struct cut_target *to, uint64_t n)
{
	uint64_t len = to->replay->writes[n].io->len, done = 0;
	size_t i = 0;

	while (done < len && i < to->cut->pieces_nr) {
		const struct iomap_cut_piece *piece = &to->cut->pieces[i++];

		if (piece->write != n || piece->off > done || piece->off + piece->len <= done)
			continue;
		done = piece->off + piece->len;
		i = 0;
	}
	return done == len;
}

static void cut_count(const struct cut_target *to, struct iomap_cut_outcome *outcome)
{
	const struct iomap_replay *replay = to->replay;
	bool later = false;
	uint64_t n;

	memset(outcome, 0, sizeof(*outcome));
	for (n = replay->writes_nr; n-- > 0;) {
		const struct iomap__replay_write *write = &replay->writes[n];
		bool whole = write->fate == CUT_WHOLE ||
			     (write->fate == CUT_PIECEMEAL && cut_pieces_whole(to, n));
		bool dropped = write->fate == CUT_DROPPED;

		outcome->whole_nr += whole;
		outcome->dropped_nr += dropped;
		outcome->torn_nr += !whole && !dropped;
		outcome->overtaken_nr += !whole && later;
		later |= !dropped;
	}
}

int iomap_replay_image(struct iomap_replay *replay, const struct iomap_cut *cut, void *image,
		       struct iomap_cut_outcome *outcome)
{
	struct iomap_cut c;
	struct cut_target to;
	uint64_t unit_bytes;
	int error;

	if (!replay || !cut || !image || iomap__opts_copy(&c, CUT_LEAST, sizeof(c), cut))
		return -EINVAL;
	unit_bytes = c.sector_bytes ? c.sector_bytes :
				      replay->log->lower->limits.logical_block_size;
	if (!iomap__is_pow2(unit_bytes) || unit_bytes < IOMAP_SECTOR_SIZE)
		return -EINVAL;
	error = cut_choose(replay, &c, unit_bytes);
	if (error)
		return error;
	memcpy(image, replay->settled, replay->bytes);
	to = (struct cut_target){
		.replay = replay,
		.cut = &c,
		.unit_bytes = unit_bytes,
		.image = image,
	};
	cut_meet_all(&to);
	if (outcome)
		cut_count(&to, outcome);
	return 0;
}

int iomap_replay_store(struct iomap_replay *replay, const struct iomap_cut *cut,
		       struct iomap_bdev *target, struct iomap_cut_outcome *outcome)
{
	void *image;
	int error;

	if (!replay || !cut || !target || iomap_bdev_bytes(target) < replay->bytes)
		return -EINVAL;
	image = iomap__alloc_aligned(replay->env, iomap__wl_align(target), replay->bytes);
	if (!image)
		return -ENOMEM;
	error = iomap_replay_image(replay, cut, image, outcome);
	if (!error)
		error = iomap__wl_transfer(target, IOMAP_REQ_OP_WRITE, image, replay->bytes);
	if (!error)
		error = iomap_bdev_flush(target);
	iomap__free(replay->env, image, replay->bytes);
	return error;
}
