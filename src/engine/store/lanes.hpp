/*
 * lanes.hpp -- the statements that find lanes: queues and priorities that have pending tasks.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/type_filter.hpp"
#include "pg/session.hpp"

#include <map>

namespace jobqueue::store {

struct Lane {
	std::string queue;
	int16 priority;
	bool grouped = false; /* of the tasks that belong to groups, or of those that do not */
	/* Queues bytewise, as in the index. */
	friend auto operator<=>(const Lane &, const Lane &) = default;
};

struct LaneHead {
	Lane lane;
	int64 id;
};
/* The first pending task of each lane of so many queues, those after the given one. Sorted. */
std::vector<LaneHead> lane_heads(bool grouped, std::string_view after, int queues);

/*
 * Lanes that have pending tasks and are not among the known ones, which are sorted. However many priorities somebody
 * makes, a few of each queue are looked at, the most urgent ones: "ends" says up to which they are known.
 */
inline constexpr int lanes_at_once = 32;
using QueueEnds = std::map<std::string, int32, std::less<>>;
struct DiscoveredLanes {
	std::vector<Lane> lanes = {};
	QueueEnds ends = {};	   /* of queues that have more: all up to these priorities are known now */
	bool from_scratch = false; /* and there are no others: what was known of the ends is void */
};
DiscoveredLanes discover_lanes(std::span<const Lane> known, const QueueEnds &ends);
/* The next lanes of a queue that have something that is wanted. */
struct LanesAhead {
	std::vector<int16> priorities = {};
	std::optional<int32> end = {}; /* so far it has been looked; none = there are no more */
};
LanesAhead lanes_ahead(std::string_view queue, int32 after, bool grouped, const TypeFilter &filter);

} // namespace jobqueue::store
