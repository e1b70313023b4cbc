/* SPDX-License-Identifier: MIT */
/*
 * crash_model.c - what a script did, what it was promised, and whether an image keeps that.
 *
 * An object is the list of its versions, one for each change.  Without a sync an image may
 * hold any mixture of them: writes land sector by sector in any order.  A promise says that
 * from a moment on a range is not older than some version.  It is made by
 *
 *	fsync		  of the whole object, and of its name, if it has one
 *	O_DSYNC		  of what is written, with a size that covers it
 *	write-out, commit of the whole object or the range written: xs_commit() makes durable
 *			  what had been written to the device
 *	truncate, commit  of what is behind the new end: what was cut off does not come back,
 *			  neither in the size nor in what is read after growing again
 *
 * A name is the list of what it stood for; a commit promises that it does not go back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

static void *grown(void *array, size_t nr, size_t item_bytes)
{
	void *larger = array;

	/* powers of two only */
	if (!(nr & (nr - 1)))
		larger = realloc(array, (nr ? 2 * nr : 1) * item_bytes);
	if (!larger)
		crash_die("no memory");
	return larger;
}

/* ---- what is done ---- */

static void add_name(struct crash_model *model, int name, struct crash_name what)
{
	size_t nr = model->names_nr[name]++;

	model->names[name] = grown(model->names[name], nr, sizeof(what));
	model->names[name][nr] = what;
}

void crash_model_init(struct crash_model *model)
{
	memset(model, 0, sizeof(*model));
	for (int name = 0; name < CRASH_NAMES; name++)
		add_name(model, name, (struct crash_name){ 0 });
}

void crash_model_exit(struct crash_model *model)
{
	while (model->objects) {
		struct crash_object *object = model->objects;

		model->objects = object->next;
		for (size_t i = 0; i < object->versions_nr; i++)
			free(object->versions[i].bytes);
		free(object->versions);
		free(object->promises);
		free(object);
	}
	for (int name = 0; name < CRASH_NAMES; name++)
		free(model->names[name]);
}

static struct crash_version *add_version(struct crash_object *object, uint64_t moment)
{
	size_t nr = object->versions_nr++;
	struct crash_version *version;

	object->versions = grown(object->versions, nr, sizeof(*object->versions));
	version = &object->versions[nr];
	version->from = moment;
	version->size = nr ? version[-1].size : 0;
	version->bytes = crash_alloc(CRASH_OBJECT_MAX);
	if (nr)
		memcpy(version->bytes, version[-1].bytes, CRASH_OBJECT_MAX);
	return version;
}

struct crash_object *crash_object_new(struct crash_model *model, uint64_t moment)
{
	struct crash_object *object = crash_alloc(sizeof(*object));

	object->next = model->objects;
	model->objects = object;
	add_version(object, moment);
	return object;
}

struct crash_version *crash_now(struct crash_object *object)
{
	return &object->versions[object->versions_nr - 1];
}

struct crash_version *crash_change(struct crash_object *object, uint64_t moment)
{
	return add_version(object, moment);
}

void crash_name_set(struct crash_model *model, int name, struct crash_object *object,
		    uint64_t moment)
{
	add_name(model, name, (struct crash_name){ moment, CRASH_NEVER, object });
}

/* ---- what is promised ---- */

/* The newest version that may have been there at @moment. */
static size_t version_at(const struct crash_object *object, uint64_t moment)
{
	size_t version = object->versions_nr - 1;

	while (version && object->versions[version].from > moment)
		version--;
	return version;
}

static void promise(struct crash_object *object, struct crash_promise what)
{
	size_t nr = object->promises_nr;

	if (object->tainted)
		return;
	what.version = version_at(object, what.made);
	object->promises = grown(object->promises, nr, sizeof(what));
	object->promises[nr] = what;
	object->promises_nr++;
}

void crash_written(struct crash_object *object, uint64_t moment)
{
	promise(object, (struct crash_promise){ .made = moment,
						.moment = CRASH_NEVER,
						.end = CRASH_OBJECT_MAX,
						.whole = true });
}

void crash_written_range(struct crash_object *object, uint64_t moment, int64_t start, int64_t end)
{
	promise(object,
		(struct crash_promise){
			.made = moment, .moment = CRASH_NEVER, .start = start, .end = end });
}

void crash_synced_range(struct crash_object *object, uint64_t begin, uint64_t moment, int64_t start,
			int64_t end)
{
	promise(object, (struct crash_promise){ .made = begin,
						.moment = moment,
						.start = start,
						.end = end,
						.reach = true });
}

void crash_truncated(struct crash_object *object, uint64_t moment)
{
	promise(object, (struct crash_promise){ .made = moment,
						.moment = CRASH_NEVER,
						.start = crash_now(object)->size,
						.end = CRASH_OBJECT_MAX,
						.cut = true });
}

/*
 * What could not be written stays as it was on the device, and a commit to come is right not
 * to wait for it: so it promises nothing of the object.
 */
void crash_taint(struct crash_object *object, uint64_t moment)
{
	size_t nr = 0;

	for (size_t i = 0; i < object->promises_nr; i++) {
		if (object->promises[i].moment == CRASH_NEVER)
			continue;
		object->promises[nr] = object->promises[i];
		if (object->promises[nr].cut && !object->promises[nr].until)
			object->promises[nr].until = moment;
		nr++;
	}
	object->promises_nr = nr;
	object->tainted = true;
}

