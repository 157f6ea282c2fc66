/*
 * schedules.hpp -- the statements about jobqueue.schedules, except those that fire them.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

struct Schedule {
	std::string name;
	std::string cron;
	std::string type;
	/* What the schedule adds. It may be long, so reading schedules leaves it out: fetch_contents() gets it. */
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
	Oid role = InvalidOid;		  /* InvalidOid: there is no such role any more, or another one of that name */
	Oid role_then = InvalidOid;	  /* the role when it was made, perhaps with another name by now */
	bool bound_by_access = false; /* not asked: what its role may do by now is */
	TimestampTz anchor = 0;
	std::optional<TimestampTz> next_run_at;
	std::optional<TimestampTz> last_run_at;
	std::optional<int64> last_task_id;
	std::vector<TimestampTz> held;
	bool paused = false;
	bool busy = false; /* its latest task is not finished */
	bool failing = false;
};

/* Locks the schedule. */
std::optional<Schedule> schedule_for_update(std::string_view name);
/* Takes what fires, how, and its state from "schedule". False if there is one of that name already. */
bool add_schedule(const Schedule &schedule);
/* The same for an existing schedule, which is locked. */
void replace_schedule(const Schedule &schedule);
bool delete_schedule(std::string_view name);
void pause_schedule(std::string_view name);
void resume_schedule(std::string_view name, const std::optional<TimestampTz> &next_run_at);
/* Schedules that came from elsewhere become this installation's; returns how many. */
uint64 adopt_schedules();
/* The queue of tasks of a type that name none. "own_queues" as in NewTask. */
std::string default_queue(std::string_view type, std::span<const std::string> own_queues);

/* How many schedules limit_role() allows the role. */
std::optional<int32> max_schedules(std::string_view role);
/* How many schedules the role has, except one; counts up to "most". */
int64 count_schedules(std::string_view role, std::string_view but, int64 most);

/* For stores: reads phrase::select_schedules. */
std::vector<Schedule> schedules_from(const Rows &rows);

} // namespace jobqueue::store
