/*
 * schedules.cpp -- see schedules.hpp. C++ region.
 */
#include "engine/store/schedules.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static std::vector<TimestampTz> times_of(Datum array) {
	struct List {
		Datum *values;
		bool *nulls;
		int count;
	};
	const List list = guard([array]() -> List {
		List result;
		deconstruct_array(DatumGetArrayTypeP(array), TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &result.values, &result.nulls, &result.count);
		return result;
	});
	std::vector<TimestampTz> times;
	for (int i = 0; i < list.count; i++)
		if (!list.nulls[i])
			times.push_back(DatumGetTimestampTz(list.values[i]));
	return times;
}

std::vector<Schedule> schedules_from(const Rows &rows) {
	std::vector<Schedule> schedules;
	schedules.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		const auto text = [&rows, i](int column) {
			return rows.is_null(i, column) ? std::nullopt : std::optional(rows.text_at(i, column));
		};
		const auto time = [&rows, i](int column) {
			return rows.is_null(i, column) ? std::nullopt : std::optional(DatumGetTimestampTz(rows.datum(i, column)));
		};
		Schedule schedule;
		schedule.name = rows.text_at(i, 1);
		schedule.cron = rows.text_at(i, 2);
		schedule.type = rows.text_at(i, 3);
		schedule.role_then = DatumGetObjectId(rows.datum(i, 4));
		schedule.has_command = rows.bool_at(i, 5);
		schedule.time_zone = rows.text_at(i, 6);
		schedule.queue = text(7);
		schedule.priority = rows.int16_at(i, 8);
		if (!rows.is_null(i, 9))
			schedule.timeout = rows.datum(i, 9);
		schedule.on_misfire = rows.text_at(i, 10);
		schedule.misfire_limit = rows.int32_at(i, 11);
		schedule.on_overlap = rows.text_at(i, 12);
		schedule.created_by = rows.name_at(i, 13);
		schedule.role = DatumGetObjectId(rows.datum(i, 14));
		schedule.bound_by_access = rows.bool_at(i, 15);
		schedule.anchor = DatumGetTimestampTz(rows.datum(i, 16));
		schedule.next_run_at = time(17);
		schedule.last_run_at = time(18);
		if (!rows.is_null(i, 19))
			schedule.last_task_id = rows.int64_at(i, 19);
		schedule.held = times_of(rows.datum(i, 20));
		schedule.paused = rows.bool_at(i, 21);
		schedule.busy = rows.bool_at(i, 22);
		schedule.failing = rows.bool_at(i, 23);
		schedules.push_back(std::move(schedule));
	}
	return schedules;
}

static constexpr auto schedule_sql =
	sql("{select_schedules} WHERE s.name = $1 FOR UPDATE OF s", phrase::select_schedules);
static constexpr auto default_queue_sql = sql(R"(
	SELECT coalesce((SELECT h.queue FROM jobqueue.handlers h WHERE h.type = $1 AND {has_say}), 'default'))",
											  phrase::has_say_in("ANY ($2)"));

/* A statement with the types of params_of(). */
static constexpr Statement schedule_statement_of(const char *text) {
	return Statement{text,	  TEXTOID, TEXTOID, TEXTOID,	 JSONBOID,		 TEXTOID,
					 TEXTOID, TEXTOID, INT2OID, INTERVALOID, TEXTOID,		 INT4OID,
					 TEXTOID, NAMEOID, OIDOID,	BOOLOID,	 TIMESTAMPTZOID, TIMESTAMPTZOID};
}
static constinit Statement add_statement = schedule_statement_of(R"(
	INSERT INTO jobqueue.schedules (name, cron, type, payload, command, time_zone, queue, priority, timeout,
		on_misfire, misfire_limit, on_overlap, created_by, created_by_oid, governed, anchor, next_run_at, incarnation)
	SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, i.id
	FROM jobqueue.incarnation i
	ORDER BY i.created_at LIMIT 1
	ON CONFLICT (name) DO NOTHING
	RETURNING name)");
static constinit Statement replace_statement = schedule_statement_of(R"(
	UPDATE jobqueue.schedules s
	SET cron = $2, type = $3, payload = $4, command = $5, time_zone = $6, queue = $7, priority = $8, timeout = $9,
		on_misfire = $10, misfire_limit = $11, on_overlap = $12, created_by = $13, created_by_oid = $14, governed = $15,
		anchor = $16, next_run_at = $17, last_error = NULL, updated_at = clock_timestamp(),
		incarnation = (SELECT i.id FROM jobqueue.incarnation i ORDER BY i.created_at LIMIT 1)
	WHERE s.name = $1)");

