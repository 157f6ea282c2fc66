/*
 * administration.cpp -- see administration.hpp. C++ region.
 */
#include "engine/store/administration.hpp"

#include "engine/store/pauses.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define CANCEL_TASK                                                                                                    \
	"WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 AND NOT t.status" EQ FINISHED " RETURNING t.*)"
#define CANCELLED                                                                                                      \
	" SELECT t.queue, t.priority, t.status" EQ "'processing' AND " IN_SERVER ", coalesce(t.group_key, '') FROM gone t"
#define CANCEL_INTO(n)                                                                                                 \
	Statement {                                                                                                        \
		CANCEL_TASK ", kept AS (INSERT INTO jobqueue.tasks_history_" #n " (" KEPT_COLUMNS CHANGED_COLUMNS              \
					") SELECT " KEPT_COLUMNS ", 'cancelled', " NOW ", run_at, " NOW                                    \
					", NULL, coalesce($2, last_error), CASE WHEN $2 IS NULL THEN last_sqlstate END, result, crashes, " \
					"failures, " #n " FROM gone)" CANCELLED,                                                           \
			INT8OID, TEXTOID                                                                                           \
	}
static constinit Statement cancel_statements[] = {
	Statement{CANCEL_TASK CANCELLED, INT8OID, TEXTOID},
	CANCEL_INTO(1),
	CANCEL_INTO(2),
	CANCEL_INTO(3),
	CANCEL_INTO(4),
	CANCEL_INTO(5),
	CANCEL_INTO(6),
	CANCEL_INTO(7),
	CANCEL_INTO(8),
};

std::optional<Cancelled> cancel(int64 id, const std::optional<std::string> &reason, int slot) {
	/* Twice: who waited for a transaction that moved the task out of the leaf and back has not seen it. */
	for (int tries = 0; tries < 2; tries++) {
		Params params;
		params.add(id);
		params.add(reason);
		const Rows rows = cancel_statements[slot].run(params);
		if (!rows.empty())
			return Cancelled{{rows.text_at(0, 1), rows.int16_at(0, 2), !rows.text_at(0, 4).empty()},
							 rows.bool_at(0, 3),
							 rows.text_at(0, 4)};
	}
	return std::nullopt;
}

/*
 * Where the key is taken, the row stays where it is. A task that comes back has an attempt left, and no claim; a dead
 * letter goes to where it came from, without the attempts that it got for its other queue.
 */
#define BACK_COLUMNS                                                                                                   \
	"(id, type, payload, created_at, processed_at, queue, priority, attempts, claimed_by, unique_key, group_key, "     \
	"created_by, metadata, timeout, unique_scope, status, run_at, last_error, last_sqlstate, crashes, failures, max_attempts) "
#define ATTEMPTS_LEFT(t)                                                                                               \
	"greatest(" t ".attempts" PLUS "1, " t ".max_attempts" MINUS "CASE WHEN " t                                        \
	".origin_queue IS NULL THEN 0 ELSE 20 "                                                                            \
	"END)"
#define BACK_VALUES                                                                                                         \
	"SELECT p.id, p.type, p.payload, p.created_at, p.processed_at, coalesce(p.origin_queue, p.queue), p.priority, "         \
	"p.attempts, p.claimed_by, p.unique_key, p.group_key, p.created_by, p.metadata, p.timeout, CASE WHEN p.unique_scope" EQ \
	"'started' THEN 'waiting' ELSE p.unique_scope END, CASE WHEN $2 IS NULL "                                               \
	"THEN 'pending' ELSE 'scheduled' END, $2, p.last_error, p.last_sqlstate, p.crashes, p.failures, CASE WHEN "             \
	"p.max_attempts IS NOT NULL THEN " ATTEMPTS_LEFT("p") " END FROM picked p ON CONFLICT DO NOTHING "
#define RETRY_COLUMNS "RETURNING " CLAIM_COLUMNS

static constinit Statement retry_waiting_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = $2, queue = coalesce(t.origin_queue, t.queue), origin_queue = NULL, max_attempts = CASE WHEN "
	"t.origin_queue IS NULL THEN t.max_attempts ELSE " ATTEMPTS_LEFT(
		"t") " END, updated_at = " NOW " WHERE t.id" EQ
			 "$1 AND (" STATUS_IS("scheduled") " OR " STATUS_IS(
				 "pending") " AND t.origin_queue IS NOT NULL) " RETRY_COLUMNS,
	INT8OID, TIMESTAMPTZOID};
static constinit Statement retry_finished_statement{
	"WITH picked AS (SELECT t.* FROM jobqueue.tasks t WHERE t.id" EQ "$1 AND t.slot OPERATOR(pg_catalog.<>) "
	"0::pg_catalog.int2 AND t.status" CCOLL EQ "ANY (ARRAY['failed', 'cancelled']) FOR UPDATE), "
	"back AS (INSERT INTO jobqueue.tasks_live AS t " BACK_COLUMNS BACK_VALUES RETRY_COLUMNS
	"), gone AS (DELETE FROM jobqueue.tasks d USING back b WHERE d.id" EQ "$1 AND d.id" EQ
	"b.id AND d.slot OPERATOR(pg_catalog.<>) 0::pg_catalog.int2) "
	"SELECT * FROM back",
	INT8OID, TIMESTAMPTZOID};

