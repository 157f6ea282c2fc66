/*
 * outcome.cpp -- see outcome.hpp. C++ region.
 */
#include "engine/store/outcome.hpp"

#include "engine/store/arrays.hpp"
#include "engine/store/held_claims.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/* The condition on the array makes it look up these ids, and then compare, rather than read the whole index. */
#define COMPLETE_CLAIMS                                                                                                \
	"DELETE FROM jobqueue.tasks_live t USING unnest($1, $2, $3) AS u(id, attempt, result) WHERE t.id" EQ               \
	"ANY ($1) AND t.id" EQ "u.id AND t.attempts" EQ "u.attempt AND " STATUS_IS("processing") " AND " IN_SERVER EQ      \
																							 "$4 "
#define COMPLETE_INTO(n)                                                                                               \
	Statement {                                                                                                        \
		Statement::Join::hash,                                                                                         \
			"WITH done AS (" COMPLETE_CLAIMS "RETURNING t.*, u.result AS given) "                                      \
			"INSERT INTO jobqueue.tasks_history_" #n " (" KEPT_COLUMNS CHANGED_COLUMNS ") "                            \
			"SELECT " KEPT_COLUMNS ", 'completed', " NOW ", run_at, " NOW                                              \
			", NULL, last_error, last_sqlstate, given, crashes, failures, " #n " FROM done RETURNING id",              \
			INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID, BOOLOID                                                         \
	}
static constinit Statement complete_statements[] = {
	Statement{Statement::Join::hash, COMPLETE_CLAIMS "RETURNING t.id", INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID,
			  BOOLOID},
	COMPLETE_INTO(1),
	COMPLETE_INTO(2),
	COMPLETE_INTO(3),
	COMPLETE_INTO(4),
	COMPLETE_INTO(5),
	COMPLETE_INTO(6),
	COMPLETE_INTO(7),
	COMPLETE_INTO(8),
};

std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int slot) {
	std::vector<int64> done;
	if (slot == 0 && !in_server)
		done = complete_by_place(ids, attempts);
	if (!done.empty() && done.size() == ids.size())
		return done;
	Params params;
	params.add(ids).add(attempts).add_datum(results.value_or(0), !results).add(in_server);
	std::ranges::copy(complete_statements[slot].run(params).ids(), std::back_inserter(done));
	return done;
}

/*
 * By their places, which cannot change while we hold the locks unless we change them ourselves: nothing is looked up.
 * With history, what each row is given comes with its id.
 */
#define DELETE_LOCKED "DELETE FROM jobqueue.tasks_live t WHERE t.ctid" EQ "ANY ($1)"
#define COMPLETE_LOCKED_INTO(n)                                                                                        \
	Statement {                                                                                                        \
		Statement::Join::hash,                                                                                         \
			"WITH done AS (" DELETE_LOCKED " RETURNING t.*) "                                                          \
			"INSERT INTO jobqueue.tasks_history_" #n " (" FUSED_COLUMNS ") "                                           \
			"SELECT " FUSED_VALUES ", " #n                                                                             \
			" FROM done t JOIN unnest($2, $3, $4) AS u(id, processed_at, result) ON u.id" EQ "t.id",                   \
			TIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, TEXTOID                                     \
	}
#define FUSED_COLUMNS                                                                                                  \
	"id, type, payload, status, created_at, updated_at, processed_at, queue, priority, run_at, attempts, "             \
	"max_attempts, finished_at, claimed_by, last_error, last_sqlstate, result, group_key, created_by, metadata, "      \
	"crashes, slot"
#define FUSED_VALUES                                                                                                   \
	"t.id, t.type, t.payload, 'completed', t.created_at, " NOW ", u.processed_at, t.queue, t.priority, t.run_at, "     \
	"t.attempts" PLUS "1, " MAX_ATTEMPTS ", " NOW ", $5, t.last_error, t.last_sqlstate, u.result, t.group_key, "       \
	"t.created_by, t.metadata, t.crashes"
static constinit Statement complete_locked_statements[] = {
	Statement{DELETE_LOCKED, TIDARRAYOID},
	COMPLETE_LOCKED_INTO(1),
	COMPLETE_LOCKED_INTO(2),
	COMPLETE_LOCKED_INTO(3),
	COMPLETE_LOCKED_INTO(4),
	COMPLETE_LOCKED_INTO(5),
	COMPLETE_LOCKED_INTO(6),
	COMPLETE_LOCKED_INTO(7),
	COMPLETE_LOCKED_INTO(8),
};

uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int slot) {
	Params params;
	const auto count = static_cast<int>(tasks.size());
	const auto add_array = [&](Oid type, int16 length, bool by_value, char alignment, auto &&value) {
		params.add_datum(guard([&] {
							 auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * tasks.size()));
							 auto *nulls = static_cast<bool *>(palloc0(tasks.size()));
							 for (size_t i = 0; i < tasks.size(); i++)
								 elements[i] = value(tasks[i], &nulls[i]);
							 int dimensions[1] = {count}, lower[1] = {1};
							 return PointerGetDatum(construct_md_array(elements, nulls, 1, dimensions, lower, type,
																	   length, by_value, alignment));
						 }),
						 false);
	};
	params.add_datum(places_of(tasks), false);
	if (slot == 0)
		return complete_locked_statements[0].run(params).processed();
	add_array(INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return Int64GetDatum(task.id); });
	add_array(TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return TimestampTzGetDatum(task.processed_at); });
	add_array(JSONBOID, -1, false, TYPALIGN_INT, [](const Finished &task, bool *isnull) {
		*isnull = !task.result;
		return task.result.value_or(0);
	});
	return complete_locked_statements[slot].run(params.add(claimed_by)).processed();
}

/* The latest 20; what a failure says of itself is in four parameters from $message on. */
#define FAILURES(t, message, sqlstate, keys, values)                                                                   \
	"CASE WHEN pg_catalog.jsonb_array_length(" t "failures)" GE "20 THEN " t "failures" MINUS "0 "                     \
	"ELSE coalesce(" t "failures, '[]') END" CONCAT "pg_catalog.jsonb_build_array(pg_catalog.jsonb_strip_nulls("       \
	"pg_catalog.jsonb_build_object('attempt', " t "attempts, 'started_at', " t "processed_at, 'seconds', "             \
	"CASE WHEN pg_catalog.isfinite(" t "processed_at) THEN pg_catalog.date_part('epoch', " NOW MINUS t                 \
	"processed_at) END, 'worker', " t "claimed_by, 'sqlstate', " sqlstate ", 'message', pg_catalog.left(" message      \
	", 2000))" CONCAT "pg_catalog.jsonb_object(" keys ", " values ")))"
#define MORE_ATTEMPTS(t, n)                                                                                            \
	"CASE WHEN " t "max_attempts" LT "2147480000 THEN " t "max_attempts" PLUS n " ELSE " t "max_attempts END"

static constinit Statement put_back_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = coalesce($2, t.run_at), max_attempts = " MORE_ATTEMPTS(
		"t.", "1") ", lease_expires_at = NULL, updated_at = " NOW " WHERE t.id" EQ "$1",
	INT8OID, TIMESTAMPTZOID};
static constinit Statement put_back_failed_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = coalesce($2, t.run_at), last_error = $3, last_sqlstate = $4, failures = " FAILURES(
		"t.", "$3", "$4", "$5", "$6") ", crashes = t.crashes" PLUS "$7, lease_expires_at = NULL, updated_at = " NOW
									  " WHERE t.id" EQ "$1",
	INT8OID,
	TIMESTAMPTZOID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID};

static void add_failure(Params &params, const Failure &failure) {
	params.add(std::string_view(failure.message)).add(std::string_view(failure.sqlstate));
	params.add(std::span<const std::string>(failure.keys)).add(std::span<const std::string>(failure.values));
	params.add(static_cast<int32>(failure.crash));
}

void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure) {
	Params params;
	params.add(id);
	params.add_time(run_at);
	if (failure)
		add_failure(params, *failure);
	(failure ? put_back_failed_statement : put_back_statement).run(params);
}

static constinit Statement give_up_statement{
	"WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 RETURNING t.*) "
	"INSERT INTO jobqueue.tasks_failed (" KEPT_COLUMNS CHANGED_COLUMNS ") SELECT " KEPT_COLUMNS ", 'failed', " NOW
	", run_at, " NOW ", NULL, $2, $3, result, crashes" PLUS
	"$6, " FAILURES("", "$2", "$3", "$4", "$5") ", -1 FROM gone",
	INT8OID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID};

void give_up(int64 id, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	give_up_statement.run(params);
}

/* It has attempts enough for whoever claims it there. */
static constinit Statement dead_letter_statement{
	"UPDATE jobqueue.tasks_live t SET status = 'pending', queue = $7, origin_queue = t.queue, run_at = NULL, "
	"last_error = $2, last_sqlstate = $3, crashes = t.crashes" PLUS
	"$6, failures = " FAILURES("t.", "$2", "$3", "$4", "$5") ", max_attempts = " MORE_ATTEMPTS(
		"t.", "20") ", lease_expires_at = NULL, updated_at = " NOW " WHERE t.id" EQ "$1",
	INT8OID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID,
	TEXTOID};

void dead_letter(int64 id, std::string_view queue, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	dead_letter_statement.run(params.add(queue));
}

} // namespace jobqueue::store
