/*
 * crash_recovery.hpp -- tasks whose worker has ended: they are charged with that, or given back. C++ region.
 *
 *   suspects   tasks that ran in the process whose end made the server restart (shared/flight_recorder.hpp)
 *   fused      tasks of a fused batch, which no other session has seen leave the queue (take_fused_death())
 *   orphans    tasks that are processing, claimed by a worker that has ended
 */
#pragma once

#include "server/scheduler/chore.hpp"

#include <deque>

namespace jobqueue::scheduler {

class CrashRecovery final : public BatchChore {
public:
	explicit CrashRecovery(ServedDatabase &database)
		: BatchChore(database, "give back the tasks of workers that ended", Urgency::prompt,
					 "take back from its worker") {}

	void look_for_news() override;
	void poll() noexcept override;
	void leave() noexcept override;

private:
	struct Orphan {
		int64 task;
		int32 attempt;
		bool charged;
		bool unknown_crash; /* its worker ended in a crash, and it could not be recorded which task caused that */
		Death death;		/* of its worker */
	};

	Progress step() override;
	bool charge_suspects();
	bool charge_fused(bool charged);
	bool find_orphans();
	void recover(const Orphan &orphan, bool &locked);

	SteadyTime ended_workers_at_ = never; /* when workers that have ended are dealt with */
	bool must_look_ = false;
	std::deque<Orphan> orphans_;
	size_t seen_ = 0;	  /* how many of them the present pass has looked at */
	bool locked_ = false; /* one of these was locked by a session */
};

} // namespace jobqueue::scheduler
