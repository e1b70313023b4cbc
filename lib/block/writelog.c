/* SPDX-License-Identifier: MIT */
/*
 * writelog.c - the writelog: recording what goes to a device.
 *
 * Order.  An event's number is its place in the log, given under the lock.  SUBMIT is
 * recorded before the lower device hears of the I/O, COMPLETE after the lower device is done
 * and before the submitter hears of it.  So if somebody knew that write W had completed when
 * he submitted flush F, the log has COMPLETE(W) before SUBMIT(F); and what the log calls
 * durable, the lower device has been asked to make durable.  The other way round, a flush
 * whose SUBMIT is before COMPLETE(W) proves nothing about W, whatever the lower device did.
 *
 * Data.  A submitter may change its memory while the write is in flight (a cache without
 * stable writes does).  The lower device is therefore given the copy that is recorded:
 * what is on it is what the log says.
 *
 * A place in `events` is kept for the end of each I/O in flight, so that a completion never
 * allocates.
 *
 * Who frees: a record belongs to the log from its SUBMIT event on, until the log is closed or
 * restarted, neither of which happens with I/O in flight.
 *
 * Locks: `lock` (RANK_BDEV) is never held around submission or completion.
 */
#include "block/writelog.h"

#define WL_LEAST_OPTS offsetof(struct iomap_writelog_opts, reserved)
#define WL_EVENTS_MIN 64U
#define WL_CHUNK_BYTES (UINT64_C(1) << 20)
#define WL_ALIGN 4096U

/* ---- the log ---- */

/* Lock held.  There is room for one more event. */
static void wl_append(struct iomap__writelog *log, uint32_t type, struct iomap__wl_io *io,
		      uint64_t value)
{
	iomap__assert(log->events_nr < log->events_max);
	log->events[log->events_nr++] = (struct iomap__wl_event){
		.type = type,
		.io = io,
		.value = value,
	};
}

/*
 * Lock held.  Room for @nr more events, beside those of I/O in flight, and for @bytes of
 * other memory.  Return: 0; -ENOSPC: the log ends here; -ENOMEM.
 */
static int wl_room(struct iomap__writelog *log, uint64_t nr, uint64_t bytes)
{
	uint64_t need = log->events_nr + log->inflight_nr + nr, max = log->events_max, more;
	struct iomap__wl_event *events;

	while (max < need)
		max = max ? max * 2 : WL_EVENTS_MIN;
	more = (max - log->events_max) * sizeof(*events);
	if (log->ended || (log->max_bytes && log->log_bytes + bytes + more > log->max_bytes)) {
		log->ended = true;
		return -ENOSPC;
	}
	if (more) {
		events = iomap__alloc(log->env, max * sizeof(*events));
		if (!events)
			return -ENOMEM;
		if (log->events_nr)
			memcpy(events, log->events, log->events_nr * sizeof(*events));
		iomap__free(log->env, log->events, log->events_max * sizeof(*events));
		log->events = events;
		log->events_max = max;
	}
	log->log_bytes += more + bytes;
	return 0;
}

static void wl_free_io(struct iomap__writelog *log, struct iomap__wl_io *io)
{
	iomap__free(log->env, io->data, iomap__wl_data_bytes(io));
	iomap__free(log->env, io, sizeof(*io));
}

/* Free all that is recorded.  Nothing is in flight, no replay is open. */
static void wl_forget(struct iomap__writelog *log)
{
	uint64_t n;

	for (n = 0; n < log->events_nr; n++)
		if (log->events[n].type == IOMAP_WRITELOG_SUBMIT)
			wl_free_io(log, log->events[n].io);
	iomap__free(log->env, log->events, log->events_max * sizeof(*log->events));
	log->events = NULL;
	log->events_nr = log->events_max = 0;
	log->writes_nr = log->flushes_nr = log->marks_nr = 0;
	log->data_bytes = log->log_bytes = 0;
	log->ended = false;
}

/* ---- I/O ---- */

static void wl_pass_on(struct iomap__writelog *log, struct iomap_bio *bio)
{
	bio->bi_bdev = log->lower;
	iomap_submit_bio(bio);
}

