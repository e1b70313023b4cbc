/* SPDX-License-Identifier: MIT */
/*
 * bio.c - bios: where they come from, the memory they point at, their end.
 *
 * A bio set has two pools: bios with a few vectors, and bios with as many as there can be.
 * An object is [front_pad rounded up to 16][struct iomap_bio][vectors].
 *
 * Chains.  `chained` of a request is 0, or counts in its low bits the ends that are still due
 * before bi_end_io runs, those of the children and its own, and holds above them the errno of
 * the first child that failed.  Who takes the count to zero ends the bio.  A child that ends
 * is what may end its parent, which may be a child as well: that is a loop, not a recursion.
 *
 * bi_iter is the submitter's: the library keeps its own position and leaves bi_iter as it
 * was submitted, so that bi_end_io sees which range has ended.
 */

#include "block/internal.h"

#define BIO_SMALL_VECS 4U
#define BIO_PAD_ALIGN 16U
#define BIO_CHAIN_BITS 20U
#define BIO_CHAIN_MASK ((UINT32_C(1) << BIO_CHAIN_BITS) - 1)

/* How long who waits for a bio sleeps before it asks for memory once more. */
#define BIO_WAIT_NS 10000000U

struct bio_pools {
	struct iomap__pool small, large;
	_Atomic uint32_t waiting_nr; /* threads in iomap__bio_alloc_wait() */
	uint32_t puts;		     /* moves with a put while there are some; waited on */
};

static size_t bio_pad(const struct iomap_bio_set *set)
{
	return iomap__round_up(set->front_pad, BIO_PAD_ALIGN);
}

static size_t bio_object_bytes(const struct iomap_bio_set *set, unsigned vecs)
{
	return bio_pad(set) + sizeof(struct iomap_bio) + vecs * sizeof(struct iomap_bio_vec);
}

int iomap__bio_set_init(struct iomap_bio_set *set, struct iomap_engine *engine, size_t front_pad,
			unsigned nr_reserved)
{
	struct iomap__env *env;
	struct bio_pools *pools;
	int error;

	if (!set || !engine || front_pad > SIZE_MAX / 4)
		return -EINVAL;
	memset(set, 0, sizeof(*set));
	env = &engine->env;
	pools = iomap__zalloc(env, sizeof(*pools));
	if (!pools)
		return -ENOMEM;
	set->engine = engine;
	set->front_pad = front_pad;
	error = iomap__pool_init(&pools->small, env, bio_object_bytes(set, BIO_SMALL_VECS),
				 nr_reserved);
	if (error)
		goto free_pools;
	error = iomap__pool_init(&pools->large, env, bio_object_bytes(set, IOMAP_BIO_MAX_VECS),
				 nr_reserved);
	if (error)
		goto exit_small;
	set->pool = pools;
	return 0;

exit_small:
	iomap__pool_exit(&pools->small);
free_pools:
	iomap__free(env, pools, sizeof(*pools));
	return error;
}

void iomap__bio_set_exit(struct iomap_bio_set *set)
{
	struct bio_pools *pools = set->pool;

	iomap__pool_exit(&pools->large);
	iomap__pool_exit(&pools->small);
	iomap__free(&set->engine->env, pools, sizeof(*pools));
	set->pool = NULL;
}

int iomap_bio_set_init(struct iomap_bio_set *set, struct iomap_engine *engine, size_t front_pad,
		       unsigned nr_reserved)
{
	int error;

	if (engine && iomap__engine_forked(engine))
		return -ECHILD;
	error = iomap__bio_set_init(set, engine, front_pad, nr_reserved);
	if (!error)
		atomic_fetch_add_explicit(&engine->blk->bio_sets_nr, 1, memory_order_relaxed);
	return error;
}

void iomap_bio_set_exit(struct iomap_bio_set *set)
{
	struct iomap__blk *blk;

	if (!set || !set->pool || iomap__engine_forked(set->engine))
		return;
	blk = set->engine->blk;
	iomap__bio_set_exit(set);
	/* release: pairs with iomap__blk_busy(), after which the engine may go */
	atomic_fetch_sub_explicit(&blk->bio_sets_nr, 1, memory_order_release);
}

struct iomap_bio *iomap_bio_alloc(struct iomap_bdev *bdev, unsigned nr_vecs, uint32_t opf,
				  struct iomap_bio_set *set)
{
	bool small = nr_vecs <= BIO_SMALL_VECS;
	struct bio_pools *pools;
	struct iomap_bio *bio;
	char *object;

