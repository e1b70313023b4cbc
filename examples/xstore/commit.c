/* SPDX-License-Identifier: MIT */
/*
 * commit.c - make durable what has changed.
 *
 * A commit writes the nodes of the tree that have changed, with those above them, into blocks
 * that nothing durable names, and then one super block, over the older of the two:
 *
 *	1. under `lock`: settle which nodes there are, take blocks for those that changed,
 *	   encode them; what their former blocks were is in `freed`; remember how many runs
 *	   that has;
 *	2. write the nodes;
 *	3. write the super block with PREFLUSH and FUA: the device makes durable what had
 *	   completed, which is these nodes and all data that extents name as written, then the
 *	   super block, and only then tells us;
 *	4. under `lock`: what was freed before the end of step 1 is free.
 *
 * One flush is enough: nothing durable names the new nodes before the super block lands, so
 * it does not matter when, before that, they and the data do.
 *
 * When step 2 fails nothing has happened: the blocks are free again, and the nodes are as
 * changed as before.  When step 3 fails nobody knows which super block is on the device.  So
 * the next commit first writes the durable one anew, with a higher generation, over it
 * (settle_doubt()).  That needs no blocks, so however often it fails no space is lost; when
 * it succeeds, the blocks of the failed commit are free.
 *
 * Who calls while a commit is going on waits for the next one: whoever of these is first
 * leads it, for all.  So each has what it changed in a commit that began after its call.  Each
 * sleeps by itself, and is woken once: when its commit is done, or to lead the next one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

/* On the stack of a caller. */
struct xs_commit_caller {
	struct xs_commit_caller *next;
	pthread_cond_t wake; /* it is done, or may lead */
	int error;
	bool done;
};

/* What one commit writes. */
struct commit {
	struct xs_super super;
	struct xs_runs runs;	/* blocks of its nodes */
	uint8_t *buffer;	/* the nodes, as they go there */
	struct xs_node **nodes; /* the same, in the same order */
	uint64_t nodes_nr;
	size_t freed_nr; /* runs that are free when it is durable */
	uint64_t freed_nodes_nr;
	uint64_t changes;
};

/* ---- space ---- */

/*
 * Nodes that the tree may come to have when so much @weight is added: as if all objects had a
 * name and each unwritten block were an extent; one object and two extents more, which is
 * what a single change may add.
 */
static uint64_t nodes_max(const struct xs_store *store, uint64_t weight)
{
	return xs_tree_nodes_max((store->all_nr + 1) * XS_OBJECT_BYTES + store->name_bytes +
				 XS_NAME_MAX + (store->weight + weight + 2) * XS_EXTENT_BYTES);
}

/*
 * Whether @nr blocks and @weight can be added.
 *
 * A commit writes at most all nodes that the tree then has, and they must find room beside
 * the tree before.  There is room now for as many as there may come to be; and since what a
 * commit replaces comes back, there is for the next one and so on if those and the ones that
 * are in use are twice as many.
 */
static bool can_spare(const struct xs_store *store, uint64_t nr, uint64_t weight)
{
	uint64_t max = nodes_max(store, weight), soon;
	uint64_t free_nr = store->space.free_nr - store->delalloc_nr;

	/* what the commit that is going on gives back in any case */
	soon = store->meta_flight_nr < store->meta_waiting_nr ? store->meta_flight_nr :
								store->meta_waiting_nr;
	return nr <= free_nr && max + nr <= free_nr + soon + store->doubtful_nr &&
	       2 * max + nr <= free_nr + store->meta_nr;
}

bool xs_space_full(const struct xs_store *store)
{
	return !can_spare(store, 0, 0);
}

bool xs_space_bears(const struct xs_store *store, uint64_t weight)
{
	return can_spare(store, 0, weight);
}

/* Each block weighs so much. */
static uint64_t spare(const struct xs_store *store, uint64_t want, uint64_t weight)
{
	uint64_t free_nr = store->space.free_nr - store->delalloc_nr;
	uint64_t low = 0, high = want < free_nr ? want : free_nr;

	if (can_spare(store, high, high * weight))
		return high;
	while (low + 1 < high) {
		uint64_t mid = low + (high - low) / 2;

		if (can_spare(store, mid, mid * weight))
			low = mid;
		else
			high = mid;
	}
	return low;
}

uint64_t xs_space_spare(const struct xs_store *store, uint64_t want)
{
	return spare(store, want, 1);
}

uint64_t xs_space_spare_copies(const struct xs_store *store, uint64_t want)
{
	return spare(store, want, XS_COPY_WEIGHT);
}

