/*
 * notifications.hpp -- reads what transactions have announced, and sends one NOTIFY for many of them. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

#include <set>

namespace jobqueue::scheduler {

class Notifications final : public Chore {
public:
	explicit Notifications(ServedDatabase &database) noexcept
		: Chore(database, "send NOTIFY", Urgency::prompt), position_(pg_atomic_read_u64(&database.slot->notified)) {}

	void look_for_news() override;
	void poll() noexcept override {}
	DueTime next() const noexcept override { return {.steady = queues_.empty() ? never : next_}; }
	Unfinished unfinished() const noexcept override {
		return queues_.empty() ? Unfinished::nothing : Unfinished::urgent;
	}

private:
	Progress step() override;

	uint64 position_;			   /* in the ring of announcements */
	uint64 kept_up_ = 0;		   /* the position at the latest keep_positions() */
	std::set<std::string> queues_; /* to be named; an empty name stands for others */
	SteadyTime next_ = at_once;
};

} // namespace jobqueue::scheduler
