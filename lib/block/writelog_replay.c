/* SPDX-License-Identifier: MIT */
/*
 * writelog_replay.c - moving a cut through a log: what is durable there, and what is not.
 *
 * A replay holds the image of what is durable ("settled") and the list of the writes that
 * are not.  Each event moves it on:
 *   SUBMIT of a write    it is on the list, in flight
 *   COMPLETE of a write  with FUA it becomes durable; else it stays on the list
 *   COMPLETE of a flush  (or of a write with PREFLUSH) what had completed before its SUBMIT
 *                        becomes durable
 * A write that becomes durable is put into the image and leaves the list.
 *
 * For each sector the replay knows two numbers.  `newest` is the latest SUBMIT of the durable
 * writes that reached it: a write that completed before that has been overwritten for good
 * and may not come back.  `settled_end` is the COMPLETE of the one whose data is in the
 * image: of several durable writes the last to complete is there.  It is a legal one: had it
 * completed before a durable one was submitted, that one would have completed later still.
 *
 * When the cut has arrived, writes that may not come back in any sector leave the list.
 */
#include "block/writelog.h"

/* ---- what becomes durable ---- */

static void replay_settle(struct iomap_replay *replay, struct iomap__replay_write *write)
{
	const struct iomap__wl_io *io = write->io;
	uint64_t off;

	for (off = 0; off < io->len; off += IOMAP_SECTOR_SIZE) {
		struct iomap__replay_sector *sector =
			&replay->sectors[(io->addr + off) >> IOMAP_SECTOR_SHIFT];

		sector->newest = iomap__max(sector->newest, write->start);
		if (write->end < sector->settled_end)
			continue;
		sector->settled_end = write->end;
		iomap__wl_put_sector(io, off, replay->settled + io->addr + off);
	}
	write->io = NULL;
}

static void replay_compact(struct iomap_replay *replay)
{
	uint64_t from, to = 0;

	for (from = 0; from < replay->writes_nr; from++)
		if (replay->writes[from].io)
			replay->writes[to++] = replay->writes[from];
	replay->writes_nr = to;
}

/* A flush that was submitted as event @start has succeeded. */
static void replay_flushed(struct iomap_replay *replay, uint64_t start)
{
	uint64_t n;

	for (n = 0; n < replay->writes_nr; n++) {
		struct iomap__replay_write *write = &replay->writes[n];

		if (write->end && write->end < start && !write->status)
			replay_settle(replay, write);
	}
	replay_compact(replay);
}

/* ---- events ---- */

static int replay_grow(struct iomap_replay *replay)
{
	uint64_t max = replay->writes_max ? replay->writes_max * 2 : 64;
	struct iomap__replay_write *writes = iomap__alloc(replay->env, max * sizeof(*writes));
	uint64_t *order = iomap__alloc(replay->env, max * sizeof(*order));

	if (!writes || !order) {
		iomap__free(replay->env, writes, max * sizeof(*writes));
		iomap__free(replay->env, order, max * sizeof(*order));
		return -ENOMEM;
	}
	if (replay->writes_nr)
		memcpy(writes, replay->writes, replay->writes_nr * sizeof(*writes));
	iomap__free(replay->env, replay->writes, replay->writes_max * sizeof(*writes));
	iomap__free(replay->env, replay->order, replay->writes_max * sizeof(*order));
	replay->writes = writes;
	replay->order = order;
	replay->writes_max = max;
	return 0;
}

static int replay_submitted(struct iomap_replay *replay, const struct iomap__wl_io *io, uint64_t n)
{
	if (iomap__wl_is_flush(io))
		return 0;
	if (replay->writes_nr == replay->writes_max && replay_grow(replay))
		return -ENOMEM;
	replay->writes[replay->writes_nr++] = (struct iomap__replay_write){ .io = io, .start = n };
	return 0;
}

static struct iomap__replay_write *replay_find(struct iomap_replay *replay,
					       const struct iomap__wl_io *io)
{
	uint64_t n = replay->writes_nr;

	/* The ones that came last complete soonest. */
	while (replay->writes[n - 1].io != io)
		n--;
	return &replay->writes[n - 1];
}

static void replay_completed(struct iomap_replay *replay, const struct iomap__wl_io *io, uint64_t n)
{
	struct iomap__replay_write *write;

	if (!io->status && (iomap__wl_is_flush(io) || io->opf & IOMAP_REQ_PREFLUSH))
		replay_flushed(replay, io->submit);
	if (iomap__wl_is_flush(io))
		return;
	write = replay_find(replay, io);
	write->end = n;
	write->status = io->status;
	if (!io->status && io->opf & IOMAP_REQ_FUA) {
		replay_settle(replay, write);
		replay_compact(replay);
	}
}

/* Event @n happens. */
static int replay_step(struct iomap_replay *replay, const struct iomap__wl_event *event, uint64_t n)
{
	switch (event->type) {
	case IOMAP_WRITELOG_SUBMIT:
		return replay_submitted(replay, event->io, n);
	case IOMAP_WRITELOG_COMPLETE:
		replay_completed(replay, event->io, n);
		return 0;
	default:
		replay->marks_nr++;
		replay->mark = event->value;
		return 0;
	}
}

/* ---- the cut has arrived ---- */

static bool replay_may_land_anywhere(const struct iomap_replay *replay,
				     const struct iomap__replay_write *write)
{
	uint64_t first = write->io->addr >> IOMAP_SECTOR_SHIFT;
	uint64_t nr = write->io->len >> IOMAP_SECTOR_SHIFT, n;

	for (n = 0; n < nr; n++)
		if (iomap__replay_may_land(write, &replay->sectors[first + n]))
			return true;
	return false;
}

