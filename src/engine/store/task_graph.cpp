/*
 * task_graph.cpp -- see task_graph.hpp. C++ region.
 */
#include "engine/store/task_graph.hpp"

#include "engine/store/arrays.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constinit Statement add_dependents_statement{R"(
	INSERT INTO jobqueue.dependents (id, parents, waits_for, on_parent_failure)
	SELECT u.id, $2, cardinality($2), $3 FROM unnest($1) u(id))",
													INT8ARRAYOID, INT8ARRAYOID, TEXTOID};
static constinit Statement add_dependencies_statement{R"(
	INSERT INTO jobqueue.dependencies (parent_id, child_id)
	SELECT p.id, c.id FROM unnest($2) p(id), unnest($1) c(id))",
													  INT8ARRAYOID, INT8ARRAYOID};

void add_dependencies(std::span<const int64> children, std::span<const int64> parents, std::string_view policy) {
	Params dependents, dependencies;
	add_dependents_statement.run(dependents.add(children).add(parents).add(policy));
	add_dependencies_statement.run(dependencies.add(children).add(parents));
}

/* Each column is an array, so that one statement is enough, however the settings of the tasks differ. */
static constexpr auto insert_graph_sql = sql(R"(
	INSERT INTO jobqueue.tasks_live (type, payload, queue, priority, run_at, status, max_attempts, metadata, created_by,
		timeout, group_key)
	SELECT u.type, u.payload,
		coalesce(u.queue, (SELECT h.queue FROM jobqueue.handlers h WHERE h.type = u.type AND {has_say}), 'default'),
		u.priority, u.run_at,
		CASE WHEN u.blocked THEN 'blocked' WHEN u.run_at > clock_timestamp() THEN 'scheduled' ELSE 'pending' END,
		u.max_attempts, u.metadata, $11, u.timeout, u.group_key
	FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8),
			unnest($9), unnest($10)) WITH ORDINALITY
		AS u(type, payload, queue, priority, run_at, max_attempts, metadata, timeout, group_key, blocked, n)
	ORDER BY u.n
	RETURNING id, queue, status)",
											 phrase::has_say_in("ANY ($12)"));
static constinit Statement insert_graph_statement{
	insert_graph_sql, TEXTARRAYOID,		JSONBARRAYOID, TEXTARRAYOID, INT2ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID,
	JSONBARRAYOID,	  INTERVALARRAYOID, TEXTARRAYOID,  BOOLARRAYOID, NAMEOID,	   TEXTARRAYOID};

std::vector<Added> insert_graph(std::span<const GraphTask> tasks) {
	for (const GraphTask &task : tasks)
		check_bounds(task.task);
	using Text = std::optional<std::string_view>;
	const auto optional = [](const std::optional<Datum> &value, bool *isnull) {
		*isnull = !value;
		return value.value_or(0);
	};
	Params params;
	params.add_datum(texts_of(tasks, [](const GraphTask &t) { return Text(t.task.type); }), false);
	params.add_datum(
		array_of(tasks, JSONBOID, -1, false, TYPALIGN_INT, [](const GraphTask &t, bool *) { return t.payload; }),
		false);
	params.add_datum(texts_of(tasks, [](const GraphTask &t) { return t.task.queue ? Text(*t.task.queue) : Text(); }),
					 false);
	params.add_datum(array_of(tasks, INT2OID, 2, true, TYPALIGN_SHORT,
							  [](const GraphTask &t, bool *) { return Int16GetDatum(t.task.priority); }),
					 false);
	params.add_datum(array_of(tasks, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
							  [](const GraphTask &t, bool *isnull) {
								  *isnull = !t.task.run_at;
								  return TimestampTzGetDatum(t.task.run_at.value_or(0));
							  }),
					 false);
	params.add_datum(array_of(tasks, INT4OID, 4, true, TYPALIGN_INT,
							  [](const GraphTask &t, bool *isnull) {
								  *isnull = !t.task.max_attempts;
								  return Int32GetDatum(t.task.max_attempts.value_or(0));
							  }),
					 false);
	params.add_datum(array_of(tasks, JSONBOID, -1, false, TYPALIGN_INT,
							  [&](const GraphTask &t, bool *isnull) { return optional(t.task.metadata, isnull); }),
					 false);
	params.add_datum(array_of(tasks, INTERVALOID, 16, false, TYPALIGN_DOUBLE,
							  [&](const GraphTask &t, bool *isnull) { return optional(t.task.timeout, isnull); }),
					 false);
	params.add_datum(
		texts_of(tasks, [](const GraphTask &t) { return t.task.group_key ? Text(*t.task.group_key) : Text(); }), false);
	params.add_datum(array_of(tasks, BOOLOID, 1, true, TYPALIGN_CHAR,
							  [](const GraphTask &t, bool *) { return BoolGetDatum(t.task.blocked); }),
					 false);
	params.add_name(tasks[0].task.created_by);
	if (tasks[0].task.own_queues.empty())
		params.add_null();
	else
		params.add(tasks[0].task.own_queues);
	return added_from(insert_graph_statement.run(params));
}

