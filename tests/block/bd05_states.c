/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent release */
/*
 * bd05_states.c - whole images: after each cut of random programs, exactly those that a disk
 * could be left with.
 *
 * The disk is modelled from the events alone and without the library's terms.  Each sector by
 * itself has seen its writes in some order: one that had completed before another was
 * submitted came first, and of durable ones the last to complete came last.  What is on it is
 * the last durable one or something after that; or what was there before, if there is none.
 * What ties sectors together is PREFLUSH: who has anything of such a write has all that its
 * flush covers.  So for each set of such writes that may have landed the images are the
 * product of the sectors' choices, and all images are the union over these sets.
 *
 * The device is so small that each sequence of pieces can be tried: with these the replay must
 * give all images and no other one; the other ways to choose must give none that is not among
 * them.
 */
#include "bd05.h"

#define SECTORS 3U
#define VALUES 16U /* of a sector; so an image is a number of three digits */
#define IMAGES (VALUES * VALUES * VALUES)
#define IOS 8U
#define PIECES_MAX 6U /* 1,957 sequences */
#define SEEDS 1000U

struct disk_write {
	uint64_t start, end; /* events; end UINT64_MAX: in flight at the cut */
	uint64_t first, nr;
	uint32_t opf;
	bool ok;
	bool durable;
	bool absent; /* assumed: nothing of it is there */
	unsigned value;
};

struct disk {
	struct disk_write write[IOS];
	unsigned nr;
	uint64_t flush_start; /* of the last flush that has succeeded */
	bool seen[IMAGES], legal[IMAGES];
};

struct setup {
	struct iomap_engine *engine;
	struct iomap_bdev *memory, *faulty, *log;
	struct iomap_replay *replay;
	struct disk disk;
	unsigned value_at_event[4 * IOS];
	unsigned char image[SECTORS * SECTOR];
	char program[1024];
};

/* ---- a random program ---- */

static uint64_t now(struct setup *s)
{
	struct iomap_writelog_info i;

	t_must(iomap_writelog_info(s->log, &i, sizeof(i)) == 0);
	return i.events_nr;
}

static void run(struct setup *s, struct t_rand *r)
{
	static const uint32_t flags[] = {
		0, 0, 0, IOMAP_REQ_FUA, IOMAP_REQ_PREFLUSH, IOMAP_REQ_FUA | IOMAP_REQ_PREFLUSH
	};
	struct b_async io[IOS];
	unsigned nr = 0;
	uint32_t rule;

	b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_FAIL,
						.ops = IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH,
						.per_million = 200000 });
	rule = b_rule(s->faulty, (struct iomap_fault){ .kind = IOMAP_FAULT_DELAY });
	while (nr < IOS) {
		uint64_t sector = t_below(r, SECTORS);
		unsigned len = 1 + (unsigned)t_below(r, SECTORS - sector);
		uint64_t what = t_below(r, 8);

		if (what >= 4) {
			iomap_faulty_release(s->faulty, rule, 1, IOMAP_RELEASE_RANDOM);
		} else if (!what) {
			b_start(&io[nr++], s->log, IOMAP_REQ_OP_FLUSH, 0, 0, 0);
		} else {
			s->value_at_event[now(s)] = nr + 1;
			b_start(&io[nr], s->log, IOMAP_REQ_OP_WRITE | flags[t_below(r, 6)], sector,
				len, (int)nr + 1);
			nr++;
		}
	}
	iomap_faulty_release(s->faulty, rule, UINT64_MAX, IOMAP_RELEASE_RANDOM);
	for (unsigned i = 0; i < nr; i++)
		b_finish(&io[i]);
}

static struct iomap_writelog_event event(struct setup *s, uint64_t n)
{
	struct iomap_writelog_event e;

	t_must(iomap_writelog_event(s->log, n, &e, sizeof(e)) == 0);
	return e;
}

/* For whoever has to understand a failure. */
static const char *tell(struct setup *s, uint64_t at)
{
	size_t len = 0;

	s->program[0] = '\0';
	for (uint64_t n = 0; n < at && len < sizeof(s->program) - 100; n++) {
		struct iomap_writelog_event e = event(s, n);
		bool submit = e.type == IOMAP_WRITELOG_SUBMIT;

		len += (size_t)sprintf(s->program + len, "\n%u: %s", (unsigned)n,
				       submit ? "" : "end of ");
		if (!submit)
			len += (size_t)sprintf(s->program + len, "%u, %d", (unsigned)e.submit,
					       e.status);
		else if (!e.len)
			len += (size_t)sprintf(s->program + len, "flush");
		else
			len += (size_t)sprintf(s->program + len, "write %u to %u+%u%s%s",
					       s->value_at_event[n], (unsigned)(e.addr / SECTOR),
					       (unsigned)(e.len / SECTOR),
					       e.opf & IOMAP_REQ_PREFLUSH ? " PREFLUSH" : "",
					       e.opf & IOMAP_REQ_FUA ? " FUA" : "");
	}
	return s->program;
}

