/*
 * chore.cpp -- see chore.hpp. C++ region.
 */
#include "server/scheduler/chore.hpp"

#include "pg/debug.hpp"

namespace jobqueue::scheduler {

void Chore::poll() noexcept {
	poll_at_ = std::min(poll_at_, std::max({steady_now(), pass_.next(), backoff_.not_before()}));
}

DueTime Chore::due() const noexcept {
	DueTime due = backoff_.is_failing() ? DueTime() : next();
	due.steady = std::min({due.steady, asked_at_, poll_at_});
	return due;
}

static const char *text_of(Progress progress) noexcept {
	switch (progress) {
	case Progress::done:
		return "done";
	case Progress::more:
		return "more to do";
	default:
		return "failed";
	}
}

void Chore::run() {
	const SteadyTime began = steady_now();
	asked_at_ = poll_at_ = never; /* the step may ask for another one */
	progress_ = step();
	ran_at_ = steady_now();
	if (is_debugging(DEBUG3)) {
		const int64 took = ran_at_ - began;
		guard([this, took] {
			elog(DEBUG3, "jobqueue scheduler: %s: %s, " INT64_FORMAT " us", name_, text_of(progress_), took);
		});
	}
	if (progress_ == Progress::failed) {
		backoff_.failed(ran_at_);
		ask();
		return;
	}
	backoff_.succeeded();
	if (progress_ == Progress::more)
		ask(ran_at_);
	else if (retry_at() != never)
		ask(std::max(retry_at(), ran_at_ + shortest_retry_us));
}

Unfinished Chore::unfinished() const noexcept {
	return asked_at_ == never && poll_at_ > steady_now() ? Unfinished::nothing : Unfinished::some;
}

Unfinished BatchChore::unfinished() const noexcept {
	return aside_.next_time() == never ? Chore::unfinished() : Unfinished::set_aside;
}

} // namespace jobqueue::scheduler