std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at) {
	/* Once more at the end: somebody else may have brought it back while we waited for it. */
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

/* In the order of the ids: the index that there is, whatever the selection. */
#define MATCHES(t)                                                                                                     \
	"($1 IS NULL OR " t ".queue" CCOLL EQ "$1) AND ($2 IS NULL OR " t ".type" EQ "$2) AND ($3 IS NULL OR " t           \
	".created_at" GE "$3) AND ($4 IS NULL OR " t ".created_at" LT "$4)"
#define HAS_STATUS(t) "($6 IS NULL OR " t ".status" CCOLL EQ "$6)"
#define FIRST_OF(t) " ORDER BY " t ".id LIMIT $5 FOR UPDATE SKIP LOCKED"

static void add_selection(Params &params, const Selection &selection) {
	params.add(selection.queue);
	params.add(selection.type);
	params.add_time(selection.since).add_time(selection.until).add(selection.count);
}

static constinit Statement select_live_statement{
	"SELECT t.id FROM jobqueue.tasks_live t WHERE NOT t.status" CCOLL EQ FINISHED
	" AND " MATCHES("t") " AND " HAS_STATUS("t") FIRST_OF("t"),
	TEXTOID,
	TEXTOID,
	TIMESTAMPTZOID,
	TIMESTAMPTZOID,
	INT4OID,
	TEXTOID};

std::vector<int64> select_live(const Selection &selection) {
	Params params;
	add_selection(params, selection);
	params.add(selection.status);
	return select_live_statement.run(params).ids();
}

static constinit Statement select_failed_statement{"SELECT t.id FROM jobqueue.tasks_failed t WHERE " MATCHES("t")
													   FIRST_OF("t"),
												   TEXTOID,
												   TEXTOID,
												   TIMESTAMPTZOID,
												   TIMESTAMPTZOID,
												   INT4OID};
/* In the order of the index, which has the queue: nothing else leads to the dead letters among the live tasks. */
#define SELECT_DEAD_LETTERS(with_group, order)                                                                         \
	Statement {                                                                                                        \
		"SELECT t.id FROM jobqueue.tasks_live t WHERE t.status" EQ "'pending' AND t.group_key " with_group             \
		" AND t.queue" CCOLL EQ "$1 AND t.origin_queue IS NOT NULL AND " MATCHES("t") order                            \
			" LIMIT $5 FOR UPDATE SKIP LOCKED",                                                                        \
			TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID                                                  \
	}
static constinit Statement select_dead_letters_statement =
	SELECT_DEAD_LETTERS("IS NULL", " ORDER BY t.priority, t.id NULLS FIRST");
static constinit Statement select_grouped_dead_letters_statement =
	SELECT_DEAD_LETTERS("IS NOT NULL", " ORDER BY t.priority, t.group_key" CCOLL ", t.id NULLS FIRST");

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

#define DELETE_FROM(leaves)                                                                                            \
	Statement {                                                                                                        \
		"DELETE FROM jobqueue." leaves " d USING (SELECT t.tableoid, t.id FROM jobqueue." leaves                       \
		" t WHERE NOT t.status" CCOLL EQ "'processing' AND " MATCHES("t") " AND " HAS_STATUS("t")                      \
			FIRST_OF("t") ") o WHERE d.id" EQ "o.id AND d.tableoid" EQ "o.tableoid RETURNING d.id, d.status" EQ        \
						  "\'completed\', d.queue, d.priority, coalesce(d.group_key, \'\')",                           \
			TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TEXTOID                                         \
	}
static constinit Statement delete_statement = DELETE_FROM("tasks");
static constinit Statement delete_live_statement = DELETE_FROM("tasks_live");
static constinit Statement delete_failed_statement = DELETE_FROM("tasks_failed");

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

static constinit Statement purge_queue_statement{
	"DELETE FROM jobqueue.tasks_live d USING (SELECT t.id FROM jobqueue.tasks_live t WHERE t.queue" CCOLL EQ
	"$1 AND t.status" CCOLL EQ
	"ANY (ARRAY['pending', 'scheduled', 'blocked']) ORDER BY t.id FOR UPDATE SKIP LOCKED) o WHERE d.id" EQ
	"o.id RETURNING d.id, false, d.queue, d.priority, coalesce(d.group_key, '')",
	TEXTOID};

std::vector<Removed> purge(std::string_view queue) {
	Params params;
	return removed_of(purge_queue_statement.run(params.add(queue)));
}

} // namespace jobqueue::store
