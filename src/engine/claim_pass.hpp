/*
 * claim_pass.hpp -- one call of Claimer::lock(): what is wanted, and what has been locked so far. C++ region.
 */
#pragma once

#include "engine/known_lanes.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/lanes.hpp"

namespace jobqueue {

/* How soon to look again if nobody has counted yet what is running, or the counts are not what the table says. */
inline constexpr int64 before_counting_us = 5000;

struct Locked {
	std::vector<store::Candidate> tasks; /* in claim order */
	std::vector<store::Lane> lanes;		 /* of the tasks, by their "lane" */
	IdRanges unread;					 /* ids in the last lane among which there may be more */

	bool empty() const noexcept { return tasks.empty(); }
	const store::Lane &lane_of(const store::Candidate &task) const { return lanes[task.lane]; }
};

struct ClaimPass {
	const Scope &scope;
	const Conditions &conditions;
	const size_t count;
	const bool by_tid;
	const int64 most_bytes;

	Locked locked = {};
	std::vector<int64> early = {};
	std::optional<TimestampTz> due = {}; /* when the first of the early tasks is due */
	int64 bytes = 0;
	bool enough = false;
	bool too_large = false; /* the next task is too large to be taken with the others */

	bool is_full() const { return too_large || locked.tasks.size() >= count; }
	size_t missing() const { return enough || too_large ? 0 : count - locked.tasks.size(); }
	/* There is always room for the first task, however large it is. */
	bool has_room_for(const store::Candidate &candidate) {
		too_large |= bytes > 0 && bytes + candidate.bytes > most_bytes;
		if (!too_large)
			bytes += candidate.bytes;
		return !too_large;
	}
	/* Has the task's time not come? Then notes it, to be put aside. */
	bool is_early(const store::Candidate &candidate) {
		if (candidate.not_before) {
			early.push_back(candidate.id);
			due = std::min(due.value_or(DT_NOEND), *candidate.not_before);
		}
		return candidate.not_before.has_value();
	}
	void add(const KnownLane &known, store::Candidate candidate) {
		if (locked.lanes.empty() || !(locked.lanes.back() == known.lane))
			locked.lanes.push_back(known.lane);
		candidate.lane = static_cast<uint32>(locked.lanes.size() - 1);
		locked.tasks.push_back(std::move(candidate));
	}
};

} // namespace jobqueue
