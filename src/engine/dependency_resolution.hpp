/*
 * dependency_resolution.hpp -- lets tasks go that waited for others, or cancels them, and removes what no task needs
 * any more. See dependencies.hpp. C++ region; everything needs a Session.
 */
#pragma once

#include "engine/dependencies.hpp"
#include "engine/store/batch.hpp"

namespace jobqueue {

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
 * Removes what dependents needed that are over, of some of those after the given one, or of those that are named. Says
 * how many it has looked at, and which one was the last.
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
