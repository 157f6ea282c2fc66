/*
 * schedule_firing.cpp -- see schedule_firing.hpp. C++ region.
 */
#include "server/scheduler/schedule_firing.hpp"

#include "engine/store/incarnation.hpp"

namespace jobqueue::scheduler {

/* Schedules in one transaction. */
static constexpr int most_in_step = 100;
static constexpr int most_corrected_in_step = 20;
/* Schedules that a session has locked are looked at again after this time. */
static constexpr int64 locked_again_us = USECS_PER_SEC / 10;
/* A schedule that waits for a task is looked at after this time anyway: not all can be watched, one may be deleted. */
static constexpr int64 held_again_us = USECS_PER_SEC;

void ScheduleFiring::look_for_news() {
	if (holding_.any())
		next_ = DT_NOBEGIN; /* the end of such a task may have woken this process */
}

void ScheduleFiring::time_was_announced(TimestampTz at) noexcept {
	schedules_.time_was_announced(at);
	next_ = std::min(next_, at);
}

Progress ScheduleFiring::step() {
	const auto served_since = static_cast<TimestampTz>(pg_atomic_read_u64(&db_.slot->served_since));
	TimestampTz next = next_;
	std::vector<int64> holding;
	bool more = false;
	const bool done = db_.attempt(name(), [&] {
		const TimestampTz began = GetCurrentTimestamp();
		const Fired fired = schedules_.fire(db_.owner, served_since, most_in_step);
		more = fired.more && fired.count > 0;
		holding = schedules_.holding_tasks(WatchedTasks::capacity);
		next = more ? DT_NOBEGIN : schedules_.next();
		const TimestampTz now = GetCurrentTimestamp();
		if (!more && next <= began)
			next = now + locked_again_us;
		if (!holding.empty())
			next = std::min(next, now + held_again_us);
	});
	if (!done) {
		look_at_all();
		return Progress::failed;
	}
	next_ = next;
	if (holding_.watch(std::move(holding)))
		next_ = DT_NOBEGIN; /* one of them may have ended before it was watched */
	return more ? Progress::more : Progress::done;
}

void ScheduleCorrection::clock_was_set() noexcept {
	pass_.ask();
	ask();
}

Progress ScheduleCorrection::step() {
	const SteadyTime began = steady_now();
	Corrected corrected = {.after = after_};
	const bool done = db_.attempt(name(), [&] {
		if (after_.empty())
			store::correct_installation(GetCurrentTimestamp());
		corrected = Schedules::correct(after_, most_corrected_in_step);
	});
	if (!done)
		return Progress::failed;
	pass_.worked_since(began);
	if (corrected.any)
		firing_.look_at_all();
	after_ = std::move(corrected.after);
	if (corrected.more)
		return Progress::more;
	after_.clear();
	pass_.end();
	return Progress::done;
}

} // namespace jobqueue::scheduler
