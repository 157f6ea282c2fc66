/*
 * outcome.cpp -- see outcome.hpp. C++ region.
 */
#include "engine/store/outcome.hpp"

#include "engine/store/arrays.hpp"
#include "engine/store/held_claims.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/* The condition on the array makes the statement look up these ids, and then compare, not read the whole index. */
static constexpr auto delete_completed = sql(R"(
	DELETE FROM jobqueue.tasks_live t
	USING unnest($1, $2, $3) AS u(id, attempt, result)
	WHERE t.id = ANY ($1) AND t.id = u.id AND t.attempts = u.attempt AND {processing} AND {in_server} = $4)",
											 phrase::status_is("processing"), phrase::in_server);
static constexpr auto complete_sql = sql("{delete_completed} RETURNING t.id", delete_completed);
static constexpr auto complete_into_sql = phrase::for_each_leaf([](const auto &leaf) {
	return sql(R"(
	WITH done AS ({delete_completed} RETURNING t.*, u.result AS given)
	INSERT INTO jobqueue.tasks_history_{leaf} ({kept}, {changed})
	SELECT {kept}, 'completed', clock_timestamp(), run_at, clock_timestamp(), NULL, last_error, last_sqlstate, given,
		crashes, failures, {leaf}
	FROM done
	RETURNING id)",
			   delete_completed, leaf, phrase::kept_columns, phrase::changed_columns, phrase::kept_columns, leaf);
});

static constinit Statement complete_statement{Statement::Join::hash, complete_sql,	INT8ARRAYOID,
											  INT4ARRAYOID,			 JSONBARRAYOID, BOOLOID};
static constinit auto complete_into_statements = phrase::leaf_statements(
	Statement::Join::hash, complete_into_sql, INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID, BOOLOID);

std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int leaf) {
	std::vector<int64> done;
	if (leaf == 0 && !in_server)
		done = complete_by_tid(ids, attempts);
	if (!done.empty() && done.size() == ids.size())
		return done;
	Params params;
	params.add(ids).add(attempts).add_datum(results.value_or(0), !results).add(in_server);
	std::ranges::copy((leaf == 0 ? complete_statement : complete_into_statements[leaf - 1]).run(params).ids(),
					  std::back_inserter(done));
	return done;
}

/*
 * Finds rows by their tids, without a look-up: while this transaction holds the locks, only it could change the tids.
 * With history, each row gets the values that come with its id.
 */
static constexpr auto delete_locked = sql("DELETE FROM jobqueue.tasks_live t WHERE t.ctid = ANY ($1)");
static constexpr auto complete_locked_into_sql = phrase::for_each_leaf([](const auto &leaf) {
	return sql(R"(
	WITH done AS ({delete_locked} RETURNING t.*)
	INSERT INTO jobqueue.tasks_history_{leaf} (id, type, payload, status, created_at, updated_at, processed_at, queue,
		priority, run_at, attempts, max_attempts, finished_at, claimed_by, last_error, last_sqlstate, result, group_key,
		created_by, metadata, crashes, slot)
	SELECT t.id, t.type, t.payload, 'completed', t.created_at, clock_timestamp(), u.processed_at, t.queue,
		t.priority, t.run_at, t.attempts + 1, {max_attempts}, clock_timestamp(), $5, t.last_error, t.last_sqlstate,
		u.result, t.group_key, t.created_by, t.metadata, t.crashes, {leaf}
	FROM done t JOIN unnest($2, $3, $4) AS u(id, processed_at, result) ON u.id = t.id)",
			   delete_locked, leaf, phrase::max_attempts, leaf);
});

static constinit Statement complete_locked_statement{delete_locked, TIDARRAYOID};
static constinit auto complete_locked_into_statements =
	phrase::leaf_statements(Statement::Join::hash, complete_locked_into_sql, TIDARRAYOID, INT8ARRAYOID,
							TIMESTAMPTZARRAYOID, JSONBARRAYOID, TEXTOID);

uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int leaf) {
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
	if (leaf == 0)
		return complete_locked_statement.run(params).processed();
	add_array(INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return Int64GetDatum(task.id); });
	add_array(TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return TimestampTzGetDatum(task.processed_at); });
	add_array(JSONBOID, -1, false, TYPALIGN_INT, [](const Finished &task, bool *isnull) {
		*isnull = !task.result;
		return task.result.value_or(0);
	});
	return complete_locked_into_statements[leaf - 1].run(params.add(claimed_by)).processed();
}

