/*
 * unique_keys.cpp -- see unique_keys.hpp. C++ region.
 *
 * An index decides who gets a key, never a look before: tasks_live_unique_key, or the primary key of unique_keys. What is
 * only refused locks nothing: a task that runs could not be finished before the transaction of whoever asked for its key
 * has ended.
 */
#include "engine/store/unique_keys.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define UNIQUE_TYPES INSERT_TYPES(JSONBOID), TEXTOID, BOOLOID, TEXTOID

static constinit Statement insert_unique_statement{
	INSERT_COLUMNS ", group_key, unique_key, unique_scope) VALUES (" INSERT_VALUES(
		"$2", QUEUE_OF_TYPE,
		IF_BLOCKED) ", $11, $13, $14) ON CONFLICT (type, unique_key) WHERE " HOLDS_KEY("") " DO NOTHING" INSERT_RETURNING,
	UNIQUE_TYPES, TEXTOID};

/* The task gets the number that was written beside the key. */
#define NEXT_ID "pg_catalog.nextval('jobqueue.tasks_id_seq'::pg_catalog.regclass)"
#define ADD_TAKEN                                                                                                      \
	") " INSERT_COLUMNS ", group_key, unique_key, unique_scope, id) SELECT " INSERT_VALUES(                            \
		"$2", QUEUE_OF_TYPE, IF_BLOCKED) ", $11, $13, 'period', k.task_id FROM taken k" INSERT_RETURNING
static constinit Statement take_key_statement{
	"WITH taken AS (INSERT INTO jobqueue.unique_keys (type, unique_key, task_id, expires_at) VALUES ($1, $13, " NEXT_ID
	", $14) ON CONFLICT (type, unique_key) DO NOTHING RETURNING task_id" ADD_TAKEN,
	UNIQUE_TYPES, TIMESTAMPTZOID};
static constinit Statement take_expired_statement{"WITH taken AS (UPDATE jobqueue.unique_keys k SET task_id = " NEXT_ID
												  ", expires_at = $14 WHERE k.type" EQ "$1 AND k.unique_key" EQ
												  "$13 AND k.expires_at" LE NOW " RETURNING k.task_id" ADD_TAKEN,
												  UNIQUE_TYPES, TIMESTAMPTZOID};

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

/* A dead letter waits for people: they shall find it as it failed. */
#define WAITS                                                                                                          \
	"t.status" CCOLL EQ "ANY (ARRAY['pending', 'scheduled', 'blocked']) AND t.origin_queue IS NULL AND "               \
	"coalesce(t.unique_scope, 'live') OPERATOR(pg_catalog.<>) 'started'"

static constinit Statement holder_statement{"SELECT t.id, t.queue, t.created_by, " WAITS
											" FROM jobqueue.tasks_live t WHERE t.type" EQ "$1 AND t.unique_key" EQ
											"$2 AND " HOLDS_KEY("t."),
											TEXTOID, TEXTOID};
static constinit Statement period_holder_statement{"SELECT k.task_id, t.queue, t.created_by, " WAITS
												   " FROM jobqueue.unique_keys k LEFT JOIN jobqueue.tasks t ON t.id" EQ
												   "k.task_id WHERE k.type" EQ "$1 AND k.unique_key" EQ
												   "$2 AND k.expires_at" GT NOW,
												   TEXTOID, TEXTOID};

std::optional<Holder> find_holder(std::string_view type, const UniqueKey &key) {
	Params params;
	const Rows rows =
		(key.until ? period_holder_statement : holder_statement).run(params.add(type).add(std::string_view(key.key)));
	if (rows.empty())
		return std::nullopt;
	return Holder{rows.int64_at(0, 1), !rows.is_null(0, 2), rows.bool_at(0, 4), rows.text_at(0, 2), rows.name_at(0, 3)};
}

#define LOCK_REPLACEABLE                                                                                               \
	"SELECT t.id, t.queue, t.created_by, t.priority, t.status" CCOLL EQ                                                \
	"'pending', t.group_key FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 AND " WAITS " FOR UPDATE"
static constinit Statement lock_statement{LOCK_REPLACEABLE " SKIP LOCKED", INT8OID};
static constinit Statement wait_and_lock_statement{LOCK_REPLACEABLE, INT8OID};

std::optional<Replaceable> lock_replaceable(int64 id, bool wait) {
	Params params;
	const Rows rows = (wait ? wait_and_lock_statement : lock_statement).run(params.add(id));
	if (rows.empty())
		return std::nullopt;
	return Replaceable{rows.int64_at(0, 1), rows.text_at(0, 2),
					   rows.name_at(0, 3),	rows.int16_at(0, 4),
					   rows.bool_at(0, 5),	rows.is_null(0, 6) ? std::nullopt : std::optional(rows.text_at(0, 6))};
}

/* One that has been tried already gets so many attempts more. */
static constinit Statement replace_statement{
	"UPDATE jobqueue.tasks_live t SET payload = $2, priority = $3, run_at = $4, status = CASE WHEN " STATUS_IS(
		"blocked") " THEN 'blocked' WHEN $4" GT NOW
				   " THEN 'scheduled' ELSE 'pending' END, max_attempts = CASE WHEN $5 IS NULL THEN t.max_attempts "
				   "ELSE least(t.attempts::pg_catalog.int8" PLUS "$5, 2147480000)::pg_catalog.int4 END, "
				   "timeout = coalesce($6, t.timeout), metadata = coalesce($7, t.metadata), updated_at = " NOW
				   " WHERE t.id" EQ "$1 RETURNING t.id, t.queue, t.status",
	INT8OID,
	JSONBOID,
	INT2OID,
	TIMESTAMPTZOID,
	INT4OID,
	INTERVALOID,
	JSONBOID};

Added replace(int64 id, const NewTask &task, Datum payload) {
	Params params;
	params.add(id).add_datum(payload, false).add(task.priority).add_time(task.run_at);
	params.add(task.max_attempts).add_datum(task.timeout.value_or(0), !task.timeout);
	params.add_datum(task.metadata.value_or(0), !task.metadata);
	const Rows rows = replace_statement.run(params);
	const std::string status = rows.text_at(0, 3);
	return {rows.int64_at(0, 1), rows.text_at(0, 2), status == "scheduled", status == "blocked"};
}

/* No index has the tasks: those that are named are looked for among the oldest, where they were. */
#define EXPIRED_KEYS(which)                                                                                            \
	" FROM jobqueue.unique_keys e WHERE e.expires_at" LE "$1 AND " which " ORDER BY e.expires_at LIMIT $2"
#define BUT_SOME "NOT e.task_id" EQ "ANY ($3)"
#define REMOVE_KEYS(which)                                                                                             \
	"DELETE FROM jobqueue.unique_keys k USING (SELECT e.type, e.unique_key" EXPIRED_KEYS(                              \
		which) " FOR UPDATE SKIP LOCKED) o WHERE k.type" EQ "o.type AND k.unique_key" EQ                               \
			   "o.unique_key RETURNING k.task_id"
static constinit Statement remove_expired_statement{REMOVE_KEYS(BUT_SOME), TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement remove_these_statement{REMOVE_KEYS("e.task_id" EQ "ANY ($3)"), TIMESTAMPTZOID, INT4OID,
												  INT8ARRAYOID};
static constinit Statement expired_keys_statement{"SELECT e.task_id" EXPIRED_KEYS(BUT_SOME), TIMESTAMPTZOID, INT4OID,
												  INT8ARRAYOID};

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