	if (nr_vecs > IOMAP_BIO_MAX_VECS || !bdev || iomap__engine_forked(bdev->engine))
		return NULL;
	iomap__bdev_check(bdev);
	if (!set)
		set = &bdev->engine->blk->bios;
	iomap__assert_msg(set->engine == bdev->engine, "bio set and bdev of different engines");
	pools = set->pool;
	object = iomap__pool_get(small ? &pools->small : &pools->large);
	if (!object)
		return NULL;
	memset(object, 0, bio_pad(set) + sizeof(*bio));
	bio = (void *)(object + bio_pad(set));
	bio->bi_bdev = bdev;
	bio->bi_opf = opf;
	bio->bi_io_vec = (void *)(bio + 1);
	bio->bi_max_vecs = small ? BIO_SMALL_VECS : IOMAP_BIO_MAX_VECS;
	bio->bi_pool = set;
	return bio;
}

struct iomap_bio *iomap__bio_alloc_wait(struct iomap_bdev *bdev, unsigned nr_vecs, uint32_t opf,
					struct iomap_bio_set *set)
{
	struct iomap_bio *bio = iomap_bio_alloc(bdev, nr_vecs, opf, set);
	struct bio_pools *pools = set->pool;
	uint32_t seen;

	iomap__assert(bdev && nr_vecs <= IOMAP_BIO_MAX_VECS);
	if (iomap__likely(bio))
		return bio;
	atomic_fetch_add_explicit(&pools->waiting_nr, 1, memory_order_relaxed);
	for (;;) {
		seen = iomap__load_acquire(&pools->puts);
		bio = iomap_bio_alloc(bdev, nr_vecs, opf, set);
		if (bio)
			break;
		iomap__io_wait_timeout(bdev->engine->blk, &pools->puts, seen, BIO_WAIT_NS);
	}
	atomic_fetch_sub_explicit(&pools->waiting_nr, 1, memory_order_relaxed);
	return bio;
}

void iomap_bio_put(struct iomap_bio *bio)
{
	struct bio_pools *pools;
	struct iomap_bio_set *set;
	uint32_t waiting_nr;

	if (!bio)
		return;
	set = bio->bi_pool;
	iomap__assert_msg(set, "put of a bio that is from no set");
	if (iomap__engine_forked(set->engine))
		return;
	iomap__assert_msg(!iomap__req(bio)->bdev, "put of a bio that is in flight");
	pools = set->pool;
	/*
	 * Before the put: without waiters the set may be gone after it.  Relaxed: a waiter that
	 * is not seen looks again by itself.
	 */
	waiting_nr = atomic_load_explicit(&pools->waiting_nr, memory_order_relaxed);
	iomap__pool_put(bio->bi_max_vecs == BIO_SMALL_VECS ? &pools->small : &pools->large,
			(char *)bio - bio_pad(set));
	if (iomap__unlikely(waiting_nr)) {
		iomap__fetch_add(&pools->puts, 1);
		iomap__io_wake(set->engine->blk, &pools->puts);
	}
}

bool iomap_bio_add(struct iomap_bio *bio, void *base, size_t bytes)
{
	struct iomap_bio_vec *last;

	if (bio->bi_vcnt) {
		last = &bio->bi_io_vec[bio->bi_vcnt - 1];
		if ((char *)last->bv_base + last->bv_len == base) {
			last->bv_len += bytes;
			bio->bi_iter.bi_size += bytes;
			return true;
		}
	}
	if (bio->bi_vcnt >= bio->bi_max_vecs)
		return false;
	bio->bi_io_vec[bio->bi_vcnt++] = (struct iomap_bio_vec){
		.bv_base = base,
		.bv_len = bytes,
	};
	bio->bi_iter.bi_size += bytes;
	return true;
}

/* Skip @off bytes of the vectors; the place of the next ones, and how many. */
static char *bio_piece(const struct iomap_bio *bio, uint32_t *vec, size_t *off, size_t *len)
{
	while (*vec < bio->bi_vcnt && *off >= bio->bi_io_vec[*vec].bv_len)
		*off -= bio->bi_io_vec[(*vec)++].bv_len;
	if (*vec == bio->bi_vcnt)
		return NULL;
	*len = iomap__min(*len, bio->bi_io_vec[*vec].bv_len - *off);
	return (char *)bio->bi_io_vec[*vec].bv_base + *off;
}

