/* SPDX-License-Identifier: MIT */
/*
 * await.c - being told, without a thread that waits, that a folio has been unlocked.
 *
 * A read unlocks its folios when it ends.  Who wants to know enters itself in a bucket, and sets
 * WAITERS in the lock word as a thread does that waits; whoever unlocks the folio finds the bit
 * and looks.
 *
 *	await					unlock
 *	enter the bucket
 *	set WAITERS, if LOCKED
 *						clear LOCKED and WAITERS
 *						the bit was set: look into the bucket
 *
 * The bit is set by a compare-and-swap that fails when the folio is not locked.  If it is set,
 * the entry is there before, and the unlock, which has seen the bit (acquire), finds it.  If it
 * is not, the entry is taken back, under the lock of the bucket: nobody can have called it.
 *
 * An entry is called once, at the first unlock after it was entered, whoever that is by; by then
 * the folio may be locked again.  The unlocker takes out all who wait before it calls one: who
 * is called may enter itself again, for an unlock that only this very thread can bring about.
 *
 * Locks: await_lock, a leaf; nothing is called under it.
 */
#include "cache/internal.h"

static struct iomap_list_head *await_bucket(struct iomap__cache *cache,
					    const struct iomap_folio *folio)
{
	return &cache->awaits[(size_t)(folio - cache->folios) % IOMAP__AWAIT_BUCKETS];
}

void iomap__await_init(struct iomap__cache *cache)
{
	iomap__mutex_init(&cache->await_lock, IOMAP__RANK_RETIRE);
	for (unsigned i = 0; i < IOMAP__AWAIT_BUCKETS; i++)
		iomap__list_init(&cache->awaits[i]);
}

/* Set WAITERS; false when the folio is not locked. */
static bool await_mark(struct iomap_folio *folio)
{
	/* acquire: who finds it unlocked sees what was done to it, as with the lock */
	uint64_t word = atomic_load_explicit(&folio->lock, memory_order_acquire);

	/* release: pairs with the acquire of iomap_folio_unlock() */
	while (word & IOMAP__FOLIO_LOCKED)
		if (atomic_compare_exchange_weak_explicit(&folio->lock, &word,
							  word | IOMAP__FOLIO_WAITERS,
							  memory_order_release,
							  memory_order_acquire))
			return true;
	return false;
}

bool iomap__folio_await(struct iomap_folio *folio, struct iomap__folio_await *await)
{
	struct iomap__cache *cache = folio->cache;
	bool locked;

	await->folio = folio;
	iomap__mutex_lock(&cache->await_lock);
	iomap__list_add_tail(&await->entry, await_bucket(cache, folio));
	/* before the bit, which tells the unlocker to look at this */
	atomic_fetch_add_explicit(&cache->nr_awaits, 1, memory_order_relaxed);
	locked = await_mark(folio);
	if (!locked) {
		iomap__list_del(&await->entry);
		atomic_fetch_sub_explicit(&cache->nr_awaits, 1, memory_order_relaxed);
	}
	iomap__mutex_unlock(&cache->await_lock);
	return locked;
}

/* Those who await @folio now, taken out: who enters itself from here on means a later unlock. */
static void await_take(struct iomap__cache *cache, const struct iomap_folio *folio,
		       struct iomap_list_head *taken)
{
	struct iomap_list_head *head = await_bucket(cache, folio), *item, *next;

	iomap__mutex_lock(&cache->await_lock);
	for (item = head->next; item != head; item = next) {
		struct iomap__folio_await *await =
			iomap__container_of(item, struct iomap__folio_await, entry);

		next = item->next;
		if (await->folio != folio)
			continue;
		iomap__list_del(item);
		iomap__list_add_tail(item, taken);
		atomic_fetch_sub_explicit(&cache->nr_awaits, 1, memory_order_relaxed);
	}
	iomap__mutex_unlock(&cache->await_lock);
}

void iomap__folio_unlocked(struct iomap__cache *cache, const struct iomap_folio *folio)
{
	struct iomap__thread *self = iomap__thread_self();
	uint32_t ending = self->ending_ioends;
	struct iomap_list_head taken;

	/* relaxed: the bit of the lock word has ordered it */
	if (!atomic_load_explicit(&cache->nr_awaits, memory_order_relaxed))
		return;
	iomap__list_init(&taken);
	await_take(cache, folio, &taken);
	/* the folio may have been unlocked by the end of writeback: what they queue ends none */
	self->ending_ioends = 0;
	while (!iomap__list_empty(&taken)) {
		struct iomap__folio_await *await =
			iomap__container_of(taken.next, struct iomap__folio_await, entry);

		/* before it is called, which may enter it again */
		iomap__list_del(&await->entry);
		await->fn(await);
	}
	self->ending_ioends = ending;
}