static void wl_below_end(struct iomap_bio *below)
{
	struct iomap__wl_io *io = below->bi_private;
	struct iomap__writelog *log = io->log;
	struct iomap_bio *bio = io->bio;

	bio->bi_status = below->bi_status;
	iomap_bio_put(below);
	iomap__mutex_lock(&log->lock);
	io->status = bio->bi_status;
	io->bio = NULL;
	log->inflight_nr--;
	/* A log that has ended stays as it was: this write is in flight in it for ever. */
	if (!log->ended)
		wl_append(log, IOMAP_WRITELOG_COMPLETE, io, 0);
	iomap__mutex_unlock(&log->lock);
	/* From here on the log may be closed. */
	iomap_bio_endio(bio);
}

/* The record of @bio with a copy of its data, and the bio that goes down with that. */
static struct iomap__wl_io *wl_new_io(struct iomap__writelog *log, struct iomap_bio *bio,
				      struct iomap_bio **below)
{
	struct iomap__wl_io *io = iomap__zalloc(log->env, sizeof(*io));

	uint64_t bytes;

	/* in whatever thread this is: not the one that has promised to poll */
	*below = iomap_bio_alloc(log->lower, 1, bio->bi_opf & ~IOMAP_REQ_POLLED, NULL);
	if (!io || !*below)
		goto fail;
	io->log = log;
	io->bio = bio;
	io->addr = bio->bi_iter.bi_sector << IOMAP_SECTOR_SHIFT;
	io->len = bio->bi_iter.bi_size;
	io->opf = bio->bi_opf;
	(*below)->bi_private = io;
	(*below)->bi_end_io = wl_below_end;
	(*below)->bi_iter.bi_sector = bio->bi_iter.bi_sector;
	bytes = iomap__wl_data_bytes(io);
	if (!bytes) {
		(*below)->bi_iter.bi_size = io->len;
		return io;
	}
	io->data = iomap__alloc_aligned(log->env, log->align, bytes);
	if (!io->data || !iomap_bio_add(*below, io->data, bytes))
		goto fail;
	iomap_bio_copy_out(bio, 0, io->data, bytes);
	return io;
fail:
	iomap_bio_put(*below);
	if (io)
		wl_free_io(log, io);
	return NULL;
}

/* Return: 0: recorded; -ENOSPC: the log has ended; -ENOMEM. */
static int wl_record_submit(struct iomap__writelog *log, struct iomap__wl_io *io)
{
	int error;

	iomap__mutex_lock(&log->lock);
	error = wl_room(log, 2, sizeof(*io) + iomap__wl_data_bytes(io));
	if (!error) {
		io->submit = log->events_nr;
		wl_append(log, IOMAP_WRITELOG_SUBMIT, io, 0);
		log->inflight_nr++;
		log->writes_nr += !iomap__wl_is_flush(io);
		log->flushes_nr += iomap__wl_is_flush(io);
		log->data_bytes += iomap__wl_data_bytes(io);
	}
	iomap__mutex_unlock(&log->lock);
	return error;
}

static bool wl_ended(struct iomap__writelog *log)
{
	bool ended;

	iomap__mutex_lock(&log->lock);
	ended = log->ended;
	iomap__mutex_unlock(&log->lock);
	return ended;
}

static void wl_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct iomap__writelog *log = iomap_bdev_private(bdev);
	struct iomap_bio *below = NULL;
	struct iomap__wl_io *io;
	int error;

	if (iomap__bio_op(bio) == IOMAP_REQ_OP_READ || wl_ended(log)) {
		wl_pass_on(log, bio);
		return;
	}
	io = wl_new_io(log, bio, &below);
	error = io ? wl_record_submit(log, io) : -ENOMEM;
	if (!error) {
		iomap_submit_bio(below);
		return;
	}
	if (io) {
		iomap_bio_put(below);
		wl_free_io(log, io);
	}
	if (error == -ENOSPC) {
		wl_pass_on(log, bio);
		return;
	}
	bio->bi_status = error;
	iomap_bio_endio(bio);
}

/* ---- life ---- */

size_t iomap__wl_align(const struct iomap_bdev *bdev)
{
	return iomap__max(bdev->limits.dma_alignment, WL_ALIGN);
}

