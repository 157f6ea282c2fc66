/*
 * schedule.cpp -- jobqueue.schedule, schedule_sql, unschedule, pause_schedule, resume_schedule, next_runs, and the
 * trigger on jobqueue.schedules. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/access.hpp"
#include "engine/cron.hpp"
#include "engine/quotas.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/quotas.hpp"
#include "engine/store/schedules.hpp"
#include "pg/compat.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

/* Throws if the caller may not change this schedule. Its owner is a role, not a later role of the same name. */
static void check_owner(const store::Schedule &schedule) {
	const Oid role = schedule.role;
	if (guard([role] { return superuser() || (OidIsValid(role) && compat::may_become(GetUserId(), role)); }))
		return;
	throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
				OidIsValid(role) ? "must be able to SET ROLE \"" + schedule.created_by + "\" to change schedule \"" +
									   schedule.name + "\""
								 : "schedule \"" + schedule.name + "\" belongs to a role that no longer exists");
}

/* Locks the schedule; throws if the caller may not change it. */
static std::optional<store::Schedule> own_schedule(Oid owner, const std::string &name) {
	std::optional<store::Schedule> schedule;
	{
		const Session session(owner);
		schedule = store::schedule_for_update(name);
	}
	if (schedule)
		check_owner(*schedule);
	return schedule;
}

/* A schedule that names no queue adds its tasks to the queue of the handler. */
static void require_queue(const Queues &allowed, Oid owner, const store::Schedule &schedule) {
	if (schedule.queue || allowed.all) {
		if (schedule.queue)
			require(allowed, schedule.queue);
		return;
	}
	std::string queue;
	{
		const Session session(owner);
		queue = store::default_queue(schedule.type, allowed.names);
	}
	require(allowed, queue);
}

static std::string one_of(const Arguments &arguments, int n, const char *name,
						  std::initializer_list<const char *> known) {
	const std::string value = arguments.text_at(n, name);
	std::string list;
	for (const char *const one : known) {
		if (value == one)
			return value;
		list += (list.empty() ? "" : ", ") + std::string(one);
	}
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE, std::string("unknown ") + name + " \"" + value + "\"",
				"Valid values are " + list + ".");
}

/* Reads on_misfire, misfire_limit and on_overlap, from the given position on. */
static void read_policies(const Arguments &arguments, int first, store::Schedule &schedule) {
	schedule.on_misfire = one_of(arguments, first, "on_misfire", {"skip", "once", "all"});
	schedule.misfire_limit = arguments.int32_at(first + 1, "misfire_limit");
	constexpr int32 highest_limit = 10000;
	if (schedule.misfire_limit < 1 || schedule.misfire_limit > highest_limit)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"misfire_limit must be between 1 and " + std::to_string(highest_limit));
	schedule.on_overlap = one_of(arguments, first + 2, "on_overlap", {"allow", "skip", "queue"});
}

/* Throws if the role has too many schedules. Locks the role, so that two transactions count one after the other. */
static void check_count(Oid owner, const store::Schedule &schedule) {
	const Oid role = schedule.role;
	if (is_unrestricted(role, owner))
		return;
	const Session session(owner);
	std::optional<int32> most = store::max_schedules(schedule.created_by);
	if (!most)
		return;
	guard([role] {
		LockDatabaseObject(get_relname_relid("schedules", get_namespace_oid("jobqueue", false)), role, 0,
						   ExclusiveLock);
	});
	if (store::count_schedules(schedule.created_by, schedule.name, *most) >= *most)
		throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "role \"" + schedule.created_by + "\" has too many schedules",
					"The limit is " + std::to_string(*most) + "; use jobqueue.limit_role() to change it.");
}

/* C region. */
static void say_whose_it_was(const char *name, const char *before, const char *now) {
	ereport(NOTICE,
			(errmsg("schedule \"%s\" belonged to role \"%s\", and now belongs to role \"%s\"", name, before, now)));
}

