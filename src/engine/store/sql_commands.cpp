/*
 * sql_commands.cpp -- see sql_commands.hpp. C++ region.
 */
#include "engine/store/sql_commands.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/* Looks like a function's signature, which adopt() asks for; nobody can register it, since there is none. */
#define SQL_HANDLER "jobqueue._run_sql(jobqueue.tasks)"

bool is_sql_handler(const Handler &handler) noexcept {
	return is_sql_type(handler.type) && handler.function.signature == SQL_HANDLER;
}

static constinit Statement sql_type_statement{"SELECT h.type FROM jobqueue.handlers h WHERE h.handler" EQ
											  "'" SQL_HANDLER "' AND h.run_as" EQ "$1 AND h.run_as_oid" EQ
											  "$2 ORDER BY h.type LIMIT 1",
											  NAMEOID, OIDOID};

std::optional<std::string> sql_type_of(const std::string &role, Oid role_oid) {
	Params params;
	const Rows rows =
		sql_type_statement.run_on_latest(params.add_name(role).add_datum(ObjectIdGetDatum(role_oid), false));
	return rows.empty() ? std::nullopt : std::optional(rows.text_at(0, 1));
}

/* Errors of the command itself come again: syntax, missing objects, rights, what is not supported, or not here. */
static constinit Statement put_sql_handler_statement{
	"INSERT INTO jobqueue.handlers (type, handler, run_as, run_as_oid, max_attempts, first_delay, discard_sqlstates, "
	"incarnation) SELECT $1, '" SQL_HANDLER "', $2, $3, 3, '10 s'::pg_catalog.interval, "
	"ARRAY['42', '0A', '25001', '2D'], i.id FROM jobqueue.incarnation i ORDER BY i.created_at LIMIT 1 "
	"ON CONFLICT (type) DO NOTHING RETURNING type",
	TEXTOID, NAMEOID, OIDOID};

bool put_sql_handler(const std::string &type, const std::string &role, Oid role_oid) {
	Params params;
	params.add(std::string_view(type)).add_name(role).add_datum(ObjectIdGetDatum(role_oid), false);
	return !put_sql_handler_statement.run(params).empty();
}

static constinit Statement drop_stale_statement{
	"DELETE FROM jobqueue.handlers d WHERE d.type" EQ "ANY (ARRAY(SELECT h.type FROM jobqueue.handlers h "
	"WHERE h.handler" EQ "'" SQL_HANDLER "' AND h.run_as" EQ "$1 AND h.run_as_oid OPERATOR(pg_catalog.<>) $2 "
	"FOR UPDATE SKIP LOCKED))",
	NAMEOID, OIDOID};

void drop_stale_sql_handlers(const std::string &role, Oid role_oid) {
	Params params;
	drop_stale_statement.run(params.add_name(role).add_datum(ObjectIdGetDatum(role_oid), false));
}

static constinit Statement unused_type_statement{"SELECT pg_catalog.gen_random_uuid()::pg_catalog.text"};

std::string unused_sql_type(Oid role_oid) {
	Params none;
	return std::string(sql_type_prefix) + std::to_string(role_oid) + ":" +
		   unused_type_statement.run(none).text_at(0, 1);
}

static constinit Statement sql_task_statement{
	"SELECT t.created_by, t.queue, t.payload OPERATOR(pg_catalog.->>) 'command' FROM jobqueue.tasks_live t WHERE t.id" EQ
	"$1 AND t.attempts" EQ "$2 AND " STATUS_IS("processing") " AND " IN_SERVER,
	INT8OID, INT4OID};

std::optional<SqlTask> sql_task(int64 id, int32 attempt) {
	Params params;
	const Rows rows = sql_task_statement.run(params.add(id).add(attempt));
	if (rows.empty())
		return std::nullopt;
	return SqlTask{rows.name_at(0, 1), rows.text_at(0, 2),
				   rows.is_null(0, 3) ? std::nullopt : std::optional(rows.text_at(0, 3))};
}

} // namespace jobqueue::store
