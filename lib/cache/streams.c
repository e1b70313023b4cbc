/* SPDX-License-Identifier: MIT */
/*
 * streams.c - which pages to read ahead: what an opener's reads so far say about the next.
 *
 * Only misses and marks come here.  A miss that begins where an earlier one ended, or ends where
 * it began, follows it; the second that follows makes a stream of them, and so does the first
 * read of an opener if it is at the beginning of the file.  Of a stream everything up to `size`
 * pages beyond what has been asked for is read, and a mark set each `step` pages of that.  A read
 * that meets a mark brings what is missing up to `size` pages beyond itself, so that
 * the next piece is read while this one is consumed, and size has doubled, up to the limit.
 * Whoever stops leaves at most `size` pages that nobody wants.  All else is read as it was
 * asked for.
 *
 *	unused -> run (size 0; follows 0, 1) -> stream (size > 0)
 *
 * Each is taken when another place is needed, in this order: unused; a run that nothing has
 * followed, by lot, since of more runs in turn than there are places the oldest is always the
 * one that is about to go on; a run not met for RUN_AGE misses and marks; a stream not met for
 * STREAM_AGE.  If none can be had the read is not remembered.  So random reads beside streams do
 * not push these out.  An opener has one place; the others come when a read follows none.
 *
 * Pressure.  When folios that were read ahead have gone before they were asked for, the stream
 * that misses one of its own halves its size, and holds it for some windows.
 * limits->room bounds what is read ahead by all together (readahead.c).
 *
 * Windows end at a multiple of the folios that fill a step, so that a stream comes to be in large
 * ones; ends are rounded towards the reader, so never by more than was meant.
 *
 * Lock: the opener's, held by the caller; nothing is called here.  What is left out: streams with
 * a stride.
 */
#include "cache/internal.h"

#define SIZE_FIRST 4U /* pages; the least a stream begins with, and shrinks to */
#define STEP_BYTES (256U << 10) /* no step is smaller, but for windows of less than two */
#define FOLLOWS 2U    /* reads that follow before something is read ahead */
#define HOLD 8U
#define RUN_AGE 16U
#define STREAM_AGE 64U

/* What a miss is to a run or a stream. */
enum relation {
	NONE,
	SAME,	/* the request that the run ended with goes on */
	AHEAD,	/* it follows */
	BEHIND, /* it ends where the run began */
	INSIDE, /* it was read already, and something was lost since */
};

/* What the stream has read, and nothing of it was lost since, has been used before: NONE. */
static enum relation relate(const struct iomap__ra_stream *s, uint64_t index, uint64_t end,
			    uint32_t lost)
{
	if (!s->high)
		return NONE;
	if (!s->size) {
		if (index == s->high)
			return AHEAD;
		if (index < s->low)
			return end >= s->low ? BEHIND : NONE;
		return index > s->low && end == s->high ? SAME : NONE;
	}
	if (s->back) {
		if (index < s->low)
			return end >= s->low ? BEHIND : NONE;
		return index - s->low < s->size && s->lost != lost ? INSIDE : NONE;
	}
	if (index == s->high)
		return AHEAD;
	return index < s->high && s->high - index <= s->size && s->lost != lost ? INSIDE : NONE;
}

static unsigned streams_nr(const struct iomap__ra_state *ra)
{
	return ra->more ? IOMAP__RA_STREAMS : 1;
}

static struct iomap__ra_stream *stream_at(struct iomap__ra_state *ra, unsigned i)
{
	return i ? &ra->more[i - 1] : &ra->stream;
}

static struct iomap__ra_stream *find(struct iomap__ra_state *ra, uint64_t index, uint64_t end,
				     uint32_t lost, enum relation *relation)
{
	for (unsigned i = 0; i < streams_nr(ra); i++) {
		*relation = relate(stream_at(ra, i), index, end, lost);
		if (*relation != NONE)
			return stream_at(ra, i);
	}
	return NULL;
}

/* Whether its place may be had, for lack of a better one. */
static bool may_go(const struct iomap__ra_state *ra, const struct iomap__ra_stream *s)
{
	return ra->clock - s->last > (s->size ? STREAM_AGE : RUN_AGE);
}

/* A place for another run, or NULL.  @tables: for the opener's second one. */
static struct iomap__ra_stream *place(struct iomap__ra_state *ra, struct iomap__pool *tables)
{
	/* goes through all places, and not in their order */
	unsigned lot = ra->clock * 5 + (ra->clock >> 3), nr;
	struct iomap__ra_stream *old = NULL;

