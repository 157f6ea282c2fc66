/*
 * check.cpp -- the CHECK of the tasks table, called by the server for every row that is inserted or updated, whoever does
 * it. One function instead of a constraint for each column: the server reads and compiles the text of every constraint
 * anew in each statement, which took a sixth of the time of an INSERT. C region; raises 23514 and names the column.
 */
#include "api/arguments.hpp"

#include "shared/state.hpp"

extern "C" {
#include "access/detoast.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

namespace jobqueue {

static constexpr const char *statuses[] = {"pending", "processing", "completed", "scheduled",
										   "failed",  "cancelled",	"blocked"};
static constexpr const char *unique_scopes[] = {"live", "waiting", "started", "period"};

[[noreturn]] static void refuse(const char *column, const char *what) {
	ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION), errmsg("%s of a task must %s", column, what),
					err_generic_string(PG_DIAG_SCHEMA_NAME, "jobqueue"),
					err_generic_string(PG_DIAG_TABLE_NAME, "tasks"), err_generic_string(PG_DIAG_COLUMN_NAME, column),
					err_generic_string(PG_DIAG_CONSTRAINT_NAME, "tasks_valid")));
	pg_unreachable();
}

static bool is_one_of(Datum given, std::span<const char *const> known) {
	const text *value = DatumGetTextPP(given);
	const std::string_view name(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	return std::find(known.begin(), known.end(), name) != known.end();
}

/* In bytes; does not fetch what is stored elsewhere. */
static Size length_of(Datum given) {
	return toast_raw_datum_size(given) - VARHDRSZ;
}

static void check_queue(const char *column, Datum queue) {
	const Size length = length_of(queue);
	if (length < 1 || length >= queue_name_size)
		refuse(column, "be 1 to 63 bytes long");
}

/* The arguments are those of jobqueue._check_task: type, status and queue are not null. */
static void check_task(FunctionCallInfo fcinfo) {
	if (length_of(PG_GETARG_DATUM(0)) == 0)
		refuse("type", "not be empty");
	if (!is_one_of(PG_GETARG_DATUM(1), statuses))
		refuse("status", "be pending, scheduled, blocked, processing, completed, failed or cancelled");
	check_queue("queue", PG_GETARG_DATUM(2));
	if (!PG_ARGISNULL(3) && PG_GETARG_INT32(3) <= 0)
		refuse("max_attempts", "be more than 0");
	if (!PG_ARGISNULL(4)) {
		Interval nothing = {};
		if (DatumGetInt32(DirectFunctionCall2(interval_cmp, PG_GETARG_DATUM(4), IntervalPGetDatum(&nothing))) <= 0)
			refuse("timeout", "be more than 0");
	}
	if (!PG_ARGISNULL(5)) {
		Jsonb *failures = PG_GETARG_JSONB_P(5);
		if (!JB_ROOT_IS_ARRAY(failures) || JB_ROOT_IS_SCALAR(failures))
			refuse("failures", "be a JSON array");
	}
	if (!PG_ARGISNULL(6))
		check_queue("origin_queue", PG_GETARG_DATUM(6));
	if (!PG_ARGISNULL(7) && !is_one_of(PG_GETARG_DATUM(7), unique_scopes))
		refuse("unique_scope", "be live, waiting, started or period");
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_check_task) {
	jobqueue::guard([fcinfo] { jobqueue::check_task(fcinfo); });
	return BoolGetDatum(true);
}
