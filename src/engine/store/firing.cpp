/*
 * firing.cpp -- see firing.hpp. C++ region.
 */
#include "engine/store/firing.hpp"

#include "engine/store/bounds.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto healthy = sql("{active} AND s.last_error IS NULL", phrase::schedule_is_active);
static constexpr auto due = sql("{healthy} AND s.next_run_at IS NOT NULL", healthy);
static constexpr auto holding = sql("{healthy} AND s.held <> '{}'", healthy);
static constexpr auto failing = sql("{active} AND s.last_error IS NOT NULL", phrase::schedule_is_active);

/* The names of roles, each with its first row in an index that begins with the role: one step from each to the next. */
template <typename Columns, typename Condition>
static constexpr auto roles_of(const Columns &columns, const Condition &condition) {
	return sql(R"(
	WITH RECURSIVE r AS (
		(SELECT {columns} FROM jobqueue.schedules s WHERE {condition} ORDER BY {columns} LIMIT 1)
		UNION ALL
		(SELECT n.*
			FROM r CROSS JOIN LATERAL (
				SELECT {columns} FROM jobqueue.schedules s
				WHERE {condition} AND s.created_by > r.created_by
				ORDER BY {columns} LIMIT 1) n))
	SELECT * FROM r)",
			   columns, condition, columns, columns, condition, columns);
}
/*
 * From the last role to the first: at the end of a role's rows in the index there are few that have changed since, and
 * at their beginning those of all firings that an old transaction may still see.
 */
template <typename Condition> static constexpr auto last_of_role(const Condition &condition) {
	return sql(R"(
			SELECT s.created_by FROM jobqueue.schedules s
			WHERE {condition}
			ORDER BY s.created_by DESC, s.next_run_at DESC LIMIT 1)",
			   condition);
}
static constexpr auto roles_sql =
	sql(R"(
	WITH RECURSIVE r AS (
		({last})
		UNION ALL
		(SELECT n.* FROM r CROSS JOIN LATERAL ({before}) n))
	SELECT * FROM r)",
		last_of_role(due), last_of_role(sql("{due} AND s.created_by < r.created_by", due)));
static constexpr auto roles_due_sql = sql(R"(
	SELECT u.role, x.next_run_at
	FROM ROWS FROM (unnest($1), unnest($2)) u(role, since) CROSS JOIN LATERAL (
		SELECT s.next_run_at FROM jobqueue.schedules s
		WHERE {due} AND s.created_by = u.role::name AND s.next_run_at >= u.since AND NOT s.name = ANY ($3)
		ORDER BY s.next_run_at LIMIT 1) x)",
										  due);
static constexpr auto roles_holding_sql = roles_of("s.created_by", holding);
static constexpr auto roles_failing_sql = roles_of("s.created_by", failing);

/* $1 is the roles, and $2 from when on they have schedules. Each gives at most $3 of its rows. */
static constexpr auto lock_due_sql = sql(R"(
	SELECT x.*
	FROM ROWS FROM (unnest($1), unnest($2)) u(role, since) CROSS JOIN LATERAL (
		{select_schedules}
		WHERE {due} AND s.created_by = u.role::name AND s.next_run_at >= u.since AND s.next_run_at <= $4
			AND NOT s.name = ANY ($5)
		ORDER BY s.next_run_at LIMIT $3
		FOR UPDATE OF s SKIP LOCKED) x)",
										 phrase::select_schedules, due);
static constexpr auto holding_sql = sql(R"(
	SELECT x.last_task_id
	FROM unnest($1) u(role) CROSS JOIN LATERAL (
		SELECT s.last_task_id FROM jobqueue.schedules s
		WHERE {holding} AND s.created_by = u.role::name AND s.last_task_id IS NOT NULL
		ORDER BY s.name LIMIT $2) x)",
										holding);
