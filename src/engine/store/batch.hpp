/*
 * batch.hpp -- how many rows a chore takes at once, and which.
 */
#pragma once

#include "pg/server.hpp"

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

} // namespace jobqueue::store