size_t iomap_bio_copy_in(struct iomap_bio *bio, size_t off, const void *from, size_t len)
{
	size_t done = 0, n;
	uint32_t vec = 0;
	char *to;

	for (n = len; n && (to = bio_piece(bio, &vec, &off, &n)); n = len - done) {
		iomap__copy_to_folio(to, (const char *)from + done, n);
		done += n;
		off += n;
	}
	return done;
}

size_t iomap_bio_copy_out(const struct iomap_bio *bio, size_t off, void *to, size_t len)
{
	size_t done = 0, n;
	uint32_t vec = 0;
	char *from;

	for (n = len; n && (from = bio_piece(bio, &vec, &off, &n)); n = len - done) {
		iomap__copy_from_folio((char *)to + done, from, n);
		done += n;
		off += n;
	}
	return done;
}

uint64_t iomap_bio_end_sector(const struct iomap_bio *bio)
{
	return bio->bi_iter.bi_sector + (bio->bi_iter.bi_size >> IOMAP_SECTOR_SHIFT);
}

static const uint8_t bio_stats[] = {
	[IOMAP_REQ_OP_READ] = IOMAP__BSTAT_READS,
	[IOMAP_REQ_OP_WRITE] = IOMAP__BSTAT_WRITES,
	[IOMAP_REQ_OP_FLUSH] = IOMAP__BSTAT_FLUSHES,
	[IOMAP_REQ_OP_DISCARD] = IOMAP__BSTAT_DISCARDS,
	[IOMAP_REQ_OP_WRITE_ZEROES] = IOMAP__BSTAT_WRITE_ZEROES,
};

/*
 * The bio has ended as far as @bdev is concerned: it is no longer in flight, but ending.  No
 * line is written to that other threads write to, but for `written`.
 */
static inline void bio_account_end(struct iomap_bdev *bdev, struct iomap__thread *self,
				   struct iomap_bio *bio)
{
	unsigned op = iomap__bio_op(bio);

	if (iomap__unlikely(bio->bi_status))
		iomap__stat_add(&bdev->stats, self, IOMAP__BSTAT_ERRORS, 1);
	/*
	 * A failed write may have written a part.  Before bi_end_io: whoever has been told of
	 * the write and then flushes must not find it covered already.
	 */
	if (iomap__op_is_write(op) && (bio->bi_status || !(bio->bi_opf & IOMAP_REQ_FUA)))
		atomic_fetch_add_explicit(&bdev->written, 1, memory_order_acq_rel);
	if (iomap__op_has_data(op) && !bio->bi_status)
		iomap__stat_add(&bdev->stats, self,
				op == IOMAP_REQ_OP_READ ? IOMAP__BSTAT_READ_BYTES :
							  IOMAP__BSTAT_WRITTEN_BYTES,
				bio->bi_iter.bi_size);
	/* a device may have passed on what is no operation; release: pairs with bdev_ended() */
	iomap__stat_add_release(&bdev->stats, self,
				op < iomap__array_len(bio_stats) ? bio_stats[op] :
								   IOMAP__BSTAT_FLUSHES, 1);
}

/*
 * The bi_end_io of a bio of these devices has returned.  The bio may be gone, and each
 * device from the moment that it is let go: first what belongs to its engine.
 */
static void bio_let_go(struct iomap_bdev *bdev, struct iomap__stacked *stacked,
		       struct iomap_bdev *outermost)
{
	struct iomap__thread *self = iomap__thread_self();

	while (bdev) {
		struct iomap__pool *pool = &bdev->engine->blk->stacked_pool;
		struct iomap_bdev *outer = outermost;
		struct iomap__stacked *next = NULL;

		if (stacked) {
			outer = stacked->bdev;
			next = stacked->next;
			iomap__pool_put(pool, stacked);
		} else {
			outermost = NULL;
		}
		/* release: pairs with iomap__bdev_busy(); a close may free the bdev from here on */
		iomap__stat_add_release(&bdev->life, self, IOMAP__BLIFE_RETURNED, 1);
		bdev = outer;
		stacked = next;
	}
}

/* ---- chains ---- */

/* One of the ends that @bio waits for has come.  Return: it was the last. */
static bool bio_chain_put(struct iomap_bio *bio)
{
	struct iomap__req *req = iomap__req(bio);
	uint32_t old;

	/* relaxed: chained by whoever submitted it, before */
	if (iomap__likely(!iomap__load(&req->chained)))
		return true;
	old = iomap__fetch_sub(&req->chained, 1);
	if ((old & BIO_CHAIN_MASK) != 1)
		return false;
	if (!bio->bi_status)
		bio->bi_status = -(int32_t)(old >> BIO_CHAIN_BITS);
	iomap__store(&req->chained, 0);
	return true;
}

