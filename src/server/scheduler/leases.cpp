/*
 * leases.cpp -- see leases.hpp. C++ region.
 */
#include "server/scheduler/leases.hpp"

#include "engine/outcome.hpp"
#include "engine/store/claims.hpp"

namespace jobqueue::scheduler {

/* An expired lease whose task is locked by a session is looked at again after this time. */
static constexpr int64 locked_again_us = USECS_PER_SEC;

store::Page Leases::look(const store::Cursor &cursor, TimestampTz now, const store::Batch &rows) {
	return store::expired(cursor, now, rows);
}

int64 Leases::take(std::span<const int64> ids, TimestampTz now) {
	return end_expired(ids, now);
}

Leases::NextPass Leases::next_pass(const store::Place &from, const store::Place &, TimestampTz now,
								   const store::Batch &rows) {
	const TimestampTz next = store::next_lease(from, rows.except);
	return {{next}, next <= now ? now + locked_again_us : next};
}

} // namespace jobqueue::scheduler
