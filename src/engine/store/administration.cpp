/*
 * administration.cpp -- see administration.hpp. C++ region.
 */
#include "engine/store/administration.hpp"

#include "engine/store/pauses.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto delete_unfinished = sql(R"(
	WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id = $1 AND NOT t.status = {finished} RETURNING t.*))",
											  phrase::finished);
static constexpr auto select_cancelled = sql(R"(
	SELECT t.queue, t.priority, t.status = 'processing' AND {in_server}, coalesce(t.group_key, '') FROM gone t)",
											 phrase::in_server);
static constexpr auto cancel_sql = sql("{delete_unfinished} {select_cancelled}", delete_unfinished, select_cancelled);
static constexpr auto cancel_into_sql = phrase::for_each_leaf([](const auto &leaf) {
	return sql(R"({delete_unfinished},
	kept AS (
		INSERT INTO jobqueue.tasks_history_{leaf} ({kept}, {changed})
		SELECT {kept}, 'cancelled', clock_timestamp(), run_at, clock_timestamp(), NULL, coalesce($2, last_error),
			CASE WHEN $2 IS NULL THEN last_sqlstate END, result, crashes, failures, {leaf}
		FROM gone)
	{select_cancelled})",
			   delete_unfinished, leaf, phrase::kept_columns, phrase::changed_columns, phrase::kept_columns, leaf,
			   select_cancelled);
});
static constinit Statement cancel_statement{cancel_sql, INT8OID, TEXTOID};
static constinit auto cancel_into_statements = phrase::leaf_statements(cancel_into_sql, INT8OID, TEXTOID);

std::optional<Cancelled> cancel(int64 id, const std::optional<std::string> &reason, int leaf) {
	/*
	 * Tries twice: a statement that waited for a transaction which moved the task out and back has not seen the task.
	 */
	for (int tries = 0; tries < 2; tries++) {
		Params params;
		params.add(id);
		params.add(reason);
		const Rows rows = (leaf == 0 ? cancel_statement : cancel_into_statements[leaf - 1]).run(params);
		if (!rows.empty())
			return Cancelled{{rows.text_at(0, 1), rows.int16_at(0, 2), !rows.text_at(0, 4).empty()},
							 rows.bool_at(0, 3),
							 rows.text_at(0, 4)};
	}
	return std::nullopt;
}

/* A dead letter that goes back to where it came from loses the attempts that it got for the other queue. */
template <typename Alias> static constexpr auto attempts_left(const Alias &t) {
	return sql("greatest({t}.attempts + 1, {t}.max_attempts - CASE WHEN {t}.origin_queue IS NULL THEN 0 ELSE 20 END)",
			   t, t, t);
}

static constexpr auto retry_waiting_sql =
	sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, run_at = $2,
		queue = coalesce(t.origin_queue, t.queue), origin_queue = NULL,
		max_attempts = CASE WHEN t.origin_queue IS NULL THEN t.max_attempts ELSE {attempts_left} END,
		updated_at = clock_timestamp()
	WHERE t.id = $1 AND ({scheduled} OR {pending} AND t.origin_queue IS NOT NULL)
	RETURNING {columns})",
		attempts_left("t"), phrase::status_is("scheduled"), phrase::status_is("pending"), phrase::claim_columns);
