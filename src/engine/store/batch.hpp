/*
 * batch.hpp -- which rows a chore takes at once. C++ region.
 */
#pragma once

#include "pg/session.hpp"

#include <span>

namespace jobqueue::store {

/*
 * What a chore takes at once: up to "count" rows in its order, without those in "except"; if "only" has any, only
 * these.
 */
struct Batch {
	int count;
	std::span<const int64> only = {};
	std::span<const int64> except = {};
};

/*
 * A place in the order of an index: a time, and for equal times the id. A pass over many rows remembers where it is:
 * what was taken before stays in the index until no transaction can see it any more, and would be read again and again.
 */
struct Place {
	TimestampTz time = DT_NOBEGIN;
	int64 id = PG_INT64_MIN;

	auto operator<=>(const Place &) const = default;
};
inline void add_place(Params &params, const Place &place) {
	params.add_time(place.time).add(place.id);
}

} // namespace jobqueue::store