/* ---- the disk ---- */

static void disk_submitted(struct setup *s, uint64_t n, const struct iomap_writelog_event *e)
{
	if (e->len)
		s->disk.write[s->disk.nr++] = (struct disk_write){
			.start = n,
			.end = UINT64_MAX,
			.first = e->addr / SECTOR,
			.nr = e->len / SECTOR,
			.opf = e->opf,
			.value = s->value_at_event[n],
		};
}

static void disk_completed(struct setup *s, uint64_t n, const struct iomap_writelog_event *e)
{
	struct disk *disk = &s->disk;

	for (unsigned i = 0; i < disk->nr; i++) {
		struct disk_write *w = &disk->write[i];

		if (e->len && w->start == e->submit) {
			w->end = n;
			w->ok = !e->status;
			w->durable = w->ok && e->opf & IOMAP_REQ_FUA;
		}
	}
	if (!e->status && (!e->len || e->opf & IOMAP_REQ_PREFLUSH) && e->submit > disk->flush_start)
		disk->flush_start = e->submit;
}

static void disk_at(struct setup *s, uint64_t at)
{
	memset(&s->disk, 0, sizeof(s->disk));
	for (uint64_t n = 0; n < at; n++) {
		struct iomap_writelog_event e = event(s, n);

		if (e.type == IOMAP_WRITELOG_SUBMIT)
			disk_submitted(s, n, &e);
		else
			disk_completed(s, n, &e);
	}
}

static bool covers(const struct disk_write *w, uint64_t sector)
{
	return sector >= w->first && sector < w->first + w->nr;
}

/* @w may be the content of @sector, with the writes before @flush that succeeded durable. */
static bool may_be_there(const struct disk *disk, const struct disk_write *w, uint64_t sector,
			 uint64_t flush)
{
	bool durable = w && (w->durable || (w->ok && w->end < flush));

	if (w && (w->absent || !covers(w, sector)))
		return false;
	for (unsigned i = 0; i < disk->nr; i++) {
		const struct disk_write *other = &disk->write[i];

		if (other == w || !covers(other, sector) ||
		    !(other->durable || (other->ok && other->end < flush)))
			continue;
		/* a durable write that came later, or may have and counts as having */
		if (!w || w->end < other->start || (durable && w->end < other->end))
			return false;
	}
	return true;
}

/* All images when the writes with PREFLUSH that are not `absent` may have landed. */
static void disk_images(struct disk *disk)
{
	unsigned value[SECTORS][IOS + 1], nr[SECTORS] = { 0 };
	uint64_t flush = disk->flush_start;

	for (unsigned i = 0; i < disk->nr; i++)
		if (disk->write[i].opf & IOMAP_REQ_PREFLUSH && !disk->write[i].absent &&
		    disk->write[i].start > flush)
			flush = disk->write[i].start;
	for (unsigned sector = 0; sector < SECTORS; sector++) {
		if (may_be_there(disk, NULL, sector, flush))
			value[sector][nr[sector]++] = 0;
		for (unsigned i = 0; i < disk->nr; i++)
			if (may_be_there(disk, &disk->write[i], sector, flush))
				value[sector][nr[sector]++] = disk->write[i].value;
	}
	for (unsigned i = 0; i < nr[0] * nr[1] * nr[2]; i++)
		disk->legal[value[0][i % nr[0]] + VALUES * value[1][i / nr[0] % nr[1]] +
			    VALUES * VALUES * value[2][i / nr[0] / nr[1]]] = true;
}

static void disk_all_images(struct disk *disk)
{
	unsigned choice[IOS], nr = 0;

	for (unsigned i = 0; i < disk->nr; i++) {
		const struct disk_write *w = &disk->write[i];

		/* one that has succeeded had its flush, whatever became of it */
		if (w->opf & IOMAP_REQ_PREFLUSH && !w->ok)
			choice[nr++] = i;
	}
	for (unsigned set = 0; set < 1U << nr; set++) {
		for (unsigned i = 0; i < nr; i++)
			disk->write[choice[i]].absent = set >> i & 1;
		disk_images(disk);
	}
}

/* ---- the replay ---- */

