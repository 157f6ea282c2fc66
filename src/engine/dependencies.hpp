/*
 * dependencies.hpp -- tasks that run after others.
 *
 * A task that waits for others, a child, is blocked; a row of jobqueue.dependencies for each parent keeps it so. The rows
 * are written by the transaction that enqueues the child, and resolved by one process, the scheduler, after the commits of
 * both that transaction and the one in which the parent ended, whichever comes last: a snapshot taken then sees both, and
 * neither of them has to look for the other.
 *
 * So that tasks cost nothing that nobody waits for, shared memory has bounds for the ids of parents. Whoever adds a child
 * widens them first; a transaction in which a task inside of them ended tells the scheduler so.
 *
 * C++ region; everything needs a Session.
 */
#pragma once

#include "engine/access.hpp"
#include "engine/store/batch.hpp"
#include "engine/store/dependencies.hpp"
#include "engine/store/task_graph.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* Adds children that are blocked already, in this transaction. "parents": sorted. */
void add_dependencies(std::span<const int64> children, std::span<const int64> parents, std::string_view policy);
void add_dependencies(std::span<const store::Edge> edges);

/*
 * The tasks in "parents", which are sorted, that a new one may be made to wait for by a role that reaches the tasks in these
 * queues, and its own. Throws 22023 if one has never been, 42501 if one is none of the user's business.
 */
std::vector<int64> allowed_parents(std::vector<int64> parents, const Queues &allowed, std::string_view role);

/* Does perhaps somebody wait for one of these? */
bool may_have_dependents(std::span<const int64> ids);

/*
 * Tasks that end in this transaction, and leave no row: their outcome is kept for those that wait for them. Nothing is
 * done where nobody can.
 */
void keep_outcomes(std::span<const store::Outcome> outcomes, const char *status);

/* How far a pass over the parents in a range has come. */
struct Pass {
	int64 parent = 0;	 /* the next one, ... */
	int64 child = -1;	 /* and of its children, those after this one */
	bool done = false;	 /* there are no more */
	IdRanges again = {}; /* parents of which a child was locked by others */
	bool any = false;	 /* something was resolved */
	int64 count = 0;	 /* so many dependencies */
};
/*
 * Looks at some tasks in the range that others wait for, at the first one's children after "child" only, and lets the
 * waiting ones go, or cancels them. Waits for no lock of a task.
 */
Pass resolve_some(IdRange parents, int64 child, std::span<const int64> but = {});
/* Likewise these children, whatever they wait for. */
Pass resolve_these(std::span<const int64> children);
/* Which children may resolve_some() look at? */
std::vector<int64> children_to_resolve(IdRange parents, int64 child, std::span<const int64> but);
/* Likewise all of them, in the current transaction; true if something was resolved. */
bool resolve_all();
/* Likewise a few, others at each call: for callers who come again and again. Takes a small part of their time. */
void resolve_in_turn();

/* The bounds in shared memory become as narrow as they can be. */
void narrow_parent_bounds(DatabaseSlot *slot);

/*
 * Removes what dependents needed that are over, of some of those after the given one, or of those that are named. Says how many
 * it has looked at, and which one was the last.
 */
struct Swept {
	int64 count = 0;
	int64 last = -1;
};
Swept sweep_dependents(int64 after, const store::Batch &batch);
std::vector<int64> dependents_after(int64 after, const store::Batch &batch);
/* What no dependent needs. */
void sweep_parents(DatabaseSlot *slot);

} // namespace jobqueue
