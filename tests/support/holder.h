/* SPDX-License-Identifier: MIT */
/*
 * holder.h - a thread that has a folio locked, or else i_rwsem, until it is told.
 */
#ifndef HOLDER_H
#define HOLDER_H

#include <string.h>

#include "teststore.h"

struct holder {
	struct ts *ts;
	struct iomap_folio *folio; /* NULL: i_rwsem */
	struct t_gate gate;
	bool locked, leave;
	struct t_task task;
};

static inline long hold_task(void *arg)
{
	struct holder *holder = arg;

	if (holder->folio)
		iomap_folio_lock(holder->folio);
	else
		iomap_inode_lock(&holder->ts->inode);
	t_lock(&holder->gate);
	holder->locked = true;
	t_wake(&holder->gate);
	while (!holder->leave)
		t_wait(&holder->gate);
	t_unlock(&holder->gate);
	if (holder->folio)
		iomap_folio_unlock(holder->folio);
	else
		iomap_inode_unlock(&holder->ts->inode);
	return 0;
}

static inline void hold(struct ts *ts, struct iomap_folio *folio, struct holder *holder)
{
	memset(holder, 0, sizeof(*holder));
	holder->ts = ts;
	holder->folio = folio;
	t_gate_init(&holder->gate);
	t_start(&holder->task, hold_task, holder);
	t_lock(&holder->gate);
	while (!holder->locked)
		t_wait(&holder->gate);
	t_unlock(&holder->gate);
}

/* The reference to the folio stays the caller's. */
static inline void let_go(struct holder *holder)
{
	t_lock(&holder->gate);
	holder->leave = true;
	t_wake(&holder->gate);
	t_unlock(&holder->gate);
	t_join(&holder->task);
	t_gate_exit(&holder->gate);
}

#endif
