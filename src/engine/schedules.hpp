/*
 * schedules.hpp -- the firing of schedules: which of their times have come, and the tasks that are added for them.
 *
 * C++ region. Used by the scheduler, in a transaction and a Session of its own: tasks and the schedule's next time are
 * committed together, so that each firing is one task whatever crashes.
 */
#pragma once

#include "engine/schedule_store.hpp"

#include <map>

namespace jobqueue {

/*
 * A time that is so long ago was missed: nobody was there to see it, though the server was running. What came before the
 * database was served was missed anyway.
 */
inline constexpr int64 misfire_tolerance_us = USECS_PER_MINUTE;

/* What one step of firing has done: "count" have been dealt with, and there may be more. */
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
	 * Fires what is due; "served_since": when this server began to run tasks here. One schedule that fails does not stop the others:
	 * it is passed over for some seconds, and says why in last_error and, once, in the log.
	 */
	Fired fire(Oid owner, TimestampTz served_since, int count);
	/*
	 * A schedule that waits for a time later than its expression can give, since the clock was ahead when that was
	 * computed, waits for its next time by the clock as it is now. So many schedules after a name, in their order.
	 */
	static Corrected correct(const std::string &after, int count);
	/* When there is something to fire next; DT_NOEND if never. */
	TimestampTz next() const;
	/* Tasks that hold back firings of their schedule: their ends are waited for. */
	static std::vector<int64> holding_tasks(int count) { return store::holding_tasks(count); }

private:
	struct Failure {
		TimestampTz retry_at;
		int64 delay_us;
	};
	void add_failure(const std::string &name);
	std::vector<std::string> failing(TimestampTz now) const;

	std::map<std::string, Failure> failures_;
};

} // namespace jobqueue
