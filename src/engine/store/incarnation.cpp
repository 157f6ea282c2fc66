/*
 * incarnation.cpp -- see incarnation.hpp. C++ region.
 */
#include "engine/store/incarnation.hpp"

#include "engine/store/phrases.hpp"
#include "pg/compat.hpp"
#include "pg/start_pause.hpp"

namespace jobqueue::store {

static constinit Statement standing_statement{
	"SELECT pg_catalog.count(*)" EQ "1 AND pg_catalog.bool_and(i.database" EQ "$1), "
	"coalesce(pg_catalog.bool_or(" IS_REPLICATED "), false), "
	"coalesce(pg_catalog.bool_or(i.server_started_at" EQ "$4), false), "
	"coalesce(pg_catalog.bool_and(i.system_identifier" EQ "$2 AND i.server_version" EQ "$3), false) "
	"FROM jobqueue.incarnation i",
	OIDOID, INT8OID, INT4OID, TIMESTAMPTZOID};
/* Recorded for whoever looks at a copy; nothing is paused because of it. */
static constinit Statement settle_statement{
	"UPDATE jobqueue.incarnation i SET system_identifier = $1, server_version = $2", INT8OID, INT4OID};
static constinit Statement disown_statement{
	"UPDATE jobqueue.incarnation i SET database = 0::pg_catalog.oid WHERE NOT i.database" EQ "0::pg_catalog.oid"};
/* As old as the oldest: the claims that were made there are ours from now on. */
static constinit Statement first_incarnation_statement{
	"SELECT pg_catalog.min(i.created_at) FROM jobqueue.incarnation i"};
static constinit Statement drop_incarnations_statement{"DELETE FROM jobqueue.incarnation"};
static constinit Statement new_incarnation_statement{
	"INSERT INTO jobqueue.incarnation (database, created_at, system_identifier, server_version, server_started_at, "
	"adopted_subscriptions) VALUES ($1, coalesce($2, " NOW "), $3, $4, $5, "
	"ARRAY(SELECT r.srsubid " BY_SUBSCRIPTION "))",
	OIDOID,
	TIMESTAMPTZOID,
	INT8OID,
	INT4OID,
	TIMESTAMPTZOID};
/* Past every id that is there: rows that were copied have not drawn theirs from this sequence. */
static constinit Statement advance_ids_statement{
	"SELECT pg_catalog.setval('jobqueue.tasks_id_seq', m.id) FROM (SELECT greatest("
	"(SELECT pg_catalog.max(t.id) FROM jobqueue.tasks t), (SELECT pg_catalog.max(d.id) FROM jobqueue.dependents d), "
	"(SELECT pg_catalog.max(d.parent_id) FROM jobqueue.dependencies d), (SELECT pg_catalog.max(p.id) FROM jobqueue.parents p), "
	"(SELECT pg_catalog.max(u.task_id) FROM jobqueue.unique_keys u), "
	"(SELECT pg_catalog.max(s.last_task_id) FROM jobqueue.schedules s)) AS id) m, jobqueue.tasks_id_seq q "
	"WHERE m.id" GE "q.last_value AND m.id" GT "0"};
static constinit Statement adopt_handlers_statement{
	"UPDATE jobqueue.handlers h SET incarnation = i.id, run_as_oid = " OID_OF("h.run_as") ", function_owner = " OWNER_OF(
		"h.handler") ", backoff_owner = " OWNER_OF("h.backoff_function") " FROM jobqueue.incarnation i "
																		 "WHERE h.incarnation OPERATOR(pg_catalog.<>) i.id RETURNING h.type"};

static constinit Statement adopt_access_statement{
	"UPDATE jobqueue.access a SET role_oid = r.oid FROM pg_catalog.pg_roles r WHERE r.rolname" EQ "a.role"};

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

static constinit Statement replicated_statement{"SELECT 1 " BY_SUBSCRIPTION " LIMIT 1"};

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

/* Older by as much as has been done since the clock was set, which must be younger. */
static constinit Statement installation_statement{"UPDATE jobqueue.incarnation i SET created_at = $1" MINUS
												  "'10 minutes'::pg_catalog.interval WHERE i.created_at" GT
												  "$1 RETURNING i.id",
												  TIMESTAMPTZOID};

bool correct_installation(TimestampTz now) {
	Params params;
	return !installation_statement.run(params.add_time(now)).empty();
}

} // namespace jobqueue::store
