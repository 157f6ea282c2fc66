/*
 * check_task.cpp -- checks the rows of jobqueue.tasks, in one function. The server compiles check constraints anew for
 * every statement that writes a row; as expressions, these checks would cost more than all the rest of adding a row. C
 * region.
 */
#include "engine/store/bounds.hpp"

namespace jobqueue {

namespace {

/* The arguments, which are columns. */
enum Column {
	type,
	status,
	queue,
	leaf,
	attempts,
	max_attempts,
	timeout,
	claimed_by,
	last_error,
	last_sqlstate,
	unique_key,
	unique_scope,
	group_key,
	metadata,
	failures,
	origin_queue,
	progress_message,
};

class Row {
public:
	/* Reports the violation in the words that the server uses for a check constraint. */
	[[noreturn]] void violates(const char *constraint, const char *detail, const char *hint) const {
		const int16 number = is_null(leaf) ? 0 : DatumGetInt16(datum(leaf));
		const char *const table = number == 0  ? "tasks_live"
								  : number < 0 ? "tasks_failed"
											   : psprintf("tasks_history_%d", number);
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("new row for relation \"%s\" violates check constraint \"%s\"", table, constraint),
				 errdetail("%s", detail), hint ? errhint("%s", hint) : 0,
				 err_generic_string(PG_DIAG_SCHEMA_NAME, "jobqueue"), err_generic_string(PG_DIAG_TABLE_NAME, table),
				 err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint)));
		pg_unreachable();
	}
	explicit Row(FunctionCallInfo fcinfo) noexcept : fcinfo_(fcinfo) {}
	bool is_null(Column column) const noexcept { return fcinfo_->args[column].isnull; }
	Datum datum(Column column) const noexcept { return fcinfo_->args[column].value; }
	/* The value is short, but it may be compressed all the same. */
	std::string_view text_at(Column column) const {
		const text *value = DatumGetTextPP(datum(column));
		return {VARDATA_ANY(value), static_cast<size_t>(VARSIZE_ANY_EXHDR(value))};
	}
	void check_size(Column column, const char *name, size_t least, size_t most) const {
		if (is_null(column))
			return;
		const size_t size = bounds::size_of(datum(column));
		if (size < least || size > most)
			wrong_size(name, size, least, most);
	}

private:
	[[noreturn]] void wrong_size(const char *name, size_t size, size_t least, size_t most) const {
		const char *const constraint =
			psprintf("tasks_%s_%s", name, size == 0 && strcmp(name, "type") == 0 ? "not_empty" : "length");
		violates(constraint, psprintf("%s must have %zu to %zu bytes, but has %zu.", name, least, most, size),
				 size > most ? "Put long data into the payload." : nullptr);
	}
	FunctionCallInfo fcinfo_;
};

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) noexcept {
	return std::find(words.begin(), words.end(), text) != words.end();
}

void check_status(const Row &row) {
	const std::string_view status_now = row.text_at(status);
	if (!is_one_of(status_now, {"pending", "scheduled", "blocked", "processing", "completed", "failed", "cancelled"}))
		row.violates("tasks_status_known",
					 "The status must be pending, scheduled, blocked, processing, completed, failed or cancelled.",
					 nullptr);
	const int16 number = row.is_null(leaf) ? 0 : DatumGetInt16(row.datum(leaf));
	constexpr const char *use_retry = "Use jobqueue.retry() to run a failed or cancelled task again.";
	if (number < 0 && status_now != "failed")
		row.violates("tasks_failed_status", "A failed task stays failed, except by jobqueue.retry().", use_retry);
	if (number > 0 && !is_one_of(status_now, {"completed", "cancelled"}))
		row.violates("tasks_history_status", "A finished task stays finished, except by jobqueue.retry().", use_retry);
	if (!row.is_null(attempts) && is_one_of(status_now, {"pending", "scheduled", "blocked"}) &&
		DatumGetInt32(row.datum(attempts)) > bounds::attempts)
		row.violates("tasks_attempts_range",
					 psprintf("A waiting task can have been tried at most %d times.", bounds::attempts), nullptr);
}

bool is_array_of_json(Datum json) {
	/* Reads only the header. */
	const auto *head = reinterpret_cast<const Jsonb *>(PG_DETOAST_DATUM_SLICE(json, 0, sizeof(uint32)));
	uint32 header;
	memcpy(&header, VARDATA_ANY(head), sizeof(header));
	return (header & JB_FARRAY) != 0 && (header & JB_FSCALAR) == 0;
}

bool is_positive(Datum span) {
	Interval nothing = {};
	return DatumGetInt32(DirectFunctionCall2(interval_cmp, span, IntervalPGetDatum(&nothing))) > 0;
}

void check(const Row &row) {
	row.check_size(type, "type", 1, bounds::type);
	row.check_size(queue, "queue", 1, bounds::queue);
	if (!row.is_null(status))
		check_status(row);
	if (!row.is_null(max_attempts) && DatumGetInt32(row.datum(max_attempts)) <= 0)
		row.violates("tasks_max_attempts_positive", "max_attempts must be at least 1.", nullptr);
	if (!row.is_null(timeout) && !is_positive(row.datum(timeout)))
		row.violates("tasks_timeout_positive", "timeout must be positive.", nullptr);
	if (!row.is_null(unique_scope) && !is_one_of(row.text_at(unique_scope), {"live", "waiting", "started", "period"}))
		row.violates("tasks_unique_scope_known", "unique_scope must be live, waiting, started or period.", nullptr);
	row.check_size(claimed_by, "claimed_by", 0, bounds::claimed_by);
	row.check_size(last_error, "last_error", 0, bounds::error);
	row.check_size(last_sqlstate, "last_sqlstate", 0, bounds::sqlstate);
	row.check_size(unique_key, "unique_key", 0, bounds::key);
	row.check_size(group_key, "group_key", 0, bounds::key);
	row.check_size(metadata, "metadata", 0, bounds::metadata);
	row.check_size(failures, "failures", 0, bounds::failures);
	if (!row.is_null(failures) && !is_array_of_json(row.datum(failures)))
		row.violates("tasks_failures_array", "failures must be an array.", nullptr);
	row.check_size(origin_queue, "origin_queue", 1, bounds::queue);
	row.check_size(progress_message, "progress_message", 0, bounds::progress_message);
}

} // namespace
} // namespace jobqueue

extern "C" {
PGDLLEXPORT Datum jobqueue_check_task(PG_FUNCTION_ARGS);
PG_FUNCTION_INFO_V1(jobqueue_check_task);
Datum jobqueue_check_task(PG_FUNCTION_ARGS) {
	jobqueue::check(jobqueue::Row(fcinfo));
	return BoolGetDatum(true);
}
}
