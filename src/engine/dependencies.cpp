/*
 * dependencies.cpp -- see dependencies.hpp. C++ region.
 */
#include "engine/dependencies.hpp"

#include "engine/current_task.hpp"
#include "engine/store/adding.hpp"
#include "engine/store/watching.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

const char *failure_policy_named(std::string_view name) noexcept {
	for (const char *policy : {"cancel", "run", "wait"})
		if (name == policy)
			return policy;
	return nullptr;
}

void add_dependencies(std::span<const int64> children, std::span<const int64> parents, std::string_view policy) {
	if (children.empty())
		return;
	guard([parents] { note_parents(parents); });
	store::add_dependencies(children, parents, policy);
}

void add_dependencies(std::span<const store::Edge> edges) {
	if (edges.empty())
		return;
	std::vector<int64> parents;
	parents.reserve(edges.size());
	for (const store::Edge &edge : edges)
		parents.push_back(edge.parent);
	std::sort(parents.begin(), parents.end());
	parents.erase(std::unique(parents.begin(), parents.end()), parents.end());
	guard([&parents] { note_parents(parents); });
	store::add_edges(edges);
}

std::vector<int64> allowed_parents(std::vector<int64> parents, const Queues &allowed, std::string_view role) {
	if (parents.empty())
		return parents;
	const int64 last = store::last_id();
	for (const int64 &id : parents) /* the sequence can be set back, and tasks can have any id */
		if (id < 1 || (id > last && store::queues_of_tasks({&id, 1}).empty()))
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "task " + std::to_string(id) + " has never existed");
	if (allowed.all)
		return parents;
	/* A handler may name its own task in any case. A task that cannot be seen now is not looked at later either. */
	const std::optional<int64> own = current_task_id();
	const bool has_own = own && std::erase(parents, *own) != 0;
	parents = store::known_parents(parents, allowed.names, role);
	if (has_own)
		parents.insert(std::lower_bound(parents.begin(), parents.end(), *own), *own);
	return parents;
}

/* Ending tasks */

static bool somebody_is_writing() {
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	return slot != nullptr && pg_atomic_read_u32(&slot->dependencies_written) != 0;
}

bool may_have_dependents(std::span<const int64> ids) {
	IdRange range;
	for (const int64 id : ids)
		range.add({id, id});
	return !ids.empty() && may_be_parents(range);
}

void keep_outcomes(std::span<const store::Outcome> outcomes, const char *status) {
	IdRange range;
	for (const store::Outcome &outcome : outcomes)
		range.add({outcome.id, outcome.id});
	/* While others write dependencies, rows that cannot be seen yet may be about these tasks, too. */
	if (!outcomes.empty() && may_be_parents(range))
		store::note_outcomes(outcomes, status, somebody_is_writing());
}

} // namespace jobqueue