/*
 * The failures of a task after one more, at most the latest 20. Four parameters describe it. "t" is the table's alias
 * with a dot, or empty.
 */
template <typename T, typename Message, typename Sqlstate, typename Keys, typename Values>
static constexpr auto failures(const T &t, const Message &message, const Sqlstate &sqlstate, const Keys &keys,
							   const Values &values) {
	return sql(R"(
		CASE WHEN jsonb_array_length({t}failures) >= 20 THEN {t}failures - 0 ELSE coalesce({t}failures, '[]') END
		|| jsonb_build_array(
			jsonb_strip_nulls(jsonb_build_object(
				'attempt', {t}attempts,
				'started_at', {t}processed_at,
				'seconds', CASE WHEN isfinite({t}processed_at)
					THEN date_part('epoch', clock_timestamp() - {t}processed_at) END,
				'worker', {t}claimed_by,
				'sqlstate', {sqlstate},
				'message', left({message}, 2000))
			|| jsonb_object({keys}, {values}))))",
			   t, t, t, t, t, t, t, t, sqlstate, message, keys, values);
}
template <typename More> static constexpr auto more_attempts(const More &more) {
	return sql("CASE WHEN t.max_attempts < 2147480000 THEN t.max_attempts + {more} ELSE t.max_attempts END", more);
}

static constexpr auto put_back_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, run_at = coalesce($2, t.run_at),
		max_attempts = {one_more}, lease_expires_at = NULL, updated_at = clock_timestamp()
	WHERE t.id = $1)",
										 more_attempts("1"));
static constexpr auto put_back_failed_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, run_at = coalesce($2, t.run_at),
		last_error = $3, last_sqlstate = $4, failures = {failures},
		crashes = t.crashes + $7, lease_expires_at = NULL, updated_at = clock_timestamp()
	WHERE t.id = $1)",
												failures("t.", "$3", "$4", "$5", "$6"));
static constexpr auto put_back_many_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = 'pending', last_error = u.message, last_sqlstate = $3, failures = {failures}, lease_expires_at = NULL,
		updated_at = clock_timestamp()
	FROM unnest($1, $2) AS u(id, message)
	WHERE t.id = ANY ($1) AND t.id = u.id)",
											  failures("t.", "u.message", "$3", "'{}'", "'{}'"));
static constexpr auto give_up_sql =
	sql(R"(
	WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id = $1 RETURNING t.*)
	INSERT INTO jobqueue.tasks_failed ({kept}, {changed})
	SELECT {kept}, 'failed', clock_timestamp(), run_at, clock_timestamp(), NULL, $2, $3, result, crashes + $6,
		{failures}, -1
	FROM gone)",
		phrase::kept_columns, phrase::changed_columns, phrase::kept_columns, failures("", "$2", "$3", "$4", "$5"));
/* The task gets attempts enough for whoever claims it from the other queue. */
static constexpr auto dead_letter_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = 'pending', queue = $7, origin_queue = t.queue, run_at = NULL,
		last_error = $2, last_sqlstate = $3, crashes = t.crashes + $6, failures = {failures},
		max_attempts = {twenty_more}, lease_expires_at = NULL, updated_at = clock_timestamp()
	WHERE t.id = $1)",
											failures("t.", "$2", "$3", "$4", "$5"), more_attempts("20"));

static constinit Statement put_back_statement{put_back_sql, INT8OID, TIMESTAMPTZOID};
static constinit Statement put_back_failed_statement{
	put_back_failed_sql, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement put_back_many_statement{Statement::Join::hash, put_back_many_sql, INT8ARRAYOID, TEXTARRAYOID,
												   TEXTOID};
static constinit Statement give_up_statement{give_up_sql,  INT8OID,		 TEXTOID, TEXTOID,
											 TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement dead_letter_statement{dead_letter_sql, INT8OID,		TEXTOID, TEXTOID,
												 TEXTARRAYOID,	  TEXTARRAYOID, INT4OID, TEXTOID};

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

void put_back(std::span<const FailedClaim> claims, std::string_view sqlstate) {
	std::vector<int64> ids;
	std::vector<std::string> messages;
	for (const FailedClaim &claim : claims) {
		ids.push_back(claim.id);
		messages.push_back(claim.message);
	}
	Params params;
	put_back_many_statement.run(
		params.add(std::span<const int64>(ids)).add(std::span<const std::string>(messages)).add(sqlstate));
}

void give_up(int64 id, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	give_up_statement.run(params);
}

void dead_letter(int64 id, std::string_view queue, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	dead_letter_statement.run(params.add(queue));
}

} // namespace jobqueue::store
