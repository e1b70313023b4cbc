/* SPDX-License-Identifier: MIT */
/*
 * faulty.c - the faulty device: its rules, what it holds back, its life.
 *
 * An I/O is decided on under the device's lock when it is submitted, and carried out without
 * it (faulty_io.c).  Without a fault the bio is passed on as it is.  With one it gets a
 * struct iomap__faulty_io, and goes through
 *   [held] -> started -> done -> [its end held] -> ended
 * where a DELAY rule adds one of the two in brackets.
 *
 * Chance: there is no stream of random numbers that I/Os draw from, since its order would
 * depend on threads.  What the n-th match of a rule gets is a function of seed, rule number
 * and n.
 *
 * Who frees: faulty_end() gives the object back before it ends the bio, for the device may be
 * closed as soon as its last bio has ended.  So nothing here touches the device after that,
 * unless the caller holds it open by the contract of the public call.
 *
 * Locks: `lock` (RANK_BDEV) is never held around submission, completion or wake-up.
 */
#include "block/faulty.h"

#define FAULTY_LEAST_FAULT offsetof(struct iomap_fault, reserved)
#define FAULTY_LEAST_OPTS offsetof(struct iomap_faulty_opts, reserved)
#define FAULTY_OPF                                                                                 \
	(IOMAP_REQ_SYNC | IOMAP_REQ_META | IOMAP_REQ_FUA | IOMAP_REQ_PREFLUSH | IOMAP_REQ_RAHEAD | \
	 IOMAP_REQ_BACKGROUND | IOMAP_REQ_NOWAIT | IOMAP_REQ_POLLED | IOMAP_REQ_ATOMIC)
#define FAULTY_MILLION 1000000U

struct iomap__faulty_rule {
	struct iomap__faulty_rule *next;
	struct iomap_fault fault; /* with defaults filled in */
	uint32_t id;
	uint64_t seed; /* the rule's own */
	uint64_t matched, fired;
};

/* ---- which rules an I/O meets; lock held ---- */

static bool rule_acts_on(const struct iomap__faulty_rule *rule, const struct iomap_bio *bio,
			 const struct iomap_bdev *lower)
{
	uint64_t addr = iomap__bio_addr(bio), size = bio->bi_iter.bi_size;
	uint64_t unit = rule->fault.amount; /* of MISDIRECT: how far */

	switch (rule->fault.kind) {
	case IOMAP_FAULT_SHORTEN:
	case IOMAP_FAULT_CORRUPT:
		return size != 0;
	case IOMAP_FAULT_MISDIRECT:
		return size && iomap__faulty_elsewhere(lower, bio, unit, 0) != addr;
	case IOMAP_FAULT_TEAR:
		return size && addr / unit != (addr + size - 1) / unit;
	default:
		return true;
	}
}

static bool rule_matches(const struct iomap__faulty_rule *rule, const struct iomap_bio *bio,
			 const struct iomap_bdev *lower)
{
	const struct iomap_fault *fault = &rule->fault;
	uint64_t addr = iomap__bio_addr(bio), size = bio->bi_iter.bi_size;

	if (!(fault->ops & 1U << iomap__bio_op(bio)) || (bio->bi_opf & fault->opf) != fault->opf)
		return false;
	if (size && (addr >= fault->end || addr + size <= fault->start))
		return false;
	if (!size && (fault->start || fault->end < iomap__bdev_size(lower)))
		return false;
	return rule_acts_on(rule, bio, lower);
}

/* The match that has just been counted is one to fire at. */
static bool rule_selects(const struct iomap__faulty_rule *rule)
{
	const struct iomap_fault *fault = &rule->fault;
	uint64_t n = rule->matched;

	if (fault->limit && rule->fired >= fault->limit)
		return false;
	if (n < fault->nth)
		return false;
	if (fault->every ? (n - fault->nth) % fault->every : n != fault->nth)
		return false;
	return iomap__mix2(rule->seed, n) % FAULTY_MILLION < fault->per_million;
}

static void rule_decide(struct iomap__faulty_rule *rule, struct iomap__faulty *faulty,
			struct iomap__faulty_io *io)
{
	const struct iomap_fault *fault = &rule->fault;

