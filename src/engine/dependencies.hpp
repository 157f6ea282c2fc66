/*
 * dependencies.hpp -- tasks that run after others.
 *
 * A task that waits for others, a child, is blocked; a row of jobqueue.dependencies for each parent keeps it blocked.
 * The transaction that enqueues the child writes these rows. One process, the scheduler, resolves them after the
 * commits of both that transaction and the one in which the parent ended, whichever comes last: a snapshot taken then
 * sees both, and neither transaction has to look for the other.
 *
 * Shared memory has bounds for the ids of parents, so that tasks for which nobody waits cost nothing. A transaction
 * that adds a child widens the bounds first; a transaction in which a task inside the bounds ended tells the scheduler
 * so.
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
 * The tasks in "parents", which are sorted, for which a new task may wait. The role reaches its own tasks, and those in
 * the allowed queues. Throws 22023 if a task has never existed, 42501 if the role does not reach it.
 */
std::vector<int64> allowed_parents(std::vector<int64> parents, const Queues &allowed, std::string_view role);

/* Can there be tasks that wait for one of these? */
bool may_have_dependents(std::span<const int64> ids);

/*
 * Keeps the outcome of tasks that end in this transaction and leave no row, for tasks that wait for them. Does nothing
 * if no task can wait for them.
 */
void keep_outcomes(std::span<const store::Outcome> outcomes, const char *status);

} // namespace jobqueue
