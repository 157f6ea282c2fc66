/*
 * sql_commands.cpp -- see sql_commands.hpp. C++ region.
 */
#include "engine/store/sql_commands.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/*
 * Looks like a function's signature, which adopt() asks for; nobody can register it, since there is no such function.
 */
static constexpr char sql_handler[] = "jobqueue._run_sql(jobqueue.tasks)";

bool is_sql_handler(const Handler &handler) noexcept {
	return is_sql_type(handler.type) && handler.function.signature == sql_handler;
}

static constexpr auto sql_type_sql = sql(R"(
	SELECT h.type FROM jobqueue.handlers h
	WHERE h.handler = '{sql_handler}' AND h.run_as = $1 AND h.run_as_oid = $2
	ORDER BY h.type LIMIT 1)",
										 sql_handler);
static constinit Statement sql_type_statement{sql_type_sql, NAMEOID, OIDOID};

std::optional<std::string> sql_type_of(const std::string &role, Oid role_oid) {
	Params params;
	const Rows rows =
		sql_type_statement.run_on_latest(params.add_name(role).add_datum(ObjectIdGetDatum(role_oid), false));
	return rows.empty() ? std::nullopt : std::optional(rows.text_at(0, 1));
}

/* Errors not worth another attempt: of syntax, missing objects, rights, and what is not supported, or not there. */
static constexpr auto put_sql_handler_sql = sql(R"(
	INSERT INTO jobqueue.handlers (type, handler, run_as, run_as_oid, max_attempts, first_delay, discard_sqlstates,
		incarnation)
	SELECT $1, '{sql_handler}', $2, $3, 3, '10 s'::interval, ARRAY['42', '0A', '25001', '2D'], i.id
	FROM jobqueue.incarnation i
	ORDER BY i.created_at LIMIT 1
	ON CONFLICT (type) DO NOTHING
	RETURNING type)",
												sql_handler);
static constinit Statement put_sql_handler_statement{put_sql_handler_sql, TEXTOID, NAMEOID, OIDOID};

bool put_sql_handler(const std::string &type, const std::string &role, Oid role_oid) {
	Params params;
	params.add(std::string_view(type)).add_name(role).add_datum(ObjectIdGetDatum(role_oid), false);
	return !put_sql_handler_statement.run(params).empty();
}

static constexpr auto drop_stale_sql = sql(R"(
	DELETE FROM jobqueue.handlers d
	WHERE d.type = ANY (ARRAY(
		SELECT h.type FROM jobqueue.handlers h
		WHERE h.handler = '{sql_handler}' AND h.run_as = $1 AND h.run_as_oid <> $2
		FOR UPDATE SKIP LOCKED)))",
										   sql_handler);
static constinit Statement drop_stale_statement{drop_stale_sql, NAMEOID, OIDOID};

void drop_stale_sql_handlers(const std::string &role, Oid role_oid) {
	Params params;
	drop_stale_statement.run(params.add_name(role).add_datum(ObjectIdGetDatum(role_oid), false));
}

static constinit Statement unused_type_statement{"SELECT gen_random_uuid()::text"};

std::string unused_sql_type(Oid role_oid) {
	Params none;
	return std::string(sql_type_prefix) + std::to_string(role_oid) + ":" +
		   unused_type_statement.run(none).text_at(0, 1);
}

static constexpr auto sql_task_sql = sql(R"(
	SELECT t.created_by, t.queue, t.payload ->> 'command' FROM jobqueue.tasks_live t
	WHERE t.id = $1 AND t.attempts = $2 AND {processing} AND {in_server})",
										 phrase::status_is("processing"), phrase::in_server);
static constinit Statement sql_task_statement{sql_task_sql, INT8OID, INT4OID};

std::optional<SqlTask> sql_task(int64 id, int32 attempt) {
	Params params;
	const Rows rows = sql_task_statement.run(params.add(id).add(attempt));
	if (rows.empty())
		return std::nullopt;
	return SqlTask{rows.name_at(0, 1), rows.text_at(0, 2),
				   rows.is_null(0, 3) ? std::nullopt : std::optional(rows.text_at(0, 3))};
}

} // namespace jobqueue::store