/* C region. */
static void hint_at_preloading() {
	ereport(NOTICE, (errmsg("jobqueue is not preloaded: no schedule fires"),
					 errhint("Add jobqueue to shared_preload_libraries and restart the server.")));
}

/* A command belongs to the role it runs as, which must have the right to enqueue it. */
static void require_command(Oid owner, store::Schedule &schedule) {
	const char *const name = schedule.created_by.c_str();
	const Oid role = guard([name] { return get_role_oid(name, true); });
	if (!OidIsValid(role))
		throw Error(ERRCODE_UNDEFINED_OBJECT, "role \"" + schedule.created_by + "\" does not exist");
	if (!guard([role] { return compat::may_become(GetUserId(), role); }))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"must be able to SET ROLE \"" + schedule.created_by + "\" to schedule a command that runs as it");
	schedule.role = role;
	check_sql_command(*schedule.command);
	check_sql_role(role, *schedule.queue, owner);
}

/*
 * Adds a schedule, or replaces the one of that name. If it fires at the same times as before, it goes on as it was, so
 * that a script which is run repeatedly neither delays it nor loses missed runs. A paused schedule stays paused.
 */
static void put_schedule(FunctionCallInfo fcinfo, store::Schedule schedule) {
	const Oid owner = function_owner(fcinfo);
	if (schedule.command) {
		require_command(owner, schedule);
	} else {
		const Queues allowed = callers_queues(fcinfo, {Access::manager});
		require_type(allowed, owner, schedule.type);
		require_queue(allowed, owner, schedule);
		schedule.bound_by_access = !allowed.by_hand;
		schedule.created_by = caller_name();
		schedule.role = GetUserId();
	}
	if (std::optional<store::Quota> quota = callers_quota(owner)) {
		quota->max_queued.reset(); /* checked at each firing */
		check_quota(*quota, owner, {&schedule.payload, 1}, std::nullopt);
	}
	check_count(owner, schedule);
	const cron::Expression expression(schedule.cron);
	const cron::Zone zone(schedule.time_zone);
	schedule.anchor = GetCurrentTimestamp();
	schedule.next_run_at = expression.next(schedule.anchor, zone, schedule.anchor);
	if (!schedule.next_run_at)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "the schedule never fires");
	for (bool done = false; !done;) {
		const std::optional<store::Schedule> old = own_schedule(owner, schedule.name);
		if (old && old->cron == schedule.cron && old->time_zone == schedule.time_zone && old->next_run_at) {
			schedule.anchor = old->anchor;
			schedule.next_run_at = old->next_run_at;
		}
		if (old && old->created_by != schedule.created_by) {
			const char *const name = schedule.name.c_str();
			const char *const before = old->created_by.c_str();
			const char *const now = schedule.created_by.c_str();
			guard([name, before, now] { say_whose_it_was(name, before, now); });
		}
		const Session session(owner);
		if (old)
			store::replace_schedule(schedule);
		done = old || store::add_schedule(schedule);
	}
	const TimestampTz due = *schedule.next_run_at;
	guard([due] { note_due(due); });
	if (shared() == nullptr)
		guard(hint_at_preloading);
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_schedule) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	store::Schedule schedule;
	schedule.name = arguments.text_at(0, "name", bounds::schedule_name);
	schedule.cron = arguments.text_at(1, "cron");
	schedule.type = arguments.text_at(2, "type", bounds::type);
	refuse_sql_type(schedule.type);
	arguments.require(3, "payload");
	arguments.check_size(3, "payload", bounds::schedule_payload);
	schedule.payload = arguments.datum(3);
	schedule.time_zone = arguments.text_at(4, "time_zone");
	schedule.queue = arguments.optional_queue(5);
	const int32 priority = arguments.int32_at(6, "priority");
	if (priority < PG_INT16_MIN || priority > PG_INT16_MAX)
		throw Error(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "priority must be between -32768 and 32767");
	schedule.priority = static_cast<int16>(priority);
	read_policies(arguments, 7, schedule);
	put_schedule(fcinfo, std::move(schedule));
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_schedule_sql) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	store::Schedule schedule;
	schedule.name = arguments.text_at(0, "name", bounds::schedule_name);
	schedule.cron = arguments.text_at(1, "cron");
	schedule.type = "sql";
	schedule.command = arguments.text_at(2, "command", bounds::command);
	schedule.payload = sql_payload(*schedule.command);
	schedule.time_zone = arguments.text_at(3, "time_zone");
	schedule.queue = arguments.optional_queue(4).value_or("default");
	if (const std::optional<int64> timeout = arguments.optional_duration(5, "timeout")) {
		if (*timeout == 0)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "timeout must be positive");
		schedule.timeout = arguments.datum(5);
	}
	read_policies(arguments, 6, schedule);
	arguments.require(9, "run_as");
	schedule.created_by = NameStr(*DatumGetName(arguments.datum(9)));
	put_schedule(fcinfo, std::move(schedule));
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_unschedule) {
	using namespace jobqueue;
	const std::string name = Arguments(fcinfo).text_at(0, "name");
	const Oid owner = function_owner(fcinfo);
	if (!own_schedule(owner, name))
		return BoolGetDatum(false);
	const Session session(owner);
	return BoolGetDatum(store::delete_schedule(name));
}