	if (fault->kind == IOMAP_FAULT_DELAY) {
		io->delayed_by = rule->id;
		io->hold_end = fault->flags & IOMAP_FAULT_HOLD_END;
		io->due = UINT64_MAX;
		if (fault->amount && fault->amount < UINT64_MAX - faulty->submitted_nr)
			io->due = faulty->submitted_nr + fault->amount;
		/* Of a delay alone its error is the I/O's. */
		if (!io->kind)
			io->error = fault->error;
		return;
	}
	io->kind = fault->kind;
	io->error = fault->error;
	io->amount = fault->amount;
	io->random = iomap__mix2(rule->seed ^ UINT64_MAX, rule->matched);
	if (fault->kind == IOMAP_FAULT_GONE)
		faulty->gone = true;
}

/* Return: the I/O has a fault, described in @io. */
static bool faulty_decide(struct iomap__faulty *faulty, const struct iomap_bio *bio,
			  struct iomap__faulty_io *io)
{
	struct iomap__faulty_rule *rule;

	for (rule = faulty->rules; rule; rule = rule->next) {
		uint32_t taken = rule->fault.kind == IOMAP_FAULT_DELAY ? io->delayed_by : io->kind;

		if (!rule_matches(rule, bio, faulty->lower))
			continue;
		rule->matched++;
		if (!rule_selects(rule) || taken)
			continue;
		rule->fired++;
		rule_decide(rule, faulty, io);
	}
	return io->kind || io->delayed_by;
}

/* ---- holding ---- */

/* Lock held. */
static void held_add(struct iomap__faulty *faulty, struct iomap__faulty_io *io)
{
	iomap__list_add_tail(&io->held, &faulty->held);
	faulty->held_nr++;
	iomap__store(&faulty->held_word, faulty->held_word + 1);
}

/* Lock held. */
static void held_move(struct iomap__faulty *faulty, struct iomap__faulty_io *io,
		      struct iomap_list_head *to)
{
	iomap__list_del(&io->held);
	faulty->held_nr--;
	iomap__list_add_tail(&io->held, to);
}

static struct iomap__faulty_io *held_entry(struct iomap_list_head *item)
{
	return iomap__container_of(item, struct iomap__faulty_io, held);
}

/* Lock held.  Move what has waited long enough to @due; everything when the device is gone. */
static void held_take_due(struct iomap__faulty *faulty, struct iomap_list_head *due)
{
	struct iomap_list_head *item, *next;

	for (item = faulty->held.next; item != &faulty->held; item = next) {
		struct iomap__faulty_io *io = held_entry(item);

		next = item->next;
		if (faulty->gone) {
			io->kind = IOMAP_FAULT_GONE;
			io->error = -ENODEV;
		} else if (faulty->submitted_nr < io->due) {
			continue;
		}
		held_move(faulty, io, due);
	}
}

static void faulty_end(struct iomap__faulty_io *io)
{
	struct iomap__faulty *faulty = io->faulty;
	struct iomap_bio *bio = io->bio;

	bio->bi_status = io->status ? io->status : io->error;
	iomap__pool_put(&faulty->ios, io);
	iomap_bio_endio(bio);
}

/* It is not held any more. */
static void faulty_go_on(struct iomap__faulty_io *io)
{
	if (io->transferred)
		faulty_end(io);
	else
		iomap__faulty_start(io);
}

static void faulty_go_on_all(struct iomap_list_head *list)
{
	/* The last one may take the device with it: look at the list, not at the device. */
	while (!iomap__list_empty(list)) {
		struct iomap__faulty_io *io = held_entry(list->next);

		iomap__list_del(&io->held);
		faulty_go_on(io);
	}
}

/* Hold the I/O, unless its time has come already.  Return: it is held, and not ours any more. */
static bool faulty_hold(struct iomap__faulty_io *io)
{
	struct iomap__faulty *faulty = io->faulty;
	struct iomap__blk *blk = faulty->lower->engine->blk;
	const uint32_t *word = &faulty->held_word;
	bool hold;

	iomap__mutex_lock(&faulty->lock);
	if (faulty->gone) {
		io->kind = IOMAP_FAULT_GONE;
		io->error = -ENODEV;
	}
	hold = !faulty->gone && faulty->submitted_nr < io->due;
	if (hold)
		held_add(faulty, io);
	iomap__mutex_unlock(&faulty->lock);
	/* Another thread may end it from here on, and close the device: the word is a key. */
	if (hold)
		iomap__io_wake(blk, word);
	return hold;
}

void iomap__faulty_done(struct iomap__faulty_io *io)
{
	io->transferred = true;
	if (!io->hold_end || !faulty_hold(io))
		faulty_end(io);
}

