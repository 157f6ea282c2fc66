/*
 * limits.hpp -- the limits of a queue, a type or a group, and under which of them a task is counted. Plain data, any
 * region.
 */
#pragma once

#include "pg/clock.hpp"
#include "shared/state.hpp"
#include "shared/token_bucket.hpp"

namespace jobqueue {

/* A limit of a queue, a type or a group; 0 = none. */
struct Rule {
	int32 max_running = 0;
	Rate rate = {};
	SteadyTime changed_at = 0; /* new buckets are full if the rate was changed after the server's start, else empty */

	bool is_limit() const noexcept { return max_running > 0 || rate.is_limit(); }
};

enum class Counted { queue, type, group };
inline constexpr size_t counted_kinds = 3;

/* How a task is counted, and under which limits. */
struct Admission {
	int64 task;
	uint64 names[counted_kinds]; /* hash of each; 0 = there is no limit */
	Rule rules[counted_kinds];
	uint64 queue_hash = 0; /* for the announcement, as is the next one */
	char group[queue_name_size] = {};
	char queue[queue_name_size] = {};
	Oid role = InvalidOid; /* for which a running task is counted, if that is known */
};

} // namespace jobqueue
