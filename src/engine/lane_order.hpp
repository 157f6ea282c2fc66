/*
 * lane_order.hpp -- in which order a claimer reads the lanes: queues take turns, or have weights; within a queue, by
 * priority and by how long a lane has waited. C++ region; note_waiting() needs a Session.
 */
#pragma once

#include "engine/known_lanes.hpp"
#include "engine/store/lanes.hpp"

namespace jobqueue {

class LaneOrder {
public:
	/* The index of the lane to read first: queues take turns, and the queue after the one served last comes first. */
	size_t first(const KnownLanes &lanes) const;
	/* Is the order simply that of the lanes, from first() on? */
	bool is_plain(const KnownLanes &lanes, const Throttling &throttling) const {
		return !lanes.has_groups() && !deferred_ && !throttling.has_order();
	}
	/*
	 * If the order is not plain: which lanes to read, in this order. Of queues with weights, the one that has had least
	 * for its weight comes first; or, if the order is strict, the one with the highest weight. In a queue: by priority,
	 * which waiting improves where there is aging; lanes with and without groups take turns.
	 */
	std::vector<size_t> order_of(const KnownLanes &lanes, const Throttling &throttling) const;

	/* Finds out since when lanes of queues with aging have waited. */
	static void note_waiting(KnownLanes &lanes, const Throttling &throttling);
	/* So many tasks of the lane were locked. */
	void served(const KnownLanes &lanes, const Throttling &throttling, KnownLane &known, size_t tasks);
	/* The call has all tasks that it wanted; the last one was from this queue. */
	void ended_in(const std::string &queue) { last_queue_ = queue; }
	/* This lane comes first next time. */
	void defer(const store::Lane &lane) { deferred_ = lane; }
	void forget_deferred() noexcept { deferred_.reset(); }
	/* Forgets how much each queue has had. */
	void forget_passes() noexcept { passes_.clear(); }

private:
	std::string last_queue_;
	std::map<std::string, double, std::less<>> passes_; /* of queues with weights: how much each has had */
	std::optional<store::Lane> deferred_;
};

} // namespace jobqueue
