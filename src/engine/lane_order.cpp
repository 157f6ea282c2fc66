/*
 * lane_order.cpp -- see lane_order.hpp. C++ region.
 */
#include "engine/lane_order.hpp"

#include "engine/store/candidates.hpp"
#include "pg/settings.hpp"

namespace jobqueue {

size_t LaneOrder::first(const KnownLanes &lanes) const {
	return static_cast<size_t>(
		std::upper_bound(lanes.begin(), lanes.end(), last_queue_,
						 [](const std::string &queue, const KnownLane &known) { return queue < known.lane.queue; }) -
		lanes.begin());
}

/* Sorts lanes of one queue by priority and age. */
static void sort_queue(std::span<size_t> order, const KnownLanes &lanes, const Throttling &throttling) {
	const QueueThrottling *const of_queue = throttling.queue(lanes[order[0]].lane.queue);
	const int64 aging_us = of_queue ? of_queue->aging_us : 0;
	const bool groups_first = lanes.turn() % 2 == 1;
	const SteadyTime now = steady_now();
	const auto rank = [&](size_t i) {
		const KnownLane &known = lanes[i];
		const int64 aged = aging_us > 0 && known.waiting_since > 0 ? (now - known.waiting_since) / aging_us : 0;
		return std::pair(known.lane.priority - aged, known.lane.grouped != groups_first);
	};
	std::stable_sort(order.begin(), order.end(), [&rank](size_t a, size_t b) { return rank(a) < rank(b); });
}

std::vector<size_t> LaneOrder::order_of(const KnownLanes &lanes, const Throttling &throttling) const {
	std::vector<size_t> order;
	order.reserve(lanes.size());
	const size_t begin = first(lanes);
	for (size_t i = 0; i < lanes.size(); i++) {
		const size_t which = (begin + i) % lanes.size();
		if (!lanes[which].is_quiet())
			order.push_back(which);
	}
	for (size_t from = 0, to; from < order.size(); from = to) {
		to = from + 1;
		const uint64 queue_hash = lanes[order[from]].queue_hash;
		while (to < order.size() && lanes[order[to]].queue_hash == queue_hash)
			to++;
		if (to > from + 1)
			sort_queue(std::span(order).subspan(from, to - from), lanes, throttling);
	}
	if (throttling.has_weights()) {
		const auto weight_of = [&](size_t i) {
			const QueueThrottling *const of_queue = throttling.queue(lanes[i].lane.queue);
			return of_queue ? of_queue->weight : 1;
		};
		const auto pass_of = [&](size_t i) {
			const auto found = passes_.find(lanes[i].lane.queue);
			return found == passes_.end() ? 0.0 : found->second;
		};
		const bool strict = settings::queue_order == static_cast<int>(QueueOrder::strict);
		std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
			return strict ? weight_of(a) > weight_of(b) : pass_of(a) < pass_of(b);
		});
	}
	if (deferred_)
		std::stable_partition(order.begin(), order.end(), [&](size_t i) { return lanes[i].lane == *deferred_; });
	return order;
}

void LaneOrder::note_waiting(KnownLanes &lanes, const Throttling &throttling) {
	for (KnownLane &known : lanes) {
		const QueueThrottling *const of_queue = throttling.queue(known.lane.queue);
		if (known.waiting_since == 0 && !known.main.quiet && of_queue && of_queue->aging_us > 0)
			known.waiting_since = steady_time_of(store::waiting_since(known.lane));
	}
}

void LaneOrder::served(const KnownLanes &lanes, const Throttling &throttling, KnownLane &known, size_t tasks) {
	known.waiting_since = steady_now();
	if (!throttling.has_weights())
		return;
	/* A queue that had nothing to do for a while does not get later what it did not need then. */
	const QueueThrottling *const of_queue = throttling.queue(known.lane.queue);
	double least = std::numeric_limits<double>::max();
	for (const KnownLane &other : lanes)
		if (const auto found = passes_.find(other.lane.queue); found != passes_.end() && !other.main.quiet)
			least = std::min(least, found->second);
	double &pass = passes_[known.lane.queue];
	if (least < std::numeric_limits<double>::max())
		pass = std::max(pass, least);
	pass += static_cast<double>(tasks) / (of_queue ? of_queue->weight : 1);
}

} // namespace jobqueue
