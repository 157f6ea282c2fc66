/*
 * grouped_lanes.hpp -- the statements that find and lock the pending tasks of groups.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/candidates.hpp"

namespace jobqueue::store {

/* The first pending task of a group, in a lane of groups. */
struct GroupHead {
	std::string group;
	int64 id;
	std::string type;
	bool dead_letter;
	bool held;				  /* it waits for its next attempt, and the others for it */
	int64 low = PG_INT64_MIN; /* there is nothing before this id */
};
/*
 * The heads of up to "count" groups whose keys are between these two, in the order of the keys. What lies beyond is not
 * read. "held": a task that waits for its next attempt keeps its place.
 */
std::vector<GroupHead> group_heads(const Lane &lane, std::string_view after, std::optional<std::string_view> before,
								   int count, bool held);
/* The heads of these groups, where nothing is before the given ids. */
std::vector<GroupHead> heads_of(const Lane &lane, std::span<const std::string> groups, std::span<const int64> lows,
								bool held);
/*
 * Locks up to "each" tasks of each of these groups, in their order from the head on. Tasks that cannot be taken in this
 * order, because the head is another one by now, or locked, are "passed". The filter is not applied to them.
 */
std::vector<Candidate> lock_in_groups(const Lane &lane, std::span<const GroupHead> heads, const TypeFilter &filter,
									  int each, bool held);

} // namespace jobqueue::store