/* ---- the device ---- */

/* Lock not held: the object of an I/O that has a fault. */
static struct iomap__faulty_io *faulty_io_new(struct iomap__faulty *faulty,
					      const struct iomap__faulty_io *decided,
					      struct iomap_bio *bio)
{
	struct iomap__faulty_io *io = iomap__pool_get(&faulty->ios);

	if (!io)
		return NULL;
	*io = *decided;
	io->faulty = faulty;
	io->bio = bio;
	iomap__list_init(&io->held);
	return io;
}

static void faulty_pass_on(struct iomap__faulty *faulty, struct iomap_bio *bio)
{
	bio->bi_bdev = faulty->lower;
	iomap_submit_bio(bio);
}

static void faulty_fail(struct iomap_bio *bio, int error)
{
	bio->bi_status = error;
	iomap_bio_endio(bio);
}

/* Start it, or hold it back. */
static void faulty_begin(struct iomap__faulty_io *io)
{
	if (!io->delayed_by || io->hold_end || !faulty_hold(io))
		iomap__faulty_start(io);
}

static void faulty_submit(struct iomap_bdev *bdev, struct iomap_bio *bio)
{
	struct iomap__faulty *faulty = iomap_bdev_private(bdev);
	struct iomap__faulty_io decided = { 0 }, *io = NULL;
	struct iomap_list_head due;
	bool faulted, gone;

	iomap__list_init(&due);
	iomap__mutex_lock(&faulty->lock);
	faulty->submitted_nr++;
	gone = faulty->gone;
	faulted = !gone && faulty_decide(faulty, bio, &decided);
	held_take_due(faulty, &due);
	iomap__mutex_unlock(&faulty->lock);

	if (faulted)
		io = faulty_io_new(faulty, &decided, bio);
	/* What was due goes after this one: it has been overtaken. */
	if (gone)
		faulty_fail(bio, -ENODEV);
	else if (io)
		faulty_begin(io);
	else if (faulted)
		faulty_fail(bio, -ENOMEM);
	else
		faulty_pass_on(faulty, bio);
	faulty_go_on_all(&due);
}

static void faulty_free(struct iomap__faulty *faulty)
{
	struct iomap__env *env = faulty->env;
	struct iomap__faulty_rule *rule;

	while ((rule = faulty->rules)) {
		faulty->rules = rule->next;
		iomap__free(env, rule, sizeof(*rule));
	}
	iomap__pool_exit(&faulty->ios);
	iomap__free(env, faulty, sizeof(*faulty));
}

static void faulty_release_bdev(struct iomap_bdev *bdev)
{
	struct iomap__faulty *faulty = iomap_bdev_private(bdev);
	struct iomap_bdev *lower = faulty->lower;

	faulty_free(faulty);
	iomap__bdev_put(lower);
}

static int faulty_revalidate(struct iomap_bdev *bdev, uint64_t *bytes)
{
	struct iomap__faulty *faulty = iomap_bdev_private(bdev);
	int error = iomap_bdev_revalidate(faulty->lower);

	*bytes = iomap_bdev_bytes(faulty->lower);
	return error;
}

static const struct iomap_bdev_ops faulty_ops = {
	.submit_bio = faulty_submit,
	.revalidate = faulty_revalidate,
	.release = faulty_release_bdev,
};

int iomap_faulty_create(struct iomap_bdev *lower, const struct iomap_faulty_opts *opts,
			struct iomap_bdev **out)
{
	struct iomap_faulty_opts o = { 0 };
	struct iomap__faulty *faulty;
	struct iomap__env *env;
	int error;

	if (!lower || !out || (opts && iomap__opts_copy(&o, FAULTY_LEAST_OPTS, sizeof(o), opts)))
		return -EINVAL;
	if (iomap__engine_forked(lower->engine))
		return -ECHILD;
	env = &lower->engine->env;
	faulty = iomap__zalloc(env, sizeof(*faulty));
	if (!faulty)
		return -ENOMEM;
	faulty->lower = lower;
	faulty->env = env;
	faulty->seed = o.seed;
	faulty->release_random = o.seed;
	faulty->last_rule = &faulty->rules;
	iomap__list_init(&faulty->held);
	iomap__mutex_init(&faulty->lock, IOMAP__RANK_BDEV);
	error = iomap__pool_init(&faulty->ios, env, sizeof(struct iomap__faulty_io), 0);
	if (error) {
		iomap__free(env, faulty, sizeof(*faulty));
		return error;
	}
	iomap__bdev_get(lower);
	error = iomap_bdev_create(lower->engine, &faulty_ops, iomap__bdev_size(lower),
				  &lower->limits, faulty, out);
	if (error) {
		faulty_free(faulty);
		iomap__bdev_put(lower);
	}
	return error;
}

