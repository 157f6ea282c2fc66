/*
 * task_graph.hpp -- the statements that add what tasks wait for, and flows: tasks that wait for each other.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/adding.hpp"

namespace jobqueue::store {

/* Each of these tasks is to run after each of these others, which are sorted. */
void add_dependencies(std::span<const int64> children, std::span<const int64> parents, std::string_view policy);

/* A task of a flow; Datums and text live as long as the call. */
struct GraphTask {
	std::string name;
	NewTask task;
	Datum payload;
	std::string policy;
};
/* In their order; all by the same creator, and with the same own_queues. */
std::vector<Added> insert_graph(std::span<const GraphTask> tasks);
/* An edge of a flow. "name" of the parent, if it has one. */
struct Edge {
	int64 child;
	int64 parent;
	std::string_view name;
	std::string_view policy;
};
/* Sorted by child and parent. */
void add_edges(std::span<const Edge> edges);

/*
 * Which of these tasks a role knows of: it has made them, or reaches their queues. Throws 42501 if there is one that it
 * does not. One that nobody can see yet is not among them.
 */
std::vector<int64> known_parents(std::span<const int64> ids, std::span<const std::string> queues,
								 std::string_view role);

} // namespace jobqueue::store
