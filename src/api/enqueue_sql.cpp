/*
 * enqueue_sql.cpp -- jobqueue.enqueue_sql: an SQL command as a task, to be run as the caller. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/quotas.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/quotas.hpp"
#include "pg/settings.hpp"

JOBQUEUE_FUNCTION(jobqueue_enqueue_sql) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	NewSqlTask task = {GetUserId(), arguments.text_at(0, "command", bounds::command)};
	task.queue = arguments.optional_queue(1).value_or(task.queue);
	if (const std::optional<int64> timeout = arguments.optional_duration(2, "timeout")) {
		if (*timeout == 0)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "timeout must be positive");
		task.timeout = arguments.datum(2);
	}
	task.run_at = arguments.optional_time(3, "run_at");
	check_sql_command(task.command);

	const Oid owner = function_owner(fcinfo);
	const Oid role = task.role;
	if (!settings::allow_superuser_handlers && guard([role] { return superuser_arg(role); }))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"role \"" + caller_name() + "\" is a superuser, and may not run tasks",
					"Use SET ROLE to become another role, or turn on jobqueue.allow_superuser_handlers.");
	require(callers_queues(fcinfo, {Access::sql}), task.queue);
	if (const std::optional<store::Quota> quota = callers_quota(owner)) {
		const Datum payload = sql_payload(task.command);
		check_quota(*quota, owner, {&payload, 1}, std::nullopt);
	}
	const Session session(owner);
	return Int64GetDatum(add_sql_task(task).id);
}
