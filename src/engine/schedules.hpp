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

class Schedules {
public:
	/*
	 * Fires what is due; "served_since": when this server began to run tasks here. One schedule that fails does not stop the others:
	 * it is passed over for some seconds, and says why in last_error and, once, in the log. True: there may be more.
	 */
	bool fire(Oid owner, TimestampTz served_since, int count);
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
