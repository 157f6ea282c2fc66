/*
 * unique_keys.cpp -- see unique_keys.hpp. C++ region.
 *
 * An index decides who gets a key, not an earlier look: tasks_live_unique_key, or the primary key of unique_keys. A
 * refused request locks nothing: otherwise a running task could not be finished before the transaction that asked for
 * its key has ended.
 */
#include "engine/store/unique_keys.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto insert_values = phrase::insert_values("$2", phrase::queue_of_type, phrase::status_or_blocked);

static constexpr auto insert_unique_sql = sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns}, group_key, unique_key, unique_scope)
	VALUES ({values}, $11, $13, $14)
	ON CONFLICT (type, unique_key) WHERE {holds_key} DO NOTHING
	RETURNING id, queue, status)",
											  phrase::insert_columns, insert_values, phrase::holds_key(""));

/* The task gets the id that was written beside the key. */
static constexpr auto add_taken = sql(R"(
	INSERT INTO jobqueue.tasks_live ({columns}, group_key, unique_key, unique_scope, id)
	SELECT {values}, $11, $13, 'period', k.task_id FROM taken k
	RETURNING id, queue, status)",
									  phrase::insert_columns, insert_values);
static constexpr auto take_key_sql = sql(R"(
	WITH taken AS (
		INSERT INTO jobqueue.unique_keys (type, unique_key, task_id, expires_at)
		VALUES ($1, $13, nextval('jobqueue.tasks_id_seq'::regclass), $14)
		ON CONFLICT (type, unique_key) DO NOTHING
		RETURNING task_id)
	{add_taken})",
										 add_taken);
static constexpr auto take_expired_sql = sql(R"(
	WITH taken AS (
		UPDATE jobqueue.unique_keys k SET task_id = nextval('jobqueue.tasks_id_seq'::regclass), expires_at = $14
		WHERE k.type = $1 AND k.unique_key = $13 AND k.expires_at <= clock_timestamp()
		RETURNING k.task_id)
	{add_taken})",
											 add_taken);

static constinit Statement insert_unique_statement =
	phrase::insert_statement(insert_unique_sql, JSONBOID, TEXTOID, BOOLOID, TEXTOID, TEXTOID);
static constinit Statement take_key_statement =
	phrase::insert_statement(take_key_sql, JSONBOID, TEXTOID, BOOLOID, TEXTOID, TIMESTAMPTZOID);
static constinit Statement take_expired_statement =
	phrase::insert_statement(take_expired_sql, JSONBOID, TEXTOID, BOOLOID, TEXTOID, TIMESTAMPTZOID);

static std::optional<Added> run_insert(Statement &statement, const NewTask &task, Datum payload, const UniqueKey &key) {
	Params params;
	describe(params, task, payload);
	params.add(task.group_key).add(task.blocked).add(std::string_view(key.key));
	if (key.until)
		params.add_time(*key.until);
	else
		params.add(std::string_view(key.waiting ? "waiting" : "live"));
	std::vector<Added> added = added_from(statement.run(params));
	return added.empty() ? std::nullopt : std::optional(std::move(added[0]));
}

std::optional<Added> insert_unique(const NewTask &task, Datum payload, const UniqueKey &key) {
	if (!key.until)
		return run_insert(insert_unique_statement, task, payload, key);
	if (std::optional<Added> added = run_insert(take_key_statement, task, payload, key))
		return added;
	return run_insert(take_expired_statement, task, payload, key);
}

/* A dead letter waits for people, who must find it as it failed: it cannot be replaced. */
static constexpr auto waits = sql(R"(
		t.status COLLATE "C" = ANY (ARRAY['pending', 'scheduled', 'blocked']) AND t.origin_queue IS NULL
		AND coalesce(t.unique_scope, 'live') <> 'started')");

static constexpr auto holder_sql = sql(R"(
	SELECT t.id, t.queue, t.created_by, {waits}
	FROM jobqueue.tasks_live t
	WHERE t.type = $1 AND t.unique_key = $2 AND {holds_key})",
									   waits, phrase::holds_key("t."));
static constexpr auto period_holder_sql = sql(R"(
	SELECT k.task_id, t.queue, t.created_by, {waits}
	FROM jobqueue.unique_keys k LEFT JOIN jobqueue.tasks t ON t.id = k.task_id
	WHERE k.type = $1 AND k.unique_key = $2 AND k.expires_at > clock_timestamp())",
											  waits);
static constinit Statement holder_statement{holder_sql, TEXTOID, TEXTOID};
static constinit Statement period_holder_statement{period_holder_sql, TEXTOID, TEXTOID};

