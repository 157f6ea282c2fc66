/*
 * firing.hpp -- the statements that fire schedules.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/schedules.hpp"

namespace jobqueue::store {

struct ScheduleName {
	std::string role;
	std::string name;
	bool ready; /* its latest task is finished */
};
/* Roles with schedules that are not failing. */
std::vector<std::string> roles_with_schedules();
/*
 * When the first of these schedules is due: none of the role is due before "from". "but": schedules that are passed
 * over. Roles without any are left out.
 */
struct DueRole {
	std::string role;
	TimestampTz from;
};
std::vector<DueRole> roles_due(std::span<const DueRole> roles, std::span<const std::string> but);
/* Roles of schedules that hold firings back, and roles of schedules that have failed. */
std::vector<std::string> roles_holding();
std::vector<std::string> roles_failing();
/*
 * Locks schedules that are due, at most "each" for each role, in order of time. Passes over those that others have
 * locked.
 */
std::vector<Schedule> lock_due_schedules(std::span<const DueRole> roles, TimestampTz now, int each,
										 std::span<const std::string> but);
/*
 * Schedules that hold firings back, or have failed: of each role, at most "each" whose names come after the one given.
 */
std::vector<ScheduleName> holding_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each);
std::vector<ScheduleName> failing_schedules(std::span<const std::string> roles, std::span<const std::string> after,
											int each);
/* Locks these schedules, in the same way. */
std::vector<Schedule> lock_schedules(std::span<const std::string> names);
/* Fetches payload and command of a locked schedule; they live as long as the Session. */
void fetch_contents(Schedule &schedule);
/* Stores what a firing leaves behind: next_run_at, last_run_at, last_task_id, held, and no error. */
void put_firing(const Schedule &schedule);
/* False if the schedule has this error already. */
bool put_schedule_error(std::string_view name, std::string_view message);
/* What a task knows of its schedule: {"schedule", "scheduled_for"}. */
Datum firing_metadata(std::string_view schedule, TimestampTz scheduled_for);

/* When a schedule fires, and from what this was computed. */
struct Timing {
	std::string name;
	std::string cron;
	std::string time_zone;
	TimestampTz anchor;
	TimestampTz next_run_at;
};
/* Schedules after a name, in the order of names, that wait for a time after "now". */
std::vector<Timing> later_schedules(TimestampTz now, std::string_view after, int count);
/* Changes the anchor and the time; false if the schedule has been changed meanwhile, or is locked by somebody. */
bool put_timing(const Timing &timing, const std::optional<TimestampTz> &next_run_at);
/* The tasks that hold firings back, at most "each" for each role. */
std::vector<int64> holding_tasks(std::span<const std::string> roles, int each);

} // namespace jobqueue::store
