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
	/* The lane from which on to read: queues take turns, and the one after the last one served comes first. */
	size_t first(const KnownLanes &lanes) const;
	/* Is the order that of the lanes, from the first one on? */
	bool is_plain(const KnownLanes &lanes, const Throttling &throttling) const {
		return !lanes.has_groups() && !deferred_ && !throttling.has_order();
	}
	/*
	 * Else: which lanes to read, in this order. Queues with weights: the one that has had least, by its weight, or the
	 * one with the highest weight. In a queue: by priority, to which waiting adds where there is aging; tasks of
	 * groups, and those that belong to none, take turns.
	 */
	std::vector<size_t> order_of(const KnownLanes &lanes, const Throttling &throttling) const;

	/* Finds out since when lanes that may age wait. */
	static void note_waiting(KnownLanes &lanes, const Throttling &throttling);
	/* So many tasks of a lane were locked. */
	void served(const KnownLanes &lanes, const Throttling &throttling, KnownLane &known, size_t tasks);
	/* The call has what it wanted; the last of it was from this queue. */
	void ended_in(const std::string &queue) { last_queue_ = queue; }
	/* This lane comes first next time. */
	void defer(const store::Lane &lane) { deferred_ = lane; }
	void forget_deferred() noexcept { deferred_.reset(); }
	/* How much each queue has had counts no more. */
	void forget_passes() noexcept { passes_.clear(); }

private:
	std::string last_queue_;
	std::map<std::string, double, std::less<>> passes_; /* of queues with weights: how much each has had */
	std::optional<store::Lane> deferred_;
};

} // namespace jobqueue