/* The edges are sorted by child: the groups need no sort. */
static constinit Statement add_edge_dependents_statement{R"(
	INSERT INTO jobqueue.dependents (id, parents, names, waits_for, on_parent_failure)
	SELECT u.child, array_agg(u.parent), CASE WHEN count(u.name) > 0 THEN array_agg(u.name) END, count(*)::int4,
		min(u.policy)
	FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4)) AS u(child, parent, name, policy)
	GROUP BY u.child)",
														 INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
static constinit Statement add_edges_statement{R"(
	INSERT INTO jobqueue.dependencies (parent_id, child_id)
	SELECT u.parent, u.child FROM ROWS FROM (unnest($1), unnest($2)) AS u(child, parent))",
											   INT8ARRAYOID, INT8ARRAYOID};

void add_edges(std::span<const Edge> edges) {
	using Text = std::optional<std::string_view>;
	const Datum children = ids_of(edges, [](const Edge &edge) { return edge.child; });
	const Datum parents = ids_of(edges, [](const Edge &edge) { return edge.parent; });
	Params dependents, dependencies;
	dependents.add_datum(children, false).add_datum(parents, false);
	dependents.add_datum(texts_of(edges, [](const Edge &edge) { return edge.name.empty() ? Text() : Text(edge.name); }),
						 false);
	dependents.add_datum(texts_of(edges, [](const Edge &edge) { return Text(edge.policy); }), false);
	add_edge_dependents_statement.run(dependents);
	add_edges_statement.run(dependencies.add_datum(children, false).add_datum(parents, false));
}

static constinit Statement known_parents_statement{R"(
	SELECT t.id, coalesce(t.queue = ANY ($2), false) OR t.created_by = $3
	FROM unnest($1) u(id),
		LATERAL (SELECT t.id, t.queue, t.created_by FROM jobqueue.tasks t WHERE t.id = u.id LIMIT 1) t)",
												   INT8ARRAYOID, TEXTARRAYOID, NAMEOID};

std::vector<int64> known_parents(std::span<const int64> ids, std::span<const std::string> queues,
								 std::string_view role) {
	Params params;
	const Rows rows = known_parents_statement.run_on_latest(params.add(ids).add(queues).add_name(role));
	std::vector<int64> known;
	for (uint64 i = 0; i < rows.size(); i++) {
		if (!rows.bool_at(i, 2))
			throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
						"permission denied for task " + std::to_string(rows.int64_at(i, 1)) +
							", a parent of the new task",
						"Use a task of your own, or one in a queue of which you are a consumer or manager.");
		known.push_back(rows.int64_at(i, 1));
	}
	return known;
}

} // namespace jobqueue::store
