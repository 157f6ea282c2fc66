/*
 * firing.hpp -- the statements that fire schedules.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/schedules.hpp"

namespace jobqueue::store {

/* A role of which a schedule is not failing, and when the first of these is due. */
struct DueRole {
	std::string role;
	TimestampTz next_run_at;
};
struct ScheduleName {
	std::string role;
	std::string name;
	bool ready; /* its latest task is finished */
};
/* Each in the order of their names. "but": schedules that are passed over. */
std::vector<DueRole> roles_due(std::span<const std::string> but);
/* Of those that hold something back, and of those that have failed. */
std::vector<std::string> roles_holding();
std::vector<std::string> roles_failing();
/*
 * What is due, "each" for each role at most, in order of time. Locked; those that others have locked are passed over.
 */
std::vector<Schedule> lock_due_schedules(std::span<const std::string> roles, TimestampTz now, int each,
										 std::span<const std::string> but);
/* Those that hold something back, or have failed: for each role "each" at most whose names come after the one given. */
std::vector<ScheduleName> holding_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each);
std::vector<ScheduleName> failing_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each);
/* Likewise locked. */
std::vector<Schedule> lock_schedules(std::span<const std::string> names);
/* Of one that is locked: payload and command, for as long as the Session lives. */
void fetch_contents(Schedule &schedule);
/* What a firing leaves behind: next_run_at, last_run_at, last_task_id, held, and no error. */
void put_firing(const Schedule &schedule);
/* False if it says so already. */
bool put_schedule_error(std::string_view name, std::string_view message);
/* What a schedule's task knows of it: {"schedule", "scheduled_for"}. */
Datum firing_metadata(std::string_view schedule, TimestampTz scheduled_for);

/* When one fires, and from what that was computed. */
struct Timing {
	std::string name;
	std::string cron;
	std::string time_zone;
	TimestampTz anchor;
	TimestampTz next_run_at;
};
/* Those after a name, in that order, that wait for a time after "now". */
std::vector<Timing> later_schedules(TimestampTz now, std::string_view after, int count);
/* Its anchor, and another time instead; false if it has been changed meanwhile, or is locked by somebody. */
bool put_timing(const Timing &timing, const std::optional<TimestampTz> &next_run_at);
/* The tasks that hold others back, at most "each" for each role. */
std::vector<int64> holding_tasks(std::span<const std::string> roles, int each);

} // namespace jobqueue::store