	if (ra->stream.high && !ra->more) {
		ra->more = iomap__pool_get(tables);
		if (ra->more)
			memset(ra->more, 0, IOMAP__RA_TABLE_BYTES);
	}
	nr = streams_nr(ra);
	for (unsigned i = 0; i < nr; i++)
		if (!stream_at(ra, i)->high)
			return stream_at(ra, i);
	for (unsigned i = 0; i < nr; i++) {
		struct iomap__ra_stream *s = stream_at(ra, (lot + i) % nr);

		if (!s->size && !s->follows)
			return s;
		if (may_go(ra, s) && (!old || (old->size && !s->size)))
			old = s;
	}
	return old;
}

void iomap__ra_forget(struct iomap__ra_state *ra, struct iomap__pool *tables)
{
	memset(&ra->stream, 0, sizeof(ra->stream));
	if (ra->more)
		iomap__pool_put(tables, ra->more);
	ra->more = NULL;
}

/* ---- windows ---- */

/* Order of the folios that fill @pages. */
static unsigned fill_order(const struct iomap__ra_limits *limits, uint64_t pages)
{
	unsigned order = limits->max_order;

	while (order > limits->min_order && 1ULL << order > pages)
		order--;
	return order;
}

/* Pages between two marks: several in a window, unless these would be small; whole folios. */
static uint32_t step_of(const struct iomap__ra_limits *limits, uint32_t size)
{
	uint32_t least = iomap__max(1U << limits->max_order,
				    (uint32_t)(STEP_BYTES >> IOMAP_PAGE_SHIFT));
	uint32_t step = iomap__max(size / 4, iomap__min(size / 2, least));

	step = iomap__max(step, 1U << limits->min_order);
	return (uint32_t)iomap__round_down(step, 1U << fill_order(limits, step));
}

/* What a window that begins at @from and has @size pages may be cut off to be in whole folios. */
static uint64_t cut(const struct iomap__ra_limits *limits, uint32_t step, uint64_t from,
		    uint64_t size, bool back)
{
	uint64_t unit = 1ULL << fill_order(limits, step);
	uint64_t eof = iomap__round_up(limits->eof, 1ULL << limits->min_order);

	if (back)
		return from > size ? iomap__min(iomap__round_up(from - size, unit), from) : 0;
	return iomap__max(iomap__min(iomap__round_down(from + size, unit), eof), from);
}

static void grow(const struct iomap__ra_limits *limits, struct iomap__ra_stream *s)
{
	if (s->hold)
		s->hold--;
	else
		s->size = iomap__min(s->size * 2, limits->max);
}

/* Read ahead of the request in @window, and remember how far. */
static void go_on(const struct iomap__ra_limits *limits, struct iomap__ra_stream *s,
		  struct iomap__ra_window *window)
{
	uint32_t size = iomap__min(s->size, limits->room);

	window->back = s->back;
	/* of a long request the rest comes first */
	if (window->asked_end == window->end) {
		window->step = step_of(limits, s->size);
		if (s->back)
			window->first = cut(limits, window->step, window->asked, size, true);
		else
			window->end = cut(limits, window->step, window->asked_end, size, false);
	}
	if (s->back)
		s->low = window->first;
	else
		s->high = window->end;
	s->lost = limits->lost;
}

static void begin_stream(const struct iomap__ra_limits *limits, struct iomap__ra_stream *s,
			 uint32_t size, bool back)
{
	uint32_t least = iomap__max(SIZE_FIRST, 2U << limits->min_order);

	s->back = back;
	s->size = iomap__min(iomap__max(size, least), limits->max);
}

/* ---- misses ---- */

/* A read that follows no other. */
static void miss_first(struct iomap__ra_state *ra, const struct iomap__ra_limits *limits,
		       uint64_t end, struct iomap__ra_window *window)
{
	struct iomap__ra_stream *s = place(ra, limits->tables);
	uint64_t index = window->asked;

	if (!s)
		return;
	*s = (struct iomap__ra_stream){ .low = index, .high = end, .last = ra->clock };
	if (iomap__load(&ra->advice) == IOMAP_ADV_SEQUENTIAL)
		begin_stream(limits, s, limits->max, false);
	else if (!index && ra->clock == 1)
		begin_stream(limits, s, (uint32_t)iomap__min(end, limits->max), false);
	else
		return;
	go_on(limits, s, window);
}

