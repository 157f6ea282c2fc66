/*
 * schedule_store.cpp -- see schedule_store.hpp. C++ region.
 *
 * Every name is qualified and so is every operator: what runs here runs with the owner's rights.
 */
#include "engine/schedule_store.hpp"

#include "engine/bounds.hpp"
#include "engine/sql_text.hpp"

namespace jobqueue::store {

/* A dead letter waits for people: it does not hold up its schedule. */
#define BUSY                                                                                                           \
	"EXISTS (SELECT 1 FROM jobqueue.tasks_live t WHERE t.id" EQ                                                        \
	"s.last_task_id AND t.origin_queue IS NULL AND NOT t.status" CCOLL EQ FINISHED ")"
#define ROLE                                                                                                           \
	"coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.oid" EQ "s.created_by_oid AND a.rolname" EQ             \
	"s.created_by), 0::pg_catalog.oid)"
#define COLUMNS                                                                                                        \
	"SELECT s.name, s.cron, s.type, s.created_by_oid, s.command IS NOT NULL, s.time_zone, s.queue, s.priority, "       \
	"s.timeout, s.on_misfire, s.misfire_limit, s.on_overlap, s.created_by, " ROLE                                      \
	", s.governed, s.anchor, s.next_run_at, s.last_run_at, s.last_task_id, s.held, s.paused_at IS NOT NULL, " BUSY     \
	", s.last_error IS NOT NULL FROM jobqueue.schedules s WHERE "
/* Neither a copy nor a restore that is half done fires anything, even before it is known to be one. */
#define OWN                                                                                                            \
	"s.incarnation" EQ "(SELECT i.id FROM jobqueue.incarnation i WHERE i.database" EQ                                  \
	"(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname" EQ                                                   \
	"pg_catalog.current_database()) AND NOT EXISTS (SELECT 1 FROM jobqueue.incarnation o WHERE o.id "                  \
	"OPERATOR(pg_catalog.<>) i.id))"
#define ACTIVE "s.paused_at IS NULL AND " OWN
#define HOLDS "s.held OPERATOR(pg_catalog.<>) '{}'"

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

static Datum array_of(const std::vector<TimestampTz> &times) {
	return guard([&times] {
		auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (times.size() + 1)));
		for (size_t i = 0; i < times.size(); i++)
			elements[i] = TimestampTzGetDatum(times[i]);
		return PointerGetDatum(construct_array(elements, static_cast<int>(times.size()), TIMESTAMPTZOID, 8,
											   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	});
}

static std::vector<Schedule> schedules_from(const Rows &rows) {
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
		schedule.governed = rows.bool_at(i, 15);
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

/* By people */

static constinit Statement schedule_statement{COLUMNS "s.name" EQ "$1 FOR UPDATE OF s", TEXTOID};
#define SCHEDULE_TYPES                                                                                                 \
	TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, TEXTOID, TEXTOID, INT2OID, INTERVALOID, TEXTOID, INT4OID, TEXTOID,   \
		NAMEOID, OIDOID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID
static constinit Statement add_statement{
	"INSERT INTO jobqueue.schedules (name, cron, type, payload, command, time_zone, queue, priority, timeout, "
	"on_misfire, misfire_limit, on_overlap, created_by, created_by_oid, governed, anchor, next_run_at, incarnation) "
	"SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, i.id "
	"FROM jobqueue.incarnation i ORDER BY i.created_at LIMIT 1 ON CONFLICT (name) DO NOTHING RETURNING name",
	SCHEDULE_TYPES};
static constinit Statement replace_statement{
	"UPDATE jobqueue.schedules s SET cron = $2, type = $3, payload = $4, command = $5, time_zone = $6, queue = $7, "
	"priority = $8, timeout = $9, on_misfire = $10, misfire_limit = $11, on_overlap = $12, created_by = $13, "
	"created_by_oid = $14, governed = $15, anchor = $16, next_run_at = $17, last_error = NULL, updated_at = " NOW
	", incarnation = (SELECT i.id FROM jobqueue.incarnation i ORDER BY i.created_at LIMIT 1) WHERE s.name" EQ "$1",
	SCHEDULE_TYPES};
static constinit Statement delete_statement{"DELETE FROM jobqueue.schedules s WHERE s.name" EQ "$1 RETURNING s.name",
											TEXTOID};
static constinit Statement pause_statement{"UPDATE jobqueue.schedules s SET paused_at = " NOW " WHERE s.name" EQ "$1",
										   TEXTOID};
static constinit Statement resume_statement{
	"UPDATE jobqueue.schedules s SET paused_at = NULL, next_run_at = $2 WHERE s.name" EQ "$1", TEXTOID, TIMESTAMPTZOID};
static constinit Statement adopt_statement{
	"UPDATE jobqueue.schedules s SET incarnation = i.id, created_by_oid = coalesce((SELECT a.oid FROM "
	"pg_catalog.pg_roles a WHERE a.rolname" EQ "s.created_by), 0::pg_catalog.oid) FROM jobqueue.incarnation i "
	"WHERE s.incarnation OPERATOR(pg_catalog.<>) i.id RETURNING s.name"};
static constinit Statement default_queue_statement{
	"SELECT coalesce((SELECT h.queue FROM jobqueue.handlers h WHERE h.type" EQ
	"$1 AND " HAS_SAY_IN("ANY ($2)") "), 'default')",
	TEXTOID, TEXTARRAYOID};

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
	params.add_datum(ObjectIdGetDatum(schedule.role), false).add(schedule.governed);
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

/* Firing */

/* The names of roles, each with its first row in an index that begins with them: one step from each to the next. */
#define ROLES(columns, condition, order)                                                                               \
	"WITH RECURSIVE r AS ((SELECT " columns " FROM jobqueue.schedules s WHERE " condition " ORDER BY " order           \
	" LIMIT 1) UNION ALL (SELECT n.* FROM r CROSS JOIN LATERAL (SELECT " columns                                       \
	" FROM jobqueue.schedules s WHERE " condition " AND s.created_by" GT "r.created_by ORDER BY " order                \
	" LIMIT 1) n)) SELECT * FROM r"
#define HEALTHY ACTIVE " AND s.last_error IS NULL"
#define DUE HEALTHY " AND s.next_run_at IS NOT NULL"
#define HELD HEALTHY " AND " HOLDS
#define FAILING ACTIVE " AND s.last_error IS NOT NULL"
/* $1: roles; each sees at most $2 of its rows. */
#define EACH_OF_ROLES "pg_catalog.unnest($1) u(role) CROSS JOIN LATERAL "
#define OF_ROLE " AND s.created_by" EQ "u.role::pg_catalog.name "
/* $1: roles, $2: names, behind which each sees at most $3 of its rows. */
#define PAGES(condition, ready)                                                                                        \
	"SELECT x.* FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) u(role, after) CROSS JOIN LATERAL ("     \
	"SELECT s.created_by, s.name, " ready " FROM jobqueue.schedules s WHERE " condition OF_ROLE "AND s.name" GT        \
	"u.after ORDER BY s.name LIMIT $3) x"

#define BUT_THESE(names) " AND NOT s.name" EQ "ANY (" names ")"
static constinit Statement roles_due_statement{
	ROLES("s.created_by, s.next_run_at", DUE BUT_THESE("$1"), "s.created_by, s.next_run_at"), TEXTARRAYOID};
static constinit Statement roles_holding_statement{ROLES("s.created_by", HELD, "s.created_by")};
static constinit Statement roles_failing_statement{ROLES("s.created_by", FAILING, "s.created_by")};
static constinit Statement lock_due_statement{
	"SELECT x.* FROM " EACH_OF_ROLES "(" COLUMNS DUE OF_ROLE "AND s.next_run_at" LE
	"$3" BUT_THESE("$4") " ORDER BY s.next_run_at LIMIT $2 FOR UPDATE OF s SKIP LOCKED) x",
	TEXTARRAYOID, INT4OID, TIMESTAMPTZOID, TEXTARRAYOID};
static constinit Statement holding_pages_statement{PAGES(HELD, "NOT " BUSY), TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement failing_pages_statement{PAGES(FAILING, "true"), TEXTARRAYOID, TEXTARRAYOID, INT4OID};
static constinit Statement lock_named_statement{COLUMNS ACTIVE " AND s.name" EQ "ANY ($1) FOR UPDATE OF s SKIP LOCKED",
												TEXTARRAYOID};
static constinit Statement firing_statement{
	"UPDATE jobqueue.schedules s SET next_run_at = $2, last_run_at = $3, last_task_id = $4, held = $5, "
	"last_error = NULL WHERE s.name" EQ "$1",
	TEXTOID,
	TIMESTAMPTZOID,
	TIMESTAMPTZOID,
	INT8OID,
	TIMESTAMPTZARRAYOID};
static constinit Statement error_statement{"UPDATE jobqueue.schedules s SET last_error = $2 WHERE s.name" EQ
										   "$1 AND (s.last_error IS NULL OR s.last_error OPERATOR(pg_catalog.<>) $2) "
										   "RETURNING s.name",
										   TEXTOID, TEXTOID};
static constinit Statement metadata_statement{
	"SELECT pg_catalog.jsonb_build_object('schedule', $1, 'scheduled_for', $2)", TEXTOID, TIMESTAMPTZOID};
static constinit Statement later_statement{
	"SELECT s.name, s.cron, s.time_zone, s.anchor, s.next_run_at FROM jobqueue.schedules s WHERE " ACTIVE
	" AND s.next_run_at" GT "$1 AND s.name" GT "$2 ORDER BY s.name LIMIT $3",
	TIMESTAMPTZOID, TEXTOID, INT4OID};
static constinit Statement timing_statement{
	"UPDATE jobqueue.schedules s SET next_run_at = $2, anchor = $3 FROM (SELECT l.name FROM jobqueue.schedules l WHERE "
	"l.name" EQ "$1 AND l.next_run_at" EQ "$4 FOR UPDATE SKIP LOCKED) l WHERE s.name" EQ "l.name RETURNING s.name",
	TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
static constinit Statement holding_statement{"SELECT x.last_task_id FROM " EACH_OF_ROLES
											 "(SELECT s.last_task_id FROM jobqueue.schedules s WHERE " HELD OF_ROLE
											 "AND s.last_task_id IS NOT NULL ORDER BY s.name LIMIT $2) x",
											 TEXTARRAYOID, INT4OID};
static constinit Statement max_schedules_statement{
	"SELECT l.max_schedules FROM jobqueue.limits l WHERE l.role" EQ "$1 AND l.max_schedules IS NOT NULL", NAMEOID};
static constinit Statement count_schedules_statement{
	"SELECT pg_catalog.count(*) FROM (SELECT 1 FROM jobqueue.schedules s WHERE s.created_by" EQ
	"$1 AND s.name OPERATOR(pg_catalog.<>) $2 LIMIT $3) c",
	NAMEOID, TEXTOID, INT8OID};

std::vector<DueRole> roles_due(std::span<const std::string> but) {
	Params params;
	const Rows rows = roles_due_statement.run(params.add(but));
	std::vector<DueRole> roles;
	for (uint64 i = 0; i < rows.size(); i++)
		roles.push_back({rows.name_at(i, 1), DatumGetTimestampTz(rows.datum(i, 2))});
	return roles;
}

static std::vector<std::string> roles_from(Statement &statement) {
	Params none;
	const Rows rows = statement.run(none);
	std::vector<std::string> roles;
	for (uint64 i = 0; i < rows.size(); i++)
		roles.push_back(rows.name_at(i, 1));
	return roles;
}

std::vector<std::string> roles_holding() {
	return roles_from(roles_holding_statement);
}

std::vector<std::string> roles_failing() {
	return roles_from(roles_failing_statement);
}

std::vector<Schedule> lock_due_schedules(std::span<const std::string> roles, TimestampTz now, int each,
										 std::span<const std::string> but) {
	Params params;
	return schedules_from(
		lock_due_statement.run(params.add(roles).add(static_cast<int32>(each)).add_time(now).add(but)));
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

static constinit Statement contents_statement{
	"SELECT s.payload, s.command FROM jobqueue.schedules s WHERE s.name" EQ "$1", TEXTOID};

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
