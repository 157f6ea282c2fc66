/*
 * dependency_resolution.hpp -- unblocks tasks that waited for others, and removes what was kept for them. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

class DependencyResolution final : public BatchChore {
public:
	explicit DependencyResolution(ServedDatabase &database)
		: BatchChore(database, "unblock tasks that waited for others", Urgency::prompt, "unblock") {}

	void look_for_news() override;
	void poll() noexcept override {} /* DependencySweep asks for it */
	DueTime next() const noexcept override { return {.steady = std::min(locked_again_at_, narrow_at_)}; }
	Unfinished unfinished() const noexcept override;
	void leave() noexcept override;

	/* All tasks that others wait for may have ended. */
	void look_at_all();
	/* The bounds of the ids of parents may be wider than they need to be. */
	void narrow_bounds() noexcept { narrow_at_ = at_once; }
	/* Have tasks that others may wait for ended a moment ago? Then the next ones may follow soon. */
	bool is_active() const noexcept;

private:
	Progress step() override;
	Progress resolve(SteadyTime began);
	void take_up(const IdRanges &ids);

	IdRanges ended_;				/* tasks that may have ended, and that others may wait for */
	int64 parent_ = 0, child_ = -1; /* how far the first of these ranges has been dealt with */
	IdRanges locked_;				/* such tasks again, where a task that waits was locked */
	SteadyTime locked_again_at_ = never;
	SteadyTime narrow_at_ = at_once;
	SteadyTime ended_at_ = at_once;
};

/* A pass over all tasks that wait or have waited: it finds what nobody announced, and removes what nobody needs. */
class DependencySweep final : public BatchChore {
public:
	DependencySweep(ServedDatabase &database, DependencyResolution &resolution)
		: BatchChore(database, "remove what was kept for tasks that waited", Urgency::in_turns,
					 "forget the parents of"),
		  resolution_(resolution) {}

private:
	Progress step() override;
	SteadyTime retry_at() const noexcept override { return std::max(BatchChore::retry_at(), pass_.next()); }
	Progress sweep();

	DependencyResolution &resolution_;
	std::optional<int64> swept_; /* the present pass has come to this task */
};

} // namespace jobqueue::scheduler
