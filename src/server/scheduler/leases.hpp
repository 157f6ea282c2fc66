/*
 * leases.hpp -- tasks whose lease has expired go back to their queue, or fail. C++ region.
 */
#pragma once

#include "server/scheduler/timed_chore.hpp"

namespace jobqueue::scheduler {

class Leases final : public TimedChore {
public:
	explicit Leases(ServedDatabase &database)
		: TimedChore(database, "take back expired leases", "take back the lease of") {}

private:
	store::Page look(const store::Cursor &cursor, TimestampTz now, const store::Batch &rows) override;
	int64 take(std::span<const int64> ids, TimestampTz now) override;
	NextPass next_pass(const store::Place &from, const store::Place &to, TimestampTz now,
					   const store::Batch &rows) override;
};

} // namespace jobqueue::scheduler
