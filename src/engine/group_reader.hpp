/*
 * group_reader.hpp -- reads a lane of groups: one group after the other, in a circle, but first the groups of which
 * something was announced. A group from which nothing can be taken is not read again until something is announced of
 * it.
 *
 * C++ region; everything needs a Session. One is made for each lane that is read; what is known of the lane is in its
 * KnownLane.
 */
#pragma once

#include "engine/claim_pass.hpp"
#include "engine/lane_order.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/grouped_lanes.hpp"

namespace jobqueue {

class GroupReader {
public:
	GroupReader(KnownLanes &lanes, LaneOrder &order, KnownLane &known) : lanes_(lanes), order_(order), known_(known) {}

	/* Locks tasks of the lane until the pass has enough. */
	void read(ClaimPass &pass);
	/*
	 * Looks at all groups. If there are too many for that, the answer is yes, and the worker that is started for it may
	 * find no task.
	 */
	bool has_work(const Scope &scope, const Conditions &conditions);

private:
	/* Heads that may begin. */
	struct Admitted {
		std::vector<store::GroupHead> heads;
		std::vector<bool> limited; /* for each head: it is under limits of its own */
		size_t most_at_once = 1;   /* how many of one group, for claims from outside */
		bool any_limited = false;
		size_t seen = 0; /* how many of the given heads were looked at */
	};
	std::vector<store::GroupHead> read_heads(std::span<const std::string> groups, bool held);
	std::vector<store::GroupHead> next_heads(const std::string &after, int count, bool held, bool *last);
	void find_deep(std::span<store::GroupHead> heads, bool held);
	size_t groups_for(size_t tasks) const;
	bool is_wanted(const Scope &scope, std::string_view type, bool dead_letter) const;
	Admitted admit(ClaimPass &pass, std::span<const store::GroupHead> heads, SteadyTime *again_at);
	size_t take(ClaimPass &pass, std::span<const store::GroupHead> heads, SteadyTime *again_at);
	std::vector<bool> add(ClaimPass &pass, const Admitted &admitted, std::vector<store::Candidate> &candidates);
	void take_hinted(ClaimPass &pass, bool held, SteadyTime *again_at);
	bool take_next(ClaimPass &pass, bool held, SteadyTime *again_at);

	KnownLanes &lanes_;
	LaneOrder &order_;
	KnownLane &known_;
	GroupCursor &cursor_ = known_.groups;
};

} // namespace jobqueue
