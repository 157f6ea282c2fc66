/*
 * claimer.hpp -- finds and locks the next tasks: goes through the known lanes (known_lanes.hpp) in their order
 * (lane_order.hpp), and reads each from its shared start position; lanes of groups with group_reader.hpp.
 *
 * Types under limits of their own are read separately: while their limits hold them back, the position of the other
 * types moves on.
 *
 * C++ region; lock(), has_work() and more_after() need a Session. There is one claimer for each worker, for each role
 * in the scheduler, for each backend that calls claim(), and for each call of drain().
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
	 * "remembers_quiet": the claimer is always used with the same scope, so a lane found empty is not read again until
	 * there is news; and tasks under limits are run one at a time, so it is of no use to lock more.
	 */
	explicit Claimer(bool remembers_quiet) : lanes_(remembers_quiet), remembers_quiet_(remembers_quiet) {}

	/* Reads what was announced since the last call. True if there may be something to claim. */
	bool absorb(const Scope &scope);
	/* When the first of the tasks that wait only for a time may be claimed; never if there are none. */
	SteadyTime next_time() const noexcept { return lanes_.next_time(); }
	/* Has anything been announced since absorb()? */
	bool is_behind() const noexcept { return shared() != nullptr && position_ != ring_head(); }
	/* Every lane is looked at again, because the scope or the pauses changed. */
	void forget_quiet() { lanes_.forget_quiet(); }

	/*
	 * Locks up to "count" tasks, of one queue or of all in turn, and puts aside those whose time has not come. Notes
	 * what is needed if the transaction aborts. "by_tid": the caller begins tasks by their tids, so that those without
	 * limits and groups need not be locked.
	 */
	Locked lock(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue, int count,
				bool by_tid = false);
	/*
	 * Is there anything to claim? Looks until that time, and no longer; none = it is not known by then. A claimer that
	 * remembers quiet lanes goes on with the other ones in the next call.
	 */
	std::optional<bool> has_work(const Scope &scope, const Conditions &conditions, SteadyTime until);
	/* Is there more than what was locked? */
	bool more_after(const Scope &scope, const Locked &locked);

	/* Did plain statements add tasks, as far as was absorbed since the last call? */
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
