/*
 * schedules.cpp -- see schedules.hpp. C++ region.
 */
#include "engine/schedules.hpp"

#include "engine/access.hpp"
#include "engine/cron.hpp"
#include "engine/sql_command.hpp"
#include "engine/task_store.hpp"
#include "pg/transaction.hpp"
#include "shared/announcements.hpp"

namespace jobqueue {

static constexpr int64 shortest_retry_us = USECS_PER_SEC;
static constexpr int64 longest_retry_us = 10 * USECS_PER_SEC;

/* The times of a schedule that have come, by its policy for those that were missed; moves next_run_at on. */
static std::vector<TimestampTz> take_times(store::Schedule &schedule, TimestampTz now, TimestampTz served_since) {
	const cron::Expression expression(schedule.cron);
	const cron::Zone zone(schedule.time_zone);
	if (TIMESTAMP_NOT_FINITE(*schedule.next_run_at) || TIMESTAMP_NOT_FINITE(schedule.anchor))
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "next_run_at and anchor must be finite");
	/* As the expression and the zone are now: the row, or the zone's rules, may have changed since. */
	const TimestampTz after = *schedule.next_run_at - 1;
	const TimestampTz missed_before =
		std::max({std::min(served_since, now), now - misfire_tolerance_us, *schedule.next_run_at});
	const size_t limit = schedule.on_misfire == "all"	 ? static_cast<size_t>(schedule.misfire_limit)
						 : schedule.on_misfire == "once" ? 1
														 : 0;
	std::vector<TimestampTz> times = expression.latest(after, missed_before, limit, zone, schedule.anchor);
	schedule.next_run_at = expression.next(missed_before - 1, zone, schedule.anchor);
	while (schedule.next_run_at && *schedule.next_run_at <= now) {
		times.push_back(*schedule.next_run_at);
		schedule.next_run_at = expression.next(*schedule.next_run_at, zone, schedule.anchor);
	}
	return times;
}

/* What the schedule's role may not do by now, it does not do. */
static void check_role(const store::Schedule &schedule, Oid owner, const Queues &allowed) {
	if (!OidIsValid(schedule.role))
		throw Error(ERRCODE_UNDEFINED_OBJECT, "its role \"" + schedule.created_by + "\" is no more");
	if (!schedule.command)
		require_type(allowed, store::handled_types(), schedule.type);
	if (is_free(schedule.role, owner))
		return;
	for (const store::Limits &limit : store::limits())
		if (limit.max_queued && limit.role == schedule.created_by &&
			store::count_waiting(schedule.created_by, *limit.max_queued) >= *limit.max_queued)
			throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many tasks of its role wait (jobqueue.limit_role)");
}

/* Its role's right has been looked at. */
static void add_command(store::Schedule &schedule, TimestampTz scheduled_for) {
	NewSqlTask task = {schedule.role, *schedule.command};
	task.queue = schedule.queue.value_or(task.queue);
	task.run_at = scheduled_for;
	task.timeout = schedule.timeout;
	task.metadata = store::firing_metadata(schedule.name, scheduled_for);
	schedule.last_task_id = add_sql_task(task).id;
}

static void add_task(store::Schedule &schedule, TimestampTz scheduled_for, const Queues &allowed) {
	store::NewTask task;
	task.type = schedule.type;
	task.queue = schedule.queue;
	task.own_queues = allowed.names;
	task.priority = schedule.priority;
	task.run_at = scheduled_for;
	task.timeout = schedule.timeout;
	task.metadata = store::firing_metadata(schedule.name, scheduled_for);
	task.created_by = schedule.created_by;
	const store::Added added = store::insert(task, schedule.payload);
	require(allowed, added.queue);
	guard([&] { note_task(added.queue, task.priority, added.id, task.type, {}); });
	schedule.last_task_id = added.id;
}

