/*
 * dependencies.hpp -- tasks that run after others.
 *
 * A task that waits for others, a child, is blocked; a row of jobqueue.dependencies for each parent keeps it so. The
 * rows are written by the transaction that enqueues the child, and resolved by one process, the scheduler, after the
 * commits of both that transaction and the one in which the parent ended, whichever comes last: a snapshot taken then
 * sees both, and neither of them has to look for the other.
 *
 * So that tasks cost nothing that nobody waits for, shared memory has bounds for the ids of parents. Whoever adds a
 * child widens them first; a transaction in which a task inside of them ended tells the scheduler so.
 *
 * C++ region; everything needs a Session.
 */
#pragma once

#include "engine/access.hpp"
#include "engine/store/dependencies.hpp"
#include "engine/store/task_graph.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* What happens to a child whose parent fails. The text comes from no user's memory; null: there is no such policy. */
const char *failure_policy_named(std::string_view name) noexcept;
inline constexpr const char *failure_policy_hint = "Valid values are cancel, run and wait.";

/* Adds children that are blocked already, in this transaction. "parents": sorted. */
void add_dependencies(std::span<const int64> children, std::span<const int64> parents, std::string_view policy);
void add_dependencies(std::span<const store::Edge> edges);

/*
 * The tasks in "parents", which are sorted, that a new one may be made to wait for by a role that reaches the tasks in
 * these queues, and its own. Throws 22023 if one has never been, 42501 if one is none of the user's business.
 */
std::vector<int64> allowed_parents(std::vector<int64> parents, const Queues &allowed, std::string_view role);

/* Does perhaps somebody wait for one of these? */
bool may_have_dependents(std::span<const int64> ids);

/*
 * Tasks that end in this transaction, and leave no row: their outcome is kept for those that wait for them. Nothing is
 * done where nobody can.
 */
void keep_outcomes(std::span<const store::Outcome> outcomes, const char *status);

} // namespace jobqueue