/* $1 is the roles, $2 a name for each, after which each role gives at most $3 of its rows. */
template <typename Condition, typename Ready>
static constexpr auto pages(const Condition &condition, const Ready &ready) {
	return sql(R"(
	SELECT x.*
	FROM ROWS FROM (unnest($1), unnest($2)) u(role, after) CROSS JOIN LATERAL (
		SELECT s.created_by, s.name, {ready} FROM jobqueue.schedules s
		WHERE {condition} AND s.created_by = u.role::name AND s.name > u.after
		ORDER BY s.name LIMIT $3) x)",
			   ready, condition);
}
static constexpr auto holding_pages_sql = pages(holding, sql("NOT {is_busy}", phrase::schedule_is_busy));
static constexpr auto failing_pages_sql = pages(failing, "true");
static constexpr auto lock_named_sql = sql(R"(
	{select_schedules}
	WHERE {active} AND s.name = ANY ($1)
	FOR UPDATE OF s SKIP LOCKED)",
										   phrase::select_schedules, phrase::schedule_is_active);
static constexpr auto later_sql = sql(R"(
	SELECT s.name, s.cron, s.time_zone, s.anchor, s.next_run_at FROM jobqueue.schedules s
	WHERE {active} AND s.next_run_at > $1 AND s.name > $2
	ORDER BY s.name LIMIT $3)",
									  phrase::schedule_is_active);

static constinit Statement roles_statement{roles_sql};
static constinit Statement roles_due_statement{roles_due_sql, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID};
static constinit Statement roles_holding_statement{roles_holding_sql};
static constinit Statement roles_failing_statement{roles_failing_sql};
static constinit Statement lock_due_statement{lock_due_sql, TEXTARRAYOID,	TIMESTAMPTZARRAYOID,
											  INT4OID,		TIMESTAMPTZOID, TEXTARRAYOID};
static constinit Statement holding_statement{holding_sql, TEXTARRAYOID, INT4OID};
static constinit Statement holding_pages_statement{holding_pages_sql, TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement failing_pages_statement{failing_pages_sql, TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement lock_named_statement{lock_named_sql, TEXTARRAYOID};
static constinit Statement later_statement{later_sql, TIMESTAMPTZOID, TEXTOID, INT4OID};
static constinit Statement firing_statement{R"(
	UPDATE jobqueue.schedules s
	SET next_run_at = $2, last_run_at = $3, last_task_id = $4, held = $5, last_error = NULL
	WHERE s.name = $1)", TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZARRAYOID};
static constinit Statement error_statement{R"(
	UPDATE jobqueue.schedules s SET last_error = $2
	WHERE s.name = $1 AND (s.last_error IS NULL OR s.last_error <> $2)
	RETURNING s.name)",
										   TEXTOID, TEXTOID};
static constinit Statement metadata_statement{"SELECT jsonb_build_object('schedule', $1, 'scheduled_for', $2)", TEXTOID,
											  TIMESTAMPTZOID};
static constinit Statement timing_statement{R"(
	UPDATE jobqueue.schedules s SET next_run_at = $2, anchor = $3
	FROM (SELECT l.name FROM jobqueue.schedules l WHERE l.name = $1 AND l.next_run_at = $4 FOR UPDATE SKIP LOCKED) l
	WHERE s.name = l.name
	RETURNING s.name)",
											TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID};

static Datum array_of(const std::vector<TimestampTz> &times) {
	return guard([&times] {
		auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (times.size() + 1)));
		for (size_t i = 0; i < times.size(); i++)
			elements[i] = TimestampTzGetDatum(times[i]);
		return PointerGetDatum(construct_array(elements, static_cast<int>(times.size()), TIMESTAMPTZOID, 8,
											   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	});
}

/* As two parameters. */
static void add_roles(Params &params, std::span<const DueRole> roles) {
	std::vector<std::string> names;
	std::vector<TimestampTz> times;
	for (const DueRole &role : roles) {
		names.push_back(role.role);
		times.push_back(role.from);
	}
	params.add(std::span<const std::string>(names)).add_datum(array_of(times), false);
}

std::vector<DueRole> roles_due(std::span<const DueRole> roles, std::span<const std::string> but) {
	Params params;
	add_roles(params, roles);
	const Rows rows = roles_due_statement.run(params.add(but));
	std::vector<DueRole> due_roles;
	for (uint64 i = 0; i < rows.size(); i++)
		due_roles.push_back({rows.text_at(i, 1), DatumGetTimestampTz(rows.datum(i, 2))});
	return due_roles;
}

