/*
 * overdue_handlers.hpp -- ends worker processes whose handler goes on although its time is up or its task was
 * cancelled. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

/*
 * After jobqueue.timeout_grace such a process is told to end. A process that does not even do that is stuck: this is
 * reported, another worker takes its place, and it is killed if jobqueue.kill_stuck is on.
 */
class OverdueHandlers final : public Chore {
public:
	explicit OverdueHandlers(ServedDatabase &database) noexcept
		: Chore(database, "end overdue handlers", Urgency::prompt) {}

	void look_for_news() override { ask(); }
	DueTime next() const noexcept override { return {.steady = next_}; }

private:
	Progress step() override;
	/* When to look at this worker again; never, if there is no need to. */
	SteadyTime look_at(WorkerSlot &worker, SteadyTime now);

	SteadyTime next_ = never;
};

} // namespace jobqueue::scheduler
