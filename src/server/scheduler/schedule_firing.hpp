/*
 * schedule_firing.hpp -- adds the tasks of schedules when their times come, and keeps these times right. C++ region.
 */
#pragma once

#include "engine/schedules.hpp"
#include "server/scheduler/chore.hpp"
#include "server/watched_tasks.hpp"

namespace jobqueue::scheduler {

class ScheduleFiring final : public Chore {
public:
	explicit ScheduleFiring(ServedDatabase &database) noexcept : Chore(database, "fire schedules", Urgency::prompt) {}

	void look_for_news() override;
	void time_was_announced(TimestampTz at) noexcept override;
	void poll() noexcept override { look_at_all(); }
	void clock_was_set() noexcept override { look_at_all(); }
	DueTime next() const noexcept override { return {.wall = next_}; }

	void look_at_all() noexcept { time_was_announced(DT_NOBEGIN); }

private:
	Progress step() override;

	Schedules schedules_;
	WatchedTasks holding_; /* tasks whose end lets a schedule fire */
	TimestampTz next_ = DT_NOBEGIN;
};

/*
 * If a schedule's next time is later than its expression can give now, the clock was ahead when it was computed. Such a
 * schedule gets its next time by the clock as it is now.
 */
class ScheduleCorrection final : public Chore {
public:
	ScheduleCorrection(ServedDatabase &database, ScheduleFiring &firing) noexcept
		: Chore(database, "correct the times of schedules", Urgency::in_turns), firing_(firing) {}

	void clock_was_set() noexcept override;

private:
	Progress step() override;

	ScheduleFiring &firing_;
	std::string after_; /* the present pass has come to this name */
};

} // namespace jobqueue::scheduler