JOBQUEUE_FUNCTION(jobqueue_pause_schedule) {
	using namespace jobqueue;
	const std::string name = Arguments(fcinfo).text_at(0, "name");
	const Oid owner = function_owner(fcinfo);
	const std::optional<store::Schedule> schedule = own_schedule(owner, name);
	if (!schedule || schedule->paused)
		return BoolGetDatum(false);
	const Session session(owner);
	store::pause_schedule(name);
	return BoolGetDatum(true);
}

JOBQUEUE_FUNCTION(jobqueue_resume_schedule) {
	using namespace jobqueue;
	const std::string name = Arguments(fcinfo).text_at(0, "name");
	const Oid owner = function_owner(fcinfo);
	const std::optional<store::Schedule> schedule = own_schedule(owner, name);
	if (!schedule || !schedule->paused)
		return BoolGetDatum(false);
	const cron::Expression expression(schedule->cron);
	const cron::Zone zone(schedule->time_zone);
	const std::optional<TimestampTz> next = expression.next(GetCurrentTimestamp(), zone, schedule->anchor);
	const Session session(owner);
	store::resume_schedule(name, next);
	guard([] { note_due(all_due); }); /* firings that were held back may be due now */
	return BoolGetDatum(true);
}

JOBQUEUE_FUNCTION(jobqueue_next_runs) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const cron::Expression expression(arguments.text_at(0, "cron"));
	const int32 n = arguments.int32_at(1, "n");
	constexpr int32 most = 10000;
	if (n < 0 || n > most)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "n must be between 0 and " + std::to_string(most));
	const cron::Zone zone(arguments.text_at(2, "time_zone"));
	arguments.require(3, "after");
	const TimestampTz after = *arguments.optional_time(3, "after");
	ResultSet result(fcinfo, ResultSet::Of::bigint); /* a timestamp is a bigint internally */
	std::optional<TimestampTz> time = after;
	for (int32 i = 0; i < n && (time = expression.next(*time, zone, after)); i++) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		result.add(*time);
	}
	return 0;
}

/* Announces changes in plain SQL. A schedule that our own code adds or fires announces itself. */
JOBQUEUE_FUNCTION(jobqueue_schedules_changed) {
	using namespace jobqueue;
	if (!CALLED_AS_TRIGGER(fcinfo))
		throw Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function can only be called as a trigger");
	if (!Session::active())
		guard([] { note_due(all_due); });
	return PointerGetDatum(nullptr);
}
