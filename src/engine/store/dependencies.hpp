/*
 * dependencies.hpp -- the statements about tasks that wait for others.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/batch.hpp"
#include "pg/session.hpp"
#include "shared/id_ranges.hpp"

namespace jobqueue::store {

enum class ParentState {
	live,
	completed,
	failed,
	cancelled,
	vanished, /* there is no trace of it */
};
struct Parent {
	int64 id;
	ParentState state;
	bool gone;	  /* only its outcome is known: it cannot be retried */
	bool is_kept; /* its outcome is known whatever becomes of its row: so tasks that run after it may go on */
};
/* The first tasks in the range for which others wait. */
std::vector<Parent> look_at_parents(IdRange ids, int count);
/* The same for these tasks, which are in order. */
std::vector<Parent> look_at_these_parents(std::span<const int64> ids);
/* Keeps the outcomes of those of these tasks that have ended, for tasks that run after them. */
void keep_outcomes(std::span<const int64> ids);

struct OpenDependency {
	ItemPointerData tid;
	int64 parent;
	int64 child;
};
/* Dependencies on these parents, in order; of the first parent, only those of children after "child". */
std::vector<OpenDependency> open_dependencies(std::span<const int64> parents, int64 child, int count);
/* All dependencies of these children, in the same order. */
std::vector<OpenDependency> open_dependencies_of(std::span<const int64> children);
/*
 * The tasks that wait for those of the first "parents" tasks in the range that have ended; of the first parent, only
 * those after "child".
 */
std::vector<int64> waiting_children(IdRange ids, int64 child, int parents, const Batch &batch);

struct Dependent {
	int64 id;
	int32 waits_for;
	std::string policy;
};
/* Locks those of these dependents that are blocked, with their tasks, except what others have locked. */
std::vector<Dependent> lock_dependents(std::span<const int64> ids);
/* Those of these tasks that are not blocked any more. */
std::vector<int64> not_blocked(std::span<const int64> ids);
/* Removes dependencies; returns the pairs (parent, child) that there were. */
std::vector<std::pair<int64, int64>> resolve(std::span<const OpenDependency> dependencies);
void set_waits_for(std::span<const int64> ids, std::span<const int32> waits_for);

struct Released {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	std::optional<TimestampTz> due; /* if given, it is scheduled */
	std::string group;				/* empty = none */
};
/* Makes blocked tasks pending or scheduled. */
std::vector<Released> release(std::span<const int64> ids);
/* Removes the dependencies that these children still have. */
void forget_dependencies(std::span<const int64> children);

/*
 * The lowest and highest parent for which tasks wait; the caller knows that none is below "from". An empty range if
 * there is none.
 */
IdRange open_parents(int64 from);

/* Outcomes */

struct Outcome {
	int64 id;
	std::optional<Datum> result; /* jsonb */
};
/* Keeps the outcomes of tasks that leave no row behind. "all": also if nobody is seen to wait for them. */
void note_outcomes(std::span<const Outcome> outcomes, std::string_view status, bool all);

/* Is this the claim of a worker outside the server that holds the task? */
bool is_claimed(int64 id, int32 attempt);
/* Rows for ResultSet: parent_id, name, status, result. */
Rows parent_results(int64 id);

/* Maintenance */

struct KnownDependent {
	int64 id;
	int32 waits_for;
	bool over;	  /* it will not run any more */
	bool dormant; /* it may run, if somebody retries it */
};
/* The first dependents after "after"; or those that are named. */
std::vector<KnownDependent> dependents(int64 after, const Batch &batch);
void remove_dependents(std::span<const int64> ids);
/* Removes parents that no dependent has. */
int64 remove_unneeded_parents();

} // namespace jobqueue::store
