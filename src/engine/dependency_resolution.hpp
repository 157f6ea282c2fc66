/*
 * dependency_resolution.hpp -- unblocks tasks that waited for others, or cancels them, and removes rows that no task
 * needs any more. See dependencies.hpp. C++ region; everything needs a Session.
 */
#pragma once

#include "engine/dependencies.hpp"
#include "engine/store/batch.hpp"

namespace jobqueue {

/* How far a pass over the parents in a range has come. */
struct Pass {
	int64 parent = 0;	 /* the next parent to look at */
	int64 child = -1;	 /* of its children, only those after this one */
	bool done = false;	 /* there are no more parents */
	IdRanges again = {}; /* parents of which others have locked a child, or are writing the outcome */
	bool any = false;	 /* something was resolved */
	int64 count = 0;	 /* of dependencies */
};
/*
 * Looks at some parents in the range, and unblocks or cancels the children that wait for them; of the first parent,
 * only the children after "child". Does not wait for locks of tasks.
 */
Pass resolve_some(IdRange parents, int64 child, std::span<const int64> but = {});
/* The same for these children, whatever they wait for. */
Pass resolve_these(std::span<const int64> children);
/* Which children may resolve_some() look at? */
std::vector<int64> children_to_resolve(IdRange parents, int64 child, std::span<const int64> but);
/* Resolves all dependencies, in the current transaction; true if something was resolved. */
bool resolve_all();
/*
 * Resolves a few dependencies, others at each call, for callers that come again and again. Takes a small part of their
 * time.
 */
void resolve_in_turn();

/* Makes the bounds in shared memory as narrow as possible. */
void narrow_parent_bounds(DatabaseSlot *slot);

/*
 * Removes what was needed only by dependents that are over: of some dependents after the given one, or of those that
 * are named. Returns how many were looked at, and which one was the last.
 */
struct Swept {
	int64 count = 0;
	int64 last = -1;
};
Swept sweep_dependents(int64 after, const store::Batch &batch);
std::vector<int64> dependents_after(int64 after, const store::Batch &batch);
/* Removes parents that no dependent needs. */
void sweep_parents(DatabaseSlot *slot);

} // namespace jobqueue