int iomap__wl_transfer(struct iomap_bdev *bdev, uint32_t opf, void *memory, uint64_t bytes)
{
	uint64_t done, len;
	int error = 0;

	for (done = 0; !error && done < bytes; done += len) {
		struct iomap_bio *bio = iomap_bio_alloc(bdev, 1, opf, NULL);

		if (!bio)
			return -ENOMEM;
		len = iomap__min(bytes - done, WL_CHUNK_BYTES);
		bio->bi_iter.bi_sector = done >> IOMAP_SECTOR_SHIFT;
		error = iomap_bio_add(bio, (uint8_t *)memory + done, len) ?
				iomap_submit_bio_wait(bio) :
				-EINVAL;
		iomap_bio_put(bio);
	}
	return error;
}

static void wl_free(struct iomap__writelog *log)
{
	wl_forget(log);
	iomap__free(log->env, log->base, log->bytes);
	iomap__free(log->env, log, sizeof(*log));
}

/* Nothing uses a device of our own but us. */
static void wl_close_own(struct iomap_bdev *lower)
{
	int error = iomap_bdev_close(lower);

	iomap__assert(!error);
	(void)error;
}

static void wl_release(struct iomap_bdev *bdev)
{
	struct iomap__writelog *log = iomap_bdev_private(bdev);
	struct iomap_bdev *lower = log->lower;
	bool owned = log->owns_lower;

	wl_free(log);
	iomap__bdev_put(lower);
	if (owned)
		wl_close_own(lower);
}

/* The log has the size it began with, whatever the lower device does. */
static int wl_revalidate(struct iomap_bdev *bdev, uint64_t *bytes)
{
	struct iomap__writelog *log = iomap_bdev_private(bdev);

	*bytes = log->bytes;
	return 0;
}

static const struct iomap_bdev_ops wl_ops = {
	.submit_bio = wl_submit,
	.revalidate = wl_revalidate,
	.release = wl_release,
};

struct iomap__writelog *iomap__writelog_of(struct iomap_bdev *bdev)
{
	return bdev && bdev->ops == &wl_ops ? iomap_bdev_private(bdev) : NULL;
}

static uint8_t *wl_read_all(struct iomap__writelog *log, int *error)
{
	struct iomap_bdev *lower = log->lower;
	uint8_t *memory = iomap__alloc_aligned(log->env, log->align, log->bytes);

	if (!memory) {
		*error = -ENOMEM;
		return NULL;
	}
	*error = iomap__wl_transfer(lower, IOMAP_REQ_OP_READ, memory, log->bytes);
	if (!*error)
		return memory;
	iomap__free(log->env, memory, log->bytes);
	return NULL;
}

/* With an error @lower is as it was. */
static int wl_stack(struct iomap_bdev *lower, bool owned, uint64_t max_bytes,
		    struct iomap_bdev **out)
{
	struct iomap__env *env = &lower->engine->env;
	struct iomap__writelog *log = iomap__zalloc(env, sizeof(*log));
	int error;

	if (!log)
		return -ENOMEM;
	log->env = env;
	log->lower = lower;
	log->bytes = iomap__bdev_size(lower);
	log->owns_lower = owned;
	log->max_bytes = max_bytes;
	log->align = iomap__wl_align(lower);
	iomap__mutex_init(&log->lock, IOMAP__RANK_BDEV);
	iomap__bdev_get(lower);
	log->base = wl_read_all(log, &error);
	if (!error)
		error = iomap_bdev_create(lower->engine, &wl_ops, log->bytes, &lower->limits, log,
					  &log->bdev);
	if (error) {
		wl_free(log);
		iomap__bdev_put(lower);
		return error;
	}
	*out = log->bdev;
	return 0;
}

static int wl_check_opts(const struct iomap_writelog_opts *opts, struct iomap_writelog_opts *o)
{
	memset(o, 0, sizeof(*o));
	return opts ? iomap__opts_copy(o, WL_LEAST_OPTS, sizeof(*o), opts) : 0;
}

int iomap_writelog_create(struct iomap_bdev *lower, const struct iomap_writelog_opts *opts,
			  struct iomap_bdev **out)
{
	struct iomap_writelog_opts o;

	if (!lower || !out || iomap__bdev_size(lower) > SIZE_MAX / 2 || wl_check_opts(opts, &o))
		return -EINVAL;
	if (iomap__engine_forked(lower->engine))
		return -ECHILD;
	return wl_stack(lower, false, o.max_bytes, out);
}