static struct iomap__faulty *faulty_of(struct iomap_bdev *bdev)
{
	return bdev && bdev->ops == &faulty_ops ? iomap_bdev_private(bdev) : NULL;
}

/* ---- rules ---- */

static uint32_t fault_ops(uint32_t kind)
{
	switch (kind) {
	case IOMAP_FAULT_FAIL:
	case IOMAP_FAULT_DELAY:
	case IOMAP_FAULT_GONE:
		return IOMAP_FAULT_ON_READ | IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH |
		       IOMAP_FAULT_ON_DISCARD | IOMAP_FAULT_ON_WRITE_ZEROES;
	case IOMAP_FAULT_SHORTEN:
	case IOMAP_FAULT_CORRUPT:
	case IOMAP_FAULT_MISDIRECT:
		return IOMAP_FAULT_ON_READ | IOMAP_FAULT_ON_WRITE;
	case IOMAP_FAULT_TEAR:
		return IOMAP_FAULT_ON_WRITE;
	case IOMAP_FAULT_LOSE:
		return IOMAP_FAULT_ON_WRITE | IOMAP_FAULT_ON_FLUSH | IOMAP_FAULT_ON_DISCARD |
		       IOMAP_FAULT_ON_WRITE_ZEROES;
	default:
		return 0;
	}
}

/* Fill in the defaults of `amount`; false when it makes no sense. */
static bool fault_amount(struct iomap_fault *fault, uint64_t block)
{
	switch (fault->kind) {
	case IOMAP_FAULT_TEAR:
		if (!fault->amount)
			fault->amount = block;
		return iomap__is_pow2(fault->amount) && fault->amount >= block;
	case IOMAP_FAULT_CORRUPT:
		if (!fault->amount)
			fault->amount = 1;
		return true;
	case IOMAP_FAULT_MISDIRECT:
		if (!fault->amount)
			fault->amount = IOMAP_FAULT_ANY;
		return fault->amount == IOMAP_FAULT_ANY || fault->amount % block == 0;
	default:
		return true;
	}
}

static int fault_check(struct iomap_fault *fault, const struct iomap_bdev *lower)
{
	uint32_t ops = fault_ops(fault->kind);

	if (!ops || fault->ops & ~ops || fault->opf & ~FAULTY_OPF || fault->error > 0 ||
	    fault->per_million > FAULTY_MILLION)
		return -EINVAL;
	if (fault->flags & ~IOMAP_FAULT_HOLD_END ||
	    (fault->flags && fault->kind != IOMAP_FAULT_DELAY))
		return -EINVAL;
	if (!fault->ops)
		fault->ops = ops;
	if (!fault->end && fault->start >= iomap__bdev_size(lower))
		return -EINVAL;
	if (!fault->end)
		fault->end = UINT64_MAX; /* the device may grow */
	if (fault->start >= fault->end || !fault_amount(fault, lower->limits.logical_block_size))
		return -EINVAL;
	if (!fault->nth && !fault->every)
		fault->every = 1;
	if (!fault->nth)
		fault->nth = fault->every;
	if (!fault->per_million)
		fault->per_million = FAULTY_MILLION;
	if (fault->kind == IOMAP_FAULT_FAIL && !fault->error)
		fault->error = -EIO;
	if (fault->kind == IOMAP_FAULT_GONE)
		fault->error = -ENODEV;
	return 0;
}

int iomap_faulty_add(struct iomap_bdev *bdev, const struct iomap_fault *fault, uint32_t *id)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	struct iomap__faulty_rule *rule;
	struct iomap_fault checked;

	if (!faulty || !fault ||
	    iomap__opts_copy(&checked, FAULTY_LEAST_FAULT, sizeof(checked), fault) ||
	    fault_check(&checked, faulty->lower))
		return -EINVAL;
	rule = iomap__zalloc(faulty->env, sizeof(*rule));
	if (!rule)
		return -ENOMEM;
	rule->fault = checked;
	iomap__mutex_lock(&faulty->lock);
	rule->id = ++faulty->last_id;
	rule->seed = iomap__mix2(faulty->seed, rule->id);
	*faulty->last_rule = rule;
	faulty->last_rule = &rule->next;
	/* Before the lock is given up: from then on somebody may remove it. */
	if (id)
		*id = rule->id;
	iomap__mutex_unlock(&faulty->lock);
	return 0;
}

