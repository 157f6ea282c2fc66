/*
 * due_tasks.hpp -- scheduled tasks whose time has come become pending. C++ region.
 */
#pragma once

#include "server/scheduler/timed_chore.hpp"

namespace jobqueue::scheduler {

class DueTasks final : public TimedChore {
public:
	explicit DueTasks(ServedDatabase &database) : TimedChore(database, "make scheduled tasks due", "make due") {}

	/* No scheduled task is due before this place, except those that were set aside. */
	const store::Place &from() const noexcept { return cursor_.after(); }
	std::vector<int64> set_aside() const { return aside_.all(); }

private:
	store::Page look(const store::Cursor &cursor, TimestampTz now, const store::Batch &rows) override;
	int64 take(std::span<const int64> ids, TimestampTz now) override;
	NextPass next_pass(const store::Place &from, const store::Place &to, TimestampTz now,
					   const store::Batch &rows) override;
};

/*
 * While more tasks are due than one step takes, this chore takes some of each queue: they start in time, however many
 * were due before them, or became due after them, in other queues. It looks at those that became due last, and, a page
 * further in each step, at those before.
 */
class LatestDueTasks final : public Chore {
public:
	LatestDueTasks(ServedDatabase &database, const DueTasks &all) noexcept
		: Chore(database, "make due what has become due last", Urgency::prompt), all_(all) {}

	DueTime next() const noexcept override { return {.steady = all_.has_more() ? again_at_ : never}; }

private:
	Progress step() override;
	std::optional<store::Place> take_page(const store::Place &before, int page);

	const DueTasks &all_;
	std::optional<store::Place> older_; /* the pages from here on have been looked at */
	SteadyTime again_at_ = at_once;
};

} // namespace jobqueue::scheduler
