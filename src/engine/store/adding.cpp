/*
 * adding.cpp -- see adding.hpp. C++ region.
 */
#include "engine/store/adding.hpp"

#include "engine/store/bounds.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto insert_sql =
	sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns})
	VALUES ({values})
	RETURNING id, queue, status)",
		phrase::insert_columns, phrase::insert_values("$2", phrase::queue_of_type, phrase::status_by_time));
/* For most tasks, once the queue is known: the server prepares even those parts of a statement that it does not run. */
static constexpr auto insert_given_sql =
	sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns})
	VALUES ({values})
	RETURNING id, queue, status)",
		phrase::insert_columns, phrase::insert_values("$2", "$3", phrase::status_by_time));
static constexpr auto insert_many_sql =
	sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns})
	SELECT {values}
	FROM unnest($2) WITH ORDINALITY AS u(payload, n)
	ORDER BY u.n
	RETURNING id, queue, status)",
		phrase::insert_columns, phrase::insert_values("u.payload", phrase::queue_of_type, phrase::status_by_time));
/* For tasks with a group, or with others to wait for, which most tasks do not have. */
static constexpr auto insert_special_sql =
	sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns}, group_key)
	VALUES ({values}, $11)
	RETURNING id, queue, status)",
		phrase::insert_columns, phrase::insert_values("$2", phrase::queue_of_type, phrase::status_or_blocked));
static constexpr auto insert_many_special_sql =
	sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns}, group_key)
	SELECT {values}, $11
	FROM unnest($2) WITH ORDINALITY AS u(payload, n)
	ORDER BY u.n
	RETURNING id, queue, status)",
		phrase::insert_columns, phrase::insert_values("u.payload", phrase::queue_of_type, phrase::status_or_blocked));

static constinit Statement insert_statement = phrase::insert_statement(insert_sql, JSONBOID);
static constinit Statement insert_given_statement = phrase::insert_statement(insert_given_sql, JSONBOID);
static constinit Statement insert_many_statement = phrase::insert_statement(insert_many_sql, JSONBARRAYOID);
static constinit Statement insert_special_statement =
	phrase::insert_statement(insert_special_sql, JSONBOID, TEXTOID, BOOLOID);
static constinit Statement insert_many_special_statement =
	phrase::insert_statement(insert_many_special_sql, JSONBARRAYOID, TEXTOID, BOOLOID);

void check_bounds(const NewTask &task) {
	bounds::check("type", task.type.size(), bounds::type);
	if (task.queue)
		bounds::check("queue", task.queue->size(), bounds::queue);
	if (task.group_key)
		bounds::check("group_key", task.group_key->size(), bounds::key);
	if (task.metadata)
		bounds::check("metadata", bounds::size_of(*task.metadata), bounds::metadata);
}

void describe(Params &params, const NewTask &task, Datum payload) {
	check_bounds(task);
	params.add(task.type).add_datum(payload, false);
	params.add(task.queue);
	params.add(task.priority);
	params.add_time(task.run_at);
	params.add(task.max_attempts).add_datum(task.metadata.value_or(0), !task.metadata).add_name(task.created_by);
	params.add_datum(task.timeout.value_or(0), !task.timeout);
	if (task.own_queues.empty())
		params.add_null();
	else
		params.add(task.own_queues);
}

std::vector<Added> added_from(const Rows &rows) {
	std::vector<Added> added;
	added.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		const std::string status = rows.text_at(i, 3);
		added.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), status == "scheduled", status == "blocked"});
	}
	return added;
}

static std::vector<Added> run_insert(Statement &plain, Statement &special, const NewTask &task, Datum payload) {
	Params params;
	describe(params, task, payload);
	const bool is_special = task.group_key || task.blocked;
	if (is_special)
		params.add(task.group_key).add(task.blocked);
	return added_from((is_special ? special : plain).run(params));
}

Added insert(const NewTask &task, Datum payload) {
	return run_insert(task.queue ? insert_given_statement : insert_statement, insert_special_statement, task, payload)
		.at(0);
}

std::vector<Added> insert_many(const NewTask &task, Datum payloads) {
	return run_insert(insert_many_statement, insert_many_special_statement, task, payloads);
}

static constinit Statement last_id_statement{R"(
	SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM jobqueue.tasks_id_seq s)"};

int64 last_id() {
	Params none;
	return last_id_statement.run(none).int64_at(0, 1);
}

} // namespace jobqueue::store