static std::vector<std::string> roles_from(Statement &statement) {
	Params none;
	const Rows rows = statement.run(none);
	std::vector<std::string> roles;
	for (uint64 i = 0; i < rows.size(); i++)
		roles.push_back(rows.name_at(i, 1));
	return roles;
}

std::vector<std::string> roles_with_schedules() {
	return roles_from(roles_statement);
}

std::vector<std::string> roles_holding() {
	return roles_from(roles_holding_statement);
}

std::vector<std::string> roles_failing() {
	return roles_from(roles_failing_statement);
}

std::vector<Schedule> lock_due_schedules(std::span<const DueRole> roles, TimestampTz now, int each,
										 std::span<const std::string> but) {
	Params params;
	add_roles(params, roles);
	return schedules_from(lock_due_statement.run(params.add(static_cast<int32>(each)).add_time(now).add(but)));
}

static std::vector<ScheduleName> page_of(Statement &statement, std::span<const std::string> roles,
										 std::span<const std::string> after, int each) {
	Params params;
	const Rows rows = statement.run(params.add(roles).add(after).add(static_cast<int32>(each)));
	std::vector<ScheduleName> names;
	for (uint64 i = 0; i < rows.size(); i++)
		names.push_back({rows.name_at(i, 1), rows.text_at(i, 2), rows.bool_at(i, 3)});
	return names;
}

std::vector<ScheduleName> holding_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each) {
	return page_of(holding_pages_statement, roles, after, each);
}

std::vector<ScheduleName> failing_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each) {
	return page_of(failing_pages_statement, roles, after, each);
}

std::vector<Schedule> lock_schedules(std::span<const std::string> names) {
	Params params;
	return schedules_from(lock_named_statement.run(params.add(names)));
}

static constinit Statement contents_statement{"SELECT s.payload, s.command FROM jobqueue.schedules s WHERE s.name = $1",
											  TEXTOID};

void fetch_contents(Schedule &schedule) {
	Params params;
	const Rows rows = contents_statement.run(params.add(std::string_view(schedule.name)));
	if (rows.empty())
		throw Error(ERRCODE_INTERNAL_ERROR, "a locked schedule is gone");
	schedule.payload = rows.datum(0, 1);
	if (!rows.is_null(0, 2))
		schedule.command = rows.text_at(0, 2);
}

void put_firing(const Schedule &schedule) {
	Params params;
	params.add(std::string_view(schedule.name)).add_time(schedule.next_run_at).add_time(schedule.last_run_at);
	params.add(schedule.last_task_id).add_datum(array_of(schedule.held), false);
	firing_statement.run(params);
}

bool put_schedule_error(std::string_view name, std::string_view message) {
	Params params;
	const std::string text = bounds::cut(message, bounds::error);
	return !error_statement.run(params.add(name).add(std::string_view(text))).empty();
}

Datum firing_metadata(std::string_view schedule, TimestampTz scheduled_for) {
	Params params;
	return metadata_statement.run(params.add(schedule).add_time(scheduled_for)).datum(0, 1);
}

std::vector<Timing> later_schedules(TimestampTz now, std::string_view after, int count) {
	Params params;
	const Rows rows = later_statement.run(params.add_time(now).add(after).add(static_cast<int32>(count)));
	std::vector<Timing> timings;
	for (uint64 i = 0; i < rows.size(); i++)
		timings.push_back({rows.text_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3),
						   DatumGetTimestampTz(rows.datum(i, 4)), DatumGetTimestampTz(rows.datum(i, 5))});
	return timings;
}

bool put_timing(const Timing &timing, const std::optional<TimestampTz> &next_run_at) {
	Params params;
	params.add(std::string_view(timing.name))
		.add_time(next_run_at)
		.add_time(timing.anchor)
		.add_time(timing.next_run_at);
	return !timing_statement.run(params).empty();
}

std::vector<int64> holding_tasks(std::span<const std::string> roles, int each) {
	Params params;
	return holding_statement.run(params.add(roles).add(static_cast<int32>(each))).ids();
}

} // namespace jobqueue::store