bool xs_space_waiting(const struct xs_store *store)
{
	return store->space.freed.nr > 0 || store->gone || store->changes != store->committed;
}

void xs_meta_free(struct xs_store *store, uint64_t block)
{
	if (!block)
		return;
	xs_space_free(&store->space, block, 1);
	store->meta_waiting_nr++;
}

static int take_blocks(struct xs_store *store, struct xs_runs *runs, uint64_t nr)
{
	uint64_t start, got;

	while (nr) {
		got = xs_space_take(&store->space, 0, nr, &start);
		if (!got)
			return -ENOSPC;
		if (xs_runs_add(runs, start, got)) {
			xs_space_release(&store->space, start, got);
			return -ENOMEM;
		}
		store->meta_nr += got;
		nr -= got;
	}
	return 0;
}

/* Nothing durable names them. */
static void give_back(struct xs_store *store, struct xs_runs *runs)
{
	for (size_t i = 0; i < runs->nr; i++) {
		xs_space_release(&store->space, runs->v[i].start, runs->v[i].nr);
		store->meta_nr -= runs->v[i].nr;
	}
	runs->nr = 0;
}

/* ---- one commit, by whoever leads it ---- */

int xs_super_write(struct iomap_bdev *bdev, const struct xs_super *super, unsigned slot)
{
	const uint32_t opf = IOMAP_REQ_OP_WRITE | IOMAP_REQ_META | IOMAP_REQ_PREFLUSH |
			     IOMAP_REQ_FUA;
	uint8_t *block = aligned_alloc(XS_BLOCK_BYTES, XS_BLOCK_BYTES);
	int error;

	if (!block)
		return -ENOMEM;
	xs_super_encode(super, block);
	error = xs_block_io(bdev, opf, slot, block, 1);
	free(block);
	return error;
}

/* The super block that a commit has failed to write may be there, or not.  See above. */
static int settle_doubt(struct xs_store *store)
{
	struct xs_super super = store->super;
	int error;

	if (!store->doubtful.nr && store->generation == super.generation)
		return 0;
	super.generation = ++store->generation;
	error = xs_super_write(store->bdev, &super, !store->slot);
	if (error)
		return error;
	pthread_mutex_lock(&store->lock);
	give_back(store, &store->doubtful);
	free(store->doubtful.v);
	store->doubtful = (struct xs_runs){ 0 };
	store->doubtful_nr = 0;
	store->super = super;
	store->slot = !store->slot;
	pthread_mutex_unlock(&store->lock);
	return 0;
}

/* lock held.  Blocks and memory for the nodes that have changed. */
static int prepare_nodes(struct xs_store *store, struct commit *commit)
{
	size_t nr;
	int error = xs_tree_shape(store);

	if (error)
		return error;
	nr = (size_t)store->tree.shaped_nr;
	commit->nodes_nr = nr;
	commit->nodes = calloc(nr + 1, sizeof(struct xs_node *));
	commit->buffer = aligned_alloc(XS_BLOCK_BYTES, (nr + 1) << XS_BLOCK_SHIFT);
	if (!commit->nodes || !commit->buffer || xs_runs_room(&store->space.freed, nr))
		return -ENOMEM;
	error = take_blocks(store, &commit->runs, nr);
	if (error)
		give_back(store, &commit->runs);
	return error;
}

/* Step 1; lock held. */
static int commit_encode(struct xs_store *store, struct commit *commit)
{
	uint64_t generation = store->generation + 1;
	const struct xs_node *root;
	int error = prepare_nodes(store, commit);

	if (error)
		return error;
	xs_tree_encode(store, generation, &commit->runs, commit->buffer, commit->nodes);
	root = xs_tree_root(&store->tree);
	commit->super = (struct xs_super){
		.incompat = store->space.shares.shared_nr ? XS_INCOMPAT_SHARED : 0,
		.id = store->super.id,
		.generation = generation,
		.blocks = store->super.blocks,
		.next_id = store->next_id,
	};
	if (root) {
		commit->super.root = root->ref.block;
		commit->super.root_generation = root->ref.generation;
		commit->super.root_checksum = root->ref.checksum;
		commit->super.levels_nr = store->tree.levels_nr;
		commit->super.nodes_nr = store->tree.nodes_nr;
		commit->super.objects_nr = store->objects_nr;
	}
	commit->freed_nr = store->space.freed.nr;
	commit->freed_nodes_nr = store->meta_waiting_nr;
	commit->changes = store->changes;
	store->meta_flight_nr = commit->nodes_nr;
	return 0;
}

