/*
 * task_graph.cpp -- see task_graph.hpp. C++ region; the lambdas given to guard are C.
 */
#include "engine/task_graph.hpp"

#include "engine/dependencies.hpp"
#include "engine/adding.hpp"

#include <map>

namespace jobqueue {

void refuse_graph_task(const std::string &name, const std::string &what, const std::string &hint) {
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "task \"" + name + "\" of the flow: " + what, hint);
}

void TaskGraph::link() {
	std::map<std::string_view, size_t> known; /* no hash: users choose the names */
	for (size_t i = 0; i < tasks.size(); i++)
		if (!known.emplace(tasks[i].task.name, i).second)
			refuse_graph_task(tasks[i].task.name, "there are two tasks with this name");
	std::vector<size_t> waits_for(tasks.size(), 0);
	std::vector<std::vector<size_t>> children(tasks.size());
	for (size_t i = 0; i < tasks.size(); i++) {
		GraphTask &task = tasks[i];
		for (const std::string &name : task.names) {
			const auto found = known.find(name);
			if (found == known.end())
				refuse_graph_task(task.task.name, "after names \"" + name + "\", which is not in the flow");
			task.after.push_back(found->second);
		}
		std::sort(task.after.begin(), task.after.end());
		task.after.erase(std::unique(task.after.begin(), task.after.end()), task.after.end());
		std::sort(task.ids.begin(), task.ids.end());
		task.ids.erase(std::unique(task.ids.begin(), task.ids.end()), task.ids.end());
		for (const size_t parent : task.after)
			children[parent].push_back(i);
		waits_for[i] = task.after.size();
	}
	std::vector<size_t> free;
	for (size_t i = 0; i < tasks.size(); i++)
		if (waits_for[i] == 0)
			free.push_back(i);
	for (size_t i = 0; i < free.size(); i++)
		for (const size_t child : children[free[i]])
			if (--waits_for[child] == 0)
				free.push_back(child);
	if (free.size() < tasks.size())
		refuse_cycle(waits_for);
}

/*
 * Each task that is left waits for another one of them, so a walk from one to the next must come to one of them twice.
 */
void TaskGraph::refuse_cycle(const std::vector<size_t> &waits_for) const {
	size_t at = 0;
	while (waits_for[at] == 0)
		at++;
	std::vector<size_t> way;
	std::vector<bool> seen(tasks.size(), false);
	while (!seen[at]) {
		seen[at] = true;
		way.push_back(at);
		at = *std::find_if(tasks[at].after.begin(), tasks[at].after.end(),
						   [&waits_for](size_t parent) { return waits_for[parent] != 0; });
	}
	way.erase(way.begin(), std::find(way.begin(), way.end(), at));
	way.push_back(at);
	constexpr size_t longest = 20;
	std::string text;
	for (size_t i = 0; i < way.size() && i < longest; i++)
		text += (i ? " after " : "") + ("\"" + tasks[way[i]].task.name + "\"");
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
				"the flow has a cycle: " + text + (way.size() > longest ? " and so on" : ""));
}

/* Removes ids of tasks that are gone; throws 42501 if there is one that the role does not reach. */
void TaskGraph::check_ids(const Queues &reached, const std::string &role) {
	std::vector<int64> ids;
	for (const GraphTask &task : tasks)
		ids.insert(ids.end(), task.ids.begin(), task.ids.end());
	std::sort(ids.begin(), ids.end());
	ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
	const std::vector<int64> known = allowed_parents(ids, reached, role);
	if (known.size() == ids.size())
		return;
	for (GraphTask &task : tasks)
		std::erase_if(task.ids, [&known](int64 id) { return !std::binary_search(known.begin(), known.end(), id); });
}

std::vector<store::Edge> TaskGraph::edges_of(std::span<const store::Added> added) const {
	std::vector<store::Edge> edges;
	for (size_t i = 0; i < tasks.size(); i++) {
		const GraphTask &task = tasks[i];
		const size_t first = edges.size();
		for (const int64 id : task.ids)
			edges.push_back({added[i].id, id, {}, task.task.policy});
		for (const size_t parent : task.after)
			edges.push_back({added[i].id, added[parent].id, tasks[parent].task.name, task.task.policy});
		std::sort(edges.begin() + static_cast<std::ptrdiff_t>(first), edges.end(),
				  [](const store::Edge &a, const store::Edge &b) { return a.parent < b.parent; });
	}
	return edges;
}

std::vector<store::Added> TaskGraph::add(const Queues &allowed, const Queues &reached, const std::string &role) {
	check_ids(reached, role);
	std::vector<store::GraphTask> rows;
	rows.reserve(tasks.size());
	for (GraphTask &task : tasks) {
		task.task.task.own_queues = allowed.names;
		task.task.task.blocked = !task.after.empty() || !task.ids.empty();
		rows.push_back(task.task);
	}
	std::vector<store::Added> added = store::insert_graph(rows);
	for (const store::Added &one : added)
		require(allowed, one.queue);
	add_dependencies(edges_of(added));
	return added;
}

void TaskGraph::note(std::span<const store::Added> added) const {
	for (size_t i = 0; i < added.size(); i++)
		note_added(tasks[i].task.task, added[i]);
}

} // namespace jobqueue