void crash_committed(struct crash_model *model, uint64_t begin, uint64_t end)
{
	struct crash_object *object;

	for (object = model->objects; object; object = object->next) {
		for (size_t i = 0; i < object->promises_nr; i++) {
			struct crash_promise *p = &object->promises[i];

			if (p->made <= begin && p->moment == CRASH_NEVER)
				p->moment = end;
		}
	}
	for (int name = 0; name < CRASH_NAMES; name++) {
		for (size_t i = 0; i < model->names_nr[name]; i++) {
			struct crash_name *n = &model->names[name][i];

			if (n->from <= begin && n->moment == CRASH_NEVER)
				n->moment = end;
		}
	}
}

void crash_synced(struct crash_model *model, struct crash_object *object, int name, uint64_t begin,
		  uint64_t end)
{
	promise(object,
		(struct crash_promise){
			.made = begin, .moment = end, .end = CRASH_OBJECT_MAX, .whole = true });
	for (size_t i = 0; name >= 0 && i < model->names_nr[name]; i++) {
		struct crash_name *n = &model->names[name][i];

		if (n->from <= begin && n->moment == CRASH_NEVER)
			n->moment = end;
	}
}

/* ---- what an image owes ---- */

#define PIECE_BYTES 512

static bool holds_at(const struct crash_promise *promise, uint64_t moment)
{
	return promise->moment <= moment && (!promise->until || moment < promise->until);
}

/* What an object owes at a moment. */
struct debt {
	const struct crash_object *object;
	uint64_t moment;
	size_t whole; /* no byte is of an older version, nor the size */
	size_t cut;   /* the size is not more than this version and those after it had */
	size_t last;  /* the newest version that may be there */
};

static struct debt debt_of(const struct crash_object *object, uint64_t moment)
{
	struct debt debt = { object, moment, 0, 0, version_at(object, moment) };

	for (size_t i = 0; i < object->promises_nr; i++) {
		const struct crash_promise *p = &object->promises[i];

		if (!holds_at(p, moment))
			continue;
		if (p->whole && p->version > debt.whole)
			debt.whole = p->version;
		if ((p->whole || p->cut) && p->version > debt.cut)
			debt.cut = p->version;
	}
	return debt;
}

static int64_t least_size(const struct debt *debt, size_t version, int64_t least)
{
	for (size_t v = version; v <= debt->last; v++)
		if (debt->object->versions[v].size < least)
			least = debt->object->versions[v].size;
	return least;
}

static bool size_may_be(const struct debt *debt, int64_t size)
{
	const struct crash_version *versions = debt->object->versions;
	int64_t least = least_size(debt, debt->whole, INT64_MAX), most = 0;

	for (size_t i = 0; i < debt->object->promises_nr; i++) {
		const struct crash_promise *p = &debt->object->promises[i];

		if (p->reach && holds_at(p, debt->moment) &&
		    size < least_size(debt, p->version, p->end))
			return false;
	}
	for (size_t v = debt->cut; v <= debt->last; v++)
		if (versions[v].size > most)
			most = versions[v].size;
	return size >= least && size <= most;
}

/* The oldest version that the byte may be of. */
static size_t oldest_at(const struct debt *debt, int64_t pos)
{
	const struct crash_object *object = debt->object;
	size_t oldest = debt->whole;

	for (size_t i = 0; i < object->promises_nr; i++) {
		const struct crash_promise *p = &object->promises[i];

		if (holds_at(p, debt->moment) && p->start <= pos && pos < p->end &&
		    p->version > oldest)
			oldest = p->version;
	}
	return oldest;
}

static bool byte_may_be(const struct debt *debt, int64_t pos, unsigned char byte)
{
	size_t oldest = oldest_at(debt, pos);

	for (size_t v = debt->last + 1; v-- > oldest;)
		if (debt->object->versions[v].bytes[pos] == byte)
			return true;
	return false;
}

static const char *judge_object(const struct crash_object *object, uint64_t moment,
				const unsigned char *bytes, int64_t size)
{
	static char text[120];
	struct debt debt = debt_of(object, moment);
	const unsigned char *newest = object->versions[debt.last].bytes;

	if (!size_may_be(&debt, size)) {
		snprintf(text, sizeof(text), "has a wrong size, %lld", (long long)size);
		return text;
	}
	for (int64_t pos = 0; pos < size; pos++) {
		int64_t left = size - pos < PIECE_BYTES ? size - pos : PIECE_BYTES;

		/* mostly it is what was there last */
		if (pos % PIECE_BYTES == 0 && !memcmp(bytes + pos, newest + pos, (size_t)left)) {
			pos += left - 1;
			continue;
		}
		if (byte_may_be(&debt, pos, bytes[pos]))
			continue;
		snprintf(text, sizeof(text), "is wrong at %lld: %s", (long long)pos,
			 bytes[pos] == CRASH_POISON ? "poison" :
			 bytes[pos]		    ? "other bytes" :
						      "zeros");
		return text;
	}
	return NULL;
}

const char *crash_judge_name(const struct crash_model *model, int name, uint64_t moment,
			     const unsigned char *bytes, int64_t size)
{
	const char *wrong = size < 0 ? "is lost" : "is there";
	const char *why;

	/* from the newest that may be there to what has been promised last */
	for (size_t i = model->names_nr[name]; i-- > 0;) {
		const struct crash_name *n = &model->names[name][i];

		if (n->from > moment)
			continue;
		if (!n->object && size < 0)
			return NULL;
		if (n->object && size >= 0) {
			why = judge_object(n->object, moment, bytes, size);
			if (!why)
				return NULL;
			wrong = why;
		}
		if (n->moment <= moment)
			break;
	}
	return wrong;
}