/* Step 2. */
static int write_nodes(struct xs_store *store, const struct commit *commit)
{
	uint8_t *from = commit->buffer;
	int error = 0;

	for (size_t i = 0; !error && i < commit->runs.nr; i++) {
		const struct xs_run *run = &commit->runs.v[i];

		error = xs_block_io(store->bdev, IOMAP_REQ_OP_WRITE | IOMAP_REQ_META, run->start,
				    from, run->nr);
		from += run->nr << XS_BLOCK_SHIFT;
	}
	return error;
}

/* Steps 2 and 3.  @named: the super block may be on the device, also after an error. */
static int commit_write(struct xs_store *store, const struct commit *commit, bool *named)
{
	int error = write_nodes(store, commit);

	if (error)
		return error;
	*named = true;
	store->generation = commit->super.generation;
	return xs_super_write(store->bdev, &commit->super, !store->slot);
}

/* Step 4; lock held. */
static void commit_done(struct xs_store *store, const struct commit *commit)
{
	xs_space_committed(&store->space, commit->freed_nr);
	store->meta_nr -= commit->freed_nodes_nr;
	store->meta_waiting_nr -= commit->freed_nodes_nr;
	store->super = commit->super;
	store->slot = !store->slot;
	store->committed = commit->changes;
	/* the next one takes the bit away */
	if (store->super.incompat & XS_INCOMPAT_SHARED && !store->space.shares.shared_nr)
		store->changes++;
}

/* lock held. */
static void commit_failed(struct xs_store *store, struct commit *commit, bool named)
{
	for (uint64_t i = 0; i < commit->nodes_nr; i++)
		xs_tree_lost(&store->tree, commit->nodes[i]);
	if (named) {
		store->doubtful = commit->runs;
		store->doubtful_nr = commit->nodes_nr;
		commit->runs = (struct xs_runs){ 0 };
	} else {
		give_back(store, &commit->runs);
	}
}

static int commit_write_or_fail(struct xs_store *store, struct commit *commit)
{
	bool named = false;
	int error = commit_write(store, commit, &named);

	pthread_mutex_lock(&store->lock);
	if (error)
		commit_failed(store, commit, named);
	else
		commit_done(store, commit);
	store->meta_flight_nr = 0;
	pthread_mutex_unlock(&store->lock);
	return error;
}

static bool has_changes(struct xs_store *store)
{
	bool changes;

	pthread_mutex_lock(&store->lock);
	xs_objects_bury(store);
	changes = store->changes != store->committed;
	pthread_mutex_unlock(&store->lock);
	return changes;
}

static int commit_once(struct xs_store *store)
{
	struct commit commit = { 0 };
	int error;

	if (!has_changes(store))
		/* no change of metadata, but maybe data in place that has been written */
		return store->readonly ? 0 : iomap_bdev_flush(store->bdev);
	error = store->readonly ? -EROFS : settle_doubt(store);
	if (error)
		return error;
	pthread_mutex_lock(&store->lock);
	error = commit_encode(store, &commit);
	pthread_mutex_unlock(&store->lock);
	if (!error)
		error = commit_write_or_fail(store, &commit);
	free(commit.nodes);
	free(commit.buffer);
	free(commit.runs.v);
	return error;
}

/* ---- those who ask for it ---- */

/* commit_lock held, but not while it works. */
static void lead(struct xs_store *store)
{
	struct xs_commit_caller *caller = store->callers;
	int error;

	store->callers = NULL;
	store->waiting_nr = 0;
	store->committing = true;
	store->commits_nr++;
	pthread_mutex_unlock(&store->commit_lock);
	error = commit_once(store);
	pthread_mutex_lock(&store->commit_lock);
	store->committing = false;
	for (; caller; caller = caller->next) {
		caller->error = error;
		caller->done = true;
		pthread_cond_signal(&caller->wake);
	}
	/* One of them is enough; a newcomer may be faster, and then leads for it as well. */
	if (store->callers)
		pthread_cond_signal(&store->callers->wake);
}

int xs_commit(struct xs_store *store)
{
	struct xs_commit_caller self = { 0 };

	pthread_cond_init(&self.wake, NULL);
	pthread_mutex_lock(&store->commit_lock);
	self.next = store->callers;
	store->callers = &self;
	store->callers_nr++;
	store->waiting_nr++;
	while (store->committing && !self.done)
		pthread_cond_wait(&self.wake, &store->commit_lock);
	if (!self.done)
		lead(store);
	pthread_mutex_unlock(&store->commit_lock);
	pthread_cond_destroy(&self.wake);
	return self.error;
}
