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
	bool grouped = false; /* for tasks that belong to groups, or for those that do not */
	/* Compares queues bytewise, as in the index. */
	friend auto operator<=>(const Lane &, const Lane &) = default;
};

struct LaneHead {
	Lane lane;
	int64 id;
};
/* The first pending task of each of the next lanes after this queue and priority, in order. */
std::vector<LaneHead> lane_heads(bool grouped, std::string_view queue, int32 priority, int count);

/*
 * Lanes that have pending tasks and are not among the known ones, which are sorted. Of each queue, only a few lanes are
 * looked at, the most urgent ones, however many priorities there are: "ends" says up to which they are known.
 */
inline constexpr int lanes_at_once = 32;
using QueueEnds = std::map<std::string, int32, std::less<>>;
struct DiscoveredLanes {
	std::vector<Lane> lanes = {};
	QueueEnds ends = {};	   /* of queues that have more: all up to these priorities are known now */
	bool from_scratch = false; /* these are all lanes: what was known of the ends is void */
};
DiscoveredLanes discover_lanes(std::span<const Lane> known, const QueueEnds &ends);
/* The next lanes of a queue that have wanted tasks. */
struct LanesAhead {
	std::vector<int16> priorities = {};
	std::optional<int32> end = {}; /* what was looked at ends here; none = there are no more */
};
LanesAhead lanes_ahead(std::string_view queue, int32 after, bool grouped, const TypeFilter &filter);

} // namespace jobqueue::store
