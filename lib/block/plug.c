/* SPDX-License-Identifier: MIT */
/*
 * plug.c - bios that a thread holds back so that they go out in one submission.
 *
 * The plug lies on the stack of the thread that started it and is known by the thread's
 * record.  What it holds has been checked and counted.  It is sent when it holds many, when
 * it is finished, and before the thread sleeps: in iomap__io_wait(), and by `plug_flush`
 * before it sleeps on an rwsem, whose holder may wait for these very bios.  Bios that a
 * bi_end_io submits pass by the plug of the thread that happens to run it, unless it is the
 * one that has promised to look after them (private.c): then a loop of submissions and waits
 * under one plug needs one system call for each turn.
 */
#include "block/internal.h"

#define PLUG_BIOS_MAX 32U

/* Bios of one engine that follow each other go out together.  @expect: the thread waits next. */
static void plug_send(struct iomap_plug *plug, bool expect)
{
	struct iomap__bio_list list = { plug->first, plug->last, plug->count };
	struct iomap__batch batch = { .bios = { 0 } };
	struct iomap__blk *blk = NULL;
	struct iomap_bio *bio;

	/* Empty first: a device of the application may submit bios of its own here. */
	plug->first = plug->last = NULL;
	plug->count = 0;
	while ((bio = iomap__bio_list_pop(&list))) {
		struct iomap__blk *its = bio->bi_bdev->engine->blk;

		/* of before a fork(): the parent sends it */
		if (iomap__engine_forked(bio->bi_bdev->engine))
			continue;
		if (blk && blk != its) {
			iomap__batch_send(blk, &batch, false);
			memset(&batch, 0, sizeof(batch));
		}
		blk = its;
		iomap__dispatch(bio, &batch);
	}
	if (!blk)
		return;
	/* not before: a device of the application's has been called by now */
	if (expect && batch.bios.first && !plug->first)
		iomap__park_expect(blk);
	iomap__batch_send(blk, &batch, false);
}

void iomap__plug_flush_thread(struct iomap__thread *self)
{
	struct iomap_plug *plug = self->plug;

	while (plug && plug->first)
		plug_send(plug, false);
	iomap__hold_send(self);
}

void iomap__plug_flush(struct iomap__blk *blk)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_plug *plug = self->plug;

	(void)blk; /* a thread has one plug, for all engines */
	while (plug && plug->first)
		plug_send(plug, false);
}

static bool plug_is_own(const struct iomap__thread *self, const struct iomap_bio *bio)
{
	const struct iomap__queue *ending = self->ending;

	return bio->bi_opf & IOMAP_REQ_POLLED && ending && ending->owner &&
	       ending->blk == bio->bi_bdev->engine->blk;
}

bool iomap__plug_add(struct iomap_bio *bio)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap_plug *plug = self->plug;
	struct iomap__bio_list list;

	/*
	 * A bio from a bi_end_io is not this thread's affair: the thread may be asleep again, or
	 * at something else, before it looks at its plug, and others wait for the bio.
	 */
	if (iomap__likely(!plug) || (self->completing && !plug_is_own(self, bio)))
		return false;
	list = (struct iomap__bio_list){ plug->first, plug->last, plug->count };
	iomap__bio_list_add(&list, bio);
	plug->first = list.first;
	plug->last = list.last;
	plug->count = list.count;
	if (plug->count >= PLUG_BIOS_MAX)
		plug_send(plug, false);
	return true;
}

void iomap_start_plug(struct iomap_plug *plug)
{
	struct iomap__thread *self = iomap__thread_self();

	memset(plug, 0, sizeof(*plug));
	plug->nested = self->plug != NULL;
	if (plug->nested)
		return;
	self->plug_flush = iomap__plug_flush_thread;
	self->plug = plug;
}

static void plug_finish(struct iomap_plug *plug, bool expect)
{
	struct iomap__thread *self = iomap__thread_self();

	if (plug->nested)
		return;
	iomap__assert_msg(self->plug == plug, "finish of a plug that this thread did not start");
	self->plug = NULL;
	while (plug->first)
		plug_send(plug, expect);
}

void iomap_finish_plug(struct iomap_plug *plug)
{
	plug_finish(plug, false);
}

void iomap__plug_finish_expecting(struct iomap_plug *plug)
{
	plug_finish(plug, true);
}