/* A child of @parent has failed; the first error wins. */
static void bio_chain_fail(struct iomap_bio *parent, int error)
{
	struct iomap__req *req = iomap__req(parent);
	uint32_t old = iomap__load(&req->chained);

	/* relaxed: the end of the child, which follows, orders it before the parent's */
	while (!(old >> BIO_CHAIN_BITS) &&
	       !__atomic_compare_exchange_n(&req->chained, &old,
					    old | (uint32_t)-error << BIO_CHAIN_BITS, true,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* @bio is a child that has ended.  Return: its parent, which has one end less to wait for. */
static struct iomap_bio *bio_chain_next(struct iomap_bio *bio)
{
	struct iomap_bio *parent = bio->bi_private;

	if (bio->bi_status)
		bio_chain_fail(parent, bio->bi_status);
	iomap_bio_put(bio);
	return parent;
}

/* Known by its address; called only by an end_io of the application that replaced it. */
static void bio_chain_end(struct iomap_bio *bio)
{
	iomap_bio_endio(bio_chain_next(bio));
}

void iomap_bio_chain(struct iomap_bio *bio, struct iomap_bio *parent)
{
	struct iomap__req *req = iomap__req(parent);

	iomap__assert_msg(!bio->bi_end_io && !bio->bi_private,
			  "a bio with an end of its own is chained");
	bio->bi_private = parent;
	bio->bi_end_io = bio_chain_end;
	/* Before the first child only the caller knows the parent; release: see bio_chain_put(). */
	if (!iomap__load(&req->chained))
		iomap__store_release(&req->chained, 2);
	else
		iomap__fetch_add(&req->chained, 1);
}

/* ---- the end ---- */

/* An application's device has served it itself; queues see to theirs. */
static inline void bio_measure(struct iomap_bdev *bdev, const struct iomap_bio *bio)
{
	uint64_t now_ns = 0;

	if (iomap__unlikely(bdev->ops))
		iomap__measure_end(bdev, bio, &now_ns);
}

/*
 * The end of a bio that is more than the common one: of a chain, through several devices, or
 * refused before any device has counted it.  Return: the parent, for which it was one of the
 * ends it waits for; NULL: there is none.
 */
static struct iomap_bio * __attribute__((noinline)) bio_end_other(struct iomap_bio *bio)
{
	struct iomap__thread *self = iomap__thread_self();
	struct iomap__req *req = iomap__req(bio);
	struct iomap_bdev *bdev = req->bdev;
	struct iomap__stacked *stacked = req->stacked, *outer;
	struct iomap_bdev *outermost = req->outermost;
	struct iomap_bio *parent = NULL;

	req->bdev = NULL;
	req->stacked = NULL;
	req->outermost = NULL;
	if (bdev) {
		bio_measure(bdev, bio);
		bio_account_end(bdev, self, bio);
	}
	for (outer = stacked; outer; outer = outer->next)
		bio_account_end(outer->bdev, self, bio);
	if (outermost)
		bio_account_end(outermost, self, bio);
	if (bio->bi_end_io == bio_chain_end) {
		parent = bio_chain_next(bio);
	} else if (bio->bi_end_io) {
		self->completing++;
		bio->bi_end_io(bio);
		self->completing--;
	}
	bio_let_go(bdev, stacked, outermost);
	return parent;
}

void iomap_bio_endio(struct iomap_bio *bio)
{
	struct iomap__req *req = iomap__req(bio);
	iomap_bio_end_io_fn *end_io = bio->bi_end_io;
	struct iomap_bdev *bdev = req->bdev;
	struct iomap__thread *self;

	/* relaxed: see bio_chain_put() */
	if (iomap__unlikely(iomap__load(&req->chained) || req->outermost || !bdev || !end_io ||
			    end_io == bio_chain_end)) {
		while (bio && bio_chain_put(bio))
			bio = bio_end_other(bio);
		return;
	}
	self = iomap__thread_self();
	req->bdev = NULL;
	bio_measure(bdev, bio);
	bio_account_end(bdev, self, bio);
	self->completing++;
	end_io(bio);
	self->completing--;
	/* release: see bio_let_go() */
	iomap__stat_add_release(&bdev->life, self, IOMAP__BLIFE_RETURNED, 1);
}
