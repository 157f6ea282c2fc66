/*
 * claimer.hpp -- finds and locks the next tasks: goes through the known lanes (known_lanes.hpp) in their order
 * (lane_order.hpp), and reads each from its shared start position; lanes of groups with group_reader.hpp.
 *
 * Types under limits of their own are read by themselves: while they are held back, the position of the others moves
 * on.
 *
 * C++ region; lock(), has_work() and more_after() need a Session. One for each worker, for each role in the scheduler,
 * and for each backend that calls claim().
 */
#pragma once

#include "engine/claim_pass.hpp"
#include "engine/lane_order.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/pauses.hpp"
#include "shared/positions.hpp"
#include "shared/ring.hpp"

namespace jobqueue {

class Claimer {
public:
	/*
	 * "remembers_quiet": always used with the same scope, so that a lane found empty is left alone until news come; and
	 * tasks under limits are run one at a time, so that there is no use in locking more.
	 */
	explicit Claimer(bool remembers_quiet) : lanes_(remembers_quiet), remembers_quiet_(remembers_quiet) {}

	/* Takes in what was announced. True if there may be something to claim. */
	bool absorb(const Scope &scope);
	/* When there may be something to claim that is only waiting for its time; never if nothing is. */
	SteadyTime next_time() const noexcept { return lanes_.next_time(); }
	/* Has anything been announced since absorb()? */
	bool is_behind() const noexcept { return shared() != nullptr && position_ != ring_head(); }
	/* Looks at every lane again: the scope or the pauses changed. */
	void forget_quiet() { lanes_.forget_quiet(); }

	/*
	 * Locks up to "count" tasks, of one queue or of all in turn, and puts aside those whose time has not come. Notes
	 * what is needed if the transaction aborts. "by_tid": for who begins them by their tids, those without limits and
	 * groups need not be locked.
	 */
	Locked lock(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue, int count,
				bool by_tid = false);
	/*
	 * Is there anything to claim? Looks until that time, and no longer: none = not found out yet. The next call goes on
	 * with the lanes that have not been looked at, if it remembers those that had nothing.
	 */
	std::optional<bool> has_work(const Scope &scope, const Conditions &conditions, SteadyTime until);
	/* Is there more than what was locked? */
	bool more_after(const Scope &scope, const Locked &locked);

	/* Of the announcements absorbed since the last call: did plain statements add tasks? */
	bool took_statements() { return std::exchange(statements_, false); }

private:
	template <typename Visit>
	bool visit_ahead(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
					 Visit &&visit);
	void read_ahead(ClaimPass &pass, const std::optional<std::string> &queue);
	bool is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const;
	bool read_lane(ClaimPass &pass, KnownLane &known);
	size_t admissible(const ClaimPass &pass, KnownLane &known, size_t which, const QueueThrottling *of_queue,
					  const TypeThrottling *of_type);
	bool may_begin(const ClaimPass &pass, const KnownLane &known, size_t which, const store::Candidate &candidate);
	void read_tasks(ClaimPass &pass, KnownLane &known, size_t which);
	bool has_work_in(const Scope &scope, const Conditions &conditions, KnownLane &known, LaneState &state);

	KnownLanes lanes_;
	LaneOrder order_;
	std::string last_ahead_; /* the queue whose further lanes were looked at last */
	uint64 position_ = 0;	 /* in the ring of announcements */
	bool started_ = false;
	bool statements_ = false;
	const bool remembers_quiet_;
};

} // namespace jobqueue
