/*
 * history.hpp -- the ring of leaves that keeps completed tasks: one is filled, the oldest one is emptied. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

/* A new leaf is begun after each seventh part of jobqueue.completed_retention: by then the next leaf is old enough. */
class History final : public Chore {
public:
	explicit History(ServedDatabase &database) noexcept : Chore(database, "turn the history", Urgency::in_turns) {}

	void clock_was_set() noexcept override { ask(); }

private:
	/* A leaf that cannot be emptied at once, because a session has a lock on it. */
	struct HeldLeaf {
		int leaf = 0;
		SteadyTime since = at_once, next_wait = at_once;
		bool thinning = false; /* its rows are now removed one by one */
		int64 thinned = 0;	   /* up to this id */
	};

	Progress step() override;
	Progress empty(bool turn);
	bool truncate(bool turn);
	Progress thin(bool turn);
	void report_holders();

	HeldLeaf held_;
};

} // namespace jobqueue::scheduler