static int replay_compare(const void *a, const void *b)
{
	const struct iomap__replay_write *x = a, *y = b;
	/* in flight: 0 - 1, behind all others */
	uint64_t x_end = x->end - 1, y_end = y->end - 1;

	if (x_end != y_end)
		return x_end < y_end ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

static void replay_arrive(struct iomap_replay *replay)
{
	uint64_t n;

	for (n = 0; n < replay->writes_nr; n++)
		if (!replay_may_land_anywhere(replay, &replay->writes[n]))
			replay->writes[n].io = NULL;
	replay_compact(replay);
	if (replay->writes_nr)
		qsort(replay->writes, replay->writes_nr, sizeof(*replay->writes), replay_compare);
}

static void replay_reset(struct iomap_replay *replay)
{
	/* `base` does not change while a replay is open. */
	memcpy(replay->settled, replay->log->base, replay->bytes);
	memset(replay->sectors, 0,
	       (replay->bytes >> IOMAP_SECTOR_SHIFT) * sizeof(*replay->sectors));
	replay->writes_nr = 0;
	replay->at = replay->marks_nr = replay->mark = 0;
}

/* ---- calls ---- */

/* Copy event @n; false when there is none. */
static bool replay_event(struct iomap__writelog *log, uint64_t n, struct iomap__wl_event *event)
{
	bool there;

	iomap__mutex_lock(&log->lock);
	there = n < log->events_nr;
	if (there)
		*event = log->events[n];
	iomap__mutex_unlock(&log->lock);
	return there;
}

int iomap_replay_seek(struct iomap_replay *replay, uint64_t at)
{
	struct iomap__wl_event event = { 0 };
	int error = 0;

	if (!replay || (at && !replay_event(replay->log, at - 1, &event)))
		return -EINVAL;
	if (at < replay->at)
		replay_reset(replay);
	while (!error && replay->at < at) {
		replay_event(replay->log, replay->at, &event);
		error = replay_step(replay, &event, replay->at);
		replay->at++;
	}
	if (error)
		replay_reset(replay);
	else
		replay_arrive(replay);
	return error;
}

static void replay_free(struct iomap_replay *replay)
{
	struct iomap__env *env = replay->env;
	uint64_t sectors_nr = replay->bytes >> IOMAP_SECTOR_SHIFT;

	iomap__free(env, replay->order, replay->writes_max * sizeof(*replay->order));
	iomap__free(env, replay->writes, replay->writes_max * sizeof(*replay->writes));
	iomap__free(env, replay->sectors, sectors_nr * sizeof(*replay->sectors));
	iomap__free(env, replay->settled, replay->bytes);
	iomap__free(env, replay, sizeof(*replay));
}

int iomap_replay_open(struct iomap_bdev *bdev, struct iomap_replay **out)
{
	struct iomap__writelog *log = iomap__writelog_of(bdev);
	struct iomap_replay *replay;

	if (!log || !out)
		return -EINVAL;
	if (iomap__engine_forked(bdev->engine))
		return -ECHILD;
	replay = iomap__zalloc(log->env, sizeof(*replay));
	if (!replay)
		return -ENOMEM;
	replay->log = log;
	replay->env = log->env;
	replay->bytes = log->bytes;
	replay->settled = iomap__alloc(replay->env, replay->bytes);
	replay->sectors = iomap__alloc(replay->env, (replay->bytes >> IOMAP_SECTOR_SHIFT) *
							    sizeof(*replay->sectors));
	if (!replay->settled || !replay->sectors) {
		replay_free(replay);
		return -ENOMEM;
	}
	iomap__bdev_get(bdev);
	iomap__mutex_lock(&log->lock);
	log->replays_nr++;
	iomap__mutex_unlock(&log->lock);
	replay_reset(replay);
	*out = replay;
	return 0;
}

void iomap_replay_close(struct iomap_replay *replay)
{
	struct iomap__writelog *log;

	if (!replay)
		return;
	log = replay->log;
	replay_free(replay);
	iomap__mutex_lock(&log->lock);
	log->replays_nr--;
	iomap__mutex_unlock(&log->lock);
	iomap__bdev_put(log->bdev);
}

int iomap_replay_info(struct iomap_replay *replay, struct iomap_replay_info *out, size_t size)
{
	struct iomap_replay_info info;

	if (!replay)
		return -EINVAL;
	info = (struct iomap_replay_info){
		.at = replay->at,
		.writes_nr = replay->writes_nr,
		.bytes = replay->bytes,
		.marks_nr = replay->marks_nr,
		.mark = replay->mark,
	};
	return iomap__info_copy(out, size, &info, sizeof(info));
}

int iomap_replay_write(struct iomap_replay *replay, uint64_t n, struct iomap_writelog_event *out,
		       size_t size)
{
	const struct iomap__replay_write *write;
	struct iomap_writelog_event described;
	struct iomap__wl_event event = { 0 };

	if (!replay)
		return -EINVAL;
	if (n >= replay->writes_nr)
		return -ENOENT;
	write = &replay->writes[n];
	if (!replay_event(replay->log, write->end ? write->end : write->start, &event))
		return -ENOENT;
	iomap__wl_describe(&event, &described);
	return iomap__info_copy(out, size, &described, sizeof(described));
}
