/*
 * leases.hpp -- tasks whose lease has expired go back to their queue, or fail. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

class Leases final : public BatchChore {
public:
	explicit Leases(ServedDatabase &database)
		: BatchChore(database, "take back expired leases", Urgency::prompt, "take back the lease of") {}

	void time_was_announced(TimestampTz at) noexcept override { next_ = std::min(next_, at); }
	void poll() noexcept override { next_ = DT_NOBEGIN; }
	void clock_was_set() noexcept override { next_ = DT_NOBEGIN; }
	DueTime next() const noexcept override { return {.wall = next_}; }

private:
	Progress step() override;
	Progress expire();

	TimestampTz next_ = DT_NOBEGIN;
};

} // namespace jobqueue::scheduler