/* If the unique key is taken, the row stays where it is. A task that comes back has an attempt left, and no claim. */
static constexpr auto retry_finished_sql = sql(R"(
	WITH picked AS (
		SELECT t.* FROM jobqueue.tasks t
		WHERE t.id = $1 AND t.slot <> 0::int2 AND t.status COLLATE "C" = ANY (ARRAY['failed', 'cancelled'])
		FOR UPDATE),
	back AS (
		INSERT INTO jobqueue.tasks_live AS t (id, type, payload, created_at, processed_at, queue, priority, attempts,
			claimed_by, unique_key, group_key, created_by, metadata, timeout, unique_scope, status, run_at, last_error,
			last_sqlstate, crashes, failures, max_attempts)
		SELECT p.id, p.type, p.payload, p.created_at, p.processed_at, coalesce(p.origin_queue, p.queue), p.priority,
			p.attempts, p.claimed_by, p.unique_key, p.group_key, p.created_by, p.metadata, p.timeout,
			CASE WHEN p.unique_scope = 'started' THEN 'waiting' ELSE p.unique_scope END,
			CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, $2, p.last_error, p.last_sqlstate, p.crashes,
			p.failures, CASE WHEN p.max_attempts IS NOT NULL THEN {attempts_left} END
		FROM picked p
		ON CONFLICT DO NOTHING
		RETURNING {columns}),
	gone AS (DELETE FROM jobqueue.tasks d USING back b WHERE d.id = $1 AND d.id = b.id AND d.slot <> 0::int2)
	SELECT * FROM back)",
											   attempts_left("p"), phrase::claim_columns);
static constinit Statement retry_waiting_statement{retry_waiting_sql, INT8OID, TIMESTAMPTZOID};
static constinit Statement retry_finished_statement{retry_finished_sql, INT8OID, TIMESTAMPTZOID};

std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at) {
	/* Tries the first one again at the end: others may have brought the task back while we waited for it. */
	for (Statement *statement : {&retry_waiting_statement, &retry_finished_statement, &retry_waiting_statement}) {
		Params params;
		params.add(id);
		params.add_time(run_at);
		std::vector<Claim> found = claims_of(statement->run(params));
		if (!found.empty())
			return std::move(found[0]);
	}
	return std::nullopt;
}

/*
 * $1 to $4 come from a Selection, $5 is its count, $6 its status. Rows are read in the order of ids, which has an
 * index.
 */
static constexpr auto matches = sql(R"(
	($1 IS NULL OR t.queue COLLATE "C" = $1) AND ($2 IS NULL OR t.type = $2)
	AND ($3 IS NULL OR t.created_at >= $3) AND ($4 IS NULL OR t.created_at < $4))");
static constexpr auto has_status = sql(R"(($6 IS NULL OR t.status COLLATE "C" = $6))");

static constexpr auto select_live_sql = sql(R"(
	SELECT t.id FROM jobqueue.tasks_live t
	WHERE NOT t.status COLLATE "C" = {finished} AND {matches} AND {has_status}
	ORDER BY t.id LIMIT $5
	FOR UPDATE SKIP LOCKED)",
											phrase::finished, matches, has_status);
static constexpr auto select_failed_sql = sql(R"(
	SELECT t.id FROM jobqueue.tasks_failed t
	WHERE {matches}
	ORDER BY t.id LIMIT $5
	FOR UPDATE SKIP LOCKED)",
											  matches);
/* Uses the order of the index that has the queue: no other index leads to the dead letters among the live tasks. */
static constexpr auto select_dead_letters_sql = sql(R"(
	SELECT t.id FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NULL AND t.queue COLLATE "C" = $1 AND t.origin_queue IS NOT NULL
		AND {matches}
	ORDER BY t.priority, t.id NULLS FIRST LIMIT $5
	FOR UPDATE SKIP LOCKED)",
													matches);
static constexpr auto select_grouped_dead_letters_sql = sql(R"(
	SELECT t.id FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NOT NULL AND t.queue COLLATE "C" = $1 AND t.origin_queue IS NOT NULL
		AND {matches}
	ORDER BY t.priority, t.group_key COLLATE "C", t.id NULLS FIRST LIMIT $5
	FOR UPDATE SKIP LOCKED)",
															matches);
template <typename Leaves> static constexpr auto delete_from(const Leaves &leaves) {
	return sql(R"(
	DELETE FROM jobqueue.{leaves} d
	USING (
		SELECT t.tableoid, t.id FROM jobqueue.{leaves} t
		WHERE NOT t.status COLLATE "C" = 'processing' AND {matches} AND {has_status}
		ORDER BY t.id LIMIT $5
		FOR UPDATE SKIP LOCKED) o
	WHERE d.id = o.id AND d.tableoid = o.tableoid
	RETURNING d.id, d.status = 'completed', d.queue, d.priority, coalesce(d.group_key, ''))",
			   leaves, leaves, matches, has_status);
}
static constexpr auto delete_sql = delete_from("tasks");
static constexpr auto delete_live_sql = delete_from("tasks_live");
static constexpr auto delete_failed_sql = delete_from("tasks_failed");