std::optional<Holder> find_holder(std::string_view type, const UniqueKey &key) {
	Params params;
	const Rows rows =
		(key.until ? period_holder_statement : holder_statement).run(params.add(type).add(std::string_view(key.key)));
	if (rows.empty())
		return std::nullopt;
	return Holder{rows.int64_at(0, 1), !rows.is_null(0, 2), rows.bool_at(0, 4), rows.text_at(0, 2), rows.name_at(0, 3)};
}

static constexpr auto wait_and_lock_sql = sql(R"(
	SELECT t.id, t.queue, t.created_by, t.priority, t.status COLLATE "C" = 'pending', t.group_key
	FROM jobqueue.tasks_live t
	WHERE t.id = $1 AND {waits}
	FOR UPDATE)",
											  waits);
static constexpr auto lock_sql = sql("{wait_and_lock} SKIP LOCKED", wait_and_lock_sql);
static constinit Statement lock_statement{lock_sql, INT8OID};
static constinit Statement wait_and_lock_statement{wait_and_lock_sql, INT8OID};

std::optional<Replaceable> lock_replaceable(int64 id, bool wait) {
	Params params;
	const Rows rows = (wait ? wait_and_lock_statement : lock_statement).run(params.add(id));
	if (rows.empty())
		return std::nullopt;
	return Replaceable{rows.int64_at(0, 1), rows.text_at(0, 2),
					   rows.name_at(0, 3),	rows.int16_at(0, 4),
					   rows.bool_at(0, 5),	rows.is_null(0, 6) ? std::nullopt : std::optional(rows.text_at(0, 6))};
}

/* A task that has been tried already gets $5 attempts more. */
static constexpr auto replace_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET payload = $2, priority = $3, run_at = $4,
		status = CASE WHEN {blocked} THEN 'blocked' WHEN $4 > clock_timestamp() THEN 'scheduled' ELSE 'pending' END,
		max_attempts = CASE WHEN $5 IS NULL THEN t.max_attempts
			ELSE least(t.attempts::int8 + $5, 2147480000)::int4 END,
		timeout = coalesce($6, t.timeout), metadata = coalesce($7, t.metadata), updated_at = clock_timestamp()
	WHERE t.id = $1
	RETURNING t.id, t.queue, t.status)",
										phrase::status_is("blocked"));
static constinit Statement replace_statement{replace_sql,	 INT8OID, JSONBOID,	   INT2OID,
											 TIMESTAMPTZOID, INT4OID, INTERVALOID, JSONBOID};

Added replace(int64 id, const NewTask &task, Datum payload) {
	Params params;
	params.add(id).add_datum(payload, false).add(task.priority).add_time(task.run_at);
	params.add(task.max_attempts).add_datum(task.timeout.value_or(0), !task.timeout);
	params.add_datum(task.metadata.value_or(0), !task.metadata);
	const Rows rows = replace_statement.run(params);
	const std::string status = rows.text_at(0, 3);
	return {rows.int64_at(0, 1), rows.text_at(0, 2), status == "scheduled", status == "blocked"};
}

/* There is no index by task: the named tasks are looked for among the oldest keys, where they were found. */
template <typename Which> static constexpr auto expired_keys_where(const Which &which) {
	return sql(R"(
		FROM jobqueue.unique_keys e
		WHERE e.expires_at <= $1 AND {which}
		ORDER BY e.expires_at LIMIT $2)",
			   which);
}
template <typename Which> static constexpr auto remove_keys_where(const Which &which) {
	return sql(R"(
	DELETE FROM jobqueue.unique_keys k
	USING (
		SELECT e.type, e.unique_key {expired_keys}
		FOR UPDATE SKIP LOCKED) o
	WHERE k.type = o.type AND k.unique_key = o.unique_key
	RETURNING k.task_id)",
			   expired_keys_where(which));
}
static constexpr auto remove_expired_sql = remove_keys_where("NOT e.task_id = ANY ($3)");
static constexpr auto remove_these_sql = remove_keys_where("e.task_id = ANY ($3)");
static constexpr auto expired_keys_sql =
	sql("SELECT e.task_id {expired_keys}", expired_keys_where("NOT e.task_id = ANY ($3)"));
static constinit Statement remove_expired_statement{remove_expired_sql, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement remove_these_statement{remove_these_sql, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement expired_keys_statement{expired_keys_sql, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};

int64 remove_expired_keys(const Batch &batch) {
	Params params;
	params.add_time(GetCurrentTimestamp()).add(batch.count);
	const bool any = batch.only.empty();
	return static_cast<int64>((any ? remove_expired_statement : remove_these_statement)
								  .run(params.add(any ? batch.except : batch.only))
								  .size());
}

std::vector<int64> expired_keys(const Batch &batch) {
	Params params;
	return expired_keys_statement.run(params.add_time(GetCurrentTimestamp()).add(batch.count).add(batch.except)).ids();
}

} // namespace jobqueue::store
