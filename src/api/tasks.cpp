/*
 * tasks.cpp -- what people do to tasks: jobqueue.cancel, retry, cancel_tasks, retry_failed, delete_tasks, purge_queue.
 * C++ region.
 */
#include "api/arguments.hpp"
#include "engine/access.hpp"
#include "engine/outcome.hpp"
#include "engine/store/administration.hpp"
#include "shared/transaction_notes.hpp"

JOBQUEUE_FUNCTION(jobqueue_cancel) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	const std::optional<std::string> reason = arguments.optional_remark(1, bounds::reason);
	const Queues allowed = managers_queues(fcinfo);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(require_tasks(allowed, {&id, 1}) && end_cancelled(id, reason));
}

namespace jobqueue {

static void note_retried(const store::Claim &task, const std::optional<TimestampTz> &run_at) {
	guard([&task, &run_at] {
		if (run_at)
			note_due(*run_at);
		if (run_at && !task.group.empty()) /* the task may keep its place, which others have passed */
			note_returned(task.queue, task.priority, task.id, task.group);
		if (!run_at)
			note_task(task.queue, task.priority, task.id, task.type, task.group);
	});
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_retry) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	arguments.require(1, "run_at");
	std::optional<TimestampTz> run_at = arguments.optional_time(1, "run_at");
	if (*run_at <= GetCurrentTimestamp())
		run_at = std::nullopt;
	const Queues allowed = managers_queues(fcinfo);
	const Session session(function_owner(fcinfo));
	const std::optional<store::Claim> task = require_tasks(allowed, {&id, 1}) ? store::retry(id, run_at) : std::nullopt;
	if (task)
		note_retried(*task, run_at);
	return BoolGetDatum(task.has_value());
}

namespace jobqueue {

/* Reads the arguments of cancel_tasks and the like. "has_status": the third argument is a status. */
static store::Selection read_selection(const Arguments &arguments, bool has_status) {
	constexpr int most_tasks = 1000000;
	const int after = has_status ? 3 : 2;
	store::Selection selection;
	selection.queue = arguments.optional_queue(0);
	selection.type = arguments.optional_text(1);
	if (has_status)
		selection.status = arguments.optional_text(2);
	if (!arguments.is_null(after))
		selection.since = DatumGetTimestampTz(arguments.datum(after));
	if (!arguments.is_null(after + 1))
		selection.until = DatumGetTimestampTz(arguments.datum(after + 1));
	selection.count = arguments.int32_at(after + 2, "max_tasks");
	if (selection.count < 1 || selection.count > most_tasks)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_tasks must be between 1 and " + std::to_string(most_tasks));
	if (!selection.queue && !selection.type && !selection.status && !selection.since && !selection.until)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "at least one condition is required",
					"Pass a queue, a type, a status or a time.");
	return selection;
}

static void check_status(const store::Selection &selection, std::initializer_list<const char *> allowed,
						 const char *verb) {
	if (!selection.status)
		return;
	std::string list;
	for (const char *status : allowed) {
		if (*selection.status == status)
			return;
		list += (list.empty() ? "" : ", ") + std::string(status);
	}
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "tasks of status \"" + *selection.status + "\" cannot be " + verb,
				"Valid values of status: " + list + ".");
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_cancel_tasks) {
	using namespace jobqueue;
	const store::Selection selection = read_selection(Arguments(fcinfo), true);
	check_status(selection, {"pending", "scheduled", "blocked", "processing"}, "cancelled");
	require(managers_queues(fcinfo), selection.queue);
	const Session session(function_owner(fcinfo));
	int64 cancelled = 0;
	for (const int64 id : store::select_live(selection))
		cancelled += end_cancelled(id, std::nullopt);
	return Int64GetDatum(cancelled);
}

JOBQUEUE_FUNCTION(jobqueue_retry_failed) {
	using namespace jobqueue;
	const store::Selection selection = read_selection(Arguments(fcinfo), false);
	require(managers_queues(fcinfo), selection.queue);
	store::Retried retried;
	{
		const Session session(function_owner(fcinfo));
		retried = store::retry_failed(selection);
	}
	for (const store::Claim &task : retried.tasks)
		note_retried(task, std::nullopt);
	if (retried.passed > 0) {
		const int64 passed = retried.passed;
		guard([passed] {
			ereport(NOTICE,
					(errmsg("skipped " INT64_FORMAT " tasks whose unique key is taken by another task", passed)));
		});
	}
	return Int64GetDatum(static_cast<int64>(retried.tasks.size()));
}

JOBQUEUE_FUNCTION(jobqueue_delete_tasks) {
	using namespace jobqueue;
	const store::Selection selection = read_selection(Arguments(fcinfo), true);
	check_status(selection, {"pending", "scheduled", "blocked", "completed", "failed", "cancelled"}, "deleted");
	require(managers_queues(fcinfo), selection.queue);
	const Session session(function_owner(fcinfo));
	const std::vector<store::Removed> removed = store::delete_tasks(selection);
	end_removed(removed);
	return Int64GetDatum(static_cast<int64>(removed.size()));
}

JOBQUEUE_FUNCTION(jobqueue_purge_queue) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "queue");
	const std::string queue = *arguments.optional_queue(0);
	require(managers_queues(fcinfo), queue);
	const Session session(function_owner(fcinfo));
	const std::vector<store::Removed> removed = store::purge(queue);
	end_removed(removed);
	return Int64GetDatum(static_cast<int64>(removed.size()));
}