/* A statement with the types of $1 to $5, and of what follows them. */
template <typename Text, typename... Status>
static constexpr Statement selecting_statement(const Text &text, Status... status) {
	return Statement{text, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, status...};
}
static constinit Statement select_live_statement = selecting_statement(select_live_sql, TEXTOID);
static constinit Statement select_failed_statement = selecting_statement(select_failed_sql);
static constinit Statement select_dead_letters_statement = selecting_statement(select_dead_letters_sql);
static constinit Statement select_grouped_dead_letters_statement = selecting_statement(select_grouped_dead_letters_sql);
static constinit Statement delete_statement = selecting_statement(delete_sql, TEXTOID);
static constinit Statement delete_live_statement = selecting_statement(delete_live_sql, TEXTOID);
static constinit Statement delete_failed_statement = selecting_statement(delete_failed_sql, TEXTOID);

static void add_selection(Params &params, const Selection &selection) {
	params.add(selection.queue);
	params.add(selection.type);
	params.add_time(selection.since).add_time(selection.until).add(selection.count);
}

std::vector<int64> select_live(const Selection &selection) {
	Params params;
	add_selection(params, selection);
	params.add(selection.status);
	return select_live_statement.run(params).ids();
}

Retried retry_failed(const Selection &selection) {
	Retried retried;
	Selection rest = selection;
	const auto retry_selected = [&retried, &rest](Statement &statement) {
		if (rest.count <= 0)
			return;
		Params params;
		add_selection(params, rest);
		for (const int64 id : statement.run(params).ids()) {
			if (std::optional<Claim> task = retry(id, std::nullopt))
				retried.tasks.push_back(std::move(*task));
			else
				retried.passed++;
			rest.count--;
		}
	};
	retry_selected(select_failed_statement);
	for (const std::string &queue : selection.queue ? std::vector{*selection.queue} : pauses().dead_letter_queues) {
		rest.queue = queue;
		retry_selected(select_dead_letters_statement);
		retry_selected(select_grouped_dead_letters_statement);
	}
	return retried;
}

static std::vector<Removed> removed_of(const Rows &rows) {
	std::vector<Removed> removed;
	removed.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		removed.push_back({rows.int64_at(i, 1),
						   rows.bool_at(i, 2),
						   {rows.text_at(i, 3), rows.int16_at(i, 4), true},
						   rows.text_at(i, 5)});
	return removed;
}

std::vector<Removed> delete_tasks(const Selection &selection) {
	Params params;
	add_selection(params, selection);
	params.add(selection.status);
	/* The planner cannot tell from a parameter which leaves have tasks of a status. */
	const bool waiting =
		selection.status == "pending" || selection.status == "scheduled" || selection.status == "blocked";
	Statement &statement = waiting						  ? delete_live_statement
						   : selection.status == "failed" ? delete_failed_statement
														  : delete_statement;
	return removed_of(statement.run(params));
}

static constinit Statement purge_queue_statement{R"(
	DELETE FROM jobqueue.tasks_live d
	USING (
		SELECT t.id FROM jobqueue.tasks_live t
		WHERE t.queue COLLATE "C" = $1 AND t.status COLLATE "C" = ANY (ARRAY['pending', 'scheduled', 'blocked'])
		ORDER BY t.id
		FOR UPDATE SKIP LOCKED) o
	WHERE d.id = o.id
	RETURNING d.id, false, d.queue, d.priority, coalesce(d.group_key, ''))",
												 TEXTOID};

std::vector<Removed> purge(std::string_view queue) {
	Params params;
	return removed_of(purge_queue_statement.run(params.add(queue)));
}

} // namespace jobqueue::store
