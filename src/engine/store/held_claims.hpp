/*
 * held_claims.hpp -- claims from outside, by the places of their rows: begun by an update and, without history,
 * completed by a delete that no statement is needed for. For that, a backend remembers where the rows of its claims
 * are; what it remembers is a hint, and each row is looked at before it is touched. Called by attempts.cpp and
 * outcome.cpp, which have the statements for everybody else.
 *
 * C++ region; needs a Session.
 */
#pragma once

#include "engine/store/candidates.hpp"

namespace jobqueue::store {

/* Or does it take a statement to change the table's rows? Until the transaction ends. */
bool may_begin_by_tid();

/*
 * Begins these tasks, which have no handler: 20 attempts where they do not say. Their rows, in this order, null for
 * those that were not locked and are somebody else's by now; nothing where it takes a statement.
 */
std::optional<std::vector<HeapTuple>> begin_by_tid(std::span<const Candidate> tasks, TimestampTz lease,
												   std::string_view claimed_by);

/* Completes those that this backend has begun, leaving no row. Returns them; the others are as they were. */
std::vector<int64> complete_by_tid(std::span<const int64> ids, std::span<const int32> attempts);

} // namespace jobqueue::store
