/*
 * schedule_store.hpp -- the statements about jobqueue.schedules.
 *
 * C++ region. Everything needs a Session and throws PgError. Strings that are returned are copies; Datums live as long
 * as the Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

struct Schedule {
	std::string name;
	std::string cron;
	std::string type;
	/* What it adds. It may be long: who reads schedules gets it by fetch_contents(). */
	Datum payload = 0; /* jsonb */
	std::optional<std::string> command;
	bool has_command = false;
	std::string time_zone;
	std::optional<std::string> queue;
	int16 priority = 0;
	std::optional<Datum> timeout; /* interval */
	std::string on_misfire;
	int32 misfire_limit = 0;
	std::string on_overlap;
	std::string created_by;
	Oid role = InvalidOid;		/* InvalidOid: there is no such role any more, or another one of that name */
	Oid role_then = InvalidOid; /* when it was made; it may have another name by now */
	bool governed = false;		/* not asked: what its role may do by now is */
	TimestampTz anchor = 0;
	std::optional<TimestampTz> next_run_at;
	std::optional<TimestampTz> last_run_at;
	std::optional<int64> last_task_id;
	std::vector<TimestampTz> held;
	bool paused = false;
	bool busy = false; /* its latest task is not finished */
	bool failing = false;
};

/* By people */

/* Locked. */
std::optional<Schedule> schedule_for_update(std::string_view name);
/* What fires, and how, is taken from "schedule"; its state, too. False if there is one of that name already. */
bool add_schedule(const Schedule &schedule);
/* Likewise, of one that is locked. */
void replace_schedule(const Schedule &schedule);
bool delete_schedule(std::string_view name);
void pause_schedule(std::string_view name);
void resume_schedule(std::string_view name, const std::optional<TimestampTz> &next_run_at);
/* Schedules that came from elsewhere become this installation's; returns how many. */
uint64 adopt_schedules();
/* Where tasks of a type go that name no queue. "own_queues" as in NewTask. */
std::string default_queue(std::string_view type, std::span<const std::string> own_queues);

/* Firing */

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
/* What is due, "each" for each role at most, in order of time. Locked; those that others have locked are passed over. */
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

/* limit_role() */
std::optional<int32> max_schedules(std::string_view role);
/* The role's, but for one; counts up to "most". */
int64 count_schedules(std::string_view role, std::string_view but, int64 most);

} // namespace jobqueue::store