static bool cut(struct setup *s, struct iomap_cut c)
{
	unsigned image = 0;

	c.size = sizeof(c);
	t_must(iomap_replay_image(s->replay, &c, s->image, NULL) == 0);
	for (unsigned i = SECTORS; i-- > 0;) {
		t_must(b_value(s->image, i) >= 0);
		image = image * VALUES + (unsigned)b_value(s->image, i);
	}
	s->disk.seen[image] = true;
	return s->disk.legal[image];
}

/* Every sequence of the pieces that begins with these @used. */
static bool cut_sequences(struct setup *s, const struct iomap_cut_piece *all, unsigned nr,
			  struct iomap_cut_piece *chosen, unsigned depth, unsigned used)
{
	if (!cut(s, (struct iomap_cut){
			    .mode = IOMAP_CUT_PIECES, .pieces = chosen, .pieces_nr = depth }))
		return false;
	for (unsigned i = 0; i < nr; i++) {
		if (used >> i & 1)
			continue;
		chosen[depth] = all[i];
		if (!cut_sequences(s, all, nr, chosen, depth + 1, used | 1U << i))
			return false;
	}
	return true;
}

/* False: there are too many pieces. */
static bool cut_every_way(struct setup *s, uint64_t at)
{
	struct iomap_cut_piece all[PIECES_MAX], chosen[PIECES_MAX];
	struct iomap_writelog_event e;
	unsigned nr = 0;

	for (uint64_t n = 0; !iomap_replay_write(s->replay, n, &e, sizeof(e)); n++)
		for (uint64_t off = 0; off < e.len; off += SECTOR) {
			if (nr == PIECES_MAX)
				return false;
			all[nr++] = (struct iomap_cut_piece){ n, off, SECTOR };
		}
	cr_assert(cut_sequences(s, all, nr, chosen, 0, 0), "illegal, by pieces:%s", tell(s, at));
	return true;
}

static void check_whole_subsets(struct setup *s, uint64_t at)
{
	struct iomap_replay_info info;

	t_must(iomap_replay_info(s->replay, &info, sizeof(info)) == 0);
	cr_assert(cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_NONE }), "none:%s", tell(s, at));
	cr_assert(cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_ALL }), "all:%s", tell(s, at));
	for (uint64_t keep = 0; keep < UINT64_C(1) << info.writes_nr; keep++)
		cr_assert(cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_SUBSET, .keep = &keep }),
			  "subset %#x:%s", (unsigned)keep, tell(s, at));
}

static void check_seen(struct setup *s, const char *how, uint64_t at)
{
	for (unsigned i = 0; i < IMAGES; i++)
		cr_assert_eq(s->disk.seen[i], s->disk.legal[i], "%s never gives %u %u %u:%s", how,
			     i % VALUES, i / VALUES % VALUES, i / VALUES / VALUES, tell(s, at));
	memset(s->disk.seen, 0, sizeof(s->disk.seen));
}

Test(writelog, bd05_the_images_are_all_those_that_a_disk_could_have_and_no_other)
{
	struct t_rand r = { t_seed() };
	unsigned complete = 0;

	for (unsigned round = 0; round < (T_SANITIZED ? 10U : 40U); round++) {
		struct setup *s = calloc(1, sizeof(*s));
		uint64_t events;

		t_must(s);
		s->engine = b_engine();
		s->memory = b_memory(s->engine, SECTORS * SECTOR);
		s->faulty = b_faulty(s->memory, t_rand(&r));
		t_must(iomap_writelog_create(s->faulty, NULL, &s->log) == 0);
		run(s, &r);
		t_must(iomap_replay_open(s->log, &s->replay) == 0);
		events = now(s);
		for (uint64_t at = 0; at <= events; at++) {
			t_must(iomap_replay_seek(s->replay, at) == 0);
			disk_at(s, at);
			disk_all_images(&s->disk);
			check_whole_subsets(s, at);
			memset(s->disk.seen, 0, sizeof(s->disk.seen));
			if (cut_every_way(s, at)) {
				complete++;
				check_seen(s, "the right pieces", at);
			}
			for (uint64_t seed = 1; seed <= SEEDS; seed++)
				cr_assert(cut(s, (struct iomap_cut){ .mode = IOMAP_CUT_RANDOM,
								     .seed = seed }),
					  "illegal, seed %u:%s", (unsigned)seed, tell(s, at));
		}
		iomap_replay_close(s->replay);
		b_close(s->log);
		b_close(s->faulty);
		b_close(s->memory);
		cr_assert_eq(iomap_engine_destroy(s->engine), 0);
		free(s);
	}
	cr_assert_gt(complete, 0U);
}
