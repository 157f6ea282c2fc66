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

	void time_was_announced(TimestampTz at) noexcept override;
	void poll() noexcept override;
	void clock_was_set() noexcept override { look_at_all(); }
	DueTime next() const noexcept override { return {.wall = next_}; }

private:
	Progress step() override;
	Progress expire();
	void look_at_all() noexcept { time_was_announced(DT_NOBEGIN); }

	store::Place from_;	   /* no lease ends before this */
	store::Cursor cursor_; /* of the present pass */
	TimestampTz next_ = DT_NOBEGIN;
};

} // namespace jobqueue::scheduler