int iomap_faulty_remove(struct iomap_bdev *bdev, uint32_t id)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	struct iomap__faulty_rule **link, *rule;

	if (!faulty)
		return -EINVAL;
	iomap__mutex_lock(&faulty->lock);
	for (link = &faulty->rules; (rule = *link) && rule->id != id; link = &rule->next)
		;
	if (rule) {
		*link = rule->next;
		if (faulty->last_rule == &rule->next)
			faulty->last_rule = link;
	}
	iomap__mutex_unlock(&faulty->lock);
	iomap__free(faulty->env, rule, sizeof(*rule));
	return rule ? 0 : -ENOENT;
}

int iomap_faulty_count(struct iomap_bdev *bdev, uint32_t id, uint64_t *matched, uint64_t *fired)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	const struct iomap__faulty_rule *rule;

	if (!faulty)
		return -EINVAL;
	iomap__mutex_lock(&faulty->lock);
	for (rule = faulty->rules; rule && rule->id != id; rule = rule->next)
		;
	if (rule && matched)
		*matched = rule->matched;
	if (rule && fired)
		*fired = rule->fired;
	iomap__mutex_unlock(&faulty->lock);
	return rule ? 0 : -ENOENT;
}

/* ---- held I/O ---- */

/* Lock held.  The next to go of those that rule @id holds, or NULL. */
static struct iomap__faulty_io *held_pick(struct iomap__faulty *faulty, uint32_t id, uint32_t order)
{
	struct iomap__faulty_io *picked = NULL;
	struct iomap_list_head *item;
	uint64_t seen = 0;

	for (item = faulty->held.next; item != &faulty->held; item = item->next) {
		struct iomap__faulty_io *io = held_entry(item);

		if (id && io->delayed_by != id)
			continue;
		seen++;
		/* The n-th replaces the one picked so far with probability 1/n. */
		if (!picked || order == IOMAP_RELEASE_LIFO ||
		    (order == IOMAP_RELEASE_RANDOM &&
		     iomap__random_below(&faulty->release_random, seen) == 0))
			picked = io;
		if (order == IOMAP_RELEASE_FIFO)
			break;
	}
	return picked;
}

int64_t iomap_faulty_release(struct iomap_bdev *bdev, uint32_t id, uint64_t nr, uint32_t order)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	int64_t released = 0;

	if (!faulty || order > IOMAP_RELEASE_RANDOM)
		return -EINVAL;
	for (; nr; nr--) {
		struct iomap_list_head one;
		struct iomap__faulty_io *io;

		iomap__list_init(&one);
		iomap__mutex_lock(&faulty->lock);
		io = held_pick(faulty, id, order);
		if (io)
			held_move(faulty, io, &one);
		iomap__mutex_unlock(&faulty->lock);
		if (!io)
			break;
		released++;
		faulty_go_on_all(&one);
	}
	return released;
}

int64_t iomap_faulty_held_nr(struct iomap_bdev *bdev)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	int64_t nr;

	if (!faulty)
		return -EINVAL;
	iomap__mutex_lock(&faulty->lock);
	nr = (int64_t)faulty->held_nr;
	iomap__mutex_unlock(&faulty->lock);
	return nr;
}

int iomap_faulty_wait_held(struct iomap_bdev *bdev, uint64_t nr)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	uint64_t held;
	uint32_t word;

	if (!faulty)
		return -EINVAL;
	for (;;) {
		iomap__mutex_lock(&faulty->lock);
		held = faulty->held_nr;
		word = faulty->held_word;
		iomap__mutex_unlock(&faulty->lock);
		if (held >= nr)
			return 0;
		iomap__io_wait(bdev->engine->blk, &faulty->held_word, word);
	}
}

int iomap_faulty_set_gone(struct iomap_bdev *bdev, bool gone)
{
	struct iomap__faulty *faulty = faulty_of(bdev);
	struct iomap_list_head due;

	if (!faulty)
		return -EINVAL;
	iomap__list_init(&due);
	iomap__mutex_lock(&faulty->lock);
	faulty->gone = gone;
	if (gone)
		held_take_due(faulty, &due);
	iomap__mutex_unlock(&faulty->lock);
	faulty_go_on_all(&due);
	return 0;
}
