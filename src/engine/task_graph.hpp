/*
 * task_graph.hpp -- tasks that wait for each other, as enqueue_flow() adds them: which they are, and how they are
 * linked.
 *
 * C++ region; throws Error 22023 for what people wrote.
 */
#pragma once

#include "engine/access.hpp"
#include "engine/store/task_graph.hpp"

namespace jobqueue {

/* A task of a graph as it is written there. */
struct GraphTask {
	store::GraphTask task;
	std::vector<size_t> after; /* indexes of others in the graph, once it is linked */
	std::vector<std::string> names;
	std::vector<int64> ids; /* of tasks that existed before */
};

[[noreturn]] void refuse_graph_task(const std::string &name, const std::string &what, const std::string &hint = {});

struct TaskGraph {
	std::vector<GraphTask> tasks;
	std::vector<std::string> types; /* of the tasks, which refer to them */

	/* Finds the tasks that others name, and refuses a graph that could never run. Must be called before add(). */
	void link();
	/*
	 * Adds the tasks, and what they wait for. "allowed": the queues in which they may be; "reached": those whose tasks
	 * they may wait for, beside the role's own. Needs a Session.
	 */
	std::vector<store::Added> add(const Queues &allowed, const Queues &reached, const std::string &role);
	/* Announces what was added. */
	void note(std::span<const store::Added> added) const;

private:
	void refuse_cycle(const std::vector<size_t> &waits_for) const;
	void check_ids(const Queues &reached, const std::string &role);
	std::vector<store::Edge> edges_of(std::span<const store::Added> added) const;
};

} // namespace jobqueue
