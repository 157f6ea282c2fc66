/*
 * incarnation.cpp -- see incarnation.hpp. C++ region.
 */
#include "engine/store/incarnation.hpp"

#include "engine/store/phrases.hpp"
#include "pg/compat.hpp"
#include "pg/start_pause.hpp"

namespace jobqueue::store {

static constexpr auto standing_sql = sql(R"(
	SELECT count(*) = 1 AND bool_and(i.database = $1),
		coalesce(bool_or({is_replicated}), false),
		coalesce(bool_or(i.server_started_at = $4), false),
		coalesce(bool_and(i.system_identifier = $2 AND i.server_version = $3), false)
	FROM jobqueue.incarnation i)",
										 phrase::is_replicated);
static constexpr auto new_incarnation_sql = sql(R"(
	INSERT INTO jobqueue.incarnation (database, created_at, system_identifier, server_version, server_started_at,
		adopted_subscriptions)
	VALUES ($1, coalesce($2, clock_timestamp()), $3, $4, $5, ARRAY(SELECT r.srsubid {by_subscription})))",
												phrase::by_subscription);
static constexpr auto adopt_handlers_sql =
	sql(R"(
	UPDATE jobqueue.handlers h
	SET incarnation = i.id, run_as_oid = {run_as_oid}, function_owner = {function_owner},
		backoff_owner = {backoff_owner}
	FROM jobqueue.incarnation i
	WHERE h.incarnation <> i.id
	RETURNING h.type)",
		phrase::oid_of("h.run_as"), phrase::owner_of("h.handler"), phrase::owner_of("h.backoff_function"));
static constexpr auto replicated_sql = sql("SELECT 1 {by_subscription} LIMIT 1", phrase::by_subscription);

static constinit Statement standing_statement{standing_sql, OIDOID, INT8OID, INT4OID, TIMESTAMPTZOID};
/* Recorded for people who look at a copy; nothing is paused because of it. */
static constinit Statement settle_statement{
	"UPDATE jobqueue.incarnation i SET system_identifier = $1, server_version = $2", INT8OID, INT4OID};
static constinit Statement disown_statement{
	"UPDATE jobqueue.incarnation i SET database = 0::oid WHERE NOT i.database = 0::oid"};
/* The new incarnation is as old as the oldest: claims that were made there are this installation's from now on. */
static constinit Statement first_incarnation_statement{"SELECT min(i.created_at) FROM jobqueue.incarnation i"};
static constinit Statement drop_incarnations_statement{"DELETE FROM jobqueue.incarnation"};
static constinit Statement new_incarnation_statement{new_incarnation_sql, OIDOID, TIMESTAMPTZOID, INT8OID, INT4OID,
													 TIMESTAMPTZOID};
/* Moves the sequence past every id in use: copied rows did not draw their ids from it. */
static constinit Statement advance_ids_statement{R"(
	SELECT setval('jobqueue.tasks_id_seq', m.id)
	FROM (
		SELECT greatest(
			(SELECT max(t.id) FROM jobqueue.tasks t),
			(SELECT max(d.id) FROM jobqueue.dependents d),
			(SELECT max(d.parent_id) FROM jobqueue.dependencies d),
			(SELECT max(p.id) FROM jobqueue.parents p),
			(SELECT max(u.task_id) FROM jobqueue.unique_keys u),
			(SELECT max(s.last_task_id) FROM jobqueue.schedules s)) AS id) m,
		jobqueue.tasks_id_seq q
	WHERE m.id >= q.last_value AND m.id > 0)"};
static constinit Statement adopt_handlers_statement{adopt_handlers_sql};
static constinit Statement adopt_access_statement{
	"UPDATE jobqueue.access a SET role_oid = r.oid FROM pg_roles r WHERE r.rolname = a.role"};
static constinit Statement replicated_statement{replicated_sql};

static Params &add_server(Params &params) {
	return params.add(static_cast<int64>(GetSystemIdentifier())).add(static_cast<int32>(compat::major_version()));
}

Standing standing() {
	Params params;
	params.add_datum(ObjectIdGetDatum(MyDatabaseId), false);
	const Rows rows = standing_statement.run(add_server(params).add_time(PgStartTime));
	const bool own = rows.bool_at(0, 1);
	const bool adopted_since_start = rows.bool_at(0, 3);
	Standing standing;
	standing.own = own;
	standing.settled = rows.bool_at(0, 4);
	if (!own)
		standing.reason = "it is a restored or copied database";
	else if (rows.bool_at(0, 2))
		standing.told_by = "a subscription brings its tasks";
	else if (!adopted_since_start)
		standing.told_by = start_paused_by();
	if (standing.told_by != nullptr) {
		standing.own = false;
		standing.reason = standing.told_by;
	}
	return standing;
}

bool is_replicated() {
	Params none;
	return !replicated_statement.run(none).empty();
}

bool is_own_incarnation() {
	return standing().own;
}

void settle() {
	Params params;
	settle_statement.run(add_server(params));
}

void disown() {
	Params none;
	disown_statement.run(none);
}

bool adopt() {
	Params none, database;
	database.add_datum(ObjectIdGetDatum(MyDatabaseId), false);
	const bool own = is_own_incarnation();
	if (!own) {
		const Rows first = first_incarnation_statement.run(none);
		database.add_datum(first.datum(0, 1), first.is_null(0, 1));
		drop_incarnations_statement.run(none);
		new_incarnation_statement.run(add_server(database).add_time(PgStartTime));
		adopt_access_statement.run(none);
	}
	advance_ids_statement.run(none);
	const bool handlers_adopted = !adopt_handlers_statement.run(none).empty();
	return !own || handlers_adopted;
}

/* Moves created_at back, because everything done since the clock was set must be younger than the installation. */
static constinit Statement installation_statement{R"(
	UPDATE jobqueue.incarnation i SET created_at = $1 - '10 minutes'::interval
	WHERE i.created_at > $1
	RETURNING i.id)",
												  TIMESTAMPTZOID};

bool correct_installation(TimestampTz now) {
	Params params;
	return !installation_statement.run(params.add_time(now)).empty();
}

} // namespace jobqueue::store