int iomap_writelog_open_memory(struct iomap_engine *engine, uint64_t bytes, const void *image,
			       const struct iomap_writelog_opts *opts, struct iomap_bdev **out)
{
	struct iomap_writelog_opts o;
	struct iomap_bdev *lower;
	int error;

	if (!out || wl_check_opts(opts, &o))
		return -EINVAL;
	error = iomap_bdev_open_memory(engine, bytes, &lower);
	if (error)
		return error;
	if (image)
		memcpy(lower->memory, image, bytes);
	error = wl_stack(lower, true, o.max_bytes, out);
	if (error)
		wl_close_own(lower);
	return error;
}

/* ---- calls ---- */

int iomap_writelog_mark(struct iomap_bdev *bdev, uint64_t value)
{
	struct iomap__writelog *log = iomap__writelog_of(bdev);
	int error;

	if (!log)
		return -EINVAL;
	iomap__mutex_lock(&log->lock);
	error = wl_room(log, 1, 0);
	if (!error) {
		wl_append(log, IOMAP_WRITELOG_MARK, NULL, value);
		log->marks_nr++;
	}
	iomap__mutex_unlock(&log->lock);
	return error;
}

/* Lock held. */
static bool wl_busy(const struct iomap__writelog *log)
{
	return log->replays_nr || log->inflight_nr;
}

int iomap_writelog_restart(struct iomap_bdev *bdev)
{
	struct iomap__writelog *log = iomap__writelog_of(bdev);
	uint8_t *base, *old = NULL;
	int error = 0;
	bool busy;

	if (!log)
		return -EINVAL;
	/* before the device is read for nothing, beside what is writing to it */
	iomap__mutex_lock(&log->lock);
	busy = wl_busy(log);
	iomap__mutex_unlock(&log->lock);
	/* acquire: pairs with the release of the last bio's end */
	if (busy || iomap__bdev_inflight(bdev))
		return -EBUSY;
	base = wl_read_all(log, &error);
	if (error)
		return error;
	iomap__mutex_lock(&log->lock);
	if (wl_busy(log)) {
		error = -EBUSY;
		old = base;
	} else {
		wl_forget(log);
		old = log->base;
		log->base = base;
	}
	iomap__mutex_unlock(&log->lock);
	iomap__free(log->env, old, log->bytes);
	return error;
}

int iomap_writelog_info(struct iomap_bdev *bdev, struct iomap_writelog_info *out, size_t size)
{
	struct iomap__writelog *log = iomap__writelog_of(bdev);
	struct iomap_writelog_info info;

	if (!log)
		return -EINVAL;
	iomap__mutex_lock(&log->lock);
	info = (struct iomap_writelog_info){
		.events_nr = log->events_nr,
		.writes_nr = log->writes_nr,
		.flushes_nr = log->flushes_nr,
		.marks_nr = log->marks_nr,
		.data_bytes = log->data_bytes,
		.log_bytes = log->log_bytes,
		.inflight_nr = log->inflight_nr,
		.ended = log->ended,
	};
	iomap__mutex_unlock(&log->lock);
	return iomap__info_copy(out, size, &info, sizeof(info));
}

void iomap__wl_describe(const struct iomap__wl_event *event, struct iomap_writelog_event *out)
{
	const struct iomap__wl_io *io = event->io;

	*out = (struct iomap_writelog_event){ .type = event->type, .value = event->value };
	if (!io)
		return;
	out->opf = io->opf;
	out->addr = io->len ? io->addr : 0;
	out->len = io->len;
	out->submit = io->submit;
	/* Before the COMPLETE event the status is not there, and may be changing. */
	if (event->type == IOMAP_WRITELOG_COMPLETE)
		out->status = io->status;
}

int iomap_writelog_event(struct iomap_bdev *bdev, uint64_t n, struct iomap_writelog_event *out,
			 size_t size)
{
	struct iomap__writelog *log = iomap__writelog_of(bdev);
	struct iomap_writelog_event event;
	int error = 0;

	if (!log)
		return -EINVAL;
	iomap__mutex_lock(&log->lock);
	if (n < log->events_nr)
		iomap__wl_describe(&log->events[n], &event);
	else
		error = -ENOENT;
	iomap__mutex_unlock(&log->lock);
	return error ? error : iomap__info_copy(out, size, &event, sizeof(event));
}