static void miss_run(const struct iomap__ra_limits *limits, struct iomap__ra_stream *s, bool back,
		     uint64_t end, struct iomap__ra_window *window)
{
	s->follows = s->back == back ? s->follows + 1 : 1;
	s->back = back;
	s->low = iomap__min(s->low, window->asked);
	s->high = iomap__max(s->high, end);
	if (s->follows < FOLLOWS)
		return;
	begin_stream(limits, s, (uint32_t)iomap__min(2 * (s->high - s->low), limits->max), back);
	go_on(limits, s, window);
}

/* It has been evicted before its use. */
static void miss_inside(const struct iomap__ra_limits *limits, struct iomap__ra_stream *s,
			struct iomap__ra_window *window)
{
	begin_stream(limits, s, s->size / 2, s->back);
	s->hold = HOLD;
	go_on(limits, s, window);
}

void iomap__ra_miss(struct iomap__ra_state *ra, const struct iomap__ra_limits *limits,
		    uint64_t index, uint64_t nr, struct iomap__ra_window *window)
{
	uint64_t unit = 1ULL << limits->min_order, end;
	struct iomap__ra_stream *s;
	enum relation relation;

	index = iomap__round_down(index, unit);
	end = iomap__round_up(index + nr, unit);
	*window = (struct iomap__ra_window){ .first = index, .asked = index, .asked_end = end };
	/* a request that is longer than a batch comes again with its rest */
	window->end = iomap__min(end, index + iomap__round_up(limits->batch, unit));
	if (iomap__load(&ra->advice) == IOMAP_ADV_RANDOM)
		return;
	ra->clock++;
	s = find(ra, index, end, limits->lost, &relation);
	if (!s) {
		miss_first(ra, limits, end, window);
		return;
	}
	s->last = ra->clock;
	if (relation == SAME)
		return;
	if (!s->size) {
		miss_run(limits, s, relation == BEHIND, end, window);
	} else if (relation == INSIDE) {
		miss_inside(limits, s, window);
	} else {
		grow(limits, s);
		go_on(limits, s, window);
	}
}

/* ---- marks ---- */

/* The stream one of whose marks is at @index. */
static struct iomap__ra_stream *find_marked(struct iomap__ra_state *ra, uint64_t index)
{
	for (unsigned i = 0; i < streams_nr(ra); i++) {
		struct iomap__ra_stream *s = stream_at(ra, i);
		/* from the mark to the end of what was read; a folio may begin before its mark */
		uint64_t ahead = s->back ? index - s->low : s->high - index;

		if (s->size && ahead <= 2ULL * s->size)
			return s;
	}
	return NULL;
}

/*
 * Pages to be read now that the reader has come to @index: whole steps, so that they stay
 * what they are; 0 when a later mark will do.
 */
static uint64_t missing(const struct iomap__ra_limits *limits, const struct iomap__ra_stream *s,
			uint32_t step, uint64_t index)
{
	uint64_t ahead = s->back ? index - s->low : s->high - index, nr;

	nr = ahead < s->size ? (s->size - ahead) / step * step : 0;
	/* the mark's folio may begin well before it */
	if (!nr && ahead <= s->size / 2)
		nr = step;
	return nr <= limits->room ? nr : limits->room / step * step;
}

bool iomap__ra_mark(struct iomap__ra_state *ra, const struct iomap__ra_limits *limits,
		    uint64_t index, struct iomap__ra_window *window)
{
	struct iomap__ra_stream *s, before;
	uint64_t nr;

	ra->clock++;
	s = find_marked(ra, index);
	if (!s)
		return false;
	s->last = ra->clock;
	before = *s;
	grow(limits, s);
	*window = (struct iomap__ra_window){ .step = step_of(limits, s->size), .back = s->back };
	nr = missing(limits, s, window->step, index);
	/* none of it was asked for */
	if (s->back) {
		window->asked = window->asked_end = window->end = s->low;
		window->first = s->low = cut(limits, window->step, s->low, nr, true);
	} else {
		window->asked = window->asked_end = window->first = s->high;
		window->end = s->high = cut(limits, window->step, s->high, nr, false);
	}
	s->lost = limits->lost;
	if (window->first < window->end)
		return true;
	*s = before;
	return false;
}

void iomap__ra_short(struct iomap__ra_state *ra, const struct iomap__ra_window *window,
		     uint64_t reached)
{
	for (unsigned i = 0; i < streams_nr(ra); i++) {
		struct iomap__ra_stream *s = stream_at(ra, i);

		if (!s->size || s->back != window->back)
			continue;
		if (s->back && s->low == window->first && reached < window->asked_end)
			s->low = iomap__max(window->asked, reached);
		if (!s->back && s->high == window->end)
			s->high = iomap__max(reached, window->first);
	}
}
