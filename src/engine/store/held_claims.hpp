/*
 * held_claims.hpp -- claims from outside, by the tids of their rows: begun by an update and, without history, completed
 * by a delete, for which no statement is needed. For that, a backend remembers where the rows of its claims are. This
 * is only a hint: each row is looked at before it is touched. Called by attempts.cpp and outcome.cpp, which have the
 * statements for everybody else.
 *
 * C++ region; needs a Session.
 */
#pragma once

#include "engine/store/candidates.hpp"

namespace jobqueue::store {

/* Can the table's rows be changed without a statement? The answer holds until the transaction ends. */
bool may_begin_by_tid();

/*
 * Begins these tasks, which have no handler; those without max_attempts get 20. Returns their rows in this order, null
 * for tasks that were not locked and belong to others by now; nothing if a statement is needed.
 */
std::optional<std::vector<HeapTuple>> begin_by_tid(std::span<const Candidate> tasks, TimestampTz lease,
												   std::string_view claimed_by);

/*
 * Completes those claims that this backend has begun, leaving no row. Returns their ids; the others stay as they were.
 */
std::vector<int64> complete_by_tid(std::span<const int64> ids, std::span<const int32> attempts);

} // namespace jobqueue::store