static constinit Statement schedule_statement{schedule_sql, TEXTOID};
static constinit Statement delete_statement{"DELETE FROM jobqueue.schedules s WHERE s.name = $1 RETURNING s.name",
											TEXTOID};
static constinit Statement pause_statement{
	"UPDATE jobqueue.schedules s SET paused_at = clock_timestamp() WHERE s.name = $1", TEXTOID};
static constinit Statement resume_statement{
	"UPDATE jobqueue.schedules s SET paused_at = NULL, next_run_at = $2 WHERE s.name = $1", TEXTOID, TIMESTAMPTZOID};
static constinit Statement adopt_statement{R"(
	UPDATE jobqueue.schedules s
	SET incarnation = i.id,
		created_by_oid = coalesce((SELECT a.oid FROM pg_roles a WHERE a.rolname = s.created_by), 0::oid)
	FROM jobqueue.incarnation i
	WHERE s.incarnation <> i.id
	RETURNING s.name)"};
static constinit Statement default_queue_statement{default_queue_sql, TEXTOID, TEXTARRAYOID};

std::optional<Schedule> schedule_for_update(std::string_view name) {
	Params params;
	std::vector<Schedule> found = schedules_from(schedule_statement.run(params.add(name)));
	return found.empty() ? std::nullopt : std::optional(std::move(found[0]));
}

static Params params_of(const Schedule &schedule) {
	Params params;
	params.add(std::string_view(schedule.name));
	params.add(std::string_view(schedule.cron)).add(std::string_view(schedule.type));
	params.add_datum(schedule.payload, false);
	params.add(schedule.command);
	params.add(std::string_view(schedule.time_zone));
	params.add(schedule.queue);
	params.add(schedule.priority).add_datum(schedule.timeout.value_or(0), !schedule.timeout);
	params.add(std::string_view(schedule.on_misfire)).add(schedule.misfire_limit);
	params.add(std::string_view(schedule.on_overlap)).add_name(schedule.created_by);
	params.add_datum(ObjectIdGetDatum(schedule.role), false).add(schedule.bound_by_access);
	params.add_time(schedule.anchor).add_time(schedule.next_run_at);
	return params;
}

bool add_schedule(const Schedule &schedule) {
	Params params = params_of(schedule);
	return !add_statement.run(params).empty();
}

void replace_schedule(const Schedule &schedule) {
	Params params = params_of(schedule);
	replace_statement.run(params);
}

bool delete_schedule(std::string_view name) {
	Params params;
	return !delete_statement.run(params.add(name)).empty();
}

void pause_schedule(std::string_view name) {
	Params params;
	pause_statement.run(params.add(name));
}

void resume_schedule(std::string_view name, const std::optional<TimestampTz> &next_run_at) {
	Params params;
	resume_statement.run(params.add(name).add_time(next_run_at));
}

uint64 adopt_schedules() {
	Params none;
	return adopt_statement.run(none).size();
}

std::string default_queue(std::string_view type, std::span<const std::string> own_queues) {
	Params params;
	params.add(type);
	if (own_queues.empty())
		params.add_null();
	else
		params.add(own_queues);
	return default_queue_statement.run(params).text_at(0, 1);
}

static constinit Statement max_schedules_statement{
	"SELECT l.max_schedules FROM jobqueue.limits l WHERE l.role = $1 AND l.max_schedules IS NOT NULL", NAMEOID};
static constinit Statement count_schedules_statement{R"(
	SELECT count(*)
	FROM (SELECT 1 FROM jobqueue.schedules s WHERE s.created_by = $1 AND s.name <> $2 LIMIT $3) c)",
													 NAMEOID, TEXTOID, INT8OID};

std::optional<int32> max_schedules(std::string_view role) {
	Params params;
	const Rows rows = max_schedules_statement.run_on_latest(params.add_name(role));
	return rows.empty() ? std::nullopt : std::optional(rows.int32_at(0, 1));
}

int64 count_schedules(std::string_view role, std::string_view but, int64 most) {
	Params params;
	return count_schedules_statement.run_on_latest(params.add_name(role).add(but).add(most)).int64_at(0, 1);
}

} // namespace jobqueue::store