/* Adds the tasks of a locked schedule whose times have come, or those that were held back. */
static void fire_one(store::Schedule &schedule, TimestampTz now, TimestampTz served_since, Oid owner) {
	std::vector<TimestampTz> times;
	if (schedule.next_run_at && *schedule.next_run_at <= now)
		times = take_times(schedule, now, served_since);
	if (schedule.on_overlap == "queue" || !schedule.held.empty()) {
		schedule.held.insert(schedule.held.end(), times.begin(), times.end());
		times.clear();
		if (!schedule.busy && !schedule.held.empty()) {
			times.push_back(schedule.held.front());
			schedule.held.erase(schedule.held.begin());
		}
		const auto limit = static_cast<size_t>(schedule.misfire_limit);
		if (schedule.held.size() > limit)
			schedule.held.erase(schedule.held.begin(), schedule.held.end() - static_cast<ptrdiff_t>(limit));
	} else if (schedule.on_overlap == "skip" && !times.empty()) {
		times.resize(schedule.busy ? 0 : 1); /* the first is the previous one of those that follow */
	}
	if (!times.empty()) {
		const Queues allowed = schedule.governed ? queues_of_schedules(schedule.role, owner) : Queues{};
		check_role(schedule, owner, allowed);
		for (const TimestampTz time : times) {
			if (schedule.command)
				add_command(schedule, time);
			else
				add_task(schedule, time, allowed);
			schedule.last_run_at = time;
			schedule.busy = true;
		}
	}
	store::put_firing(schedule);
}

std::vector<std::string> Schedules::failing(TimestampTz now) const {
	std::vector<std::string> names;
	for (const auto &[name, failure] : failures_)
		if (failure.retry_at > now)
			names.push_back(name);
	return names;
}

void Schedules::add_failure(const std::string &name) {
	Failure &failure = failures_[name];
	failure.delay_us = std::clamp(failure.delay_us * 2, shortest_retry_us, longest_retry_us);
	failure.retry_at = GetCurrentTimestamp() + failure.delay_us;
}

Fired Schedules::fire(Oid owner, TimestampTz served_since, int count) {
	const TimestampTz now = GetCurrentTimestamp();
	const std::vector<std::string> except = failing(now);
	std::vector<store::Schedule> schedules = store::lock_due_schedules(now, except, count);
	std::vector<store::Schedule> held = store::lock_held_schedules(except, count);
	const bool more = std::max(schedules.size(), held.size()) == static_cast<size_t>(count);
	for (store::Schedule &one : held)
		if (std::none_of(schedules.begin(), schedules.end(), [&one](const auto &due) { return due.name == one.name; }))
			schedules.push_back(std::move(one));
	for (store::Schedule &schedule : schedules) {
		std::string problem;
		int code = 0;
		try {
			in_subtransaction([&] {
				if (schedule.command && OidIsValid(schedule.role))
					check_sql_role(schedule.role, schedule.queue.value_or("default"), owner);
				const Session session(owner);
				fire_one(schedule, now, served_since, owner);
			});
			failures_.erase(schedule.name);
			continue;
		} catch (const PgError &error) {
			code = error.sqlerrcode();
			problem = error.what();
		} catch (const Error &error) {
			code = error.sqlerrcode();
			problem = error.what();
		}
		add_failure(schedule.name);
		if (code == ERRCODE_LOCK_NOT_AVAILABLE || !store::put_schedule_error(schedule.name, problem))
			continue;
		const char *const name = schedule.name.c_str();
		const char *const why = problem.c_str();
		guard([name, why, code] {
			ereport(WARNING, (errcode(code), errmsg("jobqueue could not fire schedule \"%s\": %s", name, why),
							  errdetail("It is tried again until it can, and the same error is not reported again.")));
		});
	}
	return {static_cast<int>(schedules.size()), more};
}

Corrected Schedules::correct(const std::string &after, int count) {
	const TimestampTz now = GetCurrentTimestamp();
	std::vector<store::Timing> later = store::later_schedules(now, after, count);
	Corrected corrected = {.after = after, .more = later.size() == static_cast<size_t>(count)};
	for (store::Timing &timing : later) {
		corrected.after = timing.name;
		try {
			/* Set back by less than this, it fires when the clock has come to where it was, and not twice. */
			const TimestampTz latest = now + misfire_tolerance_us;
			const cron::Expression expression(timing.cron);
			const cron::Zone zone(timing.time_zone);
			const TimestampTz anchor = timing.anchor > latest ? now : timing.anchor;
			const std::optional<TimestampTz> next = expression.next(latest, zone, anchor);
			if (timing.next_run_at <= next.value_or(DT_NOEND))
				continue;
			timing.anchor = anchor;
			corrected.any |= store::put_timing(timing, expression.next(now, zone, anchor));
		} catch (const Error &) {
			/* fire() will say so */
		}
	}
	return corrected;
}

TimestampTz Schedules::next() const {
	const TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = store::next_schedule(failing(now));
	for (const auto &[name, failure] : failures_)
		if (failure.retry_at > now)
			next = std::min(next, failure.retry_at);
	return next;
}

} // namespace jobqueue
