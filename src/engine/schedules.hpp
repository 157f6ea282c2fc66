/*
 * schedules.hpp -- the firing of schedules: which of their times have come, and the tasks that are added for them.
 *
 * C++ region. Used by the scheduler, in a transaction and a Session of its own: tasks and the schedule's next time are
 * committed together, so that each firing is one task whatever crashes.
 */
#pragma once

#include "engine/store/firing.hpp"
#include "pg/clock.hpp"

#include <map>
#include <set>

namespace jobqueue {

/*
 * A time that is longer ago than this counts as missed, although the server was running: nothing fired the schedule
 * then. Times before the database was served are missed in any case.
 */
inline constexpr int64 misfire_tolerance_us = USECS_PER_MINUTE;

/* What one step of firing has done: "count" schedules have been handled; "more": there may be others. */
struct Fired {
	int count;
	bool more;
};

/* What one step of correcting has done: it came up to this name. */
struct Corrected {
	std::string after;
	bool any = false;
	bool more = false;
};

class Schedules {
public:
	/*
	 * Fires what is due, for some milliseconds, and at most "count" schedules; the roles to which they belong take
	 * turns. "served_since": when this server began to run tasks here. A schedule that fails does not stop the others:
	 * it is passed over for some seconds, and the reason is in last_error and, once, in the log.
	 */
	Fired fire(Oid owner, TimestampTz served_since, int count);
	/*
	 * Corrects schedules that wait for a later time than their expression can give, because the clock was ahead when
	 * the time was computed: they then wait for their next time by the clock as it is now. Looks at so many schedules
	 * after a name, in their order.
	 */
	static Corrected correct(const std::string &after, int count);
	/* When there is something to fire next; DT_NOEND if never. */
	TimestampTz next();
	/*
	 * Somebody has announced that a schedule is due at this time. DT_NOBEGIN: all schedules may be due; also to be
	 * called when a transaction with fire() or next() has failed.
	 */
	void time_was_announced(TimestampTz at) noexcept;
	/* Tasks that hold back firings of their schedule until they end. */
	std::vector<int64> holding_tasks(int count);

private:
	class Rights;
	/* A role's schedules that are locked, failing or held back, and the count of its waiting tasks. */
	struct Role {
		TimestampTz from = DT_NOBEGIN; /* none that has not failed is due before this time */
		SteadyTime locked_until = at_once;
		SteadyTime retry_at = at_once; /* of those that failed */
		int64 delay_us = 0;
		std::string failing_after, held_after; /* names: the next ones come after them */
		std::string said;					   /* the latest problem in the log */
		SteadyTime said_at = at_once;		   /* since when "lines" lines were logged */
		int lines = 0;
		bool counted = false; /* its waiting tasks, if they are limited */
		int64 waiting = 0, counting = 0;
		int64 counted_to = PG_INT64_MIN;
	};
	static void fire_one(store::Schedule &schedule, TimestampTz now, TimestampTz served_since, Rights &rights);
	template <typename Pages>
	bool turn_pages(const std::vector<std::string> &roles, std::string Role::*place, Pages &&pages, int each,
					std::vector<std::string> &names);
	std::vector<store::Schedule> take(TimestampTz now, int count, bool &more);
	std::vector<store::DueRole> roles_due(std::span<const std::string> but);
	void count_waiting(const std::string &name, int64 limit);
	static void put_off(Role &role, SteadyTime now);
	std::vector<std::string> stuck(SteadyTime now) const;
	void report(const store::Schedule &schedule, Oid owner, const std::string &problem, int code);

	std::map<std::string, Role> roles_;
	std::map<std::string, Backoff> stuck_; /* schedules whose rows cannot be changed, not even last_error */
	std::string last_role_;				   /* the role whose schedule was the latest */
	size_t added_ = 0;					   /* tasks, added in this step */
	int in_step_ = 0;					   /* how many schedules the next step looks at */
};

} // namespace jobqueue
